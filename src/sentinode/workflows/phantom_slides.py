"""Draw a cohort of synthetic slides into a folder: pyramidal TIFFs, and the truth behind every pixel."""

import csv
import hashlib
import io
import json
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import shapely
from PIL import Image
from shapely.geometry.base import BaseGeometry
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # it has no types

from sentinode.errors import ExportError, PlanError
from sentinode.execution import Failure, run_jobs
from sentinode.geometry import Box, Size
from sentinode.phantom.artefacts import COMMON
from sentinode.phantom.plans import LesionWish, SlidePlan
from sentinode.phantom.slides import PhantomSlide, draw_slide, write_slide
from sentinode.seeds import stream
from sentinode.slides.annotation_files import write_asap, write_geojson
from sentinode.slides.annotations import Annotations, Region
from sentinode.storage import abandoned, whole_files, write_whole

__all__ = ["SLIDE_PRESETS", "SlidePreset", "plan_slides", "write_phantom_slides"]


class SlidePreset(NamedTuple):
    """What the slides of a preset measure.

    Parameters
    ----------
    mpp : float
        Of the first site; the others differ by a few per cent, as scanners do.
    section_um : (least, most) float
        How large the tissue is about.
    room : float
        Side of the canvas over that.
    nodes : tuple of int
        How many a section has.
    burdens : tuple of tuples of ((least, most) um, cells)
        What lesions a patient with metastasis has, in turn.
    """

    mpp: float
    section_um: tuple[float, float]
    room: float
    nodes: tuple[int, ...]
    burdens: tuple[tuple[tuple[tuple[float, float], int], ...], ...]


_MACRO, _MICRO, _CLUSTER, _FEW = ((2040.0, 2200.0), 1), ((350.0, 1100.0), 1), ((80.0, 180.0), 4), ((24.0, 60.0), 1)
_SMALL_MICRO = ((220.0, 420.0), 1)

SLIDE_PRESETS: Mapping[str, SlidePreset] = MappingProxyType({
    "10x": SlidePreset(
        1.0,
        (2000.0, 2500.0),
        1.35,
        (1, 2, 3, 2, 1, 4),
        ((_MACRO, _FEW), (_MICRO, _CLUSTER), (_CLUSTER, _FEW), (_MACRO, _MICRO), (_MICRO,)),
    ),
    "40x": SlidePreset(
        0.25, (1100.0, 1400.0), 1.35, (1, 2, 1), ((_SMALL_MICRO, _FEW), (_CLUSTER, _FEW), (_SMALL_MICRO, _CLUSTER))
    ),
})
"""Preset -> what its slides measure. A macrometastasis does not fit on the small sections of 40x."""

MASK_VALUES: Mapping[str, int] = MappingProxyType({
    "glass": 0,
    "tissue": 1,
    "tumour": 2,
    "ink": 3,
    "out of focus": 4,
    "fold": 5,
    "air": 6,
})
"""What the truth mask says; the later ones lie over the earlier ones."""

PROVENANCE = "synthetic: drawn by sentinode.phantom, no patient"

_FORMAT = "sentinode phantom slide 1"
_SITE_MPP = (1.0, 0.9712, 1.0104, 0.908)  # over the preset's: 0.25, 0.2428, 0.2526, 0.227
_MASK_PX = 2048  # longest side of a mask, about
_ROUND_PX = 64  # sides of a canvas are multiples of it, so that levels are halves exactly
_LESION_COLUMNS = (
    "slide_id",
    "patient_id",
    "lesion",
    "x",
    "y",
    "major_axis_um",
    "size_class",
    "area_mm2",
    "provenance",
)
_SLIDE_COLUMNS = (
    "slide_id",
    "patient_id",
    "site",
    "label",
    "path",
    "mpp",
    "width",
    "height",
    "seed",
    "provenance",
)


class _Job(NamedTuple):
    plan: SlidePlan
    folder: Path


