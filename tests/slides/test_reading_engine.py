"""What is read straight from JPEG tiles, reduced or not, is what OpenSlide and a mean over areas give."""

import os
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile

from sentinode.errors import SlideError
from sentinode.geometry import Box, Size
from sentinode.slides import tiff_reader
from sentinode.slides.slide import Slide, open_slide, shrink_by_area

SVS = "CMU-1-Small-Region.svs"
SIZE = Size(1003, 777)  # no reduction divides it
SIDE = 128


def tissue() -> np.ndarray:
    y, x = np.mgrid[: SIZE.height, : SIZE.width]
    red = 200 + 40 * np.sin(x / 23) * np.cos(y / 17)
    green = 150 + 60 * np.cos(x / 29 + y / 13)
    return np.stack([red, green, 190 + 30 * np.sin(y / 19)], axis=2).round().astype(np.uint8)


def encoded(tile: np.ndarray) -> bytes:
    return bytes(imagecodecs.jpeg8_encode(tile, level=92, colorspace="RGB", outcolorspace="YCBCR", subsampling="420"))


def tiles() -> list[bytes]:
    padded = np.pad(tissue(), ((0, -SIZE.height % SIDE), (0, -SIZE.width % SIDE), (0, 0)))  # black, as some write it
    down, across = padded.shape[0] // SIDE, padded.shape[1] // SIDE
    blocks = padded.reshape(down, SIDE, across, SIDE, 3).swapaxes(1, 2)
    return [encoded(np.ascontiguousarray(block)) for block in blocks.reshape(-1, SIDE, SIDE, 3)]


def written(path: Path, parts: list[bytes], tables: bytes | None = None) -> Path:
    tifffile.imwrite(
        path,
        iter(parts),
        shape=(SIZE.height, SIZE.width, 3),
        dtype=np.uint8,
        tile=(SIDE, SIDE),
        photometric="ycbcr",
        subsampling=(2, 2),
        compression="jpeg",
        resolution=(40_000, 40_000),
        resolutionunit="CENTIMETER",
        metadata=None,
        extratags=[] if tables is None else [(347, 7, len(tables), tables, True)],
    )
    return path


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("drawn") / "drawn.tif", tiles())


def plain(path: Path, box: Box, pixels: Size) -> np.ndarray:
    """The oracle: level 0 through OpenSlide, shrunk by area."""
    with open_slide(path, reader="openslide") as slide:
        margin = 300
        framed = np.full((SIZE.height + 2 * margin, SIZE.width + 2 * margin, 3), 255, np.uint8)
        whole = slide.reader.read_level(0, 0, 0, SIZE.width, SIZE.height)
        framed[margin : margin + SIZE.height, margin : margin + SIZE.width] = whole
        left, upper = box.x + margin, box.y + margin
        return shrink_by_area(framed, (left, upper, left + box.width, upper + box.height), pixels).astype(int)


def counted_reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    sizes: list[int] = []
    pread = os.pread

    def read(descriptor: int, count: int, offset: int) -> bytes:
        sizes.append(count)
        return pread(descriptor, count, offset)

    monkeypatch.setattr(tiff_reader.os, "pread", read)
    return sizes


class TestRealSlide:
    def test_it_is_read_from_its_tiles(self, shared_slides: Path):
        with open_slide(shared_slides / SVS) as quick, open_slide(shared_slides / SVS, reader="openslide") as slide:
            assert quick.info.reader == "tiff"
            for what in ("size", "levels", "mpp", "mpp_source", "vendor", "objective", "fingerprint"):
                assert getattr(quick.info, what) == getattr(slide.info, what)

    def test_stored_pixels_are_the_same_to_the_bit(self, shared_slides: Path):
        with open_slide(shared_slides / SVS) as quick, open_slide(shared_slides / SVS, reader="openslide") as slide:
            for box in (Box(0, 0, 900, 700), Box(1500, 2400, 720, 567), Box(-50, 2900, 300, 200)):
                assert (quick.read(box, 0.499) == slide.read(box, 0.499)).all()
                assert (quick.read(box, 0.75) == slide.read(box, 0.75)).all()

    @pytest.mark.parametrize("reduction", [2, 4, 8])
    def test_tiles_cut_on_whole_pixels_differ_by_the_rounding_of_the_transform(
        self, shared_slides: Path, reduction: int
    ):
        differences = self._differences(shared_slides, reduction * 0.499, step=reduction * 120, shift=0)
        assert differences.mean() < 0.3
        assert np.quantile(differences, 0.999) <= 8

    @pytest.mark.parametrize("factor", [3.8, 3.957, 4.3, 6.1, 8.01, 9.7, 15.9])
    def test_tiles_cut_anywhere_differ_little(self, shared_slides: Path, factor: float):
        differences = self._differences(shared_slides, factor * 0.499, step=round(factor * 40), shift=3)
        assert differences.mean() < 4
        assert np.quantile(differences, 0.99) < 20

    def _differences(self, shared_slides: Path, mpp: float, step: int, shift: int) -> np.ndarray:
        found = []
        with open_slide(shared_slides / SVS) as quick, open_slide(shared_slides / SVS, reader="openslide") as slide:
            for y in range(shift, 2967 - step, 2 * step):
                for x in range(shift, 2220 - step, 2 * step):
                    box = Box(x, y, step, step)
                    expected = slide.read(box, mpp).astype(int)
                    tissue = expected.min(axis=2) < 220
                    found.append(np.abs(quick.read(box, mpp) - expected)[tissue].ravel())
        together = np.concatenate(found)
        assert len(together) > 3_000
        return together


