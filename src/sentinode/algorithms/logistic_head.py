"""Logistic regression on the features of an encoder: the linear probe."""

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.utils.validation import check_is_fitted

from sentinode.algorithms.description import EpochRecord, LayerRow
from sentinode.algorithms.registry import PatchSequence
from sentinode.algorithms.samples import encode_labels
from sentinode.algorithms.vectors import Vectors, input_row
from sentinode.errors import PlanError

__all__ = ["LogisticHead"]


class LogisticHead(BaseEstimator):
    """Logistic regression on features of an encoder, standardised, with a penalty on large weights.

    The usual measure of an encoder ("linear probe": Alain and Bengio 2016, "Understanding intermediate layers using
    linear classifier probes", arXiv:1610.01644).

    Parameters
    ----------
    seed : int
        Not used: the solver starts from zero.
    C : float
        Weight of the data against the penalty. Features are many and patients few, so it is small.
    balance : bool
        Whether the rare class is weighted up to the weight of the others.

    Attributes
    ----------
    classes_ : (k,) str
        Sorted labels.
    model_ : sklearn.linear_model.LogisticRegression
        What was learned.

    Examples
    --------
    >>> features = np.array([[[0.0, 5.0]], [[1.0, 5.0]], [[8.0, 5.0]], [[9.0, 5.0]]], np.float32)
    >>> head = LogisticHead(C=1.0).fit(features, ["normal", "normal", "tumour", "tumour"])
    >>> head.predict_proba(features).argmax(axis=1).tolist()
    [0, 0, 1, 1]
    """

    TAKES_FEATURES = True
    SEARCH_SPACE: ClassVar[Mapping[str, tuple[object, ...]]] = MappingProxyType({
        "C": (0.0001, 0.001, 0.01, 0.1, 1.0),
        "balance": (False, True),
    })

    def __init__(self, seed: int = 1, C: float = 0.01, balance: bool = False) -> None:  # noqa: FBT001, FBT002 - a setting
        self.seed = seed
        self.C = C
        self.balance = balance

    def fit(
        self,
        X: PatchSequence,
        y: ArrayLike,
        *,
        stop: tuple[PatchSequence, ArrayLike] | None = None,  # noqa: ARG002 - the penalty is what stops it
        on_epoch: Callable[[EpochRecord], None] | None = None,  # noqa: ARG002 - as stop
        checkpoint: Path | None = None,  # noqa: ARG002 - as stop
    ) -> Self:
        """Find the weights.

        Parameters
        ----------
        X : (n, 1, d) float32 or (n, h, w, 3) uint8
            Features, or patches.
        y : (n,) str
            Labels.
        stop, on_epoch, checkpoint
            Not used.

        Returns
        -------
        LogisticHead
            Itself, fitted.

        Raises
        ------
        PlanError
            If a setting is impossible.
        """
        self._require_settings()
        self.classes_, codes = encode_labels(X, y)
        self.vectors_ = Vectors().fit(X)
        weight = "balanced" if self.balance else None
        self.model_ = LogisticRegression(C=self.C, class_weight=weight, max_iter=5000)
        self.model_.fit(self.vectors_.transform(X), codes)
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
        return np.asarray(self.model_.predict_proba(self.vectors_.transform(X)), dtype=np.float32)

    def describe(self, size: tuple[int, int]) -> tuple[LayerRow, ...]:
        """Describe the steps.

        Parameters
        ----------
        size : (h, w)
            Of the images in pixels; ``(1, d)`` for features.

        Returns
        -------
        tuple of LayerRow
            Standardisation and weights.
        """
        self._require_settings()
        d, row = input_row(size)
        k = len(self.classes_) if hasattr(self, "classes_") else 2
        outputs = 1 if k == 2 else k
        return (row, LayerRow("logistic regression", f"{k}", outputs * (d + 1), outputs * d, f"C = {self.C:g}"))

    def _require_settings(self) -> None:
        if not 0 < self.C < float("inf"):
            raise PlanError(f"C = {self.C}: must be a finite number above 0, e.g. 0.01")
