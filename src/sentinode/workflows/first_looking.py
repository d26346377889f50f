"""Fit which tiles the network of a model need not see, on slides of which nobody need know anything."""

import hashlib
import json
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sentinode.errors import ExportError, ManifestError, ModelError, SlideError
from sentinode.evaluation.conformal import patients_needed
from sentinode.evaluation.typicality import evenly
from sentinode.execution import Failure, run_jobs
from sentinode.inference.first_look import FITTED, SUSPICIOUS, FirstLook, LookedAt, fit_first_look
from sentinode.models.bundle import FIRST_LOOK_FILE, Bundle, read_bundle, require_free, write_bundle
from sentinode.models.identities import Seen, laboratory_salt
from sentinode.models.runtime import Recogniser
from sentinode.slides.naming import slide_id_of
from sentinode.slides.resolution import MppWish
from sentinode.slides.slide import fingerprint
from sentinode.storage import whole_file
from sentinode.workflows.predicting import (
    PredictionWish,
    SlideDone,
    TilesDone,
    first_look_terms,
    look_twice,
    slide_recogniser,
)
from sentinode.workflows.refusing import gate_of
from sentinode.workflows.slide_evaluation import require_unseen
from sentinode.workflows.slide_inputs import find_slides, read_slide_table
from sentinode.workflows.triaging import require_promise

__all__ = ["FirstLooking", "fit_first_look_on"]

MOST_TILES = 5000
"""Tiles of a slide that are kept, of the suspicious ones and of the others each: a slide has a hundred thousand."""

Listener = Callable[[TilesDone | SlideDone], None]


@dataclass(frozen=True, eq=False)
class FirstLooking:
    """What came out.

    Parameters
    ----------
    bundle : Bundle
        The new model.
    look : FirstLook
        What was fitted.
    failures : mapping of str to str
        File -> why it said nothing.
    """

    bundle: Bundle
    look: FirstLook
    failures: Mapping[str, str]

    @property
    def missing(self) -> int:
        """More patients with suspicious tiles that are needed, at least; 0 where something can be spared."""
        if self.look.threshold is not None:
            return 0
        # A part of them is fitted on.
        short = max(1, patients_needed(self.look.alpha, self.look.delta) - self.look.n_patients)
        return math.ceil(short * FITTED / (FITTED - 1))

    def to_json(self) -> dict[str, Any]:
        """Write it as JSON would.

        Returns
        -------
        dict
            The first look without its weights, what failed.
        """
        left_out = ("mean", "scale", "weights", "intercept")
        look = {name: value for name, value in self.look.to_json().items() if name not in left_out}
        return {
            "model": str(self.bundle.folder),
            "digest": self.bundle.digest,
            "first_look": look,
            "patients_missing": self.missing,
            "failures": dict(self.failures),
        }


