"""The ``softmax-ce`` command: what is here, is it right, and which is fastest."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

import softmax_ce as sce
from softmax_ce.contract import NATIVE_DTYPES
from softmax_ce_bench import compare as comparing
from softmax_ce_bench import conformance, workloads
from softmax_ce_bench import info as facts
from softmax_ce_bench.report import record, tables

CHECKED_DTYPES = (*NATIVE_DTYPES, "float16", "bfloat16")
WIDTH = 100  # of tables in a file or a pipe
REDRAW_SECONDS = 0.2
INTERRUPTED = 130  # what a shell reports for Ctrl-C


class Refused(click.ClickException):
    """What was asked for cannot be done; one line says why."""

    exit_code = 2


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(sce.__version__, prog_name="softmax-ce")
def main() -> None:
    """Softmax cross-entropy on CPUs: compare the backends on this machine, and check that they are right."""


@main.command(short_help="What to paste into a bug report.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def info(as_json: bool) -> None:
    """Versions, processor, threads and backends: what to paste into a bug report."""
    collected = facts.collect()
    if as_json:
        click.echo(json.dumps(collected, indent=1))
    else:
        _console().print(tables.info_table(collected), crop=False)


def _dtypes(_context: click.Context, _parameter: click.Parameter, value: str | None) -> tuple[str, ...]:
    has_bfloat16 = find_spec("ml_dtypes") is not None
    if value is None:
        return tuple(name for name in CHECKED_DTYPES if name != "bfloat16" or has_bfloat16)
    names = tuple(part.strip() for part in value.split(","))
    for name in names:
        if name not in CHECKED_DTYPES:
            raise click.BadParameter(f"{name!r} is not one of {', '.join(CHECKED_DTYPES)}")
    if "bfloat16" in names and not has_bfloat16:
        raise click.BadParameter("bfloat16 needs ml_dtypes, which is not installed: pip install ml_dtypes")
    return names


def _counts(_context: click.Context, _parameter: click.Parameter, value: str) -> tuple[int, ...]:
    try:
        counts = tuple(int(part) for part in value.split(","))
    except ValueError:
        raise click.BadParameter(f"{value!r} is not a list of whole numbers such as 1,2") from None
    if min(counts) < 1:
        raise click.BadParameter("threads are at least 1")
    return counts


@main.command(short_help="Check that backends are right.")
@click.argument("backends", nargs=-1, metavar="[BACKEND]...")
@click.option(
    "--dtype", "dtypes", callback=_dtypes, help="Default: float32,float64,float16, and bfloat16 if ml_dtypes is here."
)
@click.option("--threads", default="1,2", show_default=True, callback=_counts, help="Numbers of threads to check.")
@click.option("-v", "--verbose", is_flag=True, help="Also a table of every check.")
def check(backends: tuple[str, ...], dtypes: tuple[str, ...], threads: tuple[int, ...], verbose: bool) -> None:
    """Run the conformance checks on BACKENDs, or on every available one.

    Exits with 0 when all pass, 1 when one fails, 2 when a backend is unknown or not available.
    """
    names = _available(backends)
    console = _console()
    results = {}
    with _interruptible(), _progress(console) as progress:
        for name in names:
            task = progress.add_task(f"checking {name}", total=conformance.count_checks(dtypes, threads, name))
            try:
                results[name] = conformance.run_checks(name, dtypes, threads, _Steps(progress, task))
            except conformance.AssertionsOff as error:
                raise Refused(str(error)) from None
            progress.remove_task(task)
            if verbose:
                console.print("", f"[bold]{name}", tables.checks_table(results[name]), sep="\n")
    console.print(tables.conformance_table(results))
    if not backends:
        console.print(*tables.absent(facts.backends()), sep="\n", end="", crop=False)
    failed = sum(not result.passed for own in results.values() for result in own)
    if failed:
        console.print(f"\n{failed} failed.", style="bold red")
        sys.exit(1)
    console.print("\nAll checks passed.", style="bold green")


@main.command(short_help="Compare backends: speed, and error.")
@click.option("--backend", "backends", multiple=True, help="Compare this one; may be repeated. Default: all available.")
@click.option("--dtype", type=click.Choice(NATIVE_DTYPES), help="Of the built-in workloads.  [default: float32]")
@click.option("--threads", type=click.IntRange(min=1), help="Default: chosen by size, up to the CPUs available.")
@click.option("--time-budget", type=click.FloatRange(min=0), default=30.0, show_default=True, help="Seconds in all.")
@click.option("--logits", type=click.Path(path_type=Path), help="Your own logits: .npy, (rows, classes).")
@click.option("--targets", type=click.Path(path_type=Path), help="Their labels: .npy, (rows,) or soft (rows, classes).")
@click.option("--json", "json_file", type=click.Path(path_type=Path, dir_okay=False), help="Also write a record here.")
def compare(
    backends: tuple[str, ...],
    dtype: str | None,
    threads: int | None,
    time_budget: float,
    logits: Path | None,
    targets: Path | None,
    json_file: Path | None,
) -> None:
    """Compare the backends: speed against NumPy's, and error against a high-precision reference.

    On handwritten digits, of which softmax regression is fitted with each backend's gradient, and on larger
    shapes; or on your own arrays (--logits and --targets).
    """
    own = _own_arrays(logits, targets, dtype)
    if json_file is not None and not json_file.absolute().parent.is_dir():
        raise Refused(f"--json {json_file}: there is no folder {json_file.absolute().parent}")
    plan = comparing.Plan(_available(backends), dtype or "float32", threads, time_budget, own)
    console = _console()
    with _interruptible(), _progress(console) as progress:
        comparison = comparing.run(plan, _Narrator(console, progress))
    console.print(tables.closing(comparison), crop=False)
    if json_file is not None:
        try:
            record.save(record.as_dict(comparison), json_file)
        except OSError as error:
            raise Refused(f"--json {json_file}: {error.strerror or error}") from None
        console.print(f"Record written to {json_file}", markup=False)


def _own_arrays(logits: Path | None, targets: Path | None, dtype: str | None) -> workloads.Workload | None:
    if logits is None and targets is None:
        return None
    if logits is None or targets is None:
        raise Refused("--logits and --targets go together: give both files")
    if dtype is not None:
        raise Refused("--dtype is for the built-in workloads; your logits keep the dtype they have")
    try:
        return workloads.from_files(logits, targets)
    except workloads.WorkloadError as error:
        raise Refused(str(error)) from None


def _available(names: tuple[str, ...]) -> tuple[str, ...]:
    """The backends asked for, each once; without any, all that are available."""
    if not names:
        return tuple(info.name for info in sce.backends() if info.available)
    for name in names:
        try:
            sce.get_backend(name)
        except (ValueError, sce.BackendUnavailableError) as error:
            raise Refused(str(error)) from None
    return tuple(dict.fromkeys(names))


class _Steps:
    """Moves a progress bar on by one for every result."""

    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress = progress
        self._task = task

    def __call__(self, _result: object) -> None:
        self._progress.advance(self._task)
        self._progress.refresh()


class _Narrator(comparing.Listener):
    """Shows each table as soon as it is there, and how far the run is."""

    def __init__(self, console: Console, progress: Progress) -> None:
        self._console = console
        self._progress = progress
        self._task = progress.add_task("", total=1.0)
        self._text = ""
        self._drawn = 0.0

    def stage(self, text: str, done: float) -> None:
        now = time.monotonic()
        if text != self._text or now - self._drawn > REDRAW_SECONDS:
            self._progress.update(self._task, description=text, completed=done, refresh=True)
            self._text, self._drawn = text, now

    def fitted(self, comparison: comparing.Comparison) -> None:
        self._console.print(tables.fit_table(comparison.fits))

    def measured(self, result: comparing.Result) -> None:
        self._console.print(tables.result_table(result))


def _console() -> Console:
    """Standard output. In a pipe or a file it is as wide as COLUMNS says, else `WIDTH`."""
    piped = not sys.stdout.isatty() and "COLUMNS" not in os.environ
    return Console(width=WIDTH if piped else None, highlight=False, soft_wrap=False)


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


@contextmanager
def _interruptible() -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        click.echo("Interrupted. What is shown above is complete; nothing else was kept.", err=True)
        sys.exit(INTERRUPTED)
