/* Copying between an array with any strides and a tile of its rows: see strided.h. */
#ifndef SOFTMAX_CE_BOXES_H
#define SOFTMAX_CE_BOXES_H

#include "formats.h"

/* Copy n entries, `stride` bytes apart in memory and `step` entries in the tile, or in `bits` if these are 16-bit
 * floats. */
INLINE void copy_strided(char *p, ptrdiff_t stride, real *q, uint16_t *bits, ptrdiff_t step, ptrdiff_t n, int back,
                         enum sce_format format) {
    for (ptrdiff_t k = 0; k < n; k++) {
        if (bits && back)
            *(uint16_t *)(p + k * stride) = bits[k * step];
        else if (bits)
            bits[k * step] = *(const uint16_t *)(p + k * stride);
        else if (back && format == SCE_F32)
            *(float *)(p + k * stride) = (float)q[k * step];
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
    if (is_half(format) && !vectors && back)
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
                copy_strided(p, b->stride[last], q, is_half(format) ? b->bits + (q - b->q) : NULL, step, wide, back,
                             format);
        }
    }
    if (is_half(format) && !vectors && !back)
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

/* Set the box of one row. Most arrays have one axis of rows, and need no division. */
INLINE void row_of(const sce_array *array, ptrdiff_t row, box *b) {
    if (array->shape[SCE_ROW_AXES - 2] != 1 || array->shape[SCE_ROW_AXES - 3] != 1 || array->shape[0] != 1) {
        box_at(array, row, 1, b);
        return;
    }
    b->p = array->data + row * array->strides[SCE_ROW_AXES - 1];
    b->stride[2] = array->class_stride;
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
COPY_OF(store_f32, 1, SCE_F32)
#define load_f32 load_real /* never called */
#define BY_FORMAT(direction, format) ((format) == SCE_F32 ? direction##_f32 : direction##_real)
#endif

#endif
