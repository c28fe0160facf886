"""The losses on Dask arrays that are chunked along the rows, along the classes, or both.

Everything is lazy, and no task holds more than one chunk of each argument. Chunks along the classes are the shards of
:mod:`softmax_ce.shards`, whose Partials are combined in a tree; arrays are not rechunked. The bits of a result do not
depend on the scheduler, on the workers, or on which of them fail.
"""

from __future__ import annotations

from typing import Any, Unpack

import dask.array as da

from softmax_ce.dask.arguments import check
from softmax_ce.dask.graph import Graph
from softmax_ce.options import DaskOptions, Reduction

__all__ = ["cross_entropy", "cross_entropy_with_grad", "logsumexp", "softmax"]


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
        Arguments that :func:`softmax_ce.cross_entropy` would refuse, and chunks that do not fit. The tasks check what
        is in Dask arrays.
    IndexError
        A label that is no class.
    """
    return Graph(check(logits, targets, reduction, dict(options)), "loss").loss()


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
    graph = Graph(check(logits, targets, reduction, dict(options), grad_output), "loss-and-grad")
    return graph.loss(), graph.grad()


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
    return Graph(check(x, None, "none", {"axis": axis, "backend": backend}), "logsumexp").logsumexp()


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
    return Graph(check(x, None, "none", {"axis": axis, "backend": backend}), "softmax").softmax()
