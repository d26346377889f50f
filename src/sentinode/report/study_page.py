"""The report of a study: accuracy and time first, then everything that a reviewer will ask for."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sentinode.evaluation.bootstrap import RepeatPredictions, roc_band, witnesses
from sentinode.evaluation.calibration import reliability
from sentinode.evaluation.metrics import METRICS, confusion
from sentinode.report import figures
from sentinode.report.page import Drawing, Gallery, Page, Section, TextTable, picture, write_page
from sentinode.study.printing import Grid, broken, coverage, grids, level
from sentinode.study.store import StudyResult, read_study
from sentinode.study.table import CALIBRATED, NO_TEST, StudyTable

__all__ = ["accuracy_drawing", "study_page", "write_study_page"]

MOST_WRONG = 8
MEDIAN = "Thin: repeats. Thick: their median, as far as at least half of them were trained."
PRETRAINING = (
    "Without labels, machine by machine: error of reconstruction (blue: training, orange: stopping patients), and free "
    "energy of the stopping patients' patches minus that of the training patches. A gap that grows is a machine that "
    "learns its patches by heart."
)
TRAINING = (
    "The loss on training patches and on the patches of the patients that decide when to stop; the best epoch is kept."
)
TESTED = (
    "The repeats share patients, so an ordinary t-test finds differences that are not there. This one is corrected for "
    "it (Nadeau and Bengio 2003), with patients counted, not patches; the Bayesian answer (Corani and Benavoli 2015) "
    "says how probable it is that an algorithm is worse, practically equal, or better. A difference smaller than the "
    "one that the design could have shown is no evidence of equality."
)
#: What the founding experiment reported, on its own data and machine.
FOUNDING = "89.8 % in 156.5 s for its CNN against 83.5 % in 278.6 s for its DBN"


def write_study_page(folder: Path, table: StudyTable) -> Path:
    """Write the report of a study beside its trials.

    Parameters
    ----------
    folder : Path
        Of the study.
    table : StudyTable
        What was made of it.

    Returns
    -------
    Path
        ``folder/report.html``.

    Raises
    ------
    PlanError
        If there is no study in the folder.
    ExportError
        If the page cannot be written.
    """
    # Both are those of the calls.
    path = Path(folder) / "report.html"
    write_page(study_page(read_study(folder), table), path)
    return path


def study_page(study: StudyResult, table: StudyTable) -> Page:
    """Lay out the report of a study.

    Parameters
    ----------
    study : StudyResult
        The stored trials.
    table : StudyTable
        Their numbers.

    Returns
    -------
    Page
        Ready to be rendered.
    """
    predictions = _predictions(study, table.algorithms)
    tables = {grid.name: grid for grid in grids(table)}
    return Page(
        title="Which algorithm recognises cancer best on these images?",
        lead=_lead(study, table),
        badges=_badges(study, table),
        notes=table.notes,
        sections=(
            _first(table, tables["first"]),
            _compared(table, tables),
            _discrimination(table, predictions, tables),
            _calibration(table, predictions, tables),
            _wrong(study, predictions),
            *_training(study),
            Section("What it cost", tables=(_text_table(tables["costs"], table),)),
            _how(study, table),
        ),
        footer=_footer(table),
    )


def accuracy_drawing(table: StudyTable) -> str:
    """Draw the accuracy of every algorithm in every repeat.

    Parameters
    ----------
    table : StudyTable
        Of a study.

    Returns
    -------
    str
        SVG.
    """
    values = table.repeats[(table.repeats["metric"] == "accuracy") & (table.repeats["view"] == "pooled")]
    wide = values.pivot_table(index="repeat", columns="algorithm", values="value", dropna=False)
    drawn = figures.accuracy_per_repeat(
        wide[list(table.algorithms)], _intervals(table, "accuracy"), label=_whose(table)
    )
    return figures.to_svg(drawn)


def _first(table: StudyTable, first: Grid) -> Section:
    summary = _intervals(table, "accuracy").assign(seconds=table.costs["train"])
    return Section(
        "Algorithm, accuracy, time",
        "As the founding experiment had it; it reported "
        f"{FOUNDING}, on thyroid slides that are not public and on another machine: nothing here can be "
        "compared with those figures in absolute terms.",
        figures=(
            Drawing(
                accuracy_drawing(table),
                "Each grey line is one repeat: all algorithms on the same split. Diamonds: mean, with its "
                f"{level(table)} interval over patients ({coverage(table)}).",
            ),
            Drawing(
                figures.to_svg(figures.time_against_accuracy(summary, label=_whose(table))),
                "What a training costs by the wall clock and what it reaches. Up and left is better.",
            ),
        ),
        tables=(_text_table(first, table),),
    )


def _compared(table: StudyTable, tables: Mapping[str, Grid]) -> Section:
    if not len(table.comparisons):
        return Section("Is the difference real?", "Nothing could be compared; the notes above say why.")
    tested = not pd.isna(table.facts["test_train_ratio"])
    drawings = []
    for metric in table.comparisons["metric"].unique():
        chosen = table.comparisons[table.comparisons["metric"] == metric].set_index("algorithm")
        label = METRICS[str(metric)].label
        drawing = figures.differences(chosen, table.reference, float(table.facts["rope"]), label)
        interval = (
            f"corrected {level(table)} interval, not adjusted for the number of comparisons" if tested else "mean"
        )
        drawings.append(Drawing(figures.to_svg(drawing), f"{label}: difference to {table.reference}, {interval}."))
    return Section(
        "Is the difference real?",
        TESTED if tested else NO_TEST,
        figures=tuple(drawings),
        tables=(_text_table(tables["comparisons"], table),),
    )


def _discrimination(
    table: StudyTable, predictions: Mapping[str, Sequence[pd.DataFrame]], tables: Mapping[str, Grid]
) -> Section:
    classes = tuple(table.facts["classes"])
    bands, areas, counts = {}, {}, {}
    for name, repeats in predictions.items():
        band = roc_band(
            [_positive_against_rest(frame, classes) for frame in repeats], level=1 - float(table.facts["alpha"])
        )
        bands[name] = (band.false_positive_rate, band.true_positive_rate, band.low, band.high)
        areas[name] = float(table.row(name, "auc")["mean"])
        counts[name] = np.sum([_confusion(frame, classes) for frame in repeats], axis=0)
    return Section(
        "How well, in every respect",
        "Pooled numbers mix all test patches of a repeat; numbers within patients are taken for each patient alone "
        "and then averaged, so that differences between slides do not count. A patient of one class has no AUC of his "
        "own.",
        figures=(
            Drawing(
                figures.to_svg(figures.roc_curves(bands, areas)),
                f"Finding '{classes[-1]}', pooled; {level(table)} bands over patients, pointwise.",
            ),
            Drawing(
                figures.to_svg(figures.confusion_matrices(counts, classes)),
                "Of the patches of a true class (row), how many got which answer; all repeats together.",
            ),
        ),
        tables=(_text_table(tables["pooled"], table), _text_table(tables["patients"], table)),
    )


def _calibration(
    table: StudyTable, predictions: Mapping[str, Sequence[pd.DataFrame]], tables: Mapping[str, Grid]
) -> Section:
    classes = tuple(table.facts["classes"])
    diagrams = {}
    for name, repeats in predictions.items():
        parts = [_positive_against_rest(frame, classes) for frame in repeats]
        diagrams[name] = reliability(
            np.concatenate([one.positive for one in parts]),
            np.concatenate([one.proba for one in parts]),
            np.concatenate([witnesses(one.patient) for one in parts]),  # a patient of three repeats is one witness
            level=1 - float(table.facts["alpha"]),
        )
    calibrated = (table.calibration["proba"] == CALIBRATED).any()
    kind = "calibrated on patients of their own" if calibrated else "as they are; a plan with calibrate puts them right"
    return Section(
        "What a probability is worth",
        "Of the patches that get 0.8, eight in ten should show it. An ECE is never 0, not even of perfect "
        "probabilities; with the bias taken off, chance adds nothing.",
        figures=(
            Drawing(
                figures.to_svg(figures.reliability_diagram(diagrams)),
                f"Probabilities of '{classes[-1]}', {kind}; all repeats together, bins of equal numbers, "
                f"{level(table)} intervals over patients.",
            ),
        ),
        tables=(_text_table(tables["calibration"], table),),
    )


def _wrong(study: StudyResult, predictions: Mapping[str, Sequence[pd.DataFrame]]) -> Section:
    pixels, places = study.patches()
    if pixels.ndim == 3:
        return Section("What each one got most wrong", "The rows are features of an encoder: there is nothing to show.")
    galleries = []
    for name, repeats in predictions.items():
        frame = pd.concat(repeats)
        share = frame.apply(lambda row: float(row[f"proba_{row['label']}"]), axis=1)
        mean = (
            frame
            .assign(share=share)
            .groupby("image_id", sort=True)
            .agg(share=("share", "mean"), label=("label", "first"), n=("share", "size"))
        )
        worst = mean.sort_values(["share", "n"], ascending=[True, False], kind="stable").head(MOST_WRONG)
        shown = tuple(
            picture(
                np.asarray(pixels[places[str(image)]]),
                f"{str(image)[:14]}: is {row['label']}, given {row['share']:.0%} (n = {row['n']})",
            )
            for image, row in worst.iterrows()
        )
        galleries.append(Gallery(name, shown))
    return Section(
        "What each one got most wrong",
        "The test patches whose true class was given the least probability, averaged over the repeats that tested them "
        "(n). Look for what they share: a stain, a fold, a label that is not right.",
        galleries=tuple(galleries),
    )


def _training(study: StudyResult) -> tuple[Section, ...]:
    logs = []
    for trial in study.trials:
        log = trial.training()
        if len(log):
            logs.append(log.assign(algorithm=trial.name, repeat=trial.repeat))
    if not logs:
        return (Section("Training", "None of these algorithms is trained in epochs."),)
    order = {name: place for place, name in enumerate(study.algorithms)}
    whole = pd.concat(logs).sort_values("algorithm", key=lambda names: names.map(order), kind="stable")
    # A Boltzmann machine is trained without labels: its loss is an error of reconstruction, in other units.
    machine = whole["stage"].astype(str).str.startswith("rbm-")
    sections = []
    if machine.any():
        drawing = figures.to_svg(figures.pretraining_curves(whole[machine]))
        sections.append(Section("Pre-training", PRETRAINING, figures=(Drawing(drawing, MEDIAN),)))
    if not machine.all():
        drawing = figures.to_svg(figures.training_curves(whole[~machine]))
        sections.append(Section("Training", TRAINING, figures=(Drawing(drawing, MEDIAN),)))
    return tuple(sections)


def _how(study: StudyResult, table: StudyTable) -> Section:
    protocol = table.facts["protocol"]
    unit = "images" if protocol["name"] == "random" else "patients"
    rows = [
        (
            "Splits",
            f"{protocol['repeats']} repeats; by {unit}; test {protocol['test']:.0%}, stop {protocol['stop']:.0%}",
        ),
        (
            "Tuning",
            f"{table.facts['candidates']} candidate settings for each algorithm, chosen on the stop part",
        ),
        (
            "Images",
            f"{study.study['n_images']} in the manifest, {study.study['n_unassigned']} of them in no role",
        ),
        ("Source", table.facts["provenance"]["source"] or "not stated"),
        ("Licence", table.facts["provenance"]["licence"] or "not stated"),
    ]
    return Section("How it was done", tables=(TextTable(("", ""), tuple(rows)),))


def _lead(study: StudyResult, table: StudyTable) -> str:
    mean = {name: float(table.row(name, "accuracy")["mean"]) for name in table.algorithms}
    best = max(mean, key=lambda name: mean[name])
    cost = float(table.costs["train"][best])
    outlook = (
        "Images of the same patients stand on both sides: whether it differs from the others cannot be tested."
        if pd.isna(table.facts["test_train_ratio"])
        else "Whether it differs from the others more than chance would have it is said below."
    )
    return (
        f"{len(table.algorithms)} algorithms, {study.study['protocol']['repeats']} paired repeats. Highest mean "
        f"accuracy: {best}, {mean[best]:.1%}, trained in {cost:.1f} s. {outlook}"
    )


def _badges(study: StudyResult, table: StudyTable) -> tuple[str, ...]:
    protocol = study.study["protocol"]
    by = "split by image (flatters)" if protocol["name"] == "random" else "split by patient"
    badges = ["research use only", by]
    if table.facts["provenance"]["synthetic"]:
        badges.append("synthetic images")
    if protocol["unknown"] == "train":
        badges.append("unknown patients in training")
    if len(study.trials) < study.n_trials:
        badges.append(f"not finished: {len(study.trials)} of {study.n_trials} trials")
    return tuple(badges)


def _footer(table: StudyTable) -> tuple[tuple[str, str], ...]:
    facts = table.facts
    environment = [(key, str(value)) for key, value in facts["environment"].items()]
    digests = [(f"digest of {key}", str(facts[key])) for key in ("plan", "data", "splits")]
    return (*digests, *environment)


def _text_table(grid: Grid, table: StudyTable) -> TextTable:
    strong = frozenset(place for place, row in enumerate(grid.rows) if row[0] == table.reference)
    return TextTable(grid.header, tuple(broken(grid, row) for row in grid.rows), grid.title, strong)


def _predictions(study: StudyResult, algorithms: Sequence[str]) -> dict[str, list[pd.DataFrame]]:
    return {name: [trial.predictions() for trial in study.trials if trial.name == name] for name in algorithms}


def _positive_against_rest(frame: pd.DataFrame, classes: tuple[str, ...]) -> RepeatPredictions:
    return RepeatPredictions(
        frame["label"].to_numpy() == classes[-1],
        frame[f"proba_{classes[-1]}"].to_numpy(dtype=np.float64),
        frame["patient_id"].to_numpy(dtype=np.str_),
    )


def _confusion(frame: pd.DataFrame, classes: tuple[str, ...]) -> NDArray[np.int64]:
    proba = frame[[f"proba_{name}" for name in classes]].to_numpy()  # (n, k)
    truth = pd.Categorical(frame["label"], categories=list(classes)).codes
    return confusion(truth, proba.argmax(axis=1), len(classes))


def _whose(table: StudyTable) -> str:
    protocol = table.facts["protocol"]
    if protocol["name"] == "random":
        return "accuracy on images of patients seen in training"
    # Where images of unknown patients train, nobody can say that the patients of test are unseen.
    return "accuracy on test patients" if protocol["unknown"] == "train" else "accuracy on unseen patients"


def _intervals(table: StudyTable, metric: str) -> pd.DataFrame:
    rows: dict[str, Any] = {name: table.row(name, metric)[["mean", "low", "high"]] for name in table.algorithms}
    return pd.DataFrame.from_dict(rows, orient="index").astype(float)
