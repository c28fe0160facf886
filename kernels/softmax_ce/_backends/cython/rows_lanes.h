/* Few classes: W rows at a time, one row a lane, so that no vector is partly empty and the logarithm is vectorised too.
 * This is done up to LANES classes, which the vector layer defines: a block then fits into L1 with its soft targets.
 * One by one, rows of 64 classes took three times as long, and rows of 256 classes 1.4 times (AVX-512). Without a
 * transposition in registers, one by one is faster from about 32 classes on.
 *
 * A block of W rows is transposed, computed column by column, and transposed back. Everything but the sums is computed
 * in R. Rows that do not count, are not finite somewhere or would overflow on the way fall back to the row kernel.
 * Whether a row does so depends on that row alone. */
#ifndef SOFTMAX_CE_ROWS_LANES_H
#define SOFTMAX_CE_ROWS_LANES_H

#include "lanes_output.h"

/* Compute `count` blocks step by step, so that the logarithm and divisions of one overlap with the other's work.
 * `is_selected` is a constant: see SELECTED. */
INLINE void lane_group(const sce_call *call, ptrdiff_t classes, ptrdiff_t i, int count, ptrdiff_t n, ptrdiff_t whole,
                       enum mode mode, int is_selected, int has_hess) {
    sce_call own = *call; /* a local copy: the compiler knows that no store to an output changes it */
    own.classes = classes;
    if (classes < 1)
        __builtin_unreachable(); /* else the compiler warns of columns that are not loaded */
    block b[PAIR];
    for (int k = 0; k < count; k++) {
        b[k].whole = whole;
        begin_block(&own, &b[k], i + k * W, n, mode, is_selected);
    }
    for (int k = 0; k < count; k++)
        sum_block(&own, &b[k], i + k * W, mode);
    for (int k = 0; k < count; k++)
        invert_sums(&b[k]);
    for (int k = 0; k < count; k++)
        finish_block(&own, call, &b[k], i + k * W, n, mode, is_selected, has_hess);
}

/* The rows after the last whole group. */
INLINE void last_lanes(const sce_call *call, ptrdiff_t i, ptrdiff_t stop, enum mode mode, int has_hess) {
    const ptrdiff_t whole = whole_rows(call->classes);
    for (ptrdiff_t n; i < stop; i += n) {
        n = stop - i < W ? stop - i : W;
        lane_group(call, call->classes, i, 1, n, n == W ? whole : 0, mode, 0, has_hess);
    }
}

/* Compute groups of `count` blocks while there are enough rows, and return the first row that remains. */
INLINE ptrdiff_t lane_groups(const sce_call *call, ptrdiff_t classes, ptrdiff_t i, ptrdiff_t stop, int count,
                             enum mode mode, int is_selected, int has_hess) {
    const ptrdiff_t whole = whole_rows(classes);
    for (; i + count * W <= stop; i += count * W)
        lane_group(call, classes, i, count, W, whole, mode, is_selected, has_hess);
    return i;
}

/* One function for each case. Few classes are computed in pairs of blocks. The two most common numbers of classes have
 * functions of their own, whose columns stay in registers; these do not compare the labels with the maxima. More
 * classes, and other targets, are computed block by block. */
#define LANES_OF(name, classes, count, mode, is_selected)                                                              \
    NOINLINE ptrdiff_t name(const sce_call *call, ptrdiff_t i, ptrdiff_t stop) {                                       \
        return lane_groups(call, classes, i, stop, count, mode, is_selected, 0);                                       \
    }
#define LAST_OF(name, mode)                                                                                            \
    NOINLINE void name(const sce_call *call, ptrdiff_t i, ptrdiff_t stop) {                                            \
        last_lanes(call, i, stop, mode, 0);                                                                            \
    }
#define HESSIAN_LANES_OF(name, classes, count, mode, is_selected)                                                      \
    NOINLINE void name(const sce_call *call, ptrdiff_t i, ptrdiff_t stop) {                                            \
        i = lane_groups(call, classes, i, stop, count, mode, is_selected, 1);                                          \
        last_lanes(call, i, stop, mode, 1);                                                                            \
    }
