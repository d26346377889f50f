"""Ids that are compared and cannot be read: digests keyed with a secret of the laboratory, its *salt*.

Ids of patients are short and follow a pattern: who may compute a digest can try them all. So the digests that a model
carries of its training patients are HMAC-SHA-256 (RFC 2104) under a salt that never leaves the laboratory. Whoever has
the salt can ask whether a patient was there; with another salt, slides and images are told by their content alone.
"""

import contextlib
import hashlib
import hmac
import os
import secrets
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sentinode.errors import ExportError, ModelError

__all__ = [
    "NO_SALT",
    "SALT_VARIABLE",
    "Salt",
    "Seen",
    "SeenIds",
    "content_digest",
    "find_salt",
    "image_digest",
    "laboratory_salt",
    "salt_file",
]

SALT_VARIABLE = "SENTINODE_SALT"
CONFIG_VARIABLE = "SENTINODE_CONFIG"
LEAST = 16
"""Characters of a salt, at least: shorter ones can be tried, too."""


@dataclass(frozen=True, repr=False)
class Salt:
    """A secret under which ids are digested.

    Parameters
    ----------
    secret : str
        Of the laboratory. It is in no message and in no result.
    """

    secret: str

    @property
    def mark(self) -> str:
        """Digest (hex) by which a salt is recognised, and not read."""
        return self._digest("mark", "") if self.secret else ""

    def of_patient(self, patient: str) -> str:
        """Digest the id of a patient (or slide, where that is all one knows).

        Parameters
        ----------
        patient : str
            As the manifest has it.

        Returns
        -------
        str
            HMAC-SHA-256 (hex).
        """
        return self._digest("patient", patient)

    def of_slide(self, slide: str) -> str:
        """Digest the id of a slide.

        Parameters
        ----------
        slide : str
            As the manifest, or the file, has it.

        Returns
        -------
        str
            HMAC-SHA-256 (hex).
        """
        return self._digest("slide", slide)

    def of_user(self, user: str) -> str:
        """Digest the name of an account.

        Parameters
        ----------
        user : str
            As the machine has it.

        Returns
        -------
        str
            HMAC-SHA-256 (hex).
        """
        return self._digest("user", user)

    def _digest(self, what: str, name: str) -> str:
        text = f"sentinode {what}\0{name}".encode()
        if not self.secret:
            return hashlib.sha256(text).hexdigest()
        return hmac.new(self.secret.encode(), text, hashlib.sha256).hexdigest()


NO_SALT = Salt("")
"""Of models that an older Sentinode trained: a plain SHA-256."""


