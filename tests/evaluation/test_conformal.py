"""Promises about missed patients: held in simulated laboratories, and broken by whoever counts images."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.proportion import proportion_confint

from sentinode.evaluation.conformal import (
    NOTHING,
    lowest_by_patient,
    misses_allowed,
    patients_needed,
    smallest_alpha,
    threshold,
)
from sentinode.seeds import stream


@pytest.fixture(scope="module")
def simulation():
    """The simulation of the benchmark, which the page of results comes from."""
    path = Path(__file__).parents[2] / "benchmarks" / "triage_simulation.py"
    spec = importlib.util.spec_from_file_location("triage_simulation", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


KINDS = [
    ("balanced", 160, 0.5, 0.05),
    ("the fewest that do", 59, 1.0, 0.05),
    ("one in ten has a tumour", 1000, 0.1, 0.05),
    ("alpha 1 %", 640, 0.5, 0.01),
    ("few patients", 40, 0.35, 0.1),
]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind[0])
def test_both_promises_are_kept_in_a_thousand_laboratories(simulation, kind):
    found = simulation.simulate(simulation.Laboratory(*kind), 1000, population=200_000)
    alpha = kind[-1]
    assert np.mean(found.confident > alpha) <= 0.062
    assert found.average.mean() <= alpha + 2 * found.average.std(ddof=1) / np.sqrt(1000)


@pytest.mark.parametrize("likeness", [0.5, 0.95])
def test_counting_images_as_if_they_were_patients_breaks_even_its_own_promise(simulation, likeness):
    kind = simulation.Laboratory("naive", 160, 0.5, 0.05, likeness=likeness)
    found = simulation.simulate(kind, 1000, population=200_000)
    assert np.mean(found.naive > 0.05) > 0.15, "of tiles, that it speaks of"
    assert found.naive_patients.mean() > 0.07, "of patients, that it does not speak of"


def test_the_promises_are_not_kept_by_clearing_nothing(simulation):
    found = simulation.simulate(simulation.Laboratory("enough", 160, 0.5, 0.05), 200, population=50_000)
    assert (found.confident > 0).mean() > 0.9
    assert found.average.mean() > 0.03


def test_few_patients_clear_nothing(simulation):
    found = simulation.simulate(simulation.Laboratory("few", 14, 1.0, 0.01), 50, population=20_000)
    assert not found.confident.any()
    assert not found.average.any()


@pytest.mark.parametrize(
    ("alpha", "delta", "n"),
    [(0.01, None, 99), (0.01, 0.05, 299), (0.05, 0.05, 59), (0.05, None, 19), (0.001, None, 999)],
)
def test_the_patients_needed_are_the_fewest_that_may_promise(alpha, delta, n):
    assert patients_needed(alpha, delta) == n
    assert misses_allowed(n, alpha, delta) == 0
    assert misses_allowed(n - 1, alpha, delta) == -1
    assert smallest_alpha(n, delta) <= alpha < smallest_alpha(n - 1, delta)


def test_the_bound_is_that_of_clopper_and_pearson():
    for n, k in ((14, 0), (60, 2), (300, 5)):
        upper = proportion_confint(k, n, alpha=0.1, method="beta")[1]
        assert smallest_alpha(n, 0.05, k) == pytest.approx(upper)


@pytest.mark.parametrize("n", [1, 14, 99, 400])
@pytest.mark.parametrize("alpha", [0.01, 0.05, 0.2])
def test_no_more_misses_are_allowed_than_the_formulas_say(n, alpha):
    k = misses_allowed(n, alpha)
    assert (k + 1) / (n + 1) <= alpha + 1e-12 < (k + 2) / (n + 1) + 1e-9
    k = misses_allowed(n, alpha, 0.05)
    assert k < 0 or stats.binom.cdf(k, n, alpha) <= 0.05
    assert stats.binom.cdf(k + 1, n, alpha) > 0.05


def test_the_threshold_is_where_a_fixed_sequence_of_tests_ends():
    # The plain way: test "more than alpha are missed" at one threshold after the other, stop at the first that stays.
    alpha, delta = 0.05, 0.05
    for seed in range(20):
        lowest = stream(seed, "fixed sequence").random(150)
        grid, last = np.arange(0, 1, 1e-4), 0.0
        for one in grid:
            if stats.binom.cdf((lowest < one).sum(), 150, alpha) > delta:
                break
            last = one
        found = threshold(lowest, misses_allowed(150, alpha, delta))
        assert 0 <= found - last <= 1e-4


def test_a_patient_is_as_safe_as_the_lowest_of_its_tumours():
    names, lowest = lowest_by_patient([0.9, 0.3, 0.1, 0.8], [True, True, False, True], ["b", "b", "b", "a"])
    assert (names.tolist(), lowest.tolist()) == (["a", "b"], [0.8, 0.3])


def test_ties_are_never_cleared_beyond_what_is_allowed():
    lowest = np.array([0.2, 0.2, 0.2, 0.9])
    assert (lowest < threshold(lowest, 1)).sum() == 0
    assert threshold(lowest, -1) == NOTHING
