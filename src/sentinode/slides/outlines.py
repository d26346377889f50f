"""From the outlines that programs draw to regions, and back."""

import re
import uuid
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import shapely
from numpy.typing import ArrayLike, NDArray
from shapely import MultiPolygon, Polygon

from sentinode.errors import ExportError, ManifestError
from sentinode.slides.annotations import EXCLUDE, FARTHEST, Annotations, Kind, Region
from sentinode.slides.shapes import Shape, polygons_of, put_together, union_of

__all__ = ["Outline", "RegionCollector", "layer_and_kind", "name_of_layer", "outlines_of", "region_ids"]

_EXCLUDED = " (exclude)"  # ends the name of a layer that holds regions to leave out, where a format has no other way


@dataclass(frozen=True, eq=False)
class Outline:
    """One closed line of a format that does not know polygons with holes.

    Parameters
    ----------
    where : str
        For messages, e.g. ``"annotation 3"``.
    name : str
        Of its region.
    layer : str
        A hole is cut out of regions of the same layer.
    points : (n, 2) float
        Level-0 pixels; closed or not.
    kind : {"include", "exclude"}
        Of the region.
    hole : bool
        Cut out of a region; excluded where it lies in none.
    part_of : str
        ``"<region>/<part>"``: outlines that were written as one polygon. Empty: it stands alone.
    """

    where: str
    name: str
    layer: str
    points: NDArray[np.float64]
    kind: Kind = "include"
    hole: bool = False
    part_of: str = ""


