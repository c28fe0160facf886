#if defined(__x86_64__)
#include <immintrin.h>

#define WIDTH 64
#define LOOPS sce_loops_avx512
#define NAME "avx512"
#define TARGET __attribute__((target("avx512f")))
#define NON_TEMPORAL(to, vector) _mm512_stream_si512((void *)(to), (__m512i)(vector))
#include "loops_body.h"
#else
typedef int sce_no_avx512; /* an empty translation unit is not C */
#endif
