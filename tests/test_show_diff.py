"""The record: written whole, described by its schema, read back exactly or refused; shown again, and compared."""

from __future__ import annotations

import copy
import json
import math
import re
from dataclasses import fields, is_dataclass, replace
from typing import get_args, get_type_hints

import jsonschema
import numpy as np
import pytest
from click.testing import CliRunner

from softmax_ce_bench import cli
from softmax_ce_bench.compare.model import BreakEven, Ceiling, ColdStart, Control, DigitsFit, NotMeasured, Run
from softmax_ce_bench.report import comparison, difference, markdown, record
from softmax_ce_bench.stats import Ratio
from test_compare import a_run, made, printed

SCHEMA = json.loads(record.SCHEMA_FILE.read_text(encoding="utf-8"))


def full_run():
    """A run in which every part of the format occurs, infinities and all."""
    cell = made({"numpy": 1.0, "a": 3.0, "b": (0.5, 0.0, math.inf)}, rejected="b")
    ceiling = Ceiling("read", 48, (1e-6,) * 20, Ratio(1e-6, 1e-6, 1e-6), 0.048)
    timed = cell.entries[1].timings["fused"]
    cell.entries[1].timings["fused"] = replace(timed, of_ceiling=Ratio(0.5, 0.4, 0.6))
    wrong = replace(cell.entries[2], errors=replace(cell.entries[2].errors, over_bound=math.inf, grad_ulp=math.inf))
    skipped = replace(wrong, name="c", status="skipped", reason="takes no soft labels", errors=None, timings={})
    cell = replace(cell, ceilings=(ceiling,), entries=(*cell.entries[:2], wrong, skipped))
    fit = DigitsFit("numpy", 2, 0.25, 0.95, 0.0, 0.0, True, (2.3, 0.25))
    start = ColdStart("a", None, 0.1, 2.0, 0.2, 1e-3, 1000, cell.key, (BreakEven(cell.key, "fused", 10.0, math.inf),))
    left_out = NotMeasured("large 9x9 float32, auto threads", "the time was up")
    return a_run(cell, fits=[fit], cold_starts=[start], not_measured=[left_out], complete=False)


@pytest.fixture
def stored(tmp_path):
    path = tmp_path / "run.json"
    path.write_text(record.as_text(record.as_dict(full_run())), encoding="utf-8")
    return path


# The format


def test_the_schema_is_one_and_a_record_conforms_to_it():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    jsonschema.Draft202012Validator(SCHEMA).validate(record.as_dict(full_run()))


def test_the_schema_and_the_model_have_the_same_fields():
    found = {}

    def visit(kind):
        hints = get_type_hints(kind)
        found[kind] = {field.name for field in fields(kind)}
        for hint in hints.values():
            for inner in (hint, *get_args(hint), *(deep for each in get_args(hint) for deep in get_args(each))):
                if is_dataclass(inner) and inner not in found:
                    visit(inner)

    visit(Run)
    described = [set(part["properties"]) for part in (SCHEMA, *SCHEMA["$defs"].values())]
    assert len(found) == len(described)
    for names in found.values():
        assert names in described
    for part in (SCHEMA, *SCHEMA["$defs"].values()):
        assert part["additionalProperties"] is False
        assert set(part["required"]) == set(part["properties"])


def test_every_field_is_described():
    for part in (SCHEMA, *SCHEMA["$defs"].values()):
        for name, field in part["properties"].items():
            assert "const" in field or "$ref" in field or "description" in field or name == "median", name


@pytest.mark.parametrize(
    "spoil",
    [
        lambda r: r.pop("machine"),
        lambda r: r.update(extra=1),
        lambda r: r["cells"][0]["entries"][0].update(status="best"),
        lambda r: r["cells"][0]["entries"][0]["timings"].update(sideways=1),
        lambda r: r["cells"][0]["control"].update(first=[0.0]),
    ],
)
def test_the_schema_refuses_what_reading_refuses(spoil):
    broken = record.as_dict(full_run())
    spoil(broken)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(SCHEMA).validate(broken)
    with pytest.raises(record.RecordError):
        record.from_dict(broken)


