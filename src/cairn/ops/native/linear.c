/* A few rows times a weight matrix: the products of decoding, which read every weight once.
 *
 * By vectors, four tokens at a time: both operands lie along the inner dimension, and a square of
 * sums is reduced at its end. Of weights in bf16 and more tokens, by matrix units (tiles.c), or by
 * vectors of pairs (pairs.c). */

#include <stdlib.h>

#include "pairs.c"
#include "team.c"
#include "tiles.c"

#define OUTPUTS 4 /* rows of the weight that are read side by side */
#define TOKENS 4
#define VECTORS 4 /* tokens up to which vectors of floats are as fast as tiles, and as pairs */

/* sums[t][o] = <x row t, weight row o> over `inner`; a row of `sums` has OUTPUTS. Meanwhile `wanted`
 * rows from `next` on are asked for, to the second-level cache. */
INLINE void dots(const int outputs, const int tokens, const char *weight, const int kind,
                 const float *x, ptrdiff_t inner, float *sums, const char *next, const int wanted)
{
    const ptrdiff_t bytes = bytes_of(kind), row = inner * bytes, step = 64 / bytes;
    Vector total[16];
#pragma GCC unroll 16
    for (int i = 0; i < 16; i++) total[i] = splat(0);
    ptrdiff_t k = 0;
    for (; k + step <= inner; k += step) {
#pragma GCC unroll 8
        for (int o = 0; o < wanted; o++) __builtin_prefetch(next + o * row + k * bytes, 0, 2);
#pragma GCC unroll 8
        for (ptrdiff_t at = k; at < k + step; at += LANES) {
            Vector w[OUTPUTS];
#pragma GCC unroll 8
            for (int o = 0; o < outputs; o++) w[o] = load_as(weight + o * row, at, kind);
#pragma GCC unroll 8
            for (int t = 0; t < tokens; t++) {
                Vector right = load(x + t * inner + at);
#pragma GCC unroll 8
                for (int o = 0; o < outputs; o++) total[t * OUTPUTS + o] += w[o] * right;
            }
        }
    }
    if (outputs == OUTPUTS && tokens == TOKENS) {
#pragma GCC unroll 16
        for (int i = 0; i < 16; i += LANES) store(sums + i, sums_of(total + i));
    } else {
#pragma GCC unroll 8
        for (int o = 0; o < outputs; o++)
#pragma GCC unroll 8
            for (int t = 0; t < tokens; t++) sums[t * OUTPUTS + o] = sum(total[t * OUTPUTS + o]);
    }
    if (k < inner)
        for (int o = 0; o < outputs; o++)
            for (int t = 0; t < tokens; t++)
                for (ptrdiff_t rest = k; rest < inner; rest++)
                    sums[t * OUTPUTS + o]
                        += element(weight, o * inner + rest, kind) * x[t * inner + rest];
}

INLINE void dots_of(const int outputs, int tokens, const char *weight, const int kind,
                    const float *x, ptrdiff_t inner, float *sums, const char *next,
                    const int wanted)
{
    switch (tokens) {
    case 1: dots(outputs, 1, weight, kind, x, inner, sums, next, wanted); return;
    case 2: dots(outputs, 2, weight, kind, x, inner, sums, next, wanted); return;
    case 3: dots(outputs, 3, weight, kind, x, inner, sums, next, wanted); return;
    default: dots(outputs, TOKENS, weight, kind, x, inner, sums, next, wanted);
    }
}

/* For `high` tokens of a group of OUTPUTS rows. The next group is asked for in equal parts by all
 * `passes` over the tokens: asked for by the first, it would keep that one waiting. */
INLINE void group_of(int high, const char *weight, const int kind, const float *x, ptrdiff_t inner,
                     float *sums, ptrdiff_t pass, ptrdiff_t passes, const char *next)
{
    ptrdiff_t row = inner * bytes_of(kind);
    if (passes == 1) dots_of(OUTPUTS, high, weight, kind, x, inner, sums, next, OUTPUTS);
    else if (passes == 2)
        dots_of(OUTPUTS, high, weight, kind, x, inner, sums, next + pass * 2 * row, 2);
    else if (pass < OUTPUTS)
        dots_of(OUTPUTS, high, weight, kind, x, inner, sums, next + pass * row, 1);
    else dots_of(OUTPUTS, high, weight, kind, x, inner, sums, next, 0);
}

typedef struct {
    ptrdiff_t first, stop;
} Share;

#define TOGETHER 32 /* outputs that no two threads share */

/* Of outputs, those that one of `parts` threads computes. */
static Share share_of(ptrdiff_t outputs, ptrdiff_t part, ptrdiff_t parts)
{
    ptrdiff_t groups = (outputs + TOGETHER - 1) / TOGETHER;
    return (Share){part * groups / parts * TOGETHER,
                   least((part + 1) * groups / parts * TOGETHER, outputs)};
}

/* Tokens [tokens, inner] that weights of `kind` are multiplied with; for tiles and pairs, as these
 * have them as well. */
typedef struct {
    const float *x, *packed; /* packed: NULL where vectors of floats serve */
    ptrdiff_t tokens, inner;
    int kind, terms; /* terms: 1 where x is bf16 in fp32's place */
} Rows;

/* Room that packed rows may need, in floats. */
static ptrdiff_t rows_floats(ptrdiff_t tokens, ptrdiff_t inner, int kind)
{
    if (kind != BFLOAT16) return 0;
    if (tiles_serve()) return packed_floats(tokens, inner);
    return pairs_serve() ? (tokens * inner + 1) / 2 + 16 : 0;
}

