"""The registry: what is listed, what is missing and why, and backends from other packages."""

from __future__ import annotations

import copy
import dataclasses
import gc
import multiprocessing
import pickle
import sys
import weakref
from importlib import metadata
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

import softmax_ce as sce
import wrong_backends
from conftest import available
from helpers import run_python
from softmax_ce import registry
from softmax_ce.choice import auto
from softmax_ce.contract import BackendInfo


def test_the_project_s_backends_are_listed_in_order() -> None:
    names = [info.name for info in sce.backends()]
    assert names[:4] == ["naive", "numpy", "numba", "cython"]
    assert [info.stable for info in sce.backends()][:4] == [False, True, True, True]


def test_an_unknown_name_is_answered_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"unknown backend 'cuda'; known backends: naive, numpy, numba, cython"):
        sce.get_backend("cuda")
    with pytest.raises(ValueError, match="unknown backend"):
        sce.cross_entropy([[0.0, 1.0]], [0], backend="cuda")
    with pytest.raises(ValueError, match="unknown backend"):
        sce.get_backend(cast(Any, 3))


def test_importing_needs_and_loads_numpy_alone() -> None:
    """No backend's dependency, no bench half, before one is asked for."""
    code = """
import sys, softmax_ce
print(sorted({name.partition('.')[0] for name in sys.modules} & {
    'numba', 'llvmlite', 'scipy', 'sklearn', 'mpmath', 'rich', 'click', 'ml_dtypes', 'softmax_ce_bench'}))
"""
    assert run_python(code).strip() == "[]"


@pytest.mark.parametrize(
    ("block", "reason", "advice"),
    [
        ("numba", "numba is not to be had", "softmax-ce[numba]"),
        ("softmax_ce._backends.cython._kernels", "not to be had", "C compiler"),
    ],
)
def test_a_missing_piece_is_never_a_crash(block: str, reason: str, advice: str) -> None:
    """Listed with the reason; asked for by name, an error that says how to get it; the default goes on without."""
    name = "numba" if block == "numba" else "cython"
    if name == "cython":
        available(name)  # where it was not built, that is the reason given, whatever else is missing
    code = f"""
import sys
from importlib.abc import MetaPathFinder
class Block(MetaPathFinder):
    def find_spec(self, fullname, path=None, target=None):
        if fullname == {block!r}:
            raise ImportError(f"{{fullname}} is not to be had")
sys.meta_path.insert(0, Block())
import softmax_ce as sce
info = next(i for i in sce.backends() if i.name == {name!r})
assert not info.available
print(info.why_unavailable)
try:
    sce.get_backend({name!r})
except ImportError as error:
    print(error)
print(float(sce.cross_entropy([[0.0, 0.0]], [0])))
"""
    listed, raised, loss = run_python(code).splitlines()
    assert reason in listed
    assert advice in raised
    assert reason in raised
    assert abs(float(loss) - np.log(2)) < 1e-15


def test_a_broken_dependency_is_a_reason_not_a_crash() -> None:
    """A Numba that raises anything on import."""
    code = """
import sys
from importlib.abc import MetaPathFinder
class Break(MetaPathFinder):
    def find_spec(self, fullname, path=None, target=None):
        if fullname == "numba":
            raise SystemError("initialization failed")
sys.meta_path.insert(0, Break())
import softmax_ce as sce
print(next(i for i in sce.backends() if i.name == "numba").why_unavailable)
"""
    assert run_python(code).strip() == "SystemError: initialization failed"


def test_a_failed_compilation_is_told(tmp_path: Path) -> None:
    """What setup.py noted beside the missing extension is the reason that is given."""
    source = Path(registry.__file__).parent
    target = tmp_path / "softmax_ce"
    for path in source.rglob("*.py"):
        copy = target / path.relative_to(source)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    (target / "_backends" / "cython" / "build_error.txt").write_text("command 'cc' failed: no such file\n")
    code = f"""
import sys
sys.meta_path = [f for f in sys.meta_path if "editable" not in repr(f).lower()]
sys.path.insert(0, {str(tmp_path)!r})
import softmax_ce as sce
assert sce.__file__.startswith({str(tmp_path)!r}), sce.__file__
print(next(i for i in sce.backends() if i.name == "cython").why_unavailable)
"""
    assert run_python(code).strip() == "the extension was not built: command 'cc' failed: no such file"


def test_the_default_is_stable_compiled_ahead_and_available() -> None:
    info = sce.get_backend(auto.default_name()).info
    assert (info.stable, info.ahead_of_time, info.available) == (True, True, True)


