/* What a Mamba-2 mixer does between its matrices (ops/mamba.py), for spans of any lengths.
 *
 * A task is some heads of one group over one span: it walks the span in chunks that stay in the
 * core's cache, and carries the state in between. Long chunks are computed as products (Mamba-2,
 * arXiv 2405.21060, section 6), short ones token by token. Windows are replaced, and gate and norm
 * applied, when all tasks are done.
 * Legend: T tokens, S spans, H heads, P head width, G groups, N state size, C channels, W taps
 * before the current one, Q tokens of a chunk, Hb heads of a task.
 */

#include "mixer_inputs.c"
#include "team.c"

#define STATES_AHEAD 1024 /* floats by which states are asked for before they are needed */

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

#define HELD (LANES / 2) /* vectors of a row of the state: 128 numbers with AVX-512 */

/* LANES rows of the state, N a multiple of LANES: y = S C + D x for all of them. Meanwhile as much
 * is asked for from `next` on. */
INLINE void walk_rows(float *S, const float *x, const float *B, const float *C, ptrdiff_t N,
                      float keep, float dt, float D, float *y, const float *next)
{
    Vector seen[LANES], input = load(x), b[HELD], c[HELD];
    const int held = N <= HELD * LANES; /* B and C stay in registers */
    for (int j = 0; held && j < N / LANES; j++) b[j] = load(B + j * LANES), c[j] = load(C + j * LANES);
    for (int i = 0; i < LANES; i++) {
        float *row = S + i * N, given = dt * x[i];
        Vector total = splat(0);
#pragma GCC unroll 8
        for (ptrdiff_t n = 0; n < N; n += LANES) {
            Vector right = held ? b[n / LANES] : load(B + n);
            Vector s = load(row + n) * splat(keep) + right * splat(given);
            __builtin_prefetch(next + i * N + n, 0, 2);
            store(row + n, s);
            total += s * (held ? c[n / LANES] : load(C + n));
        }
        seen[i] = total;
    }
    store(y, sums_of(seen) + splat(D) * input);
}

