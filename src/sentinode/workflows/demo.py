"""The whole path on synthetic cohorts: draw, check, compare, train, recognise slides that were held out, report."""

import csv
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from sentinode._version import __version__
from sentinode.errors import ExportError
from sentinode.models.bundle import Bundle, BundleFacts, read_bundle
from sentinode.storage import write_whole
from sentinode.study.events import Preparing, StudyEvent
from sentinode.study.table import StudyTable
from sentinode.workflows.checking import CheckReport, check_data
from sentinode.workflows.phantom_slides import SlidePreset, write_phantom_slides
from sentinode.workflows.phantoms import draw_phantom_patches
from sentinode.workflows.predicting import SlideDone, TilesDone, predict_slides
from sentinode.workflows.studying import run_study_from
from sentinode.workflows.tiling import TilesWish, make_tiles
from sentinode.workflows.training import DEFAULT_ALGORITHM, TrainingEvent, TrainingWish, train_model

__all__ = [
    "DEMO_MODEL",
    "DEMO_STUDY",
    "SMALL_PAPER_CNN",
    "Demo",
    "DemoEvent",
    "DemoPlan",
    "DemoSlide",
    "Step",
    "run_demo",
]

#: Small enough for two minutes on two cores, large enough that the algorithms differ.
DEMO_STUDY = """\
# The plan of the demo: every key is explained in docs/study-plan.md.
manifest = "cohort/manifest.csv"
repeats = 3
seed = {seed}
algorithms = ["paper-cnn", "dbn", "naive-bayes", "template-matching", "kernel-svm", "majority"]

[algorithm.paper-cnn]
epochs = 15
batch_size = 16 # the defaults may not leave the start within 15 epochs of so few patches
learning_rate = 3e-4
"""

#: The default network, briefly and at the size of the patches: half a minute, and enough for drawn tissue.
DEMO_MODEL: Mapping[str, object] = {"epochs": 2, "enlarge": 1.0}

#: The founding network in small, a twenty-fifth of its multiplications: for benchmarks on drawn tissue.
SMALL_PAPER_CNN: Mapping[str, object] = {
    "layers": [
        {"conv": 16, "kernel": 5, "stride": 2},
        {"pool": "max", "size": 2},
        {"conv": 32, "kernel": 3},
        {"pool": "max", "size": 2},
        {"conv": 64, "kernel": 3},
        {"pool": "max", "size": 2},
        {"dense": 64},
    ],
    "epochs": 6,
    "batch_size": 32,
    "augment": "orientations",
}

_FORMAT = "sentinode-demo-1"
_RECORD, _STUDY = "demo.json", "study.toml"


@dataclass(frozen=True)
class DemoPlan:
    """How large a demo is; the defaults are for less than five minutes on two cores.

    Parameters
    ----------
    patients, patches, sites : int
        Of the cohort of patches that the study compares the algorithms on.
    study : str
        Its plan, TOML, with ``{seed}`` in it.
    slide_patients : int
        Patients of the cohort of slides, of the same number of sites; each has one slide.
    slides : str or SlidePreset
        What they measure.
    mpp, tile_px : float, int
        Resolution and side of the tiles.
    algorithm, settings
        Of the model that recognises them.
    held_out, stop : float
        Shares of its patients: kept for the end, and those that decide when training stops.
    workers : int
        Processes that draw slides at the same time.
    """

    patients: int = 12
    patches: int = 20
    sites: int = 2
    study: str = DEMO_STUDY
    slide_patients: int = 12
    slides: str | SlidePreset = "10x"
    mpp: float = 1.0
    tile_px: int = 96
    algorithm: str = DEFAULT_ALGORITHM
    settings: Mapping[str, object] = field(default_factory=lambda: dict(DEMO_MODEL))
    held_out: float = 1 / 3
    stop: float = 1 / 6
    workers: int = 2


@dataclass(frozen=True)
class DemoSlide:
    """A slide that was held out: what was drawn, and what the model says.

    Parameters
    ----------
    slide_id : str
        Its name.
    truth : str
        ``normal`` or ``tumour``, as drawn.
    lesions : tuple of str
        Size and extent of each lesion, e.g. ``"macro 2.1 mm"``.
    verdict : str
        As on its page.
    score : float or None
        None where the slide was refused.
    """

    slide_id: str
    truth: str
    lesions: tuple[str, ...]
    verdict: str
    score: float | None

    @property
    def right(self) -> bool:
        """Whether the slide is called suspicious exactly if a tumour was drawn on it."""
        return self.score is not None and self.verdict.startswith("suspicious") == (self.truth == "tumour")


