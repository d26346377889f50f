"""How good is a model on images that it has not seen? With intervals over patients, and a refusal where it has."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from sentinode.data.manifest import Manifest, read_manifest
from sentinode.data.patches import PatchSource
from sentinode.errors import ExportError, LeakageError, ModelError, PlanError
from sentinode.evaluation.bootstrap import Interval, RepeatPredictions, Statistic, bootstrap_patients, witnesses
from sentinode.evaluation.calibration import measure_calibration
from sentinode.models.bundle import Bundle, Value, read_bundle
from sentinode.models.identities import image_digest
from sentinode.models.runtime import open_recogniser
from sentinode.slides.slide import fingerprint
from sentinode.storage import whole_file
from sentinode.workflows.trail import trail_file, write_trail

__all__ = [
    "FOREIGN_IDS",
    "Evaluation",
    "evaluate_model",
    "measure_model",
    "measure_predictions",
    "measure_reliability",
    "require_unseen",
    "slides_of",
    "the_manifest",
]

BATCH = 64
METRICS = ("auc", "accuracy", "balanced_accuracy", "sensitivity", "specificity", "log_loss", "brier")
SHOWN = 3


FOREIGN_IDS = (
    "the model has ids of patients under the salt of another laboratory: whether it was trained on these was asked of "
    "the content of images and slides, and could not be asked of the ids of patients"
)
"""What must be said where `Seen.knows_ids` is false."""


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What came out.

    Parameters
    ----------
    bundle : Bundle
        The model.
    metrics : dict of str to Value
        Pooled over the images, each with its 95 % interval over patients.
    n_images, n_patients : int
        That were tested.
    n_unknown : int
        Images whose patient nobody knows; they count as a patient each, which makes the intervals too short.
    predictions : DataFrame
        ``image_id, patient_id, label, proba_<class> ...``.
    calibration : dict of str to Value
        How far the probabilities are from what came true: `sentinode.evaluation.calibration.MEASURES`.
    notes : tuple of str
        What a reader must know.
    """

    bundle: Bundle
    metrics: dict[str, Value]
    n_images: int
    n_patients: int
    n_unknown: int
    predictions: pd.DataFrame
    calibration: dict[str, Value]
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Write it as JSON would.

        Returns
        -------
        dict
            Each metric as ``value, low, high``, the counts, ``calibration`` with the same of each of its measures, and
            the notes.
        """
        return {
            "model": self.bundle.digest,
            **{name: one.model_dump() for name, one in self.metrics.items()},
            "n_images": self.n_images,
            "n_patients": self.n_patients,
            "n_unknown": self.n_unknown,
            "calibration": {name: one.model_dump() for name, one in self.calibration.items()},
            "notes": list(self.notes),
        }


def evaluate_model(
    manifest: Path | str,
    model: Path | str,
    *,
    predictions: Path | str | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    trail: Path | str | None = None,
) -> Evaluation:
    """Measure a model on the images of a manifest, and write it into the trail where there is one.

    Parameters
    ----------
    manifest : Path or str
        With labels; of patients whom the model has not seen.
    model : Path or str
        Folder of the bundle.
    predictions : Path or str, optional
        A CSV to write: each image and its probabilities.
    on_progress : callable, optional
        Called with the number of images done and their total.
    trail : Path or str, optional
        The audit trail; left out, that of ``SENTINODE_TRAIL``, else the one beside `predictions`, else none.

    Returns
    -------
    Evaluation
        With intervals over patients.

    Raises
    ------
    ModelError
        If the model cannot be read, was changed, or is for images of another size or other classes.
    ManifestError
        If an image cannot be read.
    LeakageError
        If a patient, a slide or an image was in the training data.
    ExportError
        If the CSV cannot be written.
    """
    # The errors are those of the steps.
    found = measure_model(manifest, model, on_progress)
    if predictions is not None:
        _write(found.predictions, Path(predictions))
    file = trail_file(trail, None if predictions is None else Path(predictions).parent)
    if file is not None:
        write_trail(file, "evaluate", [_event(found, manifest)])
    return found


def _event(found: Evaluation, manifest: Path | str) -> dict[str, Any]:
    shown = {name: found.metrics[name].value for name in ("auc", "sensitivity", "specificity")}
    return {
        "model": found.bundle.digest,
        "data": {"manifest": str(manifest), "content": read_manifest(manifest).digest},
        "options": {},
        "verdict": {"n_images": found.n_images, "n_patients": found.n_patients, **shown},
    }


def measure_model(
    manifest: Path | str, model: Path | str, on_progress: Callable[[int, int], None] | None = None
) -> Evaluation:
    """Measure a model on the images of a manifest, and write nothing.

    Parameters
    ----------
    manifest : Path or str
        With labels; of patients whom the model has not seen.
    model : Path or str
        Folder of the bundle.
    on_progress : callable, optional
        Called with the number of images done and their total.

    Returns
    -------
    Evaluation
        With intervals over patients.

    Raises
    ------
    ModelError
        If the model cannot be read, was changed, or is for images of another size or other classes.
    ManifestError
        If an image cannot be read.
    LeakageError
        If a patient, a slide or an image was in the training data.
    """
    # ManifestError is the reader's.
    bundle, table = read_bundle(model), read_manifest(manifest)
    require_unseen(bundle, table, manifest)
    seen = bundle.seen()
    recogniser, source = open_recogniser(bundle), PatchSource(table)
    _require_size(bundle, source.shape, manifest)
    proba = np.empty((len(table), len(bundle.facts.classes)), dtype=np.float32)
    met: list[str] = []
    ids = table.frame["image_id"].tolist()
    for begin in range(0, len(table), BATCH):
        rows = np.arange(begin, min(begin + BATCH, len(table)))
        pixels = source[rows]
        met += [
            ids[row] for row, image in zip(rows.tolist(), pixels, strict=True) if image_digest(image) in seen.images
        ]
        if len(met) > SHOWN:
            break
        proba[rows] = recogniser.predict_proba(pixels)
        if on_progress is not None:
            on_progress(int(rows[-1]) + 1, len(table))
    if met:
        raise LeakageError(_in_words(manifest, "images", met))
    frame = _frame(table, bundle.facts.classes, proba)
    groups = table.groups
    return Evaluation(
        bundle,
        measure_predictions(table, bundle.facts.classes, proba),
        len(table),
        len(set(groups.tolist()) - {""}),
        int((groups == "").sum()),
        frame,
        measure_reliability(table, bundle.facts.classes, proba),
        () if seen.knows_ids else (FOREIGN_IDS,),
    )


def require_unseen(bundle: Bundle, table: Manifest, manifest: Path | str) -> None:
    """Refuse a manifest with labels that a model does not know, or patients or slides that it has seen.

    Parameters
    ----------
    bundle : Bundle
        The model.
    table : Manifest
        Of patches or tiles.
    manifest : Path or str
        Where it was read from, for the message.

    Raises
    ------
    ModelError
        If a label is none of its classes.
    LeakageError
        If a patient or a slide was in the training data.
    SlideError
        If a slide cannot be read.
    """
    # SlideError is slides_of's.
    _require_classes(bundle, table, manifest)
    seen = bundle.seen()
    known = [name for name in dict.fromkeys(table.groups.tolist()) if name and seen.has_patient(name)]
    if known:
        raise LeakageError(_in_words(manifest, "patients", known))
    names, contents = slides_of(table)
    met = [name for name in names if seen.has_slide(name)]
    if met:
        raise LeakageError(_in_words(manifest, "slides", met))
    if any(seen.has_content(one) for one in contents):
        raise LeakageError(_in_words(manifest, "slides", ["the same files under other names"]))


def the_manifest(inputs: Sequence[Path], for_slides: Sequence[Path | None] = ()) -> Path:
    """Take the one manifest of a command line that measures images.

    Parameters
    ----------
    inputs : sequence of Path
        What was named.
    for_slides : sequence of Path or None
        Options that only measuring slides has.

    Returns
    -------
    Path
        The manifest.

    Raises
    ------
    PlanError
        If slides are meant.
    """
    if len(inputs) != 1 or inputs[0].is_dir() or any(one is not None for one in for_slides):
        raise PlanError(
            "give one manifest of labelled images, .csv or .parquet; slides are measured with --froc --truth DIR"
        )
    return inputs[0]


def slides_of(table: Manifest) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """List the slides of a manifest: their ids and, where the images are tiles of slides, their content.

    Parameters
    ----------
    table : Manifest
        Of patches or tiles.

    Returns
    -------
    names : tuple of str
        Ids, each once.
    contents : tuple of str
        Fingerprints.

    Raises
    ------
    SlideError
        If a slide cannot be read.
    """
    # SlideError is fingerprint's.
    names = tuple(dict.fromkeys(str(name) for name in table.frame["slide_id"] if name))
    if table.tile_px is None:
        return names, ()
    return names, tuple(fingerprint(table.root / path) for path in dict.fromkeys(table.frame["path"]))


def measure_predictions(table: Manifest, classes: Sequence[str], proba: NDArray[np.float32]) -> dict[str, Value]:
    """Measure probabilities against the labels of a manifest.

    Parameters
    ----------
    table : Manifest
        n images with labels.
    classes : sequence of str
        The k columns; the last one is looked for.
    proba : (n, k) float32
        Rows sum to 1.

    Returns
    -------
    dict of str to Value
        Metric -> value and 95 % interval over patients; None where it cannot be had (one class, one patient).
    """
    found = bootstrap_patients([_repeat(table, classes, proba)], METRICS)
    return {name: _value(found[Statistic(name, "pooled")]) for name in METRICS}


def measure_reliability(table: Manifest, classes: Sequence[str], proba: NDArray[np.float32]) -> dict[str, Value]:
    """Measure how far probabilities are from what comes true.

    Parameters
    ----------
    table : Manifest
        n images with labels.
    classes : sequence of str
        The k columns; the last one is looked for.
    proba : (n, k) float32
        Rows sum to 1.

    Returns
    -------
    dict of str to Value
        Of `sentinode.evaluation.calibration.measure_calibration`, with 95 % intervals over patients.
    """
    found = measure_calibration(*_repeat(table, classes, proba))
    return {
        name: Value(value=_finite(one.value), low=_finite(one.low), high=_finite(one.high))
        for name, one in found.items()
    }


def _repeat(table: Manifest, classes: Sequence[str], proba: NDArray[np.float32]) -> RepeatPredictions:
    positive = table.frame["label"].to_numpy(dtype=np.str_) == classes[-1]
    return RepeatPredictions(positive, proba[:, -1].astype(np.float64), witnesses(table.groups))


def _value(interval: Interval) -> Value:
    return Value(value=_finite(interval.mean), low=_finite(interval.low), high=_finite(interval.high))


def _finite(number: float) -> float | None:
    return float(number) if np.isfinite(number) else None


def _require_classes(bundle: Bundle, table: Manifest, manifest: Path | str) -> None:
    unknown = sorted(set(table.frame["label"]) - set(bundle.facts.classes))
    if unknown:
        raise ModelError(
            f"{manifest}: has images labelled {', '.join(unknown)}, and the model knows "
            f"{', '.join(bundle.facts.classes)}; rename or leave out"
        )


def _require_size(bundle: Bundle, shape: tuple[int, int], manifest: Path | str) -> None:
    tile = bundle.facts.tile
    if shape != (tile.height, tile.width):
        raise ModelError(
            f"{manifest}: has images of {shape[1]} x {shape[0]} px, and the model takes {tile.width} x {tile.height}"
        )


def _in_words(manifest: Path | str, what: str, names: Sequence[str]) -> str:
    some = ", ".join(names[:SHOWN]) + (" and more" if len(names) > SHOWN else "")
    return (
        f"{manifest}: the model was trained on {what} of it ({some}); what is measured on them says nothing. "
        "Leave them out, or train without them"
    )


def _frame(table: Manifest, classes: Sequence[str], proba: ArrayLike) -> pd.DataFrame:
    columns = {f"proba_{name}": np.asarray(proba)[:, place] for place, name in enumerate(classes)}
    return pd.DataFrame({
        "image_id": table.frame["image_id"].to_numpy(),
        "patient_id": table.groups,
        "label": table.frame["label"].to_numpy(),
        **columns,
    })


def _write(frame: pd.DataFrame, path: Path) -> None:
    try:
        with whole_file(path) as part:
            frame.to_csv(part, index=False)
    except OSError as error:
        raise ExportError(f"{path}: cannot be written ({error.strerror or error}); choose another file") from error
