"""``softmax-ce pick``: pick the backends to use in production."""

from __future__ import annotations

import math
import os
import re
import shlex
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from softmax_ce import profile
from softmax_ce.choice import fingerprint
from softmax_ce.choice.profile import files, where
from softmax_ce.choice.profile.format import text as profile_text
from softmax_ce_bench import pick as picking
from softmax_ce_bench.compare import request as planning
from softmax_ce_bench.compare.request import RequestError
from softmax_ce_bench.conformance import AssertionsOff
from softmax_ce_bench.inputs import workloads
from softmax_ce_bench.measure.operations import LOSSES
from softmax_ce_bench.pick import cluster, grids
from softmax_ce_bench.pick.request import BOUND, COLD_START, MEMORY, SECONDS, ULP, MaxError
from softmax_ce_bench.report import picking as report
from softmax_ce_bench.terminal.bar import Bar, BarListener, progress
from softmax_ce_bench.terminal.console import Refused
from softmax_ce_bench.terminal.group import INTERRUPTED
from softmax_ce_bench.terminal.options import (
    DTYPE,
    LOGITS,
    SHAPES,
    TARGETS,
    THREADS,
    Duration,
    Several,
    profiled_operations,
)
from softmax_ce_bench.terminal.outputs import CommandOutputs, Destination, OutputFile
from softmax_ce_bench.terminal.profiles import stored_fleet

CONTAMINATED = 3
_FILE = OutputFile()
# A profile decides by shape, and by the last axis: a set whose workloads all have one would leave but one of them.
_SETS = tuple(
    name
    for name, shapes in workloads.SETS.items()
    if len({(s.rows, s.classes) for s in shapes}) == len(shapes) and not any(s.inner for s in shapes)
)


_WORDS = "softmax_ce_bench.cli.pick.words"  # their place among what click keeps for a call


