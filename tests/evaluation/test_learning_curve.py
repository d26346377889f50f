import numpy as np
import pytest
from scipy.optimize import least_squares

from sentinode.evaluation.learning_curve import RATES, PowerLaw, fit_power_law, learning_curve
from sentinode.seeds import stream

SIZES = (2, 4, 8, 16)


def measured(law, n_patients=40, n_repeats=6, patches=20, seed=1):
    """Patches that are called right as often as a power law says; a quarter of the patients tests in each repeat."""
    patients = np.array([f"p{number:02d}" for number in range(n_patients)])
    rng = stream(seed, "toy")
    parts = [rng.permutation(patients)[: n_patients // 4] for _ in range(n_repeats)]
    found = {}
    for size in SIZES:
        found[size] = []
        for tested in parts:
            patient = np.repeat(tested, patches)
            positive = np.tile([True, False], len(patient) // 2)
            wrong = rng.random(len(patient)) < law.error(size)
            found[size].append((positive, np.where(positive ^ wrong, 0.9, 0.1), patient))
    return found


def test_a_law_is_found_again():
    law = PowerLaw(0.08, 0.5, 0.6)
    found = fit_power_law(SIZES, law.error(SIZES))
    assert found.error([1, 3, 32]) == pytest.approx(law.error([1, 3, 32]), abs=2e-3)


@pytest.mark.parametrize("seed", range(8))
def test_no_general_search_finds_a_better_law(seed):
    rng = stream(seed, "oracle")
    sizes = np.array([2.0, 3, 5, 8, 13])
    errors = np.clip(0.1 + 0.4 * sizes**-0.5 + rng.normal(0, 0.03, 5), 0, 1)
    weights = rng.uniform(0.5, 2, 5)

    def residuals(law):
        return np.sqrt(weights) * (law[0] + law[1] * sizes ** -law[2] - errors)

    bounds = ([0, -np.inf, RATES[0]], [1, np.inf, RATES[-1]])
    best = min(least_squares(residuals, (0.1, 0.3, c), bounds=bounds).cost for c in (0.1, 0.5, 1.5))
    law = fit_power_law(sizes, errors, weights)
    ours = 0.5 * (residuals((law.a, law.b, law.c)) ** 2).sum()
    assert ours <= best * 1.002 + 1e-9


def test_a_point_that_weighs_more_is_nearer_to_the_law():
    errors = [0.5, 0.2, 0.3, 0.1]
    light, heavy = (fit_power_law(SIZES, errors, [1, weight, 1, 1]) for weight in (0.01, 100))
    assert abs(heavy.error(4) - 0.2) < abs(light.error(4) - 0.2)


def test_an_error_that_rises_is_told_as_one():
    found = fit_power_law(SIZES, [0.1, 0.15, 0.2, 0.22])
    assert found.b < 0
    assert found.error(32) > 0.22


def test_no_law_leaves_what_an_error_can_be():
    assert (PowerLaw(0.0, 3.0, 0.5).error([1, 1e9]) <= 1).all()
    assert fit_power_law(SIZES, [0.3, 0.2, 0.1, 0.0]).a >= 0


def test_a_steep_curve_promises_a_gain_and_holds_the_true_one():
    law = PowerLaw(0.0, 0.6, 0.5)
    curve = learning_curve(measured(law), "accuracy", n=500)
    true = float(law.error(16) - law.error(32))
    assert curve.verdict == "gain"
    assert curve.gain.low <= true <= curve.gain.high
    assert curve.fall.low > 0


def test_a_flat_curve_promises_little():
    curve = learning_curve(measured(PowerLaw(0.05, 0.0, 0.5), n_patients=80, patches=60), "accuracy", n=500)
    assert curve.verdict == "little"
    assert curve.gain.low < 0.01


def test_few_patients_cannot_tell():
    curve = learning_curve(measured(PowerLaw(0.0, 0.6, 0.5), n_patients=8), "accuracy", n=200)
    assert curve.verdict == "unclear"
    assert "patients were tested" in curve.reason


def test_three_sizes_cannot_tell():
    found = measured(PowerLaw(0.0, 0.6, 0.5))
    del found[4]
    assert "3 sizes" in learning_curve(found, "accuracy", n=200).reason


def test_two_repeats_cannot_tell():
    found = {size: repeats[:2] for size, repeats in measured(PowerLaw(0.0, 0.6, 0.5)).items()}
    assert "2 repeats" in learning_curve(found, "accuracy", n=200).reason


def test_the_interval_of_the_gain_is_wider_with_fewer_patients():
    law = PowerLaw(0.05, 0.5, 0.5)
    few, many = (learning_curve(measured(law, n_patients=n), "accuracy", n=500).gain for n in (16, 160))
    assert few.high - few.low > many.high - many.low


def test_the_same_seed_gives_the_same_interval():
    found = measured(PowerLaw(0.05, 0.5, 0.5))
    first, again = (learning_curve(found, "auc", n=200, seed=3).gain for _ in range(2))
    assert first == again
    assert learning_curve(found, "auc", n=200, seed=4).gain.low != first.low


def test_sizes_of_other_repeats_are_refused():
    found = measured(PowerLaw(0.05, 0.5, 0.5))
    found[4] = found[4][:-1]
    with pytest.raises(ValueError, match="same repeats"):
        learning_curve(found, "accuracy")
