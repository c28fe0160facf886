"""The table of ``softmax-ce compare --torch``."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group
from rich.markup import escape
from rich.text import Text

from softmax_ce_bench.compare.training_step import AFTER, BEFORE, TrainingStep
from softmax_ce_bench.measure import timing
from softmax_ce_bench.report import words
from softmax_ce_bench.report.tables import plain_table

_TITLE = "A training step in PyTorch: loss and backward, what they allocate included"


def table(steps: Sequence[TrainingStep]) -> Group:
    """Return the times of each step with either function, their ratio, and what is wrong."""
    made = plain_table()
    made.add_column("workload", style="bold")
    for heading in ("threads", BEFORE, "softmax_ce.torch", "speed-up", "rounds"):
        made.add_column(heading, justify="right")
    notes = []
    for step in steps:
        speedup = f"{words.times(step.speedup.median)} {words.interval(step.speedup)}"
        made.add_row(
            escape(step.text),
            str(step.threads),
            words.duration(step.before.median),
            words.duration(step.after.median),
            "wrong" if step.complaint else speedup,
            str(step.rounds),
        )
        if step.complaint:
            notes.append(Text(f"  {step.text}: {step.complaint}", style="yellow"))
        if step.drift > timing.CONTAMINATED:
            drift = words.percent(step.drift)
            notes.append(Text(f"  {step.text}: the control differs from itself by {drift}", style="yellow"))
    caption = (
        f"  speed-up of {AFTER}: median of the paired ratios with its 95% bootstrap interval. It leaves small calls to "
        "PyTorch's own function."
    )
    return Group("", Text(_TITLE, style="bold"), made, *notes, Text(caption, style="dim"))
