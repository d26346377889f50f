"""Image -> vector: what colour, stain and texture a patch has, in numbers for the classical recognisers.

Stains are separated with the fixed vectors of Ruifrok and Johnston (2001, "Quantification of histochemical
staining by color deconvolution", Analytical and Quantitative Cytology and Histology 23:291-299), as
scikit-image tabulates them. Each group of numbers works on a whole batch and depends on nothing but the
pixels: nothing is learned here, so a descriptor cannot leak from test to training. A blank patch gives finite
numbers in every group.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple, Self, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage
from skimage.color import hed_from_rgb, rgb2lab
from skimage.feature import hog, local_binary_pattern
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from sentinode.algorithms.registry import PatchSequence
from sentinode.algorithms.samples import patch_batches, patch_size, require_size
from sentinode.errors import ModelError, PlanError

__all__ = [
    "DESCRIPTORS",
    "Descriptors",
    "colour_moments",
    "gradient_histograms",
    "granulometry",
    "local_binary_patterns",
    "optical_density",
    "stain_densities",
    "stain_statistics",
]

Floats: TypeAlias = NDArray[np.float32]

SMALLEST_SIDE = 16
"""Pixels: below this the largest opening and the widest binary pattern see mostly border."""

_PERCENTILES = (5, 25, 50, 75, 95)
_LBP_RINGS = ((8, 1), (16, 2), (24, 3))  # (neighbours, radius in pixels), Ojala et al. 2002, section 3.1
_OPENING_SIDES = (1, 3, 5, 7, 9, 13)  # pixels, odd; the last is a nucleus at 0.5 mpp, the third one at 1 mpp
_HOG_CELLS = 4  # per side: cells grow with the patch, so that the vector has one length
_HOG_ORIENTATIONS = 9
_BLANK = 1e-3  # optical density; one grey level of a white pixel is 0.0017


def optical_density(pixels: NDArray[np.uint8]) -> Floats:
    """Convert grey levels to optical densities, which add where light is absorbed twice (Beer and Lambert).

    Parameters
    ----------
    pixels : (..., 3) uint8
        RGB; white is 255.

    Returns
    -------
    (..., 3) float32
        -log10(level / 255), base 10; 0 for white. Level 0 counts as level 1 (2.41), as no scanner resolves
        more.

    Examples
    --------
    >>> optical_density(np.array([255, 26, 0], np.uint8)).round(2).tolist()
    [0.0, 0.9900000095367432, 2.4100000858306885]
    """
    levels = np.maximum(np.arange(256), 1) / 255
    table = np.abs(np.log10(levels)).astype(np.float32)  # abs: no -0.0 for white
    return table[pixels]


def stain_densities(pixels: NDArray[np.uint8]) -> Floats:
    """Separate haematoxylin, eosin and the rest (Ruifrok and Johnston 2001).

    Parameters
    ----------
    pixels : (..., 3) uint8
        RGB.

    Returns
    -------
    (..., 3) float32
        Amounts of haematoxylin, eosin and residual in optical density, never negative.

    Examples
    --------
    >>> stain_densities(np.array([[255, 255, 255], [110, 70, 150]], np.uint8)).round(2)[:, 0].tolist()
    [0.0, 0.5099999904632568]
    """
    density = optical_density(pixels) @ hed_from_rgb.astype(np.float32)
    clipped: Floats = np.maximum(density, 0)
    return clipped


def colour_moments(pixels: NDArray[np.uint8]) -> Floats:
    """Take mean, standard deviation and skewness of each channel of RGB and CIE Lab.

    After Stricker and Orengo (1995, "Similarity of color images", section 4), whose HSV is left out:
    haematoxylin and eosin lie on both sides of the place where the hue jumps from 1 to 0, and the mean of
    such angles means nothing.

    Parameters
    ----------
    pixels : (m, h, w, 3) uint8
        Patches.

    Returns
    -------
    (m, 18) float32
        Means, then deviations, then cube roots of the third central moments (so all carry the channel's
        unit).
    """
    channels = np.concatenate([pixels.astype(np.float32) / 255, rgb2lab(pixels).astype(np.float32) / 100], axis=-1)
    return _moments(channels)


def stain_statistics(pixels: NDArray[np.uint8]) -> Floats:
    """Describe how much haematoxylin and eosin there is, how unevenly, and whether in the same places.

    Parameters
    ----------
    pixels : (m, h, w, 3) uint8
        Patches.

    Returns
    -------
    (m, 17) float32
        Moments (optical density), percentiles 5, 25, 50, 75, 95, and the correlation of the two (0 where
        either is flat).
    """
    stains = stain_densities(pixels)[..., :2]
    m = len(stains)
    percentiles = np.percentile(stains, _PERCENTILES, axis=(1, 2))  # (5, m, 2)
    centred = stains - stains.mean(axis=(1, 2), keepdims=True)
    covariance = (centred[..., 0] * centred[..., 1]).mean(axis=(1, 2))
    spread = centred.std(axis=(1, 2)).prod(axis=-1)
    correlation = np.divide(covariance, spread, out=np.zeros_like(spread), where=spread > _BLANK**2)
    columns = [_moments(stains), percentiles.transpose(1, 0, 2).reshape(m, -1), correlation[:, None]]
    return np.concatenate(columns, axis=1).astype(np.float32)


def local_binary_patterns(pixels: NDArray[np.uint8]) -> Floats:
    """Count the uniform, rotation-invariant binary patterns of the haematoxylin density at three radii.

    Ojala, Pietikäinen and Mäenpää (2002, "Multiresolution gray-scale and rotation invariant texture
    classification with local binary patterns", PAMI 24:971-987, equation 9), by scikit-image. The density is
    rounded to 1/100 first: equal neighbours must be equal, or the pattern of blank glass is decided by
    rounding errors.

    Parameters
    ----------
    pixels : (m, h, w, 3) uint8
        Patches.

    Returns
    -------
    (m, 54) float32
        Shares of the P + 2 patterns of each ring of P neighbours; each ring sums to 1.
    """
    haematoxylin = np.clip(stain_densities(pixels)[..., 0] * 100, 0, 255).astype(np.uint8)
    return np.stack([np.concatenate([_lbp_histogram(patch, *ring) for ring in _LBP_RINGS]) for patch in haematoxylin])


def gradient_histograms(pixels: NDArray[np.uint8]) -> Floats:
    """Take histograms of oriented gradients over 4 x 4 cells, blocks of 2 x 2 cells normalised by L2-Hys.

    Dalal and Triggs (2005, "Histograms of oriented gradients for human detection", CVPR, section 6), by
    scikit-image, on the mean of the channels. Tissue has no upright position, which this descriptor assumes:
    it is here to be compared.

    Parameters
    ----------
    pixels : (m, h, w, 3) uint8
        Patches.

    Returns
    -------
    (m, 324) float32
        9 blocks of 4 cells of 9 orientations.
    """
    grey = pixels.mean(axis=-1, dtype=np.float32) / 255
    cell = (grey.shape[1] // _HOG_CELLS, grey.shape[2] // _HOG_CELLS)
    vectors = [
        hog(patch, orientations=_HOG_ORIENTATIONS, pixels_per_cell=cell, cells_per_block=(2, 2)) for patch in grey
    ]
    return np.asarray(vectors, dtype=np.float32)


def granulometry(pixels: NDArray[np.uint8]) -> Floats:
    """Take the pattern spectrum of the haematoxylin density: how much of it lies in things of which size.

    Openings by squares of growing side sieve the nuclei (Maragos 1989, "Pattern spectrum and multiscale shape
    representation", PAMI 11:701-716, equation 15); what a square removes is narrower than it.

    Parameters
    ----------
    pixels : (m, h, w, 3) uint8
        Patches.

    Returns
    -------
    (m, 6) float32
        Shares of the density removed at sides 3, 5, 7, 9 and 13 pixels, and the share that remains; all 0 for
        blank glass.
    """
    haematoxylin = stain_densities(pixels)[..., 0]
    sieved = [ndimage.grey_opening(haematoxylin, size=(1, side, side)) for side in _OPENING_SIDES[1:]]
    volumes = np.stack([image.mean(axis=(1, 2)) for image in (haematoxylin, *sieved)], axis=1)  # (m, 6), falling
    removed = np.concatenate([volumes[:, :-1] - volumes[:, 1:], volumes[:, -1:]], axis=1)
    total = volumes[:, :1]
    spectrum: Floats = np.divide(removed, total, out=np.zeros_like(removed), where=total > _BLANK)
    return spectrum


def _moments(channels: Floats) -> Floats:
    # (m, h, w, c) -> (m, 3 c). The cube root keeps the sign and, unlike the skewness over sd**3, is finite on
    # flat patches.
    mean = channels.mean(axis=(1, 2), keepdims=True)
    centred = channels - mean
    squares = centred * centred
    third = np.cbrt((squares * centred).mean(axis=(1, 2)))  # numpy's power takes ten times as long
    return np.concatenate([mean[:, 0, 0], np.sqrt(squares.mean(axis=(1, 2))), third], axis=1)


def _lbp_histogram(patch: NDArray[np.uint8], neighbours: int, radius: int) -> Floats:
    codes: NDArray[np.float64] = local_binary_pattern(  # type: ignore[no-untyped-call]  # scikit-image is untyped here
        patch, neighbours, radius, method="uniform"
    )
    inside = codes[radius:-radius, radius:-radius]  # outside the patch, scikit-image sees zeros
    counts = np.bincount(inside.astype(np.int64).ravel(), minlength=neighbours + 2)
    return (counts / inside.size).astype(np.float32)


class Descriptor(NamedTuple):
    """A group of numbers: how it is computed from ``(m, h, w, 3)`` uint8, and what each column is called."""

    function: Callable[[NDArray[np.uint8]], Floats]
    columns: tuple[str, ...]


_MOMENTS = ("mean", "sd", "skewness")
_STAINS = ("haematoxylin", "eosin")

DESCRIPTORS: Mapping[str, Descriptor] = MappingProxyType({
    "colour": Descriptor(
        colour_moments,
        tuple(f"{channel}_{moment}" for moment in _MOMENTS for channel in ("red", "green", "blue", "L", "a", "b")),
    ),
    "stain": Descriptor(
        stain_statistics,
        (
            *(f"{stain}_{moment}" for moment in _MOMENTS for stain in _STAINS),
            *(f"{stain}_p{percentile}" for percentile in _PERCENTILES for stain in _STAINS),
            "haematoxylin_eosin_correlation",
        ),
    ),
    "lbp": Descriptor(
        local_binary_patterns,
        tuple(f"lbp_r{radius}_{code}" for neighbours, radius in _LBP_RINGS for code in range(neighbours + 2)),
    ),
    "hog": Descriptor(
        gradient_histograms,
        tuple(
            f"hog_{block}_{cell}_{orientation}"
            for block in range((_HOG_CELLS - 1) ** 2)
            for cell in range(4)
            for orientation in range(_HOG_ORIENTATIONS)
        ),
    ),
    "granulometry": Descriptor(granulometry, (*(f"opening_{side}px" for side in _OPENING_SIDES[1:]), "opening_rest")),
})
"""Group of a plan's ``descriptors`` -> how it is computed."""


class Descriptors(TransformerMixin, BaseEstimator):
    """Turn patches into vectors; scikit-learn's transformer with images as samples.

    Parameters
    ----------
    parts : tuple of str
        Keys of `DESCRIPTORS`, in the order of the columns.
    batch_size : int
        Patches in memory at a time.

    Attributes
    ----------
    size_ : tuple of int
        Height and width of the patches that `fit` saw.

    Examples
    --------
    >>> patches = np.full((2, 32, 32, 3), 255, np.uint8)
    >>> descriptors = Descriptors(("stain", "granulometry")).fit(patches)
    >>> descriptors.transform(patches).shape
    (2, 23)
    >>> descriptors.get_feature_names_out()[-2:].tolist()
    ['opening_13px', 'opening_rest']
    """

    def __init__(self, parts: tuple[str, ...] = ("stain", "lbp", "granulometry"), batch_size: int = 64) -> None:
        self.parts = parts
        self.batch_size = batch_size

    def fit(self, X: PatchSequence, y: ArrayLike | None = None) -> Self:
        """Remember the size of the patches; nothing else is learned.

        Parameters
        ----------
        X : (n, h, w, 3) uint8
            Patches.
        y : None
            Not used.

        Returns
        -------
        Descriptors
            Itself.

        Raises
        ------
        ModelError
            If the patches are too small for the widest pattern.
        """
        del y
        self.require_parts()
        self.size_ = patch_size(X)
        if min(self.size_) < SMALLEST_SIDE:
            raise ModelError(
                f"the patches are {self.size_[0]} x {self.size_[1]} px; "
                f"descriptors need {SMALLEST_SIDE} px a side at least"
            )
        return self

    def transform(self, X: PatchSequence) -> NDArray[np.float64]:
        """Compute the vectors.

        Parameters
        ----------
        X : (n, h, w, 3) uint8
            Patches of the size that `fit` saw.

        Returns
        -------
        (n, d) float64
            One row a patch, always finite; columns as `get_feature_names_out`.
        """
        check_is_fitted(self)
        require_size(X, self.size_)
        rows = [
            np.concatenate([DESCRIPTORS[part].function(batch) for part in self.parts], axis=1)
            for batch in patch_batches(X, self.batch_size)
        ]
        return np.concatenate(rows).astype(np.float64)

    def get_feature_names_out(self, input_features: ArrayLike | None = None) -> NDArray[np.object_]:
        """Name the columns.

        Parameters
        ----------
        input_features : None
            Not used: pixels have no names.

        Returns
        -------
        (d,) object
            Names.
        """
        del input_features
        self.require_parts()
        return np.array([name for part in self.parts for name in DESCRIPTORS[part].columns], dtype=object)

    def require_parts(self) -> None:
        """Refuse groups that do not exist.

        Raises
        ------
        PlanError
            If there is none, or if one is unknown.
        """
        if isinstance(self.parts, str) or not self.parts:
            raise PlanError(f"descriptors = {self.parts!r}: give a list of {', '.join(DESCRIPTORS)}")
        for part in self.parts:
            if part not in DESCRIPTORS:
                raise PlanError(f"there is no descriptor '{part}'; known are: {', '.join(DESCRIPTORS)}")
