import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from sentinode.algorithms import registry
from sentinode.algorithms.majority import Majority
from sentinode.algorithms.registry import AlgorithmSpec
from sentinode.data.manifest import read_manifest, write_manifest
from sentinode.data.splits import read_splits
from sentinode.errors import ExportError, LeakageError, PlanError
from sentinode.evaluation.metrics import auc
from sentinode.study import runner
from sentinode.study import trial as trials
from sentinode.study.events import StudyStarted, TrialFailed, TrialFinished, TrialStarted
from sentinode.study.measure import source_digest
from sentinode.study.plan import read_plan
from sentinode.study.runner import run_study
from sentinode.study.store import StudyStore, read_study
from sentinode.study.trial import Trial, _shortened
from sentinode.workflows.studying import run_study_from

KILLED = """
import os, signal, sys
from sentinode import storage
from sentinode.workflows.studying import run_study_from

def die_when(event):
    if type(event).__name__ == "TrialStarted":
        print("started", flush=True)

if __name__ == "__main__":
    if sys.argv[3] == "write":
        flush, flushed = storage._flush, []
        def flush_and_count(path):
            flush(path)
            if path.parent.name.startswith(storage.TEMPORARY):
                flushed.append(path)
                if len(flushed) == 5:  # one trial has three files: in the middle of the second
                    os.kill(os.getpid(), signal.SIGKILL)
        storage._flush = flush_and_count
    run_study_from(sys.argv[1], sys.argv[2], die_when)
"""

SLOW_WRITER = """
import sys, time
from sentinode import storage
from sentinode.workflows.studying import run_study_from

if __name__ == "__main__":
    run_study_from(sys.argv[1], sys.argv[2])
else:  # in the process of a trial, which imports this file
    storage._flush = lambda _path: time.sleep(60)
"""
SLOW_TO_LOAD = """
import time
time.sleep(0.5)
"""
ONCE = {"repeats = 2": "repeats = 1"}
APART = {'"serial"': '"processes"'}


def _predictions(folder) -> dict[tuple[str, int], pd.DataFrame]:
    return {(trial.name, trial.repeat): trial.predictions() for trial in read_study(folder).trials}


def _same(first, second) -> bool:
    return first.keys() == second.keys() and all(first[key].equals(second[key]) for key in first)


def test_every_trial_predicts_the_test_patients_of_its_split_and_no_other(write_plan, cohort, tmp_path):
    result = run_study(read_plan(write_plan()), tmp_path / "out")
    manifest = read_manifest(cohort / "manifest.csv")
    _, splits = read_splits(tmp_path / "out" / "splits.json", manifest)
    ids = manifest.frame["image_id"].to_numpy()
    assert [(trial.name, trial.repeat) for trial in result.trials] == [
        ("majority", 0),
        ("naive-bayes", 0),
        ("majority", 1),
        ("naive-bayes", 1),
    ]
    for trial in result.trials:
        split, predictions = splits[trial.repeat], trial.predictions()
        assert predictions["image_id"].tolist() == ids[split.test].tolist()
        assert not set(predictions["patient_id"]) & set(manifest.groups[split.train])
        assert list(predictions.columns) == ["image_id", "patient_id", "label", "proba_normal", "proba_tumour"]
        assert predictions["proba_tumour"].dtype == np.float32


def test_the_classes_are_learned_and_the_columns_are_theirs(write_plan, tmp_path):
    found = _predictions_of(run_study(read_plan(write_plan()), tmp_path / "out"), "naive-bayes")
    assert auc(found["label"] == "tumour", found["proba_tumour"]) > 0.95


def _predictions_of(result, name) -> pd.DataFrame:
    return pd.concat([trial.predictions() for trial in result.trials if trial.name == name])


