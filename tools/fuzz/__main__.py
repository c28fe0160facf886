"""``python -m tools.fuzz``: search for a while, print a summary, and keep the cases that failed."""

from __future__ import annotations

import secrets
import sys
from pathlib import Path

import click
from rich.console import Console
from rich.progress import Progress, TextColumn, TimeElapsedColumn

from softmax_ce_bench.terminal.options import Duration, Several
from tools.fuzz import kept, properties, runner

_LINES = 25  # of a traceback


@click.command()
@click.option("--time", "seconds", type=Duration(), default="5m", show_default=True, help="Time for the whole search.")
@click.option(
    "--seed", type=click.IntRange(0, 2**32 - 1), help="Seed, to repeat a run.  [default: random, and printed]"
)
@click.option(
    "--only", type=Several(*(one.name for one in properties.ALL)), help="Properties to search.  [default: all]"
)
@click.option("--folder", type=click.Path(path_type=Path, file_okay=False), default=kept.FOLDER, show_default=True,
              help="Folder for the cases that fail.")  # fmt: skip
def main(seconds: float, seed: int | None, only: tuple[str, ...] | None, folder: Path) -> None:
    """Fuzz the public functions and the readers of files.

    Cases that earlier runs have kept are tried first. The exit code is 0 if nothing was found, 1 if something was, and
    130 after an interrupt before anything was found.
    """
    console = Console(highlight=False, soft_wrap=True)
    chosen = [one for one in properties.ALL if not only or one.name in only]
    seed = secrets.randbelow(2**32) if seed is None else seed
    console.print(f"seed {seed}; to repeat this run: make fuzz SEED={seed}")
    found = 0
    try:
        found += _replay(console, folder)
        console.print(f"{'property':<12} {'cases':>9} {'seconds':>8}")
        for one in chosen:
            found += _search(console, one, seed, seconds * one.share / sum(other.share for other in chosen), folder)
    except KeyboardInterrupt:
        console.print("Interrupted. What is shown above is complete.")
        sys.exit(1 if found else 130)
    console.print(f"{found} found." if found else "Nothing found.")
    sys.exit(1 if found else 0)


def _replay(console: Console, folder: Path) -> int:
    """Return the number of kept cases that still fail. The files of the others are removed."""
    still = 0
    for path, name, case in kept.read(folder):
        failure = runner.search(name, 0, 0, case=case).failure
        if failure is None:
            path.unlink()
            console.print(f"{path} no longer fails: removed")
        else:
            still += 1
            _show(console, f"{path} still fails", failure.found)
    return still


def _search(console: Console, one: properties.Property, seed: int, seconds: float, folder: Path) -> int:
    columns = TextColumn("{task.description}"), TextColumn("{task.completed:>9}"), TimeElapsedColumn()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(f"{one.name:<12}", total=None)
        report = runner.search(one.name, seed, seconds, on_progress=lambda begun: bar.update(task, completed=begun))
    console.print(f"{one.name:<12} {report.executions:>9} {report.seconds:>8.0f}  {one.summary}")
    if report.failure is None:
        return 0
    if report.failure.case is None:
        _show(console, "it did not begin", report.failure.found)
        return 1
    path = kept.keep(folder, one.name, report.failure.case, report.failure.found)
    _show(console, f"found, and kept in {path}", report.failure.found)
    return 1


def _show(console: Console, title: str, text: str) -> None:
    console.print(f"{title}:", style="bold red")
    console.print("\n".join(text.rstrip().splitlines()[-_LINES:]), markup=False)


if __name__ == "__main__":
    main()
