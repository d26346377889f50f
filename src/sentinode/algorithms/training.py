"""The one training loop, and the one way to ask a network for probabilities.

Every random draw is named by its epoch (`sentinode.seeds`), so that a training that was interrupted goes on
from its checkpoint to the very weights that it would have reached.
"""

import hashlib
import json
import math
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from sentinode.algorithms.description import EpochRecord
from sentinode.algorithms.registry import PatchSequence
from sentinode.algorithms.training_plan import TrainingPlan
from sentinode.errors import MissingExtra, ModelError
from sentinode.evaluation.metrics import auc
from sentinode.seeds import stream, torch_seed

try:
    import torch
except ModuleNotFoundError as missing:
    raise MissingExtra("train", "training a network") from missing
from torch import Tensor, nn
from torch.nn import functional

from sentinode.algorithms.checkpoint import read_checkpoint, write_checkpoint

__all__ = [
    "EpochRecord",
    "Standardiser",
    "Teacher",
    "TrainingLog",
    "TrainingPlan",
    "WholeNetwork",
    "decay_penalty",
    "fit_network",
    "n_orientations",
    "predict_network",
    "random_orientations",
    "turn",
    "use_bf16",
    "use_device",
]

OPTIMIZERS: Mapping[str, Callable[..., torch.optim.Optimizer]] = {
    "adam": torch.optim.Adam,  # Kingma and Ba 2015, with their betas
    "sgd": lambda weights, lr: torch.optim.SGD(weights, lr=lr, momentum=0.9, nesterov=True),
}
_DETERMINISTIC: Any = torch.utils.deterministic  # its one attribute is unknown to mypy
READ_SIZE = 64  # images that are read at a time where nothing is learned; at 512 px the first layer takes 2 GB


@dataclass(frozen=True)
class TrainingLog:
    """What came of a training.

    Parameters
    ----------
    records : tuple of EpochRecord
        One an epoch, those before an interruption included.
    best_epoch : int
        The epoch whose weights the network now has: lowest loss on the stop part, or the last one.
    stopped_early : bool
        Whether `patience` ran out before `epochs`.
    device : str
        ``"cpu"``, ``"cuda"`` or ``"mps"``.
    bf16 : bool
        Whether it was computed in bf16.
    """

    records: tuple[EpochRecord, ...]
    best_epoch: int
    stopped_early: bool
    device: str
    bf16: bool


@dataclass(frozen=True)
class Standardiser:
    """Pixels minus their mean, over their standard deviation, both of the training part.

    Parameters
    ----------
    mean, sd : (3,) or (h, w, 3) float32
        Per channel, or per pixel and channel; in grey levels 0 to 255.

    Examples
    --------
    >>> pixels = np.array([0, 10, 20, 30], np.uint8).reshape(4, 1, 1, 1).repeat(3, axis=3)
    >>> standardiser = Standardiser.of(pixels)
    >>> standardiser.mean.tolist()
    [15.0, 15.0, 15.0]
    >>> standardiser(torch.from_numpy(pixels).permute(0, 3, 1, 2))[:, 0, 0, 0].tolist()
    [-1.341..., -0.447..., 0.447..., 1.341...]
    """

    mean: NDArray[np.float32]
    sd: NDArray[np.float32]

    @classmethod
    def of(cls, pixels: PatchSequence, per: str = "channel") -> "Standardiser":
        """Measure the mean and the standard deviation of the training images.

        Parameters
        ----------
        pixels : (n, h, w, 3) uint8
            Read a few at a time.
        per : {"channel", "pixel"}
            Over all pixels of a channel, or position by position. What never varies is left at a standard
            deviation of 1.

        Returns
        -------
        Standardiser
            For `fit_network`'s ``prepare``.
        """
        axes = (0, 1, 2) if per == "channel" else (0,)
        count = 0
        total: NDArray[np.int64] | int = 0
        squares: NDArray[np.int64] | int = 0
        for chunk in _chunks(len(pixels), READ_SIZE):
            values = pixels[chunk].astype(np.int64)  # whole numbers: exact, whatever the size of the chunks
            count += values.size // values[0].size if per == "pixel" else values.size // values.shape[-1]
            total = total + values.sum(axis=axes)
            squares = squares + np.square(values).sum(axis=axes)
        mean = np.asarray(total) / count
        sd = np.sqrt(np.maximum(np.asarray(squares) / count - mean**2, 0.0))
        return cls(mean.astype(np.float32), np.where(sd > 0, sd, 1.0).astype(np.float32))

    def __call__(self, batch: Tensor) -> Tensor:
        """Standardise a batch.

        Parameters
        ----------
        batch : (b, 3, h, w) uint8

        Returns
        -------
        (b, 3, h, w) float32
            On the device of the batch.
        """
        mean, sd = (self._channels_first(values).to(batch.device) for values in (self.mean, self.sd))
        return (batch.float() - mean) / sd

    @staticmethod
    def _channels_first(values: NDArray[np.float32]) -> Tensor:
        return torch.tensor(values).reshape(-1, 1, 1) if values.ndim == 1 else torch.tensor(values).permute(2, 0, 1)


