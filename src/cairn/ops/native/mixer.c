/* What a Mamba-2 mixer does between its matrices (ops/mamba.py), for spans of any lengths.
 *
 * A task is some heads of one group over one span: it walks the span in chunks that stay in the
 * core's cache, and carries the state in between. Long chunks are computed as products (Mamba-2,
 * arXiv 2405.21060, section 6), short ones token by token. Windows are replaced, and gate and norm
 * applied, when all tasks are done.
 * Legend: T tokens, S spans, H heads, P head width, G groups, N state size, C channels, W taps
 * before the current one, Q tokens of a chunk, Hb heads of a task.
 */

#include <stdlib.h>

#include "norm.c"
#include "product.h"

#define CHUNK 64
#define SHORT 5 /* chunks below are computed token by token */

typedef struct {
    const void *z, *xbc, *dt; /* rows of `kind`, `stride` elements apart */
    int64_t z_stride, xbc_stride, dt_stride, kind;
    const void *conv, *conv_bias, *norm; /* of `weight_kind`; conv_bias may be NULL */
    int64_t weight_kind;
    const float *A_log, *D, *dt_bias;
    const int64_t *bounds, *slots; /* [S + 1], [S] */
    void *window;                  /* [slots, W, C] of `kind`, or NULL: no memory */
    float *state;                  /* [slots, H, P, N], or NULL */
    float *y;                      /* [T, H * P]; may be `out` */
    void *out;                     /* [T, H * P] of `kind` */
    int64_t S, H, P, G, N, C, W, norm_groups, blocks;
    float eps, dt_least, dt_most;
    int64_t threads;
} Mixer;

/* One thread's room, and the weights of the heads that it works on. */
typedef struct {
    float *taps, *bias;                /* [W + 1, mine], [mine]: mine = Hb * P + 2 * N channels */
    float *rows;                       /* [W + CHUNK, mine] inputs of the convolution */
    float *x, *B, *C;                  /* [CHUNK, Hb * Pp], [Np, CHUNK], [CHUNK, Np] */
    float *scores, *within;            /* [CHUNK, CHUNK] each */
    float *scaled, *ended, *y;         /* [CHUNK, Pp] each */
    float *state;                      /* [Hb, Np, Pp] */
    float *dt, *decay;                 /* [Hb, CHUNK] each */
    ptrdiff_t mine, Hb, Pp, Np;
} Room;

static size_t room_floats(const Mixer *m)
{
    ptrdiff_t Hb = m->H / m->G / m->blocks, Pp = padded(m->P), Np = padded(m->N);
    ptrdiff_t mine = padded(Hb * m->P + 2 * m->N);
    ptrdiff_t total = mine * (m->W + 2) + mine * (m->W + CHUNK) + CHUNK * Hb * Pp + 2 * CHUNK * Np
                    + 2 * CHUNK * CHUNK + 3 * CHUNK * Pp + Hb * Np * Pp + 2 * Hb * CHUNK;
    return (size_t)total + 32 * 16;
}

static float *take(float **free, ptrdiff_t count)
{
    float *found = *free;
    *free += (count + 15) / 16 * 16;
    return found;
}

static Room make_room(const Mixer *m, float *memory)
{
    Room r = {.Hb = m->H / m->G / m->blocks, .Pp = padded(m->P), .Np = padded(m->N)};
    r.mine = r.Hb * m->P + 2 * m->N;
    ptrdiff_t wide = padded(r.mine);
    r.taps = take(&memory, wide * (m->W + 1)), r.bias = take(&memory, wide);
    r.rows = take(&memory, wide * (m->W + CHUNK));
    r.x = take(&memory, CHUNK * r.Hb * r.Pp);
    r.B = take(&memory, r.Np * CHUNK), r.C = take(&memory, CHUNK * r.Np);
    r.scores = take(&memory, CHUNK * CHUNK), r.within = take(&memory, CHUNK * CHUNK);
    r.scaled = take(&memory, CHUNK * r.Pp), r.ended = take(&memory, CHUNK * r.Pp);
    r.y = take(&memory, CHUNK * r.Pp);
    r.state = take(&memory, r.Hb * r.Np * r.Pp);
    r.dt = take(&memory, r.Hb * CHUNK), r.decay = take(&memory, r.Hb * CHUNK);
    return r;
}

