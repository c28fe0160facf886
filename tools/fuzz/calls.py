"""Valid calls of the losses with every option, dtype and memory layout, as descriptions and as arguments."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from hypothesis import strategies as st

import softmax_ce as sce
from softmax_ce.contract import BackendInfo
from softmax_ce.dtypes import compute_dtype, result_dtype
from softmax_ce.threads import sharing_from
from softmax_ce_bench.inputs.workloads import dtype_of
from tools.fuzz import memory, values
from tools.fuzz.memory import GuardedArray

ENTRIES = ("cross_entropy_with_grad", "cross_entropy", "cross_entropy_grad", "cross_entropy_with_hessian")
_DTYPES = ("float32", "float64", "float16", "bfloat16", "int64", "int8", "uint8", "int16", "uint16", "int32", "uint64")
_LABEL_DTYPES = ("int64", "int64", "int32", "int16", "int8", "uint8", "uint16", "uint64", "list")
_SOFT_DTYPES = ("float32", "float64", "float16", "bfloat16", "int64", "bool", "longdouble")
# Around the widths that kernels treat specially: vectors, the limit for few classes, chunks of 2048.
_WIDTHS = (
    1, 2, 3, 4, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129, 255, 256, 257, 1000, 2047, 2048, 2049,
)  # fmt: skip
_MOST = 20_000  # elements


@st.composite
def shapes(draw: st.DrawFn) -> dict[str, Any]:
    """Return the strategy for shapes: the other axes, the number of classes, and the class axis."""
    classes = draw(st.one_of(st.integers(1, 12), st.sampled_from(_WIDTHS), st.integers(1, 300)))
    lengths = st.one_of(st.integers(1, 9), st.sampled_from((0, 1, 33, 200)))
    outer: list[int] = []
    for length in draw(st.lists(lengths, max_size=3)):
        if math.prod((*outer, length, classes)) <= _MOST:
            outer.append(length)
    axis = draw(st.integers(0, len(outer)))
    return {"outer": outer, "classes": classes, "axis": axis, "from_end": draw(st.booleans())}


def dtypes() -> st.SearchStrategy[str]:
    """Return the strategy for the dtypes of logits, mostly floats."""
    return st.one_of(st.sampled_from(_DTYPES[:4]), st.sampled_from(_DTYPES))


def _targets() -> st.SearchStrategy[Any]:
    hard = st.fixed_dictionaries(
        {
            "kind": st.just("hard"),
            "dtype": st.sampled_from(_LABEL_DTYPES),
            "ignored": st.sampled_from((0.0, 0.0, 0.3, 1.0)),
            "right": st.sampled_from((0.0, 0.5)),
            "seed": values.SEEDS,
        }
    )
    soft = st.fixed_dictionaries(
        {
            "kind": st.sampled_from(("one-hot", "normalised", "sparse", "zero", "signed", "broken")),
            "dtype": st.sampled_from(_SOFT_DTYPES),
            "seed": values.SEEDS,
        }
    )
    return st.one_of(hard, soft)


def _options() -> st.SearchStrategy[Any]:
    """Return the strategy for options. Half the calls have ordinary values alone, so that the error bounds apply."""
    return st.one_of(_some_of(_ordinary_options()), _some_of(_any_options()))


def _some_of(strategies: dict[str, st.SearchStrategy[Any]]) -> st.SearchStrategy[Any]:
    """Return the strategy for dictionaries that hold each key half the time."""
    all_of = st.fixed_dictionaries({name: st.one_of(st.none(), values) for name, values in strategies.items()})
    return all_of.map(lambda chosen: {name: value for name, value in chosen.items() if value is not None})


def _ordinary_options() -> dict[str, st.SearchStrategy[Any]]:
    number, vector = st.floats(0.01, 100), values.vector_recipes(signed=True, ordinary=True)
    return {
        "weight": vector,
        "sample_weight": vector,
        "ignore_index": st.sampled_from((0, 1, -100)),
        "label_smoothing": st.one_of(st.sampled_from((0.1, 1.0)), st.floats(0.01, 1)),
        "z_loss": st.sampled_from((1e-4, 0.1, 1.0)),
        "reduction": st.sampled_from(("none", "mean", "sum")),
        "denominator": number,
        "grad_output": st.one_of(number, vector),
    }


def _any_options() -> dict[str, st.SearchStrategy[Any]]:
    number, vector = st.floats(0.01, 100), values.vector_recipes(signed=True)
    return {
        "weight": vector,
        "sample_weight": vector,
        "ignore_index": st.sampled_from((-100, -1, 0, 1, 5, 255, -(2**63), 2**63 - 1)),
        "label_smoothing": st.one_of(st.sampled_from((0.0, 0.1, 1.0, 1e-300)), st.floats(1e-6, 1)),
        "z_loss": st.sampled_from((0.0, 1e-4, 1.0, 30.0, 1e30, 1e300)),
        "reduction": st.sampled_from(("none", "mean", "sum")),
        "denominator": st.one_of(number, st.sampled_from((1e-300, 1e300))),
        "on_empty": st.sampled_from(("nan", "zero", "raise")),
        "grad_output": st.one_of(
            st.floats(-100, 100), st.sampled_from((0.0, math.inf, -math.inf, math.nan, 1e300)), vector
        ),
    }


BUFFERS = {
    "cross_entropy_with_grad": ("out", "grad_out"),
    "cross_entropy": ("out",),
    "cross_entropy_grad": ("grad_out",),
    "cross_entropy_with_hessian": ("out", "grad_out", "hess_out"),
}  # beside `lse_out`


def _buffers() -> st.SearchStrategy[Any]:
    return st.fixed_dictionaries(
        {},
        optional={
            "out": memory.layouts(),
            "grad_out": st.one_of(memory.layouts(), st.sampled_from(("logits", "targets", "wide"))),
            "hess_out": st.one_of(memory.layouts(), st.just("wide")),
            "lse_out": memory.layouts(),
        },
    )


def cases() -> st.SearchStrategy[Any]:
    """Return the strategy for descriptions of valid calls."""
    return st.fixed_dictionaries(
        {
            "shape": shapes(),
            "dtype": dtypes(),
            "logits": values.logits_recipes(),
            "layout": memory.layouts(),
            "targets": _targets(),
            "targets_layout": memory.layouts(),
            "options": _options(),
            "entry": st.sampled_from(ENTRIES),
            "threads": st.sampled_from((None, 1, 2, 3, 8)),
            "return_lse": st.booleans(),
            "buffers": _buffers(),
        }
    )


@dataclass(slots=True)
class RandomCall:
    """A call in two forms: contiguous rows of classes, for the reference, and the arguments as a user gives them.

    Attributes
    ----------
    logits, targets : ndarray
        (N, C); (N,) int64 or (N, C).
    options : dict
        Those of the "none" loss of N rows: vectors flat, in float64.
    entry : str
        The public function.
    arguments : dict
        Its arguments, including `logits` and `targets`.
    rooms : dict
        The memory behind arrays that are given, by argument.
    outer : tuple of int
        The shape of the "none" loss.
    axis : int
    """

    logits: Any
    targets: Any
    options: dict[str, Any]
    entry: str
    outer: tuple[int, ...]
    axis: int
    arguments: dict[str, Any] = field(default_factory=dict)
    rooms: dict[str, GuardedArray] = field(default_factory=dict)

    @property
    def is_hard(self) -> bool:
        return bool(self.targets.ndim == 1)

    @property
    def compute(self) -> np.dtype[Any]:
        return compute_dtype(self.logits.dtype)

    def result(self, name: str) -> np.dtype[Any]:
        """Return the dtype of the gradient ("grad") or the Hessian ("hess")."""
        buffer = self.arguments.get(f"{name}_out")
        return result_dtype(self.logits.dtype) if buffer is None else buffer.dtype

    def run(self, backend: str) -> dict[str, Any]:
        """Return the results by name: loss, grad, hess, lse."""
        with strict(), sharing(self.arguments.get("threads")):
            found = getattr(sce, self.entry)(**self.arguments, backend=backend)
        return dict(zip(self.names(), found if isinstance(found, tuple) else (found,), strict=True))

    def names(self) -> list[str]:
        """Return the names of the call's results, in order."""
        names = ["loss"] * (self.entry != "cross_entropy_grad") + ["grad"] * (self.entry != "cross_entropy")
        names += ["hess"] * (self.entry == "cross_entropy_with_hessian")
        return names + ["lse"] * bool(self.arguments.get("return_lse") or "lse_out" in self.arguments)

    def to_rows(self, name: str, array: Any) -> Any:
        """Return a result of the call in the form of the reference."""
        if name not in ("grad", "hess"):
            return np.asarray(array).reshape(-1)
        return np.moveaxis(np.asarray(array), self.axis, -1).reshape(self.logits.shape)

    def from_rows(self, array: Any) -> Any:
        """Return an array of shape (N, C) in the shape of the call's logits."""
        return np.moveaxis(array.reshape(*self.outer, array.shape[-1]), -1, self.axis)


