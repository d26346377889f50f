"""Peaks of drawn maps, and the file that CAMELYON16 asks for."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.distance import pdist

from sentinode.errors import ExportError, ManifestError
from sentinode.evaluation.froc import Detections
from sentinode.inference.detections import read_detections, tile_peaks, write_detections
from sentinode.seeds import stream


@pytest.fixture
def hilly(predict_discs):
    """Tiles of 96 um with a probability of their own each."""
    drawn = predict_discs([])
    positive = stream(1, "hilly").random(len(drawn)).astype(np.float32)
    return replace(drawn, proba=np.stack([1 - positive, positive], axis=1))


def test_peaks_are_what_is_highest_within_the_radius(hilly):
    found = tile_peaks(hilly, radius_um=187)
    assert pdist(found.xy).min() > 187 / 0.243 - 1
    assert (np.diff(found.confidence) <= 0).all()
    # Every tile has a peak at least as high within the radius: nothing was passed over.
    centres = hilly.boxes[:, :2] + hilly.boxes[:, 2:] / 2
    distance = np.hypot(*(centres[:, None] - found.xy[None]).transpose(2, 0, 1))
    near = np.where(distance <= 187 / 0.243 + 1, found.confidence[None], -1).max(axis=1)
    assert (near >= hilly.positive).all()
    assert found.confidence[0] == hilly.positive.max()


def test_without_a_radius_every_tile_above_the_minimum_is_one(hilly):
    assert len(tile_peaks(hilly, 0.0, minimum=0.75).xy) == (hilly.positive >= 0.75).sum()


def test_what_was_not_recognised_is_no_peak(hilly):
    flag, proba = hilly.flag.astype("U8"), hilly.proba.copy()
    highest = int(hilly.positive.argmax())
    flag[highest], proba[highest] = "blur", np.nan
    found = tile_peaks(replace(hilly, flag=flag, proba=proba))
    assert found.confidence[0] == np.sort(hilly.positive)[-2]
    nothing = replace(hilly, flag=np.full(len(hilly), "blur"), proba=np.full_like(hilly.proba, np.nan))
    assert len(tile_peaks(nothing).confidence) == 0


def test_a_radius_below_nothing_is_refused(hilly):
    with pytest.raises(ValueError, match="radius_um = -1"):
        tile_peaks(hilly, -1)


def test_a_file_is_read_as_it_was_written(hilly, tmp_path):
    found = tile_peaks(hilly)
    write_detections(found, tmp_path / "a.csv")
    again = read_detections(tmp_path / "a.csv")
    assert np.array_equal(again.confidence, found.confidence)
    assert np.array_equal(again.xy, found.xy)
    first = (tmp_path / "a.csv").read_text().partition("\n")[0].split(",")
    assert [float(first[0]), int(first[1]), int(first[2])] == [found.confidence[0], *found.xy[0]]


def test_nothing_pointed_at_is_an_empty_file(tmp_path):
    write_detections(Detections(np.zeros(0), np.zeros((0, 2))), tmp_path / "a.csv")
    assert (tmp_path / "a.csv").read_bytes() == b""
    assert read_detections(tmp_path / "a.csv").xy.shape == (0, 2)


@pytest.mark.parametrize("line", ["confidence,x,y", "0.5,1", "0.5,1,2,3", "nan,1,2", "0.5;1;2"])
def test_what_is_no_point_is_told_by_its_line(tmp_path, line):
    (tmp_path / "a.csv").write_text(f"0.9,10,20\n{line}\n")
    with pytest.raises(ManifestError, match=r"a\.csv, line 2: .* is not confidence,x,y"):
        read_detections(tmp_path / "a.csv")


def test_files_that_cannot_be_are_refused(tmp_path):
    with pytest.raises(ManifestError, match="cannot be read"):
        read_detections(tmp_path / "absent.csv")
    (tmp_path / "file").write_text("")
    with pytest.raises(ExportError, match="cannot be written"):
        write_detections(Detections(np.zeros(0), np.zeros((0, 2))), tmp_path / "file" / "a.csv")
