"""What another stain costs: train on slides of one stain, test on left-out slides of the same one and on the other.

    sentinode data import kaggle-pcam ../shared/data/pcam --out build/pcam/manifest.csv
    python benchmarks/pcam/stain_shift.py [algorithm ...]        # default: imagenet-cnn paper-cnn kernel-svm
    python benchmarks/pcam/stain_shift.py --write                # the page, from what is finished

The 19 known slides fall into two clusters by the colours of their stains: how much more red than blue haematoxylin and
eosin absorb (Macenko's vectors of each slide, both standardised, Ward's linkage); 10 and 9 slides, two scanners of
CAMELYON16 by their look. In each cluster the slides are dealt into five folds; a network is trained on four of them
(no stop part: slides are too few) and recognises the fifth and the other cluster: the same training for both, so of
equal size. The slides of the other cluster are dealt to the five networks as well, so both AUCs pool patches of five
networks; averaged over the five ways to deal.

The loss is the first AUC minus the second. Two clusters are a description: no p-value. Patches of unknown slides are
left out, they hold both stains. What is finished in build/pcam/stain-shift is not done again.
"""

import argparse
import json
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.hierarchy import fcluster, linkage

from sentinode.algorithms.registry import AlgorithmSpec, build_algorithm
from sentinode.data.manifest import Manifest, read_manifest
from sentinode.data.patches import cache_patches
from sentinode.evaluation.metrics import accuracy, auc
from sentinode.seeds import stream
from sentinode.slides.stain_vectors import stain_vectors
from sentinode.storage import write_whole

ROOT = Path(__file__).parents[2]
DATA = ROOT / "build" / "pcam"
OUT = DATA / "stain-shift"
PAGE = ROOT / "docs" / "results" / "pcam" / "stain-shift.md"
ALGORITHMS = ("imagenet-cnn", "paper-cnn", "kernel-svm")
FOLDS = 5
SEED = 1


