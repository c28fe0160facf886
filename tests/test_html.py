"""The HTML report: well-formed, self-contained, its numbers the record's, inert whatever a record says."""

from __future__ import annotations

import functools
import json
import math
import re
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from helpers import known
from softmax_ce_bench import cli
from softmax_ce_bench.compare.result import BreakEven, Ceiling, ColdStart, Inputs
from softmax_ce_bench.measure.stats import Ratio
from softmax_ce_bench.report import comparison, record, words
from softmax_ce_bench.report.html import page, palette
from softmax_ce_bench.report.html.findings import best_single, findings
from softmax_ce_bench.report.html.selection import regrets
from test_compare import a_run, made
from test_show_diff import full_run, places_of

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
VOID = {"meta", "link", "input", "br", "hr", "img"}
HOSTILE = "<script>alert(1)</script>\"'&$x_1$"


class Page(HTMLParser):
    """What is in a page; the end tags must match."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None], tuple[str, ...]]] = []
        self.texts: list[tuple[str, tuple[str, ...]]] = []
        self.feed(text)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes), tuple(self.open)))
        assert len(attributes) == len(dict(attributes)), f"an attribute twice in <{tag}>"
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes), tuple(self.open)))

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append((data, tuple(self.open)))

    def all(self, tag):
        return [attributes for name, attributes, _ in self.tags if name == tag]

    def text(self):
        hidden = {"script", "style"}
        return " ".join(" ".join(data for data, inside in self.texts if not hidden & set(inside)).split())


def rows_of(text, key):
    """A table's rows: the text and the number of each field."""
    body = known(re.search(rf'<table data-sortable id="{key}">.*?<tbody>(.*?)</tbody>', text, re.DOTALL))[1]
    found = []
    for row in re.findall(r"<tr>(.*?)</tr>", body, re.DOTALL):
        fields = re.findall(r'<t[hd][^>]*?(?: data-value="([^"]*)")?>(.*?)</t[hd]>', row, re.DOTALL)
        found.append([(text, float(value) if value else None) for value, text in fields])
    return found


def grid_run():
    """Three numbers of rows and of classes; b is fast and wrong with many classes, a and numpy tie with few."""
    cells = []
    for rows in (8, 64, 512):
        for classes in (10, 100, 1000):
            scale = rows * classes * 1e-9
            speed = {"numpy": 1.0, "a": 1.01 if classes == 10 else 3.0, "b": 2.0, "library": 0.5}
            cell = made(speed, rejected=("b",) if classes == 1000 else ())
            entries = []
            for entry in cell.entries:
                timings = {}
                for operation, timing in entry.timings.items():
                    middle = scale / timing.speedup.median
                    timings[operation] = replace(
                        timing, time=Ratio(middle, 0.9 * middle, 1.1 * middle), gb_per_s=8 / middle * scale,
                        of_ceiling=Ratio(0.5, 0.4, 0.6),
                    )  # fmt: skip
                wrong = entry.status == "rejected"
                errors = replace(entry.errors, over_bound=math.inf) if wrong else entry.errors
                entries.append(replace(entry, timings={} if wrong else timings, errors=errors))
            ceiling = Ceiling("copy", 96, (scale / 9,) * 20, Ratio(scale / 9, scale / 10, scale / 8), 72.0)
            operations = {name: replace(facts, ceiling="copy") for name, facts in cell.operations.items()}
            name = f"{rows}x{classes}"
            cells.append(replace(
                cell, key=f"{name} float32, auto threads", entries=tuple(entries), ceilings=(ceiling,),
                operations=operations, inputs=Inputs(name, "shapes", "a shape", rows, classes, "float32", "hard"),
            ))  # fmt: skip
    starts = [
        ColdStart(
            name, None, 0.1, cold, cached, 1e-4, size, cells[0].key, (BreakEven(cells[0].key, "fused", 9.0, 5.0),)
        )
        for name, cold, cached, size in (
            ("numpy", 0.2, 0.2, 10_000),
            ("a", 5.0, 0.5, 0),
            ("library", 1.0, 1.0, 5_000_000),
        )
    ]
    run = a_run(*cells, cold_starts=starts)
    candidates = tuple(
        replace(each, kind="peer", title="a library") if each.name == "library" else each for each in run.candidates
    )
    return replace(run, candidates=candidates)