/* Whether tokens are packed for a weight. */
static int packs(ptrdiff_t tokens, ptrdiff_t inner, int kind)
{
    if (kind != BFLOAT16 || tokens <= VECTORS) return 0;
    return tiles_serve() ? inner % DEEP == 0 : pairs_serve() && inner % PAIRED == 0;
}

/* Packs columns `from` on, x [tokens, count] with rows `apart` apart, into all rows' room. */
static void pack_columns(const Rows *r, const float *x, ptrdiff_t apart, ptrdiff_t from,
                         ptrdiff_t count, float *room)
{
#ifdef HAVE_TILES
    if (tiles_serve()) {
        Packing p = {r->tokens, r->inner, r->terms, from, count};
        pack(x, apart, &p, room);
        return;
    }
#endif
#ifdef HAVE_PAIRS
    pair_columns(x, apart, r->tokens, r->inner, from, count, (uint16_t *)room);
#else
    (void)r, (void)x, (void)apart, (void)from, (void)count, (void)room;
#endif
}

static Rows rows_of(const float *x, ptrdiff_t tokens, ptrdiff_t inner, int kind, int terms,
                    float *room)
{
    Rows rows = {x, NULL, tokens, inner, kind, terms};
    if (packs(tokens, inner, kind)) {
        pack_columns(&rows, x, inner, 0, inner, room);
        rows.packed = room;
    }
    return rows;
}

/* y [tokens, count] = x weight^T for `count` rows of a weight, by vectors; y is of y_kind, its rows
 * `apart` elements apart. At the end the first rows of `then` are asked for. */
INLINE void vector_outputs(const Rows *r, const char *weight, const int kind, char *y,
                           ptrdiff_t apart, const int y_kind, ptrdiff_t count, const char *then)
{
    ptrdiff_t inner = r->inner, tokens = r->tokens, row = inner * bytes_of(kind);
    ptrdiff_t passes = (tokens + TOKENS - 1) / TOKENS;
    for (ptrdiff_t o = 0; o < count; o += OUTPUTS) {
        int wide = (int)least(OUTPUTS, count - o);
        const char *next = o + OUTPUTS < count ? weight + (o + OUTPUTS) * row : then;
        for (ptrdiff_t t = 0; t < tokens; t += TOKENS) {
            int high = (int)least(TOKENS, tokens - t);
            float sums[OUTPUTS * TOKENS] ALIGNED;
            const float *x = r->x + t * inner;
            if (wide == OUTPUTS)
                group_of(high, weight + o * row, kind, x, inner, sums, t / TOKENS, passes, next);
            else
                for (int j = 0; j < wide; j++)
                    dots_of(1, high, weight + (o + j) * row, kind, x, inner, sums + j, NULL, 0);
            for (int i = 0; i < high; i++)
                write_values(sums + i * OUTPUTS, OUTPUTS, wide, y, (t + i) * apart + o, y_kind);
        }
    }
}

/* The same by what serves; `then` may be NULL. */
static void multiply_rows(const Rows *r, const void *weight, void *y, ptrdiff_t apart, int y_kind,
                          ptrdiff_t count, const void *then)
{
    const char *rows = weight;
    char *to = y;
    if (!then) then = weight;
    ptrdiff_t done = 0;
#ifdef HAVE_TILES
    if (r->packed && tiles_serve()) {
        Packing p = {r->tokens, r->inner, r->terms, 0, 0};
        done = count / 16 * 16;
        tiled_outputs(r->packed, &p, rows, y, apart, y_kind, done, then);
    }
#endif
#ifdef HAVE_PAIRS
    if (r->packed && !tiles_serve()) {
        done = count / SIDE * SIDE;
        paired_outputs((const uint16_t *)r->packed, r->tokens, r->inner, rows, to, apart, y_kind,
                       done, then);
    }
#endif
    rows += done * r->inner * 2, to += done * bytes_of(y_kind), count -= done;
    if (r->kind == FLOAT32)
        vector_outputs(r, rows, FLOAT32, to, apart, FLOAT32, count, then);
    else if (y_kind == FLOAT32)
        vector_outputs(r, rows, BFLOAT16, to, apart, FLOAT32, count, then);
    else
        vector_outputs(r, rows, BFLOAT16, to, apart, BFLOAT16, count, then);
}

/* y [tokens, outputs] = x [tokens, inner] weight [outputs, inner]^T, each of its kind; sums are in
 * fp32, and a weight in fp32 gives nothing narrower. 0, or 1 where there is no memory to work in. */
int64_t cairn_linear(const void *x, int64_t x_kind, const void *weight, int64_t kind, void *y,
                     int64_t y_kind, int64_t tokens, int64_t outputs, int64_t inner,
                     int64_t threads)
{
    float *room = NULL;
    ptrdiff_t wide = (tokens * inner + 15) / 16 * 16;
    size_t floats = (size_t)(wide + rows_floats(tokens, inner, (int)kind));
    if (posix_memalign((void **)&room, 64, floats * sizeof *room)) return 1;
    read_row(x, 0, tokens * inner, (int)x_kind, room);
    int terms = x_kind == BFLOAT16 ? 1 : 2;
    Rows rows = rows_of(room, tokens, inner, (int)kind, terms, room + wide);
#pragma omp parallel num_threads(threads)
    {
        Share share = share_of(outputs, omp_get_thread_num(), omp_get_num_threads());
        const char *own = (const char *)weight + share.first * inner * bytes_of((int)kind);
        char *to = (char *)y + share.first * bytes_of((int)y_kind);
        multiply_rows(&rows, own, to, outputs, (int)y_kind, share.stop - share.first, NULL);
    }
    free(room);
    return 0;
}
