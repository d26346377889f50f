"""Does a probability of 0.8 come true four times in five? Measured, and put right on patients of their own.

Four ways, from the simplest on: none; temperature (one number: Guo et al. 2017, "On calibration of modern neural
networks", ICML, section 4.2); Platt (two: Platt 1999, "Probabilistic outputs for support vector machines"); isotonic
(a rising curve: Zadrozny and Elkan 2002, "Transforming classifier scores into accurate multiclass probability
estimates"). Which of them is fitted on all patients of the calibrate part, their cross-validated log loss decides,
whole patients held out. With z = log(p / (1 - p)) of the uncalibrated probability:

    temperature   1 / (1 + exp(-z / T))
    Platt         1 / (1 + exp(-(a z + b)))
    isotonic      a rising curve through the means of blocks of images, straight lines between them

Miscalibration is measured in bins of equal numbers of images. Images of one patient resemble one another, so everything
that depends on how sure a number is counts patients, not images.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize

from sentinode.errors import PlanError
from sentinode.evaluation.bootstrap import expanded_tail
from sentinode.evaluation.metrics import LOG_LOSS_EPS, checked
from sentinode.seeds import stream

__all__ = [
    "BINS",
    "ISOTONIC_IMAGES",
    "ISOTONIC_PATIENTS",
    "MEASURES",
    "METHODS",
    "MINIMUM_PATIENTS",
    "Calibration",
    "CalibrationChoice",
    "Method",
    "Reliability",
    "Spread",
    "choose_calibration",
    "fit_calibration",
    "measure_calibration",
    "measure_calibration_of_repeats",
    "reliability",
    "require_calibrating",
]

Method: TypeAlias = Literal["none", "temperature", "platt", "isotonic"]
Floats: TypeAlias = NDArray[np.float64]

METHODS: tuple[Method, ...] = ("none", "temperature", "platt", "isotonic")
"""From the simplest on; of equals the simpler one is taken."""

MINIMUM_PATIENTS = 5
"""Patients that a calibration needs, two of them with the class that is looked for and two without it."""

ISOTONIC_PATIENTS, ISOTONIC_IMAGES = 20, 1000
"""Below, an isotonic curve follows the noise: Niculescu-Mizil and Caruana 2005, "Predicting good probabilities with
supervised learning", ICML, section 4, found it to overfit below about a thousand examples."""

FOLDS = 5
BINS = 10
KEPT = 0.01
"""Share of the uncalibrated probability in an isotonic one: images of one block keep their order."""

MEASURES = ("ece", "rms_corrected", "reliability", "resolution", "uncertainty", "brier")
"""What `measure_calibration` gives."""


@dataclass(frozen=True)
class Calibration:
    """A rising function of the probability of the class that is looked for.

    Parameters
    ----------
    method : {"none", "temperature", "platt", "isotonic"}
        Which.
    slope, offset : float
        a and b of Platt; 1 / T and 0 of the temperature.
    knots : tuple of (float, float)
        Of isotonic: uncalibrated probability -> calibrated, both rising.

    Examples
    --------
    >>> sharper = Calibration("temperature", slope=2.0)
    >>> sharper.apply(np.array([[0.25, 0.75]])).round(3).tolist()
    [[0.10000000149011612, 0.8999999761581421]]
    """

    method: Method
    slope: float = 1.0
    offset: float = 0.0
    knots: tuple[tuple[float, float], ...] = ()

    def apply(self, proba: ArrayLike) -> NDArray[np.float32]:
        """Calibrate probabilities.

        Parameters
        ----------
        proba : (n, k) float
            Uncalibrated; rows sum to 1, the class that is looked for last.

        Returns
        -------
        (n, k) float32
            Rows sum to 1. More than two classes have a temperature or nothing.
        """
        table = np.asarray(proba, dtype=np.float64)
        if self.method == "none":
            return table.astype(np.float32)
        if table.shape[1] > 2:
            powers = np.exp(self.slope * np.log(np.clip(table, LOG_LOSS_EPS, 1.0)))  # p^(1/T), rescaled
            return np.asarray(powers / powers.sum(axis=1, keepdims=True), dtype=np.float32)
        positive = self._positive(table[:, 1])
        return np.column_stack([1 - positive, positive]).astype(np.float32)

    def _positive(self, proba: Floats) -> Floats:
        if self.method == "isotonic":
            x, y = np.array(self.knots).T
            return np.asarray((1 - KEPT) * np.interp(proba, x, y) + KEPT * np.clip(proba, 0.0, 1.0))
        return np.clip(_sigmoid(self.slope * _logit(proba) + self.offset), LOG_LOSS_EPS, 1 - LOG_LOSS_EPS)


