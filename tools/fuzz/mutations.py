"""Damage to a file: to the values of its JSON and to its bytes."""

from __future__ import annotations

import copy
import json
import random
from typing import Any

from hypothesis import strategies as st

_PLAIN_VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 0.5, -0.5, 1e-320, 1e308, 2**31, 2**53 + 1, 2**63, 10**30, "", "x", "numpy", "time",
    "\x1b[31m", "\x00", "\u202e", "[bold]", "[/]", "</script>", "a" * 300, [], {}, [[]], [None], {"": None}, [1, 2, 3],
)  # fmt: skip
# What no value of JSON's own comes out as.
_TOKENS = (
    "NaN", "Infinity", "-Infinity", "1e999", "-1e999", "1e-999", "-0", "-0.0", "1.0", "01", "+1", "0x1", "9" * 5000,
    '"\\ud800"', '"\\u0000"', '"\\', "[" * 40, "[" * 5000, '{"a":' * 40, "]", "}", ",", ":", "//", "null", "\ufeff",
)  # fmt: skip


def recipes() -> st.SearchStrategy[Any]:
    """Return the strategy for damage: some edits of values, then some of bytes."""
    position = st.integers(0, 99_999)
    leaf = st.one_of(st.sampled_from(_PLAIN_VALUES), st.integers(), st.floats(allow_nan=False), st.text(max_size=5))

    def nested(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
        return st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3))

    value = st.recursive(leaf, nested, max_leaves=4)
    edit = st.fixed_dictionaries(
        {"do": st.sampled_from(("set", "empty", "delete", "add", "repeat", "swap")), "at": position, "value": value}
    )
    damage = st.fixed_dictionaries(
        {
            "do": st.sampled_from(("cut", "flip", "drop", "repeat", "insert", "token")),
            "at": position,
            "length": st.integers(1, 60),
            "text": st.one_of(st.sampled_from(_TOKENS), st.text(max_size=5)),
        }
    )
    return st.fixed_dictionaries(
        {"values": st.lists(edit, max_size=3), "bytes": st.one_of(st.just([]), st.lists(damage, max_size=3))}
    )


def damaged(record: Any, recipe: dict[str, Any]) -> bytes:
    """Return the record as damaged JSON. The record itself is not changed."""
    own = json.loads(json.dumps(record))
    for edit in recipe["values"]:
        _edit(own, edit)
    return damaged_bytes(json.dumps(own, indent=1).encode(), recipe["bytes"])


def damaged_bytes(data: bytes, damages: list[dict[str, Any]]) -> bytes:
    """Return the bytes with some removed, flipped, repeated or inserted, or a token of JSON replaced."""
    for damage in damages:
        data = _damage(data, damage)
    return data


def _edit(record: Any, edit: dict[str, Any]) -> None:
    places = list(_places(record))
    if not places:
        return
    container, key = places[edit["at"] % len(places)]
    # A copy: a later edit may change it where it is put, or put it into itself.
    do, value = edit["do"], copy.deepcopy(edit["value"])
    if do == "set":
        container[key] = value
    elif do == "empty":  # a list or text without entries, no fields, or zero
        container[key] = type(container[key])() if container[key] is not None else []
    elif do == "delete":
        del container[key]
    elif do == "add" and isinstance(container, dict):
        container[value if isinstance(value, str) else str(key)[:3]] = value
    elif isinstance(container, list):
        container.insert(key, value if do == "add" else container[key])
    else:  # the value of another place
        other, own = random.Random(edit["at"]).choice(places)
        container[key] = json.loads(json.dumps(other[own]))


def _places(value: Any) -> Any:
    """Return every container with each of its keys, outermost first."""
    if isinstance(value, dict | list):
        keys = list(value) if isinstance(value, dict) else list(range(len(value)))
        for key in keys:
            yield value, key
        for key in keys:
            yield from _places(value[key])


def _damage(data: bytes, damage: dict[str, Any]) -> bytes:
    at, length = damage["at"] % (len(data) + 1), damage["length"]
    before, after = data[:at], data[at:]
    text = damage["text"].encode("utf-8", "surrogatepass")
    do = damage["do"]
    if do == "cut":
        return before
    if do == "flip":
        return before + bytes(byte ^ 1 << length % 8 for byte in after[:1]) + after[1:]
    if do == "drop":
        return before + after[length:]
    if do == "repeat":
        return before + after[:length] * 2 + after[length:]
    if do == "insert":
        return before + text + after
    start, stop = _token(data, at)
    return data[:start] + text + data[stop:]


def _token(data: bytes, at: int) -> tuple[int, int]:
    """Return the beginning and the end of the number, word or string around a position."""
    ends = b" \n,:[]{}"
    start = stop = at
    while start > 0 and data[start - 1] not in ends:
        start -= 1
    while stop < len(data) and data[stop] not in ends:
        stop += 1
    return start, stop
