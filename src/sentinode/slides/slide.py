"""A slide: what is known of it, and its pixels at any place and resolution.

A reader gives the pixels of a level as they are stored; everything else is the same for all formats and stands here:
which level is read, what lies beyond the border (white, as the glass), how it is resampled (by area). So the same
tissue comes out whatever levels a file has. The plain way, level 0 shrunk by area, is the oracle of the tests.
"""

import contextlib
import hashlib
import importlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Protocol, Self, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.sparse import csr_array

from sentinode.errors import SlideError
from sentinode.geometry import Box, Raster, Scale, Size
from sentinode.slides.dicom_series import files_of_series
from sentinode.slides.naming import slide_id_of
from sentinode.slides.resolution import MppSource, MppWish, choose_mpp

__all__ = [
    "READERS",
    "SUFFIXES",
    "LevelReader",
    "OpenedFile",
    "Pixels",
    "ReducingReader",
    "Slide",
    "SlideInfo",
    "fingerprint",
    "open_slide",
    "shrink_by_area",
]

Pixels = NDArray[np.uint8]
"""(h, w, 3) uint8, red, green, blue."""

WHITE = 255

READERS: Mapping[str, str] = MappingProxyType({
    "openslide": "sentinode.slides.openslide_reader:open_with_openslide",
    "tiff": "sentinode.slides.tiff_reader:open_tiff",
    "image": "sentinode.slides.image_reader:open_image",
})
"""Reader -> where the function lies that opens a file with it. A new format is a module and a line here."""

_TIFF_FIRST = ("tiff", "openslide", "image")
SUFFIXES: Mapping[str, tuple[str, ...]] = MappingProxyType({
    ".svs": ("tiff", "openslide"),
    **dict.fromkeys((".ndpi", ".bif", ".scn", ".svslide"), ("openslide", "tiff")),
    **dict.fromkeys((".mrxs", ".vms", ".vmu", ".czi", ".dcm"), ("openslide",)),
    **dict.fromkeys((".ome.tif", ".ome.tiff", ".tif", ".tiff", ".btf"), _TIFF_FIRST),
    **dict.fromkeys((".png", ".jpg", ".jpeg", ".bmp"), ("image",)),
})
"""Suffix -> readers to try, in this order. A file of another suffix is tried with all of them."""

MOST_PIXELS = 2**22
"""Stored pixels read at a time (12 MiB); of more, a picture is made in blocks, so that memory stays bounded."""

FILLED = 2
"""Pixels that are read for each that is wanted, at most, where one look at the file serves several tiles."""

FINER = 1.9
"""How much finer than the result a reduced decoding must be, unless its pixels are cut where those of the result are:
a pixel that lies across two of the result is shared out between them, and what was in which part of it is lost."""

MOST_SIDE, MOST_AREA = 2**22, 2**38
"""Pixels of the largest level: several times what scanners make, and less than what a damaged header may claim."""


class LevelReader(Protocol):
    """The pixels of a file, level by level, as they are stored."""

    def read_level(self, level: int, x: int, y: int, width: int, height: int) -> Pixels:
        """Read a part of a level, in pixels of that level; it lies within. (height, width, 3)."""
        ...

    def close(self) -> None:
        """Let the file go."""
        ...


@runtime_checkable
class ReducingReader(LevelReader, Protocol):
    """A reader that decodes what is wanted at a lower resolution for less: JPEG has that."""

    def reductions(self, level: int) -> tuple[int, ...]:
        """Say by what whole numbers a level can be reduced, in rising order."""
        ...

    def read_reduced(self, level: int, reduction: int, corner: tuple[int, int], size: Size) -> Pixels:
        """Read a part of a level, in pixels of the reduced level; it lies within. (size.height, size.width, 3)."""
        ...


