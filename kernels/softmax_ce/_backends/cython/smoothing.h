/* Targets whose smoothing is spread over the classes that take part in each row: T at class j is the target there, plus
 * spread_j divided by the number of classes that take part, if j does. */
#ifndef SOFTMAX_CE_SMOOTHING_H
#define SOFTMAX_CE_SMOOTHING_H

#include "boxes.h"

typedef signed char lane_bytes __attribute__((vector_size(W)));
#if defined(REAL_F32)
typedef int32_t lane_bits __attribute__((vector_size(4 * W)));
#else
typedef int64_t lane_bits __attribute__((vector_size(8 * W)));
#endif

/* v in the lanes whose byte is not 0, and 0 in the others. */
INLINE V where_set(const char *mask, V v) {
    lane_bytes bytes;
    lane_bits bits;
    memcpy(&bytes, mask, sizeof bytes);
    memcpy(&bits, &v, sizeof bits);
    bits &= __builtin_convertvector(bytes, lane_bits) != 0;
    memcpy(&v, &bits, sizeof bits);
    return v;
}

/* How many of n bytes, `stride` apart, are not 0. */
INLINE ptrdiff_t count_set(const char *mask, ptrdiff_t stride, ptrdiff_t n) {
    ptrdiff_t count = 0, k = 0;
    while (stride == 1 && n - k >= 64) { /* in bytes, which do not overflow, so that compilers make vectors of it */
        const ptrdiff_t end = n - k < 128 ? k + 64 : k + 128;
        uint8_t part = 0;
        for (; k < end; k++)
            part += mask[k] != 0;
        count += part;
    }
    for (; k < n; k++)
        count += mask[k * stride] != 0;
    return count;
}

/* Write what smoothing adds at n classes, from class j on, of a row that `divisor` classes take part in: n entries,
 * `step` apart. Of a mask without gaps, `beyond` more bytes may be read, and as many entries written. */
INLINE void share_out(const sce_transform *change, real divisor, const char *mask, ptrdiff_t stride, ptrdiff_t j,
                      ptrdiff_t n, real *to, ptrdiff_t step, ptrdiff_t beyond) {
    const real *spread = (const real *)change->spread + (change->spread_step ? j : 0), each = *spread / divisor;
    const ptrdiff_t end = beyond >= W - 1 ? n : n - n % W;
    ptrdiff_t k = 0;
    for (; stride == 1 && step == 1 && k < end; k += W)
        v_store(to + k, where_set(mask + k, change->spread_step ? v_div(load(spread + k, n - k, 0), v_set(divisor))
                                                                : v_set(each)));
    for (; k < n; k++)
        to[k * step] = !mask[k * stride] ? 0 : change->spread_step ? spread[k] / divisor : each;
}

/* Write T of rows first to last, as they lie in a tile: `step` is call->column_step. `soft` has the soft targets, which
 * may be in the same place; NULL for labels. */
NOINLINE void smooth_rows(const sce_call *call, ptrdiff_t first, ptrdiff_t last, const real *soft, real *to,
                          ptrdiff_t step) {
    const sce_transform *change = call->transform;
    const real *scale = change->scale;
    const ptrdiff_t classes = call->classes, row = step ? 1 : classes, column = step ? step : 1;
    for (ptrdiff_t i = first; i < last; i++) {
        box b;
        row_of(&change->where, i, &b);
        const ptrdiff_t stride = b.stride[2], count = count_set(b.p, stride, classes);
        const real divisor = (real)(count ? count : 1);
        real *t = to + (i - first) * row;
        if (soft == NULL) {
            /* The next rows are written after this one. Where they lie behind it in memory, their bytes can be read. */
            const ptrdiff_t beyond = step || !change->where.direct ? 0 : (last - i - 1) * classes;
            share_out(change, divisor, b.p, stride, 0, classes, t, column, beyond);
            const int64_t y = *(const volatile int64_t *)(call->labels + i * call->labels_step); /* read once */
            if ((uint64_t)y < (uint64_t)classes)
                t[y * column] += scale[y * change->scale_step];
            continue;
        }
        const real *given = soft + (i - first) * row;
        for (ptrdiff_t j = 0; j < classes; j += SCE_FEW) {
            real shares[SCE_FEW];
            const ptrdiff_t n = classes - j < SCE_FEW ? classes - j : SCE_FEW;
            share_out(change, divisor, b.p + j * stride, stride, j, n, shares, 1, 0);
            for (ptrdiff_t k = j; k < j + n; k++)
                t[k * column] = given[k * column] * scale[k * change->scale_step] + shares[k - j];
        }
    }
}

#endif
