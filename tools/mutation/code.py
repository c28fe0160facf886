"""Source text without its comments and layout, so that the tables name code alone.

A source is cut into tokens: words, strings, and single characters of any other kind. Two texts are the same code if
their tokens are equal. This is coarser than the rules of each language, but the same for the tables and the sources.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import PurePath

_STRING = r'"""(?:\\.|[^\\])*?"""|"(?:\\.|[^"\\\n])*"|' + r"'''(?:\\.|[^\\])*?'''|'(?:\\.|[^'\\\n])*'"
_REST = r"|\s+|\\\n|(?P<token>\w+|.)"
_C = re.compile(rf"(?P<comment>/\*.*?\*/|//[^\n]*)|(?P<string>{_STRING}){_REST}", re.DOTALL)
_PYTHON = re.compile(rf"(?P<comment>#[^\n]*)|(?P<string>{_STRING}){_REST}", re.DOTALL)
_C_SUFFIXES = (".c", ".h")


def _pattern(file: str) -> re.Pattern[str]:
    return _C if PurePath(file).suffix in _C_SUFFIXES else _PYTHON


def _matches(text: str, file: str) -> list[re.Match[str]]:
    return [match for match in _pattern(file).finditer(text) if match["token"] or match["string"]]


@lru_cache(maxsize=1 << 16)
def tokens(text: str, file: str) -> tuple[str, ...]:
    """Return the tokens of a text. The file's suffix tells the language: C, or else Python or Cython."""
    return tuple(match[0] for match in _matches(text, file))


def without_comments(text: str, file: str, instead: str = "") -> str:
    """Return the text with each comment replaced."""
    return _pattern(file).sub(lambda match: instead if match["comment"] else match[0], text)


def places(text: str, source: str, file: str) -> list[tuple[int, int]]:
    """Return where a source has the code of `text`: the beginning and the end of each occurrence."""
    wanted = tokens(text, file)
    found = _matches(source, file)
    return [
        (found[first].start(), found[first + len(wanted) - 1].end())
        for first in _starts(wanted, [match[0] for match in found])
    ]


def _starts(wanted: Sequence[str], given: Sequence[str]) -> list[int]:
    """Return the indices at which a sequence has `wanted` as a part."""
    wanted, last = list(wanted), len(given) - len(wanted)
    return [k for k in range(last + 1) if given[k] == wanted[0] and list(given[k : k + len(wanted)]) == wanted]
