"""Metastases, synthetic: where they lie in a node, of the sizes that were asked for."""

import math
from dataclasses import dataclass

import numpy as np
from shapely.geometry.base import BaseGeometry

from sentinode.errors import PlanError
from sentinode.phantom.lattice import Floats
from sentinode.phantom.nodes import CLIP_UM, Anatomy, major_axis_um_of
from sentinode.phantom.outlines import Blob, trace
from sentinode.phantom.plans import LesionClass, LesionWish, SlidePlan, lesion_class

__all__ = ["Lesion", "place_lesion"]

_GAP_UM = 160.0  # between two lesions; under 75 um CAMELYON counts them as one
_TRIES = 200
_SMALLER = (1.0, 0.9, 0.8)  # of what was asked for, where that has no room, as long as its class is the same


@dataclass(frozen=True, eq=False)
class Lesion:
    """A metastasis that was drawn.

    Parameters
    ----------
    number : int
        From 1, within its slide.
    shape : shapely Polygon or MultiPolygon
        Its outline in level-0 pixels, stroma between its nests included.
    major_axis_um : float
        Longest extent, as drawn.
    area_mm2 : float
        Within the outline.
    """

    number: int
    shape: BaseGeometry
    major_axis_um: float
    area_mm2: float

    @property
    def size_class(self) -> LesionClass:
        """By its major axis."""
        return lesion_class(self.major_axis_um)

    @property
    def centre(self) -> tuple[float, float]:
        """A place in level-0 pixels, within it."""
        middle = self.shape.centroid
        inside = middle if self.shape.contains(middle) else self.shape.representative_point()
        return float(inside.x), float(inside.y)


def place_lesion(
    plan: SlidePlan,
    wish: LesionWish,
    bases: list[Anatomy],
    others: list[tuple[int, Floats, BaseGeometry]],
    rng: np.random.Generator,
) -> tuple[int, Floats, BaseGeometry]:
    """Find room for a lesion.

    Parameters
    ----------
    plan : SlidePlan
        Of the slide.
    wish : LesionWish
        The lesion; where it has no room, one up to a fifth smaller is taken, if it is of the same class.
    bases : list of Anatomy
        Its nodes.
    others : list of (node, depth, shape)
        The lesions that are placed already.
    rng : numpy.random.Generator
        Of the slide.

    Returns
    -------
    node : int
        In which it lies.
    depth : (rows, columns) float32
        A map as that node's.
    shape : shapely geometry
        Its outline in micrometres.

    Raises
    ------
    PlanError
        If there is no room.
    """
    for share in _SMALLER:
        smaller = LesionWish(share * wish.major_axis_um, wish.cells)
        found = _tried(smaller, bases, others, rng) if _is_like(smaller, wish) else None
        if found is not None:
            return found
    raise PlanError(
        f"slide '{plan.slide_id}': a lesion of {wish.major_axis_um:.0f} um has no room; "
        "give a larger section or smaller lesions"
    )


def _is_like(smaller: LesionWish, wish: LesionWish) -> bool:
    return lesion_class(smaller.major_axis_um) == lesion_class(wish.major_axis_um)


def _tried(
    wish: LesionWish, bases: list[Anatomy], others: list[tuple[int, Floats, BaseGeometry]], rng: np.random.Generator
) -> tuple[int, Floats, BaseGeometry] | None:
    wanted = lesion_class(wish.major_axis_um)
    roomy = [n for n, base in enumerate(bases) if 1.7 * base.blob.long_um > wish.major_axis_um]
    for _ in range(_TRIES if roomy else 0):
        number = roomy[0] if wanted == "macro" else int(rng.choice(roomy))
        base = bases[number]
        at = _seat(base, wish.major_axis_um, rng)
        turn = base.blob.angle + float(rng.normal(0, 0.15)) if wanted == "macro" else float(rng.uniform(0, np.pi))
        x, y = base.grid.points()
        free = np.full_like(base.depth, -CLIP_UM)
        for blob in _lesion_blobs(wish, at, turn, rng):
            np.maximum(free, blob.depth_um(x, y), out=free)
        depth = np.minimum(free, base.depth - base.capsule_um - 4)
        shape = trace(depth, base.grid)
        if _fits(shape, (free > 0).sum() * base.grid.step_um**2, wish, others):
            return number, depth, shape
    return None


def _seat(base: Anatomy, major_um: float, rng: np.random.Generator) -> tuple[float, float]:
    # A large lesion fills the middle; a small one lies under the capsule, where cells arrive, or anywhere.
    lowest = base.capsule_um + min(0.28 * major_um, 0.55 * float(base.depth.max()))
    highest = lowest + (90 if rng.random() < 0.6 else 600)
    places = np.argwhere((base.depth > lowest) & (base.depth < highest))
    if not len(places):
        return base.blob.x_um, base.blob.y_um
    row, column = places[int(rng.integers(len(places)))]
    return base.grid.x_um + float(column) * base.grid.step_um, base.grid.y_um + float(row) * base.grid.step_um


def _lesion_blobs(wish: LesionWish, at: tuple[float, float], turn: float, rng: np.random.Generator) -> list[Blob]:
    half = wish.major_axis_um / 2
    waves = tuple((k, float(rng.normal(0, 0.12 / k)), float(rng.uniform(0, 2 * np.pi))) for k in (2, 3, 4, 6, 9))
    if wish.cells == 1:
        return [Blob(*at, half, half * float(rng.uniform(0.5, 0.8)), turn, waves)]
    # A cluster: the first two at its ends, the others between.
    radius = max(half / wish.cells, 8.0)
    blobs = []
    for number in range(wish.cells):
        along = (half - radius) * (1 if number == 0 else -1 if number == 1 else float(rng.uniform(-0.8, 0.8)))
        across = 0.0 if number < 2 else float(rng.normal(0, 0.35 * half))
        x = at[0] + along * math.cos(turn) - across * math.sin(turn)
        y = at[1] + along * math.sin(turn) + across * math.cos(turn)
        blobs.append(Blob(x, y, radius, radius * float(rng.uniform(0.7, 1)), float(rng.uniform(0, np.pi)), waves[:2]))
    return blobs


def _fits(shape: BaseGeometry, area: float, wish: LesionWish, others: list[tuple[int, Floats, BaseGeometry]]) -> bool:
    if shape.is_empty or shape.area < 0.6 * area:
        return False
    if lesion_class(major_axis_um_of(shape)) != lesion_class(wish.major_axis_um):
        return False
    return all(shape.distance(other) > _GAP_UM for _, _, other in others)
