"""Learning curves over a cohort that recipes tell apart in a second."""

import itertools
import json

import numpy as np
import pytest

from sentinode.data.manifest import read_manifest
from sentinode.data.overlaps import Overlaps
from sentinode.data.splits import Protocol, make_splits, with_fewer_to_train_on
from sentinode.errors import PlanError
from sentinode.study import curve as curves
from sentinode.study.curve import run_curve, summarise_curve
from sentinode.study.events import StudyStarted, TrialFinished
from sentinode.study.plan import read_plan
from sentinode.study.runner import run_study
from sentinode.study.store import StudyStore
from sentinode.workflows.studying import run_curve_from

SMALL = 'on = "serial"\n[curve]\npatients = [2, 3, 5]\npatches = [6, 12, 24]\n'


@pytest.fixture
def curve_plan(write_plan):
    return write_plan(**{'on = "serial"': SMALL})


@pytest.fixture
def split(cohort):
    manifest = read_manifest(cohort / "manifest.csv")
    return manifest, make_splits(manifest, Protocol(repeats=1), Overlaps.none())[0]


@pytest.mark.parametrize("axis", curves.AXES)
def test_parts_are_nested_within_train_and_hold_every_class(split, axis):
    manifest, whole = split
    sizes = {"patients": (2, 3, 5), "patches": (6, 12, 24)}[axis]
    parts = curves._PARTS[axis](manifest, whole, sizes, 1)
    for smaller, larger in itertools.pairwise(parts):
        assert set(smaller) < set(larger)
    assert set(parts[-1]) <= set(whole.train)
    for size, part in zip(sizes, parts, strict=True):
        n = {"patients": len(set(manifest.groups[part])), "patches": len(part)}[axis]
        assert n == size
        assert set(manifest.codes[part]) == {0, 1}


def test_patches_are_taken_from_every_patient_alike(split):
    manifest, whole = split
    half, _, _ = curves._PARTS["patches"](manifest, whole, (15, 20, 25), 1)
    _, counts = np.unique(manifest.groups[half], return_counts=True)
    assert len(counts) == whole.n_patients(manifest, "train")
    assert counts.max() - counts.min() <= 2


def test_every_patient_of_a_part_brings_all_his_patches(split):
    manifest, whole = split
    part = curves._PARTS["patients"](manifest, whole, (2, 3, 5), 1)[0]
    mine = np.isin(manifest.groups, np.unique(manifest.groups[part]))
    assert sorted(part) == np.flatnonzero(mine).tolist()


def test_test_and_stop_stay_and_only_the_whole_has_the_digest_of_the_whole(split):
    manifest, whole = split
    fewer = with_fewer_to_train_on(manifest, whole, whole.train[:6])
    assert np.array_equal(fewer.test, whole.test)
    assert np.array_equal(fewer.stop, whole.stop)
    assert fewer.digest != whole.digest
    assert with_fewer_to_train_on(manifest, whole, whole.train).digest == whole.digest
    with pytest.raises(ValueError, match="cannot stay"):
        with_fewer_to_train_on(manifest, whole, whole.test)


def test_every_size_of_every_repeat_is_trained_on_what_it_says(curve_plan, tmp_path):
    table = run_curve(read_plan(curve_plan), tmp_path / "out")
    assert table.complete
    assert len(table.points) == 2 * 2 * 6
    patients = table.points[table.points["axis"] == "patients"]
    assert (patients["n_patients"] == patients["size"]).all()
    patches = table.points[table.points["axis"] == "patches"]
    assert (patches["n_images"] == patches["size"]).all()
    assert table.points[["auc", "accuracy"]].notna().all(axis=None)


def test_the_error_falls_where_there_is_something_to_learn(curve_plan, tmp_path):
    table = run_curve(read_plan(curve_plan), tmp_path / "out")
    learned = table.curves["patches", "naive-bayes", "auc"]
    assert learned.errors[-1].value < 0.1
    assert table.curves["patches", "majority", "auc"].errors[-1].value == 0.5


