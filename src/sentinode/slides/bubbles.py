"""Where air lies under the coverslip: bubbles, found by their rim.

Within a bubble tissue is dry: dull, dark, out of focus; its tiles look like tissue and are none to rely on. Its rim
bends light away, of all colours alike, and is seen from afar: a thin dark line without a colour of its own, closed, and
bulging outward nearly everywhere. Stains have a colour, strokes of a pen are wide, hairs and scratches are not closed.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage import measure

__all__ = ["bubbles"]

Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]

RIM_UM = 60.0  # half of the widest line that counts as a rim
RIM = 0.12  # density of the line over what lies beside it, in the channel that has least
RIM_SURE = 0.25  # what hangs together has a tenth of this; septa and capsules have a colour and stay below
COLOURED = 1.5  # times the difference between channels is taken off: stains differ by as much as they have in the least
GAP_UM = 40.0  # closed in a rim
BUBBLE_MM2 = 0.02  # 0.16 mm across: smaller ones hardly hide a tile, and rings of fibres are as large
SOLID = 0.88  # of its convex hull is filled by a bubble
AROUND = 0.8  # of the outline of the hull must be rim, where the rim is not closed
NARROW = 0.85  # of the rim lies along that outline


def bubbles(density: Floats, um: float) -> Mask:
    """Find bubbles of air in a picture of a slide.

    Parameters
    ----------
    density : (h, w, 3) float32
        Optical density over glass, smoothed over about 12 um.
    um : float
        Micrometres a pixel; 8 to 16 are best.

    Returns
    -------
    (h, w) bool
        True within bubbles and on their rims.
    """
    found = np.zeros(density.shape[:2], dtype=bool)
    rim = _rims(density, um)
    if not rim.any():
        return found
    reach = max(1, round(GAP_UM / 2 / um))
    lines = _closed(rim, reach)
    labels, _ = ndimage.label(lines, np.ones((3, 3)))
    least = BUBBLE_MM2 * 1e6 / um**2
    for line in measure.regionprops(labels):  # type: ignore[no-untyped-call]  # scikit-image has no types here
        if line.area_bbox < least:
            continue
        top, left, bottom, right = line.bbox
        at = slice(top, bottom), slice(left, right)
        for inside in _enclosed(line.image, line.image_convex, least, RIM_UM / um):
            found[at] |= inside
    return found


def _enclosed(line: Mask, hull: Mask, least: float, wide: float) -> Iterator[Mask]:
    # What a line goes around: each of its round holes with the rim; else its hull, if the line goes around most of it.
    holes, n_holes = ndimage.label(ndimage.binary_fill_holes(line) & ~line)
    found = measure.regionprops(holes) if n_holes else []  # type: ignore[no-untyped-call]  # scikit-image has no types
    closed = [hole for hole in found if hole.area >= least / 2 and hole.solidity >= SOLID]
    for hole in closed:
        near = ndimage.distance_transform_edt(holes != hole.label) <= wide
        yield (holes == hole.label) | (near & line)
    if closed or hull.sum() < least:
        return
    depth = ndimage.distance_transform_edt(np.pad(hull, 1))[1:-1, 1:-1]
    edge = hull & (depth <= 1.5)
    near = ndimage.distance_transform_edt(~line) <= wide
    empty = (depth > wide).sum() >= least / 2  # the hull of a stroke is narrow, and filled by it
    if empty and near[edge].mean() >= AROUND and (depth[line] <= wide).mean() >= NARROW:
        yield hull


def _rims(density: Floats, um: float) -> Mask:
    # Thin, dark, grey: in every channel denser than what lies beside it.
    side = 2 * max(1, round(RIM_UM / um)) + 1
    thin = np.stack([plane - ndimage.grey_opening(plane, (side, side)) for plane in np.moveaxis(density, 2, 0)])
    grey: Floats = thin.min(axis=0) - np.float32(COLOURED) * (thin.max(axis=0) - thin.min(axis=0))
    labels, n_lines = ndimage.label(grey > RIM, np.ones((3, 3)))
    size = np.bincount(labels.ravel(), minlength=n_lines + 1)
    sure = np.bincount(labels[grey > RIM_SURE], minlength=n_lines + 1)
    kept = sure >= np.maximum(1, 0.1 * size)
    kept[0] = False
    rims: Mask = kept[labels]
    return rims


def _closed(mask: Mask, reach: int) -> Mask:
    margin = reach + 1
    wide = ndimage.binary_dilation(np.pad(mask, margin), np.ones((3, 3)), iterations=reach)
    closed: Mask = ndimage.binary_erosion(wide, np.ones((3, 3)), iterations=reach)
    return closed[margin:-margin, margin:-margin] | mask
