"""XGBoost with our objective and metric: the same models as with its own, and what its own cannot do."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest

from boosting import case, digits, expected

xgb = pytest.importorskip("xgboost", reason="XGBoost is not installed")
base = pytest.importorskip("sklearn.base", reason="scikit-learn is not installed")

from softmax_ce.xgboost import metric, objective  # noqa: E402

# With a custom objective, XGBoost starts from base_score; its own objective would start from the classes' frequencies.
PARAMS = {"objective": "multi:softprob", "num_class": 10, "base_score": 0.5, "max_depth": 4, "nthread": 2}
ROUNDS = 50


@pytest.fixture(scope="module")
def data() -> tuple[Any, Any, Any]:
    return digits()


NEWTON = {"learning_rate": 1.0, "reg_lambda": 0.0, "min_child_weight": 0.0}  # a leaf of one row has the value -g/h


def leaf(margin: Any, label: Any) -> Any:
    """The leaf of each class after one round of the library's own objective, for a single row."""
    row = xgb.DMatrix(np.zeros((1, 1)), [label], base_margin=margin[None])
    model = xgb.train(PARAMS | NEWTON | {"num_class": len(margin)}, row, 1)
    return model.predict(row, output_margin=True)[0].astype(np.float64) - margin


def test_the_installed_library_s_own_hessian() -> None:
    """If this fails for a new version, `library_factor` must follow it."""
    rng = np.random.default_rng(2)
    margins, labels = rng.standard_normal((20, 4)).astype(np.float32), rng.integers(0, 4, 20)
    grad, hess = objective(4)(labels, margins)
    leaves = np.array([leaf(margin, label) for margin, label in zip(margins, labels, strict=True)])
    np.testing.assert_allclose(-grad / leaves, hess, rtol=1e-4)


def test_the_least_hessian_is_the_library_s() -> None:
    margin = np.array([[0.0, -42.0, -60.0]], np.float32)
    grad, hess = objective(3)(np.array([0]), margin)
    assert hess[0, 1:].tolist() == [np.float32(1e-16)] * 2
    _, exact = objective(3, hessian="upper")(np.array([0]), margin)
    np.testing.assert_allclose(exact[0, 1:], 2 * np.exp([-42.0, -60.0]), rtol=1e-5)
    np.testing.assert_allclose(leaf(margin[0], 0)[1], -grad[0, 1] / 1e-16, rtol=1e-3)


@pytest.mark.parametrize(("weighted", "margins"), [(False, False), (True, True)])
def test_the_model_is_the_built_in_objective_s(data: Any, weighted: bool, margins: bool) -> None:
    X, y, weight = data
    margin = np.random.default_rng(3).standard_normal((len(y), 10)) if margins else None
    train = xgb.DMatrix(X, y, weight=weight if weighted else None, base_margin=margin)
    own = xgb.train(PARAMS, train, ROUNDS).predict(train)
    ours = xgb.train(PARAMS, train, ROUNDS, obj=objective(10)).predict(train)
    np.testing.assert_allclose(ours, own, atol=1e-5)
    assert (ours.argmax(axis=1) == y)[weight > 0].mean() > 0.99


def test_the_classifier_is_the_built_in_objective_s(data: Any) -> None:
    X, y, weight = data
    margin = np.random.default_rng(3).standard_normal((len(y), 10))
    settings = {"n_estimators": ROUNDS, "max_depth": 4, "base_score": 0.5}
    own = xgb.XGBClassifier(**settings).fit(X, y, sample_weight=weight, base_margin=margin)
    ours = base.clone(xgb.XGBClassifier(objective=objective(10), **settings))
    ours.fit(X, y, sample_weight=weight, base_margin=margin)
    np.testing.assert_allclose(ours.predict_proba(X), own.predict_proba(X), atol=1e-5)
    np.testing.assert_array_equal(ours.predict(X), own.predict(X))
    again = pickle.loads(pickle.dumps(ours))
    np.testing.assert_array_equal(again.predict_proba(X), ours.predict_proba(X))
    assert repr(again.objective) == "softmax_ce.xgboost.objective(10, hessian='library')"


def test_arrays_have_the_shape_and_order_that_the_library_passes(data: Any) -> None:
    X, y, _ = data
    seen: list[Any] = []

    def look(scores: Any, dtrain: Any) -> Any:
        grad, hess = objective(10)(scores, dtrain)
        seen.extend((scores, grad, hess))
        return grad, hess

    xgb.train(PARAMS, xgb.DMatrix(X, y), 1, obj=look)
    for array in seen:
        assert array.dtype == np.float32
        assert array.shape == (len(y), 10)
        assert array.flags.c_contiguous


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("hessian", ["library", "diagonal", "upper", "residual"])
def test_gradient_and_hessian(hessian: Any, soft: bool, smoothing: float) -> None:
    scores, labels, targets, weight, sample_weight = case(np.float32, "C")
    ours = objective(7, hessian, smoothing, targets if soft else None, weight)
    grad, hess = ours(labels, scores, sample_weight=sample_weight)
    of_class = targets if soft else np.eye(7)[labels]
    right, diagonal = expected(scores, of_class, weight, sample_weight, smoothing)
    np.testing.assert_allclose(grad, right, rtol=1e-5, atol=2e-6)
    means = {"library": 2 * diagonal, "diagonal": diagonal, "upper": 2 * diagonal, "residual": np.abs(right)}
    np.testing.assert_allclose(hess, means[hessian], rtol=1e-5, atol=2e-6)


