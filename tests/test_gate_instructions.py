"""Counted instructions: what is read from callgrind's files, and that a call's own count comes out of it."""

from __future__ import annotations

import platform
import shutil
import sys
from pathlib import Path

import pytest

import softmax_ce
from softmax_ce_bench.gate import instructions
from softmax_ce_bench.gate.cells import GateCell
from softmax_ce_bench.gate.session import Build, BuildError

TINY = GateCell("numpy", "fused", "tiny", 1, 10, "float32")
BOOSTING = GateCell("numpy", "fused", "boosting", 4096, 10, "float32")
# As callgrind 3.19 writes it, less the lines that nobody reads.
DUMP = """# callgrind format
version: 1
part: {part}

desc: Timerange: Basic block 0 - 1
desc: Trigger: Client Request: {name}

positions: line
events: Ir
summary: {total}

fn=(1) PyObject_Call
12 3

totals: {total}
"""


def _write(folder: Path, part: int, name: str, total: int) -> None:
    (folder / f"counts.{part}").write_text(DUMP.format(part=part, name=name, total=total))


def test_callgrinds_files_are_read(tmp_path: Path) -> None:
    _write(tmp_path, 1, "0 1", 1_000)
    _write(tmp_path, 2, "0 2", 1_900)
    _write(tmp_path, 3, "11 32", 4_000_000_000)
    assert instructions.read(tmp_path.glob("counts.*")) == {(0, 1): 1_000, (0, 2): 1_900, (11, 32): 4_000_000_000}


@pytest.mark.parametrize("lost", ["totals: 1000", "desc: Trigger: Client Request: 0 1"])
def test_a_file_cut_short_is_an_error(tmp_path: Path, lost: str) -> None:
    _write(tmp_path, 1, "0 1", 1_000)
    file = tmp_path / "counts.1"
    file.write_text(file.read_text().replace(lost, ""))
    with pytest.raises(BuildError, match=r"counts\.1: it lacks the counts of callgrind"):
        instructions.read([file])


def _pair(folder: Path) -> tuple[Build, Build]:
    return Build("base", folder / "base"), Build("head", folder / "head")


def test_a_calls_own_instructions_without_those_of_the_counting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each build adds 777 of its own to each count; base takes 1000 and 2000 a call, head 1100 and 1900."""
    a_call = {"base": {0: 1_000, 1: 2_000}, "head": {0: 1_100, 1: 1_900}}
    runs = []

    def run(prefix: list[str], builds: tuple[Build, Build], plan: list[tuple[str, str, int, int]], at: Path) -> None:
        runs.append(prefix[:1])
        assert [(*entry[:2], entry[3]) for entry in plan] == [("numpy", "fused", 32), ("numpy", "fused", 1)]
        for build in builds if prefix else ():
            (at / build.side).mkdir()
            for key, (*_, calls) in enumerate(plan):
                for part, many in enumerate((calls, 2 * calls)):
                    total = 777 + many * a_call[build.side][key]
                    _write(at / build.side, 2 * key + part + 1, f"{key} {many}", total)

    monkeypatch.setattr(instructions, "available", lambda: None)
    monkeypatch.setattr(instructions, "_run", run)
    counted = instructions.count(_pair(tmp_path), [TINY, BOOSTING], tmp_path)
    assert counted == {TINY: (1_000.0, 1_100.0), BOOSTING: (2_000.0, 1_900.0)}
    assert runs == [[], ["valgrind"]]  # compiling comes first, without it


def test_a_cell_that_was_not_counted_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(instructions, "available", lambda: None)
    monkeypatch.setattr(instructions, "_run", lambda *_: None)
    with pytest.raises(BuildError, match="callgrind did not count every cell"):
        instructions.count(_pair(tmp_path), [TINY], tmp_path)


def test_where_there_is_no_valgrind_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    why = instructions.available()
    assert why is not None
    assert why.splitlines() == [why]
    with pytest.raises(BuildError) as error:
        instructions.count(_pair(tmp_path), [TINY], tmp_path)
    assert str(error.value) == why
    monkeypatch.setattr(sys, "platform", "win32")
    assert instructions.available() == "instructions are counted on Linux and x86-64 only"


@pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() != "x86_64", reason="the requests are x86-64's, for Linux"
)
def test_without_valgrind_the_calls_are_made_all_the_same() -> None:
    from softmax_ce_bench.gate.counted import Callgrind

    callgrind = Callgrind()
    callgrind.start()
    made: list[None] = []
    callgrind.count(lambda: made.append(None), 7, "0 7")
    assert len(made) == 7


needs_valgrind = pytest.mark.skipif(instructions.available() is not None, reason=str(instructions.available()))
HALF_AGAIN = """

_once = hard


def hard(*arguments):
    start, stop = arguments[-2:]
    _once(*arguments)
    _once(*arguments[:-2], start, start + (stop - start) // 2)
"""


@pytest.mark.slow
@needs_valgrind
def test_half_as_much_work_again_is_seen_and_nothing_where_nothing_is(tmp_path: Path) -> None:
    """A second count of the same code differs by less than one instruction in a thousand."""
    installed = Path(softmax_ce.__file__).parent
    pair = _pair(tmp_path)
    for build in pair:
        shutil.copytree(installed, build.site / "softmax_ce")
        with (build.site / "softmax_ce" / "_backends" / "shifted.py").open("a", encoding="utf-8") as file:
            file.write("\n\nplain = None  # small calls are computed by `hard`, which is changed below\n")
    with (pair[1].site / "softmax_ce" / "_backends" / "shifted.py").open("a", encoding="utf-8") as file:
        file.write(HALF_AGAIN)
    forward = GateCell("cython", "forward", "boosting", 4096, 10, "float32")
    counted = instructions.count(pair, [TINY, BOOSTING, forward], tmp_path)
    base, head = counted[BOOSTING]
    assert 1.4 < head / base < 1.6
    base, head = counted[forward]
    assert base > BOOSTING.rows  # it cannot do with less
    assert abs(head / base - 1) < 1e-3


@pytest.mark.slow
@needs_valgrind
def test_a_build_that_fails_is_named(tmp_path: Path) -> None:
    pair = _pair(tmp_path)
    for build in pair:
        shutil.copytree(Path(softmax_ce.__file__).parent, build.site / "softmax_ce")
    (pair[1].site / "softmax_ce" / "_backends" / "shifted.py").write_text("raise OSError('no kernel')\n")
    with pytest.raises(BuildError, match=r"head: counting ended with code 1: .*no kernel"):
        instructions.count(pair, [TINY], tmp_path)
