"""Tiles: where they lie, what they cover, in which order, and what is refused."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sentinode.errors import SlideError
from sentinode.geometry import Raster, Size
from sentinode.seeds import stream
from sentinode.slides.slide import SlideInfo
from sentinode.slides.tiling import tile_grid
from sentinode.slides.tissue import TissueMask


def info(width=10_000, height=8_000, mpp: float | None = 0.25) -> SlideInfo:
    size = Size(width, height)
    return SlideInfo(Path("case.svs"), size, (size,), mpp, "file", "aperio", "openslide", "f" * 64)


def some_mask(size: Size, seed=1) -> TissueMask:
    return TissueMask(stream(seed, "mask").random((16, 20)) < 0.3, Raster(size, Size(20, 16)))


slides = {
    "width": st.integers(400, 120_000),
    "height": st.integers(400, 3_000),
    "mpp": st.floats(0.2, 0.6),
    "tile_px": st.sampled_from([96, 224, 256]),
}


class TestPlaces:
    @settings(max_examples=40, deadline=None)
    @given(**slides)
    def test_tiles_abut_and_never_drift(self, width, height, mpp, tile_px):
        grid = tile_grid(info(width, height, mpp), None, tile_px=tile_px, mpp=0.5)
        side = tile_px * 0.5 / mpp
        row = grid.boxes[grid.cells[:, 0] == 0]
        assert (row[:-1, 0] + row[:-1, 2] == row[1:, 0]).all()
        assert np.abs(row[:, 0] - np.arange(len(row)) * side).max() <= 0.5 + 1e-6
        assert np.abs(grid.boxes[:, 2:] - side).max() < 1 + 1e-6

    @settings(max_examples=40, deadline=None)
    @given(**slides, overlap=st.sampled_from([0.0, 0.25, 0.5]))
    def test_there_are_as_many_as_lie_half_within(self, width, height, mpp, tile_px, overlap):
        grid = tile_grid(info(width, height, mpp), None, tile_px=tile_px, mpp=0.5, overlap=overlap)
        side = tile_px * 0.5 / mpp
        counts = [math.floor((length - side / 2) / (side * (1 - overlap)) + 1e-9) + 1 for length in (height, width)]
        assert grid.shape == tuple(counts)
        assert len(grid) == math.prod(counts)
        ends = grid.boxes[:, 0] + grid.boxes[:, 2]
        assert width - side / 2 - 1 <= ends.max() <= width + side / 2 + 1

    @settings(max_examples=5, deadline=None)
    @given(st.integers(0, 1000))
    def test_all_tissue_is_covered_but_for_half_a_tile_at_the_border(self, seed):
        slide = info()
        mask = some_mask(slide.size, seed)
        grid = tile_grid(slide, mask, tile_px=224, mpp=0.5, minimum_tissue=0)
        covered = np.zeros(slide.size.shape, dtype=bool)
        for x, y, width, height in grid.boxes.tolist():
            covered[y : y + height, x : x + width] = True
        tissue = np.kron(mask.pixels, np.ones((500, 500), dtype=bool))
        reach = 448 // 2
        assert not (tissue & ~covered)[:-reach, :-reach].any()

    def test_rows_come_from_the_top_and_each_from_left_to_right(self):
        grid = tile_grid(info(), some_mask(Size(10_000, 8_000)), tile_px=224, mpp=0.5)
        keys = grid.boxes[:, 1] * 10**6 + grid.boxes[:, 0]
        assert (np.diff(keys) > 0).all()
        assert (np.diff(grid.cells[:, 0] * 1000 + grid.cells[:, 1]) > 0).all()

    def test_tiles_have_the_tissue_that_was_asked_for(self):
        mask = some_mask(Size(10_000, 8_000))
        few = tile_grid(info(), mask, tile_px=224, mpp=0.5, minimum_tissue=0.9)
        many = tile_grid(info(), mask, tile_px=224, mpp=0.5, minimum_tissue=0.1)
        assert few.tissue.min() >= 0.9 - 1e-6
        assert len(few) < len(many)
        assert many.tissue == pytest.approx(mask.share(many.boxes), abs=1e-6)

    def test_a_slide_without_tissue_has_no_tiles(self):
        empty = TissueMask(np.zeros((16, 20), dtype=bool), Raster(Size(10_000, 8_000), Size(20, 16)))
        assert tile_grid(info(), empty, tile_px=224, mpp=0.5, minimum_tissue=0).boxes.shape == (0, 4)


def test_the_fingerprint_tells_everything_that_decides_and_nothing_else():
    mask = some_mask(Size(10_000, 8_000))

    def of(slide=info(), mask=mask, tile_px=224, mpp=0.5, overlap=0.0, minimum_tissue=0.25) -> str:  # noqa: B008
        return tile_grid(
            slide, mask, tile_px=tile_px, mpp=mpp, overlap=overlap, minimum_tissue=minimum_tissue
        ).fingerprint

    others = [
        of(replace(info(), fingerprint="0" * 64)), of(info(mpp=0.26)), of(mask=None), of(tile_px=256), of(mpp=0.51),
        of(mask=some_mask(Size(10_000, 8_000), 2)), of(overlap=0.5), of(minimum_tissue=0.5),
    ]  # fmt: skip
    assert len({of(), *others}) == 9
    assert of() == of(replace(info(), path=Path("moved.svs")))


class TestRefused:
    def test_a_slide_of_unknown_mpp(self):
        with pytest.raises(SlideError, match="has no mpp"):
            tile_grid(info(mpp=None), None, tile_px=224, mpp=0.5)

    def test_a_slide_too_coarse_for_the_tiles(self):
        with pytest.raises(SlideError, match=r"28\.97 um a pixel, and the tiles need 1; no enlarging"):
            tile_grid(info(mpp=28.97), None, tile_px=96, mpp=1.0)

    def test_a_slide_smaller_than_half_a_tile(self):
        with pytest.raises(SlideError, match="less than half a tile"):
            tile_grid(info(100, 5000), None, tile_px=224, mpp=0.5)

    @pytest.mark.parametrize("wrong", [{"tile_px": 0}, {"mpp": -1.0}, {"overlap": 1.0}, {"minimum_tissue": 25.0}])
    def test_arguments_that_cannot_be(self, wrong):
        with pytest.raises(ValueError):
            tile_grid(info(), None, **{"tile_px": 224, "mpp": 0.5} | wrong)

    def test_a_mask_of_another_slide(self):
        with pytest.raises(ValueError, match="the mask is of a slide"):
            tile_grid(info(), some_mask(Size(10, 10)), tile_px=224, mpp=0.5)
