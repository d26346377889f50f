"""Clear, review, suspicious: what need not be read first, and what is promised of the tumours among it.

What scores below a threshold is *clear*, from 0.5 on *suspicious*, and *review* between. The threshold comes from
patients that nothing else has touched, by one of the two promises of `sentinode.evaluation.conformal`. It is about
patients: a patient is missed when *any* of its tumour slides (or patches) is called clear. What is promised of patches
is not promised of slides, and is never said in their words.
"""

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import special

from sentinode.evaluation.bootstrap import expanded_tail
from sentinode.evaluation.calibration import Spread
from sentinode.evaluation.conformal import (
    NOTHING,
    Kind,
    lowest_by_patient,
    misses_allowed,
    patients_needed,
    smallest_alpha,
    threshold,
)
from sentinode.evaluation.typicality import evenly
from sentinode.seeds import stream

__all__ = [
    "ALPHAS",
    "KINDS",
    "SUSPICIOUS",
    "OperatingPoint",
    "Promise",
    "Triage",
    "TriageCases",
    "Unit",
    "WorkloadCurve",
    "certify",
    "clopper_pearson",
    "operating_point",
    "promises_by_site",
    "triage_of",
    "workload_curve",
]

Unit: TypeAlias = Literal["slides", "patches"]
Triage: TypeAlias = Literal["clear", "review", "suspicious"]
Floats: TypeAlias = NDArray[np.float64]

KINDS: tuple[Kind, ...] = ("confident", "average")
"""The stronger promise first."""

ALPHAS = (0.001, 0.005, 0.01, 0.02, 0.05)
"""Rows of an operating table."""

SUSPICIOUS = 0.5
"""Score from which on a case is suspicious; no promise hangs on it."""

POINTS = 200
"""Thresholds of a curve, at most."""


@dataclass(frozen=True)
class Promise:
    """A threshold, and what is promised of what scores below it.

    Parameters
    ----------
    kind : {"confident", "average"}
        With probability 1 - delta over the certify patients, or on average over them.
    unit : {"slides", "patches"}
        What is called clear.
    alpha : float
        Share of patients with a tumour that may be missed.
    delta : float or None
        None for the average.
    threshold : float
        What scores below is clear; minus infinity: nothing is.
    n_patients : int
        Patients with a tumour that it rests on.
    misses : int
        How many of them lie below the threshold at most; -1 where they are too few for the promise.
    site : str
        Whom it is for: one site's patients; ``""`` for all.

    Examples
    --------
    >>> print(Promise("average", "slides", 0.01, None, float("-inf"), 14, -1).in_words())
    Nothing is called clear: 14 patients with a tumour were seen, and to promise that at most 1 % of them are missed
    on average takes 99. With 14, no less than 6.7 % can be promised.
    """

    kind: Kind
    unit: Unit
    alpha: float
    delta: float | None
    threshold: float
    n_patients: int
    misses: int
    site: str = ""

    @property
    def clears(self) -> bool:
        """Whether anything may be called clear."""
        return self.threshold > NOTHING

    @property
    def n_needed(self) -> int:
        """Patients with a tumour that it takes, none of whom is missed."""
        return patients_needed(self.alpha, self.delta)

    @property
    def smallest_alpha(self) -> float:
        """The smallest share that these patients could have promised, without a miss."""
        return smallest_alpha(self.n_patients, self.delta)

    def in_words(self) -> str:
        """Say it as it may be said to others.

        Returns
        -------
        str
            One or two sentences.
        """
        here = f" of {self.site}" if self.site else ""
        many, were = ("1 patient", "was") if self.n_patients == 1 else (f"{self.n_patients} patients", "were")
        sure = "on average" if self.delta is None else f"with a probability of {_percent(1 - self.delta)}"
        if not self.clears:
            return (
                f"Nothing is called clear: {many} with a tumour{here} {were} seen, and to promise that at most "
                f"{_percent(self.alpha)} of them are missed {sure} takes {self.n_needed}. With {self.n_patients}, no "
                f"less than {_percent(self.smallest_alpha)} can be promised."
            )
        over = "laboratories that certify as here" if self.delta is None else "the choice of the certify patients"
        what = "have a tumour slide called clear"
        if self.unit == "patches":
            what = "have any of their tumour patches called clear (patches, one by one: nothing is promised of slides)"
        return (
            f"{sure.capitalize()} over {over}, at most {_percent(self.alpha)} of the patients{here} with a tumour "
            f"{what}. It rests on {many} with a tumour, and holds for patients like these."
        )


