/* The KL divergence of a row, first part: reading, maxima, exponentials and their sums. */
#ifndef SOFTMAX_CE_KL_SUMS_H
#define SOFTMAX_CE_KL_SUMS_H

#include <float.h>

#include "exp.h"
#include "formats.h"
#include "kl_exp.h"
#include "kl_floats.h"

#define LOG2_E 0x1.71547652b82fep+0
#define LN_2 0x1.62e42fefa39efp-1
#define ONE_RAISED (1 / LOWER) /* the exponential at a maximum */

/* A row: its logits and target logits. */
typedef struct {
    const void *x, *z;
    ptrdiff_t classes;
    double x_top, z_top; /* the maxima, NaN left out */
    double scale;        /* what multiplies a gap, so that its power of 2 is its exponential over the temperature */
    int is_plain;        /* no logit is so low that its exponential might be 0 */
    double *e_x, *e_z;   /* scratch: the exponentials, raised by SCE_RAISE */
} kl_row;

/* The sums of a row, raised as the exponentials are. */
typedef struct {
    double x, z;
    double gaps; /* sum of e_z * (z - x), over the temperature, in units of ln 2, from the maxima */
} kl_sums;

INLINE const void *kl_entry(const void *row, ptrdiff_t j, enum sce_kl_types types) {
    return (const char *)row + j * (ptrdiff_t)(types == SCE_KL_NARROW ? sizeof(float) : sizeof(double));
}

/* The W entries from entry j of a row on, in float64. Only n exist; the rest is -inf. */
INLINE V kl_load(const void *row, ptrdiff_t j, ptrdiff_t n, enum sce_kl_types types) {
    if (types != SCE_KL_NARROW)
        return load((const double *)row + j, n, -INFINITY);
    if (n >= W)
        return v_from_floats((const float *)row + j);
    float lanes[W];
    for (ptrdiff_t k = 0; k < W; k++)
        lanes[k] = k < n ? ((const float *)row)[j + k] : -INFINITY;
    return v_from_floats(lanes);
}

/* The maximum of a row of float64. NaN is left out. */
INLINE double top_of(const double *row, ptrdiff_t classes) {
    V top = v_set(-INFINITY);
    for (ptrdiff_t j = 0; j < classes; j += W)
        top = v_max(load(row + j, classes - j, -INFINITY), top);
    return v_hmax(top);
}

INLINE double kl_scale(double temperature) {
    const double scale = LOG2_E / temperature;
    return scale < DBL_MAX ? scale : DBL_MAX; /* 0 * inf would be NaN */
}

/* The sums of the running lanes of a chunk. */
typedef struct {
    V x[LINE_VECTORS], z[LINE_VECTORS], gaps[LINE_VECTORS];
} kl_lanes;

INLINE kl_lanes kl_zero(void) {
    kl_lanes sums;
    for (int h = 0; h < LINE_VECTORS; h++)
        sums.x[h] = sums.z[h] = sums.gaps[h] = v_set(0);
    return sums;
}

/* Add `count` vectors of classes from class j on to the lanes from h on. Only n classes exist. */
INLINE void add_vectors(const kl_row *row, ptrdiff_t j, ptrdiff_t n, int h, int count, int keep, int is_plain,
                        kl_lanes *sums, enum sce_kl_types types) {
    const V scale = v_set(row->scale);
    V y[4], gap[2];
    for (int k = 0; k < count; k++) {
        const ptrdiff_t left = n - k * W < 0 ? 0 : n - k * W;
        const V x = kl_load(row->x, j + k * W, left, types), z = kl_load(row->z, j + k * W, left, types);
        y[k] = v_mul(v_sub(x, v_set(row->x_top)), scale);
        y[count + k] = v_mul(v_sub(z, v_set(row->z_top)), scale);
        gap[k] = v_sub(y[count + k], y[k]);
    }
    powers_raised(y, 2 * count, is_plain);
    for (int k = 0; k < count; k++) {
        const V e_x = y[k], e_z = y[count + k];
        sums->x[h + k] = v_add(sums->x[h + k], e_x);
        sums->z[h + k] = v_add(sums->z[h + k], e_z);
        if (!is_plain)
            gap[k] = v_zero_where(v_eq(e_z, v_set(0)), gap[k]); /* 0 * inf = 0 */
        sums->gaps[h + k] = v_fma(e_z, gap[k], sums->gaps[h + k]);
        if (keep) {
            v_store(row->e_x + j + k * W, e_x);
            v_store(row->e_z + j + k * W, e_z);
        }
    }
}