@dataclass(frozen=True)
class Demo:
    """What the demo leaves behind.

    Parameters
    ----------
    folder : Path
        Everything lies there.
    check : CheckReport
        Of the cohort of patches.
    table : StudyTable
        Of the study.
    slides : tuple of DemoSlide
        Those that were held out, the most suspicious first.
    model : BundleFacts
        With its numbers on the tiles of the slides that were held out.
    failures : mapping of str to str
        Slide -> why it has no result.
    study_page, slides_page : Path
        The pages to open.
    """

    folder: Path
    check: CheckReport
    table: StudyTable
    slides: tuple[DemoSlide, ...]
    model: BundleFacts
    failures: Mapping[str, str]
    study_page: Path
    slides_page: Path

    @property
    def complete(self) -> bool:
        """Whether every trial and every slide has a result."""
        return self.table.complete and not self.failures

    def to_json(self) -> dict[str, Any]:
        """Hand it over as plain values.

        Returns
        -------
        dict
            ``synthetic``, ``check``, ``study``, ``slides``, ``model``, ``failures`` and ``pages``.
        """
        return {
            "synthetic": True,
            "check": self.check.to_json(),
            "study": self.table.to_json(),
            "slides": [asdict(one) | {"right": one.right} for one in self.slides],
            "model": self.model.model_dump(mode="json"),
            "failures": dict(self.failures),
            "pages": {"study": str(self.study_page), "slides": str(self.slides_page)},
        }


@dataclass(frozen=True)
class Step:
    """The demo comes to step `number` (from 1) of `total`: `what` it does there."""

    number: int
    total: int
    what: str


DemoEvent: TypeAlias = Step | StudyEvent | TrainingEvent | TilesDone | SlideDone
Listener: TypeAlias = Callable[[DemoEvent], None]

_STEPS = (
    "draw patches of synthetic tissue, and check them",
    "compare the algorithms on patients that none of them has seen",
    "draw synthetic slides",
    "lay tiles on the slides, labelled by what was drawn",
    "train a model on two thirds of the patients",
    "recognise the slides that were held out",
)


def run_demo(out: Path | str, seed: int = 1, on_event: Listener | None = None, plan: DemoPlan | None = None) -> Demo:
    """Go the whole path, from nothing to a page of a study and a page of slides.

    A demo that was interrupted goes on when the same call is made again: what is finished is not done again (the
    check is: it takes seconds).

    Parameters
    ----------
    out : Path or str
        Where everything goes.
    seed : int
        Of the cohorts, the study and the model.
    on_event : callable, optional
        Receives every `Step`, and the events of the study, of the training and of the prediction; what is drawn is
        told as ``Preparing``.
    plan : DemoPlan, optional
        How large it is.

    Returns
    -------
    Demo
        What was found, and the paths of the pages.

    Raises
    ------
    ExportError
        If the folder holds another demo, or cannot be written.
    MissingExtra
        If an algorithm needs torch and it is not installed.
    """
    # MissingExtra is the study's.
    folder, plan, listen = Path(out), plan or DemoPlan(), on_event or (lambda _event: None)
    going_on = _claim(folder, plan, seed)
    _tell(listen, 1)
    check = _cohort(folder, plan, seed, listen, going_on=going_on)
    _tell(listen, 2)
    table = run_study_from(folder / _STUDY, folder / "study", listen)
    _tell(listen, 3)
    drawn = _slides(folder, plan, seed, listen)
    _tell(listen, 4)
    tiles = folder / "tiles.csv"
    if not (going_on and tiles.exists()):
        source = folder / "slides"
        wish = TilesWish(plan.mpp, plan.tile_px, source / "annotations", source / "slides.csv")
        make_tiles(_paths(folder, drawn), tiles, wish, _preparing(listen, "laying tiles"))
    _tell(listen, 5)
    model = _model(folder, plan, seed, listen, going_on=going_on)
    seen = model.seen()
    held_out = [row for row in drawn if not seen.has_patient(row["patient_id"])]
    _tell(listen, 6)
    run = predict_slides(_paths(folder, held_out), model.folder, folder / "answers", on_event=listen)
    return Demo(
        folder=folder,
        check=check,
        table=table,
        slides=_beside_the_truth(run.results, held_out, _lesions(folder)),
        model=model.facts,
        failures=run.failures,
        study_page=folder / "study" / "report.html",
        slides_page=folder / "answers" / "index.html",
    )


