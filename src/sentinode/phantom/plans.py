"""What a synthetic slide is to show, and how its lesions are classed."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from sentinode.errors import PlanError
from sentinode.geometry import Size
from sentinode.phantom.artefacts import ARTEFACTS

__all__ = ["LESION_CLASSES", "LesionClass", "LesionWish", "SlidePlan", "lesion_class"]

LesionClass = Literal["itc", "micro", "macro"]

LESION_CLASSES: Mapping[LesionClass, tuple[float, float]] = MappingProxyType({
    "itc": (0.0, 200.0),
    "micro": (200.0, 2000.0),
    "macro": (2000.0, math.inf),
})
"""Isolated tumour cells, micro- and macrometastasis: major axis in um, above the first, up to the second number."""

_DEMO_SIZE = Size(3584, 3072)
_LARGEST_PX = 100_000


@dataclass(frozen=True)
class LesionWish:
    """A lesion that a slide is to have.

    Parameters
    ----------
    major_axis_um : float
        Its longest extent.
    cells : int
        Parts that it is made of: 1, or a cluster of a few.
    """

    major_axis_um: float
    cells: int = 1


@dataclass(frozen=True)
class SlidePlan:
    """What a slide is to show.

    Parameters
    ----------
    slide_id : str
        Its name; part of what it is drawn from.
    seed : int
        The cohort's.
    patient, site : int
        Whose, and where it was stained and scanned, from 0.
    size : Size
        Of the canvas, level-0 pixels; up to 100,000 a side.
    mpp : float
        Micrometres a pixel.
    section_um : float
        How large the tissue is about, whatever the canvas: the first node takes about two thirds of it.
    nodes : int
        One to four.
    lesions : tuple of LesionWish
        None: a normal slide.
    artefacts : tuple of str
        Of `artefacts.ARTEFACTS`.

    Raises
    ------
    PlanError
        If a number cannot be, or an artefact is unknown.

    Examples
    --------
    >>> SlidePlan("a", seed=1, nodes=7)
    Traceback (most recent call last):
    sentinode.errors.PlanError: slide 'a': nodes = 7; give 1 to 4
    """

    slide_id: str
    seed: int
    patient: int = 0
    site: int = 0
    size: Size = _DEMO_SIZE
    mpp: float = 1.0
    section_um: float = 2600.0
    nodes: int = 2
    lesions: tuple[LesionWish, ...] = ()
    artefacts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        name = f"slide '{self.slide_id}'"
        if not 1 <= self.nodes <= 4:
            raise PlanError(f"{name}: nodes = {self.nodes}; give 1 to 4")
        if not (math.isfinite(self.mpp) and self.mpp > 0):
            raise PlanError(f"{name}: mpp = {self.mpp}; micrometres a pixel are a positive number, e.g. 0.25")
        if max(self.size.width, self.size.height) > _LARGEST_PX:
            raise PlanError(f"{name}: {self.size.width} x {self.size.height} px; at most {_LARGEST_PX} a side")
        if not self.section_um >= 300:
            raise PlanError(f"{name}: section_um = {self.section_um}; give 300 or more")
        unknown = sorted(set(self.artefacts) - set(ARTEFACTS))
        if unknown:
            raise PlanError(f"{name}: artefact '{unknown[0]}' is not known; choose from {', '.join(ARTEFACTS)}")
        if any(not wish.major_axis_um >= 16 or wish.cells < 1 for wish in self.lesions):
            raise PlanError(f"{name}: a lesion is one cell (16 um) or more; mend its size")


def lesion_class(major_axis_um: float) -> LesionClass:
    """Name a lesion by its size, as pathologists stage it (AJCC: 0.2 mm and 2 mm).

    Parameters
    ----------
    major_axis_um : float
        Longest extent.

    Returns
    -------
    {"itc", "micro", "macro"}
        Its class.

    Examples
    --------
    >>> lesion_class(200), lesion_class(201), lesion_class(2001)
    ('itc', 'micro', 'macro')
    """
    for name, (_, most) in LESION_CLASSES.items():
        if major_axis_um <= most:
            return name
    return "macro"
