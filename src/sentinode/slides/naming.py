"""What a slide is called: the name of its file without the suffix of its format, and nothing else cut away.

Names have dots of their own (``TCGA-A1-01Z-00-DX1.8F2C.svs``), so only a suffix that is known is taken off. Everything
that looks a slide up by its name (tables, drawings, results) does it by this one function.
"""

from pathlib import Path

__all__ = ["SLIDE_SUFFIXES", "is_slide_name", "slide_id_of"]

SLIDE_SUFFIXES = (
    ".ome.tiff",
    ".ome.tif",
    ".svslide",
    ".svs",
    ".ndpi",
    ".bif",
    ".scn",
    ".mrxs",
    ".vms",
    ".vmu",
    ".czi",
    ".dcm",
    ".tiff",
    ".tif",
    ".btf",
    ".png",
    ".jpeg",
    ".jpg",
    ".bmp",
)
"""Of the formats that are read; a longer one before what it ends in."""


def slide_id_of(name: Path | str) -> str:
    """Name a slide after its file.

    Parameters
    ----------
    name : Path or str
        A path, the name of a file, or an id already.

    Returns
    -------
    str
        Without folders, and without a suffix of `SLIDE_SUFFIXES`, in capitals or not.

    Examples
    --------
    >>> slide_id_of("scans/case 7.ome.TIF"), slide_id_of("S12.1.svs"), slide_id_of("S12.1")
    ('case 7', 'S12.1', 'S12.1')
    """
    file = Path(name).name
    suffix = next((one for one in SLIDE_SUFFIXES if file.lower().endswith(one) and len(file) > len(one)), "")
    return file[: len(file) - len(suffix)]


def is_slide_name(name: str) -> bool:
    """Tell whether a file is called like a slide.

    Parameters
    ----------
    name : str
        Of the file.

    Returns
    -------
    bool
        False for hidden files.
    """
    return name.lower().endswith(SLIDE_SUFFIXES) and not name.startswith(".")
