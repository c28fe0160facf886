/* What the layers over AVX2 and AVX-512 share: the types and the plain operations. VECTOR_BITS is the width.
 *
 * V holds W reals, A is a float64 accumulator of a V, and M, which each layer defines, is a mask of a V's lanes. */
#ifndef SOFTMAX_CE_VEC_X86_H
#define SOFTMAX_CE_VEC_X86_H

#include <stddef.h>
#include <stdint.h>

#include <immintrin.h>

#include "exp_table.h"

#define LANES 256 /* see rows_lanes.h */

#define PASTE(a, b, c, d) a##b##c##d
#define PASTE_EXPANDED(a, b, c, d) PASTE(a, b, c, d)

#if defined(REAL_F32)
typedef float real;
typedef PASTE_EXPANDED(__m, VECTOR_BITS, , ) V;
typedef struct { PASTE_EXPANDED(__m, VECTOR_BITS, d, ) lo, hi; } A;
#define W (VECTOR_BITS / 32)
#define SUFFIX _ps
#else
typedef double real;
typedef PASTE_EXPANDED(__m, VECTOR_BITS, d, ) V;
typedef V A;
#define W (VECTOR_BITS / 64)
#define SUFFIX _pd
#endif

/* The intrinsic of this name for the width and the type: X86(_add) is _mm256_add_ps, or _mm512_add_pd. */
#define X86(name) PASTE_EXPANDED(_mm, VECTOR_BITS, name, SUFFIX)

static inline V v_set(real x) { return X86(_set1)(x); }
static inline V v_load(const real *p) { return X86(_loadu)(p); }
static inline void v_store(real *p, V v) { X86(_storeu)(p, v); }
static inline void v_stream(real *p, V v) { X86(_stream)(p, v); }
static inline V v_add(V a, V b) { return X86(_add)(a, b); }
static inline V v_sub(V a, V b) { return X86(_sub)(a, b); }
static inline V v_mul(V a, V b) { return X86(_mul)(a, b); }
static inline V v_div(V a, V b) { return X86(_div)(a, b); }
static inline V v_fma(V a, V b, V c) { return X86(_fmadd)(a, b, c); }
static inline V v_max(V a, V b) { return X86(_max)(a, b); } /* b where either is NaN */

#if defined(REAL_F64)
static inline A a_zero(void) { return v_set(0); }
static inline A a_add(A a, V v) { return v_add(a, v); }
static inline V a_lanes(A a) { return a; }
#endif

#endif
