"""The rules of CAMELYON16, each on a case made by hand."""

import numpy as np
import pytest

from sentinode.evaluation.bootstrap import draw_patients, effective_number, expanded_tail
from sentinode.evaluation.froc import RATES, Detections, SlideHits, froc, froc_of_hits, froc_spread, lesion_truth
from sentinode.seeds import stream

UM, DOWNSAMPLE = 10.0, (40.0, 40.0)  # a pixel of the grid is 10 um and 40 level-0 pixels wide


def truth(*boxes, size=(200, 200)):
    """Drawn squares (x, y, width, height) in pixels of the grid."""
    mask = np.zeros(size, dtype=bool)
    for x, y, width, height in boxes:
        mask[y : y + height, x : x + width] = True
    return lesion_truth(mask, UM, DOWNSAMPLE)


def points(*found):
    """(confidence, x, y) in pixels of the grid -> detections in level-0 pixels."""
    rows = np.array(found, dtype=float).reshape(-1, 3)
    return Detections(rows[:, 0], (rows[:, 1:] + 0.5) * 40)


def test_a_gap_under_75_um_closes_and_a_wider_one_does_not():
    # Distances go from middle to middle of the pixels: on a grid of 10 um the last gap that closes is 60 um.
    near = truth((20, 20, 30, 30), (56, 20, 30, 30))  # 60 um between them
    far = truth((20, 20, 30, 30), (59, 20, 30, 30))  # 90 um
    assert (len(near.counted), len(far.counted)) == (1, 2)


def test_a_lesion_below_200_um_is_isolated_cells_and_hitting_it_is_nothing():
    small = truth((20, 20, 10, 10))  # 100 um, grown to 170
    assert small.counted == frozenset()
    assert small.labels.max() == 1
    large = truth((100, 100, 40, 40))
    found = froc([(small, points((0.9, 25, 25))), (large, points((0.8, 120, 120)))])
    assert (found.n_lesions, found.n_isolated) == (1, 1)
    assert found.score == 1.0
    assert found.false_alarms.max() == 0


def test_the_limit_is_on_the_major_axis_of_what_was_grown():
    """A bar of 5 px (50 um) that is long enough: only its length decides."""
    assert len(truth((20, 20, 40, 5)).counted) == 1
    assert len(truth((20, 20, 12, 5)).counted) == 0


def test_holes_are_filled():
    mask = np.zeros((200, 200), bool)
    mask[20:100, 20:100] = True
    mask[50:70, 50:70] = False
    ring = lesion_truth(mask, UM, DOWNSAMPLE)
    assert ring.at([[60 * 40.0, 60 * 40.0]]).tolist() == [1]


def test_several_detections_in_a_lesion_count_once_with_the_best():
    found = froc([(truth((50, 50, 50, 50)), points((0.3, 60, 60), (0.9, 70, 70), (0.5, 10, 10)))])
    assert found.at_rates == (1.0,) * len(RATES), "found at 0.9, before the first false alarm"
    assert found.false_alarms.max() == 1


def test_false_alarms_are_averaged_over_all_slides_healthy_ones_too():
    lesion = (truth((50, 50, 50, 50)), points((0.5, 60, 60), (0.9, 10, 10)))
    healthy = (truth(), points((0.8, 10, 10), (0.7, 90, 90)))
    found = froc([lesion, healthy])
    # Above 0.5 there are three false alarms on two slides, and only at 0.5 the lesion.
    assert found.false_alarms.max() == 1.5
    assert dict(zip(found.false_alarms.tolist(), found.sensitivity.tolist(), strict=False))[1.0] == 0
    assert found.at_rates == (0.0, 0.0, 0.0, 1.0, 1.0, 1.0)
    assert found.score == 0.5


def test_between_two_rates_the_sensitivity_is_interpolated():
    """One of two lesions before any false alarm, the other after one alarm on the only slide."""
    slide = truth((20, 20, 40, 40), (120, 120, 40, 40))
    found = froc([(slide, points((0.9, 30, 30), (0.8, 90, 90), (0.7, 130, 130)))])
    # (rate, sensitivity): (0, 0), (0, 1/2), (1, 1/2), (1, 1)
    assert found.at_rates == pytest.approx((0.5, 0.5, 1.0, 1.0, 1.0, 1.0))
    assert found.score == pytest.approx(5 / 6)


def test_a_missed_lesion_is_missed_at_every_rate():
    found = froc([(truth((20, 20, 40, 40), (120, 120, 40, 40)), points((0.9, 30, 30)))])
    assert found.at_rates == (0.5,) * len(RATES)


def test_points_beyond_the_slide_are_false_alarms():
    found = froc([(truth((20, 20, 40, 40)), points((0.9, -5, 30), (0.8, 500, 30)))])
    assert found.false_alarms.max() == 2


def test_without_a_lesion_there_is_no_score():
    found = froc([(truth(), points((0.9, 30, 30)))])
    assert np.isnan(found.score)
    assert found.n_lesions == 0


def test_no_slide_and_no_number_are_errors():
    with pytest.raises(ValueError, match="no slide"):
        froc([])
    with pytest.raises(ValueError, match="not finite"):
        froc([(truth(), points((np.nan, 1, 1)))])


def test_the_interval_is_what_drawing_patients_anew_gives():
    """The quick way, by counts at the bends of the curve, against the plain one: the whole measure again and again."""
    rng = stream(1, "froc spread")
    patients = ["a", "a", "b", "c", "d", "e"]
    slides = [
        SlideHits(
            rng.random(rng.integers(0, 30)).round(1),  # equal confidences, too
            np.where(rng.random(n) < 0.2, -np.inf, rng.random(n).round(1)),
            0,
        )
        for n in (3, 0, 2, 4, 0, 1)
    ]
    ids, draws = draw_patients([np.asarray(patients)], 200, 1)
    plain = []
    for draw in draws[1:].astype(int):
        drawn = [slides[at] for name, times in zip(ids, draw, strict=True) for at in places(patients, name) * times]
        if any(len(one.best) for one in drawn):
            found = froc_of_hits(drawn)
            plain.append((found.score, *found.at_rates))
    tail = expanded_tail(0.95, effective_number(np.array([3.0, 2.0, 4.0, 0.0, 1.0])))
    low, high = np.quantile(plain, [tail, 1 - tail], axis=0)
    spread = froc_spread(slides, patients, n=200)
    assert np.column_stack([low, high]) == pytest.approx(np.array([spread.score, *spread.at_rates]))


def places(patients, name):
    return [place for place, one in enumerate(patients) if one == name]


def test_one_patient_with_lesions_has_no_interval():
    slides = [SlideHits(np.array([0.5]), np.array([0.9, 0.2]), 0), SlideHits(np.array([0.1]), np.array([]), 0)]
    assert np.isnan(froc_spread(slides, ["ann", "bo"]).score).all()
    with pytest.raises(ValueError, match="give each slide its patient"):
        froc_spread(slides, ["ann"])
