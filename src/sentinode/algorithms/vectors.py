"""What a head sees: one vector an image, from an encoder that ran before, or the pixels themselves.

Features reach a recipe as ``(n, 1, d)`` float32, as `sentinode.data.patches` reads them. Pixels, ``(n, h, w, 3)``
uint8, are taken as they are, ``h * w * 3`` numbers from 0 to 1: what a head is worth without any encoder, no more.
"""

from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.preprocessing import StandardScaler

from sentinode.algorithms.description import LayerRow
from sentinode.algorithms.registry import PatchSequence
from sentinode.algorithms.samples import patch_size, require_size
from sentinode.errors import ModelError

__all__ = ["Vectors", "input_row", "is_features"]

_AT_A_TIME = 256


def is_features(X: PatchSequence) -> bool:
    """Tell features from patches by the first of them.

    Parameters
    ----------
    X : (n, 1, d) float32 or (n, h, w, 3) uint8
        At least one.

    Returns
    -------
    bool
        True for features.

    Examples
    --------
    >>> is_features(np.zeros((2, 1, 8), np.float32)), is_features(np.zeros((2, 8, 8, 3), np.uint8))
    (True, False)
    """
    first = X[0]
    return bool(first.ndim == 2 and first.shape[0] == 1 and first.dtype == np.float32)


class Vectors:
    """Vectors of one length, standardised with the statistics of the training part.

    Examples
    --------
    >>> vectors = Vectors().fit(np.array([[[0.0, 1.0]], [[2.0, 1.0]]], np.float32))
    >>> vectors.transform(np.array([[[2.0, 1.0]]], np.float32)).tolist()
    [[1.0, 0.0]]
    """

    def fit(self, X: PatchSequence) -> Self:
        """Learn mean and spread of every number.

        Parameters
        ----------
        X : (n, 1, d) float32 or (n, h, w, 3) uint8
            Of the training part.

        Returns
        -------
        Vectors
            Itself.
        """
        self.features = len(X) > 0 and is_features(X)
        self.size: Any = X[0].shape if self.features else patch_size(X)
        self.scaler = StandardScaler().fit(self._read(X))
        return self

    def transform(self, X: PatchSequence) -> NDArray[np.float64]:
        """Read and standardise vectors.

        Parameters
        ----------
        X : (n, 1, d) float32 or (n, h, w, 3) uint8
            As in training.

        Returns
        -------
        (n, d) float64
            Mean 0 and standard deviation 1 over the training part; a number that never varied is 0 there.

        Raises
        ------
        ModelError
            If training saw images and these are features, or the other way round, or another size.
        """
        found = len(X) > 0 and is_features(X)
        if found and not self.features:
            raise ModelError("these are features, and training saw images; train a head on features")
        if self.features and len(X) > 0 and (not found or X[0].shape != self.size):
            shape = "x".join(map(str, X[0].shape))
            raise ModelError(
                f"training saw features of {self.size[1]} numbers, and these are {shape} {X[0].dtype} "
                "(not uint8 images either); use the encoder of the training"
            )
        if not self.features:
            require_size(X, self.size)
        return np.asarray(self.scaler.transform(self._read(X)), dtype=np.float64)

    @staticmethod
    def _read(X: PatchSequence) -> NDArray[np.float64]:
        blocks = [np.asarray(X[begin : begin + _AT_A_TIME]) for begin in range(0, len(X), _AT_A_TIME)]
        scale = 255.0 if blocks[0].dtype == np.uint8 else 1.0
        return np.concatenate([block.reshape(len(block), -1) / scale for block in blocks]).astype(np.float64)


def input_row(size: tuple[int, int]) -> tuple[int, LayerRow]:
    """Describe what a head sees, as the first step of a recipe.

    Parameters
    ----------
    size : (h, w)
        Of the images in pixels; ``(1, d)`` for features of d numbers.

    Returns
    -------
    d : int
        Numbers a vector.
    row : LayerRow
        The standardisation.

    Examples
    --------
    >>> input_row((1, 1024))[0], input_row((96, 96))[0]
    (1024, 27648)
    """
    d = size[1] if size[0] == 1 else size[0] * size[1] * 3
    what = "features of an encoder" if size[0] == 1 else "the pixels themselves: no encoder"
    return d, LayerRow("standardise", f"{d}", 2 * d, d, what)
