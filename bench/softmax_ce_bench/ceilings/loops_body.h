/* The four loops for one vector width. Each source that includes this file defines WIDTH in bytes, the entry's LOOPS, NAME
 * and TARGET, and, where there are non-temporal stores, NON_TEMPORAL(to, vector). Four vectors a turn: measured, these are
 * enough loads in flight for one core. */
#include "loops.h"

#include <string.h>

/* Keeps the compiler from replacing a loop by a call of memcpy, which chooses its own kind of stores. */
#define KEEP() __asm__ volatile("" ::: "memory")
#define TURN (4 * WIDTH)

typedef uint64_t vec __attribute__((vector_size(WIDTH), aligned(1), may_alias));

#if defined(NON_TEMPORAL)
#define STREAMS 1
#define FENCE() _mm_sfence()
#else
#define STREAMS 0
#define NON_TEMPORAL(to, vector) (*(vec *)(to) = (vector))
#define FENCE() ((void)0)
#endif

TARGET static uint64_t read_words(const char *from, ptrdiff_t bytes) {
    vec sum[4] = {{0}};
    uint64_t all = 0, word;
    ptrdiff_t at = 0;
    for (; at + TURN <= bytes; at += TURN)
        for (int k = 0; k < 4; k++)
            sum[k] ^= *(const vec *)(from + at + k * WIDTH);
    sum[0] ^= sum[1] ^ sum[2] ^ sum[3];
    for (int k = 0; k < WIDTH / 8; k++)
        all ^= sum[0][k];
    for (; at < bytes; at += 8) {
        word = 0;
        memcpy(&word, from + at, bytes - at < 8 ? bytes - at : 8);
        all ^= word;
    }
    return all;
}

/* Bytes until `to` is aligned: a store then never touches two lines. */
static ptrdiff_t head(const char *to, ptrdiff_t bytes) {
    const ptrdiff_t before = -(uintptr_t)to & (WIDTH - 1);
    return before < bytes ? before : bytes;
}

TARGET static void copy(char *to, const char *from, ptrdiff_t bytes) {
    ptrdiff_t at = head(to, bytes);
    memcpy(to, from, at);
    for (; at + TURN <= bytes; at += TURN) {
        for (int k = 0; k < 4; k++)
            *(vec *)(to + at + k * WIDTH) = *(const vec *)(from + at + k * WIDTH);
        KEEP();
    }
    memcpy(to + at, from + at, bytes - at);
}

TARGET static void stream(char *to, const char *from, ptrdiff_t bytes) {
    ptrdiff_t at = head(to, bytes);
    memcpy(to, from, at);
    for (; at + TURN <= bytes; at += TURN)
        for (int k = 0; k < 4; k++)
            NON_TEMPORAL(to + at + k * WIDTH, *(const vec *)(from + at + k * WIDTH));
    FENCE(); /* before another thread is told that the bytes are there */
    memcpy(to + at, from + at, bytes - at);
}

TARGET static void update(char *to, ptrdiff_t bytes, uint64_t mask) {
    uint64_t word;
    ptrdiff_t at = 0;
    for (; at + TURN <= bytes; at += TURN)
        for (int k = 0; k < 4; k++)
            *(vec *)(to + at + k * WIDTH) ^= mask;
    for (; at + 8 <= bytes; at += 8) {
        memcpy(&word, to + at, 8);
        word ^= mask;
        memcpy(to + at, &word, 8);
    }
}

const sce_loops LOOPS = {NAME, STREAMS, read_words, copy, stream, update};
