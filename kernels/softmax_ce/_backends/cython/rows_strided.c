/* How strided rows are cut into tiles. This is the same for every instruction set. */
#include "rows.h"

#include <stdlib.h>

/* Tiles begin at multiples of this many entries, or where an axis ends. */
#define ALIGNED 16

static int side_by_side(const sce_array *array) {
    for (int axis = 0; axis < SCE_ROW_AXES; axis++)
        if (array->shape[axis] > 1 && sce_distance(array->strides[axis]) < sce_distance(array->class_stride))
            return 1;
    return 0;
}

/* How many rows after the beginning of a cache line the gradient begins, or else the logits. */
static ptrdiff_t past_a_line(const sce_strided *s, int axis) {
    const sce_array *array = s->grad.data ? &s->grad : &s->logits;
    const ptrdiff_t stride = array->strides[axis];
    return stride > 0 && SCE_LINE % stride == 0 ? (ptrdiff_t)((uintptr_t)array->data % SCE_LINE) / stride : 0;
}

/* Set the rows of a tile, and the rows after which the cut starts over: whole inner axes, and a share of the next. */
static void cut(const sce_strided *s, ptrdiff_t classes, sce_tiles *tiles) {
    const sce_array *x = &s->logits;
    const ptrdiff_t row = classes * s->itemsize;
    tiles->side_by_side = side_by_side(x);
    ptrdiff_t most = (tiles->side_by_side ? SCE_TILE_BESIDE : SCE_TILE) / row, unit = 1;
    if (tiles->side_by_side) {
        const ptrdiff_t line = SCE_LINE / (x->format == SCE_REAL ? s->itemsize : 2);
        if (most < SCE_TILE_LINES * line && SCE_TILE_LINES * line <= SCE_TILE_OF_LINES / row)
            most = SCE_TILE_LINES * line;
        else if (most < line && line <= SCE_LARGEST_TILE / row)
            most = line;
    }
    if (most < 1)
        most = 1;
    tiles->phase = 0;
    for (int axis = SCE_ROW_AXES - 1; axis >= 0; axis--) {
        const ptrdiff_t length = x->shape[axis];
        ptrdiff_t fit = most / unit;
        if (length > fit) {
            const int aligned = unit == 1 && fit >= ALIGNED;
            if (aligned)
                fit -= fit % ALIGNED;
            const ptrdiff_t pieces = (length + fit - 1) / fit;
            ptrdiff_t share = (length + pieces - 1) / pieces;
            if (aligned) {
                share = (share + ALIGNED - 1) / ALIGNED * ALIGNED;
                tiles->phase = past_a_line(s, axis) % share;
            }
            tiles->rows = unit * share;
            tiles->span = unit * length;
            return;
        }
        unit *= length;
    }
    tiles->rows = tiles->span = unit;
}

/* The scratch of long rows that are transformed chunk by chunk: two chunks of logits, as many rows of targets if these
 * are smoothed, and with a cap, the slopes of a row and of SCE_AHEAD more chunks. */
static sce_tiles *new_chunks(const sce_call *call) {
    const ptrdiff_t chunk = SCE_CHUNK + SCE_LINE / call->strided->itemsize, size = call->strided->itemsize;
    const ptrdiff_t chunks = (call->classes + SCE_CHUNK - 1) / SCE_CHUNK;
    const ptrdiff_t kept = SCE_KEPT_ROW_BYTES(call->classes, size);
    const int capped = call->transform->softcap != 0 && call->grad, smoothed = call->transform->spread != NULL;
    const ptrdiff_t slopes = capped ? (chunks + SCE_AHEAD) * SCE_CHUNK : 0;
    const ptrdiff_t bytes = (2 * chunk + slopes) * size + (smoothed ? 2 * kept : 0);
    sce_tiles *made = malloc(sizeof *made + SCE_LINE + (size_t)bytes);
    if (made == NULL)
        return NULL;
    *made = (sce_tiles){.kept_row = kept / size};
    char *first = (char *)(made + 1);
    made->tile = first + (-(uintptr_t)first & (SCE_LINE - 1));
    made->slopes = capped ? (char *)made->tile + 2 * chunk * size : NULL;
    made->targets = smoothed ? (char *)made->tile + (2 * chunk + slopes) * size : NULL;
    return made;
}

sce_tiles *sce_new_tiles(const sce_call *call) {
    const sce_strided *s = call->strided;
    sce_tiles tiles = {0};
    if (sce_is_by_chunk(call))
        return new_chunks(call);
    cut(s, call->classes, &tiles);
    /* An odd number of cache lines from class to class: with a power of two all would fall into a few sets of the
     * cache. */
    const ptrdiff_t line = SCE_LINE / s->itemsize;
    tiles.step = ((tiles.rows + line - 1) / line | 1) * line;
    const size_t entries = (size_t)((tiles.side_by_side ? tiles.step : tiles.rows) * call->classes);
    const size_t bytes = (entries * (size_t)s->itemsize + SCE_LINE - 1) / SCE_LINE * SCE_LINE;
    const int halves = s->logits.format != SCE_REAL || s->targets.format != SCE_REAL || s->grad.format != SCE_REAL ||
                       s->hess.format != SCE_REAL;
    const int capped = call->transform && call->transform->softcap != 0 && call->grad;
    const int targets = s->targets.data || (call->transform && call->transform->spread);
    const size_t more = 1 + (size_t)targets + (size_t)capped + (s->hess.data != NULL);
    sce_tiles *made = malloc(sizeof tiles + SCE_LINE + bytes * more + (halves ? entries * sizeof(uint16_t) : 0));
    if (made == NULL)
        return NULL;
    char *first = (char *)(made + 1);
    tiles.tile = first + (-(uintptr_t)first & (SCE_LINE - 1));
    tiles.targets = targets ? (char *)tiles.tile + bytes : NULL;
    tiles.slopes = capped ? (char *)tiles.tile + bytes * (more - 1) : NULL;
    tiles.hess = s->hess.data ? (char *)tiles.tile + bytes * (more - 1 - (size_t)capped) : NULL;
    tiles.bits = (uint16_t *)((char *)tiles.tile + bytes * more);
    *made = tiles;
    return made;
}
