"""Shapes as pixels: a pixel belongs to a shape when its centre lies in it."""

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

from sentinode.geometry import Size

__all__ = ["pixels_inside"]


def pixels_inside(shape: BaseGeometry, size: Size) -> NDArray[np.bool_]:
    """Paint a shape.

    Row by row, from where the line through the centres of a row crosses the outline: even-odd rule. What it takes grows
    with the outline and the picture, not with their product.

    Parameters
    ----------
    shape : shapely geometry
        In pixels of the picture, valid, of parts that do not overlap; what is no polygon in it is left out.
    size : Size
        Of the picture.

    Returns
    -------
    (h, w) bool
        True where the centre of the pixel lies in the shape.

    Examples
    --------
    >>> pixels_inside(shapely.box(0.6, 0, 2.6, 1), Size(4, 2)).astype(int).tolist()
    [[0, 1, 1, 0], [0, 0, 0, 0]]
    """
    crossings = np.zeros((size.height, size.width + 1), dtype=np.uint8)
    for polygon in shapely.get_parts(shape):
        if isinstance(polygon, shapely.Polygon):
            for ring in (polygon.exterior, *polygon.interiors):
                _cross(crossings, shapely.get_coordinates(ring))
    np.bitwise_xor.accumulate(crossings, axis=1, out=crossings)
    return crossings[:, : size.width].astype(bool)


def _cross(crossings: NDArray[np.uint8], ring: NDArray[np.float64]) -> None:
    # Turn over, in each row that the ring crosses, the first pixel whose centre lies at or right of the crossing.
    height, width = crossings.shape
    (x0, y0), (x1, y1) = ring[:-1].T, ring[1:].T
    first, last = (np.clip(np.ceil(end(y0, y1) - 0.5), 0, height).astype(np.int64) for end in (np.minimum, np.maximum))
    n = last - first  # rows that each edge crosses
    edge = np.repeat(np.arange(len(n)), n)
    rows = np.arange(n.sum()) - np.repeat(n.cumsum() - n, n) + first[edge]
    along = (rows + 0.5 - y0[edge]) / (y1 - y0)[edge]
    columns = np.clip(np.ceil(x0[edge] + along * (x1 - x0)[edge] - 0.5), 0, width - 1).astype(np.int64)
    np.bitwise_xor.at(crossings, (rows, columns), np.uint8(1))
