/* The row kernels, written once over a vector layer (V, W, real) and compiled for each instruction set and type.
 *
 * A row is taken in chunks of SCE_CHUNK classes: the chunk's maximum, then the sum of exp(x - that maximum); the chunks
 * are combined in their order, in float64. Logits that equal the maximum are counted, not summed, so that
 * log(s) = log1p(s - 1) stays right when one class takes all. Sums run over W lanes; float32 terms are added four at a
 * time in float32, then in float64. The gradient scales exp(x - row maximum), kept in L1 for short rows and computed
 * again for long ones.
 *
 * These steps run as a pipeline, so that arithmetic, reads and writes overlap: while a chunk's exponentials are summed,
 * the maximum of the next chunk is taken, and the gradient of the row before is written. No bit depends on that. */

#include "exp.h"

#define UNROLL 4
#define BLOCK (UNROLL * W)
#define INLINE static inline __attribute__((always_inline))

/* Where a row's T comes from, a constant wherever it is used: the compiler makes one body of each. */
enum mode { ONE_LABEL, LABEL_AND_BASE, SOFT };

typedef struct {
    const real *soft;  /* SOFT: the row's targets */
    const real *scale; /* SOFT: by class, or one for all */
    ptrdiff_t scale_step;
    const real *base; /* by class, or one for all; NULL: zero */
    ptrdiff_t base_step;
} target_row;

INLINE V load(const real *p, ptrdiff_t n, real fill) {
    return n >= W ? v_load(p) : v_load_first(p, n, v_set(fill));
}

INLINE void store(real *p, ptrdiff_t n, V v) {
    if (n >= W)
        v_store(p, v);
    else
        v_store_first(p, n, v);
}

INLINE V by_class(const real *p, ptrdiff_t step, ptrdiff_t j, ptrdiff_t n) {
    if (step)
        return load(p + j, n, 0);
    return n >= W ? v_set(*p) : v_keep_first(n, v_set(*p)); /* a lane without a class has no mass */
}

/* T at classes j, j + 1 ... of which n are left. */
INLINE V target_at(const target_row *t, enum mode mode, ptrdiff_t j, ptrdiff_t n) {
    if (mode == LABEL_AND_BASE)
        return by_class(t->base, t->base_step, j, n);
    V v = v_mul(load(t->soft + j, n, 0), by_class(t->scale, t->scale_step, j, n));
    return t->base ? v_add(v, by_class(t->base, t->base_step, j, n)) : v;
}

/* A running maximum of n entries from x on; a NaN is passed over. */
typedef struct {
    const real *x;
    ptrdiff_t n, done;
    V top[UNROLL];
} maximum;

INLINE maximum max_of(const real *x, ptrdiff_t n) {
    maximum m = {x, n, 0, {v_set((real)-INFINITY), v_set((real)-INFINITY), v_set((real)-INFINITY), v_set((real)-INFINITY)}};
    return m;
}

INLINE void max_block(maximum *m) {
    /* The processor's own prefetcher follows one stream well, not three: ask for what comes next, into L2. */
    for (int k = 0; k < UNROLL; k++)
        __builtin_prefetch((const char *)(m->x + m->done + k * W) + SCE_PREFETCH, 0, 2);
    for (int k = 0; k < UNROLL; k++)
        m->top[k] = v_max(v_load(m->x + m->done + k * W), m->top[k]); /* in this order a NaN is passed over */
    m->done += BLOCK;
}

INLINE real max_rest(maximum *m) {
    while (m->done + BLOCK <= m->n)
        max_block(m);
    for (; m->done < m->n; m->done += W)
        m->top[0] = v_max(load(m->x + m->done, m->n - m->done, (real)-INFINITY), m->top[0]);
    return v_hmax(v_max(v_max(m->top[0], m->top[1]), v_max(m->top[2], m->top[3])));
}

/* The gradient of one row, being written from class j on: scale * lower * exp(x - top), or where there is more than one
 * target gain * (that - T), which is exactly 0 for a single class; and its own value at the label. `from` holds the
 * exponentials if they were kept, else the logits. */
