"""The first look spares what the network would not call suspicious, and no more than is promised is lost."""

import json
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from sentinode.errors import ModelError
from sentinode.evaluation.conformal import mean_loss_allowed, misses_allowed
from sentinode.inference.first_look import LookedAt, fit_first_look, read_first_look
from sentinode.seeds import stream

D = 4


def slides(n, seed, tiles=120, shift=0.0):
    """Slides of which a curved function of two numbers makes tiles suspicious, some more than others."""
    random = stream(seed, "first look")
    found = []
    for _ in range(n):
        numbers = random.normal(shift, 1, (tiles, D)) + random.normal(0, 0.3, D)
        odds = 3 * (numbers[:, 0] ** 2 + numbers[:, 1] - 2.5) + random.normal(0, 1, tiles)
        positive = 1 / (1 + np.exp(-odds))
        proba = np.stack([1 - positive, positive], 1).astype(np.float32)
        found.append(LookedAt(numbers.astype(np.float32), proba, np.ones(tiles, np.float32)))
    return found


def lost_share(look, slide):
    suspicious = slide.proba[:, -1] >= 0.5
    return (suspicious & look.spares(slide.numbers)).sum() / max(1, suspicious.sum())


@pytest.fixture(scope="module")
def look():
    return fit_first_look(slides(160, 1), alpha=0.05, delta=None)


def test_much_is_spared_and_hardly_anything_suspicious_lost(look):
    new = slides(200, 2)
    assert np.mean([look.spares(one.numbers).mean() for one in new]) > 0.4
    # One laboratory may draw badly: on average over laboratories it is less, as is tested below.
    assert np.mean([lost_share(look, one) for one in new]) < 0.1
    assert look.spared == pytest.approx(np.mean([look.spares(one.numbers).mean() for one in new]), abs=0.03)
    assert (look.n_fitted, look.n_patients) == (40, 120)


def test_a_curve_is_seen_that_no_straight_line_separates(look):
    new = slides(20, 3)
    numbers, suspicious = (
        np.concatenate([one.numbers for one in new]),
        np.concatenate([one.proba[:, -1] >= 0.5 for one in new]),
    )
    ranks = stats.rankdata(look.score(numbers))
    n = suspicious.sum()
    auc = (ranks[suspicious].sum() - n * (n + 1) / 2) / (n * (~suspicious).sum())
    assert auc > 0.95


def test_the_loss_on_the_slides_of_the_threshold_is_what_was_allowed_and_no_suspicious_tile_less(look):
    every_one = slides(160, 1)
    others = [every_one[row] for row in stream(1, "first look").permutation(160)[40:]]
    allowed = mean_loss_allowed(120, 0.05)
    losses = [lost_share(look, one) for one in others]
    assert look.lost == pytest.approx(np.mean(losses))
    assert np.mean(losses) <= allowed + 1e-9
    # With the next suspicious tile lost it would be too much.
    every = np.concatenate([look.score(one.numbers)[one.proba[:, -1] >= 0.5] for one in others])
    more = np.nextafter(every[every >= look.threshold].min(), np.inf)
    again = [
        (look.score(one.numbers)[one.proba[:, -1] >= 0.5] < more).sum() / (one.proba[:, -1] >= 0.5).sum()
        for one in others
    ]
    assert np.mean(again) > allowed


def test_the_promise_on_average_holds_over_many_laboratories():
    losses, pool = [], slides(600, 5, tiles=60)
    for seed in range(60):
        chosen = stream(seed, "laboratory").permutation(len(pool))
        found = fit_first_look([pool[row] for row in chosen[:28]], alpha=0.1, delta=None)
        losses.append(np.mean([lost_share(found, pool[row]) for row in chosen[28:228]]))
    spread = np.std(losses) / np.sqrt(len(losses))
    assert np.mean(losses) < 0.1 + 2 * spread
    assert np.mean(losses) > 0.02, "the promise is used, and not only kept"


def test_the_stand_in_is_the_least_suspicious_answer(look):
    assert sum(look.stand_in) == pytest.approx(1)
    assert look.stand_in[-1] < 1e-3


def test_a_slide_that_looks_otherwise_is_further_away_than_all_of_the_archive(look):
    assert max(look.distance(one.numbers) for one in slides(20, 4)) < 1.2 * look.farthest
    assert look.distance(slides(1, 4, shift=3.0)[0].numbers) > look.farthest


