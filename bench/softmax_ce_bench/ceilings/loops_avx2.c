#if defined(__x86_64__)
#include <immintrin.h>

#define WIDTH 32
#define LOOPS sce_loops_avx2
#define NAME "avx2"
#define TARGET __attribute__((target("avx2")))
#define NON_TEMPORAL(to, vector) _mm256_stream_si256((void *)(to), (__m256i)(vector))
#include "loops_body.h"
#else
typedef int sce_no_avx2; /* an empty translation unit is not C */
#endif
