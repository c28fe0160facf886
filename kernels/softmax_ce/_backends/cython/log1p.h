/* log(1 + r) for 0 <= r < 2^20, given 1 / (1 + r) too. The relative error is small even where r is tiny.
 *
 * y = 1 + r rounded; c = (r - (y - 1)) / y corrects the rounding; y = 2^k m with m in [sqrt(1/2), sqrt(2)); log(m) is a
 * series in s = f / (2 + f), f = m - 1. Constants: FreeBSD's e_log.c (error below 2^-58.45 relative) and e_logf.c
 * (2^-34.24), after fdlibm. */
#ifndef SOFTMAX_CE_LOG1P_H
#define SOFTMAX_CE_LOG1P_H

#if defined(REAL_F32)
#define LN2_HEAD 6.9313812256e-01f
#define LN2_TAIL 9.0580006145e-06f
static const real log_c[] = {0xf89e26.0p-26f, 0x91e9ee.0p-25f, 0xccce13.0p-25f, 0xaaaaaa.0p-24f};
#else
#define LN2_HEAD 6.93147180369123816490e-01
#define LN2_TAIL 1.90821492927058770002e-10
static const real log_c[] = {
    1.479819860511658591e-01, 1.531383769920937332e-01, 1.818357216161805012e-01, 2.222219843214978396e-01,
    2.857142874366239149e-01, 3.999999999940941908e-01, 6.666666666666735130e-01,
};
#endif

static inline V v_log1p(V r, V inverse) {
    V y = v_add(v_set(1), r), k;
    V c = v_mul(v_sub(r, v_sub(y, v_set(1))), inverse);
    V f = v_sub(v_significand(y, &k), v_set(1));
    V s = v_div(f, v_add(v_set(2), f)), z = v_mul(s, s);
    V series = v_set(log_c[0]);
    for (size_t i = 1; i < sizeof log_c / sizeof *log_c; i++)
        series = v_fma(series, z, v_set(log_c[i]));
    V half = v_mul(v_mul(v_set((real)0.5), f), f);
    V tail = v_fma(k, v_set(LN2_TAIL), c);
    V low = v_sub(half, v_fma(s, v_fma(series, z, half), tail));
    return v_sub(v_mul(k, v_set(LN2_HEAD)), v_sub(low, f));
}

#endif
