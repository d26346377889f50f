"""The founding experiment's own resolution: drawn, tiled, trained and recognised at 0.25 um a pixel."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from sentinode.data.manifest import read_manifest
from sentinode.data.overlaps import find_overlaps
from sentinode.data.patches import cache_patches
from sentinode.workflows.phantom_slides import SlidePreset

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "forty_x.py"
NODES = SlidePreset(0.25, (420.0, 460.0), 1.3, (1,), ((((170.0, 200.0), 1),),))


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """Four patients, each with a node of less than half a millimetre; two have a lesion, one of these is unseen."""
    spec = importlib.util.spec_from_file_location("forty_x", BENCHMARK)
    benchmark = importlib.util.module_from_spec(spec)
    sys.modules["forty_x"] = benchmark  # its dataclasses look for their module
    spec.loader.exec_module(benchmark)
    wish = benchmark.FortyX(
        patients=4, sites=1, nodes=NODES, algorithm="kernel-svm", settings={}, test=0.5, stop=0.0, seed=2
    )
    folder = tmp_path_factory.mktemp("forty")
    return folder, benchmark.run(folder, wish)


def test_a_model_at_40x_finds_a_lesion_of_a_patient_whom_it_has_not_seen(found):
    folder, run = found
    assert (run.model.facts.tile.mpp, run.model.facts.tile.width) == (0.25, 128)
    normal, tumour = sorted(run.slides, key=lambda slide: slide["label"])
    assert (normal["label"], tumour["label"]) == ("normal", "tumour")
    assert normal["result"]["score"] < 0.5 < tumour["result"]["score"]
    assert tumour["auc"] > 0.9
    (lesion,) = pd.read_csv(folder / "cohort" / "lesions.csv").query(f"slide_id == '{tumour['slide_id']}'").itertuples()
    tiles = pd.read_parquet(folder / "answers" / tumour["slide_id"] / "tiles.parquet")
    best = tiles.loc[tiles["proba_tumour"].idxmax()]
    away = np.hypot(best["x"] + 64 - lesion.x, best["y"] + 64 - lesion.y) * 0.25
    assert away < lesion.major_axis_um / 2


def test_drawn_texture_at_40x_joins_no_patients(found, tmp_path):
    folder, _ = found
    table = read_manifest(folder / "tiles.csv")
    pairs = find_overlaps(cache_patches(table, tmp_path)).frame
    assert (table.groups[pairs["first"]] == table.groups[pairs["second"]]).all()
