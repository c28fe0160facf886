"""``softmax-ce diff``: compare two stored runs."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from softmax_ce_bench.report import difference, record
from softmax_ce_bench.report.printable import printable
from softmax_ce_bench.terminal.console import Refused, console
from softmax_ce_bench.terminal.options import Number

SLOWER, INCONCLUSIVE = 1, 3


@click.command(short_help="Compare two stored runs.")
@click.argument("before", type=click.Path(path_type=Path))
@click.argument("after", type=click.Path(path_type=Path))
@click.option(
    "--threshold",
    type=Number(0.1, 1000),
    default=round(100 * difference.THRESHOLD, 6),
    show_default=True,
    help="Changes of less than this many per cent are not reported.",
)
@click.option("--force", is_flag=True, help="Compare the runs even if the machines differ.")
def diff(before: Path, after: Path, threshold: float, force: bool) -> None:
    """Compare two records that `softmax-ce compare --json` wrote on one machine.

    The exit code is 0 if nothing in AFTER is slower than in BEFORE, 1 if something is, 2 if the records cannot be
    compared or anything else is wrong, and 3 if one of them is contaminated or has too few rounds to tell.
    """
    try:
        old, new = printable(record.load(before)), printable(record.load(after))
        found = difference.compare(old, new, force=force, threshold=threshold / 100)
    except record.RecordError as error:
        raise Refused(str(error)) from None
    except difference.DifferenceError as error:
        raise Refused(f"{before} and {after} cannot be compared: {error}") from None
    console().print(difference.table(found, threshold / 100), crop=False)
    unsure = all(change.verdict == difference.UNSURE for change in found.changes)
    if found.contaminated or unsure:
        sys.exit(INCONCLUSIVE)
    if found.slower:
        sys.exit(SLOWER)
