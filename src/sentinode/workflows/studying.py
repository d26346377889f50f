"""A study from its plan to its table, and a learning curve from its plan to its answer."""

from collections.abc import Callable
from pathlib import Path

from sentinode.report.curve_page import write_curve_page
from sentinode.report.study_page import write_study_page
from sentinode.study.curve import CurveTable, run_curve, write_curve
from sentinode.study.events import StudyEvent
from sentinode.study.plan import read_plan
from sentinode.study.printing import write_csv, write_latex
from sentinode.study.runner import run_study
from sentinode.study.table import StudyTable, summarise

__all__ = ["run_curve_from", "run_study_from", "tabulate"]


def run_study_from(
    path: Path | str, out: Path | str, on_event: Callable[[StudyEvent], None] | None = None
) -> StudyTable:
    """Run the study that a plan describes, as far as it is not done, and make its table.

    Parameters
    ----------
    path : Path or str
        The plan, a TOML file.
    out : Path or str
        Folder of the study. Run again with the same folder after an interruption: what is finished stays.
    on_event : callable, optional
        Receives every `sentinode.study.events.StudyEvent`, for progress.

    Returns
    -------
    StudyTable
        Also written to ``out/table.csv``, ``out/table.tex`` and ``out/report.html``.

    Raises
    ------
    PlanError
        With a line for every fault of the plan; or if no trial could be finished.
    ManifestError
        If the images are not as they must be.
    LeakageError
        If a test image could be seen in training.
    MissingExtra
        If an algorithm needs torch and it is not installed.
    ExportError
        If there is no room or no permission in ``out``.
    """
    # All of them are those of the three steps.
    path = Path(path)
    plan = read_plan(path)
    run_study(plan, out, on_event, source=path.read_text(encoding="utf-8-sig"))
    return tabulate(out)


def run_curve_from(
    path: Path | str, out: Path | str, on_event: Callable[[StudyEvent], None] | None = None
) -> CurveTable:
    """Measure the learning curves that a plan asks for, as far as that is not done, and fit them.

    Parameters
    ----------
    path : Path or str
        The plan, a TOML file; ``[curve]`` says at which sizes.
    out : Path or str
        Folder of the curve; the same one goes on after an interruption, and that of a study of the same plan gives its
        trials.
    on_event : callable, optional
        Receives every `sentinode.study.events.StudyEvent`, for progress.

    Returns
    -------
    CurveTable
        Also written to ``out/learning-curve.csv``, ``.json`` and ``.html``.

    Raises
    ------
    PlanError
        With a line for every fault of the plan; or if no trial could be finished.
    ManifestError
        If the images are not as they must be.
    LeakageError
        If a test image could be seen in training.
    MissingExtra
        If an algorithm needs torch and it is not installed.
    ExportError
        If there is no room or no permission in ``out``.
    """
    # All of them are those of the steps.
    table = run_curve(read_plan(path), out, on_event)
    write_curve(table, Path(out))
    write_curve_page(table, Path(out))
    return table


def tabulate(out: Path | str) -> StudyTable:
    """Make the table of a study from what is stored, and write it beside the trials.

    Parameters
    ----------
    out : Path or str
        Folder of the study, complete or not.

    Returns
    -------
    StudyTable
        Also written to ``out/table.csv``, ``out/table.tex`` and ``out/report.html``.

    Raises
    ------
    PlanError
        If there is no study in the folder, or no trial is finished.
    ManifestError
        If the cache of the patches was deleted and the images are not where they were.
    ExportError
        If the files cannot be written.
    """
    # All of them are those of the steps.
    table = summarise(out)
    write_csv(table, Path(out) / "table.csv")
    write_latex(table, Path(out) / "table.tex")
    write_study_page(Path(out), table)
    return table
