import time

import numpy as np
import pytest
from sklearn import metrics as oracle

from sentinode.evaluation import bootstrap
from sentinode.evaluation.bootstrap import (
    RepeatPredictions,
    Statistic,
    bootstrap_difference,
    bootstrap_patients,
    roc_band,
)
from sentinode.evaluation.metrics import METRICS, auc, per_patient, roc_curve
from sentinode.seeds import stream


def study(n_patients=8, repeats=4, n_test=3, seed=1, separation=0.3, sizes=(5, 25)):
    """Repeats that test overlapping patients; patient 0 has positive patches only."""
    rng = stream(seed, "study")
    patients = []
    for patient in range(n_patients):
        n = int(rng.integers(*sizes))
        positive = np.ones(n, dtype=bool) if patient == 0 else rng.random(n) < 0.5
        proba = np.clip(separation * positive + (1 - separation) * rng.random(n) + rng.normal(0, 0.1), 0.01, 0.99)
        patients.append((positive, np.round(proba, 2)))
    parts = []
    for _ in range(repeats):
        chosen = rng.choice(n_patients, n_test, replace=False)
        parts.append(
            RepeatPredictions(
                np.concatenate([patients[i][0] for i in chosen]),
                np.concatenate([patients[i][1] for i in chosen]),
                np.repeat([f"p{i}" for i in chosen], [len(patients[i][0]) for i in chosen]),
            )
        )
    return parts


def slow_replicates(repeats, metric, average, ids, draws):
    """The plain way: copy every drawn patient's patches as often as he was drawn, and compute the metric anew."""
    rows = []
    for counts in draws.astype(int):
        drawn = dict(zip(ids, counts, strict=True))
        values = []
        for positive, proba, patient in repeats:
            copies = np.array([drawn[who] for who in patient])
            if average == "pooled":
                values.append(METRICS[metric].function(np.repeat(positive, copies), np.repeat(proba, copies)))
            else:
                own = per_patient(METRICS[metric], positive, proba, patient)
                values.append(
                    np.nanmean(np.repeat(own.values, [drawn[who] for who in own.patients]))
                    if sum(drawn[w] for w, v in zip(own.patients, own.values, strict=True) if np.isfinite(v))
                    else np.nan
                )
        rows.append(np.nanmean(values) if np.isfinite(values).any() else np.nan)
    return np.array(rows)


@pytest.mark.parametrize("average", ["pooled", "patients"])
@pytest.mark.parametrize("metric", list(METRICS))
def test_a_replicate_is_the_metric_of_patches_copied_as_their_patients_were_drawn(metric, average):
    repeats = study()
    ids, draws = bootstrap.draw_patients([r.patient for r in repeats], 40, seed=7)
    expected = slow_replicates(repeats, metric, average, ids, draws)
    interval = bootstrap_patients(repeats, [metric], n=40, seed=7)[metric, average]
    assert interval.mean == pytest.approx(expected[0], abs=1e-12)
    replicates = expected[1:][np.isfinite(expected[1:])]
    assert interval.n_replicates == len(replicates)
    assert interval.standard_error == pytest.approx(replicates.std(ddof=1), abs=1e-12)
    tail = bootstrap.expanded_tail(0.95, interval.n_effective)
    expected_ends = np.quantile(replicates, [tail, 1 - tail])
    assert (interval.low, interval.high) == pytest.approx(expected_ends, abs=1e-12)


@pytest.mark.parametrize("metric", list(METRICS))
def test_the_mean_and_sd_are_those_of_the_metric_over_the_repeats(metric):
    repeats = study(seed=2)
    found = bootstrap_patients(repeats, [metric], n=10)
    pooled = [METRICS[metric].function(positive, proba) for positive, proba, _ in repeats]
    within = [per_patient(METRICS[metric], *repeat).mean for repeat in repeats]
    for average, values in (("pooled", pooled), ("patients", within)):
        interval = found[Statistic(metric, average)]
        assert interval.per_repeat == pytest.approx(values, abs=1e-12)
        assert interval.mean == pytest.approx(np.mean(values))
        assert interval.sd == pytest.approx(np.std(values, ddof=1))


