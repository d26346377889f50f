"""Probabilities in colour over the tissue that they belong to."""

import io
from functools import cache

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from sentinode.inference.maps import ProbabilityMap

__all__ = ["colour_map", "colour_scale", "heat_overlay", "map_over_field", "map_over_tile"]

_COLOURS = "viridis"  # read in order by everyone, also by the colour-blind, and yellow is no colour of the stain
_FAINT, _STRONG = 0.12, 0.72
"""How much of the tissue the colour covers at a probability of 0 and of 1."""

_STEPS = 256
"""Colours of the map; a screen shows no more."""


def colour_map(found: ProbabilityMap) -> NDArray[np.uint8]:
    """Give each pixel of a map its colour.

    Parameters
    ----------
    found : ProbabilityMap
        Of a slide.

    Returns
    -------
    (h, w, 4) uint8
        Red, green, blue and opacity; clear where no tile was recognised.
    """
    clear = np.isnan(found.pixels)
    step = np.where(clear, _STEPS, found.pixels * (_STEPS - 1) + 0.5).astype(np.intp)
    return np.take(_colours(), step, axis=0)


@cache
def _colours() -> NDArray[np.uint8]:
    # (257, 4): a colour for each step of the probability, and the clear one.
    proba = np.linspace(0, 1, _STEPS)
    colours = colormaps[_COLOURS](proba)
    colours[:, 3] = _FAINT + (_STRONG - _FAINT) * proba
    return np.round(np.concatenate([colours, np.zeros((1, 4))]) * 255).astype(np.uint8)


def heat_overlay(thumbnail: NDArray[np.uint8], found: ProbabilityMap) -> NDArray[np.uint8]:
    """Lay a map over the slide.

    Parameters
    ----------
    thumbnail : (h, w, 3) uint8
        The whole slide, as large as the map.
    found : ProbabilityMap
        Of the same slide.

    Returns
    -------
    (h, w, 3) uint8
        Pixel for pixel in the same place.

    Raises
    ------
    ValueError
        If the two differ in size.
    """
    if thumbnail.shape[:2] != found.pixels.shape:
        raise ValueError(f"a thumbnail of {thumbnail.shape[:2]} and a map of {found.pixels.shape}: they must be alike")
    colour = Image.fromarray(colour_map(found), "RGBA")
    return np.asarray(Image.alpha_composite(Image.fromarray(thumbnail).convert("RGBA"), colour).convert("RGB"))


@cache
def colour_scale(label: str) -> NDArray[np.uint8]:
    """Draw the scale of the colours.

    Parameters
    ----------
    label : str
        What the colour says, e.g. ``"probability of tumour"``.

    Returns
    -------
    (h, w, 3) uint8
        As the colours look over white glass; the same array each time, not to be written to.
    """
    figure = Figure(figsize=(4.2, 0.62), dpi=100)
    axes = figure.add_axes((0.03, 0.62, 0.94, 0.34))
    proba = np.linspace(0, 1, 256)[None]
    colours = colormaps[_COLOURS](proba)
    share = (_FAINT + (_STRONG - _FAINT) * proba)[..., None]
    axes.imshow(colours[..., :3] * share + 1 - share, aspect="auto", extent=(0, 1, 0, 1))
    axes.set_yticks([])
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1])
    axes.tick_params(labelsize=7, length=2, pad=1)
    axes.set_xlabel(label, fontsize=7.5, labelpad=1)
    with io.BytesIO() as stream:
        figure.savefig(stream, format="png")
        return np.asarray(Image.open(stream).convert("RGB"))


def map_over_tile(tile: NDArray[np.uint8], values: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Lay a map over a tile: red speaks for the class, blue against it.

    Parameters
    ----------
    tile : (h, w, 3) uint8
        Shown in grey, as the map has the colours.
    values : (h, w) float32
        Zero is no colour; the largest size, but for the outermost hundredth, is the full one.

    Returns
    -------
    (h, w, 3) uint8
        Pixel for pixel in the same place.
    """
    most = float(np.percentile(np.abs(values), 99)) or float(np.abs(values).max()) or 1.0
    scaled = np.clip(values / most, -1, 1)
    colour = colormaps["RdBu_r"](scaled / 2 + 0.5)[..., :3]
    grey = (tile.mean(axis=2, keepdims=True) / 255 * 0.75 + 0.25).repeat(3, axis=2)
    share = 0.75 * np.abs(scaled)[..., None]
    return np.asarray(np.round(255 * (share * colour + (1 - share) * grey)), dtype=np.uint8)


def map_over_field(field: NDArray[np.uint8], values: NDArray[np.float32], share: float) -> NDArray[np.uint8]:
    """Lay the map of the tile in its middle over a field of tissue.

    Parameters
    ----------
    field : (h, w, 3) uint8
        Shown in grey, the tile framed.
    values : (th, tw) float32
        Of the tile.
    share : float
        Of the field's side that is the tile.

    Returns
    -------
    (h, w, 3) uint8
        Pixel for pixel in the same place.
    """
    height, width = field.shape[:2]
    down, across = (max(1, min(side, round(share * side))) for side in (height, width))
    top, left = (height - down) // 2, (width - across) // 2
    resized = Image.fromarray(values.astype(np.float32)).resize((across, down), Image.Resampling.BILINEAR)
    inside = slice(top, top + down), slice(left, left + across)
    shown = map_over_tile(field, np.zeros((height, width), dtype=np.float32))
    shown[inside] = map_over_tile(field[inside], np.asarray(resized, dtype=np.float32))
    shown[inside][[0, -1]] = shown[inside][:, [0, -1]] = 40
    return shown
