"""A short, fixed part of the fuzzing; and that it can fail: planted faults are found, a dead process is noticed."""

from __future__ import annotations

import copy
import importlib
import itertools
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import strategies as st

import wrong_backends
from softmax_ce import checks, staging
from softmax_ce.choice.profile import files
from softmax_ce.documents import parts
from softmax_ce_bench.inputs import workloads
from softmax_ce_bench.report import record
from softmax_ce_bench.terminal import options
from test_wrong_backends import registered
from tools.fuzz import calls, kept, memory, mutations, overlaps, properties, runner, state, values
from tools.fuzz.__main__ import main
from tools.fuzz.explore import Failure, Outcome, explore

_EXAMPLES = {"losses": 150, "records": 60, "profiles": 100}  # others: 250. A few seconds in all
_PATHS = [str(Path(__file__).parents[1]), str(Path(__file__).parent)]


@pytest.mark.parametrize("name", [one.name for one in properties.ALL])
def test_a_fixed_run_finds_nothing(name: str) -> None:
    outcome = explore(properties.named(name), 0, examples=_EXAMPLES.get(name, 250))
    assert outcome.failure is None, f"{outcome.failure.case}\n{outcome.failure.found}"
    assert outcome.executions >= _EXAMPLES.get(name, 250) / 2


def test_a_seed_decides_what_is_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def tried(seed: int) -> list[Any]:
        cases: list[Any] = []
        explore(properties.named("options"), seed, examples=50, before=cases.append)
        return cases

    first = tried(1)
    assert tried(1) == first
    assert tried(2) != first

    # Hypothesis looks for constants in what was imported since, if it is neither installed nor a test.
    (tmp_path / "constants_of_a_module.py").write_text(f"WORDS = {[f'word {k}' for k in range(500)]}\n")
    monkeypatch.syspath_prepend(tmp_path)
    importlib.import_module("constants_of_a_module")
    try:
        assert tried(1) == first
    finally:
        del sys.modules["constants_of_a_module"]


def test_a_case_survives_being_written_down() -> None:
    cases: list[Any] = []
    for one in properties.ALL:
        explore(one, 3, examples=15, before=cases.append)
    for case in cases:
        assert json.dumps(json.loads(json.dumps(case))) == json.dumps(case)


# Planted faults


# Wrong beyond 2**31 elements alone; and in rows from one end of the format to the other alone, one case in thousands.
# Each of the others shows in one case in a hundred or more, so that 2000 cases miss it with a probability below 1e-8.
# The random calls are of the losses: conformance rejects what is wrong with the KL divergence (test_wrong_backends.py).
_RARE = wrong_backends.ShortOffset, wrong_backends.WithoutHalves
_OF_KL = wrong_backends.KlOfFloat32Probabilities, wrong_backends.KlGradientWithoutTemperature


@pytest.mark.parametrize("wrong", [one for one in wrong_backends.WRONG if one not in (*_RARE, *_OF_KL)])
def test_a_wrong_backend_is_found(wrong: type[wrong_backends.CorrectBackend], monkeypatch: pytest.MonkeyPatch) -> None:
    has_hessian = issubclass(wrong, wrong_backends.WithHessian)
    right = wrong_backends.WithHessian if has_hessian else wrong_backends.CorrectBackend
    with registered(wrong()) as name, monkeypatch.context() as patches:
        _test_alone(patches, name)
        case = _found(properties.named("losses"), 2_000).case
    with registered(right()) as name:
        _test_alone(monkeypatch, name)
        properties.named("losses").check(case)  # passes: what was found is the fault


