/* The second step of a row: its gradient, written a few vectors at a time, into the cache or past it. */

/* The gradient of one row, being written from class j on: scale * lower * exp(x - top), or where there is more than one
 * target gain * (that - T), which is exactly 0 for a single class; and its own value at the label. `from` holds the
 * exponentials if they were kept, else the logits. */
typedef struct {
    real *grad; /* NULL: no row waits */
    const real *from;
    target_row t;
    ptrdiff_t j, end;
    ptrdiff_t label; /* -1: none */
    real at_label;
    V scale, lower, gain, top; /* of scale and lower, the one that can lowers what is raised */
    /* Streams go past the caches in whole aligned lines. What a row leaves of a line waits for the next row: two
     * stores to a line that is not in the cache would each cost a trip to memory. */
    int stream;
    real *line;         /* address of the line under way, NULL: none */
    ptrdiff_t low, high; /* which of its lanes are filled */
    real part[W] __attribute__((aligned(64)));
} output;

INLINE V value_at(const output *out, ptrdiff_t j, ptrdiff_t n, enum mode mode, int keep) {
    V e = load(out->from + j, n, 0);
    if (!keep)
        e = v_exp_raised(v_sub(e, out->top));
    /* Lowered by a fused multiplication, for the reason given at v_exp. */
    V value = v_fma(v_mul(e, out->scale), out->lower, v_set(0));
    return mode == ONE_LABEL ? value : v_mul(out->gain, v_sub(value, target_at(&out->t, mode, j, n)));
}

/* n <= W entries from class j on to p, in the cache. */
INLINE void put(const output *out, real *p, ptrdiff_t j, ptrdiff_t n, enum mode mode, int keep) {
    store(p, n, value_at(out, j, n, mode, keep));
    if (j <= out->label && out->label < j + n)
        p[out->label - j] = out->at_label;
}

INLINE void end_line(output *out) {
    if (out->line && out->low == 0 && out->high == W)
        v_stream(out->line, v_load(out->part));
    else if (out->line)
        memcpy(out->line + out->low, out->part + out->low, (size_t)(out->high - out->low) * sizeof(real));
    out->line = NULL;
}

INLINE void put_in_line(output *out, ptrdiff_t n, enum mode mode, int keep) {
    real *p = out->grad + out->j;
    const ptrdiff_t lane = (ptrdiff_t)((uintptr_t)p / sizeof(real) % W);
    if (out->line != p - lane || out->high != lane) {
        end_line(out);
        out->line = p - lane;
        out->low = lane;
    }
    put(out, out->part + lane, out->j, n, mode, keep);
    out->high = lane + n;
    out->j += n;
    if (out->high == W)
        end_line(out);
}

/* Begin a row, or a part of one: what belongs to a line under way, so that whole lines follow. */
INLINE void begin_row(output *out, enum mode mode, int keep) {
    const ptrdiff_t lane = (ptrdiff_t)((uintptr_t)(out->grad + out->j) / sizeof(real) % W), n = out->end - out->j;
    if (out->stream && lane)
        put_in_line(out, W - lane < n ? W - lane : n, mode, keep);
}

INLINE void write_vectors(output *out, int count, enum mode mode, int keep) {
    real *p = out->grad + out->j;
    const int has_label = out->j <= out->label && out->label < out->j + count * W;
    for (int k = 0; k < count; k++) {
        if (has_label && out->stream) {
            real at[W] __attribute__((aligned(64)));
            put(out, at, out->j + k * W, W, mode, keep);
            v_stream(p + k * W, v_load(at));
        } else if (out->stream) {
            v_stream(p + k * W, value_at(out, out->j + k * W, W, mode, keep));
        } else {
            v_store(p + k * W, value_at(out, out->j + k * W, W, mode, keep));
        }
    }
    if (has_label && !out->stream)
        out->grad[out->label] = out->at_label;
    out->j += count * W;
}

INLINE void write_rest(output *out, enum mode mode, int keep) {
    while (out->j + BLOCK <= out->end)
        write_vectors(out, UNROLL, mode, keep);
    while (out->j + W <= out->end)
        write_vectors(out, 1, mode, keep);
    if (out->j < out->end && out->stream) {
        put_in_line(out, out->end - out->j, mode, keep);
    } else if (out->j < out->end) {
        put(out, out->grad + out->j, out->j, out->end - out->j, mode, keep);
        out->j = out->end;
    }
}
