"""Behind `make mutants`: its lists fit the sources, and it tells a mutant that is noticed from one that is not."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tools.mutation import code, compiled_part, equivalents
from tools.mutation.operators import Mutant, mutants
from tools.mutation.results import Count, Results, table
from tools.mutation.server import MutantVerdict, Server
from tools.mutation.tree import PACKAGE, ROOT
from tools.mutation.worker import Unfit, replace_code

SOURCE = '''\
"""A module to be mutated."""

LIMIT = 10


def clip(value: int, low: int = 0) -> int:
    """Into [low, LIMIT]."""
    if value > LIMIT:
        return LIMIT
    return max(value, low)


class Counter:
    def __init__(self) -> None:
        self.count = 0

    @property
    def twice(self) -> int:
        return self.count * 2
'''
TESTS = """\
import clipping
def test_clip():
    assert [clipping.clip(value) for value in (-1, 5, 11)] == [0, 5, 10]
def test_ends():
    import os
    clipping.clip(3) == 3 or os._exit(0)
def test_returns():
    while clipping.clip(4) != 4:
        pass
def test_leaves():
    import pathlib, subprocess
    left = subprocess.Popen(["sleep", "300"], start_new_session=True)
    pathlib.Path("left").write_text(str(left.pid))
"""
TEST_NAMES = [f"test_clipping.py::{name}" for name in ("test_clip", "test_ends", "test_returns")]


@dataclass
class SmallTree:
    """What a server needs to know of a tree."""

    root: Path

    def environment(self) -> dict[str, str]:
        return {**os.environ, "PYTHONPATH": os.pathsep.join([str(self.root), str(ROOT), str(ROOT / "tests")]),
                "PYTHONDONTWRITEBYTECODE": "1"}  # fmt: skip


def mutant_of(change: str) -> Mutant:
    (found,) = (mutant for mutant in mutants(SOURCE.encode(), "clipping.py") if mutant.change == change)
    return found


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Server]]:
    """A small project, and the worker that runs its tests."""
    root = tmp_path_factory.mktemp("small")
    (root / "test_clipping.py").write_text(TESTS)
    (root / "pytest.ini").write_text("[pytest]\n")
    server = Server(SmallTree(root), "bare")  # type: ignore[arg-type]
    yield root / "clipping.py", server
    server.close()


def test_changes_are_small_and_named() -> None:
    found = mutants(SOURCE.encode(), "clipping.py")
    assert [(mutant.line, mutant.kind, mutant.change) for mutant in found] == [
        (3, "constant", "10 -> 11"),
        (6, "constant", "0 -> 1"),
        (8, "comparison", "value > LIMIT -> (value >= LIMIT)"),
        (9, "return", "LIMIT -> None"),
        (10, "return", "max(value, low) -> None"),
        (15, "statement", "self.count = 0 -> pass"),
        (15, "constant", "0 -> 1"),
        (19, "return", "self.count * 2 -> None"),
        (19, "arithmetic", "self.count * 2 -> (self.count / 2)"),
        (19, "constant", "2 -> 3"),
    ]
    lines = SOURCE.splitlines()
    for mutant in found:
        changed = mutant.apply(SOURCE.encode()).decode().splitlines()
        assert [i + 1 for i in range(len(lines)) if lines[i] != changed[i]] == [mutant.line]


def test_what_is_said_and_what_never_happens_is_not_changed() -> None:
    source = """
name = f"{len('x')} of"
def say(one, other, flag: bool = True):
    for pair in zip(one, other, strict=True):
        print(f"{pair[0]}", end="")
    return f"{one or 'none'}"
