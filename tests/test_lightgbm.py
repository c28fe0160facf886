"""LightGBM with our objective and metric: the same models as with its own, and what its own cannot do."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest

import softmax_ce as sce
from boosting import case, digits, expected

lgb = pytest.importorskip("lightgbm", reason="LightGBM is not installed")
base = pytest.importorskip("sklearn.base", reason="scikit-learn is not installed")

from softmax_ce.lightgbm import metric, objective  # noqa: E402

PARAMS = {"num_class": 10, "num_threads": 2, "verbose": -1, "num_leaves": 15}
OWN = PARAMS | {"objective": "multiclass", "boost_from_average": False}
ROUNDS = 50


@pytest.fixture(scope="module")
def data() -> tuple[Any, Any, Any]:
    return digits()


def test_the_installed_library_s_own_hessian() -> None:
    """If this fails for a new version, `library_factor` must follow it. A leaf of one row has the value -g/h."""
    rng = np.random.default_rng(2)
    margin, labels, weight = rng.standard_normal((20, 4)), rng.integers(0, 4, 20), rng.uniform(0.5, 2.0, 20)
    X = np.arange(20.0).reshape(20, 1)
    params = {
        "objective": "multiclass", "num_class": 4, "boost_from_average": False, "learning_rate": 1.0,
        "min_data_in_leaf": 1, "min_sum_hessian_in_leaf": 0.0, "num_leaves": 20, "min_data_in_bin": 1, "verbose": -1,
        "num_threads": 1,
    }  # fmt: skip
    own = lgb.train(params, lgb.Dataset(X, labels, weight=weight, init_score=margin), 1)
    leaves = own.predict(X, raw_score=True)
    grad, hess = objective(4)(labels, margin, weight)
    of_rows = own.predict(X, pred_leaf=True)
    alone = (of_rows[:, None] == of_rows[None]).sum(axis=1) == 1  # trees stop at splits that gain nothing
    assert alone.mean() > 0.5
    np.testing.assert_allclose((-grad / leaves)[alone], hess[alone], rtol=1e-4)


@pytest.mark.parametrize(("weighted", "margins"), [(False, False), (True, True)])
def test_the_model_is_the_built_in_objective_s(data: Any, weighted: bool, margins: bool) -> None:
    X, y, weight = data
    margin = np.random.default_rng(3).standard_normal((len(y), 10)) if margins else None

    def train() -> Any:
        return lgb.Dataset(X, y, weight=weight if weighted else None, init_score=margin)

    own = lgb.train(OWN, train(), ROUNDS).predict(X)
    ours = sce.softmax(lgb.train(PARAMS | {"objective": objective(10)}, train(), ROUNDS).predict(X))
    np.testing.assert_allclose(ours, own, atol=1e-5)
    if margin is None:
        assert (ours.argmax(axis=1) == y)[weight > 0].mean() > 0.99


def test_the_classifier_is_the_built_in_objective_s(data: Any) -> None:
    X, y, weight = data
    settings = {"n_estimators": ROUNDS, "num_leaves": 15, "verbose": -1}
    own = lgb.LGBMClassifier(boost_from_average=False, **settings).fit(X, y, sample_weight=weight)
    ours = base.clone(lgb.LGBMClassifier(objective=objective(10), **settings)).fit(X, y, sample_weight=weight)
    scores = ours.predict(X, raw_score=True)
    np.testing.assert_allclose(sce.softmax(scores), own.predict_proba(X), atol=1e-5)
    np.testing.assert_array_equal(ours.classes_[scores.argmax(axis=1)], own.predict(X))
    again = pickle.loads(pickle.dumps(ours))
    np.testing.assert_array_equal(again.predict(X, raw_score=True), scores)
    assert repr(again.objective) == "softmax_ce.lightgbm.objective(10, hessian='library')"


def test_arrays_have_the_shape_and_order_that_the_library_passes(data: Any) -> None:
    """LightGBM ravels gradients in Fortran order and casts them to float32: neither must copy."""
    X, y, _ = data
    seen: list[Any] = []

    def look(scores: Any, dataset: Any) -> Any:
        grad, hess = objective(10)(scores, dataset)
        seen.extend((scores, grad, hess))
        return grad, hess

    lgb.train(PARAMS | {"objective": look}, lgb.Dataset(X, y), 1)
    assert [array.dtype for array in seen] == [np.float64, np.float32, np.float32]
    for array in seen:
        assert array.shape == (len(y), 10)
        assert array.flags.f_contiguous
        assert np.shares_memory(array, array.ravel(order="F"))


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("hessian", ["library", "diagonal", "upper", "residual"])
def test_gradient_and_hessian(hessian: Any, soft: bool, smoothing: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("softmax_ce._boosting._BLOCK", 7 * 128)  # three blocks, the last one shorter
    scores, labels, targets, weight, sample_weight = case(np.float64, "F")
    ours = objective(7, hessian, smoothing, targets if soft else None, weight)
    grad, hess = ours(labels, scores, sample_weight)
    of_class = targets if soft else np.eye(7)[labels]
    right, diagonal = expected(scores, of_class, weight, sample_weight, smoothing)
    np.testing.assert_allclose(grad, right, rtol=1e-7, atol=1e-15)
    means = {"library": 7 / 6 * diagonal, "diagonal": diagonal, "upper": 2 * diagonal, "residual": np.abs(right)}
    np.testing.assert_allclose(hess, means[hessian], rtol=1e-7, atol=1e-15)


def test_soft_targets_replace_the_labels(data: Any) -> None:
    X, y, weight = data

    def scores(labels: Any, **options: Any) -> Any:
        train = lgb.Dataset(X, labels, weight=weight)
        return lgb.train(PARAMS | {"objective": objective(10, **options)}, train, 10).predict(X)

    smoothed = scores(y, label_smoothing=0.1)
    softly = scores(np.zeros(len(y)), soft_targets=0.9 * np.eye(10)[y] + 0.01)
    np.testing.assert_allclose(sce.softmax(softly), sce.softmax(smoothed), atol=1e-5)


@pytest.mark.parametrize("kind", ["mlogloss", "error"])
def test_the_metric_is_the_library_s(data: Any, kind: Any) -> None:
    """LightGBM's own error counts equal scores as wrong, which none are after the first round."""
    X, y, weight = data
    name = {"mlogloss": "multi_logloss", "error": "multi_error"}[kind]
    logs: list[dict[str, Any]] = []
    models = []
    for params, feval in ((OWN | {"metric": name}, None), (PARAMS | {"objective": objective(10)}, metric(10, kind))):
        train = lgb.Dataset(X[:900], y[:900])
        held_out = lgb.Dataset(X[900:], y[900:], weight=weight[900:].copy(), reference=train)
        log: dict[str, Any] = {}
        callbacks = [lgb.record_evaluation(log), lgb.early_stopping(5, verbose=False)]
        models.append(lgb.train(params, train, 60, valid_sets=[held_out], feval=feval, callbacks=callbacks))
        logs.append(log["valid_0"])
    np.testing.assert_allclose(logs[1][f"softmax_{kind}"], logs[0][name], rtol=1e-5)
    assert models[1].best_iteration == models[0].best_iteration


