"""Whole slides of lymph nodes, synthetic: nodes on glass, their parts, lesions of stated sizes, artefacts; all known.

A slide is a `tissue.Scene`: maps of each node at 8 um a point, linear in between, that say how deep a place lies in
fat, in fibres, in a lesion, in a sinus, in a follicle. Any window of it is painted by the painter of the patches, and
the polygons of the truth are traced from the same maps. Nothing is held in memory but the maps.
"""

import functools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Literal

import numpy as np
import shapely
import shapely.affinity
from numpy.typing import NDArray
from scipy.spatial.distance import pdist
from shapely.geometry.base import BaseGeometry

from sentinode.errors import PlanError
from sentinode.geometry import Box, Size
from sentinode.phantom.artefacts import ARTEFACTS, Artefact, spoil
from sentinode.phantom.lattice import Floats, SmoothField, Window
from sentinode.phantom.outlines import Blob, Grid, Stroke, trace
from sentinode.phantom.patches import Optics, draw_phenotype, scan_field
from sentinode.phantom.stain import draw_scanner, draw_stain
from sentinode.phantom.tissue import Phenotype, Shares, Truth
from sentinode.seeds import stream
from sentinode.slides.pyramid import TILE_PX, write_pyramid
from sentinode.slides.rasterising import pixels_inside

__all__ = [
    "LESION_CLASSES",
    "Lesion",
    "LesionClass",
    "LesionWish",
    "PhantomSlide",
    "SectionScene",
    "SlidePlan",
    "draw_slide",
    "lesion_class",
    "write_slide",
]

LesionClass = Literal["itc", "micro", "macro"]

LESION_CLASSES: Mapping[LesionClass, tuple[float, float]] = MappingProxyType({
    "itc": (0.0, 200.0),
    "micro": (200.0, 2000.0),
    "macro": (2000.0, math.inf),
})
"""Isolated tumour cells, micro- and macrometastasis: major axis in um, above the first, up to the second number."""

_DEMO_SIZE = Size(3584, 3072)
_STEP_UM = 8.0
_CLIP_UM = 40.0
_EDGE_UM = np.float32(3.0)
_GAP_UM = 160.0  # between two lesions; under 75 um CAMELYON counts them as one
_TRIES = 200
_LARGEST_PX = 100_000
_REACH_UM = 20.0  # beyond its outline nothing is painted of a tissue


@dataclass(frozen=True)
class LesionWish:
    """A lesion that a slide is to have.

    Parameters
    ----------
    major_axis_um : float
        Its longest extent.
    cells : int
        Parts that it is made of: 1, or a cluster of a few.
    """

    major_axis_um: float
    cells: int = 1


@dataclass(frozen=True)
class SlidePlan:
    """What a slide is to show.

    Parameters
    ----------
    slide_id : str
        Its name; part of what it is drawn from.
    seed : int
        The cohort's.
    patient, site : int
        Whose, and where it was stained and scanned, from 0.
    size : Size
        Of the canvas, level-0 pixels; up to 100,000 a side.
    mpp : float
        Micrometres a pixel.
    section_um : float
        How large the tissue is about, whatever the canvas: the first node takes about two thirds of it.
    nodes : int
        One to four.
    lesions : tuple of LesionWish
        None: a normal slide.
    artefacts : tuple of str
        Of `artefacts.ARTEFACTS`.

    Raises
    ------
    PlanError
        If a number cannot be, or an artefact is unknown.

    Examples
    --------
    >>> SlidePlan("a", seed=1, nodes=7)
    Traceback (most recent call last):
    sentinode.errors.PlanError: slide 'a': nodes = 7; give 1 to 4
    """

    slide_id: str
    seed: int
    patient: int = 0
    site: int = 0
    size: Size = _DEMO_SIZE
    mpp: float = 1.0
    section_um: float = 2600.0
    nodes: int = 2
    lesions: tuple[LesionWish, ...] = ()
    artefacts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        name = f"slide '{self.slide_id}'"
        if not 1 <= self.nodes <= 4:
            raise PlanError(f"{name}: nodes = {self.nodes}; give 1 to 4")
        if not (math.isfinite(self.mpp) and self.mpp > 0):
            raise PlanError(f"{name}: mpp = {self.mpp}; micrometres a pixel are a positive number, e.g. 0.25")
        if max(self.size.width, self.size.height) > _LARGEST_PX:
            raise PlanError(f"{name}: {self.size.width} x {self.size.height} px; at most {_LARGEST_PX} a side")
        if not self.section_um >= 300:
            raise PlanError(f"{name}: section_um = {self.section_um}; give 300 or more")
        unknown = sorted(set(self.artefacts) - set(ARTEFACTS))
        if unknown:
            raise PlanError(f"{name}: artefact '{unknown[0]}' is not known; choose from {', '.join(ARTEFACTS)}")
        if any(not wish.major_axis_um >= 16 or wish.cells < 1 for wish in self.lesions):
            raise PlanError(f"{name}: a lesion is one cell (16 um) or more; mend its size")


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


