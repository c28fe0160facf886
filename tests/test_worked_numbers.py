"""The numbers of docs/tutorial/from-probability-to-kernel.md, on every backend.

Two kinds of comparison, with two tolerances:

- against a figure as it is quoted: half a unit of its last digit (and 64 units roundoff of the result's dtype,
  which matters only for a figure with seven decimals in float32), in float32 and float64;
- against a closed form, in float64: `_close`, 64 units roundoff. The first-order bounds for rows as short and
  moderate as these (C <= 7, spread <= 10 nats, errors of exp and log <= 4 ULP, a sum coefficient of 18 or
  less) come to 47 u for a probability, relative, and to 54 u for a loss, absolute: 64 is the next power of
  two. The unshifted formula also rounds numbers as large as the logits, and gets 64 u of the largest logit more.
"""

from __future__ import annotations

import math
from decimal import Decimal, localcontext

import numpy as np
import pytest

import softmax_ce as sce
from conftest import available

U = 2.0**-53
NAMES = [info.name for info in sce.backends()]
STABLE = [info.name for info in sce.backends() if info.stable]
UNSTABLE = [info.name for info in sce.backends() if not info.stable]
QUOTED = pytest.mark.parametrize("dtype", ["float32", "float64"])

DOG, CAT = 0, 1
LABELS = np.array([DOG, CAT, DOG])
NN1 = np.array([[0.9, 0.1], [0.1, 0.9], [0.4, 0.6]])
NN2 = np.array([[0.6, 0.4], [0.3, 0.7], [0.1, 0.9]])
ROW = np.array([5.0, 2.0, -1.0, 3.0])


def _named(request: pytest.FixtureRequest) -> sce.BackendInfo:
    return sce.get_backend(available(request.param)).info


any_backend = pytest.fixture(params=NAMES, name="info")(_named)
stable_backend = pytest.fixture(params=STABLE, name="stable")(_named)
unstable_backend = pytest.fixture(params=UNSTABLE, name="unstable")(_named)


def _quoted(actual, figures, decimals):
    """Equal to figures that are quoted to so many decimals."""
    rounding = 32 * np.finfo(np.asarray(actual).dtype).eps  # eps is two units roundoff
    np.testing.assert_allclose(actual, figures, rtol=rounding, atol=0.5 * 10.0**-decimals)


def _close(info, actual, desired, logits=ROW):
    """Equal to a closed form in float64: see the module's docstring."""
    actual, desired = np.asarray(actual), np.asarray(desired, np.float64)
    assert actual.dtype == np.float64
    slack = 64 * U * (1.0 if info.stable else 1.0 + np.abs(logits).max())
    np.testing.assert_allclose(actual, desired, rtol=64 * U, atol=slack)


def _close_each(actual, desired):
    """Equal probabilities, however small: relative to each. It holds for the unshifted formula as well."""
    assert np.asarray(actual).dtype == np.float64
    np.testing.assert_allclose(actual, np.asarray(desired, np.float64), rtol=64 * U, atol=0)


def _exact_softmax(logits):
    """Softmax of the float64 numbers as they are, from 50 digits; each entry rounded once."""
    with localcontext() as context:
        context.prec = 50
        terms = [Decimal(float(x)).exp() for x in logits]
        return [float(term / sum(terms)) for term in terms]


def _exact_logsumexp(logits):
    with localcontext() as context:
        context.prec = 50
        return float(sum((Decimal(float(x)).exp() for x in logits), Decimal(0)).ln())


# ---------------------------------------------------------------------- from counts to softmax


@QUOTED
def test_softmax_of_two_four_and_one_sevenths(info, dtype):
    proportions = (np.array([2.0, 4.0, 1.0]) / 7).astype(dtype)
    _quoted(proportions, [0.286, 0.571, 0.143], 3)
    _quoted(sce.softmax(proportions, backend=info.name), [0.31, 0.42, 0.27], 2)


def test_softmax_undoes_the_logarithm_of_counts(info):
    counts = np.array([2.0, 4.0, 1.0])
    _close_each(sce.softmax(np.log(counts), backend=info.name), counts / 7)


@QUOTED
def test_softmax_of_ten_and_twenty_is_not_their_share(info, dtype):
    scores = np.array([10.0, 20.0], dtype)
    _quoted(scores / scores.sum(), [0.333, 0.667], 3)
    _quoted(sce.softmax(scores, backend=info.name), [0.0000454, 0.9999546], 7)


