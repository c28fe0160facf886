"""Figures of a record: time and bandwidth against classes on logarithmic axes, with the copy as the ceiling."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("agg")  # before pyplot: no display is needed

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from softmax_ce_bench.report import figures
from tools.roofline.candidates import CEILING
from tools.roofline.tables import Record, provenance


def draw(record: Record, folder: Path) -> list[Path]:
    """Write the figures that the record has data for.

    Parameters
    ----------
    record : dict
        A record, as :func:`tools.roofline.record.as_dict` returns it.
    folder : Path
        The folder for the figures. It is made if it does not exist.

    Returns
    -------
    list of Path
        PNG files; empty when nothing was measured that could be drawn.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for threads in ("all", "one"):
        sessions = largest(record, threads)
        if len(sessions) < 2:
            continue
        with plt.rc_context(figures.style(10)):
            figure = _figure(record, sessions, threads)
            path = folder / f"roofline_{threads}.png"
            figure.savefig(path, dpi=150)
            plt.close(figure)
        written.append(path)
    return written


def largest(record: Record, threads: str) -> list[Record]:
    """Return the sessions of the grid that are drawn, one for each number of classes."""
    found: dict[int, Record] = {}
    for session in record["sessions"]:
        if session["key"].startswith(f"grid/{threads}/") and session["complete"]:
            found[session["classes"]] = session
    return [found[classes] for classes in sorted(found)]


def _figure(record: Record, sessions: list[Record], threads: str) -> Figure:
    figure, (time, rate) = plt.subplots(1, 2, figsize=(12, 5.8), layout="constrained")
    titles = {peer["name"]: peer["title"] for peer in record["machine"]["peers"]}
    names = list(dict.fromkeys(name for session in sessions for name in session["candidates"]))
    names = [name for name in names if not name.startswith(CEILING) and not name.endswith(" forward")]
    who = list(dict.fromkeys(name.partition(" ")[0] for name in names))
    for name in names:
        own = name.partition(" ")[0]
        k = who.index(own)
        style: dict[str, Any] = {**figures.line(k)}
        style["linestyle"] = "--" if own in titles else ":" if name.endswith(" allocating") else "-"
        label = titles.get(own, name.replace(" fused", ""))
        _line(time, sessions, name, label, style, _nanoseconds)
        _line(rate, sessions, name, label, style, _gigabytes)
    ceiling = f"{CEILING} {record['machine']['copy']}"
    limit = {"color": figures.GREY, "linewidth": 2.5, "zorder": 1}
    label = "non-temporal copy" if record["machine"]["copy"] == "stream" else "copy"
    _line(time, sessions, ceiling, label, limit, _nanoseconds)
    _line(rate, sessions, ceiling, label, limit, _gigabytes)
    for axes, what in ((time, "time, ns an element"), (rate, "logits read and gradient written, GB/s")):
        axes.set(xscale="log", yscale="log", xlabel="classes", ylabel=what)
        axes.set_xticks([s["classes"] for s in sessions], [f"{s['classes']}\n× {_short(s['rows'])}" for s in sessions])
        axes.tick_params(axis="x", labelsize=8)
        axes.minorticks_off()
    time.set_xlabel("classes × rows")
    rate.set_xlabel("classes × rows")
    handles, labels = time.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", frameon=False)
    count = f"{record['settings']['cores']} threads at most" if threads == "all" else "one thread"
    isa = record["machine"]["isa"]
    figure.suptitle(f"Softmax cross-entropy and its gradient, {sessions[0]['dtype']}, {count}, {isa}")
    figure.supxlabel(textwrap.fill(_caption(record, sessions, count), 165), fontsize=7.5, color=figures.GREY)
    return figure


def _line(axes: Any, sessions: list[Record], name: str, label: str, style: dict[str, Any], of: Any) -> None:
    """Draw medians with a band between the quartiles of the rounds."""
    points = [(s["classes"], s, s["candidates"][name]) for s in sessions if name in s["candidates"]]
    if not points:
        return
    x = [classes for classes, _, _ in points]
    axes.plot(x, [of(s, c["median"]) for _, s, c in points], label=label, markersize=5, **style)
    low, high = ([of(s, c[end]) for _, s, c in points] for end in ("low", "high"))
    axes.fill_between(x, low, high, color=style["color"], alpha=0.2, linewidth=0)


def _nanoseconds(session: Record, seconds: float) -> float:
    return 1e9 * seconds / (session["rows"] * session["classes"])


def _gigabytes(session: Record, seconds: float) -> float:
    return 2e-9 * session["bytes"] / seconds


def _caption(record: Record, sessions: list[Record], threads: str) -> str:
    rounds = sorted(session["rounds"] for session in sessions)
    drift = max(max(m := s["control"]["median"], 1 / m) - 1 for s in sessions)
    contaminated = " (CONTAMINATED)" if any(s["drifted"] or s["crowded"] for s in sessions) else ""
    span = f"{rounds[0]} to {rounds[-1]}" if rounds[0] < rounds[-1] else f"{rounds[0]}"
    return (
        f"{provenance(record)}; {threads}; medians of {span} rounds, bands: quartiles; "
        f"control drift at most {drift:.1%}{contaminated}"
    )


def _short(rows: int) -> str:
    return f"{rows // 10**6} M" if rows >= 10**6 else f"{rows // 1000} k" if rows >= 10_000 else str(rows)
