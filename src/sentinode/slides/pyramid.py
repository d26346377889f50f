"""Write a pyramidal TIFF from pixels that are made while it is written.

One page a level, tiled, JPEG; each level is the one above shrunk to half by averaging four pixels. Tiles are made from
top to bottom; of a level, only the row of tiles that waits for its lower neighbours is held, and what is encoded of
the smaller levels waits in a nameless file, because a TIFF has the pages one after another. A blank tile costs nothing:
it is encoded once.
"""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Protocol

import imagecodecs
import numpy as np
import tifffile
from numpy.typing import NDArray

from sentinode.geometry import Box, Size

__all__ = ["TILE_PX", "PixelSource", "write_pyramid"]

TILE_PX = 256
"""Side of a tile."""

_QUALITY = 88
_SMALLEST_PX = 512  # the smallest level is at most about so large
_CLASSIC_PX = 3_000_000_000  # with more pixels a file may exceed the 4 GiB of a classic TIFF
_SUBSAMPLING = (2, 2)

_Tile = NDArray[np.uint8]


class PixelSource(Protocol):
    """Where the pixels come from."""

    @property
    def size(self) -> Size:
        """Of level 0."""

    @property
    def blank(self) -> tuple[int, int, int]:
        """Colour of a blank tile: red, green, blue."""

    def is_blank(self, box: Box) -> bool:
        """Say whether there is nothing to see in a part."""

    def read(self, box: Box) -> _Tile:
        """Give the pixels of a part: (h, w, 3)."""


@dataclass
class _Level:
    """A level below level 0 while it is made: encoded tiles in order, and the row of tiles that waits."""

    across: int
    spill: IO[bytes]
    places: list[tuple[int, int] | None] = field(default_factory=list)  # offset and length; None: blank
    waiting: dict[int, _Tile] | None = None

    def keep(self, encoded: bytes | None) -> None:
        if encoded is None:
            self.places.append(None)
            return
        self.places.append((self.spill.seek(0, 2), len(encoded)))
        self.spill.write(encoded)

    def tiles(self, blank: bytes) -> Iterator[bytes]:
        for place in self.places:
            if place is None:
                yield blank
            else:
                self.spill.seek(place[0])
                yield self.spill.read(place[1])


def write_pyramid(path: Path, source: PixelSource, mpp: float, description: str) -> tuple[Size, ...]:
    """Write a source as a pyramidal TIFF that OpenSlide and tifffile open.

    Parameters
    ----------
    path : Path
        The file; name it under `storage.whole_file`.
    source : PixelSource
        Asked for every part that is not blank, once, from top to bottom.
    mpp : float
        Micrometres a level-0 pixel; written as pixels a centimetre.
    description : str
        The ImageDescription of level 0; ASCII.

    Returns
    -------
    tuple of Size
        The levels.
    """
    sizes = _level_sizes(source.size)
    blank_tile = np.empty((TILE_PX, TILE_PX, 3), np.uint8)
    blank_tile[:] = source.blank
    blank = _encoded(blank_tile, smallest=True)
    with (
        tempfile.TemporaryFile(dir=path.parent) as spill,
        tifffile.TiffWriter(path, bigtiff=source.size.area > _CLASSIC_PX) as tiff,
    ):
        smaller = [_Level(-(-size.width // TILE_PX), spill) for size in sizes[1:]]
        pages = [_level0_tiles(source, smaller, blank_tile, blank)]
        pages += [level.tiles(blank) for level in smaller]
        for number, (size, tiles) in enumerate(zip(sizes, pages, strict=True)):
            per_cm = 1e4 / mpp * size.width / sizes[0].width
            tiff.write(
                tiles,
                shape=(*size.shape, 3),
                dtype=np.uint8,
                tile=(TILE_PX, TILE_PX),
                photometric="rgb",
                subsampling=_SUBSAMPLING,
                compression="jpeg",
                subfiletype=1 if number else 0,
                resolution=(per_cm, per_cm),
                resolutionunit="centimeter",
                description=description if number == 0 else None,
                software="sentinode",
                metadata=None,
            )
    return sizes


def _level_sizes(size: Size) -> tuple[Size, ...]:
    sizes = [size]
    while max(sizes[-1].width, sizes[-1].height) > _SMALLEST_PX and min(sizes[-1].width, sizes[-1].height) > 1:
        sizes.append(Size(sizes[-1].width // 2, sizes[-1].height // 2))
    return tuple(sizes)


def _level0_tiles(source: PixelSource, smaller: list[_Level], blank_tile: _Tile, blank: bytes) -> Iterator[bytes]:
    whole = Box.whole(source.size)
    across, down = (-(-side // TILE_PX) for side in (source.size.width, source.size.height))
    for row in range(down):
        tiles = {}
        for column in range(across):
            box = whole.cut(Box(column * TILE_PX, row * TILE_PX, TILE_PX, TILE_PX))
            if box is not None and not source.is_blank(box):
                tiles[column] = blank_tile.copy()
                tiles[column][: box.height, : box.width] = source.read(box)
        # Before the yields: nobody asks for what would come after the last one.
        _hand_down(tiles, smaller, blank_tile)
        if row == down - 1:
            _finish(smaller, blank_tile)
        for column in range(across):
            yield _encoded(tiles[column]) if column in tiles else blank


def _hand_down(tiles: dict[int, _Tile], levels: list[_Level], blank_tile: _Tile) -> None:
    """Give a finished row of tiles to the next smaller level, which makes one row of two, and hands that on."""
    for level in levels:
        if level.waiting is None:
            level.waiting = tiles
            return
        tiles = _halved_row(level.waiting, tiles, blank_tile)
        level.waiting = None
        _keep_row(level, tiles)


def _finish(levels: list[_Level], blank_tile: _Tile) -> None:
    # A row that is left over is the upper half of a last row.
    for number, level in enumerate(levels):
        if level.waiting is not None:
            tiles = _halved_row(level.waiting, {}, blank_tile)
            level.waiting = None
            _keep_row(level, tiles)
            _hand_down(tiles, levels[number + 1 :], blank_tile)


def _keep_row(level: _Level, tiles: dict[int, _Tile]) -> None:
    for column in range(level.across):
        level.keep(_encoded(tiles[column]) if column in tiles else None)


def _halved_row(upper: dict[int, _Tile], lower: dict[int, _Tile], blank_tile: _Tile) -> dict[int, _Tile]:
    halved = {}
    for column in sorted({column // 2 for column in (*upper, *lower)}):
        quad = [[row.get(2 * column + side, blank_tile) for side in (0, 1)] for row in (upper, lower)]
        whole = np.vstack([np.hstack(row) for row in quad])  # (512, 512, 3)
        # Added up one after the other: numpy takes twenty times as long for sums along axes of two.
        sums = whole[::2, ::2].astype(np.uint16)
        for corner in (whole[::2, 1::2], whole[1::2, ::2], whole[1::2, 1::2]):
            sums += corner
        halved[column] = ((sums + 2) // 4).astype(np.uint8)
    return halved


def _encoded(tile: _Tile, *, smallest: bool = False) -> bytes:
    # The smallest coding takes a second pass: worth it for the tile that is written a hundred thousand times.
    return bytes(
        imagecodecs.jpeg8_encode(
            tile, level=_QUALITY, colorspace="RGB", outcolorspace="YCBCR", subsampling="420", optimize=smallest
        )
    )
