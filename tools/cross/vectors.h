/* The vectors that vectors.py writes: format there. */
#ifndef SOFTMAX_CE_CROSS_VECTORS_H
#define SOFTMAX_CE_CROSS_VECTORS_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

/* n numbers: right is high + low, and a result may be off by bound. */
typedef struct {
    ptrdiff_t n;
    double *high, *low, *bound;
} expected;

typedef struct {
    char name[64];
    int64_t size; /* bytes of a real */
    int64_t rows, classes, hard, ignore_index;
    int64_t scales, bases, weights, upstreams; /* lengths */
    double base_total, z_loss;
    void *logits, *targets, *class_scale, *base_mass;
    int64_t *labels;
    double *row_weight, *upstream;
    expected loss, grad, lse, log_sum;
} vector;

typedef struct {
    const char *path;
    FILE *file;
    double exp_ulp[2]; /* declared, float32 and float64 */
    int64_t count, read;
} vector_file;

/* All end the program with exit code 2 and a message where the file is not what it must be. */
vector_file open_vectors(const char *path);
int next_vector(vector_file *file, vector *v); /* 0: there are no more */
void free_vector(vector *v);

/* Memory, or exit code 2. */
void *room(size_t bytes);

#endif
