"""``softmax-ce profile``: show, explain or check a stored profile. One module per subcommand."""

from __future__ import annotations

import click

from softmax_ce_bench.cli.profile.check import check
from softmax_ce_bench.cli.profile.explain import explain
from softmax_ce_bench.cli.profile.merge import merge
from softmax_ce_bench.cli.profile.show import show


@click.group(short_help="Show, explain, check or merge stored profiles.")
def profile() -> None:
    """Show, explain, check or merge profiles that `softmax-ce pick` wrote.

    PROFILE is by default the file that calls follow. If it holds sections of several machines, the one of this machine
    is explained and checked.
    """


for command in (show, explain, check, merge):
    profile.add_command(command)
