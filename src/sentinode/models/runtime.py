"""Recognising tiles with a finished bundle on this machine: OpenVINO for graphs, scikit-learn otherwise; no torch.

Where OpenVINO cannot be loaded, ONNX Runtime runs graphs if it is there. How a graph is run best on a machine is
chosen in `sentinode.models.tuning`; without a choice it is float32, all cores on one batch.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from importlib import metadata
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from sentinode.errors import ModelError
from sentinode.evaluation.calibration import Calibration
from sentinode.models.bundle import ESTIMATOR_FILE, GRAPH_FILE, INT8_FILES, Bundle, BundleFacts
from sentinode.models.encoder import Encoder, find_encoder
from sentinode.models.engines import quiet_import
from sentinode.models.tuning import Machine, Precision, PrecisionWish, Recognise, RuntimeChoice, cache_folder, choose

if TYPE_CHECKING:
    from sentinode.models.dense import DenseGraph

__all__ = [
    "ENGINES",
    "DenseRecogniser",
    "GraphRecogniser",
    "Recogniser",
    "open_dense",
    "open_recogniser",
    "this_machine",
]

OURS = "sentinode.algorithms."
"""Beginning of the names of the classes that a file may bring to life beside scikit-learn's and numpy's."""

ENGINES: Mapping[str, str] = MappingProxyType({"openvino": "OpenVINO", "onnxruntime": "ONNX Runtime"})
"""What runs graphs: module -> name; the first that can be loaded does."""


class Recogniser(Protocol):
    """Gives tiles their probabilities."""

    @property
    def runtime(self) -> Mapping[str, Any]:
        """How it does that, for the record: engine, precision and so on."""
        ...

    def predict_proba(self, tiles: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Recognise ``(n, h, w, 3)`` uint8: ``(n, k)`` float32, rows sum to 1, columns as the bundle's classes."""
        ...


