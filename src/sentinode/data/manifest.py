"""The table of images: which image, whose it is, what it shows, where its pixels are.

A manifest on disk is a CSV or Parquet table and, beside it, a small JSON file of the same name with ``.json``
appended, which holds what a table cannot: the classes and their order, where the images come from, and the
folder that the paths start in. A table written by hand needs two columns, ``path`` and ``label``, and no
JSON.
"""

import difflib
import hashlib
import json
import math
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from sentinode.data.tables import read_table
from sentinode.errors import ExportError, ManifestError
from sentinode.storage import whole_files

__all__ = [
    "COLUMNS",
    "MAX_TILE_PX",
    "Manifest",
    "Provenance",
    "make_manifest",
    "order_classes",
    "read_manifest",
    "write_manifest",
]

MAX_TILE_PX = 4096
"""Side of a tile in pixels; larger, and it is a slide."""

COLUMNS = ("image_id", "patient_id", "slide_id", "label", "site", "path", "x", "y", "width", "height", "mpp")

_Scalar = TypeVar("_Scalar", bound=np.generic)
_TEXT = COLUMNS[:6]
_WHOLE = ("x", "y", "width", "height")
_NUMBERS = COLUMNS[6:]
_REQUIRED = ("path", "label")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_OUTSIDE = re.compile(r"^/|^[A-Za-z]:|(?:^|/)\.\.(?:/|$)|\\")
_NOTHING_FOUND = re.compile(r"(?:normal|benign|negative|healthy|control|false|no|none|0|non?[-_ ].*)$", re.IGNORECASE)


@dataclass(frozen=True)
class Provenance:
    """Where images come from.

    Parameters
    ----------
    source : str
        Name, address or citation of the data set.
    licence : str
        SPDX name where there is one, e.g. ``"CC0-1.0"``.
    sha256 : str
        Digest of what was imported; each adapter says of which files.
    synthetic : bool
        Whether the images were drawn by ``sentinode.phantom`` and not taken from tissue.
    """

    source: str = ""
    licence: str = ""
    sha256: str = ""
    synthetic: bool = False


@dataclass(frozen=True, eq=False)
class Manifest:
    """A validated table of images, with its classes and the folder that its paths start in.

    Parameters
    ----------
    frame : pandas.DataFrame
        One row an image. ``path`` and ``label`` are needed; the other columns of ``COLUMNS`` may be absent or
        empty, and no column beside them is taken. Numbers in ids become text; the frame is copied and brought
        into the form that ``docs/architecture.md`` states.
    classes : tuple of str
        At least two names; the last one is the positive class, the one that is looked for.
    provenance : Provenance
        Where the images come from.
    root : Path
        Folder that ``path`` is relative to; made absolute. It need not exist until pixels are read.
    tile_px : int, optional
        Where the rows are boxes of slides: the side in pixels of the tile that each box becomes. ``path`` is then
        the slide's, and ``x, y, width, height`` (level-0 pixels) and ``mpp`` (of the tile) are in every row.

    Raises
    ------
    ManifestError
        Naming the row (1 is the first image) and its id: no image, an unknown column, an id or a label
        missing, two rows with one id, a label that is not among the classes, a path that is absolute or
        leaves the root, a number that is none, a box of a slide without its place.

    Examples
    --------
    >>> frame = pd.DataFrame({
    ...     "path": ["a.png", "b.png"], "label": ["normal", "tumour"], "patient_id": ["7", ""]
    ... })
    >>> manifest = Manifest(frame, ("normal", "tumour"), Provenance("by hand"), Path("images"))
    >>> manifest.positive, manifest.codes.tolist(), manifest.groups.tolist()
    ('tumour', [0, 1], ['7', ''])
    """

    frame: pd.DataFrame
    classes: tuple[str, ...]
    provenance: Provenance
    root: Path
    tile_px: int | None = None

    def __post_init__(self) -> None:
        classes = tuple(self.classes)
        frame = _normalised(self.frame)
        _check_rows(frame, classes)
        if self.tile_px is not None:
            _check_boxes(frame, self.tile_px)
        _check_classes(classes)
        object.__setattr__(self, "classes", classes)
        object.__setattr__(self, "frame", frame)
        object.__setattr__(self, "root", Path(self.root).absolute())

    def __len__(self) -> int:
        return len(self.frame)

    @property
    def positive(self) -> str:
        """The class that is looked for: the last one."""
        return self.classes[-1]

    @cached_property
    def codes(self) -> NDArray[np.int64]:
        """The label of each image as its index in ``classes``, (n,) int64."""
        index = {name: code for code, name in enumerate(self.classes)}
        return _frozen(np.array([index[label] for label in self.frame["label"]], dtype=np.int64))

    @cached_property
    def groups(self) -> NDArray[np.str_]:
        """Whose image it is, (n,) str: the patient, else the slide, else ``""`` (nobody knows).

        A slide whose patient is named in any of its rows lends that patient to its other rows; otherwise one
        patient would count as two and straddle a split.
        """
        frame = self.frame
        named = frame[(frame["patient_id"] != "") & (frame["slide_id"] != "")]
        patient_of = dict(zip(named["slide_id"], named["patient_id"], strict=True))
        owners = [
            patient or patient_of.get(slide, slide)
            for patient, slide in zip(frame["patient_id"], frame["slide_id"], strict=True)
        ]
        return _frozen(np.array(owners, dtype=np.str_))

    @cached_property
    def digest(self) -> str:
        """SHA-256 (hex) over all columns, the classes and the tile size; the order of the rows does not matter."""
        columns = [_plain(self.frame[name]) for name in COLUMNS]
        rows = sorted(hashlib.sha256(_as_json(row)).digest() for row in zip(*columns, strict=True))
        tile = b"" if self.tile_px is None else f"tile {self.tile_px}".encode()
        return hashlib.sha256(_as_json(self.classes) + tile + b"".join(rows)).hexdigest()

    def select(self, positions: ArrayLike) -> "Manifest":
        """Keep some of the images, in the order asked for.

        Parameters
        ----------
        positions : (m,) int, or (n,) bool
            Positions in ``frame``, or a mask over it.

        Returns
        -------
        Manifest
            With the same classes, even where a class has no image left.

        Raises
        ------
        ManifestError
            If nothing is selected, or a position twice.
        """
        chosen = np.asarray(positions)
        if chosen.size == 0:
            raise ManifestError("no image is selected; a manifest has at least one")
        kept = self.frame.loc[chosen] if chosen.dtype == bool else self.frame.iloc[chosen]
        return Manifest(kept, self.classes, self.provenance, self.root, self.tile_px)