@functools.cache
def page_of(make):
    """The page of the run that a function makes. Drawing it takes seconds."""
    return page(make())


@pytest.fixture(scope="module")
def run():
    return grid_run()


@pytest.fixture(scope="module")
def text():
    return page_of(grid_run)


def hostile_run():
    """Every string of a record is markup, but for those that mean something."""
    whole = record.as_dict(grid_run())
    kept = {"schema", "kind", "status", "fastest", "operations", "ceiling", "loop", "dtype", "targets", "results"}
    kept |= {"weight", "reduction", "operation"}

    def spoil(value, key=""):
        if isinstance(value, dict):
            return {name: spoil(inner, name) for name, inner in value.items()}
        if isinstance(value, list):
            return [spoil(inner, key) for inner in value]
        return f"{HOSTILE}{value}" if isinstance(value, str) and key not in kept else value

    spoiled = spoil(whole)
    for cell in spoiled["cells"]:
        for facts in cell["operations"].values():
            facts["fastest"] = [f"{HOSTILE}{name}" for name in facts["fastest"]]
    return record.from_dict(spoiled)


# Structure


@pytest.mark.parametrize("make", [grid_run, full_run, hostile_run, lambda: a_run(made({"numpy": 1.0}, rounds=3))])
def test_the_page_is_well_formed_and_every_figure_has_its_caption(make):
    text = page_of(make)
    parsed = Page(text)
    ids = [attributes["id"] for _, attributes, _ in parsed.tags if "id" in attributes]
    assert [name for name, count in Counter(ids).items() if count > 1] == []
    for used in re.findall(r"url\(#([^)]*)\)", text) + re.findall(r' href="#([^"]*)"', text):
        assert used in ids
    for labelled in re.findall(r'aria-labelledby="([^"]*)"', text):
        assert set(labelled.split()) <= set(ids)
    assert len(parsed.all("figcaption")) == len(parsed.all("svg"))
    assert len(parsed.all("caption")) == len(parsed.all("table")) >= 3
    assert all(attributes.get("scope") in ("col", "row") for attributes in parsed.all("th"))
    assert parsed.all("html") == [{"lang": "en"}]
    for attributes in parsed.all("svg"):
        assert attributes["role"] == "img"


def test_nothing_is_loaded_from_elsewhere(text):
    assert re.findall(r"https?:|//[a-z]|@import|src=", text.replace("// Tables", "")) == []
    assert {attributes["href"] for attributes in Page(text).all("link")} == {"data:,"}
    assert "default-src 'none'" in text
    assert len(Page(text).all("script")) == 1


def test_every_figure_says_where_it_was_measured(run, text):
    captions = re.findall(r"<figcaption>(.*?)</figcaption>", text, re.DOTALL)
    assert len(captions) == 9
    for caption in captions:
        for said in ("a CPU", "numpy 2", "softmax-ce 0", "2026-01-01", "Threads: up to 2", "rounds: 20", "drift: 0.0%"):
            assert said in caption


def test_every_colour_follows_the_mode(text):
    css = known(re.search(r"<style>(.*?)</style>", text, re.DOTALL))[1]
    light, dark = (dict(re.findall(r"(--[a-z0-9-]+): (#[0-9a-f]{6})", part)) for part in css.split("@media screen")[:2])
    used = set(re.findall(r"var\((--[a-z0-9-]+)\)", text))
    assert used <= set(light)
    assert light.keys() == dark.keys()
    pictures = " ".join(re.findall(r"<svg.*?</svg>", text, re.DOTALL))
    assert set(re.findall(r"#[0-9a-f]{6}(?![0-9a-f])", pictures)) == set()

    def contrast(first, second):
        def luminance(colour):
            parts = [int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)]
            linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
            return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

        low, high = sorted((luminance(first), luminance(second)))
        return (high + 0.05) / (low + 0.05)

    for mode in (light, dark):
        for k in range(palette.SERIES):
            assert contrast(mode[f"--series-{k}"], mode["--paper"]) >= 3
        for name in ("--ink", "--muted", "--warn", "--link"):
            assert contrast(mode[name], mode["--paper"]) >= 4.5
        for k in range(palette.BINS):
            assert contrast(mode[f"--on-bin-{k}"], mode[f"--bin-{k}"]) >= 4.5


