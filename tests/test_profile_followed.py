"""Production follows the profile: which file, when it is read, and what runs where it cannot be followed."""

from __future__ import annotations

import os
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import profiles
import softmax_ce as sce
import wrong_backends
from helpers import run_python
from profiles import CROSSING, cell, grid
from softmax_ce import contract, profile, registry, threads
from softmax_ce.choice import auto, fingerprint
from softmax_ce.choice.profile import format as profile_file
from softmax_ce.profile import ProfileError, ProfileWarning
from test_profile import HOSTILE

BACKEND, PROFILE, STRICT = "SOFTMAX_CE_BACKEND", "SOFTMAX_CE_PROFILE", "SOFTMAX_CE_PROFILE_STRICT"
DEFAULT = auto.default_name()

pytestmark = pytest.mark.usefixtures("forget")


@pytest.fixture
def follow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Save a profile of these cells, or these bytes, where production will look."""

    def put(content: Any, **fields: Any) -> Path:
        path = tmp_path / "profile.json"
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            profile.save(profiles.profile(content, **fields), path)
        monkeypatch.setenv(PROFILE, str(path))
        profile.reload()
        return path

    return put


class Recorder(wrong_backends.CorrectBackend):
    """Right, and remembers the shapes that it was given."""

    def __init__(self, name: str = "recorder", **facts: Any) -> None:
        super().__init__()
        self.BACKEND = replace(self.BACKEND, name=name, **facts)
        self.shapes: list[tuple[int, int]] = []

    def hard(self, logits: Any, *arguments: Any) -> None:
        self.shapes.append(logits.shape)
        super().hard(logits, *arguments)


@pytest.fixture
def plant() -> Iterator[Callable[[Any], Any]]:
    planted = []

    def put(module: Any) -> Any:
        planted.append(registry.register(module).name)
        return module

    yield put
    for name in planted:
        registry.unregister(name)


def _chosen(rows: int = 1, classes: int = 10, dtype: Any = np.float32, threads: int | None = None) -> str:
    return auto.choose(None, True, True, np.dtype(dtype), rows, classes, threads).name


def _logits(rows: int, classes: int, dtype: Any = np.float32) -> Any:
    return np.linspace(-1, 1, rows * classes).reshape(rows, classes).astype(dtype)


# ---- the choice is what runs


def test_each_shape_runs_on_the_winner_of_its_cell(follow: Any, plant: Any) -> None:
    recorder = plant(Recorder())
    follow([cell(2, 10, {"numpy": 1.0, "recorder": 2.0}), cell(50, 10, {"numpy": 2.0, "recorder": 1.0})])
    for rows in (2, 50, 2, 60):
        x, y = _logits(rows, 10), np.zeros(rows, int)
        loss, grad = sce.cross_entropy_with_grad(x, y)
        expected = sce.cross_entropy_with_grad(x, y, backend="numpy")
        np.testing.assert_allclose(loss, expected[0], rtol=1e-6)
        np.testing.assert_allclose(grad, expected[1], rtol=1e-5, atol=1e-8)
    assert recorder.shapes == [(50, 10), (60, 10)]


def test_a_linear_layer_runs_on_the_winner_for_its_logits(follow: Any, plant: Any) -> None:
    recorders = {name: plant(Recorder(name)) for name in ("forward", "fused")}
    follow([cell(4, 10, {"numpy": 2.0, name: 1.0}, operation=name) for name in recorders])
    hidden, weight, labels = _logits(4, 3), _logits(10, 3), np.zeros(4, int)
    sce.linear_cross_entropy(hidden, weight, labels)
    assert [len(each.shapes) for each in recorders.values()] == [1, 0]
    sce.linear_cross_entropy_with_grad(hidden, weight, labels)
    assert [each.shapes for each in recorders.values()] == [[(4, 10)], [(4, 10)]]
    sce.linear_cross_entropy_with_grad(hidden, weight, labels, backend="numpy")
    assert [len(each.shapes) for each in recorders.values()] == [1, 1]


@pytest.mark.parametrize("options", [{}, {"z_loss": 0}, {"threads": 1}, {"threads": 2}], ids=str)
def test_on_every_path_and_entry_point(options: dict[str, Any], follow: Any, plant: Any) -> None:
    """The short cut and the full path; loss, gradient and both; softmax as a gradient, logsumexp as a loss."""
    recorders = {name: plant(Recorder(name)) for name in ("forward", "backward", "fused")}
    follow([cell(4, 10, {"numpy": 2.0, name: 1.0}, operation=name) for name in recorders])
    x, y = _logits(4, 10), np.zeros(4, int)
    threads = {key: value for key, value in options.items() if key == "threads"}
    for function, arguments, given, runs in (
        (sce.cross_entropy, (x, y), options, "forward"),
        (sce.cross_entropy_grad, (x, y), options, "backward"),
        (sce.cross_entropy_with_grad, (x, y), options, "fused"),
        (sce.softmax, (x,), threads, "backward"),
        (sce.logsumexp, (x,), threads, "forward"),
        (sce.log_softmax, (x,), threads, "forward"),
    ):
        function(*arguments, **given)
        assert [name for name, recorder in recorders.items() if recorder.shapes] == [runs]
        recorders[runs].shapes.clear()


def test_an_explicit_name_always_wins(follow: Any, plant: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = plant(Recorder())
    follow([cell(1, 10, {"numpy": 1.0})])
    monkeypatch.setenv(BACKEND, "numpy")
    sce.cross_entropy(_logits(1, 10), [0], backend="recorder")
    assert recorder.shapes == [(1, 10)]


def test_each_dtype_and_number_of_threads_has_its_own_cells(follow: Any, plant: Any) -> None:
    for name in ("one", "two", "doubles"):
        plant(Recorder(name))
    follow(
        [
            cell(1, 10, {"one": 1.0}, threads=1),
            cell(1, 10, {"two": 1.0}, threads=2),
            cell(1, 10, {"doubles": 1.0}, dtype="float64", threads=None),
        ]
    )
    assert [_chosen(threads=n) for n in (1, 2, 100)] == ["one", "two", "two"]
    assert [_chosen(dtype=dtype) for dtype in ("float64", ">f8", "int32", "uint8")] == ["doubles"] * 4
    assert [_chosen(dtype=dtype, threads=1) for dtype in ("float16", ">f4")] == ["one"] * 2


def test_a_dtype_without_cells_runs_on_the_default(follow: Any) -> None:
    follow([cell(1, 10, {"naive": 2.0, "numpy": 1.0})])
    assert (_chosen(), _chosen(dtype=np.float64)) == ("numpy", DEFAULT)


# ---- backends that cannot be what the profile says


def test_an_unstable_backend_never_runs(follow: Any, plant: Any) -> None:
    """Neither the project's own, nor one that turns out so when it is loaded: that is worth a warning."""
    plant(Recorder("wild", stable=False))
    follow([cell(1, 10, {"naive": 1.0, "wild": 2.0, "numpy": 3.0})])
    with pytest.warns(ProfileWarning, match=r"backend 'wild' is not stable. The next best runs instead"):
        assert _chosen() == "numpy"
    assert [_chosen() for _ in range(3)] == ["numpy"] * 3
    follow([cell(1, 10, {"naive": 1.0})])
    assert _chosen() == DEFAULT


