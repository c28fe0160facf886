"""The reference for large workloads, against the oracle and a case done by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from softmax_ce_bench.measure.operations import make_target_logits
from softmax_ce_bench.truth import oracle, reference


def right(logits: Any, targets: Any, **options: Any) -> tuple[float, Any]:
    """The mean loss and its gradient from the oracle's rows; the z-loss by itself, for its divisor is another."""
    z_loss = options.pop("z_loss", 0.0)
    weight = options.get("weight", np.ones(logits.shape[1]))
    counted = (targets != -100) if targets.ndim == 1 else np.ones(len(targets), bool)
    divisor = weight[targets[counted]].sum() if targets.ndim == 1 else len(targets)
    plain = oracle.evaluate(logits, targets, **options)
    both = oracle.evaluate(logits, targets, z_loss=z_loss, **options)
    loss = plain.loss.sum() / divisor + (both.loss - plain.loss).sum() / counted.sum()
    grad = plain.grad / divisor + (both.grad - plain.grad) / counted.sum()
    return float(loss), grad.astype(float)


def soft(shape: tuple[int, int]) -> Any:
    targets = np.random.default_rng(2).random(shape)
    return targets / targets.sum(axis=1, keepdims=True)


WEIGHT = np.random.default_rng(3).random(7) + 0.5


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"weight": WEIGHT},
        {"label_smoothing": 0.1},
        {"z_loss": 0.01},
        {"weight": WEIGHT, "label_smoothing": 0.3, "z_loss": 0.1},
    ],
)
@pytest.mark.parametrize("kind", ["hard", "ignored", "soft", "masked"])
def test_against_the_oracle(kind: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference, "_BLOCK", 7 * 3)  # blocks of three rows, the last one shorter
    rng = np.random.default_rng(1)
    logits = 5 * rng.standard_normal((20, 7))
    targets: Any = soft(logits.shape) if kind == "soft" else rng.integers(0, 6, 20)
    if kind == "ignored":
        targets[[0, 4, 19]] = -100
    if kind == "masked":
        logits[:, 6] = -np.inf
    if kind == "masked" and "label_smoothing" in options:
        pytest.skip("smoothing puts mass on a masked class: the loss is infinite")
    truth = reference.evaluate(logits, targets, **options)
    loss, grad = right(logits, targets, **options)
    assert truth.loss == pytest.approx(loss, rel=1e-13)
    assert truth.rows[0] == 0
    assert truth.rows[-1] == 19
    np.testing.assert_allclose(truth.grad, grad[truth.rows], rtol=1e-12, atol=1e-16)


@pytest.mark.parametrize("options", [{}, {"z_loss": 0.01}, {"label_smoothing": 0.1, "weight": WEIGHT}])
def test_losses_a_row_with_an_upstream_vector(options: dict[str, Any]) -> None:
    rng = np.random.default_rng(4)
    logits, targets = 5 * rng.standard_normal((20, 7)), rng.integers(0, 7, 20)
    upstream = rng.standard_normal(20)
    truth = reference.evaluate(logits, targets, ignore_index=3, reduction="none", grad_output=upstream, **options)
    rows = oracle.evaluate(logits, targets, ignore_index=3, grad_output=upstream, **options)
    assert truth.loss == pytest.approx(float(rows.loss.mean()), rel=1e-13)
    np.testing.assert_allclose(truth.grad, rows.grad[truth.rows].astype(float), rtol=1e-12, atol=1e-16)
    assert truth.unit == np.abs(upstream[truth.rows]).max()


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize(
    "options",
    [
        {"logit_scale": 0.5}, {"softcap": 4.0, "logit_scale": 2.0},
        {"where": np.arange(7) % 3 > 0, "label_smoothing": 0.1, "weight": WEIGHT}, {"z_loss": 0.01},
    ],
)  # fmt: skip
def test_transformed_logits_and_the_hessian(options: dict[str, Any], soft: bool) -> None:
    rng = np.random.default_rng(6)
    logits = 5 * rng.standard_normal((20, 7))
    targets: Any = rng.choice([1, 2, 4, 5], 20)
    if soft:
        targets = np.eye(7)[targets] * 0.5 + 0.5 * (np.arange(7) == 4)
    truth = reference.evaluate(logits, targets, reduction="none", **options)
    rows = oracle.evaluate(logits, targets, **options)
    assert truth.loss == pytest.approx(float(rows.loss.mean()), rel=1e-13)
    np.testing.assert_allclose(truth.grad, rows.grad[truth.rows].astype(float), rtol=1e-12, atol=1e-15)
    if "softcap" in options:
        assert truth.hess is None
        return
    np.testing.assert_allclose(truth.hess, rows.hess[truth.rows].astype(float), rtol=1e-12, atol=1e-16)
    assert truth.complaint(None, truth.grad, hess=truth.hess.astype(np.float32)) is None
    assert str(truth.complaint(None, None, hess=truth.hess + 1e-3)).startswith("its Hessian at row 0, class 0 is")


