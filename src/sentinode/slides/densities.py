"""What several measures of tiles share: their colours apart, densities over white, and pixels of twice the side."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from sentinode.slides.slide import Pixels

__all__ = ["ColourPlanes", "colour_planes", "halved", "over_white"]

Floats = NDArray[np.float32]

CHUNK = 8
"""Tiles measured at a time: more fall out of the cache of a core."""


class ColourPlanes:
    """A few tiles, colour by colour: numbers that lie side by side are quicker to reckon with. Of one thread.

    Parameters
    ----------
    pixels : (n, h, w, 3) uint8
        As they were read.

    Attributes
    ----------
    light : (3, n, h, w) uint8
        The same.
    """

    def __init__(self, pixels: Pixels) -> None:
        self.light: Pixels = np.ascontiguousarray(np.moveaxis(pixels, 3, 0))
        # No cached_property: in Python 3.11 all of a class share one lock, and threads would wait for each other.
        self._density: Floats | None = None

    def __len__(self) -> int:
        return int(self.light.shape[1])

    @property
    def side(self) -> int:
        """Of the tiles, the shorter one."""
        return int(min(self.light.shape[2:]))

    @property
    def density(self) -> Floats:
        """(3, n, h, w) float32: natural density over white; made when it is asked for first."""
        if self._density is None:
            self._density = over_white(self.light.astype(np.float32))
        return self._density


def colour_planes(pixels: Pixels) -> Iterator[ColourPlanes]:
    """Take tiles a few at a time.

    Parameters
    ----------
    pixels : (n, h, w, 3) uint8
        Tiles.

    Yields
    ------
    ColourPlanes
        Of `CHUNK` of them, or of what is left.
    """
    for begin in range(0, len(pixels), CHUNK):
        yield ColourPlanes(pixels[begin : begin + CHUNK])


def over_white(light: Floats) -> Floats:
    """Tell how dense what lets through so much light is.

    Parameters
    ----------
    light : (...) float32
        Grey levels from 0 to 255; below 1 they count as 1. Its memory is used for the result.

    Returns
    -------
    (...) float32
        Natural density, 0 for white. A vectorised logarithm is quicker than looking up 256 of them.

    Examples
    --------
    >>> [f"{one:.3f}" for one in over_white(np.array([255, 51, 0], dtype=np.float32))]
    ['0.000', '1.609', '5.541']
    """
    np.maximum(light, np.float32(1), out=light)
    np.log(light, out=light)
    return np.subtract(np.float32(np.log(255)), light, out=light)


def halved(images: Floats) -> Floats:
    """Average four pixels to one.

    Parameters
    ----------
    images : (..., h, w) float32
        An odd last row or column is left out.

    Returns
    -------
    (..., h // 2, w // 2) float32
        Means.

    Examples
    --------
    >>> halved(np.arange(6, dtype=np.float32).reshape(2, 3)).tolist()
    [[2.0]]
    """
    height, width = images.shape[-2] // 2 * 2, images.shape[-1] // 2 * 2
    rows = images[..., 0:height:2, :] + images[..., 1:height:2, :]
    means: Floats = rows[..., 0:width:2] + rows[..., 1:width:2]
    means *= np.float32(0.25)
    return means
