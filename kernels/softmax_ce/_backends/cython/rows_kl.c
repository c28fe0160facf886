/* The scratch of a call for the KL divergence. */
#include "rows.h"

#include <stdlib.h>

int sce_kl_run(sce_kl_rows rows, sce_kl_call *call, ptrdiff_t start, ptrdiff_t stop) {
    if (start >= stop)
        return 0;
    double on_stack[2 * SCE_KL_ROW(SCE_ON_STACK / 16) + SCE_LINE / 8];
    const size_t bytes = 2 * (size_t)SCE_KL_ROW(call->classes) * sizeof(double) + SCE_LINE;
    char *scratch = bytes <= sizeof on_stack ? (char *)on_stack : malloc(bytes);
    if (scratch == NULL)
        return -1;
    call->scratch = (double *)(scratch + (-(uintptr_t)scratch & (SCE_LINE - 1)));
    rows(call, start, stop);
    if (scratch != (char *)on_stack)
        free(scratch);
    return 0;
}