def test_probabilities_are_calibrated_on_patients_of_their_own(cohort, tmp_path):
    write = tmp_path / "more"
    write.mkdir()
    frame = read_manifest(cohort / "manifest.csv").frame
    parts = [
        frame.assign(patient_id=frame["patient_id"] + suffix, image_id=frame["image_id"] + suffix)
        for suffix in ("", " again", " and again")
    ]
    for suffix, part in zip(("", "a", "b"), parts, strict=True):
        for position, path in enumerate(part["path"].tolist()):
            pixels = np.asarray(Image.open(cohort / path)).astype(int) + len(suffix) * (position % 5)
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(write / f"{suffix}{path}")
        part["path"] = [f"{suffix}{path}" for path in part["path"]]
    table = read_manifest(cohort / "manifest.csv")
    write_manifest(replace(table, frame=pd.concat(parts, ignore_index=True), root=write), write / "manifest.csv")
    (write / "study.toml").write_text(
        'manifest = "manifest.csv"\nrepeats = 1\nalgorithms = ["naive-bayes"]\non = "serial"\ncalibrate = 0.3\n'
        "[algorithm.naive-bayes]\nfolds = 0\ncomponents = 3\n"
    )
    (trial,) = run_study(read_plan(write / "study.toml"), write / "study").trials
    assert trial.result["calibration"]["n_patients"] == trial.result["n_patients"]["calibrate"] >= 6
    assert trial.result["calibration"]["method"] in trial.result["calibration"]["losses"]
    found = trial.predictions()
    order = found["uncalibrated_tumour"].argsort()
    assert (np.diff(found["proba_tumour"].to_numpy()[order]) >= -1e-6).all()
    splits = json.loads((write / "study" / "splits.json").read_text())
    assert splits["protocol"]["calibrate"] == 0.3


def test_what_is_stored_is_not_run_again(write_plan, tmp_path):
    plan, events = read_plan(write_plan()), []
    run_study(plan, tmp_path / "out")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "trials").glob("*/*")}
    run_study(plan, tmp_path / "out", events.append)
    assert [event for event in events if isinstance(event, StudyStarted)] == [StudyStarted(4, 4)]
    assert not any(isinstance(event, TrialStarted) for event in events)
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "trials").glob("*/*")}


@pytest.mark.parametrize(
    ("old", "new", "reused"),
    [
        ("repeats = 2", "repeats = 3", 4),
        ("components = 3", "components = 2", 2),
        ('on = "serial"', 'on = "serial"\nseed = 7', 0),
        ('on = "serial"', 'on = "serial"\nstop = 0.2', 0),
        ('on = "serial"', 'on = "serial"\nthreads = 7', 0),
        ('on = "serial"', 'on = "serial"\nalpha = 0.1', 4),
    ],
)
def test_a_changed_plan_reuses_only_what_it_shares(write_plan, tmp_path, old, new, reused):
    run_study(read_plan(write_plan()), tmp_path / "out")
    events = []
    result = run_study(read_plan(write_plan(**{old: new})), tmp_path / "out", events.append)
    [started] = [event for event in events if isinstance(event, StudyStarted)]
    assert started.n_stored == reused
    assert len(result.trials) == started.n_trials


def test_a_changed_image_or_label_is_another_trial(write_plan, cohort, tmp_path):
    plan = read_plan(write_plan())
    run_study(plan, tmp_path / "out")
    first, second = cohort / "0-0.png", cohort / "0-2.png"
    content = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(content)
    events = []
    run_study(plan, tmp_path / "out", events.append)
    assert StudyStarted(4, 0) in events


def test_what_a_trial_has_cost_is_measured(write_plan, tmp_path):
    trial = run_study(read_plan(write_plan()), tmp_path / "out").trials[1]
    seconds = trial.result["seconds"]
    assert 0 < seconds["train"] < 60
    assert 0 < seconds["predict"] < 60
    assert seconds["search"] == 0
    assert 0 < seconds["train_cpu"] < 60
    assert seconds["train_cpu"] + seconds["predict_cpu"] == pytest.approx(seconds["cpu"])
    assert trial.result["memory"] > 20 * 2**20
    assert trial.result["environment"]["numpy"] == np.__version__
    assert trial.result["environment"]["source"] == source_digest()
    assert trial.result["training"] == {}
    assert trial.result["n_patients"] == {"train": 5, "stop": 1, "calibrate": 0, "test": 2}
    assert trial.result["settings"]["components"] == 3


