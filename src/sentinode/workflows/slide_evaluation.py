"""How good is a model on whole slides? CAMELYON16's two measures, of slides that the model has not seen.

Lesions found against false alarms a slide (`sentinode.evaluation.froc`), and the area under the ROC curve of the
slides' scores. Slides are recognised by `predict_slides`, in its folder: what is finished there is not done again.
"""

import contextlib
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sentinode._version import __version__
from sentinode.errors import ExportError, LeakageError, ManifestError, PlanError, SlideError
from sentinode.evaluation.bootstrap import RepeatPredictions, Statistic, bootstrap_patients
from sentinode.evaluation.froc import (
    GROWTH_UM,
    RATES,
    SMALLEST_UM,
    Froc,
    FrocSpread,
    SlideHits,
    froc_of_hits,
    froc_spread,
    slide_hits,
)
from sentinode.geometry import Box
from sentinode.inference.detections import RADIUS_UM, tile_peaks, write_detections
from sentinode.inference.predictions import TilePredictions, read_predictions
from sentinode.models.bundle import Bundle, Value, read_bundle
from sentinode.report.figures import to_svg
from sentinode.report.froc_figure import froc_figure
from sentinode.slides.naming import slide_id_of
from sentinode.slides.slide import fingerprint
from sentinode.storage import whole_file, write_whole
from sentinode.workflows.evaluating import FOREIGN_IDS
from sentinode.workflows.predicting import PredictionWish, SlideDone, TilesDone, predict_slides
from sentinode.workflows.slide_inputs import find_slides, mpp_wish, read_slide_table
from sentinode.workflows.slide_truth import LEVEL_5_UM, SlideTruth, TruthWish, find_truth, lesions_on
from sentinode.workflows.tiling import parse_classes

__all__ = [
    "SlideEvaluation",
    "SlideEvaluationWish",
    "SlideRow",
    "evaluate_slides",
    "require_unseen",
    "slide_evaluation_wish",
]

FORMAT = "sentinode-slide-evaluation-1"
SHOWN = 3
_NOTHING = Value(value=None)


@dataclass(frozen=True)
class SlideEvaluationWish:
    """How slides shall be measured.

    Parameters
    ----------
    truth : TruthWish
        Where the truth lies.
    slides : Path, optional
        A table: ``slide_id`` and, each optional, ``patient_id`` and ``label``.
    radius_um : float
        Around a detection there is no other.
    prediction : PredictionWish
        How slides are recognised; with the defaults, a folder of `sentinode predict` is taken as it is.
    """

    truth: TruthWish
    slides: Path | None = None
    radius_um: float = RADIUS_UM
    prediction: PredictionWish = field(default_factory=PredictionWish)


@dataclass(frozen=True)
class SlideRow:
    """A slide that was measured.

    Parameters
    ----------
    slide_id, patient_id : str
        Where no patient is known, the slide stands for one.
    label : str
        By the truth.
    score : float
        Of the slide, by the model.
    lesions, isolated : int
        That count, and isolated tumour cells that do not.
    hit : int
        Lesions with a detection in them, whatever its confidence.
    detections, alarms : int
        All of them, and those beyond every lesion.
    truth : str
        The file that says it; empty where a table or the command did.
    """

    slide_id: str
    patient_id: str
    label: str
    score: float
    lesions: int
    isolated: int
    hit: int
    detections: int
    alarms: int
    truth: str


