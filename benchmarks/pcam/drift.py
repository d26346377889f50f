"""See which changes of real patches `sentinode drift` notices, with as few slides as there are.

    sentinode data import kaggle-pcam ../shared/data/pcam --out build/pcam/manifest.csv
    python benchmarks/pcam/drift.py

Half of the slides are known, the others are new, in 40 random halves and orders. The new ones are changed by
arithmetic: these are no other scanners. Writes docs/results/drift.md. Nothing is chosen by the result.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sentinode.algorithms.descriptors import stain_statistics
from sentinode.data.manifest import read_manifest
from sentinode.data.patches import PatchSource
from sentinode.evaluation.drift import drift_test
from sentinode.evaluation.typicality import fit_typicality
from sentinode.seeds import stream

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "results" / "drift.md"
REPEATS, ALARM = 40, 0.01
Floats = NDArray[np.float64]
CHANGES: dict[str, Callable[[Floats], Floats]] = {  # of intensities from 0 to 1
    "nothing": lambda pixels: pixels,
    "a quarter more stain (optical density x 1.25)": lambda pixels: pixels**1.25,
    "60 % more stain": lambda pixels: pixels**1.6,
    "twice the stain": lambda pixels: pixels**2.0,
    "40 % less stain": lambda pixels: pixels**0.6,
    "bluer (red x 1.5, blue x 0.7 in density)": lambda pixels: pixels ** np.array([1.5, 1.0, 0.7]),
    "red, green and blue in another order": lambda pixels: pixels[..., [2, 0, 1]],
}


def main() -> None:
    """Measure, and write the page."""
    manifest = read_manifest(ROOT / "build" / "pcam" / "manifest.csv")
    manifest = manifest.select(np.flatnonzero(manifest.groups != ""))
    source, owner = PatchSource(manifest), manifest.groups
    parts = np.array_split(np.arange(len(manifest)), max(1, len(manifest) // 64))
    colours = {
        name: np.concatenate([_colours(source[part], change) for part in parts]) for name, change in CHANGES.items()
    }
    slides = np.unique(owner)
    known = len(slides) // 2
    rows = []
    for name, changed in colours.items():
        found, away = [], []
        for repeat in range(REPEATS):
            order = stream(repeat, "halves").permutation(slides)
            train = np.isin(owner, order[:known])
            typicality = fit_typicality(colours["nothing"][train], owner[train])
            distance = [float(np.median(typicality.distance(changed[owner == one]))) for one in order[known:]]
            found.append(drift_test(typicality.held_out, distance, ALARM, repeat).alarmed_at)
            away.append(np.median(distance) / np.median(typicality.held_out))
        alarms = [one for one in found if one is not None]
        cases = f"{np.median(alarms):g}" if alarms else ""
        rows.append(f"| {name} | {np.median(away):.2f} | {len(alarms)} of {REPEATS} | {cases} |")
        print(rows[-1], flush=True)
    PAGE.write_text(TEXT.format(
        n=len(manifest), slides=len(slides), known=known, new=len(slides) - known, repeats=REPEATS, alarm=ALARM,
        rows="\n".join(rows),
    ), encoding="utf-8", newline="\n")  # fmt: skip


def _colours(pixels: NDArray[np.uint8], change: Callable[[Floats], Floats]) -> NDArray[np.float32]:
    return stain_statistics((change(pixels / 255.0) * 255).round().astype(np.uint8))


TEXT = """# Drift, on real patches

{n} patches of {slides} slides of lymph nodes (PatchCamelyon). {known} slides are known, the other {new} are new and
come one after the other, in {repeats} random halves and orders; the halves share slides, so that the rows say less than
{repeats} independent ones would. The new ones are changed by arithmetic: these are no other scanners.
[`sentinode drift`](../commands/drift.md) with `--alarm {alarm}`. Written by `python benchmarks/pcam/drift.py`.

| what was changed in the new slides | distance, as a multiple of the known ones' | alarms | slides until then, median |
|---|---:|---:|---:|
{rows}

A change is seen where it is large beside what slides differ by anyway, and where there are slides enough: {known} known
and {new} new ones seldom show a moderate one. Only amounts of haematoxylin and eosin are looked at: a change of colour
that leaves both in the usual range raises few alarms, however plain it is to the eye.
"""

if __name__ == "__main__":
    main()
