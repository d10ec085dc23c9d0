/* What follows a call's layers: the last norm, and where it is asked for the output matrix, of which
 * the highest output of every row may be all that is kept. */

#include "stage.c"

/* The highest outputs so far, in every lane, and which they are: the first of equal ones. */
typedef struct {
    Vector value;
    Words which;
} Highest;

typedef struct Found {
    float value;
    uint32_t which;
} Found;

INLINE Words lanes_from(uint32_t first)
{
    Words lane;
    for (uint32_t i = 0; i < LANES; i++) lane[i] = first + i;
    return lane;
}

/* NaN is the highest of all, as torch has it. */
INLINE void look_at(Highest *seen, Vector v, Words which)
{
    Words takes = (Words)(v > seen->value) | (Words)((v != v) & (seen->value == seen->value));
    Words bits, old;
    memcpy(&bits, &v, sizeof bits), memcpy(&old, &seen->value, sizeof old);
    bits = (bits & takes) | (old & ~takes);
    memcpy(&seen->value, &bits, sizeof bits);
    seen->which = (which & takes) | (seen->which & ~takes);
}

/* Whether any of `count` outputs, a multiple of LANES, may be higher than what its lane has seen. */
static int may_exceed(const Highest *seen, const float *row, ptrdiff_t count)
{
    Words any = {0};
    for (ptrdiff_t i = 0; i < count; i += LANES)
        any |= (Words) ~(load(row + i) <= seen->value); /* NaN may */
    uint32_t found = 0;
    for (int i = 0; i < LANES; i++) found |= any[i];
    return found != 0;
}

/* Outputs `first` on of one row. */
static void look_through(Highest *seen, const float *row, ptrdiff_t count, ptrdiff_t first)
{
    ptrdiff_t i = 0;
    if (count % LANES == 0 && !may_exceed(seen, row, count)) return; /* most pieces */
    for (; i + LANES <= count; i += LANES)
        look_at(seen, load(row + i), lanes_from((uint32_t)(first + i)));
    if (i == count) return;
    Vector rest = splat(-INFINITY);
    for (ptrdiff_t j = i; j < count; j++) rest[j - i] = row[j];
    look_at(seen, rest, lanes_from((uint32_t)(first + i)));
}

static Found higher(Found a, Found b)
{
    int same = a.value == b.value || (a.value != a.value && b.value != b.value);
    if (same) return a.which < b.which ? a : b;
    return a.value > b.value || a.value != a.value ? a : b;
}

static Found highest_lane(const Highest *seen)
{
    Found best = {seen->value[0], seen->which[0]};
    for (int i = 1; i < LANES; i++)
        best = higher(best, (Found){seen->value[i], seen->which[i]});
    return best;
}

static const float *row_out(const Stage *s, ptrdiff_t t, float *normed)
{
    const Call *c = s->call;
    const float *row = s->x + t * c->D;
    if (!c->norm) return row;
    norm_to(row, c->norm, c->norm_bias, (int)c->norm_kind, c->D, c->eps, normed);
    return normed;
}

/* A worker's rows of what comes out. */
static void write_out(const Stage *s)
{
    const Call *c = s->call;
    const Worker *w = s->worker;
    for (ptrdiff_t t = w->part * c->T / w->parts; t < (w->part + 1) * c->T / w->parts; t++)
        write_row(row_out(s, t, s->normed), c->D, c->out, t * c->D, (int)c->out_kind);
}

/* All rows as they come out, by every thread for itself, rounded where that is bf16. */
static Rows output_rows(const Stage *s)
{
    const Call *c = s->call;
    int narrow = c->out_kind == BFLOAT16;
    for (ptrdiff_t t = 0; t < c->T; t++) {
        float *to = s->normed + t * c->D;
        const float *row = row_out(s, t, to);
        ask_some(s->early, ASKED_A_NORM);
        for (ptrdiff_t i = 0; i < c->D; i++)
            to[i] = narrow ? from_bfloat16(to_bfloat16(row[i])) : row[i];
    }
    return rows_of(s->normed, c->T, c->D, (int)c->norm_kind, narrow ? 1 : 2, s->packed);
}

/* A worker's share of the outputs of all rows: to `logits`, or looked through a piece at a time. */
static void output_matrix(const Stage *s)
{
    const Call *c = s->call;
    Rows rows = output_rows(s);
    Share share = own_share(s, c->O);
    ptrdiff_t apart = c->logits ? c->O : HANDED, row = c->D * bytes_of(rows.kind);
    Highest *seen = (Highest *)(s->piece + c->T * HANDED);
    for (ptrdiff_t t = 0; c->highest && t < c->T; t++)
        seen[t] = (Highest){splat(-INFINITY), lanes_from((uint32_t)share.first)};
    for (ptrdiff_t first = share.first; first < share.stop; first += HANDED) {
        Share piece = {first, least(first + HANDED, share.stop)};
        const char *next = (const char *)c->head + piece.stop * row;
        float *to = c->logits ? c->logits + first : s->piece;
        product(&rows, c->head, NULL, piece, to, apart, piece.stop < share.stop ? next : NULL);
        for (ptrdiff_t t = 0; c->highest && t < c->T; t++)
            look_through(seen + t, to + t * apart, piece.stop - first, first);
    }
    for (ptrdiff_t t = 0; c->highest && t < c->T; t++)
        s->found[s->worker->part * c->T + t] = highest_lane(seen + t);
}

/* The highest of all workers' outputs. */
static void write_highest(const Stage *s)
{
    const Call *c = s->call;
    for (ptrdiff_t t = 0; t < c->T; t++) {
        Found best = s->found[t];
        for (ptrdiff_t part = 1; part < s->worker->parts; part++)
            best = higher(best, s->found[part * c->T + t]);
        c->highest[t] = best.value, c->likeliest[t] = best.which;
    }
}
