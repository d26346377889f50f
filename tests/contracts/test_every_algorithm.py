"""What every registered algorithm promises, asked of each of them on patches that a child could sort.

A new line in ``ALGORITHMS`` is tested without a change here; only if its defaults are slow does it need a line in
`FAST`.
"""

import copy
import importlib.util

import numpy as np
import pytest
from sklearn.base import BaseEstimator, clone
from sklearn.exceptions import NotFittedError

from sentinode.algorithms.description import EpochRecord, LayerRow
from sentinode.algorithms.registry import (
    ALGORITHMS,
    AlgorithmSpec,
    algorithm_class,
    algorithm_settings,
    build_algorithm,
    search_candidates,
)
from sentinode.errors import ModelError, PlanError
from sentinode.seeds import stream

SIDE = 32
FINE_TUNED = {"epochs": 5, "enlarge": 1.5, "batch_size": 15, "learning_rate": 1e-3}
FAST = {
    "imagenet-cnn": FINE_TUNED,
    "best": {**FINE_TUNED, "members": 2, "views": 8},
    "distilled-cnn": {
        "epochs": 6,
        "batch_size": 10,
        "learning_rate": 2e-3,
        "teacher_patches_seen": 200,
        "teacher_learning_rate": 1e-3,
    },
    "paper-cnn": {
        "layers": [{"conv": 8, "kernel": 3}, {"pool": "max", "size": 4}, {"dense": 16}],
        "epochs": 8,
        "batch_size": 8,
        "learning_rate": 3e-3,
    },
    "dbn": {
        "n_components": 12,
        "hidden": [48, 24],
        "pretraining_epochs": 3,
        "pretraining_batch_size": 8,
        "epochs": 25,
        "batch_size": 8,
        "learning_rate": 1e-2,
    },
    "template-matching": {"template_px": 11, "n_templates": 3, "shrink": 1},
}
"""Settings that make an algorithm quick on 32 x 32 px."""

NEEDS_TORCH = frozenset({"imagenet-cnn", "best", "distilled-cnn", "paper-cnn", "dbn"})
KEEPS_LAST = frozenset({"imagenet-cnn", "best", "distilled-cnn"})
LEARNS_NOTHING = frozenset({"majority"})


OTHER_DEFAULTS = {"best": "imagenet-cnn"}
"""Algorithms that are another one with other defaults: not trained once more for what defaults cannot break."""

NOTHING_NEW = frozenset({
    "test_its_columns_follow_the_names_of_the_classes",
    "test_patches_are_left_as_they_are",
    "test_blank_patches_among_the_training_patches_do_no_harm",
    "test_a_network_says_where_and_how_it_was_trained",
    "test_a_network_that_keeps_its_last_weights_is_not_changed_by_a_stop_part",
})


@pytest.fixture(params=ALGORITHMS)
def name(request):
    """Each registered algorithm in turn."""
    if request.param in OTHER_DEFAULTS and request.node.originalname in NOTHING_NEW:
        pytest.skip(f"it is {OTHER_DEFAULTS[request.param]} with other defaults")
    if request.param in NEEDS_TORCH:
        pytest.importorskip("torch", reason="the extra 'train' is not installed", exc_type=ImportError)
    return request.param


@pytest.fixture(scope="module")
def cohort():
    """Sixty patches and their labels: many large dark nuclei against few small ones, the classes in turn."""
    patches = [draw_patch(number) for number in range(60)]
    return np.stack(patches), np.array(["tumour", "normal"] * 30)


@pytest.fixture(scope="module")
def trained():
    """Trained recognisers by name, so that a test that only asks does not train again."""
    return {}


class LazyPatches:
    """Patches that are read when they are asked for, with the interface of ``PatchSource`` and no more."""

    def __init__(self, pixels) -> None:
        self._pixels = pixels
        self.shape = pixels.shape[1:3]

    def __len__(self) -> int:
        return len(self._pixels)

    def __getitem__(self, key) -> np.ndarray:
        if isinstance(key, (int, np.integer)):
            return self._pixels[key].copy()
        return self._pixels[key if isinstance(key, slice) else list(key)].copy()


def draw_patch(number):
    rng = stream(1, "contract", number)
    radius, n_nuclei = ((5, 9), (2, 5))[number % 2]
    distance = np.full((SIDE, SIDE), 99.0)
    for _ in range(n_nuclei):
        centre = rng.uniform(0, SIDE, 2)
        distance = np.minimum(distance, np.hypot(*(np.mgrid[:SIDE, :SIDE] - centre[:, None, None])) - radius)
    inside = (distance < 0)[..., None]
    pixels = np.where(inside, (100, 60, 140), (225, 170, 205)) + rng.normal(0, 8, (SIDE, SIDE, 3))
    return pixels.clip(0, 255).astype(np.uint8)


def build(name, seed=1):
    return build_algorithm(AlgorithmSpec(name, FAST.get(name, {})), seed)


