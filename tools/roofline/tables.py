"""The tables of a record, and a description of how it was measured."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from softmax_ce_bench.ceilings import LOOPS
from softmax_ce_bench.inputs.workloads import WIDTH
from softmax_ce_bench.measure import timing
from softmax_ce_bench.measure.stats import CONFIDENCE, FEWEST_ROUNDS
from softmax_ce_bench.report.words import duration
from tools.roofline import machine, pool_cost
from tools.roofline.candidates import CEILING
from tools.roofline.goals import ELSEWHERE
from tools.roofline.sessions import ZIPF_CLASSES

MOST_CELLS = 5  # listed for a goal that is missed
_TITLES = {
    False: "Goals, our results into preallocated buffers",
    True: "Goals, our results allocated in the call",
}
Record = dict[str, Any]


def everything(record: Record) -> Group:
    """Return all that is shown of a run, complete or interrupted."""
    parts: list[RenderableType] = [goal_table(record, False), goal_table(record, True), missed_cells(record)]
    parts += [ceiling_table(record), pool_table(record), Text(), *_rejections(record), *_absent(record)]
    return Group(*parts, *_verdict(record), Text(method(record), style="dim"))


def goal_table(record: Record, allocating: bool) -> Group:
    """Return a row per goal: its worst cell, and the others in brief."""
    table = _table("case", "ISA", *(">goal", ">worst cell", ">median", ">best", ">cells met", "verdict"))
    for goal in record["goals"]:
        if goal["allocating"] != allocating:
            continue
        if goal["cells"]:
            best = goal["cells"][-1]["ratio"]["median"]
            table.add_row(
                _case(goal),
                goal["isa"],
                goal["goal"],
                with_interval(goal["cells"][0]["ratio"], goal["unit"]),
                _digits(goal["median"]),
                _digits(best),
                f"{goal['met']} of {len(goal['cells'])}",
                _mark(goal),
            )
        elif not allocating and not record["settings"]["only"]:
            table.add_row(_case(goal), goal["isa"], goal["goal"], "not measured", style="dim")
    return _titled(_TITLES[allocating], table)


def _case(goal: Record) -> str:
    """Return the case, and what it is compared with if the case does not say so."""
    return goal["case"] + (f", over {goal['against']}" if goal["against"] and not goal["at_least"] else "")


def _mark(goal: Record) -> Text:
    if goal["mark"].startswith("met"):
        return Text(goal["mark"], "green")
    return Text(f"{goal['mark']}, {_digits(goal['off'])}x off", "red")


def with_interval(ratio: Record, unit: str) -> str:
    """Return the ratio with its interval, or with a question mark if there were too few rounds for one."""
    between = "(?)" if ratio["high"] is None else f"({_digits(ratio['low'])}–{_digits(ratio['high'])})"
    return f"{_digits(ratio['median'])}{unit if unit == 'x' else ' ' + unit} {between}"


def missed_cells(record: Record) -> Group:
    """Return the cells that miss their goals, the worst first."""
    table = _table("missed", "cell", ">measured", ">above", ">below")
    sessions = {session["key"]: session for session in record["sessions"]}
    for goal in record["goals"]:
        missed = goal["cells"][: len(goal["cells"]) - goal["met"]]  # they are sorted, so these are the first
        for k, cell in enumerate([] if goal["allocating"] or goal["by_median"] else missed[:MOST_CELLS]):
            candidates = sessions[cell["session"]]["candidates"]
            times = [
                f"{_brief(name)}  {duration(candidates[name]['median'])}" if name else ""
                for name in (cell["above"], cell["below"])
            ]
            name = f"{goal['key']} {goal['goal']}" if k == 0 else ""
            unit = goal["unit"] if goal["unit"] == "x" else f" {goal['unit']}"
            table.add_row(name, cell["session"], f"{_digits(cell['ratio']['median'])}{unit}", *times)
    return _titled(f"Where a goal is missed: its worst cells, at most {MOST_CELLS}, as a ratio of two times", table)


def _brief(candidate: str) -> str:
    return candidate.replace(" fused", "").removeprefix(f"{CEILING} ")


def ceiling_table(record: Record) -> Group:
    """Return the data rates of the loops and, beside them, of the kernels, in GB/s of useful bytes."""
    copies = [session for session in record["sessions"] if f"{CEILING} read" in session["candidates"]]
    names = list(dict.fromkeys(name for session in copies for name in session["candidates"]))
    peers = {peer["name"] for peer in record["machine"]["peers"]}
    names = [name for name in names if not name.endswith(" allocating") and name.partition(" ")[0] not in peers]
    loops = {f"{CEILING} {what}": title for what, title in LOOPS.items()}
    names.sort(key=lambda name: (name not in loops, name.endswith(" forward")))
    table = _table("GB/s", *(">" + loops.get(name, name).replace(" ", "\n", 1) for name in names))
    for session in copies:
        table.add_row(session["key"], *(_rate(session, name) for name in names))
    note = "10⁹ bytes per second. Read and forward move the logits once; the others also write as many bytes."
    return _titled("The machine's limits, in the same rounds", table, note)


def _rate(session: Record, name: str) -> str:
    if name not in session["candidates"]:
        return "-"
    units = 1 if name.endswith((" read", " forward")) else 2
    return f"{1e-9 * units * session['bytes'] / session['candidates'][name]['median']:.1f}"


def pool_table(record: Record) -> Group:
    """Return the cost of two threads beyond half of the work, for the project's pool and OpenMP's."""
    pool = record["pool"]
    if pool is None:
        return Group()
    if pool["why_missing"]:
        return Group("", Text(f"The pool's cost was not measured: {pool['why_missing']}"))
    table = _table(">one thread", ">our pool", ">gain", ">cost", ">OpenMP", ">gain", ">cost")
    for row in pool["rows"]:
        cells = []
        for name in ("pool", "openmp"):
            if name in row:
                cost = row[name] - row["work"] / pool_cost.THREADS
                gain = with_interval(row[f"{name}_speedup"], "x")
                cells += [duration(row[name]), gain, f"{1e6 * cost:.1f} µs"]
        table.add_row(duration(row["work"]), *cells)
    note = (
        "A chain of multiplications in C, split as a kernel's rows are. Cost: the time beyond half the work. OpenMP: "
    )
    note += pool["why_no_openmp"] or "the same chain under gcc -fopenmp, compiled for this, called back to back."
    return _titled("The cost of waking a second thread: the same work on one thread and on two", table, note)


def _rejections(record: Record) -> Iterator[Text]:
    for session in record["sessions"]:
        for name, why in session["rejected"].items():
            yield Text(f"{session['key']}: {name} is not timed: {why}", style="yellow")


def _absent(record: Record) -> Iterator[Text]:
    facts = record["machine"]
    for backend in facts["backends"]:
        if not backend["available"]:
            yield Text(f"{backend['name']} is not available: {backend['why_unavailable']}")
    if facts["ceilings_why_unavailable"]:
        yield Text(f"The copy and read loops are not available: {facts['ceilings_why_unavailable']}")
    if record["left_out"]:
        yield Text(
            f"Not measured, since the time was up (--time-budget): {', '.join(record['left_out'])}", style="yellow"
        )
    for peer in facts["peers"]:
        if peer["why_missing"]:
            yield Text(f"{peer['title']} is {peer['why_missing']}. To get it: make peers, or {peer['how_to_get']}")


def _verdict(record: Record) -> Iterator[Text]:
    sessions = record["sessions"]
    drifted = [session["key"] for session in sessions if session["drifted"]]
    crowded = [f"{s['key']} ({s['cpus_of_others']:.1f} CPUs)" for s in sessions if s["crowded"]]
    for keys, why in (
        (drifted, f"the control differed from itself by more than {timing.CONTAMINATED:.0%}"),
        (crowded, "other programs kept so many CPUs busy that the threads had too few"),
    ):
        if keys:
            listed = ", ".join(keys[:8]) + (" …" if len(keys) > 8 else "")
            said = (
                f"CONTAMINATED: in {len(keys)} of {len(sessions)} sessions {why}: {listed}. Do not quote their ratios."
            )
            yield Text(said, style="bold red")


def method(record: Record) -> str:
    """Return machine, versions, threads, rounds, control drift, and what the numbers mean."""
    facts = record["machine"]
    size = facts["array_bytes"] / facts["cache_bytes"]
    capped = "" if size >= machine.OUT_OF_CACHE * 0.999 else ", limited by --array-mb"
    sentences = [
        f"{provenance(record)}.",
        f"Out of cache: logits of {facts['array_bytes'] / 1e6:.3g} MB, {size:.2g} × the last-level cache of "
        f"{facts['cache_bytes'] / 2**20:.0f} MiB{capped}; the gradient has the same size. All cores: as each side "
        f"chooses by size, up to {record['settings']['cores']} threads. One thread: the peers are limited to one CPU.",
        f"Logits are normal with standard deviation {WIDTH:g}, so that exp underflows; labels from {ZIPF_CLASSES} "
        "classes on follow Zipf's law. Ours writes into buffers whose pages are there; each peer is called as its "
        "users call it, in a process of its own:",
        *(f"  {peer['title']}: {peer['includes']}." for peer in facts["peers"] if not peer["why_missing"]),
        f"Instruction set (ISA): {facts['isa']}; this CPU can run {', '.join(facts['isas'])}. --isa limits all "
        "of them to a lower one.",
        "Every candidate's mean loss and rows of its result are checked against float64 before it is timed. Then "
        "each runs once per round in shuffled order. A sample lasts at least "
        f"{duration(record['settings']['sample_seconds'])}.",
        "A cell is one shape: the median of the paired ratios, and for the worst cell of a goal the "
        f"{CONFIDENCE:.0%} bootstrap interval over the rounds. The verdict is the worst cell's, by the median; with a "
        "question mark if the interval contains the limit. For other class axes, the median cell has a goal too.",
        ELSEWHERE,
        _rounds(record),
    ]
    return "\n".join(sentence for sentence in sentences if sentence)


def provenance(record: Record) -> str:
    """Return machine, versions and commit in one line."""
    facts = record["machine"]
    versions = [f"softmax-ce {facts['softmax_ce']}" + (f" ({facts['commit']})" if facts["commit"] else "")]
    versions += [f"{name} {facts['packages'][name]}" for name in ("numpy", "numba") if facts["packages"][name]]
    versions += [f"{p['title']} {p['version']}" for p in facts["peers"] if not p["why_missing"] and p["how_to_get"]]
    details = [f"{b['name']}: {b['details']}" for b in facts["backends"] if b["details"]]
    details += [f"copy and read loops: {facts['ceilings']}"] if facts["ceilings"] else []
    where = f"{facts['cpu']}, {facts['cpus_available']} CPUs, {facts['os']}, {record['date'][:10]}"
    return "; ".join([where, f"Python {facts['python']}, {', '.join(versions)}", *details])


def _rounds(record: Record) -> str:
    sessions = record["sessions"]
    if not sessions:
        return ""
    rounds = sorted(session["rounds"] for session in sessions)
    drifts = sorted(max(m := s["control"]["median"], 1 / m) - 1 for s in sessions)
    said = (
        f"{len(sessions)} sessions of {rounds[0]} to {rounds[-1]} rounds (median {rounds[len(rounds) // 2]}). The "
        f"control, one NumPy kernel under two names, differs from itself by {drifts[len(drifts) // 2]:.1%} in the "
        f"median session and {drifts[-1]:.1%} in the worst."
    )
    if rounds[0] < FEWEST_ROUNDS:
        said += f" (?): fewer than {FEWEST_ROUNDS} rounds, too few for an interval; a longer --time-budget gives more."
    return said


def _digits(number: float) -> str:
    return f"{number:.{3 if number < 1 else 2 if number < 9.995 else 1 if number < 99.95 else 0}f}"


def _table(*headings: str) -> Table:
    """Return a table. A heading that begins with > belongs to a column that is aligned right."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for heading in headings:
        right = heading.startswith(">")
        table.add_column(heading.removeprefix(">"), justify="right" if right else "left", no_wrap=heading != "case")
    return table


def _titled(title: str, table: Table, note: str = "") -> Group:
    if not table.row_count:
        return Group()
    return Group("", Text(title, style="bold"), table, *([Text(note, style="dim")] if note else []))
