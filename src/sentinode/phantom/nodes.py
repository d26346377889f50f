"""Lymph nodes, synthetic: where they lie on a slide, and what each point of them is made of.

Maps of each node at 8 um a point say how deep a place lies in fat, in fibres, in a lesion, in a sinus, in a follicle.
"""

import math
from dataclasses import dataclass

import numpy as np
import shapely
from scipy.spatial.distance import pdist
from shapely.geometry.base import BaseGeometry

from sentinode.errors import PlanError
from sentinode.phantom.lattice import Floats, SmoothField
from sentinode.phantom.outlines import Blob, Grid, outline_of, trace
from sentinode.phantom.plans import SlidePlan

__all__ = ["CLIP_UM", "Anatomy", "NodeMaps", "major_axis_um_of", "node_maps", "place_nodes"]

CLIP_UM = 40.0
"""Depths are known up to here."""

_STEP_UM = 8.0
_TRIES = 200


@dataclass(frozen=True, eq=False)
class NodeMaps:
    """A node with the fat around it: how deep each point lies in each part, (rows, columns, 6) float32."""

    grid: Grid
    maps: Floats  # tissue, fat, fibres, lesion, sinus, follicle

    def at(self, x_um: Floats, y_um: Floats) -> Floats:
        """Read the maps, linear between their points.

        Parameters
        ----------
        x_um, y_um : float32 arrays of one shape
            Places in micrometres.

        Returns
        -------
        (..., 6) float32
            Depths. The rim of the maps is glass, so that beyond it is glass.
        """
        grid = self.grid
        across = np.clip((x_um - np.float32(grid.x_um)) / np.float32(grid.step_um), 0, grid.columns - 1.001)
        down = np.clip((y_um - np.float32(grid.y_um)) / np.float32(grid.step_um), 0, grid.rows - 1.001)
        column, row = across.astype(np.int32), down.astype(np.int32)
        fx, fy = (across - column)[..., None], (down - row)[..., None]
        flat, first = self.maps.reshape(-1, self.maps.shape[-1]), row * grid.columns + column
        upper = flat.take(first, axis=0) * (1 - fx) + flat.take(first + 1, axis=0) * fx
        lower = flat.take(first + grid.columns, axis=0) * (1 - fx) + flat.take(first + grid.columns + 1, axis=0) * fx
        depth: Floats = upper * (1 - fy) + lower * fy
        return depth

    def touches(self, x_um: Floats, y_um: Floats) -> bool:
        """Say whether any of the places may lie on the node.

        Parameters
        ----------
        x_um, y_um : float32 arrays of one shape
            Places in micrometres.

        Returns
        -------
        bool
            By the rectangle around them.
        """
        grid = self.grid
        if x_um.size == 0:
            return False
        right, bottom = grid.x_um + grid.columns * grid.step_um, grid.y_um + grid.rows * grid.step_um
        return bool(x_um.max() > grid.x_um and x_um.min() < right and y_um.max() > grid.y_um and y_um.min() < bottom)


def place_nodes(plan: SlidePlan, rng: np.random.Generator) -> list[Blob]:
    """Find room for the nodes of a slide.

    Parameters
    ----------
    plan : SlidePlan
        What is wanted; the first node is the largest, and has room for the largest lesion.
    rng : numpy.random.Generator
        Of the slide.

    Returns
    -------
    list of Blob
        The first one, and as many of the others as have room.

    Raises
    ------
    PlanError
        If there is no room for the first.
    """
    width_um, height_um = plan.size.width * plan.mpp, plan.size.height * plan.mpp
    largest = max((wish.major_axis_um for wish in plan.lesions), default=0.0)
    placed: list[Blob] = []
    for number in range(plan.nodes):
        share = rng.uniform(0.58, 0.7) if number == 0 else rng.uniform(0.2, 0.36)
        long_um = share * plan.section_um / 2
        if number == 0:
            long_um = max(long_um, 0.66 * largest)
        for attempt in range(_TRIES):
            blob = _node_blob(long_um * (1 - 0.3 * attempt / _TRIES * (number > 0)), (width_um, height_um), rng)
            if blob is not None and all(_are_apart(blob, other) for other in placed):
                placed.append(blob)
                break
        else:
            if number == 0:
                raise PlanError(
                    f"slide '{plan.slide_id}': a node of {2 * long_um / 1000:.1f} mm has no room on "
                    f"{width_um / 1000:.1f} x {height_um / 1000:.1f} mm; give a larger size or smaller lesions"
                )
    return placed


