"""Annotations of Aperio ImageScope.

An outline is a ``Region`` of a layer (``Annotation``). A region with ``NegativeROA="1"`` is a hole of the region of
its layer that it lies in; where it lies in none, it is left out of the slide. The layer ``NAME (exclude)`` holds
regions to leave out. What was written here keeps its parts together by an attribute of the region.
"""

from pathlib import Path
from typing import Final
from xml.sax.saxutils import quoteattr

import numpy as np
from numpy.typing import NDArray

from sentinode.errors import ManifestError
from sentinode.slides.annotations import Annotations
from sentinode.slides.drawing_xml import XmlElement, parse_xml, root_of
from sentinode.slides.outlines import Outline, RegionCollector, layer_and_kind, name_of_layer, outlines_of

__all__ = ["SUFFIXES", "encode", "read", "recognises"]

SUFFIXES: Final = (".xml",)

_ROOT = "Annotations"
_PART = "part of"  # attribute of a region that this module wrote
_RECTANGLE, _ELLIPSE = "1", "2"
_OPEN = ("3", "4", "5")  # arrow, ruler, counter
_COLOURS = (65280, 65535, 255, 16776960, 16711935, 16711680)
_LAYER = (
    'ReadOnly="0" NameReadOnly="0" LineColorReadOnly="0" Incremental="0" Visible="1" Selected="0" MarkupImagePath="" '
    'MacroName=""'
)
_REGION = (
    'Type="0" Zoom="1" Selected="0" ImageLocation="" ImageFocus="-1" Length="0" Area="0" LengthMicrons="0" '
    'AreaMicrons="0" Text="" InputRegionId="0" Analyze="1"'
)
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
        True where its outermost element is ImageScope's.
    """
    return root_of(head) == _ROOT


def read(content: bytes, source: Path) -> Annotations:
    """Read a file of ImageScope.

    Parameters
    ----------
    content : bytes
        The whole file.
    source : Path
        For messages.

    Returns
    -------
    Annotations
        Named by the text of the region, else its attributes, else the name of its layer, else the attributes of
        that, else ``"layer 1"``.

    Raises
    ------
    ManifestError
        If it is damaged.
    """
    root = parse_xml(content, source, "Vertex")
    if root.tag != _ROOT:
        raise ManifestError(f"{source}: begins with <{root.tag}>, not with <{_ROOT}>; export it again")
    collector = RegionCollector(source)
    outlines = []
    for number, layer in enumerate(root.every("Annotation"), start=1):
        name = _name_of_layer(layer, number)
        for region in layer.every("Regions", "Region"):
            if region.get("Type") in _OPEN:
                collector.ignore("points and lines")
            else:
                outlines.append(_outline(region, name, number))
    collector.add_outlines(outlines)
    return collector.annotations()


def encode(annotations: Annotations, path: Path) -> str:
    """Write a file of ImageScope.

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
    layers: dict[str, list[Outline]] = {}
    for outline in outlines_of(annotations):
        layers.setdefault(name_of_layer(outline.name, outline.kind, path), []).append(outline)
    lines = ['<?xml version="1.0" encoding="UTF-8"?>', f"<{_ROOT}>"]
    for number, (name, outlines) in enumerate(layers.items(), start=1):
        colour = _COLOURS[(number - 1) % len(_COLOURS)]
        lines += [
            f'\t<Annotation Id="{number}" Name={quoteattr(name, _SIGNS)} Type="4" LineColor="{colour}" {_LAYER}>',
            '\t\t<Attributes><Attribute Name="Description" Id="0" Value="" /></Attributes>',
            "\t\t<Regions>",
            *(line for position, outline in enumerate(outlines, start=1) for line in _lines(outline, position)),
            "\t\t</Regions>",
            "\t\t<Plots />",
            "\t</Annotation>",
        ]
    return "\n".join([*lines, f"</{_ROOT}>", ""])


def _name_of_layer(layer: XmlElement, number: int) -> str:
    attributes = layer.every("Attributes", "Attribute")
    values = [attribute.get("Value") for attribute in attributes]
    # People also rename the attribute itself, which ImageScope calls Description.
    names = [attribute.get("Name") for attribute in attributes if attribute.get("Name") != "Description"]
    found = [text for text in (layer.get("Name"), *values, *names) if text]
    return found[0] if found else f"layer {layer.get('Id') or number}"


def _outline(region: XmlElement, layer: str, number: int) -> Outline:
    attributes = region.every("Attributes", "Attribute")
    values = [attribute.get("Value") for attribute in attributes if attribute.get("Name") != _PART]
    parts = [attribute.get("Value") for attribute in attributes if attribute.get("Name") == _PART]
    found = [text for text in (region.get("Text"), *values) if text]
    name, kind = layer_and_kind(found[0] if found else layer)
    points = [vertices.points for vertices in region.every("Vertices")]
    return Outline(
        where=f"layer {number}, region {region.get('Id') or '?'}",
        name=name,
        layer=str(number),
        points=_drawn(np.concatenate(points) if points else np.empty((0, 2)), region.get("Type")),
        kind=kind,
        hole=region.get("NegativeROA") == "1",
        part_of=parts[0] if parts else "",
    )


def _drawn(points: NDArray[np.float64], kind: str) -> NDArray[np.float64]:
    # A rectangle or an ellipse of two points is that between two corners.
    if len(points) != 2 or kind not in {_RECTANGLE, _ELLIPSE}:
        return points
    (left, upper), (right, lower) = points
    if kind == _RECTANGLE:
        return np.array([[left, upper], [right, upper], [right, lower], [left, lower]])
    angle = np.linspace(0, 2 * np.pi, 128, endpoint=False)
    x = (left + right) / 2 + (right - left) / 2 * np.cos(angle)
    y = (upper + lower) / 2 + (lower - upper) / 2 * np.sin(angle)
    return np.column_stack((x, y))


def _lines(outline: Outline, position: int) -> list[str]:
    return [
        f'\t\t\t<Region Id="{position}" DisplayId="{position}" NegativeROA="{int(outline.hole)}" {_REGION}>',
        f'\t\t\t\t<Attributes><Attribute Name="{_PART}" Id="0" Value="{outline.part_of}" /></Attributes>',
        "\t\t\t\t<Vertices>",
        *(f'\t\t\t\t\t<Vertex X="{x!r}" Y="{y!r}" Z="0" />' for x, y in outline.points.tolist()),
        "\t\t\t\t</Vertices>",
        "\t\t\t</Region>",
    ]
