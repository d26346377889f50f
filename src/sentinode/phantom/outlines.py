"""Shapes on a section, as functions of the place: positive inside, negative outside, in micrometres.

A shape that can be asked at any point can be painted window by window; its polygon, which goes into the truth, is
traced from the same numbers.
"""

import math
from dataclasses import dataclass

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry
from skimage.measure import find_contours

from sentinode.phantom.lattice import Floats

__all__ = ["Blob", "Grid", "Stroke", "outline_of", "trace"]

_DENT_RAD = np.float32(0.38)  # how wide a dent is, as an angle


@dataclass(frozen=True)
class Grid:
    """Points in rows and columns, in micrometres.

    Parameters
    ----------
    x_um, y_um : float
        The first point.
    columns, rows : int
        How many.
    step_um : float
        Distance of neighbours.
    """

    x_um: float
    y_um: float
    columns: int
    rows: int
    step_um: float

    @classmethod
    def around(cls, bounds: tuple[float, float, float, float], step_um: float) -> "Grid":
        """Cover a rectangle.

        Parameters
        ----------
        bounds : (left, top, right, bottom)
            Micrometres.
        step_um : float
            Distance of neighbours; the points lie at its multiples.

        Returns
        -------
        Grid
            With a point to spare on every side.
        """
        left, top = (math.floor(at / step_um) - 1 for at in bounds[:2])
        right, bottom = (math.ceil(at / step_um) + 2 for at in bounds[2:])
        return cls(left * step_um, top * step_um, right - left, bottom - top, step_um)

    def points(self) -> tuple[Floats, Floats]:
        """Give the places of all points.

        Returns
        -------
        x_um, y_um : (rows, columns) float32
            Micrometres.
        """
        x, y = np.meshgrid(
            (self.x_um + self.step_um * np.arange(self.columns)).astype(np.float32),
            (self.y_um + self.step_um * np.arange(self.rows)).astype(np.float32),
        )
        return x, y


@dataclass(frozen=True)
class Blob:
    """An ellipse with a wavy outline and, if wanted, a dent: a node, a lesion, a drop.

    Parameters
    ----------
    x_um, y_um : float
        Centre.
    long_um, short_um : float
        Half axes.
    angle : float
        Of the long axis, radians.
    waves : tuple of (order, amplitude, phase)
        Harmonics of the outline, relative to the radius.
    dent : (angle, depth), optional
        Where (radians, in the blob's own frame) and how deep, relative to the radius.

    Examples
    --------
    >>> blob = Blob(0.0, 0.0, 100.0, 100.0)
    >>> blob.depth_um(np.float32([0, 90, 110]), np.float32([0, 0, 0])).round().tolist()
    [100.0, 10.0, -10.0]
    """

    x_um: float
    y_um: float
    long_um: float
    short_um: float
    angle: float = 0.0
    waves: tuple[tuple[int, float, float], ...] = ()
    dent: tuple[float, float] | None = None

    @property
    def reach_um(self) -> float:
        """From the centre, no point of it is farther."""
        return self.long_um * (1 + sum(abs(amplitude) for _, amplitude, _ in self.waves))

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """Left, top, right, bottom in micrometres; it may be smaller."""
        reach = self.reach_um
        return self.x_um - reach, self.y_um - reach, self.x_um + reach, self.y_um + reach

    def depth_um(self, x_um: Floats, y_um: Floats) -> Floats:
        """Say how deep points lie: 0 on the outline, about the distance to it near it.

        Parameters
        ----------
        x_um, y_um : float32 arrays of one shape
            Places.

        Returns
        -------
        float32 array of the same shape
            Micrometres, negative outside.
        """
        cos, sin = np.float32(math.cos(self.angle)), np.float32(math.sin(self.angle))
        dx, dy = x_um - np.float32(self.x_um), y_um - np.float32(self.y_um)
        u, v = (dx * cos + dy * sin) / np.float32(self.long_um), (dy * cos - dx * sin) / np.float32(self.short_um)
        around = np.arctan2(v, u)
        outline = np.ones_like(around)
        for order, amplitude, phase in self.waves:
            outline += np.float32(amplitude) * np.cos(np.float32(order) * around + np.float32(phase))
        if self.dent is not None:
            turn = np.angle(np.exp(1j * (around - self.dent[0]))).astype(np.float32)
            outline -= np.float32(self.dent[1]) * np.exp(-((turn / _DENT_RAD) ** 2))
        depth: Floats = (outline - np.hypot(u, v)) * np.float32(math.sqrt(self.long_um * self.short_um))
        return depth


