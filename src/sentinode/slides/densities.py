"""Densities over white of tiles: how dense what lets through so much light is, and how much pixels differ in it."""

import numpy as np
from numpy.typing import NDArray

from sentinode.slides import tile_loops
from sentinode.slides.slide import Pixels

__all__ = ["OVER_WHITE", "block_densities", "spread"]

Floats = NDArray[np.float32]


def _over_white(light: NDArray[np.float64]) -> Floats:
    # Natural density, 0 for white; below a grey level of 1 it counts as 1.
    density: Floats = (np.log(255) - np.log(np.maximum(light, 1))).astype(np.float32)
    density.flags.writeable = False
    return density


OVER_WHITE = _over_white(np.arange(256.0))
"""(256,) float32: grey level -> natural density."""

_OF_BLOCK = _over_white(np.arange(255 * tile_loops.BLOCK**2 + 1) / tile_loops.BLOCK**2)


def spread(pixels: Pixels) -> Floats:
    """Measure how much the mean density of the colours differs between the pixels of tiles.

    Parameters
    ----------
    pixels : (n, h, w, 3) uint8
        Tiles.

    Returns
    -------
    (n,) float32
        Variance.

    Examples
    --------
    >>> spread(np.array([[[[255] * 3, [255] * 3]], [[[255] * 3, [94, 94, 93]]]], dtype=np.uint8)).round(2).tolist()
    [0.0, 0.25]
    """
    found = np.empty(len(pixels), dtype=np.float32)
    tile_loops.spread(np.ascontiguousarray(pixels), OVER_WHITE, found)
    return found


def block_densities(pixels: Pixels) -> Floats:
    """Take the density of the mean light of blocks of 4 x 4 pixels.

    Parameters
    ----------
    pixels : (n, h, w, 3) uint8
        Tiles.

    Returns
    -------
    (3, n, b) float32
        Of red, green and blue, row by row; what is left over at the far borders is left out.
    """
    n, height, width, _ = pixels.shape
    blocks = np.empty((3, n, height // tile_loops.BLOCK * (width // tile_loops.BLOCK)), dtype=np.float32)
    tile_loops.blocks_of_light(np.ascontiguousarray(pixels), _OF_BLOCK, blocks)
    return blocks
