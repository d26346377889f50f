"""Slides in, answers out: each slide recognised, drawn, exported and described; one bad slide stops no other."""

import hashlib
import json
import logging
import math
import platform
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, astuple, dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

import sentinode.errors
from sentinode._version import __version__
from sentinode.errors import ExportError, ModelError, PlanError, SlideError
from sentinode.evaluation.conformal import NOTHING
from sentinode.evaluation.triage import triage_of
from sentinode.evaluation.typicality import Typicality, evenly, unlike_training
from sentinode.execution import Failure, run_jobs
from sentinode.export.formats import EXPORTS, export_writer
from sentinode.geometry import Box, Size
from sentinode.inference.aggregation import SlideScorer, scorer_of
from sentinode.inference.dense import Agreement, DenseMap, recognise_densely, write_dense_map
from sentinode.inference.engine import Inspect, Recognised, Spent, recognise_tiles
from sentinode.inference.first_look import FirstLook, LookedAt, first_look_of
from sentinode.inference.maps import probability_map, suspicious_regions
from sentinode.inference.predictions import TilePredictions, write_predictions
from sentinode.inference.summary import TOP, Field, slide_score, suspicious_fields
from sentinode.models.bundle import Bundle, PromiseFacts, read_bundle
from sentinode.models.explaining import log_odds_of, occlusion_map
from sentinode.models.runtime import ENGINES, DenseRecogniser, Recogniser, open_dense, open_recogniser, this_machine
from sentinode.models.tuning import PrecisionWish
from sentinode.report.cohort_page import write_cohort_page
from sentinode.report.heatmap import heat_overlay, map_over_field
from sentinode.report.overlay import write_overlay
from sentinode.report.slide_page import ShownField, SlideView, write_slide_page
from sentinode.slides.naming import slide_id_of
from sentinode.slides.quality import IN_AIR, REASONS, quality_findings, usable
from sentinode.slides.resolution import MppWish
from sentinode.slides.slide import Slide, open_slide
from sentinode.slides.tiling import MINIMUM_TISSUE, TileGrid, tile_grid
from sentinode.slides.tissue import survey
from sentinode.storage import abandoned, whole_file, whole_folder
from sentinode.workflows.refusing import JUDGING, Gate, SlideLook, gate_of
from sentinode.workflows.slide_inputs import find_slides, require_shares
from sentinode.workflows.trail import TRAIL, require_unchanged, trail_file, write_trail

__all__ = [
    "PredictionRun",
    "PredictionWish",
    "SlideDone",
    "TilesDone",
    "first_look_terms",
    "int8_is_left_out",
    "look_twice",
    "predict_slides",
    "score_slide",
    "slide_recogniser",
    "slide_scoring",
]

THUMBNAIL_PX = 1600
"""Longer side of the overview and of the heatmap."""

FIELD_UM, FIELD_MPP = 256.0, 0.5
"""A field of the gallery, and its resolution; of a slide that is coarser, the slide's own."""

LOOKED_AT = 200
"""Tiles whose colours are held against those of the training images."""

PLAIN_SCORE = "the mean of its five most suspicious places"
"""What the score of a slide is where the model has nothing fitted for it."""

OPTIONS = ("overlap", "minimum_tissue", "check_quality", "allow_atypical", "precision", "site", "first_look")
"""What the trail says of a wish."""

THRESHOLD = 0.5
"""Score from which a slide is called suspicious; no promise of a sensitivity: that is the triage's."""

FORMAT = "sentinode-slide-result-1"
_RESULT = "result.json"
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class PredictionWish:
    """How slides shall be recognised.

    Parameters
    ----------
    mpp : MppWish
        What is known of their resolution beside the files.
    overlap : float
        Share of its side that a tile has in common with the next one.
    minimum_tissue : float
        Share of a tile that must be tissue.
    check_quality : bool
        Whether blurred, inked and folded tiles are left out, and a slide that is mostly such is refused.
    allow_atypical : bool
        Whether a slide that is unlike the training images in structure is recognised all the same, at one's own risk.
        Nonsense (glass, noise, another stain) stays refused.
    exports : tuple of str
        Formats to write beside the Parquet table: keys of `EXPORTS`.
    overlay : bool
        Whether ``overlay.tif`` is written: the heatmap on the tissue as a pyramid.
    maps : bool
        Whether the gallery shows what the answers rest on, too: about a hundred answers more for each field.
    readers : int
        Threads that read.
    precision : {"auto", "float32", "int8"}
        Whether the model may be computed in bf16 where the CPU does that, or shall be in int8. A model that promises
        something of slides is computed in float32 all the same.
    site : str
        Where the slides are from: by the promise for that site they are sorted; ``""``: by that for all.
    heatmap : {"tiles", "dense"}
        Whether the heatmap has a point every few pixels: the network is run over large fields, too. What is said of
        tiles and of the slide stays as it is.
    first_look : bool
        Whether tiles that the model's first look calls unsuspicious are spared the network.

    Raises
    ------
    PlanError
        If a share cannot be, or there is no such export.
    """

    mpp: MppWish = field(default_factory=MppWish)
    overlap: float = 0.0
    minimum_tissue: float = MINIMUM_TISSUE
    check_quality: bool = True
    allow_atypical: bool = False
    exports: tuple[str, ...] = tuple(EXPORTS)
    overlay: bool = True
    maps: bool = False
    readers: int = 2
    precision: PrecisionWish = "auto"
    site: str = ""
    heatmap: Literal["tiles", "dense"] = "tiles"
    first_look: bool = False

    def __post_init__(self) -> None:
        require_shares(overlap=self.overlap, minimum_tissue=self.minimum_tissue)
        if self.first_look and self.heatmap == "dense":
            raise PlanError(
                "--heatmap dense runs the network over all tissue: --first-look spares nothing; leave one out"
            )
        for name in self.exports:
            export_writer(name)


