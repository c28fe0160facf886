/* The vector layer over AVX-512: see vec_x86.h. A mask M has one bit a lane. */
#ifndef SOFTMAX_CE_VEC_AVX512_H
#define SOFTMAX_CE_VEC_AVX512_H

#define V_TABLE
#define V_PREFETCH
#define VECTOR_BITS 512
#include "vec_x86.h"

#if defined(REAL_F32)
typedef __mmask16 M;
#define X86_COMPARE _mm512_cmp_ps_mask
#else
typedef __mmask8 M;
#define X86_COMPARE _mm512_cmp_pd_mask
#endif

static inline V v_from_lanes(const real *p) { return v_load(p); }
static inline M v_first(ptrdiff_t n) { return (M)((1u << n) - 1); }
static inline V v_load_first(const real *p, ptrdiff_t n, V fill) { return X86(_mask_loadu)(fill, v_first(n), p); }
static inline void v_store_first(real *p, ptrdiff_t n, V v) { X86(_mask_storeu)(p, v_first(n), v); }
static inline V v_keep_first(ptrdiff_t n, V v) { return X86(_maskz_mov)(v_first(n), v); }
static inline M v_eq(V a, V b) { return X86_COMPARE(a, b, _CMP_EQ_OQ); }
static inline M v_not_less(V a, V b) { return X86_COMPARE(a, b, _CMP_NLT_UQ); }
static inline M v_above(V a, V b) { return X86_COMPARE(a, b, _CMP_GT_OQ); }
static inline unsigned m_bits(M m) { return m; }
static inline V v_zero_where(M m, V a) { return X86(_maskz_mov)((M)~m, a); }
static inline V v_add_where(M m, V a, V b) { return X86(_mask_add)(a, m, a, b); }
static inline V v_add_unless(M m, V a, V b) { return X86(_mask_add)(a, (M)~m, a, b); }
static inline V v_blend(M m, V a, V b) { return X86(_mask_mov)(a, m, b); } /* b where m, else a */
static inline real v_hmax(V a) { return X86(_reduce_max)(a); }

