import io
import json
import math
import re

import numpy as np
import pandas as pd
import pytest
from rich.console import Console
from scipy import stats

from sentinode.errors import PlanError
from sentinode.evaluation.calibration import measure_calibration
from sentinode.evaluation.metrics import METRICS
from sentinode.evaluation.statistics import smallest_detectable_difference
from sentinode.execution import Failure
from sentinode.seeds import stream
from sentinode.study.printing import grids, render_terminal, to_latex, wide_frame, write_csv
from sentinode.study.store import StudyStore, read_study
from sentinode.study.table import summarise

CLASSES = ("normal", "tumour")
# ann has normal patches only: she has no AUC of her own.
PATIENTS = {"ann": "nnnn", "bo": "nnttt", "cy": "nttn", "di": "tttnn", "ed": "ntntnt", "flo": "nntt"}


def _result(name, repeat) -> dict:
    return {
        "trial": {"name": name, "repeat": repeat},
        "settings": {},
        "search": [],
        "seconds": {"search": 0.0, "train": 10.0 + repeat, "predict": 0.5, "cpu": 15.0},
        "memory": (repeat + 1) * 2**20,
        "n_images": {"train": 9, "stop": 3, "test": 14},
        "n_patients": {"train": 6, "stop": 1, "test": 3},
        "parameters": 1234,
        "environment": {"python": "3.11", "cpu": "test"},
    }


def _predict(name, repeat) -> pd.DataFrame:
    # Each repeat tests three of the six patients; algorithm "sharp" is better than "blunt".
    tested = stream(1, "tested", repeat).permutation(list(PATIENTS))[:3]
    rows = [(p, k, label) for p in sorted(tested) for k, label in enumerate(PATIENTS[p])]
    truth = np.array([label == "t" for _, _, label in rows])
    noise = stream(1, "noise", name, repeat).normal(0, 1.0 if name == "sharp" else 3.0, len(rows))
    proba = (1 / (1 + np.exp(-(2 * truth - 1 + noise)))).astype(np.float32)
    return pd.DataFrame({
        "image_id": [f"{p}-{k}" for p, k, _ in rows],
        "patient_id": [p for p, _, _ in rows],
        "label": np.where(truth, "tumour", "normal"),
        "proba_normal": 1 - proba,
        "proba_tumour": proba,
    })


def _loud(frame):
    # Uncalibrated: three times as sure of itself.
    z = 3 * np.log(frame["proba_tumour"] / frame["proba_normal"])
    proba = (1 / (1 + np.exp(-z))).astype(np.float32)
    return frame.assign(uncalibrated_normal=1 - proba, uncalibrated_tumour=proba)


def test_a_study_says_what_a_probability_is_worth_before_and_after(tmp_path):
    store = _write_study(tmp_path / "plain")
    folder = store.folder
    table = summarise(folder, resamples=100)
    assert set(table.calibration["proba"]) == {"as they are"}
    for trial in read_study(folder).trials:
        _loud(trial.predictions()).to_parquet(trial.folder / "predictions.parquet", index=False)
    table = summarise(folder, resamples=100)
    assert set(table.calibration["proba"]) == {"as they are", "calibrated"}
    value = table.calibration.set_index(["algorithm", "proba", "measure"])
    for name in table.algorithms:
        before, after = (value.loc[(name, what, "brier")] for what in ("as they are", "calibrated"))
        assert (before["value"] > after["value"]) == (name == "blunt"), "the sharp one is too modest as it is"
        assert after["low"] <= after["value"] <= after["high"]
        # The mean over the repeats of what each says by itself, and not that of all patches in one bin.
        alone = [
            measure_calibration(
                trial.predictions()["label"] == "tumour",
                trial.predictions()["proba_tumour"],
                trial.predictions()["patient_id"],
            )["ece"].value
            for trial in read_study(folder).trials
            if trial.name == name
        ]
        assert value.loc[(name, "calibrated", "ece"), "value"] == pytest.approx(np.mean(alone))
    (grid,) = (one for one in grids(table) if one.name == "calibration")
    assert [row[1] for row in grid.rows] == ["as they are", "calibrated"] * len(table.algorithms)
    assert "ece_calibrated_low" in wide_frame(table).columns


@pytest.fixture
def study(tmp_path):
    """A finished study of two algorithms over five repeats, whose predictions are known."""
    return _write_study(tmp_path / "study")


