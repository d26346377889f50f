"""Which colours a slide is stained with, measured on sections whose stain is known."""

import numpy as np
import pytest

from sentinode.errors import SlideError
from sentinode.slides.stain_vectors import stain_vectors

HAEMATOXYLIN, EOSIN = np.array([0.650, 0.704, 0.286]), np.array([0.072, 0.990, 0.105])


def _section(seed, vectors, n=20_000):
    """Pixels of cells (mostly haematoxylin), stroma (eosin), and glass."""
    rng = np.random.default_rng(seed)
    cell = rng.random(n) < 0.4
    amounts = np.where(cell[:, None], [1.1, 0.05], [0.04, 0.8]) * rng.uniform(0.5, 1.3, (n, 2))
    amounts[: n // 5] = 0
    noise = rng.normal(0, 1.5, (n, 3))
    return np.clip(255 * np.exp(-amounts @ np.asarray(vectors)) + noise, 0, 255).round().astype(np.uint8)


def _degrees(found, true):
    return float(np.degrees(np.arccos(np.clip(found @ true / np.linalg.norm(true), -1, 1))))


@pytest.mark.parametrize("seed", range(3))
def test_the_two_stains_are_found_in_their_order(seed):
    found = stain_vectors(_section(seed, [HAEMATOXYLIN, EOSIN]).reshape(100, 200, 3))
    assert np.allclose(np.linalg.norm(found, axis=1), 1)
    assert _degrees(found[0], HAEMATOXYLIN) < 6
    assert _degrees(found[1], EOSIN) < 6


def test_another_scanner_gives_other_vectors():
    bluer = np.array([0.45, 0.68, 0.58])
    first = stain_vectors(_section(1, [HAEMATOXYLIN, EOSIN]))
    second = stain_vectors(_section(1, [bluer, EOSIN]))
    assert _degrees(second[0], bluer) < 6
    assert _degrees(first[0], second[0]) > 12


def test_order_does_not_matter_and_glass_does_not_count():
    pixels = _section(2, [HAEMATOXYLIN, EOSIN])
    glass = np.full((5000, 3), 245, np.uint8)
    there = stain_vectors(pixels)
    assert np.allclose(there, stain_vectors(np.concatenate([glass, pixels[::-1]])))


def test_glass_alone_is_refused():
    with pytest.raises(SlideError, match="only 0 pixels are stained, of 400: too few"):
        stain_vectors(np.full((20, 20, 3), 240, np.uint8))
