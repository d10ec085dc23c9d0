/* What attention of many queries is asked for, and keys and values packed for its matrix units: as
 * many spans and key heads as go together. Legend: see prompt.c. */

#ifndef CAIRN_PROMPT_KEYS_C
#define CAIRN_PROMPT_KEYS_C

#include "tiles.c"

/* Queries that see keys up to their own. */
typedef struct {
    int64_t first, count; /* tokens */
    int64_t place;        /* of key 0: outside of memory where no query sees that far */
    int64_t past;         /* keys before the first query's own */
} Asking;

typedef struct {
    const char *q, *k, *v; /* bf16 [T, H, P] and [places, KV, P] */
    char *y;               /* bf16 [T, H, P] */
    const Asking *spans;   /* [S], none of them empty */
    int64_t q_apart, k_apart, v_apart; /* elements from token to token */
    int64_t S, H, KV, P;
    int64_t window;        /* keys that a query sees, its own included, below 2^31; 0: all */
    int64_t threads;
} Prompt;

#ifdef HAVE_TILES

#define GROUP 32        /* keys that a product with values takes */
#define ROOM (16 << 20) /* bytes of packed keys and values, where one head of a span needs no more */

/* Keys of one span and key head, packed, and the queries that look at them. */
typedef struct {
    const Asking *span;
    ptrdiff_t head;
    ptrdiff_t seen, stop; /* keys that a query sees */
    ptrdiff_t low;        /* the first that is packed, a multiple of GROUP */
    ptrdiff_t columns;
    char *keys, *values;
} Pair;

static ptrdiff_t up_to(ptrdiff_t n, ptrdiff_t step) { return (n + step - 1) / step * step; }

static Pair pair_of(const Prompt *d, ptrdiff_t i)
{
    const Asking *span = d->spans + i / d->KV;
    ptrdiff_t begin = d->window ? span->past - d->window + 1 : 0;
    ptrdiff_t seen = begin > 0 ? begin : 0;
    return (Pair){
        .span = span, .head = i % d->KV,
        .seen = seen, .stop = span->past + span->count, .low = seen / GROUP * GROUP,
        .columns = span->count * (d->H / d->KV),
    };
}

/* Bytes of its keys, and of its values. */
static ptrdiff_t pair_bytes(const Prompt *d, const Pair *p)
{
    return up_to(p->stop - p->low, GROUP) * d->P * 2;
}

/* The pair behind the last that go together from `first` on: those that fit into ROOM, or one. */
static ptrdiff_t together(const Prompt *d, ptrdiff_t first, size_t *bytes)
{
    ptrdiff_t i = first, all = d->S * d->KV;
    *bytes = 0;
    for (; i < all; i++) {
        Pair p = pair_of(d, i);
        size_t more = (size_t)(2 * pair_bytes(d, &p));
        if (i > first && *bytes + more > ROOM) break;
        *bytes += more;
    }
    return i;
}

/* GROUP keys from `at` on as [P / DEEP][2] tiles, and their values turned as [P / 16] tiles, those
 * of two keys side by side; zeros stand for keys that no query sees. */
WITH_TILES static void pack_group(const Prompt *d, const Pair *p, ptrdiff_t at)
{
    const __m512i low = _mm512_set_epi16(
        47, 15, 46, 14, 45, 13, 44, 12, 43, 11, 42, 10, 41, 9, 40, 8, 39, 7, 38, 6, 37, 5, 36, 4,
        35, 3, 34, 2, 33, 1, 32, 0);
    const __m512i high = _mm512_add_epi16(low, _mm512_set1_epi16(16)), none = {0};
    char *keys = p->keys + (at - p->low) * d->P * 2, *values = p->values + (at - p->low) * d->P * 2;
    ptrdiff_t place = p->span->place + at, from = p->seen - at, stop = p->stop - at;
    const char *k = d->k + (place * d->k_apart + p->head * d->P) * 2;
    const char *v = d->v + (place * d->v_apart + p->head * d->P) * 2;
    for (ptrdiff_t c = 0; c < d->P; c += DEEP, keys += 2 * TILE, values += 2 * TILE) {
        Words first[16], second[16];
        for (ptrdiff_t i = 0; i < GROUP; i++) {
            const char *row = k + (i * d->k_apart + c) * 2;
            __m512i key = i >= from && i < stop ? _mm512_loadu_si512(row) : none;
            memcpy(keys + i * 64, &key, 64);
        }
        for (ptrdiff_t i = 0; i < GROUP; i += 2) {
            const char *row = v + (i * d->v_apart + c) * 2;
            const char *other = row + d->v_apart * 2;
            __m512i a = i >= from && i < stop ? _mm512_loadu_si512(row) : none;
            __m512i b = i + 1 >= from && i + 1 < stop ? _mm512_loadu_si512(other) : none;
            first[i / 2] = (Words)_mm512_permutex2var_epi16(a, low, b);
            second[i / 2] = (Words)_mm512_permutex2var_epi16(a, high, b);
        }
        transpose(first), transpose(second);
        memcpy(values, first, TILE), memcpy(values + TILE, second, TILE);
    }
}

#endif

#endif
