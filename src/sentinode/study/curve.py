"""Learning curves: the trials of a study with fewer and fewer patients, or patches, to train on.

Within a repeat the smaller part lies in the larger one, and test and stop part stay as they are, so that two sizes
differ by what was added and by nothing else. A trial with all training patients is the trial of the study itself: in
the folder of a finished study it is taken over.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sentinode.data.manifest import Manifest
from sentinode.data.splits import Split, with_fewer_to_train_on
from sentinode.errors import PlanError
from sentinode.evaluation.bootstrap import RepeatPredictions
from sentinode.evaluation.learning_curve import Estimate, LearningCurve, learning_curve
from sentinode.evaluation.metrics import METRICS
from sentinode.seeds import stream
from sentinode.study.events import Listener
from sentinode.study.plan import Plan
from sentinode.study.runner import Prepared, StudyData, filled, make_trial, read_data, run_trials
from sentinode.study.store import StudyStore

__all__ = ["AXES", "CurveTable", "curve_rows", "in_words", "run_curve", "summarise_curve", "write_curve"]

AXES = ("patients", "patches")
MEASURED = ("auc", "accuracy")
DRAWS = 500  # orders of the patients that are tried until the first few hold every class
SPAN = 16  # the smallest part that is chosen by itself is at most so many times smaller than all


@dataclass(frozen=True, eq=False)
class CurveTable:
    """The learning curves of a plan, as far as its trials are done.

    Parameters
    ----------
    curves : dict of (str, str, str) to LearningCurve
        Axis (``"patients"`` or ``"patches"``), algorithm, metric.
    points : DataFrame
        One row a trial: ``axis, algorithm, size, repeat, n_patients, n_images, auc, accuracy, seconds, key``.
    notes : tuple of str
        What a reader must know.
    facts : dict
        ``curve.json``: digests, versions, plan.
    complete : bool
        Whether every trial has a result.
    """

    curves: dict[tuple[str, str, str], LearningCurve]
    points: pd.DataFrame
    notes: tuple[str, ...]
    facts: dict[str, Any]
    complete: bool

    def to_json(self) -> dict[str, Any]:
        """Write it as JSON would.

        Returns
        -------
        dict
            Each curve with its sizes, errors, law, gain and what it says in words.
        """
        return {
            "curves": [
                {
                    "axis": axis,
                    "algorithm": name,
                    "metric": metric,
                    **_curve_json(curve),
                    "answer": in_words(key, curve),
                }
                for key, curve in self.curves.items()
                for axis, name, metric in (key,)
            ],
            "notes": list(self.notes),
            "complete": self.complete,
            "plan": self.facts["plan"],
            "data": self.facts["data"],
            "version": self.facts["version"],
        }


def run_curve(plan: Plan, out: Path | str, on_event: Listener | None = None) -> CurveTable:
    """Train on parts of the training patients and patches, as far as a folder does not hold it yet.

    Parameters
    ----------
    plan : Plan
        From `sentinode.study.plan.read_plan`; ``[curve]`` says at which sizes.
    out : Path or str
        Folder of the curve; that of a study of the same plan gives its trials.
    on_event : callable, optional
        Receives every `StudyEvent`.

    Returns
    -------
    CurveTable
        As far as it came; a failed trial does not stop the others.

    Raises
    ------
    PlanError
        If a size cannot be had, or as in `sentinode.study.runner.run_study`.
    ManifestError
        If an image cannot be read.
    LeakageError
        If a test image could be seen in training.
    MissingExtra
        If an algorithm needs torch and it is not installed.
    ExportError
        If there is no room or no permission in the folder.
    """
    # The errors are those of the steps.
    listen = on_event or (lambda _event: None)
    store = StudyStore(Path(out).absolute())
    store.clean()
    data = read_data(plan, store, listen)
    axes, notes = _axes(plan, data)
    points, trials = [], []
    for split in data.splits:
        for axis, sizes in axes.items():
            for size, part in zip(sizes, _PARTS[axis](data.manifest, split, sizes, plan.seed), strict=True):
                reduced = with_fewer_to_train_on(data.manifest, split, part)
                for entry in plan.entries:
                    trial = make_trial(plan, entry, reduced, data)
                    point = {"axis": axis, "size": size, "repeat": split.repeat, "name": entry.name, "key": trial.key}
                    points.append(point)
                    trials.append((trial, reduced))
    # All patients and all patches are the same trial.
    once = {trial.key: (trial, split) for trial, split in trials}
    store.write_json(
        "curve.json",
        {**data.facts(plan), "settings": filled(plan, data.protocol), "notes": notes, "points": points},
    )
    run_trials(plan, store, Prepared(data.manifest, data.pixels, list(once.values())), listen)
    return summarise_curve(store.folder)


def summarise_curve(folder: Path | str) -> CurveTable:
    """Fit the learning curves of what is stored.

    Parameters
    ----------
    folder : Path or str
        What was given as ``--out``.

    Returns
    -------
    CurveTable
        Of the repeats in which every size of an algorithm is done.

    Raises
    ------
    PlanError
        If there is no curve there, or nothing of it is done.
    """
    store = StudyStore(Path(folder))
    facts = store.read_json("curve.json")
    predictions = {
        point["key"]: pd.read_parquet(store.folder / "trials" / point["key"] / "predictions.parquet")
        for point in facts["points"]
        if store.has(point["key"])
    }
    if not predictions:
        raise PlanError(f"{folder}: no trial of the curve is done; the folder 'failures' there says why")
    rows = [
        _row(point, predictions[point["key"]], store, facts) for point in facts["points"] if point["key"] in predictions
    ]
    settings = facts["settings"]
    curves, notes = {}, list(facts["notes"])
    for axis in dict.fromkeys(point["axis"] for point in facts["points"]):
        for name in settings["algorithms"]:
            mine = [point for point in facts["points"] if (point["axis"], point["name"]) == (axis, name)]
            measured, missing = _by_size(mine, predictions, facts["classes"][-1])
            notes += [f"{name}, {axis}: {missing} repeats are not whole and are left out"] if missing else []
            for metric in MEASURED if measured else ():
                curves[axis, name, metric] = learning_curve(
                    measured, metric, equal=settings["rope"], seed=settings["seed"], level=1 - settings["alpha"]
                )
    points = pd.DataFrame(rows)
    return CurveTable(curves, points, _notes(facts, notes), facts, len(rows) == len(facts["points"]))


def write_curve(table: CurveTable, folder: Path) -> None:
    """Write every trial of the curves as ``learning-curve.csv``, and what was fitted as ``learning-curve.json``.

    Parameters
    ----------
    table : CurveTable
        As far as it came.
    folder : Path
        Of the curve.

    Raises
    ------
    ExportError
        If there is no room or no permission.
    """
    # ExportError is the store's.
    store = StudyStore(folder)
    store.write_text("learning-curve.csv", table.points.to_csv(index=False))
    store.write_json("learning-curve.json", table.to_json())


def in_words(key: tuple[str, str, str], curve: LearningCurve) -> str:
    """Say what twice the data would bring, or that it cannot be told.

    Parameters
    ----------
    key : (str, str, str)
        Axis, algorithm, metric.
    curve : LearningCurve
        Of it.

    Returns
    -------
    str
        A sentence or two.
    """
    axis, name, metric = key
    n = int(curve.sizes[-1])
    label = {"auc": "AUC", "accuracy": "accuracy"}[metric]
    twice = f"twice the {axis} ({2 * n:,} in place of {n:,})"
    interval = f"95 % interval {_points(curve.gain.low)} to {_points(curve.gain.high)}"
    value = f"{_points(curve.gain.value)} points of {label}"
    if curve.verdict == "gain":
        return f"{name}: {twice} would bring {value} ({interval}), as far as the power law holds."
    if curve.verdict == "little":
        return f"{name}: {twice} would change little: {value} ({interval})."
    return (
        f"{name}: these data cannot tell what {twice} would bring to the {label}: {curve.reason}. "
        f"The best guess is {value}, {interval}."
    )


def curve_rows(table: CurveTable, axis: str) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Lay out the errors at every size as a table of words.

    Parameters
    ----------
    table : CurveTable
        As far as it came.
    axis : str
        ``"patients"`` or ``"patches"``.

    Returns
    -------
    header : tuple of str
        Algorithm, size, patients, images, errors with their intervals, seconds.
    rows : list of tuple of str
        One an algorithm and size.
    """
    header: tuple[str, ...] = (
        "algorithm", "patients", "patches", "1 - AUC", "95 %", "1 - accuracy", "95 %", "training, s", "repeats",
    )  # fmt: skip
    rows: list[tuple[str, ...]] = []
    for name in dict.fromkeys(name for on, name, _ in table.curves if on == axis):
        auc, accuracy = (table.curves[axis, name, metric] for metric in MEASURED)
        for place, size in enumerate(auc.sizes.tolist()):
            of_size = (table.points["axis"] == axis) & (table.points["size"] == size)
            mine = table.points[of_size & (table.points["algorithm"] == name)]
            rows.append((
                name,
                _range(mine["n_patients"]),
                _range(mine["n_images"]),
                *_error(auc.errors[place]),
                *_error(accuracy.errors[place]),
                f"{mine['seconds'].mean():.1f}",
                str(auc.n_repeats),
            ))
    return header, rows


