"""What a tile looks like, in few and cheap numbers: how its density is spread over sizes, and what its colours do.

The variance of the density is split by octaves: that of the means of blocks of 1, 2, 4, 8 and 16 pixels, each less the
next (Haar's pyramid, in which the parts add up). The wrong resolution, blur, noise, photographs and writing move it, a
paler stain does not move their ratios. Colour is told by two differences of densities: red less blue, and green less
the mean of both; both stains of haematoxylin and eosin absorb green most.
"""

from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

from sentinode.slides.densities import ColourPlanes, colour_planes, halved
from sentinode.slides.slide import Pixels

__all__ = ["appearance", "appearance_columns", "appearance_of_planes", "n_structure"]

Floats = NDArray[np.float32]

OCTAVES: Final = 5

# Densities squared that count as nothing, so that flat tiles have finite logarithms.
_NOTHING: Final = np.float32(1e-5)
_PALE: Final = np.float32(0.05)


def n_structure(side: int) -> int:
    """Say how many of the numbers of a tile are about structure and not colour: they come first.

    Parameters
    ----------
    side : int
        Of the tile in pixels, the shorter one.

    Returns
    -------
    int
        Columns of `appearance`.

    Examples
    --------
    >>> n_structure(96), n_structure(24)
    (10, 8)
    """
    return _octaves(side) + 5


def appearance_columns(side: int) -> tuple[str, ...]:
    """Name the numbers of a tile.

    Parameters
    ----------
    side : int
        Of the tile in pixels, the shorter one.

    Returns
    -------
    tuple of str
        Columns of `appearance`; octaves are named by the side of their blocks.

    Examples
    --------
    >>> appearance_columns(16)[:4], len(appearance_columns(96))
    (('octave_1', 'octave_2', 'octave_4', 'density'), 18)
    """
    octaves = [f"octave_{2**octave}" for octave in range(_octaves(side))]
    about = ("mean", "spread", "finest", "correlation")
    colours = [f"{name}_{what}" for name in ("cold", "pink") for what in about]
    return (*octaves, "density", "palest", "skewness", "block_skewness", "peakedness", *colours)


def appearance(pixels: Pixels) -> Floats:
    """Describe what tiles look like.

    Parameters
    ----------
    pixels : (n, h, w, 3) uint8
        Tiles of 16 pixels a side or more.

    Returns
    -------
    (n, d) float32
        First `n_structure` numbers about structure: logarithms of the variance in each octave of size, of the mean
        density and of that of the palest twentieth, skewness of pixels and of blocks of 4 x 4, logarithm of the
        kurtosis of the finest detail. Then four each about the two differences of colour: mean, logarithm of the
        deviation between blocks and of the finest variance, correlation with the density. Each tile on its own.

    Raises
    ------
    ValueError
        If the tiles have another shape.
    """
    if pixels.ndim != 4 or pixels.shape[-1] != 3 or min(pixels.shape[1:3]) < 16:
        raise ValueError(f"tiles of shape {pixels.shape}; they must be (n, h, w, 3), 16 px a side at least")
    parts = [appearance_of_planes(planes) for planes in colour_planes(pixels)]
    return np.concatenate(parts or [np.empty((0, n_structure(min(pixels.shape[1:3])) + 8), dtype=np.float32)])


