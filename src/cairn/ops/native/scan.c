/* The scan of Mamba-2 with its gradients, for training: fp32, spans of any lengths.
 *
 * A task is some heads of one group over one span, chunk by chunk (arXiv 2405.21060, section 6); the
 * backward goes through them from the last one on, and reads the states that the forward left. In a
 * chunk every step is a product of matrices that lie in the core's cache:
 *     y = from_start C S + (C B^T, decayed) xdt + D x,    S' = kept S + B^T (to_end xdt),
 * with xdt = dt x. What a gradient is of stands behind its g.
 * Legend: T tokens, S spans, H heads, P head width, G groups, N state size, Q tokens of a chunk, Hb
 * heads of a task; Pp and Np are padded to whole vectors. States are [N, P] here.
 */

#ifndef CAIRN_SCAN_C
#define CAIRN_SCAN_C


typedef struct {
    const float *x, *dt, *A, *B, *C, *D; /* [T, H, P], [T, H], [H], [T, G, N] twice, [H] */
    int64_t x_apart, B_apart, C_apart;   /* elements from token to token; the rest in one piece */
    const int64_t *bounds, *places;      /* [S + 1]; [S]: of each span's first state in `states` */
    const float *state;                  /* [S, H, P, N], or NULL: zeros */
    float *states; /* [.., H, Np, Pp]: before every chunk of a span, and after its last one */
    float *y, *last;                     /* [T, H, P], [S, H, P, N] */
    const float *gy, *g_last;            /* like y and last; either may be NULL: zeros */
    float *gx, *g_dt, *gA, *gD;          /* [T, H, P], [T, H], [S, H] twice */
    float *gB, *gC;                      /* [blocks, T, G, N]: of every part of the heads */
    float *g_state;                      /* [S, H, P, N], or NULL */
    int64_t T, S, H, P, G, N;
    int64_t blocks, threads; /* parts of a group's heads */
} Scan;

/* One thread's room: what a chunk has for all heads, and for the one at hand. */
typedef struct {
    float *Bt, *Ct, *gBt, *gCt;     /* [Np, CHUNK]: transposed */
    float *scores, *g_scores;       /* [CHUNK, CHUNK]; in the backward <B_j, C_i> at [j][i] */
    float *decay, *dt, *start, *end; /* [CHUNK]: sums of dt A, exp of them, exp of what follows */
    float *within, *pairs;          /* [CHUNK, CHUNK] */
    float *xdt, *gy, *g_xdt;        /* [CHUNK, Pp] */
    float *xdt_t, *gy_t;            /* [Pp, CHUNK] */
    float *state;                   /* [Hb, Np, Pp] */
    ptrdiff_t Hb, Pp, Np;
} ScanRoom;

static ScanRoom scan_room(const Scan *s, float *memory, size_t *floats)
{
    ScanRoom r = {.Hb = s->H / s->G / s->blocks, .Pp = padded(s->P), .Np = padded(s->N)};
    ptrdiff_t deep = r.Np * CHUNK, square = CHUNK * CHUNK, wide = CHUNK * r.Pp;
    struct { float **part; ptrdiff_t count; } parts[] = {
        {&r.Bt, deep}, {&r.Ct, deep}, {&r.gBt, deep}, {&r.gCt, deep}, {&r.scores, square},
        {&r.g_scores, square}, {&r.decay, CHUNK}, {&r.dt, CHUNK}, {&r.start, CHUNK},
        {&r.end, CHUNK}, {&r.within, square}, {&r.pairs, square}, {&r.xdt, wide}, {&r.gy, wide},
        {&r.g_xdt, wide}, {&r.xdt_t, wide}, {&r.gy_t, wide}, {&r.state, r.Hb * r.Np * r.Pp},
    };
    size_t total = 0;
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        *parts[i].part = memory ? memory + total : NULL;
        total += (size_t)(parts[i].count + 15) / 16 * 16;
    }
    if (floats) *floats = total;
    return r;
}

/* to[j][i] = from[i][j] for rows i and columns j, each from 0 to a multiple of LANES where `rows`
 * and `columns` end; what lies behind them has to be readable. */
