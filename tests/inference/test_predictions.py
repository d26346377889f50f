"""The table of tile predictions on disk."""

import numpy as np
import pandas as pd
import pytest

from sentinode.errors import ManifestError
from sentinode.geometry import Size
from sentinode.inference.predictions import TilePredictions, read_predictions, write_predictions


@pytest.fixture
def predictions():
    n = 7
    proba = np.linspace(0, 1, n, dtype=np.float32)
    proba[3] = np.nan
    return TilePredictions(
        boxes=np.stack([np.arange(n) * 395, np.zeros(n), np.full(n, 395), np.full(n, 396)], axis=1).astype(np.int64),
        proba=np.stack([1 - proba, proba], axis=1),
        classes=("normal", "tumour"),
        tile_px=96,
        mpp=1.0,
        slide_id="case 7",
        slide_size=Size(3000, 400),
        slide_mpp=0.243,
        fingerprint="f" * 64,
        model="m" * 64,
        tissue=np.ones(n, dtype=np.float32),
        flag=np.where(np.arange(n) == 3, "blur", ""),
        facts={"mpp_source": "file"},
    )


def test_what_is_read_back_is_what_was_written(predictions, tmp_path):
    write_predictions(predictions, tmp_path / "tiles.parquet")
    again = read_predictions(tmp_path / "tiles.parquet")
    for name in ("boxes", "proba", "tissue", "flag"):
        assert np.array_equal(getattr(again, name), getattr(predictions, name), equal_nan=name == "proba"), name
        assert getattr(again, name).dtype.kind == getattr(predictions, name).dtype.kind
    for name in ("classes", "tile_px", "mpp", "slide_id", "slide_size", "slide_mpp", "fingerprint", "model", "facts"):
        assert getattr(again, name) == getattr(predictions, name), name
    assert again.recognised.sum() == 6


def test_other_tables_are_refused(tmp_path):
    pd.DataFrame({"x": [1]}).to_parquet(tmp_path / "other.parquet")
    with pytest.raises(ManifestError, match="is no table of tile predictions"):
        read_predictions(tmp_path / "other.parquet")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(ManifestError, match=r"broken\.parquet: cannot be read"):
        read_predictions(tmp_path / "broken.parquet")
