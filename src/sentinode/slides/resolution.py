"""What a pixel of a slide measures: from the file, from the objective when that was asked for, or as given.

It is never guessed in silence, and where it came from stays with the slide. A number of the file that no slide
scanner makes (the 72 dpi that image editors write by default is 352.8 um a pixel) counts as absent.
"""

import csv
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from sentinode.errors import SlideError
from sentinode.slides.naming import slide_id_of

__all__ = ["MppSource", "MppWish", "Resolution", "choose_mpp", "read_mpp_table"]

MppSource = Literal["file", "objective", "given", "unknown"]

PLAUSIBLE = (0.02, 100.0)
"""Micrometres a pixel: from oil immersion to the overview of a whole slide."""

PRINT_DPI = (72, 96, 100, 120, 150, 180, 200, 240, 254, 300, 350, 360, 400, 600, 720, 1200)
"""Dots an inch that image editors write for printers: 300 of them are 84.7 um a pixel, and no slide was scanned so."""

UM_AN_INCH = 25_400.0

MOST_UNEVEN = 0.05
"""Share by which the two directions may differ: scanners agree to 1 %, and everything here takes pixels as squares."""

UM_AT_1X = 10.0
"""A scanner's 40x is about 0.25 um a pixel, its 20x about 0.5: scanners differ by up to 15 % from that."""


@dataclass(frozen=True)
class MppWish:
    """What the user says of the resolution.

    Parameters
    ----------
    mpp : float, optional
        For slides whose files do not say, or say what cannot be. It never goes before a file: one slide without mpp
        among a hundred must not change what the others measure.
    by_slide : mapping of str to float
        Slide -> mpp; goes before everything else, for who names a slide means it.
    from_objective : bool
        Take the objective power where a file has no mpp.
    """

    mpp: float | None = None
    by_slide: Mapping[str, float] = field(default_factory=dict)
    from_objective: bool = False


@dataclass(frozen=True)
class Resolution:
    """What a level-0 pixel measures, and how that is known.

    Parameters
    ----------
    mpp : float or None
        None where nothing is known.
    source : {"file", "objective", "given", "unknown"}
        Where it came from.
    note : str
        What a reader of the result should know; may be empty.
    """

    mpp: float | None
    source: MppSource
    note: str = ""


def choose_mpp(path: Path, wish: MppWish, in_file: tuple[float, float] | None, objective: float | None) -> Resolution:
    """Decide what a level-0 pixel measures.

    Parameters
    ----------
    path : Path
        Of the slide; its name is looked up in the wish.
    wish : MppWish
        What the user says.
    in_file : (x, y) float or None
        What the file says.
    objective : float or None
        Its objective power, e.g. 40.

    Returns
    -------
    Resolution
        What was given for this slide, before the file, before what was given for all, before the objective.

    Raises
    ------
    SlideError
        If what the user says is not plausible.

    Examples
    --------
    >>> choose_mpp(Path("a.svs"), MppWish(), (0.2426, 0.2431), 40)
    Resolution(mpp=0.24285, source='file', note='')
    >>> choose_mpp(Path("a.tif"), MppWish(), (352.8, 352.8), None).note
    'the file claims 352.8 um a pixel, which no scanner makes; taken as unknown'
    """
    named = wish.by_slide.get(slide_id_of(path))
    for given in (named, wish.mpp):
        if given is not None and not _is_plausible(given):
            raise SlideError(f"{path}: mpp = {given:g} cannot be; give micrometres a pixel, e.g. 0.25 for a 40x scan")
    if named is not None:
        return Resolution(named, "given", _contradiction(named, in_file))
    note = ""
    if in_file is not None:
        mpp = sum(in_file) / 2
        if abs(in_file[0] - in_file[1]) > MOST_UNEVEN * mpp:
            note = f"the file claims {in_file[0]:g} um across and {in_file[1]:g} down; pixels are taken as squares"
        elif all(map(_is_plausible, in_file)) and not _is_for_print(mpp):
            differs = wish.mpp is not None and abs(wish.mpp - mpp) > 0.1 * mpp
            return Resolution(mpp, "file", f"mpp {mpp:g} of the file, not {wish.mpp:g} as given" if differs else "")
        else:
            note = f"the file claims {mpp:g} um a pixel, which {_maker(mpp)}; taken as unknown"
    if wish.mpp is not None:
        return Resolution(wish.mpp, "given", note)
    if wish.from_objective and objective is not None and objective > 0 and _is_plausible(UM_AT_1X / objective):
        guess = UM_AT_1X / objective
        return Resolution(guess, "objective", f"mpp {guess:g} from the objective {objective:g}x: right to about 15 %")
    return Resolution(None, "unknown", note)


def read_mpp_table(path: Path) -> dict[str, float]:
    """Read what many slides measure: a CSV with the columns ``slide,mpp``.

    Parameters
    ----------
    path : Path
        A slide is named by its file, with or without the suffix.

    Returns
    -------
    dict of str to float
        Slide -> mpp.

    Raises
    ------
    SlideError
        If the table cannot be read, lacks a column, or a row has no plausible number or a slide twice.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file))
            header = rows[0].keys() if rows else ()
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SlideError(f"{path}: cannot be read ({error}); it must be a CSV with the columns slide,mpp") from error
    if not {"slide", "mpp"} <= set(header):
        raise SlideError(f"{path}: must be a CSV with the columns slide,mpp and a row a slide, e.g. case_17,0.25")
    table: dict[str, float] = {}
    for number, row in enumerate(rows, start=2):
        name, text = str(row["slide"] or "").strip(), str(row["mpp"] or "").strip()
        try:
            mpp = float(text)
        except ValueError:
            mpp = math.nan
        if not name or not _is_plausible(mpp):
            raise SlideError(f"{path}, row {number}: mpp {text!r} of slide {name!r} cannot be; e.g. case_17,0.25")
        slide = slide_id_of(name)
        if slide in table:
            raise SlideError(f"{path}, row {number}: the slide {slide!r} is there twice; leave one row")
        table[slide] = mpp
    return table


def _is_plausible(mpp: float) -> bool:
    return math.isfinite(mpp) and PLAUSIBLE[0] <= mpp <= PLAUSIBLE[1]


def _is_for_print(mpp: float) -> bool:
    return any(abs(UM_AN_INCH / mpp - dpi) < 0.002 * dpi for dpi in PRINT_DPI)


def _maker(mpp: float) -> str:
    if _is_plausible(mpp):
        return f"is {UM_AN_INCH / mpp:.0f} dpi as for a printer"
    return "no scanner makes"


def _contradiction(given: float, in_file: tuple[float, float] | None) -> str:
    if in_file is None or not all(map(_is_plausible, in_file)):
        return ""
    mpp = sum(in_file) / 2
    differs = abs(given - mpp) > 0.1 * mpp
    return f"mpp {given:g} as given, though the file says {mpp:g}" if differs else ""