def _node_blob(long_um: float, canvas_um: tuple[float, float], rng: np.random.Generator) -> Blob | None:
    angle = float(rng.normal(0 if canvas_um[0] >= canvas_um[1] else np.pi / 2, 0.35))
    short_um = long_um * float(rng.uniform(0.6, 0.78))
    waves = tuple((k, float(rng.normal(0, 0.1 / k)), float(rng.uniform(0, 2 * np.pi))) for k in (2, 3, 4, 5, 7))
    dent = (float(rng.choice([-1, 1]) * np.pi / 2 + rng.normal(0, 0.3)), float(rng.uniform(0.08, 0.25)))
    blob = Blob(0.0, 0.0, long_um, short_um, angle, waves, dent)
    # Its real extent, with room for the fat around it.
    grid = Grid.around(blob.bounds, max(long_um / 40, 1.0))
    left, top, right, bottom = trace(blob.depth_um(*grid.points()), grid).bounds
    rim = _fat_um(long_um) + 40
    room_x, room_y = canvas_um[0] - (right - left) - 2 * rim, canvas_um[1] - (bottom - top) - 2 * rim
    if room_x < 0 or room_y < 0:
        return None
    x, y = rim - left + rng.uniform(0, room_x), rim - top + rng.uniform(0, room_y)
    return Blob(float(x), float(y), long_um, short_um, angle, waves, dent)


def _are_apart(one: Blob, other: Blob) -> bool:
    gap = _fat_um(one.long_um) + _fat_um(other.long_um) + 60
    return not outline_of(one).buffer(gap).intersects(outline_of(other))


def _fat_um(long_um: float) -> float:
    # How far fat reaches around a node, at most.
    return min(0.22 * long_um, 260.0)


@dataclass(frozen=True, eq=False)
class Anatomy:
    """A node before its lesions: maps in micrometres, (rows, columns) float32."""

    blob: Blob
    grid: Grid
    depth: Floats  # under the outline of the node
    capsule_um: Floats
    tissue: Floats
    medulla: Floats  # 0 to 1

    @classmethod
    def grown(cls, blob: Blob, plane: int) -> "Anatomy":
        """Grow the parts that every node has.

        Parameters
        ----------
        blob : Blob
            Its outline.
        plane : int
            The seed of the tissue plane.

        Returns
        -------
        Anatomy
            Its maps.
        """
        fat_um = _fat_um(blob.long_um)
        left, top, right, bottom = blob.bounds
        rim = fat_um + 60
        grid = Grid.around((left - rim, top - rim, right + rim, bottom + rim), _STEP_UM)
        x, y = grid.points()
        level = blob.depth_um(x, y)
        down, across = np.gradient(level, grid.step_um)
        # Divided by its slope, it is the distance to first order: the capsule is as thick everywhere.
        slope = np.clip(np.hypot(down, across), 0.45, None)
        depth = level / slope + 5 * _field(plane, "outline", 60.0, (x, y)) + 3 * _field(plane, "rough", 18.0, (x, y))
        fat = np.clip(0.35 + 0.75 * _field(plane, "fat bed", 300.0, (x, y)), 0, 1) * fat_um
        tissue = depth + fat + np.where(fat > 25, 8 * _field(plane, "fat lobes", 45.0, (x, y)), 0)
        turn = blob.angle + (blob.dent[0] if blob.dent is not None else 0.0)
        hilum = (
            blob.x_um + 0.5 * blob.short_um * math.cos(turn),
            blob.y_um + 0.5 * blob.short_um * math.sin(turn),
        )
        reach = np.hypot(x - np.float32(hilum[0]), y - np.float32(hilum[1])) / np.float32(0.62 * blob.short_um)
        medulla = np.clip(1.5 * (1.1 - reach) + 0.25 * _field(plane, "medulla", 90.0, (x, y)), 0, 1)
        medulla *= np.clip((depth - 120) / 100, 0, 1)
        capsule = np.clip(24 + 7 * _field(plane, "capsule", 120.0, (x, y)), 12, 45)
        edge = np.full_like(tissue, -CLIP_UM)
        edge[2:-2, 2:-2] = tissue[2:-2, 2:-2]
        return cls(blob, grid, *(part.astype(np.float32) for part in (depth, capsule, edge, medulla)))