@dataclass(frozen=True)
class TilesDone:
    """Tiles of a slide were recognised: `done` of `total`; it is slide `number` (from 1) of `n_slides`.

    With `dense` it is the fields of the dense map.
    """

    slide_id: str
    number: int
    n_slides: int
    done: int
    total: int
    dense: bool = False


@dataclass(frozen=True)
class SlideDone:
    """A slide is finished, was finished before (`stored`), or failed with a reason."""

    slide_id: str
    number: int
    n_slides: int
    verdict: str
    stored: bool = False


Event: TypeAlias = TilesDone | SlideDone
Listener: TypeAlias = Callable[[Event], None]


@dataclass(frozen=True)
class PredictionRun:
    """What became of the slides.

    Parameters
    ----------
    results : tuple of dict
        Of each slide that was finished, now or before, the most suspicious first: its ``result.json``.
    failures : mapping of str to str
        File -> why it has no result.
    """

    results: tuple[Mapping[str, Any], ...]
    failures: Mapping[str, str]


def predict_slides(
    inputs: Sequence[Path | str],
    model: Path | str | Bundle,
    out: Path | str,
    wish: PredictionWish | None = None,
    on_event: Listener | None = None,
    trail: Path | str | None = None,
) -> PredictionRun:
    """Recognise slides and write what was found.

    Each slide gets a folder ``OUT/<slide>``, which appears whole: ``result.json``, ``tiles.parquet``, the exports,
    ``heatmap.png``, ``overlay.tif``, ``probability.tif`` (of a dense heatmap) and ``report.html``. A slide is not done
    again if its folder was made by the same model from the same content with the same options; whether it is, is told
    by digests and not by the existence of a file.

    Parameters
    ----------
    inputs : sequence of Path or str
        Slides, or folders of slides.
    model : Path, str or Bundle
        A bundle, or its folder.
    out : Path or str
        Folder for everything.
    wish : PredictionWish, optional
        How.
    on_event : callable, optional
        Receives every `TilesDone` and `SlideDone`.
    trail : Path or str, optional
        The audit trail, which gets a line a slide; left out, that of ``SENTINODE_TRAIL``, else ``OUT/trail.jsonl``.

    Returns
    -------
    PredictionRun
        A slide that failed stops no other.

    Raises
    ------
    ModelError
        If the bundle cannot be read, does not say at which mpp it was trained, cannot be run densely, or does not
        offer the int8 that was asked for.
    PlanError
        If the bundle promises nothing of the site.
    SlideError
        If there is no slide, or two have one name.
    ExportError
        If `out` cannot be written.
    """
    # The errors are those of the steps.
    wish, out, listen = wish or PredictionWish(), Path(out), on_event or (lambda _event: None)
    bundle = model if isinstance(model, Bundle) else read_bundle(model)
    _require_site(bundle, wish.site)
    bundle.mpp_of_tiles()  # refuses a model that is not for slides, before anything is looked for
    slides = find_slides([Path(one) for one in inputs])
    file = trail_file(trail, out) or out / TRAIL
    require_unchanged(file)
    for leftover in abandoned(out):
        shutil.rmtree(leftover, ignore_errors=True)
    recogniser = slide_recogniser(bundle, wish.precision)
    work = _work(bundle, recogniser, out, wish, listen, len(slides))
    if wish.heatmap == "dense":
        # int8 was rounded and measured for tiles.
        quick = recogniser.runtime.get("precision") == "bf16"
        work = work._replace(dense=open_dense(bundle, precision="bf16" if quick else "float32"))
    jobs = [(path, (work, path, number)) for number, path in enumerate(slides, start=1)]
    results, failures = [], {}
    for path, outcome in run_jobs(_do_slide, jobs):
        write_trail(file, "predict", [_trail_event(work, path, outcome)])
        if isinstance(outcome, Failure):
            _LOG.debug("%s failed\n%s", path, outcome.traceback)
            failures[str(path)] = _reason(outcome)
            number = slides.index(path) + 1
            listen(SlideDone(slide_id_of(path), number, len(slides), f"failed: {failures[str(path)]}"))
        else:
            results.append(outcome)
    run = PredictionRun(_ordered(results), failures)
    _make(out)
    _write_cohort(run, bundle, out)
    return run


