"""Draw the pictures of the documentation, from the real code: run before the pages are built.

    python docs/pictures.py

Writes ``docs/pictures/``, which is not kept in the repository. The study behind ``accuracy.svg`` is a small one
(synthetic patches, algorithms that need no network), and so are the slides behind the other pictures (one small
node each, the network of the demo): together they take about a minute on two cores.
"""

import csv
import io
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import shapely
import tifffile
from PIL import Image, ImageDraw

from sentinode.inference.predictions import TilePredictions, read_predictions
from sentinode.inference.summary import suspicious_fields
from sentinode.models.bundle import Bundle
from sentinode.phantom.cohort import CohortPlan, draw_cohort
from sentinode.report.heatmap import colour_scale
from sentinode.report.study_page import accuracy_drawing
from sentinode.slides.annotation_files import read_annotations
from sentinode.slides.slide import open_slide
from sentinode.workflows.demo import SMALL_PAPER_CNN
from sentinode.workflows.explaining import explain
from sentinode.workflows.phantom_slides import SlidePreset, write_phantom_slides
from sentinode.workflows.phantoms import draw_phantom_patches
from sentinode.workflows.predicting import FIELD_MPP, FIELD_UM, predict_slides
from sentinode.workflows.studying import run_study_from
from sentinode.workflows.tiling import TilesWish, make_tiles
from sentinode.workflows.training import TrainingWish, train_model

OUT = Path(__file__).parent / "pictures"
PLAN = """
manifest = "cohort/manifest.csv"
repeats = 5
seed = 1
threads = 1
on = "serial"
algorithms = ["kernel-svm", "naive-bayes", "template-matching", "majority"]
"""
NODES = SlidePreset(1.0, (1300.0, 1450.0), 1.25, (1,), ((((600.0, 780.0), 1),),))
SETTINGS = {**SMALL_PAPER_CNN, "epochs": 6, "batch_size": 16, "threads": 1}
OVERVIEW_PX, FIELD_PX = 620, 236


def main() -> None:
    """Draw all of them."""
    OUT.mkdir(exist_ok=True)
    with TemporaryDirectory() as folder:
        _recognised(Path(folder))
    _cohort().save(OUT / "cohort.png")
    (OUT / "accuracy.svg").write_text(_accuracy(), encoding="utf-8")
    print(f"drew {', '.join(sorted(file.name for file in OUT.iterdir()))}")


def _cohort() -> Image.Image:
    # One patch of each class for every second patient.
    shown: dict[tuple[str, str], np.ndarray] = {}
    for patch in draw_cohort(CohortPlan(patients=12, patches=16, sites=2, seed=3)):
        shown.setdefault((patch.label, patch.patient_id), patch.pixels)
    both = [name for name in sorted({name for _, name in shown}) if ("cancerous", name) in shown][::2]
    rows = [np.concatenate([shown[label, name] for name in both], axis=1) for label in ("normal", "cancerous")]
    return Image.fromarray(np.concatenate(rows, axis=0)).resize((192 * len(both), 384), Image.Resampling.LANCZOS)


def _accuracy() -> str:
    with TemporaryDirectory() as folder, redirect_stdout(io.StringIO()):
        draw_phantom_patches(Path(folder) / "cohort", patients=10, patches=16, sites=2, seed=3)
        plan = Path(folder) / "study.toml"
        plan.write_text(PLAN, encoding="utf-8")
        return accuracy_drawing(run_study_from(plan, Path(folder) / "out"))


