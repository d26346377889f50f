"""One folder a class: whose image it is, and what is refused."""

import os

import pytest
from PIL import Image

from sentinode.data import adapters
from sentinode.data.adapters import import_manifest
from sentinode.errors import ManifestError

FILES = (
    "cancer/case-2/b.png",
    "cancer/case-10/a.JPG",
    "normal/case-2/c.tif",
    "normal/case-3/deep/d.png",
)


@pytest.fixture
def root(tmp_path):
    for name in FILES:
        file = tmp_path / "set" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(file)
    return tmp_path / "set"


def test_the_first_folder_is_the_class_and_the_path_is_the_id(root):
    manifest = import_manifest("folder", root)
    assert manifest.frame["image_id"].tolist() == manifest.frame["path"].tolist() == sorted(FILES)
    assert manifest.frame["label"].tolist() == ["cancer", "cancer", "normal", "normal"]
    assert manifest.classes == ("normal", "cancer")
    assert set(manifest.groups) == {""}
    assert manifest.provenance.source == "set"


def test_options_say_what_is_looked_for_and_how_large_a_pixel_is(root):
    manifest = import_manifest("folder", root, positive="normal", mpp=0.5, source="ours", licence="CC0-1.0")
    assert manifest.positive == "normal"
    assert (manifest.frame["mpp"] == 0.5).all()
    assert (manifest.provenance.source, manifest.provenance.licence) == ("ours", "CC0-1.0")


def test_the_patient_is_the_first_group_of_the_expression(root):
    manifest = import_manifest("folder", root, patient_pattern=r"case-(\d+)")
    assert manifest.groups.tolist() == ["10", "2", "2", "3"]


def test_named_groups_give_slide_and_site(root):
    pattern = r"(?P<site>[^/]+)/case-(?P<patient>\d+)/(deep/)?(?P<slide>\w)"
    frame = import_manifest("folder", root, patient_pattern=pattern).frame
    assert frame["patient_id"].tolist() == ["10", "2", "2", "3"]
    assert frame["slide_id"].tolist() == ["a", "b", "c", "d"]
    assert frame["site"].tolist() == ["cancer", "cancer", "normal", "normal"]


def test_a_table_names_images_by_path_by_file_or_by_stem(root):
    table = root.parent / "patients.csv"
    table.write_text("file;patient_id;site\ncancer/case-2/b.png;001;x\nc.tif;NA;y\nd;7;\n", encoding="utf-8-sig")
    frame = import_manifest("folder", root, patients=table).frame
    owners = dict(zip(frame["path"], zip(frame["patient_id"], frame["site"], strict=True), strict=True))
    assert owners == {
        "cancer/case-10/a.JPG": ("", ""),
        "cancer/case-2/b.png": ("001", "x"),
        "normal/case-2/c.tif": ("NA", "y"),
        "normal/case-3/deep/d.png": ("7", ""),
    }


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("path,patient_id\nb.png,1\nz.png,2\n", r"patients\.csv: row 2: 'z\.png' names no image"),
        ("path,patient_id\nb.png,1\ncancer/case-2/b.png,2\n", "rows 1 and 2 name one image"),
        ("path,patient\nb.png,1\n", "needs a column path .* it has path, patient"),
        ("picture,patient_id\nb.png,1\n", "needs a column path"),
    ],
)
def test_a_table_of_patients_that_does_not_fit_is_refused(root, content, message):
    table = root.parent / "patients.csv"
    table.write_text(content, encoding="utf-8")
    with pytest.raises(ManifestError, match=message):
        import_manifest("folder", root, patients=table)


def test_a_name_that_two_images_share_is_refused_in_a_table(root):
    Image.new("RGB", (4, 4)).save(root / "normal" / "b.png")
    table = root.parent / "patients.csv"
    table.write_text("file,patient_id\nb.png,1\n", encoding="utf-8")
    with pytest.raises(ManifestError, match=r"'b\.png' names no image, or several"):
        import_manifest("folder", root, patients=table)


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        (r"case_(\d+)", r"finds no patient in 4 of 4 paths, the first is 'cancer/case-10/a\.JPG'"),
        (r"case-(\d)/", r"finds no patient in 1 of 4 paths, the first is 'cancer/case-10/a\.JPG'"),
        (r"case-(\d*)x?", None),
        (r"case-\d+", "has no group"),
        (r"case-(\d+", "is not a regular expression"),
        (r"(x?)", "finds no patient in 4 of 4"),
    ],
)
def test_an_expression_must_find_a_patient_in_every_path(root, pattern, message):
    if message is None:
        assert "" not in import_manifest("folder", root, patient_pattern=pattern).groups
        return
    with pytest.raises(ManifestError, match=message):
        import_manifest("folder", root, patient_pattern=pattern)


