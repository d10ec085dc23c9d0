/* Whole layers, x + mixer(norm(x)) one after another, for a few tokens in one call and one team of
 * threads: what stands around the products of decoding would else cost as much as they do. Embedding,
 * last norm and output matrix may go with them.
 *
 * Parameters are fp32 or bf16, all of a layer's alike; what is computed is fp32, the sum that goes
 * from layer to layer too. Each thread has a share of every matrix's rows. What follows a product
 * element by element, its thread does to its own share, a piece at a time, and packs it for the next
 * matrix; a step that needs all of another begins when the threads have met.
 * Legend: T tokens, S spans, D width.
 */

#include "mixer_layer.c"
#include "output.c"

static void activate(float *restrict x, ptrdiff_t count, int64_t activation)
{
    if (activation == SQUARED_RELU)
        for (ptrdiff_t i = 0; i < count; i++) {
            float above = x[i] < 0 ? 0 : x[i]; /* NaN stays */
            x[i] = above * above;
        }
    else if (activation == GELU_TANH) /* x / 2 (1 + tanh u) is x / (1 + e^(-2 u)) */
#pragma omp simd
        for (ptrdiff_t i = 0; i < count; i++) {
            float u = 0.797884561f * (x[i] + 0.044715f * x[i] * x[i] * x[i]);
            x[i] = x[i] / (1.0f + exponential(-2 * u));
        }
    else
#pragma omp simd
        for (ptrdiff_t i = 0; i < count; i++) x[i] = silu(x[i]);
}

/* Feed-forward; `width` is `inside`. */
static void feed_forward_layer(const Stage *s)
{
    const Layer *l = s->layer;
    Share share = own_share(s, l->inside);
    ptrdiff_t T = s->call->T, row = s->call->D * bytes_of((int)l->kind);
    float *up = s->piece, *gate = up + T * HANDED;
    Rows rows = normed_rows(s);
    for (ptrdiff_t first = share.first; first < share.stop; first += HANDED) {
        Share piece = {first, least(first + HANDED, share.stop)};
        ptrdiff_t count = piece.stop - first;
        const char *next = piece.stop < share.stop ? (const char *)l->first + piece.stop * row : NULL;
        product(&rows, l->first, l->first_bias, piece, up, HANDED, next);
        if (l->gate) {
            next = piece.stop < share.stop ? (const char *)l->gate + piece.stop * row : NULL;
            product(&rows, l->gate, l->gate_bias, piece, gate, HANDED, next);
        }
        for (ptrdiff_t t = 0; t < T; t++) {
            float *own = up + t * HANDED, *open = gate + t * HANDED;
            activate(l->gate ? open : own, count, l->activation);
            if (l->gate)
                for (ptrdiff_t i = 0; i < count; i++) own[i] *= open[i];
        }
        hand_over(s, up, HANDED, first, count);
    }
    ask_for_last(s);
    meet_asking(s->worker, s->early);
    rows = inner_rows(s);
    close_layer(s, &rows);
}

static Attends attends_of(const Stage *s)
{
    const Call *c = s->call;
    const Attention *a = s->layer->attention;
    return (Attends){
        .layer = a, .cos = c->cos, .sin = c->sin, .keys = s->memory[0], .values = s->memory[1],
        .table = c->tables[a->group], .bounds = c->bounds, .slots = c->slots, .past = c->past,
        .projected = s->projected, .out = s->inner, .apart = s->layer->inside, .R = c->R,
        .pages = c->pages, .kind = (int)s->layer->kind, .memory_kind = (int)c->memory_kind,
        .eps = s->layer->eps,
    };
}

/* Attention over keys and values in pages: q, k and v stand side by side in what is projected,
 * `inside` wide together; `width` is H * P. */
static void attention_layer(const Stage *s)
{
    const Layer *l = s->layer;
    const Attention *a = l->attention;
    const Worker *w = s->worker;
    ptrdiff_t wide = a->H * a->P, narrow = a->KV * a->P, tasks = s->call->S * a->KV;
    Attends call = attends_of(s);
    Share share = own_share(s, wide), few = own_share(s, narrow);
    Rows rows = normed_rows(s);
    float *q = s->projected + share.first, *k = s->projected + wide + few.first, *v = k + narrow;
    product(&rows, l->first, l->first_bias, share, q, l->inside, NULL);
    product(&rows, a->k, a->k_bias, few, k, l->inside, NULL);
    product(&rows, a->v, a->v_bias, few, v, l->inside, NULL);
    ask_for_last(s);
    meet_asking(w, s->early);
    for (ptrdiff_t i = w->part * tasks / w->parts; i < (w->part + 1) * tasks / w->parts; i++)
        attend(&call, i / a->KV, i % a->KV);
    meet_asking(w, s->early);
    rows = packed_rows(s);
    close_layer(s, &rows);
}

/* Asks for what a worker reads first of a layer's first matrix; attention has keys' and values'
 * elsewhere. */