@dataclass(frozen=True)
class CalibrationChoice:
    """The calibration that was chosen, and what the others would have been worth.

    Parameters
    ----------
    calibration : Calibration
        Fitted on all patients.
    losses : mapping of str to float
        Method -> cross-validated log loss in nats, whole patients held out; a method that too few patients or images
        allow is absent.
    n_patients, n_images : int
        That it was fitted on.
    """

    calibration: Calibration
    losses: Mapping[str, float]
    n_patients: int
    n_images: int


def choose_calibration(codes: ArrayLike, proba: ArrayLike, patient: ArrayLike, *, seed: int = 1) -> CalibrationChoice:
    """Choose a calibration by the log loss on patients that it was not fitted on, and fit it on all.

    Parameters
    ----------
    codes : (n,) int
        Truth: column of `proba`.
    proba : (n, k) float
        Uncalibrated probabilities of images of patients that the model was not trained on; the class that is looked
        for last.
    patient : (n,) str
        Whose image it is.
    seed : int
        Of the folds.

    Returns
    -------
    CalibrationChoice
        ``none`` where nothing is better than leaving the probabilities as they are.

    Raises
    ------
    PlanError
        If there are fewer than `MINIMUM_PATIENTS`, or fewer than two with or two without the class that is looked for.

    Examples
    --------
    >>> rng = stream(1, "example")
    >>> truth = rng.random(400) < 0.5
    >>> z = 6 * (truth - 0.5) + rng.normal(0, 3, 400)  # what is true of z / 1.5 ...
    >>> p = 1 / (1 + np.exp(-3 * z))  # ... is said three times too loudly
    >>> chosen = choose_calibration(truth.astype(int), np.column_stack([1 - p, p]), np.arange(400) // 20)
    >>> chosen.calibration.method in ("temperature", "platt"), chosen.losses["none"] > chosen.losses["temperature"]
    (True, True)
    """
    truth, table = np.asarray(codes, dtype=np.int64), np.asarray(proba, dtype=np.float64)
    names, owner = np.unique(np.asarray(patient), return_inverse=True)
    positive = truth == table.shape[1] - 1
    require_calibrating(positive, owner)
    fold = _folds(owner, positive, len(names), seed)
    losses = {}
    for method in _possible(table.shape[1], len(names), len(truth)):
        held_out = np.empty_like(table)
        for number in range(fold.max() + 1):
            out = fold == number
            held_out[out] = fit_calibration(method, truth[~out], table[~out]).apply(table[out])
        losses[str(method)] = _log_loss(truth, held_out)
    best = min(losses, key=lambda name: losses[name])  # of equals the first, which is the simpler one
    method = next(one for one in METHODS if one == best)
    return CalibrationChoice(fit_calibration(method, truth, table), losses, len(names), len(truth))


