"""Read environment variables. An empty one counts as unset; case and surrounding blanks do not matter.

If a tuning variable has an impossible value, there is one warning and the default is used: it must not stop a program.
"""

from __future__ import annotations

import os
import re
import warnings

_WHOLE = re.compile(r"\+?[0-9]+")
_MOST = 1 << 58  # larger numbers are reduced to this: no size is larger, and 16 times this fits into 64 bits
_complained: set[tuple[str, str]] = set()


def word(name: str) -> str:
    """Return the value of a variable in lower case, or an empty string if it is unset."""
    return os.environ.get(name, "").strip().lower()


def whole_number(name: str, text: str, otherwise: str) -> int | None:
    """Return the whole number, at least 0, in the value of a variable.

    Parameters
    ----------
    name, text : str
        The variable, and its value or a part of it.
    otherwise : str
        What happens if that is not a whole number. It ends the warning.

    Returns
    -------
    int or None
        None if the text is empty, and, with one warning for each text, if it is not a whole number.
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
