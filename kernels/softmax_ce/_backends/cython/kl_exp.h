/* Powers of 2 for the KL divergence of float32 logits, in float64.
 *
 * y = n + r with r in [-1/2, 1/2], which is exact, and 2^y = 2^n (1 + r q(r)). A factor on y, such as log2(e) over the
 * temperature, costs nothing beyond its product, and there is no table: the bits are the same with any width of
 * vectors. As in exp.h, results are raised by 2^SCE_RAISE, and below LEAST_POWER they are exactly 0. Polynomial error:
 * 2.9 units of roundoff, relative; q was interpolated at those Chebyshev nodes of degree 11 that are not 0, with 60
 * digits, and rounded. */
#ifndef SOFTMAX_CE_KL_EXP_H
#define SOFTMAX_CE_KL_EXP_H

#define LEAST_POWER -1087.0
#define LEAST_PLAIN -1000.0
#define ROUNDS 0x1.8p52 /* adding it rounds to a whole number, which is then in the low bits */

static const double power_q[] = {
    0x1.e6063f7217bc6p-28, 0x1.b675bca4eeebbp-24, 0x1.62bfd47773353p-20, 0x1.ffcb54062e698p-17, 0x1.430913096fd9fp-13,
    0x1.5d87fe9d7a584p-10, 0x1.3b2ab6fba1ddap-7,  0x1.c6b08d703ce49p-5,  0x1.ebfbdff82c598p-3,  0x1.62e42fefa3a19p-1,
};

typedef int64_t whole __attribute__((vector_size(8 * W)));

/* Keep the compiler from computing one of four vectors after the other: the CPU looks ahead by less than a polynomial.
 * Without this, rows of 1000 classes took 1.10 of the time (AVX2, gcc 12). */
#if defined(VECTOR_BITS)
#define SIDE_BY_SIDE(v, count)                                                                                         \
    do {                                                                                                               \
        if ((count) == 4)                                                                                              \
            __asm__("" : "+x"((v)[0]), "+x"((v)[1]), "+x"((v)[2]), "+x"((v)[3]));                                      \
    } while (0)
#else
#define SIDE_BY_SIDE(v, count) (void)0
#endif

/* Replace each y by 2^(y + SCE_RAISE), step by step, so that latencies overlap. If all are at least LEAST_PLAIN, 2^n is
 * an addition to the exponent. The bits are the same. */
INLINE void powers_raised(V y[], int count, int is_plain) {
    V shifted[4], p[4];
    const V rounds = v_set(ROUNDS + (is_plain ? SCE_RAISE : SCE_RAISE + 1023));
    if (!is_plain)
        for (int i = 0; i < count; i++)
            y[i] = v_max(v_set(LEAST_POWER), y[i]); /* in this order NaN propagates */
    for (int i = 0; i < count; i++)
        shifted[i] = v_add(y[i], rounds);
    for (int i = 0; i < count; i++)
        y[i] = v_sub(y[i], v_sub(shifted[i], rounds));
    for (int i = 0; i < count; i++)
        p[i] = v_fma(v_set(power_q[0]), y[i], v_set(power_q[1]));
#pragma GCC unroll 16
    for (size_t c = 2; c < sizeof power_q / sizeof *power_q; c++) {
        for (int i = 0; i < count; i++)
            p[i] = v_fma(p[i], y[i], v_set(power_q[c]));
        SIDE_BY_SIDE(p, count);
    }
    for (int i = 0; i < count; i++)
        p[i] = v_fma(p[i], y[i], v_set(1));
    for (int i = 0; i < count; i++) {
        const whole power = (whole)shifted[i] << 52;
        y[i] = is_plain ? (V)((whole)p[i] + power) : v_mul(p[i], (V)power);
    }
}

#endif
