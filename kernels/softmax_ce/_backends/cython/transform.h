/* Logits that are scaled, capped or left out before the loss, and their gradient after it.
 *
 * The cap is c * tanh(y); its slope is the derivative of tanh at y. Few classes, and arrays whose rows do not lie as
 * the row kernels read them, are transformed in the tile of strided.h; else a chunk of a row at a time: rows_ready.h. */
#ifndef SOFTMAX_CE_TRANSFORM_H
#define SOFTMAX_CE_TRANSFORM_H

#include "boxes.h"
#include "tanh.h"

#define CAPPED 4 /* vectors together: one test says whether any lane is large */

/* Scale and cap n entries, small or large. */
NOINLINE void cap_any(V factor, V cap, const real *from, real *to, real *slopes, ptrdiff_t n) {
    for (ptrdiff_t k = 0; k < n; k += CAPPED * W) {
        V y[CAPPED], slope[CAPPED];
        for (ptrdiff_t i = 0; i < CAPPED; i++)
            y[i] = k + i * W < n ? v_mul(load(from + k + i * W, n - k - i * W, 0), factor) : v_set(0);
        tanhs_and_slopes(y, slope, CAPPED);
        for (ptrdiff_t i = 0, j = k; i < CAPPED && j < n; i++, j += W) {
            if (slopes)
                store(slopes + j, n - j, slope[i]);
            store(to + j, n - j, v_mul(y[i], cap));
        }
    }
}

/* Scale and cap CAPPED vectors of small entries. Return 0 if any is not small; nothing is written then. */
INLINE int cap_small(V factor, V cap, const real *from, real *to, real *slopes) {
    V t[CAPPED], slope[CAPPED];
    unsigned large[CAPPED];
#pragma GCC unroll 4
    for (int k = 0; k < CAPPED; k++)
        t[k] = tanh_of_small(v_mul(v_load(from + k * W), factor), &slope[k], &large[k]);
    if (large[0] | large[1] | large[2] | large[3])
        return 0;
#pragma GCC unroll 4
    for (int k = 0; k < CAPPED; k++) {
        v_store(to + k * W, v_mul(t[k], cap));
        if (slopes)
            v_store(slopes + k * W, slope[k]);
    }
    return 1;
}

/* Scale and cap n entries, and write the slope if `slopes` is not NULL. */
INLINE void scale_and_cap(const sce_transform *change, const real *from, real *to, real *slopes, ptrdiff_t n) {
    const V factor = v_set((real)change->factor), cap = v_set((real)change->softcap);
    ptrdiff_t k = 0;
    if (change->softcap == 0) {
        for (; k < n; k += W)
            store(to + k, n - k, v_mul(load(from + k, n - k, 0), factor));
        return;
    }
    for (; slopes && k + CAPPED * W <= n; k += CAPPED * W)
        if (__builtin_expect(!cap_small(factor, cap, from + k, to + k, slopes + k), 0))
            cap_any(factor, cap, from + k, to + k, slopes + k, CAPPED * W);
    for (; !slopes && k + CAPPED * W <= n; k += CAPPED * W)
        if (__builtin_expect(!cap_small(factor, cap, from + k, to + k, NULL), 0))
            cap_any(factor, cap, from + k, to + k, NULL, CAPPED * W);
    cap_any(factor, cap, from + k, to + k, slopes ? slopes + k : NULL, n - k);
}

/* Copy n entries, but -inf where a byte of the mask, `stride` bytes apart, is 0. */
INLINE void copy_masked(const char *restrict mask, ptrdiff_t stride, const real *from, real *to, ptrdiff_t n) {
    if (stride == 1) {
#pragma GCC ivdep
        for (ptrdiff_t k = 0; k < n; k++) /* compilers make vectors of it: `to` is `from`, or apart from it */
            to[k] = mask[k] ? from[k] : -INFINITY;
        return;
    }
    if (stride == 0) { /* one class of rows that lie side by side */
        for (ptrdiff_t k = 0; k < n && (from != to || !*mask); k++)
            to[k] = *mask ? from[k] : -INFINITY;
        return;
    }
    for (ptrdiff_t k = 0; k < n; k++)
        to[k] = mask[k * stride] ? from[k] : -INFINITY;
}

#define REPEATED 1024 /* bytes */

/* Mask `rows` rows, all in the same way: several together, since a row of few classes is only a vector or two. */
NOINLINE void repeat_mask(const char *mask, ptrdiff_t classes, ptrdiff_t rows, const real *from, real *to) {
    char repeated[REPEATED];
    const ptrdiff_t most = REPEATED / classes < rows ? REPEATED / classes : rows;
    for (ptrdiff_t i = 0; i < most; i++)
        memcpy(repeated + i * classes, mask, (size_t)classes);
    for (ptrdiff_t i = 0; i < rows; i += most) {
        const ptrdiff_t n = (rows - i < most ? rows - i : most) * classes;
        copy_masked(repeated, 1, from + i * classes, to + i * classes, n);
    }
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
            else if (b.stride[2] == 1 && b.stride[1] == 0 && classes <= REPEATED / 4)
                repeat_mask(mask, classes, inner, from + at * classes, to + at * classes);
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

/* Transform n logits of row i, from class j on. The rows are contiguous. */
NOINLINE void transform_part(const sce_call *call, ptrdiff_t i, ptrdiff_t j, ptrdiff_t n, real *to, real *slopes) {
    const sce_transform *change = call->transform;
    const real *from = (const real *)call->logits + i * call->classes + j;
    if (change->factor != 1 || change->softcap != 0) {
        scale_and_cap(change, from, to, slopes, n);
        from = to;
    }
    if (change->where.data) {
        box b;
        row_of(&change->where, i, &b);
        copy_masked(b.p + j * b.stride[2], b.stride[2], from, to, n);
    }
}

/* The logit at a class of row i, transformed. */
INLINE real transformed_at(const sce_call *call, ptrdiff_t i, ptrdiff_t j) {
    real one;
    transform_part(call, i, j, 1, &one, NULL);
    return one;
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
        row_of(&call->transform->where, i, &b);
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
