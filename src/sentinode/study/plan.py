"""The plan of a study: what is compared with what, on which images, how often; one TOML file.

Every fault of the file is found before anything is trained, and all of them are told at once. Nothing here
imports torch.
"""

import difflib
import hashlib
import json
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeGuard

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from sentinode.algorithms.registry import (
    ALGORITHMS,
    HEADS,
    AlgorithmSpec,
    algorithm_settings,
    build_algorithm,
)
from sentinode.data.manifest import Manifest, read_manifest
from sentinode.data.overlaps import Overlaps
from sentinode.data.patches import PatchSource
from sentinode.data.splits import Protocol, make_splits, read_splits
from sentinode.errors import LeakageError, ManifestError, MissingExtra, ModelError, PlanError
from sentinode.models.encoder import read_encoder

__all__ = ["Curve", "Entry", "Plan", "Search", "parse_plan", "read_plan"]

REFERENCE = "paper-cnn"
# Keys that say how splits are drawn; a file of frozen splits has said so already.
DRAWING = ("protocol", "test", "stop", "calibrate", "unknown")
# Keys that change nothing in the numbers, or that have a digest of their own (data, splits).
NOT_IN_DIGEST = {"manifest", "splits", "encoder", "on", "workers", "curve"}

# What messages call the kinds of Python, and the file's own names for them.
_IN_TOML = {"tuple": "list", "valid dictionary": "table", "Path": "path"}

Whole = Annotated[int, Field(strict=True)]
Share = Annotated[float, Field(strict=True, ge=0, lt=1, allow_inf_nan=False)]
_STRICT = ConfigDict(extra="forbid", frozen=True, validate_default=True)


class Search(BaseModel):
    """The tuning budget: the same number of candidate settings for every algorithm.

    Parameters
    ----------
    candidates : int, default 1
        How many settings are tried: the plan's own first, then draws from the algorithm's ``SEARCH_SPACE``.
        1 tries nothing and takes the plan's own.
    epochs : int, optional
        A candidate is trained for at most so many epochs, in every stage that an algorithm has (settings
        ``epochs`` and ``..._epochs``). The chosen one is then trained in full.
    """

    model_config = _STRICT

    candidates: Annotated[Whole, Field(ge=1, le=1000)] = 1
    epochs: Annotated[Whole, Field(ge=1)] | None = None


class Curve(BaseModel):
    """What a learning curve is measured at; a study itself passes it over.

    Parameters
    ----------
    points : int, default 5
        Sizes on each curve, where they are not given: from the smallest that holds every class to all that there is,
        each the same factor larger than the one before.
    patients, patches : tuple of int, optional
        Sizes of the training part, rising; an empty list draws no such curve.
    """

    model_config = _STRICT

    points: Annotated[Whole, Field(ge=3, le=20)] = 5
    patients: tuple[Annotated[Whole, Field(ge=1)], ...] | None = None
    patches: tuple[Annotated[Whole, Field(ge=2)], ...] | None = None

    @model_validator(mode="after")
    def _require_rising(self) -> "Curve":
        for sizes in (self.patients or (), self.patches or ()):
            if list(sizes) != sorted(set(sizes)) or 0 < len(sizes) < 3:
                raise ValueError("sizes must be three or more, each larger than the one before")
        return self


@dataclass(frozen=True)
class Entry:
    """One line of the table to come.

    Parameters
    ----------
    name : str
        As the plan calls it; the same algorithm with other settings may have a name of its own.
    spec : AlgorithmSpec
        The registered algorithm, and what the plan sets.
    """

    name: str
    spec: AlgorithmSpec


