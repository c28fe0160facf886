/* Few classes, the last step of a block of rows: its losses and its gradient. */
#ifndef SOFTMAX_CE_LANES_OUTPUT_H
#define SOFTMAX_CE_LANES_OUTPUT_H

#include "lanes_hessian.h"
#include "lanes_sums.h"

/* Return the losses. Rows whose loss is not finite are added to `fallback`. */
INLINE V losses_of_block(const sce_call *call, const block *b, V lse, unsigned *fallback, enum mode mode) {
    V loss = v_mul(b->mass, v_add(v_sub(b->top, b->x_label), b->log_sum));
    if (mode != ONE_LABEL)
        loss = v_add(v_fma(b->base_total, b->log_sum, b->cost), loss);
    if (call->z_loss != 0)
        loss = v_fma(v_mul(v_set((real)call->z_loss), lse), lse, loss);
    loss = v_mul(b->weight, loss);
    *fallback |= not_finite(loss); /* so are those with a NaN or +inf, or only -inf: 0 * inf is NaN */
    return loss;
}

/* Look up the exponentials at the labels. */
INLINE V exps_at_labels(const block *b) {
    const real *e = (const real *)b->column;
    real lanes[W];
#pragma GCC unroll 16
    for (ptrdiff_t r = 0; r < W; r++)
        lanes[r] = e[b->label_index[r] * W + r];
    return v_from_lanes(lanes);
}

/* Replace the exponentials by the gradient, and set its value at the label. Return a bit for each row that is not
 * finite. */
INLINE unsigned gradient_of_block(const sce_call *call, block *b, V gain, V lse, V *at_label, enum mode mode,
                                  int is_selected) {
    const ptrdiff_t classes = call->classes;
    V slope = b->base_total;
    if (call->z_loss != 0)
        slope = v_fma(v_set((real)(2 * call->z_loss)), lse, b->base_total);
    const V share = v_mul(v_add(b->mass, slope), b->inverse), scale = mode == ONE_LABEL ? v_mul(gain, share) : share;
    *at_label = v_set(0);
    if (mode != SOFT) {
        /* Computed from the other classes' sum, never as p - 1, which cancels as p approaches 1. */
        const V raised = !is_selected   ? exps_at_labels(b)
                         : classes == 2 ? v_blend(v_eq(b->label, v_set(0)), b->column[1], b->column[0])
                                        : v_exp_raised(v_sub(b->x_label, b->top));
        const V e_label = v_fma(raised, v_set(LOWER), v_set(0)); /* as in v_exp */
        const V others = v_blend(v_eq(b->x_label, b->top), v_sub(b->s, e_label), b->rest);
        const V own = v_mul(v_sub(v_mul(slope, e_label), v_mul(b->mass, others)), b->inverse);
        *at_label = v_mul(gain, v_sub(own, b->at_base));
    }
    /* As for a long row, small scales are multiplied before LOWER, so that nothing is rounded twice. */
    const M is_large = v_not_less(v_max(scale, v_sub(v_set(0), scale)), v_set((real)0x1p-50));
    const V by = v_blend(is_large, scale, v_mul(scale, v_set(LOWER)));
    const int all_large = m_bits(is_large) == ~0u >> (32 - W);
    const V lower = v_blend(is_large, v_set(LOWER), v_set(1));
    /* Without mass, the label is a class like any other. */
    const V label = is_selected ? v_blend(v_eq(b->mass, v_set(0)), b->label, v_set(-1)) : v_set(-1);
    for (ptrdiff_t j = 0; j < classes; j++) {
        V value = all_large ? v_fma(b->column[j], by, v_set(0)) : v_fma(v_mul(b->column[j], by), lower, v_set(0));
        if (mode != ONE_LABEL)
            value = v_mul(gain, v_sub(value, lane_target(call, b->soft, j, mode)));
        if (is_selected)
            value = v_blend(v_eq(label, v_set((real)j)), value, *at_label);
        b->column[j] = value;
    }
    return not_finite(v_add(v_mul(gain, share), *at_label));
}

/* Store the label's entry of each row that has mass there, where labels are looked up. */
INLINE void put_at_labels(const sce_call *call, const block *b, ptrdiff_t i, ptrdiff_t n, V at_label,
                          unsigned fallback) {
    const ptrdiff_t step = call->column_step ? call->column_step : 1, row = call->column_step ? 1 : call->classes;
    real *g = (real *)call->grad + i * row, lanes[W];
    fallback |= m_bits(v_eq(b->mass, v_set(0)));
    v_store(lanes, at_label);
    if (n == W && (fallback & ~0u >> (32 - W)) == 0) {
#pragma GCC unroll 16
        for (ptrdiff_t r = 0; r < W; r++)
            g[r * row + b->label_index[r] * step] = lanes[r];
        return;
    }
    for (ptrdiff_t r = 0; r < n; r++)
        if (!(fallback >> r & 1))
            g[r * row + b->label_index[r] * step] = lanes[r];
}

/* Third step: write the block's outputs. `original` is the caller's call, which fallback rows use. */
INLINE void finish_block(const sce_call *call, const sce_call *original, block *b, ptrdiff_t i, ptrdiff_t n,
                         enum mode mode, int is_selected, int has_hess) {
    const unsigned lanes = n == W ? ~0u >> (32 - W) : (1u << n) - 1;
    const V lse = v_add(b->top, b->log_sum);
    unsigned fallback = b->fallback, fallback_grad = 0;
    if (mode == LOG_PROBS) {
        fallback = not_finite(lse);
        for (ptrdiff_t j = 0; j < call->classes; j++)
            b->column[j] = v_sub(v_sub(b->column[j], b->top), b->log_sum);
        store_rows(call, call->grad, i, n, b->whole, b->column, fallback & lanes);
        fallback_rows(original, i, fallback & lanes, mode);
        return;
    }
    const V loss = losses_of_block(call, b, lse, &fallback, mode);
    const V gain = call->grad || has_hess ? row_gain(call, b->weight, i, n) : v_set(0);
    if (has_hess) {
        b->fallback = fallback;
        hessian_of_block(call, original, b, i, n, gain, lse, lanes, mode);
    }
    if (call->grad) {
        V at_label;
        fallback_grad = gradient_of_block(call, b, gain, lse, &at_label, mode, is_selected) & ~fallback;
        store_rows(call, call->grad, i, n, b->whole, b->column, (fallback | fallback_grad) & lanes);
        if (mode != SOFT && !is_selected)
            put_at_labels(call, b, i, n, at_label, fallback | fallback_grad);
    }
    if (call->loss)
        store((real *)call->loss + i, n, loss);
    if (call->row_max)
        store((real *)call->row_max + i, n, b->top);
    if (call->log_sum)
        store((real *)call->log_sum + i, n, b->log_sum);
    fallback_rows(original, i, fallback & lanes, mode);
    if (fallback_grad & lanes) {
        /* The bits of a loss may not depend on whether a gradient is wanted. */
        sce_call rest = *original;
        rest.loss = rest.hess = rest.row_max = rest.log_sum = NULL;
        fallback_rows(&rest, i, fallback_grad & lanes, mode);
    }
}

#endif
