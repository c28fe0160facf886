"""The gate's page, and its forest plot: the ratio of each cell with its interval, the control first."""

from __future__ import annotations

from softmax_ce_bench.gate.cells import CONTROL
from softmax_ce_bench.gate.decision import MOVED, SLOWER, Verdict
from softmax_ce_bench.gate.result import GateResult
from softmax_ce_bench.report import gating, templates
from softmax_ce_bench.report.html import assets, axes, svg
from softmax_ce_bench.report.html.palette import colour
from softmax_ce_bench.report.html.picture import Picture

_LEAST = 0.12  # the axis reaches at least so far from 1: noise is not to look like news
_COLOURS = {
    Verdict.SLOWER: "warn", Verdict.UNSURE: "series-2", Verdict.ONCE: "series-2", Verdict.NOTED: "series-2",
    Verdict.FASTER: "series-5",
}  # fmt: skip


def page(result: GateResult) -> str:
    """Return a run as one HTML page that loads nothing."""
    return templates.load(assets.HERE / "gate.html.jinja").render(
        result=result,
        css=assets.css(),
        sentence=gating.sentence(result),
        picture=picture(result),
        rows=gating.rows(result),
        provenance=gating.provenance(result),
    )


def picture(result: GateResult) -> Picture:
    """Return the forest plot."""
    named = [(CONTROL, result.control, "ink"), *(
        (each.cell.text, each.first.ratio, _COLOURS.get(each.verdict, "series-3")) for each in result.cells
    )]  # fmt: skip
    title = "Time of head over that of base"
    with svg.style():
        drawn = svg.figure(9.0, 1.0 + 0.19 * len(named))
        panel = drawn.subplots()
        svg.bare(panel)
        panel.axhspan(-0.5, 0.5, color=colour("band"), linewidth=0, zorder=0)
        panel.axvspan(1 - MOVED, 1 + MOVED, color=colour("band"), linewidth=0, zorder=0)
        panel.axvline(1.0, color=colour("ink"), linewidth=1)
        panel.axvline(SLOWER, color=colour("warn"), linewidth=1, linestyle="--")
        for k, (_, ratio, tint) in enumerate(named):
            high = ratio.high if ratio.high != float("inf") else ratio.median
            panel.plot([ratio.low or ratio.median, high], [k, k], "-", color=colour(tint), linewidth=1.6)
            panel.plot(ratio.median, k, "D" if k == 0 else "o", color=colour(tint), markersize=4.5)
        axes.at(panel.yaxis, range(len(named)), [name for name, _, _ in named])
        panel.set_ylim(len(named) - 0.5, -0.5)
        low, high = panel.get_xlim()
        panel.set_xlim(min(low, 1 - _LEAST), max(high, 1 + _LEAST))
        panel.grid(visible=False, axis="y")
        panel.set_xlabel(f"head / base; slower: shown twice to be right of the dashed line ({SLOWER:.3g})")
        shown = svg.inline(drawn, "forest", title, gating.sentence(result))
    caption = (
        "Medians over rounds of the paired ratios, with their 95% intervals. The control comes first and is the "
        "same kernel on both sides. If it lies outside the band around 1, do not trust the other cells."
    )
    return Picture("figure-forest", title, caption, shown)
