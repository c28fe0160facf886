/* The row kernels, written once over a vector layer (V, W, real) and compiled for each instruction set and type. Each
 * source that includes this file defines the names of its entries first. */

#include "rows_lanes.h"
#include "rows_parts.h"
#include "rows_shards.h"
#include "strided.h"

void ROWS_NAME(const sce_call *call, ptrdiff_t start, ptrdiff_t stop) {
    if (call->shard)
        shard_rows(call, start, stop);
    else if (call->strided)
        strided_rows(call, start, stop);
    else
        contiguous_rows(call, start, stop);
}

void PART_NAME(const sce_call *call, ptrdiff_t i, enum sce_part part, ptrdiff_t first, ptrdiff_t last) {
    const enum mode mode = mode_of(call);
    if (mode == SOFT)
        row_part(call, i, part, first, last, SOFT);
    else if (mode == LABEL_AND_BASE)
        row_part(call, i, part, first, last, LABEL_AND_BASE);
    else if (mode == LOG_PROBS)
        row_part(call, i, part, first, last, LOG_PROBS);
    else
        row_part(call, i, part, first, last, ONE_LABEL);
}

/* The exp in use, elementwise, so that its error can be measured. */
void EXP_NAME(const void *t, void *e, ptrdiff_t n) {
    for (ptrdiff_t i = 0; i < n; i += W)
        store((real *)e + i, n - i, v_exp(load((const real *)t + i, n - i, 0)));
}

#if defined(KL_NAME)
#include "kl_kernel.h"
#endif
