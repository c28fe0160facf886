"""``softmax-ce profile``: show, explain or check a stored profile. One module per subcommand."""

from __future__ import annotations

import click

from softmax_ce_bench.cli.profile.check import check
from softmax_ce_bench.cli.profile.explain import explain
from softmax_ce_bench.cli.profile.show import show


@click.group(short_help="Show, explain or check a stored profile.")
def profile() -> None:
    """Show, explain or check a profile that `softmax-ce pick` wrote.

    PROFILE is by default the file that calls follow.
    """


for command in (show, explain, check):
    profile.add_command(command)
