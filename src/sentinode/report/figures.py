"""The figures of a study, each a function from numbers to a matplotlib figure.

Figures are built without pyplot, so nothing global is touched, and written as SVG with fixed ids: the same
numbers give the same file.
"""

import io
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator, PercentFormatter, ScalarFormatter
from numpy.typing import NDArray

from sentinode.errors import PlanError
from sentinode.evaluation.calibration import Reliability
from sentinode.evaluation.learning_curve import LearningCurve
from sentinode.evaluation.triage import OperatingPoint, WorkloadCurve

__all__ = [
    "accuracy_per_repeat",
    "colours",
    "confusion_matrices",
    "differences",
    "learning_curves",
    "pretraining_curves",
    "probability_histogram",
    "reliability_diagram",
    "roc_curves",
    "time_against_accuracy",
    "to_svg",
    "training_curves",
    "workload_against_sensitivity",
]

# Okabe and Ito 2008, "Color Universal Design": told apart with any colour vision; their yellow is too pale.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#555555")
INK = "#222222"
STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#888888",
    "axes.labelcolor": INK,
    "axes.titlesize": 11,
    "text.color": INK,
    "xtick.color": "#444444",
    "ytick.color": "#444444",
    "svg.hashsalt": "sentinode",
    "svg.fonttype": "none",
}


def colours(algorithms: Sequence[str]) -> dict[str, str]:
    """Give every algorithm the colour that it has in all figures of a page.

    Parameters
    ----------
    algorithms : sequence of str
        In the order of the table.

    Returns
    -------
    dict of str to str
        Algorithm to a hexadecimal colour.

    Examples
    --------
    >>> colours(["paper-cnn", "dbn"])["dbn"]
    '#D55E00'
    """
    return {name: PALETTE[place % len(PALETTE)] for place, name in enumerate(algorithms)}


def accuracy_per_repeat(values: pd.DataFrame, intervals: pd.DataFrame, *, label: str) -> Figure:
    """Plot the accuracy of each repeat, the repeats joined across algorithms: the comparison is paired.

    Parameters
    ----------
    values : (n_repeats, n_algorithms) DataFrame of float
        Accuracy (0 to 1); columns are the algorithms, in the order of the table.
    intervals : (n_algorithms, 3) DataFrame
        Index the algorithms; columns ``mean``, ``low``, ``high``.
    label : str
        Of the axis: whose accuracy it is, e.g. ``"accuracy on unseen patients"``.

    Returns
    -------
    matplotlib.figure.Figure
        One column an algorithm, one grey line a repeat, the mean with its interval in colour.
    """
    figure, axes = _canvas(width=1.6 + 1.25 * values.shape[1], height=3.8)
    names = [str(name) for name in values.columns]
    places = np.arange(len(names))
    for _, row in values.iterrows():
        axes.plot(places, row.to_numpy(dtype=float), color="#BBBBBB", lw=0.8, marker="o", ms=3, zorder=1)
    for place, (name, colour) in enumerate(colours(names).items()):
        mean, low, high = _numbers(intervals, name, "mean", "low", "high")
        axes.errorbar(
            place,
            mean,
            [[max(mean - low, 0.0)], [max(high - mean, 0.0)]],
            color=colour,
            marker="D",
            ms=7,
            capsize=5,
            lw=2,
            zorder=3,
        )
    axes.set_xticks(places, names, rotation=20, ha="right")
    axes.set_xlim(-0.5, len(names) - 0.5)
    axes.set_ylabel(textwrap.fill(label, 32))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.grid(axis="y", color="#EEEEEE")
    return figure


