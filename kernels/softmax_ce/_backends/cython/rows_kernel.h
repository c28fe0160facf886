/* The row kernels, written once over a vector layer (V, W, real) and compiled for each instruction set and type.
 *
 * A row is taken in chunks of SCE_CHUNK classes. The first sweep reads a chunk, finds its maximum, and sums
 * exp(x - chunk maximum), which it leaves in the gradient's row if there is one; the chunks are then combined in
 * order, in float64; the second sweep scales what lies in the gradient's row, still in cache. Logits that equal
 * the maximum are counted, not summed, so that log(s) = log1p(s - 1) stays right when one class takes all.
 *
 * Sums run over W lanes. float32 terms are added four at a time in float32, then in float64. */

#include "exp.h"

#define UNROLL 4
#if defined(__GNUC__)
#define INLINE static inline __attribute__((always_inline))
#else
#define INLINE static inline
#endif

/* Where a row's T comes from, a constant wherever it is used: the compiler makes one body of each. */
enum mode { ONE_LABEL, LABEL_AND_BASE, SOFT };

typedef struct {
    const real *soft;  /* SOFT: the row's targets */
    const real *scale; /* SOFT: by class, or one for all */
    ptrdiff_t scale_step;
    const real *base; /* by class, or one for all; NULL: zero */
    ptrdiff_t base_step;
} target_row;

INLINE V load(const real *p, ptrdiff_t n, real fill) {
    return n >= W ? v_load(p) : v_load_first(p, n, v_set(fill));
}

INLINE void store(real *p, ptrdiff_t n, V v) {
    if (n >= W)
        v_store(p, v);
    else
        v_store_first(p, n, v);
}

INLINE V by_class(const real *p, ptrdiff_t step, ptrdiff_t j, ptrdiff_t n) {
    if (step)
        return load(p + j, n, 0);
    return n >= W ? v_set(*p) : v_keep_first(n, v_set(*p)); /* a lane without a class has no mass */
}

/* T at classes j, j + 1 ... of which n are left. */
INLINE V target_at(const target_row *t, enum mode mode, ptrdiff_t j, ptrdiff_t n) {
    if (mode == LABEL_AND_BASE)
        return by_class(t->base, t->base_step, j, n);
    V v = v_mul(load(t->soft + j, n, 0), by_class(t->scale, t->scale_step, j, n));
    return t->base ? v_add(v, by_class(t->base, t->base_step, j, n)) : v;
}

INLINE real chunk_top(const real *x, ptrdiff_t n) {
    V top[UNROLL];
    for (int k = 0; k < UNROLL; k++)
        top[k] = v_set((real)-INFINITY);
    ptrdiff_t j = 0;
    for (; j + UNROLL * W <= n; j += UNROLL * W)
        for (int k = 0; k < UNROLL; k++)
            top[k] = v_max(v_load(x + j + k * W), top[k]); /* in this order a NaN is passed over */
    for (; j < n; j += W)
        top[0] = v_max(load(x + j, n - j, (real)-INFINITY), top[0]);
    return v_hmax(v_max(v_max(top[0], top[1]), v_max(top[2], top[3])));
}

/* exp(x - shift) of one vector, into e if there is one; what is to be summed, with the maxima out and counted. */
INLINE V exp_rest(const real *x, ptrdiff_t n, real top, real shift, real *e, int *count) {
    V v = load(x, n, (real)-INFINITY);
    V value = v_exp(v_sub(v, v_set(shift)));
    M is_top = v_eq(v, v_set(top));
    if (e)
        store(e, n, value);
    *count += m_count(is_top);
    return v_zero_where(is_top, value);
}

