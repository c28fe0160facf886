"""The reviewed list of mutants that no test can notice, ``equivalent.toml``."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tools.mutation.code import tokens
from tools.mutation.operators import Mutant


@dataclass(frozen=True, slots=True)
class Equivalent:
    """Mutants of one line that make no difference to a caller.

    Attributes
    ----------
    file : str
        As in :class:`mutation.operators.Mutant`.
    text : str
        The line's code. Comments and layout do not count. If several lines of the file have this code, all are meant.
    changes : tuple of str
        As in Mutant.change. One that ends with " -> *" takes every replacement of that text.
    reason : str
    """

    file: str
    text: str
    changes: tuple[str, ...]
    reason: str

    def covers(self, mutant: Mutant, change: str) -> bool:
        """Return whether a listed change is that of the mutant."""
        if mutant.file != self.file or tokens(mutant.text, self.file) != tokens(self.text, self.file):
            return False
        return mutant.change == change or (change.endswith(" -> *") and mutant.change.startswith(change[:-1]))


def read() -> list[Equivalent]:
    """Return the list."""
    entries = tomllib.loads(Path(__file__).with_name("equivalent.toml").read_text(encoding="utf-8"))["equivalent"]
    return [Equivalent(**{**entry, "changes": tuple(entry["changes"])}) for entry in entries]


def split(mutants: Iterable[Mutant], listed: Iterable[Equivalent]) -> tuple[list[Mutant], list[Mutant]]:
    """Return the mutants that tests should notice, and the equivalent ones.

    Raises
    ------
    ValueError
        Entries of the list fit no mutant: the source has changed, and they must be looked at again.
    """
    pairs = [(entry, change) for entry in listed for change in entry.changes]
    used: set[tuple[str, str, str]] = set()
    real: list[Mutant] = []
    equivalent: list[Mutant] = []
    for mutant in mutants:
        fitting = [(entry, change) for entry, change in pairs if entry.covers(mutant, change)]
        used.update((entry.file, entry.text, change) for entry, change in fitting)
        (equivalent if fitting else real).append(mutant)
    misfits = [
        f"{entry.file} has no mutant {change!r} of the line {entry.text!r}"
        for entry, change in pairs
        if (entry.file, entry.text, change) not in used
    ]
    if misfits:
        raise ValueError("equivalent.toml: " + "\n".join(misfits))
    return real, equivalent
