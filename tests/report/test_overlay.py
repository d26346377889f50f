"""The pyramid of the heatmap: every level shows a lesion where it lies on the slide."""

import numpy as np
import pytest
import tifffile

from sentinode.geometry import Size
from sentinode.inference.predictions import TilePredictions
from sentinode.report.overlay import OVERLAY_MPP, write_overlay
from sentinode.slides.slide import open_slide

SIZE = Size(6_007, 4_211)
SLIDE_MPP = 0.937  # the overlay is 4.269 times smaller: no level has a round factor
LESION = (4_100.0, 2_700.0, 420.0)  # x, y, radius in level-0 pixels


@pytest.fixture(scope="module")
def slide(tmp_path_factory):
    """An even grey slide."""
    path = tmp_path_factory.mktemp("overlay") / "grey.tif"
    tifffile.imwrite(
        path,
        np.full((*SIZE.shape, 3), 200, np.uint8),
        tile=(256, 256),
        photometric="rgb",
        compression="jpeg",
        resolution=(1e4 / SLIDE_MPP, 1e4 / SLIDE_MPP),
        resolutionunit="centimeter",
        metadata=None,
    )
    with open_slide(path) as opened:
        yield opened


def predictions_at(slide, mpp, tile_px=48):
    side = tile_px * mpp / SLIDE_MPP
    corners = np.stack(np.meshgrid(np.arange(0, SIZE.width - side, side), np.arange(0, SIZE.height - side, side)), -1)
    corners = corners.reshape(-1, 2)
    boxes = np.round(np.concatenate([corners, np.full_like(corners, side)], axis=1)).astype(np.int64)
    centres = boxes[:, :2] + boxes[:, 2:] / 2
    proba = np.where(np.hypot(*(centres - LESION[:2]).T) <= LESION[2], 1.0, 0.0).astype(np.float32)
    return TilePredictions(
        boxes=boxes[centres[:, 0] > 2 * side],  # the left edge was no tissue
        proba=np.stack([1 - proba, proba], axis=1)[centres[:, 0] > 2 * side],
        classes=("normal", "tumour"),
        tile_px=tile_px,
        mpp=mpp,
        slide_id=slide.info.slide_id,
        slide_size=slide.info.size,
        slide_mpp=SLIDE_MPP,
        fingerprint=slide.info.fingerprint,
        model="m",
        tissue=np.ones(int((centres[:, 0] > 2 * side).sum()), dtype=np.float32),
        flag=np.zeros(int((centres[:, 0] > 2 * side).sum()), dtype="U8"),
    )


@pytest.mark.parametrize("mpp", [1.0, 2.0, 3.7])
def test_a_lesion_lies_in_its_place_on_every_level(slide, tmp_path, mpp):
    path = tmp_path / "overlay.tif"
    levels = write_overlay(path, slide, predictions_at(slide, mpp))
    half_a_tile = 48 * mpp / SLIDE_MPP / 2
    with open_slide(path) as overlay:
        assert overlay.info.levels == levels
        assert overlay.info.mpp == pytest.approx(OVERLAY_MPP, rel=0.01)
        for size in levels:
            pixels = overlay.thumbnail(max(size.width, size.height)).astype(int)
            hot = pixels[..., 0] + pixels[..., 1] - 2 * pixels[..., 2] > 150  # yellow
            rows, columns = np.nonzero(hot)
            scale = SIZE.width / pixels.shape[1], SIZE.height / pixels.shape[0]
            x, y = (columns.mean() + 0.5) * scale[0], (rows.mean() + 0.5) * scale[1]
            assert abs(x - LESION[0]) < half_a_tile
            assert abs(y - LESION[1]) < half_a_tile


def test_where_no_tile_was_looked_at_it_is_white(slide, tmp_path):
    predictions = predictions_at(slide, 2.0)
    write_overlay(tmp_path / "overlay.tif", slide, predictions)
    with open_slide(tmp_path / "overlay.tif") as overlay:
        pixels = overlay.thumbnail(700)
    first = predictions.boxes[:, 0].min() * pixels.shape[1] / SIZE.width
    assert first > 10
    beside = pixels[20:-40, : int(first) - 3].astype(int)
    assert (abs(beside - 200) < 12).all()  # no colour; the tissue of a tile that is cut through
    inside = pixels[20:-40, int(first) + 3 : 300].astype(int)
    assert (np.ptp(inside, axis=2) > 4).mean() > 0.9