def test_softmax_of_ten_and_twenty_is_a_sigmoid_of_ten(info):
    p = sce.softmax([10.0, 20.0], backend=info.name)
    _close_each(p, [1 / (1 + math.exp(10)), 1 / (1 + math.exp(-10))])


def test_shares_know_the_ratio_and_softmax_the_difference(info):
    _close_each(sce.softmax([0.0, 10.0], backend=info.name), _exact_softmax([10, 20]))
    _quoted(sce.softmax([1.0, 2.0], backend=info.name), [0.269, 0.731], 3)


@QUOTED
@pytest.mark.parametrize(
    ("logits", "figures"),
    [
        ([5, 2, -1, 3], [0.842, 0.042, 0.002, 0.114]),
        ([1, 5, 6, 4, 2, 2.6, 6], [0.003, 0.144, 0.390, 0.053, 0.007, 0.013, 0.390]),
    ],
)
def test_softmax_of_longer_rows(info, dtype, logits, figures):
    _quoted(sce.softmax(np.array(logits, dtype), backend=info.name), figures, 3)


@pytest.mark.parametrize("logits", [ROW, [1.0, 5.0, 6.0, 4.0, 2.0, 2.6, 6.0]])
def test_softmax_to_the_last_digits(info, logits):
    p = sce.softmax(logits, backend=info.name)
    _close_each(p, _exact_softmax(logits))
    _close_each(p.sum(), 1.0)


def test_softmax_gives_equal_maxima_the_same_bits(info):
    p = sce.softmax([1.0, 5.0, 6.0, 4.0, 2.0, 2.6, 6.0], backend=info.name)
    assert p[2] == p[6]
    assert p[2] == p.max()


# ---------------------------------------------------------------------- cross-entropy, shift and log-sum-exp


@QUOTED
@pytest.mark.parametrize(("label", "figure"), [(0, 0.172), (1, 3.172), (2, 6.172), (3, 2.172)])
def test_cross_entropy_of_the_row(info, dtype, label, figure):
    _quoted(sce.cross_entropy(ROW.astype(dtype), label, backend=info.name), figure, 3)


def test_cross_entropy_is_the_logsumexp_less_the_labels_logit(info):
    others = math.exp(-3) + math.exp(-6) + math.exp(-2)
    for label, z_label in enumerate(ROW):
        loss = sce.cross_entropy(ROW, label, backend=info.name)
        _close(info, loss, (5.0 - z_label) + math.log1p(others))
        _close(info, loss, -math.log(_exact_softmax(ROW)[label]))


def test_logsumexp_with_its_maximum_pulled_out(info):
    expected = 5 + math.log1p(math.exp(-3) + math.exp(-6) + math.exp(-2))
    _quoted(sce.logsumexp(ROW, backend=info.name), 5.172, 3)
    _close(info, sce.logsumexp(ROW, backend=info.name), expected)
    _close(info, expected, _exact_logsumexp(ROW))  # the identity itself


def test_logsumexp_of_the_parts_logsumexps(info):
    parts = np.array([sce.logsumexp(part, backend=info.name) for part in (ROW[:2], ROW[2:])])
    _quoted(parts, [5.049, 3.018], 3)
    _close(info, sce.logsumexp(parts, backend=info.name), _exact_logsumexp(ROW))


def test_shift_leaves_softmax_and_loss_alone(info):
    for shift in (-4.0, 4.0, 100.0):  # 105 is still moderate for the unshifted formula in float64
        moved = ROW + shift
        _close_each(sce.softmax(moved, backend=info.name), _exact_softmax(ROW))
        _close(info, sce.cross_entropy(moved, 0, backend=info.name), _exact_logsumexp(ROW) - 5, moved)
        _close(info, sce.logsumexp(moved, backend=info.name), _exact_logsumexp(ROW) + shift, moved)


