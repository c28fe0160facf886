/* 2^SCE_RAISE * exp(t) for t <= 0, -inf and NaN included, as vectors V of the layer that was included before.
 *
 * The result is raised by that power of two so that no exp(t), down to 2^-150 (2^-1076 in float64), is subnormal.
 * Scaling by 2^n is then one integer addition to the exponent, and sums keep what would be rounded away. To get exp(t)
 * itself, multiply by LOWER once, where the result is rounded. At EXP_LOW the raised exponent's field is 0, and so is
 * the power: arguments below are clamped to EXP_LOW, and the result is exactly 0.
 *
 * Both variants follow Cody and Waite. ln 2 is split into two constants, the first short enough that its product with
 * the multiple of ln 2 is exact. q was interpolated at Chebyshev nodes with 60 digits and rounded.
 *
 * With a table of 2^(k/STEPS) (V_TABLE, where one instruction looks up all lanes in registers): t = k/STEPS ln 2 + r,
 * |r| <= ln(2) / (2 STEPS), exp(t) = 2^(k/STEPS) * (1 + r + r^2 q(r)). Polynomial error, relative: 5.6e-9 (float32, 4
 * steps, degree 4), 2.8e-17 (float64, 16 steps, degree 6); the table's own rounding is at most 0.54 u.
 *
 * Without a table: t = n ln 2 + r, |r| <= ln(2)/2. 7.6e-10 (float32, degree 7), 1.6e-17 (float64, degree 11). */
#ifndef SOFTMAX_CE_EXP_H
#define SOFTMAX_CE_EXP_H

#define LOWER ((real)0x1p-64) /* 2^-SCE_RAISE */

#if defined(REAL_F32)
#define EXP_LOW -0x1.08c84p+7f /* -191 ln 2 */
#define INV_LN2 0x1.715476p+0f
#define LN2_HI 0x1.63p-1f
#define LN2_LO -0x1.bd0106p-13f
#else
#define EXP_LOW -0x1.78b9b9e2a1fp+9 /* -1087 ln 2 */
#define INV_LN2 0x1.71547652b82fep+0
#define LN2_HI 0x1.62e42fecp-1
#define LN2_LO 0x1.d1cf79abc9e3bp-32
#endif

/* Adding SHIFT rounds to a multiple of the step, whose number is then in the low bits. */
#if defined(V_TABLE)
#if defined(REAL_F32)
#define SHIFT 0x1.8p21f
static const real exp_q[] = {0x1.555918p-5f, 0x1.5571a0p-3f, 0x1.0p-1f};
#else
#define SHIFT 0x1.8p48
static const real exp_q[] = {
    0x1.6c17bbd1f560ap-10, 0x1.11120b77051e7p-7, 0x1.55555555190f9p-5, 0x1.55555554dcc9bp-3, 0x1.0p-1,
};
#endif
#elif defined(REAL_F32)
#define SHIFT 0x1.8p23f
static const real exp_q[] = {
    0x1.a12528p-13f, 0x1.6d4362p-10f, 0x1.1110e0p-7f, 0x1.5554e8p-5f, 0x1.555556p-3f, 0x1.0p-1f,
};
#else
#define SHIFT 0x1.8p52
static const real exp_q[] = {
    0x1.af38d53857513p-26, 0x1.2891a8c1d838dp-22, 0x1.71de0d9c145d0p-19, 0x1.a019b8ef67c6cp-16, 0x1.a01a01a7c8d47p-13,
    0x1.6c16c17893833p-10, 0x1.11111111109adp-7,  0x1.5555555553d4fp-5,  0x1.5555555555556p-3,  0x1.0000000000001p-1,
};
#endif

/* Several vectors at once, step by step, so that their latencies overlap. */
static inline __attribute__((always_inline)) void v_exps_raised(V t[], int count) {
    V shifted[8], q[8];
    for (int i = 0; i < count; i++)
        t[i] = v_max(v_set(EXP_LOW), t[i]); /* in this order NaN propagates */
    for (int i = 0; i < count; i++)
        shifted[i] = v_fma(t[i], v_set(INV_LN2), v_set(SHIFT));
    for (int i = 0; i < count; i++)
        q[i] = v_sub(shifted[i], v_set(SHIFT));
    for (int i = 0; i < count; i++)
        t[i] = v_fma(q[i], v_set(-LN2_HI), t[i]);
    for (int i = 0; i < count; i++)
        t[i] = v_fma(q[i], v_set(-LN2_LO), t[i]); /* r */
    for (int i = 0; i < count; i++)
        q[i] = v_fma(v_set(exp_q[0]), t[i], v_set(exp_q[1]));
    for (size_t c = 2; c < sizeof exp_q / sizeof *exp_q; c++)
        for (int i = 0; i < count; i++)
            q[i] = v_fma(q[i], t[i], v_set(exp_q[c]));
    for (int i = 0; i < count; i++)
        q[i] = v_fma(v_mul(t[i], t[i]), q[i], t[i]);
    for (int i = 0; i < count; i++)
        shifted[i] = v_power_raised(shifted[i]);
    for (int i = 0; i < count; i++)
        t[i] = v_fma(shifted[i], q[i], shifted[i]);
}

static inline V v_exp_raised(V t) {
    v_exps_raised(&t, 1);
    return t;
}

/* exp(t) itself. Fused, since a plain multiplication takes 2.5 times as long on Zen 5 if its result is subnormal. */
static inline V v_exp(V t) { return v_fma(v_exp_raised(t), v_set(LOWER), v_set(0)); }

#endif
