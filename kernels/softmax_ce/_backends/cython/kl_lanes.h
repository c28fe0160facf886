/* The KL divergence of few classes: W rows at a time, one row a lane, so that no vector is partly empty and each row's
 * logarithm and divisions are vectorised, too. For float32 logits. Rows that need more care go one by one. */
#ifndef SOFTMAX_CE_KL_LANES_H
#define SOFTMAX_CE_KL_LANES_H

#include "kl_rows.h"
#include "log1p.h"

#define KL_LANES 64 /* classes up to which this is done; a block fits into L1. See LANES: bits depend on it. */

typedef struct {
    V x[KL_LANES], z[KL_LANES]; /* by class: the logits, then their exponentials; x: then the gradient */
    V x_top, z_top, x_sum, z_sum, gaps, kl;
} kl_block;

/* The class from which the W classes that include class j are read or written. The last ones overlap those before. */
INLINE ptrdiff_t begin_of(ptrdiff_t j, ptrdiff_t classes) {
    return j + W <= classes || classes < W ? j : classes - W;
}

/* Read the rows of a block, n of which exist, class by class. */
INLINE void load_kl_columns(const void *rows, ptrdiff_t classes, ptrdiff_t n, V column[]) {
    for (ptrdiff_t k = 0; k < classes; k += W) {
        const ptrdiff_t j = begin_of(k, classes);
        V part[W];
        for (ptrdiff_t r = 0; r < W; r++) {
            const void *row = kl_entry(rows, (r < n ? r : n - 1) * classes, SCE_KL_NARROW);
            part[r] = kl_load(row, j, classes - j, SCE_KL_NARROW);
        }
        v_transpose(part);
        for (ptrdiff_t r = 0; r < W; r++)
            column[j + r] = part[r];
    }
}

/* Return the maxima of the rows, NaN left out. *gap is how far the least logits are below. */
INLINE V top_of_kl_columns(const V column[], ptrdiff_t classes, V *gap) {
    V top = v_set(-INFINITY), least = v_set(-INFINITY); /* the least as a maximum of what is subtracted from 0 */
    for (ptrdiff_t j = 0; j < classes; j++) {
        top = v_max(column[j], top);
        least = v_max(v_sub(v_set(0), column[j]), least);
    }
    *gap = v_sub(v_sub(v_set(0), least), top);
    return top;
}

/* log(x / z), of which the larger is at most LANES times the other. */
INLINE V log_of_ratio(V x, V z) {
    const M is_less = v_above(z, x);
    const V more = v_blend(is_less, x, z), less = v_blend(is_less, z, x);
    const V log = v_log1p(v_div(v_sub(more, less), less), v_div(less, more));
    return v_blend(is_less, log, v_sub(v_set(0), log));
}

/* Replace the logits of `count` blocks by their exponentials, and sum them. */
INLINE void sum_kl_columns(kl_block b[], int count, ptrdiff_t classes, V scale, int is_plain) {
    const V zero = v_set(0);
    V x_sum[2], z_sum[2], gaps[2];
    for (int k = 0; k < count; k++)
        x_sum[k] = z_sum[k] = gaps[k] = zero;
    for (ptrdiff_t j = 0; j < classes; j++) {
        V y[4], gap[2];
        for (int k = 0; k < count; k++) {
            y[k] = v_mul(v_sub(b[k].x[j], b[k].x_top), scale);
            y[count + k] = v_mul(v_sub(b[k].z[j], b[k].z_top), scale);
            gap[k] = v_sub(y[count + k], y[k]);
        }
        powers_raised(y, 2 * count, is_plain);
        for (int k = 0; k < count; k++) {
            const V e_x = y[k], e_z = y[count + k];
            b[k].x[j] = e_x;
            b[k].z[j] = e_z;
            x_sum[k] = v_add(x_sum[k], e_x);
            z_sum[k] = v_add(z_sum[k], e_z);
            if (!is_plain)
                gap[k] = v_zero_where(v_eq(e_z, zero), gap[k]); /* 0 * inf = 0 */
            gaps[k] = v_fma(e_z, gap[k], gaps[k]);
        }
    }
    for (int k = 0; k < count; k++)
        b[k].x_sum = x_sum[k], b[k].z_sum = z_sum[k], b[k].gaps = gaps[k];
}

