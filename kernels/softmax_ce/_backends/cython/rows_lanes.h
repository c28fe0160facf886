/* Few classes: W rows at a time, one a lane, so that no vector is left half empty and the logarithm is a vector's too.
 * Up to LANES classes, which the vector layer says: a block then fits into L1 with its soft targets. Taken one by one,
 * rows of 64 classes took three times as long, those of 256 1.4 times (AVX-512); without a transposition in registers,
 * one by one is faster from some 32 on.
 *
 * A block of W rows is transposed, computed column by column, and transposed back. Everything is computed in R, sums
 * apart. A row that is not ordinary (it does not count, is not finite somewhere, or would overflow on the way) is left
 * to the row kernel: which rows are depends on each row alone. */

#include "log1p.h"

#define PAIR 2        /* blocks under way at once */
#define PAIRED 32     /* classes up to which they are */
#define LANE_UNROLL 4 /* classes summed in R before they are added in float64 */
/* Classes up to which whole blocks select what lies at a label, column by column; others look it up, row by row. Ten
 * classes of float64 took 1.05 of the time so in vectors of four (AVX2). */
#define SELECTED (W < 8 ? 2 * W : 16)

/* W x W entries at a time. Whole vectors are read and written as long as they stay in the block, beyond the row too:
 * the next row is written later. So many rows of a whole block, the first ones, can be taken so to their ends: `whole`. */
INLINE ptrdiff_t whole_rows(ptrdiff_t classes) {
    const ptrdiff_t last = (classes - 1) / W * W; /* where a row's last vector begins */
    return (W * classes - last - W) / classes + 1;
}

INLINE void load_columns(const real *x, ptrdiff_t classes, ptrdiff_t n, ptrdiff_t whole, V *column) {
    if (classes == 2 && n == W) {
        v_load_pairs(x, &column[0], &column[1]);
        return;
    }
    for (ptrdiff_t j = 0; j < classes; j += W) {
        V rows[W];
#pragma GCC unroll 16
        for (ptrdiff_t r = 0; r < W; r++)
            rows[r] = r < whole ? v_load(x + r * classes + j)
                      : r < n   ? load(x + r * classes + j, classes - j, 0)
                                : v_set(0);
        v_transpose(rows);
#pragma GCC unroll 16
        for (ptrdiff_t k = 0; k < W; k++)
            if (!__builtin_constant_p(classes) || j + k < classes) /* others are never read */
                column[j + k] = rows[k];
    }
}

INLINE void store_columns(real *g, ptrdiff_t classes, ptrdiff_t n, ptrdiff_t whole, V *column, unsigned left) {
    whole = left ? 0 : whole;
    if (classes == 2 && n == W && whole) {
        v_store_pairs(g, column[0], column[1]);
        return;
    }
#if defined(V_STORE_TWO)
    if (__builtin_constant_p(classes) && classes == W + 2 && n == W && whole) {
        v_transpose(column);
        for (ptrdiff_t r = 0; r < W; r++)
            v_store(g + r * classes, column[r]);
        v_store_two(g + W, classes, column[W], column[W + 1]);
        return;
    }
#endif
    if (__builtin_constant_p(classes)) /* see load_columns */
        for (ptrdiff_t k = classes; k % W; k++)
            column[k] = v_set(0);
    for (ptrdiff_t j = 0; j < classes; j += W)
        v_transpose(column + j);
    for (ptrdiff_t r = 0; r < whole; r++)
        for (ptrdiff_t j = 0; j < classes; j += W)
            v_store(g + r * classes + j, column[j + r]);
    for (ptrdiff_t r = whole; r < n; r++)
        for (ptrdiff_t j = 0; j < classes && !(left >> r & 1); j += W)
            store(g + r * classes + j, classes - j, column[j + r]);
}

#include "columns.h"

/* A row factor that is the same for all rows is not looked up row by row. */
INLINE V row_factor(const double *factor, ptrdiff_t step, ptrdiff_t i, ptrdiff_t n) {
    real lanes[W] = {0};
    if (step == 0)
        return v_set((real)*factor);
    for (ptrdiff_t r = 0; r < n; r++)
        lanes[r] = (real)factor[i + r];
    return v_load(lanes);
}

