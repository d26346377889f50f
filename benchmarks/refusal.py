"""How often genuine tissue is refused, and how often nonsense is: `sentinode predict`'s gate on real patches.

    sentinode data import kaggle-pcam ../shared/data/pcam --out build/pcam/manifest.csv
    python benchmarks/refusal.py [--write]                       # docs/results/refusal.md

Each slide of the 19 is left out in turn; what is usual is learned from others, and the patches of the left-out slide
are genuine tiles of an unseen slide. What is made of these patches (other stains, resolutions, blur) is held against
the same gates, pictures against that of all 19. Other stains are simulated: the densities of haematoxylin and eosin
are unmixed by the vectors of Ruifrok and Johnston (2001), and mixed again with other dyes. Real are scikit-image's
immunostain and pictures, the H&E slide of another organ and scanner (``../shared/data/slides``), and all patches.
"""

import argparse
import io
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage
from skimage import data
from sklearn.datasets import load_sample_images
from threadpoolctl import threadpool_limits

from sentinode.data.manifest import read_manifest
from sentinode.data.patches import cache_patches
from sentinode.evaluation.bootstrap import expanded_tail
from sentinode.evaluation.typicality import ATYPICAL
from sentinode.geometry import Box, Size
from sentinode.phantom.cohort import CohortPlan, draw_patch
from sentinode.seeds import stream
from sentinode.slides.quality import tile_quality
from sentinode.slides.slide import open_slide
from sentinode.slides.tiling import tile_grid
from sentinode.slides.tissue import tissue_of
from sentinode.workflows.refusing import Gate, fit_known_tiles, patch_refusals

sys.path.insert(0, str(Path(__file__).parent / "pcam"))
from look_shift import looks_of
from stain_shift import clusters

ROOT = Path(__file__).parents[1]
PCAM = ROOT / "build" / "pcam"
SLIDE = ROOT.parent / "shared" / "data" / "slides" / "CMU-1-Small-Region.svs"
PAGE = ROOT / "docs" / "results" / "refusal.md"
SIDE, MPP, SEED = 96, 0.972, 1
MOST = 60  # tiles of a kind that is drawn or cut
FEWEST = 5  # tiles below which a slide is given no verdict
HE = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11]])

Tiles = NDArray[np.uint8]


class Looked(NamedTuple):
    """What the gate says of the tiles of a slide or picture."""

    rule: NDArray[np.bool_]
    structure: NDArray[np.bool_]  # refused for its structure, and by no rule
    atypical: NDArray[np.bool_]  # in all that it looks like; counts what breaks a rule
    blank: NDArray[np.bool_]
    level: str  # of the slide

    @property
    def refused(self) -> NDArray[np.bool_]:
        """By a rule, or for its structure."""
        return self.rule | self.structure


