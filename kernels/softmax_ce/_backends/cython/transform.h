/* Logits that are scaled, capped or left out before the loss, in the tile of strided.h, and their gradient after it.
 *
 * The cap is c * tanh(y). With q = exp(-2|y|) and r = 1 / (1 + q), tanh(|y|) = (1 - q) * r, and its slope is 4 * q * r^2:
 * nothing cancels but 1 - q for small |y|, where a polynomial (float32) or a quotient of two (float64) in y^2 is used.
 * Their coefficients are those of Cephes (Moshier, 1989), for |y| < 0.625. */
#ifndef SOFTMAX_CE_TRANSFORM_H
#define SOFTMAX_CE_TRANSFORM_H

#include "exp.h"
#include "formats.h"

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

/* Return tanh(y), and in *slope its derivative, which is 1 if y is NaN: such a row may be one that does not count. */
INLINE V tanh_and_slope(V y, V *slope) {
    const V minus = v_sub(v_set(0), y), size = v_max(minus, y); /* in this order a NaN comes through */
    const V q = v_exp(v_mul(size, v_set(-2))), r = v_div(v_set(1), v_add(v_set(1), q));
    const V z = v_mul(y, y), large = v_mul(v_sub(v_set(1), q), r);
    const V of_large = v_blend(v_above(minus, v_set(0)), large, v_sub(v_set(0), large));
    const V of_small = v_fma(v_mul(z, y), tanh_rest(z), y);
    *slope = v_blend(v_eq(y, y), v_set(1), v_mul(v_mul(v_set(4), q), v_mul(r, r)));
    return v_blend(v_not_less(size, v_set((real)TANH_SMALL)), of_small, of_large);
}

/* Scale and cap n entries, and write the slope if `slopes` is not NULL. */
INLINE void scale_and_cap(const sce_transform *change, real *x, real *slopes, ptrdiff_t n) {
    const V factor = v_set((real)change->factor), cap = v_set((real)change->softcap);
    for (ptrdiff_t k = 0; k < n; k += W) {
        V y = v_mul(load(x + k, n - k, 0), factor);
        if (change->softcap != 0) {
            V slope;
            y = v_mul(tanh_and_slope(y, &slope), cap);
            if (slopes)
                store(slopes + k, n - k, slope);
        }
        store(x + k, n - k, y);
    }
}

/* Replace entries by -inf where a byte of the mask, `stride` bytes apart, is 0. */
INLINE void leave_out_entries(const char *mask, ptrdiff_t stride, real *x, ptrdiff_t n) {
    if (stride == 1)
        for (ptrdiff_t k = 0; k < n; k++)
            x[k] = mask[k] ? x[k] : -INFINITY;
    else
        for (ptrdiff_t k = 0; k < n; k++)
            x[k] = mask[k * stride] ? x[k] : -INFINITY;
}

/* Replace classes that are left out of rows first to last by -inf. */
INLINE void leave_out(const sce_array *where, ptrdiff_t first, ptrdiff_t last, ptrdiff_t classes, real *tile,
                      ptrdiff_t step) {
    for (ptrdiff_t row = first; row < last;) {
        box b;
        const ptrdiff_t rows = box_at(where, row, last - row, &b);
        for (ptrdiff_t o = 0; o < b.n[0]; o++) {
            const char *mask = b.p + o * b.stride[0];
            const ptrdiff_t at = row - first + o * b.n[1];
            if (step)
                for (ptrdiff_t j = 0; j < classes; j++)
                    leave_out_entries(mask + j * b.stride[2], b.stride[1], tile + j * step + at, b.n[1]);
            else
                for (ptrdiff_t i = 0; i < b.n[1]; i++)
                    leave_out_entries(mask + i * b.stride[1], b.stride[2], tile + (at + i) * classes, classes);
        }
        row += rows;
    }
}

/* Return whether entry y is the first maximum. There is none in a row with a NaN. */
INLINE int is_first_maximum(const real *x, ptrdiff_t step, ptrdiff_t classes, ptrdiff_t y) {
    const real top = x[y * step];
    int others = !(top == top);
    for (ptrdiff_t j = 0; j < y; j++)
        others |= !(x[j * step] < top);
    for (ptrdiff_t j = y + 1; j < classes; j++)
        others |= !(x[j * step] <= top);
    return !others;
}

/* Write whether the labels of rows first to last are the first maxima of the tile's rows. */
INLINE void mark_correct(const sce_call *call, ptrdiff_t first, ptrdiff_t last, const real *tile, ptrdiff_t step) {
    for (ptrdiff_t i = first; i < last; i++) {
        const int64_t y = *(const volatile int64_t *)(call->labels + i * call->labels_step); /* read once */
        const int counts = (uint64_t)y < (uint64_t)call->classes && y != call->ignore_index;
        const real *x = tile + (i - first) * (step ? 1 : call->classes);
        call->transform->correct[i] =
            !counts ? 0
            : step  ? (uint8_t)is_first_maximum(x, step, call->classes, (ptrdiff_t)y)
                    : (uint8_t)is_first_maximum(x, 1, call->classes, (ptrdiff_t)y);
    }
}

/* Transform the logits of rows first to last in their tile. */
NOINLINE void transform_tile(const sce_call *call, ptrdiff_t first, ptrdiff_t last, real *tile, real *slopes,
                             ptrdiff_t step) {
    const sce_transform *change = call->transform;
    const ptrdiff_t rows = last - first, stretches = step ? call->classes : 1;
    if (change->factor != 1 || change->softcap != 0)
        for (ptrdiff_t j = 0; j < stretches; j++)
            scale_and_cap(change, tile + j * step, slopes ? slopes + j * step : NULL, step ? rows : rows * call->classes);
    if (change->where.data)
        leave_out(&change->where, first, last, call->classes, tile, step);
    if (change->correct)
        mark_correct(call, first, last, tile, step);
}

/* Make the gradient of rows first to last, in `grad`, that by the logits as given, up to the factor of logit_scale.
 *
 * If a class with target mass is left out, the loss of its row is infinite, and the gradient there must become 0. In all
 * other rows it is 0 already. A NaN stays. */
NOINLINE void finish_gradient(const sce_call *call, ptrdiff_t first, ptrdiff_t last, real *grad, const real *slopes,
                              ptrdiff_t step) {
    const sce_array *where = &call->transform->where;
    const ptrdiff_t rows = last - first, classes = call->classes, stretches = step ? classes : 1;
    if (slopes)
        for (ptrdiff_t j = 0; j < stretches; j++)
            for (ptrdiff_t k = 0, n = step ? rows : rows * classes; k < n; k += W)
                store(grad + j * step + k, n - k,
                      v_mul(load(grad + j * step + k, n - k, 0), load(slopes + j * step + k, n - k, 0)));
    if (where->data == NULL || call->loss == NULL)
        return;
    for (ptrdiff_t i = first; i < last; i++) {
        if (isfinite(((const real *)call->loss)[i]))
            continue;
        box b;
        box_at(where, i, 1, &b);
        real *g = grad + (i - first) * (step ? 1 : classes);
        for (ptrdiff_t j = 0; j < classes; j++) {
            real *entry = g + j * (step ? step : 1);
            if (!b.p[j * b.stride[2]] && *entry == *entry)
                *entry = 0;
        }
    }
}

#endif
