"""Where on a slide a model points at: peaks of the map of tiles, and the file that CAMELYON16 asks for.

A file has a line a point, ``confidence,x,y``, no header, x and y in whole level-0 pixels; it is called as its slide.
"""

import csv
import io
import math
from pathlib import Path

import numpy as np
from scipy.spatial import cKDTree

from sentinode.errors import ExportError, ManifestError
from sentinode.evaluation.froc import Detections
from sentinode.inference.predictions import TilePredictions
from sentinode.storage import write_whole

__all__ = ["RADIUS_UM", "read_detections", "tile_peaks", "write_detections"]

RADIUS_UM = 187.0
"""Around a peak nothing else is pointed at. 12 pixels of level 6 at 0.243 um, as in the program of Li and Ping 2018,
"Cancer metastasis detection with neural conditional random field" (arXiv:1806.07064); a square there, a disc here."""


def tile_peaks(predictions: TilePredictions, radius_um: float = RADIUS_UM, minimum: float = 0.0) -> Detections:
    """Find the peaks of the map of tiles: the highest tile, then the highest beyond a radius of it, and so on.

    Parameters
    ----------
    predictions : TilePredictions
        Of a slide.
    radius_um : float
        No two peaks are closer, from middle to middle of their tiles.
    minimum : float
        Probability from which a tile is a peak. The measure reads sensitivities up to eight false alarms a slide, so
        what is cut off here may be missing there, and what is kept never costs anything.

    Returns
    -------
    Detections
        The highest first, of equals the one further up, then further left; the middles of tiles in whole level-0
        pixels. A tile that was not recognised is no peak.

    Raises
    ------
    ValueError
        If the radius is negative or not finite.
    """
    if not (math.isfinite(radius_um) and radius_um >= 0):
        raise ValueError(f"radius_um = {radius_um}: micrometres, 0 or more")
    high = predictions.recognised & (np.nan_to_num(predictions.positive, nan=-1.0) >= minimum)
    boxes, proba = predictions.boxes[high], predictions.positive[high].astype(np.float64)
    centres = boxes[:, :2] + boxes[:, 2:] / 2
    if len(boxes) == 0:
        return Detections(proba, centres)
    tree, radius = cKDTree(centres), predictions.scale.px(radius_um)
    free = np.ones(len(boxes), dtype=bool)
    peaks = []
    for row in np.lexsort((boxes[:, 0], boxes[:, 1], -proba)).tolist():
        if free[row]:
            peaks.append(row)
            free[tree.query_ball_point(centres[row], radius)] = False
    return Detections(proba[peaks], np.floor(centres[peaks]))


def write_detections(detections: Detections, path: Path | str) -> None:
    """Write the file of a slide.

    Parameters
    ----------
    detections : Detections
        Of the slide; may be none.
    path : Path or str
        ``<slide>.csv``.

    Raises
    ------
    ExportError
        If it cannot be written.
    """
    rows = zip(detections.confidence.tolist(), np.floor(detections.xy).astype(np.int64).tolist(), strict=True)
    try:
        write_whole(Path(path), "".join(f"{confidence!r},{x},{y}\n" for confidence, (x, y) in rows))
    except OSError as error:
        raise ExportError(
            f"{path}: cannot be written ({error.strerror or error}); make room, or choose another --out"
        ) from error


def read_detections(path: Path | str) -> Detections:
    """Read the file of a slide, by whomever it was written.

    Parameters
    ----------
    path : Path or str
        Lines ``confidence,x,y``; empty where nothing was pointed at.

    Returns
    -------
    Detections
        In the order of the file.

    Raises
    ------
    ManifestError
        If it cannot be read, or a line is not so.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ManifestError(f"{path}: cannot be read ({error}); it must have lines confidence,x,y") from error
    rows = []
    for number, cells in enumerate(csv.reader(io.StringIO(text)), start=1):
        if cells:
            rows.append(_numbers(cells, f"{path}, line {number}"))
    table = np.array(rows, dtype=np.float64).reshape(-1, 3)
    return Detections(table[:, 0], table[:, 1:])


def _numbers(cells: list[str], where: str) -> tuple[float, ...]:
    try:
        values = tuple(float(cell) for cell in cells)
    except ValueError:
        values = ()
    if len(values) != 3 or not all(math.isfinite(value) for value in values):
        raise ManifestError(f"{where}: {','.join(cells)!r} is not confidence,x,y (three numbers, and no header)")
    return values