class _Loading(Majority):
    """Guesses, after it has loaded a library as the networks load torch."""

    EXTRA = "train"

    def fit(self, X, y, *, stop=None, on_epoch=None, checkpoint=None):
        importlib.import_module("slow_to_load")
        return super().fit(X, y, stop=stop, on_epoch=on_epoch, checkpoint=checkpoint)


def test_the_loading_of_libraries_is_in_nobodys_seconds(write_plan, tmp_path, monkeypatch):
    pytest.importorskip("torch")
    (tmp_path / "slow_to_load.py").write_text(SLOW_TO_LOAD)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "slow_to_load", raising=False)
    monkeypatch.setattr(trials, "_LIBRARIES", {"train": ("slow_to_load",)})
    monkeypatch.setattr(sys.modules["sentinode.algorithms.majority"], "Majority", _Loading)
    text = 'manifest = "manifest.csv"\nrepeats = 1\non = "serial"\nalgorithms = ["majority"]\n'
    [trial] = run_study(read_plan(write_plan(text)), tmp_path / "out").trials
    assert "slow_to_load" in sys.modules
    assert trial.result["seconds"]["train"] < 0.4


def test_a_network_says_how_it_was_trained(write_plan, tmp_path):
    pytest.importorskip("torch")
    text = (
        'manifest = "manifest.csv"\nrepeats = 1\non = "serial"\nalgorithms = ["paper-cnn"]\nthreads = 1\n'
        '[algorithm.paper-cnn]\nepochs = 2\ndevice = "cpu"\nprecision = "float32"\n'
        'layers = [{conv = 2, kernel = 5}, {pool = "max", size = 2}]\n'
    )
    [trial] = run_study(read_plan(write_plan(text)), tmp_path / "out").trials
    facts, log = trial.result["training"], trial.training()
    assert (facts["device"], facts["bf16"]) == ("cpu", False)
    assert facts["best_epoch"] == log["epoch"][log["stop_loss"].argmin()]


def _trial(**changes) -> Trial:
    usual = {
        "name": "naive-bayes",
        "spec": AlgorithmSpec("naive-bayes", {"components": 3}),
        "repeat": 0,
        "seed": 1,
        "split": "s",
        "data": "d",
        "pixels": "p",
        "candidates": 1,
        "search_epochs": None,
        "threads": 1,
        "source": "c",
        "libraries": {"numpy": "2.0", "torch": ""},
    }
    return Trial(**usual | changes)


@pytest.mark.parametrize(
    "change",
    [
        {"source": "edited"},
        {"libraries": {"numpy": "2.1", "torch": ""}},
        {"libraries": {"numpy": "2.0", "torch": "2.9"}},
        {"spec": AlgorithmSpec("naive-bayes", {"components": 4})},
        {"version": "0"},
        {"threads": 2},
    ],
)
def test_whatever_the_numbers_depend_on_is_in_the_key(change):
    assert _trial(**change).key != _trial().key


def test_a_default_that_the_plan_repeats_is_no_other_trial():
    defaults = registry.algorithm_settings("naive-bayes")
    spelled = AlgorithmSpec("naive-bayes", {**defaults, "components": 3})
    assert _trial(spec=spelled).key == _trial().key


def test_a_default_that_has_changed_is_another_trial(monkeypatch):
    before, defaults = _trial().key, registry.algorithm_settings("naive-bayes")
    monkeypatch.setattr(trials, "algorithm_settings", lambda _name: {**defaults, "smoothing": 0.5})
    assert _trial().key != before


def test_code_that_was_edited_while_the_study_ran_stores_nothing(write_plan, tmp_path, monkeypatch):
    real, edited = runner.run_trial, iter([False, True, False, False])

    def edit(job) -> None:
        # Between the first look at the code and the second, in the second trial only.
        looks = iter([job.trial.source, "edited" if next(edited) else job.trial.source])
        monkeypatch.setattr(trials, "source_digest", lambda: next(looks))
        real(job)

    monkeypatch.setattr(runner, "run_trial", edit)
    result = run_study(read_plan(write_plan()), tmp_path / "out")
    assert len(result.trials) == 3
    [failure] = result.failures
    assert "edited while the study ran" in failure["message"]


