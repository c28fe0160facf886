"""Explain which backend a call would use, and why."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from softmax_ce import checks, registry
from softmax_ce.choice import auto
from softmax_ce.functional import cross_entropy_with_grad

if TYPE_CHECKING:  # imported by the first call that needs a profile
    from softmax_ce.choice.profile.follow import Follower
    from softmax_ce.choice.profile.grid import Neighbourhood
    from softmax_ce.choice.profile.model import Cell
    from softmax_ce.problem import Problem

# For each operation, whether it computes the loss, and whether it computes the gradient.
_OPERATIONS = {
    "forward": (True, False),
    "backward": (False, True),
    "fused": (True, True),
}


@dataclass(frozen=True, slots=True)
class Explanation:
    """The result of :func:`explain`. Its ``str()`` is a readable summary.

    Attributes
    ----------
    backend : str
        The backend that the call would use.
    source : {"argument", "variable", "profile", "default"}
        What decided. It is "default" also if the profile that is followed does not cover this call.
    reason : str
        The reason in words.
    operation, dtype : str
    rows, classes : int
    threads : int or None
        The call's `threads`.
    profile : str or None
        The profile's file, if one was found, whether or not it is followed.
    around : Neighbourhood or None
        What the profile says about this shape: the measured cells that count, their weights, and the cost of each
        eligible backend, in seconds, or in bytes if the profile's objective is memory.
    skipped : tuple of (str, str)
        Every other known backend, and why it does not run.
    """

    backend: str
    source: str
    reason: str
    operation: str
    dtype: str
    rows: int
    classes: int
    threads: int | None
    profile: str | None = None
    around: Neighbourhood | None = None
    skipped: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        threads = "automatic" if self.threads is None else str(self.threads)
        lines = [
            f"{self.backend} ({self.operation}, {self.rows} x {self.classes} {self.dtype}, threads {threads})",
            f"  because {self.reason}",
            *(f"  not {name}: {why}" for name, why in self.skipped),
        ]
        return "\n".join(lines)


def explain(logits: Any, targets: Any, *, operation: str = "fused", **options: Any) -> Explanation:
    """Explain which backend a call with these arguments would use, and why, without computing anything.

    Parameters
    ----------
    logits : array_like
        The logits of the call.
    targets : array_like
        The targets of the call. They are ignored: the choice does not depend on them.
    operation : {"fused", "forward", "backward"}
        The function to explain: :func:`cross_entropy_with_grad`, :func:`cross_entropy` or
        :func:`cross_entropy_grad`.
    **options
        The options of the call. Only ``axis``, ``backend`` and ``threads`` matter.

    Returns
    -------
    Explanation

    Raises
    ------
    ValueError, TypeError
        Logits, an axis, a backend or a number of threads that the call would refuse, or an unknown operation or option.
    BackendUnavailableError
        The backend that was named cannot run here.
    ProfileError
        In strict mode, the profile cannot be followed.
    """
    checks.check_choice("operation", operation, tuple(_OPERATIONS))
    known = inspect.signature(cross_entropy_with_grad).parameters
    unknown = [name for name in options if name not in known]
    if unknown:
        raise TypeError(f"explain() got an unknown option {unknown[0]!r}")
    problem = checks.check_logits(logits, options.get("axis", -1))
    threads = checks.check_threads(options.get("threads"))
    asked = options.get("backend")
    # A call uses this same function, so the answer cannot differ from what it does.
    chosen = auto.choose(
        asked, *_OPERATIONS[operation], problem.source.dtype, problem.n_rows, problem.n_classes, threads
    )
    auto.check_dtype(chosen, problem.compute)
    answer: dict[str, Any] = {"source": "argument", "reason": f"backend={asked!r} was given"}
    if asked is None:
        decision = auto.decide()
        answer = {"source": decision.source, "reason": decision.reason, "profile": decision.path}
        if decision.follower is not None:
            answer |= _by_profile(decision.follower, chosen.name, operation, problem, threads)
        elif decision.source == "default":
            answer |= _by_default(decision.reason, chosen.name)
    return Explanation(
        backend=chosen.name, operation=operation, dtype=problem.source.dtype.name, rows=problem.n_rows,
        classes=problem.n_classes, threads=threads, **answer,
    )  # fmt: skip


def _by_default(reason: str, chosen: str) -> dict[str, Any]:
    words = f"{reason}; this is the safe default: stable, compiled ahead of time, available here"
    return {"source": "default", "reason": words, "skipped": tuple(_not_the_default(chosen))}


def _not_the_default(chosen: str) -> Iterator[tuple[str, str]]:
    own = [info.name for info in registry.table()]
    for info in registry.table():
        if info.name == chosen:
            continue
        if not info.stable:
            yield info.name, "it is not stable"
        elif not info.ahead_of_time:
            yield info.name, "its first call compiles, so it is never the default"
        elif not registry.is_available(info.name):
            yield info.name, "it is not available: " + _why_unavailable(info.name)
        else:
            yield info.name, f"{chosen} comes after it in the table of backends, which goes from simple to fast"
    for name in registry.names():
        if name not in own:
            yield name, "it comes from another package, so it is never the default"


def _why_unavailable(name: str) -> str:
    return next(str(info.why_unavailable) for info in registry.backends() if info.name == name)


def _by_profile(
    follower: Follower, chosen: str, operation: str, problem: Problem, threads: int | None
) -> dict[str, Any]:
    profile, path = follower.profile, follower.path
    table = follower.table(operation, problem.source.dtype, threads)
    if table.grid is None:
        return _by_default(f"profile {path} has no cells for {problem.source.dtype.name}", chosen)
    around = table.grid.around(problem.n_rows, problem.n_classes)
    where = _where(around) + _on_other_threads(follower, around, threads)
    if around.choice is None:
        default = _by_default(f"profile {path} has no backend that may run {where}", chosen)
        return {**default, "around": around}
    ruled_out = follower.ruled_out(table.compute)
    return {
        "reason": f"of profile {path}, {where}: {_outcome(around, chosen, profile.objective)}",
        "around": around,
        "skipped": tuple(
            (name, ruled_out.get(name) or _why_not(around, name, profile.objective))
            for name in registry.names()
            if name != chosen
        ),
    }


def _where(around: Neighbourhood) -> str:
    cells = [cell for cell, _ in around.cells]
    what = f"{cells[0].operation} {cells[0].dtype}, threads {cells[0].threads or 'automatic'}"
    shapes = ", ".join(f"{cell.rows} x {cell.classes}" for cell in cells)
    if len(cells) == 1:
        return f"at the measured cell {shapes} ({what})"
    return f"at {around.rows} x {around.classes} between the measured cells {shapes} ({what})"


def _on_other_threads(follower: Follower, around: Neighbourhood, threads: int | None) -> str:
    """Return a remark if the cells were measured with another number of threads than the call may use."""
    may = threads or follower.cpus
    measured = around.cells[0][0].threads or follower.measured_cpus
    if may == measured:
        return ""
    return f", measured on {_counted(measured)}, the nearest to the {_counted(may)} of this call"


def _counted(threads: int) -> str:
    return f"{threads} thread" if threads == 1 else f"{threads} threads"


def _outcome(around: Neighbourhood, chosen: str, objective: str) -> str:
    cell: Cell = around.cells[0][0]
    if len(around.cells) == 1 and cell.winner == chosen:
        ties = f", tied with {', '.join(cell.tied)}" if cell.tied else ""
        return f"{_amount(around.costs[chosen], objective)}, the winner{ties}"
    lowest = min(around.costs, key=around.costs.__getitem__)
    why = "the lowest" if chosen == lowest else f"a tie with {lowest} or better, and simpler"
    return f"{_amount(around.costs[chosen], objective)}, {why}"


def _why_not(around: Neighbourhood, name: str, objective: str) -> str:
    if name in around.costs:
        return _amount(around.costs[name], objective)
    for cell, _ in around.cells:
        measured = cell.of(name)
        if measured is not None and measured.rejected is not None:
            return f"rejected at {cell.rows} x {cell.classes}: {measured.rejected}"
    return "the profile has no figure for it here"


def _amount(cost: float, objective: str) -> str:
    if objective == "memory":
        return f"{cost:,.0f} bytes"
    cost = float(f"{cost:.3g}")  # rounded before the unit is chosen, or 999.9 us would read 1e+03 us
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if cost >= size:
            return f"{cost / size:.3g} {unit}" if cost < 1000 else f"{cost:.0f} s"
    return f"{cost / 1e-9:.3g} ns"
