/* The KL divergence of a row whose divergence is small, or whose result is float64: as
 *
 *     sum_j t_j (expm1(delta_j) - delta_j),  delta_j = log p_j - log t_j,
 *
 * which holds since the t_j sum to 1 as the p_j do. No term is negative, so nothing cancels. The differences delta are
 * computed with the rounding error of x - z carried along. softmax_ce/divergence.py does the same with NumPy. */
#ifndef SOFTMAX_CE_KL_CAREFUL_H
#define SOFTMAX_CE_KL_CAREFUL_H

#include "kl_sums.h"

#define KL_BLOCK (8 * LINE) /* classes that are added up before their sum goes into a running one */

/* (expm1(d) - d) / d^2 on [-1, 1]: _EXCESS in softmax_ce/divergence.py. */
static const double excess_q[] = {
    7.746178593018827e-13, 1.1639194124150522e-11, 1.6057679623801638e-10, 2.0874435575864273e-09,
    2.5052117695907823e-08, 2.755733506893373e-07, 2.7557319191381816e-06, 2.4801587246096818e-05,
    0.00019841269841324198, 0.0013888888888981404, 0.008333333333333299, 0.04166666666666609, 0.16666666666666666,
    0.5,
};

/* A running sum, and the sum of the rounding errors of its additions (Knuth, 1969). */
typedef struct {
    V high[LINE_VECTORS], low[LINE_VECTORS];
} kl_total;

INLINE void add_to_total(kl_total *total, const V part[]) {
    for (int h = 0; h < LINE_VECTORS; h++) {
        const V a = total->high[h], sum = v_add(a, part[h]), b = v_sub(sum, a);
        total->low[h] = v_add(total->low[h], v_add(v_sub(a, v_sub(sum, b)), v_sub(part[h], b)));
        total->high[h] = sum;
    }
}

INLINE double value_of(const kl_total *total) {
    V sum[LINE_VECTORS];
    for (int h = 0; h < LINE_VECTORS; h++) {
        const V high = total->high[h];
        const M is_finite = v_eq(v_sub(high, high), v_set(0)); /* the error of an infinite sum is NaN */
        sum[h] = v_add(high, v_blend(is_finite, v_set(0), total->low[h]));
    }
    return a_line(sum);
}

/* Return the sum of a row's exponentials, which one maximum leaves out: log(s) = log1p(rest) is accurate. */
NOINLINE double rest_of(const double *e, ptrdiff_t classes) {
    kl_total total = {0};
    ptrdiff_t ones = 0;
    for (ptrdiff_t begin = 0; begin < classes; begin += KL_BLOCK) {
        V part[LINE_VECTORS];
        for (int h = 0; h < LINE_VECTORS; h++) {
            part[h] = v_set(0);
            for (ptrdiff_t j = begin; j < begin + KL_BLOCK && j < classes; j += LINE) {
                const V one = v_load(e + j + h * W);
                const M is_one = v_eq(one, v_set(ONE_RAISED));
                ones += __builtin_popcount(m_bits(is_one));
                part[h] = v_add(part[h], v_zero_where(is_one, one));
            }
        }
        add_to_total(&total, part);
    }
    return value_of(&total) * LOWER + (double)(ones - 1);
}

/* a - b rounded, and its rounding error, 0 if the difference is not finite. */
INLINE double difference_of(double a, double b, double *error) {
    const double difference = a - b, part = difference - a;
    const double low = (a - (difference - part)) - (b + part);
    *error = isfinite(low) ? low : 0;
    return difference;
}

/* How the differences of a row are computed. */
typedef struct {
    double x_log, z_log;        /* the logarithms of the sums, from the maxima */
    double to_p, to_t;          /* what multiplies the raised exponentials */
    double shift, shift_error;  /* the difference of the log-sum-exps, times the temperature */
    double temperature;
} careful_row;

INLINE V careful_delta(const careful_row *c, V x, V z) {
    V delta = v_sub(x, z);
    const V part = v_sub(delta, x);
    V low = v_sub(v_sub(x, v_sub(delta, part)), v_add(z, part));
    low = v_blend(v_eq(v_sub(low, low), v_set(0)), v_set(0), low);
    delta = v_sub(delta, v_set(c->shift));
    delta = v_add(delta, v_sub(low, v_set(c->shift_error)));
    return c->temperature == 1 ? delta : v_div(delta, v_set(c->temperature));
}

