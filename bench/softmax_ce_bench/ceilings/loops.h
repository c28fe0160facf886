/* The physical limit: what moving the bytes costs with no arithmetic in between. */
#ifndef SCE_LOOPS_H
#define SCE_LOOPS_H

#include <stddef.h>
#include <stdint.h>

typedef struct {
    const char *name;
    int streams; /* whether stream() has non-temporal stores; without them it is a regular copy */
    uint64_t (*read)(const char *from, ptrdiff_t bytes);            /* XOR of the 64-bit words, so that all are read */
    void (*copy)(char *to, const char *from, ptrdiff_t bytes);      /* reads the lines that it writes, too */
    void (*stream)(char *to, const char *from, ptrdiff_t bytes);    /* writes past the caches */
    void (*update)(char *at, ptrdiff_t bytes, uint64_t mask);       /* XORs each whole 64-bit word with the mask */
} sce_loops;

/* Find the loops that were compiled and that this CPU and system support, the widest first. Return how many there are. */
int sce_loops_here(const sce_loops *found[3]);

#endif
