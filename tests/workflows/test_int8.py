"""A model in int8: trained, offered or refused, read, run, recorded."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from sentinode.cli import app
from sentinode.data.manifest import read_manifest, write_manifest
from sentinode.data.patches import PatchSource
from sentinode.errors import ModelError, PlanError
from sentinode.models import bundle as bundle_module
from sentinode.models.bundle import INT8_FILES, PromiseFacts, read_bundle
from sentinode.models.runtime import open_recogniser, this_machine
from sentinode.models.tuning import cache_folder, drawn_tiles, stored_choices
from sentinode.seeds import stream
from sentinode.slides.resolution import MppWish
from sentinode.workflows import predicting, training
from sentinode.workflows.doctor import examine
from sentinode.workflows.predicting import PredictionWish, predict_slides
from sentinode.workflows.training import TrainingWish, train_model

SMALL_CNN = {
    "layers": [{"conv": 8, "kernel": 3}, {"pool": "max", "size": 4}, {"dense": 16}],
    "epochs": 4,
    "batch_size": 8,
    "learning_rate": 3e-3,
    "precision": "float32",
    "threads": 1,
}
WISH = {"mpp": 1.0, "test": 0.15, "stop": 0.1, "calibrate": 0.5}


@pytest.fixture(scope="module")
def manifest(draw_cohort, tmp_path_factory):
    """Twenty patients, ten of whom calibrate."""
    path = tmp_path_factory.mktemp("manifest") / "m.csv"
    write_manifest(draw_cohort(n_patients=20, n_patches=8, seed=1), path)
    return path


@pytest.fixture(scope="module")
def offered(manifest, tmp_path_factory):
    """A small network that was quantised."""
    pytest.importorskip("nncf", reason="NNCF is not installed: the extra int8")
    out = tmp_path_factory.mktemp("offered") / "bundle"
    return train_model(manifest, out, TrainingWish("paper-cnn", SMALL_CNN, **WISH, int8=True))


@pytest.fixture(scope="module")
def plain(manifest, tmp_path_factory):
    """One that was not."""
    out = tmp_path_factory.mktemp("plain") / "bundle"
    return train_model(manifest, out, TrainingWish("paper-cnn", SMALL_CNN, **WISH))


def in_int8(bundle):
    return open_recogniser(bundle, quick=True, precision="int8")


def test_a_network_in_int8_gives_nearly_what_it_gives_in_float32(offered, manifest):
    facts = read_bundle(offered.folder).facts.int8
    assert facts.refusal == ""
    assert (facts.n_patients, facts.n_images) == (10, 80)
    assert set(INT8_FILES) <= set(offered.files)
    pixels = PatchSource(read_manifest(manifest))[np.arange(60)]
    quick, exact = in_int8(offered).predict_proba(pixels), open_recogniser(offered).predict_proba(pixels)
    assert 0 < np.abs(quick - exact).max() < 0.1
    assert "\n## In int8\n\nOffered" in (offered.folder / "README.md").read_text()


def test_what_ran_in_int8_says_so_and_the_doctor_shows_it(offered):
    assert in_int8(offered).runtime["precision"] == "int8"
    assert "int8" in {one.precision for one in stored_choices(this_machine(), cache_folder())}
    (runtime,) = (one for one in examine(offered.folder) if one.what == "Runtime")
    assert " in int8" in runtime.found
    assert open_recogniser(offered, quick=True).runtime["precision"] != "int8", "only where it is asked for"


def test_the_result_of_a_slide_records_int8(offered, tmp_path):
    Image.fromarray(drawn_tiles(1, (480, 480))[0]).save(tmp_path / "slide.png")
    wish = PredictionWish(mpp=MppWish(1.0), precision="int8", overlay=False)
    run = predict_slides([tmp_path / "slide.png"], offered, tmp_path / "out", wish)
    assert dict(run.failures) == {}
    result = json.loads((tmp_path / "out" / "slide" / "result.json").read_text())
    assert result["runtime"]["precision"] == "int8"
    assert "int8" in (tmp_path / "out" / "slide" / "report.html").read_text()


def test_int8_is_named_where_it_may_be_the_quickest_and_nowhere_else(offered, plain, tmp_path, monkeypatch):
    def told(bundle, *options):
        tile = bundle.facts.tile
        (tmp_path / "patches").mkdir(exist_ok=True)
        for number, pixels in enumerate(drawn_tiles(2, (tile.height, tile.width))):
            Image.fromarray(pixels).save(tmp_path / "patches" / f"{number}.png")
        command = ["predict", str(tmp_path / "patches"), "--model", str(bundle.folder), "--out", str(tmp_path / "out")]
        answer = CliRunner().invoke(app, [*command, *options])
        assert answer.exit_code == 0, answer.output
        return "the model offers int8" in answer.output

    without = replace(this_machine(), bf16=False)
    monkeypatch.setattr(predicting, "this_machine", lambda: without)
    assert told(offered)
    assert not told(offered, "--precision", "int8")
    assert not told(offered, "--precision", "float32")
    assert not told(plain), "it has none"
    refused = offered.facts.int8.model_copy(update={"refusal": "the log odds move"})
    promise = PromiseFacts(kind="average", unit="slides", alpha=0.1, delta=None, threshold=0.1, n_patients=20, misses=0)
    for changed in ({"int8": refused}, {"promises": (promise,)}):
        facts = offered.facts.model_copy(update=changed)
        assert not predicting.int8_is_left_out(replace(offered, facts=facts), "auto")
    monkeypatch.setattr(predicting, "this_machine", lambda: replace(without, bf16=True))
    assert not told(offered)
    monkeypatch.setattr(predicting, "this_machine", lambda: replace(without, engine="ONNX Runtime 1.20"))
    assert not told(offered), "it would be refused"


@pytest.mark.parametrize("name", INT8_FILES)
def test_a_byte_of_int8_that_was_changed_refuses_the_model(offered, tmp_path, name):
    copy = shutil.copytree(offered.folder, tmp_path / "copy")
    data = bytearray((copy / name).read_bytes())
    data[len(data) // 2] ^= 1
    (copy / name).write_bytes(data)
    with pytest.raises(ModelError, match=rf"{name}: was changed"):
        read_bundle(copy)


def test_a_network_whose_answers_move_too_far_is_refused_with_numbers(manifest, tmp_path, monkeypatch, capsys):
    pytest.importorskip("nncf", reason="NNCF is not installed: the extra int8")
    real = training.quantise_graph
    # Steps that were set on hardly any contrast cut off nearly all that tissue is.
    dull = stream(1, "dull").integers(200, 206, (4, 24, 24, 3), dtype=np.uint8)
    monkeypatch.setattr(training, "quantise_graph", lambda graph, _tiles, out: real(graph, dull, out))
    wish = TrainingWish("paper-cnn", SMALL_CNN | {"epochs": 12}, **WISH, int8=True)
    bundle = train_model(manifest, tmp_path / "b", wish)
    assert "the log odds move by" in bundle.facts.int8.refusal
    assert not set(INT8_FILES) & set(bundle.files)
    assert "Refused: the log odds" in (bundle.folder / "README.md").read_text()
    with pytest.raises(ModelError, match="int8 was refused: the log odds move by"):
        in_int8(bundle)
    assert capsys.readouterr().out == "", "NNCF writes nothing between ours"


def test_a_network_that_nncf_cannot_quantise_is_kept_and_int8_refused(manifest, tmp_path, monkeypatch):
    nncf = pytest.importorskip("nncf", reason="NNCF is not installed: the extra int8")

    def fails(*_what, **_how):
        raise nncf.ValidationError("this layer\nis not known")

    monkeypatch.setattr(nncf, "quantize", fails)
    bundle = train_model(manifest, tmp_path / "b", TrainingWish("paper-cnn", SMALL_CNN, **WISH, int8=True))
    assert bundle.facts.int8.refusal == "NNCF cannot quantise it (this layer is not known)"
    assert read_bundle(bundle.folder).facts.int8 == bundle.facts.int8
    assert "Refused: NNCF cannot quantise it" in (bundle.folder / "README.md").read_text()
    assert open_recogniser(bundle).predict_proba(np.zeros((1, 24, 24, 3), np.uint8)).shape == (1, 2)


def test_too_few_patients_refuse_int8_and_the_training_goes_on(draw_cohort, tmp_path):
    pytest.importorskip("nncf", reason="NNCF is not installed: the extra int8")
    write_manifest(draw_cohort(n_patients=12, n_patches=8, seed=2), tmp_path / "m.csv")
    settings = [f"--set={name}={json.dumps(value)}" for name, value in SMALL_CNN.items() if name != "layers"]
    shares = ["--test=0.2", "--stop=0.1", "--calibrate=0.45", "--mpp=1"]
    command = ["train", str(tmp_path / "m.csv"), "--algorithm=paper-cnn", *settings, "--set=epochs=1", *shares]
    command.remove("--set=epochs=4")
    done = CliRunner().invoke(app, [*command, "--int8", f"--out={tmp_path / 'b'}"])
    assert done.exit_code == 0, done.output
    told = " ".join(done.output.split())
    assert "int8 is refused: 5 patients are too few to say what is lost: 10 are needed" in told
    assert read_bundle(tmp_path / "b").facts.int8.n_patients == 5


def test_a_model_without_int8_says_how_to_get_it(plain, tmp_path):
    with pytest.raises(ModelError, match=r"has no int8 graph \(train it with --int8\)"):
        in_int8(plain)
    (tmp_path / "patches").mkdir()
    Image.fromarray(drawn_tiles(1, (24, 24))[0]).save(tmp_path / "patches" / "a.png")
    command = ["predict", str(tmp_path / "patches"), "--model", str(plain.folder), "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(app, [*command, "--precision", "int8"])
    assert done.exit_code != 0
    assert "has no int8 graph" in f"{done.output} {done.exception}"


def test_a_bundle_that_knows_nothing_of_int8_opens_as_the_third_format_wrote_it(plain, tmp_path):
    copy = shutil.copytree(plain.folder, tmp_path / "copy")
    facts = json.loads((copy / "bundle.json").read_text())
    stated = {name: value for name, value in facts.items() if name not in {"digest", "int8"}} | {"version": 3}
    (copy / "bundle.json").write_text(json.dumps({**stated, "digest": bundle_module._digest(stated)}))
    old = read_bundle(copy)
    assert old.facts.int8 is None
    assert open_recogniser(old, quick=True).runtime["precision"] in {"float32", "bf16"}


@pytest.mark.parametrize(
    ("algorithm", "changes", "words"),
    [
        ("paper-cnn", {"calibrate": 0.0}, "give their share to --calibrate"),
        ("naive-bayes", {}, "naive-bayes is none"),
    ],
)
def test_what_cannot_be_quantised_is_told_before_the_training(manifest, tmp_path, algorithm, changes, words):
    with pytest.raises(PlanError, match=words):
        train_model(manifest, tmp_path / "b", TrainingWish(algorithm, **(WISH | changes), int8=True))
    assert not (tmp_path / "b.training").exists()
