/* Replays a file of vectors (vectors.py) on the row kernels, without Python.
 *
 *     replay FILE [ISA ...] [--samples N]
 *     replay FILE [ISA ...] --bits
 *
 * ISA: the instruction sets to run, by default all that this CPU has, and the model of AVX-512 (vec_model.h). N: how many
 * arguments exp is measured at.
 *
 * Each vector is run once over all its rows and judged: |result - right| must be at most the bound, NaN and infinity
 * must be where they must be. Then it is run again in every other way (rows one by one, uneven ranges, streamed, in
 * place, off alignment, chunk by chunk ...), which must not change a bit. Ends at the first violation with exit code 1;
 * exit code 2: the file or the command is wrong. Prints the worst error over its bound.
 *
 * With --bits nothing is judged: of each vector a line is printed with the instruction set, the format, hashes of the
 * bits of the loss, the gradient, lse and log_sum, and the name, for comparison between machines. */
#include "checks.h"
#include "model.h"
#include "vectors.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define GUARD 128 /* bytes before and after each output that nobody may write */
#define PATTERN 0x5a

static double worst[2][4]; /* error over bound: float32, float64; loss, gradient, lse, log_sum */
static const char *const judged[4] = {"loss", "gradient", "lse", "log_sum"};

/* The outputs of a run. */
enum { LOSS, GRAD, ROW_MAX, LOG_SUM, OUTPUTS };
static const char *const output_names[OUTPUTS] = {"loss", "gradient", "row_max", "log_sum"};
typedef struct {
    char *memory;
    char *data; /* `bytes` of it between two guards */
    size_t bytes;
} buffer;

/* One way to run a vector. */
typedef struct {
    const char *what;
    enum { WHOLE, ROW_BY_ROW, UNEVEN, INNER, BY_CHUNK } cut;
    int stream, in_place, off; /* off: by how many entries the arrays are off alignment */
    int keep;                  /* whether exponentials are kept for the gradient */
    unsigned wanted;           /* outputs, a bit each */
} way;

#define ALL ((1u << OUTPUTS) - 1)
static const way ways[] = {
    {"rows one by one, last to first", ROW_BY_ROW, 0, 0, 0, 0, ALL},
    {"uneven ranges of rows", UNEVEN, 0, 0, 0, 0, ALL},
    {"all rows but the first and the last", INNER, 0, 0, 0, 0, ALL},
    {"exponentials kept", WHOLE, 0, 0, 0, 1, ALL},
    {"exponentials kept, past the caches, uneven ranges, off alignment", UNEVEN, 1, 0, 1, 1, ALL},
    {"exponentials kept, in place", UNEVEN, 0, 1, 0, 1, ALL},
    {"past the caches", WHOLE, 1, 0, 0, 0, ALL},
    {"past the caches, uneven ranges, off alignment", UNEVEN, 1, 0, 1, 0, ALL},
    {"off alignment", WHOLE, 0, 0, 1, 0, ALL},
    {"in place", UNEVEN, 0, 1, 0, 0, ALL},
    {"loss alone", WHOLE, 0, 0, 0, 0, 1u << LOSS},
    {"gradient alone", WHOLE, 0, 0, 0, 0, 1u << GRAD},
    {"log-sum-exp alone", WHOLE, 0, 0, 0, 0, 1u << ROW_MAX | 1u << LOG_SUM},
    {"chunk by chunk, last to first", BY_CHUNK, 0, 0, 0, 0, ALL},
    {"chunk by chunk, past the caches, off alignment", BY_CHUNK, 1, 0, 1, 0, ALL},
};

static buffer new_buffer(size_t bytes, size_t offset) {
    buffer b = {room(bytes + 2 * GUARD + 64 + offset), NULL, bytes};
    memset(b.memory, PATTERN, bytes + 2 * GUARD + 64 + offset);
    b.data = b.memory + GUARD;
    b.data += (-(uintptr_t)b.data & 63) + offset;
    return b;
}

static int untouched(const char *from, const char *to) {
    for (; from < to; from++)
        if (*from != PATTERN)
            return 0;
    return 1;
}

static double real_at(const void *array, ptrdiff_t i, int64_t size) {
    return size == 4 ? ((const float *)array)[i] : ((const double *)array)[i];
}

