"""The demo in small: the same path, fewer patients, coarser slides and no network."""

import json
import math
import tomllib

import pytest

from sentinode import terminal
from sentinode.algorithms.description import EpochRecord
from sentinode.algorithms.registry import ALGORITHMS, AlgorithmSpec, build_algorithm
from sentinode.data.manifest import read_manifest
from sentinode.errors import ExportError
from sentinode.models.bundle import read_bundle
from sentinode.study.events import StudyStarted, TrialFinished
from sentinode.study.plan import parse_plan
from sentinode.workflows.demo import DEMO_MODEL, DEMO_STUDY, DemoPlan, DemoSlide, Step, run_demo
from sentinode.workflows.phantom_slides import SlidePreset, plan_slides
from sentinode.workflows.phantoms import draw_phantom_patches
from sentinode.workflows.predicting import SlideDone, TilesDone
from sentinode.workflows.training import EpochDone, Preparation

STUDY = """
manifest = "cohort/manifest.csv"
repeats = 2
seed = {seed}
algorithms = ["naive-bayes", "majority"]
on = "serial"
threads = 1
"""
SMALL = DemoPlan(
    patients=8,
    patches=4,
    study=STUDY,
    slide_patients=8,
    slides=SlidePreset(4.0, (800.0, 900.0), 1.35, (1,), ((((250.0, 300.0), 1),),)),
    mpp=4.0,
    tile_px=32,
    algorithm="naive-bayes",
    settings={},
    workers=1,
)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """A small demo that was interrupted before its model: its folder, and what it told."""
    folder, told = tmp_path_factory.mktemp("demo") / "demo", []

    def stop_at_the_model(event):
        told.append(event)
        if isinstance(event, Step) and event.number == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_demo(folder, 2, stop_at_the_model, SMALL)
    return folder, told, times(folder)


@pytest.fixture(scope="module")
def small(stopped):
    """The same, gone on with: its folder, what it found, what it told."""
    told = []
    return stopped[0], run_demo(stopped[0], 2, told.append, SMALL), told


def times(folder):
    """When each file of the folder that holds results was written."""
    suffixes, names = {".tif", ".png"}, {"tiles.csv", "bundle.json", "predictions.parquet", "tiles.parquet"}
    kept = (path for path in folder.rglob("*") if path.suffix in suffixes or path.name in names)
    return {path: path.stat().st_mtime_ns for path in kept}


def kinds(told):
    return {type(event).__name__ for event in told}


def test_the_demo_goes_from_nothing_to_two_pages_that_say_synthetic(stopped, small):
    folder, found, told = small
    assert read_manifest(folder / "cohort" / "manifest.csv").provenance.synthetic
    assert not found.check.must_be_mended
    assert found.complete
    assert any("synthetic" in note for note in found.table.notes)
    assert "synthetic images" in found.study_page.read_text(encoding="utf-8")
    for page in (found.slides_page, folder / "answers" / found.slides[0].slide_id / "report.html"):
        assert "trained on synthetic images" in page.read_text(encoding="utf-8")
    assert [event.number for event in told if isinstance(event, Step)] == [1, 2, 3, 4, 5, 6]
    assert {"Preparing", "StudyStarted", "TrialFinished"} <= kinds(stopped[1])
    assert {"Preparation", "TilesDone", "SlideDone"} <= kinds(told)


def test_the_slides_that_are_recognised_are_of_patients_whom_the_model_has_not_seen(small):
    folder, found, _ = small
    tiles = read_manifest(folder / "tiles.csv").frame
    model = read_bundle(folder / "model")
    held_out = tiles[tiles["slide_id"].isin([one.slide_id for one in found.slides])]
    assert len(found.slides) == 3
    assert {one.truth for one in found.slides} == {"normal", "tumour"}
    assert not any(model.seen().has_patient(name) for name in held_out["patient_id"])
    assert sum(len(one.patients) for one in model.seen().ids.values()) == 5
    assert model.facts.data.synthetic
    assert model.facts.data.n_images["test"] == len(held_out)
    assert all(bool(one.lesions) == (one.truth == "tumour") for one in found.slides)
    assert found.model.metrics["auc"].value > 0.6


