"""What holds of every public function's documentation, and of every dataclass of the package."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import pkgutil
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import softmax_ce as sce
from helpers import run_python
from softmax_ce import profile
from softmax_ce.fold import Factors
from softmax_ce.problem import Problem
from softmax_ce.run import Outputs

FUNCTIONS = [
    sce.cross_entropy, sce.cross_entropy_with_grad, sce.cross_entropy_grad, sce.cross_entropy_with_hessian,
    sce.kl_divergence, sce.kl_divergence_with_grad, sce.softmax, sce.log_softmax, sce.logsumexp, sce.explain,
    sce.get_backend, profile.load, profile.save,
]  # fmt: skip
# One a call, filled in or written to on the way.
CHANGING = {Problem, Factors, Outputs}


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.__name__)
def test_every_parameter_is_documented_once(function: Callable[..., Any]) -> None:
    text = inspect.getdoc(function) or ""
    section = re.search(r"^Parameters\n-+\n(.*?)\n\n[A-Z]\w+\n-+$", text, re.DOTALL | re.MULTILINE)
    assert section
    heads = re.findall(r"^([*\w, ]+)(?: : .+)?$", section[1], re.MULTILINE)
    named = [name.strip(" *") for head in heads if not head.startswith(" ") for name in head.split(",")]
    assert sorted(named) == sorted(inspect.signature(function).parameters)
    said = re.split(r"^[*\w, ]+(?: : .+)?\n(?= )", section[1] + "\n", flags=re.MULTILINE)[1:]
    assert [text for text in said if not text.endswith(".\n")] == []
    assert "{" not in re.sub(r'\{"[^}]*"\}', "", text)  # nothing of a template is left


def test_the_version_is_a_release_s() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+", sce.__version__)


def test_a_python_without_docstrings_has_none() -> None:
    assert run_python("import softmax_ce; print([softmax_ce.cross_entropy.__doc__])", PYTHONOPTIMIZE="2") == "[None]\n"


def dataclasses_of_the_package() -> Iterator[type]:
    for info in pkgutil.walk_packages(sce.__path__, "softmax_ce."):
        if "_backends" not in info.name:
            try:
                module = importlib.import_module(info.name)
            except ModuleNotFoundError:  # an integration whose library is not installed
                continue
            for value in vars(module).values():
                if dataclasses.is_dataclass(value) and isinstance(value, type) and value.__module__ == info.name:
                    yield value


def test_dataclasses_have_slots_and_cannot_be_changed() -> None:
    found = {kind: kind.__dataclass_params__.frozen for kind in dataclasses_of_the_package()}  # type: ignore[attr-defined]
    assert found == {kind: kind not in CHANGING for kind in found}
    assert set(found) > CHANGING
    assert [kind for kind in found if "__slots__" not in vars(kind)] == []


@pytest.mark.parametrize("kind", [profile.Measured, profile.Cell, profile.Profile])
def test_a_profile_s_parts_are_given_by_name(kind: Any) -> None:
    assert all(field.kw_only for field in dataclasses.fields(kind))