def test_two_answers_to_whose_image_it_is_are_refused(root):
    with pytest.raises(ManifestError, match="give one of them"):
        import_manifest("folder", root, patient_pattern="(a)", patients="patients.csv")


def test_hidden_files_and_files_that_are_no_images_are_passed_over(root):
    before = import_manifest("folder", root).digest
    (root / ".git").mkdir()
    (root / "normal" / ".thumbs").mkdir()
    Image.new("RGB", (4, 4)).save(root / "normal" / ".thumbs" / "x.png")
    for name in ("normal/._c.tif", "normal/Thumbs.db", "notes.txt", ".DS_Store"):
        (root / name).write_bytes(b"")
    assert import_manifest("folder", root).digest == before


def test_the_order_of_the_folder_does_not_matter(root, monkeypatch):
    before = import_manifest("folder", root).frame
    walk = os.walk

    def backwards(*given, **options):
        for parent, folders, names in walk(*given, **options):
            folders.reverse()
            yield parent, folders, names[::-1]

    import_manifest("folder", root)
    monkeypatch.setattr(os, "walk", backwards)
    assert import_manifest("folder", root).frame.equals(before)


def test_folders_that_are_no_data_set_are_refused(root, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(ManifestError, match=r"empty: there is no folder in it"):
        import_manifest("folder", empty)
    (empty / "only").mkdir()
    Image.new("RGB", (4, 4)).save(empty / "only" / "a.png")
    with pytest.raises(ManifestError, match=r"there is one class only \('only'\)"):
        import_manifest("folder", empty)
    (root / "third").mkdir()
    with pytest.raises(ManifestError, match=r"third: there is no image in it"):
        import_manifest("folder", root)
    (root / "third").rmdir()
    Image.new("RGB", (4, 4)).save(root / "loose.png")
    with pytest.raises(ManifestError, match=r"'loose\.png' lies in no class folder"):
        import_manifest("folder", root)
    (root / "loose.png").unlink()
    with pytest.raises(ManifestError, match="'malignant' is not a class of these images"):
        import_manifest("folder", root, positive="malignant")


def test_links_that_leave_the_root_are_refused(root, tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "secret.png")
    (root / "normal" / "inside.png").symlink_to(root / "cancer" / "case-2" / "b.png")
    assert len(import_manifest("folder", root)) == 5
    (root / "normal" / "link.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(ManifestError, match=r"link\.png: is a link that leads out"):
        import_manifest("folder", root)
    (root / "normal" / "link.png").unlink()
    (root / "normal" / "loop").symlink_to(root)
    with pytest.raises(ManifestError, match=r"loop: is a link to a folder"):
        import_manifest("folder", root)


def test_a_file_name_that_is_not_unicode_is_refused(root):
    try:
        (root / "normal" / os.fsdecode(b"caf\xe9.png")).write_bytes(b"")
    except OSError:
        pytest.skip("this file system takes names in UTF-8 only")
    with pytest.raises(ManifestError, match="is not in UTF-8; rename the file"):
        import_manifest("folder", root)


def test_unknown_layouts_options_and_roots_are_refused_with_what_there_is(root):
    with pytest.raises(
        ManifestError, match="there is no layout 'imagenet'; the layouts are features, folder, kaggle-pcam"
    ):
        import_manifest("imagenet", root)
    with pytest.raises(ManifestError, match="folder has no option 'patient'; it takes patient_pattern, patients"):
        import_manifest("folder", root, patient="x")
    with pytest.raises(ManifestError, match="kaggle-pcam has no option 'mpp'; it takes none"):
        import_manifest("kaggle-pcam", root, mpp=1.0)
    with pytest.raises(ManifestError, match="absent: is not a folder"):
        import_manifest("folder", root / "absent")
    assert adapters.adapter_options("folder")[0] == "patient_pattern"
