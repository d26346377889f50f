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

__all__ = ["MppSource", "MppWish", "Resolution", "choose_mpp", "read_mpp_table"]

MppSource = Literal["file", "objective", "given", "unknown"]

PLAUSIBLE = (0.02, 100.0)
"""Micrometres a pixel: from oil immersion to the overview of a whole slide."""

PRINT_DPI = (72, 96, 100, 120, 150, 180, 200, 240, 254, 300, 350, 360, 400, 600, 720, 1200)
"""Dots an inch that image editors write for printers: 300 of them are 84.7 um a pixel, and no slide was scanned so."""

UM_AN_INCH = 25_400.0

UM_AT_1X = 10.0
"""A scanner's 40x is about 0.25 um a pixel, its 20x about 0.5: scanners differ by up to 15 % from that."""


@dataclass(frozen=True)
class MppWish:
    """What the user says of the resolution.

    Parameters
    ----------
    mpp : float, optional
        For every slide; it goes before what a file says.
    by_slide : mapping of str to float
        File stem -> mpp; goes before everything else.
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
        Of the slide; its stem is looked up in the wish.
    wish : MppWish
        What the user says.
    in_file : (x, y) float or None
        What the file says.
    objective : float or None
        Its objective power, e.g. 40.

    Returns
    -------
    Resolution
        ``given`` before ``file`` before ``objective``.

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
    given = wish.by_slide.get(path.stem, wish.mpp)
    if given is not None:
        if not _is_plausible(given):
            raise SlideError(f"{path}: mpp = {given:g} cannot be; give micrometres a pixel, e.g. 0.25 for a 40x scan")
        return Resolution(given, "given", _contradiction(given, in_file))
    note = ""
    if in_file is not None:
        mpp = sum(in_file) / 2
        if all(map(_is_plausible, in_file)) and not _is_for_print(mpp):
            uneven = abs(in_file[0] - in_file[1]) > 0.02 * mpp
            return Resolution(mpp, "file", f"mpp differs: {in_file[0]:g} across, {in_file[1]:g} down" if uneven else "")
        note = f"the file claims {mpp:g} um a pixel, which {_maker(mpp)}; taken as unknown"
    if wish.from_objective and objective is not None and objective > 0 and _is_plausible(UM_AT_1X / objective):
        guess = UM_AT_1X / objective
        return Resolution(guess, "objective", f"mpp {guess:g} from the objective {objective:g}x: right to about 15 %")
    return Resolution(None, "unknown", note)


def read_mpp_table(path: Path) -> dict[str, float]:
    """Read what many slides measure: a CSV with the columns ``slide,mpp``.

    Parameters
    ----------
    path : Path
        A slide is named by its file stem or its file name.

    Returns
    -------
    dict of str to float
        File stem -> mpp.

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
        stem = Path(name).stem if Path(name).suffix else name
        if stem in table:
            raise SlideError(f"{path}, row {number}: the slide {stem!r} is there twice; leave one row")
        table[stem] = mpp
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
