"""The table of all properties."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

from tools.fuzz import anything, arrays, bad_calls, calls, losses, normalisers, options, overlaps, profiles, records


@dataclass(frozen=True, slots=True)
class Property:
    """A statement that must hold for every case.

    Attributes
    ----------
    name : str
    summary : str
        The description in the table.
    cases : strategy
        The strategy for cases, which are values that JSON can hold.
    check : callable
        Raises if the property does not hold for a case, or NotApplicable if it does not apply.
    share : float
        The share of the time relative to other properties.
    """

    name: str
    summary: str
    cases: st.SearchStrategy[Any]
    check: Callable[[Any], None]
    share: float = 1.0


ALL = (
    Property("losses", "valid calls: bounds, bits, memory", calls.cases(), losses.check, 4),
    Property("normalisers", "softmax and its logarithms, likewise", normalisers.cases(), normalisers.check, 1.5),
    Property("bad-calls", "one fault: its error, nothing written", bad_calls.cases(), bad_calls.check, 2),
    Property("overlaps", "shared memory: in place, or refused", overlaps.cases(), overlaps.check),
    Property("anything", "any object for any argument", anything.cases(), anything.check),
    Property("profiles", "damaged profiles, read and followed", profiles.cases(), profiles.check, 1.5),
    Property("records", "damaged records, read and shown", records.cases(), records.check, 1.5),
    Property("arrays", "damaged .npy files", arrays.cases(), arrays.check, 0.5),
    Property("options", "any text for the command's options", options.cases(), options.check, 0.5),
)


def named(name: str) -> Property:
    """Return a property by its name."""
    return next(one for one in ALL if one.name == name)
