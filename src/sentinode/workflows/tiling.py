"""From slides and what was drawn on them to a manifest of tiles; nothing is cut to disk."""

import math
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd

from sentinode.data.manifest import MAX_TILE_PX, Manifest, Provenance, write_manifest
from sentinode.errors import ManifestError, PlanError, SlideError
from sentinode.geometry import Box
from sentinode.slides.annotation_files import annotation_for, read_annotations
from sentinode.slides.annotations import CAMELYON, EXCLUDE, Annotations
from sentinode.slides.naming import slide_id_of
from sentinode.slides.quality import IN_AIR
from sentinode.slides.resolution import MppWish
from sentinode.slides.slide import open_slide
from sentinode.slides.tile_labels import TileLabels, label_boxes
from sentinode.slides.tiling import MINIMUM_TISSUE, TileGrid, tile_grid
from sentinode.slides.tissue import survey
from sentinode.workflows.slide_inputs import find_slides, read_slide_table, require_shares, without_slide

__all__ = ["TilesReport", "TilesWish", "make_tiles", "parse_classes"]


@dataclass(frozen=True)
class TilesWish:
    """How tiles shall be laid and labelled.

    Parameters
    ----------
    mpp : float
        Micrometres a pixel of the tiles.
    tile_px : int
        Side of a tile.
    annotations : Path, optional
        Folder of drawings; a slide's has its stem.
    slides : Path, optional
        A table: ``slide_id`` and, each optional, ``patient_id, site, label``.
    classes : mapping of str to str
        Name in the drawings -> class, or ``exclude``.
    background : str
        Class of tiles where nothing was drawn.
    unannotated : {"refuse", "background", "leave-out"}
        What becomes of a slide without a drawing whose label the table does not give as the background.
    rule, minimum, ambiguous
        As in `label_boxes`.
    overlap, minimum_tissue : float
        As in `tile_grid`.
    slide_mpp : MppWish
        What is known of the slides' resolution beside the files.

    Raises
    ------
    PlanError
        If a number cannot be.
    """

    mpp: float
    tile_px: int
    annotations: Path | None = None
    slides: Path | None = None
    classes: Mapping[str, str] = field(default_factory=lambda: dict(CAMELYON))
    background: str = "normal"
    unannotated: Literal["refuse", "background", "leave-out"] = "refuse"
    rule: Literal["centre", "area"] = "centre"
    minimum: float = 0.0
    ambiguous: float = 0.0
    overlap: float = 0.0
    minimum_tissue: float = MINIMUM_TISSUE
    slide_mpp: MppWish = field(default_factory=MppWish)

    def __post_init__(self) -> None:
        if not (math.isfinite(self.mpp) and self.mpp > 0):
            raise PlanError(f"mpp = {self.mpp}: micrometres a pixel of the tiles, e.g. 1.0")
        if not 1 <= self.tile_px <= MAX_TILE_PX:
            raise PlanError(f"tile = {self.tile_px}: a tile has a side of 1 to {MAX_TILE_PX} px, e.g. 96")
        require_shares(overlap=self.overlap, minimum_tissue=self.minimum_tissue)


@dataclass(frozen=True)
class TilesReport:
    """What was made.

    Parameters
    ----------
    manifest : Manifest
        As it was written.
    slides : tuple of mapping
        A row a slide: ``slide_id``, tiles, a count a class, how many were left out and why.
    left_out : mapping of str to int
        Reason -> tiles, over all slides.
    notes : tuple of str
        What a reader must know: drawings that were repaired, names without a class.
    """

    manifest: Manifest
    slides: tuple[Mapping[str, Any], ...]
    left_out: Mapping[str, int]
    notes: tuple[str, ...]


