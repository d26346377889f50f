"""The graph of a bundle as torch computes it: with every value on the way, and with gradients. Imports torch.

What is explained is the very graph that recognises, not a copy that was built beside it. Only the operations that our
own graphs are made of are known; the result is checked against the runtime by whoever uses it.
"""

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor
from torch.nn import functional

from sentinode.errors import ModelError

__all__ = ["DifferentiableGraph", "Step"]


class Step(NamedTuple):
    """One operation of a graph.

    Attributes
    ----------
    name : str
        Of what it gives.
    kind : str
        Operation, as ONNX names it.
    inputs : tuple of str
        Names; ``""`` for one that is left out.
    attributes : mapping
        As ONNX has them.
    """

    name: str
    kind: str
    inputs: tuple[str, ...]
    attributes: Mapping[str, Any]


class DifferentiableGraph:
    """A graph of `sentinode.models.graph.write_graph`, run by torch.

    Parameters
    ----------
    path : Path
        The ``.onnx`` file.

    Raises
    ------
    ModelError
        If it cannot be read, or has an operation that is not known here.
    """

    def __init__(self, path: Path) -> None:
        try:
            graph = onnx.load(str(path)).graph
        except Exception as error:  # protobuf raises what it likes
            raise ModelError(f"{path}: cannot be read as a graph ({error})") from error
        self.path = path
        self.weights = {one.name: torch.from_numpy(numpy_helper.to_array(one).copy()) for one in graph.initializer}
        self.steps = tuple(
            Step(
                node.output[0],
                node.op_type,
                tuple(node.input),
                {one.name: onnx.helper.get_attribute_value(one) for one in node.attribute},
            )
            for node in graph.node
        )
        self._input, self._output = graph.input[0].name, graph.output[0].name
        unknown = sorted({step.kind for step in self.steps} - set(_OPERATIONS))
        if unknown:
            raise ModelError(f"{path}: has operations that cannot be explained ({', '.join(unknown)})")

    @property
    def logits(self) -> str:
        """Name of what goes into the last softmax; of the probabilities, where the graph ends in something else."""
        last = self.steps[-1]
        return last.inputs[0] if last.kind == "Softmax" else self._output

    def run(self, pixels: Tensor) -> dict[str, Tensor]:
        """Compute everything.

        Parameters
        ----------
        pixels : (n, h, w, 3) float32 Tensor
            From 0 to 255; may want gradients.

        Returns
        -------
        dict of str to Tensor
            Name -> value, ``"proba"`` among them.
        """
        values: dict[str, Tensor] = {**self.weights, self._input: pixels}
        for step in self.steps:
            given = [values[name] if name else None for name in step.inputs]
            values[step.name] = _OPERATIONS[step.kind](step.attributes, *given)
        values["proba"] = values[self._output]
        return values

    def randomised(self, seed: int) -> "DifferentiableGraph":
        """Shuffle the numbers of each weight: the same network, which has learned nothing.

        Parameters
        ----------
        seed : int
            Of the draw.

        Returns
        -------
        DifferentiableGraph
            Its weights have the distribution that they had, layer by layer.
        """
        draws = torch.Generator().manual_seed(seed)
        other = object.__new__(DifferentiableGraph)
        other.__dict__ = {**self.__dict__, "weights": {}}
        for name, weight in self.weights.items():
            shuffled = weight.flatten()[torch.randperm(weight.numel(), generator=draws)].reshape(weight.shape)
            other.weights[name] = shuffled if weight.is_floating_point() and weight.numel() > 1 else weight
        return other


# --- operations: attributes, then inputs ------------------------------------------------------------------------


def _integers(values: Tensor | None) -> list[int]:
    return [] if values is None else [int(value) for value in values.flatten().tolist()]


def _sides(attributes: Mapping[str, Any], images: Tensor) -> Tensor:
    # ONNX pads each side by its own number: upper, left, lower, right.
    upper, left, lower, right = attributes.get("pads", (0, 0, 0, 0))
    return functional.pad(images, (left, right, upper, lower)) if upper or left or lower or right else images


