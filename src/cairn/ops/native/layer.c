/* Whole layers, x + mixer(norm(x)) one after another, for a few tokens in one call and one team of
 * threads: what stands around the products of decoding would else cost as much as they do.
 *
 * Parameters are fp32 or bf16, all of a layer's alike; what is computed is fp32, the sum that goes
 * from layer to layer too. Each thread has a share of every matrix's rows. What follows a product
 * element by element, its thread does to its own share; a step that needs all of another begins
 * when the threads have met.
 * Legend: T tokens, S spans, D width.
 */

#include "attention.c"

enum { SQUARED_RELU = 0, GELU_TANH = 1, SILU = 2 }; /* layer.py has the same numbers */

typedef struct {
    const void *norm, *norm_bias;   /* [D], [D] or NULL: an RMSNorm */
    const void *first, *first_bias; /* [inside, D], [inside] or NULL; of attention, for queries */
    const void *gate, *gate_bias;   /* the same, or NULL */
    const void *last, *last_bias;   /* [D, width], [D] or NULL */
    const Mixer *mixer;             /* or NULL: what the call sets is not set in it */
    const Attention *attention;     /* or NULL; with neither, feed-forward */
    int64_t inside, width;          /* of what is projected, and of what the last matrix reads */
    int64_t activation, kind;
    float eps;
} Layer;

typedef struct {
    const void *x;                        /* [T, D] of x_kind; with tokens, [V, D] */
    const int64_t *tokens;                /* [T]: rows of x, or NULL: all in order */
    const void *norm, *norm_bias;         /* [D] of norm_kind, of a norm behind all layers, or NULL */
    void *out;                            /* [T, D] of out_kind */
    void *const *memory;                  /* of every layer two: window and state, or keys and values */
    const float *cos, *sin;               /* [T, R], or NULL */
    const int64_t *const *tables;         /* of every group [slots, pages] */
    const int64_t *bounds, *slots, *past; /* [S + 1], [S], [S] */
    float *room;                          /* as much as `cairn_layers_room` says, at a multiple of 64 */
    int64_t x_kind, norm_kind, out_kind;
    int64_t memory_kind; /* of windows, keys and values; states are fp32 */
    int64_t T, S, D, R, V, pages, threads;
    float eps; /* of the norm behind all layers */
} Call;

/* What layers work in, and who. */
typedef struct {
    const Call *call;
    const Layer *layer;
    void *const *memory;
    float *x;               /* [T, D]: the sum, which the layer adds to */
    float *normed, *packed; /* the worker's own */
    float *projected, *inner, *mixer;
    const Worker *worker;
} Stage;

#define EARLY 32768 /* bytes of the next matrix that a thread asks for while it waits */

static Share own_share(const Stage *s, ptrdiff_t outputs)
{
    return share_of(outputs, s->worker->part, s->worker->parts);
}

/* Asks for what a product reads first of a thread's share: a few rows, or the beginning of many. */
static void ask_early(const Stage *s, const void *weight, ptrdiff_t outputs, ptrdiff_t inner,
                      int kind)
{
    Share share = own_share(s, outputs);
    ptrdiff_t row = inner * bytes_of(kind), rows = share.stop - share.first;
    ptrdiff_t each = s->call->T > VECTORS ? least(row, EARLY / STRIP) : row;
    const char *from = (const char *)weight + share.first * row;
    for (ptrdiff_t i = 0; i < least(rows, EARLY / each); i++) ask(from + i * row, each);
}

static void ask_for_last(const Stage *s)
{
    ask_early(s, s->layer->last, s->call->D, s->layer->width, (int)s->layer->kind);
}

/* The rows of its first matrix: attention has those of keys and values elsewhere. */
static void ask_for_first(const Stage *s, const Layer *l)
{
    ptrdiff_t outputs = l->attention ? l->attention->H * l->attention->P : l->inside;
    ask_early(s, l->first, outputs, s->call->D, (int)l->kind);
}

static Rows packed_rows(const Stage *s, const float *x, ptrdiff_t inner)
{
    return rows_of(x, s->call->T, inner, (int)s->layer->kind, s->packed);
}

