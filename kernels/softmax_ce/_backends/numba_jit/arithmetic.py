"""exp and log1p of vectors, written out, because a call to libm would be scalar."""

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

# exp is multiplied by this, so that even the smallest result is a normal number. The result is called scaled.
_SCALE = {32: 2.0**32, 64: 2.0**64}


def exp(t: Any) -> Any:
    """Return exp(t) times `exp_scale`, for t <= 0, -inf and NaN included.

    t = n ln 2 + r, with ln 2 in two constants (Cody and Waite), and exp(t) = 2^n (1 + r + r^2 q(r)), where q is
    interpolated at Chebyshev nodes in 60 digits. n is a multiple of 1/8 if the CPU can look up entries of a register;
    otherwise it is an integer. The relative error of the polynomial is 3.3e-10 (float32, eighths, degree 4), 1.04e-8
    (float32, degree 6) or 1.6e-17 (float64, degree 11). A t below some -110 (float32) or -753 (float64) is replaced by
    a number for which the power's exponent field is 0, so that -inf gives exactly 0.

    C: v_exp_raised in exp.h
    """
    raise AssertionError("compiled code only")


def _polynomial(*coefficients: float) -> Any:
    """Return the compiled polynomial, by Horner's rule. The coefficient of the highest power comes first."""
    *higher, last = coefficients
    if len(higher) == 1:
        (first,) = higher
        return njit(**EXACT)(lambda z: fma(first, z, last))
    quotient = _polynomial(*higher)
    return njit(**EXACT)(lambda z: fma(quotient(z), z, last))


def _exp_by(lowest: float, magic: float, ln_2: tuple[float, float], q: Any, power_of: Any) -> Any:
    """Return exp as a function. Adding `magic` rounds t / ln 2 to n, and leaves n in the low bits for `power_of`."""
    high, low = ln_2

    def exp(t: Any) -> Any:
        t = maximum(lowest, t)
        shifted = fma(t, 1.4426950408889634, magic)
        n = shifted - magic
        r = fma(n, -low, fma(n, -high, t))
        power = power_of(shifted)
        return fma(power, fma(r * r, q(r), r), power)

    return exp


# Magic is a power of two plus the exponent's bias plus 32 or 64, as in _SCALE.
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
    """Return the number by which exp is multiplied, for the dtype at a pointer.

    C: LOWER in exp.h, its inverse
    """
    scale = _SCALE[vector_at(p).dtype.bitwidth]
    return types.float64(p), lambda context, builder, sig, args: context.get_constant(types.float64, scale)


def log1p(r: Any, y: Any, inverse: Any) -> Any:
    """Return log(1 + r) for 0 <= r < 2^20, given 1 + r and its inverse. The error is below 1 ULP even if r is tiny.

    y = 1 + r, rounded, is 2^n m with m in [sqrt(1/2), sqrt(2)], and c = (r - (y - 1)) / y is what the rounding lost.
    log(m) is a series in s = f / (2 + f) with f = m - 1. The constants are those of FreeBSD's e_log.c (relative error
    below 2^-58.45) and e_logf.c (2^-34.24), after fdlibm (Sun Microsystems, 1993).

    C: v_log1p in log1p.h
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