class RegionCollector:
    """Gathers the regions of a file, and what of it cannot be used.

    Parameters
    ----------
    source : Path
        The file, for messages.
    """

    def __init__(self, source: Path) -> None:
        self.source = source
        self._regions: list[Region] = []
        self._notes: list[str] = []
        self._ignored: Counter[str] = Counter()

    def ignore(self, what: str) -> None:
        """Count something that is no region.

        Parameters
        ----------
        what : str
            E.g. ``"points and lines"``.
        """
        self._ignored[what] += 1

    def add(self, where: str, name: str, polygons: Sequence[Sequence[ArrayLike]], kind: Kind = "include") -> None:
        """Add a region.

        Parameters
        ----------
        where : str
            For messages, e.g. ``"feature 3"``.
        name : str
            Of the region.
        polygons : sequence of sequences of (n, 2) array-like
            A polygon is its outline and its holes, in level-0 pixels.
        kind : {"include", "exclude"}
            Of the region.

        Raises
        ------
        ManifestError
            If a coordinate is not a number, or farther away than any slide reaches.
        """
        # ManifestError is _points's.
        polygon = self._polygon(f"{where} ({name!r})", polygons)
        if polygon is not None:
            self._regions.append(Region(name, polygon, kind))

    def add_outlines(self, outlines: Sequence[Outline]) -> None:
        """Add the regions that outlines make: parts joined, holes cut.

        Parameters
        ----------
        outlines : sequence of Outline
            All of the file, in its order.

        Raises
        ------
        ManifestError
            If a coordinate is not a number, or farther away than any slide reaches.
        """
        # ManifestError is add's.
        parts = {outline.part_of for outline in outlines if outline.part_of and not outline.hole}
        own: dict[str, list[Outline]] = defaultdict(list)
        loose: list[Outline] = []
        together: dict[object, list[Outline]] = defaultdict(list)
        for number, outline in enumerate(outlines):
            region = outline.part_of.rpartition("/")[0]
            if not outline.hole:
                together[outline.layer, outline.name, outline.kind, region or number].append(outline)
            elif outline.part_of in parts:
                own[outline.part_of].append(outline)
            else:
                loose.append(outline)
        layers: dict[str, list[int]] = defaultdict(list)
        for shells in together.values():
            first, before = shells[0], len(self._regions)
            polygons = [[shell.points, *(hole.points for hole in own[shell.part_of])] for shell in shells]
            self.add(first.where, first.name, polygons, first.kind)
            layers[first.layer].extend(range(before, len(self._regions)))
        self._cut(loose, layers)

    def annotations(self) -> Annotations:
        """Hand over what was gathered.

        Returns
        -------
        Annotations
            With a note for each kind of thing that was ignored.
        """
        ignored = tuple(f"{self.source.name}: left out {count} {what}" for what, count in sorted(self._ignored.items()))
        return Annotations(tuple(self._regions), self.source, tuple(self._notes) + ignored)

    def _note(self, where: str, what: str) -> None:
        self._notes.append(f"{self.source.name}: {where}: {what}")

    def _polygon(self, where: str, polygons: Sequence[Sequence[ArrayLike]]) -> Shape | None:
        parts: list[Polygon] = []
        for rings in polygons:
            points = [_points(ring, f"{self.source}: {where}") for ring in rings]
            if not points or not _is_ring(points[0]):
                self._note(where, "an outline without an area is left out")
                continue
            holes = [hole for hole in points[1:] if _is_ring(hole)]
            if len(holes) < len(points) - 1:
                self._note(where, "a hole without an area is left out")
            parts.extend(self._valid_parts(where, Polygon(points[0], holes)))
        if not parts:
            return None
        joined = parts[0] if len(parts) == 1 else MultiPolygon(parts)
        if joined.is_valid:
            return joined
        self._note(where, "parts overlap; they are joined")
        return union_of(parts)

    def _valid_parts(self, where: str, polygon: Polygon) -> list[Polygon]:
        if polygon.is_valid and polygon.area > 0:
            return [polygon]
        # "structure" keeps all that an outline goes around; the older way makes a hole of what it goes around twice.
        repaired = polygons_of(shapely.make_valid(polygon, method="structure", keep_collapsed=False))
        if repaired:
            why = shapely.is_valid_reason(polygon).partition("[")[0].lower()
            self._note(where, f"repaired ({why}), area {sum(part.area for part in repaired):.6g} px")
        else:
            self._note(where, "an outline without an area is left out")
        return repaired

    def _cut(self, holes: Sequence[Outline], layers: Mapping[str, list[int]]) -> None:
        # A hole belongs to every region of its layer that more than half of it lies in.
        by_layer: dict[str, list[tuple[Outline, Shape]]] = defaultdict(list)
        for hole in holes:
            polygon = self._polygon(f"{hole.where} ({hole.name!r}, a hole)", [[hole.points]])
            if polygon is not None:
                by_layer[hole.layer].append((hole, polygon))
        gone: set[int] = set()
        for layer, pairs in by_layer.items():
            numbers = layers.get(layer, [])
            shapes = np.array([polygon for _, polygon in pairs], dtype=object)
            regions = np.array([self._regions[number].polygon for number in numbers], dtype=object)
            which, where = shapely.STRtree(regions).query(shapes, predicate="intersects")
            inside = shapely.area(shapely.intersection(shapes[which], regions[where])) > shapely.area(shapes[which]) / 2
            which, where = which[inside], where[inside]
            for position in np.unique(where):
                number = numbers[int(position)]
                rest = put_together(
                    polygons_of(shapely.difference(regions[position], union_of(shapes[which[where == position]])))
                )
                if rest.is_empty:
                    gone.add(number)
                    self._note(f"region {self._regions[number].name!r}", "its holes leave nothing of it")
                else:
                    self._regions[number] = replace(self._regions[number], polygon=rest)
            for alone in np.setdiff1d(np.arange(len(pairs)), which):
                hole, polygon = pairs[int(alone)]
                self._regions.append(Region(hole.name, polygon, EXCLUDE))
        self._regions = [region for number, region in enumerate(self._regions) if number not in gone]


