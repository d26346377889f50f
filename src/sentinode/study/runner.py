"""Running a study: every algorithm on every split, each trial in a process of its own, measured.

A trial is known by the digest of everything that its numbers depend on. What is stored under that digest is
done; whatever changes (a setting, a patient, a pixel, a library, the code of Sentinode) has another digest
and is run.
"""

import contextlib
import hashlib
import logging
import os
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sentinode._version import __version__
from sentinode.algorithms.registry import require_extra
from sentinode.data.leakage import check_split, require_clean
from sentinode.data.manifest import Manifest, read_manifest
from sentinode.data.overlaps import Overlaps, find_overlaps
from sentinode.data.patches import cache_patches
from sentinode.data.splits import Protocol, Split, make_splits, read_splits, write_splits
from sentinode.errors import ExportError, MissingExtra, PlanError
from sentinode.evaluation.calibration import require_calibrating
from sentinode.execution import Failure, run_jobs
from sentinode.models.encoder import read_encoder
from sentinode.storage import whole_file
from sentinode.study.events import Listener, Preparing, StudyStarted, TrialFailed, TrialFinished, TrialStarted
from sentinode.study.measure import source_digest, versions
from sentinode.study.plan import DRAWING, Entry, Plan
from sentinode.study.store import StudyResult, StudyStore, read_study
from sentinode.study.trial import ROLES, Trial, TrialJob, run_trial

__all__ = ["Prepared", "StudyData", "filled", "make_trial", "read_data", "run_study", "run_trials"]

_LOG = logging.getLogger(__name__)


@dataclass
class _Clock:
    """How long is left, from what the trials of each algorithm have taken."""

    waiting: dict[str, int]
    workers: int
    taken: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    begun: dict[str, float] = field(default_factory=dict)

    def start(self, key: str) -> None:
        self.begun[key] = time.monotonic()

    def stop(self, key: str, name: str) -> float:
        seconds = time.monotonic() - self.begun.pop(key)
        self.taken[name].append(seconds)
        self.waiting[name] -= 1
        return seconds

    def left(self) -> float:
        everything = [seconds for some in self.taken.values() for seconds in some]
        usual = sum(everything) / len(everything) if everything else float("nan")
        total = 0.0
        for name, n in self.waiting.items():
            some = self.taken.get(name)
            total += n * (sum(some) / len(some) if some else usual)
        return total / self.workers


def run_study(
    plan: Plan, out: Path | str, on_event: Listener | None = None, *, source: str | None = None
) -> StudyResult:
    """Run what a plan asks for and a folder does not hold yet.

    Parameters
    ----------
    plan : Plan
        From `sentinode.study.plan.read_plan`.
    out : Path or str
        Folder of the study, made where it is absent; see `sentinode.study.store`. It may be the folder of an
        earlier run: trials that match are taken over.
    on_event : callable, optional
        Receives every `StudyEvent`.
    source : str, optional
        The text of the plan, kept beside the results.

    Returns
    -------
    StudyResult
        As far as it came; a failed trial does not stop the others.

    Raises
    ------
    ManifestError
        If an image cannot be read.
    PlanError
        If the splits are impossible.
    LeakageError
        If a test image could be seen in training, unless the protocol is ``"random"``.
    MissingExtra
        If an algorithm needs torch and it is not installed.
    ExportError
        If there is no room or no permission in the folder.
    """
    # The errors are those of the steps.
    listen = on_event or (lambda _event: None)
    store = StudyStore(Path(out).absolute())
    store.clean()
    run_trials(plan, store, _prepare(plan, store, listen, source), listen)
    return read_study(store.folder)


def run_trials(plan: Plan, store: StudyStore, prepared: "Prepared", listen: Listener) -> None:
    """Run the trials that a folder does not hold yet.

    Parameters
    ----------
    plan : Plan
        How many run at once, and where.
    store : StudyStore
        Where they are kept.
    prepared : Prepared
        The trials.
    listen : callable
        Receives every `StudyEvent`.

    Raises
    ------
    MissingExtra
        If an algorithm needs torch and it is not installed.
    ExportError
        If there is no room or no permission in the folder.
    """
    # Both are those of the trials.
    missing = [one for one in prepared.trials if not store.has(one[0].key)]
    n_stored = len(prepared.trials) - len(missing)
    listen(StudyStarted(len(prepared.trials), n_stored))
    _LOG.info("%d trials, %d of them stored in %s", len(prepared.trials), n_stored, store.folder)
    try:
        _run(plan, store, prepared, missing, listen)
    finally:
        store.clean()  # Ctrl-C ends the trials where they stand, in the middle of a write, too


