/* Causal attention of a few tokens over keys and values that lie in pages, in fp32 or bf16.
 *
 * A task is the query heads of one key head over one span: it turns and stores the new keys, and
 * reads what is remembered page by page, with running sums of the softmax (arXiv 2205.14135).
 * Legend: T tokens, S spans, H query heads, KV key heads, P head width, R rotated pairs.
 */

#include "norm.c"

#define PAGE 16 /* tokens; paging.py has the same number */

/* What an attention layer has besides its norm, its matrix of queries and its last matrix. */
typedef struct {
    const void *k, *k_bias, *v, *v_bias; /* [KV * P, D], [KV * P] or NULL, of the layer's kind */
    const void *q_norm, *k_norm;         /* [P] of an RMSNorm of every head, or NULL */
    int64_t H, KV, P;
    int64_t window;                      /* keys that a token sees, its own included; 0: all */
    int64_t group;                       /* which of the call's tables is its own */
} Attention;

/* One call of it. */
typedef struct {
    const Attention *layer;
    const float *cos, *sin;               /* [T, R], or NULL */
    void *keys, *values;                  /* [places, KV, P] of memory_kind */
    const int64_t *table;                 /* [slots, pages]: the page of every PAGE tokens */
    const int64_t *bounds, *slots, *past; /* [S + 1], [S], [S] */
    float *projected, *out;               /* [T, apart] with q, k, v side by side; [T, H * P] */
    ptrdiff_t apart, R, pages;
    int kind, memory_kind;                /* of parameters, of keys and values */
    float eps;
} Attends;

/* Norm and turn of one head of a token. */
static void turn(const Attends *a, float *head, const void *norm, ptrdiff_t token)
{
    if (norm) norm_row(head, norm, a->kind, a->layer->P, 1, a->eps);
    if (!a->cos) return;
    const float *cos = a->cos + token * a->R, *sin = a->sin + token * a->R;
    for (ptrdiff_t i = 0; i < a->R; i++) {
        float first = head[i], second = head[a->R + i];
        head[i] = first * cos[i] - second * sin[i];
        head[a->R + i] = second * cos[i] + first * sin[i];
    }
}

/* <a, b[at ..]> over whole vectors: to be reduced. */
INLINE Vector dot_vector(const float *a, const void *b, ptrdiff_t at, ptrdiff_t count,
                         const int kind)
{
    Vector sums = splat(0);
    for (ptrdiff_t i = 0; i + LANES <= count; i += LANES)
        sums += load(a + i) * load_as(b, at + i, kind);
    return sums;
}

/* scores[j] = <q, key j> of a page, for all tokens of it: what lies behind the last is finite or
 * not, and is not used. */
INLINE void score_page(const float *q, const void *keys, ptrdiff_t place, ptrdiff_t step,
                       ptrdiff_t P, float *scores, const int kind)
{
    for (ptrdiff_t first = 0; first < PAGE; first += LANES) {
        Vector sums[LANES];
        for (ptrdiff_t j = 0; j < LANES; j++)
            sums[j] = dot_vector(q, keys, place + (first + j) * step, P, kind);
        store(scores + first, sums_of(sums));
    }
    for (ptrdiff_t i = P / LANES * LANES; i < P; i++)
        for (ptrdiff_t j = 0; j < PAGE; j++)
            scores[j] += q[i] * element(keys, place + j * step + i, kind);
}

/* out = kept * out + the sum of weights[j] * value j, j from `from` to `to`. */
INLINE void add_values(float *out, float kept, const float *weights, const void *values,
                       ptrdiff_t place, ptrdiff_t step, ptrdiff_t P, ptrdiff_t from, ptrdiff_t to,
                       const int kind)
{
    ptrdiff_t i = 0;
    for (; i + LANES <= P; i += LANES) {
        Vector sum = load(out + i) * splat(kept);
        for (ptrdiff_t j = from; j < to; j++)
            sum += splat(weights[j]) * load_as(values, place + j * step + i, kind);
        store(out + i, sum);
    }
    for (; i < P; i++) {
        out[i] *= kept;
        for (ptrdiff_t j = from; j < to; j++)
            out[i] += weights[j] * element(values, place + j * step + i, kind);
    }
}

