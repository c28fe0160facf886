"""Classes in shards: the loss and the gradient are those of one call, for any cuts and any grouping."""

from __future__ import annotations

import itertools
import pickle
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import softmax_ce as sce
from problems import RandomProblem, assert_close, random_problem
from softmax_ce import shards
from softmax_ce.shards import rows, totals


def spans(n_classes: int, cuts: list[int]) -> list[tuple[int, int]]:
    edges = sorted({0, n_classes, *(cut % (n_classes + 1) for cut in cuts)})
    return list(itertools.pairwise(edges))


def partials(problem: RandomProblem, cuts: list[int], backend: str) -> list[shards.Partial]:
    n_classes = problem.logits.shape[1]
    found = []
    for first, stop in spans(n_classes, cuts):
        logits, targets, options = problem.columns(first, stop)
        found.append(
            shards.partial(
                logits, targets, first_class=first, n_classes=n_classes, backend=backend, return_lse=True,
                return_correct=problem.hard, **options,
            )
        )  # fmt: skip
    return found


def gradient(problem: RandomProblem, cuts: list[int], total: shards.Partial, **how: Any) -> Any:
    parts = []
    for first, stop in spans(problem.logits.shape[1], cuts):
        logits, targets, options = problem.columns(first, stop)
        where = options.get("where")
        where = None if where is None or where.ndim == 1 else where
        parts.append(shards.grad(logits, targets, total, first_class=first, where=where, **how))
    return np.concatenate(parts, axis=1)


CUTS = st.lists(st.integers(0, 60), max_size=4)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32), cuts=CUTS)
def test_shards_give_the_results_of_one_call(backend: str, dtype: str, seed: int, cuts: list[int]) -> None:
    if backend == "naive":
        pytest.skip("it overflows and underflows where shards do not")
    problem = random_problem(seed, dtype)
    expected = sce.cross_entropy_with_grad(
        problem.logits, problem.targets, backend=backend, return_lse=True, return_correct=problem.hard,
        **problem.options,
    )  # fmt: skip
    total = shards.combine(partials(problem, cuts, backend))
    loss, lse, *correct = shards.loss(total)
    assert_close(loss, expected[0], dtype)
    assert_close(gradient(problem, cuts, total), expected[1], dtype)
    assert_close(lse, expected[2], dtype)
    if problem.hard:
        np.testing.assert_array_equal(correct[0], expected[3])


