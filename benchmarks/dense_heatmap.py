"""The dense heatmap: what a point every few pixels costs beside tiles side by side, and how far points are from tiles.

    python benchmarks/dense_heatmap.py [FOLDER]            # prints; about ten minutes
    python benchmarks/dense_heatmap.py [FOLDER] --write    # the page, too

Three networks are trained for a few epochs on the tiles of synthetic slides: the founding one, the same without zeros
around the image, and the default of `train`. Each then recognises other synthetic slides with ``--heatmap dense``, and
the two answers of every tile that begins on a point are compared, on all slides together. For the time, tiles
and fields of one larger slide (the discs of predict_sizes.py) are read and recognised in turn, nothing else done; and
all of `predict` is run with either heatmap. With a folder, what was drawn and trained stays there.
"""

import argparse
import os
import shutil
import statistics
import tempfile
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from predict_sizes import Discs, drawn_field
from sentinode.geometry import Size
from sentinode.inference.dense import Agreement, DenseMap, recognise_densely
from sentinode.inference.engine import recognise_tiles
from sentinode.inference.predictions import TilePredictions, read_predictions
from sentinode.models.bundle import Bundle, read_bundle
from sentinode.models.runtime import open_dense, open_recogniser, this_machine
from sentinode.slides.pyramid import write_pyramid
from sentinode.slides.slide import Slide, open_slide
from sentinode.workflows.phantom_slides import SlidePreset, write_phantom_slides
from sentinode.workflows.predicting import PredictionWish, predict_slides
from sentinode.workflows.tiling import TilesWish, make_tiles
from sentinode.workflows.training import DEFAULT_ALGORITHM, TrainingWish, train_model

if TYPE_CHECKING:
    from collections.abc import Callable

PAGE = Path(__file__).parents[1] / "docs" / "results" / "dense-heatmap.md"
TILE, MPP = 96, 1.0
SIDE = 10_000
NODES = SlidePreset(1.0, (1700.0, 2100.0), 1.25, (1,), ((((500.0, 900.0), 1),), (((220.0, 420.0), 2),)))
N_TRAINING, N_NEW = 12, 4
VALID = [  # the founding network without zeros around the image
    {"conv": 32, "kernel": 5, "padding": "valid"},
    {"pool": "max"},
    {"conv": 64, "kernel": 5, "padding": "valid"},
    {"pool": "max"},
    {"conv": 128, "kernel": 3, "padding": "valid"},
    {"pool": "max"},
    {"conv": 128, "kernel": 3, "padding": "valid"},
    {"pool": "max"},
    {"dense": 1024},
    {"dense": 512},
]
NETWORKS = {
    "founding network": ("paper-cnn", {"epochs": 4}),
    "the same, valid padding": ("paper-cnn", {"epochs": 4, "layers": VALID}),
    "default network": (DEFAULT_ALGORITHM, {"epochs": 2, "patches_seen": 4000}),
}


WHY = """\
Without zeros around the image, points equal tiles but for rounding, and for the fraction of a pixel by which tiles
begin beside the grid where the resolution of a slide is no whole multiple of theirs. With zeros, what lies around a
tile stands in their place: a difference which no computing removes."""


class Compared(NamedTuple):
    """The answers of one network on the new slides."""

    stride: float
    points: int
    tiles: int
    recognised: int
    agreement: Agreement
    by_slide: list[dict[str, object]]  # heatmap of each result


class Timed(NamedTuple):
    """Seconds of each repeat: tiles, fields, all of predict with either."""

    precision: str
    tiles: int
    points: int
    seconds: dict[str, list[float]]