def lesion_class(major_axis_um: float) -> LesionClass:
    """Name a lesion by its size, as pathologists stage it (AJCC: 0.2 mm and 2 mm).

    Parameters
    ----------
    major_axis_um : float
        Longest extent.

    Returns
    -------
    {"itc", "micro", "macro"}
        Its class.

    Examples
    --------
    >>> lesion_class(200), lesion_class(201), lesion_class(2001)
    ('itc', 'micro', 'macro')
    """
    for name, (_, most) in LESION_CLASSES.items():
        if major_axis_um <= most:
            return name
    return "macro"


@dataclass(frozen=True, eq=False)
class _NodeMaps:
    """A node with the fat around it: how deep each point lies in each part, (rows, columns, 6) float32."""

    grid: Grid
    maps: Floats  # tissue, fat, fibres, lesion, sinus, follicle

    def at(self, x_um: Floats, y_um: Floats) -> Floats:
        # (..., 6), linear between the points; the rim of the maps is glass, so that beyond it is glass.
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
        grid = self.grid
        if x_um.size == 0:
            return False
        right, bottom = grid.x_um + grid.columns * grid.step_um, grid.y_um + grid.rows * grid.step_um
        return bool(x_um.max() > grid.x_um and x_um.min() < right and y_um.max() > grid.y_um and y_um.min() < bottom)


@dataclass(frozen=True, eq=False)
class SectionScene:
    """What grows where on a slide: a `tissue.Scene`.

    Parameters
    ----------
    nodes : tuple
        The maps of each node; nodes do not overlap.
    lymphocytes, infiltrate, bleeding, shrinkage, angle : float
        As in `tissue.Scene`.
    """

    nodes: tuple[_NodeMaps, ...]
    lymphocytes: float = 0.88
    infiltrate: float = 0.12
    bleeding: float = 0.0
    shrinkage: float = 0.1
    angle: float = 0.6

    def shares(self, x_um: Floats, y_um: Floats) -> Shares:
        """Say what each point is made of.

        Parameters
        ----------
        x_um, y_um : float32 arrays of one shape
            Places in micrometres.

        Returns
        -------
        Shares
            Arrays of the same shape; glass is ``clear``.
        """
        parts = np.zeros((6, *np.shape(x_um)), np.float32)
        for node in self.nodes:
            if node.touches(x_um, y_um):
                there = np.clip(node.at(x_um, y_um) / _EDGE_UM + np.float32(0.5), 0, 1)
                left = there[..., 0].copy()
                for number in range(1, 6):
                    taken = left * there[..., number]
                    parts[number] += taken
                    left -= taken
                parts[0] += left
        lymphoid, fat, fibres, lesion, sinus, follicle = parts
        return Shares(lymphoid, follicle, lesion, fibres, sinus, fat, np.clip(1 - parts.sum(axis=0), 0, 1))


