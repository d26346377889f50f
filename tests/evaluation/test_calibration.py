"""Probabilities that come true, and how far those that do not are away."""

import numpy as np
import pytest
from scipy import special
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from sentinode.errors import PlanError
from sentinode.evaluation.calibration import (
    MEASURES,
    Calibration,
    choose_calibration,
    fit_calibration,
    measure_calibration,
    reliability,
)
from sentinode.seeds import stream


def patients(n=40, images=50, *, said=lambda z: z, spread=1.0, seed=1):
    """Images whose probability is expit(z), of which a model says expit(said(z)); patients differ by `spread`."""
    rng = stream(seed, "calibration test")
    z = rng.normal(0, 1.5, (n, images)) + rng.normal(0, spread, (n, 1))
    truth = rng.random((n, images)) < special.expit(z)
    p = special.expit(said(z)).ravel()
    return truth.ravel().astype(np.int64), np.column_stack([1 - p, p]), np.repeat(np.arange(n), images)


def test_a_temperature_finds_how_much_too_loud_a_model_is():
    codes, proba, _ = patients(said=lambda z: 2.5 * z)
    assert 1 / fit_calibration("temperature", codes, proba).slope == pytest.approx(2.5, rel=0.1)


def test_platt_is_the_logistic_regression_on_the_log_odds():
    codes, proba, _ = patients(said=lambda z: 2 * z + 1)
    found = fit_calibration("platt", codes, proba)
    z = special.logit(proba[:, 1])[:, None]
    reference = LogisticRegression(C=1e9).fit(z, codes)  # Platt's targets differ from 0 and 1 by 1 in 1000
    assert found.slope == pytest.approx(reference.coef_[0, 0], rel=0.01)
    assert found.offset == pytest.approx(reference.intercept_[0], abs=0.01)


def test_isotonic_passes_the_blocks_of_scikit_learn():
    codes, proba, _ = patients()
    reference = IsotonicRegression().fit(proba[:, 1], codes)
    for score, value in fit_calibration("isotonic", codes, proba).knots:
        clipped = np.clip(reference.predict([score])[0], 1 / 2002, 2001 / 2002)
        assert value == pytest.approx(clipped, abs=1e-9)


@pytest.mark.parametrize("method", ["none", "temperature", "platt", "isotonic"])
def test_a_calibration_keeps_the_order_and_stays_inside(method):
    codes, proba, _ = patients(said=lambda z: 3 * z - 1)
    calibration = fit_calibration(method, codes, proba)
    grid = np.array([0.0, 1e-6, 0.01, 0.2, 0.4, 0.6, 0.9, 0.99, 1.0])
    given = calibration.apply(np.column_stack([1 - grid, grid]))
    assert given.dtype == np.float32
    assert np.allclose(given.sum(axis=1), 1)
    assert (np.diff(given[:, 1]) > 0).all()
    assert method == "none" or (given[0, 1] > 0 and given[-1, 1] < 1)


def test_a_perfectly_separated_part_gives_no_infinite_curve():
    codes = np.repeat([0, 1], 50)
    proba = np.column_stack([1 - codes, codes]).astype(float)
    found = choose_calibration(codes, proba, np.arange(100) % 10)
    assert np.isfinite([found.calibration.slope, found.calibration.offset]).all()
    assert 0 < found.calibration.apply(np.array([[0.0, 1.0]]))[0, 1] <= 1


def test_a_temperature_of_separated_classes_does_not_bet_everything():
    # Eight patients whose images lie on the right side of 0.5, and one image of the ninth that does not.
    codes = np.array([0, 1] * 36)
    p = np.where(codes == 1, 0.7, 0.3)
    p[-1] = 0.45
    found = choose_calibration(codes, np.column_stack([1 - p, p]), np.arange(72) // 8)
    assert found.losses["temperature"] < found.losses["none"]
    separated = fit_calibration("temperature", codes[:64], np.column_stack([1 - p, p])[:64])
    assert 1 < separated.slope < 8


def test_more_than_two_classes_have_a_temperature_that_sums_to_one():
    rng = stream(1, "three classes")
    logits = rng.normal(0, 1, (3000, 3))
    codes = np.array([rng.choice(3, p=special.softmax(row)) for row in logits])
    found = choose_calibration(codes, special.softmax(3 * logits, axis=1), np.arange(3000) // 30)
    assert set(found.losses) == {"none", "temperature"}
    assert 1 / found.calibration.slope == pytest.approx(3, rel=0.1)
    assert np.allclose(found.calibration.apply(special.softmax(logits, axis=1)).sum(axis=1), 1)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (lambda z: z, {"none", "temperature", "platt"}),
        (lambda z: 4 * z, {"temperature", "platt"}),
        (lambda z: z + 2, {"platt"}),
        (lambda z: np.where(z > 0, 0.2, 3.0) * z, {"isotonic"}),
    ],
    ids=["honest", "too loud", "shifted", "bent"],
)
def test_the_method_that_fits_is_chosen(said, expected):
    found = choose_calibration(*patients(60, 50, said=said, spread=0.3))
    assert found.calibration.method in expected


