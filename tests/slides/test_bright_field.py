"""What cannot be haematoxylin and eosin is told by its colour; what can be is let through."""

from itertools import pairwise

import numpy as np
import pytest
from PIL import Image
from skimage import data

from sentinode.phantom.cohort import CohortPlan, draw_patch
from sentinode.seeds import stream
from sentinode.slides.appearance import appearance, n_structure
from sentinode.slides.bright_field import FINDINGS, RULES, SMALLEST_PX, bright_field_findings

HAEMATOXYLIN, EOSIN, DAB = ([0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78])


@pytest.fixture(scope="module")
def tissue() -> np.ndarray:
    plan = CohortPlan(patients=5, patches=4, seed=3)
    return np.stack([draw_patch(plan, who, i).pixels for who in range(5) for i in range(4)])


def stained(*dyes, n=10, seed=1) -> np.ndarray:
    """Blobs of dyes in places of their own: (n, 96, 96, 3)."""
    rng = stream(seed, "dyes")
    amounts = rng.gamma(1.0, 0.6, (n, 12, 12, len(dyes))).repeat(8, axis=1).repeat(8, axis=2)
    return (243 * np.exp(-amounts @ np.array(dyes))).round().astype(np.uint8)


def tiles_of(picture, side=96) -> np.ndarray:
    picture = picture if picture.ndim == 3 else picture[..., None].repeat(3, axis=2)
    rows, columns = (length // side for length in picture.shape[:2])
    whole = picture[: rows * side, : columns * side].reshape(rows, side, columns, side, 3)
    return whole.swapaxes(1, 2).reshape(-1, side, side, 3)


def test_tissue_is_let_through(tissue):
    assert (bright_field_findings(tissue) == "").all()
    assert (bright_field_findings(stained(HAEMATOXYLIN, EOSIN)) == "").all()


def test_inverted_tissue_is_told(tissue):
    assert np.isin(bright_field_findings(255 - tissue), ["green", "grey", "dark", "noise"]).all()


def test_real_patches_are_let_through_but_for_glass_borders_and_pigment(pcam_root):
    files = sorted((pcam_root / "train").glob("*.tif"))[::5]
    found = bright_field_findings(np.stack([np.asarray(Image.open(file).convert("RGB")) for file in files]))
    assert np.isin(found, ["", "blank"]).mean() > 0.99
    assert (found == "").mean() > 0.98


@pytest.mark.parametrize(
    ("made", "finding"),
    [
        (lambda _: np.full((1, 96, 96, 3), 241), "blank"),
        (lambda _: np.full((1, 96, 96, 3), (120, 40, 160)), "blank"),
        (lambda _: stream(1, "noise").integers(0, 256, (5, 96, 96, 3)), "noise"),
        (lambda tissue: (255 - tissue) // 9, "dark"),
        (lambda tissue: tissue.mean(axis=3, keepdims=True).repeat(3, axis=3), "grey"),
        (lambda _: stained(DAB, [0.4, 0.6, 0.75]), "brown"),
        (lambda _: stained([0.7, 0.2, 0.6], [0.8, 0.3, 0.5]), "green"),
        (lambda _: stained([0.9, 0.5, 0.1], [0.8, 0.55, 0.1]), "blue"),
        (lambda _: stained([0.68, 0.70, 0.32]), "no eosin"),
    ],
)
def test_each_finding_is_made(tissue, made, finding):
    assert set(bright_field_findings(np.asarray(made(tissue), np.uint8)).tolist()) == {finding}
    assert finding in FINDINGS


def test_a_real_immunostain_and_a_cat_are_told():
    """The colon in DAB and haematoxylin, and the cat, that scikit-image carries."""
    assert np.isin(bright_field_findings(tiles_of(data.immunohistochemistry())), ["brown", "blue", "grey"]).all()
    assert (bright_field_findings(tiles_of(data.chelsea())) == "brown").all()


def test_a_rule_that_does_not_hold_says_nothing(tissue):
    odd = np.concatenate([tissue[:2] * 0 + 200, 255 - tissue[:2]])
    for rules in (RULES, ("blank",), ("stain",), ()):
        found = bright_field_findings(odd, rules)
        assert (found[:2] == "blank").all() == ("blank" in rules)
        assert (found[2:] == "green").all() == ("stain" in rules)


def test_small_tiles_and_none_say_nothing_and_other_shapes_are_refused():
    assert bright_field_findings(np.full((3, SMALLEST_PX - 1, 40, 3), 200, np.uint8)).tolist() == [""] * 3
    assert bright_field_findings(np.empty((0, 96, 96, 3), np.uint8)).shape == (0,)
    for look in (bright_field_findings, appearance):
        with pytest.raises(ValueError, match="they must be"):
            look(np.zeros((96, 96, 3), np.uint8))


def in_blocks(plane, side):
    height, width = (length // side * side for length in plane.shape)
    return plane[:height, :width].reshape(height // side, side, width // side, side).mean(axis=(1, 3))


def defined(tile):
    # The numbers of `appearance` of one tile, as its docstring says them.
    red, green, blue = np.moveaxis(-np.log(np.maximum(tile.astype(np.float64), 1) / 255), 2, 0)
    density, pink = (red + green + blue) / 3, green - (red + blue) / 2
    octaves = [max(0, in_blocks(density, s).var() - in_blocks(density, 2 * s).var()) for s in (1, 2, 4, 8, 16)]
    blocks = in_blocks(density, 4)
    palest = np.sort(blocks, axis=None)[blocks.size // 20]
    skewness = [((p - p.mean()) ** 3).mean() / (p.std() + 1e-3) ** 3 for p in (density, blocks)]
    half = in_blocks(density, 2).repeat(2, axis=0).repeat(2, axis=1)
    fine = density[: half.shape[0], : half.shape[1]] - half
    peakedness = np.log((fine**4).mean() + 1e-9) - 2 * np.log((fine**2).mean() + 1e-5)
    numbers = [*np.log(np.array(octaves) + 1e-5), np.log(density.mean() + 0.05), np.log(palest + 0.05)]
    numbers += [*skewness, peakedness]
    for difference in (red - blue, pink):
        coarse = in_blocks(difference, 4)
        covariance = ((coarse - coarse.mean()) * (blocks - blocks.mean())).mean()
        finest = max(0, difference.var() - in_blocks(difference, 2).var())
        numbers += [coarse.mean(), np.log(coarse.std() + 0.01), np.log(finest + 1e-5)]
        numbers += [covariance / (coarse.std() * blocks.std() + 1e-4)]
    return numbers


class TestAppearance:
    def test_each_tile_stands_for_itself_and_a_flat_one_is_finite(self, tissue):
        tiles = np.concatenate([tissue, np.full((2, 96, 96, 3), 255, np.uint8)])
        looks = appearance(tiles)
        assert looks.shape == (22, n_structure(96) + 8)
        assert np.isfinite(looks).all()
        assert np.allclose(looks[7], appearance(tiles[7:8])[0], atol=1e-5)
        assert appearance(tiles[:0]).shape == (0, 18)

    def test_octaves_are_the_variances_of_block_means(self, tissue):
        density = -np.log(np.maximum(tissue[0], 1) / 255).mean(axis=2)
        means = [density.reshape(96 // s, s, 96 // s, s).mean(axis=(1, 3)).var() for s in (1, 2, 4, 8, 16, 32)]
        expected = [np.log(fine - coarse + 1e-5) for fine, coarse in pairwise(means)]
        assert appearance(tissue[:1])[0, :5] == pytest.approx(expected, abs=2e-3)

    @pytest.mark.parametrize("cut", [(96, 96), (75, 82)])
    def test_every_number_is_what_its_definition_gives_in_double_precision(self, tissue, cut):
        tiles = np.ascontiguousarray(tissue[:, : cut[0], : cut[1]])
        for tile, found in zip(tiles, appearance(tiles), strict=True):
            assert found == pytest.approx(defined(tile), abs=3e-3)

    def test_structure_does_not_see_what_stains_do_together_and_colour_does(self, tissue):
        swapped = appearance(tissue[..., [2, 1, 0]]) - appearance(tissue)
        n = n_structure(96)
        assert np.abs(swapped[:, :n]).max() < 1e-3
        assert np.abs(swapped[:, n:]).max() > 0.1
