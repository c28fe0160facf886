/* Rows of few classes between memory and the lanes: whole vectors of contiguous rows, which are transposed; or rows
 * that lie side by side, call->column_step entries from one class to the next, in a tile of strided.h. A column of the
 * block is then a vector in memory, and nothing is transposed. */
#ifndef SOFTMAX_CE_LANES_MEMORY_H
#define SOFTMAX_CE_LANES_MEMORY_H

#include "rows_pipeline.h"

/* Rows are read and written as W x W entries at a time. Where a row's last vector stays inside the block, it is read
 * and written whole, beyond the row's end: the next row is written later. Return how many leading rows of a block allow
 * that. */
INLINE ptrdiff_t whole_rows(ptrdiff_t classes) {
    const ptrdiff_t last = (classes - 1) / W * W; /* where a row's last vector begins */
    return (W * classes - last - W) / classes + 1;
}

INLINE void load_columns(const real *x, ptrdiff_t classes, ptrdiff_t n, ptrdiff_t whole, V *column) {
    if (classes == 2 && n == W) {
        v_load_pairs(x, &column[0], &column[1]);
        return;
    }
    for (ptrdiff_t j = 0; j < classes; j += W) {
        V rows[W];
#pragma GCC unroll 16
        for (ptrdiff_t r = 0; r < W; r++)
            rows[r] = r < whole ? v_load(x + r * classes + j)
                      : r < n   ? load(x + r * classes + j, classes - j, 0)
                                : v_set(0);
        v_transpose(rows);
#pragma GCC unroll 16
        for (ptrdiff_t k = 0; k < W; k++)
            if (!__builtin_constant_p(classes) || j + k < classes) /* the others are never read */
                column[j + k] = rows[k];
    }
}

INLINE void store_columns(real *g, ptrdiff_t classes, ptrdiff_t n, ptrdiff_t whole, V *column, unsigned fallback) {
    whole = fallback ? 0 : whole;
    if (classes == 2 && n == W && whole) {
        v_store_pairs(g, column[0], column[1]);
        return;
    }
#if defined(V_STORE_TWO)
    if (__builtin_constant_p(classes) && classes == W + 2 && n == W && whole) {
        v_transpose(column);
        for (ptrdiff_t r = 0; r < W; r++)
            v_store(g + r * classes, column[r]);
        v_store_two(g + W, classes, column[W], column[W + 1]);
        return;
    }
#endif
    if (__builtin_constant_p(classes)) /* see load_columns */
        for (ptrdiff_t k = classes; k % W; k++)
            column[k] = v_set(0);
    for (ptrdiff_t j = 0; j < classes; j += W)
        v_transpose(column + j);
    for (ptrdiff_t r = 0; r < whole; r++)
        for (ptrdiff_t j = 0; j < classes; j += W)
            v_store(g + r * classes + j, column[j + r]);
    for (ptrdiff_t r = whole; r < n; r++)
        for (ptrdiff_t j = 0; j < classes && !(fallback >> r & 1); j += W)
            store(g + r * classes + j, classes - j, column[j + r]);
}

INLINE void load_side_by_side(const real *x, ptrdiff_t step, ptrdiff_t classes, ptrdiff_t n, V *column) {
    if (n == W)
        for (ptrdiff_t j = 0; j < classes; j++)
            column[j] = v_load(x + j * step);
    else
        for (ptrdiff_t j = 0; j < classes; j++)
            column[j] = v_load_first(x + j * step, n, v_set(0));
}

INLINE void store_side_by_side(real *g, ptrdiff_t step, ptrdiff_t classes, ptrdiff_t n, const V *column,
                               unsigned fallback) {
    real lanes[W];
    if (n == W && fallback == 0) {
        for (ptrdiff_t j = 0; j < classes; j++)
            v_store(g + j * step, column[j]);
        return;
    }
    for (ptrdiff_t j = 0; j < classes; j++) {
        v_store(lanes, column[j]);
        for (ptrdiff_t r = 0; r < n; r++)
            if (!(fallback >> r & 1))
                g[j * step + r] = lanes[r];
    }
}

/* Prefetch the same rows of the next tile, a line of each class, so that memory is read while this tile is computed.
 * The hardware prefetcher does not find them. */
INLINE void prefetch_next_tile(const sce_tiles *tiles, ptrdiff_t classes, ptrdiff_t i) {
    if (tiles->next_tile == NULL || i * tiles->next_item % SCE_LINE != 0)
        return;
    const char *p = tiles->next_tile + i * tiles->next_item;
    for (ptrdiff_t j = 0; j < classes; j++)
        __builtin_prefetch(p + j * tiles->next_class_stride, 0, 2);
}

