/* Products of some rows with a weight in bf16 by vectors of pairs (AVX512_BF16), where there are no
 * matrix units.
 *
 * A vector holds 32 numbers of a row of the weight as they lie, and one instruction adds the products
 * with 32 numbers of a token to 16 sums in fp32. The tokens are rounded to bf16 once, as PyTorch has
 * them in that dtype anyway; their sums are not rounded. */

#ifndef CAIRN_PAIRS_C
#define CAIRN_PAIRS_C

#include "vector.h"

#define SIDE 4    /* rows of the weight that are read side by side */
#define BESIDE 6  /* tokens of a pass: SIDE x BESIDE vectors of sums stay in registers */
#define PAIRED 32 /* numbers of a vector */

#if LANES == 16 && (defined(__clang__) || __GNUC__ >= 10)
#define HAVE_PAIRS

#include <cpuid.h>
#include <immintrin.h>

#define WITH_PAIRS __attribute__((target("avx512bf16")))

static int pairs_on;

static int has_pairs(void)
{
    unsigned a, b, c, d;
    return __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a >> 5 & 1); /* AVX512_BF16 */
}

static int pairs_serve(void) { return pairs_on; }

/* Columns `from` on of x [tokens, count], rows `apart` apart, as bf16 in to [tokens, inner]. */
WITH_PAIRS static void pair_columns(const float *x, ptrdiff_t apart, ptrdiff_t tokens,
                                    ptrdiff_t inner, ptrdiff_t from, ptrdiff_t count, uint16_t *to)
{
    for (ptrdiff_t t = 0; t < tokens; t++) {
        const float *row = x + t * apart;
        uint16_t *out = to + t * inner + from;
        ptrdiff_t i = 0;
        for (; i + LANES <= count; i += LANES) {
            __m256bh narrow = _mm512_cvtneps_pbh(_mm512_loadu_ps(row + i));
            memcpy(out + i, &narrow, sizeof narrow);
        }
        for (; i < count; i++) out[i] = to_bfloat16(row[i]);
    }
}

/* sums[t][o] of `tokens` rows of x and SIDE rows of the weight. Meanwhile those from `next` on are
 * asked for: by every pass over the tokens, since the first one alone does not come so far in time. */
__attribute__((always_inline)) WITH_PAIRS static inline void
pair_dots(const int tokens, const char *weight, const uint16_t *x, ptrdiff_t inner, float *sums,
          const char *next)
{
    const ptrdiff_t row = inner * 2;
    Vector total[2 * LANES];
#pragma GCC unroll 32
    for (int i = 0; i < 2 * LANES; i++) total[i] = splat(0);
    for (ptrdiff_t k = 0; k < inner; k += PAIRED) {
        __m512bh w[SIDE];
#pragma GCC unroll 8
        for (int o = 0; o < SIDE; o++) __builtin_prefetch(next + o * row + k * 2, 0, 2);
#pragma GCC unroll 8
        for (int o = 0; o < SIDE; o++) memcpy(&w[o], weight + o * row + k * 2, sizeof *w);
#pragma GCC unroll 8
        for (int t = 0; t < tokens; t++) {
            __m512bh right;
            memcpy(&right, x + t * inner + k, sizeof right);
#pragma GCC unroll 8
            for (int o = 0; o < SIDE; o++)
                total[t * SIDE + o]
                    = (Vector)_mm512_dpbf16_ps((__m512)total[t * SIDE + o], w[o], right);
        }
    }
    store(sums, sums_of(total));
    if (tokens * SIDE > LANES) store(sums + LANES, sums_of(total + LANES));
}

WITH_PAIRS static void pair_group(int tokens, const char *weight, const uint16_t *x,
                                  ptrdiff_t inner, float *sums, const char *next)
{
    switch (tokens) {
    case 1: pair_dots(1, weight, x, inner, sums, next); return;
    case 2: pair_dots(2, weight, x, inner, sums, next); return;
    case 3: pair_dots(3, weight, x, inner, sums, next); return;
    case 4: pair_dots(4, weight, x, inner, sums, next); return;
    case 5: pair_dots(5, weight, x, inner, sums, next); return;
    default: pair_dots(BESIDE, weight, x, inner, sums, next);
    }
}

/* `count` outputs, a multiple of SIDE, of tokens that were rounded; `then` is asked for at the end. */
WITH_PAIRS static void paired_outputs(const uint16_t *x, ptrdiff_t tokens, ptrdiff_t inner,
                                      const char *weight, char *y, ptrdiff_t apart, int y_kind,
                                      ptrdiff_t count, const char *then)
{
    const ptrdiff_t row = inner * 2, passes = (tokens + BESIDE - 1) / BESIDE;
    for (ptrdiff_t o = 0; o < count; o += SIDE) {
        const char *next = o + SIDE < count ? weight + (o + SIDE) * row : then;
        for (ptrdiff_t pass = 0; pass < passes; pass++) {
            ptrdiff_t t = tokens * pass / passes, high = tokens * (pass + 1) / passes - t;
            float sums[2 * LANES] ALIGNED;
            pair_group((int)high, weight + o * row, x + t * inner, inner, sums, next);
            for (ptrdiff_t i = 0; i < high; i++)
                write_values(sums + i * SIDE, SIDE, SIDE, y, (t + i) * apart + o, y_kind);
        }
    }
}

#else

static int pairs_on;
static int has_pairs(void) { return 0; }
static int pairs_serve(void) { return 0; }

#endif

/* Whether products take vectors of pairs, which is tried where `wanted`: 1 or 0. */
int64_t cairn_pairs(int64_t wanted)
{
    pairs_on = wanted && has_pairs();
    return pairs_on;
}

#endif
