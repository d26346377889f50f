"""Points on a slide: where they lie, which fields they come from, and when they are not shown."""

import math
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from sentinode.errors import SlideError
from sentinode.geometry import Box, Raster, Size
from sentinode.inference import dense
from sentinode.inference.dense import ALIKE, FEW, Agreement, DenseMap, _fields, recognise_densely
from sentinode.inference.predictions import TilePredictions
from sentinode.seeds import stream
from sentinode.slides.slide import Slide, SlideInfo

SIDE = 1000


@dataclass(frozen=True)
class Grid:
    tile: int = 24
    stride: Fraction = Fraction(8)
    most: int = 80
    first: int = 1

    def points_along(self, side):
        return math.floor((side - self.tile) / self.stride) - self.first + 1

    def side_for(self, n_points):
        px = (self.first + n_points - 1) * self.stride + self.tile
        return math.ceil(px / self.stride.numerator) * self.stride.numerator


class MiddleRed:
    """A point is the red of the pixel in the middle of its tile."""

    graph = Grid()

    def points(self, field):
        down, across = (
            [int((self.graph.first + j) * self.graph.stride) + 12 for j in range(self.graph.points_along(side))]
            for side in field.shape[:2]
        )
        return field[np.ix_(down, across)][..., 0].astype(np.float32) / 255


class Ramp:
    """Red rises to the right by a grey level each four pixels."""

    def read_level(self, _level, x, y, width, height):
        row = (np.arange(x, x + width) // 4).astype(np.uint8)
        return np.broadcast_to(row[None, :, None], (height, width, 3)).copy() if y >= 0 else None

    def close(self):
        pass


def slide():
    size = Size(SIDE, SIDE)
    return Slide(SlideInfo(Path("slide.tif"), size, (size,), 0.5, "file", "drawn", "tiff", "0"), Ramp())


def predictions(left_out=()):
    """Tiles of 24 px at 1 um, 48 px of level 0, with the probability that the ramp has in their middle."""
    x, y = np.meshgrid(np.arange(96, 480, 48), np.arange(144, 384, 48))
    boxes = np.stack([x.ravel(), y.ravel(), np.full(x.size, 48), np.full(x.size, 48)], axis=1).astype(np.int64)
    red = ((boxes[:, 0] + 24) // 4 / 255).astype(np.float32)
    flag = np.zeros(len(boxes), dtype="U8")
    flag[list(left_out)] = "blur"
    return TilePredictions(
        boxes=boxes,
        proba=np.stack([1 - red, red], axis=1),
        classes=("normal", "tumour"),
        tile_px=24,
        mpp=1.0,
        slide_id="drawn",
        slide_size=Size(SIDE, SIDE),
        slide_mpp=0.5,
        fingerprint="f",
        model="m",
        tissue=np.ones(len(boxes), dtype=np.float32),
        flag=flag,
    )


def test_each_point_is_that_of_its_place_and_only_recognised_tiles_have_any():
    found, agreement = recognise_densely(slide(), predictions(left_out=(9, 10)), MiddleRed())
    assert found.n_points == 9 * (40 - 2)
    assert (found.step, found.proba.shape) == (16, (15, 24))
    x = found.origin[0] + (np.arange(24) + 0.5) * found.step
    expected = np.broadcast_to(x // 4 / 255, found.proba.shape)
    known = ~np.isnan(found.proba)
    assert np.abs(found.proba - expected)[known].max() <= 1 / 255
    assert not known[3:6, 3:9].any(), "the two tiles that were left out"
    assert agreement.tiles == 38
    assert agreement.largest_difference <= 1 / 255


def test_more_points_than_memory_is_meant_for_are_refused_before_anything_is_read(monkeypatch):
    monkeypatch.setattr(dense, "MOST_POINTS", 15 * 24 - 1)
    with pytest.raises(SlideError, match=r"360 points, 8 um apart: too many; leave out --heatmap dense"):
        recognise_densely(slide(), predictions(), MiddleRed())


@pytest.mark.parametrize("stride", [Fraction(8), Fraction(16, 3)])
def test_each_wanted_point_comes_from_a_field(stride):
    graph, draws = Grid(stride=stride), stream(1, "fields")
    for share in (0.002, 0.02, 0.5):
        wanted = draws.random((50, 70)) < share
        wanted[0, 0] = wanted[-1, -1] = True
        corner = np.array([-4, 7])
        left, fields = wanted.copy(), list(_fields(wanted, graph, corner))
        for x, y, size in fields:
            assert (x + corner[0]) * stride % 1 == 0, "a field begins on a whole pixel"
            assert (y + corner[1]) * stride % 1 == 0
            assert max(size.width, size.height) <= graph.most
            assert size.width % stride.numerator == size.height % stride.numerator == 0
            across, down = (graph.points_along(side) for side in (size.width, size.height))
            x, y = x + graph.first, y + graph.first  # noqa: PLW2901 - of its first point
            part = (slice(max(0, y), y + down), slice(max(0, x), x + across))
            assert wanted[part].any(), "no field is read for nothing"
            left[part] = False
        assert not left.any()


def test_a_pixel_has_the_point_that_it_lies_in_or_the_mean_of_those_in_it():
    proba = np.arange(24, dtype=np.float32).reshape(4, 6) / 24
    proba[0, 0] = np.nan
    found = DenseMap(proba, (100.0, 40.0), 10.0)
    slide_size = Size(400, 200)
    fine = Raster(slide_size, Size(400, 200))
    pixels = found.window(fine, Box.whole(fine.pixels))
    assert np.isnan(pixels[:40]).all()
    assert np.isnan(pixels[40:50, 100:110]).all()
    assert (pixels[40:80, 110:160][5::10, 5::10] == proba[:, 1:]).all()
    assert np.isnan(pixels[80:]).all()
    assert np.isnan(pixels[:, 160:]).all()
    part = Box(103, 37, 41, 23)
    assert np.array_equal(found.window(fine, part), pixels[37:60, 103:144], equal_nan=True)
    coarse = Raster(slide_size, Size(20, 10))
    pixels = found.window(coarse, Box.whole(coarse.pixels))
    assert pixels[2, 5] == pytest.approx(np.nanmean(proba[:2, :2]))
    assert pixels[3, 7] == pytest.approx(proba[2:, 4:].mean())
    assert np.isnan(pixels[:2]).all()


def test_ranks_are_asked_for_where_there_is_something_to_rank():
    draws = stream(1, "agreement")
    proba = draws.random(200).astype(np.float32)
    near, far = (np.clip(proba + draws.normal(0, sd, 200), 0, 1).astype(np.float32) for sd in (0.02, 0.2))
    assert Agreement.of(proba, near).alike
    assert Agreement.of(proba, near).spearman >= ALIKE
    assert not Agreement.of(proba, far).alike
    few = Agreement.of(proba[: FEW - 1], near[: FEW - 1])
    assert (few.spearman, few.alike) == (None, True)
    assert not Agreement.of(proba[: FEW - 1], 1 - proba[: FEW - 1]).alike
    quiet = Agreement.of(proba / 100, near / 100)
    assert (quiet.spearman, quiet.alike) == (None, True)
    assert not Agreement.of(proba / 100, proba).alike
    assert not Agreement.of(proba[:0], proba[:0]).alike, "what nothing is held against is not shown"