#if defined(REAL_F32)
LANES_OF(two_classes, 2, PAIR, ONE_LABEL, 1)
LANES_OF(ten_classes, 10, PAIR, ONE_LABEL, 1)
LANES_OF(ten_label_and_base, 10, PAIR, LABEL_AND_BASE, 1)
#endif
LANES_OF(lanes_selected, call->classes, PAIR, ONE_LABEL, 1)
LANES_OF(lanes_paired, call->classes, PAIR, ONE_LABEL, 0)
LANES_OF(lanes_one_label, call->classes, 1, ONE_LABEL, 0)
LANES_OF(lanes_label_and_base, call->classes, 1, LABEL_AND_BASE, 0)
LANES_OF(lanes_soft, call->classes, 1, SOFT, 0)
LANES_OF(lanes_log_probs, call->classes, 1, LOG_PROBS, 0)
LAST_OF(last_one_label, ONE_LABEL)
LAST_OF(last_label_and_base, LABEL_AND_BASE)
LAST_OF(last_soft, SOFT)
LAST_OF(last_log_probs, LOG_PROBS)
#if defined(REAL_F32)
HESSIAN_LANES_OF(hessian_ten, 10, PAIR, ONE_LABEL, 1)
#endif
HESSIAN_LANES_OF(hessian_selected, call->classes, PAIR, ONE_LABEL, 1)
HESSIAN_LANES_OF(hessian_paired, call->classes, PAIR, ONE_LABEL, 0)
HESSIAN_LANES_OF(hessian_one_label, call->classes, 1, ONE_LABEL, 0)
HESSIAN_LANES_OF(hessian_label_and_base, call->classes, 1, LABEL_AND_BASE, 0)
HESSIAN_LANES_OF(hessian_soft, call->classes, 1, SOFT, 0)

static void few_classes_with_hessian(const sce_call *call, ptrdiff_t i, ptrdiff_t stop, enum mode mode) {
    if (mode == SOFT)
        hessian_soft(call, i, stop);
    else if (mode == LABEL_AND_BASE)
        hessian_label_and_base(call, i, stop);
#if defined(REAL_F32)
    else if (call->classes == 10)
        hessian_ten(call, i, stop);
#endif
    else
        (call->classes <= SELECTED ? hessian_selected
         : call->classes <= PAIRED ? hessian_paired
                                   : hessian_one_label)(call, i, stop);
}

static void few_classes(const sce_call *call, ptrdiff_t i, ptrdiff_t stop, enum mode mode) {
    if (mode == SOFT) {
        last_soft(call, lanes_soft(call, i, stop), stop);
    } else if (mode == LABEL_AND_BASE) {
#if defined(REAL_F32)
        if (call->classes == 10 && !call->correct)
            i = ten_label_and_base(call, i, stop);
#endif
        last_label_and_base(call, lanes_label_and_base(call, i, stop), stop);
    } else if (mode == LOG_PROBS) {
        last_log_probs(call, lanes_log_probs(call, i, stop), stop);
    } else {
#if defined(REAL_F32)
        if (call->classes == 2 && !call->correct)
            i = two_classes(call, i, stop);
        else if (call->classes == 10 && !call->correct)
            i = ten_classes(call, i, stop);
        else
#endif
            i = (call->classes <= SELECTED ? lanes_selected
                 : call->classes <= PAIRED ? lanes_paired
                                           : lanes_one_label)(call, i, stop);
        last_one_label(call, i, stop);
    }
}

/* Compute contiguous rows, or a tile of strided.h. */
static void contiguous_rows(const sce_call *call, ptrdiff_t start, ptrdiff_t stop) {
    if (call->classes <= LANES && call->hess)
        few_classes_with_hessian(call, start, stop, mode_of(call));
    else if (call->classes <= LANES)
        few_classes(call, start, stop, mode_of(call));
    else
        rows_one_by_one(call, start, stop, mode_of(call));
}

#endif
