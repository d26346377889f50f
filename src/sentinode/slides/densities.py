"""What several measures of tiles share: densities over white of each grey level, and pixels of twice the side."""

import numpy as np
from numpy.typing import NDArray

__all__ = ["OVER_WHITE", "halved"]

Floats = NDArray[np.float32]

OVER_WHITE: Floats = -np.log(np.maximum(np.arange(256, dtype=np.float32), 1) / 255)
"""Grey level -> natural density over white; level 0 counts as 1."""


def halved(images: Floats) -> Floats:
    """Average four pixels to one.

    Parameters
    ----------
    images : (..., h, w) float32
        An odd last row or column is left out.

    Returns
    -------
    (..., h // 2, w // 2) float32
        Means.

    Examples
    --------
    >>> halved(np.arange(6, dtype=np.float32).reshape(2, 3)).tolist()
    [[2.0]]
    """
    height, width = images.shape[-2] // 2 * 2, images.shape[-1] // 2 * 2
    rows = images[..., 0:height:2, :] + images[..., 1:height:2, :]
    means: Floats = (rows[..., 0:width:2] + rows[..., 1:width:2]) * np.float32(0.25)
    return means
