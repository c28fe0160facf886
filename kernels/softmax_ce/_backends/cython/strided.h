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

#include "formats.h"
#include "rows_lanes.h"

/* Copy n entries, `stride` bytes apart in memory and `step` entries in the tile, or in `bits` if these are 16-bit
 * floats. */
INLINE void copy_strided(char *p, ptrdiff_t stride, real *q, uint16_t *bits, ptrdiff_t step, ptrdiff_t n, int back) {
    for (ptrdiff_t k = 0; k < n; k++) {
        if (bits && back)
            *(uint16_t *)(p + k * stride) = bits[k * step];
        else if (bits)
            bits[k * step] = *(const uint16_t *)(p + k * stride);
        else if (back)
            *(real *)(p + k * stride) = q[k * step];
        else
            q[k * step] = *(const real *)(p + k * stride);
    }
}

/* Copy n entries that are contiguous in both. On the way back, whole lines may be streamed past the caches. */
INLINE void copy_contiguous(char *p, real *q, ptrdiff_t n, int back, enum sce_format format, int stream) {
    const ptrdiff_t item = item_size(format);
    if (back && stream) {
        const ptrdiff_t line = 64 / item, head = (ptrdiff_t)(-(uintptr_t)p & 63) / item;
        if (head + line <= n) {
            ptrdiff_t k = 0;
            for (; k < head; k += W)
                to_memory(p + k * item, head - k < W ? head - k : W, load(q + k, head - k, 0), format);
            for (k = head; k + line <= n; k += line)
                for (ptrdiff_t j = k; j < k + line; j += W)
                    stream_to_memory(p + j * item, v_load(q + j), format);
            p += k * item;
            q += k;
            n -= k;
        }
    }
    ptrdiff_t k = 0;
    for (; k + W <= n; k += W) {
        if (back)
            to_memory(p + k * item, W, v_load(q + k), format);
        else
            v_store(q + k, from_memory(p + k * item, W, format));
    }
    if (k == n)
        return;
    if (n > W)
        k = n - W; /* copy some entries again, rather than part of a vector */
    if (back)
        to_memory(p + k * item, n - k, load(q + k, n - k, 0), format);
    else
        store(q + k, n - k, from_memory(p + k * item, n - k, format));
}

/* Copy and transpose `high` vectors of `wide` entries in memory, both at most W. They are `stride` bytes apart there,
 * and `step` entries apart in the tile. */
INLINE void copy_transposed(char *p, ptrdiff_t stride, real *q, ptrdiff_t step, ptrdiff_t wide, ptrdiff_t high,
                            int back, enum sce_format format) {
    V v[W];
#pragma GCC unroll 16
    for (ptrdiff_t k = 0; k < W; k++)
        v[k] = k >= (back ? wide : high) ? v_set(0)
               : back                    ? load(q + k * step, high, 0)
                                         : from_memory(p + k * stride, wide, format);
    v_transpose(v);
#pragma GCC unroll 16
    for (ptrdiff_t k = 0; k < W; k++) {
        if (k >= (back ? high : wide))
            break;
        if (back)
            to_memory(p + k * stride, wide, v[k], format);
        else
            store(q + k * step, high, v[k]);
    }
}

/* A box of an array, with axes outer rows, inner rows and classes: lengths, strides in bytes, and steps in the tile.
 * `bits` is the tile of 16-bit floats that are copied one by one before or after they are cast. */
typedef struct {
    char *p;
    real *q;
    uint16_t *bits;
    ptrdiff_t n[3], stride[3], step[3];
} box;

/* Cast between the tile and `bits`. */
INLINE void cast_box(const box *b, int back, enum sce_format format) {
    const ptrdiff_t rows = b->n[0] * b->n[1], classes = b->n[2], step = b->step[2];
    if (step == 1)
        copy_contiguous((char *)b->bits, b->q, rows * classes, back, format, 0);
    else
        for (ptrdiff_t j = 0; j < classes; j++)
            copy_contiguous((char *)(b->bits + j * step), b->q + j * step, rows, back, format, 0);
}