@dataclass(frozen=True, eq=False)
class Prepared:
    """What the trials of a study share, and the trials, repeat by repeat.

    In that order a study that is stopped has all algorithms on the same splits.

    Parameters
    ----------
    manifest : Manifest
        The images.
    pixels : Path
        ``.npy`` file of all of them.
    trials : list of (Trial, Split)
        What is to be done, on whom.
    """

    manifest: Manifest
    pixels: Path
    trials: list[tuple[Trial, Split]]

    def job(self, trial: Trial, split: Split, folder: Path) -> TrialJob:
        """Gather what the process of a trial needs, only when it starts: sixty of them would fill the memory.

        Returns
        -------
        TrialJob
            Rows of the roles only.
        """
        frame = self.manifest.frame
        positions = {role: split.role(role) for role in ROLES}
        return TrialJob(
            trial=trial,
            pixels=self.pixels,
            positions=positions,
            labels={role: frame["label"].to_numpy(dtype=np.str_)[rows] for role, rows in positions.items()},
            ids=frame["image_id"].to_numpy(dtype=np.str_)[split.test],
            groups=self.manifest.groups[split.test],
            calibrate_groups=self.manifest.groups[split.calibrate],
            classes=self.manifest.classes,
            n_patients={role: split.n_patients(self.manifest, role) for role in ROLES},
            folder=folder,
        )


@dataclass(frozen=True, eq=False)
class StudyData:
    """The images of a plan, read, and its splits, checked.

    Parameters
    ----------
    manifest : Manifest
        The images.
    pixels : Path
        ``.npy`` file of all of them.
    protocol : Protocol
        How the splits were drawn.
    splits : tuple of Split
        One a repeat.
    findings : list of dict
        How much each of them leaks: ``repeat, n_test, n_known, n_seen_patient, n_overlapping_pairs``.
    source : str
        Digest of the code of Sentinode.
    libraries : dict of str to str
        Their versions.
    """

    manifest: Manifest
    pixels: Path
    protocol: Protocol
    splits: tuple[Split, ...]
    findings: list[dict[str, Any]]
    source: str
    libraries: dict[str, str]

    def facts(self, plan: Plan) -> dict[str, Any]:
        """Tell what the trials of a plan are made of.

        Parameters
        ----------
        plan : Plan
            The one that the data was read for.

        Returns
        -------
        dict
            Digests, versions, classes, protocol, leakage: what JSON can hold.
        """
        return {
            "version": __version__,
            "source": self.source,
            "libraries": self.libraries,
            "workers": plan.workers,
            "threads": _threads(plan),
            "plan": plan.digest,
            "data": self.manifest.digest,
            "pixels": self.pixels.stem,
            "splits": _digest_of(self.splits),
            "classes": list(self.manifest.classes),
            "n_images": len(self.manifest),
            "n_unassigned": _n_unassigned(self.manifest, self.splits),
            "provenance": asdict(self.manifest.provenance),
            "protocol": asdict(self.protocol),
            "leakage": self.findings,
        }


def read_data(plan: Plan, store: StudyStore, listen: Listener) -> StudyData:
    """Read the images of a plan, draw its splits, and check them.

    Parameters
    ----------
    plan : Plan
        What is asked for.
    store : StudyStore
        Where decoded images are kept.
    listen : callable
        Receives every `Preparing`.

    Returns
    -------
    StudyData
        What all trials of the plan share.

    Raises
    ------
    ManifestError
        If an image cannot be read.
    PlanError
        If the splits are impossible.
    LeakageError
        If a test image could be seen in training, unless the protocol is ``"random"``.
    MissingExtra
        If an algorithm needs torch and it is not installed.
    ExportError
        If there is no room or no permission in the folder.
    """
    # The errors are those of the steps.
    _LOG.info("plan %s: %s, %d repeats", plan.digest, ", ".join(plan.algorithms), plan.repeats)
    for entry in plan.entries:
        require_extra(entry.spec.name)  # told now, and not by the first trial
    manifest = read_manifest(plan.manifest)
    pixels = cache_patches(manifest, store.folder / "cache", _progress(listen, "reading patches"))
    cache = Path(str(pixels.filename))
    _LOG.info("%d images of %s, decoded in %s", len(manifest), plan.manifest, cache)
    _keep(manifest.frame[["image_id"]], cache.with_name(f"{cache.stem}-ids.parquet"))
    overlaps = _overlaps(store, cache, pixels, listen)
    _LOG.info("overlapping pairs: %s", dict(Counter(overlaps.frame["kind"])) or "none")
    protocol, splits = _splits(plan, manifest, overlaps)
    for split in splits:
        _LOG.debug("split %d is %s", split.repeat, split.digest)
    findings = _checked(protocol, manifest, splits, overlaps)
    for split in splits:
        if len(split.calibrate):
            positive = manifest.codes[split.calibrate] == len(manifest.classes) - 1
            require_calibrating(positive, manifest.groups[split.calibrate])
    if plan.encoder is not None:
        cache = _embedded(plan.encoder, manifest, cache, listen)
    # The code once: all trials of a run are of the same.
    return StudyData(manifest, cache, protocol, splits, findings, source_digest(), versions())


