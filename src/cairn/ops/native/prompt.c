/* Causal attention of many queries in bf16 on matrix units, sums and softmax in fp32 (by blocks of
 * keys, arXiv 2205.14135).
 *
 * A column is one query head of one token. The heads that share a key head are columns side by
 * side, so that its keys and values are read once for all of them. Scores are made with keys down
 * and columns across: maxima and sums of the softmax are then of whole vectors, and probabilities
 * lie as the product with the values takes them.
 *
 * Blocks of keys begin at multiples of AT_ONCE from where the span's past begins, what a query does
 * not see adds zeros, and keys that no query of the span sees are not read: the bits of a query's
 * result depend on it and on what it sees, not on its company, the threads, or how much of the span
 * is past. But 0 times what is no number is none: a value that is not finite spoils queries that are
 * computed beside one that sees it, too. A key whose score is minus infinity is as one not seen, a
 * query that sees no other gets zeros; a score of infinity gives NaN.
 * Legend: T tokens, S spans, H query heads, KV key heads, P head width, a multiple of 32.
 */

#ifndef CAIRN_PROMPT_C
#define CAIRN_PROMPT_C

#include "prompt_keys.c"

#ifdef HAVE_TILES

#define AT_ONCE 96 /* keys whose scores are made at once */
#define ACROSS 32  /* columns of a task: two tiles */
#define UNSEEN (-3.40282347e38f) /* the maximum of no scores: no finite one is less */

/* A task: up to ACROSS columns of a pair. */
typedef struct {
    const Prompt *prompt;
    const Pair *pair;
    ptrdiff_t before;                         /* tasks of the pairs ahead of this one */
    ptrdiff_t first, count;                   /* columns */
    int32_t position[ACROSS] ALIGNED;         /* of a column's token */
    char queries[ACROSS * 256 * 2] ALIGNED;   /* [P / DEEP][2] tiles */
    float scores[AT_ONCE * ACROSS] ALIGNED;
    char seen[AT_ONCE * ACROSS * 2] ALIGNED;  /* probabilities [AT_ONCE / GROUP][2] tiles */
    float out[ACROSS * 256] ALIGNED;          /* [2][P][16] */
    float most[ACROSS] ALIGNED, total[ACROSS] ALIGNED;
} Columns;

/* The columns of a task; those behind the last are zeros at the last one's position. */
static void take_columns(Columns *c)
{
    const Prompt *d = c->prompt;
    const Pair *p = c->pair;
    ptrdiff_t each = d->H / d->KV;
    for (ptrdiff_t from = 0; from < ACROSS; from += 16)
        for (ptrdiff_t k = 0; k < d->P; k += DEEP) {
            Words rows[16];
            memset(rows, 0, sizeof rows);
            for (ptrdiff_t i = from; i < least(from + 16, c->count); i++) {
                ptrdiff_t t = (c->first + i) / each, head = p->head * each + (c->first + i) % each;
                t += p->span->first;
                memcpy(rows + i - from, d->q + (t * d->q_apart + head * d->P + k) * 2, 64);
            }
            transpose(rows);
            memcpy(c->queries + (k / DEEP * 2 + from / 16) * TILE, rows, TILE);
        }
    for (ptrdiff_t i = 0; i < ACROSS; i++) {
        ptrdiff_t column = c->first + least(i, c->count - 1);
        c->position[i] = (int32_t)(p->span->past + column / each);
        c->most[i] = UNSEEN, c->total[i] = 0;
    }
    memset(c->out, 0, (size_t)(ACROSS * d->P) * sizeof *c->out);
}

