"""The founding experiment's own resolution: synthetic slides at 40x, trained on and recognised at 0.25 um a pixel.

Run: ``python benchmarks/forty_x.py FOLDER``. Draws small lymph nodes (about 0.7 mm) of ten patients and two
laboratories, lays tiles of 128 px, trains the convolutional network with fewer layers (SMALL_PAPER_CNN), recognises the
slides of the patients whom it has not seen, and writes ``docs/results/forty-x.md``. What is finished is not done again.
"""

import csv
import platform
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cpuinfo
import numpy as np

from sentinode.data.manifest import read_manifest
from sentinode.evaluation.metrics import auc
from sentinode.inference.predictions import read_predictions
from sentinode.models.bundle import Bundle, read_bundle
from sentinode.workflows.demo import SMALL_PAPER_CNN
from sentinode.workflows.phantom_slides import SlidePreset, write_phantom_slides
from sentinode.workflows.predicting import predict_slides
from sentinode.workflows.tiling import TilesWish, make_tiles
from sentinode.workflows.training import TrainingWish, train_model

PAGE = Path(__file__).parents[1] / "docs" / "results" / "forty-x.md"
MPP = 0.25
NODES = SlidePreset(MPP, (620.0, 760.0), 1.35, (1,), ((((210.0, 300.0), 1),), (((90.0, 150.0), 1),)))


@dataclass(frozen=True)
class FortyX:
    """How large the experiment is.

    Parameters
    ----------
    patients, sites : int
        Each patient has one slide.
    nodes : SlidePreset
        What the slides measure.
    tile_px : int
        Side of a tile at 0.25 um.
    algorithm, settings
        Of the model.
    test, stop : float
        Shares of the patients.
    """

    patients: int = 10
    sites: int = 2
    nodes: SlidePreset = NODES
    tile_px: int = 128
    algorithm: str = "paper-cnn"
    settings: Mapping[str, object] = field(default_factory=lambda: {**SMALL_PAPER_CNN, "epochs": 25})
    test: float = 0.4
    stop: float = 0.2
    seed: int = 1


@dataclass(frozen=True)
class Found:
    """What came out.

    Parameters
    ----------
    model : Bundle
        Trained at 0.25 um.
    slides : tuple of dict
        Of the patients that it has not seen: name, site, truth, lesions, mpp, result, AUC of the tiles.
    seconds : mapping of str to float
        Step -> seconds of the CPU, those of all its threads.
    """

    model: Bundle
    slides: tuple[Mapping[str, Any], ...]
    seconds: Mapping[str, float]


def run(folder: Path, wish: FortyX) -> Found:
    """Go the path from nothing to verdicts; SystemExit if a slide has no result."""  # noqa: DOC501 - said in words
    seconds, begun = {}, time.process_time()

    def lap(step: str) -> None:
        nonlocal begun
        seconds[step], begun = time.process_time() - begun, time.process_time()
        print(f"{step}: {seconds[step]:.0f} s of the CPU", flush=True)

    table = write_phantom_slides(
        folder / "cohort", patients=wish.patients, sites=wish.sites, preset=wish.nodes, seed=wish.seed
    )
    rows = _read(table)
    lap("drawing slides")
    paths = {row["slide_id"]: folder / "cohort" / row["path"] for row in rows}
    tiles = TilesWish(MPP, wish.tile_px, folder / "cohort" / "annotations", table)
    make_tiles(list(paths.values()), folder / "tiles.csv", tiles)
    lap("laying tiles")
    if (folder / "model").exists():
        model = read_bundle(folder / "model")
    else:
        training = TrainingWish(wish.algorithm, wish.settings, test=wish.test, stop=wish.stop, seed=wish.seed)
        model = train_model(folder / "tiles.csv", folder / "model", training)
    lap("training")
    seen = model.seen()
    held_out = [row for row in rows if not seen.has_patient(row["patient_id"])]
    run = predict_slides([paths[row["slide_id"]] for row in held_out], folder / "model", folder / "answers")
    lap("recognising")
    if run.failures:
        raise SystemExit("\n".join(run.failures.values()))
    labels, lesions = _labels(folder / "tiles.csv"), _lesions(folder / "cohort" / "lesions.csv")
    results = {str(one["slide_id"]): one for one in run.results}
    slides = tuple(
        {
            **row,
            "lesions": lesions.get(row["slide_id"], "none"),
            "result": results[row["slide_id"]],
            "auc": _auc(folder / "answers" / row["slide_id"] / "tiles.parquet", labels[row["slide_id"]]),
        }
        for row in held_out
    )
    return Found(model, slides, seconds)


