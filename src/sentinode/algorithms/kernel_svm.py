"""Support vector machine on descriptors: the kernel method that the founding experiment names."""

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import ClassVar, Literal, Self, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, clone
from sklearn.metrics import pairwise_distances
from sklearn.metrics.pairwise import additive_chi2_kernel
from sklearn.preprocessing import MinMaxScaler, StandardScaler
from sklearn.svm import SVC, LinearSVC
from sklearn.utils.validation import check_is_fitted

from sentinode.algorithms.description import EpochRecord, LayerRow
from sentinode.algorithms.descriptors import Descriptors
from sentinode.algorithms.platt import LogisticCalibration, calibration_row, held_out_scores
from sentinode.algorithms.registry import PatchSequence
from sentinode.algorithms.samples import encode_labels
from sentinode.errors import PlanError
from sentinode.seeds import stream

__all__ = ["Kernel", "KernelSVM"]

Kernel = Literal["rbf", "laplacian", "chi2", "poly", "linear"]

_MEDIAN_OF = 500  # patches whose distances give the median: 125,000 pairs are plenty for one number
_ROWS_AT_A_TIME = 1000  # of kernel values against every training patch: 32 MB at 4,000 patches
_EIGENVALUE_FLOOR = 1e-10  # relative; directions of the landmarks below it are rounding errors