def make_manifest(
    frame: pd.DataFrame,
    classes: Sequence[str] | None = None,
    provenance: Provenance | None = None,
    root: Path | str = ".",
    tile_px: int | None = None,
) -> Manifest:
    """Make a manifest from a table alone; the classes are read off the labels where they are not given.

    Parameters
    ----------
    frame : pandas.DataFrame
        At least the columns ``path`` and ``label``.
    classes : sequence of str, optional
        Names, the positive one last; without it see ``order_classes``.
    provenance : Provenance, optional
        Where the images come from.
    root : Path or str
        Folder that the paths start in.
    tile_px : int, optional
        As in `Manifest`.

    Returns
    -------
    Manifest
        Validated.

    Raises
    ------
    ManifestError
        If the table is not a manifest.

    Examples
    --------
    >>> frame = pd.DataFrame({"path": ["a.png", "b.png"], "label": ["tumour", "normal"]})
    >>> make_manifest(frame).classes
    ('normal', 'tumour')
    """
    if classes is None:
        _check_columns(frame)
        labels = _as_text(frame, "label")
        classes = order_classes(label for label in labels if label)
    return Manifest(frame, tuple(classes), provenance or Provenance(), Path(root), tile_px)


def order_classes(labels: Iterable[str], positive: str | None = None) -> tuple[str, ...]:
    """Order class names so that the class that is looked for comes last.

    Without ``positive`` the names that say that nothing was found (normal, benign, negative, healthy,
    control, 0, no, non-...) come first, and the rest in alphabetical order.

    Parameters
    ----------
    labels : iterable of str
        The labels of the images, or the names.
    positive : str, optional
        The class that is looked for.

    Returns
    -------
    tuple of str
        Each name once.

    Raises
    ------
    ManifestError
        If ``positive`` is not among the labels.

    Examples
    --------
    >>> order_classes(["cancer", "normal"])
    ('normal', 'cancer')
    >>> order_classes(["ductal", "lobular"], positive="ductal")
    ('lobular', 'ductal')
    """
    names = sorted(set(labels), key=lambda name: (_NOTHING_FOUND.match(name) is None, name))
    if positive is None:
        return tuple(names)
    if positive not in names:
        raise ManifestError(f"positive = {positive!r} is not a class of these images; there are {_listed(names)}")
    return (*(name for name in names if name != positive), positive)