def test_what_is_stored_is_not_run_again(curve_plan, tmp_path):
    run_curve(read_plan(curve_plan), tmp_path / "out")
    events = []
    run_curve(read_plan(curve_plan), tmp_path / "out", events.append)
    [started] = [event for event in events if isinstance(event, StudyStarted)]
    assert started.n_stored == started.n_trials > 0
    assert not any(isinstance(event, TrialFinished) for event in events)


def test_a_study_in_the_same_folder_gives_its_trials_and_keeps_its_table(write_plan, tmp_path):
    run_study(read_plan(write_plan()), tmp_path / "out")
    before = (tmp_path / "out" / "study.json").read_text(encoding="utf-8")
    events = []
    run_curve(read_plan(write_plan(**{'on = "serial"': SMALL})), tmp_path / "out", events.append)
    [started] = [event for event in events if isinstance(event, StudyStarted)]
    assert started.n_stored == 4  # five patients are all that train, in two repeats, for two algorithms
    assert (tmp_path / "out" / "study.json").read_text(encoding="utf-8") == before


def test_sizes_are_found_where_none_are_given(write_plan, tmp_path):
    table = run_curve(read_plan(write_plan()), tmp_path / "out")
    assert sorted(set(table.points.loc[table.points["axis"] == "patients", "size"])) == [2, 3, 4, 5]
    assert max(table.points["n_images"]) == 30


def test_a_repeat_with_a_failed_size_is_left_out_and_told(curve_plan, tmp_path):
    table = run_curve(read_plan(curve_plan), tmp_path / "out")
    row = table.points[(table.points["axis"] == "patients") & (table.points["algorithm"] == "majority")].iloc[0]
    folder = StudyStore(tmp_path / "out").folder / "trials" / row["key"]
    folder.rename(folder.with_name("gone"))
    again = summarise_curve(tmp_path / "out")
    assert not again.complete
    assert "majority, patients: 1 repeats are not whole and are left out" in again.notes
    assert again.curves["patients", "majority", "auc"].n_repeats == 1


def test_the_files_say_what_the_table_says(curve_plan, tmp_path):
    table = run_curve_from(curve_plan, tmp_path / "out")
    kept = json.loads((tmp_path / "out" / "learning-curve.json").read_text(encoding="utf-8"))
    assert len(kept["curves"]) == 2 * 2 * 2
    assert all("cannot tell" in one["answer"] for one in kept["curves"])  # two repeats, three sizes
    assert len((tmp_path / "out" / "learning-curve.csv").read_text(encoding="utf-8").splitlines()) == 25
    page = (tmp_path / "out" / "learning-curve.html").read_text(encoding="utf-8")
    assert "synthetic images" in page
    assert page.count("<svg") == 8
    assert len(table.facts["points"]) == 24


@pytest.mark.parametrize(
    ("curve", "fault"),
    [
        ("patients = [2, 3, 50]", "trains on 5"),
        ("patches = [6, 12, 500]", "trains on 30"),
        ("patients = []\npatches = []", "asks for no curve"),
        ("patients = [3, 2, 4]", "each larger"),
        ("patients = [2, 3]", "three or more"),
        ("point = 4", "did you mean 'points'"),
    ],
)
def test_sizes_that_cannot_be_are_refused(write_plan, tmp_path, curve, fault):
    path = write_plan(**{'on = "serial"': f'on = "serial"\n[curve]\n{curve}\n'})
    with pytest.raises(PlanError, match=fault):
        run_curve(read_plan(path), tmp_path / "out")


def test_patients_are_not_counted_where_images_were_drawn(write_plan, tmp_path):
    table = run_curve(
        read_plan(write_plan(**{'on = "serial"': 'on = "serial"\nprotocol = "random"'})), tmp_path / "out"
    )
    assert {axis for axis, _, _ in table.curves} == {"patches"}
    assert any("no curve over patients" in note for note in table.notes)