def test_without_any_backend_there_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "is_available", lambda name: False)
    with pytest.raises(sce.BackendUnavailableError, match="no backend of softmax_ce can be loaded"):
        auto.default_name()


def test_a_backend_of_another_package_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Through its entry point, under the entry's name; its kernels run behind the public functions."""
    module = wrong_backends.CorrectBackend()
    monkeypatch.setitem(sys.modules, "their_package", module)
    entry = metadata.EntryPoint(name="theirs", value="their_package", group=registry.ENTRY_POINT_GROUP)
    taken = metadata.EntryPoint(name="numpy", value="their_package", group=registry.ENTRY_POINT_GROUP)
    broken = metadata.EntryPoint(name="broken", value="no_such_module", group=registry.ENTRY_POINT_GROUP)
    monkeypatch.setattr(metadata, "entry_points", lambda group: (entry, taken, broken))
    monkeypatch.setattr(registry, "_entries", None)
    monkeypatch.setattr(registry, "_loaded", {})
    by_name = {info.name: info for info in sce.backends()}
    assert by_name["theirs"].available
    assert by_name["numpy"].module.startswith("softmax_ce."), "a package replaced one of the project's backends"
    assert by_name["broken"].why_unavailable == "No module named 'no_such_module'"
    loss = sce.cross_entropy(np.zeros((2, 4)), [0, 3], backend="theirs")
    assert abs(float(loss) - np.log(4)) < 1e-15


def test_register_refuses_what_is_not_a_backend() -> None:
    def kernel(*_: Any) -> None: ...

    info = wrong_backends.CorrectBackend().BACKEND
    with pytest.raises(TypeError, match="has no BACKEND"):
        registry.register(SimpleNamespace(hard=kernel, soft=kernel))
    with pytest.raises(TypeError, match="has no kernel 'soft'"):
        registry.register(SimpleNamespace(BACKEND=info, hard=kernel))
    taken = sce.get_backend("numpy").info
    with pytest.raises(ValueError, match="already registered"):
        registry.register(SimpleNamespace(BACKEND=taken, hard=kernel, soft=kernel))
    with pytest.raises(ValueError, match="own backends"):
        registry.unregister("numpy")


def test_what_is_no_backend_is_named() -> None:
    with pytest.raises(TypeError, match=r"^their_module has no BACKEND that is a "):
        registry.register(ModuleType("their_module"))
    with pytest.raises(TypeError, match=r"^namespace\(\) has no BACKEND that is a "):
        registry.register(SimpleNamespace())


def test_what_is_missing_says_how_to_get_it_where_that_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, hint in (("lone", ""), ("known", "pip install known")):
        monkeypatch.setitem(registry._known(), name, BackendInfo(name, "no_such_module", how_to_get=hint))
    reason = "is not available: No module named 'no_such_module'"
    with pytest.raises(sce.BackendUnavailableError, match=f"^backend 'lone' {reason}$"):
        sce.get_backend("lone")
    with pytest.raises(sce.BackendUnavailableError, match=f"^backend 'known' {reason}. To get it: pip install known$"):
        sce.get_backend("known")


def test_a_backend_brings_casts_and_a_team_if_it_has_them() -> None:
    def kernel(*_: Any) -> None: ...

    own = {name: lambda *_: None for name in ("widen", "narrow", "team")}
    module = SimpleNamespace(
        BACKEND=wrong_backends.CorrectBackend().BACKEND, hard=kernel, soft=kernel, DETAILS="AVX9", **own
    )
    backend = registry.register(module)
    try:
        assert {name: getattr(backend, name) for name in own} == own
        assert backend.details == "AVX9"
    finally:
        registry.unregister(backend.name)


def test_what_is_unregistered_is_unknown_and_nothing_keeps_it_in_memory() -> None:
    module = wrong_backends.CorrectBackend()
    left = weakref.ref(module)
    backend = registry.register(module)
    name = backend.name
    assert (backend.details, backend.widen, backend.narrow, backend.team) == ("", None, None, None)
    registry.unregister(name)
    with pytest.raises(ValueError, match=f"unknown backend '{name}'"):
        sce.get_backend(name)
    del module, backend
    gc.collect()
    assert left() is None


