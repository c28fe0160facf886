"""Which cells of a profile stand for a call."""

from __future__ import annotations

from softmax_ce.choice.profile.format import Cell, Profile
from softmax_ce.choice.profile.grid import Grid

# An operation that was not measured follows one that was: a backend's eligibility is the same for all three.
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
        What an automatic number of threads comes to here. Where the profile was measured it may have come to another.
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
        """The dtype, operation and number of threads that stand for those of a call.

        A dtype that was not measured follows the one that it is computed in: 16-bit floats float32, integers float64.
        Those two never stand for each other: what is right in one may be wrong in the other. Of the numbers of
        threads measured the nearest counts, by ratio. Automatic counts as the CPUs that a process may use: of a call as
        those here, of a cell as those where the profile was measured.

        Returns
        -------
        tuple or None
            None: nothing measured may stand for the dtype.
        """
        for stand_in in (dtype, compute):
            for measured in _STANDS_IN[operation]:
                counts = [key[2] for key in self._groups if key[:2] == (stand_in, measured)]
                if counts:
                    return stand_in, measured, self._nearest(counts, threads)
        return None

    def grid(self, key: Key, without: frozenset[str] = frozenset()) -> Grid:
        """The table of choices for these cells, less some backends."""
        return Grid(self.profile, self._groups[key], without)

    def cells(self, key: Key) -> list[Cell]:
        """The cells themselves."""
        return self._groups[key]

    def _nearest(self, counts: list[int | None], threads: int | None) -> int | None:
        asked = threads or self._cpus

        def ratio(count: int | None) -> tuple[float, int, bool]:
            """How far off; of two equally far the smaller; of two that are equal what the call says."""
            own = count or self.measured_cpus
            return max(own, asked) / min(own, asked), own, count != threads

        return min(counts, key=ratio)
