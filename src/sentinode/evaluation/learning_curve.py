"""Error against the amount of training data: a power law, and what twice as much would bring.

The error of a recogniser falls with the number n of its examples about as ``a + b n^-c``: Cortes et al. 1994,
"Learning curves: asymptotic values and rate of convergence", NIPS 6; Figueroa et al. 2012, "Predicting sample size
required for classification performance", BMC Medical Informatics and Decision Making 12:8 (weighted fit); Hestness et
al. 2017, "Deep learning scaling is predictable, empirically", arXiv:1712.00409. It describes; it is no law of nature,
and beyond what was measured it is a guess, which is why nothing is said of more than twice the data.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sentinode.evaluation.bootstrap import Replicates, expanded_tail, replicate_patients
from sentinode.seeds import stream

__all__ = ["Estimate", "LearningCurve", "PowerLaw", "Verdict", "fit_power_law", "learning_curve"]

Floats: TypeAlias = NDArray[np.float64]
Repeats: TypeAlias = Sequence[tuple[ArrayLike, ArrayLike, ArrayLike]]
Verdict: TypeAlias = Literal["gain", "little", "unclear"]

RATES = np.geomspace(0.05, 2.0, 240)
"""Exponents that are tried. Those of deep networks were found between 0.07 and 0.35 (Hestness et al. 2017, abstract),
1 and more is what toys have that can be separated; below 0.05 a power law cannot be told from a logarithm."""

FEW_PATIENTS = 10
"""With fewer tested patients nothing is promised: an interval over nine people holds the truth too seldom."""

FEW_SIZES = 4
"""Three unknowns go through three points, whatever they are."""


class Estimate(NamedTuple):
    """A number and its interval over patients and repeats."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class PowerLaw:
    """``error(n) = a + b n^-c``, within [0, 1].

    Parameters
    ----------
    a : float
        Where the error ends with endless data, from 0 to 1.
    b : float
        How far above (below, if negative: the error rises) it is at n = 1.
    c : float
        How fast it gets there, within `RATES`.

    Examples
    --------
    >>> PowerLaw(0.1, 0.4, 0.5).error([1, 4, 16]).round(3).tolist()
    [0.5, 0.3, 0.2]
    """

    a: float
    b: float
    c: float

    def error(self, n: ArrayLike) -> Floats:
        """Give the error that is to be expected of n patients or patches.

        Parameters
        ----------
        n : (m,) float
            Sizes, above 0.

        Returns
        -------
        (m,) float64
            From 0 to 1.
        """
        return np.clip(self.a + self.b * np.asarray(n, dtype=np.float64) ** -self.c, 0.0, 1.0)


@dataclass(frozen=True, eq=False)
class LearningCurve:
    """What was measured of one algorithm, and what follows from it.

    Parameters
    ----------
    sizes : (s,) int64
        Patients or patches that were trained on.
    errors : tuple of Estimate
        Mean over the repeats at each size; intervals over patients and repeats.
    per_repeat : (s, r) float64
        The same, repeat by repeat.
    law : PowerLaw
        Fitted to the means, each weighted by one over its variance.
    axis, fitted, low, high : (m,) float64
        The law from the smallest size to twice the largest, with its pointwise interval.
    fall : Estimate
        Error at the smallest size minus error at the largest, as measured.
    gain : Estimate
        Error of the law at the largest size minus that at twice the largest: what twice the data would bring.
    verdict : {"gain", "little", "unclear"}
        ``"gain"``: the interval of the gain lies above zero. ``"little"``: it lies below what counts as equal.
        ``"unclear"``: neither, or too little was measured to say.
    reason : str
        Why it is unclear, if it is.
    n_repeats, n_patients : int
        That were measured.
    n_effective : float
        What the patients are worth.
    """

    sizes: NDArray[np.int64]
    errors: tuple[Estimate, ...]
    per_repeat: Floats
    law: PowerLaw
    axis: Floats
    fitted: Floats
    low: Floats
    high: Floats
    fall: Estimate
    gain: Estimate
    verdict: Verdict
    reason: str
    n_repeats: int
    n_patients: int
    n_effective: float