typedef struct {
    real *grad; /* NULL: no row waits */
    const real *from;
    target_row t;
    ptrdiff_t j, end;
    ptrdiff_t label; /* -1: none */
    real at_label;
    V scale, lower, gain, top; /* of scale and lower, the one that can lowers what is raised */
    /* Streams go past the caches in whole aligned lines. What a row leaves of a line waits for the next row: two
     * stores to a line that is not in the cache would each cost a trip to memory. */
    int stream;
    real *line;         /* address of the line under way, NULL: none */
    ptrdiff_t low, high; /* which of its lanes are filled */
    real part[W] __attribute__((aligned(64)));
} output;

INLINE V value_at(const output *out, ptrdiff_t j, ptrdiff_t n, enum mode mode, int keep) {
    V e = load(out->from + j, n, 0);
    if (!keep)
        e = v_exp_raised(v_sub(e, out->top));
    /* Lowered by a fused multiplication, for the reason given at v_exp. */
    V value = v_fma(v_mul(e, out->scale), out->lower, v_set(0));
    return mode == ONE_LABEL ? value : v_mul(out->gain, v_sub(value, target_at(&out->t, mode, j, n)));
}

/* n <= W entries from class j on to p, in the cache. */
INLINE void put(const output *out, real *p, ptrdiff_t j, ptrdiff_t n, enum mode mode, int keep) {
    store(p, n, value_at(out, j, n, mode, keep));
    if (j <= out->label && out->label < j + n)
        p[out->label - j] = out->at_label;
}

INLINE void end_line(output *out) {
    if (out->line && out->low == 0 && out->high == W)
        v_stream(out->line, v_load(out->part));
    else if (out->line)
        memcpy(out->line + out->low, out->part + out->low, (size_t)(out->high - out->low) * sizeof(real));
    out->line = NULL;
}

INLINE void put_in_line(output *out, ptrdiff_t n, enum mode mode, int keep) {
    real *p = out->grad + out->j;
    const ptrdiff_t lane = (ptrdiff_t)((uintptr_t)p / sizeof(real) % W);
    if (out->line != p - lane || out->high != lane) {
        end_line(out);
        out->line = p - lane;
        out->low = lane;
    }
    put(out, out->part + lane, out->j, n, mode, keep);
    out->high = lane + n;
    out->j += n;
    if (out->high == W)
        end_line(out);
}

/* Begin a row, or a part of one: what belongs to a line under way, so that whole lines follow. */
INLINE void begin_row(output *out, enum mode mode, int keep) {
    const ptrdiff_t lane = (ptrdiff_t)((uintptr_t)(out->grad + out->j) / sizeof(real) % W), n = out->end - out->j;
    if (out->stream && lane)
        put_in_line(out, W - lane < n ? W - lane : n, mode, keep);
}

INLINE void write_vectors(output *out, int count, enum mode mode, int keep) {
    real *p = out->grad + out->j;
    const int has_label = out->j <= out->label && out->label < out->j + count * W;
    for (int k = 0; k < count; k++) {
        if (has_label && out->stream) {
            real at[W] __attribute__((aligned(64)));
            put(out, at, out->j + k * W, W, mode, keep);
            v_stream(p + k * W, v_load(at));
        } else if (out->stream) {
            v_stream(p + k * W, value_at(out, out->j + k * W, W, mode, keep));
        } else {
            v_store(p + k * W, value_at(out, out->j + k * W, W, mode, keep));
        }
    }
    if (has_label && !out->stream)
        out->grad[out->label] = out->at_label;
    out->j += count * W;
}

INLINE void write_rest(output *out, enum mode mode, int keep) {
    while (out->j + BLOCK <= out->end)
        write_vectors(out, UNROLL, mode, keep);
    while (out->j + W <= out->end)
        write_vectors(out, 1, mode, keep);
    if (out->j < out->end && out->stream) {
        put_in_line(out, out->end - out->j, mode, keep);
    } else if (out->j < out->end) {
        put(out, out->grad + out->j, out->j, out->end - out->j, mode, keep);
        out->j = out->end;
    }
}

/* Sums of T and of T * (shift - x) / 2. Halves, since shift - x may exceed the format where the loss does not.
 * 0 * inf = 0. */
INLINE void sum_targets(const real *x, ptrdiff_t j, ptrdiff_t n, real shift, const target_row *t, enum mode mode,
                        sce_chunk *chunk) {
    A mass = a_zero(), cost = a_zero();
    for (ptrdiff_t i = 0; i < n; i += W) {
        V target = target_at(t, mode, j + i, n - i);
        V gap = v_sub(v_set((real)0.5 * shift), v_mul(v_set((real)0.5), load(x + i, n - i, shift)));
        mass = a_add(mass, target);
        cost = a_add(cost, v_zero_where(v_eq(target, v_set(0)), v_mul(target, gap)));
    }
    chunk->mass = a_sum(mass);
    chunk->cost = a_sum(cost);
}

