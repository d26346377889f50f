"""The table of export formats: a format is a file in this package and a line here."""

import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import cast

from sentinode.errors import PlanError
from sentinode.inference.predictions import TilePredictions

__all__ = ["EXPORTS", "Writer", "export_writer"]

Writer = Callable[[TilePredictions, Path], None]
"""Writes the predictions of a slide to a file, whole or not at all; raises ExportError."""

EXPORTS: Mapping[str, tuple[str, str]] = MappingProxyType({
    "csv": ("sentinode.export.tile_csv:write_tile_csv", ".csv"),
    "geojson-tiles": ("sentinode.export.qupath:write_tile_geojson", "-tiles.geojson.gz"),
    "geojson-regions": ("sentinode.export.qupath:write_region_geojson", "-regions.geojson"),
})
"""Format -> (``"module:function"``, what follows the slide's id in the name of the file)."""


def export_writer(name: str) -> Writer:
    """Find the function that writes a format.

    Parameters
    ----------
    name : str
        A key of `EXPORTS`.

    Returns
    -------
    callable
        (predictions, path) -> None.

    Raises
    ------
    PlanError
        If there is no such format.
    """
    if name not in EXPORTS:
        raise PlanError(f"there is no export {name!r}; known are: {', '.join(EXPORTS)}")
    module, function = EXPORTS[name][0].split(":")
    return cast("Writer", getattr(importlib.import_module(module), function))