def _range(counts: "pd.Series[Any]") -> str:
    low, high = int(counts.min()), int(counts.max())
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _error(one: Estimate) -> tuple[str, str]:
    known = np.isfinite(one.low)
    return f"{one.value:.3f}", f"{one.low:.3f} to {one.high:.3f}" if known else "n/a"


def _points(share: float) -> str:
    return "n/a" if not np.isfinite(share) else f"{100 * share:+.1f}"


# --- which sizes, and who is in them ----------------------------------------------------------------------------


def _axes(plan: Plan, data: StudyData) -> tuple[dict[str, tuple[int, ...]], list[str]]:
    # The sizes of each axis, the same in all repeats, and what must be said about them.
    axes, notes = {}, []
    if why := _uncountable(data):
        if plan.curve.patients:
            raise PlanError(f"[curve] patients: {why}; leave it out")
        notes.append(f"no curve over patients: {why}")
    elif plan.curve.patients != ():
        axes["patients"] = plan.curve.patients or _sizes("patients", plan, data)
    if plan.curve.patches != ():
        axes["patches"] = plan.curve.patches or _sizes("patches", plan, data)
    if not axes:
        raise PlanError("[curve] asks for no curve: patients and patches are both empty; leave one of them out")
    return axes, notes


def _uncountable(data: StudyData) -> str:
    if data.protocol.name == "random":
        return 'images were drawn, not patients (protocol = "random")'
    if data.protocol.unknown == "train":
        return 'nobody knows whose all images are (unknown = "train")'
    return ""