@dataclass(frozen=True, eq=False)
class SlideEvaluation:
    """What came out.

    Parameters
    ----------
    bundle : Bundle
        The model.
    found : Froc
        The curve.
    spread : FrocSpread
        Its intervals over patients.
    auc : Value
        Of the slides' scores, with its interval over patients.
    slides : tuple of SlideRow
        In the order given.
    failures : mapping of str to str
        File -> why it is in no number.
    n_patients, n_unknown : int
        Patients, and slides whose patient nobody knows, each of which counts as one.
    notes : tuple of str
        What a reader must know.
    settings : mapping
        Radius, growth, scale.
    """

    bundle: Bundle
    found: Froc
    spread: FrocSpread
    auc: Value
    slides: tuple[SlideRow, ...]
    failures: Mapping[str, str]
    n_patients: int
    n_unknown: int
    notes: tuple[str, ...]
    settings: Mapping[str, Any]

    @property
    def score(self) -> Value:
        """The FROC score with its interval."""
        return _value(self.found.score, self.spread.score)

    @property
    def sensitivity(self) -> dict[str, Value]:
        """Sensitivity at each rate of false alarms a slide, as ``"0.25"``, with its interval."""
        read = zip(RATES, self.found.at_rates, self.spread.at_rates, strict=True)
        return {f"{rate:g}": _value(value, interval) for rate, value, interval in read}

    def to_json(self) -> dict[str, Any]:
        """Write it as JSON would.

        Returns
        -------
        dict
            Each number as ``value, low, high``, the counts, the slides, the curve, and what failed.
        """
        return {
            "format": FORMAT,
            "model": self.bundle.digest,
            "froc": self.score.model_dump(),
            "sensitivity": {rate: one.model_dump() for rate, one in self.sensitivity.items()},
            "auc": self.auc.model_dump(),
            "n_slides": len(self.slides),
            "n_with_lesions": sum(one.label == self.bundle.facts.positive for one in self.slides),
            "n_lesions": self.found.n_lesions,
            "n_isolated": self.found.n_isolated,
            "n_patients": self.n_patients,
            "n_unknown": self.n_unknown,
            "settings": dict(self.settings),
            "notes": list(self.notes),
            "slides": [dict(vars(one)) for one in self.slides],
            "curve": {
                "false_alarms": self.found.false_alarms.tolist(),
                "sensitivity": [_finite(one) for one in self.found.sensitivity.tolist()],
            },
            "failures": dict(self.failures),
            "versions": {"sentinode": __version__},
        }


def slide_evaluation_wish(
    truth: Path | None,
    slides: Path | None,
    classes: Sequence[str],
    mpp: tuple[float | None, Path | None],
    *,
    mask_value: int | None = None,
    no_truth_is_normal: bool = False,
    allow_atypical: bool = False,
    radius_um: float = RADIUS_UM,
) -> SlideEvaluationWish:
    """Gather what a command line says.

    Parameters
    ----------
    truth, slides, mask_value, no_truth_is_normal, radius_um
        As in `TruthWish` and `SlideEvaluationWish`.
    classes : sequence of str
        ``name=class``.
    mpp : (float or None, Path or None)
        As in `mpp_wish`.
    allow_atypical : bool
        As in `PredictionWish`.

    Returns
    -------
    SlideEvaluationWish
        For `evaluate_slides`.

    Raises
    ------
    PlanError
        If no truth is named.
    ManifestError
        If a class is not ``name=class``.
    SlideError
        If the table of resolutions cannot be read.
    """
    # ManifestError and SlideError are those of the calls.
    if truth is None:
        raise PlanError("--froc needs --truth DIR: the folder with the drawings or masks of the slides")
    named = parse_classes(classes) if classes else None
    known = TruthWish(truth, named, mask_value, no_truth_is_normal=no_truth_is_normal)
    return SlideEvaluationWish(known, slides, radius_um, PredictionWish(mpp_wish(*mpp), allow_atypical=allow_atypical))


def evaluate_slides(
    inputs: Sequence[Path | str],
    model: Path | str,
    wish: SlideEvaluationWish,
    out: Path | str | None = None,
    on_event: Callable[[TilesDone | SlideDone], None] | None = None,
) -> SlideEvaluation:
    """Measure a model on slides with known lesions.

    Parameters
    ----------
    inputs : sequence of Path or str
        Slides, or folders of slides; of patients whom the model has not seen.
    model : Path or str
        Folder of the bundle.
    wish : SlideEvaluationWish
        Where the truth lies, and how.
    out : Path or str, optional
        A folder, which may be one of `predict_slides`: its results, ``detections/<slide>.csv``, ``froc.json``,
        ``froc.svg`` and ``froc.png``. Without one, nothing is kept.
    on_event : callable, optional
        Receives what `predict_slides` tells.

    Returns
    -------
    SlideEvaluation
        A slide that failed stops no other, and is in no number.

    Raises
    ------
    ModelError
        If the model cannot be read, was changed, or says no mpp.
    LeakageError
        If the model was trained on one of the slides or patients.
    SlideError
        If there is no slide, or none that can be measured.
    ManifestError
        If the table or the folder of truth cannot be used.
    PlanError
        If no name in the drawings means what the model looks for, or the radius cannot be.
    ExportError
        If something cannot be written.
    """
    # ModelError, ManifestError and ExportError are those of the steps.
    if not (np.isfinite(wish.radius_um) and wish.radius_um >= 0):
        raise PlanError(f"radius = {wish.radius_um}: micrometres around a detection, 0 or more, e.g. {RADIUS_UM:g}")
    bundle = read_bundle(model)
    bundle.mpp_of_tiles()
    slides = find_slides([Path(one) for one in inputs])
    table = {} if wish.slides is None else read_slide_table(wish.slides)
    patients = {slide_id_of(path): table.get(slide_id_of(path), {}).get("patient_id", "") for path in slides}
    truth_wish = replace(wish.truth, labels=_labels(table, bundle, wish.slides))
    truth_wish.named(bundle.facts.positive)
    failures: dict[str, str] = {}
    failures |= require_unseen(slides, patients, bundle)
    truths = _truths(slides, truth_wish, bundle, failures)
    _require_some(truths, failures)
    with _folder(out) as folder:
        run = predict_slides(list(truths), model, folder, wish.prediction, on_event)
        failures |= run.failures
        results = {str(one["slide_id"]): one for one in run.results}
        rows, hits = [], []
        for path, truth in truths.items():
            if str(path) in failures:
                continue
            slide_id = slide_id_of(path)
            try:
                row, hit = _measured(folder, results[slide_id], truth, patients[slide_id], wish.radius_um)
            except (SlideError, ManifestError) as error:
                failures[str(path)] = str(error)
            else:
                rows.append(row)
                hits.append(hit)
        _require_some(rows, failures)
        evaluation = _summed_up(bundle, rows, hits, failures, table, wish)
        if out is not None:
            _write(evaluation, folder)
    return evaluation


