"""A change is noticed soon, and no change is called one no more often than was promised."""

import numpy as np
import pytest
from scipy.stats import binom, kstest

from sentinode.errors import PlanError
from sentinode.evaluation.drift import conformal_p_values, drift_test, joined, log_martingale
from sentinode.evaluation.typicality import fit_typicality
from sentinode.seeds import stream


def streams(n, shift, purpose, known=15, new=40):
    """Distances of `known` training patients and `new` cases, n times."""
    for number in range(n):
        rng = stream(number, purpose)
        yield rng.gamma(4, size=known), rng.gamma(4, size=new) + shift, number


def test_streams_that_have_not_changed_alarm_no_more_often_than_promised():
    """Ville: the probability is at most alarm, so that 500 streams stay below the binomial's 99.9 % quantile."""
    ends = [
        drift_test(known, new, alarm=0.05, seed=seed).log10_evidence.max()
        for known, new, seed in streams(500, 0.0, "same")
    ]
    counts = {alarm: int((np.array(ends) >= -np.log10(alarm)).sum()) for alarm in (0.01, 0.05, 0.2)}
    assert all(count <= binom.ppf(0.999, 500, alarm) for alarm, count in counts.items()), counts
    assert counts[0.2] > 10, "and it is no test that never alarms"


def test_the_money_is_a_martingale():
    """Whatever came before, each bet is worth 1 in the mean over a uniform p."""
    u = (np.arange(2000) + 0.5) / 2000
    grid, weight = u**20, 20 * u**19  # p = u^20: the power martingales grow without bounds towards 0
    before = np.array([0.3, 0.02, 0.8])
    for length in range(4):
        start = log_martingale(before[:length], 15)[-1] if length else 0.0
        ends = [log_martingale(np.append(before[:length], p), 15)[-1] for p in grid]
        assert (weight * np.exp(np.array(ends) - start)).mean() == pytest.approx(1, abs=0.01)


def test_p_values_of_exchangeable_cases_are_uniform_and_independent():
    p = np.array([conformal_p_values(known, new, stream(n, "ties")) for known, new, n in streams(300, 0.0, "u", 5, 6)])
    assert kstest(p.ravel(), "uniform").pvalue > 0.001
    assert np.abs(np.corrcoef(p.T) - np.eye(6)).max() < 0.25
    ties = conformal_p_values(np.ones(9), np.ones(400), stream(1, "ties"))
    assert kstest(ties, "uniform").pvalue > 0.001


@pytest.mark.parametrize(("shift", "share", "within"), [(20.0, 0.99, 5), (6.0, 0.9, 40)])
def test_a_stream_of_another_kind_alarms(shift, share, within):
    found = [drift_test(known, new, seed=seed).alarmed_at for known, new, seed in streams(100, shift, "other")]
    assert np.mean([at is not None and at <= within for at in found]) >= share


def test_a_change_that_comes_late_is_noticed_after_it_came():
    rng = stream(3, "late")
    new = rng.gamma(4, size=60)
    assert drift_test(rng.gamma(4, size=30), new).alarmed_at is None
    new[30:] += 20
    assert 31 < drift_test(rng.gamma(4, size=30), new).alarmed_at <= 50


def test_patients_with_stains_of_their_own_raise_no_alarm():
    """All of it, on 80 cohorts: training patients left out in turn are further away than new ones, never nearer."""
    alarms = 0
    for number in range(80):
        rng = stream(number, "patients")
        cohort = rng.normal(size=(55, 1, 6)) + rng.normal(size=(55, 30, 6))
        typicality = fit_typicality(cohort[:15].reshape(-1, 6), np.repeat(np.arange(15).astype(str), 30))
        away = [np.median(typicality.distance(one)) for one in cohort[15:]]
        alarms += drift_test(typicality.held_out, away, 0.05, number).alarmed_at is not None
    assert alarms <= binom.ppf(0.999, 80, 0.05)


def test_the_same_stream_gets_the_same_answer_and_an_empty_one_none():
    first, again = (drift_test([1, 2, 3], [2, 2, 5]) for _ in range(2))
    assert first.p_values.tolist() == again.p_values.tolist()
    assert drift_test([1, 2, 3], []).alarmed_at is None
    with pytest.raises(PlanError, match=r"alarm = 1: a probability above 0"):
        drift_test([1], [1], alarm=1)


def test_two_distances_of_the_same_cases_keep_the_promise_whatever_they_have_in_common():
    alarms = []
    for seed in range(200):
        rng = stream(seed, "joined")
        cases = rng.normal(size=(45, 2))
        cases[:, 1] = -cases[:, 0] + 0.3 * cases[:, 1]  # what one calls usual is unusual to the other
        tests = [drift_test(cases[:15, k], cases[15:, k], alarm=0.1, seed=seed) for k in range(2)]
        both = joined(tests)
        alarms.append(both.alarmed_at is not None)
        greater = np.maximum(*(one.log10_evidence for one in tests))
        np.testing.assert_allclose(both.log10_evidence, greater - np.log10(2))
    assert sum(alarms) <= 0.1 * 200 + 2 * np.sqrt(200 * 0.1 * 0.9)