static void norm_to(const float *row, const void *norm, const void *bias, int kind, ptrdiff_t D,
                    float eps, float *to)
{
    if (bias) {
        layer_norm_row(row, norm, bias, kind, D, eps, to);
    } else {
        memcpy(to, row, (size_t)D * sizeof *to);
        norm_row(to, norm, kind, D, 1, eps);
    }
}

/* All rows of x normed, by every thread for itself: sooner than waiting for others. */
static Rows normed_rows(const Stage *s)
{
    const Layer *l = s->layer;
    ptrdiff_t D = s->call->D;
    for (ptrdiff_t t = 0; t < s->call->T; t++)
        norm_to(s->x + t * D, l->norm, l->norm_bias, (int)l->kind, D, l->eps, s->normed + t * D);
    return packed_rows(s, s->normed, D);
}

/* A share of a product and its bias; rows of y are `apart` floats apart. */
static void product(const Rows *rows, const void *weight, const void *bias, float *y,
                    ptrdiff_t apart, Share share)
{
    multiply_rows(rows, weight, y, apart, FLOAT32, share);
    if (!bias) return;
    for (ptrdiff_t t = 0; t < rows->tokens; t++)
        for (ptrdiff_t o = share.first; o < share.stop; o++)
            y[t * apart + o] += element(bias, o, rows->kind);
}

/* x += inner last^T + bias, a share of the columns. */
static void close_layer(const Stage *s)
{
    ptrdiff_t D = s->call->D;
    Share share = own_share(s, D);
    Rows rows = packed_rows(s, s->inner, s->layer->width);
    product(&rows, s->layer->last, s->layer->last_bias, s->normed, D, share);
    for (ptrdiff_t t = 0; t < s->call->T; t++)
        for (ptrdiff_t o = share.first; o < share.stop; o++)
            s->x[t * D + o] += s->normed[t * D + o];
}

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
    ptrdiff_t count = share.stop - share.first;
    float *gate = s->projected;
    Rows rows = normed_rows(s);
    product(&rows, l->first, l->first_bias, s->inner, l->inside, share);
    if (l->gate) product(&rows, l->gate, l->gate_bias, gate, l->inside, share);
    for (ptrdiff_t t = 0; t < s->call->T; t++) {
        float *up = s->inner + t * l->inside + share.first;
        float *open = gate + t * l->inside + share.first;
        activate(l->gate ? open : up, count, l->activation);
        if (l->gate)
            for (ptrdiff_t i = 0; i < count; i++) up[i] *= open[i];
    }
    ask_for_last(s);
    meet(s->worker);
    close_layer(s);
}

/* The mixer of a layer with all that the call says: rows of `projected` are z, xbc and dt. */
static Mixer mixer_of(const Stage *s)
{
    const Call *c = s->call;
    Mixer m = *s->layer->mixer;
    float *projected = s->projected;
    m.z = projected, m.xbc = projected + s->layer->width;
    m.dt = projected + s->layer->width + m.C;
    m.z_stride = m.xbc_stride = m.dt_stride = s->layer->inside;
    m.kind = FLOAT32, m.weight_kind = s->layer->kind, m.window_kind = c->memory_kind;
    m.bounds = c->bounds, m.slots = c->slots, m.S = c->S, m.threads = c->threads;
    m.window = s->memory ? s->memory[0] : NULL, m.state = s->memory ? s->memory[1] : NULL;
    m.y = s->inner, m.out = s->inner;
    m.blocks = blocks_of(&m);
    return m;
}