def test_the_classifier_stops_early_with_the_metric(data: Any) -> None:
    """With metric="None": LightGBM would add its own, which takes the scores for probabilities."""
    X, y, weight = data
    settings = {"n_estimators": 200, "learning_rate": 0.5, "num_leaves": 15, "verbose": -1}
    fit = {"eval_X": X[900:], "eval_y": y[900:], "eval_sample_weight": [weight[900:].copy()]}
    stop = [lgb.early_stopping(3, verbose=False)]
    own = lgb.LGBMClassifier(boost_from_average=False, **settings)
    own.fit(X[:900], y[:900], eval_metric="multi_logloss", callbacks=stop, **fit)
    ours = lgb.LGBMClassifier(objective=objective(10), metric="None", **settings)
    ours.fit(X[:900], y[:900], eval_metric=metric(10), callbacks=stop, **fit)
    assert ours.best_iteration_ == own.best_iteration_ < 190
    values = ours.evals_result_["valid_0"]["softmax_mlogloss"]
    np.testing.assert_allclose(values, own.evals_result_["valid_0"]["multi_logloss"], rtol=1e-5)


def test_the_library_s_own_metric_takes_scores_for_probabilities(data: Any) -> None:
    """If this fails for a new version, the guide need no longer ask for metric="None"."""
    X, y, _ = data
    model = lgb.LGBMClassifier(objective=objective(10), n_estimators=2, verbose=-1)
    model.fit(X[:900], y[:900], eval_X=X[900:], eval_y=y[900:], eval_metric=metric(10))
    log = model.evals_result_["valid_0"]
    assert log["multi_logloss"][0] > log["softmax_mlogloss"][0] + 0.5


def test_cross_validation(data: Any) -> None:
    X, y, weight = data
    settings = {"nfold": 3, "seed": 0, "num_boost_round": 3}
    log = lgb.cv(PARAMS | {"objective": objective(10)}, lgb.Dataset(X, y, weight=weight), feval=metric(10), **settings)
    own = lgb.cv(OWN, lgb.Dataset(X, y, weight=weight), **settings)
    np.testing.assert_allclose(log["valid softmax_mlogloss-mean"], own["valid multi_logloss-mean"], rtol=1e-5)


def test_training_without_num_class(data: Any) -> None:
    X, y, _ = data
    for n_classes, params, shape in ((10, {"verbose": -1}, r"\(1797,\)"), (12, PARAMS, r"\(1797, 10\)")):
        message = rf"the scores have shape {shape} and not \(rows, {n_classes}\): set num_class={n_classes}"
        with pytest.raises(ValueError, match=message):
            lgb.train(params | {"objective": objective(n_classes)}, lgb.Dataset(X, y), 1)
    with pytest.raises(ValueError, match=r"shape \(1797, 10\) and not \(rows, 3\): set num_class=3"):
        metric(3)(y, np.zeros((len(y), 10)))


def test_training_with_bad_labels(data: Any) -> None:
    X, y, _ = data
    train = lgb.Dataset(X, y - 1)
    with pytest.raises(IndexError, match=r"^label -1 of row 0 is outside \[0, 10\)$"):
        lgb.train(PARAMS | {"objective": objective(10)}, train, 1)
