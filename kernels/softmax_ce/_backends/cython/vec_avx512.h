/* A thin layer over AVX-512: V holds W reals, M one bit a lane, A is a float64 accumulator of a V. */
#if defined(REAL_F32)
#define W 16
typedef float real;
typedef __m512 V;
typedef __mmask16 M;
typedef struct { __m512d lo, hi; } A;

static inline V v_set(real x) { return _mm512_set1_ps(x); }
static inline V v_load(const real *p) { return _mm512_loadu_ps(p); }
static inline void v_store(real *p, V v) { _mm512_storeu_ps(p, v); }
static inline M v_first(ptrdiff_t n) { return (M)((1u << n) - 1); }
static inline V v_load_first(const real *p, ptrdiff_t n, V fill) { return _mm512_mask_loadu_ps(fill, v_first(n), p); }
static inline void v_store_first(real *p, ptrdiff_t n, V v) { _mm512_mask_storeu_ps(p, v_first(n), v); }
static inline V v_keep_first(ptrdiff_t n, V v) { return _mm512_maskz_mov_ps(v_first(n), v); }
static inline V v_add(V a, V b) { return _mm512_add_ps(a, b); }
static inline V v_sub(V a, V b) { return _mm512_sub_ps(a, b); }
static inline V v_mul(V a, V b) { return _mm512_mul_ps(a, b); }
static inline V v_fma(V a, V b, V c) { return _mm512_fmadd_ps(a, b, c); }
static inline V v_max(V a, V b) { return _mm512_max_ps(a, b); } /* b where either is NaN */
static inline V v_round(V a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
static inline V v_scale(V a, V n) { return _mm512_scalef_ps(a, n); } /* a * 2**n, rounded once */
static inline M v_eq(V a, V b) { return _mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ); }
static inline V v_zero_where(M m, V a) { return _mm512_maskz_mov_ps((M)~m, a); }
static inline real v_hmax(V a) { return _mm512_reduce_max_ps(a); }
static inline int m_count(M m) { return __builtin_popcount(m); }

static inline A a_zero(void) { return (A){_mm512_setzero_pd(), _mm512_setzero_pd()}; }
static inline A a_add(A a, V v) {
    __m256 hi = _mm512_extractf32x8_ps(v, 1);
    return (A){_mm512_add_pd(a.lo, _mm512_cvtps_pd(_mm512_castps512_ps256(v))),
               _mm512_add_pd(a.hi, _mm512_cvtps_pd(hi))};
}
static inline double a_sum(A a) { return _mm512_reduce_add_pd(_mm512_add_pd(a.lo, a.hi)); }
#else
#define W 8
typedef double real;
typedef __m512d V;
typedef __mmask8 M;
typedef __m512d A;

static inline V v_set(real x) { return _mm512_set1_pd(x); }
static inline V v_load(const real *p) { return _mm512_loadu_pd(p); }
static inline void v_store(real *p, V v) { _mm512_storeu_pd(p, v); }
static inline M v_first(ptrdiff_t n) { return (M)((1u << n) - 1); }
static inline V v_load_first(const real *p, ptrdiff_t n, V fill) { return _mm512_mask_loadu_pd(fill, v_first(n), p); }
static inline void v_store_first(real *p, ptrdiff_t n, V v) { _mm512_mask_storeu_pd(p, v_first(n), v); }
static inline V v_keep_first(ptrdiff_t n, V v) { return _mm512_maskz_mov_pd(v_first(n), v); }
static inline V v_add(V a, V b) { return _mm512_add_pd(a, b); }
static inline V v_sub(V a, V b) { return _mm512_sub_pd(a, b); }
static inline V v_mul(V a, V b) { return _mm512_mul_pd(a, b); }
static inline V v_fma(V a, V b, V c) { return _mm512_fmadd_pd(a, b, c); }
static inline V v_max(V a, V b) { return _mm512_max_pd(a, b); } /* b where either is NaN */
static inline V v_round(V a) { return _mm512_roundscale_pd(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
static inline V v_scale(V a, V n) { return _mm512_scalef_pd(a, n); } /* a * 2**n, rounded once */
static inline M v_eq(V a, V b) { return _mm512_cmp_pd_mask(a, b, _CMP_EQ_OQ); }
static inline V v_zero_where(M m, V a) { return _mm512_maskz_mov_pd((M)~m, a); }
static inline real v_hmax(V a) { return _mm512_reduce_max_pd(a); }
static inline int m_count(M m) { return __builtin_popcount(m); }

static inline A a_zero(void) { return _mm512_setzero_pd(); }
static inline A a_add(A a, V v) { return _mm512_add_pd(a, v); }
static inline double a_sum(A a) { return _mm512_reduce_add_pd(a); }
#endif
