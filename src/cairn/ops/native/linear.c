/* A few rows times a weight matrix: the products of decoding, which read every weight once.
 *
 * For one to four tokens both operands lie along the inner dimension, and a tile of sums is reduced
 * at its end. For more, a vector holds one column of the tokens, and nothing has to be reduced. */

#include <stdlib.h>

#include "vector.h"

#define OUTPUTS 4 /* rows of the weight that are read side by side */
#define TOKENS 4
#define AHEAD 2048 /* bytes by which the weight is asked for before it is needed */

/* sums[o][t] = <weight row o, x row t> over `inner`; a row of `sums` has TOKENS. */
INLINE void dots(const int outputs, const int tokens, const void *weight, const int kind,
                 const float *x, ptrdiff_t inner, float *sums, const int first_pass)
{
    Vector total[16];
#pragma GCC unroll 16
    for (int i = 0; i < 16; i++) total[i] = splat(0);
    ptrdiff_t k = 0;
    for (; k + LANES <= inner; k += LANES) {
        Vector w[OUTPUTS];
#pragma GCC unroll 8
        for (int o = 0; o < outputs; o++) {
            const char *from = (const char *)weight + (o * inner + k) * (kind == FLOAT32 ? 4 : 2);
            if (first_pass) /* the same place in the next rows, to the second-level cache */
                __builtin_prefetch(from + OUTPUTS * inner * (kind == FLOAT32 ? 4 : 2), 0, 2);
            w[o] = kind == FLOAT32 ? load((const float *)from) : widen((const uint16_t *)from);
        }
#pragma GCC unroll 8
        for (int t = 0; t < tokens; t++) {
            Vector row = load(x + t * inner + k);
#pragma GCC unroll 8
            for (int o = 0; o < outputs; o++) total[o * TOKENS + t] += w[o] * row;
        }
    }
    if (outputs == OUTPUTS && tokens == TOKENS) {
#pragma GCC unroll 16
        for (int i = 0; i < 16; i += LANES) store(sums + i, sums_of(total + i));
    } else {
#pragma GCC unroll 8
        for (int o = 0; o < outputs; o++)
#pragma GCC unroll 8
            for (int t = 0; t < tokens; t++) sums[o * TOKENS + t] = sum(total[o * TOKENS + t]);
    }
    if (k < inner)
        for (int o = 0; o < outputs; o++)
            for (int t = 0; t < tokens; t++)
                for (ptrdiff_t rest = k; rest < inner; rest++)
                    sums[o * TOKENS + t]
                        += element(weight, o * inner + rest, kind) * x[t * inner + rest];
}

INLINE void dots_of(const int outputs, int tokens, const void *weight, const int kind,
                    const float *x, ptrdiff_t inner, float *sums, const int first_pass)
{
    switch (tokens) {
    case 1: dots(outputs, 1, weight, kind, x, inner, sums, first_pass); return;
    case 2: dots(outputs, 2, weight, kind, x, inner, sums, first_pass); return;
    case 3: dots(outputs, 3, weight, kind, x, inner, sums, first_pass); return;
    default: dots(outputs, TOKENS, weight, kind, x, inner, sums, first_pass);
    }
}

INLINE void some_outputs(const float *x, const char *weight, void *y, ptrdiff_t tokens,
                         ptrdiff_t outputs, ptrdiff_t inner, const int kind, ptrdiff_t first,
                         ptrdiff_t stop)
{
    ptrdiff_t row = inner * (kind == FLOAT32 ? 4 : 2);
    for (ptrdiff_t o = first; o < stop; o += OUTPUTS) {
        int wide = (int)least(OUTPUTS, stop - o);
        for (ptrdiff_t t = 0; t < tokens; t += TOKENS) {
            int high = (int)least(TOKENS, tokens - t);
            float sums[OUTPUTS * TOKENS] ALIGNED;
            const float *rows = x + t * inner;
            if (wide == OUTPUTS && t == 0)
                dots_of(OUTPUTS, high, weight + o * row, kind, rows, inner, sums, 1);
            else if (wide == OUTPUTS)
                dots_of(OUTPUTS, high, weight + o * row, kind, rows, inner, sums, 0);
            else
                for (int j = 0; j < wide; j++)
                    dots_of(1, high, weight + (o + j) * row, kind, rows, inner, sums + j * TOKENS, 0);
            for (int i = 0; i < high; i++)
                for (int j = 0; j < wide; j++) {
                    float value = sums[j * TOKENS + i];
                    ptrdiff_t at = (t + i) * outputs + o + j;
                    if (kind == FLOAT32) ((float *)y)[at] = value;
                    else ((uint16_t *)y)[at] = to_bfloat16(value);
                }
        }
    }
}

#if LANES == 16
#define SUMS 24 /* vectors of sums that stay in registers */
#else
#define SUMS 12
#endif
#define DEEP 64 /* of the inner dimension at a time: rows of a weight would fall on the same lines */

