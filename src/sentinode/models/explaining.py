"""What in a tile a recogniser's answer rests on, and what its layers make of the tile.

Maps say where. Occlusion (Zeiler and Fergus 2014, "Visualizing and understanding convolutional networks", section
4.2) asks any recogniser; Grad-CAM (Selvaraju et al. 2017, equations 1 and 2) and integrated gradients (Sundararajan,
Taly and Yan 2017, equation 1) ask a network. Whether a map depends on what was learned is tested by shuffling the
weights (Adebayo et al. 2018, "Sanity checks for saliency maps"): one that stays as it was shows the image only.
"""

import importlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sentinode.errors import MissingExtra, ModelError

if TYPE_CHECKING:
    from torch import Tensor

    from sentinode.models.differentiable import DifferentiableGraph

__all__ = [
    "OCCLUDED",
    "Explanation",
    "LayerView",
    "NetworkExplanation",
    "SaliencyMap",
    "alikeness",
    "explain_network",
    "log_odds_of",
    "occlusion_map",
]

Floats = NDArray[np.float32]
Recognise = Callable[[NDArray[np.uint8]], Floats]
LogOdds = Callable[[NDArray[np.uint8]], NDArray[np.floating]]

OCCLUDED = "what the log odds lose where the tile is covered"

WINDOW_SHARE = 6
"""A tile is covered by squares of a sixth of its side, half a square apart."""

GLASS = 243.0
"""Grey level where integrated gradients begin: bare glass, on which there is nothing to see."""

STEPS = 128
"""Points of the path from glass to the tile."""

CLOSE_ENOUGH = 1e-3
"""Largest difference of a probability between the graph in torch and in the runtime."""

MOST_LAYERS = 12
"""Layers that are shown one by one; of deeper networks, the last one of each resolution."""

_ROWS = ("Conv", "MaxPool", "AveragePool", "Gemm", "MatMul")
_AFTER = ("Relu", "Clip", "LeakyRelu", "Elu", "Sigmoid", "Tanh")


@dataclass(frozen=True, eq=False)
class SaliencyMap:
    """Where a recogniser looks.

    Parameters
    ----------
    method : {"occlusion", "Grad-CAM", "integrated gradients"}
        How it was made.
    values : (h, w) float32
        Of each pixel of the tile; positive speaks for the class, negative against it; of the log odds.
    alike : float
        Spearman's correlation of the sizes with those of the same network with shuffled weights: near 1, the map does
        not depend on what was learned. NaN where there are no weights to shuffle.
    note : str
        What else is to be known.
    """

    method: str
    values: Floats
    alike: float = float("nan")
    note: str = ""


@dataclass(frozen=True, eq=False)
class LayerView:
    """What a layer makes of the tile.

    Parameters
    ----------
    title : str
        What kind of layer it is, and which of that kind.
    values : (c, h, w) or (n,) float32
        Feature maps after the activation, or the numbers of a dense layer.
    """

    title: str
    values: Floats


@dataclass(frozen=True, eq=False)
class NetworkExplanation:
    """What a network makes of a tile.

    Parameters
    ----------
    proba : (k,) float32
        What it answers, without calibration.
    standardised : (3, h, w) float32 or None
        The tile as the first layer gets it; None where that is no picture any more.
    kernels : (c, 3, kh, kw) float32
        Of the first layer: what each unit looks for. Of a dense first layer the gradient of its strongest units.
    layers : tuple of LayerView
        From the first to the softmax's input.
    contributions : (m,) float32
        Of each unit of the last hidden layer to the log odds: its activation times its weight for the class, less the
        mean weight for the others. Empty where there is no such layer.
    maps : tuple of SaliencyMap
        Of the network.
    missing : tuple of str
        What cannot be shown of it, and why.
    """

    proba: Floats
    standardised: Floats | None
    kernels: Floats
    layers: tuple[LayerView, ...]
    contributions: Floats
    maps: tuple[SaliencyMap, ...]
    missing: tuple[str, ...] = field(default=())


