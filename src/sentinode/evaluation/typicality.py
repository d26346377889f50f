"""Is a slide like those that a model was trained on? Asked of its colours, and answered against held-out patients.

Each image is a vector. The distance of one image is Mahalanobis's to the training images; that of a patient is the
median over the images. A new slide is held against the distances that the training patients have when each is left
out in turn: what is further away than all of them is unlike anything that the model has seen. The p-value is that of
conformal prediction (Vovk, Gammerman and Shafer 2005, "Algorithmic learning in a random world", ch. 2) with patients
as examples: were the new slide of the same kind, p would be at most 1/(m + 1) with a probability of 1/(m + 1).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["Typicality", "evenly", "fit_typicality", "unlike_training"]

RIDGE = 1e-6
"""Added to the variances: a feature that never varies must not make a distance infinite."""


@dataclass(frozen=True, eq=False)
class Typicality:
    """What training images look like.

    Parameters
    ----------
    mean : (d,) float64
        Of the training images.
    precision : (d, d) float64
        Inverse of their covariance.
    held_out : (m,) float64
        Distance of each training patient from the others, sorted.
    """

    mean: NDArray[np.float64]
    precision: NDArray[np.float64]
    held_out: NDArray[np.float64]

    def distance(self, features: ArrayLike) -> NDArray[np.float64]:
        """Measure how far images are from the training images.

        Parameters
        ----------
        features : (n, d) float
            Of the images.

        Returns
        -------
        (n,) float64
            In standard deviations.
        """
        return _distance(np.asarray(features, dtype=np.float64), self.mean, self.precision)

    def p_value(self, features: ArrayLike) -> float:
        """Say how unusual a slide is among the training patients.

        Parameters
        ----------
        features : (n, d) float
            Of its tiles; one or more.

        Returns
        -------
        float
            Share of patients, itself counted, that are at least as far away: 1/(m + 1) where it is further than all.

        Examples
        --------
        >>> images = np.random.default_rng(1).normal(size=(300, 2))
        >>> typicality = fit_typicality(images, np.repeat(np.arange(9), 100)[:300].astype(str))
        >>> typicality.p_value(images[:50]) > 0.25, typicality.p_value(images + 9)
        (True, 0.25)
        """
        median = float(np.median(self.distance(features)))
        return float((1 + (self.held_out >= median).sum()) / (1 + len(self.held_out)))


def fit_typicality(features: ArrayLike, patient: ArrayLike) -> Typicality | None:
    """Learn what training images look like.

    Parameters
    ----------
    features : (n, d) float
        Of the training images.
    patient : (n,) str
        Whose each is; ``""`` where nobody knows: such images count for the mean, and are nobody's held-out distance.

    Returns
    -------
    Typicality or None
        None with fewer than three patients: two cannot say how much patients differ.
    """
    values, owner = np.asarray(features, dtype=np.float64), np.asarray(patient, dtype=np.str_)
    names = [name for name in np.unique(owner).tolist() if name]
    if len(names) < 3:
        return None
    held_out = []
    for name in names:
        left_out = owner == name
        mean, precision = _fitted(values[~left_out])
        held_out.append(float(np.median(_distance(values[left_out], mean, precision))))
    return Typicality(*_fitted(values), np.sort(held_out))


def evenly(n: int, most: int) -> NDArray[np.int64]:
    """Choose positions that are spread evenly, where all would be more than is needed.

    Parameters
    ----------
    n : int
        How many there are.
    most : int
        How many are wanted.

    Returns
    -------
    (min(n, most),) int64
        From 0 to n - 1, in order; the ends are among them.

    Examples
    --------
    >>> evenly(7, 3).tolist(), evenly(2, 3).tolist()
    ([0, 3, 6], [0, 1])
    """
    return np.unique(np.linspace(0, n - 1, min(n, most)).astype(np.int64))


def unlike_training(typicality: Typicality | None, features: ArrayLike) -> str:
    """Warn of images whose colours are further from the training images than those of every patient in them.

    Parameters
    ----------
    typicality : Typicality or None
        Of the training images; None says nothing.
    features : (n, d) float
        Of the images of one slide or folder.

    Returns
    -------
    str
        A warning, or nothing.
    """
    if typicality is None or typicality.p_value(features) * (1 + len(typicality.held_out)) > 1:
        return ""
    away, known = float(np.median(typicality.distance(features))), typicality.held_out
    return (
        f"Unlike what the model was trained on: its stain is further from the training images ({away:.1f}) "
        f"than that of each of its {len(known)} training patients from the others (at most {known[-1]:.1f}). "
        "Another stain, scanner or organ: do not rely on the verdict."
    )


def _fitted(values: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    covariance = np.atleast_2d(np.cov(values.T)) + RIDGE * np.eye(values.shape[1])
    return np.asarray(values.mean(axis=0)), np.asarray(np.linalg.inv(covariance), dtype=np.float64)


def _distance(
    values: NDArray[np.float64], mean: NDArray[np.float64], precision: NDArray[np.float64]
) -> NDArray[np.float64]:
    away = values - mean
    return np.asarray(np.sqrt(np.maximum(np.einsum("ij,jk,ik->i", away, precision, away), 0)))
