"""What a folder of slides gains where one slide is written while the next is recognised.

    python benchmarks/folder_of_slides.py            # prints; some minutes
    python benchmarks/folder_of_slides.py --write    # the page, too

Synthetic slides (the discs of predict_sizes.py): some of 0.25 um a pixel, as a scanner gives them, and some of 1 um,
which have more tiles for their bytes. Both ways in processes of their own, in turn, each one call of `predict_slides`
for all: as it is, and with each slide written before the next is opened. Seconds are of the clock, all of the call;
memory is the peak of the resident set. The last slide has no next one: of n slides, n - 1 can gain.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple
from unittest import mock

from predict_sizes import Discs, drawn_field, untaught_model
from sentinode.execution import keep_memory, run_jobs
from sentinode.models.bundle import read_bundle
from sentinode.models.runtime import this_machine
from sentinode.slides.pyramid import write_pyramid
from sentinode.workflows import predicting
from sentinode.workflows.predicting import _finish_slide, _look_at_slide, _Outcome, _Work, predict_slides

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "results" / "folder-of-slides.md"
MODELS = {"founding network": "paper-cnn", "small network": "distilled-cnn"}
SLIDES = ((0.25, 20_000), (1.0, 6_000))
"""um a pixel, and pixels a side."""
COLUMNS = (
    "model",
    "slides",
    "one after the other, s",
    "as it is, s",
    "ratio",
    "one after the other, cores",
    "as it is, cores",
    "one after the other, MB",
    "as it is, MB",
)


class Row(NamedTuple):
    """One model on one folder."""

    title: str
    mpp: float
    tiles: int  # of a slide
    alone: list[dict[str, float]]  # of each repeat
    together: list[dict[str, float]]


def main(n_slides: int, repeats: int, *, write: bool) -> None:
    """Draw, measure, print."""
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        models = {title: untaught_model(folder, algorithm) for title, algorithm in MODELS.items()}
        for mpp, side in SLIDES:
            slides = _drawn(folder / f"slides-{mpp}", mpp, side, n_slides)
            for title, model in models.items():
                rows.append(_compared(title, mpp, slides, model, folder, repeats))
    text = _page(rows, n_slides, repeats)
    print(text)
    if write:
        PAGE.write_text(text, encoding="utf-8")


def _drawn(folder: Path, mpp: float, side: int, n_slides: int) -> Path:
    folder.mkdir()
    field = drawn_field(folder.with_name(f"drawn-{mpp}"), mpp)
    first = folder / "slide-1.tif"
    write_pyramid(first, Discs(side, field), mpp, "drawn")
    for number in range(2, n_slides + 1):
        (folder / f"slide-{number}.tif").write_bytes(first.read_bytes())
    return folder


def _compared(title: str, mpp: float, slides: Path, model: Path, folder: Path, repeats: int) -> Row:
    row = Row(title, mpp, 0, [], [])
    _in_a_process("together", slides, model, folder)  # the runtime is chosen for this machine at the first call
    for repeat in range(repeats):
        ways = {"alone": row.alone, "together": row.together}
        for way in ways if repeat % 2 == 0 else reversed(ways):
            known = _in_a_process(way, slides, model, folder)
            ways[way].append(known)
            print(f"{title}, {mpp} um, {way}: {json.dumps(known)}", flush=True)
    return row._replace(tiles=int(row.alone[0]["tiles"]))


def _in_a_process(way: str, slides: Path, model: Path, folder: Path) -> dict[str, float]:
    command = [sys.executable, __file__, "--child", way, str(slides), str(model)]
    with tempfile.TemporaryDirectory(dir=folder) as out:
        answer = subprocess.run([*command, out], check=True, capture_output=True, text=True).stdout
    known: dict[str, float] = json.loads(answer.splitlines()[-1])
    return known


def _child(way: str, slides: Path, model: Path, out: Path) -> None:
    keep_memory()  # as the command line does
    bundle, files = read_bundle(model), sorted(slides.glob("*.tif"))
    predict_slides(files[:1], bundle, out / "first")  # what a process pays once
    outcomes = {"together": predicting._outcomes, "alone": _one_after_the_other}  # noqa: SLF001 - what is measured
    started, used = time.perf_counter(), time.process_time()
    with mock.patch.object(predicting, "_outcomes", outcomes[way]):
        run = predict_slides(files, bundle, out / "all")
    seconds, cpu = time.perf_counter() - started, time.process_time() - used
    if len(run.results) != len(files):
        raise SystemExit(f"{slides}: {dict(run.failures)}")
    status = Path("/proc/self/status").read_text()
    peak = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
    print(json.dumps({"seconds": seconds, "cpu": cpu, "MB": peak * 1024 / 1e6, "tiles": run.results[0]["tiles"]}))


def _one_after_the_other(work: _Work, slides: Sequence[Path], trail: Path) -> Iterator[tuple[Path, _Outcome]]:
    for number, path in enumerate(slides, start=1):
        job = (work, path, number)
        [(_, looked)] = run_jobs(_look_at_slide, [(job, job)])
        outcome = _finish_slide(job, looked, trail)
        del looked  # what was found of it is not in memory beside the next
        yield outcome


def _page(rows: list[Row], n_slides: int, repeats: int) -> str:
    lines = [
        "# A folder of slides",
        "",
        f"Written by `python benchmarks/folder_of_slides.py --slides {n_slides} --repeats {repeats} --write`.",
        f"{n_slides} synthetic slides,",
        "a quarter of each tissue, recognised by one call of `predict`: as it is, with one slide written while the",
        "next is recognised, and with each slide written before the next is opened. Seconds are those of the call,",
        "shared out among the slides; the last one has no next, so that more slides gain a little more.",
        f"Medians of {repeats} runs in turn, each in a process of its own; *ratio* is that of the",
        "first seconds to the second, run by run; *cores* are those that were busy, *MB* the most memory.",
        "",
        f"| {' | '.join(COLUMNS)} |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        ratios = _ratios(row)
        seconds, busy, memory = (
            [statistics.median(map(number, runs)) for runs in (row.alone, row.together)]
            for number in (
                lambda run: run["seconds"] / n_slides,
                lambda run: run["cpu"] / run["seconds"],
                lambda run: run["MB"],
            )
        )
        lines.append(
            f"| {row.title} | {row.mpp:g} um, {row.tiles:,} tiles | {seconds[0]:.2f} | {seconds[1]:.2f} | "
            f"**{statistics.median(ratios):.2f}** ({min(ratios):.2f} to {max(ratios):.2f}) | {busy[0]:.2f} | "
            f"{busy[1]:.2f} | {memory[0]:,.0f} | {memory[1]:,.0f} |"
        )
    machine = f"{os.cpu_count()} cores, no GPU, load {os.getloadavg()[0]:.1f} at the end"
    shown = [f"{row.title} at {row.mpp:g} um" for row in rows if min(_ratios(row)) > 1]
    lines += ["", f"Quicker in every run: {', '.join(shown) or 'none'}. What was found of one more slide is in memory."]
    return "\n".join([*lines, "", f"Machine: {this_machine().cpu}, {machine}.", ""])


def _ratios(row: Row) -> list[float]:
    return [one["seconds"] / other["seconds"] for one, other in zip(row.alone, row.together, strict=True)]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slides", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child:
        _child(asked.child[0], *map(Path, asked.child[1:]))
    else:
        main(asked.slides, asked.repeats, write=asked.write)