def test_one_large_draw_has_the_standard_error_of_a_mean_of_patients():
    # Patients of one patch each: the bootstrap of accuracy is the textbook binomial one.
    n, right = 60, 45
    proba = np.repeat([0.9, 0.1], [right, n - right])
    part = RepeatPredictions(np.ones(n, dtype=bool), proba, np.array([f"p{i:02d}" for i in range(n)]))
    interval = bootstrap_patients([part], ["accuracy"], n=4000)["accuracy", "pooled"]
    expected = np.sqrt(0.75 * 0.25 / n)
    assert interval.standard_error == pytest.approx(expected, rel=0.05)
    assert (interval.n_patients, interval.n_counted) == (60, 60)
    assert interval.n_effective == pytest.approx(60)
    # Hesterberg's widening: t for z, and sqrt(n / (n - 1)).
    assert interval.high - interval.low == pytest.approx(2 * 2.001 * expected * np.sqrt(60 / 59), rel=0.08)


def test_repeats_of_the_same_patients_do_not_narrow_the_interval():
    once = study(repeats=1, n_test=8)
    hundred_times = once * 100
    one, many = (bootstrap_patients(r, ["auc"], seed=3)["auc", "pooled"] for r in (once, hundred_times))
    assert (many.low, many.high) == pytest.approx((one.low, one.high))
    assert many.n_effective == pytest.approx(one.n_effective)
    assert many.n_repeats == 100


def test_copies_of_a_patients_patches_do_not_narrow_the_interval():
    part = study(repeats=1, n_test=8)[0]
    copied = RepeatPredictions(*(np.repeat(column, 5) for column in part))
    one, five = (bootstrap_patients([r], seed=3) for r in (part, copied))
    for statistic, interval in one.items():
        ends = (five[statistic].low, five[statistic].high)
        assert ends == pytest.approx((interval.low, interval.high), abs=1e-12), statistic


def test_the_same_seed_gives_the_same_interval_and_another_seed_another():
    repeats = study()
    first, again, other = (bootstrap_patients(repeats, ["auc"], n=200, seed=s) for s in (1, 1, 2))
    assert first == again
    assert first["auc", "pooled"].low != other["auc", "pooled"].low
    assert first["auc", "pooled"].mean == other["auc", "pooled"].mean


def test_the_order_of_the_rows_does_not_matter():
    part = study(repeats=1)[0]
    order = stream(4, "rows").permutation(len(part.positive))
    shuffled = RepeatPredictions(*(np.asarray(column)[order] for column in part))
    here, there = (bootstrap_patients([r], n=100)["auc", "pooled"] for r in (part, shuffled))
    assert (here.low, here.high) == pytest.approx((there.low, there.high), abs=1e-12)


def test_a_patient_of_one_class_counts_in_the_pooled_auc_and_not_in_his_own():
    part = study(repeats=1, n_test=8)[0]  # p0 has positive patches only
    found = bootstrap_patients([part], ["auc"], n=50)
    assert found["auc", "pooled"].n_counted == 8
    assert found["auc", "patients"].n_counted == 7
    assert found["auc", "patients"].n_patients == 8


def test_a_repeat_without_the_metric_is_left_out_of_the_mean_and_counted():
    full = study(repeats=1, n_test=8)[0]
    one_class = RepeatPredictions([True, True], [0.8, 0.9], ["p1", "p2"])
    interval = bootstrap_patients([full, one_class], ["auc"], n=50)["auc", "pooled"]
    assert interval.mean == pytest.approx(auc(full.positive, full.proba))
    assert np.isnan(interval.per_repeat[1])
    assert (interval.n_repeats, np.isnan(interval.sd)) == (1, True)