/* Add the line of classes from j on, of which n exist. */
INLINE void add_line(const kl_row *row, ptrdiff_t j, ptrdiff_t n, int keep, int is_plain, kl_lanes *sums,
                     enum sce_kl_types types) {
    const int count = LINE_VECTORS < 2 ? 1 : 2;
    for (int h = 0; h < LINE_VECTORS; h += count)
        add_vectors(row, j + h * W, n - h * W < 0 ? 0 : n - h * W, h, count, keep, is_plain, sums, types);
}

/* Sum a row chunk by chunk, so that no running sum has many terms. */
INLINE kl_sums sum_row_of(const kl_row *given, int keep, int is_plain, enum sce_kl_types types) {
    const kl_row row = *given; /* a local copy: no store to the scratch changes it */
    kl_lanes total = kl_zero();
    for (ptrdiff_t begin = 0; begin < row.classes; begin += SCE_CHUNK) {
        const ptrdiff_t end = begin + SCE_CHUNK < row.classes ? begin + SCE_CHUNK : row.classes;
        kl_lanes sums = kl_zero();
        ptrdiff_t j = begin;
        for (; j + LINE <= end; j += LINE)
            add_line(&row, j, LINE, keep, is_plain, &sums, types);
        if (j < end)
            add_line(&row, j, end - j, keep, 0, &sums, types);
        for (int h = 0; h < LINE_VECTORS; h++) {
            total.x[h] = v_add(total.x[h], sums.x[h]);
            total.z[h] = v_add(total.z[h], sums.z[h]);
            total.gaps[h] = v_add(total.gaps[h], sums.gaps[h]);
        }
    }
    return (kl_sums){a_line(total.x), a_line(total.z), a_line(total.gaps)};
}

/* One function for each case. */
#define SUM_ROW_OF(name, keep, is_plain, types)                                                                        \
    NOINLINE kl_sums name(const kl_row *row) { return sum_row_of(row, keep, is_plain, types); }
SUM_ROW_OF(sum_plain, 0, 1, SCE_KL_NARROW)
SUM_ROW_OF(sum_plain_kept, 1, 1, SCE_KL_NARROW)
SUM_ROW_OF(sum_any, 0, 0, SCE_KL_NARROW)
SUM_ROW_OF(sum_any_kept, 1, 0, SCE_KL_NARROW)
SUM_ROW_OF(sum_mixed, 1, 0, SCE_KL_MIXED)

INLINE kl_sums sum_kl_row(const kl_row *row, int keep, enum sce_kl_types types) {
    return (types == SCE_KL_MIXED ? sum_mixed
            : row->is_plain       ? (keep ? sum_plain_kept : sum_plain)
                                  : (keep ? sum_any_kept : sum_any))(row);
}

/* Write the exponentials of float64 logits, whose gaps are divided by the temperature: it is not folded into a scale,
 * whose rounding would count in a float64 result. */
INLINE void exps_of_gaps(const double *x, ptrdiff_t classes, double top, double temperature, double *e) {
    for (ptrdiff_t j = 0; j < (classes + LINE - 1) / LINE * LINE; j += W) {
        V t = v_sub(load(x + j, j < classes ? classes - j : 0, -INFINITY), v_set(top));
        if (temperature != 1)
            t = v_div(t, v_set(temperature));
        v_store(e + j, v_exp_raised(t));
    }
}

#endif
