"""What people drew: the files of their programs, as found and as damaged, and the labels that tiles get from them."""

import gzip
import json

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from shapely import MultiPolygon, Polygon

from sentinode.errors import ExportError, ManifestError
from sentinode.slides.annotation_files import (
    annotation_for,
    read_annotations,
    write_asap,
    write_geojson,
    write_imagescope,
)
from sentinode.slides.annotations import CAMELYON, EXCLUDE, Annotations, Region
from sentinode.slides.tile_labels import label_boxes

SQUARE = [[0, 0], [10, 0], [10, 10], [0, 10]]
BOW_TIE = [[0, 0], [10, 10], [10, 0], [0, 10]]


def read_text(tmp_path, name, text):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return read_annotations(path)


def asap(*annotations, before=""):
    body = "".join(
        f'<Annotation Name="Annotation {number}" Type="{kind}" PartOfGroup="{group}" Color="#F4FA58"><Coordinates>'
        + "".join(f'<Coordinate Order="{order}" X="{x}" Y="{y}" />' for order, (x, y) in enumerate(points))
        + "</Coordinates></Annotation>"
        for number, (group, kind, points) in enumerate(annotations)
    )
    return f'<?xml version="1.0"?>{before}<ASAP_Annotations><Annotations>{body}</Annotations></ASAP_Annotations>'


def imagescope(*regions, layer='Name="Tumor"'):
    body = "".join(
        f'<Region Id="{number}" {given}><Vertices>'
        + "".join(f'<Vertex X="{x}" Y="{y}" Z="0"/>' for x, y in points)
        + "</Vertices></Region>"
        for number, (given, points) in enumerate(regions)
    )
    return f'<Annotations><Annotation Id="4" {layer}><Regions>{body}</Regions></Annotation></Annotations>'


def feature(geometry, **properties):
    return {"type": "Feature", "geometry": geometry, "properties": {"objectType": "annotation", **properties}}


def polygon(*rings):
    return {"type": "Polygon", "coordinates": [[*ring, ring[0]] for ring in rings]}


def moved(points, by):
    return [[x + by, y + by] for x, y in points]


# --- files as found -------------------------------------------------------------------------------------------


def test_the_file_of_imagescope_has_the_areas_that_imagescope_measured(shared_annotations):
    drawn = read_annotations(shared_annotations / "imagescope.xml")
    assert drawn.regions[0].name == "CaP"
    assert "layer 3" in drawn.classes
    measured = [29046449.6, 641099844.1, 3853031.2, 8308723.7]
    assert [region.polygon.area for region in drawn.regions[:4]] == pytest.approx(measured, rel=0.002)


def test_the_file_of_qupath_keeps_its_hole(shared_annotations):
    (region,) = read_annotations(shared_annotations / "qupath_holed.geojson").regions
    assert region.name == "unclassified"
    assert len(region.polygon.interiors) == 1
    assert region.polygon.area < shapely.box(*region.polygon.bounds).area - 1e6


@pytest.mark.parametrize("write", [write_asap, write_geojson, write_imagescope])
@pytest.mark.parametrize("name", ["imagescope.xml", "qupath_holed.geojson"])
def test_real_files_go_through_every_format_without_a_point_moved(shared_annotations, tmp_path, write, name):
    drawn = read_annotations(shared_annotations / name)
    write(drawn, tmp_path / "again")
    again = read_annotations(tmp_path / "again")
    outlines = [sorted(region.polygon.normalize().wkt for region in one.regions) for one in (drawn, again)]
    assert outlines[0] == outlines[1]


# --- ASAP -----------------------------------------------------------------------------------------------------


