"""From a manifest to a model, and what the model is worth on images that it has not seen."""

import json

import numpy as np
import pytest

from sentinode.data.manifest import Manifest, read_manifest, write_manifest
from sentinode.data.patches import PatchSource
from sentinode.errors import ExportError, LeakageError, ModelError, PlanError
from sentinode.models import bundle as bundle_module
from sentinode.models.bundle import read_bundle
from sentinode.models.runtime import open_recogniser
from sentinode.workflows.evaluating import evaluate_model
from sentinode.workflows.training import EpochDone, TrainingWish, train_model

NEWER = {"digest", "calibration", "promises", "by_site", "int8"}  # what format 1 did not have, and the digest over it
SMALL_CNN = {
    "layers": [{"conv": 8, "kernel": 3}, {"pool": "max", "size": 4}, {"dense": 16}],
    "epochs": 6,
    "batch_size": 8,
    "learning_rate": 3e-3,
    "precision": "float32",
    "threads": 1,
}


@pytest.fixture(scope="module")
def cohorts(draw_cohort, tmp_path_factory):
    """Ten patients to train with, and six others (their ids differ, too)."""
    folder = tmp_path_factory.mktemp("manifests")
    ours = draw_cohort(n_patients=10, n_patches=10, seed=1)
    theirs = draw_cohort(n_patients=6, n_patches=10, seed=2)
    frame = theirs.frame.copy()
    for column in ("image_id", "patient_id", "slide_id"):
        frame[column] = "other-" + frame[column]
    theirs = Manifest(frame, theirs.classes, theirs.provenance, theirs.root)
    write_manifest(ours, folder / "ours.csv")
    write_manifest(theirs, folder / "theirs.csv")
    return folder


@pytest.fixture(scope="module")
def network(cohorts, tmp_path_factory):
    """A small network's bundle."""
    out = tmp_path_factory.mktemp("network") / "bundle"
    return train_model(cohorts / "ours.csv", out, TrainingWish("paper-cnn", SMALL_CNN, mpp=1.0))


@pytest.fixture(scope="module", params=["naive-bayes", "kernel-svm", "template-matching", "majority"])
def classical(request, cohorts, tmp_path_factory):
    """A bundle of each algorithm that is no network."""
    out = tmp_path_factory.mktemp(request.param) / "bundle"
    settings = {"template_px": 11, "n_templates": 3, "shrink": 1} if request.param == "template-matching" else {}
    return train_model(cohorts / "ours.csv", out, TrainingWish(request.param, settings))


def test_a_network_recognises_from_its_bundle_on_other_patients(network, cohorts):
    found = evaluate_model(cohorts / "theirs.csv", network.folder)
    assert found.metrics["auc"].value > 0.9
    assert found.metrics["auc"].low <= found.metrics["auc"].value <= found.metrics["auc"].high
    assert (found.n_images, found.n_patients, found.n_unknown) == (60, 6, 0)


def test_a_network_that_says_the_same_of_everything_is_warned_of(cohorts, tmp_path, caplog):
    train_model(cohorts / "ours.csv", tmp_path / "b", TrainingWish("paper-cnn", SMALL_CNN | {"learning_rate": 3}))
    (told,) = [line for line in caplog.messages if "learned nothing" in line]
    assert "--set learning_rate=0.3" in told
    caplog.clear()
    train_model(cohorts / "ours.csv", tmp_path / "c", TrainingWish("paper-cnn", SMALL_CNN))
    assert not [line for line in caplog.messages if "learned nothing" in line]


def test_an_evaluation_is_written_into_the_trail(network, cohorts, tmp_path):
    evaluate_model(cohorts / "theirs.csv", network.folder, predictions=tmp_path / "p.csv")
    (line,) = [json.loads(line) for line in (tmp_path / "trail.jsonl").read_text().splitlines()]
    assert (line["action"], line["model"]) == ("evaluate", network.digest)
    assert line["verdict"]["n_patients"] == 6
    assert line["data"]["content"] == read_manifest(cohorts / "theirs.csv").digest


