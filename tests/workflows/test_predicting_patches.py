"""Folders of patches: a table and a page, whatever single files are like."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import tifffile
from PIL import Image
from typer.testing import CliRunner

from sentinode.cli import app
from sentinode.data.manifest import write_manifest
from sentinode.data.patches import PatchSource
from sentinode.errors import ManifestError, ModelError
from sentinode.models.bundle import read_bundle
from sentinode.models.runtime import open_recogniser
from sentinode.workflows.predicting import PredictionWish, predict_slides
from sentinode.workflows.predicting_patches import find_patches, predict_patches
from sentinode.workflows.trail import verify_trail
from sentinode.workflows.training import TrainingWish, train_model


@pytest.fixture(scope="module")
def cohort(draw_cohort):
    """Ten patients with six patches of 24 px each."""
    return draw_cohort(n_patients=10, n_patches=6)


@pytest.fixture(scope="module")
def model(cohort, tmp_path_factory):
    """A model of those at 1 um a pixel."""
    folder = tmp_path_factory.mktemp("model")
    write_manifest(cohort, folder / "m.csv")
    return train_model(folder / "m.csv", folder / "bundle", TrainingWish("naive-bayes", mpp=1.0)).folder


@pytest.fixture
def folder(cohort, tmp_path):
    """The patches in folders of their classes, as people keep them, and a text file beside them."""
    for label, path in zip(cohort.frame["label"], cohort.frame["path"], strict=True):
        (tmp_path / "patches" / label).mkdir(parents=True, exist_ok=True)
        shutil.copy(cohort.root / path, tmp_path / "patches" / label / path)
    (tmp_path / "patches" / "notes.txt").write_text("none")
    return tmp_path / "patches"


def test_every_patch_gets_the_probabilities_of_the_model(folder, model, cohort, tmp_path):
    run = predict_patches([folder], model, tmp_path / "out")
    table = pd.read_csv(tmp_path / "out" / "patches.csv")
    assert table.columns.tolist() == ["path", "prob_normal", "prob_tumour", "called", "typicality", "refused"]
    fit = table["refused"].isna().to_numpy()
    assert fit.mean() > 0.9
    assert (table["called"] == "refused").to_numpy().tolist() == (~fit).tolist()
    assert table.loc[~fit, "prob_tumour"].isna().all()
    assert len(table) == len(run.frame) == 60
    names = table["path"].str.rsplit("/", n=1).str[-1]
    expected = dict(
        zip(
            cohort.frame["path"], open_recogniser(read_bundle(model)).predict_proba(PatchSource(cohort)[:]), strict=True
        )
    )
    assert np.allclose(table[["prob_normal", "prob_tumour"]], np.stack([expected[name] for name in names]), atol=2e-6)
    assert (table["called"] == np.where(table["prob_tumour"] > table["prob_normal"], "tumour", "normal")).all()
    page = (tmp_path / "out" / "patches.html").read_text()
    assert page.count("<img") == 36
    assert "60 patches" in page
    assert "research use only" in page
    [line] = (tmp_path / "out" / "trail.jsonl").read_text().splitlines()
    told = json.loads(line)
    assert f"{(table['prob_tumour'] >= 0.5).sum()} of 60 patches suspicious, 0 failed" in json.dumps(told)
    assert verify_trail(tmp_path / "out" / "trail.jsonl").n_lines == 1


def test_a_patch_that_cannot_be_read_stops_no_other(folder, model, tmp_path):
    (folder / "normal" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    assert find_patches([folder], read_bundle(model)) == (folder,)
    run = predict_patches([folder], model, tmp_path / "out")
    assert len(run.frame) == 60
    [(name, why)] = run.failures.items()
    assert name.endswith("broken.png")
    assert "broken.png" in why
    assert "broken.png" in (tmp_path / "out" / "patches.html").read_text()


def test_patches_are_told_from_slides_by_their_size(folder, model, tmp_path):
    image = next((folder / "tumour").iterdir())
    Image.new("RGB", (300, 200), "white").save(tmp_path / "slide.png")
    assert find_patches([folder, image, tmp_path / "slide.png"], read_bundle(model)) == (folder, image)
    shutil.copy(tmp_path / "slide.png", folder / "normal")
    assert find_patches([folder], read_bundle(model)) == (), "one image of another size, and it is a folder of slides"


def test_a_large_slide_is_no_patch_and_no_warning(folder, model, tmp_path, monkeypatch):
    """Pillow warns of pictures above its limit and refuses those of twice as many pixels; warnings fail the tests."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    bundle = read_bundle(model)
    for name, size in (("large", (40, 40)), ("huge", (300, 200))):
        Image.new("RGB", size, "white").save(tmp_path / f"{name}.tif")
        assert find_patches([tmp_path / f"{name}.tif"], bundle) == ()
    assert find_patches([folder], bundle) == (folder,)
    shutil.copy(tmp_path / "huge.tif", folder / "normal")
    assert find_patches([folder], bundle) == ()


