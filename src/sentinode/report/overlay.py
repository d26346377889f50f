"""The heatmap on the tissue as a pyramidal TIFF: to be laid beside the slide in QuPath, or opened in any viewer.

Written tile by tile from the top down, so that its memory does not grow with the slide; where no tile of the slide
was looked at it is white, and costs nothing.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sentinode.geometry import Box, Raster, Size
from sentinode.inference.dense import DenseMap
from sentinode.inference.maps import ProbabilityMap, probability_window
from sentinode.inference.predictions import TilePredictions
from sentinode.report.heatmap import heat_overlay
from sentinode.slides.pyramid import write_pyramid
from sentinode.slides.slide import Slide

__all__ = ["OVERLAY_MPP", "write_overlay"]

OVERLAY_MPP = 4.0
"""Of level 0, in micrometres: a lesion of 0.2 mm is fifty pixels long. A coarser slide keeps its own."""


def write_overlay(
    path: Path, slide: Slide, predictions: TilePredictions, dense: DenseMap | None = None
) -> tuple[Size, ...]:
    """Write the tissue with the probabilities in colour over it.

    Parameters
    ----------
    path : Path
        The file, ``.tif``; name it under `storage.whole_folder` or `storage.whole_file`.
    slide : Slide
        Open.
    predictions : TilePredictions
        Of this slide.
    dense : DenseMap, optional
        The points in its tiles, to be painted in their place.

    Returns
    -------
    tuple of Size
        The levels; level 0 covers the whole slide.

    Raises
    ------
    SlideError
        If the slide cannot be read.
    OSError
        If the file cannot be written.
    """
    # SlideError is the reader's.
    source = _Overlay(slide, predictions, dense)
    mpp = predictions.slide_mpp * source.raster.downsample[0]
    return write_pyramid(path, source, mpp, "Sentinode overlay, research use only")


class _Overlay:
    """The `PixelSource` of the file."""

    blank = (255, 255, 255)

    def __init__(self, slide: Slide, predictions: TilePredictions, dense: DenseMap | None) -> None:
        self._slide, self._predictions, self._dense = slide, predictions, dense
        shrink = max(OVERLAY_MPP / predictions.slide_mpp, 1.0)
        whole = predictions.slide_size
        self.size = Size(max(1, round(whole.width / shrink)), max(1, round(whole.height / shrink)))
        self.raster = Raster(whole, self.size)
        boxes = predictions.boxes
        # The cell of a point near the edge of a tile reaches over it.
        over = 0 if dense is None else dense.step / 2
        corners = np.concatenate([boxes[:, :2] - over, boxes[:, :2] + boxes[:, 2:] + over], axis=1)
        self._tiles = self.raster.to_pixels(corners.reshape(-1, 2, 2)).reshape(-1, 4)

    def is_blank(self, box: Box) -> bool:
        left, upper, right, lower = self._tiles.T
        meets = (left < box.right) & (right > box.x) & (upper < box.bottom) & (lower > box.y)
        return not meets.any()

    def read(self, box: Box) -> NDArray[np.uint8]:
        edges = self.raster.to_level0([[box.x, box.y], [box.right, box.bottom]]).round().astype(np.int64)
        (left, upper), (right, lower) = edges.tolist()
        tissue = self._slide.read_pixels(
            Box(left, upper, max(1, right - left), max(1, lower - upper)), Size(box.width, box.height)
        )
        pixels = probability_window(self._predictions, self.raster, box, self._dense)
        return heat_overlay(tissue, ProbabilityMap(pixels, self.raster))