static void turn_over(const float *from, ptrdiff_t apart, ptrdiff_t rows, ptrdiff_t columns,
                      float *to, ptrdiff_t to_apart)
{
    ptrdiff_t i = 0;
#ifdef HAVE_TILES
    for (; i + 16 <= rows; i += 16) {
        ptrdiff_t j = 0;
        for (; j + 16 <= columns; j += 16) {
            Words block[16];
            for (ptrdiff_t k = 0; k < 16; k++)
                memcpy(block + k, from + (i + k) * apart + j, sizeof *block);
            transpose(block);
            for (ptrdiff_t k = 0; k < 16; k++)
                memcpy(to + (j + k) * to_apart + i, block + k, sizeof *block);
        }
        for (; j < columns; j++)
            for (ptrdiff_t k = i; k < i + 16; k++) to[j * to_apart + k] = from[k * apart + j];
    }
#endif
    for (; i < rows; i++)
        for (ptrdiff_t j = 0; j < columns; j++) to[j * to_apart + i] = from[i * apart + j];
}

/* B or C [Q, N] of a chunk transposed, with zeros up to whole vectors of tokens. */
static void turn_chunk(const float *from, ptrdiff_t apart, ptrdiff_t Q, ptrdiff_t N, float *to)
{
    turn_over(from, apart, Q, N, to, CHUNK);
    for (ptrdiff_t n = 0; n < N && Q % LANES; n++)
        memset(to + n * CHUNK + Q, 0, (size_t)(padded(Q) - Q) * sizeof *to);
}

/* Rows [Q, P] as [Q, Pp], times a number each where given; zeros up to whole vectors both ways. */
static void read_rows(const float *from, ptrdiff_t apart, ptrdiff_t Q, ptrdiff_t P, ptrdiff_t Pp,
                      const float *times, float *to)
{
    for (ptrdiff_t q = 0; q < Q; q++) {
        float by = times ? times[q] : 1;
        for (ptrdiff_t p = 0; p < P; p++) to[q * Pp + p] = by * from[q * apart + p];
        for (ptrdiff_t p = P; p < Pp; p++) to[q * Pp + p] = 0;
    }
    memset(to + Q * Pp, 0, (size_t)((padded(Q) - Q) * Pp) * sizeof *to);
}

/* Time steps and decays of one head. */
static void read_decays(const Scan *s, ScanRoom *r, ptrdiff_t head, ptrdiff_t token, ptrdiff_t Q)
{
    float total = 0, rate = s->A[head];
    for (ptrdiff_t q = 0; q < Q; q++) {
        r->dt[q] = s->dt[(token + q) * s->H + head];
        r->decay[q] = total += r->dt[q] * rate;
    }
    for (ptrdiff_t q = Q; q < padded(Q); q++) r->dt[q] = 0, r->decay[q] = total;
#pragma omp simd
    for (ptrdiff_t q = 0; q < CHUNK; q++) {
        float left = total - r->decay[q] < 0 ? total - r->decay[q] : 0; /* rounding: not above */
        r->start[q] = exponential(r->decay[q]), r->end[q] = exponential(left);
    }
}

/* One head of a chunk forward: y, and the state [Np, Pp] at its end in place of that before. */
static void scan_head(const Scan *s, ScanRoom *r, ptrdiff_t head, ptrdiff_t group, ptrdiff_t token,
                      ptrdiff_t Q, float *state)
{
    ptrdiff_t P = s->P, Pp = r->Pp;
    const float *x = s->x + token * s->x_apart + head * P;
    float *y = r->g_xdt, kept;
    read_decays(s, r, head, token, Q);
    kept = r->start[Q - 1];
    read_rows(x, s->x_apart, Q, P, Pp, r->dt, r->xdt);
    multiply(Q, Pp, s->N, s->C + token * s->C_apart + group * s->N, s->C_apart, state, Pp, y, Pp, 0, 0);
    for (ptrdiff_t q = 0; q < Q; q++) {
        float *within = r->within + q * CHUNK, here = r->decay[q];
        for (ptrdiff_t p = 0; p < P; p++)
            y[q * Pp + p] = r->start[q] * y[q * Pp + p] + s->D[head] * x[q * s->x_apart + p];
#pragma omp simd
        for (ptrdiff_t j = 0; j < CHUNK; j++) {
            float distance = here - r->decay[j] < 0 ? here - r->decay[j] : 0;
            within[j] = j <= q ? r->scores[q * CHUNK + j] * exponential(distance) : 0;
        }
    }
    multiply(Q, Pp, Q, r->within, CHUNK, r->xdt, Pp, y, Pp, 1, 1);
    for (ptrdiff_t q = 0; q < Q; q++) {
        memcpy(s->y + ((token + q) * s->H + head) * P, y + q * Pp, (size_t)P * sizeof *y);
        for (ptrdiff_t p = 0; p < Pp; p++) r->xdt[q * Pp + p] *= r->end[q];
    }
    for (ptrdiff_t i = 0; i < s->N * Pp; i++) state[i] *= kept;
    multiply(s->N, Pp, Q, r->Bt, CHUNK, r->xdt, Pp, state, Pp, 1, 0);
}

