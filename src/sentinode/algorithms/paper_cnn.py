"""The convolutional network of the founding experiment, or one's own as a list of layers."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from sentinode.algorithms.description import EpochRecord, LayerRow
from sentinode.algorithms.layers import Conv, Dense, Layer, Pool, build_network, parse_layers, trace_layers
from sentinode.algorithms.registry import PatchSequence
from sentinode.algorithms.samples import encode_labels, encode_stop, patch_size, require_size
from sentinode.algorithms.training_plan import TrainingPlan
from sentinode.errors import PlanError

if TYPE_CHECKING:
    from torch import nn

__all__ = ["PAPER_LAYERS", "PaperCNN"]

PAPER_LAYERS: tuple[Layer, ...] = (
    Conv(32, kernel=5),
    Pool("max"),
    Conv(64, kernel=5),
    Pool("max"),
    Conv(128, kernel=3),
    Pool("max"),
    Conv(128, kernel=3),
    Pool("max"),  # 6 x 6 x 128 at 96 or 100 px
    Dense(1024),
    Dense(512),
)
"""The founding network without its softmax."""

AUGMENTATIONS = ("none", "orientations")


class PaperCNN(BaseEstimator):
    """The founding experiment's network: four convolution and pooling stages, two dense layers, softmax.

    The source shows its network from the fourth pooling on (6 x 6 x 128) and the two dense layers; the widths
    before it (32 and 64 filters of 5x5, 128 and 128 of 3x3, zeros around the image) are our reading. ReLU
    throughout. Dense weights start from a normal of sd 0.01 cut at two sd; the three dense kernels, the
    softmax's included, have an L2 penalty of ``l2 * sum(w^2) / 2`` (TensorFlow 1's ``l2_regularizer``).
    Inputs are standardised per channel with mean and standard deviation of the training part. The optimiser
    is Adam, whose learning rate falls to zero along half a cosine; the epoch with the lowest log loss on the
    stop part is kept.

    Parameters
    ----------
    epochs : int
        At most so many passes over the training patches.
    batch_size : int
        Patches a step.
    learning_rate : float
        Of the first epoch.
    l2 : float
        Weight of the penalty.
    patience : int
        Stop after so many epochs without a lower log loss on the stop part; 0: never.
    augment : {"none", "orientations"}
        ``"orientations"`` turns and mirrors each training patch at random, in each epoch anew. The founding
        experiment did not, hence the default.
    layers : list of tables, optional
        A network of one's own (`sentinode.algorithms.layers`), without the softmax; None: the founding one.
    precision : {"auto", "bf16", "float32"}
        ``"auto"`` takes bf16 where the CPU or the device computes with it.
    device : {"auto", "cpu", "cuda", "mps"}
        ``"auto"`` takes CUDA or MPS where there is one.
    threads : int, optional
        Of the CPU; None takes what torch has been set to. Another number of threads changes the last bits.
    seed : int
        Where weights, order of the patches, augmentation and dropout come from.

    Attributes
    ----------
    classes_ : (k,) str
        Sorted labels.
    size_ : (h, w)
        Of the training patches in pixels.
    network_ : nn.Sequential
        The trained network, on the CPU.
    standardiser_ : Standardiser
        Mean and standard deviation of the training part.
    training_ : TrainingLog
        Best epoch, device, precision.
    log_ : tuple of EpochRecord
        One an epoch.

    Examples
    --------
    >>> rows = PaperCNN().describe((96, 96))
    >>> rows[7].output, sum(row.parameters for row in rows)
    ('6 x 6 x 128', 5520578)
    """

    EXTRA: ClassVar[str] = "train"
    SEARCH_SPACE: ClassVar[Mapping[str, tuple[object, ...]]] = MappingProxyType({
        "learning_rate": (1e-4, 3e-4, 1e-3),
        "batch_size": (16, 32, 64),
        "l2": (3e-4, 3e-3, 3e-2),
        "augment": AUGMENTATIONS,
    })

    def __init__(  # noqa: PLR0913 - scikit-learn's contract: every setting is an argument
        self,
        *,
        epochs: int = 30,
        batch_size: int = 64,
        learning_rate: float = 1e-3,
        l2: float = 0.003,
        patience: int = 8,
        augment: str = "none",
        layers: Sequence[Mapping[str, object]] | None = None,
        precision: str = "auto",
        device: str = "auto",
        threads: int | None = None,
        seed: int = 1,
    ) -> None:
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.l2 = l2
        self.patience = patience
        self.augment = augment
        self.layers = layers
        self.precision = precision
        self.device = device
        self.threads = threads
        self.seed = seed

    def fit(
        self,
        X: PatchSequence,
        y: ArrayLike,
        *,
        stop: tuple[PatchSequence, ArrayLike] | None = None,
        on_epoch: Callable[[EpochRecord], None] | None = None,
        checkpoint: Path | None = None,
    ) -> Self:
        """Train the network.

        Parameters
        ----------
        X : (n, h, w, 3) uint8
            Patches of the training patients.
        y : (n,) str
            Their labels.
        stop : (X, y), optional
            Patches of other patients; they choose the epoch whose weights are kept.
        on_epoch : callable, optional
            Called with each epoch's record.
        checkpoint : Path, optional
            Folder to go on from after an interruption (`fit_network`).

        Returns
        -------
        PaperCNN
            Itself, fitted.

        Raises
        ------
        PlanError
            If a setting is impossible, or a layer for patches of this size.
        ModelError
            If there are fewer than two classes, the stop part has a class that was not trained, or the
            training diverges.
        MissingExtra
            If torch is not installed.
        """
        # MissingExtra and the errors of the parts are raised where they are found.
        from sentinode.algorithms.training import (  # noqa: PLC0415 - it imports torch
            Standardiser,
            decay_penalty,
            fit_network,
            random_orientations,
        )

        layers = self._checked_layers()
        plan = self._training_plan()
        self.classes_, codes = encode_labels(X, y)
        self.size_ = patch_size(X)
        self.network_ = build_network(layers, self.size_, len(self.classes_), self.seed)
        self.standardiser_ = Standardiser.of(X)
        self.training_ = fit_network(
            self.network_,
            X,
            codes,
            prepare=self.standardiser_,
            plan=plan,
            seed=self.seed,
            stop=encode_stop(stop, self.classes_, self.size_),
            penalty=decay_penalty(self.l2) if self.l2 else None,
            augment=random_orientations if self.augment == "orientations" else None,
            on_epoch=on_epoch,
            checkpoint=checkpoint,
        )
        self.log_ = self.training_.records
        return self

    def predict_proba(self, X: PatchSequence) -> NDArray[np.float32]:
        """Recognise patches.

        Parameters
        ----------
        X : (n, h, w, 3) uint8
            Patches of the size seen in training.

        Returns
        -------
        (n, k) float32
            Softmax; rows sum to 1, columns as `classes_`.

        Raises
        ------
        ModelError
            If there are none, or they have another size than those in training.
        """
        # ModelError is require_size's.
        from sentinode.algorithms.training import predict_network  # noqa: PLC0415 - it imports torch

        check_is_fitted(self)
        require_size(X, self.size_)
        return predict_network(
            self.network_,
            X,
            prepare=self.standardiser_,
            precision=self.precision,
            device=self.device,
            threads=self.threads,
        )

    def as_network(self) -> "nn.Module":
        """Give the trained recogniser as one network, to be written to a file.

        Returns
        -------
        WholeNetwork
            (b, h, w, 3) uint8 -> (b, k) float32 probabilities; it shares its weights with this one.
        """
        from sentinode.algorithms.training import WholeNetwork  # noqa: PLC0415 - it imports torch

        check_is_fitted(self)
        return WholeNetwork(self.network_, self.standardiser_)

    def describe(self, size: tuple[int, int]) -> tuple[LayerRow, ...]:
        """Describe the network layer by layer, without training and without torch.

        Parameters
        ----------
        size : (h, w)
            Of the patches in pixels.

        Returns
        -------
        tuple of LayerRow
            The softmax last; it has as many units as there were classes in training, two before it.

        Raises
        ------
        PlanError
            If a setting is impossible, or a layer for patches of this size.
        """
        # PlanError is that of the parts.
        self._training_plan()
        n_classes = len(self.classes_) if hasattr(self, "classes_") else 2
        return trace_layers(self._checked_layers(), size, n_classes)

    def _training_plan(self) -> TrainingPlan:
        return TrainingPlan(
            epochs=self.epochs,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            patience=self.patience,
            precision=self.precision,
            device=self.device,
            threads=self.threads,
        )

    def _checked_layers(self) -> tuple[Layer, ...]:
        if isinstance(self.l2, bool) or not isinstance(self.l2, (int, float)) or not 0 <= self.l2 < float("inf"):
            raise PlanError(f"l2 = {self.l2!r}: it must be a number, 0 or more, e.g. 0.003")
        if self.augment not in AUGMENTATIONS:
            raise PlanError(f"augment = {self.augment!r}: it must be one of {', '.join(AUGMENTATIONS)}")
        return PAPER_LAYERS if self.layers is None else parse_layers(self.layers)