static int same(const void *left, const void *right, ptrdiff_t i, int64_t size) {
    const size_t at = (size_t)i * (size_t)size;
    return memcmp((const char *)left + at, (const char *)right + at, (size_t)size) == 0 ||
           (isnan(real_at(left, i, size)) && isnan(real_at(right, i, size))); /* a NaN's payload says nothing */
}

static sce_call call_of(const vector *v, const void *logits, const buffer out[OUTPUTS], const way *how) {
    sce_call call = {
        .logits = logits,
        .classes = v->classes,
        .labels = v->labels,
        .labels_step = v->rows != 1,
        .ignore_index = v->ignore_index,
        .targets = v->targets,
        .class_scale = v->class_scale,
        .class_scale_step = v->scales != 1,
        .base_mass = v->bases ? v->base_mass : NULL,
        .base_mass_step = v->bases != 1,
        .base_total = v->hard ? v->base_total : 0,
        .z_loss = v->z_loss,
        .row_weight = v->row_weight,
        .row_weight_step = v->weights != 1,
        .upstream = v->upstream,
        .upstream_step = v->upstreams != 1,
        .loss = how->wanted >> LOSS & 1 ? out[LOSS].data : NULL,
        .grad = how->wanted >> GRAD & 1 ? out[GRAD].data : NULL,
        .row_max = how->wanted >> ROW_MAX & 1 ? out[ROW_MAX].data : NULL,
        .log_sum = how->wanted >> LOG_SUM & 1 ? out[LOG_SUM].data : NULL,
        .stream = how->stream,
        .keep = how->keep ? PTRDIFF_MAX : 0,
    };
    return call;
}

static void run_rows(const sce_isa *isa, const vector *v, sce_call *call, ptrdiff_t start, ptrdiff_t stop) {
    if (sce_run(v->size == 4 ? isa->f32 : isa->f64, call, start, stop, (ptrdiff_t)v->size) != 0) {
        fprintf(stderr, "replay: no memory for a row kernel's scratch\n");
        exit(2);
    }
}

/* As several threads would share the row: sums, then scalars, then the gradient, in any order within a step. */
static void run_chunks(const sce_isa *isa, const vector *v, sce_call *call) {
    const sce_row_part part = v->size == 4 ? isa->part_f32 : isa->part_f64;
    const ptrdiff_t chunks = (v->classes + SCE_CHUNK - 1) / SCE_CHUNK;
    sce_chunk *sums = room(2 * (size_t)chunks * sizeof *sums);
    sce_sums row;
    call->chunks = sums;
    call->sums = &row;
    for (ptrdiff_t i = 0; i < v->rows; i++) {
        for (ptrdiff_t k = chunks - 1; k >= 0; k--)
            part(call, i, SCE_SUMS, k, k + 1);
        part(call, i, SCE_SCALARS, 0, 0);
        if (call->grad)
            for (ptrdiff_t k = chunks - 1; k >= 0; k--)
                part(call, i, SCE_GRADIENT, k, k + 1);
    }
    free(sums);
}

/* Runs a vector into out, which is allocated here; the rows written are [*first, *last). */
static void run(const sce_isa *isa, const vector *v, const way *how, buffer out[OUTPUTS], ptrdiff_t *first,
                ptrdiff_t *last) {
    const size_t size = (size_t)v->size, rows = (size_t)v->rows * size, all = rows * (size_t)v->classes;
    const size_t offset = (size_t)how->off * size;
    for (int k = 0; k < OUTPUTS; k++)
        out[k] = new_buffer(k == GRAD ? all : rows, offset);
    buffer copy = new_buffer(all, offset);
    memcpy(copy.data, v->logits, all);
    if (how->in_place)
        memcpy(out[GRAD].data, v->logits, all);
    sce_call call = call_of(v, how->in_place ? out[GRAD].data : copy.data, out, how);
    *first = how->cut == INNER && v->rows > 2;
    *last = v->rows - *first;
    if (how->cut == ROW_BY_ROW) {
        for (ptrdiff_t i = v->rows - 1; i >= 0; i--)
            run_rows(isa, v, &call, i, i + 1);
    } else if (how->cut == UNEVEN) {
        ptrdiff_t length = 1;
        for (ptrdiff_t i = 0; i < v->rows; i += length, length += 2)
            run_rows(isa, v, &call, i, i + length < v->rows ? i + length : v->rows);
    } else if (how->cut == BY_CHUNK) {
        run_chunks(isa, v, &call);
    } else {
        run_rows(isa, v, &call, *first, *last);
    }
    free(copy.memory);
}

