"""Check the arguments of a call on Dask arrays, as far as they are known before anything is computed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import dask.array as da
import numpy as np

from softmax_ce import checks, evaluation
from softmax_ce.dask.blocks import Cut
from softmax_ce.dask.tasks import SharedOptions
from softmax_ce.dtypes import compute_dtype
from softmax_ce.keywords import check_known, with_defaults
from softmax_ce.options import DaskOptions
from softmax_ce.row_blocks import Weighting, block_of_rows

# The options of a block that are the same for all.
_SHARED = ("weight", "ignore_index", "label_smoothing", "z_loss", "logit_scale", "softcap", "where", "threads")


@dataclass(frozen=True, slots=True, eq=False)
class Arguments:
    """The arguments of a call.

    Attributes
    ----------
    cut : Cut
        The blocks of the logits.
    is_hard : bool
        Whether the targets are hard labels, or there are none.
    targets, sample_weight, where, grad_output : dask.array.Array, ndarray or None
        What has an entry for each row or logit.
    settings : SharedOptions
        What the blocks share. It has the weights of a mean already if they are not in Dask arrays.
    """

    cut: Cut
    is_hard: bool
    targets: Any
    sample_weight: Any
    where: Any
    grad_output: Any
    settings: SharedOptions

    @property
    def by_block(self) -> tuple[Any, ...]:
        """What has an entry for each row or logit."""
        return self.targets, self.sample_weight, self.where, self.grad_output

    @property
    def must_survey(self) -> bool:
        """Whether tasks must find the weights of the mean."""
        return self.settings.weighting is not None and self.settings.mean is None


def check(x: Any, targets: Any, reduction: str, given: dict[str, Any], grad_output: Any = None) -> Arguments:
    """Return the arguments of a call, checked. `targets` is None for a normalizer."""
    if not isinstance(x, da.Array):
        raise TypeError(f"logits must be a dask.array.Array, got {type(x).__name__}")
    check_known(DaskOptions, given)
    axis = given.get("axis", -1)
    if not -x.ndim <= axis < x.ndim:
        raise ValueError(f"axis {axis} is out of range for logits of shape {x.shape}")
    where: Any = given.get("where")
    cut = Cut(x, axis % x.ndim)
    is_hard = targets is None or np.shape(targets) == cut.row_shape
    where_of_logits = where if np.ndim(where) > 1 else None
    per_row = np.ndim(grad_output) > 0
    if per_row and reduction != "none":
        raise ValueError(f"grad_output must have shape (), got {np.shape(grad_output)}")
    settings = _settings(cut, is_hard, {**given, "reduction": reduction}, None if per_row else grad_output)
    arguments = Arguments(
        cut,
        is_hard,
        cut.checked("targets", targets, not is_hard),
        cut.checked("sample_weight", given.get("sample_weight"), False),
        cut.checked("where", where_of_logits, True),
        cut.checked("grad_output", grad_output if per_row else None, False),
        settings,
    )
    return arguments if targets is None else _with_known_weights(arguments)


def _settings(cut: Cut, is_hard: bool, given: dict[str, Any], grad_output: Any) -> SharedOptions:
    """Return the settings without the weights of a mean."""
    checked = evaluation.check_options(with_defaults({"threads": 1, **given}))
    n_classes, reduction = cut.x.shape[cut.axis], checked.reduction
    options = {name: getattr(checked, name) for name in _SHARED} | {"backend": given.get("backend")}
    if options["weight"] is not None:
        options["weight"] = checks.check_weight("weight", options["weight"], (n_classes,))
    if options["where"] is not None:
        options["where"] = None if np.ndim(options["where"]) > 1 else np.array(options["where"])
    if grad_output is not None:
        grad_output = float(checks.check_vector("grad_output", grad_output, ())[0])
    divisor, weighting = 1.0, None
    if reduction == "mean" and checked.denominator is None:
        weighting = Weighting(
            n_classes, options["weight"], checked.ignore_index, checked.label_smoothing, checked.z_loss, is_hard
        )
    elif reduction == "mean":
        divisor = checked.denominator
    return SharedOptions(
        cut.axis, n_classes, compute_dtype(cut.x.dtype), options, reduction, checked.on_empty, divisor, grad_output,
        weighting,
    )  # fmt: skip


def _with_known_weights(arguments: Arguments) -> Arguments:
    """Return the arguments with the weights of the mean, if no Dask array has a part in them. Labels are checked."""
    settings, labels = arguments.settings, arguments.targets if arguments.is_hard else None
    sample_weight, row_shape = arguments.sample_weight, arguments.cut.row_shape
    if isinstance(labels, da.Array):
        return arguments
    if settings.weighting is None or isinstance(sample_weight, da.Array):
        block_of_rows(labels, row_shape, settings.n_classes, settings.options["ignore_index"])
        return arguments
    return replace(arguments, settings=settings.finish([settings.survey(labels, row_shape, sample_weight)]))
