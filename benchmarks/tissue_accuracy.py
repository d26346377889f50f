"""How well the tissue mask agrees with known truth, on slides that are drawn, and how long it takes.

Run: ``python benchmarks/tissue_accuracy.py [FOLDER]``. With a folder, the masks over the slides are written there.
"""

import io
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from sentinode.geometry import Raster, Scale, Size
from sentinode.seeds import stream
from sentinode.slides.tissue import tissue_mask

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

UM = 12.0  # of a pixel of the pictures
MPP = 0.25  # of the slides that they show
HEIGHT, WIDTH = 800, 1200

HAEMATOXYLIN = np.array([0.65, 0.70, 0.29])  # Ruifrok and Johnston 2001
EOSIN = np.array([0.07, 0.99, 0.11])
DAB = np.array([0.27, 0.57, 0.78])
INKS = {  # optical density of a stroke
    "blue": np.array([1.9, 1.2, 0.3]),
    "green": np.array([1.7, 0.6, 1.1]),
    "red": np.array([0.1, 1.7, 1.5]),
    "black": np.array([2.3, 2.3, 2.2]),
}


@dataclass
class Drawing:
    """A slide in the making: density over glass, and what of it is tissue, both at 12 um a pixel."""

    density: Floats  # (h, w, 3)
    truth: Mask  # (h, w)
    seed: int

    def noise(self, what: str, sigma_um: float) -> Floats:
        """Draw smooth noise, (h, w): mean 0, standard deviation 1."""
        rng = stream(self.seed, "tissue-accuracy", what)
        field = ndimage.gaussian_filter(rng.standard_normal(self.truth.shape), sigma_um / UM)
        return np.asarray((field - field.mean()) / field.std())


@dataclass(frozen=True)
class DrawnSlide:
    """A picture of a slide with known tissue."""

    name: str
    pixels: Pixels  # (h, w, 3)
    truth: Mask  # (h, w)

    @property
    def raster(self) -> Raster:
        """Where it lies: 48 level-0 pixels each."""
        height, width = self.truth.shape
        return Raster(Size(round(width * UM / MPP), round(height * UM / MPP)), Size(width, height))


def blank(seed: int = 1) -> Drawing:
    """Begin with glass."""
    return Drawing(np.zeros((HEIGHT, WIDTH, 3)), np.zeros((HEIGHT, WIDTH), dtype=bool), seed)


def ellipse(drawing: Drawing, x: float, y: float, rx: float, ry: float) -> Mask:
    """Outline a lump of tissue with an uneven edge; places are shares of the picture."""
    v, u = np.mgrid[0:HEIGHT, 0:WIDTH]
    reach = np.hypot((u / WIDTH - x) / rx, (v / HEIGHT - y) / ry)
    outline: Mask = reach < 1 + 0.08 * drawing.noise(f"edge {x} {y}", 400) + 0.02 * drawing.noise(f"rim {x} {y}", 60)
    return outline


def add_tissue(
    drawing: Drawing, where: Mask, strength: float = 1.0, haematoxylin: float = 0.5, stain: Floats = EOSIN
) -> Drawing:
    """Stain a part: compartments of a quarter of a millimetre, and nuclei and fibres."""
    crowded = 1 / (1 + np.exp(-2 * drawing.noise("compartments", 120)))
    grain = 1 + 0.25 * drawing.noise("grain", 10)
    amount = np.clip(grain, 0.2, None)[..., None] * (
        0.9 * haematoxylin * crowded[..., None] * HAEMATOXYLIN + 0.35 * (1.2 - 0.6 * crowded[..., None]) * stain
    )
    drawing.density[where] += strength * amount[where]
    drawing.truth |= where
    return drawing


def add_fat(drawing: Drawing, where: Mask, cell_um: float = 90.0) -> Drawing:
    """Draw thin pink walls around white cells."""
    rng = stream(drawing.seed, "tissue-accuracy", "fat")
    rows, columns = np.mgrid[0 : HEIGHT * UM : cell_um * 0.87, 0 : WIDTH * UM : cell_um]
    columns = columns + (np.arange(len(columns)) % 2)[:, None] * cell_um / 2
    seeds = np.stack([rows.ravel(), columns.ravel()], axis=1) + rng.normal(0, cell_um * 0.15, (rows.size, 2))
    cells = np.zeros((HEIGHT * 3, WIDTH * 3), dtype=np.int64)  # three times as fine: walls are thin
    v, u = (seeds / UM * 3).astype(np.int64).T
    inside = (v >= 0) & (u >= 0) & (v < HEIGHT * 3) & (u < WIDTH * 3)
    cells[v[inside], u[inside]] = np.flatnonzero(inside) + 1
    nearest = ndimage.distance_transform_edt(cells == 0, return_distances=False, return_indices=True)
    cells = cells[tuple(nearest)]
    walls = ndimage.maximum_filter(cells, 3) != ndimage.minimum_filter(cells, 3)
    share = walls.reshape(HEIGHT, 3, WIDTH, 3).mean(axis=(1, 3))
    drawing.density[where] += (0.16 * share[..., None] * (0.8 * EOSIN + 0.2 * HAEMATOXYLIN))[where]
    drawing.truth |= where
    return drawing