@pytest.mark.parametrize("shift", [1024.0, -1024.0])
def test_large_shift_changes_no_bit(stable, shift):
    # Both rows are exact and so are their differences from the maximum: nothing may differ.
    moved = ROW + shift
    assert np.array_equal(sce.softmax(moved, backend=stable.name), sce.softmax(ROW, backend=stable.name))
    loss, gradient = sce.cross_entropy_with_grad(moved, 0, backend=stable.name)
    assert loss == sce.cross_entropy(ROW, 0, backend=stable.name)
    assert np.array_equal(gradient, sce.cross_entropy_grad(ROW, 0, backend=stable.name))


def test_a_thousand_and_more(stable):
    large = np.array([1000.0, 1001.0, 1002.0])
    others = math.exp(-1) + math.exp(-2)
    _close_each(sce.softmax(large, backend=stable.name), _exact_softmax([0, 1, 2]))
    _close_each(sce.softmax(-large, backend=stable.name), _exact_softmax([2, 1, 0]))
    _close(stable, sce.logsumexp(large, backend=stable.name), 1002 + math.log1p(others))
    _close(stable, sce.cross_entropy(large, 2, backend=stable.name), math.log1p(others))
    _quoted(sce.logsumexp(large, backend=stable.name), 1002.408, 3)
    _quoted(sce.cross_entropy(large, 2, backend=stable.name), 0.408, 3)


def test_a_thousand_and_more_defeats_the_textbook_formula(unstable):
    large = np.array([1000.0, 1001.0, 1002.0])
    assert np.isnan(sce.softmax(large, backend=unstable.name)).all()  # inf / inf
    assert np.isnan(sce.softmax(-large, backend=unstable.name)).all()  # 0 / 0
    assert sce.logsumexp(large, backend=unstable.name) == np.inf
    assert np.isnan(sce.cross_entropy(large, 2, backend=unstable.name))  # -ln(inf / inf)


# ---------------------------------------------------------------------- two classifiers


@QUOTED
@pytest.mark.parametrize(("P", "squared", "loss"), [(NN1, 0.25, 0.38), (NN2, 0.71, 1.06)], ids=["NN1", "NN2"])
def test_classifiers_as_quoted(info, dtype, P, squared, loss):
    # Log-probabilities are logits whose softmax is P again. Means over the three rows; the squares are
    # summed over both classes of a row; natural logarithm.
    logits = np.log(P).astype(dtype)
    recovered = sce.softmax(logits, backend=info.name)
    assert np.mean(recovered.argmax(axis=1) != LABELS) == 1 / 3
    _quoted(((recovered - np.eye(2)[LABELS]) ** 2).sum(axis=1).mean(), squared, 2)
    _quoted(sce.cross_entropy(logits, LABELS, backend=info.name), loss, 2)


@pytest.mark.parametrize(
    ("P", "squares", "product"),
    [(NN1, 0.02 + 0.02 + 0.72, 0.9 * 0.9 * 0.4), (NN2, 0.32 + 0.18 + 1.62, 0.6 * 0.7 * 0.1)],
    ids=["NN1", "NN2"],
)
def test_classifiers_in_closed_form(info, P, squares, product):
    logits = np.log(P)
    recovered = sce.softmax(logits, backend=info.name)
    _close_each(recovered, P)
    _close(info, ((recovered - np.eye(2)[LABELS]) ** 2).sum(axis=1).mean(), squares / 3)
    _close(info, sce.cross_entropy(logits, LABELS, backend=info.name), -math.log(product) / 3)
    rows = sce.cross_entropy(logits, LABELS, reduction="none", backend=info.name)
    _close(info, rows, -np.log(P[np.arange(3), LABELS]))
    _close(info, sce.logsumexp(logits, backend=info.name), np.zeros(3))


@pytest.mark.parametrize(("P", "entries", "bits"), [(NN1, 0.13, 0.54), (NN2, 0.35, 1.52)], ids=["NN1", "NN2"])
def test_classifiers_under_other_conventions(info, P, entries, bits):
    logits = np.log(P)
    recovered = sce.softmax(logits, backend=info.name)
    _quoted(((recovered - np.eye(2)[LABELS]) ** 2).mean(), entries, 2)
    _quoted(sce.cross_entropy(logits, LABELS, backend=info.name) / math.log(2), bits, 2)


