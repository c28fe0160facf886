"""The gate's statistics, against known answers and by simulation."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats

from softmax_ce_bench.gate import decision
from softmax_ce_bench.gate.decision import Exit, Found, Verdict
from softmax_ce_bench.measure.stats import Ratio

N = decision.ROUNDS
RNG = np.random.default_rng(7)


def certain(probability, trials):
    """An interval that a count of so many trials leaves once in a million times."""
    return scipy.stats.binom.interval(1 - 1e-6, trials, probability)


def noise(size, scatter=0.02, far=0.02):
    """Log ratios of equal builds: most scatter a little, some are far off on either side."""
    return RNG.normal(0, scatter, size) + (RNG.random(size) < far) * RNG.normal(0, 0.4, size)


@pytest.mark.parametrize("above", range(N + 1))
def test_the_sign_flip_test_is_the_exact_one(above):
    logs = np.where(np.arange(N) < above, 0.1, -0.2)
    expected = scipy.stats.binomtest(above, N, alternative="greater").pvalue
    np.testing.assert_allclose(decision.p_greater(logs), expected, rtol=1e-12)


def test_the_sign_flip_test_is_the_permutation_of_signs():
    logs = RNG.normal(0.02, 0.03, 11)
    flipped = scipy.stats.permutation_test(
        (logs,), lambda x, axis: np.sum(x > 0, axis=axis), permutation_type="samples", alternative="greater",
        n_resamples=2**12,
    )  # fmt: skip
    np.testing.assert_allclose(decision.p_greater(logs), flipped.pvalue, rtol=1e-12)


def test_rounds_that_are_exactly_equal_are_no_evidence():
    assert decision.p_greater(np.zeros(N)) == 1


def test_a_measurement_is_judged_as_its_parts_say():
    base = RNG.uniform(1, 2, N)
    found = decision.judge(base, 1.2 * base)
    assert found.ratio.median == pytest.approx(1.2)
    assert found.p_slower == 2.0**-N
    assert found.p_faster == 1
    assert found.power == 1
    assert found.is_slower
    back = decision.judge(1.2 * base, base)
    assert (back.p_slower, back.p_faster) == (found.p_faster, found.p_slower)
    assert not back.is_slower


@pytest.mark.parametrize(
    ("slowdown", "slower"), [(1.0699, False), (1.0701, True)], ids=["just below the threshold", "just above"]
)
def test_significance_alone_is_not_enough(slowdown, slower):
    assert bool(decision.calls_slower(np.full((1, N), np.log(slowdown)))[0]) is slower


@pytest.mark.parametrize(("above", "slower"), [(N, True), (N - 1, True), (N - 2, False)])
def test_size_alone_is_not_enough(above, slower):
    logs = np.where(np.arange(N) < above, 0.2, -0.2)
    assert np.median(logs) > np.log(decision.SLOWER)
    assert bool(decision.calls_slower(logs[None])[0]) is slower


def test_power_has_its_known_value():
    # Half as slow again with normal scatter of 0.25: the median is above 1.07 in all but 1e-5, so that what is left
    # is the sign test's own power.
    scatter, shift, trials = 0.25, np.log(1.5), 40_000
    expected = scipy.stats.binom.sf(N - 2, N, scipy.stats.norm.cdf(shift / scatter))
    called = decision.calls_slower(RNG.normal(shift, scatter, (trials, N))).sum()
    low, high = certain(expected, trials)
    assert low - 1 <= called <= high + 1


def test_predicted_power_is_what_simulation_gives():
    # The prediction from one large sample's scatter, against fresh samples of N rounds.
    sample, trials = noise(40_000, 0.05), 20_000
    sample -= np.median(sample)
    fresh = RNG.choice(sample, (trials, N)) + np.log(decision.CLAIM)
    simulated = decision.calls_slower(fresh).mean()
    predicted = np.mean([decision.power(RNG.choice(sample, N), seed=k, resamples=200) for k in range(300)])
    # 16 rounds know their own scatter only roughly: the prediction may be too cautious, never too bold.
    assert -0.12 < predicted - simulated < 0.02
    assert 0.5 < simulated < 0.95  # where a mistake would show


def test_false_alarms_of_a_suite_are_below_one_in_a_hundred():
    suites, cells = 3000, 45
    alarms = 0
    for _ in range(suites):
        once, twice = (decision.calls_slower(noise((cells, N), 0.03)) for _ in range(2))
        alarms += bool((once & twice).any())
    assert scipy.stats.binomtest(alarms, suites).proportion_ci(method="exact").high < 0.01


@pytest.mark.parametrize(("slowdown", "least"), [(1.10, 0.95), (1.20, 0.99), (1.50, 0.99)])
def test_a_slowdown_is_caught_with_the_power_that_is_claimed(slowdown, least):
    # With the scatter that was measured on a shared machine: docs/measurements/gate.md.
    trials = 20_000
    twice = [decision.calls_slower(noise((trials, N), 0.015, 0.005) + np.log(slowdown)) for _ in range(2)]
    assert (twice[0] & twice[1]).mean() >= least


def test_ten_per_cent_faster_is_never_called_slower():
    assert decision.calls_slower(noise((20_000, N)) - np.log(1.1)).sum() == 0


def found(median, p=1e-4, power=1.0, rounds=N):
    slower = median > 1
    return Found(Ratio(median, median - 0.01, median + 0.01), p if slower else 1.0, 1.0 if slower else p, power, rounds)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (found(1.2), found(1.2), Verdict.SLOWER),
        (found(1.2, power=0.1), found(1.2, power=0.1), Verdict.SLOWER),
        (found(1.2), found(1.0), Verdict.ONCE),
        (found(1.2), found(1.0, power=0.9), Verdict.UNSURE),
        (found(1.2), None, Verdict.UNSURE),
        (found(1.2), found(1.2, rounds=14), Verdict.UNSURE),
        (found(1.2, rounds=14), found(1.2), Verdict.UNSURE),
        (found(1.2, p=0.01), None, Verdict.SAME),
        (found(1.06), None, Verdict.NOTED),
        (found(1.06, p=0.01), None, Verdict.SAME),
        (found(1.04), None, Verdict.SAME),
        (found(0.9), None, Verdict.FASTER),
        (found(0.97), None, Verdict.SAME),
        (found(1.0, power=0.97), None, Verdict.UNSURE),  # 0.97 squared is below 0.95
        (found(1.0, power=0.98), None, Verdict.SAME),
    ],
)
def test_verdicts(first, second, expected):
    assert decision.verdict(first, second) is expected


STILL, MOVED = Ratio(1.02, 1.0, 1.04), Ratio(0.96, 0.95, 0.97)


@pytest.mark.parametrize(
    ("verdicts", "control", "expected"),
    [
        ([Verdict.SAME, Verdict.ONCE, Verdict.NOTED, Verdict.FASTER], STILL, Exit.CLEAN),
        ([Verdict.SAME, Verdict.SLOWER], STILL, Exit.SLOWER),
        ([Verdict.UNSURE, Verdict.SLOWER], STILL, Exit.SLOWER),
        ([Verdict.SAME, Verdict.UNSURE], STILL, Exit.INCONCLUSIVE),
        ([Verdict.SAME], MOVED, Exit.INCONCLUSIVE),
        ([Verdict.SLOWER], MOVED, Exit.INCONCLUSIVE),
    ],
)
def test_conclusions(verdicts, control, expected):
    assert decision.conclusion(verdicts, control) is expected


def test_the_exit_codes_are_the_documented_ones():
    assert [int(code) for code in (Exit.CLEAN, Exit.SLOWER, Exit.ERROR, Exit.INCONCLUSIVE)] == [0, 1, 2, 3]
