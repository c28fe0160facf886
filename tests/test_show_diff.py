"""The record: written whole, described by its schema, read back exactly or refused; shown again, and compared."""

from __future__ import annotations

import copy
import json
import math
import os
import re
import socket
import threading
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import jsonschema
import numpy as np
import pytest
from click.testing import CliRunner

import clocks
from helpers import known
from softmax_ce_bench import cli
from softmax_ce_bench import compare as comparing
from softmax_ce_bench.compare.result import BreakEven, Ceiling, ColdStart, Control, DigitsFit, NotMeasured, Run
from softmax_ce_bench.measure.stats import Ratio
from softmax_ce_bench.report import comparison, difference, markdown, record
from test_compare import a_run, made, printed

SCHEMA = json.loads(record.SCHEMA_FILE.read_text(encoding="utf-8"))


def full_run() -> Run:
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
    assert known(read.cells[0].entries[2].errors).over_bound == math.inf
    assert read.cells[0].entries[2].timings["fused"].speedup == Ratio(0.5, 0.0, math.inf)
    assert read.cold_starts[0].break_even[0].cached == math.inf
    assert json.loads(stored.read_text())["cells"][0]["entries"][2]["errors"]["over_bound"] is None


def test_a_record_that_json_cannot_hold_is_no_text():
    assert json.loads(record.as_text({"version": 1})) == {"version": 1}
    with pytest.raises(ValueError, match="JSON"):
        record.as_text({"version": 2, "bad": math.nan})
    with pytest.raises(TypeError):
        record.as_text({cast(Any, 1j): 2})