def test_sure_and_wrong_stops_the_squared_error_and_not_the_cross_entropy(info):
    sure = np.array([0.0, 20.0])
    _quoted(sce.cross_entropy_grad(sure, 0, backend=info.name), [-1.0, 1.0], 8)
    p = sce.softmax(sure, backend=info.name)
    squared_error_gradient = (np.diag(p) - np.outer(p, p)) @ (2 * (p - [1, 0]))
    _quoted(1e9 * squared_error_gradient, [-8.2, 8.2], 1)


# ---------------------------------------------------------------------- the gradient and the slope of softmax


@QUOTED
def test_gradient_is_prediction_less_label(info, dtype):
    logits = ROW.astype(dtype)
    loss, gradient = sce.cross_entropy_with_grad(logits, 0, backend=info.name)
    _quoted(loss, 0.172, 3)
    _quoted(gradient, [-0.158, 0.042, 0.002, 0.114], 3)


def test_gradient_in_closed_form(info):
    for label in range(4):
        gradient = sce.cross_entropy_grad(ROW, label, backend=info.name)
        _close(info, gradient, np.array(_exact_softmax(ROW)) - np.eye(4)[label])
        _close(info, gradient.sum(), 0.0)


def test_mean_divides_the_gradient_by_the_rows(info):
    gradient = sce.cross_entropy_grad(np.log(NN1), LABELS, backend=info.name)
    _close(info, gradient, (NN1 - np.eye(2)[LABELS]) / 3)


# Powers of two: ROW + h and ROW - h are exact, and so is the division. From mostly truncation to mostly rounding.
@pytest.mark.parametrize("exponent", [-3, -9, -15, -17, -25, -40])
def test_gradient_against_central_differences(info, exponent):
    h = 2.0**exponent
    labels = np.zeros(4, int)
    up, down = (
        sce.cross_entropy(ROW + step * np.eye(4), labels, reduction="none", backend=info.name) for step in (h, -h)
    )
    error = np.abs((up - down) / (2 * h) - sce.cross_entropy_grad(ROW, 0, backend=info.name))
    # Third derivative p(1 - p)(1 - 2p) <= 1/(6 sqrt 3), times h^2 / 6; each loss may be wrong by B; and so may the
    # gradient, by as many roundings as one probability.
    B = 64 * U * (1.0 if info.stable else 1.0 + np.abs(ROW).max())
    assert (error <= h * h / (36 * math.sqrt(3)) + B / h + 64 * U).all()


def test_truncation_falls_with_the_square_of_the_step(info):
    def error(h):
        up, down = (sce.cross_entropy(ROW + step * np.eye(4)[0], 0, backend=info.name) for step in (h, -h))
        return (up - down) / (2 * h) - (_exact_softmax(ROW)[0] - 1)

    p = _exact_softmax(ROW)[0]
    third = p * (1 - p) * (1 - 2 * p)
    # Beside this term, the next one of the series is about h^2/20 (1e-5), and B/h is 5e-5 or less.
    for h in (2.0**-6, 2.0**-8):
        np.testing.assert_allclose(error(h), h * h / 6 * third, rtol=2e-4)


def test_slope_of_softmax(info):
    p = np.array(_exact_softmax(ROW))
    jacobian = np.diag(p) - np.outer(p, p)
    np.testing.assert_allclose(np.diag(jacobian), p * (1 - p), rtol=4 * U)  # dP/dz = P(1 - P)
    h = 2.0**-16
    up, down = (sce.softmax(ROW + step * np.eye(4), backend=info.name) for step in (h, -h))
    measured = (up - down) / (2 * h)  # row j: along z_j
    # Third derivatives of a probability are at most 1/8, times h^2 / 6; each p is wrong by 64 u p at most.
    bound = h * h / 48 + 64 * U * p / h
    assert (np.abs(measured - jacobian) <= bound).all()


def test_slope_of_softmax_is_the_slope_of_the_gradient(info):
    p = np.array(_exact_softmax(ROW))
    h = 2.0**-16
    labels = np.full(4, 1)
    up, down = (
        sce.cross_entropy_grad(ROW + step * np.eye(4), labels, reduction="sum", backend=info.name) for step in (h, -h)
    )
    bound = h * h / 48 + 64 * U / h
    assert (np.abs((up - down) / (2 * h) - (np.diag(p) - np.outer(p, p))) <= bound).all()


# ---------------------------------------------------------------------- two classes


