/* float16 and bfloat16 to float32 and back. What is right is found from the order of the formats alone: a number comes
 * back as itself, and one between two neighbours goes to the nearer, a midpoint to the even one. */
#include "checks.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define NUMBERS (1 << 16)

static int is_right(const char *isa, const char *format, const float *number, int k, uint16_t right, float from,
                    sce_elementwise narrow) {
    uint16_t got;
    narrow(&from, &got, 1);
    if (got == right)
        return 1;
    fprintf(stderr, "replay: %s: %.9g (beside %s number 0x%04x, %.9g) is narrowed to 0x%04x, not to 0x%04x\n", isa,
            (double)from, format, k, (double)number[k], got, right);
    return 0;
}

/* `largest`: the bits of the largest finite number. */
static int format_is_right(const char *isa, const char *format, uint16_t largest, sce_elementwise widen,
                           sce_elementwise narrow) {
    static uint16_t bits[NUMBERS], back[NUMBERS];
    static float number[NUMBERS];
    for (int k = 0; k < NUMBERS; k++)
        bits[k] = (uint16_t)k;
    widen(bits, number, NUMBERS);
    narrow(number, back, NUMBERS);
    for (int k = 0; k < NUMBERS; k++) {
        const int size = k & 0x7fff;
        if (isnan(number[k]) != (size > largest + 1) || (size == largest + 1 && !isinf(number[k])) ||
            (isnan(number[k]) ? (back[k] & 0x7fff) <= largest + 1 : back[k] != k)) {
            fprintf(stderr, "replay: %s: %s number 0x%04x is widened to %.9g and narrowed to 0x%04x\n", isa, format, k,
                    (double)number[k], back[k]);
            return 0;
        }
        if (size >= largest)
            continue;
        if (!(fabsf(number[k]) < fabsf(number[k + 1])))
            return fprintf(stderr, "replay: %s: %s numbers 0x%04x and the next are out of order\n", isa, format, k), 0;
        const float middle = number[k] / 2 + number[k + 1] / 2;
        if (middle == number[k] || middle == number[k + 1]) /* no float32 between them */
            continue;
        const uint16_t low = (uint16_t)k, high = (uint16_t)(k + 1), even = k & 1 ? high : low;
        if (!is_right(isa, format, number, k, even, middle, narrow) ||
            !is_right(isa, format, number, k, low, nextafterf(middle, number[k]), narrow) ||
            !is_right(isa, format, number, k, high, nextafterf(middle, number[k + 1]), narrow))
            return 0;
    }
    return 1;
}

int casts_are_right(const sce_isa *isa) {
    const sce_casts *casts = isa->casts;
    return format_is_right(isa->name, "float16", 0x7bff, casts->widen_f16, casts->narrow_f16) &&
           format_is_right(isa->name, "bfloat16", 0x7f7f, casts->widen_bf16, casts->narrow_bf16);
}
