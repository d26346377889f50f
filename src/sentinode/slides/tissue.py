"""Where tissue is on a slide: what absorbs light in colour, measured against the slide's own glass.

The glass is found first, as a smooth surface of its colour, so that cream glass and uneven light count as nothing.
Absorption against it is optical density (Ruifrok and Johnston 2001, "Quantification of histochemical staining by color
deconvolution", Analytical and Quantitative Cytology and Histology 23(4)). Its colour tells stain from dust, borders
and ink. All thresholds have an absolute floor: a threshold that is drawn from the slide alone (Otsu's) halves the noise
of an empty one. All sizes are micrometres.
"""

import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from sentinode.geometry import Raster, Scale, Size, running_sums
from sentinode.slides.bubbles import bubbles
from sentinode.slides.masks import closed, widened, without_small
from sentinode.slides.slide import Pixels, Slide
from sentinode.slides.tile_loops import ink_of

__all__ = [
    "Survey",
    "TissueMask",
    "ink",
    "ink_colour",
    "optical_density",
    "survey",
    "survey_thumbnail",
    "tissue_mask",
    "tissue_of",
]

Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]

THUMBNAIL_MPP = 12.0
"""Wanted of a thumbnail: a needle core of 0.8 mm is then 67 px wide, and fat still has walls."""
LONGEST = 4000
"""Pixels of a thumbnail's longer side, at most: 12 million pixels take a few seconds."""
DOWNSAMPLE = 32
"""Of the thumbnail where the mpp is not known; at 40x that is 8 um a pixel."""

SMOOTH_UM = 12.0  # of noise: a little more than a nucleus
COLOUR = 0.055  # difference between the densities of two channels; glass after JPEG has 0.02 at most
DENSITY = 0.05  # of what hangs together with coloured tissue
MESH_UM = 80.0  # the walls of fat cells are this far apart, and seen together
MESH = 0.012  # the colour of a mesh, walls and holes averaged; glass has 0.01
MESH_MM2 = 0.25  # smaller pieces of mesh are smears
COLOURED_SHARE = 0.3  # of a piece must be coloured; dust and scratches are grey
CLOSE_UM = 75.0  # half a large fat cell
HOLE_MM2 = 0.1  # holes up to 0.3 mm across are filled: vessels, ducts, fat cells
PIECE_MM2 = 0.05  # smaller pieces are debris
INK_MM2 = 0.02  # smaller spots of ink's colour are pigment, or noise
INK_MARGIN_UM = 40.0  # the pale rim of a stroke
INK_REACH_UM = 250.0  # how far a stroke fades


@dataclass(frozen=True, eq=False)
class TissueMask:
    """Where tissue is, or what lies over it.

    Parameters
    ----------
    pixels : (h, w) bool
        True where there is tissue.
    raster : Raster
        Places the mask on the slide.

    Raises
    ------
    ValueError
        If the mask has another size than the raster says.

    Examples
    --------
    >>> mask = TissueMask(np.array([[True, False]]), Raster(Size(200, 100), Size(2, 1)))
    >>> mask.share([(0, 0, 100, 100), (50, 0, 100, 100)]).tolist()
    [1.0, 0.5]
    >>> mask.area_mm2(Scale(1.0))
    0.01
    """

    pixels: Mask
    raster: Raster

    def __post_init__(self) -> None:
        if self.pixels.shape != self.raster.pixels.shape:
            raise ValueError(f"a mask of {self.pixels.shape} in a raster of {self.raster.pixels.shape}")

    def share(self, boxes: ArrayLike) -> NDArray[np.float64]:
        """Say how much of each box is tissue, fractions of mask pixels included.

        Parameters
        ----------
        boxes : (n, 4) int
            ``x, y, width, height`` in level-0 pixels; what lies beyond the slide is no tissue.

        Returns
        -------
        (n,) float64
            Between 0 and 1.
        """
        x, y, width, height = np.asarray(boxes, dtype=np.float64).reshape(-1, 4).T
        left, upper = self.raster.to_pixels(np.stack([x, y], axis=1)).T
        right, lower = self.raster.to_pixels(np.stack([x + width, y + height], axis=1)).T
        covered = (
            self._integral(lower, right)
            - self._integral(upper, right)
            - self._integral(lower, left)
            + self._integral(upper, left)
        )
        shares: NDArray[np.float64] = np.clip(covered / ((right - left) * (lower - upper)), 0.0, 1.0)
        return shares

    def area_mm2(self, scale: Scale) -> float:
        """Measure the tissue.

        Parameters
        ----------
        scale : Scale
            Of the slide.

        Returns
        -------
        float
            Square millimetres.
        """
        across, down = self.raster.downsample
        return scale.mm2(float(self.pixels.sum()) * across * down)

    @property
    def digest(self) -> str:
        """SHA-256 over mask and raster."""
        sizes = f"{self.raster.slide}\0{self.raster.pixels}\0"
        return hashlib.sha256(sizes.encode() + np.packbits(self.pixels).tobytes()).hexdigest()

    @cached_property
    def _sums(self) -> NDArray[np.int64]:
        # Tissue pixels above and left of each corner, (h + 1, w + 1).
        sums = np.zeros((self.pixels.shape[0] + 1, self.pixels.shape[1] + 1), dtype=np.int64)
        sums[1:, 1:] = self.pixels
        running_sums(sums[1:, 1:])
        return sums

    def _integral(self, y: NDArray[np.float64], x: NDArray[np.float64]) -> NDArray[np.float64]:
        # Tissue above and left of places, (n,). Within a pixel the mask is constant, its integral is bilinear:
        # interpolating between corners is exact.
        height, width = self.pixels.shape
        y, x = y.clip(0, height), x.clip(0, width)
        row, column = np.minimum(y.astype(np.int64), height - 1), np.minimum(x.astype(np.int64), width - 1)
        v, u = y - row, x - column
        sums = self._sums
        above = (1 - u) * sums[row, column] + u * sums[row, column + 1]
        below = (1 - u) * sums[row + 1, column] + u * sums[row + 1, column + 1]
        integral: NDArray[np.float64] = (1 - v) * above + v * below
        return integral