def node_maps(
    base: Anatomy, lesions: list[tuple[Floats, BaseGeometry]], rng: np.random.Generator, plane: int
) -> NodeMaps:
    """Put a node and its lesions together.

    Parameters
    ----------
    base : Anatomy
        The node.
    lesions : list of (depth, shape)
        In it: maps as its own, and polygons in micrometres.
    rng : numpy.random.Generator
        Of the slide.
    plane : int
        The seed of the tissue plane.

    Returns
    -------
    NodeMaps
        All of it.
    """
    at = base.grid.points()
    depth, capsule, medulla = base.depth, base.capsule_um, base.medulla
    lesion = np.full_like(depth, -CLIP_UM)
    large = np.zeros(depth.shape, bool)
    for lesion_depth, shape in lesions:
        np.maximum(lesion, lesion_depth, out=lesion)
        if major_axis_um_of(shape) > 400:
            large |= lesion_depth > 12
    # Fat: around the node, and lobules in it at the hilum.
    lobes = (_field(plane, "hilum fat", 70.0, at) - 2.6 + 2.2 * medulla) * 60
    septa = (0.1 - np.abs(_field(plane, "septa", 130.0, at))) * 110
    fat = np.where(depth < 0, np.minimum(-depth, -septa), np.minimum(lobes, depth - capsule))
    fat = np.minimum(fat, -lesion)
    # Fibres: septa of the fat, capsule, trabeculae that come from it, small vessels, and septa in large lesions.
    ridge = np.abs(_field(plane, "trabecula", 150.0, at))
    trabecula = (0.11 * np.clip(1.1 - depth / 330, 0, 1) - 0.02 - ridge) * 120
    vessel = (_field(plane, "vessel", 34.0, at) - 2.35) * 30
    inside = np.maximum(np.maximum(capsule - depth, trabecula), vessel)
    fibres = np.where(depth < 0, septa, inside)
    nests = np.where(large, (0.16 - np.abs(_field(plane, "nests", 75.0, at))) * 70, -CLIP_UM)
    fibres = np.where(lesion > -8, np.maximum(np.minimum(fibres, -lesion), nests), fibres)
    # Sinuses: under the capsule, along the trabeculae, and the net of the medulla.
    under = np.minimum(depth - capsule, capsule + 17 + 6 * _field(plane, "under", 60.0, at) - depth)
    net = (0.42 * medulla - 0.06 - np.abs(_field(plane, "cords", 42.0, at))) * 45
    along = np.where(depth > capsule, 6 - np.abs(trabecula + 6), -CLIP_UM) + 5 * _field(plane, "along", 80.0, at)
    sinus = np.maximum(np.maximum(under, net), along)
    follicle = _follicles(base, rng) + 7 * _field(plane, "follicle", 30.0, at)
    maps = np.stack([base.tissue, fat, fibres, lesion, sinus, follicle], axis=-1)
    return NodeMaps(base.grid, np.clip(maps, -CLIP_UM, CLIP_UM).astype(np.float32))


def _follicles(base: Anatomy, rng: np.random.Generator) -> Floats:
    # Germinal centres in the cortex, a row or two under the capsule.
    x, y = base.grid.points()
    follicle = np.full_like(base.depth, -CLIP_UM)
    cortex = np.argwhere((base.depth > 130) & (base.depth < 420) & (base.medulla < 0.05))
    centres: list[tuple[float, float]] = []
    if not len(cortex):
        return follicle
    for row, column in cortex[rng.integers(len(cortex), size=160)]:
        at = float(x[row, column]), float(y[row, column])
        if all(math.dist(at, other) > 310 for other in centres):
            centres.append(at)
            radius = float(rng.uniform(60, 135))
            waves = ((2, float(rng.uniform(0, 0.12)), 0.0), (3, float(rng.uniform(0, 0.06)), 1.0))
            germinal = Blob(*at, radius, radius * float(rng.uniform(0.7, 1)), float(rng.uniform(0, np.pi)), waves)
            np.maximum(follicle, germinal.depth_um(x, y), out=follicle)
    return follicle


def _field(plane: int, what: str, spacing_um: float, at: tuple[Floats, Floats]) -> Floats:
    return SmoothField(plane, ("section", what), spacing_um).at(*at)


def major_axis_um_of(shape: BaseGeometry) -> float:
    """Measure the longest extent of a shape.

    Parameters
    ----------
    shape : shapely geometry
        Micrometres.

    Returns
    -------
    float
        Micrometres.
    """
    corners = shapely.get_coordinates(shape.convex_hull)
    return float(pdist(corners).max())