def test_camelyon_groups_become_tumour_and_what_is_left_out(tmp_path):
    text = asap(
        ("Tumor", "Polygon", SQUARE),
        ("_0", "Polygon", moved(SQUARE, 20)),
        ("_1", "Spline", moved(SQUARE, 40)),
        ("_2", "Polygon", [[2, 2], [6, 2], [6, 6], [2, 6]]),
        ("None", "Polygon", SQUARE),
        ("None", "Dot", [[1, 1]]),
    )
    drawn = read_text(tmp_path, "tumor_001.xml", text)
    assert drawn.classes == ("None", "Tumor", "_0", "_1", "_2")
    assert drawn.notes == ("tumor_001.xml: left out 1 points and lines",)
    mapped = drawn.mapped(CAMELYON)
    assert mapped.classes == ("tumour",)
    assert mapped.area_of("tumour") == 300 - 16
    assert mapped.excluded.area == 16
    assert dict(mapped.dropped) == {"None": 1}
    assert mapped.notes[-1] == "tumor_001.xml: names without a class, left out: 'None' (1)"


def test_coordinates_are_taken_in_their_stated_order(tmp_path):
    text = asap(("Tumor", "Polygon", SQUARE))
    text = text.replace('Order="1"', 'Order="9"').replace('Order="2"', 'Order="1"').replace('Order="9"', 'Order="2"')
    drawn = read_text(tmp_path, "a.xml", text)
    # 1 and 2 exchanged: the outline crosses itself, two triangles remain
    assert drawn.area_of("Tumor") == 50
    assert "repaired (self-intersection), area 50 px" in drawn.notes[0]


def test_a_group_of_holes_that_somebody_drew_is_cut_out(tmp_path):
    text = asap(
        ("Tumor", "Polygon", SQUARE),
        ("Tumor (hole)", "Polygon", [[2, 2], [4, 2], [4, 4], [2, 4]]),
        ("Tumor (hole)", "Polygon", moved(SQUARE, 50)),
        ("Fold (exclude)", "Polygon", moved(SQUARE, 80)),
    )
    drawn = read_text(tmp_path, "a.xml", text)
    assert drawn.area_of("Tumor") == 96
    assert [(region.name, region.kind) for region in drawn.regions] == [
        ("Tumor", "include"),
        ("Fold", EXCLUDE),
        ("Tumor", EXCLUDE),
    ]


# --- ImageScope -----------------------------------------------------------------------------------------------


def test_a_negative_region_is_a_hole_where_it_lies_in_one_and_left_out_elsewhere(tmp_path):
    text = imagescope(
        ('NegativeROA="0" Type="0"', SQUARE),
        ('NegativeROA="1" Type="0"', [[2, 2], [4, 2], [4, 4], [2, 4]]),
        ('NegativeROA="1" Type="0"', moved(SQUARE, 50)),
    )
    drawn = read_text(tmp_path, "a.xml", text)
    assert len(drawn.regions[0].polygon.interiors) == 1
    assert [(region.kind, region.polygon.area) for region in drawn.regions] == [("include", 96), (EXCLUDE, 100)]


def test_a_hole_without_a_text_is_cut_from_a_region_with_one(tmp_path):
    text = imagescope(('Text="Gleason 4"', SQUARE), ('NegativeROA="1"', [[2, 2], [4, 2], [4, 4], [2, 4]]))
    assert read_text(tmp_path, "a.xml", text).area_of("Gleason 4") == 96


def test_a_hole_as_large_as_its_region_leaves_a_note(tmp_path):
    drawn = read_text(tmp_path, "a.xml", imagescope(("", SQUARE), ('NegativeROA="1"', SQUARE)))
    assert drawn.regions == ()
    assert drawn.notes == ("a.xml: region 'Tumor': its holes leave nothing of it",)


@pytest.mark.parametrize(
    ("layer", "region", "name"),
    [
        ('Name="Layer"', 'Text="Label"', "Label"),
        ('Name="Layer"', "", "Layer"),
        ('Name=""', "", "layer 4"),
    ],
)
def test_the_name_is_the_nearest_text(tmp_path, layer, region, name):
    assert read_text(tmp_path, "a.xml", imagescope((region, SQUARE), layer=layer)).classes == (name,)


