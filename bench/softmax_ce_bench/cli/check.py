"""``softmax-ce check``: check that backends compute correct results."""

from __future__ import annotations

import sys
from importlib.util import find_spec

import click
from rich.progress import Progress, TaskID

from softmax_ce.contract import NATIVE_DTYPES
from softmax_ce_bench import conformance
from softmax_ce_bench.measure import machine
from softmax_ce_bench.report import tables
from softmax_ce_bench.terminal.bar import progress
from softmax_ce_bench.terminal.console import Refused, available, console, interruptible
from softmax_ce_bench.terminal.options import Counts, Several

CHECKED_DTYPES = (*NATIVE_DTYPES, "float16", "bfloat16")


def _dtypes(_context: click.Context, _parameter: click.Parameter, names: tuple[str, ...] | None) -> tuple[str, ...]:
    has_bfloat16 = find_spec("ml_dtypes") is not None
    if names is None:
        return tuple(name for name in CHECKED_DTYPES if name != "bfloat16" or has_bfloat16)
    if "bfloat16" in names and not has_bfloat16:
        raise click.BadParameter("bfloat16 needs ml_dtypes, which is not installed: pip install ml_dtypes")
    return names


@click.command(short_help="Check that backends compute correct results.")
@click.argument("backends", nargs=-1, metavar="[BACKEND]...")
@click.option(
    "--dtype",
    "dtypes",
    type=Several(*CHECKED_DTYPES),
    metavar="TEXT",
    callback=_dtypes,
    help="Dtypes of the logits.  [default: float32,float64,float16, and bfloat16 if ml_dtypes is installed]",
)
@click.option(
    "--threads",
    type=Counts(),
    default="1,2",
    show_default=True,
    metavar="TEXT",
    help="Numbers of threads to check with.",
)
@click.option("-v", "--verbose", is_flag=True, help="Also show a table of every check.")
def check(backends: tuple[str, ...], dtypes: tuple[str, ...], threads: tuple[int, ...], verbose: bool) -> None:
    """Run the conformance checks on each BACKEND, or on every available one.

    The exit code is 0 if all checks pass, 1 if one fails, and 2 if a backend is unknown or not available.
    """
    names = available(backends)
    shown_on = console()
    results = {}
    with interruptible("What is shown above is complete."), progress(shown_on) as bar:
        for name in names:
            task = bar.add_task(f"checking {name}", left="", total=conformance.count_checks(dtypes, threads, name))
            try:
                results[name] = conformance.run_checks(name, dtypes, threads, _Steps(bar, task))
            except conformance.AssertionsOff as error:
                raise Refused(str(error)) from None
            bar.remove_task(task)
            if verbose:
                shown_on.print("", f"[bold]{name}", tables.checks_table(results[name]), sep="\n")
    shown_on.print(tables.conformance_table(results))
    if not backends:
        shown_on.print(*tables.absent(machine.backends()), sep="\n", end="", crop=False)
    failed = sum(not result.passed for own in results.values() for result in own)
    if failed:
        shown_on.print(f"\n{failed} failed.", style="bold red")
        sys.exit(1)
    shown_on.print("\nAll checks passed.", style="bold green")


class _Steps:
    """Advances a progress bar by one for each result."""

    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress = progress
        self._task = task

    def __call__(self, _result: object) -> None:
        self._progress.advance(self._task)
        self._progress.refresh()