# Writing and reading


def test_what_is_read_is_what_was_written(stored):
    read = record.load(stored)
    assert read == full_run()
    assert read.cells[0].entries[2].errors.over_bound == math.inf
    assert read.cells[0].entries[2].timings["fused"].speedup == Ratio(0.5, 0.0, math.inf)
    assert read.cold_starts[0].break_even[0].cached == math.inf
    assert json.loads(stored.read_text())["cells"][0]["entries"][2]["errors"]["over_bound"] is None


def test_a_record_that_json_cannot_hold_is_no_text():
    assert json.loads(record.as_text({"version": 1})) == {"version": 1}
    with pytest.raises(ValueError, match="JSON"):
        record.as_text({"version": 2, "bad": math.nan})
    with pytest.raises(TypeError):
        record.as_text({1j: 2})


DEEP = "[" * 100_000
HOSTILE = [
    ("", "is not JSON, or not all of it is there"),
    ("[1]", "it is no record of a comparison"),
    ('{"schema": "softmax-ce/info", "version": 1}', "it is no record of a comparison"),
    (DEEP, "nested too deeply"),
    ('{"schema": "softmax-ce/compare", "version": 1}', "its format is version 1; this softmax-ce reads version 2"),
    ('{"schema": "softmax-ce/compare", "version": {}}', "its format is version unknown"),
    ('{"schema": "softmax-ce/compare", "version": true}', "its format is version True"),
    ('{"schema": "softmax-ce/compare", "version": 2}', "date is missing"),
    ('{"schema": NaN}', "NaN is not JSON"),
    (b"\xff\xfe\x00", "is not JSON"),
]


@pytest.mark.parametrize(("content", "message"), HOSTILE)
def test_a_file_that_is_no_record_is_refused_in_one_line(tmp_path, content, message):
    path = tmp_path / "hostile.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    for command in (["show", path], ["diff", path, path]):
        result = CliRunner().invoke(cli.main, [str(word) for word in command])
        assert result.exit_code == 2
        assert message in result.stderr
        assert result.stderr.count("\n") == 1
        assert str(path) in result.stderr


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda r: r.update(seconds="long"), "seconds must be a number, not 'long'"),
        (lambda r: r.update(seconds=True), "seconds must be a number, not True"),
        (lambda r: r.update(seconds=10**400), "seconds is too large"),
        (lambda r: r.update(cells={}), "cells must be a list, not dict"),
        (lambda r: r["cells"][0].update(rounds=19), "there must be 19 times, one a round"),
        (lambda r: r["cells"][0].update(rounds=1.5), "cells[0].rounds must be a whole number, not 1.5"),
        (lambda r: r["machine"].update(cpu="\x1b[2J"), "machine.cpu has characters that cannot be printed"),
        (lambda r: r["machine"].update(colour="red"), "machine.'colour' is not a field of the format"),
        (lambda r: r["cells"][0]["entries"].pop(0), "cells[0].entries must have each candidate once, 'numpy' among"),
        (lambda r: r["cells"][0]["entries"][1].update(name="zz"), "'zz' is not among the candidates"),
        (lambda r: r["cells"][0]["entries"][1].update(status="best"), "'best' is not a status"),
        (lambda r: r["cells"][0]["operations"]["fused"].update(fastest=["zz"]), "the fastest in fused is not among"),
        (lambda r: r["cells"][0]["operations"]["fused"].update(fastest=["c"]), "the fastest in fused has no times"),
        (
            lambda r: r["cells"][0]["entries"][0]["timings"]["fused"]["seconds"].__setitem__(3, -1.0),
            "numpy fused: there must be 20 times, one a round, all of them positive",
        ),
    ],
)
def test_a_field_that_is_wrong_is_named(tmp_path, spoil, message):
    broken = record.as_dict(full_run())
    spoil(broken)
    path = tmp_path / "broken.json"
    path.write_text(json.dumps(broken))
    with pytest.raises(record.RecordError, match=re.escape(message)):
        record.load(path)