def random_orientations(batch: Tensor, generator: np.random.Generator) -> Tensor:
    """Turn and mirror every image at random: tissue has no up and no left.

    Parameters
    ----------
    batch : (b, 3, h, w) uint8
        Square images get one of the eight orientations, others one of the four that keep their shape.
    generator : numpy.random.Generator
        Where the choice comes from.

    Returns
    -------
    (b, 3, h, w) uint8
        The same pixels, in other places.
    """
    n_kinds = n_orientations(batch.shape[2], batch.shape[3])
    kinds = torch.from_numpy(generator.integers(n_kinds, size=len(batch))).to(batch.device)
    turned = torch.empty_like(batch)
    for kind in range(n_kinds):
        chosen = kinds == kind
        turned[chosen] = turn(batch[chosen], kind)
    return turned


def n_orientations(height: int, width: int) -> int:
    """Count the orientations that keep the shape of an image.

    Parameters
    ----------
    height, width : int
        In pixels.

    Returns
    -------
    int
        8 for a square; 4, without quarter turns, for any other rectangle.

    Examples
    --------
    >>> n_orientations(96, 96), n_orientations(96, 64)
    (8, 4)
    """
    return 8 if height == width else 4


def turn(images: Tensor, kind: int) -> Tensor:
    """Bring images into one of their orientations.

    Parameters
    ----------
    images : (b, c, h, w) tensor
        Square from kind 4 on.
    kind : int
        0 to 7: 4 stands for a reflection in the diagonal, which comes first, 2 and 1 for one of the columns
        and of the rows; 0 changes nothing.

    Returns
    -------
    (b, c, h, w) tensor
        The same pixels, in other places.

    Examples
    --------
    >>> turn(torch.tensor([[[[1, 2], [3, 4]]]]), 5).tolist()
    [[[[2, 4], [1, 3]]]]
    """
    if kind & 4:
        images = images.transpose(2, 3)
    mirrored = [axis for bit, axis in ((1, 2), (2, 3)) if kind & bit]
    return images.flip(mirrored) if mirrored else images


def use_device(device: str) -> torch.device:
    """Choose the device to compute on.

    Parameters
    ----------
    device : {"auto", "cpu", "cuda", "mps"}
        ``"auto"`` prefers CUDA, then MPS, then the CPU.

    Returns
    -------
    torch.device
        One that is there.

    Raises
    ------
    ModelError
        If the device that was asked for is absent.
    """
    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if device == "auto":
        return torch.device(next(name for name, here in present.items() if here))
    if not present[device]:
        raise ModelError(f"device = '{device}': torch finds none on this machine; use 'auto' or 'cpu'")
    return torch.device(device)


def use_bf16(precision: str, device: torch.device) -> bool:
    """Decide whether to compute in bf16.

    Parameters
    ----------
    precision : {"auto", "bf16", "float32"}
        ``"auto"`` takes bf16 where the device has instructions for it: a CPU with AVX512-BF16 or AMX, a CUDA
        device from Ampere on. A CPU that would only emulate it is slower in bf16 than in float32.
    device : torch.device
        Where the network runs.

    Returns
    -------
    bool
        True for bf16.
    """
    if precision != "auto":
        return precision == "bf16"
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device)[0] >= 8
    return device.type == "cpu" and _cpu_has_bf16()