def roc_curves(bands: Mapping[str, tuple[NDArray[np.float64], ...]], areas: Mapping[str, float]) -> Figure:
    """Plot ROC curves with their bands over patients.

    Parameters
    ----------
    bands : mapping of str to four (g,) float arrays
        Algorithm to false positive rates, and the mean, low and high true positive rates there.
    areas : mapping of str to float
        Algorithm to its area under the curve, for the legend.

    Returns
    -------
    matplotlib.figure.Figure
        All curves in one square, chance as a dotted diagonal.
    """
    figure, axes = _canvas(width=5.2, height=5.0)
    axes.plot([0, 1], [0, 1], color="#AAAAAA", lw=1, ls=":")
    for name, colour in colours(list(bands)).items():
        false_rate, mean, low, high = bands[name]
        axes.fill_between(false_rate, low, high, color=colour, alpha=0.13, lw=0)
        axes.plot(false_rate, mean, color=colour, lw=1.8, label=f"{name}  {areas[name]:.3f}")
    axes.set(xlim=(0, 1), ylim=(0, 1.01), aspect="equal")
    axes.set_xlabel("1 - specificity")
    axes.set_ylabel("sensitivity")
    axes.legend(title="area under the curve", frameon=False, loc="lower right", fontsize=9)
    return figure


def time_against_accuracy(summary: pd.DataFrame, *, label: str) -> Figure:
    """Plot what an algorithm costs against what it reaches.

    Parameters
    ----------
    summary : (n_algorithms, 4) DataFrame
        Index the algorithms; columns ``seconds`` (training, wall clock) and ``mean``, ``low``, ``high``
        (accuracy, 0 to 1).
    label : str
        Of the axis: whose accuracy it is.

    Returns
    -------
    matplotlib.figure.Figure
        Seconds on a logarithmic axis; a recipe of less than ten milliseconds is drawn at ten.
    """
    figure, axes = _canvas(width=6.0, height=3.8)
    for name, colour in colours([str(name) for name in summary.index]).items():
        seconds, mean, low, high = _numbers(summary, name, "seconds", "mean", "low", "high")
        place = max(seconds, 0.01)
        axes.errorbar(
            place,
            mean,
            [[max(mean - low, 0.0)], [max(high - mean, 0.0)]],
            color=colour,
            marker="o",
            ms=8,
            capsize=4,
        )
        axes.annotate(name, (place, mean), xytext=(8, 6), textcoords="offset points", color=colour, fontsize=9)
    axes.set_xscale("log")
    axes.margins(x=0.25)
    axes.set_xlabel("training time of one run (seconds, wall clock)")
    axes.set_ylabel(textwrap.fill(label, 32))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.grid(color="#EEEEEE")
    return figure


def training_curves(log: pd.DataFrame) -> Figure:
    """Plot the loss of training and of stopping patients by epoch: repeats thin, their median thick.

    The median ends where fewer than half of the repeats are still trained.

    Parameters
    ----------
    log : DataFrame
        Columns ``algorithm``, ``stage``, ``repeat``, ``epoch``, ``loss``, ``stop_loss``.

    Returns
    -------
    matplotlib.figure.Figure
        A panel an algorithm and stage.

    Raises
    ------
    PlanError
        If there is nothing to draw.
    """
    panels = _stages(log)
    if not panels:
        raise PlanError("no training curves: none of the algorithms was trained in epochs")
    across = min(len(panels), 3)
    down = -(-len(panels) // across)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(1.0 + 3.6 * across, 3.4 * down), layout="constrained")
        places = figure.subplots(down, across, squeeze=False)
    for axes, (title, of_stage) in zip(places.ravel(), panels.items(), strict=False):
        _curve(axes, of_stage, "loss", PALETTE[0], "training")
        _curve(axes, of_stage, "stop_loss", PALETTE[1], "stopping patients")
        axes.set_title(title)
        axes.legend(frameon=False, fontsize=9)
    for axes in places.ravel()[len(panels) :]:
        axes.set_axis_off()
    for axes in places[:, 0]:
        axes.set_ylabel("loss (lower is better)")
    return figure


def pretraining_curves(log: pd.DataFrame) -> Figure:
    """Plot how the Boltzmann machines of a network learned: repeats thin, their median thick.

    The free energy of the stopping patients' patches above that of the training patches grows as a machine
    begins to know its patches by heart (Hinton 2012, "A practical guide to training restricted Boltzmann
    machines", section 6).

    Parameters
    ----------
    log : DataFrame
        Columns ``algorithm``, ``stage``, ``repeat``, ``epoch``, ``loss`` (reconstruction error),
        ``stop_loss`` (that of the stopping patients) and ``free_energy_gap``; the last two may be absent.

    Returns
    -------
    matplotlib.figure.Figure
        A column a machine: reconstruction error above, gap below.

    Raises
    ------
    PlanError
        If there is nothing to draw.
    """
    panels = _stages(log)
    if not panels:
        raise PlanError("no curves of pre-training: none of the algorithms was pre-trained")
    rows = [("loss", "reconstruction error", PALETTE[0])]
    if "free_energy_gap" in log and log["free_energy_gap"].notna().any():
        rows.append(("free_energy_gap", "free-energy gap", PALETTE[2]))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(1.0 + 2.0 * len(panels), 2.3 * len(rows)), layout="constrained")
        places = figure.subplots(len(rows), len(panels), squeeze=False, sharex="col")
    for (column, label, colour), row in zip(rows, places, strict=True):
        for axes, of_stage in zip(row, panels.values(), strict=True):
            _curve(axes, of_stage, column, colour, label)
            if column == "loss" and "stop_loss" in of_stage:
                _curve(axes, of_stage, "stop_loss", PALETTE[1], label)
        row[0].set_ylabel(label)
    for axes, title in zip(places[0], panels, strict=True):
        axes.set_title(title, fontsize=10)
    for axes in places[:-1].ravel():
        axes.set_xlabel("")
    return figure