def test_the_same_record_gives_the_same_bytes(run, text):
    assert page(run) == text
    code = "import sys; from pathlib import Path; from softmax_ce_bench.report import record, html\n"
    code += "print(html.page(record.from_dict(__import__('json').load(sys.stdin))), end='')"
    done = subprocess.run(
        [sys.executable, "-c", code], input=json.dumps(record.as_dict(run)), capture_output=True, text=True, check=True
    )
    assert done.stdout == text


# Numbers


def test_the_tables_have_the_records_numbers_and_the_terminals_texts(run, text):
    rows = rows_of(text, "timings")
    expected = [
        (cell, operation, entry)
        for cell in run.cells
        for operation in cell.operations
        for entry in comparison.shown_in(cell, operation)
    ]
    assert len(rows) == len(expected) == 9 * 3 * 4
    for row, (cell, operation, entry) in zip(rows, expected, strict=True):
        texts, values = [field for field, _ in row], [value for _, value in row]
        assert texts[:2] == [words.label(run, cell), operation]
        assert texts[2].rstrip(" *") == entry.name
        assert texts[2].endswith("*") == (entry.name in cell.operations[operation].fastest)
        assert tuple(texts[3:]) == comparison.long_row(
            entry, operation, run.settings.base, comparison.long_headings(run.cells)
        )
        timing = entry.timings.get(operation)
        if timing is not None:
            assert values[3:7] == [
                timing.time.median,
                timing.speedup.median,
                timing.gb_per_s,
                known(timing.of_ceiling).median,
            ]


def test_the_table_of_starts_is_the_terminals(run, text):
    rows = rows_of(text, "starts")
    for row, start in zip(rows, run.cold_starts, strict=True):
        assert [field for field, _ in row] == [start.name, *comparison.cold_row(run, start.name, "fused")]
        assert [value for _, value in row][1:5] == [
            start.import_seconds, start.first_call_cold, start.first_call_cached, start.peak_memory,
        ]  # fmt: skip


def test_the_findings_are_what_the_numbers_say(run):
    said = "\n".join(findings(run))
    assert "In fused, of 9 workloads, a is the fastest on 3; b is the fastest on 3" not in said
    # classes 10: b alone (2.0 against 1.01); 100: a; 1000: a, b being wrong.
    assert "of 9 workloads, a is the fastest on 6; b is the fastest on 3." in said
    # Against b's 2.0, a's 1.01 takes 98 % longer.
    assert best_single(run, run.cells) == ("a", [pytest.approx(2 / 1.01 - 1)] * 1 + [0, 0] + [2 / 1.01 - 1, 0, 0] * 2)
    assert "a costs least: it is behind the fastest by 98% at worst, 0.0% at the median" in said
    assert "1.01x to 3.00x the speed of numpy" in said
    assert "a library 2.02x to 6.00x" in said
    assert "b is rejected on 3 of 9 workloads, first: is wrong." in said
    assert "a's first call takes 5.00 s, and 500 ms once compiled code is on disk" in said
    assert "least memory with a (0 B), the most with library (5 MB)" in said


def test_regret_is_against_the_fastest_that_is_right(run):
    by_name = {cell.inputs.name: regrets(cell, "fused") for cell in run.cells}
    assert by_name["8x100"] == pytest.approx({"numpy": 2.0, "a": 0.0, "b": 0.5, "library": 5.0})
    assert by_name["8x1000"] == pytest.approx({"numpy": 2.0, "a": 0.0, "library": 5.0})


