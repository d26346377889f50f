"""What every export promises: whole files, level-0 coordinates, the same file for the same predictions."""

import gzip
import hashlib
import json
import uuid
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import shapely

from sentinode.errors import ExportError, PlanError
from sentinode.export.formats import EXPORTS, export_writer
from sentinode.geometry import Size
from sentinode.inference.predictions import TilePredictions


@pytest.fixture(scope="module")
def predictions():
    """Three tiles in a row, the last of which was not recognised."""
    return TilePredictions(
        boxes=np.array([[0, 0, 395, 395], [395, 0, 395, 395], [790, 0, 396, 395]]),
        proba=np.array([[0.2, 0.8], [0.4, 0.6], [np.nan, np.nan]], np.float32),
        classes=("normal", "tumour"),
        tile_px=96,
        mpp=1.0,
        slide_id="a slide",
        slide_size=Size(1186, 395),
        slide_mpp=0.243,
        fingerprint="f",
        model="m",
        tissue=np.ones(3, np.float32),
        flag=np.array(["", "", "blur"]),
    )


@pytest.fixture(params=EXPORTS)
def form(request):
    """Each registered format in turn."""
    return request.param


def test_the_same_predictions_are_the_same_file(form, predictions, tmp_path):
    digests = set()
    for name in ("one", "two"):
        path = tmp_path / name / f"slide{EXPORTS[form][1]}"
        export_writer(form)(predictions, path)
        digests.add(hashlib.sha256(path.read_bytes()).hexdigest())
        assert list(path.parent.iterdir()) == [path]
    assert len(digests) == 1


def test_where_nothing_can_be_written_the_file_is_named(form, predictions, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ExportError, match="file"):
        export_writer(form)(predictions, tmp_path / "file" / "slide.out")


def test_a_slide_without_a_recognised_tile_is_written_too(form, predictions, tmp_path):
    none = TilePredictions(**{**vars(predictions), "flag": np.array(["pen"] * 3)})
    path = tmp_path / f"slide{EXPORTS[form][1]}"
    export_writer(form)(none, path)
    if form == "csv":
        assert list(pd.read_csv(path).columns) == ["minx", "miny", "width", "height", "prob_normal", "prob_tumour"]
        assert len(pd.read_csv(path)) == 0
    else:
        assert _features(path) == []


def test_an_unknown_format_is_named():
    with pytest.raises(PlanError, match=r"no export 'xls'; known are: csv"):
        export_writer("xls")


def test_the_csv_has_the_header_of_the_field(predictions, tmp_path):
    export_writer("csv")(predictions, tmp_path / "slide.csv")
    assert (tmp_path / "slide.csv").read_text().splitlines() == [
        "minx,miny,width,height,prob_normal,prob_tumour",
        "0,0,395,395,0.200000,0.800000",
        "395,0,395,395,0.400000,0.600000",
    ]


def test_tiles_are_what_qupath_reads(predictions, tmp_path):
    export_writer("geojson-tiles")(predictions, tmp_path / "slide.geojson.gz")
    first, second = _features(tmp_path / "slide.geojson.gz")
    assert first["geometry"]["coordinates"] == [[[0, 0], [395, 0], [395, 395], [0, 395], [0, 0]]]
    assert first["properties"]["objectType"] == "tile"
    assert first["properties"]["measurements"] == {"prob_normal": 0.2, "prob_tumour": 0.8}
    assert first["properties"]["classification"]["name"] == "tumour"
    assert first["id"] != second["id"]


def test_a_tile_keeps_its_id_and_names_may_hold_anything(predictions, tmp_path):
    odd = replace(predictions, classes=("no", 'a "tumour" of the \u00e4rmel'), slide_id='5" slide')
    export_writer("geojson-tiles")(odd, tmp_path / "slide.geojson")
    first = _features(tmp_path / "slide.geojson")[0]
    assert first["properties"]["measurements"] == {"prob_no": 0.2, f"prob_{odd.classes[1]}": 0.8}
    named = json.dumps([odd.slide_id, odd.model, "tile", first["geometry"]], sort_keys=True)
    assert first["id"] == str(uuid.uuid5(uuid.UUID("7f4c7e0c-9f0b-5d7a-9a52-2b6e0c1f5f11"), named))


def test_qupath_counts_from_the_scanned_part(predictions, tmp_path):
    """Of a MIRAX slide QuPath shows what was scanned, from its corner."""
    bounded = replace(predictions, boxes=predictions.boxes + np.array([5000, 700, 0, 0]), facts={"bounds": [5000, 700]})
    export_writer("geojson-tiles")(bounded, tmp_path / "t.geojson")
    assert _features(tmp_path / "t.geojson")[0]["geometry"]["coordinates"][0][0] == [0, 0]
    export_writer("geojson-regions")(bounded, tmp_path / "r.geojson")
    assert shapely.geometry.shape(_features(tmp_path / "r.geojson")[0]["geometry"]).bounds == (0, 0, 790, 395)
    export_writer("csv")(bounded, tmp_path / "t.csv")
    assert pd.read_csv(tmp_path / "t.csv")["minx"].tolist() == [5000, 5395]


def test_regions_are_merged_and_measured(predictions, tmp_path):
    export_writer("geojson-regions")(predictions, tmp_path / "slide.geojson")
    (region,) = _features(tmp_path / "slide.geojson")
    outline = shapely.geometry.shape(region["geometry"])
    assert outline.equals(shapely.box(0, 0, 790, 395))
    assert region["properties"]["measurements"]["area mm2"] == pytest.approx(790 * 395 * 0.243**2 / 1e6, abs=1e-6)
    assert region["properties"]["objectType"] == "annotation"


def _features(path):
    content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    collection = json.loads(content)
    assert collection["type"] == "FeatureCollection"
    return collection["features"]
