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

__all__ = ["RATES", "Detections", "Froc", "LesionTruth", "froc", "lesion_truth"]

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
    if not slides:
        raise ValueError("there is no slide")
    alarms: list[float] = []
    best: list[float] = []  # of each lesion; below every threshold where nothing hit it
    n_isolated = 0
    for truth, detections in slides:
        confidence = np.asarray(detections.confidence, dtype=np.float64)
        if not np.isfinite(confidence).all():
            raise ValueError("a confidence is not finite")
        hit = truth.at(detections.xy)
        alarms += confidence[hit == 0].tolist()
        best += [float(confidence[hit == number].max(initial=-np.inf)) for number in sorted(truth.counted)]
        n_isolated += int(truth.labels.max(initial=0)) - len(truth.counted)
    return _curve(np.array(alarms), np.array(best), len(slides), n_isolated)


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
