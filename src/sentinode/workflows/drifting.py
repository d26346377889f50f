"""Has the scanner, the stain or the mix of cases changed since a model was trained? Asked of new cases, in order."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sentinode.algorithms.descriptors import DESCRIPTORS, stain_statistics
from sentinode.data.manifest import Manifest, read_manifest
from sentinode.data.patches import PatchSource
from sentinode.errors import ExportError, ManifestError, ModelError, PlanError, SlideError
from sentinode.evaluation.drift import DriftTest, drift_test
from sentinode.evaluation.typicality import Typicality, evenly
from sentinode.geometry import Box, Size
from sentinode.models.bundle import Bundle, read_bundle
from sentinode.slides.naming import slide_id_of
from sentinode.slides.quality import tile_quality
from sentinode.slides.resolution import MppWish
from sentinode.slides.slide import open_slide
from sentinode.slides.tiling import tile_grid
from sentinode.slides.tissue import tissue_of
from sentinode.storage import whole_files
from sentinode.workflows.evaluating import require_unseen
from sentinode.workflows.slide_evaluation import require_unseen as require_unseen_slides
from sentinode.workflows.slide_inputs import find_slides

__all__ = ["LOOKED_AT", "DriftReport", "find_drift"]

LOOKED_AT = 200
"""Tiles of a case, spread evenly over its tissue."""

TOLD, SMALLEST = 4, 0.5
"""Shifts that are put into words, and standard deviations of the training images below which none is worth words."""

FEW = 20
"""Tiles of a case below which its median distance varies more than is told without a warning."""

MANIFESTS = frozenset({".csv", ".parquet"})

Look = Callable[[], NDArray[np.float32]]


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
    distance : (n,) float64
        Of each, from the training images, in standard deviations.
    n_tiles : (n,) int64
        Tiles of each that were looked at.
    test : DriftTest
        Evidence after each.
    shifts : mapping of str to float
        Column of `stain_statistics` -> mean of the cases less that of the training images, in standard deviations of
        training images.
    failures : mapping of str to str
        Case -> why it was not looked at.
    """

    model: str
    n_known: int
    cases: tuple[str, ...]
    distance: NDArray[np.float64]
    n_tiles: NDArray[np.int64]
    test: DriftTest
    shifts: Mapping[str, float]
    failures: Mapping[str, str]

    @property
    def frame(self) -> pd.DataFrame:
        """``case, tiles, distance, p_value, log10_evidence``: a row a case, in order."""
        return pd.DataFrame({
            "case": self.cases,
            "tiles": self.n_tiles,
            "distance": self.distance.round(4),
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
            return (f"No alarm in {n} cases: {evidence}.", "That does not show that nothing changed: more cases may.")
        what = tuple(_in_words(name, shift) for name, shift in self._largest()) or (
            "no single colour statistic by much: it is how they go together that is another",
        )
        these = f"these are not like the {self.n_known} patients that the model was trained on"
        chance = f"Were they, such evidence would ever come with a probability of at most {test.alarm:g}"
        return (
            f"CHANGED, after {at} of {n} cases: {these}. {chance}.",
            f"What changed, in standard deviations of the training images: {'; '.join(what)}.",
            "Another scanner, stain or mix of cases: measure the model on these cases before you rely on it.",
            *self._few(),
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
        }

    def _few(self) -> tuple[str, ...]:
        tiles = float(np.median(self.n_tiles))
        if tiles >= FEW:
            return ()
        return (
            f"But half of the cases have at most {tiles:g} tiles. If training patients had more, that alone may alarm.",
        )

    def _largest(self) -> list[tuple[str, float]]:
        ranked = sorted(self.shifts.items(), key=lambda one: -abs(one[1]))
        return [(name, shift) for name, shift in ranked[:TOLD] if abs(shift) >= SMALLEST]


class _Case(NamedTuple):
    name: str
    look: Look  # (m, 17): `stain_statistics` of its tiles


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
        Folder for ``drift.csv`` and ``drift.json``; they appear whole, and together.
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
        If the model was trained on one of the cases.
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
    cases, failures = _of_manifest(paths[0], bundle) if of_table else _of_slides(paths, bundle, mpp or MppWish())
    looked: dict[str, NDArray[np.float32]] = {}
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
    report = _report(bundle, typicality, looked, failures, alarm)
    if out is not None:
        _write(report, Path(out))
    return report


def _of_slides(paths: Sequence[Path], bundle: Bundle, wish: MppWish) -> tuple[list[_Case], dict[str, str]]:
    tile_mpp, slides = bundle.mpp_of_tiles(), find_slides(paths)
    lost = require_unseen_slides(slides, {slide_id_of(path): "" for path in slides}, bundle)
    failures = {slide_id_of(Path(name)): why for name, why in lost.items()}
    side = bundle.facts.tile.width
    there = [path for path in slides if str(path) not in lost]
    return [_Case(slide_id_of(path), partial(_look_at_slide, path, wish, side, tile_mpp)) for path in there], failures


def _look_at_slide(path: Path, wish: MppWish, side: int, mpp: float) -> NDArray[np.float32]:
    with open_slide(path, wish) as slide:
        grid = tile_grid(slide.info, tissue_of(slide), tile_px=side, mpp=mpp)
        if len(grid) == 0:
            raise SlideError(f"{path}: no tissue was found on it")
        tiles = [
            slide.read_pixels(Box(*grid.boxes[row].tolist()), Size(side, side)) for row in evenly(len(grid), LOOKED_AT)
        ]
    pixels = np.stack(tiles)
    fit = np.array([not flags for flags in tile_quality(pixels, mpp).flags])
    if not fit.any():
        raise SlideError(f"{path}: none of its tiles is fit to be looked at (blurred, inked or folded)")
    return stain_statistics(pixels[fit])


def _of_manifest(path: Path, bundle: Bundle) -> tuple[list[_Case], dict[str, str]]:
    table, tile = read_manifest(path), bundle.facts.tile
    require_unseen(bundle, table, path)
    shape = (tile.height, tile.width)
    found = [_Case(name, partial(_look_at_rows, table, rows, shape)) for name, rows in _groups(table)]
    if not found:
        raise ManifestError(f"{path}: names neither patients nor slides; patches of one are no cases of their own")
    return found, {}


def _groups(table: Manifest) -> Iterator[tuple[str, NDArray[np.int64]]]:
    # In the order of the table.
    for name in dict.fromkeys(table.groups.tolist()):
        if name:
            yield name, np.flatnonzero(table.groups == name)


def _look_at_rows(table: Manifest, rows: NDArray[np.int64], shape: tuple[int, int]) -> NDArray[np.float32]:
    # A source of its own: an image that is broken is the fault of its case alone.
    pixels = PatchSource(table.select(rows[evenly(len(rows), LOOKED_AT)]), shape)[:]
    if pixels.ndim != 4:
        raise ManifestError("features of an encoder: no images whose colours could be looked at")
    return stain_statistics(pixels)


def _report(
    bundle: Bundle,
    typicality: Typicality,
    looked: Mapping[str, NDArray[np.float32]],
    failures: Mapping[str, str],
    alarm: float,
) -> DriftReport:
    distance = np.array([float(np.median(typicality.distance(one))) for one in looked.values()])
    spread = np.sqrt(np.diag(np.linalg.inv(typicality.precision)))
    middle = np.mean([one.mean(axis=0, dtype=np.float64) for one in looked.values()], axis=0)
    shift = (middle - typicality.mean) / spread
    return DriftReport(
        model=bundle.digest,
        n_known=len(typicality.held_out),
        cases=tuple(looked),
        distance=distance,
        n_tiles=np.array([len(one) for one in looked.values()], dtype=np.int64),
        test=drift_test(typicality.held_out, distance, alarm),
        shifts=dict(zip(DESCRIPTORS["stain"].columns, shift.tolist(), strict=True)),
        failures=failures,
    )


_PLACES = {
    "p5": "where it is palest (5 % of the pixels)",
    "p25": "where it is pale (a quarter of the pixels)",
    "p50": "at the median pixel",
    "p75": "where it is dark (a quarter of the pixels)",
    "p95": "where it is darkest (5 % of the pixels)",
}


def _in_words(column: str, shift: float) -> str:
    # A column of `stain_statistics` as a person would say it.
    more, far = "more" if shift > 0 else "less", f"({shift:+.1f})"
    stain, _, what = column.partition("_")
    if what == "mean":
        return f"{more} {stain} on the whole {far}"
    if what == "sd":
        return f"{stain} {more} uneven {far}"
    if what == "skewness":
        return f"{stain} {more} gathered in small dark places {far}"
    if what in _PLACES:
        return f"{more} {stain} {_PLACES[what]} {far}"
    return f"haematoxylin and eosin {more} in the same places {far}"


def _write(report: DriftReport, out: Path) -> None:
    try:
        with whole_files((out / "drift.csv", out / "drift.json")) as (table, whole):
            report.frame.to_csv(table, index=False)
            whole.write_text(json.dumps(report.to_json(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    except OSError as error:
        raise ExportError(f"{out}: cannot be written ({error.strerror or error}); choose another --out") from error