def require_calibrating(positive: ArrayLike, patient: ArrayLike) -> None:
    """Refuse to calibrate on too few patients, before hours of training and not after.

    Parameters
    ----------
    positive : (n,) bool
        Which images have the class that is looked for.
    patient : (n,) str
        Whose image it is.

    Raises
    ------
    PlanError
        If there are fewer than `MINIMUM_PATIENTS`, or fewer than two with or two without the class that is looked for.
    """
    owner, truth = np.asarray(patient), np.asarray(positive, dtype=np.bool_)
    n_patients, with_it, without_it = (len(np.unique(one)) for one in (owner, owner[truth], owner[~truth]))
    if n_patients < MINIMUM_PATIENTS or with_it < 2 or without_it < 2:
        raise PlanError(
            f"the calibrate part has {n_patients} patients, {with_it} with images of the class that is looked for "
            f"and {without_it} with others; a calibration needs {MINIMUM_PATIENTS}, and two of either kind: ask for a "
            "larger share, or for none"
        )


def fit_calibration(method: Method, codes: ArrayLike, proba: ArrayLike) -> Calibration:
    """Fit one calibration.

    Parameters
    ----------
    method : {"none", "temperature", "platt", "isotonic"}
        Which; more than two classes have a temperature or nothing.
    codes : (n,) int
        Truth: column of `proba`.
    proba : (n, k) float
        Uncalibrated.

    Returns
    -------
    Calibration
        Rising: the order of the probabilities stays.
    """
    truth, table = np.asarray(codes, dtype=np.int64), np.asarray(proba, dtype=np.float64)
    if method == "none":
        return Calibration("none")
    if method == "temperature":
        return Calibration("temperature", slope=_slope(truth, table))
    positive, score = truth == table.shape[1] - 1, table[:, -1]
    if method == "platt":
        slope, offset = _platt(positive, _logit(score))
        return Calibration("platt", slope, offset)
    return Calibration("isotonic", knots=_isotonic(positive, score))


# --- measuring ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Reliability:
    """A reliability diagram: what was said against what came true, in bins of equal numbers of images.

    Parameters
    ----------
    said, true : (b,) float64
        Mean probability and share of the class that is looked for in each bin.
    low, high : (b,) float64
        Interval of `true` over patients; NaN for a bin of one patient.
    n_images, n_patients : (b,) int64
        In each bin.
    """

    said: Floats
    true: Floats
    low: Floats
    high: Floats
    n_images: NDArray[np.int64]
    n_patients: NDArray[np.int64]


@dataclass(frozen=True)
class Spread:
    """A number and its interval over patients (95 % unless told); NaN where fewer than two patients allow none."""

    value: float
    low: float = field(default=float("nan"))
    high: float = field(default=float("nan"))


def measure_calibration(
    positive: ArrayLike, proba: ArrayLike, patient: ArrayLike, *, bins: int = BINS, n: int = 1000, seed: int = 1
) -> dict[str, Spread]:
    r"""Measure how far probabilities are from what comes true.

    With bins b of n_b images, mean probability p_b and share that comes true y_b, N images and the overall share y:

    - ``ece``: sum of n_b/N abs(y_b - p_b) (Naeini et al. 2015, "Obtaining well calibrated probabilities using Bayesian
      binning", AAAI). Never below what chance alone gives a perfect model with so few images.
    - ``rms_corrected``: root of the sum of n_b/N ((y_b - p_b)^2 - v_b), and 0 where that sum is negative; v_b is the
      variance of y_b - p_b, estimated between patients. Where every image is of another patient it is the debiased
      estimator of Kumar et al. 2019, "Verified uncertainty calibration", NeurIPS, section 4.
    - ``reliability`` (sum of n_b/N (y_b - p_b)^2), ``resolution`` (sum of n_b/N (y_b - y)^2) and ``uncertainty``
      (y (1 - y)): Murphy 1973, "A new vector partition of the probability score", Journal of Applied Meteorology 12.
      Brier score = reliability - resolution + uncertainty, up to what the probabilities of one bin differ.
    - ``brier``.

    Parameters
    ----------
    positive : (n,) bool
        Truth.
    proba : (n,) float
        Probability of the class that is looked for.
    patient : (n,) str
        Whose image it is.
    bins : int
        Bins of equal numbers of images; equal probabilities are never torn apart.
    n : int
        Draws of the patients.
    seed : int
        Of the draws.

    Returns
    -------
    dict of str to Spread
        Each of `MEASURES`. The intervals are basic bootstrap intervals (Davison and Hinkley 1997, "Bootstrap methods
        and their application", section 5.2): the bias that a second draw adds to an ECE is taken off, not doubled.

    Examples
    --------
    >>> honest = measure_calibration([False, True] * 50, [0.5] * 100, np.arange(100))
    >>> honest["ece"].value, honest["uncertainty"].value
    (0.0, 0.25)
    """
    if np.size(positive) == 0:
        return {name: Spread(float("nan")) for name in MEASURES}
    return measure_calibration_of_repeats([(positive, proba, patient)], bins=bins, n=n, seed=seed)