/* States [P, N] of some heads as [Np, Pp], or back; the padding is zero. */
static void turn_states(const Scan *s, const ScanRoom *r, const float *from, float *to, int back)
{
    ptrdiff_t each = r->Np * r->Pp, own = s->P * s->N;
    for (ptrdiff_t h = 0; h < r->Hb; h++)
        if (back) turn_over(from + h * each, r->Pp, s->N, s->P, to + h * own, s->N);
        else turn_over(from + h * own, s->N, s->P, s->N, to + h * each, r->Pp);
}

static float *states_at(const Scan *s, const ScanRoom *r, ptrdiff_t span, ptrdiff_t chunk,
                        ptrdiff_t head)
{
    return s->states + ((s->places[span] + chunk) * s->H + head) * r->Np * r->Pp;
}

static void scan_task(const Scan *s, ScanRoom *r, ptrdiff_t block, ptrdiff_t span)
{
    ptrdiff_t head = block * r->Hb, group = block / s->blocks, each = r->Np * r->Pp;
    ptrdiff_t first = s->bounds[span], stop = s->bounds[span + 1], chunk = 0;
    size_t held = (size_t)(r->Hb * each) * sizeof *r->state;
    memset(r->state, 0, held);
    if (s->state) turn_states(s, r, s->state + (span * s->H + head) * s->P * s->N, r->state, 0);
    for (ptrdiff_t t = first; t < stop; t += CHUNK, chunk++) {
        ptrdiff_t Q = least(CHUNK, stop - t);
        const float *B = s->B + t * s->B_apart + group * s->N;
        const float *C = s->C + t * s->C_apart + group * s->N;
        memcpy(states_at(s, r, span, chunk, head), r->state, held);
        turn_chunk(B, s->B_apart, Q, s->N, r->Bt);
        multiply(Q, padded(Q), s->N, C, s->C_apart, r->Bt, CHUNK, r->scores, CHUNK, 0, 0);
        for (ptrdiff_t h = 0; h < r->Hb; h++)
            scan_head(s, r, head + h, group, t, Q, r->state + h * each);
    }
    memcpy(states_at(s, r, span, chunk, head), r->state, held);
    turn_states(s, r, r->state, s->last + (span * s->H + head) * s->P * s->N, 1);
}

/* What pairs of tokens of a chunk give: r->within[j][i] is what j gives to i, and r->g_scores gets
 * the gradient of <B_j, C_i>, both for i >= j. */
static void head_pairs(ScanRoom *r, ptrdiff_t Q, ptrdiff_t P)
{
    ptrdiff_t wide = padded(Q);
    multiply(Q, wide, P, r->xdt, r->Pp, r->gy_t, CHUNK, r->pairs, CHUNK, 0, 0);
    for (ptrdiff_t j = 0; j < Q; j++) {
        float there = r->decay[j];
        ptrdiff_t at = j * CHUNK;
#pragma omp simd
        for (ptrdiff_t i = 0; i < wide; i++) {
            float distance = r->decay[i] - there < 0 ? r->decay[i] - there : 0;
            float left = i >= j && i < Q ? exponential(distance) : 0;
            r->within[at + i] = r->scores[at + i] * left;
            r->g_scores[at + i] += r->pairs[at + i] * left;
        }
    }
}

