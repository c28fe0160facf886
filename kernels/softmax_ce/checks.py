"""Check every argument before anything is computed or written. Each error says what was wrong and what is right."""

from __future__ import annotations

import math
import operator
import reprlib
import sys
from collections.abc import Iterable
from typing import Any

import numpy as np

from softmax_ce.dtypes import compute_dtype, is_bfloat16, result_dtype
from softmax_ce.problem import Problem
from softmax_ce.staging import Rows
from softmax_ce.tuning import STAGED_ELEMENTS as _CHECK_BLOCK

REDUCTIONS = ("mean", "sum", "none")
ON_EMPTY = ("nan", "zero", "raise")
_INT64 = np.dtype(np.int64)


def as_array(name: str, value: Any) -> Any:
    """Return an argument as an array. If numpy.asarray fails, raise an error that names the argument."""
    refuse_masked(name, value)
    try:
        return np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:  # RuntimeError: a PyTorch tensor that requires grad
        kind = ValueError if isinstance(error, ValueError) else TypeError
        raise kind(f"{name} cannot be taken as an array: {error}") from error


def refuse_masked(name: str, value: Any) -> None:
    """Raise a TypeError for a masked array, or a list that holds one: numpy.asarray would silently drop the mask."""
    # If numpy.ma was never imported, or another thread is still importing it, no masked array exists.
    masked = getattr(sys.modules.get("numpy.ma"), "MaskedArray", None)
    if masked is None:
        return
    try:
        found = _holds(value, masked)
    except RecursionError:  # a list that holds itself: NumPy raises an error of its own
        return
    if found:
        logits = "x" if name == "x" else "logits"
        raise TypeError(
            f"{name} must not be a masked array, whose mask would be lost. To leave classes out, give "
            f"{logits}.filled(-np.inf); to leave rows out, a sample_weight of 0 or the label ignore_index"
        )


def _holds(value: Any, kind: type) -> bool:
    """Return whether a value is an instance of `kind`, or a list or tuple that holds one at any depth."""
    return isinstance(value, kind) or (isinstance(value, list | tuple) and any(_holds(entry, kind) for entry in value))


def shown(value: Any) -> str:
    """Return the short, one-line repr of a value for an error message."""
    try:
        return " ".join(reprlib.repr(value).split())
    except ValueError:  # an integer with more digits than Python converts
        return f"a huge {type(value).__name__}"


def check_logits(logits: Any, axis: Any, name: str = "logits") -> Problem:
    """Return the logits as rows of classes. `name` is the argument's name in error messages."""
    source = as_array(name, logits)
    compute = compute_dtype(source.dtype, name)
    if source.ndim == 0:
        raise ValueError(f"{name} must have at least one axis, the classes; got a scalar")
    try:
        given = operator.index(axis)
    except TypeError:
        raise TypeError(f"axis must be an integer, got {shown(axis)}") from None
    if not -source.ndim <= given < source.ndim:
        raise ValueError(f"axis {given} is out of range for {name} of shape {source.shape}")
    position = given % source.ndim
    if source.shape[position] == 0:
        raise ValueError(f"{name} of shape {source.shape} have no classes: axis {given} has length 0")
    row_shape = source.shape[:position] + source.shape[position + 1 :]
    return Problem(source, position, compute, result_dtype(source.dtype), Rows(source, position, compute), row_shape)


def check_targets(problem: Problem, targets: Any, ignore_index: int) -> None:
    """Check hard labels, which must be in range, or soft labels, in the logits' shape, and add them to the problem."""
    array = as_array("targets", targets)
    kind = array.dtype.kind
    if array.shape == problem.row_shape:
        if kind not in "iu":
            raise TypeError(
                f"targets of shape {array.shape} are hard labels and must have an integer dtype, got {array.dtype}; "
                f"soft labels have the logits' shape {problem.source.shape}"
            )
        problem.any_ignored = _check_labels(array, problem.n_classes, ignore_index)
        usable = array.dtype == _INT64 and array.flags.c_contiguous and array.flags.aligned
        problem.labels = (array if usable else array.astype(_INT64)).ravel()
    elif array.shape == problem.source.shape:
        if kind not in "fiub" and not is_bfloat16(array.dtype):
            raise TypeError(f"soft labels must have a real dtype, got {array.dtype}")
        if ignore_index >= 0:
            raise ValueError(
                f"ignore_index={ignore_index} needs hard labels; with soft labels give a sample_weight of 0"
            )
        problem.targets = array
    else:
        raise ValueError(
            f"targets of shape {array.shape} do not fit logits of shape {problem.source.shape} with classes on axis "
            f"{problem.axis}: hard labels have shape {problem.row_shape}, soft labels {problem.source.shape}"
        )


