/* A whole layer, x + mixer(norm(x)), for a few tokens in one call: what stands around the products
 * of decoding would else cost as much as they do. All in fp32. */

#include "vector.h"

typedef struct {
    const float *x, *norm, *first, *last; /* [T, D], [D], [inside, D], [D, width] */
    float *out, *room;                    /* [T, D], [T * (D + inside + width)] */
    int64_t T, D, inside, width;
    float eps;
    int64_t threads;
} Layer;

static float *open_layer(const Layer *l)
{
    float *normed = l->room, *projected = normed + l->T * l->D;
    cairn_norm(l->x, FLOAT32, NULL, 0, l->norm, FLOAT32, normed, FLOAT32, l->T, l->D, 1, l->eps, 1);
    cairn_linear(normed, l->first, projected, l->T, l->inside, l->D, FLOAT32, l->threads);
    return projected;
}

static void close_layer(const Layer *l, const float *inner)
{
    cairn_linear(inner, l->last, l->out, l->T, l->D, l->width, FLOAT32, l->threads);
    for (ptrdiff_t i = 0; i < l->T * l->D; i++) l->out[i] += l->x[i];
}

/* Feed-forward with squared ReLU: `width` is `inside`. */
void cairn_squared_relu_layer(const Layer *l)
{
    float *inner = open_layer(l);
    for (ptrdiff_t i = 0; i < l->T * l->inside; i++) {
        float x = inner[i] < 0 ? 0 : inner[i]; /* NaN stays */
        inner[i] = x * x;
    }
    close_layer(l, inner);
}

/* Mamba-2: rows of `first` are z, xbc and dt; `width` is H * P. What of `m` depends on them is set
 * here. 0, or 1 where there is no memory to work in. */
int64_t cairn_mixer_layer(const Layer *l, Mixer *m)
{
    float *projected = open_layer(l), *inner = projected + l->T * l->inside;
    m->z = projected, m->xbc = projected + l->width, m->dt = projected + l->width + m->C;
    m->z_stride = m->xbc_stride = m->dt_stride = l->inside;
    m->kind = FLOAT32;
    m->y = inner, m->out = inner;
    if (cairn_mixer(m)) return 1;
    close_layer(l, inner);
    return 0;
}
