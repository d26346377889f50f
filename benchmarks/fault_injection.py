"""Kill, fill the disk, flip bits, edit the trail: what is lost that was reported as done, what wrong is accepted.

    python benchmarks/fault_injection.py --runs 200 --write      # half an hour; docs/results/faults.md
    python benchmarks/fault_injection.py --runs 6                # a look

`predict`, `study run` and `train` are killed (SIGKILL) at random moments of their run and started again; and each of
them writes into file systems that are too small for it, at random sizes (Linux, root; left out elsewhere, and said).
Everything is synthetic, and small: three slides, five trials, a founding network of three epochs.
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from predict_sizes import Discs, drawn_field
from sentinode.errors import SentinodeError
from sentinode.models.bundle import read_bundle
from sentinode.slides.pyramid import write_pyramid
from sentinode.workflows.phantoms import draw_phantom_patches
from sentinode.workflows.trail import verify_trail

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "results" / "faults.md"
SENTINODE = Path(sys.executable).parent / "sentinode"
FLIPS, EDITS = 500, 500
PLAN = """\
manifest = "{manifest}"
repeats = 2
algorithms = ["naive-bayes", "template-matching"]
"""


@dataclass
class Job:
    """A command, and how its results are told apart."""

    name: str
    command: Callable[[Path], list[str]]  # of the folder that it writes
    done: Callable[[Path], dict[str, str]]  # what is reported as done there -> its content
    whole: Callable[[Path], dict[str, str]]  # the result of a run that ended -> its content
    seconds: float = 0.0
    expected: dict[str, str] = field(default_factory=dict)


def main(runs: int, *, write: bool) -> int:
    """Draw, break, count; 1 if anything was lost or accepted that should not be."""
    rng = random.Random(1)  # noqa: S311 - draws no secret
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        jobs = _jobs(folder)
        for job in jobs:
            _reference(job, folder)
        killed = {job.name: _kill(job, folder, runs // 3 + (number < runs % 3), rng) for number, job in enumerate(jobs)}
        small = {job.name: _small_disks(job, folder, max(1, runs // 20), rng) for job in jobs}
        flipped = _flip(folder / "model", FLIPS if runs >= 100 else 50, rng)
        edited = _edit(folder / "reference-predict" / "trail.jsonl", EDITS if runs >= 100 else 50, rng)
    text = _page(killed, small, flipped, edited)
    print(text)
    if write:
        PAGE.write_text(text, encoding="utf-8")
    bad = sum(
        count[key] for count in (*killed.values(), *small.values()) for key in ("lost", "changed", "wrong at the end")
    )
    return int(bad + flipped["accepted"] + edited["not found"] > 0)


# --- what is run ----------------------------------------------------------------------------------------------


def _jobs(folder: Path) -> list[Job]:
    slides = folder / "slides"
    slides.mkdir()
    tissue = drawn_field(folder / "drawn", 1.0)
    for number in range(3):
        write_pyramid(slides / f"s{number}.tif", Discs(1500 + 100 * number, tissue), 1.0, "drawn")
    manifest = draw_phantom_patches(folder / "patches", patients=10, patches=8)
    plan = folder / "plan.toml"
    plan.write_text(PLAN.format(manifest=manifest))
    model = folder / "model"
    settings = ["--algorithm", "paper-cnn", "--set", "epochs=3", "--mpp", "1.0"]

    def predict(out: Path) -> list[str]:
        return ["predict", str(slides), "--model", str(model), "--out", str(out)]

    def train(out: Path) -> list[str]:
        return ["train", str(manifest), *settings, "--out", str(out / "model")]

    def study(out: Path) -> list[str]:
        return ["study", "run", str(plan), "--out", str(out)]

    _run(train(folder), check=True)
    return [
        Job("predict", predict, _slides_done, _slides_done),
        Job("train", train, _model_done, _model_done),
        Job("study run", study, _trials_done, _table),
    ]


def _slides_done(out: Path) -> dict[str, str]:
    # Slides with a result, and those that the trail calls done.
    found = {}
    for path in sorted(out.glob("s*/result.json")):
        result = json.loads(path.read_text())
        whole = all((path.parent / name).stat().st_size == size for name, size in result["files"].items())
        tiles = hashlib.sha256((path.parent / "tiles.parquet").read_bytes()).hexdigest()
        found[path.parent.name] = f"{result['verdict']} {result['score']} {tiles} {whole}"
    trail = out / "trail.jsonl"
    lines = trail.read_text().splitlines(keepends=True) if trail.exists() else []
    for line in lines:
        # A line that was being written is no report, and a slide that failed was not done.
        if line.endswith("\n") and not (event := json.loads(line))["verdict"].startswith("failed"):
            found.setdefault(event["slide"]["id"], "in the trail only")
    return found


def _model_done(out: Path) -> dict[str, str]:
    folder = out / "model"
    if not (folder / "bundle.json").exists():
        return {}
    bundle = read_bundle(folder)  # every file against its digest
    weights = hashlib.sha256((folder / "weights.safetensors").read_bytes()).hexdigest()
    return {"model": f"{weights} {bundle.facts.metrics}"}


def _trials_done(out: Path) -> dict[str, str]:
    return {
        path.parent.name: hashlib.sha256((path.parent / "predictions.parquet").read_bytes()).hexdigest()
        for path in out.glob("trials/*/result.json")
        if not path.parent.name.startswith(".")
    }


def _table(out: Path) -> dict[str, str]:
    found = _trials_done(out)
    if (out / "table.csv").exists():
        head, *rows = (line.split(",") for line in (out / "table.csv").read_text().splitlines())
        columns = [number for number, one in enumerate(head) if one in {"algorithm", "metric", "mean", "accuracy"}]
        found["table"] = str([[row[number] for number in columns] for row in rows])
    return found


# --- breaking -------------------------------------------------------------------------------------------------


def _run(arguments: list[str], *, check: bool = False) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(SENTINODE), *arguments], capture_output=True, text=True, check=check)


def _reference(job: Job, folder: Path) -> None:
    out = folder / f"reference-{job.name.split()[0]}"
    started = time.perf_counter()
    _run(job.command(out), check=True)
    job.seconds = time.perf_counter() - started
    job.expected = job.whole(out)
    print(f"{job.name}: {job.seconds:.1f} s, {len(job.expected)} results", flush=True)


def _kill(job: Job, folder: Path, runs: int, rng: random.Random) -> Counter[str]:
    count: Counter[str] = Counter()
    for number in range(runs):
        out = folder / f"killed-{number}"
        count["runs"] += 1
        process = subprocess.Popen(
            [str(SENTINODE), *job.command(out)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # the processes of a study die with it: the whole machine fails
        )
        try:
            process.wait(rng.uniform(0.3, job.seconds * 1.05))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)
            process.wait()
            count["killed"] += 1
        _go_on(job, out, count)
        shutil.rmtree(out, ignore_errors=True)
        print(f"{job.name} {number + 1}/{runs}: {dict(count)}", flush=True)
    return count


def _small_disks(job: Job, folder: Path, runs: int, rng: random.Random) -> Counter[str]:
    count: Counter[str] = Counter()
    needed = _bytes_of(folder / f"reference-{job.name.split()[0]}")
    for number in range(runs):
        with _small(folder / f"small-{number}", int(needed * rng.uniform(0.02, 1.0))) as disk:
            if disk is None:
                return count
            ended = _run(job.command(disk / "out"))
            count["runs"] += 1
            if ended.returncode:
                count["refused"] += 1
                words = [line for line in ended.stderr.splitlines() if line.startswith(("error: ", "failed: "))]
                count["said so in a line"] += "Traceback" not in ended.stderr and len(words) >= 1
            # Room is made: what was done is still there, and the rest comes.
            subprocess.run(["/bin/mount", "-o", f"remount,size={20 * needed + 2**26}", str(disk)], check=True)
            _go_on(job, disk / "out", count)
    return count


def _go_on(job: Job, out: Path, count: Counter[str]) -> None:
    before = job.done(out)
    count["reported as done"] += len(before)
    count["lost"] += sum(value == "in the trail only" for value in before.values())
    count["changed"] += sum(
        value != job.expected.get(key) for key, value in before.items() if value != "in the trail only"
    )
    times = _times(out)
    complete = before == job.expected
    if not (complete and job.name == "train"):  # a model that is there is never trained over
        ended = _run(job.command(out))
        if ended.returncode:
            count["wrong at the end"] += 1
            print(ended.stderr[-2000:], flush=True)
            return
    count["wrong at the end"] += job.whole(out) != job.expected
    count["done twice"] += sum(_times(out).get(path) != when for path, when in times.items())
    trail = out / "trail.jsonl"
    if trail.exists():
        count["trails with a fault"] += bool(verify_trail(trail).faults)
    left = [*out.parent.glob(f".part-{out.name}*"), *out.rglob(".part-*")]
    count["leftovers"] += len(left)


def _times(out: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in out.rglob("result.json")}


def _bytes_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@contextmanager
def _small(folder: Path, size: int) -> Iterator[Path | None]:
    folder.mkdir()
    mounted = subprocess.run(
        ["/bin/mount", "-t", "tmpfs", "-o", f"size={max(size, 4096)}", "none", str(folder)],
        capture_output=True,
        check=False,
    )
    try:
        yield folder if mounted.returncode == 0 else None
    finally:
        if mounted.returncode == 0:
            subprocess.run(["/bin/umount", str(folder)], check=True)
        folder.rmdir()


def _flip(model: Path, times: int, rng: random.Random) -> Counter[str]:
    count: Counter[str] = Counter()
    files = sorted(path for path in model.iterdir() if path.is_file())
    for _ in range(times):
        path = rng.choice(files)
        content = path.read_bytes()
        place, bit = rng.randrange(len(content)), rng.randrange(8)
        path.write_bytes(content[:place] + bytes([content[place] ^ 1 << bit]) + content[place + 1 :])
        try:
            read_bundle(model)
        except SentinodeError:
            count["refused"] += 1
        else:
            count["accepted"] += 1
            print(f"accepted: {path.name}, byte {place}, bit {bit}: {content[max(0, place - 30) : place + 30]!r}")
        finally:
            path.write_bytes(content)
    read_bundle(model)  # as it was
    return count


def _edit(trail: Path, times: int, rng: random.Random) -> Counter[str]:
    count: Counter[str] = Counter()
    original = trail.read_text().splitlines(keepends=True)
    if verify_trail(trail).faults:
        raise SystemExit("the trail has a fault before it is edited")
    ways: dict[str, Callable[[list[str]], list[str]]] = {
        "a character changed": lambda lines: _character(lines, rng),
        "a line removed": lambda lines: _without(lines, rng.randrange(len(lines))),
        "a line put in": lambda lines: _with(lines, rng.randrange(len(lines) + 1), rng.choice(lines)),
        "two lines exchanged": lambda lines: _exchanged(lines, rng),
        "the end cut off": lambda lines: _cut(lines, rng),
    }
    for number in range(times):
        way = list(ways)[number % len(ways)]
        lines = ways[way](list(original))
        trail.write_text("".join(lines))
        found = bool(verify_trail(trail).faults)
        count[f"{way}: found" if found else "not found"] += 1
        if not found:
            print(f"not found: {way}: {lines}")
    trail.write_text("".join(original))
    return count


def _character(lines: list[str], rng: random.Random) -> list[str]:
    row = rng.randrange(len(lines))
    place = rng.randrange(len(lines[row]) - 1)
    other = rng.choice([one for one in '0aZ ,:"{}' if one != lines[row][place]])
    lines[row] = lines[row][:place] + other + lines[row][place + 1 :]
    return lines


def _without(lines: list[str], row: int) -> list[str]:
    return lines[:row] + lines[row + 1 :]


def _with(lines: list[str], row: int, line: str) -> list[str]:
    return [*lines[:row], line, *lines[row:]]


def _exchanged(lines: list[str], rng: random.Random) -> list[str]:
    one, other = rng.sample(range(len(lines)), 2)
    lines[one], lines[other] = lines[other], lines[one]
    return lines


def _cut(lines: list[str], rng: random.Random) -> list[str]:
    text = "".join(lines)
    return text[: rng.randrange(1, len(text))].splitlines(keepends=True)


# --- the page -------------------------------------------------------------------------------------------------


def _page(
    killed: dict[str, Counter[str]], small: dict[str, Counter[str]], flipped: Counter[str], edited: Counter[str]
) -> str:
    runs = sum(one["runs"] for one in killed.values())
    lines = [
        "# Faults",
        "",
        "Written by `python benchmarks/fault_injection.py --runs 200 --write`; everything is synthetic and small.",
        "",
        "## Killed",
        "",
        "Killed with SIGKILL, all of its processes at once, at a random moment of the run; then started again.",
        f"{runs} runs in all. *Done twice* counts results that were there and were written again.",
        "",
        "| | runs | killed before the end | results reported as done | lost | changed | done twice | wrong at the end \
| trails with a fault | leftovers |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    keys = ("reported as done", "lost", "changed", "done twice", "wrong at the end", "trails with a fault", "leftovers")
    for name, count in killed.items():
        row = (f"`{name}`", count["runs"], count["killed"], *(count[key] for key in keys))
        lines.append(f"| {' | '.join(map(str, row))} |")
    lines += [
        "",
        "## No room on the disk",
        "",
        "A file system of a random size, 2 to 100 % of what the run needs; then there is room, and it starts again.",
        "",
    ]
    if not any(count["runs"] for count in small.values()):
        lines.append("Not measured: no file system could be mounted here.")
    else:
        lines += [
            "| | runs | ended with an error | in one line | results reported as done | lost | changed \
| wrong at the end | leftovers |",
            "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
        ]
        keys = ("reported as done", "lost", "changed", "wrong at the end", "leftovers")
        for name, count in small.items():
            row = (f"`{name}`", count["runs"], count["refused"], count["said so in a line"], *(count[k] for k in keys))
            lines.append(f"| {' | '.join(map(str, row))} |")
    n_edits = sum(edited.values())
    found = ", ".join(f"{way.removesuffix(': found')} {n}" for way, n in edited.items() if way != "not found")
    lines += [
        "",
        "## Changed",
        "",
        f"Of {sum(flipped.values())} bits flipped in the files of a model, {flipped['accepted']} were not noticed.",
        "",
        f"Of {n_edits} edits of a trail ({found}), {edited['not found']} were not found by `trail verify`.",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--write", action="store_true")
    wish = parser.parse_args()
    raise SystemExit(main(wish.runs, write=wish.write))