def outlines_of(annotations: Annotations) -> tuple[Outline, ...]:
    """Take regions apart for a format that does not know polygons with holes.

    Parameters
    ----------
    annotations : Annotations
        What was drawn.

    Returns
    -------
    tuple of Outline
        Each outline, followed by its holes; none repeats its first point. ``part_of`` begins with the region's id.
    """
    outlines: list[Outline] = []
    for region, identity in zip(annotations.regions, region_ids(annotations.regions), strict=True):
        for number, part in enumerate(polygons_of(region.polygon)):
            rings = [part.exterior, *part.interiors]
            outlines.extend(
                Outline(
                    where="",
                    name=region.name,
                    layer=region.name,
                    points=shapely.get_coordinates(ring)[:-1],
                    kind=region.kind,
                    hole=position > 0,
                    part_of=f"{identity}/{number}",
                )
                for position, ring in enumerate(rings)
            )
    return tuple(outlines)


def region_ids(regions: Iterable[Region]) -> tuple[str, ...]:
    """Name regions by their content, so that a file is the same however often it is written.

    Parameters
    ----------
    regions : iterable of Region
        Those of a file; equal ones get different ids.

    Returns
    -------
    tuple of str
        UUIDs of version 5.
    """
    seen: Counter[str] = Counter()
    ids = []
    for region in regions:
        content = f"{region.kind}\0{region.name!r}\0{shapely.to_wkb(region.polygon, hex=True, byte_order=1)}"
        ids.append(str(uuid.uuid5(uuid.NAMESPACE_OID, f"{content}\0{seen[content]}")))
        seen[content] += 1
    return tuple(ids)


def layer_and_kind(name: str) -> tuple[str, Kind]:
    """Read the name of a layer: regions to leave out are those of a layer that ends in ``(exclude)``.

    Parameters
    ----------
    name : str
        As in the file, e.g. ``"Tumor (exclude)"``.

    Returns
    -------
    tuple of str and {"include", "exclude"}
        Name and kind of its regions.

    Examples
    --------
    >>> layer_and_kind("Artefact (exclude)")
    ('Artefact', 'exclude')
    """
    bare = name.removesuffix(_EXCLUDED).strip()
    return (bare, EXCLUDE) if name.endswith(_EXCLUDED) and bare else (name, "include")


def name_of_layer(name: str, kind: Kind, path: Path, taken: Sequence[str] = ()) -> str:
    """Name the layer that a region is written to; the reverse of `layer_and_kind`.

    Parameters
    ----------
    name : str
        Of the region.
    kind : {"include", "exclude"}
        Of the region.
    path : Path
        The file, for messages.
    taken : sequence of str
        Endings that mean something in the format.

    Returns
    -------
    str
        Of the layer.

    Raises
    ------
    ExportError
        If the name would be read as another one, or has signs that XML cannot hold.
    """
    if name.endswith((_EXCLUDED, *taken)):
        raise ExportError(f"{path}: the name {name!r} would be read as something else; rename these regions")
    if re.search("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]", name):
        raise ExportError(f"{path}: the name {name!r} has signs that XML cannot hold; rename these regions")
    return name + _EXCLUDED if kind == EXCLUDE else name


def _points(ring: ArrayLike, where: str) -> NDArray[np.float64]:
    # (n, 2) level-0 pixels; GeoJSON may add a height to a place, which says nothing here.
    try:
        points = np.asarray(ring, dtype=np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise ManifestError(f"{where}: its coordinates are not pairs of numbers; draw it anew") from error
    if points.size == 0:
        return np.empty((0, 2))
    if points.ndim != 2 or points.shape[1] < 2:
        raise ManifestError(f"{where}: its coordinates are not pairs of numbers; draw it anew")
    points = points[:, :2]
    if not (np.abs(points) <= FARTHEST).all():  # NaN compares false, too
        worst = points[~(np.abs(points) <= FARTHEST).all(axis=1)][0]
        raise ManifestError(
            f"{where}: has a point at ({worst[0]:g}, {worst[1]:g}), where no slide is; it must be in level-0 pixels"
        )
    return points


def _is_ring(points: NDArray[np.float64]) -> bool:
    # Of fewer than three points no ring can be made; shapely refuses them.
    return len(np.unique(points, axis=0)) >= 3
