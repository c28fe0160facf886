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
        """Return (rows, classes)."""
        return self.logits.shape[0], self.logits.shape[1]

    @property
    def dtype(self) -> str:
        """Return the dtype of the logits."""
        return str(self.logits.dtype.name)

    def rows(self, most_elements: int, seed: int = 0) -> Workload:
        """Return a random subset of the rows, in their order, with at most so many elements but at least one row.

        The same seed gives the same rows. If the workload is small enough, it is returned itself.
        """
        n, classes = self.shape
        keep = max(1, most_elements // classes)
        if keep >= n:
            return self
        drawn = np.sort(np.random.default_rng(seed).choice(n, keep, replace=False))
        return Workload(self.name, self.regime, self.logits[drawn], self.targets[drawn])


@dataclass(frozen=True, slots=True)
class Shape:
    """A synthetic workload's recipe: see :func:`synthetic`.

    Attributes
    ----------
    name : str
    rows, classes : int
    regime : str
        The use that it stands for, in a few words.
    padding : int
        Classes at the end that are masked with -inf.
    zipf : bool
        Label k with a probability proportional to 1 / (k + 1), as words have.
    values : str
        A key of `VALUES`.
    """

    name: str
    rows: int
    classes: int
    regime: str
    padding: int = 0
    zipf: bool = False
    values: str = "wide"


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

_BOOSTING = Shape("boosting", 4096, 10, "many rows, few classes, as in gradient boosting")
_VISION = Shape("vision", 1024, 1000, "a batch of an ImageNet classifier")

# The first is what `softmax-ce compare` measures unasked, after the digits.
SETS: dict[str, tuple[Shape, ...]] = {
    "quick": (
        # Many rows, few classes: the work per row is mostly not exp. What a boosting library does every round.
        _BOOSTING,
        # 4 MB of float32 logits: beyond L2, within most L3 caches.
        _VISION,
        # 8 MB in a few long rows, the vocabulary padded for alignment, words as frequent as words are.
        Shape("vocabulary", 64, 32_000, "tokens of a language model, Zipf labels, padding", padding=128, zipf=True),
    ),
    "vision": (
        # 5 KB: the call overhead is everything.
        Shape("cifar10", 128, 10, "a batch of a small classifier"),
        # 102 KB: within L2, and below every backend's threshold for a second thread.
        Shape("cifar100", 256, 100, "a batch of a classifier with 100 classes"),
        _VISION,
        # 5.6 MB in rows of 87 KB, beyond L1: classes of which most are rare.
        Shape("imagenet21k", 64, 21_843, "a batch of a classifier with 21 843 classes"),
        # 22 MB: a row a pixel, fewer classes than two vectors have lanes.
        Shape("segmentation", 262_144, 21, "every pixel of a 512 x 512 image, 21 classes"),
    ),
    "llm": (
        # One row: classes must be shared among threads, or one thread works alone.
        Shape("decoding", 1, 128_256, "one token of a language model", zipf=True),
        # 103 MB in float32: beyond most L3 caches; an odd number of classes, so that rows begin unaligned.
        Shape("gpt2", 512, 50_257, "512 tokens, vocabulary of GPT-2", zipf=True),
        # 131 MB in rows of 128 KB, which just leave L1.
        Shape("llama2", 1024, 32_000, "1024 tokens, vocabulary of Llama 2", zipf=True),
        # 131 MB in rows of 513 KB, half an L2 cache each.
        Shape("llama3", 256, 128_256, "256 tokens, vocabulary of Llama 3", padding=256, zipf=True),
    ),
    "boosting": (
        # 1.2 KB: a toy, where the call overhead is everything.
        Shape("iris", 150, 3, "a toy: 150 rows, 3 classes"),
        _BOOSTING,
        # 2.6 MB: within L3, rows of 40 bytes.
        Shape("letters", 65_536, 10, "65 536 rows, 10 classes"),
        # 16 MB: rows of 28 bytes, shorter than a vector.
        Shape("covertype", 581_012, 7, "as many rows and classes as the Covertype data"),
    ),
    # One shape, so that only the values differ: what they cost, and what they do to the error.
    "numerics": (
        Shape("wide", 512, 1000, "standard deviation 30: exp overflows and underflows float32"),
        Shape("narrow", 512, 1000, "standard deviation 0.1: an untrained model", values="narrow"),
        Shape("offset", 512, 1000, "an offset of 4096 on every logit", values="offset"),
        Shape("masked", 512, 1000, "half of the classes at -inf", values="masked"),
        Shape("tied", 512, 1000, "whole numbers: many equal maxima", values="tied"),
        Shape("subnormal", 512, 1000, "one class far ahead: subnormal gradients in float32", values="subnormal"),
        Shape("huge", 512, 1000, "standard deviation 10 000", values="huge"),
    ),
}  # fmt: skip
SHAPES = SETS["quick"]


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
    real = shape.classes - shape.padding
    logits[:, real:] = -np.inf
    frequency = 1.0 / np.arange(1, real + 1) if shape.zipf else np.ones(real)
    labels = rng.choice(real, shape.rows, p=frequency / frequency.sum())
    # Every other row is predicted right: its label and its largest logit change places.
    right = np.arange(0, shape.rows, 2)
    top = logits[right].argmax(axis=1)
    at_label, at_top = logits[right, labels[right]], logits[right, top]
    logits[right, top], logits[right, labels[right]] = at_label, at_top
    forbidden = np.flatnonzero(np.isneginf(logits[np.arange(shape.rows), labels]))
    logits[forbidden, labels[forbidden]] = 0  # a label never is, or the loss would be infinite
    made = logits.astype(dtype_of(dtype), copy=False)
    return Workload(shape.name, shape.regime, made, labels.astype(np.int64))


def softened(workload: Workload, seed: int = 0) -> Workload:
    """Return the logits with soft targets that spread over all classes, as in distillation.

    A row's sum is 1; there is no mass where the logit is -inf, or the loss would be infinite.
    """
    logits = workload.logits
    targets = np.random.default_rng(seed).random(logits.shape, np.float32)
    targets[np.isneginf(logits.astype(np.float32, copy=False))] = 0
    targets /= targets.sum(axis=1, keepdims=True)
    return Workload(workload.name, workload.regime, logits, targets.astype(logits.dtype, copy=False))


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
    arrays = (np.array(a) if a.base is not None else a for a in (workload.logits, workload.targets))
    return Workload(workload.name, workload.regime, *arrays)


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
