"""How fast is Sentinode on this machine: each fast way against the plain one, in turn, in one run, as a ratio.

Seconds of two runs cannot be compared where anything else runs on the machine; ratios of what was run in turn can.
The plain way is what one would write first: OpenSlide's ``read_region`` turned into an array and resized with Pillow,
the founding network in float32 through torch, an ordinary training loop.
"""

import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import openslide
from numpy.typing import NDArray
from PIL import Image

from sentinode.algorithms.registry import AlgorithmSpec, build_algorithm
from sentinode.errors import MissingExtra, PlanError, SlideError
from sentinode.execution import keep_memory
from sentinode.geometry import Box, Size
from sentinode.inference.engine import Inspect, Inspected, recognise_tiles
from sentinode.models.graph import NetworkAlgorithm, write_graph
from sentinode.models.quantising import quantise_graph
from sentinode.models.runtime import GraphRecogniser, this_machine
from sentinode.models.tuning import RuntimeChoice, choose, drawn_tiles
from sentinode.slides.bright_field import RULES
from sentinode.slides.resolution import MppWish
from sentinode.slides.slide import Slide, open_slide
from sentinode.slides.tiling import tile_grid
from sentinode.slides.tissue import tissue_of
from sentinode.study.measure import load_average, peak_memory
from sentinode.workflows.phantom_slides import write_phantom_slides
from sentinode.workflows.refusing import Gate, fit_known_tiles

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ["PARTS", "Bench", "BenchWish", "Comparison", "run_bench"]

SIDE = 96
"""Pixels of a tile, as the founding network takes it."""

BATCH = 64
MPP = 1.0
"""Of the tiles end to end; coarser slides are taken as they are."""

_NEEDS_TORCH = ("runtime", "end to end", "training", "memory")
_OF_THE_SLIDE = ("reading", "between levels")


@dataclass(frozen=True)
class Comparison:
    """One way against another.

    Parameters
    ----------
    part : str
        A key of `PARTS`.
    what : str
        The work, in a line.
    unit : str
        Of the two medians.
    plain, quick : float
        Medians over the repeats.
    ratios : tuple of float
        Of each repeat: how many times as much the fast way did in the same time (or, of memory, how much less).
    """

    part: str
    what: str
    unit: str
    plain: float
    quick: float
    ratios: tuple[float, ...]

    @property
    def ratio(self) -> float:
        """The median of the ratios."""
        return statistics.median(self.ratios)

    def to_json(self) -> dict[str, Any]:
        """Hand it over as plain values.

        Returns
        -------
        dict
            The attributes, and the median, least and greatest ratio.
        """
        spread = {"ratio": self.ratio, "least": min(self.ratios), "greatest": max(self.ratios)}
        return {**asdict(self), "ratios": list(self.ratios), **spread}


@dataclass(frozen=True)
class BenchWish:
    """What shall be measured, and how long.

    Parameters
    ----------
    parts : tuple of str
        Keys of `PARTS`; empty for all.
    repeats : int
        How often each pair of ways is run.
    tiles : int
        Tiles of each run.
    mpp : MppWish
        What is known of the slide's resolution beside the file.

    Raises
    ------
    PlanError
        If there is no such part, or a number is less than 1.
    """

    parts: tuple[str, ...] = ()
    repeats: int = 3
    tiles: int = 192
    mpp: MppWish = field(default_factory=MppWish)

    def __post_init__(self) -> None:
        for part in self.parts:
            if part not in PARTS:
                raise PlanError(f"there is no part {part!r}; the parts are {', '.join(PARTS)}")
        if self.repeats < 1 or self.tiles < 1:
            raise PlanError(f"repeats = {self.repeats}, tiles = {self.tiles}: give at least 1 of each")


