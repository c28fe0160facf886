/* The vector layer over AVX2 and FMA: see vec_x86.h. A mask M is all ones or zeros a lane. */
#ifndef SOFTMAX_CE_VEC_AVX2_H
#define SOFTMAX_CE_VEC_AVX2_H

#if defined(REAL_F32)
#define V_TABLE
#endif
#define VECTOR_BITS 256
#include "vec_x86.h"

typedef V M;

static inline M v_eq(V a, V b) { return X86(_cmp)(a, b, _CMP_EQ_OQ); }
static inline M v_not_less(V a, V b) { return X86(_cmp)(a, b, _CMP_NLT_UQ); }
static inline M v_above(V a, V b) { return X86(_cmp)(a, b, _CMP_GT_OQ); }
static inline unsigned m_bits(M m) { return (unsigned)X86(_movemask)(m); }
static inline V v_zero_where(M m, V a) { return X86(_andnot)(m, a); }
static inline V v_add_where(M m, V a, V b) { return v_add(a, X86(_and)(m, b)); }
static inline V v_add_unless(M m, V a, V b) { return v_add(a, X86(_andnot)(m, b)); }
static inline V v_blend(M m, V a, V b) { return X86(_blendv)(a, b, m); } /* b where m, else a */

#if defined(REAL_F32)
/* From scalars in registers: a load would wait for the stores of all of them. */
static inline V v_from_lanes(const real *p) { return _mm256_setr_ps(p[0], p[1], p[2], p[3], p[4], p[5], p[6], p[7]); }
static inline __m256i v_first(ptrdiff_t n) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
static inline V v_load_first(const real *p, ptrdiff_t n, V fill) {
    __m256i mask = v_first(n);
    return _mm256_blendv_ps(fill, _mm256_maskload_ps(p, mask), _mm256_castsi256_ps(mask));
}
/* By halves: a masked store is microcoded on AMD's CPUs, and takes a dozen cycles. */
static inline void v_store_first(real *p, ptrdiff_t n, V v) {
    __m128 part = _mm256_castps256_ps128(v);
    if (n & 4) {
        _mm_storeu_ps(p, part);
        part = _mm256_extractf128_ps(v, 1);
        p += 4;
    }
    if (n & 2) {
        _mm_storel_pi((__m64 *)p, part);
        part = _mm_movehl_ps(part, part);
        p += 2;
    }
    if (n & 1)
        _mm_store_ss(p, part);
}
static inline V v_power_raised(V shifted) { /* see power_bits */
    const __m256i k = _mm256_castps_si256(shifted);
    const __m256 step = _mm256_permutevar_ps(_mm256_broadcast_ps((const __m128 *)power_bits), k);
    return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(step), _mm256_slli_epi32(k, 21)));
}
static inline real v_hmax(V a) {
    __m128 h = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    h = _mm_max_ps(h, _mm_movehl_ps(h, h));
    return _mm_cvtss_f32(_mm_max_ss(h, _mm_movehdup_ps(h)));
}

static inline A a_zero(void) { return (A){_mm256_setzero_pd(), _mm256_setzero_pd()}; }
static inline A a_add(A a, V v) {
    return (A){_mm256_add_pd(a.lo, _mm256_cvtps_pd(_mm256_castps256_ps128(v))),
               _mm256_add_pd(a.hi, _mm256_cvtps_pd(_mm256_extractf128_ps(v, 1)))};
}
static inline V a_lanes(A a) { return _mm256_set_m128(_mm256_cvtpd_ps(a.hi), _mm256_cvtpd_ps(a.lo)); }