def test_two_corners_make_an_ellipse_or_a_rectangle_and_arrows_make_nothing(tmp_path):
    corners = [[0, 0], [20, 10]]
    text = imagescope(*((f'Type="{kind}"', corners) for kind in (1, 2, 3, 4)))
    drawn = read_text(tmp_path, "a.xml", text)
    assert [region.polygon.area for region in drawn.regions] == pytest.approx([200, np.pi * 50], rel=0.001)
    assert drawn.notes == ("a.xml: left out 2 points and lines",)


def test_decimal_commas_are_decimals(tmp_path):
    text = imagescope(("", [["0,5", "0"], ["10,5", "0"], ["10,5", "10"], ["0,5", "10"]]))
    assert read_text(tmp_path, "a.xml", text).regions[0].polygon.bounds == (0.5, 0, 10.5, 10)


# --- QuPath ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.geojson", "a.json"])
def test_a_collection_a_list_and_one_feature_are_read(tmp_path, name):
    one = feature(polygon(SQUARE), classification={"name": "Tumor"})
    for document, n_regions in (({"type": "FeatureCollection", "features": [one, one]}, 2), ([one, one], 2), (one, 1)):
        assert len(read_text(tmp_path, name, json.dumps(document)).regions) == n_regions


@pytest.mark.parametrize(
    ("properties", "name"),
    [
        ({"classification": {"name": "Tumor", "color": [200, 0, 0]}}, "Tumor"),
        ({"classification": {"name": "Tumor", "colorRGB": -3670016}}, "Tumor"),
        ({"classification": {"names": ["Tumor", "Positive"]}}, "Tumor: Positive"),
        ({"classification": "Tumor", "name": "mine"}, "Tumor"),
        ({"name": "mine", "classification": None}, "mine"),
        ({}, "unclassified"),
    ],
)
def test_the_name_is_the_class_in_all_its_spellings(tmp_path, properties, name):
    document = json.dumps([feature(polygon(SQUARE), **properties)])
    assert read_text(tmp_path, "a.geojson", document).classes == (name,)


def test_geometries_of_all_kinds_holes_and_what_is_no_region(tmp_path):
    hole = [[2, 2], [4, 2], [4, 4], [2, 4]]
    several = {
        "type": "MultiPolygon",
        "coordinates": [polygon(SQUARE, hole)["coordinates"], polygon(moved(SQUARE, 20))["coordinates"]],
    }
    nested = {"type": "GeometryCollection", "geometries": [several, {"type": "Point", "coordinates": [1, 1]}]}
    document = [
        feature(polygon(SQUARE, hole), classification={"name": "a"}),
        feature(several, classification={"name": "b"}),
        feature({"type": "GeometryCollection", "geometries": [nested]}, classification={"name": "c"}),
        feature({"type": "LineString", "coordinates": SQUARE}),
        feature(None),
        feature(polygon(SQUARE), classification={"name": "Ignore*"}),
    ]
    drawn = read_text(tmp_path, "a.geojson", json.dumps(document))
    assert [(region.name, region.polygon.area) for region in drawn.regions] == [("a", 96), ("b", 196), ("c", 196)]
    assert drawn.notes == (
        "a.geojson: left out 1 features without a geometry",
        "a.geojson: left out 2 points and lines",
        "a.geojson: left out 1 regions of the ignored class 'Ignore*'",
    )


def test_a_file_with_a_byte_order_mark_and_a_packed_one_are_read(tmp_path):
    document = json.dumps([feature(polygon(SQUARE))])
    (tmp_path / "a.geojson").write_text(document, encoding="utf-8-sig")
    (tmp_path / "b.geojson.gz").write_bytes(gzip.compress(document.encode()))
    assert [len(read_annotations(tmp_path / name).regions) for name in ("a.geojson", "b.geojson.gz")] == [1, 1]


