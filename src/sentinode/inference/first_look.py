"""A first look at tiles: which of them a network need not see, told by numbers that are measured anyway.

Before a tile is recognised it is judged, and eighteen numbers say what it looks like (`sentinode.slides.appearance`). A
logistic regression on them, their squares and products guesses whether the network would call the tile suspicious. What
scores below a threshold is spared: the network is not asked, and the lowest answer that it gave to such a tile stands
for its own, so that nothing which it has seen ranks behind.

The threshold is not of labels but of agreement: on patients to whom neither the network nor the regression was fitted,
the share of the tiles that the network calls suspicious and the first look would have spared is bounded, on the mean
over patients, by conformal risk control or learn then test (`sentinode.evaluation.conformal`). So slides without
annotations are evidence. It holds for slides like these: one that looks further away than each of them is not spared.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sentinode.errors import ModelError
from sentinode.evaluation.conformal import mean_loss_allowed
from sentinode.evaluation.typicality import evenly
from sentinode.inference.logistic import weighted_logistic
from sentinode.models.bundle import FIRST_LOOK_FILE, Bundle
from sentinode.seeds import stream

__all__ = ["SUSPICIOUS", "FirstLook", "LookedAt", "first_look_of", "fit_first_look", "read_first_look"]

FORMAT = "sentinode-first-look-1"

SUSPICIOUS = 0.5
"""Probability from which the network calls a tile suspicious."""

FITTED = 4
"""One patient of so many is fitted on; the others set the threshold, for they are what the promise rests on."""

MOST_FITTED = 500
"""Tiles of a patient of either kind that are fitted on."""

PENALTY = 1e-3  # of squared weights, a tile: products of eighteen numbers are many
REACH = 5.0  # standard deviations: what is further away counts as that far, or squares would run away with it


class LookedAt(NamedTuple):
    """The tiles of a slide, or of all slides of a patient, as a first look and as the network saw them.

    Parameters
    ----------
    numbers : (n, d) float32
        What they look like.
    proba : (n, k) float32
        What the network said; the class that is looked for last.
    weight : (n,) float32
        How many tiles of the slide each stands for.
    """

    numbers: NDArray[np.float32]
    proba: NDArray[np.float32]
    weight: NDArray[np.float32]


@dataclass(frozen=True)
class FirstLook:
    """A fitted first look.

    Parameters
    ----------
    mean, scale : tuple of float
        Of each of the d numbers over the tiles that it was fitted on; a scale is positive.
    weights : tuple of float
        Of the standardised numbers, then of their products, each with itself and those after it.
    intercept : float
        Added to it.
    threshold : float or None
        Tiles that score below it are spared; None spares none, because too few patients speak for it.
    stand_in : tuple of float
        The least suspicious answer of the network to a tile that is spared, of each class.
    farthest : float
        The largest `distance` of a patient that the threshold rests on.
    alpha, delta : float, float or None
        Share of the suspicious tiles that may be lost, on the mean over patients, and the probability with which that
        may be broken; None promises the average over those who fit as well.
    n_fitted, n_patients : int
        Patients that it was fitted on, and others with suspicious tiles that the threshold rests on.
    lost, spared : float
        Share of the suspicious tiles that are lost, on the mean over the latter; of all tiles that are spared, on the
        mean over all whom it was not fitted on.
    n_unnamed : int
        Slides among them of whom nobody said whose they are: each counts as a patient.
    terms : mapping
        How tiles were judged and recognised: in another way nothing is promised.
    """

    mean: tuple[float, ...]
    scale: tuple[float, ...]
    weights: tuple[float, ...]
    intercept: float
    threshold: float | None
    stand_in: tuple[float, ...]
    farthest: float
    alpha: float
    delta: float | None
    n_fitted: int
    n_patients: int
    lost: float
    spared: float
    n_unnamed: int = 0
    terms: Mapping[str, Any] = field(default_factory=dict)

    @property
    def in_words(self) -> str:
        """What is promised, for a reader."""
        if self.threshold is None:
            few = f"{self.n_patients} patients with suspicious tiles are too few"
            return f"spares nothing: {few} to promise {self.alpha:g}"
        how = "on average" if self.delta is None else f"with a probability of {100 * (1 - self.delta):.4g} %"
        return (
            f"{how} at most {100 * self.alpha:.4g} % of the tiles that the network calls suspicious are lost, on the "
            f"mean over patients, of whom a single one may lose all; so {self.n_patients} patients say"
            f"{self._unnamed}"
        )

    @property
    def _unnamed(self) -> str:
        if not self.n_unnamed:
            return ""
        return (
            f" (of {self.n_unnamed} slides nobody said whose they are: were they of fewer patients, it would not hold)"
        )

    def score(self, numbers: ArrayLike) -> NDArray[np.float64]:
        """Guess how suspicious the network would find tiles.

        Parameters
        ----------
        numbers : (n, d) float
            What they look like.

        Returns
        -------
        (n,) float64
            The higher the more suspicious.
        """
        terms = _terms(np.asarray(numbers, dtype=np.float64), np.array(self.mean), np.array(self.scale))
        return np.asarray(terms @ np.array(self.weights) + self.intercept)

    def spares(self, numbers: ArrayLike) -> NDArray[np.bool_]:
        """Say which tiles the network need not see.

        Parameters
        ----------
        numbers : (n, d) float
            What they look like.

        Returns
        -------
        (n,) bool
            None of them where there is no threshold.
        """
        if self.threshold is None:
            return np.zeros(len(np.asarray(numbers)), dtype=bool)
        return np.asarray(self.score(numbers) < self.threshold)

    def distance(self, numbers: ArrayLike, weight: ArrayLike | None = None) -> float:
        """Measure how far the tiles of a slide are from those that the first look was fitted on.

        Parameters
        ----------
        numbers : (n, d) float
            What they look like; one or more.
        weight : (n,) float, optional
            How many tiles each stands for; left out, for one.

        Returns
        -------
        float
            Median over the tiles of the root mean square of their standardised numbers.
        """
        standard = (np.asarray(numbers, dtype=np.float64) - np.array(self.mean)) / np.array(self.scale)
        away = np.sqrt(np.square(standard).mean(axis=1))
        order = np.argsort(away)
        stands_for = np.cumsum(np.ones(len(away)) if weight is None else np.asarray(weight, dtype=np.float64)[order])
        return float(away[order[np.searchsorted(stands_for, stands_for[-1] / 2)]])

    def to_json(self) -> dict[str, Any]:
        """Write it as JSON would.

        Returns
        -------
        dict
            As `read_first_look` reads it.
        """
        return {"format": FORMAT, **asdict(self)}


def fit_first_look(
    patients: Sequence[LookedAt], alpha: float = 0.01, delta: float | None = 0.05, seed: int = 1
) -> FirstLook:
    """Fit a first look to what the network says, and set its threshold.

    Parameters
    ----------
    patients : sequence of LookedAt
        All tiles of each, of whom the network has seen none in training. A quarter, drawn at random, is fitted on.
    alpha : float
        Share of the suspicious tiles that may be lost, on the mean over patients, above 0 and below 1.
    delta : float, optional
        Probability with which that may be broken; None promises the average.
    seed : int
        Of the drawing.

    Returns
    -------
    FirstLook
        Without a threshold where the patients are too few.

    Raises
    ------
    ModelError
        If those that are fitted on have no suspicious tile, or no other.
    """
    order = stream(seed, "first look").permutation(len(patients))
    n_fitted = -(-len(patients) // FITTED)
    fitted, others = ([patients[row] for row in rows] for rows in (order[:n_fitted], order[n_fitted:]))
    some = [_some(one) for one in fitted]
    numbers = np.concatenate([one.numbers for one in some]).astype(np.float64)
    suspicious = np.concatenate([_suspicious(one) for one in some])
    if suspicious.all() or not suspicious.any():
        kind = "not one" if not suspicious.any() else "nothing but"
        raise ModelError(f"{n_fitted} patients are fitted on, and have {kind} suspicious tiles; give more slides")
    mean, scale = numbers.mean(axis=0), numbers.std(axis=0)
    scale[scale < 1e-9] = 1.0
    # Both kinds weigh the same, so that few suspicious tiles are not outvoted.
    share = np.where(suspicious, 0.5 / suspicious.sum(), 0.5 / (~suspicious).sum())
    weights = weighted_logistic(_terms(numbers, mean, scale), suspicious, share, PENALTY)
    plain = FirstLook(
        mean=tuple(mean.tolist()),
        scale=tuple(scale.tolist()),
        weights=tuple(weights[:-1].tolist()),
        intercept=float(weights[-1]),
        threshold=None,
        stand_in=(),
        farthest=0.0,
        alpha=alpha,
        delta=delta,
        n_fitted=n_fitted,
        n_patients=sum(bool(_suspicious(one).any()) for one in others),
        lost=0.0,
        spared=0.0,
    )
    return _with_threshold(plain, others)


def _some(patient: LookedAt) -> LookedAt:
    # Products of eighteen numbers are 189 a tile: of a thousand patients' slides they would fill the memory.
    suspicious = _suspicious(patient)
    kinds = (np.flatnonzero(suspicious), np.flatnonzero(~suspicious))
    rows = np.sort(np.concatenate([rows[evenly(len(rows), MOST_FITTED)] for rows in kinds if len(rows)]))
    return LookedAt(*(part[rows] for part in patient))


def read_first_look(text: str, source: object) -> FirstLook:
    """Read a first look.

    Parameters
    ----------
    text : str
        JSON, as `FirstLook.to_json` has it.
    source : object
        For messages.

    Returns
    -------
    FirstLook
        Equal to what was written.

    Raises
    ------
    ModelError
        If it is none.
    """
    try:
        values = json.loads(text)
        if values.pop("format") != FORMAT:
            raise ModelError(f"{source}: is of another Sentinode; fit the first look again")
        lists: dict[str, Any] = {
            name: tuple(float(one) for one in values.pop(name)) for name in ("mean", "scale", "weights", "stand_in")
        }
        found = FirstLook(**lists, **values)
        known = [
            *found.mean,
            *found.scale,
            *found.weights,
            *found.stand_in,
            found.intercept,
            found.threshold or 0.0,
            found.farthest,
        ]
        d, finite = len(found.mean), all(map(math.isfinite, known))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{source}: cannot be read ({error}); fit the first look again") from error
    if not finite or (len(found.weights), len(found.scale)) != (d + d * (d + 1) // 2, d):
        raise ModelError(f"{source}: numbers are missing, or not finite; fit the first look again")
    return found


def first_look_of(bundle: Bundle) -> FirstLook | None:
    """Read the first look of a model.

    Parameters
    ----------
    bundle : Bundle
        Read, that is checked.

    Returns
    -------
    FirstLook or None
        None where none was fitted.

    Raises
    ------
    ModelError
        If it cannot be read, or is of another Sentinode.
    """
    # ModelError is that of read_first_look, too.
    text = bundle.text(FIRST_LOOK_FILE)
    return None if text is None else read_first_look(text, bundle.folder / FIRST_LOOK_FILE)


def _suspicious(slide: LookedAt) -> NDArray[np.bool_]:
    return np.asarray(slide.proba[:, -1] >= SUSPICIOUS)


def _terms(numbers: NDArray[np.float64], mean: NDArray[np.float64], scale: NDArray[np.float64]) -> NDArray[np.float64]:
    standard = np.clip((numbers - mean) / scale, -REACH, REACH)
    first, second = np.triu_indices(standard.shape[1])
    return np.concatenate([standard, standard[:, first] * standard[:, second]], axis=1)


def _with_threshold(look: FirstLook, patients: Sequence[LookedAt]) -> FirstLook:
    # The highest threshold at which the mean loss is still allowed: between two suspicious tiles nothing is lost.
    allowed = mean_loss_allowed(look.n_patients, look.alpha, look.delta)
    if allowed < 0:
        return look
    scores = [look.score(one.numbers) for one in patients]
    kinds = [_suspicious(one) for one in patients]
    values = np.concatenate([score[kind] for score, kind in zip(scores, kinds, strict=True)])
    # Of the tiles of a patient each that is suspicious stands for its share of them.
    of_patient = [one.weight[kind] / one.weight[kind].sum() for one, kind in zip(patients, kinds, strict=True)]
    weight = np.concatenate(of_patient).astype(np.float64) / look.n_patients
    order = np.argsort(values, kind="stable")
    # Up to and with each: the first that would be too much is where the threshold stands, for it is kept itself.
    lost = np.cumsum(weight[order])
    threshold = float(values[order][np.searchsorted(lost, allowed + 1e-9, side="right")])
    spared = [score < threshold for score in scores]
    answers = [one.proba[there] for one, there in zip(patients, spared, strict=True) if there.any()]
    every = np.concatenate(answers or [np.concatenate([one.proba for one in patients])])
    lowest = every[np.argmin(every[:, -1])].astype(np.float64)
    facts = asdict(look) | {
        "threshold": threshold,
        "stand_in": tuple((lowest / lowest.sum()).tolist()),
        "farthest": max(look.distance(one.numbers, one.weight) for one in patients),
        "lost": float(weight[values < threshold].sum()),
        "spared": float(
            np.mean([np.average(there, weights=one.weight) for there, one in zip(spared, patients, strict=True)])
        ),
    }
    return FirstLook(**facts)