/* scores [keys][ACROSS] of the keys `from` to `stop`, multiples of GROUP. */
WITH_TILES static void make_scores(Columns *c, ptrdiff_t from, ptrdiff_t stop)
{
    const ptrdiff_t P = c->prompt->P;
    const char *keys = c->pair->keys + (from - c->pair->low) * P * 2;
    float *to = c->scores;
    for (ptrdiff_t at = from; at < stop; at += GROUP, to += GROUP * ACROSS) {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
        for (ptrdiff_t k = 0; k < P * 64; k += 2 * TILE, keys += 2 * TILE) {
            _tile_loadd(4, keys, 64);
            _tile_loadd(6, c->queries + k, 64);
            _tile_loadd(7, c->queries + k + TILE, 64);
            _tile_dpbf16ps(0, 4, 6);
            _tile_dpbf16ps(1, 4, 7);
            _tile_loadd(5, keys + TILE, 64);
            _tile_dpbf16ps(2, 5, 6);
            _tile_dpbf16ps(3, 5, 7);
        }
        _tile_stored(0, to, ACROSS * 4);
        _tile_stored(1, to + 16, ACROSS * 4);
        _tile_stored(2, to + 16 * ACROSS, ACROSS * 4);
        _tile_stored(3, to + 16 * ACROSS + 16, ACROSS * 4);
    }
}

/* Which of 16 columns see a key: their own, and those within the window before it. */
INLINE __mmask16 sees(const int masked, __m512i position, __m512i before, ptrdiff_t key)
{
    if (!masked) return 0xFFFF;
    __m512i at = _mm512_set1_epi32((int32_t)key);
    return _mm512_cmple_epi32_mask(at, position) & _mm512_cmpgt_epi32_mask(at, before);
}

/* 2^x within 9e-5 of it, a fortieth of bf16's own step, by the best cubic between two whole numbers
 * that is 1 at 0; 0 of minus infinity; NaN stays. */
