/* The interface between the Cython layer and the row kernels: the call, and the table of instruction sets. */
#ifndef SOFTMAX_CE_ROWS_H
#define SOFTMAX_CE_ROWS_H

#include <stddef.h>
#include <stdint.h>

#include "kl.h"
#include "sizes.h"

/* Classes in a chunk, which are summed together. A row's bits depend on this number, and on nothing else that could
 * vary. */
#define SCE_CHUNK 2048

/* The value of `stream` with which the gradient bypasses the caches even where threads share the chunks of one row.
 * With a lower value it does so only where each row belongs to one thread. */
#define SCE_STREAM_SHARED 2

/* Exponentials are stored times 2^SCE_RAISE, so that none of them is subnormal. */
#define SCE_RAISE 64

/* Bytes from one row of kept exponentials to the next. Whole vectors are written, beyond the last class too. */
#define SCE_KEPT_ROW_BYTES(classes, itemsize) (((classes) * (itemsize) / SCE_LINE + 2) * SCE_LINE)

/* The sums of one chunk of a row. They are combined in the order of the chunks. */
typedef struct {
    double top;    /* largest logit, NaN left out */
    double rest;   /* sum of exp(x - top) over all but the first that equals it */
    double mass;   /* sum of T */
    double cost;   /* sum of T * (shift - x) / 8, shift = top, or 0 where top is -inf */
    double rescale; /* exp(top - the row's top), set once all chunks are summed */
} sce_chunk;

/* A row's sums: lse = top + log1p(rest), s = 1 + rest, where one of the maxima is the 1. */
typedef struct {
    double top, rest, mass, cost, log_sum;
    int degenerate; /* the row has a NaN or +inf, or only -inf: there is no distribution */
} sce_sums;

/* An array with any strides: see strided.h. Strides are in bytes, axes are listed from the outermost. */
#define SCE_ROW_AXES 4
enum sce_format { SCE_REAL, SCE_F16, SCE_BF16, SCE_F32 }; /* SCE_F32: a float32 output where R is float64 */
typedef struct {
    char *data; /* NULL: absent */
    enum sce_format format;
    ptrdiff_t class_stride;
    ptrdiff_t shape[SCE_ROW_AXES], strides[SCE_ROW_AXES]; /* of the rows; leading axes may have length 1 */
    int direct; /* C-contiguous, so that the row kernels may read or write the rows where they are */
} sce_array;

static inline ptrdiff_t sce_distance(ptrdiff_t stride) { return stride < 0 ? -stride : stride; }

typedef struct {
    sce_array logits, targets, grad, hess;
    ptrdiff_t itemsize; /* of R */
} sce_strided;

/* For how many chunks beside the pending row's, slopes are held: see rows_ready.h. */
#define SCE_AHEAD 3

/* How strided rows are cut into tiles, and the scratch for a tile. */
typedef struct {
    ptrdiff_t rows, span; /* the most rows in a tile; the number of rows after which the cut starts over */
    ptrdiff_t phase;      /* how many fewer rows the first tile has, so that the others begin at a cache line */
    int side_by_side;     /* neighbouring rows are closer in memory than neighbouring classes */
    ptrdiff_t step;       /* entries from class to class in a tile whose rows lie side by side */
    void *tile, *targets; /* the logits and then the gradient; the soft targets */
    void *slopes;         /* of the cap on the logits */
    ptrdiff_t kept_row;   /* entries from row to row of `targets`, where rows are transformed chunk by chunk */
    void *hess;           /* the Hessian */
    uint16_t *bits;       /* 16-bit floats that are not cast as they are copied */
    const char *next_tile; /* the next tile's logits in memory, if its rows lie side by side there; else NULL */
    ptrdiff_t next_class_stride, next_item; /* bytes from class to class, and from row to row */
} sce_tiles;

/* What is done to the logits before the loss: see transform.h; and to the targets: see smoothing.h. */
typedef struct {
    double factor;    /* multiplies the logits */
    double softcap;   /* c of c * tanh(factor * x); 0: no cap */
    sce_array where;  /* bytes, 0 for a class that is left out; data NULL: all take part */
    uint8_t *correct; /* whether each label is the first maximum; NULL: not wanted */
    const void *spread, *scale; /* by class: what those that take part share, and the targets' factor; NULL */
    ptrdiff_t spread_step, scale_step;
} sce_transform;

typedef struct sce_shard sce_shard; /* see below */