class Plan(BaseModel):
    """A study, checked for what can be told without looking at the images.

    Make one with `read_plan` or `parse_plan`, which tell all faults in a `PlanError`.

    Parameters
    ----------
    manifest : Path
        The table of images.
    algorithms : tuple of str
        What is compared, in the order of the table: registered names, or names of ``[algorithm.NAME]``
        tables that say which algorithm they mean.
    repeats : int
        How often patients are split and everything is trained anew.
    seed : int
        All randomness comes from it.
    protocol : {"patients", "random"}
        ``"random"`` splits images, as the founding experiment did, and flatters.
    test, stop, calibrate : float
        Shares of the patients that test, that decide when training stops, and that the probabilities are calibrated
        on (0: they stay as they are).
    unknown : {"leave-out", "train"}
        What becomes of images whose patient is unknown.
    splits : Path, optional
        A file of frozen splits to use in place of drawing.
    encoder : Path, optional
        A TOML file that states a local encoder (`sentinode.models.encoder`): the algorithms are heads on its features.
    reference : str
        What the others are compared with: ``paper-cnn`` where it is listed, else the first.
    alpha : float
        Level of the tests; intervals have 1 - alpha.
    rope : float
        Half width of the region of practical equivalence, in units of the metric.
    search : Search
        The tuning budget.
    curve : Curve
        The sizes of a learning curve.
    on : {"processes", "serial"}
        Where trials run.
    workers : int
        Trials at once. More than one, and their seconds disturb one another.
    threads : int, optional
        Of one trial; the processor's cores shared by the workers where it is left out.
    algorithm : mapping of str to mapping
        Settings by name.
    """

    model_config = _STRICT

    manifest: Path
    algorithms: Annotated[tuple[str, ...], Field(min_length=1)]
    repeats: Annotated[Whole, Field(ge=1, le=1000)] = 10
    seed: Whole = 1
    protocol: Literal["patients", "random"] = "patients"
    test: Annotated[Share, Field(gt=0)] = 0.25
    stop: Share = 0.15
    calibrate: Share = 0.0
    unknown: Literal["leave-out", "train"] = "leave-out"
    splits: Path | None = None
    encoder: Path | None = None
    reference: str
    alpha: Annotated[Share, Field(gt=0)] = 0.05
    rope: Share = 0.01
    search: Search = Search()
    curve: Curve = Curve()
    on: Literal["processes", "serial"] = "processes"
    workers: Annotated[Whole, Field(ge=1)] = 1
    threads: Annotated[Whole, Field(ge=1)] | None = None
    algorithm: dict[str, dict[str, Any]] = {}

    @model_validator(mode="before")
    @classmethod
    def _choose_reference(cls, values: Any) -> Any:  # noqa: ANN401 - whatever the file holds
        if not isinstance(values, dict) or "reference" in values:
            return values
        names = values.get("algorithms")
        listed = names if isinstance(names, list | tuple) and names else [REFERENCE]
        return {**values, "reference": REFERENCE if REFERENCE in listed else listed[0]}

    @property
    def entries(self) -> tuple[Entry, ...]:
        """The algorithms with their settings, in the order of the table."""
        return tuple(Entry(name, spec) for name, spec in _entries(self.model_dump()).items())

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of what the numbers depend on; images and splits have digests of their own."""
        values = self.model_dump(mode="json", exclude=NOT_IN_DIGEST)
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def read_plan(path: Path | str) -> Plan:
    """Read the plan of a study, and refuse it if anything in it cannot be.

    Parameters
    ----------
    path : Path or str
        A TOML file. The paths in it start at its folder.

    Returns
    -------
    Plan
        With absolute paths.

    Raises
    ------
    PlanError
        With a line for every fault: an unknown key, algorithm or setting (and the nearest known one), a value
        of the wrong kind, a file that is not there, shares that leave nobody to train on.
    """
    path = Path(path)
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except tomllib.TOMLDecodeError as error:
        raise PlanError(f"{path}: is not TOML: {error}") from error
    except UnicodeDecodeError as error:
        raise PlanError(f"{path}: is not text in UTF-8; save it as UTF-8") from error
    except OSError as error:
        raise PlanError(f"{path}: cannot be read ({error.strerror}); give the path of a study.toml") from error
    return parse_plan(values, folder=path.parent, name=str(path))


def parse_plan(values: Mapping[str, Any], folder: Path, name: str = "the plan") -> Plan:
    """Make a plan from keys and values, as they would stand in the file.

    Parameters
    ----------
    values : mapping
        The keys of `Plan`.
    folder : Path
        Where relative paths start.
    name : str
        What messages call the plan.

    Returns
    -------
    Plan
        With absolute paths.

    Raises
    ------
    PlanError
        With a line for every fault.

    Examples
    --------
    >>> parse_plan({"manifest": "no.csv", "algorithms": ["dbm"], "repeat": 3}, Path("/nowhere"))
    Traceback (most recent call last):
    sentinode.errors.PlanError: the plan has 3 faults:
      unknown key 'repeat'; did you mean 'repeats'?
      manifest: there is no file /nowhere/no.csv
      algorithms: there is no 'dbm'; did you mean 'dbn'?
    """
    located = {**values}
    for key in ("manifest", "splits", "encoder"):
        if isinstance(located.get(key), str | Path):
            located[key] = (folder / located[key]).absolute()
    checks = (_key_faults, _file_faults, _name_faults, _share_faults, _setting_faults, _data_faults)
    faults = [fault for check in checks for fault in check(located)]
    if faults:
        raise PlanError(_listed(name, faults))
    return Plan.model_validate(located)


def _key_faults(values: Mapping[str, Any]) -> list[str]:
    # Unknown and missing keys, values of the wrong kind.
    try:
        Plan.model_validate(values)
    except ValidationError as error:
        # reference is ours where it is not in the file; the fault is that of `algorithms`.
        found = [fault for fault in error.errors() if fault["loc"] != ("reference",) or "reference" in values]
        return [_in_words(fault["loc"], fault["type"], fault["msg"], fault["input"]) for fault in found]
    return []


def _in_words(where: tuple[str | int, ...], kind: str, message: str, value: object) -> str:
    key = ".".join(str(part) for part in where)
    if kind == "extra_forbidden":
        tables = {"search": Search.model_fields, "curve": Curve.model_fields}
        known = tables.get(str(where[0]), Plan.model_fields)
        return f"unknown key '{key}'{_nearest(str(where[-1]), known)}"
    if kind == "missing":
        return f"'{key}' is missing"
    what = message[0].lower() + message[1:]
    for ours, theirs in _IN_TOML.items():
        what = what.replace(ours, theirs)
    return f"{key} = {_shortly(value)}: {what}"


def _shortly(value: object) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _file_faults(values: Mapping[str, Any]) -> list[str]:
    return [
        f"{key}: there is no file {values[key]}"
        for key in ("manifest", "splits", "encoder")
        if isinstance(values.get(key), Path) and not values[key].is_file()
    ]


def _entries(values: Mapping[str, Any]) -> dict[str, AlgorithmSpec]:
    """Read off who takes part, as far as the values make sense.

    Returns
    -------
    dict of str to AlgorithmSpec
        By name; the algorithm may not exist.
    """
    names, tables = values.get("algorithms"), values.get("algorithm")
    entries = {}
    for name in names if isinstance(names, list | tuple) else ():
        if isinstance(name, str):
            table = tables.get(name) if isinstance(tables, dict) else None
            settings = dict(table) if isinstance(table, dict) else {}
            entries[name] = AlgorithmSpec(str(settings.pop("algorithm", name)), settings)
    return entries


def _name_faults(values: Mapping[str, Any]) -> list[str]:
    entries, tables, reference = _entries(values), values.get("algorithm"), values.get("reference")
    if not entries:
        return []
    listed = [name for name in values["algorithms"] if isinstance(name, str)]
    faults = [f"algorithms: '{name}' is listed twice" for name in entries if listed.count(name) > 1]
    for name, spec in entries.items():
        if spec.name not in ALGORITHMS:
            where = "algorithms" if spec.name == name else f"[algorithm.{name}] algorithm"
            faults.append(f"{where}: there is no '{spec.name}'{_nearest(spec.name, ALGORITHMS)}")
    unlisted = [name for name in (tables if isinstance(tables, dict) else ()) if name not in entries]
    faults += [f"[algorithm.{name}] is not listed in algorithms{_nearest(name, entries)}" for name in unlisted]
    if isinstance(reference, str) and reference not in entries:
        faults.append(f"reference: '{reference}' is not listed in algorithms{_nearest(reference, entries)}")
    return faults


def _share_faults(values: Mapping[str, Any]) -> list[str]:
    if values.get("splits") is not None:
        return [
            f"{key}: the file of splits has settled it; leave out '{key}' or 'splits'"
            for key in DRAWING
            if key in values
        ]
    shares = {key: values.get(key, Plan.model_fields[key].default) for key in ("test", "stop", "calibrate")}
    taken = {key: share for key, share in shares.items() if _is_share(share) and (share or key != "calibrate")}
    faults, stop = [], shares["stop"]
    if sum(taken.values()) >= 1:
        told = ", ".join(f"{key} = {share}" for key, share in taken.items())
        faults.append(f"{told} leave nobody to train on; make them smaller")
    search = values.get("search")
    candidates = search.get("candidates", 1) if isinstance(search, dict) else 1
    if stop == 0 and isinstance(candidates, int) and candidates > 1:
        faults.append("stop = 0: candidates are chosen on the stop part; give it a share, e.g. 0.15")
    return faults


def _is_share(value: object) -> TypeGuard[float]:
    return isinstance(value, float | int) and 0 <= value < 1


def _setting_faults(values: Mapping[str, Any]) -> list[str]:
    faults = []
    for name, spec in _entries(values).items():
        known = _known_settings(spec.name)
        for setting in spec.settings if known is not None else ():
            if setting == "seed":
                faults.append(f"[algorithm.{name}] sets 'seed'; set the seed of the whole study instead")
            elif known is not None and setting not in known:
                hint = _nearest(setting, [*known, "algorithm"])
                faults.append(f"[algorithm.{name}] has no setting '{setting}'{hint}")
    return faults


def _known_settings(algorithm: str) -> Mapping[str, object] | None:
    """Look up what can be set.

    Returns
    -------
    mapping or None
        None where it cannot be told: an unknown algorithm, or one whose extra is not installed (running the
        study asks for that one).
    """
    if algorithm not in ALGORITHMS:
        return None
    try:
        return algorithm_settings(algorithm)
    except MissingExtra:
        return None


def _data_faults(values: Mapping[str, Any]) -> list[str]:
    """Look at the images, where there are any: can they be split so, can the networks take them.

    Returns
    -------
    list of str
        Empty where the manifest is not there, which is another fault.
    """
    if not (isinstance(values.get("manifest"), Path) and values["manifest"].is_file()):
        return []
    try:
        manifest = read_manifest(values["manifest"])
        source = PatchSource(manifest)
        kind = _feature_faults(values, manifest, source)
    except ManifestError as error:
        return [f"manifest: {error}"]
    return [*_split_faults(values, manifest), *(kind or _network_faults(values, source.shape))]


def _feature_faults(values: Mapping[str, Any], manifest: Manifest, source: PatchSource) -> list[str]:
    encoder = values.get("encoder")
    if encoder is None:
        return _image_faults(values, "the manifest has features") if source.has_features else []
    if source.has_features:
        return ["encoder: the manifest has features already; leave it out"]
    faults = _image_faults(values, "an encoder is asked for")
    if isinstance(encoder, Path) and encoder.is_file():
        try:
            read_encoder(encoder)
        except PlanError as error:
            faults.append(f"encoder: {error}")
    if manifest.frame["mpp"].isna().any():
        faults.append("encoder: images without mpp cannot be brought to its own; import them with --mpp")
    return faults


def _image_faults(values: Mapping[str, Any], why: str) -> list[str]:
    # Recipes that look at images cannot take features.
    return [
        f"algorithms: '{name}' looks at images, and {why}; take {', '.join(HEADS)}"
        for name, spec in _entries(values).items()
        if spec.name in ALGORITHMS and spec.name not in HEADS
    ]


def _split_faults(values: Mapping[str, Any], manifest: Manifest) -> list[str]:
    if values.get("splits") is not None:
        return _frozen_faults(values, manifest)
    drawn = {key: values.get(key, Plan.model_fields[key].default) for key in (*DRAWING, "repeats", "seed")}
    try:
        protocol = Protocol(**drawn | {"name": drawn.pop("protocol")})
    except (PlanError, TypeError):
        return []  # values that cannot be have been named
    try:
        # Whether the images overlap is a long search; without it the groups are at least as small.
        make_splits(manifest, protocol, Overlaps.none())
    except (PlanError, ManifestError) as error:
        return [str(error)]
    except (TypeError, ValueError):
        return []  # as above: a seed that is no number
    return []


def _frozen_faults(values: Mapping[str, Any], manifest: Manifest) -> list[str]:
    path, repeats = values["splits"], values.get("repeats", Plan.model_fields["repeats"].default)
    if not (isinstance(path, Path) and path.is_file()):
        return []  # another fault
    try:
        _, splits = read_splits(path, manifest)
    except (PlanError, ManifestError, LeakageError) as error:
        return [f"splits: {error}"]
    if isinstance(repeats, int) and repeats > len(splits):
        return [f"repeats = {repeats}: {path} holds {len(splits)} splits; set repeats to {len(splits)} or less"]
    return []


def _network_faults(values: Mapping[str, Any], size: tuple[int, int]) -> list[str]:
    faults = []
    for name, spec in _entries(values).items():
        known = _known_settings(spec.name)
        if known is not None and set(spec.settings) <= set(known) - {"seed"}:
            try:
                build_algorithm(spec, seed=1).describe(size)
            except (PlanError, ModelError) as error:
                what = str(error).removeprefix(f"[algorithm.{spec.name}] ")
                faults.append(f"[algorithm.{name}] {what}")
            except MissingExtra:
                continue
    return faults


def _nearest(word: str, known: Iterable[str]) -> str:
    names = list(known)
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.6)
    return f"; did you mean '{close[0]}'?" if close else f"; known are: {', '.join(names)}"


def _listed(name: str, faults: list[str]) -> str:
    if len(faults) == 1:
        return f"{name}: {faults[0]}"
    return "\n  ".join([f"{name} has {len(faults)} faults:", *faults])
