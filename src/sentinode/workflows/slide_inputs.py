"""Slides as a command line names them: files, folders, and what is known of their resolution."""

from collections.abc import Sequence
from pathlib import Path

from sentinode.errors import SlideError
from sentinode.slides.resolution import MppWish, read_mpp_table
from sentinode.slides.slide import SUFFIXES

__all__ = ["find_slides", "mpp_wish"]


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
        below.

    Returns
    -------
    tuple of Path
        In the order given, those of a folder by name.

    Raises
    ------
    SlideError
        If something is not there, a folder has no slide, or two slides have one stem: results are named by it.
    """
    found: dict[str, Path] = {}
    for path in inputs:
        if not path.exists():
            raise SlideError(f"{path}: is not there; give slides, or folders of slides")
        here = sorted(file for file in path.iterdir() if _is_slide(file)) if path.is_dir() else [path]
        if not here:
            raise SlideError(f"{path}: has no slide in it (a file that ends in {', '.join(SUFFIXES)})")
        for file in here:
            other = found.setdefault(file.stem, file)
            if other.resolve() != file.resolve():
                raise SlideError(f"{other} and {file} have one name, and results are named by it; rename one")
    return tuple(found.values())


def _is_slide(path: Path) -> bool:
    return path.is_file() and path.name.lower().endswith(tuple(SUFFIXES)) and not path.name.startswith(".")
