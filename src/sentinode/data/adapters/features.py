"""Embeddings that an encoder has computed of the tiles of slides: one HDF5 file a slide.

::

    ROOT/slide-001.h5     features (n, d) float, coords (n, 2) int level-0 px      TRIDENT, CLAM (h5_files/)
    ROOT/slide-002.h5     feats (n, d) float, coords (n, 2) um, attribute unit = "um"      STAMP
    LABELS.csv            slide_id, label; and patient_id, site where they are known

The columns of CLAM (``case_id, slide_id, label``) and STAMP's names (``PATIENT``, ``FILENAME``) are read, too. Every
tile of a slide has the label of its row: right for a slide of one kind, weak for a slide with a small tumour. With
drawings (``annotations``) a tile has the class of what was drawn at its place, and the row's label is only asked of
slides without a drawing. A file is what it is by its arrays, not by its name; files without features (``coords``
alone) are passed over.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sentinode.data.hdf5 import array_in
from sentinode.data.manifest import Manifest, Provenance, order_classes
from sentinode.data.patches import FEATURES
from sentinode.data.tables import read_table
from sentinode.errors import ManifestError
from sentinode.slides.annotation_files import annotation_for, read_annotations
from sentinode.slides.annotations import CAMELYON, EXCLUDE
from sentinode.slides.naming import slide_id_of
from sentinode.slides.tile_labels import label_boxes

__all__ = ["manifest"]

_COLUMNS: Mapping[str, tuple[str, ...]] = {
    "slide_id": ("slide_id", "slide", "FILENAME", "filename"),
    "patient_id": ("patient_id", "case_id", "PATIENT"),
    "label": ("label",),
    "site": ("site",),
}


@dataclass(frozen=True)
class _Slide:
    # One file: n rows of d numbers, the boxes of their tiles in level-0 px where the file tells.
    path: Path
    slide_id: str
    n: int
    d: int
    encoder: str
    boxes: NDArray[np.int64] | None


def manifest(
    root: Path,
    *,
    labels: Path | str | None = None,
    annotations: Path | str | None = None,
    classes: Mapping[str, str] | None = None,
    background: str = "normal",
    positive: str | None = None,
) -> Manifest:
    """Make the manifest of a folder of feature files.

    Parameters
    ----------
    root : Path
        Holds the ``.h5`` files, at any depth.
    labels : Path or str
        A CSV: of each slide its label, and its patient and site where they are known.
    annotations : Path or str, optional
        Folder of drawings; that of a slide has its stem.
    classes : mapping of str to str, optional
        Drawn name -> class, or ``exclude``; CAMELYON's names where it is left out.
    background : str
        The class where nothing was drawn.
    positive : str, optional
        The class that is looked for.

    Returns
    -------
    Manifest
        One row a tile, by slide and place in the file. ``provenance.sha256`` is the digest of ids, patients and labels.

    Raises
    ------
    ManifestError
        If a file is damaged, the files have features of different lengths, a slide has no row in the table, or its
        tiles cannot be placed on its drawing.
    """
    if labels is None:
        raise ManifestError(f"{root}: whose slides are these? give a table of slides: --labels labels.csv")
    slides = [found for path in sorted(root.rglob("*.h5")) if (found := _read_slide(path)) is not None]
    if not slides:
        raise ManifestError(f"{root}: has no .h5 file with an array called {' or '.join(FEATURES)}")
    _require_one_encoder(slides)
    known = _read_labels(Path(labels))
    names = dict(classes or CAMELYON)
    frames = [
        _frame(slide, root, known, None if annotations is None else Path(annotations), names, background)
        for slide in slides
    ]
    frame = pd.concat(frames, ignore_index=True)
    told = frame[["image_id", "patient_id", "label"]].to_csv(index=False)
    encoder = slides[0].encoder or "an encoder that the files do not name"
    provenance = Provenance(
        f"features of {encoder}, {slides[0].d} numbers, {len(slides)} slides",
        sha256=hashlib.sha256(told.encode()).hexdigest(),
    )
    return Manifest(frame, order_classes(frame["label"].tolist(), positive), provenance, root)


def _read_slide(path: Path) -> _Slide | None:
    try:
        with h5py.File(path, "r") as file:
            found = {one: array for one in FEATURES if (array := array_in(file, one)) is not None}
            if not found:
                return None
            key, array = next(iter(found.items()))
            if array.ndim != 2 or array.dtype.kind != "f" or not all(array.shape):
                raise ManifestError(
                    f"{path}: {key} is {array.shape} {array.dtype}; expected (n, d) of floats, one row a tile"
                )
            encoder = next(
                (str(of.attrs[name]) for name in ("encoder", "extractor") for of in (array, file) if name in of.attrs),
                "",
            )
            n, d = array.shape
            return _Slide(path, slide_id_of(path.stem), n, d, encoder, _boxes(file, path, n))
    except (OSError, RuntimeError) as error:
        raise ManifestError(f"{path}: is not an HDF5 file, or is damaged ({error})") from error


def _boxes(file: h5py.File, path: Path, n: int) -> NDArray[np.int64] | None:
    # (n, 4) level-0 px, or None where the file does not tell: STAMP has micrometres.
    coords = array_in(file, "coords")
    if coords is None or "um" in (coords.attrs.get("unit"), file.attrs.get("unit")):
        return None
    if coords.shape != (n, 2):
        raise ManifestError(
            f"{path}: has {n} rows of features and coords of {coords.shape}; was it written to the end?"
        )
    side = _side({**dict(file.attrs), **dict(coords.attrs)})
    if side is None:
        return None
    corners = np.asarray(coords[()], dtype=np.int64)
    return np.column_stack([corners, np.full((n, 2), side)])


def _side(attributes: Mapping[str, Any]) -> int | None:
    # Side of a tile in level-0 px: TRIDENT says it, CLAM says the side and the downsample of the level.
    if "patch_size_level0" in attributes:
        return int(attributes["patch_size_level0"])
    if "patch_size" in attributes and ("downsample" in attributes or attributes.get("patch_level") == 0):
        factor = np.asarray(attributes.get("downsample", 1.0), dtype=float).ravel()[0]
        return round(int(attributes["patch_size"]) * float(factor))
    return None


def _require_one_encoder(slides: list[_Slide]) -> None:
    for what in ("d", "encoder"):
        values = {getattr(slide, what): slide.path for slide in slides}
        if len(values) > 1:
            (one, first), (other, second) = sorted(values.items())[:2]
            raise ManifestError(
                f"{first} and {second} are of two encoders ({one or 'not named'}, {other or 'not named'}); "
                "give the folder of one"
            )


def _read_labels(path: Path) -> dict[str, dict[str, str]]:
    table = read_table(path)
    columns = {name: next((one for one in known if one in table), None) for name, known in _COLUMNS.items()}
    if columns["slide_id"] is None:
        raise ManifestError(f"{path}: needs a column slide_id, and label, patient_id, site where they are known")
    rows: dict[str, dict[str, str]] = {}
    for number, row in enumerate(table.to_dict("records"), start=1):
        name = str(row[columns["slide_id"]])
        slide = slide_id_of(name.removesuffix(".h5"))
        if slide in rows:
            raise ManifestError(f"{path}, row {number}: the slide {slide!r} is there twice; leave one row")
        rows[slide] = {key: "" if column is None else str(row[column]) for key, column in columns.items()}
    return rows


def _frame(
    slide: _Slide,
    root: Path,
    known: Mapping[str, Mapping[str, str]],
    annotations: Path | None,
    classes: Mapping[str, str],
    background: str,
) -> pd.DataFrame:
    if slide.slide_id not in known:
        raise ManifestError(f"{slide.path}: the table of labels has no row for the slide {slide.slide_id!r}; add one")
    row = known[slide.slide_id]
    drawing = None if annotations is None else annotation_for(slide.slide_id, annotations)
    if drawing is None:
        _require_label(slide, row["label"], annotations, background)
        labels = np.full(slide.n, row["label"])
    else:
        labels = _drawn(slide, drawing, classes, background)
    path = slide.path.relative_to(root).as_posix()
    frame = pd.DataFrame({
        "image_id": [f"{slide.slide_id}#{place}" for place in range(slide.n)],
        "patient_id": row["patient_id"],
        "slide_id": slide.slide_id,
        "label": labels,
        "site": row["site"],
        "path": [f"{path}#{place}" for place in range(slide.n)],
    })
    if slide.boxes is not None:
        frame[["x", "y", "width", "height"]] = slide.boxes
    return frame[frame["label"] != ""]


def _require_label(slide: _Slide, label: str, annotations: Path | None, background: str) -> None:
    if not label:
        raise ManifestError(f"{slide.path}: the slide {slide.slide_id!r} has no label in the table; write one")
    if annotations is not None and label != background:
        raise ManifestError(
            f"{slide.path}: the slide is a {label}, and {annotations} has no drawing of it; add its drawing, or take "
            "the file out"
        )


def _drawn(slide: _Slide, drawing: Path, classes: Mapping[str, str], background: str) -> NDArray[np.str_]:
    if slide.boxes is None:
        raise ManifestError(
            f"{slide.path}: does not say where its tiles lie in level-0 pixels (coords, and patch_size_level0 or "
            "patch_size with downsample), so nothing drawn can be found on them; import it with labels of slides alone"
        )
    looked_for = tuple(dict.fromkeys(name for name in classes.values() if name not in {EXCLUDE, background}))
    return label_boxes(slide.boxes, read_annotations(drawing).mapped(classes), looked_for, background=background).labels
