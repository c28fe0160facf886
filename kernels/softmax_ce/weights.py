"""The weights of a mean. They are scaled to lie near 1, which does not change the mean, and summed to its divisor.

Weights of one sign, none of them tiny beside another, are scaled by a power of two and summed as losses are. All others
are handled as fractions with exponents of their own, because their sum may cancel and a small weight must not be lost.
That sum is exact except for one rounding, so rounding never decides whether it is 0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from softmax_ce.exact_sums import FAR, IN_REACH, largest, ldexp, product, rounded_sum
from softmax_ce.problem import Problem, counted
from softmax_ce.reduction import Total
from softmax_ce.tuning import STAGED_ELEMENTS as _BLOCK

_FAR_APART = 32  # binary orders of magnitude between weights; the compiled short path leaves such to this module
_LEAST, _MOST = 5e-324, float(np.finfo(np.float64).max)


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
        of_rows, of_classes = SizeRange.of(sample_weight), SizeRange.of(weight if is_hard else None)
        if of_rows.needs_care or of_classes.needs_care:
            return _with_care(problem, weight, sample_weight, ignore_index, smoothing, z_loss)
        sample_weight = _near_one(sample_weight, of_rows)
        if is_hard:
            weight = _near_one(weight, of_classes)
        divisor, rows = _denominators(problem, weight, sample_weight, ignore_index, total)
    if divisor == 0:
        return Weights(weight, sample_weight, 1.0, 1.0, True)
    return Weights(weight, sample_weight, divisor, divisor / rows, False)


@dataclass(frozen=True, slots=True)
class SizeRange:
    """The smallest and largest of some weights or 0, and the smallest size of one that is not 0."""

    low: float = 0.0
    high: float = 0.0
    least: float = math.inf

    @classmethod
    def of(cls, weight: Any) -> SizeRange:
        """Return the range of a vector; None if all weights are 1."""
        if weight is None:
            return _ONES
        low, high = float(weight.min(initial=0.0)), float(weight.max(initial=0.0))
        if low < 0 < high:
            return cls(low, high, 0.0)
        sizes = weight if low == 0 else -weight
        return cls(low, high, float(sizes.min(where=sizes != 0, initial=math.inf)))

    def union(self, other: SizeRange) -> SizeRange:
        """Return the range of both."""
        return SizeRange(min(self.low, other.low), max(self.high, other.high), min(self.least, other.least))

    @property
    def needs_care(self) -> bool:
        """Whether signs are mixed, or two weights have a ratio so large that the small ones may be lost in R."""
        return self.low < 0 < self.high or self.least < math.ldexp(max(-self.low, self.high), -_FAR_APART)

    @property
    def power(self) -> int:
        """The power of two by which the largest is multiplied to lie near 1."""
        return -math.frexp(max(-self.low, self.high))[1]


_ONES = SizeRange(0.0, 0.5, 0.5)  # its power is 0


def _near_one(weight: Any, sizes: SizeRange) -> Any:
    """Return weights times a power of two, so that the largest lies near 1. The result is exact."""
    return weight if weight is None else np.ldexp(weight, sizes.power)


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
    """Return the weights for a mean with weights of either sign and any ratio."""
    is_merged = are_merged(smoothing, z_loss)
    rows = CountedRows.of(problem, weight, sample_weight, ignore_index, is_merged)
    plain = rounded_sum([rows.own], rows.power) if z_loss != 0 else (1.0, 0)
    divisor, used = rounded_sum(rows.terms, rows.powers), rows.used_classes(problem.n_classes)
    scales = Scales.of(weight, used, rows.top(), divisor, plain, smoothing, z_loss)
    if scales.empty:
        return Weights(weight, sample_weight, 1.0, 1.0, True)
    by_row, inverse = scales.of_rows(rows)
    return Weights(scales.by_class, by_row, scales.divisor, scales.per_row, False, None if is_merged else used, inverse)


def are_merged(smoothing: float, z_loss: float) -> bool:
    """Return whether class weights become part of the weights of the rows with that label."""
    return smoothing == 0 and z_loss == 0


@dataclass(frozen=True, slots=True, eq=False)
class CountedRows:
    """The weights of the rows that count, as fractions near 1 with exponents of their own, int64.

    Without smoothing and z-loss, a class weight becomes part of its rows' weights, which are float64; the class weight
    that remains is 0 or 1: the weights are merged. Smoothing and a z-loss are not multiplied by the label's class
    weight, so with them the class weights and the row weights are scaled separately.

    Attributes
    ----------
    n_rows : int
        The number of rows, whether they count or not.
    at : ndarray
        The positions of those that count. What follows has an entry for each.
    label : ndarray or None
        Their labels, if there are class weights in the sum.
    own, power : ndarray
        The weights of the rows.
    terms, powers : list of ndarray, ndarray
        What is summed to the divisor.
    """

    n_rows: int
    at: Any
    label: Any
    own: Any
    power: Any
    terms: list[Any]
    powers: Any

    @classmethod
    def of(cls, problem: Problem, weight: Any, sample_weight: Any, ignore_index: int, is_merged: bool) -> CountedRows:
        """Return the rows of a problem. `weight` and `sample_weight` are flat float64, or None."""
        y, n_rows = problem.labels, problem.n_rows
        at = np.arange(n_rows) if y is None else _counted(y, problem.n_classes, ignore_index)
        own, power = np.frexp(np.ones(at.size) if sample_weight is None else sample_weight[at])
        power = power.astype(np.int64)
        if y is None or weight is None:
            return cls(n_rows, at, None, own, power, [own], power)
        label = y[at]
        fraction, class_power = np.frexp(weight)
        terms, powers = product(own, fraction[label]), power + class_power[label]
        if is_merged:
            weightless = terms[0] == 0
            own, power = np.where(weightless, own, terms[0]), np.where(weightless, -FAR, powers)
        return cls(n_rows, at, label, own, power, terms, powers)

    def top(self) -> int:
        """Return the largest exponent of a row's weight."""
        return largest(self.own, self.power)

    def used_classes(self, n_classes: int) -> Any:
        """Return which classes are labels, (C,), or None if there are no class weights in the sum."""
        if self.label is None:
            return None
        used = np.zeros(n_classes, bool)
        used[self.label[self.own != 0]] = True
        return used


