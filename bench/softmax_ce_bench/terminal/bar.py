"""The progress bar. It is drawn only on request, since a thread that draws would disturb what is being timed."""

from __future__ import annotations

import math
import time

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from softmax_ce_bench import compare
from softmax_ce_bench.report.printable import printable

REDRAW_SECONDS = 0.2
_IN_MINUTES = 600.0  # seconds left, from which on they are shown in minutes


def progress(shown_on: Console) -> Progress:
    """Return the display of progress bars. It draws nothing in a pipe. The field `left` says how long a bar takes."""
    return Progress(
        BarColumn(20),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]}"),
        TextColumn("{task.description}", markup=False),
        console=shown_on,
        transient=True,
        auto_refresh=False,
        disable=not shown_on.is_terminal,
    )


class Bar:
    """A bar that is drawn at each new stage, and otherwise not too often.

    Parameters
    ----------
    shown : Progress
        The display that contains the bar.
    """

    def __init__(self, shown: Progress) -> None:
        self._shown = shown
        self._task = shown.add_task("", total=1.0, left="")
        self._stage: str | None = None
        self._drawn = -math.inf

    def draw(self, text: str, done: float, left: float = math.nan, *, stage: str | None = None) -> None:
        """Draw the progress.

        Parameters
        ----------
        text : str
            The current step.
        done : float
            The fraction that is done.
        left : float
            Seconds left; not finite where that is not known.
        stage : str, optional
            The value whose change draws the bar at once, instead of `text`.
        """
        stage = text if stage is None else stage
        now = time.monotonic()
        if stage != self._stage or now - self._drawn > REDRAW_SECONDS:
            self._shown.update(self._task, description=printable(text), completed=done, left=_ends(left), refresh=True)
            self._stage, self._drawn = stage, now


def _ends(left: float) -> str:
    if not math.isfinite(left):
        return ""
    return f"{left:.0f} s left," if left < _IN_MINUTES else f"{left / 60:.0f} min left,"


class BarListener(compare.Listener):
    """Draws the stages of a run.

    Parameters
    ----------
    bar : Bar
    """

    def __init__(self, bar: Bar) -> None:
        self._bar = bar

    def stage(self, text: str, done: float, left: float) -> None:
        """Draw the bar."""
        self._bar.draw(text, done, left)
