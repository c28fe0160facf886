/* Bits of 2**(k/4) in float32, less k << 21 and raised: with the low bits of SHIFT + n + k/4 moved to the exponent by 21
 * places, the sum is 2**(n + k/4 + SCE_RAISE). Sixteen bytes, which every instruction set looks up in one instruction. */
#ifndef SOFTMAX_CE_EXP_TABLE_H
#define SOFTMAX_CE_EXP_TABLE_H

#include <stdint.h>

static const uint32_t power_bits[4] = {0x5f800000, 0x5f7837f0, 0x5f7504f3, 0x5f7744fd};

#endif
