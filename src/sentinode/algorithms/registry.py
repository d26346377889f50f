"""Algorithms by name: the table, what a plan may set, and the candidates that a tuning budget draws.

An algorithm is one file in this package and one line in `ALGORITHMS`. Its module is imported when the
algorithm is asked for and not before, so that the names can be listed on a machine without torch.
"""

import difflib
import importlib
import importlib.util
import inspect
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import ClassVar, Protocol, Self, cast, get_type_hints

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import TypeAdapter, ValidationError

from sentinode.algorithms.description import EpochRecord, LayerRow
from sentinode.errors import MissingExtra, PlanError
from sentinode.seeds import stream

__all__ = [
    "ALGORITHMS",
    "HEADS",
    "Algorithm",
    "AlgorithmSpec",
    "PatchSequence",
    "algorithm_class",
    "algorithm_settings",
    "build_algorithm",
    "require_extra",
    "search_candidates",
]

ALGORITHMS: Mapping[str, str] = MappingProxyType({
    "imagenet-cnn": "sentinode.algorithms.imagenet_cnn:ImageNetCNN",
    "best": "sentinode.algorithms.imagenet_cnn:ImageNetEnsemble",
    "distilled-cnn": "sentinode.algorithms.distilled_cnn:DistilledCNN",
    "paper-cnn": "sentinode.algorithms.paper_cnn:PaperCNN",
    "dbn": "sentinode.algorithms.dbn:DeepBeliefNetwork",
    "naive-bayes": "sentinode.algorithms.naive_bayes:NaiveBayes",
    "template-matching": "sentinode.algorithms.template_matching:TemplateMatching",
    "kernel-svm": "sentinode.algorithms.kernel_svm:KernelSVM",
    "majority": "sentinode.algorithms.majority:Majority",
    "logistic-head": "sentinode.algorithms.logistic_head:LogisticHead",
    "mlp-head": "sentinode.algorithms.mlp_head:MLPHead",
    "svm-head": "sentinode.algorithms.svm_head:SVMHead",
})
"""Name in a plan -> ``"module:Class"``."""

HEADS = tuple(name for name in ALGORITHMS if name.endswith("-head"))
"""Those that learn from the features of an encoder."""

_EXTRAS = MappingProxyType({"train": "torch"})
"""Extra -> the package that it brings."""


class PatchSequence(Protocol):
    """Patches that are read when they are asked for: an array, a memmap or a ``PatchSource``."""

    def __len__(self) -> int:
        """Count the patches."""
        ...

    def __getitem__(self, key: int | slice | list[int] | NDArray[np.int64], /) -> NDArray[np.uint8]:
        """Read one patch ``(h, w, 3)``, or those at the positions ``(m, h, w, 3)``."""
        ...


class Algorithm(Protocol):
    """What every recipe offers; scikit-learn's contract with images instead of vectors.

    A recipe is also a ``sklearn.base.BaseEstimator``: ``__init__`` stores its parameters untouched, and it
    can be cloned.
    """

    SEARCH_SPACE: ClassVar[Mapping[str, tuple[object, ...]]]
    classes_: NDArray[np.str_]
    log_: tuple[EpochRecord, ...]

    def fit(
        self,
        X: PatchSequence,
        y: ArrayLike,
        *,
        stop: tuple[PatchSequence, ArrayLike] | None = None,
        on_epoch: Callable[[EpochRecord], None] | None = None,
        checkpoint: Path | None = None,
    ) -> Self:
        """Learn from patches ``(n, h, w, 3)`` uint8 and their labels ``(n,)``."""
        ...

    def predict_proba(self, X: PatchSequence) -> NDArray[np.float32]:
        """Give each patch a probability a class, ``(n, k)``; columns as `classes_`."""
        ...

    def describe(self, size: tuple[int, int]) -> tuple[LayerRow, ...]:
        """Describe the steps for patches of `size` ``(h, w)``, without training."""
        ...


