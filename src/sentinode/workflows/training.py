"""From a manifest to a model: roles by patient, training, an honest number on patients kept apart, a bundle."""

import importlib
import json
import logging
import platform
import shutil
import time
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeAlias, cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sentinode._version import __version__
from sentinode.algorithms.description import EpochRecord
from sentinode.algorithms.descriptors import stain_statistics
from sentinode.algorithms.registry import (
    HEADS,
    Algorithm,
    AlgorithmSpec,
    algorithm_settings,
    build_algorithm,
    require_extra,
)
from sentinode.data.leakage import check_split, require_clean
from sentinode.data.manifest import Manifest, read_manifest
from sentinode.data.overlaps import find_overlaps
from sentinode.data.patches import PatchSource, cache_patches
from sentinode.data.splits import ROLES, Protocol, Split, make_splits
from sentinode.errors import ExportError, ModelError, PlanError
from sentinode.evaluation.calibration import choose_calibration, require_calibrating
from sentinode.evaluation.triage import TriageCases
from sentinode.evaluation.typicality import evenly, fit_typicality
from sentinode.models.bundle import (
    ESTIMATOR_FILE,
    GRAPH_FILE,
    INT8_FILES,
    KNOWN_TILES_FILE,
    TYPICALITY_FILE,
    Bundle,
    BundleFacts,
    CalibrationFacts,
    DataFacts,
    Int8Facts,
    PromiseFacts,
    TileFacts,
    Value,
    known_tiles_json,
    require_free,
    typicality_json,
    write_bundle,
)
from sentinode.models.encoder import Encoder, read_encoder
from sentinode.models.graph import NetworkAlgorithm, write_graph
from sentinode.models.identities import Salt, Seen, image_digest, laboratory_salt
from sentinode.models.quantising import RANGING_TILES, measure_closeness, quantise_graph, require_quantiser
from sentinode.models.runtime import GraphRecogniser, open_recogniser, this_machine
from sentinode.models.tuning import Recognise, RuntimeChoice, apart_on_drawn
from sentinode.study.measure import versions
from sentinode.workflows.evaluating import measure_predictions, measure_reliability, slides_of
from sentinode.workflows.refusing import fit_known_tiles
from sentinode.workflows.triaging import promise_facts, require_promise, slide_cases

__all__ = [
    "DEFAULT_ALGORITHM",
    "EpochDone",
    "Preparation",
    "TrainingEvent",
    "TrainingWish",
    "parse_settings",
    "train_model",
]

DEFAULT_ALGORITHM = "imagenet-cnn"
ASKED = 64  # training images that are asked whether anything was learned
ONE_ANSWER = 0.01  # by which probabilities differ where nothing was
MOST_LOOKED_AT = 2000  # images whose colours are kept as what is usual

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingWish:
    """What shall be trained, and how.

    Parameters
    ----------
    algorithm : str
        A registered name.
    settings : mapping of str to object
        What differs from its defaults.
    test, stop : float
        Shares of the patients: kept for the numbers in the bundle, and for early stopping.
    unknown : {"leave-out", "train"}
        What becomes of images whose patient nobody knows.
    mpp : float, optional
        Micrometres a pixel of the images; goes before the manifest.
    seed : int
        Of the split and of the training.
    calibrate : float
        Share of the patients that the probabilities are calibrated on; 0: they stay as they are.
    certify : float
        Share of the patients that a promise of the triage is certified on; 0: nothing is promised.
    alpha, delta : float
        Of that promise, as in `sentinode.evaluation.triage.certify`.
    by_site : bool
        Whether a promise is made for each site as well; each needs as many patients.
    encoder : Path, optional
        A TOML file that states a local encoder (`sentinode.models.encoder`): the algorithm is a head on its features.
    int8 : bool
        Whether the network is quantised, too, and offered in int8 where the calibrate part says that nothing is lost.
    """

    algorithm: str = DEFAULT_ALGORITHM
    settings: Mapping[str, object] = field(default_factory=dict)
    test: float = 0.25
    stop: float = 0.15
    unknown: str = "leave-out"
    mpp: float | None = None
    seed: int = 1
    calibrate: float = 0.0
    certify: float = 0.0
    alpha: float = 0.01
    delta: float = 0.05
    by_site: bool = False
    encoder: Path | None = None
    int8: bool = False


