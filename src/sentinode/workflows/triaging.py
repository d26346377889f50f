"""What need not be read first, what is promised of it, and what that saves: on patients whom the model has not seen."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sentinode.data.manifest import Manifest, read_manifest
from sentinode.errors import ExportError, ManifestError, PlanError, SlideError
from sentinode.evaluation.calibration import Reliability, Spread, reliability
from sentinode.evaluation.triage import (
    ALPHAS,
    KINDS,
    OperatingPoint,
    Promise,
    TriageCases,
    WorkloadCurve,
    certify,
    operating_point,
    promises_by_site,
    workload_curve,
)
from sentinode.models.bundle import Bundle, PromiseFacts, Value, read_bundle
from sentinode.models.runtime import Recogniser, open_recogniser
from sentinode.report.triage_page import TriageView, per_hundred, write_triage_page
from sentinode.slides.resolution import MppWish
from sentinode.storage import whole_file, write_whole
from sentinode.workflows.evaluating import FOREIGN_IDS, measure_model, require_unseen
from sentinode.workflows.predicting import score_slide, slide_scoring
from sentinode.workflows.trail import trail_file, write_trail

__all__ = ["TriageReport", "TriageWish", "promise_facts", "require_promise", "slide_cases", "triage_manifest"]

Progress = Callable[[int, int], None]

BY_ITS_TILES = (
    "A slide has a tumour here if one of its tiles is labelled so. One whose lesions are too small for that (isolated "
    "cells) counts as normal, and nothing is promised of it."
)


@dataclass(frozen=True)
class TriageWish:
    """What shall be promised, and for whom.

    Parameters
    ----------
    prevalence : float
        Share of the slides (or patches) to be read that have a tumour.
    alpha : float
        Share of patients with a tumour that may be missed.
    delta : float
        Probability with which a confident promise may be broken.
    by_site : bool
        Whether each site gets a promise of its own, too.
    mpp : MppWish, optional
        What is known of the slides' resolution beside their files; left out, what the manifest says for those whose
        files do not.

    Raises
    ------
    PlanError
        If a number cannot be.
    """

    prevalence: float
    alpha: float = 0.01
    delta: float = 0.05
    by_site: bool = False
    mpp: MppWish | None = None

    def __post_init__(self) -> None:
        require_promise(self.alpha, self.delta)
        if not 0 <= self.prevalence <= 1:
            raise PlanError(f"prevalence = {self.prevalence}: a share from 0 to 1 of what will be read, e.g. 0.2")


@dataclass(frozen=True, eq=False)
class TriageReport:
    """What came out.

    Parameters
    ----------
    bundle : Bundle
        The model.
    wish : TriageWish
        What was asked.
    cases : TriageCases
        What it was measured on.
    points : tuple of OperatingPoint
        The promises that these patients allow at the alpha asked for: confident, average.
    table : tuple of OperatingPoint
        The same for each of `ALPHAS`.
    sites : tuple of OperatingPoint
        Of each site by itself, where asked for.
    stored : tuple of OperatingPoint
        What the bundle's own promises do on these patients, of whom they knew nothing.
    curve : WorkloadCurve
        Over all thresholds.
    diagram : Reliability or None
        Of the probabilities of patches; the score of a slide is none.
    notes : tuple of str
        What was left out, and why.
    """

    bundle: Bundle
    wish: TriageWish
    cases: TriageCases
    points: tuple[OperatingPoint, ...]
    table: tuple[OperatingPoint, ...]
    sites: tuple[OperatingPoint, ...]
    stored: tuple[OperatingPoint, ...]
    curve: WorkloadCurve
    diagram: Reliability | None
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Write it as JSON would.

        Returns
        -------
        dict
            Promises, operating table and curve.
        """
        return {
            "model": self.bundle.digest,
            "unit": self.cases.unit,
            "prevalence": self.wish.prevalence,
            "n": len(self.cases),
            "n_patients": len(np.unique(self.cases.patient)),
            **{
                name: [self._row(one) for one in getattr(self, name)] for name in ("points", "table", "sites", "stored")
            },
            "curve": {name: values.tolist() for name, values in asdict(self.curve).items()},
            "notes": list(self.notes),
        }

    def _row(self, point: OperatingPoint) -> dict[str, Any]:
        promise = point.promise
        return {
            **asdict(promise),
            "threshold": promise.threshold if promise.clears else None,
            "n_needed": promise.n_needed,
            "smallest_alpha": promise.smallest_alpha,
            "words": promise.in_words(),
            "per_hundred": per_hundred(point, self.wish.prevalence),
            **{name: asdict(getattr(point, name)) for name in ("workload", "cleared_normal", "cleared_tumour")},
            "missed": {"n": point.n_missed, "of": point.n_patients, **asdict(point.missed)},
        }