@settings(max_examples=30)
@given(seed=st.integers(0, 2**32), cuts=CUTS, order=st.randoms(use_true_random=False))
def test_bits_do_not_depend_on_order_or_grouping(seed: int, cuts: list[int], order: Any) -> None:
    problem = random_problem(seed, "float32")
    given_partials = partials(problem, cuts, "numpy")
    at_once = shards.combine(given_partials)
    pool = list(given_partials)
    while len(pool) > 1:
        order.shuffle(pool)
        pool.append(shards.combine([pool.pop(), pool.pop()]))
    for one, other in zip(shards.loss(at_once), shards.loss(pickle.loads(pickle.dumps(pool[0]))), strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(gradient(problem, cuts, at_once), gradient(problem, cuts, pool[0]))


def test_bits_do_not_depend_on_threads(backend: str) -> None:
    random = np.random.default_rng(5)
    x, y = random.standard_normal((300, 700), np.float32), random.integers(0, 1400, 300)
    parts = [
        shards.partial(x, y, first_class=first, n_classes=1400, backend=backend, threads=threads, label_smoothing=0.1)
        for threads in (1, 3) for first in (0, 700)
    ]  # fmt: skip
    one, three = shards.combine(parts[:2]), shards.combine(parts[2:])
    assert shards.loss(one) == shards.loss(three)
    np.testing.assert_array_equal(
        shards.grad(x, y, one, first_class=0, threads=1), shards.grad(x, y, three, first_class=0, threads=3)
    )


def test_small_losses_keep_their_digits(backend: str) -> None:
    x = np.array([[0.0, -40.0, -41.0, -42.0]])
    total = shards.combine(
        shards.partial(x[:, at : at + 2], [0], first_class=at, n_classes=4, backend=backend) for at in (0, 2)
    )
    # log1p(exp(-40) + exp(-41) + exp(-42)), from mpmath
    assert shards.loss(total) == pytest.approx(6.386188671055934e-18, rel=1e-9)
    assert shards.grad(x[:, :2], [0], total, first_class=0)[0, 0] == pytest.approx(-6.386188671055934e-18, rel=1e-9)


def test_a_gradient_in_place_has_the_same_bits(backend: str) -> None:
    random = np.random.default_rng(6)
    x, y = random.standard_normal((40, 64)), random.integers(0, 64, 40)
    total = shards.combine(
        shards.partial(x[:, at : at + 32], y, first_class=at, n_classes=64, backend=backend) for at in (0, 32)
    )
    expected = shards.grad(x[:, 32:], y, total, first_class=32)
    own = np.array(x[:, 32:])
    assert shards.grad(own, y, total, first_class=32, grad_out=own) is own
    np.testing.assert_array_equal(own, expected)


def test_upstream_gradients_are_those_of_one_call(backend: str) -> None:
    random = np.random.default_rng(7)
    x, y, upstream = random.standard_normal((9, 20)), random.integers(0, 20, 9), random.standard_normal(9)
    total = shards.combine(
        shards.partial(x[:, at : at + 10], y, first_class=at, n_classes=20, reduction="none", backend=backend)
        for at in (0, 10)
    )
    found = np.hstack(
        [shards.grad(x[:, at : at + 10], y, total, first_class=at, grad_output=upstream) for at in (0, 10)]
    )
    expected = sce.cross_entropy_grad(x, y, reduction="none", grad_output=upstream, backend=backend)
    assert_close(found, expected, "float64")


def test_rows_of_several_axes_with_weights() -> None:
    random = np.random.default_rng(9)
    x, y, weight = random.standard_normal((2, 3, 6)), random.integers(0, 6, (2, 3)), random.random((2, 3))
    total = shards.combine(
        shards.partial(x[..., at : at + 3], y, first_class=at, n_classes=6, sample_weight=weight) for at in (0, 3)
    )
    found = np.concatenate([shards.grad(x[..., at : at + 3], y, total, first_class=at) for at in (0, 3)], axis=-1)
    expected = sce.cross_entropy_with_grad(x, y, sample_weight=weight)
    assert_close(shards.loss(total), expected[0], "float64")
    assert_close(found, expected[1], "float64")


def part(first: int, width: int, n_classes: int = 8, **options: Any) -> shards.Partial:
    return shards.partial(np.zeros((3, width)), [0, 1, 2], first_class=first, n_classes=n_classes, **options)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: shards.combine([]), "at least one Partial"),
        (lambda: shards.combine([part(0, 5), part(4, 4)]), r"\[0, 5\) and \[4, 8\) have classes in common"),
        (lambda: shards.combine([part(0, 4), part(4, 4, 9)]), "n_classes is 8 in one and 9 in another"),
        (lambda: shards.combine([part(0, 4), part(4, 4, z_loss=0.1)]), "different values of z_loss"),
        (lambda: shards.loss(part(0, 4)), "lacks the classes from 4 on"),
        (lambda: shards.loss(shards.combine([part(0, 2), part(4, 4)])), "lacks the classes from 2 on"),
        (
            lambda: shards.combine([part(0, 4, where=np.ones(8, bool)), part(4, 4, where=np.arange(8) > 0)]),
            "different values of where",
        ),
        (lambda: part(0, 4, where=np.ones(4, bool)), r"an entry for every class, shape \(8,\); got \(4,\)"),
        (
            lambda: shards.softmax(np.zeros((3, 8)), part(0, 8, logit_scale=2.0), first_class=0),
            "give partial no logit_scale",
        ),
        (lambda: part(5, 4), r"classes \[5, 9\) must lie in \[0, n_classes\)"),
        (
            lambda: shards.grad(np.zeros((3, 3)), [0, 1, 2], part(0, 8), first_class=0),
            r"\[0, 3\) are no shard of the total, which has \[0, 8\)",
        ),
        (
            lambda: shards.grad(np.zeros((3, 8)), [0, 1, 2], part(0, 8), first_class=0, where=np.ones((3, 8), bool)),
            "give where to grad if, and only if",
        ),
        (lambda: shards.grad(np.zeros((2, 8)), [0, 1], part(0, 8), first_class=0), "rows of shape"),
    ],
)
def test_what_does_not_belong_together_is_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_a_label_outside_all_classes_is_refused() -> None:
    with pytest.raises(IndexError, match="target 8 at position 1"):
        shards.partial(np.zeros((2, 4)), [0, 8], first_class=0, n_classes=8)


def _without_shrinking(pieces: Any) -> Any:
    return _fold([replace(piece, top=pieces[0].top) for piece in pieces])


def _every_maximum_left_out(pieces: Any) -> Any:
    sums = _fold(pieces)
    return replace(sums, rest=sums.rest - 1e-3, log_sum=np.log1p(sums.rest - 1e-3))


def _costs_not_shifted(pieces: Any) -> Any:
    return replace(_fold(pieces), cost=sum(piece.cost for piece in pieces))


_fold = rows.fold_pieces


@pytest.mark.parametrize("wrong", [_without_shrinking, _every_maximum_left_out, _costs_not_shifted])
def test_a_wrong_merge_is_noticed(wrong: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(8)
    x, y = random.standard_normal((5, 12)), random.integers(0, 12, 5)
    parts = [
        shards.partial(x[:, at : at + 6], y, first_class=at, n_classes=12, label_smoothing=0.2, backend="numpy")
        for at in (0, 6)
    ]
    expected = sce.cross_entropy(x, y, label_smoothing=0.2)
    assert_close(shards.loss(shards.combine(parts)), expected, "float64")
    monkeypatch.setattr(totals, "fold_pieces", wrong)
    with pytest.raises(AssertionError):
        assert_close(shards.loss(shards.combine(parts)), expected, "float64")
