"""Environment variables: how they are read. Empty counts as unset, and case and surrounding blanks do not matter.

A variable for tuning that says what cannot be is one warning, and the default stands; it must not stop a program.
"""

from __future__ import annotations

import os
import re
import warnings

_WHOLE = re.compile(r"\+?[0-9]+")
_MOST = 1 << 58  # a larger number is taken for this one: no size is larger, and 16 times it fits into 64 bits
_complained: set[tuple[str, str]] = set()


def word(name: str) -> str:
    """What a variable says, in lower case; empty where it is unset."""
    return os.environ.get(name, "").strip().lower()


def whole_number(name: str, text: str, otherwise: str) -> int | None:
    """A number that a variable gives, at least 0.

    Parameters
    ----------
    name, text : str
        The variable, and what it says, or a part of that.
    otherwise : str
        What happens where that is no number, for the warning.

    Returns
    -------
    int or None
        None where nothing is said; with a warning, once for each text, where it is no such number.
    """
    text = text.strip()
    if not text:
        return None
    if _WHOLE.fullmatch(text):
        return int(text) if len(text) < 18 else _MOST
    if (name, text) not in _complained:
        _complained.add((name, text))  # before the warning, which a filter may turn into an error
        warnings.warn(f"{name}={text[:80]!r} is not a whole number; {otherwise}", RuntimeWarning, 3)
    return None
