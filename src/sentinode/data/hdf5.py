"""Arrays of HDF5 files from elsewhere: what lies in the file itself, and nothing that it points to outside."""

import h5py

from sentinode.errors import ManifestError

__all__ = ["array_in"]


def array_in(file: h5py.File, name: str) -> h5py.Dataset | None:
    """Find an array of a file, in the file.

    HDF5 can link to objects of other files, assemble arrays from them (virtual), and keep bytes in plain files
    (external): a file from elsewhere would show what lies on this machine.

    Parameters
    ----------
    file : h5py.File
        Open.
    name : str
        Of the array.

    Returns
    -------
    h5py.Dataset or None
        None where there is nothing of that name, or no array.

    Raises
    ------
    ManifestError
        If it lies in another file.

    Examples
    --------
    >>> with h5py.File("x.h5", "w", driver="core", backing_store=False) as file:
    ...     file["x"] = [1, 2]
    ...     array_in(file, "x").shape, array_in(file, "y")
    ((2,), None)
    """
    if not isinstance(file.get(name, getlink=True), h5py.ExternalLink):  # not even opened
        item = file.get(name)
        if not isinstance(item, h5py.Dataset):
            return None
        if item.file.filename == file.filename and not item.is_virtual and not item.external:
            return item
    raise ManifestError(
        f"{file.filename}: {name!r} lies in another file, which is not read; write a file that holds it itself"
    )
