"""What a backend declares, what the table of them says, and what the parts of the package do after a fork."""

from __future__ import annotations

import copyreg
import importlib.util
import math
import os
import re
import sys
from importlib import metadata
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

import softmax_ce as sce
from conftest import available
from softmax_ce import contract, interpreters, registry, threads
from softmax_ce.choice import auto
from softmax_ce.contract import Accuracy, Backend, BackendInfo

ACCURACY = Path(__file__).parent.parent / "docs" / "explanation" / "accuracy.md"
# A, in the words of docs/explanation/accuracy.md.
SUMS = {
    "pairwise": contract.pairwise,
    "float64 sum": contract.wide(),
    "four terms in float32, then float64": contract.wide(3),
    "eight terms in float32, then float64": contract.wide(7),
    "eight lanes in chunks of 2048": contract.lanes(8, 2048),
    "four lanes in chunks of 2048": contract.lanes(4, 2048),
}


@pytest.mark.parametrize(
    ("coefficient", "values"),
    [
        (contract.sequential, {1: 0, 2: 1, 5: 4}),
        (contract.pairwise, {1: 18, 128: 18, 129: 19, 256: 19, 1024: 21, 1025: 22}),
        (contract.lanes(8, 2048), {8: 1 + 3 + 1 / 256 + 2, 2048: 256 + 3 + 1 + 2, 4096: 256 + 3 + 2 + 2}),
        (contract.lanes(4, 1024), {2048: 256 + 2 + 2 + 2}),
        (contract.wide(), {1 << 29: 2, 1 << 30: 3}),
        (contract.wide(3), {1 << 29: 5}),
    ],
)
def test_what_a_sum_may_be_off_by(coefficient: Any, values: dict[int, float]) -> None:
    """As docs/explanation/accuracy.md says."""
    assert {classes: coefficient(classes) for classes in values} == values
    assert coefficient(0) >= 0


@pytest.mark.parametrize(("width", "chunk"), [(8, 2048), (4, 2048)])
def test_the_bound_of_lanes_covers_the_additions_that_a_term_goes_through(width: int, chunk: int) -> None:
    coefficient = contract.lanes(width, chunk)
    for classes in (1, width, width + 1, chunk - 1, chunk, chunk + 1, 10 * chunk, 10 * chunk + 1):
        in_its_lane = math.ceil(min(classes, chunk) / width) - 1
        additions = in_its_lane + math.log2(width) + math.ceil(classes / chunk) - 1
        assert additions < coefficient(classes) <= additions + 4


def test_the_table_of_declared_errors_is_the_registry_s() -> None:
    rows = re.findall(
        r"^\| (\w+) \| ([\d.]+), (\d), (.+) \| ([\d.]+), (\d), (.+) \|$", ACCURACY.read_text("utf-8"), re.M
    )
    assert [row[0] for row in rows] == [info.name for info in registry.table()]
    for info, row in zip(registry.table(), rows, strict=True):
        for dtype, (exp, log, total) in (("float32", row[1:4]), ("float64", row[4:7])):
            declared = info.accuracy[dtype]
            assert (declared.exp_ulp, declared.log_ulp) == (float(exp), float(log)), info.name
            for classes in (1, 100, 2048, 100_000, 1 << 30):
                assert declared.summation(classes) == SUMS[total](classes), (info.name, dtype)


def test_the_compiled_backend_brings_casts_and_a_team_of_its_own() -> None:
    """Without them calls would be right, and slow."""
    backend = sce.get_backend(available("cython"))
    assert callable(backend.widen)
    assert callable(backend.narrow)
    assert isinstance(backend.team, contract.TeamKernels)


def test_a_kernel_never_finds_its_targets_where_it_writes_the_gradient() -> None:
    """Also when the caller asks for the gradient over the targets, so that kernels may write before they read."""
    apart = []

    def soft(x: Any, targets: Any, *rest: Any) -> None:
        apart.append(not np.shares_memory(targets, rest[6]))

    module = SimpleNamespace(BACKEND=BackendInfo("spy", "spy"), hard=soft, soft=soft)
    registry.register(module)
    try:
        for targets in (np.full((4, 3), 1 / 3), np.full((4, 6), 1 / 3)[:, ::2]):
            sce.cross_entropy_with_grad(np.zeros((4, 3)), targets, grad_out=targets, backend="spy")
    finally:
        registry.unregister("spy")
    assert apart == [True, True]


