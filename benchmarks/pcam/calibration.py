"""Calibrate on real patches, and see what a triage of so few slides may promise.

    sentinode data import kaggle-pcam ../shared/data/pcam --out build/pcam/manifest.csv
    python benchmarks/pcam/calibration.py [repeats]

On the frozen splits by slide: the test slides are those of the split; six of the other slides calibrate (those that
would have stopped the training, and some more), the rest trains. Every patch is asked in each repeat that tests its
slide. Writes docs/results/calibration.md and its figure. Nothing is chosen by the result.
"""

import sys
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sentinode.algorithms.registry import AlgorithmSpec, build_algorithm
from sentinode.data.manifest import Manifest, read_manifest
from sentinode.data.patches import cache_patches
from sentinode.data.splits import Split, read_splits
from sentinode.evaluation.calibration import choose_calibration, measure_calibration, reliability
from sentinode.evaluation.triage import ALPHAS, KINDS, OperatingPoint, Promise, TriageCases, certify, operating_point
from sentinode.report import figures
from sentinode.seeds import stream

ROOT = Path(__file__).parents[2]
SPLITS = Path(__file__).parent / "splits" / "patients.json"
PAGE = ROOT / "docs" / "results" / "calibration.md"
ALGORITHMS = ("imagenet-cnn", "paper-cnn", "kernel-svm", "naive-bayes")
DRAWN = ("imagenet-cnn", "paper-cnn")  # more curves cannot be told apart
CALIBRATING = 6  # slides
KEPT = (0.90, 0.95, 0.98, 0.99)  # shares of the tumour patches that are not called clear
PREVALENCE = 0.2


class Asked(NamedTuple):
    """What one algorithm said about the test patches, over all repeats.

    Attributes
    ----------
    rows : (n,) int64
        Positions in the manifest; a patch is there once a repeat that tests its slide.
    raw, calibrated : (n,) float64
        Probability of a tumour.
    methods : dict of str to int
        How often each calibration was chosen.
    seconds : float
        Of all trainings.
    """

    rows: NDArray[np.int64]
    raw: NDArray[np.float64]
    calibrated: NDArray[np.float64]
    methods: dict[str, int]
    seconds: float


def ask(name: str, manifest: Manifest, pixels: NDArray[np.uint8], splits: tuple[Split, ...]) -> Asked:
    """Train, calibrate and ask in every repeat."""
    labels = manifest.frame["label"].to_numpy(dtype=np.str_)
    rows, raw, calibrated, methods = [], [], [], []
    started = time.perf_counter()
    for split in splits:
        train, calibrate = parts(manifest, split)
        algorithm = build_algorithm(AlgorithmSpec(name, {}), split.repeat).fit(pixels[train], labels[train])
        columns = [list(algorithm.classes_).index(one) for one in manifest.classes]
        held_out = algorithm.predict_proba(pixels[calibrate])[:, columns]
        chosen = choose_calibration(manifest.codes[calibrate], held_out, manifest.groups[calibrate])
        tested = algorithm.predict_proba(pixels[split.test])[:, columns]
        rows.append(split.test)
        raw.append(tested[:, -1])
        calibrated.append(chosen.calibration.apply(tested)[:, -1])
        methods.append(str(chosen.calibration.method))
    return Asked(
        np.concatenate(rows),
        np.concatenate(raw).astype(np.float64),
        np.concatenate(calibrated).astype(np.float64),
        dict(Counter(methods)),
        time.perf_counter() - started,
    )


def parts(manifest: Manifest, split: Split) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Divide what is not tested: the slides that would stop a training calibrate, and some that would train."""
    stop = np.unique(manifest.groups[split.stop])
    train = stream(1, "calibrating slides", split.repeat).permutation(np.unique(manifest.groups[split.train]))
    chosen = np.concatenate([stop, train[: CALIBRATING - len(stop)]])
    rest = np.concatenate([split.train, split.stop])
    inside = np.isin(manifest.groups[rest], chosen)
    return np.sort(rest[~inside]), np.sort(rest[inside])


def once(asked: Asked, score: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Average what was said of each patch over the repeats that tested it."""
    rows, place = np.unique(asked.rows, return_inverse=True)
    return rows, np.bincount(place, score) / np.bincount(place)


def empirical(cases: TriageCases, kept: float) -> OperatingPoint:
    """Measure at the threshold that keeps such a share of the tumour patches of these very cases: a description."""
    tumour = np.sort(cases.score[cases.positive])
    below = float(tumour[int(np.floor((1 - kept) * len(tumour)))])
    # Not a promise: only its threshold is used.
    return operating_point(cases, Promise("average", "patches", 0.5, None, below, 0, 0), PREVALENCE)


