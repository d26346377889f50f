"""The table of images: what it takes, what it refuses, and that it comes back from disk as it was."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinode.data import manifest as manifest_module
from sentinode.data.manifest import (
    COLUMNS,
    Manifest,
    Provenance,
    make_manifest,
    order_classes,
    read_manifest,
    write_manifest,
)
from sentinode.errors import ExportError, ManifestError

CLASSES = ("normal", "tumour")


def table(**columns):
    given = {
        "image_id": ["i1", "i2", "i3"],
        "patient_id": ["ann", "ann", ""],
        "slide_id": ["s1", "s2", "s3"],
        "label": ["normal", "tumour", "normal"],
        "path": ["a.png", "sub/b.png", "c.h5#17"],
        "mpp": [0.25, None, 0.5],
    }
    return pd.DataFrame(given | columns)


def manifest_of(**columns):
    return Manifest(table(**columns), CLASSES, Provenance("test"), Path("images"))


def test_a_table_of_two_columns_is_a_manifest_and_the_paths_are_its_ids():
    manifest = make_manifest(pd.DataFrame({"path": ["b.png", "a.png"], "label": ["tumour", "normal"]}))
    assert tuple(manifest.frame.columns) == COLUMNS
    assert manifest.frame["image_id"].tolist() == ["b.png", "a.png"]
    assert manifest.groups.tolist() == ["", ""]
    assert manifest.frame[["x", "y", "width", "height", "mpp"]].isna().all().all()
    assert manifest.root == Path.cwd()


def test_codes_count_along_the_classes_and_the_last_class_is_the_positive_one():
    manifest = manifest_of()
    assert manifest.positive == "tumour"
    assert manifest.codes.tolist() == [0, 1, 0]
    assert manifest.codes.dtype == np.int64


def test_the_group_is_the_patient_and_the_slide_where_no_patient_is_known():
    assert manifest_of().groups.tolist() == ["ann", "ann", "s3"]


def test_a_slide_whose_patient_is_named_elsewhere_belongs_to_that_patient():
    manifest = manifest_of(patient_id=["ann", "bo", ""], slide_id=["s1", "s2", "s1"])
    assert manifest.groups.tolist() == ["ann", "bo", "ann"]


def test_numbers_in_ids_become_text_and_nothing_is_lost():
    manifest = manifest_of(patient_id=[7, 7, None], image_id=np.array([1, 2, 3]))
    assert manifest.frame["patient_id"].tolist() == ["7", "7", ""]
    assert manifest.frame["image_id"].tolist() == ["1", "2", "3"]


def test_the_digest_ignores_the_order_of_the_rows_and_nothing_else():
    manifest = manifest_of()
    assert manifest.select([2, 0, 1]).digest == manifest.digest
    assert len(manifest.digest) == 64
    changed = [
        manifest_of(patient_id=["ann", "bo", ""]),
        manifest_of(label=["normal", "normal", "normal"]),
        manifest_of(mpp=[0.25, None, 0.25]),
        manifest_of(path=["a.png", "b.png", "c.h5#17"]),
        Manifest(table(), ("tumour", "normal"), Provenance(), Path()),
        manifest.select([0, 1]),
    ]
    assert len({manifest.digest, *(other.digest for other in changed)}) == 7


def test_the_digest_is_the_same_in_another_process():
    told = (
        "import pandas as pd; from sentinode.data.manifest import make_manifest as m;"
        "print(m(pd.DataFrame({'path': ['a', 'b'], 'label': ['n', 't']})).digest)"
    )
    other = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True)
    here = make_manifest(pd.DataFrame({"path": ["a", "b"], "label": ["n", "t"]}))
    assert other.stdout.strip() == here.digest


def test_a_manifest_does_not_change_with_the_frame_that_it_was_made_of():
    frame = table()
    manifest = Manifest(frame, CLASSES, Provenance(), Path())
    frame.loc[0, "label"] = "nonsense"
    assert manifest.frame["label"].iloc[0] == "normal"


def test_selecting_keeps_the_order_asked_for_and_the_classes():
    manifest = manifest_of()
    assert manifest.select([2, 0]).frame["image_id"].tolist() == ["i3", "i1"]
    assert manifest.select(np.array([False, True, False])).classes == CLASSES
    assert manifest.select([2, 0]).frame.index.tolist() == [0, 1]
    with pytest.raises(ManifestError, match="no image is selected"):
        manifest.select([])


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"label": ["normal", "", "tumour"]}, r"row 2 \(image_id 'i2'\): label '' is empty"),
        ({"label": ["normal", None, "tumour"]}, r"row 2 \(image_id 'i2'\): label '' is empty"),
        (
            {"label": ["normal", "Tumour", "tumour"]},
            r"row 2 .*'Tumour' is not among the classes.*'normal', 'tumour'",
        ),
        ({"image_id": ["i1", "i2", "i1"]}, r"rows 1 and 3 have one image_id, 'i1'"),
        ({"image_id": ["i1", "", "i3"]}, r"row 2 .*image_id '' is empty"),
        ({"path": ["a", "/etc/passwd", "c"]}, r"row 2 .*'/etc/passwd' is absolute"),
        ({"path": ["a", "b", "../c"]}, r"row 3 .*leaves the root"),
        ({"path": ["a", "b", "x/../../c"]}, r"row 3 .*leaves the root"),
        ({"path": ["a", "b", "x/.."]}, r"row 3 .*leaves the root"),
        ({"path": ["C:/a", "b", "c"]}, r"row 1 .*is absolute"),
        ({"path": ["x\\a", "b", "c"]}, r"row 1 .*has a backslash"),
        ({"path": ["a", "b\n", "c"]}, r"row 2 .*control character"),
        ({"path": pd.Series(["a", "b\udcff", "c"], dtype=object)}, "row 2: path is .* write it as text"),
        ({"patient_id": ["ann", " bo", ""]}, r"row 2 .*patient_id ' bo' has a space"),
        ({"patient_id": [1.5, 2.0, 3.0]}, r"row 1: patient_id is '1.5'; write it as text"),
        ({"mpp": ["0.25", "nan", ""]}, r"row 2 .*mpp is 'nan'; write micrometres per pixel"),
        ({"mpp": [0.25, np.inf, 1]}, r"row 2 .*mpp is inf"),
        ({"mpp": [0.25, 0, 1]}, r"row 2 .*mpp is 0"),
        ({"x": ["1", "2.5", ""]}, r"row 2 .*x is '2.5'; write a whole number of pixels"),
        ({"x": [1, -2, 3]}, r"row 2 .*x is -2"),
        ({"width": [1, 0, 3]}, r"row 2 .*width is 0"),
        ({"patinet_id": ["a", "b", "c"]}, r"unknown column 'patinet_id'; did you mean 'patient_id'\?"),
        ({"age": [1, 2, 3]}, r"unknown column 'age'"),
    ],
)
def test_a_table_that_is_no_manifest_is_refused_with_the_row_and_its_id(columns, message):
    with pytest.raises(ManifestError, match=message) as refusal:
        manifest_of(**columns)
    assert str(refusal.value).count("\n") <= 1


@pytest.mark.parametrize(
    ("frame", "classes", "message"),
    [
        (pd.DataFrame({"path": [], "label": []}), CLASSES, "the table is empty"),
        (
            pd.DataFrame({"path": ["a"]}),
            CLASSES,
            "column 'label' is missing; a manifest needs 'path', 'label'",
        ),
        (pd.DataFrame({"path": ["a"], "label": ["normal"]}), ("normal",), "one class only"),
        (pd.DataFrame({"path": ["a"], "label": ["n"]}), ("n", "n"), "name one class twice"),
        (pd.DataFrame({"path": ["a"], "label": ["{x}"]}), ("n", "{y}"), r"label '\{x\}' is not among"),
    ],
)
def test_a_table_without_images_or_classes_is_refused(frame, classes, message):
    with pytest.raises(ManifestError, match=message):
        Manifest(frame, classes, Provenance(), Path())


def test_one_class_only_is_refused_where_the_classes_are_read_off_the_labels():
    with pytest.raises(ManifestError, match=r"there is one class only \('normal'\)"):
        make_manifest(pd.DataFrame({"path": ["a", "b"], "label": ["normal", "normal"]}))


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (["cancer", "normal"], ("normal", "cancer")),
        (["malignant", "benign"], ("benign", "malignant")),
        (["tumour", "non-tumour"], ("non-tumour", "tumour")),
        (["1", "0"], ("0", "1")),
        (["invasive", "Normal", "in situ"], ("Normal", "in situ", "invasive")),
    ],
)
def test_the_class_that_says_that_nothing_was_found_is_never_the_positive_one(labels, expected):
    assert order_classes(labels) == expected


def test_a_positive_class_that_is_not_there_is_refused():
    with pytest.raises(ManifestError, match="'tumor' is not a class of these images; there are 'normal', 'tumour'"):
        order_classes(CLASSES, positive="tumor")


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_manifest_comes_back_from_disk_as_it_was(tmp_path, suffix):
    manifest = Manifest(
        table(patient_id=["001", "NA", ""], x=[1, None, 2], site=["nan", "null", "a,b;\"c'"]),
        ("normal", "tumour"),
        Provenance("source", "CC0-1.0", "abc", synthetic=True),
        tmp_path / "images",
    )
    path = tmp_path / "tables" / f"manifest{suffix}"
    path.parent.mkdir()
    write_manifest(manifest, path)
    again = read_manifest(path)
    pd.testing.assert_frame_equal(again.frame, manifest.frame)
    assert (again.classes, again.provenance, again.root) == (
        manifest.classes,
        manifest.provenance,
        manifest.root,
    )
    assert again.digest == manifest.digest
    assert sorted(file.name for file in path.parent.iterdir()) == [path.name, f"{path.name}.json"]
    assert json.loads(Path(f"{path}.json").read_text(encoding="utf-8"))["root"] == "../images"


@given(
    names=st.lists(
        st
        .text(st.characters(exclude_categories=("Cc", "Cs")), min_size=1, max_size=12)
        .filter(lambda text: text == text.strip())
        .filter(lambda text: "\\" not in text and text[0] != "/" and text[1:2] != ":" and text != ".."),
        min_size=1,
        max_size=6,
        unique=True,
    ).filter(lambda names: all(".." not in name.split("/") for name in names))
)
def test_any_name_that_is_taken_survives_the_disk(tmp_path_factory, names):
    path = tmp_path_factory.mktemp("names") / "manifest.csv"
    frame = pd.DataFrame({"path": names, "patient_id": names[::-1], "label": "normal"})
    manifest = Manifest(frame, CLASSES, Provenance(), path.parent)
    write_manifest(manifest, path)
    assert read_manifest(path).frame.equals(manifest.frame)


def test_a_folder_with_manifest_and_images_can_be_moved(tmp_path):
    (tmp_path / "here").mkdir()
    manifest = Manifest(table(), CLASSES, Provenance(), tmp_path / "here")
    write_manifest(manifest, tmp_path / "here" / "manifest.csv")
    (tmp_path / "here").rename(tmp_path / "there")
    assert read_manifest(tmp_path / "there" / "manifest.csv").root == tmp_path / "there"


def test_a_hand_written_table_with_semicolons_and_decimal_commas_is_read(tmp_path):
    path = tmp_path / "hand.csv"
    path.write_bytes("path;label;patient_id;mpp\nä.png;tumour;001;0,25\nb.png;normal;NA;\n".encode("utf-8-sig"))
    manifest = read_manifest(path)
    assert manifest.frame["patient_id"].tolist() == ["001", "NA"]
    assert manifest.frame["mpp"].tolist() == [0.25, pd.NA]
    assert manifest.classes == ("normal", "tumour")
    assert manifest.root == tmp_path


def test_a_refusal_of_a_file_names_the_file_and_the_row(tmp_path):
    path = tmp_path / "hand.csv"
    path.write_text("path,label\na.png,normal\nb.png,\n", encoding="utf-8")
    with pytest.raises(ManifestError, match=r"hand\.csv: row 2 \(image_id 'b\.png'\): label '' is empty"):
        read_manifest(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not JSON"),
        ("[]", "must be an object"),
        ('{"class": ["a", "b"]}', "must be an object with no key but"),
        ('{"classes": "tumour"}', "classes must be a list of names"),
        ('{"root": 3}', "root must be the name of a folder"),
        ('{"provenance": {"synthetic": "no"}}', "synthetic is 'no'"),
        ('{"provenance": {"license": "CC0"}}', "provenance must be an object"),
        ('{"classes": ["normal", "cancer"]}', "label 'tumour' is not among the classes"),
    ],
)
def test_a_faulty_file_beside_the_table_is_refused_with_its_name(tmp_path, content, message):
    path = tmp_path / "manifest.csv"
    path.write_text("path,label\na.png,normal\nb.png,tumour\n", encoding="utf-8")
    Path(f"{path}.json").write_text(content, encoding="utf-8")
    with pytest.raises(ManifestError, match=message) as refusal:
        read_manifest(path)
    assert str(path) in str(refusal.value)


def test_a_file_that_is_no_parquet_is_refused_with_its_name(tmp_path):
    path = tmp_path / "manifest.parquet"
    path.write_bytes(b"path,label\n")
    with pytest.raises(ManifestError, match=r"manifest\.parquet: is not a Parquet table"):
        read_manifest(path)
    with pytest.raises(ManifestError, match=r"absent\.parquet: cannot be read"):
        read_manifest(tmp_path / "absent.parquet")


def test_whole_numbers_of_a_parquet_become_ids(tmp_path):
    path = tmp_path / "manifest.parquet"
    pd.DataFrame({"path": ["a", "b"], "label": ["n", "t"], "patient_id": [1, 2]}).to_parquet(path)
    assert read_manifest(path).groups.tolist() == ["1", "2"]


def test_a_manifest_is_written_only_under_a_suffix_that_says_what_it_is(tmp_path):
    with pytest.raises(ExportError, match=r"written as \.csv or \.parquet, not \.xlsx"):
        write_manifest(manifest_of(), tmp_path / "manifest.xlsx")
    write_manifest(manifest_of(), tmp_path / "new" / "manifest.csv")
    assert (tmp_path / "new" / "manifest.csv").is_file()
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ExportError, match="cannot be written"):
        write_manifest(manifest_of(), tmp_path / "file" / "manifest.csv")


def test_a_full_disk_leaves_what_was_there_before(tmp_path, monkeypatch):
    path = tmp_path / "manifest.csv"
    write_manifest(manifest_of(), path)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}

    def no_room(_descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(manifest_module.os, "fsync", no_room)
    with pytest.raises(ExportError, match=r"manifest\.csv: cannot be written \(No space left"):
        write_manifest(manifest_of().select([0, 1]), path)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before
