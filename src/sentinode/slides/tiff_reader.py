"""Pyramidal TIFF without OpenSlide: plain pyramids, Aperio SVS and OME-TIFF, read straight from their tiles.

tifffile parses the pages. Neighbouring tiles are read at once; JPEG is decoded by libjpeg-turbo, reduced where less
is wanted (`sentinode.slides.jpeg`), everything else by tifffile, which is also the plain way for JPEG: what the quick
one refuses, that one decides. Before tifffile sees a file, the chain of its pages is walked here with bounds on
everything that a damaged header could inflate, and before a tile is decoded, the size that it claims is compared with
the size that it must have. So a damaged file costs a message and not the memory of the machine.

References
----------
TIFF Revision 6.0 (Adobe, 1992), https://www.itu.int/itudoc/itu-t/com16/tiff-fx/docs/tiff6.pdf; BigTIFF and OME-TIFF
(https://docs.openmicroscopy.org/ome-model/) for what came later.
"""

import math
import os
import re
import struct
import threading
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tifffile
from numpy.typing import NDArray

from sentinode.errors import SlideError
from sentinode.geometry import Size
from sentinode.slides.jpeg import REDUCTIONS, decode_jpeg, jpeg_frame, shrunk_by, whole_jpeg
from sentinode.slides.slide import MOST_AREA, MOST_SIDE, WHITE, OpenedFile, Pixels
from sentinode.slides.tiff_structure import FAULTS, check_directories, one_line, pages_of, require_segments, segment_of

__all__ = ["TiffReader", "open_tiff"]

CACHE_BYTES = 32 * 2**20
"""Of decoded tiles, for each open slide."""

MOST_RUN = 4 * 2**20
"""Bytes of neighbouring tiles that are read at once."""

MOST_GAP = 2**12
"""Bytes between two tiles that are read along rather than skipped: a page of the disk cache."""

COMPRESSIONS: Mapping[int, str] = {
    1: "none",
    5: "LZW",
    7: "JPEG",
    8: "deflate",
    32773: "PackBits",
    32946: "deflate",
    33003: "JPEG 2000 (YCbCr)",
    33005: "JPEG 2000",
    34712: "JPEG 2000",
}
JPEG_2000 = (33003, 33005, 34712)

WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, YCBCR = 0, 1, 2, 6
PHOTOMETRICS = {3: "a palette", 4: "a mask", 5: "CMYK colours", 8: "CIE Lab colours"}

UM_IN_UNIT = {2: 25_400.0, 3: 1e4}
"""ResolutionUnit of TIFF (inch, centimetre) -> micrometres."""

UM_IN_OME = {"nm": 1e-3, "\u00b5m": 1.0, "\u03bcm": 1.0, "um": 1.0, "&#181;m": 1.0, "mm": 1e3, "cm": 1e4, "m": 1e6}

NOT_TISSUE = re.compile(r"\b(label|macro|thumbnail|barcode)\b", re.IGNORECASE)

# Their tiles overlap, their levels are padded, or their focal planes are among the pages.
_OPENSLIDE_ONLY: Mapping[str, Callable[[tifffile.TiffFile], bool]] = {
    "Ventana": lambda tiff: bool(tiff.is_bif),
    "Hamamatsu": lambda tiff: bool(tiff.is_ndpi),
    "Leica": lambda tiff: bool(tiff.is_scn),
    "Philips": lambda tiff: bool(tiff.is_philips),
    "Trestle": lambda tiff: str(tiff.pages.first.software).startswith("MedScan"),
}

Decode = Callable[..., tuple[NDArray[Any] | None, tuple[int, ...], tuple[int, ...]]]


@dataclass(frozen=True)
class _Plane:
    # Channels of a level that are stored together: all three of them, or one.
    offsets: Sequence[int]
    counts: Sequence[int]
    first: int  # segment where it begins
    decode: Decode
    tables: bytes | None