/* Raised exp(x - shift) of at most a block, into e if there is one. Summed, or counted where x is the maximum, which is
 * rare: the test is cheaper than two masked additions a vector. */
INLINE V add_exps(const real *x, ptrdiff_t n, V top, V shift, real *e, V *count) {
    V value[UNROLL], sum = v_set(0);
    M is_top[UNROLL];
    int vectors = 0, tops = 0;
    for (ptrdiff_t i = 0; i < n; i += W, vectors++) {
        const V v = load(x + i, n - i, (real)-INFINITY);
        value[vectors] = v_exp_raised(v_sub(v, shift));
        is_top[vectors] = v_eq(v, top);
        if (e)
            store(e + i, n - i, value[vectors]);
    }
    for (int k = 0; k < vectors; k++)
        tops |= m_any(is_top[k]);
    for (int k = 0; k < vectors; k++) {
        if (__builtin_expect(tops, 0)) {
            *count = v_add_where(is_top[k], *count, v_set(1));
            sum = v_add_unless(is_top[k], sum, value[k]);
        } else {
            sum = v_add(sum, value[k]);
        }
    }
    return sum;
}

/* The chunk of n classes at x, whose maximum is known; meanwhile the next chunk's maximum and a chunk of output. */
INLINE void sum_chunk(const real *x, ptrdiff_t n, real top, real *e, maximum *next, output *out, enum mode mode,
                      int keep, sce_chunk *chunk) {
    const real shift = top == -INFINITY ? 0 : top; /* -inf - -inf would be NaN */
    const V tops = v_set(top), shifts = v_set(shift);
    A rest = a_zero();
    V count = v_set(0);
    ptrdiff_t i = 0;
    for (; i + BLOCK <= n; i += BLOCK) {
        rest = a_add(rest, add_exps(x + i, BLOCK, tops, shifts, e ? e + i : NULL, &count));
        if (next->done + BLOCK <= next->n)
            max_block(next);
        if (out->j + BLOCK <= out->end)
            write_vectors(out, UNROLL, mode, keep);
    }
    for (; i < n; i += W)
        rest = a_add(rest, add_exps(x + i, n - i < W ? n - i : W, tops, shifts, e ? e + i : NULL, &count));
    chunk->top = top;
    chunk->count = top == -INFINITY ? 0 : a_sum(a_add(a_zero(), count));
    chunk->rest = a_sum(rest) * LOWER;
    chunk->mass = chunk->cost = 0;
}

INLINE double shrink(double down) {
    return down == 0 ? 1 : down > 0 ? exp(-down) : 0; /* NaN where both tops are infinite: the row is broken */
}

INLINE sce_sums combine(const sce_chunk *chunk, ptrdiff_t chunks) {
    sce_sums row = {-INFINITY, 0, 0, 0, 0, 0};
    double count = 0;
    for (ptrdiff_t k = 0; k < chunks; k++)
        row.top = chunk[k].top > row.top ? chunk[k].top : row.top;
    for (ptrdiff_t k = 0; k < chunks; k++) {
        const double down = row.top - chunk[k].top;
        if (down == 0) {
            count += chunk[k].count;
            row.rest += chunk[k].rest;
        } else /* also where both tops are infinite: then the row is broken, and a NaN in it comes through */
            row.rest += (chunk[k].count + chunk[k].rest) * shrink(down);
        row.mass += chunk[k].mass;
        row.cost += 2 * chunk[k].cost;
        if (chunk[k].mass != 0)
            row.cost += 2 * (chunk[k].mass * (0.5 * row.top - 0.5 * (chunk[k].top == -INFINITY ? 0 : chunk[k].top)));
    }
    row.broken = !(row.top > -INFINITY && row.top < INFINITY) || isnan(row.rest);
    if (!row.broken) {
        row.rest += count - 1;
        row.log_sum = log1p(row.rest);
    } else if (isnan(row.rest)) {
        row.log_sum = NAN; /* else 0: lse is then the top, be it infinite */
    }
    return row;
}