def add_stroke(drawing: Drawing, colour: str, path: list[tuple[float, float]], width_um: float = 700.0) -> Drawing:
    """Draw with a felt pen from place to place; what lies under it is no tissue to us."""
    line = np.ones((HEIGHT, WIDTH), dtype=bool)
    for (x0, y0), (x1, y1) in pairwise(path):
        t = np.linspace(0, 1, 3000)
        line[
            ((y0 + (y1 - y0) * t) * (HEIGHT - 1)).astype(np.int64),
            ((x0 + (x1 - x0) * t) * (WIDTH - 1)).astype(np.int64),
        ] = False
    distance = ndimage.distance_transform_edt(line) * UM
    thickness = np.clip((width_um / 2 - distance) / 30, 0, 1) * (1 + 0.1 * drawing.noise("ink", 60))
    drawing.density += thickness[..., None] * INKS[colour]
    drawing.truth &= distance > width_um / 2
    return drawing


def add_dust(drawing: Drawing, n: int = 120) -> Drawing:
    """Scatter grey specks, some out of focus, and fibres."""
    rng = stream(drawing.seed, "tissue-accuracy", "dust")
    specks = np.zeros((HEIGHT, WIDTH))
    specks[rng.integers(0, HEIGHT, n), rng.integers(0, WIDTH, n)] = 1
    parts = np.array_split(np.flatnonzero(specks), 3)
    for part, sigma in zip(parts, (1.0, 3.0, 8.0), strict=True):
        layer = np.zeros(specks.size)
        layer[part] = rng.uniform(0.2, 0.8, len(part)) * 2 * np.pi * sigma**2
        drawing.density += ndimage.gaussian_filter(layer.reshape(specks.shape), sigma)[..., None]
    for _ in range(4):
        t = np.linspace(0, 1, 2000)
        x = (rng.uniform(0, 0.8) + 0.2 * t) * (WIDTH - 1)
        y = (np.clip(rng.uniform(0.1, 0.9) + 0.1 * np.sin(t * rng.uniform(2, 9)), 0, 1)) * (HEIGHT - 1)
        drawing.density[y.astype(np.int64), x.astype(np.int64)] += 0.35
    return drawing


def scanned(
    name: str,
    drawing: Drawing,
    glass: tuple[int, int, int] = (240, 240, 242),
    *,
    uneven: float = 0.0,
    black: bool = False,
    filled: bool = False,
) -> DrawnSlide:
    """Scan it: glass, uneven light, noise, black borders or white fill, JPEG."""
    v, u = np.mgrid[0:HEIGHT, 0:WIDTH]
    light = 1 + uneven * (0.7 * (u / WIDTH - 0.5) - 1.2 * ((u / WIDTH - 0.5) ** 2 + (v / HEIGHT - 0.5) ** 2))
    pixels = np.array(glass) * light[..., None] * np.exp(-drawing.density)
    pixels += stream(drawing.seed, "tissue-accuracy", "scanner").normal(0, 2.5, pixels.shape)
    truth = drawing.truth.copy()
    for on, colour in ((black, 6), (filled, 255)):
        if on:
            for part in (np.s_[:40], np.s_[:, -90:], np.s_[500:640, 300:420] if black else np.s_[-150:]):
                pixels[part] = colour
                truth[part] = False
    buffer = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=80)
    return DrawnSlide(name, np.asarray(Image.open(buffer)), truth)


def two_lumps(strength: float = 1.0, haematoxylin: float = 0.5, stain: Floats = EOSIN) -> Drawing:
    """Draw what most slides here show."""
    drawing = blank()
    both = ellipse(drawing, 0.28, 0.5, 0.16, 0.3) | ellipse(drawing, 0.68, 0.45, 0.2, 0.25)
    return add_tissue(drawing, both, strength, haematoxylin, stain)


def cores() -> Drawing:
    """Draw needle biopsies: 0.8 mm wide, 8 mm long."""
    drawing = blank()
    v, u = np.mgrid[0:HEIGHT, 0:WIDTH] * UM / 1000
    bend = 0.15 * np.sin(u)
    where = np.zeros_like(drawing.truth)
    for y in (2.5, 5.0, 7.5):
        where |= (np.abs(v - y - bend) < 0.4 + 0.05 * drawing.noise(f"core {y}", 100)) & (np.abs(u - 7) < 4)
    return add_tissue(drawing, where)