def _cpu_has_bf16() -> bool:
    # torch.ops.mkldnn._is_mkldnn_bf16_supported is true of every AVX-512 CPU, also where bf16 is emulated.
    ask = getattr(torch.cpu, "get_capabilities", None)  # torch >= 2.10
    if ask is not None:
        found = ask()
        return any(bool(found.get(name)) for name in ("avx512_bf16", "amx_bf16"))
    probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")  # torch 2.5 to 2.9; before, float32
    return any(getattr(torch.cpu, name)() for name in probes if hasattr(torch.cpu, name))


@dataclass(frozen=True, eq=False)
class Teacher:
    """A trained network whose answers are learned in place of labels.

    Hinton et al. 2015, "Distilling the knowledge in a neural network", arXiv:1503.02531, section 2: the student's
    logits are held against the teacher's, both divided by a temperature, and the loss is multiplied by its square.
    The teacher sees the same augmented image as the student (Beyer et al. 2022, "Knowledge distillation: a good
    teacher is patient and consistent", CVPR).

    Parameters
    ----------
    network : nn.Module
        From prepared images to logits ``(b, k)``.
    prepare : callable
        Of that network.
    temperature : float
        1 or more: how much of what the teacher holds unlikely counts.
    """

    network: nn.Module
    prepare: "Prepare"
    temperature: float = 1.0

    def answers(self, batch: Tensor, *, bf16: bool) -> Tensor:
        """Ask for the probabilities at the temperature.

        Parameters
        ----------
        batch : (b, 3, h, w) uint8
        bf16 : bool
            Whether to compute in it.

        Returns
        -------
        (b, k) float32
        """
        with torch.inference_mode():
            logits = _forward(self.network, self.prepare(batch), bf16=bf16)
        return functional.softmax(logits.clone() / self.temperature, dim=1)

    def loss(self, logits: Tensor, answers: Tensor) -> Tensor:
        """Hold the logits of a student against the answers.

        Parameters
        ----------
        logits, answers : (b, k) float32

        Returns
        -------
        () float32
            Kullback and Leibler's divergence, times the square of the temperature.
        """
        student = functional.log_softmax(logits / self.temperature, dim=1)
        return self.temperature**2 * functional.kl_div(student, answers, reduction="batchmean")


Prepare = Callable[[Tensor], Tensor]
Penalty = Callable[[nn.Module], Tensor]
Augment = Callable[[Tensor, np.random.Generator], Tensor]


def decay_penalty(l2: float) -> Penalty:
    """Penalise the weights of a network, biases excepted.

    Parameters
    ----------
    l2 : float
        Weight of the penalty.

    Returns
    -------
    callable
        network -> ``l2 * sum(w^2) / 2``, for `fit_network`.

    Examples
    --------
    >>> dense = nn.Linear(2, 3)
    >>> _ = nn.init.ones_(dense.weight)
    >>> decay_penalty(0.5)(dense).item()
    1.5
    """

    def penalty(network: nn.Module) -> Tensor:
        kernels = [part.weight for part in network.modules() if isinstance(part, nn.Linear)]
        return l2 / 2 * torch.stack([kernel.square().sum() for kernel in kernels]).sum()

    return penalty