@dataclass(frozen=True)
class AlgorithmSpec:
    """An algorithm as a plan names it.

    Parameters
    ----------
    name : str
        A key of `ALGORITHMS`.
    settings : mapping of str to object
        What differs from the defaults. The seed is not among them: it belongs to the study.

    Examples
    --------
    >>> AlgorithmSpec("kernel-svm", {"kernel": "laplacian"})
    AlgorithmSpec(name='kernel-svm', settings={'kernel': 'laplacian'})
    """

    name: str
    settings: Mapping[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # A copy: a change to the caller's mapping must not change the plan. A dict: other processes receive
        # it.
        object.__setattr__(self, "settings", dict(self.settings))


def algorithm_class(name: str) -> type[Algorithm]:
    """Import the class of an algorithm.

    Parameters
    ----------
    name : str
        A key of `ALGORITHMS`.

    Returns
    -------
    type
        A scikit-learn estimator with the contract of `Algorithm`.

    Raises
    ------
    PlanError
        If there is no such algorithm.
    MissingExtra
        If it needs torch and torch is not installed.
    ModuleNotFoundError
        If anything else that it imports is absent: the installation is broken.

    Examples
    --------
    >>> algorithm_class("majority").__name__
    'Majority'
    >>> algorithm_class("kernel-swm")
    Traceback (most recent call last):
    sentinode.errors.PlanError: there is no algorithm 'kernel-swm'; did you mean 'kernel-svm'?
    Known are: imagenet-cnn, best, distilled-cnn, paper-cnn, ...majority, logistic-head, mlp-head, svm-head
    """
    if name not in ALGORITHMS:
        raise PlanError(f"there is no algorithm '{name}'{_nearest(name, ALGORITHMS)}")
    module, _, class_name = ALGORITHMS[name].partition(":")
    try:
        found = getattr(importlib.import_module(module), class_name)
    except ModuleNotFoundError as error:
        if error.name == "torch":
            raise MissingExtra("train", f"the algorithm '{name}'") from error
        raise
    return cast("type[Algorithm]", found)


def require_extra(name: str) -> None:
    """Ask for what an algorithm needs to be trained, without loading it: torch takes seconds.

    Parameters
    ----------
    name : str
        A key of `ALGORITHMS`. Its class may have an ``EXTRA``, the optional part of the installation that it
        needs.

    Raises
    ------
    PlanError
        If there is no such algorithm.
    MissingExtra
        If its extra is not installed.

    Examples
    --------
    >>> require_extra("majority")
    """
    # PlanError is algorithm_class's.
    extra = getattr(algorithm_class(name), "EXTRA", None)
    if extra is not None and importlib.util.find_spec(_EXTRAS[extra]) is None:
        raise MissingExtra(extra, f"the algorithm '{name}'")


def algorithm_settings(name: str) -> dict[str, object]:
    """List what a plan may set for an algorithm, with the defaults.

    Parameters
    ----------
    name : str
        A key of `ALGORITHMS`.

    Returns
    -------
    dict of str to object
        Setting -> default, in the order of the class's signature, without the seed.

    Raises
    ------
    PlanError
        If there is no such algorithm.
    MissingExtra
        If its module needs torch and torch is not installed.

    Examples
    --------
    >>> algorithm_settings("majority")
    {}
    """
    # PlanError and MissingExtra are algorithm_class's.
    parameters = inspect.signature(algorithm_class(name)).parameters
    return {key: parameter.default for key, parameter in parameters.items() if key != "seed"}


def build_algorithm(spec: AlgorithmSpec, seed: int) -> Algorithm:
    """Build the estimator that a plan asks for, untrained.

    Parameters
    ----------
    spec : AlgorithmSpec
        Name and settings.
    seed : int
        Where all its randomness comes from.

    Returns
    -------
    Algorithm
        An estimator that has seen no data.

    Raises
    ------
    PlanError
        If the algorithm or a setting does not exist, or if a value is of the wrong kind (text for a number).
        A value that is impossible otherwise is refused by ``describe`` and ``fit``.
    MissingExtra
        If its module needs torch and torch is not installed.

    Examples
    --------
    >>> build_algorithm(AlgorithmSpec("naive-bayes", {"smoothing": 0.01}), seed=7)
    NaiveBayes(seed=7, smoothing=0.01)
    """
    known = algorithm_settings(spec.name)
    for setting in spec.settings:
        if setting == "seed":
            raise PlanError(f"[algorithm.{spec.name}] cannot set 'seed': set the seed of the whole study instead")
        if setting not in known:
            raise PlanError(f"[algorithm.{spec.name}] has no setting '{setting}'{_nearest(setting, known)}")
    build = cast("Callable[..., Algorithm]", algorithm_class(spec.name))
    hints = get_type_hints(algorithm_class(spec.name).__init__)
    settings = {key: _typed(spec.name, key, value, hints[key]) for key, value in spec.settings.items()}
    return build(**settings, seed=seed)


def search_candidates(spec: AlgorithmSpec, n: int, seed: int) -> tuple[AlgorithmSpec, ...]:
    """Draw the settings that a tuning budget may try: the same number for every algorithm.

    The first candidate is the plan's own; the others are drawn without repetition from the class's
    ``SEARCH_SPACE``, uniformly over the settings that the plan left open (random search: Bergstra and Bengio
    2012, JMLR 13:281). A smaller budget tries the first candidates of a larger one.

    Parameters
    ----------
    spec : AlgorithmSpec
        What the plan asks for; a setting that it names is never changed.
    n : int
        The budget, at least 1.
    seed : int
        Of the study.

    Returns
    -------
    tuple of AlgorithmSpec
        `n` of them, or as many as exist where the open settings have fewer combinations.

    Raises
    ------
    PlanError
        If the algorithm does not exist or `n` is below 1.

    Examples
    --------
    >>> found = search_candidates(AlgorithmSpec("kernel-svm", {"kernel": "rbf"}), n=3, seed=1)
    >>> len(found), {candidate.settings["kernel"] for candidate in found}
    (3, {'rbf'})
    """
    if n < 1:
        raise PlanError(f"a tuning budget of {n} tries nothing; it must be at least 1")
    space = algorithm_class(spec.name).SEARCH_SPACE
    open_settings = {key: space[key] for key in sorted(space) if key not in spec.settings}
    defaults = algorithm_settings(spec.name)
    draws = [{key: defaults[key] for key in open_settings}]
    for draw in _distinct_draws(open_settings, stream(seed, "search", spec.name)):
        if len(draws) == n:
            break
        if draw not in draws:  # the defaults are a point of the space as a rule, and are tried already
            draws.append(draw)
    return (spec, *(AlgorithmSpec(spec.name, {**spec.settings, **draw}) for draw in draws[1:]))


def _distinct_draws(space: Mapping[str, tuple[object, ...]], rng: np.random.Generator) -> Iterator[dict[str, object]]:
    # Every combination once, in random order. Spaces are small (thousands), but never listed: a draw is a
    # number.
    n_combinations = math.prod(len(values) for values in space.values())
    seen: set[int] = set()
    while len(seen) < n_combinations:
        number = int(rng.integers(n_combinations))
        if number in seen:
            continue
        seen.add(number)
        draw = {}
        for key, values in space.items():
            number, position = divmod(number, len(values))
            draw[key] = values[position]
        yield draw


def _typed(name: str, key: str, value: object, hint: object) -> object:
    # As strict as JSON: "20" is no number and 1 is no truth value, but a list (all that TOML has) becomes a
    # tuple.
    try:
        text = json.dumps(value)
    except TypeError:
        return value  # a Python caller's own object: only the class can judge it
    try:
        typed = TypeAdapter(cast("type[object]", hint)).validate_json(text, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise PlanError(f"[algorithm.{name}] {key} = {value!r}: {first['msg']}") from error
    return typed


def _nearest(word: str, known: Iterable[str]) -> str:
    names = list(known)
    close = difflib.get_close_matches(word, names, n=2, cutoff=0.5)
    hint = f"; did you mean {' or '.join(repr(name) for name in close)}?" if close else "."
    return f"{hint}\nKnown are: {', '.join(names) if names else 'none'}"
