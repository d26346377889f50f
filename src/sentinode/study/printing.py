"""The table of a study for a terminal, a spreadsheet and a paper."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from sentinode.errors import ExportError
from sentinode.evaluation.metrics import METRICS
from sentinode.storage import write_whole
from sentinode.study.table import AS_THEY_ARE, FAMILY, VIEWS, StudyTable

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = [
    "Grid",
    "broken",
    "coverage",
    "grids",
    "level",
    "render_terminal",
    "to_latex",
    "wide_frame",
    "write_csv",
    "write_latex",
]

NOT_AVAILABLE = "n/a"
COSTS = ("train", "train_sd", "train_cpu", "predict", "search", "memory", "parameters_low", "parameters")
POOLED = "Pooled over the test patches of a repeat"
WITHIN = "Within each patient, then averaged (patients that count)"
_SHARES = frozenset({"accuracy", "balanced_accuracy", "sensitivity", "specificity"})
_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
}

SHOWN_OF_CALIBRATION = {"ece": "ECE", "rms_corrected": "root of squared error, bias taken off", "brier": "Brier score"}
"""Measure -> how a table calls it."""


def wide_frame(table: StudyTable) -> pd.DataFrame:
    """Lay a table out with one row an algorithm, for spreadsheets.

    Parameters
    ----------
    table : StudyTable
        From `sentinode.study.table.summarise`.

    Returns
    -------
    DataFrame
        ``algorithm, n_repeats``, what the study was (``protocol, unknown, synthetic``, digests of plan, data and
        splits, the notes), then for each metric and view ``<metric>_<view>_mean, _sd, _low, _high, _n_patients``,
        the calibration (``ece_as_they_are_value, _low, _high`` ...),
        the costs (seconds, bytes), and for each tested metric ``<metric>_vs_reference_...``.
    """
    # In every row: a table is cut up, and each piece must say what it is of.
    protocol = table.facts["protocol"]
    about = {
        "protocol": protocol["name"],
        "unknown": protocol["unknown"],
        "synthetic": bool(table.facts["provenance"]["synthetic"]),
        **{name: str(table.facts[name]) for name in ("plan", "data", "splits")},
        "notes": " ".join(table.notes),
    }
    rows = []
    for name in table.algorithms:
        row: dict[str, object] = {"algorithm": name, "n_repeats": table.costs["n_repeats"][name], **about}
        for metric in METRICS:
            for view in VIEWS:
                found = table.row(name, metric, view)
                for part in ("mean", "sd", "low", "high", "n_patients"):
                    row[f"{metric}_{view}_{part}"] = found[part]
        row |= {f"{cost}_{_unit(cost)}".rstrip("_"): table.costs.loc[name, cost] for cost in COSTS}
        for _, found in table.calibration[table.calibration["algorithm"] == name].iterrows():
            if found["measure"] in SHOWN_OF_CALIBRATION:
                what = f"{found['measure']}_{found['proba'].replace(' ', '_')}"
                row |= {f"{what}_{part}": found[part] for part in ("value", "low", "high")}
        for _, compared in table.comparisons[table.comparisons["algorithm"] == name].iterrows():
            numbers = compared.drop(["algorithm", "metric"])
            row |= {f"{compared['metric']}_vs_reference_{part}": value for part, value in numbers.items()}
        rows.append(row)
    return pd.DataFrame(rows)


def write_csv(table: StudyTable, path: Path | str) -> None:
    """Write `wide_frame` as CSV, all of it or nothing; what is undefined is an empty cell.

    Parameters
    ----------
    table : StudyTable
        From `sentinode.study.table.summarise`.
    path : Path or str
        File to write.

    Raises
    ------
    ExportError
        If it cannot be written.
    """
    _write(wide_frame(table).to_csv(index=False), Path(path))


def write_latex(table: StudyTable, path: Path | str) -> None:
    """Write `to_latex` to a file, all of it or nothing.

    Parameters
    ----------
    table : StudyTable
        From `sentinode.study.table.summarise`.
    path : Path or str
        File to write.

    Raises
    ------
    ExportError
        If it cannot be written.
    """
    _write(to_latex(table), Path(path))


def to_latex(table: StudyTable) -> str:
    """Set a table for a paper; needs the package ``booktabs``.

    Parameters
    ----------
    table : StudyTable
        From `sentinode.study.table.summarise`.

    Returns
    -------
    str
        A ``table`` environment each for accuracy and time; for every metric pooled, and within patients, with its
        interval; and for the comparisons, where there are any, each with the smallest difference that the design
        could have shown. The notes stand below every one. Names are escaped.
    """
    header, rows = _first_rows(table, dash="--")
    tested = [[_p(table, name, metric) for metric in FAMILY] for name in table.algorithms]
    first = _tabular(
        [*header, *(f"$p$ ({METRICS[metric].label})" for metric in FAMILY)],
        [[*cells, *values] for cells, values in zip(rows, tested, strict=True)],
        text_columns=1,
    )
    caption = f"{_caption(table)} p: adjusted after Holm over all comparisons."
    floats = [_float(first, [caption, *table.notes])]
    for view, title in (("pooled", POOLED), ("patients", WITHIN)):
        metrics = _metric_table(table, view)
        floats.append(_float(metrics, [f"{title}. {_caption(table)}", *table.notes]))
    if len(table.comparisons):
        floats.append(_float(_comparison_table(table), [f"{_comparison_caption(table)}.", *table.notes]))
    return "".join(floats)


def _metric_table(table: StudyTable, view: str) -> list[str]:
    rows = [
        [METRICS[metric].label if place == 0 else "", name, *_mean_and_interval(table, name, metric, view)]
        for metric in METRICS
        for place, name in enumerate(table.algorithms)
    ]
    return _tabular(["metric", "algorithm", "mean ± sd", f"{level(table)} interval"], rows, text_columns=2)


def _comparison_table(table: StudyTable) -> list[str]:
    # What a page is wide enough for; the rest is in the CSV.
    header, rows = _comparison_rows(table)
    left_out = {"p", "d", "repeats + = -*", "Wilcoxon*"}
    kept = [place for place, name in enumerate(header) if name not in left_out]
    return _tabular([header[place] for place in kept], [[row[place] for place in kept] for row in rows], text_columns=2)


def _mean_and_interval(table: StudyTable, name: str, metric: str, view: str) -> tuple[str, str]:
    found = table.row(name, metric, view)
    interval = NOT_AVAILABLE
    if not pd.isna(found["low"]):
        interval = f"{_number(metric, found['low'])} to {_number(metric, found['high'])}"
    return _number(metric, found["mean"]) + _spread(metric, found["sd"]), interval


def _tabular(heads: list[str], rows: list[list[str]], text_columns: int) -> list[str]:
    columns = "l" * text_columns + "r" * (len(heads) - text_columns)
    return [
        rf"  \begin{{tabular}}{{{columns}}}",
        r"    \toprule",
        # A head may hold mathematics; all else that LaTeX reads as its own is escaped.
        "    " + " & ".join(head if "$" in head else _escaped(head) for head in heads) + r" \\",
        r"    \midrule",
        *("    " + " & ".join(_escaped(cell) for cell in row) + r" \\" for row in rows),
        r"    \bottomrule",
        r"  \end{tabular}",
    ]


def _float(tabular: list[str], sentences: list[str]) -> str:
    caption = " ".join(_escaped(sentence) for sentence in sentences)
    lines = [r"\begin{table}", r"  \centering", *tabular, rf"  \caption{{{caption}}}", r"\end{table}", ""]
    return "\n".join(lines)


@dataclass(frozen=True)
class Grid:
    """A part of the table, its cells already words.

    Parameters
    ----------
    name : str
        ``"first"``, ``"pooled"``, ``"patients"``, ``"comparisons"`` or ``"costs"``.
    title : str
        What it shows, and how to read it.
    header : tuple of str
        Names of the columns.
    rows : tuple of tuple of str
        As long as the header; the first cell names the algorithm.
    """

    name: str
    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def grids(table: StudyTable) -> tuple[Grid, ...]:
    """Put a table into words, part by part.

    Parameters
    ----------
    table : StudyTable
        From `sentinode.study.table.summarise`.

    Returns
    -------
    tuple of Grid
        First "algorithm, accuracy, time", as the founding experiment had it; then every metric in both views,
        the comparisons (where there are any), what a probability is worth, and the costs.
    """
    parts = [
        _grid("first", _caption(table), *_first_rows(table, dash=" to ")),
        _grid("pooled", f"{POOLED}: mean ± sd [{level(table)} interval over patients]", *_metric_rows(table, "pooled")),
        _grid(
            "patients", f"{WITHIN}: mean ± sd [{level(table)} interval over patients]", *_metric_rows(table, "patients")
        ),
    ]
    if len(table.comparisons):
        parts.append(_grid("comparisons", _comparison_caption(table), *_comparison_rows(table)))
    if len(table.calibration):
        parts.append(_grid("calibration", _calibration_caption(table), *_calibration_rows(table)))
    return (*parts, _grid("costs", "Cost of a repeat", *_cost_rows(table)))


def render_terminal(table: StudyTable) -> "tuple[RenderableType, ...]":
    """Set a table for a terminal.

    Parameters
    ----------
    table : StudyTable
        From `sentinode.study.table.summarise`.

    Returns
    -------
    tuple of rich renderables
        The `grids`, then the notes; to be printed one after another.
    """
    from rich.text import Text  # noqa: PLC0415 - slow to import, and only a terminal needs it

    parts: list[RenderableType] = [_rendered(grid) for grid in grids(table)]
    parts += [Text(f"Note: {note}", style="yellow") for note in table.notes]
    return tuple(parts)


def level(table: StudyTable) -> str:
    """Name the level of the intervals of a table.

    Parameters
    ----------
    table : StudyTable
        From `sentinode.study.table.summarise`.

    Returns
    -------
    str
        Such as ``"95 %"``.
    """
    return f"{100 * (1 - float(table.facts['alpha'])):g} %"


def coverage(table: StudyTable) -> str:
    """Say how far the intervals over patients can be trusted.

    Parameters
    ----------
    table : StudyTable
        From `sentinode.study.table.summarise`.

    Returns
    -------
    str
        A clause; what the simulations found (docs/statistics.md) is known at 95 % only.
    """
    if float(table.facts["alpha"]) == 0.05:
        return "from few patients it holds the truth about nine times in ten"
    return "from few patients it holds the truth less often than it says"


def broken(grid: Grid, row: tuple[str, ...]) -> tuple[str, ...]:
    r"""Put an interval on a line of its own where a row would otherwise be too wide to be read.

    Parameters
    ----------
    grid : Grid
        A part of the table.
    row : tuple of str
        One of its rows.

    Returns
    -------
    tuple of str
        The cells, some with a line break.

    Examples
    --------
    >>> row = ("dbn", "79.3 ± 4.1 [69.9 to 83.7]")
    >>> broken(Grid("pooled", "", ("algorithm", "accuracy (%)"), (row,)), row)[1]
    '79.3 ± 4.1\n[69.9 to 83.7]'
    """
    sign = {"pooled": "[", "patients": "[", "comparisons": "to "}.get(grid.name)
    return tuple(cell.replace(f" {sign}", f"\n{sign}") for cell in row) if sign else row


def _caption(table: StudyTable) -> str:
    low, high = (int(end) for end in (table.costs["n_repeats"].min(), table.costs["n_repeats"].max()))
    n = f"{high}" if low == high else f"{low} to {high}"
    return (
        f"Mean ± sd over {n} repeats [{level(table)} interval over patients; {coverage(table)}]; "
        "time is that of one training, by the wall clock and of the processor."
    )


def _first_rows(table: StudyTable, dash: str) -> tuple[list[str], list[list[str]]]:
    rows = [
        [
            name,
            _estimate(table, name, "accuracy", dash),
            *(_with_unit(table.costs[cost][name]) for cost in ("train", "train_cpu")),
        ]
        for name in table.algorithms
    ]
    return ["algorithm", "accuracy", "time (wall)", "CPU time"], rows


def _metric_rows(table: StudyTable, view: str) -> tuple[list[str], list[list[str]]]:
    rows = [
        [name, *(_compact(metric, table.row(name, metric, view)) for metric in METRICS)] for name in table.algorithms
    ]
    header = [f"{one.label} (%)" if metric in _SHARES else one.label for metric, one in METRICS.items()]
    return ["algorithm", *header], rows


def _compact(metric: str, found: pd.Series) -> str:
    # The unit stands in the header: a row has seven of these.
    if pd.isna(found["mean"]):
        return NOT_AVAILABLE
    scale, digits = (100, 1) if metric in _SHARES else (1, 3)
    mean, sd, low, high = (f"{scale * found[part]:.{digits}f}" for part in ("mean", "sd", "low", "high"))
    spread = "" if pd.isna(found["sd"]) else f" ± {sd}"
    interval = "" if pd.isna(found["low"]) else f" [{low} to {high}]"
    count = f" ({found['n_patients']:.0f})" if found["view"] == "patients" else ""
    return mean + spread + count + interval


def _comparison_caption(table: StudyTable) -> str:
    if pd.isna(table.facts["test_train_ratio"]):
        return f"Difference to {table.reference}; images were drawn, not patients, so that nothing can be tested"
    n = len(table.comparisons)
    rope, alpha = float(table.facts["rope"]), float(table.facts["alpha"])
    return (
        f"Difference to {table.reference}, corrected resampled t-test (test/train patients "
        f"{float(table.facts['test_train_ratio']):.2f}), p (Holm) over these {n}; {level(table)} intervals, not "
        f"adjusted for {n} comparisons: over splits (corrected) and over patients (too short for few patients); "
        f"equivalent: within ±{rope:g}; could have shown: with 80 % power at {alpha:g}/{n} (Bonferroni's bound on "
        "Holm's decision); * counts and Wilcoxon's p describe repeats that overlap, and test nothing"
    )


def _comparison_rows(table: StudyTable) -> tuple[list[str], list[list[str]]]:
    header = [
        *("algorithm", "metric", "difference", "over splits", "over patients", "p", "p (Holm)", "d", "g"),
        *("worse / equivalent / better", f"could have shown at alpha/{len(table.comparisons)}"),
        *("repeats + = -*", "Wilcoxon*"),
    ]
    rows = []
    for _, one in table.comparisons.iterrows():
        metric = str(one["metric"])
        rows.append([
            str(one["algorithm"]),
            METRICS[metric].label,
            _number(metric, one["mean"], sign=True),
            _ends(metric, one["low"], one["high"]),
            _ends(metric, one["patients_low"], one["patients_high"]),
            _probability(one["p"]),
            _probability(one["p_holm"]),
            _plain(one["d"]),
            _plain(one["g"]),
            _posterior(one),
            _number(metric, one["detectable"]),
            f"{one['n_better']} {one['n_equal']} {one['n_worse']}",
            _probability(one["wilcoxon"]),
        ])
    return header, rows


def _posterior(compared: pd.Series) -> str:
    if pd.isna(compared["equivalent"]):
        return NOT_AVAILABLE
    return " / ".join(_probability(compared[part]) for part in ("worse", "equivalent", "better"))


def _ends(metric: str, low: float, high: float) -> str:
    if pd.isna(low):
        return NOT_AVAILABLE
    return f"{_number(metric, low, sign=True)} to {_number(metric, high, sign=True)}"


def _calibration_caption(table: StudyTable) -> str:
    told = f"What a probability is worth: mean over the repeats [{level(table)} interval over patients]; 0 is perfect"
    before = (table.calibration["proba"] == AS_THEY_ARE).all()
    return f"{told}. Nothing was calibrated: calibrate = 0" if before else told


def _calibration_rows(table: StudyTable) -> tuple[list[str], list[list[str]]]:
    shown = table.calibration[table.calibration["measure"].isin(list(SHOWN_OF_CALIBRATION))]
    rows = []
    for (name, what), found in shown.groupby(["algorithm", "proba"], sort=False):
        of_measure = dict(zip(found["measure"], found[["value", "low", "high"]].to_numpy(float), strict=True))
        rows.append([str(name), str(what), *(_worth(*of_measure[one]) for one in SHOWN_OF_CALIBRATION)])
    return ["algorithm", "probabilities", *SHOWN_OF_CALIBRATION.values()], rows


def _worth(value: float, low: float, high: float) -> str:
    return f"{value:.3f}" if pd.isna(low) else f"{value:.3f} [{low:.3f} to {high:.3f}]"


def _cost_rows(table: StudyTable) -> tuple[list[str], list[list[str]]]:
    header = [
        "algorithm",
        "training s (wall)",
        "training s (CPU)",
        "prediction s",
        "tuning s",
        "peak memory",
        "parameters",
    ]
    rows = []
    for name, cost in table.costs.iterrows():
        spread = "" if pd.isna(cost["train_sd"]) else f" ± {_seconds(cost['train_sd'])}"
        rows.append([
            str(name),
            f"{_seconds(cost['train'])}{spread}",
            *(_seconds(cost[part]) for part in ("train_cpu", "predict", "search")),
            f"{cost['memory'] / 2**20:.0f} MiB",
            _range(cost["parameters_low"], cost["parameters"]),
        ])
    return header, rows


def _estimate(table: StudyTable, name: str, metric: str, dash: str) -> str:
    found = table.row(name, metric)
    text = _number(metric, found["mean"]) + _spread(metric, found["sd"])
    if pd.isna(found["low"]):
        return text
    return f"{text} [{_number(metric, found['low'])}{dash}{_number(metric, found['high'])}]"


def _p(table: StudyTable, name: str, metric: str) -> str:
    if name == table.reference:
        return "reference"
    compared = table.comparisons
    found = compared[(compared["algorithm"] == name) & (compared["metric"] == metric)]["p_holm"]
    return _probability(found.iloc[0]) if len(found) else NOT_AVAILABLE


def _number(metric: str, value: float, *, sign: bool = False) -> str:
    if pd.isna(value):
        return NOT_AVAILABLE
    plus = "+" if sign else ""
    return f"{100 * value:{plus}.1f} %" if metric in _SHARES else f"{value:{plus}.3f}"


def _spread(metric: str, sd: float) -> str:
    if pd.isna(sd):
        return ""
    return f" ± {100 * sd:.1f}" if metric in _SHARES else f" ± {sd:.3f}"


def _probability(value: float) -> str:
    if pd.isna(value):
        return NOT_AVAILABLE
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def _plain(value: float) -> str:
    return NOT_AVAILABLE if pd.isna(value) else f"{value:.2f}"


def _range(low: float, high: float) -> str:
    return f"{high:,.0f}" if low == high else f"{low:,.0f}\N{EN DASH}{high:,.0f}"


def _with_unit(seconds: float) -> str:
    return NOT_AVAILABLE if pd.isna(seconds) else f"{_seconds(seconds)} s"


def _seconds(value: float) -> str:
    if pd.isna(value):
        return NOT_AVAILABLE
    if value == 0 or value >= 1:
        return f"{value:.1f}"
    return f"{value:.2f}" if value >= 0.01 else "<0.01"


def _unit(cost: str) -> str:
    return {"memory": "bytes", "parameters": "", "parameters_low": ""}.get(cost, "seconds")


def _grid(name: str, title: str, header: list[str], rows: list[list[str]]) -> Grid:
    return Grid(name, title, tuple(header), tuple(tuple(row) for row in rows))


def _rendered(grid: Grid) -> "RenderableType":
    from rich import box  # noqa: PLC0415 - slow to import, and only a terminal needs it
    from rich.console import Group  # noqa: PLC0415 - as above
    from rich.table import Table  # noqa: PLC0415 - as above
    from rich.text import Text  # noqa: PLC0415 - as above

    table = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False)
    for place, name in enumerate(grid.header):
        table.add_column(name, justify="left" if place == 0 else "right", no_wrap=place == 0)
    for row in grid.rows:
        table.add_row(*(Text(cell) for cell in broken(grid, row)))
    return Group(Text(grid.title, style="italic"), table)


def _escaped(text: str) -> str:
    signs = re.sub(r"[\\~^&%$#_{}]", lambda found: _LATEX[found.group()], text)
    return signs.replace("±", r"$\pm$").replace("<", r"$<$").replace("\N{EN DASH}", "--")


def _write(text: str, path: Path) -> None:
    try:
        write_whole(path, text)
    except OSError as error:
        raise ExportError(f"{path}: cannot be written ({error.strerror or error}); choose another file") from error
