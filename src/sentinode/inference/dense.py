"""A map with a point every few pixels: the network over large fields, where the tiles of a slide were recognised.

The points lie on one grid over the slide, whatever the fields: point j is what the network says of the tile that begins
at j times the stride. So a tile that begins on a point has two answers, and they are compared before the map is shown.
Fields overlap by what a point sees around it; each point comes from a field that holds all of that.
"""

import itertools
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import tifffile
from numpy.typing import NDArray

from sentinode.errors import SlideError
from sentinode.geometry import Box, Raster, Size, running_sums
from sentinode.inference.engine import read_ahead
from sentinode.inference.predictions import TilePredictions
from sentinode.slides.slide import Slide

__all__ = ["Agreement", "DenseMap", "DenseNetwork", "FieldGrid", "recognise_densely", "write_dense_map"]

ALIKE = 0.98
"""Spearman's correlation of points and tiles, at least, for the map to be shown."""

FEW, LITTLE = 20, 0.05
"""With fewer tiles, or a smaller standard deviation of their probabilities, ranks say nothing: then the mean difference
must be no larger than the second number."""

MOST_POINTS = 2**24
"""Of the rectangle around the tissue: half a gigabyte while they are painted. At 16 um from point to point, 43 cm2."""

ROUND_UP = 4
"""Points along a side of a field are multiples of it: each shape that a network has not seen costs a moment."""

FORMAT = "sentinode-dense-map-1"


class FieldGrid(Protocol):
    """Where the points of a field are (`sentinode.models.dense.DenseGraph`)."""

    @property
    def tile(self) -> int:
        """Side of a tile in pixels."""

    @property
    def stride(self) -> Fraction:
        """Pixels from point to point."""

    @property
    def most(self) -> int:
        """Side of the largest field in pixels."""

    @property
    def first(self) -> int:
        """The first point of a field that sees nothing but the field."""

    def points_along(self, side: int) -> int:
        """Count the points of a row from there on."""
        ...

    def side_for(self, n_points: int) -> int:
        """Give the shortest side in pixels that has so many points."""
        ...


