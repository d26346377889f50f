"""The folder of a study: what is done lies there whole, what is not done does not lie there.

::

    DIR/plan.toml                      the plan as it was written, if it came from a file
    DIR/plan.json                      the plan with every default filled in
    DIR/splits.json                    who trains, stops and tests in each repeat
    DIR/study.json                     digests, classes, protocol, findings; the trials of this plan
    DIR/trials/<key>/predictions.parquet, result.json, training.csv
    DIR/failures/<key>.json            why a trial has no result; it is tried again by the next run
    DIR/cache/                         decoded patches and their overlaps; may be deleted

A trial is written under a temporary name, flushed to the disk and renamed, so that a folder that exists is
done. That needs no lock: two runs in one folder do some trials twice, and the first to finish is kept. Which
trials a table shows is said by ``study.json``, the last one written.
"""

import contextlib
import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from sentinode.data.manifest import read_manifest
from sentinode.data.patches import cache_patches
from sentinode.errors import ExportError, PlanError
from sentinode.execution import Failure
from sentinode.storage import abandoned, whole_folder, write_whole

__all__ = ["StudyResult", "StudyStore", "TrialRecord", "read_study", "read_trials"]


@dataclass(frozen=True)
class StudyStore:
    """The folder of a study.

    Parameters
    ----------
    folder : Path
        Made where it is absent, when something is written.
    """

    folder: Path

    def has(self, key: str) -> bool:
        """Tell whether a trial is done.

        Parameters
        ----------
        key : str
            Of the trial.

        Returns
        -------
        bool
            True as soon as all its files are on the disk.
        """
        return self._trial(key).is_dir()

    def write_trial(
        self, key: str, predictions: pd.DataFrame, result: Mapping[str, Any], training: pd.DataFrame
    ) -> None:
        """Write a trial, all of it or nothing.

        Parameters
        ----------
        key : str
            Of the trial.
        predictions : DataFrame
            ``image_id, patient_id, label, proba_<class> ...``; test rows only.
        result : mapping
            What JSON can hold: settings, measurements, environment.
        training : DataFrame
            One row an epoch; may have none.

        Raises
        ------
        ExportError
            If there is no room or no permission; nothing half-written stays.
        """
        # Another run may be first with the same trial: its result stands, ours is dropped.
        with _naming(self.folder), whole_folder(self._trial(key)) as part:
            predictions.to_parquet(part / "predictions.parquet", index=False)
            training.to_csv(part / "training.csv", index=False)
            (part / "result.json").write_text(_json(result), encoding="utf-8")
        self._failure(key).unlink(missing_ok=True)

    def write_failure(self, key: str, failure: Failure, trial: Mapping[str, Any]) -> None:
        """Record why a trial has no result.

        Parameters
        ----------
        key : str
            Of the trial.
        failure : Failure
            What went wrong.
        trial : mapping
            Which trial it was: its name, repeat and settings.

        Raises
        ------
        ExportError
            If there is no room or no permission.
        """
        self.write_json(f"failures/{key}.json", {"trial": dict(trial), **asdict(failure)})

    def write_json(self, name: str, values: Mapping[str, Any]) -> None:
        """Write a JSON file, all of it or nothing.

        Parameters
        ----------
        name : str
            Relative to the folder.
        values : mapping
            What JSON can hold.

        Raises
        ------
        ExportError
            If there is no room or no permission; the earlier file then stays.
        """
        self.write_text(name, _json(values))

    def write_text(self, name: str, text: str) -> None:
        """Write a text file, all of it or nothing.

        Parameters
        ----------
        name : str
            Relative to the folder.
        text : str
            Its content.

        Raises
        ------
        ExportError
            If there is no room or no permission; the earlier file then stays.
        """
        with _naming(self.folder):
            write_whole(self.folder / name, text)

    def read_json(self, name: str) -> dict[str, Any]:
        """Read a JSON file of the study.

        Parameters
        ----------
        name : str
            Relative to the folder.

        Returns
        -------
        dict
            Its content.

        Raises
        ------
        PlanError
            If it is not there or not readable.
        """
        path = self.folder / name
        try:
            return dict(json.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError as error:
            raise PlanError(
                f"{self.folder}: holds no study ({name} is absent); run one with: sentinode study run"
            ) from error
        except (OSError, ValueError) as error:
            raise PlanError(f"{path}: cannot be read ({error}); run the study again") from error

    def clean(self) -> int:
        """Remove what runs that were killed have left half-written.

        What another run is writing at this moment stays: the name says which process it belongs to.

        Returns
        -------
        int
            How many leftovers were removed.

        Raises
        ------
        ExportError
            If there is no permission.
        """
        with _naming(self.folder):
            leftovers = abandoned(self.folder)
            for path in leftovers:
                if path.is_dir():
                    shutil.rmtree(path)
                else:
                    path.unlink()
        return len(leftovers)

    def failures(self) -> dict[str, dict[str, Any]]:
        """Read the recorded failures.

        Returns
        -------
        dict of str to dict
            Key of the trial to ``kind, message, traceback, trial``.

        Raises
        ------
        PlanError
            If a record cannot be read.
        """
        folder = self.folder / "failures"
        # PlanError is read_json's.
        return {path.stem: self.read_json(f"failures/{path.name}") for path in sorted(folder.glob("*.json"))}

    def _trial(self, key: str) -> Path:
        return self.folder / "trials" / key

    def _failure(self, key: str) -> Path:
        return self.folder / "failures" / f"{key}.json"


@dataclass(frozen=True)
class TrialRecord:
    """A finished trial on disk.

    Parameters
    ----------
    key : str
        Digest of everything that the trial depends on.
    name : str
        The algorithm, as the plan calls it.
    repeat : int
        From 0.
    result : dict
        ``result.json``: settings, ``seconds``, ``memory``, patients a role, environment.
    folder : Path
        Where the files lie.
    """

    key: str
    name: str
    repeat: int
    result: dict[str, Any]
    folder: Path

    def predictions(self) -> pd.DataFrame:
        """Read what was predicted for the test images.

        Returns
        -------
        DataFrame
            ``image_id, patient_id, label, proba_<class> ...``.
        """
        return pd.read_parquet(self.folder / "predictions.parquet")

    def training(self) -> pd.DataFrame:
        """Read the training log.

        Returns
        -------
        DataFrame
            ``stage, epoch, loss, stop_loss, stop_auc, seconds`` and what the stages measure beside; no row
            where nothing was trained in epochs.
        """
        return pd.read_csv(self.folder / "training.csv")


@dataclass(frozen=True)
class StudyResult:
    """A study on disk, as far as it has come.

    Parameters
    ----------
    folder : Path
        Of the study.
    plan : dict
        ``plan.json``: the plan with every default filled in.
    study : dict
        ``study.json``: digests, classes, protocol, findings.
    trials : tuple of TrialRecord
        The finished ones, in the order of the repeats.
    failures : tuple of dict
        ``name, repeat, kind, message, traceback`` of the failed ones.
    """

    folder: Path
    plan: dict[str, Any]
    study: dict[str, Any]
    trials: tuple[TrialRecord, ...]
    failures: tuple[dict[str, Any], ...]

    @property
    def algorithms(self) -> tuple[str, ...]:
        """The names of the plan, in the order of the table."""
        return tuple(self.plan["algorithms"])

    @property
    def n_trials(self) -> int:
        """How many trials the plan asks for."""
        return len(self.study["trials"])

    def patches(self) -> "tuple[np.memmap[Any, Any], dict[str, int]]":
        """Open the patches of the study, to show some of them.

        Returns
        -------
        pixels : (n, h, w, 3) uint8
            From the cache of the study; decoded again if it was deleted.
        places : dict of str to int
            Image id to its position in ``pixels``.

        Raises
        ------
        ManifestError
            If the cache was deleted and the images are not where they were.
        ExportError
            If the cache cannot be written.
        """
        # Both are those of the calls.
        cache = self.folder / "cache"
        ids, array = cache / f"{self.study['pixels']}-ids.parquet", cache / f"{self.study['pixels']}.npy"
        if ids.exists() and array.exists():
            names = pd.read_parquet(ids)["image_id"]
            pixels = np.load(array, mmap_mode="r", allow_pickle=False)
        else:
            manifest = read_manifest(self.plan["manifest"])
            names, pixels = manifest.frame["image_id"], cache_patches(manifest, cache)
        return pixels, {str(name): place for place, name in enumerate(names)}


def read_study(folder: Path | str) -> StudyResult:
    """Read a study from its folder; trials of earlier plans in the same folder are passed over.

    Parameters
    ----------
    folder : Path or str
        What was given as ``--out``.

    Returns
    -------
    StudyResult
        As far as it has come.

    Raises
    ------
    PlanError
        If there is no study there, or a file of it cannot be read.
    """
    store = StudyStore(Path(folder))
    plan, study, failed = store.read_json("plan.json"), store.read_json("study.json"), store.failures()
    trials, failures = [], []
    for trial in study["trials"]:
        key, name, repeat = trial["key"], trial["name"], trial["repeat"]
        if store.has(key):
            where = store.folder / "trials" / key
            trials.append(TrialRecord(key, name, repeat, store.read_json(f"trials/{key}/result.json"), where))
        elif key in failed:
            failures.append({**failed[key], "name": name, "repeat": repeat})
    return StudyResult(store.folder, plan, study, tuple(trials), tuple(failures))


def read_trials(folder: Path | str) -> tuple[TrialRecord, ...]:
    """Read the finished trials of a study.

    Parameters
    ----------
    folder : Path or str
        What was given as ``--out``.

    Returns
    -------
    tuple of TrialRecord
        In the order of the repeats.

    Raises
    ------
    PlanError
        If there is no study there.
    """
    # PlanError is read_study's.
    return read_study(folder).trials


def _json(values: Mapping[str, Any]) -> str:
    return json.dumps(values, indent=2, ensure_ascii=False) + "\n"


@contextlib.contextmanager
def _naming(folder: Path) -> Iterator[None]:
    """Turn an error of the system into a line that says what to do.

    Yields
    ------
    None

    Raises
    ------
    ExportError
        In place of an OSError.
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise ExportError(
            f"{error.filename or folder}: cannot be written ({reason}); make room or give a folder of yours, "
            "then run again: what is finished is kept"
        ) from error
