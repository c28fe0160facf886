"""The loss of logits whose classes are divided among the processes of a group, as Megatron divides a vocabulary."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, NamedTuple, Unpack

import numpy as np
import torch
from torch import distributed
from torch.autograd.function import once_differentiable

from softmax_ce import registry, shards
from softmax_ce.keywords import check_known
from softmax_ce.options import ParallelOptions, Reduction
from softmax_ce.shards.rows import Piece, known_logit
from softmax_ce.torch.call import as_array, as_tensor, from_array

# What a process tells the others about each row; None is not sent. All are float64.
_FIELDS = ("chunks", "top", "rest", "cost", "mass", "count", "spread_cost", "spread_mass")


def vocab_parallel_cross_entropy(
    logits_shard: Any,
    target: Any,
    group: Any = None,
    *,
    reduction: Reduction = "none",
    **options: Unpack[ParallelOptions],
) -> Any:
    """Return the cross-entropy of logits whose classes are divided among processes.

    Parameters
    ----------
    logits_shard : Tensor, shape (..., width)
        The logits of this process's classes, on the last axis. The classes are in the order of the ranks. The widths
        may differ.
    target : Tensor
        Labels in [0, C) for all C classes, shape (...), the same in every process. Or soft labels, of this process's
        classes only.
    group : ProcessGroup, optional
        The processes, by default all. The group's backend must support CPU tensors, as gloo does.
    reduction : {"none", "mean", "sum"}, default "none"
        As in Megatron, each row's loss is returned by default.
    **options
        Those of :func:`softmax_ce.cross_entropy`: `weight` (of all classes), `sample_weight`, `ignore_index`,
        `label_smoothing`, `z_loss`, `denominator`, `on_empty`, `logit_scale`, `softcap`, `where` and `backend`. They
        must be the same in every process.

    Returns
    -------
    Tensor
        The loss, the same in every process; of the logits' dtype, or float32 for 16-bit logits.

    Raises
    ------
    ValueError, TypeError, IndexError
        An argument that :func:`softmax_ce.cross_entropy` would refuse. If one process raises an error, all do.

    Notes
    -----
    The processes exchange a few numbers for each row, in three collectives. The loss of the same shards has the same
    bits in every process and every run.
    """
    return _VocabParallel.apply(logits_shard, target, group, reduction, options)


class _VocabParallel(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, logits: Any, target: Any, group: Any, reduction: str, options: dict[str, Any]
    ) -> Any:  # fmt: skip
        check_known(ParallelOptions, options)
        first, n_classes = _place(logits.shape[-1], group)
        total = _total(logits, target, first, n_classes, group, {**options, "reduction": reduction})
        ctx.save_for_backward(logits, target)
        ctx.total, ctx.first, ctx.where = total, first, options.get("where")
        loss = shards.loss(total)
        return as_tensor(loss, torch.float64 if total.dtype == np.float64 else torch.float32)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Any) -> Any:
        logits, target = ctx.saved_tensors
        where = ctx.where if ctx.total.pieces[0].masked else None
        grad = shards.grad(
            as_array(logits), as_array(target), ctx.total, first_class=ctx.first, where=where,
            grad_output=upstream.double().numpy(), threads=torch.get_num_threads(),
        )  # fmt: skip
        return from_array(grad), None, None, None, None


def _place(width: int, group: Any) -> tuple[int, int]:
    """Return the first class of this process, and the number of all classes."""
    widths = _gathered(torch.tensor([width]), group).flatten().tolist()
    rank = distributed.get_rank(group)
    return sum(widths[:rank]), sum(widths)


def _gathered(tensor: Any, group: Any) -> Any:
    """Return the tensors of all processes, in the order of their ranks."""
    parts = [torch.empty_like(tensor) for _ in range(distributed.get_world_size(group))]
    distributed.all_gather(parts, tensor, group=group)
    return torch.stack(parts)


def _total(logits: Any, target: Any, first: int, n_classes: int, group: Any, options: dict[str, Any]) -> shards.Partial:
    """Return the Partial of all classes."""
    own, error = None, None
    try:
        x, y = as_array(logits), as_array(target)
        own = shards.partial(x, y, first_class=first, n_classes=n_classes, threads=torch.get_num_threads(), **options)
    except Exception as raised:  # whatever it is, no process may wait for this one
        error = raised
    # No process may wait for one that has raised an error, nor for rows that another does not have.
    rows = -1 if own is None else math.prod(own.row_shape)
    sizes = (0, 0) if own is None else _chunk_sizes(own)
    state = torch.tensor(_State(rows, first, first + logits.shape[-1], *sizes, _number_of_backend(own)))
    states = [_State(*numbers) for numbers in _gathered(state, group).tolist()]
    if error is not None:
        raise error
    assert own is not None
    _check(states)
    if own.totals is not None:
        return own  # the one process has all classes
    numbers = np.concatenate([numbers.ravel() for numbers in _numbers(own)])
    n_chunks, n_numbers = sizes
    padding = rows * (max(state.n_chunks for state in states) - n_chunks) * n_numbers
    received = _gathered(torch.from_numpy(np.pad(numbers, (0, padding))), group).numpy()
    return _assembled(own, received, states)


class _State(NamedTuple):
    """What a process tells the others first: how much it will send, or that it has raised an error."""

    rows: int  # -1: an error
    first: int
    stop: int
    n_chunks: int  # of its classes; 0 if the backend has no kernels for shards
    n_numbers: int  # of a chunk in each row
    backend: int


def _check(states: list[_State]) -> None:
    counts = [state.rows for state in states]
    if min(counts) < 0:
        failed = [rank for rank, rows in enumerate(counts) if rows < 0]
        raise ValueError(f"the arguments of rank {', '.join(map(str, failed))} were refused; its own error says why")
    if min(counts) != max(counts):
        raise ValueError(f"the processes have different numbers of rows: {counts}")
    if len({(state.n_numbers, state.backend) for state in states}) > 1:
        known = (*registry.names(), "another one")
        names = ", ".join(known[min(state.backend, len(known) - 1)] for state in states)
        raise ValueError(f"the processes chose different backends ({names}); pass the same backend= in each")


def _number_of_backend(own: shards.Partial | None) -> int:
    """Return the place of a Partial's backend in the registry, which is sent in place of its name."""
    names = registry.names()
    return names.index(own.backend) if own is not None and own.backend in names else len(names)


