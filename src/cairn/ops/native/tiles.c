/* Products of a few rows with a weight in bf16 on AMX's matrix units, where the machine has them.
 *
 * A tile is 16 rows of the weight as they lie, 32 numbers (64 bytes) of each. The tokens are packed
 * once: pairs of numbers of 16 columns side by side. A number x of a token takes two columns, x
 * rounded to bf16 and what is left of it, rounded as well: together within 2^-17 of x, where bf16
 * itself is within 2^-9. Up to 8 tokens make one tile of columns, 9 to 16 make two. Of tokens that
 * are bf16 already nothing is left: 16 make one tile.
 */

#ifndef CAIRN_TILES_C
#define CAIRN_TILES_C

#include "pairs.c"
#include "vector.h"

#define STRIP 32 /* rows of the weight that go together: two tiles */
#define DEEP 32  /* numbers of a row that a tile holds */
#define SET 16   /* tokens of a pass over the weight */

enum { NO_MEMORY = 1, NO_TILES = 2 }; /* why nothing was computed: library.py has the same numbers */

#if LANES == 16 && defined(__linux__) && (defined(__clang__) || __GNUC__ >= 11)
#define HAVE_TILES

#include <cpuid.h>
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

#define WITH_TILES __attribute__((target("amx-tile,amx-bf16,avx512bf16")))
#define ASKED 4 /* tiles of both rows by which the weight is asked for before it is needed */

static int tiles_on = -1;

/* Linux gives the registers' 8 KB to a process that asks. */
static int has_tiles(void)
{
    enum { REQUEST = 0x1023, TILE_DATA = 18 };
    unsigned a, b, c, d;
    if (!has_pairs()) return 0;
    __cpuid_count(7, 0, a, b, c, d);
    if (!(d >> 22 & 1) || !(d >> 24 & 1)) return 0; /* AMX_BF16, AMX_TILE */
    return syscall(SYS_arch_prctl, REQUEST, TILE_DATA) == 0;
}

static int tiles_serve(void) { return tiles_on == 1; }

/* Tiles of columns of one set of tokens, of which each has one column or two. */
static ptrdiff_t halves_of(ptrdiff_t tokens, ptrdiff_t terms)
{
    return terms == 1 || tokens <= SET / 2 ? 1 : 2;
}

static ptrdiff_t packed_floats(ptrdiff_t tokens, ptrdiff_t inner)
{
    ptrdiff_t sets = (tokens + SET - 1) / SET;
    return sets * halves_of(tokens, 2) * inner / 2 * SET + 16;
}

/* v[i] lane j becomes v[j] lane i. */
INLINE void transpose(Words v[16])
{
    const Words lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
#pragma GCC unroll 4
    for (unsigned apart = 8; apart; apart /= 2) {
        const Words odd = (Words)((lane & apart) != 0);
        const Words first = (odd & (lane + 16 - apart)) | (~odd & lane);
        const Words second = (odd & (lane + 16)) | (~odd & (lane + apart));
#pragma GCC unroll 16
        for (unsigned i = 0; i < 16; i++)
            if (!(i & apart)) {
                Words a = v[i], b = v[i + apart];
                v[i] = __builtin_shuffle(a, b, first);
                v[i + apart] = __builtin_shuffle(a, b, second);
            }
    }
}

/* 32 numbers as pairs in bf16, and what is left of them. */
WITH_TILES INLINE void split(const float *x, Words *high, Words *low)
{
    __m512 a = _mm512_loadu_ps(x), b = _mm512_loadu_ps(x + 16);
    __m512i both = (__m512i)_mm512_cvtne2ps_pbh(b, a);
    __m512i first = _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm512_castsi512_si256(both)), 16);
    __m512i second
        = _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm512_extracti64x4_epi64(both, 1)), 16);
    a -= _mm512_castsi512_ps(first), b -= _mm512_castsi512_ps(second);
    __m512i left = (__m512i)_mm512_cvtne2ps_pbh(b, a);
    memcpy(high, &both, sizeof *high), memcpy(low, &left, sizeof *low);
}

