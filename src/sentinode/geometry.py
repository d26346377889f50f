"""Where things are on a slide: the only place that converts pixels, micrometres and pixels of another raster.

Coordinates are level-0 pixels, origin top left, (x, y), as in the whole field. A pixel is an area: pixel 0 reaches
from 0 to 1, its centre lies at 0.5. So a box from x = 8 with width 4 covers the pixels 8, 9, 10 and 11, ends at 12, and
stays where it is in a raster of half the size (4 to 6).
"""

import math
from dataclasses import dataclass
from typing import Self, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["Box", "Point", "Raster", "Scale", "Size", "running_sums"]

Sums = TypeVar("Sums", NDArray[np.float64], NDArray[np.int64])


@dataclass(frozen=True, order=True)
class Size:
    """How large a picture is, in pixels of its own.

    Parameters
    ----------
    width, height : int
        1 or more.

    Raises
    ------
    ValueError
        If one is less than 1.
    """

    width: int
    height: int

    def __post_init__(self) -> None:
        if self.width < 1 or self.height < 1:
            raise ValueError(f"a size of {self.width} x {self.height} px: both must be 1 or more")

    @property
    def area(self) -> int:
        """Pixels in all."""
        return self.width * self.height

    @property
    def shape(self) -> tuple[int, int]:
        """``(height, width)``, as numpy counts."""
        return self.height, self.width

    def fitted(self, longest: int) -> "Size":
        """Shrink, with the same proportions, until the longer side is at most so long.

        Parameters
        ----------
        longest : int
            Pixels.

        Returns
        -------
        Size
            Itself where it is small enough; no side is less than 1.

        Examples
        --------
        >>> Size(40_000, 10_000).fitted(1000)
        Size(width=1000, height=250)
        """
        factor = min(1.0, longest / max(self.width, self.height))
        return Size(max(1, round(self.width * factor)), max(1, round(self.height * factor)))


@dataclass(frozen=True, order=True)
class Point:
    """A place on a slide.

    Parameters
    ----------
    x, y : float
        Level-0 pixels.
    """

    x: float
    y: float


@dataclass(frozen=True, order=True)
class Box:
    """A rectangle of whole level-0 pixels; it may reach over the border of the slide.

    Parameters
    ----------
    x, y : int
        Left and upper edge.
    width, height : int
        1 or more.

    Raises
    ------
    ValueError
        If it is empty.

    Examples
    --------
    >>> Box(8, 0, 4, 4).centre
    Point(x=10.0, y=2.0)
    """

    x: int
    y: int
    width: int
    height: int

    def __post_init__(self) -> None:
        if self.width < 1 or self.height < 1:
            raise ValueError(f"a box of {self.width} x {self.height} px: both must be 1 or more")

    @property
    def right(self) -> int:
        """Edge after the last column."""
        return self.x + self.width

    @property
    def bottom(self) -> int:
        """Edge after the last row."""
        return self.y + self.height

    @property
    def size(self) -> Size:
        """Its size in level-0 pixels."""
        return Size(self.width, self.height)

    @property
    def centre(self) -> Point:
        """Its middle."""
        return Point(self.x + self.width / 2, self.y + self.height / 2)

    @classmethod
    def whole(cls, size: Size) -> Self:
        """Cover a slide.

        Parameters
        ----------
        size : Size
            Of its level 0.

        Returns
        -------
        Box
            From (0, 0).
        """
        return cls(0, 0, size.width, size.height)

    def cut(self, other: "Box") -> "Box | None":
        """Give what two boxes share.

        Parameters
        ----------
        other : Box
            Another one.

        Returns
        -------
        Box or None
            None where they do not overlap.
        """
        x, y = max(self.x, other.x), max(self.y, other.y)
        width, height = min(self.right, other.right) - x, min(self.bottom, other.bottom) - y
        return Box(x, y, width, height) if width > 0 and height > 0 else None