@dataclass(frozen=True)
class Preparation:
    """Images are being read or compared: `done` of `total` steps of `what`."""

    what: str
    done: int
    total: int


@dataclass(frozen=True)
class EpochDone:
    """An epoch was trained: the `done`-th of at most `total` over all stages."""

    record: EpochRecord
    done: int
    total: int


Inputs: TypeAlias = NDArray[Any]
"""(n, h, w, 3) uint8 images, or (n, 1, d) float32 features of an encoder."""

TrainingEvent: TypeAlias = Preparation | EpochDone
Listener: TypeAlias = Callable[[TrainingEvent], None]


def train_model(
    manifest: Path | str, out: Path | str, wish: TrainingWish | None = None, on_event: Listener | None = None
) -> Bundle:
    """Train a recogniser on a manifest, measure it on patients kept apart, and write it down.

    What is interrupted goes on from its last epoch when the same call is made again: until the bundle is
    written, its decoded patches and checkpoints lie beside it, in ``OUT.training``.

    Parameters
    ----------
    manifest : Path or str
        Of patches, or of tiles of slides.
    out : Path or str
        Folder of the bundle; must not be there yet.
    wish : TrainingWish, optional
        What shall be trained.
    on_event : callable, optional
        Receives every `TrainingEvent`.

    Returns
    -------
    Bundle
        As it lies in `out`.

    Raises
    ------
    ManifestError
        If an image cannot be read.
    PlanError
        If the algorithm, a setting, or the split is impossible, or too few patients are left to calibrate on.
    LeakageError
        If a test image could be seen in training.
    ModelError
        If training diverges, the classes are too few, or the salt of the laboratory cannot be read.
    MissingExtra
        If the algorithm needs torch, or int8 NNCF, and it is not installed.
    ExportError
        If `out` is there already, or it or the salt of the laboratory cannot be written.
    """
    # The errors are those of the steps.
    wish, out, listen = wish or TrainingWish(), Path(out), on_event or (lambda _event: None)
    require_free(out)
    salt = laboratory_salt()
    require_extra(wish.algorithm)
    require_promise(wish.alpha, wish.delta)
    spec = AlgorithmSpec(wish.algorithm, wish.settings)
    settings = {**algorithm_settings(wish.algorithm), **wish.settings}
    # What is impossible is told before hours of reading.
    _require_wish(wish, build_algorithm(spec, wish.seed))
    table = read_manifest(manifest)
    encoder = None if wish.encoder is None else _encoder(wish.encoder, wish, table)
    work = _workplace(out)
    pixels = cache_patches(table, work / "cache", _telling(listen, "reading images"))
    protocol = Protocol(
        repeats=1,
        seed=wish.seed,
        test=wish.test,
        stop=wish.stop,
        calibrate=wish.calibrate,
        certify=wish.certify,
        unknown=wish.unknown,
    )
    overlaps = find_overlaps(pixels, on_progress=_telling(listen, "looking for overlaps"))
    (split,) = make_splits(table, protocol, overlaps)
    require_clean(check_split(table, split, overlaps, protocol))
    if wish.by_site and not any(table.frame["site"].iloc[split.certify]):
        raise PlanError(
            f"{manifest}: says no site of the patients that are certified on; name sites, or leave out --by-site"
        )
    if wish.calibrate:
        require_calibrating(table.codes[split.calibrate] == len(table.classes) - 1, table.groups[split.calibrate])
    inputs: Inputs = pixels if encoder is None else _embedded(encoder, table, pixels, wish.mpp, (work, listen))
    algorithm, seconds = _fit(spec, wish.seed, (table, inputs, split), work / "checkpoint", listen)
    if isinstance(rate := settings.get("learning_rate"), int | float):
        _warn_of_one_answer(_proba(algorithm, table, inputs, split.train[evenly(len(split.train), ASKED)]), rate)
    size = (int(pixels.shape[1]), int(pixels.shape[2]))
    calibration = _calibration(algorithm, table, inputs, split, wish.seed)
    metrics, by_site = _test_metrics(algorithm, table, inputs, split, calibration)
    facts = BundleFacts(
        algorithm=wish.algorithm,
        settings=json.loads(json.dumps(settings, default=str)),
        seed=wish.seed,
        classes=_classes(algorithm, table),
        columns=tuple(str(name) for name in algorithm.classes_),
        tile=_tile(size, table, wish.mpp),
        data=_data(table, split, protocol),
        versions={"sentinode": __version__, "python": platform.python_version(), **versions()},
        training={"seconds": round(seconds, 1), **_best_epoch(algorithm)},
        metrics=metrics,
        by_site=by_site,
        calibration=calibration,
        encoder=None if encoder is None else encoder.in_use(),
    )
    content, seen = (
        {**_content(algorithm, size, work), **_typicality(table, pixels, split)},
        _seen(table, pixels, split, salt),
    )
    if wish.int8:
        int8, files = _int8(work, facts, table, pixels, split)
        facts, content = facts.model_copy(update={"int8": int8}), {**content, **files}
    if len(split.certify):
        # What is certified is what will be used: the same files, opened in the same way, without the promise only.
        shutil.rmtree(work / "draft", ignore_errors=True)
        draft = write_bundle(work / "draft", facts, content, seen)
        facts = facts.model_copy(update={"promises": _promises(draft, table, pixels, split, (wish, listen))})
    bundle = write_bundle(out, facts, content, seen)
    shutil.rmtree(work, ignore_errors=True)
    return bundle