@pytest.mark.parametrize("mpp", [0.25, 0.4, 0.5, 1.0, 2.0, 3.1])
@pytest.mark.parametrize(
    "box", [Box(0, 0, 1003, 777), Box(160, 80, 640, 640), Box(-56, -120, 320, 320), Box(803, 577, 240, 240)]
)
def test_drawn_tissue_comes_out_everywhere(drawn: Path, box: Box, mpp: float):
    with open_slide(drawn) as slide:
        assert slide.info.reader == "tiff"
        pixels = slide.read(box, mpp)
    expected = plain(drawn, box, Size(pixels.shape[1], pixels.shape[0]))
    difference = np.abs(pixels - expected)
    assert difference.mean() < 0.6
    assert difference.max() <= 12


def test_neighbours_are_read_at_once_and_kept(drawn: Path, monkeypatch: pytest.MonkeyPatch):
    sizes = counted_reads(monkeypatch)
    with open_slide(drawn) as slide:
        slide.read_pixels(Box(10, 10, 900, 200), Size(900, 200))  # 8 x 2 tiles
        assert len(sizes) == 2, "one read a row of tiles"
        slide.read_pixels(Box(300, 20, 300, 100), Size(300, 100))
        assert len(sizes) == 2, "decoded tiles are kept"


def test_one_look_at_the_file_serves_tiles_side_by_side(drawn: Path, monkeypatch: pytest.MonkeyPatch):
    boxes = np.array([(96 * x, 96 * y, 96, 96) for y in range(3) for x in range(3)])
    with open_slide(drawn, reader="tiff") as slide:
        looks = []
        looked = slide.reader.read_level
        monkeypatch.setattr(slide.reader, "read_level", lambda *part: looks.append(part) or looked(*part))
        slide.read_tiles(boxes, Size(96, 96))
        assert len(looks) == 1
        slide.read_tiles(boxes[[0, 8]], Size(96, 96))  # more than twice what is wanted
        slide.read_tiles(boxes, Size(90, 90))  # pixels made of others
        assert len(looks) == 1 + 2 + 9


def test_damage_between_the_tiles_that_are_wanted_stops_nobody(drawn: Path, monkeypatch: pytest.MonkeyPatch):
    boxes = np.array([(0, 0, 64, 64), (64, 0, 64, 64), (0, 64, 64, 64)])
    with open_slide(drawn, reader="tiff") as slide:
        whole = slide.read_tiles(boxes, Size(64, 64))
        looked = slide.reader.read_level

        def damaged(level: int, x: int, y: int, width: int, height: int) -> np.ndarray:
            if x + width > 64 and y + height > 64:
                raise SlideError("damaged")
            return looked(level, x, y, width, height)

        monkeypatch.setattr(slide.reader, "read_level", damaged)
        assert np.array_equal(slide.read_tiles(boxes, Size(64, 64)), whole)
        with pytest.raises(SlideError, match="damaged"):
            slide.read_tiles(np.array([*boxes.tolist(), (64, 64, 64, 64)]), Size(64, 64))


def test_what_is_kept_is_bounded(drawn: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tiff_reader, "CACHE_BYTES", 5 * SIDE * SIDE * 3)
    with open_slide(drawn) as slide:
        slide.read_pixels(Box(0, 0, 1003, 777), Size(1003, 777))
        assert slide.reader._cache.n_bytes <= tiff_reader.CACHE_BYTES
        assert len(slide.reader._cache.tiles) == 5


