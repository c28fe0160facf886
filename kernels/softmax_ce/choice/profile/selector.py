"""Select the cells of a profile that stand for a call."""

from __future__ import annotations

from softmax_ce.choice.profile.grid import Grid
from softmax_ce.choice.profile.model import Cell, Profile

# An operation that was not measured uses the cells of one that was: eligibility is the same for all three.
_STANDS_IN = {
    "forward": ("forward", "fused", "backward"),
    "backward": ("backward", "fused", "forward"),
    "fused": ("fused", "backward", "forward"),
}

Key = tuple[str, str, int | None]


class Selector:
    """The cells of a profile, by dtype, operation and number of threads.

    Parameters
    ----------
    profile : Profile
    cpus : int
        The number of CPUs that an automatic number of threads stands for here. Where the profile was measured, it may
        have stood for another.
    """

    def __init__(self, profile: Profile, cpus: int) -> None:
        self.profile = profile
        self._cpus = cpus
        measured = profile.fingerprint.get("cpus_available")
        self.measured_cpus = measured if isinstance(measured, int) and measured > 0 else cpus
        self._groups: dict[Key, list[Cell]] = {}
        for cell in profile.cells:
            self._groups.setdefault((cell.dtype, cell.operation, cell.threads), []).append(cell)

    def key(self, dtype: str, compute: str, operation: str, threads: int | None) -> Key | None:
        """Return the measured dtype, operation and number of threads that stand for those of a call.

        A dtype that was not measured uses the one in which it is computed: float32 for 16-bit floats, and float64 for
        integers. Those two never stand for each other, since a backend may be accurate in one and not in the other.
        The nearest number of threads is used, by ratio. An automatic number counts as the CPUs that a process may use:
        here for a call, and where the profile was measured for a cell.

        Returns
        -------
        tuple or None
            None if no measured dtype may stand for the call's.
        """
        for stand_in in (dtype, compute):
            for measured in _STANDS_IN[operation]:
                counts = [key[2] for key in self._groups if key[:2] == (stand_in, measured)]
                if counts:
                    return stand_in, measured, self._nearest(counts, threads)
        return None

    def grid(self, key: Key, without: frozenset[str] = frozenset()) -> Grid:
        """Return the table of choices for these cells, without some backends."""
        return Grid(self.profile, self._groups[key], without)

    def cells(self, key: Key) -> list[Cell]:
        """Return the cells of this key."""
        return self._groups[key]

    def _nearest(self, counts: list[int | None], threads: int | None) -> int | None:
        asked = threads or self._cpus

        def ratio(count: int | None) -> tuple[float, int, bool]:
            """Order by distance, then by the number, then whether it is what the call says."""
            own = count or self.measured_cpus
            return max(own, asked) / min(own, asked), own, count != threads

        return min(counts, key=ratio)
