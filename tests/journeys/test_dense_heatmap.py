"""`predict --heatmap dense`: a finer map, and everything else as it is without."""

import json

import numpy as np
import pandas as pd
import pytest
import shapely
import tifffile
from PIL import Image
from typer.testing import CliRunner

from sentinode.cli import app
from sentinode.errors import ModelError
from sentinode.inference import dense
from sentinode.inference.predictions import read_predictions
from sentinode.models.bundle import read_bundle
from sentinode.seeds import stream
from sentinode.slides.annotation_files import write_asap
from sentinode.slides.annotations import Annotations, Region
from sentinode.workflows.predicting import PredictionWish, TilesDone, predict_slides
from sentinode.workflows.tiling import TilesWish, make_tiles
from sentinode.workflows.training import TrainingWish, train_model

pytest.importorskip("torch", exc_type=ImportError)

WIDTH, HEIGHT, MPP = 1603, 1201, 2.0
TILE, TILE_MPP, STRIDE = 24, 4.0, 4
CNN = {"epochs": 6, "batch_size": 16, "learning_rate": 3e-3, "precision": "float32", "threads": 1}


def layers(padding):
    return [
        {"conv": 6, "kernel": 3, "padding": padding},
        {"pool": "mean"},
        {"conv": 8, "kernel": 3, "padding": padding},
        {"pool": "max"},
        {"dense": 12},
    ]


def draw(path, lesion, seed):
    """Speckled pink tissue in an ellipse, darker where the lesion is."""
    rng = stream(seed, "drawn slide", path.name)
    y, x = np.indices((HEIGHT, WIDTH))
    picture = np.full((HEIGHT, WIDTH, 3), 241.0)
    picture[((x - 800) / 680) ** 2 + ((y - 600) / 480) ** 2 < 1] = (214, 150, 190)
    if lesion:
        picture[np.hypot(x - lesion[0], y - lesion[1]) < lesion[2]] = (165, 105, 165)
    picture += rng.normal(0, 14, (HEIGHT, WIDTH, 1))
    pixels = picture.clip(0, 255).astype(np.uint8)
    per_cm = 1e4 / MPP
    tifffile.imwrite(
        path,
        pixels,
        tile=(128, 128),
        photometric="rgb",
        compression="zlib",
        resolution=(per_cm, per_cm),
        resolutionunit="CENTIMETER",
    )


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    """Tiles of six slides, every other one with a lesion, and a new slide."""
    folder = tmp_path_factory.mktemp("cohort")
    for name in ("slides", "drawings"):
        (folder / name).mkdir()
    rows = []
    for number in range(6):
        lesion = (600 + 80 * number, 500 + 40 * number, 200) if number % 2 else None
        draw(folder / "slides" / f"s{number}.tif", lesion, 1)
        if lesion:
            disc = shapely.Point(lesion[:2]).buffer(lesion[2])
            write_asap(Annotations((Region("Tumor", disc),)), folder / "drawings" / f"s{number}.xml")
        rows.append((f"s{number}", f"p{number}", "site-1", "tumour" if lesion else "normal"))
    pd.DataFrame(rows, columns=["slide_id", "patient_id", "site", "label"]).to_csv(folder / "slides.csv", index=False)
    make_tiles(
        [folder / "slides"],
        folder / "tiles.csv",
        TilesWish(TILE_MPP, TILE, folder / "drawings", folder / "slides.csv"),
    )
    draw(folder / "new.tif", (1000, 640, 220), 7)
    return folder


def trained(cohort, name, algorithm, settings):
    return train_model(cohort / "tiles.csv", cohort / name, TrainingWish(algorithm, settings, test=0.2, stop=0.2))


@pytest.fixture(scope="module")
def model(cohort):
    """A network without zeros around the image."""
    return trained(cohort, "model", "paper-cnn", {**CNN, "layers": layers("valid")})


