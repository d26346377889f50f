"""Can a tile be a section in haematoxylin and eosin under a bright-field microscope at all? Asked of its pixels alone.

Light that is absorbed adds up in optical density (Beer and Lambert), and its colour tells the dye. By the vectors of
Ruifrok and Johnston (2001, "Quantification of histochemical staining by color deconvolution", Analytical and
Quantitative Cytology and Histology 23(4)), haematoxylin (0.65 : 0.70 : 0.29) and eosin (0.07 : 0.99 : 0.11) both absorb
green most, and so does every mixture of them. How much more than red and blue, as a share of the whole, is called
*pinkness* here: 0.41 of pure haematoxylin, 2.3 of pure eosin, 0.08 of an immunostain's brown (DAB, 0.27 : 0.57 : 0.78),
0 of grey. Nothing is learned: the limits lie between published vectors, and a noise of independent pixels is known.
"""

from collections.abc import Collection, Mapping
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from sentinode.slides.densities import block_densities, spread
from sentinode.slides.slide import Pixels
from sentinode.slides.tile_loops import BLOCK

__all__ = ["FINDINGS", "RULES", "SMALLEST_PX", "bright_field_findings"]

Floats = NDArray[np.float32]

FINDINGS: Mapping[str, str] = MappingProxyType({
    "blank": "glass, or one flat colour",
    "noise": "noise, in which neighbouring pixels have nothing in common",
    "dark": "dark all over, as in fluorescence or where nothing was scanned",
    "grey": "grey, without a stain",
    "brown": "brown, as of an immunostain (DAB), and not haematoxylin and eosin",
    "green": "green absorbed least, as in inverted colours, and not haematoxylin and eosin",
    "blue": "blue, and not haematoxylin and eosin",
    "no eosin": "nowhere as pink as haematoxylin alone: an immunostain, or no eosin",
})
"""What a tile may be instead -> in words."""

RULES = ("blank", "noise", "dark", "stain")
"""What is looked for, in this order; the last five findings are those of the rule ``"stain"``."""

SMALLEST_PX = 16
"""Side of a tile below which nothing is said: fewer than 4 x 4 blocks."""

FLAT = 0.025  # deviation of the density between blocks; of 2,572 real patches all but glass have more
WHITE_NOISE = 1 / BLOCK**2  # share of the variance that is left between blocks where pixels are independent
NOISE = 4 / 3 * WHITE_NOISE  # the smallest share of 2,572 real patches is 0.11
DARK = 2.0  # density all over: less than a seventh of the light comes through; of 2,572 real patches, one has more
STAINED = 0.2  # density from which a block has a colour
ENOUGH = 0.05  # share of the blocks that must be stained
LEAST_PINK = 0.25  # between haematoxylin's 0.41 and DAB's 0.08, over the stained part
PINKEST = 0.41  # haematoxylin's: a tenth of the stained part must be as pink, or there is no eosin
GREY = 0.15  # difference between the channels, as a share of the density


def bright_field_findings(
    pixels: Pixels, rules: Collection[str] = RULES, of_pixels: Floats | None = None
) -> NDArray[np.str_]:
    """Say what tiles are, where they cannot be a section in haematoxylin and eosin.

    Parameters
    ----------
    pixels : (n, h, w, 3) uint8
        Tiles, at any resolution at which nuclei are several pixels wide.
    rules : collection of str
        Which of `RULES` hold.
    of_pixels : (n,) float32, optional
        The `sentinode.slides.densities.spread` of the tiles, where it is known already.

    Returns
    -------
    (n,) str
        A key of `FINDINGS`; ``""`` where nothing speaks against it, or the tile is smaller than `SMALLEST_PX`.

    Raises
    ------
    ValueError
        If the tiles have another shape.

    Examples
    --------
    >>> glass, brown = np.full((2, 32, 32, 3), 240, np.uint8), np.random.default_rng(1)
    >>> glass[1] = (255 * np.exp(-brown.gamma(2, 0.3, (8, 8, 1)) * [0.27, 0.57, 0.78])).repeat(4, 0).repeat(4, 1)
    >>> bright_field_findings(glass).tolist()
    ['blank', 'brown']
    """
    if pixels.ndim != 4 or pixels.shape[-1] != 3:
        raise ValueError(f"tiles of shape {pixels.shape}; they must be (n, h, w, 3)")
    found = np.zeros(len(pixels), dtype="U16")
    if min(pixels.shape[1:3]) < SMALLEST_PX:
        return found
    blocks = block_densities(pixels)  # (3, n, b)
    mean = (blocks[0] + blocks[1] + blocks[2]) * np.float32(1 / 3)  # (n, b)
    variance = mean.var(axis=1)
    # From the last rule to the first: what is looked for first has the last word.
    if "stain" in rules:
        found = _stains(blocks, mean)
    if "dark" in rules:
        found[mean.mean(axis=1) > DARK] = "dark"
    if "noise" in rules:
        found[variance < NOISE * (spread(pixels) if of_pixels is None else of_pixels)] = "noise"
    if "blank" in rules:
        found[variance < FLAT**2] = "blank"
    return found


def _stains(blocks: Floats, mean: Floats) -> NDArray[np.str_]:
    stained = mean > STAINED
    enough = stained.mean(axis=1) >= ENOUGH
    total = np.where(stained, blocks, np.float32(0)).sum(axis=2).T  # (n, 3)
    share = total / np.maximum(total.mean(axis=1, keepdims=True), 1e-6)  # 1 each for grey
    pinkness = share[:, 1] - (share[:, 0] + share[:, 2]) / 2
    red, green, blue = blocks
    of_block = (green - (red + blue) * np.float32(0.5)) / np.maximum(mean, np.float32(STAINED))
    # The tenth of the stained blocks that is pinkest: others count as the least pink there is.
    order = np.sort(np.where(stained, of_block, -np.inf), axis=1)
    n_stained = stained.sum(axis=1)
    place = order.shape[1] - 1 - n_stained // 10
    pinkest = np.take_along_axis(order, place[:, None], axis=1)[:, 0]
    found = np.zeros(len(mean), dtype="U16")
    found[enough & (pinkest < PINKEST)] = "no eosin"
    odd = enough & ((pinkness < LEAST_PINK) | (pinkest < PINKEST))
    found[odd] = _colours(share[odd])
    return found


def _colours(share: Floats) -> NDArray[np.str_]:
    # (n, 3) densities of red, green, blue as shares -> what one would call the colour that is seen.
    most, least = share.argmax(axis=1), share.argmin(axis=1)
    found = np.full(len(share), "no eosin", dtype="U16")
    found[most == 0] = "blue"
    found[most == 2] = "brown"
    found[least == 1] = "green"
    found[np.ptp(share, axis=1) < GREY] = "grey"
    return found
