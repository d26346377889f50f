"""Reading ahead and recognising: every tile once, in order, in bounded memory, and an error where one is."""

import threading
import time
from pathlib import Path

import numpy as np
import pytest

from sentinode.errors import SlideError
from sentinode.geometry import Size
from sentinode.inference.engine import AHEAD, BATCH, Inspected, recognise_tiles
from sentinode.seeds import stream
from sentinode.slides.slide import Slide, SlideInfo

SIDE = 2000


class GreyRamp:
    """A level whose red is the column over 8, and green the row over 8; fails where it is told to."""

    def __init__(self, broken_from=None) -> None:
        self.broken_from = broken_from
        self.lock = threading.Lock()
        self.n_reads = 0

    def read_level(self, _level, x, y, width, height):
        with self.lock:
            self.n_reads += 1
        if self.broken_from is not None and y >= self.broken_from:
            raise SlideError("slide.tif: cannot be read at row 1000")
        pixels = np.zeros((height, width, 3), np.uint8)
        pixels[..., 0] = (np.arange(x, x + width) // 8)[None, :]
        pixels[..., 1] = (np.arange(y, y + height) // 8)[:, None]
        return pixels

    def close(self):
        pass


class MeanRed:
    """The mean red of a tile over 255 is its probability."""

    def __init__(self, reader=None) -> None:
        self.reader = reader
        self.largest_lead = 0
        self.n_seen = 0

    def predict_proba(self, tiles):
        self.n_seen += len(tiles)
        if self.reader is not None:
            self.largest_lead = max(self.largest_lead, self.reader.n_reads - self.n_seen)
        share = tiles[..., 0].mean(axis=(1, 2)) / 255
        return np.stack([1 - share, share], axis=1).astype(np.float32)


def judged_by(judge):
    return lambda tiles: Inspected(judge(tiles), tiles[:, 0, 0, :2].astype(np.float32))


def slide_of(reader):
    size = Size(SIDE, SIDE)
    return Slide(SlideInfo(Path("slide.tif"), size, (size,), 0.5, "file", "drawn", "tiff", "0"), reader)


def grid(tile=20):
    steps = np.arange(0, SIDE, tile)
    x, y = np.meshgrid(steps, steps)
    return np.stack([x.ravel(), y.ravel(), np.full(x.size, tile), np.full(x.size, tile)], axis=1).astype(np.int64)


def test_every_tile_gets_the_probability_of_its_place():
    boxes, told = grid(), []
    found = recognise_tiles(
        slide_of(GreyRamp()),
        boxes,
        Size(10, 10),
        MeanRed(),
        n_classes=2,
        on_progress=lambda done, of: told.append((done, of)),
    )
    expected = (boxes[:, 0] + 10) / 8 / 255
    assert np.abs(found.proba[:, 1] - expected).max() < 1 / 255
    assert (found.flag == "").all()
    assert told[-1] == (len(boxes), len(boxes))
    assert [done for done, _ in told] == sorted({done for done, _ in told})


def test_the_order_of_the_boxes_does_not_matter():
    boxes = grid()
    shuffled = stream(1, "boxes").permutation(len(boxes))
    found = [
        recognise_tiles(slide_of(GreyRamp()), some, Size(10, 10), MeanRed(), n_classes=2).proba
        for some in (boxes, boxes[shuffled])
    ]
    assert (found[0][shuffled] == found[1]).all()


def test_neighbours_are_worked_on_together():
    # Of a wide slide, a batch is a block: its tiles lie closer than a row of them would.
    seen = []

    class Watching(GreyRamp):
        def read_level(self, level, x, y, width, height):
            seen.append((x, y))
            return super().read_level(level, x, y, width, height)

    recognise_tiles(slide_of(Watching()), grid(), Size(10, 10), MeanRed(), n_classes=2, readers=1)
    assert sorted(seen) == sorted((int(x), int(y)) for x, y, _, _ in grid())
    extents = [np.ptp(seen[begin : begin + BATCH], axis=0).max() for begin in range(0, len(seen) - BATCH, BATCH)]
    assert np.median(extents) < 20 * 20, "of 100 tiles in a row"


def test_it_is_told_where_the_time_went():
    class Slow(MeanRed):
        def predict_proba(self, tiles):
            time.sleep(0.02)
            return super().predict_proba(tiles)

    started = time.perf_counter()
    inspect = judged_by(lambda tiles: np.where(tiles.astype(float).std(axis=(1, 2, 3)) < 0, "never", ""))
    spent = recognise_tiles(
        slide_of(GreyRamp()), grid()[:640], Size(10, 10), Slow(), n_classes=2, inspect=inspect
    ).spent
    by_the_clock = time.perf_counter() - started
    assert spent.recognising >= 10 * 0.02
    assert spent.waiting + spent.recognising <= by_the_clock
    assert spent.reading > 0
    assert spent.judging > 0


def test_flagged_tiles_are_not_recognised():
    recogniser = MeanRed()

    inspect = judged_by(lambda tiles: np.where(tiles[..., 0].mean(axis=(1, 2)) > 125, "pen", ""))
    found = recognise_tiles(slide_of(GreyRamp()), grid(), Size(10, 10), recogniser, n_classes=2, inspect=inspect)
    pen = found.flag == "pen"
    assert 0.4 < pen.mean() < 0.6
    assert np.isnan(found.proba[pen]).all()
    assert not np.isnan(found.proba[~pen]).any()
    assert recogniser.n_seen == (~pen).sum()
    assert np.isnan(found.measured[pen]).all()
    assert np.array_equal(found.measured[~pen], grid()[~pen, :2] // 8), "each tile has its own corner's colours"


def test_a_slide_without_a_clean_tile_has_no_probability():
    inspect = judged_by(lambda tiles: np.full(len(tiles), "blur"))
    found = recognise_tiles(slide_of(GreyRamp()), grid()[:5], Size(10, 10), MeanRed(), n_classes=2, inspect=inspect)
    assert found.proba.shape == found.measured.shape == (5, 2)
    assert np.isnan(found.proba).all()
    assert np.isnan(found.measured).all()


def test_tiles_that_are_skipped_are_not_read_and_keep_their_reason():
    boxes = grid()[:200]
    skip = np.where(np.arange(200) % 2 == 0, "air", "")
    reader, told = GreyRamp(), []
    found = recognise_tiles(
        slide_of(reader),
        boxes,
        Size(8, 8),
        MeanRed(),
        n_classes=2,
        skip=skip,
        on_progress=lambda done, of: told.append((done, of)),
    )
    assert reader.n_reads == 100
    assert found.flag.tolist() == skip.tolist()
    assert np.isnan(found.proba[::2]).all()
    whole = recognise_tiles(slide_of(GreyRamp()), boxes, Size(8, 8), MeanRed(), n_classes=2)
    assert np.array_equal(found.proba[1::2], whole.proba[1::2])
    assert told[-1] == (200, 200)
    nothing = recognise_tiles(slide_of(reader), boxes, Size(8, 8), MeanRed(), n_classes=2, skip=np.full(200, "air"))
    assert np.isnan(nothing.proba).all()


def test_reading_stays_a_few_batches_ahead():
    reader = GreyRamp()
    recogniser = MeanRed(reader)
    recognise_tiles(slide_of(reader), grid(), Size(10, 10), recogniser, n_classes=2, readers=4)
    assert recogniser.largest_lead <= (AHEAD + 1) * BATCH


def test_a_tile_that_cannot_be_read_ends_the_slide_with_its_reason():
    reader = GreyRamp(broken_from=1000)
    with pytest.raises(SlideError, match="cannot be read at row 1000"):
        recognise_tiles(slide_of(reader), grid(), Size(10, 10), MeanRed(), n_classes=2)
    assert reader.n_reads < len(grid()) * 0.6, "what lay ahead was not read any more"
    assert not any(thread.name.startswith("read-tiles") for thread in threading.enumerate())