@dataclass(frozen=True, eq=False)
class PhantomSlide:
    """A slide that was drawn: any window can be painted, and all is known.

    Parameters
    ----------
    plan : SlidePlan
        What was asked for.
    scene : SectionScene
        What grows where.
    phenotype : Phenotype
        What the patient's cells look like.
    optics : Optics
        Stain and scanner.
    plane : int
        The seed of the tissue plane.
    lesions : tuple of Lesion
        In level-0 pixels.
    tissue : shapely geometry
        Outline of all tissue, level-0 pixels.
    artefacts : tuple of (Artefact, shapely geometry)
        What spoils it, and where, in level-0 pixels.
    """

    plan: SlidePlan
    scene: SectionScene
    phenotype: Phenotype
    optics: Optics
    plane: int
    lesions: tuple[Lesion, ...]
    tissue: BaseGeometry
    artefacts: tuple[tuple[Artefact, BaseGeometry], ...]

    @property
    def size(self) -> Size:
        """Of level 0."""
        return self.plan.size

    @property
    def blank(self) -> tuple[int, int, int]:
        """Colour of glass where nothing lies."""
        red, green, blue = (round(channel) for channel in self.optics.scanner.white)
        return red, green, blue

    @property
    def label(self) -> str:
        """``"tumour"`` or ``"normal"``."""
        return "tumour" if self.lesions else "normal"

    @functools.cached_property
    def tumour(self) -> BaseGeometry:
        """Outline of all lesions, level-0 pixels."""
        return shapely.union_all([lesion.shape for lesion in self.lesions])

    def is_blank(self, box: Box) -> bool:
        """Say whether a part shows neither tissue nor ink.

        Parameters
        ----------
        box : Box
            Level-0 pixels.

        Returns
        -------
        bool
            False for all tiles of 256 px that tissue, ink or air comes near to.
        """
        return not any(tile in self._painted or tile in self._covered for tile in _tiles_of(box))

    def read(self, box: Box) -> NDArray[np.uint8]:
        """Paint a part, artefacts included.

        Parameters
        ----------
        box : Box
            Level-0 pixels; beyond the slide is glass.

        Returns
        -------
        (box.height, box.width, 3) uint8
            The same place looks the same in every box, up to one grey level of rounding.
        """
        window = Window(box.x, box.y, box.width, box.height, self.plan.mpp)
        pixels = self._clean(window)
        white = np.array(self.optics.scanner.white, np.float32)
        for artefact, _ in self.artefacts:
            spoil(pixels, artefact, window, self._clean, white, self.plane)
        return pixels

    def painted_tumour(self, box: Box) -> NDArray[np.bool_]:
        """Say which pixels show cells of the metastasis: finer than the outline, without the stroma in it.

        Parameters
        ----------
        box : Box
            Level-0 pixels.

        Returns
        -------
        (box.height, box.width) bool
            As painted; where tissue lies under a fold or out of focus, too.
        """
        mask = np.zeros((box.height, box.width), bool)
        for part in self._parts(box):
            mask[_within(part, box)] = self._scan(part)[1].tumour
        return mask

    def tumour_mask(self, box: Box, downsample: int = 1) -> NDArray[np.bool_]:
        """Say which pixels lie within the outline of a lesion.

        Parameters
        ----------
        box : Box
            Level-0 pixels.
        downsample : int
            Level-0 pixels a pixel of the mask.

        Returns
        -------
        (ceil(height / downsample), ceil(width / downsample)) bool
            A pixel is tumour if its centre is.
        """
        return _rasterised(self.tumour, box, downsample)

    def truth_mask(self, box: Box, downsample: int = 1) -> NDArray[np.uint8]:
        """Say what each pixel shows.

        Parameters
        ----------
        box : Box
            Level-0 pixels.
        downsample : int
            Level-0 pixels a pixel of the mask.

        Returns
        -------
        (ceil(height / downsample), ceil(width / downsample)) uint8
            0 glass, 1 tissue, 2 tumour; over these 3 ink, 4 out of focus, 5 fold, 6 air.
        """
        mask = _rasterised(self.tissue, box, downsample).astype(np.uint8)
        mask[_rasterised(self.tumour, box, downsample)] = 2
        for artefact, outline in self.artefacts:
            there = _rasterised(outline, box, downsample)
            value = 3 if artefact.is_pen else {"blur": 4, "fold": 5, "bubble": 6}[artefact.kind]
            mask[there if artefact.on_glass else there & (mask > 0)] = value
        return mask

    def _clean(self, window: Window) -> NDArray[np.uint8]:
        # Without artefacts. Glass that is far from tissue has one colour, as scanners fill what they did not scan.
        pixels = np.empty((window.height, window.width, 3), np.uint8)
        pixels[:] = self.blank
        box = Box(window.x, window.y, window.width, window.height)
        for part in self._parts(box):
            pixels[_within(part, box)] = self._scan(part)[0]
        return pixels

    def _scan(self, part: Box) -> tuple[NDArray[np.uint8], Truth]:
        window = Window(part.x, part.y, part.width, part.height, self.plan.mpp)
        return scan_field(self.scene, self.phenotype, self.optics, window, self.plane)

    def _parts(self, box: Box) -> Iterator[Box]:
        # What is painted of a box, tile by tile: small windows stay in the processor's cache.
        for tile in _tiles_of(box):
            part = self._painted[tile].cut(box) if tile in self._painted else None
            if part is not None:
                yield part

    @functools.cached_property
    def _painted(self) -> dict[tuple[int, int], Box]:
        return _tiles_over(self.tissue.buffer(_REACH_UM / self.plan.mpp), self.size)

    @functools.cached_property
    def _covered(self) -> dict[tuple[int, int], Box]:
        there = [outline for artefact, outline in self.artefacts if artefact.on_glass]
        return _tiles_over(shapely.union_all(there).buffer(_REACH_UM / self.plan.mpp), self.size)