/* Of one query head: running maximum, sum and output. */
typedef struct {
    float most, total, *out;
} Seen;

/* One query head over the tokens `from` to `to` of the page that begins at element `place`. */
INLINE void attend_page(const Attends *a, const float *q, ptrdiff_t place, ptrdiff_t from,
                        ptrdiff_t to, Seen *seen, const int kind)
{
    ptrdiff_t step = a->layer->KV * a->layer->P, P = a->layer->P;
    float scores[PAGE] ALIGNED, scale = 1.0f / sqrtf((float)P), highest = seen->most, total = 0;
    score_page(q, a->keys, place, step, P, scores, kind);
    for (ptrdiff_t j = from; j < to; j++) {
        scores[j] *= scale;
        highest = scores[j] > highest ? scores[j] : highest;
    }
    float kept = seen->most == -INFINITY ? 0 : exponential(seen->most - highest);
#pragma omp simd
    for (ptrdiff_t j = 0; j < PAGE; j++) scores[j] = exponential(scores[j] - highest);
    for (ptrdiff_t j = from; j < to; j++) total += scores[j];
    add_values(seen->out, kept, scores, a->values, place, step, P, from, to, kind);
    seen->total = seen->total * kept + total;
    seen->most = highest;
}

/* The query heads of key head `head`, of the span's token at `position`. */
static void attend_token(const Attends *a, ptrdiff_t head, const int64_t *pages, ptrdiff_t token,
                         ptrdiff_t position)
{
    const Attention *l = a->layer;
    ptrdiff_t each = l->H / l->KV, P = l->P, stop = position + 1;
    ptrdiff_t start = l->window && stop > l->window ? stop - l->window : 0;
    Seen seen[each];
    float *out = a->out + token * l->H * P + head * each * P;
    const float *q = a->projected + token * a->apart + head * each * P;
    for (ptrdiff_t h = 0; h < each; h++) seen[h] = (Seen){-INFINITY, 0, out + h * P};
    memset(out, 0, (size_t)(each * P) * sizeof *out);
    for (ptrdiff_t at = start / PAGE * PAGE; at < stop; at += PAGE) {
        ptrdiff_t place = (pages[at / PAGE] * PAGE * l->KV + head) * P;
        ptrdiff_t from = start > at ? start - at : 0, to = least(PAGE, stop - at);
        for (ptrdiff_t h = 0; h < each; h++)
            if (a->memory_kind == FLOAT32)
                attend_page(a, q + h * P, place, from, to, seen + h, FLOAT32);
            else attend_page(a, q + h * P, place, from, to, seen + h, BFLOAT16);
    }
    for (ptrdiff_t h = 0; h < each; h++)
        for (ptrdiff_t i = 0; i < P; i++) out[h * P + i] /= seen[h].total;
}

static void attend(const Attends *a, ptrdiff_t span, ptrdiff_t head)
{
    const Attention *l = a->layer;
    ptrdiff_t each = l->H / l->KV, P = l->P, first = a->bounds[span];
    const int64_t *pages = a->table + a->slots[span] * a->pages;
    for (ptrdiff_t t = first; t < a->bounds[span + 1]; t++) {
        ptrdiff_t position = a->past[span] + t - first;
        ptrdiff_t place = pages[position / PAGE] * PAGE + position % PAGE;
        float *row = a->projected + t * a->apart, *k = row + (l->H + head) * P, *v = k + l->KV * P;
        turn(a, k, l->k_norm, t);
        write_row(k, P, a->keys, (place * l->KV + head) * P, a->memory_kind);
        write_row(v, P, a->values, (place * l->KV + head) * P, a->memory_kind);
        for (ptrdiff_t h = 0; h < each; h++) turn(a, row + (head * each + h) * P, l->q_norm, t);
    }
    for (ptrdiff_t t = first; t < a->bounds[span + 1]; t++)
        attend_token(a, head, pages, t, a->past[span] + t - first);
}