@dataclass(frozen=True, eq=False)
class TriageCases:
    """Scored slides (or patches) of patients whom the model has not seen.

    Parameters
    ----------
    score : (n,) float
        The higher the more suspicious; infinity for what cannot be judged, and is never called clear.
    positive : (n,) bool
        Whether it shows a tumour.
    patient : (n,) str
        Whose it is; an item of nobody belongs into no promise and must be left out before.
    site : (n,) str
        Where it is from; ``""`` where that is not known.
    unit : {"slides", "patches"}
        What they are.

    Raises
    ------
    ValueError
        If lengths differ, a score is NaN, or a patient is unknown.
    """

    score: Floats
    positive: NDArray[np.bool_]
    patient: NDArray[np.str_]
    site: NDArray[np.str_]
    unit: Unit

    def __post_init__(self) -> None:
        for name, kind in (("score", np.float64), ("positive", np.bool_), ("patient", np.str_), ("site", np.str_)):
            object.__setattr__(self, name, np.asarray(getattr(self, name), dtype=kind))
        if len({len(one) for one in (self.score, self.positive, self.patient, self.site)}) != 1:
            raise ValueError("score, positive, patient and site must be equally long")
        if np.isnan(self.score).any():
            raise ValueError("a score is NaN; what cannot be judged scores infinity: it is never called clear")
        if (self.patient == "").any():
            raise ValueError("an item without a patient belongs into no promise; leave it out")

    def __len__(self) -> int:
        return len(self.score)

    def of(self, site: str) -> "TriageCases":
        """Keep those of a site.

        Parameters
        ----------
        site : str
            Its name.

        Returns
        -------
        TriageCases
            In the same order.
        """
        here = self.site == site
        return TriageCases(self.score[here], self.positive[here], self.patient[here], self.site[here], self.unit)


def certify(cases: TriageCases, kind: Kind, *, alpha: float = 0.01, delta: float = 0.05, site: str = "") -> Promise:
    """Make a promise from patients whom nothing else has touched.

    Parameters
    ----------
    cases : TriageCases
        Of the certify part.
    kind : {"confident", "average"}
        Which promise.
    alpha : float
        Share of patients with a tumour that may be missed.
    delta : float
        Probability with which a confident promise may be broken.
    site : str
        Whose patients these are, for the words; ``""`` for all.

    Returns
    -------
    Promise
        One that clears nothing where the patients are too few; what is suspicious is never clear.

    Raises
    ------
    ValueError
        If alpha or delta is not between 0 and 1.
    """
    if not (0 < alpha < 1 and 0 < delta < 1):
        raise ValueError(f"alpha = {alpha}, delta = {delta}: shares above 0 and below 1, e.g. 0.01 and 0.05")
    given = None if kind == "average" else delta
    _, lowest = lowest_by_patient(cases.score, cases.positive, cases.patient)
    misses = misses_allowed(len(lowest), alpha, given)
    below = min(threshold(lowest, misses), SUSPICIOUS)
    return Promise(kind, cases.unit, alpha, given, below, len(lowest), misses, site)


def promises_by_site(
    cases: TriageCases, kind: Kind, *, alpha: float = 0.01, delta: float = 0.05
) -> tuple[Promise, ...]:
    """Make a promise for each site from its own patients (Mondrian: Vovk, Gammerman and Shafer 2005, section 4.5).

    Each then holds for the patients of that site, and not only over all sites together; each needs as many patients.

    Parameters
    ----------
    cases : TriageCases
        Of the certify part.
    kind, alpha, delta
        As in `certify`; delta is of each site's promise by itself.

    Returns
    -------
    tuple of Promise
        By the name of the site; none for cases of an unknown site.

    Raises
    ------
    ValueError
        If alpha or delta is not between 0 and 1.
    """
    # ValueError is certify's.
    sites = sorted({str(name) for name in cases.site.tolist() if name})
    return tuple(certify(cases.of(site), kind, alpha=alpha, delta=delta, site=site) for site in sites)


