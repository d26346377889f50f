"""What training on patches of another look costs: a look is the colour of a patch's own nuclei, violet or brown.

    sentinode data import kaggle-pcam ../shared/data/pcam --out build/pcam/manifest.csv
    python benchmarks/pcam/look_shift.py [algorithm ...]        # default: imagenet-cnn paper-cnn kernel-svm
    python benchmarks/pcam/look_shift.py --write                # the page, too; twelve minutes of two cores

`stain_shift.py` takes slides as wholes, and nine of the 19 hold patches of both looks. Here each patch counts for
itself; what lies between the looks, or has no nuclei, is left out, as are patches of unknown slides. The slides are
dealt into five folds. A network is trained on patches of one look of four folds, another one on those of the other
look of the same slides, and both recognise the same patches of the fifth. The loss on a look is the AUC of the network
that was trained on it minus that of the one that was trained on the other. AUCs are pooled over the folds, and *within
folds*: of pairs of patches of one fold alone, which one network told apart.

Looks are a description: no p-value. What is finished in build/pcam/look-shift is not done again.
"""

import argparse
import json
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sentinode.algorithms.registry import AlgorithmSpec, build_algorithm
from sentinode.data.manifest import Manifest, read_manifest
from sentinode.data.patches import cache_patches
from sentinode.evaluation.metrics import auc
from sentinode.seeds import stream
from sentinode.storage import write_whole

ROOT = Path(__file__).parents[2]
DATA = ROOT / "build" / "pcam"
OUT = DATA / "look-shift"
PAGE = ROOT / "docs" / "results" / "pcam" / "look-shift.md"
ALGORITHMS = ("imagenet-cnn", "paper-cnn", "kernel-svm")
LOOKS = ("violet", "brown")
FOLDS, SEED = 5, 1

VIOLET, BROWN = 0.16, 0.10  # red less blue density of nuclei, as a share: hardly any patch lies between
NUCLEI = 0.8  # red density of a nucleus