def _sizes(axis: str, plan: Plan, data: StudyData) -> tuple[int, ...]:
    # From the smallest at which every repeat has every class to what the poorest repeat has.
    counts = {
        "patients": [split.n_patients(data.manifest, "train") for split in data.splits],
        "patches": [len(split.train) for split in data.splits],
    }
    most = min(counts[axis])
    for least in range(max(2, most // SPAN), most):
        try:
            for split in data.splits:
                _PARTS[axis](data.manifest, split, (least,), plan.seed)
        except PlanError:
            continue
        return _spread(least, most, plan.curve.points)
    raise PlanError(f"{most} {axis} to train on are too few for a learning curve; bring more, or lower test and stop")


def _spread(least: int, most: int, points: int) -> tuple[int, ...]:
    # Rising by the same factor: a power law is a straight line there.
    sizes = np.unique(np.rint(np.geomspace(least, most, points)).astype(int))
    return tuple(int(size) for size in sizes)


def _patient_parts(manifest: Manifest, split: Split, sizes: tuple[int, ...], seed: int) -> list[NDArray[np.int64]]:
    groups = manifest.groups[split.train]
    order = _order(manifest, split, sizes[0], seed)
    if len(order) < sizes[-1]:
        raise PlanError(f"[curve] patients = {sizes[-1]}: repeat {split.repeat} trains on {len(order)}; ask for fewer")
    return [split.train[np.isin(groups, order[:size])] for size in sizes]


def _order(manifest: Manifest, split: Split, least: int, seed: int) -> NDArray[np.str_]:
    # An order of the patients drawn at random of those in which the first few hold every class.
    groups, codes = manifest.groups[split.train], manifest.codes[split.train]
    patients = np.unique(groups)
    rng = stream(seed, "curve", "patients", split.repeat)
    for _ in range(DRAWS):
        order = rng.permutation(patients)
        if len(np.unique(codes[np.isin(groups, order[:least])])) == len(np.unique(codes)):
            return order
    raise PlanError(
        f"[curve] patients: {least} patients of repeat {split.repeat} do not hold every class; begin with more"
    )


def _patch_parts(manifest: Manifest, split: Split, sizes: tuple[int, ...], seed: int) -> list[NDArray[np.int64]]:
    """Take patches away from every patient and class alike.

    Returns
    -------
    list of (size,) int64
        Positions, each part within the next.

    Raises
    ------
    PlanError
        If there are fewer patches, or a class would vanish.
    """
    if len(split.train) < sizes[-1]:
        raise PlanError(
            f"[curve] patches = {sizes[-1]}: repeat {split.repeat} trains on {len(split.train)}; ask for fewer"
        )
    rng = stream(seed, "curve", "patches", split.repeat)
    codes = manifest.codes[split.train]
    _, stratum = np.unique(
        np.stack([np.unique(manifest.groups[split.train], return_inverse=True)[1], codes]), axis=1, return_inverse=True
    )
    # The k-th of m patches comes at (k + u) / m: a share of all is about that share of each patient and class.
    place = np.empty(len(split.train))
    for one in range(stratum.max() + 1):
        mine = np.flatnonzero(stratum == one)
        place[rng.permutation(mine)] = (np.arange(len(mine)) + rng.random()) / len(mine)
    order = np.argsort(place, kind="stable")
    if len(np.unique(codes[order[: sizes[0]]])) < len(np.unique(codes)):
        raise PlanError(
            f"[curve] patches = {sizes[0]}: do not hold every class in repeat {split.repeat}; begin with more"
        )
    return [np.sort(split.train[order[:size]]) for size in sizes]


_PARTS: Mapping[str, Callable[[Manifest, Split, tuple[int, ...], int], list[NDArray[np.int64]]]] = {
    "patients": _patient_parts,
    "patches": _patch_parts,
}


# --- what was measured -------------------------------------------------------------------------------------------


def _by_size(
    points: list[dict[str, Any]], predictions: Mapping[str, pd.DataFrame], positive: str
) -> tuple[dict[int, list[RepeatPredictions]], int]:
    # Predictions of the repeats in which every size is done, and how many are not.
    repeats = sorted({point["repeat"] for point in points})
    failed = {point["repeat"] for point in points if point["key"] not in predictions}
    whole = [repeat for repeat in repeats if repeat not in failed]
    if not whole:
        return {}, len(repeats)
    keys = {(point["size"], point["repeat"]): point["key"] for point in points}
    sizes = sorted({point["size"] for point in points})
    measured = {
        size: [_positive_against_rest(predictions[keys[size, repeat]], positive) for repeat in whole] for size in sizes
    }
    return measured, len(failed)


def _positive_against_rest(frame: pd.DataFrame, positive: str) -> RepeatPredictions:
    # An image of nobody counts as somebody of its own.
    owners = np.where(frame["patient_id"] == "", "\0" + frame["image_id"], frame["patient_id"]).astype(np.str_)
    return RepeatPredictions(
        (frame["label"] == positive).to_numpy(), frame[f"proba_{positive}"].to_numpy(dtype=np.float64), owners
    )


def _row(point: Mapping[str, Any], frame: pd.DataFrame, store: StudyStore, facts: Mapping[str, Any]) -> dict[str, Any]:
    result = store.read_json(f"trials/{point['key']}/result.json")
    truth, proba, _ = _positive_against_rest(frame, facts["classes"][-1])
    return {
        "axis": point["axis"],
        "algorithm": point["name"],
        "size": point["size"],
        "repeat": point["repeat"],
        "n_patients": result["n_patients"]["train"],
        "n_images": result["n_images"]["train"],
        **{metric: METRICS[metric].function(truth, proba) for metric in MEASURED},
        "seconds": result["seconds"]["train"],
        "key": point["key"],
    }


def _notes(facts: Mapping[str, Any], notes: list[str]) -> tuple[str, ...]:
    told = ["these images are synthetic: how fast a recogniser learns them says nothing of real tissue"]
    return (*(told if facts["provenance"]["synthetic"] else ()), *notes)


def _curve_json(curve: LearningCurve) -> dict[str, Any]:
    def numbers(one: Estimate) -> dict[str, float | None]:
        return {name: value if np.isfinite(value) else None for name, value in one._asdict().items()}

    return {
        "sizes": curve.sizes.tolist(),
        "errors": [numbers(one) for one in curve.errors],
        "law": {"a": curve.law.a, "b": curve.law.b, "c": curve.law.c},
        "fall": numbers(curve.fall),
        "gain": numbers(curve.gain),
        "verdict": curve.verdict,
        "reason": curve.reason,
        "n_repeats": curve.n_repeats,
        "n_patients_tested": curve.n_patients,
        "n_effective": curve.n_effective,
    }