@dataclass(frozen=True)
class OpenedFile:
    """What a reader found in a file.

    Parameters
    ----------
    reader : LevelReader
        For its pixels; safe to call from several threads at once.
    levels : tuple of Size
        From the largest; at least one.
    mpp : (x, y) float, optional
        Micrometres a level-0 pixel, as the file says.
    objective : float, optional
        Objective power, as the file says.
    vendor : str
        E.g. ``"aperio"``, ``"generic-tiff"``, ``"ome-tiff"``, ``"png"``.
    bounds : Box, optional
        The part that was scanned, where the file says so (MRXS).
    properties : mapping of str to str
        What else the file says. No label or barcode image is ever read.
    """

    reader: LevelReader
    levels: tuple[Size, ...]
    mpp: tuple[float, float] | None = None
    objective: float | None = None
    vendor: str = ""
    bounds: Box | None = None
    properties: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class SlideInfo:
    """What is known of a slide without its pixels.

    Parameters
    ----------
    path : Path
        Of the file; its stem is the slide's id.
    size : Size
        Level 0.
    levels : tuple of Size
        From level 0 down.
    mpp : float or None
        Micrometres a level-0 pixel; None where nobody knows.
    mpp_source : {"file", "objective", "given", "unknown"}
        Where that comes from.
    vendor : str
        As the reader calls it.
    reader : str
        Which reader opened it: a key of `READERS`.
    fingerprint : str
        Of the content (`fingerprint`).
    objective : float or None
        Objective power, as the file says.
    bounds : Box or None
        The scanned part, where the file says so.
    note : str
        What a reader of the result should know of its resolution.
    """

    path: Path
    size: Size
    levels: tuple[Size, ...]
    mpp: float | None
    mpp_source: MppSource
    vendor: str
    reader: str
    fingerprint: str
    objective: float | None = None
    bounds: Box | None = None
    note: str = ""

    @property
    def slide_id(self) -> str:
        """The name of the file without the suffix of its format (`sentinode.slides.naming`)."""
        return slide_id_of(self.path)

    @property
    def scale(self) -> Scale:
        """Converts pixels and micrometres.

        Raises
        ------
        SlideError
            If the mpp is not known.
        """
        if self.mpp is None:
            why = f" ({self.note})" if self.note else ""
            raise SlideError(
                f"{self.path}: has no mpp (micrometres a pixel){why}; give it with --mpp, e.g. 0.25 for a 40x scan, "
                "or for many slides in a CSV with the columns slide,mpp"
            )
        return Scale(self.mpp)