def _conv(attributes: Mapping[str, Any], images: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return functional.conv2d(
        _sides(attributes, images),
        weight,
        bias,
        stride=tuple(attributes.get("strides", (1, 1))),
        dilation=tuple(attributes.get("dilations", (1, 1))),
        groups=attributes.get("group", 1),
    )


def _pool(pool: Callable[..., Tensor], attributes: Mapping[str, Any], images: Tensor) -> Tensor:
    if any(attributes.get("pads", ())) or attributes.get("ceil_mode", 0):
        raise ModelError("a pooling with a margin cannot be explained")
    return pool(images, tuple(attributes["kernel_shape"]), stride=tuple(attributes.get("strides", (1, 1))))


def _gemm(attributes: Mapping[str, Any], one: Tensor, two: Tensor, offset: Tensor | None = None) -> Tensor:
    one = one.T if attributes.get("transA", 0) else one
    two = two.T if attributes.get("transB", 0) else two
    product: Tensor = attributes.get("alpha", 1.0) * (one @ two)
    return product if offset is None else product + attributes.get("beta", 1.0) * offset


def _slice(_: Mapping[str, Any], values: Tensor, begin: Tensor, end: Tensor, *more: Tensor | None) -> Tensor:
    axes = _integers(more[0]) if more and more[0] is not None else list(range(begin.numel()))
    steps = _integers(more[1]) if len(more) > 1 else [1] * len(axes)
    for axis, first, last, step in zip(axes, _integers(begin), _integers(end), steps, strict=True):
        places = range(values.shape[axis])[slice(first, last if abs(last) < 2**31 else None, step)]
        values = values.index_select(axis, torch.tensor(list(places), dtype=torch.long))
    return values


def _pad(attributes: Mapping[str, Any], images: Tensor, margins: Tensor, fill: Tensor | None = None, *_: Any) -> Tensor:  # noqa: ANN401 - ONNX's rest
    sides = _integers(margins)
    half = len(sides) // 2
    # torch begins with the last axis.
    pairs = [number for axis in reversed(range(half)) for number in (sides[axis], sides[axis + half])]
    mode = attributes.get("mode", b"constant").decode()
    if mode == "constant":
        return functional.pad(images, pairs, value=0.0 if fill is None else float(fill))
    return functional.pad(images, pairs[:4], mode={"reflect": "reflect", "edge": "replicate"}[mode])


def _resize(attributes: Mapping[str, Any], images: Tensor, _roi: Any, _scales: Any, sizes: Tensor) -> Tensor:  # noqa: ANN401 - ONNX's
    if attributes.get("coordinate_transformation_mode") != b"half_pixel" or attributes.get("mode") != b"linear":
        raise ModelError("a resizing other than bilinear cannot be explained")
    return functional.interpolate(images, tuple(_integers(sizes)[2:]), mode="bilinear", align_corners=False)


def _mean(attributes: Mapping[str, Any], values: Tensor, axes: Tensor | None = None) -> Tensor:
    over = attributes.get("axes") or _integers(axes)
    return values.mean(dim=tuple(over), keepdim=bool(attributes.get("keepdims", 1)))


def _cast(attributes: Mapping[str, Any], values: Tensor) -> Tensor:
    kinds = {1: torch.float32, 6: torch.int32, 7: torch.int64, 11: torch.float64}
    return values.to(kinds[attributes["to"]])


def _clip(_: Mapping[str, Any], values: Tensor, least: Tensor | None = None, most: Tensor | None = None) -> Tensor:
    return values.clamp(None if least is None else float(least), None if most is None else float(most))


def _reshape(_: Mapping[str, Any], values: Tensor, shape: Tensor) -> Tensor:
    wanted = [values.shape[axis] if side == 0 else side for axis, side in enumerate(_integers(shape))]
    return values.reshape(wanted)


def _unsqueeze(attributes: Mapping[str, Any], values: Tensor, axes: Tensor | None = None) -> Tensor:
    for axis in attributes.get("axes") or _integers(axes):
        values = values.unsqueeze(axis)
    return values


def _constant(attributes: Mapping[str, Any]) -> Tensor:
    return torch.from_numpy(np.array(numpy_helper.to_array(attributes["value"])))


def _filled(attributes: Mapping[str, Any], shape: Tensor) -> Tensor:
    value = numpy_helper.to_array(attributes["value"]) if "value" in attributes else np.zeros(1, np.float32)
    return torch.from_numpy(np.full(_integers(shape), value.item(), dtype=value.dtype))


_OPERATIONS: Mapping[str, Callable[..., Tensor]] = MappingProxyType({
    "Add": lambda _, one, two: one + two,
    "AveragePool": functools.partial(_pool, functional.avg_pool2d),
    "Cast": _cast,
    "Clip": _clip,
    "Concat": lambda attributes, *parts: torch.cat(parts, dim=attributes["axis"]),
    "Constant": _constant,
    "ConstantOfShape": _filled,
    "Conv": _conv,
    "Div": lambda _, one, two: one / two,
    "Elu": lambda attributes, values: functional.elu(values, attributes.get("alpha", 1.0)),
    "Erf": lambda _, values: torch.erf(values),
    "Exp": lambda _, values: values.exp(),
    "Flatten": lambda attributes, values: values.flatten(attributes.get("axis", 1)),
    "Gather": lambda attributes, values, places: (
        values.index_select(attributes.get("axis", 0), places.flatten())
        if places.ndim
        else values.select(attributes.get("axis", 0), int(places))
    ),
    "Gemm": _gemm,
    "GlobalAveragePool": lambda _, images: images.mean(dim=(2, 3), keepdim=True),
    "Identity": lambda _, values: values,
    "LeakyRelu": lambda attributes, values: functional.leaky_relu(values, attributes.get("alpha", 0.01)),
    "Log": lambda _, values: values.log(),
    "MatMul": lambda _, one, two: one @ two,
    "MaxPool": functools.partial(_pool, functional.max_pool2d),
    "Mul": lambda _, one, two: one * two,
    "Pad": _pad,
    "Pow": lambda _, one, two: one**two,
    "ReduceMean": _mean,
    "Relu": lambda _, values: values.relu(),
    "Reshape": _reshape,
    "Resize": _resize,
    "Shape": lambda _, values: torch.tensor(values.shape),
    "Sigmoid": lambda _, values: values.sigmoid(),
    "Slice": _slice,
    "Softmax": lambda attributes, values: values.softmax(attributes.get("axis", -1)),
    "Sqrt": lambda _, values: values.sqrt(),
    "Sub": lambda _, one, two: one - two,
    "Tanh": lambda _, values: values.tanh(),
    "Transpose": lambda attributes, values: values.permute(tuple(attributes["perm"])),
    "Unsqueeze": _unsqueeze,
})
