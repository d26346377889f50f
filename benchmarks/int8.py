"""What int8 is worth on real patches: how much quicker it is, how far the answers move, what AUC is lost.

    sentinode data import kaggle-pcam ../shared/data/pcam --out build/pcam/manifest.csv
    python benchmarks/int8.py [paper-cnn] [--epochs 4] [--repeats 3] [--rounds 7]        # docs/results/int8.md

Nine of the 19 known slides train a network, other ones in each draw; its steps are those of their patches. The other
ten chose nothing, and are what `train --int8` would call the calibrate part. The bounds are those of
`sentinode.models.quantising`. Needs the extras ``train`` and ``int8``.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from sentinode.algorithms.registry import AlgorithmSpec, build_algorithm
from sentinode.data.manifest import Manifest, read_manifest
from sentinode.data.patches import cache_patches
from sentinode.evaluation.bootstrap import Interval, Statistic, bootstrap_difference, bootstrap_patients
from sentinode.evaluation.typicality import evenly
from sentinode.models.engines import quiet_import
from sentinode.models.graph import NetworkAlgorithm, write_graph
from sentinode.models.quantising import (
    AUC_LOSS,
    FEWEST_PATIENTS,
    LARGEST_CHANGE,
    MEAN_CHANGE,
    RANGING_TILES,
    Closeness,
    measure_closeness,
    quantise_graph,
)
from sentinode.models.runtime import GraphRecogniser, this_machine
from sentinode.models.tuning import RuntimeChoice
from sentinode.seeds import stream
from sentinode.study.measure import load_average

if TYPE_CHECKING:
    from torch import nn

ROOT = Path(__file__).parents[1]
DATA = ROOT / "build" / "pcam"
PAGE = ROOT / "docs" / "results" / "int8.md"
ALGORITHMS = ("paper-cnn", "imagenet-cnn")
SIDE, SEED = 96, 1
TRAINING_SLIDES = 9
BATCH = 64
TIMED = 256  # patches of each run
PLAIN, FLOAT32, BF16, INT8, NNCF = "torch, float32", "float32", "bf16", "int8", "int8, steps as NNCF sets them"

Tiles = NDArray[np.uint8]
Answers = Callable[[Tiles], NDArray[np.float32]]


class Asked(NamedTuple):
    """What one network said about the slides that it has not seen."""

    positive: NDArray[np.bool_]
    slide: NDArray[np.str_]
    proba: Mapping[str, NDArray[np.float64]]  # way -> (n,)
    rates: Mapping[str, list[float]]  # way -> patches a second, a run each

    def closeness(self, way: str) -> Closeness:
        """Hold a way against float32."""
        return measure_closeness(self.positive, self.proba[FLOAT32], self.proba[way], self.slide)

    def repeat(self, way: str) -> tuple[NDArray[np.bool_], NDArray[np.float64], NDArray[np.str_]]:
        """Give what the bootstrap takes."""
        return self.positive, self.proba[way], self.slide


def main() -> None:
    """Train, quantise, measure, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("algorithms", nargs="*", default=ALGORITHMS)
    parser.add_argument("--epochs", type=int, help="of each training; left out, those of the algorithm")
    parser.add_argument("--threads", type=int, help="of each training, where other work runs beside it")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, default=PAGE)
    wish = parser.parse_args()
    started, load = time.perf_counter(), load_average()
    manifest = read_manifest(DATA / "manifest.csv")
    pixels = cache_patches(manifest, DATA / "cache")
    settings = {name: value for name in ("epochs", "threads") if (value := getattr(wish, name)) is not None}
    asked = {
        name: [
            _asked(AlgorithmSpec(name, settings), (manifest, pixels), repeat, wish.rounds)
            for repeat in range(wish.repeats)
        ]
        for name in wish.algorithms
    }
    machine = this_machine()
    minutes = (time.perf_counter() - started) / 60
    busy = "unknown" if load is None else f"{load[0]:.1f} to begin with"
    command = " ".join(["python benchmarks/int8.py", *sys.argv[1:]])
    page = HEAD.format(
        command=command,
        repeats=wish.repeats,
        settings=f"{wish.epochs} epochs, else" if wish.epochs else "its",
        where="" if machine.bf16 else ", on a CPU without bf16",
    )
    page += "\n## Speed\n\n" + _speed(asked) + SPEED_NOTE.format(rounds=wish.rounds)
    page += "\n## Closeness\n\n" + _closeness(asked) + CLOSENESS_NOTE
    page += "\n## Offered or not\n\n" + _offers(asked)
    page += (
        f"\nMachine: {machine.cpu}, {machine.cores} cores, {machine.engine}; {minutes:.1f} minutes. "
        f"Processes that ran or waited for a core: {busy}.\n"
    )
    print(page)
    wish.out.write_text(page, encoding="utf-8")


