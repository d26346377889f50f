"""What is not recognised, or not to be relied on: nonsense, other stains, what is unlike the training images.

Two layers. *Rules* say what cannot be a section in haematoxylin and eosin, whatever a model was trained on
(`sentinode.slides.bright_field`); what breaks one is left out, and nothing brings it back. *Typicality* holds a tile
against the training images (`sentinode.evaluation.typicality`): in all that it looks like, and in its structure
without its colours. A slide of the same stain from another scanner is atypical in its colours and gets a warning; one
whose structure is unlike, too, is refused, unless somebody takes it at their own risk.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from sentinode.evaluation.typicality import ATYPICAL, Neighbourhood, fit_neighbourhood
from sentinode.inference.engine import Inspect, Inspected
from sentinode.inference.first_look import FirstLook
from sentinode.models.bundle import Bundle, KnownTiles
from sentinode.slides.appearance import appearance, appearance_and_spread, n_structure
from sentinode.slides.bright_field import FINDINGS, RULES, SMALLEST_PX, bright_field_findings
from sentinode.slides.quality import REASONS, tile_quality

__all__ = ["JUDGING", "Gate", "SlideLook", "fit_known_tiles", "gate_of", "patch_refusals"]

Level: TypeAlias = Literal["unknown", "typical", "unusual", "atypical", "nonsense"]

MOST = 0.5
"""Share of the tiles of a slide: of one that has more nonsense, or more tiles of another structure, the rest no longer
stands for a section as the model knows them. The same share as for blur and ink (`sentinode.slides.quality`)."""

JUDGING = 3
"""Raised when what is found to be wrong with tiles, or how they are measured, may be another than before: what was
recognised or promised under another number is not taken for what would be now."""

MOST_OF_TRAINING: Mapping[str, float] = MappingProxyType({"blank": 0.25, "noise": 0.05, "dark": 0.05, "stain": 0.05})
"""Rule -> share of the training images up to which it holds for a model: one that was trained on another stain knows
it. Glass is in every set of tiles, and is nothing to recognise in any."""


class SlideLook(NamedTuple):
    """What a slide looks like to a model.

    Parameters
    ----------
    level : {"unknown", "typical", "unusual", "atypical", "nonsense"}
        Unknown where the model cannot say; unusual is warned of; atypical is refused unless allowed; nonsense always.
    refusal : str
        Why the slide is refused, or "".
    warning : str
        What a reader must know, or "".
    facts : dict
        For ``result.json``: numbers behind it.
    """

    level: Level
    refusal: str
    warning: str
    facts: dict[str, Any]


@dataclass(frozen=True)
class Gate:
    """Looks at tiles before a model does.

    Parameters
    ----------
    rules : tuple of str
        Of `RULES`, those that hold for the model.
    everything, structure : Neighbourhood or None
        Of the training images; None where the model does not know them.
    """

    rules: tuple[str, ...]
    everything: Neighbourhood | None
    structure: Neighbourhood | None

    def inspect(self, mpp: float | None, first_look: FirstLook | None = None, *, numbers: bool = False) -> Inspect:
        """Make what looks at tiles before the model: `judge` and `measure` in one, which have half of the work alike.

        Parameters
        ----------
        mpp : float or None
            As for `judge`.
        first_look : FirstLook, optional
            Says which tiles the model need not see.
        numbers : bool
            Whether what the tiles look like is handed back as well, after the two distances.

        Returns
        -------
        callable
            (n, h, w, 3) uint8 -> what is to be recognised, and how far that is from the training images.
        """

        def inspect(tiles: NDArray[np.uint8]) -> Inspected:
            looks = None if self.everything is None else appearance_and_spread(tiles)
            flag = self._flag(tiles, mpp, None if looks is None else looks.spread)
            measured, clean = np.full((len(tiles), 2), np.nan, dtype=np.float32), flag == ""
            if looks is not None and clean.any():
                measured[clean] = self._distance(looks.numbers[clean], min(tiles.shape[1:3]))
            if looks is not None and numbers:
                measured = np.concatenate([measured, looks.numbers], axis=1)
            return Inspected(
                flag, measured, None if first_look is None or looks is None else first_look.spares(looks.numbers)
            )

        return inspect

    def judge(self, mpp: float | None) -> Callable[[NDArray[np.uint8]], NDArray[np.str_]]:
        """Make the judge of tiles.

        Parameters
        ----------
        mpp : float or None
            Micrometres a pixel, to leave out what is blurred, inked or folded, too; None does not.

        Returns
        -------
        callable
            (n, h, w, 3) uint8 -> (n,) str: the first reason of each, ``""`` for what is to be recognised.
        """
        return lambda tiles: self._flag(tiles, mpp)

    def _flag(
        self, tiles: NDArray[np.uint8], mpp: float | None, of_pixels: NDArray[np.float32] | None = None
    ) -> NDArray[np.str_]:
        found = bright_field_findings(tiles, self.rules, of_pixels)
        if mpp is None:
            return found
        bad = tile_quality(tiles, mpp).reason
        return np.where(bad == "", found, bad)

    def measure(self, tiles: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Measure how far tiles are from the training images.

        Parameters
        ----------
        tiles : (n, h, w, 3) uint8
            As large as those.

        Returns
        -------
        (n, 2) float32
            Distance in everything, and in structure alone; NaN where the model does not know.
        """
        if self.everything is None:
            return np.full((len(tiles), 2), np.nan, dtype=np.float32)
        return self._distance(appearance(tiles), min(tiles.shape[1:3]))

    def _distance(self, looks: NDArray[np.float32], side: int) -> NDArray[np.float32]:
        if self.everything is None or self.structure is None:
            return np.full((len(looks), 2), np.nan, dtype=np.float32)
        alone = looks[:, : n_structure(side)]
        return np.stack([self.everything.distance(looks), self.structure.distance(alone)], axis=1)

    def p_values(self, distance: NDArray[np.float32]) -> NDArray[np.float32]:
        """Say how unusual tiles are.

        Parameters
        ----------
        distance : (n, 2) float32
            Of `measure`.

        Returns
        -------
        (n, 2) float32
            In everything, and in structure alone; NaN where the distance is.
        """
        found = np.full(distance.shape, np.nan, dtype=np.float32)
        for column, known in enumerate((self.everything, self.structure)):
            there = np.isfinite(distance[:, column])
            if known is not None and there.any():
                found[there, column] = known.p_value(distance[there, column])
        return found

    def look(self, flag: NDArray[np.str_], distance: NDArray[np.float32], *, allow: bool, what: str) -> SlideLook:
        """Decide about a slide, or a folder of patches.

        Parameters
        ----------
        flag : (n,) str
            What the judge said of each tile.
        distance : (n, 2) float32
            Of `measure`, NaN for what was not measured.
        allow : bool
            Whether what is atypical is taken at one's own risk. Nonsense never is.
        what : str
            What the tiles are called: "tissue tiles", "patches".

        Returns
        -------
        SlideLook
            What to do with it.
        """
        odd = Counter(one for one in flag.tolist() if one in FINDINGS)
        n_fit = int(sum(one not in REASONS for one in flag.tolist()))
        facts: dict[str, Any] = {"level_of_tiles": ATYPICAL, "nonsense": dict(odd.most_common())}
        if n_fit and odd.total() > MOST * n_fit:
            (worst, n), share = odd.most_common(1)[0], odd.total() / n_fit
            why = f"{100 * share:.0f} % of its {what} cannot be haematoxylin and eosin; {_percent(n, n_fit)} are "
            return SlideLook("nonsense", f"{why}{FINDINGS[worst]}", "", {**facts, "verdict": "nonsense"})
        # Where all tiles lie in air, none was read, and there is no column.
        there = np.isfinite(distance).all(axis=1) & (distance.shape[1] > 0)
        if self.everything is None or not there.any():
            return SlideLook("unknown", "", "", {**facts, "verdict": "unknown"})
        unlike, otherwise = (self.p_values(distance[there]) <= ATYPICAL).mean(axis=0).tolist()
        m, p = self.everything.n_patients, self.everything.slide_p_value(distance[there, 0])
        least = 1 / (m + 1)
        facts |= {
            "p_value": round(p, 6),
            "patients": m,
            "tiles": int(there.sum()),
            "atypical": round(unlike, 4),
            "atypical_structure": round(otherwise, 4),
        }
        usual = f"about {100 * ATYPICAL:.0f} % would be usual"
        told = (
            f"{100 * unlike:.0f} % of its {what} are unlike the training images, {100 * otherwise:.0f} % in structure"
        )
        if otherwise > MOST:
            facts["verdict"] = "atypical"
            if not allow:
                why = f"{100 * otherwise:.0f} % of its {what} are unlike the training images in structure ({usual}): "
                why += "another resolution, blur, or other tissue; --allow-atypical goes on at your own risk"
                return SlideLook("atypical", why, "", facts)
            warning = f"Unlike what the model was trained on, and recognised all the same: {told} ({usual}). "
            return SlideLook("atypical", "", warning + "Nobody measured what the verdict is worth here.", facts)
        if p <= least * 1.001:
            facts["verdict"] = "unusual"
            warning = (
                f"Unlike what the model was trained on: taken as a whole, further away than each of its {m} training "
                f"patients is from the others ({told}; {usual}). "
                "Another stain, scanner or organ: do not rely on the verdict."
            )
            return SlideLook("unusual", "", warning, facts)
        return SlideLook("typical", "", "", {**facts, "verdict": "typical"})


