/* Rows of many classes, one after another, as a pipeline.
 *
 * A row is taken in chunks of SCE_CHUNK classes: the chunk's maximum, then the sum of exp(x - that maximum); the chunks
 * are combined in their order, in float64. The first maximum is left out of the sum, so that log(s) = log1p(s - 1)
 * stays accurate when one class has nearly all the probability. Sums run over the lanes of a cache line; float32 terms
 * are added four at a time in float32, then in float64. The gradient scales exp(x - chunk's maximum). These
 * exponentials are kept in the L2 cache or computed again, whichever is faster on this instruction set for rows of this
 * length (`keep` in rows.h). The bits are the same.
 *
 * The steps run as a pipeline, so that arithmetic, reads and writes overlap. While the exponentials of a chunk are
 * summed, the maximum of the next chunk is found, and the same chunk of the previous row's gradient is written; this
 * row's exponentials then take the place of that row's. No bit depends on the overlap.
 *
 * The steps themselves are in rows_sums.h and rows_output.h. */
#ifndef SOFTMAX_CE_ROWS_PIPELINE_H
#define SOFTMAX_CE_ROWS_PIPELINE_H

#include "rows_hessian.h"
#include "rows_output.h"
#include "rows_ready.h"
#include "rows_sums.h"

INLINE ptrdiff_t chunk_size(ptrdiff_t classes, ptrdiff_t k) {
    return classes - k * SCE_CHUNK < SCE_CHUNK ? classes - k * SCE_CHUNK : SCE_CHUNK;
}

NOINLINE void fill(real *grad, ptrdiff_t n, real value, enum sce_format format) {
    if (format == SCE_REAL)
        for (ptrdiff_t j = 0; j < n; j++)
            grad[j] = value;
    else
        for (ptrdiff_t j = 0; j < n; j++)
            to_memory((char *)entry(grad, j, format), 1, v_set(value), format);
}

typedef struct {
    const sce_call *call;
    ptrdiff_t stop;
    ptrdiff_t n_chunks;   /* of a row */
    output out;           /* the previous row's gradient */
    sce_chunk *chunks[2]; /* this row's, and the previous row's */
    const real *top_of;   /* the chunk whose maximum is already known, where its logits are in memory */
    real top;
    ptrdiff_t top_block;  /* the first block that has the maximum */
    real *scratch;        /* the exponentials of a chunk, if they are not kept */
    ready_chunks ready;   /* of rows that are transformed */
    real x_label;         /* of such a row */
    int is_first;         /* whether its label is the first maximum of its chunk; set if that is wanted */
} pipeline;

INLINE pipeline new_pipeline(const sce_call *call, ptrdiff_t stop, real *scratch) {
    pipeline pipe = {.call = call, .stop = stop, .n_chunks = (call->classes + SCE_CHUNK - 1) / SCE_CHUNK};
    pipe.chunks[0] = call->chunks;
    pipe.chunks[1] = call->chunks + pipe.n_chunks;
    pipe.out.stream = call->stream;
    pipe.out.classes = call->classes;
    pipe.out.label = -1;
    pipe.scratch = scratch;
    return pipe;
}

/* log_sum of a row without a distribution: NaN if a logit is NaN, else 0, so that lse is the infinite maximum. */
NOINLINE double degenerate_log_sum(const real *x, ptrdiff_t classes, enum sce_format format) {
    for (ptrdiff_t j = 0; j < classes; j++) {
        const real one = format == SCE_REAL ? x[j] : entry_at(x, j, format);
        if (one != one)
            return NAN;
    }
    return 0;
}

/* Note what is wanted of the label of a row that is changed, in the chunk of n classes at x, from class j on. */
INLINE void look_at_label(pipeline *pipe, const real *x, ptrdiff_t n, ptrdiff_t at) {
    if (at < 0 || at >= n)
        return;
    pipe->x_label = x[at];
    if (pipe->call->correct)
        pipe->is_first = is_first_maximum(x, 1, n, at);
}

/* As degenerate_log_sum, for row i of a call that changes its logits. */
NOINLINE double changed_log_sum(const sce_call *call, ptrdiff_t i) {
    real part[SCE_CHUNK + LINE];
    double log_sum = 0;
    for (ptrdiff_t j = 0; j < call->classes; j += SCE_CHUNK) {
        const ptrdiff_t n = chunk_size(call->classes, j / SCE_CHUNK);
        transform_part(call, i, j, n, part, NULL);
        log_sum += degenerate_log_sum(part, n, SCE_REAL);
    }
    return log_sum;
}

/* Sum each chunk of row i, and write the previous row's gradient meanwhile. `e` receives the row's exponentials, or
 * those of one chunk if they are not kept. */
