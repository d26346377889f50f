"""Recognising the tiles of a slide: threads read ahead while the CPU recognises, in memory that does not grow.

Tiles come in batches of the grid's order, so that what is read together lies together on the slide. At any time at
most `AHEAD` batches beyond the one being recognised are in memory, whatever the slide's size.
"""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from sentinode.geometry import Box, Size
from sentinode.slides.slide import Slide

__all__ = ["Judge", "Recognised", "Recogniser", "recognise_tiles"]

BATCH = 64
"""Tiles that are read and recognised at a time: 1.7 MiB at 96 px."""

AHEAD = 3
"""Batches that are read ahead of the one that is recognised."""


class Recogniser(Protocol):
    """Gives tiles their probabilities (`sentinode.models.runtime`)."""

    def predict_proba(self, tiles: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Recognise ``(n, h, w, 3)`` uint8: ``(n, k)`` float32, rows sum to 1."""
        ...


Judge = Callable[[NDArray[np.uint8]], NDArray[np.str_]]
"""(n, h, w, 3) uint8 -> (n,) str: why each tile is not to be recognised, ``""`` where it is."""


@dataclass(frozen=True, eq=False)
class Recognised:
    """What became of the tiles.

    Parameters
    ----------
    proba : (n, k) float32
        NaN in the rows of tiles that the judge left out.
    flag : (n,) str
        What the judge said.
    """

    proba: NDArray[np.float32]
    flag: NDArray[np.str_]


def recognise_tiles(
    slide: Slide,
    boxes: NDArray[np.int64],
    tile: Size,
    recogniser: Recogniser,
    *,
    n_classes: int,
    judge: Judge | None = None,
    readers: int = 2,
    on_progress: Callable[[int, int], None] | None = None,
) -> Recognised:
    """Read the tiles of a slide and give them their probabilities.

    Parameters
    ----------
    slide : Slide
        Open.
    boxes : (n, 4) int64
        x, y, width, height in level-0 pixels; n is 1 or more.
    tile : Size
        Of each tile in pixels, as the recogniser takes it.
    recogniser : Recogniser
        Of a model.
    n_classes : int
        Columns that it gives.
    judge : callable, optional
        Looks at the tiles before the recogniser; what it flags is not recognised.
    readers : int
        Threads that read.
    on_progress : callable, optional
        Called with the number of tiles done and their total.

    Returns
    -------
    Recognised
        In the order of the boxes.

    Raises
    ------
    SlideError
        If the slide cannot be read at a tile. Nothing is skipped in silence.
    """
    # SlideError comes out of the thread that read.
    proba = np.full((len(boxes), n_classes), np.nan, dtype=np.float32)
    flag = np.empty(len(boxes), dtype="U16")
    done = 0
    for batch in _read_ahead(slide, boxes, tile, judge, readers):
        rows = slice(done, done + len(batch.pixels))
        flag[rows] = batch.flag
        clean = np.flatnonzero(batch.flag == "")
        if len(clean):
            proba[done + clean] = recogniser.predict_proba(batch.pixels[clean])
        done = rows.stop
        if on_progress is not None:
            on_progress(done, len(boxes))
    return Recognised(proba, flag)


class _Batch(NamedTuple):
    pixels: NDArray[np.uint8]
    flag: NDArray[np.str_]


def _read_ahead(
    slide: Slide, boxes: NDArray[np.int64], tile: Size, judge: Judge | None, readers: int
) -> Iterator[_Batch]:
    def read(begin: int) -> _Batch:
        chosen = boxes[begin : begin + BATCH]
        pixels = np.empty((len(chosen), *tile.shape, 3), dtype=np.uint8)
        for target, (x, y, width, height) in zip(pixels, chosen.tolist(), strict=True):
            target[:] = slide.read_pixels(Box(x, y, width, height), tile)
        flag = np.zeros(len(chosen), dtype="U16") if judge is None else judge(pixels)
        return _Batch(pixels, flag)

    waiting: deque[Future[_Batch]] = deque()
    with ThreadPoolExecutor(readers, thread_name_prefix="read-tiles") as pool:
        try:
            for begin in range(0, len(boxes), BATCH):
                waiting.append(pool.submit(read, begin))
                if len(waiting) > AHEAD:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            # An error, or a caller that leaves: what has not begun is not read any more.
            for future in waiting:
                future.cancel()
