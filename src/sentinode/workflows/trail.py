"""The audit trail: who had what recognised when, by which model, with which verdict; and whether it was changed since.

``trail.jsonl`` has a line of JSON an event. Each line holds the SHA-256 of the line before, so that a line that was
changed, removed or inserted breaks the chain there. The end is held by a file beside it, ``trail.jsonl.head``: how many
lines there are, and the SHA-256 of the last one. Who may write both files can write another history: keep the head
elsewhere, too (``trail verify --head``), on paper if need be.
"""

import contextlib
import getpass
import hashlib
import importlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

from sentinode._version import __version__
from sentinode.errors import ExportError, ManifestError, ModelError
from sentinode.models.identities import NO_SALT, find_salt
from sentinode.storage import write_whole

__all__ = [
    "TRAIL",
    "TrailFault",
    "TrailReport",
    "require_unchanged",
    "trail_file",
    "verify_trail",
    "who_is_it",
    "write_trail",
]

TRAIL = "trail.jsonl"
FORMAT = "sentinode-trail-1"
FILE_VARIABLE, USER_VARIABLE = "SENTINODE_TRAIL", "SENTINODE_USER"
_START = "0" * 64  # before the first line


@dataclass(frozen=True)
class TrailFault:
    """Something about a trail that is not as it was written: in which line (from 1; 0: the end), and what."""

    line: int
    message: str


@dataclass(frozen=True)
class TrailReport:
    """What became of a trail.

    Parameters
    ----------
    n_lines : int
        That it has.
    head : str
        SHA-256 of the last line: to be kept elsewhere.
    faults : tuple of TrailFault
        Empty where every line is as it was written.
    note : str
        What is no fault and should be known; may be empty.
    """

    n_lines: int
    head: str
    faults: tuple[TrailFault, ...]
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        """Write it as JSON would.

        Returns
        -------
        dict
            Lines, head, faults.
        """
        faults = [{"line": one.line, "message": one.message} for one in self.faults]
        return {"lines": self.n_lines, "head": self.head, "faults": faults, "note": self.note}


def trail_file(given: Path | str | None, folder: Path | None) -> Path | None:
    """Tell where the trail of a command is.

    Parameters
    ----------
    given : Path or str, optional
        As the user said; goes before everything.
    folder : Path, optional
        Where the command writes; the variable ``SENTINODE_TRAIL`` goes before it.

    Returns
    -------
    Path or None
        None where there is nowhere to write it.
    """
    named = given or os.environ.get(FILE_VARIABLE)
    if named:
        return Path(named)
    return None if folder is None else folder / TRAIL


def who_is_it() -> str:
    """Say who uses the program, for the trail.

    Returns
    -------
    str
        What the variable ``SENTINODE_USER`` says; else 16 digits of a digest of the name of the account. Under the salt
        of the laboratory, where there is one that can be read, nobody is named; without, by a plain digest, nobody to
        those who do not know the names. With another salt a user gets another one.
    """
    named = os.environ.get(USER_VARIABLE)
    if named:
        return named
    try:
        account = getpass.getuser()
    except (KeyError, OSError):  # an account without a name, as in some containers
        account = ""
    try:
        salt = find_salt() or NO_SALT
    except ModelError:  # a trail must not stop a run for want of a salt
        salt = NO_SALT
    return salt.of_user(account)[:16]


def write_trail(file: Path, action: str, events: Sequence[Mapping[str, Any]]) -> None:
    """Add a line for each event.

    Parameters
    ----------
    file : Path
        The trail; made where it is absent.
    action : str
        The command.
    events : sequence of mapping
        ``model``, ``slide``, ``options``, ``verdict`` ... of each, as JSON.

    Raises
    ------
    ExportError
        If it cannot be written, or is not as it was left: nothing is added to a trail that was changed.
    """
    if not events:
        return
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with _alone(file):
            n, last = _end(file)
            lines = []
            for number, event in enumerate(events, start=n + 1):
                known = {
                    "n": number,
                    "before": last,
                    "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
                    "who": who_is_it(),
                    "action": action,
                    "sentinode": __version__,
                    **event,
                }
                lines.append(json.dumps(known, ensure_ascii=False, sort_keys=True))
                last = _digest(lines[-1])
            with file.open("a", encoding="utf-8", newline="") as trail:
                trail.write("".join(f"{line}\n" for line in lines))
                trail.flush()
                os.fsync(trail.fileno())
            write_whole(_head(file), json.dumps({"format": FORMAT, "lines": n + len(lines), "sha256": last}) + "\n")
    except OSError as error:
        raise ExportError(
            f"{file}: the trail cannot be written ({error.strerror or error}); make room, or choose another --trail"
        ) from error


