"""Places on slides: boxes that overlap, and rasters that lead there and back."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sentinode.geometry import Box, Point, Raster, Scale, Size

SIDES = st.integers(1, 300_000)
PLACES = st.integers(-1000, 1000)
BOXES = st.builds(Box, PLACES, PLACES, st.integers(1, 500), st.integers(1, 500))
few = settings(max_examples=60, deadline=None)


@few
@given(SIDES, SIDES, SIDES, SIDES, st.floats(0, 1), st.floats(0, 1))
def test_a_raster_leads_there_and_back_and_keeps_the_corners(w: int, h: int, pw: int, ph: int, fx: float, fy: float):
    raster = Raster(Size(w, h), Size(pw, ph))
    place = np.array([[fx * w, fy * h], [0, 0], [w, h]])
    np.testing.assert_allclose(raster.to_level0(raster.to_pixels(place)), place, atol=1e-6)
    np.testing.assert_allclose(raster.to_pixels(place)[1:], [[0, 0], [pw, ph]], rtol=1e-9)


@few
@given(BOXES, BOXES)
def test_what_two_boxes_share_is_in_both(a: Box, b: Box):
    mask = np.zeros((2600, 2600), dtype=int)
    for box in (a, b):
        mask[box.y + 1000 : box.bottom + 1000, box.x + 1000 : box.right + 1000] += 1
    shared = a.cut(b)
    assert (shared.size.area if shared else 0) == (mask == 2).sum()
    assert shared == b.cut(a)


@few
@given(SIDES, SIDES, st.integers(1, 5000))
def test_a_fitted_size_keeps_its_proportions(width: int, height: int, longest: int):
    fitted = Size(width, height).fitted(longest)
    assert max(fitted.width, fitted.height) <= max(longest, 1)
    factor = min(1, longest / max(width, height))
    assert abs(fitted.width - width * factor) <= 1
    assert abs(fitted.height - height * factor) <= 1


@few
@given(st.floats(0.05, 10), st.floats(0.05, 10), SIDES)
def test_micrometres_and_pixels_are_one_length(mpp: float, other: float, px: int):
    scale = Scale(mpp)
    assert scale.px(scale.um(px)) == pytest.approx(px)
    assert scale.pixels(Size(px, px), other).width == pytest.approx(px * mpp / other, abs=1)
    assert scale.downsample(other) * mpp == pytest.approx(other)


def test_a_square_millimetre_is_one():
    assert Scale(0.25).mm2(4000 * 4000) == 1.0


def test_edges_centres_and_windows():
    box = Box(-2, 4, 10, 6)
    assert (box.right, box.bottom, box.centre) == (8, 10, Point(3.0, 7.0))
    assert Raster(Size(100, 60), Size(50, 20)).window(box) == (-1.0, 4 / 3, 4.0, 10 / 3)
    assert Box.whole(Size(7, 9)) == Box(0, 0, 7, 9)
    assert Size(7, 9).shape == (9, 7)


@pytest.mark.parametrize("size", [(0, 1), (1, 0), (-1, 5)])
def test_nothing_is_empty(size: tuple[int, int]):
    with pytest.raises(ValueError, match="1 or more"):
        Size(*size)
    with pytest.raises(ValueError, match="1 or more"):
        Box(0, 0, *size)


@pytest.mark.parametrize("mpp", [0.0, -0.25, math.nan, math.inf])
def test_a_scale_is_a_positive_number(mpp: float):
    with pytest.raises(ValueError, match="positive number"):
        Scale(mpp)