def fit_network(  # noqa: PLR0913 - the seam of every network: each argument is a decision of the recipe
    network: nn.Module,
    pixels: PatchSequence,
    codes: NDArray[np.int64],
    *,
    prepare: Prepare,
    plan: TrainingPlan,
    seed: int,
    stop: tuple[PatchSequence, NDArray[np.int64]] | None = None,
    penalty: Penalty | None = None,
    augment: Augment | None = None,
    teacher: Teacher | None = None,
    on_epoch: Callable[[EpochRecord], None] | None = None,
    checkpoint: Path | None = None,
    stage: str = "train",
) -> TrainingLog:
    """Train a network on labelled images, in place.

    Each epoch goes through the images in an order of its own; after it the loss on the stop part is measured,
    and the weights of the epoch where it was lowest are the ones that the network has in the end. With the
    same seed and the same number of threads, the weights on a CPU are the same to the bit, also when the
    training was interrupted and went on from its checkpoint. On CUDA and MPS they are as repeatable as the
    device's kernels.

    Parameters
    ----------
    network : nn.Module
        From prepared images to logits ``(b, k)``. It is on the CPU afterwards, in evaluation mode.
    pixels : (n, h, w, 3) uint8
        Array, memmap or ``PatchSource``; read batch by batch.
    codes : (n,) int
        Class of each image, 0 to k - 1.
    prepare : callable
        ``(b, 3, h, w)`` uint8 tensor -> float tensor, e.g. a `Standardiser`.
    plan : TrainingPlan
        Epochs, batches, learning rate, precision, device.
    seed : int
        Where the order of the images, the augmentation and the dropout come from.
    stop : (pixels, codes), optional
        Images of other patients that decide when to stop; the caller sees to it that the patients are others.
    penalty : callable, optional
        network -> scalar that is added to the loss of every batch, e.g. an L2 penalty.
    augment : callable, optional
        ``(uint8 batch, numpy generator)`` -> uint8 batch, e.g. `random_orientations`; training images only.
    teacher : Teacher, optional
        Whose answers are learned in place of the labels.
    on_epoch : callable, optional
        Called with the `EpochRecord` of each epoch that is computed now, after its checkpoint was written.
        What it raises ends the training.
    checkpoint : Path, optional
        Folder. A checkpoint in it that belongs to this very training (plan, images, weights) is continued;
        any other is replaced.
    stage : str
        Name of this training in the log, and of its file in `checkpoint`.

    Returns
    -------
    TrainingLog
        One record an epoch; ``loss`` is the mean log loss of the training images while the weights moved,
        without the penalty; with a teacher, the divergence from its answers.

    Raises
    ------
    ModelError
        If there is nothing to train on, or the training diverges.
    ExportError
        If the checkpoint cannot be written.
    """
    _require_labels(pixels, codes)
    _require_batches(network, len(pixels), plan.batch_size)
    if stop is not None:
        _require_labels(*stop)
        stop = stop if len(stop[0]) else None
    device = use_device(plan.device)
    bf16 = use_bf16(plan.precision, device)
    loop = _Loop(network, pixels, codes, prepare, plan, seed, stop, penalty, augment, teacher, stage, device, bf16)
    with _determined(device, plan.threads):
        loop.start(checkpoint)
        while not loop.finished:
            record = loop.run_epoch()
            loop.save(checkpoint)
            if on_epoch is not None:
                on_epoch(record)
        return loop.end()


def predict_network(
    network: nn.Module,
    pixels: PatchSequence,
    *,
    prepare: Prepare,
    batch_size: int = READ_SIZE,
    precision: str = "auto",
    device: str = "auto",
    threads: int | None = None,
) -> NDArray[np.float32]:
    """Ask a network for the class probabilities of images.

    Parameters
    ----------
    network : nn.Module
        From prepared images to logits ``(b, k)``. Its weights stay as they are.
    pixels : (n, h, w, 3) uint8
        Array, memmap or ``PatchSource``.
    prepare : callable
        As in training.
    batch_size : int
        Images at a time.
    precision, device, threads
        As in `TrainingPlan`.

    Returns
    -------
    (n, k) float32
        Softmax in float32; rows sum to 1.

    Raises
    ------
    ModelError
        If there is no image, or the device is absent.
    """
    if len(pixels) == 0:
        raise ModelError("there is no image to recognise; at least one is needed")
    place = use_device(device)
    with _determined(place, threads):
        _place(network, place)
        try:
            logits = _logits(network, pixels, prepare, batch_size, place, bf16=use_bf16(precision, place))
        finally:
            network.to("cpu")
    return functional.softmax(logits, dim=1).numpy()


class WholeNetwork(nn.Module):
    """A recogniser as one network, from pixels as they are stored to probabilities; on the CPU, in float32.

    It is what goes into a file and runs elsewhere, so that whoever runs it cannot standardise in another way.

    Parameters
    ----------
    network : nn.Module
        From prepared images to logits.
    prepare : callable
        As in training.
    """

    def __init__(self, network: nn.Module, prepare: Prepare) -> None:
        super().__init__()
        self.network = network
        self._prepare = prepare
        self.eval()

    def forward(self, tiles: Tensor) -> Tensor:
        """Recognise.

        Parameters
        ----------
        tiles : (b, h, w, 3) uint8
            Red, green, blue.

        Returns
        -------
        (b, k) float32
            Softmax.
        """
        return functional.softmax(self.network(self._prepare(tiles.permute(0, 3, 1, 2))), dim=1)


