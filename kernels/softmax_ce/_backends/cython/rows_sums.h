/* The first step of a row: each chunk's maximum and sums, and their combination. */
#ifndef SOFTMAX_CE_ROWS_SUMS_H
#define SOFTMAX_CE_ROWS_SUMS_H

#include "rows_output.h"

/* A running maximum of n entries from x on, and the first block that has it. NaN is ignored. */
typedef struct {
    const real *x;
    ptrdiff_t n, done;
    V top, block, top_block; /* block: minus the index of the next block; top_block: of the one with top, 1 if none */
    const real *fetch;       /* what is brought into L2 meanwhile, a line for a line; NULL: nothing */
} maximum;

INLINE maximum max_of(const real *x, ptrdiff_t n) {
    return (maximum){x, n, 0, v_set((real)-INFINITY), v_set(0), v_set(1), NULL};
}

INLINE void note_block(maximum *m, V largest) {
    m->top_block = v_blend(v_above(largest, m->top), m->top_block, m->block);
    m->top = v_max(largest, m->top); /* in this order NaN is ignored */
    m->block = v_sub(m->block, v_set(1));
}

INLINE void max_block(maximum *m, enum sce_format format) {
    const real *x = entry(m->x, m->done, format);
#if defined(V_PREFETCH) /* the hardware prefetcher does not follow three streams there; this goes into L2 */
    for (ptrdiff_t k = 0; k < BLOCK * item_size(format); k += SCE_LINE)
        __builtin_prefetch((const char *)x + k + SCE_PREFETCH, 0, 2);
#endif
    if (m->fetch)
        for (ptrdiff_t k = 0; k < BLOCK; k += LINE)
            __builtin_prefetch(m->fetch + m->done + k, 0, 2);
    V even, odd, one, other;
    any_order(x, 0, &even, &odd, format);
    for (ptrdiff_t k = 2 * W; k < BLOCK; k += 2 * W) {
        any_order(x, k, &one, &other, format);
        even = v_max(one, even);
        odd = v_max(other, odd);
    }
    note_block(m, v_max(odd, even));
    m->done += BLOCK;
}

/* Complete the maximum and return it. *block is the first block that has it, or -1 if it is -inf. */
INLINE real max_rest(maximum *m, ptrdiff_t *block, enum sce_format format) {
    while (m->done + BLOCK <= m->n)
        max_block(m, format);
    if (m->done < m->n) {
        V largest = v_set((real)-INFINITY);
        for (; m->done < m->n; m->done += W)
            largest = v_max(load_entries(m->x, m->done, m->n - m->done, (real)-INFINITY, format), largest);
        note_block(m, largest);
    }
    const real top = v_hmax(m->top);
    *block = -(ptrdiff_t)v_hmax(v_blend(v_eq(m->top, v_set(top)), v_set((real)-INFINITY), m->top_block));
    return top;
}

/* Sum T and T * (shift - x) / 8. Eighths, since shift - x and the sum of four may overflow where the loss does not.
 * 0 * inf = 0. */
INLINE void sum_targets(const real *x, ptrdiff_t j, ptrdiff_t n, real shift, const target_row *t, enum mode mode,
                        sce_chunk *chunk) {
    const V eighth = v_set((real)0.125 * shift);
    A mass[LINE_VECTORS], cost[LINE_VECTORS];
    for (int h = 0; h < LINE_VECTORS; h++)
        mass[h] = cost[h] = a_zero();
    for (ptrdiff_t i = 0; i < n; i += BLOCK) {
        for (int h = 0; h < LINE_VECTORS; h++) {
            V part = v_set(0), part_cost = v_set(0);
            for (ptrdiff_t k = i + h * W; k < i + BLOCK && k < n; k += LINE) {
                const V target = target_at(t, mode, j + k, n - k);
                const V gap = v_fma(v_set((real)-0.125), load(x + k, n - k, shift), eighth);
                part = v_add(part, target);
                part_cost = v_add(part_cost, v_zero_where(v_eq(target, v_set(0)), v_mul(target, gap)));
            }
            mass[h] = a_add(mass[h], part);
            cost[h] = a_add(cost[h], part_cost);
        }
    }
    chunk->mass = a_line(mass);
    chunk->cost = a_line(cost);
}

/* Write 2^SCE_RAISE * exp(x - shift) of GROUP vectors into e and return their sum. The vectors are a line apart from k
 * on, in a chunk of n entries at x. */
INLINE V exps_of_group(const real *x, ptrdiff_t n, ptrdiff_t k, V shift, real *e, V sum, enum sce_format format) {
    V v[GROUP];
#pragma GCC unroll 4
    for (ptrdiff_t i = 0, j = k; i < GROUP; i++, j += LINE)
        v[i] = v_sub(j < n ? load_entries(x, j, n - j, (real)-INFINITY, format) : v_set((real)-INFINITY), shift);
    v_exps_raised(v, GROUP);
#pragma GCC unroll 4
    for (ptrdiff_t i = 0, j = k; i < GROUP; i++, j += LINE) {
        if (j < n)
            v_store(e + j, v[i]);
        sum = v_add(sum, v[i]);
    }
    return sum;
}

