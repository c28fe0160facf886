"""``python -m tools.linear_memory RECORD... FIGURE``: draw the peak memory of a linear layer against the classes.

RECORD is one of ``softmax-ce compare --op linear --set vocabularies --json RECORD``. If there are several, of one
machine, each cell is taken from the first that has it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import matplotlib

matplotlib.use("agg")  # before pyplot: no display is needed

import matplotlib.pyplot as plt
from matplotlib.lines import Line2D

from softmax_ce_bench.compare.result import PEER, Run
from softmax_ce_bench.report import figures, record
from softmax_ce_bench.report.html import axes, vocabulary
from softmax_ce_bench.report.html.palette import Mark


def draw(run: Run, path: Path) -> None:
    """Write the figure of a run.

    Parameters
    ----------
    run : Run
    path : Path
        Its suffix decides the format.

    Raises
    ------
    SystemExit
        The run has no peak memory at several numbers of classes.
    """
    found = vocabulary.widest(run)
    if found is None:
        raise SystemExit("the record has no peak memory of a linear layer at several numbers of classes")
    operation, cells = found
    known = {}
    for k, name in enumerate(vocabulary.names_in(run, cells, operation)):
        candidate, look = run.candidate(name), figures.line(k)
        is_peer = candidate.kind == PEER
        label = candidate.title if is_peer else f"softmax-ce, {name}"
        known[name] = Mark(label, look["color"], look["marker"], "--" if is_peer else "-", not is_peer)
    with plt.rc_context(figures.style(10)):
        figure, panel = plt.subplots(figsize=(8, 4.6), layout="constrained")
        vocabulary.draw(panel, cells, known, operation, figures.GREY)
        inputs = cells[0].inputs
        panel.set_title(f"loss and gradients, {inputs.rows:,} rows, {inputs.features} features, {inputs.dtype}")
        dotted = Line2D([], [], color=figures.GREY, linestyle=":", label="all logits")
        handles = [*(axes.handle(mark) for mark in known.values()), dotted]
        figure.legend(handles=handles, loc="outside lower center", ncols=3)
        figure.savefig(path, dpi=150, metadata={"Date": None} if path.suffix == ".svg" else None)
        plt.close(figure)


def joined(runs: Sequence[Run]) -> Run:
    """Return the first run with the cells and the candidates of all."""
    cells = {cell.key: cell for run in reversed(runs) for cell in run.cells}
    candidates = {each.name: each for run in reversed(runs) for each in run.candidates}
    return replace(runs[0], cells=[*cells.values()], candidates=tuple(candidates.values()))


def main() -> None:
    """Draw what the command line names."""
    *sources, figure = sys.argv[1:] or [""]
    if not sources:
        raise SystemExit(__doc__)
    draw(joined([record.load(Path(source)) for source in sources]), Path(figure))


if __name__ == "__main__":
    main()
