"""Named inputs: the digits' own logits, production shapes, difficult numbers, and the user's arrays."""

from __future__ import annotations

import os
import stat
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from softmax_ce import checks
from softmax_ce_bench.inputs import digits
from softmax_ce_bench.inputs.sets import SETS, SHAPES, Shape

__all__ = [
    "IGNORE_INDEX", "SETS", "SHAPES", "VALUES", "WIDTH", "Shape", "Workload", "WorkloadError",
    "as_rows", "dtype_of", "from_digits", "from_files", "in_memory", "load_array", "softened", "synthetic",
    "without_logits",
]  # fmt: skip

IGNORE_INDEX = -100
_MAGIC = b"\x93NUMPY"
_LONGEST_HEADER = 1 << 16  # bytes; NumPy would read as many as the file says, and then refuse


class WorkloadError(ValueError):
    """The user's arrays cannot be used. The message is one line and gives the reason."""


@dataclass(frozen=True, slots=True, eq=False)
class Workload:
    """Logits and targets.

    Attributes
    ----------
    name : str
    regime : str
        The use that it stands for, in a few words.
    logits : ndarray, shape (N, C) or (N, C, d1, ...)
        The classes lie on axis 1. Each position of the other axes is a row.
    targets : ndarray
        Hard labels, of the logits' shape without the classes, or soft ones of their shape.
    features : int or None
        The features of a linear layer of this shape; None: the default.
    """

    name: str
    regime: str
    logits: Any
    targets: Any
    features: int | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Return (rows, classes)."""
        classes = self.logits.shape[1]
        return self.logits.size // classes, classes

    @property
    def is_soft(self) -> bool:
        """Return whether the targets are soft."""
        return bool(self.targets.ndim == self.logits.ndim)

    @property
    def axis(self) -> dict[str, Any]:
        """Return the option that names the class axis, which a call needs only if it is not the last."""
        return {"axis": 1} if self.logits.ndim > 2 else {}

    def as_rows(self, array: Any) -> Any:
        """Return an argument or a result of a call with a row for each position, in place of the logits' axes."""
        return as_rows(array, self.logits.ndim)

    @property
    def dtype(self) -> str:
        """Return the dtype of the logits."""
        return str(self.logits.dtype.name)

    def rows(self, most_elements: int, seed: int = 0) -> Workload:
        """Return a random subset of the rows, in their order, with at most so many elements but at least one row.

        If there are more than two axes, the rows lie on the last of three. The same seed gives the same rows. If the
        workload is small enough, it is returned itself.
        """
        n, classes = self.shape
        keep = max(1, most_elements // classes)
        if keep >= n:
            return self
        drawn = np.sort(np.random.default_rng(seed).choice(n, keep, replace=False))
        logits, targets = self.as_rows(self.logits)[drawn], self.as_rows(self.targets)[drawn]
        if self.logits.ndim > 2:
            logits, targets = np.array(logits.T[np.newaxis], order="C"), np.array(targets.T[np.newaxis], order="C")
        return Workload(self.name, self.regime, logits, targets, self.features)


def as_rows(array: Any, ndim: int) -> Any:
    """Return an array with a row for each position.

    Parameters
    ----------
    array : ndarray
        Of the shape of logits with so many axes, without their classes, or a scalar.
    ndim : int
    """
    if ndim == 2 or array.ndim == 0:
        return array
    return np.moveaxis(array, 1, -1).reshape(-1, array.shape[1]) if array.ndim == ndim else array.reshape(-1)


WIDTH = 30.0  # standard deviation of the synthetic logits: their exp overflows and underflows float32

# What standard normal numbers z are turned into.
VALUES: dict[str, Callable[[Any], Any]] = {
    "wide": lambda z: WIDTH * z,
    # All of the row matters, no exponential underflows: what an untrained model gives.
    "narrow": lambda z: 0.1 * z,
    # On a grid of 1/64, so that the shift is exact and the result that of the logits without it.
    "offset": lambda z: np.round(64 * z) / 64 + 4096,
    # Half of the classes forbidden, as in masked decoding.
    "masked": lambda z: np.where(z < 0, -np.inf, WIDTH * z),
    "tied": lambda z: np.round(z),
    # Most gradients are subnormal: e**-95 in float32.
    "subnormal": lambda z: 0.5 * z - 95 * (np.arange(z.shape[1]) != 0),
    "huge": lambda z: 1e4 * z,
}


def from_digits(fit: digits.Fit, dtype: str) -> Workload:
    """Return the logits of all 1797 handwritten digits at the end of softmax regression."""
    logits = np.ascontiguousarray(fit.logits, dtype)
    return Workload("digits", "logits of softmax regression on handwritten digits", logits, digits.load().labels)


def synthetic(shape: Shape, dtype: str, seed: int = 0) -> Workload:
    """Return logits of a shape, with labels of which about half are predicted correctly.

    Normal with standard deviation `WIDTH` unless the shape asks for other `VALUES`, never zeros or numbers in
    [0, 1), which flatter: there exp meets no underflow and every maximum is nearly the same. The values are the same
    for every dtype, but for its rounding.

    Parameters
    ----------
    shape : Shape
    dtype : {"float32", "float64", "float16", "bfloat16"}
    seed : int

    Returns
    -------
    Workload
    """
    rng = np.random.default_rng([seed, shape.rows, shape.classes])
    logits = VALUES[shape.values](rng.standard_normal((shape.rows, shape.classes), np.float32))
    logits = logits.astype(np.float32, copy=False)
    logits[:, shape.classes - shape.padding :] = -np.inf
    labels = _labels(shape, rng)
    # Every other row is predicted right: its label and its largest logit change places.
    right = np.arange(0, shape.rows, 2)
    top = logits[right].argmax(axis=1)
    at_label, at_top = logits[right, labels[right]], logits[right, top]
    logits[right, top], logits[right, labels[right]] = at_label, at_top
    forbidden = np.flatnonzero(np.isneginf(logits[np.arange(shape.rows), labels]))
    logits[forbidden, labels[forbidden]] = 0  # a label never is, or the loss would be infinite
    made, targets = logits.astype(dtype_of(dtype), copy=False), labels.astype(np.int64)
    if shape.inner:
        made = np.array(np.moveaxis(made.reshape(-1, *shape.inner, shape.classes), -1, 1), order="C")
        targets = targets.reshape(-1, *shape.inner).copy()
    return Workload(shape.name, shape.regime, made, targets, shape.features)


def without_logits(shape: Shape, dtype: str, seed: int = 0) -> Workload:
    """Return labels of a shape, and an array in the place of the logits that takes no memory.

    That is enough for a call on a linear layer.
    """
    labels = _labels(shape, np.random.default_rng([seed, shape.rows, shape.classes])).astype(np.int64)
    logits = np.broadcast_to(np.zeros((), dtype_of(dtype)), (shape.rows, shape.classes))
    return Workload(shape.name, shape.regime, logits, labels, shape.features)


def _labels(shape: Shape, rng: np.random.Generator) -> Any:
    real = shape.classes - shape.padding
    frequency = 1.0 / np.arange(1, real + 1) if shape.zipf else np.ones(real)
    return rng.choice(real, shape.rows, p=frequency / frequency.sum())


def softened(workload: Workload, seed: int = 0) -> Workload:
    """Return the logits with soft targets that spread over all classes, as in distillation.

    A row's sum is 1; there is no mass where the logit is -inf, or the loss would be infinite.
    """
    logits = workload.logits
    targets = np.random.default_rng(seed).random(logits.shape, np.float32)
    targets[np.isneginf(logits.astype(np.float32, copy=False))] = 0
    targets /= targets.sum(axis=1, keepdims=True)
    targets = targets.astype(logits.dtype, copy=False)
    return Workload(workload.name, workload.regime, logits, targets, workload.features)


def dtype_of(name: str) -> np.dtype[Any]:
    """Return a dtype by name. bfloat16 needs ml_dtypes."""
    if name == "bfloat16":
        import ml_dtypes

        return np.dtype(ml_dtypes.bfloat16)
    return np.dtype(name)


def from_files(logits_file: str | Path, targets_file: str | Path, ignore_index: int = IGNORE_INDEX) -> Workload:
    """Return the user's own arrays, memory-mapped.

    Parameters
    ----------
    logits_file : path
        An .npy file of float16, float32 or float64, shape (rows, classes).
    targets_file : path
        An .npy file of integers, shape (rows,); or of soft labels, shape (rows, classes).
    ignore_index : int
        The label of rows that are to be ignored.

    Returns
    -------
    Workload

    Raises
    ------
    WorkloadError
        A file is missing or not an .npy array, the shapes do not match, a label is out of range.
    """
    logits, targets = load_array(Path(logits_file)), load_array(Path(targets_file))
    if logits.dtype.kind != "f" or logits.ndim != 2 or logits.size == 0:
        raise WorkloadError(
            f"{logits_file}: logits must be floats of shape (rows, classes), got {logits.dtype} of shape {logits.shape}"
        )
    try:
        problem = checks.check_logits(logits, -1)
    except TypeError as error:
        raise WorkloadError(f"{logits_file}: {error}") from None
    try:
        checks.check_targets(problem, targets, ignore_index)
    except (TypeError, ValueError, IndexError) as error:
        hint = f"; label the rows to ignore {ignore_index}" if isinstance(error, IndexError) else ""
        raise WorkloadError(f"{targets_file} does not fit {logits_file}: {error}{hint}") from None
    return Workload(Path(logits_file).name, "your own arrays", logits, targets)


def in_memory(workload: Workload) -> Workload:
    """Return a workload whose arrays are in memory, as a user has them, and not views of files.

    A call looks longer at a view.
    """
    logits, targets = (
        np.array(a) if a.base is not None and any(a.strides) else a for a in (workload.logits, workload.targets)
    )
    return Workload(workload.name, workload.regime, logits, targets, workload.features)


def load_array(path: Path) -> Any:
    """Return the array of an .npy file, memory-mapped.

    Raises
    ------
    WorkloadError
        There is none; the message is one line.
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # asked before it is opened: a pipe may have no other end
            raise WorkloadError(f"{path} cannot be read: it is a folder, pipe, socket or device, not a file")
        with path.open("rb") as file:
            magic, rest = file.read(len(_MAGIC)), file.read(6)
        if magic != _MAGIC:  # told here: numpy.load would advise to unpickle the file
            raise WorkloadError(f"{path} is not an .npy array; numpy.save writes one")
        if int.from_bytes(rest[2:4] if rest[:1] == b"\1" else rest[2:6], "little") > _LONGEST_HEADER:
            raise WorkloadError(f"{path} cannot be read: its header is larger than any array's")
        with warnings.catch_warnings(action="ignore"):  # a shape whose product no integer holds is an error too
            return np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise WorkloadError(f"{path}: no such file") from None
    except WorkloadError:
        raise
    except Exception as error:  # of a damaged header: ValueError, TypeError, OverflowError, tokenize.TokenError ...
        reason = getattr(error, "strerror", None) or str(error).partition("\n")[0]
        raise WorkloadError(f"{path} cannot be read: {reason}") from None
