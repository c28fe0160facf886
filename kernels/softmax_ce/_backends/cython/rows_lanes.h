/* Few classes: W rows at a time, one a lane, so that no vector is left half empty and the logarithm is a vector's too.
 * Up to LANES classes, which the vector layer says: a block then fits into L1 with its soft targets. Taken one by one,
 * rows of 64 classes took three times as long, those of 256 1.4 times (AVX-512); without a transposition in registers,
 * one by one is faster from some 32 on.
 *
 * A block of W rows is transposed, computed column by column, and transposed back. Everything is computed in R, sums
 * apart. A row that is not ordinary (it does not count, is not finite somewhere, or would overflow on the way) is left
 * to the row kernel: which rows are depends on each row alone. */

#include "log1p.h"

/* W x W entries at a time; what lies beyond the classes is neither read nor written. */
INLINE void load_columns(const real *x, ptrdiff_t classes, ptrdiff_t n, V *column) {
    for (ptrdiff_t j = 0; j < classes; j += W) {
        V rows[W];
#pragma GCC unroll 16
        for (ptrdiff_t r = 0; r < W; r++)
            rows[r] = r < n ? load(x + r * classes + j, classes - j, 0) : v_set(0);
        v_transpose(rows);
#pragma GCC unroll 16
        for (ptrdiff_t k = 0; k < W; k++)
            column[j + k] = rows[k];
    }
}

INLINE void store_columns(real *g, ptrdiff_t classes, ptrdiff_t n, const V *column, unsigned left) {
    for (ptrdiff_t j = 0; j < classes; j += W) {
        V rows[W];
#pragma GCC unroll 16
        for (ptrdiff_t k = 0; k < W; k++)
            rows[k] = column[j + k];
        v_transpose(rows);
        if (n == W && left == 0) {
#pragma GCC unroll 16
            for (ptrdiff_t r = 0; r < W; r++)
                store(g + r * classes + j, classes - j, rows[r]);
        } else {
            for (ptrdiff_t r = 0; r < n; r++)
                if (!(left >> r & 1))
                    store(g + r * classes + j, classes - j, rows[r]);
        }
    }
}

/* A row factor that is the same for all rows is not looked up row by row. */
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

/* The labels of n rows; `left` gains the bits of those that are none or ignored. */
INLINE V row_labels(const sce_call *call, ptrdiff_t i, ptrdiff_t n, unsigned *left) {
    int64_t copy[W] = {0};
    unsigned bad;
    const int64_t *label = call->labels + i * call->labels_step;
    if (n < W || call->labels_step == 0) { /* fewer than a vector, or one for all */
        for (ptrdiff_t r = 0; r < n; r++)
            copy[r] = ((const volatile int64_t *)label)[r * call->labels_step];
        label = copy;
    }
    const V lanes = v_labels(label, call->classes, call->ignore_index, &bad);
    *left |= bad;
    return lanes;
}

INLINE V class_factor(const void *table, ptrdiff_t step, ptrdiff_t j) {
    return v_set(((const real *)table)[j * step]);
}

/* What is not finite, a bit a lane. */
INLINE unsigned not_finite(V v) {
    return ~m_bits(v_eq(v_sub(v, v), v_set(0)));
}

/* T of class j over the lanes, less the mass at the label. */
INLINE V lane_target(const sce_call *call, const V *soft, ptrdiff_t j, enum mode mode) {
    const V base = call->base_mass ? class_factor(call->base_mass, call->base_mass_step, j) : v_set(0);
    return mode == SOFT ? v_fma(soft[j], class_factor(call->class_scale, call->class_scale_step, j), base) : base;
}

/* A block on its way: from logits to exponentials to gradient, its rows across the lanes. */
typedef struct {
    ptrdiff_t i;                       /* the first row */
    V column[LANES + W], soft[LANES + W];
    V weight, label, top;              /* row_weight, y, the maximum */
    V rest, s, inverse, log_sum, x_label, mass, spread, cost, at_base;
    unsigned left;                     /* rows, a bit each, that are not ordinary */
} block;

