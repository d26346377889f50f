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

from sentinode.slides.densities import OVER_WHITE, halved
from sentinode.slides.slide import Pixels

__all__ = ["appearance", "appearance_columns", "n_structure"]

Floats = NDArray[np.float32]

OCTAVES: Final = 5
CHUNK: Final = 8  # tiles measured at a time: more fall out of the cache of a core

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
    parts = [_measured(pixels[begin : begin + CHUNK]) for begin in range(0, len(pixels), CHUNK)]
    return np.concatenate(parts or [np.empty((0, n_structure(min(pixels.shape[1:3])) + 8), dtype=np.float32)])


def _octaves(side: int) -> int:
    return min(OCTAVES, side.bit_length() - 2)


def _measured(pixels: Pixels) -> Floats:
    red, green, blue = (OVER_WHITE[pixels[..., k]] for k in range(3))  # (n, h, w) each
    cold: Floats = red - blue
    density: Floats = (red + green + blue) * np.float32(1 / 3)
    pink: Floats = green - (red + blue) * np.float32(0.5)
    levels = [density]
    for _ in range(_octaves(min(pixels.shape[1:3]))):
        levels.append(halved(levels[-1]))
    variances = [level.var(axis=(1, 2)) for level in levels]
    octaves = [np.maximum(fine - coarse, 0) for fine, coarse in pairwise(variances)]
    blocks = levels[2]
    palest = np.sort(blocks.reshape(len(blocks), -1), axis=1)[:, blocks[0].size // 20]
    columns = [np.log(octave + _NOTHING) for octave in octaves]
    columns += [np.log(density.mean(axis=(1, 2)) + _PALE), np.log(palest + _PALE)]
    columns += [_skewness(density), _skewness(blocks), _peakedness(density, levels[1])]
    return np.stack(columns + _colour(cold, blocks) + _colour(pink, blocks), axis=1).astype(np.float32)


def _skewness(images: Floats) -> Floats:
    centred = images - images.mean(axis=(1, 2), keepdims=True)
    squared = centred * centred
    deviation = np.sqrt(squared.mean(axis=(1, 2))) + np.float32(1e-3)
    skewness: Floats = (squared * centred).mean(axis=(1, 2)) / deviation**3
    return skewness


def _peakedness(density: Floats, half: Floats) -> Floats:
    height, width = half.shape[1] * 2, half.shape[2] * 2
    fine = density[:, :height, :width].reshape(len(density), height // 2, 2, width // 2, 2) - half[:, :, None, :, None]
    squared = fine * fine
    fourth, second = (squared * squared).mean(axis=(1, 2, 3, 4)), squared.mean(axis=(1, 2, 3, 4))
    peakedness: Floats = np.log(fourth + np.float32(1e-9)) - 2 * np.log(second + _NOTHING)
    return peakedness


def _colour(difference: Floats, blocks: Floats) -> list[Floats]:
    half = halved(difference)
    of_blocks = halved(half)
    finest = np.maximum(difference.var(axis=(1, 2)) - half.var(axis=(1, 2)), 0)
    centred = of_blocks - of_blocks.mean(axis=(1, 2), keepdims=True)
    density = blocks - blocks.mean(axis=(1, 2), keepdims=True)
    deviation = np.sqrt((centred * centred).mean(axis=(1, 2)))
    spread = deviation * np.sqrt((density * density).mean(axis=(1, 2)))
    correlation = (centred * density).mean(axis=(1, 2)) / (spread + np.float32(1e-4))
    return [
        of_blocks.mean(axis=(1, 2)),
        np.log(deviation + np.float32(0.01)),
        np.log(finest + _NOTHING),
        correlation,
    ]
