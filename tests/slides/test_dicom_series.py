"""A folder of DICOM instances against the series that were written into it."""

import struct
from pathlib import Path

import numpy as np
import pytest

from sentinode.errors import SlideError
from sentinode.geometry import Size
from sentinode.slides.dicom_series import files_of_series, one_of_each_series, series_of
from sentinode.slides.slide import fingerprint, open_slide
from sentinode.workflows.slide_inputs import find_slides

TILE = 64
MPP = 0.5  # of the largest level
WSI = "1.2.840.10008.5.1.4.1.1.77.1.6"
EXPLICIT, IMPLICIT, DEFLATED = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2", "1.2.840.10008.1.2.1.99"
LONG = {"OB", "OW", "SQ", "UN"}


def element(tag: int, kind: str, value: bytes | str | int, *, implicit: bool = False, undefined: bool = False) -> bytes:
    if isinstance(value, int):
        value = struct.pack("<H" if kind == "US" else "<I", value)
    if isinstance(value, str):
        value = value.encode()
    if len(value) % 2:
        value += b"\0" if kind == "UI" else b" "
    length = 0xFFFF_FFFF if undefined else len(value)
    value += struct.pack("<HHI", 0xFFFE, 0xE0DD, 0) if undefined else b""
    head = struct.pack("<HH", tag >> 16, tag & 0xFFFF)
    if implicit:
        return head + struct.pack("<I", length) + value
    if kind in LONG:
        return head + kind.encode() + b"\0\0" + struct.pack("<I", length) + value
    return head + kind.encode() + struct.pack("<H", length) + value


def item(content: bytes, *, undefined: bool = False) -> bytes:
    if undefined:
        return struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFF_FFFF) + content + struct.pack("<HHI", 0xFFFE, 0xE00D, 0)
    return struct.pack("<HHI", 0xFFFE, 0xE000, len(content)) + content


def head(syntax: str, instance: str) -> bytes:
    meta = b"".join([
        element(0x0002_0001, "OB", b"\0\1"),
        element(0x0002_0002, "UI", WSI),
        element(0x0002_0003, "UI", instance),
        element(0x0002_0010, "UI", syntax),
        element(0x0002_0012, "UI", "1.2.3"),
    ])
    return bytes(128) + b"DICM" + element(0x0002_0000, "UL", len(meta)) + meta


def write_level(path: Path, series: str, downsample: int = 1, colour: int = 180, tiles: int = 4) -> Path:
    """A level of a slide of ``tiles`` x ``tiles`` tiles, all of one colour, uncompressed."""
    across = tiles // downsample
    instance = f"{series}.{downsample}"
    measures = element(0x0028_0030, "DS", f"{MPP * downsample / 1000}\\{MPP * downsample / 1000}")
    groups = element(0x0028_9110, "SQ", item(measures))
    pixels = np.full((across * across, TILE, TILE, 3), colour, dtype=np.uint8)
    path.write_bytes(
        head(EXPLICIT, instance)
        + b"".join([
            element(0x0008_0008, "CS", "ORIGINAL\\PRIMARY\\VOLUME\\" + ("NONE" if downsample == 1 else "RESAMPLED")),
            element(0x0008_0016, "UI", WSI),
            element(0x0008_0018, "UI", instance),
            element(0x0008_0060, "CS", "SM"),
            element(0x0020_000D, "UI", "1.2.3.4"),
            element(0x0020_000E, "UI", series),
            element(0x0020_9311, "CS", "TILED_FULL"),
            element(0x0028_0002, "US", 3),
            element(0x0028_0004, "CS", "RGB"),
            element(0x0028_0006, "US", 0),
            element(0x0028_0008, "IS", str(across * across)),
            element(0x0028_0010, "US", TILE),
            element(0x0028_0011, "US", TILE),
            element(0x0028_0100, "US", 8),
            element(0x0028_0101, "US", 8),
            element(0x0028_0102, "US", 7),
            element(0x0028_0103, "US", 0),
            element(0x0048_0006, "UL", across * TILE),
            element(0x0048_0007, "UL", across * TILE),
            element(0x5200_9229, "SQ", item(groups)),
            element(0x7FE0_0010, "OB", pixels.tobytes()),
        ])
    )
    return path


@pytest.fixture
def series(tmp_path: Path) -> Path:
    """A folder with two series of two levels each, the smaller level first by name."""
    folder = tmp_path / "scans"
    folder.mkdir()
    for name, uid, colour in (("one", "1.2.9.1", 120), ("two", "1.2.9.2", 210)):
        write_level(folder / f"{name}-a.dcm", uid, 2, colour)
        write_level(folder / f"{name}-b.dcm", uid, 1, colour)
    return folder