def _write_study(folder, *, leave_out=(), protocol="patients", unknown="leave-out", synthetic=False) -> StudyStore:
    store, names, repeats = StudyStore(folder), ("blunt", "sharp"), range(5)
    trials = [{"key": f"{name}{repeat}", "name": name, "repeat": repeat} for repeat in repeats for name in names]
    leakage = {"n_test": 14, "n_unknown_in_train": 5, "n_test_of_seen_patients": 9, "n_overlapping_pairs": 2}
    store.write_json(
        "plan.json",
        {
            "algorithms": names,
            "reference": "blunt",
            "alpha": 0.05,
            "rope": 0.01,
            "search": {"candidates": 1},
        },
    )
    store.write_json(
        "study.json",
        {
            "plan": "p",
            "data": "d",
            "splits": "s",
            "classes": CLASSES,
            "n_unassigned": 7,
            "n_images": 30,
            "provenance": {"source": "x", "synthetic": synthetic},
            "protocol": {"name": protocol, "unknown": unknown},
            "leakage": [{"repeat": repeat, **leakage} for repeat in repeats],
            "trials": trials,
        },
    )
    for trial in trials:
        if trial["key"] not in leave_out:
            name, repeat = trial["name"], trial["repeat"]
            log = pd.DataFrame({"stage": ["train"], "epoch": [1], "loss": [0.5]})
            store.write_trial(trial["key"], _predict(name, repeat), _result(name, repeat), log)
    return store


def _accuracies(name, repeats=range(5)) -> list[float]:
    frames = [_predict(name, repeat) for repeat in repeats]
    return [float(((f["proba_tumour"] > 0.5) == (f["label"] == "tumour")).mean()) for f in frames]


def test_pooled_means_are_those_of_the_predictions(study):
    table = summarise(study.folder, resamples=200)
    for name in ("blunt", "sharp"):
        row, expected = table.row(name, "accuracy"), _accuracies(name)
        assert row["mean"] == pytest.approx(np.mean(expected))
        assert row["sd"] == pytest.approx(np.std(expected, ddof=1))
        assert row["low"] < row["mean"] < row["high"]
        assert row["n_repeats"] == 5


def test_patients_of_one_class_do_not_count_in_the_auc_within_patients(study):
    table = summarise(study.folder, resamples=50)
    tested = {p for repeat in range(5) for p in _predict("sharp", repeat)["patient_id"]}
    assert "ann" in tested
    assert table.row("sharp", "auc", "patients")["n_patients"] == len(tested) - 1
    assert table.row("sharp", "accuracy", "patients")["n_patients"] == len(tested)
    within = []
    for repeat in range(5):
        groups = _predict("sharp", repeat).groupby("patient_id")
        aucs = [METRICS["auc"].function(g["label"] == "tumour", g["proba_tumour"]) for _, g in groups]
        within.append(np.nanmean(aucs))
    assert table.row("sharp", "auc", "patients")["mean"] == pytest.approx(np.mean(within))


def test_the_comparison_is_the_corrected_t_test_over_patients(study):
    table = summarise(study.folder, resamples=50)
    row = table.comparisons.set_index(["algorithm", "metric"]).loc[("sharp", "accuracy")]
    difference = np.subtract(_accuracies("sharp"), _accuracies("blunt"))
    # Nadeau and Bengio 2003, with three test and six training patients in every repeat.
    t = difference.mean() / math.sqrt((1 / 5 + 3 / 6) * difference.var(ddof=1))
    assert row["mean"] == pytest.approx(difference.mean())
    assert row["t"] == pytest.approx(t)
    assert row["p"] == pytest.approx(2 * stats.t.sf(abs(t), 4))
    assert row["worse"] + row["equivalent"] + row["better"] == pytest.approx(1)
    assert row["detectable"] > 0
    assert row["n_better"] + row["n_equal"] + row["n_worse"] == 5


def test_holm_runs_over_the_whole_family(study):
    compared = summarise(study.folder, resamples=50).comparisons
    small, large = sorted(compared["p"])
    assert len(compared) == 2  # one algorithm, two metrics
    assert compared["p_holm"].tolist() == [
        pytest.approx(min(1, 2 * p) if p == small else max(2 * small, large)) for p in compared["p"]
    ]


