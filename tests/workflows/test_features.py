"""Embeddings through the whole house: import, study, curve, train, evaluate; and an encoder of one's own."""

import h5py
import numpy as np
import onnx
import pandas as pd
import pytest
from onnx import TensorProto, helper
from PIL import Image

from sentinode.data.manifest import Manifest, Provenance, read_manifest, write_manifest
from sentinode.errors import LeakageError, ModelError, PlanError
from sentinode.models.bundle import read_bundle
from sentinode.models.encoder import read_encoder
from sentinode.models.runtime import open_recogniser
from sentinode.report.study_page import study_page
from sentinode.slides.resolution import MppWish
from sentinode.study.plan import read_plan
from sentinode.study.runner import run_study
from sentinode.study.store import read_study
from sentinode.study.table import summarise
from sentinode.workflows.evaluating import evaluate_model
from sentinode.workflows.importing import import_data
from sentinode.workflows.predicting import PredictionWish, predict_slides
from sentinode.workflows.training import TrainingWish, train_model

HEADS = ("logistic-head", "mlp-head", "svm-head")
STATED = 'file = "{file}"\nsize = 24\nmpp = 0.5\nmean = [0.5, 0.5, 0.5]\nstd = [0.25, 0.25, 0.25]\n'


def write_slides(folder, names, seed):
    """Eight tiles a slide, five numbers each: one of them tells the class, with noise."""
    folder.mkdir()
    rng, lines = np.random.default_rng(seed), ["slide_id,patient_id,label"]
    for place, name in enumerate(names):
        with h5py.File(folder / f"{name}.h5", "w") as file:
            file["features"] = (rng.normal(size=(8, 5)) + np.eye(5)[0] * 3 * (place % 2)).astype(np.float32)
        lines.append(f"{name},{name},{('normal', 'tumour')[place % 2]}")
    (folder / "labels.csv").write_text("\n".join(lines), encoding="utf-8")
    import_data("features", folder, folder / "manifest.csv", labels=folder / "labels.csv")
    return folder / "manifest.csv"


@pytest.fixture
def manifest(tmp_path):
    return write_slides(tmp_path / "ours", [f"s{number:02d}" for number in range(12)], seed=1)


def write_plan(manifest, text):
    path = manifest.parent / "study.toml"
    path.write_text(f'manifest = "{manifest.name}"\nrepeats = 2\non = "serial"\n{text}', encoding="utf-8")
    return path


def test_heads_are_compared_on_features(manifest, tmp_path):
    run_study(read_plan(write_plan(manifest, f"algorithms = {list(HEADS)}")), tmp_path / "out")
    table = summarise(tmp_path / "out")
    assert table.complete
    for name in HEADS:
        assert table.row(name, "auc")["mean"] > 0.9
    page = study_page(read_study(tmp_path / "out"), table)
    assert any("features of an encoder" in section.text for section in page.sections)


def test_recipes_that_look_at_images_are_refused_before_anything_is_run(manifest):
    with pytest.raises(PlanError, match="'naive-bayes' looks at images, and the manifest has features"):
        read_plan(write_plan(manifest, 'algorithms = ["logistic-head", "naive-bayes"]'))


@pytest.mark.parametrize("name", HEADS)
def test_a_head_is_trained_and_evaluated_elsewhere(manifest, tmp_path, name):
    bundle = train_model(manifest, tmp_path / "model", TrainingWish(name))
    assert (bundle.facts.tile.height, bundle.facts.tile.width) == (1, 5)
    other = write_slides(tmp_path / "theirs", [f"t{number}" for number in range(6)], seed=2)
    assert evaluate_model(other, tmp_path / "model").metrics["auc"].value > 0.9
    with pytest.raises(LeakageError):
        evaluate_model(manifest, tmp_path / "model")
    with pytest.raises(ModelError, match="takes features of 5 numbers, not slides"):
        bundle.mpp_of_tiles()


def test_features_of_another_length_are_refused(manifest, tmp_path):
    train_model(manifest, tmp_path / "model", TrainingWish("logistic-head"))
    folder = tmp_path / "theirs"
    other = write_slides(folder, ["x", "y"], seed=3)
    for name in "xy":
        with h5py.File(folder / f"{name}.h5", "w") as file:
            file["features"] = np.ones((8, 6), np.float32)
    with pytest.raises(ModelError, match="6 x 1 px"):
        evaluate_model(other, tmp_path / "model")


# --- an encoder of one's own ---------------------------------------------------------------------------------------


def write_onnx(path):
    """Mean of each colour over the field: (n, 3, 24, 24) -> (n, 3)."""
    node = helper.make_node("ReduceMean", ["x"], ["y"], axes=[2, 3], keepdims=0)
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 24, 24])
    found = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])
    graph = helper.make_graph([node], "means", [given], [found])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))


