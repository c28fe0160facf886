"""``softmax-ce gate``: test whether one build is slower than another."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import click

from softmax_ce_bench.gate import builds, cells
from softmax_ce_bench.gate import instructions as counting
from softmax_ce_bench.gate import run as gating
from softmax_ce_bench.gate.builds import BuildSource
from softmax_ce_bench.gate.request import GateRequest
from softmax_ce_bench.gate.result import GateResult
from softmax_ce_bench.gate.session import BuildError
from softmax_ce_bench.inputs import workloads
from softmax_ce_bench.inputs.workloads import Shape
from softmax_ce_bench.measure.operations import TABLE
from softmax_ce_bench.report import gating as report
from softmax_ce_bench.report import record
from softmax_ce_bench.report.printable import printable
from softmax_ce_bench.terminal.bar import Bar, progress
from softmax_ce_bench.terminal.console import Refused, interruptible
from softmax_ce_bench.terminal.options import DTYPES, Duration, Several, Shapes
from softmax_ce_bench.terminal.outputs import CommandOutputs, Destination, OutputFile

_FILE = OutputFile()
_WHEEL = click.Path(path_type=Path, dir_okay=False, exists=True)


@click.command(short_help="Test whether one build is slower than another.")
@click.argument("base", required=False)
@click.argument("head", required=False)
@click.option("--base-wheel", type=_WHEEL, help="A wheel to use instead of BASE.")
@click.option("--head-wheel", type=_WHEEL, help="A wheel to use instead of HEAD.")
@click.option("--backend", "backends", type=Several(), default=(), metavar="NAMES",
              help="Backends, such as numba,cython.  [default: all stable ones that both builds have]")  # fmt: skip
@click.option("--op", "operations", type=Several(*TABLE), metavar="NAMES",
              help=f"Operations: {', '.join(TABLE)}.  "
                   f"[default: {','.join(cells.OPERATIONS)}, and linear on one workload]")  # fmt: skip
@click.option("--shapes", type=Shapes(), metavar="SHAPES", help="Shapes (rows x classes), such as 32x1000,512x50257.")
@click.option(
    "--dtype", "dtypes", type=DTYPES, metavar="NAMES", help="Dtypes of --shapes: f32, f64, f16, bf16.  [default: f32]"
)
@click.option("--time-budget", type=Duration(), metavar="TIME",
              help="Time for measuring, once both are built, such as 60, 60s or 2m.  "
                   "[default: twice what the first 16 rounds take]")  # fmt: skip
@click.option("--instructions", is_flag=True,
              help="Also count instructions with valgrind, which takes two minutes. They do not decide.")  # fmt: skip
@click.option("--json", "json_file", type=_FILE, help="Write a record with all times.")
@click.option("--html", "html_file", type=_FILE, help="Write an HTML page with a forest plot.")
def gate(
    base: str | None, head: str | None, base_wheel: Path | None, head_wheel: Path | None,
    json_file: Destination | None, html_file: Destination | None, **asked: Any,
) -> None:  # fmt: skip
    """Build two revisions of this checkout, BASE and HEAD, and test whether HEAD is slower. Without HEAD, the working
    tree is tested.

    Both are built in folders of their own, checked against the reference, and timed in turn in fresh processes on
    one thread. docs/measurements/gate.md says how often the answer is right.

    If an output is named -, it goes to standard output, and the tables go to standard error.

    The exit code is 0 if no cell is slower and 1 if one is. It is 2 if something is wrong: a build fails or computes
    wrong results, nothing was measured, or an output cannot be written. It is 3 if the time was too short to tell.
    """
    outputs = CommandOutputs({"--json": json_file, "--html": html_file}, (base_wheel, head_wheel))
    shown_on = outputs.console()
    _end_on_termination()
    with interruptible("No verdict; nothing was written."), progress(shown_on) as shown:
        try:
            request = _request(base, head, base_wheel, head_wheel, **asked)
            result = gating.run(request, _GateProgress(Bar(shown), piped=not shown_on.is_terminal))
        except BuildError as error:
            raise Refused(str(error)) from None
    shown_on.print(report.whole(printable(result)), crop=False)
    outputs.write("--json", lambda: record.as_text(result.as_dict()))
    outputs.write("--html", lambda: _as_page(result))
    outputs.close()
    sys.exit(int(result.exit))


def _as_page(result: GateResult) -> str:
    from softmax_ce_bench.report.html import forest  # here: Matplotlib takes a while

    return forest.page(printable(result))


class _GateProgress:
    """Draws a progress bar, or prints a line per stage if the output is a pipe."""

    def __init__(self, bar: Bar, *, piped: bool) -> None:
        self._bar, self._piped, self._stage = bar, piped, ""

    def __call__(self, text: str, done: float, left: float) -> None:
        stage, _, _ = text.partition(":")
        if self._piped and stage != self._stage:
            click.echo(f"{stage} ...", err=True)
        self._stage = stage
        self._bar.draw(text, done, left, stage=stage)


def _request(
    base: str | None, head: str | None, base_wheel: Path | None, head_wheel: Path | None, backends: tuple[str, ...],
    operations: tuple[str, ...] | None, shapes: tuple[tuple[int, int], ...] | None, dtypes: tuple[str, ...] | None,
    time_budget: float | None, instructions: bool,
) -> GateRequest:  # fmt: skip
    if os.name == "nt":
        raise Refused("the gate runs on Linux and macOS")
    if base_wheel is None and base is None:
        raise Refused("name the revision to compare with, such as: softmax-ce gate main; or give --base-wheel")
    if base_wheel is not None and head is None:
        base, head = None, base  # with the base given as a wheel, a single revision is the head
    if base_wheel is not None and base is not None:
        raise Refused("BASE and --base-wheel are two ways to say the same: give one of them")
    if head_wheel is not None and head is not None:
        raise Refused("HEAD and --head-wheel are two ways to say the same: give one of them")
    if dtypes is not None and shapes is None:
        raise Refused("--dtype goes with --shapes; the built-in workloads have their own")
    if instructions and (why := counting.available()) is not None:
        raise Refused(f"--instructions: {why}")
    wanted: tuple[tuple[Shape, str], ...] = cells.WORKLOADS
    extra = cells.EXTRA if shapes is None and operations is None else ()
    if shapes is not None:
        found = [Shape(f"{rows}x{classes}", rows, classes, "") for rows, classes in shapes]
        wanted = tuple((shape, dtype) for shape in found for dtype in dtypes or ("float32",))
        for _, dtype in wanted:
            workloads.dtype_of(dtype)
    repository = None if base_wheel and head_wheel else builds.repository(Path.cwd())
    return GateRequest(
        _source(repository, base, base_wheel), _source(repository, head, head_wheel), backends, wanted,
        operations or cells.OPERATIONS, extra, seconds=time_budget, instructions=instructions,
        command=tuple(sys.argv[1:]),
    )  # fmt: skip


def _source(repository: Path | None, revision: str | None, wheel: Path | None) -> BuildSource:
    if wheel is not None:
        return builds.from_wheel(wheel)
    assert repository is not None
    return builds.working_tree(repository) if revision is None else builds.revision(repository, revision)


def _end_on_termination() -> None:
    """Turn SIGTERM into an exception, so that builds and measured processes end with this process."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