/* Whether any logit is changed; else only labels are compared. */
static inline int sce_is_changed(const sce_transform *change) {
    return change && (change->factor != 1 || change->softcap != 0 || change->where.data);
}

/* One kernel call. Names, shapes and meaning are as in softmax_ce/contract.py. A step of 0 means one entry for all. */
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
    void *loss, *grad, *hess, *row_max, *log_sum; /* NULL: not wanted; hess: the diagonal of the Hessian */
    uint8_t *correct;                      /* whether each label is the first maximum; NULL: not wanted */
    const sce_strided *strided;            /* replaces logits, targets, grad and hess, unless NULL */
    const sce_transform *transform;        /* of a strided call, or of long rows; NULL: none */
    const sce_shard *shard;                /* some of the classes of each row, in one of the steps below; NULL: all */
    sce_tiles *tiles;                      /* scratch of a strided call; NULL: sce_run allocates it */
    ptrdiff_t column_step;                 /* entries from class to class where rows lie side by side; else 0 */
    int stream;                            /* whether the gradient bypasses the caches: 0, 1 or SCE_STREAM_SHARED */
    int stream_hess;                       /* whether the Hessian does */
    int log_output;                        /* nonzero: grad receives log-probabilities; no labels, no row factors */
    ptrdiff_t keep;                        /* rows of at most so many bytes keep their exponentials for the gradient */
    sce_chunk *chunks;                     /* scratch: two entries for each chunk of a row */
    sce_sums *sums;                        /* scratch of a row in parts: SCE_SCALARS writes it, SCE_GRADIENT reads it */
    void *exps;                            /* scratch: a row's exponentials; NULL if they are not kept */
} sce_call;

/* Whether a transformed call's rows are long, and lie as the row kernels read and write them. They are then transformed
 * chunk by chunk. */
static inline int sce_is_by_chunk(const sce_call *call) {
    const sce_strided *s = call->strided;
    const sce_array *arrays[] = {&s->logits, &s->targets, &s->grad};
    int is_direct = call->transform != NULL && call->classes > SCE_FEW && call->hess == NULL;
    for (int k = 0; k < 3; k++)
        is_direct &= arrays[k]->data == NULL || (arrays[k]->direct && arrays[k]->format == SCE_REAL);
    return is_direct;
}

typedef void (*sce_rows)(const sce_call *call, ptrdiff_t start, ptrdiff_t stop);

/* The steps of a row that several threads share. Each works on a range of its chunks. */
enum sce_part { SCE_SUMS, SCE_SCALARS, SCE_GRADIENT };
typedef void (*sce_row_part)(const sce_call *call, ptrdiff_t row, enum sce_part part, ptrdiff_t first, ptrdiff_t last);

/* The classes of a shard, or what its rows come to: see rows_shards.h. */
#define SCE_TOTALS 4
struct sce_shard {
    enum sce_part part;    /* the step */
    ptrdiff_t first_class; /* of the shard: the labels are those of all classes */
    ptrdiff_t n_chunks;    /* of a row; for SCE_SCALARS, in all shards */
    ptrdiff_t numbers;     /* of a chunk: top and rest, or also mass and cost */
    double *chunks;        /* n_chunks * numbers for each row: SCE_SUMS writes them */
    double *totals;        /* top, rest, mass and log_sum of each row: SCE_SCALARS writes them */
    double *label_logit;   /* SCE_SUMS writes them, NaN where the label is in another shard */
    const double *label_mass; /* NaN where a row does not count; NULL: soft labels */
    ptrdiff_t label_logit_step, label_mass_step;
};

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
    unsigned needs; /* extensions of the CPU: see rows_dispatch.c */
    sce_kl_rows kl; /* the KL divergence: see kl.h */
} sce_isa;

/* Allocate the scratch and run a kernel. Return -1 if there is no memory. */
int sce_run(sce_rows rows, sce_call *call, ptrdiff_t start, ptrdiff_t stop, ptrdiff_t itemsize);

/* Allocate the scratch of a strided call, to be released by free(). Return NULL if there is no memory. */
sce_tiles *sce_new_tiles(const sce_call *call);

/* Return the instruction set of this name, or the best one if name is NULL. Return NULL if it is unknown or this CPU
 * lacks it. */
const sce_isa *sce_select(const char *name);

/* List the instruction sets that were compiled and that this CPU and system support, best first. Return how many. */
ptrdiff_t sce_supported(const char **names, ptrdiff_t capacity);

#endif
