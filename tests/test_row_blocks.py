"""The weights of a mean whose rows come in blocks: exact sums, and the weights that all rows at once are given."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from softmax_ce import checks, row_blocks, weights
from softmax_ce.exact_sums import exact_sum, rounded, rounded_sum
from softmax_ce.reduction import numpy_total


def test_an_exact_sum_keeps_what_lies_far_below_the_largest() -> None:
    values = [1e300, 1.0, -1e300, 5e-324, 3.0, -0.1]
    fraction, power = np.frexp(values)
    exact = exact_sum([fraction], power.astype(np.int64))
    assert exact == sum(map(Fraction, values))
    assert np.ldexp(*rounded(exact)) == 3.9
    assert np.ldexp(*rounded_sum([fraction], power.astype(np.int64))) == 3.9


def test_an_exact_sum_of_nothing_is_0() -> None:
    assert exact_sum([np.zeros(3)], np.zeros(3, np.int64)) == 0
    assert rounded(Fraction(0)) == (0.0, 0)


def some_weights(random: np.random.Generator, kind: str, size: int) -> Any:
    if kind == "none":
        return None
    values = random.random(size) + 0.5
    if kind == "apart":
        values *= 2.0 ** random.integers(-900, 900, size)
    if kind == "signed":
        values *= random.choice([-1, 1], size)
    if kind == "cancel":
        values[: size // 2] = -values[-(size // 2) :]
        values[size // 2] = 2.0**-1050
    return values


@pytest.mark.parametrize("by_row", ["none", "plain", "apart", "signed", "cancel"])
@pytest.mark.parametrize("by_class", ["none", "plain", "apart", "signed"])
@pytest.mark.parametrize(("smoothing", "z_loss"), [(0.0, 0.0), (0.1, 0.0), (0.0, 0.5)])
@pytest.mark.parametrize("is_hard", [True, False])
def test_blocks_have_the_weights_of_all_rows(
    by_row: str, by_class: str, smoothing: float, z_loss: float, is_hard: bool
) -> None:
    random, n_rows, n_classes = np.random.default_rng(5), 13, 5
    weight, sample_weight = some_weights(random, by_class, n_classes), some_weights(random, by_row, n_rows)
    labels = random.integers(-1, n_classes, n_rows)
    problem = checks.check_logits(np.zeros((n_rows, n_classes)), -1)
    checks.check_targets(problem, labels if is_hard else np.zeros((n_rows, n_classes)), -1 if is_hard else -100)
    ignore_index = -1 if is_hard else -100
    expected = weights.of_mean(problem, weight, sample_weight, ignore_index, smoothing, z_loss, numpy_total)

    weighting = row_blocks.Weighting(n_classes, weight, ignore_index, smoothing, z_loss, is_hard)
    blocks = []
    for rows in (slice(0, 4), slice(4, 5), slice(5, 5), slice(5, n_rows)):
        own = None if sample_weight is None else sample_weight[rows]
        y = labels[rows]
        blocks.append((y if is_hard else None, y.shape, own))
    surveys = [weighting.survey(*block) for block in blocks]
    left = row_blocks.combine(surveys[2:])
    mean = weighting.finish(row_blocks.combine([left, *surveys[:2]]))  # in any order and grouping
    assert mean.empty == expected.empty
    sign = -1 if mean.flips else 1
    np.testing.assert_array_equal(mean.by_class, expected.by_class * sign if weight is not None else None)
    np.testing.assert_allclose(mean.divisor, expected.divisor, rtol=1e-15)
    if z_loss:
        np.testing.assert_allclose(sign * mean.z_factor, expected.per_row, rtol=1e-15)
    if mean.empty:
        return
    by_block, inverse = zip(*(mean.of_block(*block) for block in blocks), strict=True)
    ones = np.ones(n_rows)
    found = ones if by_block[0] is None else np.concatenate(by_block)
    np.testing.assert_array_equal(found * sign, ones if expected.by_row is None else expected.by_row)
    if expected.inverse is None:
        assert inverse[0] is None
    else:
        np.testing.assert_array_equal(np.concatenate(inverse), expected.inverse)


def test_a_mean_of_weights_that_sum_to_0_is_empty() -> None:
    weighting = row_blocks.Weighting(2, None, -100, 0.0, 0.0, True)
    values = np.array([0.1, 0.2, -0.3 + 2.0**-54])
    parts = [weighting.survey(np.array([0]), (1,), values[i : i + 1]) for i in range(3)]
    exact = sum(map(Fraction, values.tolist()))
    assert row_blocks.combine(parts).total == exact
    parts.append(weighting.survey(np.array([0]), (1,), np.array([-float(exact)])))
    mean = weighting.finish(row_blocks.combine(parts))
    assert mean.empty
    assert mean.of_block(np.array([1]), (1,), values[:1])[0] == 0
