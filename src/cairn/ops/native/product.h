/* Products of small matrices that lie in a core's cache. */

#ifndef CAIRN_PRODUCT_H
#define CAIRN_PRODUCT_H

#include "vector.h"

/* One tile: c[rows][columns vectors] (+)= a[rows][k] b[k][columns vectors]. */
INLINE void tile(const int rows, const int columns, ptrdiff_t k, const float *a, ptrdiff_t lda,
                 const float *b, ptrdiff_t ldb, float *c, ptrdiff_t ldc, const int add)
{
    Vector sums[ROWS][COLUMNS];
#pragma GCC unroll 8
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 8
        for (int j = 0; j < columns; j++)
            sums[i][j] = add ? load(c + i * ldc + j * LANES) : splat(0);
    for (ptrdiff_t t = 0; t < k; t++) {
        Vector right[COLUMNS];
#pragma GCC unroll 8
        for (int j = 0; j < columns; j++) right[j] = load(b + t * ldb + j * LANES);
#pragma GCC unroll 8
        for (int i = 0; i < rows; i++) {
            Vector left = splat(a[i * lda + t]);
#pragma GCC unroll 8
            for (int j = 0; j < columns; j++) sums[i][j] += left * right[j];
        }
    }
#pragma GCC unroll 8
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 8
        for (int j = 0; j < columns; j++) store(c + i * ldc + j * LANES, sums[i][j]);
}

INLINE void tile_rows(int rows, const int columns, ptrdiff_t k, const float *a, ptrdiff_t lda,
                      const float *b, ptrdiff_t ldb, float *c, ptrdiff_t ldc, const int add)
{
    switch (rows) {
    case 1: tile(1, columns, k, a, lda, b, ldb, c, ldc, add); return;
    case 2: tile(2, columns, k, a, lda, b, ldb, c, ldc, add); return;
    case 3: tile(3, columns, k, a, lda, b, ldb, c, ldc, add); return;
#if ROWS > 4
    case 4: tile(4, columns, k, a, lda, b, ldb, c, ldc, add); return;
    case 5: tile(5, columns, k, a, lda, b, ldb, c, ldc, add); return;
#endif
    default: tile(ROWS, columns, k, a, lda, b, ldb, c, ldc, add);
    }
}

/* c[m][n] (+)= a[m][k] b[k][n]; n is a multiple of LANES. With `triangle`, a[i][t] is zero for
 * t > i, and only b's rows that count are read. */
INLINE void multiply(ptrdiff_t m, ptrdiff_t n, ptrdiff_t k, const float *a, ptrdiff_t lda,
                     const float *b, ptrdiff_t ldb, float *c, ptrdiff_t ldc, const int add,
                     const int triangle)
{
    for (ptrdiff_t i = 0; i < m; i += ROWS) {
        int rows = (int)least(ROWS, m - i);
        ptrdiff_t deep = triangle ? least(k, i + rows) : k;
        ptrdiff_t j = 0;
        for (; j + COLUMNS * LANES <= n; j += COLUMNS * LANES)
            tile_rows(rows, COLUMNS, deep, a + i * lda, lda, b + j, ldb, c + i * ldc + j, ldc, add);
        for (; j < n; j += LANES)
            tile_rows(rows, 1, deep, a + i * lda, lda, b + j, ldb, c + i * ldc + j, ldc, add);
    }
}

#endif
