"""The promises and the p-values against two libraries for conformal prediction, MAPIE and crepes."""

import numpy as np
import pytest
from crepes import ConformalClassifier
from mapie.risk_control.methods import (
    compute_hoeffding_bentkus_p_value,
    find_best_predict_param,
    get_r_hat_plus,
)

from sentinode.evaluation.conformal import misses_allowed, threshold
from sentinode.evaluation.typicality import fit_typicality


@pytest.mark.parametrize("n", [20, 99, 150, 298, 299, 500])
@pytest.mark.parametrize("alpha", [0.01, 0.05, 0.1])
def test_learn_then_test_allows_as_many_misses_as_mapie(n, alpha):
    """Its p-value for a loss of 0 or 1 is the binomial tail, as ours (Angelopoulos et al. 2021, section 3.2)."""
    shares = (np.arange(n) - 1e-9).clip(0) / n  # it rounds n times the share up again
    p_values = compute_hoeffding_bentkus_p_value(shares, n, alpha, binary=True)[:, 0]
    rejected = np.cumprod(p_values <= 0.05)  # one after the other, up to the first that is not
    assert misses_allowed(n, alpha, 0.05) == rejected.sum() - 1


@pytest.mark.parametrize("alpha", [0.013, 0.047, 0.11, 0.205])
@pytest.mark.parametrize("n", [40, 99, 300])
def test_risk_control_finds_the_threshold_of_mapie(n, alpha):
    """Where (k + 1) / (n + 1) is alpha exactly, MAPIE allows a miss less: the theorem has "at most"."""
    lowest = np.sort(np.random.default_rng(n).beta(5, 2, n))
    k = misses_allowed(n, alpha)
    places = np.concatenate([[0.0], (lowest[1:] + lowest[:-1]) / 2])  # between the patients, and below them all
    missed = (lowest[:, None] < places).astype(float)
    _, bound = get_r_hat_plus(missed, places, "crc", None, None, None)
    if bound[0] >= alpha:
        assert k == -1
        return
    theirs = float(find_best_predict_param(places, bound, np.array([alpha]))[0])
    ours = threshold(lowest, k)
    assert (lowest < theirs).sum() == (lowest < ours).sum() == k


def test_the_p_value_of_a_slide_is_that_of_crepes():
    rng = np.random.default_rng(1)
    features = rng.normal(size=(400, 3)) + np.repeat(rng.normal(size=(20, 3)), 20, axis=0)
    typicality = fit_typicality(features, np.repeat(np.arange(20), 20).astype(str))
    theirs = ConformalClassifier().fit(typicality.held_out)
    for away in (0.0, 1.0, 2.0, 3.0, 9.0):
        slide = rng.normal(size=(15, 3)) + away
        median = np.median(typicality.distance(slide))
        (expected,) = theirs.predict_p(np.array([[median]]), smoothing=False)[0]
        assert typicality.p_value(slide) == pytest.approx(expected)
