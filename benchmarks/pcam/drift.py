"""See which changes of real patches `sentinode drift` notices, with as few slides as there are.

    sentinode data import kaggle-pcam ../shared/data/pcam --out build/pcam/manifest.csv
    python benchmarks/pcam/drift.py

Half of the slides are known, the others are new, in 40 random halves and orders. The new ones are changed by
arithmetic: these are no other scanners. Then the slides of each of the two clusters of stain (stain_shift.py) are new
to a model of the other. Writes docs/results/drift.md. Nothing is chosen by the result.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from sentinode.algorithms.descriptors import stain_statistics
from sentinode.data.manifest import read_manifest
from sentinode.data.patches import PatchSource, cache_patches
from sentinode.evaluation.drift import drift_test, joined
from sentinode.evaluation.typicality import fit_neighbourhood, fit_typicality
from sentinode.seeds import stream
from sentinode.slides.appearance import appearance
from stain_shift import clusters

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "results" / "drift.md"
REPEATS, ALARM = 40, 0.01
Floats = NDArray[np.float64]


class Looks(NamedTuple):
    """What patches look like: amounts of stain, and structure and colours."""

    stain: NDArray[np.float32]
    appearance: NDArray[np.float32]


CHANGES: dict[str, Callable[[Floats], Floats]] = {  # of intensities from 0 to 1, (n, h, w, 3)
    "nothing": lambda pixels: pixels,
    "a quarter more stain (optical density x 1.25)": lambda pixels: pixels**1.25,
    "60 % more stain": lambda pixels: pixels**1.6,
    "twice the stain": lambda pixels: pixels**2.0,
    "40 % less stain": lambda pixels: pixels**0.6,
    "bluer (red x 1.5, blue x 0.7 in density)": lambda pixels: pixels ** np.array([1.5, 1.0, 0.7]),
    "red, green and blue in another order": lambda pixels: pixels[..., [2, 0, 1]],
    "a little out of focus (Gaussian, 0.7 px)": lambda pixels: ndimage.gaussian_filter(pixels, (0, 0.7, 0.7, 0)),
    "out of focus (Gaussian, 1.5 px)": lambda pixels: ndimage.gaussian_filter(pixels, (0, 1.5, 1.5, 0)),
}


def main() -> None:
    """Measure, and write the page."""
    manifest = read_manifest(ROOT / "build" / "pcam" / "manifest.csv")
    which = clusters(manifest, cache_patches(manifest, ROOT / "build" / "pcam" / "cache"))
    manifest = manifest.select(np.flatnonzero(manifest.groups != ""))
    source, owner = PatchSource(manifest), manifest.groups
    parts = np.array_split(np.arange(len(manifest)), max(1, len(manifest) // 64))
    looks = {name: _together([_looks(source[part], change) for part in parts]) for name, change in CHANGES.items()}
    slides = np.unique(owner)
    known = len(slides) // 2
    halves = [stream(repeat, "halves").permutation(slides) for repeat in range(REPEATS)]
    plain = looks["nothing"]
    changed = [
        _row(name, plain, one, owner, [(order[:known], order[known:]) for order in halves])
        for name, one in looks.items()
    ]
    shifts = []
    for cluster, name in enumerate("AB"):
        mine = np.array([one for one in slides if which[one] == cluster])
        others = np.array([one for one in slides if which[one] != cluster])
        orders = [(mine, stream(repeat, "clusters").permutation(others)) for repeat in range(REPEATS)]
        row = f"{len(mine)} slides of {name} known, {len(others)} of {'BA'[cluster]} new"
        shifts.append(_row(row, plain, plain, owner, orders))
        half = len(mine) // 2
        orders = [
            (order[:half], order[half:])
            for order in (stream(repeat, "within", name).permutation(mine) for repeat in range(REPEATS))
        ]
        shifts.append(
            _row(f"{half} slides of {name} known, the other {len(mine) - half} new", plain, plain, owner, orders)
        )
    PAGE.write_text(TEXT.format(
        n=len(manifest), slides=len(slides), known=known, new=len(slides) - known, repeats=REPEATS, alarm=ALARM,
        rows="\n".join(changed), shifts="\n".join(shifts),
    ), encoding="utf-8", newline="\n")  # fmt: skip


def _row(name: str, plain: Looks, changed: Looks, owner: NDArray[np.str_], splits: list[tuple[Floats, Floats]]) -> str:
    # Alarms by each statistic alone and by both, and how many slides both took.
    alarmed: list[list[int | None]] = []
    for repeat, (train, new) in enumerate(splits):
        mine = np.isin(owner, train)
        stain = fit_typicality(plain.stain[mine], owner[mine])
        everything = fit_neighbourhood(plain.appearance[mine], owner[mine])
        tests = [
            drift_test(known, [float(np.median(fit.distance(of[owner == one]))) for one in new], ALARM, repeat)
            for fit, known, of in (
                (stain, stain.held_out, changed.stain),
                (everything, everything.medians, changed.appearance),
            )
        ]
        alarmed.append([one.alarmed_at for one in (*tests, joined(tests))])
    counts = [f"{sum(one is not None for one in column)} of {len(splits)}" for column in zip(*alarmed, strict=True)]
    took = [both for *_, both in alarmed if both is not None]
    row = f"| {name} | {' | '.join(counts)} | {f'{np.median(took):g}' if took else ''} |"
    print(row, flush=True)
    return row


def _looks(pixels: NDArray[np.uint8], change: Callable[[Floats], Floats]) -> Looks:
    changed = (change(pixels / 255.0) * 255).round().astype(np.uint8)
    return Looks(stain_statistics(changed), appearance(changed))


def _together(parts: list[Looks]) -> Looks:
    return Looks(*(np.concatenate(one) for one in zip(*parts, strict=True)))


TEXT = """# Drift, on real patches

{n} patches of {slides} slides of lymph nodes (PatchCamelyon). {known} slides are known, the other {new} are new and
come one after the other, in {repeats} random halves and orders; the halves share slides, so that the rows say less than
{repeats} independent ones would. The new ones are changed by arithmetic: these are no other scanners.
[`sentinode drift`](../commands/drift.md) with `--alarm {alarm}`: by amounts of stain alone, by structure and colours
alone, and by both, which is what it does. Written by `python benchmarks/pcam/drift.py`.

| changed in the new slides | alarms by stain | by structure and colours | by both | slides until then, median |
|---|---:|---:|---:|---:|
{rows}

The same slides fall into two clusters by the colours of their stains ([how](seeing-better.md)), two scanners by
their look. The new slides come in {repeats} random orders; nothing is changed in them.

| known and new | alarms by stain | by structure and colours | by both | slides until then, median |
|---|---:|---:|---:|---:|
{shifts}

A change is seen where it is large beside what slides differ by anyway, and where there are slides enough. Between
the clusters nothing is seen: each slide of B, as this set has them, holds patches of both looks
([seeing better](seeing-better.md)), so that to a model of either the slides of the other are nothing new. Whether two
real scanners are told apart, these patches cannot show.
"""

if __name__ == "__main__":
    main()
