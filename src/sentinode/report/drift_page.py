"""The page of a drift test: whether something changed, after how many cases, and what."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from sentinode.evaluation.drift import DriftTest
from sentinode.models.bundle import BundleFacts
from sentinode.report.figures import PALETTE, STYLE, to_svg
from sentinode.report.page import Drawing, Page, Section, TextTable, write_page

__all__ = ["DriftView", "drift_figure", "write_drift_page"]

NAMES = {"stain": "amounts of stain", "appearance": "structure and colours"}
MOST_CASES = 40
"""Rows of the table: the last ones; the CSV has all."""
LOWEST = -3.0
"""Evidence below is drawn there: a gambler who has lost nearly all says no more."""


@dataclass(frozen=True, eq=False)
class DriftView:
    """What stands on the page.

    Parameters
    ----------
    cases : sequence of str
        In their order.
    distances : mapping of str to (n,) float
        Statistic -> of each case.
    known : mapping of str to (m,) float
        Statistic -> of each training patient, left out.
    test : DriftTest
        Evidence after each case.
    shifts : sequence of (str, float)
        What changed, in words, and by how many standard deviations.
    words : sequence of str
        What was found; the first is the answer.
    failures : mapping of str to str
        Case -> why it was not looked at.
    facts : BundleFacts
        The model.
    footer : mapping of str to str
        Where it came from.
    """

    cases: Sequence[str]
    distances: Mapping[str, NDArray[np.float64]]
    known: Mapping[str, NDArray[np.float64]]
    test: DriftTest
    shifts: Sequence[tuple[str, float]]
    words: Sequence[str]
    failures: Mapping[str, str]
    facts: BundleFacts
    footer: Mapping[str, str]


def write_drift_page(view: DriftView, path: Path) -> None:
    """Write the page: one file, nothing fetched from anywhere.

    Parameters
    ----------
    view : DriftView
        What stands on it.
    path : Path
        Of the ``.html``.

    Raises
    ------
    ExportError
        If it cannot be written.
    """
    # ExportError is write_page's.
    at, facts = view.test.alarmed_at, view.facts
    page = Page(
        title="Nothing shows that something changed"
        if at is None
        else f"Changed, after {at} of {len(view.cases)} cases",
        lead=view.words[0],
        badges=(
            "research use only",
            f"model {facts.algorithm}",
            *(("trained on synthetic images",) if facts.data.synthetic else ()),
        ),
        notes=tuple(view.words[1:]),
        sections=(_evidence(view), _changes(view), _cases(view), *_failures(view)),
        footer=tuple(view.footer.items()),
    )
    write_page(page, path)


def drift_figure(view: DriftView) -> Figure:
    """Draw the cases in their order: how far away, and what that adds up to.

    Parameters
    ----------
    view : DriftView
        What was found.

    Returns
    -------
    matplotlib.figure.Figure
        Above, distances over the median of the training patients, whose range is shaded; below, the evidence.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(8.2, 5.4), layout="constrained")
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    places = np.arange(1, len(view.cases) + 1)
    for name, colour in zip(view.distances, PALETTE, strict=False):
        known = view.known[name] / np.median(view.known[name])
        above.axhspan(known.min(), known.max(), color=colour, alpha=0.1, lw=0)
        away = view.distances[name] / np.median(view.known[name])
        above.plot(places, away, "o-", color=colour, ms=4, lw=0.8, label=NAMES.get(name, name))
    above.set_ylabel("distance, 1 = the usual\ntraining patient")
    figure.legend(frameon=False, loc="outside upper left", ncols=2, title="shaded: all training patients", fontsize=9)
    above.set_ylim(bottom=0)
    needed = -np.log10(view.test.alarm)
    below.axhline(needed, color="#D55E00", lw=1, ls="--")
    below.text(places[-1], needed, "alarm", color="#D55E00", ha="right", va="bottom", fontsize=9)
    below.plot(places, np.maximum(view.test.log10_evidence, LOWEST), color="#222222", lw=1.5)
    if view.test.alarmed_at is not None:
        for axes in (above, below):
            axes.axvline(view.test.alarmed_at, color="#D55E00", lw=1)
    below.set_ylabel("evidence (log10)")
    below.set_xlabel("case, in the order in which they came")
    below.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def _evidence(view: DriftView) -> Section:
    caption = (
        f"{len(view.cases)} cases. Were nothing changed, the evidence would ever reach "
        f"{-np.log10(view.test.alarm):.3g} with a probability of at most {view.test.alarm:g}, however often one looks."
    )
    return Section("Case by case", "", figures=(Drawing(to_svg(drift_figure(view)), caption),))


def _changes(view: DriftView) -> Section:
    title = "What is other than in training"
    if not view.shifts:
        return Section(title, "No single number by half a standard deviation of the training images.")
    rows = tuple((words, f"{shift:+.1f}") for words, shift in view.shifts)
    text = "Mean of the cases less that of the training images, in standard deviations of training images."
    if view.test.alarmed_at is None:
        text += " Without an alarm, these may be chance."
    return Section(title, text, tables=(TextTable(("", "standard deviations"), rows),))


def _cases(view: DriftView) -> Section:
    first = max(0, len(view.cases) - MOST_CASES)
    rows = tuple(
        (
            view.cases[row],
            *(f"{one[row]:.2f}" for one in view.distances.values()),
            f"{view.test.p_values[row]:.3f}",
            f"{view.test.log10_evidence[row]:.2f}",
        )
        for row in range(first, len(view.cases))
    )
    header = ("case", *(f"distance by {NAMES.get(name, name)}" for name in view.distances), "p", "evidence (log10)")
    return Section("Cases", tables=(TextTable(header, rows, f"the last {len(rows)}" if first else ""),))


def _failures(view: DriftView) -> tuple[Section, ...]:
    if not view.failures:
        return ()
    rows = tuple(view.failures.items())
    return (Section("Not looked at", "In no number above.", tables=(TextTable(("case", "why"), rows),)),)
