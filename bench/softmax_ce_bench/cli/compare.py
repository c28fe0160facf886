"""``softmax-ce compare``: compare the speed and the error of the backends."""

from __future__ import annotations

import sys
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from softmax_ce_bench import compare as comparing
from softmax_ce_bench import peers
from softmax_ce_bench.cli import training
from softmax_ce_bench.compare import request as planning
from softmax_ce_bench.compare.result import CallOptions, ComparedCell, Run
from softmax_ce_bench.inputs import workloads
from softmax_ce_bench.measure import operations as operations_table
from softmax_ce_bench.report import comparison, markdown, pages, record
from softmax_ce_bench.report.printable import printable
from softmax_ce_bench.terminal.bar import Bar, progress
from softmax_ce_bench.terminal.console import Refused, available
from softmax_ce_bench.terminal.group import INTERRUPTED
from softmax_ce_bench.terminal.options import DTYPE, LOGITS, SHAPES, TARGETS, Counts, Duration, Number, Several, Weight
from softmax_ce_bench.terminal.outputs import CommandOutputs, Destination, OutputFile

_FILE = OutputFile()


@click.command(short_help="Compare the speed and the error of backends.")
@click.option(
    "--set",
    "sets",
    type=Several(*workloads.SETS),
    metavar="NAMES",
    help=f"Named workloads: {', '.join(workloads.SETS)}.  [default: quick]",
)
@SHAPES
@LOGITS
@TARGETS
@click.option(
    "--backend",
    "backends",
    multiple=True,
    type=Several(),
    metavar="NAMES",
    help="Backends to compare; may be repeated.  [default: all available]",
)
@click.option(
    "--peers",
    "peer_names",
    default="auto",
    show_default=True,
    type=Several(),
    metavar="NAMES",
    help=f"Other libraries to compare with: auto (those installed), none, or {','.join(peers.BY_NAME)}.",
)
@DTYPE
@click.option(
    "--op",
    "operations",
    default=",".join(operations_table.LOSSES),
    show_default=True,
    metavar="NAMES",
    type=Several(*operations_table.TABLE),
    help="Operations: the loss (forward), the gradient (backward), both in one call (fused), "
    f"{', '.join(operations_table.OTHERS)}.",
)
@click.option(
    "--threads",
    type=Counts(),
    metavar="COUNTS",
    help="Numbers of threads, such as 1,2.  [default: chosen by size, up to the CPUs available]",
)
@click.option(
    "--weight", type=Weight(), metavar="drawn|FILE", help="Class weights: drawn at random, or from an .npy file."
)
@click.option("--label-smoothing", type=Number(0, 1), default=0.0, help="Label smoothing, in [0, 1].")
@click.option(
    "--z-loss", type=Number(0), default=0.0, help="Factor of the squared logsumexp that is added to the loss."
)
@click.option("--ignore-index", type=int, help="Label of the rows to ignore in your own arrays.  [default: -100]")
@click.option("--soft", is_flag=True, help="Use soft targets in place of labels.")
@click.option("--reduction", type=click.Choice(("mean", "sum", "none")), default="mean", show_default=True,
              help="How the losses are reduced.")  # fmt: skip
