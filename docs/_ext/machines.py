"""The page that shows records of `softmax-ce compare` from several machines side by side.

A record is a file in docs/measurements/machines; its name is the machine's short name. To add a machine, run the
command that the page names there, and commit the record.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

VERSION = 4  # of the record's format, below which fields are missing that this page reads
DECIDED_BY = ("avx512f", "avx2", "asimd", "sse2")  # the widest that a CPU has is what its column is told apart by
OPERATIONS = {"fused": "Loss and gradient in one call", "forward": "Loss alone", "backward": "Gradient alone"}
COMMAND = """\
softmax-ce compare --set quick,vision,llm,boosting --op forward,fused \\
  --time-budget 150s --no-cold-start"""

HEAD = f"""\
# Machines side by side

One record of `softmax-ce compare` for each kind of machine. Every figure comes from paired, interleaved rounds on one
machine; a ratio compares two candidates on that machine, never two machines. Read the ratios first: they carry over
to machines of the same kind. Absolute times do not.

The baseline of every ratio is the max-shifted formula as you would write it in NumPy (`numpy-written`). Bold marks the
fastest candidate of a row; several bold ones are a tie. Italics mark results that are right here but not ranked,
because the candidate overflows by design. The intervals of the ratios are in the records.

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
        if cells:
            names = _candidates(records, operation)
            lines += [f"## {title}", "", f"### Speed-up over the formula, {operation}", ""]
            lines += _figures(records, operation, cells, names, _speedup)
            lines += [f"### Time of a call, {operation}", ""]
            lines += _figures(records, operation, cells, names, _time)
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
        raise ValueError(f"{path} is no record of `softmax-ce compare` of version {VERSION} or later: measure it again")
    return record


def _machines(records: dict[str, Any]) -> list[str]:
    rows: list[tuple[str, Callable[[Any], Any]]] = [
        ("processor", lambda r: r["machine"]["cpu"]),
        ("widest vectors", lambda r: _vectors(r["machine"]["instruction_sets"])),
        ("CPUs used", lambda r: r["machine"]["cpus_available"]),
        ("system", lambda r: r["machine"]["os"]),
        ("Python", lambda r: r["machine"]["python"]),
        ("packages", lambda r: ", ".join(f"{k} {v}" for k, v in r["machine"]["packages"].items() if v)),
        (
            "other libraries",
            lambda r: ", ".join(f"{c['title']} {c['version']}" for c in r["candidates"] if c["version"]),
        ),
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


def _candidates(records: dict[str, Any], operation: str) -> list[str]:
    """Every candidate that some machine timed: backends first, then other libraries, the formula last."""
    found: dict[str, bool] = {}
    for record in records.values():
        entries = [entry for cell in record["cells"] for entry in cell["entries"]]
        timed = {entry["name"] for entry in entries if operation in entry["timings"]}
        found.update({each["name"]: each["kind"] == "peer" for each in record["candidates"] if each["name"] in timed})
    return sorted(found, key=lambda name: (found[name], name == "numpy-written"))


def _figures(
    records: dict[str, Any], operation: str, cells: dict[str, str], names: list[str], words: Callable[[Any], str]
) -> list[str]:
    """A table: one row for each cell and machine, so that machines stand below each other; one column a candidate."""
    rows = []
    for key, title in cells.items():
        for machine, record in records.items():
            cell = next((cell for cell in record["cells"] if cell["key"] == key), None)
            if cell is not None and operation in cell["operations"]:
                entries = {entry["name"]: entry for entry in cell["entries"]}
                rows.append([title, machine, *(_figure(cell, entries.get(name), operation, words) for name in names)])
    return _table(["rows × classes", "machine", *names], rows)


def _figure(cell: dict[str, Any], entry: dict[str, Any] | None, operation: str, words: Callable[[Any], str]) -> str:
    timing = entry["timings"].get(operation) if entry else None
    if entry is None or timing is None:
        return "–"
    if entry["status"] != "ranked":
        return f"*{words(timing)}*"
    return f"**{words(timing)}**" if entry["name"] in cell["operations"][operation]["fastest"] else words(timing)


def _speedup(timing: dict[str, Any]) -> str:
    return f"{_short(timing['speedup']['median'])}×"


def _time(timing: dict[str, Any]) -> str:
    return _seconds(timing["time"]["median"])


def _short(value: float) -> str:
    return f"{value:.3g}" if value < 999.5 else f"{value:.0f}"


def _seconds(seconds: float) -> str:
    power = min(max(math.floor(math.log10(seconds) / 3), -3), 0)
    return f"{_short(seconds / 1000.0**power)}\u00a0{('s', 'ms', 'µs', 'ns')[-power]}"  # on one line


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    return [*_lines(head, rows), ""]


def _lines(head: list[str], rows: list[list[str]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield f"| {' | '.join('---' for _ in head)} |"
    for row in rows:
        yield f"| {' | '.join(cell.replace('|', '/') for cell in row)} |"