def test_a_backend_that_declares_no_errors_is_taken_for_a_careless_one() -> None:
    declared = BackendInfo("theirs", "theirs").accuracy
    assert set(declared) == {"float32", "float64"}
    for accuracy in (Accuracy(), *declared.values()):
        assert (accuracy.exp_ulp, accuracy.log_ulp) == (4, 4)
        assert accuracy.summation(1000) == 999


def test_a_backend_that_declares_nothing_is_stable_and_compiled() -> None:
    info = BackendInfo("theirs", "their_module")
    assert (info.stable, info.ahead_of_time, info.sub_interpreters, info.available) == (True, True, True, True)
    assert (info.summary, info.how_to_get, info.why_unavailable) == ("", "", None)
    assert info.serial_elements == threads.SERIAL_ELEMENTS == 65536
    assert info.dtypes == contract.NATIVE_DTYPES == ("float32", "float64")
    assert info == BackendInfo("theirs", "their_module", accuracy={})
    assert len({info, BackendInfo("theirs", "their_module")}) == 1


def test_every_backend_of_the_table_says_what_it_is_and_what_can_be_missing_how_to_get_it() -> None:
    found = {info.name: info for info in registry.table()}
    assert all(info.summary for info in found.values())
    assert "softmax-ce[numba]" in found["numba"].how_to_get
    assert "C compiler" in found["cython"].how_to_get
    assert {name for name, info in found.items() if not info.sub_interpreters} == {"numba"}
    assert {name for name, info in found.items() if not info.ahead_of_time} == {"numba"}
    assert {name for name, info in found.items() if not info.stable} == {"naive"}


@pytest.mark.parametrize("dtypes", [(), ("float32",), ("float32", "float64"), "float64", (np.float16, np.int8)])
def test_a_warm_up_runs_both_kernels_once_for_each_dtype_they_compute(dtypes: Any) -> None:
    """On arrays as the contract has them: one row, whole, everything wanted."""
    calls: list[tuple[str, str]] = []

    def check(kind: str, x: Any, vectors: list[Any], outputs: tuple[Any, ...], rows: tuple[int, ...]) -> None:
        n_rows, n_classes = x.shape
        assert rows == (0, n_rows) == (0, 1)
        for vector, length in vectors:
            assert vector.shape in ((1,), (length,))
        loss, grad, row_max, log_sum = outputs
        assert loss.shape == row_max.shape == log_sum.shape == (n_rows,)
        assert grad.shape == (n_rows, n_classes)
        assert {output.dtype for output in outputs} == {x.dtype}
        assert not np.shares_memory(grad, x)
        calls.append((kind, x.dtype.name))

    def hard(x: Any, labels: Any, ignore: int, mass: Any, base: Any, total: float, z: float, *rest: Any) -> None:
        assert labels.shape == (1,)
        assert labels.dtype == np.int64
        assert 0 <= labels[0] < x.shape[1]
        assert mass.dtype == x.dtype
        check("hard", x, [(mass, x.shape[1]), (rest[0], 1), (rest[1], 1)], rest[2:6], rest[6:])

    def soft(x: Any, targets: Any, scale: Any, base: Any, z: float, *rest: Any) -> None:
        assert targets.shape == x.shape
        assert targets.dtype == scale.dtype == x.dtype
        check("soft", x, [(scale, x.shape[1]), (rest[0], 1), (rest[1], 1)], rest[2:6], rest[6:])

    spy = Backend(BackendInfo("spy", "spy"), hard, soft)
    assert (spy.name, spy.details, spy.widen, spy.narrow, spy.team) == ("spy", "", None, None, None)
    spy.warmup(dtypes)
    computed = {"()": [], "('float32',)": ["float32"], "float64": ["float64"]}.get(str(dtypes), ["float32", "float64"])
    assert sorted(calls) == [(kind, name) for kind in ("hard", "soft") for name in computed]