def test_the_study_says_which_code_ran_and_how_many_trials_at_once(write_plan, tmp_path):
    study = run_study(read_plan(write_plan()), tmp_path / "out").study
    assert (study["source"], study["workers"]) == (source_digest(), 1)
    assert study["libraries"]["numpy"] == np.__version__


def test_the_log_follows_a_study_from_the_plan_to_its_trials(write_plan, tmp_path, caplog):
    caplog.set_level("DEBUG", logger="sentinode.study")
    plan = read_plan(write_plan())
    run_study(plan, tmp_path / "out")
    told = caplog.text
    for part in (plan.digest, "48 images", "overlapping pairs", "split 1 is", "naive-bayes, repeat 1: finished in"):
        assert part in told


def test_the_memory_of_a_trial_is_its_own_and_not_the_parents(write_plan, tmp_path):
    path = write_plan(**ONCE, **APART)
    ballast = np.ones(100 * 2**20)  # 800 MiB, all touched
    result = run_study(read_plan(path), tmp_path / "out")
    assert ballast.sum() == 100 * 2**20
    assert all(trial.result["memory"] < 700 * 2**20 for trial in result.trials)


def test_processes_and_serial_give_the_same_to_the_bit(write_plan, tmp_path):
    run_study(read_plan(write_plan(**ONCE)), tmp_path / "here")
    run_study(read_plan(write_plan(**ONCE, **APART)), tmp_path / "there")
    assert _same(_predictions(tmp_path / "here"), _predictions(tmp_path / "there"))


def test_a_failed_trial_is_recorded_tried_again_and_does_not_stop_the_rest(write_plan, tmp_path, monkeypatch):
    events = []
    real = runner.run_trial

    def fail(job) -> None:
        if job.trial.name == "majority" and job.trial.repeat == 1:
            raise FloatingPointError("the loss is NaN")
        real(job)

    monkeypatch.setattr(runner, "run_trial", fail)
    result = run_study(read_plan(write_plan()), tmp_path / "out", events.append)
    assert len(result.trials) == 3
    [failure] = result.failures
    assert (failure["name"], failure["repeat"], failure["message"]) == ("majority", 1, "the loss is NaN")
    assert "FloatingPointError" in failure["traceback"]
    assert [event.n_done for event in events if isinstance(event, TrialFailed)] == [3]
    monkeypatch.undo()
    events.clear()
    mended = run_study(read_plan(write_plan()), tmp_path / "out", events.append)
    assert len(mended.trials) == 4
    assert mended.failures == ()
    assert [event.name for event in events if isinstance(event, TrialStarted)] == ["majority"]


def test_the_time_left_reaches_zero_with_the_last_trial(write_plan, tmp_path):
    events = []
    run_study(read_plan(write_plan()), tmp_path / "out", events.append)
    finished = [event for event in events if isinstance(event, TrialFinished)]
    assert [event.n_done for event in finished] == [1, 2, 3, 4]
    assert finished[0].seconds_left > 0
    assert finished[-1].seconds_left == 0


def test_every_algorithm_has_the_same_number_of_candidates_and_the_best_is_taken(write_plan, tmp_path):
    text = (
        'manifest = "manifest.csv"\nrepeats = 1\non = "serial"\nalgorithms = ["naive-bayes"]\n'
        "[algorithm.naive-bayes]\nfolds = 0\n[search]\ncandidates = 3\n"
    )
    [trial] = run_study(read_plan(write_plan(text)), tmp_path / "out").trials
    tried = trial.result["search"]
    assert len(tried) == 3
    assert tried[0]["settings"] == {"folds": 0}
    best = max(tried, key=lambda one: (one["auc"], -one["log_loss"]))
    assert {**trial.result["settings"], **best["settings"]} == trial.result["settings"]
    assert trial.result["seconds"]["search"] == pytest.approx(sum(one["seconds"] for one in tried))