INLINE V row_gain(const sce_call *call, V weight, ptrdiff_t i, ptrdiff_t n) {
    real lanes[W] = {0};
    if (call->upstream_step == 0 && call->upstream[0] == 1)
        return weight;
    if (call->upstream_step == 0 && call->row_weight_step == 0)
        return v_set((real)(call->row_weight[0] * call->upstream[0]));
    for (ptrdiff_t r = 0; r < n; r++)
        lanes[r] = (real)(call->row_weight[(i + r) * call->row_weight_step] *
                          call->upstream[(i + r) * call->upstream_step]);
    return v_load(lanes);
}

INLINE V class_factor(const void *table, ptrdiff_t step, ptrdiff_t j) {
    return v_set(((const real *)table)[j * step]);
}

/* What is not finite, a bit a lane. */
INLINE unsigned not_finite(V v) {
    return ~m_bits(v_eq(v_sub(v, v), v_set(0)));
}

/* T of class j over the lanes, less the mass at the label. */
INLINE V lane_target(const sce_call *call, const V *soft, ptrdiff_t j, enum mode mode) {
    if (mode == LABEL_AND_BASE)
        return class_factor(call->base_mass, call->base_mass_step, j);
    const V base = call->base_mass ? class_factor(call->base_mass, call->base_mass_step, j) : v_set(0);
    return v_fma(soft[j], class_factor(call->class_scale, call->class_scale_step, j), base);
}

/* A block on its way: from logits to exponentials to gradient, its rows across the lanes. */
typedef struct {
    V column[LANES + W], soft[LANES + W];
    ptrdiff_t whole;              /* see whole_rows */
    ptrdiff_t at[W];              /* labels, 0 where the row is left; where they are looked up */
    V label;                      /* the same as reals; where they are selected */
    V weight, top;                /* row_weight, the maximum */
    V x_label, mass, at_base;     /* at the label: the logit, T less the base, the base */
    V rest, s, inverse, log_sum, spread, cost;
    unsigned left;                /* rows, a bit each, that are not ordinary */
} block;

/* What is one number at each row's label; and a bit for each row without one: labels are compared with every class, all
 * lanes at once. */
INLINE unsigned select_labels(const sce_call *call, block *b, ptrdiff_t i, ptrdiff_t n, enum mode mode) {
    const real *scale = call->class_scale, *base = call->base_mass;
    const int64_t *from = call->labels + i * call->labels_step;
    int64_t labels[W] = {0};
    unsigned none;
    if (n < W || call->labels_step == 0) {
        for (ptrdiff_t r = 0; r < n; r++)
            labels[r] = ((const volatile int64_t *)from)[r * call->labels_step];
        from = labels;
    }
    b->label = v_labels(from, call->classes, call->ignore_index, &none);
    b->x_label = b->column[0];
    b->mass = v_set(scale[0]);
    b->at_base = mode == LABEL_AND_BASE ? v_set(base[0]) : v_set(0);
    for (ptrdiff_t j = 1; j < call->classes; j++) {
        const M here = v_eq(b->label, v_set((real)j));
        b->x_label = v_blend(here, b->x_label, b->column[j]);
        if (call->class_scale_step)
            b->mass = v_blend(here, b->mass, v_set(scale[j]));
        if (mode == LABEL_AND_BASE && call->base_mass_step)
            b->at_base = v_blend(here, b->at_base, v_set(base[j]));
    }
    return none;
}

/* The same row by row: of more classes, a search through all of them would take longer. */
INLINE unsigned look_up_labels(const sce_call *call, block *b, ptrdiff_t i, ptrdiff_t n, enum mode mode) {
    const real *scale = call->class_scale, *base = call->base_mass, *x = (const real *)b->column;
    const int64_t *labels = call->labels + i * call->labels_step;
    real x_label[W] = {0}, mass[W] = {0}, at_base[W] = {0};
    unsigned none = 0;
#pragma GCC unroll 16
    for (ptrdiff_t r = 0; r < n; r++) {
        /* Read once: another thread may change it after the shell's check, and it must not become an address. */
        const int64_t y = *(const volatile int64_t *)(labels + r * call->labels_step);
        const int counts = (uint64_t)y < (uint64_t)call->classes && y != call->ignore_index;
        const ptrdiff_t label = counts ? y : 0;
        none |= (unsigned)!counts << r;
        b->at[r] = label;
        x_label[r] = x[label * W + r];
        if (call->class_scale_step)
            mass[r] = scale[label];
        if (mode == LABEL_AND_BASE)
            at_base[r] = base[label * call->base_mass_step];
    }
    b->x_label = v_from_lanes(x_label);
    b->mass = call->class_scale_step ? v_from_lanes(mass) : v_set(*scale);
    b->at_base = mode == LABEL_AND_BASE ? v_from_lanes(at_base) : v_set(0);
    return none;
}