@pytest.mark.parametrize("z", [-6.0, -1.5, 0.0, 0.25, 1.5, 6.0])
def test_two_classes_are_a_sigmoid_and_binary_cross_entropy(info, z):
    logits = np.array([0.0, z])
    P = 1 / (1 + math.exp(-z))
    _close_each(sce.softmax(logits, backend=info.name), [1 / (1 + math.exp(z)), P])
    for y in (0, 1):
        loss, gradient = sce.cross_entropy_with_grad(logits, y, backend=info.name)
        _close(info, loss, -(y * math.log(P) + (1 - y) * math.log(1 - P)), logits)
        _close(info, loss, math.log1p(math.exp(-z if y else z)), logits)
        _close(info, gradient, [y - P, P - y], logits)


@QUOTED
def test_two_classes_as_quoted(info, dtype):
    logits = np.array([0.0, 1.5], dtype)
    _quoted(sce.softmax(logits, backend=info.name), [0.1824, 0.8176], 4)
    _quoted([sce.cross_entropy(logits, y, backend=info.name) for y in (1, 0)], [0.2014, 1.7014], 4)


@pytest.mark.parametrize("classes", [1, 2, 3, 7])
def test_equal_logits_cost_the_logarithm_of_the_classes(info, classes):
    row = np.zeros(classes)
    for label in range(classes):
        _close(info, sce.cross_entropy(row, label, backend=info.name), math.log(classes), row)


# ---------------------------------------------------------------------- targets that are distributions


def test_cross_entropy_is_entropy_and_divergence(info):
    logits, t = np.array([2.0, 1.0, 0.0]), np.array([0.7, 0.2, 0.1])
    p = np.array(_exact_softmax(logits))
    entropy, divergence = -(t * np.log(t)).sum(), (t * np.log(t / p)).sum()
    _quoted([entropy, divergence], [0.8018, 0.0058], 4)
    loss, gradient = sce.cross_entropy_with_grad(logits, t, backend=info.name)
    _quoted(loss, 0.8076, 4)
    _close(info, loss, entropy + divergence, logits)
    _close(info, gradient, p - t, logits)


def test_cross_entropy_is_least_at_the_target_and_then_the_entropy(info):
    t = np.array([0.7, 0.2, 0.1])
    loss, gradient = sce.cross_entropy_with_grad(np.log(t), t, backend=info.name)
    _close(info, loss, -(t * np.log(t)).sum())
    _close(info, gradient, np.zeros(3))


def test_label_is_a_one_hot_target(info):
    for label in range(4):
        hard = sce.cross_entropy_with_grad(ROW, label, backend=info.name)
        soft = sce.cross_entropy_with_grad(ROW, np.eye(4)[label], backend=info.name)
        _close(info, soft[0], hard[0])
        _close(info, soft[1], hard[1])


def test_label_smoothing_is_a_soft_label(info):
    smooth = 0.9 * np.eye(4)[0] + 0.1 / 4
    hard = sce.cross_entropy(ROW, 0, label_smoothing=0.1, backend=info.name)
    _quoted(hard, 0.4469, 4)
    _close(info, hard, _exact_logsumexp(ROW) - (0.9 * 5 + 0.1 * 2.25))
    _close(info, hard, sce.cross_entropy(ROW, smooth, backend=info.name))


def test_independent_labels_want_a_sigmoid_each(info):
    scores, present = np.array([6.0, 6.0, -6.0]), np.array([1, 1, 0])
    questions = np.stack([np.zeros(3), scores], axis=1)
    _quoted(sce.softmax(questions, backend=info.name)[:, 1], [0.998, 0.998, 0.002], 3)
    _close(info, sce.cross_entropy(questions, present, backend=info.name), math.log1p(math.exp(-6)), scores)
    # One softmax over the three cannot go below ln 2.
    loss = sce.cross_entropy(scores, present / 2, backend=info.name)
    _close(info, loss, math.log(2) + math.log1p(math.exp(-12) / 2), scores)


# ---------------------------------------------------------------------- weights of either sign