def write_slide(phantom: PhantomSlide, path: Path) -> tuple[Size, ...]:
    """Write a slide as a pyramidal TIFF, painting as it goes.

    Parameters
    ----------
    phantom : PhantomSlide
        What to write.
    path : Path
        The file; name it under `storage.whole_file`.

    Returns
    -------
    tuple of Size
        The levels.
    """
    note = (
        f"SYNTHETIC slide {phantom.plan.slide_id}: drawn by sentinode.phantom, no patient. MPP = {phantom.plan.mpp:g}"
    )
    return write_pyramid(path, phantom, phantom.plan.mpp, note.encode("ascii", "replace").decode())


def draw_slide(plan: SlidePlan) -> PhantomSlide:
    """Draw a slide: where its nodes lie, what is in them, its lesions and artefacts. Nothing is painted yet.

    Parameters
    ----------
    plan : SlidePlan
        What to draw; the same plan, the same slide.

    Returns
    -------
    PhantomSlide
        To be read, or written.

    Raises
    ------
    PlanError
        If a node or a lesion has no room.
    """
    # PlanError is that of the two.
    rng = stream(plan.seed, "phantom", "slide", plan.slide_id)
    plane = int(rng.integers(2**62))
    blobs = _place_nodes(plan, rng)
    bases = [_Anatomy.grown(blob, plane) for blob in blobs]
    found: list[tuple[int, Floats, BaseGeometry]] = []
    for wish in sorted(plan.lesions, key=lambda wish: -wish.major_axis_um):
        found.append(_place_lesion(plan, wish, bases, found, rng))
    nodes = tuple(
        _node_maps(base, [(depth, shape) for node, depth, shape in found if node == number], rng, plane)
        for number, base in enumerate(bases)
    )
    scene = SectionScene(
        nodes,
        lymphocytes=float(rng.uniform(0.82, 0.95)),
        infiltrate=float(rng.uniform(0.05, 0.2)),
        shrinkage=float(rng.uniform(0.04, 0.16)),
        angle=float(rng.uniform(0, np.pi)),
    )
    tissue = shapely.union_all([trace(node.maps[..., 0], node.grid) for node in nodes])
    artefacts = [_place_artefact(kind, plan, blobs, rng) for kind in plan.artefacts]
    return PhantomSlide(
        plan=plan,
        scene=scene,
        phenotype=draw_phenotype(stream(plan.seed, "phantom", "phenotype", plan.patient)),
        optics=Optics(draw_stain(plan.seed, plan.site, plan.patient), draw_scanner(plan.seed, plan.site)),
        plane=plane,
        lesions=tuple(_lesion(number, shape, plan.mpp) for number, (_, _, shape) in enumerate(found, start=1)),
        tissue=_in_pixels(tissue, plan.mpp),
        artefacts=tuple((artefact, _in_pixels(_outline(artefact.shape), plan.mpp)) for artefact in artefacts),
    )


