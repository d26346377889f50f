"""PatchCamelyon as its authors give it: HDF5 files of images and of labels for each official part.

::

    ROOT/camelyonpatch_level_2_split_train_x.h5       x: (n, 96, 96, 3) uint8      also valid, test
    ROOT/camelyonpatch_level_2_split_train_y.h5       y: (n, 1, 1, 1) uint8        1 = tumour
    ROOT/camelyonpatch_level_2_split_train_meta.csv   optional: one line an image; the column wsi is read

Whichever of the three parts are there are taken. The part is kept as the first word of the image id
(``train-000017`` is row 17 of the training part). Source and resolution: see ``kaggle_pcam``, which is a
selection of these images.
"""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import h5py
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sentinode.data.hdf5 import array_in
from sentinode.data.manifest import Manifest, Provenance
from sentinode.data.tables import read_table
from sentinode.errors import ManifestError

__all__ = ["manifest"]

Taken = TypeVar("Taken")

_PARTS = ("train", "valid", "test")
_CLASSES = ("normal", "tumour")
_MPP = 0.972


def manifest(root: Path) -> Manifest:
    """Make the manifest of a folder of the official PatchCamelyon files.

    Parameters
    ----------
    root : Path
        The folder that holds the ``.h5`` files, unpacked.

    Returns
    -------
    Manifest
        Parts in the order train, valid, test, rows as in the arrays; classes normal and tumour; patient =
        slide where there is a ``_meta.csv``, else ``""``. ``provenance.sha256`` is the digest of the labels
        and slides.

    Raises
    ------
    ManifestError
        If no part is there, a file of a part is missing, packed or damaged, or its images, labels and lines
        of ``_meta.csv`` differ in number.
    """
    parts = [part for part in _PARTS if _file(root, part, "x.h5").exists()]
    if not parts:
        packed = sorted(file.name for file in root.glob("camelyonpatch_*_x.h5.gz"))
        hint = f"unpack {packed[0]} first (gunzip)" if packed else f"expected {_file(root, 'train', 'x.h5').name}"
        raise ManifestError(f"{root}: there is no PatchCamelyon array in it; {hint}")
    frame = pd.concat([_part(root, part) for part in parts], ignore_index=True)
    told = frame[["image_id", "label", "slide_id"]].to_csv(index=False)
    provenance = Provenance(
        source="PatchCamelyon (Veeling et al. 2018), official HDF5 files",
        licence="CC0-1.0",
        sha256=hashlib.sha256(told.encode()).hexdigest(),
    )
    return Manifest(frame, _CLASSES, provenance, root)


def _part(root: Path, part: str) -> pd.DataFrame:
    images, labels = _file(root, part, "x.h5"), _labels(_file(root, part, "y.h5"))
    n_images = _n_images(images)
    if n_images != len(labels):
        raise ManifestError(f"{images}: has {n_images} images, but there are {len(labels)} labels in its _y.h5")
    slides = _slides(_file(root, part, "meta.csv"), n_images)
    return pd.DataFrame({
        "image_id": [f"{part}-{row:06d}" for row in range(n_images)],
        "patient_id": slides,
        "slide_id": slides,
        "label": [_CLASSES[label] for label in labels.tolist()],
        "path": [f"{images.name}#{row}" for row in range(n_images)],
        "mpp": _MPP,
    })


def _file(root: Path, part: str, end: str) -> Path:
    return root / f"camelyonpatch_level_2_split_{part}_{end}"


def _n_images(path: Path) -> int:
    shape, kind = _array(path, "x", lambda array: (array.shape, array.dtype))
    if len(shape) != 4 or shape[3] != 3 or kind != np.uint8:
        raise ManifestError(f"{path}: x is {shape} {kind}; expected (n, 96, 96, 3) uint8")
    return int(shape[0])


def _labels(path: Path) -> NDArray[np.int64]:
    if not path.exists():
        packed = path.with_name(path.name + ".gz")
        hint = f"; unpack {packed.name} first (gunzip)" if packed.exists() else ""
        raise ManifestError(f"{path}: the labels are missing{hint}")
    labels: NDArray[np.int64] = _array(path, "y", lambda array: np.asarray(array[()], dtype=np.int64).ravel())
    for row in np.flatnonzero(~np.isin(labels, (0, 1)))[:1]:
        raise ManifestError(f"{path}: label {labels[row]} of row {row} is not 0 or 1")
    return labels


def _slides(path: Path, n_images: int) -> list[str]:
    if not path.exists():
        return [""] * n_images
    table = read_table(path)
    if "wsi" not in table:
        return [""] * n_images
    if len(table) != n_images:
        raise ManifestError(f"{path}: has {len(table)} lines for {n_images} images; is it of another part?")
    return table["wsi"].tolist()


def _array(path: Path, name: str, take: Callable[[h5py.Dataset], Taken]) -> Taken:
    try:
        with h5py.File(path, "r") as file:
            array = array_in(file, name)
            if array is None:
                raise ManifestError(f"{path}: has no array {name!r} in it; it has {', '.join(file) or 'nothing'}")
            return take(array)
    except (OSError, RuntimeError) as error:
        raise ManifestError(f"{path}: is not an HDF5 file, or is damaged ({error})") from error