def main() -> int:
    """Train what is missing, two at a time, and say what came out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("algorithms", nargs="*", default=ALGORITHMS)
    parser.add_argument("--write", action="store_true", help="write the page as well")
    wish = parser.parse_args()
    OUT.mkdir(parents=True, exist_ok=True)
    manifest = read_manifest(DATA / "manifest.csv")
    jobs = [
        (name, cluster, fold)
        for fold in range(FOLDS)
        for cluster in (0, 1)
        for name in wish.algorithms
        if not _path(name, cluster, fold).exists()
    ]
    with ProcessPoolExecutor(2) as pool:
        for told in pool.map(_train, *zip(*jobs, strict=True)) if jobs else ():
            print(told, flush=True)
    text = _page(manifest, wish.algorithms)
    print(text)
    if wish.write:
        PAGE.write_text(text, encoding="utf-8")
    return 0


def clusters(manifest: Manifest, pixels: NDArray[np.uint8]) -> dict[str, int]:
    """Give each known slide its cluster; 0 is the one whose haematoxylin is the redder."""
    slide = manifest.frame["slide_id"].to_numpy(dtype=np.str_)
    names = sorted(set(slide.tolist()) - {""})
    vectors = np.stack([stain_vectors(np.asarray(pixels[np.flatnonzero(slide == name)])) for name in names])
    balance = vectors[:, :, 0] - vectors[:, :, 2]
    balance = (balance - balance.mean(axis=0)) / balance.std(axis=0)
    found = fcluster(linkage(balance, "ward"), 2, "maxclust")
    redder = max((1, 2), key=lambda one: balance[found == one, 0].mean())
    return {name: int(one != redder) for name, one in zip(names, found, strict=True)}


def _train(name: str, cluster: int, fold: int) -> str:
    import torch  # noqa: PLC0415 - in the worker

    torch.set_num_threads(1)
    manifest = read_manifest(DATA / "manifest.csv")
    pixels = cache_patches(manifest, DATA / "cache")
    slide = manifest.frame["slide_id"].to_numpy(dtype=np.str_)
    label = manifest.frame["label"].to_numpy(dtype=np.str_)
    which = clusters(manifest, pixels)
    mine = [one for one in which if which[one] == cluster]
    left_out = [one for one in mine if _folds(mine)[one] == fold]
    others = [one for one in which if which[one] != cluster]
    train = np.flatnonzero(np.isin(slide, [one for one in mine if one not in left_out]))
    test = np.flatnonzero(np.isin(slide, left_out + others))
    started = time.process_time()
    trained = build_algorithm(AlgorithmSpec(name, {}), SEED).fit(pixels[train], label[train])
    seconds = time.process_time() - started
    proba = trained.predict_proba(pixels[test])[:, -1]
    found = {
        "algorithm": name,
        "cluster": cluster,
        "fold": fold,
        "n_train": len(train),
        "seconds": seconds,
        "slide": slide[test].tolist(),
        "tumour": (label[test] == manifest.positive).tolist(),
        "proba": [round(float(one), 6) for one in proba],
    }
    write_whole(_path(name, cluster, fold), json.dumps(found))
    return f"{name}, stain {'AB'[cluster]}, fold {fold + 1}: {len(train)} patches, {seconds:.0f} CPU s"


def _folds(names: list[str]) -> dict[str, int]:
    order = stream(SEED, "stain-shift", len(names)).permutation(len(names))
    return {names[one]: place % FOLDS for place, one in enumerate(order)}


def _page(manifest: Manifest, algorithms: tuple[str, ...]) -> str:
    which = clusters(manifest, cache_patches(manifest, DATA / "cache"))
    lines = [
        "| algorithm | trained on | AUC, same stain | AUC, the other stain | loss | accuracy, same | accuracy, other |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for name in algorithms:
        losses = []
        for cluster in (0, 1):
            paths = [_path(name, cluster, fold) for fold in range(FOLDS)]
            if not all(path.exists() for path in paths):
                print(f"{name}, stain {'AB'[cluster]}: not finished", file=sys.stderr)
                continue
            same, other = _pooled([json.loads(path.read_text()) for path in paths], which, cluster)
            losses.append(same[0] - other[0])
            lines.append(
                f"| {name} | {'AB'[cluster]} | {same[0]:.3f} | {other[0]:.3f} | {losses[-1]:+.3f} | "
                f"{100 * same[1]:.1f} % | {100 * other[1]:.1f} % |"
            )
        if len(losses) == 2:
            lines.append(f"| {name} | **mean of both** | | | **{np.mean(losses):+.3f}** | | |")
    sizes = [sum(one == cluster for one in which.values()) for cluster in (0, 1)]
    known = manifest.frame["slide_id"].map(which)
    patches = [int((known == cluster).sum()) for cluster in (0, 1)]
    lines.append(
        f"\n*Stain A: {sizes[0]} slides, {patches[0]} patches; stain B: {sizes[1]} slides, {patches[1]} patches. "
        "Two clusters describe; they prove nothing about a third scanner.*\n"
    )
    return "\n".join(lines)


def _pooled(
    runs: list[dict[str, list[object]]], which: dict[str, int], cluster: int
) -> tuple[tuple[float, float], tuple[float, float]]:
    others = sorted(one for one in which if which[one] != cluster)
    dealt = _folds(others)
    first = _scores(runs, [np.array([which[str(one)] == cluster for one in run["slide"]]) for run in runs])
    ways = []
    for turn in range(FOLDS):
        whose = {one: (place + turn) % FOLDS for one, place in dealt.items()}
        ways.append(
            _scores(
                runs, [np.array([whose.get(str(one)) == fold for one in run["slide"]]) for fold, run in enumerate(runs)]
            )
        )
    second = np.mean(ways, axis=0)
    return first, (float(second[0]), float(second[1]))


def _scores(runs: list[dict[str, list[object]]], rows: list[NDArray[np.bool_]]) -> tuple[float, float]:
    truth, proba = (
        np.concatenate([np.asarray(run[key])[at] for run, at in zip(runs, rows, strict=True)])
        for key in ("tumour", "proba")
    )
    return auc(truth, proba), accuracy(truth, proba)


def _path(name: str, cluster: int, fold: int) -> Path:
    return OUT / f"{name}-{'AB'[cluster]}{fold + 1}.json"


if __name__ == "__main__":
    sys.exit(main())
