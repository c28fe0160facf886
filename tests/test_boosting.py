"""What holds of the objectives for XGBoost and LightGBM alike, and of every integration whose library is missing."""

from __future__ import annotations

import doctest
import importlib
import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers import run_python

GUIDES = Path(__file__).resolve().parents[1] / "docs" / "how-to"
LIBRARIES = {"xgboost": "XGBoost", "lightgbm": "LightGBM", "sklearn": "scikit-learn"}


def installed(*libraries: str) -> None:
    for library in libraries:
        if importlib.util.find_spec(library) is None:
            pytest.skip(f"{library} is not installed")


@pytest.fixture(params=["xgboost", "lightgbm"])
def module(request: pytest.FixtureRequest) -> Any:
    """Each module with an objective and a metric."""
    installed(request.param)
    return importlib.import_module(f"softmax_ce.{request.param}")


@pytest.mark.parametrize("name", LIBRARIES)
def test_a_missing_library_is_named_with_the_way_to_get_it(name: str) -> None:
    code = f"""
import sys
sys.modules[{name!r}] = None
import softmax_ce
try:
    import softmax_ce.{name}
except ModuleNotFoundError as error:
    print(error)
"""
    assert run_python(code) == f"softmax_ce.{name} needs {LIBRARIES[name]}: pip install 'softmax-ce[{name}]'\n"


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"n_classes": 1}, ValueError, "n_classes must be at least 2, got 1"),
        ({"n_classes": 2.5}, TypeError, "n_classes must be an integer, got 2.5"),
        (
            {"hessian": "exact"},
            ValueError,
            "hessian='exact' is not known; allowed: 'library', 'diagonal', 'upper'",
        ),
        ({"label_smoothing": 1.5}, ValueError, r"label_smoothing must be in \[0, 1\], got 1.5"),
        ({"weight": np.ones(3)}, ValueError, r"weight must have shape \(4,\), got \(3,\)"),
        ({"weight": [1, 1, np.inf, 1]}, ValueError, "weight must be finite; entry 2 is inf"),
        ({"soft_targets": np.ones((5, 3))}, ValueError, r"soft_targets must have shape \(rows, 4\), got \(5, 3\)"),
        ({"soft_targets": np.full((5, 4), "x")}, TypeError, "soft_targets must be real numbers, got dtype <U1"),
        ({"threads": 0}, ValueError, "threads must be None or at least 1, got 0"),
    ],
)
def test_bad_options_are_refused_at_once(module: Any, options: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=f"^{message}"):
        module.objective(**({"n_classes": 4} | options))


def test_an_unknown_metric(module: Any) -> None:
    with pytest.raises(ValueError, match=r"^kind='auc' is not known; allowed: 'mlogloss', 'error'$"):
        module.metric(4, "auc")


@pytest.mark.parametrize(
    ("labels", "error", "message"),
    [
        ([0.0, 1.0, 2.5], ValueError, "label 2.5 of row 2 is not an integer; soft labels go into soft_targets"),
        ([0.0, np.nan, 1.0], ValueError, "label nan of row 1 is not an integer"),
        ([0.0, np.inf, 1.0], ValueError, "label inf of row 1 is not an integer"),
        ([0.0, 1.0, 4.0], IndexError, r"label 4 of row 2 is outside \[0, 4\)"),
        ([-100.0, 1.0, 4.0], IndexError, r"label -100 of row 0 is outside \[0, 4\)"),
        ([0.0, 1.0], ValueError, r"the data has labels of shape \(2,\) and not \(3,\), one for each row"),
        (None, ValueError, r"the data has labels of shape \(0,\) and not \(3,\)"),
    ],
)
def test_bad_labels(module: Any, labels: Any, error: Any, message: str) -> None:
    scores = np.zeros((3, 4), np.float32)
    labels = labels if labels is None else np.array(labels, np.float32)
    for function in (module.objective(4), module.metric(4), module.metric(4, "error")):
        with pytest.raises(error, match=f"^{message}"):
            function(labels, scores)


@pytest.mark.parametrize("shape", [(12,), (4, 3), (3, 5), (3, 4, 1)])
def test_scores_of_a_wrong_shape(module: Any, shape: tuple[int, ...]) -> None:
    for function in (module.objective(4), module.metric(4)):
        with pytest.raises(
            ValueError, match=rf"^the scores have shape {re.escape(str(shape))} and not \(rows, 4\): set"
        ):
            function(np.zeros(3), np.zeros(shape, np.float32))


def test_soft_targets_of_other_rows(module: Any) -> None:
    objective = module.objective(4, soft_targets=np.full((5, 4), 0.25))
    with pytest.raises(ValueError, match=r"^soft_targets have 5 rows and the data has 3: cross-validation and subsets"):
        objective(np.zeros(3), np.zeros((3, 4), np.float32))


def test_soft_targets_are_copied(module: Any) -> None:
    targets = np.eye(3)
    objective = module.objective(3, "diagonal", soft_targets=targets)
    targets[:] = 7.0
    grad, hess = objective(None, np.zeros((3, 3), np.float32))
    np.testing.assert_allclose(grad, 1 / 3 - np.eye(3), rtol=1e-6)
    np.testing.assert_allclose(hess, 2 / 9, rtol=1e-6)


def test_confident_rows_keep_their_hessian(module: Any) -> None:
    """1 - p is not computed from p, which rounds to 1."""
    scores = np.array([[0.0, -30.0, -40.0]], np.float32)
    _, hess = module.objective(3, "diagonal")(np.array([0]), scores)
    others = np.exp([-30.0, -40.0])
    np.testing.assert_allclose(hess[0], [others.sum(), *others], rtol=1e-5)


# The guides, and the examples in docstrings


@pytest.mark.filterwarnings("default")  # the libraries' own
@pytest.mark.parametrize("name", LIBRARIES)
def test_the_examples_in_docstrings(name: str) -> None:
    installed(name)
    failed, tried = doctest.testmod(importlib.import_module(f"softmax_ce.{name}"))
    assert tried > 0
    assert failed == 0


@pytest.mark.filterwarnings("default")  # the libraries' own
@pytest.mark.parametrize(
    ("guide", "needed"),
    [("xgboost", ("xgboost", "sklearn")), ("lightgbm", ("lightgbm", "sklearn")), ("scikit-learn", ("sklearn",))],
)
def test_what_a_guide_shows(guide: str, needed: tuple[str, ...]) -> None:
    installed(*needed)
    text = (GUIDES / f"{guide}.md").read_text(encoding="utf-8")
    code = "\n".join(re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE))
    assert f"softmax_ce.{needed[0]}" in code
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