def main() -> None:
    """Measure, and print or write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="write docs/results/refusal.md")
    wish = parser.parse_args()
    manifest = read_manifest(PCAM / "manifest.csv")
    pixels = cache_patches(manifest, PCAM / "cache")
    which = clusters(manifest, pixels)
    rows = np.flatnonzero(manifest.frame["slide_id"].to_numpy(dtype=np.str_) != "")
    tiles, slide = np.asarray(pixels[rows]), manifest.frame["slide_id"].to_numpy(dtype=np.str_)[rows]
    with threadpool_limits(1):
        text = _page(tiles, slide, np.array(["AB"[which[name]] for name in slide.tolist()]))
    print(text)
    if wish.write:
        PAGE.write_text(text, encoding="utf-8", newline="\n")


def _page(tiles: Tiles, slide: NDArray[np.str_], cluster: NDArray[np.str_]) -> str:
    look = looks_of(tiles)
    seen = {name: Counter(look[slide == name].tolist()) for name in np.unique(slide).tolist()}
    mixed = [name for name, count in seen.items() if min(count["violet"], count["brown"]) >= 3]
    in_b = set(slide[cluster == "B"].tolist())
    everything = np.ones(len(slide), dtype=bool)
    genuine = [
        ("all other slides", everything, everything),
        *((f"the other slides of cluster {one}", cluster == one, cluster == one) for one in "AB"),
        ("cluster A, B left out", cluster == "A", cluster == "B"),
        ("cluster B, A left out", cluster == "B", cluster == "A"),
        *((f"{one} patches of the other slides", look == one, look == one) for one in ("violet", "brown")),
        ("violet patches, brown ones new", look == "violet", look == "brown"),
        ("brown patches, violet ones new", look == "brown", look == "violet"),
    ]
    first = "\n".join(_genuine_row(name, tiles, slide, known, new) for name, known, new in genuine)
    gates = {name: _gate(tiles[slide != name], slide[slide != name]) for name in np.unique(slide).tolist()}
    whole = _gate(tiles, slide)
    rows = {group: "\n".join(_nonsense_rows(kinds, tiles, slide, gates)) for group, kinds in MADE.items()}
    shown = {group: "\n".join(_picture_rows(pictures(), whole)) for group, pictures in PICTURES.items()}
    facts = {
        "n": len(tiles),
        "slides": len(gates),
        "level": f"{100 * ATYPICAL:.0f} %",
        "least": f"{whole.everything.least_p:.4f}",
        "resolution": len(gates) + 1,
        "genuine": first,
        "mixed": f"{len(in_b & set(mixed))} of the {len(in_b)}",
        "mixed_a": len(set(mixed) - in_b),
        "n_a": len(gates) - len(in_b),
        "times": _times(whole, tiles),
    }
    return TEXT.format(**facts, **rows, **shown)


def _gate(tiles: Tiles, slide: NDArray[np.str_]) -> Gate:
    known = fit_known_tiles(np.array_split(tiles, max(1, len(tiles) // 64)), slide)
    return Gate(known.rules, known.everything, known.structure)


def _look(gate: Gate, tiles: Tiles) -> Looked:
    flag, distance = gate.judge(None)(tiles), gate.measure(tiles)
    distance[flag != ""] = np.nan
    p_values = gate.p_values(distance)
    rule = flag != ""
    structure = (patch_refusals(flag, p_values, allow=False) != "") & ~rule
    level = gate.look(flag, distance, allow=False, what="tiles").level
    return Looked(rule, structure, rule | (p_values[:, 0] <= ATYPICAL), flag == "blank", level)


def _genuine_row(
    name: str, tiles: Tiles, slide: NDArray[np.str_], known: NDArray[np.bool_], new: NDArray[np.bool_]
) -> str:
    found = []
    for one in np.unique(slide[new]).tolist():
        train = known & (slide != one)
        found.append(_look(_gate(tiles[train], slide[train]), tiles[new & (slide == one)]))
    judged = [one for one in found if len(one.rule) >= FEWEST]
    levels = Counter(one.level for one in judged)
    refused, atypical = (_interval([getattr(one, what) for one in found]) for what in ("refused", "atypical"))
    n = sum(len(one.rule) for one in found)
    blank = sum(int(one.blank.sum()) for one in found)
    away = levels["atypical"] + levels["nonsense"]
    return (
        f"| {name} | {len(found)} | {n} | {refused} | {blank} | {atypical} | "
        f"{levels['unusual']} of {len(judged)} | {away} of {len(judged)} |"
    )


def _interval(found: list[NDArray[np.bool_]]) -> str:
    # Of the pooled share, over slides; percentiles moved outwards for few slides, as in `evaluation.bootstrap`.
    hits, sizes = (np.array([count(one) for one in found], dtype=np.float64) for count in (np.sum, len))
    drawn = stream(SEED, "refusal", len(found)).integers(0, len(found), (4000, len(found)))
    shares = hits[drawn].sum(axis=1) / sizes[drawn].sum(axis=1)
    tail = expanded_tail(0.95, len(found))
    low, high = np.quantile(shares, [tail, 1 - tail])
    return f"{100 * hits.sum() / sizes.sum():.1f} % ({100 * low:.1f} to {100 * high:.1f})"


def _nonsense_rows(
    kinds: Mapping[str, "Change"], tiles: Tiles, slide: NDArray[np.str_], gates: Mapping[str, Gate]
) -> Iterator[str]:
    for kind, change in kinds.items():
        found = []
        for name, gate in gates.items():
            made = change(tiles[slide == name], stream(SEED, "nonsense", kind, name))
            if len(made):
                found.append(_look(gate, made.astype(np.uint8)))
        yield _row(kind, found)


def _picture_rows(pictures: Mapping[str, Tiles], gate: Gate) -> Iterator[str]:
    for name, tiles in pictures.items():
        yield _row(name, [_look(gate, tiles)])


def _row(kind: str, found: list[Looked]) -> str:
    rule, structure, refused, atypical = (
        100 * np.concatenate([getattr(one, what) for one in found]).mean()
        for what in ("rule", "structure", "refused", "atypical")
    )
    levels = Counter(one.level for one in found if len(one.rule) >= FEWEST)
    said = ", ".join(
        f"{levels[one]} {word}"
        for one, word in (
            ("nonsense", "refused always"), ("atypical", "refused"), ("unusual", "warned"), ("typical", "typical"),
        )
        if levels[one]
    )  # fmt: skip
    n = sum(len(one.rule) for one in found)
    return f"| {kind} | {n} | {rule:.0f} % | {structure:.0f} % | **{refused:.1f} %** | {atypical:.0f} % | {said} |"


def _times(gate: Gate, tiles: Tiles) -> str:
    # The CPU's, of one thread, turn about.
    ways = {
        "rules": gate.judge(None),
        "typicality": gate.measure,
        "quality": lambda part: tile_quality(part, MPP),
    }
    seconds = {name: [] for name in ways}
    for _ in range(7):
        for name, way in ways.items():
            started = time.thread_time()
            for begin in range(0, 512, 64):
                way(tiles[begin : begin + 64])
            seconds[name].append(time.thread_time() - started)
    rules, typicality, quality = (float(np.median(one)) for one in seconds.values())
    return f"{rules / quality:.1f} and {typicality / quality:.1f}"


# --- what is made of genuine patches ---------------------------------------------------------------------------

Change = Callable[[Tiles, np.random.Generator], NDArray[np.floating] | Tiles]


def _density(tiles: Tiles) -> NDArray[np.float64]:
    return -np.log(np.maximum(tiles, 1) / 255.0)


def _amounts(tiles: Tiles) -> NDArray[np.float64]:
    # (n, h, w, 2): of haematoxylin and eosin, what lies across both left out.
    dyes = HE / np.linalg.norm(HE, axis=1, keepdims=True)
    across = np.cross(*dyes)
    return np.maximum(_density(tiles) @ np.linalg.inv(np.vstack([dyes, across / np.linalg.norm(across)])), 0)[..., :2]


def _dyed(first: tuple[float, ...], second: tuple[float, ...], gains: tuple[float, float] = (1, 1)) -> Change:
    dyes = np.array([first, second])
    dyes /= np.linalg.norm(dyes, axis=1, keepdims=True)
    return lambda tiles, _rng: 255 * np.exp(-(_amounts(tiles) * gains) @ dyes)


def _fluorescence(tiles: Tiles, _rng: np.random.Generator) -> NDArray[np.float64]:
    amounts = np.minimum(_amounts(tiles) / 2, 1)
    return 255 * np.clip(amounts[..., :1] * [0.1, 0.2, 1.0] + 0.5 * amounts[..., 1:] * [0.1, 0.8, 0.1], 0, 1)


def _shuffled(tiles: Tiles, rng: np.random.Generator) -> Tiles:
    flat = tiles.reshape(len(tiles), -1, 3)
    return np.stack([one[rng.permutation(one.shape[0])] for one in flat]).reshape(tiles.shape)


def _resized(factor: float) -> Change:
    def change(tiles: Tiles, _rng: np.random.Generator) -> Tiles:
        side = round(SIDE * factor)  # of what one tile shows, in pixels of the patch
        if factor < 1:
            begin = (SIDE - side) // 2
            parts = [Image.fromarray(one[begin : begin + side, begin : begin + side]) for one in tiles]
            return _stack([one.resize((SIDE, SIDE), Image.Resampling.BICUBIC) for one in parts])
        four = tiles[: len(tiles) // 4 * 4].reshape(-1, 2, 2, SIDE, SIDE, 3).swapaxes(2, 3)
        large = four.reshape(-1, 2 * SIDE, 2 * SIDE, 3)[:, :side, :side]
        return _stack([Image.fromarray(one).resize((SIDE, SIDE), Image.Resampling.BOX) for one in large])

    return change


def _jpeg(quality: int) -> Change:
    def change(tiles: Tiles, _rng: np.random.Generator) -> Tiles:
        files = [io.BytesIO() for _ in tiles]
        for one, file in zip(tiles, files, strict=True):
            Image.fromarray(one).save(file, "JPEG", quality=quality)
        return _stack([Image.open(file) for file in files])

    return change


def _stack(images: list[Image.Image]) -> Tiles:
    return np.stack([np.asarray(one) for one in images]) if images else np.empty((0, SIDE, SIDE, 3), np.uint8)


def _salted(tiles: Tiles, rng: np.random.Generator) -> Tiles:
    drawn = rng.random((*tiles.shape[:3], 1))
    return np.where(drawn < 0.1, 0, np.where(drawn > 0.9, 255, tiles))


MADE: Mapping[str, Mapping[str, Change]] = {
    "plain": {
        "glass (drawn)": lambda tiles, rng: np.clip(
            rng.uniform(225, 250, (len(tiles), 1, 1, 1))
            + rng.uniform(-5, 5, (len(tiles), 1, 1, 3))
            + rng.normal(0, 1.5, tiles.shape), 0, 255),
        "flat colour": lambda tiles, rng: rng.integers(0, 256, (len(tiles), 1, 1, 3)) + np.zeros(tiles.shape),
        "flat colour, sensor noise, JPEG": lambda tiles, rng: _jpeg(80)(
            np.clip(rng.integers(0, 256, (len(tiles), 1, 1, 3)) + rng.normal(0, 3, tiles.shape), 0, 255
                    ).astype(np.uint8), rng),
        "noise, uniform": lambda tiles, rng: rng.integers(0, 256, tiles.shape),
        "noise, grey Gaussian": lambda tiles, rng: np.clip(
            rng.normal(128, 40, (*tiles.shape[:3], 1)) + np.zeros(3), 0, 255),
        "noise around the mean colour of a patch": lambda tiles, rng: np.clip(
            tiles.mean(axis=(1, 2), keepdims=True) + rng.normal(0, 40, tiles.shape), 0, 255),
        "the pixels of a patch, shuffled": _shuffled,
        "noise, smooth and coloured": lambda tiles, rng: np.clip(
            128 + 840 * ndimage.gaussian_filter(rng.normal(size=tiles.shape), (0, 4, 4, 0)), 0, 255),
        "inverted colours": lambda tiles, _rng: 255 - tiles,
        "greyscale": lambda tiles, _rng: tiles.mean(axis=3, keepdims=True).repeat(3, axis=3),
    },
    "stains": {
        "DAB for eosin (immunostain)": _dyed((0.65, 0.70, 0.29), (0.27, 0.57, 0.78)),
        "the same, DAB faint (0.4)": _dyed((0.65, 0.70, 0.29), (0.27, 0.57, 0.78), (1, 0.4)),
        "haematoxylin alone": _dyed((0.65, 0.70, 0.29), (0.07, 0.99, 0.11), (1, 0)),
        "fluorescence": _fluorescence,
        "methyl blue and ponceau (trichrome)": _dyed((0.80, 0.59, 0.11), (0.10, 0.74, 0.67)),
        "ponceau and methyl blue (trichrome)": _dyed((0.10, 0.74, 0.67), (0.80, 0.59, 0.11)),
        "haematoxylin and PAS": _dyed((0.65, 0.70, 0.29), (0.175, 0.97, 0.155)),
        "red and blue exchanged": lambda tiles, _rng: tiles[..., ::-1],
    },
    "scales": {
        "half the um a pixel": _resized(0.5),
        "0.7 times": _resized(0.7),
        "1.5 times": _resized(1.5),
        "twice the um a pixel": _resized(2),
        "blurred by 2 px": lambda tiles, _rng: ndimage.gaussian_filter(tiles, (0, 2, 2, 0)),
        "blurred by 4 px": lambda tiles, _rng: ndimage.gaussian_filter(tiles, (0, 4, 4, 0)),
        "JPEG of quality 15": _jpeg(15),
        "JPEG of quality 5": _jpeg(5),
    },
    "fresh": {
        "salt and pepper on a fifth": _salted,
        "pixels of 8 x 8": lambda tiles, _rng: tiles.reshape(-1, 12, 8, 12, 8, 3).mean(axis=(2, 4)).repeat(
            8, axis=1).repeat(8, axis=2),
        "four levels a channel": lambda tiles, _rng: tiles // 64 * 85,
        "90 % of the stain bleached": lambda tiles, _rng: 255 * np.exp(-0.1 * _density(tiles)),
        "red, green and blue moved on by one": lambda tiles, _rng: tiles[..., [2, 0, 1]],
        "toluidine blue alone (0.80 : 0.55 : 0.20)": lambda tiles, _rng: 255 * np.exp(
            -_density(tiles).mean(axis=3, keepdims=True) * [1.55, 1.06, 0.39]),
    },
}  # fmt: skip


# --- pictures ----------------------------------------------------------------------------------------------------


def _cut(picture: NDArray[np.generic], most: int = MOST) -> Tiles:
    if picture.dtype != np.uint8:
        picture = np.clip(255 * np.asarray(picture, dtype=np.float64), 0, 255).astype(np.uint8)
    coloured = picture[..., :3] if picture.ndim == 3 else picture[..., None].repeat(3, axis=2)
    down, across = (length // SIDE for length in coloured.shape[:2])
    whole = coloured[: down * SIDE, : across * SIDE].reshape(down, SIDE, across, SIDE, 3).swapaxes(1, 2)
    tiles = whole.reshape(-1, SIDE, SIDE, 3)
    return tiles[np.unique(np.linspace(0, len(tiles) - 1, min(most, len(tiles))).astype(int))]


def _tissue() -> Mapping[str, Tiles]:
    plan = CohortPlan(patients=10, patches=6, seed=3)
    drawn = np.stack([draw_patch(plan, who, number).pixels for who in range(10) for number in range(6)])
    found = {
        "phantom tissue (drawn lymph node)": drawn,
        "colon in DAB and haematoxylin": _cut(data.immunohistochemistry()),
    }
    if SLIDE.exists():
        with open_slide(SLIDE) as slide:
            grid = tile_grid(slide.info, tissue_of(slide), tile_px=SIDE, mpp=MPP)
            read = [slide.read_pixels(Box(*box), Size(SIDE, SIDE)) for box in grid.boxes.tolist()]
        found["H&E of another organ and scanner (CMU-1)"] = np.stack(read)
    return found


def _photographs() -> Mapping[str, Tiles]:
    china, flower = load_sample_images().images
    return {
        "cat": _cut(data.chelsea()),
        "astronaut": _cut(data.astronaut()),
        "coffee": _cut(data.coffee()),
        "rocket": _cut(data.rocket()),
        "retina": _cut(data.retina()),
        "deep field": _cut(data.hubble_deep_field()),
        "motorcycle": _cut(data.stereo_motorcycle()[0]),
        "temple": _cut(china),
        "flower": _cut(flower),
        "grass": _cut(data.grass()),
        "gravel": _cut(data.gravel()),
        "brick": _cut(data.brick()),
        "cameraman": _cut(data.camera()),
        "coins": _cut(data.coins()),
        "moon": _cut(data.moon()),
        "cell": _cut(data.cell()),
        "page of text": _cut(data.page()),
    }


def _fresh_pictures() -> Mapping[str, Tiles]:
    faces = data.lfw_subset()[:MOST]
    return {
        "faces": _stack([
            Image.fromarray((255 * one).astype(np.uint8)).convert("RGB").resize((SIDE, SIDE)) for one in faces
        ]),
        "microaneurysms": _cut(data.microaneurysms()),
        "clock in motion": _cut(data.clock()),
        "horse, black and white": _cut(data.horse()),
        "chessboard": _cut(data.checkerboard()),
        "colour wheel": _cut(data.colorwheel()),
        "logo": _cut(data.logo()),
        "blobs, black and white": _cut(data.binary_blobs(length=384, rng=SEED)),
        "Shepp and Logan's phantom": _cut(data.shepp_logan_phantom()),
    }


PICTURES: Mapping[str, Callable[[], Mapping[str, Tiles]]] = {
    "tissue": _tissue,
    "photographs": _photographs,
    "fresh_pictures": _fresh_pictures,
}

HEAD = """| {what} | tiles | by a rule | in structure | refused | atypical | verdicts |
|---|---:|---:|---:|---:|---:|---|"""

TEXT = f"""# What is refused, measured