/* The chunk of n classes from class j on; e may be the same memory as x. */
INLINE void sum_chunk(const real *x, real *e, ptrdiff_t j, ptrdiff_t n, const target_row *t, enum mode mode,
                      sce_chunk *chunk) {
    const real top = chunk_top(x + j, n);
    const real shift = top == -INFINITY ? 0 : top; /* -inf - -inf would be NaN */
    A rest = a_zero(), mass = a_zero(), cost = a_zero();
    int count = 0;
    ptrdiff_t i = 0;
    if (mode != ONE_LABEL) {
        /* Halves: shift - x may exceed the format where the loss does not. 0 * inf = 0. */
        for (; i < n; i += W) {
            V target = target_at(t, mode, j + i, n - i);
            V gap = v_sub(v_set((real)0.5 * shift), v_mul(v_set((real)0.5), load(x + j + i, n - i, shift)));
            mass = a_add(mass, target);
            cost = a_add(cost, v_zero_where(v_eq(target, v_set(0)), v_mul(target, gap)));
        }
        i = 0;
    }
    for (; i + UNROLL * W <= n; i += UNROLL * W) {
        V part[UNROLL];
        for (int k = 0; k < UNROLL; k++)
            part[k] = exp_rest(x + j + i + k * W, W, top, shift, e ? e + j + i + k * W : NULL, &count);
        rest = a_add(rest, v_add(v_add(part[0], part[1]), v_add(part[2], part[3])));
    }
    for (; i < n; i += W)
        rest = a_add(rest, exp_rest(x + j + i, n - i, top, shift, e ? e + j + i : NULL, &count));
    *chunk = (sce_chunk){top, top == -INFINITY ? 0 : count, a_sum(rest), a_sum(mass), a_sum(cost)};
}

/* A row's sums: lse = top + log1p(rest), s = 1 + rest, where one of the maxima is the 1. */
typedef struct {
    double top, rest, mass, cost, log_sum;
    int broken; /* a NaN, a +inf, or nothing above -inf: there is no distribution */
} row_sums;

INLINE row_sums combine(const sce_chunk *chunk, ptrdiff_t chunks) {
    row_sums row = {-INFINITY, 0, 0, 0, 0, 0};
    double count = 0;
    for (ptrdiff_t k = 0; k < chunks; k++)
        row.top = chunk[k].top > row.top ? chunk[k].top : row.top;
    for (ptrdiff_t k = 0; k < chunks; k++) {
        const double down = row.top - chunk[k].top, shift = chunk[k].top == -INFINITY ? 0 : chunk[k].top;
        if (down == 0) {
            count += chunk[k].count;
            row.rest += chunk[k].rest;
        } else /* also where both tops are infinite: then the row is broken, and a NaN in it comes through */
            row.rest += (chunk[k].count + chunk[k].rest) * (down > 0 ? exp(-down) : 0);
        row.mass += chunk[k].mass;
        row.cost += 2 * chunk[k].cost;
        if (chunk[k].mass != 0)
            row.cost += chunk[k].mass * (row.top - shift);
    }
    row.broken = !(row.top > -INFINITY && row.top < INFINITY && row.rest == row.rest);
    row.log_sum = row.broken ? row.rest == row.rest ? 0 : NAN : log1p(row.rest += count - 1);
    return row;
}

/* grad = scale * e - gain * T over a chunk. */
INLINE void scale_chunk(real *grad, ptrdiff_t j, ptrdiff_t n, double scale, double gain, const target_row *t,
                        enum mode mode) {
    const V by = v_set((real)scale), pull = v_set((real)-gain);
    for (ptrdiff_t i = 0; i < n; i += W) {
        V value = v_mul(load(grad + j + i, n - i, 0), by);
        if (mode != ONE_LABEL)
            value = v_fma(pull, target_at(t, mode, j + i, n - i), value);
        store(grad + j + i, n - i, value);
    }
}

INLINE void fill(real *grad, ptrdiff_t n, real value) {
    for (ptrdiff_t j = 0; j < n; j++)
        grad[j] = value;
}

