"""How many misses a promise allows: conformal risk control, and learn then test, on patients.

A patient with a tumour is *missed* at a threshold when any of its tumour slides (or patches) scores below it and is
called clear. The share of missed patients rises with the threshold, from none on. So of n patients with a tumour, who
are exchangeable with those to come, only the lowest score of each matters: with k misses allowed, the threshold is the
(k + 1)-th lowest of these n numbers, and below it k patients lie at most. Two promises fix k for a share alpha:

- **on average**: (k + 1) / (n + 1) <= alpha. Conformal risk control (Angelopoulos, Bates, Fisch, Lei and Schuster 2024,
  "Conformal risk control", ICLR, theorem 1) with a loss of 0 or 1. The mean over all laboratories that certify like
  this one, and the patients to come, is at most alpha; a single laboratory may have drawn badly.
- **confident**: P(Bin(n, alpha) <= k) <= delta. Learn then test (Angelopoulos, Bates, Candès, Jordan and Lei 2021,
  "Learn then test: calibrating predictive algorithms to achieve risk control", with a fixed sequence): "the share of
  missed patients exceeds alpha" is tested at one threshold after the other, from the lowest on, by the exact binomial
  tail, up to the first that is not rejected. With a probability of at least 1 - delta over the certify patients, the
  share of patients to come that are missed is at most alpha. Upside down it is the bound of Clopper and Pearson 1934.

Both hold in finite samples, whatever the model and however the images of a patient hang together; neither holds for
patients of another kind.
"""

from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

__all__ = [
    "NOTHING",
    "Kind",
    "lowest_by_patient",
    "mean_loss_allowed",
    "misses_allowed",
    "patients_needed",
    "smallest_alpha",
    "threshold",
]

Kind: TypeAlias = Literal["confident", "average"]

NOTHING = float("-inf")
"""The threshold below which nothing lies: nothing is called clear."""

_ROUNDING = 1e-9  # 0.07 * 100 is 7.000000000000001


def misses_allowed(n_patients: int, alpha: float, delta: float | None = None) -> int:
    """Tell how many of the certify patients may be missed.

    Parameters
    ----------
    n_patients : int
        Patients with a tumour in the certify part.
    alpha : float
        Share of patients with a tumour that may be missed, above 0 and below 1.
    delta : float, optional
        Probability with which the promise may be broken; None promises the average.

    Returns
    -------
    int
        k; -1 where even none is too many, because the patients are too few.

    Examples
    --------
    >>> misses_allowed(99, 0.01), misses_allowed(98, 0.01)
    (0, -1)
    >>> misses_allowed(299, 0.01, 0.05), misses_allowed(298, 0.01, 0.05)
    (0, -1)
    """
    if delta is None:
        return int(np.floor(alpha * (n_patients + 1) + _ROUNDING)) - 1
    tail = special.bdtr(np.arange(n_patients + 1), n_patients, alpha)  # rising
    return int((tail <= delta).sum()) - 1


def mean_loss_allowed(n: int, alpha: float, delta: float | None = None) -> float:
    """Tell how large the mean of losses between 0 and 1 may be, where a loss is a share and not yes or no.

    On average it is conformal risk control as above. With confidence it is learn then test by the p-value of Hoeffding
    and Bentkus (Bates, Angelopoulos, Lei, Malik and Jordan 2021, "Distribution-free, risk-controlling prediction sets",
    Journal of the ACM 68(6)): the smaller of ``exp(-n h(min(r, alpha), alpha))``, with h
    the relative entropy of two coins, and ``e P(Bin(n, alpha) <= ceil(n r))``.

    Parameters
    ----------
    n : int
        Cases (slides, patients) that a loss was measured on, exchangeable with those to come.
    alpha : float
        Loss that is allowed, above 0 and below 1.
    delta : float, optional
        Probability with which the promise may be broken; None promises the average.

    Returns
    -------
    float
        -1 where even no loss at all is too much, because the cases are too few.

    Examples
    --------
    >>> mean_loss_allowed(99, 0.01), mean_loss_allowed(98, 0.01)
    (0.0, -1.0)
    >>> [round(mean_loss_allowed(n, 0.01, 0.05), 4) for n in (298, 299, 1000)]
    [-1.0, 0.0, 0.0034]
    """
    if delta is None:
        allowed = (alpha * (n + 1) - 1 + _ROUNDING) / max(n, 1)
        return max(float(allowed) - _ROUNDING, 0.0) if allowed >= 0 else -1.0
    if n == 0 or _p_of_mean(0.0, n, alpha) > delta:
        return -1.0
    low, high = 0.0, alpha  # the p-value rises with the mean
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if _p_of_mean(middle, n, alpha) <= delta else (low, middle)
    return low