@dataclass(frozen=True, eq=False)
class Explanation:
    """What was found out about a tile and a model.

    Parameters
    ----------
    name : str
        Of the tile.
    tile : (h, w, 3) uint8
        As the model takes it.
    classes : tuple of str
        Of the model; the last is the one that is asked about.
    proba : (k,) float32
        What the model answers.
    maps : tuple of SaliencyMap
        Where it looks.
    network : NetworkExplanation or None
        Its layers; None where they cannot be shown.
    missing : tuple of str
        What cannot be shown, and why.
    """

    name: str
    tile: NDArray[np.uint8]
    classes: tuple[str, ...]
    proba: NDArray[np.float32]
    maps: tuple[SaliencyMap, ...]
    network: NetworkExplanation | None
    missing: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Hand it over as plain values.

        Returns
        -------
        dict
            Probabilities, and of each map its note and its likeness with shuffled weights; not the maps themselves.
        """
        maps = [
            {
                "method": one.method,
                "note": one.note,
                "alike_with_shuffled_weights": None if math.isnan(one.alike) else round(one.alike, 4),
                "least": float(one.values.min()),
                "greatest": float(one.values.max()),
            }
            for one in self.maps
        ]
        return {
            "tile": self.name,
            "proba": dict(zip(self.classes, self.proba.tolist(), strict=True)),
            "maps": maps,
            "missing": list(self.missing),
        }


def occlusion_map(log_odds: LogOdds, tile: NDArray[np.uint8], window: int | None = None) -> Floats:
    """Cover the tile place by place with its mean colour, and see what the log odds lose.

    A probability of 0.999 hardly moves whatever is covered; its log odds do.

    Parameters
    ----------
    log_odds : callable
        (n, h, w, 3) uint8 -> (n,) float, of the class that is asked about.
    tile : (h, w, 3) uint8
        The tile.
    window : int, optional
        Side of the cover in pixels; left out, a sixth of the tile's.

    Returns
    -------
    (h, w) float32
        Mean loss over the covers that a pixel lies under; negative where covering makes the class likelier.

    Examples
    --------
    >>> def bright(tiles):  # looks at the upper left quarter only
    ...     return tiles[:, :8, :8].mean(axis=(1, 2, 3))
    >>> tile = np.zeros((16, 16, 3), np.uint8)
    >>> tile[:8, :8] = 200
    >>> found = occlusion_map(bright, tile, window=4)
    >>> bool(found[:8, :8].mean() > 1), float(abs(found[12:]).max())
    (True, 0.0)
    """
    height, width = tile.shape[:2]
    side = max(1, min(height, width) // WINDOW_SHARE if window is None else window)
    corners = [(y, x) for y in _places(height, side) for x in _places(width, side)]
    covered = np.repeat(tile[None], len(corners), axis=0)
    colour = tile.mean(axis=(0, 1)).round().astype(np.uint8)
    for one, (y, x) in zip(covered, corners, strict=True):
        one[y : y + side, x : x + side] = colour
    parts = [log_odds(part) for part in np.array_split(covered, max(1, len(covered) // 64))]
    loss = log_odds(tile[None])[0] - np.concatenate(parts)
    total, count = np.zeros((2, height, width))
    for value, (y, x) in zip(loss.tolist(), corners, strict=True):
        total[y : y + side, x : x + side] += value
        count[y : y + side, x : x + side] += 1
    return np.asarray(total / np.maximum(count, 1), dtype=np.float32)


def log_odds_of(recognise: Recognise, code: int) -> LogOdds:
    """Ask a recogniser for log odds, of which its probabilities are all that it tells.

    Parameters
    ----------
    recognise : callable
        (n, h, w, 3) uint8 -> (n, k) float32.
    code : int
        Column of the class.

    Returns
    -------
    callable
        (n, h, w, 3) uint8 -> (n,) float; probabilities count as at least 1e-6, and at most 1 less that.
    """

    def ask(tiles: NDArray[np.uint8]) -> NDArray[np.floating]:
        bounded = recognise(tiles)[:, code].astype(np.float64).clip(1e-6, 1 - 1e-6)
        return np.asarray(np.log(bounded / (1 - bounded)))

    return ask


def alikeness(one: Floats, other: Floats) -> float:
    """Compare two maps as the sanity check does: Spearman's correlation of their sizes.

    Parameters
    ----------
    one, other : (h, w) float32
        Of the same tile.

    Returns
    -------
    float
        From -1 to 1; NaN where one of them is flat.
    """
    first, second = np.abs(one).ravel(), np.abs(other).ravel()
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return float("nan")
    from scipy import stats  # noqa: PLC0415 - half a second, only here

    return float(stats.spearmanr(first, second).statistic)


def explain_network(
    path: Path,
    tile: NDArray[np.uint8],
    code: int,
    expected: Floats,
    seed: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
) -> NetworkExplanation:
    """Walk a tile through a network, and ask where its answer comes from.

    Parameters
    ----------
    path : Path
        The graph of a bundle.
    tile : (h, w, 3) uint8
        The tile.
    code : int
        Column of the class that is asked about, as the graph has them.
    expected : (k,) float32
        What the runtime answers for it.
    seed : int
        Of the shuffled weights.
    on_progress : callable, optional
        Called with the number of maps done and their total.

    Returns
    -------
    NetworkExplanation
        Of that graph.

    Raises
    ------
    MissingExtra
        If torch is not installed.
    ModelError
        If the graph has an operation that is not known, or torch gives another answer than the runtime.
    """
    try:
        torch = importlib.import_module("torch")
    except ModuleNotFoundError as absent:
        raise MissingExtra("train", "looking into a network") from absent
    from sentinode.models.differentiable import DifferentiableGraph  # noqa: PLC0415 - imports torch

    graph = DifferentiableGraph(path)
    pixels = torch.from_numpy(tile[None].astype(np.float32))
    with torch.no_grad():
        values = graph.run(pixels)
    proba = np.asarray(values["proba"][0].numpy())
    if np.abs(proba - expected).max() > CLOSE_ENOUGH:
        raise ModelError(f"{path}: torch answers {proba.round(3)} and the runtime {expected.round(3)}; not explained")
    shuffled = graph.randomised(seed)
    maps: list[SaliencyMap] = []
    missing: list[str] = []
    for place, (method, draw) in enumerate(_METHODS.items()):
        if on_progress is not None:
            on_progress(place, len(_METHODS))
        found = draw(graph, tile, code)
        if isinstance(found, str):
            missing.append(f"{method}: {found}")
            continue
        other = draw(shuffled, tile, code)
        drawn, note = found
        alike = float("nan") if isinstance(other, str) else alikeness(drawn, other[0])
        maps.append(SaliencyMap(method, drawn, alike, note))
    if on_progress is not None:
        on_progress(len(_METHODS), len(_METHODS))
    first = _first_step(graph)
    given = values[graph.steps[first].inputs[0]]
    return NetworkExplanation(
        proba=proba,
        standardised=np.asarray(given[0].numpy()) if given.ndim == 4 else None,
        kernels=_kernels(graph, first, values, pixels),
        layers=_layers(graph, values),
        contributions=_contributions(graph, values, code),
        maps=tuple(maps),
        missing=tuple(missing),
    )


# --- maps -----------------------------------------------------------------------------------------------------


def _places(length: int, side: int) -> list[int]:
    last = max(0, length - side)
    return sorted({*range(0, last, max(1, side // 2)), last})


def _log_odds(graph: "DifferentiableGraph", values: "dict[str, Tensor]", code: int) -> "Tensor":
    # (n,) of the class against all others; of logits it does not saturate.
    torch = importlib.import_module("torch")
    given, proba = values[graph.logits], values["proba"]
    logits = given if given.shape == proba.shape else proba.clamp_min(1e-12).log()
    others = [place for place in range(logits.shape[1]) if place != code]
    odds: Tensor = logits[:, code] - torch.logsumexp(logits[:, others], dim=1)
    return odds


Drawn = tuple[Floats, str] | str
"""A map and what is to be known of it, or why there is none."""


def _occlusion(graph: "DifferentiableGraph", tile: NDArray[np.uint8], code: int) -> Drawn:
    torch = importlib.import_module("torch")

    def ask(tiles: NDArray[np.uint8]) -> NDArray[np.floating]:
        with torch.no_grad():
            values = graph.run(torch.from_numpy(tiles.astype(np.float32)))
            return np.asarray(_log_odds(graph, values, code).numpy())

    return occlusion_map(ask, tile), OCCLUDED


def _grad_cam(graph: "DifferentiableGraph", tile: NDArray[np.uint8], code: int) -> Drawn:
    torch = importlib.import_module("torch")
    n_outputs = _n_answers(graph)
    if n_outputs > 1:
        return (
            f"the answer is the mean over {n_outputs - 1} networks and orientations, which have no last layer in common"
        )
    pixels = torch.from_numpy(tile[None].astype(np.float32)).requires_grad_()
    values = graph.run(pixels)
    name = _last_maps(graph, values)
    if name is None:
        return "the network has no feature maps, only dense layers"
    maps = values[name]
    (gradient,) = torch.autograd.grad(_log_odds(graph, values, code).sum(), maps)
    weighted = (gradient.mean(dim=(2, 3), keepdim=True) * maps).sum(dim=1)[0].relu().detach().numpy()
    shown = Image.fromarray(weighted.astype(np.float32)).resize(tile.shape[1::-1], Image.Resampling.BILINEAR)
    return np.asarray(
        shown
    ), f"from the last {weighted.shape[1]} x {weighted.shape[0]} feature maps; only what speaks for it"


def _integrated(graph: "DifferentiableGraph", tile: NDArray[np.uint8], code: int) -> Drawn:
    torch = importlib.import_module("torch")
    whole = torch.from_numpy(tile[None].astype(np.float32))
    glass = torch.full_like(whole, GLASS)
    total = torch.zeros_like(whole)
    # All that is computed on the way is kept for the gradient: of the mean of many networks, of two steps at a time.
    for part in torch.arange(STEPS).split(2 if _n_answers(graph) > 1 else 16):
        along = ((part.float() + 0.5) / STEPS).reshape(-1, 1, 1, 1)  # midpoints
        pixels = (glass + along * (whole - glass)).requires_grad_()
        odds = _log_odds(graph, graph.run(pixels), code)
        total += torch.autograd.grad(odds.sum(), pixels)[0].sum(dim=0, keepdim=True)
    attributed = ((whole - glass) * total / STEPS)[0].sum(dim=2)
    with torch.no_grad():
        ends = _log_odds(graph, graph.run(torch.cat([glass, whole])), code)
    rise, found = float(ends[1] - ends[0]), float(attributed.sum())
    note = f"from bare glass; adds up to {found:.2f} of the log odds, which rise by {rise:.2f}"
    return np.asarray(attributed.numpy(), dtype=np.float32), note


def _n_answers(graph: "DifferentiableGraph") -> int:
    return sum(step.kind == "Softmax" for step in graph.steps)


_METHODS: Mapping[str, Callable[["DifferentiableGraph", NDArray[np.uint8], int], Drawn]] = MappingProxyType({
    "occlusion": _occlusion,
    "Grad-CAM": _grad_cam,
    "integrated gradients": _integrated,
})


# --- layers ---------------------------------------------------------------------------------------------------


def _first_step(graph: "DifferentiableGraph") -> int:
    # The first layer with weights.
    return next(place for place, step in enumerate(graph.steps) if step.kind in _ROWS and len(step.inputs) > 1)


def _kernels(graph: "DifferentiableGraph", first: int, values: "dict[str, Tensor]", pixels: "Tensor") -> Floats:
    torch = importlib.import_module("torch")
    step = graph.steps[first]
    if step.kind == "Conv":
        return np.asarray(values[step.inputs[1]].numpy())
    # A dense layer sees the whole tile: what each unit looks for is its gradient, here of its strongest ones.
    hidden = next(one for one in graph.steps[first:] if one.kind == "Gemm")
    wanted = pixels.clone().requires_grad_()
    units = graph.run(wanted)[hidden.name][0]
    strongest = units.abs().argsort(descending=True)[:32]
    found = [torch.autograd.grad(units[unit], wanted, retain_graph=True)[0][0] for unit in strongest]
    return np.asarray(torch.stack(found).permute(0, 3, 1, 2).numpy())


def _last_maps(graph: "DifferentiableGraph", values: "dict[str, Tensor]") -> str | None:
    # The last feature maps that a convolution gave, after its activation.
    found = None
    for place, step in enumerate(graph.steps):
        if step.kind == "Conv" and min(values[step.name].shape[2:]) > 1:
            found = _after(graph, place)
    return found


def _after(graph: "DifferentiableGraph", place: int) -> str:
    # What leaves a layer: after its activation, where it has one.
    step = graph.steps[place]
    return next((one.name for one in graph.steps[place:] if one.kind in _AFTER and step.name in one.inputs), step.name)


def _layers(graph: "DifferentiableGraph", values: "dict[str, Tensor]") -> tuple[LayerView, ...]:
    words = {"Conv": "convolution", "MaxPool": "pooling", "AveragePool": "pooling", "Gemm": "dense", "MatMul": "dense"}
    number: dict[str, int] = {}
    found: list[LayerView] = []
    for place, step in enumerate(graph.steps):
        if step.kind not in _ROWS:
            continue
        word = words[step.kind]
        number[word] = number.get(word, 0) + 1
        name = _after(graph, place)
        if name != graph.logits:
            found.append(LayerView(f"{word} {number[word]}", np.asarray(values[name][0].numpy())))
    if len(found) <= MOST_LAYERS:
        return tuple(found)
    # Of a deep network the first layer, and the last one of each resolution.
    kept = [one for one, after in zip(found, [*found[1:], None], strict=True) if _changes(one, after)]
    return tuple(kept if found[0] is kept[0] else [found[0], *kept])[:MOST_LAYERS]


def _changes(one: LayerView, after: LayerView | None) -> bool:
    return after is None or one.values.shape[1:] != after.values.shape[1:]


def _contributions(graph: "DifferentiableGraph", values: "dict[str, Tensor]", code: int) -> Floats:
    last = next((step for step in reversed(graph.steps) if step.kind == "Gemm"), None)
    if last is None or last.name != graph.logits:
        return np.empty(0, np.float32)
    weight: Any = values[last.inputs[1]]
    rows = (weight if last.attributes.get("transB", 0) else weight.T).numpy()  # (k, m)
    towards = rows[code] - np.delete(rows, code, axis=0).mean(axis=0)
    return np.asarray(values[last.inputs[0]][0].numpy() * towards, dtype=np.float32)