def appearance_of_planes(planes: ColourPlanes) -> Floats:
    """Describe the same of tiles whose colours are apart already.

    Parameters
    ----------
    planes : ColourPlanes
        A few tiles of 16 pixels a side or more.

    Returns
    -------
    (n, d) float32
        As `appearance`.
    """
    planes_of = _density_and_colours(planes.density)  # (3, n, h, w): density, cold, pink
    mean = planes_of.mean(axis=(2, 3))
    planes_of -= mean[..., None, None]
    levels = [planes_of]
    for _ in range(_octaves(planes.side)):
        levels.append(halved(levels[-1]))
    variances = [_variance(level) for level in levels]
    octaves = [np.maximum(fine - coarse, 0) for (fine, *_), (coarse, *_) in pairwise(variances)]
    blocks = levels[2]
    palest = np.sort(blocks[0].reshape(len(planes), -1), axis=1)[:, blocks[0, 0].size // 20] + mean[0]
    columns = [np.log(octave + _NOTHING) for octave in octaves]
    columns += [np.log(mean[0] + _PALE), np.log(palest + _PALE)]
    columns += [_skewness(levels[0][0]), _skewness(blocks[0]), _peakedness(levels[0][0])]
    for colour in (1, 2):
        finest = np.maximum(variances[0][colour] - variances[1][colour], 0)
        deviation, of_density = np.sqrt(variances[2][colour]), np.sqrt(variances[2][0])
        together = _mean_product(blocks[colour], blocks[0])
        columns += [mean[colour] + blocks[colour].mean(axis=(1, 2)), np.log(deviation + np.float32(0.01))]
        columns += [np.log(finest + _NOTHING), together / (deviation * of_density + np.float32(1e-4))]
    return np.stack(columns, axis=1).astype(np.float32)


def _octaves(side: int) -> int:
    return min(OCTAVES, side.bit_length() - 2)


def _density_and_colours(channels: Floats) -> Floats:
    # (3, n, h, w): mean, red less blue, and green less the mean of both.
    red, green, blue = channels
    found = np.empty_like(channels)
    density, cold, pink = found
    np.add(red, blue, out=pink)
    np.add(pink, green, out=density)
    density *= np.float32(1 / 3)
    np.subtract(red, blue, out=cold)
    pink *= np.float32(-0.5)
    pink += green
    return found


def _variance(images: Floats) -> Floats:
    # (..., n) of images that are centred, or nearly so.
    mean = images.mean(axis=(-2, -1))
    return np.asarray(np.maximum(_mean_product(images, images) - mean * mean, 0))


def _skewness(images: Floats) -> Floats:
    centred = images - images.mean(axis=(1, 2), keepdims=True)
    squared = centred * centred
    deviation = np.sqrt(squared.mean(axis=(1, 2))) + np.float32(1e-3)
    return np.asarray(_mean_product(squared, centred) / deviation**3)


def _peakedness(density: Floats) -> Floats:
    # Kurtosis of what is left of each pixel when the mean of its four is taken off; an odd last row or column is left
    # out. The four are (x + y + z) / 2, (-x + y - z) / 2, (x - y - z) / 2 and (-x - y + z) / 2 of Haar's details x, y
    # and z; their squares add up to q = x^2 + y^2 + z^2, their fourth powers to 3/4 q^2 - 1/2 (x^4 + y^4 + z^4).
    height, width = (side // 2 * 2 for side in density.shape[1:])
    upper, lower = density[:, 0:height:2, :width], density[:, 1:height:2, :width]
    down, along = upper - lower, upper + lower
    across, sum_down = along[..., 0::2] - along[..., 1::2], down[..., 0::2] + down[..., 1::2]
    details = (across, sum_down, down[..., 0::2] - down[..., 1::2])
    squares = [np.square(detail * np.float32(0.5)) for detail in details]
    q = squares[0] + squares[1] + squares[2]
    fourth = 0.75 * _mean_product(q, q) - 0.5 * sum(_mean_product(one, one) for one in squares)
    return np.asarray(np.log(fourth / 4 + np.float32(1e-9)) - 2 * np.log(q.mean(axis=(1, 2)) / 4 + _NOTHING))


def _mean_product(first: Floats, second: Floats) -> Floats:
    # (...): over the pixels.
    flat = [images.reshape(*images.shape[:-2], -1) for images in (first, second)]
    return np.asarray(np.einsum("...p,...p->...", *flat) / np.float32(flat[0].shape[-1]))
