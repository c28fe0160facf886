/* A long row in parts, for several threads: the sums of some chunks; then, when all sums are there, the row's scalars;
 * then the gradient of some chunks. The functions are those of a whole row, and so the bits are the same. */
#ifndef SOFTMAX_CE_ROWS_PARTS_H
#define SOFTMAX_CE_ROWS_PARTS_H

#include "rows_pipeline.h"

INLINE void row_part(const sce_call *call, ptrdiff_t i, enum sce_part part, ptrdiff_t first, ptrdiff_t last,
                     enum mode mode) {
    const ptrdiff_t classes = call->classes;
    const real *x = (const real *)call->logits + i * classes;
    target_row t = {NULL, call->class_scale, call->class_scale_step, call->base_mass, call->base_mass_step};
    real scratch[SCE_CHUNK + LINE];
    pipeline pipe = new_pipeline(call, i + 1, scratch);
    /* Two sets, since the next row's sums may begin before this row's gradient is complete. */
    sce_chunk *chunks = call->chunks + (i & 1) * pipe.n_chunks;
    const ptrdiff_t row_entries = SCE_KEPT_ROW_BYTES(classes, (ptrdiff_t)sizeof(real)) / (ptrdiff_t)sizeof(real);
    real *kept = call->exps ? (real *)call->exps + (i & 1) * row_entries : NULL;
    double mass = 0;
    const ptrdiff_t label = mode == SOFT || mode == LOG_PROBS ? -1 : label_of(call, i, &mass);
    if (mode == SOFT)
        t.soft = (const real *)call->targets + i * classes;
    if (part == SCE_SUMS) {
        maximum next = max_of(x + first * SCE_CHUNK, chunk_size(classes, first));
        for (ptrdiff_t k = first; k < last; k++) {
            const ptrdiff_t j = k * SCE_CHUNK, n = chunk_size(classes, k);
            ptrdiff_t top_block;
            const real top = max_rest(&next, &top_block, SCE_REAL);
            next = max_of(x + j + n, k + 1 < last ? chunk_size(classes, k + 1) : 0);
            real *e = kept ? kept + j : scratch;
            sum_chunk(x + j, n, top, top_block, e, &next, &pipe.out, mode, SCE_REAL, chunks + k);
            if (mode == LABEL_AND_BASE || mode == SOFT)
                sum_targets(x + j, j, n, top == -INFINITY ? 0 : top, &t, mode, chunks + k);
        }
        return;
    }
    const int counts = row_counts(call, i, label, mode);
    const real x_label = label >= 0 ? x[label] : 0;
    if (part == SCE_SCALARS) {
        *call->sums = combine(chunks, pipe.n_chunks);
        if (call->sums->degenerate)
            call->sums->log_sum = degenerate_log_sum(x, classes, SCE_REAL);
        write_scalars(call, i, call->sums, mass, x_label, counts, mode, SCE_REAL);
    } else if (counts && !call->sums->degenerate) {
        begin_gradient(&pipe, i, call->sums, label, mass, x_label, kept, &t, mode, SCE_REAL);
        write_chunks(&pipe.out, chunks, first, last, mode, SCE_REAL);
        flush_line(&pipe.out, SCE_REAL);
    }
}

#endif