def test_only_repeats_that_all_have_finished_are_compared_and_the_gap_is_told(tmp_path):
    store = _write_study(tmp_path / "study", leave_out=("sharp1", "blunt3"))
    store.write_failure("sharp1", Failure("ModelError", "the loss is NaN", ""), {"name": "sharp"})
    table = summarise(store.folder, resamples=50)
    row = table.comparisons.set_index(["algorithm", "metric"]).loc[("sharp", "accuracy")]
    shared = [0, 2, 4]
    difference = np.subtract(_accuracies("sharp", shared), _accuracies("blunt", shared))
    assert row["n_repeats"] == 3
    assert row["mean"] == pytest.approx(difference.mean())
    told = "\n".join(table.notes)
    assert "sharp: 4 of 5 repeats are finished (the loss is NaN)" in told
    assert "Only the 3 repeats that all have finished are compared" in told


def test_without_the_reference_nothing_is_compared_and_that_is_told(tmp_path):
    store = _write_study(tmp_path / "study", leave_out=[f"blunt{repeat}" for repeat in range(5)])
    table = summarise(store.folder, resamples=50)
    assert table.algorithms == ("sharp",)
    assert len(table.comparisons) == 0
    assert "The reference blunt has no result" in "\n".join(table.notes)
    assert len(render_terminal(table)) > 3
    assert "sharp" in to_latex(table)


def test_a_study_without_a_finished_trial_says_why(tmp_path):
    keys = [f"{name}{repeat}" for name in ("blunt", "sharp") for repeat in range(5)]
    store = _write_study(tmp_path / "study", leave_out=keys)
    store.write_failure("sharp1", Failure("ModelError", "the loss is NaN", ""), {"name": "sharp"})
    with pytest.raises(PlanError, match="sharp: the loss is NaN"):
        summarise(store.folder)


def test_a_folder_without_a_study_is_refused(tmp_path):
    with pytest.raises(PlanError, match="holds no study"):
        summarise(tmp_path)


@pytest.mark.parametrize(
    ("about", "told"),
    [
        ({"synthetic": True}, "synthetic"),
        (
            {"unknown": "train"},
            "Leakage cannot be excluded: 5 training images a repeat",
        ),
        ({"protocol": "random"}, "9 of 14 test images are of patients that training has seen, and 2 pairs"),
        ({}, "7 images whose patient is unknown were left out"),
    ],
)
def test_the_notes_say_what_a_reader_must_know(tmp_path, about, told):
    store = _write_study(tmp_path / "study", **about)
    assert told in "\n".join(summarise(store.folder, resamples=50).notes)


def test_costs_are_means_over_the_repeats_and_the_most_memory(study):
    cost = summarise(study.folder, resamples=50).costs.loc["sharp"]
    assert (cost["train"], cost["train_cpu"], cost["memory"]) == (12.0, 15.0, 5 * 2**20)


def test_the_same_study_gives_the_same_table(study):
    first, second = (summarise(study.folder, resamples=50) for _ in range(2))
    pd.testing.assert_frame_equal(first.metrics, second.metrics)
    pd.testing.assert_frame_equal(first.comparisons, second.comparisons)


def test_with_three_classes_accuracy_is_that_of_the_most_probable_one(tmp_path):
    store = _write_study(tmp_path / "study")
    about = store.read_json("study.json")
    store.write_json("study.json", {**about, "classes": ["normal", "benign", "tumour"]})
    right = []
    for repeat in range(5):
        for name in ("blunt", "sharp"):
            frame = _predict(name, repeat)
            labels = np.array(["normal", "benign", "tumour"])[np.arange(len(frame)) % 3]
            proba = stream(1, "three", name, repeat).dirichlet((1, 1, 1), len(frame)).astype(np.float32)
            for column, label in enumerate(("normal", "benign", "tumour")):
                frame[f"proba_{label}"] = proba[:, column]
            frame["label"] = labels
            if name == "sharp":
                answers = np.array(["normal", "benign", "tumour"])[proba.argmax(axis=1)]
                right.append((answers == labels).mean())
            frame.to_parquet(store.folder / "trials" / f"{name}{repeat}" / "predictions.parquet")
    table = summarise(store.folder, resamples=50)
    assert table.row("sharp", "accuracy")["mean"] == pytest.approx(np.mean(right))
    compared = table.comparisons.set_index(["algorithm", "metric"]).loc[("sharp", "accuracy")]
    assert compared["mean"] == pytest.approx(
        table.row("sharp", "accuracy")["mean"] - table.row("blunt", "accuracy")["mean"]
    )


