"""What the parts of the default are worth: each left out in turn, on inner splits, no test slide touched.

    sentinode data import kaggle-pcam ../shared/data/pcam --out build/pcam/manifest.csv
    python benchmarks/pcam/ideas.py --repeats 3              # a training takes three to five minutes of one core
    python benchmarks/pcam/ideas.py --repeats 3 --write      # the table, too

Of each frozen outer split, the test slides are put away; of the others, three in ten are held out and the rest is
trained on. The mean of the AUC over these inner splits is what ideas are chosen by. What is finished in
build/pcam/ideas is not done again.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from types import MappingProxyType
from typing import Any
from unittest import mock

import numpy as np

from sentinode.algorithms.registry import AlgorithmSpec, build_algorithm
from sentinode.data.manifest import read_manifest
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


def _trained_norm(stack: ExitStack) -> None:
    """Let the batch norms take mean and deviation from the training slides, as usual."""
    import torch  # noqa: PLC0415 - in the worker
    from torch.nn import functional  # noqa: PLC0415

    from sentinode.algorithms import efficientnet_lite_network as network  # noqa: PLC0415

    class TrainedNormConv(network.FrozenNormConv):
        """A convolution, then a batch norm that learns its statistics."""

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            """Convolve and normalise."""
            kernel, padding = self.weight.shape[-1], self.weight.shape[-1] // 2
            if self.stride > 1:
                # As TensorFlow pads: at an even size and a stride of 2 the odd row lies below and to the right.
                short = [max((-(-n // self.stride) - 1) * self.stride + kernel - n, 0) for n in images.shape[:1:-1]]
                sides = [part for total in short for part in (total // 2, total - total // 2)]
                images, padding = functional.pad(images, sides), 0
            found = functional.conv2d(images, self.weight, None, self.stride, padding, groups=self.groups)
            return functional.batch_norm(
                found, self.mean, self.variance, self.gain, self.offset, training=self.training, eps=1e-3
            )

        def load(self, tensors: list[torch.Tensor]) -> None:
            """Take over the statistics of ImageNet to begin with."""
            with torch.no_grad():
                for mine, given in zip(
                    (self.weight, self.gain, self.offset, self.mean, self.variance), tensors, strict=False
                ):
                    mine.copy_(given)

        def __init__(self, n_in: int, n_out: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
            super().__init__(n_in, n_out, kernel, stride, groups)
            self.register_buffer("variance", torch.ones_like(self.mean))

    stack.enter_context(mock.patch.object(network, "FrozenNormConv", TrainedNormConv))


def _no_stain(stack: ExitStack) -> None:
    """Turn patches at random and do nothing else to them."""
    from sentinode.algorithms import fine_tuning  # noqa: PLC0415 - it imports torch

    stack.enter_context(mock.patch.object(fine_tuning, "other_laboratory", fine_tuning.random_orientations))


Change = Callable[[ExitStack], None]
IDEAS: Mapping[str, tuple[str, Mapping[str, Any], Change | None]] = MappingProxyType({
    "the default": ("imagenet-cnn", {}, None),
    "batch norm with the statistics of the training slides": ("imagenet-cnn", {}, _trained_norm),
    "no other laboratories' stains": ("imagenet-cnn", {}, _no_stain),
    "patches not enlarged": ("imagenet-cnn", {"enlarge": 1.0}, None),
    "random weights in place of ImageNet's": ("imagenet-cnn", {"pretrained": False}, None),
    "recognised in eight orientations": ("imagenet-cnn", {"views": 8}, None),
    "distilled into a small network": ("distilled-cnn", {}, None),
    "paper-cnn": ("paper-cnn", {}, None),
    "kernel-svm": ("kernel-svm", {}, None),
})


def main() -> int:
    """Train what is missing, two at a time, and say what came out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--idea", action="append", choices=list(IDEAS), help="only these; may be repeated")
    parser.add_argument("--write", action="store_true")
    wish = parser.parse_args()
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
    name, settings, change = IDEAS[idea]
    manifest = read_manifest(DATA / "manifest.csv")
    _, outer = read_splits(SPLITS, manifest)
    rows = np.sort(np.concatenate([outer[repeat].train, outer[repeat].stop]))
    inner, pixels = manifest.select(rows), cache_patches(manifest, DATA / "cache")[rows]
    split = make_splits(inner, Protocol(repeats=1, seed=1, test=0.3, stop=0.0), find_overlaps(pixels))[0]
    labels = inner.frame["label"].to_numpy(dtype=np.str_)
    with ExitStack() as stack:
        if change is not None:
            change(stack)
        started = time.process_time()
        trained = build_algorithm(AlgorithmSpec(name, settings), 1).fit(pixels[split.train], labels[split.train])
        seconds = time.process_time() - started
        proba = trained.predict_proba(pixels[split.test])[:, -1].astype(float)
    positive = labels[split.test] == manifest.positive
    found = {"auc": auc(positive, proba), "accuracy": accuracy(positive, proba), "seconds": seconds}
    write_whole(_path(idea, repeat), json.dumps(found))
    return f"{idea}, repeat {repeat + 1}: AUC {found['auc']:.3f}, {seconds:.0f} CPU s"


def _table(ideas: list[str], repeats: int) -> str:
    lines = ["| | AUC | against the default | accuracy | CPU s | inner splits |", "|---|---:|---:|---:|---:|---:|"]
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
        gain = f"{np.mean(gains):+.3f}" if gains and one != "the default" else ""
        lines.append(
            f"| {one} | {mean['auc']:.3f} | {gain} | {mean['accuracy']:.1%} | {mean['seconds']:.0f} | {len(runs)} |"
        )
    return "\n".join(lines) + "\n"


def _path(idea: str, repeat: int) -> Path:
    return OUT / f"{idea.replace(' ', '-')}-{repeat + 1}.json"


if __name__ == "__main__":
    sys.exit(main())
