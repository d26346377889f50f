"""A small network with one hidden layer on the features of an encoder; trained without torch."""

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, softmax
from sklearn.base import BaseEstimator
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier
from sklearn.utils.validation import check_is_fitted

from sentinode.algorithms.description import EpochRecord, LayerRow
from sentinode.algorithms.registry import PatchSequence
from sentinode.algorithms.samples import encode_labels
from sentinode.algorithms.vectors import Vectors, input_row
from sentinode.errors import PlanError
from sentinode.seeds import stream

__all__ = ["MLPHead"]

_BATCH = 32  # small: a training part of few rows would get a step a pass from larger ones


class MLPHead(BaseEstimator):
    """A network of one hidden layer on features of an encoder.

    scikit-learn's perceptron (rectified units, Adam: Kingma and Ba 2015, arXiv:1412.6980), for a fixed number of
    passes. Only its weights are kept.

    Parameters
    ----------
    seed : int
        Draws the first weights and the order of the batches.
    hidden : int
        Units of the hidden layer.
    penalty : float
        On the squared weights.
    passes : int
        Over the training part.
    learning_rate : float
        Of Adam.

    Attributes
    ----------
    classes_ : (k,) str
        Sorted labels.
    weights_, constants_ : list of arrays
        Of the two layers.

    Examples
    --------
    >>> features = np.array([[[0.0, 5.0]], [[1.0, 5.0]], [[8.0, 5.0]], [[9.0, 5.0]]], np.float32)
    >>> head = MLPHead(passes=200).fit(features, ["normal", "normal", "tumour", "tumour"])
    >>> head.predict_proba(features).argmax(axis=1).tolist()
    [0, 0, 1, 1]
    """

    TAKES_FEATURES = True
    SEARCH_SPACE: ClassVar[Mapping[str, tuple[object, ...]]] = MappingProxyType({
        "hidden": (16, 64, 256),
        "penalty": (0.01, 0.1, 1.0, 10.0),
        "passes": (30, 100, 300),
    })

    def __init__(
        self,
        seed: int = 1,
        hidden: int = 64,
        penalty: float = 1.0,
        passes: int = 100,
        learning_rate: float = 1e-3,
    ) -> None:
        self.seed = seed
        self.hidden = hidden
        self.penalty = penalty
        self.passes = passes
        self.learning_rate = learning_rate

    def fit(
        self,
        X: PatchSequence,
        y: ArrayLike,
        *,
        stop: tuple[PatchSequence, ArrayLike] | None = None,  # noqa: ARG002 - the number of passes is a setting
        on_epoch: Callable[[EpochRecord], None] | None = None,  # noqa: ARG002 - as stop
        checkpoint: Path | None = None,  # noqa: ARG002 - as stop
    ) -> Self:
        """Train the two layers.

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
        MLPHead
            Itself, fitted.

        Raises
        ------
        PlanError
            If a setting is impossible.
        """
        self._require_settings()
        self.classes_, codes = encode_labels(X, y)
        self.vectors_ = Vectors().fit(X)
        network = MLPClassifier(
            (self.hidden,),
            alpha=self.penalty,
            batch_size=min(_BATCH, len(codes)),
            max_iter=self.passes,
            learning_rate_init=self.learning_rate,
            n_iter_no_change=self.passes + 1,
            random_state=int(stream(self.seed, "mlp-head").integers(2**31)),
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # so many passes were asked for
            network.fit(self.vectors_.transform(X), codes)
        self.weights_, self.constants_ = list(network.coefs_), list(network.intercepts_)
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
        hidden = np.maximum(self.vectors_.transform(X) @ self.weights_[0] + self.constants_[0], 0)  # (n, hidden)
        scores = hidden @ self.weights_[1] + self.constants_[1]  # (n, 1) for two classes, else (n, k)
        if scores.shape[1] > 1:
            return np.asarray(softmax(scores, axis=1), dtype=np.float32)
        second = expit(scores)
        return np.hstack([1 - second, second]).astype(np.float32)

    def describe(self, size: tuple[int, int]) -> tuple[LayerRow, ...]:
        """Describe the steps.

        Parameters
        ----------
        size : (h, w)
            Of the images in pixels; ``(1, d)`` for features.

        Returns
        -------
        tuple of LayerRow
            Standardisation and two layers.
        """
        self._require_settings()
        d, row = input_row(size)
        k = len(self.classes_) if hasattr(self, "classes_") else 2
        outputs, hidden = (1 if k == 2 else k), self.hidden
        return (
            row,
            LayerRow("dense", f"{hidden}", hidden * (d + 1), hidden * d, "rectified"),
            LayerRow("dense", f"{k}", outputs * (hidden + 1), outputs * hidden, "probabilities"),
        )

    def _require_settings(self) -> None:
        for name in ("hidden", "passes"):
            if getattr(self, name) < 1:
                raise PlanError(f"{name} = {getattr(self, name)}: must be 1 or more")
        if not 0 <= self.penalty < float("inf"):
            raise PlanError(f"penalty = {self.penalty}: must be a finite number of at least 0")
        if not 0 < self.learning_rate < float("inf"):
            raise PlanError(f"learning_rate = {self.learning_rate}: must be a finite number above 0, e.g. 0.001")