def write_phantom_slides(
    out: Path | str,
    *,
    patients: int = 12,
    sites: int = 2,
    preset: str | SlidePreset = "10x",
    seed: int = 1,
    size: int | None = None,
    workers: int = 1,
    on_progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Draw a cohort of slides, each with its truth, and write the tables last.

    A slide that is there already, whole and of the same plan, is not drawn again.

    Parameters
    ----------
    out : Path or str
        The folder; made if it is not there.
    patients, sites : int
        How many; a patient has one slide.
    preset : str or SlidePreset
        A key of `SLIDE_PRESETS`, or what the slides shall measure.
    seed : int
        The same seed, the same cohort.
    size : int, optional
        Side of the canvas in level-0 pixels, up to 100,000; the tissue stays as large as it is.
    workers : int
        Processes that draw at the same time.
    on_progress : callable, optional
        Called with (slides there, slides in all).

    Returns
    -------
    Path
        ``out/slides.csv``.

    Raises
    ------
    PlanError
        If a number or the preset cannot be; nothing is written.
    ExportError
        If a slide cannot be written.
    """
    # PlanError is that of plan_slides.
    plans = plan_slides(patients=patients, sites=sites, preset=preset, seed=seed, size=size)
    if workers < 1:
        raise PlanError(f"workers = {workers}: give at least one")
    folder = Path(out)
    table = folder / "slides.csv"
    _refuse_real_slides(table)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _clear(folder)
        # Tables beside slides of which some are new and some are old would lie.
        for path in (table, folder / "lesions.csv"):
            path.unlink(missing_ok=True)
        records = _drawn(plans, folder, workers, on_progress)
        lesions = [row for plan in plans for row in records[plan.slide_id]["lesions"]]
        write_whole(folder / "lesions.csv", _csv(_LESION_COLUMNS, lesions))
        write_whole(table, _csv(_SLIDE_COLUMNS, [records[plan.slide_id]["slide"] for plan in plans]))
    except OSError as error:
        raise ExportError(f"{folder}: cannot be written ({error.strerror or error}); choose another folder") from error
    return table


def plan_slides(
    *,
    patients: int = 12,
    sites: int = 2,
    preset: str | SlidePreset = "10x",
    seed: int = 1,
    size: int | None = None,
) -> tuple[SlidePlan, ...]:
    """Plan the slides of a cohort: who has metastases, of what sizes, and what spoils the slide.

    Parameters
    ----------
    patients, sites, preset, seed, size
        As in `write_phantom_slides`.

    Returns
    -------
    tuple of SlidePlan
        One a patient. In each site every other patient has metastases, so that the site says nothing of the label.

    Raises
    ------
    PlanError
        If a number or the preset cannot be.

    Examples
    --------
    >>> [bool(plan.lesions) for plan in plan_slides(patients=4, sites=2)]
    [True, True, False, False]
    >>> [plan.mpp for plan in plan_slides(patients=2, preset="40x")]
    [0.25, 0.2428]
    """
    if isinstance(preset, str) and preset not in SLIDE_PRESETS:
        raise PlanError(f"preset '{preset}' is not known; choose one of {', '.join(SLIDE_PRESETS)}")
    if patients < 1 or sites < 1:
        raise PlanError(f"{patients} patients of {sites} sites: give at least one of each")
    if sites > patients:
        raise PlanError(f"{sites} sites cannot share {patients} patients; ask for fewer sites")
    if size is not None and not 1024 <= size <= 100_000:
        raise PlanError(f"size is {size}; give 1024 to 100000 px a side")
    measures = SLIDE_PRESETS[preset] if isinstance(preset, str) else preset
    return tuple(_plan(patient, sites, measures, seed, size) for patient in range(patients))


def _plan(patient: int, sites: int, preset: SlidePreset, seed: int, size: int | None) -> SlidePlan:
    rng = stream(seed, "phantom", "slide plan", patient)
    site, turn = patient % sites, patient // sites
    burden = preset.burdens[turn // 2 % len(preset.burdens)] if turn % 2 == 0 else ()
    lesions = tuple(LesionWish(round(float(rng.uniform(*extent))), cells) for extent, cells in burden)
    section_um = float(rng.uniform(*preset.section_um))
    mpp = round(preset.mpp * _SITE_MPP[site % len(_SITE_MPP)], 4)
    if size is None:
        side_um = max(preset.room * section_um, 1.8 * max((lesion.major_axis_um for lesion in lesions), default=0))
        width, height = (math.ceil(side / mpp / _ROUND_PX) * _ROUND_PX for side in (side_um, 0.82 * side_um))
    else:
        width = height = size
    spoilt = rng.permutation(len(COMMON))[: int(rng.integers(0, 4))]
    return SlidePlan(
        slide_id=f"phantom-p{patient + 1:03d}-s1",
        seed=seed,
        patient=patient,
        site=site,
        size=Size(width, height),
        mpp=mpp,
        section_um=section_um,
        nodes=preset.nodes[turn % len(preset.nodes)],
        lesions=lesions,
        artefacts=tuple(COMMON[number] for number in sorted(spoilt.tolist())),
    )


def _drawn(
    plans: Sequence[SlidePlan], folder: Path, workers: int, on_progress: Callable[[int, int], None] | None
) -> dict[str, dict[str, Any]]:
    # slide_id -> its record: what was there, then what is drawn now.
    found = {plan.slide_id: _finished(plan, folder) for plan in plans}
    records = {name: record for name, record in found.items() if record is not None}
    if on_progress is not None and records:
        on_progress(len(records), len(plans))
    jobs = [(plan.slide_id, _Job(plan, folder)) for plan in plans if plan.slide_id not in records]
    try:
        with closing(run_jobs(_write_one, jobs, "serial" if workers == 1 else "processes", workers)) as done:
            for name, record in done:
                if isinstance(record, Failure):
                    kind = PlanError if record.kind == "PlanError" else ExportError
                    raise kind(f"{folder / 'slides' / name}.tif was not drawn: {record.message}")
                records[name] = record
                if on_progress is not None:
                    on_progress(len(records), len(plans))
    finally:
        _clear(folder)
    return records


def _write_one(job: _Job) -> dict[str, Any]:
    plan, folder = job
    with threadpool_limits(1):  # the products are small: more threads only wait for one another
        phantom = draw_slide(plan)
        *truth, slide = _paths(plan, folder)
        record = _record(phantom)
        # The JSON comes last: where it is, all is.
        with whole_files([slide, *truth]) as (part, asap, geojson, mask, sidecar):
            write_slide(phantom, part)
            tumours = _regions("Tumor", [lesion.shape for lesion in phantom.lesions])
            write_asap(Annotations(tumours), asap)
            write_geojson(Annotations(_regions("Tissue", [phantom.tissue]) + tumours), geojson)
            pixels = phantom.truth_mask(Box.whole(plan.size), record["mask"]["downsample"])
            Image.fromarray(pixels).save(mask, format="PNG")
            sidecar.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return record


def _record(phantom: PhantomSlide) -> dict[str, Any]:
    plan = phantom.plan
    downsample = 2 ** max(0, math.ceil(math.log2(max(plan.size.width, plan.size.height) / _MASK_PX)))
    names = {"slide_id": plan.slide_id, "patient_id": plan.slide_id.removesuffix("-s1")}
    lesions = [
        {
            **names,
            "lesion": lesion.number,
            "x": round(lesion.centre[0], 1),
            "y": round(lesion.centre[1], 1),
            "major_axis_um": round(lesion.major_axis_um, 1),
            "size_class": lesion.size_class,
            "area_mm2": round(lesion.area_mm2, 6),
            "provenance": PROVENANCE,
        }
        for lesion in phantom.lesions
    ]
    slide = {
        **names,
        "site": f"site-{plan.site + 1}",
        "label": phantom.label,
        "path": f"slides/{plan.slide_id}.tif",
        "mpp": plan.mpp,
        "width": plan.size.width,
        "height": plan.size.height,
        "seed": plan.seed,
        "provenance": PROVENANCE,
    }
    mask = {
        "file": f"{plan.slide_id}-mask.png",
        "values": dict(MASK_VALUES),
        # A pixel of the mask covers downsample x downsample pixels of level 0, from (0, 0); the last may reach beyond.
        "downsample": downsample,
        "width": -(-plan.size.width // downsample),
        "height": -(-plan.size.height // downsample),
        "slide_width": plan.size.width,
        "slide_height": plan.size.height,
    }
    artefacts = [
        {"kind": artefact.kind, "area_px": round(outline.area), "box": [round(at) for at in outline.bounds]}
        for artefact, outline in phantom.artefacts
    ]
    return {
        "format": _FORMAT,
        "digest": _digest(plan),
        "provenance": PROVENANCE,
        "slide": slide,
        "mask": mask,
        "lesions": lesions,
        "artefacts": artefacts,
    }


def _regions(name: str, shapes: Sequence[BaseGeometry]) -> tuple[Region, ...]:
    # A cluster of cells is several outlines.
    return tuple(
        Region(name, part) for shape in shapes for part in shapely.get_parts(shape) if isinstance(part, shapely.Polygon)
    )


def _paths(plan: SlidePlan, folder: Path) -> tuple[Path, Path, Path, Path, Path]:
    truth, name = folder / "truth", plan.slide_id
    geojson, mask, sidecar = (truth / end for end in (f"{name}.geojson", f"{name}-mask.png", f"{name}.json"))
    # Apart from the truth: a slide has one drawing in a folder of drawings.
    return folder / "annotations" / f"{name}.xml", geojson, mask, sidecar, folder / "slides" / f"{name}.tif"


def _finished(plan: SlidePlan, folder: Path) -> dict[str, Any] | None:
    # The record of a slide that is there, whole, and of this plan.
    paths = _paths(plan, folder)
    try:
        record = json.loads(paths[3].read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    same = isinstance(record, dict) and record.get("digest") == _digest(plan)
    return record if same and all(path.is_file() for path in paths) else None


def _digest(plan: SlidePlan) -> str:
    content = {"format": _FORMAT, "plan": asdict(plan)}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _clear(folder: Path) -> None:
    # What an interrupted process has left.
    for path in abandoned(folder):
        path.unlink(missing_ok=True)


def _refuse_real_slides(table: Path) -> None:
    if not table.exists():
        return
    try:
        with table.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error):
        rows = [{}]
    if not all(str(row.get("provenance", "")).startswith("synthetic") for row in rows):
        raise ExportError(f"{table} is not the table of synthetic slides; choose another folder for the new ones")


def _csv(columns: Sequence[str], rows: Sequence[Mapping[str, object]]) -> str:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
