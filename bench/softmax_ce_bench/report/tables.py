"""Tables for the terminal, readable at 80 columns and without colour."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from rich import box
from rich.console import Group
from rich.markup import escape
from rich.table import Table
from rich.text import Text

import softmax_ce as sce
from softmax_ce_bench.conformance import Result


def info_table(facts: dict[str, Any]) -> Group:
    """Return the tables of ``softmax-ce info``."""
    packages = ", ".join(f"{name} {version or '(not installed)'}" for name, version in facts["packages"].items())
    variables = ", ".join(f"{name}={value}" for name, value in facts["thread_variables"].items())
    rows = {
        "softmax-ce": facts["softmax_ce"],
        "Python": facts["python"],
        "packages": packages,
        "system": facts["os"],
        "processor": facts["cpu"],
        "instruction sets": " ".join(facts["instruction_sets"]) or "(not known)",
        "CPUs": f"{facts['cpus_available']} available to this process, {facts['cpus_installed']} installed",
        "BLAS": facts["blas"] or "(not known)",
        "thread variables": variables or "(none set)",
        "default backend": facts["default_backend"],
        "profile": facts["profile"] or "none",
    }
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True, style="bold")
    table.add_column(overflow="fold")
    for name, value in rows.items():
        table.add_row(name, escape(str(value)))
    return Group(table, "", _backend_table(facts["backends"]), *absent(facts["backends"], reasons=False))


def _backend_table(backends: Iterable[dict[str, Any]]) -> Table:
    table = plain_table()
    table.add_column("backend", style="bold", no_wrap=True)
    table.add_column("state", no_wrap=True)
    table.add_column("details", overflow="fold")
    for backend in backends:
        state = "available" if backend["available"] else "not available"
        details = backend["details"] or backend["summary"] if backend["available"] else backend["why_unavailable"]
        table.add_row(backend["name"], state if backend["stable"] else f"{state}, not stable", escape(details))
    return table


def absent(backends: Iterable[dict[str, Any]], *, reasons: bool = True) -> list[Text]:
    """Return why a backend is missing and how to get it. The text is never wrapped, so that commands can be copied."""
    lines = []
    for backend in backends:
        if backend["available"]:
            continue
        if reasons:
            lines.append(f"{backend['name']} is not available here: {backend['why_unavailable']}")
        if backend["how_to_get"]:
            lines.append(f"To get {backend['name']}: {backend['how_to_get']}")
    return [Text(f"  {line}", no_wrap=True, overflow="ignore") for line in lines]


def plain_table() -> Table:
    """Return an empty table in the common style."""
    return Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)


def checks_table(results: Sequence[Result]) -> Table:
    """Return the results of one backend's conformance checks, one row per check."""
    table = plain_table()
    table.add_column("check", overflow="fold")
    table.add_column("passed", justify="right")
    table.add_column("worst error\nover bound", justify="right")
    for check in dict.fromkeys(result.check for result in results):
        own = [result for result in results if result.check == check]
        passed, worst = sum(result.passed for result in own), max(result.worst for result in own)
        style = "" if passed == len(own) else "red"
        table.add_row(escape(check), f"{passed} of {len(own)}", f"{worst:.3g}" if worst else "-", style=style)
    return table


def conformance_table(results: dict[str, list[Result]]) -> Group:
    """Return all backends' conformance, one row per backend, then the failures and the checks that could not run."""
    table = plain_table()
    table.add_column("backend", style="bold")
    for heading in ("checks", "passed", "failed", "worst error\nover bound"):
        table.add_column(heading, justify="right")
    table.add_column("in the check", overflow="fold")
    for name, own in results.items():
        passed, worst = sum(result.passed for result in own), max(own, key=lambda result: result.worst)
        table.add_row(
            name, str(len(own)), str(passed), str(len(own) - passed), f"{worst.worst:.3g}", escape(_where(worst)),
            style="" if passed == len(own) else "red",
        )  # fmt: skip
    notes = [_check_note(name, result) for name, own in results.items() for result in own if result.message]
    unstable = [name for name in results if not sce.get_backend(name).info.stable]
    if unstable:
        notes.append(Text(f"  {', '.join(unstable)}: not stable; its checks pin how it overflows", style="dim"))
    return Group("", table, *notes)


def _check_note(name: str, result: Result) -> Text:
    said = f"{name}: {_where(result)}: {result.message}"
    return Text(f"  {said}") if result.passed else Text(f"  FAILED {said}", style="red")


def _where(result: Result) -> str:
    return f"{result.check} [{result.dtype}, threads={result.threads}]"
