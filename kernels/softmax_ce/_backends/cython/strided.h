/* Arrays with any strides: another class axis, steps, 16-bit floats.
 *
 * A tile of rows at a time is copied to a scratch, computed there by the kernels for contiguous rows, and its gradient
 * copied back. Where there are few classes and neighbouring rows are close in memory, the copy is class by class, so
 * that rows lie side by side in the tile as they do in the lanes of rows_lanes.h; else it is row by row. A row's
 * results do not depend on that.
 *
 * Long contiguous rows of 16 bits with hard labels are not copied: the row kernels cast them (float16 where there is an
 * instruction for it). */
#ifndef SOFTMAX_CE_STRIDED_H
#define SOFTMAX_CE_STRIDED_H

#include "boxes.h"
#include "rows_lanes.h"
#include "transform.h"

/* Whether the row kernels read or write an array in place. */
INLINE int is_direct(const sce_array *array, ptrdiff_t step) {
    return array->direct && array->format == SCE_REAL && !step;
}

/* Compute long rows that are transformed chunk by chunk. */
static void rows_by_chunk(const sce_call *call, ptrdiff_t start, ptrdiff_t stop) {
    const sce_strided *s = call->strided;
    const enum mode mode = call->transform->spread || s->targets.data ? SOFT : mode_of(call);
    sce_call rows = *call;
    rows.strided = NULL;
    rows.logits = s->logits.data;
    rows.targets = s->targets.data;
    rows.grad = s->grad.data;
    rows.correct = call->transform->correct;
    (sce_is_changed(call->transform) ? changed_rows : rows_one_by_one)(&rows, start, stop, mode);
    if (call->transform->where.data && rows.grad && rows.loss)
        clear_left_out(call, start, stop, (real *)rows.grad + start * call->classes, 0);
}

static void strided_rows(const sce_call *call, ptrdiff_t start, ptrdiff_t stop) {
    const sce_strided *s = call->strided;
    sce_tiles *tiles = call->tiles;
    const sce_array *x = &s->logits, *t = &s->targets, *g = &s->grad, *h = &s->hess;
    const ptrdiff_t classes = call->classes, step = classes <= LANES && tiles->side_by_side ? tiles->step : 0;
    const int smoothed = call->transform && call->transform->spread;
    const int t_direct = is_direct(t, step), h_direct = is_direct(h, step), changed = sce_is_changed(call->transform);
    real *const slopes = changed && g->data && call->transform->softcap != 0 ? tiles->slopes : NULL;
    const int x_direct = is_direct(x, step) && !changed && h->data != x->data;
    const int g_direct = is_direct(g, step) && !slopes;
    /* What is multiplied by slopes is written where it belongs only then, unless it bypasses the caches. */
    const int g_later = slopes && is_direct(g, step) && !call->stream;
#if defined(REAL_F32)
    if (!call->transform && !h->data && IN_ROWS(x->format) && x->direct &&
        (g->data == NULL || (g->format == x->format && g->direct)) && classes > LANES && mode_of(call) == ONE_LABEL) {
        sce_call rows = *call;
        rows.logits = x->data;
        rows.grad = g->data;
        (x->format == SCE_F16 ? rows_f16 : rows_bf16)(&rows, start, stop);
        return;
    }
#endif
    if (sce_is_by_chunk(call)) {
        rows_by_chunk(call, start, stop);
        return;
    }
    for (ptrdiff_t first = start, last; first < stop; first = last) {
        const ptrdiff_t offset = first % tiles->span, past = (offset + tiles->phase) % tiles->rows;
        last = first + tiles->rows - past;
        last = last < first - offset + tiles->span ? last : first - offset + tiles->span;
        last = last < stop ? last : stop;
        sce_call block = call_from(call, first);
        block.strided = NULL;
        block.transform = NULL;
        block.column_step = step;
        block.logits = x_direct ? (real *)x->data + first * classes : tiles->tile;
        block.correct = call->transform && call->transform->correct ? call->transform->correct + first : NULL;
        block.targets = t_direct && !smoothed ? (real *)t->data + first * classes : tiles->targets;
        block.grad = g->data == NULL ? NULL : g_direct ? (real *)g->data + first * classes : tiles->tile;
        if (!g_direct)
            block.stream = 0; /* the tile should stay in the cache */
        block.hess = h->data == NULL ? NULL : h_direct ? (real *)h->data + first * classes : tiles->hess;
        block.stream_hess = h_direct && call->stream_hess;
        tiles->next_tile = NULL;
        if (last < stop && x->strides[SCE_ROW_AXES - 1] == item_size(x->format)) {
            box next;
            box_at(x, last, 1, &next);
            tiles->next_tile = next.p;
            tiles->next_class_stride = x->class_stride;
            tiles->next_item = item_size(x->format);
        }
        const real *from = changed && is_direct(x, step) ? (real *)x->data + first * classes : tiles->tile;
        if (from == tiles->tile && !x_direct)
            BY_FORMAT(load, x->format)(x, first, last, classes, tiles->tile, tiles->bits, step, 0);
        if (t->data && !t_direct)
            BY_FORMAT(load, t->format)(t, first, last, classes, tiles->targets, tiles->bits, step, 0);
        if (changed)
            transform_rows(call, first, last, from, tiles->tile, slopes, step);
        if (smoothed) {
            const real *soft = t_direct ? (real *)t->data + first * classes : t->data ? tiles->targets : NULL;
            smooth_rows(call, first, last, soft, tiles->targets, step);
        }
        contiguous_rows(&block, 0, last - first);
        if (h->data && !h_direct)
            BY_FORMAT(store, h->format)(h, first, last, classes, tiles->hess, tiles->bits, step, call->stream_hess);
        if (changed && g->data) {
            real *to = g_later ? (real *)g->data + first * classes : block.grad;
            finish_gradient(call, first, last, block.grad, to, slopes, step);
        }
        if (g->data && !g_direct && !g_later)
            BY_FORMAT(store, g->format)(g, first, last, classes, tiles->tile, tiles->bits, step, call->stream);
    }
}

#endif