def _asked(spec: AlgorithmSpec, data: tuple[Manifest, Tiles], repeat: int, rounds: int) -> Asked:
    manifest, pixels = data
    slide = manifest.frame["slide_id"].to_numpy(dtype=np.str_)
    slides = np.array(sorted(set(slide.tolist()) - {""}))
    training = stream(SEED, "int8", repeat).permutation(slides)[:TRAINING_SLIDES]
    learned = np.flatnonzero(np.isin(slide, training))
    new = np.flatnonzero((slide != "") & ~np.isin(slide, training))
    label = manifest.frame["label"].to_numpy(dtype=np.str_)
    trained = build_algorithm(spec, repeat + 1).fit(np.asarray(pixels[learned]), label[learned])
    assert isinstance(trained, NetworkAlgorithm)
    column = [str(one) for one in trained.classes_].index(manifest.positive)
    known = np.asarray(pixels[learned[evenly(len(learned), RANGING_TILES)]])
    with tempfile.TemporaryDirectory(prefix="sentinode-int8-") as folder:
        ways = _ways(trained, known, Path(folder))
        tiles = np.asarray(pixels[new])
        proba = {way: _in_batches(ask, tiles)[:, column].astype(np.float64) for way, ask in ways.items()}
        rates = _rates(ways, tiles[:TIMED], rounds)
    print(f"{spec.name}, repeat {repeat}", flush=True)
    return Asked(label[new] == manifest.positive, slide[new], proba, rates)


def _ways(trained: NetworkAlgorithm, known: Tiles, folder: Path) -> dict[str, Answers]:
    graph, rounded, as_nncf = (folder / name for name in ("graph.onnx", "graph-int8.xml", "nncf.xml"))
    write_graph(trained, (SIDE, SIDE), graph)
    quantise_graph(graph, known, rounded)
    openvino, nncf = quiet_import("openvino"), quiet_import("nncf")
    plainly = nncf.quantize(
        openvino.Core().read_model(str(graph)), nncf.Dataset([one[np.newaxis] for one in known]), subset_size=len(known)
    )
    openvino.save_model(plainly, str(as_nncf), compress_to_fp16=False)
    machine = this_machine()
    cut = RuntimeChoice(machine.engine, streams=machine.cores, batch=16)
    found: dict[str, Answers] = {PLAIN: partial(_torch, trained.as_network().eval())}
    for way, file, precision in (
        (FLOAT32, graph, "float32"),
        (BF16, graph, "bf16"),
        (INT8, rounded, "int8"),
        (NNCF, as_nncf, "int8"),
    ):
        choice = RuntimeChoice(machine.engine, precision, cut.streams, cut.batch)
        if precision != "bf16" or machine.bf16:
            found[way] = GraphRecogniser(file, choice=choice).predict_proba
    return found


def _torch(network: "nn.Module", tiles: Tiles) -> NDArray[np.float32]:
    import torch  # noqa: PLC0415 - only here

    with torch.inference_mode():
        return cast("NDArray[np.float32]", network(torch.from_numpy(tiles)).numpy())


def _in_batches(ask: Answers, tiles: Tiles) -> NDArray[np.float32]:
    return np.concatenate([ask(tiles[begin : begin + BATCH]) for begin in range(0, len(tiles), BATCH)])


def _rates(ways: Mapping[str, Answers], tiles: Tiles, rounds: int) -> dict[str, list[float]]:
    # In turn, forwards and backwards: what slows the machine down slows all.
    found: dict[str, list[float]] = {way: [] for way in ways}
    for number in range(rounds):
        for way in list(ways)[:: 1 if number % 2 == 0 else -1]:
            started = time.perf_counter()
            _in_batches(ways[way], tiles)
            found[way].append(len(tiles) / (time.perf_counter() - started))
    return found


# --- the page ---------------------------------------------------------------------------------------------------

