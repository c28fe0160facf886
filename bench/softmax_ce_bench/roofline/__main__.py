"""``python -m softmax_ce_bench.roofline``: measure, print the goals with what was reached, keep a record."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from softmax_ce_bench.report.record import save
from softmax_ce_bench.roofline import machine, pool_cost, run, tables
from softmax_ce_bench.roofline.record import as_dict

WIDTH = 120  # of tables in a file or a pipe
REDRAW_SECONDS = 0.2
INTERRUPTED = 130  # what a shell reports for Ctrl-C
FULL_SECONDS, QUICK_SECONDS = 300.0, 60.0


class _Narrator(run.Listener):
    """A bar on a terminal; a line for each session elsewhere."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task = progress.add_task("", total=1.0)
        self._text = ""
        self._drawn = 0.0

    def stage(self, text: str, done: float) -> None:
        now = time.monotonic()
        if text != self._text or now - self._drawn > REDRAW_SECONDS:
            self._progress.update(self._task, description=text, completed=done, refresh=True)
            self._text, self._drawn = text, now

    def measured(self, outcome: run.Outcome) -> None:
        if self._progress.disable:
            click.echo(f"{outcome.session.key}: {outcome.samples.rounds} rounds", err=True)


def _writable(_context: click.Context, parameter: click.Parameter, value: Path | None) -> Path | None:
    """Found out before the measuring, not after it."""
    if value is not None and not value.absolute().parent.is_dir():
        raise click.BadParameter(f"{value}: there is no folder {value.absolute().parent}")
    return value


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--quick", is_flag=True, help="Fewer cells, in about a minute.")
@click.option("--json", "json_file", type=click.Path(path_type=Path, dir_okay=False), callback=_writable,
              help="Also write a record here.")  # fmt: skip
@click.option("--plots", type=click.Path(path_type=Path, file_okay=False), callback=_writable,
              help="Also draw figures into this folder.")  # fmt: skip
@click.option("--only", multiple=True, metavar="GLOB", help="Sessions to run, such as 'copy/*'; may be repeated.")
@click.option("--time-budget", type=click.FloatRange(min=0), help="Seconds in all.  [default: 300; quick: 60]")
@click.option("--array-mb", type=click.FloatRange(min=0.1), default=machine.ARRAY_MB, show_default=True,
              help="Largest logits, in 10^6 bytes.")  # fmt: skip
@click.option("--list", "listing", is_flag=True, help="List the sessions, and measure nothing.")
def main(
    quick: bool,
    json_file: Path | None,
    plots: Path | None,
    only: tuple[str, ...],
    time_budget: float | None,
    array_mb: float,
    listing: bool,
) -> None:
    """How far the kernels are from what the machine allows, and from their peers."""
    seconds = time_budget if time_budget is not None else QUICK_SECONDS if quick else FULL_SECONDS
    report = run.prepare(run.Plan(quick, seconds, array_mb, only))
    if not run.chosen(report) and not report.plan.wants(pool_cost.KEY):
        raise click.BadParameter(f"no session matches {', '.join(only)}; --list shows them", param_hint="--only")
    if listing:
        for session in run.chosen(report):
            candidates = ", ".join(str(candidate) for candidate in session.candidates)
            click.echo(f"{session.key}  {session.megabytes:.3g} MB  about {session.weight:.1f} s: {candidates}")
        return
    piped = not sys.stdout.isatty() and "COLUMNS" not in os.environ
    console = Console(width=WIDTH if piped else None, highlight=False)
    interrupted = False
    with _progress(console) as progress:
        try:
            run.run(report, _Narrator(progress))
        except KeyboardInterrupt:
            interrupted = True
    record = as_dict(report)
    console.print(tables.everything(record))
    if json_file is not None:
        save(record, json_file)
        console.print(f"Record written to {json_file}", markup=False)
    if plots is not None:
        from softmax_ce_bench.roofline.plots import draw  # Matplotlib takes its time to load

        for path in draw(record, plots):
            console.print(f"Figure written to {path}", markup=False)
    if interrupted:
        click.echo("Interrupted. What is shown above is complete up to the last session.", err=True)
        sys.exit(INTERRUPTED)


def _progress(console: Console) -> Progress:
    return Progress(
        BarColumn(30),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(),
        TextColumn("{task.description}", markup=False),
        console=console,
        transient=True,
        auto_refresh=False,  # else a thread would draw in the middle of what is being timed
        disable=not console.is_terminal,
    )


if __name__ == "__main__":
    main()
