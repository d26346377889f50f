"""The pixels of a manifest: decoded strictly, one by one, and cached once for whoever reads them often.

What is read: PNG, JPEG, TIFF and BMP with eight bits a channel, and rows of an HDF5 array (``file.h5#17``).
Every patch comes out as (h, w, 3) uint8 RGB by these rules, and what had to be done to it is noted in
``PatchImage.notes``:

- grey, black-and-white: the value is copied into the three channels;
- palette: looked up;
- alpha: laid over white, as the glass behind tissue is white;
- CMYK, YCbCr: converted by the standard formulae, colour profiles ignored;
- an orientation tag is applied; of several pages the first is read;
- sixteen bits, floating point: **refused**. Where white lies in them is not known, and a guess would change
  the stain.

A file is bounded before it is decoded: ``MAX_PIXELS`` pixels, ``MAX_BYTES`` bytes.

A row of an HDF5 array of features (``features`` or ``feats``, (n, d) floats) comes out as (1, d) float32, and what is
said here of (h, w, 3) uint8 holds for it, too.

Where the rows of a manifest are boxes of slides (``Manifest.tile_px``), a patch is what ``Slide.read_pixels`` gives
there: nothing has to be cut to disk.
"""

import contextlib
import hashlib
import os
import re
import shutil
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import h5py
import numpy as np
import tifffile
from numpy.typing import ArrayLike, NDArray
from PIL import BmpImagePlugin, Image, ImageFile, ImageOps, JpegImagePlugin, PngImagePlugin, TiffImagePlugin

from sentinode.data.hdf5 import array_in
from sentinode.data.manifest import Manifest
from sentinode.errors import ExportError, ManifestError, SlideError
from sentinode.geometry import Box, Size
from sentinode.slides.slide import Slide, open_slide
from sentinode.storage import temporary_name

__all__ = [
    "FEATURES",
    "MAX_BYTES",
    "MAX_PIXELS",
    "PatchFault",
    "PatchImage",
    "PatchReader",
    "PatchSource",
    "cache_patches",
    "find_faults",
    "pixel_digest",
]

MAX_PIXELS = 4096 * 4096
"""A patch with more pixels is refused before it is decoded: it is a slide, or a bomb."""

FEATURES = ("features", "feats")
"""What an array of features is called: by TRIDENT and CLAM, and by STAMP."""

MAX_BYTES = 8 * MAX_PIXELS
"""A larger file is refused before it is read."""

MOST_SLIDES = 4
"""Slides that are open at a time while tiles are read."""

Progress = Callable[[int, int], None]

# The plug-ins are named, not searched for: nothing but these formats is ever parsed, and no warning about
# size is raised by Image.open before our own bound is checked.
_OPENERS: tuple[tuple[bytes, Callable[[BytesIO], ImageFile.ImageFile]], ...] = (
    (b"\x89PNG\r\n\x1a\n", PngImagePlugin.PngImageFile),
    (b"\xff\xd8\xff", JpegImagePlugin.JpegImageFile),
    (b"II*\x00", TiffImagePlugin.TiffImageFile),
    (b"MM\x00*", TiffImagePlugin.TiffImageFile),
    (b"II+\x00", TiffImagePlugin.TiffImageFile),
    (b"MM\x00+", TiffImagePlugin.TiffImageFile),
    (b"BM", BmpImagePlugin.BmpImageFile),
)
# What the decoders of Pillow, tifffile and imagecodecs raise on damaged files, as far as fuzzing has shown.
_BROKEN = (
    OSError, EOFError, ValueError, TypeError, KeyError, IndexError, AttributeError, ArithmeticError,
    RuntimeError, SyntaxError, MemoryError, UserWarning, struct.error, zlib.error,
)  # fmt: skip
_ARRAY_ROW = re.compile(r"(?P<file>.+\.(?:h5|hdf5))#(?P<row>\d+)", re.IGNORECASE)
_SLIDES = frozenset({".svs", ".ndpi", ".mrxs", ".scn", ".bif", ".vms", ".svslide", ".dcm"})


