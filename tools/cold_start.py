"""``python -m tools.cold_start``: measure the cold start of every available backend, and print a table."""

from __future__ import annotations

from collections.abc import Sequence

import click
import numpy as np

import softmax_ce as sce
from softmax_ce_bench.measure.cold_start import PROCESSES, measure
from softmax_ce_bench.report.words import duration


def spread(seconds: Sequence[float]) -> str:
    """Return the median and the range below it, or a dash if there is nothing."""
    if not seconds:
        return "-"
    return f"{duration(float(np.median(seconds)))}\n{duration(min(seconds))} to {duration(max(seconds))}"


@click.command()
@click.option("--processes", type=click.IntRange(min=1), default=PROCESSES, show_default=True, help="Fresh processes.")
def main(processes: int) -> None:
    """Measure the cold start of every available backend."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    available = {info.name: info.ahead_of_time for info in sce.backends() if info.available}
    table = Table(box=box.SIMPLE_HEAD, title=f"Fresh processes: median and range of {processes}")
    for heading in ("backend", "import\nsoftmax_ce", "first call", "first call,\ncached", "second call"):
        table.add_column(heading, no_wrap=True)
    for result in measure(available, processes):
        times = (result.imported, result.first, result.cached, result.second)
        table.add_row(result.backend, *map(spread, times), end_section=True)
    Console().print(table)


if __name__ == "__main__":
    main()