@dataclass
class _Loop:
    """The state of one call of `fit_network`."""

    network: nn.Module
    pixels: PatchSequence
    codes: NDArray[np.int64]
    prepare: Prepare
    plan: TrainingPlan
    seed: int
    stop: tuple[PatchSequence, NDArray[np.int64]] | None
    penalty: Penalty | None
    augment: Augment | None
    teacher: Teacher | None
    stage: str
    device: torch.device
    bf16: bool
    records: list[EpochRecord] = field(default_factory=list)
    best_epoch: int = 0
    best_loss: float = math.inf
    best: dict[str, Tensor] = field(default_factory=dict)
    digest: str = ""

    def start(self, checkpoint: Path | None) -> None:
        _place(self.network, self.device)
        if self.teacher is not None:
            _place(self.teacher.network.eval(), self.device)
        self.weights = [weight for weight in self.network.parameters() if weight.requires_grad]
        self.optimizer = OPTIMIZERS[self.plan.optimizer](self.weights, lr=self.plan.learning_rate)
        if checkpoint is not None:
            self.digest = self._digest()
            stored = read_checkpoint(checkpoint, self.stage, self.digest)
            if stored is not None:
                self._continue(*stored)

    @property
    def epoch(self) -> int:
        return len(self.records)

    @property
    def keeps_last(self) -> bool:
        return self.stop is None or self.plan.keep == "last"

    @property
    def out_of_patience(self) -> bool:
        return (
            not self.keeps_last
            and 0 < self.plan.patience <= self.epoch - self.best_epoch
            and self.epoch < self.plan.epochs
        )

    @property
    def finished(self) -> bool:
        return self.epoch >= self.plan.epochs or self.out_of_patience

    def run_epoch(self) -> EpochRecord:
        begin = time.perf_counter()
        epoch = self.epoch + 1
        loss, values = self._train(epoch)
        stop_loss, stop_auc = self._score_stop()
        if self.keeps_last or stop_loss < self.best_loss:
            self.best_epoch, self.best_loss = epoch, stop_loss
            self.best = {} if self.keeps_last else _copy(self.network.state_dict())
        seconds = time.perf_counter() - begin
        self.records.append(EpochRecord(self.stage, epoch, loss, stop_loss, stop_auc, seconds, values))
        return self.records[-1]

    def _train(self, epoch: int) -> tuple[float, dict[str, float]]:
        # The order of the images, the augmentation and the dropout depend on the epoch alone: a training that
        # goes on from a checkpoint needs no state of a generator.
        order = stream(self.seed, "batches", self.stage, epoch).permutation(len(self.pixels))
        draws = stream(self.seed, "augment", self.stage, epoch)
        torch.manual_seed(torch_seed(self.seed, "dropout", self.stage, epoch))
        rate = self.plan.rate(epoch)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.network.train()
        total, added = 0.0, 0.0
        for chosen in np.array_split(order, math.ceil(len(order) / self.plan.batch_size)):
            loss, extra = self._step(chosen, draws, epoch)
            total += loss * len(chosen)
            added += extra * len(chosen)
        values = {"learning_rate": rate}
        if self.penalty is not None:
            values["penalty"] = added / len(order)
        return total / len(order), values

    def _step(self, chosen: NDArray[np.int64], draws: np.random.Generator, epoch: int) -> tuple[float, float]:
        batch = _batch(self.pixels, chosen, self.device)
        if self.augment is not None:
            batch = self.augment(batch, draws)
        self.optimizer.zero_grad(set_to_none=True)
        loss = self._loss(_forward(self.network, self.prepare(batch), bf16=self.bf16), batch, chosen)
        extra = self.penalty(self.network) if self.penalty is not None else torch.zeros((), device=self.device)
        (loss + extra).backward()  # type: ignore[no-untyped-call]
        norm = torch.stack([weight.grad.norm() for weight in self.weights if weight.grad is not None]).sum()
        if not math.isfinite(float(norm.detach()) + float(loss.detach())):
            raise self._diverged("its loss or a gradient", epoch)
        self.optimizer.step()
        return float(loss.detach()), float(extra.detach())

    def _loss(self, logits: Tensor, batch: Tensor, chosen: NDArray[np.int64]) -> Tensor:
        if self.teacher is None:
            return functional.cross_entropy(logits, torch.from_numpy(self.codes[chosen]).to(self.device))
        return self.teacher.loss(logits, self.teacher.answers(batch, bf16=self.bf16))

    def _score_stop(self) -> tuple[float, float]:
        if self.stop is None:
            return math.nan, math.nan
        pixels, codes = self.stop
        logits = _logits(self.network, pixels, self.prepare, READ_SIZE, self.device, bf16=self.bf16)
        loss = float(functional.cross_entropy(logits.double(), torch.from_numpy(codes)))
        if not math.isfinite(loss):
            raise self._diverged("the loss on the stop part", self.epoch + 1)
        if logits.shape[1] != 2:
            return loss, math.nan
        # Of two classes it is the same whichever is the positive one.
        return loss, auc(codes == 1, functional.softmax(logits, dim=1)[:, 1].numpy())

    def _diverged(self, what: str, epoch: int) -> ModelError:
        return ModelError(
            f"the training ({self.stage}) diverged in epoch {epoch}: {what} is no longer a finite number.\n"
            f"Lower learning_rate, e.g. to {self.plan.learning_rate / 10:g}"
        )

    def save(self, checkpoint: Path | None) -> None:
        if checkpoint is None:
            return
        tensors = {f"network/{key}": value for key, value in self.network.state_dict().items()}
        for number, slots in self.optimizer.state_dict()["state"].items():
            for key, value in slots.items():
                if isinstance(value, Tensor):
                    tensors[f"optimizer/{number}/{key}"] = value
        if self.best_epoch != self.epoch:  # else the network's own weights are the best ones
            tensors |= {f"best/{key}": value for key, value in self.best.items()}
        state = {
            "records": [asdict(record) for record in self.records],
            "best_epoch": self.best_epoch,
            "best_loss": self.best_loss,
        }
        write_checkpoint(checkpoint, self.stage, self.digest, tensors, state)

    def _continue(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        self.records = [EpochRecord(**record) for record in state["records"]]
        self.best_epoch, self.best_loss = state["best_epoch"], state["best_loss"]
        self.network.load_state_dict(_under("network", tensors))
        slots: dict[int, dict[str, Tensor]] = {}
        for key, value in _under("optimizer", tensors).items():
            number, _, name = key.partition("/")
            slots.setdefault(int(number), {})[name] = _laid_out_as(self.weights[int(number)], value)
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": slots, "param_groups": groups})
        if not self.keeps_last:
            self.best = _under("best", tensors) or _copy(self.network.state_dict())

    def end(self) -> TrainingLog:
        if self.best:
            self.network.load_state_dict(self.best)
        self.network.to("cpu").eval()
        if self.teacher is not None:
            self.teacher.network.to("cpu")
        return TrainingLog(tuple(self.records), self.best_epoch, self.out_of_patience, self.device.type, self.bf16)

    def _digest(self) -> str:
        # Everything that decides the weights. The functions are known by what they do to the first images.
        number = hashlib.sha256()
        settings = {part.name: getattr(self.plan, part.name) for part in fields(self.plan)}
        settings |= {"threads": torch.get_num_threads(), "device": self.device.type, "precision": self.bf16}
        known = (torch.__version__, self.stage, self.seed, settings, str(self.network))
        number.update(json.dumps(known).encode())
        for key, value in self.network.state_dict().items():
            number.update(key.encode() + _bytes(value))
        for pixels, codes in ((self.pixels, self.codes), *((self.stop,) if self.stop is not None else ())):
            number.update(codes.tobytes())
            for chosen in _chunks(len(pixels), READ_SIZE):  # read once more, as an epoch reads them
                number.update(np.ascontiguousarray(pixels[chosen]).data)
        batch = _batch(self.pixels, np.arange(min(len(self.pixels), READ_SIZE)), self.device)
        number.update(_bytes(self.prepare(batch)))
        if self.augment is not None:
            number.update(_bytes(self.augment(batch, stream(self.seed, "digest"))))
        if self.penalty is not None:
            number.update(_bytes(self.penalty(self.network)))
        if self.teacher is not None:
            number.update(_bytes(self.teacher.answers(batch, bf16=self.bf16)) + repr(self.teacher.temperature).encode())
        return number.hexdigest()


def _require_labels(pixels: PatchSequence, codes: NDArray[np.int64]) -> None:
    if len(codes) != len(pixels):
        raise ModelError(f"{len(pixels)} images but {len(codes)} labels; give one label an image")


def _require_batches(network: nn.Module, n_images: int, batch_size: int) -> None:
    if n_images == 0:
        raise ModelError("there is no image to train on; give the training part some patients")
    smallest = n_images // math.ceil(n_images / batch_size)
    if smallest == 1 and any(isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d) for part in network.modules()):
        raise ModelError(
            f"batch norm needs two images a batch, and {n_images} images with batch_size = {batch_size} "
            "leave one; raise batch_size"
        )