/* One row. `label` is -1 where there is none; mass is T at it, less the base. */
INLINE void one_row(const sce_call *call, ptrdiff_t i, ptrdiff_t label, double mass, const target_row *t,
                    enum mode mode) {
    const ptrdiff_t classes = call->classes;
    const real *x = (const real *)call->logits + i * classes;
    real *grad = call->grad ? (real *)call->grad + i * classes : NULL;
    const double weight = call->row_weight[i * call->row_weight_step];
    const int counts = weight != 0 && (mode == SOFT || label >= 0);
    if (!counts) {
        if (call->loss)
            ((real *)call->loss)[i] = 0;
        if (!call->row_max && !call->log_sum) {
            if (grad)
                fill(grad, classes, 0);
            return;
        }
    }
    const double x_label = label >= 0 ? x[label] : 0; /* before the gradient may overwrite it */
    sce_chunk *chunk = call->scratch;
    ptrdiff_t chunks = 0;
    for (ptrdiff_t j = 0; j < classes; j += SCE_CHUNK, chunks++) {
        const ptrdiff_t n = classes - j < SCE_CHUNK ? classes - j : SCE_CHUNK;
        sum_chunk(x, counts ? grad : NULL, j, n, t, mode, chunk + chunks);
    }
    const row_sums row = combine(chunk, chunks);
    const double s = 1 + row.rest, lse = row.top + row.log_sum;
    if (call->row_max)
        ((real *)call->row_max)[i] = (real)row.top;
    if (call->log_sum)
        ((real *)call->log_sum)[i] = (real)row.log_sum;
    if (!counts) {
        if (grad)
            fill(grad, classes, 0);
        return;
    }
    if (row.broken) {
        if (call->loss)
            ((real *)call->loss)[i] = (real)NAN;
        if (grad)
            fill(grad, classes, (real)NAN);
        return;
    }
    const double total = mode == SOFT ? row.mass : mass + call->base_total;
    if (call->loss) {
        double value = row.cost + total * row.log_sum;
        if (mode != SOFT && mass != 0)
            value += 2 * (mass * (0.5 * row.top - 0.5 * x_label));
        if (call->z_loss != 0)
            value += call->z_loss * lse * lse;
        ((real *)call->loss)[i] = (real)(weight * value);
    }
    if (!grad)
        return;
    const double gain = weight * call->upstream[i * call->upstream_step];
    const double z_pull = call->z_loss != 0 ? 2 * call->z_loss * lse : 0;
    double at_label = 0;
    if (mode != SOFT) {
        /* From the other classes' share, never as p - 1, which cancels as p approaches 1. */
        const double e_label = grad[label] * exp(chunk[label / SCE_CHUNK].top - row.top);
        const double others = x_label == row.top ? row.rest : s - e_label;
        const double base = mode == LABEL_AND_BASE ? t->base[label * t->base_step] : 0;
        at_label = gain * ((call->base_total + z_pull) * (e_label / s) - mass * (others / s) - base);
    }
    const double scale = gain * (total + z_pull) / s;
    for (ptrdiff_t k = 0; k < chunks; k++) {
        const ptrdiff_t j = k * SCE_CHUNK, n = classes - j < SCE_CHUNK ? classes - j : SCE_CHUNK;
        const double down = row.top - chunk[k].top;
        scale_chunk(grad, j, n, down == 0 ? scale : scale * exp(-down), gain, t, mode);
    }
    if (mode != SOFT)
        grad[label] = (real)at_label;
}

void ROWS_NAME(const sce_call *call, ptrdiff_t start, ptrdiff_t stop) {
    target_row t = {NULL, call->class_scale, call->class_scale_step, call->base_mass, call->base_mass_step};
    for (ptrdiff_t i = start; i < stop; i++) {
        if (call->labels == NULL) {
            t.soft = (const real *)call->targets + i * call->classes;
            one_row(call, i, -1, 0, &t, SOFT);
            continue;
        }
        /* Read once: another thread may change it after the shell's check, and it must not become an address. */
        int64_t label = *(const volatile int64_t *)(call->labels + i * call->labels_step);
        double mass = 0;
        if (label < 0 || label >= call->classes || label == call->ignore_index)
            label = -1;
        else
            mass = ((const real *)call->class_scale)[label * call->class_scale_step];
        if (call->base_mass)
            one_row(call, i, label, mass, &t, LABEL_AND_BASE);
        else
            one_row(call, i, label, mass, &t, ONE_LABEL);
    }
}
