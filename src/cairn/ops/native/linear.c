/* A few rows times a weight matrix: the products of decoding, which read every weight once.
 *
 * For one to four tokens both operands lie along the inner dimension, and a tile of sums is reduced
 * at its end. For more, a vector holds one column of the tokens, and nothing has to be reduced. */

#include <stdlib.h>

#include "vector.h"

#define OUTPUTS 4 /* rows of the weight that are read side by side */
#define TOKENS 4
#define AHEAD 2048 /* bytes by which the weight is asked for before it is needed */

/* sums[t][o] = <x row t, weight row o> over `inner`; a row of `sums` has OUTPUTS. Meanwhile `wanted`
 * rows from `next` on are asked for, to the second-level cache. */
INLINE void dots(const int outputs, const int tokens, const char *weight, const int kind,
                 const float *x, ptrdiff_t inner, float *sums, const char *next, const int wanted)
{
    const ptrdiff_t bytes = kind == FLOAT32 ? 4 : 2, row = inner * bytes;
    Vector total[16];
#pragma GCC unroll 16
    for (int i = 0; i < 16; i++) total[i] = splat(0);
    ptrdiff_t k = 0;
    for (; k + LANES <= inner; k += LANES) {
        Vector w[OUTPUTS];
#pragma GCC unroll 8
        for (int o = 0; o < wanted; o++) __builtin_prefetch(next + o * row + k * bytes, 0, 2);
#pragma GCC unroll 8
        for (int o = 0; o < outputs; o++) {
            const char *from = weight + o * row + k * bytes;
            w[o] = kind == FLOAT32 ? load((const float *)from) : widen((const uint16_t *)from);
        }
#pragma GCC unroll 8
        for (int t = 0; t < tokens; t++) {
            Vector right = load(x + t * inner + k);
#pragma GCC unroll 8
            for (int o = 0; o < outputs; o++) total[t * OUTPUTS + o] += w[o] * right;
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
                     float *sums, ptrdiff_t pass, ptrdiff_t passes)
{
    const char *next = weight + OUTPUTS * inner * (kind == FLOAT32 ? 4 : 2);
    ptrdiff_t row = inner * (kind == FLOAT32 ? 4 : 2);
    if (passes == 1) dots_of(OUTPUTS, high, weight, kind, x, inner, sums, next, OUTPUTS);
    else if (passes == 2)
        dots_of(OUTPUTS, high, weight, kind, x, inner, sums, next + pass * 2 * row, 2);
    else if (pass < OUTPUTS)
        dots_of(OUTPUTS, high, weight, kind, x, inner, sums, next + pass * row, 1);
    else dots_of(OUTPUTS, high, weight, kind, x, inner, sums, next, 0);
}

INLINE void write_value(void *y, ptrdiff_t at, float value, const int kind)
{
    if (kind == FLOAT32) ((float *)y)[at] = value;
    else ((uint16_t *)y)[at] = to_bfloat16(value);
}

/* Outputs `first` to `stop`; rows of y are `apart` elements apart. */
INLINE void some_outputs(const float *x, const char *weight, void *y, ptrdiff_t apart,
                         ptrdiff_t tokens, ptrdiff_t inner, const int kind, ptrdiff_t first,
                         ptrdiff_t stop)
{
    ptrdiff_t row = inner * (kind == FLOAT32 ? 4 : 2), passes = (tokens + TOKENS - 1) / TOKENS;
    for (ptrdiff_t o = first; o < stop; o += OUTPUTS) {
        int wide = (int)least(OUTPUTS, stop - o);
        for (ptrdiff_t t = 0; t < tokens; t += TOKENS) {
            int high = (int)least(TOKENS, tokens - t);
            float sums[OUTPUTS * TOKENS] ALIGNED;
            const float *rows = x + t * inner;
            if (wide == OUTPUTS)
                group_of(high, weight + o * row, kind, rows, inner, sums, t / TOKENS, passes);
            else
                for (int j = 0; j < wide; j++)
                    dots_of(1, high, weight + (o + j) * row, kind, rows, inner, sums + j,
                            NULL, 0);
            for (int i = 0; i < high; i++) {
                ptrdiff_t at = (t + i) * apart + o;
                if (kind == FLOAT32 && wide == OUTPUTS)
                    memcpy((float *)y + at, sums + i * OUTPUTS, OUTPUTS * sizeof *sums);
                else
                    for (int j = 0; j < wide; j++)
                        write_value(y, at + j, sums[i * OUTPUTS + j], kind);
            }
        }
    }
}

typedef struct {
    ptrdiff_t first, stop;
} Share;

/* Of outputs, those that one of `parts` threads computes. */
static Share share_of(ptrdiff_t outputs, ptrdiff_t part, ptrdiff_t parts)
{
    ptrdiff_t groups = (outputs + OUTPUTS - 1) / OUTPUTS;
    return (Share){part * groups / parts * OUTPUTS,
                   least((part + 1) * groups / parts * OUTPUTS, outputs)};
}

/* The same outputs in fp32. */
static void linear_share(const float *x, const float *weight, float *y, ptrdiff_t apart,
                         ptrdiff_t tokens, ptrdiff_t inner, Share share)
{
    some_outputs(x, (const char *)weight, y, apart, tokens, inner, FLOAT32, share.first,
                 share.stop);
}

/* y [tokens, outputs] = x [tokens, inner] weight [outputs, inner]^T; x is fp32, weight and y are of
 * `kind`; sums are in fp32. */
void cairn_linear(const float *x, const void *weight, void *y, int64_t tokens, int64_t outputs,
                  int64_t inner, int64_t kind, int64_t threads)
{
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t part = 0; part < threads; part++) {
        Share share = share_of(outputs, part, threads);
        if (kind == FLOAT32) linear_share(x, weight, y, outputs, tokens, inner, share);
        else
            some_outputs(x, weight, y, outputs, tokens, inner, BFLOAT16, share.first, share.stop);
    }
}
