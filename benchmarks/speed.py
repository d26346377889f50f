"""Measure the fast ways against the plain ones on a synthetic and on a real slide, and write docs/results/speed.md.

    python benchmarks/speed.py --repeats 5 --tiles 192

The same as `sentinode bench`, twice. Where the real slide of the tests is not here, only the synthetic one is measured.
"""

import argparse
import statistics
from pathlib import Path

from sentinode.slides import jpeg
from sentinode.workflows.bench import Bench, BenchWish, run_bench

HERE = Path(__file__).parent
REAL = HERE.parents[1] / "shared" / "data" / "slides" / "CMU-1-Small-Region.svs"
PAGE = HERE.parent / "docs" / "results" / "speed.md"
WANTED = {"reading": 5.0, "between levels": 6.0, "runtime": 4.5, "end to end": 8.0, "training": 2.5}
"""Ratios that we want to reach on two cores with bf16."""

HEAD = """\
# Speed

Written by `python benchmarks/speed.py` (a part of `make bench`); [`sentinode bench`](../commands/bench.md) measures
the same on your machine and slide. Each row is one way against another, run in turn; *ratio* is the median over the
repeats of how many times as much was done in the same time (of memory: how many times less was taken), with the least
and the greatest. Only ratios can be compared with other machines: the rates are those of a machine that did other
things as well.
"""

TAIL = """
**Plain** is what one would write first: OpenSlide's `read_region` turned into an array and resized by Pillow, the
founding network in float32 through torch in batches of 64, an ordinary training loop, all on the same cores. **Here**
is what `predict`, `data tiles` and `train` do. *Wanted* is what we want to reach on two cores with bf16.

Reading includes the opening of the file. *Between levels* hides all levels but level 0. End to end is from the file
to the probability; the plain way looks for no blur, ink, folds and nonsense, ours does.
"""


def main(repeats: int, tiles: int, out: Path) -> None:
    """Measure, print and write the page."""
    wish = BenchWish(repeats=repeats, tiles=tiles)
    measured = [("A synthetic slide, 0.25 um a pixel, with levels of a half, a quarter ...", run_bench(None, wish))]
    if REAL.exists():
        some = BenchWish(("reading", "between levels", "end to end"), repeats, tiles)
        measured.append((f"A real slide, {REAL.name}, 0.499 um a pixel, one level", run_bench(REAL, some)))
    page = HEAD + "".join(f"\n## {title}\n\n{_table(found)}" for title, found in measured)
    page += TAIL + "\n" + _machine(measured[0][1]) + "\n"
    print(page)
    out.write_text(page, encoding="utf-8")


def _table(found: Bench) -> str:
    lines = ["| | | plain | here | | ratio | wanted |", "|---|---|---:|---:|---|---:|---:|"]
    for one in found.comparisons:
        ratio = f"**{one.ratio:.1f}** ({min(one.ratios):.1f} to {max(one.ratios):.1f})"
        wanted = f"{WANTED[one.part]:g}" if one.part in WANTED else ""
        row = (one.part, one.what, f"{one.plain:,.1f}", f"{one.quick:,.1f}", one.unit, ratio, wanted)
        lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines) + "\n"


def _machine(found: Bench) -> str:
    machine = found.machine
    busy = "unknown" if machine["load"] is None else f"{machine['load'][0]:.1f} to begin with"
    decoder = "Pillow" if jpeg.simplejpeg is None else "simplejpeg"
    text = (
        f"Machine: {machine['cpu']}, {machine['cores']} cores, no GPU; {machine['engine']} in {machine['precision']}; "
        f"JPEG decoded by {decoder}. Processes that ran or waited for a core: {busy}.\n"
    )
    if machine["precision"] == "float32":
        text += (
            "\nThis CPU does not compute in bf16. So *runtime* and *end to end* show what OpenVINO gains in float32, "
            "and *training* runs in float32 both ways; what is wanted there cannot be reached on it.\n"
        )
    network = next(one.quick for one in found.comparisons if one.part == "runtime")  # then int8, which is asked for
    whole = statistics.median(one.quick for one in found.comparisons if one.part == "end to end")
    text += (
        f"\nEnd to end, {whole:.0f} tiles a second were recognised where the network alone recognises {network:.0f}: "
        "reading and judging go on beside it, on the same cores.\n"
    )
    return text


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--tiles", type=int, default=192)
    parser.add_argument("--out", type=Path, default=PAGE)
    main(**vars(parser.parse_args()))