def _labels(manifest: Path) -> dict[str, dict[tuple[int, int], bool]]:
    found: dict[str, dict[tuple[int, int], bool]] = {}
    table = read_manifest(manifest)
    for slide, x, y, label in table.frame[["slide_id", "x", "y", "label"]].itertuples(index=False):
        found.setdefault(slide, {})[int(x), int(y)] = label == table.positive
    return found


def _auc(tiles: Path, labels: dict[tuple[int, int], bool]) -> float:
    # Of the tiles that were recognised: blurred, inked and folded ones are left out.
    predictions = read_predictions(tiles)
    rows = np.flatnonzero(predictions.recognised)
    positive = np.array([labels[x, y] for x, y in predictions.boxes[rows, :2].tolist()])
    return auc(positive, predictions.proba[rows, -1])


def _lesions(path: Path) -> dict[str, str]:
    found: dict[str, str] = {}
    for row in _read(path):
        text = f"{row['size_class']}, {float(row['major_axis_um']):.0f} um"
        found[row["slide_id"]] = f"{found[row['slide_id']]}; {text}" if row["slide_id"] in found else text
    return found


def _read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def page(found: Found, wish: FortyX) -> str:
    """Write it as a page of the documentation."""
    facts = found.model.facts
    right = sum((row["label"] == "tumour") == row["result"]["verdict"].startswith("suspicious") for row in found.slides)
    rows = [
        f"| {row['slide_id']} | {row['site']} | {float(row['mpp']):.4g} | {row['lesions']} | "
        f"{row['result']['verdict']} | {_number(row['result']['score'])} | {_number(row['auc'])} |"
        for row in found.slides
    ]
    metrics = [
        f"| {name} | {_number(one.value)} | {_number(one.low)} to {_number(one.high)} |"
        for name, one in facts.metrics.items()
        if name in {"auc", "accuracy", "sensitivity", "specificity"}
    ]
    n_images, n_patients = facts.data.n_images, facts.data.n_patients
    times = ", ".join(f"{step} {value:.0f}" for step, value in found.seconds.items())
    return "\n".join([
        "# At 40x",
        "",
        "Written by `python benchmarks/forty_x.py FOLDER`. The founding experiment recognised scans at 40x, 0.25 um",
        "a pixel; the other pages work at 1 um. Here is the whole path at 0.25 um, on **synthetic** slides: the",
        "figures say that the path works at that resolution, and nothing about real tissue.",
        "",
        f"{wish.patients} patients of {wish.sites} laboratories, one small node each;",
        f"{sum(n_images.values()):,} tiles of {wish.tile_px} px;",
        f"{facts.algorithm} with fewer layers (SMALL_PAPER_CNN),",
        f"{facts.settings.get('epochs', 0)} epochs, trained on {n_patients['train']} patients",
        f"({n_images['train']:,} tiles), stopped by {n_patients['stop']}, measured on {n_patients['test']} whom it has",
        "not seen.",
        "",
        "## Slides that were held out",
        "",
        f"{right} of {len(found.slides)} verdicts agree with what was drawn.",
        "",
        "| slide | site | um a pixel | drawn lesions | verdict | score | AUC of its tiles |",
        "|---|---|---:|---|---|---:|---:|",
        *rows,
        "",
        "The AUC is of the tiles that were recognised; where a slide has tiles of one class only, there is none.",
        "",
        f"## All {n_images['test']:,} tiles of them",
        "",
        "| | value | 95 % over patients |",
        "|---|---:|---:|",
        *metrics,
        "",
        f"Seconds of the CPU in the last call (0: finished before), of all threads: {times}.",
        f"Machine: {_machine()}. No GPU.",
        "",
    ])


def _machine() -> str:
    return f"{cpuinfo.get_cpu_info().get('brand_raw', platform.machine())}, Python {platform.python_version()}"


def _number(value: float | None) -> str:
    return "n/a" if value is None or value != value else f"{value:.3f}"  # noqa: PLR0124 - NaN differs from itself


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    wish = FortyX()
    PAGE.write_text(page(run(Path(sys.argv[1]), wish), wish), encoding="utf-8")
    print(f"wrote {PAGE.name}")
