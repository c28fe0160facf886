/* Few classes, the first steps of a block of rows: reading, transposing, and the sums over the classes. */
#ifndef SOFTMAX_CE_LANES_SUMS_H
#define SOFTMAX_CE_LANES_SUMS_H

#include "lanes_memory.h"
#include "log1p.h"

#define PAIR 2        /* blocks computed together */
#define PAIRED 32     /* up to so many classes */
#define LANE_UNROLL 4 /* classes summed in R before they are added in float64 */
/* Up to so many classes, values at the labels are selected column by column, in whole blocks; else they are looked up
 * row by row. Selecting took 1.05 of the time for ten classes of float64 in vectors of four (AVX2). */
#define SELECTED (W < 8 ? 2 * W : 16)

/* The row factors of n <= W rows. */
INLINE V row_factor(const double *factor, ptrdiff_t step, ptrdiff_t i, ptrdiff_t n) {
    real lanes[W] = {0};
    if (step == 0)
        return v_set((real)*factor);
    for (ptrdiff_t r = 0; r < n; r++)
        lanes[r] = (real)factor[i + r];
    return v_load(lanes);
}

INLINE V row_gain(const sce_call *call, V weight, ptrdiff_t i, ptrdiff_t n) {
    real lanes[W] = {0};
    if (call->upstream_step == 0 && call->upstream[0] == 1)
        return weight;
    if (call->upstream_step == 0 && call->row_weight_step == 0)
        return v_set((real)(call->row_weight[0] * call->upstream[0]));
    for (ptrdiff_t r = 0; r < n; r++)
        lanes[r] = (real)(call->row_weight[(i + r) * call->row_weight_step] *
                          call->upstream[(i + r) * call->upstream_step]);
    return v_load(lanes);
}

INLINE V class_factor(const void *table, ptrdiff_t step, ptrdiff_t j) {
    return v_set(((const real *)table)[j * step]);
}

/* A bit for each lane that is not finite. */
INLINE unsigned not_finite(V v) {
    return ~m_bits(v_eq(v_sub(v, v), v_set(0)));
}

/* T of class j in each lane, without the mass at the label. */
INLINE V lane_target(const sce_call *call, const V *soft, ptrdiff_t j, enum mode mode) {
    if (mode == LABEL_AND_BASE)
        return class_factor(call->base_mass, call->base_mass_step, j);
    const V base = call->base_mass ? class_factor(call->base_mass, call->base_mass_step, j) : v_set(0);
    return v_fma(soft[j], class_factor(call->class_scale, call->class_scale_step, j), base);
}

/* A block of W rows, one a lane. Its columns hold the logits, then the exponentials, then the gradient. */
typedef struct {
    V column[LANES + W], soft[LANES + W];
    ptrdiff_t whole;              /* see whole_rows */
    ptrdiff_t label_index[W];     /* the labels, 0 where a row has none; set where they are looked up */
    V label;                      /* the labels as reals; set where they are selected */
    V weight, top;                /* row_weight, the maximum */
    V x_label, mass, at_base;     /* at the label: the logit, T less the base, the base */
    V rest, s, inverse, log_sum, base_total, cost;
    unsigned fallback;            /* a bit for each row that the row kernel computes */
} block;

/* Select the values at each row's label by comparing the labels with every class. Return a bit for each row without a
 * label. */
INLINE unsigned select_labels(const sce_call *call, block *b, ptrdiff_t i, ptrdiff_t n, enum mode mode) {
    const real *scale = call->class_scale, *base = call->base_mass;
    const int64_t *from = call->labels + i * call->labels_step;
    int64_t labels[W] = {0};
    unsigned none;
    if (n < W || call->labels_step == 0) {
        for (ptrdiff_t r = 0; r < n; r++)
            labels[r] = ((const volatile int64_t *)from)[r * call->labels_step];
        from = labels;
    }
    b->label = v_labels(from, call->classes, call->ignore_index, &none);
    b->x_label = b->column[0];
    b->mass = v_set(scale[0]);
    b->at_base = mode == LABEL_AND_BASE ? v_set(base[0]) : v_set(0);
    for (ptrdiff_t j = 1; j < call->classes; j++) {
        const M here = v_eq(b->label, v_set((real)j));
        b->x_label = v_blend(here, b->x_label, b->column[j]);
        if (call->class_scale_step)
            b->mass = v_blend(here, b->mass, v_set(scale[j]));
        if (mode == LABEL_AND_BASE && call->base_mass_step)
            b->at_base = v_blend(here, b->at_base, v_set(base[j]));
    }
    return none;
}

