"""exp and log1p on vectors, written out: a call to libm would be scalar."""

from __future__ import annotations

from typing import Any

from numba import types
from numba.extending import overload

from softmax_ce._backends.numba_jit.vectors import (
    fma,
    has_look_up,
    intrinsic,
    maximum,
    power_of_eighths,
    power_of_two,
    split_exponent,
    vector_at,
)

EXACT: Any = {"forceinline": True, "error_model": "numpy"}  # no fast-math flag: bits are the same everywhere

# exp comes multiplied by this: even the smallest is then a normal number.
_SCALE = {32: 2.0**32, 64: 2.0**64}


def exp(t: Any) -> Any:
    """exp(t) times EXP_SCALE for t <= 0, -inf and NaN included.

    t = n ln 2 + r, ln 2 in two constants (Cody and Waite), exp(t) = 2^n (1 + r + r^2 q(r)) with q interpolated at
    Chebyshev nodes in 60 digits. n is a multiple of 1/8 where a register can be looked up in, else an integer.
    Polynomial error, relative: 3.3e-10 (float32, eighths, degree 4), 1.04e-8 (float32, degree 6), 1.6e-17 (float64,
    degree 11). t is held above what makes the power's exponent field 0, which is below -110 (float32) and -753
    (float64), so that -inf gives exactly 0.
    """
    raise AssertionError("compiled code only")


def _exp32_eighths(t: Any) -> Any:
    magic = 1572864.0 + 127 + 32  # adding 1.5 * 2**20 rounds to eighths, in the low bits; 32 as in _SCALE, 127 the bias
    t = maximum(-110.2104, t)  # -159 ln 2
    shifted = fma(t, 1.4426950216293335, magic)
    n = shifted - magic
    r = fma(n, 1.9046542e-9, fma(n, -0.6931471824645996, t))
    q = fma(fma(4.166861996054649e-2, r, 1.6667839884757996e-1), r, 0.5)
    power = power_of_eighths(shifted)
    return fma(power, fma(r * r, q, r), power)


def _exp32(t: Any) -> Any:
    magic = 12582912.0 + 127 + 32  # 1.5 * 2**23: to integers
    t = maximum(-110.2104, t)
    shifted = fma(t, 1.4426950216293335, magic)
    n = shifted - magic
    r = fma(n, 2.1219444170128554e-4, fma(n, -0.693359375, t))
    q = fma(1.3926213141530752e-3, r, 8.363203145563602e-3)
    q = fma(q, r, 4.1666556149721146e-2)
    q = fma(q, r, 1.6666576266288757e-1)
    q = fma(q, r, 0.5)
    power = power_of_two(shifted)
    return fma(power, fma(r * r, q, r), power)


def _exp64(t: Any) -> Any:
    magic = 6755399441055744.0 + 1023 + 64  # 1.5 * 2**52
    t = maximum(-753.451, t)  # -1087 ln 2
    shifted = fma(t, 1.4426950408889634, magic)
    n = shifted - magic
    r = fma(n, -4.236521365809284e-10, fma(n, -0.6931471801362932, t))
    q = fma(2.5100424157005067e-08, r, 2.7620138719733994e-07)
    q = fma(q, r, 2.7557268378684192e-06)
    q = fma(q, r, 2.480152119021773e-05)
    q = fma(q, r, 0.00019841269863105968)
    q = fma(q, r, 0.0013888888917281794)
    q = fma(q, r, 0.008333333333330051)
    q = fma(q, r, 0.04166666666662399)
    q = fma(q, r, 0.16666666666666669)
    q = fma(q, r, 0.5000000000000001)
    power = power_of_two(shifted)
    return fma(power, fma(r * r, q, r), power)


@overload(exp, jit_options=EXACT)
def _exp_of(t: Any) -> Any:
    if t.dtype == types.float64:
        return _exp64
    return _exp32_eighths if has_look_up() else _exp32


@intrinsic
def exp_scale(typingctx: Any, p: Any) -> Any:
    """What exp comes multiplied by, for the dtype that p points to."""
    scale = _SCALE[vector_at(p).dtype.bitwidth]
    return types.float64(p), lambda context, builder, sig, args: context.get_constant(types.float64, scale)


def log1p(r: Any, y: Any, inverse: Any) -> Any:
    """log(1 + r) for 0 <= r < 2^20, given y = 1 + r as rounded and its inverse; below 1 ULP, also where r is tiny.

    y = 2^n m with m in [sqrt(1/2), sqrt(2)], c = (r - (y - 1)) / y is what rounding y lost; log(m) from the series in
    s = f / (2 + f), f = m - 1. Constants: FreeBSD's e_log.c (error below 2^-58.45 relative) and e_logf.c (2^-34.24),
    after fdlibm (Sun Microsystems, 1993).
    """
    raise AssertionError("compiled code only")


def _log1p32(r: Any, y: Any, inverse: Any) -> Any:
    m, n = split_exponent(y)
    f = m - 1.0
    s = f / (2.0 + f)
    z = s * s
    series = fma(0.24279078841209412, z, 0.2849878668785095)
    series = fma(series, z, 0.40000972151756287)
    series = fma(series, z, 0.6666666269302368)
    half = 0.5 * f * f
    tail = fma(n, 9.0580006145e-06, (r - (y - 1.0)) * inverse)
    low = half - fma(s, fma(series, z, half), tail)
    return n * 6.9313812256e-01 - (low - f)


def _log1p64(r: Any, y: Any, inverse: Any) -> Any:
    m, n = split_exponent(y)
    f = m - 1.0
    s = f / (2.0 + f)
    z = s * s
    series = fma(0.1479819860511658591, z, 0.1531383769920937332)
    series = fma(series, z, 0.1818357216161805012)
    series = fma(series, z, 0.2222219843214978396)
    series = fma(series, z, 0.2857142874366239149)
    series = fma(series, z, 0.3999999999940941908)
    series = fma(series, z, 0.6666666666666735130)
    half = 0.5 * f * f
    tail = fma(n, 1.90821492927058770002e-10, (r - (y - 1.0)) * inverse)
    low = half - fma(s, fma(series, z, half), tail)
    return n * 6.93147180369123816490e-01 - (low - f)


@overload(log1p, jit_options=EXACT)
def _log1p_of(r: Any, y: Any, inverse: Any) -> Any:
    return _log1p32 if y.dtype == types.float32 else _log1p64