/* One head's state [P, N] over one token. `end` is where the states of the task end. */
static void walk_head(const Mixer *m, float *state, const float *x, const float *B, const float *C,
                      ptrdiff_t head, float dt, float *y, const float *end)
{
    ptrdiff_t P = m->P, N = m->N, p = 0;
    float keep = expf(dt * -expf(m->A_log[head])), D = m->D[head];
    for (; N % LANES == 0 && p + LANES <= P; p += LANES) {
        float *rows = state + p * N;
        const float *next = rows + STATES_AHEAD < end ? rows + STATES_AHEAD : rows;
        if (N == 128) walk_rows(rows, x + p, B, C, 128, keep, dt, D, y + p, next);
        else walk_rows(rows, x + p, B, C, N, keep, dt, D, y + p, next);
    }
    for (; p < P; p++) y[p] = walk_row(state + p * N, x[p], B, C, N, keep, dt) + D * x[p];
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
        for (ptrdiff_t h = 0; h < r->Hb; h++)
            walk_head(m, states + h * P * N, mixed + h * P, B, C, head + h, r->dt[h * CHUNK + q],
                      place_of(m, token + q, head + h), states + r->Hb * P * N);
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

/* Sums of dt A over a chunk, of which a pair of tokens has a difference: neighbours late in a chunk
 * would have few digits of it in fp32 alone. Returns the whole sum. */
static double sum_steps(const float *dt, float rate, ptrdiff_t Q, float *decay, float *rest)
{
    double total = 0;
    for (ptrdiff_t q = 0; q < Q; q++) {
        total += (double)dt[q] * rate;
        decay[q] = (float)total, rest[q] = (float)(total - decay[q]);
    }
    return total;
}

/* One head over a chunk: y from what the chunk's tokens give each other and from the state, then
 * the state at the chunk's end; state [Np, Pp], transposed. */
static void head_chunk(const Mixer *m, Room *r, ptrdiff_t h, ptrdiff_t head, ptrdiff_t Q,
                       float *state)
{
    ptrdiff_t Pp = r->Pp;
    const float *dt = r->dt + h * CHUNK, *x = r->x + h * Pp;
    float *decay = r->decay + h * CHUNK, *rest = r->rest, D = m->D[head];
    double total = sum_steps(dt, -expf(m->A_log[head]), Q, decay, rest);
    multiply(Q, Pp, m->N, r->C, r->Np, state, Pp, r->y, Pp, 0, 0);
    for (ptrdiff_t q = 0; q < Q; q++) {
        const float *row = x + q * r->Hb * Pp;
        float from_start = exponential(decay[q]);
        float left = (float)(total - decay[q] - rest[q]);
        float to_end = exponential(left < 0 ? left : 0) * dt[q];
        float *scaled = r->scaled + q * Pp, *ended = r->ended + q * Pp, *y = r->y + q * Pp;
        for (ptrdiff_t p = 0; p < Pp; p++) {
            scaled[p] = dt[q] * row[p];
            ended[p] = to_end * row[p];
            y[p] = from_start * y[p] + D * row[p];
        }
        float *within = r->within + q * CHUNK, here = decay[q], over = rest[q];
        const float *scores = r->scores + q * CHUNK;
        ptrdiff_t stop = least(padded(q + 1), CHUNK);
#pragma omp simd
        for (ptrdiff_t j = 0; j < stop; j++) { /* clamped: rounding can make it positive */
            float distance = here - decay[j] + (over - rest[j]);
            distance = distance < 0 ? distance : 0;
            within[j] = j <= q ? scores[j] * exponential(distance) : 0;
        }
        for (ptrdiff_t j = stop; j < least(stop + ROWS, CHUNK); j++) within[j] = 0;
    }
    multiply(Q, Pp, Q, r->within, CHUNK, r->scaled, Pp, r->y, Pp, 1, 1);
    float kept = exponential((float)total);
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
    Early nothing = {NULL, 0};
    memset(r->state, 0, room);
    if (states) turn_in(m, r, states, r->state);
    memset(r->x, 0, (size_t)(CHUNK * r->Hb * r->Pp) * sizeof *r->x);
    for (ptrdiff_t first = 0; first < length; first += CHUNK) {
        ptrdiff_t Q = least(CHUNK, length - first);
        read_inputs(m, r, &runs, span, first, Q, &nothing);
        read_steps(m, r, head, start + first, Q);
        mix_chunk(m, r, Q);
        for (ptrdiff_t h = 0; h < r->Hb; h++) {
            head_chunk(m, r, h, head + h, Q, r->state + h * r->Np * r->Pp);
            for (ptrdiff_t q = 0; q < Q; q++)
                memcpy(place_of(m, start + first + q, head + h), r->y + q * r->Pp,
                       (size_t)m->P * sizeof *m->y);
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
        Early early = {(const char *)states, states ? 4 * least(STATES_AHEAD, r->Hb * each) : 0};
        read_inputs(m, r, &runs, span, 0, length, &early);
        read_steps(m, r, head, start, length);
        if (!states) memset(r->state, 0, (size_t)(r->Hb * each) * sizeof *r->state);
        walk(m, r, head, start, length, states ? states : r->state);
    }
}

/* The last W inputs of a span, `count` channels from `from` on, which are at `at` in xbc: what
 * remains of the old window, then the span's. Kinds differ where a layer computes in fp32 and
 * remembers in bf16. */
static void replace_window(const Mixer *m, ptrdiff_t span, ptrdiff_t from, ptrdiff_t count,
                           ptrdiff_t at)
{
    ptrdiff_t each = bytes_of((int)m->window_kind), row = m->C * each;
    ptrdiff_t start = m->bounds[span], length = m->bounds[span + 1] - start;
    char *window = (char *)m->window + m->slots[span] * m->W * row + from * each;
    size_t bytes = (size_t)(count * each);
    if (!length) return;
    for (ptrdiff_t k = 0; k < m->W; k++) { /* rises, so that nothing is read that was replaced */
        ptrdiff_t position = length - m->W + k, place = (start + position) * m->xbc_stride + at;
        if (position < 0)
            memcpy(window + k * row, window + (k + length) * row, bytes);
        else if (m->kind == m->window_kind)
            memcpy(window + k * row, (const char *)m->xbc + place * each, bytes);
        else
            write_row((const float *)m->xbc + place, count, window + k * row, 0,
                      (int)m->window_kind);
    }
}

/* Asks for what a task finds in its span's window. */
static void ask_for_window(const Mixer *m, ptrdiff_t block, ptrdiff_t span)
{
    Runs runs = runs_of(m, block);
    ptrdiff_t bytes = bytes_of((int)m->window_kind);
    const char *window = (const char *)m->window + m->slots[span] * m->W * m->C * bytes;
    for (ptrdiff_t k = 0; k < m->W; k++)
        for (int part = 0; part < 3; part++)
            ask(window + (k * m->C + runs.from[part]) * bytes, runs.count[part] * bytes);
}

/* A worker's part of the tasks, in its room. */
static void mixer_tasks(const Mixer *m, float *memory, const Worker *w)
{
    ptrdiff_t all = m->G * m->blocks * m->S, last = -1;
    ptrdiff_t first = w->part * all / w->parts, stop = (w->part + 1) * all / w->parts;
    Room room = make_room(m, memory + (size_t)w->part * room_floats(m));
    for (ptrdiff_t i = first; i < stop; i++) {
        ptrdiff_t block = (i + 1) / m->S, span = (i + 1) % m->S;
        if (m->window && i + 1 < stop) ask_for_window(m, block, span);
        if (i / m->S != last) read_weights(m, &room, last = i / m->S);
        task(m, &room, last, i % m->S);
    }
}

/* The tasks of one group that rows of z, xbc and y hold alone, and all that follows: windows, and
 * y [T, heads * P] gated and normed in place. */
static void group_tasks(const Mixer *m, Room *r)
{
    ptrdiff_t group = m->only - 1, width = m->H / m->G * m->P;
    ptrdiff_t norms = m->norm_groups / m->G, kind = m->weight_kind;
    Runs runs = runs_of(m, group);
    read_weights(m, r, group);
    for (ptrdiff_t span = 0; span < m->S; span++) {
        if (m->window && span + 1 < m->S) ask_for_window(m, group, span + 1);
        task(m, r, group, span);
        for (int part = 0; m->window && part < 3; part++)
            replace_window(m, span, runs.from[part], runs.count[part], runs.at[part]);
    }
    const char *norm = (const char *)m->norm + group * width * bytes_of((int)kind);
    for (ptrdiff_t t = 0; t < m->bounds[m->S]; t++) {
        float *row = m->y + t * width;
        gate_row(row, m->z, t * m->z_stride, width, (int)m->kind);
        norm_row(row, norm, (int)kind, width, norms, m->eps);
    }
}

/* When all tasks are done, a part of what is left: windows, and gate and norm of rows. */
static void mixer_rows(const Mixer *m, const Worker *w)
{
    ptrdiff_t width = m->H * m->P, each = width / m->norm_groups;
    ptrdiff_t pieces = m->bounds[m->S] * m->norm_groups;
    ptrdiff_t first = w->part * m->C / w->parts, stop = (w->part + 1) * m->C / w->parts;
    for (ptrdiff_t span = 0; m->window && span < m->S; span++)
        replace_window(m, span, first, stop - first, first);
    float row[each];
    for (ptrdiff_t i = w->part * pieces / w->parts; i < (w->part + 1) * pieces / w->parts; i++) {
        ptrdiff_t t = i / m->norm_groups, from = i % m->norm_groups * each, at = t * width + from;
        const char *norm = (const char *)m->norm + from * bytes_of((int)m->weight_kind);
        memcpy(row, m->y + at, (size_t)each * sizeof *row);
        gate_row(row, m->z, t * m->z_stride + from, each, (int)m->kind);
        norm_row(row, norm, (int)m->weight_kind, each, 1, m->eps);
        write_row(row, each, m->out, at, (int)m->kind);
    }
}

static size_t mixer_floats(const Mixer *m) { return room_floats(m) * (size_t)m->threads; }

/* 0, or 1 where there is no memory to work in. */
int64_t cairn_mixer(const Mixer *given)
{
    Mixer m = *given;
    m.blocks = blocks_of(&m);
    float *memory = NULL;
    if (posix_memalign((void **)&memory, 64, mixer_floats(&m) * sizeof *memory)) return 1;
    Team team = {0};
#pragma omp parallel num_threads(m.threads)
    {
        Worker w = worker_of(&team);
        mixer_tasks(&m, memory, &w);
        meet(&w);
        mixer_rows(&m, &w);
    }
    free(memory);
    return 0;
}
