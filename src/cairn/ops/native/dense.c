/* Products of many rows with a weight in bf16 on matrix units, and what follows every element.
 *
 * A slab of the weight is packed once: of 32 outputs and 32 numbers deep, two tiles with pairs of
 * numbers side by side. A task is some tokens, packed into tiles as they lie, times a part of the
 * slab: its rows and one panel stay in the core's cache. Sums are in fp32 over the whole depth;
 * bias and activation see them before they are rounded.
 * Legend: T tokens, O outputs, K depth.
 */

#ifndef CAIRN_DENSE_C
#define CAIRN_DENSE_C


typedef struct {
    const char *x, *weight; /* bf16 [T, K], rows `apart` elements apart; [O, K] */
    const void *bias;       /* bf16 [O], or NULL */
    const void *times;      /* bf16 [T, O] that the activation is multiplied with, or NULL */
    void *y;                /* [T, O] of y_kind */
    int64_t apart, T, O, K, y_kind;
    int64_t activation; /* of layer.c, or NONE */
    int64_t threads;
} Dense;

enum { NONE = -1 };

#ifdef HAVE_TILES

#define SQUARE 32        /* tokens and outputs of four tiles of sums */
#define TILE 1024        /* bytes */
#define SLAB (8 << 20)   /* bytes of the weight that are packed at a time */
#define MOST_SQUARES 8   /* of tokens, in a task */
#define OWN (768 << 10)  /* bytes of a task's tokens: they stay in the second-level cache */

/* Outputs of a slab, a multiple of SQUARE. */
static ptrdiff_t slab_of(const Dense *d)
{
    ptrdiff_t all = (d->O + SQUARE - 1) / SQUARE, some = SLAB / (d->K * 2 * SQUARE);
    return SQUARE * least(all, most(some, 1));
}

/* Tokens of a task, a multiple of SQUARE. */
static ptrdiff_t task_of(const Dense *d)
{
    ptrdiff_t all = (d->T + SQUARE - 1) / SQUARE, some = OWN / (d->K * 2 * SQUARE);
    return SQUARE * least(all, least(MOST_SQUARES, most(some, 2)));
}

/* Bytes of room: a slab, and a square of tokens for every thread. */
static size_t dense_bytes(const Dense *d)
{
    return (size_t)((slab_of(d) + d->threads * SQUARE) * d->K * 2);
}

/* Outputs `first` to `first` + SQUARE as [K / DEEP][2] tiles; those behind the last are zeros. */
static void pack_panel(const Dense *d, ptrdiff_t first, char *to)
{
    const Words none = {0};
    for (ptrdiff_t k = 0; k < d->K; k += DEEP)
        for (ptrdiff_t from = first; from < first + SQUARE; from += 16, to += TILE) {
            Words rows[16];
            for (ptrdiff_t i = 0; i < 16; i++) {
                rows[i] = none;
                if (from + i < d->O)
                    memcpy(rows + i, d->weight + ((from + i) * d->K + k) * 2, sizeof *rows);
            }
            transpose(rows);
            memcpy(to, rows, TILE);
        }
}

/* SQUARE tokens, and bytes from one to the next. */
typedef struct {
    const char *from;
    ptrdiff_t row;
} Taken;

/* The tokens from t on where they lie: no number of theirs is read twice while it is in the
 * first-level cache, so that packing gains nothing. Only where some are missing they are copied to
 * `room`, behind them zeros. */
static Taken take_tokens(const Dense *d, ptrdiff_t t, char *room)
{
    const char *from = d->x + t * d->apart * 2;
    ptrdiff_t row = d->K * 2, here = least(SQUARE, d->T - t);
    if (here == SQUARE) return (Taken){from, d->apart * 2};
    for (ptrdiff_t i = 0; i < here; i++)
        memcpy(room + i * row, from + i * d->apart * 2, (size_t)row);
    memset(room + here * row, 0, (size_t)((SQUARE - here) * row));
    return (Taken){room, row};
}

/* 2^x within 2e-7 of it, for x within 126 of zero; NaN stays. */
INLINE __m512 power_of_two(__m512 x)
{
    __m512 whole = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m512 rest = x - whole, p = _mm512_set1_ps(1.327646991e-3f);
    p = p * rest + 9.675542036e-3f;
    p = p * rest + 5.550713286e-2f;
    p = p * rest + 2.402211971e-1f;
    p = p * rest + 6.931469671e-1f;
    p = p * rest + 1.0f;
    return _mm512_scalef_ps(p, whole);
}