INLINE void sum_kl_blocks(kl_block b[], int count, ptrdiff_t classes, double temperature) {
    const V scale = v_set(kl_scale(temperature)), least = v_set(LEAST_PLAIN);
    unsigned plain = ~0u >> (32 - W);
    for (int k = 0; k < count; k++) {
        V x_gap, z_gap;
        b[k].x_top = top_of_kl_columns(b[k].x, classes, &x_gap);
        b[k].z_top = top_of_kl_columns(b[k].z, classes, &z_gap);
        plain &= m_bits(v_above(v_mul(x_gap, scale), least)) & m_bits(v_above(v_mul(z_gap, scale), least));
    }
    if (plain == ~0u >> (32 - W))
        sum_kl_columns(b, count, classes, scale, 1);
    else
        sum_kl_columns(b, count, classes, scale, 0);
    for (int k = 0; k < count; k++) {
        const V cross = v_mul(v_div(b[k].gaps, b[k].z_sum), v_set(LN_2));
        b[k].kl = v_add(cross, log_of_ratio(b[k].x_sum, b[k].z_sum));
    }
}

/* Write the gradient of a block, except for the rows with a bit in `others`. */
INLINE void write_kl_columns(const sce_kl_call *call, kl_block *b, ptrdiff_t i, ptrdiff_t n, unsigned others) {
    const ptrdiff_t classes = call->classes;
    double slope[W];
    for (ptrdiff_t r = 0; r < W; r++)
        slope[r] = kl_slope(call, i + (r < n ? r : 0));
    const V to_p = v_div(v_load(slope), b->x_sum), to_t = v_sub(v_set(0), v_div(v_load(slope), b->z_sum));
    for (ptrdiff_t j = 0; j < classes; j++)
        b->x[j] = v_fma(to_p, b->x[j], v_mul(to_t, b->z[j]));
    for (ptrdiff_t k = 0; k < classes; k += W) {
        const ptrdiff_t j = begin_of(k, classes);
        V part[W];
        for (ptrdiff_t r = 0; r < W; r++)
            part[r] = b->x[j + r];
        v_transpose(part);
        for (ptrdiff_t r = 0; r < n; r++)
            if (!(others >> r & 1))
                put_slopes(kl_grad(call, i + r, SCE_KL_NARROW), j, classes - j, part[r], SCE_KL_NARROW);
    }
}

/* Write the results of a block. */
INLINE void finish_kl_block(const sce_kl_call *call, kl_block *b, ptrdiff_t i, ptrdiff_t n, double ln_classes) {
    double kl[W];
    v_store(kl, b->kl);
    unsigned others = 0;
    for (ptrdiff_t r = 0; r < n; r++) {
        const double weight = call->row_weight[(i + r) * call->row_weight_step];
        if (weight == 0 || !is_sure(kl[r], ln_classes))
            others |= 1u << r;
        else
            put_kl(call, i + r, weight * kl[r], SCE_KL_NARROW);
    }
    if (call->grad)
        write_kl_columns(call, b, i, n, others);
    for (ptrdiff_t r = 0; others; r++, others >>= 1)
        if (others & 1 && !is_left_out(call, i + r, SCE_KL_NARROW))
            carefully_narrow(call, i + r);
}

/* Compute `count` blocks of rows from row i on, n rows in the last one. All are read before any is written. */
INLINE void kl_blocks(const sce_kl_call *call, kl_block b[], int count, ptrdiff_t i, ptrdiff_t n, double ln_classes) {
    const ptrdiff_t classes = call->classes;
    for (int k = 0; k < count; k++) {
        const ptrdiff_t at = (i + k * W) * classes, rows = k + 1 < count ? W : n;
        load_kl_columns(kl_entry(call->logits, at, SCE_KL_NARROW), classes, rows, b[k].x);
        load_kl_columns(kl_entry(call->target_logits, at, SCE_KL_NARROW), classes, rows, b[k].z);
    }
    sum_kl_blocks(b, count, classes, call->temperature);
    for (int k = 0; k < count; k++)
        finish_kl_block(call, &b[k], i + k * W, k + 1 < count ? W : n, ln_classes);
}

NOINLINE void kl_few_classes(const sce_kl_call *call, ptrdiff_t i, ptrdiff_t stop) {
    const double ln_classes = log((double)call->classes);
    kl_block b[2];
    for (; stop - i > W; i += 2 * W)
        kl_blocks(call, b, 2, i, stop - i < 2 * W ? stop - i - W : W, ln_classes);
    if (i < stop)
        kl_blocks(call, b, 1, i, stop - i, ln_classes);
}

#endif
