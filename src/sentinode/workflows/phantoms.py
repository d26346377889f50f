"""Draw a cohort of synthetic patches into a folder, with its manifest."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import pandas as pd
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from sentinode.data.manifest import Provenance, make_manifest, read_manifest, write_manifest
from sentinode.errors import ExportError, ManifestError
from sentinode.phantom.cohort import CohortPlan, PhantomPatch, draw_cohort
from sentinode.phantom.patches import CLASSES
from sentinode.storage import whole_file

__all__ = ["draw_phantom_patches"]

_NOTE = "synthetic: drawn by sentinode.phantom, no patient"


def draw_phantom_patches(
    out: Path | str,
    *,
    patients: int = 12,
    patches: int = 40,
    sites: int = 2,
    preset: str = "10x",
    size_px: int = 96,
    seed: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Draw a cohort as PNG files, one folder a patient, and write its manifest last.

    Parameters
    ----------
    out : Path or str
        The folder; made if it is not there. A synthetic cohort that lies there already is drawn over.
    patients, patches, sites, preset, size_px, seed
        As in `sentinode.phantom.cohort.CohortPlan`.
    on_progress : callable, optional
        Called with (patches drawn, patches in all).

    Returns
    -------
    Path
        ``out/manifest.csv``; its provenance says ``synthetic``.

    Raises
    ------
    PlanError
        If a number or the preset cannot be; nothing is written.
    ExportError
        If the folder holds a manifest of images that are not synthetic, or cannot be written.
    """
    plan = CohortPlan(patients=patients, patches=patches, sites=sites, preset=preset, size_px=size_px, seed=seed)
    folder = Path(out)
    manifest_path = folder / "manifest.csv"
    _refuse_real_images(manifest_path)
    total = plan.patients * plan.patches
    rows: list[dict[str, str | int | float]] = []
    pixels = hashlib.sha256()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # A manifest beside images of which some are new and some are old would lie.
        manifest_path.unlink(missing_ok=True)
        for done, patch in enumerate(draw_cohort(plan), start=1):
            path = f"{patch.patient_id}/{patch.image_id}.png"
            rows.append(_row(patch) | {"path": path})
            pixels.update(patch.pixels.tobytes())
            _save(patch, folder / path)
            if on_progress is not None:
                on_progress(done, total)
    except OSError as error:
        raise ExportError(f"{folder}: cannot be written ({error.strerror or error}); choose another folder") from error
    provenance = Provenance(
        source=f"sentinode.phantom, {plan.preset}, seed {plan.seed} (synthetic)",
        licence="CC0-1.0",
        sha256=pixels.hexdigest(),
        synthetic=True,
    )
    write_manifest(make_manifest(pd.DataFrame(rows), CLASSES, provenance, folder), manifest_path)
    return manifest_path


def _refuse_real_images(manifest_path: Path) -> None:
    if not manifest_path.exists():
        return
    try:
        synthetic = read_manifest(manifest_path).provenance.synthetic
    except ManifestError:
        synthetic = False
    if not synthetic:
        raise ExportError(
            f"{manifest_path} is not the manifest of a synthetic cohort; choose another folder for the new one"
        )


def _row(patch: PhantomPatch) -> dict[str, str | int | float]:
    height, width = patch.pixels.shape[:2]
    return {
        "image_id": patch.image_id,
        "patient_id": patch.patient_id,
        "slide_id": patch.slide_id,
        "label": patch.label,
        "site": patch.site,
        "width": width,
        "height": height,
        "mpp": patch.mpp,
    }


def _save(patch: PhantomPatch, path: Path) -> None:
    # Under a temporary name first: an image that is there is whole.
    note = PngInfo()
    note.add_text("Comment", _NOTE)
    with whole_file(path) as part:
        Image.fromarray(patch.pixels).save(part, format="PNG", pnginfo=note, compress_level=1)
