"""From tiles to a slide, learned: a few numbers of the map, weighed by a logistic regression that few slides can bear.

The plain score of a slide (`summary.slide_score`) is the mean of its five highest tiles apart. Here the same map is
put into the few numbers of `FEATURES`, each of which grows with suspicion; how much each counts is fitted on slides
that the model of the tiles was not trained on. Weights are not negative, so that a more suspicious tile never makes a
slide less suspicious (where tiles do not overlap), and they are held small (L2), for slides are few.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sentinode.errors import ModelError
from sentinode.inference.logistic import weighted_logistic
from sentinode.inference.maps import suspicious_regions
from sentinode.inference.predictions import TilePredictions
from sentinode.inference.summary import highest_apart
from sentinode.models.bundle import SLIDE_SCORE_FILE, Bundle

__all__ = ["FEATURES", "SlideScorer", "fit_scorer", "read_scorer", "scorer_of", "slide_features"]

FEATURES: Mapping[str, str] = {
    "top_1": "log odds of the highest tile",
    "top_5": "log odds of the mean of the five highest tiles, no two of which overlap: the plain score",
    "top_20": "log odds of the mean of the twenty highest tiles, no two of which overlap",
    "share": "log of the share of tiles at 0.5 or more, 0.001 added",
    "largest_mm": "side of a square as large as the largest region at 0.5 or more, mm",
}
"""Name -> what it is. Each grows, or stays, where the probability of a tile grows."""

PENALTY = 1.0
"""Of the squared weights of standardised features, against the summed log loss of the slides."""

FEWEST = 5
"""Slides of either kind below which nothing is fitted."""

FORMAT = "sentinode-slide-scorer-1"
_EPSILON = 1e-3  # probabilities are kept this far from 0 and 1, and shares from 0: beyond, nothing is told apart
_TOPS = (("top_1", 1), ("top_5", 5), ("top_20", 20))


@dataclass(frozen=True)
class SlideScorer:
    """A fitted aggregation.

    Parameters
    ----------
    mean, scale : tuple of float
        Of each feature over the slides that it was fitted on, in the order of `FEATURES`; a scale is positive.
    weights : tuple of float
        Of the standardised features; 0 or more.
    intercept : float
        As if half of the slides had lesions: 0.5 is the middle between the two kinds, whatever their number.
    n_positive, n_negative : int
        Slides that it was fitted on.
    """

    mean: tuple[float, ...]
    scale: tuple[float, ...]
    weights: tuple[float, ...]
    intercept: float
    n_positive: int
    n_negative: int

    @property
    def in_words(self) -> str:
        """What a score is, for a reader."""
        return f"fitted on the maps of {self.n_positive} slides with lesions and {self.n_negative} without"

    def score(self, predictions: TilePredictions) -> float:
        """Score a slide.

        Parameters
        ----------
        predictions : TilePredictions
            Of the slide.

        Returns
        -------
        float
            0 to 1; NaN where no tile was recognised.
        """
        features = slide_features(predictions)
        if not np.isfinite(features).all():
            return math.nan
        return round(float(self.of_features(features[None])[0]), 6)

    def of_features(self, features: ArrayLike) -> NDArray[np.float64]:
        """Score slides by their features.

        Parameters
        ----------
        features : (n, k) float
            Of `slide_features`.

        Returns
        -------
        (n,) float64
            0 to 1.
        """
        standard = (np.asarray(features, dtype=np.float64) - self.mean) / self.scale
        return _logistic(standard @ np.array(self.weights) + self.intercept)

    def to_json(self) -> dict[str, Any]:
        """Write it as JSON would.

        Returns
        -------
        dict
            As `read_scorer` reads it.
        """
        return {"format": FORMAT, "features": list(FEATURES), **vars(self)}


def slide_features(predictions: TilePredictions) -> NDArray[np.float64]:
    """Put the map of a slide into a few numbers.

    Parameters
    ----------
    predictions : TilePredictions
        Of the slide.

    Returns
    -------
    (k,) float64
        In the order of `FEATURES`; NaN where no tile was recognised.
    """
    known = predictions.recognised
    if not known.any():
        return np.full(len(FEATURES), np.nan)
    boxes, proba = predictions.boxes[known], predictions.positive[known].astype(np.float64)
    # Neighbours may be a pixel narrower than the widest: they touch, and do not overlap.
    apart = proba[list(highest_apart(boxes, proba, _TOPS[-1][1], float(boxes[:, 2:].min()) - 1))]
    tops = [_log_odds(float(apart[:n].mean())) for _, n in _TOPS]
    regions = suspicious_regions(predictions)
    largest = max((one.area_mm2 for one in regions), default=0.0)
    # Added is a share, not a tile: where nothing is suspicious, how much tissue there is must not say anything.
    share = math.log(float((proba >= 0.5).mean()) + _EPSILON)
    return np.array([*tops, share, math.sqrt(largest)])


def fit_scorer(features: ArrayLike, positive: ArrayLike, penalty: float = PENALTY) -> SlideScorer:
    """Weigh the features of slides.

    Minimises the log loss, both kinds of slides weighing the same, plus ``penalty / 2`` times the squared weights, over
    weights that are not negative: one minimum, found from one place, without chance.

    Parameters
    ----------
    features : (n, k) float
        Of `slide_features`, of slides that the model of the tiles was not trained on.
    positive : (n,) bool
        Which have lesions.
    penalty : float
        Above 0.

    Returns
    -------
    SlideScorer
        Fitted.

    Raises
    ------
    ModelError
        If there are too few slides of a kind, or a feature is not finite.

    Examples
    --------
    >>> rng = np.random.default_rng(1)
    >>> positive = np.arange(40) % 2 == 1
    >>> features = rng.normal(size=(40, 5)) + positive[:, None] * [0, 3, 0, 0, 0]
    >>> int(np.argmax(fit_scorer(features, positive).weights))
    1
    """
    table, truth = np.asarray(features, dtype=np.float64), np.asarray(positive, dtype=bool)
    n_positive, n_negative = int(truth.sum()), int((~truth).sum())
    if min(n_positive, n_negative) < FEWEST:
        raise ModelError(
            f"{n_positive} slides with lesions and {n_negative} without: a slide score is fitted on {FEWEST} of either "
            "kind at least, and on more with profit"
        )
    if not np.isfinite(table).all():
        raise ModelError("a slide has no tile that was recognised, and cannot be fitted on; leave it out")
    mean, scale = table.mean(axis=0), table.std(axis=0)
    scale[scale < 1e-9] = 1.0  # a feature that is always the same says nothing, and gets no weight
    standard = (table - mean) / scale
    weight = np.where(truth, 0.5 / n_positive, 0.5 / n_negative) * len(truth)
    found = weighted_logistic(standard, truth, weight, penalty, bounded=True)
    *weights, intercept = (round(float(value), 6) for value in found)
    return SlideScorer(
        tuple(mean.round(6).tolist()),
        tuple(scale.round(6).tolist()),
        tuple(weights),
        intercept,
        n_positive,
        n_negative,
    )


def read_scorer(text: str, source: object) -> SlideScorer:
    """Read an aggregation.

    Parameters
    ----------
    text : str
        JSON, as `SlideScorer.to_json` has it.
    source : object
        For messages.

    Returns
    -------
    SlideScorer
        Equal to what was written.

    Raises
    ------
    ModelError
        If it is none, or one of other features.
    """
    try:
        values = json.loads(text)
        if values["format"] != FORMAT or values["features"] != list(FEATURES):
            raise ModelError(f"{source}: is of another Sentinode (other features); fit the slide score again")
        lists = {name: _numbers(values[name]) for name in ("mean", "scale", "weights")}
        return SlideScorer(
            **lists,
            intercept=_numbers([values["intercept"]], 1)[0],
            n_positive=int(values["n_positive"]),
            n_negative=int(values["n_negative"]),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{source}: cannot be read ({error}); fit the slide score again") from error


def scorer_of(bundle: Bundle) -> SlideScorer | None:
    """Read how a model puts tiles together.

    Parameters
    ----------
    bundle : Bundle
        Read, that is checked.

    Returns
    -------
    SlideScorer or None
        None where nothing was fitted: then the plain score holds.

    Raises
    ------
    ModelError
        If it cannot be read, or is of another Sentinode.
    """
    # ModelError is that of read_scorer, too.
    text = bundle.text(SLIDE_SCORE_FILE)
    return None if text is None else read_scorer(text, bundle.folder / SLIDE_SCORE_FILE)


def _numbers(values: Sequence[Any], n: int = len(FEATURES)) -> tuple[float, ...]:
    numbers = tuple(float(value) for value in values)
    if len(numbers) != n or not all(map(math.isfinite, numbers)):
        raise ValueError(f"{n} finite numbers are due")
    return numbers


def _log_odds(proba: float) -> float:
    inside = min(max(proba, _EPSILON), 1 - _EPSILON)
    return math.log(inside / (1 - inside))


def _logistic(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.exp(-np.logaddexp(0, -x))
