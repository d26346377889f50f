"""The page of a triage: what is promised, what it saves, the operating table, the curve."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sentinode._version import __version__
from sentinode.evaluation.calibration import Reliability, Spread
from sentinode.evaluation.triage import OperatingPoint, TriageCases, WorkloadCurve
from sentinode.models.bundle import BundleFacts
from sentinode.report import figures
from sentinode.report.page import Drawing, Page, Section, TextTable, write_page

__all__ = ["TriageView", "per_hundred", "triage_page", "triage_rows", "write_triage_page"]

TABLE = (
    "alpha is the share of patients with a tumour that may be missed. It is chosen before the result is seen: a table "
    "is to plan with, and whoever picks the row that pleases has no promise any more."
)
CURVE = (
    "Measured on these patients, threshold by threshold, with exact pointwise intervals of the sensitivity: a "
    "description, and no promise."
)


@dataclass(frozen=True, eq=False)
class TriageView:
    """Everything that stands on the page.

    Parameters
    ----------
    facts : BundleFacts
        The model.
    digest : str
        Its name.
    prevalence, delta : float
        As they were stated.
    cases : TriageCases
        What was scored.
    points, table, sites, stored : sequence of OperatingPoint
        At the alpha asked for; at several; of each site; the promises of the model itself.
    curve : WorkloadCurve
        Over all thresholds.
    diagram : Reliability or None
        Of the probabilities of patches.
    notes : sequence of str
        What a reader must know first.
    """

    facts: BundleFacts
    digest: str
    prevalence: float
    delta: float
    cases: TriageCases
    points: Sequence[OperatingPoint]
    table: Sequence[OperatingPoint]
    sites: Sequence[OperatingPoint]
    stored: Sequence[OperatingPoint]
    curve: WorkloadCurve
    diagram: Reliability | None
    notes: Sequence[str]


def write_triage_page(view: TriageView, path: Path) -> None:
    """Write the page: one file, nothing fetched from anywhere.

    Parameters
    ----------
    view : TriageView
        What stands on it.
    path : Path
        Of the ``.html``.

    Raises
    ------
    ExportError
        If it cannot be written.
    """
    # ExportError is write_page's.
    write_page(triage_page(view), path)


def triage_page(view: TriageView) -> Page:
    """Lay out the page.

    Parameters
    ----------
    view : TriageView
        What stands on it.

    Returns
    -------
    Page
        Ready to be rendered.
    """
    cases, unit = view.cases, view.cases.unit
    n_patients, n_ill = len(np.unique(cases.patient)), len(np.unique(cases.patient[cases.positive]))
    lead = (
        f"{len(cases):,} {unit} of {n_patients:,} patients, {n_ill:,} of whom have a tumour; none of them has the "
        f"model seen. Stated prevalence: {_share(view.prevalence)} of the {unit} to be read."
    )
    badges = ["research use only", f"model {view.facts.algorithm}", f"a triage of {unit}"]
    if view.facts.data.synthetic:
        badges.append("model of synthetic images")
    return Page(
        title=f"Which {unit} need not be read first?",
        lead=lead,
        badges=tuple(badges),
        notes=tuple(view.notes),
        sections=(
            _promised(view),
            _operating(view),
            *(() if not view.sites else (_sites(view),)),
            *(() if not view.stored else (_stored(view),)),
            _curve(view),
            *(() if view.diagram is None else (_reliability(view.diagram),)),
        ),
        footer=(
            ("model", f"{view.facts.algorithm}, {view.digest}"),
            ("delta of a confident promise", f"{view.delta:g}"),
            ("Sentinode", __version__),
        ),
    )


def per_hundred(point: OperatingPoint, prevalence: float) -> str:
    """Say what a promise brings among a hundred slides (or patches).

    Parameters
    ----------
    point : OperatingPoint
        Measured at that prevalence.
    prevalence : float
        Share of those to be read that have a tumour.

    Returns
    -------
    str
        A sentence or two.
    """
    promise, unit = point.promise, point.promise.unit
    if not promise.clears:
        return f"Of 100 {unit} none is called clear: too few patients for the promise."
    saved = f"{100 * point.workload.value:.0f}{_interval(point.workload, 100, '.0f')}"
    sure = "on average" if promise.delta is None else f"with a probability of {_share(1 - promise.delta)}"
    among = ""
    if unit == "slides":
        most = f"{100 * prevalence * promise.alpha:.2g}"
        among = f" Where each patient has one slide, that is at most {most} with a tumour among the 100."
    return (
        f"Of 100 {unit}, {_share(prevalence)} of them with a tumour, {saved} need not be read first. Of 100 patients "
        f"with a tumour, at most {100 * promise.alpha:g} have any of their tumour {unit} among those, {sure}.{among}"
    )


def triage_rows(
    points: Sequence[OperatingPoint], *, first: str = "alpha"
) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
    """Put operating points into the words of a table.

    Parameters
    ----------
    points : sequence of OperatingPoint
        One a row.
    first : {"alpha", "site"}
        What the first column tells.

    Returns
    -------
    header : tuple of str
    rows : tuple of tuple of str
    """
    header = (
        first,
        "promise",
        "needed",
        "seen",
        "clear below",
        "workload saved",
        "normal called clear",
        "least now",
    )
    rows = tuple(
        (
            one.promise.site if first == "site" else f"{100 * one.promise.alpha:g} %",
            one.promise.kind,
            f"{one.promise.n_needed:,}",
            f"{one.promise.n_patients:,}",
            f"{one.promise.threshold:.3f}" if one.promise.clears else "clears nothing",
            f"{_share(one.workload.value)}{_interval(one.workload)}",
            f"{_share(one.cleared_normal.value)}{_interval(one.cleared_normal)}",
            _share(one.promise.smallest_alpha),
        )
        for one in points
    )
    return header, rows


def _promised(view: TriageView) -> Section:
    rows = tuple((one.promise.kind, one.promise.in_words(), per_hundred(one, view.prevalence)) for one in view.points)
    return Section("What may be promised", tables=(TextTable(("", "promise", "and what it brings"), rows),))


def _operating(view: TriageView) -> Section:
    header, rows = triage_rows(view.table)
    caption = (
        "needed, seen: patients with a tumour, without a miss and in these data. least now: the smallest alpha that "
        "they could promise without a miss. Intervals: 95 % over patients, the threshold held fixed."
    )
    return Section("Operating table", TABLE, tables=(TextTable(header, rows, caption),))


def _sites(view: TriageView) -> Section:
    header, rows = triage_rows(view.sites, first="site")
    text = "Each site's promise rests on its own patients and holds for them; delta is of each by itself."
    return Section("By site", text, tables=(TextTable(header, rows),))


def _stored(view: TriageView) -> Section:
    rows = tuple(
        (
            one.promise.kind + (f", {one.promise.site}" if one.promise.site else ""),
            f"{100 * one.promise.alpha:g} %",
            f"{one.promise.threshold:.3f}",
            f"{one.n_missed} of {one.n_patients}",
            f"{_share(one.missed.value)}{_interval(one.missed)}",
            f"{_share(one.workload.value)}{_interval(one.workload)}",
        )
        for one in view.stored
    )
    text = (
        "The thresholds that the model brought along, on these patients, of whom they knew nothing. The interval is "
        "exact (Clopper and Pearson); one that lies wholly above alpha says that these are patients of another kind."
    )
    header = ("promise", "alpha", "threshold", "patients missed", "share", "workload saved")
    return Section("How the model's own promises fare here", text, tables=(TextTable(header, rows),))


def _curve(view: TriageView) -> Section:
    figure = figures.workload_against_sensitivity(view.curve, view.points, unit=view.cases.unit)
    return Section(
        "Workload saved against sensitivity",
        CURVE,
        figures=(Drawing(figures.to_svg(figure), f"At a prevalence of {_share(view.prevalence)}."),),
    )


def _reliability(diagram: Reliability) -> Section:
    drawing = Drawing(
        figures.to_svg(figures.reliability_diagram({"this model": diagram})),
        f"{len(diagram.said)} bins of equal numbers of patches; bars: 95 % over patients; dotted: perfect.",
    )
    return Section("Do the probabilities come true?", figures=(drawing,))


def _share(value: float) -> str:
    return "n/a" if not np.isfinite(value) else f"{100 * value:.3g} %"


def _interval(spread: Spread, scale: float = 100, form: str = ".3g") -> str:
    if not (np.isfinite(spread.low) and np.isfinite(spread.high)):
        return ""
    return f" ({scale * spread.low:{form}} to {scale * spread.high:{form}})"
