"""Who may see what: patients drawn into train, stop, calibrate, certify and test, again and again.

The unit is the patient (the slide, where that is all one knows); patients whose images show the same tissue
are one unit. Splits are drawn by rerandomisation (Morgan and Rubin 2012, "Rerandomization to improve
covariate balance in experiments", Annals of Statistics 40(2), section 2): many at random, and one of the
balanced ones is taken.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sentinode.data.manifest import Manifest
from sentinode.data.overlaps import Overlaps, connected
from sentinode.errors import ExportError, LeakageError, ManifestError, PlanError
from sentinode.seeds import stream
from sentinode.storage import write_whole

__all__ = ["ROLES", "Protocol", "Split", "make_splits", "read_splits", "with_fewer_to_train_on", "write_splits"]

ROLES = ("train", "stop", "calibrate", "certify", "test")
"""Train: weights. Stop: early stopping. Calibrate: thresholds. Certify: the promise. Test: opened once."""

_DRAWN = (
    "test",
    "certify",
    "calibrate",
    "stop",
)  # in the order in which they are filled; train is what remains
_CANDIDATES = 4000  # assignments drawn for one split
_ENTRIES = 4_000_000  # bound on candidates x units, so that thousands of patients fit into memory
_BALANCED = 0.02  # share of the possible candidates that counts as balanced
_JITTER = (
    1.5,
    3.0,
    6.0,
    float("inf"),
)  # tests by which one patient may fall behind; widened where nothing else can be
_FORMAT = "sentinode-splits-1"


@dataclass(frozen=True)
class Protocol:
    """How a study splits its images.

    Parameters
    ----------
    name : str
        ``"patients"``: patients are drawn. ``"random"``: images are drawn, whoever they belong to, as the
        founding experiment did; images of one patient then lie on both sides and the numbers flatter.
    repeats : int
        Number of splits.
    seed : int
        Seed of all draws.
    test, stop, calibrate, certify : float
        Shares of the patients (of the images for ``"random"``); what remains is train. A part of share 0 is
        empty.
    unknown : str
        ``"leave-out"``: images of unknown patient have no role. ``"train"``: they go to train, after
        everything that shows tissue of another part was dropped; leakage can then not be excluded.

    Raises
    ------
    PlanError
        If a value cannot be; one line for each fault.

    Examples
    --------
    >>> Protocol(test=0.2).stop
    0.15
    """

    name: str = "patients"
    repeats: int = 10
    seed: int = 1
    test: float = 0.25
    stop: float = 0.15
    calibrate: float = 0.0
    certify: float = 0.0
    unknown: str = "leave-out"

    def __post_init__(self) -> None:
        faults = [
            f"{key} = {value!r} is not possible; write {expected}"
            for key, value, expected, fine in (
                ("protocol", self.name, '"patients" or "random"', self.name in {"patients", "random"}),
                ("repeats", self.repeats, "a whole number of at least 1", _is_count(self.repeats)),
                ("unknown", self.unknown, '"leave-out" or "train"', self.unknown in {"leave-out", "train"}),
                *(
                    (part, self.share(part), "a share from 0 to below 1", _is_share(self.share(part)))
                    for part in _DRAWN
                ),
            )
            if not fine
        ]
        if not faults and self.test == 0:
            faults.append("test = 0 leaves nothing to measure on; write a share above 0")
        if not faults and self.train <= 1e-9:
            faults.append(f"test, stop, calibrate and certify take {1 - self.train:.2f}: nothing is left to train on")
        if faults:
            raise PlanError("\n".join(faults))

    @property
    def train(self) -> float:
        """Share of the patients that remains to train on."""
        return 1.0 - (self.test + self.stop + self.calibrate + self.certify)

    def share(self, role: str) -> float:
        """Look up the share of the patients that has a role.

        Parameters
        ----------
        role : str
            One of ``ROLES``.

        Returns
        -------
        float
            From 0 to 1.
        """
        return float(getattr(self, role))

    @property
    def parts(self) -> tuple[str, ...]:
        """The roles that are not empty."""
        return tuple(role for role in ROLES if self.share(role) > 0)


@dataclass(frozen=True, eq=False)
class Split:
    """One draw: the positions of the images of each role in the manifest's frame.

    Parameters
    ----------
    repeat : int
        Number of the draw, from 0.
    train, stop, calibrate, certify, test : (n,) int64
        Positions, sorted, disjoint; empty where the protocol has no such part.
    digest : str
        SHA-256 over the image ids of each role, whatever the order of the rows; left out, it is taken over
        the positions.
    """

    repeat: int
    train: NDArray[np.int64]
    stop: NDArray[np.int64]
    calibrate: NDArray[np.int64]
    certify: NDArray[np.int64]
    test: NDArray[np.int64]
    digest: str = field(default="")

    def __post_init__(self) -> None:
        for role in ROLES:
            positions = np.sort(np.asarray(getattr(self, role), dtype=np.int64))
            positions.setflags(write=False)
            object.__setattr__(self, role, positions)
        if not self.digest:
            positions_of = {role: [str(position) for position in self.role(role)] for role in ROLES}
            object.__setattr__(self, "digest", _digest(positions_of))

    def role(self, name: str) -> NDArray[np.int64]:
        """Positions of the images that have a role.

        Parameters
        ----------
        name : str
            One of ``ROLES``.

        Returns
        -------
        (n,) int64
            Sorted.

        Raises
        ------
        ValueError
            If there is no such role.
        """
        if name not in ROLES:
            raise ValueError(f"there is no role {name!r}; there are {', '.join(ROLES)}")
        positions: NDArray[np.int64] = getattr(self, name)
        return positions

    def n_patients(self, manifest: Manifest, role: str) -> int:
        """Count the patients of a role: slides, where that is all one knows; images of nobody do not count.

        Parameters
        ----------
        manifest : Manifest
            The one that the split was made for.
        role : str
            One of ``ROLES``.

        Returns
        -------
        int
            Their number.
        """
        groups = manifest.groups[self.role(role)]
        return len(np.unique(groups[groups != ""]))


def with_fewer_to_train_on(manifest: Manifest, split: Split, train: NDArray[np.int64]) -> Split:
    """Take images out of the train part of a split; nobody gets another role.

    Parameters
    ----------
    manifest : Manifest
        The one that the split was made for.
    split : Split
        The whole one.
    train : (n,) int64
        Positions that stay in train; all are among those of the split.

    Returns
    -------
    Split
        With a digest of its own, over the image ids; the whole train part gives the split's own digest.

    Raises
    ------
    ValueError
        If an image is not in the train part.
    """
    if not np.isin(train, split.train).all():
        raise ValueError("images that are not in the train part cannot stay there")
    role = np.full(len(manifest), -1)
    for code, part in enumerate(ROLES):
        role[split.role(part)] = code
    role[split.train] = -1
    role[train] = ROLES.index("train")
    return _split(manifest, split.repeat, role)


def make_splits(manifest: Manifest, protocol: Protocol, overlaps: Overlaps) -> tuple[Split, ...]:
    """Draw the splits of a study.

    For ``"patients"``: of several thousand assignments drawn at random those are kept in which every part has
    every class; of these the most balanced 2 %, and one of them at random. Balance is how far each part's
    share of the images of each class is from its share of the patients. A patient that was tested less often
    comes into test first, so that over the repeats all are tested about equally often. For ``"random"``:
    images at random within each class.

    Parameters
    ----------
    manifest : Manifest
        The images.
    protocol : Protocol
        Shares, repeats, seed.
    overlaps : Overlaps
        Images that show the same tissue, from ``sentinode.data.overlaps.find_overlaps``.

    Returns
    -------
    tuple of Split
        One a repeat. The same images give the same splits, whatever the order of their rows.

    Raises
    ------
    PlanError
        If the shares cannot be had: too few patients, or a class that too few of them have.

    Examples
    --------
    >>> import pandas as pd
    >>> from sentinode.data.manifest import make_manifest
    >>> frame = pd.DataFrame([
    ...     {"path": f"{patient}-{label}-{i}.png", "label": label, "patient_id": patient}
    ...     for patient in "abcdefgh" for label in ("normal", "tumour") for i in range(3)
    ... ])
    >>> split = make_splits(make_manifest(frame), Protocol(repeats=1), Overlaps.none())[0]
    >>> len(split.train), len(split.stop), len(split.test)
    (30, 6, 12)
    """
    components = overlaps.components(len(manifest))
    known = np.flatnonzero(manifest.groups != "")
    if len(known) == 0:
        raise PlanError("no image has a patient or a slide, and nobody can be tested; add patient_id to the manifest")
    draw = _draw_images if protocol.name == "random" else _draw_patients
    splits = []
    for repeat, role in enumerate(draw(manifest, protocol, known, components)):
        if protocol.unknown == "train":
            role[_harmless(role, manifest, components)] = ROLES.index("train")
        splits.append(_split(manifest, repeat, role))
    return tuple(splits)


def write_splits(path: Path | str, manifest: Manifest, protocol: Protocol, splits: tuple[Split, ...]) -> None:
    """Write splits as JSON: the patients of each role (images for ``"random"``), protocol and digests.

    Parameters
    ----------
    path : Path or str
        File to write; it appears whole or not at all.
    manifest : Manifest
        The one that the splits were made for.
    protocol : Protocol
        How they were drawn.
    splits : tuple of Split
        Them.

    Raises
    ------
    ExportError
        If the file cannot be written.
    """
    path = Path(path)
    content = {
        "format": _FORMAT,
        "images": _images_digest(manifest),
        "protocol": asdict(protocol),
        "splits": [
            {"repeat": split.repeat, "digest": split.digest, **_names_of(manifest, protocol, split)} for split in splits
        ],
    }
    try:
        write_whole(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    except OSError as error:
        raise ExportError(f"{path}: cannot be written ({error.strerror or error}); choose another --out") from error


def read_splits(path: Path | str, manifest: Manifest) -> tuple[Protocol, tuple[Split, ...]]:
    """Read splits back and check that they still are what was drawn, for the images that they were drawn for.

    Parameters
    ----------
    path : Path or str
        Written by ``write_splits``.
    manifest : Manifest
        The same images; the order of the rows and what is no id, patient or label may differ.

    Returns
    -------
    tuple[Protocol, tuple[Split, ...]]
        How they were drawn, and the splits in positions of this manifest.

    Raises
    ------
    ManifestError
        If the file cannot be read, was changed by hand, or was made for other images.
    LeakageError
        If somebody has two roles in one split.
    """
    path = Path(path)
    content = _read_json(path)
    if content["images"] != _images_digest(manifest):
        raise ManifestError(
            f"{path}: was made for other images, patients or labels than these {len(manifest)}; "
            "use the manifest that it was made for, or draw the splits anew"
        )
    try:
        protocol = Protocol(**content["protocol"])
        splits = tuple(_split_of(manifest, protocol, entry, path) for entry in content["splits"])
    except (PlanError, TypeError, KeyError, AttributeError) as error:
        raise ManifestError(f"{path}: is not a file of splits as it was written ({error}); draw them anew") from error
    return protocol, splits


# --- drawing ------------------------------------------------------------------------------------------------


def _draw_patients(
    manifest: Manifest, protocol: Protocol, known: NDArray[np.int64], components: NDArray[np.int64]
) -> Iterator[NDArray[np.int64]]:
    # Role of each image (n,) for each repeat: its index in `ROLES`, or -1.
    unit, patients = _units(manifest, known, components)
    counts = np.zeros((len(patients), len(manifest.classes)))  # (units, classes)
    np.add.at(counts, (unit, manifest.codes[known]), 1)
    wanted = _wanted(protocol, int(patients.sum()))
    _check_possible(manifest, protocol, counts)
    tested = np.zeros(len(patients))
    for repeat in range(protocol.repeats):
        assigned = _draw_units(counts, patients, wanted, tested, protocol, repeat)  # (units,)
        tested += assigned == ROLES.index("test")
        role = np.full(len(manifest), -1)
        role[known] = assigned[unit]
        yield role


def _units(
    manifest: Manifest, known: NDArray[np.int64], components: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    # Unit of each known image (m,), and number of patients of each unit (u,); units sorted by their first
    # patient.
    names, patient = np.unique(manifest.groups[known], return_inverse=True)
    # Patients are joined through every image, those of unknown patient too: a - ? - b is one piece of tissue.
    joined = connected(patient, len(names) + components[known], len(names) + len(components))[: len(names)]
    return joined[patient], np.bincount(joined)


def _wanted(protocol: Protocol, n_patients: int) -> dict[str, int]:
    # Patients of each part: its share of them, rounded half up, at least one.
    wanted = {
        role: max(1, int(np.floor(protocol.share(role) * n_patients + 0.5)))
        for role in protocol.parts
        if role != "train"
    }
    wanted["train"] = n_patients - sum(wanted.values())
    if wanted["train"] < 1:
        asked = ", ".join(f"{role} = {protocol.share(role):g}" for role in wanted if role != "train")
        raise PlanError(
            f"{asked}: {_so_many(n_patients)} cannot fill train and each part; "
            "ask for fewer or smaller parts, or bring more patients"
        )
    return wanted


def _check_possible(manifest: Manifest, protocol: Protocol, counts: NDArray[np.float64]) -> None:
    parts = protocol.parts
    for code, name in enumerate(manifest.classes):
        having = int((counts[:, code] > 0).sum())
        if having < len(parts):
            raise PlanError(
                f"class {name!r} has images of {_so_many(having)} (those who share tissue count once), and "
                f"{', '.join(parts)} need one each; set a share to 0, or bring more patients"
            )


def _draw_units(
    counts: NDArray[np.float64],
    patients: NDArray[np.int64],
    wanted: Mapping[str, int],
    tested: NDArray[np.float64],
    protocol: Protocol,
    repeat: int,
) -> NDArray[np.int64]:
    # Role of each unit (u,), as its index in `ROLES`.
    rng = stream(protocol.seed, "split", repeat)
    for jitter in _JITTER:
        candidates = _candidates(patients, wanted, tested, jitter, rng)  # (c, u)
        distance = _distance(candidates, counts, patients, wanted)  # (c,)
        possible = np.flatnonzero(np.isfinite(distance))
        if len(possible):
            order = possible[np.argsort(distance[possible], kind="stable")]
            best = order[: max(1, int(np.ceil(_BALANCED * len(order))))]
            drawn: NDArray[np.int64] = candidates[rng.choice(best)]
            return drawn
    shares = ", ".join(f"{role} = {protocol.share(role):g}" for role in wanted if role != "train")
    raise PlanError(
        f"{shares}: no draw of {_so_many(len(patients))} (those who share tissue count once) gives every "
        "part every class; ask for larger or fewer parts, or bring more patients"
    )


def _candidates(
    patients: NDArray[np.int64],
    wanted: Mapping[str, int],
    tested: NDArray[np.float64],
    jitter: float,
    rng: np.random.Generator,
) -> NDArray[np.int64]:
    # Assignments (c, u) at random; a unit goes where the middle of its patients falls in the order drawn.
    n_units = len(patients)
    shape = (max(200, min(_CANDIDATES, _ENTRIES // n_units)), n_units)
    lateness = rng.random(shape)
    if np.isfinite(jitter):
        lateness = tested + jitter * lateness
    in_test = _middles(np.argsort(lateness, axis=1), patients) < wanted["test"]
    # The others are ordered afresh: who was tested last is not to be the one who stops.
    order = np.argsort(np.where(in_test, -1.0, rng.random(shape)), axis=1, kind="stable")
    middle = _middles(order, patients)
    assigned = np.full(shape, ROLES.index("train"))
    bound = (in_test * patients).sum(axis=1, keepdims=True).astype(np.float64)
    free = ~in_test
    for role in _DRAWN[1:]:
        bound = bound + wanted.get(role, 0)
        chosen = free & (middle < bound)
        assigned[chosen] = ROLES.index(role)
        free &= ~chosen
    assigned[in_test] = ROLES.index("test")
    return assigned


def _middles(order: NDArray[np.int64], patients: NDArray[np.int64]) -> NDArray[np.float64]:
    # Of each unit (c, u) the number of patients before its middle, when units stand in an order (c, u).
    sizes = patients[order]
    middles = np.empty(order.shape)
    np.put_along_axis(middles, order, sizes.cumsum(axis=1) - sizes / 2, axis=1)
    return middles


def _distance(
    candidates: NDArray[np.int64],
    counts: NDArray[np.float64],
    patients: NDArray[np.int64],
    wanted: Mapping[str, int],
) -> NDArray[np.float64]:
    # How far each candidate is from balance (c,); infinite where a part lacks a class. Sum over parts p and
    # classes k of `(n_pk / n_k - s_p)^2 / s_p` with `s_p` the part's share of the patients: one number for
    # class shares and sizes, relative to what is expected as in a chi-squared distance.
    distance = np.zeros(len(candidates))
    for role, n_wanted in wanted.items():
        in_part = (candidates == ROLES.index(role)).astype(np.float64) @ counts  # (c, classes)
        share = n_wanted / patients.sum()
        distance += ((in_part / counts.sum(axis=0) - share) ** 2).sum(axis=1) / share
        distance[(in_part == 0).any(axis=1)] = np.inf
    return distance


def _draw_images(
    manifest: Manifest, protocol: Protocol, known: NDArray[np.int64], _components: NDArray[np.int64]
) -> list[NDArray[np.int64]]:
    # Role of each image (n,) for each repeat, images drawn within their class.
    ids = manifest.frame["image_id"].to_numpy(dtype=np.str_)
    pool = known[np.argsort(ids[known])]
    drawn = [np.full(len(manifest), -1) for _ in range(protocol.repeats)]
    for code, name in enumerate(manifest.classes):
        of_class = pool[manifest.codes[pool] == code]
        wanted = {
            role: max(1, int(np.floor(protocol.share(role) * len(of_class) + 0.5)))
            for role in protocol.parts
            if role != "train"
        }
        if sum(wanted.values()) >= len(of_class):
            raise PlanError(
                f"class {name!r} has {len(of_class)} images, too few for "
                f"{', '.join(protocol.parts)} to have one each; set a share to 0, or bring more images"
            )
        ends = np.cumsum(list(wanted.values()))
        for repeat, role in enumerate(drawn):
            shuffled = stream(protocol.seed, "split", repeat, "images", name).permutation(of_class)
            for part, images in zip([*wanted, "train"], np.split(shuffled, ends), strict=True):
                role[images] = ROLES.index(part)
    return drawn


def _harmless(role: NDArray[np.int64], manifest: Manifest, components: NDArray[np.int64]) -> NDArray[np.bool_]:
    # Images (n,) of unknown patient that hang together with no image of a part other than train.
    held_out = role > ROLES.index("train")
    harmless: NDArray[np.bool_] = (manifest.groups == "") & ~np.isin(components, components[held_out])
    return harmless


def _split(manifest: Manifest, repeat: int, role: NDArray[np.int64]) -> Split:
    positions = {name: np.flatnonzero(role == code) for code, name in enumerate(ROLES)}
    ids = manifest.frame["image_id"].to_numpy(dtype=object)
    digest = _digest({name: ids[where].tolist() for name, where in positions.items()})
    return Split(repeat=repeat, **positions, digest=digest)


# --- the file -----------------------------------------------------------------------------------------------


def _names_of(manifest: Manifest, protocol: Protocol, split: Split) -> dict[str, Any]:
    names = manifest.frame["image_id"].to_numpy(dtype=np.str_) if protocol.name == "random" else manifest.groups
    known = manifest.groups != ""
    content: dict[str, Any] = {
        role: sorted(set(names[where[known[where]]].tolist())) for role in ROLES for where in (split.role(role),)
    }
    if protocol.unknown == "train":
        dropped = np.setdiff1d(np.flatnonzero(~known), split.train)
        content["dropped"] = sorted(manifest.frame["image_id"].iloc[dropped])
    return content


def _split_of(manifest: Manifest, protocol: Protocol, entry: dict[str, Any], path: Path) -> Split:
    where = f"{path}: repeat {entry['repeat']}"
    ids = manifest.frame["image_id"].to_numpy(dtype=np.str_)
    names = ids if protocol.name == "random" else manifest.groups
    known = manifest.groups != ""
    role = np.full(len(manifest), -1)
    for code, part in enumerate(ROLES):
        chosen = known & np.isin(names, np.array(entry[part], dtype=np.str_))
        if (role[chosen] >= 0).any():
            twice = str(names[chosen & (role >= 0)][0])
            raise LeakageError(
                f"{where}: {twice!r} is in {ROLES[role[chosen].max()]} and in {part}; draw the splits anew"
            )
        role[chosen] = code
    if protocol.unknown == "train":
        role[~known & ~np.isin(ids, np.array(entry["dropped"], dtype=np.str_))] = ROLES.index("train")
    split = _split(manifest, int(entry["repeat"]), role)
    if split.digest != entry["digest"]:
        raise ManifestError(f"{where} does not have the digest that it was written with; draw the splits anew")
    return split


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ManifestError(f"{path}: cannot be read ({error})") from error
    except json.JSONDecodeError as error:
        raise ManifestError(f"{path}: line {error.lineno} is not JSON ({error.msg}); draw the splits anew") from error
    keys = {"format", "images", "protocol", "splits"}
    if not isinstance(content, dict) or set(content) != keys or content["format"] != _FORMAT:
        raise ManifestError(f"{path}: is not a file of splits ({_FORMAT}); draw them anew")
    return content


def _images_digest(manifest: Manifest) -> str:
    # Digest of what a split depends on: ids, patients and labels; paths and sites may change.
    columns = manifest.frame["image_id"].tolist(), manifest.groups.tolist(), manifest.frame["label"].tolist()
    rows = sorted(zip(*columns, strict=True))
    return hashlib.sha256(json.dumps([list(manifest.classes), rows], ensure_ascii=True).encode()).hexdigest()


def _digest(ids: Mapping[str, list[str]]) -> str:
    content = {role: sorted(ids[role]) for role in ROLES}
    return hashlib.sha256(json.dumps(content, ensure_ascii=True).encode()).hexdigest()


def _so_many(n_patients: int) -> str:
    return "1 patient" if n_patients == 1 else f"{n_patients} patients"


def _is_share(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1
