"""A comparison as a JSON file that is either whole or not there, and back.

compare.schema.json, beside this file, is the format's description. Reading checks every field against the types of
:mod:`softmax_ce_bench.compare.result`: a file may come from anywhere. Its strings may hold any character, as files'
names do; whoever prints them escapes them (:mod:`softmax_ce_bench.report.printable`).
"""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import os
import re
import stat
import types
import typing
from functools import lru_cache
from pathlib import Path
from typing import Any

from softmax_ce_bench.compare import result as model
from softmax_ce_bench.compare.result import Run
from softmax_ce_bench.measure.operations import TABLE
from softmax_ce_bench.measure.plain import plain
from softmax_ce_bench.measure.stats import Ratio

SCHEMA_FILE = Path(__file__).with_name("compare.schema.json")
LARGEST = 256 << 20  # bytes; a run of a hundred cells takes a few megabytes
_HALF_A_PAIR = re.compile("[\ud800-\udfff]")


class RecordError(ValueError):
    """A file is no record that can be read; the message is one line and says why."""


def as_dict(run: Run) -> dict[str, Any]:
    """Return the record of a run: dicts, lists, strings, numbers and None. A number that is infinite is None."""
    record: dict[str, Any] = plain(run)
    return record


def from_dict(record: Any) -> Run:
    """Return a run from its record.

    Raises
    ------
    RecordError
        It is not one, or of another version, or a field is missing, unknown or of the wrong type.
    """
    if not isinstance(record, dict) or record.get("schema") != model.SCHEMA:
        raise RecordError(f"it is no record of a comparison: its schema is not {model.SCHEMA!r}")
    if record.get("version") == 2:
        record = _of_version_2(record)
    if record.get("version") != model.VERSION or isinstance(record["version"], bool):
        found = record.get("version")
        shown = found if isinstance(found, int) else "unknown"
        raise RecordError(
            f"its format is version {shown}; this softmax-ce reads versions 2 and {model.VERSION}: run again"
        )
    run: Run = _parsed(record, Run, "")
    names = {candidate.name for candidate in run.candidates}
    if not run.settings.operations or not set(run.settings.operations) <= set(TABLE):
        raise RecordError(f"settings.operations must be some of {', '.join(TABLE)}")
    for k, cell in enumerate(run.cells):
        _check_cell(cell, names, run.settings.base, f"cells[{k}]")
    return run


def _of_version_2(record: dict[str, Any]) -> dict[str, Any]:
    """Return the same in the present version, as far as it is a record: there were no normalizers yet."""
    found: dict[str, Any] = copy.deepcopy(record) | {"version": model.VERSION}
    cells = found.get("cells")
    for cell in cells if isinstance(cells, list) else []:
        entries = cell.get("entries") if isinstance(cell, dict) else None
        for entry in entries if isinstance(entries, list) else []:
            errors = entry.get("errors") if isinstance(entry, dict) else None
            if isinstance(errors, dict):
                errors.setdefault("normalizers", {})
    return found


def as_text(record: dict[str, Any]) -> str:
    """Return a record, as from :func:`as_dict`, in JSON.

    A byte of a file's name that is not UTF-8 is half a surrogate pair in Python, which UTF-8 cannot hold, and becomes
    an escape sequence that is read back as it was.
    """
    text = json.dumps(record, indent=1, allow_nan=False, ensure_ascii=False)
    return _HALF_A_PAIR.sub(lambda found: f"\\u{ord(found[0]):04x}", text) + "\n"


def load(path: Path) -> Run:
    """Read a record.

    Raises
    ------
    RecordError
        The file is missing, unreadable, too large, not JSON, or no record.
    """
    try:
        record = json.loads(_read(path).decode("utf-8"), parse_constant=_no_constant)
        return from_dict(record)
    except RecordError as error:
        raise RecordError(f"{path}: {error}" if str(path) not in str(error) else str(error)) from None
    except FileNotFoundError:
        raise RecordError(f"{path}: no such file") from None
    except OSError as error:
        raise RecordError(f"{path} cannot be read: {error.strerror or error}") from None
    except RecursionError:
        raise RecordError(f"{path} is no record: it is nested too deeply") from None
    except ValueError as error:  # JSON and UTF-8 alike
        raise RecordError(f"{path} is not JSON, or not all of it is there: {error}") from None


def _read(path: Path) -> bytes:
    """Return a file's bytes, or what a pipe holds. It is opened without waiting for somebody who writes to it."""
    found = os.stat(path)
    if stat.S_ISREG(found.st_mode) and found.st_size > LARGEST:
        raise RecordError(f"{path} is larger than any record: {found.st_size} bytes")
    if stat.S_ISDIR(found.st_mode) or stat.S_ISCHR(found.st_mode) or stat.S_ISBLK(found.st_mode):
        raise RecordError(f"{path} is a {'folder' if stat.S_ISDIR(found.st_mode) else 'device'}, not a file")
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    with os.fdopen(handle, "rb") as file:
        if hasattr(os, "set_blocking"):
            os.set_blocking(handle, True)
        data = file.read(LARGEST + 1)
    if len(data) > LARGEST:
        raise RecordError(f"{path} is larger than any record: more than {LARGEST} bytes")
    if not data:
        raise RecordError(f"{path} is no record: it is empty")
    return data