def _test_alone(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    only = tuple(info for info in calls.backends() if info.name == name)
    monkeypatch.setattr(calls, "backends", lambda: only)


def test_the_correct_backend_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    with registered(wrong_backends.WithHessian()) as name:
        _test_alone(monkeypatch, name)
        assert explore(properties.named("losses"), 0, examples=150).failure is None


def _found(of: properties.Property, examples: int) -> Failure:
    failure = explore(of, 0, examples=examples, shrink=False).failure
    assert failure is not None, f"a planted fault was not found in {examples} cases"
    return failure


def _writes_beside(original: Callable[..., None]) -> Callable[..., None]:
    def store(self: Any, start: int, stop: int, block: Any, narrow: Any = None) -> None:
        original(self, start, stop, block, narrow)
        root = self._view
        while getattr(root, "base", None) is not None:
            root = root.base
        if root.dtype == np.uint8:  # the memory that a case lays its arrays into
            root[-1] = 0

    return store


@pytest.mark.parametrize(
    ("name", "where", "attribute", "fault", "named"),
    [
        ("losses", staging.Rows, "store", _writes_beside(staging.Rows.store), "something was written beside"),
        ("normalisers", checks, "result_dtype", lambda dtype: np.dtype(np.float32), "Error"),
        ("bad-calls", checks, "_check_labels", lambda *_: False, "no IndexError"),
        ("bad-calls", checks, "check_buffer", lambda *_: None, "ValueError"),
        ("overlaps", checks, "overlaps", lambda a, b: False, "an overlap was not refused"),
        ("overlaps", checks, "same_memory", lambda a, b: False, "refused, though nothing overlaps"),
        ("anything", checks, "check_flag", lambda name, value: bool(value), "no argument is named"),
        ("profiles", files, "_depth", lambda data: 1 // (len(data) % 7), "ZeroDivisionError"),
        ("records", record, "_check_cell", lambda *_: None, "Error"),
        ("arrays", workloads, "checks", None, "AttributeError"),
        ("options", options.Counts, "convert", lambda self, value, *_: tuple(map(int, value.split(","))), "ValueError"),
    ],
)  # fmt: skip
def test_a_planted_fault_is_found(
    name: str, where: Any, attribute: str, fault: Any, named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(where, attribute, fault)
    assert named in _found(properties.named(name), 12_000).found


def test_a_reader_that_does_not_count_entries_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few of the places in a profile are lists that must not be empty: damage of one kind is tried at all of them."""
    monkeypatch.setattr(parts, "_check_size", lambda *_: None)
    edit = st.fixed_dictionaries({"do": st.just("empty"), "at": st.integers(0, 99_999), "value": st.none()})
    damage = st.fixed_dictionaries({"values": st.tuples(edit).map(list), "bytes": st.just([])})
    cases = st.fixed_dictionaries({"damage": damage, "strict": st.booleans(), "fleet": st.booleans()})
    assert "IndexError" in _found(replace(properties.named("profiles"), cases=cases), 3_000).found


# The processes

_PLANTED = """
import ctypes, sys, time
sys.path[:0] = {paths!r}
from tools.fuzz import properties, worker
def fault(case):
    if "9" in case["typed"]:
        {fault}
object.__setattr__(properties.named("options"), "check", fault)
sys.exit(worker.main(sys.argv[1:]))
"""


def _with(fault: str) -> tuple[str, ...]:
    return sys.executable, "-c", _PLANTED.format(paths=_PATHS, fault=fault)


def test_a_process_that_dies_is_noticed_with_its_case() -> None:
    report = runner.search("options", 0, 600, command=_with("ctypes.string_at(0)"))
    assert report.failure is not None
    assert "SIGSEGV" in report.failure.found
    assert "in fault" in report.failure.found, "faulthandler does not say where"
    assert "9" in report.failure.case["typed"]
    again = runner.search("options", 0, 0, case=report.failure.case, command=_with("ctypes.string_at(0)"))
    assert again.failure is not None
    assert "SIGSEGV" in again.failure.found
    assert again.failure.case == report.failure.case


def test_a_process_that_hangs_is_noticed_with_its_case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hanging = tmp_path / "hanging"  # time passes for the one who watches from then on: no slow case is taken to hang
    looks = itertools.count()
    clock = SimpleNamespace(monotonic=lambda: 120.0 * next(looks) if hanging.exists() else 0.0)
    monkeypatch.setattr(runner, "time", clock)
    fault = f"(open({str(hanging)!r}, 'w').close(), time.sleep(600))"
    report = runner.search("options", 0, 600, command=_with(fault), hang=60)
    assert report.failure is not None
    assert "it hung" in report.failure.found
    assert "9" in report.failure.case["typed"]


def test_a_process_that_cannot_begin_is_noticed() -> None:
    report = runner.search("options", 0, 600, command=(sys.executable, "-c", "raise SystemExit(3)"))
    assert report.failure == Failure(None, "the process ended with exit code 3\n")


def test_what_fails_is_kept_and_replayed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fuzz(command: tuple[str, ...], time: str = "600s") -> Any:
        monkeypatch.setattr(runner, "WORKER", command)
        return CliRunner().invoke(main, ["--time", time, "--seed", "5", "--only", "options", "--folder", str(tmp_path)])

    faulty = _with("raise KeyError(case['typed'])")
    first = fuzz(faulty)
    assert first.exit_code == 1, first.output
    assert "seed 5" in first.output
    assert "KeyError" in first.output
    ((path, name, case),) = kept.read(tmp_path)
    assert name == "options"
    assert "9" in case["typed"]

    second = fuzz(faulty)
    assert second.exit_code == 1
    assert f"{path} still fails" in second.output

    third = fuzz(_with("pass"), time="1s")
    assert third.exit_code == 0, third.output
    assert f"{path} no longer fails: removed" in third.output
    assert "Nothing found" in third.output
    assert not path.exists()


def test_progress_is_read_while_it_is_written(tmp_path: Path) -> None:
    writer, reader = state.Progress(tmp_path), state.Progress(tmp_path)
    assert (reader.begun, reader.case()) == (0, None)
    writer.begin({"a": [1.5, "é"]})
    assert (reader.begun, reader.case()) == (1, {"a": [1.5, "é"]})
    writer.begin([])
    assert (reader.begun, reader.case()) == (2, [])
    with pytest.raises(ValueError, match="there is room for"):
        writer.begin("a" * (1 << 17))
    for outcome in (Outcome(3, None), Outcome(4, Failure([1], "why"))):
        state.write_outcome(tmp_path, outcome)
        assert state.read_outcome(tmp_path) == outcome


# What cases are built of


def test_memory_tells_what_was_written() -> None:
    values_in = np.arange(6.0).reshape(2, 3)
    for layout in (memory.PLAIN, {"reversed": True, "steps": [-2, 3], "shift": 4, "swapped": True, "frozen": False}):
        room = memory.place(values_in, layout)
        np.testing.assert_array_equal(room.view, values_in)
        assert room.untouched()
        room.view[1, 2] = 9
        assert not room.untouched()
        assert room.margin_untouched()
        assert room.untouched()
    outside = memory.place(values_in, {**memory.PLAIN, "steps": [1, 2]})
    np.lib.stride_tricks.as_strided(outside.view, (1,), (8,), writeable=True)[0] = 5.0
    assert outside.margin_untouched()
    np.lib.stride_tricks.as_strided(outside.view, (2,), (8,), writeable=True)[1] = 5.0
    assert not outside.margin_untouched()


@pytest.mark.parametrize(
    ("start", "steps", "verdict"),
    [
        (0, [3, 1], "overlap"),
        (6, [3, 1], "fine"),
        (5, [3, 1], "overlap"),
        (6, [1, 1], "overlap"),
        (8, [3, 2], "either"),
    ],
)
def test_overlaps_are_told_by_listing_bytes(start: int, steps: list[int], verdict: str) -> None:
    memory_of_all = np.zeros(40)

    def cut(at: int, by: list[int], rows: int) -> Any:
        return np.lib.stride_tricks.as_strided(memory_of_all[at:], (rows, 3), [8 * step for step in by])

    arrays = {"logits": cut(0, [3, 1], 2)[:, ::-1], "grad_out": cut(start, steps, 2)}
    assert overlaps._verdict(arrays) == verdict


@pytest.mark.parametrize("kind", values._KINDS)
@pytest.mark.parametrize("dtype", calls._DTYPES)
def test_logits_of_every_kind_and_dtype(kind: str, dtype: str) -> None:
    recipe = {"kind": kind, "scale": 1.0, "seed": 3, "special": [[1, "largest"]]}
    x = values.logits(recipe, 40, 7, dtype)
    assert x.shape == (40, 7)
    assert x.dtype.name == dtype
    exact = x.astype(np.float64)
    if x.dtype.kind not in "iu":
        assert exact[0, 1] == float(values._limits(x.dtype).max)
        assert np.isneginf(exact).any() == (kind == "masked")
    assert len(np.unique(exact)) > 1


@pytest.mark.parametrize("place", range(4))
def test_a_recipe_is_as_it_was_after_its_use(place: int) -> None:
    """Also where a value is put into itself; else what is kept of a case would be another one."""
    value = {"a": [1]}
    edits = [{"do": "set", "at": 0, "value": value}, {"do": "add", "at": place, "value": value}]
    recipe = {"values": edits, "bytes": []}
    before = copy.deepcopy(recipe)
    assert json.loads(mutations.damaged({"x": 1}, recipe)) != {"x": 1}
    assert recipe == before
