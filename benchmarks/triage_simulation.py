"""Count how often the promises of the triage are kept, in laboratories whose truth is known.

    python benchmarks/triage_simulation.py [laboratories] [page]

Each laboratory draws patients; a share of them has a tumour, in some number of tiles that resemble one another. It
certifies a threshold on them. What the threshold misses is then looked up in 400,000 other patients with a tumour. The
numbers are synthetic: they say whether the mathematics holds, and nothing about tissue.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import special

from sentinode.evaluation.conformal import misses_allowed
from sentinode.seeds import stream

PAGE = Path(__file__).parents[1] / "docs" / "results" / "triage-simulation.md"
LABORATORIES = 2000
POPULATION = 400_000
MOST_TILES = 200


class Laboratory(NamedTuple):
    """How laboratories of a kind draw patients.

    Attributes
    ----------
    name : str
        In a few words.
    n_patients : int
        Of the certify part.
    prevalence : float
        Chance that one of them has a tumour.
    alpha, delta : float
        Of the promise.
    likeness : float
        Share of the variance that the tiles of one patient have in common.
    tiles : float
        Median number of tumour tiles of a patient with a tumour.
    """

    name: str
    n_patients: int
    prevalence: float
    alpha: float
    delta: float = 0.05
    likeness: float = 0.5
    tiles: float = 8.0


LABS = (
    Laboratory("balanced, alpha 5 %", 160, 0.5, 0.05),
    Laboratory("balanced, alpha 2 %", 600, 0.5, 0.02),
    Laboratory("one in ten has a tumour, alpha 5 %", 1000, 0.1, 0.05),
    Laboratory("one in ten has a tumour, alpha 1 %", 4000, 0.1, 0.01),
    Laboratory("59 patients, all with a tumour: the fewest that do, alpha 5 %", 59, 1.0, 0.05),
    Laboratory("99 patients, all with a tumour: the fewest on average, alpha 1 %", 99, 1.0, 0.01),
    Laboratory("few patients: about 14 with a tumour, alpha 10 %", 40, 0.35, 0.10),
    Laboratory("tiles of a patient nearly alike, alpha 5 %", 160, 0.5, 0.05, likeness=0.95),
    Laboratory("tiles that know nothing of one another, alpha 5 %", 160, 0.5, 0.05, likeness=0.0),
    Laboratory("many tiles a patient, alpha 5 %", 160, 0.5, 0.05, tiles=40.0),
)

PAGE_TEXT = """# Are the promises of the triage kept?

Simulated: {laboratories:,} laboratories of each kind certify a threshold, and what it misses is looked up in
{population:,} other patients with a tumour. Synthetic numbers: they say whether the mathematics holds, and
nothing about tissue. Written by `python benchmarks/triage_simulation.py`; the tests run a smaller one.

A patient with a tumour is missed when *any* of its tumour tiles is called clear. The number of tumour tiles
differs from patient to patient (log-normal, 1 to 200), and tiles of one patient resemble one another.

| laboratories | patients with a tumour, mean | confident: clear anything \
| **confident: promise broken** (at most 5 %) \
| average: clear anything | **average: mean share missed** (at most alpha) | naive: promise broken \
| naive: patients missed |
|---|---|---|---|---|---|---|---|
{rows}

- **Confident** (learn then test): at most 5 % of the laboratories may have a threshold that misses more than
  alpha of the patients. With {laboratories:,} laboratories the count itself has a standard error of about
  {error:.1f} points.
- **Average** (conformal risk control): the mean over the laboratories may be alpha at most; after ± stands the
  standard error of that mean.
- **Naive**: the same binomial test on all tumour *tiles*, as if each were of another patient. It promises that
  at most alpha of the tumour *tiles* are called clear; even that promise, which the column counts, is broken in
  far more than 5 % of the laboratories, unless tiles know nothing of one another. Of patients it promises
  nothing, and the last column shows what becomes of them.
