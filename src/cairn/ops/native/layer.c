/* A whole layer, x + mixer(norm(x)), for a few tokens in one call and one team of threads: what
 * stands around the products of decoding would else cost as much as they do. All in fp32.
 *
 * Each thread has a share of every matrix's rows. What follows a product element by element, its
 * thread does to its own share; a step that needs all of another begins at a barrier.
 */

#include "attention.c"

enum { SQUARED_RELU = 0, GELU_TANH = 1, SILU = 2 }; /* layer.py has the same numbers */

typedef struct {
    const float *x, *norm, *norm_bias; /* [T, D], [D], [D] or NULL: an RMSNorm */
    const float *first, *first_bias;   /* [inside, D], [inside] or NULL */
    const float *gate, *gate_bias;     /* the same, or NULL */
    const float *last, *last_bias;     /* [D, width], [D] or NULL */
    float *out, *room;                 /* [T, D], [T * (threads * D + 2 * inside + width)] */
    int64_t T, D, inside, width, activation;
    float eps;
    int64_t threads;
} Layer;

#define EARLY 32768 /* bytes of the next matrix that a thread asks for while it waits */

static void ask_for(const float *weight, ptrdiff_t inner, Share share)
{
    const char *from = (const char *)(weight + share.first * inner);
    ptrdiff_t bytes = least(EARLY, (share.stop - share.first) * inner * 4);
    for (ptrdiff_t i = 0; i < bytes; i += 64) __builtin_prefetch(from + i, 0, 2);
}

static float *projected_of(const Layer *l) { return l->room + l->threads * l->T * l->D; }

/* All rows of x normed, by every thread for itself: sooner than waiting for others. */
static const float *normed_for(const Layer *l, ptrdiff_t part)
{
    float *normed = l->room + part * l->T * l->D;
    for (ptrdiff_t t = 0; t < l->T; t++) {
        const float *row = l->x + t * l->D;
        float *to = normed + t * l->D;
        if (l->norm_bias) {
            layer_norm_row(row, l->norm, l->norm_bias, l->D, l->eps, to);
        } else {
            memcpy(to, row, (size_t)l->D * sizeof *to);
            norm_row(to, l->norm, FLOAT32, l->D, 1, l->eps);
        }
    }
    return normed;
}

/* A share of a product and its bias; rows of y are `apart` floats apart. */
static void product(const Layer *l, const float *x, ptrdiff_t inner, const float *weight,
                    const float *bias, float *y, ptrdiff_t apart, Share share)
{
    linear_share(x, weight, y, apart, l->T, inner, share);
    if (!bias) return;
    for (ptrdiff_t t = 0; t < l->T; t++)
        for (ptrdiff_t o = share.first; o < share.stop; o++) y[t * apart + o] += bias[o];
}

/* out = x + inner last^T + bias, a share of the columns. */
static void close_layer(const Layer *l, const float *inner, ptrdiff_t part)
{
    Share share = share_of(l->D, part, l->threads);
    product(l, inner, l->width, l->last, l->last_bias, l->out, l->D, share);
    for (ptrdiff_t t = 0; t < l->T; t++)
        for (ptrdiff_t o = share.first; o < share.stop; o++)
            l->out[t * l->D + o] += l->x[t * l->D + o];
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

static void feed_forward_inside(const Layer *l, float *inner, ptrdiff_t part)
{
    Share share = share_of(l->inside, part, l->threads);
    ptrdiff_t count = share.stop - share.first;
    const float *normed = normed_for(l, part);
    product(l, normed, l->D, l->first, l->first_bias, inner, l->inside, share);
    float *gate = inner + l->T * l->inside;
    if (l->gate) product(l, normed, l->D, l->gate, l->gate_bias, gate, l->inside, share);
    for (ptrdiff_t t = 0; t < l->T; t++) {
        float *up = inner + t * l->inside + share.first;
        const float *open = gate + t * l->inside + share.first;
        activate(l->gate ? (float *)open : up, count, l->activation);
        if (l->gate)
            for (ptrdiff_t i = 0; i < count; i++) up[i] *= open[i];
    }
    ask_for(l->last, l->width, share_of(l->D, part, l->threads));
}

/* Feed-forward; `width` is `inside`. */
void cairn_feed_forward_layer(const Layer *l)
{
    float *inner = projected_of(l);
#pragma omp parallel num_threads(l->threads)
    {
#pragma omp for schedule(static)
        for (ptrdiff_t part = 0; part < l->threads; part++) feed_forward_inside(l, inner, part);
#pragma omp for schedule(static)
        for (ptrdiff_t part = 0; part < l->threads; part++) close_layer(l, inner, part);
    }
}

/* Mamba-2: rows of `first` are z, xbc and dt; `width` is H * P. What of `m` depends on them is set
 * here. 0, or 1 where there is no memory to work in. */
int64_t cairn_mixer_layer(const Layer *l, Mixer *m)
{
    float *projected = projected_of(l), *inner = projected + l->T * l->inside;
    m->z = projected, m->xbc = projected + l->width, m->dt = projected + l->width + m->C;
    m->z_stride = m->xbc_stride = m->dt_stride = l->inside;
    m->kind = FLOAT32, m->threads = l->threads;
    m->y = inner, m->out = inner;
    float *memory = mixer_memory(m);
    if (!memory) return 1;
#pragma omp parallel num_threads(l->threads)
    {
#pragma omp for schedule(static)
        for (ptrdiff_t part = 0; part < l->threads; part++)
            product(l, normed_for(l, part), l->D, l->first, l->first_bias, projected, l->inside,
                    share_of(l->inside, part, l->threads));
#pragma omp for schedule(static)
        for (ptrdiff_t part = 0; part < l->threads; part++) {
            mixer_tasks(m, memory, part);
            ask_for(l->last, l->width, share_of(l->D, part, l->threads));
        }
#pragma omp for schedule(static)
        for (ptrdiff_t part = 0; part < l->threads; part++) mixer_rows(m, part);
#pragma omp for schedule(static)
        for (ptrdiff_t part = 0; part < l->threads; part++) close_layer(l, inner, part);
    }
    free(memory);
    return 0;
}

/* Attention over keys and values in pages: rows of `first`, those of q, and k and v of `a` stand
 * side by side in what is projected, `inside` wide together; `width` is H * P. */
void cairn_attention_layer(const Layer *l, Attention *a)
{
    ptrdiff_t wide = a->H * a->P, narrow = a->KV * a->P;
    float *projected = projected_of(l), *inner = projected + l->T * l->inside;
    a->projected = projected, a->apart = l->inside, a->out = inner;
#pragma omp parallel num_threads(l->threads)
    {
#pragma omp for schedule(static)
        for (ptrdiff_t part = 0; part < l->threads; part++) {
            const float *normed = normed_for(l, part);
            Share share = share_of(narrow, part, l->threads);
            product(l, normed, l->D, l->first, l->first_bias, projected, l->inside,
                    share_of(wide, part, l->threads));
            product(l, normed, l->D, a->k, a->k_bias, projected + wide, l->inside, share);
            product(l, normed, l->D, a->v, a->v_bias, projected + wide + narrow, l->inside, share);
            ask_for(l->last, l->width, share_of(l->D, part, l->threads));
        }
#pragma omp for schedule(static)
        for (ptrdiff_t i = 0; i < a->S * a->KV; i++) attend(a, i / a->KV, i % a->KV);
#pragma omp for schedule(static)
        for (ptrdiff_t part = 0; part < l->threads; part++) close_layer(l, inner, part);
    }
}