/* First step: transpose, the maxima, and what lies at the label. */
INLINE void begin_block(const sce_call *call, block *b, ptrdiff_t i, ptrdiff_t n, enum mode mode, int is_selected) {
    const ptrdiff_t classes = call->classes;
    load_rows(call, call->logits, i, n, b->whole, b->column);
    if (mode == SOFT)
        load_rows(call, call->targets, i, n, b->whole, b->soft);
    b->weight = mode == LOG_PROBS ? v_set(1) : row_factor(call->row_weight, call->row_weight_step, i, n);
    b->left = m_bits(v_eq(b->weight, v_set(0)));
    V top = b->column[0], other = top; /* two chains, half the latency */
    for (ptrdiff_t j = 1; j + 1 < classes; j += 2) {
        top = v_max(b->column[j], top);
        other = v_max(b->column[j + 1], other);
    }
    b->top = v_max(b->column[classes - 1], v_max(other, top));
    b->x_label = b->mass = b->at_base = v_set(0);
    if (mode != ONE_LABEL && mode != LABEL_AND_BASE)
        return;
    const unsigned none = is_selected ? select_labels(call, b, i, n, mode) : look_up_labels(call, b, i, n, mode);
    b->left |= none;
}

/* `count` <= LANE_UNROLL columns from j on: exponentials, raised, in place of the logits; the sum of those below the
 * maximum, and how many are at it. */
INLINE V exps_of_columns(block *b, ptrdiff_t j, int count, V *tops, enum mode mode) {
    V e[LANE_UNROLL], sum = v_set(0);
    M is_top[LANE_UNROLL];
    for (int k = 0; k < count; k++) {
        is_top[k] = v_eq(b->column[j + k], b->top);
        e[k] = v_sub(b->column[j + k], b->top);
    }
    for (int k = 0; k < count; k += GROUP)
        v_exps_raised(e + k, count - k < GROUP ? count - k : GROUP);
    for (int k = 0; k < count; k++) {
        if (mode != LOG_PROBS)
            b->column[j + k] = e[k];
        *tops = v_add_where(is_top[k], *tops, v_set(1));
        sum = v_add_unless(is_top[k], sum, e[k]);
    }
    return sum;
}

/* The next rows, and where the gradient goes: a block is as many lines as it has columns. */
INLINE void prefetch_columns(const sce_call *call, ptrdiff_t i, ptrdiff_t first, ptrdiff_t count) {
#if defined(V_PREFETCH)
    const real *next = (const real *)call->logits + (i + W) * call->classes;
    const real *grad = call->grad ? (real *)call->grad + i * call->classes : next;
    for (ptrdiff_t k = first; k < first + count; k++) {
        __builtin_prefetch(next + k * W);
        __builtin_prefetch(grad + k * W, 1);
    }
#else
    (void)call, (void)i, (void)first, (void)count;
#endif
}

/* Two classes have one exponential: that of the maximum is 1, and both are the maximum where they are equal. */
INLINE void sum_two_classes(const sce_call *call, block *b) {
    const V gap = v_max(v_sub(b->column[0], b->column[1]), v_sub(b->column[1], b->column[0]));
    const V e = v_exp_raised(v_sub(v_set(0), gap)), one = v_set(1 / LOWER);
    for (int j = 0; j < 2; j++)
        b->column[j] = v_blend(v_eq(b->column[j], b->top), e, one);
    b->rest = v_fma(e, v_set(LOWER), v_set(0));
    b->spread = v_set((real)call->base_total);
    b->cost = v_set(0);
}

/* `count` columns from j on, added to the sums. */
INLINE void sum_columns(const sce_call *call, block *b, ptrdiff_t i, ptrdiff_t j, int count, V *tops, A sums[3],
                        enum mode mode) {
    if (mode == LABEL_AND_BASE || mode == SOFT) {
        V part_cost = v_set(0), part_total = v_set(0);
        for (ptrdiff_t k = j; k < j + count; k++) {
            const V target = lane_target(call, b->soft, k, mode);
            part_total = v_add(part_total, target);
            part_cost = v_fma(target, v_sub(b->top, b->column[k]), part_cost);
        }
        sums[1] = a_add(sums[1], part_total);
        sums[2] = a_add(sums[2], part_cost);
    }
    prefetch_columns(call, i, j, count);
    sums[0] = a_add(sums[0], exps_of_columns(b, j, count, tops, mode));
}