# --- where the nodes lie -------------------------------------------------------------------------------------


def _place_nodes(plan: SlidePlan, rng: np.random.Generator) -> list[Blob]:
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
    return not _outline(one).buffer(gap).intersects(_outline(other))


def _fat_um(long_um: float) -> float:
    # How far fat reaches around a node, at most.
    return min(0.22 * long_um, 260.0)


# --- what is in a node ---------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Anatomy:
    """A node before its lesions: maps in micrometres, (rows, columns) float32."""

    blob: Blob
    grid: Grid
    depth: Floats  # under the outline of the node
    capsule_um: Floats
    tissue: Floats
    medulla: Floats  # 0 to 1

    @classmethod
    def grown(cls, blob: Blob, plane: int) -> "_Anatomy":
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
        edge = np.full_like(tissue, -_CLIP_UM)
        edge[2:-2, 2:-2] = tissue[2:-2, 2:-2]
        return cls(blob, grid, *(part.astype(np.float32) for part in (depth, capsule, edge, medulla)))


def _node_maps(
    base: _Anatomy, lesions: list[tuple[Floats, BaseGeometry]], rng: np.random.Generator, plane: int
) -> _NodeMaps:
    at = base.grid.points()
    depth, capsule, medulla = base.depth, base.capsule_um, base.medulla
    lesion = np.full_like(depth, -_CLIP_UM)
    large = np.zeros(depth.shape, bool)
    for lesion_depth, shape in lesions:
        np.maximum(lesion, lesion_depth, out=lesion)
        if _major_axis(shape) > 400:
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
    nests = np.where(large, (0.16 - np.abs(_field(plane, "nests", 75.0, at))) * 70, -_CLIP_UM)
    fibres = np.where(lesion > -8, np.maximum(np.minimum(fibres, -lesion), nests), fibres)
    # Sinuses: under the capsule, along the trabeculae, and the net of the medulla.
    under = np.minimum(depth - capsule, capsule + 17 + 6 * _field(plane, "under", 60.0, at) - depth)
    net = (0.42 * medulla - 0.06 - np.abs(_field(plane, "cords", 42.0, at))) * 45
    along = np.where(depth > capsule, 6 - np.abs(trabecula + 6), -_CLIP_UM) + 5 * _field(plane, "along", 80.0, at)
    sinus = np.maximum(np.maximum(under, net), along)
    follicle = _follicles(base, rng) + 7 * _field(plane, "follicle", 30.0, at)
    maps = np.stack([base.tissue, fat, fibres, lesion, sinus, follicle], axis=-1)
    return _NodeMaps(base.grid, np.clip(maps, -_CLIP_UM, _CLIP_UM).astype(np.float32))


def _follicles(base: _Anatomy, rng: np.random.Generator) -> Floats:
    # Germinal centres in the cortex, a row or two under the capsule.
    x, y = base.grid.points()
    follicle = np.full_like(base.depth, -_CLIP_UM)
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


# --- where the lesions lie -----------------------------------------------------------------------------------


