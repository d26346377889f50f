"""Tissue: what is found on drawn and real slides, and what share of a box it covers."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sentinode.geometry import Raster, Scale, Size
from sentinode.seeds import stream
from sentinode.slides.tissue import TissueMask, ink, tissue_mask

UM = 12.0
INKS = {"blue": (35, 65, 170), "green": (40, 130, 80), "red": (210, 40, 50), "black": (20, 20, 22)}


def glass(colour=(240, 240, 242), size=(240, 320)) -> np.ndarray:
    return np.tile(np.array(colour, dtype=float), (*size, 1))


def with_tissue(picture, where=np.s_[60:180, 60:160], strength=1.0) -> np.ndarray:
    part = picture[where]
    grain = stream(1, "grain").uniform(0.6, 1.4, part.shape[:2])[..., None]
    part *= np.exp(-strength * grain * (0.4, 0.7, 0.25))
    return picture


def scanned(picture) -> np.ndarray:
    return (picture + stream(1, "noise").normal(0, 3, picture.shape)).clip(0, 255).astype(np.uint8)


def mask_of(picture, mpp=0.25) -> np.ndarray:
    height, width = picture.shape[:2]
    raster = Raster(Size(round(width * UM / 0.25), round(height * UM / 0.25)), Size(width, height))
    return tissue_mask(scanned(picture), raster, mpp=mpp).pixels


def agreement(found, truth) -> float:
    return (found & truth).sum() / (found | truth).sum()


TRUTH = np.zeros((240, 320), dtype=bool)
TRUTH[60:180, 60:160] = True


class TestWhatIsFound:
    @pytest.mark.parametrize("strength", [0.2, 0.5, 1.0, 2.5])
    @pytest.mark.parametrize("colour", [(240, 240, 242), (244, 236, 208), (190, 188, 192)])
    def test_pale_and_strong_tissue_is_found_on_white_cream_and_grey_glass(self, strength, colour):
        assert agreement(mask_of(with_tissue(glass(colour), strength=strength)), TRUTH) > 0.9

    def test_an_unknown_mpp_changes_sizes_not_colours(self):
        assert agreement(mask_of(with_tissue(glass()), mpp=None), TRUTH) > 0.9

    @pytest.mark.parametrize("colour", [(240, 240, 242), (255, 255, 255), (244, 236, 208), (180, 180, 182)])
    def test_empty_glass_stays_empty(self, colour):
        assert not mask_of(glass(colour)).any()

    def test_empty_glass_stays_empty_under_uneven_light_with_dust_and_black_borders(self):
        picture = glass() * np.linspace(0.8, 1.0, 320)[None, :, None]
        rng = stream(1, "dust")
        for y, x in zip(rng.integers(10, 220, 40), rng.integers(10, 290, 40), strict=True):
            picture[y : y + 4, x : x + 4] *= 0.5
        picture[:12], picture[:, -30:] = 4, 4
        assert not mask_of(picture).any()

    def test_tissue_is_found_under_uneven_light(self):
        picture = with_tissue(glass(), strength=0.5) * np.linspace(0.8, 1.0, 320)[None, :, None]
        assert agreement(mask_of(picture), TRUTH) > 0.9

    @pytest.mark.parametrize("colour", INKS)
    def test_ink_beside_tissue_is_no_tissue(self, colour):
        picture = with_tissue(glass())
        picture[20:220, 200:250] = INKS[colour]
        assert agreement(mask_of(picture), TRUTH) > 0.9

    @pytest.mark.parametrize("colour", INKS)
    def test_ink_over_tissue_is_excluded(self, colour):
        picture = with_tissue(glass())
        picture[100:140] *= np.array(INKS[colour]) / 240
        found = mask_of(picture)
        assert found[100:140].mean() < 0.02
        assert found[70:85, 70:150].all()

    def test_white_that_was_not_scanned_is_neither_tissue_nor_the_measure_of_glass(self):
        picture = with_tissue(glass((226, 222, 228)))
        picture[:40], picture[:, 200:] = 300, 300  # beyond white, so that noise does not show
        assert agreement(mask_of(picture), TRUTH) > 0.9

    def test_fat_is_tissue_though_most_of_it_is_white(self):
        picture = glass()
        walls = np.zeros((240, 320), dtype=bool)
        walls[60:180:7, 60:160] = walls[60:180, 60:160:7] = True
        picture[walls] *= (0.97, 0.84, 0.96)
        assert agreement(mask_of(picture), TRUTH) > 0.85

    def test_a_vessel_is_filled_and_a_gap_of_a_millimetre_is_not(self):
        picture = with_tissue(glass())
        picture[80:90, 80:90] = 240
        picture[100:180, 85:140] = 240
        found = mask_of(picture)
        assert found[80:90, 80:90].all()
        assert not found[120:170, 100:125].any()

    def test_debris_of_a_tenth_of_a_millimetre_is_dropped(self):
        assert not mask_of(with_tissue(glass(), np.s_[100:108, 100:108])).any()

    def test_a_real_overview_gives_two_sections_with_fat_and_no_dust(self, shared_slides):
        openslide = pytest.importorskip("openslide")
        with openslide.OpenSlide(shared_slides / "camelyon_overview.dcm") as slide:
            picture = np.asarray(slide.read_region((0, 0), 0, slide.dimensions).convert("RGB"))
        size = Size(picture.shape[1], picture.shape[0])
        found = tissue_mask(picture, Raster(size, size), mpp=28.97)
        assert found.pixels[200:450, 110:230].mean() > 0.97
        assert found.pixels[300:400, 280:330].mean() > 0.9  # fat
        assert not found.pixels[640:].any()
        assert not found.pixels[:50].any()
        assert 230 < found.area_mm2(Scale(28.97)) < 310


def test_ink_is_told_by_its_limits():
    density = stream(1, "inks").gamma(1.0, 0.8, (40_000, 3)).astype(np.float32)
    red, green, blue = density.T.astype(np.float64)
    mean, spread = density.mean(axis=1, dtype=np.float64), np.ptp(density, axis=1)
    cold = (red - green > 0.12 + 0.06 * mean) & (red > 0.35)
    expected = {
        "blue": cold & (blue < green),
        "green": cold & (blue >= green),
        "red": ~cold & (green > 1.3) & (blue > 0.68 * green) & (red < 0.3 * green),
        "black": ~cold & (mean > 1.1) & (spread < 0.12 * mean + 0.25 * np.maximum(mean - 1.4, 0)),
    }
    # No density is both red and black: red ink lets red through.
    assert not (expected["red"] & expected["black"]).any()
    for name, found in ink(density.reshape(200, 200, 3)).items():
        assert expected[name].sum() > 20
        assert (found.ravel() != expected[name]).sum() <= 2  # by rounding


class TestShare:
    @settings(max_examples=40, deadline=None)
    @given(
        st.integers(1, 12), st.integers(1, 9), st.integers(0, 10**6), st.integers(-40, 150), st.integers(-40, 150),
        st.integers(1, 120), st.integers(1, 120),
    )  # fmt: skip
    def test_a_share_is_what_counting_level_0_pixels_gives(self, across, down, seed, x, y, width, height):
        pixels = stream(seed, "mask").random((down, across)) < 0.5
        repeat_x, repeat_y = 5, 7
        mask = TissueMask(pixels, Raster(Size(across * repeat_x, down * repeat_y), Size(across, down)))
        full = np.zeros((down * repeat_y + 400, across * repeat_x + 400))
        full[200:-200, 200:-200] = np.kron(pixels, np.ones((repeat_y, repeat_x)))
        part = full[200 + y : 200 + y + height, 200 + x : 200 + x + width]
        expected = part.sum() / (width * height)
        assert mask.share([(x, y, width, height)])[0] == pytest.approx(expected, abs=1e-9)

    def test_no_boxes_have_no_shares(self):
        mask = TissueMask(np.ones((2, 2), dtype=bool), Raster(Size(20, 20), Size(2, 2)))
        assert mask.share(np.empty((0, 4))).shape == (0,)

    def test_a_mask_that_does_not_fit_its_raster_is_refused(self):
        raster = Raster(Size(20, 20), Size(3, 2))
        with pytest.raises(ValueError, match="raster"):
            TissueMask(np.ones((3, 2), dtype=bool), raster)
        with pytest.raises(ValueError, match="raster"):
            tissue_mask(np.ones((3, 2, 3), dtype=np.uint8), raster)

    def test_a_picture_of_one_pixel_is_no_trouble(self):
        pixel = np.asarray(Image.new("RGB", (1, 1), (240, 240, 240)))
        assert not tissue_mask(pixel, Raster(Size(1, 1), Size(1, 1)), mpp=0.5).pixels.any()
