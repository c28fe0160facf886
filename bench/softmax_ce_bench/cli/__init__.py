"""The ``softmax-ce`` command, with one module per subcommand."""

from __future__ import annotations

import click

import softmax_ce as sce
from softmax_ce_bench.cli.check import check
from softmax_ce_bench.cli.compare import compare
from softmax_ce_bench.cli.diff import diff
from softmax_ce_bench.cli.gate import gate
from softmax_ce_bench.cli.info import info
from softmax_ce_bench.cli.pick import pick
from softmax_ce_bench.cli.profile import profile
from softmax_ce_bench.cli.show import show
from softmax_ce_bench.terminal.console import WIDTH
from softmax_ce_bench.terminal.group import INTERRUPTED, CommandGroup

__all__ = ["INTERRUPTED", "WIDTH", "main"]


@click.group(cls=CommandGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(sce.__version__, prog_name="softmax-ce")
def main() -> None:
    """Check and compare the backends of softmax-ce on this machine, and pick one for production."""


for command in (info, check, compare, show, diff, pick, profile, gate):
    main.add_command(command)
