/* The row kernels, written once over a vector layer (V, W, real) and compiled for each instruction set and type.
 *
 * A row is taken in chunks of SCE_CHUNK classes: the chunk's maximum, then the sum of exp(x - that maximum); the chunks
 * are combined in their order, in float64. The first maximum is left out of the sum, so that log(s) = log1p(s - 1) stays
 * right when one class takes all. Sums run over the lanes of a cache line; float32 terms are added four at a time in
 * float32, then in float64. The gradient scales exp(x - chunk's maximum), kept in the L2 cache or computed again:
 * whichever takes less time on this instruction set, for rows of this length (`keep` in rows.h); the bits are the same.
 *
 * These steps run as a pipeline, so that arithmetic, reads and writes overlap: while a chunk's exponentials are summed,
 * the maximum of the next chunk is taken, and the same chunk of the gradient of the row before is written, whose
 * exponentials make room for this row's. No bit depends on that.
 *
 * The steps are in rows_sums.h and rows_output.h; here is what connects them, and below, what is called. */

#include "exp.h"
#include "rows_load.h"
#if defined(REAL_F32)
#include "narrow.h"
#endif
#include "formats.h"
#include "rows_output.h"
#include "rows_sums.h"

INLINE ptrdiff_t chunk_size(ptrdiff_t classes, ptrdiff_t k) {
    return classes - k * SCE_CHUNK < SCE_CHUNK ? classes - k * SCE_CHUNK : SCE_CHUNK;
}

APART void fill(real *grad, ptrdiff_t n, real value, enum sce_format format) {
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
    output out;           /* the row before */
    sce_chunk *chunks[2]; /* this row's; those of the row before */
    const real *top_of;   /* the chunk whose maximum is known already */
    real top;
    ptrdiff_t top_at;     /* the block that has it first */
    real *scratch;        /* a chunk's exponentials, where they are not kept */
} pipeline;

INLINE pipeline new_pipeline(const sce_call *call, ptrdiff_t stop, real *scratch) {
    pipeline line = {.call = call, .stop = stop, .n_chunks = (call->classes + SCE_CHUNK - 1) / SCE_CHUNK};
    line.chunks[0] = call->chunks;
    line.chunks[1] = call->chunks + line.n_chunks;
    line.out.stream = call->stream;
    line.out.classes = call->classes;
    line.out.label = -1;
    line.scratch = scratch;
    return line;
}

/* Where no distribution is: lse is the top, be it infinite, unless there is a NaN. */
APART double broken_log_sum(const real *x, ptrdiff_t classes, enum sce_format format) {
    for (ptrdiff_t j = 0; j < classes; j++) {
        const real one = format == SCE_REAL ? x[j] : entry_at(x, j, format);
        if (one != one)
            return NAN;
    }
    return 0;
}

/* First step of row i, all its chunks, with the row before it written beside. `e`: where its exponentials go, or those
 * of one chunk where they are not kept. */
INLINE sce_sums sum_row(pipeline *line, ptrdiff_t i, real *e, int is_kept, const target_row *t, enum mode mode,
                        enum sce_format format) {
    const sce_call *call = line->call;
    const ptrdiff_t classes = call->classes;
    const real *x = entry(call->logits, i * classes, format);
    for (ptrdiff_t k = 0; k < line->n_chunks; k++) {
        const ptrdiff_t j = k * SCE_CHUNK, n = chunk_size(classes, k);
        const real *here = entry(x, j, format);
        sce_chunk *chunk = line->chunks[0] + k;
        if (line->top_of != here) {
            maximum own = max_of(here, n);
            line->top = max_rest(&own, &line->top_at, format);
        }
        const real top = line->top;
        /* Rows follow each other in memory, so the next chunk is what comes next, in this row or the one after. */
        const ptrdiff_t ahead = k + 1 < line->n_chunks ? classes - j - n : i + 1 < line->stop ? classes : 0;
        maximum next = max_of(entry(here, n, format), ahead < SCE_CHUNK ? ahead : SCE_CHUNK);
        begin_chunk(&line->out, line->chunks[1], k, mode, format);
        sum_chunk(here, n, top, line->top_at, is_kept ? e + j : e, &next, &line->out, mode, format, chunk);
        if (mode == LABEL_AND_BASE || mode == SOFT)
            sum_targets(x + j, j, n, top == -INFINITY ? 0 : top, t, mode, chunk);
        line->top_of = ahead ? next.x : NULL;
        if (ahead)
            line->top = max_rest(&next, &line->top_at, format);
    }
    line->out.grad = NULL;
    sce_sums row = combine(line->chunks[0], line->n_chunks);
    if (row.broken)
        row.log_sum = broken_log_sum(x, classes, format);
    return row;
}

/* The row that waits, where no other follows to take it along: some of its chunks. */
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