def test_qupath_gets_a_class_a_geometry_and_an_id_that_stays(tmp_path):
    write_geojson(Annotations((Region("Tumor", Polygon(SQUARE)),)), tmp_path / "a.geojson")
    document = json.loads((tmp_path / "a.geojson").read_text(encoding="utf-8"))
    (written,) = document["features"]
    assert document["type"] == "FeatureCollection"
    assert written["geometry"]["coordinates"][0][0] == written["geometry"]["coordinates"][0][-1]
    assert written["properties"] == {"objectType": "annotation", "classification": {"name": "Tumor"}}
    assert written["id"][14] == "5"  # the version of the UUID


def test_names_that_would_come_back_as_others_are_not_written(tmp_path):
    for write, name in (
        (write_geojson, "Ignore*"),
        (write_asap, "a (hole)"),
        (write_asap, "a (exclude)"),
        (write_imagescope, "\x01"),
    ):
        with pytest.raises(ExportError, match="file"):
            write(Annotations((Region(name, Polygon(SQUARE)),)), tmp_path / "file")
    assert not list(tmp_path.iterdir())


# --- outlines that are not as they should be ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ring", "area", "note"),
    [
        (SQUARE, 100, None),
        ([*SQUARE, SQUARE[0]], 100, None),
        ([SQUARE[0], *SQUARE, SQUARE[3], SQUARE[0]], 100, None),
        (BOW_TIE, 50, "repaired (self-intersection)"),
        (SQUARE[:2], 0, "without an area"),
        ([[1, 1]], 0, "without an area"),
        ([], 0, "without an area"),
        ([[0, 0], [5, 5], [10, 10]], 0, "without an area"),
        ([[0, 0], [10, 0], [0, 0], [10, 0]], 0, "without an area"),
        # around the same square twice: it is not a hole
        ([*SQUARE, *[[x * 0.5, y * 0.5] for x, y in SQUARE]], 100, "repaired"),
    ],
)
def test_an_outline_is_kept_or_repaired_or_noted(tmp_path, ring, area, note):
    for name, text in (
        ("a.xml", asap(("Tumor", "Polygon", ring))),
        ("b.xml", imagescope(("", ring))),
        ("c.json", json.dumps([feature({"type": "Polygon", "coordinates": [ring]}, classification={"name": "Tumor"})])),
    ):
        drawn = read_text(tmp_path, name, text)
        assert drawn.area_of("Tumor") == pytest.approx(area)
        assert [name in line and "'Tumor'" in line and note in line for line in drawn.notes] == [True] * (
            note is not None
        )


def test_a_hole_without_an_area_is_noted_and_the_region_stays(tmp_path):
    drawn = read_text(tmp_path, "a.json", json.dumps([feature(polygon(SQUARE, SQUARE[:1]))]))
    assert drawn.area_of("unclassified") == 100
    assert "a hole without an area is left out" in drawn.notes[0]


def test_parts_that_overlap_are_joined(tmp_path):
    parts = {"type": "MultiPolygon", "coordinates": [[SQUARE], [moved(SQUARE, 5)]]}
    drawn = read_text(tmp_path, "a.json", json.dumps([feature(parts)]))
    assert drawn.area_of("unclassified") == 175
    assert "parts overlap" in drawn.notes[0]