@dataclass(frozen=True, eq=False)
class PatchImage:
    """A decoded patch.

    Parameters
    ----------
    pixels : (h, w, 3) uint8
        RGB.
    notes : tuple of str
        What was done to make it RGB with eight bits; empty where it was that already.
    """

    pixels: NDArray[np.uint8]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class PatchFault:
    """Something about one image of a manifest that a person should know.

    Parameters
    ----------
    kind : str
        ``"unreadable"`` (missing, truncated, damaged, not eight bits), ``"size"`` (not the size of the most)
        or ``"converted"`` (read, but not as it was stored; no fault if that is what it is).
    position : int
        In the manifest's frame.
    image_id : str
        The image.
    message : str
        What is wrong, with the file.
    """

    kind: str
    position: int
    image_id: str
    message: str


class PatchReader:
    """Reads patches below one folder and keeps array files open while many are read.

    Parameters
    ----------
    root : Path
        Folder that paths start in; nothing outside is read, symbolic links included.

    Examples
    --------
    >>> import tempfile
    >>> root = Path(tempfile.mkdtemp())
    >>> Image.new("L", (3, 2), 200).save(root / "grey.png")
    >>> with PatchReader(root) as reader:
    ...     patch = reader.read("grey.png")
    >>> patch.pixels.shape, patch.pixels.max(), patch.notes
    ((2, 3, 3), np.uint8(200), ('grey, copied into three channels',))
    """

    def __init__(self, root: Path) -> None:
        self._root = os.path.realpath(root)
        self._arrays: dict[str, h5py.Dataset] = {}
        self._slides: dict[str, Slide] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the array files and slides that were opened."""
        for array in self._arrays.values():
            array.file.close()
        self._arrays.clear()
        for slide in self._slides.values():
            slide.close()
        self._slides.clear()

    def read(self, path: str) -> PatchImage:
        """Decode one patch.

        Parameters
        ----------
        path : str
            Relative to the root; ``file.h5#17`` is row 17 (from 0) of the array in ``file.h5``.

        Returns
        -------
        PatchImage
            RGB and what was done to it.

        Raises
        ------
        ManifestError
            If it is missing, outside of the root, too large, damaged, or not one of the kinds that are read.
        """
        return self.read_with_digest(path)[0]

    def read_with_digest(self, path: str) -> tuple[PatchImage, bytes]:
        """Decode one patch and digest what it was decoded from.

        Parameters
        ----------
        path : str
            As for ``read``.

        Returns
        -------
        patch : PatchImage
            As from ``read``.
        digest : bytes
            As from ``content_digest``.

        Raises
        ------
        ManifestError
            As from ``read``.
        """
        stored = self._stored(path)
        if isinstance(stored, bytes):
            return _decode(stored, path), hashlib.sha256(stored).digest()
        return PatchImage(stored), hashlib.sha256(stored.tobytes()).digest()

    def content_digest(self, path: str) -> bytes:
        """Digest what a patch is decoded from, without decoding it.

        Parameters
        ----------
        path : str
            As for ``read``.

        Returns
        -------
        bytes
            SHA-256 of the bytes of the file, or of the pixels of the row of an array.

        Raises
        ------
        ManifestError
            If it cannot be read.
        """
        stored = self._stored(path)
        return hashlib.sha256(stored if isinstance(stored, bytes) else stored.tobytes()).digest()

    def read_tile(self, path: str, box: Box, tile_px: int) -> tuple[PatchImage, bytes]:
        """Read a tile of a slide.

        Parameters
        ----------
        path : str
            Of the slide, relative to the root.
        box : Box
            Level-0 pixels.
        tile_px : int
            Side of the tile in pixels.

        Returns
        -------
        patch : PatchImage
            (tile_px, tile_px, 3).
        digest : bytes
            As from ``tile_digest``.

        Raises
        ------
        ManifestError
            If the slide is missing, outside of the root, or cannot be read there.
        """
        try:
            pixels = self._slide(path).read_pixels(box, Size(tile_px, tile_px))
        except SlideError as error:
            raise ManifestError(str(error)) from error
        return PatchImage(pixels), self.tile_digest(path, box, tile_px)

    def tile_digest(self, path: str, box: Box, tile_px: int) -> bytes:
        """Digest what a tile is read from, without reading its pixels.

        Parameters
        ----------
        path : str
            Of the slide, relative to the root.
        box : Box
            Level-0 pixels.
        tile_px : int
            Side of the tile in pixels.

        Returns
        -------
        bytes
            SHA-256 over the fingerprint of the slide, and the place.

        Raises
        ------
        ManifestError
            If the slide cannot be opened.
        """
        place = f"{self._slide(path).info.fingerprint} {box.x} {box.y} {box.width} {box.height} {tile_px}"
        return hashlib.sha256(place.encode()).digest()

    def _slide(self, path: str) -> Slide:
        if path not in self._slides:
            if len(self._slides) == MOST_SLIDES:  # rows come slide by slide: the one opened first is done with
                self._slides.pop(next(iter(self._slides))).close()
            try:
                self._slides[path] = open_slide(self._inside(path))
            except SlideError as error:
                raise ManifestError(str(error)) from error
        return self._slides[path]

    def _stored(self, path: str) -> bytes | NDArray[np.uint8]:
        row = _ARRAY_ROW.fullmatch(path)
        if row:
            return self._array_row(row["file"], int(row["row"]))
        file = self._inside(path)
        if Path(path).suffix.lower() in _SLIDES:
            raise ManifestError(
                f"{path}: is a slide; make a manifest of its tiles with: sentinode data tiles, or cut images from it"
            )
        try:
            size = os.stat(file).st_size  # noqa: PTH116 - once an image; a Path costs more than the call
            if size > MAX_BYTES:
                raise ManifestError(f"{path}: has {size} bytes; a patch has at most {MAX_BYTES}")
            with open(file, "rb") as stream:  # noqa: PTH123 - as above
                return stream.read()
        except FileNotFoundError as error:
            raise ManifestError(
                f"{path}: there is no such file in {self._root}; mend the path, or copy it there"
            ) from error
        except OSError as error:
            raise ManifestError(f"{path}: cannot be read ({error.strerror or error}); see who may read it") from error

    def _inside(self, path: str) -> str:
        file = os.path.realpath(os.path.join(self._root, path))  # noqa: PTH118 - as in _stored
        if not file.startswith(self._root.rstrip(os.sep) + os.sep):
            raise ManifestError(f"{path}: leads out of the root folder {self._root}; copy the image into it")
        return file

    def _array_row(self, file: str, row: int) -> NDArray[Any]:
        if file not in self._arrays:
            self._arrays[file] = _open_array(self._inside(file), file)
        array = self._arrays[file]
        if row >= array.shape[0]:
            raise ManifestError(f"{file}#{row}: the array has {array.shape[0]} images, counted from 0")
        try:
            pixels: NDArray[Any] = array[row]
        except (OSError, RuntimeError) as error:
            raise ManifestError(f"{file}#{row}: is damaged ({error})") from error
        return _features(pixels, f"{file}#{row}") if array.ndim == 2 else pixels


class PatchSource:
    """The patches of a manifest as a sequence that decodes when asked.

    Parameters
    ----------
    manifest : Manifest
        The images.
    shape : (int, int), optional
        Height and width that every patch must have, in px; that of the first patch if not given.

    Examples
    --------
    >>> import pandas as pd, tempfile
    >>> from sentinode.data.manifest import make_manifest
    >>> root = Path(tempfile.mkdtemp())
    >>> for name, colour in (("a.png", "red"), ("b.png", "blue")):
    ...     Image.new("RGB", (4, 2), colour).save(root / name)
    >>> frame = pd.DataFrame({"path": ["a.png", "b.png"], "label": ["normal", "tumour"]})
    >>> source = PatchSource(make_manifest(frame, root=root))
    >>> len(source), source.shape, source[1][0, 0].tolist(), source[[1, 0]].shape
    (2, (2, 4), [0, 0, 255], (2, 2, 4, 3))
    """

    def __init__(self, manifest: Manifest, shape: tuple[int, int] | None = None) -> None:
        self.manifest = manifest
        self._shape = shape
        self._first: NDArray[Any] | None = None

    def __len__(self) -> int:
        return len(self.manifest)

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of every patch in px."""
        if self._shape is None:
            self._shape = self.first.shape[:2]
        return self._shape

    @property
    def first(self) -> NDArray[Any]:
        """The first patch, (h, w, 3) uint8, or its features, (1, d) float32: the others are of its kind."""
        if self._first is None:
            with PatchReader(self.manifest.root) as reader:
                self._first = _read_row(reader, self.manifest, 0)[0].pixels
        return self._first

    @property
    def has_features(self) -> bool:
        """Whether the rows are features of an encoder, and no images."""
        return self.first.ndim == 2

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        with PatchReader(self.manifest.root) as reader:
            for position in range(len(self)):
                yield self._read(reader, position)

    def __getitem__(self, which: int | slice | ArrayLike) -> NDArray[np.uint8]:
        """Decode one patch, (h, w, 3) uint8, or several, (n, h, w, 3) uint8.

        Parameters
        ----------
        which : int, slice, (n,) int, or (len,) bool
            As an array is indexed.

        Returns
        -------
        (h, w, 3) or (n, h, w, 3) uint8
            RGB.

        Raises
        ------
        ManifestError
            If a patch cannot be read or has another size; names the row, the id and the file.
        """
        chosen = which if isinstance(which, int | slice) else np.asarray(which)
        if isinstance(chosen, np.ndarray) and chosen.size == 0:
            chosen = chosen.astype(np.int64)  # np.asarray([]) is of floats
        positions = np.asarray(np.arange(len(self))[chosen])
        with PatchReader(self.manifest.root) as reader:
            if positions.ndim == 0:
                return self._read(reader, int(positions))
            if self._first is None:  # by the same reader: an array file is opened once
                self._first = _read_row(reader, self.manifest, 0)[0].pixels
            first = self._first
            pixels = np.empty((len(positions), *self.shape, *first.shape[2:]), dtype=first.dtype)
            for target, position in zip(pixels, positions.tolist(), strict=True):
                target[:] = self._read(reader, position)
        return pixels

    def _read(self, reader: PatchReader, position: int) -> NDArray[np.uint8]:
        patch, _ = _read_row(reader, self.manifest, position)
        _check_size(self.manifest, position, patch.pixels, self.shape)
        return patch.pixels