class DenseNetwork(Protocol):
    """Gives every point of a field its probability (`sentinode.models.runtime`)."""

    @property
    def graph(self) -> FieldGrid:
        """Where they are."""

    def points(self, field: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Recognise ``(h, w, 3)`` uint8: ``(m, n)`` float32."""
        ...


@dataclass(frozen=True, eq=False)
class DenseMap:
    """The probability of the class that is looked for, point by point.

    Parameters
    ----------
    proba : (rows, columns) float32
        Each of the tile around the middle of its cell; NaN where that lies in no tile that was recognised.
    origin : (x, y) float
        Left upper corner of the first cell in level-0 pixels.
    step : float
        Level-0 pixels that a cell is wide and high.
    """

    proba: NDArray[np.float32]
    origin: tuple[float, float]
    step: float

    @property
    def n_points(self) -> int:
        """Points that were recognised."""
        return int((~np.isnan(self.proba)).sum())

    def window(self, raster: Raster, window: Box) -> NDArray[np.float32]:
        """Paint the points into a part of a picture of the slide.

        Parameters
        ----------
        raster : Raster
            The whole picture, and where it lies.
        window : Box
            The part, in pixels of the picture.

        Returns
        -------
        (h, w) float32
            Mean over the cells whose middle lies in the pixel, or the cell that the pixel's middle lies in where
            pixels are smaller; NaN where no point was recognised.
        """
        across, down = raster.downsample
        rows = self._cells(np.arange(window.y, window.bottom + 1) * down, axis=1)
        columns = self._cells(np.arange(window.x, window.right + 1) * across, axis=0)
        # Of a large map, most cells are far from a small window.
        part = tuple(slice(max(0, one.min()), max(0, one.max())) for one in (rows, columns))
        sums = []
        for values in (np.nan_to_num(self.proba[part]), ~np.isnan(self.proba[part])):
            corner = np.zeros((values.shape[0] + 1, values.shape[1] + 1))
            corner[1:, 1:] = values
            running_sums(corner[1:, 1:])
            y, x = (
                (one - cut.start).clip(0, n) for one, cut, n in zip((rows, columns), part, values.shape, strict=True)
            )
            from_y, to_y, from_x, to_x = y[0][:, None], y[1][:, None], x[0], x[1]
            sums.append(corner[to_y, to_x] - corner[from_y, to_x] - corner[to_y, from_x] + corner[from_y, from_x])
        total, count = sums
        painted = count > 0.5
        pixels = np.full(painted.shape, np.nan, dtype=np.float32)
        pixels[painted] = (total[painted] / count[painted]).clip(0, 1)
        return pixels

    def _cells(self, edges: NDArray[np.floating], axis: int) -> NDArray[np.int64]:
        # The first cell of each pixel, and the first one that is not its own any more. (2, n)
        places = (edges - self.origin[axis]) / self.step
        within = np.ceil(places - 0.5).astype(np.int64)
        middle = np.floor((places[:-1] + places[1:]) / 2).astype(np.int64)
        several = within[1:] > within[:-1] + 1
        return np.stack([np.where(several, within[:-1], middle), np.where(several, within[1:], middle + 1)])


@dataclass(frozen=True)
class Agreement:
    """How far the points are from the tiles that begin on them.

    Parameters
    ----------
    tiles : int
        Such tiles.
    spearman : float or None
        Rank correlation of the probabilities; None where ranks say nothing.
    mean_difference, largest_difference : float or None
        Of a probability, by size; None without such tiles.
    """

    tiles: int
    spearman: float | None
    mean_difference: float | None
    largest_difference: float | None

    @classmethod
    def of(cls, tiles: NDArray[np.float32], points: NDArray[np.float32]) -> "Agreement":
        """Compare the two answers of each tile.

        Parameters
        ----------
        tiles, points : (n,) float32
            Probability of the class that is looked for.

        Returns
        -------
        Agreement

        Examples
        --------
        >>> proba = np.linspace(0, 1, 50, dtype=np.float32)
        >>> Agreement.of(proba, 0.9 * proba).spearman, Agreement.of(proba, 1 - proba).alike
        (1.0, False)
        >>> Agreement.of(proba[:5], proba[:5] + 0.01)
        Agreement(tiles=5, spearman=None, mean_difference=0.01, largest_difference=0.01)
        """
        if len(tiles) == 0:
            return cls(0, None, None, None)
        apart = np.abs(tiles.astype(np.float64) - points)
        ranked = len(tiles) >= FEW and tiles.std() >= LITTLE and np.ptp(points) > 0
        from scipy import stats  # noqa: PLC0415 - half a second, only here

        spearman = round(float(stats.spearmanr(tiles, points).statistic), 4) if ranked else None
        return cls(len(tiles), spearman, round(float(apart.mean()), 5), round(float(apart.max()), 5))

    @property
    def alike(self) -> bool:
        """Whether the map ranks tiles as the model does, or does not differ where ranks say nothing."""
        if self.mean_difference is None:
            return False
        return self.mean_difference <= LITTLE if self.spearman is None else self.spearman >= ALIKE


class _Grid(NamedTuple):
    # Points over a slide: point (0, 0) is the tile at the slide's corner.
    stride: float  # pixels of a tile
    tile: int
    downsample: float  # level-0 pixels of one of these

    def inside(self, boxes: NDArray[np.int64]) -> NDArray[np.int64]:
        # Columns and rows of the points whose middle lies in each box: from x, from y, to x, to y. (n, 4)
        edges = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1) / self.downsample
        # Edges are rounded to pixels of level 0: what lies on one must not fall to the one side here, the other there.
        return np.ceil((edges - self.tile / 2 - 0.75 / self.downsample) / self.stride).astype(np.int64)

    def begins(self, boxes: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        # The point nearest to the corner of each box (n, 2), and whether the box begins on it, but for rounding. (n,)
        corners = boxes[:, :2] / self.downsample
        nearest = np.rint(corners / self.stride).astype(np.int64)
        apart = np.abs(nearest * self.stride - corners).max(axis=1, initial=0)  # (n,)
        return nearest, np.asarray(apart * self.downsample <= 0.75)


def recognise_densely(
    slide: Slide,
    predictions: TilePredictions,
    network: DenseNetwork,
    *,
    readers: int = 2,
    on_progress: Callable[[int, int], None] | None = None,
) -> tuple[DenseMap, Agreement]:
    """Give every point in the tiles that were recognised its probability.

    Parameters
    ----------
    slide : Slide
        Open.
    predictions : TilePredictions
        Of this slide; at least one tile was recognised.
    network : DenseNetwork
        Of the same model.
    readers : int
        Threads that read.
    on_progress : callable, optional
        Called with the number of fields done and their total.

    Returns
    -------
    DenseMap, Agreement
        The map, and how far it is from the tiles.

    Raises
    ------
    SlideError
        If the slide cannot be read, or has more than `MOST_POINTS`.
    """
    # SlideError comes out of the thread that read, too.
    graph = network.graph
    grid = _Grid(float(graph.stride), graph.tile, predictions.scale.downsample(predictions.mpp))
    boxes = predictions.boxes[predictions.recognised]
    places = grid.inside(boxes)
    corner = places[:, :2].min(axis=0)
    n_points = int((places[:, 2:].max(axis=0) - corner).prod())
    if n_points > MOST_POINTS:
        told = f"{n_points:,} points, {predictions.scale.um(grid.stride * grid.downsample):.2g} um apart"
        raise SlideError(f"{slide.info.path}: a dense map would have {told}: too many; leave out --heatmap dense")
    wanted = _wanted(places)
    fields = list(_fields(wanted, graph, corner))
    proba = np.full(wanted.shape, np.nan, dtype=np.float32)

    def read(field: _Field) -> NDArray[np.uint8]:
        begin = (np.array([field.x, field.y]) + corner) * grid.stride
        end = begin + np.array([field.size.width, field.size.height])
        edges = np.concatenate([begin, end]) * grid.downsample
        x, y, end_x, end_y = np.floor(edges + 0.5).astype(np.int64).tolist()
        return slide.read_pixels(Box(x, y, end_x - x, end_y - y), field.size)

    for done, (field, pixels) in enumerate(zip(fields, read_ahead(read, fields, readers), strict=True), start=1):
        found = network.points(pixels)
        x, y = field.x + graph.first, field.y + graph.first
        column, row = max(x, 0), max(y, 0)  # a field may begin before the map, and end after it
        target = proba[row : y + found.shape[0], column : x + found.shape[1]]
        target[:] = found[row - y :, column - x :][: target.shape[0], : target.shape[1]]
        if on_progress is not None:
            on_progress(done, len(fields))
    proba[~wanted] = np.nan
    nearest, on_point = grid.begins(boxes)
    column, row = (nearest - corner)[on_point].T
    agreement = Agreement.of(predictions.positive[predictions.recognised][on_point], proba[row, column])
    step = grid.stride * grid.downsample
    x, y = ((corner - 0.5) * step + grid.tile / 2 * grid.downsample).tolist()
    return DenseMap(proba, (x, y), step), agreement


def _wanted(places: NDArray[np.int64]) -> NDArray[np.bool_]:
    # Which points of the smallest map that holds all of them are wanted.
    corner, end = places[:, :2].min(axis=0), places[:, 2:].max(axis=0)
    wanted = np.zeros((end - corner)[::-1], dtype=bool)
    for x, y, to_x, to_y in (places - np.tile(corner, 2)).tolist():
        wanted[y:to_y, x:to_x] = True
    return wanted


class _Field(NamedTuple):
    x: int  # where it begins, in points from the corner of the map
    y: int
    size: Size  # pixels


def _fields(wanted: NDArray[np.bool_], graph: FieldGrid, corner: NDArray[np.int64]) -> Iterator[_Field]:
    # Fields in which each wanted point is: bands of equal height, in each of them the stretches with wanted points.
    gap = round(graph.side_for(1) / graph.stride)  # a narrower one costs less than what two fields overlap by
    whole = graph.stride.denominator  # a field begins on a whole pixel
    most = graph.points_along(graph.most) - whole + 1

    def along(axis: int, begin: int, end: int) -> tuple[int, int]:
        at = begin + int(corner[axis]) - graph.first
        before = at % whole
        n_points = -(-(end - begin + before) // ROUND_UP) * ROUND_UP
        return begin - graph.first - before, min(graph.most, graph.side_for(n_points))

    for top, bottom in _stretches(np.asarray(wanted.any(axis=1)), gap, most):
        for left, right in _stretches(np.asarray(wanted[top:bottom].any(axis=0)), gap, most):
            rows = np.flatnonzero(wanted[top:bottom, left:right].any(axis=1))
            if len(rows) == 0:
                continue
            y, height = along(1, top + int(rows[0]), top + int(rows[-1]) + 1)
            x, width = along(0, left, right)
            yield _Field(x, y, Size(width, height))


def _stretches(wanted: NDArray[np.bool_], gap: int, most: int) -> Iterator[tuple[int, int]]:
    # From and to of what is wanted, over narrow gaps; what is longer than `most`, in equal parts.
    places = np.flatnonzero(wanted)
    if len(places) == 0:
        return
    for one in np.split(places, np.flatnonzero(np.diff(places) > gap) + 1):
        begin, end = int(one[0]), int(one[-1]) + 1
        parts = -(-(end - begin) // most)
        edges = [begin + (end - begin) * part // parts for part in range(parts + 1)]
        yield from itertools.pairwise(edges)


def write_dense_map(path: Path, found: DenseMap, predictions: TilePredictions) -> None:
    """Write the map as a float TIFF, one pixel a point.

    Parameters
    ----------
    path : Path
        The file, ``.tif``; name it under `storage.whole_folder` or `storage.whole_file`.
    found : DenseMap
        Of a slide.
    predictions : TilePredictions
        Of the same slide.

    Raises
    ------
    OSError
        If it cannot be written.
    """
    # OSError is tifffile's.
    per_cm = 1e4 / (found.step * predictions.slide_mpp)
    told = {
        "format": FORMAT,
        "class": predictions.classes[-1],
        "origin": list(found.origin),
        "step": found.step,
        "slide_id": predictions.slide_id,
        "slide_size": [predictions.slide_size.width, predictions.slide_size.height],
        "slide_mpp": predictions.slide_mpp,
        "model": predictions.model,
    }
    tifffile.imwrite(
        path,
        found.proba,
        photometric="minisblack",
        tile=(256, 256),
        compression="zlib",
        resolution=(per_cm, per_cm),
        resolutionunit="CENTIMETER",
        description=json.dumps(told),
        software="sentinode",
        metadata=None,
    )