def _place_lesion(
    plan: SlidePlan,
    wish: LesionWish,
    bases: list[_Anatomy],
    others: list[tuple[int, Floats, BaseGeometry]],
    rng: np.random.Generator,
) -> tuple[int, Floats, BaseGeometry]:
    wanted = lesion_class(wish.major_axis_um)
    roomy = [n for n, base in enumerate(bases) if 1.7 * base.blob.long_um > wish.major_axis_um]
    for _ in range(_TRIES if roomy else 0):
        number = roomy[0] if wanted == "macro" else int(rng.choice(roomy))
        base = bases[number]
        at = _seat(base, wish.major_axis_um, rng)
        turn = base.blob.angle + float(rng.normal(0, 0.15)) if wanted == "macro" else float(rng.uniform(0, np.pi))
        x, y = base.grid.points()
        free = np.full_like(base.depth, -_CLIP_UM)
        for blob in _lesion_blobs(wish, at, turn, rng):
            np.maximum(free, blob.depth_um(x, y), out=free)
        depth = np.minimum(free, base.depth - base.capsule_um - 4)
        shape = trace(depth, base.grid)
        if _fits(shape, (free > 0).sum() * base.grid.step_um**2, wish, others):
            return number, depth, shape
    raise PlanError(
        f"slide '{plan.slide_id}': a lesion of {wish.major_axis_um:.0f} um has no room; "
        "give a larger section or smaller lesions"
    )


def _seat(base: _Anatomy, major_um: float, rng: np.random.Generator) -> tuple[float, float]:
    # A large lesion fills the middle; a small one lies under the capsule, where cells arrive, or anywhere.
    lowest = base.capsule_um + min(0.28 * major_um, 0.55 * float(base.depth.max()))
    highest = lowest + (90 if rng.random() < 0.6 else 600)
    places = np.argwhere((base.depth > lowest) & (base.depth < highest))
    if not len(places):
        return base.blob.x_um, base.blob.y_um
    row, column = places[int(rng.integers(len(places)))]
    return base.grid.x_um + float(column) * _STEP_UM, base.grid.y_um + float(row) * _STEP_UM


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
    if lesion_class(_major_axis(shape)) != lesion_class(wish.major_axis_um):
        return False
    return all(shape.distance(other) > _GAP_UM for _, _, other in others)


def _major_axis(shape: BaseGeometry) -> float:
    corners = shapely.get_coordinates(shape.convex_hull)
    return float(pdist(corners).max())


def _lesion(number: int, shape: BaseGeometry, mpp: float) -> Lesion:
    return Lesion(number, _in_pixels(shape, mpp), _major_axis(shape), shape.area / 1e6)


# --- what spoils it ------------------------------------------------------------------------------------------


def _place_artefact(kind: str, plan: SlidePlan, blobs: list[Blob], rng: np.random.Generator) -> Artefact:
    node = blobs[0]  # the largest
    around = float(rng.uniform(0, 2 * np.pi))
    if kind == "fold":
        off = node.short_um * float(rng.uniform(-0.4, 0.4))
        x, y = node.x_um - off * math.sin(node.angle), node.y_um + off * math.cos(node.angle)
        length = node.short_um * float(rng.uniform(0.8, 1.5))
        width = max(45.0, node.short_um * float(rng.uniform(0.05, 0.09)))
        turn = node.angle + float(rng.uniform(0.2, 1.3))
        return Artefact(kind, Stroke(x, y, length, width, turn, length * float(rng.uniform(0.02, 0.06))))
    x = node.x_um + node.long_um * math.cos(around) * (0.6 if kind == "blur" else 1.0)
    y = node.y_um + node.long_um * math.sin(around) * (0.5 if kind == "blur" else 1.0)
    if kind == "blur":
        radius = node.short_um * float(rng.uniform(0.3, 0.5))
        waves = ((2, 0.12, around), (3, 0.1, 1.0))
        return Artefact(kind, Blob(x, y, radius, radius * float(rng.uniform(0.6, 0.9)), around, waves))
    if kind == "bubble":
        radius = max(180.0, node.short_um * float(rng.uniform(0.3, 0.6)))
        waves = ((2, 0.05, around), (3, 0.03, 1.0))
        return Artefact(kind, Blob(x, y, radius, radius * float(rng.uniform(0.85, 1.0)), around, waves))
    x, y = (
        min(max(at, 0.12 * side), 0.88 * side)
        for at, side in ((x, plan.size.width * plan.mpp), (y, plan.size.height * plan.mpp))
    )
    length = plan.section_um * float(rng.uniform(0.25, 0.45))
    width = plan.section_um * float(rng.uniform(0.035, 0.06))
    return Artefact(kind, Stroke(x, y, length, width, around, length * float(rng.uniform(0.02, 0.15))))


