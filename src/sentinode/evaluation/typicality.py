"""Is a slide, or a tile, like those that a model was trained on? Asked of what it looks like, as a vector of numbers.

A new one is held against the distances that the training patients have when each is left out in turn: what is further
away than all of them is unlike anything that the model has seen. The p-value is that of conformal prediction (Vovk,
Gammerman and Shafer 2005, "Algorithmic learning in a random world", ch. 2) with patients as examples: were the new
slide of the same kind, p would be at most 1/(m + 1) with a probability of 1/(m + 1).

Two distances. `Typicality`: Mahalanobis's to all training images (as Lee et al. 2018, "A simple unified framework for
detecting out-of-distribution samples", take it in the layers of a network), of a slide the median over its images.
`Neighbourhood`: that to the nearest training images, after whitening (as the anomaly detectors of Laxhammar and
Falkman 2014, "Online learning and sequential anomaly detection in trajectories", take it for conformal p-values):
two scanners are two clouds, and what lies between them is in neither.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "ATYPICAL",
    "Neighbourhood",
    "Typicality",
    "evenly",
    "fit_neighbourhood",
    "fit_typicality",
    "unlike_training",
]

RIDGE = 1e-6
"""Added to the variances: a feature that never varies must not make a distance infinite."""

ATYPICAL = 0.02
"""P-value of a tile up to which it is called atypical: of new patients of the same kind, about one tile in fifty."""

NEAREST = 5
"""Training images that the distance of a tile is averaged over: one alone may be an odd one."""


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


@dataclass(frozen=True, eq=False)
class Neighbourhood:
    """The training images themselves, to find the nearest of a new tile among them.

    Parameters
    ----------
    centre : (d,) float64
        Mean of the training images.
    whitening : (d, d) float64
        After it their features have a variance of about one, and nothing in common.
    known : (n, d) float32
        Training images, centred and whitened.
    held_out : tuple of (n_i,) float32
        Distances of the images of each training patient from the other patients, each sorted; three patients or more.
    """

    centre: NDArray[np.float64]
    whitening: NDArray[np.float64]
    known: NDArray[np.float32]
    held_out: tuple[NDArray[np.float32], ...]

    @property
    def covariance(self) -> NDArray[np.float64]:
        """Of the features of the training images, (d, d), as it was shrunk for the whitening."""
        return np.asarray(np.linalg.inv(self.whitening @ self.whitening.T))

    @property
    def n_patients(self) -> int:
        """Training patients that new tiles are held against."""
        return len(self.held_out)

    @property
    def least_p(self) -> float:
        """P-value of what is further away than everything: where it is above `ATYPICAL`, nothing is ever atypical."""
        return 1 / (1 + self._effective)

    def distance(self, features: ArrayLike) -> NDArray[np.float32]:
        """Measure how far tiles are from their nearest training images.

        Parameters
        ----------
        features : (n, d) float
            Of the tiles.

        Returns
        -------
        (n,) float32
            Mean over the five nearest, in standard deviations.
        """
        white = ((np.asarray(features, dtype=np.float64) - self.centre) @ self.whitening).astype(np.float32)
        return _to_nearest(white, self.known)

    def p_value(self, distance: ArrayLike) -> NDArray[np.float64]:
        """Say how unusual tiles are among those of held-out training patients, each patient weighing the same.

        Tiles of one patient are alike. Were they not, the weighted share would be worth as many tiles as Kish's
        effective number says (1965, "Survey sampling", section 8.2), and with the tile itself counted the p-value
        conformal; as they are, it holds on average over patients, the better the more there are.

        Parameters
        ----------
        distance : (n,) float
            Of `distance`.

        Returns
        -------
        (n,) float64
            Near 0 for what is further away than nearly every tile.
        """
        away = np.asarray(distance, dtype=np.float64)
        beyond = [1 - np.searchsorted(one, away, side="left") / len(one) for one in self.held_out]
        return np.asarray((1 + self._effective * np.mean(beyond, axis=0)) / (1 + self._effective))

    @property
    def medians(self) -> NDArray[np.float64]:
        """(m,): how far each training patient is from the others, by the median over their images."""
        return np.array([np.median(one) for one in self.held_out], dtype=np.float64)

    def slide_p_value(self, distance: ArrayLike) -> float:
        """Say how unusual a slide is among the training patients, by the median over its tiles.

        Parameters
        ----------
        distance : (n,) float
            Of `distance`, of its tiles; one or more.

        Returns
        -------
        float
            Share of patients, itself counted, that are at least as far away: 1/(m + 1) where it is further than all.
        """
        medians = self.medians
        return float((1 + (medians >= np.median(np.asarray(distance))).sum()) / (1 + len(medians)))

    @property
    def _effective(self) -> float:
        # Kish: of tiles that weigh 1/(m n_i) each.
        return len(self.held_out) ** 2 / sum(1 / len(one) for one in self.held_out)


def fit_neighbourhood(features: ArrayLike, patient: ArrayLike) -> Neighbourhood | None:
    """Keep what training images look like, and how far the patients in them are from one another.

    Parameters
    ----------
    features : (n, d) float
        Of the training images.
    patient : (n,) str
        Whose each is; ``""`` where nobody knows: such images are neighbours, and nobody's held-out distance.

    Returns
    -------
    Neighbourhood or None
        None with fewer than three patients, or where so few images are left without one of them that none has
        neighbours.

    Examples
    --------
    >>> images = np.random.default_rng(1).normal(size=(300, 2))
    >>> known = fit_neighbourhood(images, np.repeat(np.arange(10), 30).astype(str))
    >>> known.p_value(known.distance([[0.0, 0.0], [9.0, 9.0]])).round(3).tolist()
    [0.977, 0.003]
    """
    values, owner = np.asarray(features, dtype=np.float64), np.asarray(patient, dtype=np.str_)
    names = [name for name in np.unique(owner).tolist() if name]
    if len(names) < 3 or min(int((owner != name).sum()) for name in names) <= NEAREST:
        return None
    held_out = []
    for name in names:
        one = _neighbours(values[owner != name], [])
        held_out.append(np.sort(one.distance(values[owner == name])))
    return _neighbours(values, held_out)


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


def _neighbours(values: NDArray[np.float64], held_out: Sequence[NDArray[np.float32]]) -> Neighbourhood:
    centre, whitening = values.mean(axis=0), _whitening(values)
    return Neighbourhood(centre, whitening, ((values - centre) @ whitening).astype(np.float32), tuple(held_out))


def _whitening(values: NDArray[np.float64]) -> NDArray[np.float64]:
    # (d, d): to unit variances first, for features have units; then the covariance shrunk as Ledoit and Wolf (2004, "A
    # well-conditioned estimator for large-dimensional covariance matrices", section 3.2) say.
    scale = values.std(axis=0) + RIDGE**0.5
    standard = (values - values.mean(axis=0)) / scale
    n, d = standard.shape
    covariance = standard.T @ standard / n
    mean = np.trace(covariance) / d
    dispersion = ((covariance - mean * np.eye(d)) ** 2).sum() / d
    noise = (((standard**2).sum(axis=1) ** 2).mean() - (covariance**2).sum()) / (n * d)
    shrinkage = min(1.0, noise / dispersion) if dispersion > 0 else 1.0
    shrunk = (1 - shrinkage) * covariance + (shrinkage * mean + RIDGE) * np.eye(d)
    variances, directions = np.linalg.eigh(shrunk)
    return np.asarray(directions / np.sqrt(variances) / scale[:, None])


def _to_nearest(white: NDArray[np.float32], known: NDArray[np.float32]) -> NDArray[np.float32]:
    # A part at a time: 2,000 known images times a slide's tiles would be much memory.
    found = np.empty(len(white), dtype=np.float32)
    lengths = (known * known).sum(axis=1)
    for begin in range(0, len(white), 256):
        part = white[begin : begin + 256]
        squared = (part * part).sum(axis=1)[:, None] - 2 * (part @ known.T) + lengths
        nearest = np.partition(squared, NEAREST - 1, axis=1)[:, :NEAREST]
        found[begin : begin + 256] = np.sqrt(np.maximum(nearest, 0)).mean(axis=1)
    return found