def test_random_splits_are_described_and_not_tested_and_that_is_told(tmp_path):
    table = summarise(_write_study(tmp_path / "study", protocol="random").folder, resamples=50)
    row = table.comparisons.set_index(["algorithm", "metric"]).loc[("sharp", "accuracy")]
    assert row["mean"] == pytest.approx(np.mean(np.subtract(_accuracies("sharp"), _accuracies("blunt"))))
    absent = ["p", "p_holm", "low", "high", "worse", "equivalent", "better", "detectable", "patients_low", "wilcoxon"]
    assert row[absent].isna().all()
    assert row["n_better"] + row["n_equal"] + row["n_worse"] == 5
    assert "Differences are not tested: images of the same patients stand in training and in test" in str(table.notes)


def test_the_ratio_of_patients_is_that_of_the_repeats_that_are_compared(tmp_path):
    store = _write_study(tmp_path / "study", leave_out=("sharp1",))
    path = store.folder / "trials" / "blunt1" / "result.json"
    result = json.loads(path.read_text())
    path.write_text(json.dumps(result | {"n_patients": {"train": 1, "stop": 1, "test": 5}}))
    assert summarise(store.folder, resamples=50).facts["test_train_ratio"] == 3 / 6


def test_what_could_have_been_shown_is_held_to_the_level_of_the_whole_family(study):
    row = summarise(study.folder, resamples=50).comparisons.set_index(["algorithm", "metric"]).loc["sharp", "auc"]
    # One algorithm against the reference on two metrics.
    expected = smallest_detectable_difference(row["sd"], 5, 3 / 6, alpha=0.05 / 2)
    assert row["detectable"] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"train_cpu": 7.0}, "blunt, sharp: more than 1.25 times CPU time / threads"),
        ({"train_cpu": 11.0}, ""),
    ],
)
def test_wall_clock_time_that_the_processor_does_not_explain_is_told(tmp_path, change, told):
    store = _write_study(tmp_path / "study")
    for path in (store.folder / "trials").glob("*/result.json"):
        result = json.loads(path.read_text())
        path.write_text(json.dumps(result | {"seconds": result["seconds"] | change}))
    table = summarise(store.folder, resamples=50)
    notes = [note for note in table.notes if "Wall-clock" in note]
    assert len(notes) == bool(told)
    assert told in "".join(notes)
    assert table.costs["train_cpu"].tolist() == [change["train_cpu"]] * 2


def test_trials_that_ran_side_by_side_are_told(tmp_path):
    store = _write_study(tmp_path / "study")
    store.write_json("study.json", store.read_json("study.json") | {"workers": 2})
    assert "2 trials at once" in "\n".join(summarise(store.folder, resamples=50).notes)


def test_the_csv_holds_one_row_an_algorithm_and_reads_back(study, tmp_path):
    table = summarise(study.folder, resamples=50)
    write_csv(table, tmp_path / "table.csv")
    back = pd.read_csv(tmp_path / "table.csv")
    assert back["algorithm"].tolist() == ["blunt", "sharp"]
    pd.testing.assert_frame_equal(back, wide_frame(table), check_dtype=False)
    compared = table.comparisons.set_index(["algorithm", "metric"])
    assert back.loc[1, "auc_vs_reference_p"] == pytest.approx(compared.loc[("sharp", "auc"), "p"])
    assert math.isnan(back.loc[0, "auc_vs_reference_p"])


def test_latex_is_escaped_and_its_rows_are_as_long_as_its_head(tmp_path):
    store = _write_study(tmp_path / "study")
    for name in ("plan.json", "study.json"):
        text = (store.folder / name).read_text()
        store.write_text(name, text.replace('"sharp"', r'"50 %_of_A&B\\"'))
    latex = to_latex(summarise(store.folder, resamples=50))
    assert r"50 \%\_of\_A\&B\textbackslash{}" in latex
    for tabular, columns in zip(re.findall(r"(?s)tabular}{.*?\\end", latex), (6, 4, 4, 9), strict=True):
        rows = [line for line in tabular.splitlines() if line.endswith(r"\\")]
        assert {len(re.findall(r"(?<!\\)&", row)) + 1 for row in rows} == {columns}
    assert latex.count("{") == latex.count("}")


def test_the_terminal_shows_algorithm_accuracy_and_time_first(study):
    out = io.StringIO()
    console = Console(file=out, width=200, highlight=False)
    table = summarise(study.folder, resamples=50)
    for part in render_terminal(table):
        console.print(part)
    text = out.getvalue()
    assert text.index("accuracy") < text.index("AUC")
    assert f"{100 * np.mean(_accuracies('sharp')):.1f} %" in text
    assert "12.0 s" in text
    assert "15.0 s" in text
    assert "Holm" in text
    assert "n/a" not in text.split("Within each patient")[0]