@click.option(
    "--allocate",
    is_flag=True,
    help="Let backends allocate their results, as other libraries do, instead of writing into buffers.",
)
@click.option(
    "--time-budget",
    type=Duration(),
    metavar="TIME",
    help="Time for the whole run, such as 60, 60s or 2m.  [default: 30s once the backends are compiled]",
)
@click.option(
    "--cold-start/--no-cold-start",
    default=None,
    help="Also measure import, first call and peak memory in fresh processes.  [default: if time is left]",
)
@click.option(
    "--torch",
    is_flag=True,
    help="Compare a training step in PyTorch with its own function and with softmax_ce.torch, and nothing else.",
)
@click.option("--json", "json_file", type=_FILE, help="Write a record, for `show` and `diff`.")
@click.option("--markdown", "markdown_file", type=_FILE, help="Write the tables to a Markdown file.")
@click.option("--html", "html_file", type=_FILE, help="Write an HTML page with pictures and tables.")
@click.option("-v", "--verbose", is_flag=True, help="Show every figure, in a row for each candidate and operation.")
@click.pass_context
def compare(
    context: click.Context, /, json_file: Destination | None, markdown_file: Destination | None,
    html_file: Destination | None, verbose: bool, torch: bool, **asked: Any,
) -> None:  # fmt: skip
    """Compare the speed and the error of the backends, and of other libraries that are installed.

    Speed-ups are relative to the max-shifted formula written in NumPy, or to the numpy backend if the formula cannot
    run. Errors are measured against a high-precision reference. By default, the workloads are handwritten digits, on
    which softmax regression is fitted with each backend's gradient, and some larger shapes. You can name other sets or
    shapes, or your own arrays (--logits and --targets). If an output is named -, it goes to standard output, and the
    tables go to standard error.

    The exit code is 0, or 2 if something is wrong or an output cannot be written.
    """
    if torch:
        training.check(context)
        training.show(_sources(**{name: asked[name] for name in _OF_SOURCES}), asked["threads"], asked["time_budget"])
        return
    outputs = CommandOutputs(
        {"--json": json_file, "--markdown": markdown_file, "--html": html_file},
        (asked["logits"], asked["targets"], *context.meta.get(Weight.FILES, ())),
    )
    plan = _plan(**asked)
    try:
        plan.check()
    except comparing.RequestError as error:
        raise Refused(str(error)) from None
    shown_on = outputs.console()
    interrupted, broken = False, None
    reporter = _CompareProgress(shown_on, verbose)
    with progress(shown_on) as shown:
        reporter.bar = Bar(shown)
        try:
            comparing.run(plan, reporter)
        except KeyboardInterrupt:
            interrupted = True
        except Exception as error:  # what was measured until then is kept
            broken = error
    run = reporter.run
    if run is not None and (run.cells or not (interrupted or broken)):
        shown_on.print(comparison.closing(printable(run)), crop=False)
        if run.cells:
            for option, what, make in (
                ("--json", "Record", lambda run: record.as_text(record.as_dict(run))),
                ("--markdown", "Tables", markdown.whole),
                ("--html", "Report", pages.comparison),
            ):
                written = outputs.write(option, partial(make, run))
                if written is not None and not written.is_stdout:
                    shown_on.print(f"{what} written to {written}", markup=False, soft_wrap=True)
    if interrupted:
        what = "What is shown above is complete up to the last table" if run and run.cells else "Nothing was measured"
        click.echo(f"Interrupted. {what}.", err=True)
        sys.exit(INTERRUPTED)
    if broken is not None:
        raise broken
    if run is None or not run.cells:
        raise Refused("nothing was measured within the time; a longer --time-budget gives more")
    outputs.close()


def _plan(
    sets: tuple[str, ...] | None, shapes: tuple[tuple[int, int], ...] | None, logits: Path | None, targets: Path | None,
    backends: tuple[tuple[str, ...], ...], peer_names: tuple[str, ...], dtypes: tuple[str, ...] | None,
    operations: tuple[str, ...], threads: tuple[int, ...] | None, weight: Any, label_smoothing: float, z_loss: float,
    ignore_index: int | None, soft: bool, reduction: str, allocate: bool, time_budget: float | None,
    cold_start: bool | None,
) -> comparing.CompareRequest:  # fmt: skip
    sources = _sources(sets, shapes, logits, targets, dtypes, ignore_index, soft)
    file = weight is not None and not isinstance(weight, str)
    options = CallOptions(
        "none" if weight is None else "file" if file else "drawn", label_smoothing, z_loss,
        workloads.IGNORE_INDEX if ignore_index is None else ignore_index, reduction,
    )  # fmt: skip
    wanted = tuple(operation for operation in operations_table.TABLE if operation in operations)
    chosen_peers = _peers(peer_names, wanted)
    return comparing.CompareRequest(
        available(tuple(name for names in backends for name in names)),
        sources,
        peers=chosen_peers,
        operations=wanted,
        threads=threads or (None,),
        seconds=planning.SECONDS if time_budget is None else time_budget,
        counts_loading=time_budget is not None,
        options=options,
        weight=weight if file else None,
        allocate=allocate,
        cold_start=cold_start,
        command=tuple(sys.argv[1:]),
        base=planning.base_for(chosen_peers, sources, options, wanted),
    )