def cache_patches(manifest: Manifest, folder: Path | str, on_progress: Progress | None = None) -> np.memmap[Any, Any]:
    """Decode every patch once into one array on disk, or open the array that is there already.

    The file is named by the manifest's digest and by a digest of the bytes of all images in the order of the
    rows, so that an image that was changed in place, or rows in another order, never meet an old array. It is
    written under a temporary name and then renamed: a file that exists is complete.

    Parameters
    ----------
    manifest : Manifest
        The images, all of one size.
    folder : Path or str
        Where the array goes; made if it is not there.
    on_progress : callable, optional
        Called with the number of images done and their total.

    Returns
    -------
    numpy.memmap
        (n, h, w, 3) uint8, or (n, 1, d) float32 of features; read-only, in the order of the rows.

    Raises
    ------
    ManifestError
        If an image cannot be read or has another size; nothing is left behind.
    ExportError
        If the array cannot be written (no room, no permission); nothing is left behind.
    """
    folder = Path(folder)
    known = _known_cache(manifest, folder)
    if known is not None:
        if on_progress is not None:
            on_progress(len(manifest), len(manifest))
        return known
    source = PatchSource(manifest)
    shape = (len(manifest), *source.first.shape)
    temporary = temporary_name(folder / f"{_cache_stem(manifest)}.npy")  # its content is part of its name
    try:
        _make_room(folder, int(np.prod(shape)) * source.first.itemsize)
        content = _write_cache(temporary, source, on_progress)
        path = folder / f"{_cache_stem(manifest)}-{content}.npy"
        temporary.replace(path)
    except OSError as error:
        raise ExportError(
            f"{folder}: the patches cannot be cached there ({error.strerror or error}); "
            "make room, or give a folder of yours"
        ) from error
    finally:
        with contextlib.suppress(OSError):  # a folder that is none has nothing in it either
            temporary.unlink(missing_ok=True)
    return _open_cache(path)


