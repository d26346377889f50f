"""Fit how the tiles of a slide are put together to its score, on slides that the model has not seen."""

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sentinode.errors import ManifestError, ModelError, SlideError
from sentinode.evaluation.bootstrap import RepeatPredictions, Statistic, bootstrap_difference, bootstrap_patients
from sentinode.inference.aggregation import SlideScorer, fit_scorer, slide_features
from sentinode.inference.predictions import read_predictions
from sentinode.inference.summary import slide_score
from sentinode.models.bundle import (
    SLIDE_SCORE_FILE,
    Bundle,
    Value,
    read_bundle,
    require_free,
    write_bundle,
)
from sentinode.models.identities import Seen, laboratory_salt
from sentinode.slides.naming import slide_id_of
from sentinode.slides.slide import fingerprint
from sentinode.workflows.predicting import PredictionWish, SlideDone, TilesDone, predict_slides
from sentinode.workflows.slide_evaluation import require_unseen
from sentinode.workflows.slide_inputs import find_slides, read_slide_table

__all__ = ["SlideScoring", "fit_slide_score", "held_out_scores"]

FOLDS = 5


@dataclass(frozen=True, eq=False)
class SlideScoring:
    """What came out.

    Parameters
    ----------
    bundle : Bundle
        The new model.
    scorer : SlideScorer
        What was fitted.
    measures : mapping of str to Value
        AUC of slides that each fold left out: ``fitted``, ``plain`` (the mean of the five highest tiles apart), and
        ``difference``, each with its interval over patients.
    failures : mapping of str to str
        File -> why nothing was fitted on it.
    """

    bundle: Bundle
    scorer: SlideScorer
    measures: Mapping[str, Value]
    failures: Mapping[str, str]

    def to_json(self) -> dict[str, Any]:
        """Write it as JSON would.

        Returns
        -------
        dict
            Weights, measures, what failed.
        """
        return {
            "model": str(self.bundle.folder),
            "digest": self.bundle.digest,
            "scorer": self.scorer.to_json(),
            "auc": {name: one.model_dump() for name, one in self.measures.items()},
            "failures": dict(self.failures),
        }


def fit_slide_score(
    inputs: Sequence[Path | str],
    model: Path | str,
    table: Path | str,
    out: Path | str,
    answers: Path | str | None = None,
    on_event: Callable[[TilesDone | SlideDone], None] | None = None,
) -> SlideScoring:
    """Fit the score of slides, and write the model with it as a new one.

    Parameters
    ----------
    inputs : sequence of Path or str
        Slides, or folders of slides; of patients whom the model has not seen.
    model : Path or str
        Folder of the bundle, without a fitted score.
    table : Path or str
        A CSV: ``slide_id``, ``label`` and, where known, ``patient_id``.
    out : Path or str
        Folder of the new bundle: the same network with another digest, to which these slides are seen as well.
    answers : Path or str, optional
        A folder of `predict_slides`, taken as it is and added to; without one, nothing is kept.
    on_event : callable, optional
        Receives what `predict_slides` tells.

    Returns
    -------
    SlideScoring
        A slide that failed stops no other.

    Raises
    ------
    ModelError
        If the model or the salt of the laboratory cannot be read, it has a fitted score already, or there are too few
        slides of a kind.
    LeakageError
        If the model was trained on one of the slides or patients.
    SlideError
        If there is no slide.
    ManifestError
        If the table cannot be used.
    ExportError
        If `out` is there already, or something cannot be written, the salt among it.
    """
    # LeakageError, SlideError, ManifestError and ExportError are those of the steps.
    out, bundle = Path(out), read_bundle(model)
    require_free(out)
    salt = laboratory_salt()  # told now, and not after hours
    if SLIDE_SCORE_FILE in bundle.files:
        raise ModelError(f"{model}: has a fitted slide score already; fit on the model that it was made of")
    slides = find_slides([Path(one) for one in inputs])
    known = read_slide_table(Path(table))
    patients = {slide_id_of(path): known.get(slide_id_of(path), {}).get("patient_id", "") for path in slides}
    failures = require_unseen(slides, patients, bundle)
    labels = _labels([path for path in slides if str(path) not in failures], known, bundle, failures)
    if not labels:
        raise SlideError(f"no slide can be fitted on: {next(iter(failures.values()))}")
    with ExitStack() as stack:
        folder = Path(answers) if answers is not None else Path(stack.enter_context(tempfile.TemporaryDirectory()))
        run = predict_slides(list(labels), model, folder, PredictionWish(), on_event)
        failures |= run.failures
        refused = {str(one["slide_id"]): str(one["verdict"]) for one in run.results if one["score"] is None}
        failures |= {
            str(path): f"{path}: {refused[slide_id_of(path)]}" for path in labels if slide_id_of(path) in refused
        }
        used = [path for path in labels if str(path) not in failures]
        maps = [read_predictions(folder / slide_id_of(path) / "tiles.parquet") for path in used]
    features, plain = np.array([slide_features(one) for one in maps]), np.array([slide_score(one) for one in maps])
    positive = np.array([labels[path] == bundle.facts.positive for path in used], dtype=bool)
    owners = np.array([patients[slide_id_of(path)] or slide_id_of(path) for path in used], dtype=np.str_)
    scorer = fit_scorer(features.reshape(len(used), -1), positive)
    measures = _measures(features, positive, owners, plain)
    stated = {**scorer.to_json(), "auc_held_out": {name: one.model_dump() for name, one in measures.items()}}
    made = _with_score(bundle, stated, Seen.under(salt, owners.tolist(), *_named(used), ()), out)
    return SlideScoring(made, scorer, measures, failures)