def measure_calibration_of_repeats(
    repeats: Sequence[tuple[ArrayLike, ArrayLike, ArrayLike]],
    *,
    level: float = 0.95,
    bins: int = BINS,
    n: int = 300,
    seed: int = 1,
) -> dict[str, Spread]:
    """Measure calibration in each repeat of a study, and average.

    Parameters
    ----------
    repeats : sequence of (positive, proba, patient)
        Each as `measure_calibration` takes them. Probabilities of different models are never binned together.
    level : float
        Of the intervals.
    bins, n, seed
        As there.

    Returns
    -------
    dict of str to Spread
        Each of `MEASURES`: the mean over the repeats. The interval draws patients once for all repeats, as
        `sentinode.evaluation.bootstrap` does: a patient who is tested in three repeats is one witness.
    """
    names = np.unique(np.concatenate([np.asarray(patient) for _, _, patient in repeats]))
    draws, images = np.ones((1, len(names))), np.zeros(len(names))
    tables = []
    for positive, proba, patient in repeats:
        truth, score, _ = checked(positive, proba)
        owner = np.searchsorted(names, np.asarray(patient))
        squares: Floats = np.bincount(owner, np.square(score - truth), len(names)).astype(np.float64)
        tables.append((_binned(truth, score, owner, len(names), bins), squares))
        images += np.bincount(owner, minlength=len(names))
    effective = images.sum() ** 2 / np.square(images).sum()
    if len(names) > 1 and effective > 1:
        counts = stream(seed, "bootstrap", "patients").multinomial(len(names), np.full(len(names), 1 / len(names)), n)
        draws = np.vstack([draws, counts])
    with np.errstate(invalid="ignore", divide="ignore"):  # a draw may have nobody of a repeat, which then has no number
        found = [_measures(draws, sums, squares) for sums, squares in tables]
    means = {name: np.nanmean([one[name] for one in found], axis=0) for name in MEASURES}
    return {name: _basic(values, effective, name, level) for name, values in means.items()}


def reliability(
    positive: ArrayLike, proba: ArrayLike, patient: ArrayLike, *, bins: int = BINS, level: float = 0.95
) -> Reliability:
    """Make the data of a reliability diagram.

    Parameters
    ----------
    positive : (n,) bool
        Truth.
    proba : (n,) float
        Probability of the class that is looked for.
    patient : (n,) str
        Whose image it is.
    bins : int
        Bins of equal numbers of images; equal probabilities are never torn apart, so there may be fewer.
    level : float
        Of the intervals.

    Returns
    -------
    Reliability
        Bins from the lowest probability on. The interval is normal, with the variance between patients.

    Examples
    --------
    >>> diagram = reliability([False, True, True, True], [0.1, 0.1, 0.9, 0.9], ["a", "b", "c", "d"], bins=2)
    >>> diagram.said.round(3).tolist(), diagram.true.tolist()
    ([0.1, 0.9], [0.5, 1.0])
    """
    truth, score, _ = checked(positive, proba)
    names, owner = np.unique(np.asarray(patient), return_inverse=True)
    sums = _binned(truth, score, owner, len(names), bins)
    total = sums.sum(axis=0)  # (b, 3)
    said, true = total[:, 1] / total[:, 0], total[:, 2] / total[:, 0]
    spread = NormalDist().inv_cdf((1 + level) / 2) * np.sqrt(
        _variance(sums[..., 2][None], sums[..., 0][None], np.ones((1, len(names))))[0]
    )
    low, high = np.clip(true - spread, 0, 1), np.clip(true + spread, 0, 1)
    return Reliability(
        said, true, low, high, total[:, 0].astype(np.int64), (sums[..., 0] > 0).sum(axis=0).astype(np.int64)
    )


