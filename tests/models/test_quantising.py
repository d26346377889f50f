"""int8 is offered where nothing that matters is lost, and refused with the number that forbids it."""

import sys

import numpy as np
import pytest

from sentinode.errors import MissingExtra, ModelError
from sentinode.models.quantising import AUC_LOSS, FEWEST_PATIENTS, measure_closeness, require_quantiser
from sentinode.models.tuning import CLOSE, Machine, choose, stored_choices
from sentinode.seeds import stream

MACHINE = Machine("a CPU", 2, "an engine 1.0", bf16=True)


def answers(n_patients=20, n_patches=30):
    """Truth, probabilities with an AUC of about 0.9, and patients."""
    random, patient = stream(1, "quantising"), np.repeat([f"p{one:02}" for one in range(n_patients)], n_patches)
    positive = random.random(len(patient)) < 0.5
    return positive, 1 / (1 + np.exp(-random.normal(np.where(positive, 1.0, -1.0), 1.0))), patient


def moved(proba, by):
    return 1 / (1 + np.exp(-(np.log(proba / (1 - proba)) + by)))


def test_answers_that_hardly_move_are_offered():
    positive, proba, patient = answers()
    found = measure_closeness(positive, proba, moved(proba, stream(1, "noise").normal(0, 0.02, len(proba))), patient)
    assert found.refusal == ""
    assert 0.01 < found.mean_change < 0.02 < found.largest_change < 0.1
    assert abs(found.auc_loss) <= found.auc_loss_limit < AUC_LOSS
    assert (found.n_patients, found.n_images) == (20, 600)


def test_log_odds_that_move_on_average_are_refused_though_no_auc_is_lost():
    positive, proba, patient = answers()
    found = measure_closeness(positive, proba, moved(proba, 0.3), patient)
    assert found.auc_loss == pytest.approx(0, abs=1e-9)
    assert found.refusal == "the log odds move by 0.3 on average, and 0.1 is allowed"


def test_one_tile_that_moves_far_is_refused():
    positive, proba, patient = answers()
    by = np.zeros(len(proba))
    by[7] = 1.5
    found = measure_closeness(positive, proba, moved(proba, by), patient)
    assert found.mean_change < 0.01
    assert found.refusal == "the log odds of a tile move by 1.5, and 1 is allowed"


def test_an_auc_that_may_be_lost_is_refused_with_its_limit():
    positive, _, patient = answers()
    # All on both sides of one threshold: small moves turn the order of many.
    proba = moved(np.full(len(positive), 0.5), np.where(positive, 0.01, -0.01))
    found = measure_closeness(positive, proba, moved(proba, np.where(positive & (patient < "p05"), -0.05, 0)), patient)
    assert found.mean_change < 0.1
    assert found.auc_loss > AUC_LOSS
    assert found.refusal.startswith(f"up to {found.auc_loss_limit:.4f} of the AUC may be lost (95 %, over 20 patients)")
    assert found.auc_loss < found.auc_loss_limit


@pytest.mark.parametrize("n_patients", [2, FEWEST_PATIENTS - 1])
def test_too_few_patients_are_refused(n_patients):
    positive, proba, patient = answers(n_patients)
    assert measure_closeness(positive, proba, proba, patient).refusal.startswith(f"{n_patients} patients are too few")


def test_patients_of_one_class_say_nothing_of_the_auc():
    positive, proba, patient = answers()
    found = measure_closeness(positive & (patient == "p00"), proba, proba, patient)
    assert "too few have one of the classes" in found.refusal


def test_the_surest_answers_are_not_infinitely_far_apart():
    positive, proba, patient = answers()
    proba[0], quick = 1.0, proba.copy()
    quick[0] = 1 - 1e-7
    assert measure_closeness(positive, proba, quick, patient).largest_change == 0


def test_without_the_quantiser_it_is_said_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "nncf", None)
    with pytest.raises(MissingExtra, match=r"sentinode\[int8\]"):
        require_quantiser()


class Engine:
    """Gives 0.5, and so much more in int8."""

    def __init__(self, off: float) -> None:
        self.off = off

    def build(self, choice):
        proba = 0.5 + (self.off if choice.precision == "int8" else 0)
        return lambda tiles: np.tile(np.float32([1 - proba, proba]), (len(tiles), 1))


def test_int8_is_run_where_it_gives_what_it_gave_where_it_was_measured(tmp_path):
    engine = Engine(0.05)
    choice = choose(MACHINE, "m", (32, 32), engine.build, tmp_path, int8=0.04)
    assert choice.precision == "int8"
    assert choice.apart == pytest.approx(0.05)
    assert choose(MACHINE, "m", (32, 32), engine.build, tmp_path).precision == "bf16"
    assert [one.precision for one in stored_choices(MACHINE, tmp_path)] == ["int8", "bf16"]
    assert choose(MACHINE, "m", (32, 32), Engine(9).build, tmp_path, int8=0.04) == choice, "stored: not asked again"


def test_a_cpu_that_gives_something_else_in_int8_is_refused(tmp_path):
    with pytest.raises(ModelError, match=r"up to 0\.05 apart on drawn tiles, 0\.01 where int8 was measured"):
        choose(MACHINE, "m", (32, 32), Engine(0.01 + CLOSE * 2).build, tmp_path, int8=0.01)
    assert stored_choices(MACHINE, tmp_path) == ()