HEAD = f"""\
# int8{{where}}

Written by `{{command}}`. Real patches (PatchCamelyon, 96 px): of 19 slides {TRAINING_SLIDES} train a
network with {{settings}} default settings, and give the steps of int8 (up to {RANGING_TILES} patches); the other ten
chose nothing, and are what is asked. Draws of the slides: {{repeats}}.
*int8* is what [`train --int8`](../commands/train.md#int8) makes.
"""

SPEED_NOTE = f"""
All ways run in turn, {TIMED} patches in batches of {BATCH}, {{rounds}} rounds a draw; *rate* is the median,
a *ratio* the median over the rounds of how many times as much was done as in torch (float32) or bf16, with the
least and the greatest. All but torch are run by OpenVINO, a stream a core.
"""

CLOSENESS_NOTE = f"""
Against OpenVINO in float32. *Moved* is the change of the log odds of a tumour, over all patches of all draws; at
most {MEAN_CHANGE:g} on average and {LARGEST_CHANGE:g} for any patch are allowed. *AUC lost* is that of float32 less
this one, the mean over the draws, with the upper limit of a one-sided 95 % interval over slides; it must be below
{AUC_LOSS:g}.
NNCF by itself sets each step by the mean of what is largest in each tile, and so cuts off what is larger in half of
the tiles; we take the largest of all.
"""


def _speed(asked: Mapping[str, list[Asked]]) -> str:
    lines = ["| | way | rate | against torch | against bf16 |", "|---|---|---:|---:|---:|"]
    for name, repeats in asked.items():
        rates = {way: [rate for one in repeats for rate in one.rates[way]] for way in repeats[0].rates}
        for way, own in rates.items():
            if way == NNCF:
                continue
            against = [_ratio(own, rates[other]) if other in rates else "n/a" for other in (PLAIN, BF16)]
            lines.append(f"| {name} | {way} | {statistics.median(own):,.0f} | {' | '.join(against)} |")
    return "\n".join(lines) + "\n"


def _ratio(ours: list[float], theirs: list[float]) -> str:
    ratios = [one / other for one, other in zip(ours, theirs, strict=True)]
    return f"**{statistics.median(ratios):.2f}** ({min(ratios):.2f} to {max(ratios):.2f})"


def _closeness(asked: Mapping[str, list[Asked]]) -> str:
    lines = [
        "| | way | moved, mean | moved, most | AUC (95 %) | AUC lost | limit |",
        "|---|---|---:|---:|---|---:|---:|",
    ]
    for name, repeats in asked.items():
        for way in (way for way in repeats[0].proba if way != PLAIN):
            each = [one.closeness(way) for one in repeats]
            patches = [len(one.positive) for one in repeats]
            mean = np.average([one.mean_change for one in each], weights=patches)
            most = max(one.largest_change for one in each)
            auc = _of(bootstrap_patients([one.repeat(way) for one in repeats], ["auc"]))
            lost = _of(
                bootstrap_difference(
                    [one.repeat(FLOAT32) for one in repeats], [one.repeat(way) for one in repeats], ["auc"], level=0.9
                )
            )
            row = (
                f"{mean:.3f} | {most:.3f} | {auc.mean:.4f} ({auc.low:.3f} to {auc.high:.3f}) | {lost.mean:+.5f} | "
                f"{lost.high:+.5f}"
            )
            lines.append(f"| {name} | {way} | {row} |")
    return "\n".join(lines) + "\n"


def _of(found: Mapping[Statistic, Interval]) -> Interval:
    return found[Statistic("auc", "pooled")]


def _offers(asked: Mapping[str, list[Asked]]) -> str:
    lines = [
        f"What `train --int8` would have said of each draw, from its ten slides ({FEWEST_PATIENTS} are needed).",
        "",
        "| | draw | moved, mean | moved, most | AUC lost | limit | |",
        "|---|---:|---:|---:|---:|---:|---|",
    ]
    for name, repeats in asked.items():
        for number, one in enumerate(repeats, start=1):
            found = one.closeness(INT8)
            verdict = f"refused: {found.refusal}" if found.refusal else "offered"
            lines.append(
                f"| {name} | {number} | {found.mean_change:.3f} | {found.largest_change:.3f} | {found.auc_loss:+.5f} | "
                f"{found.auc_loss_limit:+.5f} | {verdict} |"
            )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