class _Error(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.4 alone
    """The largest error that is allowed, such as 0.5 (of the bound) or 4ulp."""

    name = "error"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the value that the text stands for, or fail with a message that says what would be right."""
        if isinstance(value, MaxError):
            return value
        match = re.fullmatch(r"((?:\d+(?:\.\d+)?|\.\d+)(?:e-?\d+)?)\s*(ulp)?", str(value).strip().lower())
        number = float(match[1]) if match else math.nan
        unit = ULP if match and match[2] else BOUND
        if not 0 < number < math.inf or (unit == BOUND and number > 1):
            self.fail(f"{value!r} is neither a part of the error bound such as 0.8, nor units such as 4ulp", param, ctx)
        return MaxError(number, unit)


def _moved(option: str, command: str) -> Callable[[Any], Any]:
    """Return a hidden option that refuses its value and names the command that replaces it."""

    def refuse(_context: click.Context, _parameter: click.Parameter, value: str | None) -> None:
        if value is not None:
            words = " ".join(word for word in ("softmax-ce profile", command, value) if word)
            raise Refused(f"{option} is now a command: {words}")

    # Whatever follows is its value, if it is not another option: the message then shows the whole command.
    return click.option(
        option, is_flag=False, flag_value="", hidden=True, expose_value=False, is_eager=True, callback=refuse
    )


class _PickCommand(click.Command):
    """Keeps the words of the command line, which --dask hands on to the workers."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the words."""
        ctx.meta[_WORDS] = list(args)
        return super().parse_args(ctx, args)


@click.command(cls=_PickCommand, short_help="Pick a backend for each shape, for production.")
@SHAPES
@click.option("--set", "sets", type=Several(*_SETS), metavar="NAMES", help=f"Named workloads: {', '.join(_SETS)}.")
@LOGITS
@TARGETS
@DTYPE
@profiled_operations("all")
@THREADS
@click.option("--time-budget", type=Duration(), metavar="TIME",
              help=f"Time for everything but cold starts, such as 60, 60s or 2m. More time gives a finer grid.  "
                   f"[default: {SECONDS:.0f}s once the backends are compiled]")  # fmt: skip
@click.option("--objective", type=click.Choice(picking.OBJECTIVES), default="time", show_default=True,
              help="What to minimise: the time of a call, its peak memory, or import and first call.")  # fmt: skip
@click.option("--also", type=Several(MEMORY, COLD_START), default=(), metavar="NAMES",
              help="Also measure memory or coldstart, for the record.")  # fmt: skip
@click.option(
    "--max-error",
    type=_Error(),
    metavar="ERROR",
    help="Largest error allowed, such as 0.8 (of the error bound) or 4ulp.  [default: the bound]",
)
@click.option("--allow", type=Several(), metavar="NAMES", help="Backends that may win.  [default: all]")
@click.option("--deny", type=Several(), default=(), metavar="NAMES", help="Backends that may not.")
@click.option(
    "--order",
    type=Several(),
    default=(),
    metavar="NAMES",
    help="Backends in the order in which they win ties.  [default: simplest dependency first]",
)
@click.option("--output", type=_FILE, help="File to write the profile to.  [default: the file that calls follow]")
@click.option("--append", is_flag=True, help="Keep the sections of other machines that the file holds.")
@click.option(
    "--dask", "scheduler", metavar="ADDRESS", help="Pick on one worker of each kind of a Dask cluster, for all of them."
)
@click.option("--dry-run", is_flag=True, help="Write nothing.")
@click.option("--force", is_flag=True, help="Replace a profile even if the session was contaminated.")
@_moved("--check", "check")
@_moved("--explain", "explain")
def pick(
    output: Destination | None, append: bool, scheduler: str | None, dry_run: bool,
    force: bool, logits: Path | None, targets: Path | None,
    shapes: tuple[tuple[int, int], ...] | None, sets: tuple[str, ...] | None, dtypes: tuple[str, ...] | None,
    threads: tuple[int, ...] | None, operations: tuple[str, ...] | None, time_budget: float | None, **settings: Any,
) -> None:  # fmt: skip
    """Pick the fastest correct backend for each shape of a grid, and write the choices to a profile. Calls without
    backend= then follow it.

    A backend is eligible if it passes the conformance checks and its results on the workload itself are correct. The
    simpler dependency wins a tie. With --append, one file holds a section for each of several machines. To look at a
    stored profile or measure it again, use `softmax-ce profile`.

    The exit code is 0, 2 if something is wrong, and 3 if the session was contaminated, in which case an existing
    profile is kept.
    """
    outputs = CommandOutputs({"--output": output}, (logits, targets))
    target = output.path if output is not None else where.default_path()
    if output is None and not dry_run:
        _check_default(target)
    if append:
        _others(output, target)  # now: a file that cannot be read is no use after the measurement
    if scheduler is not None:
        _pick_on_cluster(
            scheduler,
            click.get_current_context().meta[_WORDS],
            outputs,
            output,
            append=append,
            dry_run=dry_run,
            force=force,
        )
        return
    request = picking.PickRequest(
        sources=_sources(logits, targets, shapes, sets, dtypes),
        dtypes=dtypes or ("float32",),
        operations=tuple(each for each in LOSSES if operations is None or each in operations),
        threads=threads or (None,),
        seconds=SECONDS if time_budget is None else time_budget,
        counts_loading=time_budget is not None,
        command=shlex.join(["softmax-ce", *sys.argv[1:]]),
        notes={"sets": ",".join(sets)} if sets else {},
        **settings,
    )
    shown_on = outputs.console()
    try:
        with progress(shown_on) as shown:
            outcome = picking.pick(request, BarListener(Bar(shown)))
    except (RequestError, AssertionsOff) as error:
        raise Refused(str(error)) from None
    except KeyboardInterrupt:
        _interrupted(target)
    shown_on.print(report.whole(outcome), crop=False)
    chosen = outcome.profile
    if chosen is None:
        raise Refused("no cell has a winner; a longer --time-budget measures more")
    others = _others(output, target) if append and not dry_run else ()
    _deliver(
        profile.Fleet(sections=(*others, chosen)), outputs, output, dry_run=dry_run,
        busy="" if force or not outcome.run.contaminated else "the session was contaminated",
    )  # fmt: skip


def _pick_on_cluster(
    scheduler: str, words: list[str], outputs: CommandOutputs, output: Destination | None, *, append: bool,
    dry_run: bool, force: bool,
) -> None:  # fmt: skip
    """Let workers pick, and write one profile with a section for each kind of machine."""
    shown_on = outputs.console()
    target = output.path if output is not None else where.default_path()
    try:
        picked = cluster.pick_on_workers(
            scheduler, cluster.for_workers(words), lambda line: shown_on.print(line, markup=False, soft_wrap=True)
        )
    except cluster.ClusterError as error:
        raise Refused(str(error)) from None
    except KeyboardInterrupt:
        _interrupted(target)
    others = cluster.without(stored_fleet(target)[0].sections, picked) if append and _exists(target) else []
    fleet = profile.Fleet(sections=(*others, *(each.profile for each in picked)))
    contaminated = any(each.contaminated for each in picked)
    _deliver(fleet, outputs, output, dry_run=dry_run, busy="a machine was busy" if contaminated and not force else "")


def _deliver(
    fleet: profile.Fleet, outputs: CommandOutputs, output: Destination | None, *, dry_run: bool, busy: str
) -> None:
    """Write the profile where it belongs, and exit with `CONTAMINATED` if `busy` says why it cannot be trusted."""
    shown_on = outputs.console()
    target = output.path if output is not None else where.default_path()
    if dry_run:
        shown_on.print("\nNothing was written: --dry-run.")
    elif busy and target is not None and _is_kept(output, target):
        shown_on.print(
            f"\nNothing was written: {busy}. {target} is as it was; --force replaces it.", markup=False, soft_wrap=True
        )
    elif output is not None and output.is_stdout:
        outputs.write("--output", lambda: profile_text(fleet))
    else:
        _write(fleet, None if output is None else output.path, shown_on)
    outputs.close()
    if busy:
        sys.exit(CONTAMINATED)


def _exists(path: Path | None) -> bool:
    return path is not None and os.path.lexists(path)


def _check_default(path: Path | None) -> None:
    """Refuse to measure if the profile could not be written to the default path."""
    if path is None:
        raise Refused("this user has no home folder to keep a profile in: --output names a file")
    while not os.path.lexists(path.parent):  # it will be made
        path = path.parent
    try:
        files.check_writable(path)
    except OSError as error:
        raise Refused(
            f"a profile cannot be written to {path.parent}: {error.strerror}; --output names a file"
        ) from None


def _is_kept(output: Destination | None, target: Path) -> bool:
    """Return whether the target is an existing profile, or a link to where one may be."""
    if output is not None and output.is_stdout:
        return False
    return os.path.lexists(target) and (target.is_file() or not target.exists())


def _sources(
    logits: Path | None, targets: Path | None, shapes: tuple[tuple[int, int], ...] | None, sets: tuple[str, ...] | None,
    dtypes: tuple[str, ...] | None,
) -> tuple[planning.Source, ...]:  # fmt: skip
    if dtypes and "bfloat16" in dtypes and find_spec("ml_dtypes") is None:
        raise Refused("bfloat16 needs ml_dtypes, which is not installed: pip install ml_dtypes")
    if logits is not None or targets is not None:
        if logits is None or targets is None:
            raise Refused("--logits and --targets go together: give both files")
        if shapes or sets or dtypes:
            raise Refused("--shapes, --set and --dtype are for the built-in workloads, not for your own arrays")
        try:
            return (planning.own(logits, targets),)
        except workloads.WorkloadError as error:
            raise Refused(str(error)) from None
    dtypes = dtypes or ("float32",)
    found = [
        source
        for name in sets or ()
        for source in planning.built_in(name, dtypes)
        if source.shape is not planning.DIGITS  # whose logits are fitted first
    ]
    return grids.distinct((*found, *planning.of_shapes(shapes or (), dtypes)))


def _others(output: Destination | None, target: Path | None) -> tuple[profile.Profile, ...]:
    """Return the sections of other machines and builds in the file that is to be written."""
    if output is not None and output.is_stdout:
        raise Refused("--append adds to a file; --output - has none")
    if target is None or not os.path.lexists(target):
        return ()
    here = fingerprint.collect()
    return tuple(each for each in stored_fleet(target)[0].sections if fingerprint.differences(each.fingerprint, here))


def _write(chosen: profile.Fleet, output: Path | None, shown_on: Console) -> None:
    try:
        path = profile.save(chosen, output)
    except profile.ProfileError as error:
        raise Refused(str(error)) from None
    except OSError as error:
        name = output or where.default_path()
        raise Refused(f"the profile cannot be written to {name}: {error.strerror or error}") from None
    lines = [f"Profile written to {path.absolute()}"]
    if output is not None:
        lines.append(f"To use it: export {where.PROFILE_VARIABLE}={shlex.quote(str(path.absolute()))}")
    lines.append("Calls that name no backend follow it in every process that starts from now on.")
    variable = where.PROFILE_VARIABLE if output is None and where.file_asked_for() is not None else None
    variable = where.BACKEND_VARIABLE if where.backend_asked_for() is not None else variable
    if variable is not None:
        lines.append(f"This does not apply where {variable} is set, as it is here: {os.environ[variable]}")
    shown_on.print("", *lines, sep="\n", markup=False, soft_wrap=True)


def _interrupted(target: Path | None) -> None:
    kept = f" {target} is as it was." if target is not None and os.path.lexists(target) else ""
    click.echo(f"Interrupted. Nothing was written.{kept}", err=True)
    sys.exit(INTERRUPTED)
