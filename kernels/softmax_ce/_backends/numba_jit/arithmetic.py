"""exp and log1p on vectors, written out: a call to libm would be scalar."""

from __future__ import annotations

from typing import Any

from numba import njit, types
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


def _polynomial(*coefficients: float) -> Any:
    """By Horner's rule; the highest power's coefficient comes first."""
    *higher, last = coefficients
    if len(higher) == 1:
        (first,) = higher
        return njit(**EXACT)(lambda z: fma(first, z, last))
    quotient = _polynomial(*higher)
    return njit(**EXACT)(lambda z: fma(quotient(z), z, last))


def _exp_by(lowest: float, magic: float, ln_2: tuple[float, float], q: Any, power_of: Any) -> Any:
    """Adding `magic` rounds to a multiple of what power_of takes, in the low bits, raised; r = t - n ln 2."""
    high, low = ln_2

    def exp(t: Any) -> Any:
        t = maximum(lowest, t)
        shifted = fma(t, 1.4426950408889634, magic)
        n = shifted - magic
        r = fma(n, -low, fma(n, -high, t))
        power = power_of(shifted)
        return fma(power, fma(r * r, q(r), r), power)

    return exp


# In magic beside the power of two: 32 or 64 as in _SCALE, and the bias of the exponent.
_exp32_eighths = _exp_by(
    -110.2104,  # -159 ln 2
    1.5 * 2**20 + 127 + 32,
    (0.6931471824645996, -1.9046542e-9),
    _polynomial(4.166861996054649e-2, 1.6667839884757996e-1, 0.5),
    power_of_eighths,
)
_exp32 = _exp_by(
    -110.2104,
    1.5 * 2**23 + 127 + 32,
    (0.693359375, -2.1219444170128554e-4),
    _polynomial(
        1.3926213141530752e-3, 8.363203145563602e-3, 4.1666556149721146e-2, 1.6666576266288757e-1, 0.5
    ),
    power_of_two,
)  # fmt: skip
_exp64 = _exp_by(
    -753.451,  # -1087 ln 2
    1.5 * 2**52 + 1023 + 64,
    (0.6931471801362932, 4.236521365809284e-10),
    _polynomial(
        2.5100424157005067e-08, 2.7620138719733994e-07, 2.7557268378684192e-06, 2.480152119021773e-05,
        0.00019841269863105968, 0.0013888888917281794, 0.008333333333330051, 0.04166666666662399, 0.16666666666666669,
        0.5000000000000001,
    ),
    power_of_two,
)  # fmt: skip


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


def _log1p_by(ln_2: tuple[float, float], series: Any) -> Any:
    high, low = ln_2

    def log1p(r: Any, y: Any, inverse: Any) -> Any:
        m, n = split_exponent(y)
        f = m - 1.0
        s = f / (2.0 + f)
        z = s * s
        half = 0.5 * f * f
        tail = fma(n, low, (r - (y - 1.0)) * inverse)
        below = half - fma(s, fma(series(z), z, half), tail)
        return n * high - (below - f)

    return log1p


_log1p32 = _log1p_by(
    (6.9313812256e-01, 9.0580006145e-06),
    _polynomial(0.24279078841209412, 0.2849878668785095, 0.40000972151756287, 0.6666666269302368),
)
_log1p64 = _log1p_by(
    (6.93147180369123816490e-01, 1.90821492927058770002e-10),
    _polynomial(
        0.1479819860511658591, 0.1531383769920937332, 0.1818357216161805012, 0.2222219843214978396,
        0.2857142874366239149, 0.3999999999940941908, 0.6666666666666735130,
    ),
)  # fmt: skip


@overload(log1p, jit_options=EXACT)
def _log1p_of(r: Any, y: Any, inverse: Any) -> Any:
    return _log1p32 if y.dtype == types.float32 else _log1p64
