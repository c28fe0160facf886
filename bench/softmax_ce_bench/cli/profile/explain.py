"""``softmax-ce profile explain``: explain the choices of a stored profile."""

from __future__ import annotations

from pathlib import Path

import click

from softmax_ce import profile, registry
from softmax_ce.choice import fingerprint
from softmax_ce.dtypes import compute_dtype
from softmax_ce.threads import available_cpus
from softmax_ce_bench.inputs import workloads
from softmax_ce_bench.report import picking as report
from softmax_ce_bench.terminal.console import Refused, console
from softmax_ce_bench.terminal.options import DTYPE, THREADS, Shapes, profiled_operations
from softmax_ce_bench.terminal.profiles import PROFILE, stored_profile


@click.command(short_help="Explain the choice of a stored profile for a shape.")
@click.argument("shapes", metavar="ROWSxCLASSES", type=Shapes())
@click.argument("file", **PROFILE)
@DTYPE
@profiled_operations("fused")
@THREADS
def explain(
    shapes: tuple[tuple[int, int], ...],
    file: Path | None,
    dtypes: tuple[str, ...] | None,
    operations: tuple[str, ...] | None,
    threads: tuple[int, ...] | None,
) -> None:
    """Show the measured cells around a shape, or around several such as 32x1000,64x1000, and how they decide which
    backend runs there. Nothing is measured.

    The exit code is 0, or 2 if PROFILE cannot be read or has no cells for a dtype.
    """
    stored, path = stored_profile(file)
    differences = fingerprint.differences(stored.fingerprint, fingerprint.collect())
    selector = profile.Selector(stored, available_cpus())
    without = frozenset(info.name for info in registry.backends() if not (info.stable and info.available))
    shown_on = console()
    for rows, classes in shapes:
        for dtype in dtypes or ("float32",):
            for operation in operations or ("fused",):
                for count in threads or (None,):
                    compute = compute_dtype(workloads.dtype_of(dtype)).name
                    key = selector.key(dtype, compute, operation, count)
                    if key is None:
                        raise Refused(f"profile {path} has no cells for {dtype}: the safe default runs")
                    around = selector.grid(key, without).around(rows, classes)
                    what = selector.cells(key)[0]
                    shown_on.print(report.explained(stored, (rows, classes), what, around), crop=False)
    shown_on.print(report.standing(stored, str(path), differences), crop=False)
