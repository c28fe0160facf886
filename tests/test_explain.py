"""explain(): the backend that the same call runs, and the reason."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import profiles
import softmax_ce as sce
from profiles import cell
from softmax_ce import profile, registry
from softmax_ce.choice import auto, explanation
from softmax_ce.choice.profile import where
from softmax_ce.contract import BackendInfo
from softmax_ce.profile import ProfileWarning
from softmax_ce_bench.measure import machine

X = np.zeros((8, 10), np.float32)
Y = np.zeros(8, int)
DEFAULT = auto.default_name()

pytestmark = pytest.mark.usefixtures("forget")


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where production looks for a profile."""
    monkeypatch.setenv(where.PROFILE_VARIABLE, str(tmp_path / "profile.json"))
    return tmp_path / "profile.json"


def test_by_argument() -> None:
    found = sce.explain(X, Y, backend="naive", threads=2, weight=np.ones(10), reduction="none")
    assert (found.backend, found.source, found.profile, found.skipped) == ("naive", "argument", None, ())
    assert (found.rows, found.classes, found.dtype, found.operation, found.threads) == (8, 10, "float32", "fused", 2)
    assert str(found) == ("naive (fused, 8 x 10 float32, threads 2)\n  because backend='naive' was given")


def test_by_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(where.BACKEND_VARIABLE, "naive")
    found = sce.explain(X, Y)
    assert (found.backend, found.source, found.reason) == ("naive", "variable", "SOFTMAX_CE_BACKEND names it")
    monkeypatch.setenv(where.BACKEND_VARIABLE, "cuda")
    profile.reload()
    with pytest.raises(ValueError, match="SOFTMAX_CE_BACKEND: unknown backend 'cuda'"):
        sce.explain(X, Y)


def test_by_default() -> None:
    found = sce.explain(X, Y)
    assert (found.backend, found.source, found.profile) == (DEFAULT, "default", None)
    assert found.reason.startswith("there is no profile (none at ")
    assert found.reason.endswith("this is the safe default: stable, compiled ahead of time, available here")
    why = dict(found.skipped)
    assert set(why) == set(registry.names()) - {DEFAULT}
    assert why["naive"] == "it is not stable"
    assert "first call compiles" in why["numba"]
    if DEFAULT != "numpy":
        assert f"{DEFAULT} comes after it" in why["numpy"]


def test_by_default_where_one_is_missing_and_one_is_another_package_s(monkeypatch: pytest.MonkeyPatch) -> None:
    own = SimpleNamespace(BACKEND=BackendInfo("mine", "mine"), hard=print, soft=print)
    registry.register(own)
    monkeypatch.setitem(
        registry._loaded, "cython", BackendInfo("cython", "here", available=False, why_unavailable="no compiler")
    )
    try:
        profile.reload()
        found = sce.explain(X, Y)
    finally:
        registry.unregister("mine")
    assert found.backend == "numpy"
    assert dict(found.skipped) == {
        "naive": "it is not stable",
        "numba": "its first call compiles, so it is never the default",
        "cython": "it is not available: no compiler",
        "mine": "it comes from another package, so it is never the default",
    }


def test_by_a_measured_cell(path: Path) -> None:
    one = cell(8, 10, {"naive": 1e-6, "numpy": 2e-3, "numba": 5e-6, "cython": 3e-3}, winner="numpy", tied=("cython",),
               rejected={"numba": "its worst error is 7 times what rounding explains"})  # fmt: skip
    profile.save(profiles.profile([one]), path)
    found = sce.explain(X, Y)
    assert (found.backend, found.source, found.profile) == ("numpy", "profile", str(path))
    assert found.around is not None
    assert found.around.cells == ((one, 1.0),)
    assert found.around.costs == pytest.approx({"numpy": 2e-3, "cython": 3e-3})
    assert str(found).splitlines() == [
        "numpy (fused, 8 x 10 float32, threads automatic)",
        f"  because of profile {path}, at the measured cell 8 x 10 (fused float32, threads automatic): 2 ms, "
        "the winner, tied with cython",
        "  not naive: it is not stable",
        "  not numba: rejected at 8 x 10: its worst error is 7 times what rounding explains",
        "  not cython: 3 ms",
    ]


def test_at_a_measured_cell_whose_winner_may_not_run(path: Path) -> None:
    cells = [cell(8, 10, {"naive": 1e-3, "numpy": 2e-3, "cython": 3e-3})]
    profile.save(profiles.profile(cells), path)
    reason = sce.explain(X, Y).reason
    assert reason.endswith("at the measured cell 8 x 10 (fused float32, threads automatic): 2 ms, the lowest")


def test_at_a_measured_cell_without_ties(path: Path) -> None:
    profile.save(profiles.profile([cell(8, 10, {"numpy": 2e-3})]), path)
    assert sce.explain(X, Y).reason.endswith("threads automatic): 2 ms, the winner")


def test_between_cells(path: Path) -> None:
    """At 1 and 64 rows: 1 s and 64 s against 4 s and 16 s. Equal at 8 rows; at 20 numpy costs 20 s, cython 10.86 s."""
    cells = [cell(1, 10, {"numpy": 1.0, "cython": 4.0}), cell(64, 10, {"numpy": 64.0, "cython": 16.0})]
    profile.save(profiles.profile(cells), path)
    found = sce.explain(np.zeros((20, 10), np.float16), np.zeros(20, int), operation="forward", threads=1)
    assert found.around is not None
    rows = found.around.rows
    assert rows == pytest.approx(20, rel=0.1)
    assert found.around.costs == pytest.approx({"numpy": rows, "cython": 4 * rows ** (1 / 3)})
    assert (found.backend, found.dtype, found.operation) == ("cython", "float16", "forward")
    assert f"at {rows} x 10 between the measured cells 1 x 10, 64 x 10 (fused float32, threads automatic)" in str(found)
    assert dict(found.skipped)["numpy"] == f"{rows} s"
    assert dict(found.skipped)["numba"] == "the profile has no figure for it here"


