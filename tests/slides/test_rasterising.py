"""A pixel belongs to a shape when its centre does: held against shapely, pixel by pixel."""

import numpy as np
import shapely

from sentinode.geometry import Size
from sentinode.seeds import stream
from sentinode.slides.rasterising import pixels_inside

SIZE = Size(57, 41)


def plainly(shape):
    """Ask for every pixel by itself."""
    row, column = np.indices((SIZE.height, SIZE.width))
    return shapely.contains_xy(shape, column + 0.5, row + 0.5)


def test_odd_shapes_with_holes_and_parts_are_painted_as_shapely_says():
    rng = stream(1, "odd shapes")
    for _ in range(20):
        angle = np.sort(rng.uniform(0, 2 * np.pi, 30))
        reach = rng.uniform(4, 22, (30, 1))
        star = shapely.Polygon(rng.uniform(10, 40, 2) + reach * np.column_stack([np.cos(angle), np.sin(angle)]))
        holes = shapely.union_all(shapely.points(rng.uniform(0, 50, (3, 2)))).buffer(4.3)
        shape = shapely.union_all([star.buffer(0), shapely.box(48.2, 2.1, 70, 9.7)]).difference(holes)
        assert np.array_equal(pixels_inside(shape, SIZE), plainly(shape))


def test_what_lies_beyond_the_picture_is_cut_and_nothing_is_nothing():
    beyond = shapely.box(-30, -30, 12.4, 90)
    assert np.array_equal(pixels_inside(beyond, SIZE), plainly(beyond))
    assert not pixels_inside(shapely.Polygon(), SIZE).any()
    assert not pixels_inside(shapely.LineString([(0, 0), (9, 9)]), SIZE).any()