def _check_labels(labels: Any, n_classes: int, ignore_index: int) -> bool:
    """Return whether some label is ignored. Raise an IndexError if one is neither ignored nor a class."""
    if labels.size <= 1:
        return _check_few(labels, n_classes, ignore_index)
    plain = labels.dtype == _INT64 and labels.flags.c_contiguous and not 0 <= ignore_index < n_classes
    # One vectorised pass covers the common case: viewed as unsigned, a negative label is huge.
    if plain and np.maximum.reduce(labels.ravel().view(np.uint64)) < n_classes:
        return False
    flat = labels.ravel()  # this may copy, but one integer for each row is small beside the logits
    any_ignored = False
    for start in range(0, flat.size, _CHECK_BLOCK):
        block = flat[start : start + _CHECK_BLOCK]
        ignored = block == ignore_index
        any_ignored = any_ignored or bool(ignored.any())
        bad = ((block < 0) | (block >= n_classes)) & ~ignored
        if bad.any():
            first = start + int(bad.argmax())
            where = tuple(int(i) for i in np.unravel_index(first, labels.shape))
            _raise_bad_label(int(flat[first]), where, n_classes, ignore_index)
    return any_ignored


def _check_few(labels: Any, n_classes: int, ignore_index: int) -> bool:
    """Check one label or none as :func:`_check_labels` does, but without NumPy, whose overhead would dominate."""
    for label in labels.ravel().tolist():
        if label == ignore_index:
            return True
        if not 0 <= label < n_classes:
            position = (0,) * labels.ndim
            _raise_bad_label(label, position, n_classes, ignore_index)
    return False


def _raise_bad_label(label: int, where: tuple[int, ...], n_classes: int, ignore_index: int) -> None:
    position = where[0] if len(where) == 1 else where
    raise IndexError(
        f"target {label} at position {position} is outside [0, {n_classes}) and is not ignore_index ({ignore_index})"
    )


def check_choice(name: str, value: Any, allowed: tuple[str, ...]) -> None:
    """Check an option that must be one of a few words."""
    if not isinstance(value, str) or value not in allowed:  # an array would compare entry by entry
        raise ValueError(f"{name}={shown(value)} is not known; allowed: {', '.join(map(repr, allowed))}")


def check_number(name: str, value: Any, low: float, high: float, *, above: bool = False) -> float:
    """Return a finite real number in [low, high], or in (low, high] if `above` is true."""
    number = value if type(value) is float else _real(name, value)
    inside = low < number <= high if above else low <= number <= high
    if not inside or not math.isfinite(number):
        bounds = f"finite and {'above' if above else 'at least'} {low:g}"
        if high != math.inf:
            bounds = f"in [{low:g}, {high:g}]"
        raise ValueError(f"{name} must be {bounds}, got {shown(value)}")
    return number


def _real(name: str, value: Any) -> float:
    """Return a real number as a float. float() accepts some text, bytes and complex arrays; they are refused here."""
    refuse_masked(name, value)
    if isinstance(value, np.ndarray | np.generic):
        is_real = value.ndim == 0 and value.dtype.kind in "fiubV"  # V: bfloat16
    else:
        is_real = hasattr(value, "__float__") or hasattr(value, "__index__")
    try:
        if is_real and not isinstance(value, str):
            return float(value)
    except OverflowError:
        return math.inf
    except (TypeError, ValueError):
        pass
    raise TypeError(f"{name} must be a real number, got {shown(value)}")


def check_flag(name: str, value: Any) -> bool:
    """Return the truth value of an argument."""
    try:
        return bool(value)
    except (TypeError, ValueError):  # an array with several entries
        raise TypeError(f"{name} must be True or False, got {shown(value)}") from None


def check_ignore_index(value: Any) -> int:
    """Return an integer that fits in int64, as labels do."""
    refuse_masked("ignore_index", value)
    try:
        index = operator.index(value)
    except TypeError:
        raise TypeError(f"ignore_index must be an integer, got {shown(value)}") from None
    if not -(2**63) <= index < 2**63:
        raise ValueError(f"ignore_index must fit in int64, got {index}")
    return index


