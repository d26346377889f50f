"""A map with a point every few pixels: the network over large fields, where the tiles of a slide were recognised.

The points lie on one grid over the slide, whatever the fields: point j is what the network says of the tile that begins
at j times the stride. So a tile that begins on a point has two answers, and they are compared before the map is shown.
Fields overlap by what a point sees around it; each point comes from a field that holds all of that.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import tifffile
from numpy.typing import NDArray
from scipy import stats

from sentinode.geometry import Box, Raster, Size
from sentinode.inference.engine import read_ahead
from sentinode.inference.predictions import TilePredictions
from sentinode.slides.slide import Slide

__all__ = ["Agreement", "DenseMap", "DenseNetwork", "FieldGrid", "recognise_densely", "write_dense_map"]

ALIKE = 0.98
"""Spearman's correlation of points and tiles, at least, for the map to be shown."""

FEW, LITTLE = 20, 0.05
"""With fewer tiles, or a smaller standard deviation of their probabilities, ranks say nothing: then the mean difference
must be no larger than the second number."""

STEP = 0.01
"""Probabilities are ranked in steps: most tiles of a slide are normal, and which of two has 0.0002 and which 0.0003 is
noise that a map does not show."""

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
    def field(self) -> int:
        """Side of a field in pixels."""

    @property
    def first(self) -> int:
        """The first point of a field that sees nothing but the field."""

    @property
    def n_points(self) -> int:
        """Points of a row from there on."""


class DenseNetwork(Protocol):
    """Gives every point of a field its probability (`sentinode.models.runtime`)."""

    @property
    def graph(self) -> FieldGrid:
        """Where they are."""

    def points(self, field: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Recognise ``(f, f, 3)`` uint8: ``(m, m)`` float32."""
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
        known = ~np.isnan(self.proba)
        # Of a large map, most cells are far from a small window.
        part = tuple(slice(max(0, one.min()), max(0, one.max())) for one in (rows, columns))
        sums = []
        for values in (np.nan_to_num(self.proba[part]), known[part]):
            corner = np.zeros((values.shape[0] + 1, values.shape[1] + 1))
            corner[1:, 1:] = values.cumsum(axis=0, dtype=np.float64).cumsum(axis=1)
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
        Rank correlation of the probabilities, in steps of `STEP`; None where ranks say nothing.
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
        steps = [np.rint(one / STEP) for one in (tiles, points)]
        ranked = len(tiles) >= FEW and tiles.std() >= LITTLE and np.ptp(steps[1]) > 0
        spearman = round(float(stats.spearmanr(*steps).statistic), 4) if ranked else None
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
        If the slide cannot be read.
    """
    # SlideError comes out of the thread that read.
    graph = network.graph
    grid = _Grid(float(graph.stride), graph.tile, predictions.scale.downsample(predictions.mpp))
    boxes = predictions.boxes[predictions.recognised]
    places = grid.inside(boxes)
    corner, wanted = places[:, :2].min(axis=0), _wanted(places)
    fields = [np.array(field) + corner for field in _fields(wanted, graph, corner)]
    proba = np.full(wanted.shape, np.nan, dtype=np.float32)

    def read(begin: NDArray[np.int64]) -> NDArray[np.uint8]:
        edges = np.concatenate([begin * grid.stride, begin * grid.stride + graph.field]) * grid.downsample
        x, y, end_x, end_y = np.floor(edges + 0.5).astype(np.int64).tolist()
        return slide.read_pixels(Box(x, y, end_x - x, end_y - y), Size(graph.field, graph.field))

    for done, (begin, pixels) in enumerate(zip(fields, read_ahead(read, fields, readers), strict=True), start=1):
        x, y = (begin - corner + graph.first).tolist()
        column, row = max(x, 0), max(y, 0)  # a field may begin before the map
        target = proba[row : y + graph.n_points, column : x + graph.n_points]
        target[:] = network.points(pixels)[row - y :, column - x :][: target.shape[0], : target.shape[1]]
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


def _fields(wanted: NDArray[np.bool_], graph: FieldGrid, corner: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    # Where fields begin, as x, y in points from the corner, so that each wanted point is in one: bands from the top,
    # in each of them from the left, wherever there is the next wanted one. A field begins on a whole pixel.
    whole = graph.stride.denominator

    def begin(place: int, axis: int) -> int:
        at = place + int(corner[axis]) - graph.first
        return at - at % whole - int(corner[axis])

    row = 0
    rows = np.asarray(wanted.any(axis=1))
    while rows[row:].any():
        y = begin(row + int(rows[row:].argmax()), 1)
        row = y + graph.first + graph.n_points
        columns, column = np.asarray(wanted[max(0, y + graph.first) : row].any(axis=0)), 0
        while columns[column:].any():
            x = begin(column + int(columns[column:].argmax()), 0)
            yield x, y
            column = x + graph.first + graph.n_points


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