INLINE void copy_box(const box *b, int back, enum sce_format format, int stream) {
    const ptrdiff_t item = item_size(format);
    int in_memory = -1, in_tile = -1, closest = 0; /* axes: contiguous in memory, in the tile; innermost otherwise */
    for (int axis = 0; axis < 3; axis++) {
        if (b->stride[axis] == item && b->n[axis] > 1)
            in_memory = axis;
        if (b->step[axis] == 1 && b->n[axis] > 1)
            in_tile = axis;
        const int is_short = b->n[axis] < W, was_short = b->n[closest] < W;
        if (is_short != was_short ? was_short : sce_distance(b->stride[axis]) < sce_distance(b->stride[closest]))
            closest = axis;
    }
    /* Vectors along a short axis would be nearly empty. */
    const int vectors = in_memory >= 0 && in_tile >= 0 && b->n[in_memory] >= W / 2 && b->n[in_tile] >= W / 2;
    const int transposes = vectors && in_memory != in_tile;
    if (format != SCE_REAL && !vectors && back)
        cast_box(b, back, format);
    const int last = vectors ? in_memory : closest, middle = transposes ? in_tile : (last + 1) % 3;
    const int first = 3 - last - middle;
    for (ptrdiff_t i = 0; i < b->n[first]; i++) {
        char *p = b->p + i * b->stride[first];
        real *q = b->q + i * b->step[first];
        const ptrdiff_t high = b->n[middle], wide = b->n[last], stride = b->stride[middle], step = b->step[last];
        if (transposes) {
            for (ptrdiff_t j = 0; j < high; j += W) {
                for (ptrdiff_t k = 0; k < wide; k += W) {
                    char *from = p + j * stride + k * item;
                    real *to = q + k * step + j;
                    if (high - j >= W && wide - k >= W)
                        copy_transposed(from, stride, to, step, W, W, back, format);
                    else
                        copy_transposed(from, stride, to, step, wide - k < W ? wide - k : W,
                                        high - j < W ? high - j : W, back, format);
                }
            }
            continue;
        }
        for (ptrdiff_t j = 0; j < high; j++, p += stride, q += b->step[middle]) {
            /* The next part is too far away for the hardware prefetcher. */
            if (vectors && !(back && stream))
                for (ptrdiff_t k = 0; k < wide * item; k += 64)
                    __builtin_prefetch(p + stride + k, back);
            if (vectors)
                copy_contiguous(p, q, wide, back, format, stream);
            else
                copy_strided(p, b->stride[last], q, format == SCE_REAL ? NULL : b->bits + (q - b->q), step, wide, back);
        }
    }
    if (format != SCE_REAL && !vectors && !back)
        cast_box(b, back, format);
}

/* Set the largest box of at most `count` rows that begins at a row. Return its number of rows. */
INLINE ptrdiff_t box_at(const sce_array *array, ptrdiff_t row, ptrdiff_t count, box *b) {
    const ptrdiff_t *shape = array->shape;
    const ptrdiff_t inner = shape[SCE_ROW_AXES - 1], outer = shape[SCE_ROW_AXES - 2];
    const ptrdiff_t i = row % inner, o = row / inner % outer;
    b->p = array->data;
    for (int axis = SCE_ROW_AXES - 1; axis >= 0; row /= shape[axis--])
        b->p += row % shape[axis] * array->strides[axis];
    b->n[0] = 1;
    b->n[1] = inner - i < count ? inner - i : count;
    if (b->n[1] == inner)
        b->n[0] = outer - o < count / inner ? outer - o : count / inner;
    b->stride[0] = array->strides[SCE_ROW_AXES - 2];
    b->stride[1] = array->strides[SCE_ROW_AXES - 1];
    b->stride[2] = array->class_stride;
    return b->n[0] * b->n[1];
}

