"""A run of the gate in the terminal: the verdict in a sentence, then the cells with the control first."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from softmax_ce_bench.gate.decision import FALSE_ALARMS, MISSED, MOVED, NOTED, RULED_OUT, SLOWER, Exit, Verdict
from softmax_ce_bench.gate.result import CellResult, GateResult
from softmax_ce_bench.measure.stats import Ratio
from softmax_ce_bench.report import words
from softmax_ce_bench.report.tables import plain_table

_NAMED = 4  # cells in the sentence
LOOKS = {Verdict.SLOWER: "bold red", Verdict.UNSURE: "yellow", Verdict.ONCE: "yellow", Verdict.NOTED: "yellow",
         Verdict.FASTER: "green"}  # fmt: skip


def whole(result: GateResult) -> Group:
    """Return everything that is shown of a run."""
    look = {Exit.CLEAN: "bold green", Exit.SLOWER: "bold red"}.get(result.exit, "bold yellow")
    table = plain_table()
    table.add_column("cell", overflow="fold")
    for heading in ("base", "head / base", "rounds"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    if _counted(result):
        table.add_column("instructions\nhead / base", justify="right", no_wrap=True)
    for row, verdict in zip(rows(result), [None, *(each.verdict for each in result.cells)], strict=True):
        look_of_row = LOOKS.get(verdict, "") if verdict else "dim"
        table.add_row(*row[:4], Text(row[4], style=look_of_row), *row[5:])
    parts: list[RenderableType] = [Text(sentence(result), style=look), "", table]
    parts += [Text(f"  {note}.", style="yellow") for note in result.notes]
    return Group(*parts, "", *(Text(line, style="dim") for line in provenance(result)))


def sentence(result: GateResult) -> str:
    """Return the verdict in a sentence."""
    cells = result.cells
    if result.exit is Exit.SLOWER:
        slow = sorted((each for each in cells if each.verdict is Verdict.SLOWER), key=_ratio, reverse=True)
        named = words.listed([f"{each.cell.text} ({words.percent(_ratio(each) - 1)})" for each in slow[:_NAMED]])
        more = f" and {len(slow) - _NAMED} more" if len(slow) > _NAMED else ""
        return f"SLOWER: in {len(slow)} of {len(cells)} cells, in two measurements each: {named}{more}."
    if result.control.drift > MOVED:
        return (
            f"INCONCLUSIVE: the control, which is the same on both sides, differed from itself by "
            f"{result.control.drift:.1%}. Measure again when the machine is quiet."
        )
    unsure = [each for each in cells if each.verdict is Verdict.UNSURE]
    if unsure:
        named = words.listed([each.cell.text for each in unsure[:_NAMED]])
        more = f" and {len(unsure) - _NAMED} more" if len(unsure) > _NAMED else ""
        return (
            f"INCONCLUSIVE: when the time was up, a slowdown of {RULED_OUT - 1:.0%} could neither be shown nor ruled "
            f"out in {len(unsure)} of {len(cells)} cells: {named}{more}. A longer --time-budget goes on with them."
        )
    noted = [each for each in cells if each.verdict is Verdict.NOTED]
    aside = f" {len(noted)} slightly slower, by less: see below." if noted else ""
    return f"CLEAN: a slowdown of {RULED_OUT - 1:.0%} or more is ruled out in each of {len(cells)} cells.{aside}"


def rows(result: GateResult) -> list[tuple[str, ...]]:
    """Return the rows of the table, the control first.

    Each has the cell, base's time, ratio with interval, rounds, verdict, and instructions if counted.
    """
    drift = "moved" if result.control.drift > MOVED else "holds"
    first = ("control", "", _interval(result.control), str(result.control_rounds), drift, *("",) * _counted(result))
    return [first, *(_row(each) for each in result.cells)]


def _row(each: CellResult) -> tuple[str, ...]:
    rounds = f"{each.first.rounds}" + (f" + {each.second.rounds}" if each.second else "")
    time = words.duration(sorted(each.base)[len(each.base) // 2])
    counted = () if each.instructions is None else (f"{each.instructions[1] / each.instructions[0]:.4f}",)
    return each.cell.text, time, _interval(each.first.ratio), rounds, each.verdict, *counted


def _counted(result: GateResult) -> bool:
    return any(each.instructions is not None for each in result.cells)


def _interval(ratio: Ratio) -> str:
    return f"{ratio.median:.3f} ({ratio.low:.3f}-{ratio.high:.3f})"


def _ratio(each: CellResult) -> float:
    return each.first.ratio.median


def provenance(result: GateResult) -> Sequence[str]:
    """Return what was compared on which machine, and what the words mean, as paragraphs."""
    others = "" if result.others is None else f" Other programs used {result.others:.1f} CPUs meanwhile."
    return (
        f"base: {result.base} ({_short(result.base_commit)}); head: {result.head} ({_short(result.head_commit)}).",
        f"{words.machine_facts(result.machine, result.started[:10])} One thread. "
        f"Measured in {result.seconds:.0f} s.{others}",
        f"head / base: median over rounds of the paired ratio of times, with its 95% interval. {Verdict.SLOWER}: "
        f"above {SLOWER:.3g} in a sign test, and again in a second measurement ({Verdict.ONCE}: not again); "
        f"wrong in at most {FALSE_ALARMS:.0%} of runs. Any other: below {RULED_OUT:.3g} in such a test; wrong in at "
        f"most {MISSED:.0%} of cells. {Verdict.NOTED}, {Verdict.FASTER}: by {NOTED - 1:.0%} or more, reported only. "
        f"{Verdict.UNSURE}: neither was shown.",
    )


def _short(commit: str) -> str:
    """Return a commit in twelve characters, with the mark of a changed working tree, or a wheel's whole name."""
    return commit if commit.endswith(".whl") else commit[:12] + "+" * commit.endswith("+")
