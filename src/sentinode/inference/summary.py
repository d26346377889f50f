"""From tiles to a slide: its score, and the fields that a person should look at first."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sentinode.geometry import Box
from sentinode.inference.predictions import TilePredictions

__all__ = ["TOP", "Field", "highest_apart", "slide_score", "suspicious_fields"]

TOP = 5
"""Tiles whose mean is the score of a slide."""


@dataclass(frozen=True)
class Field:
    """A field of view around a suspicious tile.

    Parameters
    ----------
    box : Box
        Level-0 pixels, the tile in its middle.
    proba : float
        Of that tile.
    """

    box: Box
    proba: float


def slide_score(predictions: TilePredictions) -> float:
    """Score a slide by the mean of its five highest tiles, no two of which overlap.

    The highest tile alone is the most that noise reached among ten thousand; the mean over all drowns a metastasis
    of a dozen tiles. Five tiles of 96 um side are a lesion of about 0.2 mm. Tiles that overlap show one place, which
    counts once: a finer grid must not make a slide more suspicious.

    Parameters
    ----------
    predictions : TilePredictions
        Of a slide.

    Returns
    -------
    float
        0 to 1; NaN where no tile was recognised.
    """
    known = predictions.recognised
    if not known.any():
        return math.nan
    boxes, proba = predictions.boxes[known], predictions.positive[known]
    # Neighbours may be a pixel narrower than the widest: they touch, and do not overlap.
    rows = highest_apart(boxes, proba, TOP, float(boxes[:, 2:].min()) - 1)
    return round(float(proba[list(rows)].astype(np.float64).mean()), 6)


def suspicious_fields(predictions: TilePredictions, n: int = 10, side_um: float = 256.0) -> tuple[Field, ...]:
    """Choose the fields that show the most suspicious tiles, no two of which overlap by more than half.

    Parameters
    ----------
    predictions : TilePredictions
        Of a slide.
    n : int
        Fields, at most.
    side_um : float
        Of a field; at least that of a tile.

    Returns
    -------
    tuple of Field
        The most suspicious first; of equals the one further up, then further left.
    """
    known = predictions.recognised
    boxes, proba = predictions.boxes[known], predictions.positive[known]
    side = max(predictions.scale.px(side_um), float(boxes[:, 2:].max(initial=1)))
    centres = boxes[:, :2] + boxes[:, 2:] / 2
    return tuple(_field(centres[row], float(proba[row]), side) for row in highest_apart(boxes, proba, n, side / 2))


def highest_apart(boxes: NDArray[np.int64], proba: NDArray[np.floating], n: int, apart: float) -> tuple[int, ...]:
    """Choose the highest tiles of which no two are close.

    Parameters
    ----------
    boxes : (m, 4) int64
        x, y, width, height in level-0 pixels.
    proba : (m,) float
        Of each.
    n : int
        Tiles, at most.
    apart : float
        Level-0 pixels that the middles are from one another, across or down, at least.

    Returns
    -------
    tuple of int
        Rows, the highest first; of equals the one further up, then further left.
    """
    centres = boxes[:, :2] + boxes[:, 2:] / 2
    chosen: list[int] = []
    free = np.ones(len(boxes), dtype=bool)
    for row in np.lexsort((boxes[:, 0], boxes[:, 1], -proba)).tolist():
        if len(chosen) == n:
            break
        if free[row]:
            chosen.append(row)
            free &= np.abs(centres - centres[row]).max(axis=1) >= apart
    return tuple(chosen)


def _field(centre: NDArray[np.float64], proba: float, side: float) -> Field:
    length = max(1, round(side))
    return Field(Box(round(float(centre[0]) - side / 2), round(float(centre[1]) - side / 2), length, length), proba)
