"""Arrays that lie in other files are refused, wherever HDF5 files are read."""

import h5py
import numpy as np
import pytest

from sentinode.data.adapters import features, pcam_h5
from sentinode.data.hdf5 import array_in
from sentinode.data.patches import PatchReader
from sentinode.errors import ManifestError


def external_link(file, _folder):
    file["x"] = h5py.ExternalLink("secret.h5", "x")


def through_a_group(file, _folder):
    file["group"] = h5py.ExternalLink("secret.h5", "/")
    file["x"] = h5py.SoftLink("/group/x")


def virtual(file, folder):
    layout = h5py.VirtualLayout((2, 8, 8, 3), np.uint8)
    layout[:] = h5py.VirtualSource(folder / "secret.h5", "x", (2, 8, 8, 3))
    file.create_virtual_dataset("x", layout)


def external_bytes(file, folder):
    (folder / "secret.raw").write_bytes(bytes(range(192)) * 2)
    file.create_dataset("x", (2, 8, 8, 3), np.uint8, external=[(folder / "secret.raw", 0, 384)])


@pytest.fixture(params=[external_link, through_a_group, virtual, external_bytes])
def outside(request, tmp_path):
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["x"] = np.full((2, 8, 8, 3), 7, np.uint8)
    with h5py.File(tmp_path / "patches.h5", "w") as file:
        request.param(file, tmp_path)
    return tmp_path / "patches.h5"


def test_an_array_of_another_file_is_refused(outside):
    with h5py.File(outside) as file, pytest.raises(ManifestError, match=r"patches.h5: 'x' lies in another file"):
        array_in(file, "x")
    with PatchReader(outside.parent) as reader, pytest.raises(ManifestError, match="lies in another file"):
        reader.read("patches.h5#0")


def test_the_adapters_refuse_it_too(tmp_path):
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["features"] = np.ones((4, 3), np.float32)
    (tmp_path / "in").mkdir()
    for name, key in (("s1.h5", "features"), ("camelyonpatch_level_2_split_train_x.h5", "x")):
        with h5py.File(tmp_path / "in" / name, "w") as file:
            file[key] = h5py.ExternalLink(str(tmp_path / "secret.h5"), "features")
    (tmp_path / "in" / "labels.csv").write_text("slide_id,patient_id,label\ns1,p1,normal\n", encoding="utf-8")
    with pytest.raises(ManifestError, match="'features' lies in another file"):
        features.manifest(tmp_path / "in", labels=tmp_path / "in" / "labels.csv")
    with h5py.File(tmp_path / "in" / "camelyonpatch_level_2_split_train_y.h5", "w") as file:
        file["y"] = np.zeros((4, 1, 1, 1), np.uint8)
    with pytest.raises(ManifestError, match="'x' lies in another file"):
        pcam_h5.manifest(tmp_path / "in")
