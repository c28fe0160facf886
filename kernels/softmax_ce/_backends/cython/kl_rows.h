/* The KL divergence of one row after another, and its gradient (p - t) over the temperature.
 *
 * A float32 result needs the care of kl_careful.h only where the divergence is small. Elsewhere it is the difference of
 * two cross-entropies in float64, those of t with p and of t with itself:
 *
 *     sum_j t_j (z_j - x_j) - (lse_z - lse_x)
 *
 * A row's own numbers decide which, so its bits depend on it alone. */
#ifndef SOFTMAX_CE_KL_ROWS_H
#define SOFTMAX_CE_KL_ROWS_H

#include "kl_careful.h"

/* Whether the plain difference is accurate enough for a float32. Its error is that of two cross-entropies, each at most
 * ln(classes) more than the divergence: some hundred units of roundoff of float64. */
INLINE int is_sure(double kl, double ln_classes) {
    return kl >= 0x1p-18 * (1 + ln_classes) && kl < INFINITY;
}

INLINE double kl_of(double x, double z, double gaps) { return gaps / z * LN_2 + log(x / z); }

INLINE char *kl_grad(const sce_kl_call *call, ptrdiff_t i, enum sce_kl_types types) {
    const ptrdiff_t item = types == SCE_KL_WIDE ? sizeof(double) : sizeof(float);
    return call->grad ? (char *)call->grad + i * call->classes * item : NULL;
}

INLINE void put_kl(const sce_kl_call *call, ptrdiff_t i, double value, enum sce_kl_types types) {
    if (types == SCE_KL_WIDE)
        ((double *)call->loss)[i] = value;
    else
        ((float *)call->loss)[i] = (float)value;
}

/* Store W entries of a gradient, of which n exist. */
INLINE void put_slopes(char *grad, ptrdiff_t j, ptrdiff_t n, V value, enum sce_kl_types types) {
    float lanes[W];
    if (types == SCE_KL_WIDE) {
        store((double *)grad + j, n, value);
    } else if (n >= W) {
        v_to_floats((float *)grad + j, value);
    } else {
        v_to_floats(lanes, value);
        memcpy((float *)grad + j, lanes, (size_t)n * sizeof(float));
    }
}

NOINLINE void fill_slopes(char *grad, ptrdiff_t classes, double value, enum sce_kl_types types) {
    for (ptrdiff_t j = 0; grad && j < classes; j++)
        put_slopes(grad, j, 1, v_set(value), types);
}

/* What multiplies p - t. 0 times it must be 0, even if the temperature is so small that it overflows. */
INLINE double kl_slope(const sce_kl_call *call, ptrdiff_t i) {
    const double gain = call->row_weight[i * call->row_weight_step] * call->upstream[i * call->upstream_step];
    const double slope = gain / call->temperature;
    return isinf(slope) && isfinite(gain) ? copysign(DBL_MAX, slope) : slope;
}

/* Write to_p * e_x - to_t * e_z, from the exponentials in the scratch. */
INLINE void write_slopes(const kl_row *row, double to_p, double to_t, char *grad, enum sce_kl_types types) {
    const V p = v_set(to_p), t = v_set(-to_t);
    for (ptrdiff_t j = 0; j < row->classes; j += W) {
        const V value = v_fma(p, v_load(row->e_x + j), v_mul(t, v_load(row->e_z + j)));
        put_slopes(grad, j, row->classes - j, value, types);
    }
}

/* Compute a row whose exponentials are in the scratch. */
INLINE void careful_row_of(const sce_kl_call *call, ptrdiff_t i, const kl_row *row, enum sce_kl_types types) {
    double surplus = 0;
    const double kl = careful_kl(row, call->temperature, &surplus, types);
    put_kl(call, i, call->row_weight[i * call->row_weight_step] * kl, types);
    char *grad = kl_grad(call, i, types);
    const double slope = kl_slope(call, i) / (1 + surplus);
    if (grad && isnan(kl))
        fill_slopes(grad, row->classes, NAN, types);
    else if (grad) /* without the share of each class in the surplus */
        write_slopes(row, slope, slope * surplus, grad, types);
}

