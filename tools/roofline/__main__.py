"""``python -m tools.roofline``: measure, print the goals and the ratios reached, and keep a record."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import click

from softmax_ce_bench.report.record import as_text
from softmax_ce_bench.terminal.bar import Bar, progress
from softmax_ce_bench.terminal.group import INTERRUPTED
from softmax_ce_bench.terminal.outputs import CommandOutputs, Destination, OutputFile, check_folder
from tools.roofline import isa as instruction_set
from tools.roofline import machine, pool_cost, run, tables
from tools.roofline.record import as_dict

WIDTH = 120  # of tables in a file or a pipe
FULL_SECONDS, QUICK_SECONDS = 300.0, 60.0


class _RooflineProgress(run.SessionListener):
    """A progress bar on a terminal, or a line per session elsewhere."""

    def __init__(self, bar: Bar, *, piped: bool) -> None:
        self._bar = bar
        self._piped = piped

    def stage(self, text: str, done: float) -> None:
        self._bar.draw(text, done)

    def measured(self, outcome: run.SessionResult) -> None:
        if self._piped:
            click.echo(f"{outcome.session.key}: {outcome.samples.rounds} rounds", err=True)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--quick", is_flag=True, help="Measure fewer cells, in about a minute.")
@click.option("--json", "json_file", type=OutputFile(), help="Also write a record here.")  # fmt: skip
@click.option("--plots", type=click.Path(path_type=Path, file_okay=False),
              help="Also draw figures into this folder.")  # fmt: skip
@click.option("--only", multiple=True, metavar="GLOB", help="Sessions to run, such as 'copy/*'; may be repeated.")
@click.option(
    "--time-budget", type=click.FloatRange(min=0), help="Seconds for the whole run.  [default: 300; quick: 60]"
)
@click.option("--array-mb", type=click.FloatRange(min=0.1), default=machine.ARRAY_MB, show_default=True,
              help="Size of the largest logits in 10^6 bytes.")  # fmt: skip
@click.option("--isa", type=click.Choice((instruction_set.AVX2, instruction_set.AVX512)),
              help="Instruction set that all are limited to.  [default: the best of this CPU]")  # fmt: skip
@click.option("--list", "listing", is_flag=True, help="List the sessions, and measure nothing.")
def main(
    quick: bool,
    json_file: Destination | None,
    plots: Path | None,
    only: tuple[str, ...],
    time_budget: float | None,
    array_mb: float,
    isa: str | None,
    listing: bool,
) -> None:
    """Compare the kernels with what the machine allows, and with other libraries."""
    if isa is not None and not listing:
        hold_to(isa)
    outputs = CommandOutputs({"--json": json_file})
    check_folder("--plots", plots)
    seconds = time_budget if time_budget is not None else QUICK_SECONDS if quick else FULL_SECONDS
    report = run.prepare(run.RooflineRequest(quick, seconds, array_mb, only))
    if not run.chosen(report) and not report.plan.wants(pool_cost.KEY):
        raise click.BadParameter(f"no session matches {', '.join(only)}; --list shows them", param_hint="--only")
    if listing:
        for session in run.chosen(report):
            candidates = ", ".join(str(candidate) for candidate in session.candidates)
            click.echo(f"{session.key}  {session.megabytes:.3g} MB  about {session.weight:.1f} s: {candidates}")
        return
    shown_on = outputs.console(WIDTH)
    interrupted = False
    with progress(shown_on) as shown:
        try:
            run.run(report, _RooflineProgress(Bar(shown), piped=not shown_on.is_terminal))
        except KeyboardInterrupt:
            interrupted = True
    record = as_dict(report)
    shown_on.print(tables.everything(record))
    written = outputs.write("--json", lambda: as_text(record))
    if written is not None and not written.is_stdout:
        shown_on.print(f"Record written to {written}", markup=False)
    if plots is not None:
        from tools.roofline.plots import draw  # Matplotlib takes its time to load

        for path in draw(record, plots):
            shown_on.print(f"Figure written to {path}", markup=False)
    if interrupted:
        click.echo("Interrupted. What is shown above is complete up to the last session.", err=True)
        sys.exit(INTERRUPTED)
    outputs.close()


def hold_to(isa: str) -> None:
    """Return if this process is limited to an instruction set. Otherwise restart it with the variables that do so."""
    if isa not in instruction_set.supported():
        can = ", ".join(instruction_set.supported())
        raise click.BadParameter(f"this CPU cannot run {isa}; it can run {can}", param_hint="--isa")
    missing = instruction_set.missing(isa)
    if not missing:
        return
    command = [sys.executable, "-m", "tools.roofline", *sys.argv[1:]]
    environment = {**os.environ, **missing}
    if os.name == "posix":
        os.execve(sys.executable, command, environment)
    sys.exit(subprocess.run(command, env=environment, check=False).returncode)


if __name__ == "__main__":
    main()