def test_a_tile_that_stands_for_many_counts_so_often():
    every_one = slides(80, 6)
    double = [LookedAt(*(np.concatenate([part, part]) for part in one)) for one in every_one]
    weighed = [one._replace(weight=2 * one.weight) for one in every_one]
    by_rows, by_weight = fit_first_look(double, 0.1, None), fit_first_look(weighed, 0.1, None)
    assert by_weight.spared == pytest.approx(by_rows.spared, abs=0.02)
    assert by_weight.lost == pytest.approx(by_rows.lost, abs=0.02)
    one = every_one[0]
    far = [by_rows.distance(part.numbers, part.weight) for part in (one, double[0], weighed[0])]
    assert far == pytest.approx([far[0]] * 3)
    apart = one.numbers[:, 0] > np.median(one.numbers[:, 0])
    assert by_rows.distance(one.numbers, np.where(apart, 1, 0)) == by_rows.distance(one.numbers[apart])
    half = [one._replace(weight=np.where(one.proba[:, -1] >= 0.5, 1, 9).astype(np.float32)) for one in every_one]
    assert fit_first_look(half, 0.1, None).spared > by_weight.spared, "what is not suspicious stands for more"


def test_too_few_slides_spare_nothing_and_say_so():
    few = fit_first_look(slides(40, 1), alpha=0.01)
    assert few.threshold is None
    assert not few.spares(slides(1, 2)[0].numbers).any()
    assert few.in_words == "spares nothing: 30 patients with suspicious tiles are too few to promise 0.01"


def test_slides_without_a_suspicious_tile_say_nothing_of_a_loss():
    clear = [one._replace(proba=np.tile(np.float32([0.9, 0.1]), (len(one.proba), 1))) for one in slides(60, 7)]
    found = fit_first_look([*slides(60, 1), *clear], alpha=0.2, delta=None)
    fitted = stream(1, "first look").permutation(120)[:30]
    assert (found.n_fitted, found.n_patients) == (30, 60 - int((fitted < 60).sum()))
    with pytest.raises(ModelError, match="15 patients are fitted on, and have not one suspicious tile"):
        fit_first_look(clear, alpha=0.2)


def test_a_promise_is_said_in_words_that_round_nothing_up(look):
    assert look.in_words.startswith("on average at most 5 % of the tiles that the network calls suspicious are lost")
    sure = replace(look, delta=0.001, alpha=0.01)
    assert sure.in_words.startswith("with a probability of 99.9 % at most 1 % of the tiles")
    assert "a single one may lose all" in sure.in_words


def test_it_is_written_and_read_whole(look):
    assert read_first_look(json.dumps(look.to_json()), "first-look.json") == look


@pytest.mark.parametrize(
    "change",
    [{"weights": [1.0]}, {"mean": None}, {"threshold": float("nan")}, {"more": 1}, {"format": "another"}],
    ids=["too few weights", "no mean", "no number", "unknown", "format"],
)
def test_what_is_none_is_refused_by_name(look, change):
    with pytest.raises(ModelError, match=r"^first-look\.json: .*fit the first look again"):
        read_first_look(json.dumps({**look.to_json(), **change}), "first-look.json")


def test_numbers_far_away_do_not_run_away(look):
    far = np.full((1, D), 1e6)
    assert np.isfinite(look.score(far)).all()
    assert look.score(far) == look.score(far * 10)


class TestMeanLoss:
    @pytest.mark.parametrize("alpha", [0.01, 0.05, 0.2])
    def test_of_losses_of_yes_or_no_the_average_is_that_of_misses(self, alpha):
        for n in (5, 50, 500, 5000):
            misses = misses_allowed(n, alpha)
            allowed = mean_loss_allowed(n, alpha)
            assert (allowed < 0) == (misses < 0)
            assert misses < 0 or int(np.floor(allowed * n + 1e-6)) == misses

    @pytest.mark.parametrize(("n", "alpha"), [(100, 0.1), (400, 0.05), (1000, 0.02)])
    def test_with_confidence_a_loss_that_is_too_large_passes_seldom(self, n, alpha):
        allowed = mean_loss_allowed(n, alpha, 0.05)
        assert 0 < allowed < alpha
        random = stream(1, "losses", n)
        coins = random.binomial(n, alpha, 4000) / n
        shares = random.beta(0.5 * alpha, 0.5 * (1 - alpha), (2000, n)).mean(axis=1)
        assert np.mean(coins <= allowed) <= 0.055
        assert np.mean(shares <= allowed) <= 0.055

    def test_no_cases_promise_nothing(self):
        assert mean_loss_allowed(0, 0.5) == -1
        assert mean_loss_allowed(0, 0.5, 0.05) == -1
