"""Logits that are scaled, capped or partly left out before the loss, one staged block at a time.

A backend without `transformed` kernels knows none of these options: it computes on a scratch that holds the
transformed logits. What is left to do is to multiply the gradient by the slope of the cap, and to set it to 0 at a
label that was left out. The factor of `logit_scale` is folded into the upstream gradient.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from softmax_ce import checks
from softmax_ce.fold import Factors
from softmax_ce.problem import Problem, counted
from softmax_ce.staging import Rows

_TILED = 512  # classes: NumPy takes fewer than this faster from a ceiling that is repeated for several rows
# A float of these bits is a quiet NaN; without the last factor, it is -inf.
_BITS = {4: (np.uint32, 0x00400000, 0xFF800000), 8: (np.uint64, 0x0008000000000000, 0xFFF0000000000000)}


class Transformed:
    """Rows of logits in a scratch: ``softcap * tanh(scale * x / softcap)``, and -inf for classes that are left out.

    It has what :class:`softmax_ce.staging.Rows` has, and no view that a kernel could use in place.

    Parameters
    ----------
    rows : Rows
        The logits as given.
    dtype : dtype
        The compute dtype.
    scale : float
    softcap : float or None
    classes : ndarray of bool or None
        The classes that take part in every row, (C,).
    masks : Rows or None
        The classes that take part in each row, if that differs by row.
    """

    __slots__ = (
        "_ceiling", "_dtype", "_factor", "classes", "direct", "masks", "n_classes", "n_rows", "rows", "scale",
        "softcap", "strided",
    )  # fmt: skip

    def __init__(
        self, rows: Rows, dtype: np.dtype[Any], scale: float, softcap: float | None, classes: Any, masks: Rows | None
    ) -> None:
        self.direct = self.strided = None
        self.n_rows, self.n_classes = rows.n_rows, rows.n_classes
        self.scale = scale
        self.softcap = None if softcap is None else dtype.type(softcap)
        self.classes, self.masks = classes, masks
        self.rows, self._dtype = rows, dtype
        self._factor = self._ceiling = None
        if softcap is not None:
            range_of = np.finfo(dtype)
            self._factor = dtype.type(min(max(scale / softcap, range_of.tiny), range_of.max))
        elif scale != 1.0:
            self._factor = dtype.type(scale)
        if classes is not None:
            # fmin takes the number of two if one is NaN, so this row keeps a logit or replaces it, even if it is NaN.
            self._ceiling = np.where(classes, np.nan, -np.inf).astype(dtype)

    def for_kernels(self) -> tuple[float, float, Any] | None:
        """Return factor, softcap and mask as `softmax_ce.contract.Backend` says; None if the mask does not fit."""
        where = None
        if self.classes is not None:
            assert self.rows.strided is not None
            where = np.broadcast_to(self.classes, self.rows.strided.shape)
        elif self.masks is not None:
            where = self.masks.strided
            if where is None:
                return None
        return (*self._numbers, where)

    def for_block(self, start: int, stop: int) -> tuple[float, float, Any]:
        """Return factor, softcap and mask for a contiguous block of rows [start, stop)."""
        where = None
        if self.classes is not None:
            where = np.broadcast_to(self.classes, (stop - start, self.n_classes))
        elif self.masks is not None:
            where = self.masks.load(start, stop)
        return (*self._numbers, where)

    @property
    def _numbers(self) -> tuple[float, float]:
        return 1.0 if self._factor is None else float(self._factor), float(self.softcap or 0.0)

    @property
    def leaves_out(self) -> bool:
        """Whether classes may be left out."""
        return self.classes is not None or self.masks is not None

    def blocks(self, start: int, stop: int, elements: int) -> Any:
        """Yield ranges that cover rows [start, stop): see :meth:`softmax_ce.staging.Rows.blocks`."""
        return self.rows.blocks(start, stop, elements)

    def scratch(self, n_rows: int) -> Any:
        """Return a scratch that blocks of up to `n_rows` rows can reuse."""
        return np.empty(n_rows * self.n_classes, self._dtype)

    def load(self, start: int, stop: int, widen: Any = None, scratch: Any = None, slope: Any = None) -> Any:
        """Return rows [start, stop), transformed, in the scratch. The slope of the cap is written to `slope`."""
        shape = stop - start, self.n_classes
        if scratch is None:
            scratch = self.scratch(shape[0])
        block = scratch[: shape[0] * shape[1]].reshape(shape)
        x = self.rows.load(start, stop, widen, scratch)  # the rows themselves, or a copy in the scratch
        with np.errstate(all="ignore"):
            if self._factor is not None:
                x = np.multiply(x, self._factor, out=block)
            if self.softcap is not None:
                _cap(block, self.softcap, slope)
            if self._ceiling is not None:
                np.fmin(x, self._ceiling if self.n_classes > _TILED else np.tile(self._ceiling, (len(x), 1)), out=block)
            elif self.masks is not None:
                np.fmin(x, _ceiling_of(self.masks.load(start, stop), self._dtype), out=block)
        return block

    def finish(self, start: int, stop: int, loss: Any, grad: Any, slope: Any) -> None:
        """Make a block's gradient that by the logits as given, up to the factor of `logit_scale`."""
        with np.errstate(all="ignore"):
            if self.softcap is not None:
                grad *= slope
        if self.leaves_out and loss is not None:
            self._blank(start, stop, loss[start:stop], grad)

    def _blank(self, start: int, stop: int, loss: Any, grad: Any) -> None:
        """Set the gradient to 0 at classes that are left out and have target mass. NaN stays.

        The loss of such a row is infinite. For all other rows, a kernel gives exactly 0 at a logit of -inf.
        """
        odd = np.flatnonzero(~np.isfinite(loss))
        if odd.size:
            left_out = ~(self.classes if self.masks is None else self.masks.load(start, stop)[odd])
            part = grad[odd]
            part[left_out & (part == part)] = 0
            grad[odd] = part