class Survey(NamedTuple):
    """What is where on a slide, as seen from afar.

    Parameters
    ----------
    tissue : TissueMask
        Tissue, also where it lies in air.
    air : TissueMask
        Bubbles under the coverslip, with their rims; over tissue and over glass.
    """

    tissue: TissueMask
    air: TissueMask


def survey(slide: Slide) -> Survey:
    """Find the tissue of a slide, and the air over it.

    Parameters
    ----------
    slide : Slide
        Open.

    Returns
    -------
    Survey
        At 12 um a pixel, or at most 4,000 px wide or high; not finer than the slide.

    Raises
    ------
    SlideError
        If the file cannot be read.
    """
    # SlideError is the reader's.
    info = slide.info
    downsample = DOWNSAMPLE if info.mpp is None else max(1.0, THUMBNAIL_MPP / info.mpp)
    longest = max(info.size.width, info.size.height)
    thumbnail = slide.thumbnail(max(1, min(LONGEST, round(longest / downsample))))
    height, width = thumbnail.shape[:2]
    return survey_thumbnail(thumbnail, Raster(info.size, Size(width, height)), mpp=info.mpp)


def tissue_of(slide: Slide) -> TissueMask:
    """Find the tissue of a slide.

    Parameters
    ----------
    slide : Slide
        Open.

    Returns
    -------
    TissueMask
        As in `survey`.

    Raises
    ------
    SlideError
        If the file cannot be read.
    """
    # SlideError is the reader's.
    return survey(slide).tissue


def tissue_mask(thumbnail: Pixels, raster: Raster, *, mpp: float | None = None) -> TissueMask:
    """Find the tissue in a picture of a whole slide.

    Parameters
    ----------
    thumbnail, raster, mpp
        As for `survey_thumbnail`.

    Returns
    -------
    TissueMask
        With fat and small holes, without ink (over tissue, too), dust, dark borders and debris; empty for glass.

    Raises
    ------
    ValueError
        If the thumbnail has another size than the raster says.
    """
    # ValueError is that of the survey.
    return survey_thumbnail(thumbnail, raster, mpp=mpp).tissue


