"""Lesions found against false alarms a slide: the measure of CAMELYON16, by its own rules.

The rules are those of the challenge's evaluation script (Ehteshami Bejnordi et al. 2017, "Diagnostic assessment of
deep learning algorithms for detection of lymph node metastases in women with breast cancer", JAMA 318, pp. 2199-2210,
supplement): the drawn truth grows by 37.5 um in every direction, so that gaps under 75 um close; holes are filled; what
touches, also at a corner, is one lesion. One whose major axis is below 275 um (200 um and twice the growth) is isolated
tumour cells: hitting it is neither right nor wrong. A detection in a lesion counts for it once, with the highest
confidence there; one elsewhere is a false alarm. False alarms are averaged over all slides. The score is the mean of
the sensitivities at 1/4, 1/2, 1, 2, 4 and 8 false alarms a slide, interpolated linearly.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage
from skimage import measure

from sentinode.evaluation.bootstrap import draw_patients, effective_number, expanded_tail

__all__ = [
    "RATES",
    "Detections",
    "Froc",
    "FrocSpread",
    "LesionTruth",
    "SlideHits",
    "froc",
    "froc_of_hits",
    "froc_spread",
    "lesion_truth",
    "slide_hits",
]

RATES = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
"""False alarms a slide at which the sensitivity is read off."""

GROWTH_UM = 37.5
SMALLEST_UM = 275.0


@dataclass(frozen=True, eq=False)
class LesionTruth:
    """The lesions of a slide, on a grid.

    Parameters
    ----------
    labels : (h, w) int32
        0 is none; a lesion has a number of its own.
    downsample : (across, down) float
        Level-0 pixels that a pixel of the grid is wide, and high.
    counted : frozenset of int
        Numbers of the lesions that count; the others are isolated tumour cells.
    """

    labels: NDArray[np.int32]
    downsample: tuple[float, float]
    counted: frozenset[int]

    def at(self, xy: ArrayLike) -> NDArray[np.int32]:
        """Tell which lesion each place lies in.

        Parameters
        ----------
        xy : (n, 2) float
            Level-0 pixels.

        Returns
        -------
        (n,) int32
            0 where there is none, or beyond the grid.
        """
        places = np.floor(np.asarray(xy, dtype=np.float64).reshape(-1, 2) / self.downsample).astype(np.int64)
        column, row = places.T
        height, width = self.labels.shape
        inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
        found = np.zeros(len(places), dtype=np.int32)
        found[inside] = self.labels[row[inside], column[inside]]
        return found


@dataclass(frozen=True, eq=False)
class Detections:
    """What was pointed at on a slide.

    Parameters
    ----------
    confidence : (n,) float
        Of each point.
    xy : (n, 2) float
        Level-0 pixels.
    """

    confidence: NDArray[np.float64]
    xy: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Froc:
    """The curve and what is read off it.

    Parameters
    ----------
    false_alarms : (m,) float64
        A slide, falling as the threshold rises.
    sensitivity : (m,) float64
        Share of the lesions that are found.
    at_rates : tuple of float
        Sensitivity at each of `RATES`.
    score : float
        Their mean; NaN without a lesion.
    n_lesions, n_slides, n_isolated : int
        What was counted; isolated tumour cells are not among the lesions.
    """

    false_alarms: NDArray[np.float64]
    sensitivity: NDArray[np.float64]
    at_rates: tuple[float, ...]
    score: float
    n_lesions: int
    n_slides: int
    n_isolated: int


@dataclass(frozen=True, eq=False)
class SlideHits:
    """What the measure needs of a slide, small enough to keep of thousands of them.

    Parameters
    ----------
    alarms : (m,) float64
        Confidences of the detections beyond every lesion.
    best : (k,) float64
        The highest confidence in each lesion that counts; minus infinity where nothing hit it.
    n_isolated : int
        Isolated tumour cells, which are not among the lesions.
    """

    alarms: NDArray[np.float64]
    best: NDArray[np.float64]
    n_isolated: int


@dataclass(frozen=True)
class FrocSpread:
    """Intervals over patients.

    Parameters
    ----------
    score : (low, high) float
        Of the score.
    at_rates : tuple of (low, high) float
        Of the sensitivity at each of `RATES`.
    """

    score: tuple[float, float]
    at_rates: tuple[tuple[float, float], ...]


def lesion_truth(mask: ArrayLike, um: float, downsample: tuple[float, float]) -> LesionTruth:
    """Make lesions of a drawn truth.

    Parameters
    ----------
    mask : (h, w) bool
        Where tumour was drawn.
    um : float
        Micrometres a pixel of it; the challenge has 0.243 x 32.
    downsample : (across, down) float
        Level-0 pixels that a pixel is wide, and high.

    Returns
    -------
    LesionTruth
        Grown, filled, numbered.
    """
    drawn = np.asarray(mask, dtype=bool)
    if not drawn.any():
        return LesionTruth(np.zeros(drawn.shape, dtype=np.int32), downsample, frozenset())
    grown = ndimage.distance_transform_edt(~drawn) < GROWTH_UM / um
    labels = ndimage.label(ndimage.binary_fill_holes(grown), structure=np.ones((3, 3)))[0].astype(np.int32)
    lesions = measure.regionprops(labels)  # type: ignore[no-untyped-call]  # scikit-image has no types here
    counted = frozenset(int(one.label) for one in lesions if not one.axis_major_length < SMALLEST_UM / um)
    return LesionTruth(labels, downsample, counted)


def froc(slides: Sequence[tuple[LesionTruth, Detections]]) -> Froc:
    """Count lesions found and false alarms at every threshold.

    Parameters
    ----------
    slides : sequence of (LesionTruth, Detections)
        Slides without tumour as well.

    Returns
    -------
    Froc
        Over all of them.

    Raises
    ------
    ValueError
        If there is no slide, or a confidence is not finite.

    Examples
    --------
    >>> mask = np.zeros((60, 60), bool)
    >>> mask[20:40, 20:40] = True  # 0.6 mm at 30 um a pixel
    >>> truth = lesion_truth(mask, 30.0, (120.0, 120.0))
    >>> points = np.array([[30, 30], [5, 5]]) * 120.0
    >>> found = froc([(truth, Detections(np.array([0.9, 0.4]), points))])
    >>> found.score, found.n_lesions
    (1.0, 1)
    """
    return froc_of_hits([slide_hits(truth, detections) for truth, detections in slides])


def slide_hits(truth: LesionTruth, detections: Detections) -> SlideHits:
    """Hold the detections of a slide against its lesions.

    Parameters
    ----------
    truth : LesionTruth
        Of the slide.
    detections : Detections
        On it.

    Returns
    -------
    SlideHits
        All that the measure needs of it.

    Raises
    ------
    ValueError
        If a confidence is not finite.
    """
    confidence = np.asarray(detections.confidence, dtype=np.float64)
    if not np.isfinite(confidence).all():
        raise ValueError("a confidence is not finite")
    hit = truth.at(detections.xy)
    best = [float(confidence[hit == number].max(initial=-np.inf)) for number in sorted(truth.counted)]
    n_isolated = int(truth.labels.max(initial=0)) - len(truth.counted)
    return SlideHits(confidence[hit == 0], np.array(best, dtype=np.float64), n_isolated)


def froc_of_hits(slides: Sequence[SlideHits]) -> Froc:
    """Count lesions found and false alarms at every threshold.

    Parameters
    ----------
    slides : sequence of SlideHits
        Slides without tumour as well.

    Returns
    -------
    Froc
        Over all of them.

    Raises
    ------
    ValueError
        If there is no slide.
    """
    if not slides:
        raise ValueError("there is no slide")
    alarms, best = (np.concatenate([getattr(one, name) for one in slides]) for name in ("alarms", "best"))
    return _curve(alarms, best, len(slides), sum(one.n_isolated for one in slides))


def froc_spread(
    slides: Sequence[SlideHits], patients: Sequence[str], *, n: int = 2000, seed: int = 1, level: float = 0.95
) -> FrocSpread:
    """Tell how far the numbers would move with other patients: all patients are drawn anew, with their slides.

    Percentiles of the draws, moved outwards for few patients as in `bootstrap.bootstrap_patients`; what the patients
    are worth is counted in lesions.

    Parameters
    ----------
    slides : sequence of SlideHits
        n of them.
    patients : sequence of str
        Whose each slide is.
    n : int
        Draws.
    seed : int
        The same seed, the same draws.
    level : float
        Of the intervals.

    Returns
    -------
    FrocSpread
        NaN where fewer than two patients have a lesion.

    Raises
    ------
    ValueError
        If a slide has no patient, or there is no slide.

    Examples
    --------
    >>> one, other = (SlideHits(np.array([0.5]), np.array([best]), 0) for best in (0.9, 0.1))
    >>> [round(end, 2) for end in froc_spread([one, other], ["ann", "bo"]).score]
    [0.67, 1.0]
    """
    if not slides or len(slides) != len(patients):
        raise ValueError(f"{len(slides)} slides and {len(patients)} patients: give each slide its patient")
    ids, draws = draw_patients([np.asarray(patients)], n, seed)
    whose = np.searchsorted(ids, np.asarray(patients))

    def by_patient(counts: NDArray[np.float64]) -> NDArray[np.float64]:
        total = np.zeros((len(ids), counts.shape[1]))
        np.add.at(total, whose, counts)
        return total

    lesions = by_patient(np.array([[1.0, len(one.best)] for one in slides]))  # (m, 2): slides, lesions
    worth = effective_number(lesions[:, 1])
    nothing = (float("nan"), float("nan"))
    if worth <= 1:
        return FrocSpread(nothing, (nothing,) * len(RATES))
    # The curve bends only where a lesion is found: just above each such threshold, at it, and at last below all.
    found = np.unique(np.concatenate([one.best[np.isfinite(one.best)] for one in slides]))[::-1]
    above = [
        np.column_stack([(one.alarms[:, None] > found).sum(0), (one.best[:, None] > found).sum(0)]) for one in slides
    ]
    at = [
        np.column_stack([(one.alarms[:, None] >= found).sum(0), (one.best[:, None] >= found).sum(0)]) for one in slides
    ]
    end = [np.array([[len(one.alarms), np.isfinite(one.best).sum()]]) for one in slides]
    # (n_slides, 2 k + 1, 2)
    counts = np.stack([
        np.concatenate([np.stack([a, b], axis=1).reshape(-1, 2), c]) for a, b, c in zip(above, at, end, strict=True)
    ]).astype(np.float64)
    alarms, hits = (draws @ by_patient(counts[:, :, what]) for what in (0, 1))
    total = draws @ lesions
    kept = total[:, 1] > 0
    kept[0] = False  # everyone once: the value itself, no draw
    rate, sensitivity = alarms[kept] / total[kept, :1], hits[kept] / total[kept, 1:]
    at_rates = np.array([np.interp(RATES, *curve) for curve in zip(rate, sensitivity, strict=True)])
    tail = expanded_tail(level, worth)
    low, high = np.quantile(np.column_stack([at_rates.mean(axis=1), at_rates]), [tail, 1 - tail], axis=0)
    score, *rest = zip(low.tolist(), high.tolist(), strict=True)
    return FrocSpread(score, tuple(rest))


def _curve(alarms: NDArray[np.float64], best: NDArray[np.float64], n_slides: int, n_isolated: int) -> Froc:
    thresholds = np.unique(np.concatenate([alarms, best[np.isfinite(best)]]))
    # At and above each threshold, and at last above all of them.
    rate = np.array([(alarms >= one).sum() for one in thresholds] + [0], dtype=np.float64) / n_slides
    if len(best) == 0:
        nothing = np.full(len(rate), np.nan)
        return Froc(rate, nothing, (float("nan"),) * len(RATES), float("nan"), 0, n_slides, n_isolated)
    sensitivity = np.array([(best >= one).sum() for one in thresholds] + [0], dtype=np.float64) / len(best)
    # Rising for the interpolation; of equal rates the highest sensitivity stands last, and is taken.
    at_rates = tuple(float(value) for value in np.interp(RATES, rate[::-1], sensitivity[::-1]))
    return Froc(rate, sensitivity, at_rates, float(np.mean(at_rates)), len(best), n_slides, n_isolated)
