/* Reading what vectors.py writes; anything unexpected is exit code 2, never a guess. */
#include "vectors.h"

#include <stdlib.h>
#include <string.h>

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "the file is little-endian, and so must this machine be"
#endif

#define LARGEST (1 << 24) /* rows or classes: more is a damaged file */

void *room(size_t bytes) {
    void *memory = malloc(bytes ? bytes : 1);
    if (memory == NULL) {
        fprintf(stderr, "replay: no memory for %zu bytes\n", bytes);
        exit(2);
    }
    return memory;
}

static void read_bytes(vector_file *file, void *to, size_t bytes, const char *what) {
    const size_t got = fread(to, 1, bytes, file->file);
    if (got == bytes)
        return;
    fprintf(stderr, "replay: %s is truncated: vector %lld of %lld, %s: %zu bytes where %zu must be\n", file->path,
            (long long)file->read + 1, (long long)file->count, what, got, bytes);
    exit(2);
}

static void *read_array(vector_file *file, int64_t n, size_t size, const char *what) {
    void *array = room((size_t)n * size);
    read_bytes(file, array, (size_t)n * size, what);
    return array;
}

static void damaged(const vector_file *file, const char *what) {
    fprintf(stderr, "replay: %s is damaged: vector %lld of %lld: %s\n", file->path, (long long)file->read + 1,
            (long long)file->count, what);
    exit(2);
}

static expected read_expected(vector_file *file, int64_t n, const char *what) {
    expected e = {n, read_array(file, n, 8, what), read_array(file, n, 8, what), read_array(file, n, 8, what)};
    return e;
}

vector_file open_vectors(const char *path) {
    vector_file file = {.path = path, .file = fopen(path, "rb")};
    char magic[8];
    if (file.file == NULL) {
        fprintf(stderr, "replay: cannot open %s\n", path);
        exit(2);
    }
    read_bytes(&file, magic, sizeof magic, "the magic");
    if (memcmp(magic, "sce-vec1", sizeof magic) != 0) {
        fprintf(stderr, "replay: %s is not a file of vectors: it must begin with sce-vec1\n", path);
        exit(2);
    }
    read_bytes(&file, file.exp_ulp, sizeof file.exp_ulp, "the header");
    read_bytes(&file, &file.count, sizeof file.count, "the header");
    if (file.count < 1)
        damaged(&file, "there must be at least one vector");
    return file;
}

int next_vector(vector_file *file, vector *v) {
    if (file->read == file->count) {
        if (fgetc(file->file) != EOF)
            damaged(file, "bytes after the last vector");
        fclose(file->file);
        return 0;
    }
    read_bytes(file, v->name, sizeof v->name, "its name");
    if (memchr(v->name, 0, sizeof v->name) == NULL)
        damaged(file, "its name has no end");
    int64_t *const numbers[] = {&v->size,   &v->rows,  &v->classes, &v->hard,     &v->ignore_index,
                                &v->scales, &v->bases, &v->weights, &v->upstreams};
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        read_bytes(file, numbers[i], sizeof **numbers, "its sizes");
    if ((v->size != 4 && v->size != 8) || v->rows < 1 || v->rows > LARGEST || v->classes < 1 || v->classes > LARGEST)
        damaged(file, "impossible sizes");
    if ((v->scales != 1 && v->scales != v->classes) || (v->bases > 1 && v->bases != v->classes) || v->bases < 0 ||
        (v->weights != 1 && v->weights != v->rows) || (v->upstreams != 1 && v->upstreams != v->rows))
        damaged(file, "lengths that do not fit");
    const int64_t n = v->rows * v->classes;
    const size_t size = (size_t)v->size;
    read_bytes(file, &v->base_total, sizeof v->base_total, "base_total");
    read_bytes(file, &v->z_loss, sizeof v->z_loss, "z_loss");
    v->logits = read_array(file, n, size, "logits");
    v->labels = v->hard ? read_array(file, v->rows, sizeof *v->labels, "labels") : NULL;
    v->targets = v->hard ? NULL : read_array(file, n, size, "targets");
    v->class_scale = read_array(file, v->scales, size, "class_scale");
    v->base_mass = read_array(file, v->bases, size, "base_mass");
    v->row_weight = read_array(file, v->weights, sizeof *v->row_weight, "row_weight");
    v->upstream = read_array(file, v->upstreams, sizeof *v->upstream, "upstream");
    v->loss = read_expected(file, v->rows, "loss");
    v->grad = read_expected(file, n, "gradient");
    v->lse = read_expected(file, v->rows, "lse");
    v->log_sum = read_expected(file, v->rows, "log_sum");
    file->read++;
    return 1;
}

void free_vector(vector *v) {
    void *const arrays[] = {v->logits, v->labels, v->targets, v->class_scale, v->base_mass, v->row_weight, v->upstream};
    const expected *const judged[] = {&v->loss, &v->grad, &v->lse, &v->log_sum};
    for (size_t i = 0; i < sizeof arrays / sizeof *arrays; i++)
        free(arrays[i]);
    for (size_t i = 0; i < sizeof judged / sizeof *judged; i++) {
        free(judged[i]->high);
        free(judged[i]->low);
        free(judged[i]->bound);
    }
}
