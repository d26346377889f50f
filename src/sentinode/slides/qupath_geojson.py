"""Annotations of QuPath: GeoJSON in level-0 pixels.

A region has the name of its classification. As in QuPath, classes whose name ends in ``*`` (``Ignore*``) are ignored.
Regions to leave out carry ``"kind": "exclude"`` in the metadata of their feature, which QuPath keeps.
"""

import json
from pathlib import Path
from typing import Any, Final

import shapely

from sentinode.errors import ExportError, ManifestError
from sentinode.slides.annotations import EXCLUDE, Annotations, Kind
from sentinode.slides.outlines import RegionCollector, region_ids

__all__ = ["SUFFIXES", "encode", "read", "recognises"]

SUFFIXES: Final = (".geojson", ".json")

_IGNORED = "*"
_KIND = "kind"
_POINTS_AND_LINES = ("Point", "MultiPoint", "LineString", "MultiLineString")


def recognises(head: str) -> bool:
    """Say whether a file is of this format.

    Parameters
    ----------
    head : str
        How it begins.

    Returns
    -------
    bool
        True where it is JSON.
    """
    return head.lstrip()[:1] in {"{", "["}


def read(content: bytes, source: Path) -> Annotations:
    """Read a file of QuPath.

    Parameters
    ----------
    content : bytes
        The whole file: a FeatureCollection, a list of features, or one feature.
    source : Path
        For messages.

    Returns
    -------
    Annotations
        Named by classification, else by the name of the object, else ``"unclassified"``.

    Raises
    ------
    ManifestError
        If it is damaged, or other JSON than GeoJSON.
    """
    try:
        document = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ManifestError(f"{source}: is not whole JSON ({error}); export it again") from error
    collector = RegionCollector(source)
    for number, feature in enumerate(_features(document, source), start=1):
        properties = feature.get("properties") or {}
        if not isinstance(properties, dict):
            raise ManifestError(f"{source}: the properties of feature {number} are no object; export it again")
        name = _name(properties)
        if name.endswith(_IGNORED):
            collector.ignore(f"regions of the ignored class {name!r}")
            continue
        polygons = _polygons(feature.get("geometry"), f"{source}: feature {number} ({name!r})", collector)
        if polygons:
            collector.add(f"feature {number}", name, polygons, _kind(properties))
    return collector.annotations()


def encode(annotations: Annotations, path: Path) -> str:
    """Write a file of QuPath.

    Parameters
    ----------
    annotations : Annotations
        What was drawn.
    path : Path
        For messages.

    Returns
    -------
    str
        A FeatureCollection, a feature a line.

    Raises
    ------
    ExportError
        If a name ends in ``*``: QuPath would ignore the region.
    """
    lines = []
    for region, identity in zip(annotations.regions, region_ids(annotations.regions), strict=True):
        if region.name.endswith(_IGNORED):
            raise ExportError(f"{path}: QuPath ignores classes like {region.name!r}; map it to another name first")
        properties: dict[str, object] = {"objectType": "annotation", "classification": {"name": region.name}}
        if region.kind == EXCLUDE:
            properties["metadata"] = {_KIND: EXCLUDE}
        geometry = shapely.geometry.mapping(region.polygon)
        feature = {"type": "Feature", "id": identity, "geometry": geometry, "properties": properties}
        lines.append(json.dumps(feature, ensure_ascii=False))
    body = ",\n".join(lines)
    return f'{{"type": "FeatureCollection", "features": [\n{body}\n]}}\n'


def _features(document: object, source: Path) -> list[dict[str, Any]]:
    features: object = document
    if isinstance(document, dict):
        features = document.get("features") if document.get("type") == "FeatureCollection" else [document]
    if not isinstance(features, list) or not all(
        isinstance(feature, dict) and feature.get("type") == "Feature" for feature in features
    ):
        raise ManifestError(
            f"{source}: is JSON, but not GeoJSON; it must be a FeatureCollection, a list of features or one feature"
        )
    return features


def _name(properties: dict[str, Any]) -> str:
    # QuPath writes {"name": ...}, of derived classes also {"names": [...]}; older scripts write the bare name.
    classification = properties.get("classification")
    if isinstance(classification, dict):
        names = classification.get("names")
        listed = ": ".join(str(name) for name in names) if isinstance(names, list) else ""
        classification = classification.get("name") or listed
    for name in (classification, properties.get("name")):
        if isinstance(name, str) and name.strip():
            return name.strip()
    return "unclassified"


def _kind(properties: dict[str, Any]) -> Kind:
    metadata = properties.get("metadata")
    return "exclude" if isinstance(metadata, dict) and metadata.get(_KIND) == EXCLUDE else "include"


def _polygons(geometry: object, where: str, collector: RegionCollector) -> list[list[Any]]:
    # Polygons as lists of rings. A stack, as collections lie in one another as deep as a file pleases.
    polygons: list[list[Any]] = []
    stack = [geometry]
    while stack:
        one = stack.pop()
        if one is None:
            collector.ignore("features without a geometry")
            continue
        kind = one.get("type") if isinstance(one, dict) else None
        if kind in _POINTS_AND_LINES:
            collector.ignore("points and lines")
            continue
        key = "geometries" if kind == "GeometryCollection" else "coordinates"
        inner = one.get(key) if isinstance(one, dict) else None
        if kind not in {"Polygon", "MultiPolygon", "GeometryCollection"} or not isinstance(inner, list):
            raise ManifestError(f"{where}: its geometry is damaged; draw it anew")
        if kind == "GeometryCollection":
            stack.extend(reversed(inner))
            continue
        found = [inner] if kind == "Polygon" else inner
        if not all(isinstance(rings, list) for rings in found):
            raise ManifestError(f"{where}: its geometry is damaged; draw it anew")
        polygons.extend(found)
    return polygons
