"""Which two colours a slide is stained with: haematoxylin's and eosin's, measured from its own pixels."""

import numpy as np
from numpy.typing import NDArray

from sentinode.errors import SlideError

__all__ = ["stain_vectors"]

FAINTEST = 0.15
"""A pixel counts when its channels absorb at least so much in the mean (optical density, base e): each channel would
leave out pure eosin, which lets red and blue pass."""

TAIL = 1.0
"""Per cent of the pixels that may lie beyond a stain's direction."""

ENOUGH = 100
"""Stained pixels below which a plane through them means nothing."""


def stain_vectors(pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Measure the colours of the two stains.

    Macenko et al. (2009, "A method for normalizing histology slides for quantitative analysis", ISBI, section 2):
    optical densities of the stained pixels, the plane in which they vary most (of the covariance, where the paper has
    the singular vectors), and in it the directions that nearly all pixels lie between.

    Parameters
    ----------
    pixels : (..., 3) uint8
        RGB of one slide, as many as there are: tiles of it, patches, or a thumbnail.

    Returns
    -------
    (2, 3) float64
        Haematoxylin's and eosin's optical density in red, green and blue; unit length. Eosin is the one
        that absorbs more green: of the two, the difference that holds for every scanner.

    Raises
    ------
    SlideError
        If fewer than a hundred pixels are stained.

    Examples
    --------
    >>> rng = np.random.default_rng(1)
    >>> true = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11]])
    >>> amounts = rng.uniform(0.2, 1.0, (4000, 2)) * rng.permuted([[1, 0.1], [0.1, 1]] * 2000, axis=0)
    >>> pixels = (255 * np.exp(-amounts @ true)).astype(np.uint8)
    >>> stain_vectors(pixels)[0].round(1).tolist()
    [0.6, 0.7, 0.3]
    """
    density = -np.log(np.maximum(pixels.reshape(-1, 3), 1) / 255.0)
    stained = density[density.mean(axis=1) > FAINTEST]
    if len(stained) < ENOUGH:
        raise SlideError(
            f"only {len(stained)} pixels are stained, of {len(density)}: too few to measure the colours of the stains; "
            "are these H&E images?"
        )
    _, directions = np.linalg.eigh(np.cov(stained.T))
    plane = directions[:, [2, 1]]  # largest first
    plane = plane * np.where(plane.sum(axis=0) < 0, -1, 1)
    along = stained @ plane
    angle = np.arctan2(along[:, 1], along[:, 0])
    ends = np.percentile(angle, [TAIL, 100 - TAIL])
    vectors = np.column_stack([np.cos(ends), np.sin(ends)]) @ plane.T
    vectors = np.maximum(vectors, 0)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors[np.argsort(vectors[:, 1])], dtype=np.float64)