@pytest.mark.parametrize(("stream_from", "count"), [("0", 2), (str(1 << 40), 1)], ids=["streamed", "cached"])
@pytest.mark.parametrize("isa", ["avx512", "avx2", "baseline"])
def test_every_instruction_set_conforms(isa: str, stream_from: str, count: int) -> None:
    """The compiled backend forced to each instruction set that runs here, gradients streamed in parts, or not at all.

    Threads are not an instruction set's matter: each of the two has a number of its own.
    """
    available("cython")
    details = sce.get_backend("cython").details
    if isa not in details:
        pytest.skip(f"this CPU cannot run {isa}")
    if isa == details.split()[2] and count == 1:
        pytest.skip("test_conformance.py runs this")
    code = f"""
import softmax_ce as sce
from softmax_ce_bench import conformance
print(sce.get_backend("cython").details.split()[2])
for result in conformance.run_checks("cython", ("float32", "float64"), ({count},)):
    if not result.passed:
        print(result)
"""
    assert run_python(code, SOFTMAX_CE_ISA=isa, SOFTMAX_CE_STREAM_BYTES=stream_from).split("\n", 1) == [isa, ""]


def test_an_instruction_set_that_cannot_run_is_refused_with_a_reason() -> None:
    code = """
import softmax_ce as sce
print(next(i for i in sce.backends() if i.name == "cython").why_unavailable)
"""
    available("cython")
    assert "SOFTMAX_CE_ISA='mmx' cannot run here" in run_python(code, SOFTMAX_CE_ISA="mmx")


# ---- facts and backends travel


@pytest.mark.parametrize("info", sce.backends(), ids=lambda info: info.name)
def test_the_facts_of_a_backend_can_be_pickled_copied_and_listed(info: BackendInfo) -> None:
    for same in (pickle.loads(pickle.dumps(info)), copy.deepcopy(info), copy.copy(info), dataclasses.replace(info)):
        assert same == info
        assert {*same.accuracy} == {"float32", "float64"}
        for dtype, accuracy in info.accuracy.items():
            assert (same.accuracy[dtype].exp_ulp, same.accuracy[dtype].log_ulp) == (accuracy.exp_ulp, accuracy.log_ulp)
            assert [same.accuracy[dtype].summation(n) for n in (1, 3000)] == [accuracy.summation(n) for n in (1, 3000)]
    listed = dataclasses.asdict(info)
    assert listed["name"] == info.name
    assert listed["accuracy"]["float64"]["exp_ulp"] == info.accuracy["float64"].exp_ulp


def test_the_facts_of_a_backend_cannot_be_changed() -> None:
    accuracy: Any = registry.table()[0].accuracy
    before = dict(accuracy)
    for change in (lambda: accuracy.update(float32=1), lambda: accuracy.clear(), lambda: accuracy.pop("float32")):
        with pytest.raises(TypeError, match="cannot be changed"):
            change()
    with pytest.raises(TypeError, match="cannot be changed"):
        accuracy["float32"] = 1
    with pytest.raises(TypeError, match="cannot be changed"):
        accuracy |= {"float32": 1}
    assert registry.table()[0].accuracy == before


@pytest.mark.parametrize("name", [info.name for info in registry.table()])
def test_a_backend_is_pickled_by_its_name(name: str) -> None:
    backend = sce.get_backend(available(name))
    assert pickle.loads(pickle.dumps(backend)) is backend
    assert copy.deepcopy(backend) is backend is copy.copy(backend)
    assert dataclasses.asdict(backend)["info"]["name"] == name
    other = dataclasses.replace(backend, details="another")
    with pytest.raises(pickle.PicklingError, match=f"backend '{name}' is pickled by its name"):
        pickle.dumps(other)


def _echo(backend: Any, info: BackendInfo) -> tuple[Any, BackendInfo, float]:
    x = np.array([[1.0, 2.0, 3.0]])
    return backend, info, float(sce.cross_entropy(x, [0], backend=backend.name))


def test_a_backend_goes_to_a_spawned_worker_and_back() -> None:
    backend = sce.get_backend("numpy")
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        back, info, loss = pool.apply(_echo, (backend, backend.info))
    assert back is backend
    assert info == backend.info
    np.testing.assert_allclose(loss, 2.407605964, rtol=1e-9)


def test_warmup_skips_what_a_backend_does_not_compute(monkeypatch: pytest.MonkeyPatch) -> None:
    """A backend for one dtype is never called with another."""
    seen: list[str] = []
    single = SimpleNamespace(
        BACKEND=BackendInfo("single", "nowhere", dtypes=("float32",)),
        hard=lambda logits, *_: seen.append(logits.dtype.name),
        soft=lambda logits, *_: seen.append(logits.dtype.name),
    )
    backend = registry.register(single)
    try:
        backend.warmup()
        backend.warmup(["float64", "float16", int])
    finally:
        registry.unregister("single")
    assert seen == ["float32"] * 4