def test_contamination_is_said_first():
    text = page(a_run(made({"numpy": 1.0, "a": 3.0}, drift=1.2)))
    shown = Page(text).text()
    assert shown.index("CONTAMINATED") < shown.index("Findings")
    assert "differed from itself by more than 3%" in shown


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: a_run(made({"numpy": 1.0, "a": 3.0})), "--shapes 64x10,64x100,64x1000 would measure them"),
        (lambda: a_run(made({"numpy": 1.0, "a": 3.0})), "--shapes 64x10,64x1000,4096x10,4096x1000 would measure one"),
        (lambda: a_run(made({"numpy": 1.0, "a": 3.0})), "--cold-start measures it"),
        (lambda: a_run(made({"numpy": 1.0})), "Only numpy was timed"),
        (lambda: a_run(made({"numpy": 1.0}, telling_rows=0)), "No errors were measured"),
        (lambda: a_run(), "Nothing was measured"),
        (lambda: a_run(made({"numpy": 1.0, "a": 2.0}, rounds=3)), "too few rounds to say who is fastest"),
    ],
)
def test_what_is_missing_is_said_with_the_option_that_measures_it(make, said):
    shown = Page(page(make())).text()
    assert said in shown


# What a record may hold


def test_markup_in_a_record_stays_text():
    text = page_of(hostile_run)
    parsed = Page(text)
    assert len(parsed.all("script")) == 1
    assert "alert(1)" in parsed.text()
    handlers = [name for _, attributes, _ in parsed.tags for name in attributes if name.startswith("on")]
    assert handlers == []
    assert "<script>alert" not in text


def test_any_value_that_can_be_read_can_be_drawn():
    whole = record.as_dict(grid_run())
    whole["cells"] = whole["cells"][:2]
    every = [path for path in places_of(whole) if path and isinstance(path[-1], str) and path[-1] not in ("seconds",)]
    one_of_each = {tuple(part for part in path if isinstance(part, str)): path for path in every}
    kinds = list(one_of_each.values())
    values: tuple[Any, ...] = (None, 0, -1, 1e300, 1e-300, 10**15, "", "x" * 500, "$\\frac{", "字", [])
    rng = np.random.default_rng(0)
    drawn = 0
    for path in (kinds[k] for k in rng.permutation(len(kinds))):
        if drawn == 8:  # a page takes a second
            break
        for value in (values[k] for k in rng.permutation(len(values))[:1]):
            broken = json.loads(json.dumps(whole))
            inner = broken
            for key in path[:-1]:
                inner = inner[key]
            if type(inner[path[-1]]) is type(value) and inner[path[-1]] == value:
                continue
            inner[path[-1]] = value
            try:
                run = record.from_dict(broken)
            except record.RecordError:
                continue
            Page(page(run))
            drawn += 1
    assert drawn > 5


# The commands


def test_show_writes_the_page(tmp_path, run, text):
    stored, written = tmp_path / "run.json", tmp_path / "report.html"
    stored.write_text(record.as_text(record.as_dict(run)), encoding="utf-8")
    result = CliRunner().invoke(cli.main, ["show", str(stored), "--html", str(written)])
    assert result.exit_code == 0, result.stderr
    assert written.read_text(encoding="utf-8") == text
    assert sorted(file.name for file in tmp_path.iterdir()) == ["report.html", "run.json"]


@pytest.mark.parametrize("command", [["show", "{folder}/run.json"], ["compare"]])
def test_a_folder_that_is_not_there_is_refused_before_anything_is_done(tmp_path, run, command):
    (tmp_path / "run.json").write_text(record.as_text(record.as_dict(run)), encoding="utf-8")
    arguments = [word.format(folder=tmp_path) for word in command]
    result = CliRunner().invoke(cli.main, [*arguments, "--html", str(tmp_path / "none" / "report.html")])
    assert result.exit_code == 2
    assert "--html" in result.stderr
    assert "there is no folder" in result.stderr
    assert result.stdout == ""


def test_a_missing_library_is_refused_with_the_command_that_gets_it(tmp_path, run, monkeypatch):
    (tmp_path / "run.json").write_text(record.as_text(record.as_dict(run)), encoding="utf-8")
    monkeypatch.setattr("softmax_ce_bench.terminal.outputs.find_spec", lambda name: None)
    result = CliRunner().invoke(cli.main, ["show", str(tmp_path / "run.json"), "--html", str(tmp_path / "report.html")])
    assert result.exit_code == 2
    assert "--html needs jinja2 and matplotlib" in result.stderr
    assert "pip install 'softmax-ce[bench]'" in result.stderr
    assert not (tmp_path / "report.html").exists()


# In a browser