@contextmanager
def strict() -> Iterator[None]:
    """Make floating-point flags errors, since no call may raise one. The worker makes warnings errors."""
    with np.errstate(all="raise"):
        yield


def sharing(threads: int | None) -> AbstractContextManager[None]:
    """Let several threads share even small work. A call for one thread or the automatic number is not changed."""
    return sharing_from(1) if type(threads) is int and threads > 1 else nullcontext()


def backends() -> tuple[BackendInfo, ...]:
    """Return the names of the available backends."""
    return tuple(info for info in sce.backends() if info.available)


def build(case: dict[str, Any]) -> RandomCall:
    """Return the call of a case."""
    shape, chosen = case["shape"], case["options"]
    rows, classes = math.prod(shape["outer"]), shape["classes"]
    ignore_index = chosen.get("ignore_index", -100)
    logits = values.logits(case["logits"], rows, classes, case["dtype"])
    if case["targets"]["kind"] == "hard":
        targets = _labels(case["targets"], logits, ignore_index)
    else:
        targets = _soft(case["targets"], rows, classes)
        ignore_index = min(ignore_index, -1)
    call = RandomCall(
        logits, targets, {"ignore_index": ignore_index}, case["entry"], tuple(shape["outer"]), shape["axis"]
    )
    place(call, "logits", call.from_rows(logits), case["layout"], writeable=case["buffers"].get("grad_out") == "logits")
    if call.is_hard:
        place(
            call, "targets", targets.reshape(call.outer).astype(_label_dtype(case["targets"])), case["targets_layout"]
        )
        if case["targets"]["dtype"] == "list" and targets.size:  # an empty list has no shape
            call.arguments["targets"] = call.rooms.pop("targets").view.tolist()
    else:
        over = case["buffers"].get("grad_out") == "targets"
        place(call, "targets", call.from_rows(targets), case["targets_layout"], writeable=over)
    if shape["axis"] != len(call.outer) or shape["from_end"]:
        call.arguments["axis"] = shape["axis"] - (len(call.outer) + 1 if shape["from_end"] else 0)
    _give_options(call, chosen)
    if case["threads"] is not None:
        call.arguments["threads"] = case["threads"]
    if case["return_lse"]:
        call.arguments["return_lse"] = True
    for name, layout in case["buffers"].items():
        _give_buffer(call, name, layout)
    return call


