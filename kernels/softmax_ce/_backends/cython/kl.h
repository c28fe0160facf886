/* The interface between the Cython layer and the kernels for the KL divergence. */
#ifndef SOFTMAX_CE_KL_H
#define SOFTMAX_CE_KL_H

#include <stddef.h>

/* The types of a call: float32 throughout; float64 logits whose results are float32; float64 throughout. */
enum sce_kl_types { SCE_KL_NARROW, SCE_KL_MIXED, SCE_KL_WIDE };

/* One call. Names, shapes and meaning are as in softmax_ce/contract.py. A step of 0 means one entry for all. */
typedef struct {
    const void *logits, *target_logits;
    ptrdiff_t classes;
    enum sce_kl_types types;
    double temperature;
    const double *row_weight;
    ptrdiff_t row_weight_step;
    const double *upstream;
    ptrdiff_t upstream_step;
    void *loss, *grad; /* grad NULL: not wanted */
    double *scratch;   /* two rows of exponentials, SCE_KL_ROW entries each, aligned to a cache line */
} sce_kl_call;

/* Entries from one row of the scratch to the next. Whole lines are written, beyond the last class too. */
#define SCE_KL_ROW(classes) (((classes) + 15) / 8 * 8)

typedef void (*sce_kl_rows)(const sce_kl_call *call, ptrdiff_t start, ptrdiff_t stop);

/* Allocate the scratch and run a kernel. Return -1 if there is no memory. */
int sce_kl_run(sce_kl_rows rows, sce_kl_call *call, ptrdiff_t start, ptrdiff_t stop);

#endif
