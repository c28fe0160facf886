/* The row kernels, written once over a vector layer (V, W, real) and compiled for each instruction set and type.
 *
 * A row is taken in chunks of SCE_CHUNK classes: the chunk's maximum, then the sum of exp(x - that maximum); the chunks
 * are combined in their order, in float64. Logits that equal the maximum are counted, not summed, so that
 * log(s) = log1p(s - 1) stays right when one class takes all. Sums run over W lanes; float32 terms are added four at a
 * time in float32, then in float64. The gradient scales exp(x - row maximum), kept in L1 for short rows and computed
 * again for long ones.
 *
 * These steps run as a pipeline, so that arithmetic, reads and writes overlap: while a chunk's exponentials are summed,
 * the maximum of the next chunk is taken, and the gradient of the row before is written. No bit depends on that.
 *
 * The steps are in rows_sums.h and rows_output.h; here is what connects them, and below, what is called. */

#include "exp.h"
#include "rows_load.h"
#include "rows_output.h"
#include "rows_sums.h"

INLINE ptrdiff_t chunk_size(ptrdiff_t classes, ptrdiff_t k) {
    return classes - k * SCE_CHUNK < SCE_CHUNK ? classes - k * SCE_CHUNK : SCE_CHUNK;
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