def test_a_truncated_record_is_refused_wherever_it_ends(stored, tmp_path):
    whole = stored.read_bytes()
    cut = tmp_path / "cut.json"
    for length in np.linspace(0, len(whole) - 3, 40).astype(int):
        cut.write_bytes(whole[:length])
        with pytest.raises(record.RecordError):
            record.load(cut)


def places_of(value, path=()):
    """The path of every value within a record, its own first."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from places_of(inner, (*path, key))


def test_any_value_of_any_wrong_type_is_an_error_and_nothing_else():
    whole = record.as_dict(full_run())

    every = list(places_of(whole))[1:]
    rng = np.random.default_rng(0)
    for path in [every[k] for k in rng.choice(len(every), 150, replace=False)]:
        for value in (None, [], {}, "x", -1, 1e400, [[[]]], {"": {}}):
            broken = copy.deepcopy(whole)
            inner = broken
            for key in path[:-1]:
                inner = inner[key]
            inner[path[-1]] = value
            try:
                run = record.from_dict(broken)
            except record.RecordError:
                continue
            printed(comparison.whole(run))  # what is accepted can be shown
            markdown.whole(run)


# show


def test_show_prints_what_compare_printed(stored):
    run = full_run()
    result = CliRunner().invoke(cli.main, ["show", str(stored)])
    assert result.exit_code == 0, result.stderr
    assert result.stdout == printed(comparison.whole(run), width=cli.WIDTH)
    for said in ("a is fastest in every operation", "b is not ranked here: is wrong", "c was not measured here", "50%"):
        assert said in result.stdout
    assert "large 9x9 float32, auto threads: not measured; the time was up" in " ".join(result.stdout.split())


def test_markdown_has_every_figure_and_leaves_no_markup_of_others(stored, tmp_path):
    path = tmp_path / "run.md"
    assert CliRunner().invoke(cli.main, ["show", str(stored), "--markdown", str(path)]).exit_code == 0
    text = path.read_text()
    assert "| fused | **a** | 333 µs | 3.00x (3.00-3.00) | 1 | 50% | 0.5 | 1, 2 |" in text
    assert "| forward | b | 2.00 ms | 0.50x (?) |" in text
    assert "| a | 100 ms | 2.00 s | 200 ms | 1 kB | 10 / never |" in text
    run = full_run()
    cell = replace(run.cells[0], inputs=replace(run.cells[0].inputs, regime="<script>|*x*"))
    shown = markdown.whole(a_run(cell))
    assert r"\<script\>\|\*x\*" in shown
    rows = [line for line in shown.splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {9}


# diff


def timed(seconds, control=1e-3, *, seed=0, rounds=40, **options):
    """A run in which numpy takes 1 ms and `a` so many seconds, on a machine that goes as fast as its control."""
    rng = np.random.default_rng(seed)
    cell = made({"numpy": 1.0, "a": 1.0}, rounds=rounds, **options)
    speed = control / 1e-3

    def around(value):
        return tuple(value * speed * np.exp(0.01 * rng.standard_normal(rounds)))

    for entry, value in zip(cell.entries, (1e-3, seconds), strict=True):
        for operation, old in entry.timings.items():
            entry.timings[operation] = replace(old, seconds=around(value))
    control = Control(around(1e-3), around(1e-3), Ratio(1.0, 1.0, 1.0))
    return a_run(replace(cell, control=control))


def verdicts(found):
    return {(change.name, change.operation): change.verdict for change in found.changes}


@pytest.mark.parametrize(
    ("before", "after", "verdict"),
    [(1e-3, 1.2e-3, "slower"), (1.2e-3, 1e-3, "faster"), (1e-3, 1.03e-3, "same"), (1e-3, 1e-3, "same")],
)
def test_a_change_is_told_by_its_size_and_direction(before, after, verdict):
    found = difference.compare(timed(before), timed(after, seed=1))
    assert verdicts(found)["a", "fused"] == verdict
    assert verdicts(found)["numpy", "fused"] == "same"
    change = next(change for change in found.changes if change.name == "a")
    assert change.ratio.median == pytest.approx(after / before, rel=0.01)
    assert change.ratio.low <= after / before * 1.005
    assert change.ratio.high >= after / before * 0.995


def test_a_machine_that_is_slower_all_over_is_no_change():
    found = difference.compare(timed(1e-3), timed(1e-3, control=2e-3, seed=1))
    assert set(verdicts(found).values()) == {"same"}


def test_the_interval_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(200):
        above, below = (np.exp(0.05 * rng.standard_normal((2, 25))) for _ in range(2))
        ratio = difference.unpaired_ratio(tuple(above), tuple(below), resamples=400)
        covered += ratio.low <= 1 <= ratio.high
    assert 180 <= covered <= 200


def run_diff(tmp_path, before, after, *options):
    for name, run in (("a.json", before), ("b.json", after)):
        (tmp_path / name).write_text(record.as_text(record.as_dict(run)), encoding="utf-8")
    return CliRunner().invoke(cli.main, ["diff", str(tmp_path / "a.json"), str(tmp_path / "b.json"), *options])


def test_exit_codes_tell_slower_from_refused_from_inconclusive(tmp_path):
    quiet = timed(1e-3)
    assert run_diff(tmp_path, quiet, timed(1e-3, seed=1)).exit_code == 0
    slower = run_diff(tmp_path, quiet, timed(1.2e-3, seed=1))
    assert slower.exit_code == 1
    assert "Of 6 timings 3 are slower and 0 faster." in slower.stdout
    assert run_diff(tmp_path, quiet, timed(1.2e-3, seed=1), "--threshold", "25").exit_code == 0
    contaminated = replace(timed(1.2e-3, seed=1), contaminated=True)
    inconclusive = run_diff(tmp_path, quiet, contaminated)
    assert inconclusive.exit_code == 3
    assert "INCONCLUSIVE: the second is contaminated" in inconclusive.stdout
    few = run_diff(tmp_path, quiet, timed(1.2e-3, rounds=4))
    assert few.exit_code == 3
    assert "too few rounds" in few.stdout


def test_other_machines_are_refused_and_the_fields_named(tmp_path):
    here, there = timed(1e-3), timed(1e-3, seed=1)
    there = replace(there, machine=replace(there.machine, cpu="another CPU", cpus_available=4, python="4"))
    refused = run_diff(tmp_path, here, there)
    assert refused.exit_code == 2
    said = " ".join(refused.stderr.split())
    assert "from different machines, where times mean nothing side by side: " in said
    assert "cpu: a CPU and another CPU; cpus available: 2 and 4. --force" in said
    forced = run_diff(tmp_path, here, there, "--force")
    assert forced.exit_code == 0
    assert "python: 3 and 4" in " ".join(forced.stdout.split())


def test_versions_may_differ_and_are_told(tmp_path):
    here, there = timed(1e-3), timed(1e-3, seed=1)
    there = replace(there, machine=replace(there.machine, softmax_ce="1", packages={"numpy": "3", "numba": None}))
    result = run_diff(tmp_path, here, there)
    assert result.exit_code == 0
    assert "softmax ce: 0 and 1; numpy: 2 and 3" in " ".join(result.stdout.split())


def test_runs_with_nothing_in_common_are_refused(tmp_path):
    other = timed(1e-3, key="another 4x3 float32, auto threads")
    refused = run_diff(tmp_path, timed(1e-3), other)
    assert refused.exit_code == 2
    assert "nothing in common" in refused.stderr
    allocated = timed(1e-3)
    allocated = replace(allocated, settings=replace(allocated.settings, results="allocated"))
    assert "buffers in one and allocated in the other" in " ".join(
        run_diff(tmp_path, timed(1e-3), allocated).stderr.split()
    )
