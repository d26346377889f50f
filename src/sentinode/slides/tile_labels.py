"""Labels of tiles, from what was drawn on their slide."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import shapely
from numpy.typing import ArrayLike, NDArray
from shapely import Polygon

from sentinode.errors import ManifestError
from sentinode.slides.annotations import Annotations
from sentinode.slides.shapes import Shape, polygons_of

__all__ = ["TileLabels", "label_boxes"]

_Bounds: TypeAlias = tuple[float, float, float, float]

_CORNERS = 256  # of a piece of a polygon; boxes are cut with pieces
_NOTHING = 1e-9  # a share that comes of rounding, where a tile only touches a region


@dataclass(frozen=True, eq=False)
class TileLabels:
    """What tiles show, as far as the annotations say.

    Parameters
    ----------
    labels : (n,) str
        A class, or the background, or "" where the tile is left out.
    share : (n, k) float32
        Share of the tile (or of its centre) that lies in each class.
    reasons : (n,) str
        Why it was left out: ``excluded`` (touches an excluded region), ``ambiguous`` (too little of a class, too
        much for none), ``tied`` (two classes with the same share), ``unannotated`` (no class, and no background
        was named), ``air`` (it lies in a bubble); "" where it has a label.
    """

    labels: NDArray[np.str_]
    share: NDArray[np.float32]
    reasons: NDArray[np.str_]

    def without(self, tiles: NDArray[np.bool_], reason: str) -> "TileLabels":
        """Leave out tiles, whatever they show.

        Parameters
        ----------
        tiles : (n,) bool
            Which.
        reason : str
            Why.

        Returns
        -------
        TileLabels
            What was left out before keeps its reason.
        """
        now = tiles & (self.labels != "")
        return TileLabels(np.where(now, "", self.labels), self.share, np.where(now, reason, self.reasons))

    @property
    def counts(self) -> dict[str, int]:
        """Label -> number of tiles."""
        return dict(sorted(Counter(self.labels[self.labels != ""].tolist()).items()))

    @property
    def left_out(self) -> dict[str, int]:
        """Reason -> number of tiles without a label."""
        return dict(sorted(Counter(self.reasons[self.reasons != ""].tolist()).items()))


def label_boxes(
    boxes: ArrayLike,
    annotations: Annotations,
    classes: Sequence[str],
    *,
    background: str,
    rule: Literal["centre", "area"] = "centre",
    centre_share: float = 1 / 3,
    minimum: float = 0.0,
    ambiguous: float = 0.0,
) -> TileLabels:
    """Label tiles by what was drawn.

    With the rule ``centre`` and the defaults a tile has a class as soon as anything of it lies in the centred
    square of a third of its side: the labels of PatchCamelyon (Veeling et al. 2018, "Rotation equivariant CNNs
    for digital pathology": 96 px with a centre of 32 px).

    Parameters
    ----------
    boxes : (n, 4) int
        x, y, width and height in level-0 pixels.
    annotations : Annotations
        Of the slide, with names mapped to classes.
    classes : sequence of str
        Those that are looked for; regions of other names count as nothing.
    background : str
        Label of tiles in no class; "" leaves them out, where not all that there is was drawn.
    rule : {"centre", "area"}
        Which part of a tile decides: its centre, or all of it.
    centre_share : float
        Side of the centre as a share of the tile's side, above 0 up to 1.
    minimum : float
        Share from which on a tile has the class; 0 means any.
    ambiguous : float
        Share up to which it counts as none; between this and the minimum a tile is left out.

    Returns
    -------
    TileLabels
        The class with the largest share. Tiles of which any part, not only the centre, lies in an excluded region
        are left out.

    Raises
    ------
    ManifestError
        If a class stands there twice or is empty, the numbers contradict one another, or the boxes are no boxes.

    Examples
    --------
    >>> from sentinode.slides.annotations import Region
    >>> drawn = Annotations((Region("tumour", shapely.box(0, 0, 100, 300)),))
    >>> label_boxes([[0, 0, 96, 96], [96, 0, 96, 96]], drawn, ["tumour"], background="normal").labels.tolist()
    ['tumour', 'normal']
    """
    # ManifestError is that of the checks.
    corners = _checked_boxes(boxes)
    _check_rule(classes, rule, centre_share, minimum, ambiguous)
    side = centre_share if rule == "centre" else 1.0
    looked_at = np.column_stack((corners[:, :2] + corners[:, 2:] * (1 - side) / 2, corners[:, 2:] * side))
    share = np.zeros((len(corners), len(classes)))
    for column, name in enumerate(classes):
        share[:, column] = _shares(looked_at, annotations.shape_of(name))
    most = share.max(axis=1)
    labels = np.array([*classes, background, ""], dtype=np.str_)
    code = share.argmax(axis=1)
    reasons = np.full(len(corners), "", dtype="<U11")
    none = (most <= ambiguous + _NOTHING) & ((most < minimum - _NOTHING) | (most <= 0))
    code[none] = len(classes)
    if not background:
        reasons[none] = "unannotated"
    enough = most >= minimum - _NOTHING
    reasons[~none & ~enough] = "ambiguous"
    reasons[~none & enough & ((share >= most[:, None] - _NOTHING).sum(axis=1) > 1)] = "tied"
    reasons[_shares(corners.astype(np.float64), annotations.excluded) > 0] = "excluded"
    code[reasons != ""] = len(classes) + 1
    return TileLabels(labels[code], share.astype(np.float32), reasons)


def _checked_boxes(boxes: ArrayLike) -> NDArray[np.int64]:
    table = np.asarray(boxes)
    if table.size == 0:
        return np.empty((0, 4), dtype=np.int64)
    if table.ndim != 2 or table.shape[1] != 4 or table.dtype.kind not in "iu" or (table[:, 2:] < 1).any():
        raise ManifestError(
            "boxes must be whole numbers (x, y, width, height), a row a tile, at least 1 px wide and high"
        )
    return table.astype(np.int64)


def _check_rule(classes: Sequence[str], rule: str, centre_share: float, minimum: float, ambiguous: float) -> None:
    if isinstance(classes, str) or not classes or len(set(classes)) < len(classes) or not all(classes):
        raise ManifestError(f"classes = {classes!r}: name each class once, at least one")
    if rule not in {"centre", "area"}:
        raise ManifestError(f"rule = {rule!r}: must be 'centre' or 'area'")
    if not 0 < centre_share <= 1:
        raise ManifestError(f"centre_share = {centre_share}: must be above 0, up to 1, e.g. 1/3")
    if not 0 <= ambiguous <= minimum <= 1:
        raise ManifestError(f"ambiguous = {ambiguous}, minimum = {minimum}: must be 0 <= ambiguous <= minimum <= 1")


def _shares(boxes: NDArray[np.float64], shape: Shape) -> NDArray[np.float64]:
    # Share (n,) of each box (n, 4: x, y, width, height) that lies in a shape. Most boxes lie wholly within a part or
    # without; that is asked of prepared polygons, and only the boxes on a border are cut, with small pieces.
    share = np.zeros(len(boxes))
    if shape.is_empty or not len(boxes):
        return share
    squares = shapely.box(boxes[:, 0], boxes[:, 1], boxes[:, 0] + boxes[:, 2], boxes[:, 1] + boxes[:, 3])
    tree = shapely.STRtree(squares)
    parts = np.array(polygons_of(shape), dtype=object)
    touched = np.unique(tree.query(parts, predicate="intersects")[1])
    within = np.unique(tree.query(parts, predicate="covers")[1])
    share[within] = 1.0
    cut = np.setdiff1d(touched, within)
    pieces = np.array([piece for part in parts for piece in _pieces(part)], dtype=object)
    which, where = shapely.STRtree(squares[cut]).query(pieces, predicate="intersects")
    areas = shapely.area(shapely.intersection(pieces[which], squares[cut[where]]))
    np.add.at(share, cut[where], areas / (boxes[cut[where], 2] * boxes[cut[where], 3]))
    share[share < _NOTHING] = 0.0
    return np.minimum(share, 1.0)


def _pieces(part: Polygon) -> list[Polygon]:
    # Halved along the longer side until a piece has few corners: to cut a box out of a long outline is slow.
    done, todo = [], [part]
    while todo:
        piece = todo.pop()
        left, upper, right, lower = piece.bounds
        if shapely.get_num_coordinates(piece) <= _CORNERS or max(right - left, lower - upper) < 1:
            done.append(piece)
            continue
        x, y = (left + right) / 2, (upper + lower) / 2
        halves = (
            ((left, upper, x, lower), (x, upper, right, lower))
            if right - left >= lower - upper
            else ((left, upper, right, y), (left, y, right, lower))
        )
        todo.extend(_cut_in_two(piece, halves))
    return done


def _cut_in_two(piece: Polygon, halves: tuple[_Bounds, _Bounds]) -> list[Polygon]:
    # Clipping takes a tenth of the time of an intersection, but does not promise a valid result; where it fails, the
    # areas do not add up.
    cut = [part for half in halves for part in polygons_of(shapely.clip_by_rect(piece, *half))]
    if math.isclose(sum(part.area for part in cut), piece.area, rel_tol=1e-9) and shapely.is_valid(cut).all():
        return cut
    return [part for half in halves for part in polygons_of(shapely.intersection(piece, shapely.box(*half)))]
