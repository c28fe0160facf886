"""Sums of float64 numbers that have exponents of their own, and may cancel. They are exact."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np

FAR = 1 << 20  # an exponent beyond float64's
IN_REACH = 900  # binary orders of magnitude below the largest at which a float64 has all its digits
_EXACT_ROWS = 1 << 25  # terms whose halves, integers below 2**27, are summed exactly in float64
_SPLIT = 134217729.0  # 2**27 + 1: cuts a float64 in two halves whose products are exact


def largest(fraction: Any, power: Any) -> int:
    """Return the largest exponent of a fraction that is not 0."""
    return int(power.max(where=fraction != 0, initial=-FAR))


def product(a: Any, b: Any) -> list[Any]:
    """Return a * b rounded, and the rounding error. Their sum is exact for fractions near 1 (Dekker, 1971)."""
    high = a * b
    high_a, high_b = _SPLIT * a, _SPLIT * b
    high_a, high_b = high_a - (high_a - a), high_b - (high_b - b)
    low_a, low_b = a - high_a, b - high_b
    rest = low_a * low_b - (((high - high_a * high_b) - low_a * high_b) - high_a * low_b)
    return [high, rest]


def rounded_sum(terms: list[Any], powers: Any) -> tuple[float, int]:
    """Return the sum of terms times 2**powers as a fraction and an exponent. The exact sum is rounded once."""
    top = largest(terms[0], powers)
    shift = np.maximum(powers - top, -FAR)
    found = math.fsum(value for term in terms for value in np.ldexp(term, shift).tolist())
    if abs(found) < 2.0**-IN_REACH and (shift[terms[0] != 0] < -IN_REACH).any():
        # The large terms cancel, and the rest may have been lost.
        return rounded(exact_sum(terms, powers))
    fraction, exponent = math.frexp(found)
    return fraction, exponent + top


def exact_sum(terms: list[Any], powers: Any) -> Fraction:
    """Return the exact sum of terms times 2**powers."""
    result = Fraction()
    for term in terms:
        for start in range(0, term.size, _EXACT_ROWS):
            block = slice(start, start + _EXACT_ROWS)
            result += _exact_sum_of_block(term[block], powers[block])
    return result


def _exact_sum_of_block(term: Any, powers: Any) -> Fraction:
    """Return the exact sum of up to `_EXACT_ROWS` terms. Terms of one exponent are summed as integers, in halves."""
    here = term != 0
    if not here.any():
        return Fraction()
    fraction, exponent = np.frexp(term[here])
    exponent = exponent + powers[here]
    least = int(exponent.min())
    digits = np.ldexp(fraction, 53).astype(np.int64)
    high = np.bincount(exponent - least, digits >> 26)  # in float64, exact: below 2**53
    low = np.bincount(exponent - least, digits & (2**26 - 1))
    total = sum((int(h) << 26) + int(w) << power for power, (h, w) in enumerate(zip(high, low, strict=True)))
    return Fraction(total) * Fraction(2) ** (least - 53)


def rounded(exact: Fraction) -> tuple[float, int]:
    """Return an exact number as a fraction near 1 and an exponent. It is rounded once."""
    if exact == 0:
        return 0.0, 0
    by = exact.denominator.bit_length() - exact.numerator.bit_length()
    return float(exact * Fraction(2) ** by), -by


def ldexp(fraction: float, exponent: int) -> float:
    """Return fraction * 2**exponent, for any exponent."""
    return float(np.ldexp(fraction, max(-FAR, min(FAR, exponent))))
