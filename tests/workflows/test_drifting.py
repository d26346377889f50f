"""New cases of the same kind raise no alarm, another stain does, and it is said what changed."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import tifffile
from PIL import Image, ImageFilter
from typer.testing import CliRunner

from sentinode.cli import app
from sentinode.data.manifest import Manifest, write_manifest
from sentinode.errors import LeakageError, ManifestError, ModelError, PlanError
from sentinode.workflows.drifting import find_drift
from sentinode.workflows.training import TrainingWish, train_model

N_NEW = 14


@pytest.fixture(scope="module")
def model(draw_cohort, tmp_path_factory):
    """A model of twelve patients at 1 um a pixel."""
    folder = tmp_path_factory.mktemp("model")
    write_manifest(draw_cohort(n_patients=12, n_patches=6), folder / "m.csv")
    return train_model(folder / "m.csv", folder / "bundle", TrainingWish("naive-bayes", mpp=1.0)).folder


@pytest.fixture
def new(draw_cohort):
    """Cases that the model has not seen."""
    return _renamed(draw_cohort(n_patients=N_NEW, n_patches=6, seed=7))


def _renamed(table, **columns):
    frame = table.frame.copy()
    for name in ("patient_id", "slide_id"):
        frame[name] = "new-" + frame[name]
    return replace(table, frame=frame.assign(**columns))


def _darken(table, names):
    for name in names:
        path = table.root / name
        Image.fromarray((np.asarray(Image.open(path)) * 0.7).astype(np.uint8)).save(path)


def at_of(found):
    """How many cases the alarm took."""
    return found.test.alarmed_at


def test_blur_alone_alarms_and_is_called_blur(new, model, tmp_path):
    for name in new.frame["path"]:
        image = Image.open(new.root / name)
        image.filter(ImageFilter.GaussianBlur(1.2)).save(new.root / name)
    write_manifest(new, tmp_path / "new.csv")
    found = find_drift([tmp_path / "new.csv"], model)
    assert found.test.alarmed_at is not None
    assert "less sharp (-" in " ".join(found.in_words())


def test_cases_of_the_same_kind_raise_no_alarm(new, model, tmp_path):
    write_manifest(new, tmp_path / "new.csv")
    found = find_drift([tmp_path / "new.csv"], model)
    assert found.test.alarmed_at is None
    assert found.cases == tuple(f"new-p{n}" for n in range(N_NEW))
    assert "That does not show that nothing changed" in " ".join(found.in_words())
    assert max(map(abs, found.shifts.values())) < 0.5
    assert list(found.distances) == list(found.known) == ["stain", "appearance"]
    assert {len(one) for one in found.known.values()} == {found.n_known}


def test_another_stain_alarms_and_is_put_into_words(new, model, tmp_path):
    _darken(new, new.frame["path"])
    write_manifest(new, tmp_path / "new.csv")
    found = find_drift([tmp_path / "new.csv"], model, out=tmp_path / "out")
    assert 2 <= found.test.alarmed_at <= 8
    words = " ".join(found.in_words())
    assert f"CHANGED, after {found.test.alarmed_at} of {N_NEW} cases" in words
    assert "half of the cases have at most 6 tiles" in words
    assert "more haematoxylin" in words or "more eosin" in words
    table = pd.read_csv(tmp_path / "out" / "drift.csv")
    columns = ["case", "tiles", "distance_stain", "distance_appearance", "p_value", "log10_evidence"]
    assert table.columns.tolist() == columns
    assert "darker on the whole (+" in words
    page = (tmp_path / "out" / "drift.html").read_text(encoding="utf-8")
    assert f"Changed, after {at_of(found)} of {N_NEW} cases" in page
    assert "<svg" in page
    assert "new-p13" in page
    at = found.test.alarmed_at
    assert table["log10_evidence"][at - 1] >= 2 > table["log10_evidence"][: at - 1].max()
    assert json.loads((tmp_path / "out" / "drift.json").read_text())["alarmed_at"] == at


def test_with_another_salt_it_is_said_that_ids_could_not_be_asked(new, model, tmp_path, monkeypatch):
    write_manifest(new, tmp_path / "new.csv")
    monkeypatch.setenv("SENTINODE_SALT", "of quite another laboratory")
    found = find_drift([tmp_path / "new.csv"], model)
    assert "could not be asked of the ids of patients" in found.in_words()[-1]
    assert found.to_json()["notes"] == list(found.notes)


def test_many_slides_of_one_patient_are_one_case(new, model, tmp_path):
    """Were each patch a case, one odd patient would be dozens of witnesses."""
    slides = [f"s{n}" for n in range(len(new))]
    one = replace(new, frame=new.frame.assign(patient_id="new-one", slide_id=slides))
    _darken(new, new.frame["path"])
    write_manifest(one, tmp_path / "new.csv")
    found = find_drift([tmp_path / "new.csv"], model)
    assert found.cases == ("new-one",)
    assert found.test.alarmed_at is None


def test_a_case_that_cannot_be_read_stops_no_other(new, model, tmp_path):
    (new.root / new.frame["path"][0]).write_bytes(b"no")
    write_manifest(new, tmp_path / "new.csv")
    found = find_drift([tmp_path / "new.csv"], model)
    assert list(found.failures) == ["new-p0"]
    assert len(found.cases) == N_NEW - 1


def test_what_cannot_be_tested_is_refused(new, model, draw_cohort, tmp_path):
    write_manifest(draw_cohort(n_patients=2, n_patches=6), tmp_path / "seen.csv")
    with pytest.raises(LeakageError, match="patients"):
        find_drift([tmp_path / "seen.csv"], model)
    nobody = Manifest(new.frame.drop(columns=["patient_id", "slide_id"]), new.classes, new.provenance, new.root)
    write_manifest(nobody, tmp_path / "nobody.csv")
    with pytest.raises(ManifestError, match="names neither patients nor slides"):
        find_drift([tmp_path / "nobody.csv"], model)
    with pytest.raises(PlanError, match="one manifest, or slides"):
        find_drift([tmp_path / "seen.csv", tmp_path], model)
    with pytest.raises(PlanError, match="alarm = 0"):
        find_drift([tmp_path / "seen.csv"], model, alarm=0)
    write_manifest(draw_cohort(n_patients=4, n_patches=6), tmp_path / "two.csv")
    few = train_model(tmp_path / "two.csv", tmp_path / "few", TrainingWish("majority", mpp=1.0)).folder
    with pytest.raises(ModelError, match="fewer than three known patients"):
        find_drift([tmp_path / "new.csv"], few)


def test_slides_are_cases_and_the_command_tells_by_its_exit_code(model, tmp_path):
    rng = np.random.default_rng(1)
    for number in range(6):
        pixels = np.full((512, 512, 3), 243, np.uint8)
        pixels[100:400, 100:400] = rng.normal((120, 60, 150), 12, size=(300, 300, 3)).clip(0, 255)
        tifffile.imwrite(
            tmp_path / f"s{number}.tif", pixels, tile=(64, 64), resolution=(10_000, 10_000), resolutionunit="CENTIMETER"
        )
    wish = ["drift", str(tmp_path), "--model", str(model)]
    done = CliRunner().invoke(app, [*wish, "--json"], catch_exceptions=False)
    assert done.exit_code == 1, done.output
    told = json.loads(done.stdout)
    assert told["n_cases"] == 6
    assert told["alarmed_at"] <= 6
    shown = CliRunner().invoke(app, [*wish, "--out", str(tmp_path / "out")])
    assert "CHANGED, after" in shown.output
    assert "Research use only" in shown.output
    (tmp_path / "s9.tif").write_bytes(b"no")
    lost = json.loads(CliRunner().invoke(app, [*wish, "--json"]).stdout)
    assert list(lost["failures"]) == ["s9"]
    assert lost["n_cases"] == 6
