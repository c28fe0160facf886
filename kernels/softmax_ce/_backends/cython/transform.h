/* Logits that are scaled, capped or left out before the loss, in the tile of strided.h, and their gradient after it.
 *
 * The cap is c * tanh(y), its slope 1 - tanh(y)^2. For |y| < 0.625, tanh is y plus a polynomial (float32) or a quotient of
 * two (float64) in y^2, with the coefficients of Cephes (Moshier, 1989), and the slope is what it says. Else both would
 * cancel: with q = exp(-2|y|) and r = 1 / (1 + q), tanh(|y|) = (1 - q) * r, and the slope is 4 * q * r^2. */
#ifndef SOFTMAX_CE_TRANSFORM_H
#define SOFTMAX_CE_TRANSFORM_H

#include "boxes.h"
#include "exp.h"

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
    const V minus = v_sub(v_set(0), y), size = v_max(minus, y), z = v_mul(y, y); /* in this order a NaN comes through */
    const V of_small = v_fma(v_mul(z, y), tanh_rest(z), y);
    const V slope_of_small = v_fma(v_sub(v_set(0), of_small), of_small, v_set(1));
    const M is_large = v_not_less(size, v_set((real)TANH_SMALL));
    *slope = slope_of_small;
    if (__builtin_expect(m_bits(is_large) == 0, 1))
        return of_small;
    const V q = v_exp(v_mul(size, v_set(-2))), r = v_div(v_set(1), v_add(v_set(1), q));
    const V large = v_mul(v_sub(v_set(1), q), r), of_large = v_blend(v_above(minus, v_set(0)), large, v_sub(v_set(0), large));
    const V slope_of_large = v_blend(v_eq(y, y), v_set(1), v_mul(v_mul(v_set(4), q), v_mul(r, r)));
    *slope = v_blend(is_large, slope_of_small, slope_of_large);
    return v_blend(is_large, of_small, of_large);
}

/* Scale and cap n entries, and write the slope if `slopes` is not NULL. */
INLINE void scale_and_cap(const sce_transform *change, const real *from, real *to, real *slopes, ptrdiff_t n) {
    const V factor = v_set((real)change->factor), cap = v_set((real)change->softcap);
    if (change->softcap == 0) {
        for (ptrdiff_t k = 0; k < n; k += W)
            store(to + k, n - k, v_mul(load(from + k, n - k, 0), factor));
        return;
    }
    for (ptrdiff_t k = 0; k < n; k += W) {
        V slope;
        const V y = tanh_and_slope(v_mul(load(from + k, n - k, 0), factor), &slope);
        if (slopes)
            store(slopes + k, n - k, slope);
        store(to + k, n - k, v_mul(y, cap));
    }
}

/* Copy n entries, but -inf where a byte of the mask, `stride` bytes apart, is 0. */
INLINE void copy_masked(const char *restrict mask, ptrdiff_t stride, const real *from, real *to, ptrdiff_t n) {
    if (stride == 1) {
#pragma GCC ivdep
        for (ptrdiff_t k = 0; k < n; k++) /* compilers make vectors of it: `to` is `from`, or apart from it */
            to[k] = mask[k] ? from[k] : -INFINITY;
        return;
    }
    for (ptrdiff_t k = 0; k < n; k++)
        to[k] = mask[k * stride] ? from[k] : -INFINITY;
}

/* Copy rows first to last of the tile, but -inf for classes that are left out. */
INLINE void leave_out(const sce_array *where, ptrdiff_t first, ptrdiff_t last, ptrdiff_t classes, const real *from,
                      real *to, ptrdiff_t step) {
    for (ptrdiff_t row = first; row < last;) {
        box b;
        const ptrdiff_t rows = box_at(where, row, last - row, &b), inner = b.n[1];
        for (ptrdiff_t o = 0; o < b.n[0]; o++) {
            const char *mask = b.p + o * b.stride[0];
            const ptrdiff_t at = row - first + o * inner;
            if (step)
                for (ptrdiff_t j = 0; j < classes; j++)
                    copy_masked(mask + j * b.stride[2], b.stride[1], from + j * step + at, to + j * step + at, inner);
            else if (b.stride[2] == 1 && b.stride[1] == classes)
                copy_masked(mask, 1, from + at * classes, to + at * classes, inner * classes);
            else
                for (ptrdiff_t i = 0; i < inner; i++)
                    copy_masked(mask + i * b.stride[1], b.stride[2], from + (at + i) * classes, to + (at + i) * classes,
                                classes);
        }
        row += rows;
    }
}

/* Bits of the lanes that are not less than `top`, or NaN; and of those that are greater, or NaN. */
INLINE unsigned not_less_lanes(V v, V top) { return m_bits(v_not_less(v, top)); }

INLINE unsigned greater_lanes(V v, V top) {
    return (m_bits(v_above(v, top)) | ~m_bits(v_eq(v, v))) & ((1u << W) - 1);
}

