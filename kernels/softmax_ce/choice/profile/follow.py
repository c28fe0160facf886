"""Follow a profile: choose the backend for each call, and rule out backends that cannot run."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from softmax_ce import registry
from softmax_ce.choice.profile.errors import ProfileError
from softmax_ce.choice.profile.grid import Grid
from softmax_ce.choice.profile.model import Profile
from softmax_ce.choice.profile.selector import Key, Selector
from softmax_ce.contract import Backend
from softmax_ce.dtypes import compute_dtype

_MOST_KINDS = 1000  # a program may name any number of threads


class Table:
    """The choices for one kind of call, and the backends that were loaded for it.

    Attributes
    ----------
    compute : str
        The dtype in which such a call is computed.
    grid : Grid or None
        The cells that stand for such a call; None if the profile has none.
    row_edges, class_edges, choices : list
        The grid's, or a single entry that leaves every shape to the default.
    ready : dict
        From a choice to its loaded backend.
    """

    __slots__ = ("choices", "class_edges", "compute", "grid", "ready", "row_edges")

    def __init__(self, compute: str, grid: Grid | None) -> None:
        self.compute = compute
        self.grid = grid
        self.row_edges = [] if grid is None else grid.row_edges
        self.class_edges = [] if grid is None else grid.class_edges
        self.choices = [[None]] if grid is None else grid.choices
        self.ready: dict[str | None, Backend] = {}


class Follower:
    """Chooses backends by a profile that is valid for this machine.

    Threads may share it. A table may be made twice in a race, but it is only stored when it is complete.

    Parameters
    ----------
    profile : Profile
    path : path-like
        The profile's file.
    cpus : int
        The number of CPUs that an automatic number of threads stands for here.
    strict : bool
        Whether a choice that cannot run here is an error. If not, it is a warning, and the next best backend runs.
    default : callable
        Returns the safe default, for calls that the profile does not cover.
    warn : callable
        Called with a text, once for each choice that cannot run.
    """

    def __init__(
        self,
        profile: Profile,
        path: Path,
        cpus: int,
        strict: bool,
        default: Callable[[], Backend],
        warn: Callable[[str], None],
    ) -> None:
        self.profile = profile
        self.path = path
        self.cpus = cpus
        self._selector = Selector(profile, cpus)
        self.measured_cpus = self._selector.measured_cpus
        self._strict = strict
        self._default = default
        self._warn = warn
        self._by_kind: dict[tuple[bool, bool, int, int | None], Table] = {}
        self._by_key: dict[tuple[Key | None, str], Table] = {}
        self._out: dict[str, dict[str, str]] = {}  # compute dtype -> name -> why it may not run

    def choose(
        self, want_loss: bool, want_grad: bool, dtype: np.dtype[Any], rows: int, classes: int, threads: int | None
    ) -> Backend:
        """Return the backend for one call, with a lookup and two bisections: every call pays for this."""
        kind = want_loss, want_grad, dtype.num, threads
        while True:
            table = self._by_kind.get(kind) or self._find(kind, dtype)
            name = table.choices[bisect_right(table.row_edges, rows)][bisect_right(table.class_edges, classes)]
            backend = table.ready.get(name) or self._admit(table, name)
            if backend is not None:
                return backend
            self._by_kind.clear()
            self._by_key.clear()

    def table(self, operation: str, dtype: np.dtype[Any], threads: int | None) -> Table:
        """Return the choices for one kind of call."""
        compute = compute_dtype(dtype).name
        key = self._selector.key(dtype.name, compute, operation, threads)
        table = self._by_key.get((key, compute))
        if table is None:
            grid = None if key is None else self._selector.grid(key, frozenset(self.ruled_out(compute)))
            table = self._by_key[key, compute] = Table(compute, grid)
        return table

    def ruled_out(self, compute: str) -> dict[str, str]:
        """Return the backends that may not run here, and why: unstable ones, and those that proved unable to."""
        return dict(self._ruled_out(compute))

    def _find(self, kind: tuple[bool, bool, int, int | None], dtype: np.dtype[Any]) -> Table:
        want_loss, want_grad, _, threads = kind
        if len(self._by_kind) >= _MOST_KINDS:
            self._by_kind.clear()
        table = self._by_kind[kind] = self.table(operation_of(want_loss, want_grad), dtype, threads)
        return table

    def _admit(self, table: Table, name: str | None) -> Backend | None:
        """Load a choice for a table, or rule it out and return None."""
        out = self._ruled_out(table.compute)
        if name in out:  # another thread has ruled it out since this table was made
            return None
        backend, reason = (self._default(), None) if name is None else _able(name, table.compute)
        if backend is not None:
            table.ready[name] = backend
            return backend
        assert name is not None
        assert reason is not None
        if self._strict:
            raise ProfileError(f"profile {self.path}: {reason}")
        if out.setdefault(name, reason) is reason:  # this thread is the first
            self._warn(f"profile {self.path}: {reason}. The next best runs instead")
        return None

    def _ruled_out(self, compute: str) -> dict[str, str]:
        return self._out.setdefault(
            compute, {info.name: "it is not stable" for info in registry.table() if not info.stable}
        )


def _able(name: str, compute: str) -> tuple[Backend | None, str | None]:
    """Return the backend and None, or None and why automatic choice may not take it."""
    try:
        backend = registry.get_backend(name)
    except (ImportError, ValueError) as error:
        return None, str(error)
    if not backend.info.stable:
        return None, f"backend {name!r} is not stable"
    if compute not in backend.info.dtypes:
        return None, f"backend {name!r} does not compute {compute}"
    return backend, None


def operation_of(want_loss: bool, want_grad: bool) -> str:
    """Return the operation that stands for a call: softmax counts as a gradient, and a log-sum-exp as a loss."""
    if want_grad:
        return "fused" if want_loss else "backward"
    return "forward"