def main() -> int:
    """Train what is missing, two at a time, and say what came out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("algorithms", nargs="*", default=ALGORITHMS)
    parser.add_argument("--repeats", type=int, default=1, help="ways to deal the slides into folds")
    parser.add_argument("--write", action="store_true", help="write the page as well")
    wish = parser.parse_args()
    OUT.mkdir(parents=True, exist_ok=True)
    jobs = [
        one
        for repeat in range(wish.repeats)
        for name in wish.algorithms
        for fold in range(FOLDS)
        for look in LOOKS
        if not _path(*(one := (name, look, repeat, fold))).exists()
    ]
    with ProcessPoolExecutor(2) as pool:
        for told in pool.map(_train, *zip(*jobs, strict=True)) if jobs else ():
            print(told, flush=True)
    if wish.write and tuple(wish.algorithms) != ALGORITHMS:
        parser.error("--write is of all algorithms: name none")
    text = _page(wish.algorithms, wish.repeats)
    print(text)
    if wish.write:
        PAGE.write_text(text, encoding="utf-8")
    return 0


def looks_of(pixels: NDArray[np.uint8]) -> NDArray[np.str_]:
    """Tell two looks apart by the colour of the nuclei: the tenth of a patch that is densest in red.

    Returns
    -------
    (n,) str
        ``"violet"``, ``"brown"``, or nothing where there are no nuclei or their colour lies between.
    """
    density = -np.log(np.maximum(pixels, 1) / 255.0).reshape(len(pixels), -1, 3)
    densest = density[..., 0] >= np.quantile(density[..., 0], 0.9, axis=1, keepdims=True)
    mean = np.where(densest[..., None], density, 0).sum(axis=1) / densest.sum(axis=1)[:, None]
    redness = (mean[:, 0] - mean[:, 2]) / np.maximum(mean.mean(axis=1), 1e-3)
    found = np.where(redness > VIOLET, "violet", np.where(redness < BROWN, "brown", ""))
    return np.where(mean[:, 0] > NUCLEI, found, "")


def _train(name: str, look: str, repeat: int, fold: int) -> str:
    import torch  # noqa: PLC0415 - in the worker

    torch.set_num_threads(1)
    manifest = read_manifest(DATA / "manifest.csv")
    pixels = cache_patches(manifest, DATA / "cache")
    known, dealt = _dealt(manifest, repeat)
    looks = looks_of(np.asarray(pixels[known]))
    train = known[(dealt != fold) & (looks == look)]
    tested = (dealt == fold) & (looks != "")
    label = manifest.frame["label"].to_numpy(dtype=np.str_)
    started = time.process_time()
    trained = build_algorithm(AlgorithmSpec(name, {}), SEED + repeat).fit(pixels[train], label[train])
    seconds = time.process_time() - started
    proba = trained.predict_proba(pixels[known[tested]])[:, list(trained.classes_).index(manifest.positive)]
    found = {
        "n_train": len(train),
        "seconds": seconds,
        "look": looks[tested].tolist(),
        "tumour": (label[known[tested]] == manifest.positive).tolist(),
        "proba": [round(float(one), 6) for one in proba],
    }
    write_whole(_path(name, look, repeat, fold), json.dumps(found))
    return f"{name}, {look}, repeat {repeat + 1}, fold {fold + 1}: {len(train)} patches, {seconds:.0f} CPU s"


def _dealt(manifest: Manifest, repeat: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    # Rows of the known slides, and the fold of each.
    slide = manifest.frame["slide_id"].to_numpy(dtype=np.str_)
    known = np.flatnonzero(slide != "")
    names = np.unique(slide[known])
    order = stream(SEED, "look-shift", repeat).permutation(len(names))
    fold = dict(zip(names[order].tolist(), (np.arange(len(names)) % FOLDS).tolist(), strict=True))
    return known, np.array([fold[one] for one in slide[known].tolist()], dtype=np.int64)


def _page(algorithms: tuple[str, ...], repeats: int) -> str:
    lines = [
        "| algorithm | tested on | trained on the same look | trained on the other | loss | loss within folds |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for name in algorithms:
        for tested in LOOKS:
            paths = [
                [[_path(name, look, repeat, fold) for fold in range(FOLDS)] for repeat in range(repeats)]
                for look in sorted(LOOKS, key=lambda one: one != tested)
            ]
            if not all(path.exists() for deals in paths for deal in deals for path in deal):
                print(f"{name}, {tested}: not finished", file=sys.stderr)
                continue
            # Trained on the same look or the other, by deal, pooled or within folds.
            found = np.array([
                [_scores([json.loads(path.read_text()) for path in deal], tested) for deal in deals] for deals in paths
            ])
            (same, other), losses = found[:, :, 0].mean(axis=1), (found[0] - found[1]).mean(axis=0)
            lines.append(f"| {name} | {tested} | {same:.3f} | {other:.3f} | **{losses[0]:+.3f}** | {losses[1]:+.3f} |")
    return "\n".join([*lines, "", _about(), ""])


def _about() -> str:
    manifest = read_manifest(DATA / "manifest.csv")
    known, dealt = _dealt(manifest, 0)
    looks = looks_of(np.asarray(cache_patches(manifest, DATA / "cache")[known]))
    slide, tumour = (
        manifest.frame["slide_id"].to_numpy(dtype=np.str_)[known],
        manifest.frame["label"].to_numpy(dtype=np.str_)[known] == manifest.positive,
    )
    said = []
    for one in LOOKS:
        mine = looks == one
        pairs = [
            int((mine & tumour & (dealt == n)).sum() * (mine & ~tumour & (dealt == n)).sum()) for n in range(FOLDS)
        ]
        said.append(
            f"{int(mine.sum())} patches are {one}, {int((mine & tumour).sum())} of them tumour, of "
            f"{len(set(slide[mine & tumour].tolist()))} slides; of the pairs within folds the largest fold has "
            f"{max(pairs) / sum(pairs):.0%}"
        )
    return f"*{'. '.join(said)}. {int((looks == '').sum())} patches are of neither look.*"


def _scores(deal: list[dict[str, Any]], tested: str) -> tuple[float, float]:
    # AUC pooled over the folds, and of pairs within folds.
    truth, proba = (
        [np.asarray(run[key])[np.asarray(run["look"]) == tested] for run in deal] for key in ("tumour", "proba")
    )
    pairs = np.array([one.sum() * (~one).sum() for one in truth])
    each = [auc(one, other) if n else 0.0 for one, other, n in zip(truth, proba, pairs, strict=True)]
    return auc(np.concatenate(truth), np.concatenate(proba)), float(np.average(each, weights=pairs))


def _path(name: str, look: str, repeat: int, fold: int) -> Path:
    return OUT / f"{name}-{look}-{repeat + 1}-{fold + 1}.json"


if __name__ == "__main__":
    sys.exit(main())
