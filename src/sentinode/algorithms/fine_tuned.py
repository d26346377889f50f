"""What the recipes around EfficientNet-lite0 share once they are trained, and how they are: all but what is trained."""

from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from sentinode.algorithms.registry import PatchSequence
from sentinode.algorithms.samples import require_size
from sentinode.algorithms.training_plan import TrainingPlan

if TYPE_CHECKING:
    from torch import nn

__all__ = ["FineTuned"]


class FineTuned(BaseEstimator):
    """A network that is trained as `_training_plan` says, and asked through the standardiser of ImageNet.

    Attributes
    ----------
    size_ : (h, w)
        Of the training patches in pixels.
    network_ : nn.Module
        Trained.
    """

    EXTRA: ClassVar[str] = "train"

    batch_size: int
    learning_rate: float
    precision: str
    device: str
    threads: int | None
    size_: tuple[int, int]
    network_: "nn.Module"

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
        from sentinode.algorithms import fine_tuning, training  # noqa: PLC0415 - they import torch

        check_is_fitted(self)
        require_size(X, self.size_)
        return training.predict_network(
            self.network_,
            X,
            prepare=fine_tuning.IMAGENET_STANDARDISER,
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
        from sentinode.algorithms import fine_tuning, training  # noqa: PLC0415 - they import torch

        check_is_fitted(self)
        return training.WholeNetwork(self.network_, fine_tuning.IMAGENET_STANDARDISER)

    def _training_plan(self, epochs: int) -> TrainingPlan:
        return TrainingPlan(
            epochs=epochs,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            patience=0,
            keep="last",
            precision=self.precision,
            device=self.device,
            threads=self.threads,
        )
