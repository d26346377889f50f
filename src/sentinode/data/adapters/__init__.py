"""Layouts of data sets on disk, one module each: ``manifest(root, **options) -> Manifest``."""

import importlib
import inspect
from pathlib import Path

from sentinode.data.manifest import Manifest
from sentinode.errors import ManifestError

__all__ = ["ADAPTERS", "adapter_options", "import_manifest"]

ADAPTERS: dict[str, str] = {
    "kaggle-pcam": "sentinode.data.adapters.kaggle_pcam",
    "pcam-h5": "sentinode.data.adapters.pcam_h5",
    "folder": "sentinode.data.adapters.folder",
    "features": "sentinode.data.adapters.features",
}


def import_manifest(name: str, root: Path | str, **options: object) -> Manifest:
    """Make the manifest of a data set on disk; no pixel is decoded.

    Parameters
    ----------
    name : str
        A key of ``ADAPTERS``.
    root : Path or str
        The folder that holds the data set.
    **options : object
        What the layout takes; see ``adapter_options``.

    Returns
    -------
    Manifest
        Rows in an order that does not depend on the order of the folder.

    Raises
    ------
    ManifestError
        If the layout or an option is unknown, or the folder does not hold what the layout says.
    """
    known = adapter_options(name)
    for option in options:
        if option not in known:
            raise ManifestError(f"{name} has no option {option!r}; it takes {', '.join(known) or 'none'}")
    folder = Path(root)
    if not folder.is_dir():
        raise ManifestError(f"{folder}: is not a folder; name the one that holds the data set")
    made: Manifest = importlib.import_module(ADAPTERS[name]).manifest(folder, **options)
    return made


def adapter_options(name: str) -> tuple[str, ...]:
    """Name the options of a layout.

    Parameters
    ----------
    name : str
        A key of ``ADAPTERS``.

    Returns
    -------
    tuple of str
        In the order of the adapter's signature.

    Raises
    ------
    ManifestError
        If there is no such layout.

    Examples
    --------
    >>> adapter_options("kaggle-pcam")
    ()
    """
    if name not in ADAPTERS:
        raise ManifestError(f"there is no layout {name!r}; the layouts are {', '.join(sorted(ADAPTERS))}")
    signature = inspect.signature(importlib.import_module(ADAPTERS[name]).manifest)
    return tuple(parameter for parameter in signature.parameters if parameter != "root")
