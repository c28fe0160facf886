"""Environment variables: empty means unset, case does not matter, and what cannot be is said by the variable's name."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest

import softmax_ce as sce
from helpers import run_python
from softmax_ce import folders, profile, registry, tuning, variables
from softmax_ce.choice import auto
from softmax_ce.choice.profile import where

LOSS = """
import warnings, numpy as np, softmax_ce as sce
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    from softmax_ce import registry
    available = registry.is_available("cython")
    loss = sce.cross_entropy(np.array([[1.0, 2.0, 3.0]]), [0])
print(available, f"{loss:.4f}", *(str(one.message) for one in caught), sep="|")
"""


@pytest.fixture(autouse=True)
def _forget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(variables, "_complained", set())


@pytest.mark.parametrize(
    ("text", "number"), [("0", 0), ("12", 12), (" 7 ", 7), ("+3", 3), ("9" * 400, 1 << 58), ("9" * 5000, 1 << 58)]
)
def test_a_whole_number(text: str, number: int) -> None:
    assert variables.whole_number("NAME", text, "no") == number


@pytest.mark.parametrize("text", ["2MiB", "-1", "1e6", "\u00b2", "\u0663", "1_000", "0x10", "x" * 5000])
def test_what_is_no_number_is_one_warning_that_names_it(text: str) -> None:
    with pytest.warns(RuntimeWarning, match=r"^NAME='.{1,80}' is not a whole number; the default is used$") as caught:
        assert [variables.whole_number("NAME", text, "the default is used") for _ in range(3)] == [None] * 3
    assert len(caught) == 1


def test_a_warning_that_is_an_error_is_raised_once() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(RuntimeWarning):
            variables.whole_number("NAME", "x", "no")
        assert variables.whole_number("NAME", "x", "no") is None


@pytest.mark.parametrize(("text", "asked"), [("", None), (" ", None), ("0", 1), ("4096", 4096)])
def test_the_size_to_stream_from(text: str, asked: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOFTMAX_CE_STREAM_BYTES", text)
    assert tuning.stream_bytes_asked_for() == asked


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("SOFTMAX_CE_STREAM_BYTES", ""),
        ("SOFTMAX_CE_STREAM_BYTES", "9" * 40),
        ("SOFTMAX_CE_SERIAL_ELEMENTS", ""),
        ("SOFTMAX_CE_ISA", ""),
        ("SOFTMAX_CE_ISA", "BASELINE"),
        ("SOFTMAX_CE_BACKEND", ""),
        ("SOFTMAX_CE_BACKEND", " NumPy"),
        ("SOFTMAX_CE_PROFILE", ""),
        ("SOFTMAX_CE_PROFILE_STRICT", ""),
    ],
)
def test_an_empty_variable_and_one_in_capitals_leave_everything_as_it_is(variable: str, text: str) -> None:
    usual = str(registry.is_available("cython"))
    assert run_python(LOSS, **{variable: text}).strip() == f"{usual}|2.4076"


@pytest.mark.parametrize("variable", ["SOFTMAX_CE_STREAM_BYTES", "SOFTMAX_CE_SERIAL_ELEMENTS"])
def test_a_bad_value_for_tuning_costs_no_backend(variable: str) -> None:
    code = LOSS.replace(", softmax_ce as sce", "").replace("    from", "    import softmax_ce as sce\n    from")
    usual = registry.is_available("cython")
    said = run_python(code, **{variable: "2MiB"}).strip().split("|")
    assert said[:2] == [str(usual), "2.4076"]
    if usual or variable.endswith("ELEMENTS"):
        assert len(said) == 3
        assert said[2].startswith(f"{variable}='2mib' is not a whole number; ")


@pytest.mark.usefixtures("forget")
@pytest.mark.parametrize("text", ["numpy", "NUMPY", " NumPy "])
def test_a_backend_is_named_in_any_case(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(where.BACKEND_VARIABLE, text)
    profile.reload()
    assert auto.decide().backend is sce.get_backend("numpy")
    monkeypatch.setenv(where.BACKEND_VARIABLE, "nunpy")
    profile.reload()
    with pytest.raises(ValueError, match="SOFTMAX_CE_BACKEND: unknown backend 'nunpy'"):
        auto.decide()


@pytest.mark.parametrize(("text", "strict"), [("", False), ("0", False), ("No", False), ("FALSE", False), ("1", True)])
def test_strict(text: str, strict: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(where.STRICT_VARIABLE, text)
    assert where.is_strict() is strict


def test_without_compilation_numba_is_not_available_and_all_else_goes_on() -> None:
    code = """
import numpy as np, softmax_ce as sce
info = {info.name: info for info in sce.backends()}
print(info["numba"].available, info["numba"].why_unavailable, info["numpy"].available, sep="|")
print(f"{sce.cross_entropy(np.array([[1.0, 2.0, 3.0]]), [0]):.4f}")
"""
    pytest.importorskip("numba")
    facts, loss = run_python(code, NUMBA_DISABLE_JIT="1").split("\n", 1)
    available, why, numpy_too = facts.split("|")
    assert (available, numpy_too, loss.strip()) == ("False", "True", "2.4076")
    assert why.startswith("NUMBA_DISABLE_JIT is set")


# ---- folders


@pytest.mark.parametrize("kind", ["data", "cache"])
@pytest.mark.parametrize("platform", ["linux", "darwin"])
def test_a_relative_folder_counts_as_unset(kind: str, platform: str) -> None:
    folder: Any = {"data": folders.data_folder, "cache": folders.cache_folder}[kind]
    variable = f"XDG_{kind.upper()}_HOME"
    for given in ("relative", "./x", "", "~"):
        assert folder(platform, {variable: given}) == folder(platform, {})
    assert folder(platform, {variable: "/mine"}) == Path("/mine")


@pytest.mark.parametrize("home", ["", "relative"])
def test_a_home_that_is_none_is_the_one_of_the_user_database(home: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pwd = pytest.importorskip("pwd")
    monkeypatch.setenv("HOME", home)
    monkeypatch.setattr(pwd, "getpwuid", lambda _: pwd.struct_passwd(("u", "x", 1, 1, "", "/there", "")))
    assert folders.cache_folder("linux", {}) == Path("/there/.cache")
    assert folders.data_folder("linux", {}) == Path("/there/.local/share")

    def unknown(_: int) -> Any:
        raise KeyError("getpwuid(): uid not found")

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    assert folders.cache_folder("linux", {}) is None
