"""Recognising the tiles of a slide: threads read and judge ahead while the CPU recognises, in bounded memory.

Tiles are taken in square blocks, so that what a batch needs of the file lies together, whatever the slide's width: in
rows across a wide slide, decoded tiles would be forgotten before the next row asks for them. At any time at most
`AHEAD` batches beyond the one being recognised are in memory, whatever the slide's size.
"""

import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # it has no types

from sentinode.geometry import Size
from sentinode.slides.slide import Slide

__all__ = ["Inspect", "Inspected", "Recognised", "Recogniser", "Spent", "read_ahead", "recognise_tiles"]

BATCH = 64
"""Tiles that are read and recognised at a time: 1.7 MiB at 96 px."""

AHEAD = 3
"""Batches that are read ahead of the one that is recognised."""


Asked = TypeVar("Asked")
Given = TypeVar("Given")


class Recogniser(Protocol):
    """Gives tiles their probabilities (`sentinode.models.runtime`)."""

    def predict_proba(self, tiles: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Recognise ``(n, h, w, 3)`` uint8: ``(n, k)`` float32, rows sum to 1."""
        ...


class Inspected(NamedTuple):
    """What was seen of tiles before they are recognised.

    Parameters
    ----------
    flag : (n,) str
        Why each tile is not to be recognised, ``""`` where it is.
    measured : (n, c) float32
        Numbers that are to be known of each tile that is recognised; c may be 0.
    spared : (n,) bool, optional
        Which of these the recogniser need not see; None: it sees all.
    """

    flag: NDArray[np.str_]
    measured: NDArray[np.float32]
    spared: NDArray[np.bool_] | None = None


Inspect = Callable[[NDArray[np.uint8]], Inspected]
"""Looks at (n, h, w, 3) uint8."""


@dataclass(frozen=True)
class Spent:
    """Where the time went, in seconds.

    Parameters
    ----------
    reading, judging : float
        Of the CPU, over all threads that read, beside the recognising and not before it; judging is all that was
        looked at before a tile is recognised.
    recognising, waiting : float
        By the clock: the recogniser at work, and the recogniser without a batch because reading was behind.
    """

    reading: float = 0.0
    judging: float = 0.0
    recognising: float = 0.0
    waiting: float = 0.0


@dataclass(frozen=True, eq=False)
class Recognised:
    """What became of the tiles.

    Parameters
    ----------
    proba : (n, k) float32
        NaN in the rows of tiles that were left out.
    flag : (n,) str
        Why it was left out.
    spent : Spent
        Where the time went.
    measured : (n, c) float32
        What was measured of the tiles, NaN in the rows of those that were left out; c is 0 where nothing was.
    spared : (n,) bool
        Which tiles the recogniser did not see: their answer is the one that stands in.
    """

    proba: NDArray[np.float32]
    flag: NDArray[np.str_]
    spent: Spent
    measured: NDArray[np.float32]
    spared: NDArray[np.bool_]


def recognise_tiles(  # noqa: PLR0913 - each is a choice of its own
    slide: Slide,
    boxes: NDArray[np.int64],
    tile: Size,
    recogniser: Recogniser,
    *,
    n_classes: int,
    inspect: Inspect | None = None,
    stand_in: Sequence[float] = (),
    skip: NDArray[np.str_] | None = None,
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
    inspect : callable, optional
        Looks at the tiles before the recogniser; what it flags is not recognised.
    stand_in : sequence of float
        The probabilities of tiles that `inspect` spares the recogniser.
    skip : (n,) str, optional
        Why tiles are not even read; ``""`` for the others.
    readers : int
        Threads that read.
    on_progress : callable, optional
        Called with the number of tiles done and their total.

    Returns
    -------
    Recognised
        In the order of the boxes, whatever the order of the work.

    Raises
    ------
    SlideError
        If the slide cannot be read at a tile. Nothing is skipped in silence.
    """
    # SlideError comes out of the thread that read.
    proba = np.full((len(boxes), n_classes), np.nan, dtype=np.float32)
    measured: NDArray[np.float32] | None = None
    flag = np.zeros(len(boxes), dtype="U16") if skip is None else skip.astype("U16")
    rows, spared = np.flatnonzero(flag == ""), np.zeros(len(boxes), dtype=bool)
    reading = judging = recognising = waiting = 0.0
    done, asked = len(boxes) - len(rows), time.perf_counter()
    # A thread that reads uses one core: libraries of linear algebra would start as many threads again in each.
    with threadpool_limits(1, user_api="blas"):
        for batch in _read_ahead(slide, boxes, rows[_in_blocks(boxes[rows])], tile, inspect, readers):
            came = time.perf_counter()
            flag[batch.rows] = batch.flag
            clean = batch.flag == ""
            if measured is None:
                measured = np.full((len(boxes), batch.measured.shape[1]), np.nan, dtype=np.float32)
            measured[batch.rows[clean]] = batch.measured[clean]
            if batch.spared is not None and (known := clean & batch.spared).any():
                proba[batch.rows[known]] = stand_in
                spared[batch.rows[known]] = True
                clean &= ~known
            if clean.any():
                pixels = batch.pixels if clean.all() else batch.pixels[clean]
                proba[batch.rows[clean]] = recogniser.predict_proba(pixels)
            waiting, reading, judging = waiting + came - asked, reading + batch.reading, judging + batch.judging
            asked = time.perf_counter()
            recognising += asked - came
            done += len(batch.rows)
            if on_progress is not None:
                on_progress(done, len(boxes))
    nothing = np.empty((len(boxes), 0), dtype=np.float32)
    spent = Spent(reading, judging, recognising, waiting)
    return Recognised(proba, flag, spent, nothing if measured is None else measured, spared)


class _Batch(NamedTuple):
    rows: NDArray[np.int64]  # of the boxes
    pixels: NDArray[np.uint8]
    flag: NDArray[np.str_]
    measured: NDArray[np.float32]
    spared: NDArray[np.bool_] | None
    reading: float  # seconds of the CPU
    judging: float


def _unseen(n: int) -> Inspected:
    return Inspected(np.zeros(n, dtype="U16"), np.empty((n, 0), dtype=np.float32))


def _in_blocks(boxes: NDArray[np.int64]) -> NDArray[np.int64]:
    # The rows of the boxes, block after block: as many boxes across and down as make a batch, about.
    if len(boxes) == 0:
        return np.empty(0, dtype=np.int64)
    side = np.maximum(1, boxes[:, 2:].max(axis=0) * math.isqrt(BATCH))
    block = boxes[:, :2] // side
    return np.lexsort((boxes[:, 0], boxes[:, 1], block[:, 0], block[:, 1]))


def _read_ahead(
    slide: Slide,
    boxes: NDArray[np.int64],
    order: NDArray[np.int64],
    tile: Size,
    inspect: Inspect | None,
    readers: int,
) -> Iterator[_Batch]:
    def read(begin: int) -> _Batch:
        started, rows = time.thread_time(), order[begin : begin + BATCH]
        pixels = slide.read_tiles(boxes[rows], tile)
        between = time.thread_time()
        found = _unseen(len(rows)) if inspect is None else inspect(pixels)
        return _Batch(rows, pixels, *found, between - started, time.thread_time() - between)

    yield from read_ahead(read, range(0, len(order), BATCH), readers)


def read_ahead(read: Callable[[Asked], Given], asked: Iterable[Asked], readers: int) -> Iterator[Given]:
    """Read in threads what will be asked for next.

    Parameters
    ----------
    read : callable
        Reads one of `asked`.
    asked : iterable
        What is read.
    readers : int
        Threads.

    Yields
    ------
    object
        What was read, in the order of `asked`; at most `AHEAD` others wait.

    Raises
    ------
    SlideError
        If one cannot be read; what has not begun is not read any more.
    """
    # SlideError, or whatever it is, comes out of the thread that read.
    waiting: deque[Future[Given]] = deque()
    with ThreadPoolExecutor(readers, thread_name_prefix="read-tiles") as pool:
        try:
            for one in asked:
                waiting.append(pool.submit(read, one))
                if len(waiting) > AHEAD:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            # An error, or a caller that leaves: what has not begun is not read any more.
            for future in waiting:
                future.cancel()