@dataclass(frozen=True)
class Scale:
    """What a level-0 pixel of a slide measures.

    Parameters
    ----------
    mpp : float
        Micrometres a level-0 pixel.

    Raises
    ------
    ValueError
        If it is not a positive number.

    Examples
    --------
    >>> Scale(0.25).downsample(1.0)
    4.0
    >>> Scale(0.25).um(400), Scale(0.25).px(100.0)
    (100.0, 400.0)
    """

    mpp: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.mpp) and self.mpp > 0):
            raise ValueError(f"mpp = {self.mpp!r}: it must be a positive number, e.g. 0.25")

    def um(self, px: float) -> float:
        """Convert level-0 pixels to micrometres.

        Parameters
        ----------
        px : float
            A length.

        Returns
        -------
        float
            Micrometres.
        """
        return px * self.mpp

    def px(self, um: float) -> float:
        """Convert micrometres to level-0 pixels.

        Parameters
        ----------
        um : float
            A length.

        Returns
        -------
        float
            Level-0 pixels.
        """
        return um / self.mpp

    def mm2(self, px2: float) -> float:
        """Convert an area.

        Parameters
        ----------
        px2 : float
            Level-0 pixels squared.

        Returns
        -------
        float
            Square millimetres.
        """
        return px2 * self.mpp**2 / 1e6

    def downsample(self, mpp: float) -> float:
        """Say how many level-0 pixels a pixel of another resolution is wide.

        Parameters
        ----------
        mpp : float
            The other resolution.

        Returns
        -------
        float
            Less than 1 where it is finer than the slide.
        """
        return mpp / self.mpp

    def pixels(self, size: Size, mpp: float) -> Size:
        """Say how large a part of the slide is at another resolution.

        Parameters
        ----------
        size : Size
            Of the part, in level-0 pixels.
        mpp : float
            The other resolution.

        Returns
        -------
        Size
            Rounded to whole pixels, at least 1.
        """
        factor = self.mpp / mpp
        return Size(max(1, round(size.width * factor)), max(1, round(size.height * factor)))


@dataclass(frozen=True)
class Raster:
    """A picture of a whole slide (a level, a thumbnail, a mask, a heatmap), and where its pixels lie on the slide.

    The two directions have a factor each: a level of 1,001 px whose next one has 500 is not halved exactly, and a
    factor taken from one side, or rounded, shifts everything at the other end.

    Parameters
    ----------
    slide : Size
        Level-0 pixels of the slide.
    pixels : Size
        Of the picture.

    Examples
    --------
    >>> Raster(Size(1001, 1001), Size(500, 250)).downsample
    (2.002, 4.004)
    """

    slide: Size
    pixels: Size

    @property
    def downsample(self) -> tuple[float, float]:
        """Level-0 pixels that a pixel of the picture is wide, and high."""
        return self.slide.width / self.pixels.width, self.slide.height / self.pixels.height

    def to_pixels(self, xy: ArrayLike) -> NDArray[np.float64]:
        """Convert places on the slide to places in the picture.

        Parameters
        ----------
        xy : (..., 2) float
            Level-0 pixels.

        Returns
        -------
        (..., 2) float64
            Pixels of the picture, not rounded.
        """
        return np.asarray(xy, dtype=np.float64) / self.downsample

    def to_level0(self, xy: ArrayLike) -> NDArray[np.float64]:
        """Convert places in the picture to places on the slide.

        Parameters
        ----------
        xy : (..., 2) float
            Pixels of the picture.

        Returns
        -------
        (..., 2) float64
            Level-0 pixels.
        """
        return np.asarray(xy, dtype=np.float64) * self.downsample

    def window(self, box: Box) -> tuple[float, float, float, float]:
        """Say where a box of the slide lies in the picture.

        Parameters
        ----------
        box : Box
            Level-0 pixels.

        Returns
        -------
        left, upper, right, lower : float
            Pixels of the picture, not rounded.
        """
        across, down = self.downsample
        return box.x / across, box.y / down, box.right / across, box.bottom / down


def running_sums(values: Sums) -> Sums:
    """Add up a picture from its upper left corner on, in place (Crow 1984, "Summed-area tables for texture mapping").

    Parameters
    ----------
    values : (h, w) float64 or int64
        Written: each becomes the sum of all that are not below it and not right of it.

    Returns
    -------
    (h, w) float64 or int64
        The same array.

    Examples
    --------
    >>> running_sums(np.array([[1, 2], [3, 4]])).tolist()
    [[1, 3], [4, 10]]
    """
    # Row by row: down a column at a time, as numpy's cumsum goes, every number is of another line of the cache.
    for row in range(1, len(values)):
        values[row] += values[row - 1]
    np.cumsum(values, axis=1, out=values)
    return values