/* Mamba-2: `width` is H * P. */
static void mixer_layer(const Stage *s)
{
    const Layer *l = s->layer;
    Mixer m = mixer_of(s);
    Rows rows = normed_rows(s);
    product(&rows, l->first, l->first_bias, s->projected, l->inside, own_share(s, l->inside));
    meet(s->worker);
    mixer_tasks(&m, s->mixer, s->worker);
    ask_for_last(s);
    meet(s->worker);
    mixer_rows(&m, s->worker);
    meet(s->worker);
    close_layer(s);
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
    Share share = own_share(s, narrow);
    Rows rows = normed_rows(s);
    float *projected = s->projected;
    product(&rows, l->first, l->first_bias, projected, l->inside, own_share(s, wide));
    product(&rows, a->k, a->k_bias, projected + wide, l->inside, share);
    product(&rows, a->v, a->v_bias, projected + wide + narrow, l->inside, share);
    ask_for_last(s);
    meet(w);
    for (ptrdiff_t i = w->part * tasks / w->parts; i < (w->part + 1) * tasks / w->parts; i++)
        attend(&call, i / a->KV, i % a->KV);
    meet(w);
    close_layer(s);
}

static ptrdiff_t most(ptrdiff_t a, ptrdiff_t b) { return a > b ? a : b; }

/* The room's parts, in floats; `own` is what every worker has. */
typedef struct {
    ptrdiff_t x, normed, packed, projected, inner, mixer, own;
} Sizes;

static Sizes sizes_of(const Call *c, const Layer *layers, int64_t count)
{
    Sizes z = {.x = padded(c->T * c->D) + 16, .normed = c->T * c->D};
    for (int64_t i = 0; i < count; i++) {
        const Layer *l = layers + i;
        ptrdiff_t widest = most(l->width, c->D);
        z.packed = most(z.packed, rows_floats(c->T, widest, (int)l->kind));
        z.projected = most(z.projected, c->T * l->inside);
        z.inner = most(z.inner, c->T * l->width);
        if (!l->mixer) continue;
        Mixer m = *l->mixer;
        m.S = c->S, m.threads = c->threads, m.blocks = blocks_of(&m);
        z.mixer = most(z.mixer, (ptrdiff_t)mixer_floats(&m));
    }
    ptrdiff_t *all[] = {&z.x, &z.normed, &z.packed, &z.projected, &z.inner, &z.mixer};
    for (int i = 0; i < 6; i++) *all[i] = (*all[i] + 15) / 16 * 16;
    z.own = z.normed + z.packed;
    return z;
}

/* Bytes of `room` that a call needs. */
int64_t cairn_layers_room(const Call *c, const Layer *layers, int64_t count)
{
    Sizes z = sizes_of(c, layers, count);
    return (z.x + z.projected + z.inner + z.mixer + z.own * c->threads) * 4;
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

/* A worker's rows of what comes out. */
static void write_out(const Stage *s)
{
    const Call *c = s->call;
    const Worker *w = s->worker;
    for (ptrdiff_t t = w->part * c->T / w->parts; t < (w->part + 1) * c->T / w->parts; t++) {
        const float *row = s->x + t * c->D;
        if (c->norm) {
            norm_to(row, c->norm, c->norm_bias, (int)c->norm_kind, c->D, c->eps, s->normed);
            row = s->normed;
        }
        write_row(row, c->D, c->out, t * c->D, (int)c->out_kind);
    }
}

static void run_layers(const Call *c, const Layer *layers, int64_t count, const Worker *w)
{
    Sizes z = sizes_of(c, layers, count);
    Stage s = {.call = c, .worker = w, .x = c->room};
    s.projected = s.x + z.x, s.inner = s.projected + z.projected, s.mixer = s.inner + z.inner;
    s.normed = s.mixer + z.mixer + w->part * z.own, s.packed = s.normed + z.normed;
    read_x(&s);
    meet(w);
    for (int64_t i = 0; i < count; i++) {
        s.layer = layers + i, s.memory = c->memory ? c->memory + 2 * i : NULL;
        if (s.layer->mixer) mixer_layer(&s);
        else if (s.layer->attention) attention_layer(&s);
        else feed_forward_layer(&s);
        if (i + 1 < count) ask_for_first(&s, layers + i + 1);
        meet(w);
    }
    write_out(&s);
    meet(w); /* near the region's end, where OpenMP lets threads sleep at once */
}

/* out = all layers, one after another, of x. 0, or 1 where a token is no row of x. */
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
