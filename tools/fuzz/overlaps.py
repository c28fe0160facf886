"""Arrays that share memory in every way: exact overlap is in place, partial overlap is refused, none is ignored.

Which bytes an array covers is worked out here by listing them, whatever the library does.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st
from numpy.lib.stride_tricks import as_strided

import softmax_ce as sce
from softmax_ce_bench.conformance.harness import assert_same_bits
from tools.fuzz import calls
from tools.fuzz.values import SEEDS

_ITEMS = 160  # in the memory that all arrays are cut from
_OUTPUTS = ("out", "grad_out", "lse_out")


def cases() -> st.SearchStrategy[Any]:
    """Return the strategy for cases: a small problem, and the offset and strides of each array in items."""
    matrix = st.fixed_dictionaries(
        {"start": st.integers(0, 60), "steps": st.tuples(st.integers(-9, 9), st.integers(-3, 3)).map(list)}
    )
    ordinary = st.fixed_dictionaries({"start": st.integers(0, 60), "steps": st.just("contiguous")})
    vector = st.fixed_dictionaries({"start": st.integers(0, 60), "steps": st.integers(-4, 4).map(lambda n: [n])})
    same = st.sampled_from(("logits", "targets", "sample_weight")).map(lambda name: {"same as": name})
    return st.fixed_dictionaries(
        {
            "rows": st.integers(1, 4),
            "classes": st.integers(1, 5),
            "dtype": st.sampled_from(("float64", "float32", "float16")),
            "soft": st.booleans(),
            "seed": SEEDS,
            "logits": st.one_of(ordinary, matrix),
            "targets": st.one_of(ordinary, matrix),
            "grad_out": st.one_of(ordinary, matrix, same, st.none()),
            "out": st.one_of(vector, ordinary, same, st.none()),
            "lse_out": st.one_of(vector, ordinary, same, st.none()),
            "sample_weight": st.one_of(vector, ordinary, st.none()),
        }
    )


def check(case: dict[str, Any]) -> None:
    """Check one arrangement on every available backend."""
    for info in calls.backends():
        memory, arrays = _arrange(case)
        before = memory.copy()
        verdict = _verdict(arrays)
        copies = {name: array.copy() for name, array in arrays.items() if name not in _OUTPUTS}
        given = {name: array for name, array in arrays.items() if not name.startswith("_")}
        options: dict[str, Any] = {"reduction": "none", "return_lse": True, "backend": info.name}
        try:
            with calls.strict():
                found = sce.cross_entropy_with_grad(**given, **options)
        except ValueError as error:
            assert verdict != "fine", f"refused, though nothing overlaps: {error}"
            assert "overlaps" in str(error), f"another error than the overlap: {error}"
            assert memory.tobytes() == before.tobytes(), "memory was written to before the error"
            continue
        assert verdict != "overlap", "an overlap was not refused"
        plain = sce.cross_entropy_with_grad(**copies, **options)
        for name, got, right in zip(("loss", "gradient", "lse"), found, plain, strict=True):
            assert_same_bits(got, right, f"{name} of {info.name}, against separate memory")
        touched = set().union(*(_bytes(arrays[name]) for name in _OUTPUTS if name in arrays))
        changed = np.flatnonzero(memory.view(np.uint8) != before.view(np.uint8)) + memory.__array_interface__["data"][0]
        assert set(changed.tolist()) <= touched, "something was written outside the outputs"


def _arrange(case: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Return the memory and the arrays that are views of it."""
    rng = np.random.default_rng(case["seed"])
    memory = np.round(rng.uniform(0, 4, _ITEMS), 1).astype(case["dtype"])  # numbers that any of the arrays may hold
    rows, classes = case["rows"], case["classes"]
    shapes = {"logits": (rows, classes), "grad_out": (rows, classes), "targets": (rows, classes)}
    arrays: dict[str, Any] = {}
    for name in ("logits", "targets", "sample_weight", *_OUTPUTS):
        where = case[name]
        if name == "targets" and not case["soft"]:
            arrays[name] = rng.integers(0, classes, rows)
        elif where is not None and "same as" not in where:
            arrays[name] = _cut(memory, where, shapes.get(name, (rows,)))
        elif where is not None and where["same as"] in arrays:
            arrays[name] = arrays[where["same as"]]
    wide = np.dtype(np.float32) if case["dtype"] == "float16" else memory.dtype
    for name in ("out", "lse_out", "grad_out"):
        right = shapes.get(name, (rows,)), memory.dtype if name == "grad_out" else wide
        if name in arrays and (arrays[name].shape, arrays[name].dtype) != right:
            del arrays[name]  # a fault of another kind
    return memory, arrays


def _cut(memory: Any, where: dict[str, Any], shape: tuple[int, ...]) -> Any:
    """Return a view that lies within the memory."""
    steps = where["steps"]
    if steps == "contiguous":
        steps = [shape[1], 1] if len(shape) == 2 else [1]
    spans = [step * (length - 1) for step, length in zip(steps, shape, strict=True)]
    lowest, highest = sum(min(span, 0) for span in spans), sum(max(span, 0) for span in spans)
    start = min(where["start"] - lowest, _ITEMS - 1 - highest)
    return as_strided(memory[start:], shape, [step * memory.itemsize for step in steps])


def _verdict(arrays: dict[str, Any]) -> str:
    """Return "overlap" if a call must refuse, "fine" if it must not, or "either" if outputs only interlock."""
    outputs = {name: array for name, array in arrays.items() if name in _OUTPUTS}
    verdict = "fine"
    for name, array in outputs.items():
        own = _bytes(array)
        if len(own) < array.size * array.itemsize:
            return "overlap"
        for other, inputs in arrays.items():
            if other != name and own & _bytes(inputs) and (other in outputs or not _same(array, inputs)):
                return "overlap"
        if not _is_nested(array):
            verdict = "either"
    return verdict


def _bytes(array: Any) -> set[int]:
    """Return the address of every byte of every entry."""
    offsets = np.zeros(array.shape, np.int64)
    for axis, (length, stride) in enumerate(zip(array.shape, array.strides, strict=True)):
        offsets += (np.arange(length) * stride).reshape([-1 if k == axis else 1 for k in range(array.ndim)])
    first = array.__array_interface__["data"][0] + offsets.reshape(-1)
    return set((first[:, None] + np.arange(array.itemsize)).reshape(-1).tolist())


def _same(a: Any, b: Any) -> bool:
    """Return whether each entry has the same address. The stride of an axis of length 1 does not matter."""
    return (
        a.shape == b.shape
        and a.dtype == b.dtype
        and a.__array_interface__["data"][0] == b.__array_interface__["data"][0]
        and all(n == 1 or s == t for n, s, t in zip(a.shape, a.strides, b.strides, strict=True))
    )


def _is_nested(array: Any) -> bool:
    """Return whether each axis steps over everything that the finer ones cover."""
    covered = array.itemsize
    for stride, length in sorted((abs(s), n) for s, n in zip(array.strides, array.shape, strict=True) if n > 1):
        if stride < covered:
            return False
        covered = stride * (length - 1) + covered
    return True
