"""Slides of 20,000 px a side, from the file to the answer: `predict` against the plain way, in turn, in one run.

    python benchmarks/end_to_end.py                  # prints; about a quarter of an hour
    python benchmarks/end_to_end.py --write          # the page, too; a CPU without bf16 has a page of its own

Two synthetic slides (the discs of predict_sizes.py), a quarter of each tissue, one with a pixel of 0.25 um and one with
1.0 um; tiles of 96 px at 1 um, 10,000 and more on the second. The plain way is OpenSlide's ``read_region``, Pillow, and
the founding network in float32 through torch, in batches of 64 and, as it is often written, one tile after the other;
it is given the boxes of the tiles, and finds no tissue, judges nothing and writes nothing. Ours is all of `predict`:
tissue, quality, heatmap, regions, table and page; with the founding network (in bf16 where the CPU has it, and in
int8), with the default of `train`, and with the small one that is distilled from it.
``cold`` asks the system to forget the file before each run, ``warm`` leaves it in memory.
"""

import argparse
import os
import shutil
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
import openslide
import torch
from numpy.typing import NDArray
from torch import nn

from predict_sizes import Discs, drawn_field, untaught_model
from sentinode.algorithms.layers import build_network
from sentinode.algorithms.paper_cnn import PAPER_LAYERS
from sentinode.execution import keep_memory
from sentinode.models.bundle import read_bundle
from sentinode.models.runtime import this_machine
from sentinode.slides.pyramid import write_pyramid
from sentinode.slides.slide import open_slide
from sentinode.slides.tiling import tile_grid
from sentinode.slides.tissue import tissue_of
from sentinode.workflows.bench import _tile_plainly
from sentinode.workflows.phantoms import draw_phantom_patches
from sentinode.workflows.predicting import PredictionWish, predict_slides
from sentinode.workflows.training import DEFAULT_ALGORITHM, TrainingWish, train_model

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "results"
SIDE = 20_000
MPP = (0.25, 1.0)
TILE, BATCH = 96, 64
PLAIN = "plain, in batches of 64"
ONE_BY_ONE = "plain, one tile after the other"


class Row(NamedTuple):
    """One way on one slide."""

    mpp: float
    tiles: int
    state: str
    way: str
    seconds: list[float]  # of each repeat


class Model(NamedTuple):
    """A model, and what it is asked in."""

    folder: Path
    precision: Literal["auto", "int8"] = "auto"


def main(repeats: int, *, write: bool) -> None:
    """Draw, measure, print."""
    torch.set_num_threads(os.cpu_count() or 1)
    keep_memory()  # as the command line does; the plain way has it, too
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        models = {title: Model(untaught_model(folder, algorithm)) for title, algorithm in _MODELS.items()}
        models["`predict`, founding network in int8"] = Model(_int8_model(folder), "int8")
        rows = []
        for mpp in MPP:
            path = folder / f"at-{mpp}.tif"
            write_pyramid(path, Discs(SIDE, drawn_field(folder / f"drawn-{mpp}", mpp)), mpp, "drawn")
            rows += _measured(path, mpp, models, folder / "out", repeats)
            path.unlink()
    text = _page(rows, models, repeats)
    print(text)
    if write:
        page = "end-to-end.md" if this_machine().bf16 else "end-to-end-without-bf16.md"
        (RESULTS / page).write_text(text, encoding="utf-8")


_MODELS = {
    "`predict`, founding network": "paper-cnn",
    "`predict`, default network": DEFAULT_ALGORITHM,
    "`predict`, small network": "distilled-cnn",
}


def _int8_model(folder: Path) -> Path:
    # Of as many patients as `--int8` asks for, and trained until it says different things of different patches.
    manifest = draw_phantom_patches(folder / "patches-int8", patients=40, patches=10)
    wish = TrainingWish("paper-cnn", {"epochs": 6}, mpp=1.0, calibrate=0.4, int8=True)
    bundle = train_model(manifest, folder / "model-int8", wish)
    if bundle.facts.int8 is None or bundle.facts.int8.refusal:
        raise SystemExit(f"int8 was not offered: {bundle.facts.int8}")
    return bundle.folder