@pytest.fixture(scope="module")
def padded(cohort):
    """One with them, as the founding network."""
    return trained(cohort, "padded", "paper-cnn", {**CNN, "layers": layers("same")})


@pytest.fixture(scope="module")
def answers(cohort, model):
    """The new slide, recognised both ways."""
    wish = PredictionWish(precision="float32", heatmap="dense")
    events = []
    runs = [
        predict_slides([cohort / "new.tif"], model.folder, cohort / "plain", PredictionWish(precision="float32")),
        predict_slides([cohort / "new.tif"], model.folder, cohort / "dense", wish, events.append),
    ]
    assert not any(run.failures for run in runs)
    return cohort / "plain" / "new", cohort / "dense" / "new", [dict(run.results[0]) for run in runs], events


def test_what_is_said_of_tiles_and_slide_does_not_change(answers):
    plain, fine, (before, after), _ = answers
    names = {path.name for path in plain.iterdir()}
    assert {path.name for path in fine.iterdir()} == names | {"probability.tif"}
    for name in sorted(names - {"heatmap.png", "overlay.tif", "report.html", "result.json"}):
        assert (plain / name).read_bytes() == (fine / name).read_bytes(), name
    for name in ("verdict", "score", "regions", "suspicious_mm2", "tiles", "recognised", "left_out", "warnings"):
        assert before[name] == after[name]
    assert (plain / "heatmap.png").read_bytes() != (fine / "heatmap.png").read_bytes()
    assert (plain / "overlay.tif").read_bytes() != (fine / "overlay.tif").read_bytes()


