/* The layer of vec_avx512.h in plain C, lane by lane: as wide, with the same tables and operands in the same order. What
 * AVX-512 computes is so known, to the bit, on a machine without it; multiplications and additions are fused by fma(). */
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "rows.h"

#include "exp_table.h"

#define V_TABLE
#define LANES 256 /* see rows_lanes.h */
#if defined(REAL_F32)
#define W 16
typedef float real;
typedef uint32_t word;
typedef uint16_t M; /* one bit a lane */
#define FMA fmaf
#define STEPS 4
#define STEP_SHIFT 21
#define SQRT_HALF 0x3f3504f3
#define FRACTION 23
#else
#define W 8
typedef double real;
typedef uint64_t word;
typedef uint8_t M;
#define FMA fma
#define STEPS 16
#define STEP_SHIFT 48
#define SQRT_HALF 0x3fe6a09e667f3bcd
#define FRACTION 52
#endif
typedef struct { real lane[W]; } V;
typedef struct { double lane[W]; } A;

/* A vector of what the expression is in each lane i. */
#define EACH(value)                                                                                                    \
    V made;                                                                                                            \
    for (int i = 0; i < W; i++)                                                                                        \
        made.lane[i] = (value);                                                                                        \
    return made
/* A mask of where the condition holds. */
#define WHERE(condition)                                                                                               \
    M made = 0;                                                                                                        \
    for (int i = 0; i < W; i++)                                                                                        \
        made |= (M)((condition) << i);                                                                                 \
    return made

static inline word bits_of(real x) {
    word bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}
static inline real of_bits(word bits) {
    real x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static inline V v_set(real x) { EACH(x); }
static inline V v_load(const real *p) { EACH(p[i]); }
static inline V v_from_lanes(const real *p) { return v_load(p); }
static inline void v_store(real *p, V v) { memcpy(p, &v, sizeof v); }
static inline V v_load_first(const real *p, ptrdiff_t n, V fill) { EACH(i < n ? p[i] : fill.lane[i]); }
static inline void v_store_first(real *p, ptrdiff_t n, V v) { memcpy(p, &v, (size_t)n * sizeof(real)); }
static inline V v_keep_first(ptrdiff_t n, V v) { EACH(i < n ? v.lane[i] : 0); }
static inline V v_add(V a, V b) { EACH(a.lane[i] + b.lane[i]); }
static inline V v_sub(V a, V b) { EACH(a.lane[i] - b.lane[i]); }
static inline V v_mul(V a, V b) { EACH(a.lane[i] * b.lane[i]); }
static inline V v_div(V a, V b) { EACH(a.lane[i] / b.lane[i]); }
static inline V v_fma(V a, V b, V c) { EACH(FMA(a.lane[i], b.lane[i], c.lane[i])); }
static inline V v_max(V a, V b) { EACH(a.lane[i] > b.lane[i] ? a.lane[i] : b.lane[i]); } /* b where either is NaN */
static inline V v_power_raised(V shifted) { /* see power_bits */
    EACH(of_bits(power_bits[bits_of(shifted.lane[i]) % STEPS] + (bits_of(shifted.lane[i]) << STEP_SHIFT)));
}
static inline M v_not_less(V a, V b) { WHERE(!(a.lane[i] < b.lane[i])); }
static inline M v_above(V a, V b) { WHERE(a.lane[i] > b.lane[i]); }
static inline M v_eq(V a, V b) { WHERE(a.lane[i] == b.lane[i]); }
static inline unsigned m_bits(M m) { return m; }
static inline V v_zero_where(M m, V a) { EACH(m >> i & 1 ? 0 : a.lane[i]); }
static inline V v_add_where(M m, V a, V b) { EACH(m >> i & 1 ? a.lane[i] + b.lane[i] : a.lane[i]); }
static inline V v_add_unless(M m, V a, V b) { EACH(m >> i & 1 ? a.lane[i] : a.lane[i] + b.lane[i]); }
static inline V v_blend(M m, V a, V b) { EACH(m >> i & 1 ? b.lane[i] : a.lane[i]); } /* b where m, else a */
static inline void v_stream(real *p, V v) { v_store(p, v); }
static inline real v_hmax(V a) {
    for (int half = W / 2; half > 0; half /= 2)
        for (int i = 0; i < half; i++)
            a.lane[i] = a.lane[i] > a.lane[i + half] ? a.lane[i] : a.lane[i + half];
    return a.lane[0];
}
/* y = 2**k * m for y >= 1, m in [sqrt(1/2), sqrt(2)) */
static inline V v_significand(V y, V *k) {
    for (int i = 0; i < W; i++)
        k->lane[i] = (real)((bits_of(y.lane[i]) - SQRT_HALF) >> FRACTION);
    EACH(of_bits(bits_of(y.lane[i]) - ((bits_of(y.lane[i]) - SQRT_HALF) >> FRACTION << FRACTION)));
}
/* W rows of W columns, in place */
static inline void v_transpose(V r[W]) {
    for (int i = 0; i < W; i++)
        for (int j = 0; j < i; j++) {
            const real low = r[i].lane[j];
            r[i].lane[j] = r[j].lane[i];
            r[j].lane[i] = low;
        }
}

static inline A a_zero(void) { return (A){{0}}; }
static inline A a_add(A a, V v) {
    for (int i = 0; i < W; i++)
        a.lane[i] += (double)v.lane[i];
    return a;
}
/* The sum over a line: halves added, till one is left. */
static inline double a_line(const A a[1]) {
    A sum = *a;
    for (int half = W / 2; half > 0; half /= 2)
        for (int i = 0; i < half; i++)
            sum.lane[i] += sum.lane[i + half];
    return sum.lane[0];
}
static inline V a_lanes(A a) { EACH((real)a.lane[i]); } /* rounded, each lane to its own */

/* W labels as reals; *bad: bits of those that are outside [0, classes) or ignored. Read once, and compared only. */
static inline V v_labels(const int64_t *label, int64_t classes, int64_t ignored, unsigned *bad) {
    V made;
    *bad = 0;
    for (int i = 0; i < W; i++) {
        const int64_t y = ((const volatile int64_t *)label)[i];
        *bad |= (unsigned)((uint64_t)y >= (uint64_t)classes || y == ignored) << i;
        made.lane[i] = (real)y;
    }
    return made;
}
/* Entries of a row side by side, two each. */
static inline void v_load_pairs(const real *p, V *first, V *second) {
    for (int i = 0; i < W; i++)
        first->lane[i] = p[2 * i], second->lane[i] = p[2 * i + 1];
}
static inline void v_store_pairs(real *p, V first, V second) {
    for (int i = 0; i < W; i++)
        p[2 * i] = first.lane[i], p[2 * i + 1] = second.lane[i];
}
