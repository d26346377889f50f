"""Loading what runs graphs, and nothing beside it."""

import importlib
import sys
from types import ModuleType
from typing import cast

__all__ = ["quiet_import"]


def quiet_import(name: str) -> ModuleType:
    """Import an engine without its telemetry: OpenVINO reports each import to its makers where it finds that package.

    Parameters
    ----------
    name : str
        Of the module.

    Returns
    -------
    module

    Raises
    ------
    ImportError
        If it is not installed, or cannot be loaded.
    """
    sys.modules.setdefault("openvino_telemetry", cast("ModuleType", None))  # None: as if it were not installed
    return importlib.import_module(name)