/* y = 2**k * m for y >= 1, m in [sqrt(1/2), sqrt(2)) */
static inline V v_significand(V y, V *k) {
    __m256i n = _mm256_srli_epi32(_mm256_sub_epi32(_mm256_castps_si256(y), _mm256_set1_epi32(0x3f3504f3)), 23);
    *k = _mm256_cvtepi32_ps(n);
    return _mm256_castsi256_ps(_mm256_sub_epi32(_mm256_castps_si256(y), _mm256_slli_epi32(n, 23)));
}
#define V_HALF
static inline V v_from_half(const uint16_t *p) { return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p)); }
static inline void v_to_half(uint16_t *p, V v) {
    _mm_storeu_si128((__m128i *)p, _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
/* Return W labels as reals. *bad has a bit for each that is outside [0, classes) or ignored. Labels are read once. */
static inline V v_labels(const int64_t *label, int64_t classes, int64_t ignored, unsigned *bad) {
    __m256i a = _mm256_loadu_si256((const __m256i *)label), b = _mm256_loadu_si256((const __m256i *)(label + 4));
    __asm__("" : "+x"(a), "+x"(b)); /* not to be read again: another thread may have changed them */
    const __m256 c = _mm256_castsi256_ps(a), d = _mm256_castsi256_ps(b);
    const __m256i low = _mm256_castps_si256(_mm256_shuffle_ps(c, d, 0x88)); /* of labels 0, 1, 4, 5, 2, 3, 6, 7 */
    const __m256i high = _mm256_castps_si256(_mm256_shuffle_ps(c, d, 0xdd));
    const __m256i end = _mm256_set1_epi32((int)classes - 1), zero = _mm256_setzero_si256();
    const __m256i out = _mm256_set1_epi32((uint64_t)ignored < (uint64_t)classes ? (int)ignored : -1);
    const __m256i good = _mm256_and_si256(_mm256_cmpeq_epi32(high, zero),
                                          _mm256_cmpeq_epi32(_mm256_min_epu32(low, end), low));
    const __m256i counts = _mm256_permute4x64_epi64(_mm256_andnot_si256(_mm256_cmpeq_epi32(low, out), good), 0xd8);
    *bad = ~(unsigned)_mm256_movemask_ps(_mm256_castsi256_ps(counts)) & 0xff;
    return _mm256_cvtepi32_ps(_mm256_permute4x64_epi64(low, 0xd8));
}
/* Two columns of rows of two entries. */
static inline void v_load_pairs(const real *p, V *first, V *second) {
    const V a = _mm256_loadu_ps(p), b = _mm256_loadu_ps(p + 8);
    const V c = _mm256_permute2f128_ps(a, b, 0x20), d = _mm256_permute2f128_ps(a, b, 0x31);
    *first = _mm256_shuffle_ps(c, d, 0x88), *second = _mm256_shuffle_ps(c, d, 0xdd);
}
/* Store two columns; rows are `step` entries apart. */
#define V_STORE_TWO
static inline void v_store_two(real *p, ptrdiff_t step, V first, V second) {
    const V a = _mm256_unpacklo_ps(first, second), b = _mm256_unpackhi_ps(first, second); /* rows 0 1 4 5, 2 3 6 7 */
    const __m128 pairs[4] = {_mm256_castps256_ps128(a), _mm256_castps256_ps128(b), _mm256_extractf128_ps(a, 1),
                             _mm256_extractf128_ps(b, 1)};
    for (int r = 0; r < 8; r += 2) {
        _mm_storel_pi((__m64 *)(p + r * step), pairs[r / 2]);
        _mm_storeh_pi((__m64 *)(p + (r + 1) * step), pairs[r / 2]);
    }
}
static inline void v_store_pairs(real *p, V first, V second) {
    const V a = _mm256_unpacklo_ps(first, second), b = _mm256_unpackhi_ps(first, second);
    _mm256_storeu_ps(p, _mm256_permute2f128_ps(a, b, 0x20));
    _mm256_storeu_ps(p + 8, _mm256_permute2f128_ps(a, b, 0x31));
}
#define V_BF16
static inline V v_from_bf16(const uint16_t *p) {
    const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
}
/* Rounded, in the lower halves. A NaN is not preserved. */
static inline __m256i v_rounded_bf16(V v) {
    const __m256i bits = _mm256_castps_si256(v);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    return _mm256_srli_epi32(_mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), odd), 16);
}
static inline void v_to_bf16(uint16_t *p, V v) {
    const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(v, v, _CMP_UNORD_Q));
    const __m256i half = _mm256_blendv_epi8(v_rounded_bf16(v), _mm256_set1_epi32(0x7fc0), nan);
    _mm_storeu_si128((__m128i *)p, _mm_packus_epi32(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1)));
}
/* Two vectors without a NaN, to an address that is a multiple of half their size in memory if `stream`. */
static inline void v_numbers_to_bf16(uint16_t *p, V first, V second, int stream) {
    const __m256i mixed = _mm256_packus_epi32(v_rounded_bf16(first), v_rounded_bf16(second));
    const __m256i both = _mm256_permute4x64_epi64(mixed, 0xd8);
    if (stream) {
        _mm_stream_si128((__m128i *)p, _mm256_castsi256_si128(both));
        _mm_stream_si128((__m128i *)(p + W), _mm256_extracti128_si256(both, 1));
    } else {
        _mm256_storeu_si256((__m256i *)p, both);
    }
}
#define V_STREAM_HALVES
static inline void v_stream_halves(uint16_t *p, const uint16_t *bits) {
    _mm_stream_si128((__m128i *)p, _mm_loadu_si128((const __m128i *)bits));
}
/* Transpose W rows of W columns in place. */
static inline void v_transpose(V r[W]) {
    V t[8];
    for (int i = 0; i < 8; i += 4) {
        V a = _mm256_unpacklo_ps(r[i], r[i + 1]), b = _mm256_unpackhi_ps(r[i], r[i + 1]);
        V c = _mm256_unpacklo_ps(r[i + 2], r[i + 3]), d = _mm256_unpackhi_ps(r[i + 2], r[i + 3]);
        t[i] = _mm256_shuffle_ps(a, c, 0x44), t[i + 1] = _mm256_shuffle_ps(a, c, 0xee);
        t[i + 2] = _mm256_shuffle_ps(b, d, 0x44), t[i + 3] = _mm256_shuffle_ps(b, d, 0xee);
    }
    for (int i = 0; i < 4; i++) {
        r[i] = _mm256_permute2f128_ps(t[i], t[4 + i], 0x20);
        r[4 + i] = _mm256_permute2f128_ps(t[i], t[4 + i], 0x31);
    }
}
#else
static inline V v_from_lanes(const real *p) { return _mm256_setr_pd(p[0], p[1], p[2], p[3]); }
static inline __m256i v_first(ptrdiff_t n) {
    return _mm256_cmpgt_epi64(_mm256_set1_epi64x((int64_t)n), _mm256_setr_epi64x(0, 1, 2, 3));
}
static inline V v_load_first(const real *p, ptrdiff_t n, V fill) {
    __m256i mask = v_first(n);
    return _mm256_blendv_pd(fill, _mm256_maskload_pd(p, mask), _mm256_castsi256_pd(mask));
}
static inline void v_store_first(real *p, ptrdiff_t n, V v) {
    __m128d part = _mm256_castpd256_pd128(v);
    if (n & 2) {
        _mm_storeu_pd(p, part);
        part = _mm256_extractf128_pd(v, 1);
        p += 2;
    }
    if (n & 1)
        _mm_store_sd(p, part);
}
/* 2**(n + SCE_RAISE), shifted being n + SHIFT: the low bits of n move to the exponent. */
static inline V v_power_raised(V shifted) {
    const __m256i n = _mm256_add_epi64(_mm256_castpd_si256(shifted), _mm256_set1_epi64x(1023 + SCE_RAISE));
    return _mm256_castsi256_pd(_mm256_slli_epi64(n, 52));
}
static inline real v_hmax(V a) {
    __m128d h = _mm_max_pd(_mm256_castpd256_pd128(a), _mm256_extractf128_pd(a, 1));
    return _mm_cvtsd_f64(_mm_max_sd(h, _mm_unpackhi_pd(h, h)));
}


