/* Which instruction set to run, and the scratch of a call. */
#include "rows.h"

#if defined(__x86_64__) && !defined(SCE_BASELINE_ONLY) /* a test defines this and compiles nothing else */
#define SCE_X86
#include <cpuid.h>
#endif

#include <stdlib.h>
#include <string.h>

#define DECLARE(isa)                                                                                                   \
    void sce_rows_##isa##_f32(const sce_call *, ptrdiff_t, ptrdiff_t);                                                 \
    void sce_rows_##isa##_f64(const sce_call *, ptrdiff_t, ptrdiff_t);                                                 \
    void sce_part_##isa##_f32(const sce_call *, ptrdiff_t, enum sce_part, ptrdiff_t, ptrdiff_t);                       \
    void sce_part_##isa##_f64(const sce_call *, ptrdiff_t, enum sce_part, ptrdiff_t, ptrdiff_t);                       \
    void sce_exp_##isa##_f32(const void *, void *, ptrdiff_t);                                                         \
    void sce_exp_##isa##_f64(const void *, void *, ptrdiff_t);                                                         \
    void sce_kl_##isa(const sce_kl_call *, ptrdiff_t, ptrdiff_t);                                                      \
    extern const sce_casts sce_casts_##isa;
#define ENTRY(isa, needs)                                                                                              \
    {#isa,                 sce_rows_##isa##_f32, sce_rows_##isa##_f64, sce_part_##isa##_f32,                           \
     sce_part_##isa##_f64, sce_exp_##isa##_f32,  sce_exp_##isa##_f64,  &sce_casts_##isa,     needs,                            \
     sce_kl_##isa},

#if defined(SCE_X86)
DECLARE(avx512)
DECLARE(avx2)
#endif
DECLARE(baseline)

/* Extensions of an x86 CPU, a bit each. */
enum { AVX2 = 1, FMA = 2, F16C = 4, AVX512F = 8, AVX512DQ = 16, AVX512VL = 32, AVX512BW = 64 };

/* The instruction sets, best first, and the extensions that each needs. The baseline runs everywhere. */
static const sce_isa table[] = {
#if defined(SCE_X86)
    ENTRY(avx512, AVX512F | AVX512DQ | AVX512VL | AVX512BW | AVX2 | FMA)
    ENTRY(avx2, AVX2 | FMA | F16C)
#endif
    ENTRY(baseline, 0)
};

/* The extensions that this CPU has and that the system supports: the compiler's own test asks the CPU, and through
 * XGETBV whether the system saves the wide registers. */
static unsigned extensions(void) {
    unsigned found = 0;
#if defined(SCE_X86)
    __builtin_cpu_init();
    found |= __builtin_cpu_supports("avx2") ? AVX2 : 0;
    found |= __builtin_cpu_supports("fma") ? FMA : 0;
    found |= __builtin_cpu_supports("avx512f") ? AVX512F : 0;
    found |= __builtin_cpu_supports("avx512dq") ? AVX512DQ : 0;
    found |= __builtin_cpu_supports("avx512vl") ? AVX512VL : 0;
    found |= __builtin_cpu_supports("avx512bw") ? AVX512BW : 0;
    /* CPUID leaf 1, ECX bit 29: the compiler's test knows F16C only since gcc 11. */
    unsigned a, b, c = 0, d;
    found |= __get_cpuid(1, &a, &b, &c, &d) && (c >> 29 & 1) ? F16C : 0;
#endif
    return found;
}

static int runs_here(const sce_isa *isa) { return (isa->needs & ~extensions()) == 0; }

const sce_isa *sce_select(const char *name) {
    for (size_t i = 0; i < sizeof table / sizeof *table; i++)
        if ((name == NULL || strcmp(name, table[i].name) == 0) && runs_here(&table[i]))
            return &table[i];
    return NULL;
}

ptrdiff_t sce_supported(const char **names, ptrdiff_t capacity) {
    ptrdiff_t count = 0;
    for (size_t i = 0; i < sizeof table / sizeof *table && count < capacity; i++)
        if (runs_here(&table[i]))
            names[count++] = table[i].name;
    return count;
}

int sce_run(sce_rows rows, sce_call *call, ptrdiff_t start, ptrdiff_t stop, ptrdiff_t itemsize) {
    if (start >= stop)
        return 0;
    sce_chunk few[2 * 16];
    char on_stack[SCE_ON_STACK + 2 * SCE_LINE];
    const ptrdiff_t bytes = call->classes * itemsize;
    const ptrdiff_t chunks = call->shard ? call->shard->n_chunks : (call->classes + SCE_CHUNK - 1) / SCE_CHUNK;
    const int by_chunk = call->strided && sce_is_by_chunk(call); /* the logits are not there to compute them again */
    const int is_kept = (call->grad || call->hess) && !call->log_output && (by_chunk || bytes <= call->keep);
    /* Whole vectors are written, beyond the last class too. */
    char *kept = is_kept ? (bytes <= SCE_ON_STACK ? on_stack : malloc((size_t)bytes + 2 * SCE_LINE)) : NULL;
    call->exps = is_kept ? kept + (-(uintptr_t)kept & (SCE_LINE - 1)) : NULL;
    call->chunks = chunks <= 16 ? few : malloc(2 * (size_t)chunks * sizeof *few);
    sce_tiles *const tiles = call->strided && !call->tiles ? sce_new_tiles(call) : NULL;
    const int failed = call->chunks == NULL || (is_kept && kept == NULL) || (call->strided && !call->tiles && !tiles);
    if (tiles)
        call->tiles = tiles;
    if (!failed)
        rows(call, start, stop);
    if (tiles) {
        free(tiles);
        call->tiles = NULL;
    }
    if (call->chunks != few)
        free(call->chunks);
    if (kept != on_stack)
        free(kept);
    return failed ? -1 : 0;
}
