"""The gate's statistics, against known answers and by simulation."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats

from softmax_ce_bench.gate import decision
from softmax_ce_bench.gate.decision import Exit, Found, Look, Verdict
from softmax_ce_bench.measure.stats import Ratio

N = decision.ROUNDS
RNG = np.random.default_rng(7)


def certain(probability, trials):
    """An interval that a count of so many trials leaves once in a million times."""
    return scipy.stats.binom.interval(1 - 1e-6, trials, probability)


def noise(size, scatter=0.02, far=0.02):
    """Log ratios of equal builds: most scatter a little, some are far off on either side."""
    return RNG.normal(0, scatter, size) + (RNG.random(size) < far) * RNG.normal(0, 0.4, size)


def heavy(size, scatter=0.015, far=0.04):
    """Log ratios of equal builds on a busy machine: 4 % of the rounds are off by a factor, on either side."""
    return RNG.normal(0, scatter, size) + (RNG.random(size) < far) * RNG.standard_t(1.5, size)


def drifting(size, scatter=0.015):
    """The same, and the scatter grows and shrinks from round to round as a random walk does, within a factor of four;
    the centre wanders by as much as half of what counts as slower."""
    measurements, rounds = size
    walks = np.cumsum(RNG.normal(0, 0.3, (2, measurements, rounds)), axis=2)
    return heavy(size, scatter * 2 ** np.tanh(walks[0])) + 0.5 * np.log(decision.SLOWER) * np.sin(walks[1])


NOISES = [pytest.param(noise, id="quiet"), pytest.param(heavy, id="4 % far off"), pytest.param(drifting, id="drifting")]
MOST = decision.rounds_at(6)  # so many rounds are simulated: more than a default run has time for


@pytest.mark.parametrize("above", range(N + 1))
@pytest.mark.parametrize("ratio", [1.0, 1.05])
def test_the_sign_test_is_the_exact_one(above, ratio):
    logs = np.where(np.arange(N) < above, 0.1, -0.2) + np.log(ratio)
    expected = scipy.stats.binomtest(above, N, alternative="greater").pvalue
    np.testing.assert_allclose(decision.p_above(logs, ratio), expected, rtol=1e-12)
    np.testing.assert_allclose(decision.p_below(-logs, 1 / ratio), expected, rtol=1e-12)


def test_the_sign_test_is_the_permutation_of_signs():
    logs = RNG.normal(0.02, 0.03, 11)
    flipped = scipy.stats.permutation_test(
        (logs,), lambda x, axis: np.sum(x > 0, axis=axis), permutation_type="samples", alternative="greater",
        n_resamples=2**12,
    )  # fmt: skip
    np.testing.assert_allclose(decision.p_above(logs), flipped.pvalue, rtol=1e-12)


def test_rounds_that_are_exactly_at_the_limit_are_no_evidence():
    assert decision.p_above(np.zeros(N)) == decision.p_below(np.zeros(N)) == 1


@pytest.mark.parametrize("cells", [1, 45, 1000])
def test_all_looks_together_spend_no_more_than_is_claimed(cells):
    looks = range(1, 10_000)
    alarm = sum(decision.level(decision.alarm_rate(cells), look) for look in looks)
    assert cells * alarm**2 <= decision.FALSE_ALARMS  # both measurements, and any cell
    missed = sum(decision.level(decision.MISSED / 2, look) for look in looks)
    assert 2 * missed <= decision.MISSED  # either measurement


def test_the_looks_are_a_fixed_schedule():
    assert [decision.rounds_at(look) for look in range(1, 7)] == [16, 24, 36, 54, 81, 122]
    assert [decision.rounds_at(look, 2) for look in range(1, 5)] == [2, 3, 5, 7]


def test_a_measurement_is_judged_as_its_parts_say():
    base = RNG.uniform(1, 2, N)
    found = decision.judge(base, 1.2 * base)
    assert found.ratio.median == pytest.approx(1.2)
    assert (found.p_slower, found.p_clean, found.p_different) == (2.0**-N, 1, 2.0 ** (1 - N))
    assert (found.call, found.look, found.rounds) == (Look.SLOWER, 1, N)
    back = decision.judge(1.2 * base, base)
    assert (back.p_slower, back.p_clean, back.p_different) == (1, 2.0**-N, 2.0 ** (1 - N))
    assert back.call is Look.CLEAN


def call(*log_ratios, look=1, cells=45):
    return Look(decision.calls(np.array([log_ratios]), look, cells)[0])


@pytest.mark.parametrize(
    ("ratio", "expected"),
    [
        (1.0, Look.CLEAN),
        (1.0199, Look.CLEAN),
        (1.0201, Look.SLOWER),
        (1.0499, Look.SLOWER),
        (1.2, Look.SLOWER),
    ],
)
def test_rounds_that_agree_are_called_at_once(ratio, expected):
    assert call(*[np.log(ratio)] * N) is expected


@pytest.mark.parametrize(
    ("above", "look", "expected"),
    [(16, 1, Look.SLOWER), (14, 1, Look.SLOWER), (13, 1, Look.OPEN), (4, 1, Look.OPEN), (3, 1, Look.CLEAN),
     (14, 2, Look.SLOWER), (13, 2, Look.OPEN), (3, 2, Look.OPEN), (2, 2, Look.CLEAN), (14, 3, Look.OPEN)],
)  # fmt: skip
def test_so_many_of_sixteen_rounds_are_enough(above, look, expected):
    assert call(*np.where(np.arange(N) < above, 0.2, -0.2), look=look) is expected


def test_with_fewer_rounds_nothing_is_said():
    assert call(*[0.5] * (decision.FEWEST_ROUNDS - 1)) is call(*[-0.5] * (decision.FEWEST_ROUNDS - 1)) is Look.OPEN


def test_more_cells_need_more_evidence():
    logs = np.where(np.arange(N) < 13, 0.2, -0.2)
    assert call(*logs, cells=1) is Look.SLOWER
    assert call(*logs, cells=45) is Look.OPEN


def test_following_looks_where_the_schedule_says():
    late = np.full((3, 60), -0.1)
    late[1, :16] = np.where(np.arange(16) % 2, 0.2, -0.1)  # 8 of 16; clean once there are 24 or 36 rounds
    late[2] = np.where(np.arange(60) % 2, 0.2, -0.2)  # never
    found, rounds = decision.follow(late, 45)
    np.testing.assert_array_equal(found, [Look.CLEAN, Look.CLEAN, Look.OPEN])
    np.testing.assert_array_equal(rounds, [16, 36, 54])  # the last look before the rounds end


@pytest.mark.parametrize("draw", NOISES)
def test_false_alarms_of_a_suite_are_at_most_one_in_a_hundred(draw):
    suites, cells = 500, 45
    twice = [decision.follow(draw((suites * cells, MOST)), cells)[0] == Look.SLOWER for _ in range(2)]
    alarms = (twice[0] & twice[1]).reshape(suites, cells).any(axis=1).sum()
    assert scipy.stats.binomtest(int(alarms), suites).proportion_ci(method="exact").high < decision.FALSE_ALARMS


@pytest.mark.parametrize("scatter", [0.01, 0.3])
def test_looking_again_and_again_errs_no_more_often_than_is_claimed(scatter):
    # The worst that can be: the median lies exactly at the limit, so that each round is a coin.
    trials, cells = 20_000, 45
    coins = heavy((trials, MOST), scatter)
    alarms = (decision.follow(coins + np.log(decision.SLOWER), cells)[0] == Look.SLOWER).sum()
    assert alarms <= certain(decision.alarm_rate(cells), trials)[1]
    missed = (decision.follow(coins + np.log(decision.RULED_OUT), cells)[0] == Look.CLEAN).sum()
    assert missed <= certain(decision.MISSED / 2, trials)[1]


@pytest.mark.parametrize("draw", NOISES)
@pytest.mark.parametrize("slowdown", [1.05, 1.10, 1.50])
def test_a_slowdown_is_caught_as_often_as_is_claimed(draw, slowdown):
    trials = 5000
    twice = [decision.follow(draw((trials, MOST)) + np.log(slowdown), 45)[0] == Look.SLOWER for _ in range(2)]
    assert scipy.stats.binomtest(int((twice[0] & twice[1]).sum()), trials).proportion_ci().low >= 1 - decision.MISSED


@pytest.mark.parametrize(
    ("draw", "most"), [(noise, 24), (heavy, 24), (drifting, 81)], ids=["quiet", "4 % far off", "drifting"]
)
def test_equal_builds_are_clear_soon(draw, most):
    # In 95 of 100 runs every cell is, with so many rounds.
    suites, cells = 300, 45
    found, rounds = decision.follow(draw((suites * cells, MOST)), cells)
    late = ((found != Look.CLEAN) | (rounds > most)).reshape(suites, cells).any(axis=1).mean()
    assert late <= 0.05


@pytest.mark.parametrize("draw", NOISES)
def test_ten_per_cent_faster_is_never_called_slower(draw):
    found, _ = decision.follow(draw((20_000, MOST)) - np.log(1.1), 45)
    assert (found == Look.SLOWER).sum() == 0


def found(median, call=None, p=1e-4, rounds=N):
    if call is None:
        call = Look.SLOWER if median > 1.05 else Look.CLEAN
    return Found(Ratio(median, median - 0.01, median + 0.01), p, p, p, call, 1, rounds)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (found(1.2), found(1.2), Verdict.SLOWER),
        (found(1.2), found(1.0), Verdict.ONCE),
        (found(1.2), found(1.0, Look.OPEN), Verdict.UNSURE),
        (found(1.2), None, Verdict.UNSURE),
        (found(1.2, Look.OPEN), None, Verdict.UNSURE),
        (found(1.0, Look.OPEN), None, Verdict.UNSURE),
        (found(1.03), None, Verdict.NOTED),
        (found(1.03, p=0.01), None, Verdict.SAME),
        (found(1.009), None, Verdict.SAME),
        (found(0.9), None, Verdict.FASTER),
        (found(0.9, p=0.01), None, Verdict.SAME),
        (found(0.995), None, Verdict.SAME),
    ],
)
def test_verdicts(first, second, expected):
    assert decision.verdict(first, second) is expected


STILL, MOVED = Ratio(1.019, 1.0, 1.04), Ratio(0.98, 0.97, 0.99)


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