{{n}} real patches of {{slides}} slides (PatchCamelyon: lymph nodes in haematoxylin and eosin, 96 px at 0.972 um).
A tile is [refused](../refusal.md) by a *rule*, or for its *structure* (p at most {{level}}); *atypical* are those whose
p-value in structure and colours is at most {{level}}, and all that break a rule. The level was stated, not fitted.
Written by `python benchmarks/refusal.py --write`.

## Genuine tiles of slides that were left out

Each slide is left out in turn, and held against the slides named in the first column without it. Intervals are 95 %,
over slides.

| held against | slides | tiles | refused | of these glass | atypical | slides warned | slides refused |
|---|---:|---:|---:|---:|---:|---:|---:|
{{genuine}}

A slide is given a verdict from five tiles on. With {{slides}} slides the p-value of a slide is
1/{{resolution}} or more, so that one genuine slide in {{resolution}} gets a warning whatever is done; that of a tile is
{{least}} or more.

**Clusters** are those of [the stain shift](seeing-better.md): by the stain vectors of whole slides. They are not two
scanners, as was taken for granted. By the colour of their nuclei (red less blue density; there are two modes with
hardly a patch between) patches are *violet* or *brown*. Each of the {{n_a}} slides of cluster A has one colour
({{mixed_a}} have three patches or more of both); of cluster B {{mixed}} have both, which the patches of one slide
cannot. Which slide a patch is of was inferred in these data, and seems wrong for them. The last four rows go by the
colour of each patch (those without nuclei are left out), and are nearer to one scanner and another.

