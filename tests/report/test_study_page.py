"""The report of a study, from stored trials to the page."""

import re
from dataclasses import replace

import numpy as np
import pytest

from sentinode.data.manifest import write_manifest
from sentinode.report.page import render_page
from sentinode.report.study_page import accuracy_drawing, study_page
from sentinode.study.store import read_study
from sentinode.workflows.studying import run_study_from

PLAN = """
manifest = "manifest.csv"
repeats = 2
test = 0.34
stop = 0.17
on = "serial"
threads = 1
algorithms = ["naive-bayes", "majority"]
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory, draw_cohort):
    folder = tmp_path_factory.mktemp("study")
    write_manifest(draw_cohort(n_patients=6, n_patches=10, size=24), folder / "manifest.csv")
    (folder / "study.toml").write_text(PLAN, encoding="utf-8")
    table = run_study_from(folder / "study.toml", folder / "out")
    return folder / "out", table


def test_the_report_starts_with_algorithm_accuracy_and_time(finished):
    folder, table = finished
    page = study_page(read_study(folder), table)
    first = page.sections[0]
    assert first.title == "Algorithm, accuracy, time"
    assert first.tables[0].header == ("algorithm", "accuracy", "time (wall)", "CPU time")
    accuracy = float(table.row("naive-bayes", "accuracy")["mean"])
    assert first.tables[0].rows[0][1].startswith(f"{100 * accuracy:.1f} %")


def test_the_patches_shown_as_most_wrong_are_those_with_the_least_probability_of_their_class(finished):
    folder, table = finished
    study = read_study(folder)
    (section,) = (one for one in study_page(study, table).sections if one.galleries)
    shown = section.galleries[0]
    given = [int(re.search(r"given (\d+)%", one.caption).group(1)) for one in shown.pictures]
    assert given == sorted(given)
    frames = [trial.predictions() for trial in study.trials if trial.name == "naive-bayes"]
    least = min(float(row[f"proba_{row['label']}"]) for frame in frames for _, row in frame.iterrows())
    assert given[0] >= round(100 * least) - 1


def test_the_page_carries_the_digests_and_what_it_ran_on(finished):
    folder, table = finished
    html = (folder / "report.html").read_text(encoding="utf-8")
    for key in ("plan", "data", "splits"):
        assert str(table.facts[key]) in html
    assert "numpy" in html


def test_the_page_written_is_the_page_rendered(finished):
    folder, table = finished
    assert (folder / "report.html").read_text(encoding="utf-8") == render_page(study_page(read_study(folder), table))


def test_the_reference_stands_out(finished):
    folder, table = finished
    page = study_page(read_study(folder), table)
    assert page.sections[0].tables[0].strong == frozenset({0})


@pytest.mark.parametrize(
    ("protocol", "whose"),
    [
        ({"name": "patients", "unknown": "leave-out"}, "accuracy on unseen patients"),
        ({"name": "patients", "unknown": "train"}, "accuracy on test patients"),
        ({"name": "random", "unknown": "leave-out"}, "seen in training"),
    ],
)
def test_the_axis_says_whose_accuracy_it_is(finished, protocol, whose):
    _, table = finished
    assert whose in accuracy_drawing(replace(table, facts={**table.facts, "protocol": protocol}))


def test_the_level_of_the_intervals_is_that_of_the_plan(finished):
    folder, table = finished
    html = render_page(study_page(read_study(folder), replace(table, facts={**table.facts, "alpha": 0.1})))
    assert "90 % interval over patients" in html
    assert "90 % bands over patients" in html
    assert "95 %" not in html


def test_without_a_test_the_page_says_so_and_draws_no_interval(finished):
    folder, table = finished
    compared = table.comparisons.assign(low=np.nan, high=np.nan, p=np.nan, p_holm=np.nan)
    untested = replace(table, comparisons=compared, facts={**table.facts, "test_train_ratio": np.nan})
    page = study_page(read_study(folder), untested)
    assert page.sections[1].text.startswith("Differences are not tested")
    assert page.sections[1].figures[0].caption == "accuracy: difference to naive-bayes, mean."
    assert "cannot be tested" in page.lead