def place(call: RandomCall, name: str, array: Any, layout: dict[str, Any], *, writeable: bool = False) -> None:
    """Give the call an array inside guarded memory."""
    call.rooms[name] = memory.place(array, layout, writeable=writeable)
    call.arguments[name] = call.rooms[name].view


def _label_dtype(recipe: dict[str, Any]) -> Any:
    return np.dtype("int64" if recipe["dtype"] == "list" else recipe["dtype"])


def _labels(recipe: dict[str, Any], logits: Any, ignore_index: int) -> Any:
    """Return labels, some at the row's largest logit, where the loss is small and its gradient nearly 0, and some
    ignored.
    """
    rng = np.random.default_rng(recipe["seed"])
    rows, classes = logits.shape
    held = np.iinfo(_label_dtype(recipe))
    labels = rng.integers(0, min(classes, held.max + 1), rows)
    likeliest = logits.astype(np.float64).argmax(axis=1)
    right = (rng.random(rows) < recipe["right"]) & (likeliest <= held.max)
    labels[right] = likeliest[right]
    if held.min <= ignore_index <= held.max:
        labels[rng.random(rows) < recipe["ignored"]] = ignore_index
    return labels


def _soft(recipe: dict[str, Any], rows: int, classes: int) -> Any:
    rng = np.random.default_rng(recipe["seed"])
    kind = recipe["kind"]
    soft = rng.random((rows, classes))
    if kind == "one-hot":
        soft = np.eye(classes)[rng.integers(0, classes, rows)]
    elif kind == "normalised":
        soft /= soft.sum(axis=1, keepdims=True)
    elif kind == "sparse":
        soft[rng.random(soft.shape) < 0.8] = 0
    elif kind == "zero":
        soft[:] = 0
    elif kind == "signed":
        soft -= 0.5
    elif kind == "broken" and soft.size:
        soft.flat[rng.integers(0, soft.size)] = rng.choice([np.nan, np.inf, -np.inf])
    with np.errstate(all="ignore"):
        return soft.astype(np.longdouble if recipe["dtype"] == "longdouble" else dtype_of(recipe["dtype"]))


