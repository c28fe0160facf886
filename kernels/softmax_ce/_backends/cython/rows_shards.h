/* Rows whose classes are divided into shards: the sums of the chunks of one shard; then, from the chunks of all shards,
 * the row's scalars; then the shard's columns of the gradient. The functions are those of a whole row, and so the bits
 * are the same if each shard begins with a whole chunk. */
#ifndef SOFTMAX_CE_ROWS_SHARDS_H
#define SOFTMAX_CE_ROWS_SHARDS_H

#include "rows_pipeline.h"

/* Return the column of row i's label, or -1 if the label is in another shard. */
INLINE ptrdiff_t column_of_label(const sce_call *call, ptrdiff_t i) {
    const int64_t label = *(const volatile int64_t *)(call->labels + i * call->labels_step); /* as in label_of */
    const uint64_t column = (uint64_t)label - (uint64_t)call->shard->first_class;
    return column < (uint64_t)call->classes ? (ptrdiff_t)column : -1;
}

/* Keep the sums of row i's chunks. With a maximum of +inf, the sum only says whether there is a NaN. */
INLINE void keep_chunks(const sce_call *call, ptrdiff_t i, const sce_chunk *chunk) {
    const sce_shard *shard = call->shard;
    const real *x = (const real *)call->logits + i * call->classes;
    double *to = shard->chunks + i * shard->n_chunks * shard->numbers;
    for (ptrdiff_t k = 0; k < shard->n_chunks; k++, to += shard->numbers) {
        to[0] = chunk[k].top;
        to[1] = chunk[k].rest;
        if (chunk[k].top == INFINITY)
            to[1] = degenerate_log_sum(x + k * SCE_CHUNK, chunk_size(call->classes, k), SCE_REAL);
        if (shard->numbers > 2) {
            to[2] = chunk[k].mass;
            to[3] = chunk[k].cost;
        }
    }
}

INLINE void shard_sums(const sce_call *call, ptrdiff_t start, ptrdiff_t stop, enum mode mode) {
    const ptrdiff_t classes = call->classes;
    real scratch[SCE_CHUNK + LINE];
    pipeline pipe = new_pipeline(call, stop, scratch);
    target_row t = {NULL, call->class_scale, call->class_scale_step, call->base_mass, call->base_mass_step};
    for (ptrdiff_t i = start; i < stop; i++) {
        if (mode == SOFT)
            t.soft = (const real *)call->targets + i * classes;
        sum_chunks(&pipe, i, scratch, 0, -1, &t, mode, SCE_REAL, 0);
        keep_chunks(call, i, pipe.chunks[0]);
        if (mode != SOFT) {
            const ptrdiff_t column = column_of_label(call, i);
            call->shard->label_logit[i] = column < 0 ? NAN : ((const real *)call->logits)[i * classes + column];
        }
    }
}

/* Return the target at row i's label less the base, and set whether the row counts. */
INLINE double mass_of_row(const sce_call *call, ptrdiff_t i, int *counts) {
    const double *given = call->shard->label_mass;
    const double mass = given ? given[i * call->shard->label_mass_step] : 0;
    *counts = call->row_weight[i * call->row_weight_step] != 0 && mass == mass;
    return *counts ? mass : 0;
}

INLINE double logit_at_label(const sce_call *call, ptrdiff_t i) {
    const double *given = call->shard->label_logit;
    return given ? given[i * call->shard->label_logit_step] : 0;
}

/* Fold the chunks of all shards, in the order of the classes. */
NOINLINE void shard_scalars(const sce_call *call, ptrdiff_t start, ptrdiff_t stop) {
    const sce_shard *shard = call->shard;
    const enum mode mode = shard->label_mass ? ONE_LABEL : SOFT;
    for (ptrdiff_t i = start; i < stop; i++) {
        const double *from = shard->chunks + i * shard->n_chunks * shard->numbers;
        for (ptrdiff_t k = 0; k < shard->n_chunks; k++, from += shard->numbers) {
            const int has_targets = shard->numbers > 2;
            call->chunks[k] = (sce_chunk){from[0], from[1], has_targets ? from[2] : 0, has_targets ? from[3] : 0, 0};
        }
        sce_sums row = combine(call->chunks, shard->n_chunks);
        if (row.degenerate)
            row.log_sum = isnan(row.rest) ? NAN : 0;
        double *to = shard->totals + i * SCE_TOTALS;
        to[0] = row.top, to[1] = row.rest, to[2] = row.mass, to[3] = row.log_sum;
        int counts;
        const double mass = mass_of_row(call, i, &counts);
        write_scalars(call, i, &row, mass, (real)logit_at_label(call, i), counts, mode, SCE_REAL);
    }
}

