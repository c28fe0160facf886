/* Two threads in the row kernels at once, for ThreadSanitizer: in ranges of rows, then as a team that shares out rows, or
 * the chunks of two rows. The bits are those of one thread. With an argument the ranges overlap by a row, which must be
 * reported. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "rows_team.h"

enum { ROWS = 37, LONG = 5 * SCE_CHUNK + 17 };

typedef struct {
    const sce_isa *isa;
    sce_call call;
    int is_double;
    ptrdiff_t start, stop;
} work;

static void *rows(void *argument) {
    work *w = argument;
    if (sce_run(w->is_double ? w->isa->f64 : w->isa->f32, &w->call, w->start, w->stop, w->is_double ? 8 : 4))
        abort();
    return NULL;
}

static void both(work one, ptrdiff_t middle, ptrdiff_t overlap) {
    work two = one;
    pthread_t thread;
    one.stop = middle + overlap;
    two.start = middle;
    if (pthread_create(&thread, NULL, rows, &one))
        abort();
    rows(&two);
    pthread_join(thread, NULL);
}

static void *help(void *argument) {
    while (sce_team_work(argument, 1) > 0)
        ;
    return NULL;
}

/* As softmax_ce/threads.py has it; the arrays may be looked at once the helper has settled, before its thread ends. */
static void team(const work *w) {
    sce_team *together = sce_team_new(&w->call, w->isa, w->is_double, w->stop, 2, 1 << 12);
    pthread_t thread;
    if (together == NULL || pthread_create(&thread, NULL, help, together))
        abort();
    while (sce_team_work(together, 0) > 0)
        ;
    sce_team_caller_is_back(together);
    sce_team_cancel(together);
    while (!sce_team_settled(together))
        ;
    ((volatile char *)w->call.grad)[0];
    pthread_join(thread, NULL);
    sce_team_free(together);
}

static void *filled(size_t n, int is_double) {
    void *array = aligned_alloc(64, (n * 8 + 63) / 64 * 64);
    for (size_t i = 0; i < n; i++) {
        const double value = (double)(rand() % 2000) / 100 - 10;
        if (is_double)
            ((double *)array)[i] = value;
        else
            ((float *)array)[i] = (float)value;
    }
    return array;
}

static int compare(const void *a, const void *b, size_t n, const char *what, const work *w, ptrdiff_t classes) {
    if (memcmp(a, b, n) == 0)
        return 0;
    printf("%s differs: %s, %d bits, %td classes\n", what, w->isa->name, w->is_double ? 64 : 32, classes);
    return 1;
}

/* One problem with one thread and with two. */
static int check(const sce_isa *isa, int is_double, ptrdiff_t classes, int soft, int stream, ptrdiff_t overlap) {
    const ptrdiff_t n_rows = classes == LONG ? 2 : ROWS, size = is_double ? 8 : 4;
    const double one = 1;
    const float one_f32 = 1;
    int64_t labels[ROWS];
    char loss[3][ROWS * 8], row_max[3][ROWS * 8], log_sum[3][ROWS * 8];
    void *grad[3];
    int failed = 0;
    for (ptrdiff_t i = 0; i < ROWS; i++)
        labels[i] = i % 5 ? i * 7 % classes : -100;
    work w = {.isa = isa, .is_double = is_double, .stop = n_rows};
    w.call.logits = filled((size_t)(n_rows * classes), is_double);
    w.call.targets = filled((size_t)(n_rows * classes), is_double);
    w.call.classes = classes;
    w.call.labels = soft ? NULL : labels;
    w.call.labels_step = 1;
    w.call.ignore_index = -100;
    w.call.class_scale = is_double ? (const void *)&one : &one_f32;
    w.call.row_weight = w.call.upstream = &one;
    w.call.stream = stream * SCE_STREAM_SHARED;
    enum { ALONE, RANGES, TEAM };
    for (int k = ALONE; k <= TEAM; k++) {
        w.call.grad = grad[k] = aligned_alloc(64, (size_t)(n_rows * classes * 8 + 63) / 64 * 64);
        w.call.loss = loss[k];
        w.call.row_max = row_max[k];
        w.call.log_sum = log_sum[k];
        memset(grad[k], 0, (size_t)(n_rows * classes * size));
        if (k == ALONE)
            rows(&w);
        else if (k == RANGES)
            both(w, n_rows / 2, overlap);
        else
            team(&w);
        failed |= compare(grad[0], grad[k], (size_t)(n_rows * classes * size), "gradient", &w, classes);
        failed |= compare(loss[0], loss[k], (size_t)(n_rows * size), "loss", &w, classes);
        failed |= compare(row_max[0], row_max[k], (size_t)(n_rows * size), "row_max", &w, classes);
        failed |= compare(log_sum[0], log_sum[k], (size_t)(n_rows * size), "log_sum", &w, classes);
    }
    for (int k = ALONE; k <= TEAM; k++)
        free(grad[k]);
    free((void *)w.call.logits);
    free((void *)w.call.targets);
    return failed;
}

int main(int count, char **arguments) {
    (void)arguments;
    static const ptrdiff_t sizes[] = {1, 7, 16, 32, 33, 100, 2047, 2049, 4097, LONG};
    const ptrdiff_t overlap = count > 1;
    const char *names[8];
    const ptrdiff_t isas = sce_supported(names, 8);
    int failed = 0, done = 0;
    for (ptrdiff_t k = 0; k < isas; k++)
        for (int is_double = 0; is_double < 2; is_double++)
            for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++)
                for (int soft = 0; soft < 2; soft++)
                    for (int stream = 0; stream < 2; stream++, done++)
                        failed |= check(sce_select(names[k]), is_double, sizes[s], soft, stream, overlap);
    printf("%d problems on two threads, %s\n", done, failed ? "FAILED" : "bitwise as on one");
    return failed;
}
