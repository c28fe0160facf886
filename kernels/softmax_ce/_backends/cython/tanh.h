/* tanh and its derivative, as vectors V.
 *
 * For |y| < 0.625, tanh is y plus a polynomial (float32) or a quotient of two (float64) in y^2, with the coefficients
 * of Cephes (Moshier, 1989), and the derivative is 1 - tanh(y)^2. Else both would cancel: with q = exp(-2|y|) and
 * r = 1 / (1 + q), tanh(|y|) = (1 - q) * r, and the derivative is 4 * q * r^2. */
#ifndef SOFTMAX_CE_TANH_H
#define SOFTMAX_CE_TANH_H

#include "exp.h"
#include "rows_load.h"

#define TANH_SMALL 0.625

/* Return (tanh(y) - y) / y^3 for small y, z being y^2. */
INLINE V tanh_rest(V z) {
#if defined(REAL_F32)
    static const real p[] = {-5.70498872745e-3f, 2.06390887954e-2f, -5.37397155531e-2f, 1.33314422036e-1f,
                             -3.33332819422e-1f};
    V sum = v_set(p[0]);
    for (int k = 1; k < 5; k++)
        sum = v_fma(sum, z, v_set(p[k]));
    return sum;
#else
    static const real p[] = {-9.64399179425052238628e-1, -9.92877231001918586564e1, -1.61468768441708447952e3};
    static const real q[] = {1.12811678491632931402e2, 2.23548839060100448583e3, 4.84406305325125486048e3};
    V above = v_set(p[0]), below = v_add(z, v_set(q[0]));
    for (int k = 1; k < 3; k++) {
        above = v_fma(above, z, v_set(p[k]));
        below = v_fma(below, z, v_set(q[k]));
    }
    return v_div(above, below);
#endif
}

/* Return tanh(y) for small y, and set its derivative. *large has a bit for each lane that is not small, or NaN. */
INLINE V tanh_of_small(V y, V *slope, unsigned *large) {
    const V z = v_mul(y, y), result = v_fma(v_mul(z, y), tanh_rest(z), y);
    *slope = v_sub(v_set(1), v_mul(result, result));
    *large = m_bits(v_not_less(z, v_set((real)(TANH_SMALL * TANH_SMALL))));
    return result;
}

/* Replace `count` <= 8 vectors y by tanh(y), and set the derivative, which is 1 where y is NaN: such a row may be one
 * that does not count. */
INLINE void tanhs_and_slopes(V y[], V slopes[], int count) {
    V q[8];
    unsigned large;
    for (int k = 0; k < count; k++)
        q[k] = v_mul(v_max(v_sub(v_set(0), y[k]), y[k]), v_set(-2)); /* in this order a NaN comes through */
    v_exps_raised(q, count);
    for (int k = 0; k < count; k++) {
        const V e = v_fma(q[k], v_set(LOWER), v_set(0)), r = v_div(v_set(1), v_add(v_set(1), e));
        const V t = v_mul(v_sub(v_set(1), e), r), of_small = tanh_of_small(y[k], &slopes[k], &large);
        const M is_large = v_not_less(v_mul(y[k], y[k]), v_set((real)(TANH_SMALL * TANH_SMALL)));
        const V slope = v_blend(v_eq(y[k], y[k]), v_set(1), v_mul(v_mul(v_set(4), e), v_mul(r, r)));
        slopes[k] = v_blend(is_large, slopes[k], slope);
        y[k] = v_blend(is_large, of_small, v_blend(v_above(v_set(0), y[k]), t, v_sub(v_set(0), t)));
    }
}

#endif
