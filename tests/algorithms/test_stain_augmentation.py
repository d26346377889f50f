"""Another laboratory's stain: the same tissue, other colours, the same draws from the same seed."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the extra 'train' is not installed", exc_type=ImportError)

from sentinode.algorithms.stain_augmentation import perturb_stain  # noqa: E402


@pytest.fixture
def tissue():
    """Six images: purple discs on pink, a little noise."""
    rng = np.random.default_rng(3)
    rows, columns = np.mgrid[:48, :48]
    disc = np.hypot(rows - 20, columns - 28) < 11
    pixels = np.where(disc[..., None], (100, 60, 140), (225, 170, 205)) + rng.normal(0, 4, (6, 48, 48, 3))
    return torch.from_numpy(pixels.clip(0, 255).astype(np.uint8)).permute(0, 3, 1, 2)


def test_no_strength_changes_nothing_but_the_last_bit(tissue):
    found = perturb_stain(tissue, np.random.default_rng(1), strength=0.0)
    assert (found.int() - tissue.int()).abs().max() <= 1


def test_every_image_gets_a_laboratory_of_its_own_and_the_seed_decides_which(tissue):
    found = perturb_stain(tissue, np.random.default_rng(1))
    assert torch.equal(found, perturb_stain(tissue, np.random.default_rng(1)))
    means = found.float().mean((2, 3)).numpy()
    assert len(np.unique(means.round(1), axis=0)) == len(tissue)
    assert np.ptp(means, axis=0).min() > 5  # grey levels between laboratories
    assert not torch.equal(found, perturb_stain(tissue, np.random.default_rng(2)))


def test_tissue_stays_where_it_is_nuclei_dark_and_stroma_light(tissue):
    inside = torch.from_numpy(np.hypot(*(np.mgrid[:48, :48] - np.array([20, 28])[:, None, None])) < 9)
    outside = torch.from_numpy(np.hypot(*(np.mgrid[:48, :48] - np.array([20, 28])[:, None, None])) > 13)
    for seed in range(20):
        grey = perturb_stain(tissue, np.random.default_rng(seed)).float().mean(1)
        assert (grey[:, inside].mean(1) < grey[:, outside].mean(1)).all()