/* y for `rows` outputs and `columns` vectors of tokens; turned [inner, wide] is x transposed. */
INLINE void outer(const int rows, const int columns, const char *weight, const int kind,
                  const float *turned, ptrdiff_t wide, ptrdiff_t inner, float *sums)
{
    Vector total[SUMS];
    float held[SUMS * DEEP] ALIGNED;
    ptrdiff_t bytes = kind == FLOAT32 ? 4 : 2;
#pragma GCC unroll 32
    for (int i = 0; i < rows * columns; i++) total[i] = splat(0);
    for (ptrdiff_t from = 0; from < inner; from += DEEP) {
        ptrdiff_t deep = least(DEEP, inner - from);
        for (int r = 0; r < rows; r++) {
            const char *row = weight + (r * inner + from) * bytes;
            for (ptrdiff_t i = 0; i < DEEP * bytes; i += 64) __builtin_prefetch(row + AHEAD + i);
            read_row(row, 0, deep, kind, held + r * DEEP);
        }
        for (ptrdiff_t k = 0; k < deep; k++) {
            Vector x[2];
#pragma GCC unroll 2
            for (int c = 0; c < columns; c++) x[c] = load(turned + (from + k) * wide + c * LANES);
#pragma GCC unroll 32
            for (int r = 0; r < rows; r++)
#pragma GCC unroll 2
                for (int c = 0; c < columns; c++)
                    total[r * columns + c] += splat(held[r * DEEP + k]) * x[c];
        }
    }
#pragma GCC unroll 32
    for (int i = 0; i < rows * columns; i++) store(sums + i * LANES, total[i]);
}

INLINE void write_sums(const float *sums, int rows, ptrdiff_t stride, void *y, ptrdiff_t outputs,
                       ptrdiff_t o, ptrdiff_t t, ptrdiff_t tokens, const int kind)
{
    for (ptrdiff_t i = 0; i < least(stride, tokens - t); i++)
        for (int r = 0; r < rows; r++) {
            float value = sums[r * stride + i];
            if (kind == FLOAT32) ((float *)y)[(t + i) * outputs + o + r] = value;
            else ((uint16_t *)y)[(t + i) * outputs + o + r] = to_bfloat16(value);
        }
}

INLINE void outer_outputs(const float *turned, const char *weight, void *y, ptrdiff_t tokens,
                          ptrdiff_t outputs, ptrdiff_t inner, const int kind, ptrdiff_t first,
                          ptrdiff_t stop)
{
    ptrdiff_t row = inner * (kind == FLOAT32 ? 4 : 2), wide = padded(tokens);
    float sums[SUMS * LANES] ALIGNED;
    for (ptrdiff_t t = 0; t < wide;) {
        int columns = wide - t > LANES ? 2 : 1, most = SUMS / columns;
        const float *x = turned + t;
        for (ptrdiff_t o = first; o < stop;) {
            int rows = stop - o >= most ? most : 1;
            const char *from = weight + o * row;
            if (columns == 2 && rows > 1) outer(SUMS / 2, 2, from, kind, x, wide, inner, sums);
            else if (columns == 2) outer(1, 2, from, kind, x, wide, inner, sums);
            else if (rows > 1) outer(SUMS, 1, from, kind, x, wide, inner, sums);
            else outer(1, 1, from, kind, x, wide, inner, sums);
            write_sums(sums, rows, columns * LANES, y, outputs, o, t, tokens, kind);
            o += rows;
        }
        t += columns * LANES;
    }
}

/* y [tokens, outputs] = x [tokens, inner] weight [outputs, inner]^T; x is fp32, weight and y are of
 * `kind`; sums are in fp32. */
void cairn_linear(const float *x, const void *weight, void *y, int64_t tokens, int64_t outputs,
                  int64_t inner, int64_t kind, int64_t threads)
{
    ptrdiff_t share = (outputs / OUTPUTS + threads) / threads * OUTPUTS, wide = padded(tokens);
    float *turned = NULL;
    if (tokens > TOKENS
        && posix_memalign((void **)&turned, 64, (size_t)(wide * inner) * sizeof *turned))
        turned = NULL; /* the other way needs no memory */
#pragma omp parallel num_threads(threads)
    {
        if (turned) {
#pragma omp for schedule(static)
            for (int64_t k = 0; k < inner; k++)
                for (ptrdiff_t t = 0; t < wide; t++)
                    turned[k * wide + t] = t < tokens ? x[t * inner + k] : 0;
        }
#pragma omp for schedule(static)
        for (int64_t part = 0; part < threads; part++) {
            ptrdiff_t first = least(part * share, outputs), stop = least(first + share, outputs);
            if (turned && kind == FLOAT32)
                outer_outputs(turned, weight, y, tokens, outputs, inner, FLOAT32, first, stop);
            else if (turned)
                outer_outputs(turned, weight, y, tokens, outputs, inner, BFLOAT16, first, stop);
            else if (kind == FLOAT32)
                some_outputs(x, weight, y, tokens, outputs, inner, FLOAT32, first, stop);
            else some_outputs(x, weight, y, tokens, outputs, inner, BFLOAT16, first, stop);
        }
    }
    free(turned);
}