def _measured(path: Path, mpp: float, models: dict[str, Model], out: Path, repeats: int) -> list[Row]:
    boxes = _boxes(path)
    network = build_network(PAPER_LAYERS, (TILE, TILE), 2, seed=1).eval()
    ways: dict[str, Callable[[], object]] = {
        PLAIN: partial(_plainly, path, boxes, network, BATCH),
        ONE_BY_ONE: partial(_plainly, path, boxes, network, 1),
    }
    ways |= {title: partial(_predicted, path, model, out) for title, model in models.items()}
    for title in models:
        ways[title]()  # the runtime is chosen for this machine at the first call, and is known from then on
    rows = {(state, way): Row(mpp, len(boxes), state, way, []) for state in ("cold", "warm") for way in ways}
    for repeat in range(repeats):
        order = list(ways) if repeat % 2 == 0 else list(ways)[::-1]
        for way in order:
            for state in ("cold", "warm"):
                if state == "cold":
                    _forget(path)
                started = time.perf_counter()
                ways[way]()
                rows[state, way].seconds.append(time.perf_counter() - started)
                print(f"{mpp} um, {state}, {way}: {rows[state, way].seconds[-1]:.1f} s", flush=True)
    return list(rows.values())


def _boxes(path: Path) -> NDArray[np.int64]:
    with open_slide(path) as slide:
        return tile_grid(slide.info, tissue_of(slide), tile_px=TILE, mpp=1.0).boxes


def _forget(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _plainly(path: Path, boxes: NDArray[np.int64], network: nn.Module, batch: int) -> NDArray[np.float32]:
    found = []
    with openslide.OpenSlide(path) as slide, torch.inference_mode():
        for begin in range(0, len(boxes), batch):
            tiles = np.stack([_tile_plainly(slide, box) for box in boxes[begin : begin + batch].tolist()])
            pixels = torch.from_numpy(tiles).permute(0, 3, 1, 2).float() / 128 - 1
            found.append(torch.softmax(network(pixels), dim=1).numpy())
    return np.concatenate(found)


def _predicted(path: Path, model: Model, out: Path) -> None:
    shutil.rmtree(out, ignore_errors=True)
    run = predict_slides([path], read_bundle(model.folder), out, PredictionWish(precision=model.precision))
    if run.failures or len(run.results) != 1:
        raise SystemExit(f"{path}: {dict(run.failures)}")


def _page(rows: list[Row], models: dict[str, Model], repeats: int) -> str:
    lines = [
        f"# From the slide to the answer{'' if this_machine().bf16 else ', on a CPU without bf16'}",
        "",
        f"Written by `python benchmarks/end_to_end.py --repeats {repeats} --write`.",
        "Synthetic slides of 20,000 px a side, a quarter of",
        "each tissue; tiles of 96 px at 1 um. **Plain** is OpenSlide's `read_region`, Pillow, and the founding network",
        "in float32 through torch; it is given the places of the tiles, finds no tissue, judges nothing and writes",
        "nothing. **`predict`** is all of it: tissue, quality, table, heatmap, overlay, exports and page.",
        f"Medians of {repeats} runs in turn; *ratio* is the seconds of `{PLAIN}` to those of the row, run by run.",
        "",
        "| slide | | | seconds | tiles a second | ratio | to one after the other |",
        "|---|---|---|---:|---:|---:|---:|",
    ]
    known = {(row.mpp, row.state, row.way): row.seconds for row in rows}
    for row in rows:
        ratios = [
            _spread(known[row.mpp, row.state, plain], row.seconds) if row.way in models else ""
            for plain in (PLAIN, ONE_BY_ONE)
        ]
        seconds = statistics.median(row.seconds)
        slide = f"{row.mpp:g} um, {row.tiles:,} tiles"
        lines.append(
            f"| {slide} | {row.state} | {row.way} | {seconds:.1f} | {row.tiles / seconds:,.0f} | {' | '.join(ratios)} |"
        )
    machine = f"{os.cpu_count()} cores, no GPU, load {os.getloadavg()[0]:.1f} at the end"
    return "\n".join([*lines, "", f"Machine: {this_machine().cpu}, {machine}.", ""])


def _spread(plain: list[float], here: list[float]) -> str:
    ratios = [slow / quick for slow, quick in zip(plain, here, strict=True)]
    return f"**{statistics.median(ratios):.1f}** ({min(ratios):.1f} to {max(ratios):.1f})"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--write", action="store_true")
    wish = parser.parse_args()
    main(wish.repeats, write=wish.write)