def main(n_repeats: int) -> None:
    """Ask, measure, and write the page."""
    manifest = read_manifest(ROOT / "build" / "pcam" / "manifest.csv")
    pixels = cache_patches(manifest, ROOT / "build" / "pcam" / "cache")
    _, splits = read_splits(SPLITS, manifest)
    positive = manifest.codes == len(manifest.classes) - 1
    errors, trade, promised, diagrams, facts = [], [], [], {}, []
    for name in ALGORITHMS:
        asked = ask(name, manifest, pixels, splits[:n_repeats])
        owner = manifest.groups[asked.rows]
        facts.append(f"{name}: {', '.join(f'{way} in {n}' for way, n in asked.methods.items())}")
        for way, score in (("before", asked.raw), ("after", asked.calibrated)):
            found = measure_calibration(positive[asked.rows], score, owner)
            cells = (f"{found[one].value:.3f} ({found[one].low:.3f} to {found[one].high:.3f})" for one in MEASURED)
            errors.append(f"| {name} | {way} | {' | '.join(cells)} |")
            print(errors[-1])
            if name in DRAWN:
                diagrams[f"{name}, {way}"] = reliability(positive[asked.rows], score, owner)
        rows, mean = once(asked, asked.calibrated)
        groups = manifest.groups[rows]
        cases = TriageCases(mean, positive[rows], groups, np.full(len(rows), ""), "patches")
        for kept in KEPT:
            point = empirical(cases, kept)
            trade.append(
                f"| {name} | {kept:.0%} | {point.promise.threshold:.3f} "
                f"| {_percent(1 - point.cleared_tumour.value)} "
                f"({_percent(1 - point.cleared_tumour.high)} to {_percent(1 - point.cleared_tumour.low)}) "
                f"| {_percent(point.workload.value)} "
                f"({_percent(point.workload.low)} to {_percent(point.workload.high)}) "
                f"| {point.n_missed} of {point.n_patients} |"
            )
            print(trade[-1])
        if not promised:
            promised = [_promise_row(certify(cases, kind, alpha=alpha)) for alpha in ALPHAS for kind in KINDS]
            counts = (
                len(rows),
                len(np.unique(groups)),
                len(np.unique(groups[positive[rows]])),
                int(positive[rows].sum()),
            )
        print(f"{name}: {asked.seconds:.0f} s")
    figure = PAGE.with_name("calibration.svg")
    figure.write_text(figures.to_svg(figures.reliability_diagram(diagrams)) + "\n", encoding="utf-8", newline="\n")
    text = PAGE_TEXT.format(
        repeats=n_repeats,
        n=counts[0],
        slides=counts[1],
        ill=counts[2],
        tumour=counts[3],
        calibrating=CALIBRATING,
        methods="; ".join(facts),
        errors="\n".join(errors),
        trade="\n".join(trade),
        promised="\n".join(promised),
        prevalence=f"{100 * PREVALENCE:.0f} %",
    )
    PAGE.write_text(text, encoding="utf-8", newline="\n")
    print(f"wrote {PAGE}")


def _promise_row(promise: Promise) -> str:
    clears = f"below {promise.threshold:.3f}" if promise.clears else "clears nothing"
    missing = max(0, promise.n_needed - promise.n_patients)
    return (
        f"| {100 * promise.alpha:g} % | {promise.kind} | {promise.n_needed:,} | {promise.n_patients} | {missing:,} "
        f"| {clears} | {_percent(promise.smallest_alpha)} |"
    )


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


MEASURED = ("ece", "rms_corrected", "reliability", "brier")

PAGE_TEXT = """# Calibration and triage on real patches

{n} patches of {slides} slides of lymph nodes (PatchCamelyon; one slide a patient; {tumour} patches with a
tumour, of {ill} slides), on the first {repeats} of the frozen splits by slide. In each, {calibrating} slides
that are not tested calibrate, and the rest trains: about eight slides. Defaults of the algorithms. Written by
`python benchmarks/pcam/calibration.py`.

## Do the probabilities come true?

All test patches of all repeats; intervals over slides, 95 %.

| | | ECE | corrected, root of the square | reliability | Brier score |
|---|---|---|---|---|---|
{errors}

Chosen calibration, in so many repeats: {methods}.

![What was said against what came true, before and after](calibration.svg)

Six slides draw a rough curve, and five are tested at a time: read the intervals, not the values.

## Workload against sensitivity, of patches

**A description, and no guarantee**: the thresholds were set on the very patches that they are measured on. Each
patch has the mean of its calibrated probabilities over the repeats that tested its slide. Intervals over
slides, the threshold held fixed. Prevalence stated: {prevalence} of the patches.

| | tumour patches to keep | clear below | tumour patches kept | workload saved \
| slides of which any tumour patch is called clear |
|---|---|---|---|---|---|
{trade}

## What may be promised

{ill} slides with a tumour, each a patient. A promise about patches: that of the patients with a tumour, at most
alpha have *any* of their tumour patches called clear. It is none about slides, and is made here to show what is
missing; the same slides chose nothing else, but a laboratory would certify one model, and not the mean of
several.

| alpha | promise | patients with a tumour needed | seen | missing | | least alpha that {ill} could promise |
|---|---|---|---|---|---|---|
{promised}
"""


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
