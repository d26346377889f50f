"""Where the seconds of a slide go, and what the network alone would take: why `predict` is not quicker.

    python benchmarks/where_time_goes.py            # prints; some minutes
    python benchmarks/where_time_goes.py --write    # the page, too

The slide of end_to_end.py with a pixel of 1 um: 20,000 px a side, a quarter of it tissue, tiles of 96 px. `predict`
with each of its models, the file warm, in turn; what it says of itself (`--profile`), and beside it the network alone:
the same runtime on tiles that are in memory, nothing read, judged or written meanwhile.
"""

import argparse
import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from end_to_end import _MODELS, MPP, SIDE, TILE, Model, _boxes, _int8_model, _plainly
from predict_sizes import Discs, drawn_field, untaught_model
from sentinode.algorithms.layers import build_network
from sentinode.algorithms.paper_cnn import PAPER_LAYERS
from sentinode.execution import keep_memory
from sentinode.geometry import Size
from sentinode.inference.engine import BATCH
from sentinode.models.bundle import read_bundle
from sentinode.models.runtime import Recogniser, this_machine
from sentinode.slides.pyramid import write_pyramid
from sentinode.slides.slide import open_slide
from sentinode.workflows.predicting import PredictionWish, predict_slides, slide_recogniser

PAGE = Path(__file__).parents[1] / "docs" / "results" / "where-time-goes.md"
ALONE = 1024
"""Tiles that the network alone is timed on."""
WANTED = {"`predict`, founding network": 8, "`predict`, default network": 15, "`predict`, small network": 25}
"""Model -> how many times as quick as the plain way it was to be."""
WHY = """\
Where the network alone takes longer than the aim, nothing around it reaches the aim. Where what is around it takes
longer, no network does: the plain way finds no tissue, judges nothing, draws nothing and writes nothing."""
PARTS = ("tissue", "tiles", "pictures", "writing")
BESIDE = ("reading", "judging")


def main(repeats: int, *, write: bool) -> None:
    """Draw, measure, print."""
    torch.set_num_threads(os.cpu_count() or 1)
    keep_memory()  # as the command line does
    mpp = MPP[-1]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        models = {title: Model(untaught_model(folder, algorithm)) for title, algorithm in _MODELS.items()}
        models["`predict`, founding network in int8"] = Model(_int8_model(folder), "int8")
        path = folder / "slide.tif"
        write_pyramid(path, Discs(SIDE, drawn_field(folder / "drawn", mpp)), mpp, "drawn")
        boxes = _boxes(path)
        with open_slide(path) as slide:
            tiles = slide.read_tiles(boxes[:ALONE], Size(TILE, TILE))
        recognisers = {
            title: slide_recogniser(read_bundle(model.folder), model.precision) for title, model in models.items()
        }
        runs: dict[str, list[dict[str, float]]] = {title: [] for title in models}
        for model in models.values():
            _profile(path, model, folder / "out")  # what is chosen and compiled at first is not timed
        for _ in range(repeats):
            for title, model in models.items():
                known = _profile(path, model, folder / "out")
                known["alone"] = _seconds_of(recognisers[title], tiles) * known["recognised"] / len(tiles)
                runs[title].append(known)
                print(title, {key: round(value, 2) for key, value in known.items()}, flush=True)
        started = time.perf_counter()
        _plainly(path, boxes, build_network(PAPER_LAYERS, (TILE, TILE), 2, seed=1).eval(), 1)
        plain = time.perf_counter() - started
    precisions = {title: str(one.runtime.get("precision")) for title, one in recognisers.items()}
    text = _page(runs, precisions, plain, len(boxes), repeats)
    print(text)
    if write:
        PAGE.write_text(text, encoding="utf-8")


def _profile(path: Path, model: Model, out: Path) -> dict[str, float]:
    shutil.rmtree(out, ignore_errors=True)
    bundle = read_bundle(model.folder)
    started = time.perf_counter()
    run = predict_slides([path], bundle, out, PredictionWish(precision=model.precision))
    seconds = time.perf_counter() - started
    if len(run.results) != 1:
        raise SystemExit(f"{path}: {dict(run.failures)}")
    known = {"all": seconds, "recognised": float(run.results[0]["recognised"])}
    return {**known, **{name: float(run.results[0]["profile"][name]) for name in (*PARTS, *BESIDE)}}


def _seconds_of(recogniser: Recogniser, tiles: NDArray[np.uint8]) -> float:
    # In batches of the size that it gets in a prediction; the first one is not timed.
    recogniser.predict_proba(tiles[:BATCH])
    started = time.perf_counter()
    for begin in range(0, len(tiles), BATCH):
        recogniser.predict_proba(tiles[begin : begin + BATCH])
    return time.perf_counter() - started


def _page(
    runs: dict[str, list[dict[str, float]]], precisions: dict[str, str], plain: float, n_tiles: int, repeats: int
) -> str:
    lines = [
        "# Where the time of a slide goes",
        "",
        f"Written by `python benchmarks/where_time_goes.py --repeats {repeats} --write`. A synthetic slide of",
        f"{SIDE:,} px a side at 1 um, {n_tiles:,} tiles of {TILE} px, warm; medians of {repeats} runs in turn, in",
        "seconds. *All* is what `predict` takes from the file to the page, by the clock; so are its parts, *tissue*,",
        "*tiles*, *pictures* and *writing*; the rest is the opening of the model, and the page of all slides.",
        "*Reading* and *judging* are seconds of one core, within *tiles*, beside the network. *Around it* is what",
        "would be left with a network that takes no time: tissue, pictures, writing, and reading and judging shared",
        f"out among the cores. *Network alone* is the same runtime on {ALONE:,} tiles in memory, reckoned up to all.",
        f"*Aim* is what was to be reached: so many times less than the plain way, timed once, {plain:.0f} seconds in",
        "this run (OpenSlide, the founding network in float32 through torch, one tile after the other, nothing else).",
        "",
    ]
    cores, columns = os.cpu_count() or 1, []
    for title, known in runs.items():
        medians = {key: statistics.median(one[key] for one in known) for key in known[0]}
        shared = sum(medians[key] for key in BESIDE) / cores
        medians["around it"] = shared + sum(medians[key] for key in ("tissue", "pictures", "writing"))
        medians["network alone"] = medians.pop("alone")
        name = title.removeprefix("`predict`, ").removesuffix(" in int8")
        aim = f"{plain / WANTED[title]:.1f} ({WANTED[title]} times)" if title in WANTED else ""
        numbers = [f"{medians[key]:.1f}" for key in ("all", *PARTS, *BESIDE, "around it", "network alone")]
        columns.append((f"{name}, {precisions[title]}", "---:", *numbers, aim))
    heads = ("", "---", "all", *PARTS, *BESIDE, "around it", "network alone", "aim")
    lines += [f"| {' | '.join(row)} |" for row in zip(heads, *columns, strict=True)]
    lines += ["", WHY]
    machine = f"{cores} cores, no GPU, load {os.getloadavg()[0]:.1f} at the end"
    return "\n".join([*lines, "", f"Machine: {this_machine().cpu}, {machine}.", ""])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--write", action="store_true")
    wish = parser.parse_args()
    main(wish.repeats, write=wish.write)
