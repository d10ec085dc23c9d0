/* Causal attention of a few tokens over keys and values that lie in pages, fp32.
 *
 * A task is the query heads of one key head over one span: it turns and stores the new keys, and
 * reads what is remembered page by page, with running sums of the softmax (arXiv 2205.14135).
 * Legend: T tokens, S spans, H query heads, KV key heads, P head width, R rotated pairs.
 */

#include "norm.c"

#define PAGE 16 /* tokens; paging.py has the same number */

typedef struct {
    const float *k, *k_bias, *v, *v_bias; /* [KV * P, D], [KV * P] or NULL */
    const float *q_norm, *k_norm;         /* [P] of an RMSNorm of every head, or NULL */
    const float *cos, *sin;               /* [T, R], or NULL */
    float *keys, *values;                 /* [places, KV, P] */
    const int64_t *table;                 /* [slots, pages]: the page of every PAGE tokens */
    const int64_t *bounds, *slots, *past; /* [S + 1], [S], [S] */
    float *projected, *out;               /* [T, apart] with q, k, v side by side; [T, H * P] */
    int64_t apart, S, H, KV, P, R, pages;
    int64_t window;                       /* keys that a token sees, its own included; 0: all */
    float eps;
} Attention;

/* Norm and turn of one head of a token. */
static void turn(const Attention *a, float *head, const float *norm, ptrdiff_t token)
{
    if (norm) norm_row(head, norm, FLOAT32, a->P, 1, a->eps);
    if (!a->cos) return;
    const float *cos = a->cos + token * a->R, *sin = a->sin + token * a->R;
    for (ptrdiff_t i = 0; i < a->R; i++) {
        float first = head[i], second = head[a->R + i];
        head[i] = first * cos[i] - second * sin[i];
        head[a->R + i] = second * cos[i] + first * sin[i];
    }
}

INLINE float dot(const float *a, const float *b, ptrdiff_t count)
{
    Vector sums = splat(0);
    ptrdiff_t i = 0;
    float rest = 0;
    for (; i + LANES <= count; i += LANES) sums += load(a + i) * load(b + i);
    for (; i < count; i++) rest += a[i] * b[i];
    return sum(sums) + rest;
}

/* One query head over the tokens `from` to `to` of a page: running maximum, sum and output. */
static void attend_page(const Attention *a, const float *q, const float *keys, const float *values,
                        ptrdiff_t from, ptrdiff_t to, float *most, float *sum_, float *out)
{
    ptrdiff_t step = a->KV * a->P, P = a->P;
    float scores[PAGE], scale = 1.0f / sqrtf((float)P), highest = *most;
    for (ptrdiff_t j = from; j < to; j++) {
        scores[j] = dot(q, keys + j * step, P) * scale;
        highest = scores[j] > highest ? scores[j] : highest;
    }
    float kept = *most == -INFINITY ? 0 : exponential(*most - highest), total = *sum_ * kept;
    for (ptrdiff_t i = 0; i < P; i++) out[i] *= kept;
    for (ptrdiff_t j = from; j < to; j++) {
        float weight = exponential(scores[j] - highest);
        const float *value = values + j * step;
        total += weight;
        for (ptrdiff_t i = 0; i < P; i++) out[i] += weight * value[i];
    }
    *most = highest, *sum_ = total;
}

/* The query heads of key head `head`, of the span's token at `position`. */
static void attend_token(const Attention *a, ptrdiff_t head, const int64_t *pages, ptrdiff_t token,
                         ptrdiff_t position)
{
    ptrdiff_t each = a->H / a->KV, P = a->P, stop = position + 1;
    ptrdiff_t start = a->window && stop > a->window ? stop - a->window : 0;
    float most[each], total[each];
    float *out = a->out + token * a->H * P + head * each * P;
    const float *q = a->projected + token * a->apart + head * each * P;
    for (ptrdiff_t h = 0; h < each; h++) most[h] = -INFINITY, total[h] = 0;
    memset(out, 0, (size_t)(each * P) * sizeof *out);
    for (ptrdiff_t at = start / PAGE * PAGE; at < stop; at += PAGE) {
        ptrdiff_t place = (pages[at / PAGE] * PAGE * a->KV + head) * P;
        ptrdiff_t from = start > at ? start - at : 0, to = least(PAGE, stop - at);
        for (ptrdiff_t h = 0; h < each; h++)
            attend_page(a, q + h * P, a->keys + place, a->values + place, from, to, most + h,
                        total + h, out + h * P);
    }
    for (ptrdiff_t h = 0; h < each; h++)
        for (ptrdiff_t i = 0; i < P; i++) out[h * P + i] /= total[h];
}

static void attend(const Attention *a, ptrdiff_t span, ptrdiff_t head)
{
    ptrdiff_t each = a->H / a->KV, P = a->P, first = a->bounds[span];
    const int64_t *pages = a->table + a->slots[span] * a->pages;
    for (ptrdiff_t t = first; t < a->bounds[span + 1]; t++) {
        ptrdiff_t position = a->past[span] + t - first;
        ptrdiff_t place = pages[position / PAGE] * PAGE + position % PAGE;
        float *row = a->projected + t * a->apart, *k = row + (a->H + head) * P, *v = k + a->KV * P;
        turn(a, k, a->k_norm, t);
        memcpy(a->keys + (place * a->KV + head) * P, k, (size_t)P * sizeof *k);
        memcpy(a->values + (place * a->KV + head) * P, v, (size_t)P * sizeof *v);
        for (ptrdiff_t h = 0; h < each; h++) turn(a, row + (head * each + h) * P, a->q_norm, t);
    }
    for (ptrdiff_t t = first; t < a->bounds[span + 1]; t++)
        attend_token(a, head, pages, t, a->past[span] + t - first);
}
