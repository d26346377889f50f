"""A graph gives the same probabilities however it is run."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from sentinode.errors import ModelError
from sentinode.models import runtime
from sentinode.models.runtime import GraphRecogniser, this_machine
from sentinode.models.tuning import RuntimeChoice, drawn_tiles

onnx = pytest.importorskip("onnx")


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Mean colours of a tile, weighted and squashed: small, and each row depends on its own tile only."""
    from onnx import TensorProto, helper, numpy_helper  # noqa: PLC0415

    weights = numpy_helper.from_array(np.array([[2.0, -2], [-1, 1], [0.5, 0]], np.float32), "weights")
    scale = numpy_helper.from_array(np.array(1 / 255, np.float32), "scale")
    nodes = [
        helper.make_node("Cast", ["tiles"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["floats"], ["means"], axes=[1, 2], keepdims=0),
        helper.make_node("Mul", ["means", "scale"], ["shares"]),
        helper.make_node("MatMul", ["shares", "weights"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["proba"], axis=1),
    ]
    drawn = helper.make_graph(
        nodes,
        "means",
        [helper.make_tensor_value_info("tiles", TensorProto.UINT8, ["n", 24, 24, 3])],
        [helper.make_tensor_value_info("proba", TensorProto.FLOAT, ["n", 2])],
        [weights, scale],
    )
    path = tmp_path_factory.mktemp("graph") / "graph.onnx"
    onnx.save(helper.make_model(drawn, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def expected(tiles: np.ndarray) -> np.ndarray:
    logits = tiles.mean(axis=(1, 2)) / 255 @ np.array([[2.0, -2], [-1, 1], [0.5, 0]])
    return np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)


@pytest.mark.parametrize("n", [1, 5, 16, 37])
@pytest.mark.parametrize(("streams", "batch"), [(1, 64), (2, 4), (3, 16)])
def test_however_it_is_cut_each_tile_gets_its_own(graph: Path, n: int, streams: int, batch: int):
    tiles = drawn_tiles(n, (24, 24))
    recogniser = GraphRecogniser(graph, choice=RuntimeChoice("OpenVINO", streams=streams, batch=batch))
    for _ in range(3):
        proba = recogniser.predict_proba(tiles)
        assert proba.dtype == np.float32
        assert np.abs(proba - expected(tiles)).max() < 1e-5


def test_bf16_stays_within_its_bound(graph: Path):
    tiles = drawn_tiles(64, (24, 24))
    quick = GraphRecogniser(graph, choice=RuntimeChoice("OpenVINO", "bf16")).predict_proba(tiles)
    assert np.abs(quick - expected(tiles)).max() < 0.02


def test_tiles_that_do_not_lie_together_in_memory_are_taken(graph: Path):
    tiles = np.moveaxis(np.ascontiguousarray(np.moveaxis(drawn_tiles(20, (24, 24)), 3, 1)), 1, 3)
    assert not tiles.flags.c_contiguous
    recogniser = GraphRecogniser(graph, choice=RuntimeChoice("OpenVINO", streams=2, batch=8))
    assert np.abs(recogniser.predict_proba(tiles) - expected(tiles)).max() < 1e-5


def test_what_is_no_graph_is_refused_by_name(tmp_path: Path):
    (tmp_path / "graph.onnx").write_bytes(b"no graph")
    with pytest.raises(ModelError, match=r"graph\.onnx: is no graph"):
        GraphRecogniser(tmp_path / "graph.onnx")


def test_this_machine_has_a_name():
    machine = this_machine()
    assert machine.engine.startswith(("OpenVINO", "ONNX Runtime"))
    assert machine.cores >= 1
    assert machine.cpu


def test_without_openvino_onnx_runtime_runs_it(graph: Path, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: it is the fallback of OpenVINO")
    monkeypatch.setattr(runtime, "ENGINES", {"onnxruntime": "ONNX Runtime"})
    recogniser = GraphRecogniser(graph)
    assert recogniser.choice.engine.startswith("ONNX Runtime")
    tiles = drawn_tiles(9, (24, 24))
    assert np.abs(recogniser.predict_proba(tiles) - expected(tiles)).max() < 1e-5
    assert not this_machine().bf16


def test_without_any_engine_it_is_said_what_to_install(graph: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(runtime, "ENGINES", {"an_engine_that_is_not_there": "None"})
    with pytest.raises(ModelError, match="pip install openvino"):
        GraphRecogniser(graph)


def test_loading_the_engine_tells_nobody():
    """OpenVINO sends an event at import through a package that it must not find."""
    pytest.importorskip("openvino")
    program = (
        "import sys; from sentinode.models.engines import quiet_import; quiet_import('openvino'); "
        "from openvino.tools.ovc import telemetry_utils; print(telemetry_utils.tm.__name__)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "openvino.tools.ovc.telemetry_stub"
