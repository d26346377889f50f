"""Polygons put together and taken apart."""

from collections.abc import Iterable, Sequence
from typing import TypeAlias

import shapely
from shapely import MultiPolygon, Polygon

__all__ = ["Shape", "polygons_of", "put_together", "union_of"]

Shape: TypeAlias = Polygon | MultiPolygon


def polygons_of(shape: shapely.Geometry) -> list[Polygon]:
    """Take a shape apart.

    Parameters
    ----------
    shape : shapely geometry
        A collection, too.

    Returns
    -------
    list of Polygon
        Those with an area.
    """
    # A collection may hold multipolygons, so it is taken apart twice.
    parts = shapely.get_parts(shapely.get_parts(shape))
    return [part for part in parts if isinstance(part, Polygon) and part.area > 0]


def union_of(shapes: Iterable[shapely.Geometry]) -> Shape:
    """Unite shapes.

    Parameters
    ----------
    shapes : iterable of shapely geometry
        They may overlap.

    Returns
    -------
    Polygon or MultiPolygon
        May be empty.
    """
    return put_together(polygons_of(shapely.union_all(list(shapes))))


def put_together(parts: Sequence[Polygon]) -> Shape:
    """Make one shape of parts that do not overlap.

    Parameters
    ----------
    parts : sequence of Polygon
        Any number.

    Returns
    -------
    Polygon or MultiPolygon
        A polygon of one part.
    """
    return parts[0] if len(parts) == 1 else MultiPolygon(parts)
