"""The tasks of the losses on Dask arrays. Each works on one block of rows, or combines what several blocks have."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from softmax_ce import checks, functional, normalize, row_blocks, shards
from softmax_ce.exact_sums import ldexp
from softmax_ce.reduction import numpy_total, rounded


@dataclass(frozen=True, slots=True, eq=False)
class SharedOptions:
    """The arguments that all blocks of a call share.

    Attributes
    ----------
    axis, n_classes : int
    dtype : dtype
        The dtype of the loss.
    options : dict
        The options of the losses, checked, without those that have an entry for each row.
    reduction, on_empty : str
    divisor : float
        What the loss is divided by, if `mean` is None.
    grad_output : float or None
        An upstream gradient that is the same for all rows.
    weighting : Weighting or None
        How the rows are weighted, if the mean has a denominator of its own.
    mean : MeanOfBlocks or None
        The weights of that mean. None until all blocks have been surveyed.
    """

    axis: int
    n_classes: int
    dtype: np.dtype[Any]
    options: dict[str, Any]
    reduction: str
    on_empty: str
    divisor: float
    grad_output: Any
    weighting: row_blocks.Weighting | None
    mean: row_blocks.MeanOfBlocks | None = None

    def for_block(self, labels: Any, row_shape: tuple[int, ...], sample_weight: Any, where: Any) -> _ForBlock:
        """Return the options and the upstream gradient of a block. `labels` are hard, or None."""
        options = {**self.options, "axis": self.axis, "reduction": "none", "sample_weight": sample_weight}
        if where is not None:
            options["where"] = where
        upstream = 1.0 if self.grad_output is None else self.grad_output
        if self.mean is None:
            return _ForBlock(options, upstream / self.divisor)
        mean = self.mean
        by_row, inverse = mean.of_block(labels, row_shape, _flat(sample_weight, row_shape))
        options["weight"], options["sample_weight"] = mean.by_class, by_row
        with np.errstate(all="ignore"):
            options["z_loss"] = min(self.options["z_loss"] * mean.z_factor, _MOST)
            upstream = np.divide(upstream, mean.divisor) if inverse is None else upstream * inverse
        return _ForBlock(options, upstream)

    def survey(self, labels: Any, row_shape: tuple[int, ...], sample_weight: Any) -> row_blocks.Survey:
        """Return what a block contributes to the weights of the mean."""
        assert self.weighting is not None
        return self.weighting.survey(labels, row_shape, _flat(sample_weight, row_shape))

    def finish(self, surveys: Sequence[row_blocks.Survey]) -> SharedOptions:
        """Return the settings with the weights of the mean, given the surveys of all blocks."""
        assert self.weighting is not None
        mean = self.weighting.finish(row_blocks.combine(surveys))
        if mean.empty and self.on_empty == "raise":
            raise ValueError("no row counts towards the mean: each is ignored or has weight 0, or the weights sum to 0")
        return replace(self, mean=mean)


class _ForBlock(NamedTuple):
    options: dict[str, Any]
    upstream: Any


_MOST = float(np.finfo(np.float64).max)


def _flat(sample_weight: Any, row_shape: tuple[int, ...]) -> Any:
    return None if sample_weight is None else checks.check_weight("sample_weight", sample_weight, row_shape)


def survey(settings: SharedOptions, labels: Any, row_shape: list[int], sample_weight: Any) -> row_blocks.Survey:
    """Return what a block of rows contributes to the weights of the mean."""
    return settings.survey(labels, tuple(row_shape), sample_weight)


def combine_surveys(surveys: list[row_blocks.Survey]) -> row_blocks.Survey:
    """Return the survey of several blocks."""
    return row_blocks.combine(surveys)


def finish(settings: SharedOptions, surveys: list[row_blocks.Survey]) -> SharedOptions:
    """Return the settings with the weights of the mean."""
    return settings.finish(surveys)


def loss(settings: SharedOptions, x: Any, targets: Any, sample_weight: Any, where: Any) -> Any:
    """Return the loss of a block that has all classes: its rows', or their sum."""
    labels, row_shape = _labels(settings, x, targets)
    options, _ = settings.for_block(labels, row_shape, sample_weight, where)
    return _part(settings, functional.cross_entropy(x, targets, **options))


def loss_and_grad(
    settings: SharedOptions, x: Any, targets: Any, sample_weight: Any, where: Any, grad_output: Any
) -> tuple[Any, Any]:
    """Return the loss and the gradient of a block that has all classes."""
    labels, row_shape = _labels(settings, x, targets)
    options, upstream = settings.for_block(labels, row_shape, sample_weight, where)
    upstream = upstream if grad_output is None else grad_output
    losses, grad = functional.cross_entropy_with_grad(x, targets, grad_output=upstream, **options)
    return _part(settings, losses), grad


