"""What a first look saves on slides, and whether it keeps its word: synthetic slides, many patients, one run.

    python benchmarks/first_look_slides.py [FOLDER]            # prints; a quarter of an hour
    python benchmarks/first_look_slides.py [FOLDER] --write    # the page, too

One cohort is drawn: some patients train the default network, others fit the first look (nobody looks at their labels),
the rest are new. Each new slide is recognised by `predict` with and without it, in turn: seconds, tiles that were
spared, suspicious tiles among them (those that the network calls suspicious when it sees every tile), verdicts that
change. With a folder, what was drawn, trained and fitted stays there.
"""

import argparse
import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from dense_heatmap import MPP, NODES, TILE
from sentinode.execution import keep_memory
from sentinode.inference.first_look import SUSPICIOUS, FirstLook, first_look_of
from sentinode.inference.predictions import read_predictions
from sentinode.models.bundle import Bundle, read_bundle
from sentinode.models.runtime import this_machine
from sentinode.workflows.first_looking import fit_first_look_on
from sentinode.workflows.phantom_slides import write_phantom_slides
from sentinode.workflows.predicting import PredictionWish, predict_slides
from sentinode.workflows.tiling import TilesWish, make_tiles
from sentinode.workflows.training import DEFAULT_ALGORITHM, TrainingWish, train_model

PAGE = Path(__file__).parents[1] / "docs" / "results" / "first-look-slides.md"
N_TRAINING, N_FITTING, N_NEW = 16, 90, 20
ALPHA = 0.05


class Seen(NamedTuple):
    """A new slide, recognised with and without a first look."""

    tiles: int
    suspicious: int  # by the network, of all tiles
    spared: int
    lost: int  # suspicious ones that were spared
    stepped_back: bool
    verdicts: tuple[str, str]  # without, with
    seconds: tuple[float, float]  # of predict
    of_tiles: tuple[float, float]  # of reading, judging and recognising


def main(folder: Path, *, write: bool) -> None:
    """Draw, train, fit, measure, print.

    Raises
    ------
    SystemExit
        If too few patients have suspicious tiles to spare anything.
    """
    torch.set_num_threads(os.cpu_count() or 1)
    keep_memory()
    slides = _slides(folder / "cohort")
    table = folder / "cohort" / "slides.csv"
    training, fitting, new = np.split(np.array(slides), [N_TRAINING, N_TRAINING + N_FITTING])
    manifest, model, quicker = folder / "tiles.csv", folder / "model", folder / "model-with-a-first-look"
    if not manifest.exists():
        make_tiles(training.tolist(), manifest, TilesWish(MPP, TILE, folder / "cohort" / "annotations", table))
    if not model.exists():
        train_model(manifest, model, TrainingWish(DEFAULT_ALGORITHM, {"epochs": 3}, test=0.1, stop=0.15))
    if not quicker.exists():
        fit_first_look_on(fitting.tolist(), model, quicker, table=table, alpha=ALPHA, delta=None)
    bundle = read_bundle(quicker)
    look = first_look_of(bundle)
    if look is None or look.threshold is None:
        raise SystemExit(f"nothing is spared: {look}")
    seen = [_seen(path, bundle, folder / "answers") for path in new.tolist()]
    text = _page(seen, look, bundle)
    print(text)
    if write:
        PAGE.write_text(text, encoding="utf-8")


def _slides(folder: Path) -> list[Path]:
    n = N_TRAINING + N_FITTING + N_NEW
    found = sorted((folder / "slides").glob("*.tif"))
    if len(found) != n:
        write_phantom_slides(folder, patients=n, sites=2, preset=NODES, seed=5)
    return sorted((folder / "slides").glob("*.tif"))


def _seen(path: Path, bundle: Bundle, out: Path) -> Seen:
    results, tables, seconds = [], [], []
    for first_look in (False, True):
        shutil.rmtree(out, ignore_errors=True)
        started = time.perf_counter()
        run = predict_slides([path], bundle, out, PredictionWish(first_look=first_look))
        seconds.append(time.perf_counter() - started)
        if run.failures:
            raise SystemExit(str(dict(run.failures)))
        results.append(run.results[0])
        tables.append(read_predictions(out / path.stem / "tiles.parquet"))
    whole, quick = tables
    suspicious = whole.recognised & (whole.positive >= SUSPICIOUS)
    spared = np.zeros(len(whole), dtype=bool) if quick.spared is None else quick.spared
    facts = results[1]["first_look"]
    return Seen(
        int(whole.recognised.sum()),
        int(suspicious.sum()),
        int(spared.sum()),
        int((suspicious & spared).sum()),
        bool(facts and facts["stepped_back"]),
        (str(results[0]["verdict"]), str(results[1]["verdict"])),
        (seconds[0], seconds[1]),
        (results[0]["profile"]["tiles"], results[1]["profile"]["tiles"]),
    )


def _page(seen: list[Seen], look: FirstLook, bundle: Bundle) -> str:
    shares = [one.lost / one.suspicious for one in seen if one.suspicious]
    tiles, spared = sum(one.tiles for one in seen), sum(one.spared for one in seen)
    quicker = [one.of_tiles[0] / one.of_tiles[1] for one in seen]
    whole = [one.seconds[0] / one.seconds[1] for one in seen]
    rows = {
        "promise": look.in_words,
        "fitted on, and threshold set by": f"{look.n_fitted} and {look.n_patients} patients",
        "new slides, each of a patient": f"{len(seen)}, {len(shares)} with suspicious tiles",
        "steps back on": f"{sum(one.stepped_back for one in seen)}",
        "tiles spared": f"**{spared / tiles:.0%}** of {tiles:,}",
        "suspicious tiles lost, mean over patients": f"**{np.mean(shares):.2%}** (most on one: {max(shares):.1%})",
        "suspicious tiles lost, of all": f"{sum(o.lost for o in seen)} of {sum(o.suspicious for o in seen):,}",
        "verdicts that change": f"{sum(len(set(one.verdicts)) > 1 for one in seen)}",
        "reading, judging and recognising": f"**{statistics.median(quicker):.2f}** times as quick",
        "all of `predict`, a slide": (
            f"{statistics.median(whole):.2f} times as quick ({statistics.median(o.seconds[0] for o in seen):.1f} s, "
            f"{statistics.median(o.seconds[1] for o in seen):.1f} s)"
        ),
    }
    text = [
        "# What a first look saves on slides",
        "",
        "**Synthetic slides: nothing here says how well cancer is recognised.** Written by",
        "`python benchmarks/first_look_slides.py --write`. One drawn cohort:",
        f"{N_TRAINING} patients train `{bundle.facts.algorithm}` for three epochs, {N_FITTING} others fit a",
        f"[first look](../commands/first-look.md), {N_NEW} are new; slides of {tiles / len(seen):.0f} tiles each.",
        "Every new slide is recognised with and without it.",
        "",
        "| | |",
        "|---|---|",
        *(f"| {name} | {value} |" for name, value in rows.items()),
        "",
        f"Machine: {this_machine().cpu}, {os.cpu_count()} cores, no GPU, load {os.getloadavg()[0]:.1f} at the end.",
        "",
    ]
    return "\n".join(text)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--write", action="store_true")
    wish = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        main(wish.folder or Path(name), write=wish.write)