def gate_of(bundle: Bundle) -> Gate:
    """Open the gate of a model.

    Parameters
    ----------
    bundle : Bundle
        The model. One that does not say what it knows (an older one) is taken to be for haematoxylin and eosin.

    Returns
    -------
    Gate
        Its rules, and its training images where it knows them.

    Raises
    ------
    ModelError
        If its file cannot be read.
    """
    # ModelError is the bundle's.
    known = bundle.known_tiles()
    return Gate(RULES, None, None) if known is None else Gate(known.rules, known.everything, known.structure)


def fit_known_tiles(batches: Iterable[NDArray[np.uint8]], patient: Sequence[str] | NDArray[np.str_]) -> KnownTiles:
    """Learn what the training images of a model look like, and which rules hold for them.

    Parameters
    ----------
    batches : iterable of (n, h, w, 3) uint8
        Training images, all of one size.
    patient : sequence of str
        Whose each is, over all batches; ``""`` where nobody knows.

    Returns
    -------
    KnownTiles
        For the bundle. Of fewer than three patients, or tiles below 16 px, it has the rules alone.
    """
    found, looks, side = [], [], 0
    for tiles in batches:
        side = min(tiles.shape[1:3])
        # Each rule alone: what two of them say of a tile is not to hide in the first.
        found.append(np.stack([bright_field_findings(tiles, (rule,)) != "" for rule in RULES], axis=1))
        if side >= SMALLEST_PX:
            looks.append(appearance(tiles))
    broken = np.concatenate(found)  # (n, rules)
    holds = broken.mean(axis=0) <= [MOST_OF_TRAINING[rule] for rule in RULES]
    rules = tuple(rule for rule, one in zip(RULES, holds, strict=True) if one)
    if not looks:
        return KnownTiles(rules, None, None)
    # Glass and slide borders among the training images are no example of what is usual.
    keep = ~broken[:, holds].any(axis=1)
    values, owner = np.concatenate(looks)[keep], np.asarray(patient, dtype=np.str_)[keep]
    return KnownTiles(rules, fit_neighbourhood(values, owner), fit_neighbourhood(values[:, : n_structure(side)], owner))


def patch_refusals(flag: NDArray[np.str_], p_values: NDArray[np.float32], *, allow: bool) -> NDArray[np.str_]:
    """Say which patches are refused: each stands for itself, and no slide around it says more.

    Parameters
    ----------
    flag : (n,) str
        What the judge said of each.
    p_values : (n, 2) float32
        In everything, and in structure.
    allow : bool
        Whether those of another structure are taken at one's own risk.

    Returns
    -------
    (n,) str
        Why; ``""`` where it is recognised.
    """
    why = np.array([FINDINGS.get(one, one) for one in flag.tolist()], dtype="U120")
    if not allow:
        why[(why == "") & (p_values[:, 1] <= ATYPICAL)] = "unlike the training images in structure"
    return why


def _percent(n: int, of: int) -> str:
    return f"{100 * n / of:.0f} %"