def triage_manifest(
    manifest: Path | str,
    model: Path | str,
    wish: TriageWish,
    *,
    out: Path | str | None = None,
    on_progress: Progress | None = None,
    trail: Path | str | None = None,
) -> TriageReport:
    """Say what a model may call clear, what is promised of it, and what it saves.

    The tiles of a manifest of slides are not looked at one by one: the slides are recognised whole, as `predict_slides`
    does, and a slide has a tumour if a tile of it has. Of a manifest of patches, patches are called clear.

    Parameters
    ----------
    manifest : Path or str
        With labels; of patients whom the model has not seen.
    model : Path or str
        Folder of the bundle.
    wish : TriageWish
        Prevalence, alpha, delta.
    out : Path or str, optional
        A folder for ``triage.html``, ``triage.json``, ``operating-table.csv`` and ``curve.csv``.
    on_progress : callable, optional
        Called with the number of slides or images done and their total.
    trail : Path or str, optional
        The audit trail; left out, that of ``SENTINODE_TRAIL``, else the one in `out`, else none.

    Returns
    -------
    TriageReport
        With intervals over patients.

    Raises
    ------
    ModelError
        If the model cannot be read, or is for other images.
    ManifestError
        If an image cannot be read, or no image has a patient.
    LeakageError
        If the model has seen a patient, a slide or an image.
    SlideError
        If a slide is not there.
    ExportError
        If `out` cannot be written.
    """
    # The errors are those of the steps.
    bundle, table = read_bundle(model), read_manifest(manifest)
    diagram, notes = None, list(_left_out(table, manifest))
    if not bundle.seen().knows_ids:
        notes.append(FOREIGN_IDS)
    if table.tile_px is not None:
        require_unseen(bundle, table, manifest)
        recogniser = open_recogniser(bundle)
        cases, unread = slide_cases(table, np.arange(len(table)), bundle, recogniser, wish.mpp, on_progress)
        notes += [BY_ITS_TILES, *unread]
    else:
        cases = _patch_cases(manifest, table, model, on_progress)
        diagram = reliability(cases.positive, cases.score, cases.patient)
    report = _report(bundle, wish, cases, diagram, tuple(notes))
    if out is not None:
        _write(report, Path(out))
    file = trail_file(trail, None if out is None else Path(out))
    if file is not None:
        options = {name: getattr(wish, name) for name in ("prevalence", "alpha", "delta", "by_site")}
        write_trail(
            file,
            "triage",
            [
                {
                    "model": bundle.digest,
                    "data": {"manifest": str(manifest), "content": table.digest},
                    "options": options,
                    "verdict": [one.promise.in_words() for one in report.points],
                }
            ],
        )
    return report


def slide_cases(
    table: Manifest,
    rows: NDArray[np.int64],
    bundle: Bundle,
    recogniser: Recogniser,
    mpp: MppWish | None = None,
    on_progress: Progress | None = None,
) -> tuple[TriageCases, tuple[str, ...]]:
    """Score the slides that the tiles of a manifest are from, each whole.

    Parameters
    ----------
    table : Manifest
        Of tiles of slides.
    rows : (n,) int64
        Which of them; those of unknown patients are left out.
    bundle : Bundle
        The model.
    recogniser : Recogniser
        Of it, in float32.
    mpp : MppWish, optional
        What is known of the slides' resolution beside their files; left out, the manifest's for those that do not say.
    on_progress : callable, optional
        Called with the number of slides done and their total.

    Returns
    -------
    cases : TriageCases
        One a slide.
    notes : tuple of str
        Slides that could not be recognised, and why: they are never clear.
    """
    frame = table.frame.iloc[rows[table.groups[rows] != ""]]
    groups = list(frame.groupby("path", sort=True))
    scores, notes = [], []
    for number, (path, tiles) in enumerate(groups, start=1):
        try:
            scores.append(score_slide(table.root / str(path), bundle, recogniser, mpp or _known(table, tiles)))
        except SlideError as error:
            scores.append(np.inf)
            notes.append(f"never clear: {error}")
        if on_progress is not None:
            on_progress(number, len(groups))
    first = [tiles.iloc[0] for _, tiles in groups]
    cases = TriageCases(
        np.array(scores, dtype=np.float64),
        np.array([bool((tiles["label"] == table.positive).any()) for _, tiles in groups], dtype=np.bool_),
        np.array([one["patient_id"] or one["slide_id"] for one in first], dtype=np.str_),
        np.array([one["site"] for one in first], dtype=np.str_),
        "slides",
    )
    return cases, tuple(notes)


_KEPT = ("kind", "unit", "alpha", "delta", "n_patients", "misses", "site")