DEEP = "[" * 100_000
HOSTILE = [
    ("", "it is empty"),
    ("{", "it is not JSON, or not all of it is there"),
    ("[1]", "it is [1]; must be an object"),
    ('{"schema": "softmax-ce/info", "version": 1}', "schema is 'softmax-ce/info'; must be 'softmax-ce/compare'"),
    (DEEP, "it is nested deeper than 32 levels"),
    (
        '{"schema": "softmax-ce/compare", "version": 1}',
        "its version is 1; this release reads 2, 3, 4 and 5: measure again",
    ),
    ('{"schema": "softmax-ce/compare", "version": {}}', "its version is {}; this release reads 2, 3, 4 and 5\n"),
    ('{"schema": "softmax-ce/compare", "version": true}', "its version is true; this release reads 2, 3, 4 and 5\n"),
    ('{"schema": "softmax-ce/compare", "version": 2}', "it lacks 'date'"),
    ('{"schema": NaN}', "NaN is not a JSON number"),
    ('{"schema": "softmax-ce/compare", "schema": 1}', "a field occurs twice"),
    (b"\xff\xfe\x00", "it is not UTF-8"),
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
        (lambda r: r["machine"].pop("cpu"), "machine lacks 'cpu'"),
        (
            lambda r: r["cells"][0]["operations"].update(sideways=1),
            "has a key that is 'sideways'; must be 'forward'",
        ),
        (
            lambda r: r["cells"][0]["control"]["ratio"].update(low=2.0),
            "cells[0].control.ratio is no interval of positive numbers",
        ),
        (lambda r: r.update(seconds="long"), "seconds is 'long'; must be a number"),
        (lambda r: r.update(seconds=True), "seconds is true; must be a number"),
        (lambda r: r.update(seconds=10**400), "; must be at least 0 and at most 1.79"),
        (lambda r: r.update(cells={}), "cells is {}; must be a list"),
        (lambda r: r["cells"][0].update(rounds=19), "cells[0], control: there are 20 times; must be 19, one a round"),
        (lambda r: r["cells"][0].update(rounds=1.5), "cells[0].rounds is 1.5; must be a whole number"),
        (
            lambda r: r["machine"].update(colour="red"),
            "machine has an unknown field 'colour'; its fields are 'cpu'",
        ),
        (lambda r: r["cells"][0]["entries"].pop(0), "cells[0].entries must have each candidate once, 'numpy' among"),
        (lambda r: r["cells"][0]["entries"][1].update(name="zz"), "'zz' is not among the candidates"),
        (
            lambda r: r["cells"][0]["entries"][1].update(status="best"),
            "status is 'best'; must be 'ranked'",
        ),
        (lambda r: r["cells"][0]["operations"]["fused"].update(fastest=["zz"]), "the fastest in fused is not among"),
        (lambda r: r["cells"][0]["operations"]["fused"].update(fastest=["c"]), "the fastest in fused has no times"),
        (
            lambda r: r["cells"][0]["entries"][0]["timings"]["fused"]["seconds"].__setitem__(3, -1.0),
            "cells[0].entries[0].timings['fused'].seconds[3] is -1.0; must be above 0",
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
        values: tuple[Any, ...] = (None, [], {}, "x", -1, 1e400, [[[]]], {"": {}})
        for value in values:
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
    there = replace(there, machine=replace(there.machine, cpu="another CPU", cpus_installed=4, python="4"))
    refused = run_diff(tmp_path, here, there)
    assert refused.exit_code == 2
    said = " ".join(refused.stderr.split())
    assert "from different machines, whose times cannot be compared: " in said
    assert "cpu: a CPU and another CPU; cpus installed: 2 and 4. --force" in said
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
    assert "no candidate was timed in the same cell" in refused.stderr
    allocated = timed(1e-3)
    allocated = replace(allocated, settings=replace(allocated.settings, results="allocated"))
    assert "buffers in one and allocated in the other" in " ".join(
        run_diff(tmp_path, timed(1e-3), allocated).stderr.split()
    )


# Characters that cannot be printed

STRANGE = (
    "\u00a0", "\u3000", "\u202f", "\u200d", "\t", "\n", "\r", "\x00", "\x07", "\x1b[31m", "\x9b2J", "\x7f", "\u202e",
    "\u2028", "\ufeff", "\udcff", "\ud800", "\ue000", "\U000e0001",
)  # fmt: skip
FREE = {
    "date", "command", "cpu", "instruction_sets", "os", "python", "softmax_ce", "commit", "packages",
    "thread_variables", "title", "version", "details", "includes", "why_unavailable", "how_to_get", "key", "regime",
    "set", "reason", "why_no_ceilings", "failed", "peak_memory_cell", "cell", "not_measured",
}  # fmt: skip


def strange_run(odd):
    """A run in whose strings, but for those of which there are a few, such characters occur."""
    plain = record.as_dict(full_run())
    plain["command"] = ["compare", "--json", f"a{odd}b.json"]
    plain["machine"].update(thread_variables={"OMP_NUM_THREADS": "1"}, commit="abc", packages={"numpy": "2"})
    plain["candidates"][1].update(available=False, why_unavailable="it is not there", how_to_get="pip install it")

    def spoilt(value, free):
        if isinstance(value, dict):
            return {key: spoilt(item, key in FREE or (free and key not in FREE)) for key, item in value.items()}
        if isinstance(value, list):
            return [spoilt(item, free) for item in value]
        return f"{value}{odd}" if isinstance(value, str) and free else value

    for part in ("date", "machine", "not_measured"):
        plain[part] = spoilt(plain[part], part != "machine")
    for part in ("candidates", "cells", "cold_starts"):
        for each in plain[part]:
            each.update({key: spoilt(item, True) for key, item in each.items() if key in FREE})
    for cell in plain["cells"]:
        cell["inputs"].update({key: f"{cell['inputs'][key]}{odd}" for key in ("name", "set", "regime")})
        for entry in cell["entries"]:
            entry["reason"] = entry["reason"] and f"{entry['reason']}{odd}"
    for start in plain["cold_starts"]:
        for even in start["break_even"]:
            even["cell"] += odd
    return plain


def unprintable(text):
    return {character for character in text if not character.isprintable()} - {"\n"}


ALL_STRANGE = " ".join(STRANGE)  # for the page, whose figures take long to draw


@pytest.mark.parametrize("odd", [*STRANGE, ALL_STRANGE], ids=ascii)
def test_a_record_of_any_characters_is_read_and_shown_without_them(odd, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plain = strange_run(odd)
    text = record.as_text(plain)
    (tmp_path / "run.json").write_bytes(text.encode("utf-8"))
    assert odd in plain["machine"]["cpu"]
    assert json.loads(text) == plain
    run = record.load(tmp_path / "run.json")
    assert record.as_dict(run) == plain
    shown = ascii(odd)[1:-1].replace("\\udcff", "\\xff")
    files = ["a.md", "a.html"] if odd == ALL_STRANGE else ["a.md"]
    options = [f"--{'html' if name.endswith('html') else 'markdown'}={name}" for name in files]
    result = CliRunner().invoke(cli.main, ["show", "run.json", "-v", *options])
    assert result.exit_code == 0, result.output
    texts = [result.stdout, *((tmp_path / name).read_text("utf-8") for name in files)]
    for text in texts:
        assert unprintable(text) == set()
        assert odd == "\n" or odd not in text
    assert f"a CPU{shown}" in " ".join(result.stdout.split())
    assert all(f"a CPU{shown}" in page for page in texts[2:])
    assert f"made{shown}" in " ".join(result.stdout.split())
    (tmp_path / "other.json").write_text(record.as_text(record.as_dict(full_run())), encoding="utf-8")
    for command in (["diff", "run.json", "run.json"], ["diff", "run.json", "other.json"]):
        result = CliRunner().invoke(cli.main, command)
        assert result.exit_code == (0 if command[1] == command[2] else 2), result.output
        assert unprintable(result.output) == set()


def test_a_name_of_any_characters_is_measured_recorded_and_shown(tmp_path, monkeypatch):
    """From the command line to the record and back: the arrays' names, and the outputs' own."""
    monkeypatch.chdir(tmp_path)
    odd = "a, b\u00a0\u3000\u202f\u200d\t\n\x1b[31m\udcff"
    np.save(f"x{odd}.npy", np.eye(4, 3, dtype=np.float32))
    np.save(f"y{odd}.npy", np.zeros(4, int))
    clock = clocks.quiet_machine(monkeypatch)
    monkeypatch.setattr(comparing, "run", partial(comparing.run, clock=clock))
    words = ["compare", "--logits", f"x{odd}.npy", "--targets", f"y{odd}.npy", "--backend", "numpy", "--peers", "none"]
    words += ["--json", f"{odd}.json", "--html", f"{odd}.html"]
    monkeypatch.setattr("sys.argv", ["softmax-ce", *words])
    result = CliRunner().invoke(cli.main, words)
    assert result.exit_code == 0, result.output
    assert unprintable(result.output) == set()
    assert "Record written to a, b\\xa0\\u3000\\u202f\\u200d\\t\\n\\x1b[31m\\xff.json" in result.stdout
    kept = record.load(tmp_path / f"{odd}.json")
    assert kept.command == tuple(words)
    assert kept.cells[0].inputs.name == f"x{odd}.npy"
    assert unprintable((tmp_path / f"{odd}.html").read_text("utf-8")) == set()
    assert CliRunner().invoke(cli.main, ["show", f"{odd}.json"]).stdout in result.stdout
    refused = CliRunner().invoke(cli.main, ["show", f"{odd}.yaml"])
    assert refused.exit_code == 2
    assert unprintable(refused.output) == set()


# Files that end late or never


@pytest.mark.skipif(os.name == "nt", reason="POSIX files")
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("/dev/zero", "/dev/zero: it is a device, not a file"),
        ("/dev/null", "is a device, not a file"),
        ("/dev/random", "is a device, not a file"),
        ("link", "link: it is a device, not a file"),
        ("folder", "folder: it is a folder, not a file"),
        ("pipe", "pipe: it is empty"),
        ("socket", "socket: it cannot be read"),
        ("loop", "loop: it cannot be read"),
        ("empty", "empty: it is empty"),
        ("sparse", "sparse: it is larger than 256 MiB"),
        ("a" * 300, "cannot be read: File name too long"),
    ],
)
def test_what_is_no_file_is_refused(name, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to("/dev/zero")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "folder").mkdir()
    (tmp_path / "empty").touch()
    os.mkfifo("pipe")
    with socket.socket(socket.AF_UNIX) as made:
        made.bind("socket")
    with open("sparse", "wb") as sparse:
        sparse.truncate(1 << 40)
    for command in (["show", name], ["diff", name, name]):
        result = CliRunner().invoke(cli.main, command)
        assert result.exit_code == 2
        assert said in result.stderr
        assert result.stderr.count("\n") == 1


@pytest.mark.skipif(os.name == "nt", reason="POSIX files")
def test_a_record_comes_through_a_pipe(stored):
    ours, theirs = os.pipe()

    def write() -> None:
        os.write(theirs, stored.read_bytes())
        os.close(theirs)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        assert record.load(Path(f"/dev/fd/{ours}")) == full_run()
    finally:
        writer.join(300)
        os.close(ours)


@pytest.mark.skipif(os.name == "nt", reason="POSIX files")
def test_a_pipe_without_end_is_refused(monkeypatch):
    monkeypatch.setattr(record, "LARGEST", 1000)
    ours, theirs = os.pipe()
    os.write(theirs, b" " * 2000)
    with pytest.raises(record.RecordError, match="it is larger than 1000 bytes"):
        record.load(Path(f"/dev/fd/{ours}"))
    os.close(ours)
    os.close(theirs)


# Machines


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("Linux-6.1.0-x86_64-with-glibc2.36", "Linux-6.8.12-x86_64-with-glibc2.39", True),
        ("Linux-6.1.0-13-amd64-x86_64-with-glibc2.36", "Linux-6.1.0-18-cloud-amd64-x86_64-with-glibc2.36", True),
        ("Linux-5.15.0-1019-aws-aarch64-with-glibc2.35", "Linux-6.2.0-aarch64-with-glibc2.35", True),
        ("Linux-6.1.0-x86_64-with-glibc2.36", "Linux-6.1.0-x86_64-with-libc", True),
        ("macOS-14.4-arm64-arm-64bit", "macOS-15.0.1-arm64-arm-64bit", True),
        ("Windows-10-10.0.19045-SP0", "Windows-11-10.0.22631-SP0", True),
        ("Linux-6.1.0-x86_64-with-glibc2.36", "Linux-6.1.0-aarch64-with-glibc2.36", False),
        ("Linux-6.1.0-x86_64-with-glibc2.36", "Windows-10-10.0.19045-SP0", False),
        ("macOS-14.4-arm64-arm-64bit", "macOS-14.4-x86_64-i386-64bit", False),
        ("macOS-14.4-arm64-arm-64bit", "Linux-6.1.0-aarch64-with-glibc2.36", False),
        ("an OS", "another OS", False),
        ("", "Linux-6.1.0-x86_64", False),
    ],
)
def test_a_new_release_of_the_system_is_the_same_machine(one, other, same, tmp_path):
    here, there = timed(1e-3), timed(1e-3, seed=1)
    here = replace(here, machine=replace(here.machine, os=one))
    there = replace(there, machine=replace(there.machine, os=other))
    result = run_diff(tmp_path, here, there)
    said = " ".join(result.output.split())
    assert result.exit_code == (0 if same else 2), said
    assert f"os: {one} and {other}" in said if same else "os: " in said