#if defined(REAL_F32)
static inline V v_power_raised(V shifted) { /* see power_bits */
    const __m512i k = _mm512_castps_si512(shifted);
    const __m512 table = _mm512_broadcast_f32x4(_mm_loadu_ps((const float *)power_bits));
    const __m512i step = _mm512_castps_si512(_mm512_permutevar_ps(table, k));
    return _mm512_castsi512_ps(_mm512_add_epi32(step, _mm512_slli_epi32(k, 21)));
}
/* Return W labels as reals. *bad has a bit for each that is outside [0, classes) or ignored. Labels are read once. */
static inline V v_labels(const int64_t *label, int64_t classes, int64_t ignored, unsigned *bad) {
    __m512i lo = _mm512_loadu_si512(label), hi = _mm512_loadu_si512(label + 8);
    __asm__("" : "+v"(lo), "+v"(hi)); /* not to be read again: another thread may have changed them */
    __m512i end = _mm512_set1_epi64(classes), out = _mm512_set1_epi64(ignored);
    *bad = (unsigned)(_mm512_cmpge_epu64_mask(lo, end) | _mm512_cmpeq_epi64_mask(lo, out)) |
           (unsigned)(_mm512_cmpge_epu64_mask(hi, end) | _mm512_cmpeq_epi64_mask(hi, out)) << 8;
    __m512i both = _mm512_inserti64x4(_mm512_castsi256_si512(_mm512_cvtepi64_epi32(lo)), _mm512_cvtepi64_epi32(hi), 1);
    return _mm512_cvtepi32_ps(both);
}
/* y = 2**k * m for y >= 1, m in [sqrt(1/2), sqrt(2)) */
static inline V v_significand(V y, V *k) {
    __m512i n = _mm512_srli_epi32(_mm512_sub_epi32(_mm512_castps_si512(y), _mm512_set1_epi32(0x3f3504f3)), 23);
    *k = _mm512_cvtepi32_ps(n);
    return _mm512_castsi512_ps(_mm512_sub_epi32(_mm512_castps_si512(y), _mm512_slli_epi32(n, 23)));
}
#define V_HALF
static inline V v_from_half(const uint16_t *p) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p)); }
static inline void v_to_half(uint16_t *p, V v) {
    _mm256_storeu_si256((__m256i *)p, _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
/* Two columns of rows of two entries. */
static inline void v_load_pairs(const real *p, V *first, V *second) {
    const V a = _mm512_loadu_ps(p), b = _mm512_loadu_ps(p + 16);
    const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    *first = _mm512_permutex2var_ps(a, even, b);
    *second = _mm512_permutex2var_ps(a, _mm512_add_epi32(even, _mm512_set1_epi32(1)), b);
}
static inline void v_store_pairs(real *p, V first, V second) {
    const __m512i low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    _mm512_storeu_ps(p, _mm512_permutex2var_ps(first, low, second));
    _mm512_storeu_ps(p + 16, _mm512_permutex2var_ps(first, _mm512_add_epi32(low, _mm512_set1_epi32(8)), second));
}
#define V_BF16
static inline V v_from_bf16(const uint16_t *p) {
    const __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}
/* Rounded, in the lower halves. A NaN is not preserved. */
static inline __m512i v_rounded_bf16(V v) {
    const __m512i bits = _mm512_castps_si512(v);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    return _mm512_srli_epi32(_mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd), 16);
}
static inline void v_to_bf16(uint16_t *p, V v) {
    const __mmask16 nan = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
    const __m512i half = _mm512_mask_mov_epi32(v_rounded_bf16(v), nan, _mm512_set1_epi32(0x7fc0));
    _mm256_storeu_si256((__m256i *)p, _mm512_cvtepi32_epi16(half));
}
/* Two vectors without a NaN, to an address that is a multiple of a vector's size in memory if `stream`. */
static inline void v_numbers_to_bf16(uint16_t *p, V first, V second, int stream) {
    const __m256i low = _mm512_cvtepi32_epi16(v_rounded_bf16(first));
    const __m256i high = _mm512_cvtepi32_epi16(v_rounded_bf16(second));
    if (stream) {
        _mm256_stream_si256((__m256i *)p, low);
        _mm256_stream_si256((__m256i *)(p + W), high);
    } else {
        _mm256_storeu_si256((__m256i *)p, low);
        _mm256_storeu_si256((__m256i *)(p + W), high);
    }
}
#define V_STREAM_HALVES
static inline void v_stream_halves(uint16_t *p, const uint16_t *bits) {
    _mm256_stream_si256((__m256i *)p, _mm256_loadu_si256((const __m256i *)bits));
}
/* Transpose W rows of W columns in place. */
static inline void v_transpose(V r[W]) {
    __m512d t[16];
    for (int i = 0; i < 16; i += 4) {
        __m512d a = _mm512_castps_pd(_mm512_unpacklo_ps(r[i], r[i + 1]));
        __m512d b = _mm512_castps_pd(_mm512_unpackhi_ps(r[i], r[i + 1]));
        __m512d c = _mm512_castps_pd(_mm512_unpacklo_ps(r[i + 2], r[i + 3]));
        __m512d d = _mm512_castps_pd(_mm512_unpackhi_ps(r[i + 2], r[i + 3]));
        t[i] = _mm512_unpacklo_pd(a, c), t[i + 1] = _mm512_unpackhi_pd(a, c);
        t[i + 2] = _mm512_unpacklo_pd(b, d), t[i + 3] = _mm512_unpackhi_pd(b, d);
    }
    for (int i = 0; i < 4; i++) { /* lane q of t[4 g + i]: column 4 q + i of rows 4 g to 4 g + 3 */
        __m512 a = _mm512_castpd_ps(t[i]), b = _mm512_castpd_ps(t[4 + i]);
        __m512 c = _mm512_castpd_ps(t[8 + i]), d = _mm512_castpd_ps(t[12 + i]);
        __m512 ab = _mm512_shuffle_f32x4(a, b, 0x44), cd = _mm512_shuffle_f32x4(c, d, 0x44);
        r[i] = _mm512_shuffle_f32x4(ab, cd, 0x88), r[4 + i] = _mm512_shuffle_f32x4(ab, cd, 0xdd);
        ab = _mm512_shuffle_f32x4(a, b, 0xee), cd = _mm512_shuffle_f32x4(c, d, 0xee);
        r[8 + i] = _mm512_shuffle_f32x4(ab, cd, 0x88), r[12 + i] = _mm512_shuffle_f32x4(ab, cd, 0xdd);
    }
}

static inline A a_zero(void) { return (A){_mm512_setzero_pd(), _mm512_setzero_pd()}; }
static inline A a_add(A a, V v) {
    __m256 hi = _mm512_extractf32x8_ps(v, 1);
    return (A){_mm512_add_pd(a.lo, _mm512_cvtps_pd(_mm512_castps512_ps256(v))),
               _mm512_add_pd(a.hi, _mm512_cvtps_pd(hi))};
}
/* The sum over a line: halves are added until one number remains. */
static inline double a_line(const A a[1]) { return _mm512_reduce_add_pd(_mm512_add_pd(a->lo, a->hi)); }
static inline V a_lanes(A a) { /* rounded */
    return _mm512_insertf32x8(_mm512_castps256_ps512(_mm512_cvtpd_ps(a.lo)), _mm512_cvtpd_ps(a.hi), 1);
}
#else
static inline V v_power_raised(V shifted) { /* see power_bits */
    const __m512i k = _mm512_castpd_si512(shifted), low = _mm512_loadu_si512(power_bits);
    const __m512i step = _mm512_permutex2var_epi64(low, k, _mm512_loadu_si512(power_bits + 8));
    return _mm512_castsi512_pd(_mm512_add_epi64(step, _mm512_slli_epi64(k, 48)));
}
/* Return W labels as reals. *bad has a bit for each that is outside [0, classes) or ignored. Labels are read once. */
static inline V v_labels(const int64_t *label, int64_t classes, int64_t ignored, unsigned *bad) {
    __m512i y = _mm512_loadu_si512(label);
    __asm__("" : "+v"(y));
    *bad = (unsigned)_mm512_cmpge_epu64_mask(y, _mm512_set1_epi64(classes)) |
           (unsigned)_mm512_cmpeq_epi64_mask(y, _mm512_set1_epi64(ignored));
    return _mm512_cvtepi64_pd(y);
}
/* y = 2**k * m for y >= 1, m in [sqrt(1/2), sqrt(2)) */
static inline V v_significand(V y, V *k) {
    __m512i n = _mm512_sub_epi64(_mm512_castpd_si512(y), _mm512_set1_epi64(0x3fe6a09e667f3bcd));
    n = _mm512_srli_epi64(n, 52);
    *k = _mm512_cvtepi64_pd(n);
    return _mm512_castsi512_pd(_mm512_sub_epi64(_mm512_castpd_si512(y), _mm512_slli_epi64(n, 52)));
}
static inline void v_load_pairs(const real *p, V *first, V *second) {
    const V a = _mm512_loadu_pd(p), b = _mm512_loadu_pd(p + 8);
    *first = _mm512_permutex2var_pd(a, _mm512_setr_epi64(0, 2, 4, 6, 8, 10, 12, 14), b);
    *second = _mm512_permutex2var_pd(a, _mm512_setr_epi64(1, 3, 5, 7, 9, 11, 13, 15), b);
}
static inline void v_store_pairs(real *p, V first, V second) {
    _mm512_storeu_pd(p, _mm512_permutex2var_pd(first, _mm512_setr_epi64(0, 8, 1, 9, 2, 10, 3, 11), second));
    _mm512_storeu_pd(p + 8, _mm512_permutex2var_pd(first, _mm512_setr_epi64(4, 12, 5, 13, 6, 14, 7, 15), second));
}
/* Transpose W rows of W columns in place. */
static inline void v_transpose(V r[W]) {
    V t[8];
    for (int i = 0; i < 8; i += 2)
        t[i] = _mm512_unpacklo_pd(r[i], r[i + 1]), t[i + 1] = _mm512_unpackhi_pd(r[i], r[i + 1]);
    for (int i = 0; i < 2; i++) { /* lane q of t[2 g + i]: column 2 q + i of rows 2 g and 2 g + 1 */
        V ab = _mm512_shuffle_f64x2(t[i], t[2 + i], 0x44), cd = _mm512_shuffle_f64x2(t[4 + i], t[6 + i], 0x44);
        r[i] = _mm512_shuffle_f64x2(ab, cd, 0x88), r[2 + i] = _mm512_shuffle_f64x2(ab, cd, 0xdd);
        ab = _mm512_shuffle_f64x2(t[i], t[2 + i], 0xee), cd = _mm512_shuffle_f64x2(t[4 + i], t[6 + i], 0xee);
        r[4 + i] = _mm512_shuffle_f64x2(ab, cd, 0x88), r[6 + i] = _mm512_shuffle_f64x2(ab, cd, 0xdd);
    }
}

static inline double a_line(const A a[1]) { return _mm512_reduce_add_pd(*a); } /* halves are added */
#endif

#endif
