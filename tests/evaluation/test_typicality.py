"""Which slides are unlike those that a model was trained on."""

import numpy as np
import pytest

from sentinode.evaluation.typicality import ATYPICAL, Neighbourhood, fit_neighbourhood, fit_typicality
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


def test_the_nearest_are_those_that_looking_at_all_finds():
    """The oracle: every distance after whitening, one by one."""
    rng = stream(6, "typicality")
    features, patient = cohort(7, rng, d=4)
    known, new = fit_neighbourhood(features, patient), rng.normal(0, 3, (20, 4))
    white = (new - known.centre) @ known.whitening
    expected = [np.sort(np.linalg.norm(known.known - one, axis=1))[:5].mean() for one in white]
    assert known.distance(new) == pytest.approx(expected, rel=1e-3)
    spread = np.cov(((features - known.centre) @ known.whitening).T)
    assert spread == pytest.approx(np.eye(4), abs=0.1)


def test_a_patients_own_images_are_not_its_neighbours_when_it_is_held_out():
    """Each patient is a tight cloud of its own: left in, its distances would be those within the cloud."""
    rng = stream(7, "typicality")
    centres = rng.normal(0, 10, (6, 3))
    features = np.concatenate([rng.normal(centre, 0.01, (20, 3)) for centre in centres])
    known = fit_neighbourhood(features, np.repeat([f"p{i}" for i in range(6)], 20))
    assert min(one.min() for one in known.held_out) > 50 * np.median(known.distance(features))


def test_tiles_of_new_patients_are_called_atypical_as_seldom_as_is_said():
    """2 % of them, on average over patients; 150 new patients of 40 tiles each."""
    shares, last = [], []
    for number in range(150):
        rng = stream(number, "tiles of the same kind")
        features, patient = cohort(13, rng, d=3)
        new = patient == "p12"
        known = fit_neighbourhood(features[~new], patient[~new])
        away = known.distance(features[new])
        shares.append((known.p_value(away) <= ATYPICAL).mean())
        last.append(known.slide_p_value(away) < 1.5 / 13)
    assert 0.005 < np.mean(shares) < 0.05
    assert 3 <= sum(last) <= 25  # 150/13 are expected, sd 3.3


def test_p_values_weigh_each_patient_the_same():
    held_out = (np.array([1.0], np.float32), np.array([5.0] * 99, np.float32), np.array([9.0], np.float32))
    known = Neighbourhood(np.zeros(1), np.eye(1), np.zeros((9, 1), np.float32), held_out)
    effective = 9 / (1 + 1 / 99 + 1)
    assert known.least_p == pytest.approx(1 / (1 + effective))
    for away, share in ((0.5, 1), (1.0, 1), (4.0, 2 / 3), (5.0, 2 / 3), (5.1, 1 / 3), (10.0, 0)):
        assert known.p_value([away]) == pytest.approx((1 + effective * share) / (1 + effective))
    assert known.slide_p_value([4.0, 4.0, 99.0]) == pytest.approx(3 / 4)


def test_two_patients_have_no_neighbourhood_and_nobodys_images_are_neighbours_all_the_same():
    features, patient = cohort(5, stream(8, "typicality"))
    assert fit_neighbourhood(features[:120], patient[:120]) is None
    known = fit_neighbourhood(features, np.where(patient == "p4", "", patient))
    assert (known.n_patients, len(known.known)) == (4, 300)
    assert fit_neighbourhood(features[:3], ["a", "b", "c"]) is None