def survey_thumbnail(thumbnail: Pixels, raster: Raster, *, mpp: float | None = None) -> Survey:
    """Find tissue and air in a picture of a whole slide.

    Parameters
    ----------
    thumbnail : (h, w, 3) uint8
        The slide, small; 8 to 16 um a pixel are best, up to 30 are fine.
    raster : Raster
        Places it on the slide.
    mpp : float, optional
        Micrometres a level-0 pixel. Where it is not known, a pixel of the thumbnail counts as 12 um.

    Returns
    -------
    Survey
        Of the size of the thumbnail.

    Raises
    ------
    ValueError
        If the thumbnail has another size than the raster says.
    """
    if thumbnail.shape != (*raster.pixels.shape, 3):
        raise ValueError(f"a thumbnail of {thumbnail.shape} in a raster of {raster.pixels.shape}")
    um = THUMBNAIL_MPP if mpp is None else mpp * float(np.mean(raster.downsample))  # of a pixel
    density = _smoothed(_density_over_glass(thumbnail), SMOOTH_UM / um)
    with ThreadPoolExecutor(1, thread_name_prefix="air") as beside:
        air = beside.submit(bubbles, density, um)
        tissue = _tissue(density, um)
    return Survey(TissueMask(tissue, raster), TissueMask(air.result(), raster))


def _tissue(density: Floats, um: float) -> Mask:
    excluded = _ink_strokes(density, um) | _borders(density, um)
    found = _stained(density, um, excluded)
    # The mesh reaches a little beyond what is seen anyway; where it goes on, closing fills the gap.
    found = closed(found | _mesh(density, um, excluded, widened(found, CLOSE_UM / um)), CLOSE_UM / um)
    found = without_small(found, PIECE_MM2 * 1e6 / um**2)
    found = ~without_small(~found, HOLE_MM2 * 1e6 / um**2)
    found &= ~excluded
    return without_small(found, PIECE_MM2 * 1e6 / um**2)


def optical_density(pixels: Pixels, glass: ArrayLike) -> Floats:
    """Measure how much light is absorbed: ``ln(glass / pixel)`` (Ruifrok and Johnston 2001).

    Parameters
    ----------
    pixels : (..., 3) uint8
        Red, green, blue.
    glass : (..., 3) float
        The same without tissue.

    Returns
    -------
    (..., 3) float32
        0 for glass, negative for what is brighter.
    """
    light = np.log(np.arange(256, dtype=np.float32) + 1)[pixels]
    return np.log(np.asarray(glass, dtype=np.float32) + 1) - light


def ink(density: Floats) -> dict[str, Mask]:
    """Tell the colours of felt pens from stains.

    Haematoxylin and eosin absorb green most, and red less (0.65 : 0.70 : 0.29 and 0.07 : 0.99 : 0.11, Ruifrok and
    Johnston 2001); DAB absorbs blue most. Blue and green ink absorb red clearly more than green; red ink absorbs green
    and blue alike and no red; black absorbs all alike, and more than tissue does.

    Parameters
    ----------
    density : (..., 3) float32
        Optical density, smoothed over about a nucleus: single nuclei may have any colour.

    Returns
    -------
    dict of str to (...) bool
        ``"blue"``, ``"green"``, ``"red"`` and ``"black"``, which exclude one another.
    """
    colour = ink_colour(*np.moveaxis(density, -1, 0))
    return {name: colour == number for number, name in enumerate(("blue", "green", "red", "black"), 1)}


def ink_colour(red: Floats, green: Floats, blue: Floats) -> Pixels:
    """Tell the colours of felt pens from stains, as `ink` does.

    Parameters
    ----------
    red, green, blue : (...) float32
        Optical density, smoothed over about a nucleus.

    Returns
    -------
    (...) uint8
        0 where there is no ink, else 1 and on in the order of `ink`.
    """
    found = np.empty(red.shape, dtype=np.uint8)
    of_red, of_green, of_blue = (np.ascontiguousarray(one, dtype=np.float32).ravel() for one in (red, green, blue))
    ink_of(of_red, of_green, of_blue, found.ravel())
    return found


# --- glass --------------------------------------------------------------------------------------------------