def read_manifest(path: Path | str) -> Manifest:
    """Read a manifest and, where there is one, the JSON file beside it.

    Parameters
    ----------
    path : Path or str
        ``.csv`` (or ``.tsv``, ``.txt``; separated by commas, semicolons or tabs) or ``.parquet``.

    Returns
    -------
    Manifest
        Ids as text, exactly as written (``001`` and ``NA`` stay so); an empty cell is unknown.

    Raises
    ------
    ManifestError
        If the file cannot be read or is not a manifest; the message names the file, and the row where there
        is one.
    """
    path = Path(path)
    sidecar = _read_sidecar(_sidecar_path(path))
    try:
        frame = _read_parquet(path) if path.suffix.lower() == ".parquet" else _read_csv(path)
        root = _root_of(path, sidecar.root)
        return make_manifest(frame, sidecar.classes, sidecar.provenance, root, sidecar.tile_px)
    except ManifestError as error:
        raise error if str(path) in str(error) else ManifestError(f"{path}: {error}") from error


def write_manifest(manifest: Manifest, path: Path | str) -> None:
    """Write a manifest and the JSON file beside it; each appears whole or not at all.

    Parameters
    ----------
    manifest : Manifest
        The table.
    path : Path or str
        ``.csv`` or ``.parquet``; its folder is made where it is absent. The JSON is ``<path>.json``; its ``root`` is
        relative to the manifest, so that a folder that holds both can be moved.

    Raises
    ------
    ExportError
        If it cannot be written: no permission, no room, or another suffix.
    """
    path = Path(path)
    if path.suffix.lower() not in {".csv", ".parquet"}:
        raise ExportError(f"{path}: a manifest is written as .csv or .parquet, not {path.suffix or 'without suffix'}")
    sidecar = {
        "classes": list(manifest.classes),
        "root": _relative_root(manifest.root, path),
        "provenance": asdict(manifest.provenance),
        **({} if manifest.tile_px is None else {"tile_px": manifest.tile_px}),
    }
    described = json.dumps(sidecar, indent=2, ensure_ascii=False) + "\n"
    as_bytes = _parquet_bytes if path.suffix.lower() == ".parquet" else _csv_bytes
    _write_together({_sidecar_path(path): described.encode(), path: as_bytes(manifest.frame)})


# --- the table, brought into form ---------------------------------------------------------------------------


def _normalised(frame: pd.DataFrame) -> pd.DataFrame:
    _check_columns(frame)
    if frame.empty:
        raise ManifestError("the table is empty: there is no image in it")
    columns: dict[str, Sequence[object]] = {name: _as_text(frame, name) for name in _TEXT}
    if not any(columns["image_id"]):
        columns["image_id"] = columns["path"]
    for name in _NUMBERS:
        columns[name] = _as_numbers(frame, name, columns["image_id"])
    kinds = dict.fromkeys(_TEXT, "str") | dict.fromkeys(_WHOLE, "Int64") | {"mpp": "Float64"}
    return pd.DataFrame(columns, columns=list(COLUMNS), dtype=object).astype(kinds)


def _check_columns(frame: pd.DataFrame) -> None:
    names = [str(name) for name in frame.columns]
    for name in names:
        if name not in COLUMNS:
            near = difflib.get_close_matches(name.lower(), COLUMNS, n=1)
            hint = f"did you mean {near[0]!r}?" if near else "take it out."
            raise ManifestError(f"unknown column {name!r}; {hint} The columns are {_listed(COLUMNS)}")
    missing = [name for name in _REQUIRED if name not in names]
    if missing:
        raise ManifestError(
            f"column {missing[0]!r} is missing; a manifest needs {_listed(_REQUIRED)}, this table has {_listed(names)}"
        )


def _as_text(frame: pd.DataFrame, name: str) -> list[str]:
    if name not in frame:
        return [""] * len(frame)
    texts = [_text(cell) for cell in frame[name].astype(object)]
    for row, text in enumerate(texts):
        if text is None or not _is_unicode(text):
            cell = str(frame[name].iloc[row])
            raise ManifestError(f"row {row + 1}: {name} is {cell!r}; write it as text")
    return [text or "" for text in texts]


def _text(cell: object) -> str | None:
    # What is missing is ""; whole numbers are written out (pandas makes them floats where one is missing).
    if isinstance(cell, str):
        return cell
    if _is_missing(cell):
        return ""
    whole = isinstance(cell, int | np.integer) or (isinstance(cell, float) and cell.is_integer())
    return str(int(cell)) if whole and not isinstance(cell, bool) else None  # type: ignore[call-overload]


