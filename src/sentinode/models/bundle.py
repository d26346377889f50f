"""A trained model on disk: a folder that says what it is, and in which nothing can be changed unnoticed.

::

    BUNDLE/bundle.json          what it is: classes, tile size, mpp, algorithm, data, metrics, intended use, digests
    BUNDLE/graph.onnx           a network: pixels in, probabilities out; or
    BUNDLE/graph-int8.xml, .bin the same network in int8, where that is offered
    BUNDLE/estimator.skops      another algorithm, as scikit-learn's safe format holds it
    BUNDLE/weights.safetensors  of a network, for whoever wants to train on
    BUNDLE/seen.json            digests of the patients, slides and images that it was trained on
    BUNDLE/typicality.json      what its training images look like, to notice a slide of another kind
    BUNDLE/known-tiles.json     the same of single tiles, and which rules against nonsense hold for it
    BUNDLE/slide-score.json     how tiles are put together to the score of a slide, where that was fitted
    BUNDLE/first-look.json      which tiles the network need not see, where that was fitted
    BUNDLE/training.csv         the training log
    BUNDLE/README.md            the same for a person

No file is a pickle: nothing that is read can run anything. ``bundle.json`` holds the digest of each file, and a digest
of itself with all of these in it, which is the model's name in every result.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sentinode.errors import ExportError, ModelError
from sentinode.evaluation.calibration import Calibration, Method
from sentinode.evaluation.conformal import NOTHING, Kind
from sentinode.evaluation.triage import Promise, Unit
from sentinode.evaluation.typicality import Neighbourhood, Typicality
from sentinode.models.card import model_card
from sentinode.models.encoder import EncoderUse
from sentinode.models.identities import Seen
from sentinode.storage import whole_folder

__all__ = [
    "ESTIMATOR_FILE",
    "FIRST_LOOK_FILE",
    "GRAPH_FILE",
    "INT8_FILES",
    "KNOWN_TILES_FILE",
    "SLIDE_SCORE_FILE",
    "TYPICALITY_FILE",
    "Bundle",
    "BundleFacts",
    "CalibrationFacts",
    "DataFacts",
    "Int8Facts",
    "KnownTiles",
    "PromiseFacts",
    "TileFacts",
    "Value",
    "known_tiles_json",
    "read_bundle",
    "typicality_json",
    "write_bundle",
]

FORMAT = "sentinode-bundle"
VERSION = 4
"""2: may have a calibration and promises. 3: ids of what was seen under the salt of a laboratory. 4: may have a
graph in int8. A reader of an older version would leave these out unnoticed. What has an older version is still read."""
GRAPH_FILE = "graph.onnx"
INT8_FILES = ("graph-int8.xml", "graph-int8.bin")
ESTIMATOR_FILE = "estimator.skops"
TYPICALITY_FILE = "typicality.json"
KNOWN_TILES_FILE = "known-tiles.json"
KNOWN_TILES_VERSION = 1
SLIDE_SCORE_FILE = "slide-score.json"
FIRST_LOOK_FILE = "first-look.json"
_FACTS = "bundle.json"
_SEEN = "seen.json"
_MADE_ANEW = frozenset({_SEEN, "README.md"})  # by write_bundle
_PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")

INTENDED_USE = (
    "Research use only. Not a medical device: no diagnosis may rest on it. Made for images of the tissue, stain, "
    "scanner and resolution that it was trained on; elsewhere it must be evaluated anew."
)


class _Facts(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Value(_Facts):
    """A number with its 95 % interval over patients; None where it cannot be had."""

    value: float | None
    low: float | None = None
    high: float | None = None


class TileFacts(_Facts):
    """What the model takes: (height, width, 3) uint8, red, green, blue, at `mpp` micrometres a pixel."""

    height: int = Field(ge=1)
    width: int = Field(ge=1)
    mpp: float | None = Field(default=None, gt=0)
    mpp_source: Literal["manifest", "given", "unknown"] = "unknown"

    @property
    def takes_slides(self) -> bool:
        """Whether slides can be read for it: square tiles of known resolution, and no rows of features."""
        return self.height > 1 and self.width == self.height and self.mpp is not None


class DataFacts(_Facts):
    """What the model was trained on, and what was kept from it."""

    manifest: str
    split: str
    n_images: dict[str, int]
    n_patients: dict[str, int]
    unknown: Literal["leave-out", "train"] = "leave-out"
    synthetic: bool = False
    source: str = ""
    licence: str = ""


class CalibrationFacts(_Facts):
    """How the probabilities are put right, and what that was worth.

    The first four as in `Calibration`. `losses` are the cross-validated log losses that chose the method; `before` and
    `after` the measures of `measure_calibration` on the test patients, empty where there were none.
    """

    method: Method
    slope: float = 1.0
    offset: float = 0.0
    knots: tuple[tuple[float, float], ...] = ()
    n_patients: int
    n_images: int
    losses: dict[str, float] = Field(default_factory=dict)
    before: dict[str, Value] = Field(default_factory=dict)
    after: dict[str, Value] = Field(default_factory=dict)

    @property
    def calibration(self) -> Calibration:
        """What is applied to probabilities."""
        return Calibration(self.method, self.slope, self.offset, self.knots)


class Int8Facts(_Facts):
    """How near the answers in int8 are to those in float32, on the calibrate part.

    As `sentinode.models.quantising.Closeness`, None where a number cannot be had: all of them where the network could
    not be quantised. `refusal` is why int8 is not offered, empty where it is; `apart` the largest difference of a
    probability on drawn tiles, where it was measured.
    """

    mean_change: float | None = None
    largest_change: float | None = None
    auc_loss: float | None = None
    auc_loss_limit: float | None = None
    n_patients: int = 0
    n_images: int = 0
    apart: float | None = None
    refusal: str = ""


class PromiseFacts(_Facts):
    """What the model promises of what it calls clear, from patients whom nothing else has touched.

    As `sentinode.evaluation.triage.Promise`; a `threshold` of None calls nothing clear; a `site` is whose patients
    alone it is for. `scoring` is what the scores of
    the slides depended on: a promise holds for no other. `cleared_normal` is the share of the certify patients' slides
    (or patches) without a tumour that is called clear.
    """

    kind: Kind
    unit: Unit
    alpha: float
    delta: float | None
    threshold: float | None
    n_patients: int
    misses: int
    site: str = ""
    scoring: dict[str, Any] = Field(default_factory=dict)
    cleared_normal: Value = Value(value=None)

    @property
    def promise(self) -> Promise:
        """The same, for the triage."""
        threshold = NOTHING if self.threshold is None else self.threshold
        return Promise(self.kind, self.unit, self.alpha, self.delta, threshold, self.n_patients, self.misses, self.site)


class BundleFacts(_Facts):
    """All that is known of a model, as ``bundle.json`` has it.

    `classes` has the positive one last, as the manifest; `columns` is their order in what the file of the model gives.
    The metrics are those of the test part (name -> value with its interval over patients), empty where there was none;
    `by_site` has them for each site of the test part, and the number of its patients. `settings` has every setting of
    the algorithm, the defaults included. `calibration` is None where no patients were kept for it; the metrics are
    those of calibrated probabilities where there is one. `promises` are the confident one and the average one, where
    patients were kept to certify, and both of each site where that was asked for. `encoder` is what tiles go through
    before the estimator, a head on its features. `int8` is None where nobody asked for it.
    """

    algorithm: str
    settings: dict[str, Any]
    seed: int
    classes: tuple[str, ...] = Field(min_length=2)
    columns: tuple[str, ...] = Field(min_length=2)
    tile: TileFacts
    data: DataFacts
    versions: dict[str, str]
    training: dict[str, Any] = Field(default_factory=dict)
    metrics: dict[str, Value] = Field(default_factory=dict)
    by_site: dict[str, dict[str, Value]] = Field(default_factory=dict)
    calibration: CalibrationFacts | None = None
    promises: tuple[PromiseFacts, ...] = ()
    encoder: EncoderUse | None = None
    int8: Int8Facts | None = None
    intended_use: str = INTENDED_USE

    @property
    def positive(self) -> str:
        """The class that is looked for: the last one."""
        return self.classes[-1]


@dataclass(frozen=True)
class KnownTiles:
    """What single tiles must look like for a model.

    Parameters
    ----------
    rules : tuple of str
        Of `sentinode.slides.bright_field.RULES`, those that its training images keep.
    everything, structure : Neighbourhood or None
        What they look like, and the part of it that is not colour; None where patients were too few to say.
    """

    rules: tuple[str, ...]
    everything: Neighbourhood | None
    structure: Neighbourhood | None


@dataclass(frozen=True)
class Bundle:
    """A bundle that was read, and is as it was written.

    Parameters
    ----------
    folder : Path
        Where it lies.
    facts : BundleFacts
        What it is.
    files : mapping of str to str
        Name -> SHA-256 (hex).
    digest : str
        SHA-256 (hex) over all of it: the model's name in every result.
    """

    folder: Path
    facts: BundleFacts
    files: Mapping[str, str]
    digest: str

    def mpp_of_tiles(self) -> float:
        """Tell at which resolution slides must be read for this model.

        Returns
        -------
        float
            Micrometres a pixel.

        Raises
        ------
        ModelError
            If the images that it was trained on did not say, or are not square.
        """
        tile = self.facts.tile
        if tile.height == 1:
            raise ModelError(
                f"{self.folder}: takes features of {tile.width} numbers, not slides; compute those of the slides with "
                "the same encoder, import them, and use: sentinode evaluate"
            )
        if tile.mpp is None:
            raise ModelError(
                f"{self.folder}: was trained on images of unknown mpp, so nobody can say at which resolution slides "
                "must be read for it; train it again with --mpp"
            )
        if tile.width != tile.height:
            raise ModelError(f"{self.folder}: takes tiles of {tile.width} x {tile.height} px, and slides give squares")
        return tile.mpp

    def text(self, name: str) -> str | None:
        """Read a file of the bundle that need not be there.

        Parameters
        ----------
        name : str
            Of the file.

        Returns
        -------
        str or None
            None where the bundle does not have it.

        Raises
        ------
        ModelError
            If it cannot be read.
        """
        if name not in self.files:
            return None
        path = self.folder / name
        try:
            return path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ModelError(f"{path}: cannot be read ({error}); copy the model anew") from error

    def content(self) -> dict[str, bytes]:
        """Read what a new bundle of the same model would have.

        Returns
        -------
        dict of str to bytes
            As `write_bundle` takes it: without what that makes anew.
        """
        return {name: (self.folder / name).read_bytes() for name in self.files if name not in _MADE_ANEW}

    def typicality(self) -> Typicality | None:
        """Read what its training images look like.

        Returns
        -------
        Typicality or None
            None where it was trained on too few patients to say.

        Raises
        ------
        ModelError
            If the file cannot be read.
        """
        if TYPICALITY_FILE not in self.files:
            return None
        values = _read_json(self.folder / TYPICALITY_FILE)
        mean, precision, held_out = (np.array(values[name]) for name in ("mean", "precision", "held_out"))
        return Typicality(mean, precision, held_out)

    def known_tiles(self) -> KnownTiles | None:
        """Read what single tiles must look like.

        Returns
        -------
        KnownTiles or None
            None for a model that an older Sentinode trained.

        Raises
        ------
        ModelError
            If the file cannot be read, or a newer Sentinode wrote it.
        """
        if KNOWN_TILES_FILE not in self.files:
            return None
        path = self.folder / KNOWN_TILES_FILE
        values = _read_json(path)
        version = values.get("version")
        if version != KNOWN_TILES_VERSION:
            raise ModelError(f"{path}: has format {version}, and this Sentinode reads 1; update Sentinode")
        found = (_neighbourhood(values[name]) for name in ("everything", "structure"))
        return KnownTiles(tuple(values["rules"]), *found)

    def seen(self) -> Seen:
        """Read what it was trained on.

        Returns
        -------
        Seen
            Digests.

        Raises
        ------
        ModelError
            If the file, or the salt of the laboratory, cannot be read.
        """
        return Seen.from_json(_read_json(self.folder / _SEEN))


def typicality_json(typicality: Typicality) -> bytes:
    """Write what training images look like as the file of a bundle.

    Parameters
    ----------
    typicality : Typicality
        Fitted.

    Returns
    -------
    bytes
        JSON.
    """
    return _json({name: getattr(typicality, name).tolist() for name in ("mean", "precision", "held_out")})


def known_tiles_json(known: KnownTiles) -> bytes:
    """Write what single tiles must look like as the file of a bundle.

    Parameters
    ----------
    known : KnownTiles
        Fitted.

    Returns
    -------
    bytes
        JSON without spaces: 2,000 images are half a megabyte.
    """
    values = {
        "version": KNOWN_TILES_VERSION,
        "rules": list(known.rules),
        "everything": _neighbourhood_json(known.everything),
        "structure": _neighbourhood_json(known.structure),
    }
    return (json.dumps(values, separators=(",", ":")) + "\n").encode()


def write_bundle(folder: Path, facts: BundleFacts, content: Mapping[str, bytes], seen: Seen) -> Bundle:
    """Write a bundle: whole, or not at all.

    Parameters
    ----------
    folder : Path
        Must not be there yet.
    facts : BundleFacts
        What it is.
    content : mapping of str to bytes
        Name -> content of each file beside the three that this function makes.
    seen : Seen
        What it was trained on.

    Returns
    -------
    Bundle
        As it lies there.

    Raises
    ------
    ExportError
        If there is something of that name, or no room or permission.
    """
    require_free(folder)
    files = {**content, _SEEN: _json(seen.to_json()), "README.md": model_card(facts).encode()}
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in sorted(files.items())}
    stated = {"format": FORMAT, "version": VERSION, **facts.model_dump(mode="json"), "files": digests}
    digest = _digest(stated)
    try:
        with whole_folder(folder) as part:
            for name, data in files.items():
                (part / name).write_bytes(data)
            (part / _FACTS).write_bytes(_json({**stated, "digest": digest}))
    except OSError as error:
        raise ExportError(
            f"{folder}: cannot be written ({error.strerror or error}); make room, or choose another --out"
        ) from error
    return Bundle(folder, facts, digests, digest)


def require_free(folder: Path) -> None:
    """Refuse to write over what is there, before hours of training and not after.

    Parameters
    ----------
    folder : Path
        Where a bundle shall be.

    Raises
    ------
    ExportError
        If there is something of that name.
    """
    if folder.exists():
        raise ExportError(f"{folder}: is there already; choose another --out, or remove it first")


def read_bundle(folder: Path | str) -> Bundle:
    """Read a bundle and check that it is as it was written.

    Parameters
    ----------
    folder : Path or str
        Of the bundle.

    Returns
    -------
    Bundle
        Checked: every file has the content that it was written with.

    Raises
    ------
    ModelError
        If there is none, a file is missing or was changed, or a newer Sentinode wrote it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ModelError(f"{folder}: is no model; give the folder that 'sentinode train' wrote")
    stated = _read_json(folder / _FACTS)
    if stated.pop("format", None) != FORMAT:
        raise ModelError(f"{folder}: is no model of Sentinode ({_FACTS} does not say so)")
    version = stated.pop("version", None)
    if not isinstance(version, int) or version > VERSION:
        raise ModelError(f"{folder}: has format {version}, and this Sentinode reads {VERSION}; update Sentinode")
    digest = stated.pop("digest", None)
    if digest != _digest({"format": FORMAT, "version": version, **stated}):
        raise ModelError(f"{folder}: {_FACTS} was changed after it was written; copy the model anew, or train it again")
    files = dict(stated.pop("files", {}))
    _check_files(folder, files)
    try:
        facts = BundleFacts.model_validate(stated)
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(str(part) for part in fault["loc"])
        raise ModelError(f"{folder / _FACTS}: {where}: {fault['msg']}") from error
    return Bundle(folder, facts, files, str(digest))