## Nonsense, other stains, other scales

Made of the patches of each left-out slide, which are held against the other slides; *verdicts* are of each slide with
five tiles or more.

{HEAD.format(what="made of patches, or drawn")}
{{plain}}

{HEAD.format(what="stain, simulated by unmixing and mixing densities")}
{{stains}}

{HEAD.format(what="scale and sharpness")}
{{scales}}

Blurred tiles are left out by the [quality check](../tissue.md) as well, which is not in these numbers.

## Pictures and other tissue

Held against all {{slides}} slides; each picture counts as one slide.

{HEAD.format(what="tissue")}
{{tissue}}

{HEAD.format(what="picture of scikit-image or scikit-learn")}
{{photographs}}

## Kinds that nothing was chosen with

The limits of the rules lie between published stain vectors, or where genuine patches lie; the level is a round number.
But the eighteen numbers, nearest neighbours instead of Mahalanobis's distance, and structure as the part that refuses
were chosen with a look at the kinds above, and on these same slides. These were not looked at before:

{HEAD.format(what="made of patches")}
{{fresh}}

{HEAD.format(what="picture")}
{{fresh_pictures}}

## What it costs

Rules and typicality take {{times}} times the CPU of the check for blur and ink (medians of seven turns each, one
thread, one after the other).
"""

if __name__ == "__main__":
    main()