def find_faults(manifest: Manifest, on_progress: Progress | None = None) -> tuple[PatchFault, ...]:
    """Read every image and list what is wrong, instead of stopping at the first.

    Parameters
    ----------
    manifest : Manifest
        The images.
    on_progress : callable, optional
        Called with the number of images done and their total.

    Returns
    -------
    tuple of PatchFault
        Ordered by position.
    """
    faults: list[PatchFault] = []
    sizes: dict[int, tuple[int, int]] = {}
    paths, ids = manifest.frame["path"].tolist(), manifest.frame["image_id"].tolist()
    with PatchReader(manifest.root) as reader:
        for position, path in enumerate(paths):
            try:
                patch, _ = _read(reader, manifest, position)
            except ManifestError as error:
                faults.append(PatchFault("unreadable", position, ids[position], str(error)))
            else:
                sizes[position] = patch.pixels.shape[:2]
                if patch.notes:
                    message = f"{path}: {'; '.join(patch.notes)}"
                    faults.append(PatchFault("converted", position, ids[position], message))
            _report(on_progress, position + 1, len(paths))
    for position, (height, width) in _odd_sizes(sizes):
        message = f"{paths[position]}: is {width} x {height} px, most images are not; cut all to one size"
        faults.append(PatchFault("size", position, ids[position], message))
    return tuple(sorted(faults, key=lambda fault: (fault.position, fault.kind)))


