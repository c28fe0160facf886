"""The request to pick."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from softmax_ce import registry
from softmax_ce.contract import BackendInfo
from softmax_ce_bench.compare.request import RequestError, Source
from softmax_ce_bench.measure.operations import LOSSES
from softmax_ce_bench.truth.errors import Errors

OBJECTIVES = TIME, MEMORY, COLD_START = "time", "memory", "coldstart"
SECONDS = 120.0
BOUND, ULP = "bound", "ulp"


@dataclass(frozen=True, slots=True)
class MaxError:
    """The largest error on the workload that is allowed.

    Attributes
    ----------
    value : float
    unit : {"bound", "ulp"}
        A fraction of the proven error bound, or units in the last place of the result.
    """

    value: float
    unit: str

    def complaint(self, errors: Errors, operation: str) -> str | None:
        """Return why the results of an operation are not accurate enough, or None."""
        found = over_bound(errors, operation) if self.unit == BOUND else in_ulp(errors, operation)
        if found <= self.value:
            return None
        unit = "of its bound" if self.unit == BOUND else "ULP"
        return f"its worst error is {found:.3g} {unit}, and at most {self.value:g} is allowed"

    def __str__(self) -> str:
        return f"{self.value:g}" if self.unit == BOUND else f"{self.value:g}ulp"


@dataclass(frozen=True, slots=True, kw_only=True)
class PickRequest:
    """What to pick from, for which shapes, and by which objective.

    Attributes
    ----------
    sources : tuple of Source
        The workloads. If empty, a grid of shapes that fits the time.
    dtypes : tuple of str
        The dtypes of the default grid.
    operations : tuple of str
    threads : tuple of int or None
        The numbers of threads that calls are given.
    seconds : float
        The time for everything except cold starts.
    counts_loading : bool
        If False, the time starts once the backends have been loaded and compiled.
    objective : {"time", "memory", "coldstart"}
    also : tuple of str
        Further objectives to measure: "memory" or "coldstart".
    max_error : MaxError or None
        If None, the proven bound is the limit.
    allow : tuple of str or None
        The backends that may win, or None for all.
    deny : tuple of str
    order : tuple of str
        Backends that are simpler than the others; the rest follow in :func:`simplest_first`.
    command : str
    notes : dict
        Notes for the profile.
    """

    sources: tuple[Source, ...] = ()
    dtypes: tuple[str, ...] = ("float32",)
    operations: tuple[str, ...] = LOSSES
    threads: tuple[int | None, ...] = (None,)
    seconds: float = SECONDS
    counts_loading: bool = False
    objective: str = TIME
    also: tuple[str, ...] = ()
    max_error: MaxError | None = None
    allow: tuple[str, ...] | None = None
    deny: tuple[str, ...] = ()
    order: tuple[str, ...] = ()
    command: str = ""
    notes: dict[str, str] = field(default_factory=dict)

    @property
    def wants_memory(self) -> bool:
        """Return whether memory is measured."""
        return MEMORY in (self.objective, *self.also)

    @property
    def wants_cold_start(self) -> bool:
        """Return whether cold starts are measured."""
        return COLD_START in (self.objective, *self.also)

    @property
    def whole_order(self) -> tuple[str, ...]:
        """Return every known backend: those of `order`, then the rest."""
        return (*self.order, *(name for name in simplest_first() if name not in self.order))

    def check(self) -> None:
        """Check the request.

        Raises
        ------
        RequestError
            An unknown backend.
        """
        for option, names in (("--allow", self.allow or ()), ("--deny", self.deny), ("--order", self.order)):
            for name in names:
                if name not in registry.names():
                    raise RequestError(f"{option}: unknown backend {name!r}; there are {', '.join(registry.names())}")


def simplest_first(table: Iterable[BackendInfo] | None = None) -> tuple[str, ...]:
    """Return every known backend, the one with the simplest dependency first.

    Of the project's own, those that need nothing at the first call come before those that compile then, each in the
    table's order; a backend from another package is one more dependency, and comes last.
    """
    own = sorted(registry.table() if table is None else table, key=lambda info: not info.ahead_of_time)
    names = [info.name for info in own]
    return (*names, *(name for name in registry.names() if name not in names))


def over_bound(errors: Errors, operation: str) -> float:
    """Return the worst error, over its bound, of the results of an operation."""
    return errors.over_bound_of(operation)


def in_ulp(errors: Errors, operation: str) -> float:
    """Return the worst error, in units in the last place, of the results of an operation."""
    return max(errors.ulp_of(operation))