INLINE void write_computed_to(output *out, enum mode mode, enum out_kind kind) {
    const output row = *out;
    ptrdiff_t j = row.j;
    for (; j + BLOCK <= row.end && !(j <= row.label && row.label < j + BLOCK); j += BLOCK)
        write_vectors(&row, j, mode, 0, kind, SCE_REAL);
    out->j = j;
}

/* Write plain blocks of the chunk up to the label's. Their exponentials are computed again: with two at a time and no
 * tests in between, this is faster than write_some. */
INLINE void write_computed(output *out, enum mode mode) {
    const enum out_kind kind = kind_of(out);
    if (kind == TO_CACHE)
        write_computed_to(out, mode, TO_CACHE);
    else if (kind == PAST_CACHE)
        write_computed_to(out, mode, PAST_CACHE);
}

INLINE void shard_gradient(const sce_call *call, ptrdiff_t start, ptrdiff_t stop, enum mode mode) {
    const sce_shard *shard = call->shard;
    const ptrdiff_t classes = call->classes;
    real scratch[SCE_CHUNK + LINE];
    pipeline pipe = new_pipeline(call, stop, scratch);
    target_row t = {NULL, call->class_scale, call->class_scale_step, call->base_mass, call->base_mass_step};
    for (ptrdiff_t i = start; i < stop; i++) {
        const double *total = shard->totals + i * SCE_TOTALS;
        const sce_sums row = {.top = total[0], .rest = total[1], .mass = total[2], .log_sum = total[3]};
        int counts;
        const double mass = mass_of_row(call, i, &counts);
        if (!counts || !(row.top > -INFINITY && row.top < INFINITY) || isnan(row.rest)) {
            fill((real *)call->grad + i * classes, classes, counts ? (real)NAN : 0, SCE_REAL);
            continue;
        }
        const double *from = shard->chunks + i * shard->n_chunks * shard->numbers;
        for (ptrdiff_t k = 0; k < shard->n_chunks; k++, from += shard->numbers) {
            pipe.chunks[0][k].top = from[0];
            pipe.chunks[0][k].rescale = from[0] == row.top ? 1 : rescaling(row.top - from[0]);
        }
        if (mode == SOFT)
            t.soft = (const real *)call->targets + i * classes;
        const ptrdiff_t column = mode == SOFT ? -1 : column_of_label(call, i);
        begin_gradient(&pipe, i, &row, column < 0 ? 0 : column, mass, (real)logit_at_label(call, i), NULL, &t, mode,
                       SCE_REAL);
        if (column < 0)
            pipe.out.label = -1;
        for (ptrdiff_t k = 0; k < pipe.n_chunks; k++) {
            begin_chunk(&pipe.out, pipe.chunks[1], k, mode, SCE_REAL);
            while (pipe.out.j < pipe.out.end) {
                write_computed(&pipe.out, mode);
                if (pipe.out.j < pipe.out.end)
                    write_some(&pipe.out, mode, SCE_REAL);
            }
            write_rest(&pipe.out, mode, SCE_REAL);
        }
    }
    flush_line(&pipe.out, SCE_REAL);
}

/* One function for each mode, so that the compiler knows it. */
#define SHARD_OF(name, step, mode)                                                                                     \
    NOINLINE void name(const sce_call *call, ptrdiff_t start, ptrdiff_t stop) { step(call, start, stop, mode); }
SHARD_OF(sums_one_label, shard_sums, ONE_LABEL)
SHARD_OF(sums_label_and_base, shard_sums, LABEL_AND_BASE)
SHARD_OF(sums_soft, shard_sums, SOFT)
SHARD_OF(gradient_one_label, shard_gradient, ONE_LABEL)
SHARD_OF(gradient_label_and_base, shard_gradient, LABEL_AND_BASE)
SHARD_OF(gradient_soft, shard_gradient, SOFT)

static void shard_rows(const sce_call *call, ptrdiff_t start, ptrdiff_t stop) {
    const enum mode mode = mode_of(call);
    if (call->shard->part == SCE_SCALARS)
        shard_scalars(call, start, stop);
    else if (call->shard->part == SCE_SUMS)
        (mode == SOFT ? sums_soft : mode == ONE_LABEL ? sums_one_label : sums_label_and_base)(call, start, stop);
    else
        (mode == SOFT        ? gradient_soft
         : mode == ONE_LABEL ? gradient_one_label
                             : gradient_label_and_base)(call, start, stop);
}

#endif