def pixel_digest(pixels: NDArray[np.uint8]) -> str:
    """Digest pixels: two images with one digest are equal pixel for pixel, however they were stored.

    Parameters
    ----------
    pixels : (h, w, 3) uint8
        RGB.

    Returns
    -------
    str
        SHA-256, hexadecimal, over height, width and pixels.

    Examples
    --------
    >>> pixel_digest(np.zeros((2, 3, 3), np.uint8)) == pixel_digest(np.zeros((3, 2, 3), np.uint8))
    False
    """
    shape = "x".join(map(str, pixels.shape)).encode()
    return hashlib.sha256(shape + np.ascontiguousarray(pixels).tobytes()).hexdigest()


# --- decoding -----------------------------------------------------------------------------------------------


def _decode(content: bytes, path: str) -> PatchImage:
    if not content:
        raise ManifestError(f"{path}: is empty (0 bytes); copy the image again")
    opener = next((opener for magic, opener in _OPENERS if content.startswith(magic)), None)
    if opener is None:
        raise ManifestError(f"{path}: is not a PNG, JPEG, TIFF or BMP image, whatever its name says; save it as one")
    with warnings.catch_warnings():
        # Pillow warns of tags that are cut short, and goes on with what it has; here that is damage.
        warnings.simplefilter("error")
        try:
            image = opener(BytesIO(content))
        except _BROKEN as error:
            if opener is TiffImagePlugin.TiffImageFile:
                return _decode_tiff(content, path)
            raise ManifestError(f"{path}: is damaged ({_reason(error)}); copy the image again") from error
        with image:
            return _load(image, content, path)


def _load(image: ImageFile.ImageFile, content: bytes, path: str) -> PatchImage:
    _check_bounds(image.width, image.height, path)
    _check_depth(_bits(image, content), path)
    try:
        return _as_rgb(image, path)
    except _BROKEN as error:
        raise ManifestError(f"{path}: is truncated or damaged ({_reason(error)}); copy the image again") from error


def _as_rgb(image: Image.Image, path: str) -> PatchImage:
    notes = []
    if getattr(image, "n_frames", 1) > 1:
        notes.append(f"{image.n_frames} pages, the first is read")  # type: ignore[attr-defined]
    image = ImageOps.exif_transpose(image)
    mode = image.mode
    if mode in {"LA", "La", "PA", "RGBA", "RGBa"} or "transparency" in image.info:
        layer = image.convert("RGBA")
        notes.append("alpha, laid over white")
        image = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    elif mode in {"1", "L"}:
        notes.append("grey, copied into three channels")
    elif mode in {"CMYK", "YCbCr"}:
        notes.append(f"{mode}, converted without colour profile")
    elif mode not in {"RGB", "RGBX", "P"}:
        raise ManifestError(f"{path}: has colour mode {mode}; save it as RGB with 8 bits a channel")
    return PatchImage(np.array(image.convert("RGB"), dtype=np.uint8), tuple(notes))