@pytest.fixture
def recogniser(name, cohort, trained):
    """The algorithm, trained on the first forty patches with the next ten as the stop part."""
    if name not in trained:
        X, y = cohort
        trained[name] = build(name).fit(X[:40], y[:40], stop=(X[40:50], y[40:50]))
    return trained[name]


def test_it_can_be_cloned_and_its_parameters_set(name):
    estimator = build(name, seed=5)
    assert isinstance(estimator, BaseEstimator)
    copied = clone(estimator)
    assert copied.get_params() == estimator.get_params()
    assert copied.get_params()["seed"] == 5
    assert clone(copied).set_params(seed=6).get_params() == {**estimator.get_params(), "seed": 6}


def test_its_constructor_stores_what_it_is_given_untouched(name):
    settings = {key: copy.copy(value) for key, value in algorithm_settings(name).items()}
    estimator = algorithm_class(name)(**settings, seed=3)
    assert all(vars(estimator)[key] is value for key, value in settings.items())
    assert set(vars(estimator)) == {*settings, "seed"}


def test_its_own_defaults_and_search_space_pass_the_check_that_a_plan_passes(name):
    space = algorithm_class(name).SEARCH_SPACE
    assert set(space) <= set(algorithm_settings(name))
    every_value = [{}, *({key: value} for key, values in space.items() for value in values)]
    for settings in every_value:
        rows = build_algorithm(AlgorithmSpec(name, settings), seed=1).describe((96, 96))
        assert rows, settings
    for candidate in search_candidates(AlgorithmSpec(name), n=20, seed=1):
        assert build_algorithm(candidate, seed=1).describe((96, 96)), candidate


def test_it_describes_its_layers_before_any_training(name):
    rows = build(name).describe((SIDE, SIDE))
    assert all(isinstance(row, LayerRow) and row.name and row.output for row in rows)
    assert all(isinstance(row.parameters, int) and row.parameters >= 0 for row in rows)
    assert all(isinstance(row.multiply_adds, int) and row.multiply_adds >= 0 for row in rows)


def test_probabilities_are_float32_rows_that_sum_to_one(recogniser, cohort):
    proba = recogniser.predict_proba(cohort[0][50:])
    assert proba.shape == (10, 2)
    assert proba.dtype == np.float32
    assert (proba >= 0).all()
    np.testing.assert_allclose(proba.sum(axis=1), 1, atol=1e-5)


def test_classes_are_sorted_labels_whatever_comes_first(recogniser, cohort):
    assert cohort[1][0] == "tumour"
    assert recogniser.classes_.tolist() == ["normal", "tumour"]


def test_it_learns_what_a_child_could_sort(name, recogniser, cohort):
    if name in LEARNS_NOTHING:
        pytest.skip("it is the floor: it looks at no patch")
    X, y = cohort
    found = recogniser.classes_[recogniser.predict_proba(X[50:]).argmax(axis=1)]
    assert (found == y[50:]).mean() >= 0.9


def test_its_columns_follow_the_names_of_the_classes(name, cohort):
    if name in LEARNS_NOTHING:
        pytest.skip("it is the floor: it looks at no patch")
    X, y = cohort
    renamed = np.where(y == "tumour", "a tumour", "normal")  # now the first in the alphabet
    recogniser = build(name).fit(X[:40], renamed[:40])
    proba = recogniser.predict_proba(X[50:])
    assert recogniser.classes_.tolist() == ["a tumour", "normal"]
    assert (proba[renamed[50:] == "a tumour", 0] > 0.5).mean() >= 0.8


def test_the_same_seed_gives_the_same_probabilities_to_the_bit(name, recogniser, cohort):
    X, y = cohort
    again = build(name).fit(X[:40], y[:40].tolist(), stop=(X[40:50], y[40:50].tolist()))
    assert again.predict_proba(X[50:]).tobytes() == recogniser.predict_proba(X[50:]).tobytes()


def test_patches_are_left_as_they_are(name, cohort):
    X, y = cohort
    patches = X[:24].copy()
    patches.setflags(write=False)
    build(name).fit(patches, y[:24]).predict_proba(patches)
    assert np.array_equal(patches, X[:24])


def test_an_array_a_memmap_and_a_lazy_sequence_give_the_same(name, recogniser, cohort, tmp_path):
    X, y = cohort
    np.save(tmp_path / "patches.npy", X)
    mapped = np.load(tmp_path / "patches.npy", mmap_mode="r")
    expected = recogniser.predict_proba(X[50:])
    assert np.array_equal(recogniser.predict_proba(mapped[50:]), expected)
    assert np.array_equal(recogniser.predict_proba(LazyPatches(X[50:])), expected)
    lazily = build(name).fit(LazyPatches(X[:40]), y[:40], stop=(LazyPatches(X[40:50]), y[40:50]))
    assert np.array_equal(lazily.predict_proba(LazyPatches(X[50:])), expected)