def test_an_unavailable_winner_gives_way_to_the_next_best(follow: Any, plant: Any, monkeypatch: Any) -> None:
    plant(Recorder("second"))
    monkeypatch.setitem(registry._known(), "gone", contract.BackendInfo("gone", "no_such_module_anywhere"))
    cells = [cell(1, 10, {"gone": 1.0, "second": 2.0, "numpy": 3.0}), cell(1000, 10, {"gone": 1.0, "numpy": 3.0})]
    path = follow(cells)
    with pytest.warns(ProfileWarning, match="'gone' is not available: No module named") as caught:
        assert _chosen(1) == "second"
    assert len(caught) == 1
    assert str(caught[0].message).startswith(f"profile {path}: ")
    assert (_chosen(1), _chosen(1000)) == ("second", "numpy")
    monkeypatch.setenv(STRICT, "1")
    profile.reload()
    for _ in range(2):
        with pytest.raises(ProfileError, match="'gone' is not available"):
            _chosen(1)


def test_a_winner_is_loaded_only_where_it_wins(follow: Any, plant: Any, monkeypatch: Any) -> None:
    """Numba takes a second to import: a program whose shapes never need it does not wait for it."""
    monkeypatch.setitem(registry._known(), "heavy", contract.BackendInfo("heavy", "no_such_module_anywhere"))
    follow([cell(1, 10, {"numpy": 1.0, "heavy": 2.0}), cell(1000, 10, {"numpy": 2.0, "heavy": 1.0})])
    assert [_chosen(rows) for rows in (1, 1, 2)] == ["numpy"] * 3
    assert "heavy" not in registry._loaded
    with pytest.warns(ProfileWarning, match="heavy"):
        assert _chosen(1000) == "numpy"
    registry._loaded.pop("heavy")