def test_reduced_tiles_take_less_room(drawn: Path):
    with open_slide(drawn) as slide:
        slide.read_pixels(Box(0, 0, 800, 640), Size(200, 160))
        assert {key.reduction for key in slide.reader._cache.tiles} == {4}
        assert slide.reader._cache.n_bytes == 7 * 5 * (SIDE // 4) ** 2 * 3


@pytest.mark.parametrize("reduction", [1, 4])
def test_a_tile_that_is_left_out_is_white(tmp_path: Path, reduction: int):
    parts = tiles()
    parts[9] = b""  # second row, second column
    with open_slide(written(tmp_path / "sparse.tif", parts)) as slide:
        side = SIDE // reduction
        pixels = slide.read_pixels(Box(0, 0, 3 * SIDE, 3 * SIDE), Size(3 * side, 3 * side))
        assert (pixels[side : 2 * side, side : 2 * side] == 255).all()
        assert pixels[:side, :side].min() < 200


def test_tables_of_the_page_are_used(tmp_path: Path, drawn: Path):
    with tifffile.TiffFile(drawn) as file:
        assert file.pages.first.jpegtables is None
    whole = tiles()
    head = whole[0][: whole[0].index(b"\xff\xc0")]
    tables = b"\xff\xd8" + head[head.index(b"\xff\xdb") :] + _huffman(whole[0]) + b"\xff\xd9"
    path = written(tmp_path / "tables.tif", [_without_tables(part) for part in whole], tables)
    with open_slide(path) as slide, open_slide(drawn) as expected:
        for size in (Size(512, 512), Size(128, 128)):
            box = Box(0, 0, 512, 512)
            assert (slide.read_pixels(box, size) == expected.read_pixels(box, size)).all()


@pytest.mark.parametrize("wrong", ["none", "garbled", "of another picture"])
def test_wrong_tables_are_an_error_or_what_the_plain_way_gives(tmp_path: Path, wrong: str):
    whole = tiles()
    bare = [_without_tables(part) for part in whole]
    tables = {
        "none": None,
        "garbled": b"\xff\xd8\xff\xdb\x00\x43\x00" + bytes(range(30)) + b"\xff\xd9",
        "of another picture": b"\xff\xd8" + _quantisation(50) + _huffman(whole[0]) + b"\xff\xd9",
    }[wrong]
    path = written(tmp_path / "wrong.tif", bare, tables)
    outcomes = []
    for reduced in (Size(512, 512), Size(128, 128)):
        with open_slide(path, reader="tiff") as slide:
            outcomes.append(_outcome(slide, Box(0, 0, 512, 512), reduced))
    if wrong == "of another picture":
        with tifffile.TiffFile(path) as file:
            expected = file.pages.first.asarray()[:512, :512]
        assert (outcomes[0] == expected).all()
        assert np.abs(outcomes[1].astype(int) - shrink_by_area(expected, (0, 0, 512, 512), Size(128, 128))).mean() < 1
    else:
        assert all(isinstance(outcome, str) and "tile 0 of level 0 cannot be read" in outcome for outcome in outcomes)


def test_a_tile_that_is_cut_off_is_what_the_plain_way_says(tmp_path: Path):
    parts = tiles()
    parts[0] = parts[0][: len(parts[0]) // 2]
    path = written(tmp_path / "cut.tif", parts)
    with open_slide(path, reader="tiff") as slide:
        outcome = _outcome(slide, Box(0, 0, 128, 128), Size(128, 128))
    try:
        expected = imagecodecs.jpeg8_decode(parts[0])
    except imagecodecs.Jpeg8Error:
        assert isinstance(outcome, str)
        assert "tile 0 of level 0" in outcome
    else:
        assert (outcome == expected).all()


def test_missing_tiles_of_an_aperio_file_are_for_openslide(tmp_path: Path):
    text = "Aperio Image Library v1\r\n256x128 |AppMag = 40|MPP = 0.25"
    tifffile.imwrite(
        tmp_path / "a.svs",
        iter([encoded(np.full((SIDE, SIDE, 3), 90, np.uint8)), b""]),
        shape=(SIDE, 2 * SIDE, 3),
        dtype=np.uint8,
        tile=(SIDE, SIDE),
        photometric="ycbcr",
        subsampling=(2, 2),
        compression="jpeg",
        description=text,
        metadata=None,
    )
    with pytest.raises(SlideError, match="missing tiles"):
        open_slide(tmp_path / "a.svs", reader="tiff")
    with open_slide(tmp_path / "a.svs") as slide:
        assert slide.info.reader == "openslide"
        assert (slide.read(Box(SIDE, 0, SIDE, SIDE), 0.25) == 255).all()


@pytest.mark.parametrize(("software", "vendor"), [("Philips DP v1.0", "Philips"), ("MedScan 1.2", "Trestle")])
def test_files_whose_pages_are_more_than_levels_are_for_openslide(tmp_path: Path, software: str, vendor: str):
    tifffile.imwrite(
        tmp_path / "a.tif",
        tissue(),
        photometric="rgb",
        tile=(SIDE, SIDE),
        software=software,
        description="<DataObject ObjectType='DPUfsImport'></DataObject>",
        metadata=None,
    )
    with pytest.raises(SlideError, match=f"{vendor} file, which only OpenSlide reads"):
        open_slide(tmp_path / "a.tif", reader="tiff")


def _outcome(slide: Slide, box: Box, size: Size) -> np.ndarray | str:
    try:
        return slide.read_pixels(box, size)
    except SlideError as error:
        return str(error)


def _segments(whole: bytes) -> list[bytes]:
    found, place = [], 2
    while whole[place + 1] != 0xDA:
        length = 2 + int.from_bytes(whole[place + 2 : place + 4], "big")
        found.append(whole[place : place + length])
        place += length
    return [*found, whole[place:]]


def _huffman(whole: bytes) -> bytes:
    return b"".join(one for one in _segments(whole) if one[1] == 0xC4)


def _without_tables(whole: bytes) -> bytes:
    return b"\xff\xd8" + b"".join(one for one in _segments(whole) if one[1] not in {0xC4, 0xDB})


def _quantisation(level: int) -> bytes:
    other = bytes(imagecodecs.jpeg8_encode(np.zeros((16, 16, 3), np.uint8), level=level))
    return b"".join(one for one in _segments(other) if one[1] == 0xDB)
