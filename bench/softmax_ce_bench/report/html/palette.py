"""Colours that follow the light or dark mode of the page, and one mark per candidate in all pictures.

Matplotlib knows no CSS variables. So a picture is drawn in stand-in colours, each of which occurs nowhere else, and
:func:`in_css` puts the variable in their places; page.css gives the variables their two values.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from softmax_ce_bench.compare.result import PEER, Run

# Dark enough on white, and light enough on black, for lines (3 to 1); told apart in the common kinds of colour
# blindness, where markers help: after Okabe and Ito. The base has the first, a grey.
SERIES = 9
BINS = 5
_NAMES = (
    "ink", "muted", "grid", "band", "warn", *(f"series-{k}" for k in range(SERIES)),
    *(f"bin-{k}" for k in range(BINS)), *(f"on-bin-{k}" for k in range(BINS)),
)  # fmt: skip
_STAND_IN = re.compile(r"#fe00([0-9a-f]{2})")

_MARKERS = ("o", "X", "s", "D", "^", "v", "P", "<", ">", "p", "h")


def colour(name: str) -> str:
    """Return a placeholder for a CSS variable that Matplotlib accepts as a colour."""
    return f"#fe00{_NAMES.index(name):02x}"


def in_css(text: str) -> str:
    """Return text with each placeholder replaced by its variable."""
    return _STAND_IN.sub(lambda found: f"var(--{_NAMES[int(found[1], 16)]})", text)


@dataclass(frozen=True, slots=True)
class Mark:
    """The way in which a candidate is drawn.

    Attributes
    ----------
    label : str
        Its name, cut where it is very long.
    colour, marker, line : str
        As Matplotlib takes them.
    filled : bool
        A backend's marker is filled, a peer's is hollow.
    """

    label: str
    colour: str
    marker: str
    line: str
    filled: bool

    @property
    def face(self) -> str:
        """Return the fill colour of the marker."""
        return self.colour if self.filled else "none"


def marks(run: Run) -> dict[str, Mark]:
    """Return a mark for each candidate, the same in every picture of a run."""
    found = {}
    for k, candidate in enumerate(run.candidates):
        is_peer = candidate.kind == PEER
        found[candidate.name] = Mark(
            short(candidate.name), colour(f"series-{k % SERIES}"), _MARKERS[k % len(_MARKERS)],
            "--" if is_peer else "-", not is_peer,
        )  # fmt: skip
    return found


def short(name: str, most: int = 24) -> str:
    """Return a shortened name that leaves room for the picture."""
    return name if len(name) <= most else f"{name[: most - 1]}…"