def main(folder: Path, networks: list[str], repeats: int, *, write: bool) -> None:
    """Draw, train, compare, measure, print."""
    cohort = _cohort(folder / "training", N_TRAINING, seed=1)
    new = _cohort(folder / "new", N_NEW, seed=2)
    manifest = folder / "tiles.csv"
    if not manifest.exists():
        drawings, table = cohort / "annotations", cohort / "slides.csv"
        make_tiles([cohort / "slides"], manifest, TilesWish(MPP, TILE, drawings, table))
    large = folder / "large.tif"
    write_pyramid(large, Discs(SIDE, drawn_field(folder / "drawn", MPP)), MPP, "drawn")
    compared, timed = {}, {}
    for title in networks:
        algorithm, settings = NETWORKS[title]
        model = folder / title.replace(" ", "-").replace(",", "")
        if not model.exists():
            train_model(manifest, model, TrainingWish(algorithm, settings, test=0.1, stop=0.15))
        bundle = read_bundle(model)
        compared[title] = _compared(bundle, sorted((new / "slides").glob("*.tif")), folder / "answers")
        print(title, compared[title], flush=True)
        timed[title] = _timed(bundle, large, folder / "timed", repeats)
        print(title, timed[title], flush=True)
    text = _page(compared, timed, repeats)
    print(text)
    if write:
        PAGE.write_text(text, encoding="utf-8")


def _cohort(folder: Path, patients: int, seed: int) -> Path:
    return write_phantom_slides(folder, patients=patients, sites=2, preset=NODES, seed=seed, workers=2).parent


def _compared(bundle: Bundle, slides: list[Path], out: Path) -> Compared:
    shutil.rmtree(out, ignore_errors=True)
    run = predict_slides(slides, bundle, out, PredictionWish(heatmap="dense", allow_atypical=True))
    if run.failures:
        raise SystemExit(str(dict(run.failures)))
    network = open_dense(bundle)
    tiles, points = [], []
    for path in slides:
        predictions = read_predictions(out / path.stem / "tiles.parquet")
        with open_slide(path) as slide:
            found, _ = recognise_densely(slide, predictions, network)
        one, other = _both(predictions, found, float(network.graph.stride))
        tiles.append(one)
        points.append(other)
    tile, point = np.concatenate(tiles), np.concatenate(points)
    return Compared(
        float(network.graph.stride),
        sum(int(one["heatmap"].get("points", 0)) for one in run.results),
        len(tile),
        sum(one["recognised"] for one in run.results),
        Agreement.of(tile, point),
        [one["heatmap"] for one in run.results],
    )


def _both(predictions: TilePredictions, found: DenseMap, stride: float) -> tuple[np.ndarray, np.ndarray]:
    # The two answers of each tile that begins on a point: the cell of the map that its middle is the middle of.
    boxes, known = predictions.boxes, predictions.recognised
    middle = (boxes[:, :2] + boxes[:, 2:] / 2 - found.origin) / found.step - 0.5
    on = known & (np.abs(middle - np.rint(middle)).max(axis=1) * stride < 1.5)
    column, row = np.rint(middle[on]).astype(int).T
    return predictions.positive[on], found.proba[row, column]


def _timed(bundle: Bundle, path: Path, out: Path, repeats: int) -> Timed:
    shutil.rmtree(out, ignore_errors=True)
    wishes = {
        name: PredictionWish(heatmap=name, allow_atypical=True, check_quality=False) for name in ("tiles", "dense")
    }
    (result,) = predict_slides([path], bundle, out / "first", wishes["tiles"]).results
    predictions = read_predictions(out / "first" / path.stem / "tiles.parquet")
    # Every tile of tissue, whatever this network thinks of it: the time is that of all of them.
    predictions = replace(predictions, flag=np.zeros(len(predictions), dtype="U8"))
    recogniser = open_recogniser(bundle, quick=True)
    precision = str(recogniser.runtime["precision"])
    network = open_dense(bundle, precision=precision)
    with open_slide(path) as slide:
        found, _ = recognise_densely(slide, predictions, network)
        ways: dict[str, Callable[[], object]] = {
            "tiles": partial(_by_tiles, slide, predictions, recogniser),
            "points": partial(recognise_densely, slide, predictions, network),
        }
        for name, wish in wishes.items():
            ways[f"predict, {name}"] = partial(_predicted, path, bundle, out / name, wish)
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for repeat in range(repeats):
            for name in list(ways) if repeat % 2 == 0 else list(ways)[::-1]:
                started = time.perf_counter()
                ways[name]()
                seconds[name].append(time.perf_counter() - started)
    assert result["tiles"] == len(predictions)
    return Timed(precision, len(predictions), found.n_points, seconds)