def test_few_patients_get_no_isotonic_curve():
    assert "isotonic" not in choose_calibration(*patients(19, 100)).losses
    assert "isotonic" not in choose_calibration(*patients(40, 10)).losses
    assert "isotonic" in choose_calibration(*patients(20, 50)).losses


def test_whole_patients_are_held_out():
    # Each patient's images are all of one class, and the model's score is the patient's number: only who has seen the
    # patient can know the class, so no curve is worth more than the share of the class.
    owner = np.repeat(np.arange(30), 40)
    rng = stream(2, "patients of one class")
    codes = (rng.permutation(30) % 2)[owner]
    p = (owner + rng.random(len(owner))) / 30
    found = choose_calibration(codes, np.column_stack([1 - p, p]), owner)
    assert min(found.losses.values()) > 0.6


def test_too_few_patients_are_told():
    codes, proba, patient = patients(4, 10)
    with pytest.raises(PlanError, match="has 4 patients"):
        choose_calibration(codes, proba, patient)
    codes, proba, patient = patients(6, 10)
    with pytest.raises(PlanError, match="1 with images of the class that is looked for"):
        choose_calibration(np.where(patient == 0, 1, 0), proba, patient)


# --- measuring ----------------------------------------------------------------------------------------------


def test_murphys_parts_add_up_to_the_brier_score_of_binned_forecasts():
    codes, proba, patient = patients()
    binned = np.round(proba[:, 1], 1)
    found = measure_calibration(codes, binned, patient, bins=40)
    parts = found["reliability"].value - found["resolution"].value + found["uncertainty"].value
    assert parts == pytest.approx(found["brier"].value, abs=1e-12)
    assert found["brier"].value == pytest.approx(np.mean((binned - codes) ** 2))


def test_the_error_is_what_it_was_made_to_be():
    codes, proba, patient = patients(400, 50, spread=0)
    shifted = np.clip(proba[:, 1] + 0.1, 0, 1)
    found = measure_calibration(codes, shifted, patient, n=50)
    assert found["ece"].value == pytest.approx(0.1, abs=0.01)
    assert found["rms_corrected"].value == pytest.approx(0.1, abs=0.01)


def test_the_corrected_error_of_an_honest_model_is_zero_on_average():
    # Patients of an honest model: the plain error is what chance gives, the corrected one has its mean of squares at 0.
    plain, corrected = [], []
    for seed in range(40):
        codes, proba, patient = patients(20, 20, spread=1.0, seed=seed)
        found = measure_calibration(codes, proba[:, 1], patient, n=2)
        plain.append(found["reliability"].value)
        corrected.append(found["rms_corrected"].value ** 2)
    assert np.mean(plain) > 4e-3
    assert np.mean(corrected) < np.mean(plain) / 4


def test_the_interval_over_patients_holds_an_error_that_is_there():
    held = 0
    for seed in range(20):
        codes, proba, patient = patients(30, 30, spread=0.3, seed=100 + seed)
        found = measure_calibration(codes, np.clip(proba[:, 1] * 0.8, 0, 1), patient, n=200)
        held += found["ece"].low <= np.mean(proba[:, 1]) * 0.2 <= found["ece"].high
        assert found["ece"].low <= found["ece"].value <= found["ece"].high
    assert held >= 16


def test_one_patient_gives_numbers_without_an_interval():
    found = measure_calibration([True, False], [0.9, 0.2], ["ann", "ann"])
    assert set(found) == set(MEASURES)
    assert np.isnan(found["ece"].low)
    assert found["brier"].value == pytest.approx(0.025)


def test_nothing_gives_nan():
    assert np.isnan(measure_calibration([], [], [])["ece"].value)


def test_equal_probabilities_are_one_bin():
    diagram = reliability([True, False, False, False] * 25, [0.25] * 100, np.arange(100))
    assert diagram.n_images.tolist() == [100]
    assert diagram.true[0] == 0.25
    assert diagram.low[0] < 0.25 < diagram.high[0]


def test_an_identity_changes_nothing():
    proba = np.array([[0.3, 0.7]], dtype=np.float32)
    assert Calibration("none").apply(proba).tolist() == proba.tolist()
