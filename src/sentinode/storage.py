"""What is written is whole or not there: under a temporary name first, flushed to the disk, then renamed.

A reader never meets half a file, neither after a full disk nor after kill -9 nor while another process writes.
What such an end leaves behind bears the temporary name, which says whose it was: `abandoned` finds it.
"""

import contextlib
import os
import shutil
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil

__all__ = ["TEMPORARY", "abandoned", "temporary_name", "whole_file", "whole_files", "whole_folder", "write_whole"]

TEMPORARY = ".part-"
"""How temporary names begin; the name to be, the host and the process follow."""


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Write one file under a temporary name; it gets its own when the block ends without an error.

    Parameters
    ----------
    path : Path
        What it will be called; its folder is made where it is absent.

    Yields
    ------
    Path
        Where to write, in the same folder.

    Raises
    ------
    OSError
        If it cannot be written; an earlier file of that name then stays as it was.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     with whole_file(Path(folder) / "table.csv") as part:
    ...         _ = part.write_text("slide,proba")
    ...         early = (Path(folder) / "table.csv").exists()
    ...     (early, (Path(folder) / "table.csv").exists())
    (False, True)
    """
    # OSError is whole_files's.
    with whole_files([path]) as (part,):
        yield part


@contextlib.contextmanager
def whole_files(paths: Sequence[Path]) -> Iterator[tuple[Path, ...]]:
    """Write files that belong together; they get their names when all of them are on the disk.

    Parameters
    ----------
    paths : sequence of Path
        What they will be called, the one that readers look for last.

    Yields
    ------
    tuple of Path
        Where to write each.

    Raises
    ------
    OSError
        If one cannot be written; earlier files of these names then stay as they were.
    """
    # OSError is that of the system.
    parts = tuple(temporary_name(path) for path in paths)
    try:
        for path in paths:
            path.parent.mkdir(parents=True, exist_ok=True)
        yield parts
        for part in parts:
            _flush(part)
        for part, path in zip(parts, paths, strict=True):
            part.replace(path)
        for folder in {path.parent for path in paths}:
            _flush(folder)
    finally:
        for part in parts:
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)


@contextlib.contextmanager
def whole_folder(path: Path, *, replace: bool = False) -> Iterator[Path]:
    """Fill a folder under a temporary name; it gets its own when the block ends without an error.

    That needs no lock. Where a folder of that name has come to be in the meantime, another process was first
    with the same work: its folder stands, and this one is dropped.

    Parameters
    ----------
    path : Path
        What it will be called.
    replace : bool
        Put it in the place of a folder that is there, which goes only when the new one is on the disk. Whether that
        one may go, the caller knows.

    Yields
    ------
    Path
        An empty folder to fill; its files may not lie deeper.

    Raises
    ------
    OSError
        If it cannot be written; nothing stays behind.
    """
    # OSError is that of the system.
    part = temporary_name(path)
    old = temporary_name(path.with_name(f"{path.name}.old"))
    try:
        # What bears our name is left over from a process that had it before us.
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        yield part
        for file in part.iterdir():
            _flush(file)
        _flush(part)
        if replace and path.is_dir():
            path.rename(old)
        try:
            part.rename(path)
        except OSError:
            if not path.is_dir():
                raise
        _flush(path.parent)
    finally:
        shutil.rmtree(part, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def write_whole(path: Path, text: str) -> None:
    """Write a text file in UTF-8, as it is, whole.

    Parameters
    ----------
    path : Path
        What it will be called; its folder is made where it is absent.
    text : str
        Its content.

    Raises
    ------
    OSError
        If it cannot be written; an earlier file of that name then stays as it was.
    """
    # OSError is whole_file's.
    with whole_file(path) as part:
        part.write_text(text, encoding="utf-8", newline="")


def abandoned(folder: Path) -> tuple[Path, ...]:
    """List what interrupted processes of this machine have left in a folder.

    Parameters
    ----------
    folder : Path
        May be absent; its folders are searched, too.

    Returns
    -------
    tuple of Path
        Temporary files and folders whose process is gone; another machine's are left to it.
    """
    return tuple(sorted(path for path in folder.rglob(f"{TEMPORARY}*") if not _is_in_use(path)))


def temporary_name(path: Path) -> Path:
    """Name the file or folder that this process writes before it may be called what it will be called.

    Parameters
    ----------
    path : Path
        What it will be called.

    Returns
    -------
    Path
        Beside it.
    """
    return path.with_name(f"{TEMPORARY}{path.name}-{socket.gethostname()}-{os.getpid()}")


def _is_in_use(path: Path) -> bool:
    host, _, process = path.name.removeprefix(TEMPORARY).rpartition("-")
    if not host.endswith(f"-{socket.gethostname()}"):
        return True  # another machine writes here, too; only it knows
    return process.isdigit() and psutil.pid_exists(int(process))


def _flush(path: Path) -> None:
    # A rename may reach the disk before the content does, unless the content is flushed first.
    if path.is_dir() and os.name == "nt":
        return  # Windows has no handle on a folder
    handle = os.open(path, os.O_RDONLY if os.name != "nt" else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
