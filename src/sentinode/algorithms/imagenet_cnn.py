"""The default: a small network that has seen ImageNet, fine-tuned on one's own patches."""

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, ClassVar, Self

from numpy.typing import ArrayLike

from sentinode.algorithms.description import EpochRecord, LayerRow
from sentinode.algorithms.efficientnet_lite import describe_fine_tuned, n_epochs, network_side
from sentinode.algorithms.fine_tuned import FineTuned
from sentinode.algorithms.registry import PatchSequence
from sentinode.algorithms.samples import encode_labels, encode_stop, patch_size
from sentinode.algorithms.training_plan import require_counts
from sentinode.errors import PlanError

if TYPE_CHECKING:
    from torch import nn

__all__ = ["ImageNetCNN", "ImageNetEnsemble"]


class ImageNetCNN(FineTuned):
    """EfficientNet-lite0 with ImageNet weights, fine-tuned under stains of other laboratories.

    Three things make it see on slides of another scanner what it saw on its own: its batch norms keep the
    statistics of ImageNet, its training patches get the stain and the camera of a random laboratory in every
    epoch, and they are turned at random. Everything else is plain: Adam, a learning rate that falls to zero
    along half a cosine, the weights of the last epoch.

    Parameters
    ----------
    epochs : int
        At most so many passes over the training patches.
    patches_seen : int
        No more epochs than see about so many patches, but two at least.
    batch_size : int
        Patches a step.
    learning_rate : float
        Of the first epoch.
    enlarge : float
        How many times larger than it is the network sees a patch; 288 px at most.
    dropout : float
        Share of the 1,280 features that are dropped before the last layer, in training.
    members : int
        Networks whose probabilities are averaged; each is trained from a seed of its own.
    views : {1, 8}
        Orientations of a patch that are averaged when it is recognised; 8 takes eight times as long.
    pretrained : bool
        False starts from random weights (for comparison).
    precision : {"auto", "bf16", "float32"}
        ``"auto"`` takes bf16 where the CPU or the device computes with it.
    device : {"auto", "cpu", "cuda", "mps"}
        ``"auto"`` takes CUDA or MPS where there is one.
    threads : int, optional
        Of the CPU; None takes what torch has been set to. Another number of threads changes the last bits.
    seed : int
        Where the last layer's weights, the order of the patches, augmentation and dropout come from.

    Attributes
    ----------
    classes_ : (k,) str
        Sorted labels.
    size_ : (h, w)
        Of the training patches in pixels.
    network_ : nn.Module
        The trained network or networks, on the CPU.
    training_ : TrainingLog
        Of the last member: best epoch, device, precision.
    log_ : tuple of EpochRecord
        One an epoch, member after member.

    Examples
    --------
    >>> rows = ImageNetCNN().describe((96, 96))
    >>> rows[0].name, sum(row.parameters for row in rows)
    ('enlarge to 144 px', 3373570)
    """

    STAGE: ClassVar[str] = "train"
    SEARCH_SPACE: ClassVar[Mapping[str, tuple[object, ...]]] = MappingProxyType({
        "learning_rate": (2.5e-4, 5e-4, 1e-3),
        "batch_size": (16, 32),
        "dropout": (0.2, 0.5),
    })

    def __init__(  # noqa: PLR0913 - scikit-learn's contract: every setting is an argument
        self,
        *,
        epochs: int = 12,
        patches_seen: int = 20_000,
        batch_size: int = 32,
        learning_rate: float = 5e-4,
        enlarge: float = 1.5,
        dropout: float = 0.2,
        members: int = 1,
        views: int = 1,
        pretrained: bool = True,
        precision: str = "auto",
        device: str = "auto",
        threads: int | None = None,
        seed: int = 1,
    ) -> None:
        self.epochs = epochs
        self.patches_seen = patches_seen
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.enlarge = enlarge
        self.dropout = dropout
        self.members = members
        self.views = views
        self.pretrained = pretrained
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
        """Fine-tune the network.

        Parameters
        ----------
        X : (n, h, w, 3) uint8
            Patches of the training patients.
        y : (n,) str
            Their labels.
        stop : (X, y), optional
            Patches of other patients; their loss is logged and chooses nothing.
        on_epoch : callable, optional
            Called with each epoch's record.
        checkpoint : Path, optional
            Folder to go on from after an interruption (`fit_network`).

        Returns
        -------
        ImageNetCNN
            Itself, fitted.

        Raises
        ------
        PlanError
            If a setting is impossible.
        ModelError
            If there are fewer than two classes, the stop part has a class that was not trained, or the
            training diverges.
        MissingExtra
            If torch or the weights are not installed.
        """
        # MissingExtra and the errors of the parts are raised where they are found.
        from sentinode.algorithms import fine_tuning, training  # noqa: PLC0415 - they import torch

        self._check()
        self.classes_, codes = encode_labels(X, y)
        self.size_ = patch_size(X)
        side = network_side(self.size_, self.enlarge)
        plan = self._training_plan(n_epochs(len(X), self.epochs, self.patches_seen))
        held_out = encode_stop(stop, self.classes_, self.size_)
        networks: list[nn.Sequential] = []
        self.log_: tuple[EpochRecord, ...] = ()
        for member in range(1, self.members + 1):
            seed = self.seed + 1_000_003 * (member - 1)  # the first one is the single network of the same seed
            network = fine_tuning.fine_tunable(side, len(self.classes_), self.dropout, seed, pretrained=self.pretrained)
            self.training_ = training.fit_network(
                network,
                X,
                codes,
                prepare=fine_tuning.IMAGENET_STANDARDISER,
                plan=plan,
                seed=seed,
                stop=held_out,
                augment=fine_tuning.other_laboratory,
                on_epoch=on_epoch,
                checkpoint=checkpoint,
                stage=self.STAGE if self.members == 1 else f"member {member}",
            )
            networks.append(network)
            self.log_ += self.training_.records
        single = self.members == 1 and self.views == 1
        self.network_ = networks[0] if single else fine_tuning.AveragedNetworks(networks, self.views).eval()
        return self

    def describe(self, size: tuple[int, int]) -> tuple[LayerRow, ...]:
        """Describe the network stage by stage, without training.

        Parameters
        ----------
        size : (h, w)
            Of the patches in pixels.

        Returns
        -------
        tuple of LayerRow
            Of one member and one view; the softmax last.

        Raises
        ------
        PlanError
            If a setting is impossible.
        """
        # PlanError is that of the parts.
        self._check()
        return describe_fine_tuned(size, self.enlarge, len(self.classes_) if hasattr(self, "classes_") else 2)

    def _check(self) -> None:
        self._training_plan(self.epochs)
        require_counts(patches_seen=self.patches_seen, members=self.members)
        if self.views not in (1, 8):
            raise PlanError(f"views = {self.views!r}: it must be 1 or 8")
        share = self.dropout
        if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 <= share < 1:
            raise PlanError(f"dropout = {share!r}: it must be a number from 0 to below 1, e.g. 0.2")


class ImageNetEnsemble(ImageNetCNN):
    """The most that an hour of training buys: three networks of the default, each asked about eight orientations.

    As `ImageNetCNN` but for the defaults of `members` and `views`: three times the training, twenty-four times
    the recognising.
    """

    def __init__(  # noqa: PLR0913 - scikit-learn's contract: every setting is an argument
        self,
        *,
        epochs: int = 12,
        patches_seen: int = 20_000,
        batch_size: int = 32,
        learning_rate: float = 5e-4,
        enlarge: float = 1.5,
        dropout: float = 0.2,
        members: int = 3,
        views: int = 8,
        pretrained: bool = True,
        precision: str = "auto",
        device: str = "auto",
        threads: int | None = None,
        seed: int = 1,
    ) -> None:
        super().__init__(
            epochs=epochs,
            patches_seen=patches_seen,
            batch_size=batch_size,
            learning_rate=learning_rate,
            enlarge=enlarge,
            dropout=dropout,
            members=members,
            views=views,
            pretrained=pretrained,
            precision=precision,
            device=device,
            threads=threads,
            seed=seed,
        )
