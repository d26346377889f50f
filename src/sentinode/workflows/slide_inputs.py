"""Slides as a command line names them: files, folders, and what is known of their resolution."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from sentinode.data.tables import read_table
from sentinode.errors import ManifestError, PlanError, SlideError
from sentinode.slides.dicom_series import one_of_each_series
from sentinode.slides.naming import SLIDE_SUFFIXES, is_slide_name, slide_id_of
from sentinode.slides.resolution import MppWish, read_mpp_table

__all__ = ["find_slides", "mpp_wish", "read_slide_table", "require_shares", "without_slide"]

_ID_COLUMNS = ("slide_id", "slide", "path")

MOST_OVERLAP = 0.9
"""Tiles are then looked at a hundred times over."""


def mpp_wish(mpp: float | None, table: Path | None, *, from_objective: bool = False) -> MppWish:
    """Gather what a command line says of the resolution.

    Parameters
    ----------
    mpp : float, optional
        For every slide.
    table : Path, optional
        A CSV with the columns ``slide,mpp``.
    from_objective : bool
        Whether the objective power will do.

    Returns
    -------
    MppWish
        For `open_slide`.

    Raises
    ------
    SlideError
        If the table cannot be read.
    """
    # SlideError is read_mpp_table's.
    return MppWish(mpp, {} if table is None else read_mpp_table(table), from_objective)


def find_slides(inputs: Sequence[Path]) -> tuple[Path, ...]:
    """List the slides in files and folders.

    Parameters
    ----------
    inputs : sequence of Path
        A file is taken whatever its suffix; of a folder, the files with the suffix of a slide, not those in folders
        below. The DICOM files of one series in one folder are one slide: its largest file stands for all of them.

    Returns
    -------
    tuple of Path
        In the order given, those of a folder by name.

    Raises
    ------
    SlideError
        If something is not there, a folder has no slide, or two slides have one name: results are named by it.
    """
    files: list[Path] = []
    for path in inputs:
        if not path.exists():
            raise SlideError(f"{path}: is not there; give slides, or folders of slides")
        here = sorted(file for file in path.iterdir() if _is_slide(file)) if path.is_dir() else [path]
        if not here:
            raise SlideError(f"{path}: has no slide in it (a file that ends in {', '.join(SLIDE_SUFFIXES)})")
        files += here
    found: dict[str, Path] = {}
    for file in one_of_each_series(files):
        other = found.setdefault(slide_id_of(file), file)
        if other.resolve() != file.resolve():
            raise SlideError(f"{other} and {file} have one name, and results are named by it; rename one")
    return tuple(found.values())


def read_slide_table(path: Path) -> dict[str, dict[str, str]]:
    """Read what is known of each slide.

    Parameters
    ----------
    path : Path
        A CSV with a column ``slide_id`` (or ``slide``, or ``path``) and, each optional, ``patient_id, site, label,
        provenance``.

    Returns
    -------
    dict of str to dict
        Slide -> column -> what it says; ``""`` where it says nothing.

    Raises
    ------
    ManifestError
        If it cannot be read, names no slides, or one twice.
    """
    frame = read_table(path)
    column = next((name for name in _ID_COLUMNS if name in frame), None)
    if column is None:
        raise ManifestError(f"{path}: needs a column slide_id, and may have patient_id, site and label")
    rows: dict[str, dict[str, str]] = {}
    for number, row in enumerate(frame.to_dict("records"), start=1):
        name = str(row[column])
        slide = slide_id_of(name)
        if slide in rows:
            raise ManifestError(f"{path}, row {number}: the slide {slide!r} is there twice; leave one row")
        rows[slide] = {key: str(row.get(key, "")) for key in ("patient_id", "site", "label", "provenance")}
    return rows


def without_slide(names: Iterable[str], slides: Iterable[Path]) -> tuple[str, ...]:
    """Find the rows of a table that fit no slide: one may have been meant for a slide, and be misspelt.

    Parameters
    ----------
    names : iterable of str
        Slides that the table has a row for.
    slides : iterable of Path
        Those that there are.

    Returns
    -------
    tuple of str
        Names, in the order of the table.
    """
    known = {slide_id_of(path) for path in slides}
    return tuple(name for name in names if name not in known)


def require_shares(*, overlap: float, minimum_tissue: float) -> None:
    """Refuse what no tile grid can do, before any slide is opened.

    Parameters
    ----------
    overlap : float
        Share of its side that a tile has in common with the next one.
    minimum_tissue : float
        Share of a tile that must be tissue.

    Raises
    ------
    PlanError
        If one cannot be.
    """
    if not 0 <= overlap <= MOST_OVERLAP:
        raise PlanError(f"overlap = {overlap}: a share of a tile's side from 0 to {MOST_OVERLAP}, e.g. 0.5")
    if not 0 <= minimum_tissue <= 1:
        raise PlanError(f"minimum_tissue = {minimum_tissue}: a share of a tile from 0 to 1, e.g. 0.25")


def _is_slide(path: Path) -> bool:
    return path.is_file() and is_slide_name(path.name)