/* Write the exponentials of block b of a chunk of n entries at x into e, and their sums by lane into `sums`. */
INLINE void exps_of_block(const real *x, ptrdiff_t n, ptrdiff_t b, V shift, real *e, V sums[],
                          enum sce_format format) {
    for (ptrdiff_t h = 0; h < LINE_VECTORS; h++) {
        const ptrdiff_t begin = b * BLOCK + h * W;
        V sum = v_set(0);
        if (LINE_VECTORS == 1) {
            /* gcc does not unroll this loop by itself: 41 instructions a vector, unrolled 31 (AVX-512). */
#pragma GCC unroll 4
            for (ptrdiff_t group = 0; group < UNROLL / GROUP; group++) {
                if (begin + group * GROUP * LINE >= n)
                    break;
                sum = exps_of_group(x, n, begin + group * GROUP * LINE, shift, e, sum, format);
            }
        } else {
            for (ptrdiff_t k = begin; k < (b + 1) * BLOCK && k < n; k += GROUP * LINE)
                sum = exps_of_group(x, n, k, shift, e, sum, format);
        }
        sums[b * LINE_VECTORS + h] = sum;
    }
}

/* Sum the block with the first maximum again, without the entries equal to it, and return how many there are. This is
 * done afterwards, since a test in each block would be an unpredictable branch. */
INLINE int sum_top_block(const real *x, ptrdiff_t n, ptrdiff_t b, V top, const real *e, V sums[],
                         enum sce_format format) {
    int tops = 0;
    for (ptrdiff_t h = 0; h < LINE_VECTORS; h++) {
        V sum = v_set(0);
        for (ptrdiff_t k = b * BLOCK + h * W; k < (b + 1) * BLOCK && k < n; k += LINE) {
            const M is_top = v_eq(load_entries(x, k, n - k, (real)-INFINITY, format), top);
            tops += __builtin_popcount(m_bits(is_top));
            sum = v_add(sum, v_zero_where(is_top, v_load(e + k)));
        }
        sums[b * LINE_VECTORS + h] = sum;
    }
    return tops;
}

/* Sum blocks [first, last) of a chunk, advance the next maximum by as many, and unless `kind` is NO_OUT write as many
 * of the pending row. Nearly all the time is spent in this loop. Local copies let the compiler keep its state in
 * registers, and know that there are neither slopes nor anything to fetch unless the rows are changed. */
INLINE void exps_of_blocks(const real *x, ptrdiff_t first, ptrdiff_t last, V shift, real *e, V sums[],
                           maximum *next_maximum, output *out, enum mode mode, int is_kept, enum out_kind kind,
                           enum sce_format format, int is_changed) {
    output row = *out;
    maximum next = *next_maximum;
    if (!is_changed) {
        row.slopes = NULL;
        next.fetch = NULL;
    }
    ptrdiff_t j = row.j;
    for (ptrdiff_t b = first; b < last; b++) {
        if (kind == PAST_CACHE && __builtin_expect(j <= row.label && row.label < j + BLOCK, 0)) {
            out->j = j;
            write_some(out, mode, format);
        } else if (kind != NO_OUT) {
            write_vectors(&row, j, mode, is_kept, kind, format);
        }
        j += kind == NO_OUT ? 0 : BLOCK;
        exps_of_block(x, (b + 1) * BLOCK, b, shift, e, sums, format);
        max_block(&next, format);
    }
    *next_maximum = next;
    out->j = j;
}

INLINE ptrdiff_t lesser(ptrdiff_t a, ptrdiff_t b) { return a < b ? a : b; }

/* Sum the chunk of n classes at x, whose maximum is in block `top_block`, and write its exponentials into e. Meanwhile
 * find the next chunk's maximum and write a chunk of output, which is always ahead of the exponentials that may
 * overwrite it. */