/* Replace W exponentials of the scratch by p - t and t. Return the terms of the divergence. Only n classes exist. */
INLINE V careful_terms(const careful_row *c, const kl_row *row, ptrdiff_t j, ptrdiff_t n, V *difference,
                       enum sce_kl_types types) {
    const V p = v_mul(v_load(row->e_x + j), v_set(c->to_p)), t = v_mul(v_load(row->e_z + j), v_set(c->to_t));
    const V delta = careful_delta(c, kl_load(row->x, j, n, types), kl_load(row->z, j, n, types));
    const V linear = v_zero_where(v_eq(t, v_set(0)), v_mul(t, delta)); /* 0 * inf = 0 */
    V q = v_fma(v_set(excess_q[0]), delta, v_set(excess_q[1]));
    for (size_t k = 2; k < sizeof excess_q / sizeof *excess_q; k++)
        q = v_fma(q, delta, v_set(excess_q[k]));
    const V excess = v_mul(t, v_mul(v_mul(q, delta), delta)), plain = v_sub(p, t);
    const M is_small = v_above(v_set(1 + DBL_EPSILON), v_max(delta, v_sub(v_set(0), delta))); /* not where it is NaN */
    *difference = v_blend(is_small, plain, v_add(excess, linear));
    v_store(row->e_x + j, *difference);
    v_store(row->e_z + j, t);
    return v_blend(is_small, v_sub(plain, linear), excess);
}

/* Return -sum_j t_j delta_j of a row with logits so far apart that x - z overflows, in quarters; infinity if a class
 * with t_j > 0 has a logit of -inf. The scratch holds t. */
NOINLINE double far_apart(const careful_row *c, const kl_row *row, enum sce_kl_types types) {
    const double tops = 0.25 * row->x_top - 0.25 * row->z_top;
    const double shift = tops + 0.25 * c->temperature * (c->x_log - c->z_log);
    double sum = 0;
    for (ptrdiff_t j = 0; j < row->classes; j++) {
        const double t = row->e_z[j];
        const double x = types == SCE_KL_NARROW ? ((const float *)row->x)[j] : ((const double *)row->x)[j];
        const double z = types == SCE_KL_NARROW ? ((const float *)row->z)[j] : ((const double *)row->z)[j];
        if (t > 0 && x == -INFINITY)
            return INFINITY;
        if (t > 0)
            sum += (0.25 * x - 0.25 * z - shift) * t;
    }
    return sum / -c->temperature * 4;
}

/* Return the divergence of a row whose exponentials are in the scratch. It then holds p - t and t; *surplus is the sum
 * of the former, which should be 0: an error that all delta share. */
INLINE double careful_kl(const kl_row *row, double temperature, double *surplus, enum sce_kl_types types) {
    const double x_rest = rest_of(row->e_x, row->classes), z_rest = rest_of(row->e_z, row->classes);
    if (!isfinite(row->x_top + x_rest) || !isfinite(row->z_top + z_rest))
        return NAN; /* no distribution */
    careful_row c = {log1p(x_rest), log1p(z_rest), LOWER / (1 + x_rest), LOWER / (1 + z_rest), 0, 0, temperature};
    double high_error;
    const double high = difference_of(row->x_top, row->z_top, &high_error);
    c.shift = difference_of(high, temperature * (c.z_log - c.x_log), &c.shift_error);
    c.shift_error += high_error;
    kl_total terms = {0}, differences = {0};
    for (ptrdiff_t begin = 0; begin < row->classes; begin += KL_BLOCK) {
        V term[LINE_VECTORS], sum[LINE_VECTORS];
        for (int h = 0; h < LINE_VECTORS; h++)
            term[h] = sum[h] = v_set(0);
        for (ptrdiff_t j = begin; j < begin + KL_BLOCK && j < row->classes; j += LINE) {
            for (int h = 0; h < LINE_VECTORS; h++) {
                const ptrdiff_t n = row->classes - j - h * W;
                V difference;
                term[h] = v_add(term[h], careful_terms(&c, row, j + h * W, n < 0 ? 0 : n, &difference, types));
                sum[h] = v_add(sum[h], difference);
            }
        }
        add_to_total(&terms, term);
        add_to_total(&differences, sum);
    }
    *surplus = value_of(&differences);
    const double kl = value_of(&terms) - 0.5 * *surplus * *surplus;
    if (!(kl < INFINITY))
        return far_apart(&c, row, types);
    return kl < 0 ? 0 : kl;
}

#endif