def check_threads(value: Any) -> int | None:
    """Return None or a positive integer. More threads than CPUs are valid."""
    if value is None:
        return None
    try:
        count = operator.index(value)
    except TypeError:
        raise TypeError(f"threads must be None or a positive integer, got {shown(value)}") from None
    if count < 1:
        raise ValueError(f"threads must be None or at least 1, got {count}")
    return count


def check_weight(name: str, value: Any, shape: tuple[int, ...]) -> Any:
    """Return weights as a new flat float64 array. They must have this shape and be finite, of either sign."""
    weight = check_vector(name, value, shape)
    finite = np.isfinite(weight)
    if not finite.all():
        bad = int(finite.argmin())
        raise ValueError(f"{name} must be finite; entry {bad} is {weight[bad]}")
    return weight


def check_vector(name: str, value: Any, shape: tuple[int, ...]) -> Any:
    """Return real numbers of this shape as a new flat float64 array.

    The copy cannot change during the call, even if the argument is also an output.
    """
    array = as_array(name, value)
    if array.dtype.kind not in "fiub" and not is_bfloat16(array.dtype):
        raise TypeError(f"{name} must be real numbers, got dtype {array.dtype}")
    if array.shape != shape:
        raise ValueError(f"{name} must have shape {shape}, got {array.shape}")
    with np.errstate(all="ignore"):  # a longdouble may lie beyond float64
        return array.astype(np.float64).ravel()


def check_buffer(
    name: str, buffer: Any, shape: tuple[int, ...], dtypes: tuple[np.dtype[Any], ...], inputs: Iterable[tuple[str, Any]]
) -> None:
    """Check a caller's output buffer: its type, shape and dtype, and that it overlaps no input in part."""
    refuse_masked(name, buffer)
    if not isinstance(buffer, np.ndarray):
        raise ValueError(f"{name} must be a NumPy array to write into, got {type(buffer).__name__}")
    if buffer.shape != shape:
        raise ValueError(f"{name} must have shape {shape}, got {buffer.shape}")
    if buffer.dtype not in dtypes:
        raise ValueError(f"{name} must have dtype {' or '.join(map(str, dtypes))}, got {buffer.dtype}")
    if not buffer.flags.writeable:
        raise ValueError(f"{name} is read-only")
    if _overlaps_itself(buffer):
        raise ValueError(f"{name} overlaps itself: two of its entries share memory")
    for other, array in inputs:
        if overlaps(buffer, array) and not same_memory(buffer, array):
            raise ValueError(f"{name} overlaps {other} in part; only the very same memory is allowed")


def _overlaps_itself(buffer: Any) -> bool:
    """Return whether two entries share bytes: each axis must step over everything that the finer axes cover."""
    if buffer.flags.c_contiguous:
        return False
    covered = buffer.itemsize
    for stride, length in sorted((abs(step), n) for step, n in zip(buffer.strides, buffer.shape, strict=True) if n > 1):
        if stride < covered:
            return True
        covered += stride * (length - 1)
    return False


def check_apart(buffers: dict[str, Any]) -> None:
    """Check that no two outputs share memory."""
    given = [(name, buffer) for name, buffer in buffers.items() if buffer is not None]
    for i, (name, buffer) in enumerate(given):
        for other, array in given[:i]:
            if overlaps(buffer, array):
                raise ValueError(f"{name} overlaps {other}: each output needs memory of its own")


def overlaps(a: Any, b: Any) -> bool:
    """Return whether two arrays share an element, or whether they may if that is too hard to decide."""
    try:
        # NumPy's stub allows only two of the values of max_work.
        return isinstance(b, np.ndarray) and np.shares_memory(a, b, max_work=100_000)  # type: ignore[arg-type]
    except np.exceptions.TooHardError:
        return True


def same_memory(a: Any, b: Any) -> bool:
    """Return whether two arrays are the same elements in the same order. Strides of axes of length 1 do not matter."""
    return bool(
        a.__array_interface__["data"][0] == b.__array_interface__["data"][0]
        and a.shape == b.shape
        and a.dtype == b.dtype
        and all(n == 1 or s == t for n, s, t in zip(a.shape, a.strides, b.strides, strict=True))
    )
