"""What a network saw: maps that lie where the answer comes from, and a check that can fail."""

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from sentinode.cli import app
from sentinode.data.manifest import write_manifest
from sentinode.errors import ExportError, ManifestError, ModelError, PlanError
from sentinode.models.bundle import GRAPH_FILE
from sentinode.models.explaining import SaliencyMap, alikeness, explain_network, log_odds_of, occlusion_map
from sentinode.models.runtime import open_recogniser
from sentinode.report.explain_page import ExplainView, write_explain_page
from sentinode.report.heatmap import map_over_tile
from sentinode.slides.resolution import MppWish
from sentinode.workflows.explaining import explain, parse_place
from sentinode.workflows.training import TrainingWish, train_model

pytest.importorskip("torch", exc_type=ImportError)

CNN = {
    "layers": [{"conv": 8, "kernel": 3}, {"pool": "max", "size": 2}, {"conv": 8, "kernel": 3}, {"dense": 16}],
    "epochs": 8,
    "batch_size": 8,
    "learning_rate": 3e-3,
    "precision": "float32",
    "threads": 1,
}
DBN = {"hidden": [16, 8], "pretraining_epochs": 1, "epochs": 1, "threads": 1}


@pytest.fixture(scope="module")
def cohort(draw_cohort, tmp_path_factory):
    """Patches whose tumours are a dark square of a third of the side."""
    manifest = draw_cohort(n_patients=10, n_patches=10, seed=1)
    write_manifest(manifest, tmp_path_factory.mktemp("cohort") / "ours.csv")
    return manifest


def trained(cohort, folder, algorithm, settings):
    write_manifest(cohort, folder / "ours.csv")
    return train_model(folder / "ours.csv", folder / "model", TrainingWish(algorithm, settings, mpp=1.0))


@pytest.fixture(scope="module")
def network(cohort, tmp_path_factory):
    return trained(cohort, tmp_path_factory.mktemp("network"), "paper-cnn", CNN)


@pytest.fixture(scope="module")
def tumour(cohort):
    return cohort.root / "p0-1.png"


@pytest.fixture(scope="module")
def explained(network, tumour, tmp_path_factory):
    """What was found about a tumour, and the folder of it."""
    out = tmp_path_factory.mktemp("explained") / "out"
    return explain(tumour, network, out), out


def dark_square(tile):
    """Where the drawn tumour is, (h, w) bool, from the pixels: the darkest third by a third."""
    side = tile.shape[0] // 3
    grey = tile.mean(axis=2)
    places = [(y, x) for y in range(grey.shape[0] - side) for x in range(grey.shape[1] - side)]
    y, x = min(places, key=lambda at: grey[at[0] : at[0] + side, at[1] : at[1] + side].mean())
    inside = np.zeros(grey.shape, dtype=bool)
    inside[y : y + side, x : x + side] = True
    return inside


def test_each_map_lies_on_what_the_tumour_is_told_by(explained):
    found, out = explained
    assert found.proba[1] > 0.9
    inside = dark_square(found.tile)
    assert [one.method for one in found.maps] == ["occlusion", "Grad-CAM", "integrated gradients"]
    for one in found.maps:
        assert one.values.shape == found.tile.shape[:2]
        assert one.values[inside].mean() > 2 * abs(one.values[~inside].mean()), one.method
    assert {path.name for path in out.iterdir()} == {
        "explain.html",
        "explain.json",
        "tile.png",
        "occlusion.png",
        "grad-cam.png",
        "integrated-gradients.png",
    }
    stored = json.loads((out / "explain.json").read_text(encoding="utf-8"))
    assert stored["proba"]["tumour"] == pytest.approx(float(found.proba[1]))


def test_integrated_gradients_add_up_to_the_rise_of_the_log_odds(explained):
    (one,) = (one for one in explained[0].maps if one.method == "integrated gradients")
    said, rise = (float(word.rstrip(",")) for word in one.note.split() if word.lstrip("-").rstrip(",")[0].isdigit())
    assert said == pytest.approx(one.values.sum(), abs=0.01)
    assert said == pytest.approx(rise, abs=0.05 * abs(rise))


def test_the_layers_are_those_of_the_network(explained):
    walked = explained[0].network
    assert [(one.title, one.values.shape) for one in walked.layers] == [
        ("convolution 1", (8, 24, 24)),
        ("pooling 1", (8, 12, 12)),
        ("convolution 2", (8, 12, 12)),
        ("dense 1", (16,)),
    ]
    assert walked.kernels.shape == (8, 3, 3, 3)
    assert abs(float(walked.standardised.mean())) < 1
    # Pooling kept the greatest of each four.
    before, after = walked.layers[0].values, walked.layers[1].values
    np.testing.assert_allclose(after, before.reshape(8, 12, 2, 12, 2).max(axis=(2, 4)))
    page = (explained[1] / "explain.html").read_text(encoding="utf-8")
    for word in ("convolution 2: 8 maps of 12 x 12", "8 kernels of 3 x 3 x 3", "To the answer", "Grad-CAM"):
        assert word in page