def test_a_folder_of_two_series_is_two_slides_with_all_their_levels(series):
    slides = find_slides([series])
    assert [path.name for path in slides] == ["one-b.dcm", "two-b.dcm"]
    for path, colour in zip(slides, (120, 210), strict=True):
        with open_slide(path) as slide:
            assert slide.info.levels == (Size(256, 256), Size(128, 128))
            assert slide.info.mpp == pytest.approx(MPP)
            assert (slide.thumbnail(32) == colour).all()


def test_files_named_one_by_one_are_one_slide_in_any_order(series):
    files = sorted(series.iterdir())
    assert [path.name for path in find_slides(files)] == ["one-b.dcm", "two-b.dcm"]
    assert [path.name for path in find_slides(files[::-1])] == ["two-b.dcm", "one-b.dcm"]
    assert [path.name for path in find_slides([series / "one-a.dcm", series])] == ["one-b.dcm", "two-b.dcm"]
    assert find_slides(files[:1]) == (files[0],)  # it was asked for by name, and OpenSlide finds the others


def test_a_series_has_one_fingerprint_by_whichever_file_it_is_opened(series, tmp_path):
    assert fingerprint(series / "one-a.dcm") == fingerprint(series / "one-b.dcm")
    assert fingerprint(series / "one-a.dcm") != fingerprint(series / "two-a.dcm")
    before = fingerprint(series / "one-b.dcm")
    write_level(series / "one-a.dcm", "1.2.9.1", 2, colour=121)
    assert fingerprint(series / "one-b.dcm") != before
    alone = tmp_path / "alone.dcm"
    alone.write_bytes((series / "one-b.dcm").read_bytes())
    assert files_of_series(alone) == (alone,)


def test_the_same_series_in_two_folders_is_two_slides(series, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    for file in series.glob("one-*.dcm"):
        (other / file.name.replace("one", "copy")).write_bytes(file.read_bytes())
    assert [path.name for path in find_slides([series, other])] == ["one-b.dcm", "two-b.dcm", "copy-b.dcm"]


def test_files_that_say_no_series_stay_slides_of_their_own(tmp_path):
    (tmp_path / "a.dcm").write_bytes(b"no DICOM at all")
    (tmp_path / "b.dcm").write_bytes(bytes(128) + b"DICM")
    (tmp_path / "c.dcm").write_bytes(b"")
    (tmp_path / "d.tif").write_bytes(b"II*\0")
    files = sorted(tmp_path.iterdir())
    assert one_of_each_series(files) == tuple(files)
    assert [series_of(path) for path in [*files, tmp_path / "absent.dcm"]] == [""] * 5
    with pytest.raises(SlideError, match=r"a\.dcm"), open_slide(tmp_path / "a.dcm"):
        pass


@pytest.mark.parametrize("undefined", [False, True])
@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT])
def test_the_series_is_found_behind_sequences_in_both_encodings(tmp_path, syntax, undefined):
    implicit = syntax == IMPLICIT
    decoy = element(0x0020_000E, "UI", "6.6.6", implicit=implicit)
    inner = element(0x0008_1199, "SQ", item(decoy, undefined=undefined), implicit=implicit, undefined=undefined)
    body = [
        element(0x0008_1115, "SQ", item(inner, undefined=undefined), implicit=implicit, undefined=undefined),
        element(0x0020_000D, "UI", "1.2.3.4", implicit=implicit),
        element(0x0020_000E, "UI", "1.2.840.7", implicit=implicit),
    ]
    path = tmp_path / "slide.dcm"
    path.write_bytes(head(syntax, "1.2.3") + b"".join(body))
    assert series_of(path) == "1.2.840.7"


def test_a_header_without_the_element_or_cut_short_or_deflated_says_none(tmp_path):
    path = tmp_path / "slide.dcm"
    element_of_series = element(0x0020_000E, "UI", "1.2.840.7")
    for content in (
        head(EXPLICIT, "1.2.3") + element(0x0028_0002, "US", 3) + element_of_series,  # elements ascend
        head(EXPLICIT, "1.2.3") + element_of_series[:-2],
        head(EXPLICIT, "1.2.3") + element(0x0008_1115, "SQ", item(b""), undefined=True)[:-4] + element_of_series,
        head(DEFLATED, "1.2.3") + element_of_series,
    ):
        path.write_bytes(content)
        assert series_of(path) == ""


def test_no_header_however_damaged_does_more_than_say_none_or_some_series(series):
    content = bytearray((series / "one-a.dcm").read_bytes()[:600])
    path = series / "damaged.dcm"
    for place in range(128, 600, 3):
        path.write_bytes(bytes(content[:place]) + b"\xff\xff" + bytes(content[place + 2 :]))
        assert isinstance(series_of(path), str)


def test_the_real_overview_says_its_series(shared_slides):
    assert series_of(shared_slides / "camelyon_overview.dcm").startswith("1.3.6.1.4.1.11129.5.7.0.1.517182092386")
