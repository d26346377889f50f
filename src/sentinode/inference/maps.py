"""Tile predictions as a picture of the slide, and the suspicious regions in it with their size.

A pixel of the map belongs to the tiles that its centre lies in; overlapping tiles are averaged. So the map lies on the
slide exactly, whatever its size: nothing is rounded but the pixel itself.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import shapely
from numpy.typing import NDArray

from sentinode.geometry import Box, Raster, running_sums
from sentinode.inference.dense import DenseMap
from sentinode.inference.predictions import TilePredictions

__all__ = ["ProbabilityMap", "SuspiciousRegion", "probability_map", "probability_window", "suspicious_regions"]

SizeClass = Literal["isolated tumour cells", "micrometastasis", "macrometastasis"]

ISOLATED_MM, MICRO_MM = 0.2, 2.0
"""Largest extent of isolated tumour cells, and of a micrometastasis (AJCC Cancer Staging Manual, 8th ed., breast)."""


@dataclass(frozen=True, eq=False)
class ProbabilityMap:
    """The probability of the class that is looked for, over the slide.

    Parameters
    ----------
    pixels : (h, w) float32
        NaN where no tile was recognised.
    raster : Raster
        Where it lies.
    """

    pixels: NDArray[np.float32]
    raster: Raster


@dataclass(frozen=True, eq=False)
class SuspiciousRegion:
    """Tiles above the threshold that touch one another.

    Parameters
    ----------
    polygon : shapely.Polygon
        Their outline in level-0 pixels, with holes.
    proba : float
        The highest probability in it.
    mean_proba : float
        Mean over its tiles.
    area_mm2 : float
        Of the tiles.
    extent_mm : (low, high) float
        Between what lengths a lesion lies that lights up these tiles and no others. A tile that it touches may count
        whole: less by a tile at either end. A model that was taught by the centres of tiles does not see what lies
        in the outer third of the next ones: more by that, at either end.
    n_tiles : int
        In it.
    """

    polygon: shapely.Polygon
    proba: float
    mean_proba: float
    area_mm2: float
    extent_mm: tuple[float, float]
    n_tiles: int

    def size_classes(self, tile_mm: float) -> tuple[SizeClass, ...]:
        """Say what size of metastasis it would be. Not a staging.

        Parameters
        ----------
        tile_mm : float
            Side of a tile.

        Returns
        -------
        tuple of str
            Every class that the extent allows, the smallest first; empty where a tile is so large (more than half
            of 0.2 mm) that the smallest class cannot be told.
        """
        if 2 * tile_mm > ISOLATED_MM:
            return ()
        low, high = self.extent_mm
        bounds: tuple[tuple[SizeClass, float, float], ...] = (
            ("isolated tumour cells", 0.0, ISOLATED_MM),
            ("micrometastasis", ISOLATED_MM, MICRO_MM),
            ("macrometastasis", MICRO_MM, math.inf),
        )
        return tuple(name for name, above, most in bounds if low <= most and high > above)


def probability_map(predictions: TilePredictions, longest: int, dense: DenseMap | None = None) -> ProbabilityMap:
    """Paint the tiles, or the points.

    Parameters
    ----------
    predictions : TilePredictions
        Of a slide.
    longest : int
        Pixels of the longer side, at most; never more than level 0.
    dense : DenseMap, optional
        The points in these tiles, to be painted in their place.

    Returns
    -------
    ProbabilityMap
        Of the whole slide.
    """
    raster = Raster(predictions.slide_size, predictions.slide_size.fitted(longest))
    return ProbabilityMap(probability_window(predictions, raster, Box.whole(raster.pixels), dense), raster)


def probability_window(
    predictions: TilePredictions, raster: Raster, window: Box, dense: DenseMap | None = None
) -> NDArray[np.float32]:
    """Paint the tiles, or the points, into a part of a picture of the slide.

    Parameters
    ----------
    predictions : TilePredictions
        Of a slide.
    raster : Raster
        The whole picture, and where it lies.
    window : Box
        The part, in pixels of the picture.
    dense : DenseMap, optional
        The points in these tiles, to be painted in their place.

    Returns
    -------
    (h, w) float32
        NaN where no tile was recognised.
    """
    if dense is not None:
        return dense.window(raster, window)
    height, width = window.height, window.width
    # Sums over rectangles by four corners each, then two running sums: as fast for a million tiles as for one.
    total, count = np.zeros((2, height + 1, width + 1))
    # Of a large slide, most tiles are far from a small window.
    (left, upper), (right, lower) = raster.to_level0([
        [window.x - 1, window.y - 1],
        [window.right + 1, window.bottom + 1],
    ])
    x, y, wide, high = predictions.boxes.T
    known = predictions.recognised & (x < right) & (x + wide > left) & (y < lower) & (y + high > upper)
    boxes, proba = predictions.boxes[known], predictions.positive[known].astype(np.float64)
    edges = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1).reshape(-1, 2, 2)
    # The first pixel whose centre lies at or after the edge. (n, 2 corners, xy)
    places = np.ceil(raster.to_pixels(edges) - 0.5).astype(np.int64) - (window.x, window.y)
    places = places.clip(0, (width, height))
    for y_place, x_place, sign in ((0, 0, 1), (0, 1, -1), (1, 0, -1), (1, 1, 1)):
        where = (places[:, y_place, 1], places[:, x_place, 0])
        np.add.at(total, where, sign * proba)
        np.add.at(count, where, sign)
    total, count = (running_sums(values)[:height, :width] for values in (total, count))
    painted = count > 0.5
    pixels = np.full((height, width), np.nan, dtype=np.float32)
    pixels[painted] = (total[painted] / count[painted]).clip(0, 1)
    return pixels


def suspicious_regions(predictions: TilePredictions, threshold: float = 0.5) -> tuple[SuspiciousRegion, ...]:
    """Merge the tiles that are above a threshold.

    Parameters
    ----------
    predictions : TilePredictions
        Of a slide.
    threshold : float
        Probability from which a tile counts.

    Returns
    -------
    tuple of SuspiciousRegion
        The most suspicious first; of equals the larger one. Tiles that share an edge belong together, tiles that
        touch at a corner do not.
    """
    suspicious = predictions.recognised & (np.nan_to_num(predictions.positive, nan=-1.0) >= threshold)
    if not suspicious.any():
        return ()
    boxes, proba = predictions.boxes[suspicious], predictions.positive[suspicious]
    x, y, width, height = boxes.T
    # Of tiles that overlap each stands for its own part, and a pixel around it, for edges are rounded.
    overlap = float(predictions.facts.get("overlap", 0.0))
    margin = np.maximum(width * overlap / 2 - 1, 0)
    squares = shapely.box(x + margin, y + margin, x + width - margin, y + height - margin)
    merged = shapely.get_parts(shapely.union_all(squares))
    tree = shapely.STRtree(merged)
    # The centre of a tile lies in one region only: regions share no area.
    tile, region = tree.query(shapely.points(x + width / 2, y + height / 2), predicate="within")
    regions = [
        _region(predictions, polygon, proba[tile[region == number]], boxes[tile[region == number]])
        for number, polygon in enumerate(merged)
    ]
    return tuple(sorted(regions, key=lambda one: (-one.proba, -one.area_mm2, one.polygon.bounds)))


def _region(
    predictions: TilePredictions, polygon: shapely.Polygon, proba: NDArray[np.float32], boxes: NDArray[np.int64]
) -> SuspiciousRegion:
    scale = predictions.scale
    corners = shapely.get_coordinates(polygon.convex_hull)
    longest = float(np.linalg.norm(corners[:, None] - corners[None, :], axis=-1).max())
    tile = float(boxes[:, 2:].mean())
    unseen = 2 * math.sqrt(2) * tile / 3
    # Two tiles less, along the way that the longest distance goes: a tile's own diagonal where it goes aslant.
    low = max(0.0, longest - 2 * math.sqrt(2) * tile)
    return SuspiciousRegion(
        polygon=polygon,
        proba=float(proba.max()),
        mean_proba=float(proba.mean()),
        area_mm2=scale.mm2(polygon.area),
        extent_mm=(scale.um(low) / 1000, scale.um(longest + unseen) / 1000),
        n_tiles=len(boxes),
    )