BOMB = '<!DOCTYPE a [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;">]>'
OUTSIDE = '<!DOCTYPE a [<!ENTITY a SYSTEM "file:///etc/hostname">]>'


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.xml", asap(("&b;", "Polygon", SQUARE), before=BOMB), "DTD"),
        ("a.xml", asap(("&a;", "Polygon", SQUARE), before=OUTSIDE), "DTD"),
        ("a.xml", asap(before="<!DOCTYPE ASAP_Annotations>"), "DTD"),
        ("a.xml", asap()[:-5], "not whole XML"),
        ("a.xml", "<svg/>", "is no file of annotations"),
        ("a.xml", "", "is no file of annotations"),
        ("a.xml", '<?xml version="1.0" encoding="klingon"?><Annotations/>', "not whole XML"),
        ("a.xml", asap(("T", "Polygon", [["x", 1], *SQUARE])), "annotation 1 \\('T'\\): has a point"),
        ("a.json", "[" * 100_000, "not whole JSON"),
        ("a.json", "[" + "9" * 5000 + "]", "not whole JSON"),
        ("a.json", '{"images": [], "annotations": []}', "not GeoJSON"),
        ("a.json", '[{"type": "Feature", "properties": 3}]', "properties of feature 1"),
        ("a.json", json.dumps([feature({"type": "Polygon"})]), "feature 1 .* damaged"),
        ("a.json", json.dumps([feature({"type": "MultiPolygon", "coordinates": [3]})]), "feature 1 .* damaged"),
        ("a.json", json.dumps([feature({"type": "Polygon", "coordinates": [[[1], [2], [3]]]})]), "not pairs"),
        ("a.json", json.dumps([feature({"type": "Polygon", "coordinates": [[[1, {}], [2, 3]]]})]), "not pairs"),
        ("a.json", json.dumps([feature({"type": "Polygon", "coordinates": [[[10**400, 1], [2, 3]]]})]), "not pairs"),
        ("a.json", json.dumps([feature({"type": "Polygon", "coordinates": [[[None, 1], [2, 3]]]})]), "has a point"),
    ],
)
def test_what_is_no_annotation_is_refused_in_a_line_that_says_why(tmp_path, name, text, message):
    with pytest.raises(ManifestError, match=message) as refusal:
        read_text(tmp_path, name, text)
    assert str(tmp_path / name) in str(refusal.value)


def test_a_file_that_is_not_there_or_a_folder_is_refused(tmp_path):
    for path in (tmp_path / "none.xml", tmp_path):
        with pytest.raises(ManifestError, match="cannot be read"):
            read_annotations(path)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("", Polygon(SQUARE)),
        (" a", Polygon(SQUARE)),
        ("a", Polygon()),
        ("a", shapely.Point(1, 1)),
        ("a", Polygon(BOW_TIE)),
    ],
)
def test_a_region_has_a_name_and_a_valid_polygon(name, shape):
    with pytest.raises(ValueError, match="region"):
        Region(name, shape)


# --- names to classes -----------------------------------------------------------------------------------------


def test_names_become_classes_and_what_the_file_excludes_stays():
    drawn = Annotations((
        Region("IDC", shapely.box(0, 0, 10, 10)),
        Region("DCIS", shapely.box(5, 0, 15, 10)),
        Region("Fat", shapely.box(50, 0, 60, 10)),
        Region("Fold", shapely.box(0, 0, 2, 10), "exclude"),
    ))
    mapped = drawn.mapped({"IDC": "tumour", "DCIS": "tumour"})
    assert mapped.area_of("tumour") == 150 - 20
    assert dict(mapped.dropped) == {"Fat": 1}
    again = mapped.mapped({"other": "x"})
    assert dict(again.dropped) == {"Fat": 1, "tumour": 2}
    assert again.notes[-1] == "names without a class, left out: 'tumour' (2)"
    assert again.excluded.area == 20
    assert again.area_of("tumour") == 0


# --- labels of tiles ------------------------------------------------------------------------------------------

SIDE, TILE = 48, 12

rectangles = st.tuples(st.integers(-4, 44), st.integers(-4, 44), st.integers(1, 30), st.integers(1, 30))


def painted(shapes):
    """A mask (SIDE, SIDE) of rectangles x, y, width, height: the plain way."""
    mask = np.zeros((SIDE, SIDE), dtype=bool)
    for x, y, width, height in shapes:
        mask[max(y, 0) : max(y + height, 0), max(x, 0) : max(x + width, 0)] = True
    return mask


