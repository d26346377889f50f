"""What is wrong with tiles: blurred, inked, folded, in air, black, or empty; and whether a slide can be used at all.

Classical measures on optical density, each a share of the tile, so that a tile has a verdict and a reason. Blur is the
energy of the finest detail relative to the detail of cells (after Pech-Pacheco et al. 2000, "Diatom autofocusing in
brightfield microscopy", ICPR 3: the variance of the Laplacian, here divided by contrast): few nuclei are not blur.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from sentinode.slides import tile_loops
from sentinode.slides.slide import Pixels
from sentinode.slides.tissue import ink_colour

__all__ = [
    "IN_AIR",
    "LIMITS",
    "REASONS",
    "QualityFindings",
    "TileQuality",
    "quality_findings",
    "tile_quality",
    "usable",
]

Shares = NDArray[np.float32]
Floats = NDArray[np.float32]

LIMITS: Mapping[str, float] = MappingProxyType({"black": 0.5, "pen": 0.1, "fold": 0.2, "blur": 0.5, "empty": 0.95})
"""Flag -> share of the tile (for blur: of its tissue) from which a tile has it; in the order that a tile's first
reason is looked for. docs/tissue.md has the reason of each."""

IN_AIR = 0.25
"""Share of a tile from which it lies in a bubble; bubbles are seen on the whole slide (`sentinode.slides.tissue`)."""

REASONS = ("air", *LIMITS)
"""Why a tile of tissue is left out, in the order that its first reason is looked for."""

MOST_EXCLUDED = 0.5
"""Share of tissue tiles: of a slide that loses more, what is left no longer stands for the section."""

CHUNK = 16  # tiles measured at a time: more fall out of the cache of a core
GLASS = 243  # grey level; a tile may have no glass in it: the usual one
FINEST_MPP = 0.75  # a 40x objective and its camera leave little below: finer pixels are averaged to about this
SHARP = 0.06  # finest detail to cell detail: 99.5 % of real patches have 0.23 or more, blurred by 2 px 0.05 or less
CONTRAST = 1e-4  # density squared; below it there is noise only, and no verdict
WINDOW_PX = 8.0  # over which detail is compared
BLACK = 25  # grey level; what was not scanned is darker
INK_UM = 4.0  # a nucleus is no ink
FOLD_UM = 8.0  # of a fold every part is dark, of a crowd of nuclei some
FOLD = 1.5  # density: two layers of tissue; 1 % of real patches reach it


@dataclass(frozen=True, eq=False)
class TileQuality:
    """What is wrong with each tile.

    Parameters
    ----------
    blur : (n,) float32
        Share of the tissue that is out of focus; 0 where there is none, or no contrast to judge by.
    pen, fold, black, empty : (n,) float32
        Share of the tile that is ink, two layers or more, black, or glass.
    sharpness : (n,) float32
        Finest detail relative to cell detail over the tile; NaN without tissue.
    """

    blur: Shares
    pen: Shares
    fold: Shares
    black: Shares
    empty: Shares
    sharpness: Shares

    def __len__(self) -> int:
        return len(self.blur)

    @property
    def flags(self) -> tuple[frozenset[str], ...]:
        """Names of what is wrong with each, keys of `LIMITS`; an empty set is a good tile."""
        over = {name: getattr(self, name) >= limit for name, limit in LIMITS.items()}
        return tuple(frozenset(name for name in LIMITS if over[name][i]) for i in range(len(self)))

    @property
    def reason(self) -> NDArray[np.str_]:
        """(n,) str: the first flag of each in the order of `LIMITS`; ``""`` is a good tile."""
        found = np.zeros(len(self), dtype="U16")
        for name, limit in reversed(tuple(LIMITS.items())):
            found[getattr(self, name) >= limit] = name
        return found


@dataclass(frozen=True)
class QualityFindings:
    """What was wrong with the tissue tiles of a slide.

    Parameters
    ----------
    n_tiles : int
        Tissue tiles in all.
    n_excluded : int
        Of these, with a flag.
    reasons : mapping of str to int
        Flag -> tiles excluded for it; each counts once, for its first reason in the order of `REASONS`.
    """

    n_tiles: int
    n_excluded: int
    reasons: Mapping[str, int]

    @property
    def share_excluded(self) -> float:
        """Of the tissue tiles; 0 where there are none."""
        return self.n_excluded / self.n_tiles if self.n_tiles else 0.0

    def share(self, reason: str) -> float:
        """Say how many tissue tiles were excluded for a reason.

        Parameters
        ----------
        reason : str
            One of `REASONS`.

        Returns
        -------
        float
            Share of the tissue tiles.
        """
        return self.reasons.get(reason, 0) / self.n_tiles if self.n_tiles else 0.0


def tile_quality(pixels: Pixels, mpp: float) -> TileQuality:
    """Measure what is wrong with tiles.

    Parameters
    ----------
    pixels : (n, h, w, 3) uint8
        Tiles.
    mpp : float
        Micrometres a pixel.

    Returns
    -------
    TileQuality
        Each tile on its own: batches do not matter.

    Raises
    ------
    ValueError
        If the tiles have another shape, or the mpp is not positive.
    """
    if pixels.ndim != 4 or pixels.shape[-1] != 3 or not mpp > 0:
        raise ValueError(f"tiles of shape {pixels.shape} at {mpp} um a pixel; they must be (n, h, w, 3), mpp positive")
    measured = [_measure(pixels[begin : begin + CHUNK], mpp) for begin in range(0, len(pixels), CHUNK)]
    return TileQuality(*np.concatenate(measured or [np.empty((0, 6), dtype=np.float32)]).T)


def quality_findings(flags: Sequence[frozenset[str]]) -> QualityFindings:
    """Count what was wrong with the tissue tiles of a slide.

    Parameters
    ----------
    flags : sequence of frozenset of str
        Of each tile, of `REASONS`, as `TileQuality.flags`; of batches, one after the other.

    Returns
    -------
    QualityFindings
        In numbers.

    Examples
    --------
    >>> quality_findings([frozenset(), frozenset({"blur"}), frozenset({"blur", "pen"})])
    QualityFindings(n_tiles=3, n_excluded=2, reasons={'pen': 1, 'blur': 1})
    """
    first = Counter(next(name for name in REASONS if name in of_tile) for of_tile in flags if of_tile)
    reasons = {name: first[name] for name in REASONS if first[name]}
    return QualityFindings(len(flags), sum(reasons.values()), reasons)


def usable(findings: QualityFindings, most_excluded: float = MOST_EXCLUDED) -> tuple[bool, str]:
    """Decide whether a slide can be used.

    Parameters
    ----------
    findings : QualityFindings
        Of its tissue tiles.
    most_excluded : float
        Share of them that may be excluded.

    Returns
    -------
    verdict : bool
        False for a slide without tissue, and for one that loses more.
    reason : str
        One line, with numbers.

    Examples
    --------
    >>> usable(QualityFindings(100, 71, {"pen": 11, "blur": 60}))
    (False, '71 of 100 tissue tiles (71 %) cannot be used: blur 60 %, pen 11 %; scan the slide again')
    """
    if not findings.n_tiles:
        return False, "no tissue was found: is this the right slide, and was it stained?"
    names = sorted(findings.reasons, key=lambda name: -findings.reasons[name])
    why = ", ".join(f"{name} {100 * findings.share(name):.0f} %" for name in names)
    summary = f"{findings.n_excluded} of {findings.n_tiles} tissue tiles ({100 * findings.share_excluded:.0f} %)"
    if findings.share_excluded > most_excluded:
        return False, f"{summary} cannot be used: {why}; scan the slide again"
    return True, f"{summary} excluded: {why}" if names else f"all {findings.n_tiles} tissue tiles can be used"


def _measure(tiles: Pixels, mpp: float) -> Floats:
    # (n, 6): blur, pen, fold, black, empty, sharpness. Detail is taken from every pixel; what is smoothed over more
    # than a pixel or two is smoothed on pixels of twice the side, which takes an eighth of the time.
    factor = max(1, min(int(FINEST_MPP / mpp + 0.49), *tiles.shape[1:3]))  # 0.5 um stays as it is
    um = mpp * factor
    light = _even(_averaged(tiles, factor))
    n, height, width, _ = light.shape
    mean, halves = np.empty((n, height, width), np.float32), np.empty((4, n, height // 2, width // 2), np.float32)
    tile_loops.over_glass(light, _OVER_GLASS, mean, halves)
    half = halves[3]
    densest = half.max(axis=(1, 2))
    black = _black(light, densest > _OVER_GLASS[BLACK])
    pen = _inked(halves, INK_UM / um) & ~black
    spared = ~pen & ~black
    smooth = _smoothed(half, 2.0)
    tissue, empty = (smooth > 0.08) & spared, smooth <= 0.08
    fold = np.zeros_like(black)
    dense = densest > FOLD  # smoothed, nothing is denser than the densest
    fold[dense] = (_smoothed(half[dense], FOLD_UM / um) > FOLD) & spared[dense]
    shares = [np.count_nonzero(part, axis=(1, 2)) / half[0].size for part in (pen, fold, black, empty)]
    blur, sharpness = _blur(mean, half, tissue)
    return np.stack([blur, *shares, sharpness], axis=1).astype(np.float32)


def _black(light: Pixels, may: NDArray[np.bool_]) -> NDArray[np.bool_]:
    # (n, h / 2, w / 2). Ink is never as black as what was not scanned, and a fold keeps a colour.
    n, height, width, _ = light.shape
    black = np.zeros((n, height // 2, width // 2), dtype=bool)
    if may.any():
        brightest = light[may].reshape(-1, height // 2, 2, width // 2, 2, 3).max(axis=(2, 4, 5))
        black[may] = (brightest < BLACK) & (ndimage.maximum_filter(brightest, (1, 3, 3)) < 40)
    return black


def _inked(halves: Floats, sigma: float) -> NDArray[np.bool_]:
    # Smoothing is averaging: a tile without one pixel beyond a limit of `ink` has none when it is smoothed.
    red, green, _, half = halves
    cold = (red - green - np.float32(0.06) * half).max(axis=(1, 2)) > 0.12
    inked = np.zeros(half.shape, dtype=bool)
    may = cold & (red.max(axis=(1, 2)) > 0.35) | (green.max(axis=(1, 2)) > 1.3) | (half.max(axis=(1, 2)) > 1.1)
    if may.any():
        inked[may] = ink_colour(*_smoothed(halves[:3, may], sigma)) > 0
    return inked


def _blur(mean: Floats, half: Floats, tissue: NDArray[np.bool_]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    # (n,) each: share of tissue without fine detail, and the ratio of fine to coarse detail over all of it.
    area = np.count_nonzero(tissue, axis=(1, 2))
    blur, sharpness = np.zeros(len(mean)), np.full(len(mean), np.nan)
    some = area > 0
    if not some.any():
        return blur, sharpness
    if not some.all():
        mean, half, tissue = mean[some], half[some], tissue[some]
    detail = np.empty((2, *half.shape), dtype=np.float32)  # fine and coarse
    tile_loops.details(mean, half, _smoothed(half, 4.0), _FINEST, *detail)
    sums = (detail * tissue).sum(axis=(2, 3))
    sharpness[some] = sums[0] / np.maximum(sums[1], 1e-9)
    fine, coarse = _smoothed(detail, WINDOW_PX)
    judged = tissue & (coarse > CONTRAST) & (fine < SHARP * coarse)
    blur[some] = np.count_nonzero(judged, axis=(1, 2)) / area[some]
    return blur, sharpness


def _averaged(tiles: Pixels, factor: int) -> Pixels:
    tiles = np.ascontiguousarray(tiles)
    if factor == 1:
        return tiles
    n, height, width, _ = tiles.shape
    found = np.empty((n, height // factor, width // factor, 3), dtype=np.uint8)
    tile_loops.averaged(tiles, factor, found)
    return found


def _even(tiles: Pixels) -> Pixels:
    # An odd side is one longer.
    odd = [(0, size % 2) for size in tiles.shape[1:3]]
    return np.pad(tiles, ((0, 0), *odd, (0, 0)), mode="edge") if any(map(any, odd)) else tiles


def _smoothed(halves: Floats, sigma: float) -> Floats:
    # (..., h / 2, w / 2) by the Gaussian that has `sigma` before halving; halving was a little of it.
    return _blurred(halves, max(0.01, sigma * sigma / 4 - 1 / 16) ** 0.5)


def _blurred(images: Floats, sigma: float) -> Floats:
    # (..., h, w) by a Gaussian. As products of matrices, which tiles are small enough for, in a fifth of the time.
    height, width = images.shape[-2:]
    blurred: Floats = np.matmul(np.matmul(_gaussian(height, sigma), images), _gaussian(width, sigma).T)
    return blurred


@lru_cache(maxsize=32)
def _gaussian(length: int, sigma: float) -> Floats:
    # (length, length): what ndimage does to a line, its borders included.
    return np.asarray(ndimage.gaussian_filter1d(np.eye(length), sigma, axis=0), dtype=np.float32)


# As `sentinode.slides.tissue.optical_density`, and nothing is brighter than the glass.
_OVER_GLASS = (np.log(GLASS + 1) - np.log(np.minimum(np.arange(256), GLASS) + 1)).astype(np.float32)

# Of the finest detail: what a Gaussian of one pixel takes away.
_FINEST = np.ascontiguousarray(
    _gaussian(4 * tile_loops.REACH, 1.0)[2 * tile_loops.REACH, 2 * tile_loops.REACH :][: tile_loops.REACH + 1]
)
