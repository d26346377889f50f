"""What a tile looks like, in few and cheap numbers: how its density is spread over sizes, and what its colours do.

The variance of the density is split by octaves: that of the means of blocks of 1, 2, 4, 8 and 16 pixels, each less the
next (Haar's pyramid, in which the parts add up). The wrong resolution, blur, noise, photographs and writing move it, a
paler stain does not move their ratios. Colour is told by two differences of densities: red less blue, and green less
the mean of both; both stains of haematoxylin and eosin absorb green most.
"""

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sentinode.slides import tile_loops
from sentinode.slides.densities import OVER_WHITE
from sentinode.slides.slide import Pixels

__all__ = ["Appearance", "appearance", "appearance_and_spread", "appearance_columns", "n_structure"]

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]

OCTAVES: Final = 5

# Densities squared that count as nothing, so that flat tiles have finite logarithms.
_NOTHING: Final = 1e-5
_PALE: Final = 0.05


class Appearance(NamedTuple):
    """What tiles look like, and what comes with it for nothing.

    Parameters
    ----------
    numbers : (n, d) float32
        As `appearance` gives.
    spread : (n,) float32
        As `sentinode.slides.densities.spread` gives.
    """

    numbers: Floats
    spread: Floats


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
    # ValueError is that of the other.
    return appearance_and_spread(pixels).numbers


def appearance_and_spread(pixels: Pixels) -> Appearance:
    """Describe what tiles look like, and say how much their pixels differ.

    Parameters
    ----------
    pixels : (n, h, w, 3) uint8
        As for `appearance`.

    Returns
    -------
    Appearance
        Each tile on its own.

    Raises
    ------
    ValueError
        If the tiles have another shape.
    """
    if pixels.ndim != 4 or pixels.shape[-1] != 3 or min(pixels.shape[1:3]) < 16:
        raise ValueError(f"tiles of shape {pixels.shape}; they must be (n, h, w, 3), 16 px a side at least")
    n, height, width, _ = pixels.shape
    octaves = _octaves(min(height, width))
    blocks = np.empty((n, height // 4 * (width // 4)), dtype=np.float32)
    found = np.empty((n, 3 * (octaves + 1) + tile_loops.N_MOMENTS))
    tile_loops.structure(np.ascontiguousarray(pixels), OVER_WHITE, octaves, blocks, found)
    variances, moments = found[:, : 3 * (octaves + 1)].reshape(n, 3, octaves + 1), found[:, 3 * (octaves + 1) :].T
    of_octave = np.maximum(variances[..., :-1] - variances[..., 1:], 0)  # (n, 3, octaves)
    twentieth = blocks.shape[1] // 20
    palest = np.partition(blocks, twentieth, axis=1)[:, twentieth]
    columns = [*np.log(of_octave[:, 0] + _NOTHING).T, np.log(moments[0] + _PALE), np.log(palest + _PALE)]
    columns += [_skewness(*moments[3:5]), _skewness(*moments[5:7])]
    columns += [np.log(moments[8] + 1e-9) - 2 * np.log(moments[7] + _NOTHING)]
    deviation = np.sqrt(variances[..., 2]).T  # (3, n)
    for colour in (1, 2):
        mean, together = moments[7 + 2 * colour : 9 + 2 * colour]
        columns += [mean, np.log(deviation[colour] + 0.01), np.log(of_octave[:, colour, 0] + _NOTHING)]
        columns += [together / (deviation[colour] * deviation[0] + 1e-4)]
    return Appearance(np.stack(columns, axis=1).astype(np.float32), variances[:, 0, 0].astype(np.float32))


def _octaves(side: int) -> int:
    return min(OCTAVES, side.bit_length() - 2)


def _skewness(second: Doubles, third: Doubles) -> Doubles:
    return np.asarray(third / (np.sqrt(second) + 1e-3) ** 3)