/* What is packed: columns `from` to `from + count` of tokens whose rows are `inner` wide. */
typedef struct {
    ptrdiff_t tokens, inner, terms, from, count;
} Packing;

/* Those columns x [tokens, count] of up to SET tokens, rows `apart` apart, as tiles. */
WITH_TILES static void pack_set(const float *x, ptrdiff_t apart, ptrdiff_t tokens,
                                const Packing *p, ptrdiff_t halves, uint32_t *to)
{
    const Words none = {0};
    ptrdiff_t left = halves == 1 ? SET / 2 : SET; /* the column of the first token's rest */
    to += p->from / DEEP * halves * SET * SET;
    for (ptrdiff_t k = 0; k < p->count; k += DEEP) {
        Words columns[2 * SET], rest;
        for (ptrdiff_t i = 0; i < 2 * SET; i++) columns[i] = none;
        for (ptrdiff_t t = 0; t < tokens; t++)
            split(x + t * apart + k, columns + t, p->terms == 1 ? &rest : columns + left + t);
        for (ptrdiff_t half = 0; half < halves; half++, to += SET * SET) {
            transpose(columns + half * SET);
            memcpy(to, columns + half * SET, SET * sizeof *columns);
        }
    }
}

/* `from` and `count` are multiples of DEEP. */
static void pack(const float *x, ptrdiff_t apart, const Packing *p, float *to)
{
    ptrdiff_t halves = halves_of(p->tokens, p->terms), each = halves * p->inner / 2 * SET;
    for (ptrdiff_t t = 0; t < p->tokens; t += SET)
        pack_set(x + t * apart, apart, least(SET, p->tokens - t), p, halves,
                 (uint32_t *)to + t / SET * each);
}

WITH_TILES static void open_tiles(void)
{
    struct {
        uint8_t palette, start, nothing[14];
        uint16_t bytes[16];
        uint8_t rows[16];
    } shape = {.palette = 1};
    for (int i = 0; i < 8; i++) shape.bytes[i] = 64, shape.rows[i] = 16;
    _tile_loadconfig(&shape);
}

/* Rows of a block that goes together: STRIP times as many passes, each over every so many rows. */
#define PASSES 4
#define STREAM 4096 /* bytes from a row of a tile to the next, so that a page has one stream */

/* sums [halves][rows of a block][16 columns], `halves` a stride of `whole` floats apart: of a pass
 * over STRIP rows (half of them where not `both`), `apart` bytes apart, those that are `passes` rows
 * apart from each other in the sums. Meanwhile the weight is asked for ASKED tiles ahead, from `next`
 * on where these rows end. */
WITH_TILES INLINE void strip(const int both, const int halves, const char *weight, ptrdiff_t apart,
                             ptrdiff_t steps, const char *packed, const char *next, float *sums,
                             ptrdiff_t passes, ptrdiff_t whole)
{
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (ptrdiff_t k = 0; k < steps; k++) {
        const char *from = weight + k * 64, *columns = packed + k * halves * 1024;
        const char *ahead = k + ASKED < steps ? from + ASKED * 64 : next + (k + ASKED - steps) * 64;
        for (int i = 0; i < (both ? 32 : 16); i++) __builtin_prefetch(ahead + i * apart, 0, 2);
        _tile_loadd(4, from, apart);
        _tile_loadd(6, columns, 64);
        _tile_dpbf16ps(0, 4, 6);
        if (both) {
            _tile_loadd(5, from + 16 * apart, apart);
            _tile_dpbf16ps(2, 5, 6);
        }
        if (halves == 1) continue;
        _tile_loadd(7, columns + 1024, 64);
        _tile_dpbf16ps(1, 4, 7);
        if (both) _tile_dpbf16ps(3, 5, 7);
    }
    float *second = sums + passes * 256; /* 16 rows on */
    _tile_stored(0, sums, passes * 64);
    if (halves == 2) _tile_stored(1, sums + whole, passes * 64);
    if (both) _tile_stored(2, second, passes * 64);
    if (both && halves == 2) _tile_stored(3, second + whole, passes * 64);
}