_OF_SOURCES = ("sets", "shapes", "logits", "targets", "dtypes", "ignore_index", "soft")


def _sources(
    sets: tuple[str, ...] | None, shapes: tuple[tuple[int, int], ...] | None, logits: Path | None, targets: Path | None,
    dtypes: tuple[str, ...] | None, ignore_index: int | None, soft: bool,
) -> tuple[planning.Source, ...]:  # fmt: skip
    if logits is not None or targets is not None:
        return _own(logits, targets, ignore_index, {
            "--dtype": dtypes is not None, "--set": sets is not None, "--shapes": shapes is not None, "--soft": soft,
        })  # fmt: skip
    if ignore_index is not None:
        raise Refused("--ignore-index is for your own arrays; the built-in workloads ignore no row")
    dtypes = dtypes or ("float32",)
    if "bfloat16" in dtypes and find_spec("ml_dtypes") is None:
        raise Refused("bfloat16 needs ml_dtypes, which is not installed: pip install ml_dtypes")
    names = sets or (() if shapes else ("quick",))
    # A shape that is in two sets is measured once.
    found = [s for name in names for s in planning.built_in(name, dtypes, soft=soft)]
    found += planning.of_shapes(shapes or (), dtypes, soft=soft)
    return tuple({source.text: source for source in found}.values())


def _own(
    logits: Path | None, targets: Path | None, ignore_index: int | None, built_in: dict[str, bool]
) -> tuple[planning.Source, ...]:
    if logits is None or targets is None:
        raise Refused("--logits and --targets go together: give both files")
    for option, given in built_in.items():
        if given:
            keep = "; your logits keep the dtype they have" if option == "--dtype" else ", not for your own arrays"
            raise Refused(f"{option} is for the built-in workloads{keep}")
    try:
        return (planning.own(logits, targets, workloads.IGNORE_INDEX if ignore_index is None else ignore_index),)
    except workloads.WorkloadError as error:
        raise Refused(str(error)) from None


def _peers(names: tuple[str, ...], operations: tuple[str, ...]) -> tuple[str, ...]:
    if names == ("auto",):
        return planning.installed_peers(operations)
    if names == ("none",):
        return ()
    for name in names:
        if name not in peers.BY_NAME:
            raise Refused(f"unknown peer {name!r}; there are auto, none, {', '.join(peers.BY_NAME)}")
        reason = peers.BY_NAME[name].why_missing
        if reason is not None:
            raise Refused(f"peer {name!r} is {reason}. To get it: {peers.BY_NAME[name].how_to_get}")
    return tuple(name for name in peers.BY_NAME if name in names)


class _CompareProgress(comparing.Listener):
    """Shows each table once it is complete, the progress of the run and the time left."""

    def __init__(self, shown_on: Console, verbose: bool) -> None:
        self.run: Run | None = None
        self._console = shown_on
        self._verbose = verbose
        self.bar: Bar | None = None

    def started(self, run: Run) -> None:
        """Keep the run, which is filled as it proceeds."""
        self.run = run

    def stage(self, text: str, done: float, left: float) -> None:
        """Draw the bar."""
        if self.bar is not None:
            self.bar.draw(text, done, left)

    def fitted(self, run: Run) -> None:
        """Show the fits."""
        self._console.print(comparison.fit_table(printable(run)))

    def measured(self, run: Run, cell: ComparedCell) -> None:
        """Show the cell."""
        self._console.print(comparison.cell_table(printable(run), printable(cell), verbose=self._verbose))

    def started_cold(self, run: Run) -> None:
        """Show the cold starts."""
        self._console.print(comparison.cold_table(printable(run)))
