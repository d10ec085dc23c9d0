/* Vectors as wide as the machine's, and the few functions of floats that the operations need. */

#ifndef CAIRN_VECTOR_H
#define CAIRN_VECTOR_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__AVX512F__)
#define LANES 16
#define ROWS 6 /* a tile of the product: ROWS x COLUMNS vectors of sums stay in registers */
#define COLUMNS 4
#elif defined(__AVX2__)
#define LANES 8
#define ROWS 4
#define COLUMNS 2
#else
#define LANES 4
#define ROWS 4
#define COLUMNS 2
#endif

#define INLINE static inline __attribute__((always_inline))
#define ALIGNED __attribute__((aligned(64)))

typedef float Vector __attribute__((vector_size(LANES * 4)));
typedef uint32_t Words __attribute__((vector_size(LANES * 4)));
typedef uint16_t Halves __attribute__((vector_size(LANES * 2)));

enum { FLOAT32 = 0, BFLOAT16 = 1 }; /* loader.py has the same numbers */

INLINE Vector load(const float *from)
{
    Vector v;
    memcpy(&v, from, sizeof v);
    return v;
}

INLINE void store(float *to, Vector v) { memcpy(to, &v, sizeof v); }

/* Written out, for 0 + x is an addition where x can be -0. */
INLINE Vector splat(float x)
{
#if LANES == 16
    return (Vector){x, x, x, x, x, x, x, x, x, x, x, x, x, x, x, x};
#elif LANES == 8
    return (Vector){x, x, x, x, x, x, x, x};
#else
    return (Vector){x, x, x, x};
#endif
}

INLINE Vector widen(const uint16_t *from)
{
    Halves h;
    memcpy(&h, from, sizeof h);
    Words w = __builtin_convertvector(h, Words) << 16;
    Vector v;
    memcpy(&v, &w, sizeof v);
    return v;
}

/* The sums of LANES vectors, as one vector: neighbours are added, and what is left lies together. */
INLINE Vector sums_of(Vector v[LANES])
{
#if LANES == 16
    const Words even = {0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30};
#elif LANES == 8
    const Words even = {0, 2, 4, 6, 8, 10, 12, 14};
#else
    const Words even = {0, 2, 4, 6};
#endif
    const Words odd = even + 1;
#pragma GCC unroll 8
    for (int count = LANES; count > 1; count /= 2)
#pragma GCC unroll 8
        for (int i = 0; i < count / 2; i++)
            v[i] = __builtin_shuffle(v[2 * i], v[2 * i + 1], even)
                 + __builtin_shuffle(v[2 * i], v[2 * i + 1], odd);
    return v[0];
}

INLINE float sum(Vector v)
{
#if LANES == 16
    v += __builtin_shuffle(v, (Words){8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7});
    v += __builtin_shuffle(v, (Words){4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11});
    v += __builtin_shuffle(v, (Words){2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13});
#elif LANES == 8
    v += __builtin_shuffle(v, (Words){4, 5, 6, 7, 0, 1, 2, 3});
    v += __builtin_shuffle(v, (Words){2, 3, 0, 1, 6, 7, 4, 5});
#else
    v += __builtin_shuffle(v, (Words){2, 3, 0, 1});
#endif
    return v[0] + v[1];
}

INLINE float from_bfloat16(uint16_t half)
{
    uint32_t word = (uint32_t)half << 16;
    float x;
    memcpy(&x, &word, sizeof x);
    return x;
}

/* Rounded to nearest, ties to even; NaN stays NaN. */
INLINE uint16_t to_bfloat16(float x)
{
    uint32_t word;
    memcpy(&word, &x, sizeof word);
    uint32_t rounded = (word + 0x7FFF + (word >> 16 & 1)) >> 16;
    return (uint16_t)(x != x ? 0x7FC0 : rounded);
}

INLINE float element(const void *from, ptrdiff_t at, int kind)
{
    return kind == FLOAT32 ? ((const float *)from)[at]
                           : from_bfloat16(((const uint16_t *)from)[at]);
}

INLINE Vector load_as(const void *from, ptrdiff_t at, int kind)
{
    return kind == FLOAT32 ? load((const float *)from + at) : widen((const uint16_t *)from + at);
}

INLINE void store_as(void *to, ptrdiff_t at, Vector v, int kind)
{
    if (kind == FLOAT32) {
        store((float *)to + at, v);
    } else {
        for (int i = 0; i < LANES; i++) ((uint16_t *)to)[at + i] = to_bfloat16(v[i]);
    }
}

INLINE ptrdiff_t bytes_of(int kind) { return kind == FLOAT32 ? 4 : 2; }

INLINE void read_row(const void *from, ptrdiff_t at, ptrdiff_t count, int kind, float *to)
{
    if (kind == FLOAT32) {
        memcpy(to, (const float *)from + at, (size_t)count * sizeof *to);
    } else {
        const uint16_t *halves = (const uint16_t *)from + at;
        for (ptrdiff_t i = 0; i < count; i++) to[i] = from_bfloat16(halves[i]);
    }
}

/* e^x within 2 units in the last place; x is clamped to where that is finite and no denormal. */
INLINE float exponential(float x)
{
    x = x < -87.33654f ? -87.33654f : x;
    x = x > 88.02969f ? 88.02969f : x;
    float n = __builtin_rintf(x * 1.44269504f);
    float r = x - n * 0.693145752f - n * 1.42860677e-6f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    int32_t bits = (int32_t)(n == n ? n : 0.0f) + 127;
    uint32_t word = (uint32_t)bits << 23;
    float scale;
    memcpy(&scale, &word, sizeof scale);
    return p * scale;
}

INLINE float silu(float x) { return x / (1.0f + exponential(-x)); }

/* y[at] on = `count` of up to `most` values, which are rounded where y is bf16. */
INLINE void write_values(const float *values, const int most, int count, void *y, ptrdiff_t at,
                         const int kind)
{
    if (kind == FLOAT32 && count == most) memcpy((float *)y + at, values, most * sizeof *values);
    else
        for (int j = 0; j < count; j++)
            if (kind == FLOAT32) ((float *)y)[at + j] = values[j];
            else ((uint16_t *)y)[at + j] = to_bfloat16(values[j]);
}

/* Asks memory for bytes that are needed soon, into the second-level cache. */
INLINE void ask(const char *from, ptrdiff_t bytes)
{
    for (ptrdiff_t i = 0; i < bytes; i += 64) __builtin_prefetch(from + i, 0, 2);
}

/* What is needed soon, in one piece, of which some is asked for wherever a core would else leave
 * memory idle: between two streams, and while it waits. */
typedef struct {
    const char *from;
    ptrdiff_t bytes;
} Early;

INLINE void ask_some(Early *e, ptrdiff_t most)
{
    ptrdiff_t bytes = e->bytes < most ? e->bytes : most;
    if (bytes <= 0) return;
    ask(e->from, bytes);
    e->from += bytes, e->bytes -= bytes;
}

INLINE ptrdiff_t padded(ptrdiff_t n) { return (n + LANES - 1) / LANES * LANES; }

INLINE ptrdiff_t least(ptrdiff_t a, ptrdiff_t b) { return a < b ? a : b; }

#endif