def promise_facts(cases: TriageCases, alpha: float, delta: float, *, by_site: bool = False) -> tuple[PromiseFacts, ...]:
    """Make the promises that a bundle keeps.

    Parameters
    ----------
    cases : TriageCases
        Of the certify part.
    alpha, delta : float
        As in `certify`.
    by_site : bool
        Whether each site gets its own as well.

    Returns
    -------
    tuple of PromiseFacts
        The confident one and the average one; then both of each site.
    """
    promises = [certify(cases, kind, alpha=alpha, delta=delta) for kind in KINDS]
    if by_site:
        each = zip(*(promises_by_site(cases, kind, alpha=alpha, delta=delta) for kind in KINDS), strict=True)
        promises += [promise for both in each for promise in both]
    points = [operating_point(cases.of(one.site) if one.site else cases, one, 0.0) for one in promises]
    return tuple(
        PromiseFacts(
            **{name: getattr(one.promise, name) for name in _KEPT},
            threshold=one.promise.threshold if one.promise.clears else None,
            scoring=slide_scoring() if cases.unit == "slides" else {},
            cleared_normal=_value(one.cleared_normal),
        )
        for one in points
    )


def require_promise(alpha: float, delta: float) -> None:
    """Refuse a promise that cannot be made.

    Parameters
    ----------
    alpha, delta : float
        As in `certify`.

    Raises
    ------
    PlanError
        If one is not between 0 and 1.
    """
    for name, value, example in (("alpha", alpha, 0.01), ("delta", delta, 0.05)):
        if not 0 < value < 1:
            raise PlanError(f"{name} = {value}: a share above 0 and below 1, e.g. {example}")


def _patch_cases(manifest: Path | str, table: Manifest, model: Path | str, on_progress: Progress | None) -> TriageCases:
    found = measure_model(manifest, model, on_progress).predictions
    known = np.flatnonzero(table.groups != "")
    return TriageCases(
        found[f"proba_{table.positive}"].to_numpy(dtype=np.float64)[known],
        table.frame["label"].to_numpy(dtype=np.str_)[known] == table.positive,
        table.groups[known],
        table.frame["site"].to_numpy(dtype=np.str_)[known],
        "patches",
    )


def _left_out(table: Manifest, manifest: Path | str) -> Iterator[str]:
    n_unknown = int((table.groups == "").sum())
    if n_unknown == len(table):
        raise ManifestError(f"{manifest}: no image has a patient or a slide, and nothing can be promised of patients")
    if n_unknown:
        yield f"{n_unknown} images of unknown patients were left out: they belong into no promise"


def _known(table: Manifest, tiles: pd.DataFrame) -> MppWish:
    # What the manifest knows of a slide whose file does not say what a pixel measures.
    tile = tiles.iloc[0]
    return MppWish(float(tile["mpp"]) * float(table.tile_px or 1) / float(tile["width"]))


def _report(
    bundle: Bundle, wish: TriageWish, cases: TriageCases, diagram: Reliability | None, notes: tuple[str, ...]
) -> TriageReport:
    def points(promises: Sequence[Promise]) -> tuple[OperatingPoint, ...]:
        return tuple(operating_point(cases, one, wish.prevalence) for one in promises)

    by_site = [
        operating_point(cases.of(promise.site), promise, wish.prevalence)
        for kind in (KINDS if wish.by_site else ())
        for promise in promises_by_site(cases, kind, alpha=wish.alpha, delta=wish.delta)
    ]
    stored = [
        operating_point(cases.of(one.site) if one.site else cases, one.promise, wish.prevalence)
        for one in bundle.facts.promises
        if one.unit == cases.unit and one.threshold is not None and (not one.site or one.site in cases.site)
    ]
    return TriageReport(
        bundle,
        wish,
        cases,
        points([certify(cases, kind, alpha=wish.alpha, delta=wish.delta) for kind in KINDS]),
        points([certify(cases, kind, alpha=alpha, delta=wish.delta) for alpha in ALPHAS for kind in KINDS]),
        tuple(by_site),
        tuple(stored),
        workload_curve(cases, wish.prevalence),
        diagram,
        notes,
    )


def _write(report: TriageReport, out: Path) -> None:
    view = TriageView(
        facts=report.bundle.facts,
        digest=report.bundle.digest,
        prevalence=report.wish.prevalence,
        delta=report.wish.delta,
        cases=report.cases,
        points=report.points,
        table=report.table,
        sites=report.sites,
        stored=report.stored,
        curve=report.curve,
        diagram=report.diagram,
        notes=report.notes,
    )
    try:
        out.mkdir(parents=True, exist_ok=True)
        found = _without_nan(report.to_json())
        write_whole(out / "triage.json", json.dumps(found, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
        with whole_file(out / "curve.csv") as part:
            pd.DataFrame(asdict(report.curve)).to_csv(part, index=False)
        with whole_file(out / "operating-table.csv") as part:
            pd.json_normalize(found["table"]).to_csv(part, index=False)
    except OSError as error:
        raise ExportError(f"{out}: cannot be written ({error.strerror or error}); choose another --out") from error
    write_triage_page(view, out / "triage.html")


def _without_nan(value: Any) -> Any:  # noqa: ANN401 - walks any JSON value
    if isinstance(value, Mapping):
        return {str(key): _without_nan(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(inner) for inner in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


def _value(spread: Spread) -> Value:
    return Value(**{name: number if np.isfinite(number) else None for name, number in asdict(spread).items()})
