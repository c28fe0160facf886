"""Calls with one fault: they raise the documented error, which names the fault, and write nothing."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import strategies as st

from softmax_ce.dtypes import result_dtype
from tools.fuzz import calls
from tools.fuzz.calls import RandomCall
from tools.fuzz.explore import NotApplicable

_NOT_NUMBERS: tuple[Any, ...] = ("x", "1", b"2", None, 1j, [1], {}, object())
_HUGE = 10**400  # no float holds it


@dataclass(frozen=True, slots=True)
class Expected:
    """The error that a fault must raise, and words of which its message must contain one."""

    error: type[Exception]
    named: tuple[str, ...]


Fault = Callable[[RandomCall, random.Random], Expected]


def cases() -> st.SearchStrategy[Any]:
    """Return the strategy for cases: a call and its fault."""
    return st.fixed_dictionaries(
        {"call": calls.cases(), "fault": st.sampled_from(sorted(_FAULTS)), "seed": st.integers(0, 9999)}
    )


def check(case: dict[str, Any]) -> None:
    """Check one fault on every available backend."""
    for info in calls.backends():
        call = calls.build(case["call"])
        call.arguments.pop("on_empty", None)  # "raise" is a fault of its own
        expected = _FAULTS[case["fault"]](call, random.Random(case["seed"]))
        backend = call.arguments.pop("backend", info.name)
        try:
            found = call.run(backend)
        except Exception as error:
            _check_error(error, expected)
        else:
            raise AssertionError(f"no {expected.error.__name__}, but {found}")
        for name, room in call.rooms.items():
            assert room.untouched(), f"{name} was written to before the error"


def _check_error(error: Exception, expected: Expected) -> None:
    message = str(error)
    if type(error) is not expected.error:
        raise AssertionError(f"{type(error).__name__} instead of {expected.error.__name__}: {message}") from error
    assert any(name in message for name in expected.named), f"the message names none of {expected.named}: {message}"
    assert message.replace("\n", "").isprintable(), f"the message has control characters: {message!r}"


_FAULTS: dict[str, Fault] = {}


def _fault(function: Fault) -> Fault:
    _FAULTS[function.__name__] = function
    return function


def _only_if(applies: bool) -> None:
    if not applies:
        raise NotApplicable


def _set(call: RandomCall, name: str, value: Any) -> None:
    """Replace an argument of the call."""
    call.arguments[name] = value
    call.rooms.pop(name, None)


# What is wrong with labels and targets.


@_fault
def label_out_of_range(call: RandomCall, pick: random.Random) -> Expected:
    _only_if(call.is_hard and len(call.targets) > 0)
    classes, ignored = call.logits.shape[1], call.options["ignore_index"]
    bad = pick.choice([classes, classes + 1, -1, -2, 2**31 + 1, 2**63 - 1, -(2**63), -101])
    _only_if(bad != ignored)
    labels = call.targets.copy()
    labels[pick.randrange(len(labels))] = bad
    _set(call, "targets", labels.reshape(call.outer))
    return Expected(IndexError, (f"target {bad} at position",))


@_fault
def unsigned_label_out_of_range(call: RandomCall, pick: random.Random) -> Expected:
    _only_if(call.is_hard and len(call.targets) > 0)
    labels = np.zeros(len(call.targets), np.uint64)
    _only_if(call.options["ignore_index"] != 2**63 - 1)
    bad = pick.choice([2**64 - 1, 2**64 - 100, 2**63])  # as int64: -1, -100, the smallest
    labels[pick.randrange(len(labels))] = bad
    _set(call, "targets", labels.reshape(call.outer))
    return Expected(IndexError, (f"target {bad} at position",))


@_fault
def targets_of_another_shape(call: RandomCall, pick: random.Random) -> Expected:
    right = (call.outer, np.shape(call.arguments["logits"]))
    shapes = [(*call.outer, 1), (2, *call.outer), (*right[1], 1), (0,), (len(call.targets) + 1,), ()]
    shape = pick.choice([shape for shape in shapes if shape not in right])
    _set(call, "targets", np.zeros(shape, pick.choice([np.int64, np.float64])))
    return Expected(ValueError, ("targets",))


@_fault
def targets_of_another_kind(call: RandomCall, pick: random.Random) -> Expected:
    kinds = ["c16", "O", "U3", "S2", "M8[s]", "m8[s]", "V3"] + ["f4", "f8", "?"] * call.is_hard
    shape = call.outer if call.is_hard else np.shape(call.arguments["logits"])
    _set(call, "targets", np.zeros(shape, pick.choice(kinds)))
    return Expected(TypeError, ("targets", "labels"))


# What is wrong with logits and their axis.


@_fault
def logits_of_another_kind(call: RandomCall, pick: random.Random) -> Expected:
    import ml_dtypes

    kinds = ["c8", "O", "?", "g", "U3", "S2", "M8[s]", "m8[s]", "V3"]
    kinds += [ml_dtypes.float8_e5m2, ml_dtypes.float8_e4m3fn, ml_dtypes.int4]
    _set(call, "logits", np.zeros(np.shape(call.arguments["logits"]), pick.choice(kinds)))
    return Expected(TypeError, ("logits",))


@_fault
def no_classes(call: RandomCall, pick: random.Random) -> Expected:
    _set(call, "logits", call.from_rows(np.zeros((len(call.logits), 0), call.logits.dtype)))
    return Expected(ValueError, ("no classes",))


@_fault
def no_axis(call: RandomCall, pick: random.Random) -> Expected:
    _set(call, "logits", call.logits.dtype.type(1))
    return Expected(ValueError, ("logits",))


@_fault
def axis_out_of_range(call: RandomCall, pick: random.Random) -> Expected:
    ndim = len(call.outer) + 1
    call.arguments["axis"] = pick.choice([ndim, -ndim - 1, 2**62, -(2**70), 2**70])
    return Expected(ValueError, ("axis",))


@_fault
def axis_of_another_kind(call: RandomCall, pick: random.Random) -> Expected:
    call.arguments["axis"] = pick.choice([0.0, "0", None, (0,), 1j, np.zeros(1, int)])
    return Expected(TypeError, ("axis",))


# What is wrong with options.


@_fault
def unknown_word(call: RandomCall, pick: random.Random) -> Expected:
    name = pick.choice(["reduction", "on_empty"])
    call.arguments[name] = pick.choice(
        ["avg", "", "MEAN", "mean ", None, 0, b"mean", ["mean"], np.array(["mean", "sum"])]
    )
    return Expected(ValueError, (name,))


@_fault
def number_out_of_range(call: RandomCall, pick: random.Random) -> Expected:
    name = _a_number(call, pick)
    bad = {"label_smoothing": [1.0000001, 2], "z_loss": [], "denominator": [0, 0.0, -0.0]}[name]
    call.arguments[name] = pick.choice([*bad, -1e-300, -1, float("nan"), float("inf"), -float("inf"), _HUGE, -_HUGE])
    return Expected(ValueError, (name,))


@_fault
def number_of_another_kind(call: RandomCall, pick: random.Random) -> Expected:
    name = _a_number(call, pick)
    arrays = [np.ones(2), np.array([0.5]), np.complex64(1), np.array(1j), np.array("1")]
    kinds = [*_NOT_NUMBERS, *arrays]
    call.arguments[name] = pick.choice([kind for kind in kinds if name != "denominator" or kind is not None])
    return Expected(TypeError, (name,))


@_fault
def denominator_without_mean(call: RandomCall, pick: random.Random) -> Expected:
    call.arguments |= {"reduction": pick.choice(["sum", "none"]), "denominator": 2.0}
    return Expected(ValueError, ("denominator",))


@_fault
def threads_out_of_range(call: RandomCall, pick: random.Random) -> Expected:
    call.arguments["threads"] = pick.choice([0, -1, -(2**70)])
    return Expected(ValueError, ("threads",))


@_fault
def threads_of_another_kind(call: RandomCall, pick: random.Random) -> Expected:
    call.arguments["threads"] = pick.choice([1.0, "2", 1j, (2,), np.ones(2, int), np.float64(2)])
    return Expected(TypeError, ("threads",))


@_fault
def ignore_index_out_of_range(call: RandomCall, pick: random.Random) -> Expected:
    call.arguments["ignore_index"] = pick.choice([2**63, -(2**63) - 1, 10**30])
    return Expected(ValueError, ("ignore_index",))


@_fault
def ignore_index_of_another_kind(call: RandomCall, pick: random.Random) -> Expected:
    call.arguments["ignore_index"] = pick.choice([0.0, -100.0, "0", None, 1j, np.zeros(1)])
    return Expected(TypeError, ("ignore_index",))


@_fault
def ignored_class_with_soft_labels(call: RandomCall, pick: random.Random) -> Expected:
    _only_if(not call.is_hard)
    call.arguments["ignore_index"] = pick.choice([0, 3, 255])
    return Expected(ValueError, ("ignore_index",))


@_fault
def weights_of_another_shape(call: RandomCall, pick: random.Random) -> Expected:
    name, right = _a_vector(call, pick)
    shapes = [(*right, 1), (1, *right), (7, 7, 7), tuple(n + 1 for n in right)]
    shape = pick.choice([shape for shape in shapes if shape != right])
    _set(call, name, np.ones(shape))
    return Expected(ValueError, (name,))


@_fault
def weights_of_another_kind(call: RandomCall, pick: random.Random) -> Expected:
    name, right = _a_vector(call, pick)
    _set(call, name, np.zeros(right, pick.choice(["c16", "O", "U3", "S2", "M8[s]", "m8[s]", "V3"])))
    return Expected(TypeError, (name,))


@_fault
def bad_weight(call: RandomCall, pick: random.Random) -> Expected:
    name = pick.choice(["weight", "sample_weight"])
    shape = (call.logits.shape[1],) if name == "weight" else call.outer
    weight = np.ones(shape)
    _only_if(weight.size > 0)
    weight.flat[pick.randrange(weight.size)] = pick.choice([np.nan, np.inf, -np.inf])
    _set(call, name, weight)
    return Expected(ValueError, (name,))


@_fault
def a_vector_upstream_of_a_scalar(call: RandomCall, pick: random.Random) -> Expected:
    _only_if(call.entry != "cross_entropy" and call.arguments.get("reduction", "mean") != "none")
    _set(call, "grad_output", np.ones(pick.choice([(1,), (len(call.logits),), (2, 2)])))
    return Expected(ValueError, ("grad_output",))


@_fault
def nothing_counts(call: RandomCall, pick: random.Random) -> Expected:
    _only_if(call.arguments.get("reduction", "mean") == "mean")
    call.arguments.pop("denominator", None)
    call.arguments |= {"on_empty": "raise", "sample_weight": np.zeros(call.outer)}
    return Expected(ValueError, ("no row counts",))


@_fault
def unknown_backend(call: RandomCall, pick: random.Random) -> Expected:
    call.arguments["backend"] = pick.choice(["Cython", "", "numpy ", "nothing", 3, b"numpy", ["numpy"], ("numpy",), {}])
    return Expected(ValueError, ("backend",))


def _a_number(call: RandomCall, pick: random.Random) -> str:
    """Return a numeric option that the call accepts."""
    name = pick.choice(["label_smoothing", "z_loss", "denominator"])
    if name == "denominator":
        call.arguments["reduction"] = "mean"
        _drop_buffers(call)
    return name


def _a_vector(call: RandomCall, pick: random.Random) -> tuple[str, tuple[int, ...]]:
    """Return a vector option and its shape."""
    names = ["weight", "sample_weight"]
    if call.entry != "cross_entropy" and call.arguments.get("reduction") == "none" and call.outer:
        names.append("grad_output")
    name = pick.choice(names)
    return name, (call.logits.shape[1],) if name == "weight" else call.outer


# What is wrong with buffers. Those that overlap are overlaps.py's.


@_fault
def buffer_of_another_shape(call: RandomCall, pick: random.Random) -> Expected:
    name, shape, dtype = _a_buffer(call, pick)
    _set(call, name, np.zeros(pick.choice([(*shape, 1), (1, *shape), tuple(n + 1 for n in shape) or (2,)]), dtype))
    return Expected(ValueError, (name,))


@_fault
def buffer_of_another_dtype(call: RandomCall, pick: random.Random) -> Expected:
    name, shape, dtype = _a_buffer(call, pick)
    right = (dtype, call.compute, np.dtype(np.float32 if name in ("grad_out", "hess_out") else dtype))
    kinds = [np.dtype(kind) for kind in ("f2", "f4", "f8", "g", "i8", "O", "?", "c8", "U3")]
    kinds += [dtype.newbyteorder("S")] * (dtype.kind == "f")
    _set(call, name, np.zeros(shape, pick.choice([kind for kind in kinds if kind not in right])))
    return Expected(ValueError, (name,))


@_fault
def buffer_that_is_no_array(call: RandomCall, pick: random.Random) -> Expected:
    name, shape, dtype = _a_buffer(call, pick)
    array = np.zeros(shape, np.float32)
    _set(call, name, pick.choice([array.tolist(), array.data, bytearray(8), 0.0, "out", (), object(), dtype.type(0)]))
    return Expected(ValueError, (name,))


@_fault
def buffer_that_is_read_only(call: RandomCall, pick: random.Random) -> Expected:
    name, shape, dtype = _a_buffer(call, pick)
    array = np.zeros(shape, dtype)
    array.flags.writeable = False
    _set(call, name, array)
    return Expected(ValueError, (name,))


def _a_buffer(call: RandomCall, pick: random.Random) -> tuple[str, tuple[int, ...], np.dtype[Any]]:
    """Return a buffer that the entry point accepts, with its right shape and dtype."""
    name = pick.choice(["lse_out", *calls.BUFFERS[call.entry]])
    if name in ("grad_out", "hess_out"):
        return name, np.shape(call.arguments["logits"]), result_dtype(call.logits.dtype)
    reduced = name == "out" and call.arguments.get("reduction", "mean") != "none"
    return name, () if reduced else call.outer, call.compute


def _drop_buffers(call: RandomCall) -> None:
    """Drop the buffers if the reduction changes, since they would be a second fault."""
    for name in ("out", "grad_output"):
        call.arguments.pop(name, None)
        call.rooms.pop(name, None)
