"""Tiles as a CSV with the header that WSInfer writes and others read: ``minx,miny,width,height,prob_<Class>``."""

from pathlib import Path

import pandas as pd

from sentinode.errors import ExportError
from sentinode.inference.predictions import TilePredictions
from sentinode.storage import whole_file

__all__ = ["write_tile_csv"]


def write_tile_csv(predictions: TilePredictions, path: Path) -> None:
    """Write the recognised tiles, in level-0 pixels.

    Parameters
    ----------
    predictions : TilePredictions
        Of a slide.
    path : Path
        Of the ``.csv``.

    Raises
    ------
    ExportError
        If it cannot be written.
    """
    known = predictions.recognised
    columns = {name: predictions.boxes[known, place] for place, name in enumerate(("minx", "miny", "width", "height"))}
    columns |= {f"prob_{name}": predictions.proba[known, place] for place, name in enumerate(predictions.classes)}
    if predictions.spared is not None:  # not shown to the model: their probability is a stand-in
        columns["spared"] = predictions.spared[known].astype(int)
    try:
        with whole_file(path) as part:
            pd.DataFrame(columns).to_csv(part, index=False, lineterminator="\n", float_format="%.6f")
    except OSError as error:
        raise ExportError(f"{path}: cannot be written ({error.strerror or error}); make room") from error
