"""From a manifest to what need not be read first, and from a training to a promise in the bundle."""

import json

import numpy as np
import pandas as pd
import pytest

from sentinode.data.manifest import Manifest, read_manifest, write_manifest
from sentinode.data.patches import PatchSource
from sentinode.errors import LeakageError, ManifestError, PlanError
from sentinode.models.bundle import read_bundle
from sentinode.models.runtime import open_recogniser
from sentinode.report.triage_page import per_hundred
from sentinode.workflows.training import TrainingWish, train_model
from sentinode.workflows.triaging import TriageWish, triage_manifest


@pytest.fixture(scope="module")
def patches(draw_cohort, tmp_path_factory):
    """A model that was certified on patches of seven patients, and forty other patients of two sites."""
    folder = tmp_path_factory.mktemp("patches")
    write_manifest(draw_cohort(n_patients=18, n_patches=6, seed=6), folder / "ours.csv")
    wish = TrainingWish("naive-bayes", mpp=1.0, test=0.15, certify=0.4, alpha=0.2)
    model = train_model(folder / "ours.csv", folder / "model", wish)
    others = draw_cohort(n_patients=40, n_patches=6, seed=7)
    frame = others.frame.copy()
    for column in ("image_id", "patient_id", "slide_id"):
        frame[column] = "other-" + frame[column]
    frame["site"] = np.where(frame["patient_id"].str.endswith(("1", "2")), "bergen", "lyon")
    write_manifest(Manifest(frame, others.classes, others.provenance, others.root), folder / "others.csv")
    return folder, model


@pytest.fixture(scope="module")
def report(patches):
    """A triage of the other patients, with everything written."""
    folder, model = patches
    wish = TriageWish(0.2, alpha=0.05, by_site=True)
    return triage_manifest(folder / "others.csv", model.folder, wish, out=folder / "out")


def test_a_training_stores_what_its_certify_patients_allow(patches):
    confident, average = read_bundle(patches[1].folder).facts.promises
    assert patches[1].facts.data.n_patients["certify"] == confident.n_patients == average.n_patients == 7
    assert (confident.kind, confident.delta, confident.threshold) == ("confident", 0.05, None)
    assert (average.kind, average.delta, average.alpha) == ("average", None, 0.2)
    assert average.unit == "patches"
    assert 0 < average.threshold <= 0.5
    assert "nothing is promised of slides" in average.promise.in_words()


def test_a_promise_for_each_site_is_stored_where_it_is_asked_for(draw_cohort, tmp_path):
    table = draw_cohort(n_patients=24, n_patches=4, seed=8)
    frame = table.frame.copy()
    frame["site"] = np.where(frame["patient_id"].str[1:].astype(int) % 2, "bergen", "lyon")
    write_manifest(Manifest(frame, table.classes, table.provenance, table.root), tmp_path / "m.csv")
    wish = TrainingWish("naive-bayes", mpp=1.0, test=0.15, certify=0.5, alpha=0.2, by_site=True)
    model = train_model(tmp_path / "m.csv", tmp_path / "model", wish)
    promises = read_bundle(model.folder).facts.promises
    kinds = ["confident", "average"]
    assert [(one.site, one.kind) for one in promises] == [
        (site, kind) for site in ("", "bergen", "lyon") for kind in kinds
    ]
    everyone, bergen, lyon = promises[1::2]
    assert bergen.n_patients + lyon.n_patients == everyone.n_patients == 12
    assert "of the patients of bergen with a tumour" in bergen.promise.in_words()
    assert "of bergen" in (model.folder / "README.md").read_text(encoding="utf-8")


def test_a_promise_by_site_that_cannot_be_made_is_refused_before_training(patches, tmp_path):
    manifest = patches[0] / "ours.csv"
    with pytest.raises(PlanError, match="give the share of patients to --certify, too"):
        train_model(manifest, tmp_path / "model", TrainingWish("naive-bayes", mpp=1.0, by_site=True))
    with pytest.raises(PlanError, match="says no site of the patients that are certified on"):
        train_model(manifest, tmp_path / "model", TrainingWish("naive-bayes", mpp=1.0, certify=0.4, by_site=True))


def test_certify_patients_are_not_tested_on(patches):
    folder, model = patches
    with pytest.raises(LeakageError, match="trained on patients of it"):
        triage_manifest(folder / "ours.csv", model.folder, TriageWish(0.1))
    assert sum(len(one.patients) for one in model.seen().ids.values()) == 18 - model.facts.data.n_patients["test"]