# --- rasters and outlines ------------------------------------------------------------------------------------


def _outline(shape: Blob | Stroke) -> BaseGeometry:
    left, _, right, _ = shape.bounds
    grid = Grid.around(shape.bounds, max((right - left) / 160, 0.5))
    return trace(shape.depth_um(*grid.points()), grid)


def _in_pixels(shape_um: BaseGeometry, mpp: float) -> BaseGeometry:
    return shapely.affinity.scale(shape_um, 1 / mpp, 1 / mpp, origin=(0, 0))


def _rasterised(shape: BaseGeometry, box: Box, downsample: int) -> NDArray[np.bool_]:
    height, width = -(-box.height // downsample), -(-box.width // downsample)
    near = shape.intersection(shapely.box(box.x, box.y, box.x + width * downsample, box.y + height * downsample))
    moved = shapely.transform(near, lambda xy: (xy - (box.x, box.y)) / downsample)
    return pixels_inside(moved, Size(width, height))


def _tiles_over(shape: BaseGeometry, size: Size) -> dict[tuple[int, int], Box]:
    # Tiles of level 0 that a shape touches, (row, column), each with the part of it that the shape needs.
    down, across = -(-size.height // TILE_PX), -(-size.width // TILE_PX)
    tiles: dict[tuple[int, int], Box] = {}
    for part in shapely.get_parts(shape):
        if part.is_empty:
            continue
        left, top, right, bottom = (int(at // TILE_PX) for at in part.bounds)
        shapely.prepare(part)
        for row in range(max(top, 0), min(bottom + 1, down)):
            for column in range(max(left, 0), min(right + 1, across)):
                tile = Box(column * TILE_PX, row * TILE_PX, TILE_PX, TILE_PX)
                if not part.intersects(shapely.box(tile.x, tile.y, tile.right, tile.bottom)):
                    continue
                needed = _needed(part, tile)
                old = tiles.get((row, column))
                tiles[row, column] = needed if old is None else _hull(old, needed)
    return tiles


def _needed(shape: BaseGeometry, tile: Box) -> Box:
    cut = shapely.clip_by_rect(shape, tile.x, tile.y, tile.right, tile.bottom)
    if cut.is_empty:
        return tile
    left, top = (math.floor(at) for at in cut.bounds[:2])
    right, bottom = (math.ceil(at) for at in cut.bounds[2:])
    return Box(left, top, max(right - left, 1), max(bottom - top, 1))


def _hull(one: Box, other: Box) -> Box:
    x, y = min(one.x, other.x), min(one.y, other.y)
    return Box(x, y, max(one.right, other.right) - x, max(one.bottom, other.bottom) - y)


def _tiles_of(box: Box) -> Iterator[tuple[int, int]]:
    # Row and column of the tiles that a box touches.
    columns = range(box.x // TILE_PX, (box.right - 1) // TILE_PX + 1)
    for row in range(box.y // TILE_PX, (box.bottom - 1) // TILE_PX + 1):
        yield from ((row, column) for column in columns)


def _within(part: Box, box: Box) -> tuple[slice, slice]:
    # Where a part of a box lies in an array of the box's pixels.
    return slice(part.y - box.y, part.bottom - box.y), slice(part.x - box.x, part.right - box.x)
