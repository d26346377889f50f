"""What a first look spares and loses on real patches: of slides that neither network nor first look was fitted to.

    sentinode data import kaggle-pcam ../shared/data/pcam --out build/pcam/manifest.csv
    python benchmarks/pcam/first_look.py             # four trainings, a quarter of an hour of one core
    python benchmarks/pcam/first_look.py --write     # the page's table, too

The networks are trained on the inner train part of the first two frozen splits, as in ``ideas.py``; the outer test
slides are put away. The first look is fitted to what a network says of the 1,635 patches of unknown slides, of whom no
label is used: in bunches of twenty, which stand for slides. It is measured on the inner slides that are held out. Some
of the unknown patches may be of these very slides, or of the training slides: what is lost is flattered by that.
"""

import argparse
import sys
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from ideas import DATA, ROOT, SPLITS
from sentinode.algorithms.registry import AlgorithmSpec, build_algorithm
from sentinode.algorithms.stain_augmentation import perturb_stain
from sentinode.data.manifest import read_manifest
from sentinode.data.overlaps import find_overlaps
from sentinode.data.patches import cache_patches
from sentinode.data.splits import Protocol, make_splits, read_splits
from sentinode.inference.first_look import SUSPICIOUS, LookedAt, fit_first_look
from sentinode.seeds import stream
from sentinode.slides.appearance import appearance

TABLE = ROOT / "docs" / "results" / "pcam" / "first-look.md"
ANSWERS = DATA / "first-look"
BUNCH = 20
NETWORKS = ("imagenet-cnn", "paper-cnn")
ALPHAS = (0.02, 0.05, 0.1)
HEAD = (
    "| network | allowed | spared | lost, mean over slides | lost, of all suspicious | steps back "
    "| stain moved: spared | lost | steps back |\n|---|---:|---:|---:|---:|---:|---:|---:|---:|\n"
)

Tiles = NDArray[np.uint8]


def main() -> int:
    """Train what is missing, fit, measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true")
    wish = parser.parse_args()
    torch.set_num_threads(1)
    ANSWERS.mkdir(parents=True, exist_ok=True)
    text = HEAD
    for network in NETWORKS:
        answers = [_answers(network, repeat) for repeat in range(2)]
        for alpha in ALPHAS:
            found = [_measured(one, alpha) for one in answers]
            cells = [_cells([pair[place] for pair in found]) for place in range(2)]
            text += f"| {network} | {alpha:.0%} | " + " | ".join([*cells[0], *cells[1][:2], cells[1][3]]) + " |\n"
    print(text)
    if wish.write:
        TABLE.write_text(text, encoding="utf-8")
    return 0


def _answers(network: str, repeat: int) -> dict[str, NDArray[Any]]:
    # What the network says of unknown patches, of held-out ones, and of these in other stains; and what all look like.
    path = ANSWERS / f"{network}-{repeat + 1}.npz"
    if not path.exists():
        manifest = read_manifest(DATA / "manifest.csv")
        _, outer = read_splits(SPLITS, manifest)
        every = cache_patches(manifest, DATA / "cache")
        rows = np.sort(np.concatenate([outer[repeat].train, outer[repeat].stop]))
        inner, pixels = manifest.select(rows), every[rows]
        split = make_splits(inner, Protocol(repeats=1, seed=1, test=0.3, stop=0.0), find_overlaps(pixels))[0]
        labels = inner.frame["label"].to_numpy(dtype=np.str_)
        trained = build_algorithm(AlgorithmSpec(network, {}), 1).fit(pixels[split.train], labels[split.train])
        held = np.asarray(pixels[split.test])
        seen = {"unknown": np.asarray(every[manifest.groups == ""]), "held": held, "moved": _moved(held)}
        np.savez(
            path,
            slide=inner.frame["slide_id"].to_numpy(dtype=np.str_)[split.test],
            **{name: trained.predict_proba(tiles) for name, tiles in seen.items()},
            **{f"{name} numbers": appearance(tiles) for name, tiles in seen.items()},
        )
        print(f"{network}, split {repeat + 1}: trained", flush=True)
    return dict(np.load(path))


def _moved(tiles: Tiles) -> Tiles:
    # Each in the stain and the camera of a random laboratory: what the training of the default perturbs by.
    images = torch.from_numpy(tiles).permute(0, 3, 1, 2).contiguous()
    return perturb_stain(images, stream(1, "other laboratories")).permute(0, 2, 3, 1).contiguous().numpy()


class Spared(NamedTuple):
    """What was spared of the slides of a split: (n,) each, of patches and of slides."""

    spared: NDArray[np.bool_]
    suspicious: NDArray[np.bool_]
    slide: NDArray[np.str_]
    stepped_back: NDArray[np.bool_]


def _measured(answers: dict[str, NDArray[Any]], alpha: float) -> tuple[Spared, Spared]:
    # As they are, and in other laboratories' stains.
    order = stream(1, "bunches").permutation(len(answers["unknown"]))
    bunches = [order[begin : begin + BUNCH] for begin in range(0, len(order) - BUNCH + 1, BUNCH)]
    seen = [(answers["unknown numbers"][rows], answers["unknown"][rows]) for rows in bunches]
    look = fit_first_look([LookedAt(*one, np.ones(BUNCH, np.float32)) for one in seen], alpha, None)
    found = []
    for name in ("held", "moved"):
        numbers, slide = answers[f"{name} numbers"], answers["slide"]
        back = [look.distance(numbers[slide == one]) > look.farthest for one in np.unique(slide)]
        suspicious = answers[name][:, -1] >= SUSPICIOUS
        found.append(Spared(look.spares(numbers), suspicious, slide, np.array(back)))
    return found[0], found[1]


def _cells(splits: list[Spared]) -> list[str]:
    # As if it never stepped back, and how often it would.
    spared, suspicious = (np.concatenate([getattr(one, name) for one in splits]) for name in ("spared", "suspicious"))
    shares = [
        (one.spared & one.suspicious & (one.slide == name)).sum() / (one.suspicious & (one.slide == name)).sum()
        for one in splits
        for name in np.unique(one.slide[one.suspicious])
    ]
    back = np.concatenate([one.stepped_back for one in splits])
    lost = int((spared & suspicious).sum())
    return [
        f"{spared.mean():.0%}",
        f"{np.mean(shares):.1%}",
        f"{lost} of {suspicious.sum()}",
        f"{back.sum()} of {len(back)} slides",
    ]


if __name__ == "__main__":
    sys.exit(main())
