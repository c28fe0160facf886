/* The diagonal of the Hessian of one row of many classes, after its sums. */
#ifndef SOFTMAX_CE_ROWS_HESSIAN_H
#define SOFTMAX_CE_ROWS_HESSIAN_H

#include "rows_sums.h"

/* How a chunk of the Hessian is computed from raised exponentials: scale * e * (1 - p) + z_scale * p * p. */
typedef struct {
    V top;         /* what the chunk's exponentials are relative to */
    V to_p;        /* p = to_p * e */
    V rest;        /* 1 - p at the row's maximum */
    V scale;       /* gain * (a + 2 z lse) / s, for the chunk */
    V z_scale;     /* gain * 2 z */
    int is_small;  /* as in `output` */
    int has_z;     /* whether there is a z-loss */
} hessian_scales;

/* The Hessian of W classes. At the maximum, 1 - p is the share of the others; elsewhere p <= 1/2, and 1 - p does not
 * cancel. */
INLINE V hessian_of(const hessian_scales *h, V e, int has_top) {
    V others = v_fma(e, v_sub(v_set(0), h->to_p), v_set(1));
    if (has_top)
        others = v_blend(v_eq(e, v_set(1 / LOWER)), others, h->rest);
    const V lower = v_set(LOWER), zero = v_set(0);
    V value = h->is_small ? v_fma(v_mul(e, h->scale), lower, zero) : v_fma(e, h->scale, zero);
    value = v_mul(value, others);
    const V p = v_fma(e, h->to_p, zero);
    return h->has_z ? v_fma(v_mul(p, h->z_scale), p, value) : value;
}

/* Write n classes from class j of a chunk on, at most W. `from` holds their exponentials if kept, else their logits. */
INLINE void put_hessian(const hessian_scales *h, const real *from, real *to, ptrdiff_t j, ptrdiff_t n, int is_kept,
                        int has_top, int stream) {
    const V read = load(from + j, n, is_kept ? 0 : (real)-INFINITY);
    const V value = hessian_of(h, is_kept ? read : v_exp_raised(v_sub(read, h->top)), has_top);
    if (n >= W && stream)
        v_stream(to + j, value);
    else
        store(to + j, n, value);
}

/* Write the n classes of a chunk. */
INLINE void write_hessian(const hessian_scales *scales, const real *from, real *to, ptrdiff_t n, int is_kept,
                          int has_top, int stream) {
    const hessian_scales h = *scales;
    const ptrdiff_t lane = (ptrdiff_t)((uintptr_t)to / sizeof(real) % W);
    ptrdiff_t j = 0;
    if (stream && lane) { /* streaming stores need an aligned address */
        j = W - lane < n ? W - lane : n;
        put_hessian(&h, from, to, 0, j, is_kept, has_top, 0);
    }
    for (; j + W <= n; j += W)
        put_hessian(&h, from, to, j, W, is_kept, has_top, stream);
    if (j < n)
        put_hessian(&h, from, to, j, n - j, is_kept, has_top, 0);
}

/* Write row i, whose sums are in `row` and `chunks`. `e` holds its exponentials, NULL if they were not kept. `total` is
 * a, the sum of its targets. */
NOINLINE void hessian_of_row(const sce_call *call, ptrdiff_t i, const sce_sums *row, const sce_chunk *chunks,
                             const real *e, double total) {
    const ptrdiff_t classes = call->classes;
    const real *x = (const real *)call->logits + i * classes;
    real *to = (real *)call->hess + i * classes;
    const double gain = call->row_weight[i * call->row_weight_step] * call->upstream[i * call->upstream_step];
    const double s = 1 + row->rest, lse = row->top + row->log_sum, z = 2 * call->z_loss;
    hessian_scales h = {.rest = v_set((real)(row->rest / s)), .has_z = call->z_loss != 0};
    h.z_scale = v_set((real)(gain * z));
    for (ptrdiff_t k = 0, j = 0; j < classes; k++, j += SCE_CHUNK) {
        const ptrdiff_t n = classes - j < SCE_CHUNK ? classes - j : SCE_CHUNK;
        const double rescale = chunks[k].rescale;
        const real scale = (real)(gain * (h.has_z ? total + z * lse : total) / s * rescale);
        h.is_small = scale > (real)-0x1p-50 && scale < (real)0x1p-50;
        h.scale = v_set(h.is_small ? scale : scale * LOWER);
        h.to_p = v_set((real)(rescale / s) * LOWER);
        h.top = v_set(chunks[k].top > -INFINITY ? (real)chunks[k].top : 0);
        if (e)
            write_hessian(&h, e + j, to + j, n, 1, rescale == 1, call->stream_hess);
        else
            write_hessian(&h, x + j, to + j, n, 0, rescale == 1, call->stream_hess);
    }
}

#endif
