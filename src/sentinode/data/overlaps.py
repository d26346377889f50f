"""Which images show the same tissue: equal, re-compressed, turned, or shifted against one another.

Images that share tissue and lie on both sides of a split let the test part be seen in training. They are
found in two steps: windows with equal codes (``sentinode.data.fingerprints``) propose how two images lie on
one another, and the pixels of the whole common area decide. Time and memory grow with the number of images,
not with the number of pairs: a code that many images share links each of them to a few others only, so that a
group stays connected.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import ndimage, sparse

from sentinode.data.fingerprints import ORIENTATIONS, Marks, exact_windows, key_points, orient

__all__ = ["OVERLAP_COLUMNS", "Overlaps", "common_area", "connected", "find_overlaps"]

OVERLAP_COLUMNS = ("first", "second", "kind", "score", "dx", "dy", "orientation")

_Scalar = TypeVar("_Scalar", bound=np.generic)

_BLOCK = 256  # images read and coded at a time
_LINKS = 12  # a code links an image to at most so many of those that follow it
_EXACT_SIDE = 16  # pixels: the least common area that counts when it is equal to the last bit
_EXACT_EQUAL = 0.99  # share of equal pixels
_EXACT_COLOURS = 48  # different colours in the common area: glass repeats a few
_NEAR_AREA = 0.15  # least common area, as a share of the smaller image, when it is only alike
_NEAR_PIXELS = 1000  # and in pixels: less shows too few nuclei to be told from others
_NEAR_SCORE = 0.8  # least correlation; docs/splits.md says what different and compressed tissue reach
_NEAR_DIRECTIONS = 0.1  # least ratio of the eigenvalues of the structure tensor: 1 is round, 0 a straight line
_NEAR_CONTRAST = 2.0  # grey levels: sd of the detail in the common area
_NEAR_SPOTS = 7  # dark and light spots in both: the rim of a pen's stroke, drawn or real, is like any other rim
_SPOT_RATIO = 5.0  # of a spot's two curvatures, at most: more is an edge
_COARSEST = 4.0  # pixels: what is coarser than this (a margin of tissue, shading) is no detail
_AROUND, _FAINT = 4.0, 2.5  # pixels; grey levels: contrast below this is noise and counts little
_FINEST = 0.8  # pixels: what is finer is noise
_HOPELESS = 0.3  # correlation of the detail below which a proposal is not looked at closely
_DETAILS = 2048  # images whose detail is kept
_SAME_FIELD = 1  # pixels that two images of the same field may be moved
_VOTES = 2  # codes of key points that must agree on a position; one agrees by chance

_Position = tuple[int, int, int, int, int]  # first, second, orientation, dx, dy
_Row = tuple[int, int, str, float, int, int, int]  # first, second, kind, score, orientation, dx, dy


def _relative_orientations() -> NDArray[np.int64]:
    # `[a, b]` is the orientation o for which `orient(orient(x, o), a)` is `orient(x, b)`.
    square = np.arange(4).reshape(2, 2)
    table = np.empty((ORIENTATIONS, ORIENTATIONS), dtype=np.int64)
    for a in range(ORIENTATIONS):
        for o in range(ORIENTATIONS):
            both = orient(orient(square, o), a)
            table[a, [b for b in range(ORIENTATIONS) if np.array_equal(orient(square, b), both)]] = o
    return table


_RELATIVE = _relative_orientations()


@dataclass(frozen=True)
class Overlaps:
    """Pairs of images that show the same tissue.

    Attributes
    ----------
    frame : pandas.DataFrame
        One row a pair, sorted: ``first < second`` (positions), ``kind``, ``score`` (correlation of the detail
        in the common area, at most 1), ``dx, dy, orientation``: the second image, brought to ``orientation``
        by ``sentinode.data.fingerprints.orient``, lies with its upper left corner at ``(dx, dy)`` of the
        first. Kinds: ``exact`` (every pixel is equal), ``near`` (the same field: turned, mirrored, compressed
        again, lighter or darker), ``shifted`` (a part is common).

    Examples
    --------
    >>> Overlaps.none().components(3).tolist()
    [0, 1, 2]
    """

    frame: pd.DataFrame

    @classmethod
    def none(cls) -> "Overlaps":
        """Find nothing: for images that are known to share no tissue.

        Returns
        -------
        Overlaps
            Without a pair.
        """
        return cls(_as_frame([]))

    def placed(self, positions: NDArray[np.int64]) -> "Overlaps":
        """Say the pairs in positions of a larger data set.

        Parameters
        ----------
        positions : (m,) int64
            Where each of the images that were compared stands in the larger one, ascending.

        Returns
        -------
        Overlaps
            The same pairs.
        """
        moved = {name: positions[self.frame[name].to_numpy()] for name in ("first", "second")}
        return Overlaps(self.frame.assign(**moved))

    def components(self, n: int) -> NDArray[np.int64]:
        """Tell apart the groups of images that hang together through overlaps.

        Parameters
        ----------
        n : int
            Number of images in the data set.

        Returns
        -------
        (n,) int64
            The same number for images of one group, counted from 0 in the order of the images.

        Raises
        ------
        ValueError
            If a pair names an image beyond the ``n``-th.
        """
        first, second = self.frame["first"].to_numpy(), self.frame["second"].to_numpy()
        if len(second) and second.max() >= n:
            raise ValueError(f"the overlaps name image {second.max()}, but there are only {n} images")
        return connected(first, second, n)


def connected(first: NDArray[np.int64], second: NDArray[np.int64], n: int) -> NDArray[np.int64]:
    """Tell apart the groups that hang together through pairs.

    Parameters
    ----------
    first, second : (m,) int64
        Pairs of things that are numbered from 0.
    n : int
        Number of things.

    Returns
    -------
    (n,) int64
        The group of each thing; groups are counted from 0 in the order of their first members.

    Examples
    --------
    >>> connected(np.array([0, 3]), np.array([3, 4]), 5).tolist()
    [0, 1, 2, 0, 0]
    """
    graph = sparse.coo_array((np.ones(len(first)), (first, second)), shape=(n, n))
    labels = sparse.csgraph.connected_components(graph, directed=False)[1]
    _, where, group = np.unique(labels, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(where))[group].astype(np.int64)


def find_overlaps(
    pixels: Sequence[NDArray[np.uint8]] | NDArray[np.uint8],
    on_progress: Callable[[int, int], None] | None = None,
) -> Overlaps:
    """Find the pairs of images that show the same tissue, in any of the eight orientations.

    Equal pixels are found down to a common area of 16 x 16; images that are only alike (compressed again,
    lighter, recoloured) down to about a fifth of their area. Areas without detail are no evidence: glass
    looks like glass. Where more than a dozen images share a piece of tissue each is linked to some of the
    others, not to all.

    Parameters
    ----------
    pixels : (n, h, w, 3) uint8
        Images of one size: an array, a memmap or a ``PatchSource``. Of features, (n, 1, d) float32, those that are
        equal are found.
    on_progress : callable, optional
        Called with the steps done and the steps in all.

    Returns
    -------
    Overlaps
        The pairs; the same each time on one machine (proposals of key points rest on rounded numbers).

    Examples
    --------
    >>> from sentinode.seeds import stream
    >>> scan = stream(1, "example").integers(0, 256, (140, 140, 3)).astype(np.uint8)
    >>> found = find_overlaps(np.stack([scan[:96, :96], scan[40:136, 30:126]]))
    >>> found.frame[["first", "second", "kind", "dx", "dy"]].to_numpy().tolist()
    [[0, 1, 'shifted', 30, 40]]
    """
    n = len(pixels)
    if n < 2:
        return Overlaps.none()
    if np.asarray(pixels[0]).ndim == 2:
        return _equal_features(pixels)
    report = on_progress or (lambda _done, _total: None)
    exact, keys, copies = _fingerprints(pixels, report)
    size = np.asarray(pixels[0]).shape[:2]
    found: dict[tuple[int, int], _Row] = {pair: (*pair, "exact", 1.0, 0, 0, 0) for pair in copies}
    sure = _proposed(exact, size, at_least=1)
    proposed = [*sure, *_proposed(keys, size, at_least=_VOTES)]
    details = lru_cache(maxsize=_DETAILS)(lambda place: _detail(np.asarray(pixels[place])).astype(np.float32))
    for i, (first, second, orientation, dx, dy) in enumerate(proposed):
        if i % _BLOCK == 0:
            report(n + n * i // len(proposed), 2 * n)
        if (first, second) in found:
            continue
        if i < len(sure) or _worth_it(*common_area(details(first), details(second), orientation, dx, dy)):
            how = _verified(np.asarray(pixels[first]), np.asarray(pixels[second]), orientation, dx, dy)
            if how is not None:
                found[first, second] = (first, second, *how, orientation, dx, dy)
    report(2 * n, 2 * n)
    return Overlaps(_as_frame(list(found.values())))


def _equal_features(rows: Sequence[NDArray[Any]] | NDArray[Any]) -> Overlaps:
    # Features show no tissue; two that are equal to the bit come from the same pixels. What occurs more than twice is
    # what glass gives, and no evidence: a slide that is there under two names has most of its rows exactly twice.
    places: dict[bytes, list[int]] = {}
    for place in range(len(rows)):
        key = hashlib.sha256(np.ascontiguousarray(rows[place]).tobytes()).digest()
        places.setdefault(key, []).append(place)
    pairs = [(found[0], found[1]) for found in places.values() if len(found) == 2]
    return Overlaps(_as_frame([(*pair, "exact", 1.0, 0, 0, 0) for pair in pairs]))


def common_area(
    first: NDArray[_Scalar], second: NDArray[_Scalar], orientation: int, dx: int, dy: int
) -> tuple[NDArray[_Scalar], NDArray[_Scalar]]:
    """Cut out what two images have in common when the second lies on the first.

    Parameters
    ----------
    first, second : (h, w, 3) uint8, or (h, w) float
        Two images, or something of each of their pixels.
    orientation : int
        What ``orient`` does to the second.
    dx, dy : int
        Where its upper left corner then lies, in pixels of the first.

    Returns
    -------
    tuple of two (a, b, 3) uint8
        The same area of both; empty where they do not meet.

    Examples
    --------
    >>> image = np.zeros((96, 96, 3), dtype=np.uint8)
    >>> common_area(image, image, 0, 80, -16)[0].shape
    (80, 16, 3)
    """
    turned = orient(second, orientation)
    h, w = first.shape[:2]
    y0, x0 = max(0, dy), max(0, dx)
    y1, x1 = max(y0, min(h, dy + turned.shape[0])), max(x0, min(w, dx + turned.shape[1]))
    return first[y0:y1, x0:x1], turned[y0 - dy : y1 - dy, x0 - dx : x1 - dx]


def _fingerprints(
    pixels: Sequence[NDArray[np.uint8]] | NDArray[np.uint8], report: Callable[[int, int], None]
) -> tuple[Marks, Marks, list[tuple[int, int]]]:
    # Marks of every different image, and the pairs (image, its exact copy).
    n = len(pixels)
    seen: dict[bytes, int] = {}
    copies: list[tuple[int, int]] = []
    exact, keys = [], []
    for begin in range(0, n, _BLOCK):
        block = np.asarray(pixels[begin : begin + _BLOCK])
        new = np.ones(len(block), dtype=bool)
        for i, image in enumerate(block):
            original = seen.setdefault(hashlib.sha256(image.tobytes()).digest(), begin + i)
            if original < begin + i:
                new[i] = False
                if _has_evidence(image):
                    copies.append((original, begin + i))
        where = begin + np.flatnonzero(new)
        exact.append(exact_windows(block[new], where))
        keys.append(key_points(block[new], where))
        report(min(begin + _BLOCK, n), 2 * n)
    return Marks.concatenate(exact), Marks.concatenate(keys), copies


def _proposed(marks: Marks, size: tuple[int, ...], at_least: int) -> list[_Position]:
    # How images may lie on one another: of each pair, the position on which most codes agree comes first.
    votes = [_aligned(marks, column, size) for column in range(marks.code.shape[1])]
    position, count = np.unique(np.concatenate(votes), axis=0, return_counts=True)
    position, count = position[count >= at_least], count[count >= at_least]
    order = np.lexsort((-count, position[:, 1], position[:, 0]))
    return [(a, b, turn, dx, dy) for a, b, turn, dx, dy in position[order].tolist()]


def _aligned(marks: Marks, column: int, size: tuple[int, ...]) -> NDArray[np.int64]:
    # One row (first, second, orientation, dx, dy) for each pair of equal codes in a column.
    order = np.lexsort((marks.image, marks.code[:, column]))
    code, image = marks.code[order, column], marks.image[order]
    pairs = [
        np.stack([order[:-step], order[step:]])[:, (code[:-step] == code[step:]) & (image[:-step] != image[step:])]
        for step in range(1, min(_LINKS, len(order) - 1) + 1)
    ]
    one, two = np.concatenate(pairs, axis=1) if pairs else np.empty((2, 0), dtype=np.int64)
    orientation = _RELATIVE[marks.turn[one, column], marks.turn[two, column]]
    y2, x2 = _oriented_centres(marks.y2[two], marks.x2[two], orientation, size)
    dy2, dx2 = marks.y2[one] - y2, marks.x2[one] - x2
    return np.stack([marks.image[one], marks.image[two], orientation, dx2 // 2, dy2 // 2], axis=1)


def _oriented_centres(
    y2: NDArray[np.int64], x2: NDArray[np.int64], orientation: NDArray[np.int64], size: tuple[int, ...]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    # Where the points (in half pixels) of an image of a size lie after `orient`.
    bottom, right = 2 * (size[0] - 1), 2 * (size[1] - 1)
    x2 = np.where(orientation >= 4, right - x2, x2)
    quarter = orientation % 4
    y = np.choose(quarter, [y2, right - x2, bottom - y2, x2])
    x = np.choose(quarter, [x2, y2, right - x2, bottom - y2])
    return y, x


def _worth_it(one: NDArray[np.float32], two: NDArray[np.float32]) -> bool:
    # Whether the detail, filtered once an image, agrees at all: nine of ten proposals end here, for a hundredth of the
    # work. The filters are those of `_verified`, which crops first: only along the edges do they differ. Flat areas may
    # be equal to the pixel and have no detail to agree.
    norm = float(np.linalg.norm(one) * np.linalg.norm(two))
    return norm <= _FAINT**2 * one.size or float((one * two).sum()) >= _HOPELESS * norm


def _verified(
    first: NDArray[np.uint8], second: NDArray[np.uint8], orientation: int, dx: int, dy: int
) -> tuple[str, float] | None:
    # Kind and score of a proposal that the pixels confirm, else None.
    one, two = common_area(first, second, orientation, dx, dy)
    if min(one.shape[:2]) < _EXACT_SIDE:
        return None
    whole = min(first[..., 0].size, second[..., 0].size)
    share = one[..., 0].size / whole
    kind = "near" if max(abs(dx), abs(dy)) <= _SAME_FIELD else "shifted"
    equal = bool(np.mean((one == two).all(axis=2)) >= _EXACT_EQUAL) and _has_evidence(one)
    enough = share >= _NEAR_AREA and one[..., 0].size >= _NEAR_PIXELS
    if not (equal or enough):
        return None  # before the filters, which take most of the time
    detail = _detail(one), _detail(two)
    score = _correlation(*(_levelled(part) for part in detail))
    if equal:
        return kind, score
    if score >= _NEAR_SCORE and all(_is_tissue(part) for part in detail) and _common_spots(*detail) >= _NEAR_SPOTS:
        return kind, score
    return None


def _detail(area: NDArray[np.uint8]) -> NDArray[np.float64]:
    # What remains of the grey image (a, b) without its coarse part: shading, and which half is glass.
    grey = area.mean(axis=2, dtype=np.float64)
    detail = ndimage.gaussian_filter(grey, _FINEST) - ndimage.gaussian_filter(grey, _COARSEST)
    centred: NDArray[np.float64] = detail - detail.mean()
    return centred


def _levelled(detail: NDArray[np.float64]) -> NDArray[np.float64]:
    # Detail in units of the contrast around it, so that the whole area decides and not its darkest blot.
    power = ndimage.gaussian_filter(detail**2, _AROUND)
    levelled: NDArray[np.float64] = detail / np.sqrt(power + _FAINT**2)
    return levelled


def _correlation(one: NDArray[np.float64], two: NDArray[np.float64]) -> float:
    norm = float(np.linalg.norm(one) * np.linalg.norm(two))
    return min(1.0, float((one * two).sum()) / norm) if norm > 0 else 0.0


def _is_tissue(detail: NDArray[np.float64]) -> bool:
    # Whether alikeness proves anything: there is contrast, and in every direction. A straight margin looks
    # like any other wherever along it one stands; the lesser eigenvalue of its structure tensor is small
    # (Förstner and Gülch 1987, "A fast operator for detection and precise location of distinct points").
    along_y, along_x = np.gradient(detail)
    mixed = float((along_y * along_x).sum())
    tensor = np.array([[float((along_y**2).sum()), mixed], [mixed, float((along_x**2).sum())]])
    least, most = np.linalg.eigvalsh(tensor)
    return bool(detail.std() >= _NEAR_CONTRAST and least >= _NEAR_DIRECTIONS * most)


def _common_spots(one: NDArray[np.float64], two: NDArray[np.float64]) -> int:
    # Spots of one that the other has at the same place, to a pixel. Two strands, margins or strokes follow one another
    # over hundreds of pixels by chance; they share no spots.
    return sum(
        int((here & ndimage.maximum_filter(there, 3)).sum())
        for here, there in zip(_spots(one), _spots(two), strict=True)
    )


def _spots(detail: NDArray[np.float64]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    # Light and dark ones: extrema that are curved in both directions alike (Lowe 2004, "Distinctive image features from
    # scale-invariant keypoints", section 4.1).
    along_y, along_x = np.gradient(detail)
    (yy, yx), xx = np.gradient(along_y), np.gradient(along_x, axis=1)
    determinant = yy * xx - yx**2
    round_ = (determinant > 0) & ((yy + xx) ** 2 < (_SPOT_RATIO + 1) ** 2 / _SPOT_RATIO * determinant)
    light = round_ & (detail > _NEAR_CONTRAST) & (detail == ndimage.maximum_filter(detail, 5))
    dark = round_ & (detail < -_NEAR_CONTRAST) & (detail == ndimage.minimum_filter(detail, 5))
    return light, dark


def _has_evidence(area: NDArray[np.uint8]) -> bool:
    # Whether equal pixels prove anything: glass repeats a few colours.
    packed = area.reshape(-1, 3).astype(np.uint32) @ np.array([1 << 16, 1 << 8, 1], dtype=np.uint32)
    return len(np.unique(packed)) >= _EXACT_COLOURS


def _as_frame(rows: list[_Row]) -> pd.DataFrame:
    frame = pd.DataFrame(sorted(rows), columns=["first", "second", "kind", "score", "orientation", "dx", "dy"])
    numbers = dict.fromkeys(("first", "second", "dx", "dy", "orientation"), np.int64)
    return frame.astype({**numbers, "score": np.float64, "kind": "str"})[list(OVERLAP_COLUMNS)]
