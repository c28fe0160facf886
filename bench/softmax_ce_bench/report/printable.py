"""Text that is safe to show in a terminal or on a page. File names and records may hold any character; a terminal obeys
some of them, and others are invisible.
"""

from __future__ import annotations

import dataclasses
from typing import Any, TypeVar

T = TypeVar("T")

_BYTES = range(0xDC80, 0xDD00)  # what stands for a byte that is not UTF-8


def printable(value: T) -> T:
    """Return a value with every string in it escaped: in dataclasses, tuples, lists and dicts, at any depth.

    Parameters
    ----------
    value : any

    Returns
    -------
    any
        A value of the same type. Each character that cannot be printed is an escape sequence as in Python: ``\\x1b``,
        ``\\n``, ``\\u202e``. A byte of a name that is not UTF-8 is ``\\xff``.

    Examples
    --------
    >>> print(printable("a\\tb\\u00a0c"), printable("plain µ"))
    a\\tb\\xa0c plain µ
    """
    escaped: Any = _escaped(value)
    return escaped


def text(value: str) -> str:
    """Return a string with its unprintable characters escaped, except line ends."""
    return "\n".join(printable(line) for line in value.split("\n"))


def _escaped(value: Any) -> Any:
    if type(value) is str:  # a member of an enumeration is not
        return value if value.isprintable() else "".join(map(_character, value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        changed = {}
        for field in dataclasses.fields(value):
            old = getattr(value, field.name)
            new = _escaped(old)
            if new is not old:
                changed[field.name] = new
        return dataclasses.replace(value, **changed) if changed else value
    if type(value) in (tuple, list):
        items = [_escaped(item) for item in value]
        return value if all(map(_is, items, value)) else type(value)(items)
    if type(value) is dict:
        return {_escaped(key): _escaped(item) for key, item in value.items()}
    return value


def _is(one: object, other: object) -> bool:
    return one is other


def _character(character: str) -> str:
    if character.isprintable():
        return character
    if ord(character) in _BYTES:
        return f"\\x{ord(character) - 0xDC00:02x}"
    return ascii(character)[1:-1]
