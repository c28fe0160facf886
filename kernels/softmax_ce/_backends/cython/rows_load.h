/* Reading and writing vectors and parts of vectors, and the row's targets T. */
#ifndef SOFTMAX_CE_ROWS_LOAD_H
#define SOFTMAX_CE_ROWS_LOAD_H

#define INLINE static inline __attribute__((always_inline))
#define NOINLINE static __attribute__((noinline))

/* Whatever the width of the vectors, sums run over the LINE lanes of a cache line, which is LINE_VECTORS vectors, and a
 * block has UNROLL lines. So a row's bits are the same on every instruction set that has the same exp. */
#define LINE ((ptrdiff_t)(64 / sizeof(real)))
#define LINE_VECTORS (64 / (W * (int)sizeof(real)))
#define UNROLL 8
#define BLOCK (UNROLL * LINE)
#define GROUP 2 /* vectors whose exponentials are computed together */

/* What T is made of. It is a constant wherever it is used, so that the compiler specialises each function. LOG_PROBS
 * has no T: log-probabilities are written in place of a gradient. */
enum mode { ONE_LABEL, LABEL_AND_BASE, SOFT, LOG_PROBS };

typedef struct {
    const real *soft;  /* SOFT: the row's targets */
    const real *scale; /* SOFT: by class, or one for all */
    ptrdiff_t scale_step;
    const real *base; /* by class, or one for all; NULL means zero */
    ptrdiff_t base_step;
} target_row;

static const real lane_number[] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};

INLINE V load(const real *p, ptrdiff_t n, real fill) {
    return n >= W ? v_load(p) : v_load_first(p, n, v_set(fill));
}

INLINE void store(real *p, ptrdiff_t n, V v) {
    if (n >= W)
        v_store(p, v);
    else
        v_store_first(p, n, v);
}

/* `others` with v in lane `at`, which may be out of range. */
INLINE V with_lane(V others, ptrdiff_t at, V v) {
    return at < 0 || at >= W ? others : v_blend(v_eq(v_load(lane_number), v_set((real)at)), others, v);
}

INLINE V by_class(const real *p, ptrdiff_t step, ptrdiff_t j, ptrdiff_t n) {
    if (step)
        return load(p + j, n, 0);
    return n >= W ? v_set(*p) : v_keep_first(n, v_set(*p)); /* a lane without a class has no mass */
}

/* T at the W classes from j on, of which n exist. */
INLINE V target_at(const target_row *t, enum mode mode, ptrdiff_t j, ptrdiff_t n) {
    if (mode == LABEL_AND_BASE)
        return by_class(t->base, t->base_step, j, n);
    V v = v_mul(load(t->soft + j, n, 0), by_class(t->scale, t->scale_step, j, n));
    return t->base ? v_add(v, by_class(t->base, t->base_step, j, n)) : v;
}

#endif
