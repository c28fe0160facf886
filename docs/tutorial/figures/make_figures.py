"""Draw the figures of docs/tutorial/from-probability-to-kernel.md: python docs/tutorial/figures/make_figures.py

The same Matplotlib gives the same bytes on every run and machine: ids are hashed with a fixed salt, no date is
written, fonts are drawn as paths, and the data depend on no mathematical library of the machine (the
finite differences take a correctly rounded loss, from the decimal module, because they plot rounding errors).
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from decimal import Decimal, localcontext
from pathlib import Path

import matplotlib

matplotlib.use("svg")  # before pyplot: no display is needed

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

HERE = Path(__file__).parent
BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#444444"  # Okabe and Ito: told apart with any colour vision
STYLE = {
    "svg.hashsalt": "softmax-ce",
    "svg.fonttype": "path",  # looks alike where the reader has other fonts
    "font.family": "DejaVu Sans",  # comes with Matplotlib
    "font.size": 11,
    "figure.facecolor": "white",  # explicit, so that dark pages do not show through
    "savefig.facecolor": "white",
    "axes.facecolor": "white",
    "axes.edgecolor": GREY,
    "axes.grid": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": "#dddddd",
    "lines.linewidth": 2.2,
}


def binary_cross_entropy() -> Figure:
    """The cost of one row with two classes, against the probability and against the logit."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.0, 3.8), sharey=True, layout="constrained")

    # Even in the logit: the curves rise without end at 0 and 1, and stay smooth to the frame.
    logits = [0.04 * k for k in range(-175, 176)]
    probabilities = [1 / (1 + math.exp(-z)) for z in logits]
    cost_of_one = [math.log1p(math.exp(-z)) for z in logits]
    cost_of_zero = [math.log1p(math.exp(z)) for z in logits]
    for axes, across in ((left, probabilities), (right, logits)):
        axes.plot(across, cost_of_one, color=BLUE)
        axes.plot(across, cost_of_zero, color=ORANGE, linestyle="--")
        axes.set_ylim(0, 5)
    left.set(xlim=(0, 1), xlabel="predicted probability P", ylabel="cost (nats)", title="against the probability")
    left.annotate("y = 1:  −ln P", (0.115, 2.6), color=BLUE)
    left.annotate("y = 0:  −ln(1 − P)", (0.885, 3.6), color=ORANGE, ha="right")
    left.plot([0.5], [math.log(2)], "o", color=GREY)
    left.annotate("ln 2", (0.5, math.log(2) - 0.55), color=GREY, ha="center")
    right.set(xlim=(-6, 6), xlabel="logit z = ln(P / (1 − P))", title="against the logit")
    right.annotate("y = 1:  ln(1 + e⁻ᶻ)", (-2.45, 3.0), color=BLUE)
    right.annotate("y = 0:  ln(1 + eᶻ)", (3.55, 4.1), color=ORANGE, ha="right")
    right.plot([0], [math.log(2)], "o", color=GREY)
    right.annotate("ln 2", (0, math.log(2) - 0.55), color=GREY, ha="center")
    return figure


def finite_differences() -> Figure:
    """The error of a central difference against its step, with its two causes."""
    logits, label, j = (5, 2, -1, 3), 0, 0
    exponents = [k / 8 for k in range(-8 * 40, 1)]
    steps, errors = [], []
    with localcontext() as context:
        context.prec = 50
        gradient = _softmax_at(logits, j) - (1 if j == label else 0)
        for exponent in exponents:
            # Rounded to multiples of 2^-49, so that 5 + h and 5 - h are exact and only the loss is rounded.
            h = round(2.0**exponent * 2.0**49) * 2.0**-49
            up, down = (float(_loss(logits, label, j, Decimal(sign * h))) for sign in (1, -1))
            steps.append(h)
            errors.append(abs(float(Decimal((up - down) / (2 * h)) - gradient)))

    figure, axes = plt.subplots(figsize=(7.0, 4.0), layout="constrained")
    axes.loglog(steps, errors, color=BLUE, linewidth=1.2)
    ends = 2.0**-40, 1.0
    half_ulp = 2.0**-56  # of a loss between 1/8 and 1/4
    axes.loglog(ends, [h * h / (36 * math.sqrt(3)) for h in ends], color=ORANGE, linestyle="--")
    axes.loglog(ends, [half_ulp / h for h in ends], color=GREY, linestyle="--")
    axes.set(xlim=ends, ylim=(1e-16, 1), xlabel="step h", ylabel="error of the central difference")
    axes.annotate("rounding:  B / h", (3e-11, 2e-5), color=GREY)
    axes.annotate("truncation:  ≤ h² / (36√3)", (2e-2, 2e-3), color=ORANGE, ha="right")
    axes.annotate("measured", (1e-8, 1e-12), color=BLUE, ha="center")
    return figure


def _loss(logits: tuple[int, ...], label: int, j: int, step: Decimal) -> Decimal:
    moved = [x + step if i == j else Decimal(x) for i, x in enumerate(logits)]
    return sum((x - moved[label]).exp() for x in moved).ln()


def _softmax_at(logits: tuple[int, ...], j: int) -> Decimal:
    return 1 / sum(Decimal(x - logits[j]).exp() for x in logits)


FIGURES: tuple[Callable[[], Figure], ...] = (binary_cross_entropy, finite_differences)


def main() -> None:
    """Write every figure as SVG, and as something else too on request."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=HERE, help="directory to write to")
    parser.add_argument("--also", choices=("png", "pdf"), help="a second format, to look at")
    options = parser.parse_args()
    with plt.rc_context(STYLE):
        for draw in FIGURES:
            figure = draw()
            path = options.out / f"{draw.__name__}.svg"
            figure.savefig(path, metadata={"Date": None, "Title": draw.__doc__})
            _strip_line_ends(path)
            if options.also:
                figure.savefig(path.with_suffix(f".{options.also}"), dpi=110)
            plt.close(figure)


def _strip_line_ends(path: Path) -> None:
    """Matplotlib leaves blanks at line ends, which git reports as errors."""
    lines = path.read_text(encoding="utf-8").splitlines()
    path.write_text("\n".join(line.rstrip() for line in lines) + "\n", encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
