"""What a person sees in a terminal: results, messages, progress with time left; plain lines in a pipe."""

import json
import logging
import re
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from rich.console import Console

if TYPE_CHECKING:
    import pandas as pd

    from sentinode.data.leakage import LeakageFinding
    from sentinode.models.bundle import CalibrationFacts, Int8Facts, PromiseFacts, Value
    from sentinode.study.curve import CurveTable
    from sentinode.study.events import Listener, StudyEvent
    from sentinode.study.table import StudyTable
    from sentinode.workflows.bench import Bench
    from sentinode.workflows.checking import CheckReport
    from sentinode.workflows.demo import Demo, DemoEvent
    from sentinode.workflows.describing import Description
    from sentinode.workflows.drifting import DriftReport
    from sentinode.workflows.first_looking import FirstLooking
    from sentinode.workflows.predicting import SlideDone, TilesDone
    from sentinode.workflows.predicting_patches import PatchRun
    from sentinode.workflows.slide_evaluation import SlideEvaluation
    from sentinode.workflows.slide_scoring import SlideScoring
    from sentinode.workflows.trail import TrailReport
    from sentinode.workflows.training import TrainingEvent
    from sentinode.workflows.triaging import TriageReport

__all__ = [
    "console",
    "demo_progress",
    "message_console",
    "prediction_progress",
    "print_bench",
    "print_calibration",
    "print_check",
    "print_curve",
    "print_demo",
    "print_description",
    "print_drift",
    "print_evaluation",
    "print_explanation",
    "print_first_look",
    "print_int8",
    "print_json",
    "print_manifest",
    "print_patches",
    "print_profile",
    "print_promises",
    "print_rows",
    "print_slide_evaluation",
    "print_slide_scoring",
    "print_slides",
    "print_study",
    "print_tiles",
    "print_trail",
    "print_triage",
    "progress",
    "say",
    "start_logging",
    "study_progress",
    "training_progress",
]

PLAIN_LINE_EVERY_SECONDS = 5.0
SHOWN_OF_A_KIND = 3
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
_NUMBER = re.compile(r"-?[\d,.]*( ?%)?")


def console() -> Console:
    """Open the console for results (standard output).

    Returns
    -------
    rich.console.Console
        With colour only on a terminal and where ``NO_COLOR`` is not set; as wide as the terminal, or
        in a pipe, so that a redirected table is not folded at 80.
    """
    return Console(width=None if sys.stdout.isatty() else 160, highlight=False)


def message_console() -> Console:
    """Open the console for progress and messages (standard error), so that results can be piped.

    Returns
    -------
    rich.console.Console
        Writing to standard error.
    """
    return Console(stderr=True, highlight=False, soft_wrap=True)


def print_json(value: Any) -> None:  # noqa: ANN401 - whatever json can write
    """Write one JSON document to standard output.

    Parameters
    ----------
    value : object
        What ``json`` can write; NaN becomes ``null``, since JSON has no NaN.
    """
    sys.stdout.write(json.dumps(_without_nan(value), indent=2, ensure_ascii=False) + "\n")


class _BesideBars(logging.StreamHandler[TextIO]):
    """Writes to what standard error is at that moment: while a bar is shown, rich stands in for it."""

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        super().emit(record)


def start_logging(*, verbose: bool) -> None:
    """Send the log to standard error: warnings, or everything with ``verbose``.

    Parameters
    ----------
    verbose : bool
        Whether to show debug lines of Sentinode's own modules.
    """
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s", handlers=[_BesideBars()])
    logging.getLogger("sentinode").setLevel(logging.DEBUG if verbose else logging.WARNING)