"""
    found = mutants(source.encode(), "say.py")
    assert [mutant.change for mutant in found if mutant.kind != "statement"] == [
        "True -> False",
        "end=... left out",
        "\"\" -> 'XX'",
        "f\"{one or 'none'}\" -> None",
    ]


@pytest.mark.parametrize(
    ("change", "tests", "verdict"),
    [
        ("", TEST_NAMES, MutantVerdict("survived")),
        ("value > LIMIT -> (value >= LIMIT)", TEST_NAMES, MutantVerdict("survived")),  # 10 becomes 10: equivalent
        ("0 -> 1", TEST_NAMES[1:], MutantVerdict("survived")),
        ("LIMIT -> None", TEST_NAMES, MutantVerdict("killed", TEST_NAMES[0], "it failed")),
        ("max(value, low) -> None", TEST_NAMES[1:], MutantVerdict("killed", TEST_NAMES[1], "the process ended")),
        ("max(value, low) -> None", TEST_NAMES[2:], MutantVerdict("killed", TEST_NAMES[2], "it took too long")),
        ("10 -> 11", TEST_NAMES, MutantVerdict("killed", TEST_NAMES[0], "it failed")),
        ("", ["test_clipping.py::test_gone", *TEST_NAMES], MutantVerdict("lost")),
    ],
)
def test_verdicts(asked: tuple[Path, Server], change: str, tests: list[str], verdict: MutantVerdict) -> None:
    path, server = asked
    mutant: Mutant | None
    if change == "0 -> 1":
        mutant = next(m for m in mutants(SOURCE.encode(), "clipping.py") if m.change == change)
    else:
        mutant = mutant_of(change) if change else None
    path.write_bytes(mutant.apply(SOURCE.encode()) if mutant else SOURCE.encode())
    limit = 1.0 if verdict.how == "it took too long" else 600.0
    assert server.ask([(test, limit) for test in tests]) == verdict
    path.write_bytes(SOURCE.encode())
    assert server.is_sound(verdict, [(test, 600.0) for test in tests])


def test_a_test_that_fails_without_a_mutant_proves_nothing(asked: tuple[Path, Server]) -> None:
    path, server = asked
    path.write_bytes(mutant_of("LIMIT -> None").apply(SOURCE.encode()))
    pairs = [("test_clipping.py::test_clip", 600.0)]
    assert not Server.is_sound(server, MutantVerdict("killed", "test_clipping.py::test_clip[new]"), pairs)


def test_a_living_function_gets_the_mutants_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "alive.py"
    path.write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path)
    alive = importlib.import_module("alive")
    monkeypatch.setitem(sys.modules, "alive", alive)
    kept, counter = alive.clip, alive.Counter()
    counter.count = 5
    path.write_text(SOURCE.replace("max(value, low)", "min(value, low)").replace("* 2", "* 3"))
    replace_code("alive", path, ["clip"])
    assert (kept(7), kept(11), counter.twice) == (0, 10, 10)
    replace_code("alive", path, ["Counter", "twice"])
    assert counter.twice == 15
    with pytest.raises(Unfit, match="gone"):
        replace_code("alive", path, ["gone"])


def test_the_table_of_hand_made_mutants_fits_the_sources() -> None:
    entries = compiled_part.read()
    assert len(entries) >= 40
    assert len({entry.key for entry in entries}) == len(entries)
    for entry in entries:
        source = (ROOT / compiled_part.FOLDER / entry.file).read_text(encoding="utf-8")
        changed = compiled_part.mutated(entry)  # an error where its text is not found once
        assert code.tokens(changed, entry.file) != code.tokens(source, entry.file)


def test_an_entry_that_does_not_fit_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.c").write_text("i = 1; j = 1; k = 2;")
    for text, times in (("= 1", 2), ("= 3", 0)):
        entry = compiled_part.HandMadeMutant("a.c", text, "= 4", "")
        with pytest.raises(ValueError, match=f"has this {times} times, not once"):
            compiled_part.mutated(entry, tmp_path)
    assert (
        compiled_part.mutated(compiled_part.HandMadeMutant("a.c", "= 2", "= 4", ""), tmp_path) == "i = 1; j = 1; k = 4;"
    )


def test_code_is_found_whatever_its_comments_and_layout(tmp_path: Path) -> None:
    (tmp_path / "a.c").write_text('f("// no comment", /* one */ x,\n  y + 1); // f("// no comment", x, y + 1)\n')
    entry = compiled_part.HandMadeMutant("a.c", 'f("// no comment",x, y+1)', "g(x)", "")
    assert compiled_part.mutated(entry, tmp_path) == 'g(x); // f("// no comment", x, y + 1)\n'
    (tmp_path / "a.pyx").write_text("    if a == '#':  # a == '#': return\n        return 2 // 3\n")
    entry = compiled_part.HandMadeMutant("a.pyx", "a == '#': return 2 // 3", "b:\n        return 4", "")
    assert compiled_part.mutated(entry, tmp_path) == "    if b:\n        return 4\n"
    assert code.tokens("word", "a.c") != code.tokens("wo rd", "a.c")
    assert code.tokens("a \\\n b", "a.h") == code.tokens("a b", "a.h")


def test_the_tables_quote_no_comment_and_fit_sources_whose_comments_are_reworded(tmp_path: Path) -> None:
    for entry in compiled_part.read():
        assert code.without_comments(entry.text, entry.file) == entry.text
        source = (ROOT / compiled_part.FOLDER / entry.file).read_text(encoding="utf-8")
        reworded = code.without_comments(
            source, entry.file, "/* reworded */" if entry.file.endswith((".c", ".h")) else "# reworded"
        )
        (tmp_path / entry.file).write_text(reworded)
        with_fault = compiled_part.mutated(entry, tmp_path)
        assert code.tokens(with_fault, entry.file) == code.tokens(compiled_part.mutated(entry), entry.file)
    for listed in equivalents.read():
        assert code.without_comments(listed.text, listed.file) == listed.text
    reworded = SOURCE.replace("LIMIT = 10", "LIMIT   =  10  # at most").replace("return LIMIT", "return LIMIT  # cut")
    found = mutants(reworded.encode(), "clipping.py")
    assert [mutant.change for mutant in found] == [mutant.change for mutant in mutants(SOURCE.encode(), "clipping.py")]
    lines = [equivalents.Equivalent("clipping.py", "LIMIT = 10", ("10 -> *", "LIMIT -> *"), "")]
    with pytest.raises(ValueError, match="no mutant 'LIMIT -> "):
        equivalents.split(found, lines)
    lines = [equivalents.Equivalent("clipping.py", "LIMIT = 10", ("10 -> *",), ""),
             equivalents.Equivalent("clipping.py", "return LIMIT", ("LIMIT -> *",), "")]  # fmt: skip
    _, equivalent = equivalents.split(found, lines)
    assert [mutant.line for mutant in equivalent] == [3, 9]


def test_the_list_of_equivalent_mutants_fits_the_sources() -> None:
    listed = equivalents.read()
    lines = {(entry.file, code.tokens(entry.text, entry.file)) for entry in listed}

    def is_listed(mutant: Mutant) -> bool:  # the others need not be compiled
        return (mutant.file, code.tokens(mutant.text, mutant.file)) in lines

    files = sorted({entry.file for entry in listed})
    found = [m for file in files for m in mutants((ROOT / PACKAGE / file).read_bytes(), file, is_listed)]
    _, equivalent = equivalents.split(found, listed)  # an error where an entry fits no mutant
    assert len(equivalent) >= sum(len(entry.changes) for entry in listed)
    assert all(entry.reason for entry in listed)


def test_an_equivalent_that_fits_no_mutant_is_an_error() -> None:
    found = mutants(SOURCE.encode(), "clipping.py")
    line = "if value > LIMIT:"
    real, equivalent = equivalents.split(
        found, [equivalents.Equivalent("clipping.py", line, ("value > LIMIT -> *",), "")]
    )
    assert (len(real), [mutant.line for mutant in equivalent]) == (len(found) - 1, [8])
    with pytest.raises(ValueError, match="no mutant 'value < LIMIT -> "):
        equivalents.split(found, [equivalents.Equivalent("clipping.py", line, ("value < LIMIT -> *",), "")])


@pytest.mark.skipif(sys.platform != "linux", reason="orphans are found by Linux's means")
def test_what_a_test_leaves_running_is_ended(asked: tuple[Path, Server]) -> None:
    path, server = asked
    path.write_text(SOURCE)
    assert server.ask([("test_clipping.py::test_leaves", 600.0)]) == MutantVerdict("survived")
    with pytest.raises(ProcessLookupError):
        os.kill(int((path.parent / "left").read_text()), 0)


def test_verdicts_are_kept_while_what_they_rest_on_is(tmp_path: Path) -> None:
    source = tmp_path / "source.py"
    source.write_text("a = 1")
    Results(tmp_path / "kept").put("key", source, MutantVerdict("killed", "tests/test_mutation.py::test_x"))
    assert Results(tmp_path / "kept").get("key", source) == MutantVerdict("killed", "tests/test_mutation.py::test_x")
    assert Results(tmp_path / "kept").get("other", source) is None
    source.write_text("a = 2")
    assert Results(tmp_path / "kept").get("key", source) is None


def test_the_share_and_its_interval() -> None:
    # Clopper and Pearson for 98 of 100: the quantiles 0.025 and 0.975 of Beta(98, 3) and Beta(99, 2).
    part = Count(killed=98, survived=["a", "b"], untried=300)
    assert part.interval() == pytest.approx((0.92962, 0.99757), abs=1e-5)
    whole = Count(killed=3, survived=["a"], equivalent=2)
    lines = table([("a.py", part), ("b.py", whole)]).splitlines()
    assert lines[2] == "| a.py | 100 | 98 | 98.0% (95 %: 93.0% to 99.8%) | 0 | 300 |"
    assert lines[3] == "| b.py | 4 | 3 | 75.0% | 2 | 0 |"
