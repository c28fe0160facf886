/* The first step of a row: each chunk's maximum and sums, and what the chunks come to. */

/* A running maximum of n entries from x on; a NaN is passed over. */
typedef struct {
    const real *x;
    ptrdiff_t n, done;
    V top[UNROLL];
} maximum;

INLINE maximum max_of(const real *x, ptrdiff_t n) {
    maximum m = {x, n, 0, {v_set((real)-INFINITY), v_set((real)-INFINITY), v_set((real)-INFINITY), v_set((real)-INFINITY)}};
    return m;
}

INLINE void max_block(maximum *m) {
    /* The processor's own prefetcher follows one stream well, not three: ask for what comes next, into L2. */
    for (int k = 0; k < UNROLL; k++)
        __builtin_prefetch((const char *)(m->x + m->done + k * W) + SCE_PREFETCH, 0, 2);
    for (int k = 0; k < UNROLL; k++)
        m->top[k] = v_max(v_load(m->x + m->done + k * W), m->top[k]); /* in this order a NaN is passed over */
    m->done += BLOCK;
}

INLINE real max_rest(maximum *m) {
    while (m->done + BLOCK <= m->n)
        max_block(m);
    for (; m->done < m->n; m->done += W)
        m->top[0] = v_max(load(m->x + m->done, m->n - m->done, (real)-INFINITY), m->top[0]);
    return v_hmax(v_max(v_max(m->top[0], m->top[1]), v_max(m->top[2], m->top[3])));
}

/* Sums of T and of T * (shift - x) / 2. Halves, since shift - x may exceed the format where the loss does not.
 * 0 * inf = 0. */
INLINE void sum_targets(const real *x, ptrdiff_t j, ptrdiff_t n, real shift, const target_row *t, enum mode mode,
                        sce_chunk *chunk) {
    A mass = a_zero(), cost = a_zero();
    for (ptrdiff_t i = 0; i < n; i += W) {
        V target = target_at(t, mode, j + i, n - i);
        V gap = v_sub(v_set((real)0.5 * shift), v_mul(v_set((real)0.5), load(x + i, n - i, shift)));
        mass = a_add(mass, target);
        cost = a_add(cost, v_zero_where(v_eq(target, v_set(0)), v_mul(target, gap)));
    }
    chunk->mass = a_sum(mass);
    chunk->cost = a_sum(cost);
}

/* Raised exp(x - shift) of at most a block, into e if there is one. Summed, or counted where x is the maximum, which is
 * rare: the test is cheaper than two masked additions a vector. */
INLINE V add_exps(const real *x, ptrdiff_t n, V top, V shift, real *e, V *count) {
    V value[UNROLL], sum = v_set(0);
    M is_top[UNROLL];
    int vectors = 0, tops = 0;
    for (ptrdiff_t i = 0; i < n; i += W, vectors++) {
        const V v = load(x + i, n - i, (real)-INFINITY);
        value[vectors] = v_exp_raised(v_sub(v, shift));
        is_top[vectors] = v_eq(v, top);
        if (e)
            store(e + i, n - i, value[vectors]);
    }
    for (int k = 0; k < vectors; k++)
        tops |= m_any(is_top[k]);
    for (int k = 0; k < vectors; k++) {
        if (__builtin_expect(tops, 0)) {
            *count = v_add_where(is_top[k], *count, v_set(1));
            sum = v_add_unless(is_top[k], sum, value[k]);
        } else {
            sum = v_add(sum, value[k]);
        }
    }
    return sum;
}

/* The chunk of n classes at x, whose maximum is known; meanwhile the next chunk's maximum and a chunk of output. */
INLINE void sum_chunk(const real *x, ptrdiff_t n, real top, real *e, maximum *next, output *out, enum mode mode,
                      int keep, sce_chunk *chunk) {
    const real shift = top == -INFINITY ? 0 : top; /* -inf - -inf would be NaN */
    const V tops = v_set(top), shifts = v_set(shift);
    A rest = a_zero();
    V count = v_set(0);
    ptrdiff_t i = 0;
    for (; i + BLOCK <= n; i += BLOCK) {
        rest = a_add(rest, add_exps(x + i, BLOCK, tops, shifts, e ? e + i : NULL, &count));
        if (next->done + BLOCK <= next->n)
            max_block(next);
        if (out->j + BLOCK <= out->end)
            write_vectors(out, UNROLL, mode, keep);
    }
    for (; i < n; i += W)
        rest = a_add(rest, add_exps(x + i, n - i < W ? n - i : W, tops, shifts, e ? e + i : NULL, &count));
    chunk->top = top;
    chunk->count = top == -INFINITY ? 0 : a_sum(a_add(a_zero(), count));
    chunk->rest = a_sum(rest) * LOWER;
    chunk->mass = chunk->cost = 0;
}

INLINE double shrink(double down) {
    return down == 0 ? 1 : down > 0 ? exp(-down) : 0; /* NaN where both tops are infinite: the row is broken */
}

INLINE sce_sums combine(const sce_chunk *chunk, ptrdiff_t chunks) {
    sce_sums row = {-INFINITY, 0, 0, 0, 0, 0};
    double count = 0;
    for (ptrdiff_t k = 0; k < chunks; k++)
        row.top = chunk[k].top > row.top ? chunk[k].top : row.top;
    for (ptrdiff_t k = 0; k < chunks; k++) {
        const double down = row.top - chunk[k].top;
        if (down == 0) {
            count += chunk[k].count;
            row.rest += chunk[k].rest;
        } else /* also where both tops are infinite: then the row is broken, and a NaN in it comes through */
            row.rest += (chunk[k].count + chunk[k].rest) * shrink(down);
        row.mass += chunk[k].mass;
        row.cost += 2 * chunk[k].cost;
        if (chunk[k].mass != 0)
            row.cost += 2 * (chunk[k].mass * (0.5 * row.top - 0.5 * (chunk[k].top == -INFINITY ? 0 : chunk[k].top)));
    }
    row.broken = !(row.top > -INFINITY && row.top < INFINITY) || isnan(row.rest);
    if (!row.broken) {
        row.rest += count - 1;
        row.log_sum = log1p(row.rest);
    } else if (isnan(row.rest)) {
        row.log_sum = NAN; /* else 0: lse is then the top, be it infinite */
    }
    return row;
}
