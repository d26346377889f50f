"""How a network is trained, and what of it is impossible; without torch, so that a plan is checked before it is run."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from sentinode.errors import PlanError

__all__ = ["TrainingPlan", "require_counts"]

_CHOICES: Mapping[str, tuple[str, ...]] = MappingProxyType({
    "optimizer": ("adam", "sgd"),
    "schedule": ("constant", "cosine"),
    "keep": ("best", "last"),
    "precision": ("auto", "bf16", "float32"),
    "device": ("auto", "cpu", "cuda", "mps"),
})


@dataclass(frozen=True)
class TrainingPlan:
    """How a network is trained.

    Parameters
    ----------
    epochs : int
        At most so many passes over the training images.
    batch_size : int
        Images a step; the batches of an epoch differ by one image at most, so that none is tiny.
    learning_rate : float
        Of the first epoch.
    patience : int
        Stop after so many epochs without a lower loss on the stop part. 0: never stop early.
    optimizer : {"adam", "sgd"}
        ``"sgd"`` has a Nesterov momentum of 0.9.
    schedule : {"constant", "cosine"}
        ``"cosine"`` lowers the learning rate over `epochs` along half a cosine, epoch by epoch.
    keep : {"best", "last"}
        Whose weights the network has in the end: those of the epoch with the lowest loss on the stop part, or
        those of the last epoch. ``"last"`` never stops early.
    precision : {"auto", "bf16", "float32"}
        Of convolutions and dense layers, the last one excepted; weights and loss are float32 always.
        ``"auto"`` takes bf16 where the device computes with it (`use_bf16`).
    device : {"auto", "cpu", "cuda", "mps"}
        ``"auto"`` takes CUDA or MPS where there is one.
    threads : int or None
        Of the CPU. The last bits of a sum depend on it; None takes what torch has been set to.

    Raises
    ------
    PlanError
        If a value is impossible.

    Examples
    --------
    >>> TrainingPlan(epochs=0)
    Traceback (most recent call last):
    sentinode.errors.PlanError: epochs = 0: it must be a whole number, 1 or more
    """

    epochs: int = 30
    batch_size: int = 64
    learning_rate: float = 1e-3
    patience: int = 8
    optimizer: str = "adam"
    schedule: str = "cosine"
    keep: str = "best"
    precision: str = "auto"
    device: str = "auto"
    threads: int | None = None

    def __post_init__(self) -> None:
        require_counts(epochs=self.epochs, batch_size=self.batch_size)
        require_counts(0, patience=self.patience)
        if self.threads is not None:
            require_counts(threads=self.threads)
        rate = self.learning_rate
        if isinstance(rate, bool) or not isinstance(rate, (int, float)) or not 0 < rate < math.inf:
            raise PlanError(f"learning_rate = {rate!r}: it must be a positive number, e.g. 0.001")
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise PlanError(f"{name} = {getattr(self, name)!r}: it must be one of {', '.join(choices)}")

    def rate(self, epoch: int) -> float:
        """Give the learning rate of an epoch, counted from 1.

        Parameters
        ----------
        epoch : int
            1 to `epochs`.

        Returns
        -------
        float
            `learning_rate` in the first epoch.

        Examples
        --------
        >>> [round(TrainingPlan(epochs=4, learning_rate=1.0).rate(epoch), 3) for epoch in (1, 2, 3, 4)]
        [1.0, 0.854, 0.5, 0.146]
        """
        if self.schedule == "constant":
            return self.learning_rate
        return self.learning_rate * (1 + math.cos(math.pi * (epoch - 1) / self.epochs)) / 2


def require_counts(least: int = 1, **settings: object) -> None:
    """Refuse settings that are no whole numbers.

    Parameters
    ----------
    least : int
        The smallest that will do.
    **settings : object
        By their names.

    Raises
    ------
    PlanError
        Names the first that is none, or smaller.

    Examples
    --------
    >>> require_counts(members=0)
    Traceback (most recent call last):
    sentinode.errors.PlanError: members = 0: it must be a whole number, 1 or more
    """
    for name, value in settings.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise PlanError(f"{name} = {value!r}: it must be a whole number, {least} or more")