def union_of(shapes):
    return shapely.union_all([shapely.box(x, y, x + width, y + height) for x, y, width, height in shapes])


def tiles(step=5):
    starts = np.arange(0, SIDE - TILE + 1, step)
    return np.array([(x, y, TILE, TILE) for y in starts for x in starts])


@settings(deadline=None, max_examples=60)
@given(
    tumour=st.lists(rectangles, min_size=1, max_size=4),
    holes=st.lists(rectangles, max_size=2),
    stroma=st.lists(rectangles, max_size=2),
    excluded=st.lists(rectangles, max_size=1),
    rule=st.sampled_from(["centre", "area"]),
)
def test_shares_and_reasons_are_those_of_painted_pixels(tumour, holes, stroma, excluded, rule):
    shapes = {"tumour": union_of(tumour).difference(union_of(holes)), "stroma": union_of(stroma)}
    regions = [Region(name, shape) for name, shape in shapes.items() if shape.area > 0]
    regions += [Region("fold", union_of(excluded), "exclude")] if excluded else []
    fold = painted(excluded)
    masks = [painted(tumour) & ~painted(holes) & ~fold, painted(stroma) & ~fold]
    found = label_boxes(
        tiles(), Annotations(tuple(regions)), ["tumour", "stroma"], background="rest", rule=rule, minimum=0.25
    )
    margin = TILE // 3 if rule == "centre" else 0
    for (x, y, width, height), share, label, reason in zip(
        tiles(), found.share, found.labels, found.reasons, strict=True
    ):
        inner = np.s_[y + margin : y + height - margin, x + margin : x + width - margin]
        expected = [mask[inner].mean() for mask in masks]
        assert share == pytest.approx(expected, abs=1e-6)
        if fold[y : y + height, x : x + width].any():
            answer = ("", "excluded")
        elif max(expected) == 0:
            answer = ("rest", "")
        elif max(expected) < 0.25:
            answer = ("", "ambiguous")
        elif expected[0] == expected[1]:
            answer = ("", "tied")
        else:
            answer = (("tumour", "stroma")[int(np.argmax(expected))], "")
        assert (label, reason) == answer


def test_long_outlines_are_cut_into_pieces_without_an_area_lost():
    angle = np.linspace(0, 2 * np.pi, 5000, endpoint=False)
    radius = 1000 + 150 * np.sin(37 * angle) + 40 * np.cos(301 * angle)
    outline = np.column_stack((1200 + radius * np.cos(angle), 1200 + radius * np.sin(angle)))
    star = Polygon(outline, [shapely.Point(1100, 1250).buffer(333, quad_segs=200).exterior])
    starts = np.arange(0, 2400, 71)
    boxes = np.array([(x, y, 97, 80) for x in starts for y in starts])
    plain = shapely.area(
        shapely.intersection(star, shapely.box(boxes[:, 0], boxes[:, 1], boxes[:, 0] + 97, boxes[:, 1] + 80))
    ) / (97 * 80)
    found = label_boxes(boxes, Annotations((Region("t", star),)), ["t"], background="n", rule="area")
    assert np.abs(found.share[:, 0] - plain).max() < 1e-6
    assert 0 < (plain == 1).sum() < len(plain)


def test_a_patch_of_camelyon_is_tumour_where_its_centre_touches_it():
    drawn = Annotations((Region("tumour", shapely.box(63, 0, 96, 96)),))
    boxes = [[0, 0, 96, 96], [-1, 0, 96, 96], [-2, 0, 96, 96]]  # centres reach to 64, 63 and 62
    assert label_boxes(boxes, drawn, ["tumour"], background="normal").labels.tolist() == ["tumour", "normal", "normal"]