- **Few patients**: where nothing may be called clear, nothing is missed, and no promise is broken.
"""


class Outcome(NamedTuple):
    """What became of the promises, one number a laboratory: shares of missed patients, or of missed tiles.

    Attributes
    ----------
    n_tumour : (l,) int64
        Patients with a tumour that it certified on.
    confident, average : (l,) float64
        True share of patients with a tumour that the threshold misses; 0 where nothing is called clear.
    naive : (l,) float64
        True share of tumour *tiles* below the threshold of the same binomial test, made on tiles as if each were a
        patient: what that promises is about tiles, and even that is what is measured here.
    naive_patients : (l,) float64
        True share of patients with a tumour that this threshold misses.
    """

    n_tumour: NDArray[np.int64]
    confident: NDArray[np.float64]
    average: NDArray[np.float64]
    naive: NDArray[np.float64]
    naive_patients: NDArray[np.float64]


def simulate(kind: Laboratory, laboratories: int, *, seed: int = 1, population: int = POPULATION) -> Outcome:
    """Let laboratories certify, and look up what they miss.

    Parameters
    ----------
    kind : Laboratory
        Of what kind they are.
    laboratories : int
        How many.
    seed : int
        Of everything.
    population : int
        Patients with a tumour in whom the truth is looked up.
    """
    truth = np.sort(_lowest(kind, population, stream(seed, "population", kind.name)))
    tiles, weight = _tiles(kind, population // 10, stream(seed, "population tiles", kind.name))
    order = np.argsort(tiles.ravel())
    sorted_tiles, mass = tiles.ravel()[order], np.cumsum(weight.ravel()[order])
    rng = stream(seed, "laboratories", kind.name)
    n_tumour = rng.binomial(kind.n_patients, kind.prevalence, laboratories)
    certified = _in_laboratories(_lowest(kind, int(n_tumour.sum()), rng), n_tumour)

    def missed(threshold: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.searchsorted(truth, threshold, side="left") / len(truth)

    def missed_tiles(threshold: NDArray[np.float64]) -> NDArray[np.float64]:
        below = np.searchsorted(sorted_tiles, threshold, side="left")
        return np.concatenate([[0.0], mass])[below] / mass[-1]

    naive = _naive_thresholds(kind, n_tumour, rng)
    return Outcome(
        n_tumour,
        missed(_thresholds(certified, n_tumour, lambda n: misses_allowed(n, kind.alpha, kind.delta))),
        missed(_thresholds(certified, n_tumour, lambda n: misses_allowed(n, kind.alpha))),
        missed_tiles(naive),
        missed(naive),
    )


def _counts(kind: Laboratory, n: int, rng: np.random.Generator) -> NDArray[np.int64]:
    return np.clip(rng.lognormal(np.log(kind.tiles), 1.0, n), 1, MOST_TILES).astype(np.int64)


def _lowest(kind: Laboratory, n: int, rng: np.random.Generator) -> NDArray[np.float64]:
    # Lowest of the tumour tiles of each patient: the minimum of t normals is the quantile of 1 - (1 - u)^(1/t).
    t = _counts(kind, n, rng)
    own = rng.normal(0, np.sqrt(kind.likeness), n)
    with np.errstate(divide="ignore"):
        minimum = special.ndtri(-np.expm1(np.log1p(-rng.random(n)) / t))
    return own + np.sqrt(1 - kind.likeness) * np.maximum(minimum, -9)


def _tiles(kind: Laboratory, n: int, rng: np.random.Generator) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    # Four tiles of each patient (n, 4), weighted by how many it has: enough for a share of all tiles.
    t = _counts(kind, n, rng)
    own = rng.normal(0, np.sqrt(kind.likeness), (n, 1))
    tiles = own + np.sqrt(1 - kind.likeness) * rng.normal(size=(n, 4))
    return tiles, np.repeat(t[:, None] / 4, 4, axis=1)


def _in_laboratories(values: NDArray[np.float64], sizes: NDArray[np.int64]) -> NDArray[np.float64]:
    # (l, most) sorted, infinity where a laboratory has no more.
    inside = np.arange(sizes.max(initial=1))[None, :] < sizes[:, None]
    table = np.full(inside.shape, np.inf)
    table[inside] = values
    return np.sort(table, axis=1)


def _thresholds(
    table: NDArray[np.float64], sizes: NDArray[np.int64], allowed: Callable[[int], int]
) -> NDArray[np.float64]:
    known = {int(n): allowed(int(n)) for n in np.unique(sizes)}
    misses = np.array([known[int(n)] for n in sizes])
    picked = np.take_along_axis(table, np.maximum(misses, 0)[:, None], axis=1)[:, 0]
    return np.where(misses < 0, -np.inf, picked)


def _naive_thresholds(kind: Laboratory, n_tumour: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.float64]:
    # Every tumour tile of the laboratory as if it were a patient of its own.
    thresholds = np.full(len(n_tumour), -np.inf)
    for laboratory, n in enumerate(n_tumour.tolist()):
        t = _counts(kind, n, rng)
        own = np.repeat(rng.normal(0, np.sqrt(kind.likeness), n), t)
        tiles = own + np.sqrt(1 - kind.likeness) * rng.normal(size=len(own))
        misses = misses_allowed(len(tiles), kind.alpha, kind.delta)
        if misses >= 0:
            thresholds[laboratory] = np.partition(tiles, misses)[misses]
    return thresholds


def main(laboratories: int, page: Path) -> None:
    """Simulate every kind and write the page."""
    rows = []
    for kind in LABS:
        found = simulate(kind, laboratories)
        error = found.average.std(ddof=1) / np.sqrt(laboratories)
        rows.append(
            f"| {kind.name} | {found.n_tumour.mean():.0f} | {_percent(np.mean(found.confident > 0))} "
            f"| **{_percent(np.mean(found.confident > kind.alpha))}** "
            f"| {_percent(np.mean(found.average > 0))} "
            f"| **{_percent(found.average.mean(), 2)} ± {_percent(error, 2)}** "
            f"| {_percent(np.mean(found.naive > kind.alpha))} | {_percent(found.naive_patients.mean())} |"
        )
        print(rows[-1])
    text = PAGE_TEXT.format(
        laboratories=laboratories,
        population=POPULATION,
        rows="\n".join(rows),
        error=100 * np.sqrt(0.05 * 0.95 / laboratories),
    )
    page.write_text(text, encoding="utf-8", newline="\n")
    print(f"wrote {page}")


def _percent(share: float, digits: int = 1) -> str:
    return f"{100 * share:.{digits}f} %"


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else LABORATORIES, Path(sys.argv[2]) if len(sys.argv) > 2 else PAGE)