/* The channels of a task are three runs of those of xbc: x of its heads, B and C of its group. */
typedef struct {
    ptrdiff_t from[3], count[3];
} Runs;

static Runs runs_of(const Mixer *m, ptrdiff_t block)
{
    ptrdiff_t Hb = m->H / m->G / m->blocks, group = block / m->blocks, inner = m->H * m->P;
    return (Runs){{block * Hb * m->P, inner + group * m->N, inner + (m->G + group) * m->N},
                  {Hb * m->P, m->N, m->N}};
}

static void read_weights(const Mixer *m, Room *r, ptrdiff_t block)
{
    Runs runs = runs_of(m, block);
    ptrdiff_t at = 0, wide = padded(r->mine), taps = m->W + 1;
    for (int part = 0; part < 3; part++)
        for (ptrdiff_t i = 0; i < runs.count[part]; i++, at++) {
            ptrdiff_t channel = runs.from[part] + i;
            for (ptrdiff_t k = 0; k < taps; k++)
                r->taps[k * wide + at] = element(m->conv, channel * taps + k, (int)m->weight_kind);
            r->bias[at] = m->conv_bias ? element(m->conv_bias, channel, (int)m->weight_kind) : 0;
        }
}

/* rows[W + Q, mine]: the convolution's inputs from W tokens before `first` of the span on. */
static void read_inputs(const Mixer *m, Room *r, const Runs *runs, ptrdiff_t span, ptrdiff_t first,
                        ptrdiff_t Q)
{
    ptrdiff_t wide = padded(r->mine), W = m->W;
    for (ptrdiff_t row = 0; row < W + Q; row++) {
        ptrdiff_t position = first + row - W, at = 0;
        float *to = r->rows + row * wide;
        for (int part = 0; part < 3; part++) {
            ptrdiff_t count = runs->count[part], from = runs->from[part];
            if (position >= 0)
                read_row(m->xbc, (m->bounds[span] + position) * m->xbc_stride + from, count,
                         (int)m->kind, to + at);
            else if (m->window)
                read_row(m->window, (m->slots[span] * W + W + position) * m->C + from, count,
                         (int)m->kind, to + at);
            else memset(to + at, 0, (size_t)count * sizeof *to);
            at += count;
        }
        memset(to + at, 0, (size_t)(wide - at) * sizeof *to);
    }
}

/* The convolution of row q into `to` [mine]; in bf16 models it is rounded as the plain path does. */
static void convolve(const Mixer *m, const Room *r, ptrdiff_t q, float *restrict to)
{
    ptrdiff_t wide = padded(r->mine);
    const float *restrict in = r->rows + q * wide, *restrict taps = r->taps;
    const float *restrict bias = r->bias;
    if (m->W == 3) { /* the common case, in one pass */
#pragma omp simd
        for (ptrdiff_t i = 0; i < wide; i++) {
            float s = bias[i] + taps[i] * in[i] + taps[wide + i] * in[wide + i]
                    + taps[2 * wide + i] * in[2 * wide + i] + taps[3 * wide + i] * in[3 * wide + i];
            to[i] = silu(s);
        }
    } else {
        memcpy(to, bias, (size_t)wide * sizeof *to);
        for (ptrdiff_t k = 0; k <= m->W; k++)
            for (ptrdiff_t i = 0; i < wide; i++) to[i] += taps[k * wide + i] * in[k * wide + i];
#pragma omp simd
        for (ptrdiff_t i = 0; i < wide; i++) to[i] = silu(to[i]);
    }
    if (m->kind == BFLOAT16)
        for (ptrdiff_t i = 0; i < wide; i++) to[i] = from_bfloat16(to_bfloat16(to[i]));
}

static void read_steps(const Mixer *m, Room *r, ptrdiff_t head, ptrdiff_t token, ptrdiff_t Q)
{
    for (ptrdiff_t h = 0; h < r->Hb; h++)
        for (ptrdiff_t q = 0; q < Q; q++) {
            float raw = element(m->dt, (token + q) * m->dt_stride + head + h, (int)m->kind)
                      + m->dt_bias[head + h];
            float step = raw > 20 ? raw : log1pf(expf(raw)); /* as torch's softplus */
            step = step < m->dt_least ? m->dt_least : step;
            r->dt[h * CHUNK + q] = step > m->dt_most ? m->dt_most : step;
        }
}

