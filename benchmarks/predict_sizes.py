"""What `predict` costs against the size of a slide, and the most memory that it takes.

    python benchmarks/predict_sizes.py                       # 5,000 to 100,000 px a side; a quarter of an hour
    python benchmarks/predict_sizes.py --sides 5000 10000    # others
    python benchmarks/predict_sizes.py --write               # the page, too

Slides of 0.25 um a pixel, a quarter of each covered by discs of tissue that a pathologist would not believe: one drawn
field of tissue, repeated. Recognised by the founding network (one epoch, it knows nothing) in tiles of 96 px at 1 um,
by the command as a user calls it, overlay, page and exports included. Seconds are those of the cores (user and system),
which a busy machine lengthens less than the clock's; memory is the peak of the resident set of the whole process.

The law is ``seconds = fixed + a * tiles^b``, fitted to all slides.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, optimize

from sentinode.geometry import Box, Size
from sentinode.models.runtime import this_machine
from sentinode.phantom.slides import draw_slide, write_slide
from sentinode.slides.pyramid import write_pyramid
from sentinode.slides.slide import open_slide
from sentinode.workflows.phantom_slides import plan_slides
from sentinode.workflows.phantoms import draw_phantom_patches
from sentinode.workflows.training import TrainingWish, train_model

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "results" / "predict-sizes.md"
SIDES = (5_000, 10_000, 20_000, 40_000, 80_000, 100_000)
HOW = (
    "Written by `python benchmarks/predict_sizes.py --write`. Synthetic slides of 0.25 um a pixel, a quarter of "
    "each tissue; `sentinode predict` with the founding network, tiles of 96 px at 1 um, with overlay, page, exports."
)
WHY = "On the smallest slides the overview and the page are smaller, too, so that the law is none of tissue alone."
BUSY = "what else ran on it lengthens the seconds of the clock."
FEW_PX = 3_000
"""Side of the slide whose seconds are the fixed ones."""

FIELD_PX = 2048  # at 0.25 um
SHARE = 0.25
MPP = 0.25


class Discs:
    """One field of tissue, repeated inside four discs that cover a quarter of the canvas."""

    blank = (243, 242, 244)

    def __init__(self, side: int, field: NDArray[np.uint8]) -> None:
        self.size = Size(side, side)
        self.field = field
        self.radius = side * np.sqrt(SHARE / 4 / np.pi)
        self.centres = side * np.array([(0.27, 0.27), (0.73, 0.27), (0.27, 0.73), (0.73, 0.73)])

    def is_blank(self, box: Box) -> bool:
        """Say whether a tile lies outside of all discs."""
        nearest = np.clip(self.centres, (box.x, box.y), (box.right, box.bottom))
        return bool((np.linalg.norm(nearest - self.centres, axis=1) > self.radius).all())

    def read(self, box: Box) -> NDArray[np.uint8]:
        """Give a part: tissue up to the edge of the disc."""
        high, wide = self.field.shape[:2]
        rows, columns = np.arange(box.y, box.bottom), np.arange(box.x, box.right)
        pixels = self.field[np.ix_(rows % high, columns % wide)]
        away = np.min([np.hypot(columns[None] - x, rows[:, None] - y) for x, y in self.centres], axis=0)
        return np.where((away <= self.radius)[..., None], pixels, np.uint8(self.blank)).astype(np.uint8)


def main(sides: list[int], *, write: bool) -> int:
    """Draw, recognise, measure; 1 if a process took more than 1.5 GB."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        field, model = drawn_field(folder / "drawn", MPP), untaught_model(folder, "paper-cnn")
        rows = [_measured(side, field, model, folder) for side in (FEW_PX, FEW_PX, *sides)]
        rows = rows[1:]  # the first call also chooses the runtime for this machine
    text = _page(rows[0], rows[1:])
    print(text)
    if write:
        PAGE.write_text(text, encoding="utf-8")
    return int(max(row["MB"] for row in rows) > 1500)