INLINE void fill(real *grad, ptrdiff_t n, real value) {
    for (ptrdiff_t j = 0; j < n; j++)
        grad[j] = value;
}

typedef struct {
    const sce_call *call;
    ptrdiff_t stop;
    ptrdiff_t chunks;   /* of a row */
    output out;         /* the row before */
    const real *top_of; /* the chunk whose maximum is known already */
    real top;
    int turn;           /* which of the two scratches is free */
} pipeline;

INLINE ptrdiff_t chunk_size(ptrdiff_t classes, ptrdiff_t k) {
    return classes - k * SCE_CHUNK < SCE_CHUNK ? classes - k * SCE_CHUNK : SCE_CHUNK;
}

/* First step of row i, all its chunks, with the row before it written beside. */
INLINE sce_sums sum_row(pipeline *line, ptrdiff_t i, real *e, const target_row *t, enum mode mode, int keep) {
    const sce_call *call = line->call;
    const ptrdiff_t classes = call->classes;
    const real *x = (const real *)call->logits + i * classes;
    for (ptrdiff_t k = 0; k < line->chunks; k++) {
        const ptrdiff_t j = k * SCE_CHUNK, n = chunk_size(classes, k);
        if (line->top_of != x + j) {
            maximum here = max_of(x + j, n);
            line->top = max_rest(&here);
        }
        const real top = line->top;
        /* Rows follow each other in memory, so the next chunk is what comes next, in this row or the one after. */
        const ptrdiff_t ahead = k + 1 < line->chunks ? classes - j - n : i + 1 < line->stop ? classes : 0;
        maximum next = max_of(x + j + n, ahead < SCE_CHUNK ? ahead : SCE_CHUNK);
        sum_chunk(x + j, n, top, e ? e + j : NULL, &next, &line->out, mode, keep, call->chunks + k);
        if (mode != ONE_LABEL)
            sum_targets(x + j, j, n, top == -INFINITY ? 0 : top, t, mode, call->chunks + k);
        line->top_of = ahead ? next.x : NULL;
        line->top = ahead ? max_rest(&next) : 0;
    }
    write_rest(&line->out, mode, keep);
    return combine(call->chunks, line->chunks);
}

INLINE real raised_exp_at(real t) {
    real lanes[W];
    v_store(lanes, v_exp_raised(v_set(t)));
    return lanes[0];
}

/* The gradient of a row that counts: what to scale by, and the value at the label. */
INLINE void begin_gradient(pipeline *line, ptrdiff_t i, const sce_sums *row, ptrdiff_t label, double mass, real x_label,
                           const target_row *t, enum mode mode, int keep) {
    const sce_call *call = line->call;
    const real *x = (const real *)call->logits + i * call->classes;
    const double gain = call->row_weight[i * call->row_weight_step] * call->upstream[i * call->upstream_step];
    const double s = 1 + row->rest;
    const double z_pull = call->z_loss != 0 ? 2 * call->z_loss * (row->top + row->log_sum) : 0;
    const double total = mode == SOFT ? row->mass : mass + call->base_total;
    output *out = &line->out;
    out->grad = (real *)call->grad + i * call->classes;
    out->from = keep ? (const real *)call->exps[line->turn] : x;
    out->t = *t;
    out->j = 0;
    out->end = call->classes;
    out->label = mode == SOFT || mass == 0 ? -1 : label; /* without mass, the label is a class like the others */
    const real scale = (real)(mode == ONE_LABEL ? gain * (total + z_pull) / s : (total + z_pull) / s);
    const int is_small = scale > -1 && scale < 1; /* then it must not be lowered, nor exp be before it is scaled down */
    out->scale = v_set(is_small ? scale : scale * LOWER);
    out->lower = v_set(is_small ? LOWER : 1);
    out->gain = v_set((real)gain);
    out->top = v_set((real)row->top);
    if (mode != SOFT) {
        /* From the other classes' share, never as p - 1, which cancels as p approaches 1. */
        const double e_label = (double)LOWER * (keep ? out->from[label] : raised_exp_at(x_label - (real)row->top));
        const double others = x_label == row->top ? row->rest : s - e_label;
        const double base = mode == LABEL_AND_BASE ? t->base[label * t->base_step] : 0;
        out->at_label = (real)(gain * ((call->base_total + z_pull) * (e_label / s) - mass * (others / s) - base));
    }
    line->turn ^= 1;
}