static void free_outputs(buffer out[OUTPUTS]) {
    for (int k = 0; k < OUTPUTS; k++)
        free(out[k].memory);
}

static int violation(const sce_isa *isa, const vector *v, const char *what) {
    fprintf(stderr, "replay: VIOLATION: %s, float%d, \"%s\": %s\n", isa->name, (int)v->size * 8, v->name, what);
    return 0;
}

/* One result; error over bound into *over. */
static int judge(double got, const expected *e, ptrdiff_t i, double *over) {
    const double right = e->high[i];
    *over = 0;
    if (isnan(right))
        return isnan(got);
    if (isinf(right))
        return got == right;
    if (!isfinite(got))
        return 0;
    const double error = fabs((got - right) - e->low[i]);
    if (error != 0)
        *over = error / e->bound[i];
    return error <= e->bound[i];
}

/* What is judged: entry i of quantity q, in the order of `judged`. */
static double got_at(const vector *v, const buffer out[OUTPUTS], int q, ptrdiff_t i) {
    if (q != 2)
        return real_at(out[q == 0 ? LOSS : q == 1 ? GRAD : LOG_SUM].data, i, v->size);
    if (v->size == 4) /* lse, rounded as the caller rounds it */
        return ((const float *)out[ROW_MAX].data)[i] + ((const float *)out[LOG_SUM].data)[i];
    return ((const double *)out[ROW_MAX].data)[i] + ((const double *)out[LOG_SUM].data)[i];
}

static int judge_all(const sce_isa *isa, const vector *v, const buffer out[OUTPUTS]) {
    const expected *const rights[4] = {&v->loss, &v->grad, &v->lse, &v->log_sum};
    for (int q = 0; q < 4; q++)
        for (ptrdiff_t i = 0; i < rights[q]->n; i++) {
            double over;
            const double got = got_at(v, out, q, i);
            if (!judge(got, rights[q], i, &over)) {
                char what[200];
                const ptrdiff_t row = q == 1 ? i / v->classes : i;
                snprintf(what, sizeof what, "%s of row %td, entry %td: %.17g, right is %.17g, off by at most %.3g; %.3g bounds",
                         judged[q], row, q == 1 ? i % v->classes : 0, got, rights[q]->high[i], rights[q]->bound[i], over);
                return violation(isa, v, what);
            }
            double *most = &worst[v->size == 8][q];
            *most = over > *most ? over : *most;
        }
    return 1;
}

/* The outputs of another way to run: the same bits in the rows that were asked for, nothing written elsewhere. */
static int agrees(const sce_isa *isa, const vector *v, const way *how, const buffer whole[OUTPUTS],
                  const buffer out[OUTPUTS], ptrdiff_t first, ptrdiff_t last) {
    char what[200];
    for (int k = 0; k < OUTPUTS; k++) {
        const ptrdiff_t per_row = k == GRAD ? v->classes : 1;
        const int is_wanted = how->wanted >> k & 1;
        const ptrdiff_t begin = is_wanted ? first * per_row : 0, end = is_wanted ? last * per_row : 0;
        const char *data = out[k].data;
        if (!untouched(data - GUARD, data + begin * v->size) ||
            !untouched(data + end * v->size, data + out[k].bytes + GUARD)) {
            snprintf(what, sizeof what, "%s: %s written where it was not asked for", how->what, output_names[k]);
            return violation(isa, v, what);
        }
        for (ptrdiff_t i = begin; i < end; i++)
            if (!same(data, whole[k].data, i, v->size)) {
                snprintf(what, sizeof what, "%s: %s of row %td, entry %td: %a, and %a with all rows at once", how->what,
                         output_names[k], i / per_row, i % per_row, real_at(data, i, v->size),
                         real_at(whole[k].data, i, v->size));
                return violation(isa, v, what);
            }
    }
    return 1;
}