/* Columns of the sums of 16 rows, added and turned: y[t][o] for `tokens` tokens. */
static void write_sums(const float *sums, ptrdiff_t halves, ptrdiff_t whole, ptrdiff_t terms,
                       ptrdiff_t tokens, void *y, ptrdiff_t at, ptrdiff_t apart, int kind)
{
    Words turned[16];
    for (int i = 0; i < 16; i++) {
        Vector row = load(sums + i * 16);
        if (halves == 2) row += load(sums + whole + i * 16);
        memcpy(turned + i, &row, sizeof row);
    }
    transpose(turned);
    for (ptrdiff_t t = 0; t < tokens; t++) {
        Vector total, rest;
        memcpy(&total, turned + t, sizeof total);
        if (halves < terms) memcpy(&rest, turned + t + SET / 2, sizeof rest), total += rest;
        store_as(y, at + t * apart, total, kind);
    }
}

/* How many passes a block of at most `count` rows takes. A tile's rows are in pages of their own
 * then, which passes read from beginning to end: what the processor foresees. Rows side by side, of
 * which four make a page, it does not: a fifth slower at 512 numbers a row. */
static ptrdiff_t passes_of(ptrdiff_t row, ptrdiff_t count)
{
    ptrdiff_t passes = PASSES;
    while (passes > 1 && (passes * row > STREAM || passes * STRIP > count)) passes /= 2;
    return passes;
}

/* `count` outputs, a multiple of 16, of tokens that were packed; `then` is asked for at the end. */
WITH_TILES static void tiled_outputs(const float *packed, const Packing *p, const char *weight,
                                     void *y, ptrdiff_t apart, int kind, ptrdiff_t count,
                                     const char *then)
{
    ptrdiff_t inner = p->inner, halves = halves_of(p->tokens, p->terms), row = inner * 2;
    ptrdiff_t steps = inner / DEEP;
    float sums[PASSES * STRIP * 16 * 2] ALIGNED;
    open_tiles();
    for (ptrdiff_t o = 0, passes; o < count; o += passes * STRIP) {
        passes = passes_of(row, count - o);
        const ptrdiff_t rows = least(passes * STRIP, count - o), wide = passes * row;
        const char *block = weight + o * row, *end = o + rows < count ? block + rows * row : then;
        const int both = rows >= STRIP;
        for (ptrdiff_t t = 0; t < p->tokens; t += SET) {
            const char *columns = (const char *)(packed + t / SET * halves * inner / 2 * SET);
            for (ptrdiff_t pass = 0; pass < passes; pass++) {
                const char *from = block + pass * row, *next = pass + 1 < passes ? from + row : end;
                float *to = sums + pass * 16;
                ptrdiff_t half = rows * 16;
                if (both && halves == 1)
                    strip(1, 1, from, wide, steps, columns, next, to, passes, half);
                else if (both) strip(1, 2, from, wide, steps, columns, next, to, passes, half);
                else if (halves == 1)
                    strip(0, 1, from, wide, steps, columns, next, to, passes, half);
                else strip(0, 2, from, wide, steps, columns, next, to, passes, half);
            }
            ptrdiff_t here = least(SET, p->tokens - t), at = t * apart + o;
            for (ptrdiff_t i = 0; i < rows; i += 16)
                write_sums(sums + i * 16, halves, rows * 16, p->terms, here, y, at + i, apart, kind);
        }
    }
    _tile_release();
}

#else

static int tiles_on;
static int has_tiles(void) { return 0; }
static int tiles_serve(void) { return 0; }
static ptrdiff_t packed_floats(ptrdiff_t tokens, ptrdiff_t inner)
{
    (void)tokens, (void)inner;
    return 0;
}

#endif

/* Whether products take matrix units, which is tried where `wanted`: 1 or 0. */
int64_t cairn_tiles(int64_t wanted)
{
    tiles_on = wanted && has_tiles();
    return tiles_on;
}

#endif