/* One row of the state [N]: S = keep S + dt x B; returns <S, C>. */
INLINE float walk_row(float *S, float x, const float *B, const float *C, ptrdiff_t N, float keep,
                      float dt)
{
    Vector seen = splat(0);
    float given = dt * x, total = 0;
    ptrdiff_t n = 0;
    for (; n + LANES <= N; n += LANES) {
        Vector s = load(S + n) * splat(keep) + load(B + n) * splat(given);
        store(S + n, s);
        seen += s * load(C + n);
    }
    for (; n < N; n++) {
        S[n] = S[n] * keep + given * B[n];
        total += S[n] * C[n];
    }
    return total + sum(seen);
}

/* LANES rows of the state, N a multiple of LANES: y = S C + D x for all of them. */
INLINE void walk_rows(float *S, const float *x, const float *B, const float *C, ptrdiff_t N,
                      float keep, float dt, float D, float *y)
{
    Vector seen[LANES], input = load(x);
    for (int i = 0; i < LANES; i++) {
        float *row = S + i * N, given = dt * x[i];
        Vector total = splat(0);
        for (ptrdiff_t n = 0; n < N; n += LANES) {
            Vector s = load(row + n) * splat(keep) + load(B + n) * splat(given);
            __builtin_prefetch(row + n + 1024, 1);
            store(row + n, s);
            total += s * load(C + n);
        }
        seen[i] = total;
    }
    store(y, sums_of(seen) + splat(D) * input);
}

/* S = exp(dt A) S + dt x B^T and y = S C + D x, a token at a time; state [Hb, P, N] in place. */
static void walk(const Mixer *m, Room *r, ptrdiff_t head, ptrdiff_t token, ptrdiff_t Q,
                 float *states)
{
    ptrdiff_t P = m->P, N = m->N;
    for (ptrdiff_t q = 0; q < Q; q++) {
        float *mixed = r->x; /* [mine] */
        convolve(m, r, q, mixed);
        const float *B = mixed + r->Hb * P, *C = B + N;
        for (ptrdiff_t h = 0; h < r->Hb; h++) {
            float dt = r->dt[h * CHUNK + q], keep = expf(dt * -expf(m->A_log[head + h]));
            float *y = m->y + (token + q) * m->H * P + (head + h) * P;
            ptrdiff_t p = 0;
            if (N % LANES == 0)
                for (; p + LANES <= P; p += LANES)
                    walk_rows(states + (h * P + p) * N, mixed + h * P + p, B, C, N, keep, dt,
                              m->D[head + h], y + p);
            for (; p < P; p++)
                y[p] = walk_row(states + (h * P + p) * N, mixed[h * P + p], B, C, N, keep, dt)
                     + m->D[head + h] * mixed[h * P + p];
        }
    }
}

/* x [Q, Hb * Pp], B transposed [Np, CHUNK], C [Q, Np] of a chunk. */
static void mix_chunk(const Mixer *m, Room *r, ptrdiff_t Q)
{
    ptrdiff_t P = m->P, N = m->N;
    float mixed[padded(r->mine)] ALIGNED;
    for (ptrdiff_t q = 0; q < Q; q++) {
        convolve(m, r, q, mixed);
        for (ptrdiff_t h = 0; h < r->Hb; h++)
            memcpy(r->x + q * r->Hb * r->Pp + h * r->Pp, mixed + h * P, (size_t)P * sizeof *mixed);
        const float *B = mixed + r->Hb * P;
        for (ptrdiff_t n = 0; n < N; n++) r->B[n * CHUNK + q] = B[n];
        memcpy(r->C + q * r->Np, B + N, (size_t)N * sizeof *mixed);
    }
    for (ptrdiff_t n = 0; n < N; n++)
        for (ptrdiff_t q = Q; q < padded(Q); q++) r->B[n * CHUNK + q] = 0;
    multiply(Q, padded(Q), N, r->C, r->Np, r->B, CHUNK, r->scores, CHUNK, 0, 0);
}

