"""``softmax-ce info``: print versions, processor and backends, for a bug report."""

from __future__ import annotations

import json

import click

from softmax_ce_bench.measure import machine
from softmax_ce_bench.report import tables
from softmax_ce_bench.terminal.console import console


@click.command(short_help="Print versions, processor and backends, for a bug report.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def info(as_json: bool) -> None:
    """Print versions, processor, threads and backends, for a bug report."""
    collected = machine.facts()
    if as_json:
        click.echo(json.dumps(collected, indent=1))
    else:
        console().print(tables.info_table(collected), crop=False)
