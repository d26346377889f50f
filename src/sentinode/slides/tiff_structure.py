"""The structure of a TIFF, looked at before anything is allocated: directories, tags, tiles."""

import logging
import math
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import tifffile

from sentinode.errors import SlideError
from sentinode.geometry import Size

__all__ = [
    "FAULTS",
    "check_directories",
    "one_line",
    "pages_of",
    "require_segments",
    "require_sound_tiff",
    "segment_of",
]

MOST_SEGMENT_PIXELS = 2**25
"""Pixels of a tile or strip: 96 MiB decoded."""

TIFF_BEGINNINGS = frozenset({b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"})
MOST_PAGES = 10_000
MOST_VALUES = 2**22
"""Values of a tag: as many tiles of 256 px as the largest slide could have."""

TYPE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
OFFSET_FORMAT = {3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}
POINTERS = (330, 34665, 34853, 40965)
"""Tags that point at further directories: SubIFDs, EXIF, GPS, interoperability."""

# What tifffile, imagecodecs and numpy raise on damaged files.
FAULTS = (
    tifffile.TiffFileError,
    OSError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    MemoryError,
    RuntimeError,
    AssertionError,
    struct.error,
    zlib.error,
)

# tifffile tells its logger of every oddity; without a handler that would end up in the terminal.
logging.getLogger("tifffile").addHandler(logging.NullHandler())


def require_sound_tiff(path: Path) -> None:
    """Refuse a TIFF that is damaged in its structure, before a library opens it that aborts where memory is short.

    A file that is no TIFF is left to that library, and so are NDPI files, whose directories are unlike others'.

    Parameters
    ----------
    path : Path
        Of any file.

    Raises
    ------
    SlideError
        If its directories are damaged, a tile would be larger than can be read by parts or than the file, or fewer
        tiles are listed than the size needs.
    """
    try:
        if path.suffix.lower() == ".ndpi" or not path.is_file():
            return
        with path.open("rb") as file:
            if file.read(4) not in TIFF_BEGINNINGS:
                return
            file.seek(0)
            check_directories(file, path.stat().st_size)
        with tifffile.TiffFile(path) as tiff:
            for page in (part for one in pages_of(tiff.pages) for part in (one, *pages_of(one.pages))):
                if page.is_tiled:
                    require_segments(path, page)
                if max(page.databytecounts, default=0) > path.stat().st_size:
                    raise SlideError(f"{path}: has a tile of more bytes than the file; it is damaged: copy it anew")
    except (*FAULTS, EOFError) as error:
        raise SlideError(f"{path}: is no TIFF, or is damaged ({one_line(error)}); copy it anew") from error


def check_directories(file: BinaryIO, n_bytes: int) -> None:
    """Walk all directories of a TIFF: no loop, no tag that reaches beyond the file or has millions of values.

    Parameters
    ----------
    file : binary file
        At its beginning.
    n_bytes : int
        Of the file.

    Raises
    ------
    ValueError
        If one is damaged.
    EOFError
        If the file ends within one.
    """
    header = file.read(16)
    order = {b"II": "<", b"MM": ">"}.get(header[:2])
    if order is None or len(header) < 16:
        raise ValueError("it does not begin as a TIFF does")
    version = struct.unpack(order + "H", header[2:4])[0]
    if version not in {42, 43}:
        raise ValueError(f"its version is {version}, not 42 or 43")
    big = version == 43
    offset = struct.unpack(order + "Q", header[8:16])[0] if big else struct.unpack(order + "I", header[4:8])[0]
    chain: set[int] = set()
    waiting = []
    while offset != 0:
        if offset in chain or len(chain) >= MOST_PAGES:
            raise ValueError("its pages run in a circle" if offset in chain else f"it has over {MOST_PAGES} pages")
        chain.add(offset)
        *below, offset = _next_directories(file, offset, order, n_bytes, big=big)
        waiting += below
    # Directories below pages may be listed and chained as well; each is looked at once.
    seen: set[int] = {0}
    while waiting:
        offset = waiting.pop()
        if offset in seen:
            continue
        seen.add(offset)
        if len(seen) > MOST_PAGES:
            raise ValueError(f"it has over {MOST_PAGES} pages")
        waiting.extend(_next_directories(file, offset, order, n_bytes, big=big))


def _next_directories(file: BinaryIO, offset: int, order: str, n_bytes: int, *, big: bool) -> Iterator[int]:
    # Where the directories below a page are, and last where the next page is.
    count_format, entry_format, inline = ("Q", "HHQ8s", 8) if big else ("H", "HHI4s", 4)
    pointer = "Q" if big else "I"
    (n_entries,) = struct.unpack(order + count_format, _exactly(file, offset, struct.calcsize(order + count_format)))
    entry_bytes = struct.calcsize(order + entry_format)
    if not 0 < n_entries <= 4096:
        raise ValueError(f"a page has {n_entries} tags")
    begin = offset + struct.calcsize(order + count_format)
    table = _exactly(file, begin, n_entries * entry_bytes)
    for tag, kind, count, value in struct.iter_unpack(order + entry_format, table):
        length = TYPE_BYTES.get(kind, 0) * count
        if length > inline:
            where = struct.unpack(order + pointer, value)[0]
            if where + length > n_bytes or (count > MOST_VALUES and kind not in {1, 2, 6, 7}):
                raise ValueError(f"tag {tag} reaches beyond the file")
        if tag in POINTERS and kind in OFFSET_FORMAT:
            if count > MOST_PAGES:
                raise ValueError(f"it has more than {MOST_PAGES} pages")
            stored = value[:length] if length <= inline else _exactly(file, where, length)
            yield from struct.unpack(f"{order}{count}{OFFSET_FORMAT[kind]}", stored)
    following = _exactly(file, begin + len(table), inline)
    yield struct.unpack(order + pointer, following)[0]


def _exactly(file: BinaryIO, offset: int, length: int) -> bytes:
    file.seek(offset)
    data = file.read(length)
    if len(data) < length:
        raise EOFError("it ends within a page's tags")
    return data


def require_segments(path: Path, page: tifffile.TiffPage) -> None:
    """Refuse a page whose tiles or strips are too large to be read by parts, or fewer than its size needs.

    Parameters
    ----------
    path : Path
        For the message.
    page : tifffile.TiffPage
        Of it.

    Raises
    ------
    SlideError
        If it is so.
    """
    segment = segment_of(page)
    if segment.area > MOST_SEGMENT_PIXELS:
        raise SlideError(
            f"{path}: has tiles or strips of {segment.width} x {segment.height} px, too large to be read by parts; "
            "convert it to a tiled TIFF"
        )
    planes = page.samplesperpixel if page.planarconfig == 2 else 1
    wanted = planes * math.ceil(page.imagewidth / segment.width) * math.ceil(page.imagelength / segment.height)
    if min(len(page.dataoffsets), len(page.databytecounts)) < wanted:
        raise SlideError(
            f"{path}: lists {len(page.dataoffsets)} tiles where its size needs {wanted}; it is damaged: copy it anew"
        )


def segment_of(page: tifffile.TiffPage) -> Size:
    """Give the size of a page's tiles, or of its strips.

    Parameters
    ----------
    page : tifffile.TiffPage

    Returns
    -------
    Size
        In pixels.
    """
    if page.is_tiled:
        return Size(page.tilewidth, page.tilelength)
    return Size(page.imagewidth, min(page.rowsperstrip or page.imagelength, page.imagelength))


def pages_of(found: tifffile.TiffPages | None) -> list[tifffile.TiffPage]:
    """List pages, or none.

    Parameters
    ----------
    found : tifffile.TiffPages or None

    Returns
    -------
    list of tifffile.TiffPage
        Those that have pixels of their own.
    """
    return [page for page in found or () if isinstance(page, tifffile.TiffPage)]


def one_line(error: BaseException) -> str:
    """Say what was wrong in one line.

    Parameters
    ----------
    error : BaseException
        Whatever a library raised.

    Returns
    -------
    str
        Its message, or its kind.
    """
    return " ".join(str(error).split())[:200] or type(error).__name__
