/* A Mamba-2 layer of a call. The legend is layer.c's and mixer.c's. */

#include "stage.c"

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
    m.blocks = blocks_of(&m), m.only = 0;
    return m;
}

/* Whether every thread takes whole groups, from the first matrix's rows to the gated norm, so that
 * nobody waits and what is computed stays in the core's cache. */
static int by_groups(const Mixer *m, int64_t threads)
{
    return m->G % threads == 0 && m->norm_groups % m->G == 0 && m->H / m->G * m->P % DEEP == 0;
}

/* A worker's floats: rows of z, x, B and C of one group, its y, all time steps, and a task's room. */
typedef struct {
    ptrdiff_t rows, y, steps, task;
} GroupSizes;

static GroupSizes group_sizes(const Mixer *m, ptrdiff_t T)
{
    ptrdiff_t width = m->H / m->G * m->P;
    Mixer whole = *m;
    whole.blocks = 1;
    return (GroupSizes){padded(T * 2 * (width + m->N)), padded(T * width), padded(T * m->H),
                        padded((ptrdiff_t)room_floats(&whole))};
}

static ptrdiff_t group_floats(const Mixer *m, ptrdiff_t T)
{
    GroupSizes z = group_sizes(m, T);
    return z.rows + z.y + z.steps + z.task;
}

/* The parts of the first matrix's rows that are a group's: z, x, B and C. */
static void group_parts(const Mixer *m, ptrdiff_t group, Share parts[4])
{
    ptrdiff_t width = m->H / m->G * m->P, inner = m->H * m->P, N = m->N;
    ptrdiff_t first[] = {group * width, inner + group * width, 2 * inner + group * N,
                         2 * inner + (m->G + group) * N};
    for (int i = 0; i < 4; i++) parts[i] = (Share){first[i], first[i] + (i < 2 ? width : N)};
}

/* z, x, B and C of a group side by side into m's rows; with `steps`, those of all heads too. */
static void project_group(const Stage *s, const Mixer *m, const Rows *rows, ptrdiff_t group,
                          float *steps)
{
    const Layer *l = s->layer;
    ptrdiff_t row = rows->inner * bytes_of(rows->kind), apart = m->xbc_stride, at = 0;
    Share parts[5];
    group_parts(m, group, parts);
    parts[4] = (Share){2 * m->H * m->P + 2 * m->G * m->N, l->inside};
    for (int i = 0; i < (steps ? 5 : 4); i++) {
        const char *then = i < (steps ? 4 : 3) ? (const char *)l->first + parts[i + 1].first * row
                                               : NULL;
        if (i < 4) product(rows, l->first, l->first_bias, parts[i], (float *)m->z + at, apart, then);
        else product(rows, l->first, l->first_bias, parts[i], steps, m->H, then);
        at += parts[i].stop - parts[i].first;
    }
}

static void groups_layer(const Stage *s, Mixer m)
{
    const Layer *l = s->layer;
    const Worker *w = s->worker;
    ptrdiff_t T = s->call->T, width = m.H / m.G * m.P, apart = 2 * (width + m.N);
    GroupSizes z = group_sizes(&m, T);
    float *own = s->mixer + w->part * group_floats(&m, T), *steps = own + z.rows + z.y;
    ptrdiff_t first = w->part * m.G / w->parts, stop = (w->part + 1) * m.G / w->parts;
    Rows rows = normed_rows(s);
    m.z = own, m.xbc = own + width, m.y = own + z.rows, m.dt = steps;
    m.z_stride = m.xbc_stride = apart, m.dt_stride = m.H, m.blocks = 1;
    Room room = make_room(&m, steps + z.steps);
    for (ptrdiff_t group = first; group < stop; group++) {
        m.only = group + 1;
        project_group(s, &m, &rows, group, group == first ? steps : NULL);
        group_tasks(&m, &room);
        hand_over(s, m.y, width, group * width, width);
        Share next = {(group + 1) * width, (group + 2) * width};
        if (group + 1 < stop) ask_for(s, l->first, next, s->call->D, (int)l->kind);
    }
    ask_for_last(s);
    meet_asking(w, s->early);
    rows = inner_rows(s);
    close_layer(s, &rows);
}

/* `width` is H * P. */
static void mixer_layer(const Stage *s)
{
    const Layer *l = s->layer;
    const Worker *w = s->worker;
    Mixer m = mixer_of(s);
    if (by_groups(&m, s->call->threads)) {
        groups_layer(s, m);
        return;
    }
    Rows rows = normed_rows(s);
    Share share = own_share(s, l->inside);
    product(&rows, l->first, l->first_bias, share, s->projected + share.first, l->inside, NULL);
    meet_asking(w, s->early);
    mixer_tasks(&m, s->mixer, w);
    ask_for_last(s);
    meet_asking(w, s->early);
    mixer_rows(&m, w);
    meet_asking(w, s->early);
    rows = packed_rows(s);
    close_layer(s, &rows);
}
