"""``python -m tools.gate_credentials``: measure how often the gate is right, and write the page about it."""

from __future__ import annotations

import time
from datetime import date
from pathlib import Path
from typing import Any

import click

from softmax_ce_bench.gate import builds, decision, session
from softmax_ce_bench.gate.session import BuildError
from softmax_ce_bench.measure import machine
from softmax_ce_bench.terminal.bar import Bar, progress
from softmax_ce_bench.terminal.console import Refused, console, interruptible
from softmax_ce_bench.terminal.options import Duration
from tools.gate_credentials import campaign, page
from tools.gate_credentials.store import Store, StoreError
from tools.gate_credentials.summary import summarize

FOLDER = Path("build/gate-credentials")


@click.command()
@click.option("--folder", type=click.Path(path_type=Path), default=FOLDER, show_default=True,
              help="Folder for the builds and the runs, from which a later run continues.")  # fmt: skip
@click.option("--time-budget", type=Duration(), default="1h", show_default=True, metavar="TIME",
              help="Time for this run; a later run continues.")  # fmt: skip
@click.option(
    "--scale", type=click.IntRange(1), default=1, show_default=True, help="Multiply the number of runs by this."
)
@click.option("--publish/--no-publish", default=None,
              help="Write docs/measurements/gate.md and its pictures.  [default: once all runs are done]")  # fmt: skip
@click.option(
    "--repository", type=click.Path(path_type=Path), default=Path(), help="The checkout to build.  [default: this one]"
)
def main(folder: Path, time_budget: float, scale: int, publish: bool | None, repository: Path) -> None:
    """Measure the gate's false alarms and its power on this machine: the last commit against itself, and against
    builds that are slower on purpose."""
    deadline = time.monotonic() + time_budget
    shown_on = console()
    try:
        root = builds.repository(repository)
        source = builds.revision(root, "HEAD")
        store = Store(folder / "runs.jsonl", _about(source.commit))
    except (BuildError, StoreError) as error:
        raise Refused(str(error)) from None
    with (
        interruptible(f"The runs so far are in {store.path}. Use the same command to continue."),
        progress(shown_on) as shown,
    ):
        bar = Bar(shown)
        try:
            sites = campaign.prepare(source, folder.resolve(), bar.draw)
            complete = campaign.run(source, sites, store, deadline, bar.draw, scale=scale)
            shown_on.print(f"{sum(store.counts().values())} runs are in {store.path}.", markup=False, soft_wrap=True)
            if publish or (complete and publish is None):
                bar.draw("resampling", 1.0)
                broken = campaign.broken_build(source, folder)
                target = root / "docs" / "measurements" / "gate.md"
                page.publish(summarize(store.runs()), store.about, date.today().isoformat(), broken, target)
                shown_on.print(f"Written to {target}, with its pictures.", markup=False, soft_wrap=True)
        except (BuildError, page.PageError) as error:
            raise Refused(str(error)) from None
    if not complete:
        shown_on.print("The time is up before all runs are complete. Use the same command to continue.")


def _about(commit: str) -> dict[str, Any]:
    """Return what all runs of a store have in common."""
    here = machine.collect()
    return {
        "commit": commit,
        "cpu": here.cpu,
        "cpus": here.cpus_available,
        "python": here.python,
        "packages": {name: here.packages.get(name) for name in ("numpy", "numba")},
        "settings": {
            "rounds": decision.ROUNDS, "growth": decision.GROWTH, "slower": decision.SLOWER,
            "ruled_out": decision.RULED_OUT, "false_alarms": decision.FALSE_ALARMS, "missed": decision.MISSED,
            "samples": session.SAMPLES, "passes": session.PASSES, "sample_seconds": session.SAMPLE_SECONDS,
        },
    }  # fmt: skip


if __name__ == "__main__":
    main()