@dataclass(frozen=True)
class _Level:
    size: Size
    segment: Size  # of a tile, or of a strip
    across: int  # segments in a row
    planes: tuple[_Plane, ...]
    photometric: int
    compression: int
    quick: bool  # whether its tiles are colour JPEG, whose sides the reductions divide
    is_rgb: bool  # of JPEG: whether the channels are red, green, blue

    def blank(self) -> NDArray[np.uint8]:
        # A tile that was left out, in the channels of one plane: white, or no ink, where 0 is white.
        value = 0 if self.photometric == WHITE_IS_ZERO else WHITE
        return np.full((*self.segment.shape, 1 if len(self.planes) == 3 else 3), value, dtype=np.uint8)


class _Key(NamedTuple):
    level: int
    reduction: int
    segment: int


@dataclass(eq=False)
class _TileCache:
    # The tiles used last, up to a number of bytes; a tile of more than that is kept until the next one.
    tiles: OrderedDict[_Key, Pixels] = field(default_factory=OrderedDict)
    lock: threading.Lock = field(default_factory=threading.Lock)
    n_bytes: int = 0

    def get(self, key: _Key) -> Pixels | None:
        with self.lock:
            tile = self.tiles.get(key)
            if tile is not None:
                self.tiles.move_to_end(key)
            return tile

    def put(self, key: _Key, tile: Pixels) -> None:
        with self.lock:
            if key in self.tiles:
                return
            self.tiles[key] = tile
            self.n_bytes += tile.nbytes
            while self.n_bytes > CACHE_BYTES and len(self.tiles) > 1:
                _, oldest = self.tiles.popitem(last=False)
                self.n_bytes -= oldest.nbytes

    def clear(self) -> None:
        with self.lock:
            self.tiles.clear()
            self.n_bytes = 0


class _Bytes:
    # A file that many threads read at once. It closes itself when the last of them has let it go: to close it under a
    # thread that reads could give that thread the bytes of another file.
    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        self._position = threading.Lock()
        self.n_bytes = os.fstat(self._descriptor).st_size

    def __del__(self) -> None:
        if hasattr(self, "_descriptor"):
            os.close(self._descriptor)

    def read(self, offset: int, count: int) -> bytes:
        if hasattr(os, "pread"):
            data = os.pread(self._descriptor, count, offset)
        else:  # Windows
            with self._position:
                os.lseek(self._descriptor, offset, os.SEEK_SET)
                data = os.read(self._descriptor, count)
        if len(data) < count:
            raise ValueError(f"the file ends {count - len(data)} bytes too soon")
        return data


