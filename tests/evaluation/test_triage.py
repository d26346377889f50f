"""Clear, review, suspicious: what is promised, in which words, and what it brings."""

import numpy as np
import pytest

from sentinode.evaluation.conformal import NOTHING
from sentinode.evaluation.triage import (
    Promise,
    TriageCases,
    certify,
    clopper_pearson,
    operating_point,
    promises_by_site,
    triage_of,
    workload_curve,
)
from sentinode.seeds import stream


def cases(n=200, *, per_patient=2, prevalence=0.5, unit="slides", sites=("",), seed=1):
    """Slides of n patients, those with a tumour scoring higher."""
    rng = stream(seed, "triage cases")
    ill = rng.random(n) < prevalence
    own = rng.normal(0, 0.7, n)
    patient = np.repeat(np.arange(n), per_patient)
    z = 3.0 * ill[patient] - 1.5 + own[patient] + rng.normal(0, 0.7, len(patient))
    site = np.array(sites)[np.arange(n) % len(sites)]
    return TriageCases(1 / (1 + np.exp(-z)), ill[patient], patient.astype(str), site[patient], unit)


def test_so_many_patients_are_missed_as_the_promise_allows():
    ours = cases(300)
    promise = certify(ours, "average", alpha=0.05)
    point = operating_point(ours, promise, 0.1)
    assert point.n_missed == promise.misses > 0
    assert point.n_patients == promise.n_patients
    assert 0.3 < point.cleared_normal.value < 1
    assert point.cleared_normal.low < point.cleared_normal.value < point.cleared_normal.high


def test_a_confident_promise_clears_no_more_than_an_average_one():
    ours = cases(300)
    assert certify(ours, "confident", alpha=0.05).threshold <= certify(ours, "average", alpha=0.05).threshold


def test_the_workload_follows_the_stated_prevalence():
    ours = cases(300)
    promise = certify(ours, "average", alpha=0.05)
    point = operating_point(ours, promise, 0.2)
    assert point.workload.value == pytest.approx(0.8 * point.cleared_normal.value + 0.2 * point.cleared_tumour.value)
    below = ours.score < promise.threshold
    assert point.cleared_normal.value == pytest.approx(below[~ours.positive].mean())
    assert point.cleared_tumour.value == pytest.approx(below[ours.positive].mean())


def test_too_few_patients_clear_nothing_and_say_what_is_missing():
    promise = certify(cases(28, prevalence=1.0), "average", alpha=0.01)
    assert promise.threshold == NOTHING
    assert not promise.clears
    assert (promise.n_needed, promise.n_patients) == (99, 28)
    fourteen = Promise("confident", "slides", 0.01, 0.05, NOTHING, 14, -1)
    assert "14 patients with a tumour were seen" in fourteen.in_words()
    assert "takes 299. With 14, no less than 19 % can be promised" in fourteen.in_words()
    assert triage_of(0.0, promise) == "review"
    assert operating_point(cases(), promise, 0.1).workload.value == 0


def test_each_promise_is_named_for_what_it_is():
    ours = cases(1300)
    average, confident = (certify(ours, kind).in_words() for kind in ("average", "confident"))
    assert average.startswith("On average over laboratories that certify as here, at most 1 % of the patients")
    assert confident.startswith("With a probability of 95 % over the choice of the certify patients, at most 1 %")


def test_a_promise_about_patches_is_never_one_about_slides():
    ours = cases(1300, unit="patches")
    words = certify(ours, "average").in_words()
    assert "any of their tumour patches" in words
    assert "nothing is promised of slides" in words
    assert "slide called clear" not in words


def test_sites_have_promises_of_their_own_where_they_have_the_patients():
    ours = cases(200, sites=("lyon", "lyon", "lyon", "bergen"), prevalence=0.5)
    found = promises_by_site(ours, "average", alpha=0.02)
    assert [one.site for one in found] == ["bergen", "lyon"]
    assert [one.clears for one in found] == [False, True]
    assert "patients of bergen" not in found[1].in_words()
    assert " of lyon" in found[1].in_words()
    assert found[1].threshold == certify(ours.of("lyon"), "average", alpha=0.02).threshold


def test_what_cannot_be_judged_is_never_clear():
    promise = Promise("average", "slides", 0.1, None, 0.9, 30, 2)
    assert triage_of(float("nan"), promise) == "review"
    assert triage_of(float("inf"), promise) == "suspicious"
    one = TriageCases([np.inf, 0.1], [False, False], ["a", "b"], ["", ""], "slides")
    assert operating_point(one, promise, 0.1).cleared_normal.value == 0.5


def test_nothing_without_a_patient_gets_into_a_promise():
    with pytest.raises(ValueError, match="without a patient"):
        TriageCases([0.1], [True], [""], [""], "slides")
    with pytest.raises(ValueError, match="NaN"):
        TriageCases([np.nan], [True], ["a"], [""], "slides")


def test_the_curve_goes_from_nothing_saved_to_everything():
    curve = workload_curve(cases(100), 0.3)
    assert (curve.workload[0], curve.sensitivity[0]) == (0.0, 1.0)
    assert (curve.workload[-1], curve.sensitivity[-1]) == (1.0, 0.0)
    assert (np.diff(curve.workload) >= 0).all()
    assert (np.diff(curve.sensitivity) <= 0).all()
    assert (curve.low <= curve.workload + 1e-12).all()
    assert (curve.workload <= curve.high + 1e-12).all()
    assert len(curve.threshold) <= 202


def test_a_curve_of_one_class_has_what_can_be_had():
    curve = workload_curve(cases(10, prevalence=0.0), 0.1)
    assert np.isnan(curve.sensitivity).all()
    assert len(curve.workload) > 2


def test_intervals_are_over_patients_and_not_over_slides():
    # The same slides, once as ten patients of forty slides and once as four hundred patients.
    rng = stream(1, "few owners")
    score = np.clip(np.repeat(rng.random(10), 40) + 0.01 * rng.random(400), 0, 1)
    nobody = np.zeros(400, dtype=bool)
    promise = Promise("average", "slides", 0.1, None, 0.5, 30, 2)
    sites = [""] * 400
    few = operating_point(TriageCases(score, nobody, np.repeat(np.arange(10), 40), sites, "slides"), promise, 0.0)
    many = operating_point(TriageCases(score, nobody, np.arange(400), sites, "slides"), promise, 0.0)
    assert few.workload.high - few.workload.low > 3 * (many.workload.high - many.workload.low)


def test_the_exact_interval_knows_the_rule_of_three():
    assert clopper_pearson(0, 300).high == pytest.approx(0.0122, abs=1e-4)
    assert np.isnan(clopper_pearson(0, 0).value)


@pytest.mark.parametrize(("alpha", "delta"), [(0.0, 0.05), (1.0, 0.05), (0.01, 0.0)])
def test_impossible_promises_are_refused(alpha, delta):
    with pytest.raises(ValueError, match="shares above 0 and below 1"):
        certify(cases(10), "confident", alpha=alpha, delta=delta)