def slide_recogniser(bundle: Bundle, precision: PrecisionWish = "auto") -> Recogniser:
    """Open a model as it recognises slides.

    Parameters
    ----------
    bundle : Bundle
        Read.
    precision : {"auto", "float32", "int8"}
        As in `PredictionWish`.

    Returns
    -------
    Recogniser
        In float32 where something is promised of slides: it was certified so.

    Raises
    ------
    ModelError
        If it cannot be opened, or does not offer int8.
    """
    # ModelError is open_recogniser's.
    return open_recogniser(bundle, quick=True, precision="float32" if _promises_of_slides(bundle) else precision)


def int8_is_left_out(bundle: Bundle, precision: PrecisionWish) -> bool:
    """Say whether slides are about to be recognised in float32 though the model offers int8, for nobody asked for it.

    Parameters
    ----------
    bundle : Bundle
        Read.
    precision : {"auto", "float32", "int8"}
        As in `PredictionWish`.

    Returns
    -------
    bool
        False where bf16 is to be had, where nothing runs int8, and where float32 was asked for, or promised with.

    Raises
    ------
    ModelError
        If nothing that runs graphs can be loaded.
    """
    # ModelError is this_machine's.
    int8 = bundle.facts.int8
    if precision != "auto" or int8 is None or int8.refusal or _promises_of_slides(bundle):
        return False
    machine = this_machine()
    return not machine.bf16 and machine.engine.startswith(ENGINES["openvino"])


def _promises_of_slides(bundle: Bundle) -> bool:
    return any(one.unit == "slides" for one in bundle.facts.promises)


def _ordered(results: Iterable[dict[str, Any]]) -> tuple[Mapping[str, Any], ...]:
    # The most suspicious first; the refused last.
    ranked = sorted(results, key=lambda one: -1.0 if one["score"] is None else one["score"], reverse=True)
    return tuple(MappingProxyType(one) for one in ranked)


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ExportError(f"{folder}: cannot be made ({error.strerror or error}); choose another --out") from error


def _reason(failure: Failure) -> str:
    # What we refuse on purpose tells what to do; anything else is a fault of ours, and says so.
    expected = getattr(sentinode.errors, failure.kind, None) is not None or failure.kind in {"OSError", "MemoryError"}
    return failure.message if expected else f"internal error ({failure.kind}: {failure.message}); please report it"


class _Work(NamedTuple):
    bundle: Bundle
    tile_mpp: float
    recogniser: Recogniser
    out: Path
    wish: PredictionWish
    listen: Listener
    n_slides: int
    typicality: Typicality | None
    gate: Gate
    scorer: SlideScorer | None
    dense: DenseRecogniser | None = None
    first_look: FirstLook | None = None


def _work(
    bundle: Bundle, recogniser: Recogniser, out: Path, wish: PredictionWish, listen: Listener, n_slides: int
) -> _Work:
    known = bundle.typicality(), gate_of(bundle), scorer_of(bundle)
    work = _Work(bundle, bundle.mpp_of_tiles(), recogniser, out, wish, listen, n_slides, *known)
    return work._replace(first_look=_first_look(work)) if wish.first_look else work


def _first_look(work: _Work) -> FirstLook:
    folder, found = work.bundle.folder, first_look_of(work.bundle)
    if found is None or found.threshold is None:
        why = "has no first look" if found is None else f"its first look {found.in_words}"
        raise ModelError(f"{folder}: {why}; fit one on more slides (sentinode first-look), or leave out --first-look")
    here = first_look_terms(work.wish, work.recogniser)
    other = [
        f"{name} {here[name]}, not {found.terms.get(name)}" for name in here if here[name] != found.terms.get(name)
    ]
    if other:
        raise ModelError(
            f"{folder}: its first look was fitted in another way ({'; '.join(other)}); recognise as it was fitted, "
            "fit it again, or leave out --first-look"
        )
    return found


def first_look_terms(wish: PredictionWish, recogniser: Recogniser) -> dict[str, Any]:
    """Say what a first look depends on beside the model and the slide.

    Parameters
    ----------
    wish : PredictionWish
        How slides are recognised.
    recogniser : Recogniser
        Of the model.

    Returns
    -------
    dict of str to object
        One that was fitted with other ones promises nothing.
    """
    return {
        "judging": JUDGING,
        "overlap": wish.overlap,
        "minimum_tissue": wish.minimum_tissue,
        "check_quality": wish.check_quality,
        # bf16 is only taken where it stays close to float32.
        "int8": recogniser.runtime.get("precision") == "int8",
    }


def _trail_event(work: _Work, path: Path, outcome: dict[str, Any] | Failure) -> dict[str, Any]:
    wish = work.wish
    known = {
        "model": work.bundle.digest,
        "options": {name: getattr(wish, name) for name in OPTIONS},
    }
    if isinstance(outcome, Failure):
        return {**known, "slide": {"id": slide_id_of(path)}, "verdict": f"failed: {_reason(outcome)}"}
    slide = {"id": outcome["slide_id"], "content": outcome["slide"], "mpp": outcome["mpp"]}
    triage = (outcome.get("triage") or {}).get("verdict")
    return {**known, "slide": slide, "verdict": outcome["verdict"], "score": outcome["score"], "triage": triage}


