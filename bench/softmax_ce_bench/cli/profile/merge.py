"""``softmax-ce profile merge``: the profiles of several machines in one file."""

from __future__ import annotations

from itertools import chain
from pathlib import Path

import click

from softmax_ce import profile
from softmax_ce.choice.profile.format import text as profile_text
from softmax_ce_bench.report import fleet as report
from softmax_ce_bench.report.printable import printable
from softmax_ce_bench.terminal.console import Refused
from softmax_ce_bench.terminal.outputs import CommandOutputs, Destination, OutputFile
from softmax_ce_bench.terminal.profiles import stored_fleet


@click.command(short_help="Put the profiles of several machines in one file.")
@click.argument("files", metavar="PROFILE...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("-o", "--output", type=OutputFile(), required=True, help="File to write.")
def merge(files: tuple[Path, ...], output: Destination) -> None:
    """Put profiles from several machines in one file, which every machine can then read: each follows its own section.

    Of two sections for one machine and build, the newer is kept, and this is said. OUTPUT may be one of the files.

    The exit code is 0, or 2 if a PROFILE cannot be read, two sections of one machine have no different dates, or OUTPUT
    cannot be written.
    """
    outputs = CommandOutputs({"--output": output})
    stored = [stored_fleet(file)[0] for file in files]
    try:
        fleet, replaced = profile.merge(chain.from_iterable(each.sections for each in stored))
        text = profile_text(fleet)
    except profile.ProfileError as error:
        raise Refused(str(error)) from None
    outputs.console().print(report.merged(printable(fleet), printable(replaced)), crop=False)
    outputs.write("--output", lambda: text)
    outputs.close()
