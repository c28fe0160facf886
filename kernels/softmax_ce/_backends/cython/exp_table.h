/* Tables for exp.h. Float32: the bits of 2**(k/4 + SCE_RAISE), minus k << 21. The low bits of SHIFT + n + k/4, shifted
 * left by 21, are added, which gives 2**(n + k/4 + SCE_RAISE). Sixteen bytes, which one instruction looks up. */
#ifndef SOFTMAX_CE_EXP_TABLE_H
#define SOFTMAX_CE_EXP_TABLE_H

#include <stdint.h>

#if defined(REAL_F32)
static const uint32_t power_bits[4] = {0x5f800000, 0x5f7837f0, 0x5f7504f3, 0x5f7744fd};
#else
/* Float64: the bits of 2**(k/16 + SCE_RAISE), minus k << 48. */
static const uint64_t power_bits[16] = {
    0x43f0000000000000, 0x43efb5586cf9890f, 0x43ef72b83c7d517b, 0x43ef387a6e756238,
    0x43ef06fe0a31b715, 0x43eedea64c123422, 0x43eebfdad5362a27, 0x43eeab07dd485429,
    0x43eea09e667f3bcd, 0x43eea11473eb0187, 0x43eeace5422aa0db, 0x43eec49182a3f090,
    0x43eee89f995ad3ad, 0x43ef199bdd85529c, 0x43ef5818dcfba487, 0x43efa4afa2a490da,
};
#endif

#endif
