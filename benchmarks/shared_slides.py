"""What a small model answers on the real slides beside the repository, and on what is no slide.

Run: ``python benchmarks/shared_slides.py FOLDER``. Trains the kernel machine on the real patches of known slides
(``../shared/data/pcam``), runs ``sentinode predict`` on ``../shared/data/slides``, and writes
``docs/results/real-slides.md`` with what it printed.
"""

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from sentinode.data.adapters import import_manifest
from sentinode.data.manifest import write_manifest
from sentinode.models.bundle import Bundle, Value, read_bundle
from sentinode.workflows.training import TrainingWish, train_model

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared" / "data"
SLIDES = (
    "CMU-1-Small-Region.svs",
    "camelyon_overview.dcm",
    "boxes.tiff",
    "malformed/histolab_broken.svs",
    "malformed/openslide-python_unreadable.svs",
)
PAGE = ROOT / "docs" / "results" / "real-slides.md"
PICTURE_PX = 560  # longer side of the pictures on the page


def train(pcam: Path, folder: Path, *, each: int | None = None) -> Bundle:
    """Train the kernel machine on the patches whose slide is known; or on so many of each that has twice as many."""
    if (folder / "model").exists():
        return read_bundle(folder / "model")
    table = import_manifest("kaggle-pcam", pcam)
    known = table.frame[table.frame["patient_id"] != ""]
    if each is not None:
        slides = known.groupby("patient_id")
        known = known[(slides.cumcount() < each) & (slides["image_id"].transform("size") >= 2 * each)]
    folder.mkdir(parents=True, exist_ok=True)
    write_manifest(table.select(known.index.to_numpy()), folder / "patches.csv")
    return train_model(folder / "patches.csv", folder / "model", TrainingWish("kernel-svm"))


def predict(slides: Path, folder: Path) -> tuple[str, dict[str, dict[str, Any]]]:
    """Run the command on the slides: what it printed, and the result of each slide that has one."""  # noqa: DOC501
    command = [sys.executable, "-m", "sentinode.cli", "predict", *SLIDES]
    command += ["--model", str(folder / "model"), "--out", str(folder / "answers")]
    done = subprocess.run(command, cwd=slides, capture_output=True, text=True, check=False, timeout=1800)
    if done.returncode != 1:  # 1: some slides have no result, as must be
        raise SystemExit(f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}")
    printed = (done.stderr + "\n" + done.stdout).replace(f"{folder}/", "").replace(f"{slides}/", "")
    results = {path.parent.name: json.loads(path.read_text()) for path in (folder / "answers").glob("*/result.json")}
    return "\n".join(line.rstrip() for line in printed.splitlines()).strip(), results


def page(model: Bundle, printed: str, results: Mapping[str, Mapping[str, Any]]) -> str:
    """Write it as a page of the documentation."""
    data, auc = model.facts.data, model.facts.metrics["auc"]
    lines = [
        "# Real slides, and what is none",
        "",
        "Written by `python benchmarks/shared_slides.py FOLDER`, from what the commands printed. The model is the",
        f"kernel machine, trained on {data.n_images['train']} real patches of {data.n_patients['train']} sentinel",
        "lymph nodes of breast cancer patients (PatchCamelyon, CC0); on the patches of",
        f"{data.n_patients['test']} nodes kept apart its AUC is {_between(auc)}.",
        "It is here to be put to use, not to be good: better ones are in [seeing better](seeing-better.md).",
        "",
        "```console",
        f"$ sentinode predict {SLIDES[0]} {SLIDES[1]} \\",
        f"    {' '.join(SLIDES[2:])} \\",
        "    --model model --out answers",
        printed,
        "```",
        "",
        "`camelyon_overview.dcm` is the overview of a real lymph node, at 29 um a pixel; `boxes.tiff` is drawn, and",
        "says 352.8 um of itself; of `malformed/`, one file is no TIFF at all, and the other opens and cannot be read.",
        "One bad file stops no other.",
    ]
    for name, result in results.items():
        shown = [f"**{warning}**" for warning in result["warnings"]] or ["No warning."]
        lines += [
            "",
            f"## {name}",
            "",
            f"{result['verdict']}; score {result['score']:.3f}, {result['recognised']} of {result['tiles']} tiles",
            f"recognised at {model.facts.tile.mpp:g} um a pixel (the file has {result['mpp']:g}). It is OpenSlide's",
            "test slide (CC0), not of a lymph node and not of the scanners of the training images: the verdict means",
            "nothing.",
            "The page of the slide says:",
            "",
            *shown,
            "",
            f"![The heatmap of the kernel machine on {name}: it means nothing here](real-slides/{name}.jpg)",
        ]
    return "\n".join([*lines, ""])


def _between(metric: Value) -> str:
    value, low, high = ("n/a" if one is None else f"{one:.3f}" for one in (metric.value, metric.low, metric.high))
    return f"{value} ({low} to {high})"


def _keep_pictures(folder: Path, names: Mapping[str, object]) -> None:
    # The heatmap over the tissue, small. Nothing of the label of a slide is in it: it is made of level 0.
    target = PAGE.with_suffix("")
    target.mkdir(exist_ok=True)
    for name in names:
        with Image.open(folder / "answers" / name / "heatmap.png") as image:
            image.thumbnail((PICTURE_PX, PICTURE_PX))
            image.convert("RGB").save(target / f"{name}.jpg", quality=82)


def main(folder: Path) -> None:
    """Train, predict, write."""
    model = train(SHARED / "pcam", folder)
    printed, results = predict(SHARED / "slides", folder)
    _keep_pictures(folder, results)
    PAGE.write_text(page(model, printed, results), encoding="utf-8")
    print(printed)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    main(Path(sys.argv[1]).resolve())