def test_advantages_weigh_rows_by_hand(info):
    # Three rows of two classes with losses ln 2, ln 4 and ln 4/3: p = 1/2, 1/4, 3/4. Advantages 2, -1, 3.
    logits, advantages = np.log([[0.5, 0.5], [0.25, 0.75], [0.75, 0.25]]), np.array([2.0, -1.0, 3.0])
    labels, costs = [0, 0, 0], np.log([2.0, 4.0, 4 / 3])
    call = {"sample_weight": advantages, "backend": info.name}
    rows = sce.cross_entropy(logits, labels, reduction="none", **call)
    _close(info, rows, advantages * costs)
    total = 2 * math.log(2) - math.log(4) + 3 * math.log(4 / 3)
    for reduction, divisor, more in (("sum", 1, {}), ("mean", 4, {}), ("mean", 3, {"denominator": 3})):
        options = {"reduction": reduction, **more, **call}
        loss, gradient = sce.cross_entropy_with_grad(logits, labels, **options)
        _close(info, loss, total / divisor)
        _close(info, gradient, np.array([[-1.0, 1.0], [0.75, -0.75], [-0.75, 0.75]]) / divisor)


def test_weights_that_cancel_are_no_denominator(info):
    logits, call = np.log([[0.5, 0.5], [0.25, 0.75]]), {"backend": info.name}
    loss, gradient = sce.cross_entropy_with_grad(logits, [0, 0], sample_weight=[1.5, -1.5], **call)
    assert math.isnan(loss)
    np.testing.assert_array_equal(gradient, 0)
    assert sce.cross_entropy(logits, [0, 1], weight=[2.0, -2.0], on_empty="zero", **call) == 0
    with pytest.raises(ValueError, match="the weights sum to 0"):
        sce.cross_entropy(logits, [0, 1], weight=[2.0, -2.0], on_empty="raise", **call)
    # 0.1 + 0.2 - 0.3 is 2^-55 exactly, as the three are rounded; added one by one it comes to twice that.
    own = [0.1, 0.2, -0.3]
    rows = np.log([[0.5, 0.5]] * 3)
    _close_each(sce.cross_entropy_grad(rows, [0, 0, 0], sample_weight=own, **call)[:, 1], np.array(own) * 2.0**54)


LN2, LN4, LN4_3 = math.log(2), math.log(4), math.log(4 / 3)
SIGNED = [  # of the rows below, which cost ln 2, ln 4, ln 4/3 at class 0 and ln 2, ln 4/3, ln 4 at class 1
    ([0, 1, 0], [1.0, -3.0], "mean", 2 * LN4_3 - LN2),  # over 1 - 3 + 1
    ([0, 1, 0], [1.0, -3.0], "sum", LN2 - 2 * LN4_3),
    ([0, 1, 1], [-1.0, -3.0], "mean", (LN2 + 3 * LN4_3 + 3 * LN4) / 7),
    ([0, 0, 1], [2.0, -1.0], "none", [2 * LN2, 2 * LN4, -LN4]),
]


@pytest.mark.parametrize(("labels", "weight", "reduction", "right"), SIGNED)
def test_class_weights_of_either_sign_by_hand_and_in_pytorch(info, labels, weight, reduction, right):
    P = np.array([[0.5, 0.5], [0.25, 0.75], [0.75, 0.25]])
    logits, labels = np.log(P), np.array(labels)
    factors = np.array(weight)[labels]
    loss, gradient = sce.cross_entropy_with_grad(logits, labels, weight=weight, reduction=reduction, backend=info.name)
    _close(info, loss, right)
    factors = factors / factors.sum() if reduction == "mean" else factors
    _close(info, gradient, factors[:, None] * (P - np.eye(2)[labels]))
    torch = pytest.importorskip("torch")
    x = torch.tensor(logits, requires_grad=True)
    theirs = torch.nn.functional.cross_entropy(
        x, torch.tensor(labels), weight=torch.tensor(weight, dtype=torch.float64), reduction=reduction
    )
    theirs.sum().backward()
    _close(info, loss, theirs.detach().numpy())
    _close(info, gradient, x.grad.numpy())