def test_the_threshold_is_the_lowest_score_of_a_certify_patients_tumour(patches):
    # Seven patients and alpha 20 % allow no miss: (0 + 1) / (7 + 1). What is opened gives what was certified, exactly.
    folder, model = patches
    table = read_manifest(folder / "ours.csv")
    average = model.facts.promises[1]
    assert average.misses == 0
    score = open_recogniser(model).predict_proba(PatchSource(table)[np.arange(len(table))])[:, -1].astype(np.float64)
    tumour = (table.frame["label"] == "tumour").to_numpy()
    assert average.threshold == 0.5 or average.threshold in set(score[tumour])
    assert not (folder / "model.training").exists()


def test_promises_rest_on_the_patients_of_the_manifest(report, patches):
    table = read_manifest(patches[0] / "others.csv")
    ill = table.frame.loc[table.frame["label"] == "tumour", "patient_id"].nunique()
    assert {one.promise.n_patients for one in report.points} == {ill}
    confident, average = report.points
    assert not confident.promise.clears, "59 would be needed"
    assert average.promise.clears
    assert average.n_missed <= 0.05 * (ill + 1) - 1
    assert len(report.table) == 10


def test_the_models_own_promise_is_held_against_new_patients(report):
    (stored,) = report.stored
    assert stored.promise.alpha == 0.2
    below = report.cases.score < stored.promise.threshold
    missed = set(report.cases.patient[below & report.cases.positive])
    assert stored.n_missed == len(missed)


def test_each_site_has_its_own_row(report):
    assert [(one.promise.site, one.promise.kind) for one in report.sites] == [
        ("bergen", "confident"), ("lyon", "confident"), ("bergen", "average"), ("lyon", "average"),
    ]  # fmt: skip
    assert sum(one.promise.n_patients for one in report.sites[:2]) == report.points[0].promise.n_patients


@pytest.mark.usefixtures("report")
def test_everything_is_written_and_says_what_it_is(patches):
    out = patches[0] / "out"
    assert sorted(path.name for path in out.iterdir()) == [
        "curve.csv", "operating-table.csv", "trail.jsonl", "trail.jsonl.head", "triage.html", "triage.json",
    ]  # fmt: skip
    (line,) = [json.loads(line) for line in (out / "trail.jsonl").read_text().splitlines()]
    assert (line["action"], line["options"]["prevalence"]) == ("triage", 0.2)
    assert line["model"] == patches[1].digest
    found = json.loads((out / "triage.json").read_text())
    assert found["unit"] == "patches"
    assert found["points"][0]["threshold"] is None
    assert found["points"][0]["n_needed"] == 59
    assert found["points"][1]["per_hundred"].startswith("Of 100 patches, 20 % of them with a tumour,")
    page = (out / "triage.html").read_text()
    assert "Which patches need not be read first?" in page
    assert "slide called clear" not in page
    assert "Workload saved against sensitivity" in page
    assert len(pd.read_csv(out / "operating-table.csv")) == 10
    assert pd.read_csv(out / "curve.csv")["workload"].is_monotonic_increasing


def test_what_a_promise_brings_is_said_of_a_hundred(report):
    confident, average = report.points
    assert per_hundred(confident, 0.2) == "Of 100 patches none is called clear: too few patients for the promise."
    assert "Of 100 patients with a tumour, at most 5 have any of their tumour patches among those, on average." in (
        per_hundred(average, 0.2)
    )


def test_images_of_nobody_belong_into_no_promise(patches, tmp_path):
    table = read_manifest(patches[0] / "others.csv")
    frame = table.frame.copy()
    frame.loc[frame.index[:6], ["patient_id", "slide_id"]] = ""
    write_manifest(Manifest(frame, table.classes, table.provenance, table.root), tmp_path / "some.csv")
    found = triage_manifest(tmp_path / "some.csv", patches[1].folder, TriageWish(0.1))
    assert len(found.cases) == 234
    assert "6 images of unknown patients were left out" in found.notes[0]
    frame[["patient_id", "slide_id"]] = ""
    write_manifest(Manifest(frame, table.classes, table.provenance, table.root), tmp_path / "none.csv")
    with pytest.raises(ManifestError, match="nothing can be promised of patients"):
        triage_manifest(tmp_path / "none.csv", patches[1].folder, TriageWish(0.1))


@pytest.mark.parametrize("wish", [{"alpha": 0.0}, {"delta": 1.0}, {"prevalence": 20}])
def test_impossible_wishes_are_refused(wish):
    with pytest.raises(PlanError, match="a share"):
        TriageWish(**{"prevalence": 0.1, **wish})


def test_an_impossible_promise_is_refused_before_the_training(patches, tmp_path):
    with pytest.raises(PlanError, match="alpha = 1"):
        train_model(patches[0] / "ours.csv", tmp_path / "b", TrainingWish("naive-bayes", certify=0.2, alpha=1))
