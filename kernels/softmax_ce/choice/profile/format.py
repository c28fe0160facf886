"""Profiles in memory, and their conversion to and from files."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from softmax_ce.choice.profile import files, where
from softmax_ce.choice.profile.errors import ProfileError
from softmax_ce.choice.profile.schema import schema, validate

TIE = 0.03
MOST_DISTINCT = 64  # the most row counts, or class counts, for one dtype, operation and number of threads


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """The figures of one backend in one cell; None for a figure that was not measured.

    Attributes
    ----------
    backend : str
    rejected : str or None
        Why it may not run here, such as too large an error; None if it may.
    error : float or None
        The largest error as a multiple of its bound; None also for infinity.
    seconds, seconds_low, seconds_high : float or None
        The median time of a call, and its interval.
    ratio, ratio_low, ratio_high : float or None
        Its time as a multiple of the winner's, paired within rounds, and the interval.
    memory : int or None
        Peak bytes, beside inputs and outputs.
    cold_start, cached_start : float or None
        Seconds for the import and the first call in a fresh process, without and with a compilation cache.
    break_even : float or None
        The number of calls after which it has made up for its cold start.
    """

    backend: str
    rejected: str | None = None
    error: float | None = None
    seconds: float | None = None
    seconds_low: float | None = None
    seconds_high: float | None = None
    ratio: float | None = None
    ratio_low: float | None = None
    ratio_high: float | None = None
    memory: int | None = None
    cold_start: float | None = None
    cached_start: float | None = None
    break_even: float | None = None

    def cost(self, objective: str) -> float | None:
        """Return the cost that the objective minimises, in seconds or bytes, or None if it was not measured."""
        return {"time": self.seconds, "memory": self.memory, "coldstart": self.cold_start}[objective]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One measured shape, for one dtype, operation and number of threads.

    Attributes
    ----------
    rows, classes : int
    dtype : {"float16", "bfloat16", "float32", "float64"}
        The logits' dtype.
    operation : {"forward", "backward", "fused"}
    threads : int or None
        The `threads` of the calls; None is automatic.
    winner : str
        The backend that runs here.
    measured : tuple of Measured
        Every backend, including the rejected ones.
    tied : tuple of str
        Backends that the winner does not clearly beat.
    rounds : int
        The number of rounds of measurement.
    """

    rows: int
    classes: int
    dtype: str
    operation: str
    threads: int | None
    winner: str
    measured: tuple[Measured, ...]
    tied: tuple[str, ...] = ()
    rounds: int = 0

    def of(self, backend: str) -> Measured | None:
        """Return the figures of a backend here, or None if it was not measured."""
        return next((one for one in self.measured if one.backend == backend), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """The choice of backends for one machine and build, with the measurements behind it.

    Attributes
    ----------
    fingerprint : dict
        From :func:`softmax_ce.choice.fingerprint.collect`.
    cells : tuple of Cell
    order : tuple of str
        Every backend in the profile, from the simplest dependencies on. Of several that tie, the first one runs.
    date, command : str
        When it was measured, and with which command.
    objective : {"time", "memory", "coldstart"}
    tie : float
        A relative gap below this is a tie.
    max_error : float or None
        The largest error that was allowed, as a multiple of its bound; None is 1.
    notes : dict
        Named text, numbers, booleans and None, for human readers.
    """

    fingerprint: dict[str, Any]
    cells: tuple[Cell, ...]
    order: tuple[str, ...]
    date: str = ""
    command: str = ""
    objective: str = "time"
    tie: float = TIE
    max_error: float | None = None
    notes: dict[str, Any] = field(default_factory=dict)


def as_dict(profile: Profile) -> dict[str, Any]:
    """Return a profile as plain values, in the order and form of the file.

    Raises
    ------
    ProfileError
        A value is not allowed by the format.
    """
    # Converted to JSON and back: tuples become lists, and values that JSON cannot hold are found here, not by a reader.
    try:
        given = json.loads(json.dumps(asdict(profile), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ProfileError(f"a profile holds text, finite numbers, booleans and None: {error}") from error
    properties = schema()["properties"]
    record = {key: properties[key].get("const", given.get(key)) for key in properties}
    _profile(record)
    return record


def save(profile: Profile, path: str | os.PathLike[str] | None = None) -> Path:
    """Write a profile atomically: at any moment, a reader finds the whole old file or the whole new one.

    Parameters
    ----------
    profile : Profile
        The profile to write.
    path : path-like, optional
        By default, a file in the user's data folder, where calls look for it. The folder is created if needed.

    Returns
    -------
    Path
        The file that was written.

    Raises
    ------
    ProfileError
        A value in the profile is not allowed. Nothing has been written.
    OSError
        The file cannot be written.
    """
    text = json.dumps(as_dict(profile), indent=1, allow_nan=False) + "\n"
    if len(text) > files.MOST_BYTES:  # json.dumps writes ASCII
        raise ProfileError(f"a profile of {len(text)} bytes is larger than the {files.MOST_BYTES >> 20} MiB allowed")
    if path is None:
        target = where.default_path()
        if target is None:
            raise ProfileError("this user has no home folder to keep a profile in; give a path")
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)  # the mode that the XDG specification asks for
    else:
        target = Path(path)
    files.write_text(target, text)
    return target


def load(path: str | os.PathLike[str]) -> Profile:
    """Read and check a profile. Nothing in the file is executed, and the time for any file is bounded.

    Parameters
    ----------
    path : path-like
        The profile's file.

    Returns
    -------
    Profile

    Raises
    ------
    ProfileError
        The file cannot be read or is not a valid profile. The message names the file and the reason.
    """
    try:
        return _profile(files.read_json(Path(path)))
    except ProfileError as error:
        raise ProfileError(f"profile {os.fspath(path)}: {error}") from error


def _profile(record: Any) -> Profile:
    """Return the profile that plain values describe, after checking them."""
    validate(record)
    values = {key: value for key, value in record.items() if key not in ("schema", "version")}
    values["order"] = tuple(record["order"])
    values["cells"] = tuple(_cell(cell) for cell in record["cells"])
    profile = Profile(**values)
    _check_names(profile)
    _check_cells(profile)
    return profile


def _cell(record: dict[str, Any]) -> Cell:
    measured = tuple(Measured(**one) for one in record["measured"])
    return Cell(**{**record, "measured": measured, "tied": tuple(record["tied"])})


def _check_names(profile: Profile) -> None:
    _check_distinct(profile.order, "order")
    for index, cell in enumerate(profile.cells):
        here = f"cells[{index}]"
        names = [one.backend for one in cell.measured]
        _check_distinct(names, f"{here}.measured")
        for name in (*names, *cell.tied):
            if name not in profile.order:
                raise ProfileError(f"{here} names {name[:40]!r}, which is not in order")
        winner = cell.of(cell.winner)
        if winner is None:
            raise ProfileError(f"{here}: its winner {cell.winner[:40]!r} was not measured")
        if winner.rejected is not None:
            raise ProfileError(f"{here}: its winner {cell.winner!r} was rejected")
        if winner.cost(profile.objective) is None:
            raise ProfileError(
                f"{here}: its winner {cell.winner!r} has no figure for the objective, {profile.objective}"
            )


def _check_cells(profile: Profile) -> None:
    """Check that no cell occurs twice, and that there are no more distinct sizes than a table can hold."""
    seen = Counter((cell.dtype, cell.operation, cell.threads, cell.rows, cell.classes) for cell in profile.cells)
    cell, times = seen.most_common(1)[0]
    if times > 1:
        raise ProfileError(f"the cell {cell[3]} x {cell[4]} {cell[0]} {cell[1]} occurs {times} times")
    for position, what in ((3, "row counts"), (4, "class counts")):
        distinct = Counter(group[:3] for group in {(*key[:3], key[position]) for key in seen})
        most = max(distinct.values())
        if most > MOST_DISTINCT:
            raise ProfileError(
                f"{most} different {what} for one dtype and operation; at most {MOST_DISTINCT} are allowed"
            )


def _check_distinct(names: Iterable[str], where: str) -> None:
    name, times = Counter(names).most_common(1)[0]
    if times > 1:
        raise ProfileError(f"{where} names {name[:40]!r} {times} times")