def parse_settings(pairs: Sequence[str]) -> dict[str, object]:
    """Read settings from a command line.

    Parameters
    ----------
    pairs : sequence of str
        ``name=value``, the value as in TOML; text may go without quotes.

    Returns
    -------
    dict of str to object
        For `TrainingWish`.

    Raises
    ------
    PlanError
        If there is no ``=``, or a name is there twice.

    Examples
    --------
    >>> parse_settings(["epochs=30", "augment=orientations", "hidden=[64, 32]"])
    {'epochs': 30, 'augment': 'orientations', 'hidden': [64, 32]}
    """
    settings: dict[str, object] = {}
    for pair in pairs:
        name, sign, text = (part.strip() for part in pair.partition("="))
        if not (name and sign and text) or name in settings:
            raise PlanError(f"--set {pair}: write each setting once, as name=value, e.g. --set epochs=30")
        try:
            settings[name] = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            settings[name] = text
    return settings


def _require_wish(wish: TrainingWish, algorithm: Algorithm) -> None:
    if wish.by_site and not wish.certify:
        raise PlanError("--by-site is of the promises of the triage: give the share of patients to --certify, too")
    if not wish.int8:
        return
    if not isinstance(algorithm, NetworkAlgorithm):
        raise PlanError(f"--int8 is of networks, and {wish.algorithm} is none; leave it out")
    if not wish.calibrate:
        raise PlanError("--int8 is held against float32 on patients of its own: give their share to --calibrate, too")
    require_quantiser()


def _workplace(out: Path) -> Path:
    # Beside the bundle, and ours: it is removed at the end, so nothing else may lie in it.
    work = out.with_name(f"{out.name}.training")
    mark = work / ".sentinode-training"
    if work.exists() and not mark.exists():
        raise ExportError(f"{work}: is there already, and is not of a training; choose another --out")
    try:
        work.mkdir(parents=True, exist_ok=True)
        mark.touch()
    except OSError as error:
        raise ExportError(f"{work}: cannot be made ({error.strerror or error}); choose another --out") from error
    return work


def _telling(listen: Listener, what: str) -> Callable[[int, int], None]:
    return lambda done, total: listen(Preparation(what, done, total))


def _encoder(path: Path, wish: TrainingWish, table: Manifest) -> Encoder:
    if wish.algorithm not in HEADS:
        raise PlanError(f"{wish.algorithm} looks at images, and an encoder is asked for; take {', '.join(HEADS)}")
    if PatchSource(table).has_features:
        raise PlanError("the manifest has features already; leave --encoder out")
    if wish.mpp is None and table.frame["mpp"].isna().any():
        raise PlanError("images without mpp cannot be brought to that of the encoder; say it with --mpp")
    return read_encoder(path)


