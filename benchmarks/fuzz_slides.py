"""Damage slides in thousands of ways and count what the readers do: pixels or one line, and nothing else.

    python benchmarks/fuzz_slides.py --files 400            # of each slide and each kind of damage
    python benchmarks/fuzz_slides.py --files 400 --write    # the page, too

Slides: the real ones beside the repository (Aperio SVS, DICOM, a plain TIFF) where they are, and drawn ones: pyramids
of JPEG, deflate and JPEG 2000 tiles, OME-TIFF, PNG. Kinds of damage: cut short; 1 to 16 bits flipped anywhere; bytes of
the headers overwritten (of a TIFF, of its directories); numbers of the headers made absurd (0, 2^31, 2^32 - 1). Each
file is opened the way `predict` does, its thumbnail and a field of every level are read, in a process whose memory is
limited to 2 GiB above what the libraries take, for half a minute at most.

What may happen: pixels (the damage was where nobody looked, or inside a tile), or a SlideError of one line that names
the file. What must not: a crash, a hang, more memory, another exception, several lines.
"""

import argparse
import contextlib
import io
import json
import select
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image

from sentinode.seeds import stream

ROOT = Path(__file__).parents[1]
REAL = ROOT.parent / "shared" / "data" / "slides"
PAGE = ROOT / "docs" / "results" / "fuzzing.md"
KINDS = ("cut short", "bits flipped", "headers overwritten", "absurd numbers")
HOW = (
    "Each was opened as `predict` does, its overview and a field of every level read, in a process with 2 GiB "
    "to spare and half a minute of time."
)
FOUND = (
    "The first 8,000 ended the process six times and hung twice: OpenSlide asks for the memory of a tile whatever "
    "size the file claims, and aborts without it. Since then the structure of a TIFF is looked at before OpenSlide "
    "opens it."
)
OUTCOMES = ("pixels", "SlideError", "crash", "hang", "memory", "other")
MOST_SECONDS = 30  # the first answer waits for the imports, too
WORKER = """
import json, os, resource, sys
from pathlib import Path
from sentinode.errors import SlideError
from sentinode.slides import image_reader, openslide_reader, tiff_reader
from sentinode.slides.resolution import MppWish
from sentinode.slides.slide import open_slide
taken = int(Path("/proc/self/statm").read_text().split()[0]) * 4096
resource.setrlimit(resource.RLIMIT_AS, (taken + 2 * 2**30,) * 2)
os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
for line in sys.stdin:
    path = Path(line.strip())
    what = "pixels"
    try:
        with open_slide(path, MppWish(1.0)) as slide:
            slide.thumbnail(128)
            for number, level in enumerate(slide.info.levels):
                slide.reader.read_level(number, 0, 0, min(level.width, 300), min(level.height, 300))
    except SlideError as fault:
        told = str(fault)
        what = "SlideError" if chr(10) not in told and path.name in told else "other: " + told
    except MemoryError as fault:
        what = "memory"
    except BaseException as fault:
        what = f"other: {type(fault).__name__}: {fault}"
    print(json.dumps(what), flush=True)
"""


def main(files: int, *, write: bool) -> int:
    """Damage, read, count; 1 if anything happened that must not."""
    counts: dict[tuple[str, str], Counter[str]] = {}
    wrong: list[str] = []
    with tempfile.TemporaryDirectory() as name, contextlib.closing(_Reader()) as reader:
        for slide, content in _slides().items():
            for kind in KINDS:
                tally = counts.setdefault((slide, kind), Counter())
                for number, changed in enumerate(_damaged(content, slide, kind, files)):
                    path = Path(name) / f"{number}-{slide}"
                    path.write_bytes(changed)
                    what = reader.ask(path)
                    tally[what.split(":")[0]] += 1
                    if what not in {"pixels", "SlideError"}:
                        wrong.append(f"{slide}, {kind}, number {number}: {what}")
                        print(wrong[-1], flush=True)
                    path.unlink()
            print(slide, {kind: dict(counts[slide, kind]) for kind in KINDS}, flush=True)
    text = _page(counts, wrong, files)
    print(text)
    if write:
        PAGE.write_text(text, encoding="utf-8")
    return int(bool(wrong))


