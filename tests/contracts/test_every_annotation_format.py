"""What every format of annotations must keep; a new line in ANNOTATION_FORMATS is tested here without more."""

import gzip
import importlib

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from shapely import MultiPolygon, Polygon

from sentinode.errors import ExportError, ManifestError
from sentinode.slides.annotation_files import ANNOTATION_FORMATS, read_annotations, write_annotations
from sentinode.slides.annotations import Annotations, Region
from sentinode.storage import TEMPORARY

RING = Polygon(
    [(0, 0), (100.25, 0), (90, 80.125), (0, 100)], [[(10, 10), (20, 10), (20, 20)], [(30, 30), (40, 30), (40, 44)]]
)
ISLAND = Polygon([(31, 31), (33, 31), (33, 32)])
DRAWN = Annotations((
    Region("Tumor", RING),
    Region("Tumor", MultiPolygon([shapely.box(200, 0, 260, 60), ISLAND])),
    Region('a "name" <&> of\nß, 腫瘍', shapely.box(-5.5, 1 / 3, 7, 8)),
    Region(
        "Artefact",
        Polygon(shapely.box(300, 300, 400, 400).exterior, [shapely.box(320, 320, 330, 330).exterior]),
        "exclude",
    ),
    Region("Tumor", RING),
))

FORMATS = pytest.mark.parametrize("form", sorted(ANNOTATION_FORMATS))


def drawn_in(annotations):
    """Names, kinds and outlines, in an order of their own."""
    return sorted((region.name, region.kind, region.polygon.normalize().wkb_hex) for region in annotations.regions)


def refusal_of(path):
    try:
        read_annotations(path)
    except ManifestError as refusal:
        return str(refusal)
    return None


def suffix_of(form):
    return importlib.import_module(ANNOTATION_FORMATS[form]).SUFFIXES[0]


@FORMATS
@pytest.mark.parametrize("packed", ["", ".gz"])
def test_what_is_written_is_read_back_point_for_point(form, packed, tmp_path):
    path = tmp_path / f"slide{suffix_of(form)}{packed}"
    write_annotations(DRAWN, path, form)
    again = read_annotations(path)
    assert drawn_in(again) == drawn_in(DRAWN)
    assert (again.source, again.notes) == (path, ())
    assert path.read_bytes().startswith(b"\x1f\x8b") == (packed == ".gz")


@FORMATS
def test_the_content_tells_the_format_where_the_suffix_does_not(form, tmp_path):
    write_annotations(DRAWN, tmp_path / "slide.txt", form)
    assert drawn_in(read_annotations(tmp_path / "slide.txt")) == drawn_in(DRAWN)


@FORMATS
def test_the_same_annotations_give_the_same_bytes(form, tmp_path):
    first, second = tmp_path / "a.gz", tmp_path / "b.gz"
    write_annotations(DRAWN, first, form)
    write_annotations(DRAWN, second, form)
    assert first.read_bytes() == second.read_bytes()


@FORMATS
def test_a_slide_without_a_region_stays_without(form, tmp_path):
    path = tmp_path / f"slide{suffix_of(form)}"
    write_annotations(Annotations(()), path, form)
    assert read_annotations(path).regions == ()


@FORMATS
@settings(deadline=None, max_examples=25)
@given(data=st.data())
def test_any_regions_survive(form, data, tmp_path_factory):
    places = st.integers(0, 40)
    corners = st.lists(st.tuples(places, places), min_size=3, max_size=9)
    regions = []
    for _ in range(data.draw(st.integers(1, 4))):
        parts = data.draw(st.lists(corners, min_size=1, max_size=4))
        area = shapely.union_all([shapely.MultiPoint(part).convex_hull.buffer(0) for part in parts])
        hole = shapely.MultiPoint(data.draw(corners)).convex_hull
        area = area.difference(hole)
        if area.area > 0 and area.geom_type in {"Polygon", "MultiPolygon"}:
            regions.append(
                Region(
                    data.draw(st.sampled_from(["Tumor", "b"])), area, data.draw(st.sampled_from(["include", "exclude"]))
                )
            )
    path = tmp_path_factory.mktemp("any") / "slide.gz"
    write_annotations(Annotations(tuple(regions)), path, form)
    assert drawn_in(read_annotations(path)) == drawn_in(Annotations(tuple(regions)))


@FORMATS
def test_any_damage_ends_in_regions_or_in_a_refusal_of_a_line_or_two(form, tmp_path):
    path = tmp_path / f"slide{suffix_of(form)}"
    write_annotations(DRAWN, path, form)
    whole = path.read_bytes()
    rng = np.random.default_rng(1)
    for number in range(150):
        damaged = bytearray(whole[: rng.integers(1, len(whole))]) if number % 2 else bytearray(whole)
        for place in rng.integers(0, len(damaged), size=int(rng.integers(1, 6))):
            damaged[place] = rng.integers(0, 256)
        path.write_bytes(bytes(damaged))
        message = refusal_of(path)
        assert message is None or str(path) in message
        assert message is None or message.count("\n") <= 1


@FORMATS
def test_half_a_packed_file_is_refused(form, tmp_path):
    path = tmp_path / "slide.gz"
    write_annotations(DRAWN, path, form)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ManifestError, match=r"slide\.gz: cannot be read"):
        read_annotations(path)


@FORMATS
def test_a_file_that_unpacks_without_end_is_refused(form, tmp_path, monkeypatch):
    path = tmp_path / "slide.gz"
    write_annotations(DRAWN, path, form)
    monkeypatch.setattr("sentinode.slides.annotation_files.LARGEST", len(gzip.decompress(path.read_bytes())) - 1)
    with pytest.raises(ManifestError, match="is larger than"):
        read_annotations(path)


@FORMATS
def test_where_nothing_can_be_written_the_refusal_says_so_and_nothing_stays(form, tmp_path):
    (tmp_path / "file").write_text("no folder", encoding="utf-8")
    with pytest.raises(ExportError, match="cannot be written"):
        write_annotations(DRAWN, tmp_path / "file" / "slide.xml", form)
    (tmp_path / "folder").mkdir()
    with pytest.raises(ExportError, match="cannot be written"):
        write_annotations(DRAWN, tmp_path / "folder", form)
    assert not list(tmp_path.rglob(f"{TEMPORARY}*"))


@FORMATS
@pytest.mark.parametrize("point", ["nan", "inf", "1e9", "-1e9"])
def test_a_point_where_no_slide_is_is_refused_by_name(form, point, tmp_path):
    path = tmp_path / f"slide{suffix_of(form)}"
    write_annotations(Annotations((Region("Tumor", shapely.box(0, 0, 12345.5, 10)),)), path, form)
    value = {"nan": "NaN", "inf": "Infinity"}.get(point, point)
    path.write_text(path.read_text(encoding="utf-8").replace("12345.5", value), encoding="utf-8")
    with pytest.raises(ManifestError, match=r"'Tumor'.*where no slide is"):
        read_annotations(path)


@FORMATS
def test_regions_that_were_written_twice_stay_two(form, tmp_path):
    path = tmp_path / f"slide{suffix_of(form)}"
    write_annotations(Annotations((Region("Tumor", RING),) * 3), path, form)
    assert [region.polygon.area for region in read_annotations(path).regions] == [RING.area] * 3


def test_an_unknown_format_is_refused_with_the_known_ones(tmp_path):
    with pytest.raises(ExportError, match="the formats are asap, geojson, imagescope"):
        write_annotations(DRAWN, tmp_path / "a.xml", "ndpa")
