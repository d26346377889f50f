"""Tiles over a slide: all of one size in micrometres, side by side, where there is tissue.

Every edge is rounded from its exact place, never from its neighbour, so that nothing drifts over 100,000 pixels.
Without overlap a tile begins on the pixel where the one before it ends.
"""

import hashlib
import json
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sentinode.errors import SlideError
from sentinode.geometry import Box
from sentinode.slides.slide import SlideInfo
from sentinode.slides.tissue import TissueMask

__all__ = ["COARSEST", "MINIMUM_TISSUE", "TileGrid", "tile_grid"]

COARSEST = 1.5
"""How much coarser than the tiles a slide may be. Scanners of one objective differ by 15 %, objectives by 2."""

MINIMUM_TISSUE = 0.25
"""Share of a tile. Metastases begin under the capsule: a half would drop much of the rim of a node (docs/tissue.md)."""

_FORMAT = "sentinode-tiles-1"


@dataclass(frozen=True, eq=False)
class TileGrid:
    """Which tiles of a slide are looked at.

    Parameters
    ----------
    boxes : (n, 4) int64
        ``x, y, width, height`` in level-0 pixels: rows from the top, each from left to right. Widths and heights may
        differ by a pixel, and the last ones of a row or column may reach over the border. Read them with
        ``slide.read_pixels(grid.box(i), Size(grid.tile_px, grid.tile_px))``.
    cells : (n, 2) int64
        Row and column of each in the whole grid.
    shape : (rows, columns)
        Of the whole grid.
    tile_px : int
        Side of a tile as it is read.
    mpp : float
        Micrometres a pixel of a tile.
    tissue : (n,) float32
        Share of each that is tissue; 1 where no mask was given.
    fingerprint : str
        SHA-256 over the slide and everything that decided the tiles.
    """

    boxes: NDArray[np.int64]
    cells: NDArray[np.int64]
    shape: tuple[int, int]
    tile_px: int
    mpp: float
    tissue: NDArray[np.float32]
    fingerprint: str

    def __len__(self) -> int:
        return len(self.boxes)

    def box(self, index: int) -> Box:
        """Give one tile's place.

        Parameters
        ----------
        index : int
            Which, in the order of `boxes`.

        Returns
        -------
        Box
            Level-0 pixels.
        """
        x, y, width, height = self.boxes[index].tolist()
        return Box(x, y, width, height)


def tile_grid(
    info: SlideInfo,
    mask: TissueMask | None,
    *,
    tile_px: int,
    mpp: float,
    overlap: float = 0.0,
    minimum_tissue: float = MINIMUM_TISSUE,
) -> TileGrid:
    """Lay tiles over a slide and keep those with tissue.

    Parameters
    ----------
    info : SlideInfo
        The slide.
    mask : TissueMask or None
        Where tissue is; with None, all tiles are kept.
    tile_px : int
        Side of a tile.
    mpp : float
        Micrometres a pixel of a tile.
    overlap : float
        Share of its side that a tile has in common with the next one, from 0 to below 1.
    minimum_tissue : float
        Share of a tile that must be tissue; with 0, any tissue will do.

    Returns
    -------
    TileGrid
        A column or row that lies half or more within the slide belongs to it: less than half a tile at the right and
        lower border is not covered.

    Raises
    ------
    SlideError
        If the slide's mpp is not known, the slide is too coarse for tiles of that mpp, or smaller than half a tile.
    ValueError
        If an argument, or the mask, does not fit.
    """
    _check_arguments(info, mask, tile_px, mpp, overlap, minimum_tissue)
    scale = info.scale  # SlideError where it is unknown
    if scale.mpp > COARSEST * mpp:
        raise SlideError(
            f"{info.path}: has {scale.mpp:.4g} um a pixel, and the tiles need {mpp:.4g}; no enlarging brings back what "
            "the scanner did not see. Give a slide scanned finer, or use a model for coarser tiles"
        )
    side = tile_px * scale.downsample(mpp)
    lefts, rights = _edges(info.size.width, side, overlap)
    tops, bottoms = _edges(info.size.height, side, overlap)
    if not len(lefts) or not len(tops):
        raise SlideError(
            f"{info.path}: {info.size.width} x {info.size.height} px is less than half a tile of "
            f"{round(side)} px in one direction; give smaller tiles"
        )
    parts = []
    for row in range(len(tops)):  # row by row: of a large slide most tiles are glass, and need never be there together
        row_boxes = np.empty((len(lefts), 4), dtype=np.int64)
        row_boxes[:, 0], row_boxes[:, 1] = lefts, tops[row]
        row_boxes[:, 2], row_boxes[:, 3] = rights - lefts, bottoms[row] - tops[row]
        tissue = np.ones(len(lefts)) if mask is None else mask.share(row_boxes)
        # A share that is exact up to rounding must not be lost by it.
        (kept,) = np.nonzero((tissue >= minimum_tissue - 1e-9) & (tissue > 1e-12))
        row_cells = np.stack([np.full(len(kept), row), kept], axis=1)
        parts.append((row_boxes[kept], row_cells, tissue[kept].astype(np.float32)))
    boxes, cells, shares = (np.concatenate([part[place] for part in parts]) for place in range(3))
    decided = {
        "format": _FORMAT,
        "slide": info.fingerprint,
        "size": [info.size.width, info.size.height],
        "slide_mpp": scale.mpp,
        "mask": None if mask is None else mask.digest,
        "tile_px": tile_px,
        "mpp": mpp,
        "overlap": overlap,
        "minimum_tissue": minimum_tissue,
    }
    digest = hashlib.sha256(json.dumps(decided, sort_keys=True).encode())
    digest.update(boxes.astype("<i8").tobytes())
    return TileGrid(boxes, cells, (len(tops), len(lefts)), tile_px, mpp, shares, digest.hexdigest())


def _edges(length: int, side: float, overlap: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    # Where tiles begin and end along a slide, (m,) each: all of which half lies within.
    step = side * (1 - overlap)
    last = math.floor((length - side / 2) / step * (1 + 1e-12))
    number = np.arange(last + 1, dtype=np.float64)
    # From the number of steps, so that without overlap an end and the next beginning are the same float.
    return _rounded(number * step), _rounded((number + 1 / (1 - overlap)) * step)


def _rounded(places: NDArray[np.float64]) -> NDArray[np.int64]:
    # Half up: rounding half to even would make every other tile a pixel narrower.
    return np.floor(places + 0.5).astype(np.int64)


def _check_arguments(
    info: SlideInfo, mask: TissueMask | None, tile_px: int, mpp: float, overlap: float, minimum_tissue: float
) -> None:
    if tile_px < 1 or not (math.isfinite(mpp) and mpp > 0):
        raise ValueError(f"tiles of {tile_px} px at {mpp} um a pixel: both must be positive")
    if not 0 <= overlap < 1:
        raise ValueError(f"overlap = {overlap}: it is a share of a tile's side, from 0 to below 1, e.g. 0.5")
    if not 0 <= minimum_tissue <= 1:
        raise ValueError(f"minimum_tissue = {minimum_tissue}: it is a share of a tile, from 0 to 1")
    if mask is not None and mask.raster.slide != info.size:
        raise ValueError(f"the mask is of a slide of {mask.raster.slide}, and {info.path} has {info.size}")