def _labels(table: Mapping[str, Mapping[str, str]], bundle: Bundle, path: Path | None) -> dict[str, str]:
    labels = {slide: row.get("label", "") for slide, row in table.items()}
    unknown = sorted(set(labels.values()) - set(bundle.facts.classes) - {""})
    if unknown:
        raise ManifestError(
            f"{path}: has slides labelled {', '.join(unknown)}, and the model knows "
            f"{', '.join(bundle.facts.classes)}; rename them"
        )
    return labels


def require_unseen(slides: Sequence[Path], patients: Mapping[str, str], bundle: Bundle) -> dict[str, str]:
    """Refuse slides that a model was trained on: by the patient, the name, and the content, whatever it is called now.

    Parameters
    ----------
    slides : sequence of Path
        Files.
    patients : mapping of str to str
        Slide -> patient; ``""`` where nobody knows.
    bundle : Bundle
        The model.

    Returns
    -------
    dict of str to str
        File -> why it cannot be read.

    Raises
    ------
    LeakageError
        If one was.
    """
    seen, met, failures = bundle.seen(), [], {}
    for path in slides:
        slide_id = slide_id_of(path)
        try:
            content = fingerprint(path)
        except (SlideError, OSError) as error:
            failures[str(path)] = str(error)
            continue
        owner = patients[slide_id] or slide_id
        if seen.has_patient(owner) or seen.has_slide(slide_id) or seen.has_content(content):
            met.append(slide_id)
    if met:
        some = ", ".join(met[:SHOWN]) + (" and more" if len(met) > SHOWN else "")
        raise LeakageError(
            f"the model was trained on {len(met)} of these slides or their patients ({some}); what is measured or "
            "fitted on them says nothing. Leave them out, or train without them"
        )
    return failures


def _truths(
    slides: Sequence[Path], wish: TruthWish, bundle: Bundle, failures: dict[str, str]
) -> dict[Path, SlideTruth]:
    # Before any slide is recognised: that takes minutes, and this does not.
    if not wish.folder.is_dir():
        raise ManifestError(f"{wish.folder}: is no folder; name the one with the drawings or masks of the slides")
    truths = {}
    for path in slides:
        if str(path) not in failures:
            try:
                truths[path] = find_truth(path, wish, bundle.facts.positive)
            except ManifestError as error:
                failures[str(path)] = str(error)
    return truths


def _require_some(measured: object, failures: Mapping[str, str]) -> None:
    if not measured:
        more = f" (and {len(failures) - 1} more)" if len(failures) > 1 else ""
        raise SlideError(f"no slide can be measured: {next(iter(failures.values()))}{more}")


@contextlib.contextmanager
def _folder(out: Path | str | None) -> Iterator[Path]:
    if out is not None:
        yield Path(out)
        return
    with tempfile.TemporaryDirectory(prefix="sentinode-") as folder:
        yield Path(folder)


