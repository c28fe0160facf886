"""Records of several machines side by side: the same workloads, and ratios within each machine only."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from softmax_ce_bench import cli
from softmax_ce_bench.compare.result import Run
from softmax_ce_bench.measure.stats import Ratio, paired_ratio
from softmax_ce_bench.report import machines, record
from softmax_ce_bench.report.html import machines_page
from test_compare import a_run, made, printed
from test_html import HOSTILE, Page, browse, grid_run, hostile_run


def named(cell: Any, key: str) -> Any:
    return replace(cell, key=key, inputs=replace(cell.inputs, name=key.split()[0]))


def the_run(cpu: str, *cells: Any, base: str = "numpy") -> Run:
    run = a_run(*cells)
    return replace(
        run, machine=replace(run.machine, cpu=cpu), settings=replace(run.settings, base=base, operations=("fused",))
    )


def only_fused(cell: Any) -> Any:
    entries = tuple(replace(each, timings={"fused": each.timings["fused"]}) for each in cell.entries)
    return replace(cell, entries=entries, operations={"fused": cell.operations["fused"]})


SHARED, OTHER = "shared 4x3 float32, auto threads", "other 4x3 float32, auto threads"
FAST = only_fused(named(made({"numpy": 1.0, "a": 4.0, "b": 2.0}), SHARED))
SLOW = only_fused(named(made({"numpy": 1.0, "a": 2.0, "b": 3.0, "c": 9.0}, rejected=("c",)), SHARED))
TWO = {"one": the_run("CPU 1", FAST, named(FAST, OTHER)), "two": the_run("CPU 2", SLOW)}


def test_workloads_of_two_machines_stand_side_by_side() -> None:
    found = machines.side_by_side(TWO)
    assert (found.base, found.operations, found.left_out) == ("numpy", ("fused",), (OTHER,))
    assert [(key, name) for key, name, _ in found.cells("fused")] == [(SHARED, "one"), (SHARED, "two")]
    assert found.timed("fused") == ["numpy", "a", "b", "c"]
    texts = {
        (machine, name): machines.figure(cell, name, "fused", machines.SPEEDUP).text
        for _, machine, cell in found.cells("fused")
        for name in found.timed("fused")
    }
    assert texts == {
        ("one", "numpy"): "1.00x", ("one", "a"): "4.00x *", ("one", "b"): "2.00x", ("one", "c"): "-",
        ("two", "numpy"): "1.00x", ("two", "a"): "2.00x", ("two", "b"): "3.00x *", ("two", "c"): "rejected",
    }  # fmt: skip
    lines = [" ".join(line.split()) for line in printed(machines.whole(found)).splitlines()]
    assert "a 4.00x *, 250 µs 2.00x, 500 µs" in lines
    assert "c - rejected" in lines
    assert any(line.startswith("Measured on one machine alone, and left out: other 4x3") for line in lines)


def test_records_without_a_common_workload_are_refused() -> None:
    with pytest.raises(machines.MachinesError, match="no two of the records have a workload in common"):
        machines.side_by_side({"one": TWO["one"], "two": the_run("CPU 2", named(SLOW, "third 1x1 float32"))})


def test_speed_ups_over_different_bases_are_taken_anew_over_one() -> None:
    """From the rounds of each machine, in which both ran."""
    rng = np.random.default_rng(3)
    seconds = {name: tuple(rng.uniform(1, 2, 20)) for name in ("numpy", "a", "b")}
    entries = tuple(
        replace(
            each,
            timings={"fused": replace(each.timings["fused"], seconds=seconds[each.name], speedup=Ratio(7.0, 6.0, 8.0))},
        )
        for each in FAST.entries
    )
    found = machines.side_by_side(
        {"one": the_run("CPU 1", replace(FAST, entries=entries), base="a"), "two": TWO["two"]}
    )
    assert found.base == found.runs["one"].settings.base == "numpy"
    for entry in found.runs["one"].cells[0].entries:
        assert entry.timings["fused"].speedup == paired_ratio(seconds["numpy"], seconds[entry.name])
    assert found.runs["two"].cells == TWO["two"].cells


def test_without_the_common_base_an_operation_has_no_ratios() -> None:
    entries = tuple(each if each.name != "numpy" else replace(each, timings={}) for each in FAST.entries)
    operations = {"fused": replace(FAST.operations["fused"], fastest=("a",))}
    one = the_run("CPU 1", replace(FAST, entries=entries, operations=operations), base="a")
    found = machines.side_by_side({"one": one, "two": TWO["two"]})
    assert [name for _, name, _ in found.cells("fused")] == ["two"]


def test_a_machine_that_was_not_quiet_is_named() -> None:
    spoilt = replace(TWO["two"], cells=[replace(SLOW, drifted=True)], contaminated=True)
    found = machines.side_by_side({"one": TWO["one"], "two": spoilt})
    (said,) = machines.verdicts(found)
    assert said.startswith("two: ")
    assert said in " ".join(printed(machines.whole(found)).split())


def write(folder: Any, **runs: Run) -> list[str]:
    paths = []
    for name, run in runs.items():
        (folder / f"{name}.json").write_text(record.as_text(record.as_dict(run)), encoding="utf-8")
        paths.append(str(folder / f"{name}.json"))
    return paths


def test_the_command_shows_and_writes_them(tmp_path: Any) -> None:
    paths = write(tmp_path, **TWO)
    page, tables = tmp_path / "m.html", tmp_path / "m.md"
    result = CliRunner().invoke(cli.main, ["show", *paths, "--html", str(page), "--markdown", str(tables)])
    assert result.exit_code == 0, result.output
    assert result.stdout == printed(machines.whole(machines.side_by_side(TWO)), width=cli.WIDTH)
    rows = [line for line in tables.read_text(encoding="utf-8").splitlines() if line.startswith("| shared")]
    assert [row.split(" | ")[1] for row in rows] == ["one", "two"] * 2
    assert r"| 4.00x \* |" in rows[0]
    shown = Page(page.read_text(encoding="utf-8"))
    assert len([1 for tag, attributes, _ in shown.tags if tag == "table"]) == 3  # the machines, speed-ups, times
    assert "Softmax cross-entropy on 2 machines" in page.read_text(encoding="utf-8")


def test_what_cannot_be_shown_side_by_side_is_refused(tmp_path: Any) -> None:
    paths = write(tmp_path, one=TWO["one"], two=the_run("CPU 2", named(SLOW, "third 1x1 float32")))
    for words, said in (
        (paths, "no two of the records have a workload in common"),
        ([*paths, "-v"], "give one FILE"),
        ([paths[0], str(tmp_path / "none.json")], "none.json: it cannot be read"),
        ([*paths, "--html", paths[1]], "it is an input file"),
    ):
        result = CliRunner().invoke(cli.main, ["show", *words])
        assert result.exit_code == 2
        assert said in " ".join(result.output.split())


def test_files_of_one_name_are_told_apart(tmp_path: Any) -> None:
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
    paths = [*write(tmp_path / "x", run=TWO["one"]), *write(tmp_path / "y", run=TWO["two"])]
    result = CliRunner().invoke(cli.main, ["show", *paths])
    assert re.search(r"run \(1\) +run \(2\)", result.output)


def test_markup_and_control_characters_of_a_record_stay_text(tmp_path: Any) -> None:
    evil = hostile_run()
    found = machines.side_by_side({f"a{HOSTILE}\x1b[31m": evil, "b": evil})
    text = machines_page(found)
    shown = Page(text)
    assert [tag for tag, _, _ in shown.tags].count("script") == 1
    assert "\x1b" not in text
    dom, said = browse(tmp_path, text)
    assert said == []
    assert dom.count("<script>") == 1


def test_the_page_is_the_same_for_the_same_records() -> None:
    runs = {"one": grid_run(), "two": grid_run()}
    found = machines.side_by_side(runs)
    assert machines_page(found) == machines_page(found)
    assert Page(machines_page(found)).tags