def test_candidates_are_drawn_anew_in_every_repeat(write_plan, tmp_path):
    text = (
        'manifest = "manifest.csv"\nrepeats = 2\non = "serial"\nalgorithms = ["naive-bayes"]\n'
        "[algorithm.naive-bayes]\nfolds = 0\n[search]\ncandidates = 4\n"
    )
    first, second = (
        [one["settings"] for one in trial.result["search"]]
        for trial in run_study(read_plan(write_plan(text)), tmp_path / "out").trials
    )
    assert first[0] == second[0] == {"folds": 0}
    assert first[1:] != second[1:]


def test_frozen_splits_are_used_as_they_are(write_plan, cohort, tmp_path):
    run_study(read_plan(write_plan()), tmp_path / "first")
    (cohort / "splits.json").write_bytes((tmp_path / "first" / "splits.json").read_bytes())
    path = write_plan(**{"repeats = 2": 'repeats = 2\nsplits = "splits.json"'})
    run_study(read_plan(path), tmp_path / "second")
    assert _same(_predictions(tmp_path / "first"), _predictions(tmp_path / "second"))


def test_the_folder_says_what_the_frozen_splits_have_settled_and_what_was_run(write_plan, cohort, tmp_path):
    drawn = {"repeats = 2": "repeats = 2\ntest = 0.4\nstop = 0.2"}
    run_study(read_plan(write_plan(**drawn)), tmp_path / "first")
    (cohort / "splits.json").write_bytes((tmp_path / "first" / "splits.json").read_bytes())
    path = write_plan(**{"repeats = 2": 'repeats = 1\nsplits = "splits.json"'})
    result = run_study(read_plan(path), tmp_path / "second")
    assert len(result.trials) == 2
    assert (result.plan["protocol"], result.plan["test"], result.plan["stop"]) == ("patients", 0.4, 0.2)
    assert (result.study["protocol"]["repeats"], result.study["protocol"]["test"]) == (1, 0.4)
    assert json.loads((tmp_path / "second" / "splits.json").read_text())["protocol"]["repeats"] == 1


def test_more_repeats_than_frozen_splits_are_refused(write_plan, cohort, tmp_path):
    run_study(read_plan(write_plan()), tmp_path / "first")
    (cohort / "splits.json").write_bytes((tmp_path / "first" / "splits.json").read_bytes())
    path = write_plan(**{"repeats = 2": 'repeats = 3\nsplits = "splits.json"'})
    with pytest.raises(PlanError, match="holds 2 splits"):
        read_plan(path)


def test_nothing_trains_on_splits_that_leak(write_plan, tmp_path, monkeypatch):
    random = runner.Protocol(name="random", repeats=2, stop=0.15)
    draw = runner.make_splits
    monkeypatch.setattr(runner, "make_splits", lambda manifest, _, overlaps: draw(manifest, random, overlaps))
    with pytest.raises(LeakageError):
        run_study(read_plan(write_plan()), tmp_path / "out")
    assert not (tmp_path / "out" / "trials").exists()


def test_random_splits_run_and_their_leakage_is_counted(write_plan, tmp_path):
    path = write_plan(**{"repeats = 2": 'repeats = 2\nprotocol = "random"'})
    result = run_study(read_plan(path), tmp_path / "out")
    assert len(result.trials) == 4
    for one in result.study["leakage"]:
        assert one["n_test"] == 12
        assert one["n_test_of_seen_patients"] > 6


@pytest.mark.skipif(sys.platform == "win32", reason="kill -9 is POSIX")
def test_kill_9_in_the_middle_of_a_trial_loses_only_that_trial(write_plan, tmp_path):
    path = write_plan(**APART)
    out, script = tmp_path / "out", tmp_path / "killed.py"
    script.write_text(KILLED)
    study = subprocess.Popen(
        [sys.executable, str(script), str(path), str(out), "trial"], stdout=subprocess.PIPE, text=True
    )
    for _ in range(2):
        assert study.stdout.readline() == "started\n"
    time.sleep(0.5)
    os.kill(study.pid, signal.SIGKILL)
    study.communicate()
    assert len(list((out / "trials").glob("[!.]*"))) == 1
    events = []
    run_study(read_plan(write_plan()), out, events.append)
    assert StudyStarted(4, 1) in events
    run_study(read_plan(write_plan()), tmp_path / "whole")
    assert _same(_predictions(out), _predictions(tmp_path / "whole"))


