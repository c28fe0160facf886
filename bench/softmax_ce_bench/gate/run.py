"""The gate from two sources to a verdict: build, check, measure, go on with cells that are not clear, conclude."""

from __future__ import annotations

import math
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from softmax_ce_bench.gate import builds, cells, decision, instructions
from softmax_ce_bench.gate.cells import CONTROL, GateCell
from softmax_ce_bench.gate.check import Reference, backends, operations_of
from softmax_ce_bench.gate.decision import Found, Look, Verdict
from softmax_ce_bench.gate.request import GateRequest
from softmax_ce_bench.gate.result import CellResult, GateResult
from softmax_ce_bench.gate.session import Build, BuildError, BuildTimer
from softmax_ce_bench.measure import load, machine
from softmax_ce_bench.measure.stats import paired_ratio

Tell = Callable[[str, float, float], None]  # what is being done, the fraction done, seconds left (nan: not known)


def run(request: GateRequest, tell: Tell) -> GateResult:
    """Build both sources, then :func:`compare` them.

    Raises
    ------
    BuildError
        One of them does not build, import or run, or head computes something wrong, or nothing can be compared.
    """
    with tempfile.TemporaryDirectory(prefix="softmax-ce-gate-", ignore_cleanup_errors=True) as name:
        # Both names have four letters: so long are the paths of everything that the two processes load.
        pair = Build("base", Path(name) / "base"), Build("head", Path(name) / "head")
        tell(f"building {request.base.text} and {request.head.text}", 0.0, math.nan)
        builds.make([(request.base, pair[0].site), (request.head, pair[1].site)])
        return compare(request, pair, Path(name), tell)


def compare(request: GateRequest, pair: tuple[Build, Build], folder: Path, tell: Tell) -> GateResult:
    """Check and measure two installed builds. The workloads are saved in a folder."""
    tell("checking what both compute", 0.0, math.nan)
    session, todo, notes = _checked(request, pair, folder)
    started, begin, before = datetime.now(UTC), time.monotonic(), _load()
    measuring = _Measuring(session, request, len(todo), tell)
    measuring.run(todo)
    if not measuring.control[0]:
        raise BuildError("nothing was measured within the time; a longer --time-budget gives more")
    cells = tuple(_measured(cell, *measuring.of[cell]) for cell in todo)
    seconds, others = time.monotonic() - begin, load.cpus_of_others(before, _load())
    if request.instructions:
        tell("counting instructions", 0.0, math.nan)
        counts = instructions.count(pair, todo, folder)
        cells = tuple(replace(each, instructions=counts[each.cell]) for each in cells)
    control = paired_ratio(measuring.control[1], measuring.control[0])
    return GateResult(
        base=request.base.text, head=request.head.text,
        base_commit=request.base.commit, head_commit=request.head.commit,
        started=started.isoformat(timespec="seconds"), seconds=seconds,
        control=control, control_rounds=len(measuring.control[0]), cells=cells, notes=tuple(notes),
        exit=decision.conclusion([measured.verdict for measured in cells], control),
        out_of_time=Verdict.UNSURE in [measured.verdict for measured in cells],
        others=others, machine=machine.collect(), command=request.command,
    )  # fmt: skip


def _load() -> load.Reading | None:
    """Return a reading of the load. The measured processes, which have ended, count as this program's own."""
    reading, own = load.read(), os.times()
    return reading and replace(reading, own=reading.own + own.children_user + own.children_system)


@dataclass(slots=True)
class _Measurement:
    """One measurement of a cell: its times, and the result of the latest look."""

    base: list[float] = field(default_factory=list)
    head: list[float] = field(default_factory=list)
    found: Found | None = None

    @property
    def rounds(self) -> int:
        """Return the number of rounds."""
        return len(self.base)

    @property
    def look(self) -> int:
        """Return the number of the next look, counted from 1."""
        return 1 if self.found is None else self.found.look + 1

    @property
    def is_open(self) -> bool:
        """Return whether no look has decided yet."""
        return self.found is None or self.found.call is Look.OPEN

    def judge(self, cells: int) -> None:
        """Take a look."""
        self.found = decision.judge(self.base, self.head, self.look, cells)


