"""The page of the learning curves: what twice the data would bring, the curves, the numbers."""

from collections.abc import Mapping
from pathlib import Path

from sentinode.evaluation.learning_curve import LearningCurve
from sentinode.report import figures
from sentinode.report.page import Drawing, Page, Section, TextTable, write_page
from sentinode.study.curve import CurveTable, curve_rows, in_words

__all__ = ["curve_page", "write_curve_page"]

LABELS = {"auc": "1 - AUC", "accuracy": "1 - accuracy"}
READ = (
    "Points are means over the repeats, bars their interval, the line the fitted power law a + b n^-c with its "
    "pointwise interval; right of the dashed line nothing was measured. With both axes logarithmic a power law without "
    "a floor is a straight line; one that bends has come near its floor a."
)
HOW = (
    "In each repeat the smaller training part lies in the larger one; the patients that test and those that stop a "
    "training are the same at every size. Intervals come from drawing the tested patients and the repeats anew, with "
    "the law fitted anew each time. All repeats draw their training patients from the same few, which no interval here "
    "can make up for."
)


def write_curve_page(table: CurveTable, folder: Path) -> Path:
    """Write the page of the learning curves beside their trials.

    Parameters
    ----------
    table : CurveTable
        As far as it came.
    folder : Path
        Of the curve.

    Returns
    -------
    Path
        ``folder/learning-curve.html``.

    Raises
    ------
    ExportError
        If the page cannot be written.
    """
    # ExportError is write_page's.
    path = Path(folder) / "learning-curve.html"
    write_page(curve_page(table), path)
    return path


def curve_page(table: CurveTable) -> Page:
    """Lay out the page of the learning curves.

    Parameters
    ----------
    table : CurveTable
        Of `sentinode.study.curve`.

    Returns
    -------
    Page
        Ready to be rendered.
    """
    axes = dict.fromkeys(axis for axis, _, _ in table.curves)
    rows = tuple((axis, in_words((axis, name, metric), curve)) for (axis, name, metric), curve in table.curves.items())
    facts = table.facts
    return Page(
        title="What would more cases bring?",
        lead=f"{len(facts['settings']['algorithms'])} algorithms, {len(facts['leakage'])} repeats, the error against "
        "the number of patients and of patches that were trained on.",
        badges=_badges(table),
        notes=table.notes,
        sections=(
            Section("Twice as much", tables=(TextTable(("of", "answer"), rows),)),
            *(_axis(table, axis) for axis in axes),
            Section("How it was done", HOW),
        ),
        footer=(
            *((f"digest of {key}", str(facts[key])) for key in ("plan", "data", "splits")),
            ("sentinode", str(facts["version"])),
            *((name, str(version)) for name, version in facts["libraries"].items()),
        ),
    )


def _axis(table: CurveTable, axis: str) -> Section:
    drawings = []
    for metric, label in LABELS.items():
        curves = {name: curve for (on, name, of), curve in table.curves.items() if (on, of) == (axis, metric)}
        drawings += _drawings(curves, axis, label)
    header, rows = curve_rows(table, axis)
    return Section(
        f"Error against {axis}", READ, figures=tuple(drawings), tables=(TextTable(header, tuple(map(tuple, rows))),)
    )


def _drawings(curves: Mapping[str, LearningCurve], axis: str, label: str) -> list[Drawing]:
    return [
        Drawing(
            figures.to_svg(figures.learning_curves(curves, unit=f"{axis} to train on", label=label, logarithmic=log)),
            f"{label}, {'both axes logarithmic' if log else 'plain axes'}.",
        )
        for log in (False, True)
    ]


def _badges(table: CurveTable) -> tuple[str, ...]:
    badges = ["research use only"]
    if table.facts["provenance"]["synthetic"]:
        badges.append("synthetic images")
    if not table.complete:
        badges.append(f"not finished: {len(table.points)} of {len(table.facts['points'])} points")
    return tuple(badges)