def triage_of(score: float, promise: Promise) -> Triage:
    """Sort one case.

    Parameters
    ----------
    score : float
        Of a slide or patch; NaN where it cannot be judged.
    promise : Promise
        What may be called clear.

    Returns
    -------
    {"clear", "review", "suspicious"}
        What cannot be judged is for review.

    Examples
    --------
    >>> promise = Promise("average", "slides", 0.1, None, 0.2, 30, 2)
    >>> [triage_of(score, promise) for score in (0.1, 0.2, 0.5)]
    ['clear', 'review', 'suspicious']
    """
    if score < promise.threshold:
        return "clear"
    return "suspicious" if score >= SUSPICIOUS else "review"


@dataclass(frozen=True)
class OperatingPoint:
    """What a threshold brings and costs, on the cases that it is measured on.

    Parameters
    ----------
    promise : Promise
        Whose threshold it is.
    cleared_normal, cleared_tumour : Spread
        Share of the items without and with a tumour that are called clear, over patients.
    workload : Spread
        Share of all items that need not be read first, at the stated prevalence.
    n_missed, n_patients : int
        Patients with a tumour that are missed here, and all of them.
    missed : Spread
        Their share, with the exact two-sided 95 % interval of Clopper and Pearson.
    """

    promise: Promise
    cleared_normal: Spread
    cleared_tumour: Spread
    workload: Spread
    n_missed: int
    n_patients: int
    missed: Spread


@dataclass(frozen=True, eq=False)
class WorkloadCurve:
    """Workload saved against sensitivity, over all thresholds.

    Parameters
    ----------
    threshold : (t,) float64
        Rising; what scores below is called clear.
    workload, low, high : (t,) float64
        Share of all items that is called clear at the prevalence, with a pointwise 95 % interval over patients.
    sensitivity, sensitivity_low, sensitivity_high : (t,) float64
        Share of patients with a tumour none of whose tumour items is called clear; exact 95 % interval.
    """

    threshold: Floats
    workload: Floats
    low: Floats
    high: Floats
    sensitivity: Floats
    sensitivity_low: Floats
    sensitivity_high: Floats


def operating_point(
    cases: TriageCases, promise: Promise, prevalence: float, *, n: int = 2000, seed: int = 1
) -> OperatingPoint:
    """Measure what a threshold brings and costs.

    On the patients that it was certified on, the misses are not news: their number was chosen. The share of normal
    items that it clears is, since they chose nothing.

    Parameters
    ----------
    cases : TriageCases
        Of any patients whom the model has not seen.
    promise : Promise
        Its threshold is held fixed in the draws.
    prevalence : float
        Share of items with a tumour among those that will be read.
    n : int
        Draws of the patients.
    seed : int
        Of the draws.

    Returns
    -------
    OperatingPoint
        With intervals over patients.
    """
    shares = _shares(cases, np.array([promise.threshold]), prevalence, n, seed)
    names, lowest = lowest_by_patient(cases.score, cases.positive, cases.patient)
    n_missed = int((lowest < promise.threshold).sum())
    normal, tumour, workload = (
        _spread(values[:, 0], shares.effective) for values in (shares.normal, shares.tumour, shares.workload)
    )
    return OperatingPoint(
        promise, normal, tumour, workload, n_missed, len(names), clopper_pearson(n_missed, len(names))
    )


