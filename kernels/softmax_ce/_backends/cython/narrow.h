/* Casts between float32 and the 16-bit formats, rounded to nearest even. Included for float32 only. */
#ifndef SOFTMAX_CE_NARROW_H
#define SOFTMAX_CE_NARROW_H

/* bfloat16: the upper half of a float32. */
static void widen_bf16(const void *in, void *out, ptrdiff_t n) {
    const uint16_t *from = in;
    uint32_t *to = out;
    for (ptrdiff_t i = 0; i < n; i++)
        to[i] = (uint32_t)from[i] << 16;
}

static void narrow_bf16(const void *in, void *out, ptrdiff_t n) {
    const uint32_t *from = in;
    uint16_t *to = out;
    for (ptrdiff_t i = 0; i < n; i++) {
        const uint32_t bits = from[i], rounded = bits + 0x7fff + (bits >> 16 & 1);
        to[i] = (bits & 0x7fffffff) > 0x7f800000 ? 0x7fc0 : (uint16_t)(rounded >> 16); /* a NaN must not round up */
    }
}

/* float16: in hardware where V_HALF is defined, else through integers. */
#if !defined(V_HALF)
static uint32_t half_to_float(uint32_t h) {
    const uint32_t sign = (h & 0x8000) << 16, exponent = h >> 10 & 31, fraction = h & 0x3ff;
    if (exponent == 31)
        return sign | 0x7f800000 | fraction << 13;
    if (exponent)
        return sign | (exponent + 112) << 23 | fraction << 13;
    float value = (float)fraction * 0x1p-24f; /* subnormal or zero: exact */
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return sign | bits;
}

static uint32_t float_to_half(uint32_t f) {
    const uint32_t sign = f >> 16 & 0x8000, size = f & 0x7fffffff;
    if (size > 0x7f800000)
        return sign | 0x7e00;
    if (size >= 0x477ff000) /* 65520 and above round to infinity */
        return sign | 0x7c00;
    if (size >= 0x38800000) /* normal: the fraction's carry moves into the exponent */
        return sign | ((size - 0x38000000 + 0xfff + (size >> 13 & 1)) >> 13);
    float value;
    memcpy(&value, &size, sizeof value);
    value = value * 0x1p24f + 0x1p23f; /* the addition rounds to a multiple of 2**-24 */
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return sign | (bits - 0x4b000000);
}
#endif

static void widen_f16(const void *in, void *out, ptrdiff_t n) {
    const uint16_t *from = in;
    ptrdiff_t i = 0;
#if defined(V_HALF)
    for (; i + W <= n; i += W)
        v_store((real *)out + i, v_from_half(from + i));
    if (i < n) {
        uint16_t last[W] = {0};
        memcpy(last, from + i, (size_t)(n - i) * sizeof *last);
        v_store_first((real *)out + i, n - i, v_from_half(last));
    }
#else
    for (; i < n; i++)
        ((uint32_t *)out)[i] = half_to_float(from[i]);
#endif
}

static void narrow_f16(const void *in, void *out, ptrdiff_t n) {
    uint16_t *to = out;
    ptrdiff_t i = 0;
#if defined(V_HALF)
    for (; i + W <= n; i += W)
        v_to_half(to + i, v_load((const real *)in + i));
    if (i < n) {
        uint16_t last[W];
        v_to_half(last, v_load_first((const real *)in + i, n - i, v_set(0)));
        memcpy(to + i, last, (size_t)(n - i) * sizeof *last);
    }
#else
    for (; i < n; i++)
        to[i] = (uint16_t)float_to_half(((const uint32_t *)in)[i]);
#endif
}

const sce_casts CASTS_NAME = {widen_f16, narrow_f16, widen_bf16, narrow_bf16};

#endif