/* Look up the values at the labels row by row, as above: comparing with many classes would take longer. */
INLINE unsigned look_up_labels(const sce_call *call, block *b, ptrdiff_t i, ptrdiff_t n, enum mode mode) {
    const real *scale = call->class_scale, *base = call->base_mass, *x = (const real *)b->column;
    const int64_t *labels = call->labels + i * call->labels_step;
    real x_label[W] = {0}, mass[W] = {0}, at_base[W] = {0};
    unsigned none = 0;
    for (ptrdiff_t r = n; r < W; r++)
        b->label_index[r] = 0;
#pragma GCC unroll 16
    for (ptrdiff_t r = 0; r < n; r++) {
        /* Read once: another thread may change it after the shell's check, and it must not become an address. */
        const int64_t y = *(const volatile int64_t *)(labels + r * call->labels_step);
        const int counts = (uint64_t)y < (uint64_t)call->classes && y != call->ignore_index;
        const ptrdiff_t label = counts ? y : 0;
        none |= (unsigned)!counts << r;
        b->label_index[r] = label;
        x_label[r] = x[label * W + r];
        if (call->class_scale_step)
            mass[r] = scale[label];
        if (mode == LABEL_AND_BASE)
            at_base[r] = base[label * call->base_mass_step];
    }
    b->x_label = v_from_lanes(x_label);
    b->mass = call->class_scale_step ? v_from_lanes(mass) : v_set(*scale);
    b->at_base = mode == LABEL_AND_BASE ? v_from_lanes(at_base) : v_set(0);
    return none;
}

/* Write whether the labels of the block's rows, whose logits are in x_label, are the first maxima. `none` has a bit for
 * each row without a label. A row with a NaN is left to the row kernel. */
INLINE void mark_block(const sce_call *call, const block *b, ptrdiff_t i, ptrdiff_t n, V x_label, unsigned none) {
    const ptrdiff_t classes = call->classes, step = call->column_step;
    V maxima = v_set(0);
    for (ptrdiff_t j = 0; j < classes; j++)
        maxima = v_add_where(v_eq(b->column[j], b->top), maxima, v_set(1));
    const unsigned is_top = m_bits(v_eq(x_label, b->top)) & ~none, is_tied = is_top & m_bits(v_above(maxima, v_set(1)));
    for (ptrdiff_t r = 0; r < n; r++)
        call->correct[i + r] = is_top >> r & 1;
    for (ptrdiff_t r = 0; is_tied && r < n; r++) {
        const int64_t y = *(const volatile int64_t *)(call->labels + (i + r) * call->labels_step); /* read once */
        const real *x = (const real *)call->logits + (i + r) * (step ? 1 : classes);
        if (is_tied >> r & 1)
            call->correct[i + r] = (uint64_t)y < (uint64_t)classes && is_first_maximum(x, step ? step : 1, classes, y);
    }
}

/* Soft targets that were made from labels: return a bit for each row without a label. */
INLINE unsigned look_at_labels(const sce_call *call, const block *b, ptrdiff_t i, ptrdiff_t n) {
    real x_label[W] = {0};
    unsigned none = 0;
    for (ptrdiff_t r = 0; r < n; r++) {
        const int64_t y = *(const volatile int64_t *)(call->labels + (i + r) * call->labels_step); /* read once */
        const int counts = (uint64_t)y < (uint64_t)call->classes && y != call->ignore_index;
        none |= (unsigned)!counts << r;
        x_label[r] = ((const real *)b->column)[(counts ? y : 0) * W + r];
    }
    if (call->correct)
        mark_block(call, b, i, n, v_load(x_label), none);
    return none;
}

/* First step: transpose, find the maxima and the values at the labels. */
INLINE void begin_block(const sce_call *call, block *b, ptrdiff_t i, ptrdiff_t n, enum mode mode, int is_selected) {
    const ptrdiff_t classes = call->classes;
    load_rows(call, call->logits, i, n, b->whole, b->column);
    if (mode == SOFT)
        load_rows(call, call->targets, i, n, b->whole, b->soft);
    b->weight = mode == LOG_PROBS ? v_set(1) : row_factor(call->row_weight, call->row_weight_step, i, n);
    b->fallback = m_bits(v_eq(b->weight, v_set(0)));
    V top = b->column[0], other = top; /* two chains, half the latency */
    for (ptrdiff_t j = 1; j + 1 < classes; j += 2) {
        top = v_max(b->column[j], top);
        other = v_max(b->column[j + 1], other);
    }
    b->top = v_max(b->column[classes - 1], v_max(other, top));
    b->x_label = b->mass = b->at_base = v_set(0);
    if (mode == SOFT && call->labels)
        b->fallback |= look_at_labels(call, b, i, n);
    if (mode != ONE_LABEL && mode != LABEL_AND_BASE)
        return;
    const unsigned none = is_selected ? select_labels(call, b, i, n, mode) : look_up_labels(call, b, i, n, mode);
    b->fallback |= none;
    if (!__builtin_constant_p(classes) && call->correct)
        mark_block(call, b, i, n, b->x_label, none);
}

/* Replace `count` <= LANE_UNROLL columns from j on by their exponentials times 2^SCE_RAISE. Return the sum of those
 * below the maximum, and add those equal to it to `tops`. */
