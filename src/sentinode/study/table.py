"""From stored trials to numbers: means, intervals, costs and comparisons; frames, no text but notes.

Two views of every metric. *pooled*: over all test patches of a repeat, which mixes in the differences between
slides. *patients*: within each patient, then averaged, each patient counting once; a patient of one class has
no AUC of his own and does not count there.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sentinode.errors import PlanError
from sentinode.evaluation.bootstrap import (
    Average,
    Interval,
    RepeatPredictions,
    Statistic,
    bootstrap_difference,
    bootstrap_patients,
    witnesses,
)
from sentinode.evaluation.calibration import measure_calibration_of_repeats
from sentinode.evaluation.metrics import METRICS
from sentinode.evaluation.statistics import (
    corrected_resampled_ttest,
    correlated_bayes,
    effect_size,
    holm,
    sign_counts,
    smallest_detectable_difference,
)
from sentinode.study.store import StudyResult, TrialRecord, read_study

__all__ = ["AS_THEY_ARE", "CALIBRATED", "FAMILY", "StudyTable", "summarise"]

FAMILY = ("accuracy", "auc")
"""The metrics that are tested, pooled: with every algorithm against the reference they are Holm's family."""

NO_TEST = (
    "Differences are not tested: images of the same patients stand in training and in test, so that neither repeats "
    "nor patients are independent evidence. There is no p, no interval of the difference, no probability and no "
    "smallest detectable difference."
)
AS_THEY_ARE, CALIBRATED = "as they are", "calibrated"
"""Kinds of probabilities whose calibration is measured."""

CALIBRATION_RESAMPLES = 300
"""Draws of the patients for the intervals of the calibration: bins are filled anew in each."""

VIEWS: tuple[Average, ...] = ("pooled", "patients")
OTHER_WORK = 1.25  # so much more wall-clock time than the processor time explains is not the training's own


@dataclass(frozen=True)
class StudyTable:
    """What came out of a study.

    Parameters
    ----------
    algorithms : tuple of str
        Those with a result, in the order of the plan.
    reference : str
        What the others are compared with.
    metrics : DataFrame
        ``algorithm, metric, view, mean, sd, low, high, n_repeats, n_patients, n_tested``: mean and sd over
        the repeats that have the metric, interval over patients resampled jointly over the repeats;
        ``n_patients`` of the ``n_tested`` patients have it.
    repeats : DataFrame
        ``algorithm, repeat, metric, view, value``: what the means are made of; NaN where undefined.
    costs : DataFrame
        Index the algorithms; mean over the repeats of ``train, train_sd, predict, search`` (wall-clock seconds)
        and ``train_cpu`` (processor seconds of training, all threads; in older trials with prediction),
        ``memory`` (bytes, most of any trial), ``parameters, parameters_low`` (most and least of any trial: the
        search may pick networks of different size), ``n_repeats``.
    comparisons : DataFrame
        One row an algorithm and metric of `FAMILY`: ``algorithm, metric, n_repeats``, the ``mean`` difference
        to the reference (positive is better) with ``sd, low, high, t, p, p_holm, d, g``, the probabilities
        ``worse, equivalent, better``, the smallest ``detectable`` difference (80 % power, at alpha divided by
        the number of rows: Bonferroni's bound on Holm's decision), the interval ``patients_low,
        patients_high`` over patients resampled jointly, and as description ``n_better, n_equal, n_worse,
        wilcoxon``. ``low, high`` are not adjusted for the number of rows. Of random splits only the mean, its
        sd, ``d``, ``g`` and the counts exist: images of a patient stand on both sides, and nothing tests that.
    calibration : DataFrame
        How far probabilities are from what came true: ``algorithm, proba`` ("as they are", and "calibrated" where the
        plan calibrates), ``measure`` (`sentinode.evaluation.calibration.MEASURES`), ``value, low, high``: mean over the
        repeats, interval over patients.
    notes : tuple of str
        What a reader must know before he believes a number.
    facts : mapping
        Protocol, digests, versions, processors: for the footer.
    complete : bool
        Whether every trial of the plan has a result.
    """

    algorithms: tuple[str, ...]
    reference: str
    metrics: pd.DataFrame
    repeats: pd.DataFrame
    costs: pd.DataFrame
    comparisons: pd.DataFrame
    calibration: pd.DataFrame
    notes: tuple[str, ...]
    facts: Mapping[str, Any]
    complete: bool = True

    def to_json(self) -> dict[str, Any]:
        """Write the table as JSON would.

        Returns
        -------
        dict
            Each frame as a list of its rows; what is undefined is NaN.
        """
        return {
            "algorithms": list(self.algorithms),
            "reference": self.reference,
            "complete": self.complete,
            "metrics": self.metrics.to_dict("records"),
            "repeats": self.repeats.to_dict("records"),
            "costs": self.costs.reset_index().to_dict("records"),
            "comparisons": self.comparisons.to_dict("records"),
            "calibration": self.calibration.to_dict("records"),
            "notes": list(self.notes),
            "facts": dict(self.facts),
        }

    def row(self, algorithm: str, metric: str, view: str = "pooled") -> pd.Series:
        """Look a metric up.

        Parameters
        ----------
        algorithm : str
            One of `algorithms`.
        metric : str
            A key of `sentinode.evaluation.metrics.METRICS`.
        view : {"pooled", "patients"}
            Which average.

        Returns
        -------
        Series
            ``mean, sd, low, high, n_repeats, n_patients``.
        """
        frame = self.metrics
        chosen = (frame["algorithm"] == algorithm) & (frame["metric"] == metric) & (frame["view"] == view)
        return frame[chosen].iloc[0]


