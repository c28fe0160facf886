"""A comparison as a JSON file that is either whole or not there, and back.

The types of :mod:`softmax_ce_bench.compare.result` are the format's description, and compare.schema.json is made from
them. A file may come from anywhere: reading checks every field. Its strings may hold any character, as files' names do;
whoever prints them escapes them (:mod:`softmax_ce_bench.report.printable`).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from softmax_ce import documents
from softmax_ce.choice.profile import files
from softmax_ce.documents import DocumentError, Format
from softmax_ce_bench.compare.result import ComparedCell, Run

SCHEMA_FILE = Path(__file__).with_name("compare.schema.json")
LARGEST = 256 << 20  # bytes; a run of a hundred cells takes a few megabytes


class RecordError(ValueError):
    """A file is no record that can be read; the message is one line and says why."""


def _from_version_2(record: dict[str, Any]) -> dict[str, Any]:
    """Return the same in version 3, as far as it is a record: there were no normalizers yet."""
    found: dict[str, Any] = copy.deepcopy(record) | {"version": 3}
    for errors in _errors_in(found):
        errors.setdefault("normalizers", {})
    return found


def _from_version_3(record: dict[str, Any]) -> dict[str, Any]:
    """Return the same in version 4: of the operations beside the losses, there were normalizers alone."""
    found: dict[str, Any] = copy.deepcopy(record) | {"version": 4}
    for errors in _errors_in(found):
        if "normalizers" in errors:
            errors["operations"] = errors.pop("normalizers")
    return found


def _from_version_4(record: dict[str, Any]) -> dict[str, Any]:
    """Return the same in version 5: there was no linear layer, and nobody asked for the BLAS."""
    found: dict[str, Any] = copy.deepcopy(record) | {"version": 5}
    machine = found.get("machine")
    if isinstance(machine, dict):
        machine.setdefault("blas", None)
    for cell in _dicts(found.get("cells")):
        if isinstance(cell.get("inputs"), dict):
            cell["inputs"].setdefault("features", None)
        for entry in _dicts(cell.get("entries")):
            timings = entry.get("timings")
            for timing in _dicts(list(timings.values()) if isinstance(timings, dict) else None):
                timing.setdefault("peak_memory", None)
    return found


def _dicts(values: Any) -> list[dict[str, Any]]:
    return [each for each in values if isinstance(each, dict)] if isinstance(values, list) else []


def _errors_in(record: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for cell in _dicts(record.get("cells")):
        for entry in _dicts(cell.get("entries")):
            errors = entry.get("errors")
            if isinstance(errors, dict):
                yield errors


FORMAT = Format(
    Run,
    "softmax-ce/compare",
    5,
    "A comparison of softmax-ce",
    older={2: _from_version_2, 3: _from_version_3, 4: _from_version_4},
)

as_text = documents.as_text


def as_dict(run: Run) -> dict[str, Any]:
    """Return the record of a run: dicts, lists, strings, numbers and None. A number that is infinite is None."""
    return FORMAT.plain(run)


def from_dict(record: Any) -> Run:
    """Return a run from its record.

    Raises
    ------
    RecordError
        It is not one, or of another version, or a field is missing, unknown or of the wrong type.
    """
    try:
        run = FORMAT.read(record)
        names = {candidate.name for candidate in run.candidates}
        for k, cell in enumerate(run.cells):
            _check_cell(cell, names, run.settings.base, f"cells[{k}]")
    except DocumentError as error:
        raise RecordError(str(error)) from None
    return run


def load(path: Path) -> Run:
    """Read a record from a file or a pipe.

    Raises
    ------
    RecordError
        The file is missing, unreadable, too large, not JSON, or no record.
    """
    try:
        return from_dict(files.read_json(path, LARGEST, pipes=True))
    except (DocumentError, RecordError) as error:
        raise RecordError(f"record {path}: {error}") from None


def _check_cell(cell: ComparedCell, names: set[str], base: str, where: str) -> None:
    """Check what the types cannot say, and the tables rely on."""
    entries = {entry.name: entry for entry in cell.entries}
    if len(entries) != len(cell.entries) or base not in entries:
        raise DocumentError(f"{where}.entries must have each candidate once, {base!r} among them")
    times = {"control": cell.control.first, "control again": cell.control.second}
    for name, entry in entries.items():
        if name not in names:
            raise DocumentError(f"{where}: {documents.shown(name)} is not among the candidates")
        for operation, timing in entry.timings.items():
            if operation not in cell.operations:
                raise DocumentError(f"{where}: {operation} is timed, and not among the cell's operations")
            times[f"{name} {operation}"] = timing.seconds
    for what, seconds in times.items():
        if len(seconds) != cell.rounds:
            raise DocumentError(f"{where}, {what}: there are {len(seconds)} times; must be {cell.rounds}, one a round")
    for operation, facts in cell.operations.items():
        if not set(facts.fastest) <= set(entries):
            raise DocumentError(f"{where}: the fastest in {operation} is not among the entries")
        if any(operation not in entries[name].timings for name in facts.fastest):
            raise DocumentError(f"{where}: the fastest in {operation} has no times there")
