/* The second step of a row: its gradient, written a few vectors at a time, to the cache or past it. */
#ifndef SOFTMAX_CE_ROWS_OUTPUT_H
#define SOFTMAX_CE_ROWS_OUTPUT_H

#include "exp.h"
#include "formats.h"

/* The pending row: its gradient is written from class j to the end of a chunk. The gradient is scale * exp(x - top);
 * with more than one target it is gain * (that - T), which is exactly 0 for a single class; the label has a value of
 * its own. For LOG_PROBS, (x - top) - log_sum is written. */
typedef struct {
    real *grad;       /* NULL: no row is pending */
    const real *from; /* the exponentials if they were kept, else the logits in the format of the gradient */
    int is_kept;
    target_row t;
    ptrdiff_t j, begin, end, classes; /* of the chunk */
    ptrdiff_t label;                  /* -1: none */
    real at_label;
    double share;  /* scale of an exponential that is relative to the row's maximum */
    V scale, top;  /* of the chunk; for LOG_PROBS, the row's log_sum and top */
    int is_small;  /* scale * LOWER might be subnormal: multiply by one after the other */
    V gain;
    const real *slopes; /* what the gradient is multiplied by, class by class; NULL: nothing. at_label already is. */
    /* Streamed output bypasses the caches in whole aligned vectors. The beginning of a vector that the row ends in is
     * buffered for the next row: two stores to a line that is not in the cache would each cost an access to memory. */
    int stream;
    real *line;          /* address of the buffered vector; NULL: none */
    ptrdiff_t low, high; /* which of its lanes are filled */
    real part[W] __attribute__((aligned(64)));
} output;

INLINE V value_at(const output *out, ptrdiff_t j, ptrdiff_t n, enum mode mode, int is_kept, int is_small,
                  enum sce_format format) {
    V e = load_entries(out->from, j, n, 0, is_kept ? SCE_REAL : format);
    if (mode == LOG_PROBS)
        return v_sub(v_sub(e, out->top), out->scale);
    if (!is_kept)
        e = v_exp_raised(v_sub(e, out->top));
    /* Fused for the reason given at v_exp. */
    const V value = is_small ? v_fma(v_mul(e, out->scale), v_set(LOWER), v_set(0)) : v_fma(e, out->scale, v_set(0));
    const V own = mode == ONE_LABEL ? value : v_mul(out->gain, v_sub(value, target_at(&out->t, mode, j, n)));
    return out->slopes ? v_mul(own, load(out->slopes + j, n, 0)) : own;
}

/* Write n <= W entries from class j on to p, in the format `to`. */
INLINE void put(const output *out, real *p, ptrdiff_t j, ptrdiff_t n, enum mode mode, enum sce_format format,
                enum sce_format to) {
    const V value = value_at(out, j, n, mode, out->is_kept, out->is_small, format);
    to_memory((char *)p, n, with_lane(value, out->label - j, v_set(out->at_label)), to);
}

INLINE void flush_line(output *out, enum sce_format format) {
    if (out->line && out->low == 0 && out->high == W)
        stream_to_memory((char *)out->line, v_load(out->part), format);
    else if (out->line && format == SCE_REAL)
        memcpy(out->line + out->low, out->part + out->low, (size_t)(out->high - out->low) * sizeof(real));
    else if (out->line)
        for (ptrdiff_t k = out->low; k < out->high; k++)
            to_memory((char *)entry(out->line, k, format), 1, v_set(out->part[k]), format);
    out->line = NULL;
}

/* Which lane of an aligned vector this address is. */
INLINE ptrdiff_t lane_of(const real *p, enum sce_format format) {
    return (ptrdiff_t)((uintptr_t)p / (uintptr_t)item_size(format) % W);
}

INLINE void append_to_line(output *out, ptrdiff_t n, enum mode mode, enum sce_format format) {
    real *p = entry(out->grad, out->j, format);
    const ptrdiff_t lane = lane_of(p, format);
    real *line = entry(p, -lane, format);
    if (out->line != line || out->high != lane) {
        flush_line(out, format);
        out->line = line;
        out->low = lane;
    }
    put(out, out->part + lane, out->j, n, mode, format, SCE_REAL);
    out->high = lane + n;
    out->j += n;
    if (out->high == W)
        flush_line(out, format);
}

/* Where the pending row's next block goes. NO_OUT: there is no whole block, or it needs more than a plain store. */
enum out_kind { NO_OUT, TO_CACHE, PAST_CACHE };

/* Write two vectors from class j on. */
INLINE void write_pair(const output *out, ptrdiff_t j, enum mode mode, int is_kept, enum out_kind kind,
                       enum sce_format format) {
    const V first = value_at(out, j, W, mode, is_kept, 0, format);
    const V second = value_at(out, j + W, W, mode, is_kept, 0, format);
    write_two((char *)entry(out->grad, j, format), first, second, kind == PAST_CACHE, format);
}

/* Write a block from class j on. */
INLINE void write_vectors(const output *out, ptrdiff_t j, enum mode mode, int is_kept, enum out_kind kind,
                          enum sce_format format) {
    if (mode == SOFT || mode == LABEL_AND_BASE) { /* unrolling gains nothing here, and is slow to compile */
        for (ptrdiff_t k = 0; k < BLOCK; k += 2 * W)
            write_pair(out, j + k, mode, is_kept, kind, format);
        return;
    }
#pragma GCC unroll 8
    for (ptrdiff_t k = 0; k < BLOCK; k += 2 * W)
        write_pair(out, j + k, mode, is_kept, kind, format);
}

