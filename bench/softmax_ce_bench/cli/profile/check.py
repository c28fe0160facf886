"""``softmax-ce profile check``: measure a stored profile again."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from softmax_ce.choice import fingerprint
from softmax_ce_bench.compare.request import RequestError
from softmax_ce_bench.conformance import AssertionsOff
from softmax_ce_bench.pick import recheck
from softmax_ce_bench.pick.request import SECONDS
from softmax_ce_bench.report import picking as report
from softmax_ce_bench.terminal.bar import Bar, BarListener, progress
from softmax_ce_bench.terminal.console import Refused, console, interruptible
from softmax_ce_bench.terminal.options import Duration
from softmax_ce_bench.terminal.profiles import PROFILE, stored_profile


@click.command(short_help="Measure a stored profile again.")
@click.argument("file", **PROFILE)
@click.option("--time-budget", type=Duration(), metavar="TIME",
              help=f"Time for everything but cold starts, such as 60, 60s or 2m.  "
                   f"[default: {SECONDS:.0f}s once the backends are compiled]")  # fmt: skip
@click.option("--force", is_flag=True, help="Go on even if the profile is from another machine or build.")
def check(file: Path | None, time_budget: float | None, force: bool) -> None:
    """Measure every cell of a stored profile again and test whether its winner still wins. The profile is not changed.

    The exit code is 0 if every winner holds, 1 if one now loses by more than 10%, 2 if something is wrong, and 3 if
    the machine was too noisy to tell.
    """
    stored, path = stored_profile(file)
    differences = fingerprint.differences(stored.fingerprint, fingerprint.collect())
    if differences and not force:
        said = "; ".join(map(str, differences))
        raise Refused(
            f"profile {path} is not followed here: {said}. Run softmax-ce pick to "
            "measure anew, or add --force to check it anyway"
        )
    seconds = SECONDS if time_budget is None else time_budget
    shown_on = console()
    try:
        with interruptible(f"Nothing was written. {path} is as it was."), progress(shown_on) as shown:
            found = recheck.recheck(stored, seconds, BarListener(Bar(shown)))
    except (RequestError, AssertionsOff) as error:
        raise Refused(str(error)) from None
    shown_on.print(report.rechecked(stored, found), crop=False)
    sys.exit(recheck.exit_code(found))