@dataclass(frozen=True, eq=False)
class _Predicted:
    """The test part of one trial, as arrays."""

    name: str
    repeat: int
    patient: NDArray[np.str_]
    positive: NDArray[np.bool_]
    proba: NDArray[np.float64]
    uncalibrated: NDArray[np.float64] | None
    right: NDArray[np.bool_]

    def pooled(self) -> RepeatPredictions:
        """All test patches.

        Returns
        -------
        RepeatPredictions
            The positive class against the rest.
        """
        return RepeatPredictions(self.positive, self.proba, self.patient)

    def answers(self) -> RepeatPredictions:
        """Say which patches were called what they are.

        Returns
        -------
        RepeatPredictions
            "Positive" where the most probable class is the patch's own; its accuracy is that of all classes.
        """
        return RepeatPredictions(self.right, np.ones(len(self.right)), self.patient)


def summarise(folder: Path | str, *, resamples: int = 2000) -> StudyTable:
    """Read the finished trials of a study and make its table.

    Parameters
    ----------
    folder : Path or str
        Of the study.
    resamples : int, default 2000
        Of the patients, for the intervals.

    Returns
    -------
    StudyTable
        Of a study that is not complete, too; a note then says what is missing.

    Raises
    ------
    PlanError
        If there is no study there, or no trial is finished.
    """
    study = read_study(folder)
    if not study.trials:
        reasons = "; ".join(sorted({f"{one['name']}: {one['message']}" for one in study.failures}))
        raise PlanError(f"{folder}: no trial is finished{f' ({reasons})' if reasons else ''}; run the study again")
    classes = tuple(study.study["classes"])
    predicted = [_predicted(trial, classes) for trial in study.trials]
    names = tuple(name for name in study.algorithms if any(one.name == name for one in predicted))
    shared = _shared_repeats(predicted, names)
    metrics, repeats = _metrics(predicted, names, study, resamples)
    reference = str(study.plan["reference"])
    return StudyTable(
        algorithms=names,
        reference=reference,
        metrics=metrics,
        repeats=repeats,
        costs=_costs(study, names),
        comparisons=_comparisons(predicted, names, shared, study, resamples),
        calibration=_calibration(
            predicted, names, 1 - float(study.plan["alpha"]), min(resamples, CALIBRATION_RESAMPLES)
        ),
        notes=_notes(study, names, shared),
        facts=_facts(study, shared),
        complete=len(study.trials) == study.n_trials,
    )


