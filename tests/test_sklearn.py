"""scikit-learn with our loss: the same models, and scikit-learn's own tests of the loss."""

from __future__ import annotations

import os
import pickle
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import softmax_ce as sce
from boosting import digits

sklearn = pytest.importorskip("sklearn", reason="scikit-learn is not installed")

from sklearn.base import clone  # noqa: E402
from sklearn.ensemble import HistGradientBoostingClassifier  # noqa: E402

from softmax_ce.sklearn import HalfMultinomialLoss  # noqa: E402

PLUGIN = """
import sklearn._loss.loss as module
from softmax_ce import sklearn as ours

calls = 0

class HalfMultinomialLoss(ours.HalfMultinomialLoss):
    def __init__(self, *args, **options):
        global calls
        calls += 1
        super().__init__(*args, **options)

module.HalfMultinomialLoss = module._LOSSES["multinomial_loss"] = HalfMultinomialLoss

def pytest_terminal_summary(terminalreporter):
    terminalreporter.write_line(f"{calls} losses of ours")
"""


def test_scikit_learn_s_own_tests_of_the_loss(tmp_path: Path) -> None:
    """They run unchanged, in a process where its multinomial loss is ours."""
    pytest.importorskip("sklearn._loss.tests.test_loss", reason="this scikit-learn comes without its tests")
    (tmp_path / "with_our_loss.py").write_text(PLUGIN)
    path = os.pathsep.join([str(tmp_path), *sys.path])
    command = [
        sys.executable, "-m", "pytest", "-c", os.devnull, "--rootdir", str(tmp_path), "-p", "no:cacheprovider", "-q",
        "-p", "with_our_loss", "--pyargs", "sklearn._loss.tests.test_loss", "-k", "multinomial and not array_api",
    ]  # fmt: skip
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=300, cwd=tmp_path, env={**os.environ, "PYTHONPATH": path}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    counts = re.search(r"^(\d+) passed, \d+ deselected", done.stdout, re.MULTILINE)
    assert counts, done.stdout
    assert int(counts[1]) > 100
    losses = re.search(r"(\d+) losses of ours", done.stdout)
    assert losses
    assert int(losses[1]) > 100


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("stop_early", [False, True])
def test_the_classifier_is_the_one_with_scikit_learn_s_loss(weighted: bool, stop_early: bool) -> None:
    X, y, weight = digits()
    settings: dict[str, Any] = {"max_iter": 4, "random_state": 0, "early_stopping": stop_early}
    given = {"sample_weight": weight if weighted else None}
    own = HistGradientBoostingClassifier(**settings).fit(X, y, **given)
    ours = clone(HistGradientBoostingClassifier(loss=HalfMultinomialLoss(n_classes=10), **settings)).fit(X, y, **given)
    assert ours.n_iter_ == own.n_iter_
    np.testing.assert_allclose(ours.predict_proba(X), own.predict_proba(X), atol=1e-5)
    np.testing.assert_allclose(ours.validation_score_, own.validation_score_, rtol=1e-6)
    again = pickle.loads(pickle.dumps(ours))
    np.testing.assert_array_equal(again.predict_proba(X), ours.predict_proba(X))


@pytest.mark.parametrize("backend", [info.name for info in sce.backends() if info.available and info.stable])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("out_dtype", [np.float32, np.float64])
def test_every_method_gives_scikit_learn_s_numbers(backend: str, order: Any, dtype: Any, out_dtype: Any) -> None:
    rng = np.random.default_rng(4)
    raw = np.asarray(3 * rng.standard_normal((50, 6)), dtype, order=order)
    y, weight = rng.integers(0, 6, 50).astype(dtype), rng.uniform(0, 2, 50).astype(dtype)
    own, ours = sklearn._loss.HalfMultinomialLoss(n_classes=6), HalfMultinomialLoss(n_classes=6, backend=backend)
    tolerance = 1e-5 if np.float32 in (dtype, out_dtype) else 1e-13
    results = []
    for loss in (own, ours):
        out = np.empty(50, out_dtype)
        grad, hess, other = (np.empty((50, 6), out_dtype, order=order) for _ in range(3))
        loss.loss(y, raw, weight, loss_out=out)
        first = out.copy()
        loss.loss_gradient(y, raw, weight, loss_out=out, gradient_out=other)
        loss.gradient_hessian(y, raw, weight, gradient_out=grad, hessian_out=hess, n_threads=2)
        results.append((first, out, other, grad, hess, loss.gradient(y, raw, None), loss(y, raw, weight)))
    for one, another in zip(*results, strict=True):
        np.testing.assert_allclose(another, one, rtol=tolerance, atol=tolerance)


def test_small_losses_keep_their_digits() -> None:
    raw, y = np.array([[0.0, -40.0]]), np.array([0.0])
    assert HalfMultinomialLoss(n_classes=2).loss(y, raw)[0] == pytest.approx(4.248354255291589e-18, rel=1e-14, abs=0)


@pytest.mark.parametrize("label", [-1.0, 3.0, -100.0])
def test_a_label_that_is_no_class(label: float) -> None:
    raw, y = np.zeros((2, 3)), np.array([0.0, label])
    with pytest.raises(IndexError, match=rf"target {label:.0f} at position 1 is outside \[0, 3\)"):
        HalfMultinomialLoss().gradient(y, raw)