/* A row's label, or -1 where there is none, and its mass. */
INLINE ptrdiff_t label_of(const sce_call *call, ptrdiff_t i, double *mass) {
    /* Read once: another thread may change it after the shell's check, and it must not become an address. */
    const int64_t label = *(const volatile int64_t *)(call->labels + i * call->labels_step);
    *mass = 0;
    if (label < 0 || label >= call->classes || label == call->ignore_index)
        return -1;
    *mass = ((const real *)call->class_scale)[label * call->class_scale_step];
    return label;
}

/* What a row gets of a row's sums, the gradient of an ordinary row apart; whether there is one to write. */
INLINE int write_scalars(const sce_call *call, ptrdiff_t i, const sce_sums *row, double mass, real x_label, int counts,
                         enum mode mode) {
    real *grad = call->grad ? (real *)call->grad + i * call->classes : NULL;
    real *loss = call->loss ? (real *)call->loss + i : NULL;
    if (call->row_max)
        ((real *)call->row_max)[i] = (real)row->top;
    if (call->log_sum)
        ((real *)call->log_sum)[i] = (real)row->log_sum;
    if (!counts || row->broken) {
        if (loss)
            *loss = counts ? (real)NAN : 0;
        if (grad)
            fill(grad, call->classes, counts ? (real)NAN : 0);
        return 0;
    }
    if (loss) {
        double value = row->cost + (mode == SOFT ? row->mass : mass + call->base_total) * row->log_sum;
        if (mode != SOFT && mass != 0)
            value += 2 * (mass * (0.5 * row->top - 0.5 * (double)x_label));
        if (call->z_loss != 0)
            value += call->z_loss * (row->top + row->log_sum) * (row->top + row->log_sum);
        *loss = (real)(call->row_weight[i * call->row_weight_step] * value);
    }
    return grad != NULL;
}

/* One row. `label` is -1 where there is none; mass is T at it, less the base. */
INLINE void one_row(pipeline *line, ptrdiff_t i, ptrdiff_t label, double mass, const target_row *t, enum mode mode,
                    int keep) {
    const sce_call *call = line->call;
    const int counts = call->row_weight[i * call->row_weight_step] != 0 && (mode == SOFT || label >= 0);
    if (!counts && !call->row_max && !call->log_sum) {
        const sce_sums nothing = {0};
        write_scalars(call, i, &nothing, 0, 0, 0, mode);
        return;
    }
    const real x_label = label >= 0 ? ((const real *)call->logits)[i * call->classes + label] : 0;
    const sce_sums row = sum_row(line, i, keep && call->grad && counts ? call->exps[line->turn] : NULL, t, mode, keep);
    if (write_scalars(call, i, &row, mass, x_label, counts, mode)) {
        begin_gradient(line, i, &row, label, mass, x_label, t, mode, keep);
        begin_row(&line->out, mode, keep);
    }
}

INLINE void all_rows(const sce_call *call, ptrdiff_t start, ptrdiff_t stop, enum mode mode, int keep) {
    pipeline line = {.call = call, .stop = stop, .chunks = (call->classes + SCE_CHUNK - 1) / SCE_CHUNK};
    line.out.stream = call->stream;
    line.out.label = -1;
    target_row t = {NULL, call->class_scale, call->class_scale_step, call->base_mass, call->base_mass_step};
    for (ptrdiff_t i = start; i < stop; i++) {
        if (mode == SOFT) {
            t.soft = (const real *)call->targets + i * call->classes;
            one_row(&line, i, -1, 0, &t, mode, keep);
            continue;
        }
        double mass;
        const ptrdiff_t label = label_of(call, i, &mass);
        one_row(&line, i, label, mass, &t, mode, keep);
    }
    write_rest(&line.out, mode, keep);
    end_line(&line.out);
}

/* One body for each mode, with the exponentials kept or computed again. */
#define ROWS_OF(name, mode, keep)                                                                                      \
    static __attribute__((noinline)) void name(const sce_call *call, ptrdiff_t start, ptrdiff_t stop) {                \
        all_rows(call, start, stop, mode, keep);                                                                       \
    }
ROWS_OF(one_label_short, ONE_LABEL, 1)
ROWS_OF(one_label_long, ONE_LABEL, 0)
ROWS_OF(base_short, LABEL_AND_BASE, 1)
ROWS_OF(base_long, LABEL_AND_BASE, 0)
ROWS_OF(soft_short, SOFT, 1)
ROWS_OF(soft_long, SOFT, 0)

