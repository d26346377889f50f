"""A network over a field says at every point what it says of the tile there, or what stands in the way."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from sentinode.errors import ModelError
from sentinode.models.dense import DenseGraph, dense_graph
from sentinode.models.runtime import GraphRecogniser
from sentinode.models.tuning import drawn_tiles

pytest.importorskip("torch", exc_type=ImportError)
onnx = pytest.importorskip("onnx")

VALID = (
    {"conv": 6, "kernel": 5, "padding": "valid"},
    {"pool": "max"},
    {"conv": 8, "kernel": 3, "padding": "valid", "activation": "gelu"},
    {"batch_norm": True},
    {"pool": "mean"},
    {"conv": 8, "kernel": 3, "padding": "valid", "stride": 2, "activation": "leaky-relu"},
    {"dense": 12},
    {"batch_norm": True},
    {"dropout": 0.5},
    {"dense": 7, "activation": "tanh"},
)
MEAN = ({"conv": 6, "kernel": 4, "padding": "valid", "stride": 2}, {"pool": "max"}, {"global_pool": "mean"})
MAX = (
    {"conv": 6, "kernel": 3, "padding": "valid"},
    {"pool": "mean", "size": 3},
    {"global_pool": "max"},
    {"batch_norm": True},
    {"dense": 5, "activation": "linear"},
)
PADDED = (
    {"conv": 6, "kernel": 5},
    {"pool": "max"},
    {"conv": 8, "kernel": 4},
    {"pool": "max"},
    {"conv": 8, "kernel": 3, "stride": 2},
    {"dense": 12, "activation": "elu"},
)


def write(layers, tile: int, path: Path, *, prepare=None, before=()) -> Path:
    """A network with weights drawn large enough that its answers differ, as the graph of a bundle."""
    import torch  # noqa: PLC0415
    from torch import nn  # noqa: PLC0415

    from sentinode.algorithms.layers import build_network, parse_layers  # noqa: PLC0415
    from sentinode.algorithms.training import Standardiser, WholeNetwork  # noqa: PLC0415
    from sentinode.models.graph import write_graph  # noqa: PLC0415

    network = build_network(parse_layers(layers), (tile, tile), 2, seed=3)
    draws = torch.Generator().manual_seed(1)
    for one in network.modules():
        if isinstance(one, nn.Linear):
            nn.init.normal_(one.weight, std=1.5 / one.in_features**0.5, generator=draws)
            nn.init.normal_(one.bias, std=0.1, generator=draws)
        if isinstance(one, (nn.BatchNorm1d, nn.BatchNorm2d)):
            one.running_mean.normal_(0, 0.2, generator=draws)
            one.running_var.uniform_(0.5, 2, generator=draws)
    prepare = prepare or Standardiser(np.full(3, 170, np.float32), np.full(3, 40, np.float32))

    class Trained:
        def as_network(self):
            return WholeNetwork(nn.Sequential(*before, network).eval(), prepare)

    write_graph(Trained(), (tile, tile), path)
    return path


def points(graph: DenseGraph, field: np.ndarray) -> np.ndarray:
    return GraphRecogniser(graph.model).predict_proba(field[None])[0, 1]


def sliding(path: Path, graph: DenseGraph, field: np.ndarray) -> np.ndarray:
    """The plain way: the tile of each point, one after the other."""
    down, across = (
        [int((graph.first + j) * graph.stride) for j in range(graph.points_along(n))] for n in field.shape[:2]
    )
    tiles = np.stack([field[y : y + graph.tile, x : x + graph.tile] for y in down for x in across])
    return GraphRecogniser(path).predict_proba(tiles)[:, 1].reshape(len(down), len(across))


@pytest.mark.parametrize(
    ("layers", "tile", "stride"), [(VALID, 36, 8), (MEAN, 24, 4), (MAX, 24, 3)], ids=["dense", "mean", "max"]
)
def test_without_zeros_around_the_image_it_equals_the_sliding_window(tmp_path, layers, tile, stride):
    path = write(layers, tile, tmp_path / "graph.onnx")
    graph = dense_graph(path, most=150)
    assert (graph.stride, graph.before, graph.after, graph.first) == (stride, 0, 0, 0)
    assert graph.most % stride == 0
    assert graph.points_along(graph.most) == (graph.most - tile) // stride + 1
    field = drawn_tiles(1, (graph.most, graph.most - 2 * stride))[0]
    expected = sliding(path, graph, field)
    assert expected.std() > 0.02, "of a network that says the same of everything, nothing is tested"
    assert np.abs(points(graph, field) - expected).max() < 1e-3


def test_with_zeros_around_the_image_its_outermost_features_see_the_true_surroundings(tmp_path):
    path = write(PADDED, 32, tmp_path / "graph.onnx")
    graph = dense_graph(path, most=160)
    # 5x5: two around; 4x4 at stride 2: one before, two after; 3x3 with stride 2 at stride 4: none before, one after.
    assert (graph.stride, graph.before, graph.after) == (8, 2 + 1 * 2, 2 + 2 * 2 + 1 * 4)
    field = drawn_tiles(1, (graph.most, graph.most))[0]
    found, expected = points(graph, field), sliding(path, graph, field)
    assert np.abs(found - expected).max() > 1e-3
    # What lies around the tile is seen, and what lies beyond that is not.
    j = graph.points_along(graph.most) // 2
    at = int((graph.first + j) * graph.stride)
    around = slice(at - graph.before, at + graph.tile + graph.after)
    other = np.full_like(field, 255)
    other[around, around] = field[around, around]
    assert points(graph, other)[j, j] == pytest.approx(found[j, j], abs=1e-5)
    for beyond in (at - graph.before - 1, at + graph.tile + graph.after):
        other = field.copy()
        other[beyond] = 255 - other[beyond]
        assert points(graph, other)[j, j] == pytest.approx(found[j, j], abs=1e-6)


def test_a_point_is_the_same_in_whatever_field(tmp_path):
    path = write(PADDED, 32, tmp_path / "graph.onnx")
    graph = dense_graph(path, most=160)
    large = drawn_tiles(1, (graph.most + 48, graph.most + 24))[0]
    one = points(graph, large[: graph.most, : graph.most])
    two = points(graph, large[48:, 24:])
    assert np.abs(one[6:, 3:] - two[:-6, :-3]).max() < 1e-5
    for n in (1, 2, 7, 11):
        side = graph.side_for(n)
        assert graph.points_along(side) >= n > graph.points_along(side - graph.period)
        small = points(graph, large[: graph.most, :side])
        assert small.shape == (one.shape[0], graph.points_along(side))
        assert np.abs(small - one[:, : small.shape[1]]).max() < 1e-5


def test_a_network_that_enlarges_its_tiles_has_points_between_pixels(tmp_path):
    from torch import nn  # noqa: PLC0415

    class Enlarge(nn.Module):
        def forward(self, images):
            return nn.functional.interpolate(images, (36, 36), mode="bilinear", align_corners=False)

    class Body(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.pad, self.conv = nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(3, 3, 3, 4)
            self.twice = nn.Conv2d(3, 3, 3, 1, 1)

        def forward(self, images):
            found = self.conv(self.pad(images)).relu()
            return found + self.twice(found)

    path = write([{"global_pool": "mean"}, {"dense": 4}], 24, tmp_path / "graph.onnx", before=(Enlarge(), Body()))
    graph = dense_graph(path, most=128)
    assert graph.stride == Fraction(8, 3)
    assert graph.most % graph.period == 0
    large = drawn_tiles(1, (graph.most + 16, graph.most))[0]
    one, two = points(graph, large[: graph.most]), points(graph, large[16:])
    assert np.abs(one[6:] - two[:-6]).max() < 1e-5
    small = points(graph, large[: graph.most, : graph.side_for(5)])
    assert np.abs(small - one[:, : small.shape[1]]).max() < 1e-5


def test_what_depends_on_the_place_in_the_tile_is_refused(tmp_path):
    from sentinode.algorithms.training import Standardiser  # noqa: PLC0415

    mean = np.random.default_rng(1).uniform(100, 150, (24, 24, 3)).astype(np.float32)
    path = write(MEAN, 24, tmp_path / "graph.onnx", prepare=Standardiser(mean, np.ones_like(mean)))
    with pytest.raises(ModelError, match=r"graph\.onnx: cannot be run densely: Sub .* numbers of its own for each"):
        dense_graph(path)


def test_an_operation_that_is_not_known_is_refused_by_name(tmp_path):
    path = write(MEAN, 24, tmp_path / "graph.onnx")
    model = onnx.load(path)
    next(node for node in model.graph.node if node.op_type == "Relu").op_type = "Hardmax"
    onnx.save(model, path)
    with pytest.raises(ModelError, match="cannot be run densely: the operation Hardmax is not known"):
        dense_graph(path)


def test_dense_layers_over_the_pixels_are_refused(tmp_path):
    path = write([{"dense": 8}, {"dense": 4}], 24, tmp_path / "graph.onnx")
    with pytest.raises(ModelError, match="cannot be run densely: its points would be a pixel apart"):
        dense_graph(path)


def test_what_is_no_graph_is_refused(tmp_path):
    (tmp_path / "graph.onnx").write_bytes(b"no graph")
    with pytest.raises(ModelError, match=r"graph\.onnx: cannot be read as a graph"):
        dense_graph(tmp_path / "graph.onnx")


def test_the_founding_network_has_a_point_every_sixteen_pixels(tmp_path):
    path = write(
        [{"conv": 2, "kernel": 5}, {"pool": "max"}, {"conv": 2, "kernel": 5}, {"pool": "max"}]
        + 2 * [{"conv": 2, "kernel": 3}, {"pool": "max"}]
        + [{"dense": 4}],
        96,
        tmp_path / "graph.onnx",
    )
    graph = dense_graph(path)
    assert (graph.stride, graph.before, graph.after, graph.most, graph.points_along(1536)) == (16, 18, 18, 1536, 87)