@dataclass(frozen=True)
class SeenIds:
    """Ids under the salt of one laboratory.

    Parameters
    ----------
    patients, slides : frozenset of str
        Of `Salt.of_patient` and `Salt.of_slide`: whoever has no salt cannot read an id out of them, nor try ids.
    """

    patients: frozenset[str] = frozenset()
    slides: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Seen:
    """Digests of what a model was trained on, so that nobody tests it on the same by mistake.

    Parameters
    ----------
    ids : mapping of str to SeenIds
        `Salt.mark` -> ids under that salt; a model may have been trained in one laboratory, and its score of slides
        fitted in another.
    contents : frozenset of str
        Of `content_digest`: slides, whatever they are called and wherever they are.
    images : frozenset of str
        Of `image_digest`.
    salts : tuple of Salt
        Those that are known here.
    """

    ids: Mapping[str, SeenIds]
    contents: frozenset[str]
    images: frozenset[str]
    salts: tuple[Salt, ...] = (NO_SALT,)

    @classmethod
    def under(
        cls, salt: Salt, patients: Iterable[str], slides: Iterable[str], contents: Iterable[str], images: Iterable[str]
    ) -> "Seen":
        """Digest what was seen.

        Parameters
        ----------
        salt : Salt
            Of the laboratory.
        patients, slides : iterable of str
            Ids; "" is none.
        contents : iterable of str
            Fingerprints of slides.
        images : iterable of str
            Of `image_digest`.

        Returns
        -------
        Seen
            To be written.
        """
        ids = SeenIds(
            frozenset(salt.of_patient(name) for name in patients if name),
            frozenset(salt.of_slide(name) for name in slides if name),
        )
        return cls({salt.mark: ids}, frozenset(content_digest(one) for one in contents), frozenset(images), (salt,))

    @property
    def knows_ids(self) -> bool:
        """Whether every id can be asked for: its salt is known here."""
        return self.ids.keys() <= {salt.mark for salt in self.salts}

    def has_patient(self, patient: str) -> bool:
        """Say whether a patient was there.

        Parameters
        ----------
        patient : str
            Id.

        Returns
        -------
        bool
            False, too, where the salt is not known.
        """
        return any(salt.of_patient(patient) in ids.patients for salt, ids in self._known())

    def has_slide(self, slide: str) -> bool:
        """Say whether a slide of that name was there.

        Parameters
        ----------
        slide : str
            Id.

        Returns
        -------
        bool
            False, too, where the salt is not known.
        """
        return any(salt.of_slide(slide) in ids.slides for salt, ids in self._known())

    def has_content(self, fingerprint: str) -> bool:
        """Say whether a slide was there, whatever it was called.

        Parameters
        ----------
        fingerprint : str
            Of the file.

        Returns
        -------
        bool
            In any laboratory.
        """
        return content_digest(fingerprint) in self.contents

    def and_also(self, other: "Seen") -> "Seen":
        """Add what another step has seen.

        Parameters
        ----------
        other : Seen
            Under the same salt or another one.

        Returns
        -------
        Seen
            Of both.
        """
        ids = dict(self.ids)
        for mark, more in other.ids.items():
            old = ids.get(mark, SeenIds())
            ids[mark] = SeenIds(old.patients | more.patients, old.slides | more.slides)
        salts = tuple(dict.fromkeys((*self.salts, *other.salts)))
        return Seen(ids, self.contents | other.contents, self.images | other.images, salts)

    def to_json(self) -> dict[str, Any]:
        """Hand it over as plain values.

        Returns
        -------
        dict
            Lists in order, and no salt.
        """
        ids = [
            {"salt": mark, "patients": sorted(one.patients), "slides": sorted(one.slides)}
            for mark, one in sorted(self.ids.items())
        ]
        return {"ids": ids, "contents": sorted(self.contents), "images": sorted(self.images)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Seen":
        """Read it as `to_json` writes it.

        Parameters
        ----------
        values : mapping
            An older Sentinode's has ids without a salt, and contents among the slides.

        Returns
        -------
        Seen
            With the salt of this laboratory where there is one.

        Raises
        ------
        ModelError
            If that salt cannot be read.
        """
        # ModelError is find_salt's.
        if "ids" not in values:
            old = SeenIds(frozenset(values.get("patients", ())), frozenset(values.get("slides", ())))
            return cls({"": old}, old.slides, frozenset(values.get("images", ())))
        ids = {one["salt"]: SeenIds(frozenset(one["patients"]), frozenset(one["slides"])) for one in values["ids"]}
        here = find_salt()
        salts = (NO_SALT,) if here is None else (NO_SALT, here)
        return cls(ids, frozenset(values["contents"]), frozenset(values["images"]), salts)

    def _known(self) -> Iterator[tuple[Salt, SeenIds]]:
        yield from ((salt, self.ids[salt.mark]) for salt in self.salts if salt.mark in self.ids)


def content_digest(fingerprint: str) -> str:
    """Digest the fingerprint of a slide.

    Parameters
    ----------
    fingerprint : str
        Of the file.

    Returns
    -------
    str
        SHA-256 (hex): the same in every laboratory, so that they can tell each other's slides. Fingerprints cannot be
        guessed as ids can.
    """
    # Slides, and not contents: as older models have it.
    return NO_SALT.of_slide(fingerprint)


def image_digest(pixels: NDArray[np.uint8]) -> str:
    """Digest what an image shows, whatever its file is called.

    Parameters
    ----------
    pixels : (h, w, 3) uint8
        Decoded.

    Returns
    -------
    str
        SHA-256 (hex).
    """
    return hashlib.sha256(f"{pixels.shape}".encode() + np.ascontiguousarray(pixels).tobytes()).hexdigest()


def salt_file() -> Path:
    """Tell where the salt of this machine lies.

    Returns
    -------
    Path
        ``salt`` in the folder that ``SENTINODE_CONFIG`` names, else in ``sentinode`` under ``XDG_CONFIG_HOME``, else
        under ``~/.config``. It need not be there.

    Raises
    ------
    ModelError
        If the account has no home, and neither variable is set.
    """
    named = os.environ.get(CONFIG_VARIABLE)
    if named:
        return Path(named) / "salt"
    base = os.environ.get("XDG_CONFIG_HOME")
    try:
        return (Path(base) if base else Path.home() / ".config") / "sentinode" / "salt"
    except RuntimeError as error:
        told = (
            f"this account has no home to keep the salt of the laboratory in; set {SALT_VARIABLE} or {CONFIG_VARIABLE}"
        )
        raise ModelError(told) from error


def find_salt() -> Salt | None:
    """Read the salt of the laboratory.

    Returns
    -------
    Salt or None
        What the variable ``SENTINODE_SALT`` says, else the file; None where there is neither.

    Raises
    ------
    ModelError
        If it is too short, or cannot be read.
    """
    named = os.environ.get(SALT_VARIABLE)
    if named:
        return _checked(named.strip(), SALT_VARIABLE)
    try:
        path = salt_file()
    except ModelError:
        return None  # an account without a home, as in some containers, has none
    try:
        return _checked(path.read_text(encoding="utf-8").strip(), str(path))
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        why = (error.strerror if isinstance(error, OSError) else None) or error
        told = f"{path}: the salt of the laboratory cannot be read ({why}); mend it, or set {SALT_VARIABLE}"
        raise ModelError(told) from error


def laboratory_salt() -> Salt:
    """Read the salt of the laboratory, or make one where there is none.

    Returns
    -------
    Salt
        A new one has 256 random bits, in a file that only its owner may read.

    Raises
    ------
    ModelError
        If it is too short, or cannot be read.
    ExportError
        If it cannot be written.
    """
    # ModelError is find_salt's.
    found = find_salt()
    if found is not None:
        return found
    path, secret = salt_file(), secrets.token_hex(32)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with os.fdopen(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w", encoding="utf-8") as file:
            file.write(f"{secret}\n")
            file.flush()
            os.fsync(file.fileno())
        # Whole from its first moment. Of two that make one at the same time one is first, and the other takes that.
        with contextlib.suppress(FileExistsError):
            os.link(part, path)
        found = find_salt()
    except OSError as error:
        raise ExportError(
            f"{path}: the salt of the laboratory cannot be kept ({error.strerror or error}); set {SALT_VARIABLE} to a "
            f"secret text, or {CONFIG_VARIABLE} to a folder"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink()
    if found is None:
        raise ModelError(f"{path}: is a link that leads nowhere; remove it, or set {SALT_VARIABLE}")
    return found


def _checked(secret: str, where: str) -> Salt:
    if len(secret) < LEAST:
        raise ModelError(f"{where}: a salt has {LEAST} characters or more, e.g. what `openssl rand -hex 32` prints")
    return Salt(secret)