def _recognised(folder: Path) -> None:
    # Slides in, answers out, as a user would: of the slides that the model has not seen, one with a lesion is shown.
    table = write_phantom_slides(folder / "cohort", patients=8, sites=2, preset=NODES, seed=5, workers=2)
    with table.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    paths = {row["slide_id"]: folder / "cohort" / row["path"] for row in rows}
    drawings = folder / "cohort" / "annotations"
    make_tiles(list(paths.values()), folder / "tiles.csv", TilesWish(1.0, 64, drawings, table))
    model = train_model(folder / "tiles.csv", folder / "model", TrainingWish("paper-cnn", SETTINGS))
    seen = model.seen()
    held_out = [paths[row["slide_id"]] for row in rows if not seen.has_patient(row["patient_id"])]
    predict_slides(held_out, model.folder, folder / "answers")
    shown = next(row["slide_id"] for row in rows if paths[row["slide_id"]] in held_out and row["label"] == "tumour")
    answer, predictions = folder / "answers" / shown, read_predictions(folder / "answers" / shown / "tiles.parquet")
    _beside_the_truth(paths[shown], drawings / f"{shown}.xml", answer / "heatmap.png").save(OUT / "heatmap.png")
    Image.fromarray(tifffile.imread(answer / "overlay.tif", key=0)).save(OUT / "overlay.png")
    _gallery(paths[shown], predictions).save(OUT / "gallery.png")
    _explained(paths[shown], model, predictions, folder / "explained").save(OUT / "explain.png")


def _beside_the_truth(path: Path, drawing: Path, heatmap: Path) -> Image.Image:
    # Left the slide with the outline of what was drawn, right what was recognised, below the scale of the colours.
    with open_slide(path) as slide:
        pixels, width = slide.thumbnail(OVERVIEW_PX), slide.info.size.width
    left = Image.fromarray(pixels)
    pen = ImageDraw.Draw(left)
    for part in shapely.get_parts(read_annotations(drawing).shape_of("Tumor")):
        corners = shapely.get_coordinates(part.exterior) * left.width / width
        pen.line([tuple(corner) for corner in corners.tolist()], fill=(20, 20, 20), width=2)
    with Image.open(heatmap) as image:
        right = image.convert("RGB").resize(left.size, Image.Resampling.LANCZOS)
    scale = Image.fromarray(colour_scale("probability of tumour"))
    sheet = Image.new("RGB", (2 * left.width + 8, left.height + scale.height + 8), "white")
    for part, place in ((left, (0, 0)), (right, (left.width + 8, 0)), (scale, (left.width + 8, left.height + 8))):
        sheet.paste(part, place)
    return sheet


def _explained(path: Path, model: Bundle, predictions: TilePredictions, out: Path) -> Image.Image:
    # A tile that the network is in doubt of, and its maps, side by side.
    x, y, width, height = predictions.boxes[int(np.nanargmin(np.abs(predictions.positive - 0.25)))].tolist()
    found = explain(path, model, out, (x + width / 2, y + height / 2))
    names = ["tile", *(one.method.lower().replace(" ", "-") for one in found.maps)]
    sheet = Image.new("RGB", (len(names) * (FIELD_PX + 8) - 8, FIELD_PX), "white")
    for place, name in enumerate(names):
        with Image.open(out / f"{name}.png") as image:
            large = image.convert("RGB").resize((FIELD_PX, FIELD_PX), Image.Resampling.NEAREST)
        sheet.paste(large, (place * (FIELD_PX + 8), 0))
    return sheet


def _gallery(path: Path, predictions: TilePredictions) -> Image.Image:
    fields = suspicious_fields(predictions, side_um=FIELD_UM)
    with open_slide(path) as slide:
        shown = [(slide.read(one.box, max(FIELD_MPP, slide.info.scale.mpp)), one.proba) for one in fields]
    return _sheet(shown, across=5)


def _sheet(fields: Sequence[tuple[np.ndarray, float]], across: int) -> Image.Image:
    down = -(-len(fields) // across)
    step = FIELD_PX + 8
    sheet = Image.new("RGB", (across * step - 8, down * (step + 18) - 8), "white")
    pen = ImageDraw.Draw(sheet)
    for number, (pixels, proba) in enumerate(fields):
        x, y = number % across * step, number // across * (step + 18)
        sheet.paste(Image.fromarray(pixels).resize((FIELD_PX, FIELD_PX), Image.Resampling.LANCZOS), (x, y))
        pen.text((x + 2, y + FIELD_PX + 3), f"{number + 1}. probability {proba:.3f}", fill="black")
    return sheet


if __name__ == "__main__":
    main()