def drawn_field(folder: Path, mpp: float) -> NDArray[np.uint8]:
    """Draw a node without ink, folds and blur, and read half a millimetre of it where it is densest."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "node.tif"
    write_slide(draw_slide(replace(plan_slides(patients=1, sites=1, preset="40x", seed=1)[0], artefacts=())), path)
    with open_slide(path) as slide:
        overview, size = slide.thumbnail(512), slide.info.size
        step = size.width / overview.shape[1]
        light = ndimage.uniform_filter(overview.mean(axis=2), FIELD_PX / step, mode="constant", cval=255)
        row, column = np.unravel_index(light.argmin(), light.shape)
        x, y = (int(place * step) - FIELD_PX // 2 for place in (column, row))
        return slide.read(Box(max(x, 0), max(y, 0), FIELD_PX, FIELD_PX), mpp)


def untaught_model(folder: Path, algorithm: str) -> Path:
    """Train a model for an epoch on drawn patches: the time does not depend on what was learned."""
    manifest = draw_phantom_patches(folder / f"patches-{algorithm}", patients=6, patches=8)
    wish = TrainingWish(algorithm, {"epochs": 1}, mpp=1.0)
    return train_model(manifest, folder / f"model-{algorithm}", wish).folder


def _measured(side: int, field: NDArray[np.uint8], model: Path, folder: Path) -> dict[str, float]:
    path, out = folder / f"{side}.tif", folder / f"out-{side}"
    shutil.rmtree(out, ignore_errors=True)  # what is finished would not be done again
    write_pyramid(path, Discs(side, field), MPP, "drawn")
    command = [
        str(Path(sys.executable).parent / "sentinode"),
        "predict",
        str(path),
        "--model",
        str(model),
        "--out",
        str(out),
    ]
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    peak = 0
    while True:
        # Not ru_maxrss: that of a child begins with what its parent had.
        peak = max(peak, _resident_peak(process.pid))
        ended, status, used = os.wait4(process.pid, os.WNOHANG)
        if ended:
            break
        time.sleep(0.02)
    wall = time.perf_counter() - started
    if status:
        raise SystemExit(f"{' '.join(command)} ended with {os.waitstatus_to_exitcode(status)}")
    result = json.loads((out / str(side) / "result.json").read_text())
    row = {
        "side": side,
        "GB": path.stat().st_size / 1e9,
        "tiles": result["tiles"],
        "seconds": used.ru_utime + used.ru_stime,
        "wall": wall,
        "MB": peak / 1e6,
    }
    path.unlink()
    print(json.dumps(row), flush=True)
    return row


def _law(tiles: NDArray[np.float64], seconds: NDArray[np.float64]) -> tuple[float, float, float]:
    # seconds = fixed + each * tiles^exponent; with fewer than four slides, linear.
    free = len(tiles) > 3

    def residuals(law: NDArray[np.float64]) -> NDArray[np.float64]:
        expected = law[0] + law[1] * tiles ** (law[2] if free else 1.0)
        return np.asarray(expected / seconds - 1)

    start = [seconds.min(), (seconds[-1] - seconds[0]) / max(tiles[-1] - tiles[0], 1), 1.0]
    law = optimize.least_squares(residuals, start, bounds=([0, 0, 0.2], [np.inf, np.inf, 3])).x
    return float(law[0]), float(law[1]), float(law[2]) if free else 1.0


def _resident_peak(pid: int) -> int:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return next((1024 * int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")), 0)


def _page(few: dict[str, float], rows: list[dict[str, float]]) -> str:
    tiles, seconds = (np.array([row[key] for row in (few, *rows)], dtype=float) for key in ("tiles", "seconds"))
    fixed, each, exponent = _law(tiles, seconds)
    lines = [
        "# Cost and memory against the size of a slide",
        "",
        HOW,
        "",
        "| px a side | tiles of tissue | CPU seconds | seconds | tiles a second | peak memory, MB |",
        "|---:|---:|---:|---:|---:|---:|",
        *(
            f"| {row['side']:,} | {row['tiles']:,} | {row['seconds']:.1f} | {row['wall']:.1f} | "
            f"{row['tiles'] / row['wall']:.0f} | {row['MB']:,.0f} |"
            for row in (few, *rows)
        ),
        "",
        f"Least squares of the relative error: {fixed:.1f} CPU seconds, and {each:.2g} a tile^**{exponent:.2f}**.",
        "",
        f"Between the two largest: {1000 * np.diff(seconds)[-1] / np.diff(tiles)[-1]:.1f} ms of CPU a tile. {WHY}",
        "",
        f"Most memory: **{max(row['MB'] for row in rows):,.0f} MB**.",
        "",
        f"Machine: {this_machine().cpu}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the end; {BUSY}",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sides", type=int, nargs="+", default=list(SIDES))
    parser.add_argument("--write", action="store_true")
    wish = parser.parse_args()
    raise SystemExit(main(wish.sides, write=wish.write))