def _no_constant(name: str) -> float:
    raise RecordError(f"{name} is not JSON")


@lru_cache(maxsize=64)
def _types(kind: Any) -> dict[str, Any]:
    return typing.get_type_hints(kind)


_NAMES = {str: "a string", int: "a whole number", float: "a number", bool: "true or false"}


def _parsed(value: Any, kind: Any, where: str) -> Any:
    """Return a value of the model's type from plain values."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind):
        return _dataclass(value, kind, where)
    if origin in (tuple, list):
        if not isinstance(value, list):
            raise RecordError(f"{where} must be a list, not {_shown(value)}")
        return origin(_parsed(item, arguments[0], f"{where}[{k}]") for k, item in enumerate(value))
    if origin is dict:
        if not isinstance(value, dict):
            raise RecordError(f"{where} must be an object, not {_shown(value)}")
        return {key: _parsed(item, arguments[1], f"{where}.{key}") for key, item in value.items()}
    if origin is types.UnionType:  # X | None
        return None if value is None else _parsed(value, arguments[0], where)
    return _scalar(value, kind, where)


def _scalar(value: Any, kind: Any, where: str) -> Any:
    if kind is float and value is None:
        return math.inf
    allowed = (int, float) if kind is float else kind
    if not isinstance(value, allowed) or (isinstance(value, bool) and kind is not bool):
        raise RecordError(f"{where} must be {_NAMES[kind]}, not {_shown(value)}")
    if isinstance(value, str):
        return value
    try:
        return kind(value)
    except OverflowError:
        raise RecordError(f"{where} is too large") from None


def _dataclass(value: Any, kind: Any, where: str) -> Any:
    if not isinstance(value, dict):
        raise RecordError(f"{where} must be an object, not {_shown(value)}")
    hints = _types(kind)
    inside = f"{where}." if where else ""
    missing = [name for name in hints if name not in value]
    if missing:
        raise RecordError(f"{inside}{missing[0]} is missing")
    unknown = [name for name in value if name not in hints]
    if unknown:
        raise RecordError(f"{inside}{_shown(unknown[0])} is not a field of the format")
    found = kind(**{name: _parsed(value[name], hint, f"{inside}{name}") for name, hint in hints.items()})
    if isinstance(found, Ratio) and not (0 < found.median < math.inf and 0 <= found.low <= found.median <= found.high):
        raise RecordError(f"{where} is no interval of positive numbers with its median in it")
    return found


def _shown(value: Any) -> str:
    shown = ascii(value) if isinstance(value, (str, int, float, bool, type(None))) else type(value).__name__
    return shown if len(shown) <= 40 else f"{shown[:37]}..."


def _check_cell(cell: model.ComparedCell, names: set[str], base: str, where: str) -> None:
    """What the types cannot say, and the tables rely on."""
    entries = {entry.name: entry for entry in cell.entries}
    if len(entries) != len(cell.entries) or base not in entries:
        raise RecordError(f"{where}.entries must have each candidate once, {base!r} among them")
    for name, entry in entries.items():
        if name not in names:
            raise RecordError(f"{where}: {_shown(name)} is not among the candidates")
        if entry.status not in (model.RANKED, model.UNRANKED, model.REJECTED, model.SKIPPED):
            raise RecordError(f"{where}: {_shown(entry.status)} is not a status")
        for operation, timing in entry.timings.items():
            if operation not in cell.operations:
                raise RecordError(f"{where}: {_shown(operation)} is timed, and not among the cell's operations")
            _check_times(timing.seconds, cell.rounds, f"{where}, {name} {operation}")
            if not 0 < timing.time.median < math.inf:
                raise RecordError(f"{where}, {name} {operation}: the time must be positive")
    _check_times(cell.control.first, cell.rounds, f"{where}, control")
    _check_times(cell.control.second, cell.rounds, f"{where}, control")
    for operation, facts in cell.operations.items():
        if operation not in TABLE:
            raise RecordError(f"{where}: {_shown(operation)} is not an operation")
        if not set(facts.fastest) <= set(entries):
            raise RecordError(f"{where}: the fastest in {operation} is not among the entries")
        if any(operation not in entries[name].timings for name in facts.fastest):
            raise RecordError(f"{where}: the fastest in {operation} has no times there")


def _check_times(seconds: tuple[float, ...], rounds: int, where: str) -> None:
    if len(seconds) != rounds or not all(0 < value < math.inf for value in seconds):
        raise RecordError(f"{where}: there must be {rounds} times, one a round, all of them positive")
