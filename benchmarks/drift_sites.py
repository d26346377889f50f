"""Whether `sentinode drift` notices another laboratory: synthetic slides of three, each with its stain and scanner.

    python benchmarks/drift_sites.py FOLDER            # some minutes; what is drawn is kept there
    python benchmarks/drift_sites.py FOLDER --write    # the page, too

Patients of one laboratory are known; new ones come from the same or from another. In 40 random choices and orders.
"""

import argparse
import csv
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sentinode.algorithms.descriptors import stain_statistics
from sentinode.evaluation.drift import drift_test, joined
from sentinode.evaluation.typicality import evenly, fit_neighbourhood, fit_typicality
from sentinode.geometry import Box, Size
from sentinode.seeds import stream
from sentinode.slides.appearance import appearance
from sentinode.slides.bright_field import RULES
from sentinode.slides.quality import IN_AIR
from sentinode.slides.slide import open_slide
from sentinode.slides.tiling import tile_grid
from sentinode.slides.tissue import survey
from sentinode.workflows.drifting import LOOKED_AT
from sentinode.workflows.phantom_slides import write_phantom_slides
from sentinode.workflows.refusing import Gate

PAGE = Path(__file__).parents[1] / "docs" / "results" / "drift-sites.md"
PATIENTS, SITES, SEED = 60, 3, 5
KNOWN, NEW = 12, 8
SIDE, MPP = 96, 1.0
REPEATS, ALARM = 40, 0.01
JUDGE = Gate(RULES, None, None).judge(MPP)


class Looks(NamedTuple):
    """Of the tiles of a slide: amounts of stain, and structure and colours."""

    stain: NDArray[np.float32]
    appearance: NDArray[np.float32]


def main(folder: Path, *, write: bool) -> None:
    """Draw, measure, print a page."""
    table = write_phantom_slides(folder / "cohort", patients=PATIENTS, sites=SITES, seed=SEED)
    with table.open(encoding="utf-8", newline="") as file:
        drawn = list(csv.DictReader(file))
    looks = {one["slide_id"]: _look(folder / "cohort" / "slides" / f"{one['slide_id']}.tif") for one in drawn}
    sites = sorted({one["site"] for one in drawn})
    slides = {site: np.array([one["slide_id"] for one in drawn if one["site"] == site]) for site in sites}
    rows = [_row(slides[here], slides[there], (here, there), looks) for here in sites for there in sites]
    text = TEXT.format(
        patients=PATIENTS,
        sites=SITES,
        seed=SEED,
        known=KNOWN,
        new=NEW,
        repeats=REPEATS,
        alarm=ALARM,
        rows="\n".join(rows),
    )
    print(text)
    if write:
        PAGE.write_text(text, encoding="utf-8", newline="\n")


def _look(path: Path) -> Looks:
    with open_slide(path) as slide:
        seen = survey(slide)
        boxes = tile_grid(slide.info, seen.tissue, tile_px=SIDE, mpp=MPP).boxes
        boxes = boxes[seen.air.share(boxes) < IN_AIR]
        some = boxes[evenly(len(boxes), LOOKED_AT)]
        tiles = np.stack([slide.read_pixels(Box(*box), Size(SIDE, SIDE)) for box in some.tolist()])
    fit = tiles[JUDGE(tiles) == ""]
    return Looks(stain_statistics(fit), appearance(fit))


def _row(mine: NDArray[np.str_], others: NDArray[np.str_], names: tuple[str, str], looks: dict[str, Looks]) -> str:
    alarmed: list[list[int | None]] = []
    for repeat in range(REPEATS):
        order = stream(repeat, "known", names[0]).permutation(mine)
        train = order[:KNOWN]
        left = order[KNOWN:] if names[0] == names[1] else stream(repeat, "new", names[1]).permutation(others)
        alarmed.append(_alarms(train, left[:NEW], looks, repeat))
    counts = [f"{sum(one is not None for one in column)} of {REPEATS}" for column in zip(*alarmed, strict=True)]
    took = [both for *_, both in alarmed if both is not None]
    return f"| {names[0]} | {names[1]} | {' | '.join(counts)} | {f'{np.median(took):g}' if took else ''} |"


def _alarms(train: NDArray[np.str_], new: NDArray[np.str_], looks: dict[str, Looks], repeat: int) -> list[int | None]:
    owner = np.concatenate([np.full(len(looks[one].stain), one) for one in train])
    tests = []
    for name, fit in (("stain", fit_typicality), ("appearance", fit_neighbourhood)):
        known = fit(np.concatenate([getattr(looks[one], name) for one in train]), owner)
        held_out = known.held_out if name == "stain" else known.medians
        distance = [float(np.median(known.distance(getattr(looks[one], name)))) for one in new]
        tests.append(drift_test(held_out, distance, ALARM, repeat))
    return [one.alarmed_at for one in (*tests, joined(tests))]


TEXT = """# Drift, between synthetic laboratories

{patients} synthetic slides of {sites} laboratories, each with a stain and a scanner of its own (`sentinode phantom`,
seed {seed}), a slide a patient. {known} patients of one are known; {new} new ones of the same or of another come one
after the other, in {repeats} random choices and orders, which share slides.
[`sentinode drift`](../commands/drift.md) with `--alarm {alarm}`: by amounts of stain alone, by structure and colours
alone, and by both, which is what it does. Written by `python benchmarks/drift_sites.py FOLDER --write`.

| known | new | alarms by stain | by structure and colours | by both | slides until then, median |
|---|---|---:|---:|---:|---:|
{rows}

Drawn laboratories differ in what the drawing knows: colours of the stains, sharpness, noise. Where known and new are of
one laboratory, every alarm is a false one.
"""

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--write", action="store_true")
    wish = parser.parse_args()
    main(wish.folder, write=wish.write)
