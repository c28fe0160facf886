/* The loops of loops_body.h for every vector width that this processor family has. */
#include "loops.h"

#include <string.h>

#if defined(__x86_64__)
#include <immintrin.h>

#define WIDTH 64
#define NAME(loop) loop##_avx512
#define TARGET __attribute__((target("avx512f")))
#define NON_TEMPORAL(to, vector) _mm512_stream_si512((void *)(to), (__m512i)(vector))
#define FENCE() _mm_sfence()
#include "loops_body.h"

#define WIDTH 32
#define NAME(loop) loop##_avx2
#define TARGET __attribute__((target("avx2")))
#define NON_TEMPORAL(to, vector) _mm256_stream_si256((void *)(to), (__m256i)(vector))
#define FENCE() _mm_sfence()
#include "loops_body.h"
#endif

#define WIDTH 16
#define NAME(loop) loop##_baseline
#define TARGET
#if defined(__SSE2__)
#define NON_TEMPORAL(to, vector) _mm_stream_si128((void *)(to), (__m128i)(vector))
#define FENCE() _mm_sfence()
#else
#define NON_TEMPORAL(to, vector) (*(vec_baseline *)(to) = (vector))
#define FENCE() ((void)0)
#endif
#include "loops_body.h"

#if defined(__SSE2__)
static const sce_loops baseline = {"sse2", 1, read_baseline, copy_baseline, stream_baseline, update_baseline};
#else
static const sce_loops baseline = {"plain", 0, read_baseline, copy_baseline, stream_baseline, update_baseline};
#endif
#if defined(__x86_64__)
static const sce_loops avx2 = {"avx2", 1, read_avx2, copy_avx2, stream_avx2, update_avx2};
static const sce_loops avx512 = {"avx512", 1, read_avx512, copy_avx512, stream_avx512, update_avx512};
#endif

int sce_loops_here(const sce_loops *found[3]) {
    int n = 0;
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f"))
        found[n++] = &avx512;
    if (__builtin_cpu_supports("avx2"))
        found[n++] = &avx2;
#endif
    found[n++] = &baseline;
    return n;
}
