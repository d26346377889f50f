"""One tile, looked into: where a model's answer comes from, as a page, pictures and numbers."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sentinode._version import __version__
from sentinode.data.patches import PatchReader
from sentinode.errors import ExportError, MissingExtra, ModelError, PlanError
from sentinode.geometry import Box, Size
from sentinode.models.bundle import GRAPH_FILE, Bundle, read_bundle
from sentinode.models.explaining import (
    OCCLUDED,
    Explanation,
    NetworkExplanation,
    SaliencyMap,
    explain_network,
    log_odds_of,
    occlusion_map,
)
from sentinode.models.runtime import Recogniser, open_recogniser
from sentinode.report.explain_page import ExplainView, write_explain_page
from sentinode.report.heatmap import map_over_tile
from sentinode.slides.resolution import MppWish
from sentinode.slides.slide import open_slide
from sentinode.storage import whole_folder

__all__ = ["explain", "parse_place"]

PAGE = "explain.html"


def explain(
    path: Path | str,
    model: Path | str | Bundle,
    out: Path | str,
    at: tuple[float, float] | None = None,
    mpp: MppWish | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Explanation:
    """Look into what a model makes of one tile, and write ``explain.html``, ``explain.json`` and a PNG a map.

    Parameters
    ----------
    path : Path or str
        A patch; or, with `at`, a slide.
    model : Path, str or Bundle
        A bundle, or its folder.
    out : Path or str
        The folder to write; must not be there yet.
    at : (x, y), optional
        Centre of the tile in level-0 pixels of the slide.
    mpp : MppWish, optional
        What is known of the slide's resolution beside its file.
    on_progress : callable, optional
        Called with the number of maps done and their total.

    Returns
    -------
    Explanation
        As written.

    Raises
    ------
    ManifestError
        If the patch cannot be read.
    SlideError
        If the slide cannot be read.
    PlanError
        If the patch is smaller than the model's tiles, or the place lies beyond the slide.
    ModelError
        If the bundle cannot be read, or takes features.
    ExportError
        If `out` is there, or cannot be written.
    """
    # ManifestError and SlideError are the readers'.
    path, out = Path(path), Path(out)
    bundle = model if isinstance(model, Bundle) else read_bundle(model)
    tile, facts = bundle.facts.tile, bundle.facts
    if tile.height == 1:
        raise ModelError(f"{bundle.folder}: takes features of an encoder, and no image that could be explained")
    if out.exists():
        raise ExportError(f"{out}: is there already; choose another --out")
    notes: list[str] = []
    if at is None:
        name, pixels = path.name, _patch(path, Size(tile.width, tile.height), notes)
    else:
        name, pixels = f"{path.name} at {at[0]:g}, {at[1]:g}", _of_slide(path, bundle, at, mpp or MppWish())
    recogniser = open_recogniser(bundle, calibrated=False)
    raw = recogniser.predict_proba(pixels[None])
    proba = raw[0] if facts.calibration is None else facts.calibration.calibration.apply(raw)[0]
    network, maps, missing = _looked_into(bundle, recogniser, pixels, raw[0], on_progress)
    found = Explanation(name, pixels, facts.classes, proba, maps, network, missing)
    footer = {"tile": name, "model": f"{facts.algorithm}, {bundle.digest}", "Sentinode": __version__}
    _write(ExplainView(found, tuple(notes), facts, footer), out)
    return found


def parse_place(text: str) -> tuple[float, float]:
    """Read a place from a command line.

    Parameters
    ----------
    text : str
        ``X,Y``.

    Returns
    -------
    (x, y)
        In level-0 pixels.

    Raises
    ------
    PlanError
        If it is not two numbers.

    Examples
    --------
    >>> parse_place("12034,5120.5")
    (12034.0, 5120.5)
    """
    try:
        x, y = (float(part) for part in text.split(","))
    except ValueError as error:
        raise PlanError(f"--at {text}: write two numbers, e.g. --at 12034,5120") from error
    return x, y


def _patch(path: Path, size: Size, notes: list[str]) -> NDArray[np.uint8]:
    with PatchReader(path.parent) as reader:
        pixels = reader.read(path.name).pixels
    height, width = pixels.shape[:2]
    if height < size.height or width < size.width:
        raise PlanError(
            f"{path}: has {width} x {height} px, and the model takes {size.width} x {size.height}; give a larger "
            "image, or a slide and --at X,Y"
        )
    if (height, width) == size.shape:
        return pixels
    notes.append(f"The image has {width} x {height} px; shown is its middle, {size.width} x {size.height}, as it is.")
    y, x = (height - size.height) // 2, (width - size.width) // 2
    return np.ascontiguousarray(pixels[y : y + size.height, x : x + size.width])


def _of_slide(path: Path, bundle: Bundle, at: tuple[float, float], mpp: MppWish) -> NDArray[np.uint8]:
    tile_mpp, side = bundle.mpp_of_tiles(), bundle.facts.tile.width
    with open_slide(path, mpp) as slide:
        scale, size = slide.info.scale, slide.info.size
        if not (0 <= at[0] < size.width and 0 <= at[1] < size.height):
            raise PlanError(f"{path}: has {size.width} x {size.height} px; {at[0]:g}, {at[1]:g} lies beyond")
        extent = max(1, round(side * tile_mpp / scale.mpp))
        corner = (round(at[0] - extent / 2), round(at[1] - extent / 2))
        return slide.read_pixels(Box(*corner, extent, extent), Size(side, side))


def _looked_into(
    bundle: Bundle,
    recogniser: Recogniser,
    tile: NDArray[np.uint8],
    raw: NDArray[np.float32],
    on_progress: Callable[[int, int], None] | None,
) -> tuple[NetworkExplanation | None, tuple[SaliencyMap, ...], tuple[str, ...]]:
    facts = bundle.facts
    why = f"layers, Grad-CAM and integrated gradients: {facts.algorithm} is no network"
    if GRAPH_FILE in bundle.files:
        code = facts.columns.index(facts.positive)
        expected = raw[[facts.classes.index(name) for name in facts.columns]]  # in the order of the graph
        try:
            network = explain_network(
                bundle.folder / GRAPH_FILE, tile, code, expected, facts.seed, on_progress=on_progress
            )
        except MissingExtra as error:
            why = f"layers, Grad-CAM and integrated gradients: {error}"
        else:
            return network, network.maps, network.missing
    values = occlusion_map(log_odds_of(recogniser.predict_proba, len(facts.classes) - 1), tile)
    return None, (SaliencyMap("occlusion", values, note=OCCLUDED),), (why,)


def _write(view: ExplainView, out: Path) -> None:
    found = view.found
    try:
        with whole_folder(out) as part:
            write_explain_page(view, part / PAGE)
            content = json.dumps(found.to_json(), indent=2, ensure_ascii=False, allow_nan=False)
            (part / "explain.json").write_text(content + "\n", encoding="utf-8")
            Image.fromarray(found.tile).save(part / "tile.png")
            for one in found.maps:
                name = one.method.lower().replace(" ", "-")
                Image.fromarray(map_over_tile(found.tile, one.values)).save(part / f"{name}.png")
    except OSError as error:
        raise ExportError(f"{out}: cannot be written ({error.strerror or error}); choose another --out") from error
