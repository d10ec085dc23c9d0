/* Root-mean-square norms of rows, in one pass over memory. */

#ifndef CAIRN_NORM_C
#define CAIRN_NORM_C

#include "vector.h"

/* row[i] *= weight[i] / rms(row), in each of `groups` slices by itself. */
static void norm_row(float *row, const void *weight, int weight_kind, ptrdiff_t width,
                     ptrdiff_t groups, float eps)
{
    ptrdiff_t each = width / groups;
    for (ptrdiff_t from = 0; from < width; from += each) {
        float squares = 0;
#pragma omp simd reduction(+ : squares)
        for (ptrdiff_t i = from; i < from + each; i++) squares += row[i] * row[i];
        float scale = 1.0f / sqrtf(squares / (float)each + eps);
        if (weight_kind == FLOAT32) {
            const float *w = weight;
            for (ptrdiff_t i = from; i < from + each; i++) row[i] = row[i] * scale * w[i];
        } else {
            const uint16_t *w = weight;
            for (ptrdiff_t i = from; i < from + each; i++)
                row[i] = row[i] * scale * from_bfloat16(w[i]);
        }
    }
}

/* to = (row - mean) / deviation * weight + bias; weight and bias are of `kind`. */
static void layer_norm_row(const float *row, const void *weight, const void *bias, int kind,
                           ptrdiff_t width, float eps, float *to)
{
    float total = 0, squares = 0;
#pragma omp simd reduction(+ : total)
    for (ptrdiff_t i = 0; i < width; i++) total += row[i];
    float mean = total / (float)width;
#pragma omp simd reduction(+ : squares)
    for (ptrdiff_t i = 0; i < width; i++) squares += (row[i] - mean) * (row[i] - mean);
    float scale = 1.0f / sqrtf(squares / (float)width + eps);
    if (kind == FLOAT32)
        for (ptrdiff_t i = 0; i < width; i++)
            to[i] = (row[i] - mean) * scale * element(weight, i, FLOAT32) + element(bias, i, FLOAT32);
    else
        for (ptrdiff_t i = 0; i < width; i++)
            to[i] = (row[i] - mean) * scale * element(weight, i, BFLOAT16)
                  + element(bias, i, BFLOAT16);
}

static void write_row(const float *row, ptrdiff_t width, void *to, ptrdiff_t at, int kind)
{
    if (kind == FLOAT32) {
        memcpy((float *)to + at, row, (size_t)width * sizeof *row);
    } else {
        uint16_t *halves = (uint16_t *)to + at;
        for (ptrdiff_t i = 0; i < width; i++) halves[i] = to_bfloat16(row[i]);
    }
}

/* row *= SiLU(gate[at ..]) */
static void gate_row(float *row, const void *gate, ptrdiff_t at, ptrdiff_t width, int kind)
{
    if (kind == FLOAT32) {
        const float *g = (const float *)gate + at;
#pragma omp simd
        for (ptrdiff_t i = 0; i < width; i++) row[i] *= silu(g[i]);
    } else {
        const uint16_t *g = (const uint16_t *)gate + at;
#pragma omp simd
        for (ptrdiff_t i = 0; i < width; i++) row[i] *= silu(from_bfloat16(g[i]));
    }
}

/* to [rows, width] = norm(x [rows, width] * SiLU(gate)) * weight [width]; x has kind x_kind, gate
 * (NULL: none; its rows are `gate_stride` apart) and `to` have `kind`. */
void cairn_norm(const void *x, int64_t x_kind, const void *gate, int64_t gate_stride,
                const void *weight, int64_t weight_kind, void *to, int64_t kind, int64_t rows,
                int64_t width, int64_t groups, float eps, int64_t threads)
{
#pragma omp parallel num_threads(threads) if (rows > 1)
    {
        float row[width];
#pragma omp for schedule(static)
        for (int64_t r = 0; r < rows; r++) {
            read_row(x, r * width, width, (int)x_kind, row);
            if (gate) gate_row(row, gate, r * gate_stride, width, (int)kind);
            norm_row(row, weight, (int)weight_kind, width, groups, eps);
            write_row(row, width, to, r * width, (int)kind);
        }
    }
}

#endif