def test_one_patch_is_recognised_as_it_is_among_others(recogniser, cohort):
    X, _ = cohort
    alone = recogniser.predict_proba(X[50:51])
    np.testing.assert_allclose(alone, recogniser.predict_proba(X[50:])[:1], atol=1e-3)


@pytest.mark.parametrize("level", [0, 128, 255])
def test_a_blank_patch_has_a_finite_answer(recogniser, level):
    proba = recogniser.predict_proba(np.full((2, SIDE, SIDE, 3), level, np.uint8))
    assert np.isfinite(proba).all()
    np.testing.assert_allclose(proba.sum(axis=1), 1, atol=1e-5)


def test_blank_patches_among_the_training_patches_do_no_harm(name, cohort):
    X, y = cohort
    patches = X[:24].copy()
    patches[:4] = 255
    assert np.isfinite(build(name).fit(patches, y[:24]).predict_proba(X[50:])).all()


def test_its_log_is_a_tuple_of_epochs_that_were_also_reported(name, cohort):
    X, y = cohort
    reported = []
    recogniser = build(name).fit(X[:24], y[:24], stop=(X[40:50], y[40:50]), on_epoch=reported.append)
    assert isinstance(recogniser.log_, tuple)
    assert recogniser.log_ == tuple(reported)
    assert all(isinstance(record, EpochRecord) and record.seconds >= 0 for record in recogniser.log_)


def test_a_network_says_where_and_how_it_was_trained(name, cohort):
    if name not in NEEDS_TORCH - KEEPS_LAST:
        pytest.skip("it is no network that the stop part chooses an epoch of")
    X, y = cohort
    for epochs, patience in ((2, 0), (20, 1)):
        network = build(name).set_params(device="cpu", learning_rate=0.1, epochs=epochs, patience=patience)
        log = network.fit(X[:24], y[:24], stop=(X[40:50], y[40:50])).training_
        assert log.device == "cpu"
        assert isinstance(log.bf16, bool)
        assert log.records == network.log_[-len(log.records) :]
        assert log.best_epoch == min(log.records, key=lambda record: record.stop_loss).epoch
        assert log.stopped_early == (len(log.records) < epochs)


@pytest.mark.parametrize("name", sorted(KEEPS_LAST))
def test_a_network_that_keeps_its_last_weights_is_not_changed_by_a_stop_part(name, cohort):
    pytest.importorskip("torch", reason="the extra 'train' is not installed", exc_type=ImportError)
    X, y = cohort
    few = {"epochs": 2, "members": 1}
    network = build(name)
    network.set_params(**{key: value for key, value in few.items() if key in network.get_params()})
    alone = network.fit(X[:24], y[:24]).predict_proba(X[50:])
    watched = network.fit(X[:24], y[:24], stop=(X[40:50], y[40:50]))
    assert watched.training_.best_epoch == 2
    assert not watched.training_.stopped_early
    assert np.isfinite(watched.log_[-1].stop_loss)
    assert watched.predict_proba(X[50:]).tobytes() == alone.tobytes()


def test_one_class_only_is_refused_by_its_name(name, cohort):
    X, _ = cohort
    with pytest.raises((ModelError, PlanError), match="normal"):
        build(name).fit(X[:6], ["normal"] * 6)


def test_no_patches_at_all_are_refused(name, cohort):
    with pytest.raises((ModelError, PlanError)):
        build(name).fit(cohort[0][:0], [])


def test_labels_that_do_not_match_the_patches_are_refused(name, cohort):
    X, y = cohort
    with pytest.raises((ModelError, PlanError), match="6 patches"):
        build(name).fit(X[:6], y[:5])


def test_patches_of_another_size_than_in_training_are_refused(recogniser):
    with pytest.raises(ModelError, match=r"48 x 40 px.* 32 x 32 px"):
        recogniser.predict_proba(np.zeros((2, 48, 40, 3), np.uint8))


def test_patches_that_are_not_rgb_of_eight_bits_are_refused(name, recogniser):
    with pytest.raises(ModelError, match=r"uint8"):
        recogniser.predict_proba(np.zeros((2, SIDE, SIDE, 3), np.float32))
    with pytest.raises(ModelError, match=r"uint8"):
        build(name).fit(np.zeros((2, SIDE, SIDE), np.uint8), ["normal", "tumour"])


def test_asked_before_it_was_trained_it_says_so(name, cohort):
    with pytest.raises(NotFittedError):
        build(name).predict_proba(cohort[0][:2])


def test_every_algorithm_has_a_page_of_its_own(name, pytestconfig):
    page = pytestconfig.rootpath / "docs" / "algorithms" / f"{name}.md"
    index = (page.parent / "index.md").read_text(encoding="utf-8")
    assert page.read_text(encoding="utf-8").startswith("# ")
    assert f"[{name}]({name}.md)" in index


def test_every_line_of_the_table_names_a_module_of_this_package():
    for target in ALGORITHMS.values():
        module, _, class_name = target.partition(":")
        assert importlib.util.find_spec(module), target
        assert class_name.isidentifier()