def test_shuffled_weights_change_the_maps_and_one_that_stays_is_not_to_be_read(network, explained, tmp_path):
    found, _ = explained
    alike = {one.method: one.alike for one in found.maps}
    assert max(alike["occlusion"], alike["integrated gradients"]) < 0.7
    assert all(-1 <= value <= 1 for value in alike.values())
    # What looks at the image alone is the same whatever was learned.
    edges = np.hypot(*np.gradient(found.tile.mean(axis=2))).astype(np.float32)
    assert alikeness(edges, -edges) > 0.99
    assert np.isnan(alikeness(edges, np.zeros_like(edges)))
    maps = (SaliencyMap("edges", edges, alikeness(edges, edges)), SaliencyMap("good", edges, 0.1))
    view = ExplainView(replace(found, maps=maps, network=None), (), network.facts, {})
    write_explain_page(view, tmp_path / "page.html")
    assert (tmp_path / "page.html").read_text(encoding="utf-8").count("; do not read it") == 1


def test_what_is_no_network_is_asked_by_covering(cohort, tumour, tmp_path):
    model = trained(cohort, tmp_path, "naive-bayes", {})
    found = explain(tumour, model, tmp_path / "out")
    assert [one.method for one in found.maps] == ["occlusion"]
    assert "naive-bayes is no network" in found.missing[0]
    assert found.maps[0].values.max() > 0
    assert "Not shown" in (tmp_path / "out" / "explain.html").read_text(encoding="utf-8")


def test_a_belief_network_has_no_feature_maps_and_shows_what_its_units_look_for(cohort, tumour, tmp_path):
    found = explain(tumour, trained(cohort, tmp_path, "dbn", DBN), tmp_path / "out")
    assert found.network.missing == ("Grad-CAM: the network has no feature maps, only dense layers",)
    assert found.network.kernels.shape[1:] == (3, 24, 24)
    assert "gradients of the strongest units" in (tmp_path / "out" / "explain.html").read_text(encoding="utf-8")


def test_a_tile_of_a_slide_is_read_about_its_centre(network, tumour, tmp_path):
    with Image.open(tumour) as image:
        patch = np.asarray(image.convert("RGB"))
    slide = np.full((200, 260, 3), 240, np.uint8)
    slide[100:124, 150:174] = patch
    Image.fromarray(slide).save(tmp_path / "slide.png")
    found = explain(tmp_path / "slide.png", network, tmp_path / "out", (162, 112), MppWish(1.0))
    np.testing.assert_array_equal(found.tile, patch)
    for at in ((300, 10), (-1, 10)):
        with pytest.raises(PlanError, match="lies beyond"):
            explain(tmp_path / "slide.png", network, tmp_path / "beyond", at, MppWish(1.0))


def test_a_larger_image_is_cut_about_its_middle_and_a_name_stays_text(network, tumour, tmp_path):
    with Image.open(tumour) as image:
        patch = np.asarray(image.convert("RGB"))
    larger = np.full((40, 50, 3), 240, np.uint8)
    larger[8:32, 13:37] = patch
    path = tmp_path / "<script>alert(1)<script>.png"
    Image.fromarray(larger).save(path)
    found = explain(path, network, tmp_path / "out")
    np.testing.assert_array_equal(found.tile, patch)
    page = (tmp_path / "out" / "explain.html").read_text(encoding="utf-8")
    assert "<script>" not in page
    assert "The image has 50 x 40 px; shown is its middle, 24 x 24" in page


def test_what_cannot_be_explained_is_told_in_a_line(network, tumour, tmp_path):
    Image.new("RGB", (10, 10)).save(tmp_path / "small.png")
    with pytest.raises(PlanError, match="has 10 x 10 px, and the model takes 24 x 24"):
        explain(tmp_path / "small.png", network, tmp_path / "out")
    with pytest.raises(ManifestError, match=r"gone.png"):
        explain(tmp_path / "gone.png", network, tmp_path / "out")
    (tmp_path / "there").mkdir()
    with pytest.raises(ExportError, match="is there already"):
        explain(tumour, network, tmp_path / "there")
    with pytest.raises(PlanError, match="write two numbers"):
        parse_place("12;5")
    assert not (tmp_path / "out").exists()


def test_another_answer_than_that_of_the_runtime_is_not_explained(network, tumour):
    with Image.open(tumour) as image:
        tile = np.asarray(image.convert("RGB"))
    answer = open_recogniser(network).predict_proba(tile[None])[0]
    with pytest.raises(ModelError, match="torch answers"):
        explain_network(network.folder / GRAPH_FILE, tile, 1, answer[::-1].copy())


def test_occlusion_sees_only_where_a_recogniser_looks_and_covers_every_pixel():
    def corner(tiles):
        p = tiles[:, 16:, :8].mean(axis=(1, 2, 3)) / 255
        return np.stack([1 - p, p], axis=1).astype(np.float32)

    tile = np.zeros((24, 24, 3), np.uint8)
    tile[16:, :8] = 255
    found = occlusion_map(log_odds_of(corner, 1), tile)
    assert found[16:, :8].min() > 0
    assert found[:12].max() == 0
    shown = map_over_tile(np.full_like(tile, 200), found)
    reddest = shown[..., 0].astype(int) - shown[..., 2]
    assert reddest[18:, :6].min() > 20
    assert np.abs(reddest[:12]).max() <= 1


def test_the_command_says_what_was_found(network, tumour, tmp_path):
    done = CliRunner().invoke(
        app, ["explain", str(tumour), "--model", str(network.folder), "--out", str(tmp_path / "out"), "--json"]
    )
    assert done.exit_code == 0, done.output
    assert {one["method"] for one in json.loads(done.stdout)["maps"]} >= {"occlusion", "Grad-CAM"}
