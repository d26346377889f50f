"""A support vector machine with a Gaussian kernel on the features of an encoder."""

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator
from sklearn.kernel_approximation import Nystroem
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.svm import SVC, LinearSVC
from sklearn.utils.validation import check_is_fitted

from sentinode.algorithms.description import EpochRecord, LayerRow
from sentinode.algorithms.platt import LogisticCalibration, calibration_row, held_out_scores
from sentinode.algorithms.registry import PatchSequence
from sentinode.algorithms.samples import encode_labels
from sentinode.algorithms.vectors import Vectors, input_row
from sentinode.errors import PlanError
from sentinode.seeds import stream

__all__ = ["SVMHead"]


class SVMHead(BaseEstimator):
    """A Gaussian-kernel support vector machine on features of an encoder, its scores turned into probabilities.

    Many images are solved approximately, in the space that some of them span (Williams and Seeger 2001, "Using the
    Nystroem method to speed up kernel machines", NIPS 13). Probabilities as in `sentinode.algorithms.platt`.

    Parameters
    ----------
    seed : int
        Shuffles the folds of the calibration, draws the landmarks.
    C : float
        Price of an image on the wrong side of the margin.
    width : float
        Of the kernel: exp(-|a - b|^2 / (width * d)) for standardised vectors of d numbers.
    balance : bool
        Whether the rare class is weighted up to the weight of the others.
    exact_up_to : int
        Images up to which the kernel matrix is exact.
    landmarks : int
        Images that span the approximation.
    folds : int
        Folds of the calibration, at least 2.

    Attributes
    ----------
    classes_ : (k,) str
        Sorted labels.
    model_ : sklearn.pipeline.Pipeline
        What was learned.

    Examples
    --------
    >>> features = np.array([[[value, 5.0]] for value in (0, 1, 2, 8, 9, 10)], np.float32)
    >>> head = SVMHead(folds=2).fit(features, ["normal"] * 3 + ["tumour"] * 3)
    >>> head.predict_proba(features).argmax(axis=1).tolist()
    [0, 0, 0, 1, 1, 1]
    """

    TAKES_FEATURES = True
    SEARCH_SPACE: ClassVar[Mapping[str, tuple[object, ...]]] = MappingProxyType({
        "C": (0.1, 0.3, 1.0, 3.0, 10.0),
        "width": (0.5, 1.0, 2.0, 4.0),
    })

    def __init__(
        self,
        seed: int = 1,
        C: float = 1.0,
        width: float = 1.0,
        balance: bool = True,  # noqa: FBT001, FBT002 - a setting of a plan, given by name
        exact_up_to: int = 4000,
        landmarks: int = 500,
        folds: int = 5,
    ) -> None:
        self.seed = seed
        self.C = C
        self.width = width
        self.balance = balance
        self.exact_up_to = exact_up_to
        self.landmarks = landmarks
        self.folds = folds

    def fit(
        self,
        X: PatchSequence,
        y: ArrayLike,
        *,
        stop: tuple[PatchSequence, ArrayLike] | None = None,  # noqa: ARG002 - nothing is iterated here
        on_epoch: Callable[[EpochRecord], None] | None = None,  # noqa: ARG002 - as stop
        checkpoint: Path | None = None,  # noqa: ARG002 - as stop
    ) -> Self:
        """Find the support vectors.

        Parameters
        ----------
        X : (n, 1, d) float32 or (n, h, w, 3) uint8
            Features, or patches.
        y : (n,) str
            Labels.
        stop, on_epoch, checkpoint
            Not used: the solver has no epochs.

        Returns
        -------
        SVMHead
            Itself, fitted.

        Raises
        ------
        PlanError
            If a setting is impossible.
        """
        self._require_settings()
        self.classes_, codes = encode_labels(X, y)
        self.vectors_ = Vectors().fit(X)
        vectors = self.vectors_.transform(X)  # (n, d)
        scores = held_out_scores(
            lambda train, test: _decide(self._machine(vectors[train], codes[train]), vectors[test]),
            codes,
            self.folds,
            self.seed,
        )
        self.calibration_ = LogisticCalibration().fit(scores, codes)
        self.model_ = self._machine(vectors, codes)
        self.log_: tuple[EpochRecord, ...] = ()
        return self

    def predict_proba(self, X: PatchSequence) -> NDArray[np.float32]:
        """Give each image a probability a class.

        Parameters
        ----------
        X : (n, 1, d) float32 or (n, h, w, 3) uint8
            As in training.

        Returns
        -------
        (n, k) float32
            Columns as `classes_`; rows sum to 1.
        """
        check_is_fitted(self)
        return self.calibration_.proba(_decide(self.model_, self.vectors_.transform(X)))

    def describe(self, size: tuple[int, int]) -> tuple[LayerRow, ...]:
        """Describe the steps.

        Parameters
        ----------
        size : (h, w)
            Of the images in pixels; ``(1, d)`` for features.

        Returns
        -------
        tuple of LayerRow
            Standardisation, machine, calibration.
        """
        self._require_settings()
        d, row = input_row(size)
        k = len(self.classes_) if hasattr(self, "classes_") else 2
        note = f"one weight and {d} numbers a support vector; their count comes from the data"
        fitted = self._n_fitted(d) if hasattr(self, "model_") else 0
        scores = 1 if k == 2 else k
        return (
            row,
            LayerRow("support vector machine", f"{scores}", fitted, fitted, note),
            calibration_row(k, scores, self.folds),
        )

    def _n_fitted(self, d: int) -> int:
        last = self.model_[-1]
        if isinstance(last, SVC):
            return int(last.support_.size * d + last.dual_coef_.size)
        return int(self.model_[0].components_.size + last.coef_.size)

    def _machine(self, vectors: NDArray[np.float64], codes: NDArray[np.int64]) -> Pipeline:
        gamma, weight = 1 / (self.width * vectors.shape[1]), "balanced" if self.balance else None
        if len(vectors) <= self.exact_up_to:
            return make_pipeline(SVC(C=self.C, gamma=gamma, class_weight=weight)).fit(vectors, codes)
        seed = int(stream(self.seed, "landmarks").integers(2**31))
        n = min(self.landmarks, len(vectors))
        solver = LinearSVC(C=self.C, class_weight=weight, dual=False, max_iter=10_000)
        return make_pipeline(Nystroem(gamma=gamma, n_components=n, random_state=seed), solver).fit(vectors, codes)

    def _require_settings(self) -> None:
        for name in ("C", "width"):
            if not 0 < getattr(self, name) < float("inf"):
                raise PlanError(f"{name} = {getattr(self, name)}: must be a finite number above 0, e.g. 1.0")
        for name, bound in {"exact_up_to": 1, "landmarks": 2, "folds": 2}.items():
            if getattr(self, name) < bound:
                raise PlanError(f"{name} = {getattr(self, name)}: must be {bound} or more")


def _decide(machine: Pipeline, vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(machine.decision_function(vectors), dtype=np.float64).reshape(len(vectors), -1)