def _bits(image: ImageFile.ImageFile, content: bytes) -> int:
    # Bits a channel as stored: Pillow opens an RGB image of sixteen bits as if it had eight.
    if isinstance(image, PngImagePlugin.PngImageFile):
        return content[24]  # PNG specification 11.2.2: IHDR is the first chunk; width, height, then bit depth
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        stored = image.tag_v2.get(TiffImagePlugin.BITSPERSAMPLE, (1,))
        return int(max(stored if isinstance(stored, tuple) else (stored,)))
    return 16 if image.mode.startswith(("I", "F")) else 8


def _decode_tiff(content: bytes, path: str) -> PatchImage:
    # What Pillow cannot: JPEG 2000 in TIFF, other compressions, channels in planes.
    try:
        with tifffile.TiffFile(BytesIO(content)) as file:
            page = file.pages.first
            _check_bounds(page.imagewidth, page.imagelength, path)
            _check_depth(page.bitspersample, path)
            if page.size > 4 * MAX_PIXELS:  # a depth or a number of channels that no patch has
                raise ManifestError(f"{path}: has {page.size} values; a patch has at most {MAX_PIXELS} pixels")
            pixels = page.asarray()
            axes, photometric = page.axes, page.photometric
    except _BROKEN as error:
        raise ManifestError(f"{path}: is not a TIFF that can be read ({_reason(error)})") from error
    if axes == "SYX":
        pixels = np.moveaxis(pixels, 0, -1)
    if pixels.dtype != np.uint8 or pixels.shape[2:] != (3,) or photometric not in {2, 6}:
        raise ManifestError(
            f"{path}: is a TIFF of {pixels.dtype} {pixels.shape}, "
            f"photometric {int(photometric)}; save it as RGB with 8 bits a channel"
        )
    return PatchImage(np.ascontiguousarray(pixels))


def _check_bounds(width: int, height: int, path: str) -> None:
    if width * height > MAX_PIXELS:
        raise ManifestError(f"{path}: is {width} x {height} px; a patch has at most {MAX_PIXELS} pixels: cut it")
    if width * height == 0:
        raise ManifestError(f"{path}: is {width} x {height} px; there is no pixel in it")


def _check_depth(bits: int, path: str) -> None:
    if bits > 8:
        raise ManifestError(f"{path}: has {bits} bits a channel; choose what is white in it and save it with 8")


def _reason(error: BaseException) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def _open_array(file: str, name: str) -> h5py.Dataset:
    try:
        opened = h5py.File(file, "r")
    except FileNotFoundError as error:
        raise ManifestError(f"{name}: there is no such file") from error
    except OSError as error:
        raise ManifestError(f"{name}: is not an HDF5 file, or is damaged ({_reason(error)})") from error
    try:
        found = {key: array for key in opened if (array := array_in(opened, key)) is not None}
    except ManifestError:
        opened.close()
        raise
    for key in FEATURES:
        if key in found and found[key].ndim == 2 and found[key].dtype.kind == "f":
            return found[key]
    arrays = [array for array in found.values() if array.ndim == 4]
    if len(arrays) != 1 or arrays[0].shape[3] != 3 or arrays[0].dtype != np.uint8:
        kinds = ", ".join(f"{item.name[1:]} {item.shape} {item.dtype}" for item in arrays) or "none"
        opened.close()
        raise ManifestError(
            f"{name}: needs one array (n, h, w, 3) of uint8 at its top, or features (n, d) of floats called "
            f"{' or '.join(FEATURES)}; it has {kinds}"
        )
    if arrays[0].shape[1] * arrays[0].shape[2] > MAX_PIXELS:
        height, width = arrays[0].shape[1:3]
        opened.close()
        _check_bounds(width, height, name)
    return arrays[0]


def _features(row: NDArray[Any], name: str) -> NDArray[np.float32]:
    # (d,) of any float -> (1, d): a row of numbers has a height and a width as an image has.
    features = np.asarray(row, dtype=np.float32)[None]
    if not np.isfinite(features).all():
        raise ManifestError(f"{name}: has features that are no finite numbers; run the encoder again, in float32")
    return features


# --- rows of a manifest -------------------------------------------------------------------------------------