def fatty() -> Drawing:
    """Draw a node in fat."""
    drawing = blank()
    node = ellipse(drawing, 0.35, 0.5, 0.15, 0.28)
    return add_tissue(add_fat(drawing, ellipse(drawing, 0.55, 0.5, 0.35, 0.4) & ~node), node)


def marked(colour: str, *, over: bool) -> Drawing:
    """Draw with a pen around tissue, or across it."""
    across = [(0.1, 0.2), (0.5, 0.6), (0.9, 0.3)]
    around = [(0.06, 0.08), (0.94, 0.08), (0.94, 0.92), (0.06, 0.92), (0.06, 0.08)]
    return add_stroke(two_lumps(), colour, across if over else around)


def drawn_slides() -> Iterator[DrawnSlide]:
    """Draw them all, easy ones first; the last ones have no tissue."""
    yield scanned("haematoxylin and eosin", two_lumps())
    yield scanned("strongly stained", two_lumps(2.2))
    yield scanned("pale", two_lumps(0.35))
    yield scanned("eosin only, pale", two_lumps(0.35, 0.0))
    yield scanned("haematoxylin only", two_lumps(1.0, 0.6, HAEMATOXYLIN * 0.5))
    yield scanned("DAB", two_lumps(1.0, 0.3, DAB))
    yield scanned("needle cores", cores())
    yield scanned("node in fat", fatty())
    yield scanned("cream glass", two_lumps(), (244, 236, 208))
    yield scanned("cream glass, pale", two_lumps(0.35), (244, 236, 208))
    yield scanned("grey glass", two_lumps(), (196, 192, 198))
    yield scanned("uneven light", two_lumps(0.6), uneven=0.25)
    yield scanned("black borders", two_lumps(), black=True)
    yield scanned("unscanned parts white", two_lumps(), (228, 223, 229), filled=True)
    yield scanned("dust", add_dust(two_lumps()))
    for colour in INKS:
        yield scanned(f"{colour} pen around", marked(colour, over=False))
        yield scanned(f"{colour} pen across", marked(colour, over=True))
    yield scanned("empty", blank())
    yield scanned("empty, cream, uneven", blank(), (244, 236, 208), uneven=0.25)
    yield scanned("empty, dust", add_dust(blank()))
    yield scanned("empty, black borders", blank(), black=True)
    for colour in INKS:
        yield scanned(f"empty, {colour} pen", add_stroke(blank(), colour, [(0.1, 0.2), (0.9, 0.8)]))


def overlap(found: Mask, truth: Mask) -> float:
    """Intersection over union; two empty masks agree."""
    union = (found | truth).sum()
    return float((found & truth).sum() / union) if union else 1.0


def write_look(folder: Path, slide: DrawnSlide, found: Mask) -> None:
    """Write the mask over the slide: outline found yellow, outline of the truth black."""
    picture = slide.pixels.copy()
    picture[~found] = (0.7 * picture[~found] + 0.3 * np.array([0, 90, 0])).astype(np.uint8)
    for mask, colour in ((slide.truth, (0, 0, 0)), (found, (255, 220, 0))):
        picture[mask ^ ndimage.binary_erosion(mask, iterations=2)] = colour
    Image.fromarray(picture).save(folder / f"{slide.name.replace(', ', '-').replace(' ', '-')}.png")


def seconds_of(n_pixels: tuple[int, int]) -> float:
    """CPU seconds for a thumbnail of a size (h, w)."""
    slide = scanned("", fatty())
    pixels = np.asarray(Image.fromarray(slide.pixels).resize(n_pixels[::-1]))
    begin = time.process_time()
    tissue_mask(pixels, Raster(slide.raster.slide, Size(n_pixels[1], n_pixels[0])), mpp=MPP)
    return time.process_time() - begin


def main(folder: Path | None) -> None:
    """Print the table of docs/tissue.md."""
    print("| slide | IoU | found, mm2 | truth, mm2 |\n|---|---|---|---|")
    for slide in drawn_slides():
        found = tissue_mask(slide.pixels, slide.raster, mpp=MPP)
        truth = slide.truth.sum() * UM**2 / 1e6
        iou = f"{overlap(found.pixels, slide.truth):.3f}" if truth else ("empty" if not found.pixels.any() else "0")
        print(f"| {slide.name} | {iou} | {found.area_mm2(Scale(MPP)):.1f} | {truth:.1f} |")
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            write_look(folder, slide, found.pixels)
    for size in ((800, 1200), (1600, 2400), (2667, 4000)):
        print(f"{size[1]} x {size[0]} px: {seconds_of(size):.1f} CPU seconds")
    print("slides of sentinode.phantom.slides are not measured here yet")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
