"""Pass any object as any argument: the call returns a result, or raises a documented error that names an argument."""

from __future__ import annotations

import array
import datetime
import decimal
import fractions
import inspect
import re
from collections.abc import Callable
from typing import Any

import numpy as np
from hypothesis import strategies as st

import softmax_ce as sce
from tools.fuzz import calls

_THINGS: dict[str, Callable[[], Any]] = {
    "None": lambda: None,
    "0": lambda: 0,
    "1": lambda: 1,
    "-1": lambda: -1,
    "2**70": lambda: 2**70,
    "10**400": lambda: 10**400,
    "0.5": lambda: 0.5,
    "nan": lambda: float("nan"),
    "inf": lambda: float("inf"),
    "True": lambda: True,
    "1j": lambda: 1j,
    "text": lambda: "text",
    "mean": lambda: "mean",
    "number as text": lambda: "3",
    "a control character": lambda: "a\x1b[31m\n",
    "a lone surrogate": lambda: "\ud800",
    "bytes": lambda: b"abc",
    "bytearray": lambda: bytearray(8),
    "memoryview": lambda: memoryview(bytes(16)),
    "empty list": lambda: [],
    "list": lambda: [0, 1],
    "matrix": lambda: [[0.5, 0.5], [0.25, 0.75]],
    "ragged list": lambda: [[1, 2], [3]],
    "deep list": lambda: [[[[[[[[1.0]]]]]]]],
    "list of None": lambda: [None, None],
    "list of text": lambda: ["0", "1"],
    "list of huge": lambda: [10**400, 1],
    "dict": lambda: {"a": 1},
    "set": lambda: {0, 1},
    "range": lambda: range(2),
    "generator": lambda: (i for i in range(2)),
    "object": object,
    "type": lambda: int,
    "function": lambda: len,
    "slice": lambda: slice(None),
    "Ellipsis": lambda: ...,
    "Decimal": lambda: decimal.Decimal("0.5"),
    "Fraction": lambda: fractions.Fraction(1, 2),
    "date": lambda: datetime.date(2026, 1, 1),
    "array.array": lambda: array.array("d", [0.5, 1]),
    "int8": lambda: np.int8(1),
    "float16": lambda: np.float16(0.5),
    "longdouble": lambda: np.longdouble(0.5),
    "numpy bool": lambda: np.True_,
    "numpy complex": lambda: np.complex64(0.5),
    "0-d": lambda: np.array(0.5),
    "0-d object": lambda: np.array(None),
    "one float": lambda: np.array([0.5]),
    "one integer": lambda: np.array([1]),
    "(2,) float": lambda: np.ones(2),
    "(2,) int": lambda: np.zeros(2, int),
    "(2, 2) float": lambda: np.ones((2, 2)),
    "(2, 2) float32": lambda: np.ones((2, 2), np.float32),
    "(2, 2) int": lambda: np.ones((2, 2), int),
    "(0,)": lambda: np.zeros(0),
    "(0, 2)": lambda: np.zeros((0, 2)),
    "(2, 0)": lambda: np.zeros((2, 0)),
    "(1, 1, 1, 1, 1)": lambda: np.ones((1, 1, 1, 1, 1)),
    "complex array": lambda: np.ones((2, 2), complex),
    "object array": lambda: np.ones((2, 2), object),
    "text array": lambda: np.array(["a", "b"]),
    "date array": lambda: np.zeros(2, "M8[s]"),
    "records": lambda: np.zeros(2, [("a", "f8"), ("b", "i4")]),
    "record": lambda: np.zeros(2, [("a", "f8")])[0],
    "longdouble array": lambda: np.ones((2, 2), np.longdouble),
    "masked array": lambda: np.ma.masked_array([0.5, 1.0], [True, False]),
    "matrix object": lambda: np.ones((2, 2)).view(np.matrix),
    "broadcast": lambda: np.broadcast_to(np.ones(2), (2, 2)),
}
_ENTRIES = (*calls.ENTRIES, "softmax", "log_softmax", "logsumexp")
_ALSO = ("labels", "target", "no row counts")
_ADDRESS = re.compile(r"0?x[0-9a-f]{6,}")  # of an object that is shown; it may be shortened
_DOCUMENTED = (ValueError, TypeError, IndexError, sce.BackendUnavailableError)


def _parameters(entry: str) -> list[str]:
    return list(inspect.signature(getattr(sce, entry)).parameters)


def cases() -> st.SearchStrategy[Any]:
    """Return the strategy for cases: an entry point, and the names of one to three objects for as many arguments."""

    def of(entry: str) -> st.SearchStrategy[Any]:
        names = st.sampled_from(_parameters(entry))
        return st.fixed_dictionaries(
            {
                "entry": st.just(entry),
                "arguments": st.dictionaries(names, st.sampled_from(sorted(_THINGS)), min_size=1, max_size=3),
            }
        )

    return st.sampled_from(_ENTRIES).flatmap(of)


def check(case: dict[str, Any]) -> None:
    """Check one call on every available backend. Without a backend, they must agree on what is wrong."""
    outcomes = {info.name: _outcome(case, info.name) for info in calls.backends()}
    assert "backend" in case["arguments"] or len(set(outcomes.values())) == 1, f"backends do not agree: {outcomes}"


def _outcome(case: dict[str, Any], backend: str) -> str:
    entry = case["entry"]
    arguments: dict[str, Any] = {"backend": backend}
    if entry in calls.ENTRIES:
        arguments |= {"logits": np.array([[0.5, 1.0], [2.0, -1.0]]), "targets": np.array([0, 1])}
    else:
        arguments["x"] = np.array([[0.5, 1.0], [2.0, -1.0]])
    arguments |= {name: _THINGS[thing]() for name, thing in case["arguments"].items()}
    try:
        with calls.strict():
            getattr(sce, entry)(**arguments)
    except _DOCUMENTED as error:
        message = str(error)
        named = any(re.search(rf"\b{word}\b", message) for word in (*_parameters(entry), *_ALSO))
        assert named, f"no argument is named: {type(error).__name__}: {message}"
        assert message.replace("\n", "").isprintable(), f"the message has control characters: {message!r}"
        return f"{type(error).__name__}: {_ADDRESS.sub('', message)}"
    except Exception as error:
        raise AssertionError(f"not a documented error: {type(error).__name__}: {error}") from error
    return "a result"
