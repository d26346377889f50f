"""Which slides are unlike those that a model was trained on."""

import numpy as np
import pytest

from sentinode.evaluation.typicality import fit_typicality
from sentinode.seeds import stream


def cohort(n_patients, rng, d=5, shift=0.0):
    """Patients with a stain of their own: (n, d) features and whose each is."""
    own = rng.normal(0, 1, (n_patients, d)) + shift
    features = np.concatenate([rng.normal(centre, 1, (60, d)) for centre in own])
    return features, np.repeat([f"p{i}" for i in range(n_patients)], 60)


def test_another_stain_is_further_away_than_every_patient():
    rng = stream(1, "typicality")
    typicality = fit_typicality(*cohort(15, rng))
    other, _ = cohort(1, rng, shift=6.0)
    assert typicality.p_value(other) == pytest.approx(1 / 16)


def test_a_slide_of_the_same_kind_is_called_so_as_often_as_is_said():
    """With fifteen patients p = 1/16 comes once in sixteen slides; 300 slides: 18.75 are expected, sd 4.2."""
    alarms = 0
    for number in range(300):
        rng = stream(number, "same kind")
        features, patient = cohort(16, rng)
        new = patient == "p15"
        alarms += fit_typicality(features[~new], patient[~new]).p_value(features[new]) < 1.5 / 16
    assert 6 <= alarms <= 32


def test_distance_is_that_of_mahalanobis():
    rng = stream(2, "typicality")
    features, patient = cohort(6, rng, d=3)
    found = fit_typicality(features, patient).distance(features[:10])
    covariance = np.cov(features.T)
    expected = [
        np.sqrt((x - features.mean(0)) @ np.linalg.solve(covariance, x - features.mean(0))) for x in features[:10]
    ]
    assert found == pytest.approx(expected, rel=1e-3)


def test_two_patients_cannot_say_how_much_patients_differ():
    assert fit_typicality(*cohort(2, stream(3, "typicality"))) is None


def test_images_of_nobody_are_no_patient():
    features, patient = cohort(5, stream(4, "typicality"))
    patient = np.where(patient == "p4", "", patient)
    assert len(fit_typicality(features, patient).held_out) == 4


def test_a_feature_that_never_varies_makes_nothing_infinite():
    features, patient = cohort(5, stream(5, "typicality"))
    features[:, 0] = 7.0
    assert np.isfinite(fit_typicality(features, patient).held_out).all()
