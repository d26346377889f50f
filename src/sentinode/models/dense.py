"""A network as one pass over a large field: a probability every few pixels, for little more than tiles side by side.

A convolution does not mind how large an image is. What binds a network to tiles are its last layers: a dense layer over
(c, a, b) features is a convolution with a kernel of (a, b), a mean over the whole tile an average over a window of that
size, moved by one feature (fast scanning: Giusti et al. 2013, arXiv:1302.1700; ScanNet: Lin et al. 2018). Point j of a
row is then what the network says of the tile that begins at j times the stride. Without zeros around the image
(``padding = "valid"``) it is that to rounding; with them, what the tile's outermost features see is the slide beyond
the tile in place of zeros.

The graph of the bundle is rewritten with the onnx package; torch is not needed. Only the operations that our own
graphs are made of are known.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

from sentinode.errors import ModelError

__all__ = ["FIELD_PX", "MOST_BYTES", "DenseGraph", "dense_graph"]

FIELD_PX = 1536
"""Side of a field, at most: of what is read, a sixth is read twice, for a network that sees 18 px around a tile."""

MOST_BYTES = 2**29
"""What goes into a layer and comes out of it in float32, at most, unless a field would hold hardly anything else."""

LEAST_STRIDE = 2
"""Pixels from point to point: closer together, a field would have as many points as pixels, each as dear as a tile."""


@dataclass(frozen=True)
class DenseGraph:
    """A network that takes a field and gives a probability at every point in it.

    Parameters
    ----------
    model : bytes
        ONNX: a field (1, h, w, 3) uint8 in, (1, k, m, n) float32 out, m and n the `points_along` its sides. Point j of
        a row is the tile that begins at ``(first + j) * stride`` px of the field.
    tile : int
        Side of a tile in pixels.
    stride : Fraction
        Pixels from point to point; a fraction where the network enlarges its tiles by one.
    before, after : int
        Pixels around a tile that its point sees, on the left and above, on the right and below; where the field ends,
        the network sees zeros.
    most : int
        Side of the largest field in pixels. Sides are multiples of `period`.
    """

    model: bytes
    tile: int
    stride: Fraction
    before: int
    after: int
    most: int

    @property
    def period(self) -> int:
        """Pixels by which fields may be apart, so that all their points lie on one grid."""
        return self.stride.numerator

    @property
    def first(self) -> int:
        """The first point of a field that sees nothing but the field."""
        return math.ceil(self.before / self.stride)

    def points_along(self, side: int) -> int:
        """Count the points that see nothing but the field; what the network says of others is not computed.

        Parameters
        ----------
        side : int
            Of the field in pixels, a multiple of `period`.

        Returns
        -------
        int
            0 or less where it is too short.
        """
        return math.floor((side - self.tile - self.after) / self.stride) - self.first + 1

    def side_for(self, n_points: int) -> int:
        """Give the shortest side that has so many points.

        Parameters
        ----------
        n_points : int
            1 or more.

        Returns
        -------
        int
            Pixels, a multiple of `period`.
        """
        px = (self.first + n_points - 1) * self.stride + self.tile + self.after
        return math.ceil(px / self.period) * self.period


def dense_graph(path: Path, most: int | None = None) -> DenseGraph:
    """Rewrite a graph for fields.

    Parameters
    ----------
    path : Path
        Of the ``graph.onnx`` of a bundle.
    most : int, optional
        Side of the largest field in pixels, about; None for what `FIELD_PX` and `MOST_BYTES` allow.

    Returns
    -------
    DenseGraph
        With the side that it came to.

    Raises
    ------
    ModelError
        If the graph cannot be read, or has what depends on where in the tile it is.
    """
    try:
        graph = onnx.load(str(path))
    except Exception as error:  # protobuf raises what it likes
        raise ModelError(f"{path}: cannot be read as a graph ({error})") from error
    try:
        return _Rewriting(graph).fields(most)
    except _NotDenseError as error:
        raise ModelError(f"{path}: cannot be run densely: {error}") from error


# --- one graph to the other ---------------------------------------------------------------------------------


class _NotDenseError(Exception):
    # What stands in the way, in words.
    pass


class _Traced(NamedTuple):
    # A value of the network: what it is for one tile, and which pixels it is made of.
    shape: tuple[int, ...]  # (1, c, n, n) image, or (1, f) row
    of: tuple[int, int]  # c and n of the image that it is in the field, whose values at n x n make a tile
    stride: Fraction = Fraction(1)  # of the tile's pixels; value i is made of [start + i stride, ... + width)
    start: Fraction = Fraction(0)
    width: Fraction = Fraction(1)
    over: int = 0  # of a field of s px it has s / stride values, and so many more

    def window(self, size: int, stride: int = 1, zeros: tuple[int, int] = (0, 0), channels: int = 0) -> "_Traced":
        # After a window of so many values that moves by `stride`, with zeros before and after.
        channels, n = channels or self.of[0], (self.of[1] + sum(zeros) - size) // stride + 1
        return _Traced(
            (1, channels, n, n),
            (channels, n),
            self.stride * stride,
            self.start - zeros[0] * self.stride,
            self.width + (size - 1) * self.stride,
            (self.over + sum(zeros) - size) // stride + 1,
        )

    def as_row(self) -> "_Traced":
        return self._replace(shape=(1, self.of[0] * self.of[1] ** 2))

    @property
    def is_row(self) -> bool:
        return len(self.shape) == 2


class _Rewriting:
    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        given = model.graph.input[0]
        sides = [one.dim_value for one in given.type.tensor_type.shape.dim]
        if len(sides) != 4 or sides[1] != sides[2] or sides[1] < 1 or sides[3] != 3:
            raise _NotDenseError("it takes no square tiles")
        self.tile, self.name = sides[1], given.name
        self.constants: dict[str, NDArray[Any]] = {
            one.name: numpy_helper.to_array(one) for one in model.graph.initializer
        }
        self.traced = {self.name: _Traced((1, *sides[1:]), (3, self.tile))}
        self.nodes: list[onnx.NodeProto] = []
        self.inner = ""  # name of what is cut to the points that see nothing but the field
        self.n_inner, self.over = 1, 0  # values of it that make a tile, and `_Traced.over`
        self.most = 1  # bytes of the largest layer, for a tile
        for node in model.graph.node:
            self._rewrite(node)

    def fields(self, most: int | None) -> DenseGraph:
        name = self.model.graph.output[0].name
        last = self.traced[name]
        if not last.is_row or last.of[1] != 1:
            raise _NotDenseError("it does not end in a row of probabilities")
        if not self.inner:
            raise _NotDenseError("no layer of it sees a whole tile")
        if last.stride < LEAST_STRIDE:
            raise _NotDenseError("its points would be a pixel apart, for it pools nothing")
        before, after = (max(0, math.ceil(px)) for px in (-last.start, last.start + last.width - self.tile))
        period = last.stride.numerator
        if most is None:
            most = min(FIELD_PX, int(self.tile * math.sqrt(MOST_BYTES / self.most)))
            most = max(most, 2 * (self.tile + before + after))
        side = max(most, self.tile + before + after + 2 * period) // period * period
        found = DenseGraph(b"", self.tile, last.stride, before, after, side)
        self._cut(found)
        used = {one for node in self.nodes for one in node.input}
        numbers = {one: value for one, value in self.constants.items() if one in used}
        graph = onnx.helper.make_graph(
            self.nodes,
            "dense",
            [onnx.helper.make_tensor_value_info(self.name, onnx.TensorProto.UINT8, [1, "h", "w", 3])],
            [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, last.of[0], None, None])],
            [numpy_helper.from_array(np.ascontiguousarray(value), one) for one, value in numbers.items()],
        )
        model = onnx.helper.make_model(
            graph, opset_imports=self.model.opset_import, ir_version=self.model.ir_version, producer_name="sentinode"
        )
        return replace(found, model=model.SerializeToString())

    def _cut(self, found: DenseGraph) -> None:
        # To the points that see nothing but the field. Counted from its end, for that holds of every side.
        to = found.first + found.points_along(0) - 1 + self.n_inner - self.over
        self.constants[f"{self.inner}/from"] = np.array([found.first] * 2)
        self.constants[f"{self.inner}/to"] = np.array([to if to < 0 else np.iinfo(np.int64).max] * 2)
        self.constants[f"{self.inner}/sides"] = np.array([2, 3])

    def _rewrite(self, node: onnx.NodeProto) -> None:
        if all(name in self.constants for name in node.input if name):
            self.constants[node.output[0]] = self._computed(node)
        elif node.op_type == "Shape":
            self.constants[node.output[0]] = np.array(self.traced[node.input[0]].shape)
        elif node.op_type in _RULES:
            attributes: _Attributes = {one.name: onnx.helper.get_attribute_value(one) for one in node.attribute}
            self.traced[node.output[0]] = _RULES[node.op_type](self, node, attributes)
        else:
            raise _NotDenseError(f"the operation {node.op_type} is not known here")

    def _computed(self, node: onnx.NodeProto) -> NDArray[Any]:
        given = {name: self.constants[name] for name in node.input if name}
        found: Any = ReferenceEvaluator(node).run(None, given)
        return np.asarray(found[0])

    def add(self, kind: str, node: onnx.NodeProto, inputs: list[str], **attributes: Any) -> None:  # noqa: ANN401 - ONNX's
        self.nodes.append(onnx.helper.make_node(kind, inputs, [node.output[0]], **attributes))

    def keep(self, node: onnx.NodeProto) -> None:
        self.nodes.append(node)

    def weigh(self, *images: _Traced) -> None:
        self.most = max(self.most, sum(4 * one.of[0] * one.of[1] ** 2 for one in images))

    def inside(self, name: str, image: _Traced, n: int) -> str:
        # Before the first layer that sees a whole tile: what belongs to points that see beyond the field is cut off.
        if self.inner:
            return name
        self.inner, self.n_inner, self.over = f"{name}/inside", n, image.over
        names = [name, *(f"{self.inner}/{one}" for one in ("from", "to", "sides"))]
        self.nodes.append(onnx.helper.make_node("Slice", names, [self.inner]))
        return self.inner

    def constant(self, name: str, what: str) -> NDArray[Any]:
        if name not in self.constants:
            raise _NotDenseError(f"{what} depends on the image")
        return self.constants[name]


_Attributes: TypeAlias = Mapping[str, Any]
_Rule: TypeAlias = Callable[[_Rewriting, onnx.NodeProto, _Attributes], _Traced]


def _refuse_unless(fine: bool, node: onnx.NodeProto, why: str) -> None:  # noqa: FBT001 - a sentence: unless this
    if not fine:
        raise _NotDenseError(f"{node.op_type} {node.output[0]!r} {why}")


def _image(graph: _Rewriting, node: onnx.NodeProto) -> _Traced:
    given = graph.traced[node.input[0]]
    _refuse_unless(not given.is_row, node, "is of a row of numbers")
    return given


def _one_by_one(graph: _Rewriting, node: onnx.NodeProto, _attributes: _Attributes) -> _Traced:
    # Each value by itself, whatever stands around it.
    graph.keep(node)
    return graph.traced[node.input[0]]


def _two(graph: _Rewriting, node: onnx.NodeProto, _attributes: _Attributes) -> _Traced:
    images = [graph.traced[name] for name in node.input if name in graph.traced]
    if len(images) == 1:
        names = [name if name in graph.traced else _spread(graph, node, name, images[0]) for name in node.input]
        graph.add(node.op_type, node, names)
        return images[0]
    one, two = images
    alike = (one.shape, one.of, one.stride, one.over) == (two.shape, two.of, two.stride, two.over)
    _refuse_unless(alike, node, "joins unequal images")
    graph.keep(node)
    start, end = min(one.start, two.start), max(one.start + one.width, two.start + two.width)
    return one._replace(start=start, width=end - start)


def _spread(graph: _Rewriting, node: onnx.NodeProto, name: str, image: _Traced) -> str:
    # Numbers that are joined with an image: one for all, or one a channel.
    numbers = graph.constants[name]
    if numbers.size == 1:
        return name
    if image.is_row:
        _refuse_unless(image.of[1] == 1, node, "has numbers of its own for each place")
        channels = numbers.reshape(-1)
    else:
        _refuse_unless(numbers.shape[-2:] == (1, 1), node, "has numbers of its own for each place")
        channels = numbers.reshape(-1)
    new = f"{node.output[0]}/channels"
    graph.constants[new] = channels.reshape(1, -1, 1, 1)
    return new


def _transposed(graph: _Rewriting, node: onnx.NodeProto, attributes: _Attributes) -> _Traced:
    fine = node.input[0] == graph.name and list(attributes["perm"]) == [0, 3, 1, 2]
    _refuse_unless(fine, node, "turns the image")
    graph.keep(node)
    return _Traced((1, 3, graph.tile, graph.tile), (3, graph.tile))


def _window(node: onnx.NodeProto, attributes: _Attributes) -> tuple[int, int, tuple[int, int]]:
    # Size, stride and zeros of a window; the same down and across.
    down, across = attributes["kernel_shape"]
    steps = attributes.get("strides", [1, 1])
    upper, left, lower, right = attributes.get("pads", [0, 0, 0, 0])
    apart = attributes.get("dilations", [1, 1])
    square = down == across and steps[0] == steps[1] and apart[0] == apart[1] and (upper, lower) == (left, right)
    plain = attributes.get("auto_pad", b"NOTSET") == b"NOTSET" and not attributes.get("ceil_mode", 0)
    _refuse_unless(square and plain, node, "has a window that is not square, or is rounded up")
    return (down - 1) * apart[0] + 1, steps[0], (upper, lower)


def _conv(graph: _Rewriting, node: onnx.NodeProto, attributes: _Attributes) -> _Traced:
    weight = graph.constant(node.input[1], "a weight")
    return _moved(graph, node, {"kernel_shape": weight.shape[2:], **attributes}, channels=len(weight))


def _pool(graph: _Rewriting, node: onnx.NodeProto, attributes: _Attributes) -> _Traced:
    return _moved(graph, node, attributes, channels=0)


def _moved(graph: _Rewriting, node: onnx.NodeProto, attributes: _Attributes, channels: int) -> _Traced:
    given, (size, stride, zeros) = _image(graph, node), _window(node, attributes)
    found = given.window(size, stride, zeros, channels)
    graph.weigh(given, found)
    if found.of[1] > 1 or zeros != (0, 0):
        graph.keep(node)
        return found
    # One window is the whole tile: how far it would be moved says nothing, and moved by one it gives more points.
    names = [graph.inside(node.input[0], given, size), *node.input[1:]]
    graph.add(node.op_type, node, names, **{**attributes, "strides": [1, 1]})
    return given.window(size, channels=channels)


def _whole(graph: _Rewriting, node: onnx.NodeProto, attributes: _Attributes) -> _Traced:
    # Over the whole tile: a window of that size.
    given = _image(graph, node)
    over_sides = node.op_type.startswith("Global") or sorted(attributes.get("axes", ())) in ([2, 3], [-2, -1])
    _refuse_unless(over_sides, node, "is not over the sides of the image")
    kind = "MaxPool" if "Max" in node.op_type else "AveragePool"
    graph.add(kind, node, [graph.inside(node.input[0], given, given.of[1])], kernel_shape=[given.of[1]] * 2)
    found = given.window(given.of[1])
    return found if node.op_type.startswith("Global") or attributes.get("keepdims", 1) else found.as_row()


def _padded(graph: _Rewriting, node: onnx.NodeProto, attributes: _Attributes) -> _Traced:
    given = _image(graph, node)
    around = graph.constant(node.input[1], "a margin").tolist()
    upper, left, lower, right = around[2], around[3], around[6], around[7]
    plain = attributes.get("mode", b"constant") == b"constant" and not any((*around[:2], *around[4:6]))
    _refuse_unless(plain and (upper, lower) == (left, right) and len(node.input) < 4, node, "adds no plain margin")
    graph.keep(node)
    return given.window(1, 1, (upper, lower))


def _resized(graph: _Rewriting, node: onnx.NodeProto, attributes: _Attributes) -> _Traced:
    given = _image(graph, node)
    fine = (
        attributes.get("mode") == b"linear"
        and attributes.get("coordinate_transformation_mode", b"half_pixel") == b"half_pixel"
        and not attributes.get("antialias", 0)
        and len(node.input) == 4
        and given.over == 0
    )
    _refuse_unless(fine, node, "resizes in a way that is not known here")
    n, side = given.of[1], int(graph.constant(node.input[3], "a size")[-1])
    by, name = Fraction(side, n), f"{node.output[0]}/scales"
    # A hair more than the scale, for sides are rounded down: of a whole number, none must be lost.
    scale = np.nextafter(np.float32(by), np.float32(np.inf)) if np.float32(by) < by else np.float32(by)
    graph.constants[name] = np.array([1, 1, scale, scale], dtype=np.float32)
    graph.add("Resize", node, [node.input[0], "", name], **attributes)
    # Value i lies between two of the given ones: at (i + 1/2) / by - 1/2, which is nowhere a whole one off by two.
    found = _Traced(
        (1, given.of[0], side, side),
        (given.of[0], side),
        given.stride / by,
        given.start + (1 / by - 3) / 2 * given.stride,
        given.width + 2 * given.stride,
    )
    graph.weigh(given, found)
    return found


def _row(graph: _Rewriting, node: onnx.NodeProto, attributes: _Attributes) -> _Traced:
    # Image to row: in the field it stays an image, and the layer after it looks at n x n places of it.
    given = graph.traced[node.input[0]]
    if node.op_type == "Flatten":
        fine = attributes.get("axis", 1) == 1
    else:
        shape = graph.constant(node.input[1], "a shape").tolist()
        fine = len(shape) == 2 and shape[0] in (-1, 0, 1) and shape[1] in (-1, given.of[0] * given.of[1] ** 2)
    _refuse_unless(fine, node, "does not make a row of the image")
    graph.add("Identity", node, [node.input[0]])
    return given.as_row()


def _dense(graph: _Rewriting, node: onnx.NodeProto, attributes: _Attributes) -> _Traced:
    # A dense layer over (c, n, n) features is a convolution with a kernel of n x n; after the first one, n is 1.
    given = graph.traced[node.input[0]]
    weight = graph.constant(node.input[1], "a weight")  # (f, units)
    weight = weight.T if attributes.get("transB", 0) else weight
    plain = attributes.get("alpha", 1.0) == attributes.get("beta", 1.0) == 1.0 and not attributes.get("transA", 0)
    _refuse_unless(given.is_row and weight.ndim == 2 and plain, node, "is no dense layer over a row of numbers")
    (channels, n), units = given.of, weight.shape[1]
    kernel = f"{node.output[0]}/kernel"
    graph.constants[kernel] = weight.T.reshape(units, channels, n, n)
    names = [graph.inside(node.input[0], given, n), kernel]
    if len(node.input) > 2:
        names.append(f"{node.output[0]}/offset")
        graph.constants[names[-1]] = np.broadcast_to(graph.constant(node.input[2], "an offset").reshape(-1), (units,))
    graph.add("Conv", node, names, kernel_shape=[n, n])
    return given.window(n, channels=units).as_row()


def _norm(graph: _Rewriting, node: onnx.NodeProto, _attributes: _Attributes) -> _Traced:
    given = graph.traced[node.input[0]]
    _refuse_unless(not given.is_row or given.of[1] == 1, node, "has numbers of its own for each place")
    graph.keep(node)
    return given


def _softmax(graph: _Rewriting, node: onnx.NodeProto, attributes: _Attributes) -> _Traced:
    given = graph.traced[node.input[0]]
    fine = given.is_row and given.of[1] == 1 and attributes.get("axis", -1) in (1, -1)
    _refuse_unless(fine, node, "is not over the classes")
    graph.add("Softmax", node, [node.input[0]], axis=1)
    return given


_RULES: Mapping[str, _Rule] = MappingProxyType({
    **dict.fromkeys(
        ("Cast", "Clip", "Dropout", "Elu", "Erf", "Identity", "LeakyRelu", "Relu", "Sigmoid", "Tanh"), _one_by_one
    ),
    **dict.fromkeys(("Add", "Div", "Mul", "Sub"), _two),
    **dict.fromkeys(("AveragePool", "MaxPool"), _pool),
    **dict.fromkeys(("GlobalAveragePool", "GlobalMaxPool", "ReduceMax", "ReduceMean"), _whole),
    **dict.fromkeys(("Flatten", "Reshape"), _row),
    **dict.fromkeys(("Gemm", "MatMul"), _dense),
    "BatchNormalization": _norm,
    "Conv": _conv,
    "Pad": _padded,
    "Resize": _resized,
    "Softmax": _softmax,
    "Transpose": _transposed,
})
