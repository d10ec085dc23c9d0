/* A Mamba-2 mixer's arguments, the room of a task, and what a task reads: weights, inputs of the
 * convolution, which is computed here too, and time steps. The legend is mixer.c's. */

#ifndef CAIRN_MIXER_INPUTS_C
#define CAIRN_MIXER_INPUTS_C

#include <stdlib.h>

#include "norm.c"
#include "product.h"

#define CHUNK 64
#define SHORT 5 /* chunks below are computed token by token */

typedef struct {
    const void *z, *xbc, *dt; /* rows of `kind`, `stride` elements apart */
    int64_t z_stride, xbc_stride, dt_stride, kind;
    const void *conv, *conv_bias, *norm; /* of `weight_kind`; conv_bias may be NULL */
    int64_t weight_kind, window_kind;
    const float *A_log, *D, *dt_bias;
    const int64_t *bounds, *slots; /* [S + 1], [S] */
    void *window;                  /* [slots, W, C] of window_kind, or NULL: no memory */
    float *state;                  /* [slots, H, P, N], or NULL */
    float *y;                      /* [T, H * P]; may be `out` */
    void *out;                     /* [T, H * P] of `kind` */
    int64_t S, H, P, G, N, C, W, norm_groups;
    float eps, dt_least, dt_most;
    int64_t threads;
    int64_t blocks; /* parts of a group's heads, set here */
    int64_t only;   /* 0, or one more than the group that rows of xbc and y hold and no other */
} Mixer;

/* Parts that a group's heads are cut into, so that every thread has as much to do. Each part
 * convolves the group's B and C anew, so that fewer are better. */
static int64_t blocks_of(const Mixer *m)
{
    int64_t heads = m->H / m->G;
    for (int64_t parts = 1; parts < heads; parts++) {
        int64_t tasks = m->G * m->S * parts;
        if (heads % parts == 0 && (tasks % m->threads == 0 || tasks >= 8 * m->threads))
            return parts;
    }
    return heads;
}

/* One thread's room, and the weights of the heads that it works on. */
typedef struct {
    float *taps, *bias;                /* [W + 1, mine], [mine]: mine = Hb * P + 2 * N channels */
    float *rows;                       /* [W + CHUNK, mine] inputs of the convolution */
    float *x, *B, *C;                  /* [CHUNK, Hb * Pp], [Np, CHUNK], [CHUNK, Np] */
    float *scores, *within;            /* [CHUNK, CHUNK] each */
    float *scaled, *ended, *y;         /* [CHUNK, Pp] each */
    float *state;                      /* [Hb, Np, Pp] */
    float *dt, *decay;                 /* [Hb, CHUNK] each */
    float *rest;                       /* [CHUNK]: what a head's decays lost by rounding */
    ptrdiff_t mine, Hb, Pp, Np;
} Room;

static size_t room_floats(const Mixer *m)
{
    ptrdiff_t Hb = m->H / m->G / m->blocks, Pp = padded(m->P), Np = padded(m->N);
    ptrdiff_t mine = padded(Hb * m->P + 2 * m->N);
    ptrdiff_t total = mine * (m->W + 2) + mine * (m->W + CHUNK) + CHUNK * Hb * Pp + 2 * CHUNK * Np
                    + 2 * CHUNK * CHUNK + 3 * CHUNK * Pp + Hb * Np * Pp + (2 * Hb + 1) * CHUNK;
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
    r.rest = take(&memory, CHUNK);
    return r;
}

/* The channels of a task are three runs of all: x of its heads, B and C of its group. `at` is where
 * they are in a row of xbc. */
typedef struct {
    ptrdiff_t from[3], count[3], at[3];
} Runs;

static Runs runs_of(const Mixer *m, ptrdiff_t block)
{
    ptrdiff_t Hb = m->H / m->G / m->blocks, group = block / m->blocks, inner = m->H * m->P;
    Runs runs = {{block * Hb * m->P, inner + group * m->N, inner + (m->G + group) * m->N},
                 {Hb * m->P, m->N, m->N},
                 {0, Hb * m->P, Hb * m->P + m->N}};
    if (!m->only) memcpy(runs.at, runs.from, sizeof runs.at);
    return runs;
}

/* Where y of a token and a head is. */
static float *place_of(const Mixer *m, ptrdiff_t token, ptrdiff_t head)
{
    ptrdiff_t heads = m->only ? m->H / m->G : m->H, first = m->only ? (m->only - 1) * heads : 0;
    return m->y + (token * heads + head - first) * m->P;
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

#define ASKED_A_ROW 1024 /* bytes of what is needed next, for a row of inputs */

/* rows[W + Q, mine]: the convolution's inputs from W tokens before `first` of the span on. */
static void read_inputs(const Mixer *m, Room *r, const Runs *runs, ptrdiff_t span, ptrdiff_t first,
                        ptrdiff_t Q, Early *early)
{
    ptrdiff_t wide = padded(r->mine), W = m->W;
    for (ptrdiff_t row = 0; row < W + Q; row++) {
        ptrdiff_t position = first + row - W, at = 0;
        ask_some(early, ASKED_A_ROW);
        float *to = r->rows + row * wide;
        for (int part = 0; part < 3; part++) {
            ptrdiff_t count = runs->count[part], from = runs->from[part];
            if (position >= 0)
                read_row(m->xbc, (m->bounds[span] + position) * m->xbc_stride + runs->at[part],
                         count, (int)m->kind, to + at);
            else if (m->window)
                read_row(m->window, (m->slots[span] * W + W + position) * m->C + from, count,
                         (int)m->window_kind, to + at);
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

#endif
