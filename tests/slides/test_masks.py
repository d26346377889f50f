"""Masks: a disc of runs is the disc of Euclidean distances, to the pixel."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from sentinode.slides.masks import closed, widened, without_small


def drawn(seed, share, shape=(41, 57)):
    return np.random.default_rng(seed).random(shape) < share


@pytest.mark.parametrize("radius", [0, 0.5, 1, 1.5, 2, 2.9, 3, 5, 6.25, 9.4, 13, 60])
@pytest.mark.parametrize("share", [0.001, 0.01, 0.2])
def test_widened_is_within_the_euclidean_distance(radius, share):
    mask = drawn(1, share)
    mask[20, 30] = True
    assert np.array_equal(widened(mask, radius), ndimage.distance_transform_edt(~mask) <= radius)


@given(st.integers(0, 10_000), st.floats(0, 30), st.tuples(st.integers(1, 30), st.integers(1, 30)))
def test_widened_is_the_same_in_masks_of_every_size(seed, radius, shape):
    mask = drawn(seed, 0.05, shape)
    mask[-1, 0] = True
    assert np.array_equal(widened(mask, radius), ndimage.distance_transform_edt(~mask) <= radius)


def test_nothing_is_widened_to_nothing_and_the_mask_is_left_as_it_was():
    empty = np.zeros((9, 9), dtype=bool)
    assert not widened(empty, 3).any()
    mask = drawn(2, 0.05)
    before = mask.copy()
    widened(mask, 4)
    assert np.array_equal(mask, before)


def test_closing_fills_gaps_narrower_than_the_disc_and_no_others():
    mask = np.zeros((60, 60), dtype=bool)
    mask[20:40, 10:20] = mask[20:40, 26:36] = mask[20:40, 50:58] = True
    found = closed(mask, 4)
    assert found[30, 20:26].all(), "six pixels apart"
    assert not found[30, 36:50].any(), "fourteen pixels apart"
    assert found[mask].all()


@pytest.mark.parametrize("radius", [1, 2.5, 6.25])
def test_closing_is_that_of_distances(radius):
    mask, margin = drawn(3, 0.03, (70, 50)), int(np.ceil(radius)) + 1
    wide = ndimage.distance_transform_edt(~np.pad(mask, margin, mode="edge")) <= radius
    by_distances = ndimage.distance_transform_edt(wide) > radius
    assert np.array_equal(closed(mask, radius), by_distances[margin:-margin, margin:-margin] | mask)


def test_what_is_full_stays_full():
    assert closed(np.ones((12, 9), dtype=bool), 3).all()


def test_small_pieces_go_and_touch_by_edges_only():
    mask = np.zeros((8, 8), dtype=bool)
    mask[0:2, 0:2] = mask[2, 2] = mask[5:8, 5:8] = True
    assert without_small(mask, 4).sum() == 4 + 9
    assert without_small(mask, 5).sum() == 9
    assert without_small(mask, 10).sum() == 0
    assert not without_small(np.zeros((3, 3), dtype=bool), 1).any()
