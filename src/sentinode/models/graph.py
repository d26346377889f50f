"""A trained network as an ONNX graph: pixels as they are stored in, probabilities out, nothing left to do wrong."""

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np

from sentinode.errors import MissingExtra, ModelError

if TYPE_CHECKING:
    from torch import nn

__all__ = ["NetworkAlgorithm", "write_graph"]

OPSET = 17
"""Of ONNX: read by every runtime of the last years."""

CLOSE_ENOUGH = 1e-3
"""Largest difference of a probability between network and graph that rounding explains, on noise."""


@runtime_checkable
class NetworkAlgorithm(Protocol):
    """A trained algorithm that is a network."""

    def as_network(self) -> "nn.Module":
        """Give it whole: (b, h, w, 3) uint8 -> (b, k) float32 probabilities."""
        ...


def write_graph(algorithm: NetworkAlgorithm, size: tuple[int, int], path: Path) -> None:
    """Write a trained network as a graph, and check that the graph gives what the network gives.

    Parameters
    ----------
    algorithm : NetworkAlgorithm
        Trained.
    size : (h, w)
        Of the tiles in pixels.
    path : Path
        Of the ``.onnx`` file; input ``tiles`` (n, h, w, 3) uint8, output ``proba`` (n, k) float32.

    Raises
    ------
    ModelError
        If a layer cannot be written, or the graph gives other probabilities than the network.
    MissingExtra
        If torch is not installed.
    """
    try:
        import torch  # noqa: PLC0415 - this module is read without it
    except ModuleNotFoundError as missing:
        raise MissingExtra("train", "writing a network as a graph") from missing
    network = algorithm.as_network()
    tiles = torch.from_numpy(np.random.default_rng(1).integers(0, 256, (2, *size, 3), dtype=np.uint8))
    with warnings.catch_warnings(), torch.no_grad():
        # The exporter of TorchScript is called old, and warns of the constants that standardise. The new one
        # needs a second package, takes twenty times as long, and writes the same graph for these layers.
        warnings.simplefilter("ignore")
        try:
            torch.onnx.export(
                network,
                (tiles,),
                str(path),
                dynamo=False,
                opset_version=OPSET,
                input_names=["tiles"],
                output_names=["proba"],
                dynamic_axes={"tiles": {0: "n"}, "proba": {0: "n"}},
            )
        except torch.onnx.errors.UnsupportedOperatorError as error:
            raise ModelError(f"a layer of this network cannot be written as a graph: {error}") from error
        expected = network(tiles).numpy()
    _check(path, tiles.numpy(), expected)


def _check(path: Path, tiles: np.ndarray, expected: np.ndarray) -> None:
    from sentinode.models.runtime import GraphRecogniser  # noqa: PLC0415 - OpenVINO, only here

    apart = float(np.abs(GraphRecogniser(path, threads=1).predict_proba(tiles) - expected).max())
    if not apart <= CLOSE_ENOUGH:
        raise ModelError(f"the graph gives other probabilities than the network (up to {apart:.2g} apart)")
