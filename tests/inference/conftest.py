"""Predictions of drawn slides."""

import itertools
from collections.abc import Callable

import numpy as np
import pytest

from sentinode.geometry import Size
from sentinode.inference.predictions import TilePredictions

SIZE = Size(10_007, 6_003)


@pytest.fixture(scope="session")
def predict_discs() -> Callable[..., TilePredictions]:
    """A function: tiles without gaps over a slide, suspicious where their centre lies in one of the discs."""

    def predict(discs, slide_size=SIZE, slide_mpp=0.243, mpp=1.0, tile_px=96) -> TilePredictions:
        side = tile_px * mpp / slide_mpp
        columns = np.round(np.arange(slide_size.width / side + 1) * side).astype(np.int64)
        rows = np.round(np.arange(slide_size.height / side + 1) * side).astype(np.int64)
        boxes = np.array([
            (x, y, right - x, below - y)
            for y, below in itertools.pairwise(rows)
            for x, right in itertools.pairwise(columns)
        ])
        centres = boxes[:, :2] + boxes[:, 2:] / 2
        inside = np.zeros(len(boxes), dtype=bool)
        for x, y, radius in discs:
            inside |= np.hypot(*(centres - (x, y)).T) <= radius
        proba = np.where(inside, 0.9, 0.1).astype(np.float32)
        return TilePredictions(
            boxes=boxes,
            proba=np.stack([1 - proba, proba], axis=1),
            classes=("normal", "tumour"),
            tile_px=tile_px,
            mpp=mpp,
            slide_id="drawn",
            slide_size=slide_size,
            slide_mpp=slide_mpp,
            fingerprint="f",
            model="m",
            tissue=np.ones(len(boxes), dtype=np.float32),
            flag=np.zeros(len(boxes), dtype="U8"),
        )

    return predict