/* Gradients of x, dt, A and D of one head, from r->g_xdt; `at_end` is that of the last decay. */
static void head_gradients(const Scan *s, ScanRoom *r, ptrdiff_t head, ptrdiff_t token, ptrdiff_t Q,
                           double at_end, float *gA, float *gD)
{
    ptrdiff_t P = s->P, Pp = r->Pp;
    float rate = s->A[head], D = s->D[head];
    double step = at_end, of_A = 0, of_D = 0;
    for (ptrdiff_t q = Q - 1; q >= 0; q--) {
        const float *x = s->x + (token + q) * s->x_apart + head * P;
        ptrdiff_t at = (token + q) * s->H + head;
        const float *y = s->y + at * P, *gy = r->gy + q * Pp, *g_xdt = r->g_xdt + q * Pp;
        float skip = 0, through = 0, seen = 0;
#pragma omp simd reduction(+ : skip, through, seen)
        for (ptrdiff_t p = 0; p < P; p++) {
            skip += gy[p] * x[p], through += g_xdt[p] * x[p], seen += gy[p] * y[p];
            s->gx[at * P + p] = r->dt[q] * g_xdt[p] + D * gy[p];
        }
        step += seen - D * skip - r->dt[q] * through; /* of decay q, which all after it hold */
        s->g_dt[at] = through + (float)step * rate;
        of_A += step * r->dt[q], of_D += skip;
    }
    *gA += (float)of_A, *gD += (float)of_D;
}

/* One head of a chunk backward: `g` [Np, Pp] is the gradient of the state at the chunk's end, and
 * becomes that of the state before it; `before` and `after` are these states. */
static void scan_head_backward(const Scan *s, ScanRoom *r, ptrdiff_t head, ptrdiff_t group,
                               ptrdiff_t token, ptrdiff_t Q, float *g, const float *before,
                               const float *after, float *gA, float *gD)
{
    ptrdiff_t P = s->P, Pp = r->Pp, N = s->N, wide = padded(Q);
    double at_end = 0;
    read_decays(s, r, head, token, Q);
    float kept = r->start[Q - 1];
    for (ptrdiff_t n = 0; n < N; n++) { /* every step's decay gets it: no rounding may add up */
        float row = 0;
#pragma omp simd reduction(+ : row)
        for (ptrdiff_t p = 0; p < Pp; p++) row += g[n * Pp + p] * after[n * Pp + p];
        at_end += row;
    }
    read_rows(s->x + token * s->x_apart + head * P, s->x_apart, Q, P, Pp, r->dt, r->xdt);
    read_rows(s->gy + (token * s->H + head) * P, s->H * P, Q, P, Pp, NULL, r->gy);
    turn_over(r->xdt, Pp, wide, Pp, r->xdt_t, CHUNK);
    turn_over(r->gy, Pp, wide, Pp, r->gy_t, CHUNK);
    head_pairs(r, Q, P);
    multiply(Q, Pp, N, s->B + token * s->B_apart + group * N, s->B_apart, g, Pp, r->g_xdt, Pp, 0, 0);
    for (ptrdiff_t q = 0; q < Q; q++)
        for (ptrdiff_t p = 0; p < Pp; p++) r->g_xdt[q * Pp + p] *= r->end[q];
    for (ptrdiff_t j = 0; j < Q; j += ROWS) /* from j on: before it nothing is given */
        multiply(least(ROWS, Q - j), Pp, Q - j, r->within + j * CHUNK + j, CHUNK, r->gy + j * Pp,
                 Pp, r->g_xdt + j * Pp, Pp, 1, 0);
    head_gradients(s, r, head, token, Q, at_end, gA, gD);
    for (ptrdiff_t p = 0; p < P; p++)
        for (ptrdiff_t q = 0; q < wide; q++) {
            r->xdt_t[p * CHUNK + q] *= r->end[q];
            r->gy_t[p * CHUNK + q] *= r->start[q];
        }
    multiply(N, wide, P, before, Pp, r->gy_t, CHUNK, r->gCt, CHUNK, 1, 0);
    multiply(N, wide, P, g, Pp, r->xdt_t, CHUNK, r->gBt, CHUNK, 1, 0);
    for (ptrdiff_t q = 0; q < Q; q++)
        for (ptrdiff_t p = 0; p < Pp; p++) r->gy[q * Pp + p] *= r->start[q];
    for (ptrdiff_t i = 0; i < N * Pp; i++) g[i] *= kept;
    multiply(N, Pp, Q, r->Ct, CHUNK, r->gy, Pp, g, Pp, 1, 0);
}

