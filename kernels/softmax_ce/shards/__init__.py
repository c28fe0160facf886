"""The loss when the classes are divided into shards: on several machines, in several processes, or in blocks.

Each shard computes a :class:`Partial`, a few numbers for each row. Partials are combined in any order and grouping. The
total gives the loss, and with it each shard computes its own columns of the gradient::

    parts = [partial(x, y, first_class=first, n_classes=C, label_smoothing=0.1) for first, x in shards]
    total = combine(parts)
    value = loss(total)
    grads = [grad(x, y, total, first_class=first) for first, x in shards]

The bits of the results do not depend on the grouping: a Partial keeps the sums of each chunk of its classes, relative
to the chunk's maximum, and they are folded once, at the end, in the order of the classes.

The results are within the error bounds of one call. They have the bits of one call in two cases:

- A shard has all classes.
- The backend has kernels for shards, as `cython` and `numba` do, and each shard begins with a whole chunk of classes.
  A chunk has 2048 classes. With `numba`, if the number of classes is no multiple of 2048, a chunk may have fewer: the
  number of classes divided by as few chunks as possible, rounded up to a multiple of 64, or of 32 for float64. There
  are two exceptions. `softcap` is computed by NumPy here, but may be computed by the kernels in one call. And with both
  `label_smoothing` and a `where` in the logits' shape, sums are folded in NumPy.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, Unpack

import numpy as np
from numpy.typing import ArrayLike

from softmax_ce import checks, evaluation
from softmax_ce.keywords import given
from softmax_ce.normalize import softmax as softmax_of_rows
from softmax_ce.options import Array, ShardOptions
from softmax_ce.reduction import numpy_total
from softmax_ce.registry import get_backend
from softmax_ce.shards.arguments import checked_shard, stand_in
from softmax_ce.shards.chunked import write_softmax
from softmax_ce.shards.partials import Partial, check_alike, complete_totals, completed, piece_of
from softmax_ce.shards.rows import Piece, known_logit, share
from softmax_ce.shards.totals import Totals

__all__ = ["Partial", "combine", "grad", "logsumexp", "loss", "partial", "softmax"]


def partial(
    logits_shard: ArrayLike,
    targets: ArrayLike,
    *,
    first_class: int,
    n_classes: int,
    **options: Unpack[ShardOptions],
) -> Partial:
    """Compute what the classes of one shard contribute to the loss of each row.

    Parameters
    ----------
    logits_shard : array_like, shape (..., width, ...)
        The logits of the classes [first_class, first_class + width).
    targets : array_like
        Hard labels, of all classes, in the logits' shape without the class axis. Or soft labels of these classes alone,
        in the shape of `logits_shard`.
    first_class : int
        The first class of this shard.
    n_classes : int
        The number of classes in all shards together.
    **options
        The options of :func:`softmax_ce.cross_entropy`, except buffers. They must be the same for every shard, and are
        kept in the Partial. `weight` has an entry for every class of all shards, and so has a `where` with one axis. A
        `where` in the logits' shape has the columns of this shard. If the rows are divided into blocks, each with a
        loss of its own, pass `denominator` or ``reduction="sum"``.

    Returns
    -------
    Partial

    Raises
    ------
    ValueError, TypeError, IndexError
        An argument that :func:`softmax_ce.cross_entropy` would refuse, or a shard that does not lie in [0, n_classes).

    Examples
    --------
    >>> import numpy as np
    >>> from softmax_ce import shards
    >>> logits = np.array([[2.0, 1.0, 0.0, 3.0]])
    >>> left = shards.partial(logits[:, :2], [0], first_class=0, n_classes=4)
    >>> right = shards.partial(logits[:, 2:], [0], first_class=2, n_classes=4)
    >>> print(shards.loss(shards.combine([left, right])).round(4))
    1.4402
    """
    shard, checked = checked_shard(
        logits_shard, targets, first_class, n_classes, given(ShardOptions, options), options.get("backend")
    )
    totals = label_logit = label_mass = None
    masked = shard.problem.transform is not None and shard.problem.transform.masks is not None
    if shard.has_all_classes:
        piece, totals = Piece(0, shard.stop, masked=masked), Totals(shard.one_call(checked.return_correct), None)
    else:
        piece, label_logit, label_mass = shard.piece(checked.return_correct)
    # What travels is copied, as it was given: the caller may change its own.
    weights = None if checked.sample_weight is None else checked.sample_weight.reshape(shard.problem.row_shape)
    where = None if masked or checked.where is None else np.array(checked.where)
    checked = checked._replace(threads=None, sample_weight=weights, where=where)
    kept = replace(shard.factors, class_scale=None, base_mass=None, spread=None)
    return Partial(
        n_classes, shard.problem.row_shape, shard.problem.compute, checked, shard.backend.name, kept, (piece,),
        label_logit, label_mass, totals,
    )  # fmt: skip


def combine(partials: Iterable[Partial]) -> Partial:
    """Combine the Partials of different shards, in any order and grouping.

    Parameters
    ----------
    partials : iterable of Partial
        Partials of the same rows, targets and options.

    Returns
    -------
    Partial

    Raises
    ------
    ValueError
        No Partial was given, shards overlap, or the Partials do not belong together.
    """
    parts = list(partials)
    if not parts:
        raise ValueError("combine needs at least one Partial")
    one, *others = parts
    for other in others:
        check_alike(one, other)
    pieces = sorted((piece for each in parts for piece in each.pieces), key=lambda piece: piece.first)
    for before, after in itertools.pairwise(pieces):
        if after.first < before.stop:
            raise ValueError(
                f"the shards [{before.first}, {before.stop}) and [{after.first}, {after.stop}) have classes in common"
            )
    logit = one.label_logit
    for other in others:
        if logit is not None:
            logit = known_logit(logit, other.label_logit)
    return completed(replace(one, pieces=tuple(pieces), label_logit=logit))


def loss(total: Partial) -> Any:
    """Compute the loss from the Partial of all classes.

    Parameters
    ----------
    total : Partial

    Returns
    -------
    loss, or a tuple (loss[, lse][, correct])
        The results of :func:`softmax_ce.cross_entropy` with the options that were passed to :func:`partial`.

    Raises
    ------
    ValueError
        Classes are missing.
    """
    kept, options = complete_totals(total).outputs, total.options
    # The caller may change what is returned.
    outputs = replace(kept, loss=kept.loss.copy(), correct=None if kept.correct is None else kept.correct.copy())
    problem = stand_in(total.row_shape, total.n_classes, total.dtype)
    sum_of = get_backend(total.backend).total or numpy_total
    results = [evaluation.reduce_rows(problem, total.factors, outputs, options, sum_of)]
    return evaluation.returned(results, problem, options, outputs)


def grad(
    logits_shard: ArrayLike,
    targets: ArrayLike,
    total: Partial,
    *,
    first_class: int,
    where: ArrayLike | None = None,
    grad_output: ArrayLike | None = None,
    grad_out: Array | None = None,
    threads: int | None = None,
) -> Array:
    """Compute a shard's columns of the gradient.

    Parameters
    ----------
    logits_shard, targets, first_class
        The arguments that were passed to :func:`partial`.
    total : Partial
        The Partial of all classes.
    where : array_like of bool, optional
        The mask that was passed to :func:`partial`, if it has the shape of `logits_shard`. `total` has all other
        options.
    grad_output : float or array_like, optional
        The upstream gradient: a scalar, or with ``reduction="none"`` also one number for each row.
    grad_out : ndarray, optional
        A buffer in the shape and dtype of `logits_shard`. It may be `logits_shard` itself.
    threads : int, optional
        The largest number of threads to use; by default, one for each CPU that this process may use.

    Returns
    -------
    ndarray
        In the shape and dtype of `logits_shard`, or float64 for integers.

    Raises
    ------
    ValueError, TypeError, IndexError
        An argument that :func:`softmax_ce.cross_entropy_grad` would refuse, a total that lacks classes, or a shard that
        is not one of those in it.
    """
    totals = complete_totals(total)
    options = total.options._replace(grad_output=grad_output, grad_out=grad_out, threads=threads)
    if where is not None:
        if options.where is not None:
            raise ValueError("where comes with the total already: it has an entry for each class")
        options = options._replace(where=where)
    shard, _ = checked_shard(logits_shard, targets, first_class, total.n_classes, options, total.backend)
    piece = piece_of(total, shard.first, shard.problem)
    if piece.masked != (shard.problem.transform is not None and shard.problem.transform.masks is not None):
        raise ValueError("give where to grad if, and only if, one in the shape of logits_shard was given to partial")
    problem = shard.problem
    result = np.empty(problem.source.shape, problem.result) if grad_out is None else grad_out
    if shard.has_all_classes:
        shard.one_gradient(result)
    else:
        shard.grad(piece, totals, total.label_logit, total.label_mass, result)
    return result


def logsumexp(total: Partial) -> Any:
    """Compute the log-sum-exp of each row.

    Parameters
    ----------
    total : Partial
        The Partial of all classes.

    Returns
    -------
    ndarray or scalar
        In the shape of the "none" loss and its dtype.
    """
    return complete_totals(total).outputs.finish_lse(total.row_shape, None)


def softmax(logits_shard: ArrayLike, total: Partial, *, first_class: int, threads: int | None = None) -> Array:
    """Compute a shard's columns of the softmax.

    Parameters
    ----------
    logits_shard, first_class
        The arguments that were passed to :func:`partial`.
    total : Partial
        The Partial of all classes. Its targets do not matter.
    threads : int, optional
        The largest number of threads to use.

    Returns
    -------
    ndarray
        In the shape and dtype of `logits_shard`, or float64 for integers.
    """
    options = total.options
    if options.logit_scale != 1 or options.softcap is not None or options.where is not None or total.pieces[0].masked:
        raise ValueError("softmax takes the logits as they are: give partial no logit_scale, softcap or where")
    totals, axis = complete_totals(total), options.axis
    problem = checks.check_logits(logits_shard, axis, "logits_shard")
    piece = piece_of(total, first_class, problem)
    if piece.chunks is not None:
        result = np.empty(problem.source.shape, problem.result)
        n_threads, backend = checks.check_threads(threads), get_backend(total.backend)
        write_softmax(problem, piece.first, total.n_classes, backend, n_threads, piece, totals, result)
        return result
    probabilities = softmax_of_rows(logits_shard, axis, backend=total.backend, threads=threads)
    if totals.sums is None:  # of all classes
        return probabilities
    with np.errstate(all="ignore"):
        part = np.where(totals.sums.broken, np.nan, share(piece, totals.sums)).reshape(total.row_shape)
        nothing = (piece.top == -np.inf).reshape(total.row_shape) & (part == part)
        part = np.expand_dims(part, axis).astype(np.float32 if probabilities.itemsize < 4 else probabilities.dtype)
        result = np.multiply(probabilities, part, out=probabilities, casting="same_kind")
        np.copyto(result, 0, where=np.expand_dims(nothing, axis))
    return result