def fit_power_law(sizes: ArrayLike, errors: ArrayLike, weights: ArrayLike | None = None) -> PowerLaw:
    """Fit ``a + b n^-c`` by weighted least squares, with a from 0 to 1 and c within `RATES`.

    For a given c the law is a straight line in ``n^-c``, whose best a and b are known; the best c is looked up among
    `RATES`. No start can be wrong and no search can stick (variable projection: Golub and Pereyra 1973, "The
    differentiation of pseudo-inverses and nonlinear least squares problems whose variables separate", SIAM Journal on
    Numerical Analysis 10, pp. 413-432).

    Parameters
    ----------
    sizes : (s,) float
        Above 0, two or more.
    errors : (s,) float
        Mean error at each.
    weights : (s,) float, optional
        One over the variance of each.

    Returns
    -------
    PowerLaw
        The one with the smallest sum of squares.

    Examples
    --------
    >>> law = fit_power_law([2, 4, 8, 16], [0.4, 0.3, 0.25, 0.225])
    >>> law.error([2, 4, 8, 16]).round(3).tolist()
    [0.4, 0.3, 0.25, 0.225]
    """
    values = np.asarray(errors, dtype=np.float64)[None]
    a, b, c = _fit(np.asarray(sizes, dtype=np.float64), values, _weights(weights, values.shape[1]))
    return PowerLaw(float(a[0]), float(b[0]), float(c[0]))


def learning_curve(
    measured: Mapping[int, Repeats],
    metric: str,
    *,
    equal: float = 0.01,
    n: int = 2000,
    seed: int = 1,
    level: float = 0.95,
) -> LearningCurve:
    """Fit the learning curve of one algorithm, with intervals over patients and repeats.

    One replicate draws the test patients with replacement, jointly over sizes and repeats, and the repeats with
    replacement (each has its own training patients and its own order of them); the errors are averaged, the law is
    fitted anew, and its gain is read off. Tails are expanded for few patients as in `bootstrap_patients`. Drawing both
    counts the tested patients of a repeat twice, which makes the interval rather too wide than too short; that all
    repeats draw their training patients from the same few makes it too short again.

    Parameters
    ----------
    measured : mapping of int to sequence of RepeatPredictions
        Size -> the predictions of the same repeats on the same test patients.
    metric : str
        Key of `METRICS` of which 1 is best: ``"auc"`` or ``"accuracy"``. The error is 1 minus it.
    equal : float
        A gain below it counts as little.
    n : int
        Replicates.
    seed : int
        Of the draws.
    level : float
        Of the intervals.

    Returns
    -------
    LearningCurve
        Of errors.

    Raises
    ------
    ValueError
        If fewer than two sizes were measured, or the sizes do not have the same repeats.
    """
    sizes = np.array(sorted(measured), dtype=np.int64)
    if len(sizes) < 2 or len({len(repeats) for repeats in measured.values()}) != 1:
        raise ValueError("a learning curve needs two sizes or more, each with the same repeats")
    found = [replicate_patients(measured[int(size)], metric, n=n, seed=seed) for size in sizes]
    per_repeat = 1 - np.stack([one.values[:, 0] for one in found])  # (s, r)
    errors = 1 - _averaged(found, seed)  # (1 + n, s)
    errors = np.vstack([errors[:1], errors[1:][np.isfinite(errors[1:]).all(axis=1)]])
    effective = found[0].n_effective
    tail = expanded_tail(level, effective) if effective > 1 else float("nan")
    variance = errors[1:].var(axis=0) if len(errors) > 2 else np.zeros(len(sizes))
    a, b, c = _fit(sizes.astype(np.float64), errors, _weights(1 / np.maximum(variance, _floor(variance)), len(sizes)))
    axis = np.geomspace(sizes[0], 2 * sizes[-1], 41)
    curves = np.clip(a[:, None] + b[:, None] * axis ** -c[:, None], 0, 1)  # (1 + n, m)
    last = np.clip(a + b * float(sizes[-1]) ** -c, 0, 1)
    gain = _estimate(last - curves[:, -1], tail)
    verdict, reason = _judged(gain, equal, len(sizes), found[0])
    bounds = [_estimate(column, tail) for column in curves.T]
    return LearningCurve(
        sizes=sizes,
        errors=tuple(_estimate(column, tail) for column in errors.T),
        per_repeat=per_repeat,
        law=PowerLaw(float(a[0]), float(b[0]), float(c[0])),
        axis=axis,
        fitted=curves[0],
        low=np.array([one.low for one in bounds]),
        high=np.array([one.high for one in bounds]),
        fall=_estimate(errors[:, 0] - errors[:, -1], tail),
        gain=gain,
        verdict=verdict,
        reason=reason,
        n_repeats=per_repeat.shape[1],
        n_patients=found[0].n_patients,
        n_effective=effective,
    )


