"""The page of one tile: what the answer rests on, and what each layer of the network made of the tile."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from sentinode.models.bundle import BundleFacts
from sentinode.models.explaining import Explanation, LayerView, NetworkExplanation, SaliencyMap
from sentinode.report.figures import PALETTE, STYLE, to_svg
from sentinode.report.heatmap import map_over_tile
from sentinode.report.page import Drawing, Gallery, Page, Picture, Section, TextTable, picture, write_page

__all__ = ["ExplainView", "write_explain_page"]

SHOWN_PX = 255
"""Side at which tile and maps are shown."""

MAPS_SHOWN = 16
"""Feature maps of a layer: those that vary most over the tile."""

UNITS_SHOWN = 16
"""Units of the last hidden layer: those that weigh most."""

LEARNED = 0.7
"""A map that is this much alike with shuffled weights shows the image and not what was learned."""


@dataclass(frozen=True, eq=False)
class ExplainView:
    """What stands on the page.

    Parameters
    ----------
    found : Explanation
        Of the tile.
    notes : tuple of str
        What one should know before.
    facts : BundleFacts
        The model.
    footer : mapping of str to str
        Where it came from.
    """

    found: Explanation
    notes: tuple[str, ...]
    facts: BundleFacts
    footer: Mapping[str, str]


def write_explain_page(view: ExplainView, path: Path) -> None:
    """Write the page: one file, nothing fetched from anywhere.

    Parameters
    ----------
    view : ExplainView
        What stands on it.
    path : Path
        Of the ``.html``.

    Raises
    ------
    ExportError
        If it cannot be written.
    """
    # ExportError is write_page's.
    facts, found = view.facts, view.found
    answer = dict(zip(found.classes, found.proba.tolist(), strict=True))
    page = Page(
        title=f"What {facts.algorithm} saw on {found.name}",
        lead=f"Probability of {facts.positive}: {answer[facts.positive]:.3f}. Maps say where an answer comes from, not "
        "whether it is right, and not why a tumour is one.",
        badges=(
            "research use only",
            f"model {facts.algorithm}",
            *(("trained on synthetic images",) if facts.data.synthetic else ()),
        ),
        notes=view.notes,
        sections=(_where(found), *(() if found.network is None else _walk(found.network, answer))),
        footer=tuple(view.footer.items()),
    )
    write_page(page, path)


def _where(found: Explanation) -> Section:
    pictures = [_large(found.tile, "the tile")]
    rows = []
    for one in found.maps:
        flat = float(np.abs(one.values).max()) < 1e-6
        pictures.append(_large(map_over_tile(found.tile, one.values), one.method))
        rows.append((one.method, "nothing: the map is empty" if flat else one.note, _alike(one)))
    header = ("map", "what it says", "with shuffled weights")
    text = (
        f"Red speaks for {found.classes[-1]}, blue against it; the strongest place of each map has the full colour, "
        "however weak it is. The last column is the sanity check of Adebayo et al. (2018): rank correlation with the "
        "map of the same network whose weights were shuffled. Near 0, the map depends on what was learned; "
        f"from {LEARNED} on, do not read it."
    )
    more = " ".join(f"Not shown: {one}." for one in found.missing)
    return Section(
        "Where the answer comes from",
        f"{text} {more}".strip(),
        tables=(TextTable(header, tuple(rows)),),
        galleries=(Gallery("", tuple(pictures), SHOWN_PX),),
    )


def _alike(one: SaliencyMap) -> str:
    if not np.isfinite(one.alike):
        return "cannot be told"
    return f"{one.alike:.2f}" + ("; do not read it" if one.alike >= LEARNED else "")


def _walk(network: NetworkExplanation, answer: Mapping[str, float]) -> tuple[Section, ...]:
    first = [*_standardised(network), *_kernels(network)]
    sections = [
        Section(
            "What goes in, and what the first layer looks for",
            "Each channel of the tile with the mean of the training images taken away, in units of their deviation; "
            "and the kernels that it meets: grey is zero.",
            galleries=(Gallery("", tuple(first), SHOWN_PX),),
        )
    ]
    maps = [one for one in network.layers if one.values.ndim == 3]
    if maps:
        pictures = tuple(_feature_maps(one) for one in maps)
        sections.append(
            Section(
                "Through the layers",
                f"Of each layer the {MAPS_SHOWN} feature maps that vary most over the tile; bright is strong, on one "
                "scale a layer. Pooling keeps the strongest of its neighbours and forgets where exactly it was.",
                galleries=(Gallery("", pictures, SHOWN_PX),),
            )
        )
    dense = [one for one in network.layers if one.values.ndim == 1]
    rows = tuple(
        (one.title, f"{one.values.size:,}", f"{(np.abs(one.values) > 1e-6).mean():.0%}", f"{one.values.max():.3g}")
        for one in dense
    )
    tables = (TextTable(("dense layer", "units", "that answer", "strongest"), rows),) if rows else ()
    drawn = (Drawing(to_svg(_units(network)), "units of the last hidden layer, by what they add to the log odds"),)
    sections.append(
        Section(
            "To the answer",
            "The softmax turns the last sums into probabilities: "
            + ", ".join(f"{name} {value:.3f}" for name, value in answer.items())
            + ".",
            tables=tables,
            figures=drawn if network.contributions.size else (),
        )
    )
    return tuple(sections)


def _standardised(network: NetworkExplanation) -> list[Picture]:
    if network.standardised is None:
        return []
    channels = network.standardised
    most = float(np.abs(channels).max()) or 1.0
    scaled = np.clip(channels.transpose(1, 2, 0) / most / 2 + 0.5, 0, 1)
    low, high = float(channels.min()), float(channels.max())
    return [_large(np.round(255 * scaled).astype(np.uint8), f"standardised input, from {low:.1f} to {high:.1f}")]


def _kernels(network: NetworkExplanation) -> list[Picture]:
    kernels = network.kernels
    if kernels.ndim != 4 or kernels.shape[1] != 3 or not len(kernels):
        return []
    most = np.abs(kernels).max(axis=(1, 2, 3), keepdims=True)
    scaled = np.round(255 * (kernels / np.maximum(most, 1e-12) / 2 + 0.5)).astype(np.uint8).transpose(0, 2, 3, 1)
    high, wide = kernels.shape[2:]
    what = "kernels" if high <= 16 else "gradients of the strongest units"
    return [_large(_grid(scaled[:64]), f"{min(64, len(kernels))} {what} of {wide} x {high} x 3")]


def _feature_maps(layer: LayerView) -> Picture:
    values = layer.values
    order = np.argsort(-values.std(axis=(1, 2)), kind="stable")[:MAPS_SHOWN]
    low, high = float(values[order].min()), float(values[order].max())
    scaled = (values[order] - low) / max(high - low, 1e-12)
    shown = np.round(255 * colormaps["magma"](scaled)[..., :3]).astype(np.uint8)
    n, height, width = values.shape
    return _large(_grid(shown), f"{layer.title}: {n:,} maps of {width} x {height}")


def _grid(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    # (n, h, w, 3) side by side, about square, with white between.
    n, height, width = images.shape[:3]
    columns = int(np.ceil(np.sqrt(n)))
    gap = max(1, width // 24)
    rows = -(-n // columns)
    sheet = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, 3), 255, np.uint8)
    for place, image in enumerate(images):
        y, x = place // columns * (height + gap), place % columns * (width + gap)
        sheet[y : y + height, x : x + width] = image
    return sheet


def _large(pixels: NDArray[np.uint8], caption: str) -> Picture:
    # Pixels stay pixels: enlarged by a whole factor, or left.
    height, width = pixels.shape[:2]
    factor = max(1, round(2 * SHOWN_PX / max(height, width)))
    shown = Image.fromarray(pixels).resize((width * factor, height * factor), Image.Resampling.NEAREST)
    return picture(np.asarray(shown), caption)


def _units(network: NetworkExplanation) -> Figure:
    order: Sequence[int] = np.argsort(-np.abs(network.contributions), kind="stable")[:UNITS_SHOWN].tolist()
    values = network.contributions[order]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(6.4, 2.6), layout="constrained")
        axes = figure.subplots()
    colours = [PALETTE[1] if value > 0 else PALETTE[0] for value in values]
    axes.bar(range(len(order)), values, color=colours)
    axes.set_xticks(range(len(order)), [str(unit + 1) for unit in order], fontsize=8)
    axes.axhline(0, color="#888888", lw=0.8)
    axes.set_xlabel("unit")
    axes.set_ylabel("log odds")
    return figure
