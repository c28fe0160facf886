"""The checked arguments of a shard."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np

from softmax_ce import checks, evaluation
from softmax_ce.choice import auto
from softmax_ce.contract import Backend
from softmax_ce.fold import Factors
from softmax_ce.options import Options
from softmax_ce.problem import Problem
from softmax_ce.reduction import numpy_total
from softmax_ce.shards.chunked import ChunkedShard
from softmax_ce.shards.run import ComposedShard
from softmax_ce.shards.shard import Shard
from softmax_ce.transform import apply


def stand_in(row_shape: tuple[int, ...], n_classes: int, dtype: np.dtype[Any]) -> Problem:
    """Return a problem of this size, whose logits are not there. Only its shapes and dtypes may be used."""
    return checks.check_logits(np.broadcast_to(np.zeros((), dtype), (*row_shape, n_classes)), -1)


def shard_of(
    first: int, n_classes: int, problem: Problem, factors: Factors, ignore_index: int, backend: Backend,
    threads: int | None,
) -> Shard:  # fmt: skip
    """Return a shard that is computed with the backend's kernels for shards, if it has any that know the options."""
    # What smoothing shares out among the classes of each row is known only when all shards are.
    kind = ComposedShard if backend.shards is None or factors.spread is not None else ChunkedShard
    return kind(first, n_classes, problem, factors, ignore_index, backend, threads)


def checked_shard(
    logits: Any, targets: Any, first: Any, n_classes: Any, options: Options, backend: str | None
) -> tuple[Shard, Options]:
    """Return a shard and the options, checked. Options and targets are those of all classes."""
    options = evaluation.check_options(options)
    problem = checks.check_logits(logits, options.axis, "logits_shard")
    begin = _span(first, n_classes, problem.n_classes)
    whole = stand_in(problem.row_shape, operator.index(n_classes), problem.compute)
    is_hard = checks.as_array("targets", targets).shape == problem.row_shape
    checks.check_targets(whole if is_hard else problem, targets, options.ignore_index)
    problem.labels, whole.targets = whole.labels, problem.targets
    evaluation.check_buffers(problem, options, None)
    _apply(problem, whole, options, begin)
    evaluation.check_combinations(whole, options, False)
    options = evaluation.check_weights(whole, options)
    # By the size of the whole, so that shards of different widths have the same backend.
    chosen = auto.choose(backend, True, True, problem.source.dtype, whole.n_rows, whole.n_classes, options.threads)
    auto.check_dtype(chosen, problem.compute)
    factors = evaluation.fold_options(whole, options, chosen.total or numpy_total)
    return shard_of(begin, whole.n_classes, problem, factors, options.ignore_index, chosen, options.threads), options


def _apply(problem: Problem, whole: Problem, options: Options, first: int) -> None:
    """Let `logit_scale`, `softcap` and `where` change the shard's logits and the factors of the whole."""
    where = options.where
    by_class = where is not None and np.shape(where) == (whole.n_classes,)
    if where is not None and not by_class and np.ndim(where) == 1 and whole.row_shape:
        raise ValueError(
            f"where with one axis must have an entry for every class, shape {(whole.n_classes,)}; got {np.shape(where)}"
        )
    apply(whole, options.logit_scale, options.softcap, where if by_class else None)
    mask = np.asarray(where)[first : first + problem.n_classes] if by_class else where
    apply(problem, options.logit_scale, options.softcap, mask, "logits_shard")
    if where is not None and not by_class:
        whole.transform = problem.transform


def _span(first: Any, n_classes: Any, width: int) -> int:
    """Return the first class of a shard, whose classes lie in [0, n_classes)."""
    try:
        begin, count = operator.index(first), operator.index(n_classes)
    except TypeError:
        raise TypeError(
            f"first_class and n_classes must be integers, got {checks.shown(first)} and {checks.shown(n_classes)}"
        ) from None
    if not 0 <= begin <= begin + width <= count:
        raise ValueError(f"the shard's classes [{begin}, {begin + width}) must lie in [0, n_classes), [0, {count})")
    return begin