/* y = 2**k * m for y >= 1, m in [sqrt(1/2), sqrt(2)); k is small and not negative */
static inline V v_significand(V y, V *k) {
    const __m256d magic = _mm256_set1_pd(0x1p52);
    __m256i n = _mm256_sub_epi64(_mm256_castpd_si256(y), _mm256_set1_epi64x(0x3fe6a09e667f3bcd));
    n = _mm256_srli_epi64(n, 52);
    *k = _mm256_sub_pd(_mm256_or_pd(_mm256_castsi256_pd(n), magic), magic);
    return _mm256_castsi256_pd(_mm256_sub_epi64(_mm256_castpd_si256(y), _mm256_slli_epi64(n, 52)));
}
static inline V v_labels(const int64_t *label, int64_t classes, int64_t ignored, unsigned *bad) {
    __m256i y = _mm256_loadu_si256((const __m256i *)label);
    __asm__("" : "+x"(y));
    const __m256i inside = _mm256_andnot_si256(_mm256_cmpgt_epi64(_mm256_setzero_si256(), y),
                                               _mm256_cmpgt_epi64(_mm256_set1_epi64x(classes), y));
    const __m256i counts = _mm256_andnot_si256(_mm256_cmpeq_epi64(y, _mm256_set1_epi64x(ignored)), inside);
    *bad = ~(unsigned)_mm256_movemask_pd(_mm256_castsi256_pd(counts)) & 0xf;
    const __m256d magic = _mm256_set1_pd(0x1p52); /* a small label becomes the last bits of 2^52 */
    return _mm256_sub_pd(_mm256_or_pd(_mm256_castsi256_pd(y), magic), magic);
}
static inline void v_load_pairs(const real *p, V *first, V *second) {
    const V a = _mm256_loadu_pd(p), b = _mm256_loadu_pd(p + 4);
    const V c = _mm256_permute2f128_pd(a, b, 0x20), d = _mm256_permute2f128_pd(a, b, 0x31);
    *first = _mm256_unpacklo_pd(c, d), *second = _mm256_unpackhi_pd(c, d);
}
static inline void v_store_pairs(real *p, V first, V second) {
    const V a = _mm256_unpacklo_pd(first, second), b = _mm256_unpackhi_pd(first, second);
    _mm256_storeu_pd(p, _mm256_permute2f128_pd(a, b, 0x20));
    _mm256_storeu_pd(p + 4, _mm256_permute2f128_pd(a, b, 0x31));
}
/* Transpose W rows of W columns in place. */
static inline void v_transpose(V r[W]) {
    V a = _mm256_unpacklo_pd(r[0], r[1]), b = _mm256_unpackhi_pd(r[0], r[1]);
    V c = _mm256_unpacklo_pd(r[2], r[3]), d = _mm256_unpackhi_pd(r[2], r[3]);
    r[0] = _mm256_permute2f128_pd(a, c, 0x20), r[1] = _mm256_permute2f128_pd(b, d, 0x20);
    r[2] = _mm256_permute2f128_pd(a, c, 0x31), r[3] = _mm256_permute2f128_pd(b, d, 0x31);
}
#endif
static inline V v_keep_first(ptrdiff_t n, V v) { return X86(_and)(v, X86(_castsi256)(v_first(n))); }

/* The sum over a line, whose first vector is a[0]: halves are added until one number remains. */
static inline double a_line(const A a[2]) {
#if defined(REAL_F32)
    __m256d v = _mm256_add_pd(_mm256_add_pd(a[0].lo, a[1].lo), _mm256_add_pd(a[0].hi, a[1].hi));
#else
    __m256d v = _mm256_add_pd(a[0], a[1]);
#endif
    __m128d h = _mm_add_pd(_mm256_castpd256_pd128(v), _mm256_extractf128_pd(v, 1));
    return _mm_cvtsd_f64(_mm_add_sd(h, _mm_unpackhi_pd(h, h)));
}

#endif