@dataclass(frozen=True)
class Stroke:
    """A band along a wave: a stroke of a pen, a fold.

    Parameters
    ----------
    x_um, y_um : float
        Centre.
    length_um, width_um : float
        Extent along and across.
    angle : float
        Of the direction along, radians.
    bend_um : float
        Amplitude of the wave, one period over the length.
    """

    x_um: float
    y_um: float
    length_um: float
    width_um: float
    angle: float = 0.0
    bend_um: float = 0.0

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """Left, top, right, bottom in micrometres; it may be smaller."""
        reach = math.hypot(self.length_um / 2, abs(self.bend_um) + self.width_um / 2)
        return self.x_um - reach, self.y_um - reach, self.x_um + reach, self.y_um + reach

    def frame(self, x_um: Floats, y_um: Floats) -> tuple[Floats, Floats]:
        """Say where points lie along the band and across it.

        Parameters
        ----------
        x_um, y_um : float32 arrays of one shape
            Places.

        Returns
        -------
        along, across : float32 arrays of the same shape
            Micrometres from the centre, and from the middle line.
        """
        cos, sin = np.float32(math.cos(self.angle)), np.float32(math.sin(self.angle))
        dx, dy = x_um - np.float32(self.x_um), y_um - np.float32(self.y_um)
        along = dx * cos + dy * sin
        middle = np.float32(self.bend_um) * np.sin(along * np.float32(2 * math.pi / self.length_um))
        return along, dy * cos - dx * sin - middle

    def depth_um(self, x_um: Floats, y_um: Floats) -> Floats:
        """Say how deep points lie: 0 on the outline.

        Parameters
        ----------
        x_um, y_um : float32 arrays of one shape
            Places.

        Returns
        -------
        float32 array of the same shape
            Micrometres, negative outside.
        """
        along, across = self.frame(x_um, y_um)
        # The ends are round: half the width is lost over the last half width of the length.
        beyond = np.maximum(np.abs(along) - np.float32(max(self.length_um - self.width_um, 0) / 2), 0)
        depth: Floats = np.float32(self.width_um / 2) - np.hypot(across, beyond)
        return depth


def trace(depth_um: NDArray[np.floating], grid: Grid) -> BaseGeometry:
    """Trace where a map is positive.

    Parameters
    ----------
    depth_um : (rows, columns) float
        At the points of the grid; linear in between.
    grid : Grid
        Where the points lie.

    Returns
    -------
    shapely Polygon or MultiPolygon
        With holes, in micrometres; empty where nothing is positive.

    Examples
    --------
    >>> grid = Grid(-20.0, -20.0, 41, 41, 1.0)
    >>> round(trace(Blob(0.0, 0.0, 10.0, 10.0).depth_um(*grid.points()), grid).area)
    313
    """
    framed = np.pad(depth_um, 1, constant_values=-1e-3 - float(np.abs(depth_um).max()))
    rings = []
    contours: list[NDArray[np.float64]] = find_contours(framed, 0.0)  # type: ignore[no-untyped-call]
    for ring in contours:
        if len(ring) >= 4:
            xy = (ring[:, ::-1] - 1) * grid.step_um + (grid.x_um, grid.y_um)
            rings.append(shapely.make_valid(shapely.Polygon(xy)))
    # Rings never cross, so that what lies in an odd number of them is inside.
    area: BaseGeometry = shapely.Polygon()
    for polygon in rings:
        area = area.symmetric_difference(polygon)
    return _only_areas(area)


def _only_areas(geometry: BaseGeometry) -> BaseGeometry:
    parts = [part for part in shapely.get_parts(geometry) if isinstance(part, shapely.Polygon) and part.area > 0]
    return shapely.union_all(parts) if parts else shapely.Polygon()


def outline_of(shape: Blob | Stroke) -> BaseGeometry:
    """Trace a shape by itself, at a 160th of its extent.

    Parameters
    ----------
    shape : Blob or Stroke
        What.

    Returns
    -------
    shapely Polygon or MultiPolygon
        Micrometres.
    """
    left, _, right, _ = shape.bounds
    grid = Grid.around(shape.bounds, max((right - left) / 160, 0.5))
    return trace(shape.depth_um(*grid.points()), grid)