def write_torchscript(path):
    torch = pytest.importorskip("torch", exc_type=ImportError)

    class Means(torch.nn.Module):
        def forward(self, x):
            return x.mean(dim=(2, 3))

    torch.jit.trace(Means(), torch.zeros(1, 3, 24, 24)).save(str(path))


WRITERS = {"encoder.onnx": write_onnx, "encoder.pt": write_torchscript}


@pytest.fixture(params=WRITERS)
def encoder(request, tmp_path):
    WRITERS[request.param](tmp_path / request.param)
    (tmp_path / "encoder.toml").write_text(STATED.format(file=request.param), encoding="utf-8")
    return tmp_path / "encoder.toml"


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_an_encoder_sees_normalised_pixels_at_its_own_mpp(encoder):
    patches = np.zeros((3, 24, 24, 3), np.uint8)
    patches[1] = 255
    patches[2, 6:18, 6:18] = 255  # the middle, all that is seen of it at half the mpp
    features = read_encoder(encoder).embed(patches, [0.5, 0.5, 0.25])
    assert features.shape == (3, 1, 3)
    assert features[0, 0] == pytest.approx([-2, -2, -2])
    assert features[1, 0] == pytest.approx([2, 2, 2])
    # 24 px at 0.25 are 12 px at 0.5, mirrored to 24: a quarter of that is white, as before.
    assert features[2, 0] == pytest.approx([-1, -1, -1], abs=0.1)
    patches[2, 4:20, 4:20] = 255
    larger = read_encoder(encoder).embed(patches[2:], [1.0])
    assert larger[0, 0] == pytest.approx([2, 2, 2])  # 48 px at 0.5, cut to 24 in the middle: white


def write_shades(folder, first=0):
    """Write 48 images of 8 patients, the tumours lighter."""
    rng = np.random.default_rng(first)
    with h5py.File(folder / "x.h5", "w") as file:
        level = np.array([140, 170])[np.arange(48) % 2]
        file["x"] = rng.normal(level[:, None, None, None], 30, (48, 24, 24, 3)).clip(0, 255).astype(np.uint8)
    rows = [(f"i{first + n}", f"p{(first + n) // 6}", ("normal", "tumour")[n % 2], f"x.h5#{n}", 0.5) for n in range(48)]
    frame = pd.DataFrame(rows, columns=["image_id", "patient_id", "label", "path", "mpp"])
    whole = Manifest(frame, ("normal", "tumour"), Provenance("drawn for a test", synthetic=True), folder)
    write_manifest(whole, folder / "manifest.csv")
    return whole


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_a_model_on_an_encoder_recognises_images_and_slides(encoder, tmp_path):
    write_shades(tmp_path)
    (tmp_path / "others").mkdir()
    write_shades(tmp_path / "others", first=48)
    wish = TrainingWish("logistic-head", stop=0, encoder=encoder)
    bundle = train_model(tmp_path / "manifest.csv", tmp_path / "model", wish)
    assert bundle.facts.metrics["auc"].value == 1
    assert (bundle.facts.tile.width, bundle.facts.encoder.mpp) == (24, 0.5)
    assert bundle.facts.encoder.digest in (tmp_path / "model" / "README.md").read_text(encoding="utf-8")
    assert evaluate_model(tmp_path / "others" / "manifest.csv", tmp_path / "model").metrics["auc"].value == 1
    # On a slide: the lighter half is the suspicious one.
    slide = np.full((480, 480, 3), 140, np.uint8)
    slide[:, 240:] = 170
    slide = (slide + np.random.default_rng(1).normal(0, 30, slide.shape) + (25, -25, 25)).clip(0, 255).astype(np.uint8)
    Image.fromarray(slide).save(tmp_path / "s.png")
    options = PredictionWish(mpp=MppWish(0.5), check_quality=False, minimum_tissue=0, overlay=False)
    run = predict_slides([tmp_path / "s.png"], tmp_path / "model", tmp_path / "out", options)
    assert not run.failures
    assert run.results[0]["runtime"]["encoder"] in WRITERS
    tiles = pd.read_parquet(tmp_path / "out" / "s" / "tiles.parquet")
    light = tiles["x"] >= 240
    assert tiles["proba_tumour"][light].min() > tiles["proba_tumour"][tiles["x"] + tiles["width"] <= 240].max()


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_a_study_puts_heads_on_an_encoder(encoder, tmp_path):
    whole = write_shades(tmp_path)
    path = write_plan(tmp_path / "manifest.csv", 'encoder = "encoder.toml"\nalgorithms = ["logistic-head"]')
    run_study(read_plan(path), tmp_path / "out")
    assert summarise(tmp_path / "out").row("logistic-head", "auc")["mean"] == 1
    before = {one.key for one in read_study(tmp_path / "out").trials}
    encoder.write_text(encoder.read_text().replace("mpp = 0.5", "mpp = 0.6"), encoding="utf-8")
    run_study(read_plan(path), tmp_path / "out")
    assert not before & {one.key for one in read_study(tmp_path / "out").trials}  # another encoder, other trials
    with pytest.raises(PlanError, match="'paper-cnn' looks at images, and an encoder is asked for"):
        read_plan(write_plan(tmp_path / "manifest.csv", 'encoder = "encoder.toml"\nalgorithms = ["paper-cnn"]'))
    bare = read_manifest(tmp_path / "manifest.csv").frame.assign(mpp=pd.NA)
    write_manifest(Manifest(bare, whole.classes, whole.provenance, tmp_path), tmp_path / "manifest.csv")
    with pytest.raises(PlanError, match="images without mpp"):
        read_plan(path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (STATED.format(file="gone.onnx"), "nothing is ever downloaded"),
        (STATED.format(file="encoder.bin"), "no .onnx and no TorchScript"),
        (STATED.format(file="encoder.onnx").replace("mpp = 0.5\n", ""), "mpp: field required"),
        (STATED.format(file="encoder.onnx").replace("0.25]", "0.0]"), "greater than 0"),
        ("file = ", "cannot be read"),
    ],
)
def test_what_an_encoder_does_not_state_is_asked_for(tmp_path, text, words):
    (tmp_path / "encoder.toml").write_text(text, encoding="utf-8")
    with pytest.raises(PlanError, match=words):
        read_encoder(tmp_path / "encoder.toml")


