"""Recognising tiles with a finished bundle on this machine: OpenVINO for graphs, scikit-learn otherwise; no torch."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Protocol, cast

import numpy as np
from numpy.typing import NDArray

from sentinode.errors import ModelError
from sentinode.models.bundle import ESTIMATOR_FILE, GRAPH_FILE, Bundle

__all__ = ["GraphRecogniser", "Recogniser", "open_recogniser"]

OURS = "sentinode.algorithms."
"""Beginning of the names of the classes that a file may bring to life beside scikit-learn's and numpy's."""


class Recogniser(Protocol):
    """Gives tiles their probabilities."""

    def predict_proba(self, tiles: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Recognise ``(n, h, w, 3)`` uint8: ``(n, k)`` float32, rows sum to 1, columns as the bundle's classes."""
        ...


class GraphRecogniser:
    """An ONNX graph, compiled for this CPU by OpenVINO in float32.

    Parameters
    ----------
    path : Path
        Of the graph.
    threads : int, optional
        Of the CPU; None for as many as OpenVINO sees fit.

    Raises
    ------
    ModelError
        If the graph cannot be read.
    """

    def __init__(self, path: Path, *, threads: int | None = None) -> None:
        # OpenVINO's telemetry lives in its converters, none of which is used: reading a graph tells nobody.
        import openvino  # noqa: PLC0415 - half a second that a study does without

        settings: dict[str, object] = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
        if threads is not None:
            settings["INFERENCE_NUM_THREADS"] = threads
        try:
            self._compiled = openvino.Core().compile_model(str(path), "CPU", settings)
        except RuntimeError as error:
            raise ModelError(f"{path}: is no graph that can be run ({str(error).splitlines()[-1]})") from error

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
        return np.array(self._compiled(np.ascontiguousarray(tiles))[0], dtype=np.float32)


def open_recogniser(bundle: Bundle, *, threads: int | None = None) -> Recogniser:
    """Make a bundle ready to recognise tiles.

    Parameters
    ----------
    bundle : Bundle
        Read, and thereby checked.
    threads : int, optional
        Of the CPU.

    Returns
    -------
    Recogniser
        For tiles of the bundle's size.

    Raises
    ------
    ModelError
        If a file of the bundle cannot be read, or would bring to life what is not ours.
    """
    # ModelError is that of the two.
    facts = bundle.facts
    for name, open_file in _OPENERS.items():
        if name in bundle.files:
            recogniser = open_file(bundle.folder / name, threads)
            return _InOrder(recogniser, np.array([facts.columns.index(label) for label in facts.classes]))
    raise ModelError(f"{bundle.folder}: holds nothing that recognises; train it again")


@dataclass(frozen=True, eq=False)
class _InOrder:
    # The columns as the classes of the bundle: the positive one last, whatever the alphabet says.
    recogniser: Recogniser
    order: NDArray[np.int64]

    def predict_proba(self, tiles: NDArray[np.uint8]) -> NDArray[np.float32]:
        return np.ascontiguousarray(self.recogniser.predict_proba(tiles)[:, self.order], dtype=np.float32)


def _open_graph(path: Path, threads: int | None) -> Recogniser:
    return GraphRecogniser(path, threads=threads)


def _open_estimator(path: Path, threads: int | None) -> Recogniser:  # noqa: ARG001 - scikit-learn takes what it gets
    import skops.io  # noqa: PLC0415 - only here

    unknown = skops.io.get_untrusted_types(file=path)
    foreign = [name for name in unknown if not name.startswith(OURS)]
    if foreign:
        raise ModelError(f"{path}: would bring to life {', '.join(foreign)}, which Sentinode does not know; not opened")
    return cast("Recogniser", skops.io.load(path, trusted=unknown))


_OPENERS: Mapping[str, Callable[[Path, int | None], Recogniser]] = MappingProxyType({
    GRAPH_FILE: _open_graph,
    ESTIMATOR_FILE: _open_estimator,
})
