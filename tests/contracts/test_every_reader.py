"""The same tissue comes out of every file that it is drawn into, whatever its reader and its levels."""

import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from sentinode.errors import SlideError
from sentinode.geometry import Box, Scale, Size
from sentinode.slides.slide import READERS, MppWish, Slide, open_slide

MPP = 0.25
SIZES = (Size(1003, 777), Size(501, 388), Size(167, 129))  # factors 2.002 and 6.006 across, 2.003 and 6.023 down
DISC = (611.5, 402.5, 90.0)  # x, y, radius in level-0 pixels


@functools.cache
def tissue() -> np.ndarray:
    """Slow waves of pink with a dark disc whose centre is known."""
    y, x = np.mgrid[: SIZES[0].height, : SIZES[0].width] + 0.5
    red = 215 + 25 * np.sin(x / 31) * np.cos(y / 43)
    green = 160 + 35 * np.cos(x / 57 + y / 29)
    blue = 195 + 25 * np.sin(y / 37)
    inside = np.clip(DISC[2] - np.hypot(x - DISC[0], y - DISC[1]), -6, 6) / 12 + 0.5  # an edge of 12 px
    picture = np.stack([red, green, blue], axis=2) * (1 - 0.6 * inside[..., None])
    return picture.round().astype(np.uint8)


def shrunk(picture: np.ndarray, size: Size) -> np.ndarray:
    """The oracle: exact means over areas, through sums up to each edge."""
    for axis, n in ((0, size.height), (1, size.width)):
        length = picture.shape[axis]
        pad = [(0, 0)] * 3
        pad[axis] = (1, 0)
        total = np.pad(picture.astype(np.float64).cumsum(axis=axis), pad)
        edges = np.linspace(0, length, n + 1)
        below = np.minimum(edges.astype(int), length - 1)
        part = np.expand_dims(edges - below, [other for other in range(3) if other != axis])
        upto = np.take(total, below, axis) * (1 - part) + np.take(total, below + 1, axis) * part
        picture = np.diff(upto, axis=axis) * n / length
    return picture


@functools.cache
def levels() -> list[np.ndarray]:
    return [tissue(), *(shrunk(tissue(), size).round().astype(np.uint8) for size in SIZES[1:])]


@functools.cache
def expected(box: Box, pixels: Size) -> np.ndarray:
    """Level 0 with white around it, cut and shrunk."""
    margin = 400
    framed = np.pad(tissue(), ((margin, margin), (margin, margin), (0, 0)), constant_values=255)
    part = framed[box.y + margin : box.bottom + margin, box.x + margin : box.right + margin]
    return shrunk(part, pixels)


def write_pages(path: Path, **how: object) -> None:
    with tifffile.TiffWriter(path) as file:
        for number, level in enumerate(levels()):
            file.write(
                level,
                photometric="rgb",
                tile=(64, 64),
                subfiletype=int(number > 0),
                resolution=(1e4 / MPP, 1e4 / MPP),
                resolutionunit="CENTIMETER",
                metadata=None,
                **how,
            )


def write_deflate(path: Path) -> None:
    write_pages(path, compression="zlib", predictor=True)


def write_jpeg(path: Path) -> None:
    write_pages(path, compression="jpeg", compressionargs={"level": 95})


def write_one_level(path: Path) -> None:
    tifffile.imwrite(path, tissue(), photometric="rgb", rowsperstrip=50, metadata=None)


def write_ome(path: Path) -> None:
    first, *reduced = levels()
    with tifffile.TiffWriter(path, ome=True) as file:
        metadata = {"axes": "YXS", "PhysicalSizeX": MPP * 1000, "PhysicalSizeXUnit": "nm"}
        metadata |= {"PhysicalSizeY": MPP / 1000, "PhysicalSizeYUnit": "mm"}
        file.write(first, photometric="rgb", tile=(96, 64), subifds=2, compression="lzw", metadata=metadata)
        for level in reduced:
            file.write(level, photometric="rgb", tile=(96, 64), subfiletype=1, compression="lzw")


def write_picture(path: Path) -> None:
    Image.fromarray(tissue()).save(path)


