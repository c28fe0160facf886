/* The vector layer in the compiler's own 16-byte vectors, which it lowers to SSE2, NEON or whatever else there is. V
 * holds W reals, M is all ones or zeros a lane, and A is a float64 accumulator of a V. */
#ifndef SOFTMAX_CE_VEC_BASELINE_H
#define SOFTMAX_CE_VEC_BASELINE_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__SSE2__)
#include <emmintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#include "exp_table.h"
#include "rows.h"

/* See rows_lanes.h. With fused operations, as many as with AVX2 and AVX-512, since a row's bits depend on how it is
 * computed. */
#if defined(__aarch64__)
#define LANES 256
#else
#define LANES 32
#endif
#if defined(REAL_F32)
#define W 4
typedef float real;
typedef int32_t integer;
#define BIAS 127
#define SQRT_HALF 0x3f3504f3
#define FRACTION 23
#else
#define W 2
typedef double real;
typedef int64_t integer;
#define BIAS 1023
#define SQRT_HALF 0x3fe6a09e667f3bcd
#define FRACTION 52
#endif
typedef real V __attribute__((vector_size(16)));
typedef integer M __attribute__((vector_size(16)));

static inline V v_set(real x) { return x - (V){0}; } /* not x + 0: that would lose the sign of -0 */
static inline V v_load(const real *p) {
    V v;
    memcpy(&v, p, sizeof v);
    return v;
}
static inline V v_from_lanes(const real *p) { return v_load(p); }
static inline void v_store(real *p, V v) { memcpy(p, &v, sizeof v); }
static inline V v_load_first(const real *p, ptrdiff_t n, V fill) {
    memcpy(&fill, p, (size_t)n * sizeof(real));
    return fill;
}
static inline void v_store_first(real *p, ptrdiff_t n, V v) { memcpy(p, &v, (size_t)n * sizeof(real)); }
static inline V v_keep_first(ptrdiff_t n, V v) {
    V kept = {0};
    memcpy(&kept, &v, (size_t)n * sizeof(real));
    return kept;
}
static inline V v_add(V a, V b) { return a + b; }
static inline V v_sub(V a, V b) { return a - b; }
static inline V v_mul(V a, V b) { return a * b; }
static inline V v_div(V a, V b) { return a / b; }
#if defined(__aarch64__) && defined(REAL_F32)
static inline V v_fma(V a, V b, V c) { return vfmaq_f32(c, a, b); }
#elif defined(__aarch64__)
static inline V v_fma(V a, V b, V c) { return vfmaq_f64(c, a, b); }
#else
static inline V v_fma(V a, V b, V c) { return a * b + c; } /* rounded twice: -ffp-contract=off */
#endif
static inline V v_select(M m, V a, V b) { return (V)((m & (M)a) | (~m & (M)b)); }
static inline V v_max(V a, V b) { return v_select((M)(a > b), a, b); } /* b where either is NaN */
#if defined(__aarch64__) && defined(REAL_F32)
#define V_TABLE
static inline V v_power_raised(V shifted) { /* see power_bits */
    const M k = (M)shifted, bytes = (k & 3) * 0x04040404 + 0x03020100;
    return (V)((M)vqtbl1q_u8(vld1q_u8((const uint8_t *)power_bits), (uint8x16_t)bytes) + (k << 21));
}
#else
/* 2**(n + SCE_RAISE), shifted being n + SHIFT: the low bits of n move to the exponent. */
static inline V v_power_raised(V shifted) { return (V)(((M)shifted + BIAS + SCE_RAISE) << FRACTION); }
#endif
static inline M v_not_less(V a, V b) { return ~(M)(a < b); }
static inline M v_above(V a, V b) { return (M)(a > b); }
#if defined(__SSE2__)
/* Without this, gcc 12 fails with an internal error where the mask is used after a branch. */
static inline M v_eq(V a, V b) {
    M equal = (M)(a == b);
    __asm__("" : "+x"(equal));
    return equal;
}
#else
static inline M v_eq(V a, V b) { return (M)(a == b); }
#endif
static inline V v_zero_where(M m, V a) { return (V)(~m & (M)a); }
static inline V v_add_where(M m, V a, V b) { return a + (V)(m & (M)b); }
static inline V v_add_unless(M m, V a, V b) { return a + (V)(~m & (M)b); }
static inline V v_blend(M m, V a, V b) { return v_select(m, b, a); } /* b where m, else a */
#if defined(__SSE2__) && defined(REAL_F32)
static inline void v_stream(real *p, V v) { _mm_stream_ps(p, v); }
#elif defined(__SSE2__)
static inline void v_stream(real *p, V v) { _mm_stream_pd(p, v); }
#else
static inline void v_stream(real *p, V v) { v_store(p, v); }
#endif

