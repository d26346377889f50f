"""Whatever happens to a file, a reader gives pixels or a SlideError of one line, soon, and in little memory."""

import io
import struct
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from sentinode.errors import SlideError
from sentinode.geometry import Box, Size
from sentinode.seeds import stream
from sentinode.slides.slide import READERS, open_slide

FLIPS = 60


def picture() -> np.ndarray:
    return stream(1, "damage").integers(90, 250, (90, 110, 3), dtype=np.uint8)


def tiff(*, big: bool = False, ome: bool = False, compression: str = "zlib") -> bytes:
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer, bigtiff=big, ome=ome) as file:
        how = {"photometric": "rgb", "tile": (32, 32), "compression": compression}
        if ome:
            file.write(
                picture(), subifds=1, metadata={"axes": "YXS", "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5}, **how
            )
        else:
            file.write(picture(), metadata=None, **how)
        file.write(picture()[::2, ::2].copy(), subfiletype=1, metadata=None, **how)
    return buffer.getvalue()


def image(kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture()).save(buffer, kind)
    return buffer.getvalue()


WHOLE = {
    "a.tif": tiff(),
    "b.tif": tiff(big=True, compression="jpeg"),
    "c.ome.tif": tiff(ome=True, compression="lzw"),
    "d.tif": tiff(compression="jpeg2000"),
    "e.png": image("PNG"),
    "f.jpg": image("JPEG"),
    "g.bmp": image("BMP"),
}


def damaged(content: bytes, name: str) -> Iterator[bytes]:
    for share in (0, 0.001, 0.01, 0.1, 0.3, 0.6, 0.9, 0.99, 0.999):
        yield content[: int(len(content) * share)]
    rng = stream(7, "damage", name)
    for number in range(FLIPS):
        changed = bytearray(content)
        # Half of them hit the headers: the first and last 600 bytes.
        where = rng.integers(0, len(content), 4) if number % 2 else rng.choice([*range(600), *range(-600, 0)], 4)
        for place in where:
            changed[place] = rng.integers(0, 256)
        yield bytes(changed)


def read_all(path: Path, reader: str) -> str:
    """Read everything; what was refused, or nothing."""
    try:
        with open_slide(path, reader=reader) as slide:
            pixels = slide.thumbnail(64)
            assert pixels.dtype == np.uint8
            for number, level in enumerate(slide.info.levels):
                part = slide.reader.read_level(number, 0, 0, min(level.width, 200), min(level.height, 200))
                assert part.shape == (min(level.height, 200), min(level.width, 200), 3)
    except SlideError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.parametrize("reader", READERS)
def test_a_damaged_file_gives_pixels_or_one_line(tmp_path: Path, reader: str, name: str):
    path = tmp_path / name
    refused = 0
    for content in damaged(WHOLE[name], name):
        path.write_bytes(content)
        message = read_all(path, reader)
        refused += bool(message)
        assert "\n" not in message
        assert not message or str(path) in message
    assert refused >= 5


def patched(content: bytes, tag: int, value: int) -> bytes:
    """Set the value of a tag of one number on the first page of a little-endian classic TIFF."""
    changed = bytearray(content)
    (page,) = struct.unpack_from("<I", changed, 4)
    for entry in range(struct.unpack_from("<H", changed, page)[0]):
        place = page + 2 + 12 * entry
        if struct.unpack_from("<H", changed, place)[0] == tag:
            struct.pack_into("<HII", changed, place + 2, 4, 1, value)
    return bytes(changed)


ABSURD = {
    "width of 2^31": patched(WHOLE["a.tif"], 256, 2**31),
    "height of 2^32 - 1": patched(WHOLE["a.tif"], 257, 2**32 - 1),
    "no width": patched(WHOLE["a.tif"], 256, 0),
    "tiles of gigabytes": patched(patched(WHOLE["a.tif"], 322, 2**16), 323, 2**16),
    "tiles without a width": patched(WHOLE["a.tif"], 322, 0),
    "more tiles than are listed": patched(WHOLE["a.tif"], 256, 4000),
    "a hundred channels": patched(WHOLE["a.tif"], 277, 100),
}


@pytest.mark.parametrize("what", ABSURD)
def test_absurd_headers_are_refused(tmp_path: Path, what: str):
    path = tmp_path / "absurd.tif"
    path.write_bytes(ABSURD[what])
    assert "absurd.tif" in read_all(path, "tiff")


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (ABSURD["tiles of gigabytes"], "65536 x 65536 px, too large"),
        (patched(WHOLE["a.tif"], 322, 2**29 + 2**27), "too large to be read by parts"),
        (patched(WHOLE["a.tif"], 257, 2_752_812), "lists 12 tiles where its size needs"),
    ],
)
def test_openslide_never_sees_tiles_that_cannot_be(tmp_path: Path, content: bytes, why: str):
    """Asked for the memory of such a tile, it ends the process, and all other slides with it."""
    path = tmp_path / "absurd.tif"
    path.write_bytes(content)
    with pytest.raises(SlideError, match=why):
        open_slide(path, reader="openslide")
    with pytest.raises(SlideError) as told:
        open_slide(path)
    assert str(told.value).count(why) <= 1, "readers that agree say it once"


