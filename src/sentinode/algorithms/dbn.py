"""The deep belief network: a stack of Boltzmann machines, pre-trained without labels, then fine-tuned."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from sentinode.algorithms.description import EpochRecord, LayerRow
from sentinode.algorithms.registry import PatchSequence
from sentinode.algorithms.samples import encode_labels, encode_stop, patch_size, require_size
from sentinode.algorithms.training_plan import TrainingPlan
from sentinode.errors import PlanError

if TYPE_CHECKING:
    from torch import nn

    from sentinode.algorithms.pretraining import Inputs
    from sentinode.algorithms.rbm import PretrainingPlan

__all__ = ["DeepBeliefNetwork"]

AUGMENTATIONS = ("none", "orientations")
HIDDEN: Mapping[str, tuple[int, ...]] = MappingProxyType({
    "pca": (512, 512, 512, 512, 512, 512),
    "pixels": (192, 384, 384, 384, 384, 384),  # 27,648 x 192 weights lie in the lowest machine alone
})
"""Default hidden units by kind of inputs: with softmax seven weight layers, as the founding network has."""

VISIBLE_SD: Mapping[str, float] = MappingProxyType({"pca": 0.2, "pixels": 1.0})
"""Default noise of the Gaussian units by kind of inputs, in standard deviations of the data."""

GAUSSIAN_LEARNING_RATE: Mapping[str, float] = MappingProxyType({"pca": 1e-3, "pixels": 1e-4})
"""Default learning rate of the lowest machine by kind of inputs."""


class DeepBeliefNetwork(BaseEstimator):
    """Six Boltzmann machines, one upon the other, and a softmax; learnt greedily, then as a whole.

    The lowest machine has Gaussian visible units, the others binary ones; all hidden units are sigmoid units.
    Each machine learns, without labels, to model the hidden probabilities of the one below by contrastive
    divergence (Hinton, Osindero and Teh 2006; meta-parameters after Hinton 2010, "A practical guide to
    training restricted Boltzmann machines"). Then a softmax is put on top, and the whole is trained on the
    labels by back-propagation, with the training loop of every network here.

    The inputs are all the pixels of a patch, standardised position by position, or the first principal
    components of these, whitened. Whitened components are uncorrelated, and a machine whose visible units
    have as much noise as data has nothing to gain from them: `visible_sd` makes the noise smaller.

    Parameters
    ----------
    inputs : {"pca", "pixels"}
        What the lowest machine sees.
    n_components : int
        Principal components, where `inputs` is ``"pca"``; fewer where the training patches span fewer.
    visible_sd : float, optional
        Noise of the Gaussian units in standard deviations of the data; None: 0.2 for ``"pca"``, 1 for
        ``"pixels"``.
    hidden : sequence of int, optional
        Hidden units of each machine, from the bottom; None: six times 512 for ``"pca"``, 192 and five times
        384 for ``"pixels"``.
    augment : {"none", "orientations"}
        ``"orientations"`` turns and mirrors each training patch at random, in each epoch anew, in both
        stages.
    pretraining_epochs : int
        Passes over the training patches for each machine. 0 leaves pre-training out: the weights are drawn at
        random (Glorot and Bengio 2010), which shows what pre-training is worth.
    gaussian_learning_rate : float, optional
        Of the lowest machine; None: 0.001 for ``"pca"``, 0.0001 for ``"pixels"``, whose many correlated units
        all pull a hidden unit the same way.
    rbm_learning_rate : float
        Of the other machines.
    cd_k : int
        Gibbs steps an update.
    persistent : bool
        Keep the chains from one update to the next (PCD).
    weight_decay : float
        L2 on the weights in pre-training.
    sparsity_target : float, optional
        Wished mean activity of the hidden units; 0 (or None, which a plan in TOML cannot say): free.
    pretraining_batch_size : int
        Patches an update in pre-training.
    epochs : int
        Of fine-tuning, at most.
    batch_size : int
        Patches a step in fine-tuning.
    learning_rate : float
        Of the first epoch of fine-tuning.
    l2 : float
        Penalty of fine-tuning: ``l2 * sum(w^2) / 2`` over all weights, biases excepted.
    dropout : float
        Share of the hidden units of each layer that a step of fine-tuning drops.
    patience : int
        Stop after so many epochs without a lower log loss on the stop part; 0: never.
    precision : {"auto", "bf16", "float32"}
        Of fine-tuning; pre-training is in float32. Layers this small gain nothing from bf16 on a CPU.
    device : {"auto", "cpu", "cuda", "mps"}
        ``"auto"`` takes CUDA or MPS where there is one.
    threads : int, optional
        Of the CPU; None takes what torch has been set to. Another number of threads changes the last bits.
    seed : int
        Where weights, Gibbs samples, order of the patches, augmentation and dropout come from.

    Attributes
    ----------
    classes_ : (k,) str
        Sorted labels.
    size_ : (h, w)
        Of the training patches in pixels.
    inputs_ : callable
        (b, 3, h, w) uint8 tensor -> what the network sees.
    machines_ : tuple of RestrictedBoltzmannMachine
        As pre-training left them.
    network_ : nn.Sequential
        The fine-tuned network, on the CPU.
    training_ : TrainingLog
        Of the fine-tuning: best epoch, device, precision.
    log_ : tuple of EpochRecord
        Stages ``"rbm-1"``, ``"rbm-2"``, ..., ``"fine-tuning"``.

    Examples
    --------
    >>> rows = DeepBeliefNetwork().describe((96, 96))
    >>> [row.output for row in rows if "RBM" in row.note]
    ['512', '512', '512', '512', '512', '512']
    >>> sum(row.parameters for row in rows)
    4974722
    """

    EXTRA: ClassVar[str] = "train"
    SEARCH_SPACE: ClassVar[Mapping[str, tuple[object, ...]]] = MappingProxyType({
        # Every pair of the two has 0.5 to 2 times the parameters of the founding network at 96 x 96 px: a tuned
        # network must not win by its size. 64 components with 256 units would have less than half.
        "n_components": (96, 128, 192),
        "hidden": (None, (256,) * 6, (768,) * 6),
        "visible_sd": (None, 0.1, 0.33),
        "augment": AUGMENTATIONS,
        "pretraining_epochs": (20, 40, 80),
        "rbm_learning_rate": (0.03, 0.1),
        "sparsity_target": (0.0, 0.05, 0.1),
        "cd_k": (1, 3),
        "learning_rate": (1e-4, 3e-4, 1e-3),
        "epochs": (20, 40),
        "dropout": (0.0, 0.2),
    })

    def __init__(  # noqa: PLR0913 - scikit-learn's contract: every setting is an argument
        self,
        *,
        inputs: str = "pca",
        n_components: int = 128,
        visible_sd: float | None = None,
        hidden: Sequence[int] | None = None,
        augment: str = "none",
        pretraining_epochs: int = 40,
        gaussian_learning_rate: float | None = None,
        rbm_learning_rate: float = 0.1,
        cd_k: int = 1,
        persistent: bool = False,
        weight_decay: float = 2e-4,
        sparsity_target: float | None = 0.1,
        pretraining_batch_size: int = 64,
        epochs: int = 40,
        batch_size: int = 64,
        learning_rate: float = 3e-4,
        l2: float = 0.0,
        dropout: float = 0.0,
        patience: int = 12,
        precision: str = "float32",
        device: str = "auto",
        threads: int | None = None,
        seed: int = 1,
    ) -> None:
        self.inputs = inputs
        self.n_components = n_components
        self.visible_sd = visible_sd
        self.hidden = hidden
        self.augment = augment
        self.pretraining_epochs = pretraining_epochs
        self.gaussian_learning_rate = gaussian_learning_rate
        self.rbm_learning_rate = rbm_learning_rate
        self.cd_k = cd_k
        self.persistent = persistent
        self.weight_decay = weight_decay
        self.sparsity_target = sparsity_target
        self.pretraining_batch_size = pretraining_batch_size
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.l2 = l2
        self.dropout = dropout
        self.patience = patience
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
        """Pre-train the machines, then fine-tune the network.

        Parameters
        ----------
        X : (n, h, w, 3) uint8
            Patches of the training patients.
        y : (n,) str
            Their labels; pre-training does not look at them.
        stop : (X, y), optional
            Patches of other patients. Pre-training only logs how well it models them; in fine-tuning they
            choose the epoch whose weights are kept.
        on_epoch : callable, optional
            Called with each epoch's record.
        checkpoint : Path, optional
            Folder to go on from after an interruption: at the machine, or at the epoch of fine-tuning, that
            was being trained.

        Returns
        -------
        DeepBeliefNetwork
            Itself, fitted.

        Raises
        ------
        PlanError
            If a setting is impossible.
        ModelError
            If there are fewer than two classes, the stop part has a class that was not trained, or the
            training diverges.
        MissingExtra
            If torch is not installed.
        """
        # MissingExtra and the errors of the parts are raised where they are found.
        from sentinode.algorithms.pretraining import sigmoid_network  # noqa: PLC0415 - it imports torch
        from sentinode.algorithms.training import (  # noqa: PLC0415 - as above
            decay_penalty,
            fit_network,
            random_orientations,
        )

        self._check()
        plan = self._fine_tuning_plan()
        self.classes_, codes = encode_labels(X, y)
        self.size_ = patch_size(X)
        known_stop = encode_stop(stop, self.classes_, self.size_)
        with _threads(self.threads):
            self.inputs_ = self._measured_inputs(X)
            watched = None if known_stop is None else known_stop[0]
            pretraining = self._pretrain(X, watched, on_epoch, checkpoint)
            self.network_ = sigmoid_network(
                self.machines_,
                len(self.classes_),
                dropout=self.dropout,
                fresh=self.pretraining_epochs == 0,
                seed=self.seed,
            )
        self.training_ = fit_network(
            self.network_,
            X,
            codes,
            prepare=self.inputs_,
            plan=plan,
            seed=self.seed,
            stop=known_stop,
            penalty=decay_penalty(self.l2) if self.l2 else None,
            augment=random_orientations if self.augment == "orientations" else None,
            on_epoch=on_epoch,
            checkpoint=checkpoint,
            stage="fine-tuning",
        )
        self.log_ = (*pretraining, *self.training_.records)
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
            prepare=self.inputs_,
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
        return WholeNetwork(self.network_, self.inputs_)

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
            If a setting is impossible.
        """
        # PlanError is that of the two.
        self._check()
        self._fine_tuning_plan()
        n_pixels = size[0] * size[1] * 3
        rows = [LayerRow("standardise", str(n_pixels), 2 * n_pixels, n_pixels, "per pixel and channel")]
        width = n_pixels
        if self.inputs == "pca":
            width = self._n_components()
            # The means of the components fold into one number each.
            n_projection = n_pixels * width
            note = "whitened; measured, not fine-tuned"
            rows.append(LayerRow("principal components", str(width), n_projection + width, n_projection, note))
        for level, n_hidden in enumerate(self._hidden(), start=1):
            units = "Gaussian" if level == 1 else "Bernoulli"
            note = f"{units}-Bernoulli RBM; {width} visible biases more in pre-training"
            n_weights = width * n_hidden
            rows.append(LayerRow(f"sigmoid {level}", str(n_hidden), n_weights + n_hidden, n_weights, note))
            width = n_hidden
        n_classes = len(self.classes_) if hasattr(self, "classes_") else 2
        rows.append(LayerRow("softmax", str(n_classes), (width + 1) * n_classes, width * n_classes))
        return tuple(rows)

    def _measured_inputs(self, X: PatchSequence) -> "Inputs":
        from sentinode.algorithms.pretraining import (  # noqa: PLC0415 - it imports torch
            PixelInputs,
            WhitenedInputs,
        )
        from sentinode.algorithms.training import Standardiser  # noqa: PLC0415 - as above

        standardiser = Standardiser.of(X, per="pixel")
        visible_sd = VISIBLE_SD[self.inputs] if self.visible_sd is None else self.visible_sd
        if self.inputs == "pixels":
            return PixelInputs(standardiser, visible_sd)
        return WhitenedInputs.of(
            X,
            standardiser,
            n_components=self.n_components,
            visible_sd=visible_sd,
            augment=self.augment == "orientations",
            seed=self.seed,
        )

    def _pretrain(
        self,
        X: PatchSequence,
        stop: PatchSequence | None,
        on_epoch: Callable[[EpochRecord], None] | None,
        checkpoint: Path | None,
    ) -> tuple[EpochRecord, ...]:
        from sentinode.algorithms.pretraining import pretrain_stack  # noqa: PLC0415 - it imports torch
        from sentinode.algorithms.training import use_device  # noqa: PLC0415 - as above

        self.machines_, records = pretrain_stack(
            X,
            self.inputs_,
            [(n_hidden, self._pretraining_plan(level)) for level, n_hidden in enumerate(self._hidden())],
            augment=self.augment == "orientations",
            batch_size=self.pretraining_batch_size,
            seed=self.seed,
            stop=stop,
            device=use_device(self.device),
            on_epoch=on_epoch,
            checkpoint=checkpoint,
        )
        return records

    def _pretraining_plan(self, level: int) -> "PretrainingPlan":
        from sentinode.algorithms.rbm import PretrainingPlan  # noqa: PLC0415 - it imports torch

        lowest = self.gaussian_learning_rate
        if lowest is None:
            lowest = GAUSSIAN_LEARNING_RATE[self.inputs]
        return PretrainingPlan(
            epochs=self.pretraining_epochs,
            learning_rate=self.rbm_learning_rate if level else lowest,
            cd_k=self.cd_k,
            persistent=self.persistent,
            weight_decay=self.weight_decay,
            sparsity_target=self.sparsity_target or None,  # 0: free
        )

    def _fine_tuning_plan(self) -> TrainingPlan:
        return TrainingPlan(
            epochs=self.epochs,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            patience=self.patience,
            precision=self.precision,
            device=self.device,
            threads=self.threads,
        )

    def _hidden(self) -> tuple[int, ...]:
        return HIDDEN[self.inputs] if self.hidden is None else tuple(self.hidden)

    def _n_components(self) -> int:
        return self.inputs_.n_components if hasattr(self, "inputs_") else self.n_components

    def _check(self) -> None:
        for name, choices in (("inputs", tuple(HIDDEN)), ("augment", AUGMENTATIONS)):
            if getattr(self, name) not in choices:
                raise PlanError(f"{name} = {getattr(self, name)!r}: it must be one of {', '.join(choices)}")
        for name, least in _LEAST_COUNTS.items():
            if not _is_count(getattr(self, name), least):
                raise PlanError(f"{name} = {getattr(self, name)!r}: it must be a whole number, {least} or more")
        for name, (below, above, wish) in _RANGES.items():
            value = getattr(self, name)
            if value is None and name in _OPTIONAL:
                continue
            if not _is_number(value) or not below < value < above:
                raise PlanError(f"{name} = {value!r}: it must be {wish}")
        self._check_hidden()

    def _check_hidden(self) -> None:
        hidden = self._hidden() if self.hidden is None or isinstance(self.hidden, (list, tuple)) else ()
        if not hidden or not all(_is_count(width, 1) for width in hidden):
            raise PlanError(f"hidden = {self.hidden!r}: it must list the hidden units of each machine, e.g. [512, 512]")


_LEAST_COUNTS: Mapping[str, int] = MappingProxyType({
    "n_components": 1,
    "pretraining_epochs": 0,
    "cd_k": 1,
    "pretraining_batch_size": 1,
})
_BELOW_ZERO = -math.ulp(0.0)
_RANGES: Mapping[str, tuple[float, float, str]] = MappingProxyType({
    "visible_sd": (0.0, math.inf, "a positive number, e.g. 0.2"),
    "gaussian_learning_rate": (0.0, math.inf, "a positive number, e.g. 0.001"),
    "rbm_learning_rate": (0.0, math.inf, "a positive number, e.g. 0.1"),
    "weight_decay": (_BELOW_ZERO, math.inf, "a number, 0 or more, e.g. 0.0002"),
    "sparsity_target": (_BELOW_ZERO, 1.0, "a number from 0 (free) to less than 1, e.g. 0.1"),
    "l2": (_BELOW_ZERO, math.inf, "a number, 0 or more, e.g. 0.0001"),
    "dropout": (_BELOW_ZERO, 1.0, "a number from 0 to less than 1, e.g. 0.2"),
})
"""Setting -> above what, below what, in words."""

_OPTIONAL = frozenset({"visible_sd", "gaussian_learning_rate", "sparsity_target"})


def _is_count(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


@contextmanager
def _threads(n_threads: int | None) -> Iterator[None]:
    import torch  # noqa: PLC0415 - the module is read without it

    before = torch.get_num_threads()
    try:
        if n_threads is not None:
            torch.set_num_threads(n_threads)
        yield
    finally:
        torch.set_num_threads(before)