static void ask_for_first(const Stage *s, const Layer *l)
{
    const Worker *w = s->worker;
    Share share = own_share(s, l->attention ? l->attention->H * l->attention->P : l->inside);
    if (l->mixer && by_groups(l->mixer, s->call->threads)) {
        ptrdiff_t G = l->mixer->G;
        share = (Share){w->part * G / w->parts * l->width / G, l->inside};
    }
    ask_for(s, l->first, share, s->call->D, (int)l->kind);
}

static void ask_for_head(const Stage *s)
{
    const Call *c = s->call;
    ask_for(s, c->head, own_share(s, c->O), c->D, (int)c->norm_kind);
}

/* The room's parts, in floats; normed, packed and piece are every worker's own. */
typedef struct {
    ptrdiff_t x, projected, inner, packed_inner, mixer, found, normed, packed, piece;
} Sizes;

static Sizes sizes_of(const Call *c, const Layer *layers, int64_t count)
{
    Sizes z = {.x = padded(c->T * c->D) + 16, .normed = c->T * c->D, .piece = 2 * c->T * HANDED};
    z.packed = rows_floats(c->T, c->D, (int)c->norm_kind), z.found = 2 * c->T * c->threads;
    for (int64_t i = 0; i < count; i++) {
        const Layer *l = layers + i;
        z.packed = most(z.packed, rows_floats(c->T, most(l->width, c->D), (int)l->kind));
        z.packed_inner = most(z.packed_inner, rows_floats(c->T, l->width, (int)l->kind));
        z.projected = most(z.projected, c->T * l->inside);
        z.inner = most(z.inner, c->T * l->width);
        if (!l->mixer) continue;
        Mixer m = *l->mixer;
        m.S = c->S, m.threads = c->threads, m.blocks = blocks_of(&m);
        ptrdiff_t own = by_groups(&m, c->threads) ? c->threads * group_floats(&m, c->T) : 0;
        z.mixer = most(z.mixer, own ? own : (ptrdiff_t)mixer_floats(&m));
    }
    ptrdiff_t *all = &z.x;
    for (size_t i = 0; i < sizeof z / sizeof z.x; i++) all[i] = (all[i] + 15) / 16 * 16;
    return z;
}

/* Bytes of `room` that a call needs. */
int64_t cairn_layers_room(const Call *c, const Layer *layers, int64_t count)
{
    Sizes z = sizes_of(c, layers, count);
    ptrdiff_t own = z.normed + z.packed + z.piece;
    return (z.x + z.projected + z.inner + z.packed_inner + z.mixer + z.found + own * c->threads) * 4;
}

/* A worker's columns of x. */
static void read_x(const Stage *s)
{
    const Call *c = s->call;
    ptrdiff_t from = s->worker->part * c->D / s->worker->parts;
    ptrdiff_t count = (s->worker->part + 1) * c->D / s->worker->parts - from;
    for (ptrdiff_t t = 0; t < c->T; t++) {
        ptrdiff_t row = c->tokens ? c->tokens[t] : t;
        read_row(c->x, row * c->D + from, count, (int)c->x_kind, s->x + t * c->D + from);
    }
}

static void run_layers(const Call *c, const Layer *layers, int64_t count, const Worker *w)
{
    Sizes z = sizes_of(c, layers, count);
    Early early = {NULL, 0};
    Stage s = {.call = c, .worker = w, .x = c->room, .early = &early};
    s.projected = s.x + z.x, s.inner = s.projected + z.projected;
    s.packed_inner = s.inner + z.inner, s.mixer = s.packed_inner + z.packed_inner;
    s.found = (Found *)(s.mixer + z.mixer);
    s.normed = s.mixer + z.mixer + z.found + w->part * (z.normed + z.packed + z.piece);
    s.packed = s.normed + z.normed, s.piece = s.packed + z.packed;
    read_x(&s);
    meet_asking(w, &early);
    for (int64_t i = 0; i < count; i++) {
        s.layer = layers + i, s.memory = c->memory ? c->memory + 2 * i : NULL;
        if (s.layer->mixer) mixer_layer(&s);
        else if (s.layer->attention) attention_layer(&s);
        else feed_forward_layer(&s);
        if (i + 1 < count) ask_for_first(&s, layers + i + 1);
        else if (c->head) ask_for_head(&s);
        meet_asking(w, &early);
    }
    if (c->out) write_out(&s);
    if (c->head) output_matrix(&s);
    meet_asking(w, &early);
    if (c->highest && w->part == 0) write_highest(&s);
    meet_asking(w, &early); /* near the region's end, where OpenMP lets threads sleep at once */
}

/* out = all layers, one after another, of x, and what the output matrix makes of it. 0, or 1 where a token is no row of x. */
int64_t cairn_layers(const Call *c, const Layer *layers, int64_t count)
{
    for (int64_t t = 0; c->tokens && t < c->T; t++)
        if (c->tokens[t] < 0 || c->tokens[t] >= c->V) return 1;
    Team team = {0};
#pragma omp parallel num_threads(c->threads)
    {
        Worker w = worker_of(&team);
        run_layers(c, layers, count, &w);
    }
    return 0;
}