def require_unchanged(file: Path) -> None:
    """Refuse a trail that was changed, before hours of work and not after.

    Parameters
    ----------
    file : Path
        The trail; one that is not there yet is fine.

    Raises
    ------
    ExportError
        If it is not as it was left.
    """
    # ExportError is _end's.
    if file.exists() or _head(file).exists():
        _end(file)


def verify_trail(file: Path | str, head: str | None = None) -> TrailReport:
    """Look for lines that were changed, removed or inserted.

    Parameters
    ----------
    file : Path or str
        The trail.
    head : str, optional
        SHA-256 of a line that was the last one once, as it was kept elsewhere.

    Returns
    -------
    TrailReport
        With every break of the chain.

    Raises
    ------
    ManifestError
        If the file cannot be read.
    """
    file = Path(file)
    try:
        text = file.read_bytes().decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ManifestError(f"{file}: cannot be read ({error}); give the trail.jsonl of a run") from error
    lines = text.split("\n")
    whole, rest = lines[:-1], lines[-1]
    faults: list[TrailFault] = []
    digests: list[str] = []
    last = _START
    for number, line in enumerate(whole, start=1):
        faults += _faults_of(number, line, last)
        last = _digest(line)
        digests.append(last)
    if rest:
        faults.append(TrailFault(len(whole) + 1, "is not a whole line: it was cut, or written by something else"))
    note, at_end = _against_head(file, digests)
    faults += at_end
    if head is not None and head not in digests:
        faults.append(TrailFault(0, f"no line has the SHA-256 that was kept, {head}: lines were changed or removed"))
    return TrailReport(len(whole), last, tuple(faults), note)


def _faults_of(number: int, line: str, before: str) -> Iterator[TrailFault]:
    try:
        known = json.loads(line)
        n, stated = known["n"], known["before"]
    except (ValueError, KeyError, TypeError):
        yield TrailFault(number, "is no line of a trail")
        return
    if stated != before:
        what = (
            "the line before it was changed or removed, or one was inserted"
            if number > 1
            else "lines before it were removed"
        )
        yield TrailFault(number, what)
    if n != number:
        yield TrailFault(number, f"calls itself number {n}")


def _against_head(file: Path, digests: Sequence[str]) -> tuple[str, list[TrailFault]]:
    n = len(digests)
    try:
        known = json.loads(_head(file).read_text(encoding="utf-8"))
        stated, sha = int(known["lines"]), str(known["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        return "", [
            TrailFault(0, f"{_head(file).name} is not there or cannot be read: nobody can say where the trail ends")
        ]
    if stated > n:
        return "", [TrailFault(0, f"has {n} lines, and {stated} were written: the end was removed")]
    if stated and digests[stated - 1] != sha:
        return "", [TrailFault(stated, "is not the line that was written: it was changed")]
    if stated < n:
        # The lines are written before the head: an end that came between the two leaves more of them.
        return f"{n - stated} lines are newer than the head: a run was interrupted, or they were added", []
    return "", []


def _end(file: Path) -> tuple[int, str]:
    # Number of lines and digest of the last one; a trail that is not as it was left takes no line.
    if file.exists() and file.stat().st_size == 0 and not _head(file).exists():
        return 0, _START
    try:
        report = verify_trail(file)
    except ManifestError as error:
        raise ExportError(f"{file}: {error}") from error
    if report.faults:
        one = report.faults[0]
        raise ExportError(
            f"{file}: was changed since it was written (line {one.line}: {one.message}); move it away, keep it, see "
            f"sentinode trail verify {file}"
        )
    return report.n_lines, report.head


@contextlib.contextmanager
def _alone(file: Path) -> Iterator[None]:
    # One process adds lines at a time; closing the file gives the lock back.
    with file.open("a+b") as handle:
        _lock(handle)
        yield


def _lock(handle: BinaryIO) -> None:
    if os.name != "nt":
        fcntl = importlib.import_module("fcntl")
        fcntl.flock(handle.fileno(), fcntl.LOCK_EX)
        return
    # Windows locks bytes against reading as well: one far beyond the end keeps nobody from the lines.
    handle.seek(1 << 40)
    msvcrt = importlib.import_module("msvcrt")
    msvcrt.locking(handle.fileno(), msvcrt.LK_LOCK, 1)


def _head(file: Path) -> Path:
    return file.with_name(f"{file.name}.head")


def _digest(line: str) -> str:
    return hashlib.sha256(line.encode("utf-8")).hexdigest()