static int replay(const sce_isa *isa, const vector *v) {
    const way at_once = {"all rows at once", WHOLE, 0, 0, 0, 0, ALL};
    buffer whole[OUTPUTS], out[OUTPUTS];
    ptrdiff_t first, last;
    run(isa, v, &at_once, whole, &first, &last);
    int good = judge_all(isa, v, whole) && agrees(isa, v, &at_once, whole, whole, first, last);
    for (size_t k = 0; good && k < sizeof ways / sizeof *ways; k++) {
        if (ways[k].cut == BY_CHUNK && v->classes <= 2 * SCE_CHUNK) /* such rows are never shared */
            continue;
        run(isa, v, &ways[k], out, &first, &last);
        good = agrees(isa, v, &ways[k], whole, out, first, last);
        free_outputs(out);
    }
    free_outputs(whole);
    return good;
}

static int replay_file(const sce_isa *isa, const char *path, int64_t samples) {
    vector_file file = open_vectors(path);
    vector v;
    memset(worst, 0, sizeof worst);
    while (next_vector(&file, &v)) {
        const int good = replay(isa, &v);
        free_vector(&v);
        if (!good)
            return 0;
    }
    for (int type = 0; type < 2; type++) {
        printf("%-9s float%d:", isa->name, type ? 64 : 32);
        for (int q = 0; q < 4; q++)
            printf("  %s %.3f", judged[q], worst[type][q]);
        printf("  (worst error over bound)\n");
    }
    printf("%-9s %lld vectors within their bounds, and the same bits in all %zu other ways to run them\n", isa->name,
           (long long)file.count, sizeof ways / sizeof *ways);
    return casts_are_right(isa) && (samples == 0 || exp_is_accurate(isa, file.exp_ulp, samples));
}

/* Fowler, Noll and Vo's hash (FNV-1a, 64 bits); all NaNs are one, and the sign of zero counts. */
static uint64_t hash_of(const vector *v, const buffer out[OUTPUTS], int q) {
    uint64_t hash = 0xcbf29ce484222325;
    const ptrdiff_t n = q == 1 ? v->rows * v->classes : v->rows;
    for (ptrdiff_t i = 0; i < n; i++) {
        const double got = got_at(v, out, q, i);
        uint64_t bits = 0x7ff8000000000000;
        if (!isnan(got))
            memcpy(&bits, &got, sizeof bits);
        for (int byte = 0; byte < 64; byte += 8)
            hash = (hash ^ (bits >> byte & 0xff)) * 0x100000001b3;
    }
    return hash;
}

static void print_bits(const sce_isa *isa, const char *path) {
    const way at_once = {"all rows at once", WHOLE, 0, 0, 0, 0, ALL};
    vector_file file = open_vectors(path);
    vector v;
    while (next_vector(&file, &v)) {
        buffer out[OUTPUTS];
        ptrdiff_t first, last;
        run(isa, &v, &at_once, out, &first, &last);
        printf("%s float%d", isa->name, (int)v.size * 8);
        for (int q = 0; q < 4; q++)
            printf(" %016llx", (unsigned long long)hash_of(&v, out, q));
        printf(" %s\n", v.name);
        free_outputs(out);
        free_vector(&v);
    }
}

static int usage(void) {
    const char *names[8];
    const ptrdiff_t count = supported_isas(names, 8);
    fprintf(stderr, "usage: replay FILE [ISA ...] [--samples N | --bits]; this CPU has:");
    for (ptrdiff_t i = 0; i < count; i++)
        fprintf(stderr, " %s", names[i]);
    fprintf(stderr, "\n");
    return 2;
}

int main(int argc, char **argv) {
    const char *names[8];
    ptrdiff_t count = 0;
    int64_t samples = 1 << 22;
    int bits = 0;
    for (int i = 2; i < argc; i++) {
        if (strcmp(argv[i], "--samples") == 0) {
            char *end = "";
            samples = i + 1 < argc ? strtoll(argv[++i], &end, 10) : -1;
            if (samples < 0 || *end)
                return usage();
        } else if (strcmp(argv[i], "--bits") == 0) {
            bits = 1;
        } else if (count == 8 || select_isa(argv[i]) == NULL) {
            return usage();
        } else {
            names[count++] = argv[i];
        }
    }
    if (argc < 2)
        return usage();
    if (count == 0)
        count = supported_isas(names, 8);
    for (ptrdiff_t i = 0; i < count && bits; i++)
        print_bits(select_isa(names[i]), argv[1]);
    for (ptrdiff_t i = 0; i < count && !bits; i++)
        if (!replay_file(select_isa(names[i]), argv[1], samples))
            return 1;
    return 0;
}