def _embedded(
    encoder: Encoder, table: Manifest, pixels: NDArray[np.uint8], mpp: float | None, how: tuple[Path, Listener]
) -> NDArray[np.float32]:
    # (n, 1, d); kept beside the patches until the model is written.
    work, listen = how
    kept = work / f"features-{encoder.digest[:16]}-{table.digest[:16]}-{mpp}.npy"
    of_each = table.frame["mpp"].to_numpy(dtype=np.float64) if mpp is None else np.full(len(table), mpp)
    encoder.embed_to(kept, pixels, of_each.tolist(), _telling(listen, "computing features"))
    found: NDArray[np.float32] = np.load(kept, mmap_mode="r", allow_pickle=False)
    return found


def _fit(
    spec: AlgorithmSpec,
    seed: int,
    data: tuple[Manifest, Inputs, Split],
    checkpoint: Path,
    listen: Listener,
) -> tuple[Algorithm, float]:
    table, pixels, split = data
    labels = table.frame["label"].to_numpy(dtype=np.str_)
    algorithm = build_algorithm(spec, seed)
    total, done = _n_epochs(algorithm), 0

    def tell(record: EpochRecord) -> None:
        nonlocal done
        done += 1
        listen(EpochDone(record, done, max(total, done)))

    stop = (pixels[split.stop], labels[split.stop]) if len(split.stop) else None
    _LOG.info("trains %s on %d images of %d patients", spec.name, len(split.train), split.n_patients(table, "train"))
    started = time.perf_counter()
    algorithm.fit(pixels[split.train], labels[split.train], stop=stop, on_epoch=tell, checkpoint=checkpoint)
    return algorithm, time.perf_counter() - started


def _n_epochs(algorithm: Algorithm) -> int:
    # Of all stages together, at most: a stack has a stage of pre-training a machine.
    settings = vars(algorithm)
    n_machines = len(settings.get("hidden") or range(6)) if "pretraining_epochs" in settings else 0
    return int(settings.get("epochs", 0)) + n_machines * int(settings.get("pretraining_epochs", 0))


def _tile(size: tuple[int, int], table: Manifest, given: float | None) -> TileFacts:
    if given is not None:
        return TileFacts(height=size[0], width=size[1], mpp=given, mpp_source="given")
    stated = table.frame["mpp"].dropna().to_numpy(dtype=float)
    if len(stated) == 0:
        return TileFacts(height=size[0], width=size[1])
    if stated.max() > 1.1 * stated.min():
        raise PlanError(
            f"the images have between {stated.min():g} and {stated.max():g} um a pixel, and a model has one; "
            "leave some out, or say with --mpp what to write down"
        )
    return TileFacts(height=size[0], width=size[1], mpp=float(np.median(stated)), mpp_source="manifest")


def _data(table: Manifest, split: Split, protocol: Protocol) -> DataFacts:
    return DataFacts(
        manifest=table.digest,
        split=split.digest,
        n_images={role: len(split.role(role)) for role in ROLES},
        n_patients={role: split.n_patients(table, role) for role in ROLES},
        unknown="train" if protocol.unknown == "train" else "leave-out",
        synthetic=table.provenance.synthetic,
        source=table.provenance.source,
        licence=table.provenance.licence,
    )


def _best_epoch(algorithm: Algorithm) -> dict[str, Any]:
    log = getattr(algorithm, "training_", None)
    return {} if log is None else {"best_epoch": log.best_epoch, "device": str(log.device)}


def _calibration(
    algorithm: Algorithm, table: Manifest, inputs: Inputs, split: Split, seed: int
) -> CalibrationFacts | None:
    if len(split.calibrate) == 0:
        return None
    classes = _classes(algorithm, table)
    codes = np.array([classes.index(label) for label in table.frame["label"].iloc[split.calibrate]])
    proba = _proba(algorithm, table, inputs, split.calibrate)
    chosen = choose_calibration(codes, proba, table.groups[split.calibrate], seed=seed)
    before, after = {}, {}
    if len(split.test):
        tested, raw = table.select(split.test), _proba(algorithm, table, inputs, split.test)
        before = measure_reliability(tested, classes, raw)
        after = measure_reliability(tested, classes, chosen.calibration.apply(raw))
    return CalibrationFacts(
        **asdict(chosen.calibration),
        n_patients=chosen.n_patients,
        n_images=chosen.n_images,
        losses=dict(chosen.losses),
        before=before,
        after=after,
    )