def _prepare(plan: Plan, store: StudyStore, listen: Listener, source: str | None) -> Prepared:
    # Reads the data, and writes down what this study is.
    data = read_data(plan, store, listen)
    trials = [(make_trial(plan, entry, split, data), split) for split in data.splits for entry in plan.entries]
    write_splits(store.folder / "splits.json", data.manifest, data.protocol, data.splits)
    if source is not None:
        store.write_text("plan.toml", source)
    store.write_json("plan.json", {**filled(plan, data.protocol), "digest": plan.digest})
    store.write_json(
        "study.json",
        {
            **data.facts(plan),
            "trials": [{"key": trial.key, "name": trial.name, "repeat": trial.repeat} for trial, _ in trials],
        },
    )
    return Prepared(data.manifest, data.pixels, trials)


def _progress(listen: Listener, what: str) -> Callable[[int, int], None]:
    return lambda done, total: listen(Preparing(what, done, total))


def _embedded(encoder_file: Path, manifest: Manifest, cache: Path, listen: Listener) -> Path:
    # Features of all patches, computed once: what an encoder gives does not depend on who trains. Returns their file,
    # named by the digests of pixels and encoder, which every trial carries as that of its pixels.
    encoder = read_encoder(encoder_file)
    kept = cache.with_name(f"{cache.stem}-{encoder.digest[:16]}.npy")
    pixels = np.load(cache, mmap_mode="r", allow_pickle=False)
    mpp = manifest.frame["mpp"].to_numpy(dtype=np.float64)
    encoder.embed_to(kept, pixels, mpp.tolist(), _progress(listen, "computing features"))
    _keep(manifest.frame[["image_id"]], kept.with_name(f"{kept.stem}-ids.parquet"))
    return kept


def _overlaps(store: StudyStore, cache: Path, pixels: NDArray[np.uint8], listen: Listener) -> Overlaps:
    # A long search over large sets, and the same for the same pixels: kept beside them.
    kept = store.folder / "cache" / f"overlaps-{cache.stem}-{__version__}.parquet"
    if kept.exists():
        return Overlaps(pd.read_parquet(kept))
    overlaps = find_overlaps(pixels, on_progress=_progress(listen, "looking for overlaps"))
    _keep(overlaps.frame, kept)
    return overlaps


def _keep(frame: pd.DataFrame, path: Path) -> None:
    try:
        with whole_file(path) as part:
            frame.to_parquet(part, index=False)
    except OSError as error:
        raise ExportError(f"{path}: cannot be written ({error.strerror or error}); make room") from error


def _splits(plan: Plan, manifest: Manifest, overlaps: Overlaps) -> tuple[Protocol, tuple[Split, ...]]:
    if plan.splits is None:
        protocol = Protocol(
            name=plan.protocol,
            repeats=plan.repeats,
            seed=plan.seed,
            test=plan.test,
            stop=plan.stop,
            calibrate=plan.calibrate,
            unknown=plan.unknown,
        )
        return protocol, make_splits(manifest, protocol, overlaps)
    protocol, splits = read_splits(plan.splits, manifest)
    if len(splits) < plan.repeats:
        raise PlanError(f"{plan.splits}: holds {len(splits)} splits, and repeats = {plan.repeats}; ask for fewer")
    splits = splits[: plan.repeats]
    if plan.search.candidates > 1 and any(len(split.stop) == 0 for split in splits):
        raise PlanError(f"{plan.splits}: has no stop part, on which search.candidates are chosen; set them to 1")
    return replace(protocol, repeats=len(splits)), splits


def filled(plan: Plan, protocol: Protocol) -> dict[str, Any]:
    """Write down a plan with every default filled in.

    Parameters
    ----------
    plan : Plan
        As it was read.
    protocol : Protocol
        How its splits were drawn, which a file of frozen splits has settled.

    Returns
    -------
    dict
        What JSON can hold.
    """
    # Frozen splits have settled how patients were drawn; the defaults of the plan would tell something else.
    drawn = asdict(protocol)
    return {**plan.model_dump(mode="json"), **{key: drawn["name" if key == "protocol" else key] for key in DRAWING}}


