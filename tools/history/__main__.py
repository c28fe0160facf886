"""``python -m tools.history``: print the steps in asv's results, and draw the main cells."""

from __future__ import annotations

from pathlib import Path

import click
from rich.table import Table

import softmax_ce as sce
from softmax_ce_bench.terminal.console import Refused, console
from softmax_ce_bench.terminal.outputs import check_folder
from tools.history.figure import caption, draw, main_cells
from tools.history.results import History, HistoryError, Series, read
from tools.history.steps import LEAST, Step, steps

WIDTH = 140  # of tables in a file or a pipe


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--machine", required=True, help="Name that the results are stored under: MACHINE of `make asv`.")
@click.option("--config", type=click.Path(path_type=Path, exists=True, dir_okay=False), default="asv.conf.json",
              show_default=True, help="Configuration of asv, in the root of a checkout.")  # fmt: skip
@click.option("--figure", type=click.Path(path_type=Path, dir_okay=False),
              help="Also draw the main cells into this file: .png, .svg or .pdf.")  # fmt: skip
@click.option("--all", "every", is_flag=True, help="Print the steps of every cell, not only of those in the figure.")
@click.option("--least", type=click.FloatRange(min=0, min_open=True), default=LEAST, show_default=True,
              help="Leave out smaller changes: 0.05 is 5 %.")  # fmt: skip
def main(machine: str, config: Path, figure: Path | None, every: bool, least: float) -> None:
    """Print the steps in the speed of the commits that asv has measured."""
    check_folder("--figure", figure)
    try:
        history = read(config, machine)
        names = [info.name for info in sce.backends() if info.stable]
        cells = list(history.series) if every else [each for name in names for each in main_cells(history, name)]
    except HistoryError as error:
        raise Refused(str(error)) from None
    shown_on = console(WIDTH)
    shown_on.print(_table(history, cells, least))
    shown_on.print(caption(history), style="dim", markup=False)
    if figure is not None:
        draw(history, figure)
        shown_on.print(f"Figure written to {figure}", markup=False)


def _table(history: History, cells: list[Series], least: float) -> Table:
    """Return the steps as a table, in the order of the commits."""
    table = Table(title=f"{len(history.commits)} commits, {len(cells)} cells; steps of {least:.0%} or more")
    table.add_column("commit", no_wrap=True)
    for name in ("subject", "cell"):
        table.add_column(name, overflow="fold")
    for name in ("before", "after", "change"):
        table.add_column(name, justify="right", no_wrap=True)
    found = [(step, series) for series in cells for step in steps(series, least)]
    last = None
    for step, series in sorted(found, key=lambda pair: pair[0].commit):
        commit = history.commits[step.commit]
        if commit != last:
            table.add_section()
        here = (commit.hash[:7], commit.subject) if commit != last else ("", "")
        table.add_row(*here, cell_name(series), *_numbers(step, series.unit))
        last = commit
    return table


def cell_name(series: Series) -> str:
    """Return a short but unambiguous name of a benchmark and its parameters."""
    what = series.benchmark.rpartition(".")[2].partition("_")[2].replace("_", " ")
    return f"{', '.join(series.params.values())}: {what}" if series.params else what


def _numbers(step: Step, unit: str) -> tuple[str, str, str]:
    scale, name = _scale(step.before, unit)
    return f"{step.before / scale:.3g} {name}", f"{step.after / scale:.3g} {name}", f"{step.ratio - 1:+.0%}"


def _scale(value: float, unit: str) -> tuple[float, str]:
    """Return a divisor and its unit, such as microseconds for what asv keeps in seconds."""
    if unit == "seconds":
        return next(pair for pair in ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (0.0, "")) if value >= pair[0])
    return (2.0**20, "MiB") if unit == "bytes" else (1.0, unit)


if __name__ == "__main__":
    main()