/* Copy rows first to last of an array to a tile, or back. `step` is call->column_step. */
INLINE void copy_rows(const sce_array *array, ptrdiff_t first, ptrdiff_t last, ptrdiff_t classes, real *tile,
                      uint16_t *bits, ptrdiff_t step, int stream, int back, enum sce_format format) {
    const ptrdiff_t row_step = step ? 1 : classes, class_step = step ? step : 1;
    if (array->direct && !step) {
        copy_contiguous(array->data + first * classes * item_size(format), tile, (last - first) * classes, back, format,
                      stream);
        return;
    }
    for (ptrdiff_t row = first; row < last;) {
        box b;
        const ptrdiff_t rows = box_at(array, row, last - row, &b);
        b.q = tile + (row - first) * row_step;
        b.bits = bits + (row - first) * row_step;
        b.n[2] = classes;
        b.step[0] = b.n[1] * row_step, b.step[1] = row_step, b.step[2] = class_step;
        copy_box(&b, back, format, stream);
        row += rows;
    }
}

/* One function for each format and direction. */
#define COPY_OF(name, back, format)                                                                                    \
    NOINLINE void name(const sce_array *array, ptrdiff_t first, ptrdiff_t last, ptrdiff_t classes, real *tile,         \
                       uint16_t *bits, ptrdiff_t step, int stream) {                                                   \
        copy_rows(array, first, last, classes, tile, bits, step, stream, back, format);                                \
    }
COPY_OF(load_real, 0, SCE_REAL)
COPY_OF(store_real, 1, SCE_REAL)
#if defined(REAL_F32)
COPY_OF(load_f16, 0, SCE_F16)
COPY_OF(store_f16, 1, SCE_F16)
COPY_OF(load_bf16, 0, SCE_BF16)
COPY_OF(store_bf16, 1, SCE_BF16)
#define BY_FORMAT(direction, format)                                                                                   \
    ((format) == SCE_REAL ? direction##_real : (format) == SCE_F16 ? direction##_f16 : direction##_bf16)
#else
#define BY_FORMAT(direction, format) direction##_real
#endif

/* Whether the row kernels read or write an array in place. */
INLINE int is_direct(const sce_array *array, ptrdiff_t step) {
    return array->direct && array->format == SCE_REAL && !step;
}

#include "transform.h"

static void strided_rows(const sce_call *call, ptrdiff_t start, ptrdiff_t stop) {
    const sce_strided *s = call->strided;
    sce_tiles *tiles = call->tiles;
    const sce_array *x = &s->logits, *t = &s->targets, *g = &s->grad;
    const ptrdiff_t classes = call->classes, step = classes <= LANES && tiles->side_by_side ? tiles->step : 0;
    const int t_direct = is_direct(t, step), changed = is_changed(call->transform);
    real *const slopes = changed && g->data && call->transform->softcap != 0 ? tiles->slopes : NULL;
    const int x_direct = is_direct(x, step) && !changed, g_direct = is_direct(g, step) && !slopes;
    /* What is multiplied by slopes is written where it belongs only then, unless it bypasses the caches. */
    const int g_later = slopes && is_direct(g, step) && !call->stream;
#if defined(REAL_F32)
    if (!call->transform && IN_ROWS(x->format) && x->direct && (g->data == NULL || (g->format == x->format && g->direct)) &&
        classes > LANES && mode_of(call) == ONE_LABEL) {
        sce_call rows = *call;
        rows.logits = x->data;
        rows.grad = g->data;
        (x->format == SCE_F16 ? rows_f16 : rows_bf16)(&rows, start, stop);
        return;
    }
#endif
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
        block.targets = t_direct ? (real *)t->data + first * classes : tiles->targets;
        block.grad = g->data == NULL ? NULL : g_direct ? (real *)g->data + first * classes : tiles->tile;
        if (!g_direct)
            block.stream = 0; /* the tile should stay in the cache */
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
        if (call->transform && call->transform->correct)
            mark_correct(call, first, last, block.logits, step);
        contiguous_rows(&block, 0, last - first);
        if (changed && g->data)
            finish_gradient(call, first, last, block.grad, g_later ? (real *)g->data + first * classes : block.grad, slopes,
                            step);
        if (g->data && !g_direct && !g_later)
            BY_FORMAT(store, g->format)(g, first, last, classes, tiles->tile, tiles->bits, step, call->stream);
    }
}

#endif