/* What pairs give B and C, summed over heads, and both gradients [Q, N] where they belong. */
static void give_back(const Scan *s, ScanRoom *r, ptrdiff_t Q, float *gB, float *gC)
{
    ptrdiff_t wide = padded(Q), N = s->N;
    multiply(N, wide, Q, r->Bt, CHUNK, r->g_scores, CHUNK, r->gCt, CHUNK, 1, 0);
    turn_over(r->g_scores, CHUNK, Q, wide, r->pairs, CHUNK); /* [i][j] */
    for (ptrdiff_t i = 0; i < Q; i++)
        for (ptrdiff_t j = Q; j < wide; j++) r->pairs[i * CHUNK + j] = 0;
    multiply(N, wide, Q, r->Ct, CHUNK, r->pairs, CHUNK, r->gBt, CHUNK, 1, 0);
    turn_over(r->gBt, CHUNK, N, Q, gB, s->G * N);
    turn_over(r->gCt, CHUNK, N, Q, gC, s->G * N);
}

static void scan_task_backward(const Scan *s, ScanRoom *r, ptrdiff_t block, ptrdiff_t span)
{
    ptrdiff_t head = block * r->Hb, group = block / s->blocks, each = r->Np * r->Pp, N = s->N;
    ptrdiff_t first = s->bounds[span], length = s->bounds[span + 1] - first;
    ptrdiff_t shift = block % s->blocks * s->T * s->G * N + group * N;
    ptrdiff_t here = (span * s->H + head) * s->P * N;
    float *gA = s->gA + span * s->H + head, *gD = s->gD + span * s->H + head;
    memset(r->state, 0, (size_t)(r->Hb * each) * sizeof *r->state);
    if (s->g_last) turn_states(s, r, s->g_last + here, r->state, 0);
    for (ptrdiff_t h = 0; h < r->Hb; h++) gA[h] = gD[h] = 0;
    for (ptrdiff_t chunk = (length + CHUNK - 1) / CHUNK - 1; chunk >= 0; chunk--) {
        ptrdiff_t t = first + chunk * CHUNK, Q = least(CHUNK, length - chunk * CHUNK);
        const float *B = s->B + t * s->B_apart + group * N, *C = s->C + t * s->C_apart + group * N;
        const float *before = states_at(s, r, span, chunk, head);
        const float *after = states_at(s, r, span, chunk + 1, head);
        turn_chunk(B, s->B_apart, Q, N, r->Bt);
        turn_chunk(C, s->C_apart, Q, N, r->Ct);
        multiply(Q, padded(Q), N, B, s->B_apart, r->Ct, CHUNK, r->scores, CHUNK, 0, 0);
        memset(r->gBt, 0, (size_t)(r->Np * CHUNK) * sizeof *r->gBt);
        memset(r->gCt, 0, (size_t)(r->Np * CHUNK) * sizeof *r->gCt);
        memset(r->g_scores, 0, (size_t)(CHUNK * CHUNK) * sizeof *r->g_scores);
        for (ptrdiff_t h = 0; h < r->Hb; h++)
            scan_head_backward(s, r, head + h, group, t, Q, r->state + h * each, before + h * each,
                               after + h * each, gA + h, gD + h);
        give_back(s, r, Q, s->gB + shift + t * s->G * N, s->gC + shift + t * s->G * N);
    }
    if (s->g_state) turn_states(s, r, r->state, s->g_state + here, 1);
}

/* Forward, or with `backward` the gradients of what it left. 0, or 1 where there is no memory. */
int64_t cairn_scan(const Scan *s, int64_t backward)
{
    size_t floats;
    float *memory = NULL;
    ptrdiff_t tasks = s->G * s->blocks * s->S;
    scan_room(s, NULL, &floats);
    if (posix_memalign((void **)&memory, 64, floats * (size_t)s->threads * sizeof *memory))
        return 1;
    memset(memory, 0, floats * (size_t)s->threads * sizeof *memory);
#pragma omp parallel num_threads(s->threads)
    {
        ScanRoom r = scan_room(s, memory + (size_t)omp_get_thread_num() * floats, NULL);
#pragma omp for schedule(dynamic)
        for (ptrdiff_t i = 0; i < tasks; i++)
            if (backward) scan_task_backward(s, &r, i / s->S, i % s->S);
            else scan_task(s, &r, i / s->S, i % s->S);
    }
    free(memory);
    return 0;
}

#endif