def test_one_patient_has_a_mean_and_no_interval():
    found = bootstrap_patients([([True, False], [0.9, 0.2], ["ann", "ann"])], n=20)
    for statistic, interval in found.items():
        assert np.isfinite(interval.mean), statistic
        assert np.isnan([interval.low, interval.high, interval.standard_error]).all(), statistic


def test_one_patient_who_holds_all_of_a_class_leaves_no_interval_for_it():
    part = RepeatPredictions([True, False, False, False], [0.9, 0.2, 0.6, 0.1], ["ann", "ann", "bo", "cy"])
    found = bootstrap_patients([part], ["sensitivity", "specificity"], n=50)
    assert np.isnan(found["sensitivity", "pooled"].low)
    assert np.isfinite(found["specificity", "pooled"].low)


def test_what_no_repeat_has_is_nan_throughout():
    interval = bootstrap_patients([([True, True], [0.9, 0.2], ["ann", "bo"])], ["auc"], n=20)["auc", "pooled"]
    assert np.isnan([interval.mean, interval.sd, interval.low, interval.high]).all()
    assert (interval.n_repeats, interval.n_replicates, interval.n_effective) == (0, 0, 0)


def test_a_large_patient_lowers_the_effective_number():
    patient = np.repeat(["ann", "bo", "cy"], [8, 1, 1])
    part = RepeatPredictions(np.arange(10) % 2 == 0, np.full(10, 0.6), patient)
    found = bootstrap_patients([part], ["accuracy"], n=20)
    assert found["accuracy", "pooled"].n_effective == pytest.approx(100 / 66)  # (8+1+1)^2 / (64+1+1)
    assert found["accuracy", "patients"].n_effective == pytest.approx(3)


def test_fewer_patients_are_given_a_wider_interval_than_plain_percentiles():
    tails = [bootstrap.expanded_tail(0.95, n) for n in (2, 5, 20, 10_000)]
    assert tails == sorted(tails)
    # By hand from the tables: t(0.975; 4) = 2.776, times sqrt(5/4) is 3.104, beyond which lies 0.00095 of a normal.
    assert bootstrap.expanded_tail(0.95, 5) == pytest.approx(0.00095, abs=1e-5)
    assert tails[-1] == pytest.approx(0.025, rel=1e-3)


def test_a_difference_is_paired_patient_by_patient():
    repeats = study(seed=5)
    harder = [RepeatPredictions(p, np.round(0.8 * np.asarray(s), 3), w) for p, s, w in repeats]
    found = bootstrap_difference(repeats, harder, n=60, seed=7)
    ids, draws = bootstrap.draw_patients([r.patient for r in repeats], 60, seed=7)
    for (metric, average), interval in found.items():
        one, other = (slow_replicates(r, metric, average, ids, draws) for r in (repeats, harder))
        # The mean over repeats of the difference is the difference of the means where both have all repeats.
        assert interval.mean == pytest.approx(one[0] - other[0], abs=1e-12)
        replicates = (one - other)[1:]
        expected = np.nanstd(replicates, ddof=1)
        assert interval.standard_error == pytest.approx(expected, abs=1e-9), (metric, average)


def test_an_algorithm_does_not_differ_from_itself():
    for interval in bootstrap_difference(study(), study(), n=50).values():
        assert (interval.mean, interval.low, interval.high) == (0, 0, 0)


def test_pairing_narrows_the_difference_of_two_that_find_the_same_patients_hard():
    repeats = study(n_patients=12, n_test=6, seed=6)
    twin = [RepeatPredictions(p, np.clip(np.asarray(s) + 0.01, 0, 1), w) for p, s, w in repeats]
    paired = bootstrap_difference(repeats, twin, ["accuracy"])["accuracy", "pooled"]
    alone = bootstrap_patients(repeats, ["accuracy"])["accuracy", "pooled"]
    assert paired.standard_error < 0.5 * alone.standard_error