@pytest.mark.skipif(sys.platform == "win32", reason="kill -9 is POSIX")
def test_kill_9_in_the_middle_of_a_write_loses_only_that_trial(write_plan, tmp_path):
    path = write_plan()
    out, script = tmp_path / "out", tmp_path / "killed.py"
    script.write_text(KILLED)
    study = subprocess.run([sys.executable, str(script), str(path), str(out), "write"], check=False)
    assert study.returncode == -signal.SIGKILL
    assert len(list((out / "trials").glob("[!.]*"))) == 1
    assert len(list((out / "trials").glob(".part-*"))) == 1
    events = []
    result = run_study(read_plan(path), out, events.append)
    assert StudyStarted(4, 1) in events
    assert len(result.trials) == 4
    assert list(out.glob("**/.part-*")) == []


@pytest.mark.skipif(sys.platform == "win32", reason="signals of process groups are POSIX")
def test_ctrl_c_in_the_middle_of_a_write_leaves_nothing_half_written(write_plan, tmp_path):
    path = write_plan(**APART)
    out, script = tmp_path / "out", tmp_path / "interrupted.py"
    script.write_text(SLOW_WRITER)
    study = subprocess.Popen([sys.executable, str(script), str(path), str(out)], start_new_session=True)
    end = time.monotonic() + 60
    while not list(out.glob("trials/.part-*")):
        assert time.monotonic() < end, "no trial was ever written"
        time.sleep(0.05)
    os.killpg(study.pid, signal.SIGINT)
    assert study.wait(timeout=30) != 0
    assert list(out.glob("**/.part-*")) == []
    assert list((out / "trials").iterdir()) == []


@pytest.mark.parametrize(
    ("spec", "limited"),
    [
        (AlgorithmSpec("dbn", {"epochs": 3}), {"epochs": 3, "pretraining_epochs": 5}),
        (AlgorithmSpec("majority"), {}),
    ],
)
def test_a_candidate_is_trained_for_a_few_epochs_in_every_stage(spec, limited):
    assert dict(_shortened(spec, 5).settings) == limited
    assert _shortened(spec, None) == spec


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_one_line(write_plan, tmp_path):
    out = tmp_path / "out"
    out.mkdir(mode=0o500)
    with pytest.raises(ExportError) as refused:
        run_study(read_plan(write_plan()), out)
    assert str(out) in str(refused.value)
    assert len(str(refused.value).splitlines()) <= 2


def test_a_full_disk_stops_the_study_in_one_line_and_leaves_nothing_half_written(write_plan, tmp_path, monkeypatch):
    def full(_frame, path, **_options) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(pd.DataFrame, "to_csv", full)
    with pytest.raises(ExportError, match="No space left on device") as refused:
        run_study(read_plan(write_plan()), tmp_path / "out")
    assert len(str(refused.value).splitlines()) == 1
    assert list((tmp_path / "out" / "trials").iterdir()) == []
    assert not (tmp_path / "out" / "failures").exists()


def test_the_folder_keeps_the_plan_as_it_was_written(write_plan, tmp_path):
    path = write_plan()
    run_study_from(path, tmp_path / "out")
    assert (tmp_path / "out" / "plan.toml").read_text() == path.read_text()
    filled = json.loads((tmp_path / "out" / "plan.json").read_text())
    assert (filled["test"], filled["digest"]) == (0.25, read_plan(path).digest)
    assert StudyStore(tmp_path / "out").clean() == 0


def test_the_patches_can_be_shown_even_after_the_cache_was_deleted(write_plan, cohort, tmp_path):
    result = run_study(read_plan(write_plan()), tmp_path / "out")
    image = np.asarray(Image.open(cohort / "3-2.png"))
    for _ in range(2):
        pixels, places = read_study(result.folder).patches()
        assert np.array_equal(pixels[places["image 3-2"]], image)
        shutil.rmtree(result.folder / "cache")
