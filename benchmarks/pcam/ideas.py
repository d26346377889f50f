"""What the parts of the default are worth, and what else was tried, on inner splits; no label of a test slide is read.

    sentinode data import kaggle-pcam ../shared/data/pcam --out build/pcam/manifest.csv
    python benchmarks/pcam/ideas.py --repeats 3              # a training takes 2 to 16 minutes of one core
    python benchmarks/pcam/ideas.py --repeats 3 --write      # the table, too

Of each frozen outer split, the test slides are put away; of the others, three in ten are held out and the rest is
trained on. The mean of the AUC over these inner splits is what ideas are chosen by. What is finished in
build/pcam/ideas is not done again.
"""

import argparse
import json
import sys
import time
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

import recipes
from sentinode.data.manifest import Manifest, read_manifest
from sentinode.data.overlaps import find_overlaps
from sentinode.data.patches import cache_patches
from sentinode.data.splits import Protocol, make_splits, read_splits
from sentinode.evaluation.metrics import accuracy, auc
from sentinode.storage import write_whole

ROOT = Path(__file__).parents[2]
DATA = ROOT / "build" / "pcam"
OUT = DATA / "ideas"
TABLE = ROOT / "docs" / "results" / "pcam" / "ideas.md"
SPLITS = Path(__file__).parent / "splits" / "patients.json"


IDEAS: Mapping[str, recipes.Recipe] = MappingProxyType({
    "the default": recipes.plain("imagenet-cnn"),
    "batch norm with the statistics of the training slides": recipes.trained_norm,
    "no other laboratories' stains": recipes.stains_as_they_are,
    "one stain for all, and no other laboratories'": recipes.one_stain(recipes.stains_as_they_are),
    "one stain for all, and other laboratories'": recipes.one_stain(recipes.plain("imagenet-cnn")),
    "patches bent": recipes.elastic,
    "both classes shown equally often": recipes.balanced,
    "hard negatives shown three times": recipes.hard_negatives,
    "taught by itself first, without labels": recipes.without_unknown_slides(recipes.taught_by_itself),
    "taught by itself first, on patches of unknown slides as well": recipes.taught_by_itself,
    "patches not enlarged": recipes.plain("imagenet-cnn", enlarge=1.0),
    "random weights in place of ImageNet's": recipes.plain("imagenet-cnn", pretrained=False),
    "recognised in eight orientations": recipes.plain("imagenet-cnn", views=8),
    "distilled into a small network": recipes.plain("distilled-cnn"),
    "paper-cnn": recipes.plain("paper-cnn"),
    "kernel-svm": recipes.plain("kernel-svm"),
})


def main() -> int:
    """Train what is missing, two at a time, and say what came out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--idea", action="append", choices=list(IDEAS), help="only these; may be repeated")
    parser.add_argument("--write", action="store_true")
    wish = parser.parse_args()
    if wish.write and wish.idea:
        parser.error("--write is of all ideas: leave out --idea")
    OUT.mkdir(parents=True, exist_ok=True)
    ideas = wish.idea or list(IDEAS)
    jobs = [(one, repeat) for repeat in range(wish.repeats) for one in ideas if not _path(one, repeat).exists()]
    with ProcessPoolExecutor(2) as pool:
        for told in pool.map(_train, *zip(*jobs, strict=True)) if jobs else ():
            print(told, flush=True)
    text = _table(ideas, wish.repeats)
    print(text)
    if wish.write:
        TABLE.write_text(text, encoding="utf-8")
    return 0


def _train(idea: str, repeat: int) -> str:
    import torch  # noqa: PLC0415 - in the worker

    torch.set_num_threads(1)
    inner, positive = _inner(repeat)
    started = time.process_time()
    trained, held_out = IDEAS[idea](inner)
    seconds = time.process_time() - started
    proba = trained.predict_proba(held_out)[:, list(trained.classes_).index(inner.positive)].astype(float)
    found = {"auc": auc(positive, proba), "accuracy": accuracy(positive, proba), "seconds": seconds}
    write_whole(_path(idea, repeat), json.dumps(found))
    return f"{idea}, repeat {repeat + 1}: AUC {found['auc']:.3f}, {seconds:.0f} CPU s"


def _inner(repeat: int) -> tuple[recipes.Inner, NDArray[np.bool_]]:
    manifest = read_manifest(DATA / "manifest.csv")
    every = cache_patches(manifest, DATA / "cache")
    _, outer = read_splits(SPLITS, manifest)
    rows = np.sort(np.concatenate([outer[repeat].train, outer[repeat].stop]))
    inner, pixels = manifest.select(rows), every[rows]
    split = make_splits(inner, Protocol(repeats=1, seed=1, test=0.3, stop=0.0), find_overlaps(pixels))[0]
    labels, slides = (inner.frame[name].to_numpy(dtype=np.str_) for name in ("label", "slide_id"))
    put_away = np.concatenate([outer[repeat].test, rows[split.test]])
    found = recipes.Inner(
        pixels=pixels[split.train],
        labels=labels[split.train],
        slides=slides[split.train],
        positive=manifest.positive,
        held_out=pixels[split.test],
        held_out_slides=slides[split.test],
        unlabelled=every[_of_no_slide(manifest, every, put_away)],
    )
    return found, labels[split.test] == manifest.positive


def _of_no_slide(manifest: Manifest, pixels: NDArray[np.uint8], put_away: NDArray[np.int64]) -> NDArray[np.int64]:
    # A patch of an unknown slide may be of a slide that is put away; what shares tissue with its patches is left out.
    group = find_overlaps(pixels).components(len(pixels))
    unknown = manifest.frame["slide_id"].to_numpy(dtype=np.str_) == ""
    return np.flatnonzero(unknown & ~np.isin(group, group[put_away]))


def _table(ideas: list[str], repeats: int) -> str:
    lines = [
        "| | AUC | against the default | on each inner split | accuracy | CPU s | inner splits |",
        "|---|---:|---:|---|---:|---:|---:|",
    ]
    known = {
        one: {n: json.loads(_path(one, n).read_text()) for n in range(repeats) if _path(one, n).exists()}
        for one in IDEAS
    }
    for one in ideas:
        runs, paired = known[one], sorted(set(known[one]) & set(known["the default"]))
        if not runs:
            continue
        mean = {key: np.mean([run[key] for run in runs.values()]) for key in ("auc", "accuracy", "seconds")}
        gains = [runs[n]["auc"] - known["the default"][n]["auc"] for n in paired]
        apart = ("", "")
        if gains and one != "the default":
            apart = (f"{np.mean(gains):+.3f}", ", ".join(f"{gain:+.3f}" for gain in gains))
        lines.append(
            f"| {one} | {mean['auc']:.3f} | {' | '.join(apart)} | {mean['accuracy']:.1%} | {mean['seconds']:.0f} | "
            f"{len(runs)} |"
        )
    return "\n".join(lines) + "\n"


def _path(idea: str, repeat: int) -> Path:
    return OUT / f"{idea.replace(' ', '-')}-{repeat + 1}.json"


if __name__ == "__main__":
    sys.exit(main())
