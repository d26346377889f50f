"""Files of annotations, of several programs: read and written.

A format is a module that this one loads by name: it turns the bytes of a file into regions, and back.
"""

import gzip
import importlib
import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Protocol, cast

from sentinode.errors import ExportError, ManifestError
from sentinode.slides.annotations import Annotations
from sentinode.slides.naming import slide_id_of
from sentinode.storage import whole_file

__all__ = [
    "ANNOTATION_FORMATS",
    "AnnotationFormat",
    "annotation_for",
    "read_annotations",
    "write_annotations",
    "write_asap",
    "write_geojson",
    "write_imagescope",
]

ANNOTATION_FORMATS: Mapping[str, str] = MappingProxyType({
    "asap": "sentinode.slides.asap_xml",
    "geojson": "sentinode.slides.qupath_geojson",
    "imagescope": "sentinode.slides.imagescope_xml",
})
"""Format -> its module, an `AnnotationFormat`. A new format is a module and a line here."""

LARGEST = 200_000_000
"""Bytes of a file, unpacked; drawings are smaller."""

_WHAT_IS_READ = "it must be ASAP XML, ImageScope XML or QuPath GeoJSON"
_PREFERRED = (".xml", ".geojson", ".geojson.gz", ".json")  # suffixes of the drawing that lies beside a slide


class AnnotationFormat(Protocol):
    """What the module of a format has."""

    @property
    def SUFFIXES(self) -> tuple[str, ...]:  # noqa: N802 - a constant of a module
        """Suffixes of its files in small letters; ``.gz`` may follow each."""
        ...

    def recognises(self, head: str) -> bool:
        """Say whether a file that begins so is of this format."""
        ...

    def read(self, content: bytes, source: Path) -> Annotations:
        """Read a whole file; raises ManifestError."""
        ...

    def encode(self, annotations: Annotations, path: Path) -> str:
        """Write a whole file; raises ExportError where the format cannot hold something."""
        ...


def read_annotations(path: Path | str) -> Annotations:
    """Read a file of annotations: its suffix, then its content say which format it is.

    Parameters
    ----------
    path : Path or str
        ASAP XML, ImageScope XML or QuPath GeoJSON; also packed with gzip (``.gz``).

    Returns
    -------
    Annotations
        In level-0 pixels, as in the file; every polygon valid.

    Raises
    ------
    ManifestError
        If the file cannot be read, is of none of the formats, is damaged, too large, or has a coordinate that no
        slide has.
    """
    # ManifestError is also the format's.
    path = Path(path)
    content = _content(path)
    head = content[: 2**16].decode(json.detect_encoding(content[:4]), errors="replace").lstrip("\ufeff")
    formats = [_format(name) for name in ANNOTATION_FORMATS]
    name = path.name.lower().removesuffix(".gz")
    formats.sort(key=lambda one: not name.endswith(one.SUFFIXES))
    chosen = next((one for one in formats if one.recognises(head)), None)
    if chosen is None:
        raise ManifestError(f"{path}: is no file of annotations; {_WHAT_IS_READ}")
    return chosen.read(content, path)


def write_annotations(annotations: Annotations, path: Path | str, form: str) -> None:
    """Write a file of annotations, whole; the same annotations give the same bytes.

    Parameters
    ----------
    annotations : Annotations
        What was drawn.
    path : Path or str
        Packed with gzip where it ends in ``.gz``.
    form : str
        A key of `ANNOTATION_FORMATS`.

    Raises
    ------
    ExportError
        If it cannot be written, or the format cannot hold a name.
    """
    # ExportError is also the format's.
    path = Path(path)
    if form not in ANNOTATION_FORMATS:
        raise ExportError(f"{path}: there is no format {form!r}; the formats are {', '.join(ANNOTATION_FORMATS)}")
    text = _format(form).encode(annotations, path)
    try:
        content = text.encode()
    except UnicodeEncodeError as error:
        raise ExportError(f"{path}: the name of a region is not text ({error.reason}); rename it") from error
    if path.name.lower().endswith(".gz"):
        content = gzip.compress(content, mtime=0)
    try:
        with whole_file(path) as part:
            part.write_bytes(content)
    except OSError as error:
        raise ExportError(f"{path}: cannot be written ({error.strerror or error}); choose another place") from error


def write_geojson(annotations: Annotations, path: Path | str) -> None:
    """Write GeoJSON as QuPath reads it.

    Parameters
    ----------
    annotations : Annotations
        What was drawn.
    path : Path or str
        E.g. ``slide.geojson`` or ``slide.geojson.gz``.

    Raises
    ------
    ExportError
        If it cannot be written, or a name ends in ``*``.
    """
    # ExportError is write_annotations's.
    write_annotations(annotations, path, "geojson")


def write_asap(annotations: Annotations, path: Path | str) -> None:
    """Write XML as ASAP reads it.

    Parameters
    ----------
    annotations : Annotations
        What was drawn.
    path : Path or str
        E.g. ``slide.xml``.

    Raises
    ------
    ExportError
        If it cannot be written, or a name cannot stand there.
    """
    # ExportError is write_annotations's.
    write_annotations(annotations, path, "asap")


def write_imagescope(annotations: Annotations, path: Path | str) -> None:
    """Write XML as Aperio ImageScope reads it.

    Parameters
    ----------
    annotations : Annotations
        What was drawn.
    path : Path or str
        E.g. ``slide.xml``.

    Raises
    ------
    ExportError
        If it cannot be written, or a name cannot stand there.
    """
    # ExportError is write_annotations's.
    write_annotations(annotations, path, "imagescope")


def annotation_for(slide: Path | str, folder: Path | str) -> Path | None:
    """Find the annotations of a slide: the file of the same stem.

    Parameters
    ----------
    slide : Path or str
        Of the slide; of ``a.ome.tif`` the stem is ``a``.
    folder : Path or str
        Where annotations lie.

    Returns
    -------
    Path or None
        ``.xml``, ``.geojson``, ``.geojson.gz`` or ``.json``; None where there is none.

    Raises
    ------
    ManifestError
        If there is more than one, or no such folder.
    """
    slide, folder = Path(slide), Path(folder)
    stem = slide_id_of(slide)
    names = {stem + suffix for suffix in _PREFERRED}
    try:
        found = sorted(
            file
            for file in folder.iterdir()
            if file.name.startswith(stem) and stem + file.name[len(stem) :].lower() in names and file.is_file()
        )
    except OSError as error:
        raise ManifestError(
            f"{folder}: cannot be read ({error.strerror or error}); name the folder of annotations"
        ) from error
    if len(found) > 1:
        listed = " and ".join(str(file) for file in found)
        raise ManifestError(f"{slide}: has more than one file of annotations, {listed}; leave one of them there")
    return found[0] if found else None


def _format(name: str) -> AnnotationFormat:
    return cast("AnnotationFormat", importlib.import_module(ANNOTATION_FORMATS[name]))


def _content(path: Path) -> bytes:
    try:
        with path.open("rb") as packed:
            if path.name.lower().endswith(".gz"):
                with gzip.open(packed) as unpacked:
                    content = unpacked.read(LARGEST + 1)
            else:
                content = packed.read(LARGEST + 1)
    except (OSError, EOFError, zlib.error) as error:
        why = (error.strerror if isinstance(error, OSError) else None) or error
        raise ManifestError(f"{path}: cannot be read ({why}); {_WHAT_IS_READ}") from error
    if len(content) > LARGEST:
        raise ManifestError(f"{path}: is larger than {LARGEST // 10**6} MB; split it, or draw with fewer points")
    return content
