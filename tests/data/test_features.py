"""Embeddings of others: TRIDENT, CLAM, STAMP, and what is wrong with them."""

import h5py
import numpy as np
import pytest

from sentinode.data.adapters import import_manifest
from sentinode.data.overlaps import find_overlaps
from sentinode.data.patches import PatchSource, cache_patches
from sentinode.errors import ManifestError

DRAWING = """<?xml version="1.0"?><ASAP_Annotations><Annotations>
<Annotation Name="a" Type="Polygon" PartOfGroup="Tumor" Color="#F4FA58"><Coordinates>
<Coordinate Order="0" X="0" Y="0"/><Coordinate Order="1" X="512" Y="0"/><Coordinate Order="2" X="512" Y="512"/>
<Coordinate Order="3" X="0" Y="512"/></Coordinates></Annotation></Annotations><AnnotationGroups>
<Group Name="Tumor" PartOfGroup="None" Color="#64FE2E"><Attributes/></Group></AnnotationGroups></ASAP_Annotations>"""


def write(path, key="features", n=4, d=6, attributes=(), *, coords=True, fill=None):
    rng = np.random.default_rng(len(path.name) * 7 + n)
    features = rng.normal(size=(n, d)).astype(np.float32) if fill is None else fill
    with h5py.File(path, "w") as file:
        file[key] = features
        if coords:
            file["coords"] = np.column_stack([np.arange(n) * 512, np.zeros(n, int)])
            file["coords"].attrs.update(dict(attributes))
    return features


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "h5"
    folder.mkdir()
    (tmp_path / "labels.csv").write_text("case_id,slide_id,label\np1,a.svs,tumour\np2,b.svs,normal\n", encoding="utf-8")
    return folder


def bring_in(root, **options):
    return import_manifest("features", root, labels=root.parent / "labels.csv", **options)


@pytest.mark.parametrize(
    ("key", "attributes", "side"),
    [
        ("features", {"patch_size": 256, "patch_size_level0": 512}, 512),  # TRIDENT
        ("features", {"patch_size": 256, "patch_level": 1, "downsample": [2.0, 2.0]}, 512),  # CLAM
        ("features", {"patch_size": 256, "patch_level": 0}, 256),  # CLAM
        ("feats", {"unit": "um"}, None),  # STAMP
    ],
)
def test_the_files_of_three_programs_are_read(root, key, attributes, side):
    written = [write(root / f"{name}.h5", key, attributes=attributes) for name in "ab"]
    manifest = bring_in(root)
    assert manifest.frame["patient_id"].tolist() == ["p1"] * 4 + ["p2"] * 4
    assert manifest.frame["label"].tolist() == ["tumour"] * 4 + ["normal"] * 4
    source = PatchSource(manifest)
    assert source.has_features
    assert np.array_equal(source[:], np.concatenate(written)[:, None])
    if side is None:
        assert manifest.frame["x"].isna().all()
    else:
        assert manifest.frame[["x", "width"]].iloc[1].tolist() == [512, side]


def test_stamp_names_and_half_precision_are_understood(root):
    halves = np.linspace(-1, 1, 12).reshape(2, 6).astype(np.float16)
    for name in "ab":
        write(root / f"{name}.h5", "feats", n=2, fill=halves, coords=False)
    (root.parent / "labels.csv").write_text("PATIENT,FILENAME,label\nx,a.h5,tumour\ny,b.h5,normal\n", encoding="utf-8")
    manifest = bring_in(root)
    assert set(manifest.frame["patient_id"]) == {"x", "y"}
    assert PatchSource(manifest)[0].dtype == np.float32


def test_a_drawing_labels_single_tiles(root):
    for name in "ab":
        write(root / f"{name}.h5", attributes={"patch_size_level0": 512})
    drawings = root.parent / "xml"
    drawings.mkdir()
    (drawings / "a.xml").write_text(DRAWING, encoding="utf-8")
    manifest = bring_in(root, annotations=drawings)
    assert manifest.frame["label"].tolist() == ["tumour", *["normal"] * 7]


def test_a_tumour_slide_without_its_drawing_is_refused_where_drawings_count(root):
    for name in "ab":
        write(root / f"{name}.h5", attributes={"patch_size_level0": 512})
    (root.parent / "xml").mkdir()
    with pytest.raises(ManifestError, match="no drawing"):
        bring_in(root, annotations=root.parent / "xml")


def test_drawings_need_places(root):
    for name in "ab":
        write(root / f"{name}.h5", "feats", attributes={"unit": "um"})
    (root.parent / "xml").mkdir()
    (root.parent / "xml" / "a.xml").write_text(DRAWING, encoding="utf-8")
    with pytest.raises(ManifestError, match="level-0 pixels"):
        bring_in(root, annotations=root.parent / "xml")


def test_files_without_features_are_passed_over(root):
    for name in "ab":
        write(root / f"{name}.h5")
    with h5py.File(root / "a_patches.h5", "w") as file:
        file["coords"] = np.zeros((4, 2), int)
    assert len(bring_in(root)) == 8


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (lambda root: write(root / "b.h5", d=7), "two encoders"),
        (lambda root: write(root / "c.h5"), "no row for the slide 'c'"),
        (lambda root: (root / "b.h5").write_bytes(b"no"), "damaged"),
        (lambda root: write(root / "b.h5", fill=np.zeros((1, 4, 6), np.float32)), "one row a tile"),
        (lambda root: (root.parent / "labels.csv").write_text("name\na\n"), "needs a column slide_id"),
        (lambda root: (root.parent / "labels.csv").write_text("slide_id,label\na,\nb,x\n"), "has no label"),
        (lambda root: (root.parent / "labels.csv").write_text("slide_id,label\na,x\na.svs,y\n"), "twice"),
    ],
)
def test_what_is_wrong_is_told_with_the_file(root, fault, words):
    for name in "ab":
        write(root / f"{name}.h5")
    fault(root)
    with pytest.raises(ManifestError, match=words) as refusal:
        bring_in(root)
    assert str(root.parent) in str(refusal.value)


def test_the_table_of_slides_must_be_given(root):
    write(root / "a.h5")
    with pytest.raises(ManifestError, match="--labels"):
        import_manifest("features", root)


def test_features_that_are_no_numbers_are_refused_when_read(root):
    broken = np.ones((4, 6), np.float32)
    broken[2, 3] = np.nan
    write(root / "a.h5", fill=broken)
    write(root / "b.h5")
    with pytest.raises(ManifestError, match=r"row 3 .*a\.h5#2: has features that are no finite numbers"):
        PatchSource(bring_in(root))[:]


def test_the_cache_holds_floats_and_is_found_again(root, tmp_path):
    written = np.concatenate([write(root / f"{name}.h5") for name in "ab"])
    cached = cache_patches(bring_in(root), tmp_path / "cache")
    assert cached.dtype == np.float32
    assert np.array_equal(cached, written[:, None])
    assert cache_patches(bring_in(root), tmp_path / "cache").filename == cached.filename


def test_a_slide_under_two_names_is_found_and_glass_is_no_evidence():
    rows = np.random.default_rng(1).normal(size=(6, 1, 4)).astype(np.float32)
    rows[4] = rows[0]
    assert find_overlaps(rows).frame[["first", "second", "kind"]].to_numpy().tolist() == [[0, 4, "exact"]]
    rows[2] = rows[0]
    assert len(find_overlaps(rows).frame) == 0