@dataclass(frozen=True, slots=True, eq=False)
class Scales:
    """The scales of the weights of a mean that needs care.

    Attributes
    ----------
    by_class, divisor, per_row, empty
        As in :class:`Weights`.
    top : int
        The largest exponent of a row's weight. It becomes 0.
    cancels : bool
        Whether the weights nearly cancel, so that the gradient of a small weight may be as large as any.
    total, exponent : float, int
        The divisor, relative to the class weights, as a fraction and an exponent.
    """

    by_class: Any
    divisor: float
    per_row: float
    empty: bool
    top: int = 0
    cancels: bool = False
    total: float = 1.0
    exponent: int = 0

    @classmethod
    def of(
        cls, weight: Any, used: Any, top: int, sum_of_weights: tuple[float, int], plain: tuple[float, int],
        smoothing: float, z_loss: float,
    ) -> Scales:  # fmt: skip
        """Return the scales for all rows.

        Parameters
        ----------
        weight : ndarray or None
            Class weights.
        used : ndarray of bool or None
            Which classes are labels of rows that count; None if class weights are not in the sum.
        top : int
            The largest exponent of a row's weight.
        sum_of_weights, plain : tuple of float and int
            The exact sums, rounded, of the rows' weights with and without class weights. `plain` is for the z-loss.
        """
        (total, exponent), (rows, rows_exponent) = sum_of_weights, plain
        if total == 0 or (z_loss != 0 and rows == 0):
            return cls(weight, 1.0, 1.0, True)
        class_power = 0
        if used is not None and are_merged(smoothing, z_loss):
            weight = (weight != 0).astype(np.float64)
        elif used is not None:
            class_power = _class_power(weight, used, smoothing / weight.size)
            weight = np.ldexp(weight, class_power)
        exponent += class_power
        over, per_row = ldexp(total, exponent - top), 1.0
        if z_loss != 0:
            per_row = max(-_MOST, min(_MOST, ldexp(total / rows, exponent - rows_exponent)))
        divisor = over or math.copysign(_LEAST, total)
        return cls(weight, divisor, per_row, False, top, abs(over) < 2.0**-IN_REACH, total, exponent)

    def of_rows(self, rows: CountedRows) -> tuple[Any, Any]:
        """Return the scaled weights of rows, (N,), and the factors for their gradients, (N,) or None."""
        own, power = rows.own, rows.power
        scaled = np.ldexp(own, np.maximum(power - self.top, -FAR))
        # A row that counts must not be lost: its logits may make the loss NaN or infinite.
        least = 2.0**-1000 if self.cancels else _LEAST
        scaled = np.where((np.abs(scaled) < least) & (own != 0), np.copysign(least, own), scaled)
        by_row, inverse = np.zeros(rows.n_rows), None
        by_row[rows.at] = scaled
        if self.cancels:
            inverse = np.zeros(rows.n_rows)
            part, part_power = np.frexp(scaled)
            value = own / self.total / np.where(part == 0, 1, part)
            value = np.ldexp(value, np.clip(power - part_power - self.exponent, -FAR, FAR))
            inverse[rows.at] = np.clip(value, -_MOST, _MOST)  # 0 times an infinity would be NaN
        return by_row, inverse


def _counted(labels: Any, n_classes: int, ignore_index: int) -> Any:
    """Return the positions of the labels that count."""
    return np.flatnonzero(counted(labels, n_classes, ignore_index)[1])


def _class_power(by_class: Any, used: Any, spread: float) -> int:
    """Return the power of two that brings the largest mass of a class, at a label or from smoothing, near 1."""
    largest = np.abs(by_class).max()
    mass = max(np.abs(by_class).max(where=used, initial=0.0), spread * largest)
    return min(-math.frexp(mass)[1], 1000 - math.frexp(largest)[1])