def _measured(
    folder: Path, result: Mapping[str, Any], truth: SlideTruth, patient: str, radius_um: float
) -> tuple[SlideRow, SlideHits]:
    slide_id = str(result["slide_id"])
    if result["score"] is None:
        raise SlideError(f"{result['path']}: {result['verdict']}; it is in no number")
    predictions = read_predictions(folder / slide_id / "tiles.parquet")
    lesions = lesions_on(truth, predictions.slide_size, predictions.scale, _bounds(predictions))
    detections = tile_peaks(predictions, radius_um)
    write_detections(detections, folder / "detections" / f"{slide_id}.csv")
    hits = slide_hits(lesions, detections)
    row = SlideRow(
        slide_id=slide_id,
        patient_id=patient or slide_id,
        label=truth.positive if lesions.labels.any() else predictions.classes[0],
        score=float(result["score"]),
        lesions=len(hits.best),
        isolated=hits.n_isolated,
        hit=int(np.isfinite(hits.best).sum()),
        detections=len(detections.confidence),
        alarms=len(hits.alarms),
        truth="" if truth.source is None else str(truth.source),
    )
    return row, hits


def _bounds(predictions: TilePredictions) -> Box | None:
    # The corner is all that is kept of it, and all that is needed.
    corner = predictions.facts.get("bounds")
    return None if corner is None else Box(int(corner[0]), int(corner[1]), 1, 1)


def _summed_up(
    bundle: Bundle,
    rows: Sequence[SlideRow],
    hits: Sequence[SlideHits],
    failures: Mapping[str, str],
    table: Mapping[str, Mapping[str, str]],
    wish: SlideEvaluationWish,
) -> SlideEvaluation:
    owners = [one.patient_id for one in rows]
    positive = np.array([one.label == bundle.facts.positive for one in rows])
    repeat = RepeatPredictions(positive, np.array([one.score for one in rows]), np.array(owners))
    auc = bootstrap_patients([repeat], ["auc"])[Statistic("auc", "pooled")]
    known = [table.get(one.slide_id, {}) for one in rows]
    return SlideEvaluation(
        bundle=bundle,
        found=froc_of_hits(hits),
        spread=froc_spread(hits, owners),
        auc=_value(auc.mean, (auc.low, auc.high)),
        slides=tuple(rows),
        failures=failures,
        n_patients=len(set(owners)),
        n_unknown=sum(not row.get("patient_id") for row in known),
        notes=_notes(rows, positive, [row.get("provenance", "") for row in known], bundle),
        settings={
            "radius_um": wish.radius_um,
            "growth_um": GROWTH_UM,
            "smallest_um": SMALLEST_UM,
            "truth_um": LEVEL_5_UM,
            "overlap": wish.prediction.overlap,
        },
    )


def _notes(
    rows: Sequence[SlideRow], positive: NDArray[np.bool_], provenance: Sequence[str], bundle: Bundle
) -> tuple[str, ...]:
    notes = []
    if any(one.startswith("synthetic") for one in provenance):
        notes.append("synthetic slides: this says nothing about tissue")
    elif bundle.facts.data.synthetic:
        notes.append("a model of synthetic images: this says nothing about tissue")
    if not bundle.seen().knows_ids:
        notes.append(FOREIGN_IDS)
    if not any(one.lesions for one in rows):
        notes.append("no slide has a lesion that counts, so there is no FROC score")
    if positive.all() or not positive.any():
        notes.append("all slides are of one kind, so there is no AUC; give slides with and without lesions")
    return tuple(notes)


def _value(value: float, interval: tuple[float, float]) -> Value:
    low, high = interval
    return Value(value=_finite(value), low=_finite(low), high=_finite(high)) if np.isfinite(value) else _NOTHING


def _finite(number: float) -> float | None:
    return float(number) if np.isfinite(number) else None


def _write(evaluation: SlideEvaluation, folder: Path) -> None:
    try:
        if evaluation.found.n_lesions:
            figure = froc_figure(evaluation.found, evaluation.spread, notes=evaluation.notes)
            write_whole(folder / "froc.svg", to_svg(figure))
            with whole_file(folder / "froc.png") as part:
                figure.savefig(part, format="png", dpi=150)
        content = json.dumps(evaluation.to_json(), indent=2, ensure_ascii=False, allow_nan=False)
        write_whole(folder / "froc.json", content + "\n")
    except OSError as error:
        raise ExportError(
            f"{folder}: cannot be written ({error.strerror or error}); make room, or choose another --out"
        ) from error
