"""The weights of a mean whose rows come in blocks.

Each block is surveyed, the surveys are combined, and with them each block finds its weights. Blocks come to the weights
that :mod:`softmax_ce.weights` gives to all rows at once, except that the divisor is always the exact sum, rounded once.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from softmax_ce import checks
from softmax_ce.exact_sums import exact_sum, ldexp, rounded
from softmax_ce.problem import Problem, counted
from softmax_ce.weights import CountedRows, Scales, SizeRange, are_merged


def block_of_rows(labels: Any, row_shape: tuple[int, ...], n_classes: int, ignore_index: int) -> Problem:
    """Return rows with their hard labels, checked, or without labels. Only shapes and labels may be used."""
    problem = checks.check_logits(np.broadcast_to(np.float32(0), (*row_shape, n_classes)), -1)
    if labels is not None:
        checks.check_targets(problem, labels, ignore_index)
    return problem


@dataclass(frozen=True, slots=True, eq=False)
class Survey:
    """What a block of rows contributes to the weights of a mean. It can be pickled.

    Attributes
    ----------
    total, plain : Fraction
        The exact sums of the rows' weights, with and without class weights, over the rows that count.
    top : int
        The largest exponent of a row's weight.
    used : ndarray of bool or None
        Which classes are labels, (C,); None if class weights are not in the sum.
    sizes : SizeRange
        Of the sample weights.
    """

    total: Fraction
    plain: Fraction
    top: int
    used: Any
    sizes: SizeRange


@dataclass(frozen=True, slots=True, eq=False)
class MeanOfBlocks:
    """The weights of a mean, once all blocks have been surveyed.

    Attributes
    ----------
    by_class : ndarray or None
        The class weights to compute with.
    divisor : float
        What the sum of the row losses is divided by.
    z_factor : float
        What the z-loss is multiplied by, not negative: where it would be, all weights change their signs.
    empty : bool
        Whether no row counts.
    """

    weighting: Weighting
    by_class: Any
    divisor: float
    z_factor: float
    empty: bool
    flips: bool = False
    power: int = 0
    scales: Scales | None = None

    def of_block(self, labels: Any, row_shape: tuple[int, ...], sample_weight: Any) -> tuple[Any, Any]:
        """Return the weights of a block's rows, and the factors for their gradients, each in `row_shape` or None.

        `labels` are hard, or None; `sample_weight` is flat float64, or None. Gradients without a factor are divided by
        the divisor.
        """
        if self.empty:
            return np.zeros(row_shape), None
        by_row, inverse = sample_weight, None
        with np.errstate(all="ignore"):
            if self.scales is not None:
                rows = self.weighting.counted_rows(labels, row_shape, sample_weight)
                by_row, inverse = self.scales.of_rows(rows)
            elif sample_weight is not None:
                by_row = np.ldexp(sample_weight, self.power)
        if self.flips:
            by_row = 0.0 - (np.ones(math.prod(row_shape)) if by_row is None else by_row)
        return _shaped(by_row, row_shape), _shaped(inverse, row_shape)


@dataclass(frozen=True, slots=True, eq=False)
class Weighting:
    """The options that decide about the weights of a mean. `weight` is flat float64, or None."""

    n_classes: int
    weight: Any
    ignore_index: int
    label_smoothing: float
    z_loss: float
    is_hard: bool

    def counted_rows(self, labels: Any, row_shape: tuple[int, ...], sample_weight: Any) -> CountedRows:
        """Return the rows of a block that count."""
        rows = block_of_rows(labels, row_shape, self.n_classes, self.ignore_index)
        is_merged = are_merged(self.label_smoothing, self.z_loss)
        return CountedRows.of(rows, self.weight, sample_weight, self.ignore_index, is_merged)

    def survey(self, labels: Any, row_shape: tuple[int, ...], sample_weight: Any) -> Survey:
        """Return the survey of a block. `labels` are hard, or None; `sample_weight` is flat float64, or None."""
        sizes = SizeRange.of(sample_weight)
        if sample_weight is None and (self.weight is None or not self.is_hard):
            count = Fraction(self._count(labels, row_shape))
            return Survey(count, count, 1, None, sizes)
        rows = self.counted_rows(labels, row_shape, sample_weight)
        plain = exact_sum([rows.own], rows.power) if self.z_loss != 0 else Fraction(1)
        total = exact_sum(rows.terms, rows.powers)
        return Survey(total, plain, rows.top(), rows.used_classes(self.n_classes), sizes)

    def _count(self, labels: Any, row_shape: tuple[int, ...]) -> int:
        """Return how many rows count."""
        rows = block_of_rows(labels, row_shape, self.n_classes, self.ignore_index)
        if not rows.any_ignored:
            return rows.n_rows
        return int(np.count_nonzero(counted(rows.labels, self.n_classes, self.ignore_index)[1]))

    def finish(self, survey: Survey) -> MeanOfBlocks:
        """Return the weights, given the survey of all blocks."""
        total, plain = rounded(survey.total), rounded(survey.plain)
        of_classes = SizeRange.of(self.weight if self.is_hard else None)
        scales, power = None, 0
        with np.errstate(all="ignore"):
            if survey.sizes.needs_care or of_classes.needs_care:
                smoothing, z_loss = self.label_smoothing, self.z_loss
                scales = Scales.of(self.weight, survey.used, survey.top, total, plain, smoothing, z_loss)
                by_class, divisor, per_row, empty = scales.by_class, scales.divisor, scales.per_row, scales.empty
            else:
                power, class_power = survey.sizes.power, of_classes.power
                by_class = None if self.weight is None else np.ldexp(self.weight, class_power)
                divisor = ldexp(total[0], total[1] + power + class_power)
                empty, per_row = divisor == 0, 1.0
                if self.z_loss != 0 and not empty:
                    per_row = divisor / ldexp(plain[0], plain[1] + power)
        flips = per_row < 0
        if flips and by_class is not None:
            by_class = 0.0 - by_class
        return MeanOfBlocks(self, by_class, 1.0 if empty else divisor, abs(per_row), empty, flips, power, scales)


def _shaped(vector: Any, shape: tuple[int, ...]) -> Any:
    return None if vector is None else vector.reshape(shape)


def combine(surveys: Iterable[Survey]) -> Survey:
    """Combine the surveys of different blocks."""
    one, *others = surveys
    total, plain, top, used, sizes = one.total, one.plain, one.top, one.used, one.sizes
    for other in others:
        total, plain, top = total + other.total, plain + other.plain, max(top, other.top)
        used = None if used is None else used | other.used
        sizes = sizes.union(other.sizes)
    return Survey(total, plain, top, used, sizes)