def _tell(listen: Listener, number: int) -> None:
    listen(Step(number, len(_STEPS), _STEPS[number - 1]))


def _preparing(listen: Listener, what: str) -> Callable[[int, int], None]:
    return lambda done, total: listen(Preparing(what, done, total))


def _claim(folder: Path, plan: DemoPlan, seed: int) -> bool:
    """Write down whose folder this is, and the plan of its study.

    Returns
    -------
    bool
        Whether a demo of this plan was begun in it.

    Raises
    ------
    ExportError
        If the demo in it is another one.
    """
    content = json.dumps({"version": __version__, "seed": seed, "plan": asdict(plan)}, sort_keys=True, default=str)
    mine = {"format": _FORMAT, "synthetic": True, "seed": seed, "digest": hashlib.sha256(content.encode()).hexdigest()}
    record = folder / _RECORD
    try:
        if record.exists():
            if json.loads(record.read_text(encoding="utf-8")) == mine:
                return True
            raise ExportError(f"{folder}: holds a demo of another seed or version; choose another --out, or remove it")
        write_whole(folder / _STUDY, plan.study.format(seed=seed))
        write_whole(record, json.dumps(mine, indent=1) + "\n")
    except OSError as fault:
        raise ExportError(f"{folder}: cannot be written ({fault.strerror}); choose another folder with --out") from None
    except ValueError:
        raise ExportError(f"{record}: is not of a demo; choose another folder with --out") from None
    return False


def _cohort(folder: Path, plan: DemoPlan, seed: int, listen: Listener, *, going_on: bool) -> CheckReport:
    manifest = folder / "cohort" / "manifest.csv"  # it is written last
    if not (going_on and manifest.exists()):
        draw_phantom_patches(
            manifest.parent,
            patients=plan.patients,
            patches=plan.patches,
            sites=plan.sites,
            seed=seed,
            on_progress=_preparing(listen, "drawing patches"),
        )
    return check_data(manifest, on_progress=_preparing(listen, "checking patches"))


def _slides(folder: Path, plan: DemoPlan, seed: int, listen: Listener) -> list[dict[str, str]]:
    # The rows of slides.csv; slides that are there already are not drawn again.
    table = write_phantom_slides(
        folder / "slides",
        patients=plan.slide_patients,
        sites=plan.sites,
        preset=plan.slides,
        seed=seed,
        workers=plan.workers,
        on_progress=_preparing(listen, "drawing slides"),
    )
    return _read(table)


def _model(folder: Path, plan: DemoPlan, seed: int, listen: Listener, *, going_on: bool) -> Bundle:
    model = folder / "model"
    if going_on and model.exists():
        return read_bundle(model)
    wish = TrainingWish(plan.algorithm, plan.settings, test=plan.held_out, stop=plan.stop, seed=seed)
    return train_model(folder / "tiles.csv", model, wish, listen)


def _paths(folder: Path, rows: Sequence[dict[str, str]]) -> list[Path]:
    return [folder / "slides" / row["path"] for row in rows]


def _lesions(folder: Path) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for row in _read(folder / "slides" / "lesions.csv"):
        size = f"{row['size_class']} {float(row['major_axis_um']) / 1000:.2g} mm"
        found[row["slide_id"]] = (*found.get(row["slide_id"], ()), size)
    return found


def _beside_the_truth(
    results: Sequence[Mapping[str, Any]], rows: Sequence[dict[str, str]], lesions: Mapping[str, tuple[str, ...]]
) -> tuple[DemoSlide, ...]:
    truth = {row["slide_id"]: row["label"] for row in rows}
    return tuple(
        DemoSlide(name, truth[name], lesions.get(name, ()), str(one["verdict"]), one["score"])
        for one in results
        for name in [str(one["slide_id"])]
    )


def _read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))
