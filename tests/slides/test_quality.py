"""Quality: clean tiles stay clean, spoilt ones are caught, and a spoilt slide is refused with numbers."""

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from sentinode.phantom.cohort import CohortPlan, draw_patch
from sentinode.slides import quality
from sentinode.slides.quality import LIMITS, quality_findings, tile_quality, usable
from sentinode.slides.tissue import ink, optical_density


@pytest.fixture(scope="module")
def clean() -> np.ndarray:
    plan = CohortPlan(patients=4, patches=6, seed=3)
    return np.stack([draw_patch(plan, who, i).pixels for who in range(4) for i in range(6)])


@pytest.fixture(scope="module")
def real(pcam_root) -> np.ndarray:
    files = sorted((pcam_root / "train").glob("*.tif"))[::40]
    return np.stack([np.asarray(Image.open(file).convert("RGB")) for file in files])


def blurred(tiles, sigma) -> np.ndarray:
    return ndimage.gaussian_filter(tiles, (0, sigma, sigma, 0))


def flagged(tiles, name, mpp=1.0) -> float:
    return float(np.mean([name in flags for flags in tile_quality(tiles, mpp).flags]))


def with_tissue(tiles) -> np.ndarray:
    return tiles[tile_quality(tiles, 1.0).empty < 0.5]


def halved(image) -> np.ndarray:
    height, width = image.shape[:2]
    image = np.pad(image, ((0, height % 2), (0, width % 2), *[(0, 0)] * (image.ndim - 2)), mode="edge")
    return (image[::2, ::2] + image[1::2, ::2] + image[::2, 1::2] + image[1::2, 1::2]) / 4