def make_tiles(
    inputs: Sequence[Path | str],
    out: Path | str,
    wish: TilesWish,
    on_progress: Callable[[int, int], None] | None = None,
) -> TilesReport:
    """Lay tiles over the tissue of slides, label them, and write the manifest.

    Parameters
    ----------
    inputs : sequence of Path or str
        Slides, or folders of slides.
    out : Path or str
        The manifest, ``.csv`` or ``.parquet``.
    wish : TilesWish
        How.
    on_progress : callable, optional
        Called with the number of slides done and their total.

    Returns
    -------
    TilesReport
        With what was left out, and why.

    Raises
    ------
    SlideError
        If a slide cannot be read, has no mpp, is too coarse, or has neither a drawing nor a label.
    ManifestError
        If a drawing or the table cannot be used, or no tile is left.
    ExportError
        If the manifest cannot be written.
    """
    # The errors are those of the steps.
    paths = find_slides([Path(one) for one in inputs])
    known = {} if wish.slides is None else read_slide_table(wish.slides)
    root = Path(os.path.commonpath([path.resolve().parent for path in paths]))
    drawn = {path: _drawing(path, wish, known) for path in paths}
    frames, rows, left_out, notes = [], [], Counter[str](), _without_patient(paths, wish, known)
    for number, path in enumerate(paths, start=1):
        with open_slide(path, wish.slide_mpp) as slide:
            seen = survey(slide)
            grid = tile_grid(
                slide.info,
                seen.tissue,
                tile_px=wish.tile_px,
                mpp=wish.mpp,
                overlap=wish.overlap,
                minimum_tissue=wish.minimum_tissue,
            )
            slide_id = slide.info.slide_id
            if slide.info.note:
                notes.append(f"{path.name}: {slide.info.note}")
            bounds = slide.info.bounds
        labels = _labels(grid, drawn[path].placed(bounds), wish).without(seen.air.share(grid.boxes) >= IN_AIR, "air")
        frames.append(_frame(grid, labels, known.get(slide_id, {}), slide_id, path.resolve().relative_to(root)))
        rows.append({
            "slide_id": slide_id,
            "tiles": len(grid),
            **labels.counts,
            "left out": sum(labels.left_out.values()),
        })
        left_out.update(labels.left_out)
        notes += drawn[path].notes
        if on_progress is not None:
            on_progress(number, len(paths))
    manifest = _manifest(frames, drawn, known, wish, root)
    write_manifest(manifest, out)
    return TilesReport(manifest, tuple(rows), dict(left_out), tuple(notes))


def parse_classes(pairs: Sequence[str]) -> dict[str, str]:
    """Read names and classes from a command line.

    Parameters
    ----------
    pairs : sequence of str
        ``name=class``; the class ``exclude`` leaves out what was drawn.

    Returns
    -------
    dict of str to str
        Name -> class; CAMELYON's names where nothing is given.

    Raises
    ------
    ManifestError
        If there is no ``=``.

    Examples
    --------
    >>> parse_classes(["Tumour bed=cancer", "Artefact=exclude"])
    {'Tumour bed': 'cancer', 'Artefact': 'exclude'}
    """
    classes = {}
    for pair in pairs:
        name, sign, label = (part.strip() for part in pair.rpartition("="))
        if not (name and sign and label):
            raise ManifestError(f"--class {pair}: write the name as drawn and its class, e.g. --class Tumor=tumour")
        classes[name] = label
    return classes or dict(CAMELYON)


def _without_patient(paths: Sequence[Path], wish: TilesWish, known: Mapping[str, Mapping[str, str]]) -> list[str]:
    if wish.slides is None:
        return []
    notes = []
    lost = without_slide(known, paths)
    if lost:
        notes.append(f"{wish.slides}: has {len(lost)} rows that fit no slide here, e.g. {lost[0]}")
    nameless = [path.name for path in paths if not known.get(slide_id_of(path), {}).get("patient_id")]
    if nameless:
        notes.append(f"{wish.slides}: says no patient of {', '.join(nameless)}; each counts as a patient of its own")
    return notes


