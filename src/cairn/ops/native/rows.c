/* What stands between products of many rows, each in one pass over memory: residual sums with the
 * norm that follows, rotations of heads, activations. Computed in fp32. */

#ifndef CAIRN_ROWS_C
#define CAIRN_ROWS_C


/* total [rows, width] = residual + x, in the residual's kind; normed = the norm of that total in
 * x's kind. Without a residual the norm is x's and no total is written; without a bias it is an
 * RMSNorm. */
typedef struct {
    const void *x, *residual, *weight, *bias;
    void *normed, *total;
    int64_t x_kind, residual_kind, weight_kind, rows, width, threads;
    float eps;
} Norms;

/* row += x, and what the rounded sum is. */
static void add_row(const Norms *n, int64_t at, float *row, float *x)
{
    read_row(n->residual, at, n->width, (int)n->residual_kind, x);
    for (ptrdiff_t i = 0; i < n->width; i++) row[i] += x[i];
    write_row(row, n->width, n->total, at, (int)n->residual_kind);
    if (n->residual_kind != FLOAT32)
        read_row(n->total, at, n->width, (int)n->residual_kind, row);
}

void cairn_add_norm(const Norms *n)
{
#pragma omp parallel num_threads(n->threads) if (n->rows > 1)
    {
        float row[n->width], other[n->width];
#pragma omp for schedule(static)
        for (int64_t r = 0; r < n->rows; r++) {
            int64_t at = r * n->width;
            read_row(n->x, at, n->width, (int)n->x_kind, row);
            if (n->residual) add_row(n, at, row, other);
            norm_to(row, n->weight, n->bias, (int)n->weight_kind, n->width, n->eps, other);
            write_row(other, n->width, n->normed, at, (int)n->x_kind);
        }
    }
}

/* Heads [T, heads, P] of `kind`, tokens `apart` elements apart, turned by the angles of cos and sin
 * [T, R]: channel i < R makes a pair with channel R + i; `to` is in one piece. */
typedef struct {
    const void *x;
    const float *cos, *sin;
    void *to;
    int64_t kind, T, heads, P, R, apart, threads;
    float sign;
} Turns;

INLINE void turn_head(const Turns *a, const void *x, ptrdiff_t from, ptrdiff_t at, const float *cos,
                      const float *sin, const int kind)
{
    const ptrdiff_t R = a->R;
    float turned[2 * R];
#pragma omp simd
    for (ptrdiff_t i = 0; i < R; i++) {
        float first = element(x, from + i, kind), second = element(x, from + R + i, kind);
        float back = a->sign * sin[i];
        turned[i] = first * cos[i] - second * back;
        turned[R + i] = second * cos[i] + first * back;
    }
    write_row(turned, 2 * R, a->to, at, kind);
    if (2 * R < a->P)
        memcpy((char *)a->to + (at + 2 * R) * bytes_of(kind),
               (const char *)x + (from + 2 * R) * bytes_of(kind),
               (size_t)((a->P - 2 * R) * bytes_of(kind)));
}

void cairn_rotate(const Turns *a)
{
#pragma omp parallel for num_threads(a->threads) schedule(static) if (a->T > 1)
    for (int64_t t = 0; t < a->T; t++)
        for (ptrdiff_t h = 0; h < a->heads; h++) {
            ptrdiff_t from = t * a->apart + h * a->P, at = (t * a->heads + h) * a->P;
            const float *cos = a->cos + t * a->R, *sin = a->sin + t * a->R;
            if (a->kind == FLOAT32) turn_head(a, a->x, from, at, cos, sin, FLOAT32);
            else turn_head(a, a->x, from, at, cos, sin, BFLOAT16);
        }
}

#define PIECE 4096 /* numbers of an activation that stay in the first-level cache */

/* to [count] = activation(x [count]), as layer.c numbers them; both of `kind`. */
void cairn_activate(const void *x, void *to, int64_t count, int64_t kind, int64_t activation,
                    int64_t threads)
{
#pragma omp parallel for num_threads(threads) schedule(static) if (count > PIECE)
    for (int64_t at = 0; at < count; at += PIECE) {
        float piece[PIECE];
        ptrdiff_t here = least(PIECE, count - at);
        read_row(x, at, here, (int)kind, piece);
        activate(piece, here, activation);
        write_row(piece, here, to, at, (int)kind);
    }
}

#endif