/* Second step: the sums over the classes. */
INLINE void sum_block(const sce_call *call, block *b, ptrdiff_t i, enum mode mode) {
    const ptrdiff_t classes = call->classes;
    if (classes == 2 && mode == ONE_LABEL) {
        prefetch_columns(call, i, 0, 2);
        sum_two_classes(call, b);
        return;
    }
    V tops = v_set(-1); /* one of them is the 1 of s = 1 + rest */
    A sums[3] = {a_zero(), a_zero(), a_zero()}; /* of exponentials, of T, of what it costs */
    ptrdiff_t j = 0;
    for (; j + LANE_UNROLL <= classes; j += LANE_UNROLL)
        sum_columns(call, b, i, j, LANE_UNROLL, &tops, sums, mode);
    /* Apart: in the loop, gcc would compute one column before it asks how many there are. */
    if (classes - j == 3)
        sum_columns(call, b, i, j, 3, &tops, sums, mode);
    else if (classes - j == 2)
        sum_columns(call, b, i, j, 2, &tops, sums, mode);
    else if (classes - j == 1)
        sum_columns(call, b, i, j, 1, &tops, sums, mode);
    b->rest = v_fma(a_lanes(sums[0]), v_set(LOWER), tops);
    b->spread = mode == SOFT ? a_lanes(sums[1]) : v_set((real)call->base_total);
    b->cost = a_lanes(sums[2]);
}

/* What takes long, and is the same for all: the logarithm and the inverse of the sum. */
INLINE void invert_sums(block *b) {
    b->s = v_add(v_set(1), b->rest);
    b->inverse = v_div(v_set(1), b->s);
    b->log_sum = v_log1p(b->rest, b->inverse);
}

/* Rows of a block, a bit each from row i on, as longer ones are computed: in float64 where it matters. */
INLINE void rows_again(const sce_call *call, ptrdiff_t i, unsigned left, enum mode mode) {
    for (ptrdiff_t r = 0; left; r++, left >>= 1)
        if (left & 1)
            one_row_again(call, i + r, mode);
}

/* The losses; `left` gains the rows that are not ordinary. */
INLINE V losses_of_block(const sce_call *call, const block *b, V lse, unsigned *left, enum mode mode) {
    V loss = v_mul(b->mass, v_add(v_sub(b->top, b->x_label), b->log_sum));
    if (mode != ONE_LABEL)
        loss = v_add(v_fma(b->spread, b->log_sum, b->cost), loss);
    if (call->z_loss != 0)
        loss = v_fma(v_mul(v_set((real)call->z_loss), lse), lse, loss);
    loss = v_mul(b->weight, loss);
    *left |= not_finite(loss); /* as it is where a logit is NaN or +inf, or all are -inf: 0 * inf is NaN */
    return loss;
}

/* The gradient, in place of the exponentials; at the label, `at_label`. What is not finite is a bit in the result. */
INLINE unsigned gradient_of_block(const sce_call *call, block *b, V gain, V lse, V *at_label, enum mode mode,
                                  int is_selected) {
    const ptrdiff_t classes = call->classes;
    V pull = b->spread;
    if (call->z_loss != 0)
        pull = v_fma(v_set((real)(2 * call->z_loss)), lse, b->spread);
    const V share = v_mul(v_add(b->mass, pull), b->inverse), scale = mode == ONE_LABEL ? v_mul(gain, share) : share;
    *at_label = v_set(0);
    if (mode != SOFT) {
        /* From the other classes' share, never as p - 1, which cancels as p approaches 1. */
        const V raised = classes == 2 && is_selected ? v_blend(v_eq(b->label, v_set(0)), b->column[1], b->column[0])
                                                     : v_exp_raised(v_sub(b->x_label, b->top));
        const V e_label = v_fma(raised, v_set(LOWER), v_set(0)); /* as in v_exp */
        const V others = v_blend(v_eq(b->x_label, b->top), v_sub(b->s, e_label), b->rest);
        const V own = v_mul(v_sub(v_mul(pull, e_label), v_mul(b->mass, others)), b->inverse);
        *at_label = v_mul(gain, v_sub(own, b->at_base));
    }
    /* As for a long row: small scales first, so that nothing is rounded before it is lowered. */
    const M is_large = v_not_less(v_max(scale, v_sub(v_set(0), scale)), v_set((real)0x1p-50));
    const V by = v_blend(is_large, scale, v_mul(scale, v_set(LOWER)));
    const int all_large = m_bits(is_large) == ~0u >> (32 - W);
    const V lower = v_blend(is_large, v_set(LOWER), v_set(1));
    /* Without mass, the label is a class like the others. */
    const V label = is_selected ? v_blend(v_eq(b->mass, v_set(0)), b->label, v_set(-1)) : v_set(-1);
    for (ptrdiff_t j = 0; j < classes; j++) {
        V value = all_large ? v_fma(b->column[j], by, v_set(0)) : v_fma(v_mul(b->column[j], by), lower, v_set(0));
        if (mode != ONE_LABEL)
            value = v_mul(gain, v_sub(value, lane_target(call, b->soft, j, mode)));
        if (is_selected)
            value = v_blend(v_eq(label, v_set((real)j)), value, *at_label);
        b->column[j] = value;
    }
    return not_finite(v_add(v_mul(gain, share), *at_label));
}

