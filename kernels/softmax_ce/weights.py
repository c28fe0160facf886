"""The weights of a mean. They are scaled to lie near 1, which does not change the mean, and summed to its divisor.

Weights of one sign, none of them tiny beside another, are scaled by a power of two and summed as losses are. All others
are handled as fractions with exponents of their own, because their sum may cancel and a small weight must not be lost.
That sum is exact except for one rounding, so rounding never decides whether it is 0.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from softmax_ce.problem import Problem, counted
from softmax_ce.reduction import Total
from softmax_ce.tuning import STAGED_ELEMENTS as _BLOCK

_FAR_APART = 32  # binary orders of magnitude between weights; the compiled short path leaves such to this module
_LEAST, _MOST = 5e-324, float(np.finfo(np.float64).max)
_FAR = 1 << 20  # an exponent beyond float64's
_IN_REACH = 900  # binary orders of magnitude below the largest at which a float64 has all its digits
_SPLIT = 134217729.0  # 2**27 + 1: cuts a float64 in two halves whose products are exact


@dataclass(frozen=True, slots=True)
class Weights:
    """The weights of a mean, scaled, with their sums.

    Attributes
    ----------
    by_class, by_row : ndarray or None
        Class and sample weights up to a common scale, (C,) and (N,), float64. None if all are 1.
    used : ndarray of bool or None
        Which classes are labels of counted rows, (C,). Other classes may have a weight beyond the range of R here; only
        smoothing uses it. None if unknown.
    divisor : float
        The sum, over the counted rows, of the row's weight times its label's class weight.
    per_row : float
        `divisor` divided by the sum of the row weights, by which a z-loss is divided.
    empty : bool
        Whether the sum is 0, so that no row counts towards the mean.
    inverse : ndarray or None
        Factors for the rows' gradients, (N,), if 1 / divisor is not accurate enough or infinite.
    """

    by_class: Any
    by_row: Any
    divisor: float
    per_row: float
    empty: bool
    used: Any = None
    inverse: Any = None


def of_mean(
    problem: Problem, weight: Any, sample_weight: Any, ignore_index: int, smoothing: float, z_loss: float, total: Total
) -> Weights:
    """Return the weights of a mean that has its own denominator. `weight` and `sample_weight` are flat float64."""
    is_hard = problem.targets is None
    with np.errstate(all="ignore"):
        if _needs_care(sample_weight) or (is_hard and _needs_care(weight)):
            return _with_care(problem, weight, sample_weight, ignore_index, smoothing, z_loss)
        sample_weight = _near_one(sample_weight)
        if is_hard:
            weight = _near_one(weight)
        divisor, rows = _denominators(problem, weight, sample_weight, ignore_index, total)
    if divisor == 0:
        return Weights(weight, sample_weight, 1.0, 1.0, True)
    return Weights(weight, sample_weight, divisor, divisor / rows, False)


def _needs_care(weight: Any) -> bool:
    """Return whether signs are mixed, or two weights have a ratio so large that the small ones may be lost in R."""
    if weight is None:
        return False
    low, high = float(weight.min(initial=0.0)), float(weight.max(initial=0.0))
    if low < 0 < high:
        return True
    sizes = weight if low == 0 else -weight
    return bool(sizes.min(where=sizes != 0, initial=math.inf) < math.ldexp(max(-low, high), -_FAR_APART))


def _near_one(weight: Any) -> Any:
    """Return weights divided by a power of two near the largest. The result is exact."""
    if weight is None or weight.size == 0:
        return weight
    return np.ldexp(weight, -int(np.frexp(np.abs(weight).max())[1]))


def _denominators(
    problem: Problem, weight: Any, sample_weight: Any, ignore_index: int, total: Total
) -> tuple[float, float]:
    """Return the sums of sample_weight * weight[y] and of sample_weight over the counted rows, in a fixed order."""
    labels = problem.labels
    if labels is None or (weight is None and not problem.any_ignored):
        rows = float(problem.n_rows) if sample_weight is None else total(sample_weight, 1.0)
        return rows, rows
    weighted = plain = 0.0
    for start in range(0, problem.n_rows, _BLOCK):
        y = labels[start : start + _BLOCK]
        row = None if sample_weight is None else sample_weight[start : start + _BLOCK]
        if problem.any_ignored:
            counted = _counted(y, problem.n_classes, ignore_index)
            y, row = y[counted], None if row is None else row[counted]
        rows = float(y.size) if row is None else total(row, 1.0)
        plain += rows
        if weight is None:
            weighted += rows
        else:
            weighted += total(weight[y] if row is None else row * weight[y], 1.0)
    return weighted, plain


def _with_care(
    problem: Problem, weight: Any, sample_weight: Any, ignore_index: int, smoothing: float, z_loss: float
) -> Weights:
    """Return the weights for a mean with weights of either sign and any ratio.

    Without smoothing and z-loss, a class weight becomes part of its rows' weights, which are float64; the class weight
    that remains is 0 or 1. Smoothing and a z-loss are not multiplied by the label's class weight, so with them the
    class weights and the row weights are scaled separately.
    """
    rows = np.ones(problem.n_rows) if sample_weight is None else sample_weight
    y = problem.labels
    label: Any = None
    by_class: Any = None
    if y is None:
        counted = np.arange(problem.n_rows)
    else:
        counted = _counted(y, problem.n_classes, ignore_index)
        label, by_class = y[counted], weight
    own, own_power = np.frexp(rows[counted])
    terms = [own]
    powers = own_power = own_power.astype(np.int64)
    if by_class is not None:
        fraction, power = np.frexp(by_class)
        terms = _product(own, fraction[label])
        powers = own_power + power[label]
    divisor, exponent = _sum(terms, powers)
    plain, plain_exponent = _sum([own], own_power)
    if divisor == 0 or (z_loss != 0 and plain == 0):
        return Weights(weight, sample_weight, 1.0, 1.0, True)
    used = None
    if by_class is None:
        class_power = 0
    elif smoothing == 0 and z_loss == 0:
        weightless = fraction[label] == 0
        own, own_power = np.where(weightless, own, terms[0]), np.where(weightless, -_FAR, powers)
        weight, class_power = (by_class != 0).astype(np.float64), 0
    else:
        used = np.zeros(problem.n_classes, bool)
        used[label[own != 0]] = True
        class_power = _class_power(by_class, used, smoothing / problem.n_classes)
        weight = np.ldexp(by_class, class_power)
    top = _largest(own, own_power)
    over = _ldexp(divisor, exponent + class_power - top)
    cancels = abs(over) < 2.0**-_IN_REACH  # if so, the gradient of a small weight may be as large as any
    scaled = np.ldexp(own, np.maximum(own_power - top, -_FAR))
    # A row that counts must not be lost: its logits may make the loss NaN or infinite.
    least = 2.0**-1000 if cancels else _LEAST
    scaled = np.where((np.abs(scaled) < least) & (own != 0), np.copysign(least, own), scaled)
    by_row, inverse = np.zeros(problem.n_rows), None
    by_row[counted] = scaled
    if cancels:
        inverse = np.zeros(problem.n_rows)
        part, part_power = np.frexp(scaled)
        value = own / divisor / np.where(part == 0, 1, part)
        value = np.ldexp(value, np.clip(own_power - part_power - exponent - class_power, -_FAR, _FAR))
        inverse[counted] = np.clip(value, -_MOST, _MOST)  # 0 times an infinity would be NaN
    per_row = 1.0
    if z_loss != 0:
        per_row = max(-_MOST, min(_MOST, _ldexp(divisor / plain, exponent + class_power - plain_exponent)))
    return Weights(weight, by_row, over or math.copysign(_LEAST, divisor), per_row, False, used, inverse)


def _counted(labels: Any, n_classes: int, ignore_index: int) -> Any:
    """Return the positions of the labels that count."""
    return np.flatnonzero(counted(labels, n_classes, ignore_index)[1])


def _class_power(by_class: Any, used: Any, spread: float) -> int:
    """Return the power of two that brings the largest mass of a class, at a label or from smoothing, near 1."""
    largest = np.abs(by_class).max()
    mass = max(np.abs(by_class).max(where=used, initial=0.0), spread * largest)
    return min(-math.frexp(mass)[1], 1000 - math.frexp(largest)[1])


def _largest(fraction: Any, power: Any) -> int:
    return int(power.max(where=fraction != 0, initial=-_FAR))


def _product(a: Any, b: Any) -> list[Any]:
    """Return a * b rounded, and the rounding error. Their sum is exact for fractions near 1 (Dekker, 1971)."""
    product = a * b
    high_a, high_b = _SPLIT * a, _SPLIT * b
    high_a, high_b = high_a - (high_a - a), high_b - (high_b - b)
    low_a, low_b = a - high_a, b - high_b
    rest = low_a * low_b - (((product - high_a * high_b) - low_a * high_b) - high_a * low_b)
    return [product, rest]


def _sum(terms: list[Any], powers: Any) -> tuple[float, int]:
    """Return the sum of terms times 2**powers as a fraction and an exponent. The exact sum is rounded once."""
    top = _largest(terms[0], powers)
    shift = np.maximum(powers - top, -_FAR)
    found = math.fsum(value for term in terms for value in np.ldexp(term, shift).tolist())
    if abs(found) < 2.0**-_IN_REACH and (shift[terms[0] != 0] < -_IN_REACH).any():
        # The large terms cancel, and the rest may have been lost.
        exact = sum((Fraction(v) * Fraction(2) ** p for term in terms for v, p in _pairs(term, powers)), Fraction())
        if exact == 0:
            return 0.0, 0
        by = exact.denominator.bit_length() - exact.numerator.bit_length()
        return float(exact * Fraction(2) ** by), -by
    fraction, exponent = math.frexp(found)
    return fraction, exponent + top


def _pairs(term: Any, powers: Any) -> Iterator[tuple[float, int]]:
    return zip(term.tolist(), powers.tolist(), strict=True)


def _ldexp(fraction: float, exponent: int) -> float:
    return float(np.ldexp(fraction, max(-_FAR, min(_FAR, exponent))))