def test_a_backend_for_one_dtype_alone(follow: Any, plant: Any) -> None:
    plant(Recorder("single", dtypes=("float32",)))
    follow([cell(1, 10, {"single": 1.0, "numpy": 2.0}, dtype=dtype) for dtype in ("float32", "float64")])
    assert _chosen() == "single"
    with pytest.warns(ProfileWarning, match="does not compute float64"):
        assert _chosen(dtype=np.float64) == "numpy"
    assert _chosen() == "single"


# ---- files that cannot be followed


@pytest.mark.parametrize("name", [*HOSTILE, "names that are no backends"])
def test_a_hostile_file_is_one_warning_and_the_default(name: str, follow: Any) -> None:
    content, reason = HOSTILE.get(name, ([cell(1, 10, {"os.system": 1.0})], "it names 'os.system'"))
    path = follow(content)
    with pytest.warns(ProfileWarning, match=reason) as caught:
        loss = sce.cross_entropy(np.zeros((2, 4)), [0, 3])
    assert abs(float(loss) - np.log(4)) < 1e-15
    (warning,) = caught
    assert str(warning.message).startswith(f"profile {path}: ")
    assert str(warning.message).endswith(f". Calls run on {DEFAULT!r}, the default")
    assert warning.filename == __file__, "the warning is shown where the package was called"
    for _ in range(3):
        assert _chosen() == DEFAULT  # a second warning would be an error here


