/* The instruction set of vec_model.h, beside those of the CPU: it runs everywhere. */
#ifndef SOFTMAX_CE_CROSS_MODEL_H
#define SOFTMAX_CE_CROSS_MODEL_H

#include "rows.h"

/* As sce_select and sce_supported, with the model as the last of all, unless SCE_WITHOUT_MODEL leaves it out. */
const sce_isa *select_isa(const char *name);
ptrdiff_t supported_isas(const char **names, ptrdiff_t room);

#endif