class _Measuring:
    """Rounds until every cell is clear, or the time is up.

    Attributes
    ----------
    of : dict
        The measurements of each cell: one, or two if the first called it slower.
    control : pair of lists
        The control's times in base's and in head's processes.
    """

    def __init__(self, session: BuildTimer, request: GateRequest, cells: int, tell: Tell) -> None:
        self.of: dict[GateCell, list[_Measurement]] = {}
        self.control: tuple[list[float], list[float]] = ([], [])
        self._session = session
        self._request = request
        self._cells = cells
        self._tell = tell

    def run(self, cells: Sequence[GateCell]) -> None:
        """Measure all cells, go on with those that are open, and measure those that are slower a second time."""
        self.of = {cell: [_Measurement()] for cell in cells}
        begin = time.monotonic()
        hard = begin + (math.inf if self._request.seconds is None else self._request.seconds)
        for k in range(self._request.rounds):
            if time.monotonic() > hard:
                break
            left = (time.monotonic() - begin) * (self._request.rounds - k) / k if k else math.nan
            self._round(cells, "measuring", k / self._request.rounds, min(left, hard - time.monotonic()))
        if not self.control[0]:
            return
        now = time.monotonic()
        self._go_on(now, 2 * now - begin if math.isinf(hard) else hard, hard)
        for measurements in self.of.values():
            latest = measurements[-1]
            if latest.is_open and (latest.found is None or latest.rounds > latest.found.rounds):
                latest.judge(self._cells)  # the look that was due, with the rounds that there are

    def _go_on(self, begin: float, soft: float, hard: float) -> None:
        """Measure more rounds of the open cells until the soft end. Second measurements get their first rounds even
        later, but nothing goes on after the hard end.
        """
        while (now := time.monotonic()) <= hard:
            is_late = now > soft
            todo = self._todo(is_late)
            if is_late:
                todo = [cell for cell in todo if self.of[cell][-1].rounds < self._request.rounds]
            if not todo:
                return
            done = min(1.0, (now - begin) / (soft - begin)) if soft > begin else 1.0
            self._round(todo, "measuring the cells that are not clear yet", done, max(0.0, soft - now))

    def _todo(self, is_late: bool) -> list[GateCell]:
        """Return the cells that are not clear.

        Those that are due are looked at, and begin again if they are slower. When it is late, those are due that went
        on since their last look.
        """
        todo = []
        for cell, measurements in self.of.items():
            latest = measurements[-1]
            went_on = latest.found is not None and latest.rounds > latest.found.rounds
            if latest.rounds >= decision.rounds_at(latest.look, self._request.rounds) or (is_late and went_on):
                latest.judge(self._cells)
                if latest.found is not None and latest.found.call is Look.SLOWER and len(measurements) == 1:
                    measurements.append(_Measurement())
            if measurements[-1].is_open:
                todo.append(cell)
        return todo

    def _round(self, cells: Sequence[GateCell], text: str, done: float, left: float) -> None:
        self._tell(f"{text}: {len(cells)} cell{'s' * (len(cells) > 1)}, round {len(self.control[0]) + 1}", done, left)
        base, head = self._session.round(cells)
        self.control[0].append(base[CONTROL])
        self.control[1].append(head[CONTROL])
        for cell in cells:
            self.of[cell][-1].base.append(base[cell.text])
            self.of[cell][-1].head.append(head[cell.text])


def _measured(cell: GateCell, first: _Measurement, second: _Measurement | None = None) -> CellResult:
    assert first.found is not None
    again = None if second is None else second.found
    verdict = decision.verdict(first.found, again)
    return CellResult(cell, tuple(first.base), tuple(first.head), first.found, again, verdict)


def _checked(
    request: GateRequest, pair: tuple[Build, Build], folder: Path
) -> tuple[BuildTimer, list[GateCell], list[str]]:
    """Return a session of the cells that both builds compute correctly, and the cells that were left out."""
    alone = BuildTimer(pair, [], folder)
    in_base, in_head = (backends(alone, build) for build in pair)
    notes = []
    names = []
    for name in request.backends or dict.fromkeys((*in_base, *in_head)):
        missing = [side.get(name, (f"it has no backend {name!r}", True)) for side in (in_base, in_head)]
        why_base, why_head = (why for why, _ in missing)
        if not request.backends and not all(stable for _, stable in missing):
            continue
        if why_base is None and why_head is None:
            names.append(name)
        elif why_base is None:
            raise BuildError(f"head has lost the backend {name!r}: {why_head}")
        elif name in request.backends:
            raise BuildError(f"backend {name!r} cannot be compared: base: {why_base}")
        else:
            notes.append(f"{name}: not compared, since base does not have it: {why_base}")
    wanted = cells.of(names, request.workloads, request.operations) + cells.each_of(names, request.extra)
    base_has, head_has = (operations_of(alone, build) for build in pair)
    for operation in dict.fromkeys(cell.operation for cell in wanted):
        if operation in base_has and operation not in head_has:
            raise BuildError(f"head has lost the operation {operation!r}")
        if operation not in base_has:
            notes.append(f"{operation}: not compared, since base does not have it")
    wanted = [cell for cell in wanted if cell.operation in base_has]
    session = BuildTimer(pair, wanted, folder, request.seed)
    reference = Reference(session)
    wrong_in_base, wrong_in_head = (reference.complaints(build, wanted) for build in pair)
    for cell, reason in wrong_in_head.items():
        if cell not in wrong_in_base:
            raise BuildError(
                f"head computes wrong results and is not timed: {cell.backend} on {cell.workload_text}: {reason}"
            )
    for cell, reason in wrong_in_base.items():
        notes.append(f"{cell.text}: not compared, since base computes wrong results there: {reason}")
    todo = [cell for cell in wanted if cell not in wrong_in_base]
    if not todo:
        raise BuildError("no backend is correct in both builds: nothing can be compared")
    return session, todo, notes