def test_pages_in_a_circle_are_refused(tmp_path: Path):
    content = bytearray(WHOLE["a.tif"])
    (page,) = struct.unpack_from("<I", content, 4)
    (entries,) = struct.unpack_from("<H", content, page)
    struct.pack_into("<I", content, page + 2 + 12 * entries, page)
    path = tmp_path / "circle.tif"
    path.write_bytes(content)
    assert "circle" in read_all(path, "tiff").removeprefix(str(path))


def bombs(folder: Path) -> None:
    """Small files that claim or unpack to gigabytes."""
    for name, content in ABSURD.items():
        (folder / f"{name}.tif").write_bytes(content)
    for compression, side in (("zlib", 8192), ("lzw", 1024), ("packbits", 1024)):
        claims_little = io.BytesIO()
        tifffile.imwrite(
            claims_little,
            np.zeros((side, side, 3), np.uint8),
            photometric="rgb",
            tile=(side, side),
            compression=compression,
            metadata=None,
        )
        content = claims_little.getvalue()
        for tag, value in ((256, 64), (257, 64), (322, 64), (323, 64)):
            content = patched(content, tag, value)
        (folder / f"bomb {compression}.tif").write_bytes(content)
    for name in ("jpeg", "jpeg2000"):
        stored = tiff(compression=name)
        frame = stored.find(b"\xff\xc0") if name == "jpeg" else stored.find(b"\xff\x4f\xff\x51")
        content = bytearray(stored)
        if name == "jpeg":
            struct.pack_into(">HH", content, frame + 5, 65_000, 65_000)
        else:
            struct.pack_into(">II", content, frame + 8, 2**20, 2**20)
        (folder / f"bomb {name}.tif").write_bytes(content)
    png = bytearray(WHOLE["e.png"])
    struct.pack_into(">II", png, 16, 60_000, 60_000)
    (folder / "bomb.png").write_bytes(png)


@pytest.mark.skipif(sys.platform != "linux", reason="memory is limited with RLIMIT_AS")
def test_bombs_are_refused_within_little_memory(tmp_path: Path):
    bombs(tmp_path)
    program = textwrap.dedent("""
        import resource, sys
        from pathlib import Path
        from sentinode.errors import SlideError
        from sentinode.slides import image_reader, openslide_reader, tiff_reader  # loaded before memory is limited
        from sentinode.slides.slide import open_slide

        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        taken = int(Path("/proc/self/statm").read_text().split()[0]) * 4096
        resource.setrlimit(resource.RLIMIT_AS, (taken + 600 * 2**20,) * 2)
        for path in sorted(Path(sys.argv[1]).iterdir()):
            for reader in ("tiff", "image"):
                try:
                    with open_slide(path, reader=reader) as slide:
                        slide.thumbnail(64)
                except SlideError:
                    pass
        print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
    """)
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 250  # MiB more than after the imports


def test_after_an_error_openslide_is_not_asked_again(shared_slides: Path):
    with open_slide(shared_slides / "malformed" / "openslide-python_unreadable.svs", reader="openslide") as slide:
        with pytest.raises(SlideError, match="cannot be read"):
            slide.read_pixels(Box(0, 0, 16, 16), Size(16, 16))
        with pytest.raises(SlideError, match="could not be read before"):
            slide.read_pixels(Box(0, 0, 16, 16), Size(16, 16))
