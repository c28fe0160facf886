/* The kernels for the KL divergence, written once over a vector layer of float64 and compiled for each instruction set. */
#include "kl_lanes.h"

void KL_NAME(const sce_kl_call *call, ptrdiff_t start, ptrdiff_t stop) {
    if (call->types == SCE_KL_WIDE)
        kl_wide(call, start, stop);
    else if (call->types == SCE_KL_MIXED)
        kl_mixed(call, start, stop);
    else if (call->classes <= KL_LANES)
        kl_few_classes(call, start, stop);
    else
        kl_narrow(call, start, stop);
}