def test_a_file_that_is_no_graph_is_told(tmp_path):
    (tmp_path / "encoder.onnx").write_bytes(b"no graph")
    (tmp_path / "encoder.toml").write_text(STATED.format(file="encoder.onnx"), encoding="utf-8")
    with pytest.raises(ModelError, match="no graph that can be run"):
        read_encoder(tmp_path / "encoder.toml").embed(np.zeros((1, 24, 24, 3), np.uint8), [0.5])


def test_a_model_wants_the_very_encoder_that_it_was_trained_on(tmp_path, monkeypatch):
    (tmp_path / "there").mkdir()
    write_onnx(tmp_path / "there" / "encoder.onnx")
    stated = tmp_path / "there" / "encoder.toml"
    stated.write_text(STATED.format(file="encoder.onnx"), encoding="utf-8")
    write_shades(tmp_path)
    wish = TrainingWish("logistic-head", stop=0, encoder=stated)
    bundle = train_model(tmp_path / "manifest.csv", tmp_path / "model", wish)
    tiles = np.full((2, 24, 24, 3), 150, np.uint8)
    expected = open_recogniser(bundle).predict_proba(tiles)
    (tmp_path / "there").rename(tmp_path / "elsewhere")
    with pytest.raises(ModelError, match=r"needs its encoder, encoder.onnx, which is neither there nor in .*there"):
        open_recogniser(bundle)
    monkeypatch.setenv("SENTINODE_ENCODERS", str(tmp_path / "elsewhere"))
    assert open_recogniser(bundle).predict_proba(tiles).tolist() == expected.tolist()
    monkeypatch.delenv("SENTINODE_ENCODERS")
    (tmp_path / "model" / "encoder.onnx").write_bytes(b"another")
    with pytest.raises(ModelError, match="is another encoder than that of"):
        open_recogniser(bundle)
    (tmp_path / "elsewhere" / "encoder.onnx").replace(tmp_path / "model" / "encoder.onnx")
    assert open_recogniser(read_bundle(tmp_path / "model")).predict_proba(tiles).tolist() == expected.tolist()


def test_a_training_with_an_encoder_wants_a_head_images_and_their_mpp(manifest, tmp_path):
    write_onnx(tmp_path / "encoder.onnx")
    stated = tmp_path / "encoder.toml"
    stated.write_text(STATED.format(file="encoder.onnx"), encoding="utf-8")
    whole = write_shades(tmp_path)
    with pytest.raises(PlanError, match="paper-cnn looks at images, and an encoder is asked for; take logistic-head"):
        train_model(tmp_path / "manifest.csv", tmp_path / "model", TrainingWish("paper-cnn", encoder=stated))
    with pytest.raises(PlanError, match="has features already"):
        train_model(manifest, tmp_path / "model", TrainingWish("logistic-head", encoder=stated))
    write_manifest(
        Manifest(whole.frame.assign(mpp=pd.NA), whole.classes, whole.provenance, tmp_path), tmp_path / "bare.csv"
    )
    with pytest.raises(PlanError, match="say it with --mpp"):
        train_model(tmp_path / "bare.csv", tmp_path / "model", TrainingWish("logistic-head", encoder=stated))
    assert not (tmp_path / "model").exists()
