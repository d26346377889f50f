"""JPEG tiles decoded at a half, a quarter or an eighth of their size, by the scaled transform of libjpeg-turbo.

A tile of a TIFF may leave its tables to the page. The reduced transform works on the low frequencies of each block of
8 x 8 pixels, so that most of the arithmetic of a full decoding is never done; at an eighth it is the mean of the block,
at a quarter and a half nearly so (docs/slides.md has the difference). At full size every pixel is what any other
program on libjpeg-turbo gives.

References
----------
TIFF Technical Note 2 (1995), on JPEGTables; ITU-T T.81 (1992) and T.871 (2011), on JPEG and JFIF; libjpeg-turbo,
``jidctred.c``, on the reduced transforms.
"""

import io
import struct
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

try:
    import simplejpeg
except ImportError:  # there is no wheel for some machines; Pillow gives the same bits at half the speed
    simplejpeg = None

__all__ = ["REDUCTIONS", "Frame", "decode_jpeg", "jpeg_frame", "shrunk_by", "whole_jpeg"]

REDUCTIONS = (2, 4, 8)
"""By how much a JPEG tile can be reduced while it is decoded."""

_RGB_MARKER = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00\x00"  # APP14, transform 0: the colours are not turned


class Frame(NamedTuple):
    """What the header of a JPEG says.

    Parameters
    ----------
    begin : int
        Byte where the frame begins.
    width, height : int
        Pixels.
    even : bool
        Whether colour is stored as finely across as down, as in 4:4:4 and 4:2:0.
    jfif : bool
        Whether it says that it is JFIF.
    """

    begin: int
    width: int
    height: int
    even: bool
    jfif: bool


def jpeg_frame(data: bytes) -> Frame:
    """Find the frame of a JPEG without decoding it.

    Parameters
    ----------
    data : bytes
        A tile; its tables may be missing.

    Returns
    -------
    Frame
        Its place and size.

    Raises
    ------
    ValueError
        If there is none.
    """
    # ITU-T T.81, B.2.2: the frame header is marker C0 to CF but for C4, C8, CC; length, precision, height, width.
    place, jfif = 2, False
    while place + 9 <= len(data) and data[place] == 0xFF:
        marker = data[place + 1]
        if 0xC0 <= marker <= 0xCF and marker not in {0xC4, 0xC8, 0xCC}:
            height, width = struct.unpack(">HH", data[place + 5 : place + 9])
            factors = [divmod(factor, 16) for factor in data[place + 11 : place + 20 : 3]]
            even = all(across * factors[0][1] == down * factors[0][0] for across, down in factors)
            return Frame(place, width, height, even, jfif)
        jfif |= marker == 0xE0 and data[place + 4 : place + 8] == b"JFIF"
        place += 1 if marker == 0xFF else 2 + struct.unpack(">H", data[place + 2 : place + 4])[0]
    raise ValueError("it is no JPEG with a frame")


def whole_jpeg(data: bytes, frame: Frame, tables: bytes | None, *, is_rgb: bool) -> bytes:
    """Make a JPEG of a tile that any decoder reads: its page's tables put in, and its colours said.

    Parameters
    ----------
    data : bytes
        The tile.
    frame : Frame
        Of it.
    tables : bytes, optional
        JPEGTables of the page: a JPEG of tables only.
    is_rgb : bool
        Whether its channels are red, green and blue; else libjpeg's rules say, which is YCbCr for tiles of slides.

    Returns
    -------
    bytes
        From the start of image on. What the tile says itself comes after the tables, and counts.

    Raises
    ------
    ValueError
        If it says that it is YCbCr where its page says RGB.
    """
    if is_rgb and frame.jfif:
        raise ValueError("a JFIF tile is never RGB")
    parts = (
        data[:2],
        b"" if not tables else tables[2:-2] if tables.endswith(b"\xff\xd9") else tables[2:],
        data[2 : frame.begin],
        _RGB_MARKER if is_rgb else b"",
        data[frame.begin :],
    )
    return b"".join(parts)


def decode_jpeg(data: bytes, frame: Frame, reduction: int = 1) -> NDArray[np.uint8]:
    """Decode a JPEG, whole or reduced.

    Parameters
    ----------
    data : bytes
        As of `whole_jpeg`.
    frame : Frame
        Its size.
    reduction : int
        1, or one of `REDUCTIONS`.

    Returns
    -------
    (h, w, 3) uint8
        Each side divided by the reduction, rounded up.

    Raises
    ------
    ValueError
        If it is damaged in any way, also where a picture could still be made of it.
    """
    if reduction > 1 and not frame.even:
        # Of 4:2:2, libjpeg reduces colour across by twice as much, and blurs it when it is put back.
        return shrunk_by(2, decode_jpeg(data, frame, reduction // 2))
    decode = _with_pillow if simplejpeg is None else _with_simplejpeg
    try:
        pixels = decode(data, frame, reduction)
    except (OSError, SyntaxError) as error:  # Pillow's
        raise ValueError(str(error)) from error
    shape = (-(-frame.height // reduction), -(-frame.width // reduction), 3)
    if pixels.shape != shape:
        raise ValueError(f"it has {pixels.shape} where {shape} was asked for")
    return pixels


def shrunk_by(reduction: int, tile: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Shrink a tile by a whole number: the oracle of the reduced transform.

    Parameters
    ----------
    reduction : int
        1 gives the tile back.
    tile : (h, w, 3) uint8
        What is left over at the right and lower border is averaged over fewer pixels.

    Returns
    -------
    (h, w, 3) uint8
        Means over reduction x reduction pixels, rounded; sides rounded up.
    """
    if reduction == 1:
        return tile
    height, width = tile.shape[:2]
    padded = np.pad(tile, ((0, -height % reduction), (0, -width % reduction), (0, 0)), mode="edge")
    blocks = padded.reshape(-(-height // reduction), reduction, -(-width // reduction), reduction, 3)
    shrunk: NDArray[np.uint8] = np.rint(blocks.mean(axis=(1, 3), dtype=np.float32)).astype(np.uint8)
    return shrunk


def _with_simplejpeg(data: bytes, frame: Frame, reduction: int) -> NDArray[np.uint8]:
    height, width = -(-frame.height // reduction), -(-frame.width // reduction)
    pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(data, "RGB", min_height=height, min_width=width)
    return pixels


def _with_pillow(data: bytes, frame: Frame, reduction: int) -> NDArray[np.uint8]:
    with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
        # It takes the largest reduction that leaves at least as much as is asked for.
        image.draft("RGB", (max(1, frame.width // reduction), max(1, frame.height // reduction)))
        return np.asarray(image.convert("RGB"))
