"""The fitted score of a slide: its features, that it never falls where suspicion grows, what it is kept as."""

import json
from dataclasses import replace

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from sentinode.errors import ModelError
from sentinode.inference.aggregation import FEATURES, fit_scorer, read_scorer, slide_features
from sentinode.inference.summary import slide_score
from sentinode.seeds import stream


def with_positive(predictions, positive):
    positive = positive.astype(np.float32)
    return replace(predictions, proba=np.stack([1 - positive, positive], axis=1))


@pytest.fixture
def fitted():
    """Of 40 slides whose features say something, some of it twice."""
    rng = stream(1, "fitted slide score")
    positive = np.arange(40) % 2 == 1
    features = rng.normal(size=(40, len(FEATURES))) + positive[:, None] * np.array([1.5, 1.0, 0.0, 1.0, -1.0])
    return features, positive, fit_scorer(features, positive)


def test_the_features_are_what_they_are_said_to_be(predict_discs):
    side = 96 / 0.243
    drawn = predict_discs([(2 * side, 2 * side, 1.1 * side), (20.5 * side, 9.5 * side, 0.3 * side)])
    found = dict(zip(FEATURES, slide_features(drawn), strict=True))
    n_high = int((drawn.positive > 0.5).sum())
    assert n_high == 5, "four tiles, and one"
    odds = lambda p: np.log(p / (1 - p))  # noqa: E731 - as on paper
    assert found["top_1"] == pytest.approx(odds(0.9), abs=1e-5)
    assert found["top_5"] == pytest.approx(odds(slide_score(drawn)), abs=1e-5)
    assert found["top_20"] == pytest.approx(odds((5 * 0.9 + 15 * 0.1) / 20), abs=1e-5)
    assert found["share"] == pytest.approx(np.log(5 / len(drawn) + 0.001))
    assert found["largest_mm"] == pytest.approx(2 * 0.096, rel=0.01)


def test_how_much_tissue_there_is_says_nothing_where_nothing_is_suspicious(predict_discs):
    large = predict_discs([])
    keep = np.arange(len(large)) < 60
    small = replace(
        large, boxes=large.boxes[keep], proba=large.proba[keep], tissue=large.tissue[keep], flag=large.flag[keep]
    )
    assert slide_features(small).tolist() == slide_features(large).tolist()


def test_a_slide_of_which_nothing_was_recognised_has_no_score(predict_discs, fitted):
    drawn = predict_discs([])
    nothing = replace(drawn, flag=np.full(len(drawn), "blur"), proba=np.full_like(drawn.proba, np.nan))
    assert np.isnan(slide_features(nothing)).all()
    assert np.isnan(fitted[2].score(nothing))


def test_a_more_suspicious_tile_never_makes_a_slide_less_suspicious(predict_discs, fitted):
    rng = stream(1, "more suspicious")
    drawn = with_positive(predict_discs([]), rng.beta(0.5, 3, len(predict_discs([]))))
    before = fitted[2].score(drawn)
    for row in rng.integers(0, len(drawn), 12).tolist():
        positive = drawn.positive.copy()
        positive[row] = positive[row] + (1 - positive[row]) * rng.random()
        drawn = with_positive(drawn, positive)
        after = fitted[2].score(drawn)
        assert 0 <= before <= after <= 1
        before = after


def test_the_fit_is_the_best_there_is_among_weights_that_are_not_negative(fitted):
    features, positive, scorer = fitted
    assert min(scorer.weights) == 0, "the feature that says the contrary gets none"
    standard = (features - scorer.mean) / scorer.scale
    kept = np.array(scorer.weights) > 0
    plain = LogisticRegression(C=1.0, class_weight="balanced", tol=1e-8).fit(standard[:, kept], positive)
    # Where no bound is met, it is what anybody's logistic regression gives.
    assert np.array(scorer.weights)[kept] == pytest.approx(plain.coef_[0], abs=2e-3)
    assert scorer.intercept == pytest.approx(plain.intercept_[0], abs=2e-3)


def test_kinds_weigh_the_same_however_many_there_are(fitted):
    features, positive, _ = fitted
    rows = np.concatenate([np.flatnonzero(positive), np.repeat(np.flatnonzero(~positive), 3)])
    assert fit_scorer(features[rows], positive[rows]).of_features(features).mean() == pytest.approx(0.5, abs=0.06)


def test_too_few_slides_are_refused(fitted):
    features, positive, _ = fitted
    with pytest.raises(ModelError, match="4 slides with lesions and 5 without"):
        fit_scorer(features[:9], positive[:9])
    with pytest.raises(ModelError, match="no tile that was recognised"):
        fit_scorer(np.where(np.arange(40)[:, None] == 3, np.nan, features), positive)


def test_it_is_read_as_it_was_written(fitted):
    scorer = fitted[2]
    assert read_scorer(json.dumps(scorer.to_json()), "slide-score.json") == scorer


@pytest.mark.parametrize(
    "change",
    [{"features": ["top_1"]}, {"weights": [1.0]}, {"scale": [None] * 5}, {"format": "another"}, {"intercept": "nan"}],
    ids=lambda change: next(iter(change)),
)
def test_what_is_none_is_refused_by_its_file(fitted, change):
    with pytest.raises(ModelError, match=r"^slide-score\.json: .*fit the slide score again"):
        read_scorer(json.dumps({**fitted[2].to_json(), **change}), "slide-score.json")
    with pytest.raises(ModelError, match="cannot be read"):
        read_scorer("{", "slide-score.json")
