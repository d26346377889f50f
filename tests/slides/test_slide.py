"""Choosing a level, blocks of bounded memory, the shrinking by area, and what is refused before a file is read."""

from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sentinode.errors import SlideError
from sentinode.geometry import Box, Size
from sentinode.seeds import stream
from sentinode.slides import slide as module
from sentinode.slides.slide import READERS, SUFFIXES, MppWish, Slide, SlideInfo, fingerprint, open_slide, shrink_by_area


class Computed:
    """A reader whose pixels follow from their place, and which notes how much is read at a time."""

    def __init__(self) -> None:
        self.largest = 0

    def read_level(self, level: int, x: int, y: int, width: int, height: int) -> np.ndarray:
        self.largest = max(self.largest, width * height)
        pixels = np.empty((height, width, 3), dtype=np.uint8)
        pixels[..., 0] = np.arange(x, x + width) % 200
        pixels[..., 1] = np.arange(y, y + height)[:, None] % 200
        pixels[..., 2] = 10 * level
        return pixels

    def close(self) -> None: ...


def computed(*levels: Size, mpp: float | None = 0.25) -> tuple[Slide, Computed]:
    reader = Computed()
    return Slide(SlideInfo(Path("drawn.svs"), levels[0], levels, mpp, "file", "", "drawn", ""), reader), reader


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.floats(0, 0.9), st.floats(0, 0.9), st.integers(1, 12))
def test_shrinking_keeps_the_mean_and_the_parts(width: int, height: int, left: float, upper: float, n: int):
    pixels = stream(width, "shrink", height, n).integers(0, 256, (height, width, 3), dtype=np.uint8)
    size = Size(min(n, max(1, int(width - left))), min(n, max(1, int(height - upper))))
    fine = pixels.repeat(20, axis=0).repeat(20, axis=1).astype(float)
    fine = fine[round(upper * 20) :, round(left * 20) :]
    window = (round(left * 20) / 20, round(upper * 20) / 20, float(width), float(height))
    shrunk = shrink_by_area(pixels, window, size).astype(float)
    assert shrunk.shape == (*size.shape, 3)
    assert np.abs(shrunk.mean(axis=(0, 1)) - fine.mean(axis=(0, 1))).max() <= 0.51


def test_the_next_finer_level_is_read():
    slide, _ = computed(Size(4000, 4000), Size(2000, 2000), Size(500, 500))
    levels = [slide.read(Box(40, 40, 400, 400), mpp)[0, 0, 2] // 10 for mpp in (0.2, 0.25, 0.49, 0.5, 1.9, 2.0, 9.0)]
    assert levels == [0, 0, 0, 1, 1, 2, 2]


def test_of_a_huge_slide_little_is_held_at_a_time(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "MOST_PIXELS", 2**18)
    slide, reader = computed(Size(6000, 4000))
    thumbnail = slide.thumbnail(30)
    assert thumbnail.shape == (20, 30, 3)
    assert np.abs(thumbnail[..., :2].astype(int) - 99).max() <= 1
    assert reader.largest <= 1.2 * module.MOST_PIXELS


def test_even_one_pixel_of_very_many_is_their_mean(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "MOST_PIXELS", 2**18)
    slide, reader = computed(Size(2400, 1600))
    mean = slide.read_pixels(Box(0, 0, 2400, 1600), Size(1, 1))[0, 0]
    assert np.abs(mean - [99.5, 99.5, 0]).max() <= 1
    assert reader.largest <= 1.2 * module.MOST_PIXELS


def test_blocks_meet_without_a_seam(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "MOST_PIXELS", 2**16)
    slide, _ = computed(Size(1800, 900))
    pixels = slide.read_pixels(Box(0, 0, 1800, 900), Size(600, 300)).astype(int)
    expected = (np.arange(1800) % 200).reshape(600, 3).mean(axis=1)
    assert np.abs(pixels[:, :, 0] - expected).max() <= 0.6


def test_without_mpp_a_slide_says_how_to_give_it():
    slide, _ = computed(Size(10, 10), mpp=None)
    with pytest.raises(SlideError, match=r"drawn.svs: has no mpp .* --mpp"):
        slide.read(Box(0, 0, 5, 5), 0.5)
    assert slide.thumbnail(5).shape == (5, 5, 3)


def test_absent_files_and_folders_are_refused(tmp_path: Path):
    with pytest.raises(SlideError, match=r"none.svs: is not there"):
        open_slide(tmp_path / "none.svs")
    with pytest.raises(SlideError, match="is a folder"):
        open_slide(tmp_path)


def test_a_wish_that_cannot_be_is_refused(tmp_path: Path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    with pytest.raises(SlideError, match="cannot be"):
        open_slide(tmp_path / "a.png", MppWish(mpp=-1))


def test_every_suffix_names_readers_that_exist():
    assert {name for names in SUFFIXES.values() for name in names} == set(READERS)


def test_a_file_of_another_suffix_is_tried_with_all(tmp_path: Path):
    tifffile.imwrite(tmp_path / "a.slide", np.full((40, 50, 3), 7, np.uint8), photometric="rgb", metadata=None)
    with open_slide(tmp_path / "a.slide") as slide:
        assert slide.info.size == Size(50, 40)
    (tmp_path / "b.slide").write_text("no picture")
    with pytest.raises(SlideError) as caught:
        open_slide(tmp_path / "b.slide")
    assert "\n" not in str(caught.value)


def test_the_id_is_the_stem():
    slide, _ = computed(Size(10, 10))
    assert slide.info.slide_id == "drawn"
    ome = SlideInfo(Path("x/case.ome.tif"), Size(1, 1), (Size(1, 1),), None, "unknown", "", "tiff", "")
    assert ome.slide_id == "case"


def test_a_fingerprint_covers_the_data_beside_a_mirax_file(tmp_path: Path):
    (tmp_path / "a.mrxs").write_bytes(b"index")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "Data0000.dat").write_bytes(b"pixels")
    before = fingerprint(tmp_path / "a.mrxs")
    (tmp_path / "a" / "Data0000.dat").write_bytes(b"pixelS")
    assert fingerprint(tmp_path / "a.mrxs") != before


def test_a_fingerprint_of_a_large_file_sees_its_ends_and_its_length(tmp_path: Path):
    path = tmp_path / "large.svs"
    content = bytearray(8 * 2**20)
    prints = set()
    for change in (None, 0, len(content) - 1, 2**20 + 5):
        changed = bytearray(content)
        if change is not None:
            changed[change] = 1
        path.write_bytes(changed)
        prints.add(fingerprint(path))
    path.write_bytes(content + b"\0")
    prints.add(fingerprint(path))
    assert len(prints) == 5