def test_the_bundle_says_what_it_is(network):
    facts = read_bundle(network.folder).facts
    assert facts.classes == ("normal", "tumour")
    assert (facts.tile.height, facts.tile.width, facts.tile.mpp) == (24, 24, 1.0)
    assert facts.data.n_patients["test"] == 3  # a quarter of ten, rounded up
    assert sum(facts.data.n_images.values()) == 100
    assert facts.settings["l2"] == 0.003, "a default that the plan did not name"
    assert facts.metrics["auc"].value > 0.8
    assert "Research use only" in (network.folder / "README.md").read_text()


def test_every_other_algorithm_comes_back_from_its_bundle(classical, cohorts):
    found = evaluate_model(cohorts / "theirs.csv", classical.folder)
    floor = 0.5 if classical.facts.algorithm == "majority" else 0.6
    assert found.metrics["auc"].value >= floor
    columns = found.predictions[["proba_normal", "proba_tumour"]].to_numpy()
    assert np.allclose(columns.sum(axis=1), 1, atol=1e-4)


def test_the_positive_class_is_last_whatever_the_alphabet_says(tmp_path, draw_cohort):
    base = draw_cohort(n_patients=8, n_patches=10, seed=3)
    turned = Manifest(base.frame, ("tumour", "normal"), base.provenance, base.root)
    write_manifest(turned, tmp_path / "m.csv")
    bundle = train_model(tmp_path / "m.csv", tmp_path / "b", TrainingWish("paper-cnn", SMALL_CNN))
    assert (bundle.facts.classes, bundle.facts.columns) == (("tumour", "normal"), ("normal", "tumour"))
    assert bundle.facts.metrics["auc"].value > 0.8
    proba = open_recogniser(bundle).predict_proba(PatchSource(base)[np.flatnonzero(base.frame["label"] == "normal")])
    assert proba[:, 1].mean() > 0.6


def test_patients_of_the_training_are_not_tested_on(network, cohorts):
    with pytest.raises(LeakageError, match="trained on patients of it"):
        evaluate_model(cohorts / "ours.csv", network.folder)


def test_an_image_of_the_training_is_recognised_without_its_patient(network, tmp_path, draw_cohort):
    ours = draw_cohort(n_patients=10, n_patches=10, seed=1)
    frame = ours.frame.copy()
    frame[["patient_id", "slide_id"]] = ""
    frame["image_id"] = [f"renamed-{row}" for row in range(len(frame))]
    write_manifest(Manifest(frame, ours.classes, ours.provenance, ours.root), tmp_path / "nameless.csv")
    with pytest.raises(LeakageError, match="trained on images of it"):
        evaluate_model(tmp_path / "nameless.csv", network.folder, predictions=tmp_path / "p.csv")
    assert not (tmp_path / "p.csv").exists()


def test_the_training_log_has_a_line_an_epoch(network):
    log = (network.folder / "training.csv").read_text().splitlines()
    assert log[0].startswith("stage,epoch,loss,stop_loss")
    assert 2 <= len(log) <= 1 + SMALL_CNN["epochs"]


def test_progress_tells_each_epoch_of_at_most_so_many(cohorts, tmp_path):
    told = []
    train_model(
        cohorts / "ours.csv", tmp_path / "b", TrainingWish("paper-cnn", {**SMALL_CNN, "epochs": 2}), told.append
    )
    epochs = [event for event in told if isinstance(event, EpochDone)]
    assert [(one.done, one.total) for one in epochs] == [(1, 2), (2, 2)]


