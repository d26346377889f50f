"""Has the scanner, the stain or the mix of cases changed since a model was trained? Asked of new cases, in order."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sentinode._version import __version__
from sentinode.algorithms.descriptors import DESCRIPTORS, stain_statistics
from sentinode.data.manifest import Manifest, read_manifest
from sentinode.data.patches import PatchSource
from sentinode.errors import ExportError, ManifestError, ModelError, PlanError, SlideError
from sentinode.evaluation.drift import DriftTest, drift_test, joined
from sentinode.evaluation.typicality import Neighbourhood, Typicality, evenly
from sentinode.geometry import Box, Size
from sentinode.models.bundle import Bundle, read_bundle
from sentinode.report.drift_page import DriftView, write_drift_page
from sentinode.slides.appearance import appearance, appearance_columns
from sentinode.slides.naming import slide_id_of
from sentinode.slides.quality import IN_AIR
from sentinode.slides.resolution import MppWish
from sentinode.slides.slide import open_slide
from sentinode.slides.tiling import tile_grid
from sentinode.slides.tissue import survey
from sentinode.storage import whole_files
from sentinode.workflows.evaluating import FOREIGN_IDS, require_unseen
from sentinode.workflows.refusing import Gate, gate_of
from sentinode.workflows.slide_evaluation import require_unseen as require_unseen_slides
from sentinode.workflows.slide_inputs import find_slides

__all__ = ["LOOKED_AT", "DriftReport", "find_drift"]

LOOKED_AT = 200
"""Tiles of a case, spread evenly over its tissue."""

TOLD, SMALLEST = 4, 0.5
"""Shifts that are put into words, and standard deviations of the training images below which none is worth words."""

LOOKS: Mapping[str, Mapping[str, float]] = MappingProxyType({
    "density": {"density": 1.0},
    "sharpness": {"octave_1": 1.0, "octave_4": -1.0},
    "cold": {"cold_mean": 1.0},
    "pink": {"pink_mean": 1.0},
})
"""What is said of structure and colours -> weights of columns of `appearance`. Sharpness is the finest detail over that
of four pixels; cold and pink are differences of densities, red less blue and green less both."""

FEW = 20
"""Tiles of a case below which its median distance varies more than is told without a warning."""

MANIFESTS = frozenset({".csv", ".parquet"})


@dataclass(frozen=True, eq=False)
class DriftReport:
    """What new cases say.

    Parameters
    ----------
    model : str
        Digest of the bundle.
    n_known : int
        Training patients that the cases are held against.
    cases : tuple of str
        Patients where they are known, else slides, in their order.
    distances : mapping of str to (n,) float64
        Statistic -> how far each is from the training images, in standard deviations: ``stain`` by the amounts of
        haematoxylin and eosin, ``appearance`` by structure and colours; the latter where the model knows single tiles.
    known : mapping of str to (m,) float64
        The same of each training patient, left out.
    n_tiles : (n,) int64
        Tiles of each that were looked at.
    test : DriftTest
        Evidence after each, of all statistics together.
    shifts : mapping of str to float
        Column of `stain_statistics`, or one of `LOOKS` -> mean of the cases less that of the training images, in
        standard deviations of training images.
    failures : mapping of str to str
        Case -> why it was not looked at.
    notes : tuple of str
        What a reader must know.
    """

    model: str
    n_known: int
    cases: tuple[str, ...]
    distances: Mapping[str, NDArray[np.float64]]
    known: Mapping[str, NDArray[np.float64]]
    n_tiles: NDArray[np.int64]
    test: DriftTest
    shifts: Mapping[str, float]
    failures: Mapping[str, str]
    notes: tuple[str, ...] = ()

    @property
    def frame(self) -> pd.DataFrame:
        """``case, tiles, distance_<statistic> ..., p_value, log10_evidence``: a row a case, in order."""
        return pd.DataFrame({
            "case": self.cases,
            "tiles": self.n_tiles,
            **{f"distance_{name}": one.round(4) for name, one in self.distances.items()},
            "p_value": self.test.p_values.round(6),
            "log10_evidence": self.test.log10_evidence.round(4),
        })

    def in_words(self) -> tuple[str, ...]:
        """Say it.

        Returns
        -------
        tuple of str
            What was found, and what changed most.
        """
        test, n, needed = self.test, len(self.cases), 1 / self.test.alarm
        at = test.alarmed_at
        if at is None:
            most = 10 ** min(max(float(test.log10_evidence.max()), 0.0), 300.0)
            evidence = f"the evidence that something changed reached {most:.2g}, and {needed:g} would be needed"
            more = "That does not show that nothing changed: more cases may."
            return (f"No alarm in {n} cases: {evidence}.", more, *self.notes)
        what = tuple(f"{_in_words(name, shift)} ({shift:+.1f})" for name, shift in self.ranked()) or (
            "no single number by much: it is how they go together that is another",
        )
        these = f"these are not like the {self.n_known} patients that the model was trained on"
        chance = f"Were they, such evidence would ever come with a probability of at most {test.alarm:g}"
        return (
            f"CHANGED, after {at} of {n} cases: {these}. {chance}.",
            f"What changed, in standard deviations of the training images: {'; '.join(what)}.",
            "Another scanner, stain or mix of cases: measure the model on these cases before you rely on it.",
            *self._few(),
            *self.notes,
        )

    def to_json(self) -> dict[str, Any]:
        """Write it as JSON would.

        Returns
        -------
        dict
            All of it.
        """
        return {
            "model": self.model,
            "n_known": self.n_known,
            "n_cases": len(self.cases),
            "alarm": self.test.alarm,
            "alarmed_at": self.test.alarmed_at,
            "words": list(self.in_words()),
            "shifts": {name: round(value, 4) for name, value in self.shifts.items()},
            "cases": self.frame.to_dict(orient="records"),
            "failures": dict(self.failures),
            "notes": list(self.notes),
        }

    def ranked(self) -> list[tuple[str, float]]:
        """List what changed.

        Returns
        -------
        list of (str, float)
            Name and shift of what is worth words: of the looks each, and of the amounts of stain, of which there are
            many, the largest.
        """
        ordered = sorted(self.shifts.items(), key=lambda one: -abs(one[1]))
        told = [one for one in ordered if abs(one[1]) >= SMALLEST]
        looks = [one for one in told if one[0] in LOOKS]
        return [*looks, *[one for one in told if one[0] not in LOOKS][:TOLD]]

    def _few(self) -> tuple[str, ...]:
        tiles = float(np.median(self.n_tiles))
        if tiles >= FEW:
            return ()
        return (
            f"But half of the cases have at most {tiles:g} tiles. If training patients had more, that alone may alarm.",
        )


class _Looks(NamedTuple):
    # Of the m tiles of a case.
    stain: NDArray[np.float32]  # (m, 17): `stain_statistics`
    appearance: NDArray[np.float32] | None  # (m, d); None where the model does not know single tiles


class _Case(NamedTuple):
    name: str
    look: Callable[[], _Looks]


class _Known(NamedTuple):
    # What a model knows of its training images.
    typicality: Typicality
    gate: Gate

    def look(self, pixels: NDArray[np.uint8], mpp: float | None, where: Path) -> _Looks:
        fit = pixels[self.gate.judge(mpp)(pixels) == ""]
        if not len(fit):
            raise SlideError(f"{where}: no tile is fit to be looked at: blurred, inked, folded, or no stained tissue")
        return _Looks(stain_statistics(fit), appearance(fit) if self.gate.everything is not None else None)


def find_drift(
    inputs: Sequence[Path | str],
    model: Path | str,
    alarm: float = 0.01,
    *,
    mpp: MppWish | None = None,
    out: Path | str | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> DriftReport:
    """Test whether new cases are like those that a model was trained on, and say what changed.

    Parameters
    ----------
    inputs : sequence of Path or str
        Slides, or folders of slides, in the order in which they came (those of a folder: by name), each of another
        patient; or one manifest, whose cases are its patients where known, else its slides.
    model : Path or str
        Folder of a bundle.
    alarm : float
        Probability of a false alarm, ever.
    mpp : MppWish, optional
        What is known of the slides' resolution beside their files.
    out : Path or str, optional
        Folder for ``drift.html``, ``drift.csv`` and ``drift.json``; they appear whole, and together.
    on_progress : callable, optional
        Called with the number of cases done and their total.

    Returns
    -------
    DriftReport
        A case that cannot be read stops no other, and is none of the stream.

    Raises
    ------
    PlanError
        If `alarm` is no probability, or a manifest is given beside something else.
    ModelError
        If the bundle cannot be read, or does not know what its training images look like.
    LeakageError
        If the model was trained on one of the cases, as far as ids (under this laboratory's salt) and contents tell.
    ManifestError
        If the manifest cannot be read, names neither patient nor slide, or no case of it can be read.
    SlideError
        If there is no slide, or none can be read.
    ExportError
        If `out` cannot be written.
    """
    # LeakageError is that of the steps, and the others' too.
    drift_test([], [], alarm)  # refuses what cannot be, before anything is read
    bundle, paths = read_bundle(model), [Path(one) for one in inputs]
    typicality = bundle.typicality()
    if typicality is None:
        raise ModelError(
            f"{bundle.folder}: does not know what its training images look like: it was trained on features, or on "
            "fewer than three known patients; train it on three or more"
        )
    of_table = any(path.suffix.lower() in MANIFESTS for path in paths)
    if of_table and len(paths) > 1:
        raise PlanError("give one manifest, or slides and folders of slides, and not both")
    known = _Known(typicality, gate_of(bundle))
    if of_table:
        cases, failures = _of_manifest(paths[0], bundle, known)
    else:
        cases, failures = _of_slides(paths, bundle, known, mpp or MppWish())
    looked: dict[str, _Looks] = {}
    for number, case in enumerate(cases, start=1):
        try:
            looked[case.name] = case.look()
        except (SlideError, ManifestError, OSError) as error:
            failures[case.name] = str(error)
        if on_progress is not None:
            on_progress(number, len(cases))
    if not looked:
        kind = ManifestError if of_table else SlideError
        raise kind(f"none of {len(failures)} cases could be looked at; the first: {next(iter(failures.values()))}")
    report = _report(bundle, known, looked, failures, alarm)
    if out is not None:
        _write(report, bundle, Path(out))
    return report


def _of_slides(
    paths: Sequence[Path], bundle: Bundle, known: _Known, wish: MppWish
) -> tuple[list[_Case], dict[str, str]]:
    tile_mpp, slides = bundle.mpp_of_tiles(), find_slides(paths)
    lost = require_unseen_slides(slides, {slide_id_of(path): "" for path in slides}, bundle)
    failures = {slide_id_of(Path(name)): why for name, why in lost.items()}
    side = bundle.facts.tile.width
    there = [path for path in slides if str(path) not in lost]
    look = partial(_look_at_slide, wish=wish, side=side, mpp=tile_mpp, known=known)
    return [_Case(slide_id_of(path), partial(look, path)) for path in there], failures


def _look_at_slide(path: Path, wish: MppWish, side: int, mpp: float, known: _Known) -> _Looks:
    with open_slide(path, wish) as slide:
        seen = survey(slide)
        boxes = tile_grid(slide.info, seen.tissue, tile_px=side, mpp=mpp).boxes
        if len(boxes) == 0:
            raise SlideError(f"{path}: no tissue was found on it")
        boxes = boxes[seen.air.share(boxes) < IN_AIR]
        if len(boxes) == 0:
            raise SlideError(f"{path}: all of its tissue lies under a bubble of air")
        tiles = [
            slide.read_pixels(Box(*boxes[row].tolist()), Size(side, side)) for row in evenly(len(boxes), LOOKED_AT)
        ]
    return known.look(np.stack(tiles), mpp, path)


def _of_manifest(path: Path, bundle: Bundle, known: _Known) -> tuple[list[_Case], dict[str, str]]:
    table, tile = read_manifest(path), bundle.facts.tile
    require_unseen(bundle, table, path)
    shape = (tile.height, tile.width)
    found = [_Case(name, partial(_look_at_rows, table, rows, shape, known)) for name, rows in _groups(table)]
    if not found:
        raise ManifestError(f"{path}: names neither patients nor slides; patches of one are no cases of their own")
    return found, {}


def _groups(table: Manifest) -> Iterator[tuple[str, NDArray[np.int64]]]:
    # In the order of the table.
    for name in dict.fromkeys(table.groups.tolist()):
        if name:
            yield name, np.flatnonzero(table.groups == name)


def _look_at_rows(table: Manifest, rows: NDArray[np.int64], shape: tuple[int, int], known: _Known) -> _Looks:
    # A source of its own: an image that is broken is the fault of its case alone.
    pixels = PatchSource(table.select(rows[evenly(len(rows), LOOKED_AT)]), shape)[:]
    if pixels.ndim != 4:
        raise ManifestError("features of an encoder: no images whose colours could be looked at")
    return known.look(pixels, None, table.root)


def _report(
    bundle: Bundle,
    known: _Known,
    looked: Mapping[str, _Looks],
    failures: Mapping[str, str],
    alarm: float,
) -> DriftReport:
    typicality, everything = known.typicality, known.gate.everything
    stains = [one.stain for one in looked.values()]
    distances, known_distances = {"stain": _medians(typicality, stains)}, {"stain": typicality.held_out}
    spread = np.sqrt(np.diag(np.linalg.inv(typicality.precision)))
    shift = (_middle(stains) - typicality.mean) / spread
    shifts = dict(zip(DESCRIPTORS["stain"].columns, shift.tolist(), strict=True))
    looks = [one.appearance for one in looked.values() if one.appearance is not None]
    if everything is not None:
        distances["appearance"], known_distances["appearance"] = _medians(everything, looks), everything.medians
        side = min(bundle.facts.tile.width, bundle.facts.tile.height)
        shifts |= _shifts_of_looks(everything, _middle(looks), appearance_columns(side))
    tests = [drift_test(known_distances[name], one, alarm) for name, one in distances.items()]
    return DriftReport(
        model=bundle.digest,
        n_known=len(typicality.held_out),
        cases=tuple(looked),
        distances=distances,
        known=known_distances,
        n_tiles=np.array([len(one) for one in stains], dtype=np.int64),
        test=joined(tests),
        shifts=shifts,
        failures=failures,
        notes=() if bundle.seen().knows_ids else (FOREIGN_IDS,),
    )


def _medians(known: Typicality | Neighbourhood, looks: Sequence[NDArray[np.float32]]) -> NDArray[np.float64]:
    return np.array([float(np.median(known.distance(one))) for one in looks])


def _middle(looks: Sequence[NDArray[np.float32]]) -> NDArray[np.float64]:
    # Each case weighs the same.
    return np.asarray(np.mean([one.mean(axis=0, dtype=np.float64) for one in looks], axis=0))


def _shifts_of_looks(known: Neighbourhood, middle: NDArray[np.float64], columns: Sequence[str]) -> dict[str, float]:
    # Sharpness is a difference of two logarithms, so its spread is not that of one column.
    found = {}
    for name, weights in LOOKS.items():
        contrast = np.array([weights.get(column, 0.0) for column in columns])
        spread = float(np.sqrt(contrast @ known.covariance @ contrast))
        found[name] = float(contrast @ (middle - known.centre)) / spread
    return found


_PLACES = {
    "p5": "where it is palest (5 % of the pixels)",
    "p25": "where it is pale (a quarter of the pixels)",
    "p50": "at the median pixel",
    "p75": "where it is dark (a quarter of the pixels)",
    "p95": "where it is darkest (5 % of the pixels)",
}


_OF_LOOKS = {
    "density": ("paler on the whole", "darker on the whole"),
    "sharpness": ("less sharp", "sharper, or noisier"),
    "cold": ("redder", "bluer"),
    "pink": ("less pink and violet, greyer", "pinker"),
}


def _in_words(column: str, shift: float) -> str:
    # A column of `stain_statistics` as a person would say it.
    if column in LOOKS:
        return _OF_LOOKS[column][int(shift > 0)]
    more = "more" if shift > 0 else "less"
    stain, _, what = column.partition("_")
    if what == "mean":
        return f"{more} {stain} on the whole"
    if what == "sd":
        return f"{stain} {more} uneven"
    if what == "skewness":
        return f"{stain} {more} gathered in small dark places"
    if what in _PLACES:
        return f"{more} {stain} {_PLACES[what]}"
    return f"haematoxylin and eosin {more} in the same places"


def _write(report: DriftReport, bundle: Bundle, out: Path) -> None:
    view = DriftView(
        cases=report.cases,
        distances=report.distances,
        known=report.known,
        test=report.test,
        shifts=[(_in_words(name, shift), shift) for name, shift in report.ranked()],
        words=report.in_words(),
        failures=report.failures,
        facts=bundle.facts,
        footer={"model": f"{bundle.facts.algorithm}, {bundle.digest}", "Sentinode": __version__},
    )
    try:
        with whole_files((out / "drift.html", out / "drift.csv", out / "drift.json")) as (page, table, whole):
            write_drift_page(view, page)
            report.frame.to_csv(table, index=False)
            whole.write_text(json.dumps(report.to_json(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    except OSError as error:
        raise ExportError(f"{out}: cannot be written ({error.strerror or error}); choose another --out") from error
