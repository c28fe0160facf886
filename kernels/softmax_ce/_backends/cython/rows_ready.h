/* Long rows that are transformed chunk by chunk, each just before its maximum is found, so that it is still in L1 when
 * it is summed. The exponentials are always kept, since the transformed logits are not.
 *
 * With a cap, the slopes are held in a ring of chunks: those of the pending row, whose gradient is still to be written,
 * and SCE_AHEAD more. These are the chunk that is being transformed, one step ahead; the first chunk of the row after,
 * which is transformed while a row ends; and the same once more if that row turns out to be skipped. */
#ifndef SOFTMAX_CE_ROWS_READY_H
#define SOFTMAX_CE_ROWS_READY_H

#include "smoothing.h"
#include "transform.h"

typedef struct {
    real *logits[2], *slopes;      /* slopes NULL: no cap, or no gradient */
    real *targets[2];              /* of the pending row and of this one, where they are smoothed */
    ptrdiff_t ring;                /* chunks of slopes */
    ptrdiff_t made;                /* chunks so far */
    ptrdiff_t begun, pending;      /* the first chunk of this row, and of the pending one */
} ready_chunks;

INLINE ready_chunks no_chunks(const sce_call *call) {
    const sce_tiles *tiles = call->tiles;
    ready_chunks ready = {.logits = {tiles->tile, (real *)tiles->tile + SCE_CHUNK + LINE}, .slopes = tiles->slopes};
    ready.targets[0] = tiles->targets;
    ready.targets[1] = ready.targets[0] ? ready.targets[0] + tiles->kept_row : NULL;
    ready.ring = (call->classes + SCE_CHUNK - 1) / SCE_CHUNK + SCE_AHEAD;
    return ready;
}

INLINE real *slopes_of(const ready_chunks *ready, ptrdiff_t chunk) {
    return ready->slopes ? ready->slopes + chunk % ready->ring * SCE_CHUNK : NULL;
}

/* Transform n logits of row i from class j on. */
INLINE void make_ready(ready_chunks *ready, const sce_call *call, ptrdiff_t i, ptrdiff_t j, ptrdiff_t n) {
    ready->made++;
    transform_part(call, i, j, n, ready->logits[ready->made & 1], slopes_of(ready, ready->made));
}

/* The targets of row i, smoothed. Those of the pending row are kept, also if rows in between are skipped. */
INLINE const real *ready_targets(ready_chunks *ready, const sce_call *call, ptrdiff_t i) {
    const real *soft = call->targets ? (const real *)call->targets + i * call->classes : NULL;
    smooth_rows(call, i, i + 1, soft, ready->targets[1], 0);
    return ready->targets[1];
}

/* Find the slopes of chunk k of the pending row: the address is that of the row's first class, were it in one piece. */
INLINE void find_slopes(const ready_chunks *ready, output *out, ptrdiff_t k) {
    const uintptr_t chunk = (uintptr_t)slopes_of(ready, ready->pending + k);
    out->slopes = chunk ? (real *)(chunk - (uintptr_t)(k * SCE_CHUNK) * sizeof(real)) : NULL;
}

/* The gradient that was begun becomes the pending one. */
INLINE void set_pending(ready_chunks *ready, output *out) {
    real *const spare = ready->targets[0];
    ready->targets[0] = ready->targets[1];
    ready->targets[1] = spare;
    ready->pending = ready->begun;
    if (ready->slopes && out->label >= 0)
        out->at_label *= slopes_of(ready, ready->begun + out->label / SCE_CHUNK)[out->label % SCE_CHUNK];
}

#endif