/* The label's entry of each row that has mass there, of more classes than are selected. */
INLINE void put_at_labels(const sce_call *call, const block *b, ptrdiff_t i, ptrdiff_t n, V at_label, unsigned left) {
    const ptrdiff_t step = call->column_step ? call->column_step : 1, row = call->column_step ? 1 : call->classes;
    real *g = (real *)call->grad + i * row, lanes[W];
    left |= m_bits(v_eq(b->mass, v_set(0)));
    v_store(lanes, at_label);
    if (n == W && (left & ~0u >> (32 - W)) == 0) {
#pragma GCC unroll 16
        for (ptrdiff_t r = 0; r < W; r++)
            g[r * row + b->at[r] * step] = lanes[r];
        return;
    }
    for (ptrdiff_t r = 0; r < n; r++)
        if (!(left >> r & 1))
            g[r * row + b->at[r] * step] = lanes[r];
}

/* Third step: everything that is wanted of the block. `original` is the call that may be handed on. */
INLINE void finish_block(const sce_call *call, const sce_call *original, block *b, ptrdiff_t i, ptrdiff_t n,
                         enum mode mode, int is_selected) {
    const unsigned lanes = n == W ? ~0u >> (32 - W) : (1u << n) - 1;
    const V lse = v_add(b->top, b->log_sum);
    unsigned left = b->left, left_grad = 0;
    if (mode == LOG_PROBS) {
        left = not_finite(lse);
        for (ptrdiff_t j = 0; j < call->classes; j++)
            b->column[j] = v_sub(v_sub(b->column[j], b->top), b->log_sum);
        store_rows(call, i, n, b->whole, b->column, left & lanes);
        rows_again(original, i, left & lanes, mode);
        return;
    }
    const V loss = losses_of_block(call, b, lse, &left, mode);
    if (call->grad) {
        V at_label;
        const V gain = row_gain(call, b->weight, i, n);
        left_grad = gradient_of_block(call, b, gain, lse, &at_label, mode, is_selected) & ~left;
        store_rows(call, i, n, b->whole, b->column, (left | left_grad) & lanes);
        if (mode != SOFT && !is_selected)
            put_at_labels(call, b, i, n, at_label, left | left_grad);
    }
    if (call->loss)
        store((real *)call->loss + i, n, loss);
    if (call->row_max)
        store((real *)call->row_max + i, n, b->top);
    if (call->log_sum)
        store((real *)call->log_sum + i, n, b->log_sum);
    rows_again(original, i, left & lanes, mode);
    if (left_grad & lanes) {
        /* The bits of a loss may not depend on whether a gradient is asked for. */
        sce_call rest = *original;
        rest.loss = rest.row_max = rest.log_sum = NULL;
        rows_again(&rest, i, left_grad & lanes, mode);
    }
}

/* Some blocks step by step: one waits for its logarithm and its divisions while another goes on. `is_selected`, a
 * constant: what lies at the label is, see SELECTED. */
