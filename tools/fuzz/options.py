"""Any text for an option of the command: a value within the documented limits, or a usage error."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import click
from hypothesis import strategies as st

from softmax_ce_bench.terminal.options import DTYPES, Counts, Duration, Number, Several, Shapes, Weight

_PIECES = (
    "1", "0", "-1", "32", "x", "X", "×", ",", ".", " ", "\n", "s", "m", "min", "h", "e", "E", "+", "-", "_", "inf",
    "nan", "f32", "bf16", "float32", "drawn", "1e999", "1e-999", "9" * 400, "9" * 5000, "٣", "²", "\x00", "\ud800",
    "1_0", "0x10", "/", "~",
)  # fmt: skip


def cases() -> st.SearchStrategy[Any]:
    """Return the strategy for cases: the type of an option and a text."""
    typed = st.one_of(st.lists(st.sampled_from(_PIECES), max_size=6).map("".join), st.text(max_size=12))
    return st.fixed_dictionaries({"type": st.sampled_from(sorted(_TYPES)), "typed": typed})


def check(case: dict[str, Any]) -> None:
    """Check one text for one option."""
    kind, holds = _TYPES[case["type"]]
    try:
        found = kind.convert(case["typed"], None, None)
    except click.UsageError as error:
        assert error.message, "a usage error without a message"
        return
    assert holds(found), f"{case['typed']!r} is taken for {found!r}"
    assert isinstance(found, str) or kind.convert(found, None, None) == found, "a value is not taken as it is"


def _is_list(found: Any, allowed: Callable[[Any], bool]) -> bool:
    """Return whether a value is a tuple of allowed values without repetitions."""
    return isinstance(found, tuple) and len(found) == len(set(found)) > 0 and all(allowed(one) for one in found)


_DTYPES = ("float32", "float64", "float16", "bfloat16")
# Each type, and what must hold of a value that it takes.
_TYPES: dict[str, tuple[Any, Callable[[Any], bool]]] = {
    "names": (Several(), lambda found: _is_list(found, bool)),
    "some names": (Several("a", "1"), lambda found: _is_list(found, lambda one: one in ("a", "1"))),
    "dtypes": (DTYPES, lambda found: _is_list(found, lambda one: one in _DTYPES)),
    "shapes": (
        Shapes(),
        lambda found: _is_list(found, lambda one: len(one) == 2 and all(1 <= n <= 2**40 for n in one)),
    ),
    "counts": (Counts(), lambda found: _is_list(found, lambda one: isinstance(one, int) and one >= 1)),
    "duration": (Duration(), lambda found: isinstance(found, float) and 0 < found < 1e7),
    "number": (Number(0), lambda found: isinstance(found, float) and 0 <= found < math.inf),
    "share": (Number(0, 1), lambda found: isinstance(found, float) and 0 <= found <= 1),
    "weight": (Weight(), lambda found: found == "drawn"),
}