def test_a_warm_up_for_what_logits_cannot_be_is_an_error() -> None:
    with pytest.raises(TypeError, match=r"^logits of dtype complex64 are not supported"):
        sce.get_backend("numpy").warmup([np.complex64])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_log_sum_exp_alone_is_given_of_every_row(dtype: str, backend: str) -> None:
    """By either kernel, over more rows than a block of any backend has."""
    kernels = sce.get_backend(backend)
    x = np.random.default_rng(4).standard_normal((150, 1000)).astype(dtype)
    one, row = np.ones(1, dtype), np.ones(1)
    hard, soft = np.full((2, 150), 7, dtype), np.full((2, 150), 7, dtype)
    kernels.hard(x, np.zeros(1, np.int64), -1, one, None, 0.0, 0.0, row, row, None, None, hard[0], hard[1], 0, 150)
    kernels.soft(x, x, one, None, 0.0, row, row, None, None, soft[0], soft[1], 0, 150)
    right = np.log(np.exp(x.astype(float)).sum(axis=1))
    np.testing.assert_allclose(hard.astype(float).sum(axis=0), right, rtol=100 * float(np.finfo(dtype).eps))
    np.testing.assert_array_equal(soft, hard)


# ---- loading


def test_the_modules_of_the_table_are_there() -> None:
    """So that what cannot be loaded lacks something else."""
    assert all(importlib.util.find_spec(info.module) for info in registry.table())
    assert all(registry.is_available(name) for name in ("naive", "numpy"))


@pytest.mark.parametrize("name", [[], {}, None, 3, b"numpy"])
def test_what_is_no_name_is_an_unknown_backend(name: Any) -> None:
    with pytest.raises(ValueError, match=r"^unknown backend .*; known backends: naive, numpy, numba, cython"):
        registry.get_backend(name)