class KernelSVM(BaseEstimator):
    """Support vector machine on standardised descriptors.

    Kernels of two vectors u, v of d descriptors, with m the median over pairs of training patches:

    ========= ===================================================================
    rbf       exp(-|u - v|^2 / (width m)), m of the squared distances
    laplacian exp(-|u - v|_1 / (width m)), m of the city-block distances
    chi2      exp(-sum((u - v)^2 / (u + v)) / (width m)), on descriptors in 0..1
    poly      (u . v / d + 1)^degree
    linear    u . v / d
    ========= ===================================================================

    The median makes `width` mean the same for each kernel and set of descriptors; chi2 is the kernel of
    Zhang, Marszalek, Lazebnik and Schmid (2007, "Local features and kernels for classification of texture and
    object categories", IJCV 73:213-238, section 2.3), which takes width = 1. Above `nystroem_above` training
    patches the kernel matrix is replaced by the Nystroem features of a sample of landmarks (Williams and
    Seeger 2001, "Using the Nystroem method to speed up kernel machines", NIPS 13) and a linear machine, so
    that memory grows with n and not with n^2.

    Probabilities come from a logistic curve on held-out decision values (Platt 1999). Its folds know nothing
    of patients: see `sentinode.algorithms.platt`.

    Parameters
    ----------
    seed : int
        Shuffles the folds of the calibration, draws the landmarks.
    kernel : {"rbf", "laplacian", "chi2", "poly", "linear"}
        See the table.
    C : float
        Price of a training patch on the wrong side of the margin.
    width : float
        Of the kernel, in medians. Not used by poly and linear.
    degree : int
        Of poly.
    balance : bool
        Whether the rare class is weighted up to the weight of the others.
    descriptors : tuple of str
        Groups of numbers, see `sentinode.algorithms.descriptors.DESCRIPTORS`.
    nystroem_above : int
        Training patches up to which the kernel matrix is exact.
    landmarks : int
        Patches that span the Nystroem features.
    folds : int
        Folds of the calibration, at least 2.

    Attributes
    ----------
    classes_ : (k,) str
        Sorted labels.
    machine_ : KernelMachine
        What was learned.

    Examples
    --------
    >>> pale, dark = np.full((6, 32, 32, 3), 220, np.uint8), np.full((6, 32, 32, 3), 120, np.uint8)
    >>> patches = np.concatenate([pale, dark]) - np.arange(12, dtype=np.uint8)[:, None, None, None]
    >>> recogniser = KernelSVM(folds=2).fit(patches, ["normal"] * 6 + ["tumour"] * 6)
    >>> recogniser.classes_[recogniser.predict_proba(patches[[0, 11]]).argmax(axis=1)].tolist()
    ['normal', 'tumour']
    """

    SEARCH_SPACE: ClassVar[Mapping[str, tuple[object, ...]]] = MappingProxyType({
        "kernel": ("rbf", "laplacian", "chi2", "poly", "linear"),
        "C": (0.1, 0.3, 1.0, 3.0, 10.0, 30.0),
        "width": (0.5, 1.0, 2.0, 4.0),
        "descriptors": (
            ("stain", "lbp", "granulometry"),
            ("stain", "lbp"),
            ("colour", "stain", "lbp", "granulometry"),
        ),
    })

    def __init__(  # noqa: PLR0913 - the settings of a plan, each given by name
        self,
        seed: int = 1,
        kernel: Kernel = "rbf",
        C: float = 1.0,
        width: float = 1.0,
        degree: int = 3,
        balance: bool = True,  # noqa: FBT001, FBT002 - a setting of a plan, given by name
        descriptors: tuple[str, ...] = ("stain", "lbp", "granulometry"),
        nystroem_above: int = 4000,
        landmarks: int = 500,
        folds: int = 5,
    ) -> None:
        self.seed = seed
        self.kernel = kernel
        self.C = C
        self.width = width
        self.degree = degree
        self.balance = balance
        self.descriptors = descriptors
        self.nystroem_above = nystroem_above
        self.landmarks = landmarks
        self.folds = folds

    def fit(
        self,
        X: PatchSequence,
        y: ArrayLike,
        *,
        stop: tuple[PatchSequence, ArrayLike] | None = None,  # noqa: ARG002 - nothing is iterated here
        on_epoch: Callable[[EpochRecord], None] | None = None,  # noqa: ARG002 - as stop
        checkpoint: Path | None = None,  # noqa: ARG002 - as stop
    ) -> Self:
        """Find the support vectors.

        Parameters
        ----------
        X : (n, h, w, 3) uint8
            Patches of at least 16 px a side.
        y : (n,) str
            Labels.
        stop, on_epoch, checkpoint
            Not used: the solver has no epochs.

        Returns
        -------
        KernelSVM
            Itself, fitted.
        """
        self._require_settings()
        self.classes_, codes = encode_labels(X, y)
        self.descriptors_ = Descriptors(tuple(self.descriptors)).fit(X)
        vectors = self.descriptors_.transform(X)  # (n, d)
        scores = held_out_scores(
            lambda train, test: self._machine(vectors[train], codes[train]).decide(vectors[test]),
            codes,
            self.folds,
            self.seed,
        )
        self.calibration_ = LogisticCalibration().fit(scores, codes)
        self.machine_ = self._machine(vectors, codes)
        self.log_: tuple[EpochRecord, ...] = ()
        return self

    def predict_proba(self, X: PatchSequence) -> NDArray[np.float32]:
        """Give each patch a probability a class.

        Parameters
        ----------
        X : (n, h, w, 3) uint8
            Patches of the size seen in training.

        Returns
        -------
        (n, k) float32
            Columns as `classes_`; rows sum to 1.
        """
        check_is_fitted(self)
        return self.calibration_.proba(self.machine_.decide(self.descriptors_.transform(X)))

    def describe(self, size: tuple[int, int]) -> tuple[LayerRow, ...]:
        """Describe the steps.

        Parameters
        ----------
        size : tuple of int
            Height and width of the patches in pixels.

        Returns
        -------
        tuple of LayerRow
            Descriptors, standardisation, machine, calibration; for two classes before `fit`.
        """
        self._require_settings()
        d = len(Descriptors(tuple(self.descriptors)).get_feature_names_out())
        k = len(self.classes_) if hasattr(self, "classes_") else 2
        fitted = self.machine_.n_parameters if hasattr(self, "machine_") else 0
        kernel = f"{self.kernel}, one weight and {d} numbers a support vector; their count comes from the data"
        return (
            LayerRow(f"descriptors {', '.join(self.descriptors)}", f"{d}", 0, 0, f"of {size[0]} x {size[1]} px"),
            LayerRow("standardise", f"{d}", 2 * d, d),
            LayerRow("support vector machine", f"{1 if k == 2 else k}", fitted, fitted, kernel),
            calibration_row(k, 1 if k == 2 else k, self.folds),
        )

    def _machine(self, vectors: NDArray[np.float64], codes: NDArray[np.int64]) -> "KernelMachine":
        # A copy of the settings: a recogniser that held itself could not be written to a file.
        return KernelMachine(clone(self)).fit(vectors, codes)

    def _require_settings(self) -> None:
        Descriptors(self.descriptors).require_parts()
        if self.kernel not in get_args(Kernel):
            raise PlanError(f"there is no kernel '{self.kernel}'; known are: {', '.join(get_args(Kernel))}")
        for name in ("C", "width"):
            if not 0 < getattr(self, name) < float("inf"):
                raise PlanError(f"{name} = {getattr(self, name)}: must be a finite number above 0, e.g. 1.0")
        least = {"degree": 1, "landmarks": 2, "nystroem_above": 1, "folds": 2}
        for name, bound in least.items():
            if getattr(self, name) < bound:
                raise PlanError(f"{name} = {getattr(self, name)}: must be {bound} or more")