# --- fitting, in detail -------------------------------------------------------------------------------------


def _logit(proba: Floats) -> Floats:
    clipped = np.clip(proba, LOG_LOSS_EPS, 1 - LOG_LOSS_EPS)
    return np.log(clipped) - np.log1p(-clipped)


def _sigmoid(z: Floats) -> Floats:
    return 0.5 * (1 + np.tanh(z / 2))


def _log_loss(codes: NDArray[np.int64], proba: NDArray[np.floating]) -> float:
    given = np.take_along_axis(proba, codes[:, None], axis=1)[:, 0]
    return float(-np.log(np.clip(given, LOG_LOSS_EPS, 1.0)).mean())


def _slope(codes: NDArray[np.int64], proba: Floats) -> float:
    # 1 / T between 1/50 and 50, by the log of it: the loss is convex in the slope, so there is one minimum. Platt's
    # targets, as below: against 0 and 1 the slope would grow without end where the classes are apart.
    n, k = proba.shape
    own = np.bincount(codes, minlength=k)[codes]
    target = np.repeat((1 / ((own + 2) * (k - 1)))[:, None], k, axis=1)
    target[np.arange(n), codes] = (own + 1) / (own + 2)
    logs = np.log(np.clip(proba, LOG_LOSS_EPS, 1.0))

    def loss(log_slope: float) -> float:
        scaled = np.exp(log_slope) * logs
        scaled = scaled - scaled.max(axis=1, keepdims=True)
        return float(-(target * (scaled - np.log(np.exp(scaled).sum(axis=1, keepdims=True)))).sum(axis=1).mean())

    found = optimize.minimize_scalar(loss, bounds=(-np.log(50), np.log(50)), method="bounded", options={"xatol": 1e-6})
    return float(np.exp(found.x))


def _platt(positive: NDArray[np.bool_], z: Floats) -> tuple[float, float]:
    # Platt's targets keep the curve finite where the classes are apart: (n+ + 1) / (n+ + 2) and 1 / (n- + 2).
    up, down = int(positive.sum()), int((~positive).sum())
    target = np.where(positive, (up + 1) / (up + 2), 1 / (down + 2))

    def loss(weights: Floats) -> tuple[float, Floats]:
        t = weights[0] * z + weights[1]
        residual = _sigmoid(t) - target
        return float((np.logaddexp(0, t) - target * t).mean()), np.array([(residual * z).mean(), residual.mean()])

    found = optimize.minimize(loss, np.array([1.0, 0.0]), jac=True, method="L-BFGS-B", bounds=[(1e-3, 50), (-50, 50)])
    return float(found.x[0]), float(found.x[1])


def _isotonic(positive: NDArray[np.bool_], score: Floats) -> tuple[tuple[float, float], ...]:
    # One knot a block, at its mean score (Oron and Flournoy 2017, "Centered isotonic regression", Statistics in
    # Biopharmaceutical Research 9, pp. 258-267): between two blocks the curve rises, and is no step.
    x, place, weight = np.unique(score, return_inverse=True, return_counts=True)
    mean = np.bincount(place, positive) / weight
    fitted = optimize.isotonic_regression(mean, weights=weight)
    begin, end = fitted.blocks[:-1], fitted.blocks[1:]
    n = len(score)
    return tuple(
        (float(np.average(x[a:b], weights=weight[a:b])), float(np.clip(fitted.x[a], 1 / (n + 2), (n + 1) / (n + 2))))
        for a, b in zip(begin.tolist(), end.tolist(), strict=True)
    )