def test_other_packages_backends_are_looked_for_in_one_group(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def entry_points(*, group: str) -> tuple[Any, ...]:
        asked.append(group)
        return ()

    monkeypatch.setattr(metadata, "entry_points", entry_points)
    monkeypatch.setattr(registry, "_entries", None)
    for _ in range(2):
        assert registry.names() == ("naive", "numpy", "numba", "cython")
    assert asked == ["softmax_ce.backends"]


@pytest.mark.parametrize(
    ("here", "default"),
    [
        ({"naive", "numpy", "numba", "cython"}, "cython"),
        ({"naive", "numpy", "numba"}, "numpy"),
        ({"numpy"}, "numpy"),
        ({"naive", "numba"}, None),
        (set(), None),
    ],
)
def test_the_default_is_the_fastest_that_is_stable_and_compiled_ahead(
    here: set[str], default: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "is_available", here.__contains__)
    if default is not None:
        assert auto.default_name() == default
        return
    with pytest.raises(sce.BackendUnavailableError, match="no backend of softmax_ce can be loaded"):
        auto.default_name()


@pytest.mark.parametrize("dtypes", [("float32",), ("float64",), ("float32", "float64")])
def test_a_backend_may_compute_one_dtype_alone(dtypes: tuple[str, ...]) -> None:
    def kernel(*_: Any) -> None: ...

    backend = Backend(BackendInfo("one", "one", dtypes=dtypes), kernel, kernel)
    for name in ("float32", "float64"):
        if name in dtypes:
            auto.check_dtype(backend, np.dtype(name))
        else:
            with pytest.raises(ValueError, match=f"^backend 'one' computes {dtypes[0]} only, not {name}$"):
                auto.check_dtype(backend, np.dtype(name))


def test_every_function_refuses_what_a_backend_does_not_compute() -> None:
    def kernel(*_: Any) -> None: ...

    registry.register(
        SimpleNamespace(BACKEND=BackendInfo("single", "single", dtypes=("float32",)), hard=kernel, soft=kernel)
    )
    x, y = np.zeros((2, 3)), np.zeros(2, int)
    try:
        calls: tuple[tuple[Any, tuple[Any, ...]], ...] = (
            (sce.cross_entropy, (x, y)), (sce.cross_entropy_grad, (x, y)), (sce.cross_entropy_with_grad, (x, y)),
            (sce.explain, (x, y)), (sce.softmax, (x,)), (sce.log_softmax, (x,)), (sce.logsumexp, (x,)),
        )  # fmt: skip
        for function, given in calls:
            with pytest.raises(ValueError, match=r"^backend 'single' computes float32 only, not float64$"):
                function(*given, backend="single")
            function(given[0].astype(np.float32), *given[1:], backend="single")
    finally:
        registry.unregister("single")


def test_a_factory_gives_a_coefficient() -> None:
    for made in (contract.lanes(4, 2048), contract.wide()):
        assert made(4096) > 1


def test_what_would_not_end_in_a_sub_interpreter_is_not_loaded_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_loaded", {})
    monkeypatch.setattr(registry, "in_sub_interpreter", lambda: True)
    monkeypatch.setattr(importlib, "import_module", _module)
    found = {info.name: info.why_unavailable for info in registry.backends()[:4]}
    assert found == {
        "naive": None,
        "numpy": None,
        "numba": "it works only in the main interpreter, and this is a sub-interpreter",
        "cython": None,
    }
    monkeypatch.setattr(registry, "_loaded", {})
    monkeypatch.setattr(registry, "in_sub_interpreter", lambda: False)
    assert all(info.available for info in registry.backends()[:4])


@pytest.mark.parametrize("name", ["_interpreters", "_xxsubinterpreters"])
def test_a_sub_interpreter_is_told_by_what_this_python_has(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = interpreters.in_sub_interpreter.__wrapped__
    for other in ("_interpreters", "_xxsubinterpreters"):
        monkeypatch.setitem(sys.modules, other, None)  # to import it is an ImportError
    assert asked() is False
    for current, is_sub in ((0, False), (1, True)):
        module = SimpleNamespace(get_current=lambda current=current: current, get_main=lambda: 0)
        monkeypatch.setitem(sys.modules, name, module)
        assert asked() is is_sub


def _module(name: str) -> Any:
    def kernel(*_: Any) -> None: ...

    return SimpleNamespace(hard=kernel, soft=kernel)


def test_the_compiled_backend_tells_its_instruction_set() -> None:
    details = sce.get_backend(available("cython")).details
    told = re.fullmatch(r"instruction set (\w+) \(can run here: (\w+(?:, \w+)*)\)", details)
    assert told
    assert told[1] in told[2].split(", ")


# ---- forks


def _fresh(module: ModuleType) -> Any:
    """A second copy of a module, as a process has it that has just imported it."""
    spec = importlib.util.spec_from_file_location(f"{module.__name__}_again", str(module.__file__))
    assert spec
    assert spec.loader
    copy = importlib.util.module_from_spec(spec)
    sys.modules[copy.__name__] = copy
    picklers = dict(copyreg.dispatch_table)
    try:
        spec.loader.exec_module(copy)
    finally:
        del sys.modules[copy.__name__]
        copyreg.dispatch_table.update(picklers)  # or backends would be pickled by the copy's registry
    return copy


@pytest.mark.parametrize(
    ("module", "lock"),
    [
        (registry, lambda copy: copy._lock._lock),
        (auto, lambda copy: copy._lock._lock),
        (threads, lambda copy: copy._pool._lock),
    ],
    ids=["registry", "auto", "threads"],
)
def test_a_lock_that_was_held_at_a_fork_is_free_in_the_child(
    module: ModuleType, lock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    after: list[Any] = []
    monkeypatch.setattr(os, "register_at_fork", lambda *, after_in_child: after.append(after_in_child), raising=False)
    copy = _fresh(module)
    (renew,) = after
    held = lock(copy)
    renew()
    assert lock(copy) is not held
    with lock(copy):
        pass
    monkeypatch.delattr(os, "register_at_fork")
    assert lock(_fresh(module)) is not None, "where there is no fork, nothing is registered"


@pytest.mark.parametrize(("cpus", "least"), [(1, 1), (64, 64), (None, 1)])
def test_every_cpu_of_a_large_machine_may_be_used(
    cpus: int | None, least: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: cpus)
    copy = _fresh(threads)
    asked: list[int] = []
    monkeypatch.setattr(copy._pool, "ask_for", lambda helpers, job: asked.append(helpers))
    copy.run(lambda start, stop: None, 1 << 20, 10, 1 << 20)
    (helpers,) = asked
    assert isinstance(helpers, int)
    assert 4 * least <= helpers < 4 * least + 64


@pytest.mark.parametrize("dtypes", [np.float32, np.dtype(np.float32), "float32", "f2"], ids=repr)
def test_a_warm_up_takes_a_single_dtype(dtypes: Any) -> None:
    seen = []
    spy = Backend(BackendInfo("spy", "spy"), lambda x, *_: seen.append(x.dtype), lambda *_: None)
    spy.warmup(dtypes)
    assert seen == [np.float32]


@pytest.mark.parametrize("dtypes", [None, 4])
def test_a_warm_up_for_no_dtype_at_all_is_an_error(dtypes: Any) -> None:
    with pytest.raises(TypeError, match=f"^dtypes must be a dtype or an iterable of dtypes, got {dtypes}$"):
        sce.get_backend("numpy").warmup(dtypes)