def workload_curve(cases: TriageCases, prevalence: float, *, n: int = 500, seed: int = 1) -> WorkloadCurve:
    """Trace the workload saved against the sensitivity over all thresholds.

    Parameters
    ----------
    cases : TriageCases
        Of patients whom the model has not seen.
    prevalence : float
        As in `operating_point`.
    n : int
        Draws of the patients.
    seed : int
        Of the draws.

    Returns
    -------
    WorkloadCurve
        From "nothing is clear" to "everything is".
    """
    finite = np.unique(cases.score[np.isfinite(cases.score)])
    some = finite[evenly(len(finite), POINTS)] if len(finite) else finite
    grid = np.concatenate([[NOTHING], some[1:], [np.inf]]) if len(some) else np.array([NOTHING])
    shares = _shares(cases, grid, prevalence, n, seed)
    spreads = [_spread(column, shares.effective) for column in shares.workload.T]
    _, lowest = lowest_by_patient(cases.score, cases.positive, cases.patient)
    kept = [clopper_pearson(int((lowest >= one).sum()), len(lowest)) for one in grid.tolist()]
    return WorkloadCurve(
        grid,
        *(np.array([getattr(one, name) for one in spreads]) for name in ("value", "low", "high")),
        *(np.array([getattr(one, name) for one in kept]) for name in ("value", "low", "high")),
    )


def clopper_pearson(k: int, n: int, level: float = 0.95) -> Spread:
    """Give a share of n patients its exact interval (Clopper and Pearson 1934, Biometrika 26, pp. 404-413).

    Parameters
    ----------
    k, n : int
        So many of so many.
    level : float
        Of the two-sided interval.

    Returns
    -------
    Spread
        NaN without patients.

    Examples
    --------
    >>> one = clopper_pearson(0, 14)
    >>> one.value, one.low, round(one.high, 3)
    (0.0, 0.0, 0.232)
    """
    if n == 0:
        return Spread(float("nan"))
    tail = (1 - level) / 2
    low = 0.0 if k == 0 else float(special.betaincinv(k, n - k + 1, tail))
    high = 1.0 if k == n else float(special.betaincinv(k + 1, n - k, 1 - tail))
    return Spread(k / n, low, high)


@dataclass(frozen=True, eq=False)
class _Shares:
    # (1 + draws, t) each; the first row is everyone once.
    normal: Floats
    tumour: Floats
    workload: Floats
    effective: float


def _shares(cases: TriageCases, grid: Floats, prevalence: float, n: int, seed: int) -> _Shares:
    names, owner = np.unique(cases.patient, return_inverse=True)
    m = len(names)
    draws = np.ones((1, m))
    mass = np.bincount(owner, minlength=m).astype(np.float64)
    effective = float(mass.sum() ** 2 / np.square(mass).sum()) if m else 0.0
    if m > 1:
        counts = stream(seed, "bootstrap", "patients").multinomial(m, np.full(m, 1 / m), n)
        draws = np.vstack([draws, counts])
    # In which interval of the grid a score lies: it is below all thresholds after that.
    place = np.searchsorted(grid, cases.score, side="right")
    parts = []
    for members in (~cases.positive, cases.positive):
        cells = np.bincount(owner[members] * (len(grid) + 1) + place[members], minlength=m * (len(grid) + 1))
        below = np.cumsum(cells.reshape(m, len(grid) + 1), axis=1)[:, : len(grid)]  # (m, t) items below each threshold
        total = np.bincount(owner[members], minlength=m)
        with np.errstate(invalid="ignore", divide="ignore"):
            parts.append((draws @ below) / (draws @ total)[:, None])
    normal, tumour = parts
    mixed = [share * part for share, part in ((1 - prevalence, normal), (prevalence, tumour)) if share > 0]
    return _Shares(normal, tumour, np.sum(mixed, axis=0), effective)


def _spread(values: Floats, effective: float) -> Spread:
    drawn = values[1:][np.isfinite(values[1:])]
    if effective <= 1 or len(drawn) < 2:
        return Spread(float(values[0]))
    tail = expanded_tail(0.95, effective)
    low, high = np.quantile(drawn, [tail, 1 - tail])
    return Spread(float(values[0]), float(low), float(high))


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %" if share < 0.995 else f"{100 * share:.4g} %"