def test_what_was_interrupted_goes_on_from_its_last_epoch(cohorts, tmp_path):
    wish = TrainingWish("paper-cnn", SMALL_CNN)

    class StopError(Exception):
        pass

    def stop_at_third(event):
        if isinstance(event, EpochDone) and event.done == 3:
            raise StopError

    with pytest.raises(StopError):
        train_model(cohorts / "ours.csv", tmp_path / "b", wish, stop_at_third)
    assert not (tmp_path / "b").exists()
    told = []
    resumed = train_model(cohorts / "ours.csv", tmp_path / "b", wish, told.append)
    n_epochs = sum(isinstance(event, EpochDone) for event in told)
    assert n_epochs <= SMALL_CNN["epochs"] - 2
    whole = train_model(cohorts / "ours.csv", tmp_path / "c", wish)
    assert resumed.files["weights.safetensors"] == whole.files["weights.safetensors"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b", "c"], "nothing is left beside the bundles"


@pytest.mark.parametrize("name", ["bundle.json", "graph.onnx", "seen.json", "README.md"])
def test_a_bundle_that_was_tampered_with_is_refused(network, tmp_path, name):
    copy = _copied(network.folder, tmp_path)
    content = bytearray((copy / name).read_bytes())
    place = content.index(b"tumour") if name == "bundle.json" else len(content) // 2
    content[place] ^= 1
    (copy / name).write_bytes(bytes(content))
    with pytest.raises(ModelError, match=r"was changed|cannot be read"):
        read_bundle(copy)


def test_a_bundle_of_a_newer_format_is_refused(network, tmp_path):
    copy = _copied(network.folder, tmp_path)
    facts = json.loads((copy / "bundle.json").read_text())
    (copy / "bundle.json").write_text(json.dumps({**facts, "version": 99}))
    with pytest.raises(ModelError, match="update Sentinode"):
        read_bundle(copy)


def test_a_bundle_without_a_calibration_opens_as_the_first_format_wrote_it(network, tmp_path, cohorts):
    # What Sentinode wrote before there were calibrations: format 1, without the field, with a digest over all of it.
    copy = _copied(network.folder, tmp_path)
    facts = json.loads((copy / "bundle.json").read_text())
    stated = {name: value for name, value in facts.items() if name not in NEWER} | {"version": 1}
    (copy / "bundle.json").write_text(json.dumps({**stated, "digest": bundle_module._digest(stated)}))
    old = read_bundle(copy)
    assert (old.facts.calibration, old.facts.promises, old.facts.by_site) == (None, (), {})
    pixels = PatchSource(read_manifest(cohorts / "theirs.csv"))[np.arange(4)]
    assert np.array_equal(open_recogniser(old).predict_proba(pixels), open_recogniser(network).predict_proba(pixels))


def test_a_bundle_has_the_numbers_of_each_site(draw_cohort, tmp_path):
    base = draw_cohort(n_patients=12, n_patches=8, seed=9)
    frame = base.frame.copy()
    frame["site"] = np.where(frame["patient_id"].str.slice(1).astype(int) % 2, "bergen", "lyon")
    write_manifest(Manifest(frame, base.classes, base.provenance, base.root), tmp_path / "m.csv")
    bundle = train_model(tmp_path / "m.csv", tmp_path / "b", TrainingWish("naive-bayes", test=0.5))
    by_site = bundle.facts.by_site
    assert sum(one["patients"].value for one in by_site.values()) == bundle.facts.data.n_patients["test"] == 6
    assert {"bergen", "lyon"} >= set(by_site)
    assert all(0.5 <= one["auc"].value <= 1 for one in by_site.values())
    assert "### By site" in (tmp_path / "b" / "README.md").read_text()


@pytest.fixture(scope="module")
def calibrated(draw_cohort, tmp_path_factory):
    """A bundle with six patients to calibrate on, and the cohort's folder."""
    folder = tmp_path_factory.mktemp("calibrated")
    write_manifest(draw_cohort(n_patients=20, n_patches=8, seed=6), folder / "m.csv")
    return train_model(folder / "m.csv", folder / "b", TrainingWish("naive-bayes", calibrate=0.3))


def test_a_calibration_is_of_patients_of_their_own_and_applied_by_whoever_opens_the_bundle(calibrated, cohorts):
    facts = read_bundle(calibrated.folder).facts
    assert facts.data.n_patients["calibrate"] == facts.calibration.n_patients == 6
    assert sum(facts.data.n_patients.values()) == 20
    assert facts.calibration.method != "none", "naive Bayes is far too sure of itself"
    assert facts.calibration.losses[facts.calibration.method] == min(facts.calibration.losses.values())
    pixels = PatchSource(read_manifest(cohorts / "theirs.csv"))[np.arange(20)]
    raw = open_recogniser(calibrated, calibrated=False).predict_proba(pixels)
    given = open_recogniser(calibrated).predict_proba(pixels)
    assert np.allclose(given, facts.calibration.calibration.apply(raw))
    assert np.abs(given - raw).max() > 0.01
    found = evaluate_model(cohorts / "theirs.csv", calibrated.folder)
    assert np.allclose(found.predictions["proba_tumour"][:20], given[:, 1])
    assert found.calibration["ece"].low <= found.calibration["ece"].value <= found.calibration["ece"].high


def test_the_numbers_of_a_bundle_are_those_of_calibrated_probabilities(calibrated):
    facts = calibrated.facts
    assert facts.metrics["brier"].value == pytest.approx(facts.calibration.after["brier"].value, abs=1e-6)
    assert facts.metrics["brier"].value != pytest.approx(facts.calibration.before["brier"].value, abs=1e-6)


def test_patients_of_the_calibration_are_not_tested_on(calibrated):
    with pytest.raises(LeakageError, match="trained on patients of it"):
        evaluate_model(calibrated.folder.parent / "m.csv", calibrated.folder)
    assert (
        sum(len(one.patients) for one in calibrated.seen().ids.values())
        == 20 - calibrated.facts.data.n_patients["test"]
    )


def test_too_few_patients_to_calibrate_on_are_told_before_the_training(cohorts, tmp_path):
    told = []
    with pytest.raises(PlanError, match="a calibration needs 5"):
        train_model(cohorts / "ours.csv", tmp_path / "b", TrainingWish("paper-cnn", calibrate=0.2), told.append)
    assert not any(isinstance(event, EpochDone) for event in told)


def test_a_bundle_whose_file_is_missing_is_refused(network, tmp_path):
    copy = _copied(network.folder, tmp_path)
    (copy / "graph.onnx").unlink()
    with pytest.raises(ModelError, match=r"graph\.onnx: cannot be read"):
        read_bundle(copy)


def test_what_is_no_bundle_is_refused(tmp_path):
    with pytest.raises(ModelError, match="is no model"):
        read_bundle(tmp_path)
    with pytest.raises(ModelError, match="is no model"):
        read_bundle(tmp_path / "absent")


def test_nothing_is_written_over(network, cohorts):
    with pytest.raises(ExportError, match="is there already"):
        train_model(cohorts / "ours.csv", network.folder)


def test_images_of_several_resolutions_are_no_model(tmp_path, draw_cohort):
    base = draw_cohort(n_patients=8, n_patches=10, seed=4)
    frame = base.frame.copy()
    frame["mpp"] = [0.25, 0.5] * (len(frame) // 2)
    write_manifest(Manifest(frame, base.classes, base.provenance, base.root), tmp_path / "m.csv")
    with pytest.raises(PlanError, match="a model has one"):
        train_model(tmp_path / "m.csv", tmp_path / "b", TrainingWish("majority"))


def test_images_of_another_size_or_class_are_refused(network, tmp_path, draw_cohort):
    small = draw_cohort(n_patients=4, n_patches=4, size=16, seed=5)
    write_manifest(small, tmp_path / "small.csv")
    frame = small.frame.copy()
    for column in ("patient_id", "slide_id"):
        frame[column] = "new-" + frame[column]
    write_manifest(Manifest(frame, small.classes, small.provenance, small.root), tmp_path / "small.csv")
    with pytest.raises(ModelError, match="16 x 16 px, and the model takes 24 x 24"):
        evaluate_model(tmp_path / "small.csv", network.folder)
    frame["label"] = frame["label"].replace("tumour", "lymphoma")
    write_manifest(Manifest(frame, ("normal", "lymphoma"), small.provenance, small.root), tmp_path / "other.csv")
    with pytest.raises(ModelError, match="labelled lymphoma"):
        evaluate_model(tmp_path / "other.csv", network.folder)


def _copied(folder, tmp_path):
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in folder.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    return copy
