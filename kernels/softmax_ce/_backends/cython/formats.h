/* Vectors from and to memory: reals, and 16-bit floats, which are cast. */
#ifndef SOFTMAX_CE_FORMATS_H
#define SOFTMAX_CE_FORMATS_H

#include "rows_load.h"
#if defined(REAL_F32)
#include "narrow.h"
#endif

#if defined(REAL_F32)
typedef uint16_t halves __attribute__((vector_size(2 * W)));
typedef uint32_t words __attribute__((vector_size(4 * W)));

/* widen_bf16 and narrow_bf16 for one vector. The compiler does not vectorise a loop over W. */
#if defined(V_BF16)
INLINE V from_bf16(const uint16_t *p) { return v_from_bf16(p); }

INLINE void to_bf16(uint16_t *p, V v) { v_to_bf16(p, v); }
#else
INLINE V from_bf16(const uint16_t *p) {
    halves bits;
    memcpy(&bits, p, sizeof bits);
    const words wide = __builtin_convertvector(bits, words) << 16;
    V v;
    memcpy(&v, &wide, sizeof v);
    return v;
}

INLINE void to_bf16(uint16_t *p, V v) {
    words bits;
    memcpy(&bits, &v, sizeof bits);
    const words rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16, is_nan = (words)((bits & 0x7fffffff) > 0x7f800000);
    const halves narrow = __builtin_convertvector((is_nan & 0x7fc0) | (~is_nan & rounded), halves);
    memcpy(p, &narrow, sizeof narrow);
}
#endif
#endif

/* Load n <= W entries as a vector. */
INLINE V from_memory(const char *p, ptrdiff_t n, enum sce_format format) {
#if defined(REAL_F32)
    if (format != SCE_REAL) {
        uint16_t bits[W] = {0};
        if (n >= W)
            memcpy(bits, p, sizeof bits);
        else
            for (ptrdiff_t k = 0; k < n; k++)
                bits[k] = ((const uint16_t *)p)[k];
        if (format == SCE_BF16)
            return from_bf16(bits);
#if defined(V_HALF)
        return v_from_half(bits);
#else
        uint32_t wide[W]; /* not float: the casts read them as integers */
        widen_f16(bits, wide, W);
        return v_load((const real *)wide);
#endif
    }
#endif
    (void)format;
    return load((const real *)p, n, 0);
}

INLINE void to_memory(char *p, ptrdiff_t n, V v, enum sce_format format) {
#if defined(REAL_F32)
    if (format != SCE_REAL) {
        uint16_t bits[W];
        if (format == SCE_BF16) {
            to_bf16(bits, v);
        } else {
#if defined(V_HALF)
            v_to_half(bits, v);
#else
            uint32_t wide[W];
            v_store((real *)wide, v);
            narrow_f16(wide, bits, W);
#endif
        }
        if (n >= W)
            memcpy(p, bits, sizeof bits);
        else
            for (ptrdiff_t k = 0; k < n; k++)
                ((uint16_t *)p)[k] = bits[k];
        return;
    }
#else
    if (format == SCE_F32) {
        typedef double doubles __attribute__((vector_size(8 * W)));
        typedef float floats __attribute__((vector_size(4 * W)));
        doubles wide;
        memcpy(&wide, &v, sizeof wide);
        const floats narrow = __builtin_convertvector(wide, floats);
        if (n >= W)
            memcpy(p, &narrow, sizeof narrow);
        else
            memcpy(p, &narrow, (size_t)n * sizeof(float));
        return;
    }
#endif
    (void)format;
    store((real *)p, n, v);
}

/* Store a whole vector past the caches, to an address that is a multiple of its size. */
INLINE void stream_to_memory(char *p, V v, enum sce_format format) {
#if defined(REAL_F32)
    if (format != SCE_REAL) {
        uint16_t bits[W];
        to_memory((char *)bits, W, v, format);
#if defined(V_STREAM_HALVES)
        v_stream_halves((uint16_t *)p, bits);
#else
        memcpy(p, bits, sizeof bits);
#endif
        return;
    }
#else
    if (format == SCE_F32) { /* half a vector: not worth an instruction of its own */
        to_memory(p, W, v, format);
        return;
    }
#endif
    (void)format;
    v_stream((real *)p, v);
}

/* Which 16-bit floats the row kernels read and write without a copy. float16 only where there is an instruction for the
 * cast: without one, the cast in every loop would double the time to compile, and take most of the time to run. */
#if defined(V_HALF) && defined(REAL_F32)
#define HAS_F16_ROWS
#define IN_ROWS(format) ((format) != SCE_REAL)
#else
#define IN_ROWS(format) ((format) == SCE_BF16)
#endif

INLINE ptrdiff_t item_size(enum sce_format format) {
    return format == SCE_REAL  ? (ptrdiff_t)sizeof(real)
           : format == SCE_F32 ? (ptrdiff_t)sizeof(float)
                               : (ptrdiff_t)sizeof(uint16_t);
}

INLINE int is_half(enum sce_format format) { return format == SCE_F16 || format == SCE_BF16; }

/* The address of entry j of a row, whose type is nominal for 16-bit formats. */
INLINE real *entry(const void *row, ptrdiff_t j, enum sce_format format) {
    return (real *)((char *)(uintptr_t)row + j * item_size(format));
}

/* W entries from entry j of a row on. Only n exist; the rest is `fill`. */
INLINE V load_entries(const real *row, ptrdiff_t j, ptrdiff_t n, real fill, enum sce_format format) {
    if (format == SCE_REAL)
        return load(row + j, n, fill);
    const V v = from_memory((const char *)entry(row, j, format), n < W ? n : W, format);
    if (n >= W)
        return v;
    real lanes[W];
    v_store(lanes, v);
    for (ptrdiff_t k = n; k < W; k++)
        lanes[k] = fill;
    return v_load(lanes);
}

/* Load 2 W entries in any order, for a maximum. Either half of W words is bfloat16 once the other is masked or shifted
 * out, which takes fewer instructions than widening. */
INLINE void any_order(const real *row, ptrdiff_t j, V *one, V *other, enum sce_format format) {
#if defined(REAL_F32)
    if (format == SCE_BF16) {
        words bits;
        memcpy(&bits, entry(row, j, format), sizeof bits);
        const words lower = bits << 16, upper = bits & 0xffff0000;
        memcpy(one, &lower, sizeof lower);
        memcpy(other, &upper, sizeof upper);
        return;
    }
#endif
    *one = load_entries(row, j, W, 0, format);
    *other = load_entries(row, j + W, W, 0, format);
}

/* Store two vectors, one after the other. For bfloat16, they must not hold a NaN. */
INLINE void write_two(char *p, V first, V second, int stream, enum sce_format format) {
#if defined(V_BF16) && defined(REAL_F32)
    if (format == SCE_BF16) {
        v_numbers_to_bf16((uint16_t *)p, first, second, stream);
        return;
    }
#endif
    const ptrdiff_t size = W * item_size(format);
    if (stream) {
        stream_to_memory(p, first, format);
        stream_to_memory(p + size, second, format);
    } else {
        to_memory(p, W, first, format);
        to_memory(p + size, W, second, format);
    }
}

INLINE real entry_at(const real *row, ptrdiff_t j, enum sce_format format) {
    real lanes[W];
    v_store(lanes, load_entries(row, j, 1, 0, format));
    return lanes[0];
}

#endif
