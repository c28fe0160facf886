/* Few classes where rows lie side by side, call->column_step entries from one class to the next: a tile of strided.h.
 * What rows_lanes.h wants in its lanes is then a vector in memory, and nothing is transposed. */

INLINE void load_side_by_side(const real *x, ptrdiff_t step, ptrdiff_t classes, ptrdiff_t n, V *column) {
    if (n == W)
        for (ptrdiff_t j = 0; j < classes; j++)
            column[j] = v_load(x + j * step);
    else
        for (ptrdiff_t j = 0; j < classes; j++)
            column[j] = v_load_first(x + j * step, n, v_set(0));
}

INLINE void store_side_by_side(real *g, ptrdiff_t step, ptrdiff_t classes, ptrdiff_t n, const V *column,
                               unsigned left) {
    real lanes[W];
    if (n == W && left == 0) {
        for (ptrdiff_t j = 0; j < classes; j++)
            v_store(g + j * step, column[j]);
        return;
    }
    for (ptrdiff_t j = 0; j < classes; j++) {
        v_store(lanes, column[j]);
        for (ptrdiff_t r = 0; r < n; r++)
            if (!(left >> r & 1))
                g[j * step + r] = lanes[r];
    }
}

/* The same rows of the next tile, a line of each class, where the processor's own prefetcher does not look: memory is
 * read while this tile is computed. */
INLINE void ask_ahead(const sce_tiles *tiles, ptrdiff_t classes, ptrdiff_t i) {
    if (tiles->ahead == NULL || i * tiles->ahead_item % SCE_LINE != 0)
        return;
    const char *p = tiles->ahead + i * tiles->ahead_item;
    for (ptrdiff_t j = 0; j < classes; j++)
        __builtin_prefetch(p + j * tiles->ahead_stride, 0, 2);
}

/* Any number of classes: once, not in each body. */
APART void load_any_rows(const real *x, ptrdiff_t step, ptrdiff_t classes, ptrdiff_t n, ptrdiff_t whole, V *column) {
    if (step)
        load_side_by_side(x, step, classes, n, column);
    else
        load_columns(x, classes, n, whole, column);
}

APART void store_any_rows(real *g, ptrdiff_t step, ptrdiff_t classes, ptrdiff_t n, ptrdiff_t whole, V *column,
                          unsigned left) {
    if (step)
        store_side_by_side(g, step, classes, n, column, left);
    else
        store_columns(g, classes, n, whole, column, left);
}

/* Rows i to i + n of logits or targets. */
INLINE void load_rows(const sce_call *call, const void *from, ptrdiff_t i, ptrdiff_t n, ptrdiff_t whole, V *column) {
    const ptrdiff_t step = call->column_step, classes = call->classes;
    const real *x = (const real *)from + (step ? i : i * classes);
    if (step && from == call->logits)
        ask_ahead(call->tiles, classes, i);
    if (!__builtin_constant_p(classes))
        load_any_rows(x, step, classes, n, whole, column);
    else if (step)
        load_side_by_side(x, step, classes, n, column);
    else
        load_columns(x, classes, n, whole, column);
}

/* The gradient of rows i to i + n but for those that are left. */
INLINE void store_rows(const sce_call *call, ptrdiff_t i, ptrdiff_t n, ptrdiff_t whole, V *column, unsigned left) {
    const ptrdiff_t step = call->column_step, classes = call->classes;
    real *g = (real *)call->grad + (step ? i : i * classes);
    if (!__builtin_constant_p(classes))
        store_any_rows(g, step, classes, n, whole, column, left);
    else if (step)
        store_side_by_side(g, step, classes, n, column, left);
    else
        store_columns(g, classes, n, whole, column, left);
}

/* The call without its first i rows, logits, targets and gradient apart. */
INLINE sce_call call_from(const sce_call *call, ptrdiff_t i) {
    sce_call rest = *call;
    if (rest.labels)
        rest.labels += i * rest.labels_step;
    rest.row_weight += i * rest.row_weight_step;
    rest.upstream += i * rest.upstream_step;
    if (rest.loss)
        rest.loss = (real *)rest.loss + i;
    if (rest.row_max)
        rest.row_max = (real *)rest.row_max + i;
    if (rest.log_sum)
        rest.log_sum = (real *)rest.log_sum + i;
    return rest;
}

/* A row that is not ordinary, by the row kernel; from a tile, gathered and put back. */
static __attribute__((noinline)) void one_row_again(const sce_call *call, ptrdiff_t i, enum mode mode) {
    const ptrdiff_t classes = call->classes, step = call->column_step;
    real x[LANES], t[LANES];
    if (step == 0) {
        rows_one_by_one(call, i, i + 1, mode);
        return;
    }
    sce_call one = call_from(call, i);
    for (ptrdiff_t j = 0; j < classes; j++)
        x[j] = ((const real *)call->logits)[i + j * step];
    if (mode == SOFT)
        for (ptrdiff_t j = 0; j < classes; j++)
            t[j] = ((const real *)call->targets)[i + j * step];
    one.column_step = 0;
    one.logits = x;
    one.targets = mode == SOFT ? t : NULL;
    one.grad = call->grad ? x : NULL;
    rows_one_by_one(&one, 0, 1, mode);
    if (call->grad)
        for (ptrdiff_t j = 0; j < classes; j++)
            ((real *)call->grad)[i + j * step] = x[j];
}