WRITERS: dict[str, tuple[str, Callable[[Path], None], float]] = {
    "deflate": ("a.tif", write_deflate, 0),
    "jpeg": ("b.tiff", write_jpeg, 1.5),
    "ome": ("c.ome.tif", write_ome, 0),
    "one-level": ("d.tif", write_one_level, 0),
    "png": ("e.png", write_picture, 0),
    "bmp": ("f.bmp", write_picture, 0),
}
"""What is written -> file name, how, and how far its pixels may be off on average because it is compressed."""
CASES = [
    ("openslide", "deflate"),
    ("openslide", "jpeg"),
    ("tiff", "deflate"),
    ("tiff", "jpeg"),
    ("tiff", "ome"),
    ("tiff", "one-level"),
    ("image", "one-level"),
    ("image", "png"),
    ("image", "bmp"),
]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("drawn")
    for name, write, _ in WRITERS.values():
        write(folder / name)
    return folder


@pytest.fixture(params=CASES, ids="-".join)
def case(request: pytest.FixtureRequest) -> tuple[str, str]:
    return request.param


@pytest.fixture
def slide(case: tuple[str, str], written: Path):
    reader, what = case
    wish = MppWish() if what in {"deflate", "jpeg", "ome"} else MppWish(mpp=MPP)
    with open_slide(written / WRITERS[what][0], wish, reader=reader) as opened:
        yield opened


@pytest.fixture
def off(case: tuple[str, str]) -> float:
    return WRITERS[case[1]][2]


BOXES = {
    "within": Box(300, 200, 331, 257),
    "whole": Box(0, 0, 1003, 777),
    "upper left corner": Box(-53, -71, 301, 299),
    "lower right corner": Box(860, 650, 299, 301),
}


def test_every_reader_is_tried():
    assert {reader for reader, _ in CASES} == set(READERS)


def test_what_is_known_is_what_was_written(slide: Slide, case: tuple[str, str]):
    pyramid = case[1] in {"deflate", "jpeg", "ome"}
    assert slide.info.levels == (SIZES if pyramid else SIZES[:1])
    assert slide.info.size == SIZES[0]
    assert slide.info.mpp == pytest.approx(MPP, rel=1e-6)
    assert slide.info.mpp_source == ("file" if pyramid else "given")
    assert slide.info.reader == case[0]
    assert slide.info.vendor


@pytest.mark.parametrize("box", BOXES.values(), ids=BOXES.keys())
@pytest.mark.parametrize("mpp", [0.31, 0.5, 0.8, 2.6])
def test_the_same_tissue_comes_out_at_every_resolution(slide: Slide, off: float, box: Box, mpp: float):
    pixels = slide.read(box, mpp)
    size = Scale(MPP).pixels(box.size, mpp)
    assert pixels.dtype == np.uint8
    assert pixels.shape == (*size.shape, 3)
    difference = np.abs(pixels - expected(box, size))
    assert difference.mean() < 0.8 + off
    # At the border of the slide, a pixel of a coarser level is cut where it ends; elsewhere nothing is off by much.
    assert np.quantile(difference, 0.98) < 4 + 4 * off


def test_the_pixels_of_level_0_come_out_as_they_are_stored(slide: Slide, off: float):
    pixels = slide.read(Box(101, 203, 130, 77), MPP).astype(int)
    difference = np.abs(pixels - tissue()[203:280, 101:231])
    assert difference.max() == 0 if off == 0 else difference.mean() < off


def test_what_is_finer_than_the_slide_is_interpolated_where_it_is(slide: Slide, off: float):
    box = Box(560, 350, 100, 100)
    pixels = slide.read(box, MPP / 2)
    assert pixels.shape == (200, 200, 3)
    halves = pixels.reshape(100, 2, 100, 2, 3).mean(axis=(1, 3))
    assert np.abs(halves - tissue()[350:450, 560:660]).mean() < 1 + off


def test_two_parts_read_apart_are_what_is_read_at_once(slide: Slide):
    for mpp in (MPP / 2, MPP, 4 * MPP):
        parts = [slide.read(Box(x, 240, 160, 160), mpp) for x in (400, 560)]
        whole = slide.read(Box(400, 240, 320, 160), mpp).astype(int)
        difference = np.abs(np.concatenate(parts, axis=1) - whole)
        # OpenSlide takes whole level-0 pixels, so that on a level of an odd factor two reads are half of one apart.
        assert difference.max() <= (12 if slide.info.reader == "openslide" else 2)
        assert difference.mean() <= 0.5


