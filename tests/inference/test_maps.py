"""The map lies where the slide lies, and regions have the size that was drawn."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from sentinode.geometry import Size
from sentinode.inference.maps import probability_map, suspicious_regions
from sentinode.inference.summary import slide_score


@settings(max_examples=25, deadline=None)
@given(
    x=st.integers(1500, 8500),
    y=st.integers(1500, 4500),
    longest=st.integers(60, 1100),
    mpp=st.sampled_from([0.5, 1.0, 1.7]),
)
def test_a_disc_lights_up_where_it_was_drawn(predict_discs, x, y, longest, mpp):
    predictions = predict_discs([(x, y, 900)], mpp=mpp)
    found = probability_map(predictions, longest)
    row, column = ndimage.center_of_mass(np.nan_to_num(found.pixels) > 0.5)
    across, down = found.raster.to_level0([column + 0.5, row + 0.5])
    half_a_tile = predictions.boxes[0, 2] / 2
    rounding = max(found.raster.downsample)
    assert abs(across - x) < half_a_tile + rounding
    assert abs(down - y) < half_a_tile + rounding


def test_every_pixel_is_the_tile_that_its_centre_lies_in(predict_discs):
    predictions = predict_discs([(3000, 3000, 800)], slide_size=Size(4001, 3999))
    draws = np.random.default_rng(1).random(len(predictions)).astype(np.float32)
    predictions = replace(predictions, proba=np.stack([1 - draws, draws], axis=1))
    found = probability_map(predictions, 173)
    rows, columns = np.indices(found.pixels.shape)
    centres = found.raster.to_level0(np.stack([columns + 0.5, rows + 0.5], axis=-1))
    x, y, width, height = predictions.boxes.T
    for row, column in np.random.default_rng(2).integers(0, found.pixels.shape, (300, 2)):
        across, down = centres[row, column]
        (tile,) = np.flatnonzero((x <= across) & (across < x + width) & (y <= down) & (down < y + height))
        assert found.pixels[row, column] == pytest.approx(draws[tile], abs=1e-5)


def test_overlapping_tiles_are_averaged(predict_discs):
    one = predict_discs([], slide_size=Size(790, 395))
    doubled = replace(
        one,
        boxes=np.array([[0, 0, 400, 400], [200, 0, 400, 400]]),
        proba=np.array([[0, 1], [1, 0]], np.float32),
        tissue=np.ones(2, np.float32),
        flag=np.array(["", ""]),
    )
    pixels = probability_map(doubled, 79).pixels
    assert (pixels[20, 10], pixels[20, 30], pixels[20, 50]) == (1.0, 0.5, 0.0)
    assert np.isnan(pixels[20, 70])


def test_what_was_not_recognised_is_no_probability(predict_discs):
    predictions = predict_discs([(3000, 3000, 3000)])
    flag = np.where(predictions.boxes[:, 0] < 3000, "pen", "")
    predictions = replace(predictions, flag=flag)
    pixels = probability_map(predictions, 500).pixels
    assert np.isnan(pixels[:, :140]).all()
    assert not np.isnan(pixels[:, 160:]).any()
    assert all(region.polygon.bounds[0] >= 2900 for region in suspicious_regions(predictions))


def test_regions_have_the_size_that_was_drawn(predict_discs):
    radius = 1500  # level-0 px; 0.73 mm across
    large, small = suspicious_regions(predict_discs([(2500, 3000, radius), (8000, 3000, 500)]))
    across_mm = 2 * radius * 0.243 / 1000
    assert large.extent_mm[0] <= across_mm <= large.extent_mm[1]
    assert large.area_mm2 == pytest.approx(np.pi * (across_mm / 2) ** 2, rel=0.1)
    assert small.area_mm2 < large.area_mm2
    assert large.polygon.centroid.distance(large.polygon.centroid.__class__(2500, 3000)) < 200
    assert (large.proba, large.n_tiles) == (pytest.approx(0.9), round(large.area_mm2 / 0.096**2))


def test_the_size_class_is_told_where_the_map_is_fine_enough(predict_discs):
    (large,) = suspicious_regions(predict_discs([(4000, 3000, 1500)], mpp=0.5))
    assert large.size_classes(0.048) == ("micrometastasis",)
    assert large.size_classes(0.1) == ("micrometastasis",)
    assert large.size_classes(0.2) == ()
    (tiny,) = suspicious_regions(predict_discs([(4000, 3000, 250)], mpp=0.5))
    assert tiny.size_classes(0.048)[0] == "isolated tumour cells"


def test_tiles_that_touch_at_a_corner_are_two_regions(predict_discs):
    base = predict_discs([], slide_size=Size(780, 780))
    proba = np.zeros(len(base), np.float32)
    proba[[0, 3]] = 1  # of 2 x 2 tiles
    assert len(base) == 4
    regions = suspicious_regions(replace(base, proba=np.stack([1 - proba, proba], axis=1)))
    assert [one.n_tiles for one in regions] == [1, 1]


def test_a_lesion_that_a_model_of_centres_sees_in_part_is_not_called_too_small(predict_discs):
    """A bar of 212 um touches the middle thirds of two tiles of 80 um: it must not be isolated cells for certain."""
    base = predict_discs([], slide_size=Size(640, 80), slide_mpp=1.0, mpp=1.0, tile_px=80)
    lit = (base.boxes[:, 0] + 27 < 266) & (base.boxes[:, 0] + 53 > 54)
    proba = lit.astype(np.float32)
    (region,) = suspicious_regions(replace(base, proba=np.stack([1 - proba, proba], axis=1)))
    assert region.extent_mm[0] <= 0.212 <= region.extent_mm[1]
    assert "micrometastasis" in region.size_classes(0.08)


def test_overlap_makes_no_region_larger_and_no_slide_more_suspicious(predict_discs):
    """One dark spot, seen by all tiles whose middle third touches it."""
    found = {}
    for overlap in (0.0, 0.5, 0.75):
        x, y = np.meshgrid(np.arange(0, 2000, 96 * (1 - overlap)), np.arange(0, 2000, 96 * (1 - overlap)))
        boxes = np.stack([x.ravel(), y.ravel(), np.full(x.size, 96), np.full(x.size, 96)], axis=1).astype(np.int64)
        proba = (np.abs(boxes[:, :2] + 48 - 1008).max(axis=1) <= 36).astype(np.float32)
        predictions = replace(
            predict_discs([], slide_size=Size(2100, 2100)),
            boxes=boxes,
            proba=np.stack([1 - proba, proba], axis=1),
            tissue=np.ones(len(boxes), np.float32),
            flag=np.zeros(len(boxes), "U8"),
            facts={"overlap": overlap},
        )
        found[overlap] = (slide_score(predictions), sum(one.area_mm2 for one in suspicious_regions(predictions)))
    assert found[0.75][0] == found[0.5][0] == found[0.0][0] == pytest.approx(0.2)
    assert found[0.75][1] < 1.2 * found[0.0][1]


def test_nothing_suspicious_is_no_region(predict_discs):
    assert suspicious_regions(predict_discs([])) == ()