INLINE void sum_chunks(pipeline *pipe, ptrdiff_t i, real *e, int is_kept, ptrdiff_t label, const target_row *t,
                       enum mode mode, enum sce_format format, int is_changed) {
    const sce_call *call = pipe->call;
    const ptrdiff_t classes = call->classes;
    const real *x = entry(call->logits, i * classes, format);
    for (ptrdiff_t k = 0; k < pipe->n_chunks; k++) {
        const ptrdiff_t j = k * SCE_CHUNK, n = chunk_size(classes, k);
        const real *given = entry(x, j, format), *here = given;
        sce_chunk *chunk = pipe->chunks[0] + k;
        if (is_changed) {
            if (pipe->top_of != given)
                make_ready(&pipe->ready, call, i, j, n);
            here = pipe->ready.logits[pipe->ready.made & 1];
            pipe->ready.begun = k ? pipe->ready.begun : pipe->ready.made;
        }
        if (pipe->top_of != given) {
            maximum own = max_of(here, n);
            pipe->top = max_rest(&own, &pipe->top_block, format);
        }
        const real top = pipe->top;
        if (is_changed)
            look_at_label(pipe, here, n, label - j);
        /* Rows are contiguous, so the next chunk follows in memory, in this row or the one after. */
        const ptrdiff_t ahead = k + 1 < pipe->n_chunks ? classes - j - n : i + 1 < pipe->stop ? classes : 0;
        const ptrdiff_t next_n = ahead < SCE_CHUNK ? ahead : SCE_CHUNK;
        const real *following = entry(given, n, format);
        maximum next = max_of(following, next_n);
        if (is_changed && ahead) {
            const int is_last = k + 1 == pipe->n_chunks;
            make_ready(&pipe->ready, call, is_last ? i + 1 : i, is_last ? 0 : j + n, next_n);
            next = max_of(pipe->ready.logits[pipe->ready.made & 1], next_n);
            next.fetch = following + next_n; /* the hardware prefetcher does not run so far ahead */
        }
        if (is_changed)
            find_slopes(&pipe->ready, &pipe->out, k);
        begin_chunk(&pipe->out, pipe->chunks[1], k, mode, format);
        sum_chunk(here, n, top, pipe->top_block, is_kept ? e + j : e, &next, &pipe->out, mode, format, chunk);
        if (mode == LABEL_AND_BASE || mode == SOFT)
            sum_targets(here, j, n, top == -INFINITY ? 0 : top, t, mode, chunk);
        pipe->top_of = ahead ? following : NULL;
        if (ahead)
            pipe->top = max_rest(&next, &pipe->top_block, format);
    }
    pipe->out.grad = NULL;
}

/* Sum row i: see sum_chunks. */
INLINE sce_sums sum_row(pipeline *pipe, ptrdiff_t i, real *e, int is_kept, ptrdiff_t label, const target_row *t,
                        enum mode mode, enum sce_format format, int is_changed) {
    const sce_call *call = pipe->call;
    sum_chunks(pipe, i, e, is_kept, label, t, mode, format, is_changed);
    sce_sums row = combine(pipe->chunks[0], pipe->n_chunks);
    if (row.degenerate)
        row.log_sum = is_changed ? changed_log_sum(call, i)
                                 : degenerate_log_sum(entry(call->logits, i * call->classes, format), call->classes, format);
    return row;
}

/* Whether no class before the label, whose logit is the maximum, has the same logit. */
NOINLINE int is_first_of_row(const real *x, ptrdiff_t label) {
    const real top = x[label];
    int others = 0;
    for (ptrdiff_t j = 0; j < label; j++) /* without an early end, so that compilers make vectors of it */
        others |= x[j] == top;
    return !others;
}

/* As is_first_of_row, for a row that is changed and whose chunks are summed. */
INLINE int is_first_of_chunks(const pipeline *pipe, real top, ptrdiff_t label) {
    if (!pipe->is_first)
        return 0;
    for (ptrdiff_t k = 0; k < label / SCE_CHUNK; k++)
        if (pipe->chunks[0][k].top == top)
            return 0;
    return 1;
}

/* Write some chunks of the pending row, where no other row follows whose sums could overlap with it. */
INLINE void write_chunks(output *out, const sce_chunk *chunks, ptrdiff_t first, ptrdiff_t last, enum mode mode,
                         enum sce_format format) {
    for (ptrdiff_t k = first; k < last && out->grad != NULL; k++) {
        begin_chunk(out, chunks, k, mode, format);
        write_rest(out, mode, format);
    }
}

INLINE real raised_exp_at(real t) {
    real lanes[W];
    v_store(lanes, v_exp_raised(v_set(t)));
    return lanes[0];
}