def held_out_scores(
    features: NDArray[np.float64], positive: NDArray[np.bool_], owners: NDArray[np.str_], folds: int = FOLDS
) -> NDArray[np.float64]:
    """Score each slide by a fit on the patients of the other folds.

    Parameters
    ----------
    features : (n, k) float
        Of the slides.
    positive : (n,) bool
        Which have lesions.
    owners : (n,) str
        Whose each is; a patient is in one fold.
    folds : int
        How many, dealt out in turn over the patients of either kind by name.

    Returns
    -------
    (n,) float64
        NaN where the others were too few to fit on.
    """
    sick = {name for name, lesions in zip(owners.tolist(), positive.tolist(), strict=True) if lesions}
    kinds = (sorted(sick), sorted(set(owners.tolist()) - sick))
    fold_of = {name: place % folds for kind in kinds for place, name in enumerate(kind)}
    fold = np.array([fold_of[name] for name in owners.tolist()])
    scores = np.full(len(owners), np.nan)
    for number in range(folds):
        left_out = fold == number
        try:
            scorer = fit_scorer(features[~left_out], positive[~left_out])
        except ModelError:
            continue
        scores[left_out] = scorer.of_features(features[left_out])
    return scores


def _labels(
    slides: Sequence[Path], known: Mapping[str, Mapping[str, str]], bundle: Bundle, failures: dict[str, str]
) -> dict[Path, str]:
    labels = {}
    for path in slides:
        label = known.get(slide_id_of(path), {}).get("label", "")
        if label in bundle.facts.classes:
            labels[path] = label
        elif label:
            raise ManifestError(
                f"{path}: is a {label} in the table, and the model knows {', '.join(bundle.facts.classes)}; rename it"
            )
        else:
            failures[str(path)] = f"{path}: has no label in the table; nothing was fitted on it"
    return labels


def _measures(
    features: NDArray[np.float64], positive: NDArray[np.bool_], owners: NDArray[np.str_], plain: NDArray[np.float64]
) -> dict[str, Value]:
    fitted = held_out_scores(features, positive, owners)
    there = np.isfinite(fitted)
    if not there.any():
        return {}
    one, other = (RepeatPredictions(positive[there], score[there], owners[there]) for score in (fitted, plain))
    key = Statistic("auc", "pooled")
    found = {
        "fitted": bootstrap_patients([one], ["auc"])[key],
        "plain": bootstrap_patients([other], ["auc"])[key],
        "difference": bootstrap_difference([one], [other], ["auc"])[key],
    }
    return {
        name: Value(value=_finite(value.mean), low=_finite(value.low), high=_finite(value.high))
        for name, value in found.items()
    }


def _finite(number: float) -> float | None:
    return float(number) if np.isfinite(number) else None


def _named(used: Sequence[Path]) -> tuple[list[str], list[str]]:
    return [slide_id_of(path) for path in used], [fingerprint(path) for path in used]


def _with_score(bundle: Bundle, stated: Mapping[str, Any], more: Seen, out: Path) -> Bundle:
    content = {**bundle.content(), SLIDE_SCORE_FILE: (json.dumps(stated, indent=2) + "\n").encode()}
    # What was promised of slides was promised of another score.
    kept = tuple(one for one in bundle.facts.promises if one.unit != "slides")
    return write_bundle(out, bundle.facts.model_copy(update={"promises": kept}), content, bundle.seen().and_also(more))