def test_whatever_else_goes_wrong_is_a_warning_too(follow: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    path = follow([cell(1, 10, {"numpy": 1.0})])

    def broken() -> Any:
        raise MemoryError("no room")

    monkeypatch.setattr(fingerprint, "collect", broken)
    with pytest.warns(ProfileWarning, match="MemoryError: no room") as caught:
        assert _chosen() == DEFAULT
    assert str(path) in str(caught[0].message)


def test_a_missing_file_is_told_if_it_was_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert _chosen() == DEFAULT  # no profile was ever made: nothing to say
    monkeypatch.setenv(PROFILE, str(tmp_path / "none.json"))
    profile.reload()
    with pytest.warns(ProfileWarning, match="none.json: it cannot be read: No such file"):
        assert _chosen() == DEFAULT


@pytest.mark.parametrize("field", [field for field in fingerprint.collect() if field != "cpus_available"])
def test_a_profile_from_elsewhere_is_named_with_the_field(field: str, follow: Any, monkeypatch: Any) -> None:
    here: Any = fingerprint.collect()
    changed: Any = here[field]
    if isinstance(changed, dict):
        changed = {**changed, "SOFTMAX_CE_ISA": "mmx"}
    elif isinstance(changed, list):
        changed = [*changed, "avx1024"]
    elif isinstance(changed, int):
        changed += 1
    else:
        changed = f"{changed} of another machine"
    path = follow([cell(1, 10, {"naive": 2.0, "numpy": 1.0})], fingerprint=here | {field: changed})
    with pytest.warns(
        ProfileWarning, match=f"another machine or build: {field} is .* here and .* in the prof"
    ) as caught:
        assert [_chosen() for _ in range(5)] == [DEFAULT] * 5
    assert len(caught) == 1
    assert str(path) in str(caught[0].message)
    monkeypatch.setenv(STRICT, "1")
    profile.reload()
    for _ in range(2):
        with pytest.raises(ProfileError, match=f"{field} is"):
            _chosen()


@pytest.mark.parametrize("measured_on", [1, 2, 8])
def test_a_worker_that_may_use_other_cpus_follows_the_profile(
    measured_on: int, follow: Any, plant: Any, monkeypatch: Any
) -> None:
    """Cells of an automatic number of threads count as the CPUs they were measured on; the nearest by ratio serve."""
    for name in ("one", "all"):
        plant(Recorder(name))
    cells = [cell(1, 10, {"one": 1.0}, threads=1), cell(1, 10, {"all": 1.0}, threads=None)]
    fits = {**fingerprint.collect(), "cpus_available": measured_on}
    for cpus in (1, 2, 3, 64):
        monkeypatch.setattr(threads, "available_cpus", lambda cpus=cpus: cpus)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            follow(cells, fingerprint=fits)
            nearest = "one" if cpus * cpus <= measured_on and measured_on > 1 else "all"
            assert (_chosen(), _chosen(threads=1)) == (nearest, "one")
            why = sce.explain(_logits(1, 10), [0]).reason
        if nearest == "all" and cpus != measured_on:
            on = "1 thread" if measured_on == 1 else f"{measured_on} threads"
            here = "1 thread" if cpus == 1 else f"{cpus} threads"
            assert f"measured on {on}, the nearest to the {here} of this call" in why
        else:
            assert ("measured on" in why) == (nearest == "one" and cpus != 1)


def test_a_profile_of_two_cpus_is_followed_with_one() -> None:
    code = """
import os, sys, tempfile, warnings
import numpy as np
import profiles, softmax_ce as sce
from softmax_ce import profile
from softmax_ce.choice import fingerprint
warnings.simplefilter("error")
path = tempfile.mkstemp()[1]
there = {**fingerprint.collect(), "cpus_available": 2}
cells = [profiles.cell(1, 10, {"naive": 2.0, "numpy": 1.0}, threads=None)]
profile.save(profiles.profile(cells, fingerprint=there), path)
os.environ["SOFTMAX_CE_PROFILE"] = path
answer = sce.explain(np.zeros((1, 10), np.float32), [0])
print(answer.source, answer.backend)
os.unlink(path)
"""
    code = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n{code}"
    assert run_python(code, OMP_NUM_THREADS="1").split() == ["profile", "numpy"]


def test_every_differing_field_is_named(follow: Any) -> None:
    follow(
        [cell(1, 10, {"numpy": 1.0})], fingerprint=fingerprint.collect() | {"cpu": "Z80", "os": "CP/M", "numpy": "0"}
    )
    with pytest.warns(ProfileWarning, match=r"cpu is .*; these differ too: os, numpy"):
        _chosen()


def test_strict_mode(follow: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(STRICT, "1")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    for _ in range(2):
        with pytest.raises(ProfileError, match=r"STRICT requires a profile, and there is none: none at .*profile.json"):
            _chosen()
    follow(b"{}")
    with pytest.raises(ProfileError, match="lacks 'schema'"):
        _chosen()
    follow([cell(1, 10, {"numpy": 1.0})])
    assert _chosen() == "numpy"
    monkeypatch.setenv(STRICT, "0")
    follow(b"{}")
    with pytest.warns(ProfileWarning):
        assert _chosen() == DEFAULT


def test_a_filter_that_makes_errors_of_warnings_does_so_once(follow: Any) -> None:
    follow(b"{}")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ProfileWarning):
            _chosen()
        assert _chosen() == DEFAULT


# ---- variables


def test_the_backend_variable(follow: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    follow([cell(1, 10, {"naive": 2.0, "numba": 1.0})])
    monkeypatch.setenv(BACKEND, "naive")
    profile.reload()
    assert _chosen() == "naive", "an explicit request, like backend='naive'"
    monkeypatch.setenv(BACKEND, "cuda")
    assert _chosen() == "naive", "read once"
    profile.reload()
    for _ in range(2):
        with pytest.raises(ValueError, match="environment variable SOFTMAX_CE_BACKEND: unknown backend 'cuda'; known"):
            _chosen()
    monkeypatch.setitem(registry._known(), "gone", contract.BackendInfo("gone", "no_such_module_anywhere"))
    monkeypatch.setenv(BACKEND, "gone")
    with pytest.raises(sce.BackendUnavailableError, match="SOFTMAX_CE_BACKEND: backend 'gone' is not available"):
        _chosen()
    monkeypatch.setenv(BACKEND, "")
    monkeypatch.setenv(PROFILE, "")
    assert _chosen() == DEFAULT, "empty is unset"


def test_in_a_fresh_process(tmp_path: Path) -> None:
    """The order of precedence, and that a profile in the user's folder is found."""
    code = """
import warnings
warnings.simplefilter("error")
import numpy as np, softmax_ce as sce
x = np.zeros((1, 10), "f")
print(sce.explain(x, [0]).backend, sce.explain(x, [0], backend="naive").backend)
"""
    own, named = tmp_path / "softmax_ce" / "profile.json", tmp_path / "named.json"
    own.parent.mkdir()
    home = {"XDG_DATA_HOME": str(tmp_path)}
    assert run_python(code, **home).split() == [DEFAULT, "naive"]
    profile.save(profiles.profile([cell(1, 10, {"numpy": 1.0})]), own)
    profile.save(profiles.profile([cell(1, 10, {DEFAULT: 1.0, "naive": 2.0})]), named)
    if sys.platform != "win32":
        assert run_python(code, **home).split() == ["numpy", "naive"]
    assert run_python(code, **home, **{PROFILE: str(named)}).split() == [DEFAULT, "naive"]
    assert run_python(code, **home, **{PROFILE: str(named), BACKEND: "numpy"}).split() == ["numpy", "naive"]


def test_importing_and_naming_a_backend_read_nothing(tmp_path: Path) -> None:
    """A profile that would warn is not looked at before a call that names no backend."""
    bad = tmp_path / "bad.json"
    bad.write_text("{")
    code = """
import sys, warnings
warnings.simplefilter("error")
import numpy as np, softmax_ce as sce
sce.cross_entropy(np.zeros((1, 10)), [0], backend="numpy")
late = ("softmax_ce.profile", "softmax_ce.choice.profile", "softmax_ce.choice.fingerprint", "json")
print([name for name in sys.modules if name.startswith(late)])
try:
    sce.cross_entropy(np.zeros((1, 10)), [0])
except UserWarning as warning:
    print(type(warning).__name__)
print(float(sce.cross_entropy(np.zeros((1, 10)), [0])))
"""
    modules, warned, loss = run_python(code, **{PROFILE: str(bad)}).splitlines()
    assert (modules, warned) == ("[]", "ProfileWarning")
    assert abs(float(loss) - np.log(10)) < 1e-15


# ---- threads and processes


def test_many_threads_warn_once_and_agree(follow: Any, plant: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """All at once at the first call: one reading, one warning, one answer."""
    monkeypatch.setitem(registry._known(), "gone", contract.BackendInfo("gone", "no_such_module_anywhere"))
    loads = []
    real = profile.load

    def load(path: Any) -> Any:
        loads.append(path)
        return real(path)

    monkeypatch.setattr(profile_file, "load", load)
    for content, expected in ((b"{}", DEFAULT), ([cell(1, 10, {"gone": 1.0, "naive": 3.0, "numpy": 2.0})], "numpy")):
        follow(content)
        loads.clear()
        barrier = threading.Barrier(16)
        found: list[str] = []

        def work(barrier: Any = barrier, found: Any = found) -> None:
            barrier.wait()
            found.extend(_chosen(rows) for rows in (1, 100, 1))

        threads = [threading.Thread(target=work) for _ in range(16)]
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert {warning.category for warning in caught} == {ProfileWarning}
        assert found == [expected] * 48
        assert (len(loads), len(caught)) == (1, 1)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_child_forked_while_the_profile_is_read(tmp_path: Path) -> None:
    """The lock that a thread of the parent holds at that moment does not exist for the child."""
    path = tmp_path / "profile.json"
    profile.save(profiles.profile([cell(1, 10, {"naive": 2.0, "numpy": 1.0})]), path)
    code = """
import os, threading
import numpy as np, softmax_ce as sce
from softmax_ce.choice.profile import format as profile
reading, go = threading.Event(), threading.Event()
real = profile.load
def slow(path):
    reading.set()
    go.wait()
    return real(path)
profile.load = slow
x = np.zeros((1, 10), "f")
thread = threading.Thread(target=lambda: sce.cross_entropy(x, [0]))
thread.start()
reading.wait()
child = os.fork()
if child == 0:
    profile.load = real
    os._exit(7 if sce.explain(x, [0]).backend == "numpy" else 1)
go.set()
thread.join()
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), sce.explain(x, [0]).backend)
"""
    assert run_python(code, **{PROFILE: str(path)}).split() == ["7", "numpy"]


def test_any_number_of_threads_may_be_named(follow: Any) -> None:
    """The memory of kinds of calls stays bounded."""
    follow(grid((1, 64), (10,), {"naive": CROSSING["cython"], "numpy": CROSSING["numpy"]}))
    assert {_chosen(threads=n) for n in range(1, 3000)} == {"numpy"}
    follower = auto.decide().follower
    assert follower is not None
    assert len(follower._by_kind) <= 1000
    assert len(follower._by_key) == 1


def test_a_call_is_looked_up_by_its_checked_arguments(follow: Any) -> None:
    """The shape is that of the class axis, and what is no number of threads is an error of the call's own."""
    follow([cell(10, 5000, {"numpy": 1.0, DEFAULT: 2.0}), cell(5000, 10, {"numpy": 2.0, DEFAULT: 1.0})])
    x = np.zeros((1, 10, 5000), np.float32)
    assert auto.at_once(None, True, True, x, -1, None) is registry.get_backend("numpy")
    assert auto.at_once(None, True, True, x, 2, 1) is registry.get_backend("numpy")
    for axis, given in ((1, None), (-2, None), ("1", None), (-1, [1]), (-1, "2"), (-1, 1.5), (-1, 0)):
        assert auto.at_once(None, True, True, x, axis, given) is None
    assert sce.explain(x, np.zeros((1, 5000), int), axis=1).backend == DEFAULT
    for given in ([1], "2"):
        with pytest.raises(TypeError, match="threads"):
            sce.cross_entropy(x[0], np.zeros(10, int), threads=given)  # type: ignore[call-overload]
    if np.dtype(np.longdouble).itemsize > 8:
        with pytest.raises(TypeError, match="x of dtype"):
            sce.softmax(np.zeros((2, 2), np.longdouble))
