/* What a call over whole layers is given, what its threads share, and what layers have in common:
 * norms, products and the closing matrix. The legend is layer.c's. */

#ifndef CAIRN_STAGE_C
#define CAIRN_STAGE_C

#include "attention.c"
#include "linear.c"
#include "mixer.c"

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
    const void *head;                     /* [O, D] of norm_kind, behind that norm, or NULL */
    float *logits;                        /* [T, O], or NULL */
    float *highest;                       /* [T]: the highest of every row, or NULL */
    int64_t *likeliest;                   /* [T]: which that is, the first of equal ones */
    int64_t O;
} Call;

/* What layers work in, and who. */
typedef struct {
    const Call *call;
    const Layer *layer;
    void *const *memory;
    float *x;               /* [T, D]: the sum, which the layer adds to */
    float *normed, *packed; /* the worker's own */
    float *piece;           /* the worker's own: columns between a layer's matrices */
    float *projected;
    float *inner, *packed_inner; /* [T, width]: what the last matrix reads, as it is or packed */
    float *mixer;
    struct Found *found; /* [workers, T]: the highest outputs of every worker's share */
    const Worker *worker;
    Early *early; /* of the next matrix */
} Stage;

/* Bytes of the next matrix that a thread asks for: before it waits, at most, and for every row that
 * it norms. */
#define ASKED_FIRST 16384
#define ASKED_AT_MOST 131072
#define ASKED_A_NORM 8192
#define HANDED 128  /* columns that are computed and handed over together */

static Share own_share(const Stage *s, ptrdiff_t outputs)
{
    return share_of(outputs, s->worker->part, s->worker->parts);
}

/* From now on `rows` rows of a matrix are what is needed next. */
static void ask_for(const Stage *s, const void *weight, Share rows, ptrdiff_t inner, int kind)
{
    ptrdiff_t row = inner * bytes_of(kind), bytes = (rows.stop - rows.first) * row;
    *s->early = (Early){(const char *)weight + rows.first * row, least(ASKED_AT_MOST, bytes)};
    ask_some(s->early, ASKED_FIRST);
}

static void ask_for_last(const Stage *s)
{
    const Layer *l = s->layer;
    ask_for(s, l->last, own_share(s, s->call->D), l->width, (int)l->kind);
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
    ptrdiff_t D = s->call->D, T = s->call->T;
    for (ptrdiff_t t = 0; t < T; t++) {
        norm_to(s->x + t * D, l->norm, l->norm_bias, (int)l->kind, D, l->eps, s->normed + t * D);
        ask_some(s->early, ASKED_A_NORM);
    }
    return rows_of(s->normed, T, D, (int)l->kind, 2, s->packed);
}

/* Rows of a matrix: y [T, rows], its rows `apart` floats apart, with their bias; `then` is what is
 * asked for at the end, rows of the same width or NULL. */
static void product(const Rows *r, const void *weight, const void *bias, Share rows, float *y,
                    ptrdiff_t apart, const void *then)
{
    ptrdiff_t count = rows.stop - rows.first, row = r->inner * bytes_of(r->kind);
    multiply_rows(r, (const char *)weight + rows.first * row, y, apart, FLOAT32, count, then);
    if (!bias) return;
    for (ptrdiff_t t = 0; t < r->tokens; t++)
        for (ptrdiff_t o = 0; o < count; o++)
            y[t * apart + o] += element(bias, rows.first + o, r->kind);
}

/* What the last matrix reads, after `hand_over`. */
static Rows inner_rows(const Stage *s)
{
    ptrdiff_t T = s->call->T, width = s->layer->width;
    int kind = (int)s->layer->kind;
    const float *packed = packs(T, width, kind) ? s->packed_inner : NULL;
    return (Rows){s->inner, packed, T, width, kind, 2};
}

/* Columns `from` on of what the last matrix reads: x [T, count]. Where they are packed, both are
 * multiples of DEEP. Tiles take 16 outputs at a time; vectors, which do the rest, read what is not
 * packed. */
static void hand_over(const Stage *s, const float *x, ptrdiff_t apart, ptrdiff_t from,
                      ptrdiff_t count)
{
    Rows rows = inner_rows(s);
    if (rows.packed) {
        pack_columns(&rows, x, apart, from, count, s->packed_inner);
        if (s->call->D % 16 == 0) return;
    }
    for (ptrdiff_t t = 0; t < rows.tokens; t++)
        memcpy(s->inner + t * rows.inner + from, x + t * apart, (size_t)count * sizeof *x);
}

/* The same where no worker packed them: all of them, by every thread for itself. */
static Rows packed_rows(const Stage *s)
{
    const Layer *l = s->layer;
    return rows_of(s->inner, s->call->T, l->width, (int)l->kind, 2, s->packed);
}

/* x += inner last^T + bias, a share of the columns. */
static void close_layer(const Stage *s, const Rows *rows)
{
    ptrdiff_t D = s->call->D;
    Share share = own_share(s, D);
    product(rows, s->layer->last, s->layer->last_bias, share, s->normed, D, NULL);
    for (ptrdiff_t t = 0; t < s->call->T; t++) {
        float *x = s->x + t * D + share.first;
        for (ptrdiff_t o = 0; o < share.stop - share.first; o++) x[o] += s->normed[t * D + o];
    }
}

static ptrdiff_t most(ptrdiff_t a, ptrdiff_t b) { return a > b ? a : b; }

#endif