def _is_unicode(text: str) -> bool:
    # Half of a surrogate pair stands for a byte of a file name that is not in the file system's encoding.
    return text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text)


def _as_numbers(frame: pd.DataFrame, name: str, ids: Sequence[object]) -> list[float | None]:
    # What is missing is None; text such as "nan" or "1 mm" is refused, and so is what cannot be.
    if name not in frame:
        return [None] * len(frame)
    given = frame[name].astype(object).tolist()
    values = np.array([_number(cell) for cell in given], dtype=np.float64)
    empty = np.array([cell == "" if isinstance(cell, str) else _is_missing(cell) for cell in given])
    in_pixels = name in _WHOLE
    fits = np.isfinite(values) & ((values >= 0) if name in {"x", "y"} else (values > 0))
    if in_pixels:
        fits &= values == np.floor(values)
    for row in np.flatnonzero(~(fits | empty))[:1]:
        expected = "a whole number of pixels" if in_pixels else "micrometres per pixel"
        raise ManifestError(
            f"row {row + 1} (image_id {ids[row]!r}): {name} is {given[row]!r}; write {expected}, or leave it empty"
        )
    return [None if missing else value for missing, value in zip(empty, values.tolist(), strict=True)]


def _number(cell: object) -> float:
    try:
        return float(cell)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return np.nan


def _is_missing(cell: object) -> bool:
    return cell is None or cell is pd.NA or (isinstance(cell, float) and math.isnan(cell))


# --- the checks ---------------------------------------------------------------------------------------------


def _check_classes(classes: tuple[str, ...]) -> None:
    if any(not isinstance(name, str) or not name for name in classes):
        raise ManifestError(f"the classes {list(classes)!r} are not all names")
    if len(set(classes)) != len(classes):
        raise ManifestError(f"the classes {_listed(classes)} name one class twice")
    if len(classes) < 2:
        raise ManifestError(
            f"there is one class only ({_listed(classes) or 'none'}); recognition needs images of two or more"
        )


def _check_rows(frame: pd.DataFrame, classes: tuple[str, ...]) -> None:
    for name in ("image_id", "path", "label"):
        _refuse(frame, name, lambda cell: not cell, "is empty; every image needs one")
    for name in _TEXT:
        _refuse(frame, name, _is_unwritable, "has a space at its end or a control character in it; rename it")
    _refuse(
        frame,
        "label",
        lambda cell: cell not in classes,
        f"is not among the classes, which are {_listed(classes)}",
    )
    _refuse(
        frame,
        "path",
        lambda cell: _OUTSIDE.search(cell) is not None,
        "is absolute, leaves the root folder or has a backslash; write it relative to the root, with '/'",
    )
    for row in np.flatnonzero(frame["image_id"].duplicated())[:1]:
        name = frame["image_id"].iloc[row]
        first = int(np.flatnonzero(frame["image_id"] == name)[0])
        raise ManifestError(f"rows {first + 1} and {row + 1} have one image_id, {name!r}; each needs its own")


def _check_boxes(frame: pd.DataFrame, tile_px: int) -> None:
    if not 1 <= tile_px <= MAX_TILE_PX:
        raise ManifestError(f"tile_px = {tile_px}: a tile has a side of 1 to {MAX_TILE_PX} px, e.g. 96")
    for name in _NUMBERS:
        for row in np.flatnonzero(frame[name].isna())[:1]:
            raise ManifestError(
                f"row {row + 1} (image_id {frame['image_id'].iloc[row]!r}): {name} is empty; a box of a slide needs "
                "x, y, width, height and mpp"
            )
    for name in ("width", "height"):
        for row in np.flatnonzero(frame[name] < 1)[:1]:
            raise ManifestError(
                f"row {row + 1} (image_id {frame['image_id'].iloc[row]!r}): {name} is {frame[name].iloc[row]}; "
                "a box has at least one level-0 pixel"
            )


def _is_unwritable(cell: str) -> bool:
    # What a CSV would not give back as it was.
    spaced = cell != cell.strip()
    return spaced or (not cell.isprintable() and _CONTROL.search(cell) is not None)


def _refuse(frame: pd.DataFrame, name: str, is_wrong: Callable[[str], bool], complaint: str) -> None:
    # Each different cell once: the same few patients and labels come a hundred thousand times.
    wrong = {cell for cell in frame[name].unique().tolist() if is_wrong(cell)}
    for row in np.flatnonzero(frame[name].isin(wrong))[:1] if wrong else ():
        image_id, cell = frame["image_id"].iloc[row], frame[name].iloc[row]
        raise ManifestError(f"row {row + 1} (image_id {image_id!r}): {name} {cell!r} {complaint}")