def _possible(n_classes: int, n_patients: int, n_images: int) -> tuple[Method, ...]:
    if n_classes > 2:
        return METHODS[:2]
    return METHODS if n_patients >= ISOTONIC_PATIENTS and n_images >= ISOTONIC_IMAGES else METHODS[:3]


def _folds(owner: NDArray[np.int64], positive: NDArray[np.bool_], n_patients: int, seed: int) -> NDArray[np.int64]:
    # Fold of each image (n,): patients are dealt in turn, those with the positive class first, so that what remains of
    # two such patients is never none.
    has = np.bincount(owner, positive, n_patients) > 0
    shuffled = stream(seed, "calibration folds", "patients").permutation(n_patients)
    order = shuffled[np.argsort(~has[shuffled], kind="stable")]
    dealt = np.empty(n_patients, dtype=np.int64)
    dealt[order] = np.arange(n_patients) % min(FOLDS, n_patients)
    return dealt[owner]


# --- measuring, in detail -----------------------------------------------------------------------------------


def _binned(truth: NDArray[np.bool_], score: Floats, owner: NDArray[np.int64], m: int, bins: int) -> Floats:
    # Sums of each patient in each bin: (m, b, 3) of images, probabilities, truths.
    edges = np.unique(np.quantile(score, np.arange(1, bins) / bins, method="inverted_cdf"))
    place = np.searchsorted(edges, score, side="left")  # equal scores fall into one bin
    _, place = np.unique(place, return_inverse=True)
    n_bins = int(place.max()) + 1
    cell = owner * n_bins + place
    parts = [
        np.bincount(cell, weights, m * n_bins).reshape(m, n_bins) for weights in (np.ones(len(score)), score, truth)
    ]
    return np.stack(parts, axis=2)


def _measures(draws: Floats, sums: Floats, squares: Floats) -> dict[str, Floats]:
    n, said, true = (draws @ sums[..., part] for part in range(3))  # (d, b)
    share = n / n.sum(axis=1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        gap = np.where(n > 0, (true - said) / n, 0.0)
        rate = np.where(n > 0, true / n, 0.0)
    overall = true.sum(axis=1) / n.sum(axis=1)
    noise = np.stack([
        _variance((sums[..., 2] - sums[..., 1])[None], sums[..., 0][None], row[None])[0] for row in draws
    ])
    squared = (share * gap**2).sum(axis=1)
    return {
        "ece": (share * np.abs(gap)).sum(axis=1),
        "rms_corrected": np.sqrt(np.maximum(squared - (share * np.nan_to_num(noise)).sum(axis=1), 0.0)),
        "reliability": squared,
        "resolution": (share * (rate - overall[:, None]) ** 2).sum(axis=1),
        "uncertainty": overall * (1 - overall),
        "brier": draws @ squares / n.sum(axis=1),
    }


def _variance(values: Floats, images: Floats, draws: Floats) -> Floats:
    # Variance of sum(values) / sum(images) in each bin, between the m patients that have images in it, each counting as
    # often as it was drawn: (1, b) of (1, m, b) sums. NaN for a bin of one patient.
    weight = draws[:, :, None]
    total, n = (weight * values).sum(axis=1), (weight * images).sum(axis=1)
    m = (weight * (images > 0)).sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        residual = values - (total / n)[:, None, :] * images
        spread: Floats = (weight * residual**2).sum(axis=1) / n**2 * m / (m - 1)
    return np.where(m > 1, spread, np.nan)


def _basic(values: Floats, effective: float, name: str, level: float = 0.95) -> Spread:
    value = float(values[0])
    if len(values) < 2:
        return Spread(value)
    tail = expanded_tail(level, effective)
    below, above = np.quantile(values[1:], [tail, 1 - tail])
    top = 0.25 if name == "uncertainty" else 1.0
    return Spread(value, float(np.clip(2 * value - above, 0, value)), float(np.clip(2 * value - below, value, top)))
