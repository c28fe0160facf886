"""The page that shows records of `softmax-ce compare` from several machines side by side.

A record is a file in docs/measurements/machines; its name is the machine's short name. To add a machine, run the
command that the page names there, and commit the record.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

VERSION = 3  # of the record's format, below which fields are missing that this page reads
DECIDED_BY = ("avx512f", "avx2", "asimd", "sse2")  # the widest that a CPU has is what its column is told apart by
OPERATIONS = {"fused": "Loss and gradient in one call", "forward": "Loss alone", "backward": "Gradient alone"}
COMMAND = "softmax-ce compare --set quick,vision,llm,boosting --op forward,fused --time-budget 150s --no-cold-start"

HEAD = f"""\
# Machines side by side

One record of `softmax-ce compare` for each kind of machine. Every figure comes from paired, interleaved rounds on one
machine; a ratio compares two candidates on that machine, never two machines. Read the ratios first: they carry over
to machines of the same kind. Absolute times do not.

The baseline of every ratio is the max-shifted formula as you would write it in NumPy (`numpy-written`). Bold marks the
fastest candidates of a cell on a machine; several bold names are a tie.

To add a machine, leave it alone for three minutes and run

```sh
{COMMAND} \\
  --json docs/measurements/machines/NAME.json
```

then commit the file. The page is made from the records at the next build.
"""


def page(paths: list[Path]) -> str:
    """Return the page, in Markdown."""
    records = {path.stem: read(path) for path in paths}
    lines = [HEAD, "## The machines", "", *_machines(records)]
    for operation, title in OPERATIONS.items():
        cells = _cells(records, operation)
        if not cells:
            continue
        lines += [f"## {title}", "", f"### Who is fastest ({operation})", "", *_fastest(records, operation, cells)]
        for name, heading in _candidates(records, operation).items():
            lines += [f"### {heading} ({operation})", "", *_times(records, operation, cells, name)]
    return "\n".join(lines) + "\n"


def read(path: Path) -> dict[str, Any]:
    """Return a record.

    Raises
    ------
    ValueError
        The file is not a record, or one of an older format.
    """
    record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if record.get("schema") != "softmax-ce/compare" or record["version"] < VERSION:
        raise ValueError(
            f"{path} is not a record of `softmax-ce compare` of version {VERSION} or later: measure it again"
        )
    return record


def _machines(records: dict[str, Any]) -> list[str]:
    rows = [
        ("processor", lambda r: r["machine"]["cpu"]),
        ("widest vectors", lambda r: _vectors(r["machine"]["instruction_sets"])),
        ("CPUs used", lambda r: r["machine"]["cpus_available"]),
        ("system", lambda r: r["machine"]["os"]),
        ("Python", lambda r: r["machine"]["python"]),
        ("packages", lambda r: ", ".join(f"{k} {v}" for k, v in r["machine"]["packages"].items() if v)),
        ("softmax-ce", lambda r: f"{r['machine']['softmax_ce']}, commit {(r['machine']['commit'] or '-')[:12]}"),
        ("measured", lambda r: r["date"][:10]),
        ("control off itself, worst cell", lambda r: f"{max(_drift(cell) for cell in r['cells']):.1%}"),
        ("cells disturbed by other programs", lambda r: f"{sum(map(_disturbed, r['cells']))} of {len(r['cells'])}"),
    ]
    body = [[title, *(str(value(record)) for record in records.values())] for title, value in rows]
    return _table(["", *records], body)


def _vectors(sets: list[str]) -> str:
    return next((name for name in DECIDED_BY if name in sets), "unknown")


def _drift(cell: dict[str, Any]) -> float:
    """How far the control is from itself, under its two names."""
    return abs(cell["control"]["ratio"]["median"] - 1)


def _disturbed(cell: dict[str, Any]) -> bool:
    return bool(cell["drifted"] or cell["crowded"])


def _cells(records: dict[str, Any], operation: str) -> dict[str, str]:
    """Key -> title of every cell in which some machine has the operation, in the order measured."""
    found = {}
    for record in records.values():
        for cell in record["cells"]:
            if operation in cell["operations"]:
                inputs = cell["inputs"]
                found[cell["key"]] = f"{inputs['rows']} × {inputs['classes']} ({inputs['name']})"
    return found


def _candidates(records: dict[str, Any], operation: str) -> dict[str, str]:
    """Name -> title of every candidate that some machine timed."""
    found = {}
    for record in records.values():
        timed = {
            entry["name"] for cell in record["cells"] for entry in cell["entries"] if operation in entry["timings"]
        }
        found.update({each["name"]: each["title"] for each in record["candidates"] if each["name"] in timed})
    return found


def _fastest(records: dict[str, Any], operation: str, cells: dict[str, str]) -> list[str]:
    rows = []
    for key, title in cells.items():
        row = [title]
        for record in records.values():
            cell = _cell(record, key)
            names = cell["operations"].get(operation, {}).get("fastest", []) if cell else []
            row.append(" = ".join(names) or "–")
        rows.append(row)
    return _table(["rows × classes", *records], rows)


def _times(records: dict[str, Any], operation: str, cells: dict[str, str], name: str) -> list[str]:
    rows = []
    for key, title in cells.items():
        row = [title]
        for record in records.values():
            cell = _cell(record, key)
            entry = next((entry for entry in cell["entries"] if entry["name"] == name), None) if cell else None
            row.append(_figures(cell, entry, operation) if cell and entry else "–")
        rows.append(row)
    return _table(["rows × classes", *records], rows)


def _figures(cell: dict[str, Any], entry: dict[str, Any], operation: str) -> str:
    timing = entry["timings"].get(operation)
    if timing is None:
        return entry["status"]
    words = f"{_seconds(timing['time']['median'])}, {_times_as_fast(timing['speedup'])}"
    if entry["status"] != "ranked":
        return f"{words}, {entry['status']}"
    return f"**{words}**" if entry["name"] in cell["operations"][operation]["fastest"] else words


def _times_as_fast(speedup: dict[str, float | None]) -> str:
    median, low, high = (speedup[name] for name in ("median", "low", "high"))
    assert median is not None
    return f"{_short(median)} × ({_short(low)}–{_short(high)})" if low and high else f"{_short(median)} × (few rounds)"


def _short(value: float) -> str:
    return f"{value:.3g}" if value < 999.5 else f"{value:.0f}"


def _seconds(seconds: float) -> str:
    power = min(max(math.floor(math.log10(seconds) / 3), -3), 0)
    return f"{_short(seconds / 1000.0**power)} {('s', 'ms', 'µs', 'ns')[-power]}"


def _cell(record: dict[str, Any], key: str) -> dict[str, Any] | None:
    return next((cell for cell in record["cells"] if cell["key"] == key), None)


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    return [*_lines(head, rows), ""]


def _lines(head: list[str], rows: list[list[str]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield f"| {' | '.join('---' for _ in head)} |"
    for row in rows:
        yield f"| {' | '.join(cell.replace('|', '/') for cell in row)} |"
