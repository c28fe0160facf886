"""Casts between float32 and float16 with NumPy's integer operations, for backends without casts of their own.

NumPy's cast converts one number at a time. For a number that is subnormal as float16, as most mean gradients are, it
also sets the processor's flags: it takes 80 ns, where these casts take 3.
"""

from __future__ import annotations

from typing import Any

import numpy as np

_QUIET_NAN = 0x7E00


def widen(halves: Any, out: Any) -> None:
    """Convert float16, viewed as uint16, to float32. The result is exact."""
    bits = out.view(np.uint32)
    np.copyto(bits, halves)
    sign = bits & 0x8000
    sign <<= 16
    bits &= 0x7FFF
    bits <<= 13
    special = bits >= 0x0F800000  # infinity or NaN
    out *= np.float32(2.0**112)  # corrects the exponent's bias, and makes subnormal numbers normal
    if special.any():
        bits[special] |= 0x7F800000
    bits |= sign


def narrow(values: Any, out: Any) -> None:
    """Convert float32 to float16, viewed as uint16, to nearest with ties to even. `values` is overwritten."""
    bits = values.view(np.uint32)
    sign = bits >> 16
    sign &= 0x8000
    bits &= 0x7FFFFFFF
    nan = bits > 0x7F800000
    np.minimum(bits, 0x477FF000, out=bits)  # this and larger numbers round to infinity
    # Below the least normal number, an addition in float32 rounds to a multiple of 2**-24. That number gives 0x400.
    subnormal = np.minimum(bits, 0x38800000)
    real = subnormal.view(np.float32)
    real *= np.float32(2.0**24)
    real += np.float32(2.0**23)
    # From there on, the fraction's carry moves into the exponent. Again, that number gives 0x400.
    np.maximum(bits, 0x38800000, out=bits)
    odd = bits >> 13
    odd &= 1
    bits += odd
    bits -= 0x38000000 - 0xFFF
    bits >>= 13
    bits += subnormal
    bits -= 0x4B000000 + 0x400
    if nan.any():
        bits[nan] = _QUIET_NAN
    bits |= sign
    np.copyto(out, bits, casting="unsafe")