INLINE enum out_kind kind_of(const output *out) {
    if (out->j + BLOCK > out->end || out->is_small)
        return NO_OUT;
    return out->stream ? PAST_CACHE : TO_CACHE;
}

/* Write plain blocks up to the label's: of the last row, or of a row that threads share. */
INLINE void write_blocks(output *out, enum mode mode, enum out_kind kind, enum sce_format format) {
    const output row = *out;
    ptrdiff_t j = row.j;
    for (; j + BLOCK <= row.end && !(j <= row.label && row.label < j + BLOCK); j += BLOCK)
        write_vectors(&row, j, mode, mode != LOG_PROBS, kind, format);
    out->j = j;
}

/* Write some of the chunk: plain blocks if the exponentials were kept; else at most one block, vector by vector. The
 * block with the label, small scales and the last vectors are written so. */
INLINE void write_some_of(output *out, enum mode mode, enum sce_format format) {
    const enum out_kind kind = kind_of(out);
    const int has_label = out->j <= out->label && out->label < out->j + BLOCK;
    if ((out->is_kept || mode == LOG_PROBS) && kind != NO_OUT && !has_label) {
        kind == TO_CACHE ? write_blocks(out, mode, TO_CACHE, format) : write_blocks(out, mode, PAST_CACHE, format);
        return;
    }
    const ptrdiff_t end = out->j + BLOCK < out->end ? out->j + BLOCK : out->end;
    for (; out->j + W <= end; out->j += W) {
        const V value = value_at(out, out->j, W, mode, out->is_kept, out->is_small, format);
        char *p = (char *)entry(out->grad, out->j, format);
        if (out->stream)
            stream_to_memory(p, with_lane(value, out->label - out->j, v_set(out->at_label)), format);
        else
            to_memory(p, W, value, format);
    }
    if (out->j < end && out->stream) {
        append_to_line(out, end - out->j, mode, format);
    } else if (out->j < end) {
        put(out, entry(out->grad, out->j, format), out->j, end - out->j, mode, format, format);
        out->j = end;
    }
}

/* One function for each mode and each format, so that neither is tested at every vector. */
#define WRITE_SOME_OF(name, mode, format)                                                                              \
    NOINLINE void name(output *out) { write_some_of(out, mode, format); }
WRITE_SOME_OF(write_some_one_label, ONE_LABEL, SCE_REAL)
WRITE_SOME_OF(write_some_label_and_base, LABEL_AND_BASE, SCE_REAL)
WRITE_SOME_OF(write_some_soft, SOFT, SCE_REAL)
WRITE_SOME_OF(write_some_log_probs, LOG_PROBS, SCE_REAL)
#if defined(HAS_F16_ROWS)
WRITE_SOME_OF(write_some_f16, ONE_LABEL, SCE_F16)
#else
#define write_some_f16 write_some_one_label
#endif
#if defined(REAL_F32)
WRITE_SOME_OF(write_some_bf16, ONE_LABEL, SCE_BF16)
#else
#define write_some_bf16 write_some_one_label
#endif

INLINE void write_some(output *out, enum mode mode, enum sce_format format) {
    (format == SCE_F16    ? write_some_f16
     : format == SCE_BF16 ? write_some_bf16
     : mode == SOFT       ? write_some_soft
     : mode == ONE_LABEL  ? write_some_one_label
     : mode == LOG_PROBS  ? write_some_log_probs
                          : write_some_label_and_base)(out);
}

/* Write the rest of the chunk; then the label's entry, which is still in a cache. Streams have it already. */
INLINE void write_rest(output *out, enum mode mode, enum sce_format format) {
    while (out->j < out->end)
        write_some(out, mode, format);
    if (!out->stream && out->begin <= out->label && out->label < out->end)
        to_memory((char *)entry(out->grad, out->label, format), 1, v_set(out->at_label), format);
    out->begin = out->end;
}

/* Begin a chunk of the pending row: set its scale, and complete the buffered vector, so that aligned ones follow. */
INLINE void begin_chunk(output *out, const sce_chunk *chunk, ptrdiff_t k, enum mode mode, enum sce_format format) {
    if (out->grad == NULL)
        return;
    out->j = out->begin = k * SCE_CHUNK;
    out->end = out->j + SCE_CHUNK < out->classes ? out->j + SCE_CHUNK : out->classes;
    if (mode != LOG_PROBS) {
        const real scale = (real)(out->share * chunk[k].rescale);
        out->is_small = scale > (real)-0x1p-50 && scale < (real)0x1p-50; /* times LOWER, it might be subnormal */
        out->scale = v_set(out->is_small ? scale : scale * LOWER);
        out->is_small |= format == SCE_BF16 && !(scale - scale == 0); /* blocks must not hold a NaN */
        out->top = v_set(chunk[k].top > -INFINITY ? (real)chunk[k].top : 0);
    }
    const ptrdiff_t lane = lane_of(entry(out->grad, out->j, format), format), n = out->end - out->j;
    if (out->stream && lane)
        append_to_line(out, W - lane < n ? W - lane : n, mode, format);
}

#endif
