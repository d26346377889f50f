"""How this machine runs a graph best: measured once for each model, kept in a cache folder, and told in every result.

What decides numbers is never measured: bf16 is taken where the CPU computes in it and the probabilities stay within
`CLOSE` of float32, whatever the clock says, so that the same machine gives the same result. What is measured is how
the work is cut: all cores on one batch, or a small batch a core. int8 is taken where somebody asks for it, the model
offers it, and it gives here what it gave where it was measured.
"""

import hashlib
import json
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import platformdirs
from numpy.typing import NDArray

from sentinode.errors import ModelError
from sentinode.seeds import stream
from sentinode.storage import write_whole

__all__ = [
    "CLOSE",
    "Machine",
    "Precision",
    "PrecisionWish",
    "RuntimeChoice",
    "apart_on_drawn",
    "cache_folder",
    "choose",
    "drawn_tiles",
    "stored_choices",
]

Precision: TypeAlias = Literal["float32", "bf16", "int8"]
PrecisionWish: TypeAlias = Literal["auto", "float32", "int8"]
"""``"auto"``: bf16 where the CPU computes in it and it stays close, else float32."""

Recognise: TypeAlias = Callable[[NDArray[np.uint8]], NDArray[np.float32]]

CLOSE = 0.02
"""Largest difference of a probability from float32 on drawn tiles, up to which bf16 is taken."""

SAMPLE = 64
"""Tiles that a choice is measured on."""

REPEATS = 3
_FORMAT = "sentinode-runtime-1"
_MOST = 200  # models remembered: the oldest are measured again