def _averaged(found: Sequence[Replicates], seed: int) -> Floats:
    # Mean over repeats drawn with replacement: (1 + n, s). The first row is everyone once.
    r, n = found[0].values.shape[0], found[0].values.shape[1] - 1
    drawn = stream(seed, "bootstrap", "repeats").multinomial(r, np.full(r, 1 / r), size=n)
    counts = np.vstack([np.ones((1, r)), drawn]).T  # (r, 1 + n)
    columns = []
    for one in found:
        known = counts * np.isfinite(one.values)
        total = (known * np.nan_to_num(one.values)).sum(axis=0)
        columns.append(np.divide(total, known.sum(axis=0), out=np.full(n + 1, np.nan), where=known.sum(axis=0) > 0))
    return np.stack(columns, axis=1)


def _fit(sizes: Floats, errors: Floats, weights: Floats) -> tuple[Floats, Floats, Floats]:
    # errors (m, s) -> a, b, c of each row, (m,). Sizes are measured by the largest, so that n^-c stays near 1.
    largest = sizes.max()
    best = np.full(len(errors), np.inf)
    a, b, c = np.zeros((3, len(errors)))
    for rate in RATES:
        z = (sizes / largest) ** -rate
        floor, slope = _line(z, errors, weights)
        loss = (weights * (errors - floor[:, None] - slope[:, None] * z) ** 2).sum(axis=1)
        better = loss < best
        best = np.where(better, loss, best)
        a, b, c = (
            np.where(better, new, old) for new, old in ((floor, a), (slope * largest**rate, b), (np.float64(rate), c))
        )
    return a, b, c


def _line(z: Floats, errors: Floats, weights: Floats) -> tuple[Floats, Floats]:
    # Weighted least squares of a + b z with 0 <= a <= 1: where the best a lies outside, the best one is the bound.
    mean_z, mean = weights @ z, errors @ weights
    slope = (errors - mean[:, None]) @ (weights * (z - mean_z)) / (weights @ (z - mean_z) ** 2)
    floor = np.clip(mean - slope * mean_z, 0.0, 1.0)
    return floor, (errors - floor[:, None]) @ (weights * z) / (weights @ z**2)


def _weights(weights: ArrayLike | None, n: int) -> Floats:
    given = np.ones(n) if weights is None else np.asarray(weights, dtype=np.float64)
    shares: Floats = given / given.sum()
    return shares


def _floor(variance: Floats) -> float:
    # A size at which nobody ever errs would have all the weight.
    return max(float(variance.max()) * 1e-2, 1e-12)


def _estimate(replicates: Floats, tail: float) -> Estimate:
    low = high = float("nan")
    if np.isfinite(tail) and len(replicates) > 2:
        low, high = (float(q) for q in np.quantile(replicates[1:], [tail, 1 - tail]))
    return Estimate(float(replicates[0]), low, high)


def _judged(gain: Estimate, equal: float, n_sizes: int, found: Replicates) -> tuple[Verdict, str]:
    if found.n_patients < FEW_PATIENTS:
        return "unclear", f"only {found.n_patients} patients were tested, and {FEW_PATIENTS} are the least"
    if n_sizes < FEW_SIZES:
        return "unclear", f"only {n_sizes} sizes were measured, and {FEW_SIZES} are the least"
    if len(found.values) < 3:
        return "unclear", f"only {len(found.values)} repeats were measured; ask for 10"
    if gain.low > 0:
        return "gain", ""
    if gain.high < equal:
        return "little", ""
    return "unclear", "the interval holds no gain and a gain worth having"