def _density_over_glass(thumbnail: Pixels) -> Floats:
    # Optical density (h, w, 3) against glass whose logarithm is a quadratic surface: light falls off smoothly.
    height, width = thumbnail.shape[:2]
    step = max(2, int(np.sqrt(height * width / 100_000)))
    sample = _averaged(thumbnail, step)
    grid = (np.mgrid[: sample.shape[0], : sample.shape[1]] + 0.5) * step
    y, x = (grid[0] / height - 0.5).ravel(), (grid[1] / width - 0.5).ravel()
    glass = _glass_colour(sample)
    light = np.log(sample.reshape(-1, 3).astype(np.float64) + 1) - np.log(glass + 1)  # (n, 3), 0 for glass
    filled = (sample.reshape(-1, 3).min(axis=1) >= 254) & (glass.min() < 250)  # not scanned, so not glass
    surface = np.zeros((6, 3))
    terms = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=1)  # (n, 6)
    for tolerance in (0.25, 0.15, 0.1, 0.07, 0.05, 0.04):  # from uneven light down to noise
        over = light - terms @ surface
        red, green, blue = over.T
        of_colours = np.maximum(np.maximum(red, green), blue) - np.minimum(np.minimum(red, green), blue)
        same = (np.abs(red + green + blue) < 3 * tolerance) & (of_colours < 0.06) & ~filled  # light has no colour
        if tolerance <= 0.07 and same.any():
            # Fat is nearly glass: of these the less pink half is glass, and what differs from it by noise.
            pinkness = _pinkness(-over)
            same &= pinkness <= np.median(pinkness[same]) + 0.005
        if same.sum() < max(50, 0.01 * len(same)) or not _is_spread(x[same], y[same]):
            break
        n_terms = 6 if tolerance < 0.2 else 3  # a plane first: it cannot follow pale tissue
        surface = np.zeros((6, 3))
        known = terms[same, :n_terms]  # by the normal equations: the terms are few, and hardly alike
        surface[:n_terms] = np.linalg.lstsq(known.T @ known, known.T @ light[same], rcond=None)[0]
    return np.stack(_over_colours(lambda k: _density_of_channel(thumbnail[..., k], glass[k], surface[:, k])), axis=2)


def _density_of_channel(light: Pixels, glass: float, surface: NDArray[np.float64]) -> Floats:
    # (h, w): ln(glass / light), the surface of the glass added as a row, a column and their product.
    height, width = light.shape
    y, x = ((np.arange(size) / size - 0.5) for size in (height, width))
    a = surface
    of_row, of_column = a[0] + np.log(glass + 1) + a[2] * y + a[5] * y * y, a[1] * x + a[3] * x * x
    density = light.astype(np.float32)
    density += np.float32(1)
    np.log(density, out=density)
    np.subtract(of_row.astype(np.float32)[:, None], density, out=density)
    density += of_column.astype(np.float32)[None, :]
    if a[4]:
        density += (a[4] * y).astype(np.float32)[:, None] * x.astype(np.float32)[None, :]
    return density


def _over_colours(function: Callable[[int], Floats]) -> list[Floats]:
    # Colours have nothing to do with one another: each has a thread.
    with ThreadPoolExecutor(3, thread_name_prefix="colour") as pool:
        return list(pool.map(function, range(3)))


def _glass_colour(sample: Pixels) -> NDArray[np.float64]:
    # The brightest colour that is frequent and not stained, (3,); white where there is none.
    pixels = sample.reshape(-1, 3).astype(np.float64)
    logs = np.log(pixels + 1)
    pinkness = (logs[:, 0] + logs[:, 2]) / 2 - logs[:, 1]  # 0 for grey; stains absorb green
    plain = (pixels.min(axis=1) >= 150) & (pinkness < 0.06)
    # What was not scanned is often filled with pure white, brighter than the glass.
    scanned = plain & (pixels.min(axis=1) < 254) & (pinkness < 0.035)
    if scanned.sum() > 0.05 * len(pixels):
        plain = scanned
    green = np.bincount(pixels[plain, 1].astype(np.int64), minlength=256)
    frequent = np.convolve(green, np.ones(9), mode="same") >= 0.02 * len(pixels)
    if not frequent.any():
        return np.array([243.0, 243.0, 243.0])
    top = int(np.flatnonzero(frequent)[-1])
    # The window's upper end reaches beyond the peak by its half: go down to where most pixels are.
    peak = top - 8 + int(np.argmax(green[max(0, top - 8) : top + 1])) if top >= 8 else top
    return np.asarray(np.median(pixels[plain & (np.abs(pixels[:, 1] - peak) <= 4)], axis=0))


def _averaged(thumbnail: Pixels, step: int) -> Pixels:
    # Shrunk by area, without noise; (h, w, 3). A rest at the right or lower border does not count.
    step = min(step, *thumbnail.shape[:2])
    height, width = thumbnail.shape[0] // step, thumbnail.shape[1] // step
    blocks = thumbnail[: height * step, : width * step].reshape(height, step, width * step * 3)
    sums = blocks.sum(axis=1, dtype=np.uint32).reshape(height, width, step, 3).sum(axis=2)
    return np.asarray(np.rint(sums / step**2), dtype=np.uint8)