class _Reader:
    """A process that reads, and is started anew when it dies or hangs."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[str] | None = None

    def ask(self, path: Path) -> str:
        if self.process is None:
            self.process = subprocess.Popen(
                [sys.executable, "-c", WORKER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{path}\n")
        self.process.stdin.flush()
        ready, _, _ = select.select([self.process.stdout], [], [], MOST_SECONDS)
        line = self.process.stdout.readline() if ready else ""
        if line:
            return str(json.loads(line))
        code = self.process.wait() if ready else None
        self.close()
        if code is None:
            return "hang"
        return f"crash: signal {-code}" if code < 0 else f"other: exit code {code}"

    def close(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


def _slides() -> dict[str, bytes]:
    pixels = stream(1, "fuzz").integers(90, 250, (300, 400, 3), dtype=np.uint8)
    found = {path.name: path.read_bytes() for path in sorted(REAL.glob("*.*"))} if REAL.exists() else {}
    for name, how in {
        "jpeg.tif": {"compression": "jpeg"},
        "deflate.tif": {"compression": "zlib"},
        "jpeg2000.tif": {"compression": "jpeg2000"},
        "image.ome.tif": {"compression": "lzw"},
    }.items():
        out = io.BytesIO()
        ome = name.endswith(".ome.tif")
        with tifffile.TiffWriter(out, ome=ome) as file:
            tiles = {"photometric": "rgb", "tile": (64, 64), **how}
            file.write(pixels, subifds=1 if ome else 0, metadata={"axes": "YXS"} if ome else None, **tiles)
            file.write(pixels[::2, ::2].copy(), subfiletype=1, metadata=None, **tiles)
        found[name] = out.getvalue()
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return {**found, "image.png": out.getvalue()}


def _damaged(content: bytes, slide: str, kind: str, files: int) -> Iterator[bytes]:
    rng = stream(1, "fuzz", slide, kind)
    headers = _headers(content)
    for _ in range(files):
        changed = bytearray(content)
        if kind == "cut short":
            # Half of them near the ends, where directories lie.
            share = rng.random() if rng.random() < 0.5 else rng.choice([0, 1]) + rng.normal(0, 0.01)
            yield content[: int(len(content) * min(max(share, 0), 1))]
            continue
        if kind == "bits flipped":
            for place in rng.integers(0, len(content), int(rng.integers(1, 17))):
                changed[place] ^= 1 << int(rng.integers(8))
        elif kind == "headers overwritten":
            for place in rng.choice(headers, int(rng.integers(1, 9))):
                changed[place] = int(rng.integers(256))
        else:
            place = int(rng.choice(headers))
            value = int(rng.choice([0, 1, 2**16, 2**31 - 1, 2**31, 2**32 - 1]))
            changed[place : place + 4] = value.to_bytes(4, "little" if rng.random() < 0.8 else "big")
        yield bytes(changed[: len(content)])


def _headers(content: bytes) -> np.ndarray:
    places = [*range(min(512, len(content)))]
    with contextlib.suppress(tifffile.TiffFileError), tifffile.TiffFile(io.BytesIO(content)) as file:
        for page in file.pages:
            for tag in page.tags:
                places += range(tag.offset, min(tag.offset + 12, len(content)))
    return np.array(places)


def _page(counts: dict[tuple[str, str], Counter[str]], wrong: list[str], files: int) -> str:
    total: Counter[str] = sum(counts.values(), Counter())
    lines = [
        "# Damaged slides",
        "",
        f"`python benchmarks/fuzz_slides.py --files {files} --write`: {sum(total.values()):,} damaged files. {HOW}",
        "",
        f"{total['pixels']:,} gave pixels (the damage lay where nobody looked, or inside a tile);",
        f"{total['SlideError']:,} were refused with one line that names the file; **{len(wrong)} did anything else.**",
        "",
        FOUND,
        "",
        "| slide | damage | " + " | ".join(OUTCOMES) + " |",
        "|---|---|" + "---:|" * len(OUTCOMES),
        *(
            f"| {slide} | {kind} | " + " | ".join(str(tally[one]) if tally[one] else "" for one in OUTCOMES) + " |"
            for (slide, kind), tally in counts.items()
        ),
        "",
        *([] if not wrong else ["What went wrong:", "", *(f"- {one}" for one in wrong), ""]),
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=400)
    parser.add_argument("--write", action="store_true")
    wish = parser.parse_args()
    raise SystemExit(main(wish.files, write=wish.write))
