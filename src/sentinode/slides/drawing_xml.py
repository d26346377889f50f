"""XML of drawings, which may come from anywhere and hold millions of points."""

import math
import re
from array import array
from dataclasses import dataclass, field
from pathlib import Path
from xml.parsers import expat

import numpy as np
from numpy.typing import NDArray

from sentinode.errors import ManifestError

__all__ = ["XmlElement", "parse_xml", "root_of"]


@dataclass(eq=False)
class XmlElement:
    """An element of an XML file, with the points in it as numbers: a drawing has millions of them.

    Parameters
    ----------
    tag : str
        Its name.
    attributes : dict of str to str
        As in the file.
    children : list of XmlElement
        All but points.
    numbers : array of float
        Order, x and y of each point; what is absent or no number is NaN.
    """

    tag: str
    attributes: dict[str, str]
    children: list["XmlElement"] = field(default_factory=list)
    numbers: "array[float]" = field(default_factory=lambda: array("d"))

    @property
    def points(self) -> NDArray[np.float64]:
        """(n, 2) x and y, in their stated order where each has one."""
        table = np.array(self.numbers, dtype=np.float64).reshape(-1, 3)
        if np.isfinite(table[:, 0]).all():
            table = table[np.argsort(table[:, 0], kind="stable")]
        return table[:, 1:]

    def get(self, attribute: str) -> str:
        """Look an attribute up.

        Parameters
        ----------
        attribute : str
            Its name.

        Returns
        -------
        str
            Without spaces around it; empty where it is absent.
        """
        return self.attributes.get(attribute, "").strip()

    def every(self, *path: str) -> list["XmlElement"]:
        """List the elements at the end of a path.

        Parameters
        ----------
        *path : str
            Names, from the children on.

        Returns
        -------
        list of XmlElement
            In the order of the file.
        """
        found = [self]
        for tag in path:
            found = [child for element in found for child in element.children if child.tag == tag]
        return found


def root_of(head: str) -> str:
    """Say what the outermost element of an XML file is.

    Parameters
    ----------
    head : str
        How the file begins.

    Returns
    -------
    str
        Its name; empty where that is no XML.
    """
    if not head.lstrip().startswith("<"):
        return ""
    found = re.search(r"<([A-Za-z_][\w.:-]*)", re.sub(r"<!--.*?-->|<\?.*?\?>", "", head, flags=re.DOTALL))
    return found.group(1) if found else ""


def parse_xml(content: bytes, source: Path, point: str) -> XmlElement:
    """Parse an XML file that may come from anywhere.

    Parameters
    ----------
    content : bytes
        The whole file.
    source : Path
        For messages.
    point : str
        Name of the elements that are points, with the attributes X, Y and perhaps Order.

    Returns
    -------
    XmlElement
        The outermost one.

    Raises
    ------
    ManifestError
        If it is damaged, or declares a document type: entities can blow a file up, or name other files, and no
        drawing needs them.
    """
    top = XmlElement("", {})
    opened = [top]

    def start(tag: str, attributes: dict[str, str]) -> None:
        if tag == point:
            numbers = (attributes.get("Order"), attributes.get("X"), attributes.get("Y"))
            opened[-1].numbers.extend([_number(text) for text in numbers])
            opened.append(XmlElement(tag, {}))
            return
        element = XmlElement(tag, attributes)
        opened[-1].children.append(element)
        opened.append(element)

    def end(_tag: str) -> None:
        opened.pop()

    def refuse(*_declaration: object) -> None:
        raise ManifestError(f"{source}: declares a document type (DTD), which no drawing needs; remove it")

    parser = expat.ParserCreate()
    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.StartDoctypeDeclHandler = refuse
    parser.EntityDeclHandler = refuse
    try:
        parser.Parse(content, True)  # noqa: FBT003 - expat knows this argument by its place only
    except (expat.ExpatError, LookupError, ValueError) as error:
        raise ManifestError(f"{source}: is not whole XML ({error}); export it again") from error
    if not top.children:
        raise ManifestError(f"{source}: holds nothing but a point; export it again")
    return top.children[0]


def _number(text: str | None) -> float:
    if text is None:
        return math.nan
    try:
        return float(text)
    except ValueError:
        pass
    try:
        return float(text.replace(",", "."))  # ImageScope writes as the country does
    except ValueError:
        return math.nan
