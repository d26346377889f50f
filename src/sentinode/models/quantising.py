"""A network's graph in int8, which some CPUs multiply quicker than anything else; and whether it is still the same.

Weights, and what goes from layer to layer, are rounded to at most 256 steps after the training (Jacob et al. 2018,
"Quantization and training of neural networks for efficient integer-arithmetic-only inference", CVPR). NNCF does that;
only who quantises needs it. The result is a file pair of OpenVINO, which runs it as it runs any graph.

Training tiles say how far the steps must reach. What was lost is measured on patients whom the network was not fitted
to: how far the log odds move, which takes no label, and how much AUC is lost, with an upper limit over patients.
"""

import contextlib
import io
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sentinode.errors import MissingExtra, ModelError
from sentinode.evaluation.bootstrap import Statistic, bootstrap_difference
from sentinode.models.engines import quiet_import

__all__ = [
    "AUC_LOSS",
    "FEWEST_PATIENTS",
    "LARGEST_CHANGE",
    "MEAN_CHANGE",
    "RANGING_TILES",
    "Closeness",
    "measure_closeness",
    "quantise_graph",
    "require_quantiser",
]

MEAN_CHANGE = 0.1
"""Mean change of the log odds up to which int8 is offered: of a probability 0.025 at most, about what bf16 may do."""

LARGEST_CHANGE = 1.0
"""Largest change of the log odds of a tile: its odds change by less than the factor e, 0.5 becomes at most 0.73."""

AUC_LOSS = 0.005
"""The upper limit of what is lost of the AUC must be below."""

LEVEL = 0.95
"""Of that limit, on one side."""

FEWEST_PATIENTS = 10
"""That the limit is taken from: of fewer, a bootstrap of patients says too little."""

RANGING_TILES = 300
"""That say how far the steps must reach: as many as NNCF takes by itself."""

_FURTHEST = 1e-6  # a probability nearer to 0 or 1 counts as this far away


@dataclass(frozen=True)
class Closeness:
    """How near the answers in int8 are to those in float32.

    Parameters
    ----------
    mean_change, largest_change : float
        Of the log odds of the class that is looked for.
    auc_loss : float
        AUC in float32 less AUC in int8, over all images; NaN where there is none.
    auc_loss_limit : float
        Upper limit of a one-sided 95 % interval over patients; NaN where they are too few.
    n_patients, n_images : int
        That it was measured on.
    """

    mean_change: float
    largest_change: float
    auc_loss: float
    auc_loss_limit: float
    n_patients: int
    n_images: int

    @property
    def refusal(self) -> str:
        """Why int8 is not offered, with the number that forbids it; ``""`` where it is."""
        if self.n_patients < FEWEST_PATIENTS:
            return f"{self.n_patients} patients are too few to say what is lost: {FEWEST_PATIENTS} are needed"
        if not np.isfinite(self.auc_loss_limit):
            return f"of {self.n_patients} patients too few have one of the classes: nobody can say what AUC is lost"
        if not self.mean_change <= MEAN_CHANGE:
            return f"the log odds move by {self.mean_change:.3g} on average, and {MEAN_CHANGE:g} is allowed"
        if not self.largest_change <= LARGEST_CHANGE:
            return f"the log odds of a tile move by {self.largest_change:.3g}, and {LARGEST_CHANGE:g} is allowed"
        if self.auc_loss_limit >= AUC_LOSS:
            return (
                f"up to {self.auc_loss_limit:.4f} of the AUC may be lost (95 %, over {self.n_patients} patients), and "
                f"it must be less than {AUC_LOSS:g}"
            )
        return ""


