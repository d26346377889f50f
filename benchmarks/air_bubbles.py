"""How well bubbles of air are found on synthetic slides, by how dark their rim is; and what is taken for one elsewhere.

    python benchmarks/air_bubbles.py [../shared/data/slides]       # some minutes

With the folder, the real slides in it are looked at as well: none of them has a bubble.
"""

import sys
from pathlib import Path
from unittest import mock

import numpy as np

from sentinode.errors import SlideError
from sentinode.geometry import Box, Raster, Size
from sentinode.phantom import artefacts
from sentinode.phantom.plans import LesionWish, SlidePlan
from sentinode.phantom.slides import PhantomSlide, draw_slide
from sentinode.slides.quality import IN_AIR
from sentinode.slides.slide import open_slide
from sentinode.slides.tissue import Survey, survey, survey_thumbnail

SLIDES, STEP = 12, 12  # of each kind; level-0 pixels (1 um) of a thumbnail's pixel
SIZE, SECTION_UM = Size(2400, 2100), 1500.0
RIMS = (1.3, 0.5, 0.3)  # optical density; what is drawn without being asked has the first
OTHERS = ("pen-blue", "pen-green", "pen-black", "pen-red", "blur", "fold")


def main(real: Path | None) -> None:
    """Print a Markdown table, and what was found on real slides."""
    print("| slides | bubbles found | IoU, median | tiles in the bubble left out | tiles outside |")
    print("|---|---:|---:|---:|---:|")
    for density in RIMS:
        with mock.patch.object(artefacts, "_RIM_DENSITY", np.float32(density)):
            rows = [_measured(_drawn(number, ("bubble",))) for number in range(SLIDES)]
        iou, inside, outside = np.array(rows).T
        name = f"rim of density {density:g}"
        found = f"{int((iou > 0.5).sum())} of {SLIDES}"
        print(f"| {name} | {found} | {np.median(iou):.2f} | {np.nanmean(inside):.1%} | {np.nanmean(outside):.2%} |")
    clean = [_surveyed(_drawn(number, OTHERS[number % 6 :][:3])) for number in range(SLIDES)]
    n = sum(bool(one.air.pixels.any()) for one in clean)
    print(f"| no bubble; pens, folds, blur | taken for one: {n} of {SLIDES} | | | |")
    for path in sorted(real.iterdir()) if real else ():
        try:
            with open_slide(path) as slide:
                seen = survey(slide)
        except SlideError:
            continue
        print(
            f"{path.name}: {seen.air.pixels.mean():.2%} of it taken for air, {seen.tissue.pixels.mean():.0%} is tissue"
        )


def _drawn(number: int, spoilt: tuple[str, ...]) -> PhantomSlide:
    lesions = (LesionWish(400.0),) if number % 2 else ()
    return draw_slide(
        SlidePlan(
            "air",
            seed=100 + number,
            site=number % 3,
            lesions=lesions,
            artefacts=spoilt,
            size=SIZE,
            section_um=SECTION_UM,
        )
    )


def _surveyed(phantom: PhantomSlide) -> Survey:
    height, width = (side // STEP for side in phantom.size.shape)
    pixels = phantom.read(Box(0, 0, width * STEP, height * STEP))
    thumbnail = pixels.reshape(height, STEP, width, STEP, 3).mean(axis=(1, 3)).round().astype(np.uint8)
    return survey_thumbnail(thumbnail, Raster(Size(width * STEP, height * STEP), Size(width, height)), mpp=1.0)


def _measured(phantom: PhantomSlide) -> tuple[float, float, float]:
    # IoU on the thumbnail, and the share of the tiles left out that lie wholly in the bubble, and wholly outside.
    seen = _surveyed(phantom)
    height, width = seen.air.pixels.shape
    truth = phantom.truth_mask(Box(0, 0, width * STEP, height * STEP), STEP) == 6
    iou = float((seen.air.pixels & truth).sum() / (seen.air.pixels | truth).sum())
    boxes = _boxes(phantom, seen)
    inside = np.array([
        truth[y // STEP : -(-(y + h) // STEP), x // STEP : -(-(x + w) // STEP)].mean() for x, y, w, h in boxes
    ])
    out = seen.air.share(boxes) >= IN_AIR
    return iou, *(float(out[where].mean()) if where.any() else float("nan") for where in (inside == 1, inside == 0))


def _boxes(phantom: PhantomSlide, seen: Survey) -> np.ndarray:
    x, y = np.meshgrid(np.arange(0, phantom.size.width - 96, 96), np.arange(0, phantom.size.height - 96, 96))
    boxes = np.stack([x.ravel(), y.ravel(), np.full(x.size, 96), np.full(x.size, 96)], axis=1)
    return boxes[seen.tissue.share(boxes) >= 0.25]


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