def _predicted(trial: TrialRecord, classes: tuple[str, ...]) -> _Predicted:
    frame = trial.predictions()
    proba = frame[[f"proba_{name}" for name in classes]].to_numpy(dtype=np.float64)  # (n, k)
    label = frame["label"].to_numpy(dtype=np.str_)
    before = f"uncalibrated_{classes[-1]}"
    return _Predicted(
        name=trial.name,
        repeat=trial.repeat,
        patient=frame["patient_id"].to_numpy(dtype=np.str_),
        positive=label == classes[-1],
        proba=proba[:, -1],
        uncalibrated=frame[before].to_numpy(dtype=np.float64) if before in frame.columns else None,
        right=np.array(classes)[proba.argmax(axis=1)] == label,
    )


def _shared_repeats(predicted: list[_Predicted], names: tuple[str, ...]) -> tuple[int, ...]:
    counts = Counter(one.repeat for one in predicted)
    return tuple(sorted(repeat for repeat, n in counts.items() if n == len(names)))


def _metrics(
    predicted: list[_Predicted], names: tuple[str, ...], study: StudyResult, resamples: int
) -> tuple[pd.DataFrame, pd.DataFrame]:
    means, values = [], []
    for name in names:
        of_name = [one for one in predicted if one.name == name]
        for (metric, view), interval in _intervals(of_name, study, resamples).items():
            means.append({
                "algorithm": name,
                "metric": metric,
                "view": view,
                "mean": interval.mean,
                "sd": interval.sd,
                "low": interval.low,
                "high": interval.high,
                "n_repeats": interval.n_repeats,
                "n_patients": interval.n_counted,
                "n_tested": interval.n_patients,
            })
            values += [
                (name, one.repeat, metric, view, value) for one, value in zip(of_name, interval.per_repeat, strict=True)
            ]
    return pd.DataFrame(means), pd.DataFrame(values, columns=["algorithm", "repeat", "metric", "view", "value"])


def _intervals(predicted: list[_Predicted], study: StudyResult, resamples: int) -> dict[tuple[str, str], Interval]:
    """Give every metric in both views; with more than two classes, accuracy is that of the most probable one.

    Returns
    -------
    dict of (metric, view) to Interval
        In the order of `METRICS`.
    """
    level = 1 - float(study.plan["alpha"])
    intervals = bootstrap_patients([one.pooled() for one in predicted], n=resamples, level=level)
    found: dict[tuple[str, str], Interval] = {
        (metric, view): intervals[Statistic(metric, view)] for metric in METRICS for view in VIEWS
    }
    if len(study.study["classes"]) > 2:
        answers = bootstrap_patients([one.answers() for one in predicted], ["accuracy"], n=resamples, level=level)
        found |= {(metric, view): interval for (metric, view), interval in answers.items()}
    return found


def _calibration(predicted: list[_Predicted], names: tuple[str, ...], level: float, resamples: int) -> pd.DataFrame:
    rows = []
    for name in names:
        of_name = [one for one in predicted if one.name == name]
        tables = {AS_THEY_ARE: [one.proba if one.uncalibrated is None else one.uncalibrated for one in of_name]}
        if all(one.uncalibrated is not None for one in of_name):
            tables[CALIBRATED] = [one.proba for one in of_name]
        for what, tables_of_repeats in tables.items():
            repeats = [
                (one.positive, proba, witnesses(one.patient))
                for one, proba in zip(of_name, tables_of_repeats, strict=True)
            ]
            for measure, spread in measure_calibration_of_repeats(repeats, level=level, n=resamples).items():
                rows.append({"algorithm": name, "proba": what, "measure": measure, **asdict(spread)})
    return pd.DataFrame(rows)


