"""exp and log1p on vectors, written out: a call to libm would be scalar."""

from __future__ import annotations

from typing import Any

from numba import njit, types
from numba.extending import overload

from softmax_ce._backends.numba_jit.vectors import fma, intrinsic, split_exponent, times_power_of_two, vector_at, where

EXACT: Any = {"forceinline": True, "error_model": "numpy"}  # no fast-math flag: bits are the same everywhere

# exp comes multiplied by this: even the smallest is then a normal number, and one addition to the exponent scales it.
_SCALE = {32: 2.0**32, 64: 2.0**64}


def exp(t: Any) -> Any:
    """exp(t) times EXP_SCALE for t <= 0, -inf and NaN included.

    t = n ln 2 + r, ln 2 in two constants (Cody and Waite), exp(r) = 1 + (r + r^2 q(r)) with q interpolated
    at Chebyshev nodes in 60 digits. Polynomial error, relative: 1.04e-8 (float32, degree 6), 1.6e-17 (float64,
    degree 11). Below -104 (float32) or -746 (float64), where the result would round to 0, it is 0.
    """
    raise AssertionError("compiled code only")


def _exp32(t: Any) -> Any:
    magic = 12582912.0 + 32  # adding 1.5 * 2**23 rounds to an integer, in the low bits; 32 as in _SCALE
    shifted = fma(t, 1.4426950216293335, magic)
    n = shifted - magic
    r = fma(n, 2.1219444170128554e-4, fma(n, -0.693359375, t))
    q = fma(1.3926213141530752e-3, r, 8.363203145563602e-3)
    q = fma(q, r, 4.1666556149721146e-2)
    q = fma(q, r, 1.6666576266288757e-1)
    q = fma(q, r, 0.5)
    q = fma(q, r, 1.0)
    return where(t < -104.0, 0.0, times_power_of_two(fma(q, r, 1.0), shifted))


def _exp64(t: Any) -> Any:
    magic = 6755399441055744.0 + 64  # 1.5 * 2**52
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
    q = fma(q, r, 1.0)
    return where(t < -746.0, 0.0, times_power_of_two(fma(q, r, 1.0), shifted))


@overload(exp, jit_options=EXACT)
def _exp_of(t: Any) -> Any:
    return _exp32 if t.dtype == types.float32 else _exp64


@intrinsic
def exp_scale(typingctx: Any, p: Any) -> Any:
    """What exp comes multiplied by, for the dtype that p points to."""
    scale = _SCALE[vector_at(p).dtype.bitwidth]
    return types.float64(p), lambda context, builder, sig, args: context.get_constant(types.float64, scale)


@njit(**EXACT)
def log1p(r: Any, u: Any, inverse: Any) -> Any:
    """log(1 + r) of float64 r >= 0, given u = 1 + r as rounded and its inverse; below 1 ULP.

    After fdlibm's s_log1p.c and e_log.c (Sun Microsystems, 1993): u = m 2^n, f = m - 1, s = f / (2 + f),
    log(1 + f) = f - f^2/2 + s (f^2/2 + R(s^2)). What u has lost of 1 + r is added back to first order.
    """
    m, n = split_exponent(u)
    f = where(n == 0.0, r, m - 1.0)
    lost = where(n == 0.0, 0.0, (r - (u - 1.0)) * inverse)
    s = f / (2.0 + f)
    z = s * s
    big = fma(z, 0.1479819860511658591, 0.1531383769920937332)
    big = fma(z, big, 0.1818357216161805012)
    big = fma(z, big, 0.2222219843214978396)
    big = fma(z, big, 0.2857142874366239149)
    big = fma(z, big, 0.3999999999940941908)
    big = fma(z, big, 0.6666666666666735130) * z
    half_square = 0.5 * f * f
    low = fma(n, 1.90821492927058770002e-10, lost)
    return fma(n, 6.93147180369123816490e-01, f - (half_square - fma(s, half_square + big, low)))