@dataclass(frozen=True)
class Machine:
    """What a choice holds for.

    Parameters
    ----------
    cpu : str
        Its name.
    cores : int
        That this process may use.
    engine : str
        What runs graphs, with its version.
    bf16 : bool
        Whether the CPU computes in bf16.
    """

    cpu: str
    cores: int
    engine: str
    bf16: bool

    @property
    def key(self) -> str:
        """Of the machine, short."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class RuntimeChoice:
    """How a graph is run.

    Parameters
    ----------
    engine : str
        What runs it, with its version.
    precision : {"float32", "bf16", "int8"}
        In which it is computed; what goes in and comes out is the same.
    streams : int
        Batches that are computed at the same time, each by an equal share of the cores.
    batch : int
        Tiles of each.
    apart : float
        Largest difference of a probability from float32, on drawn tiles; 0 for float32 itself.
    rate : float or None
        Tiles a second when it was measured; None where it was not.
    """

    engine: str
    precision: Precision = "float32"
    streams: int = 1
    batch: int = 64
    apart: float = 0.0
    rate: float | None = None


def cache_folder() -> Path:
    """Say where what was measured is kept.

    Returns
    -------
    Path
        ``SENTINODE_CACHE``, else the user's cache folder of the operating system; it need not exist.
    """
    given = os.environ.get("SENTINODE_CACHE")
    return Path(given) if given else Path(platformdirs.user_cache_path("sentinode"))


def choose(
    machine: Machine,
    model: str,
    tile: tuple[int, int],
    build: Callable[[RuntimeChoice], Recognise],
    folder: Path,
    int8: float | None = None,
) -> RuntimeChoice:
    """Choose how a graph is run: as it was chosen before, else by trying.

    Parameters
    ----------
    machine : Machine
        This one.
    model : str
        Digest of the graph.
    tile : (h, w)
        Of its tiles.
    build : callable
        Makes a choice run: gives a function of tiles.
    folder : Path
        `cache_folder`. Where it cannot be written, the next process measures again.
    int8 : float, optional
        Given, the graph is run in int8: `apart_on_drawn` of the machine that offered it.

    Returns
    -------
    RuntimeChoice
        Of the quickest way in the chosen precision.

    Raises
    ------
    ModelError
        If int8 is further from float32 here, by more than `CLOSE`, than where it was measured.
    """
    # ModelError is that of _int8.
    stored, name = _read(folder, machine), model if int8 is None else f"{model} int8"
    known = stored.get(name)
    if known is not None:
        return known
    tiles = drawn_tiles(SAMPLE, tile)
    precision, apart = _precision(machine, tile, build) if int8 is None else _int8(machine, tile, build, int8)
    ways = [RuntimeChoice(machine.engine, precision, streams, batch, apart) for streams, batch in _cuts(machine.cores)]
    rates = _rates([build(way) for way in ways], tiles)
    best = max(range(len(ways)), key=rates.__getitem__)
    choice = replace(ways[best], rate=round(rates[best], 1))
    _write(folder, machine, {**_read(folder, machine), name: choice})
    return choice


def stored_choices(machine: Machine, folder: Path) -> tuple[RuntimeChoice, ...]:
    """List what was chosen on a machine.

    Parameters
    ----------
    machine : Machine
        This one.
    folder : Path
        `cache_folder`.

    Returns
    -------
    tuple of RuntimeChoice
        One a model (and one more in int8), the latest last.
    """
    return tuple(_read(folder, machine).values())


def apart_on_drawn(
    machine: Machine, precision: Precision, tile: tuple[int, int], build: Callable[[RuntimeChoice], Recognise]
) -> float:
    """Measure how far a precision is from float32 on drawn tiles.

    Parameters
    ----------
    machine : Machine
        This one.
    precision : {"float32", "bf16", "int8"}
        Which.
    tile : (h, w)
        Of the tiles of the model.
    build : callable
        As in `choose`.

    Returns
    -------
    float
        Largest difference of a probability.
    """
    tiles = drawn_tiles(SAMPLE, tile)
    plain, quick = (build(RuntimeChoice(machine.engine, one))(tiles) for one in ("float32", precision))
    return round(float(np.abs(plain - quick).max()), 6)


def drawn_tiles(n: int, tile: tuple[int, int]) -> NDArray[np.uint8]:
    """Draw tiles whose colours and whose scales of detail are about those of stained tissue; synthetic.

    Parameters
    ----------
    n : int
        How many.
    tile : (h, w)
        Pixels.

    Returns
    -------
    (n, h, w, 3) uint8
        The same ones each time.
    """
    random, (height, width) = stream(1, "runtime tiles"), tile
    # Densities of the two stains (Ruifrok and Johnston 2001) as noise of three scales.
    vectors = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11]])
    density = np.zeros((n, height, width, 2))
    for side, weight in ((16, 0.4), (6, 0.4), (1, 0.2)):
        coarse = random.gamma(1.0, size=(n, -(-height // side), -(-width // side), 2))
        density += weight * coarse.repeat(side, axis=1).repeat(side, axis=2)[:, :height, :width]
    strength = random.uniform(0.1, 1.0, size=(n, 1, 1, 2))
    return np.asarray(np.rint(243 * np.exp(-(density * strength) @ vectors)), dtype=np.uint8)


def _precision(
    machine: Machine, tile: tuple[int, int], build: Callable[[RuntimeChoice], Recognise]
) -> tuple[Precision, float]:
    if not machine.bf16:
        return "float32", 0.0
    apart = apart_on_drawn(machine, "bf16", tile, build)
    return ("bf16", apart) if apart <= CLOSE else ("float32", 0.0)


def _int8(
    machine: Machine, tile: tuple[int, int], build: Callable[[RuntimeChoice], Recognise], expected: float
) -> tuple[Precision, float]:
    # Drawn tiles are no tissue, and may be further away. But a CPU whose sums of bytes overflow, as those without VNNI
    # may, is further away than that.
    apart = apart_on_drawn(machine, "int8", tile, build)
    if not apart <= expected + CLOSE:
        raise ModelError(
            f"in int8 this CPU gives other probabilities than float32 (up to {apart:.2g} apart on drawn tiles, "
            f"{expected:.2g} where int8 was measured); leave out --precision int8"
        )
    return "int8", apart


def _cuts(cores: int) -> list[tuple[int, int]]:
    # Streams, and tiles a batch: all cores together, then each on its own.
    return [(1, 64)] if cores == 1 else [(1, 64), (cores, 16)]


def _rates(ways: Sequence[Recognise], tiles: NDArray[np.uint8]) -> list[float]:
    seconds: list[list[float]] = [[] for _ in ways]
    for recognise in ways:
        recognise(tiles)  # buffers are made at the first call
    for _ in range(REPEATS):
        for taken, recognise in zip(seconds, ways, strict=True):
            started = time.perf_counter()
            recognise(tiles)
            taken.append(time.perf_counter() - started)
    return [len(tiles) / max(statistics.median(taken), 1e-9) for taken in seconds]


def _file(folder: Path, machine: Machine) -> Path:
    # A home may be shared by many machines.
    return folder / f"runtime-{machine.key}.json"


def _read(folder: Path, machine: Machine) -> dict[str, RuntimeChoice]:
    # What cannot be read was not measured.
    try:
        stored: Mapping[str, Any] = json.loads(_file(folder, machine).read_text(encoding="utf-8"))
        if stored["format"] != _FORMAT:
            return {}
        return {model: RuntimeChoice(**choice) for model, choice in stored["choices"].items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return {}


def _write(folder: Path, machine: Machine, choices: Mapping[str, RuntimeChoice]) -> None:
    kept = dict(list(choices.items())[-_MOST:])
    content = {
        "format": _FORMAT,
        "machine": asdict(machine),
        "choices": {name: asdict(one) for name, one in kept.items()},
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(_file(folder, machine), json.dumps(content, indent=2) + "\n")
    except OSError:  # a home that cannot be written costs two seconds a run, and nothing else
        return