@dataclass(frozen=True)
class Bench:
    """What was measured.

    Parameters
    ----------
    comparisons : tuple of Comparison
        In the order of `PARTS`.
    machine : mapping
        CPU, cores, engine, load (processes that waited for a core, before the run).
    slide : str
        Its file, or what was drawn.
    notes : tuple of str
        What was left out, and why.
    """

    comparisons: tuple[Comparison, ...]
    machine: Mapping[str, Any]
    slide: str
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Hand it over as plain values.

        Returns
        -------
        dict
            Everything.
        """
        rows = [one.to_json() for one in self.comparisons]
        return {"slide": self.slide, "machine": dict(self.machine), "comparisons": rows, "notes": list(self.notes)}


def run_bench(
    slide: Path | str | None = None,
    wish: BenchWish | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Bench:
    """Measure the fast ways against the plain ones.

    Parameters
    ----------
    slide : Path or str, optional
        On which; without one, a synthetic slide is drawn.
    wish : BenchWish, optional
        What, and how long.
    on_progress : callable, optional
        Called with the number of parts done and their total.

    Returns
    -------
    Bench
        Ratios.

    Raises
    ------
    SlideError
        If the slide cannot be read, has no mpp or no tissue.
    PlanError
        If the slide is no file that OpenSlide, the plain way, reads.
    """
    # SlideError is also the reader's.
    wish, listen = wish or BenchWish(), on_progress or (lambda _done, _total: None)
    machine = this_machine()
    facts = {"cpu": machine.cpu, "cores": machine.cores, "engine": machine.engine, "load": load_average()}
    facts["precision"] = "bf16" if machine.bf16 else "float32"
    wanted = [part for part in PARTS if not wish.parts or part in wish.parts]
    parts = [part for part in wanted if part not in _NEEDS_TORCH or find_spec("torch") is not None]
    notes = [f"{part} was left out: it needs torch (sentinode[train])" for part in wanted if part not in parts]
    if "runtime" in parts and find_spec("nncf") is None:
        notes.append("runtime in int8 was left out: it needs NNCF (sentinode[int8])")
    listen(0, len(parts))
    found: list[Comparison] = []
    with tempfile.TemporaryDirectory(prefix="sentinode-bench-") as folder:
        path, described = (Path(slide), str(slide)) if slide else (_drawn(Path(folder)), "synthetic, 0.25 um a pixel")
        _require_plain(path)
        asked = find_spec("torch") is not None and any(part not in _OF_THE_SLIDE for part in parts)
        network = _founding_network(Path(folder)) if asked else None
        with open_slide(path, wish.mpp) as opened:
            for number, part in enumerate(parts, start=1):
                found += PARTS[part](_Stage(path, opened, wish, network))
                listen(number, len(parts))
    if network is not None:
        facts |= {"precision": network.choice.precision, "streams": network.choice.streams}
    return Bench(tuple(found), MappingProxyType(facts), described, tuple(notes))


# --- what the parts work on -----------------------------------------------------------------------------------


class _Founding(NamedTuple):
    # The founding network, twice.
    module: "nn.Module"
    graph: Path
    choice: RuntimeChoice

    def quantised(self) -> Path:
        # Its steps are those of drawn tiles: the time does not depend on them, the answers would.
        rounded = self.graph.with_name("graph-int8.xml")
        quantise_graph(self.graph, drawn_tiles(BATCH, (SIDE, SIDE)), rounded)
        return rounded


@dataclass(frozen=True, eq=False)
class _Stage:
    path: Path
    slide: Slide
    wish: BenchWish
    network: _Founding | None  # None without torch, or where no part asks for it

    @property
    def founding(self) -> _Founding:
        if self.network is None:
            raise MissingExtra("train", "measuring the founding network")
        return self.network

    @property
    def shown(self) -> float:
        # Micrometres a pixel of the tiles end to end.
        return max(MPP, self.slide.info.scale.mpp)

    def tissue(self, mpp: float, times: int = 1) -> NDArray[np.int64]:
        # (n, 4) boxes with tissue, as `predict` lays them, overlapping where there are too few; n is as wished, or so
        # many times as much.
        mask = tissue_of(self.slide)
        for overlap in (0.0, 0.5, 0.8, 0.9):
            boxes = tile_grid(self.slide.info, mask, tile_px=SIDE, mpp=mpp, overlap=overlap).boxes
            if len(boxes) >= times * self.wish.tiles:
                break
        if not len(boxes):
            raise SlideError(f"{self.path}: no tissue was found on it; measure with another slide")
        return boxes[: times * self.wish.tiles]


def _drawn(folder: Path) -> Path:
    table = write_phantom_slides(folder, patients=1, sites=1, preset="40x", seed=1)
    return next((table.parent / "slides").iterdir())


def _require_plain(path: Path) -> None:
    if path.is_file() and openslide.OpenSlide.detect_format(path) is None:
        raise PlanError(f"{path}: OpenSlide, the plain way, does not read it; measure with a slide that it reads")


def _founding_network(folder: Path) -> _Founding:
    # Its weights are those of an epoch on drawn tiles: the time does not depend on them.
    tiles = drawn_tiles(16, (SIDE, SIDE))
    trained = build_algorithm(AlgorithmSpec("paper-cnn", {"epochs": 1}), 1).fit(tiles, np.array(["a", "b"] * 8))
    if not isinstance(trained, NetworkAlgorithm):
        raise TypeError("the founding network is a network")
    graph = folder / "graph.onnx"
    write_graph(trained, (SIDE, SIDE), graph)
    choice = choose(this_machine(), "bench", (SIDE, SIDE), partial(_built, graph), folder)
    return _Founding(trained.as_network().eval(), graph, choice)


def _built(graph: Path, choice: RuntimeChoice) -> Callable[[NDArray[np.uint8]], NDArray[np.float32]]:
    return GraphRecogniser(graph, choice=choice).predict_proba


# --- measuring ------------------------------------------------------------------------------------------------


def _compared(
    part: str,
    what: str,
    unit: str,
    amount: float,
    ways: tuple[Callable[[], object], Callable[[], object]],
    repeats: int,
) -> Comparison:
    # Each repeat runs both, now this one first, now that one: what slows the machine down slows both.
    rates: list[list[float]] = [[], []]
    for repeat in range(repeats):
        for way in (0, 1) if repeat % 2 == 0 else (1, 0):
            started = time.perf_counter()
            ways[way]()
            rates[way].append(amount / (time.perf_counter() - started))
    plain, quick = (statistics.median(one) for one in rates)
    return Comparison(part, what, unit, plain, quick, tuple(q / p for p, q in zip(*rates, strict=True)))


def _reading(stage: _Stage) -> list[Comparison]:
    # A file is opened anew each time: no decoded tile is left over.
    mpp = stage.slide.info.scale.mpp
    boxes = stage.tissue(mpp, times=4)
    plain, quick = partial(_read_plainly, stage, boxes, 1), partial(_read_quickly, stage, boxes, Size(SIDE, SIDE))
    pixels = len(boxes) * SIDE**2 / 1e6
    what = f"{len(boxes)} tiles of {SIDE} px of level 0"
    return [_compared("reading", what, "Mpx/s", pixels, (plain, quick), stage.wish.repeats)]


def _between(stage: _Stage) -> list[Comparison]:
    # The levels below level 0 are hidden: as if the file had none of that resolution.
    mpp, found = stage.slide.info.scale.mpp, []
    whole = next((factor for factor in (4, 2) if factor * mpp <= 1.5 * MPP), 2)
    for factor in (whole, whole * 0.99):
        boxes = stage.tissue(mpp * factor)
        plain = partial(_read_plainly, stage, boxes, factor)
        quick = partial(_read_quickly, stage, boxes, Size(SIDE, SIDE), hidden=True)
        pixels = int(boxes[:, 2:].prod(axis=1).sum()) / 1e6
        what = f"{len(boxes)} tiles at {factor:g} times the pixel of level 0, no other level"
        found.append(_compared("between levels", what, "Mpx/s", pixels, (plain, quick), stage.wish.repeats))
    return found


def _read_plainly(stage: _Stage, boxes: NDArray[np.int64], factor: float) -> None:
    with openslide.OpenSlide(stage.path) as slide:
        for x, y, width, height in boxes.tolist():
            region = slide.read_region((x, y), 0, (width, height)).convert("RGB")
            np.asarray(region if factor == 1 else region.resize((SIDE, SIDE), Image.Resampling.BOX))


def _read_quickly(stage: _Stage, boxes: NDArray[np.int64], size: Size, *, hidden: bool = False) -> None:
    with open_slide(stage.path, stage.wish.mpp) as slide:
        info = replace(slide.info, levels=slide.info.levels[:1]) if hidden else slide.info
        shown = Slide(info, slide.reader)
        for box in boxes.tolist():
            shown.read_pixels(Box(*box), size)


def _runtime(stage: _Stage) -> list[Comparison]:
    tiles, founding = drawn_tiles(stage.wish.tiles, (SIDE, SIDE)), stage.founding
    plainly, found = partial(_recognise_plainly, founding.module, tiles), []
    graphs = [(founding.graph, founding.choice)]
    if find_spec("nncf") is not None and founding.choice.engine.startswith("OpenVINO"):
        graphs.append((founding.quantised(), replace(founding.choice, precision="int8")))
    for graph, choice in graphs:
        quickly = partial(_recognise_quickly, GraphRecogniser(graph, choice=choice), tiles)
        for way in (plainly, quickly):
            way()  # kernels are chosen at the first call
        what = f"the founding network on {len(tiles)} tiles, {choice.precision}"
        found.append(_compared("runtime", what, "tiles/s", len(tiles), (plainly, quickly), stage.wish.repeats))
    return found


def _recognise_quickly(recogniser: GraphRecogniser, tiles: NDArray[np.uint8]) -> None:
    for begin in range(0, len(tiles), BATCH):
        recogniser.predict_proba(tiles[begin : begin + BATCH])


def _recognise_plainly(module: "nn.Module", tiles: NDArray[np.uint8]) -> None:
    import torch  # noqa: PLC0415 - only where it is there

    with torch.inference_mode():
        for begin in range(0, len(tiles), BATCH):
            module(torch.from_numpy(tiles[begin : begin + BATCH]))


def _end_to_end(stage: _Stage) -> list[Comparison]:
    founding, mpp = stage.founding, stage.shown
    boxes = stage.tissue(mpp)
    recogniser = GraphRecogniser(founding.graph, choice=founding.choice)
    ways = (
        partial(_slide_plainly, stage.path, boxes, founding.module),
        partial(_slide_quickly, stage.path, stage.wish.mpp, boxes, mpp, recogniser),
    )
    what = f"{len(boxes)} tiles of {SIDE} px at {mpp:g} um, from the file to the probability; here judged as well"
    return [_compared("end to end", what, "tiles/s", len(boxes), ways, stage.wish.repeats)]


def _slide_plainly(path: Path, boxes: NDArray[np.int64], module: "nn.Module") -> None:
    with openslide.OpenSlide(path) as slide:
        tiles = np.stack([_tile_plainly(slide, box) for box in boxes.tolist()])
    _recognise_plainly(module, tiles)


def _slide_quickly(
    path: Path, wish: MppWish, boxes: NDArray[np.int64], mpp: float, recogniser: GraphRecogniser
) -> None:
    with open_slide(path, wish) as slide:
        inspect = partial(_inspect, _gate().inspect(mpp))
        recognise_tiles(slide, boxes, Size(SIDE, SIDE), recogniser, n_classes=2, inspect=inspect)


def _tile_plainly(slide: openslide.OpenSlide, box: Sequence[int]) -> NDArray[np.uint8]:
    x, y, width, height = box
    level = slide.get_best_level_for_downsample(width / SIDE * 1.001)
    factor = slide.level_downsamples[level]
    region = slide.read_region((x, y), level, (max(1, round(width / factor)), max(1, round(height / factor))))
    return np.asarray(region.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BOX))


@cache
def _gate() -> Gate:
    # Of a model that knows a batch of drawn tiles; to hold others against two thousand takes hardly longer.
    known = fit_known_tiles([drawn_tiles(BATCH, (SIDE, SIDE))], [str(place % 4) for place in range(BATCH)])
    return Gate(RULES, known.everything, known.structure)


def _inspect(inspect: Inspect, tiles: NDArray[np.uint8]) -> Inspected:
    # As predict does; but all are recognised, so that both ways recognise as many.
    found = inspect(tiles)
    return found._replace(flag=np.zeros_like(found.flag))


def _training(stage: _Stage) -> list[Comparison]:
    tiles = drawn_tiles(stage.wish.tiles, (SIDE, SIDE))
    labels = np.array(["a", "b"] * len(tiles))[: len(tiles)]

    def quickly() -> None:
        build_algorithm(AlgorithmSpec("paper-cnn", {"epochs": 1}), 1).fit(tiles, labels)

    what = f"the founding network, an epoch of {len(tiles)} tiles"
    return [
        _compared(
            "training", what, "tiles/s", len(tiles), (partial(_train_plainly, tiles), quickly), stage.wish.repeats
        )
    ]


def _train_plainly(tiles: NDArray[np.uint8]) -> None:
    import torch  # noqa: PLC0415 - only where it is there
    from torch.nn import functional  # noqa: PLC0415

    network = _plain_network()
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-3)
    target = torch.arange(len(tiles)) % 2
    for begin in range(0, len(tiles), BATCH):
        optimiser.zero_grad()
        loss = functional.cross_entropy(
            network(_as_floats(tiles[begin : begin + BATCH])), target[begin : begin + BATCH]
        )
        torch.autograd.backward(loss)
        optimiser.step()


def _plain_network() -> "nn.Module":
    from sentinode.algorithms.layers import build_network  # noqa: PLC0415 - imports torch
    from sentinode.algorithms.paper_cnn import PAPER_LAYERS  # noqa: PLC0415

    return build_network(PAPER_LAYERS, (SIDE, SIDE), 2, seed=1)


def _as_floats(tiles: NDArray[np.uint8]) -> "torch.Tensor":
    import torch  # noqa: PLC0415 - only where it is there

    return torch.from_numpy(tiles).permute(0, 3, 1, 2).float() / 128 - 1


def _memory(stage: _Stage) -> list[Comparison]:
    # Each in a process of its own: memory that was taken once is hardly ever given back.
    founding, boxes = stage.founding, stage.tissue(stage.shown)
    common = (stage.path, stage.wish.mpp, boxes, stage.shown, founding.graph, founding.choice)
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), max_tasks_per_child=1) as pool:
        plain, quick = (peak / 2**20 for peak in pool.map(_peak, [_Job(way, *common) for way in ("plain", "quick")]))
    what = f"most memory of a process that opens the slide and recognises {len(boxes)} tiles"
    return [Comparison("memory", what, "MiB", plain, quick, (plain / quick,))]


class _Job(NamedTuple):
    way: str
    path: Path
    wish: MppWish
    boxes: NDArray[np.int64]
    mpp: float
    graph: Path
    choice: RuntimeChoice


def _peak(job: _Job) -> int:
    keep_memory()  # as the command line does
    if job.way == "quick":
        recogniser = GraphRecogniser(job.graph, choice=job.choice)
        _slide_quickly(job.path, job.wish, job.boxes, job.mpp, recogniser)
        return peak_memory()
    from torch import nn  # noqa: PLC0415 - only where it is there

    class Bytes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = _plain_network()

        def forward(self, tiles: "torch.Tensor") -> "torch.Tensor":
            pixels: torch.Tensor = self.network(_as_floats(tiles.numpy()))
            return pixels

    _slide_plainly(job.path, job.boxes, Bytes())
    return peak_memory()


PARTS: Mapping[str, Callable[[_Stage], list[Comparison]]] = MappingProxyType({
    "reading": _reading,
    "between levels": _between,
    "runtime": _runtime,
    "end to end": _end_to_end,
    "training": _training,
    "memory": _memory,
})
"""What is measured."""