def _p_of_mean(mean: float, n: int, alpha: float) -> float:
    # Of the hypothesis that the loss to come is more than alpha.
    r = min(mean, alpha)
    entropy = special.xlogy(r, r / alpha) + special.xlogy(1 - r, (1 - r) / (1 - alpha))
    bentkus = np.e * special.bdtr(np.ceil(n * mean - _ROUNDING), n, alpha)
    return float(min(np.exp(-n * entropy), bentkus))


def patients_needed(alpha: float, delta: float | None = None) -> int:
    """Tell how many patients with a tumour a promise needs, none of whom may be missed.

    Parameters
    ----------
    alpha, delta
        As in `misses_allowed`.

    Returns
    -------
    int
        Their number.

    Examples
    --------
    >>> patients_needed(0.01), patients_needed(0.01, 0.05)
    (99, 299)
    """
    if delta is None:
        return int(np.ceil(1 / alpha - 1 - _ROUNDING))
    return int(np.ceil(np.log(delta) / np.log1p(-alpha) - _ROUNDING))


def smallest_alpha(n_patients: int, delta: float | None = None, misses: int = 0) -> float:
    """Tell the smallest share that can be promised.

    Parameters
    ----------
    n_patients : int
        Patients with a tumour.
    delta : float, optional
        As in `misses_allowed`.
    misses : int
        How many of them are missed.

    Returns
    -------
    float
        1 where nothing can be.

    Examples
    --------
    >>> round(smallest_alpha(14), 3), round(smallest_alpha(14, 0.05), 3)
    (0.067, 0.193)
    """
    if misses >= n_patients:
        return 1.0
    if delta is None:
        return (misses + 1) / (n_patients + 1)
    return float(special.betaincinv(misses + 1, n_patients - misses, 1 - delta))


def lowest_by_patient(
    score: ArrayLike, positive: ArrayLike, patient: ArrayLike
) -> tuple[NDArray[np.str_], NDArray[np.float64]]:
    """Find the lowest score that a tumour slide (or patch) of each patient has.

    Parameters
    ----------
    score : (n,) float
        Of each slide or patch; the higher the more suspicious. Infinity for what can never be called clear.
    positive : (n,) bool
        Whether it shows a tumour.
    patient : (n,) str
        Whose it is.

    Returns
    -------
    patients : (m,) str
        Those with a tumour, sorted.
    lowest : (m,) float64
        Of each.

    Examples
    --------
    >>> lowest_by_patient([0.9, 0.2, 0.1], [True, True, False], ["ann", "ann", "bo"])[1].tolist()
    [0.2]
    """
    truth = np.asarray(positive, dtype=np.bool_)
    names, owner = np.unique(np.asarray(patient, dtype=np.str_)[truth], return_inverse=True)
    lowest = np.full(len(names), np.inf)
    np.minimum.at(lowest, owner, np.asarray(score, dtype=np.float64)[truth])
    return names, lowest


def threshold(lowest: ArrayLike, misses: int) -> float:
    """Find the threshold below which at most so many patients are missed.

    Parameters
    ----------
    lowest : (m,) float
        Lowest tumour score of each patient with a tumour.
    misses : int
        That are allowed, below m; -1 for "not even none".

    Returns
    -------
    float
        What scores below it is called clear; `NOTHING` where nothing may be.

    Examples
    --------
    >>> threshold([0.9, 0.4, 0.6], 0), threshold([0.9, 0.4, 0.6], 1), threshold([0.9], -1)
    (0.4, 0.6, -inf)
    """
    values = np.sort(np.asarray(lowest, dtype=np.float64))
    return NOTHING if misses < 0 else float(values[misses])