def _logits(
    network: nn.Module,
    pixels: PatchSequence,
    prepare: Prepare,
    batch_size: int,
    device: torch.device,
    *,
    bf16: bool,
) -> Tensor:
    network.eval()
    with torch.inference_mode():
        parts = [
            _forward(network, prepare(_batch(pixels, chosen, device)), bf16=bf16).cpu()
            for chosen in _chunks(len(pixels), batch_size)
        ]
    return torch.cat(parts)


def _place(network: nn.Module, device: torch.device) -> None:
    cast("Any", network).to(device, memory_format=torch.channels_last)  # torch's overloads forget the pair


def _forward(network: nn.Module, inputs: Tensor, *, bf16: bool) -> Tensor:  # (b, ...) -> (b, k) float32
    body: nn.Module = network
    head: nn.Module = nn.Identity()
    if isinstance(network, nn.Sequential) and isinstance(network[-1], nn.Linear):
        # The last layer is small, and softmax reads what it gives: eight bits of mantissa would tie many
        # probabilities, and ties cost AUC.
        body, head = network[:-1], network[-1]
    with torch.autocast(inputs.device.type, torch.bfloat16, enabled=bf16):
        hidden = body(inputs)
    return cast("Tensor", head(hidden.float()))


def _batch(pixels: PatchSequence, chosen: NDArray[np.int64], device: torch.device) -> Tensor:
    images = np.ascontiguousarray(pixels[chosen])  # (b, h, w, 3); positions, not a slice: a copy of a memmap
    return torch.from_numpy(images).permute(0, 3, 1, 2).to(device)  # (b, 3, h, w), channels-last in memory


