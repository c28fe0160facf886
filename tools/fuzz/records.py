"""Damaged records of comparisons: they are read and shown, or refused with the documented error."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from rich.console import Console

from softmax_ce_bench.compare.result import Run
from softmax_ce_bench.report import comparison, difference, html, markdown, record
from tools.fuzz import mutations


def cases() -> st.SearchStrategy[Any]:
    """Return the strategy for cases: the damage, and whether to make the HTML page too, which takes a hundred times as
    long.
    """
    return st.fixed_dictionaries(
        {"damage": mutations.recipes(), "page": st.integers(0, 49).map(lambda n: n == 49), "verbose": st.booleans()}
    )


def check(case: dict[str, Any]) -> None:
    """Check one damaged record, as `softmax-ce show` and `diff` would read it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "run.json")
        path.write_bytes(mutations.damaged(record.as_dict(_whole()), case["damage"]))
        try:
            run = record.load(path)
        except record.RecordError as error:
            message = str(error)
            assert str(path) in message, f"the message does not name the file: {message}"
            assert message.isprintable(), f"the message is not one line of text: {message!r}"
            assert len(message) < 2000, f"the message has {len(message)} characters"
            return
    assert record.from_dict(record.as_dict(run)) == run, (
        "a value that was read changes when it is written and read again"
    )
    _print(comparison.whole(run, verbose=case["verbose"]))
    markdown.whole(run)
    for before, after in ((run, _whole()), (_whole(), run)):
        try:
            found = difference.compare(before, after, force=True)
        except difference.DifferenceError:
            continue
        _print(difference.table(found, difference.THRESHOLD))
    if case["page"]:
        html.page(run)


def _print(renderable: Any) -> None:
    """Print as to a pipe. A terminal obeys control characters, and the file may come from anywhere."""
    console = Console(width=100)
    with console.capture() as capture:
        console.print(renderable)
    assert capture.get().replace("\n", "").isprintable(), "control characters are printed"


@cache
def _whole() -> Run:
    """Return a run in which every part of the format occurs."""
    from test_show_diff import full_run  # here: it brings in pytest

    return full_run()