def test_a_demo_that_stopped_goes_on_where_it_was(stopped, small):
    folder, _, before = stopped
    assert before
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert "TrialFinished" not in kinds(small[2])
    assert (folder / "answers" / "index.html").exists()


def test_a_second_call_does_nothing_again(small):
    folder, found, _ = small
    before, told = times(folder), []
    again = run_demo(folder, 2, told.append, SMALL)
    assert times(folder) == before
    assert not kinds(told) & {"TrialFinished", "Preparation", "EpochDone", "TilesDone"}
    assert again.slides == found.slides


def test_the_folder_of_another_demo_is_left_alone(small):
    with pytest.raises(ExportError, match="another seed or version; choose another --out"):
        run_demo(small[0], 3, plan=SMALL)


def test_the_end_shows_verdict_beside_truth_and_both_pages(small, capsys):
    folder, found, _ = small
    terminal.print_demo(found)
    shown = capsys.readouterr()
    for one in found.slides:
        assert one.slide_id in shown.out
    assert f"{sum(one.right for one in found.slides)} of 3 held-out slides right" in shown.err
    assert "synthetic" in shown.err
    assert shown.err.splitlines()[-2:] == [
        f"the study:  {folder / 'study' / 'report.html'}",
        f"the slides: {folder / 'answers' / 'index.html'}",
    ]
    as_json = json.loads(json.dumps(found.to_json(), default=str))
    assert as_json["synthetic"]
    assert [one["right"] for one in as_json["slides"]] == [one.right for one in found.slides]


def test_the_events_of_every_part_become_plain_lines(capsys):
    with terminal.demo_progress() as listen:
        listen(Step(2, 6, "compare"))
        listen(StudyStarted(2, 0))
        listen(TrialFinished("naive-bayes", 0, 61.0, 1, 2, 61.0))
        listen(Step(5, 6, "train"))
        listen(Preparation("reading images", 1, 2))
        listen(EpochDone(EpochRecord("train", 1, 0.5, math.nan, math.nan, 2.0, {}), 1, 2))
        listen(TilesDone("phantom-p001-s1", 1, 1, 5, 9))
        listen(SlideDone("phantom-p001-s1", 1, 1, "suspicious of tumour", stored=True))
    assert capsys.readouterr().err.splitlines() == [
        "step 2 of 6, at 0:00: compare",
        "1/2  naive-bayes, repeat 1: 61.0 s; about 1:01 left",
        "step 5 of 6, at 0:00: train",
        "train, epoch 1: loss 0.5000 (2.0 s)",
        "1/1  phantom-p001-s1: suspicious of tumour (done before)",
    ]


@pytest.mark.parametrize(
    ("truth", "verdict", "score", "right"),
    [
        ("tumour", "suspicious of tumour", 0.9, True),
        ("tumour", "no tumour found", 0.1, False),
        ("normal", "single suspicious tiles, tumour not likely", 0.4, True),
        ("normal", "suspicious of tumour", 0.9, False),
        ("normal", "refused: blurred", None, False),
    ],
)
def test_a_slide_is_right_only_if_its_verdict_is_that_of_the_truth(truth, verdict, score, right):
    assert DemoSlide("a", truth, (), verdict, score).right is right


def test_the_study_of_the_demo_compares_all_algorithms(tmp_path):
    draw_phantom_patches(tmp_path / "cohort", patients=8, patches=2)
    plan = parse_plan(tomllib.loads(DEMO_STUDY.format(seed=1)), tmp_path)
    costly = {"imagenet-cnn", "best", "distilled-cnn"}  # minutes a repeat
    on_features = {name for name in ALGORITHMS if name.endswith("-head")}
    assert set(plan.algorithms) == set(ALGORITHMS) - costly - on_features


def test_the_model_and_the_slides_of_the_demo_can_be_made():
    plan = DemoPlan()
    rows = build_algorithm(AlgorithmSpec(plan.algorithm, DEMO_MODEL), 1).describe((96, 96))
    assert sum(row.multiply_adds for row in rows) < 100_000_000, "half a minute on two cores"
    slides = plan_slides(patients=plan.slide_patients, sites=plan.sites, preset=plan.slides)
    assert {(one.site, bool(one.lesions)) for one in slides} == {(0, False), (0, True), (1, False), (1, True)}
