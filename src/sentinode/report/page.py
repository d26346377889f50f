"""One self-contained HTML page: text, figures, tables and pictures, nothing fetched from anywhere.

Every text is escaped; a page allows no script and no address (Content-Security-Policy), so that a file name
from a slide can do no harm in it.
"""

import base64
import io
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import jinja2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sentinode.errors import ExportError
from sentinode.storage import write_whole

__all__ = [
    "Drawing",
    "Gallery",
    "Link",
    "Page",
    "Picture",
    "Section",
    "TextTable",
    "picture",
    "render_page",
    "write_page",
]


@dataclass(frozen=True)
class Drawing:
    """A figure of ours as SVG text, and the line below it."""

    svg: str
    caption: str


@dataclass(frozen=True)
class Link:
    """A cell that leads to a file beside the page."""

    text: str
    path: str

    @property
    def href(self) -> str:
        """The relative address, with every sign escaped that an address cannot hold."""
        return quote(self.path)


@dataclass(frozen=True)
class TextTable:
    """A table whose cells are already words, or links; ``strong`` are the rows that stand out (positions)."""

    header: tuple[str, ...]
    rows: tuple[tuple[str | Link, ...], ...]
    caption: str = ""
    strong: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Picture:
    """An image inside the page: a ``data:`` address and the line below it."""

    data: str
    caption: str


@dataclass(frozen=True)
class Gallery:
    """Pictures under a title, each shown ``width`` px wide."""

    title: str
    pictures: tuple[Picture, ...]
    width: int = 112


@dataclass(frozen=True)
class Section:
    """A part of the page; what it does not have is empty."""

    title: str
    text: str = ""
    figures: tuple[Drawing, ...] = ()
    tables: tuple[TextTable, ...] = ()
    galleries: tuple[Gallery, ...] = ()


@dataclass(frozen=True)
class Page:
    """All that stands on a page."""

    title: str
    lead: str
    badges: tuple[str, ...]
    notes: tuple[str, ...]
    sections: tuple[Section, ...]
    footer: tuple[tuple[str, str], ...]


def picture(pixels: NDArray[np.uint8], caption: str, *, exact: bool = True) -> Picture:
    """Put an image into the page itself.

    Parameters
    ----------
    pixels : (h, w, 3) uint8
        RGB.
    caption : str
        The line below it.
    exact : bool
        False for an overview of photographed tissue, which was made smaller anyway: a fifth of the bytes.

    Returns
    -------
    Picture
        As PNG: what the pathologist sees is what the recogniser saw, to the pixel. As JPEG where it is not exact.

    Examples
    --------
    >>> picture(np.zeros((2, 2, 3), np.uint8), "black").data[:22]
    'data:image/png;base64,'
    """
    out, image = io.BytesIO(), Image.fromarray(pixels)
    if exact:
        image.save(out, format="PNG", compress_level=1)  # photographs hardly get smaller by more, and take long
    else:
        image.save(out, format="JPEG", quality=90, subsampling=0)
    kind = "png" if exact else "jpeg"
    return Picture(f"data:image/{kind};base64," + base64.b64encode(out.getvalue()).decode("ascii"), caption)


def render_page(page: Page) -> str:
    """Turn a page into HTML.

    Parameters
    ----------
    page : Page
        What stands on it.

    Returns
    -------
    str
        A whole HTML document; the same page gives the same text.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("sentinode.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html.j2").render(page=page)


def write_page(page: Page, path: Path) -> None:
    """Write a page to a file: whole, or not at all.

    Parameters
    ----------
    page : Page
        What stands on it.
    path : Path
        An existing file there is replaced.

    Raises
    ------
    ExportError
        If the file cannot be written.
    """
    try:
        write_whole(path, render_page(page))
    except OSError as fault:
        raise ExportError(
            f"{path}: the page cannot be written ({fault.strerror}); make room or choose another folder"
        ) from None