INLINE void sum_chunk_of(const real *x, ptrdiff_t n, real top, ptrdiff_t top_block, real *e, maximum *next, output *out,
                         sce_chunk *chunk, enum mode mode, enum sce_format format) {
    const V shift = v_set(top == -INFINITY ? 0 : top); /* -inf - -inf would be NaN */
    V sums[(SCE_CHUNK / BLOCK + 1) * LINE_VECTORS];
    const ptrdiff_t whole = n / BLOCK;
    for (ptrdiff_t b = 0; b < whole;) {
        const enum out_kind kind = kind_of(out);
        ptrdiff_t last = whole;
        if (kind != NO_OUT)
            last = lesser(last, b + (out->end - out->j) / BLOCK);
        else
            write_rest(out, mode, format);
        const ptrdiff_t next_blocks = (next->n - next->done) / BLOCK;
        maximum none = max_of(x, n); /* if the next chunk is shorter: not used */
        if (next_blocks)
            last = lesser(last, b + next_blocks);
        maximum *beside = next_blocks ? next : &none;
#define EXPS(is_kept, kind, is_changed)                                                                                \
    exps_of_blocks(x, b, last, shift, e, sums, beside, out, mode, is_kept, kind, format, is_changed)
        const int is_changed = format == SCE_REAL && mode != LOG_PROBS && (out->slopes || next->fetch);
        if (kind == NO_OUT)
            is_changed ? EXPS(0, NO_OUT, 1) : EXPS(0, NO_OUT, 0);
        else if (is_changed) /* then the exponentials are kept */
            kind == TO_CACHE ? EXPS(1, TO_CACHE, 1) : EXPS(1, PAST_CACHE, 1);
        else if (mode != LOG_PROBS && out->is_kept)
            kind == TO_CACHE ? EXPS(1, TO_CACHE, 0) : EXPS(1, PAST_CACHE, 0);
        else
            kind == TO_CACHE ? EXPS(0, TO_CACHE, 0) : EXPS(0, PAST_CACHE, 0);
#undef EXPS
        b = last;
    }
    write_rest(out, mode, format);
    if (whole * BLOCK < n)
        exps_of_block(x, n, whole, shift, e, sums, format);
    const int tops = top_block < 0 ? 0 : sum_top_block(x, n, top_block, v_set(top), e, sums, format);
    A rest[LINE_VECTORS];
    for (int h = 0; h < LINE_VECTORS; h++)
        rest[h] = a_zero();
    for (ptrdiff_t b = 0; b * BLOCK < n; b++)
        for (int h = 0; h < LINE_VECTORS; h++)
            rest[h] = a_add(rest[h], sums[b * LINE_VECTORS + h]);
    chunk->top = top;
    chunk->rest = a_line(rest) * LOWER + (tops ? tops - 1 : 0);
    chunk->mass = chunk->cost = 0;
}

/* One function for each mode and each format. */
#define SUM_CHUNK_OF(name, mode, format)                                                                               \
    NOINLINE void name(const real *x, ptrdiff_t n, real top, ptrdiff_t top_block, real *e, maximum *next, output *out, \
                       sce_chunk *chunk) {                                                                             \
        sum_chunk_of(x, n, top, top_block, e, next, out, chunk, mode, format);                                         \
    }
SUM_CHUNK_OF(sum_chunk_one_label, ONE_LABEL, SCE_REAL)
SUM_CHUNK_OF(sum_chunk_label_and_base, LABEL_AND_BASE, SCE_REAL)
SUM_CHUNK_OF(sum_chunk_soft, SOFT, SCE_REAL)
SUM_CHUNK_OF(sum_chunk_log_probs, LOG_PROBS, SCE_REAL)
#if defined(HAS_F16_ROWS)
SUM_CHUNK_OF(sum_chunk_f16, ONE_LABEL, SCE_F16)
#else
#define sum_chunk_f16 sum_chunk_one_label
#endif
#if defined(REAL_F32)
SUM_CHUNK_OF(sum_chunk_bf16, ONE_LABEL, SCE_BF16)
#else
#define sum_chunk_bf16 sum_chunk_one_label
#endif

INLINE void sum_chunk(const real *x, ptrdiff_t n, real top, ptrdiff_t top_block, real *e, maximum *next, output *out,
                      enum mode mode, enum sce_format format, sce_chunk *chunk) {
    (format == SCE_F16    ? sum_chunk_f16
     : format == SCE_BF16 ? sum_chunk_bf16
     : mode == SOFT       ? sum_chunk_soft
     : mode == ONE_LABEL  ? sum_chunk_one_label
     : mode == LOG_PROBS  ? sum_chunk_log_probs
                          : sum_chunk_label_and_base)(x, n, top, top_block, e, next, out, chunk);
}

INLINE double rescaling(double gap) {
    return gap == 0 ? 1 : gap > 0 ? exp(-gap) : 0; /* NaN if both tops are infinite: degenerate */
}

INLINE sce_sums combine(sce_chunk *chunk, ptrdiff_t chunks) {
    sce_sums row = {-INFINITY, 0, 0, 0, 0, 0};
    for (ptrdiff_t k = 0; k < chunks; k++)
        row.top = chunk[k].top > row.top ? chunk[k].top : row.top;
    int is_first = 1; /* the first chunk with the row's maximum: its 1 is left out as the row's */
    for (ptrdiff_t k = 0; k < chunks; k++) {
        const int has_top = chunk[k].top == row.top;
        chunk[k].rescale = has_top ? 1 : rescaling(row.top - chunk[k].top);
        const double one = chunk[k].top > -INFINITY && !(has_top && is_first);
        row.rest += (one + chunk[k].rest) * chunk[k].rescale; /* NaN propagates */
        is_first &= !has_top;
        row.mass += chunk[k].mass;
        row.cost += 8 * chunk[k].cost;
        if (chunk[k].mass != 0)
            row.cost += 2 * (chunk[k].mass * (0.5 * row.top - 0.5 * (chunk[k].top == -INFINITY ? 0 : chunk[k].top)));
    }
    row.degenerate = !(row.top > -INFINITY && row.top < INFINITY) || isnan(row.rest);
    row.log_sum = row.degenerate ? 0 : log1p(row.rest);
    return row;
}

#endif
