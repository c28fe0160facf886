"""``python -m tools.mutation``: put faults into the sources, and count those that the tests notice."""

from __future__ import annotations

import os
import sys

import click

from softmax_ce_bench.terminal.options import Duration
from tools.mutation import compiled_part, python_part
from tools.mutation.results import REQUIRED_COMPILED, REQUIRED_PYTHON, Count, Results, table
from tools.mutation.tree import BUILD

_NUMBA_SAMPLE = 100  # each is compiled anew: seconds


@click.command()
@click.argument("part", type=click.Choice(["all", "python", "numba", "compiled"]), default="all")
@click.option(
    "--time",
    "seconds",
    type=Duration(),
    default="2h",
    show_default=True,
    help="Begin no mutant after this: 90s, 20m, 2h.",
)
@click.option("--report", is_flag=True, help="Begin no mutant, and report what is known.")
@click.option("--only", default="", help="Judge only sources whose name contains this.")
@click.option(
    "--sample", default=0, help="Number of Python mutants to judge, chosen at random.  [default: all, and 100 of Numba]"
)
@click.option("--seed", default=1, show_default=True, help="Seed of the order.")
@click.option("--jobs", default=os.cpu_count() or 1, show_default=True, help="Number of copies of the tree to work in.")
@click.option("--fresh", is_flag=True, help="Forget earlier verdicts.")
def main(part: str, seconds: float, report: bool, only: str, sample: int, seed: int, jobs: int, fresh: bool) -> None:
    """Run mutation tests of softmax_ce in copies of the tree below build/mutation.

    After an interrupt, by --time or Ctrl-C, the next run continues. The exit code is 0 if at least 95 % of the Python
    mutants that were tried and all mutants of the table are killed, 1 if not, and 2 after an error.
    """
    results = Results(fresh=fresh)
    seconds = 0.0 if report else seconds
    enough = True
    try:
        if part in ("all", "compiled"):
            count = compiled_part.run(seconds=seconds, only=only, results=results, say=click.echo)
            enough &= _report("compiled", {"C and Cython, by hand": count}, REQUIRED_COMPILED)
        for numba, name in ((False, "python"), (True, "numba")):
            if part in ("all", name):
                counts = python_part.run(
                    numba=numba, seconds=seconds, only=only, sample=sample or (numba and _NUMBA_SAMPLE), seed=seed,
                    jobs=jobs, results=results, say=click.echo,
                )  # fmt: skip
                enough &= _report(name, counts, REQUIRED_PYTHON)
    except KeyboardInterrupt:
        sys.exit(130)
    except (RuntimeError, ValueError, OSError) as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(2)
    sys.exit(0 if enough else 1)


def _report(name: str, counts: dict[str, Count], required: float) -> bool:
    """Print the survivors and the table, and return whether enough mutants were killed."""
    whole = Count()
    for count in counts.values():
        whole += count
    for line in whole.survived:
        click.echo(f"survived: {line}")
    rows = [*counts.items(), ("all", whole)] if len(counts) > 1 else list(counts.items())
    text = table(rows)
    click.echo(text)
    BUILD.mkdir(parents=True, exist_ok=True)
    (BUILD / f"{name}.md").write_text("\n".join([text, "", *whole.survived, ""]), encoding="utf-8")
    return whole.killed >= required * whole.judged


if __name__ == "__main__":
    main()