INLINE V exps_of_columns(block *b, ptrdiff_t j, int count, V *tops, enum mode mode) {
    V e[LANE_UNROLL], sum = v_set(0);
    M is_top[LANE_UNROLL];
    for (int k = 0; k < count; k++) {
        is_top[k] = v_eq(b->column[j + k], b->top);
        e[k] = v_sub(b->column[j + k], b->top);
    }
    for (int k = 0; k < count; k += GROUP)
        v_exps_raised(e + k, count - k < GROUP ? count - k : GROUP);
    for (int k = 0; k < count; k++) {
        if (mode != LOG_PROBS)
            b->column[j + k] = e[k];
        *tops = v_add_where(is_top[k], *tops, v_set(1));
        sum = v_add_unless(is_top[k], sum, e[k]);
    }
    return sum;
}

/* Prefetch the next rows, and the gradient's lines: a block has as many lines as columns. */
INLINE void prefetch_columns(const sce_call *call, ptrdiff_t i, ptrdiff_t first, ptrdiff_t count) {
#if defined(V_PREFETCH)
    const real *next = (const real *)call->logits + (i + W) * call->classes;
    const real *grad = call->grad ? (real *)call->grad + i * call->classes : next;
    for (ptrdiff_t k = first; k < first + count; k++) {
        __builtin_prefetch(next + k * W);
        __builtin_prefetch(grad + k * W, 1);
    }
#else
    (void)call, (void)i, (void)first, (void)count;
#endif
}

/* Two classes need one exponential: that of the maximum is 1. Equal classes are both the maximum. */
INLINE void sum_two_classes(const sce_call *call, block *b) {
    const V gap = v_max(v_sub(b->column[0], b->column[1]), v_sub(b->column[1], b->column[0]));
    const V e = v_exp_raised(v_sub(v_set(0), gap)), one = v_set(1 / LOWER);
    for (int j = 0; j < 2; j++)
        b->column[j] = v_blend(v_eq(b->column[j], b->top), e, one);
    b->rest = v_fma(e, v_set(LOWER), v_set(0));
    b->base_total = v_set((real)call->base_total);
    b->cost = v_set(0);
}

/* Add `count` columns from j on to the sums. */
INLINE void sum_columns(const sce_call *call, block *b, ptrdiff_t i, ptrdiff_t j, int count, V *tops, A sums[3],
                        enum mode mode) {
    if (mode == LABEL_AND_BASE || mode == SOFT) {
        V part_cost = v_set(0), part_total = v_set(0);
        for (ptrdiff_t k = j; k < j + count; k++) {
            const V target = lane_target(call, b->soft, k, mode);
            const V gap = v_sub(b->top, b->column[k]); /* without mass it does not count, though it be infinite */
            part_total = v_add(part_total, target);
            part_cost = v_fma(target, mode == SOFT ? v_zero_where(v_eq(target, v_set(0)), gap) : gap, part_cost);
        }
        sums[1] = a_add(sums[1], part_total);
        sums[2] = a_add(sums[2], part_cost);
    }
    prefetch_columns(call, i, j, count);
    sums[0] = a_add(sums[0], exps_of_columns(b, j, count, tops, mode));
}

/* Second step: the sums over the classes. */
INLINE void sum_block(const sce_call *call, block *b, ptrdiff_t i, enum mode mode) {
    const ptrdiff_t classes = call->classes;
    if (classes == 2 && mode == ONE_LABEL) {
        prefetch_columns(call, i, 0, 2);
        sum_two_classes(call, b);
        return;
    }
    V tops = v_set(-1); /* one maximum is the 1 of s = 1 + rest */
    A sums[3] = {a_zero(), a_zero(), a_zero()}; /* of the exponentials, of T, of T * (top - x) */
    ptrdiff_t j = 0;
    for (; j + LANE_UNROLL <= classes; j += LANE_UNROLL)
        sum_columns(call, b, i, j, LANE_UNROLL, &tops, sums, mode);
    /* Outside the loop: inside, gcc would compute one column before it tests how many there are. */
    if (classes - j == 3)
        sum_columns(call, b, i, j, 3, &tops, sums, mode);
    else if (classes - j == 2)
        sum_columns(call, b, i, j, 2, &tops, sums, mode);
    else if (classes - j == 1)
        sum_columns(call, b, i, j, 1, &tops, sums, mode);
    b->rest = v_fma(a_lanes(sums[0]), v_set(LOWER), tops);
    b->base_total = mode == SOFT ? a_lanes(sums[1]) : v_set((real)call->base_total);
    b->cost = a_lanes(sums[2]);
}

/* The slow operations, which every mode needs: the logarithm and the inverse of the sum. */
INLINE void invert_sums(block *b) {
    b->s = v_add(v_set(1), b->rest);
    b->inverse = v_div(v_set(1), b->s);
    b->log_sum = v_log1p(b->rest, b->inverse);
}

#endif