class _Read(NamedTuple):
    # What was made of a slide, before it is written.
    predictions: TilePredictions
    thumbnail: NDArray[np.uint8]
    fields: tuple[ShownField, ...]
    field_mpp: float
    refusal: str
    warnings: tuple[str, ...]
    profile: Mapping[str, float]  # seconds
    triage: dict[str, Any] | None  # verdict, kind of the promise, and the promise in words
    look: SlideLook
    dense: tuple[DenseMap, Agreement] | None  # None where nobody asked for it, or the slide is refused


def _do_slide(job: tuple[_Work, Path, int]) -> dict[str, Any]:
    work, path, number = job
    with open_slide(path, work.wish.mpp) as slide:
        slide_id, key = slide.info.slide_id, _key(work, slide)
        folder = work.out / slide_id
        stored = _stored(folder, key)
        _require_ours(folder)
        if stored is not None:
            work.listen(SlideDone(slide_id, number, work.n_slides, str(stored["verdict"]), stored=True))
            return stored
        started = time.perf_counter()
        read = _recognise(work, slide, number)
        result = _result(work, path, read, key, time.perf_counter() - started)
        _write(work, slide, read, result, folder)
    work.listen(SlideDone(slide_id, number, work.n_slides, str(result["verdict"])))
    return result


def _key(work: _Work, slide: Slide) -> str:
    # Everything that the result of a slide depends on.
    known = {
        "version": f"{__version__}, judging {JUDGING}",
        "model": work.bundle.digest,
        "slide": slide.info.fingerprint,
        "mpp": slide.info.mpp,
        "wish": [
            work.wish.overlap,
            work.wish.minimum_tissue,
            work.wish.check_quality,
            work.wish.allow_atypical,
            sorted(work.wish.exports),
            work.wish.overlay,
            *(() if work.wish.precision == "auto" else (work.wish.precision,)),
            *(("maps",) if work.wish.maps else ()),
            *((f"site {work.wish.site}",) if work.wish.site else ()),
            *((work.wish.heatmap,) if work.wish.heatmap != "tiles" else ()),
            *(("first look",) if work.wish.first_look else ()),
        ],
    }
    return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()


def _stored(folder: Path, key: str) -> dict[str, Any] | None:
    stored = _read_result(folder)
    if stored is None or stored.get("key") != key:
        return None
    whole = all(_size(folder / name) == size for name, size in stored.get("files", {}).items())
    return stored if whole else None


