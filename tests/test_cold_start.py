"""Cold starts: the rounds are paired and interleaved, the cache is empty exactly where it should be, failures speak."""

from __future__ import annotations

from pathlib import Path

import pytest

from conftest import available
from softmax_ce_bench.measure import cold_start
from tools.cold_start import spread


class _Runner:
    """A process that takes 1 s to compile, 0.25 s to load what was compiled, and writes down who ran."""

    def __init__(self) -> None:
        self.runs: list[tuple[str, bool]] = []

    def __call__(self, backend: str, cache: Path) -> list[float]:
        known = (cache / "kernel").exists()
        (cache / "kernel").touch()
        self.runs.append((backend, known))
        return [0.125, 0.25 if known else 1.0, 0.0625]


def test_rounds_on_a_synthetic_runner() -> None:
    runner = _Runner()
    compiled, ready = cold_start.measure({"jit": False, "ready": True}, 5, run=runner)
    assert compiled == cold_start.StartTimes("jit", [0.125] * 5, [1.0] * 5, [0.25] * 5, [0.0625] * 5)
    assert ready == cold_start.StartTimes("ready", [0.125] * 5, [1.0] * 5, [], [0.0625] * 5)
    # Every round has each backend once, an empty cache first, and not always in the same order.
    assert len(runner.runs) == 15
    rounds = [runner.runs[k : k + 3] for k in range(0, 15, 3)]
    assert all(sorted(one) == [("jit", False), ("jit", True), ("ready", False)] for one in rounds)
    assert {one[0][0] for one in rounds} == {"jit", "ready"}


def test_spread_is_median_and_range() -> None:
    assert spread([0.003, 0.001, 0.0025]) == "2.50 ms\n1.00 ms to 3.00 ms"
    assert spread([]) == "-"


def test_no_processes_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least 1, got 0"):
        cold_start.measure({"numpy": True}, 0)


def test_a_process_that_fails_says_why() -> None:
    with pytest.raises(RuntimeError, match=r"'cobol' failed: (?s:.*)unknown backend 'cobol'"):
        cold_start.measure({"cobol": True}, 1)


def test_a_real_process(tmp_path: Path) -> None:
    (result,) = cold_start.measure({"numpy": True}, 1)
    assert len(result.imported) == len(result.first) == len(result.second) == 1
    assert result.cached == []
    # The first call loads the backend's module as well; nothing takes no time, or a minute.
    assert 0 < result.second[0] < 60
    assert 0 < result.first[0] < 60
    assert 0 < result.imported[0] < 60


@pytest.mark.slow  # it compiles
def test_a_real_process_that_compiles() -> None:
    (result,) = cold_start.measure({available("numba"): False}, 1)
    assert [len(times) for times in (result.imported, result.first, result.cached, result.second)] == [1] * 4
    assert min(*result.first, *result.cached) > 0