class TiffReader:
    """Pixels of a pyramidal TIFF.

    Parameters
    ----------
    path : Path
        Of the file, and for messages.
    levels : sequence of _Level
        What `open_tiff` found in it.
    """

    def __init__(self, path: Path, levels: Sequence[_Level]) -> None:
        self.path = path
        self._levels = tuple(levels)
        self._cache = _TileCache()
        self._bytes: _Bytes | None = _Bytes(path)

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
            Tiles that the file leaves out are white.

        Raises
        ------
        SlideError
            If the reader is closed, or a tile cannot be read.
        """
        # SlideError is that of _tiles.
        return self.read_reduced(level, 1, (x, y), Size(width, height))

    def reductions(self, level: int) -> tuple[int, ...]:
        """Say by how much a level can be reduced while it is decoded.

        Parameters
        ----------
        level : int
            0 is the largest.

        Returns
        -------
        tuple of int
            Empty for what is not JPEG.
        """
        return REDUCTIONS if self._levels[level].quick else ()

    def read_reduced(self, level: int, reduction: int, corner: tuple[int, int], size: Size) -> Pixels:
        """Read a part of a level, reduced while it is decoded.

        Parameters
        ----------
        level : int
            0 is the largest.
        reduction : int
            1, or one that the level has.
        corner : (x, y) int
            Pixels of the reduced level.
        size : Size
            Pixels of the reduced level.

        Returns
        -------
        (size.height, size.width, 3) uint8
            Each pixel is, but for the rounding of the reduced transform, the mean of reduction x reduction pixels.

        Raises
        ------
        SlideError
            If the reader is closed, or a tile cannot be read.
        """
        # SlideError is that of _tiles.
        (x, y), stored = corner, self._levels[level]
        wide, high = stored.segment.width // reduction, stored.segment.height // reduction
        part = np.full((*size.shape, 3), WHITE, dtype=np.uint8)
        columns = range(x // wide, -(-(x + size.width) // wide))
        for row in range(y // high, -(-(y + size.height) // high)):
            tiles = self._tiles([_Key(level, reduction, row * stored.across + column) for column in columns])
            for column, tile in zip(columns, tiles, strict=True):
                left, upper = column * wide, row * high
                x0, y0 = max(left, x), max(upper, y)
                x1, y1 = min(left + tile.shape[1], x + size.width), min(upper + tile.shape[0], y + size.height)
                if x1 > x0 and y1 > y0:
                    part[y0 - y : y1 - y, x0 - x : x1 - x] = tile[y0 - upper : y1 - upper, x0 - left : x1 - left]
        return part

    def close(self) -> None:
        """Let the file go, when no thread reads it any more."""
        self._bytes = None
        self._cache.clear()

    def _tiles(self, keys: Sequence[_Key]) -> list[Pixels]:
        # Neighbours in a row: what is not in the cache is read at once.
        file = self._bytes
        if file is None:
            raise SlideError(f"{self.path}: is closed; open it again")
        found = {key: tile for key in keys if (tile := self._cache.get(key)) is not None}
        missing = [key for key in keys if key not in found]
        if missing:
            stored = self._levels[missing[0].level]
            planes = [self._segments(file, plane, missing, stored) for plane in stored.planes]
            for key, *parts in zip(missing, *planes, strict=True):
                found[key] = self._decoded(key, parts)
                self._cache.put(key, found[key])
        return [found[key] for key in keys]

    def _segments(self, file: _Bytes, plane: _Plane, keys: Sequence[_Key], stored: _Level) -> list[bytes]:
        # What is stored of each, b"" of a tile that is left out.
        places = [(plane.offsets[plane.first + key.segment], plane.counts[plane.first + key.segment]) for key in keys]
        for key, (offset, count) in zip(keys, places, strict=True):
            if count and (offset + count > file.n_bytes or count > 8 * stored.segment.area + 2**20):
                raise self._damaged(key, ValueError(f"{count} bytes at {offset} of a file of {file.n_bytes}"))
        segments: list[bytes] = []
        for run in _runs(places):
            begin, end = run[0][0], run[-1][0] + run[-1][1]
            try:
                data = file.read(begin, end - begin)
            except FAULTS as error:
                raise self._damaged(keys[len(segments)], error) from error
            segments += [data[offset - begin : offset - begin + count] for offset, count in run]
        return segments

    def _decoded(self, key: _Key, parts: Sequence[bytes]) -> Pixels:
        stored = self._levels[key.level]
        try:
            if stored.quick and parts[0]:
                return _quickly(parts[0], stored, key)
            channels = [
                _channels(data, stored, plane, key.segment) for data, plane in zip(parts, stored.planes, strict=True)
            ]
            return shrunk_by(key.reduction, _rgb(np.concatenate(channels, axis=2), stored))
        except FAULTS as error:
            raise self._damaged(key, error) from error

    def _damaged(self, key: _Key, error: BaseException) -> SlideError:
        return SlideError(
            f"{self.path}: tile {key.segment} of level {key.level} cannot be read ({one_line(error)}); "
            "copy it anew, it is damaged"
        )


def open_tiff(path: Path) -> OpenedFile:
    """Open a TIFF file as a pyramid of one or more levels.

    Parameters
    ----------
    path : Path
        TIFF, BigTIFF, SVS or OME-TIFF.

    Returns
    -------
    OpenedFile
        Its levels, without label, macro image and thumbnail.

    Raises
    ------
    SlideError
        If it is no TIFF, is damaged, or holds pixels that are not read here.
    """
    # SlideError is also that of the parts.
    try:
        with path.open("rb") as file:
            check_directories(file, path.stat().st_size)
    except (*FAULTS, EOFError) as error:
        raise SlideError(f"{path}: is no TIFF, or is damaged ({one_line(error)}); copy it anew") from error
    try:
        tiff = tifffile.TiffFile(path)
    except FAULTS as error:
        raise SlideError(f"{path}: cannot be read as TIFF ({one_line(error)}); copy it anew") from error
    try:
        return _opened(path, tiff)
    except FAULTS as error:
        raise SlideError(f"{path}: cannot be read as TIFF ({one_line(error)}); copy it anew") from error
    finally:
        tiff.close()  # the tiles are read without it


def _opened(path: Path, tiff: tifffile.TiffFile) -> OpenedFile:
    for vendor, reads_only in _OPENSLIDE_ONLY.items():
        if reads_only(tiff):
            raise SlideError(f"{path}: is a {vendor} file, which only OpenSlide reads; copy it anew")
    ome = _ome_pixels(tiff)
    groups = _ome_levels(path, tiff, ome) if ome else [(page,) for page in _pyramid(tiff)]
    for group in groups:
        for page in group:
            _require_readable(path, page, of_one_channel=len(group) == 3)
    levels = [_level(group) for group in groups]
    first = groups[0][0]
    text = str(first.description)
    aperio = dict(re.findall(r"\|\s*(\w+)\s*=\s*([^|\r\n]+)", text)) if text.startswith("Aperio") else {}
    if aperio and any(0 in page.databytecounts for group in groups for page in group):
        # A fault of some scanners: what lies below is wrong as well, and OpenSlide makes it anew from above.
        raise SlideError(f"{path}: is an Aperio file with missing tiles, which only OpenSlide reads; copy it anew")
    return OpenedFile(
        reader=TiffReader(path, levels),
        levels=tuple(level.size for level in levels),
        mpp=_mpp(first, aperio, ome),
        objective=_positive(aperio.get("AppMag")),
        vendor="ome-tiff" if ome else "aperio" if aperio else "generic-tiff",
        properties={**aperio, **ome},
    )


# --- what is read -------------------------------------------------------------------------------------------


def _require_readable(path: Path, page: tifffile.TiffPage, *, of_one_channel: bool) -> None:
    size = f"{page.imagewidth} x {page.imagelength} px"
    if not (0 < page.imagewidth <= MOST_SIDE and 0 < page.imagelength <= MOST_SIDE) or (
        page.imagewidth * page.imagelength > MOST_AREA
    ):
        raise SlideError(f"{path}: claims {size}, which no scanner makes; it is damaged: copy it anew")
    if page.bitspersample != 8 or page.sampleformat != 1 or page.dtype != np.uint8:
        kind = {2: "signed", 3: "float"}.get(page.sampleformat, "")
        raise SlideError(
            f"{path}: has {' '.join(filter(None, (str(page.bitspersample), 'bit', kind)))} pixels; "
            "only grey and RGB of 8 bits a channel are read: convert it"
        )
    if page.photometric not in {WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, YCBCR}:
        kind = PHOTOMETRICS.get(int(page.photometric), f"colours of kind {int(page.photometric)}")
        raise SlideError(f"{path}: has {kind}; only grey and RGB of 8 bits a channel are read: convert it")
    if page.compression not in COMPRESSIONS:
        raise SlideError(f"{path}: is compressed in a way ({page.compression}) that is not read; convert it")
    if page.photometric == YCBCR and page.compression not in {7, 33003, 33005, 34712}:
        raise SlideError(f"{path}: has YCbCr colours that are not in JPEG; convert it to RGB")
    _require_samples(path, page, of_one_channel=of_one_channel)
    require_segments(path, page)


def _require_samples(path: Path, page: tifffile.TiffPage, *, of_one_channel: bool) -> None:
    allowed = {1} if of_one_channel else {1, 2, 3, 4}
    separate = page.planarconfig == 2 and page.samplesperpixel > 1
    if page.samplesperpixel not in allowed or (separate and page.samplesperpixel < 3) or page.imagedepth != 1:
        raise SlideError(
            f"{path}: has {page.samplesperpixel} channels in {page.imagedepth} planes; only grey and RGB are read"
        )


# --- which pages are levels ---------------------------------------------------------------------------------


def _pyramid(tiff: tifffile.TiffFile) -> list[tifffile.TiffPage]:
    # The first page that is tissue, its SubIFDs, and the later pages that are the same picture, smaller.
    pages = [page for page in pages_of(tiff.pages) if _is_tissue(page)]
    if not pages:
        raise ValueError("it has no page that shows tissue")
    levels = [pages[0]]
    for page in (*pages_of(pages[0].pages), *pages[1:]):
        if _is_tissue(page) and _is_smaller(page, levels[0], levels[-1]):
            levels.append(page)
    return levels


def _is_tissue(page: tifffile.TiffPage) -> bool:
    # 4 marks a mask, and Aperio marks its macro image with 9. Its label says so in the second line.
    first_lines = "\n".join(str(page.description).splitlines()[:2])
    aperio_side_image = str(page.description).startswith("Aperio") and NOT_TISSUE.search(first_lines)
    named = NOT_TISSUE.fullmatch(str(page.description).strip())
    return not (page.subfiletype & 4 or page.subfiletype == 9 or aperio_side_image or named)


def _is_smaller(page: tifffile.TiffPage, base: tifffile.TiffPage, previous: tifffile.TiffPage) -> bool:
    # Of a tiled picture the levels are tiled: Aperio's thumbnail, which lies between them, is not.
    if page.is_tiled != base.is_tiled or page.samplesperpixel != base.samplesperpixel or page.dtype != base.dtype:
        return False
    width, height = page.imagewidth, page.imagelength
    if min(width, height) < 1 or width >= previous.imagewidth or height >= previous.imagelength:
        return False
    factor = max(base.imagewidth / width, base.imagelength / height)
    # The same picture, each side rounded to whole pixels at each of a few halvings.
    return abs(base.imagewidth / factor - width) <= 2 and abs(base.imagelength / factor - height) <= 2


def _ome_pixels(tiff: tifffile.TiffFile) -> dict[str, str]:
    # Attributes of the first image's <Pixels>; empty where it is no OME-TIFF. No XML parser, nothing to expand.
    if not tiff.is_ome:
        return {}
    found = re.search(r"<(?:\w+:)?Pixels\b([^>]*)>", str(pages_of(tiff.pages)[0].description))
    return dict(re.findall(r"(\w+)\s*=\s*\"([^\"]*)\"", found[1])) if found else {}


def _ome_levels(path: Path, tiff: tifffile.TiffFile, ome: Mapping[str, str]) -> list[tuple[tifffile.TiffPage, ...]]:
    # Pages of each level: one with all samples, or one a channel (CYX) of the first focal plane and time.
    pages = pages_of(tiff.pages)
    first = pages[0]
    if first.samplesperpixel > 1 or int(ome.get("SizeC", "1")) == 1:
        channels = [first]
    elif int(ome["SizeC"]) == 3:
        order = ome.get("DimensionOrder", "XYCZT")[2:]
        step = math.prod(int(ome.get(f"Size{axis}", "1")) for axis in order[: order.index("C")])
        channels = [pages[channel * step] for channel in range(3)]
    else:
        raise SlideError(f"{path}: has {ome['SizeC']} channels; only grey and RGB of 8 bits a channel are read")
    chains = [_with_reduced(page) for page in channels]
    if len(channels) == 1 and len(chains[0]) == 1:
        return [(page,) for page in _pyramid(tiff)]  # an older way: reduced pages follow
    n_levels = min(map(len, chains))
    levels = [tuple(chain[number] for chain in chains) for number in range(n_levels)]
    if any(len({_layout(page) for page in level}) > 1 for level in levels):
        raise SlideError(f"{path}: has channels of different sizes; it is damaged: copy it anew")
    return levels


def _with_reduced(page: tifffile.TiffPage) -> list[tifffile.TiffPage]:
    levels = [page]
    for reduced in pages_of(page.pages):
        if _is_smaller(reduced, page, levels[-1]):
            levels.append(reduced)
    return levels


def _layout(page: tifffile.TiffPage) -> tuple[int, ...]:
    segment = segment_of(page)
    return page.imagewidth, page.imagelength, segment.width, segment.height, int(page.photometric)


def _level(group: Sequence[tifffile.TiffPage]) -> _Level:
    first = group[0]
    segment = segment_of(first)
    across = math.ceil(first.imagewidth / segment.width)
    n_segments = across * math.ceil(first.imagelength / segment.height)
    planes = tuple(
        _Plane(page.dataoffsets, page.databytecounts, sample * n_segments, page.decode, page.jpegtables)
        for page in group
        for sample in range(page.samplesperpixel if page.planarconfig == 2 else 1)
    )
    size = Size(first.imagewidth, first.imagelength)
    quick = (
        first.compression == 7
        and first.photometric in {RGB, YCBCR}
        and first.samplesperpixel == 3
        and len(planes) == 1
        and not (segment.width % max(REDUCTIONS) or segment.height % max(REDUCTIONS))
    )
    # As tifffile has it: what says that it is JFIF is YCbCr, whatever the page says.
    is_rgb = first.photometric == RGB and not first.is_jfif
    return _Level(size, segment, across, planes, int(first.photometric), int(first.compression), quick, is_rgb)


# --- tiles --------------------------------------------------------------------------------------------------


def _runs(places: Sequence[tuple[int, int]]) -> Iterator[list[tuple[int, int]]]:
    # Places (offset, bytes) in groups that lie next to one another in the file, and are worth one read.
    run: list[tuple[int, int]] = []
    for offset, count in places:
        if run:
            gap, length = offset - run[-1][0] - run[-1][1], offset + count - run[0][0]
            if not (count and run[-1][1] and 0 <= gap <= MOST_GAP and length <= MOST_RUN):
                yield run
                run = []
        run.append((offset, count))
    yield run


def _quickly(data: bytes, stored: _Level, key: _Key) -> Pixels:
    # What libjpeg-turbo finds fault with, the plain way decides.
    plane, frame = stored.planes[0], jpeg_frame(data)
    _require_fit(frame.width, frame.height, stored)
    try:
        return decode_jpeg(whole_jpeg(data, frame, plane.tables, is_rgb=stored.is_rgb), frame, key.reduction)
    except ValueError:
        return shrunk_by(key.reduction, _rgb(_channels(data, stored, plane, key.segment), stored))


def _channels(data: bytes, stored: _Level, plane: _Plane, index: int) -> NDArray[np.uint8]:
    # (h, w, channels) of a tile, the plain way.
    if not data:
        return stored.blank()
    _require_size(data, stored)
    decoded, _, _ = plane.decode(data, plane.first + index, jpegtables=plane.tables)
    if decoded is None or decoded.ndim != 4 or decoded.dtype != np.uint8:
        raise ValueError("it does not hold 8-bit pixels")
    channels: NDArray[np.uint8] = decoded[0]
    return channels


def _require_size(data: bytes, stored: _Level) -> None:
    # What JPEG and JPEG 2000 say of their own size, before a decoder believes it.
    if stored.compression == 7:
        frame = jpeg_frame(data)
        width, height = frame.width, frame.height
    elif stored.compression in JPEG_2000:
        width, height = _jpeg2000_size(data)
    elif COMPRESSIONS[stored.compression] == "deflate":
        limit = 4 * stored.segment.area
        if len(zlib.decompressobj().decompress(data, limit + 1)) > limit:
            raise ValueError(f"it inflates to more than {stored.segment.width} x {stored.segment.height} px")
        return
    else:
        return
    _require_fit(width, height, stored)


def _require_fit(width: int, height: int, stored: _Level) -> None:
    if width > stored.segment.width or height > stored.segment.height:
        raise ValueError(f"it claims {width} x {height} px, its place has {stored.segment.width}")


def _jpeg2000_size(data: bytes) -> tuple[int, int]:
    # ITU-T T.800, A.5.1: SOC, then SIZ: length, capabilities, extent and offset of the image.
    place = data.find(b"\xff\x4f\xff\x51")
    if place < 0 or place + 24 > len(data):
        raise ValueError("it is no JPEG 2000 codestream")
    end_x, end_y, x, y = struct.unpack(">IIII", data[place + 8 : place + 24])
    return end_x - x, end_y - y


def _rgb(channels: NDArray[np.uint8], stored: _Level) -> Pixels:
    # (h, w, 3) of 1 to 4 channels as they are stored.
    if stored.photometric == WHITE_IS_ZERO:
        channels = WHITE - channels
    n_channels = channels.shape[2]
    if n_channels < 3:
        colour = np.repeat(channels[..., :1], 3, axis=2)
    elif stored.compression == 33003:
        colour = _from_ycbcr(channels[..., :3])
    else:
        colour = channels[..., :3]
    if n_channels in {2, 4}:
        alpha = channels[..., -1:].astype(np.float32) / 255
        colour = np.rint(colour * alpha + WHITE * (1 - alpha)).astype(np.uint8)
    return np.ascontiguousarray(colour)


def _from_ycbcr(channels: NDArray[np.uint8]) -> Pixels:
    # JFIF 1.02: full range, chroma around 128.
    luma, blue, red = (channels[..., index].astype(np.float32) for index in range(3))
    blue, red = blue - 128, red - 128
    rgb = np.stack([luma + 1.402 * red, luma - 0.344136 * blue - 0.714136 * red, luma + 1.772 * blue], axis=2)
    converted: Pixels = np.rint(rgb).clip(0, WHITE).astype(np.uint8)
    return converted


# --- resolution ---------------------------------------------------------------------------------------------


def _mpp(page: tifffile.TiffPage, aperio: Mapping[str, str], ome: Mapping[str, str]) -> tuple[float, float] | None:
    across, down = _positive(ome.get("PhysicalSizeX")), _positive(ome.get("PhysicalSizeY"))
    unit_x = UM_IN_OME.get(ome.get("PhysicalSizeXUnit", "\u00b5m"))
    unit_y = UM_IN_OME.get(ome.get("PhysicalSizeYUnit", "\u00b5m"))
    if across and down and unit_x and unit_y:
        return across * unit_x, down * unit_y
    of_aperio = _positive(aperio.get("MPP"))
    if of_aperio:
        return of_aperio, of_aperio
    unit = UM_IN_UNIT.get(int(page.tags.valueof(296, 2)))
    per_x, per_y = _ratio(page.tags.valueof(282)), _ratio(page.tags.valueof(283))
    return (unit / per_x, unit / per_y) if unit and per_x and per_y else None


def _ratio(value: object) -> float | None:
    match value:
        case (int(above), int(below)) if above > 0 and below > 0:
            return above / below
        case _:
            return None


def _positive(text: str | None) -> float | None:
    try:
        number = float(text or "")
    except ValueError:
        return None
    return number if math.isfinite(number) and number > 0 else None
