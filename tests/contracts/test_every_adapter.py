"""What every layout of data sets must keep; a new line in ADAPTERS needs a builder here."""

import importlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import h5py
import numpy as np
import pytest
from PIL import Image

from sentinode.data.adapters import ADAPTERS, import_manifest
from sentinode.data.manifest import Manifest, read_manifest, write_manifest
from sentinode.data.patches import PatchSource, find_faults
from sentinode.errors import ManifestError
from sentinode.seeds import stream


def patch(number):
    return stream(1, "adapter", number).integers(0, 256, (8, 8, 3)).astype(np.uint8)


def build_kaggle(root: Path) -> None:
    (root / "train").mkdir()
    for number in range(6):
        Image.fromarray(patch(number)).save(root / "train" / f"i{number}.tif")
    lines = [f"i{number},{number % 2}" for number in range(6)]
    (root / "train_labels.csv").write_text("id,label\n" + "\n".join(lines), encoding="utf-8")
    owners = [f"i{number},w{number // 2}" for number in range(6)]
    (root / "patch_id_wsi.csv").write_text("id,wsi\n" + "\n".join(owners), encoding="utf-8")


def build_h5(root: Path) -> None:
    stem = root / "camelyonpatch_level_2_split_valid"
    with h5py.File(f"{stem}_x.h5", "w") as file:
        file["x"] = np.stack([patch(number) for number in range(6)])
    with h5py.File(f"{stem}_y.h5", "w") as file:
        file["y"] = np.array([0, 1] * 3, np.uint8).reshape(6, 1, 1, 1)


def build_folder(root: Path) -> None:
    for number in range(6):
        folder = root / ("normal", "tumour")[number % 2]
        folder.mkdir(exist_ok=True)
        Image.fromarray(patch(number)).save(folder / f"i{number}.png")


def feature(number):
    return stream(1, "adapter", number).normal(size=8).astype(np.float32)


def build_features(root: Path) -> None:
    for slide in range(6):
        with h5py.File(root / f"s{slide}.h5", "w") as file:
            file["features"] = feature(slide)[None]
            file["coords"] = np.array([[0, 0]])
    lines = [f"s{slide},p{slide // 2},{('normal', 'tumour')[slide % 2]}" for slide in range(6)]
    (root / "labels.csv").write_text("slide_id,patient_id,label\n" + "\n".join(lines), encoding="utf-8")


BUILDERS = {"features": build_features, "kaggle-pcam": build_kaggle, "pcam-h5": build_h5, "folder": build_folder}


def bring_in(name, root):
    """Import with what a layout cannot do without."""
    return import_manifest(name, root, **({"labels": root / "labels.csv"} if name == "features" else {}))


def shown(name):
    """What the six rows of a layout hold."""
    return [(feature(number)[None] if name == "features" else patch(number)).tobytes() for number in range(6)]


@pytest.fixture(params=sorted(ADAPTERS))
def layout(request, tmp_path):
    root = tmp_path / "set"
    root.mkdir()
    BUILDERS[request.param](root)
    return request.param, root


def test_it_gives_a_manifest_with_two_classes_and_a_source(layout):
    name, root = layout
    manifest = bring_in(name, root)
    assert isinstance(manifest, Manifest)
    assert len(manifest) == 6
    assert set(manifest.frame["label"]) == set(manifest.classes)
    assert manifest.provenance.source
    assert len(manifest.provenance.sha256) == 64
    assert not manifest.provenance.synthetic


def test_every_image_it_names_is_there_with_its_own_pixels(layout):
    name, root = layout
    manifest = bring_in(name, root)
    assert find_faults(manifest) == ()
    drawn = set(shown(name))
    assert {pixels.tobytes() for pixels in PatchSource(manifest)} == drawn


def test_labels_stand_at_the_right_images(layout):
    name, root = layout
    manifest = bring_in(name, root)
    odd = set(shown(name)[1::2])
    for pixels, code in zip(PatchSource(manifest), manifest.codes, strict=True):
        assert (pixels.tobytes() in odd) == (code == 1)


def test_it_survives_the_disk(layout, tmp_path):
    name, root = layout
    manifest = bring_in(name, root)
    write_manifest(manifest, tmp_path / "manifest.csv")
    assert read_manifest(tmp_path / "manifest.csv").digest == manifest.digest
    assert np.array_equal(PatchSource(read_manifest(tmp_path / "manifest.csv"))[:], PatchSource(manifest)[:])


def test_the_order_in_which_the_disk_lists_files_does_not_matter(layout, monkeypatch):
    name, root = layout
    before = bring_in(name, root).frame
    listdir, scandir = os.listdir, os.scandir

    class Backwards:
        def __init__(self, *given: str) -> None:
            with scandir(*given) as entries:
                self.entries = iter(list(entries)[::-1])

        def __iter__(self) -> Iterator[os.DirEntry[str]]:
            return self.entries

        def __next__(self) -> os.DirEntry[str]:
            return next(self.entries)

        def __enter__(self) -> Self:
            return self

        def __exit__(self, *_: object) -> None:
            return None

    monkeypatch.setattr(os, "listdir", lambda *given: listdir(*given)[::-1])
    monkeypatch.setattr(os, "scandir", Backwards)
    assert bring_in(name, root).frame.equals(before)


def test_it_changes_nothing_in_the_folder(layout):
    name, root = layout
    before = {file: file.stat().st_mtime_ns for file in root.rglob("*")}
    bring_in(name, root)
    assert {file: file.stat().st_mtime_ns for file in root.rglob("*")} == before


@pytest.mark.parametrize("name", sorted(ADAPTERS))
def test_an_empty_folder_is_refused_in_a_line_or_two_that_name_it(name, tmp_path):
    with pytest.raises(ManifestError) as refusal:
        import_manifest(name, tmp_path)
    assert str(tmp_path) in str(refusal.value)
    assert str(refusal.value).count("\n") <= 1


@pytest.mark.parametrize("name", sorted(ADAPTERS))
def test_its_documentation_shows_the_layout(name):
    module = importlib.import_module(ADAPTERS[name])
    assert "ROOT/" in module.__doc__
    assert module.__all__ == ["manifest"]