def test_the_map_has_thirty_six_points_a_tile_and_says_so(answers):
    _, fine, (before, after), events = answers
    told = after["heatmap"]
    assert before["heatmap"] == {"kind": "tiles"}
    assert told["kind"] == "dense"
    assert told["stride_px"] == STRIDE
    assert told["points"] == (TILE // STRIDE) ** 2 * after["recognised"]
    assert told["tiles"] == after["recognised"], "each tile begins on a point"
    assert after["profile"]["dense"] > 0
    page = (fine / "report.html").read_text()
    assert "The heatmap has a point every 16 um" in page
    fields = [one for one in events if isinstance(one, TilesDone) and one.dense]
    assert fields[-1].done == fields[-1].total


def test_without_zeros_the_points_say_what_the_tiles_say(answers):
    told = answers[2][1]["heatmap"]
    assert told["largest_difference"] < 1e-3
    assert told["spearman"] > 0.999


def test_the_points_lie_on_the_slide_where_the_file_says(answers, cohort):
    _, fine, _, _ = answers
    with tifffile.TiffFile(fine / "probability.tif") as tiff:
        proba, told = tiff.asarray(), json.loads(tiff.pages[0].description)
        per_cm = tiff.pages[0].tags["XResolution"].value
    assert proba.dtype == np.float32
    assert told["step"] == STRIDE * TILE_MPP / MPP
    assert 1e4 * per_cm[1] / per_cm[0] == pytest.approx(told["step"] * MPP)
    predictions = read_predictions(fine / "tiles.parquet")
    centre = predictions.boxes[:, :2] + predictions.boxes[:, 2:] / 2
    column, row = np.floor((centre - told["origin"]) / told["step"]).astype(int).T
    known = predictions.recognised
    assert np.abs(proba[row, column] - predictions.positive)[known].max() < 1e-3
    # The lesion is where it was drawn, to within half a tile.
    y, x = np.indices(proba.shape)
    x, y = (told["origin"][i] + (place + 0.5) * told["step"] for i, place in enumerate((x, y)))
    away = np.hypot(x - 1000, y - 640)
    side = TILE * TILE_MPP / MPP
    assert np.nanmean(proba[away < 220 - side / 2] > 0.5) > 0.95
    assert np.nanmean(proba[away > 220 + side / 2] > 0.5) < 0.05
    # And its edge is finer than tiles can draw it.
    picture = np.asarray(Image.open(fine / "heatmap.png"))
    assert picture.shape == np.asarray(Image.open(cohort / "plain" / "new" / "heatmap.png")).shape


def test_with_zeros_a_map_is_shown_where_the_true_surroundings_rank_tiles_alike(cohort, padded):
    wish = PredictionWish(heatmap="dense")
    (result,) = predict_slides([cohort / "new.tif"], padded.folder, cohort / "padded-out", wish).results
    told = result["heatmap"]
    assert told["spearman"] > 0.9, "of tiles of 24 px, which zeros are a large part of"
    assert told["kind"] == ("dense" if told["spearman"] >= 0.98 else "tiles")
    assert told["largest_difference"] > 1e-3, "zeros are not tissue"


def test_a_map_that_ranks_tiles_otherwise_is_not_shown(cohort, padded, monkeypatch):
    monkeypatch.setattr(dense, "ALIKE", 1.01)
    wish = PredictionWish(precision="float32", heatmap="dense")
    (result,) = predict_slides([cohort / "new.tif"], padded.folder, cohort / "otherwise", wish).results
    assert result["heatmap"]["kind"] == "tiles"
    assert result["heatmap"]["spearman"] < 1.01
    assert any("ranks tiles otherwise than the model" in one for one in result["warnings"])
    folder = cohort / "otherwise" / "new"
    assert not (folder / "probability.tif").exists()
    assert "ranks tiles otherwise" in (folder / "report.html").read_text()
    monkeypatch.undo()
    plain = PredictionWish(precision="float32")
    predict_slides([cohort / "new.tif"], padded.folder, cohort / "padded-plain", plain)
    same = (folder / "heatmap.png", cohort / "padded-plain" / "new" / "heatmap.png")
    assert same[0].read_bytes() == same[1].read_bytes()


def test_small_fields_give_the_same_map_as_one_large_one(cohort, model, answers):
    from sentinode.models.runtime import open_dense, open_recogniser  # noqa: PLC0415
    from sentinode.slides.slide import open_slide  # noqa: PLC0415

    _, fine, _, _ = answers
    predictions = read_predictions(fine / "tiles.parquet")
    assert open_recogniser(model).predict_proba(np.zeros((1, TILE, TILE, 3), np.uint8)).shape == (1, 2)
    with open_slide(cohort / "new.tif") as slide:
        done = []
        found, _ = dense.recognise_densely(
            slide, predictions, open_dense(model, most=100), on_progress=lambda *one: done.append(one)
        )
    assert done[-1][0] == done[-1][1] > 12
    whole = tifffile.imread(fine / "probability.tif")
    assert (np.isnan(whole) == np.isnan(found.proba)).all()
    assert np.nanmax(np.abs(whole - found.proba)) < 1e-5


def test_asking_for_a_dense_map_is_another_result(cohort, model, answers):
    again = predict_slides(
        [cohort / "new.tif"],
        model.folder,
        cohort / "dense",
        PredictionWish(precision="float32", heatmap="dense"),
    )
    _, _, (before, after), _ = answers
    assert again.results[0]["seconds"] == after["seconds"], "it was done before"
    assert before["key"] != after["key"]


def test_what_is_no_network_is_refused_before_any_slide_is_read(cohort, tmp_path):
    bayes = trained(cohort, "bayes", "naive-bayes", {})
    wish = PredictionWish(heatmap="dense")
    with pytest.raises(ModelError, match="cannot be run densely: naive-bayes is no convolutional network"):
        predict_slides([cohort / "new.tif"], bayes.folder, tmp_path / "out", wish)
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("answers")
def test_the_command_takes_it(cohort, model):
    told = CliRunner().invoke(
        app,
        [
            *("predict", str(cohort / "new.tif"), "--model", str(read_bundle(model.folder).folder)),
            *("--out", str(cohort / "dense"), "--precision", "float32", "--heatmap", "dense", "--profile"),
        ],
    )
    assert told.exit_code == 0, told.output
    assert "dense" in told.output
