/* The four loops for one vector width: WIDTH bytes, NAME(loop), TARGET, and NON_TEMPORAL(to, vector), which may be
   a plain store. Four vectors a turn: enough loads under way for one core, measured. */

/* The compiler must not make a library call of a loop: memcpy chooses its own kind of stores. */
#define KEEP() __asm__ volatile("" ::: "memory")
#define TURN (4 * WIDTH)

typedef uint64_t NAME(vec) __attribute__((vector_size(WIDTH), aligned(1), may_alias));

TARGET static uint64_t NAME(read)(const char *from, ptrdiff_t bytes) {
    NAME(vec) sum[4] = {{0}};
    uint64_t all = 0, word;
    ptrdiff_t at = 0;
    for (; at + TURN <= bytes; at += TURN)
        for (int k = 0; k < 4; k++)
            sum[k] ^= *(const NAME(vec) *)(from + at + k * WIDTH);
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
static ptrdiff_t NAME(head)(const char *to, ptrdiff_t bytes) {
    ptrdiff_t head = -(uintptr_t)to & (WIDTH - 1);
    return head < bytes ? head : bytes;
}

TARGET static void NAME(copy)(char *to, const char *from, ptrdiff_t bytes) {
    ptrdiff_t at = NAME(head)(to, bytes);
    memcpy(to, from, at);
    for (; at + TURN <= bytes; at += TURN) {
        for (int k = 0; k < 4; k++)
            *(NAME(vec) *)(to + at + k * WIDTH) = *(const NAME(vec) *)(from + at + k * WIDTH);
        KEEP();
    }
    memcpy(to + at, from + at, bytes - at);
}

TARGET static void NAME(stream)(char *to, const char *from, ptrdiff_t bytes) {
    ptrdiff_t at = NAME(head)(to, bytes);
    memcpy(to, from, at);
    for (; at + TURN <= bytes; at += TURN)
        for (int k = 0; k < 4; k++)
            NON_TEMPORAL(to + at + k * WIDTH, *(const NAME(vec) *)(from + at + k * WIDTH));
    FENCE(); /* before another thread is told that the bytes are there */
    memcpy(to + at, from + at, bytes - at);
}

TARGET static void NAME(update)(char *to, ptrdiff_t bytes, uint64_t mask) {
    uint64_t word;
    ptrdiff_t at = 0;
    for (; at + TURN <= bytes; at += TURN)
        for (int k = 0; k < 4; k++)
            *(NAME(vec) *)(to + at + k * WIDTH) ^= mask;
    for (; at + 8 <= bytes; at += 8) {
        memcpy(&word, to + at, 8);
        word ^= mask;
        memcpy(to + at, &word, 8);
    }
}

#undef KEEP
#undef TURN
#undef WIDTH
#undef TARGET
#undef NON_TEMPORAL
#undef FENCE
#undef NAME