/* Return whether entry y is the first maximum. There is none in a row with a NaN. */
INLINE int is_first_maximum(const real *x, ptrdiff_t step, ptrdiff_t classes, ptrdiff_t y) {
    const real top = x[y * step];
    const V tops = v_set(top);
    unsigned found = !(top == top);
    for (ptrdiff_t j = 0; step != 1 && j < classes; j++)
        found |= j < y ? !(x[j * step] < top) : !(x[j * step] <= top);
    for (ptrdiff_t k = 0; step == 1 && k < classes && !found;) {
        if (k + 4 * W <= y) {
            for (const ptrdiff_t end = k + 4 * W; k < end; k += W)
                found |= not_less_lanes(v_load(x + k), tops);
        } else if (k > y && k + 4 * W <= classes) {
            for (const ptrdiff_t end = k + 4 * W; k < end; k += W)
                found |= greater_lanes(v_load(x + k), tops);
        } else {
            const V v = load(x + k, classes - k, 0);
            const unsigned exist = (1u << (classes - k < W ? classes - k : W)) - 1;
            const unsigned before = y <= k ? 0 : (1u << (y - k < W ? y - k : W)) - 1;
            found = ((not_less_lanes(v, tops) & before) | (greater_lanes(v, tops) & ~before)) & exist;
            k += W;
        }
    }
    return !found;
}

/* Write whether the labels of rows first to last are the first maxima of the rows in `x`. */
NOINLINE void mark_correct(const sce_call *call, ptrdiff_t first, ptrdiff_t last, const real *rows, ptrdiff_t step) {
    for (ptrdiff_t i = first; i < last; i++) {
        const int64_t y = *(const volatile int64_t *)(call->labels + i * call->labels_step); /* read once */
        const int counts = (uint64_t)y < (uint64_t)call->classes && y != call->ignore_index;
        const real *x = rows + (i - first) * (step ? 1 : call->classes);
        call->transform->correct[i] =
            !counts ? 0
            : step  ? (uint8_t)is_first_maximum(x, step, call->classes, (ptrdiff_t)y)
                    : (uint8_t)is_first_maximum(x, 1, call->classes, (ptrdiff_t)y);
    }
}

/* Transform the logits of rows first to last, from where they are into their tile, which may be the same. */
NOINLINE void transform_rows(const sce_call *call, ptrdiff_t first, ptrdiff_t last, const real *from, real *tile,
                             real *slopes, ptrdiff_t step) {
    const sce_transform *change = call->transform;
    const ptrdiff_t rows = last - first, stretches = step ? call->classes : 1;
    if (change->factor != 1 || change->softcap != 0) {
        for (ptrdiff_t j = 0; j < stretches; j++)
            scale_and_cap(change, from + j * step, tile + j * step, slopes ? slopes + j * step : NULL,
                          step ? rows : rows * call->classes);
        from = tile;
    }
    if (change->where.data)
        leave_out(&change->where, first, last, call->classes, from, tile, step);
}

/* Whether any logit is changed; else only labels are compared. */
INLINE int is_changed(const sce_transform *change) {
    return change && (change->factor != 1 || change->softcap != 0 || change->where.data);
}

/* Multiply a gradient by the slopes, into `to`. */
INLINE void apply_slopes(const real *grad, const real *slopes, real *to, ptrdiff_t n) {
    for (ptrdiff_t k = 0; k < n; k += W)
        store(to + k, n - k, v_mul(load(grad + k, n - k, 0), load(slopes + k, n - k, 0)));
}

/* Set the gradient of rows first to last to 0 at classes that are left out and have target mass. A NaN stays.
 *
 * The loss of such a row is infinite. In all other rows, the gradient there is 0 already. */
NOINLINE void clear_left_out(const sce_call *call, ptrdiff_t first, ptrdiff_t last, real *grad, ptrdiff_t step) {
    const ptrdiff_t classes = call->classes;
    for (ptrdiff_t i = first; i < last; i++) {
        if (isfinite(((const real *)call->loss)[i]))
            continue;
        box b;
        box_at(&call->transform->where, i, 1, &b);
        real *g = grad + (i - first) * (step ? 1 : classes);
        for (ptrdiff_t j = 0; j < classes; j++) {
            real *entry = g + j * (step ? step : 1);
            if (!b.p[j * b.stride[2]] && *entry == *entry)
                *entry = 0;
        }
    }
}

/* Make the gradient of rows first to last, in `grad`, that with respect to the logits as given, up to the factor of
 * logit_scale. It is written to `to`, which may be the same. */
INLINE void finish_gradient(const sce_call *call, ptrdiff_t first, ptrdiff_t last, real *grad, real *to,
                            const real *slopes, ptrdiff_t step) {
    const ptrdiff_t n = step ? last - first : (last - first) * call->classes;
    if (slopes)
        for (ptrdiff_t j = 0; j < (step ? call->classes : 1); j++)
            apply_slopes(grad + j * step, slopes + j * step, to + j * step, n);
    if (call->transform->where.data && call->loss)
        clear_left_out(call, first, last, to, step);
}

#endif