@pytest.mark.parametrize(("side", "shrink"), [(32, 1), (64, 2), (96, 3), (40, 1.25), (16, 0.5)])
def test_tiles_that_are_read_together_are_what_is_read_one_by_one(slide: Slide, side: int, shrink: float):
    tile, size = Size(round(side / shrink), round(side / shrink)), slide.info.size
    # Neighbours, one that is cut in two by the border, and one far away; then with a place off the grid.
    steps = np.array([(0, 0), (1, 0), (0, 1), (2, 1), (2, 2)]) * side
    near = np.concatenate([steps, steps + np.array([side, 3 * side]), [(size.width // side * side - side // 2, side)]])
    for places in (steps, near, steps + 5, np.concatenate([steps, [(7 * side, 7 * side + 1)]])):
        boxes = np.concatenate([places, np.full_like(places, side)], axis=1)
        one_by_one = np.stack([slide.read_pixels(Box(*box), tile) for box in boxes.tolist()])
        assert np.array_equal(slide.read_tiles(boxes, tile), one_by_one)
    assert slide.read_tiles(boxes[:0], tile).shape == (0, *tile.shape, 3)


def test_outside_is_white(slide: Slide):
    for box in (Box(-900, -900, 200, 100), Box(1003, 0, 64, 64), Box(0, 777, 64, 64), Box(5000, 10**7, 64, 64)):
        assert (slide.read(box, 0.5) == 255).all()


@pytest.mark.parametrize("mpp", [0.4, 0.5, 1.5, 1.7])
def test_a_disc_is_where_it_was_drawn(slide: Slide, mpp: float):
    box = Box(470, 270, 280, 270)
    pixels = slide.read(box, mpp)
    dark = np.clip(130.0 - pixels[..., 0], 0, 30)
    y, x = np.mgrid[: pixels.shape[0], : pixels.shape[1]] + 0.5
    centre_x = (dark * x).sum() / dark.sum() * box.width / pixels.shape[1] + box.x
    centre_y = (dark * y).sum() / dark.sum() * box.height / pixels.shape[0] + box.y
    at_most = 0.6 if slide.info.reader == "openslide" else 0.5  # as above
    assert abs(centre_x - DISC[0]) < at_most
    assert abs(centre_y - DISC[1]) < at_most


def test_a_thumbnail_is_the_whole_slide(slide: Slide, off: float):
    thumbnail = slide.thumbnail(150)
    assert thumbnail.shape == (116, 150, 3)
    assert np.abs(thumbnail - shrunk(tissue(), Size(150, 116))).mean() < 1 + off


def test_four_threads_read_what_one_reads(slide: Slide):
    boxes = [Box(x, y, 150, 150) for x in range(-50, 1000, 210) for y in range(-50, 770, 210)]
    alone = [slide.read(box, 0.6) for box in boxes]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(2):
            together = list(pool.map(lambda box: slide.read(box, 0.6), boxes))
            assert all(map(np.array_equal, alone, together))


def test_a_closed_slide_says_so(slide: Slide):
    slide.read(Box(0, 0, 64, 64), 0.5)
    slide.close()
    with pytest.raises(SlideError, match="is closed"):
        slide.read(Box(0, 0, 64, 64), 0.5)
    slide.close()


def test_a_changed_byte_changes_the_fingerprint(case: tuple[str, str], written: Path, tmp_path: Path):
    source = written / WRITERS[case[1]][0]
    content = bytearray(source.read_bytes())
    content[len(content) // 2] ^= 1
    first, second = tmp_path / source.name, tmp_path / f"changed-{source.name}"
    first.write_bytes(source.read_bytes())
    second.write_bytes(content)
    prints = []
    for path in (source, first, second):
        try:
            with open_slide(path, MppWish(mpp=MPP), reader=case[0]) as opened:
                prints.append(opened.info.fingerprint)
        except SlideError:
            prints.append("unreadable")  # a picture is decoded when it is opened, and a changed one may not be
    assert prints[0] == prints[1]
    assert prints[0] != prints[2]


def test_the_levels_shrink(slide: Slide):
    assert all(a.width > b.width and a.height > b.height for a, b in pairwise(slide.info.levels))
