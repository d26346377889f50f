"""Plain pictures as slides of one level: PNG, JPEG, BMP, and TIFF of one page. They are decoded once, into memory.

The dots an inch of a picture are a wish for a printer and say nothing of a scanner, so these files have no mpp.
"""

import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from sentinode.errors import SlideError
from sentinode.geometry import Size
from sentinode.slides.slide import WHITE, OpenedFile, Pixels

__all__ = ["FAULTS", "PictureReader", "open_image"]

FORMATS = ("PNG", "JPEG", "BMP", "TIFF")

MOST_PIXELS = 2**27
"""134 Mpx are 400 MB once decoded; larger pictures belong into a pyramid that is read by parts."""

EIGHT_BIT = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX")

FAULTS = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    MemoryError,
    EOFError,
    RuntimeError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)
"""What the decoders of Pillow raise on damaged files."""


class PictureReader:
    """A picture in memory.

    Parameters
    ----------
    path : Path
        For messages.
    pixels : (h, w, 3) uint8
        All of it.
    """

    def __init__(self, path: Path, pixels: Pixels) -> None:
        self.path = path
        self._pixels: Pixels | None = pixels

    def read_level(self, level: int, x: int, y: int, width: int, height: int) -> Pixels:
        """Read a part.

        Parameters
        ----------
        level : int
            There is only 0.
        x, y, width, height : int
            Pixels.

        Returns
        -------
        (height, width, 3) uint8
            A copy.

        Raises
        ------
        SlideError
            If the reader is closed, or there is no such level.
        """
        pixels = self._pixels
        if pixels is None:
            raise SlideError(f"{self.path}: is closed; open it again")
        if level != 0:
            raise SlideError(f"{self.path}: has no level {level}; it has one, level 0")
        return pixels[y : y + height, x : x + width].copy()

    def close(self) -> None:
        """Let the memory go."""
        self._pixels = None


def open_image(path: Path) -> OpenedFile:
    """Open a picture as a slide of one level.

    Parameters
    ----------
    path : Path
        PNG, JPEG, BMP or TIFF.

    Returns
    -------
    OpenedFile
        Without mpp.

    Raises
    ------
    SlideError
        If it is none of these formats, too large, has more than 8 bits a channel or several pages, or is damaged.
    """
    try:
        with warnings.catch_warnings():
            # Pillow warns of half the size that it refuses, and of odd metadata; neither matters here.
            warnings.simplefilter("ignore")
            with Image.open(path, formats=FORMATS) as picture:
                kind = str(picture.format).lower()
                _require_readable(path, picture)
                pixels = _rgb(picture)
    except UnidentifiedImageError as error:
        raise SlideError(f"{path}: is no PNG, JPEG, BMP or TIFF that can be read; give the file of a slide") from error
    except FAULTS as error:
        why = " ".join(str(error).split()) or type(error).__name__
        raise SlideError(f"{path}: cannot be read as a picture ({why}); copy it anew, it is damaged") from error
    height, width = pixels.shape[:2]
    return OpenedFile(reader=PictureReader(path, pixels), levels=(Size(width, height),), vendor=kind)


def _require_readable(path: Path, picture: Image.Image) -> None:
    if picture.width * picture.height > MOST_PIXELS:
        raise SlideError(
            f"{path}: has {picture.width} x {picture.height} px, too many for a picture without levels; "
            "convert it to a pyramidal TIFF"
        )
    if picture.mode not in EIGHT_BIT or _bits(path, picture) > 8:
        raise SlideError(
            f"{path}: has pixels of kind {picture.mode} with {_bits(path, picture)} bits; only grey and RGB of 8 bits "
            "a channel are read: convert it"
        )
    if picture.format == "TIFF" and _has_second_page(picture):
        raise SlideError(f"{path}: is a TIFF of several pages and no pyramid that can be read; convert it")


def _bits(path: Path, picture: Image.Image) -> int:
    # Pillow makes 8 bits of 16 in silence, so the file is asked.
    if picture.format == "PNG":
        with path.open("rb") as file:
            return file.read(25)[24]  # signature 8, length 4, "IHDR" 4, width 4, height 4, then the depth
    if picture.format == "TIFF":
        tags: dict[int, tuple[int, ...]] = getattr(picture, "tag_v2", {})
        return max(tags.get(258, (1,)))
    return 16 if picture.mode.startswith("I") else 32 if picture.mode == "F" else 8


def _has_second_page(picture: Image.Image) -> bool:
    try:
        picture.seek(1)
    except EOFError:
        return False
    return True


def _rgb(picture: Image.Image) -> Pixels:
    if picture.mode in {"LA", "PA", "RGBA"} or "transparency" in picture.info:
        coloured = picture.convert("RGBA")
        white = Image.new("RGB", coloured.size, (WHITE, WHITE, WHITE))
        white.paste(coloured, mask=coloured.getchannel("A"))
        return np.asarray(white)
    return np.asarray(picture.convert("RGB"))