def _is_spread(x: NDArray[np.float64], y: NDArray[np.float64]) -> bool:
    # A surface fitted to one corner says nothing of the others.
    return bool(np.ptp(np.quantile(x, (0.02, 0.98))) > 0.5 and np.ptp(np.quantile(y, (0.02, 0.98))) > 0.5)


# --- what lies on it ----------------------------------------------------------------------------------------


def _stained(density: Floats, um: float, excluded: Mask) -> Mask:
    # Pieces of dense or coloured pixels of which enough are coloured as stains are.
    mean, spread = _mean(density), _spread(density)
    cold = _is_cold(density)
    coloured = (spread > COLOUR) & (spread > 0.12 * mean) & ~cold & ~excluded
    candidate = ((spread > COLOUR) | (mean > DENSITY)) & ~excluded & ~(cold & (spread > COLOUR))
    labels, n_pieces = ndimage.label(candidate)
    if not n_pieces:
        return np.zeros(candidate.shape, dtype=bool)
    sizes = np.bincount(labels.ravel(), minlength=n_pieces + 1)
    stained = np.bincount(labels[coloured], minlength=n_pieces + 1)
    kept = (stained >= COLOURED_SHARE * sizes) & (sizes * um**2 >= 1e6 * PIECE_MM2 / 10)
    kept[0] = False
    found: Mask = kept[labels]
    return found


def _mesh(density: Floats, um: float, excluded: Mask, known: Mask) -> Mask:
    # Thin walls around white: seen by their colour over some cells. Colour is limited, so that a sharp edge of
    # strong tissue does not spread.
    walls = np.where(excluded | _is_cold(density), 0.0, np.minimum(_pinkness(density), COLOUR)).astype(np.float32)
    together: Floats = ndimage.gaussian_filter(walls, MESH_UM / um)
    return without_small((together > MESH) & ~excluded & ~known, MESH_MM2 * 1e6 / um**2)


def _ink_strokes(density: Floats, um: float) -> Mask:
    strokes = np.zeros(density.shape[:2], dtype=bool)
    for colour, seeds in ink(density).items():
        seeds = without_small(seeds, INK_MM2 * 1e6 / um**2)  # noqa: PLW2901 - the same seeds, fewer
        if seeds.any():
            distance = ndimage.distance_transform_edt(~seeds) * um
            strokes |= (distance <= INK_MARGIN_UM) | ((distance <= INK_REACH_UM) & _FADED[colour](density))
    return strokes


def _borders(density: Floats, um: float) -> Mask:
    # Black rectangles of the scanner, with their blurred rim.
    black = without_small(
        np.minimum(np.minimum(density[..., 0], density[..., 1]), density[..., 2]) > 2.5, INK_MM2 * 1e6 / um**2
    )
    return widened(black, max(1.5, INK_MARGIN_UM / um))


def _is_cold(density: Floats) -> Mask:
    # Blue or green, however pale.
    found: Mask = density[..., 0] - density[..., 1] > 0.02 + 0.06 * _mean(density)
    return found


def _is_reddish(density: Floats) -> Mask:
    return (density[..., 2] > 0.7 * density[..., 1]) & (density[..., 0] < 0.35 * density[..., 1])


def _is_grey(density: Floats) -> Mask:
    mean = _mean(density)
    found: Mask = (mean > DENSITY) & (_spread(density) < 0.15 * mean + 0.02)
    return found


_FADED: dict[str, Callable[[Floats], Mask]] = {
    "blue": _is_cold,
    "green": _is_cold,
    "red": _is_reddish,
    "black": _is_grey,
}


def _pinkness(density: NDArray[Any]) -> NDArray[Any]:  # float32 or float64, as it comes
    # Green absorbed beyond the others: eosin and haematoxylin, not grey, not cream.
    pinkness: NDArray[Any] = density[..., 1] - (density[..., 0] + density[..., 2]) / 2
    return pinkness


def _spread(density: Floats) -> Floats:
    red, green, blue = density[..., 0], density[..., 1], density[..., 2]
    spread: Floats = np.maximum(np.maximum(red, green), blue) - np.minimum(np.minimum(red, green), blue)
    return spread


def _mean(density: Floats) -> Floats:
    # Over the colours; numpy takes ten times as long along an axis of three.
    mean: Floats = (density[..., 0] + density[..., 1] + density[..., 2]) / np.float32(3)
    return mean


def _smoothed(density: Floats, sigma: float) -> Floats:
    sigma = max(0.7, sigma)
    return np.stack(_over_colours(lambda k: ndimage.gaussian_filter(density[..., k], sigma)), axis=2)
