"""The losses on Dask arrays that are chunked along the rows, along the classes, or both.

Everything is lazy, and no task holds more than one chunk of each argument. Chunks along the classes are the shards of
:mod:`softmax_ce.shards`, whose Partials are combined in a tree; arrays are not rechunked. The bits of a result do not
depend on the scheduler, on the workers, or on which of them fail.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple, Unpack

import dask
import dask.array as da
import numpy as np

from softmax_ce import shards
from softmax_ce.checks import ON_EMPTY, REDUCTIONS, check_choice, check_number
from softmax_ce.dtypes import compute_dtype, result_dtype
from softmax_ce.functional import cross_entropy_with_grad as cross_entropy_of_rows
from softmax_ce.keywords import check_known
from softmax_ce.options import DaskOptions, Reduction
from softmax_ce.reduction import numpy_total

__all__ = ["cross_entropy", "cross_entropy_with_grad", "logsumexp", "softmax"]

_FAN_IN = 8  # Partials or sums that one task combines


def cross_entropy(
    logits: da.Array,
    targets: Any,
    *,
    reduction: Reduction = "mean",
    **options: Unpack[DaskOptions],
) -> da.Array:
    """Compute the softmax cross-entropy loss of a Dask array.

    Parameters
    ----------
    logits : dask.array.Array, shape (..., C, ...)
        Chunked in any way.
    targets : array_like or dask.array.Array
        Hard labels, in the logits' shape without the class axis, or soft labels, in the logits' shape. A Dask array
        must be chunked as the logits are.
    reduction : {"mean", "sum", "none"}, default "mean"
        The mean over the rows, their sum, or one loss for each row.
    **options
        Options of :func:`softmax_ce.cross_entropy`: `weight`, `sample_weight`, `ignore_index`, `label_smoothing`,
        `z_loss`, `denominator`, `on_empty`, `axis`, `logit_scale`, `softcap`, `where`, `backend` and `threads`. The
        default of `threads` is 1, since a worker runs several tasks. `sample_weight`, and a `where` in the logits'
        shape, may be Dask arrays that are chunked as the logits are.

    Returns
    -------
    dask.array.Array
        0-d, or in the shape of the "none" loss.

    Raises
    ------
    ValueError, TypeError
        Shapes or chunks that do not fit. The tasks check the other arguments, and raise the errors of
        :func:`softmax_ce.cross_entropy`.
    """
    return _Graph(logits, targets, reduction, dict(options)).loss()


def cross_entropy_with_grad(
    logits: da.Array,
    targets: Any,
    *,
    reduction: Reduction = "mean",
    grad_output: Any = None,
    **options: Unpack[DaskOptions],
) -> tuple[da.Array, da.Array]:
    """Compute the loss of a Dask array, and its gradient with respect to the logits.

    Parameters
    ----------
    logits : dask.array.Array, shape (..., C, ...)
        Chunked in any way.
    targets : array_like or dask.array.Array
        Hard labels, in the logits' shape without the class axis, or soft labels, in the logits' shape. A Dask array
        must be chunked as the logits are.
    reduction : {"mean", "sum", "none"}, default "mean"
        The mean over the rows, their sum, or one loss for each row.
    grad_output : float or array_like, optional
        The upstream gradient: a scalar, or with ``reduction="none"`` also an array in the shape of the loss.
    **options
        The options of :func:`cross_entropy`.

    Returns
    -------
    (loss, grad)
        The gradient has the logits' shape, dtype and chunks.
    """
    graph = _Graph(logits, targets, reduction, dict(options), grad_output)
    return graph.loss(with_grad=True), graph.grad()


def logsumexp(x: da.Array, axis: int = -1, *, backend: str | None = None) -> da.Array:
    """Compute log(sum(exp(x))) over one axis of a Dask array.

    Parameters
    ----------
    x : dask.array.Array
    axis : int, default -1
    backend : str, optional

    Returns
    -------
    dask.array.Array
        In the shape of `x` without the axis.
    """
    graph = _Graph(x, None, "none", {"axis": axis, "backend": backend})
    return graph.by_row({row: _logsumexp(total) for row, total in graph.totals.items()})


def softmax(x: da.Array, axis: int = -1, *, backend: str | None = None) -> da.Array:
    """Compute the softmax over one axis of a Dask array.

    Parameters
    ----------
    x : dask.array.Array
    axis : int, default -1
    backend : str, optional

    Returns
    -------
    dask.array.Array
        In the shape and chunks of `x`.
    """
    graph = _Graph(x, None, "none", {"axis": axis, "backend": backend})
    return graph.by_logit(lambda row, first, block, *_: _softmax(block, graph.totals[row], first_class=first))


class _Weight(NamedTuple):
    """The denominators of a mean: the sum of sample_weight * weight[label], and that of sample_weight alone."""

    weighted: float
    rows: float


class _Graph:
    """The tasks of one call. Whatever has an entry for each row, or each logit, is cut where the logits are."""

    def __init__(self, x: Any, targets: Any, reduction: str, options: dict[str, Any], grad_output: Any = None) -> None:
        if not isinstance(x, da.Array):
            raise TypeError(f"logits must be a dask.array.Array, got {type(x).__name__}")
        check_known(DaskOptions, options)
        axis = options.pop("axis", -1)
        if not -x.ndim <= axis < x.ndim:
            raise ValueError(f"axis {axis} is out of range for logits of shape {x.shape}")
        check_choice("reduction", reduction, REDUCTIONS)
        self.x, self.axis, self.reduction = x, axis % x.ndim, reduction
        self.compute = compute_dtype(x.dtype)
        self.blocks = x.to_delayed()
        self.row_chunks = x.chunks[: self.axis] + x.chunks[self.axis + 1 :]
        self.row_shape = x.shape[: self.axis] + x.shape[self.axis + 1 :]
        self.on_empty = options.pop("on_empty", "nan")
        check_choice("on_empty", self.on_empty, ON_EMPTY)
        self.denominator = options.pop("denominator", None)
        if self.denominator is not None and reduction != "mean":
            raise ValueError(f'denominator goes with reduction="mean" only, got reduction={reduction!r}')
        if self.denominator is not None:
            self.denominator = check_number("denominator", self.denominator, 0.0, math.inf, above=True)
        if grad_output is not None and np.ndim(grad_output) and reduction != "none":
            raise ValueError(f"grad_output must have shape (), got {np.shape(grad_output)}")
        self.is_hard = targets is None or np.shape(targets) == self.row_shape
        self.targets = self._cut("targets", targets, whole=not self.is_hard)
        self.sample_weight = self._cut("sample_weight", options.pop("sample_weight", None))
        is_scalar = grad_output is None or np.ndim(grad_output) == 0
        self.grad_output = grad_output if is_scalar else self._cut("grad_output", grad_output)
        where = options.get("where")
        by_logit = where is not None and np.ndim(where) > 1
        self.where = self._cut("where", options.pop("where"), whole=True) if by_logit else None
        self.options = dask.delayed({"threads": 1, **options}, pure=True)  # sent once, not with every block
        self.mean = self._mean(options) if reduction == "mean" and self.denominator is None else None
        # The z-loss of a mean has a denominator of its own, and partial() knows but one.
        has_ratio = self.mean is not None and options.get("z_loss") and options.get("weight") is not None
        self.ratio = _ratio(self.mean) if has_ratio else None

    @cached_property
    def totals(self) -> dict[tuple[int, ...], Any]:
        """The Partial of all classes for each row block."""
        return {row: self._total(row) for row in self._rows()}

    @cached_property
    def whole_rows(self) -> dict[tuple[int, ...], Any] | None:
        """The row losses and the gradient of each row block, from one fused call, if a chunk has all classes."""
        if self.x.numblocks[self.axis] > 1:
            return None
        found = {}
        for row in self._rows():
            ((_, _, x, targets, mask),) = self._shards(row)
            found[row] = _losses_and_gradient(
                x, targets, self.axis, self._weights(row), mask, self.ratio, self._upstream(row), self.mean,
                self.denominator, self.options,
            )  # fmt: skip
        return found

    def _weights(self, row: tuple[int, ...]) -> Any:
        return None if self.sample_weight is None else self.sample_weight[row]

    def _upstream(self, row: tuple[int, ...]) -> Any:
        upstream = self.grad_output
        return upstream[row] if isinstance(upstream, np.ndarray) and upstream.ndim else upstream

    def _cut(self, name: str, value: Any, whole: bool = False) -> Any:
        """Return the blocks of an array, cut as the logits are, or as their rows are."""
        if value is None:
            return None
        shape, chunks = (self.x.shape, self.x.chunks) if whole else (self.row_shape, self.row_chunks)
        if np.shape(value) != shape:
            raise ValueError(
                f"{name} of shape {np.shape(value)} does not fit logits of shape {self.x.shape} with classes on axis "
                f"{self.axis}"
            )
        if not isinstance(value, da.Array):
            value = da.from_array(np.asarray(value), chunks=chunks)
        if value.chunks != chunks:
            raise ValueError(f"{name} has chunks {value.chunks}; it must be chunked as the logits are, {chunks}")
        return value.to_delayed()

    def _rows(self) -> Iterator[tuple[int, ...]]:
        """Yield the indices of the row blocks."""
        return np.ndindex(*(len(chunks) for chunks in self.row_chunks))

    def _shape(self, row: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(chunks[i] for chunks, i in zip(self.row_chunks, row, strict=True))

    def _shards(self, row: tuple[int, ...]) -> Iterator[tuple[tuple[int, ...], int, Any, Any, Any]]:
        """Yield block index, first class, logits, targets and mask of the shards of a row block."""
        first = 0
        for k, width in enumerate(self.x.chunks[self.axis]):
            at = (*row[: self.axis], k, *row[self.axis :])
            targets = None if self.targets is None else self.targets[row if self.is_hard else at]
            yield at, first, self.blocks[at], targets, None if self.where is None else self.where[at]
            first += width

    def _total(self, row: tuple[int, ...]) -> Any:
        """Return the Partial of all classes for a row block."""
        weight = self._weights(row)
        n_classes = self.x.shape[self.axis]
        return _tree(
            [
                _partial(x, targets, first, n_classes, self.axis, weight, mask, self.ratio, self.options)
                for _, first, x, targets, mask in self._shards(row)
            ],
            _combine,
        )

    def _mean(self, options: dict[str, Any]) -> Any:
        """Return the denominators of the mean, from labels and weights alone."""
        parts = [
            _denominators(
                self.targets[row] if self.is_hard else None,
                self._weights(row),
                math.prod(self._shape(row)), options.get("weight"), options.get("ignore_index", -100),
            )
            for row in self._rows()
        ]  # fmt: skip
        return _tree(parts, _add_weights)

    def loss(self, with_grad: bool = False) -> da.Array:
        """Return the loss, lazily. `with_grad` says that the gradient is wanted, too."""
        whole = self.whole_rows if with_grad else None
        losses = {row: _row_losses(self.totals[row]) if whole is None else whole[row][0] for row in self._rows()}
        if self.reduction == "none":
            return self.by_row(losses)
        total = _tree([_sum(losses[row]) for row in self._rows()], _add)
        if self.reduction == "mean":
            total = _divide(total, self.mean, self.denominator, self.on_empty)
        return da.from_delayed(_cast(total, self.compute), (), self.compute)

    def grad(self) -> da.Array:
        """Return the gradient, lazily."""

        def task(row: tuple[int, ...], first: int, x: Any, targets: Any, mask: Any) -> Any:
            if self.whole_rows is not None:
                return self.whole_rows[row][1]
            return _gradient(
                x, targets, self.totals[row], first, mask, self._upstream(row), self.mean, self.denominator
            )

        return self.by_logit(task)

    def by_row(self, found: Mapping[tuple[int, ...], Any]) -> da.Array:
        """Return an array with an entry for each row from what each row block has."""
        blocks = np.empty([len(chunks) for chunks in self.row_chunks], object)
        for row in self._rows():
            blocks[row] = da.from_delayed(found[row], self._shape(row), self.compute)
        return da.block(blocks.tolist()) if blocks.ndim else blocks.item()

    def by_logit(self, task: Any) -> da.Array:
        """Return an array in the shape and chunks of the logits."""
        dtype = result_dtype(self.x.dtype)
        blocks = np.empty(self.x.numblocks, object)
        for row in self._rows():
            for at, first, x, targets, mask in self._shards(row):
                shape = tuple(chunks[i] for chunks, i in zip(self.x.chunks, at, strict=True))
                blocks[at] = da.from_delayed(task(row, first, x, targets, mask), shape, dtype)
        return da.block(blocks.tolist())


def _tree(parts: Sequence[Any], combine: Any) -> Any:
    """Return the combination of parts, a few at a time, always the same ones."""
    parts = list(parts)
    while len(parts) > 1:
        parts = [combine(parts[i : i + _FAN_IN]) for i in range(0, len(parts), _FAN_IN)]
    return parts[0]


# The tasks. Their names are what Dask's dashboard shows.


@dask.delayed(pure=True, traverse=False)
def _partial(
    x: Any, targets: Any, first: int, n_classes: int, axis: int, sample_weight: Any, where: Any, ratio: Any,
    options: dict[str, Any],
) -> shards.Partial:  # fmt: skip
    given = _for_block(options, ratio, where)
    if targets is None:  # a normalizer
        targets = np.zeros(x.shape[:axis] + x.shape[axis + 1 :], np.int64)
    return shards.partial(
        x, targets, first_class=first, n_classes=n_classes, axis=axis, sample_weight=sample_weight, reduction="none",
        **given,
    )  # fmt: skip


def _for_block(options: dict[str, Any], ratio: float | None, where: Any) -> dict[str, Any]:
    given = dict(options)
    if ratio is not None:
        given["z_loss"] *= ratio
    if where is not None:
        given["where"] = where
    return given


@dask.delayed(pure=True, nout=2)
def _losses_and_gradient(
    x: Any, targets: Any, axis: int, sample_weight: Any, where: Any, ratio: Any, upstream: Any, mean: _Weight | None,
    denominator: float | None, options: dict[str, Any],
) -> tuple[Any, Any]:  # fmt: skip
    return cross_entropy_of_rows(
        x, targets, axis=axis, sample_weight=sample_weight, reduction="none",
        grad_output=_scaled(upstream, mean, denominator), **_for_block(options, ratio, where),
    )  # fmt: skip


def _scaled(upstream: Any, mean: _Weight | None, denominator: float | None) -> Any:
    """Return the upstream gradient of the row losses. If no row counts towards a mean, it is 0."""
    upstream = 1.0 if upstream is None else np.asarray(upstream, np.float64)
    divisor = denominator if mean is None else mean.weighted
    return upstream / (math.inf if divisor == 0 else divisor or 1.0)


_combine = dask.delayed(shards.combine, pure=True)
_row_losses = dask.delayed(shards.loss, pure=True)
_logsumexp = dask.delayed(shards.logsumexp, pure=True)
_softmax = dask.delayed(shards.softmax, pure=True)


@dask.delayed(pure=True)
def _sum(losses: Any) -> float:
    return numpy_total(np.ravel(losses), 1.0)


@dask.delayed(pure=True)
def _add(sums: list[float]) -> float:
    return math.fsum(sums) if all(map(math.isfinite, sums)) else float(np.add.reduce(sums))


@dask.delayed(pure=True)
def _denominators(labels: Any, sample_weight: Any, rows: int, weight: Any, ignore_index: int) -> _Weight:
    weights = np.ones(rows) if sample_weight is None else np.asarray(sample_weight, np.float64).ravel()
    if labels is None:
        return _Weight(float(weights.sum()), float(weights.sum()))
    labels = np.ravel(labels)
    counted = (labels != ignore_index) & (labels >= 0)  # what is no class is left to partial(), whose error names it
    if weight is not None:
        counted &= labels < np.size(weight)
    weights, labels = weights[counted], labels[counted]
    by_label = weights if weight is None else weights * np.asarray(weight, np.float64)[labels]
    return _Weight(float(by_label.sum()), float(weights.sum()))


@dask.delayed(pure=True)
def _add_weights(parts: list[_Weight]) -> _Weight:
    return _Weight(*(math.fsum(values) for values in zip(*parts, strict=True)))


@dask.delayed(pure=True)
def _ratio(mean: _Weight) -> float:
    return mean.weighted / mean.rows if mean.rows else 1.0


@dask.delayed(pure=True)
def _divide(total: float, mean: _Weight | None, denominator: float | None, on_empty: str) -> float:
    if mean is None:
        assert denominator is not None
        return total / denominator
    if mean.weighted:
        return total / mean.weighted
    if on_empty == "raise":
        raise ValueError("no row counts towards the mean: each is ignored or has weight 0, or the weights sum to 0")
    return math.nan if on_empty == "nan" else 0.0


@dask.delayed(pure=True)
def _cast(value: float, dtype: np.dtype[Any]) -> Any:
    return np.asarray(value).astype(dtype)


@dask.delayed(pure=True)
def _gradient(
    x: Any, targets: Any, total: shards.Partial, first: int, where: Any, upstream: Any, mean: _Weight | None,
    denominator: float | None,
) -> Any:  # fmt: skip
    upstream = _scaled(upstream, mean, denominator)
    return shards.grad(x, targets, total, first_class=first, where=where, grad_output=upstream, threads=1)