def apply(
    problem: Problem, logit_scale: Any = 1.0, softcap: Any = None, where: Any = None, name: str = "logits"
) -> None:
    """Check the options, and put the transformed logits in the place of the problem's, unless no option is in use."""
    scale = checks.check_number("logit_scale", logit_scale, 0.0, np.inf, above=True)
    if scale != 1.0:
        _check_range(problem, "logit_scale", scale)
    if softcap is not None:
        softcap = checks.check_number("softcap", softcap, 0.0, np.inf, above=True)
        _check_range(problem, "softcap", softcap)
    classes = masks = None
    if where is not None:
        array = _check_where(problem, where, name)
        if array.ndim == 1:
            classes = None if array.all() else array.copy()
        else:
            masks = Rows(array, problem.axis, array.dtype)
    if scale != 1.0 or softcap is not None or classes is not None or masks is not None:
        rows: Any = problem.logits
        problem.logits = problem.transform = Transformed(rows, problem.compute, scale, softcap, classes, masks)


def _check_where(problem: Problem, where: Any, name: str) -> Any:
    """Return the mask as an array of bool, in the shape (C,) or that of the logits."""
    array = checks.as_array("where", where)
    if array.dtype != np.bool_:
        raise TypeError(f"where must be an array of bool, got dtype {array.dtype}")
    shape = problem.source.shape
    if array.shape not in ((problem.n_classes,), shape):
        raise ValueError(
            f"where of shape {array.shape} does not fit {name} of shape {shape} with classes on axis {problem.axis}: "
            f"give one entry for each class, shape {(problem.n_classes,)}, or one for each logit, shape {shape}"
        )
    return array


def target_rows(factors: Factors, mask: Any, targets: Any, labels: Any) -> Any:
    """Return the targets of a block of rows, smoothed over the classes that take part in each."""
    scale, dtype = factors.class_scale, factors.class_scale.dtype
    count = np.add.reduce(mask, axis=1, dtype=np.intp)
    with np.errstate(all="ignore"):
        share = factors.spread / np.maximum(count, 1).astype(dtype)[:, None]
        rows = np.multiply(mask, share, dtype=dtype)
        if labels is None:
            rows += targets * scale
        else:
            y, _ = counted(labels, mask.shape[1], -1)
            rows[np.arange(len(y)), y] += scale if scale.size == 1 else scale[y]
    return rows


def _check_range(problem: Problem, name: str, value: float) -> None:
    """Check that a factor is neither 0 nor infinite in the compute dtype."""
    with np.errstate(all="ignore"):
        rounded = problem.compute.type(value)
    if not 0 < rounded < np.inf:
        raise ValueError(f"{name} must be a positive number in {problem.compute}, in which it is used; got {value}")


def _cap(y: Any, softcap: Any, slope: Any) -> None:
    """Replace y by softcap * tanh(y), and write sech(y)**2 to `slope`, or 0 if y is NaN.

    The slope is q * (1 + |tanh(y)|)**2 with q = exp(-2|y|), since 1 + |tanh(y)| = 2 / (1 + q). Nothing cancels.
    """
    if slope is None:
        np.tanh(y, out=y)
        y *= softcap
        return
    np.absolute(y, out=slope)
    slope *= -2
    np.exp(slope, out=slope)
    np.tanh(y, out=y)
    both = np.absolute(y)
    both += 1
    slope *= both
    slope *= both
    np.fmax(slope, 0, out=slope)  # a row with a NaN may be one that does not count
    y *= softcap


def _ceiling_of(mask: Any, dtype: np.dtype[Any]) -> Any:
    """Return NaN for the classes that take part and -inf for the others. With integers, this takes half the time."""
    kind, kept, left_out = _BITS[dtype.itemsize]
    bits = np.empty(mask.shape, kind)
    np.copyto(bits, mask.view(np.uint8))
    bits *= kind(kept)
    bits += kind(left_out)
    return bits.view(dtype)