def test_a_difference_of_other_patients_is_refused():
    with pytest.raises(ValueError, match="same test patients"):
        bootstrap_difference(study(seed=1), study(seed=9))
    with pytest.raises(ValueError, match="same test patients"):
        bootstrap_difference(study(repeats=2), study(repeats=3)[:1])


def test_the_interval_holds_the_truth_about_as_often_as_it_says():
    # Nineteen patients of unequal size whose share of right patches varies around the truth of 0.75; the wider study
    # is benchmarks/interval_coverage.py.
    held = []
    for number in range(200):
        rng = stream(number, "coverage")
        sizes = np.clip(rng.lognormal(3, 0.7, 19), 4, 150).astype(int)
        right = rng.random(sizes.sum()) < np.repeat(rng.beta(3, 1, 19), sizes)
        patient = np.repeat(np.arange(19), sizes)
        parts = []
        for _ in range(4):
            rows = np.isin(patient, rng.choice(19, 8, replace=False))
            parts.append((right[rows], np.ones(rows.sum()), patient[rows]))
        interval = bootstrap_patients(parts, ["accuracy"], n=400, seed=number)["accuracy", "pooled"]
        held.append(interval.low <= 0.75 <= interval.high)
    assert 0.88 <= np.mean(held) <= 0.985  # four standard errors below 95 %, two above


def test_two_thousand_replicates_of_ten_repeats_take_well_under_a_second():
    repeats = study(n_patients=19, repeats=10, n_test=5, sizes=(10, 100))
    start = time.process_time()
    found = bootstrap_patients(repeats, n=2000)
    assert time.process_time() - start < 1.0
    assert len(found) == 2 * len(METRICS)


def test_the_mean_roc_curve_is_the_vertical_average_of_the_repeats():
    repeats = study(seed=8, n_test=4)
    grid = np.linspace(0, 1, 11)
    band = roc_band(repeats, grid, n=50)
    curves = []
    for positive, proba, _ in repeats:
        false, true, _ = oracle.roc_curve(positive, proba, drop_intermediate=False)
        curves.append(np.interp(grid, false, true))
    np.testing.assert_allclose(band.true_positive_rate, np.mean(curves, axis=0))
    assert band.true_positive_rate[-1] == 1


def test_the_band_is_that_of_curves_weighted_by_the_draws():
    repeats = study(seed=8, n_test=4)
    grid = np.array([0.1, 0.3, 0.7])
    band = roc_band(repeats, grid, n=40, seed=3)
    ids, draws = bootstrap.draw_patients([r.patient for r in repeats], 40, 3)
    replicates = []
    for counts in draws[1:]:
        drawn = dict(zip(ids, counts, strict=True))
        curves = [roc_curve(p, s, [drawn[who] for who in w]) for p, s, w in repeats]
        values = [np.interp(grid, c.false_positive_rate, c.true_positive_rate) for c in curves]
        replicates.append(np.nanmean(values, axis=0))
    effective = bootstrap_patients(repeats, ["auc"], n=2)["auc", "pooled"].n_effective
    tail = bootstrap.expanded_tail(0.95, effective)
    np.testing.assert_allclose(band.low, np.quantile(replicates, tail, axis=0))
    np.testing.assert_allclose(band.high, np.quantile(replicates, 1 - tail, axis=0))


def test_a_band_without_both_classes_is_nan():
    band = roc_band([([True, True], [0.9, 0.2], ["ann", "bo"])], [0.0, 0.5], n=10)
    assert np.isnan([band.true_positive_rate, band.low, band.high]).all()
    assert band.n_repeats == 0


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: bootstrap_patients([]), "no repeat"),
        (lambda: bootstrap_patients(study(), ["f1"]), "unknown metrics f1; there are accuracy"),
        (lambda: bootstrap_patients([([True], [0.5], ["ann", "bo"])]), "repeat 0: patient"),
    ],
)
def test_what_cannot_be_drawn_from_is_refused(call, said):
    with pytest.raises(ValueError, match=said):
        call()
