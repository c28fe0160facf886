/* float32 numbers beside a vector layer of float64: F holds 2 W of them. */
#ifndef SOFTMAX_CE_KL_FLOATS_H
#define SOFTMAX_CE_KL_FLOATS_H

#include "rows_load.h"

#define F_LANES (2 * W)

#if defined(VECTOR_BITS) && VECTOR_BITS == 512
typedef __m512 F;
INLINE F f_load(const float *p) { return _mm512_loadu_ps(p); }
INLINE F f_max(F a, F b) { return _mm512_max_ps(a, b); } /* b where either is NaN */
INLINE F f_min(F a, F b) { return _mm512_min_ps(a, b); }
INLINE V v_from_floats(const float *p) { return _mm512_cvtps_pd(_mm256_loadu_ps(p)); }
INLINE void v_to_floats(float *p, V v) { _mm256_storeu_ps(p, _mm512_cvtpd_ps(v)); }
#elif defined(VECTOR_BITS)
typedef __m256 F;
INLINE F f_load(const float *p) { return _mm256_loadu_ps(p); }
INLINE F f_max(F a, F b) { return _mm256_max_ps(a, b); } /* b where either is NaN */
INLINE F f_min(F a, F b) { return _mm256_min_ps(a, b); }
INLINE V v_from_floats(const float *p) { return _mm256_cvtps_pd(_mm_loadu_ps(p)); }
INLINE void v_to_floats(float *p, V v) { _mm_storeu_ps(p, _mm256_cvtpd_ps(v)); }
#else
typedef float F __attribute__((vector_size(4 * F_LANES)));
INLINE F f_load(const float *p) {
    F f;
    memcpy(&f, p, sizeof f);
    return f;
}
typedef int32_t f_mask __attribute__((vector_size(4 * F_LANES)));
INLINE F f_select(f_mask m, F a, F b) { return (F)((m & (f_mask)a) | (~m & (f_mask)b)); }
INLINE F f_max(F a, F b) { return f_select((f_mask)(a > b), a, b); } /* b where either is NaN */
INLINE F f_min(F a, F b) { return f_select((f_mask)(a < b), a, b); }
INLINE V v_from_floats(const float *p) { return (V){p[0], p[1]}; }
INLINE void v_to_floats(float *p, V v) {
    for (int k = 0; k < W; k++)
        p[k] = (float)v[k];
}
#endif

typedef struct {
    float least, top;
} f_range;

/* The least and the largest of n numbers. NaN is left out. */
INLINE f_range f_range_of(const float *x, ptrdiff_t n) {
    float low[F_LANES], high[F_LANES];
    for (int k = 0; k < F_LANES; k++)
        low[k] = INFINITY, high[k] = -INFINITY;
    F least[2], top[2];
    for (int k = 0; k < 2; k++)
        least[k] = f_load(low), top[k] = f_load(high);
    ptrdiff_t j = 0;
    for (; j + 2 * F_LANES <= n; j += 2 * F_LANES)
        for (int k = 0; k < 2; k++) {
            const F some = f_load(x + j + k * F_LANES);
            least[k] = f_min(some, least[k]);
            top[k] = f_max(some, top[k]);
        }
    const F of_least = f_min(least[0], least[1]), of_top = f_max(top[0], top[1]);
    memcpy(low, &of_least, sizeof low);
    memcpy(high, &of_top, sizeof high);
    f_range range = {low[0], high[0]};
    for (int k = 1; k < F_LANES; k++) {
        range.least = low[k] < range.least ? low[k] : range.least;
        range.top = high[k] > range.top ? high[k] : range.top;
    }
    for (; j < n; j++) {
        range.least = x[j] < range.least ? x[j] : range.least;
        range.top = x[j] > range.top ? x[j] : range.top;
    }
    return range;
}

#endif