/* One head over a chunk: y from what the chunk's tokens give each other and from the state, then
 * the state at the chunk's end; state [Np, Pp], transposed. */
static void head_chunk(const Mixer *m, Room *r, ptrdiff_t h, ptrdiff_t head, ptrdiff_t Q,
                       float *state)
{
    ptrdiff_t Pp = r->Pp;
    const float *dt = r->dt + h * CHUNK, *x = r->x + h * Pp;
    float *decay = r->decay + h * CHUNK, rate = -expf(m->A_log[head]), D = m->D[head], total = 0;
    for (ptrdiff_t q = 0; q < Q; q++) decay[q] = total += dt[q] * rate;
    multiply(Q, Pp, m->N, r->C, r->Np, state, Pp, r->y, Pp, 0, 0);
    for (ptrdiff_t q = 0; q < Q; q++) {
        const float *row = x + q * r->Hb * Pp;
        float from_start = exponential(decay[q]);
        float to_end = exponential(total - decay[q] < 0 ? total - decay[q] : 0) * dt[q];
        float *scaled = r->scaled + q * Pp, *ended = r->ended + q * Pp, *y = r->y + q * Pp;
        for (ptrdiff_t p = 0; p < Pp; p++) {
            scaled[p] = dt[q] * row[p];
            ended[p] = to_end * row[p];
            y[p] = from_start * y[p] + D * row[p];
        }
        float *within = r->within + q * CHUNK, here = decay[q];
        const float *scores = r->scores + q * CHUNK;
        ptrdiff_t stop = least(padded(q + 1), CHUNK);
#pragma omp simd
        for (ptrdiff_t j = 0; j < stop; j++) { /* clamped: rounding can make it positive */
            float distance = here - decay[j] < 0 ? here - decay[j] : 0;
            within[j] = j <= q ? scores[j] * exponential(distance) : 0;
        }
        for (ptrdiff_t j = stop; j < least(stop + ROWS, CHUNK); j++) within[j] = 0;
    }
    multiply(Q, Pp, Q, r->within, CHUNK, r->scaled, Pp, r->y, Pp, 1, 1);
    float kept = exponential(total);
    for (ptrdiff_t i = 0; i < m->N * Pp; i++) state[i] *= kept;
    multiply(m->N, Pp, Q, r->B, CHUNK, r->ended, Pp, state, Pp, 1, 0);
}

static void turn_in(const Mixer *m, const Room *r, const float *state, float *turned)
{
    for (ptrdiff_t h = 0; h < r->Hb; h++)
        for (ptrdiff_t p = 0; p < m->P; p++)
            for (ptrdiff_t n = 0; n < m->N; n++)
                turned[(h * r->Np + n) * r->Pp + p] = state[(h * m->P + p) * m->N + n];
}

static void turn_out(const Mixer *m, const Room *r, const float *turned, float *state)
{
    for (ptrdiff_t h = 0; h < r->Hb; h++)
        for (ptrdiff_t p = 0; p < m->P; p++)
            for (ptrdiff_t n = 0; n < m->N; n++)
                state[(h * m->P + p) * m->N + n] = turned[(h * r->Np + n) * r->Pp + p];
}

/* A span of which every chunk is long enough for products, but perhaps the last. */
static void long_span(const Mixer *m, Room *r, ptrdiff_t block, ptrdiff_t span, float *states)
{
    Runs runs = runs_of(m, block);
    ptrdiff_t head = block * r->Hb, start = m->bounds[span], length = m->bounds[span + 1] - start;
    size_t room = (size_t)(r->Hb * r->Np * r->Pp) * sizeof *r->state;
    memset(r->state, 0, room);
    if (states) turn_in(m, r, states, r->state);
    memset(r->x, 0, (size_t)(CHUNK * r->Hb * r->Pp) * sizeof *r->x);
    for (ptrdiff_t first = 0; first < length; first += CHUNK) {
        ptrdiff_t Q = least(CHUNK, length - first);
        read_inputs(m, r, &runs, span, first, Q);
        read_steps(m, r, head, start + first, Q);
        mix_chunk(m, r, Q);
        for (ptrdiff_t h = 0; h < r->Hb; h++) {
            head_chunk(m, r, h, head + h, Q, r->state + h * r->Np * r->Pp);
            for (ptrdiff_t q = 0; q < Q; q++)
                memcpy(m->y + (start + first + q) * m->H * m->P + (head + h) * m->P,
                       r->y + q * r->Pp, (size_t)m->P * sizeof *m->y);
        }
    }
    if (states) turn_out(m, r, r->state, states);
}