def _costs(study: StudyResult, names: tuple[str, ...]) -> pd.DataFrame:
    rows = {}
    for name in names:
        results = [trial.result for trial in study.trials if trial.name == name]
        seconds = pd.DataFrame([result["seconds"] for result in results])
        rows[name] = {
            "train": seconds["train"].mean(),
            "train_sd": seconds["train"].std(),
            "predict": seconds["predict"].mean(),
            "search": seconds["search"].mean(),
            "train_cpu": float(np.mean([_train_cpu(result) for result in results])),
            "memory": max(result["memory"] for result in results),
            "parameters": max(result["parameters"] for result in results),
            "parameters_low": min(result["parameters"] for result in results),
            "n_repeats": len(results),
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("algorithm")


def _train_cpu(result: Mapping[str, Any]) -> float:
    # Older trials hold the processor time of training and prediction together.
    seconds = result["seconds"]
    return float(seconds.get("train_cpu", seconds.get("cpu", np.nan)))


# --- comparisons -------------------------------------------------------------------------------------------


def _comparisons(
    predicted: list[_Predicted],
    names: tuple[str, ...],
    shared: tuple[int, ...],
    study: StudyResult,
    resamples: int,
) -> pd.DataFrame:
    reference = str(study.plan["reference"])
    if reference not in names or not shared:
        return pd.DataFrame(columns=_COMPARED)
    ratio, many = _test_train_ratio(study, shared), len(study.study["classes"]) > 2
    n_tests = len(FAMILY) * (len(names) - 1)
    rows = []
    for metric in FAMILY:
        parts = {
            name: [
                one.answers() if many and metric == "accuracy" else one.pooled()
                for one in predicted
                if one.name == name and one.repeat in shared
            ]
            for name in names
        }
        for name in names:
            if name != reference:
                compared = _compare(metric, parts[name], parts[reference], ratio, study.plan, resamples, n_tests)
                rows.append({"algorithm": name, "metric": metric, **compared})
    frame = pd.DataFrame(rows, columns=_COMPARED)
    return frame.assign(p_holm=holm(frame["p"].to_numpy(dtype=np.float64)))


_COMPARED = [
    *("algorithm", "metric", "n_repeats", "mean", "sd", "low", "high", "t", "p", "p_holm", "d", "g"),
    *("worse", "equivalent", "better", "detectable", "patients_low", "patients_high"),
    *("n_better", "n_equal", "n_worse", "wilcoxon"),
]


def _compare(
    metric: str,
    ours: list[RepeatPredictions],
    theirs: list[RepeatPredictions],
    ratio: float,
    plan: Mapping[str, Any],
    resamples: int,
    n_tests: int,
) -> dict[str, Any]:
    alpha = float(plan["alpha"])
    # Both metrics of the family are better when higher: the difference is the gain.
    difference = bootstrap_difference(ours, theirs, [metric], n=resamples, level=1 - alpha)[Statistic(metric, "pooled")]
    gain = np.array(difference.per_repeat)
    signs = sign_counts(gain)
    described = {
        "n_repeats": difference.n_repeats,
        "mean": difference.mean,
        "sd": difference.sd,
        **effect_size(gain)._asdict(),
        "n_better": signs.better,
        "n_equal": signs.equal,
        "n_worse": signs.worse,
    }
    if np.isnan(ratio):
        return described  # pandas fills in NaN for the rest
    return described | {
        **_test(gain, ratio, alpha, float(plan["rope"]), n_tests),
        "patients_low": difference.low,
        "patients_high": difference.high,
        "wilcoxon": signs.wilcoxon,
    }


def _test(gain: NDArray[np.float64], ratio: float, alpha: float, rope: float, n_tests: int) -> dict[str, float]:
    test = corrected_resampled_ttest(gain, ratio, level=1 - alpha)
    # Holm rejects whatever Bonferroni does, so what is found at alpha / m with 80 % chance Holm finds as often.
    detectable = smallest_detectable_difference(test.sd, test.n_repeats, ratio, alpha=alpha / n_tests)
    return {
        "low": test.low,
        "high": test.high,
        "t": test.statistic,
        "p": test.p,
        # n_test / (n_test + n_train), from the ratio of the two.
        **correlated_bayes(gain, ratio / (1 + ratio), rope)._asdict(),
        "detectable": detectable,
    }


def _test_train_ratio(study: StudyResult, shared: tuple[int, ...]) -> float:
    # Where images were drawn the patients of test are those of training: no ratio of the two makes a test.
    if study.study["protocol"]["name"] == "random":
        return float("nan")
    # Patients that stop training are no part of n_train: that makes the test the more careful one.
    counts = [trial.result["n_patients"] for trial in study.trials if trial.repeat in shared]
    return float(np.mean([one["test"] / max(one["train"], 1) for one in counts])) if counts else float("nan")


# --- notes -------------------------------------------------------------------------------------------------


def _notes(study: StudyResult, names: tuple[str, ...], shared: tuple[int, ...]) -> tuple[str, ...]:
    about, protocol = study.study, study.study["protocol"]
    notes = []
    if about["provenance"]["synthetic"]:
        notes.append("The images are synthetic: drawn by sentinode.phantom, not taken from tissue.")
    if protocol["name"] == "random":
        notes += [_note_on_random(about["leakage"]), NO_TEST]
    if protocol["unknown"] == "train":
        n = round(float(np.mean([one["n_unknown_in_train"] for one in about["leakage"]])))
        notes.append(
            f"Leakage cannot be excluded: {n} training images a repeat are of unknown patients, who may be "
            f"patients of the test part; {_n_dropped(study)} that show tissue of another part were dropped first."
        )
    elif about["n_unassigned"]:
        notes.append(f"{about['n_unassigned']} images whose patient is unknown were left out.")
    return (*notes, *_notes_on_time(study, names), *_notes_on_gaps(study, names, shared))


def _n_dropped(study: StudyResult) -> int:
    # What has no role though unknown images may be trained on: it overlaps a part that training must not see.
    used = {trial.repeat: sum(trial.result["n_images"].values()) for trial in study.trials}
    return round(float(np.mean([study.study["n_images"] - n for n in used.values()])))


def _note_on_random(leakage: list[dict[str, Any]]) -> str:
    mean = {key: float(np.mean([one[key] for one in leakage])) for key in leakage[0]}
    return (
        "Random splits flatter: images, not patients, were drawn. In a repeat, on average, "
        f"{mean['n_test_of_seen_patients']:.0f} of {mean['n_test']:.0f} test images are of patients that "
        f"training has seen, and {mean['n_overlapping_pairs']:.0f} pairs of images show the same tissue on "
        "both sides."
    )


def _notes_on_time(study: StudyResult, names: tuple[str, ...]) -> list[str]:
    workers = int(study.study.get("workers", study.plan.get("workers", 1)))
    if workers > 1:
        return [f"Wall-clock times were measured while other work ran: {workers} trials at once. Compare CPU times."]
    slow = [name for name in names if _was_disturbed([one.result for one in study.trials if one.name == name])]
    if not slow:
        return []
    told = (
        "Wall-clock times were measured while other work ran, or their threads were not kept busy "
        f"({', '.join(slow)}: more than {OTHER_WORK:g} times CPU time / threads). Compare CPU times."
    )
    return [told]


def _was_disturbed(results: list[dict[str, Any]]) -> bool:
    wall = float(np.mean([one["seconds"]["train"] for one in results]))
    alone = float(np.mean([_train_cpu(one) / int(one["environment"].get("threads", 1)) for one in results]))
    return wall >= 1 and wall > OTHER_WORK * alone  # below a second the clock says nothing


def _notes_on_gaps(study: StudyResult, names: tuple[str, ...], shared: tuple[int, ...]) -> list[str]:
    notes = []
    planned = Counter(trial["name"] for trial in study.study["trials"])
    done = Counter(trial.name for trial in study.trials)
    for name in study.algorithms:
        if done[name] < planned[name]:
            reasons = sorted({one["message"].splitlines()[0] for one in study.failures if one["name"] == name})
            why = f" ({'; '.join(reasons)})" if reasons else ""
            notes.append(f"{name}: {done[name]} of {planned[name]} repeats are finished{why}.")
    if notes and shared:
        notes.append(f"Only the {len(shared)} repeats that all have finished are compared.")
    elif notes:
        notes.append("No repeat is finished by all: nothing is compared.")
    if study.plan["reference"] not in names:
        notes.append(f"The reference {study.plan['reference']} has no result: nothing is compared with it.")
    return notes


def _facts(study: StudyResult, shared: tuple[int, ...]) -> Mapping[str, Any]:
    about = study.study
    environments = [trial.result["environment"] for trial in study.trials]
    versions = {key: sorted({str(one[key]) for one in environments if key in one}) for key in environments[0]}
    return MappingProxyType({
        "plan": about["plan"],
        "data": about["data"],
        "splits": about["splits"],
        "protocol": about["protocol"],
        "classes": tuple(about["classes"]),
        "provenance": about["provenance"],
        "test_train_ratio": _test_train_ratio(study, shared),
        "alpha": study.plan["alpha"],
        "rope": study.plan["rope"],
        "candidates": study.plan["search"]["candidates"],
        "environment": {key: ", ".join(values) for key, values in versions.items()},
    })