def _chunks(n: int, size: int) -> Iterator[NDArray[np.int64]]:
    for begin in range(0, n, size):
        yield np.arange(begin, min(begin + size, n))


@contextmanager
def _determined(device: torch.device, threads: int | None) -> Iterator[None]:
    """Compute so that it can be repeated, and leave torch's settings as they were."""
    before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        _DETERMINISTIC.fill_uninitialized_memory,
        torch.get_num_threads(),
    )
    on_cpu = device.type == "cpu"
    index = torch.cuda.current_device() if device.type == "cuda" else 0
    forked = torch.random.fork_rng([index] if device.type == "cuda" else [])
    try:
        # CUDA's max pooling has no repeatable gradient and would be refused: there it is as good as it gets.
        torch.use_deterministic_algorithms(mode=True, warn_only=not on_cpu)
        _DETERMINISTIC.fill_uninitialized_memory = False  # we read none
        if threads is not None:
            torch.set_num_threads(threads)
        with forked, nullcontext() if on_cpu else _without_determinism_warnings():
            yield
    finally:
        torch.use_deterministic_algorithms(mode=before[0], warn_only=before[1])
        _DETERMINISTIC.fill_uninitialized_memory = before[2]
        torch.set_num_threads(before[3])


@contextmanager
def _without_determinism_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*deterministic.*")
        yield


def _copy(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key: value.detach().clone() for key, value in state.items()}


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key.removeprefix(f"{prefix}/"): value for key, value in tensors.items() if key.startswith(f"{prefix}/")}


def _laid_out_as(weight: Tensor, value: Tensor) -> Tensor:
    # Same strides as the weight: else the optimiser walks through memory in another order, and elements that
    # are computed one by one may round otherwise than those that are computed as a vector.
    return torch.empty_like(weight).copy_(value) if value.shape == weight.shape else value


def _bytes(tensor: Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().numpy().tobytes()