@pytest.mark.parametrize(("smoothing", "is_soft"), [(0.0, False), (0.0, True), (0.2, False)])
def test_masks_under_weights_of_either_sign_in_pytorch(info, smoothing, is_soft):
    torch = pytest.importorskip("torch")
    logits = np.array([[0.5, -np.inf, 1.0], [0.5, 1.0, 2.0], [-np.inf, 1.0, -np.inf]])
    labels = np.array([1, 0, 0])
    targets = np.eye(3)[labels] if is_soft else labels
    for weight in ([-1.0, -2.0, -0.5], [1.0, -2.0, 3.0], [1.0, -2.0, -3.0]):
        loss = sce.cross_entropy(
            logits, targets, weight=weight, label_smoothing=smoothing, reduction="none", backend=info.name
        )
        theirs = torch.nn.functional.cross_entropy(
            torch.tensor(logits), torch.tensor(labels), weight=torch.tensor(weight, dtype=torch.float64),
            label_smoothing=smoothing, reduction="none",
        ).numpy()  # fmt: skip
        np.testing.assert_array_equal(np.isnan(loss), np.isnan(theirs))
        np.testing.assert_array_equal(np.isinf(loss) * np.sign(loss), np.isinf(theirs) * np.sign(theirs))
        _close(info, loss[np.isfinite(loss)], theirs[np.isfinite(theirs)])


# ---------------------------------------------------------------------- from formula to kernel


@pytest.mark.parametrize(("label", "gap"), [(0, 0.0), (1, 1.0)])
def test_offset_of_ten_thousand_in_float32(stable, label, gap):
    x = np.array([1e4, 1e4 - 1], np.float32)
    exact = gap + math.log1p(math.exp(-1))
    # The logits and their difference are exact, so the loss is good to 2 * 1.3 + 2 * 4 + 2 * 4 * ln 2 + 1 = 17.2
    # units roundoff. (m + log s) - x_y is wrong by over a hundred times as much, from rounding m + log s alone.
    assert abs(float(sce.cross_entropy(x, label, backend=stable.name)) - exact) <= 18 * 2.0**-24
    m, log_s = x.max(), np.log(np.exp(x - x.max()).sum())
    assert abs(float((m + log_s) - x[label]) - exact) > 18 * 2.0**-24 * 100
    p = sce.softmax(x, backend=stable.name)
    np.testing.assert_allclose(p, [1 / (1 + math.exp(-1)), 1 / (1 + math.e)], rtol=24 * 2.0**-24)
    assert abs(np.exp(x - (m + log_s)).sum() - 1) > 1e-4  # what exp(x - lse) would give


def test_small_loss_keeps_its_digits(stable):
    loss, gradient = sce.cross_entropy_with_grad([0.0, -40.0], 0, backend=stable.name)
    # loss = exp(-40) (1 - 2e-18): the error is that of one exp, one sum and one log1p.
    np.testing.assert_allclose(loss, 4.248354255291589e-18, rtol=16 * U)
    np.testing.assert_allclose(gradient, [-4.248354255291589e-18, 4.248354255291589e-18], rtol=16 * U)


def test_label_gradient_keeps_its_digits_in_float32(stable):
    x = np.array([0.0, -20.0], np.float32)
    exact = 1 / (1 + math.exp(20))
    gradient = sce.cross_entropy_grad(x, 0, backend=stable.name)
    np.testing.assert_allclose(gradient, [-exact, exact], rtol=16 * 2.0**-24)
    assert abs(gradient.sum()) <= 16 * 2.0**-24 * exact
    p = sce.softmax(x, backend=stable.name)
    assert p[0] - np.float32(1) == 0  # what p_y - 1 would give


def test_small_numbers_are_lost_in_the_textbook_formula(unstable):
    assert sce.cross_entropy([0.0, -40.0], 0, backend=unstable.name) == 0
    gradient = sce.cross_entropy_grad(np.array([0.0, -20.0], np.float32), 0, backend=unstable.name)
    assert gradient[0] == 0
    np.testing.assert_allclose(gradient[1], 1 / (1 + math.exp(20)), rtol=16 * 2.0**-24)


def test_gradient_over_the_logits(info):
    batch = np.array([[5.0, 2.0, -1.0, 3.0], [0.0, 0.0, 0.0, 0.0]])
    loss, gradient = sce.cross_entropy_with_grad(batch, [0, 1], grad_out=batch, backend=info.name)
    assert gradient is batch
    _quoted(loss, 0.779, 3)
    _close(info, loss, (_exact_logsumexp(ROW) - 5 + math.log(4)) / 2)
    _close(info, batch[0], (np.array(_exact_softmax(ROW)) - [1, 0, 0, 0]) / 2)
    _close(info, batch[1], [0.125, -0.375, 0.125, 0.125])
