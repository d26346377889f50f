"""Bubbles of air: found by their rims, wherever they lie; other lines are not rims."""

import numpy as np
import pytest

from sentinode.geometry import Box, Raster, Size
from sentinode.phantom.plans import LesionWish, SlidePlan
from sentinode.phantom.slides import draw_slide
from sentinode.slides.bubbles import bubbles
from sentinode.slides.tissue import survey_thumbnail, tissue_mask

UM = 12.0
EOSIN = np.float32([0.1, 0.6, 0.15])


def distance_to_circle(radius_um, at_um=(1500.0, 1200.0), size=(220, 260)):
    """How far each pixel is from a circle, um (h, w), negative within it; and its direction from the centre."""
    y, x = (np.indices(size) + 0.5) * UM
    return np.hypot(x - at_um[0], y - at_um[1]) - radius_um, np.arctan2(y - at_um[1], x - at_um[0])


def line(distance, width_um=25.0):
    """The density of a grey line, smoothed as thumbnails are, (h, w, 1)."""
    return np.float32(0.8 * np.exp(-((distance / (width_um / 2 + 6)) ** 2)))[..., None]


@pytest.mark.parametrize("under", [0.0, 1.0])
@pytest.mark.parametrize("radius", [100.0, 300.0, 900.0])
def test_a_ring_is_found_with_what_it_encloses_on_glass_and_on_tissue(radius, under):
    distance, _ = distance_to_circle(radius)
    found = bubbles(under * EOSIN + line(distance), UM)
    truth = distance <= 0
    assert (found & truth).sum() > 0.99 * truth.sum()
    assert (found & (distance > 50)).sum() == 0


def test_a_ring_with_a_gap_is_a_bubble_and_half_a_ring_is_none():
    distance, turn = distance_to_circle(500.0)
    found = bubbles(line(distance) * (np.abs(turn) > 0.7)[..., None], UM)  # a fifth is missing
    assert (found & (distance < 0)).sum() > 0.9 * (distance < 0).sum()
    assert not bubbles(line(distance) * (np.abs(turn) > 1.5)[..., None], UM).any()


def test_bubbles_that_touch_are_found_one_by_one():
    one, _ = distance_to_circle(400.0, (900.0, 1200.0))
    other, _ = distance_to_circle(300.0, (1600.0, 1200.0))
    found = bubbles(np.maximum(line(one), line(other)), UM)
    truth = (one < 0) | (other < 0)
    assert (found & truth).sum() > 0.98 * truth.sum()
    assert (found & (np.minimum(one, other) > 60)).sum() == 0


@pytest.mark.parametrize(
    ("what", "density"),
    [
        ("a ring in the colour of a stain", line(distance_to_circle(500.0)[0]) * EOSIN / 0.6),
        ("a stroke of black ink around something", line(distance_to_circle(700.0)[0], 300.0).repeat(3, 2)),
        ("a hair", line(np.indices((220, 260))[0] * UM - 1000 - 200 * np.sin(np.indices((220, 260))[1] / 30))),
        ("a spot of dust", line(distance_to_circle(0.0)[0], 150.0)),
        ("a speck", line(distance_to_circle(40.0)[0])),
        ("glass", np.zeros((220, 260, 1))),
    ],
)
def test_what_is_no_rim_of_a_bubble(what, density):
    assert not bubbles(np.broadcast_to(density, (220, 260, 3)).astype(np.float32), UM).any(), what


def thumbnail(**wanted):
    """A synthetic slide and its picture at 12 um a pixel."""
    phantom = draw_slide(SlidePlan("tested", size=Size(2400, 2100), section_um=1500.0, **wanted))
    pixels = phantom.read(Box.whole(phantom.size))[: 175 * 12, : 200 * 12]
    return phantom, pixels.reshape(175, 12, 200, 12, 3).mean(axis=(1, 3)).round().astype(np.uint8)


@pytest.fixture(scope="module")
def spoilt():
    return thumbnail(seed=3, artefacts=("bubble",))


def test_the_bubble_of_a_synthetic_slide_is_found_and_tissue_in_it_stays_tissue(spoilt):
    phantom, picture = spoilt
    seen = survey_thumbnail(picture, Raster(Size(2400, 2100), Size(200, 175)), mpp=1.0)
    truth = phantom.truth_mask(Box(0, 0, 2400, 2100), 12) == 6
    both = (seen.air.pixels & truth).sum()
    assert both / (seen.air.pixels | truth).sum() > 0.85
    clean = thumbnail(seed=3)[1]
    before = tissue_mask(clean, Raster(Size(2400, 2100), Size(200, 175)), mpp=1.0).pixels
    inside = before & truth
    assert inside.any()
    assert (seen.tissue.pixels & inside).sum() > 0.9 * inside.sum()


@pytest.mark.parametrize("site", [0, 1])
def test_slides_without_a_bubble_have_none(site):
    artefacts = ("pen-black", "pen-blue", "fold", "blur")
    _, picture = thumbnail(seed=5, site=site, lesions=(LesionWish(400.0),), artefacts=artefacts)
    assert not survey_thumbnail(picture, Raster(Size(2400, 2100), Size(200, 175)), mpp=1.0).air.pixels.any()
