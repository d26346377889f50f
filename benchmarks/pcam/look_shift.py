"""What another stain costs, by the colour of single patches: train on patches of one look, test on both, new slides.

    sentinode data import kaggle-pcam ../shared/data/pcam --out build/pcam/manifest.csv
    python benchmarks/pcam/look_shift.py [algorithm ...]        # default: imagenet-cnn paper-cnn kernel-svm
    python benchmarks/pcam/look_shift.py --write                # the page, too; twelve minutes of two cores

`stain_shift.py` takes slides as wholes, and nine of the 19 hold patches of both looks. Here a patch belongs to the look
of its own nuclei, violet or brown; what lies between, or has no nuclei, is left out, as are patches of unknown slides.
The slides are dealt into five folds. A network is trained on patches of one look of four folds, and recognises both
looks of the fifth: the same slides, which no training saw, and the same training for both. The other look's network is
trained on about as many patches. What is finished in build/pcam/look-shift is not done again.

The loss is the first AUC, pooled over the five folds, minus the second; the mean and the spread are over several ways
to deal. Two looks are a description: no p-value.
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
    text = _page(wish.algorithms, wish.repeats)
    print(text)
    if wish.write:
        PAGE.write_text(text, encoding="utf-8")
    return 0


def looks_of(pixels: NDArray[np.uint8]) -> NDArray[np.str_]:
    """Tell the two scanners apart by the colour of the nuclei: the tenth of a patch that is densest in red.

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
        "| algorithm | trained on | patches at a time | AUC, same look | AUC, the other look | loss | of each deal |",
        "|---|---|---:|---:|---:|---:|---|",
    ]
    for name in algorithms:
        for look in LOOKS:
            paths = [[_path(name, look, repeat, fold) for fold in range(FOLDS)] for repeat in range(repeats)]
            if not all(path.exists() for deal in paths for path in deal):
                print(f"{name}, {look}: not finished", file=sys.stderr)
                continue
            runs = [[json.loads(path.read_text()) for path in deal] for deal in paths]
            found = np.array([_scores(deal, look) for deal in runs])
            losses = found[:, 0] - found[:, 1]
            trained_on = np.mean([one["n_train"] for deal in runs for one in deal])
            same, other = found.mean(axis=0)
            lines.append(
                f"| {name} | {look} | {trained_on:.0f} | {same:.3f} | {other:.3f} | **{losses.mean():+.3f}** | "
                f"{', '.join(f'{one:+.3f}' for one in losses)} |"
            )
    manifest = read_manifest(DATA / "manifest.csv")
    known, _ = _dealt(manifest, 0)
    looks = looks_of(np.asarray(cache_patches(manifest, DATA / "cache")[known]))
    tumour = manifest.frame["label"].to_numpy(dtype=np.str_)[known] == manifest.positive
    counts = ", ".join(
        f"{int((looks == one).sum())} {one} ({int((tumour & (looks == one)).sum())} tumour)" for one in LOOKS
    )
    lines.append(f"\n*{counts}, {int((looks == '').sum())} of neither. Two looks describe; they prove nothing.*\n")
    return "\n".join(lines)


def _scores(deal: list[dict[str, Any]], look: str) -> tuple[float, float]:
    seen, truth, proba = (np.concatenate([np.asarray(run[key]) for run in deal]) for key in ("look", "tumour", "proba"))
    same = seen == look
    return auc(truth[same], proba[same]), auc(truth[~same], proba[~same])


def _path(name: str, look: str, repeat: int, fold: int) -> Path:
    return OUT / f"{name}-{look}-{repeat + 1}-{fold + 1}.json"


if __name__ == "__main__":
    sys.exit(main())