def _checked(
    protocol: Protocol, manifest: Manifest, splits: tuple[Split, ...], overlaps: Overlaps
) -> list[dict[str, Any]]:
    """Refuse splits that leak; of random ones, count by how much they do.

    Returns
    -------
    list of dict
        One a repeat: ``repeat, n_test, n_known, n_seen_patient, n_overlapping_pairs``.
    """
    if protocol.name != "random":
        for split in splits:
            require_clean(check_split(manifest, split, overlaps, protocol))
    return [_leakage(manifest, split, overlaps) for split in splits]


def _leakage(manifest: Manifest, split: Split, overlaps: Overlaps) -> dict[str, Any]:
    groups = manifest.groups
    tested, trained = np.zeros((2, len(manifest)), dtype=bool)
    tested[split.test] = True
    trained[np.concatenate([split.train, split.stop, split.calibrate])] = True
    seen = set(groups[trained].tolist()) - {""}
    first, second = (overlaps.frame[column].to_numpy(dtype=np.int64) for column in ("first", "second"))
    across = (tested[first] & trained[second]) | (trained[first] & tested[second])
    return {
        "repeat": split.repeat,
        "n_test": len(split.test),
        "n_unknown_in_train": int((groups[split.train] == "").sum()),
        "n_test_of_seen_patients": int(np.isin(groups[split.test], list(seen)).sum()) if seen else 0,
        "n_overlapping_pairs": int(across.sum()),
    }


def _n_unassigned(manifest: Manifest, splits: tuple[Split, ...]) -> int:
    used = np.zeros(len(manifest), dtype=bool)
    for split in splits:
        for role in ROLES:
            used[split.role(role)] = True
    return int((~used).sum())


def _digest_of(splits: tuple[Split, ...]) -> str:
    return hashlib.sha256("".join(split.digest for split in splits).encode()).hexdigest()


def make_trial(plan: Plan, entry: Entry, split: Split, data: StudyData) -> Trial:
    """Say what one trial is, with everything that its numbers depend on.

    Parameters
    ----------
    plan : Plan
        Seed, tuning budget, threads.
    entry : Entry
        The algorithm.
    split : Split
        Who has which role.
    data : StudyData
        The images, and the code.

    Returns
    -------
    Trial
        Its key is the digest of all of it.
    """
    return Trial(
        name=entry.name,
        spec=entry.spec,
        repeat=split.repeat,
        seed=plan.seed,
        split=split.digest,
        data=data.manifest.digest,
        pixels=data.pixels.stem,
        candidates=plan.search.candidates,
        search_epochs=plan.search.epochs,
        threads=_threads(plan),
        source=data.source,
        libraries=data.libraries,
    )


def _threads(plan: Plan) -> int:
    if plan.threads is not None:
        return plan.threads
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // plan.workers)


def _run(
    plan: Plan, store: StudyStore, prepared: Prepared, missing: list[tuple[Trial, Split]], listen: Listener
) -> None:
    by_key = {trial.key: trial for trial, _ in missing}
    clock = _Clock(dict(Counter(trial.name for trial, _ in missing)), plan.workers)
    n_trials = len(prepared.trials)
    n_done = n_trials - len(missing)

    def drawing() -> Iterator[tuple[str, TrialJob]]:
        for trial, split in missing:
            clock.start(trial.key)
            _LOG.info("%s, repeat %d: starts as %s", trial.name, trial.repeat, trial.key)
            listen(TrialStarted(trial.name, trial.repeat))
            yield trial.key, prepared.job(trial, split, store.folder)

    with contextlib.closing(run_jobs(run_trial, drawing(), on=plan.on, workers=plan.workers)) as results:
        for key, outcome in results:
            trial = by_key[key]
            seconds = clock.stop(key, trial.name)
            n_done += 1
            if isinstance(outcome, Failure):
                _LOG.info("%s, repeat %d: failed, %s", trial.name, trial.repeat, outcome.message)
                _stop_if_hopeless(outcome, trial)
                store.write_failure(key, outcome, trial.to_json())
                listen(TrialFailed(trial.name, trial.repeat, outcome, n_done, n_trials, clock.left()))
            else:
                _LOG.info("%s, repeat %d: finished in %.1f s", trial.name, trial.repeat, seconds)
                listen(TrialFinished(trial.name, trial.repeat, seconds, n_done, n_trials, clock.left()))


def _stop_if_hopeless(failure: Failure, trial: Trial) -> None:
    # Not the fault of an algorithm, and the next trial would fare no better.
    if failure.kind == "ExportError":
        raise ExportError(failure.message)
    if failure.kind == "MissingExtra":
        raise MissingExtra("train", f"the algorithm '{trial.spec.name}'")