/* The gradient of a row that counts: what to scale by, and the value at the label. `e`: its exponentials, if kept. */
APART void begin_gradient(pipeline *line, ptrdiff_t i, const sce_sums *row, ptrdiff_t label, double mass, real x_label,
                          const real *e, const target_row *t, enum mode mode, enum sce_format format) {
    const sce_call *call = line->call;
    output *out = &line->out;
    out->grad = entry(call->grad, i * call->classes, format);
    out->from = e ? e : entry(call->logits, i * call->classes, format);
    out->is_kept = e != NULL;
    sce_chunk *own = line->chunks[0];
    line->chunks[0] = line->chunks[1];
    line->chunks[1] = own;
    if (mode == LOG_PROBS) {
        out->top = v_set((real)row->top);
        out->scale = v_set((real)row->log_sum);
        return;
    }
    const double gain = call->row_weight[i * call->row_weight_step] * call->upstream[i * call->upstream_step];
    const double s = 1 + row->rest;
    const double z_pull = call->z_loss != 0 ? 2 * call->z_loss * (row->top + row->log_sum) : 0;
    const double total = mode == SOFT ? row->mass : mass + call->base_total;
    out->t = *t;
    out->label = mode == SOFT || mass == 0 ? -1 : label; /* without mass, the label is a class like the others */
    out->share = (mode == ONE_LABEL ? gain : 1) * (total + z_pull) / s;
    out->gain = v_set((real)gain);
    if (mode != SOFT) {
        /* From the other classes' share, never as p - 1, which cancels as p approaches 1. */
        const int is_there = e && line->n_chunks == 1; /* relative to the row's maximum */
        const double e_label = (double)LOWER * (is_there ? e[label] : raised_exp_at(x_label - (real)row->top));
        const double others = x_label == row->top ? row->rest : s - e_label;
        const double base = mode == LABEL_AND_BASE ? t->base[label * t->base_step] : 0;
        out->at_label = (real)(gain * ((call->base_total + z_pull) * (e_label / s) - mass * (others / s) - base));
    }
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

/* Whether row i counts: log-probabilities are wanted of all. */
INLINE int row_counts(const sce_call *call, ptrdiff_t i, ptrdiff_t label, enum mode mode) {
    return mode == LOG_PROBS || (call->row_weight[i * call->row_weight_step] != 0 && (mode == SOFT || label >= 0));
}

/* What a row gets of a row's sums, the gradient of an ordinary row apart; whether there is one to write. */
APART int write_scalars(const sce_call *call, ptrdiff_t i, const sce_sums *row, double mass, real x_label, int counts,
                        enum mode mode, enum sce_format format) {
    real *grad = call->grad ? entry(call->grad, i * call->classes, format) : NULL;
    real *loss = call->loss ? (real *)call->loss + i : NULL;
    if (call->row_max)
        ((real *)call->row_max)[i] = (real)row->top;
    if (call->log_sum)
        ((real *)call->log_sum)[i] = (real)row->log_sum;
    if (!counts || row->broken) {
        if (loss)
            *loss = counts ? (real)NAN : 0;
        if (grad)
            fill(grad, call->classes, counts ? (real)NAN : 0, format);
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
                    enum sce_format format) {
    const sce_call *call = line->call;
    const int counts = row_counts(call, i, label, mode);
    if (!counts && !call->row_max && !call->log_sum) {
        const sce_sums nothing = {0};
        write_scalars(call, i, &nothing, 0, 0, 0, mode, format);
        return;
    }
    const real x_label = label >= 0 ? entry_at(call->logits, i * call->classes + label, format) : 0;
    real *e = call->exps ? call->exps : line->scratch;
    const sce_sums row = sum_row(line, i, e, call->exps != NULL, t, mode, format);
    if (write_scalars(call, i, &row, mass, x_label, counts, mode, format))
        begin_gradient(line, i, &row, label, mass, x_label, call->exps, t, mode, format);
}

INLINE void all_rows(const sce_call *call, ptrdiff_t start, ptrdiff_t stop, enum mode mode, enum sce_format format) {
    real scratch[SCE_CHUNK + LINE];
    pipeline line = new_pipeline(call, stop, scratch);
    target_row t = {NULL, call->class_scale, call->class_scale_step, call->base_mass, call->base_mass_step};
    for (ptrdiff_t i = start; i < stop; i++) {
        double mass = 0;
        ptrdiff_t label = -1;
        if (mode == SOFT)
            t.soft = (const real *)call->targets + i * call->classes;
        else if (mode != LOG_PROBS)
            label = label_of(call, i, &mass);
        one_row(&line, i, label, mass, &t, mode, format);
    }
    write_chunks(&line.out, line.chunks[1], 0, line.n_chunks, mode, format);
    end_line(&line.out, format);
}

/* One body for each mode. */
#define ROWS_OF(name, mode, format)                                                                                    \
    static __attribute__((noinline)) void name(const sce_call *call, ptrdiff_t start, ptrdiff_t stop) {                \
        all_rows(call, start, stop, mode, format);                                                                     \
    }
ROWS_OF(rows_one_label, ONE_LABEL, SCE_REAL)
ROWS_OF(rows_label_and_base, LABEL_AND_BASE, SCE_REAL)
ROWS_OF(rows_soft, SOFT, SCE_REAL)
ROWS_OF(rows_log_probs, LOG_PROBS, SCE_REAL)
#if defined(HAS_F16_ROWS)
ROWS_OF(rows_f16, ONE_LABEL, SCE_F16)
#else
#define rows_f16 rows_bf16 /* never called */
#endif
#if defined(REAL_F32)
ROWS_OF(rows_bf16, ONE_LABEL, SCE_BF16)
#endif

static void rows_one_by_one(const sce_call *call, ptrdiff_t start, ptrdiff_t stop, enum mode mode) {
    (mode == SOFT        ? rows_soft
     : mode == ONE_LABEL ? rows_one_label
     : mode == LOG_PROBS ? rows_log_probs
                         : rows_label_and_base)(call, start, stop);
}

static enum mode mode_of(const sce_call *call) {
    if (call->log_output)
        return LOG_PROBS;
    return call->labels == NULL ? SOFT : call->base_mass ? LABEL_AND_BASE : ONE_LABEL;
}

#include "rows_lanes.h"

static void strided_rows(const sce_call *call, ptrdiff_t start, ptrdiff_t stop);

void ROWS_NAME(const sce_call *call, ptrdiff_t start, ptrdiff_t stop) {
    if (call->strided) {
        strided_rows(call, start, stop);
        return;
    }
    if (call->classes <= LANES)
        few_classes(call, start, stop, mode_of(call));
    else
        rows_one_by_one(call, start, stop, mode_of(call));
}

/* A long row in parts, for several threads: the sums of some chunks; then, all sums being there, what is one number a
 * row; then the gradient of some chunks. The same functions as for a whole row, and so the same bits. */
INLINE void row_part(const sce_call *call, ptrdiff_t i, enum sce_part part, ptrdiff_t first, ptrdiff_t last,
                     enum mode mode) {
    const ptrdiff_t classes = call->classes;
    const real *x = (const real *)call->logits + i * classes;
    target_row t = {NULL, call->class_scale, call->class_scale_step, call->base_mass, call->base_mass_step};
    real scratch[SCE_CHUNK + LINE];
    pipeline line = new_pipeline(call, i + 1, scratch);
    /* Of two, since the next row's sums may begin before the last of this one's gradient. */
    sce_chunk *chunks = call->chunks + (i & 1) * line.n_chunks;
    const ptrdiff_t room = SCE_ROW_ROOM(classes, (ptrdiff_t)sizeof(real)) / (ptrdiff_t)sizeof(real);
    real *kept = call->exps ? (real *)call->exps + (i & 1) * room : NULL;
    double mass = 0;
    const ptrdiff_t label = mode == SOFT || mode == LOG_PROBS ? -1 : label_of(call, i, &mass);
    if (mode == SOFT)
        t.soft = (const real *)call->targets + i * classes;
    if (part == SCE_SUMS) {
        maximum next = max_of(x + first * SCE_CHUNK, chunk_size(classes, first));
        for (ptrdiff_t k = first; k < last; k++) {
            const ptrdiff_t j = k * SCE_CHUNK, n = chunk_size(classes, k);
            ptrdiff_t at;
            const real top = max_rest(&next, &at, SCE_REAL);
            next = max_of(x + j + n, k + 1 < last ? chunk_size(classes, k + 1) : 0);
            sum_chunk(x + j, n, top, at, kept ? kept + j : scratch, &next, &line.out, mode, SCE_REAL, chunks + k);
            if (mode == LABEL_AND_BASE || mode == SOFT)
                sum_targets(x + j, j, n, top == -INFINITY ? 0 : top, &t, mode, chunks + k);
        }
        return;
    }
    const int counts = row_counts(call, i, label, mode);
    const real x_label = label >= 0 ? x[label] : 0;
    if (part == SCE_SCALARS) {
        *call->sums = combine(chunks, line.n_chunks);
        if (call->sums->broken)
            call->sums->log_sum = broken_log_sum(x, classes, SCE_REAL);
        write_scalars(call, i, call->sums, mass, x_label, counts, mode, SCE_REAL);
    } else if (counts && !call->sums->broken) {
        begin_gradient(&line, i, call->sums, label, mass, x_label, kept, &t, mode, SCE_REAL);
        write_chunks(&line.out, chunks, first, last, mode, SCE_REAL);
        end_line(&line.out, SCE_REAL);
    }
}

void PART_NAME(const sce_call *call, ptrdiff_t i, enum sce_part part, ptrdiff_t first, ptrdiff_t last) {
    const enum mode mode = mode_of(call);
    if (mode == SOFT)
        row_part(call, i, part, first, last, SOFT);
    else if (mode == LABEL_AND_BASE)
        row_part(call, i, part, first, last, LABEL_AND_BASE);
    else if (mode == LOG_PROBS)
        row_part(call, i, part, first, last, LOG_PROBS);
    else
        row_part(call, i, part, first, last, ONE_LABEL);
}

/* The exp in use, elementwise, so that its error can be measured. */
void EXP_NAME(const void *t, void *e, ptrdiff_t n) {
    for (ptrdiff_t i = 0; i < n; i += W)
        store((real *)e + i, n - i, v_exp(load((const real *)t + i, n - i, 0)));
}

#include "strided.h"