def _by_tiles(slide: Slide, predictions: TilePredictions, recogniser: object) -> None:
    tile = Size(TILE, TILE)
    recognise_tiles(slide, predictions.boxes, tile, recogniser, n_classes=len(predictions.classes))


def _predicted(path: Path, bundle: Bundle, out: Path, wish: PredictionWish) -> None:
    shutil.rmtree(out, ignore_errors=True)
    if predict_slides([path], bundle, out, wish).failures:
        raise SystemExit(f"{path} failed")


def _page(compared: dict[str, Compared], timed: dict[str, Timed], repeats: int) -> str:
    some = "" if len(timed) == len(NETWORKS) else " --networks" + "".join(f' "{title}"' for title in timed)
    lines = [
        "# Dense heatmaps",
        "",
        "**Synthetic slides: nothing here says how well cancer is recognised.** Written by",
        f"`python benchmarks/dense_heatmap.py{some} --repeats {repeats} --write`. It measures",
        "[`predict --heatmap dense`](../commands/predict.md#dense-heatmaps).",
        "",
        "## What it costs",
        "",
        f"A slide of {SIDE:,} px a side at 1 um, a quarter of it tissue, tiles of {TILE} px side by side. *Tiles* and",
        "*points* are reading and recognising, nothing else: a probability each. *`predict`* is all of it, with either",
        f"heatmap, quality unchecked. Medians of {repeats} runs in turn, the ratio run by run; in seconds.",
        "",
        "| network | in | tiles | points | tiles, s | points, s | ratio | `predict`, s | dense, s |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|",
        *(_cost(title, one) for title, one in timed.items()),
        "",
        "## How far points are from tiles",
        "",
        f"{N_NEW} other slides; all tiles that begin on a point, of all slides together: what the network says of",
        "the tile alone, and what it says in the field. *Shown*: on how many slides the check let the map pass, which",
        "asks for a Spearman of 0.98 on each.",
        "",
        "| network | px from point to point | tiles | Spearman | apart, mean | apart, most | shown |",
        "|---|---:|---:|---:|---:|---:|---:|",
        *(_apart(title, one) for title, one in compared.items()),
        "",
        WHY,
        "",
        f"Machine: {this_machine().cpu}, {os.cpu_count()} cores, no GPU, load {os.getloadavg()[0]:.1f} at the end.",
        "",
    ]
    return "\n".join(lines)


def _cost(title: str, one: Timed) -> str:
    medians = {name: statistics.median(seconds) for name, seconds in one.seconds.items()}
    ratios = [dense / tiles for tiles, dense in zip(one.seconds["tiles"], one.seconds["points"], strict=True)]
    spread = f"**{statistics.median(ratios):.2f}** ({min(ratios):.2f} to {max(ratios):.2f})"
    return (
        f"| {title} | {one.precision} | {one.tiles:,} | {one.points:,} | "
        f"{medians['tiles']:.2f} | {medians['points']:.2f} | {spread} | {medians['predict, tiles']:.1f} | "
        f"{medians['predict, dense']:.1f} |"
    )


def _apart(title: str, one: Compared) -> str:
    found = one.agreement
    shown = sum(heatmap["kind"] == "dense" for heatmap in one.by_slide)
    spearman = "n/a" if found.spearman is None else f"{found.spearman:.4f}"
    return (
        f"| {title} | {one.stride:.4g} | {one.tiles:,} | {spearman} | {found.mean_difference:.4f} | "
        f"{found.largest_difference:.4f} | {shown} of {len(one.by_slide)} |"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", help="where what was drawn and trained stays")
    parser.add_argument("--networks", nargs="+", choices=list(NETWORKS), default=list(NETWORKS))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--write", action="store_true")
    wish = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        main(wish.folder or Path(name), wish.networks, wish.repeats, write=wish.write)