/* First step: transpose, and the maxima. */
INLINE void begin_block(const sce_call *call, block *b, ptrdiff_t i, ptrdiff_t n, enum mode mode) {
    const ptrdiff_t classes = call->classes;
    b->i = i;
    load_columns((const real *)call->logits + i * classes, classes, n, b->column);
    if (mode == SOFT)
        load_columns((const real *)call->targets + i * classes, classes, n, b->soft);
    b->weight = row_factor(call->row_weight, call->row_weight_step, i, n);
    b->left = m_bits(v_eq(b->weight, v_set(0)));
    b->label = mode == SOFT ? v_set(-1) : row_labels(call, i, n, &b->left);
    V top = b->column[0], other = top; /* two chains, half the latency */
    for (ptrdiff_t j = 1; j + 1 < classes; j += 2) {
        top = v_max(b->column[j], top);
        other = v_max(b->column[j + 1], other);
    }
    b->top = v_max(b->column[classes - 1], v_max(other, top));
}

/* Second step: the logits become their exponentials, raised; what lies at the label is picked out on the way. */
INLINE void sum_block(const sce_call *call, block *b, enum mode mode) {
    const ptrdiff_t classes = call->classes;
    const V top = b->top, label = b->label, one = v_set(1);
    V x_label = v_set(0), mass = v_set(0), at_base = v_set(0);
    V count = v_set(-1), index = v_set(0);
    const real *next = (const real *)call->logits + (b->i + W) * classes;
    const real *grad = call->grad ? (real *)call->grad + b->i * classes : next;
    A sum = a_zero(), cost = a_zero(), total = a_zero();
    if (mode != SOFT && call->class_scale_step == 0)
        mass = class_factor(call->class_scale, 0, 0);
    for (ptrdiff_t j = 0; j < classes; j += UNROLL) {
        V part = v_set(0), part_cost = v_set(0), part_total = v_set(0);
        for (ptrdiff_t k = j; k < j + UNROLL && k < classes; k++, index = v_add(index, one)) {
            /* The next rows, and where the gradient goes: a block is as many lines as it has columns. */
            __builtin_prefetch(next + k * W);
            __builtin_prefetch(grad + k * W, 1);
            const V x = b->column[k], e = v_exp_raised(v_sub(x, top));
            const M is_top = v_eq(x, top), is_label = v_eq(label, index);
            b->column[k] = e;
            count = v_add_where(is_top, count, one);
            part = v_add_unless(is_top, part, e);
            x_label = v_blend(is_label, x_label, x);
            if (mode != SOFT && call->class_scale_step)
                mass = v_blend(is_label, mass, class_factor(call->class_scale, 1, k));
            if (mode != ONE_LABEL) {
                const V target = lane_target(call, b->soft, k, mode);
                part_total = v_add(part_total, target);
                part_cost = v_fma(target, v_sub(top, x), part_cost);
                at_base = v_blend(is_label, at_base, target);
            }
        }
        sum = a_add(sum, part);
        if (mode != ONE_LABEL) {
            total = a_add(total, part_total);
            cost = a_add(cost, part_cost);
        }
    }
    b->rest = v_fma(a_lanes(sum), v_set(LOWER), count);
    b->s = v_add(one, b->rest);
    b->inverse = v_div(one, b->s);
    b->log_sum = v_log1p(b->rest, b->inverse);
    b->spread = mode == SOFT ? a_lanes(total) : v_set((real)call->base_total);
    b->x_label = x_label, b->mass = mass, b->cost = a_lanes(cost), b->at_base = at_base;
}

/* Rows of a block, a bit each from row i on, as longer ones are computed: in float64 where it matters. */
INLINE void rows_again(const sce_call *call, ptrdiff_t i, unsigned left, enum mode mode) {
    for (ptrdiff_t r = 0; left; r++, left >>= 1)
        if (left & 1)
            short_rows(call, i + r, i + r + 1, mode);
}