class KernelMachine:
    """Scaling, kernel and solver fitted on one set of vectors; one of these a fold and one for good.

    Parameters
    ----------
    settings : KernelSVM
        Only its parameters are read.
    """

    def __init__(self, settings: KernelSVM) -> None:
        self.settings = settings

    def fit(self, vectors: NDArray[np.float64], codes: NDArray[np.int64]) -> Self:
        """Scale, span the kernel, and solve.

        Parameters
        ----------
        vectors : (n, d) float
            Descriptors.
        codes : (n,) int
            Classes.

        Returns
        -------
        KernelMachine
            Itself.
        """
        settings = self.settings
        # chi2 wants numbers that are not negative; what lies outside the training range is moved to its end
        self.scaler = (MinMaxScaler(clip=True) if settings.kernel == "chi2" else StandardScaler()).fit(vectors)
        scaled = self.scaler.transform(vectors)
        self.median = self._median_distance(scaled)
        weight = "balanced" if settings.balance else None
        self.projection: NDArray[np.float64] | None = None
        if len(scaled) <= settings.nystroem_above:
            self.solver = SVC(C=settings.C, kernel="precomputed", class_weight=weight, decision_function_shape="ovr")
            self.solver.fit(self._gram(scaled, scaled), codes)
            self.anchors = scaled[self.solver.support_]
            self.support = self.solver.support_
            self.n_train = len(scaled)
        else:
            drawn = stream(settings.seed, "landmarks").choice(
                len(scaled), min(settings.landmarks, len(scaled)), replace=False
            )
            self.anchors = scaled[np.sort(drawn)]
            self.projection = _inverse_root(self._gram(self.anchors, self.anchors))
            self.solver = LinearSVC(C=settings.C, class_weight=weight, dual=False, max_iter=10_000)
            self.solver.fit(self._gram(scaled, self.anchors) @ self.projection, codes)
        return self

    @property
    def n_parameters(self) -> int:
        """Numbers that were fitted: the support vectors (or landmarks) and the weights on them."""
        weights = self.solver.dual_coef_ if self.projection is None else self.solver.coef_
        projected = 0 if self.projection is None else self.projection.size
        return int(self.anchors.size + np.asarray(weights).size + projected)

    def decide(self, vectors: NDArray[np.float64]) -> NDArray[np.float64]:
        """Compute decision values.

        Parameters
        ----------
        vectors : (n, d) float
            Descriptors.

        Returns
        -------
        (n, 1) or (n, k) float64
            Signed distances to the margin: one column for two classes, else one a class.
        """
        blocks = np.array_split(vectors, max(1, len(vectors) // _ROWS_AT_A_TIME))
        return np.concatenate([self._decide_block(block) for block in blocks])

    def _decide_block(self, vectors: NDArray[np.float64]) -> NDArray[np.float64]:
        gram = self._gram(self.scaler.transform(vectors), self.anchors)
        if self.projection is not None:
            decision = self.solver.decision_function(gram @ self.projection)
        else:
            # the solver indexes the columns by training patch, but only those of the support vectors are ever
            # read
            wide = np.zeros((len(gram), self.n_train))
            wide[:, self.support] = gram
            decision = self.solver.decision_function(wide)
        return np.asarray(decision, dtype=np.float64).reshape(len(gram), -1)

    def _gram(self, left: NDArray[np.float64], right: NDArray[np.float64]) -> NDArray[np.float64]:
        kernel, d = self.settings.kernel, left.shape[1]
        if kernel == "linear":
            gram = left @ right.T / d
        elif kernel == "poly":
            gram = (left @ right.T / d + 1) ** self.settings.degree
        else:
            gram = np.exp(_distances(kernel, left, right) / (-self.settings.width * self.median))
        return np.asarray(gram, dtype=np.float64)

    def _median_distance(self, scaled: NDArray[np.float64]) -> float:
        if self.settings.kernel in {"linear", "poly"}:
            return 1.0
        sample = scaled
        if len(scaled) > _MEDIAN_OF:
            sample = scaled[stream(self.settings.seed, "median").choice(len(scaled), _MEDIAN_OF, replace=False)]
        pairs = _distances(self.settings.kernel, sample, sample)[np.triu_indices(len(sample), k=1)]
        # half of the patches being the same picture is no reason to divide by zero
        return float(np.median(pairs)) or float(pairs.max()) or 1.0


def _distances(kernel: str, left: NDArray[np.float64], right: NDArray[np.float64]) -> NDArray[np.float64]:
    if kernel == "rbf":
        return np.asarray(pairwise_distances(left, right, metric="sqeuclidean"), dtype=np.float64)
    if kernel == "laplacian":
        return np.asarray(pairwise_distances(left, right, metric="manhattan"), dtype=np.float64)
    return -np.asarray(additive_chi2_kernel(left, right), dtype=np.float64)  # scikit-learn gives the negative sum


def _inverse_root(gram: NDArray[np.float64]) -> NDArray[np.float64]:
    # K^(-1/2) of the landmarks (Williams and Seeger 2001, section 2): features whose products are the kernel
    # again
    values, directions = np.linalg.eigh(gram)
    kept = values > values.max() * _EIGENVALUE_FLOOR
    root: NDArray[np.float64] = directions[:, kept] / np.sqrt(values[kept])
    return root