/* 1 / x within 2^-26 of it. */
INLINE __m512 reciprocal(__m512 x)
{
    __m512 r = _mm512_rcp14_ps(x);
    return r * (2.0f - x * r);
}

/* x / (1 + 2^z), z cut to where that is no overflow; NaN stays. */
INLINE __m512 over_power(__m512 x, __m512 z)
{
    z = _mm512_min_ps(_mm512_set1_ps(126), _mm512_max_ps(_mm512_set1_ps(-126), z));
    return x * reciprocal(power_of_two(z) + 1.0f);
}

INLINE __m512 activated(__m512 x, int64_t activation)
{
    if (activation == SQUARED_RELU) {
        x = _mm512_max_ps(_mm512_setzero_ps(), x); /* the second where one is NaN */
        return x * x;
    }
    if (activation == GELU_TANH) /* u = sqrt(2 / pi) (x + 0.044715 x^3); -2 u over log 2 */
        return over_power(x, x * (x * x * -0.10294324f - 2.3022082f));
    if (activation == SILU) return over_power(x, x * -1.44269504f);
    return x;
}

/* Sums [SQUARE][SQUARE] of the tokens from t on, the outputs from o on, and how many of each. */
typedef struct {
    float sums[SQUARE * SQUARE] ALIGNED;
    float bias[SQUARE] ALIGNED;
    ptrdiff_t t, o, rows, outputs;
} Square;

static void begin_square(const Dense *d, ptrdiff_t t, ptrdiff_t o, Square *to)
{
    to->t = t, to->o = o;
    to->rows = least(SQUARE, d->T - t), to->outputs = least(SQUARE, d->O - o);
    memset(to->bias, 0, sizeof to->bias);
    if (d->bias) read_row(d->bias, o, to->outputs, BFLOAT16, to->bias);
}

INLINE __m512 widened(__m256i halves)
{
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
}

/* Row i of y: sums with bias and activation. */
WITH_TILES INLINE void finish(const Dense *d, const Square *from, ptrdiff_t i,
                              const int64_t activation)
{
    const __mmask32 here = (__mmask32)(0xFFFFFFFFu >> (SQUARE - from->outputs));
    const float *sums = from->sums + i * SQUARE, *bias = from->bias;
    __m512 a = activated(_mm512_load_ps(sums) + _mm512_load_ps(bias), activation);
    __m512 b = activated(_mm512_load_ps(sums + 16) + _mm512_load_ps(bias + 16), activation);
    ptrdiff_t at = (from->t + i) * d->O + from->o;
    if (d->times) {
        const uint16_t *times = (const uint16_t *)d->times + at;
        __m512i row = _mm512_maskz_loadu_epi16(here, times);
        a *= widened(_mm512_castsi512_si256(row));
        b *= widened(_mm512_extracti64x4_epi64(row, 1));
    }
    if (d->y_kind == BFLOAT16) {
        __m512i both = (__m512i)_mm512_cvtne2ps_pbh(b, a);
        _mm512_mask_storeu_epi16((uint16_t *)d->y + at, here, both);
    } else {
        _mm512_mask_storeu_ps((float *)d->y + at, (__mmask16)here, a);
        _mm512_mask_storeu_ps((float *)d->y + at + 16, (__mmask16)(here >> 16), b);
    }
}

/* The sums of packed tokens and a packed panel. Between the products, which leave vectors idle, the
 * square before is finished, what this one will write is asked for, and so are `wanted` bytes a
 * step from `next` on. */
WITH_TILES INLINE void square(const Dense *d, Taken tokens, const char *panel,
                              const char *next, ptrdiff_t wanted, const Square *before, Square *to,
                              const int64_t activation)
{
    const ptrdiff_t steps = d->K / DEEP, row = d->O * bytes_of((int)d->y_kind);
    const char *y = (const char *)d->y + to->t * row + to->o * bytes_of((int)d->y_kind);
    ptrdiff_t finished = 0, asked = 0;
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (ptrdiff_t k = 0; k < steps; k++, tokens.from += 64, panel += 2 * TILE) {
        ask(next + k * wanted, wanted);
        _tile_loadd(4, tokens.from, tokens.row);
        _tile_loadd(6, panel, 64);
        _tile_loadd(7, panel + TILE, 64);
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        _tile_loadd(5, tokens.from + 16 * tokens.row, tokens.row);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
        for (; asked < to->rows && asked * steps < (k + 1) * SQUARE; asked++)
            __builtin_prefetch(y + asked * row, 0, 3);
        for (; finished < before->rows && finished * steps < (k + 1) * SQUARE; finished++)
            finish(d, before, finished, activation);
    }
    _tile_stored(0, to->sums, SQUARE * 4);
    _tile_stored(1, to->sums + 16, SQUARE * 4);
    _tile_stored(2, to->sums + 16 * SQUARE, SQUARE * 4);
    _tile_stored(3, to->sums + 16 * SQUARE + 16, SQUARE * 4);
}