def fit_first_look_on(
    inputs: Sequence[Path | str],
    model: Path | str,
    out: Path | str,
    *,
    table: Path | str | None = None,
    alpha: float = 0.01,
    delta: float | None = 0.05,
    mpp: MppWish | None = None,
    on_event: Listener | None = None,
) -> FirstLooking:
    """Fit a first look, and write the model with it as a new one.

    What was seen of a slide is kept beside `out` until a model is there that spares something: after an interruption,
    or with more slides, it is taken from there.

    Parameters
    ----------
    inputs : sequence of Path or str
        Slides, or folders of slides; of patients whom the model has not seen, without any labels.
    model : Path or str
        Folder of the bundle, without a first look.
    out : Path or str
        Folder of the new bundle: the same network with another digest, to which these slides are seen as well.
    table : Path or str, optional
        A CSV: ``slide_id`` and ``patient_id``. A slide that it does not name, or without one, counts as a patient.
    alpha : float
        Share of the suspicious tiles that may be lost, on the mean over patients.
    delta : float, optional
        Probability with which that may be broken; None promises the average.
    mpp : MppWish, optional
        What is known of the resolution of the slides beside the files.
    on_event : callable, optional
        Receives what `predict_slides` tells.

    Returns
    -------
    FirstLooking
        A slide that failed stops no other.

    Raises
    ------
    ModelError
        If the model or the salt of the laboratory cannot be read, it has a first look already, cannot have one, or no
        slide has suspicious tiles.
    PlanError
        If `alpha` or `delta` cannot be.
    LeakageError
        If the model was trained on one of the slides or patients.
    ManifestError
        If the table cannot be used.
    SlideError
        If there is no slide, or too few can be used.
    ExportError
        If `out` is there already, or something cannot be written.
    """
    # The other errors are those of the steps.
    require_promise(alpha, 0.05 if delta is None else delta)
    out, bundle = Path(out), read_bundle(model)
    require_free(out)
    salt = laboratory_salt()  # told now, and not after hours
    if FIRST_LOOK_FILE in bundle.files:
        raise ModelError(f"{model}: has a first look already; fit on the model that it was made of")
    bundle.mpp_of_tiles()
    if gate_of(bundle).everything is None:
        raise ModelError(f"{model}: does not know what its training images look like; train it again, on more patients")
    slides = find_slides([Path(one) for one in inputs])
    known = {} if table is None else read_slide_table(Path(table))
    patients = {slide_id_of(path): known.get(slide_id_of(path), {}).get("patient_id", "") for path in slides}
    if table is not None and not any(patients.values()):
        raise ManifestError(f"{table}: names the patient of none of these slides; it needs slide_id and patient_id")
    failures = require_unseen(slides, patients, bundle)
    kept = out.parent / f".looked-at-{bundle.digest[:12]}"
    work = _Work(bundle, slide_recogniser(bundle), mpp or MppWish(), kept, on_event)
    try:
        kept.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ExportError(f"{kept}: cannot be made ({error.strerror or error}); choose another --out") from error
    looked = _looked(work, slides, failures)
    owners = [patients[slide_id_of(path)] or slide_id_of(path) for path in looked]
    if len(set(owners)) < 2:
        why = "; ".join(list(failures.values())[:1])
        raise SlideError(f"a first look is fitted on two patients at least, and here are {len(set(owners))}; {why}")
    look = fit_first_look(_by_patient(list(looked.values()), owners), alpha, delta)
    n_unnamed = sum(not patients[slide_id_of(path)] for path in looked)
    look = replace(look, n_unnamed=n_unnamed, terms=first_look_terms(PredictionWish(), work.recogniser))
    names, contents = [slide_id_of(path) for path in looked], [fingerprint(path) for path in looked]
    content = {**bundle.content(), FIRST_LOOK_FILE: (json.dumps(look.to_json(), indent=1) + "\n").encode()}
    more = Seen.under(salt, owners, names, contents, ())
    made = write_bundle(out, bundle.facts, content, bundle.seen().and_also(more))
    if look.threshold is not None:  # else more slides will be asked for, and these need not be looked at again
        shutil.rmtree(work.kept, ignore_errors=True)
    return FirstLooking(made, look, failures)


class _Work(NamedTuple):
    bundle: Bundle
    recogniser: Recogniser
    mpp: MppWish
    kept: Path  # folder
    listen: Listener | None


def _looked(work: _Work, slides: Sequence[Path], failures: dict[str, str]) -> dict[Path, LookedAt]:
    looked = {}
    jobs = [
        (path, (work, path, (number, len(slides))))
        for number, path in enumerate(slides, start=1)
        if str(path) not in failures
    ]
    for path, outcome in run_jobs(_look, jobs):
        if isinstance(outcome, Failure):
            failures[str(path)] = told = outcome.message
        else:
            looked[path] = outcome
            told = f"{outcome.weight[outcome.proba[:, -1] >= SUSPICIOUS].sum():,.0f} suspicious tiles"
        if work.listen is not None:
            verdict = f"failed: {told}" if isinstance(outcome, Failure) else told
            work.listen(SlideDone(slide_id_of(path), slides.index(path) + 1, len(slides), verdict))
    return looked


def _look(job: tuple[_Work, Path, tuple[int, int]]) -> LookedAt:
    work, path, place = job
    terms = first_look_terms(PredictionWish(), work.recogniser)
    depends = json.dumps([work.bundle.digest, fingerprint(path), asdict(work.mpp), terms], default=str)
    file = work.kept / f"{hashlib.sha256(depends.encode()).hexdigest()[:32]}.npz"
    if not file.exists():
        found = _some(look_twice(path, work.bundle, work.recogniser, work.mpp, place, work.listen))
        with whole_file(file) as part, part.open("wb") as stream:
            np.savez(stream, **found._asdict())
    with np.load(file) as stored:
        return LookedAt(*(stored[name] for name in LookedAt._fields))


def _some(slide: LookedAt) -> LookedAt:
    # Of either kind evenly, and how many each stands for.
    suspicious = slide.proba[:, -1] >= SUSPICIOUS
    rows, weight = [], []
    for kind in (np.flatnonzero(suspicious), np.flatnonzero(~suspicious)):
        if len(kind):
            kept = kind[evenly(len(kind), MOST_TILES)]
            rows.append(kept)
            weight.append(np.full(len(kept), len(kind) / len(kept), dtype=np.float32))
    chosen = np.concatenate(rows)
    return LookedAt(slide.numbers[chosen], slide.proba[chosen], np.concatenate(weight))


def _by_patient(slides: Sequence[LookedAt], owners: Sequence[str]) -> list[LookedAt]:
    found = []
    for name in sorted(set(owners)):
        mine = [one for one, owner in zip(slides, owners, strict=True) if owner == name]
        found.append(LookedAt(*(np.concatenate(parts) for parts in zip(*mine, strict=True))))
    return found
