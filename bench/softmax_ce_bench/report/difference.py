"""Two runs on one machine side by side: what has become slower or faster, cell by cell.

Times of different sessions are not paired, and an absolute time means little from one session to the next. So each
candidate is first divided by the control that ran in the same rounds; what is compared are these ratios.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from rich.console import Group
from rich.text import Text

from softmax_ce_bench.compare.result import ComparedCell, Entry, Run
from softmax_ce_bench.measure.machine import Machine
from softmax_ce_bench.measure.stats import CONFIDENCE, FEWEST_ROUNDS, Ratio
from softmax_ce_bench.report import words
from softmax_ce_bench.report.tables import plain_table

THRESHOLD = 0.07  # a smaller change is not called one: two sessions of one build differ by some per cent
# What makes two machines the same, as for a profile. Versions may differ, for they may be what is compared; so may the
# system's release, and how many of the CPUs a run could use, which decides which of its cells are compared.
HARDWARE = ("cpu", "instruction_sets", "cpus_installed", "os")
SOFTWARE = ("cpus_available", "thread_variables", "os", "softmax_ce", "commit", "python")
# What platform.machine() may say; platform.platform() has it behind the system's release.
_ARCHITECTURES = ("x86_64", "amd64", "i686", "x86", "aarch64", "arm64", "armv7l", "ppc64le", "s390x", "riscv64")
SLOWER, FASTER, SAME, UNSURE = "slower", "faster", "same", "too few rounds"


class DifferenceError(ValueError):
    """Two runs cannot be compared. The message says why."""


@dataclass(frozen=True, slots=True)
class Change:
    """The change of one candidate and operation in one cell.

    Attributes
    ----------
    cell, name, operation : str
    before, after : float
        Median seconds a call.
    ratio : Ratio
        The ratio of after to before, each over its own control. Above 1 is slower.
    verdict : str
        `SLOWER`, `FASTER`, `SAME` or `UNSURE`.
    """

    cell: str
    name: str
    operation: str
    before: float
    after: float
    ratio: Ratio
    verdict: str


@dataclass(frozen=True, slots=True)
class RunDifference:
    """The differences between two runs.

    Attributes
    ----------
    changes : tuple of Change
    only_before, only_after : tuple of str
        Cells that one of them has; and candidates, with the cell, that are timed in one of them.
    other_cpus : tuple of str
        Cells of both that are not compared: their number of threads follows, or exceeds, CPUs that only one run could
        use.
    versions : tuple of str
        The differences in software, in words.
    contaminated : tuple of str
        Which runs are.
    """

    changes: tuple[Change, ...]
    only_before: tuple[str, ...]
    only_after: tuple[str, ...]
    other_cpus: tuple[str, ...]
    versions: tuple[str, ...]
    contaminated: tuple[str, ...]

    @property
    def slower(self) -> tuple[Change, ...]:
        """Return the changes that are slowdowns."""
        return tuple(change for change in self.changes if change.verdict == SLOWER)


def compare(before: Run, after: Run, *, force: bool = False, threshold: float = THRESHOLD) -> RunDifference:
    """Compare two runs.

    Parameters
    ----------
    before, after : Run
    force : bool
        Also where the machines differ.
    threshold : float
        A change of at least this fraction, whose interval leaves out 1, is called one.

    Returns
    -------
    RunDifference

    Raises
    ------
    DifferenceError
        The machines or the ways of measuring differ, or the runs have no cell in common.
    """
    differing = _differing(_hardware(before.machine), _hardware(after.machine), HARDWARE)
    if differing and not force:
        raise DifferenceError(
            f"they are from different machines, whose times cannot be compared: {'; '.join(differing)}. "
            "--force compares them anyway"
        )
    if before.settings.results != after.settings.results:
        raise DifferenceError(
            f"backends wrote into {before.settings.results} in one and {after.settings.results} in the other"
        )
    olds, news = {cell.key: cell for cell in before.cells}, {cell.key: cell for cell in after.cells}
    both = [key for key in olds if key in news]
    common = [key for key in both if _has_its_cpus(olds[key], before.machine, after.machine)]
    if both and not common:
        counts = f"{before.machine.cpus_available} and {after.machine.cpus_available}"
        raise DifferenceError(
            f"they could use {counts} CPUs, and no common cell has a number of threads that both could run: "
            "fix it with --threads"
        )
    changes = [change for key in common for change in _changes(olds[key], news[key], threshold)]
    if not changes:
        raise DifferenceError("no candidate was timed in the same cell of both")
    timed_before, timed_after = _timed(before), _timed(after)
    return RunDifference(
        tuple(changes),
        tuple(name for name in timed_before if name not in timed_after),
        tuple(name for name in timed_after if name not in timed_before),
        tuple(key for key in both if key not in common),
        tuple(
            dict.fromkeys(
                (
                    *differing,
                    *_differing(before.machine, after.machine, SOFTWARE),
                    *_packages(before.machine, after.machine),
                )
            )
        ),
        tuple(name for name, run in (("the first", before), ("the second", after)) if run.contaminated),
    )


def unpaired_ratio(
    above: tuple[np.ndarray, np.ndarray], below: tuple[np.ndarray, np.ndarray], *, seed: int = 0, resamples: int = 4000
) -> Ratio:
    """Return the ratio of the medians of two sessions, each time over its control, with a bootstrap interval.

    Parameters
    ----------
    above, below : tuple of two ndarray, shape (rounds,)
        Times, and the control's in the same rounds. The two sessions may have different numbers of rounds.
    seed : int
    resamples : int

    Returns
    -------
    Ratio
    """
    logs = [np.log(times) - np.log(control) for times, control in (above, below)]
    median = float(np.exp(np.median(logs[0]) - np.median(logs[1])))
    if min(len(each) for each in logs) < FEWEST_ROUNDS:
        return Ratio(median, 0.0, np.inf)
    rng = np.random.default_rng(seed)
    drawn = [np.median(each[rng.integers(0, len(each), (resamples, len(each)))], axis=1) for each in logs]
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(drawn[0] - drawn[1], [tail, 1 - tail])
    return Ratio(median, float(np.exp(low)), float(np.exp(high)))


def _hardware(machine: Machine) -> Machine:
    """Return the machine without what may change on it: the releases of the system and its C library."""
    system, *rest = machine.os.split("-")
    architectures = [part for part in rest if part.lower() in _ARCHITECTURES]
    return replace(machine, os=" ".join((system, *architectures[-1:])))


def _has_its_cpus(cell: ComparedCell, *machines: Machine) -> bool:
    """Return whether a cell means the same in both runs, because both had as many CPUs as its threads need."""
    counts = {machine.cpus_available for machine in machines}
    return len(counts) == 1 or (cell.threads is not None and cell.threads <= min(counts))


def _changes(before: ComparedCell, after: ComparedCell, threshold: float) -> Iterator[Change]:
    olds = {entry.name: entry for entry in before.entries}
    for entry in after.entries:
        if entry.name not in olds:
            continue
        for operation, timing in entry.timings.items():
            old = olds[entry.name].timings.get(operation)
            if old is None:
                continue
            ratio = unpaired_ratio(
                (np.array(timing.seconds), _control(after)), (np.array(old.seconds), _control(before))
            )
            yield Change(
                after.key, entry.name, operation, old.time.median, timing.time.median, ratio, _verdict(ratio, threshold)
            )


def _control(cell: ComparedCell) -> np.ndarray:
    """Return the control of each round: the geometric mean of its two samples."""
    product: np.ndarray = np.sqrt(np.array(cell.control.first) * np.array(cell.control.second))
    return product


def _verdict(ratio: Ratio, threshold: float) -> str:
    if ratio.low == 0:
        return UNSURE
    if ratio.low > 1 and ratio.median >= 1 + threshold:
        return SLOWER
    if ratio.high < 1 and ratio.median <= 1 / (1 + threshold):
        return FASTER
    return SAME


def _differing(before: Machine, after: Machine, fields: tuple[str, ...]) -> list[str]:
    found = []
    for name in fields:
        old, new = getattr(before, name), getattr(after, name)
        if old != new:
            found.append(f"{name.replace('_', ' ')}: {_text(old)} and {_text(new)}")
    return found


def _packages(before: Machine, after: Machine) -> list[str]:
    names = dict.fromkeys((*before.packages, *after.packages))
    pairs = {name: (before.packages.get(name), after.packages.get(name)) for name in names}
    return [f"{name}: {_text(old)} and {_text(new)}" for name, (old, new) in pairs.items() if old != new]


def _text(value: object) -> str:
    if isinstance(value, tuple):
        return " ".join(map(str, value)) or "none"
    if isinstance(value, dict):
        return " ".join(f"{key}={item}" for key, item in value.items()) or "none"
    return "none" if value is None else str(value)


def _timed(run: Run) -> list[str]:
    return [_name(cell, entry) for cell in run.cells for entry in cell.entries if entry.timings]


def _name(cell: ComparedCell, entry: Entry) -> str:
    return f"{entry.name} on {cell.key}"


def table(difference: RunDifference, threshold: float = THRESHOLD) -> Group:
    """Return a table of the changes and the findings."""
    shown = plain_table()
    for heading in ("cell", "", "operation"):
        shown.add_column(heading, overflow="fold")
    for heading in ("before", "after", "after / before"):
        shown.add_column(heading, justify="right")
    shown.add_column("")
    styles = {SLOWER: "bold red", FASTER: "green", UNSURE: "yellow"}
    last = ""
    for change in difference.changes:
        cell = "" if change.cell == last else change.cell
        ratio = f"{words.times(change.ratio.median)} {words.interval(change.ratio)}"
        verdict = Text("" if change.verdict == SAME else change.verdict, style=styles.get(change.verdict, ""))
        before, after = words.duration(change.before), words.duration(change.after)
        shown.add_row(Text(cell), Text(change.name), change.operation, before, after, ratio, verdict)
        last = change.cell
    lines = [Text(), Text(finding(difference, threshold), style="bold")]
    for what, names in (("first", difference.only_before), ("second", difference.only_after)):
        if names:
            lines.append(Text(f"Timed in the {what} alone: {', '.join(names)}."))
    if difference.other_cpus:
        said = ", ".join(difference.other_cpus)
        lines.append(Text(f"Not compared, since the two runs could use different numbers of CPUs: {said}."))
    if difference.versions:
        lines.append(Text(f"Differences (first and second): {'; '.join(difference.versions)}."))
    if difference.contaminated:
        which = words.listed(difference.contaminated)
        lines.append(Text(f"INCONCLUSIVE: {which} is contaminated; run again when the machine is quiet.", "bold red"))
    caption = (
        f"after / before: each over the control of its own session, with its {CONFIDENCE:.0%} bootstrap interval. "
        f"slower, faster: the interval leaves out 1, and the change is {threshold:.0%} or more; sessions of one build "
        "differ by a few per cent."
    )
    return Group("", shown, *lines, Text(caption, style="dim"))


def finding(difference: RunDifference, threshold: float = THRESHOLD) -> str:
    """Return in one sentence what has changed."""
    count = {verdict: sum(change.verdict == verdict for change in difference.changes) for verdict in (SLOWER, FASTER)}
    if not any(count.values()):
        return f"None of the {len(difference.changes)} timings has changed by {threshold:.0%} or more."
    return f"Of {len(difference.changes)} timings {count[SLOWER]} are slower and {count[FASTER]} faster."
