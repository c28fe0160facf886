/* The error of the compiled exp in ULP of the rounded result: float32 against exp in double, float64 against expl, which
 * is wider than double on x86 (80 bits) and aarch64 (128 bits) under Linux. Where it is not, float64 is not measured. */
#include "checks.h"

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#define BLOCK 4096

/* |got - right| in units of the last place of a format of `bits` whose smallest number is 2**least. */
static double ulps(long double got, long double right, int bits, int least) {
    int exponent;
    frexpl(right, &exponent);
    const int unit = exponent - bits > least ? exponent - bits : least;
    return (double)ldexpl(fabsl(got - right), -unit);
}

static double error_f32(const sce_isa *isa, int64_t samples, float *where) {
    const float ends[2] = {-0.0f, -104.0f};
    uint32_t bits[2];
    memcpy(bits, ends, sizeof bits);
    const uint32_t stride = (uint32_t)((bits[1] - bits[0]) / samples) | 1;
    double worst = 0;
    for (uint32_t at = bits[0]; at <= bits[1];) {
        float t[BLOCK], e[BLOCK];
        int n = 0;
        for (; n < BLOCK && at <= bits[1]; n++, at += stride)
            memcpy(&t[n], &at, sizeof at);
        isa->exp_f32(t, e, n);
        for (int i = 0; i < n; i++) {
            const double error = ulps(e[i], exp(t[i]), 24, -149);
            if (!(error <= worst)) /* a NaN too */
                worst = error, *where = t[i];
        }
    }
    return worst;
}

/* Steele, Lea and Flood's SplitMix64: uniform in [0, 1). */
static double uniform(uint64_t *state) {
    uint64_t z = *state += 0x9e3779b97f4a7c15;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
    z = (z ^ z >> 27) * 0x94d049bb133111eb;
    return (double)((z ^ z >> 31) >> 11) * 0x1p-53;
}

static double error_f64(const sce_isa *isa, int64_t samples, double *where) {
    uint64_t state = 0;
    double worst = 0;
    for (int64_t done = 0; done < samples; done += BLOCK) {
        double t[BLOCK], e[BLOCK];
        for (int i = 0; i < BLOCK; i++) /* half of them near 0 */
            t[i] = i % 2 ? -746 * uniform(&state) : -exp(33 * uniform(&state) - 30);
        isa->exp_f64(t, e, BLOCK);
        for (int i = 0; i < BLOCK; i++) {
            const double error = ulps(e[i], expl((long double)t[i]), 53, -1074);
            if (!(error <= worst))
                worst = error, *where = t[i];
        }
    }
    return worst;
}

/* NaN, -inf, -0, and far below the smallest number. */
static int special_values(const sce_isa *isa) {
    float t[4] = {NAN, -INFINITY, -0.0f, -1e30f}, e[4];
    double t64[4] = {NAN, -INFINITY, -0.0, -1e300}, e64[4];
    isa->exp_f32(t, e, 4);
    isa->exp_f64(t64, e64, 4);
    return isnan(e[0]) && e[1] == 0 && e[2] == 1 && e[3] == 0 && isnan(e64[0]) && e64[1] == 0 && e64[2] == 1 &&
           e64[3] == 0;
}

int exp_is_accurate(const sce_isa *isa, const double declared[2], int64_t samples) {
    float where = 0;
    double where64 = 0;
    const int wide = LDBL_MANT_DIG > DBL_MANT_DIG;
    const double f32 = error_f32(isa, samples, &where), f64 = wide ? error_f64(isa, samples / 8, &where64) : 0;
    printf("%-9s exp      float32: at most %.4f ULP at %.9g (%lld numbers, declared %g)\n", isa->name, f32, where,
           (long long)samples, declared[0]);
    if (!wide)
        printf("%-9s exp      float64: not measured, long double is no wider than double here\n", isa->name);
    else
        printf("%-9s exp      float64: at most %.4f ULP at %.17g (%lld numbers, declared %g)\n", isa->name, f64, where64,
               (long long)samples / 8, declared[1]);
    if (!special_values(isa)) {
        fprintf(stderr, "replay: %s: exp of NaN, -inf, -0 or a huge number is wrong\n", isa->name);
        return 0;
    }
    if (!(f32 <= declared[0] && f64 <= declared[1])) {
        fprintf(stderr, "replay: %s: exp is less accurate than declared\n", isa->name);
        return 0;
    }
    return 1;
}