def probability_histogram(proba: NDArray[np.float64], *, label: str) -> Figure:
    """Count probabilities in twenty bins.

    Parameters
    ----------
    proba : (n,) float
        From 0 to 1.
    label : str
        Of the axis.

    Returns
    -------
    matplotlib.figure.Figure
        Bars below 0.5 grey, from 0.5 on coloured; 0.5 as a dashed line.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(6.4, 2.6), layout="constrained")
        axes = figure.subplots()
        counts, edges = np.histogram(proba, bins=20, range=(0, 1))
        inks = [PALETTE[1] if edge >= 0.5 - 1e-9 else "#999999" for edge in edges[:-1]]
        axes.bar(edges[:-1], counts, width=0.05, align="edge", color=inks, edgecolor="white", lw=0.6)
        axes.axvline(0.5, color="#555555", ls="--", lw=1)
        axes.set_xlabel(label)
        axes.set_ylabel("patches")
        axes.set_xlim(0, 1)
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def _stages(log: pd.DataFrame) -> dict[str, pd.DataFrame]:
    # Title to log of each algorithm's stages, in the order of the log.
    found = {}
    for name in dict.fromkeys(log["algorithm"].astype(str)):
        of_name = log[log["algorithm"] == name]
        stages = dict.fromkeys(of_name["stage"].astype(str))
        for stage in stages:
            found[f"{name}: {stage}"] = of_name[of_name["stage"] == stage]
    return found


def _curve(axes: Axes, log: pd.DataFrame, column: str, colour: str, label: str) -> None:
    axes.set_xlabel("epoch")
    axes.grid(color="#EEEEEE")
    table = log.pivot_table(index="epoch", columns="repeat", values=column, dropna=False)
    if table.isna().to_numpy().all():
        return
    axes.plot(table.index, table, color=colour, lw=0.6, alpha=0.35)
    # Beyond, the median is that of the few that ran longest, and jumps where one of them stops.
    half = table[2 * table.notna().sum(axis=1) >= table.shape[1]]
    axes.plot(half.index, half.median(axis=1), color=colour, lw=2, label=label)


def confusion_matrices(counts: Mapping[str, NDArray[np.int64]], classes: Sequence[str]) -> Figure:
    """Draw the confusion matrix of each algorithm, in shares of the true class.

    Parameters
    ----------
    counts : mapping of str to (k, k) int array
        Algorithm to counts summed over the repeats, rows the truth, columns the answer.
    classes : sequence of k str
        In the order of the matrices.

    Returns
    -------
    matplotlib.figure.Figure
        A square an algorithm, the share in each cell.
    """
    columns = min(len(counts), 3)
    rows = -(-len(counts) // columns)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(2.7 * columns, 2.7 * rows), layout="constrained")
        panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in panels[len(counts) :]:
        axes.set_axis_off()
    for axes, (name, matrix) in zip(panels, counts.items(), strict=False):
        share = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
        axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
        for truth, answer in np.ndindex(share.shape):
            ink = "white" if share[truth, answer] > 0.55 else INK
            axes.text(answer, truth, f"{share[truth, answer]:.0%}", ha="center", va="center", color=ink)
        axes.set_xticks(range(len(classes)), classes, fontsize=8)
        axes.set_yticks(range(len(classes)), classes, fontsize=8, rotation=90, va="center")
        axes.set_title(name)
        axes.tick_params(length=0)
    figure.supxlabel("answered", fontsize=10)
    figure.supylabel("true", fontsize=10)
    return figure


def differences(comparisons: pd.DataFrame, reference: str, rope: float, label: str) -> Figure:
    """Plot each algorithm's difference to the reference with its corrected interval.

    Parameters
    ----------
    comparisons : (n, 3) DataFrame
        Index the algorithms; columns ``mean``, ``low``, ``high`` (share, -1 to 1); without an interval (NaN)
        the mean stands alone.
    reference : str
        The algorithm that the others are compared with.
    rope : float
        Half the width of the region of practical equivalence, drawn as a grey band.
    label : str
        What differs, e.g. ``"accuracy"``.

    Returns
    -------
    matplotlib.figure.Figure
        A line an algorithm; right of zero is better than the reference.
    """
    figure, axes = _canvas(width=6.4, height=1.3 + 0.42 * len(comparisons))
    axes.axvspan(-rope, rope, color="#EEEEEE")
    axes.axvline(0, color="#888888", lw=1)
    names = [str(name) for name in comparisons.index]
    for place, name in enumerate(reversed(names)):
        mean, low, high = _numbers(comparisons, name, "mean", "low", "high")
        axes.plot([low, high], [place, place], color=INK, lw=1.6)
        axes.plot(mean, place, "D", color=PALETTE[0], ms=7)
    axes.set_yticks(range(len(names)), names[::-1])
    axes.set_ylim(-0.6, len(names) - 0.4)
    axes.set_xlabel(f"{label} minus that of {reference} (grey: practically equal)")
    return figure


def learning_curves(curves: Mapping[str, LearningCurve], *, unit: str, label: str, logarithmic: bool) -> Figure:
    """Plot errors against the amount of training data, with the fitted power laws up to twice the data.

    Parameters
    ----------
    curves : mapping of str to LearningCurve
        Algorithm to its curve, in the order of the table.
    unit : str
        Of the horizontal axis, e.g. ``"patients to train on"``.
    label : str
        Of the vertical one, e.g. ``"1 - AUC"``.
    logarithmic : bool
        Whether both axes are.

    Returns
    -------
    matplotlib.figure.Figure
        Means with intervals, laws with bands; a dashed line where the measured part ends.
    """
    figure, axes = _canvas(width=5.6, height=4.0)
    sizes: set[int] = set()
    for name, colour in colours(list(curves)).items():
        curve = curves[name]
        values, low, high = np.array(curve.errors).T
        bars = np.nan_to_num(np.maximum([values - low, high - values], 0.0))
        axes.errorbar(curve.sizes, values, bars, color=colour, fmt="o", ms=5, capsize=3, lw=1.2, zorder=3)
        axes.plot(curve.axis, curve.fitted, color=colour, lw=1.8, label=name)
        axes.fill_between(curve.axis, curve.low, curve.high, color=colour, alpha=0.13, lw=0)
        axes.axvline(float(curve.sizes[-1]), color="#888888", lw=1, ls="--")
        sizes |= {*curve.sizes.tolist(), 2 * int(curve.sizes[-1])}
    if logarithmic:
        axes.set(xscale="log", yscale="log")
        axes.set_xticks(sorted(sizes), [f"{size:,}" for size in sorted(sizes)])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_locator(MaxNLocator(6))
        axes.yaxis.set_major_formatter(ScalarFormatter())
        axes.yaxis.set_minor_locator(NullLocator())
        tops = [np.nanmax([curve.errors[0].high, curve.errors[0].value]) for curve in curves.values()]
        floors = [min(float(curve.fitted.min()), *(one.value for one in curve.errors)) for curve in curves.values()]
        axes.set_ylim(max(min(floors) / 2, 1e-3), 1.15 * max(tops))
    else:
        axes.set_ylim(bottom=0)
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    axes.set_xlabel(unit)
    axes.set_ylabel(label)
    axes.grid(color="#EEEEEE")
    axes.legend(frameon=False, fontsize=9)
    return figure


def workload_against_sensitivity(curve: WorkloadCurve, points: Sequence[OperatingPoint], *, unit: str) -> Figure:
    """Plot what share of the work is saved against what share of the patients with a tumour is not missed.

    Parameters
    ----------
    curve : WorkloadCurve
        Over all thresholds.
    points : sequence of OperatingPoint
        Promises to mark; those that clear nothing are not.
    unit : str
        ``"slides"`` or ``"patches"``.

    Returns
    -------
    matplotlib.figure.Figure
        Sensitivity with its exact pointwise interval over the workload saved.
    """
    figure, axes = _canvas(width=5.6, height=4.2)
    # Steps: between two scores nothing changes.
    axes.fill_between(
        curve.workload, curve.sensitivity_low, curve.sensitivity_high, color=PALETTE[0], alpha=0.13, lw=0, step="pre"
    )
    axes.step(curve.workload, curve.sensitivity, where="pre", color=PALETTE[0], lw=1.8)
    for point, colour in zip(points, (PALETTE[1], PALETTE[2]), strict=False):
        if point.promise.clears:
            label = f"{point.promise.kind}, alpha {100 * point.promise.alpha:g} %"
            axes.plot(point.workload.value, 1 - point.missed.value, "D", color=colour, ms=7, label=label)
    axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel=f"share of all {unit} called clear (workload saved)")
    axes.set_ylabel("patients with a tumour who are not missed")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1.0))
    axes.grid(color="#EEEEEE")
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=9, loc="lower left")
    return figure


def reliability_diagram(diagrams: Mapping[str, Reliability]) -> Figure:
    """Plot what was said against what came true.

    Parameters
    ----------
    diagrams : mapping of str to Reliability
        Name -> bins.

    Returns
    -------
    matplotlib.figure.Figure
        A point a bin with its interval over patients; the dotted diagonal is perfect.
    """
    figure, axes = _canvas(width=4.6, height=4.4)
    axes.plot([0, 1], [0, 1], color="#AAAAAA", lw=1, ls=":")
    for name, colour in colours(list(diagrams)).items():
        one = diagrams[name]
        bars = np.nan_to_num(np.maximum([one.true - one.low, one.high - one.true], 0.0))
        axes.errorbar(one.said, one.true, bars, color=colour, marker="o", ms=4, capsize=3, lw=1.2, label=name)
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal", xlabel="probability that was said")
    axes.set_ylabel("share that came true")
    axes.grid(color="#EEEEEE")
    if len(diagrams) > 1:
        axes.legend(frameon=False, fontsize=9)
    return figure


def to_svg(figure: Figure) -> str:
    """Write a figure as an SVG element that can stand in an HTML page.

    Parameters
    ----------
    figure : matplotlib.figure.Figure
        Any figure.

    Returns
    -------
    str
        From ``<svg`` on, without XML header and without a date: the same figure gives the same text.
    """
    out = io.StringIO()
    with mpl.rc_context(STYLE):
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    text = out.getvalue()
    return text[text.index("<svg") :]


def _canvas(width: float, height: float) -> tuple[Figure, Axes]:
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        return figure, figure.subplots()


def _numbers(frame: pd.DataFrame, row: str, *columns: str) -> tuple[float, ...]:
    return tuple(frame[list(columns)].astype(float).to_numpy()[frame.index.get_loc(row)].tolist())