def test_thread_variables_may_differ_and_are_told(tmp_path):
    here, there = timed(1e-3), timed(1e-3, seed=1)
    there = replace(there, machine=replace(there.machine, thread_variables={"MKL_NUM_THREADS": "1"}))
    result = run_diff(tmp_path, here, there)
    assert result.exit_code == 0
    assert "thread variables: none and MKL_NUM_THREADS=1" in " ".join(result.stdout.split())


@pytest.mark.parametrize(
    ("threads", "cpus", "compared"),
    [
        ((None, None), (2, 2), 2), ((None, 1), (2, 1), 1), ((1, 2), (2, 1), 1), ((1, 2), (4, 2), 2),
        ((2, 4), (4, 2), 1), ((None, None), (2, 1), 0), ((2, 3), (2, 1), 0), ((3, 3), (2, 2), 2),
    ],
)  # fmt: skip
def test_cells_are_compared_whose_threads_had_a_cpu_each_in_both(threads, cpus, compared, tmp_path):
    runs = []
    for seed, count in enumerate(cpus):
        run = timed(1e-3, seed=seed)
        (cell,) = run.cells
        cells = [replace(cell, key=f"cell {k}", threads=asked) for k, asked in enumerate(threads)]
        runs.append(replace(run, cells=cells, machine=replace(run.machine, cpus_available=count)))
    result = run_diff(tmp_path, *runs)
    said = " ".join(result.output.split())
    if not compared:
        assert result.exit_code == 2
        assert f"they could use {cpus[0]} and {cpus[1]} CPUs" in said
        return
    assert result.exit_code == 0, said
    assert f"None of the {3 * 2 * compared} timings" in said
    assert ("Not compared, since the two runs could use different numbers of CPUs: " in said) == (compared < 2)
