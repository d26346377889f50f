"""Annotations of ASAP, as in CAMELYON16 and CAMELYON17.

An outline is an ``Annotation`` with the group that it is part of; ASAP has no holes. So a hole is written as an
outline of the group ``NAME (hole)``, and a group of that name is read as holes, whoever drew it. Regions to leave out
are those of the group ``NAME (exclude)``.
"""

import re
from pathlib import Path
from typing import Final
from xml.sax.saxutils import quoteattr

from sentinode.errors import ManifestError
from sentinode.slides.annotations import Annotations
from sentinode.slides.drawing_xml import parse_xml, root_of
from sentinode.slides.outlines import Outline, RegionCollector, layer_and_kind, name_of_layer, outlines_of

__all__ = ["SUFFIXES", "encode", "read", "recognises"]

SUFFIXES: Final = (".xml",)

_ROOT = "ASAP_Annotations"
_HOLE = " (hole)"
_CLOSED = ("polygon", "spline", "rectangle", "")  # the corners of a spline stand for its curve
_COLOURS = ("#F4FA58", "#64FE2E", "#00BFFF", "#FF8000", "#FF00FF", "#FF0000")
_OURS = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}/\d+")
_SIGNS = {"\n": "&#10;", "\r": "&#13;", "\t": "&#9;"}


def recognises(head: str) -> bool:
    """Say whether a file is of this format.

    Parameters
    ----------
    head : str
        How it begins.

    Returns
    -------
    bool
        True where its outermost element is ASAP's.
    """
    return root_of(head) == _ROOT


def read(content: bytes, source: Path) -> Annotations:
    """Read a file of ASAP.

    Parameters
    ----------
    content : bytes
        The whole file.
    source : Path
        For messages.

    Returns
    -------
    Annotations
        Named by group; without one, ``"None"``, as ASAP writes it.

    Raises
    ------
    ManifestError
        If it is damaged.
    """
    root = parse_xml(content, source, "Coordinate")
    if root.tag != _ROOT:
        raise ManifestError(f"{source}: begins with <{root.tag}>, not with <{_ROOT}>; export it again")
    collector = RegionCollector(source)
    outlines: list[Outline] = []
    for number, annotation in enumerate(root.every("Annotations", "Annotation"), start=1):
        if annotation.get("Type").lower() not in _CLOSED:
            collector.ignore("points and lines")
            continue
        group = annotation.get("PartOfGroup")
        hole = group.endswith(_HOLE)
        name, kind = layer_and_kind(group.removesuffix(_HOLE).strip() or "None")
        title = annotation.get("Name")
        outlines.extend(
            Outline(
                where=f"annotation {number}",
                name=name,
                layer=name,
                points=coordinates.points,
                kind=kind,
                hole=hole,
                part_of=title if _OURS.fullmatch(title) else "",
            )
            for coordinates in annotation.every("Coordinates")
        )
    collector.add_outlines(outlines)
    return collector.annotations()


def encode(annotations: Annotations, path: Path) -> str:
    """Write a file of ASAP.

    Parameters
    ----------
    annotations : Annotations
        What was drawn.
    path : Path
        For messages.

    Returns
    -------
    str
        XML.

    Raises
    ------
    ExportError
        If a name cannot stand there.
    """
    # ExportError is name_of_layer's.
    groups: dict[str, str] = {}
    lines = ['<?xml version="1.0" encoding="UTF-8"?>', f"<{_ROOT}>", "\t<Annotations>"]
    for outline in outlines_of(annotations):
        group = name_of_layer(outline.name, outline.kind, path, (_HOLE,)) + (_HOLE if outline.hole else "")
        colour = groups.setdefault(group, _COLOURS[len(groups) % len(_COLOURS)])
        named = quoteattr(group, _SIGNS)
        lines += [
            f'\t\t<Annotation Name="{outline.part_of}" Type="Polygon" PartOfGroup={named} Color="{colour}">',
            "\t\t\t<Coordinates>",
            *(
                f'\t\t\t\t<Coordinate Order="{order}" X="{x!r}" Y="{y!r}" />'
                for order, (x, y) in enumerate(outline.points.tolist())
            ),
            "\t\t\t</Coordinates>",
            "\t\t</Annotation>",
        ]
    lines += ["\t</Annotations>", "\t<AnnotationGroups>"]
    for group, colour in groups.items():
        lines += [
            f'\t\t<Group Name={quoteattr(group, _SIGNS)} PartOfGroup="None" Color="{colour}">',
            "\t\t\t<Attributes />",
            "\t\t</Group>",
        ]
    return "\n".join([*lines, "\t</AnnotationGroups>", f"</{_ROOT}>", ""])