PROBE = """
<script>
addEventListener("load", () => {
  const found = {figures: [], overflow: document.documentElement.scrollWidth - innerWidth, order: [], shown: 0};
  for (const svg of document.querySelectorAll("svg")) {
    const box = svg.getBoundingClientRect(), marks = svg.querySelectorAll("path, use, text");
    const size = (mark) => { const box = mark.getBoundingClientRect(); return box.width + box.height; };
    const drawn = [...marks].filter((mark) => size(mark) > 0);
    found.figures.push([box.width, box.height, drawn.length, getComputedStyle(svg.querySelector("text")).fill]);
  }
  const table = document.getElementById("timings"), column = 3;
  const button = table.tHead.rows[0].cells[column].firstElementChild;
  const values = () => [...table.tBodies[0].rows].map((row) => row.cells[column].dataset.value ?? null);
  button.click(); found.order.push(values());
  button.click(); found.order.push(values());
  found.sorted = table.tHead.rows[0].cells[column].getAttribute("aria-sort");
  const input = document.querySelector("input[data-filters=timings]");
  input.value = "64x10 fused"; input.dispatchEvent(new Event("input"));
  found.shown = [...table.tBodies[0].rows].filter((row) => row.getBoundingClientRect().height > 0).length;
  document.title = "probed " + btoa(unescape(encodeURIComponent(JSON.stringify(found))));
});
</script></body>"""


def browse(tmp_path, text, *options):
    """The page's DOM and what the browser said, from a real headless Chromium."""
    if CHROMIUM is None:
        pytest.skip("no Chromium is installed")
    path = tmp_path / "report.html"
    path.write_text(text, encoding="utf-8")
    done = subprocess.run(
        [
            CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}",
            "--enable-logging=stderr", "--v=0", "--timeout=300000", *options, "--dump-dom", path.as_uri(),
        ],
        capture_output=True, text=True, timeout=600, check=True,
    )  # fmt: skip
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def probed(tmp_path, text, *options):
    import base64

    # The probe is a script of the test's own, which the page's policy would refuse.
    opened = re.sub(r"script-src '[^']*'", "script-src 'unsafe-inline'", text)
    assert opened != text
    dom, said = browse(tmp_path, opened.replace("</body>", PROBE), *options)
    return json.loads(base64.b64decode(known(re.search(r"<title>probed ([^<]*)<", dom))[1])), said


def test_chromium_opens_the_page_without_a_word(tmp_path, text):
    dom, said = browse(tmp_path, text)
    assert said == []
    assert "Time against classes" in dom


def test_chromium_runs_no_script_of_a_record(tmp_path):
    evil = page_of(hostile_run)
    dom, said = browse(tmp_path, evil)
    assert said == []
    assert dom.count("<script>") == 1
    # And were one to get through, the page's policy would refuse it.
    _, said = browse(tmp_path, evil.replace("</body>", "<script>console.error('ran')</script></body>"))
    assert said
    assert not any('"ran"' in line for line in said)
    assert any("Content Security Policy" in line for line in said)


@pytest.mark.parametrize(
    ("width", "dark"), [(1200, False), (1200, True), (500, False)], ids=["wide", "wide-dark", "narrow"]
)
def test_chromium_draws_every_figure_and_sorts(tmp_path, text, run, width, dark):
    options = [f"--window-size={width},1000"] + ["--blink-settings=preferredColorScheme=0"] * dark
    found, said = probed(tmp_path, text, *options)
    assert said == []
    assert len(found["figures"]) == 9
    for drawn_width, height, marks, ink in found["figures"]:
        assert drawn_width > 400
        assert height > 100
        assert marks > 20
        red = int(known(re.match(r"rgb\((\d+)", ink))[1])
        assert red > 128 if dark else red < 128
    assert found["overflow"] <= 0  # wide figures and tables scroll in their frames
    up, down = ([None if value is None else float(value) for value in order] for order in found["order"])
    timed = [value for value in up if value is not None]
    assert timed == sorted(timed)
    assert up[len(timed) :] == [None] * (len(up) - len(timed))
    assert [value for value in down if value is not None] == timed[::-1]
    assert down[-1] is None
    assert found["sorted"] == "descending"
    matching = [cell for cell in run.cells if cell.inputs.name.startswith("64x10")]
    assert found["shown"] == len(matching) * 4