def _give_options(call: RandomCall, chosen: dict[str, Any]) -> None:
    """Draw options that go together, in the reference's form and in the caller's."""
    rows, classes = call.logits.shape
    reduction = chosen.get("reduction", "mean")
    for name, value in chosen.items():
        if name == "weight":
            call.options[name] = values.vector(value, classes)
            call.arguments[name] = values.shown(value, call.options[name])
        elif name == "sample_weight":
            call.options[name] = values.vector(value, rows)
            call.arguments[name] = values.shown(value, call.options[name].reshape(call.outer))
        elif name == "ignore_index":
            call.arguments[name] = call.options[name]
        elif name == "grad_output":
            _give_upstream(call, value, reduction)
        elif name != "denominator" or reduction == "mean":
            call.options[name] = call.arguments[name] = value


def _give_upstream(call: RandomCall, value: Any, reduction: str) -> None:
    if call.entry == "cross_entropy":
        return
    if not isinstance(value, dict):
        call.options["grad_output"] = call.arguments["grad_output"] = value
    elif reduction == "none" and call.outer:
        call.options["grad_output"] = values.vector(value, len(call.logits))
        call.arguments["grad_output"] = values.shown(value, call.options["grad_output"].reshape(call.outer))


def _give_buffer(call: RandomCall, name: str, layout: Any) -> None:
    if name not in ("lse_out", *BUFFERS[call.entry]):
        return
    if name in ("grad_out", "hess_out"):
        result = result_dtype(call.logits.dtype)
        if layout in ("logits", "targets"):  # in place, where the dtypes let it be
            view = call.rooms[layout].view if layout in call.rooms else None
            if view is not None and view.shape == call.rooms["logits"].view.shape and view.dtype == result:
                call.arguments[name] = view
            return
        wide = layout == "wide"
        shape, dtype = call.rooms["logits"].view.shape, call.compute if wide else result
        layout = memory.PLAIN if wide else layout
    else:
        dtype = call.compute
        shape = call.outer if name == "lse_out" or call.arguments.get("reduction", "mean") == "none" else ()
    place(call, name, np.zeros(shape, dtype), layout, writeable=True)
