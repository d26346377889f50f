"""Reduced decoding is the mean over blocks, whichever library does it; tables and colours come from the page."""

import imagecodecs
import numpy as np
import pytest
import tifffile

from sentinode.slides import jpeg
from sentinode.slides.jpeg import REDUCTIONS, decode_jpeg, jpeg_frame, shrunk_by, whole_jpeg


def waves(width: int = 256, height: int = 240) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    return np.stack([150 + 90 * np.sin(x / 9), 140 + 80 * np.cos(y / 11), 120 + (x + y) / 5], axis=2).astype(np.uint8)


def encoded(pixels: np.ndarray, colours: str = "YCBCR", subsampling: str = "420") -> bytes:
    return bytes(
        imagecodecs.jpeg8_encode(pixels, level=90, colorspace="RGB", outcolorspace=colours, subsampling=subsampling)
    )


def apart(whole: bytes) -> tuple[bytes, bytes]:
    """A JPEG without its tables, and a JPEG of its tables only."""
    tables, rest, place = b"", b"", 2
    while whole[place + 1] != 0xDA:
        length = 2 + int.from_bytes(whole[place + 2 : place + 4], "big")
        segment = whole[place : place + length]
        if whole[place + 1] in {0xDB, 0xC4}:
            tables += segment
        elif whole[place + 1] != 0xE0:
            rest += segment
        place += length
    return b"\xff\xd8" + rest + whole[place:], b"\xff\xd8" + tables + b"\xff\xd9"


@pytest.fixture(params=["simplejpeg", "pillow"])
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "simplejpeg":
        pytest.importorskip("simplejpeg", reason="simplejpeg is not installed; Pillow decodes")
    else:
        monkeypatch.setattr(jpeg, "simplejpeg", None)
    return request.param


@pytest.mark.usefixtures("library")
class TestDecoding:
    @pytest.mark.parametrize("subsampling", ["420", "422", "444"])
    def test_whole_it_is_what_any_decoder_gives(self, subsampling: str):
        data = encoded(waves(), subsampling=subsampling)
        assert (decode_jpeg(data, jpeg_frame(data)) == imagecodecs.jpeg8_decode(data)).all()

    @pytest.mark.parametrize("reduction", REDUCTIONS)
    @pytest.mark.parametrize("subsampling", ["420", "422", "444"])
    def test_reduced_it_is_the_mean_over_blocks(self, reduction: int, subsampling: str):
        data = encoded(waves(), subsampling=subsampling)
        reduced = decode_jpeg(data, jpeg_frame(data), reduction).astype(int)
        assert reduced.shape == (240 // reduction, 256 // reduction, 3)
        difference = np.abs(reduced - shrunk_by(reduction, imagecodecs.jpeg8_decode(data)))
        assert difference.mean() < 1
        assert difference.max() <= 6

    @pytest.mark.parametrize("reduction", REDUCTIONS)
    def test_on_real_tissue_as_well(self, shared_slides, reduction: int):
        with tifffile.TiffFile(shared_slides / "CMU-1-Small-Region.svs") as file:
            page = file.pages.first
            wholes = [tile for tile, _, _ in page.segments(maxworkers=1)]
            file.filehandle.seek(0)
            datas = []
            for offset, count in zip(page.dataoffsets, page.databytecounts, strict=True):
                file.filehandle.seek(offset)
                datas.append(file.filehandle.read(count))
        differences = []
        for data, whole in zip(datas, wholes, strict=True):
            frame = jpeg_frame(data)
            reduced = decode_jpeg(whole_jpeg(data, frame, page.jpegtables, is_rgb=True), frame, reduction)
            plain = shrunk_by(reduction, whole[0])
            tissue = plain.min(axis=2) < 220
            differences.append(np.abs(reduced[: plain.shape[0], : plain.shape[1]].astype(int) - plain)[tissue].ravel())
        difference = np.concatenate(differences)
        assert len(difference) > 10_000
        assert difference.mean() < 0.4
        assert np.quantile(difference, 0.999) <= 8

    @pytest.mark.parametrize("reduction", [1, *REDUCTIONS])
    @pytest.mark.parametrize("size", [(17, 23), (8, 8), (100, 31)])
    def test_sizes_that_no_block_divides(self, reduction: int, size: tuple[int, int]):
        data = encoded(np.ascontiguousarray(waves()[: size[0], : size[1]]))
        shape = decode_jpeg(data, jpeg_frame(data), reduction).shape
        assert shape == (-(-size[0] // reduction), -(-size[1] // reduction), 3)

    def test_tables_come_from_the_page(self):
        whole = encoded(waves())
        bare, tables = apart(whole)
        frame = jpeg_frame(bare)
        joined = whole_jpeg(bare, frame, tables, is_rgb=False)
        assert (decode_jpeg(joined, frame) == imagecodecs.jpeg8_decode(whole)).all()
        with pytest.raises(ValueError, match=r"(?i)table|decode|broken|truncated"):
            decode_jpeg(bare, frame)

    @pytest.mark.parametrize("reduction", [1, 4])
    def test_red_green_and_blue_are_not_turned(self, reduction: int):
        # As Aperio stores them: no marker says what the channels are.
        whole = encoded(waves(), colours="RGB", subsampling="444")
        bare, tables = apart(whole)
        assert b"Adobe" in bare
        bare = bare.replace(bare[bare.index(b"Adobe") - 4 : bare.index(b"Adobe") + 12], b"")
        for old, new in ((b"R", 0), (b"G", 1), (b"B", 2)):
            bare = bare.replace(old + b"\x11\x00", bytes([new]) + b"\x11\x00", 1).replace(
                old + b"\x00", bytes([new]) + b"\x00", 1
            )
        frame = jpeg_frame(bare)
        pixels = decode_jpeg(whole_jpeg(bare, frame, tables, is_rgb=True), frame, reduction).astype(int)
        assert np.abs(pixels - shrunk_by(reduction, waves())).mean() < 1.5

    @pytest.mark.parametrize("cut", [0.2, 0.5, 0.9])
    def test_what_is_cut_off_is_refused(self, cut: float):
        data = encoded(waves())
        frame = jpeg_frame(data)
        with pytest.raises(ValueError, match=r"\w"):
            decode_jpeg(data[: int(cut * len(data))], frame)


def test_what_says_that_it_is_ycbcr_is_not_taken_for_rgb():
    data = encoded(waves())
    frame = jpeg_frame(data)
    assert frame.jfif
    with pytest.raises(ValueError, match="JFIF"):
        whole_jpeg(data, frame, None, is_rgb=True)


@pytest.mark.parametrize(
    "data", [b"", b"\xff\xd8", b"\xff\xd8\xff\xd9", b"no picture at all", b"\xff\xd8" + b"\xff" * 40]
)
def test_what_has_no_frame_is_refused(data: bytes):
    with pytest.raises(ValueError, match="no JPEG with a frame"):
        jpeg_frame(data)
