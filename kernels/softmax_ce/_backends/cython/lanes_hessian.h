/* Few classes, the diagonal of the Hessian of a block of rows. */
#ifndef SOFTMAX_CE_LANES_HESSIAN_H
#define SOFTMAX_CE_LANES_HESSIAN_H

#include "lanes_sums.h"

/* Write the Hessian of a block whose columns hold the exponentials. Rows where it is not finite are computed by the row
 * kernel, from the logits, which the gradient may overwrite later. */
INLINE void hessian_of_block(const sce_call *call, const sce_call *original, const block *b, ptrdiff_t i, ptrdiff_t n,
                             V gain, V lse, unsigned lanes, enum mode mode) {
    V hess[LANES + W];
    const ptrdiff_t classes = call->classes;
    const V z = v_set((real)(2 * call->z_loss)), zero = v_set(0);
    const V slope = call->z_loss != 0 ? v_fma(z, lse, b->base_total) : b->base_total;
    const V scale = v_mul(gain, v_mul(v_add(b->mass, slope), b->inverse)), z_scale = v_mul(gain, z);
    const V to_p = v_mul(b->inverse, v_set(LOWER)), to_others = v_sub(zero, to_p), rest = v_mul(b->rest, b->inverse);
    const M is_large = v_not_less(v_max(scale, v_sub(v_set(0), scale)), v_set((real)0x1p-50));
    const V by = v_blend(is_large, scale, v_mul(scale, v_set(LOWER)));
    const V lower = v_blend(is_large, v_set(LOWER), v_set(1));
    const int all_large = m_bits(is_large) == ~0u >> (32 - W);
    for (ptrdiff_t j = 0; j < classes; j++) {
        /* At the maximum, 1 - p is the share of the others; elsewhere p <= 1/2, and 1 - p does not cancel. */
        const V e = b->column[j], p = v_fma(e, to_p, zero);
        const V others = v_blend(v_eq(e, v_set(1 / LOWER)), v_fma(e, to_others, v_set(1)), rest);
        const V scaled = all_large ? v_fma(e, by, zero) : v_fma(v_mul(e, by), lower, zero);
        hess[j] = v_mul(scaled, others);
        if (call->z_loss != 0)
            hess[j] = v_fma(v_mul(p, z_scale), p, hess[j]);
    }
    for (ptrdiff_t j = classes; j % W; j++)
        hess[j] = v_set(0);
    const unsigned fallback = (b->fallback | not_finite(v_add(scale, z_scale))) & lanes;
    store_rows(call, call->hess, i, n, b->whole, hess, 0); /* rows that fall back are overwritten later */
    if (fallback & ~b->fallback) {
        sce_call rest = *original;
        rest.loss = rest.grad = rest.row_max = rest.log_sum = NULL;
        fallback_rows(&rest, i, fallback & ~b->fallback, mode);
    }
}

#endif