def print_rows(header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Write a table to standard output.

    Parameters
    ----------
    header : sequence of str
        The names of the columns.
    rows : iterable of sequence of str
        One sequence a row, as long as the header; written as it is, without markup. Columns of numbers are
        set to the right.
    """
    from rich.table import Table  # noqa: PLC0415 - slow to import, and --help does not need it
    from rich.text import Text  # noqa: PLC0415 - as above

    table = Table(box=None, pad_edge=False, header_style="bold")
    cells = [list(row) for row in rows]
    for place, name in enumerate(header):
        numbers = all(_NUMBER.fullmatch(row[place]) for row in cells)
        table.add_column(name, overflow="fold", justify="right" if numbers and cells else "left")
    for row in cells:
        table.add_row(*(Text(cell) for cell in row))
    console().print(table)


def print_evaluation(
    metrics: "Mapping[str, Value]", n_patients: int, model: str, *, n_unknown: int = 0, notes: "Sequence[str]" = ()
) -> None:
    """Say how good a model is.

    Parameters
    ----------
    metrics : mapping of str to Value
        With intervals over patients; None where one cannot be had.
    n_patients : int
        That were tested.
    model : str
        Where the model lies.
    n_unknown : int
        Tested images whose patient nobody knows.
    notes : sequence of str
        What a reader must know.
    """
    if metrics:
        rows = [(name, _share(one.value), f"{_share(one.low)} to {_share(one.high)}") for name, one in metrics.items()]
        print_rows(("", "value", "95 % over patients"), rows)
    if n_unknown:
        say(f"{n_unknown} images of unknown patients count as a patient each: the intervals are too short")
    for note in notes:
        say(note)
    unseen = "" if notes else " whom it has not seen"  # a note says that this could not be asked
    say(f"{model}: measured on {n_patients} patients{unseen}. Research use only")


def print_calibration(facts: "CalibrationFacts | None") -> None:
    """Say how the probabilities of a model were calibrated, and what that brought.

    Parameters
    ----------
    facts : CalibrationFacts or None
        None where the model is not calibrated; then nothing is said.
    """
    if facts is None:
        return
    told = ", ".join(f"{name} {loss:.3f}" for name, loss in facts.losses.items())
    say(f"calibrated on {facts.n_patients} patients of their own: {facts.method} (log loss, held-out patients: {told})")
    if "ece" in facts.before and "ece" in facts.after:
        before, after = facts.before["ece"], facts.after["ece"]
        say(
            f"expected calibration error on the test patients: {_share(before.value)} before, {_share(after.value)} "
            f"after (95 % {_share(after.low)} to {_share(after.high)})"
        )


def print_int8(facts: "Int8Facts | None") -> None:
    """Say whether a model is offered in int8, and what speaks for or against it.

    Parameters
    ----------
    facts : Int8Facts or None
        None where nobody asked for it; then nothing is said.
    """
    if facts is None:
        return
    if facts.refusal:
        say(f"int8 is refused: {facts.refusal}")
        return
    say(
        f"int8 is offered (predict --precision int8): on {facts.n_patients} patients the log odds move "
        f"by {facts.mean_change:.3f} on average, {facts.largest_change:.3f} at most; of the AUC at most "
        f"{facts.auc_loss_limit:.4f} is lost (95 %)"
    )


def print_promises(promises: "Sequence[PromiseFacts]") -> None:
    """Say what a model promises of what it calls clear.

    Parameters
    ----------
    promises : sequence of PromiseFacts
        Empty where nobody asked for one; then nothing is said.
    """
    for one in promises:
        say(f"triage, {one.kind}: {one.promise.in_words()}")


def print_trail(report: "TrailReport", file: Path) -> None:
    """Say whether a trail is as it was written.

    Parameters
    ----------
    report : TrailReport
        Of ``sentinode.workflows.trail``.
    file : Path
        The trail.
    """
    if report.faults:
        print_rows(("line", "fault"), [(str(one.line) if one.line else "end", one.message) for one in report.faults])
    if report.note:
        say(report.note)
    say(f"{file}: {report.n_lines} lines, {'CHANGED' if report.faults else 'unchanged'}; keep its head: {report.head}")


def print_triage(report: "TriageReport", out: Path | None) -> None:
    """Show the operating table of a triage, and say what is promised.

    Parameters
    ----------
    report : TriageReport
        Of ``sentinode.workflows.triaging``.
    out : Path or None
        Where the page lies, if it was written.
    """
    from sentinode.report.triage_page import per_hundred, triage_rows  # noqa: PLC0415 - imports matplotlib

    print_rows(*triage_rows(report.table))
    if report.sites:
        print_rows(*triage_rows(report.sites, first="site"))
    for one in report.points:
        say(f"{one.promise.kind}: {one.promise.in_words()} {per_hundred(one, report.wish.prevalence)}")
    for one in report.stored:
        told = f"{one.n_missed} of {one.n_patients} patients with a tumour are missed here"
        say(f"the model's own promise, {one.promise.kind}, alpha {one.promise.alpha:g}: {told}")
    for note in report.notes:
        say(note)
    say(f"open {out / 'triage.html'}. Research use only" if out else "Research use only")


def _share(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.3f}"


def print_slides(results: "Sequence[Mapping[str, Any]]", failures: Mapping[str, str], out: Path) -> None:
    """Say what was found on slides, the most suspicious first, what a reader must know of them, and what failed.

    Parameters
    ----------
    results : sequence of mapping
        ``result.json`` of each slide.
    failures : mapping of str to str
        File -> why it has no result.
    out : Path
        Where the answers lie.
    """
    promised = any(one.get("triage") for one in results)
    rows = [
        (
            str(one["slide_id"]),
            str(one["verdict"]),
            *((str((one.get("triage") or {}).get("verdict", "")),) if promised else ()),
            _share(one["score"]),
            f"{one['regions']}",
            f"{one['suspicious_mm2']:.3f}",
            f"{one['recognised']:,}",
            f"{one['seconds']:.1f}",
        )
        for one in results
    ]
    if rows:
        print_rows(
            ("slide", "verdict", *(("triage",) if promised else ()), "score", "regions", "mm2", "tiles", "seconds"),
            rows,
        )
    for words in sorted({one["triage"]["words"] for one in results if one.get("triage")}):
        say(words)
    for one in results:
        for warning in one["warnings"]:
            say(f"{one['slide_id']}: {warning}")
    for reason in failures.values():
        say(f"failed: {reason}")
    say(f"open {out / 'index.html'}. Research use only")


def print_patches(run: "PatchRun", out: Path) -> None:
    """Say what was found on patches, and what failed.

    Parameters
    ----------
    run : PatchRun
        What became of them.
    out : Path
        Where the answers lie.
    """
    column, facts = f"prob_{run.bundle.facts.positive}", run.bundle.facts
    worst = run.frame[run.frame["refused"] == ""].sort_values(column, ascending=False, kind="stable").head(5)
    rows = [
        (str(path), f"{proba:.3f}", str(called))
        for path, proba, called in zip(worst["path"], worst[column], worst["called"], strict=True)
    ]
    print_rows(("the most suspicious", f"probability of {facts.positive}", "called"), rows)
    say(f"{run.n_suspicious:,} of {len(run.frame):,} patches reach 0.5")
    for warning in run.warnings:
        say(warning)
    for reason in run.failures.values():
        say(f"failed: {reason}")
    say(f"open {out / 'patches.html'}; every patch stands in {out / 'patches.csv'}. Research use only")


def print_slide_evaluation(found: "SlideEvaluation", out: Path | None) -> None:
    """Say how good a model is on slides: lesions found against false alarms, the AUC of slides, what failed.

    Parameters
    ----------
    found : SlideEvaluation
        What was measured.
    out : Path or None
        Where it was written; None where nothing was kept.
    """
    values = {
        "FROC score": found.score,
        **{f"lesions found at {rate} false alarms a slide": one for rate, one in found.sensitivity.items()},
        "AUC of the slides": found.auc,
    }
    print_rows(
        ("", "value", "95 % over patients"),
        [(name, _share(one.value), f"{_share(one.low)} to {_share(one.high)}") for name, one in values.items()],
    )
    positive = found.bundle.facts.positive
    say(
        f"{len(found.slides)} slides of {found.n_patients} patients, "
        f"{sum(one.label == positive for one in found.slides)} with {positive}; "
        f"{found.found.n_lesions} lesions, {found.found.n_isolated} smaller ones that count neither way"
    )
    if found.n_unknown:
        say(f"{found.n_unknown} slides of unknown patients count as a patient each: name them with --slides")
    for note in found.notes:
        say(note)
    for reason in found.failures.values():
        say(f"failed, and in no number: {reason}")
    if out is not None and found.found.n_lesions:
        say(f"the curve: {out / 'froc.png'}")
    say("Research use only")


def print_slide_scoring(found: "SlideScoring") -> None:
    """Say what the score of slides was fitted to be, and whether it is worth more than the plain one.

    Parameters
    ----------
    found : SlideScoring
        What came out.
    """
    from sentinode.inference.aggregation import FEATURES  # noqa: PLC0415 - imports scipy

    rows = zip(FEATURES.items(), found.scorer.weights, strict=True)
    print_rows(("feature", "weight", "what it is"), [(name, f"{value:.2f}", what) for (name, what), value in rows])
    say(f"fitted on {found.scorer.n_positive} slides with lesions and {found.scorer.n_negative} without")
    if found.measures:
        fitted, plain, gap = (found.measures[name] for name in ("fitted", "plain", "difference"))
        say(
            f"AUC of slides that were left out of the fit: {_share(fitted.value)}, of the plain score "
            f"{_share(plain.value)}; difference {_share(gap.value)} ({_share(gap.low)} to {_share(gap.high)})"
        )
        if gap.low is None or gap.low <= 0:
            say("these slides do not show that it is better than the plain score, and the model without it is simpler")
    else:
        say("too few slides to leave any out: nobody knows whether it is better than the plain score")
    for reason in found.failures.values():
        say(f"failed, and not fitted on: {reason}")
    say(f"wrote {found.bundle.folder}. Research use only")


def print_first_look(found: "FirstLooking") -> None:
    """Say what a first look spares, and what is promised of it.

    Parameters
    ----------
    found : FirstLooking
        What came out.
    """
    look = found.look
    say(f"fitted on {look.n_fitted} patients; the threshold rests on {look.n_patients} others with suspicious tiles")
    if found.missing:
        say(
            f"spares nothing: to promise {look.alpha:g}, {found.missing} more patients with suspicious tiles are "
            "needed at least; give more slides, or allow more with --alpha"
        )
    else:
        say(f"spares the network {look.spared:.0%} of the tiles")
        say(f"of the patients who set the threshold, {look.lost:.2%} of the suspicious tiles are lost")
        say(f"promised: {look.in_words}")
    for reason in found.failures.values():
        say(f"failed, and not used: {reason}")
    say(f"wrote {found.bundle.folder}. Research use only")


def print_drift(report: "DriftReport", out: Path | None) -> None:
    """Say whether something changed, and show the last cases.

    Parameters
    ----------
    report : DriftReport
        Of ``sentinode.workflows.drifting``.
    out : Path or None
        Where the tables lie, if they were written.
    """
    at = report.test.alarmed_at
    end = len(report.cases) if at is None else at
    rows = [
        (
            str(report.cases[row]),
            *(f"{one[row]:.2f}" for one in report.distances.values()),
            f"{report.test.p_values[row]:.3f}",
            f"{10 ** min(float(report.test.log10_evidence[row]), 300.0):.3g}",
        )
        for row in range(max(0, end - 10), end)
    ]
    print_rows((f"case (to {end} of {len(report.cases)})", *report.distances, "p", "evidence"), rows)
    for name, why in report.failures.items():
        say(f"{name}: not looked at: {why}")
    for line in report.in_words():
        say(line)
    say(f"the page: {out / 'drift.html'}. Research use only" if out else "Research use only")


def print_bench(found: "Bench") -> None:
    """Say how fast this machine is.

    Parameters
    ----------
    found : Bench
        What was measured.
    """
    rows = [
        (one.part, one.what, f"{one.plain:,.1f}", f"{one.quick:,.1f}", one.unit, _ratio_with_spread(one.ratios))
        for one in found.comparisons
    ]
    print_rows(("part", "what", "plain", "here", "", "ratio"), rows)
    for note in found.notes:
        say(note)
    machine = found.machine
    say(
        f"{machine['cpu']}, {machine['cores']} cores, {machine['engine']} in {machine['precision']}; {found.slide}. "
        "Medians of runs in turn; only ratios can be compared with other machines"
    )


def _ratio_with_spread(ratios: Sequence[float]) -> str:
    return f"{statistics.median(ratios):.1f} ({min(ratios):.1f} to {max(ratios):.1f})"


def print_explanation(found: Mapping[str, Any], out: Path) -> None:
    """Print what a model answers for a tile, and whether its maps can be read.

    Parameters
    ----------
    found : mapping
        Of `sentinode.workflows.explaining.Explanation.to_json`.
    out : Path
        Where the page is.
    """
    lines = [f"{name}: {value:.3f}" for name, value in found["proba"].items()]
    for one in found["maps"]:
        alike = one["alike_with_shuffled_weights"]
        told = "" if alike is None else f"; {alike:.2f} alike with shuffled weights"
        lines.append(f"{one['method']}: {one['note']}{told}")
    lines += [f"not shown: {one}" for one in found["missing"]]
    lines.append(f"open {out / 'explain.html'}. Research use only")
    for line in lines:
        console().print(line, markup=False, highlight=False, soft_wrap=True)


def print_profile(results: "Sequence[Mapping[str, Any]]") -> None:
    """Say where the time of slides went.

    Parameters
    ----------
    results : sequence of mapping
        ``result.json`` of each slide; one without a profile was made by an earlier Sentinode.
    """
    known = [one for one in results if "profile" in one]
    dense = ("dense",) if any("dense" in one["profile"] for one in known) else ()
    steps = ("tissue", "tiles", "recognising", "waiting", "reading", "judging", *dense, "pictures", "writing")
    print_rows(
        ("slide", *steps, "tiles/s"),
        [
            (
                str(one["slide_id"]),
                *(f"{one['profile'].get(step, 0):.2f}" for step in steps),
                f"{one['tiles'] / max(one['profile']['tiles'], 1e-6):,.0f}",
            )
            for one in known
        ],
    )
    say(
        "seconds; tiles = recognising + waiting for reading; reading and judging are of the CPU, beside it; "
        f"{_runtime(known)}"
    )


def _runtime(results: "Sequence[Mapping[str, Any]]") -> str:
    return "; ".join(
        sorted({
            " ".join(str(one["runtime"].get(name, "")) for name in ("engine", "precision")).strip() for one in results
        })
    )


def print_tiles(
    slides: "Sequence[Mapping[str, Any]]", left_out: Mapping[str, int], notes: Sequence[str], manifest: str
) -> None:
    """Say what tiles were made of slides.

    Parameters
    ----------
    slides : sequence of mapping
        ``slide_id``, ``tiles``, a count a class, ``left out``.
    left_out : mapping of str to int
        Reason -> tiles.
    notes : sequence of str
        What a reader must know.
    manifest : str
        Where it was written.
    """
    first, last = ("slide_id", "tiles"), ("left out",)
    classes = sorted({name for row in slides for name in row} - {*first, *last})
    header = (*first, *classes, *last)
    print_rows(header, [tuple(str(row.get(name, 0)) for name in header) for row in slides])
    for note in notes:
        say(note)
    for reason, n in left_out.items():
        say(f"left out: {n:,} tiles ({reason})")
    say(f"wrote {manifest}")


def print_manifest(frame: "pd.DataFrame", classes: Sequence[str], path: str) -> None:
    """Say what a manifest holds.

    Parameters
    ----------
    frame : (n, 11) DataFrame
        Of the manifest.
    classes : sequence of str
        Its classes, the one that is looked for last.
    path : str
        Where it was written.
    """
    known = frame[frame["patient_id"] != ""]
    rows = []
    for name in classes:
        of_class, mine = frame[frame["label"] == name], known[known["label"] == name]
        n_unknown = len(of_class) - len(mine)
        rows.append((name, f"{len(of_class):,}", f"{mine['patient_id'].nunique():,}", f"{n_unknown:,}"))
    total = f"{known['patient_id'].nunique():,}"
    rows.append(("all", f"{len(frame):,}", total, f"{len(frame) - len(known):,}"))
    print_rows(("class", "images", "patients", "images of unknown patients"), rows)
    say(f"wrote {path}")


def print_check(report: "CheckReport") -> None:
    """Say what was found in a data set: patients, pairs that share tissue, findings.

    Parameters
    ----------
    report : CheckReport
        Of ``sentinode.workflows.checking.check_data``.
    """
    out = console()
    patients = report.patients.astype(str).replace({"patient_id": {"": "(unknown)"}})
    print_rows([name.replace("_id", "") for name in patients.columns], patients.to_numpy().tolist())
    out.print()
    pairs = report.pairs.astype(str).reset_index(names="pairs that show the same tissue")
    print_rows([f"{name}" for name in pairs.columns], pairs.to_numpy().tolist())
    out.print()
    print_rows(("", "kind", "finding"), list(_shortened(report.findings)))
    out.print()
    out.print("must be mended before anything is trained" if report.must_be_mended else "nothing must be mended")


def _shortened(findings: "Sequence[LeakageFinding]") -> Iterator[tuple[str, str, str]]:
    # What must be mended is shown whole; of the rest, a few of a kind tell what it is.
    seen: Counter[str] = Counter()
    for one in findings:
        seen[one.kind] += 1
        if one.severity == "error" or seen[one.kind] <= SHOWN_OF_A_KIND:
            yield one.severity, one.kind, one.message
    for kind, n in seen.items():
        hidden = n - SHOWN_OF_A_KIND
        if hidden > 0 and any(one.kind == kind and one.severity != "error" for one in findings):
            yield "", kind, f"... and {hidden} more of this kind; --json lists all"


def print_study(table: "StudyTable", folder: Path) -> None:
    """Show the table of a study, and say where its report lies.

    Parameters
    ----------
    table : StudyTable
        Of ``sentinode.workflows.studying``.
    folder : Path
        Of the study.
    """
    from sentinode.study.printing import render_terminal  # noqa: PLC0415 - imports pandas

    out = console()
    for part in render_terminal(table):
        out.print(part)
    say(f"the report: {folder / 'report.html'}")


def print_demo(found: "Demo") -> None:
    """Say what a demo found: the data, the study, the slides beside their truth, and where the pages lie.

    Parameters
    ----------
    found : Demo
        Of ``sentinode.workflows.demo``.
    """
    from sentinode.study.printing import render_terminal  # noqa: PLC0415 - imports pandas

    out = console()
    print_check(found.check)
    for part in render_terminal(found.table):
        out.print(part)
    rows = [
        (
            one.slide_id,
            one.truth,
            ", ".join(one.lesions),
            one.verdict,
            _share(one.score),
            "right" if one.right else "wrong",
        )
        for one in found.slides
    ]
    print_rows(("slide (held out)", "drawn", "lesions", "verdict", "score", ""), rows)
    for reason in found.failures.values():
        say(f"failed: {reason}")
    auc, n_tiles = found.model.metrics.get("auc"), found.model.data.n_images["test"]
    between = "" if auc is None or auc.low is None else f" ({_share(auc.low)} to {_share(auc.high)} over patients)"
    say(
        f"{sum(one.right for one in found.slides)} of {len(found.slides)} held-out slides right; "
        f"AUC of their {n_tiles:,} tiles {_share(None if auc is None else auc.value)}{between}"
    )
    say("all of it is synthetic: it shows that the path works, and says nothing about real tissue")
    say(f"the study:  {found.study_page}")
    say(f"the slides: {found.slides_page}")


def print_curve(table: "CurveTable", folder: Path) -> None:
    """Show learning curves, what twice the data would bring, and where the page lies.

    Parameters
    ----------
    table : CurveTable
        Of ``sentinode.workflows.studying.run_curve_from``.
    folder : Path
        Of the curve.
    """
    from sentinode.study.curve import curve_rows, in_words  # noqa: PLC0415 - imports pandas

    out = console()
    for axis in dict.fromkeys(axis for axis, _, _ in table.curves):
        print_rows(*curve_rows(table, axis))
        out.print()
    for key, curve in table.curves.items():
        out.print(in_words(key, curve), markup=False, soft_wrap=True)
    for note in table.notes:
        say(note)
    say(f"the curves: {folder / 'learning-curve.html'}")


def say(line: str) -> None:
    """Write a message to standard error.

    Parameters
    ----------
    line : str
        What is no character (a name of a file may have such) is shown as a question mark.
    """
    # While a bar is shown, rich stands in for standard error, and writes what comes there above the bar; a console of
    # our own would write into it.
    sys.stderr.write(_CONTROL.sub("?", line) + "\n")


def print_description(description: "Description") -> None:
    """Show an algorithm layer by layer, then what a plan can set.

    Parameters
    ----------
    description : Description
        As ``sentinode.workflows.describing`` gives it.
    """
    out = console()
    out.print(f"{description.name}: {description.summary}", style="bold", markup=False)
    rows = [
        (row.name, row.output, f"{row.parameters:,}", f"{row.multiply_adds:,}", row.note) for row in description.layers
    ]
    rows.append(("all", "", f"{description.parameters:,}", f"{description.multiply_adds:,}", ""))
    print_rows(("layer", "output", "parameters", "multiply-adds", ""), rows)
    out.print()
    space = description.search_space
    settings = [
        (
            name,
            json.dumps(value, default=str),
            ", ".join(json.dumps(one, default=str) for one in space.get(name, ())),
        )
        for name, value in description.settings.items()
    ]
    print_rows(("setting", "value", "a tuning budget draws from"), settings)
    out.print()


@contextmanager
def progress(what: str, *, quiet: bool = False) -> Iterator[Callable[[int, int], None]]:
    """Show how far a task has come and how long it still takes.

    Parameters
    ----------
    what : str
        The task in a few words, e.g. ``"reading patches"``.
    quiet : bool
        Where there is no terminal, write nothing: the task writes lines of its own.

    Yields
    ------
    Callable[[int, int], None]
        To be called with (done, total); any number of times.
    """
    if message_console().is_terminal:
        with _bar(what) as advance:
            yield advance
    elif quiet:
        yield lambda _done, _total: None
    else:
        yield _PlainLines(what)


@contextmanager
def _bar(what: str) -> Iterator[Callable[[int, int], None]]:
    from rich.progress import (  # noqa: PLC0415 - slow to import, and --help does not need it
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=message_console(), transient=True) as bar:
        task = bar.add_task(what, total=None)

        def advance(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        yield advance


@contextmanager
def study_progress() -> "Iterator[Listener]":
    """Show a study while it runs: a bar where there is a terminal, a line a trial everywhere.

    Yields
    ------
    Callable[[StudyEvent], None]
        To be given to the study as ``on_event``.
    """
    with ExitStack() as stack:
        yield _StudyLines(stack)


@contextmanager
def training_progress() -> "Iterator[Callable[[TrainingEvent], None]]":
    """Show a training while it runs: a bar where there is a terminal, a line an epoch elsewhere.

    Yields
    ------
    Callable[[TrainingEvent], None]
        To be given to the training as ``on_event``.
    """
    with ExitStack() as stack:
        yield _TrainingLines(stack)


class _Phases:
    """Shows one phase after another, each with a bar of its own."""

    def __init__(self, stack: ExitStack) -> None:
        self.stack = stack
        self.phase = ""
        self.advance: Callable[[int, int], None] = lambda _done, _total: None

    def show(self, what: str, done: int, total: int, *, quiet: bool = False) -> None:
        if what != self.phase:
            self.stack.close()  # one bar at a time
            self.phase = what
            self.advance = self.stack.enter_context(progress(what, quiet=quiet))
        self.advance(done, total)


class _TrainingLines(_Phases):
    """Turns the events of a training into lines, and the phases into progress."""

    def __call__(self, event: "TrainingEvent") -> None:
        from sentinode.workflows.training import EpochDone, Preparation  # noqa: PLC0415 - only a training needs it

        match event:
            case Preparation(what, done, total):
                self.show(what, done, total)
            case EpochDone(record, done, total):
                self.show("training", done - 1, total)
                stop = "" if record.stop_loss != record.stop_loss else f", on stop patients {record.stop_loss:.4f}"
                say(f"{record.stage}, epoch {record.epoch}: loss {record.loss:.4f}{stop} ({record.seconds:.1f} s)")
                self.advance(done, total)


@contextmanager
def prediction_progress() -> "Iterator[Callable[[TilesDone | SlideDone], None]]":
    """Show slides while they are recognised: a bar of tiles where there is a terminal, a line a slide everywhere.

    Yields
    ------
    Callable[[TilesDone | SlideDone], None]
        To be given to the prediction as ``on_event``.
    """
    with ExitStack() as stack:
        yield _PredictionLines(stack)


class _PredictionLines(_Phases):
    """Turns the events of a prediction into lines, and the tiles of a slide into progress."""

    def __call__(self, event: "TilesDone | SlideDone") -> None:
        from sentinode.workflows.predicting import SlideDone, TilesDone  # noqa: PLC0415 - only a prediction needs it

        match event:
            case TilesDone(slide_id, number, n_slides, done, total, dense):
                self.show(f"{number}/{n_slides}  {slide_id}{', dense map' if dense else ''}", done, total)
            case SlideDone(slide_id, number, n_slides, verdict, stored):
                self.stack.close()
                say(f"{number}/{n_slides}  {slide_id}: {verdict}{' (done before)' if stored else ''}")


@contextmanager
def demo_progress() -> "Iterator[Callable[[DemoEvent], None]]":
    """Show a demo while it runs: its steps, and within each what that step shows by itself.

    Yields
    ------
    Callable[[DemoEvent], None]
        To be given to the demo as ``on_event``.
    """
    with ExitStack() as stack:
        yield _DemoLines(stack)


class _DemoLines:
    """Turns the events of a demo into lines, and hands those of its parts to whom they belong."""

    def __init__(self, stack: ExitStack) -> None:
        self.stack = stack
        self.started = time.monotonic()
        self.study, self.training, self.prediction = _StudyLines(stack), _TrainingLines(stack), _PredictionLines(stack)

    def __call__(self, event: "DemoEvent") -> None:
        from sentinode.workflows.demo import Step  # noqa: PLC0415 - only a demo needs these
        from sentinode.workflows.predicting import SlideDone, TilesDone  # noqa: PLC0415
        from sentinode.workflows.training import EpochDone, Preparation  # noqa: PLC0415

        match event:
            case Step(number, total, what):
                self.stack.close()
                say(f"step {number} of {total}, at {_clock(time.monotonic() - self.started)}: {what}")
            case EpochDone() | Preparation():
                self.training(event)
            case SlideDone() | TilesDone():
                self.prediction(event)
            case _:
                self.study(event)


class _StudyLines(_Phases):
    """Turns the events of a study into lines, and the phases into progress."""

    def __call__(self, event: "StudyEvent") -> None:
        from sentinode.study.events import (  # noqa: PLC0415 - only a study needs it
            Preparing,
            StudyStarted,
            TrialFailed,
            TrialFinished,
            TrialStarted,
        )

        match event:
            case Preparing(what, done, total):
                self.show(what, done, total)
            case StudyStarted(n_trials, n_stored):
                if n_stored:
                    say(f"{n_stored} of {n_trials} trials are stored already and are not done again")
                self.show("trials", n_stored, n_trials, quiet=True)
            case TrialStarted():
                pass
            case TrialFinished(name, repeat, seconds, n_done, n_trials, left):
                say(f"{n_done}/{n_trials}  {name}, repeat {repeat + 1}: {seconds:.1f} s; about {_clock(left)} left")
                self.advance(n_done, n_trials)
            case TrialFailed(name, repeat, failure, n_done, n_trials, _):
                say(f"{n_done}/{n_trials}  {name}, repeat {repeat + 1}: failed: {failure.message}")
                self.advance(n_done, n_trials)


class _PlainLines:
    """A line now and then, for logs and pipes."""

    def __init__(self, what: str) -> None:
        self.what = what
        self.started = self.last = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if now - self.last < PLAIN_LINE_EVERY_SECONDS or not done:
            return
        self.last = now
        left = (now - self.started) / done * (total - done)
        sys.stderr.write(f"{self.what}: {done} of {total}, about {_clock(left)} left\n")
        sys.stderr.flush()


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _without_nan(value: Any) -> Any:  # noqa: ANN401 - walks any JSON value
    if isinstance(value, dict):
        return {str(key): _without_nan(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(inner) for inner in value]
    return None if isinstance(value, float) and value != value else value  # noqa: PLR0124 - NaN differs from itself