INLINE kl_row row_at(const sce_kl_call *call, ptrdiff_t i, enum sce_kl_types types) {
    kl_row row = {.classes = call->classes, .e_x = call->scratch, .e_z = call->scratch + SCE_KL_ROW(call->classes)};
    row.x = kl_entry(call->logits, i * call->classes, types);
    row.z = kl_entry(call->target_logits, i * call->classes, types);
    row.scale = kl_scale(call->temperature);
    if (types == SCE_KL_NARROW) {
        const f_range x = f_range_of(row.x, row.classes), z = f_range_of(row.z, row.classes);
        row.x_top = x.top, row.z_top = z.top;
        row.is_plain = ((double)x.least - row.x_top) * row.scale > LEAST_PLAIN &&
                       ((double)z.least - row.z_top) * row.scale > LEAST_PLAIN;
    } else {
        row.x_top = top_of(row.x, row.classes);
        row.z_top = top_of(row.z, row.classes);
    }
    return row;
}

/* Return whether row i does not count. Its results are 0 then, whatever its logits are. */
INLINE int is_left_out(const sce_kl_call *call, ptrdiff_t i, enum sce_kl_types types) {
    if (call->row_weight[i * call->row_weight_step] != 0)
        return 0;
    put_kl(call, i, 0, types);
    fill_slopes(kl_grad(call, i, types), call->classes, 0, types);
    return 1;
}

/* Compute a row of float32 results whose divergence is small, or that has no distribution. */
INLINE void carefully(const sce_kl_call *call, ptrdiff_t i, enum sce_kl_types types) {
    const kl_row row = row_at(call, i, types);
    sum_kl_row(&row, 1, types);
    careful_row_of(call, i, &row, types);
}

NOINLINE void carefully_narrow(const sce_kl_call *call, ptrdiff_t i) { carefully(call, i, SCE_KL_NARROW); }
NOINLINE void carefully_mixed(const sce_kl_call *call, ptrdiff_t i) { carefully(call, i, SCE_KL_MIXED); }

INLINE void one_kl(const sce_kl_call *call, ptrdiff_t i, double ln_classes, enum sce_kl_types types) {
    if (is_left_out(call, i, types))
        return;
    const kl_row row = row_at(call, i, types);
    if (types == SCE_KL_WIDE) {
        exps_of_gaps(row.x, row.classes, row.x_top, call->temperature, row.e_x);
        exps_of_gaps(row.z, row.classes, row.z_top, call->temperature, row.e_z);
        careful_row_of(call, i, &row, types);
        return;
    }
    char *grad = kl_grad(call, i, types);
    const kl_sums s = sum_kl_row(&row, grad != NULL, types);
    const double kl = kl_of(s.x, s.z, s.gaps);
    if (!is_sure(kl, ln_classes)) {
        types == SCE_KL_NARROW ? carefully_narrow(call, i) : carefully_mixed(call, i);
        return;
    }
    put_kl(call, i, call->row_weight[i * call->row_weight_step] * kl, types);
    if (grad) {
        const double slope = kl_slope(call, i);
        write_slopes(&row, slope / s.x, slope / s.z, grad, types);
    }
}

/* One function for each of the types. */
#define KL_ROWS_OF(name, types)                                                                                        \
    NOINLINE void name(const sce_kl_call *call, ptrdiff_t start, ptrdiff_t stop) {                                     \
        const double ln_classes = log((double)call->classes);                                                          \
        for (ptrdiff_t i = start; i < stop; i++)                                                                       \
            one_kl(call, i, ln_classes, types);                                                                        \
    }
KL_ROWS_OF(kl_narrow, SCE_KL_NARROW)
KL_ROWS_OF(kl_mixed, SCE_KL_MIXED)
KL_ROWS_OF(kl_wide, SCE_KL_WIDE)

#endif