/* Begin the gradient of a row that counts: set its scale and the value at the label. `e`: its exponentials, if kept. */
NOINLINE void begin_gradient(pipeline *pipe, ptrdiff_t i, const sce_sums *row, ptrdiff_t label, double mass,
                             real x_label, const real *e, const target_row *t, enum mode mode,
                             enum sce_format format) {
    const sce_call *call = pipe->call;
    output *out = &pipe->out;
    out->grad = entry(call->grad, i * call->classes, format);
    out->from = e ? e : entry(call->logits, i * call->classes, format);
    out->is_kept = e != NULL;
    sce_chunk *own = pipe->chunks[0];
    pipe->chunks[0] = pipe->chunks[1];
    pipe->chunks[1] = own;
    if (mode == LOG_PROBS) {
        out->top = v_set((real)row->top);
        out->scale = v_set((real)row->log_sum);
        return;
    }
    const double gain = call->row_weight[i * call->row_weight_step] * call->upstream[i * call->upstream_step];
    const double s = 1 + row->rest;
    const double z_slope = call->z_loss != 0 ? 2 * call->z_loss * (row->top + row->log_sum) : 0;
    const double total = mode == SOFT ? row->mass : mass + call->base_total;
    out->t = *t;
    out->label = mode == SOFT || mass == 0 ? -1 : label; /* without mass, the label is a class like any other */
    out->share = (mode == ONE_LABEL ? gain : 1) * (total + z_slope) / s;
    out->gain = v_set((real)gain);
    if (mode != SOFT) {
        /* Computed from the other classes' sum, never as p - 1, which cancels as p approaches 1. */
        const int is_kept = e && pipe->n_chunks == 1; /* and relative to the row's maximum */
        const double e_label = (double)LOWER * (is_kept ? e[label] : raised_exp_at(x_label - (real)row->top));
        const double others = x_label == row->top ? row->rest : s - e_label;
        const double base = mode == LABEL_AND_BASE ? t->base[label * t->base_step] : 0;
        out->at_label = (real)(gain * ((call->base_total + z_slope) * (e_label / s) - mass * (others / s) - base));
    }
}

/* Return a row's label and set its mass; -1 and 0 if the row has none. */
INLINE ptrdiff_t label_of(const sce_call *call, ptrdiff_t i, double *mass) {
    /* Read once: another thread may change it after the shell's check, and an unchecked value must not become an
     * address. */
    const int64_t label = *(const volatile int64_t *)(call->labels + i * call->labels_step);
    *mass = 0;
    if (label < 0 || label >= call->classes || label == call->ignore_index)
        return -1;
    *mass = ((const real *)call->class_scale)[label * call->class_scale_step];
    return label;
}

/* Whether row i counts. Log-probabilities are computed for every row. */
INLINE int row_counts(const sce_call *call, ptrdiff_t i, ptrdiff_t label, enum mode mode) {
    const int has_target = label >= 0 || (mode == SOFT && call->labels == NULL);
    return mode == LOG_PROBS || (call->row_weight[i * call->row_weight_step] != 0 && has_target);
}

/* Write all that follows from a row's sums, except the gradient of an ordinary row. Return whether that is to be
 * written. */