def _listed(names: Iterable[str]) -> str:
    return ", ".join(repr(str(name)) for name in names)


# --- the files ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Sidecar:
    classes: tuple[str, ...] | None = None
    provenance: Provenance = Provenance()
    root: str = "."
    tile_px: int | None = None


def _sidecar_path(path: Path) -> Path:
    return path.with_name(path.name + ".json")


def _root_of(path: Path, root: str) -> Path:
    return (path.resolve().parent / root).resolve()


def _relative_root(root: Path, path: Path) -> str:
    try:
        return Path(os.path.relpath(root.resolve(), path.resolve().parent)).as_posix()
    except ValueError:  # another drive (Windows): there is no relative way
        return root.resolve().as_posix()


def _read_sidecar(path: Path) -> _Sidecar:
    try:
        content = json.loads(path.read_bytes().decode("utf-8-sig"))
    except FileNotFoundError:
        return _Sidecar()
    except OSError as error:
        raise ManifestError(f"{path}: cannot be read ({error.strerror or error})") from error
    except ValueError as error:
        raise ManifestError(f"{path}: is not JSON ({error})") from error
    known = {"classes", "root", "provenance", "tile_px"}
    if not isinstance(content, dict) or set(content) - known:
        raise ManifestError(f"{path}: must be an object with no key but {_listed(sorted(known))}")
    classes, root = content.get("classes"), content.get("root", ".")
    if classes is not None and not _is_list_of_names(classes):
        raise ManifestError(f"{path}: classes must be a list of names, the one that is looked for last")
    if not isinstance(root, str):
        raise ManifestError(f"{path}: root must be the name of a folder, relative to the manifest")
    tile_px = content.get("tile_px")
    if tile_px is not None and (not isinstance(tile_px, int) or isinstance(tile_px, bool)):
        raise ManifestError(f"{path}: tile_px must be the side of a tile in pixels, e.g. 96")
    return _Sidecar(
        None if classes is None else tuple(classes),
        _read_provenance(content.get("provenance", {}), path),
        root,
        tile_px,
    )


def _is_list_of_names(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def _read_provenance(content: object, path: Path) -> Provenance:
    kinds = {field.name: bool if field.name == "synthetic" else str for field in fields(Provenance)}
    if not isinstance(content, Mapping) or set(content) - set(kinds):
        raise ManifestError(f"{path}: provenance must be an object with no key but {_listed(kinds)}")
    for name, value in content.items():
        if not isinstance(value, kinds[name]):
            raise ManifestError(f"{path}: {name} is {value!r}; it must be of kind {kinds[name].__name__}")
    return Provenance(**content)


def _read_csv(path: Path) -> pd.DataFrame:
    frame = read_table(path)
    if "mpp" in frame:  # 0,25 in tables from where the comma is the decimal sign
        frame["mpp"] = frame["mpp"].str.replace(r"^(\d+),(\d+)$", r"\1.\2", regex=True)
    return frame


def _read_parquet(path: Path) -> pd.DataFrame:
    try:
        return pd.read_parquet(path)
    except OSError as error:
        raise ManifestError(f"{path}: cannot be read ({error.strerror or error})") from error
    except ValueError as error:  # pyarrow's ArrowInvalid is one
        raise ManifestError(f"{path}: is not a Parquet table ({error})") from error


def _csv_bytes(frame: pd.DataFrame) -> bytes:
    return frame.to_csv(index=False, lineterminator="\n").encode()


def _parquet_bytes(frame: pd.DataFrame) -> bytes:
    content: bytes = frame.to_parquet(index=False)
    return content


def _write_together(files: Mapping[Path, bytes]) -> None:
    # Under temporary names first, so that a full disk leaves what was there before.
    try:
        with whole_files(list(files)) as parts:
            for part, content in zip(parts, files.values(), strict=True):
                part.write_bytes(content)
    except OSError as error:
        last = list(files)[-1]
        raise ExportError(
            f"{last}: cannot be written ({error.strerror or error}); make room, or give a place in a folder of yours"
        ) from error


def _plain(column: "pd.Series[Any]") -> list[object]:
    return [None if cell is pd.NA else cell for cell in column.astype(object)]


def _as_json(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=True).encode()


def _frozen(array: NDArray[_Scalar]) -> NDArray[_Scalar]:
    array.setflags(write=False)
    return array
