"""Predictions as GeoJSON for QuPath: every tile with its probabilities, or the suspicious regions as annotations.

Coordinates are level-0 pixels as QuPath counts them: of a slide whose file names the scanned part (MRXS), QuPath shows
that part alone, and its origin is the part's corner. An id hangs on what it names and on nothing else (uuid5), so
that the same predictions are the same file.
"""

import gzip
import hashlib
import itertools
import json
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import shapely
import shapely.affinity

from sentinode.errors import ExportError
from sentinode.inference.maps import suspicious_regions
from sentinode.inference.predictions import TilePredictions
from sentinode.storage import whole_file

__all__ = ["write_region_geojson", "write_tile_geojson"]

THRESHOLD = 0.5
AT_A_TIME = 1000  # features written at a time
_NAMESPACE = uuid.UUID("7f4c7e0c-9f0b-5d7a-9a52-2b6e0c1f5f11")
_COLOURS = ((180, 40, 60), (60, 140, 90), (60, 90, 180), (190, 150, 40), (130, 70, 160))
"""From the class that is looked for backwards."""


def write_tile_geojson(predictions: TilePredictions, path: Path) -> None:
    """Write every recognised tile, with its probabilities as measurements and the likeliest class.

    Parameters
    ----------
    predictions : TilePredictions
        Of a slide.
    path : Path
        Of the ``.geojson``, or ``.geojson.gz``, which QuPath opens as well.

    Raises
    ------
    ExportError
        If it cannot be written.
    """
    _write(_tiles(predictions), path)


def write_region_geojson(predictions: TilePredictions, path: Path) -> None:
    """Write the regions of tiles at a probability of 0.5 or more, each with its area in mm2 and its extent in mm.

    Parameters
    ----------
    predictions : TilePredictions
        Of a slide.
    path : Path
        Of the ``.geojson`` (or ``.geojson.gz``).

    Raises
    ------
    ExportError
        If it cannot be written.
    """
    _write((json.dumps(feature) for feature in _regions(predictions)), path)


def _tiles(predictions: TilePredictions) -> Iterator[str]:
    # What `json.dumps` would make of each `_feature`, the parts that all tiles have alike made once: of a slide there
    # are a hundred thousand.
    (left, top), rows = _origin(predictions), predictions.recognised
    boxes, proba = predictions.boxes[rows] - [left, top, 0, 0], predictions.proba[rows]
    if predictions.spared is None:
        marks = [""] * len(boxes)
    else:  # not shown to the model: their probability is a stand-in
        marks = [f', "spared": {int(one)}' for one in predictions.spared[rows].tolist()]
    named = json.dumps([predictions.slide_id, predictions.model, "tile"])[:-1]
    names = [json.dumps(f"prob_{name}") for name in predictions.classes]
    ends = [json.dumps(_properties(predictions, "tile", code, {}))[:-2] for code in range(len(names))]
    likeliest = np.argmax(proba, axis=1).tolist()
    for (x, y, width, height), values, code, mark in zip(boxes.tolist(), proba.tolist(), likeliest, marks, strict=True):
        right, lower = x + width, y + height
        ring = f'"coordinates": [[[{x}, {y}], [{right}, {y}], [{right}, {lower}], [{x}, {lower}], [{x}, {y}]]]'
        one = _id(f'{named}, {{{ring}, "type": "Polygon"}}]')
        measured = ", ".join(f"{name}: {round(value, 6)!r}" for name, value in zip(names, values, strict=True))
        yield (
            f'{{"type": "Feature", "id": "{one}", "geometry": {{"type": "Polygon", {ring}}}, '
            f'"properties": {ends[code]}{measured}{mark}}}}}}}'
        )


def _regions(predictions: TilePredictions) -> Iterator[dict[str, Any]]:
    left, top = _origin(predictions)
    last = len(predictions.classes) - 1
    for region in suspicious_regions(predictions, THRESHOLD):
        measured = {
            f"prob_{predictions.classes[last]} (highest)": round(region.proba, 6),
            f"prob_{predictions.classes[last]} (mean)": round(region.mean_proba, 6),
            "area mm2": round(region.area_mm2, 6),
            "extent mm (at least)": round(region.extent_mm[0], 4),
            "extent mm (at most)": round(region.extent_mm[1], 4),
            "tiles": region.n_tiles,
        }
        outline = shapely.affinity.translate(region.polygon, -left, -top)
        yield _feature(predictions, shapely.geometry.mapping(outline), "annotation", last, measured)


def _origin(predictions: TilePredictions) -> tuple[int, int]:
    bounds = predictions.facts.get("bounds")
    return (0, 0) if bounds is None else (int(bounds[0]), int(bounds[1]))


def _feature(
    predictions: TilePredictions,
    geometry: Mapping[str, Any],
    kind: str,
    code: int,
    measured: Mapping[str, float],
) -> dict[str, Any]:
    named = json.dumps([predictions.slide_id, predictions.model, kind, geometry], sort_keys=True)
    properties = _properties(predictions, kind, code, measured)
    return {"type": "Feature", "id": str(_id(named)), "geometry": geometry, "properties": properties}


def _id(named: str) -> uuid.UUID:
    # uuid.uuid5, which asks for a hash that is slow to make.
    return uuid.UUID(
        bytes=hashlib.sha1(_NAMESPACE.bytes + named.encode(), usedforsecurity=False).digest()[:16], version=5
    )


def _properties(predictions: TilePredictions, kind: str, code: int, measured: Mapping[str, float]) -> dict[str, Any]:
    colour = _COLOURS[(len(predictions.classes) - 1 - code) % len(_COLOURS)]
    return {
        "objectType": kind,
        "isLocked": kind == "tile",
        "classification": {"name": predictions.classes[code], "color": list(colour)},
        "measurements": dict(measured),
    }


def _write(features: Iterator[str], path: Path) -> None:
    # Some features at a time: a slide of a million tiles is never in memory as text.
    try:
        with whole_file(path) as part, _opened(part, packed=path.suffix == ".gz") as stream:
            stream.write(b'{"type": "FeatureCollection", "features": [')
            begin = "\n"
            while some := list(itertools.islice(features, AT_A_TIME)):
                stream.write((begin + ",\n".join(some)).encode())
                begin = ",\n"
            stream.write(b"\n]}\n")
    except OSError as error:
        raise ExportError(f"{path}: cannot be written ({error.strerror or error}); make room") from error


@contextmanager
def _opened(part: Path, *, packed: bool) -> Iterator[IO[bytes]]:
    with part.open("wb") as file:
        if not packed:
            yield file
            return
        # No time and no name in the header: the same content is the same file.
        with gzip.GzipFile(filename="", mode="wb", compresslevel=6, fileobj=file, mtime=0) as stream:
            yield cast("IO[bytes]", stream)
