"""``softmax-ce profile show``: show the tables of a stored profile."""

from __future__ import annotations

from pathlib import Path

import click

from softmax_ce.choice import fingerprint
from softmax_ce_bench.report import picking as report
from softmax_ce_bench.terminal.console import console
from softmax_ce_bench.terminal.profiles import PROFILE, stored_profile


@click.command(short_help="Show the tables of a stored profile.")
@click.argument("file", **PROFILE)
def show(file: Path | None) -> None:
    """Show the tables that `softmax-ce pick` printed when it measured a profile: the winner of each shape, what
    following the profile costs, and which backends may not win and why. Nothing is measured.

    The exit code is 0, or 2 if PROFILE cannot be read.
    """
    stored, path = stored_profile(file)
    differences = fingerprint.differences(stored.fingerprint, fingerprint.collect())
    shown_on = console()
    shown_on.print(report.of_profile(stored), crop=False)
    shown_on.print(report.standing(stored, str(path), differences), crop=False)