@dataclass(frozen=True, eq=False)
class Slide:
    """A slide that is open. Use it in a ``with`` block, or close it.

    Parameters
    ----------
    info : SlideInfo
        What is known of it.
    reader : LevelReader
        For its pixels.
    """

    info: SlideInfo
    reader: LevelReader

    def read(self, box: Box, mpp: float) -> Pixels:
        """Read a part of the slide at a resolution.

        Parameters
        ----------
        box : Box
            Level-0 pixels; what lies beyond the slide comes out white.
        mpp : float
            Micrometres a pixel of the result; between levels, or finer than the slide, is fine.

        Returns
        -------
        (h, w, 3) uint8
            As large as `Scale.pixels` says.

        Raises
        ------
        SlideError
            If the slide's mpp is not known, or the file cannot be read there.
        """
        # SlideError is that of the two.
        return self.read_pixels(box, self.info.scale.pixels(box.size, mpp))

    def read_pixels(self, box: Box, pixels: Size) -> Pixels:
        """Read a part of the slide into a picture of a stated size.

        Parameters
        ----------
        box : Box
            Level-0 pixels; what lies beyond the slide comes out white.
        pixels : Size
            Of the result.

        Returns
        -------
        (pixels.height, pixels.width, 3) uint8
            Shrunk by area from the next finer level, or interpolated where no level is as fine.

        Raises
        ------
        SlideError
            If the file cannot be read there.
        """
        # SlideError is the reader's.
        level = _level_for(self.info.levels, box.width / pixels.width, box.height / pixels.height)
        left, upper, right, lower = Raster(self.info.size, self.info.levels[level]).window(box)
        across, down = (right - left) / pixels.width, (lower - upper) / pixels.height
        if across * down > MOST_PIXELS:
            # Even one pixel of the result is made of very many: shrink twice. Each is the mean of 8 x 8 equal areas.
            finer = self.read_pixels(box, Size(8 * pixels.width, 8 * pixels.height))
            return shrink_by_area(finer, (0, 0, 8 * pixels.width, 8 * pixels.height), pixels)
        wide, high = max(across, 1.0), max(down, 1.0)
        # Blocks are about square: of a band across the slide, no cache would hold the tiles until the next band.
        columns = max(1, int(min(MOST_PIXELS**0.5, MOST_PIXELS / high) / wide))
        rows = max(1, int(MOST_PIXELS / (columns * wide) / high))
        if columns >= pixels.width and rows >= pixels.height:
            return self._resampled(level, (left, upper, right, lower), pixels)
        picture = np.empty((*pixels.shape, 3), dtype=np.uint8)
        for y in range(0, pixels.height, rows):
            for x in range(0, pixels.width, columns):
                end_x, end_y = min(x + columns, pixels.width), min(y + rows, pixels.height)
                window = (left + across * x, upper + down * y, left + across * end_x, upper + down * end_y)
                picture[y:end_y, x:end_x] = self._resampled(level, window, Size(end_x - x, end_y - y))
        return picture

    def read_tiles(self, boxes: NDArray[np.int64], tile: Size) -> Pixels:
        """Read parts of the slide that lie near each other, to the bit as `read_pixels` reads each.

        Parameters
        ----------
        boxes : (n, 4) int64
            ``x, y, width, height`` in level-0 pixels.
        tile : Size
            Of each in pixels.

        Returns
        -------
        (n, tile.height, tile.width, 3) uint8
            In the order of the boxes.

        Raises
        ------
        SlideError
            If the file cannot be read there.
        """
        # SlideError is the reader's.
        places = [Box(*box) for box in boxes.tolist()]
        stored = self._stored_as(places, tile)
        if stored is not None:
            # What nobody wants, between the tiles, may be damaged.
            with contextlib.suppress(SlideError):
                return self._tiles_of_field(*stored, tile)
        pixels = np.empty((len(boxes), *tile.shape, 3), dtype=np.uint8)
        for target, box in zip(pixels, places, strict=True):
            target[:] = self.read_pixels(box, tile)
        return pixels

    def thumbnail(self, longest: int) -> Pixels:
        """Read the whole slide, small.

        Parameters
        ----------
        longest : int
            Pixels of the longer side, at most.

        Returns
        -------
        (h, w, 3) uint8
            Of the size ``info.size.fitted(longest)``.

        Raises
        ------
        SlideError
            If the file cannot be read.
        """
        # SlideError is the reader's.
        return self.read_pixels(Box.whole(self.info.size), self.info.size.fitted(longest))

    def close(self) -> None:
        """Let the file go."""
        self.reader.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _resampled(self, level: int, window: tuple[float, float, float, float], pixels: Size) -> Pixels:
        reduction = self._reduction(level, window, pixels)
        left, upper, right, lower = (edge / reduction for edge in window)
        shrinks = right - left >= pixels.width and lower - upper >= pixels.height
        # Interpolation looks at the neighbours, so that no seam shows where two reads meet.
        margin = 0 if shrinks else 1
        x, y = math.floor(left) - margin, math.floor(upper) - margin
        end_x, end_y = math.ceil(right) + margin, math.ceil(lower) + margin
        stored = self._stored(level, reduction, (x, y, end_x - x, end_y - y))
        if stored.shape[:2] == pixels.shape and (right - left, lower - upper) == (pixels.width, pixels.height):
            return stored
        inner = (left - x, upper - y, right - x, lower - y)
        if shrinks:
            return shrink_by_area(stored, inner, pixels)
        size = (pixels.width, pixels.height)
        return np.asarray(Image.fromarray(stored).resize(size, Image.Resampling.BILINEAR, box=inner))

    def _tiles_of_field(self, level: int, reduction: int, corners: NDArray[np.int64], tile: Size) -> Pixels:
        # Where no pixel is made of others, one look at the file serves all: most of the time for a tile is not pixels.
        pixels = np.empty((len(corners), *tile.shape, 3), dtype=np.uint8)
        (left, upper), (right, lower) = corners.min(axis=0).tolist(), corners.max(axis=0).tolist()
        field = self._stored(level, reduction, (left, upper, right - left + tile.width, lower - upper + tile.height))
        for target, (x, y) in zip(pixels, (corners - (left, upper)).tolist(), strict=True):
            target[:] = field[y : y + tile.height, x : x + tile.width]
        return pixels

    def _stored_as(self, boxes: Sequence[Box], tile: Size) -> tuple[int, int, NDArray[np.int64]] | None:
        # Level, reduction and (n, 2) upper left corners of boxes that are stored as they are wanted, close together.
        if len({box.size for box in boxes}) != 1:
            return None
        size = boxes[0].size
        level = _level_for(self.info.levels, size.width / tile.width, size.height / tile.height)
        raster = Raster(self.info.size, self.info.levels[level])
        windows = [raster.window(box) for box in boxes]
        reductions = {self._reduction(level, window, tile) for window in windows}
        if len(reductions) != 1:
            return None
        reduction = reductions.pop()
        edges = np.array(windows) / reduction  # (n, 4)
        corners = edges[:, :2].astype(np.int64)
        as_wanted = (edges == np.concatenate([corners, corners + np.array(tile.shape[::-1])], axis=1)).all()
        extent = np.ptp(corners, axis=0) + np.array(tile.shape[::-1])
        together = extent.prod() <= min(MOST_PIXELS, FILLED * len(boxes) * tile.area)
        return (level, reduction, corners) if as_wanted and together else None

    @cached_property
    def _reducing(self) -> ReducingReader | None:
        return self.reader if isinstance(self.reader, ReducingReader) else None

    def _reduction(self, level: int, window: tuple[float, float, float, float], pixels: Size) -> int:
        # The largest that gives what the level itself would give.
        left, upper, right, lower = window
        across, down = (right - left) / pixels.width, (lower - upper) / pixels.height
        if self._reducing is None or min(across, down) < 2:
            return 1
        size = self.info.levels[level]
        for one in reversed(self._reducing.reductions(level)):
            # At the right and lower border a reduced pixel may reach beyond the level, where a tile holds anything.
            within = right <= size.width // one * one and lower <= size.height // one * one
            aligned = not any(number % one for number in (left, upper, across, down))
            if within and (aligned or min(across, down) >= FINER * one):
                return one
        return 1

    def _stored(self, level: int, reduction: int, part: tuple[int, int, int, int]) -> Pixels:
        # x, y, width, height of a level that may be reduced; white where it reaches beyond.
        x, y, width, height = part
        size = self.info.levels[level]
        inside = Box(0, 0, size.width // reduction, size.height // reduction).cut(Box(*part))
        if inside is not None and (inside.width, inside.height) == (width, height):
            return self._read(level, reduction, inside)
        pixels = np.full((height, width, 3), WHITE, dtype=np.uint8)
        if inside is not None:
            stored = self._read(level, reduction, inside)
            pixels[inside.y - y : inside.bottom - y, inside.x - x : inside.right - x] = stored
        return pixels

    def _read(self, level: int, reduction: int, inside: Box) -> Pixels:
        if reduction > 1 and self._reducing is not None:
            return self._reducing.read_reduced(level, reduction, (inside.x, inside.y), inside.size)
        return self.reader.read_level(level, inside.x, inside.y, inside.width, inside.height)


def open_slide(path: Path | str, wish: MppWish | None = None, *, reader: str | None = None) -> Slide:
    """Open a slide: choose the reader by the suffix, then by what opens it.

    Parameters
    ----------
    path : Path or str
        Of the file.
    wish : MppWish, optional
        What is known of its resolution beside the file.
    reader : str, optional
        A key of `READERS`, to try no other.

    Returns
    -------
    Slide
        To be closed.

    Raises
    ------
    SlideError
        If there is no such file, or no reader can open it; also if the wish is not plausible.
    """
    # SlideError is also choose_mpp's.
    path = Path(path)
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "is not there"
        raise SlideError(f"{path}: {what}; give the file of a slide")
    wish = MppWish() if wish is None else wish
    name, opened = _opened(path, _readers_for(path) if reader is None else (reader,))
    try:
        _require_plausible(path, opened.levels)
        resolution = choose_mpp(path, wish, opened.mpp, opened.objective)
        info = SlideInfo(
            path=path,
            size=opened.levels[0],
            levels=opened.levels,
            mpp=resolution.mpp,
            mpp_source=resolution.source,
            vendor=opened.vendor,
            reader=name,
            fingerprint=fingerprint(path),
            objective=opened.objective,
            bounds=opened.bounds,
            note=resolution.note,
        )
    except SlideError:
        opened.reader.close()
        raise
    return Slide(info, opened.reader)


def shrink_by_area(pixels: Pixels, window: tuple[float, float, float, float], size: Size) -> Pixels:
    """Shrink a part of a picture; each pixel of the result is the mean over the area that it covers.

    A pixel that is covered in part counts in part. Pillow's ``BOX`` takes it as a whole or not at all, which moves
    edges by up to half a pixel where the factor is not a whole number.

    Parameters
    ----------
    pixels : (h, w, 3) uint8
        The picture.
    window : (left, upper, right, lower) float
        The part of it, in its pixels; not smaller than the result.
    size : Size
        Of the result.

    Returns
    -------
    (size.height, size.width, 3) uint8
        Rounded.

    Examples
    --------
    >>> row = np.repeat(np.array([[0, 90, 90]], dtype=np.uint8)[..., None], 3, axis=2)
    >>> shrink_by_area(row, (0, 0, 3, 1), Size(2, 1))[0, :, 0].tolist()
    [30, 90]
    """
    left, upper, right, lower = window
    height, width = pixels.shape[:2]
    down = _area_weights(upper, lower, size.height, height)  # (size.height, h)
    across = _area_weights(left, right, size.width, width)  # (size.width, w)
    rows = down @ pixels.reshape(height, -1).astype(np.float32)  # (size.height, w * 3)
    turned = rows.reshape(size.height, width, 3).transpose(1, 0, 2).reshape(width, -1)  # (w, size.height * 3)
    shrunk = across @ turned
    # Means of bytes are never beyond what a byte holds by as much as rounding forgives.
    rounded = np.rint(shrunk, out=shrunk).astype(np.uint8)
    return np.ascontiguousarray(rounded.reshape(size.width, size.height, 3).transpose(1, 0, 2))


def fingerprint(path: Path) -> str:
    """Recognise the content of a slide without reading gigabytes.

    Parameters
    ----------
    path : Path
        Of the file. Beside an MRXS file, its folder of the same name counts as well, and beside a DICOM file those of
        its series: by whichever of them it is opened, the slide is the same.

    Returns
    -------
    str
        SHA-256 (hex) over the sizes of the files, their first and last MiB and 64 blocks of 64 KiB between; a change
        elsewhere in a file of more than 6 MiB goes unnoticed.

    Raises
    ------
    SlideError
        If a file cannot be read.
    """
    digest = hashlib.sha256()
    try:
        for file in _files_of(path):
            digest.update(f"{file.name if file.parent != path.parent else ''}\0{file.stat().st_size}\0".encode())
            for block in _blocks(file):
                digest.update(block)
    except OSError as error:
        raise SlideError(f"{path}: cannot be read ({error.strerror or error})") from error
    return digest.hexdigest()


def _opened(path: Path, names: Sequence[str]) -> tuple[str, OpenedFile]:
    reasons: dict[str, None] = {}  # each once, in order
    for name in names:
        module, function = READERS[name].split(":")
        opener: Callable[[Path], OpenedFile] = getattr(importlib.import_module(module), function)
        try:
            return name, opener(path)
        except SlideError as error:
            reasons[str(error).removeprefix(f"{path}: ")] = None
    raise SlideError(f"{path}: {'; '.join(reasons)}")


def _readers_for(path: Path) -> tuple[str, ...]:
    name = path.name.lower()
    for suffix in sorted(SUFFIXES, key=len, reverse=True):
        if name.endswith(suffix):
            return SUFFIXES[suffix]
    return tuple(READERS)


def _level_for(levels: Sequence[Size], across: float, down: float) -> int:
    # The coarsest level that is as fine as what is wanted; levels that miss it by rounding count as fine enough.
    wanted = min(across, down) * (1 + 1e-3)
    chosen = 0
    for number, size in enumerate(levels):
        downsample = max(levels[0].width / size.width, levels[0].height / size.height)
        if downsample <= wanted:
            chosen = number
    return chosen


@lru_cache(maxsize=256)  # the tiles of a grid begin at few parts of a pixel
def _area_weights(begin: float, end: float, n: int, length: int) -> csr_array:
    # Share (n, length) that each of `length` pixels has in each of `n` equal parts of the stretch begin to end.
    edges = np.linspace(begin, end, n + 1)
    touched = math.ceil((end - begin) / n) + 1  # pixels that a part can touch
    pixel = np.floor(edges[:-1]).astype(np.int64)[:, None] + np.arange(touched)  # (n, touched)
    covered = np.minimum(edges[1:, None], pixel + 1) - np.maximum(edges[:-1, None], pixel)
    share = np.where(pixel < length, covered.clip(0, None), 0)
    share /= share.sum(axis=1, keepdims=True)
    inside = pixel.clip(0, length - 1)
    starts = np.arange(0, n * touched + 1, touched)
    return csr_array((share.astype(np.float32).ravel(), inside.ravel(), starts), shape=(n, length))


def _require_plausible(path: Path, levels: Sequence[Size]) -> None:
    for size in levels:
        if max(size.width, size.height) > MOST_SIDE or size.area > MOST_AREA:
            raise SlideError(
                f"{path}: claims {size.width} x {size.height} px, which no scanner makes; it is damaged: copy it anew"
            )


def _files_of(path: Path) -> tuple[Path, ...]:
    if path.suffix.lower() == ".dcm":
        return files_of_series(path)
    folder = path.with_suffix("")
    beside = folder if path.suffix.lower() == ".mrxs" and folder.is_dir() else None
    return (path, *(sorted(file for file in beside.iterdir() if file.is_file()) if beside else ()))


def _blocks(file: Path, edge: int = 2**20, between: int = 64, width: int = 2**16) -> Iterator[bytes]:
    size = file.stat().st_size
    with file.open("rb") as stream:
        if size <= 2 * edge + between * width:
            yield from iter(lambda: stream.read(edge), b"")
            return
        yield stream.read(edge)
        for number in range(between):
            stream.seek(edge + (size - 2 * edge) * number // between)
            yield stream.read(width)
        stream.seek(size - edge)
        yield stream.read(edge)
