"""Write a summary into docs/measurements/gate.md between two marks, and draw its pictures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from softmax_ce.choice.profile.files import write_text
from softmax_ce_bench.gate.decision import CLAIM
from softmax_ce_bench.report import templates
from tools.gate_credentials import plots
from tools.gate_credentials.arms import ALIKE, ALIKE_LOADED, ARMS, LEVELS, Arm
from tools.gate_credentials.store import DISTURBED
from tools.gate_credentials.summary import Power, Rate, Summary

BEGIN, END = "<!-- credentials: begin -->", "<!-- credentials: end -->"


class PageError(RuntimeError):
    """The page has no place for the figures."""


def publish(summary: Summary, about: dict[str, Any], date: str, broken: str, page: Path) -> None:
    """Write the figures and the pictures.

    Raises
    ------
    PageError
        The marks are missing.
    """
    text = page.read_text(encoding="utf-8")
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise PageError(f"{page}: {BEGIN} and {END} must occur once each")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    machine = (
        f"{about['cpu']}, {about['cpus']} CPUs; Python {about['python']}, "
        + ", ".join(f"{name} {version}" for name, version in about["packages"].items())
    )  # fmt: skip
    rounds = about["settings"]["rounds"]
    caption = f"{machine}, softmax-ce {about['commit'][:12]}; {rounds} rounds, one thread; {date}"
    plots.alike(summary, page.parent / "figures" / "gate_alike.svg", caption)
    plots.power(summary, page.parent / "figures" / "gate_power.svg", caption)
    write_text(page, before + section(summary, about, machine, date, broken) + after)


def section(summary: Summary, about: dict[str, Any], machine: str, date: str, broken: str) -> str:
    """Return the figures as Markdown, marks included."""
    by_backend: dict[str, list[Power]] = {}
    for each in summary.by_backend:
        by_backend.setdefault(each.what, []).append(each)
    (alike,) = (each for each in summary.outcomes if each.arm.name == (ALIKE_LOADED if summary.loaded else ALIKE))
    claimed = [rate for low, _, rate in summary.by_slowdown if low >= round(CLAIM - 1, 6)]
    return templates.load(Path(__file__).parent / "credentials.md.jinja").render(
        begin=BEGIN, end=END, summary=summary, alike=alike, date=date, machine=machine, commit=about["commit"][:12],
        claimed=Rate(sum(rate.count for rate in claimed), sum(rate.of for rate in claimed)),
        claim=f"{100 * (CLAIM - 1):.0f} %",
        planned=sum(arm.runs for arm in ARMS), runs=sum(outcome.slower.of for outcome in summary.outcomes),
        cells=summary.alike.size // alike.slower.of,
        seconds=alike.seconds, disturbed=DISTURBED, broken=broken, by_backend=by_backend,
        levels=[level for level in LEVELS if any(each.share == level for each in summary.by_level)],
        interval=_interval, percents=_percents, span=_span, names=_names,
    )  # fmt: skip


def _interval(rate: Rate) -> str:
    low, high = (100 * end for end in rate.interval)
    digits = 2 if high < 1 else 1
    return f"{low:.{digits}f}-{high:.{digits}f} %"


def _percents(ratios: Sequence[float]) -> str:
    return ", ".join(f"{100 * (ratio - 1):.1f} %" for ratio in ratios)


def _span(low: float, high: float) -> str:
    return f"{100 * low:.0f} % or more" if math.isinf(high) else f"{100 * low:.0f} to {100 * high:.0f} %"


def _names(arm: Arm) -> str:
    named = [f"{mutant.backend or 'all'}, {mutant.name}" for mutant in arm.mutants]
    return f": {'; '.join(named)}" if named else ""