def partial(
    settings: SharedOptions, x: Any, targets: Any, sample_weight: Any, where: Any, first: int
) -> shards.Partial:
    """Return what a block of some classes contributes to the losses of its rows."""
    row_shape = _row_shape(settings, x)
    if targets is None:  # a normalizer
        targets = np.zeros(row_shape, np.int64)
    labels = targets if np.shape(targets) == row_shape else None
    options, _ = settings.for_block(labels, row_shape, sample_weight, where)
    return shards.partial(x, targets, first_class=first, n_classes=settings.n_classes, **options)


def combine(partials: list[shards.Partial]) -> shards.Partial:
    """Return the Partial of several blocks of classes."""
    return shards.combine(partials)


def loss_of_total(settings: SharedOptions, total: shards.Partial) -> Any:
    """Return the loss of a block, from the Partial of all classes: its rows', or their sum."""
    return _part(settings, shards.loss(total))


def grad(
    settings: SharedOptions, x: Any, targets: Any, sample_weight: Any, where: Any, grad_output: Any, first: int,
    total: shards.Partial,
) -> Any:  # fmt: skip
    """Return the gradient of a block of some classes."""
    if grad_output is None:
        labels, row_shape = _labels(settings, x, targets)
        grad_output = settings.for_block(labels, row_shape, sample_weight, None).upstream
    threads = settings.options["threads"]
    return shards.grad(x, targets, total, first_class=first, where=where, grad_output=grad_output, threads=threads)


def softmax(settings: SharedOptions, x: Any) -> Any:
    """Return the softmax of a block that has all classes."""
    return normalize.softmax(x, settings.axis, backend=settings.options["backend"], threads=1)


def logsumexp(settings: SharedOptions, x: Any) -> Any:
    """Return the log-sum-exp of the rows of a block that has all classes."""
    return normalize.logsumexp(x, settings.axis, backend=settings.options["backend"], threads=1)


def softmax_of_total(x: Any, first: int, total: shards.Partial) -> Any:
    """Return the softmax of a block of some classes."""
    return shards.softmax(x, total, first_class=first, threads=1)


def logsumexp_of_total(total: shards.Partial) -> Any:
    """Return the log-sum-exp of the rows of a block."""
    return shards.logsumexp(total)


def add(sums: list[Sum]) -> Sum:
    """Return the sum of several blocks."""
    values = [each.value for each in sums]
    if not all(map(math.isfinite, values)):
        return Sum(float(np.add.reduce(values)), 0)
    top = max(math.frexp(each.value)[1] + each.power for each in sums if each.value) if any(values) else 0
    return Sum(math.fsum(math.ldexp(each.value, each.power - top) for each in sums), top)


def reduced(settings: SharedOptions, sums: list[Sum]) -> Any:
    """Return the loss, from the sums of all blocks."""
    mean = settings.mean
    if mean is not None and mean.empty:
        return rounded(math.nan if settings.on_empty == "nan" else 0.0, settings.dtype)
    total = add(sums)
    divisor, power = math.frexp(settings.divisor if mean is None else mean.divisor)
    with np.errstate(all="ignore"):
        return rounded(ldexp(total.value / divisor, total.power - power), settings.dtype)


@dataclass(frozen=True, slots=True)
class Sum:
    """A sum of losses, value * 2**power: it may lie beyond float64, and the mean not."""

    value: float
    power: int


def _part(settings: SharedOptions, losses: Any) -> Any:
    """Return the losses of a block's rows, or their sum."""
    if settings.reduction == "none":
        return losses
    losses = np.ravel(losses)
    with np.errstate(invalid="ignore"):  # infinite losses of either sign
        total = numpy_total(losses, 1.0)
        if math.isinf(total) and losses.dtype.itemsize == 8:
            return Sum(float(np.add.reduce(np.ldexp(losses, -_DOWN))), _DOWN)
    return Sum(total, 0)


_DOWN = 64  # binary orders of magnitude: the losses of any array, scaled down so far, sum without overflow


def _row_shape(settings: SharedOptions, x: Any) -> tuple[int, ...]:
    return x.shape[: settings.axis] + x.shape[settings.axis + 1 :]


def _labels(settings: SharedOptions, x: Any, targets: Any) -> tuple[Any, tuple[int, ...]]:
    """Return the hard labels of a block, or None, and the shape of its rows."""
    row_shape = _row_shape(settings, x)
    return targets if np.shape(targets) == row_shape else None, row_shape
