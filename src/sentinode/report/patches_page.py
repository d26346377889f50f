"""The page of a folder of patches: how many are suspicious, which to look at first, which the model is unsure of."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sentinode._version import __version__
from sentinode.models.bundle import BundleFacts
from sentinode.report import figures
from sentinode.report.page import Drawing, Gallery, Page, Section, TextTable, picture, write_page

__all__ = ["PatchesView", "write_patches_page"]

PICTURE_WIDTH = 118
"""CSS pixels of a patch in a gallery."""


@dataclass(frozen=True, eq=False)
class PatchesView:
    """What stands on the page.

    Parameters
    ----------
    proba : (n,) float
        Of the positive class, of those that were not refused.
    suspicious, unsure : sequence of (pixels, path, proba)
        Patches to show: the most suspicious, and those nearest to 0.5.
    warnings : sequence of str
        What one should know before one trusts it.
    failures : mapping of str to str
        File -> why it has no result.
    refused : mapping of str to int
        Why patches were refused -> how many.
    facts : BundleFacts
        The model.
    footer : mapping of str to str
        Where it came from.
    """

    proba: NDArray[np.float64]
    suspicious: Sequence[tuple[NDArray[np.uint8], str, float]]
    unsure: Sequence[tuple[NDArray[np.uint8], str, float]]
    warnings: Sequence[str]
    failures: Mapping[str, str]
    refused: Mapping[str, int]
    facts: BundleFacts
    footer: Mapping[str, str]


def write_patches_page(view: PatchesView, path: Path) -> None:
    """Write the page: one file, nothing fetched from anywhere.

    Parameters
    ----------
    view : PatchesView
        What stands on it.
    path : Path
        Of the ``.html``.

    Raises
    ------
    ExportError
        If it cannot be written.
    """
    # ExportError is write_page's.
    n, n_suspicious = len(view.proba), int((view.proba >= 0.5).sum())
    n_refused = sum(view.refused.values())
    failed = f"; {n_refused:,} more were refused" if n_refused else ""
    failed += f"; {len(view.failures)} could not be read" if view.failures else ""
    page = Page(
        title=f"{n:,} patches: {n_suspicious:,} suspicious of {view.facts.positive}",
        lead=f"Probability 0.5 or more in {n_suspicious:,} of {n:,}{failed}. Each patch stands for itself alone: "
        "nothing here is a verdict on a slide or a patient.",
        badges=("research use only", f"model {view.facts.algorithm}"),
        notes=(*view.warnings, view.facts.intended_use),
        sections=(
            *((_distribution(view), _galleries(view)) if n else ()),
            *((_refused(view.refused),) if n_refused else ()),
            *((_failures(view.failures),) if view.failures else ()),
        ),
        footer=(*view.footer.items(), ("Sentinode", __version__)),
    )
    write_page(page, path)


def _distribution(view: PatchesView) -> Section:
    drawn = figures.probability_histogram(view.proba, label=f"probability of {view.facts.positive}")
    rows = tuple(
        (f"{low:.1f} to {high:.1f}", f"{n:,}", f"{n / len(view.proba):.1%}")
        for low, high, n in (
            (low, high, int(((view.proba >= low) & ((view.proba < high) | (high == 1.0))).sum()))
            for low, high in ((0.0, 0.1), (0.1, 0.5), (0.5, 0.9), (0.9, 1.0))
        )
    )
    return Section(
        "Probabilities",
        figures=(Drawing(figures.to_svg(drawn), "All patches; the dashed line is 0.5."),),
        tables=(TextTable((f"probability of {view.facts.positive}", "patches", "of all"), rows),),
    )


def _galleries(view: PatchesView) -> Section:
    galleries = [
        Gallery(title, tuple(picture(pixels, f"{proba:.3f} {name}") for pixels, name, proba in shown), PICTURE_WIDTH)
        for title, shown in (("The most suspicious", view.suspicious), ("Where the model is least sure", view.unsure))
        if shown
    ]
    text = (
        "Shown whatever their probability: without a tumour, too, one is the most suspicious. All are in patches.csv."
    )
    return Section("Where to look first", text, galleries=tuple(galleries))


def _refused(refused: Mapping[str, int]) -> Section:
    rows = tuple((why, f"{n:,}") for why, n in sorted(refused.items(), key=lambda one: -one[1]))
    return Section(
        "Refused",
        "Nothing is said of these; patches.csv names them. What is only unlike the training images in structure is "
        "recognised with --allow-atypical, at your own risk.",
        tables=(TextTable(("why", "patches"), rows),),
    )


def _failures(failures: Mapping[str, str]) -> Section:
    return Section("Without a result", tables=(TextTable(("file", "why, and what to do"), tuple(failures.items())),))
