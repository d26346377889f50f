"""One trial: an algorithm trained, tried and measured on one split, in a process of its own."""

import dataclasses
import hashlib
import importlib
import json
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from sentinode._version import __version__
from sentinode.algorithms.description import EpochRecord
from sentinode.algorithms.registry import (
    Algorithm,
    AlgorithmSpec,
    algorithm_class,
    algorithm_settings,
    build_algorithm,
    search_candidates,
)
from sentinode.errors import ModelError, PlanError
from sentinode.evaluation.calibration import CalibrationChoice, choose_calibration
from sentinode.evaluation.metrics import METRICS
from sentinode.seeds import torch_seed
from sentinode.study.measure import (
    environment,
    limit_threads,
    load_average,
    measured,
    peak_memory,
    source_digest,
)
from sentinode.study.store import StudyStore

__all__ = ["ROLES", "RolePatches", "Trial", "TrialJob", "run_trial"]

ROLES = ("train", "stop", "calibrate", "test")

_LIBRARIES: Mapping[str, tuple[str, ...]] = MappingProxyType({
    "train": ("sentinode.algorithms.training", "sentinode.algorithms.pretraining"),
})
"""Extra -> the modules that an algorithm which needs it imports when it is trained."""

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Trial:
    """One algorithm on one split, and everything that its numbers depend on.

    Parameters
    ----------
    name : str
        The algorithm, as the plan calls it.
    spec : AlgorithmSpec
        The registered algorithm and its settings.
    repeat : int
        From 0.
    seed : int
        Of the study.
    split : str
        Digest of who has which role.
    data : str
        Digest of the manifest.
    pixels : str
        Digest of the images.
    candidates : int
        Tuning budget.
    search_epochs : int or None
        Of each candidate at most.
    threads : int
        Of the processor; the last bits and the seconds depend on them.
    source : str
        Digest of the code of Sentinode, taken once by the process that runs the study.
    libraries : mapping of str to str
        Versions of what computes beside Sentinode; ``""`` for one that is absent.
    version : str
        Of Sentinode.
    """

    name: str
    spec: AlgorithmSpec
    repeat: int
    seed: int
    split: str
    data: str
    pixels: str
    candidates: int
    search_epochs: int | None
    threads: int
    source: str
    libraries: Mapping[str, str]
    version: str = __version__

    @property
    def key(self) -> str:
        """SHA-256 (hex) over all of it."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()

    def to_json(self) -> dict[str, Any]:
        """Write the trial as JSON would.

        Returns
        -------
        dict
            ``algorithm`` and all its ``settings``, the defaults included, in place of the spec: a default that
            has changed is another trial, and one that the plan repeats is none.
        """
        values = {one.name: getattr(self, one.name) for one in dataclasses.fields(self) if one.name != "spec"}
        return {
            **values,
            "libraries": dict(self.libraries),
            "algorithm": self.spec.name,
            "settings": _resolved(self.spec),
        }


@dataclass(frozen=True, eq=False)
class RolePatches:
    """The patches of one role, read from the memory map when they are asked for.

    Parameters
    ----------
    pixels : (n, h, w, 3) uint8
        All patches of the study.
    positions : (m,) int64
        Those of the role.
    """

    pixels: NDArray[np.uint8]
    positions: NDArray[np.int64]

    @property
    def shape(self) -> tuple[int, ...]:
        """``(m, h, w, 3)``."""
        return (len(self.positions), *self.pixels.shape[1:])

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, key: int | slice | list[int] | NDArray[np.int64]) -> NDArray[np.uint8]:
        """Read one patch ``(h, w, 3)``, or several ``(k, h, w, 3)``.

        Parameters
        ----------
        key : int, slice or (k,) int
            Counted within the role.

        Returns
        -------
        (h, w, 3) or (k, h, w, 3) uint8
            A copy.
        """
        return np.asarray(self.pixels[self.positions[key]])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:  # noqa: ANN401, FBT001 - numpy's protocol
        return np.array(self[:], dtype=dtype, copy=True if copy is None else copy)


@dataclass(frozen=True, eq=False)
class TrialJob:
    """A trial and what its process needs; the pixels are mapped there, not sent.

    Parameters
    ----------
    trial : Trial
        What to do.
    pixels : Path
        ``.npy`` file of all patches, ``(n, h, w, 3)`` uint8.
    positions : mapping of str to (m,) int64
        Of the roles ``train``, ``stop``, ``calibrate`` (empty where nothing is calibrated) and ``test``.
    labels : mapping of str to (m,) str
        Of the same.
    ids, groups : (m,) str
        Image id and patient (else slide) of the test patches; ``""`` for a patient that nobody knows.
    calibrate_groups : (m,) str
        Patient of the patches that are calibrated on.
    classes : tuple of str
        Of the study; the last one is looked for.
    n_patients : mapping of str to int
        Of each role.
    folder : Path
        Of the study.
    """

    trial: Trial
    pixels: Path
    positions: dict[str, NDArray[np.int64]]
    labels: dict[str, NDArray[np.str_]]
    ids: NDArray[np.str_]
    groups: NDArray[np.str_]
    calibrate_groups: NDArray[np.str_]
    classes: tuple[str, ...]
    n_patients: dict[str, int]
    folder: Path


def run_trial(job: TrialJob) -> None:
    """Train, predict, measure and store one trial.

    Parameters
    ----------
    job : TrialJob
        What to do, on what.

    Raises
    ------
    PlanError
        If the patients to calibrate on are too few.
    ModelError
        If the algorithm gives something that is no probability; what it raises by itself passes through. Also
        if the code of Sentinode is not, or no longer, the one that the study was started with.
    ExportError
        If the result cannot be stored.
    """
    # ExportError is write_trial's, PlanError the calibration's.
    trial, load = job.trial, load_average()
    _require_source(trial)
    _LOG.debug("%s, repeat %d: trains on %d patients", trial.name, trial.repeat, job.n_patients["train"])
    with limit_threads(trial.threads):
        pixels = np.load(job.pixels, mmap_mode="r", allow_pickle=False)
        parts = {role: RolePatches(pixels, job.positions[role]) for role in ROLES}
        stop = (parts["stop"], job.labels["stop"]) if len(parts["stop"]) else None
        # The same for all algorithms in a repeat, another one in the next; 31 bits, as scikit-learn needs.
        seed = torch_seed(trial.seed, "trial", trial.repeat) >> 32
        _load_libraries(trial.spec)
        spec, tried = _search(trial, parts, job.labels, job.classes[-1], seed)
        estimator = build_algorithm(spec, seed)
        with measured() as training:
            estimator.fit(parts["train"], job.labels["train"], stop=stop)
        with measured() as prediction:
            proba = estimator.predict_proba(parts["test"])
        _require_proba(proba, len(parts["test"]), len(estimator.classes_))
        chosen = _calibrated(job, estimator, parts["calibrate"], seed)
        predictions = _predictions(job, estimator, proba, chosen)
        result = {
            "trial": trial.to_json(),
            "settings": _resolved(spec),
            "search": tried,
            "seconds": {
                "search": sum(one["seconds"] for one in tried),
                "train": training.seconds,
                "predict": prediction.seconds,
                "cpu": training.cpu_seconds + prediction.cpu_seconds,
                "train_cpu": training.cpu_seconds,
                "predict_cpu": prediction.cpu_seconds,
            },
            "memory": peak_memory(),
            "n_images": {role: len(parts[role]) for role in ROLES},
            "n_patients": job.n_patients,
            "parameters": _n_parameters(estimator, pixels.shape[1:3]),
            "training": _training_facts(estimator),
            "calibration": None
            if chosen is None
            else {"method": chosen.calibration.method, "losses": dict(chosen.losses), "n_patients": chosen.n_patients},
            "load": load,
            "environment": environment(trial.threads, trial.source),
        }
    _require_source(trial)
    _LOG.debug("%s, repeat %d: trained in %.1f s", trial.name, trial.repeat, training.seconds)
    StudyStore(job.folder).write_trial(trial.key, predictions, result, _training(estimator.log_))


def _resolved(spec: AlgorithmSpec) -> dict[str, Any]:
    # Tuples are lists in JSON, dates are text: a key must not depend on where its parts were read.
    settings = {**algorithm_settings(spec.name), **spec.settings}
    return dict(json.loads(json.dumps(settings, default=str)))


def _require_source(trial: Trial) -> None:
    if source_digest() != trial.source:
        raise ModelError(
            f"{trial.name}, repeat {trial.repeat}: the code of Sentinode was edited while the study ran, so that "
            "nobody could say which code made the numbers; run the study again, and edit nothing meanwhile"
        )


def _load_libraries(spec: AlgorithmSpec) -> None:
    """Import what training would import, so that it counts in nobody's seconds.

    Parameters
    ----------
    spec : AlgorithmSpec
        Its class says in ``EXTRA`` what it needs.
    """
    extra = getattr(algorithm_class(spec.name), "EXTRA", None)
    for module in _LIBRARIES.get(str(extra), ()):
        importlib.import_module(module)
    if extra == "train":
        _warm_up(str(_resolved(spec).get("device", "cpu")))


def _warm_up(device: str) -> None:
    # The first optimiser imports the better part of torch again, the first use of a GPU takes seconds. Zeros draw
    # no random number: what is trained afterwards is the same to the bit.
    import torch  # noqa: PLC0415 - most algorithms do without it

    from sentinode.algorithms.training import use_device  # noqa: PLC0415 - as above

    weight = torch.zeros(1, 1, 3, 3, device=use_device(device), requires_grad=True)
    optimizer = torch.optim.Adam([weight])
    torch.autograd.backward(torch.nn.functional.conv2d(torch.zeros_like(weight), weight, padding=1).sum())
    optimizer.step()


def _search(
    trial: Trial,
    parts: Mapping[str, RolePatches],
    labels: Mapping[str, NDArray[np.str_]],
    positive: str,
    seed: int,
) -> tuple[AlgorithmSpec, list[dict[str, Any]]]:
    """Try the candidates of the tuning budget on the stop part.

    Returns
    -------
    spec : AlgorithmSpec
        The best: highest pooled AUC; of equals (or without any AUC) the lowest log loss, then the first.
    tried : list of dict
        Settings, scores and seconds of each; empty for a budget of one.
    """
    if trial.candidates == 1:
        return trial.spec, []
    candidates = search_candidates(trial.spec, trial.candidates, torch_seed(trial.seed, "candidates", trial.repeat))
    tried = []
    for candidate in candidates:
        with measured() as spent:
            scores = _try_candidate(_shortened(candidate, trial.search_epochs), parts, labels, positive, seed)
        settings = json.loads(json.dumps(dict(candidate.settings), default=str))
        tried.append({"settings": settings, **scores, "seconds": spent.seconds})
        _LOG.debug("%s, repeat %d: tried %s: %s", trial.name, trial.repeat, settings, scores)
    best = max(range(len(tried)), key=lambda place: _rank(tried[place]))
    return candidates[best], tried


def _try_candidate(
    spec: AlgorithmSpec,
    parts: Mapping[str, RolePatches],
    labels: Mapping[str, NDArray[np.str_]],
    positive: str,
    seed: int,
) -> dict[str, Any]:
    try:
        estimator = build_algorithm(spec, seed)
        estimator.fit(parts["train"], labels["train"], stop=(parts["stop"], labels["stop"]))
        proba = estimator.predict_proba(parts["stop"])
        _require_proba(proba, len(parts["stop"]), len(estimator.classes_))
    except (ModelError, PlanError) as error:
        # Settings drawn at random may diverge, or not fit these images: a bad candidate, not a bad trial.
        return {"auc": None, "log_loss": None, "error": str(error)}
    return _scores(estimator.classes_, proba, labels["stop"], positive)


def _shortened(spec: AlgorithmSpec, epochs: int | None) -> AlgorithmSpec:
    """Limit the epochs of every stage that has any, pre-training included.

    Returns
    -------
    AlgorithmSpec
        The same where nothing is trained in epochs.
    """
    known = {**algorithm_settings(spec.name), **spec.settings}
    stages = [name for name in known if name == "epochs" or name.endswith("_epochs")]
    if epochs is None or not stages:
        return spec
    limited = {name: min(int(str(known[name])), epochs) for name in stages}
    return AlgorithmSpec(spec.name, {**spec.settings, **limited})


def _scores(
    classes: ArrayLike, proba: NDArray[np.float32], labels: NDArray[np.str_], positive: str
) -> dict[str, float | None]:
    column = np.flatnonzero(np.asarray(classes) == positive)
    score = proba[:, column[0]] if len(column) else np.zeros(len(proba))
    values = {name: METRICS[name].function(labels == positive, score) for name in ("auc", "log_loss")}
    return {name: None if np.isnan(value) else value for name, value in values.items()}


def _rank(tried: dict[str, Any]) -> tuple[float, float]:
    # The stop part is the same for all candidates: either all that could be trained have an AUC, or none.
    auc, loss = tried["auc"], tried["log_loss"]
    return (-1.0 if auc is None else auc, -math.inf if loss is None else -loss)


def _require_proba(proba: NDArray[np.float32], n: int, k: int) -> None:
    if proba.shape != (n, k):
        raise ModelError(f"predict_proba gave {proba.shape} for {n} images of {k} classes")
    if not (np.isfinite(proba).all() and np.allclose(proba.sum(axis=1), 1, atol=1e-3)):
        raise ModelError(
            "predict_proba gave NaN, or rows that do not sum to 1: training has diverged; lower the learning rate"
        )


def _calibrated(job: TrialJob, estimator: Algorithm, patches: RolePatches, seed: int) -> CalibrationChoice | None:
    if len(patches) == 0:
        return None
    proba = estimator.predict_proba(patches)
    _require_proba(proba, len(patches), len(estimator.classes_))
    codes = np.array([job.classes.index(label) for label in job.labels["calibrate"].tolist()])
    return choose_calibration(codes, _of_classes(job, estimator, proba), job.calibrate_groups, seed=seed)


def _of_classes(job: TrialJob, estimator: Algorithm, proba: NDArray[np.float32]) -> NDArray[np.float32]:
    # In the order of the study. A class that the training part lacks was never learned: its probability is zero.
    known = {str(name): column for column, name in enumerate(estimator.classes_)}
    columns = [proba[:, known[name]] if name in known else np.zeros(len(proba)) for name in job.classes]
    return np.stack(columns, axis=1).astype(np.float32)


def _predictions(
    job: TrialJob, estimator: Algorithm, proba: NDArray[np.float32], chosen: CalibrationChoice | None
) -> pd.DataFrame:
    raw = _of_classes(job, estimator, proba)
    tables = {"proba": raw} if chosen is None else {"proba": chosen.calibration.apply(raw), "uncalibrated": raw}
    columns = {
        f"{what}_{name}": table[:, column] for what, table in tables.items() for column, name in enumerate(job.classes)
    }
    return pd.DataFrame({
        "image_id": job.ids,
        "patient_id": job.groups,
        "label": job.labels["test"],
        **columns,
    })


def _training(log: tuple[EpochRecord, ...]) -> pd.DataFrame:
    first = ["stage", "epoch", "loss", "stop_loss", "stop_auc", "seconds"]
    rows = [{**{name: getattr(record, name) for name in first}, **dict(record.values)} for record in log]
    frame = pd.DataFrame(rows, columns=None if rows else first)
    return frame[[*first, *(name for name in frame.columns if name not in first)]]


def _training_facts(estimator: Algorithm) -> dict[str, Any]:
    """Tell how a network was trained, as its `TrainingLog` says.

    Returns
    -------
    dict
        ``device, bf16, best_epoch``; empty for an algorithm without epochs.
    """
    log = getattr(estimator, "training_", None)
    return {name: getattr(log, name) for name in ("device", "bf16", "best_epoch") if hasattr(log, name)}


def _n_parameters(estimator: Algorithm, size: tuple[int, int]) -> int:
    return sum(row.parameters for row in estimator.describe(size))
