/* Which loops to run: those that were compiled and that the CPU and the system support. */
#include "loops.h"

extern const sce_loops sce_loops_avx512, sce_loops_avx2, sce_loops_baseline;

int sce_loops_here(const sce_loops *found[3]) {
    int n = 0;
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f"))
        found[n++] = &sce_loops_avx512;
    if (__builtin_cpu_supports("avx2"))
        found[n++] = &sce_loops_avx2;
#endif
    found[n++] = &sce_loops_baseline;
    return n;
}
