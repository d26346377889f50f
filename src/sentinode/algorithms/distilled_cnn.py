"""A small network that learned from the default one what it answers, for slides in a fraction of the time."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import ClassVar, Self

from numpy.typing import ArrayLike

from sentinode.algorithms.description import EpochRecord, LayerRow
from sentinode.algorithms.efficientnet_lite import STAGES, describe_body, n_epochs
from sentinode.algorithms.fine_tuned import FineTuned
from sentinode.algorithms.imagenet_cnn import ImageNetCNN
from sentinode.algorithms.registry import PatchSequence
from sentinode.algorithms.samples import encode_labels, encode_stop, patch_size
from sentinode.algorithms.training_plan import require_counts
from sentinode.errors import ModelError, PlanError

__all__ = ["SMALL_STAGES", "DistilledCNN"]

SMALL_STAGES = (*STAGES[:4], replace(STAGES[4], blocks=1))
"""Of EfficientNet-lite0, what the student has: nine of sixteen blocks, a tenth of the weights, without the head."""


class _Teacher(ImageNetCNN):
    STAGE: ClassVar[str] = "teacher"


class DistilledCNN(FineTuned):
    """The first stages of the default network, which learned the answers of all of it.

    `ImageNetCNN`, the teacher, is trained first, as always. Then the student, its first nine blocks with the weights
    of ImageNet, sees each training patch as it is, not enlarged, in the stain and the camera of a random laboratory,
    turned, every second one blended with another patch, and learns what the teacher says of that very image
    (`Teacher`).

    Parameters
    ----------
    epochs : int
        At most so many passes over the training patches.
    patches_seen : int
        No more epochs than show the student about so many patches, but two at least.
    batch_size : int
        Patches a step.
    learning_rate : float
        Of the first epoch; it falls to zero along half a cosine.
    temperature : float
        1 or more: how much of what the teacher holds unlikely counts.
    teacher_patches_seen : int
        ``patches_seen`` of the teacher.
    teacher_learning_rate : float
        ``learning_rate`` of the teacher.
    precision : {"auto", "bf16", "float32"}
        ``"auto"`` takes bf16 where the CPU or the device computes with it.
    device : {"auto", "cpu", "cuda", "mps"}
        ``"auto"`` takes CUDA or MPS where there is one.
    threads : int, optional
        Of the CPU; None takes what torch has been set to. Another number of threads changes the last bits.
    seed : int
        Where the last layer's weights, the order of the patches and augmentation come from, the teacher's included.

    Attributes
    ----------
    classes_ : (k,) str
        Sorted labels.
    size_ : (h, w)
        Of the training patches in pixels.
    network_ : nn.Sequential
        The student, on the CPU.
    teacher_ : ImageNetCNN
        Fitted.
    training_ : TrainingLog
        Of the student.
    log_ : tuple of EpochRecord
        One an epoch, the teacher's first.

    Examples
    --------
    >>> rows = DistilledCNN().describe((96, 96))
    >>> sum(row.parameters for row in rows), sum(row.multiply_adds for row in rows)
    (360514, 32634656)
    """

    SEARCH_SPACE: ClassVar[Mapping[str, tuple[object, ...]]] = MappingProxyType({
        "learning_rate": (5e-4, 1e-3, 2e-3),
        "temperature": (1.0, 2.0, 4.0),
    })

    def __init__(  # noqa: PLR0913 - scikit-learn's contract: every setting is an argument
        self,
        *,
        epochs: int = 40,
        patches_seen: int = 20_000,
        batch_size: int = 32,
        learning_rate: float = 1e-3,
        temperature: float = 2.0,
        teacher_patches_seen: int = 20_000,
        teacher_learning_rate: float = 5e-4,
        precision: str = "auto",
        device: str = "auto",
        threads: int | None = None,
        seed: int = 1,
    ) -> None:
        self.epochs = epochs
        self.patches_seen = patches_seen
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.temperature = temperature
        self.teacher_patches_seen = teacher_patches_seen
        self.teacher_learning_rate = teacher_learning_rate
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
        """Train the teacher, then the student.

        Parameters
        ----------
        X : (n, h, w, 3) uint8
            Patches of the training patients.
        y : (n,) str
            Their labels; the student learns the teacher's answers in place of them.
        stop : (X, y), optional
            Patches of other patients; their loss is logged and chooses nothing.
        on_epoch : callable, optional
            Called with each epoch's record; its stage is ``"teacher"`` or ``"student"``.
        checkpoint : Path, optional
            Folder to go on from after an interruption (`fit_network`).

        Returns
        -------
        DistilledCNN
            Itself, fitted.

        Raises
        ------
        PlanError
            If a setting is impossible.
        ModelError
            If there are fewer than two classes, the stop part has a class that was not trained, or a training
            diverges.
        MissingExtra
            If torch or the teacher's weights are not installed.
        """
        # MissingExtra and the errors of the parts are raised where they are found.
        from sentinode.algorithms import fine_tuning, training  # noqa: PLC0415 - they import torch

        self._check()
        self.classes_, codes = encode_labels(X, y)
        self.size_ = patch_size(X)
        self.teacher_ = self._teacher()
        try:
            self.teacher_.fit(X, y, stop=stop, on_epoch=on_epoch, checkpoint=checkpoint)
        except ModelError as error:
            raise ModelError(str(error).replace("learning_rate", "teacher_learning_rate")) from error
        self.network_ = fine_tuning.small_student(SMALL_STAGES, len(self.classes_), self.seed)
        self.training_ = training.fit_network(
            self.network_,
            X,
            codes,
            prepare=fine_tuning.IMAGENET_STANDARDISER,
            plan=self._training_plan(n_epochs(len(X), self.epochs, self.patches_seen)),
            seed=self.seed,
            stop=encode_stop(stop, self.classes_, self.size_),
            augment=fine_tuning.mixed_laboratories,
            teacher=training.Teacher(
                self.teacher_.network_, fine_tuning.IMAGENET_STANDARDISER, float(self.temperature)
            ),
            on_epoch=on_epoch,
            checkpoint=checkpoint,
            stage="student",
        )
        self.log_ = self.teacher_.log_ + self.training_.records
        return self

    def describe(self, size: tuple[int, int]) -> tuple[LayerRow, ...]:
        """Describe the student layer by layer, without training.

        Parameters
        ----------
        size : (h, w)
            Of the patches in pixels.

        Returns
        -------
        tuple of LayerRow
            The softmax last.

        Raises
        ------
        PlanError
            If a setting is impossible.
        """
        # PlanError is that of the parts.
        self._check()
        n_classes, features = len(self.classes_) if hasattr(self, "classes_") else 2, SMALL_STAGES[-1].filters
        return (
            *describe_body(max(size), SMALL_STAGES, head=False),
            LayerRow("mean over the image", str(features), 0, 0),
            LayerRow("softmax", str(n_classes), (features + 1) * n_classes, features * n_classes),
        )

    def _teacher(self) -> ImageNetCNN:
        return _Teacher(
            patches_seen=self.teacher_patches_seen,
            learning_rate=self.teacher_learning_rate,
            precision=self.precision,
            device=self.device,
            threads=self.threads,
            seed=self.seed,
        )

    def _check(self) -> None:
        self._training_plan(self.epochs)
        require_counts(patches_seen=self.patches_seen, teacher_patches_seen=self.teacher_patches_seen)
        warmth = self.temperature
        if isinstance(warmth, bool) or not isinstance(warmth, (int, float)) or not 1 <= warmth <= 100:
            raise PlanError(f"temperature = {warmth!r}: it must be a number from 1 to 100, e.g. 2")
