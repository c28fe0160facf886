/* The interface between the Cython layer and the row kernels: one call, one table of instruction sets. */
#ifndef SOFTMAX_CE_ROWS_H
#define SOFTMAX_CE_ROWS_H

#include <stddef.h>
#include <stdint.h>

/* Classes summed at a time. The bits of a row depend on it, and on nothing else that could vary. */
#define SCE_CHUNK 2048

/* What `stream` is where the gradient goes past the caches also if threads share the chunks of one row; less: only where
 * each row is one thread's. */
#define SCE_STREAM_SHARED 2

/* Exponentials are kept as 2^SCE_RAISE times what they are: none of them is then subnormal. */
#define SCE_RAISE 64

/* Bytes of a cache line. */
#define SCE_LINE 64

/* Bytes from one row of kept exponentials to the next: whole vectors are written, beyond the last class too. */
#define SCE_ROW_ROOM(classes, itemsize) (((classes) * (itemsize) / SCE_LINE + 2) * SCE_LINE)

/* How far ahead of the maximum, in bytes, memory is asked for. */
#define SCE_PREFETCH 8192

/* What one chunk of a row contributes; combined in the order of the chunks. */
typedef struct {
    double top;    /* largest logit, NaN apart */
    double rest;   /* sum of exp(x - top) over all but the first that equals it */
    double mass;   /* sum of T */
    double cost;   /* sum of T * (shift - x) / 8, shift = top, or 0 where top is -inf */
    double shrink; /* exp(top - the row's top), once all chunks are there */
} sce_chunk;

/* A row's sums: lse = top + log1p(rest), s = 1 + rest, where one of the maxima is the 1. */
typedef struct {
    double top, rest, mass, cost, log_sum;
    int broken; /* a NaN, a +inf, or nothing above -inf: there is no distribution */
} sce_sums;

/* An array whose rows lie anywhere in memory: see strided.h. Strides are in bytes, axes from the outermost. */
#define SCE_ROW_AXES 4
enum sce_format { SCE_REAL, SCE_F16, SCE_BF16 };
typedef struct {
    char *data; /* NULL: not there */
    enum sce_format format;
    ptrdiff_t class_stride;
    ptrdiff_t shape[SCE_ROW_AXES], strides[SCE_ROW_AXES]; /* of the rows; the first axes may have one entry */
    int direct; /* rows follow each other in memory as the row kernels want them, and may be read or written there */
} sce_array;

static inline ptrdiff_t sce_distance(ptrdiff_t stride) { return stride < 0 ? -stride : stride; }

typedef struct {
    sce_array logits, targets, grad;
    ptrdiff_t itemsize; /* of R */
} sce_strided;

/* How strided rows are cut, and the scratch for it. */
typedef struct {
    ptrdiff_t rows, span; /* of a tile, at most; after which tiles begin anew */
    ptrdiff_t phase;      /* so many rows fewer in the first tile, so that the others begin with a cache line */
    int side_by_side;     /* rows lie closer to each other than classes do */
    ptrdiff_t step;       /* entries from class to class in a tile where rows lie side by side */
    void *tile, *targets; /* for logits and then the gradient; for soft targets */
    uint16_t *bits;       /* for 16-bit floats that are not cast at once */
    const char *ahead;    /* where the next tile's logits begin in memory, if rows lie side by side there; else NULL */
    ptrdiff_t ahead_stride, ahead_item; /* bytes from class to class, and from row to row */
} sce_tiles;

/* One kernel call; names, shapes and meaning as in softmax_ce/contract.py. A step of 0: one entry for all. */
typedef struct {
    const void *logits;
    ptrdiff_t classes;
    const int64_t *labels; /* NULL: soft labels */
    ptrdiff_t labels_step;
    int64_t ignore_index;
    const void *targets;
    const void *class_scale; /* label_mass, or target_scale for soft labels */
    ptrdiff_t class_scale_step;
    const void *base_mass; /* NULL: zero */
    ptrdiff_t base_mass_step;
    double base_total;
    double z_loss;
    const double *row_weight;
    ptrdiff_t row_weight_step;
    const double *upstream;
    ptrdiff_t upstream_step;
    void *loss, *grad, *row_max, *log_sum; /* NULL: not wanted */
    const sce_strided *strided;            /* where logits, targets and grad are instead; NULL: where it says above */
    sce_tiles *tiles;                      /* scratch of a strided call; NULL: sce_run makes it for itself */
    ptrdiff_t column_step;                 /* not 0: rows side by side, so many entries from one class to the next */
    int stream;                            /* whether the gradient goes past the caches: 0, 1 or SCE_STREAM_SHARED */
    int log_output;                        /* nonzero: grad gets log-probabilities; no labels, no row factors */
    ptrdiff_t keep;                        /* bytes of a row's exponentials that are kept for its gradient */
    sce_chunk *chunks;                     /* scratch: two entries for each chunk of a row */
    sce_sums *sums;                        /* scratch of a row in parts: SCE_SCALARS fills it, SCE_GRADIENT reads it */
    void *exps;                            /* scratch: a row's exponentials, NULL where they are not kept */
} sce_call;

typedef void (*sce_rows)(const sce_call *call, ptrdiff_t start, ptrdiff_t stop);

/* The steps of a row that several threads share, each over a range of its chunks. */
enum sce_part { SCE_SUMS, SCE_SCALARS, SCE_GRADIENT };
typedef void (*sce_row_part)(const sce_call *call, ptrdiff_t row, enum sce_part part, ptrdiff_t first, ptrdiff_t last);

typedef void (*sce_elementwise)(const void *in, void *out, ptrdiff_t n);

typedef struct {
    sce_elementwise widen_f16, narrow_f16, widen_bf16, narrow_bf16;
} sce_casts;

typedef struct {
    const char *name;
    sce_rows f32, f64;
    sce_row_part part_f32, part_f64;
    sce_elementwise exp_f32, exp_f64; /* for arguments <= 0 */
    const sce_casts *casts;
} sce_isa;

/* Run a kernel with its scratch; -1 where there is no memory for that. */
int sce_run(sce_rows rows, sce_call *call, ptrdiff_t start, ptrdiff_t stop, ptrdiff_t itemsize);

/* The scratch for a strided call, one piece of memory for free(); NULL where there is none. */
sce_tiles *sce_new_tiles(const sce_call *call);

/* The instruction set of this name, or the best one if name is NULL; NULL if this CPU lacks it or it is unknown. */
const sce_isa *sce_select(const char *name);

/* Names of the instruction sets that were compiled and that this CPU and system support, best first. */
ptrdiff_t sce_supported(const char **names, ptrdiff_t room);

#endif