def _read_result(folder: Path) -> dict[str, Any] | None:
    try:
        stored = json.loads((folder / _RESULT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return stored if isinstance(stored, dict) and stored.get("format") == FORMAT else None


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else -1


def _require_ours(folder: Path) -> None:
    # The folder of a slide is replaced when its result is old. What is not a result of ours never is: a folder of
    # the slide's name may hold its pixels (MRXS), or anything.
    if folder.exists() and _read_result(folder) is None:
        raise ExportError(f"{folder}: is there already, and is no result of Sentinode; choose another --out")


def _recognise(work: _Work, slide: Slide, number: int) -> _Read:
    predictions, look, refusal, profile = _recognise_tiles(work, slide, number)
    dense, taken = (None, 0.0) if refusal else _densely(work, slide, predictions, number)
    begun = time.perf_counter()
    scale, fields = slide.info.scale, suspicious_fields(predictions, side_um=FIELD_UM)
    field_mpp = max(FIELD_MPP, scale.mpp)
    thumbnail = slide.thumbnail(THUMBNAIL_PX)
    shown = tuple(_shown(work, slide, one, field_mpp) for one in fields)
    unlike = _unlike(work, slide, predictions, look)
    otherwise = (_otherwise(dense[1]),) if dense is not None and not dense[1].alike else ()
    warnings = (*((slide.info.note,) if slide.info.note else ()), *unlike, *otherwise)
    triage = _triage(work, predictions, fit=not (refusal or unlike))
    profile |= {"pictures": time.perf_counter() - begun, **({} if dense is None else {"dense": taken})}
    return _Read(predictions, thumbnail, shown, field_mpp, refusal, warnings, profile, triage, look, dense)


def _densely(
    work: _Work, slide: Slide, predictions: TilePredictions, number: int
) -> tuple[tuple[DenseMap, Agreement] | None, float]:
    # The map and how far it is from the tiles, and seconds.
    if work.dense is None or not predictions.recognised.any():
        return None, 0.0
    begun, name = time.perf_counter(), slide.info.slide_id
    found = recognise_densely(
        slide,
        predictions,
        work.dense,
        readers=work.wish.readers,
        on_progress=lambda done, of: work.listen(TilesDone(name, number, work.n_slides, done, of, dense=True)),
    )
    return found, time.perf_counter() - begun


def _otherwise(agreement: Agreement) -> str:
    told = "none could be held against it" if agreement.mean_difference is None else _compared(agreement)
    return (
        f"The dense map ranks tiles otherwise than the model does ({told}), because the network is run over "
        "their true surroundings; the heatmap is that of the tiles."
    )


def _compared(agreement: Agreement) -> str:
    ranks = "" if agreement.spearman is None else f"Spearman {agreement.spearman:.3f}, "
    return (
        f"{ranks}{agreement.mean_difference:.3f} apart on average and {agreement.largest_difference:.3f} at most, "
        f"at {agreement.tiles:,} tiles"
    )


def _shown_map(read: _Read) -> DenseMap | None:
    # What the heatmap is painted from, where not from the tiles.
    return read.dense[0] if read.dense is not None and read.dense[1].alike else None


def _heatmap_facts(work: _Work, read: _Read) -> dict[str, Any]:
    if work.dense is None or read.dense is None:
        return {"kind": "tiles"}
    kind, (found, agreement) = "tiles" if _shown_map(read) is None else "dense", read.dense
    return {"kind": kind, "stride_px": float(work.dense.graph.stride), "points": found.n_points, **asdict(agreement)}


def _heatmap_note(read: _Read) -> str:
    return " ".join(filter(None, (_first_look_note(read.predictions), _dense_note(read))))


def _first_look_note(predictions: TilePredictions) -> str:
    if predictions.spared is None or not predictions.spared.any():
        return ""
    return (
        f"{int(predictions.spared.sum()):,} tiles were called unsuspicious by a first look and not shown to the model: "
        "they have one probability, the lowest there is."
    )


def _dense_note(read: _Read) -> str:
    found = _shown_map(read)
    if found is None or read.dense is None:
        return ""
    return (
        f"The heatmap has a point every {read.predictions.scale.um(found.step):.3g} um, which says what the model says "
        f"of the tile around it ({_compared(read.dense[1])}). Score, regions and fields are those of the tiles."
    )


def _shown(work: _Work, slide: Slide, one: Field, mpp: float) -> ShownField:
    pixels = slide.read(one.box, mpp)
    if not work.wish.maps:
        return ShownField(pixels, one.proba)
    tile, side = work.bundle.facts.tile, slide.info.scale.px(work.bundle.facts.tile.width * work.tile_mpp)
    x, y = one.box.x + (one.box.width - side) / 2, one.box.y + (one.box.height - side) / 2
    middle = slide.read_pixels(Box(round(x), round(y), round(side), round(side)), Size(tile.width, tile.height))
    recognise = log_odds_of(work.recogniser.predict_proba, len(work.bundle.facts.classes) - 1)
    return ShownField(pixels, one.proba, map_over_field(pixels, occlusion_map(recognise, middle), side / one.box.width))


def _recognise_tiles(
    work: _Work, slide: Slide, number: int
) -> tuple[TilePredictions, SlideLook, str, dict[str, float]]:
    # The tiles, what the slide looks like, why it is refused or "", and seconds.
    started = time.perf_counter()
    grid, skip = _tissue_tiles(work, slide)
    tissue, begun = time.perf_counter() - started, time.perf_counter()
    found, look, stepped_back = _looked_at(work, slide, number, grid, skip)
    profile = {"tissue": tissue, "tiles": time.perf_counter() - begun, **asdict(found.spent)}
    refusal = (_refusal(found.flag) if work.wish.check_quality else "") or look.refusal
    return _predictions(work, slide, grid, found, stepped_back=stepped_back), look, refusal, profile


def _tissue_tiles(work: _Work, slide: Slide) -> tuple[TileGrid, NDArray[np.str_]]:
    # The tiles, and why some are not even read, or "".
    seen = survey(slide)
    grid = tile_grid(
        slide.info,
        seen.tissue,
        tile_px=work.bundle.facts.tile.width,
        mpp=work.tile_mpp,
        overlap=work.wish.overlap,
        minimum_tissue=work.wish.minimum_tissue,
    )
    if len(grid) == 0:
        raise SlideError(f"{slide.info.path}: no tissue was found on it; nothing was recognised")
    in_air = seen.air.share(grid.boxes) >= IN_AIR if work.wish.check_quality else np.zeros(len(grid), dtype=bool)
    return grid, np.where(in_air, "air", "")


def _looked_at(
    work: _Work, slide: Slide, number: int, grid: TileGrid, skip: NDArray[np.str_]
) -> tuple[Recognised, SlideLook, bool]:
    # Whether a first look stepped back: then the network saw every tile.
    first_look, mpp = work.first_look, work.tile_mpp if work.wish.check_quality else None
    inspect = work.gate.inspect(mpp, first_look, numbers=first_look is not None)
    stand_in = () if first_look is None else first_look.stand_in
    found = _recognised(work, slide, number, grid.boxes, skip, inspect, stand_in)
    numbers, found = found.measured[:, 2:], replace(found, measured=found.measured[:, :2])
    look = work.gate.look(found.flag, found.measured, allow=work.wish.allow_atypical, what="tissue tiles")
    if first_look is None or not found.spared.any():
        return found, look, False
    clean = found.flag == ""
    # Of tissue of another kind the first look knows nothing.
    if look.level == "typical" and first_look.distance(numbers[clean]) <= first_look.farthest:
        return _ranked(found), look, False
    rows = np.flatnonzero(found.spared)
    rest = _recognised(work, slide, number, grid.boxes[rows], skip[rows], None)
    proba = found.proba.copy()
    proba[rows] = rest.proba
    spent = Spent(*(one + other for one, other in zip(astuple(found.spent), astuple(rest.spent), strict=True)))
    return replace(found, proba=proba, spared=np.zeros_like(found.spared), spent=spent), look, True


def _ranked(found: Recognised) -> Recognised:
    # What the network has not seen ranks behind all that it has seen.
    seen = np.flatnonzero((found.flag == "") & ~found.spared)
    if len(seen) == 0:
        return found
    lowest, proba = seen[np.argmin(found.proba[seen, -1])], found.proba.copy()
    if proba[lowest, -1] < proba[found.spared, -1][0]:
        proba[found.spared] = proba[lowest]
    return replace(found, proba=proba)


def _recognised(
    work: _Work,
    slide: Slide,
    number: int,
    boxes: NDArray[np.int64],
    skip: NDArray[np.str_],
    inspect: Inspect | None,
    stand_in: Sequence[float] = (),
) -> Recognised:
    tile = work.bundle.facts.tile
    return recognise_tiles(
        slide,
        boxes,
        Size(tile.width, tile.height),
        work.recogniser,
        n_classes=len(work.bundle.facts.classes),
        inspect=inspect,
        stand_in=stand_in,
        skip=skip,
        readers=work.wish.readers,
        on_progress=lambda done, of: work.listen(TilesDone(slide.info.slide_id, number, work.n_slides, done, of)),
    )


def look_twice(
    path: Path,
    bundle: Bundle,
    recogniser: Recogniser,
    mpp: MppWish,
    place: tuple[int, int],
    on_event: Listener | None = None,
) -> LookedAt:
    """See the tiles of a slide as a first look does, and as the network does.

    Parameters
    ----------
    path : Path
        Of the slide.
    bundle : Bundle
        The model.
    recogniser : Recogniser
        Of `slide_recogniser`.
    mpp : MppWish
        What is known of the slide's resolution beside its file.
    place : (int, int)
        Which slide it is, from 1, of how many.
    on_event : callable, optional
        Receives `TilesDone`.

    Returns
    -------
    LookedAt
        Of the tiles that are recognised, each for itself.

    Raises
    ------
    SlideError
        If the slide cannot be read, has no tissue, or is not typical of the training images: on such a slide no first
        look is used.
    """
    # SlideError is also that of the steps.
    work = _work(bundle, recogniser, path, PredictionWish(mpp=mpp), on_event or (lambda _event: None), place[1])
    with open_slide(path, mpp) as slide:
        inspect = work.gate.inspect(work.tile_mpp, numbers=True)
        grid, skip = _tissue_tiles(work, slide)
        found = _recognised(work, slide, place[0], grid.boxes, skip, inspect)
    look = work.gate.look(found.flag, found.measured[:, :2], allow=False, what="tissue tiles")
    if _refusal(found.flag) or look.level != "typical":
        raise SlideError(f"{path}: is not typical of the training images ({look.level}): no first look is used on such")
    clean = found.flag == ""
    return LookedAt(found.measured[clean, 2:], found.proba[clean], np.ones(int(clean.sum()), dtype=np.float32))


def slide_scoring(wish: PredictionWish | None = None) -> dict[str, Any]:
    """Say what the score of a slide depends on beside the model and the slide.

    Parameters
    ----------
    wish : PredictionWish, optional
        How slides are recognised.

    Returns
    -------
    dict of str to object
        A promise that was certified with one is worth nothing with another.
    """
    wish = wish or PredictionWish()
    return {
        **({"first_look": True} if wish.first_look else {}),  # promises from before there was one stay what they are
        "score": f"mean of the {TOP} highest tiles that do not overlap",
        "overlap": wish.overlap,
        "minimum_tissue": wish.minimum_tissue,
        "check_quality": wish.check_quality,
        "precision": "float32",
        "judging": JUDGING,
        "sentinode": __version__,
    }


def score_slide(path: Path, bundle: Bundle, recogniser: Recogniser, mpp: MppWish | None = None) -> float:
    """Score a slide as `predict_slides` does for its triage, and write nothing.

    Parameters
    ----------
    path : Path
        Of the slide.
    bundle : Bundle
        The model.
    recogniser : Recogniser
        Of the bundle, in float32.
    mpp : MppWish, optional
        What is known of the slide's resolution beside its file.

    Returns
    -------
    float
        From 0 to 1; infinity for what is never called clear: a slide that is refused, or unlike the training images.

    Raises
    ------
    SlideError
        If the slide cannot be read, or has no tissue.
    ModelError
        If the bundle does not say at which mpp it was trained.
    """
    # The errors are those of the steps.
    wish = PredictionWish(mpp=mpp or MppWish())
    work = _work(bundle, recogniser, path, wish, lambda _event: None, 1)
    with open_slide(path, wish.mpp) as slide:
        predictions, look, refusal, _ = _recognise_tiles(work, slide, 1)
        fit = not (refusal or _unlike(work, slide, predictions, look))
    score = _score(work, predictions)
    return score if fit and math.isfinite(score) else math.inf


def _promises(bundle: Bundle, site: str) -> list[PromiseFacts]:
    return [one for one in bundle.facts.promises if one.unit == "slides" and one.site == site]


def _require_site(bundle: Bundle, site: str) -> None:
    if site and not _promises(bundle, site):
        known = ", ".join(sorted({one.site for one in bundle.facts.promises if one.unit == "slides" and one.site}))
        told = f"it promises something of {known}" if known else "train it with --certify and --by-site"
        raise PlanError(f"{bundle.folder}: promises nothing of the site {site!r}; {told}")


def _triage(work: _Work, predictions: TilePredictions, *, fit: bool) -> dict[str, Any] | None:
    # None where the model promises nothing of slides.
    promises = _promises(work.bundle, work.wish.site)
    if not promises:
        return None
    facts = next((one for one in promises if one.threshold is not None), promises[0])
    promise, words = facts.promise, facts.promise.in_words()
    if facts.scoring != slide_scoring(work.wish):
        promise = replace(promise, threshold=NOTHING)
        words = (
            "Nothing is called clear: the promise was certified with other options, or by another Sentinode "
            f"({facts.scoring.get('sentinode')}), and holds for no other."
        )
    score = _score(work, predictions) if fit else math.nan
    return {"verdict": triage_of(score, promise), "kind": promise.kind, "words": words}


def _write_cohort(run: PredictionRun, bundle: Bundle, out: Path) -> None:
    # Every slide of this model that lies in OUT, of earlier calls as well; not one that has just failed.
    failed = {slide_id_of(name) for name in run.failures}
    there = (_read_result(folder) for folder in sorted(out.iterdir()) if folder.is_dir())
    results = _ordered(one for one in there if one and one["model"] == bundle.digest and one["slide_id"] not in failed)
    write_cohort_page(results, run.failures, bundle.facts, out / "index.html")
    columns = (
        "slide_id",
        "verdict",
        "triage",
        "score",
        "regions",
        "suspicious_mm2",
        "tiles",
        "recognised",
        "spared",
        "mpp",
        "path",
    )
    lost = [
        {"slide_id": slide_id_of(name), "verdict": f"failed: {why}", "path": name} for name, why in run.failures.items()
    ]
    try:
        with whole_file(out / "slides.csv") as part:
            rows = [
                {**one, "triage": (one.get("triage") or {}).get("verdict", ""), "spared": _spared_of(one)}
                for one in results
            ]
            pd.DataFrame([*rows, *lost], columns=list(columns)).to_csv(part, index=False)
    except OSError as error:
        raise ExportError(f"{out / 'slides.csv'}: cannot be written ({error.strerror or error}); make room") from error


def _spared_of(result: Mapping[str, Any]) -> str:
    known = result.get("first_look")
    if not known:
        return ""
    return "stepped back" if known["stepped_back"] else str(known["spared"])


def _unlike(work: _Work, slide: Slide, predictions: TilePredictions, look: SlideLook) -> tuple[str, ...]:
    # A warning of what is unlike the training images. A model that knows no single tiles, as older ones, is asked of
    # the colours of some.
    if look.level != "unknown":
        return (look.warning,) if look.warning else ()
    rows = np.flatnonzero(predictions.recognised)
    if work.typicality is None or len(rows) == 0:
        return ()
    some = rows[evenly(len(rows), LOOKED_AT)]
    tile = Size(predictions.tile_px, predictions.tile_px)
    tiles = np.stack([slide.read_pixels(Box(*predictions.boxes[row].tolist()), tile) for row in some.tolist()])
    from sentinode.algorithms.descriptors import stain_statistics  # noqa: PLC0415 - a second, for older models only

    warning = unlike_training(work.typicality, stain_statistics(tiles))
    return (warning,) if warning else ()


def _refusal(flag: NDArray[np.str_]) -> str:
    findings = quality_findings([frozenset({reason}.intersection(REASONS)) for reason in flag.tolist()])
    fit, reason = usable(findings)
    return "" if fit else reason


def _predictions(
    work: _Work, slide: Slide, grid: TileGrid, found: Recognised, *, stepped_back: bool
) -> TilePredictions:
    info = slide.info
    return TilePredictions(
        boxes=grid.boxes,
        proba=found.proba,
        classes=work.bundle.facts.classes,
        tile_px=grid.tile_px,
        mpp=grid.mpp,
        slide_id=info.slide_id,
        slide_size=info.size,
        slide_mpp=info.scale.mpp,
        fingerprint=info.fingerprint,
        model=work.bundle.digest,
        tissue=grid.tissue,
        flag=found.flag,
        typicality=work.gate.p_values(found.measured) if found.measured.shape[1] else None,
        spared=None if work.first_look is None else found.spared,
        facts={
            "mpp_source": info.mpp_source,
            "grid": grid.fingerprint,
            "vendor": info.vendor,
            "reader": info.reader,
            "overlap": work.wish.overlap,
            **({} if work.first_look is None else {"stepped_back": stepped_back}),
            "bounds": None if info.bounds is None else [info.bounds.x, info.bounds.y],
        },
    )


def _result(work: _Work, path: Path, read: _Read, key: str, seconds: float) -> dict[str, Any]:
    predictions, positive = read.predictions, work.bundle.facts.positive
    score = math.nan if read.refusal else _score(work, predictions)
    regions = () if read.refusal else suspicious_regions(predictions)
    if read.refusal:
        verdict = f"refused: {read.refusal}"
    elif score >= THRESHOLD:
        verdict = f"suspicious of {positive}"
    else:
        verdict = f"single suspicious tiles, {positive} not likely" if regions else f"no {positive} found"
    return {
        "format": FORMAT,
        "slide_id": predictions.slide_id,
        "path": str(path),
        "verdict": verdict,
        "score": score if np.isfinite(score) else None,
        "triage": read.triage,
        "score_by": PLAIN_SCORE if work.scorer is None else work.scorer.in_words,
        "regions": len(regions),
        "heatmap": _heatmap_facts(work, read),
        "first_look": _first_look_facts(work, predictions),
        "largest_mm": None if not regions else [round(value, 4) for value in max(one.extent_mm for one in regions)],
        "suspicious_mm2": round(sum(one.area_mm2 for one in regions), 5),
        "tiles": len(predictions),
        "recognised": int(predictions.recognised.sum()),
        "left_out": _left_out(predictions),
        "typicality": read.look.facts,
        "mpp": predictions.slide_mpp,
        "mpp_source": predictions.facts["mpp_source"],
        "warnings": list(read.warnings),
        "model": predictions.model,
        "slide": predictions.fingerprint,
        "key": key,
        "seconds": round(seconds, 2),
        "profile": {name: round(value, 3) for name, value in read.profile.items()},
        "runtime": dict(work.recogniser.runtime),
        "versions": {"sentinode": __version__, "python": platform.python_version()},
    }


def _first_look_facts(work: _Work, predictions: TilePredictions) -> dict[str, Any] | None:
    if work.first_look is None or predictions.spared is None:
        return None
    spared, stepped_back = int(predictions.spared.sum()), bool(predictions.facts.get("stepped_back"))
    return {"spared": spared, "stepped_back": stepped_back, "promise": "" if stepped_back else work.first_look.in_words}


def _score(work: _Work, predictions: TilePredictions) -> float:
    return slide_score(predictions) if work.scorer is None else work.scorer.score(predictions)


def _left_out(predictions: TilePredictions) -> dict[str, int]:
    return dict(Counter(predictions.flag[~predictions.recognised].tolist()).most_common())


def _write(work: _Work, slide: Slide, read: _Read, result: dict[str, Any], folder: Path) -> None:
    predictions, begun = read.predictions, time.perf_counter()
    overlaid, dense = work.wish.overlay and not read.refusal, _shown_map(read)
    try:
        # An earlier one is of another model, of other options, or of what the slide was before.
        with whole_folder(folder, replace=True) as part, ThreadPoolExecutor(1) as beside:
            whole = part / "overlay.tif"
            pyramid = beside.submit(write_overlay, whole, slide, predictions, dense) if overlaid else None
            write_predictions(predictions, part / "tiles.parquet")
            for name in () if read.refusal else work.wish.exports:
                export_writer(name)(predictions, part / f"{predictions.slide_id}{EXPORTS[name][1]}")
            if dense is not None:
                write_dense_map(part / "probability.tif", dense, predictions)
            overlay = heat_overlay(read.thumbnail, probability_map(predictions, THUMBNAIL_PX, dense))
            Image.fromarray(overlay).save(part / "heatmap.png", compress_level=1)
            view = SlideView(
                predictions=predictions,
                score=float("nan") if result["score"] is None else result["score"],
                score_by=result["score_by"],
                verdict=result["verdict"],
                thumbnail=read.thumbnail,
                overlay=overlay,
                heatmap_note=_heatmap_note(read),
                regions=suspicious_regions(predictions),
                refused=bool(read.refusal),
                fields=read.fields,
                field_mpp=read.field_mpp,
                quality=result["left_out"],
                typicality=result["typicality"],
                warnings=read.warnings,
                facts=work.bundle.facts,
                triage=result["triage"],
                footer=_footer(work.bundle, result),
            )
            try:
                write_slide_page(view, part / "report.html")
            except ExportError as error:  # of the folder that is to be, not of the one that was being written
                raise ExportError(str(error).replace(str(part), str(folder))) from error
            if pyramid is not None:
                pyramid.result()
            result["profile"]["writing"] = round(time.perf_counter() - begun, 3)
            result["files"] = {file.name: file.stat().st_size for file in sorted(part.iterdir())}
            (part / _RESULT).write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    except OSError as error:
        raise ExportError(
            f"{folder}: cannot be written ({error.strerror or error}); make room, or choose another --out"
        ) from error


def _spared(result: Mapping[str, Any]) -> str:
    known = result["first_look"]
    if known["stepped_back"]:
        return "stepped back: the tissue looks otherwise than that which it was fitted on, and the model saw every tile"
    return f"spared the model {known['spared']:,} of {result['recognised']:,} tiles; {known['promise']}"


def _footer(bundle: Bundle, result: Mapping[str, Any]) -> dict[str, str]:
    return {
        "slide": f"{result['path']}, {result['mpp']:.4g} um a pixel ({result['mpp_source']})",
        "content of the slide": str(result["slide"]),
        "model": f"{bundle.facts.algorithm}, {bundle.digest}",
        "runtime": " ".join(filter(None, (result["runtime"]["engine"], result["runtime"].get("precision")))),
        "Sentinode": __version__,
        "seconds": f"{result['seconds']:.1f} for {result['tiles']:,} tiles",
        **({} if result["first_look"] is None else {"first look": _spared(result)}),
    }
