"""``softmax-ce profile show``: show the tables of a stored profile."""

from __future__ import annotations

from pathlib import Path

import click

from softmax_ce.choice import fingerprint
from softmax_ce_bench.report import fleet as report_fleet
from softmax_ce_bench.report import picking as report
from softmax_ce_bench.report.printable import printable
from softmax_ce_bench.terminal.console import Refused, console
from softmax_ce_bench.terminal.profiles import PROFILE, stored_fleet


@click.command(short_help="Show the tables of a stored profile.")
@click.argument("file", **PROFILE)
@click.option("--section", type=int, help="The number of a section, as the table of machines has it.")
def show(file: Path | None, section: int | None) -> None:
    """Show the tables that `softmax-ce pick` printed when it measured a profile: the winner of each shape, what
    following the profile costs, and which backends may not win and why. Nothing is measured.

    If PROFILE holds sections of several machines, show which backend wins on which machine, and which single backend
    costs least over all of them. --section shows the tables of one.

    The exit code is 0, or 2 if PROFILE cannot be read or has no such section.
    """
    stored_sections, path = stored_fleet(file)
    count, here = len(stored_sections.sections), fingerprint.collect()
    if section is not None and not 1 <= section <= count:
        raise Refused(f"profile {path} has sections 1 to {count}, not {section}")
    shown_on = console()
    if section is None and count > 1:
        shown_on.print(report_fleet.of_fleet(printable(stored_sections), here), crop=False)
        return
    stored = stored_sections.sections[(section or 1) - 1]
    differences = fingerprint.differences(stored.fingerprint, here)
    shown_on.print(report.of_profile(stored), crop=False)
    shown_on.print(report.standing(stored, str(path), differences), crop=False)