def test_upstream_s_own_objective_for_tests() -> None:
    testing = pytest.importorskip("xgboost.testing", reason="this XGBoost comes without its testing tools")
    scores, labels, *_ = case(np.float32, "C")
    grad, hess = testing.softprob_obj(7)(labels, scores)
    ours = objective(7)(labels, scores)
    np.testing.assert_allclose(ours[0], grad, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(np.maximum(ours[1], 1e-6), hess, rtol=1e-5, atol=1e-6)


def test_cross_validation(data: Any) -> None:
    X, y, weight = data
    train = xgb.DMatrix(X, y, weight=weight)
    settings = {"nfold": 3, "seed": 0, "as_pandas": False}
    log = xgb.cv(PARAMS, train, 3, obj=objective(10), custom_metric=metric(10), **settings)
    own = xgb.cv(PARAMS, train, 3, **settings)
    np.testing.assert_allclose(log["test-softmax_mlogloss-mean"], own["test-mlogloss-mean"], rtol=1e-5)


def test_soft_targets_replace_the_labels(data: Any) -> None:
    X, y, weight = data
    hard = xgb.DMatrix(X, y, weight=weight)
    smoothed = xgb.train(PARAMS, hard, 10, obj=objective(10, label_smoothing=0.1)).predict(hard)
    targets = 0.9 * np.eye(10)[y] + 0.01
    without = xgb.DMatrix(X, weight=weight)
    softly = xgb.train(PARAMS, without, 10, obj=objective(10, soft_targets=targets)).predict(hard)
    np.testing.assert_allclose(softly, smoothed, atol=1e-5)


@pytest.mark.parametrize("kind", ["mlogloss", "error"])
def test_the_metric_is_the_library_s(data: Any, kind: Any) -> None:
    X, y, weight = data
    train, held_out = xgb.DMatrix(X[::2], y[::2]), xgb.DMatrix(X[1::2], y[1::2], weight=weight[1::2])
    name = {"mlogloss": "mlogloss", "error": "merror"}[kind]
    log: dict[str, Any] = {}
    model = xgb.train(
        PARAMS | {"eval_metric": name}, train, 60, evals=[(held_out, "test")], obj=objective(10),
        custom_metric=metric(10, kind), early_stopping_rounds=5, evals_result=log, verbose_eval=False,
    )  # fmt: skip
    ours, own = log["test"][f"softmax_{kind}"], log["test"][name]
    np.testing.assert_allclose(ours, own, rtol=1e-5)
    assert model.best_iteration == int(np.argmin(ours))


def test_the_classifier_stops_early_with_the_metric(data: Any) -> None:
    X, y, weight = data
    settings = {"n_estimators": 200, "learning_rate": 1.0, "base_score": 0.5, "early_stopping_rounds": 3}
    fit = {
        "eval_set": [(X[1::2], y[1::2])], "sample_weight_eval_set": [weight[1::2]], "sample_weight": weight[::2],
        "verbose": False,
    }  # fmt: skip
    own = xgb.XGBClassifier(eval_metric="mlogloss", **settings).fit(X[::2], y[::2], **fit)
    ours = xgb.XGBClassifier(objective=objective(10), eval_metric=metric(10), **settings).fit(X[::2], y[::2], **fit)
    assert ours.best_iteration == own.best_iteration < 190
    values = ours.evals_result()["validation_0"]["softmax_mlogloss"]
    np.testing.assert_allclose(values, own.evals_result()["validation_0"]["mlogloss"], rtol=1e-4)


def test_training_without_num_class(data: Any) -> None:
    X, y, _ = data
    with pytest.raises(ValueError, match=r"the scores have shape \(1797,\) and not \(rows, 10\): set num_class=10"):
        xgb.train({}, xgb.DMatrix(X, y), 1, obj=objective(10))
    with pytest.raises(ValueError, match=r"shape \(1797, 10\) and not \(rows, 12\): set num_class=12"):
        xgb.train(PARAMS, xgb.DMatrix(X, y), 1, obj=objective(12))
    with pytest.raises(ValueError, match=r"shape \(1797,\) and not \(rows, 2\): .* if these are more than two"):
        xgb.XGBClassifier(objective=objective(2)).fit(X, y > 4)
    with pytest.raises(ValueError, match=r"shape \(1797, 10\) and not \(rows, 3\): set num_class=3"):
        xgb.train(PARAMS, train := xgb.DMatrix(X, y), 1, evals=[(train, "")], custom_metric=metric(3))


def test_training_with_bad_labels(data: Any) -> None:
    X, y, _ = data
    with pytest.raises(IndexError, match=r"^label 5 of row 5 is outside \[0, 5\)$"):
        objective(5)(y.astype(np.float32), np.zeros((len(y), 5), np.float32))
    with pytest.raises(ValueError, match=r"^the data has labels of shape \(0,\) and not \(1797,\), one for each row$"):
        xgb.train(PARAMS, xgb.DMatrix(X), 1, obj=objective(10))