def _read(reader: PatchReader, manifest: Manifest, position: int) -> tuple[PatchImage, bytes]:
    path: str = manifest.frame["path"].to_numpy()[position]
    if manifest.tile_px is None:
        return reader.read_with_digest(path)
    return reader.read_tile(path, _box(manifest, position), manifest.tile_px)


def _row_digest(reader: PatchReader, manifest: Manifest, position: int) -> bytes:
    path: str = manifest.frame["path"].to_numpy()[position]
    if manifest.tile_px is None:
        return reader.content_digest(path)
    return reader.tile_digest(path, _box(manifest, position), manifest.tile_px)


def _box(manifest: Manifest, position: int) -> Box:
    frame = manifest.frame
    return Box(*(int(frame[name].array[position]) for name in ("x", "y", "width", "height")))


def _read_row(reader: PatchReader, manifest: Manifest, position: int) -> tuple[PatchImage, bytes]:
    try:
        return _read(reader, manifest, position)
    except ManifestError as error:
        raise ManifestError(f"{_row_name(manifest, position)}: {error}") from error


def _check_size(manifest: Manifest, position: int, pixels: NDArray[np.uint8], shape: tuple[int, int]) -> None:
    height, width = pixels.shape[:2]
    if (height, width) != shape:
        path = manifest.frame["path"].iat[position]
        raise ManifestError(
            f"{_row_name(manifest, position)}: {path}: is {width} x {height} px, "
            f"the others are {shape[1]} x {shape[0]}; cut all to one size"
        )


def _row_name(manifest: Manifest, position: int) -> str:
    return f"row {position + 1} (image_id {manifest.frame['image_id'].iat[position]!r})"


def _odd_sizes(sizes: dict[int, tuple[int, int]]) -> Iterator[tuple[int, tuple[int, int]]]:
    # Those that are not of the commonest size (the first met, among equals).
    counts: dict[tuple[int, int], int] = {}
    for size in sizes.values():
        counts[size] = counts.get(size, 0) + 1
    if counts:
        usual = max(counts, key=lambda size: counts[size])
        yield from ((position, size) for position, size in sizes.items() if size != usual)


def _report(on_progress: Progress | None, done: int, total: int) -> None:
    if on_progress is not None:
        on_progress(done, total)


# --- the cache ----------------------------------------------------------------------------------------------


def _cache_stem(manifest: Manifest) -> str:
    return f"patches-{manifest.digest[:16]}"


def _known_cache(manifest: Manifest, folder: Path) -> "np.memmap[Any, Any] | None":
    # Reading every file only to find out that nothing was ever cached would double the work of the first
    # time.
    if not any(folder.glob(f"{_cache_stem(manifest)}-*.npy")):
        return None
    content = hashlib.sha256()
    with PatchReader(manifest.root) as reader:
        for position in range(len(manifest)):
            content.update(_row_digest(reader, manifest, position))
    path = folder / f"{_cache_stem(manifest)}-{content.hexdigest()[:16]}.npy"
    return _open_cache(path) if path.exists() else None


def _open_cache(path: Path) -> "np.memmap[Any, Any]":
    pixels: np.memmap[Any, Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    return pixels


def _make_room(folder: Path, needed: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise ExportError(
            f"{folder}: the patches need {needed:,} bytes and {free:,} are free; make room or cache elsewhere"
        )


def _write_cache(path: Path, source: PatchSource, on_progress: Progress | None) -> str:
    # Returns the digest of what was decoded. Plain writes, not a memory map: a full disk is then an error
    # that can be reported, and not the end of the process.
    manifest, content = source.manifest, hashlib.sha256()
    shape = (len(manifest), *source.first.shape)
    header = {"descr": np.lib.format.dtype_to_descr(source.first.dtype), "fortran_order": False, "shape": shape}
    with path.open("wb") as file, PatchReader(manifest.root) as reader:
        np.lib.format.write_array_header_1_0(file, header)
        for position in range(len(manifest)):
            patch, digest = _read_row(reader, manifest, position)
            _check_size(manifest, position, patch.pixels, source.shape)
            file.write(np.ascontiguousarray(patch.pixels).tobytes())
            content.update(digest)
            _report(on_progress, position + 1, len(manifest))
        file.flush()
        os.fsync(file.fileno())
    return content.hexdigest()[:16]