def test_hessian_and_divergence_by_hand() -> None:
    logits = np.array([[math.log(3), 0], [0, 0]])
    right = reference.others(logits, np.zeros(2, np.int64), "hessian")
    np.testing.assert_allclose(right["hess"].values, [[3 / 32, 3 / 32], [1 / 8, 1 / 8]], rtol=1e-15)
    assert tuple(right) == ("hess",)
    assert right["hess"].complaint(right["hess"].values + 1e-3) is not None
    z = make_target_logits(logits)
    t, p = (np.exp(x) / np.exp(x).sum(axis=1, keepdims=True) for x in (z, logits))
    right = reference.others(logits, np.zeros(2, np.int64), "kl")
    assert float(right["kl"].values) == pytest.approx(float((t * np.log(t / p)).sum() / 2), rel=1e-12)
    np.testing.assert_allclose(right["kl_grad"].values, (p - t) / 2, rtol=1e-12)
    assert right["kl"].complaint(right["kl"].values + 1) is not None
    found = {"kl": right["kl"].values, "kl_grad": right["kl_grad"].values}
    assert reference.first_complaint(right, found) is None
    assert "at row 0, class 0" in (reference.first_complaint(right, found | {"kl_grad": found["kl_grad"] + 0.01}) or "")


def test_normalizers_by_hand() -> None:
    logits = np.array([[math.log(3), 0], [0, -np.inf], [0, 0]])
    labels = np.zeros(3, np.int64)

    def of(operation: str) -> reference.ReferencePart:
        (right,) = reference.others(logits, labels, operation).values()
        return right

    p = of("softmax")
    np.testing.assert_allclose(p.values, [[0.75, 0.25], [1.0, 0.0], [0.5, 0.5]], rtol=1e-15)
    log_p = of("log_softmax")
    np.testing.assert_allclose(
        log_p.values, [[math.log(0.75), math.log(0.25)], [0, -np.inf], [-math.log(2)] * 2], rtol=1e-15
    )
    lse = of("logsumexp")
    np.testing.assert_allclose(lse.values, [math.log(4), 0, math.log(2)], rtol=1e-15, atol=1e-16)
    for right in (p, log_p, lse):
        assert right.complaint(right.values.astype(np.float32)) is None
        assert right.complaint(right.values.astype(np.float16)) is None
    assert p.complaint(p.values[::-1]) == "its result at row 0, class 0 is 0.5, right is 0.75"
    assert lse.complaint(lse.values + 0.01) == "its result at row 0 is 1.39629, right is 1.38629"
    wrong = log_p.values.copy()
    wrong[1, 1] = -1000
    assert log_p.complaint(wrong) == "its result at row 1, class 1 is -1000, right is -inf"


@pytest.fixture
def truth() -> reference.ReferenceResult:
    """Two rows of two classes, ln 3 apart: probabilities 3/4 and 1/4."""
    return reference.evaluate(np.array([[math.log(3), 0], [0, math.log(3)]]), np.array([0, 0]))


def test_by_hand(truth: reference.ReferenceResult) -> None:
    assert truth.loss == pytest.approx((math.log(4 / 3) + math.log(4)) / 2, rel=1e-14)
    np.testing.assert_allclose(truth.grad, [[-0.125, 0.125], [-0.375, 0.375]], rtol=1e-14)
    assert truth.complaint(truth.loss, truth.grad.astype(np.float32)) is None
    assert truth.complaint(truth.loss, truth.grad.astype(np.float16)) is None
    assert truth.complaint(None, None) is None


@pytest.mark.parametrize(
    ("factor", "shift", "message"),
    [(1.001, 0, "its loss is"), (np.nan, 0, "its loss is nan"), (1, 1e-4, "its gradient at row 0, class 0")],
)
def test_what_is_wrong_is_told(truth: reference.ReferenceResult, factor: float, shift: float, message: str) -> None:
    complaint = truth.complaint(factor * truth.loss, truth.grad + shift)
    assert complaint is not None
    assert message in complaint


def test_a_sum_in_place_of_a_mean_is_told(truth: reference.ReferenceResult) -> None:
    assert truth.complaint(truth.loss, 2 * truth.grad) == ("its gradient at row 0, class 0 is -0.25, right is -0.125")


def test_nan_is_right_where_the_truth_is() -> None:
    truth = reference.evaluate(np.array([[np.nan, 0.0], [1.0, 0.0]]), np.array([0, 1]))
    assert math.isnan(truth.loss)
    assert truth.complaint(np.nan, truth.grad) is None
    assert truth.complaint(1.0, None) is not None
