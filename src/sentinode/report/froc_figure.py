"""The FROC curve as a figure: lesions found against false alarms a slide."""

from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator, PercentFormatter

from sentinode.evaluation.froc import RATES, Froc, FrocSpread
from sentinode.report.figures import PALETTE, STYLE

__all__ = ["froc_figure"]

LEAST, MOST = 0.125, 8.0
"""Ends of the axis of false alarms; what lies left of it is drawn at its end."""


def froc_figure(found: Froc, spread: FrocSpread, *, notes: Sequence[str] = ()) -> Figure:
    """Plot the curve, and the six sensitivities that are read off it with their intervals.

    Parameters
    ----------
    found : Froc
        With a lesion at least.
    spread : FrocSpread
        Intervals over patients; NaN where they cannot be had.
    notes : sequence of str
        Lines to stand below, e.g. that the slides are synthetic.

    Returns
    -------
    matplotlib.figure.Figure
        False alarms a slide on a logarithmic axis from 1/8 to 8.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(5.6, 4.2), layout="constrained")
        axes = figure.subplots()
    # As the sensitivities are read: linear between the points, level beyond them.
    rates = np.unique(np.concatenate([np.geomspace(LEAST, MOST, 400), found.false_alarms.clip(LEAST, MOST)]))
    sensitivity = np.interp(rates, found.false_alarms[::-1], found.sensitivity[::-1])
    axes.plot(rates, sensitivity, color=PALETTE[0], lw=1.8)
    low, high = np.array(spread.at_rates).T
    bars = np.nan_to_num(np.maximum([found.at_rates - low, high - np.array(found.at_rates)], 0.0))
    axes.errorbar(RATES, found.at_rates, bars, color=PALETTE[0], fmt="o", ms=5, capsize=3, lw=1.2)
    axes.set(xscale="log", xlim=(LEAST, MOST * 1.12), ylim=(0, 1.02))
    axes.set_xticks([LEAST, *RATES], ["1/8", "1/4", "1/2", "1", "2", "4", "8"])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_xlabel("\n".join(["false alarms a slide", *notes]))
    axes.set_ylabel("lesions found")
    axes.set_title(
        f"FROC score {found.score:.3f}; lesions: {found.n_lesions}, slides: {found.n_slides}", loc="left", fontsize=10
    )
    axes.grid(color="#EEEEEE")
    return figure