def _chunk_sizes(own: shards.Partial) -> tuple[int, int]:
    """Return the number of chunks of this process's classes, and that of a chunk's numbers in each row."""
    (piece,) = own.pieces
    return (0, 0) if piece.chunks is None else piece.chunks.shape[1:]


def _numbers(own: shards.Partial) -> list[Any]:
    """Return what the others need of this process's Partial."""
    (piece,) = own.pieces
    arrays = [getattr(piece, name) for name in _FIELDS]
    return [np.asarray(array, np.float64) for array in (*arrays, own.label_logit) if array is not None]


def _assembled(own: shards.Partial, received: Any, states: list[_State]) -> shards.Partial:
    """Return the Partial of all processes from the numbers that they sent."""
    (mine,) = own.pieces
    pieces, label_logit = [], own.label_logit
    for numbers, state in zip(received, states, strict=True):
        rows = state.rows
        shapes: dict[str, tuple[int, ...]] = {name: (rows,) for name in _FIELDS if getattr(mine, name) is not None}
        if "chunks" in shapes:
            shapes["chunks"] = (rows, state.n_chunks, state.n_numbers)
        arrays, at = {}, 0
        for name, shape in shapes.items():
            size = math.prod(shape)
            arrays[name] = numbers[at : at + size].reshape(shape)
            at += size
        pieces.append(Piece(state.first, state.stop, **arrays, masked=mine.masked))
        if label_logit is not None:
            label_logit = known_logit(label_logit, numbers[at : at + rows])
    return shards.combine([replace(own, pieces=tuple(pieces), label_logit=label_logit)])