INLINE __m512 power_in_bf16(__m512 x)
{
    __m512 rest = _mm512_reduce_ps(x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
    __m512 p = rest * 7.706704199e-2f + 2.276449912e-1f;
    p = p * rest + 6.951167864e-1f;
    p = p * rest + 1.0f;
    return _mm512_scalef_ps(p, x); /* which takes the whole part of x */
}

/* What the columns have so far, times what a higher maximum leaves of it. */
static void rescale(Columns *c, ptrdiff_t column, __m512 kept)
{
    float *out = c->out + column * c->prompt->P;
    for (ptrdiff_t i = 0; i < c->prompt->P * 16; i += 16)
        _mm512_storeu_ps(out + i, _mm512_loadu_ps(out + i) * kept);
}

/* Scores of `count` keys from `key` on, of the 16 columns from `column` on, as probabilities but for
 * the sum so far; `scale` turns differences to the highest into exponents of 2: the highest itself is
 * not scaled, or its rounding would be more than 1 where scores are huge. */
WITH_TILES INLINE void soften(Columns *c, ptrdiff_t column, ptrdiff_t key, ptrdiff_t count,
                              __m512 scale, const int masked)
{
    const __m512i pairs = _mm512_set_epi16(
        31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21, 5, 20, 4,
        19, 3, 18, 2, 17, 1, 16, 0);
    const __m512i window = _mm512_set1_epi32(
        c->prompt->window ? (int32_t)c->prompt->window : INT32_MAX);
    const __m512i position = _mm512_load_si512(c->position + column);
    const __m512i before = _mm512_sub_epi32(position, window);
    const float *scores = c->scores + column;
    __m512 old = _mm512_load_ps(c->most + column);
    __m512 most = _mm512_set1_ps(-INFINITY), other = most;
    for (ptrdiff_t i = 0; i < count; i += 2) {
        __m512 a = _mm512_load_ps(scores + i * ACROSS), b = _mm512_load_ps(scores + (i + 1) * ACROSS);
        most = _mm512_mask_max_ps(most, sees(masked, position, before, key + i), a, most);
        other = _mm512_mask_max_ps(other, sees(masked, position, before, key + i + 1), b, other);
    }
    most = _mm512_max_ps(_mm512_max_ps(most, other), old);
    __m512 kept = power_of_two(_mm512_max_ps(_mm512_set1_ps(-126), (old - most) * scale));
    __m512 total = kept;
    total = total * _mm512_load_ps(c->total + column);
    if (_mm512_cmp_ps_mask(old, most, _CMP_NEQ_UQ)) rescale(c, column, kept);
    char *to = c->seen + column / 16 * TILE;
    for (ptrdiff_t i = 0; i < count; i += 2) {
        __m512 a = (_mm512_load_ps(scores + i * ACROSS) - most) * scale;
        __m512 b = (_mm512_load_ps(scores + (i + 1) * ACROSS) - most) * scale;
        a = _mm512_maskz_mov_ps(sees(masked, position, before, key + i), power_in_bf16(a));
        b = _mm512_maskz_mov_ps(sees(masked, position, before, key + i + 1), power_in_bf16(b));
        total += a + b;
        __m512i both = _mm512_permutexvar_epi16(pairs, (__m512i)_mm512_cvtne2ps_pbh(b, a));
        _mm512_store_si512(to + i / GROUP * 2 * TILE + i % GROUP / 2 * 64, both);
    }
    _mm512_store_ps(c->most + column, most), _mm512_store_ps(c->total + column, total);
}

/* out += values of the keys `from` to `stop` times their probabilities. */
WITH_TILES static void add_seen(Columns *c, ptrdiff_t from, ptrdiff_t stop)
{
    const ptrdiff_t P = c->prompt->P;
    const char *values = c->pair->values + (from - c->pair->low) * P * 2;
    for (ptrdiff_t p = 0; p < P; p += 32) {
        float *left = c->out + p * 16, *right = left + P * 16;
        const char *seen = c->seen, *value = values + p / 16 * TILE;
        _tile_loadd(0, left, 64);
        _tile_loadd(1, right, 64);
        _tile_loadd(2, left + 256, 64);
        _tile_loadd(3, right + 256, 64);
        for (ptrdiff_t at = from; at < stop; at += GROUP, seen += 2 * TILE) {
            _tile_loadd(4, value, 64);
            _tile_loadd(6, seen, 64);
            _tile_loadd(7, seen + TILE, 64);
            _tile_dpbf16ps(0, 4, 6);
            _tile_dpbf16ps(1, 4, 7);
            _tile_loadd(5, value + TILE, 64);
            _tile_dpbf16ps(2, 5, 6);
            _tile_dpbf16ps(3, 5, 7);
            value += P / 16 * TILE;
        }
        _tile_stored(0, left, 64);
        _tile_stored(1, right, 64);
        _tile_stored(2, left + 256, 64);
        _tile_stored(3, right + 256, 64);
    }
}

/* Sums over totals, in bf16 where the columns' heads are; zeros where every score was minus
 * infinity. */
WITH_TILES static void give_columns(const Columns *c)
{
    const Prompt *d = c->prompt;
    ptrdiff_t each = d->H / d->KV;
    for (ptrdiff_t from = 0; from < c->count; from += 16) {
        __m512 total = _mm512_load_ps(c->total + from), one = _mm512_set1_ps(1);
        __mmask16 seen = _mm512_cmp_ps_mask(total, _mm512_setzero_ps(), _CMP_NEQ_UQ);
        __m512 whole = _mm512_maskz_div_ps(seen, one, total);
        for (ptrdiff_t p = 0; p < d->P; p += 16) {
            Words rows[16];
            for (ptrdiff_t i = 0; i < 16; i++) {
                __m512 row = _mm512_load_ps(c->out + from * d->P + (p + i) * 16) * whole;
                memcpy(rows + i, &row, sizeof row);
            }
            transpose(rows);
            for (ptrdiff_t i = from; i < least(from + 16, c->count); i++) {
                ptrdiff_t t = c->pair->span->first + (c->first + i) / each;
                ptrdiff_t head = c->pair->head * each + (c->first + i) % each;
                __m256i row = (__m256i)_mm512_cvtneps_pbh((__m512)rows[i - from]);
                memcpy(d->y + ((t * d->H + head) * d->P + p) * 2, &row, sizeof row);
            }
        }
    }
}

WITH_TILES static void attend_columns(Columns *c)
{
    const Prompt *d = c->prompt;
    const __m512 scale = _mm512_set1_ps(1.44269504f / sqrtf((float)d->P));
    take_columns(c);
    ptrdiff_t first = c->position[0], last = c->position[c->count - 1];
    ptrdiff_t begin = d->window && first >= d->window ? first - d->window + 1 : 0;
    for (ptrdiff_t at = begin / AT_ONCE * AT_ONCE; at <= last; at += AT_ONCE) {
        ptrdiff_t from = at < begin ? begin / GROUP * GROUP : at;
        ptrdiff_t stop = least(at + AT_ONCE, up_to(last + 1, GROUP));
        int masked = stop - 1 > first || (d->window && from <= last - d->window);
        make_scores(c, from, stop);
        for (ptrdiff_t i = 0; i < c->count; i += 16)
            if (masked) soften(c, i, from, stop - from, scale, 1);
            else soften(c, i, from, stop - from, scale, 0);
        add_seen(c, from, stop);
    }
    give_columns(c);
}

/* Task i of the pairs before `stop`, the longest of a pair first; 0 behind the last. A thread's
 * tasks rise: it looks on from the pair of its last one. */
static int find_columns(Columns *c, const Pair *stop, ptrdiff_t i)
{
    for (; c->pair < stop; c->pair++) {
        ptrdiff_t tasks = (c->pair->columns + ACROSS - 1) / ACROSS, own = i - c->before;
        if (own < tasks) {
            c->first = (tasks - 1 - own) * ACROSS;
            c->count = least(ACROSS, c->pair->columns - c->first);
            return 1;
        }
        c->before += tasks;
    }
    return 0;
}

/* Packed by all, then tasks as threads come for them; some pairs after another. */
WITH_TILES static void attend_prompt(const Prompt *d, Pair *pairs, char *room, int64_t *next,
                                     const Worker *w)
{
    Columns c = {.prompt = d};
    open_tiles();
    for (ptrdiff_t first = 0, stop; first < d->S * d->KV; first = stop) {
        size_t bytes;
        char *to = room;
        stop = together(d, first, &bytes);
        for (ptrdiff_t i = first; i < stop; i++) {
            Pair p = pair_of(d, i);
            p.keys = to, p.values = to + pair_bytes(d, &p);
            to = p.values + pair_bytes(d, &p);
            /* Short pairs have one group: who begins goes round. */
            ptrdiff_t mine = p.low + (w->part + i) % w->parts * GROUP;
            for (ptrdiff_t at = mine; at < p.stop; at += w->parts * GROUP)
                pack_group(d, &p, at);
            if (!w->part) pairs[i - first] = p;
        }
        if (!w->part) __atomic_store_n(next, 0, __ATOMIC_RELAXED);
        meet(w);
        c.pair = pairs, c.before = 0;
        for (;;) {
            ptrdiff_t i = __atomic_fetch_add(next, 1, __ATOMIC_RELAXED);
            if (!find_columns(&c, pairs + (stop - first), i)) break;
            attend_columns(&c);
        }
        meet(w);
    }
    _tile_release();
}

/* y = softmax(q k^T / sqrt(P)) v. 0, NO_MEMORY (to work in) or NO_TILES. */
int64_t cairn_prompt(const Prompt *d)
{
    if (!tiles_serve()) return NO_TILES;
    size_t room_bytes = 0, bytes;
    for (ptrdiff_t i = 0; i < d->S * d->KV; room_bytes = bytes > room_bytes ? bytes : room_bytes)
        i = together(d, i, &bytes);
    char *room = NULL;
    Pair *pairs = malloc((size_t)(d->S * d->KV) * sizeof *pairs);
    if (!pairs || posix_memalign((void **)&room, 64, room_bytes)) {
        free(pairs);
        return NO_MEMORY;
    }
    Team team = {0};
    int64_t next = 0;
#pragma omp parallel num_threads(d->threads)
    {
        Worker w = worker_of(&team);
        attend_prompt(d, pairs, room, &next, &w);
    }
    free(pairs), free(room);
    return 0;
}

#else

int64_t cairn_prompt(const Prompt *d)
{
    (void)d;
    return NO_TILES;
}

#endif

#endif
