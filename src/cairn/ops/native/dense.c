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
    return SQUARE * least(all, least(16, most(some, 2)));
}

/* Bytes of room: a slab, and the rows of every thread's task. */
static size_t dense_bytes(const Dense *d)
{
    return (size_t)((slab_of(d) + d->threads * task_of(d)) * d->K * 2);
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

/* Tokens `first` to `first` + SQUARE as [K / DEEP][2] tiles; those behind the last are zeros. */
static void pack_tokens(const Dense *d, ptrdiff_t first, char *to)
{
    for (ptrdiff_t i = 0; i < SQUARE; i++) {
        char *row = to + i / 16 * TILE + i % 16 * 64;
        const char *from = d->x + (first + i) * d->apart * 2;
        for (ptrdiff_t k = 0; k < d->K; k += DEEP, row += 2 * TILE)
            if (first + i < d->T) memcpy(row, from + k * 2, 64);
            else memset(row, 0, 64);
    }
}

/* sums [SQUARE][SQUARE] of packed tokens and a packed panel; meanwhile `wanted` bytes a step are
 * asked for from `next` on. */
WITH_TILES INLINE void square(const char *tokens, const char *panel, ptrdiff_t steps,
                              const char *next, ptrdiff_t wanted, float *sums)
{
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (ptrdiff_t k = 0; k < steps; k++, tokens += 2 * TILE, panel += 2 * TILE) {
        ask(next + k * wanted, wanted);
        _tile_loadd(4, tokens, 64);
        _tile_loadd(6, panel, 64);
        _tile_loadd(7, panel + TILE, 64);
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        _tile_loadd(5, tokens + TILE, 64);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    }
    _tile_stored(0, sums, SQUARE * 4);
    _tile_stored(1, sums + 16, SQUARE * 4);
    _tile_stored(2, sums + 16 * SQUARE, SQUARE * 4);
    _tile_stored(3, sums + 16 * SQUARE + 16, SQUARE * 4);
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

/* Sums with bias and activation into y: of the tokens from t on, the outputs from o on. */
WITH_TILES INLINE void finish(const Dense *d, const float *sums, ptrdiff_t t, ptrdiff_t o,
                              const int64_t activation)
{
    ptrdiff_t rows = least(SQUARE, d->T - t), count = least(SQUARE, d->O - o);
    float bias[SQUARE] = {0};
    if (d->bias) read_row(d->bias, o, count, BFLOAT16, bias);
    __m512 first = _mm512_loadu_ps(bias), second = _mm512_loadu_ps(bias + 16);
    for (ptrdiff_t i = 0; i < rows; i++) {
        __m512 a = activated(_mm512_loadu_ps(sums + i * SQUARE) + first, activation);
        __m512 b = activated(_mm512_loadu_ps(sums + i * SQUARE + 16) + second, activation);
        ptrdiff_t at = (t + i) * d->O + o;
        if (d->y_kind == BFLOAT16) {
            __m512i both = (__m512i)_mm512_cvtne2ps_pbh(b, a);
            memcpy((uint16_t *)d->y + at, &both, (size_t)count * 2);
        } else {
            float row[SQUARE];
            _mm512_storeu_ps(row, a), _mm512_storeu_ps(row + 16, b);
            memcpy((float *)d->y + at, row, (size_t)count * 4);
        }
    }
}

/* Tokens from t on, as many as a task has, times the panels `first` to `stop` of a slab. */
WITH_TILES static void dense_task(const Dense *d, ptrdiff_t t, ptrdiff_t slab, ptrdiff_t first,
                                  ptrdiff_t stop, const char *packed, char *own)
{
    ptrdiff_t each = d->K * 2 * SQUARE, tokens = least(task_of(d), d->T - t);
    ptrdiff_t part = (2 * TILE / ((tokens + SQUARE - 1) / SQUARE) + 63) / 64 * 64;
    float sums[SQUARE * SQUARE] ALIGNED;
    for (ptrdiff_t i = 0; i < tokens; i += SQUARE) pack_tokens(d, t + i, own + i * d->K * 2);
    for (ptrdiff_t panel = first; panel < stop; panel++)
        for (ptrdiff_t i = 0; i < tokens; i += SQUARE) {
            ptrdiff_t o = slab + panel * SQUARE;
            const char *next = packed + (panel + 1) * each + i / SQUARE * part * d->K / DEEP;
            square(own + i * d->K * 2, packed + panel * each, d->K / DEEP, next, part, sums);
            switch (d->activation) {
            case SQUARED_RELU: finish(d, sums, t + i, o, SQUARED_RELU); break;
            case GELU_TANH: finish(d, sums, t + i, o, GELU_TANH); break;
            case SILU: finish(d, sums, t + i, o, SILU); break;
            default: finish(d, sums, t + i, o, NONE);
            }
        }
}

/* One slab after another: packed by all, then tasks as threads come for them. */
WITH_TILES static void dense_slabs(const Dense *d, char *room, int64_t *next, const Worker *w)
{
    ptrdiff_t each = d->K * 2 * SQUARE, wide = slab_of(d);
    char *own = room + wide * d->K * 2 + w->part * task_of(d) * d->K * 2;
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

/* y = activation(x weight^T + bias), K a multiple of 32. 0, or 1 where there is no memory to work
 * in, or no matrix units. */
int64_t cairn_dense(const Dense *d)
{
    char *room = NULL;
    if (!tiles_serve() || posix_memalign((void **)&room, 64, dense_bytes(d))) return 1;
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
    return 1;
}

#endif

#endif
