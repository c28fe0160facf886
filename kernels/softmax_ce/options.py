"""The options of a loss: their types for static checkers, and the options of one call as a tuple."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, TypeAlias, TypedDict

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array: TypeAlias = NDArray[Any]
Scalar: TypeAlias = np.floating[Any]
ScalarReduction: TypeAlias = Literal["mean", "sum"]
Reduction: TypeAlias = Literal["mean", "sum", "none"]
OnEmpty: TypeAlias = Literal["nan", "zero", "raise"]


class FormulaOptions(TypedDict, total=False):
    """The options that say what is computed, and the backend."""

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


class ParallelOptions(FormulaOptions, total=False):
    """The options of :func:`softmax_ce.torch.vocab_parallel_cross_entropy`."""


class LossOptions(FormulaOptions, total=False):
    """The options of every loss, except those that decide what it returns."""

    axis: int
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


class LinearOptions(FormulaOptions, total=False):
    """The options of :func:`softmax_ce.linear_cross_entropy`."""

    reduction: Reduction
    return_lse: bool
    return_correct: bool
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