static inline unsigned m_bits(M m) {
    unsigned bits = 0;
    for (int i = 0; i < W; i++)
        bits |= (unsigned)(m[i] & 1) << i;
    return bits;
}
/* y = 2**k * m for y >= 1, m in [sqrt(1/2), sqrt(2)) */
static inline V v_significand(V y, V *k) {
    M n = ((M)y - SQRT_HALF) >> FRACTION;
    *k = __builtin_convertvector(n, V);
    return (V)((M)y - (n << FRACTION));
}
/* Transpose W rows of W columns in place. */
#if defined(__aarch64__) && defined(REAL_F32)
static inline void v_transpose(V r[W]) {
    const V a = vzip1q_f32(r[0], r[2]), b = vzip2q_f32(r[0], r[2]);
    const V c = vzip1q_f32(r[1], r[3]), d = vzip2q_f32(r[1], r[3]);
    r[0] = vzip1q_f32(a, c), r[1] = vzip2q_f32(a, c), r[2] = vzip1q_f32(b, d), r[3] = vzip2q_f32(b, d);
}
#else
static inline void v_transpose(V r[W]) {
    V t[W];
    for (int i = 0; i < W; i++)
        for (int j = 0; j < W; j++)
            t[j][i] = r[i][j];
    memcpy(r, t, sizeof t);
}
#endif

#if defined(REAL_F32)
typedef double D __attribute__((vector_size(16)));
typedef struct { D lo, hi; } A;
static inline real v_hmax(V a) {
    real lo = a[1] > a[0] ? a[1] : a[0], hi = a[3] > a[2] ? a[3] : a[2];
    return hi > lo ? hi : lo;
}
static inline A a_zero(void) { return (A){{0}, {0}}; }
static inline A a_add(A a, V v) { return (A){a.lo + (D){v[0], v[1]}, a.hi + (D){v[2], v[3]}}; }
/* The sum over a line: halves are added until one number remains. */
static inline double a_line(const A a[4]) {
    D v = ((a[0].lo + a[2].lo) + (a[1].lo + a[3].lo)) + ((a[0].hi + a[2].hi) + (a[1].hi + a[3].hi));
    return v[0] + v[1];
}
static inline V a_lanes(A a) { return (V){(real)a.lo[0], (real)a.lo[1], (real)a.hi[0], (real)a.hi[1]}; }
#else
typedef V A;
static inline real v_hmax(V a) { return a[1] > a[0] ? a[1] : a[0]; }
static inline A a_zero(void) { return (A){0}; }
static inline A a_add(A a, V v) { return a + v; }
static inline double a_line(const A a[4]) {
    A v = (a[0] + a[2]) + (a[1] + a[3]);
    return v[0] + v[1];
}
static inline V a_lanes(A a) { return a; }
#endif

/* Return W labels as reals. *bad has a bit for each that is outside [0, classes) or ignored. Labels are read once. */
static inline V v_labels(const int64_t *label, int64_t classes, int64_t ignored, unsigned *bad) {
    real lanes[W];
    *bad = 0;
    for (int r = 0; r < W; r++) {
        const int64_t y = ((const volatile int64_t *)label)[r];
        *bad |= (unsigned)((uint64_t)y >= (uint64_t)classes || y == ignored) << r;
        lanes[r] = (real)y;
    }
    return v_load(lanes);
}
/* Two columns of rows of two entries. */
static inline void v_load_pairs(const real *p, V *first, V *second) {
    for (int r = 0; r < W; r++)
        (*first)[r] = p[2 * r], (*second)[r] = p[2 * r + 1];
}
static inline void v_store_pairs(real *p, V first, V second) {
    for (int r = 0; r < W; r++)
        p[2 * r] = first[r], p[2 * r + 1] = second[r];
}

#endif