def test_every_metric_of_the_terminal_and_the_paper_has_its_interval(study):
    table = summarise(study.folder, resamples=50)
    latex = to_latex(table)
    shown = {grid.name: grid for grid in grids(table)}
    for view in ("pooled", "patients"):
        for row in shown[view].rows:
            for metric, cell in zip(METRICS, row[1:], strict=True):
                found = table.row(row[0], metric, view)
                scale, digits = (100, 1) if "%" in shown[view].header[1 + list(METRICS).index(metric)] else (1, 3)
                low, high = (f"{scale * found[end]:.{digits}f}" for end in ("low", "high"))
                count = f" ({found['n_patients']})" if view == "patients" else ""
                assert f"± {scale * found['sd']:.{digits}f}{count} [{low} to {high}]" in cell
                ends = rf"{low} \% to {high} \%" if scale == 100 else f"{low} to {high}"
                assert view == "patients" or ends in latex


def test_a_difference_is_shown_with_both_intervals_and_what_it_could_have_shown(study):
    table = summarise(study.folder, resamples=50)
    grid = next(grid for grid in grids(table) if grid.name == "comparisons")
    compared = table.comparisons.set_index(["algorithm", "metric"]).loc["sharp", "auc"]
    cells = dict(zip(grid.header, next(row for row in grid.rows if row[1] == "AUC"), strict=True))
    assert cells["over splits"] == f"{compared['low']:+.3f} to {compared['high']:+.3f}"
    assert cells["over patients"] == f"{compared['patients_low']:+.3f} to {compared['patients_high']:+.3f}"
    assert cells["could have shown at alpha/2"] == f"{compared['detectable']:.3f}"
    assert cells["g"] == f"{compared['g']:.2f}"
    assert "not adjusted for 2 comparisons" in grid.title


def test_what_random_splits_cannot_give_is_not_available(tmp_path):
    table = summarise(_write_study(tmp_path / "study", protocol="random").folder, resamples=50)
    grid = next(grid for grid in grids(table) if grid.name == "comparisons")
    cells = dict(zip(grid.header, grid.rows[0], strict=True))
    assert cells["difference"] != "n/a"
    absent = ("over splits", "over patients", "p", "p (Holm)", "worse / equivalent / better", "Wilcoxon*")
    assert {cells[key] for key in absent} == {"n/a"}
    assert "nothing can be tested" in grid.title


def test_the_caption_counts_the_repeats_that_each_algorithm_has(tmp_path):
    table = summarise(_write_study(tmp_path / "study", leave_out=("sharp1", "sharp2")).folder, resamples=50)
    assert grids(table)[0].title.startswith("Mean ± sd over 3 to 5 repeats [95 % interval over patients; from few")


def test_parameters_are_a_range_where_the_search_picked_different_sizes(study):
    path = study.folder / "trials" / "sharp1" / "result.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"parameters": 99_000}))
    costs = grids(summarise(study.folder, resamples=50))[-1]
    assert [row[-1] for row in costs.rows] == ["1,234", "1,234\N{EN DASH}99,000"]


def test_the_table_is_json_that_a_script_can_read(study):
    table = summarise(study.folder, resamples=50)
    back = json.loads(json.dumps(table.to_json()))
    assert back["complete"] is True
    pooled = [one for one in back["metrics"] if (one["algorithm"], one["metric"]) == ("sharp", "accuracy")]
    assert pooled[0]["mean"] == pytest.approx(np.mean(_accuracies("sharp")))


def test_a_study_with_a_gap_is_not_complete(tmp_path):
    store = _write_study(tmp_path / "study", leave_out=("sharp1",))
    assert not summarise(store.folder, resamples=50).complete


def test_a_piece_of_the_csv_still_says_what_it_is_of(study):
    frame = wide_frame(summarise(study.folder, resamples=50))
    assert set(frame["protocol"]) == {"patients"}
    assert frame[["unknown", "synthetic", "plan", "data", "splits", "notes"]].notna().all().all()


def test_the_paper_has_what_could_have_been_shown_beside_every_comparison(study):
    table = summarise(study.folder, resamples=50)
    latex = to_latex(table)
    compared = next(grid for grid in grids(table) if grid.name == "comparisons")
    place = next(number for number, name in enumerate(compared.header) if name.startswith("could have shown"))
    assert all(row[place].replace(" %", r" \%") in latex for row in compared.rows)
    assert all(latex.count(note.split(":")[0][:30]) >= 4 for note in table.notes), "the notes stand below every table"