/* Any number of classes. Not inlined, so that there is one copy. */
NOINLINE void load_any_rows(const real *x, ptrdiff_t step, ptrdiff_t classes, ptrdiff_t n, ptrdiff_t whole, V *column) {
    if (step)
        load_side_by_side(x, step, classes, n, column);
    else
        load_columns(x, classes, n, whole, column);
}

NOINLINE void store_any_rows(real *g, ptrdiff_t step, ptrdiff_t classes, ptrdiff_t n, ptrdiff_t whole, V *column,
                          unsigned fallback) {
    if (step)
        store_side_by_side(g, step, classes, n, column, fallback);
    else
        store_columns(g, classes, n, whole, column, fallback);
}

/* Load rows i to i + n of logits or targets. */
INLINE void load_rows(const sce_call *call, const void *from, ptrdiff_t i, ptrdiff_t n, ptrdiff_t whole, V *column) {
    const ptrdiff_t step = call->column_step, classes = call->classes;
    const real *x = (const real *)from + (step ? i : i * classes);
    if (step && from == call->logits)
        prefetch_next_tile(call->tiles, classes, i);
    if (!__builtin_constant_p(classes))
        load_any_rows(x, step, classes, n, whole, column);
    else if (step)
        load_side_by_side(x, step, classes, n, column);
    else
        load_columns(x, classes, n, whole, column);
}

/* Store rows i to i + n of the gradient or the Hessian, except those in `fallback`. */
INLINE void store_rows(const sce_call *call, void *to, ptrdiff_t i, ptrdiff_t n, ptrdiff_t whole, V *column,
                       unsigned fallback) {
    const ptrdiff_t step = call->column_step, classes = call->classes;
    real *g = (real *)to + (step ? i : i * classes);
    if (!__builtin_constant_p(classes))
        store_any_rows(g, step, classes, n, whole, column, fallback);
    else if (step)
        store_side_by_side(g, step, classes, n, column, fallback);
    else
        store_columns(g, classes, n, whole, column, fallback);
}

/* Return the call without its first i rows. Logits, targets and gradient are not moved. */
INLINE sce_call call_from(const sce_call *call, ptrdiff_t i) {
    sce_call rest = *call;
    if (rest.labels)
        rest.labels += i * rest.labels_step;
    if (rest.correct)
        rest.correct += i;
    rest.row_weight += i * rest.row_weight_step;
    rest.upstream += i * rest.upstream_step;
    if (rest.loss)
        rest.loss = (real *)rest.loss + i;
    if (rest.row_max)
        rest.row_max = (real *)rest.row_max + i;
    if (rest.log_sum)
        rest.log_sum = (real *)rest.log_sum + i;
    return rest;
}

/* Compute one row with the row kernel. A row of a tile is gathered first and scattered afterwards. */
NOINLINE void fallback_row(const sce_call *call, ptrdiff_t i, enum mode mode) {
    const ptrdiff_t classes = call->classes, step = call->column_step;
    real x[LANES], t[LANES], h[LANES];
    if (step == 0) {
        rows_one_by_one(call, i, i + 1, mode);
        return;
    }
    sce_call one = call_from(call, i);
    for (ptrdiff_t j = 0; j < classes; j++)
        x[j] = ((const real *)call->logits)[i + j * step];
    if (mode == SOFT)
        for (ptrdiff_t j = 0; j < classes; j++)
            t[j] = ((const real *)call->targets)[i + j * step];
    one.column_step = 0;
    one.logits = x;
    one.targets = mode == SOFT ? t : NULL;
    one.grad = call->grad ? x : NULL;
    one.hess = call->hess ? h : NULL;
    rows_one_by_one(&one, 0, 1, mode);
    if (call->grad)
        for (ptrdiff_t j = 0; j < classes; j++)
            ((real *)call->grad)[i + j * step] = x[j];
    if (call->hess)
        for (ptrdiff_t j = 0; j < classes; j++)
            ((real *)call->hess)[i + j * step] = h[j];
}

/* Compute rows of a block, a bit each from row i on, with the row kernel. */
INLINE void fallback_rows(const sce_call *call, ptrdiff_t i, unsigned fallback, enum mode mode) {
    for (ptrdiff_t r = 0; fallback; r++, fallback >>= 1)
        if (fallback & 1)
            fallback_row(call, i + r, mode);
}

#endif