class GraphRecogniser:
    """A graph, compiled for this CPU.

    Parameters
    ----------
    graph : Path or bytes
        A file, ONNX or OpenVINO's own, or its content.
    threads : int, optional
        Of the CPU; None for as many as the engine sees fit.
    choice : RuntimeChoice, optional
        How it is run; None for float32, all threads on one batch.

    Raises
    ------
    ModelError
        If the graph cannot be read, or nothing that runs graphs can be loaded.
    """

    def __init__(self, graph: Path | bytes, *, threads: int | None = None, choice: RuntimeChoice | None = None) -> None:
        name, engine = _engine()
        self.choice = choice or RuntimeChoice(_named(name, engine))
        try:
            self._recognise = _COMPILERS[name](engine, graph, threads, choice)
        except RuntimeError as error:
            told = graph if isinstance(graph, Path) else "the dense network"
            raise ModelError(f"{told}: is no graph that can be run ({str(error).splitlines()[-1]})") from error

    def predict_proba(self, tiles: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Recognise tiles.

        Parameters
        ----------
        tiles : (n, h, w, 3) uint8
            Of the size seen in training.

        Returns
        -------
        (n, k) float32
            Rows sum to 1.
        """
        return self._recognise(np.ascontiguousarray(tiles))


def this_machine() -> Machine:
    """Say what runs graphs here.

    Returns
    -------
    Machine
        With the cores that this process may use.

    Raises
    ------
    ModelError
        If nothing that runs graphs can be loaded.
    """
    # ModelError is _engine's.
    name, engine = _engine()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    if name != "openvino":
        return Machine("CPU", cores, _named(name, engine), bf16=False)
    core = engine.Core()
    cpu, can = core.get_property("CPU", "FULL_DEVICE_NAME"), core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return Machine(str(cpu), cores, _named(name, engine), bf16="BF16" in can)


def open_recogniser(
    bundle: Bundle,
    *,
    threads: int | None = None,
    quick: bool = False,
    precision: PrecisionWish = "auto",
    calibrated: bool = True,
) -> Recogniser:
    """Make a bundle ready to recognise tiles.

    Parameters
    ----------
    bundle : Bundle
        Read, and thereby checked.
    threads : int, optional
        Of the CPU; None for all. What is quick takes all.
    quick : bool
        Whether a graph is run the way that is quickest here, which is measured at the first time; else it is run in
        float32, all threads on one batch.
    precision : {"auto", "float32", "int8"}
        Whether what is quick may be computed in bf16, or shall be in int8.
    calibrated : bool
        Whether the calibration of the bundle is applied, where it has one.

    Returns
    -------
    Recogniser
        For tiles of the bundle's size.

    Raises
    ------
    ModelError
        If a file of the bundle cannot be read, or would bring to life what is not ours; or int8 is asked for, and the
        bundle does not offer it or this machine does not run it.
    ValueError
        If int8 is asked for without `quick`.
    """
    # ModelError is that of the steps.
    facts = bundle.facts
    if precision == "int8":
        if not quick:
            raise ValueError("int8 is a quick way: it is chosen with quick=True")
        _require_int8(bundle)
    if GRAPH_FILE in bundle.files:
        path = bundle.folder / GRAPH_FILE
        choice = _chosen(bundle, path, precision) if quick else None
        graph = GraphRecogniser(_graph(path, choice), threads=threads, choice=choice)
        return _in_order(graph.predict_proba, facts, asdict(graph.choice), calibrated=calibrated)
    if ESTIMATOR_FILE in bundle.files:
        runtime = {"engine": f"scikit-learn {metadata.version('scikit-learn')}"}
        recognise = _estimator(bundle.folder / ESTIMATOR_FILE)
        if facts.encoder is not None:
            runtime["encoder"] = facts.encoder.file
            recognise = _after_encoder(find_encoder(facts.encoder, bundle.folder), bundle.mpp_of_tiles(), recognise)
        return _in_order(recognise, facts, runtime, calibrated=calibrated)
    raise ModelError(f"{bundle.folder}: holds nothing that recognises; train it again")


@dataclass(frozen=True, eq=False)
class DenseRecogniser:
    """Gives every point of a field its probability.

    Parameters
    ----------
    graph : DenseGraph
        How large a field may be, and where its points are.
    recognise : callable
        Of fields: (1, h, w, 3) uint8 to a row of probabilities a point, the class that is looked for last.
    """

    graph: "DenseGraph"
    recognise: Recognise

    def points(self, field: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Recognise a field.

        Parameters
        ----------
        field : (h, w, 3) uint8
            Sides as the graph takes them.

        Returns
        -------
        (m, n) float32
            Probability of the class that is looked for, at the graph's `points_along` each side.
        """
        return self.recognise(field[None])[:, -1].reshape([self.graph.points_along(side) for side in field.shape[:2]])


def open_dense(
    bundle: Bundle, *, precision: Precision = "float32", most: int | None = None, calibrated: bool = True
) -> DenseRecogniser:
    """Make the network of a bundle ready to recognise fields.

    Parameters
    ----------
    bundle : Bundle
        Read, and thereby checked.
    precision : {"float32", "bf16"}
        In which it is computed: that of the tiles.
    most : int, optional
        Side of the largest field in pixels, about; None for what suits the network.
    calibrated : bool
        Whether the calibration of the bundle is applied, where it has one.

    Returns
    -------
    DenseRecogniser
        For fields at the resolution of the bundle's tiles.

    Raises
    ------
    ModelError
        If the bundle holds no network, or one that cannot be run densely.
    """
    from sentinode.models.dense import dense_graph  # noqa: PLC0415 - onnx, only here

    facts = bundle.facts
    if GRAPH_FILE not in bundle.files:
        raise ModelError(f"{bundle.folder}: cannot be run densely: {facts.algorithm} is no convolutional network")
    graph = dense_graph(bundle.folder / GRAPH_FILE, most)
    network = GraphRecogniser(graph.model, choice=RuntimeChoice(this_machine().engine, precision, batch=1))

    def rows(fields: NDArray[np.uint8]) -> NDArray[np.float32]:
        found = network.predict_proba(fields)  # (1, k, m, n)
        return found.reshape(found.shape[1], -1).T

    return DenseRecogniser(graph, _in_order(rows, facts, {}, calibrated=calibrated).predict_proba)


def _require_int8(bundle: Bundle) -> None:
    facts = bundle.facts.int8
    if facts is None:
        how = "train it with --int8" if GRAPH_FILE in bundle.files else "only networks have"
        raise ModelError(f"{bundle.folder}: has no int8 graph ({how}); leave out --precision int8")
    if facts.refusal:
        raise ModelError(f"{bundle.folder}: int8 was refused: {facts.refusal}; leave out --precision int8")
    if not this_machine().engine.startswith(ENGINES["openvino"]):
        raise ModelError("int8 is run by OpenVINO, which cannot be loaded; leave out --precision int8")


def _chosen(bundle: Bundle, path: Path, precision: PrecisionWish) -> RuntimeChoice:
    machine, tile = this_machine(), bundle.facts.tile
    int8 = bundle.facts.int8.apart if precision == "int8" and bundle.facts.int8 is not None else None
    if precision == "float32":
        machine = replace(machine, bf16=False)

    def build(choice: RuntimeChoice) -> Recognise:
        return GraphRecogniser(_graph(path, choice), choice=choice).predict_proba

    return choose(machine, bundle.digest, (tile.height, tile.width), build, cache_folder(), int8)


def _graph(path: Path, choice: RuntimeChoice | None) -> Path:
    return path.with_name(INT8_FILES[0]) if choice is not None and choice.precision == "int8" else path


@dataclass(frozen=True, eq=False)
class _InOrder:
    # The columns as the classes of the bundle: the positive one last, whatever the alphabet says; calibrated.
    recognise: Recognise
    order: NDArray[np.int64]
    runtime: Mapping[str, Any] = field(default_factory=dict)
    calibration: Calibration | None = None

    def predict_proba(self, tiles: NDArray[np.uint8]) -> NDArray[np.float32]:
        proba = np.ascontiguousarray(self.recognise(tiles)[:, self.order], dtype=np.float32)
        return proba if self.calibration is None else self.calibration.apply(proba)


def _in_order(recognise: Recognise, facts: BundleFacts, runtime: Mapping[str, Any], *, calibrated: bool) -> _InOrder:
    order = np.array([facts.columns.index(label) for label in facts.classes])
    calibration = facts.calibration.calibration if calibrated and facts.calibration is not None else None
    return _InOrder(recognise, order, MappingProxyType(dict(runtime)), calibration)


# --- engines ------------------------------------------------------------------------------------------------


def _engine() -> tuple[str, ModuleType]:
    reasons = []
    for name in ENGINES:
        try:
            return name, quiet_import(name)  # half a second that a study does without
        except (ImportError, OSError) as error:
            reasons.append(str(error))
    raise ModelError(f"nothing that runs a network can be loaded ({reasons[0]}); run: pip install openvino")


def _named(name: str, engine: ModuleType) -> str:
    return f"{ENGINES[name]} {str(engine.__version__).partition('-')[0]}"


def _with_openvino(
    openvino: Any,  # noqa: ANN401 - a module
    graph: Path | bytes,
    threads: int | None,
    choice: RuntimeChoice | None,
) -> Recognise:
    settings: dict[str, object] = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    if choice is not None:
        # Threads that read share the cores: pinned to one, inference would wait behind them.
        settings = {"NUM_STREAMS": choice.streams, "ENABLE_CPU_PINNING": False}
        settings["INFERENCE_PRECISION_HINT"] = {"float32": "f32", "bf16": "bf16", "int8": "f32"}[choice.precision]
    if threads is not None:
        settings["INFERENCE_NUM_THREADS"] = threads
    core = openvino.Core()
    model = str(graph) if isinstance(graph, Path) else core.read_model(graph)
    compiled = core.compile_model(model, "CPU", settings)
    if choice is None or choice.streams == 1:
        return lambda tiles: np.array(compiled(tiles)[0], dtype=np.float32)
    queue, batch, n_classes = (
        openvino.AsyncInferQueue(compiled, choice.streams),
        choice.batch,
        compiled.output(0).partial_shape[1].get_length(),
    )

    def recognise(tiles: NDArray[np.uint8]) -> NDArray[np.float32]:
        proba = np.empty((len(tiles), n_classes), dtype=np.float32)

        def keep(request: Any, rows: slice) -> None:  # noqa: ANN401 - OpenVINO's
            proba[rows] = request.get_output_tensor().data

        queue.set_callback(keep)
        for begin in range(0, len(tiles), batch):
            rows = slice(begin, min(begin + batch, len(tiles)))
            queue.start_async({0: tiles[rows]}, rows, share_inputs=True)
        queue.wait_all()
        return proba

    return recognise


def _with_onnxruntime(
    runtime: Any,  # noqa: ANN401 - a module
    graph: Path | bytes,
    threads: int | None,
    choice: RuntimeChoice | None,  # noqa: ARG001 - it has float32 only, and cuts the work itself
) -> Recognise:
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads or 0
    content = str(graph) if isinstance(graph, Path) else graph
    session = runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return lambda tiles: np.asarray(session.run(None, {"tiles": tiles})[0], dtype=np.float32)


_COMPILERS: Mapping[str, Callable[[Any, Path | bytes, int | None, RuntimeChoice | None], Recognise]] = (
    MappingProxyType({
        "openvino": _with_openvino,
        "onnxruntime": _with_onnxruntime,
    })
)


# --- estimators ---------------------------------------------------------------------------------------------


def _estimator(path: Path) -> Recognise:
    import skops.io  # noqa: PLC0415 - only here

    unknown = skops.io.get_untrusted_types(file=path)
    foreign = [name for name in unknown if not name.startswith(OURS)]
    if foreign:
        raise ModelError(f"{path}: would bring to life {', '.join(foreign)}, which Sentinode does not know; not opened")
    return cast("Recognise", skops.io.load(path, trusted=unknown).predict_proba)


def _after_encoder(encoder: Encoder, mpp: float, head: Callable[[Any], NDArray[np.float32]]) -> Recognise:
    return lambda tiles: head(encoder.embed(tiles, [mpp] * len(tiles)))
