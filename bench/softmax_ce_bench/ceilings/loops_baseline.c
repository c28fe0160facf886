#define WIDTH 16
#define LOOPS sce_loops_baseline
#define TARGET
#if defined(__SSE2__)
#include <emmintrin.h>
#define NAME "sse2"
#define NON_TEMPORAL(to, vector) _mm_stream_si128((void *)(to), (__m128i)(vector))
#else
#define NAME "plain"
#endif
#include "loops_body.h"
