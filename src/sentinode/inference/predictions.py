"""What a model said of the tiles of a slide: one table, which everything after it reads; no slide, no torch."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from sentinode.errors import ExportError, ManifestError
from sentinode.geometry import Scale, Size
from sentinode.storage import whole_file

__all__ = ["TilePredictions", "read_predictions", "write_predictions"]

_KEY = b"sentinode"
_TYPICALITY = ("typicality", "typicality_structure")
FORMAT = "sentinode-tile-predictions"
VERSION = 1


@dataclass(frozen=True, eq=False)
class TilePredictions:
    """The probabilities of the tiles of a slide.

    Parameters
    ----------
    boxes : (n, 4) int64
        x, y, width, height in level-0 pixels.
    proba : (n, k) float32
        Columns as `classes`; NaN in the rows of tiles that were not recognised (see `flag`).
    classes : tuple of str
        The one that is looked for last.
    tile_px : int
        Side of a tile as the model saw it.
    mpp : float
        Of the tiles.
    slide_id : str
        Stem of the slide's file.
    slide_size : Size
        Level 0.
    slide_mpp : float
        Of level 0.
    fingerprint : str
        Of the slide's content.
    model : str
        Digest of the bundle.
    tissue : (n,) float32
        Share of each tile that is tissue.
    flag : (n,) str
        Why a tile was left out, e.g. ``"blur"``; ``""`` for those that were recognised.
    typicality : (n, 2) float32, optional
        P-value of each tile among those of training patients, in all that it looks like and in its structure alone;
        NaN where it was left out or the model cannot say. None in tables of an older Sentinode.
    spared : (n,) bool, optional
        Which tiles the model did not see, because a first look called them unsuspicious; None: it saw all.
    facts : mapping
        Whatever else the run wrote down: where the mpp is from, settings, versions.
    """

    boxes: NDArray[np.int64]
    proba: NDArray[np.float32]
    classes: tuple[str, ...]
    tile_px: int
    mpp: float
    slide_id: str
    slide_size: Size
    slide_mpp: float
    fingerprint: str
    model: str
    tissue: NDArray[np.float32]
    flag: NDArray[np.str_]
    facts: Mapping[str, Any] = field(default_factory=dict)
    typicality: NDArray[np.float32] | None = None
    spared: NDArray[np.bool_] | None = None

    def __len__(self) -> int:
        return len(self.boxes)

    @property
    def scale(self) -> Scale:
        """Converts level-0 pixels and micrometres."""
        return Scale(self.slide_mpp)

    @property
    def positive(self) -> NDArray[np.float32]:
        """(n,) probability of the class that is looked for; NaN where a tile was not recognised."""
        return self.proba[:, -1]

    @property
    def recognised(self) -> NDArray[np.bool_]:
        """(n,) which tiles were recognised."""
        return np.asarray(self.flag == "")


def write_predictions(predictions: TilePredictions, path: Path) -> None:
    """Write the table as Parquet, with everything about it in the file's own metadata.

    Parameters
    ----------
    predictions : TilePredictions
        Them.
    path : Path
        Of the ``.parquet`` file.

    Raises
    ------
    ExportError
        If it cannot be written.
    """
    columns: dict[str, Any] = {
        name: predictions.boxes[:, place] for place, name in enumerate(("x", "y", "width", "height"))
    }
    columns |= {f"proba_{name}": predictions.proba[:, place] for place, name in enumerate(predictions.classes)}
    columns |= {"tissue": predictions.tissue, "flag": pa.array(predictions.flag.tolist(), pa.string())}
    if predictions.typicality is not None:
        columns |= {name: predictions.typicality[:, place] for place, name in enumerate(_TYPICALITY)}
    if predictions.spared is not None:
        columns["spared"] = predictions.spared
    known = {
        "format": FORMAT,
        "version": VERSION,
        "classes": list(predictions.classes),
        "tile_px": predictions.tile_px,
        "mpp": predictions.mpp,
        "slide_id": predictions.slide_id,
        "slide_size": [predictions.slide_size.width, predictions.slide_size.height],
        "slide_mpp": predictions.slide_mpp,
        "fingerprint": predictions.fingerprint,
        "model": predictions.model,
        "facts": dict(predictions.facts),
    }
    table = pa.table(columns).replace_schema_metadata({_KEY: json.dumps(known, sort_keys=True)})
    try:
        with whole_file(path) as part:
            pq.write_table(table, part, compression="zstd")
    except OSError as error:
        raise ExportError(f"{path}: cannot be written ({error.strerror or error}); make room") from error


def read_predictions(path: Path | str) -> TilePredictions:
    """Read the table.

    Parameters
    ----------
    path : Path or str
        As `write_predictions` wrote it.

    Returns
    -------
    TilePredictions
        Equal to what was written.

    Raises
    ------
    ManifestError
        If it cannot be read, or is another table.
    """
    path = Path(path)
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise ManifestError(
            f"{path}: cannot be read ({str(error).splitlines()[0]}); predict the slide again"
        ) from error
    stated = (table.schema.metadata or {}).get(_KEY)
    known = {} if stated is None else json.loads(stated)
    if known.get("format") != FORMAT or known.get("version") != VERSION:
        raise ManifestError(f"{path}: is no table of tile predictions of this Sentinode; predict the slide again")
    classes = tuple(known["classes"])
    typicality = [table[name].to_numpy() for name in _TYPICALITY if name in table.column_names]
    return TilePredictions(
        boxes=np.column_stack([table[name].to_numpy() for name in ("x", "y", "width", "height")]).astype(np.int64),
        proba=np.column_stack([table[f"proba_{name}"].to_numpy() for name in classes]).astype(np.float32),
        classes=classes,
        tile_px=int(known["tile_px"]),
        mpp=float(known["mpp"]),
        slide_id=str(known["slide_id"]),
        slide_size=Size(*known["slide_size"]),
        slide_mpp=float(known["slide_mpp"]),
        fingerprint=str(known["fingerprint"]),
        model=str(known["model"]),
        tissue=table["tissue"].to_numpy().astype(np.float32),
        flag=np.array(table["flag"].to_pylist(), dtype=np.str_),
        facts=known["facts"],
        typicality=np.column_stack(typicality).astype(np.float32) if typicality else None,
        spared=table["spared"].to_numpy() if "spared" in table.column_names else None,
    )
