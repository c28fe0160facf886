/* What needs no file: the exp in use, and the casts of 16-bit formats. */
#ifndef SOFTMAX_CE_CROSS_CHECKS_H
#define SOFTMAX_CE_CROSS_CHECKS_H

#include "rows.h"

/* The largest error of exp over about `samples` float32 numbers, and an eighth as many float64 ones; whether both are
 * within what is declared, and NaN, -inf and -0 are right. */
int exp_is_accurate(const sce_isa *isa, const double declared[2], int64_t samples);

/* Every 16-bit number to float32 and back, and what lies between two of them rounded to nearest even. */
int casts_are_right(const sce_isa *isa);

#endif
