"""What people drew on slides: regions with names, in level-0 pixels.

A region's name is what the file says; `Annotations.mapped` turns names into classes. What a file holds and cannot be
used (points, lines, outlines without area) is counted in ``notes``.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Final, Literal

import shapely
from shapely import MultiPolygon, Polygon
from shapely.affinity import translate

from sentinode.geometry import Box
from sentinode.slides.shapes import Shape, polygons_of, put_together, union_of

__all__ = ["CAMELYON", "EXCLUDE", "FARTHEST", "Annotations", "Kind", "Region"]

Kind = Literal["include", "exclude"]

EXCLUDE: Final = "exclude"
"""As a class in a mapping: the regions of that name are to be left out."""

CAMELYON: Mapping[str, str] = MappingProxyType({
    **dict.fromkeys(("Tumor", "_0", "_1", "metastases"), "tumour"),
    **dict.fromkeys(("_2", "normal"), EXCLUDE),
})
"""The groups of CAMELYON16 (Tumor, _0, _1, _2) and CAMELYON17 (metastases, normal): what was cut out of a tumour
was drawn roughly, so tiles there get no label. "None" is in neither and drops out."""

FARTHEST = 1e7
"""Level-0 pixels from the origin, in either direction: ten times the side of the largest slides."""


@dataclass(frozen=True)
class Region:
    """One thing that was drawn.

    Parameters
    ----------
    name : str
        As in the file, or a class after `Annotations.mapped`; not empty, no spaces around it.
    polygon : Polygon or MultiPolygon
        Level-0 pixels; valid, with an area.
    kind : {"include", "exclude"}
        An excluded region is no part of any class; tiles that touch it get no label.

    Raises
    ------
    ValueError
        If the name or the polygon is not so.
    """

    name: str
    polygon: Shape
    kind: Kind = "include"

    def __post_init__(self) -> None:
        if not self.name or self.name != self.name.strip():
            raise ValueError(f"a region named {self.name!r}: the name must not be empty, nor have spaces around it")
        if not isinstance(self.polygon, Polygon | MultiPolygon) or not self.polygon.area > 0:
            raise ValueError(f"region {self.name!r}: must be a polygon with an area")
        if not self.polygon.is_valid:
            raise ValueError(f"region {self.name!r}: {shapely.is_valid_reason(self.polygon)}; use shapely.make_valid")


@dataclass(frozen=True)
class Annotations:
    """What was drawn on one slide.

    Parameters
    ----------
    regions : tuple of Region
        In the order of the file.
    source : Path or None
        The file.
    notes : tuple of str
        One line each: what was repaired or could not be used.
    dropped : mapping of str to int
        Name -> number of regions that `mapped` left out.

    Examples
    --------
    >>> drawn = Annotations((Region("Tumor", shapely.box(0, 0, 4, 4)), Region("_2", shapely.box(1, 1, 2, 2))))
    >>> drawn.classes
    ('Tumor', '_2')
    >>> drawn.mapped(CAMELYON).area_of("tumour")
    15.0
    """

    regions: tuple[Region, ...]
    source: Path | None = None
    notes: tuple[str, ...] = ()
    dropped: Mapping[str, int] = field(default_factory=dict)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the included regions, sorted."""
        return tuple(sorted({region.name for region in self.regions if region.kind == "include"}))

    def mapped(self, mapping: Mapping[str, str]) -> "Annotations":
        """Turn names into classes.

        Parameters
        ----------
        mapping : mapping of str to str
            Name -> class, or `EXCLUDE`. Several names may become one class.

        Returns
        -------
        Annotations
            Without the regions of other names; these are counted in ``dropped`` and in a note. Regions that the
            file itself excludes stay, whatever their name: to drop them would put labels where nobody wants them.
        """
        kept, dropped = [], Counter(self.dropped)
        for region in self.regions:
            name = mapping.get(region.name)
            if name is not None:
                kept.append(Region(name, region.polygon, EXCLUDE if name == EXCLUDE else region.kind))
            elif region.kind == EXCLUDE:
                kept.append(region)
            else:
                dropped[region.name] += 1
        new = Counter(dropped)
        new.subtract(self.dropped)
        listed = ", ".join(f"{name!r} ({count})" for name, count in sorted(new.items()) if count)
        note = (f"{_named(self.source)}names without a class, left out: {listed}",) if listed else ()
        return replace(self, regions=tuple(kept), notes=self.notes + note, dropped=dict(sorted(dropped.items())))

    def placed(self, bounds: Box | None) -> "Annotations":
        """Move what QuPath wrote to level 0: of a slide with bounds it shows the scanned part, and counts from there.

        Parameters
        ----------
        bounds : Box or None
            The scanned part of the slide (MRXS), where its file says so.

        Returns
        -------
        Annotations
            As they are where there are no bounds, or the file is none of QuPath's.
        """
        if bounds is None or self.source is None or self.source.suffix.lower() == ".xml":
            return self
        moved = (replace(one, polygon=translate(one.polygon, bounds.x, bounds.y)) for one in self.regions)
        return replace(self, regions=tuple(moved))

    def shape_of(self, name: str) -> Shape:
        """Put the regions of a class together.

        Parameters
        ----------
        name : str
            The class; it need not occur.

        Returns
        -------
        Polygon or MultiPolygon
            Level-0 pixels, without what is excluded; may be empty.
        """
        drawn = union_of(region.polygon for region in self.regions if region.kind == "include" and region.name == name)
        return put_together(polygons_of(shapely.difference(drawn, self.excluded)))

    @property
    def excluded(self) -> Shape:
        """The regions to leave out, together, in level-0 pixels; may be empty."""
        return union_of(region.polygon for region in self.regions if region.kind == EXCLUDE)

    def area_of(self, name: str) -> float:
        """Measure a class.

        Parameters
        ----------
        name : str
            The class.

        Returns
        -------
        float
            Level-0 pixels; what lies in two of its regions counts once, what is excluded not at all.
        """
        return float(self.shape_of(name).area)


def _named(source: Path | None) -> str:
    return "" if source is None else f"{source.name}: "