def test_another_resolution_or_an_empty_folder_is_refused(folder, model, tmp_path):
    with pytest.raises(ModelError, match=r"the patches have 0.5 um a pixel, and .* was trained at 1; cut them at 1"):
        predict_patches([folder], model, tmp_path / "out", mpp=0.5)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ManifestError, match="no image in it; give patches"):
        predict_patches([tmp_path / "empty"], model, tmp_path / "out")
    (tmp_path / "empty" / "a.png").write_bytes(b"no")
    with pytest.raises(ManifestError, match="none of 1 patches could be read"):
        predict_patches([tmp_path / "empty"], model, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_command_takes_them_and_its_exit_code_tells(folder, model, tmp_path):
    wish = ["predict", str(folder), "--model", str(model), "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(app, [*wish, "--json"])
    assert done.exit_code == 0
    found = json.loads(done.stdout)
    assert found["n_patches"] == len(found["patches"]) == 60
    assert 20 <= found["n_suspicious"] <= 40
    (folder / "tumour" / "broken.png").write_bytes(b"no")
    assert CliRunner().invoke(app, wish).exit_code == 1
    Image.new("RGB", (300, 200), "white").save(tmp_path / "slide.png")
    mixed = CliRunner().invoke(app, [*wish, str(tmp_path / "slide.png")])
    assert mixed.exit_code != 0


def test_patches_of_inverted_colours_are_refused(folder, model, tmp_path):
    for path in folder.rglob("*.png"):
        Image.fromarray(255 - np.asarray(Image.open(path))).save(path)
    run = predict_patches([folder], model, tmp_path / "out")
    assert run.n_refused == len(run.frame) == 60
    assert run.n_suspicious == 0
    assert set(run.frame["called"]) == {"refused"}
    assert run.warnings[0].startswith("Refused as a whole: 100 % of its patches cannot be haematoxylin and eosin")
    page = (tmp_path / "out" / "patches.html").read_text()
    assert "60 more were refused" in page
    assert "green absorbed least" in page
    assert json.dumps(run.to_json(), allow_nan=False)


def test_a_name_that_is_markup_stays_text_on_the_page_of_patches(folder, model, tmp_path):
    """A folder may be called so, and with it the path of a patch is a script."""
    odd = tmp_path / "odd"
    (odd / "<script>alert(1)<").mkdir(parents=True)
    shutil.copy(next((folder / "tumour").glob("*.png")), odd / "<script>alert(1)<" / "script>.png")
    (odd / "<img src=x onerror=alert(2)>.png").write_bytes(b"no")
    predict_patches([odd], model, tmp_path / "out")
    page = (tmp_path / "out" / "patches.html").read_text()
    assert "<script" not in page
    assert "<img src=x" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;.png" in page
    assert "&lt;img src=x onerror=alert(2)&gt;.png" in page


def test_a_name_that_is_markup_stays_text_on_the_pages_of_slides(model, tmp_path):
    pixels = np.full((480, 480, 3), 243, np.uint8)
    pixels[90:390, 90:390] = np.random.default_rng(1).normal((200, 120, 180), 12, (300, 300, 3)).clip(0, 255)
    name = "<img src=x onerror=alert(1)>"
    tifffile.imwrite(
        tmp_path / f"{name}.tif", pixels, tile=(64, 64), resolution=(10_000, 10_000), resolutionunit="CENTIMETER"
    )
    (tmp_path / "<script>alert(2)<").mkdir()
    (tmp_path / "<script>alert(2)<" / "script>.png").write_bytes(b"no")
    wish = PredictionWish(exports=(), overlay=False)
    run = predict_slides([tmp_path / f"{name}.tif", tmp_path / "<script>alert(2)<"], model, tmp_path / "out", wish)
    assert [len(run.results), len(run.failures)] == [1, 1]
    for page in (tmp_path / "out" / "index.html", tmp_path / "out" / name / "report.html"):
        text = page.read_text()
        assert "<script" not in text
        assert name not in text
        assert "&lt;img src=x onerror=alert(1)&gt;" in text
    assert "&lt;script&gt;alert(2)&lt;/script&gt;.png" in (tmp_path / "out" / "index.html").read_text()