static void task(const Mixer *m, Room *r, ptrdiff_t block, ptrdiff_t span)
{
    ptrdiff_t head = block * r->Hb, start = m->bounds[span], length = m->bounds[span + 1] - start;
    ptrdiff_t each = m->P * m->N;
    float *states = m->state ? m->state + (m->slots[span] * m->H + head) * each : NULL;
    if (length >= SHORT) {
        long_span(m, r, block, span, states);
    } else if (length > 0) {
        Runs runs = runs_of(m, block);
        read_inputs(m, r, &runs, span, 0, length);
        read_steps(m, r, head, start, length);
        if (!states) memset(r->state, 0, (size_t)(r->Hb * each) * sizeof *r->state);
        walk(m, r, head, start, length, states ? states : r->state);
    }
}

/* The last W inputs of a span: what remains of the old window, then the span's. */
static void replace_window(const Mixer *m, ptrdiff_t span)
{
    ptrdiff_t bytes = m->kind == FLOAT32 ? 4 : 2, row = m->C * bytes;
    ptrdiff_t start = m->bounds[span], length = m->bounds[span + 1] - start;
    char *window = (char *)m->window + m->slots[span] * m->W * row;
    for (ptrdiff_t k = 0; k < m->W; k++) { /* rises, so that nothing is read that was replaced */
        ptrdiff_t position = length - m->W + k;
        const char *from = position < 0 ? window + (k + length) * row
            : (const char *)m->xbc + (start + position) * m->xbc_stride * bytes;
        if (length) memcpy(window + k * row, from, (size_t)row);
    }
}

/* A thread's part of the tasks, in its room. */
static void mixer_tasks(const Mixer *m, float *memory, ptrdiff_t part)
{
    ptrdiff_t all = m->G * m->blocks * m->S, last = -1;
    Room room = make_room(m, memory + (size_t)part * room_floats(m));
    for (ptrdiff_t i = part * all / m->threads; i < (part + 1) * all / m->threads; i++) {
        if (i / m->S != last) read_weights(m, &room, last = i / m->S);
        task(m, &room, last, i % m->S);
    }
}

/* When all tasks are done, a part of what is left: windows, and gate and norm of rows. */
static void mixer_rows(const Mixer *m, ptrdiff_t part)
{
    ptrdiff_t width = m->H * m->P, tokens = m->bounds[m->S];
    if (m->window)
        for (ptrdiff_t span = part; span < m->S; span += m->threads) replace_window(m, span);
    float row[width];
    for (ptrdiff_t t = part * tokens / m->threads; t < (part + 1) * tokens / m->threads; t++) {
        memcpy(row, m->y + t * width, (size_t)width * sizeof *row);
        gate_row(row, m->z, t * m->z_stride, width, (int)m->kind);
        norm_row(row, m->norm, (int)m->weight_kind, width, m->norm_groups, m->eps);
        write_row(row, width, m->out, t * width, (int)m->kind);
    }
}

static float *mixer_memory(const Mixer *m)
{
    float *memory = NULL;
    size_t bytes = room_floats(m) * (size_t)m->threads * sizeof *memory;
    return posix_memalign((void **)&memory, 64, bytes) ? NULL : memory;
}

/* 0, or 1 where there is no memory to work in. */
int64_t cairn_mixer(const Mixer *m)
{
    float *memory = mixer_memory(m);
    if (!memory) return 1;
#pragma omp parallel num_threads(m->threads)
    {
#pragma omp for schedule(static)
        for (ptrdiff_t part = 0; part < m->threads; part++) mixer_tasks(m, memory, part);
#pragma omp for schedule(static)
        for (ptrdiff_t part = 0; part < m->threads; part++) mixer_rows(m, part);
    }
    free(memory);
    return 0;
}
