"""Named inputs: the digits' own logits, production shapes, and the user's arrays."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from softmax_ce import checks
from softmax_ce_bench import digits

IGNORE_INDEX = -100
_MAGIC = b"\x93NUMPY"


class WorkloadError(ValueError):
    """The user's arrays cannot be compared on; the message is one line and says why."""


@dataclass(frozen=True, slots=True, eq=False)
class Workload:
    """Logits and targets to run on.

    Attributes
    ----------
    name : str
    regime : str
        What it stands for, in a few words.
    logits : ndarray, shape (N, C)
    targets : ndarray
        (N,) hard labels, or (N, C) soft ones.
    """

    name: str
    regime: str
    logits: Any
    targets: Any

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and classes."""
        return self.logits.shape[0], self.logits.shape[1]

    @property
    def dtype(self) -> str:
        """The logits' dtype."""
        return str(self.logits.dtype.name)

    def rows(self, most_elements: int, seed: int = 0) -> Workload:
        """A drawn subset of the rows with at most so many elements (at least one row), in their order.

        The same seed draws the same rows. The workload itself, if it is small enough.
        """
        n, classes = self.shape
        keep = max(1, most_elements // classes)
        if keep >= n:
            return self
        drawn = np.sort(np.random.default_rng(seed).choice(n, keep, replace=False))
        return Workload(self.name, self.regime, self.logits[drawn], self.targets[drawn])


@dataclass(frozen=True, slots=True)
class Shape:
    """A synthetic workload's recipe: see :func:`synthetic`."""

    name: str
    rows: int
    classes: int
    regime: str
    padding: int = 0  # classes at the end that are masked with -inf
    zipf: bool = False  # label k with a probability proportional to 1 / (k + 1)


SHAPES = (
    # Many rows, few classes: the work per row is mostly not exp. What a boosting library does every round.
    Shape("boosting", 4096, 10, "many rows, few classes, as in gradient boosting"),
    # 4 MB of float32 logits: beyond L2, within most L3 caches. An ImageNet classifier's batch.
    Shape("vision", 1024, 1000, "a batch of an ImageNet classifier"),
    # 8 MB in a few long rows, the vocabulary padded for alignment, words as frequent as words are.
    Shape("vocabulary", 64, 32_000, "tokens of a language model, Zipf labels, padding", padding=128, zipf=True),
)
WIDTH = 30.0  # standard deviation of the synthetic logits: their exp overflows and underflows float32


def from_digits(fit: digits.Fit, dtype: str) -> Workload:
    """The logits of all 1797 handwritten digits, as softmax regression ended up with them."""
    logits = np.ascontiguousarray(fit.logits, dtype)
    return Workload("digits", "logits of softmax regression on handwritten digits", logits, digits.load().labels)


def synthetic(shape: Shape, dtype: str, seed: int = 0) -> Workload:
    """Wide-range logits with labels of which about half are predicted right.

    Normal with standard deviation `WIDTH`, never zeros or numbers in [0, 1), which flatter: there exp meets no
    underflow and every maximum is nearly the same. The values are the same for every dtype.

    Parameters
    ----------
    shape : Shape
    dtype : {"float32", "float64"}
    seed : int

    Returns
    -------
    Workload
    """
    rng = np.random.default_rng([seed, shape.rows, shape.classes])
    logits = WIDTH * rng.standard_normal((shape.rows, shape.classes), np.float32)
    real = shape.classes - shape.padding
    logits[:, real:] = -np.inf
    frequency = 1.0 / np.arange(1, real + 1) if shape.zipf else np.ones(real)
    labels = rng.choice(real, shape.rows, p=frequency / frequency.sum())
    # Every other row is predicted right: its label and its largest logit change places.
    right = np.arange(0, shape.rows, 2)
    top = logits[right].argmax(axis=1)
    at_label, at_top = logits[right, labels[right]], logits[right, top]
    logits[right, top], logits[right, labels[right]] = at_label, at_top
    return Workload(shape.name, shape.regime, logits.astype(dtype, copy=False), labels.astype(np.int64))


def from_files(logits_file: str | Path, targets_file: str | Path) -> Workload:
    """The user's own arrays, memory-mapped.

    Parameters
    ----------
    logits_file : path
        An .npy file of float16, float32 or float64, shape (rows, classes).
    targets_file : path
        An .npy file of integers, shape (rows,), -100 where a row is to be ignored; or of soft labels,
        shape (rows, classes).

    Returns
    -------
    Workload

    Raises
    ------
    WorkloadError
        A file is missing or not an .npy array, the shapes do not match, a label is out of range.
    """
    logits, targets = _load(Path(logits_file)), _load(Path(targets_file))
    if logits.dtype.kind != "f" or logits.ndim != 2 or logits.size == 0:
        raise WorkloadError(
            f"{logits_file}: logits must be floats of shape (rows, classes), got {logits.dtype} of shape {logits.shape}"
        )
    try:
        problem = checks.check_logits(logits, -1)
    except TypeError as error:
        raise WorkloadError(f"{logits_file}: {error}") from None
    try:
        checks.check_targets(problem, targets, IGNORE_INDEX)
    except (TypeError, ValueError, IndexError) as error:
        hint = f"; label rows that are to be ignored {IGNORE_INDEX}" if isinstance(error, IndexError) else ""
        raise WorkloadError(f"{targets_file} does not fit {logits_file}: {error}{hint}") from None
    return Workload(Path(logits_file).name, "your own arrays", logits, targets)


def _load(path: Path) -> Any:
    try:
        with path.open("rb") as file:
            magic = file.read(len(_MAGIC))
        if magic != _MAGIC:  # told here: numpy.load would advise to unpickle the file
            raise WorkloadError(f"{path} is not an .npy array; numpy.save writes one")
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise WorkloadError(f"{path}: no such file") from None
    except WorkloadError:
        raise
    except (OSError, ValueError, EOFError) as error:
        reason = getattr(error, "strerror", None) or str(error).partition("\n")[0]
        raise WorkloadError(f"{path} cannot be read: {reason}") from None
