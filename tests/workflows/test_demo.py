"""The demo in small: the same path, fewer patients and no network."""

import tomllib

import pytest

from sentinode.algorithms.registry import ALGORITHMS
from sentinode.data.manifest import read_manifest
from sentinode.study.plan import parse_plan
from sentinode.workflows import demo
from sentinode.workflows.phantoms import draw_phantom_patches


@pytest.fixture
def small(monkeypatch):
    plan = 'manifest = "cohort/manifest.csv"\nrepeats = 2\nseed = {seed}\nalgorithms = ["naive-bayes", "majority"]\n'
    monkeypatch.setattr(demo, "DEMO_PLAN", plan + 'on = "serial"\nthreads = 1\n')
    monkeypatch.setattr(demo, "PATIENTS", 8)
    monkeypatch.setattr(demo, "PATCHES", 6)


@pytest.mark.usefixtures("small")
def test_the_demo_goes_from_nothing_to_a_report_that_says_synthetic(tmp_path):
    told = []
    result = demo.run_demo(tmp_path / "demo", seed=2, on_event=lambda event: told.append(type(event).__name__))
    assert read_manifest(tmp_path / "demo" / "cohort" / "manifest.csv").provenance.synthetic
    assert not result.check.must_be_mended
    assert result.table.complete
    assert any("synthetic" in note for note in result.table.notes)
    assert "synthetic images" in result.report.read_text(encoding="utf-8")
    assert {"Preparing", "StudyStarted", "TrialFinished"} <= set(told)


def test_the_plan_of_the_demo_compares_all_algorithms(tmp_path):
    draw_phantom_patches(tmp_path / "cohort", patients=8, patches=2)
    plan = parse_plan(tomllib.loads(demo.DEMO_PLAN.format(seed=1)), tmp_path)
    costly = {"imagenet-cnn", "best"}  # minutes a repeat
    on_features = {name for name in ALGORITHMS if name.endswith("-head")}
    assert set(plan.algorithms) == set(ALGORITHMS) - costly - on_features