def test_what_the_profile_leaves_open(path: Path) -> None:
    profile.save(profiles.profile([cell(8, 10, {"numpy": 1.0})]), path)
    found = sce.explain(X.astype(np.float64), Y)
    assert (found.backend, found.source, found.profile) == (DEFAULT, "default", str(path))
    assert "has no cells for float64" in found.reason
    profile.save(profiles.profile([cell(8, 10, {"naive": 1.0})]), path)
    profile.reload()
    found = sce.explain(X, Y)
    assert (found.backend, found.source) == (DEFAULT, "default")
    assert "has no backend that may run at the measured cell 8 x 10" in found.reason


def test_a_profile_that_is_not_followed(path: Path) -> None:
    path.write_text("{")
    with pytest.warns(ProfileWarning):
        found = sce.explain(X, Y)
    assert (found.backend, found.source, found.profile) == (DEFAULT, "default", str(path))
    assert f"profile {path}: it is not JSON" in found.reason


@pytest.mark.parametrize("fastest", ["forward", "backward", "fused"])
def test_each_operation_follows_its_own_cells(fastest: str, path: Path) -> None:
    """Measured cells in which another backend wins one of the three."""
    operations = ("forward", "backward", "fused")
    cells = [
        cell(8, 10, {"numpy": 1.0, DEFAULT: 0.5 if operation == fastest else 2.0}, operation=operation)
        for operation in operations
    ]
    profile.save(profiles.profile(cells), path)
    chosen = {operation: sce.explain(X, Y, operation=operation).backend for operation in operations}
    assert chosen == {operation: DEFAULT if operation == fastest else "numpy" for operation in operations}


@pytest.mark.parametrize("operation", ["forward", "backward", "fused"])
@pytest.mark.parametrize("rows", [1, 7, 100])
def test_it_says_what_a_call_chooses(operation: str, rows: int, path: Path) -> None:
    cells = profiles.grid((1, 100), (10,), {"numpy": lambda r, c: r, DEFAULT: lambda r, c: 3.0 + r / 100})
    profile.save(profiles.profile(cells), path)
    want = {"forward": (True, False), "backward": (False, True), "fused": (True, True)}[operation]
    found = sce.explain(np.zeros((10, rows), np.float32), np.zeros(rows, int), operation=operation, axis=0)
    assert (found.rows, found.classes) == (rows, 10)
    assert found.backend == auto.choose(None, *want, np.dtype("f4"), rows, 10, None).name


def test_classes_are_on_the_last_axis_unless_said() -> None:
    assert [getattr(sce.explain(np.zeros((2, 3, 4)), None), name) for name in ("rows", "classes")] == [6, 4]


def test_it_is_looked_up_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the package loads when it is first asked for is then its own."""
    monkeypatch.delitem(vars(sce), "explain", raising=False)
    assert sce.explain is vars(sce)["explain"]


def test_it_computes_nothing_and_refuses_what_the_call_would() -> None:
    huge = np.broadcast_to(np.float32(0), (1 << 40, 1 << 20))
    found = sce.explain(huge, None)
    assert (found.rows, found.classes, found.backend) == (1 << 40, 1 << 20, DEFAULT)
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.backend = "naive"  # type: ignore[misc]
    with pytest.raises(TypeError, match="unknown option 'bakend'"):
        sce.explain(X, Y, bakend="numpy")
    with pytest.raises(ValueError, match="operation='sideways' is not known"):
        sce.explain(X, Y, operation="sideways")
    with pytest.raises(ValueError, match="unknown backend 'cuda'"):
        sce.explain(X, Y, backend="cuda")
    with pytest.raises(TypeError, match="complex"):
        sce.explain(X.astype(complex), Y)
    with pytest.raises(ValueError, match="threads must be"):
        sce.explain(X, Y, threads=0)


def test_info_tells_the_profile(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    profile.save(profiles.profile([cell(8, 10, {"numpy": 1.0})]), path)
    assert machine.facts()["profile"] == str(path)
    path.write_text("{")
    profile.reload()
    assert machine.facts()["profile"].startswith(f"not followed: profile {path}: it is not JSON")
    monkeypatch.setenv(where.BACKEND_VARIABLE, "cuda")
    profile.reload()
    assert machine.facts()["profile"].startswith("none: environment variable SOFTMAX_CE_BACKEND")


@pytest.mark.parametrize(
    ("cost", "text"),
    [
        (1234.0, "1230 s"),
        (1000.0, "1000 s"),
        (999.6, "1000 s"),
        (999.4, "999 s"),
        (1.0, "1 s"),
        (0.9999, "1 s"),
        (0.9994, "999 ms"),
        (1e-3, "1 ms"),
        (2.344e-5, "23.4 us"),
        (1e-6, "1 us"),
        (4.25e-8, "42.5 ns"),
        (5e-10, "0.5 ns"),
    ],
)
def test_costs_in_words(cost: float, text: str) -> None:
    assert explanation._amount(cost, "time") == explanation._amount(cost, "coldstart") == text
    assert explanation._amount(1234567.4, "memory") == "1,234,567 bytes"