/* Tokens from t on, as many as a task has, times the panels `first` to `stop` of a slab. */
WITH_TILES INLINE void squares_of(const Dense *d, ptrdiff_t t, ptrdiff_t slab, ptrdiff_t first,
                            ptrdiff_t stop, const char *packed, char *own, const int64_t activation)
{
    ptrdiff_t each = d->K * 2 * SQUARE, tokens = least(task_of(d), d->T - t);
    ptrdiff_t part = (2 * TILE / ((tokens + SQUARE - 1) / SQUARE) + 63) / 64 * 64;
    Square squares[2], *now = squares, *before = squares + 1;
    Taken taken[MOST_SQUARES];
    before->rows = 0;
    for (ptrdiff_t i = 0; i < tokens; i += SQUARE) taken[i / SQUARE] = take_tokens(d, t + i, own);
    for (ptrdiff_t panel = first; panel < stop; panel++)
        for (ptrdiff_t i = 0; i < tokens; i += SQUARE) {
            const char *next = packed + (panel + 1) * each + i / SQUARE * part * d->K / DEEP;
            begin_square(d, t + i, slab + panel * SQUARE, now);
            square(d, taken[i / SQUARE], packed + panel * each, next, part, before, now, activation);
            Square *done = now;
            now = before, before = done;
        }
    for (ptrdiff_t i = 0; i < before->rows; i++) finish(d, before, i, activation);
}

WITH_TILES static void dense_task(const Dense *d, ptrdiff_t t, ptrdiff_t slab, ptrdiff_t first,
                                  ptrdiff_t stop, const char *packed, char *own)
{
    switch (d->activation) {
    case SQUARED_RELU: squares_of(d, t, slab, first, stop, packed, own, SQUARED_RELU); break;
    case GELU_TANH: squares_of(d, t, slab, first, stop, packed, own, GELU_TANH); break;
    case SILU: squares_of(d, t, slab, first, stop, packed, own, SILU); break;
    default: squares_of(d, t, slab, first, stop, packed, own, NONE);
    }
}

/* One slab after another: packed by all, then tasks as threads come for them. */
WITH_TILES static void dense_slabs(const Dense *d, char *room, int64_t *next, const Worker *w)
{
    ptrdiff_t each = d->K * 2 * SQUARE, wide = slab_of(d);
    char *own = room + wide * d->K * 2 + w->part * SQUARE * d->K * 2;
    ptrdiff_t task = task_of(d), high = (d->T + task - 1) / task;
    open_tiles();
    for (ptrdiff_t slab = 0; slab < d->O; slab += wide) {
        ptrdiff_t panels = (least(wide, d->O - slab) + SQUARE - 1) / SQUARE;
        ptrdiff_t cuts = least(panels, (4 * w->parts + high - 1) / high);
        for (ptrdiff_t i = w->part; i < panels; i += w->parts)
            pack_panel(d, slab + i * SQUARE, room + i * each);
        if (!w->part) __atomic_store_n(next, 0, __ATOMIC_RELAXED);
        meet(w);
        for (;;) {
            ptrdiff_t i = __atomic_fetch_add(next, 1, __ATOMIC_RELAXED), cut = i / high;
            if (cut >= cuts) break;
            dense_task(d, i % high * task, slab, cut * panels / cuts, (cut + 1) * panels / cuts,
                       room, own);
        }
        meet(w);
    }
    _tile_release();
}

/* y = activation(x weight^T + bias) times, K a multiple of 32. 0, NO_MEMORY (to work in)
 * or NO_TILES. */
int64_t cairn_dense(const Dense *d)
{
    char *room = NULL;
    if (!tiles_serve()) return NO_TILES;
    if (posix_memalign((void **)&room, 64, dense_bytes(d))) return NO_MEMORY;
    Team team = {0};
    int64_t next = 0;
#pragma omp parallel num_threads(d->threads)
    {
        Worker w = worker_of(&team);
        dense_slabs(d, room, &next, &w);
    }
    free(room);
    return 0;
}

#else

int64_t cairn_dense(const Dense *d)
{
    (void)d;
    return NO_TILES;
}

#endif

#endif
