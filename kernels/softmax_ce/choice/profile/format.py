"""Profiles and their files."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from softmax_ce.choice import fingerprint
from softmax_ce.choice.profile import files, where
from softmax_ce.choice.profile.errors import ProfileError
from softmax_ce.choice.profile.model import Fleet, Profile
from softmax_ce.documents import DocumentError, Format, as_text, shown

MOST_DISTINCT = 64  # the most row counts, or class counts, for one dtype, operation and number of threads

FORMAT = Format(Profile, "softmax-ce/profile", 1, "A profile of softmax-ce")
# A file of one machine is of version 1, so that every release reads it.
FLEET = Format(
    Fleet, FORMAT.schema, 2, "A profile of softmax-ce for several machines",
    older={1: lambda record: {"version": 2, "sections": [_without_header(record)]}},
)  # fmt: skip


def as_dict(profile: Profile | Fleet) -> dict[str, Any]:
    """Return a profile as plain values, in the order and form of the file.

    Parameters
    ----------
    profile : Profile or Fleet
        A fleet of one machine is written as a profile.

    Raises
    ------
    ProfileError
        A value is not allowed by the format.
    """
    if isinstance(profile, Fleet) and len(profile.sections) == 1:
        (profile,) = profile.sections
    if isinstance(profile, Fleet):
        record = FLEET.plain(profile, keep_infinite=True)
    else:
        record = FORMAT.plain(profile, keep_infinite=True)
    try:
        _fleet(record)
    except DocumentError as error:
        raise ProfileError(str(error)) from error
    return record


def text(profile: Profile | Fleet) -> str:
    """Return the text of a profile's file.

    Raises
    ------
    ProfileError
        A value is not allowed by the format, or the file would be too large to be read.
    """
    found = as_text(as_dict(profile))
    size = len(found.encode("utf-8"))
    if size > files.MOST_BYTES:
        raise ProfileError(f"a profile of {size} bytes is larger than the {files.MOST_BYTES >> 20} MiB allowed")
    return found


def save(profile: Profile | Fleet, path: str | os.PathLike[str] | None = None) -> Path:
    """Write a profile atomically: at any moment, a reader finds the whole old file or the whole new one.

    Parameters
    ----------
    profile : Profile or Fleet
        The profile to write, or the profiles of several machines.
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
    written = text(profile)
    if path is None:
        target = where.default_path()
        if target is None:
            raise ProfileError("this user has no home folder to keep a profile in; give a path")
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)  # the mode that the XDG specification asks for
    else:
        target = Path(path)
    files.write_text(target, written)
    return target


def load(path: str | os.PathLike[str]) -> Profile:
    """Read and check a profile. Nothing in the file is executed, and the time for any file is bounded.

    Parameters
    ----------
    path : path-like
        The profile's file. If it holds the profiles of several machines, the one of this machine and build is read, and
        the others are not checked.

    Returns
    -------
    Profile

    Raises
    ------
    ProfileError
        The file cannot be read, is not a valid profile, or holds several and none for this machine. The message names
        the file and the reason.
    """
    try:
        record = files.read_json(Path(path))
        return _section_here(record, path) if _holds_several(record) else _fleet(record).sections[0]
    except DocumentError as error:
        raise ProfileError(f"profile {os.fspath(path)}: {error}") from error


def load_fleet(path: str | os.PathLike[str]) -> Fleet:
    """Read and check a profile with the sections of all machines; one, if it is of a single machine.

    Parameters
    ----------
    path : path-like
        The profile's file.

    Returns
    -------
    Fleet

    Raises
    ------
    ProfileError
        The file cannot be read or is not a valid profile. The message names the file and the reason.
    """
    try:
        return _fleet(files.read_json(Path(path)))
    except DocumentError as error:
        raise ProfileError(f"profile {os.fspath(path)}: {error}") from error


def _without_header(record: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in record.items() if key not in ("schema", "version")}


def _holds_several(record: Any) -> bool:
    return type(record) is dict and record.get("schema") == FLEET.schema and record.get("version") == FLEET.version