static void short_rows(const sce_call *call, ptrdiff_t start, ptrdiff_t stop, enum mode mode) {
    (mode == SOFT ? soft_short : mode == ONE_LABEL ? one_label_short : base_short)(call, start, stop);
}

static void long_rows(const sce_call *call, ptrdiff_t start, ptrdiff_t stop, enum mode mode) {
    (mode == SOFT ? soft_long : mode == ONE_LABEL ? one_label_long : base_long)(call, start, stop);
}

#include "rows_lanes.h"

void ROWS_NAME(const sce_call *call, ptrdiff_t start, ptrdiff_t stop) {
    const enum mode mode = call->labels == NULL ? SOFT : call->base_mass ? LABEL_AND_BASE : ONE_LABEL;
    if (call->classes <= LANES)
        few_classes(call, start, stop, mode);
    else if (call->classes * (ptrdiff_t)sizeof(real) <= SCE_KEEP)
        short_rows(call, start, stop, mode);
    else
        long_rows(call, start, stop, mode);
}

/* A long row in parts, for several threads: the sums of some chunks; then, all sums being there, what is one number a
 * row; then the gradient of some chunks. The same functions as for a whole row, and so the same bits. */
INLINE void row_part(const sce_call *call, ptrdiff_t i, enum sce_part part, ptrdiff_t first, ptrdiff_t last,
                     enum mode mode) {
    const ptrdiff_t classes = call->classes, chunks = (classes + SCE_CHUNK - 1) / SCE_CHUNK;
    const real *x = (const real *)call->logits + i * classes;
    target_row t = {NULL, call->class_scale, call->class_scale_step, call->base_mass, call->base_mass_step};
    pipeline line = {.call = call, .stop = i + 1, .chunks = chunks};
    double mass = 0;
    const ptrdiff_t label = mode == SOFT ? -1 : label_of(call, i, &mass);
    if (mode == SOFT)
        t.soft = (const real *)call->targets + i * classes;
    if (part == SCE_SUMS) {
        maximum next = max_of(x + first * SCE_CHUNK, chunk_size(classes, first));
        for (ptrdiff_t k = first; k < last; k++) {
            const ptrdiff_t j = k * SCE_CHUNK, n = chunk_size(classes, k);
            const real top = max_rest(&next);
            next = max_of(x + j + n, k + 1 < last ? chunk_size(classes, k + 1) : 0);
            sum_chunk(x + j, n, top, NULL, &next, &line.out, mode, 0, call->chunks + k);
            if (mode != ONE_LABEL)
                sum_targets(x + j, j, n, top == -INFINITY ? 0 : top, &t, mode, call->chunks + k);
        }
        return;
    }
    const int counts = call->row_weight[i * call->row_weight_step] != 0 && (mode == SOFT || label >= 0);
    const real x_label = label >= 0 ? x[label] : 0;
    if (part == SCE_SCALARS) {
        *call->sums = combine(call->chunks, chunks);
        write_scalars(call, i, call->sums, mass, x_label, counts, mode);
    } else if (counts && !call->sums->broken) {
        line.out.stream = call->stream;
        begin_gradient(&line, i, call->sums, label, mass, x_label, &t, mode, 0);
        line.out.j = first * SCE_CHUNK;
        line.out.end = last * SCE_CHUNK < classes ? last * SCE_CHUNK : classes;
        begin_row(&line.out, mode, 0);
        write_rest(&line.out, mode, 0);
        end_line(&line.out);
    }
}

void PART_NAME(const sce_call *call, ptrdiff_t i, enum sce_part part, ptrdiff_t first, ptrdiff_t last) {
    if (call->labels == NULL)
        row_part(call, i, part, first, last, SOFT);
    else if (call->base_mass)
        row_part(call, i, part, first, last, LABEL_AND_BASE);
    else
        row_part(call, i, part, first, last, ONE_LABEL);
}

/* The exp in use, elementwise, so that its error can be measured. */
void EXP_NAME(const void *t, void *e, ptrdiff_t n) {
    for (ptrdiff_t i = 0; i < n; i += W)
        store((real *)e + i, n - i, v_exp(load((const real *)t + i, n - i, 0)));
}

#if defined(REAL_F32)
#include "narrow.h"
#endif