INLINE void lane_group(const sce_call *call, ptrdiff_t classes, ptrdiff_t i, int count, ptrdiff_t n, ptrdiff_t whole,
                       enum mode mode, int is_selected) {
    sce_call own = *call; /* nobody else's: what is written cannot change it */
    own.classes = classes;
    if (classes < 1)
        __builtin_unreachable(); /* the compiler would warn of columns that nobody has loaded */
    block b[PAIR];
    for (int k = 0; k < count; k++) {
        b[k].whole = whole;
        begin_block(&own, &b[k], i + k * W, n, mode, is_selected);
    }
    for (int k = 0; k < count; k++)
        sum_block(&own, &b[k], i + k * W, mode);
    for (int k = 0; k < count; k++)
        invert_sums(&b[k]);
    for (int k = 0; k < count; k++)
        finish_block(&own, call, &b[k], i + k * W, n, mode, is_selected);
}

/* Fewer than W rows, or what is left over. */
INLINE void last_lanes(const sce_call *call, ptrdiff_t i, ptrdiff_t stop, enum mode mode) {
    const ptrdiff_t whole = whole_rows(call->classes);
    for (ptrdiff_t n; i < stop; i += n) {
        n = stop - i < W ? stop - i : W;
        lane_group(call, call->classes, i, 1, n, n == W ? whole : 0, mode, 0);
    }
}

/* Groups of blocks as long as there are enough rows: the first row that is left. */
INLINE ptrdiff_t lane_groups(const sce_call *call, ptrdiff_t classes, ptrdiff_t i, ptrdiff_t stop, int count,
                             enum mode mode, int is_selected) {
    const ptrdiff_t whole = whole_rows(classes);
    for (; i + count * W <= stop; i += count * W)
        lane_group(call, classes, i, count, W, whole, mode, is_selected);
    return i;
}

/* One body for each case: few classes in pairs of blocks, and the two commonest numbers apart, whose columns stay in
 * registers; more classes, and other targets, block by block. */
#define LANES_OF(name, classes, count, mode, is_selected)                                                              \
    static __attribute__((noinline)) ptrdiff_t name(const sce_call *call, ptrdiff_t i, ptrdiff_t stop) {               \
        return lane_groups(call, classes, i, stop, count, mode, is_selected);                                          \
    }
#define LAST_OF(name, mode)                                                                                            \
    static __attribute__((noinline)) void name(const sce_call *call, ptrdiff_t i, ptrdiff_t stop) {                    \
        last_lanes(call, i, stop, mode);                                                                               \
    }
#if defined(REAL_F32)
LANES_OF(two_classes, 2, PAIR, ONE_LABEL, 1)
LANES_OF(ten_classes, 10, PAIR, ONE_LABEL, 1)
LANES_OF(ten_label_and_base, 10, PAIR, LABEL_AND_BASE, 1)
#endif
LANES_OF(lanes_selected, call->classes, PAIR, ONE_LABEL, 1)
LANES_OF(lanes_paired, call->classes, PAIR, ONE_LABEL, 0)
LANES_OF(lanes_one_label, call->classes, 1, ONE_LABEL, 0)
LANES_OF(lanes_label_and_base, call->classes, 1, LABEL_AND_BASE, 0)
LANES_OF(lanes_soft, call->classes, 1, SOFT, 0)
LANES_OF(lanes_log_probs, call->classes, 1, LOG_PROBS, 0)
LAST_OF(last_one_label, ONE_LABEL)
LAST_OF(last_label_and_base, LABEL_AND_BASE)
LAST_OF(last_soft, SOFT)
LAST_OF(last_log_probs, LOG_PROBS)

static void few_classes(const sce_call *call, ptrdiff_t i, ptrdiff_t stop, enum mode mode) {
    if (mode == SOFT) {
        last_soft(call, lanes_soft(call, i, stop), stop);
    } else if (mode == LABEL_AND_BASE) {
#if defined(REAL_F32)
        if (call->classes == 10)
            i = ten_label_and_base(call, i, stop);
#endif
        last_label_and_base(call, lanes_label_and_base(call, i, stop), stop);
    } else if (mode == LOG_PROBS) {
        last_log_probs(call, lanes_log_probs(call, i, stop), stop);
    } else {
#if defined(REAL_F32)
        if (call->classes == 2)
            i = two_classes(call, i, stop);
        else if (call->classes == 10)
            i = ten_classes(call, i, stop);
        else
#endif
            i = (call->classes <= SELECTED ? lanes_selected
                 : call->classes <= PAIRED ? lanes_paired
                                           : lanes_one_label)(call, i, stop);
        last_one_label(call, i, stop);
    }
}
