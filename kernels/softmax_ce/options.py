"""The options of a loss: their types for static checkers, and the options of one call as a tuple."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, TypeAlias, TypedDict

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array: TypeAlias = NDArray[Any]
Scalar: TypeAlias = np.floating[Any]
ScalarReduction: TypeAlias = Literal["mean", "sum"]
Reduction: TypeAlias = Literal["mean", "sum", "none"]
OnEmpty: TypeAlias = Literal["nan", "zero", "raise"]


class LossOptions(TypedDict, total=False):
    """The options of every loss, except those that decide what it returns."""

    weight: ArrayLike | None
    sample_weight: ArrayLike | None
    ignore_index: int
    label_smoothing: float
    z_loss: float
    denominator: float | None
    on_empty: OnEmpty
    axis: int
    logit_scale: float
    softcap: float | None
    where: ArrayLike | None
    backend: str | None
    threads: int | None


class GradOptions(LossOptions, total=False):
    """The options of a function that returns a gradient."""

    grad_output: ArrayLike | None
    grad_out: Array | None


class HessianOptions(GradOptions, total=False):
    """The options of the function that also returns the Hessian."""

    hess_out: Array | None


class ShardOptions(LossOptions, total=False):
    """The options of :func:`softmax_ce.shards.partial`."""

    reduction: Reduction
    return_lse: bool
    return_correct: bool


class DaskOptions(LossOptions, total=False):
    """The options of the losses on Dask arrays. Those with an entry for each row or logit may be Dask arrays."""


class ParallelOptions(TypedDict, total=False):
    """The options of :func:`softmax_ce.torch.vocab_parallel_cross_entropy`."""

    weight: ArrayLike | None
    sample_weight: ArrayLike | None
    ignore_index: int
    label_smoothing: float
    z_loss: float
    denominator: float | None
    on_empty: OnEmpty
    logit_scale: float
    softcap: float | None
    where: ArrayLike | None
    backend: str | None


class LinearOptions(TypedDict, total=False):
    """The options of :func:`softmax_ce.linear_cross_entropy`."""

    weight: ArrayLike | None
    sample_weight: ArrayLike | None
    ignore_index: int
    label_smoothing: float
    z_loss: float
    reduction: Reduction
    denominator: float | None
    on_empty: OnEmpty
    logit_scale: float
    softcap: float | None
    where: ArrayLike | None
    return_lse: bool
    return_correct: bool
    backend: str | None
    threads: int | None
    out: Array | None
    lse_out: Array | None


class LinearGradOptions(LinearOptions, total=False):
    """The options of :func:`softmax_ce.linear_cross_entropy_with_grad`."""

    grad_output: ArrayLike | None


class Options(NamedTuple):
    """The options of one call, unchecked. Short calls take a tuple in this order: softmax_ce.contract.ShortCalls."""

    weight: Any
    sample_weight: Any
    ignore_index: Any
    label_smoothing: Any
    z_loss: Any
    reduction: Any
    denominator: Any
    on_empty: Any
    axis: Any
    grad_output: Any
    return_lse: Any
    threads: Any
    out: Any
    grad_out: Any
    lse_out: Any
    logit_scale: Any
    softcap: Any
    where: Any
    return_correct: Any


# What an option that is left out comes to.
DEFAULTS: dict[str, Any] = dict.fromkeys(Options._fields) | {
    "ignore_index": -100, "label_smoothing": 0.0, "z_loss": 0.0, "reduction": "mean", "on_empty": "nan", "axis": -1,
    "return_lse": False, "logit_scale": 1.0, "return_correct": False,
}  # fmt: skip


def given(kind: Any, options: Mapping[str, Any]) -> Options:
    """Return the options of one call, unchecked. `kind` is the TypedDict of those that the function has.

    Raises
    ------
    TypeError
        An option that the function does not have.
    """
    check_known(kind, options)
    return Options(**{**DEFAULTS, **{name: value for name, value in options.items() if name != "backend"}})


def check_known(kind: Any, options: Mapping[str, Any]) -> None:
    """Raise a TypeError if there is an option that is not one of a TypedDict's."""
    known = kind.__optional_keys__
    unknown = sorted(options.keys() - known)
    if unknown:
        raise TypeError(f"{unknown[0]} is no option here; the options are {', '.join(sorted(known))}")
