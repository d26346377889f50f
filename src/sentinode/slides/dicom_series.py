"""Which DICOM files are one slide: the instances of a series, a level or an overview each, that lie in one folder.

OpenSlide opens a series by any of its files and finds the others beside it. Told apart they are by one element of the
header, Series Instance UID (0020,000E). OpenSlide would tell it, too, but looks through the folder each time that it
opens a file: of a folder of n files it would read n times n headers to sort them. So this one element is read here.
"""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["files_of_series", "one_of_each_series", "series_of"]

HEADER_BYTES = 2**18
"""Of a file, in which the series is looked for: its element stands among the first ones, before any pixels."""

PREAMBLE = 128
META_GROUP = 0x0002
TRANSFER_SYNTAX = 0x0002_0010
SERIES = 0x0020_000E
ITEM, ITEM_END, SEQUENCE_END = 0xFFFE_E000, 0xFFFE_E00D, 0xFFFE_E0DD
UNDEFINED = 0xFFFF_FFFF

IMPLICIT = "1.2.840.10008.1.2"
UNREAD = frozenset({"1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.2"})
"""Transfer syntaxes that OpenSlide does not read, either: deflated, and big-endian (retired)."""

LONG_LENGTH = frozenset({b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"})
"""Value representations whose length takes four bytes after two that are reserved (PS3.5, table 7.1-1)."""


@dataclass(frozen=True)
class _Element:
    # One element of a data set: its tag, its value, and where the next one begins.
    tag: int
    value: bytes
    end: int


def series_of(path: Path) -> str:
    """Read which series a DICOM file belongs to.

    Parameters
    ----------
    path : Path
        Of any file.

    Returns
    -------
    str
        Series Instance UID; ``""`` where the file is no DICOM, is damaged or cannot be read: what is wrong with it
        is said when it is opened.

    References
    ----------
    DICOM PS3.5 (https://dicom.nema.org/medical/dicom/current/output/html/part05.html), sections 7.1 and 7.5;
    PS3.10, section 7.1.
    """
    try:
        with path.open("rb") as file:
            content = file.read(PREAMBLE + 4)
            if content[PREAMBLE:] != b"DICM":
                return ""
            content += file.read(HEADER_BYTES)
    except OSError:
        return ""
    implicit = False
    for element in _elements(content, PREAMBLE + 4):
        if element.tag >> 16 != META_GROUP:
            break
        if element.tag == TRANSFER_SYNTAX:
            syntax = _text(element.value)
            if syntax in UNREAD:
                return ""
            implicit = syntax == IMPLICIT
    found = (one for one in _elements(content, _after_meta(content), implicit=implicit) if one.tag >= SERIES)
    first = next(found, None)  # elements ascend
    return _text(first.value) if first is not None and first.tag == SERIES else ""


def files_of_series(path: Path) -> tuple[Path, ...]:
    """List the files that OpenSlide reads when it is given one of a series.

    Parameters
    ----------
    path : Path
        One of them.

    Returns
    -------
    tuple of Path
        Those of its series in its folder, the largest first; the file alone, where it says no series.
    """
    series = series_of(path)
    if not series:
        return (path,)
    beside = (file for file in path.parent.iterdir() if file.suffix.lower() == path.suffix.lower())
    files = [file for file in beside if file == path or series_of(file) == series]
    return tuple(sorted(files, key=_size_and_name))


def one_of_each_series(files: Iterable[Path]) -> tuple[Path, ...]:
    """Leave one file of each DICOM series, and every file that is no DICOM.

    Parameters
    ----------
    files : iterable of Path
        Of any format. Only names that end in ``.dcm`` are taken for DICOM.

    Returns
    -------
    tuple of Path
        In the order given. Of a series in one folder it is the largest file, the level of full resolution, and of equal
        ones the first by name: which one does not depend on the order.
    """
    files = tuple(files)
    series = {file: (file.parent.resolve(), series_of(file)) for file in files if file.suffix.lower() == ".dcm"}
    largest: dict[tuple[Path, str], Path] = {}
    for file in sorted(series, key=_size_and_name):
        largest.setdefault(series[file], file)
    return tuple(file for file in files if file not in series or not series[file][1] or largest[series[file]] == file)


def _size_and_name(file: Path) -> tuple[int, str]:
    try:
        return -os.path.getsize(file), file.name  # noqa: PTH202 - as the OSError below
    except OSError:
        return 0, file.name


def _after_meta(content: bytes) -> int:
    at = PREAMBLE + 4
    for element in _elements(content, at):
        if element.tag >> 16 != META_GROUP:
            break
        at = element.end
    return at


def _elements(content: bytes, at: int, *, implicit: bool = False) -> Iterator[_Element]:
    # Those of a data set, little-endian, one after the other; they end where the content does, or makes no sense.
    while at + 8 <= len(content):
        tag, length, begin = _head(content, at, implicit=implicit)
        end = _sequence_end(content, begin, implicit=implicit) if length == UNDEFINED else begin + length
        if end > len(content):
            return
        yield _Element(tag, content[begin:end], end)
        at = end


def _head(content: bytes, at: int, *, implicit: bool) -> tuple[int, int, int]:
    # Tag, length of the value, and where the value begins.
    tag = int.from_bytes(content[at : at + 2], "little") << 16 | int.from_bytes(content[at + 2 : at + 4], "little")
    kind = content[at + 4 : at + 6]
    if implicit or tag >> 16 == ITEM >> 16:  # items have no value representation
        return tag, int.from_bytes(content[at + 4 : at + 8], "little"), at + 8
    if kind in LONG_LENGTH:
        return tag, int.from_bytes(content[at + 8 : at + 12], "little"), at + 12
    return tag, int.from_bytes(content[at + 6 : at + 8], "little"), at + 8


def _sequence_end(content: bytes, at: int, *, implicit: bool) -> int:
    # Past the delimiter of a value of undefined length; beyond the content where there is none. Sequences lie in items
    # and items in sequences: what is open is counted, so that no nesting, however deep, is more than a number.
    depth = 1
    while at + 8 <= len(content):
        tag, length, begin = _head(content, at, implicit=implicit)
        if tag in {SEQUENCE_END, ITEM_END}:
            depth -= 1
            at = begin
            if depth == 0:
                return at
        elif length == UNDEFINED:
            depth += 1
            at = begin
        else:
            at = begin + length
    return len(content) + 1


def _text(value: bytes) -> str:
    return value.rstrip(b"\0 ").decode("ascii", "replace")
