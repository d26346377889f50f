"""Slides through OpenSlide: Aperio, Hamamatsu, Leica, MIRAX, Philips, Ventana, Zeiss, DICOM and plain pyramids.

OpenSlide may be called from several threads. Once a read has failed, its handle answers every later call with the same
error; the reader then says that, and the slide has to be opened again.
"""

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import openslide
from PIL import Image

from sentinode.errors import SlideError
from sentinode.geometry import Box, Size
from sentinode.slides.slide import WHITE, OpenedFile, Pixels
from sentinode.slides.tiff_structure import require_sound_tiff

__all__ = ["OpenSlideReader", "open_with_openslide"]

CACHE_BYTES = 32 * 2**20
"""Of decoded tiles, for each open slide."""

UM_IN = {"centimeter": 1e4, "inch": 25_400.0}
"""Unit of a TIFF resolution, as OpenSlide names it -> micrometres."""

# What the bindings raise: the library's errors, and those of ctypes and of the conversion of what it returns.
_FAULTS = (openslide.OpenSlideError, OSError, ValueError, TypeError, MemoryError, OverflowError)


class OpenSlideReader:
    """Pixels of a slide that OpenSlide has opened.

    Parameters
    ----------
    path : Path
        For messages.
    slide : openslide.OpenSlide
        Its handle; it is this reader's from now on.
    """

    def __init__(self, path: Path, slide: openslide.OpenSlide) -> None:
        self.path = path
        self._slide: openslide.OpenSlide | None = slide
        self._downsamples: tuple[float, ...] = tuple(slide.level_downsamples)
        self._failure = ""

    def read_level(self, level: int, x: int, y: int, width: int, height: int) -> Pixels:
        """Read a part of a level.

        Parameters
        ----------
        level : int
            0 is the largest.
        x, y, width, height : int
            Pixels of the level.

        Returns
        -------
        (height, width, 3) uint8
            What was not scanned is white.

        Raises
        ------
        SlideError
            If the reader is closed, or the file cannot be read there, or could not be read before.
        """
        slide = self._slide  # held while it is read: another thread may close the reader meanwhile
        if slide is None:
            raise SlideError(f"{self.path}: is closed; open it again")
        if self._failure:
            raise SlideError(f"{self.path}: could not be read before ({self._failure}); open it again, or copy it anew")
        # OpenSlide wants the corner in level-0 pixels and divides it by this very factor: a pixel of the level is met
        # to half a level-0 pixel.
        factor = self._downsamples[level]
        try:
            region = slide.read_region((round(x * factor), round(y * factor)), level, (width, height))
        except _FAULTS as error:
            self._failure = _one_line(error)
            raise SlideError(f"{self.path}: cannot be read ({self._failure}); copy it anew, it is damaged") from error
        return _over_white(region)

    def close(self) -> None:
        """Let the file go, when no thread reads it any more."""
        # The handle closes itself with its last reference. To close it under a thread that reads would crash.
        self._slide = None


def open_with_openslide(path: Path) -> OpenedFile:
    """Open a slide with OpenSlide.

    Parameters
    ----------
    path : Path
        Of the file.

    Returns
    -------
    OpenedFile
        Its levels, and what it says of its resolution.

    Raises
    ------
    SlideError
        If OpenSlide does not know the format, or the file is damaged.
    """
    require_sound_tiff(path)  # OpenSlide asks for the memory of a tile whatever its size, and aborts without it
    try:
        slide = openslide.OpenSlide(path)
        slide.set_cache(openslide.OpenSlideCache(CACHE_BYTES))
        properties = dict(slide.properties)
        levels = tuple(Size(*size) for size in slide.level_dimensions)
        reader = OpenSlideReader(path, slide)
    except openslide.OpenSlideUnsupportedFormatError as error:
        raise SlideError(f"{path}: is no format that OpenSlide knows, or is damaged") from error
    except _FAULTS as error:
        raise SlideError(f"{path}: OpenSlide cannot open it ({_one_line(error)}); copy it anew") from error
    if not levels:
        raise SlideError(f"{path}: has no image that OpenSlide can read; copy it anew")
    return OpenedFile(
        reader=reader,
        levels=levels,
        mpp=_mpp(properties),
        objective=_number(properties, openslide.PROPERTY_NAME_OBJECTIVE_POWER),
        vendor=properties.get(openslide.PROPERTY_NAME_VENDOR, ""),
        bounds=_bounds(properties),
        properties=properties,
    )


def _over_white(region: Image.Image) -> Pixels:
    # The bindings have divided the colours by alpha already.
    if region.getchannel("A").getextrema() == (255, 255):
        return np.asarray(region.convert("RGB"))
    white = Image.new("RGB", region.size, (WHITE, WHITE, WHITE))
    white.paste(region, mask=region.getchannel("A"))
    return np.asarray(white)


def _mpp(properties: Mapping[str, str]) -> tuple[float, float] | None:
    across = _number(properties, openslide.PROPERTY_NAME_MPP_X)
    down = _number(properties, openslide.PROPERTY_NAME_MPP_Y)
    if across is not None and down is not None:
        return across, down
    unit = UM_IN.get(properties.get("tiff.ResolutionUnit", ""))
    per_x, per_y = _number(properties, "tiff.XResolution"), _number(properties, "tiff.YResolution")
    if unit is None or per_x is None or per_y is None:
        return None
    return unit / per_x, unit / per_y


def _bounds(properties: Mapping[str, str]) -> Box | None:
    names = (
        openslide.PROPERTY_NAME_BOUNDS_X,
        openslide.PROPERTY_NAME_BOUNDS_Y,
        openslide.PROPERTY_NAME_BOUNDS_WIDTH,
        openslide.PROPERTY_NAME_BOUNDS_HEIGHT,
    )
    try:
        return Box(*(int(properties[name]) for name in names))
    except (KeyError, ValueError):
        return None


def _number(properties: Mapping[str, str], name: str) -> float | None:
    # A positive number, or None.
    try:
        number = float(properties.get(name, ""))
    except ValueError:
        return None
    return number if math.isfinite(number) and number > 0 else None


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
