"""Validate profiles against their JSON schema, the one description of the format for all programs.

softmax_ce depends only on NumPy, so this validator knows only the keywords that ``profile.schema.json`` uses. A test
compares its verdicts with those of jsonschema. One difference is deliberate: here, 1.0 is not an integer.
"""

from __future__ import annotations

import json
import math
import reprlib
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from softmax_ce.choice.profile.errors import ProfileError

Check = Callable[[Any], None]

_TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "boolean": (bool,),
    "integer": (int,),
    "number": (int, float),
    "null": (type(None),),
}


@cache
def schema() -> dict[str, Any]:
    """Return the schema, which is read once."""
    loaded: dict[str, Any] = json.loads(Path(__file__).with_name("profile.schema.json").read_text(encoding="utf-8"))
    return loaded


def validate(value: Any) -> None:
    """Check a whole profile, as plain values, against the schema.

    Raises
    ------
    ProfileError
        The message says where the error is, what was found and what would be right.
    """
    # A file of another kind or version is reported as such, before any other difference in it.
    for key in ("schema", "version"):
        right = schema()["properties"][key]["const"]
        if isinstance(value, dict) and key in value and not _same(value[key], right):
            raise ProfileError(f"its {key} is {_short(value[key])}; this release reads {right!r}")
    try:
        _whole()(value)
    except _Wrong as error:
        raise ProfileError(str(error)) from None


class _Wrong(Exception):
    """A violation of the schema. Its place is added as the exception passes up."""

    def __init__(self, what: str) -> None:
        self.what = what
        self.where = ""

    def __str__(self) -> str:
        return f"{self.where.removeprefix('.') or 'the whole'} {self.what}"


@cache
def _whole() -> Check:
    return _compile(schema())


def _compile(rule: dict[str, Any]) -> Check:
    """Compile a rule into a function, for speed: a profile has tens of thousands of values."""
    if "$ref" in rule:
        rule = schema()["$defs"][rule["$ref"].rpartition("/")[2]]
    if "const" in rule or "enum" in rule:
        return _one_of(rule.get("enum", [rule.get("const")]))
    names = [rule["type"]] if isinstance(rule["type"], str) else rule["type"]
    by_type: dict[type, Check] = {}
    for name in names:
        check = {"object": _object, "array": _array, "string": _string}.get(name, _number)(rule)
        by_type |= {kind: check for kind in _TYPES[name]}

    def one(value: Any) -> None:
        # By the exact type: JSON has no others, and a bool, though an int in Python, is not a number.
        check = by_type.get(type(value))
        if check is None:
            raise _Wrong(f"is {_short(value)}; must be of type {' or '.join(names)}")
        check(value)

    return one


def _one_of(allowed: list[Any]) -> Check:
    def check(value: Any) -> None:
        if not any(_same(value, one) for one in allowed):
            raise _Wrong(f"is {_short(value)}; must be {' or '.join(map(repr, allowed))}")

    return check


def _number(rule: dict[str, Any]) -> Check:
    largest = sys.float_info.max  # JSON's 1e999 is read as infinity
    least, most = rule.get("minimum", -largest), rule.get("maximum", largest)
    above = rule.get("exclusiveMinimum", -math.inf)

    def check(value: Any) -> None:
        if value is None or (least <= value <= most and value > above):
            return
        bounds = f"above {above}" if "exclusiveMinimum" in rule else f"at least {least}"
        raise _Wrong(f"is {_short(value)}; must be {bounds} and at most {most}")

    return check


def _string(rule: dict[str, Any]) -> Check:
    least, most = rule.get("minLength", 0), rule.get("maxLength", math.inf)

    def check(value: str) -> None:
        _check_size(len(value), least, most, "characters")

    return check


def _array(rule: dict[str, Any]) -> Check:
    item_check = _compile(rule["items"])
    least, most = rule.get("minItems", 0), rule.get("maxItems", math.inf)

    def check(value: list[Any]) -> None:
        _check_size(len(value), least, most, "entries")
        for index, item in enumerate(value):
            try:
                item_check(item)
            except _Wrong as error:
                error.where = f"[{index}]{error.where}"
                raise

    return check


def _object(rule: dict[str, Any]) -> Check:
    known = {key: _compile(own) for key, own in rule.get("properties", {}).items()}
    required, most = rule.get("required", []), rule.get("maxProperties", math.inf)
    other = rule["additionalProperties"]
    other_check = None if other is False else _compile(other)

    def check(value: dict[str, Any]) -> None:
        _check_size(len(value), 0, most, "fields")
        for key in required:
            if key not in value:
                raise _Wrong(f"lacks {key!r}")
        for key, item in value.items():
            item_check = known.get(key, other_check)
            if item_check is None:
                raise _Wrong(f"has an unknown field {_short(key)}")
            try:
                item_check(item)
            except _Wrong as error:
                error.where = (f".{key}" if key in known else f"[{_short(key)}]") + error.where
                raise

    return check


def _check_size(size: int, least: float, most: float, unit: str) -> None:
    if not least <= size <= most:
        bound = f"at least {least}" if size < least else f"at most {most}"
        raise _Wrong(f"has {size} {unit}; must have {bound}")


def _same(value: Any, constant: Any) -> bool:
    """Return whether two values are equal in JSON, where true is not 1."""
    return type(value) is type(constant) and bool(value == constant)


def _short(value: Any) -> str:
    return reprlib.repr(value)