def _int8(
    work: Path, facts: BundleFacts, table: Manifest, pixels: NDArray[np.uint8], split: Split
) -> tuple[Int8Facts, dict[str, bytes]]:
    """Quantise the network, and hold it against float32.

    Returns
    -------
    Int8Facts
        With the verdict.
    dict of str to bytes
        The files, where int8 is offered.
    """
    graph, rounded, machine = work / GRAPH_FILE, work / INT8_FILES[0], this_machine()
    rows = split.train[evenly(len(split.train), RANGING_TILES)]
    try:
        quantise_graph(graph, (np.asarray(pixels[row]) for row in rows.tolist()), rounded)
    except ModelError as error:  # the network itself is as good as ever
        return Int8Facts(refusal=str(error)), {}

    def build(choice: RuntimeChoice) -> Recognise:
        return GraphRecogniser(rounded if choice.precision == "int8" else graph, choice=choice).predict_proba

    column, rows = facts.columns.index(facts.positive), split.calibrate
    parts = np.array_split(rows, max(1, len(rows) // 64))
    plain, quick = (
        np.concatenate([recognise(np.asarray(pixels[part]))[:, column] for part in parts])
        for recognise in (build(RuntimeChoice(machine.engine)), build(RuntimeChoice(machine.engine, "int8")))
    )
    positive = (table.frame["label"].iloc[rows] == table.positive).to_numpy()
    found = measure_closeness(positive, plain, quick, table.groups[rows])
    told = {name: value if np.isfinite(value) else None for name, value in asdict(found).items()}
    apart = apart_on_drawn(machine, "int8", (facts.tile.height, facts.tile.width), build)
    offered = () if found.refusal else INT8_FILES
    return Int8Facts(**told, apart=apart, refusal=found.refusal), {name: (work / name).read_bytes() for name in offered}


def _promises(
    draft: Bundle, table: Manifest, pixels: NDArray[np.uint8], split: Split, how: tuple[TrainingWish, Listener]
) -> tuple[PromiseFacts, ...]:
    wish, listen = how
    recogniser, tell, rows = open_recogniser(draft), _telling(listen, "certifying"), split.certify
    if table.tile_px is not None and draft.facts.tile.takes_slides:
        cases, notes = slide_cases(table, rows, draft, recogniser, on_progress=tell)
        for note in notes:
            _LOG.warning("%s", note)
        return promise_facts(cases, wish.alpha, wish.delta, by_site=wish.by_site)
    parts = np.array_split(rows, max(1, len(rows) // 64))
    score = np.concatenate([recogniser.predict_proba(np.asarray(pixels[part]))[:, -1] for part in parts])
    frame = table.frame.iloc[rows]
    positive, site = (frame["label"] == table.positive).to_numpy(), frame["site"].to_numpy(dtype=np.str_)
    cases = TriageCases(score.astype(np.float64), positive, table.groups[rows], site, "patches")
    return promise_facts(cases, wish.alpha, wish.delta, by_site=wish.by_site)


def _warn_of_one_answer(proba: NDArray[np.float32], learning_rate: float) -> None:
    # A network whose training went astray has an accuracy, too: the share of one class.
    if np.ptp(proba, axis=0).max() < ONE_ANSWER:
        _LOG.warning(
            "the model says the same of all training images: it learned nothing; train again with a lower learning "
            "rate, e.g. --set learning_rate=%g",
            learning_rate / 10,
        )


def _proba(algorithm: Algorithm, table: Manifest, inputs: Inputs, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    columns = [str(name) for name in algorithm.classes_]
    return algorithm.predict_proba(inputs[rows])[:, [columns.index(name) for name in _classes(algorithm, table)]]


def _test_metrics(
    algorithm: Algorithm,
    table: Manifest,
    inputs: Inputs,
    split: Split,
    calibration: CalibrationFacts | None,
) -> tuple[dict[str, Value], dict[str, dict[str, Value]]]:
    if len(split.test) == 0:
        return {}, {}
    proba = _proba(algorithm, table, inputs, split.test)
    if calibration is not None:
        proba = calibration.calibration.apply(proba)
    tested, classes = table.select(split.test), _classes(algorithm, table)
    site = tested.frame["site"].to_numpy(dtype=np.str_)
    by_site = {}
    for name in sorted(set(site.tolist()) - {""}):
        here = tested.select(np.flatnonzero(site == name))
        n_patients = Value(value=float(len(set(here.groups.tolist()))))
        worth = measure_reliability(here, classes, proba[site == name])
        by_site[name] = {
            **measure_predictions(here, classes, proba[site == name]),
            **{measure: worth[measure] for measure in ("ece", "rms_corrected")},
            "patients": n_patients,
        }
    return measure_predictions(tested, classes, proba), by_site


def _classes(algorithm: Algorithm, table: Manifest) -> tuple[str, ...]:
    # In the order of the manifest: the one that is looked for last.
    learned = {str(name) for name in algorithm.classes_}
    if table.positive not in learned:
        raise ModelError(f"no patient of the training part has a {table.positive}: more patients, or another --seed")
    return tuple(name for name in table.classes if name in learned)


def _content(algorithm: Algorithm, size: tuple[int, int], work: Path) -> dict[str, bytes]:
    """Make the files that hold what was learned.

    Returns
    -------
    dict of str to bytes
        Name -> content.
    """
    log = pd.DataFrame([_row(record) for record in algorithm.log_], columns=None if algorithm.log_ else _COLUMNS)
    files = {"training.csv": log.to_csv(index=False).encode()}
    if not isinstance(algorithm, NetworkAlgorithm):
        import skops.io  # noqa: PLC0415 - only here

        return {**files, ESTIMATOR_FILE: skops.io.dumps(algorithm)}
    # torch is there: the network was trained with it.
    tensors = importlib.import_module("safetensors.torch")
    state = {name: value.contiguous() for name, value in algorithm.as_network().state_dict().items()}
    work.mkdir(parents=True, exist_ok=True)
    graph = work / GRAPH_FILE
    write_graph(algorithm, size, graph)
    return {**files, GRAPH_FILE: graph.read_bytes(), "weights.safetensors": cast("bytes", tensors.save(state))}


def _typicality(table: Manifest, pixels: NDArray[np.uint8], split: Split) -> dict[str, bytes]:
    if pixels.ndim == 3:  # features have no colours
        return {}
    # Of many images some, spread evenly: thousands say no more of the colours than two thousand.
    rows, groups = split.train[evenly(len(split.train), MOST_LOOKED_AT)], table.groups
    parts = np.array_split(rows, max(1, len(rows) // 64))
    found = fit_typicality(np.concatenate([stain_statistics(np.asarray(pixels[part])) for part in parts]), groups[rows])
    known = fit_known_tiles((np.asarray(pixels[part]) for part in parts), groups[rows])
    files = {KNOWN_TILES_FILE: known_tiles_json(known)}
    return files if found is None else {**files, TYPICALITY_FILE: typicality_json(found)}


_COLUMNS = ["stage", "epoch", "loss", "stop_loss", "stop_auc", "seconds"]


def _row(record: EpochRecord) -> dict[str, Any]:
    return {**{name: getattr(record, name) for name in _COLUMNS}, **dict(record.values)}


def _seen(table: Manifest, pixels: NDArray[np.uint8], split: Split, salt: Salt) -> Seen:
    # What chose the epoch, the calibration or a threshold was seen as well as what was trained on.
    rows = np.concatenate([split.train, split.stop, split.calibrate, split.certify])
    # An image of one colour says nothing of whose it is: bare glass is in every set.
    images = (pixels[row] for row in rows.tolist())
    told = (image_digest(image) for image in images if image.min() != image.max())
    names, contents = slides_of(table.select(rows))
    return Seen.under(salt, table.groups[rows].tolist(), names, contents, told)