class _Drawing(NamedTuple):
    # What is known of a slide's classes: its regions, or that it has none; None where it is left out.
    annotations: Annotations | None
    notes: tuple[str, ...] = ()

    def placed(self, bounds: Box | None) -> "_Drawing":
        drawn = self.annotations
        return self if drawn is None else self._replace(annotations=drawn.placed(bounds))


def _drawing(path: Path, wish: TilesWish, known: Mapping[str, Mapping[str, str]]) -> _Drawing:
    found = None if wish.annotations is None else annotation_for(path, wish.annotations)
    label = known.get(slide_id_of(path), {}).get("label", "")
    if found is not None:
        annotations = read_annotations(found).mapped(wish.classes)
        return _Drawing(annotations, annotations.notes)
    if label == wish.background or (not label and wish.unannotated == "background"):
        return _Drawing(Annotations(()))
    if wish.unannotated == "leave-out":
        return _Drawing(None, (f"{path.name}: has no drawing, left out",))
    if label:
        raise SlideError(
            f"{path}: is a {label} in {wish.slides}, and nothing was drawn on it; give its drawing, or leave such "
            "slides out with --unannotated leave-out"
        )
    raise SlideError(
        f"{path}: has no drawing in {wish.annotations or '(no --annotations)'}; say --unannotated background if slides "
        f"without one are {wish.background}, or --unannotated leave-out"
    )


def _labels(grid: TileGrid, drawing: _Drawing, wish: TilesWish) -> TileLabels:
    classes = tuple(dict.fromkeys(name for name in wish.classes.values() if name != EXCLUDE))
    if drawing.annotations is None:
        none = np.full(len(grid), "", dtype="<U11")
        reasons = np.full(len(grid), "unannotated", dtype="<U11")
        return TileLabels(none, np.zeros((len(grid), len(classes)), np.float32), reasons)
    return label_boxes(
        grid.boxes,
        drawing.annotations,
        classes,
        background=wish.background,
        rule=wish.rule,
        minimum=wish.minimum,
        ambiguous=wish.ambiguous,
    )


def _frame(grid: TileGrid, labels: TileLabels, known: Mapping[str, str], slide_id: str, path: Path) -> pd.DataFrame:
    kept = labels.labels != ""
    x, y, width, height = grid.boxes[kept].T
    return pd.DataFrame({
        "image_id": [f"{slide_id}_x{across}_y{down}" for across, down in zip(x, y, strict=True)],
        "patient_id": known.get("patient_id", ""),
        "slide_id": slide_id,
        "label": labels.labels[kept],
        "site": known.get("site", ""),
        "path": path.as_posix(),
        "x": x,
        "y": y,
        "width": width,
        "height": height,
        "mpp": grid.mpp,
    })


def _manifest(
    frames: Sequence[pd.DataFrame],
    drawn: Mapping[Path, _Drawing],
    known: Mapping[str, Mapping[str, str]],
    wish: TilesWish,
    root: Path,
) -> Manifest:
    frame = pd.concat(frames, ignore_index=True)
    if frame.empty:
        raise ManifestError("no tile is left: no tissue was found, or no slide has a drawing that can be used")
    looked_for = [name for name in dict.fromkeys(wish.classes.values()) if name != EXCLUDE]
    found = set(frame["label"])
    if not found & set(looked_for):
        names = sorted({name for one in drawn.values() if one.annotations for name in one.annotations.dropped})
        if names:
            raise ManifestError(
                f"no region is of a class that is looked for; the drawings have {', '.join(map(repr, names))}: "
                f"give them classes, e.g. --class {names[0]!r}={looked_for[0]}"
            )
    classes = (wish.background, *(name for name in looked_for if name != wish.background))
    provenance = Provenance(f"tiles of {len(frames)} slides", synthetic=any(_is_drawn(row) for row in known.values()))
    return Manifest(frame, classes, provenance, root, wish.tile_px)


def _is_drawn(row: Mapping[str, str]) -> bool:
    # As the table of phantom slides says of each.
    return row.get("provenance", "").startswith("synthetic")
