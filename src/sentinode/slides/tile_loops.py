"""The loops over the pixels of tiles, compiled: a tile stays in the cache of a core while it is measured.

What the numbers mean, and every limit, stands where they are used (`sentinode.slides.quality`, `bright_field` and
`appearance`); here is what goes over all pixels. Numba compiles a loop when it is called first, some seconds once a
machine, and keeps it beside this file, or in the user's cache where that cannot be written. What is kept is only held
against this file: all that loops need of each other is in it, and no number of another module.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import numba
import numpy as np
from numpy.typing import NDArray

__all__ = [
    "BLOCK",
    "N_MOMENTS",
    "REACH",
    "averaged",
    "blocks_of_light",
    "compiled_before",
    "details",
    "ink_of",
    "over_glass",
    "spread",
    "structure",
]

Floats = NDArray[np.float32]
Loop = TypeVar("Loop", bound=Callable[..., Any])

BLOCK = 4
"""Pixels a side of a block: the colour of two pixels is shared in JPEG, and noise halves twice."""

N_MOMENTS = 13
"""Numbers of a tile that `structure` writes beside the variances."""

REACH = 4
"""Pixels on either side of which `details` takes the Gaussian."""


def _compiled(loop: Loop) -> Loop:
    # Sums may be added up in another order, so that they are vectorised; NaN and infinity stay what they are. Threads
    # do not wait for each other.
    how: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": {"reassoc", "contract", "nsz", "arcp"}}
    try:
        return cast("Loop", numba.njit(loop, cache=True, **how))
    except RuntimeError:  # nowhere to keep it: neither the package nor a home can be written
        return cast("Loop", numba.njit(loop, **how))


def compiled_before() -> bool:
    """Say whether loops of this very file are kept on this machine, so that nothing has to be compiled at first.

    Returns
    -------
    bool
        False, too, where they cannot be kept.

    Examples
    --------
    >>> averaged(np.zeros((1, 2, 2, 3), np.uint8), 2, np.empty((1, 1, 1, 3), np.uint8))
    >>> compiled_before()
    True
    """
    folder = averaged.stats.cache_path  # type: ignore[attr-defined]  # numba's, of a compiled function
    written = Path(__file__).stat().st_mtime
    return folder is not None and any(
        kept.stat().st_mtime >= written for kept in Path(folder).glob(f"{Path(__file__).stem}.*.nbi")
    )


@_compiled
def averaged(light: NDArray[np.uint8], factor: int, found: NDArray[np.uint8]) -> None:
    """Average pixels, and round to grey levels; halves to the even one.

    Parameters
    ----------
    light : (n, h, w, 3) uint8
        Tiles.
    factor : int
        So many by so many pixels become one.
    found : (n, h // factor, w // factor, 3) uint8
        Written.
    """
    n, height, width, _ = found.shape
    area = np.float32(factor * factor)
    sums = np.empty((width, 3), dtype=np.int32)
    for i in range(n):
        for y in range(height):
            sums[:] = 0
            for v in range(y * factor, (y + 1) * factor):
                for x in range(width):
                    for u in range(x * factor, (x + 1) * factor):
                        for k in range(3):
                            sums[x, k] += light[i, v, u, k]
            for x in range(width):
                for k in range(3):
                    found[i, y, x, k] = np.uint8(np.rint(np.float32(sums[x, k]) / area))


@_compiled
def over_glass(light: NDArray[np.uint8], table: Floats, mean: Floats, halves: Floats) -> None:
    """Take the densities of tiles, of pixels and of pixels of twice the side.

    Parameters
    ----------
    light : (n, h, w, 3) uint8
        Tiles of even sides.
    table : (256,) float32
        Grey level -> density.
    mean : (n, h, w) float32
        Written: mean density of the colours of each pixel.
    halves : (4, n, h / 2, w / 2) float32
        Written: density of each colour, and mean density; means of four pixels.
    """
    n, height, width, _ = light.shape
    colours = np.empty((3, height, width), dtype=np.float32)
    third = np.float32(1 / 3)
    for i in range(n):
        _densities(light[i], table, colours)
        for y in range(height):
            for x in range(width):
                mean[i, y, x] = (colours[0, y, x] + colours[1, y, x] + colours[2, y, x]) * third
        for k in range(3):
            _halve(colours[k], height // 2, width // 2, halves[k, i])
        for y in range(height // 2):
            for x in range(width // 2):
                halves[3, i, y, x] = (halves[0, i, y, x] + halves[1, i, y, x] + halves[2, i, y, x]) * third


@_compiled
def _densities(light: NDArray[np.uint8], table: Floats, colours: Floats) -> None:
    # (h, w, 3) -> (3, h, w)
    height, width, _ = light.shape
    for y in range(height):
        for x in range(width):
            colours[0, y, x] = table[light[y, x, 0]]
            colours[1, y, x] = table[light[y, x, 1]]
            colours[2, y, x] = table[light[y, x, 2]]


@_compiled
def _halve(image: Floats, height: int, width: int, half: Floats) -> None:
    # Means of four pixels: so many down and across.
    quarter = np.float32(0.25)
    for y in range(height):
        for x in range(width):
            upper = image[2 * y, 2 * x] + image[2 * y, 2 * x + 1]
            half[y, x] = (upper + (image[2 * y + 1, 2 * x] + image[2 * y + 1, 2 * x + 1])) * quarter


@_compiled
def ink_of(red: Floats, green: Floats, blue: Floats, found: NDArray[np.uint8]) -> None:
    """Tell which ink densities are the colour of; the limits are those that `sentinode.slides.tissue.ink` explains.

    Parameters
    ----------
    red, green, blue : (n,) float32
        Densities.
    found : (n,) uint8
        Written: 1 for blue ink, 2 for green, 3 for red, 4 for black, 0 for none.
    """
    for i in range(len(found)):
        r, g, b = red[i], green[i], blue[i]
        mean = (r + g + b) * np.float32(1 / 3)
        apart = max(r, g, b) - min(r, g, b)
        cold = (r - g > np.float32(0.12) + np.float32(0.06) * mean) & (r > np.float32(0.35))
        # Blood is paler than red ink.
        is_red = (g > np.float32(1.3)) & (b > np.float32(0.68) * g) & (r < np.float32(0.3) * g)
        beyond = max(mean - np.float32(1.4), np.float32(0))
        is_black = (mean > np.float32(1.1)) & (apart < np.float32(0.12) * mean + np.float32(0.25) * beyond)
        of_cold = np.uint8(1) if b < g else np.uint8(2)
        warm = np.uint8(3) if is_red else (np.uint8(4) if is_black else np.uint8(0))
        found[i] = of_cold if cold else warm


@_compiled
def _mirrored(place: int, length: int) -> int:
    # As ndimage's "reflect": the border lies between pixels; far beyond it, to and fro.
    place %= 2 * length
    return place if place < length else 2 * length - 1 - place


@_compiled
def details(mean: Floats, half: Floats, around: Floats, taps: Floats, fine: Floats, coarse: Floats) -> None:
    """Measure how far pixels are from what is around them, squared; means of four pixels.

    Parameters
    ----------
    mean : (n, h, w) float32
        Images of even sides.
    half : (n, h / 2, w / 2) float32
        Means of four pixels.
    around : (n, h / 2, w / 2) float32
        What is around each four for the coarse detail.
    taps : (REACH + 1,) float32
        A Gaussian, which says what is around each pixel for the fine detail: its middle, and outward.
    fine, coarse : (n, h / 2, w / 2) float32
        Written.
    """
    n, height, width = mean.shape
    down, away = np.empty((height, width + 2 * REACH), dtype=np.float32), np.empty((height, width), dtype=np.float32)
    two = np.float32(2)
    for i in range(n):
        image = mean[i]
        for y in range(height):
            _down(image, y, taps, down[y, REACH : REACH + width])
        _across(image, down, taps, away)
        _halve(away, height // 2, width // 2, fine[i])
        for y in range(height):
            for x in range(width):
                away[y, x] = image[y, x] * image[y, x]
        _halve(away, height // 2, width // 2, coarse[i])
        for y in range(height // 2):
            for x in range(width // 2):
                coarse[i, y, x] += around[i, y, x] * (around[i, y, x] - two * half[i, y, x])


@_compiled
def _down(image: Floats, y: int, taps: Floats, row: Floats) -> None:
    # Two reaches at a time: of more images at once the compiler does not see that they are not written to.
    height, width = image.shape
    for x in range(width):
        row[x] = taps[0] * image[y, x]
    for d in range(1, REACH + 1):
        above, below = _mirrored(y - d, height), _mirrored(y + d, height)
        for x in range(width):
            row[x] += taps[d] * (image[above, x] + image[below, x])


@_compiled
def _across(image: Floats, down: Floats, taps: Floats, away: Floats) -> None:
    height, width = image.shape
    t0, t1, t2, t3, t4 = taps[0], taps[1], taps[2], taps[3], taps[4]
    for y in range(height):
        row = down[y]
        for d in range(1, REACH + 1):
            row[REACH - d] = row[REACH + _mirrored(-d, width)]
            row[REACH + width - 1 + d] = row[REACH + _mirrored(width - 1 + d, width)]
        for x in range(width):
            near = t0 * row[x + 4] + t1 * (row[x + 3] + row[x + 5]) + t2 * (row[x + 2] + row[x + 6])
            near += t3 * (row[x + 1] + row[x + 7]) + t4 * (row[x] + row[x + 8])
            away[y, x] = (image[y, x] - near) * (image[y, x] - near)


@_compiled
def spread(light: NDArray[np.uint8], table: Floats, found: Floats) -> None:
    """Measure how much the mean density of the colours differs between pixels.

    Parameters
    ----------
    light : (n, h, w, 3) uint8
        Tiles.
    table : (256,) float32
        Grey level -> density.
    found : (n,) float32
        Written: variance.
    """
    n, height, width, _ = light.shape
    area = height * width
    for i in range(n):
        total = squared = 0.0
        for y in range(height):
            for x in range(width):
                density = table[light[i, y, x, 0]] + table[light[i, y, x, 1]] + table[light[i, y, x, 2]]
                total += density
                squared += np.float64(density) * density
        found[i] = max(0.0, squared / area - (total / area) ** 2) / 9


@_compiled
def blocks_of_light(light: NDArray[np.uint8], table: Floats, blocks: Floats) -> None:
    """Take the densities of blocks of pixels.

    Parameters
    ----------
    light : (n, h, w, 3) uint8
        Tiles.
    table : (255 * BLOCK**2 + 1,) float32
        Sum of the grey levels of a block -> density.
    blocks : (3, n, h // BLOCK * (w // BLOCK)) float32
        Written: density of each in each colour, row by row; what is left over at the far borders is left out.
    """
    n, height, width, _ = light.shape
    across = width // BLOCK
    columns = np.empty(across * BLOCK * 3, dtype=np.uint16)
    for i in range(n):
        for down in range(height // BLOCK):
            columns[:] = 0
            for y in range(down * BLOCK, (down + 1) * BLOCK):
                row = light[i, y].ravel()
                for x in range(len(columns)):
                    columns[x] += row[x]
            for block in range(across):
                for k in range(3):
                    at = block * BLOCK * 3 + k
                    total = np.int64(columns[at]) + columns[at + 3] + columns[at + 6] + columns[at + 9]
                    blocks[k, i, down * across + block] = table[total]


@_compiled
def structure(
    light: NDArray[np.uint8], table: Floats, octaves: int, blocks: Floats, moments: NDArray[np.float64]
) -> None:
    """Take the moments of densities and of two differences of colour, over blocks of growing size.

    Parameters
    ----------
    light : (n, h, w, 3) uint8
        Tiles.
    table : (256,) float32
        Grey level -> density.
    octaves : int
        Blocks of 1, 2, 4 ... 2**octaves pixels a side are looked at; two or more.
    blocks : (n, h // 4 * (w // 4)) float32
        Written: mean density of blocks of 4 pixels a side.
    moments : (n, 3 * (octaves + 1) + N_MOMENTS) float64
        Written: of density, red less blue, and green less the mean of both the variance over blocks of each size; then
        the three means; second and third central moment of the density of pixels, and of blocks of 4; second and fourth
        moment of what is left of pixels when the mean of four is taken off; for both differences the mean over blocks
        of 4, and the covariance with the density of these.
    """
    n, height, width, _ = light.shape
    levels = np.empty((octaves + 1, 3, height, width), dtype=np.float32)  # of each, the upper left part is used
    after = 3 * (octaves + 1)
    for i in range(n):
        found = moments[i]
        _densities(light[i], table, levels[0])
        _density_and_differences(levels[0])
        for k in range(3):
            tall, wide = height, width
            for octave in range(octaves + 1):
                mean, found[k * (octaves + 1) + octave] = _mean_and_variance(levels[octave, k], tall, wide)
                if octave == 0:
                    found[after + k] = mean
                if k == 0 and octave in {0, 2}:
                    at = after + 3 + octave
                    found[at], found[at + 1] = _central(levels[octave, 0], tall, wide, mean)
                if k > 0 and octave == 2:
                    found[after + 7 + 2 * k] = mean
                    found[after + 8 + 2 * k] = _covariance(levels[2, k], levels[2, 0], tall, wide)
                if octave < octaves:
                    tall, wide = tall // 2, wide // 2
                    _halve(levels[octave, k], tall, wide, levels[octave + 1, k])
        found[after + 7], found[after + 8] = _left_over(levels[0, 0], levels[1, 0], height // 2, width // 2)
        for y in range(height // 4):
            for x in range(width // 4):
                blocks[i, y * (width // 4) + x] = levels[2, 0, y, x]


@_compiled
def _density_and_differences(colours: Floats) -> None:
    # Red, green, blue -> mean, red less blue, and green less the mean of both.
    _, height, width = colours.shape
    third, half = np.float32(1 / 3), np.float32(0.5)
    for y in range(height):
        for x in range(width):
            red, green, blue = colours[0, y, x], colours[1, y, x], colours[2, y, x]
            colours[0, y, x] = (red + green + blue) * third
            colours[1, y, x] = red - blue
            colours[2, y, x] = green - (red + blue) * half


@_compiled
def _mean_and_variance(image: Floats, height: int, width: int) -> tuple[float, float]:
    # Row by row in single precision, the rows in double: of some hundred numbers little is lost.
    total = squared = 0.0
    centre = image[0, 0]
    for y in range(height):
        of_row = of_squares = np.float32(0)
        for x in range(width):
            away = image[y, x] - centre
            of_row += away
            of_squares += away * away
        total += float(of_row)
        squared += float(of_squares)
    mean = total / (height * width)
    return mean + centre, max(0.0, squared / (height * width) - mean * mean)


@_compiled
def _central(image: Floats, height: int, width: int, mean: float) -> tuple[float, float]:
    # Second and third central moment.
    centre = np.float32(mean)
    second = third = 0.0
    for y in range(height):
        of_squares = of_cubes = np.float32(0)
        for x in range(width):
            away = image[y, x] - centre
            of_squares += away * away
            of_cubes += away * away * away
        second += float(of_squares)
        third += float(of_cubes)
    return second / (height * width), third / (height * width)


@_compiled
def _left_over(image: Floats, half: Floats, height: int, width: int) -> tuple[float, float]:
    # Second and fourth moment of what is left of pixels when the mean of four, `half`, is taken off.
    second = fourth = 0.0
    for y in range(height):
        of_squares = of_fourths = np.float32(0)
        for x in range(width):
            a = image[2 * y, 2 * x] - half[y, x]
            b = image[2 * y, 2 * x + 1] - half[y, x]
            c = image[2 * y + 1, 2 * x] - half[y, x]
            d = image[2 * y + 1, 2 * x + 1] - half[y, x]
            a, b, c, d = a * a, b * b, c * c, d * d
            of_squares += (a + b) + (c + d)
            of_fourths += (a * a + b * b) + (c * c + d * d)
        second += float(of_squares)
        fourth += float(of_fourths)
    return second / (4 * height * width), fourth / (4 * height * width)


@_compiled
def _covariance(image: Floats, other: Floats, height: int, width: int) -> float:
    total = of_image = of_other = 0.0
    for y in range(height):
        for x in range(width):
            total += np.float64(image[y, x]) * other[y, x]
            of_image += image[y, x]
            of_other += other[y, x]
    area = height * width
    return total / area - (of_image / area) * (of_other / area)