def test_without_a_background_what_nobody_drew_gets_no_label():
    drawn = Annotations((Region("tumour", shapely.box(0, 0, 10, 10)),))
    found = label_boxes([[0, 0, 10, 10], [50, 0, 10, 10]], drawn, ["tumour", "stroma"], background="")
    assert found.labels.tolist() == ["tumour", ""]
    assert found.counts == {"tumour": 1}
    assert found.left_out == {"unannotated": 1}


def test_a_tile_between_the_two_bounds_is_left_out_and_counted():
    drawn = Annotations((Region("tumour", shapely.box(0, 0, 100, 100)),))
    boxes = [[100 - inside, 0, 100, 10] for inside in (0, 5, 10, 11, 49, 50, 100)]
    found = label_boxes(boxes, drawn, ["tumour"], background="n", rule="area", minimum=0.5, ambiguous=0.1)
    assert found.labels.tolist() == ["n", "n", "n", "", "", "tumour", "tumour"]
    assert found.left_out == {"ambiguous": 2}


def test_a_tile_beside_an_excluded_region_does_not_touch_it():
    drawn = Annotations((Region("fold", shapely.box(10, 0, 20, 10), "exclude"),))
    found = label_boxes([[0, 0, 10, 10], [1, 0, 10, 10]], drawn, ["tumour"], background="n")
    assert found.reasons.tolist() == ["", "excluded"]


def test_no_tiles_give_no_labels():
    found = label_boxes(np.empty((0, 4), dtype=np.int64), Annotations(()), ["a", "b"], background="n")
    assert (found.labels.shape, found.share.shape, found.counts) == ((0,), (0, 2), {})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"classes": []}, "name each class once"),
        ({"classes": ["a", "a"]}, "name each class once"),
        ({"classes": "tumour"}, "name each class once"),
        ({"rule": "middle"}, "rule = 'middle'"),
        ({"centre_share": 0.0}, "centre_share"),
        ({"minimum": 0.1, "ambiguous": 0.2}, "ambiguous"),
        ({"minimum": float("nan")}, "minimum"),
        ({"boxes": [[0, 0, 0, 5]]}, "boxes"),
        ({"boxes": [[0.5, 0, 1, 5]]}, "boxes"),
        ({"boxes": [1, 2, 3, 4]}, "boxes"),
    ],
)
def test_a_rule_that_cannot_be_is_refused(change, message):
    wish = {"boxes": [[0, 0, 5, 5]], "annotations": Annotations(()), "classes": ["a"], "background": "n"} | change
    with pytest.raises(ManifestError, match=message):
        label_boxes(**wish)


# --- which file belongs to a slide ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.xml", "a.geojson", "a.geojson.gz", "a.json", "a.XML"])
@pytest.mark.parametrize("slide", ["a.svs", "a.ome.tif"])
def test_the_annotations_of_a_slide_have_its_stem(tmp_path, name, slide):
    for other in ("ab.xml", "a.csv", "a.b.xml", "A.xml2", name):
        (tmp_path / other).touch()
    assert annotation_for(tmp_path / "elsewhere" / slide, tmp_path) == tmp_path / name
    assert annotation_for("b.svs", tmp_path) is None


def test_two_files_for_a_slide_are_an_error_that_names_both(tmp_path):
    (tmp_path / "a.xml").touch()
    (tmp_path / "a.geojson").touch()
    with pytest.raises(ManifestError, match=r"a\.geojson and .*a\.xml"):
        annotation_for("a.svs", tmp_path)
    with pytest.raises(ManifestError, match="none: cannot be read"):
        annotation_for("a.svs", tmp_path / "none")


def test_annotations_keep_the_parts_of_a_region_together(tmp_path):
    parts = MultiPolygon([Polygon(SQUARE), Polygon(moved(SQUARE, 20))])
    write_imagescope(Annotations((Region("Tumor", parts),)), tmp_path / "a.xml")
    (region,) = read_annotations(tmp_path / "a.xml").regions
    assert len(region.polygon.geoms) == 2