def _fleet(record: Any) -> Fleet:
    """Return the profiles that plain values describe, after checking them."""
    if type(record) is dict and type(record.get("version")) is int and record["version"] == FORMAT.version:
        fleet = Fleet(sections=(FORMAT.read(record),))  # errors then name places in the file as it is
        _check(fleet.sections[0], "")
        return fleet
    fleet = FLEET.read(record)
    for k, profile in enumerate(fleet.sections):
        _check(profile, f"sections[{k}].")
        for j, other in enumerate(fleet.sections[:k]):
            if not fingerprint.differences(other.fingerprint, profile.fingerprint):
                raise DocumentError(f"sections[{j}] and sections[{k}] are for the same machine and build; must be one")
    return fleet


def _section_here(record: dict[str, Any], path: str | os.PathLike[str]) -> Profile:
    """Return the profile of this machine and build out of plain values for several."""
    if "sections" not in record:
        raise DocumentError("it lacks 'sections'")
    sections = record["sections"]
    if type(sections) is not list or not sections:
        raise DocumentError(f"sections is {shown(sections)}; must be a list with at least 1 entry")
    here = fingerprint.collect()
    found = []
    for k, section in enumerate(sections):
        stored = section.get("fingerprint") if type(section) is dict else None
        if type(stored) is dict:
            found.append((fingerprint.differences(stored, here), k))
    found.sort(key=lambda each: len(each[0]))
    if not found or found[0][0]:
        import shlex  # here: no call that follows a profile needs it

        nearest = f" The nearest is sections[{found[0][1]}], where {found[0][0][0]}." if found else ""
        raise DocumentError(
            f"none of its {len(sections)} sections is for this machine and build.{nearest} To add one: "
            f"softmax-ce pick --append --output {shlex.quote(os.fspath(path))}"
        )
    ours = [k for differences, k in found if not differences]
    if len(ours) > 1:
        raise DocumentError(
            f"sections[{ours[0]}] and sections[{ours[1]}] are for the same machine and build; must be one"
        )
    try:
        profile = FORMAT.read({**sections[ours[0]], "schema": FORMAT.schema, "version": FORMAT.version})
        _check(profile, "")
    except DocumentError as error:
        raise DocumentError(f"in sections[{ours[0]}], {error}") from error
    return profile


def _check(profile: Profile, place: str) -> None:
    """Check what the types cannot say."""
    _check_names(profile, place)
    _check_cells(profile, place)


def _check_names(profile: Profile, place: str) -> None:
    _check_distinct(profile.order, f"{place}order")
    for index, cell in enumerate(profile.cells):
        here = f"{place}cells[{index}]"
        names = [one.backend for one in cell.measured]
        _check_distinct(names, f"{here}.measured")
        for name in (*names, *cell.tied):
            if name not in profile.order:
                raise DocumentError(f"{here} names {name[:40]!r}, which is not in order")
        winner = cell.of(cell.winner)
        if winner is None:
            raise DocumentError(f"{here}: its winner {cell.winner[:40]!r} was not measured")
        if winner.rejected is not None:
            raise DocumentError(f"{here}: its winner {cell.winner!r} was rejected")
        if winner.cost(profile.objective) is None:
            raise DocumentError(
                f"{here}: its winner {cell.winner!r} has no figure for the objective, {profile.objective}"
            )


def _check_cells(profile: Profile, place: str) -> None:
    """Check that no cell occurs twice, and that there are no more distinct sizes than a table can hold."""
    seen = Counter((cell.dtype, cell.operation, cell.threads, cell.rows, cell.classes) for cell in profile.cells)
    cell, times = seen.most_common(1)[0]
    if times > 1:
        raise DocumentError(f"{_in(place)}the cell {cell[3]} x {cell[4]} {cell[0]} {cell[1]} occurs {times} times")
    for position, what in ((3, "row counts"), (4, "class counts")):
        distinct = Counter(group[:3] for group in {(*key[:3], key[position]) for key in seen})
        most = max(distinct.values())
        if most > MOST_DISTINCT:
            raise DocumentError(
                f"{_in(place)}{most} different {what} for one dtype and operation; at most {MOST_DISTINCT} are allowed"
            )


def _in(place: str) -> str:
    return f"in {place.removesuffix('.')}, " if place else ""


def _check_distinct(names: Iterable[str], where: str) -> None:
    name, times = Counter(names).most_common(1)[0]
    if times > 1:
        raise DocumentError(f"{where} names {name[:40]!r} {times} times")