def measure_closeness(positive: ArrayLike, plain: ArrayLike, quick: ArrayLike, patient: ArrayLike) -> Closeness:
    """Hold the answers in int8 against those in float32.

    Parameters
    ----------
    positive : (n,) bool
        Which images have the class that is looked for.
    plain, quick : (n,) float
        Its probability in float32 and in int8, uncalibrated.
    patient : (n,) str
        Whose image it is; none whom the network was fitted to.

    Returns
    -------
    Closeness
        With its verdict.

    Raises
    ------
    ValueError
        If there is no image, or arrays differ in length.

    Examples
    --------
    >>> patient, positive = np.repeat([f"p{one}" for one in range(12)], 2), np.tile([True, False], 12)
    >>> plain = np.where(positive, 0.8, 0.3)
    >>> measure_closeness(positive, plain, plain + 0.01, patient).refusal
    ''
    >>> measure_closeness(positive, plain, plain + 0.1, patient).refusal
    'the log odds move by 0.626 on average, and 0.1 is allowed'
    """
    # ValueError is that of the bootstrap.
    before, after = np.asarray(plain, dtype=np.float64), np.asarray(quick, dtype=np.float64)
    found = bootstrap_difference(
        [(positive, before, patient)], [(positive, after, patient)], ["auc"], level=2 * LEVEL - 1
    )[Statistic("auc", "pooled")]
    change = np.abs(_log_odds(before) - _log_odds(after))
    return Closeness(
        mean_change=float(change.mean()),
        largest_change=float(change.max()),
        auc_loss=found.mean,
        auc_loss_limit=found.high,
        n_patients=found.n_patients,
        n_images=len(change),
    )


def require_quantiser() -> None:
    """Refuse where nothing can quantise, before hours of training and not after.

    Raises
    ------
    MissingExtra
        If NNCF, or OpenVINO that runs what it makes, cannot be loaded.
    """
    _quantiser()
    try:
        quiet_import("openvino")
    except (ImportError, OSError) as missing:
        raise MissingExtra("int8", "quantising a network") from missing


def quantise_graph(graph: Path, tiles: Iterable[NDArray[np.uint8]], out: Path) -> None:
    """Round a graph to int8.

    Parameters
    ----------
    graph : Path
        ONNX: ``tiles`` (n, h, w, 3) uint8 in, ``proba`` (n, k) out.
    tiles : iterable of (h, w, 3) uint8
        Of the training: what is larger within the network than it ever was for them is cut off.
    out : Path
        ``.xml`` to write; the weights lie beside it, in ``.bin``. Input and output as before.

    Raises
    ------
    MissingExtra
        If NNCF is not installed.
    ModelError
        If it cannot quantise this graph.
    MemoryError
        If there is too little.
    """
    # MissingExtra is _quantiser's.
    openvino, known = quiet_import("openvino"), [tile[np.newaxis] for tile in tiles]
    # NNCF writes bars and remarks to standard output, where a command may be writing JSON.
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        nncf = _quantiser()
        advanced = quiet_import("nncf.quantization.advanced_parameters")
        ranges = quiet_import("nncf.quantization.range_estimator").RangeEstimatorParametersSet
        try:
            rounded = nncf.quantize(
                openvino.Core().read_model(str(graph)),
                nncf.Dataset(known),
                subset_size=len(known),
                # The least and greatest of all tiles. NNCF's own way, the mean of what each tile has, cuts off what is
                # larger in half of them, which moves the log odds of the surest by several (docs/results/int8.md).
                advanced_parameters=advanced.AdvancedQuantizationParameters(
                    activations_range_estimator_params=ranges.MINMAX
                ),
            )
        except MemoryError:
            raise
        except Exception as error:  # NNCF raises what it likes, and a training of hours hangs on it
            raise ModelError(
                f"NNCF cannot quantise it ({' '.join(str(error).split()) or type(error).__name__})"
            ) from error
        openvino.save_model(rounded, str(out), compress_to_fp16=False)


def _quantiser() -> ModuleType:
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return quiet_import("nncf")
    except ModuleNotFoundError as missing:
        raise MissingExtra("int8", "quantising a network") from missing


def _log_odds(proba: NDArray[np.float64]) -> NDArray[np.float64]:
    bounded = proba.clip(_FURTHEST, 1 - _FURTHEST)
    return np.asarray(np.log(bounded) - np.log1p(-bounded))
