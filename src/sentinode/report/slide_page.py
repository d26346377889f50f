"""The page of one slide, for a pathologist: what the model says, where to look first, what it is and is not."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sentinode.inference.maps import SuspiciousRegion
from sentinode.inference.predictions import TilePredictions
from sentinode.models.bundle import BundleFacts
from sentinode.report.heatmap import colour_scale
from sentinode.report.page import Gallery, Page, Section, TextTable, picture, write_page

__all__ = ["ShownField", "SlideView", "write_slide_page"]

MOST_REGIONS = 12
"""Rows of the table of regions; the GeoJSON has all of them."""

OVERVIEW_WIDTH = 500  # two side by side on a page of 1,060 px
FIELD_WIDTH = 212


@dataclass(frozen=True, eq=False)
class ShownField:
    """A field of the gallery.

    Parameters
    ----------
    pixels : (h, w, 3) uint8
        Tissue.
    proba : float
        Of the tile in its middle.
    mapped : (h, w, 3) uint8 or None
        The same with what that rests on; None where nobody asked.
    """

    pixels: NDArray[np.uint8]
    proba: float
    mapped: NDArray[np.uint8] | None = None


@dataclass(frozen=True, eq=False)
class SlideView:
    """Everything that stands on the page of a slide.

    Parameters
    ----------
    predictions : TilePredictions
        Of its tiles.
    score : float
        Of the slide.
    score_by : str
        What that is, in words.
    verdict : str
        In a few words.
    thumbnail : (h, w, 3) uint8
        The whole slide.
    overlay : (h, w, 3) uint8
        The same with the heatmap over it.
    regions : sequence of SuspiciousRegion
        The most suspicious first.
    fields : sequence of ShownField
        The most suspicious first.
    field_mpp : float
        Micrometres a pixel of these.
    refused : bool
        Whether the slide was found unfit; then nothing is said of regions.
    quality : mapping of str to int
        Why tiles were left out -> how many.
    warnings : sequence of str
        What a reader must know before anything else.
    facts : BundleFacts
        The model.
    footer : mapping of str to str
        Digests, versions, seconds.
    triage : mapping, optional
        ``verdict`` (clear, review, suspicious) and ``words`` (the promise that it rests on), where the model has one.
    typicality : mapping
        How like the training images its tiles are, as ``result.json`` has it; without ``p_value`` where nobody knows.
    heatmap_note : str
        What is to be known of the heatmap; ``""`` where it is that of the tiles.
    """

    predictions: TilePredictions
    score: float
    score_by: str
    verdict: str
    thumbnail: NDArray[np.uint8]
    overlay: NDArray[np.uint8]
    regions: Sequence[SuspiciousRegion]
    fields: Sequence[ShownField]
    field_mpp: float
    refused: bool
    quality: Mapping[str, int]
    warnings: Sequence[str]
    facts: BundleFacts
    footer: Mapping[str, str]
    triage: Mapping[str, Any] | None = None
    typicality: Mapping[str, Any] = field(default_factory=dict)
    heatmap_note: str = ""


def write_slide_page(view: SlideView, path: Path) -> None:
    """Write the page: one file, nothing fetched from anywhere.

    Parameters
    ----------
    view : SlideView
        What stands on it.
    path : Path
        Of the ``.html``.

    Raises
    ------
    ExportError
        If it cannot be written.
    """
    # ExportError is write_page's.
    predictions, facts = view.predictions, view.facts
    page = Page(
        title=f"Slide {predictions.slide_id}: {view.verdict}",
        lead=(
            f"Score {_number(view.score)} for {facts.positive}, {view.score_by}; "
            f"{int(predictions.recognised.sum()):,} of {len(predictions):,} tiles of tissue were recognised"
            f"{_spared(predictions)}."
        ),
        badges=(
            "research use only",
            f"model {facts.algorithm}",
            f"{predictions.mpp:g} um a pixel",
            *(("trained on synthetic images",) if facts.data.synthetic else ()),
        ),
        notes=tuple(view.warnings),
        sections=(
            *(() if view.triage is None else (_triage(view.triage),)),
            _overview(view),
            _fields(view),
            _regions(view),
            _quality(view),
            _typicality(view.typicality),
            _model(view),
        ),
        footer=tuple(view.footer.items()),
    )
    write_page(page, path)


def _triage(triage: Mapping[str, Any]) -> Section:
    meaning = {
        "clear": "need not be read first",
        "review": "to be read; neither clear nor suspicious",
        "suspicious": "to be read first",
    }
    return Section(f"Triage: {triage['verdict']}", f"{meaning[triage['verdict']].capitalize()}. {triage['words']}")


def _spared(predictions: TilePredictions) -> str:
    if predictions.spared is None or not predictions.spared.any():
        return ""
    return f", {int(predictions.spared.sum()):,} of them by a first look alone"


def _overview(view: SlideView) -> Section:
    pictures = (
        picture(view.thumbnail, "the slide", exact=False),
        picture(
            view.overlay,
            f"the probability of {view.facts.positive} over it; no colour where nothing was recognised",
            exact=False,
        ),
        picture(colour_scale(f"probability of {view.facts.positive}"), ""),
    )
    return Section("Overview", view.heatmap_note, galleries=(Gallery("", pictures, OVERVIEW_WIDTH),))


def _fields(view: SlideView) -> Section:
    pictures = tuple(
        picture(one.pixels, f"{number}. probability {_number(one.proba)}")
        for number, one in enumerate(view.fields, start=1)
    )
    if not pictures:
        return Section("Where to look first", "No tile was recognised.")
    side = view.fields[0].pixels.shape[1] * view.field_mpp
    text = (
        f"The most suspicious fields, each {side:.0f} um wide at {view.field_mpp:g} um a pixel, the suspicious tile in "
        "its middle. They are shown whatever their probability: without a lesion, too, one is the most suspicious."
    )
    galleries = [Gallery("", pictures, FIELD_WIDTH)]
    maps = tuple(
        picture(one.mapped, f"{number}.") for number, one in enumerate(view.fields, start=1) if one.mapped is not None
    )
    if maps:
        text += (
            f" Below, the same fields in grey: red is what speaks for {view.facts.positive} in the tile in the middle, "
            "blue what speaks against it: each place was covered, and the change of the log odds is shown, the "
            "strongest of each tile in the full colour, however weak. It is no reason to believe the answer; "
            "sentinode explain tests such a map against shuffled weights."
        )
        galleries.append(Gallery("", maps, FIELD_WIDTH))
    return Section("Where to look first", text, galleries=tuple(galleries))


def _regions(view: SlideView) -> Section:
    title = "Suspicious regions"
    if view.refused:
        return Section(title, "Not judged: the slide was refused. What the colours above show was not asked of it.")
    if not view.regions:
        return Section(title, "No tile reaches a probability of 0.5.")
    tile_mm = view.predictions.scale.um(float(view.predictions.boxes[:, 2].mean())) / 1000
    rows = tuple(_region_row(number, region, tile_mm) for number, region in enumerate(view.regions[:MOST_REGIONS], 1))
    more = len(view.regions) - len(rows)
    told = "" if 2 * tile_mm <= 0.2 else " Tiles of this size are too coarse to tell isolated tumour cells."
    return Section(
        title,
        "Tiles with a probability of 0.5 or more that share an edge. Not a staging; a tile that a lesion touches "
        f"counts whole, so the extent is given as from-to.{told}",
        tables=(
            TextTable(
                ("", "highest probability", "area, mm²", "longest extent, mm", "size of metastasis, if it is one"),
                rows,
                f"and {more} more in the GeoJSON" if more > 0 else "",
            ),
        ),
    )


def _region_row(number: int, region: SuspiciousRegion, tile_mm: float) -> tuple[str, ...]:
    low, high = region.extent_mm
    classes = region.size_classes(tile_mm)
    return (
        str(number),
        _number(region.proba),
        f"{region.area_mm2:.3f}",
        f"{low:.2f} to {high:.2f}",
        " or ".join(classes) if classes else "cannot be told",
    )


def _quality(view: SlideView) -> Section:
    total = len(view.predictions)
    rows = tuple((reason, f"{n:,}", f"{n / total:.1%}") for reason, n in view.quality.items())
    text = "Tiles that were not shown to the model, and why." if rows else "Every tile was fit to be recognised."
    tables = (TextTable(("left out", "tiles", "of all"), rows),) if rows else ()
    return Section("Quality", text, tables=tables)


def _typicality(known: Mapping[str, Any]) -> Section:
    title = "Like the training images?"
    if "p_value" not in known:
        return Section(title, "Not told: no tile was left to hold against them, or the model does not know them.")
    usual = f"{known['level_of_tiles']:.0%}"
    rows = (
        ("the slide: p-value among the training patients", f"{known['p_value']:.2g}", f"from {_least(known)} to 1"),
        ("tiles unlike the training images", f"{known['atypical']:.1%}", usual),
        ("tiles unlike them in structure, whatever their colours", f"{known['atypical_structure']:.1%}", usual),
    )
    meaning = {
        "typical": "Nothing speaks against it.",
        "unusual": "Further away than every training patient is from the others.",
        "atypical": "Most of its tiles have another structure.",
    }
    text = (
        f"{meaning[known['verdict']]} Its {known['tiles']:,} tiles that were recognised are held against those of "
        f"{known['patients']} training patients, each left out in turn. Like them is not the same as right."
    )
    return Section(title, text, tables=(TextTable(("", "here", "usual"), rows),))


def _least(known: Mapping[str, Any]) -> str:
    return f"{1 / (known['patients'] + 1):.2g}"


def _model(view: SlideView) -> Section:
    facts = view.facts
    rows = tuple(
        (name, _number(one.value), f"{_number(one.low)} to {_number(one.high)}")
        for name, one in facts.metrics.items()
        if name in {"auc", "accuracy", "sensitivity", "specificity"}
    )
    n_train, n_test = (facts.data.n_patients.get(role, 0) for role in ("train", "test"))
    text = f"{facts.intended_use} Trained on {n_train} patients"
    text += f"; its numbers are those of {n_test} others, tile by tile." if rows else "; how good it is, nobody knows."
    if facts.data.synthetic:
        text += " Its training images are synthetic: it says nothing about tissue."
    tables = (TextTable(("tiles of the test patients", "value", "95 % over patients"), rows),) if rows else ()
    return Section("The model", text, tables=tables)


def _number(value: float | None) -> str:
    return "n/a" if value is None or value != value else f"{value:.3f}"  # noqa: PLR0124 - NaN differs from itself