INLINE int write_scalars(const sce_call *call, ptrdiff_t i, const sce_sums *row, double mass, real x_label,
                         int counts, enum mode mode, enum sce_format format) {
    real *grad = call->grad ? entry(call->grad, i * call->classes, format) : NULL;
    real *loss = call->loss ? (real *)call->loss + i : NULL;
    if (call->row_max)
        ((real *)call->row_max)[i] = (real)row->top;
    if (call->log_sum)
        ((real *)call->log_sum)[i] = (real)row->log_sum;
    if (!counts || row->degenerate) {
        if (loss)
            *loss = counts ? (real)NAN : 0;
        if (grad)
            fill(grad, call->classes, counts ? (real)NAN : 0, format);
        if (call->hess)
            fill((real *)call->hess + i * call->classes, call->classes, counts ? (real)NAN : 0, SCE_REAL);
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

/* Process one row. `label` is -1 if it has none, and mass is T at the label less the base. */
INLINE void one_row(pipeline *pipe, ptrdiff_t i, ptrdiff_t label, double mass, const target_row *t, enum mode mode,
                    enum sce_format format, int is_changed) {
    const sce_call *call = pipe->call;
    const int counts = row_counts(call, i, label, mode);
    if (!counts && !call->row_max && !call->log_sum && !call->correct) {
        const sce_sums nothing = {0};
        write_scalars(call, i, &nothing, 0, 0, 0, mode, format);
        return;
    }
    real x_label = !is_changed && label >= 0 ? entry_at(call->logits, i * call->classes + label, format) : 0;
    real *e = call->exps ? call->exps : pipe->scratch;
    const sce_sums row = sum_row(pipe, i, e, call->exps != NULL, label, t, mode, format, is_changed);
    if (is_changed && label >= 0)
        x_label = pipe->x_label;
    if (format == SCE_REAL && call->correct)
        call->correct[i] = label >= 0 && row.log_sum == row.log_sum && x_label == row.top &&
                           (is_changed ? is_first_of_chunks(pipe, x_label, label)
                                       : is_first_of_row((const real *)call->logits + i * call->classes, label));
    if (call->hess && mode != LOG_PROBS && format == SCE_REAL && counts && !row.degenerate)
        hessian_of_row(call, i, &row, pipe->chunks[0], call->exps, mode == SOFT ? row.mass : mass + call->base_total);
    if (write_scalars(call, i, &row, mass, x_label, counts, mode, format)) {
        begin_gradient(pipe, i, &row, label, mass, x_label, call->exps, t, mode, format);
        if (is_changed)
            set_pending(&pipe->ready, &pipe->out);
    }
}

INLINE void all_rows(const sce_call *call, ptrdiff_t start, ptrdiff_t stop, enum mode mode, enum sce_format format,
                     int is_changed) {
    real scratch[SCE_CHUNK + LINE];
    pipeline pipe = new_pipeline(call, stop, scratch);
    target_row t = {NULL, call->class_scale, call->class_scale_step, call->base_mass, call->base_mass_step};
    if (is_changed)
        pipe.ready = no_chunks(call);
    for (ptrdiff_t i = start; i < stop; i++) {
        double mass = 0;
        ptrdiff_t label = -1;
        if (mode == SOFT)
            t.soft = is_changed && call->transform->spread ? ready_targets(&pipe.ready, call, i)
                                                           : (const real *)call->targets + i * call->classes;
        if (mode != LOG_PROBS && (mode != SOFT || call->labels))
            label = label_of(call, i, &mass);
        one_row(&pipe, i, label, mass, &t, mode, format, is_changed);
    }
    for (ptrdiff_t k = 0; is_changed && k < pipe.n_chunks; k++) {
        find_slopes(&pipe.ready, &pipe.out, k);
        write_chunks(&pipe.out, pipe.chunks[1], k, k + 1, mode, format);
    }
    if (!is_changed)
        write_chunks(&pipe.out, pipe.chunks[1], 0, pipe.n_chunks, mode, format);
    flush_line(&pipe.out, format);
}

/* One function for each mode, so that the compiler knows it. */
#define ROWS_OF(name, mode, format, is_changed)                                                                        \
    NOINLINE void name(const sce_call *call, ptrdiff_t start, ptrdiff_t stop) {                                        \
        all_rows(call, start, stop, mode, format, is_changed);                                                         \
    }
ROWS_OF(rows_one_label, ONE_LABEL, SCE_REAL, 0)
ROWS_OF(rows_label_and_base, LABEL_AND_BASE, SCE_REAL, 0)
ROWS_OF(rows_soft, SOFT, SCE_REAL, 0)
ROWS_OF(rows_log_probs, LOG_PROBS, SCE_REAL, 0)
ROWS_OF(changed_one_label, ONE_LABEL, SCE_REAL, 1)
ROWS_OF(changed_label_and_base, LABEL_AND_BASE, SCE_REAL, 1)
ROWS_OF(changed_soft, SOFT, SCE_REAL, 1)
#if defined(HAS_F16_ROWS)
ROWS_OF(rows_f16, ONE_LABEL, SCE_F16, 0)
#else
#define rows_f16 rows_bf16 /* never called */
#endif
#if defined(REAL_F32)
ROWS_OF(rows_bf16, ONE_LABEL, SCE_BF16, 0)
#endif

static void rows_one_by_one(const sce_call *call, ptrdiff_t start, ptrdiff_t stop, enum mode mode) {
    (mode == SOFT        ? rows_soft
     : mode == ONE_LABEL ? rows_one_label
     : mode == LOG_PROBS ? rows_log_probs
                         : rows_label_and_base)(call, start, stop);
}

static void changed_rows(const sce_call *call, ptrdiff_t start, ptrdiff_t stop, enum mode mode) {
    (mode == SOFT ? changed_soft : mode == ONE_LABEL ? changed_one_label : changed_label_and_base)(call, start, stop);
}

static enum mode mode_of(const sce_call *call) {
    if (call->log_output)
        return LOG_PROBS;
    return call->labels == NULL || call->targets ? SOFT : call->base_mass ? LABEL_AND_BASE : ONE_LABEL;
}

#endif