def averaged(tile, mpp) -> tuple[np.ndarray, float]:
    factor = max(1, min(int(quality.FINEST_MPP / mpp + 0.49), *tile.shape[:2]))
    height, width = (side // factor for side in tile.shape[:2])
    blocks = tile[: height * factor, : width * factor].reshape(height, factor, width, factor, 3)
    return blocks.mean(axis=(1, 3), dtype=np.float32).round().astype(np.uint8), mpp * factor


def measured_one_by_one(tile, mpp) -> tuple[float, ...]:
    """The oracle: one tile, every step with scipy, nothing left out; in the order of `TileQuality`."""
    tile, um = averaged(tile, mpp)
    density = optical_density(tile, quality.GLASS).clip(0)
    halves, mean = halved(density), density.mean(axis=2)
    half = halves.mean(axis=2)

    def smoothed(image, sigma):
        return ndimage.gaussian_filter(image, max(0.01, sigma**2 / 4 - 1 / 16) ** 0.5)

    inks = ink(np.stack([smoothed(halves[..., k], quality.INK_UM / um) for k in range(3)], axis=2))
    brightest = tile.max(axis=2)
    brightest = np.pad(brightest, [(0, side % 2) for side in brightest.shape], mode="edge")
    brightest = ndimage.maximum_filter(brightest, 2, origin=-1)[::2, ::2]
    black = (brightest < 25) & (ndimage.maximum_filter(brightest, 3) < 40)
    pen = np.logical_or.reduce(list(inks.values())) & ~black
    fold = (smoothed(half, quality.FOLD_UM / um) > quality.FOLD) & ~pen & ~black
    empty = smoothed(half, 2.0) <= 0.08
    tissue = ~empty & ~pen & ~black
    shares = [part.mean() for part in (pen, fold, black, empty)]
    if not tissue.any():
        return (0.0, *shares, np.nan)
    around = np.repeat(np.repeat(smoothed(half, 4.0), 2, axis=0), 2, axis=1)[: mean.shape[0], : mean.shape[1]]
    details = [halved((mean - near) ** 2) for near in (ndimage.gaussian_filter(mean, 1.0), around)]
    sharpness = details[0][tissue].sum() / max(details[1][tissue].sum(), 1e-9)
    fine, coarse = (smoothed(detail, quality.WINDOW_PX) for detail in details)
    judged = tissue & (coarse > quality.CONTRAST)
    return ((judged & (fine < quality.SHARP * coarse)).sum() / tissue.sum(), *shares, sharpness)


def blurred_by_all_pixels(tile, mpp) -> float:
    """Blur as it is defined: smoothed on the pixels themselves, not on pixels of twice the side."""
    tile, _ = averaged(tile, mpp)
    mean = optical_density(tile, quality.GLASS).clip(0).mean(axis=2)
    tissue = ndimage.gaussian_filter(mean, 2.0) > 0.08
    details = [(mean - ndimage.gaussian_filter(mean, sigma)) ** 2 for sigma in (1.0, 4.0)]
    fine, coarse = (ndimage.gaussian_filter(detail, quality.WINDOW_PX) for detail in details)
    return (tissue & (coarse > quality.CONTRAST) & (fine < quality.SHARP * coarse)).sum() / max(tissue.sum(), 1)


class TestTiles:
    def test_at_40x_softness_of_the_optics_is_no_blur(self, clean):
        """Sharp at 1 um a pixel, drawn four times as large, and softened as a 40x objective with its camera does."""
        fine = ndimage.zoom(clean[:6].astype(np.float32), (1, 4, 4, 1), order=3)
        soft, out_of_focus = (
            ndimage.gaussian_filter(fine, (0, um / 0.25, um / 0.25, 0)).clip(0, 255).round().astype(np.uint8)
            for um in (0.4, 3.0)
        )
        assert (tile_quality(soft, 0.25).blur < 0.5).mean() > 0.8
        assert (tile_quality(out_of_focus, 0.25).blur >= 0.5).mean() > 0.8

    @pytest.mark.parametrize("mpp", [0.2, 0.5, 1.0, 2.2])
    def test_all_at_once_is_what_one_by_one_gives(self, clean, mpp):
        marked = clean[:8].copy()
        for tile, colour in zip(marked, [(35, 65, 170), (40, 130, 80), (210, 40, 50), (20, 20, 22)] * 2, strict=True):
            tile[:, 30:62] = (tile[:, 30:62] * (np.array(colour) / 243)).astype(np.uint8)
        dark = (clean[:4].astype(np.float32) ** 3 / 243**2).astype(np.uint8)
        framed = clean[4:8].copy()
        framed[:, :28] = 3
        blank = np.full((2, *clean.shape[1:]), 240, np.uint8)
        tiles = np.concatenate([clean, blurred(clean, max(2, 1.6 / mpp)), marked, dark, framed, blank])
        found = tile_quality(tiles, mpp)
        expected = np.array([measured_one_by_one(tile, mpp) for tile in tiles])
        for name, column in zip(("blur", "pen", "fold", "black", "empty", "sharpness"), expected.T, strict=True):
            # One pixel of a tile may fall on the other side of a limit by rounding.
            np.testing.assert_allclose(getattr(found, name), column, atol=2 / 30**2, rtol=1e-4)
        assert found.pen.max() > 0.1
        assert found.black.max() > 0.1
        assert found.fold.max() > 0.05
        assert found.blur.max() > 0.3

    @pytest.mark.parametrize("sigma", [0, 1, 2, 3])
    def test_what_is_smoothed_on_halves_is_as_blurred_as_on_all_pixels(self, real, sigma):
        tiles = blurred(with_tissue(real), sigma)
        exact = np.array([blurred_by_all_pixels(tile, 1.0) for tile in tiles])
        found = tile_quality(tiles, 1.0).blur
        assert np.mean((found >= 0.5) == (exact >= 0.5)) > 0.97
        assert np.median(np.abs(found - exact)) < 0.02

    def test_real_patches_are_hardly_ever_flagged(self, real):
        flags = tile_quality(with_tissue(real), 1.0).flags
        assert np.mean([bool(of_tile) for of_tile in flags]) < 0.03

    @pytest.mark.parametrize("sigma", [2, 3, 5])
    def test_real_patches_that_were_blurred_are_caught(self, real, sigma):
        assert flagged(blurred(with_tissue(real), sigma), "blur") > 0.85

    def test_drawn_patches_are_clean_and_blurred_ones_are_caught(self, clean):
        tiles = with_tissue(clean)
        assert flagged(tiles, "blur") < 0.05
        assert flagged(blurred(tiles, 3), "blur") > 0.85

    @pytest.mark.parametrize("ink", [(35, 65, 170), (40, 130, 80), (210, 40, 50), (20, 20, 22)])
    def test_ink_over_a_third_is_pen_or_black(self, clean, ink):
        marked = clean.copy()
        marked[:, :, 30:62] = (marked[:, :, 30:62] * (np.array(ink) / 243)).astype(np.uint8)
        quality = tile_quality(marked, 1.0)
        covered = quality.pen + quality.black
        assert flagged(clean, "pen") == 0
        assert (covered >= 0.1).mean() > 0.9
        assert 0.2 < np.median(covered) < 0.42

    def test_three_layers_of_tissue_are_a_fold(self, clean):
        dense = clean[clean.mean(axis=(1, 2, 3)) < 190]
        folded = dense.copy()
        folded[:, :, 30:70] = (243 * (folded[:, :, 30:70] / 243) ** 5).astype(np.uint8)
        assert flagged(dense, "fold") == 0
        assert flagged(folded, "fold") > 0.8

    def test_black_and_glass_are_told_apart_from_tissue(self):
        tiles = np.stack([np.full((96, 96, 3), shade, dtype=np.uint8) for shade in (0, 240)])
        quality = tile_quality(tiles, 0.5)
        assert quality.flags == (frozenset({"black"}), frozenset({"empty"}))
        assert quality.blur.tolist() == [0, 0]

    def test_a_batch_does_not_matter_and_may_be_empty(self, clean):
        whole = tile_quality(clean[:4], 1.0)
        assert tile_quality(clean[2:3], 1.0).blur[0] == whole.blur[2]
        assert len(tile_quality(clean[:0], 1.0)) == 0
        assert tile_quality(clean[:0], 1.0).flags == ()

    def test_the_reason_of_a_tile_is_its_first_flag(self, clean):
        inked = clean.copy()
        inked[:, :, 30:62] = (35, 65, 170)
        quality = tile_quality(blurred(inked, 4), 1.0)
        assert max(len(flags) for flags in quality.flags) > 1
        firsts = [next((name for name in LIMITS if name in flags), "") for flags in quality.flags]
        assert quality.reason.tolist() == firsts

    def test_all_measures_but_sharpness_are_shares(self, clean):
        quality = tile_quality(clean, 0.25)
        for name in ("blur", "pen", "fold", "black", "empty"):
            assert getattr(quality, name).min() >= 0
            assert getattr(quality, name).max() <= 1

    def test_other_shapes_are_refused(self):
        with pytest.raises(ValueError, match="n, h, w, 3"):
            tile_quality(np.zeros((96, 96, 3), dtype=np.uint8), 1.0)


class TestVerdict:
    def test_a_tile_counts_once_and_reasons_add_up(self):
        findings = quality_findings([frozenset(), frozenset({"pen", "blur"}), frozenset({"blur"}), frozenset()])
        assert findings.reasons == {"pen": 1, "blur": 1}
        assert findings.share_excluded == 0.5
        assert findings.share("blur") == 0.25

    def test_a_slide_that_is_mostly_blurred_is_refused_with_numbers(self):
        verdict, reason = usable(quality_findings([frozenset({"blur"})] * 60 + [frozenset()] * 40))
        assert not verdict
        assert "60 of 100 tissue tiles (60 %)" in reason
        assert "blur 60 %" in reason

    def test_a_slide_with_some_ink_is_used(self):
        verdict, reason = usable(quality_findings([frozenset({"pen"})] + [frozenset()] * 9))
        assert verdict
        assert reason == "1 of 10 tissue tiles (10 %) excluded: pen 10 %"

    def test_a_clean_slide_is_used_and_one_without_tissue_is_not(self):
        assert usable(quality_findings([frozenset()] * 3)) == (True, "all 3 tissue tiles can be used")
        assert usable(quality_findings([]))[0] is False
