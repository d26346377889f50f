"""What more than one test needs: the real patches where they lie, and small cohorts drawn from a seed."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from sentinode.data.manifest import Manifest, Provenance
from sentinode.seeds import stream

_SHARED = Path(__file__).resolve().parents[1].parent / "shared" / "data"
_PCAM = _SHARED / "pcam"


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test reads or writes what was measured on the machine of whoever runs them, or their salt."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SENTINODE_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("SENTINODE_CONFIG", str(tmp_path_factory.mktemp("config")))
        patch.delenv("SENTINODE_SALT", raising=False)
        yield


@pytest.fixture(scope="session")
def pcam_root() -> Path:
    """The 2,572 real patches, in the layout ``kaggle-pcam``."""
    if not (_PCAM / "train_labels.csv").exists():
        pytest.skip("the real patches are not here: ../shared/data/pcam, beside the repository")
    return _PCAM


@pytest.fixture(scope="session")
def shared_slides() -> Path:
    """Real slides of three formats, and malformed ones."""
    if not (_SHARED / "slides").exists():
        pytest.skip("the real slides are not here: ../shared/data/slides, beside the repository")
    return _SHARED / "slides"


@pytest.fixture(scope="session")
def shared_annotations() -> Path:
    """Annotations as ImageScope and QuPath wrote them."""
    if not (_SHARED / "annotations").exists():
        pytest.skip("the real annotations are not here: ../shared/data/annotations, beside the repository")
    return _SHARED / "annotations"


@pytest.fixture(scope="session")
def draw_cohort(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Manifest]:
    """A function that draws a cohort of PNG patches, in a folder of its own, and returns its manifest."""

    def draw(n_patients: int = 6, n_patches: int = 8, size: int = 24, seed: int = 1) -> Manifest:
        root = tmp_path_factory.mktemp("cohort")
        rows = []
        for patient in range(n_patients):
            for patch in range(n_patches):
                label = ("normal", "tumour")[patch % 2]
                name = f"p{patient}-{patch}.png"
                Image.fromarray(_patch(label, size, stream(seed, "cohort", patient, patch))).save(root / name)
                rows.append((f"p{patient}-{patch}", f"p{patient}", f"p{patient}", label, name))
        frame = pd.DataFrame(rows, columns=["image_id", "patient_id", "slide_id", "label", "path"])
        return Manifest(frame, ("normal", "tumour"), Provenance("drawn for a test", synthetic=True), root)

    return draw


@pytest.fixture
def small_manifest(draw_cohort: Callable[..., Manifest]) -> Manifest:
    """Six patients with eight patches of 24 x 24 px each, half of them tumour."""
    return draw_cohort()


def _patch(label: str, size: int, rng: np.random.Generator) -> np.ndarray:
    """Pink noise; a tumour has a dark square of a third of the side somewhere in it."""
    pixels = rng.normal((225, 170, 205), 12, size=(size, size, 3))
    if label == "tumour":
        side = size // 3
        x, y = rng.integers(0, size - side, size=2)
        pixels[y : y + side, x : x + side] -= 70
    return pixels.clip(0, 255).astype(np.uint8)
