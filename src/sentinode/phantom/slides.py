"""Whole slides of lymph nodes, synthetic: nodes on glass, their parts, lesions of stated sizes, artefacts; all known.

A slide is a `tissue.Scene`: maps of each node at 8 um a point, linear in between, that say how deep a place lies in
fat, in fibres, in a lesion, in a sinus, in a follicle. Any window of it is painted by the painter of the patches, and
the polygons of the truth are traced from the same maps. Nothing is held in memory but the maps.
"""

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import shapely
import shapely.affinity
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

from sentinode.geometry import Box, Size
from sentinode.phantom.artefacts import Artefact, spoil
from sentinode.phantom.lattice import Floats, Window
from sentinode.phantom.lesions import Lesion, place_lesion
from sentinode.phantom.nodes import Anatomy, NodeMaps, major_axis_um_of, node_maps, place_nodes
from sentinode.phantom.outlines import Blob, Stroke, outline_of, trace
from sentinode.phantom.patches import Optics, draw_phenotype, scan_field
from sentinode.phantom.plans import SlidePlan
from sentinode.phantom.stain import draw_scanner, draw_stain
from sentinode.phantom.tissue import Phenotype, Shares, Truth
from sentinode.seeds import stream
from sentinode.slides.pyramid import TILE_PX, write_pyramid
from sentinode.slides.rasterising import pixels_inside

__all__ = ["PhantomSlide", "SectionScene", "draw_slide", "write_slide"]

_EDGE_UM = np.float32(3.0)
_REACH_UM = 20.0  # beyond its outline nothing is painted of a tissue


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

    nodes: tuple[NodeMaps, ...]
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
    blobs = place_nodes(plan, rng)
    bases = [Anatomy.grown(blob, plane) for blob in blobs]
    found: list[tuple[int, Floats, BaseGeometry]] = []
    for wish in sorted(plan.lesions, key=lambda wish: -wish.major_axis_um):
        found.append(place_lesion(plan, wish, bases, found, rng))
    nodes = tuple(
        node_maps(base, [(depth, shape) for node, depth, shape in found if node == number], rng, plane)
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
        artefacts=tuple((artefact, _in_pixels(outline_of(artefact.shape), plan.mpp)) for artefact in artefacts),
    )


def _lesion(number: int, shape: BaseGeometry, mpp: float) -> Lesion:
    return Lesion(number, _in_pixels(shape, mpp), major_axis_um_of(shape), shape.area / 1e6)


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