/* Third step: everything that is wanted of the block. */
INLINE void finish_block(const sce_call *call, block *b, ptrdiff_t n, enum mode mode) {
    const ptrdiff_t classes = call->classes, i = b->i;
    const unsigned lanes = n == W ? ~0u >> (32 - W) : (1u << n) - 1;
    const V weight = b->weight, mass = b->mass, inverse = b->inverse, lse = v_add(b->top, b->log_sum);
    unsigned left = b->left, left_grad = 0;
    V loss = v_mul(mass, v_add(v_sub(b->top, b->x_label), b->log_sum));
    if (mode != ONE_LABEL)
        loss = v_add(v_fma(b->spread, b->log_sum, b->cost), loss);
    if (call->z_loss != 0)
        loss = v_fma(v_mul(v_set((real)call->z_loss), lse), lse, loss);
    loss = v_mul(weight, loss);
    left |= not_finite(loss); /* as it is where a logit is NaN or +inf, or all are -inf: 0 * inf is NaN */
    if (call->grad) {
        const V gain = row_gain(call, weight, i, n);
        V pull = b->spread;
        if (call->z_loss != 0)
            pull = v_fma(v_set((real)(2 * call->z_loss)), lse, b->spread);
        const V share = v_mul(v_add(mass, pull), inverse), scale = mode == ONE_LABEL ? v_mul(gain, share) : share;
        V at_label = v_set(0);
        if (mode != SOFT) {
            /* From the other classes' share, never as p - 1, which cancels as p approaches 1. */
            const V e_label = v_exp(v_sub(b->x_label, b->top));
            const V others = v_blend(v_eq(b->x_label, b->top), v_sub(b->s, e_label), b->rest);
            at_label = v_mul(v_sub(v_mul(pull, e_label), v_mul(mass, others)), inverse);
            at_label = v_mul(gain, v_sub(at_label, b->at_base));
        }
        left_grad = not_finite(v_add(v_mul(gain, share), at_label)) & ~left;
        /* As for a long row: small scales first, so that nothing is rounded before it is lowered. */
        const M is_large = v_not_less(v_max(scale, v_sub(v_set(0), scale)), v_set(1));
        const V by = v_blend(is_large, scale, v_mul(scale, v_set(LOWER)));
        const V lower = v_blend(is_large, v_set(LOWER), v_set(1));
        /* Without mass, the label is a class like the others. */
        const V place = v_blend(v_eq(mass, v_set(0)), b->label, v_set(-1));
        V index = v_set(0);
        for (ptrdiff_t j = 0; j < classes; j++, index = v_add(index, v_set(1))) {
            V value = v_fma(v_mul(b->column[j], by), lower, v_set(0));
            if (mode != ONE_LABEL)
                value = v_mul(gain, v_sub(value, lane_target(call, b->soft, j, mode)));
            b->column[j] = mode == SOFT ? value : v_blend(v_eq(place, index), value, at_label);
        }
        store_columns((real *)call->grad + i * classes, classes, n, b->column, (left | left_grad) & lanes);
    }
    if (call->loss)
        store((real *)call->loss + i, n, loss);
    if (call->row_max)
        store((real *)call->row_max + i, n, b->top);
    if (call->log_sum)
        store((real *)call->log_sum + i, n, b->log_sum);
    rows_again(call, i, left & lanes, mode);
    if (left_grad & lanes) {
        /* The bits of a loss may not depend on whether a gradient is asked for. */
        sce_call rest = *call;
        rest.loss = rest.row_max = rest.log_sum = NULL;
        rows_again(&rest, i, left_grad & lanes, mode);
    }
}

INLINE void lane_block(const sce_call *call, ptrdiff_t i, ptrdiff_t n, enum mode mode) {
    block b;
    begin_block(call, &b, i, n, mode);
    sum_block(call, &b, mode);
    finish_block(call, &b, n, mode);
}

INLINE void lane_blocks(const sce_call *call, ptrdiff_t start, ptrdiff_t stop, enum mode mode) {
    ptrdiff_t i = start;
    for (; i + W <= stop; i += W)
        lane_block(call, i, W, mode);
    if (i < stop)
        lane_block(call, i, stop - i, mode);
}

static __attribute__((noinline)) void few_classes(const sce_call *call, ptrdiff_t start, ptrdiff_t stop,
                                                  enum mode mode) {
    if (mode == SOFT)
        lane_blocks(call, start, stop, SOFT);
    else if (mode == LABEL_AND_BASE)
        lane_blocks(call, start, stop, LABEL_AND_BASE);
    else
        lane_blocks(call, start, stop, ONE_LABEL);
}