def _check_files(folder: Path, files: Mapping[str, str]) -> None:
    for name, expected in files.items():
        if not _PLAIN_NAME.fullmatch(name):
            raise ModelError(f"{folder}: lists a file {name!r}, which cannot be one of its own")
        try:
            found = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        except OSError as error:
            raise ModelError(
                f"{folder / name}: cannot be read ({error.strerror or error}); copy the model anew"
            ) from error
        if found != expected:
            raise ModelError(
                f"{folder / name}: was changed after it was written; copy the model anew, or train it again"
            )


def _neighbourhood_json(known: Neighbourhood | None) -> dict[str, Any] | None:
    if known is None:
        return None
    # Whitened numbers have a deviation of one: three digits after the point are far below what tiles differ by.
    return {
        "centre": known.centre.tolist(),
        "whitening": known.whitening.tolist(),
        "known": [[round(value, 3) for value in row] for row in known.known.tolist()],
        "held_out": [[round(value, 4) for value in one] for one in (found.tolist() for found in known.held_out)],
    }


def _neighbourhood(values: Mapping[str, Any] | None) -> Neighbourhood | None:
    if values is None:
        return None
    return Neighbourhood(
        np.array(values["centre"]),
        np.array(values["whitening"]),
        np.array(values["known"], dtype=np.float32),
        tuple(np.array(one, dtype=np.float32) for one in values["held_out"]),
    )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError as error:
        raise ModelError(
            f"{path.parent}: is no model ({path.name} is absent); give the folder that 'sentinode train' wrote"
        ) from error
    except (OSError, ValueError, TypeError) as error:
        raise ModelError(f"{path}: cannot be read ({error}); copy the model anew, or train it again") from error


def _json(values: Mapping[str, Any]) -> bytes:
    return (json.dumps(values, indent=2, ensure_ascii=False) + "\n").encode()


def _digest(values: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True, ensure_ascii=False).encode()).hexdigest()
