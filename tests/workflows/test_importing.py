"""From a folder to a manifest on disk."""

import pytest
from PIL import Image

from sentinode.data.manifest import read_manifest
from sentinode.errors import ExportError, ManifestError
from sentinode.workflows.importing import import_data


@pytest.fixture
def root(tmp_path):
    for name in ("normal/ann-1.png", "tumour/bo-1.png"):
        file = tmp_path / "set" / name
        file.parent.mkdir(parents=True)
        Image.new("RGB", (4, 4)).save(file)
    return tmp_path / "set"


def test_what_was_imported_is_what_is_on_disk(root, tmp_path):
    out = tmp_path / "manifest.csv"
    manifest = import_data("folder", root, out, patient_pattern=r"(\w+)-1", patients=None)
    assert manifest.groups.tolist() == ["ann", "bo"]
    assert read_manifest(out).digest == manifest.digest
    assert read_manifest(out).root == root


def test_a_refused_folder_writes_nothing(root, tmp_path):
    with pytest.raises(ManifestError):
        import_data("folder", root, tmp_path / "manifest.csv", patient_pattern="nobody")
    assert [file.name for file in tmp_path.iterdir()] == ["set"]


def test_a_folder_that_cannot_be_written_to_is_refused(root, tmp_path):
    (tmp_path / "absent").write_text("a file")
    with pytest.raises(ExportError, match="cannot be written"):
        import_data("folder", root, tmp_path / "absent" / "manifest.csv")
