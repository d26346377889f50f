"""The small network: what it is made of, what it is shown, and that it says what it says it does."""

import numpy as np
import pytest

from sentinode.algorithms.distilled_cnn import SMALL_STAGES, DistilledCNN
from sentinode.errors import PlanError
from sentinode.seeds import stream

torch = pytest.importorskip("torch", reason="the extra 'train' is not installed", exc_type=ImportError)

from sentinode.algorithms.fine_tuning import fine_tunable, mixed_laboratories, small_student  # noqa: E402


def test_the_student_begins_with_the_layers_of_its_teacher():
    student, teacher = small_student(SMALL_STAGES, 2, seed=1), fine_tunable(96, 2, 0.2, seed=1)
    of_student = {
        key: value for key, value in student.state_dict().items() if not key.startswith(f"{len(student) - 1}.")
    }
    of_teacher = list(teacher.state_dict().values())
    assert len(of_student) == 5 * (1 + 2 + 3 * 8)  # stem, a first block of two, eight of three convolutions
    assert all(torch.equal(mine, given) for mine, given in zip(of_student.values(), of_teacher, strict=False))


def test_the_student_is_as_large_as_it_says():
    student, rows = small_student(SMALL_STAGES, 3, seed=1), DistilledCNN().describe((96, 96))
    said = sum(row.parameters for row in rows) + 113  # of a third class
    assert sum(weight.numel() for weight in student.parameters()) == said
    assert student(torch.zeros(2, 3, 96, 96)).shape == (2, 3)
    assert student[:-2](torch.zeros(1, 3, 96, 96)).shape[1:] == (112, 6, 6)
    assert rows[-3].output == "6 x 6 x 112"


def test_about_half_of_the_images_are_blended_with_another_one_of_their_batch(monkeypatch):
    monkeypatch.setattr("sentinode.algorithms.fine_tuning.other_laboratory", lambda batch, _generator: batch)
    grey = torch.arange(200, dtype=torch.uint8)[:, None, None, None].expand(200, 3, 4, 4).contiguous()
    mixed = mixed_laboratories(grey, stream(1, "mixed"))
    assert mixed.dtype == torch.uint8
    assert mixed.shape == grey.shape
    levels = mixed.float().mean((1, 2, 3)).numpy()
    changed = levels != np.arange(200)
    assert 0.35 < changed.mean() < 0.65
    assert np.corrcoef(levels, np.arange(200))[0, 1] > 0.8, "each keeps the larger share of itself"
    assert torch.equal(mixed, mixed_laboratories(grey, stream(1, "mixed")))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"temperature": 0.5}, "temperature = 0.5: it must be a number from 1"),
        ({"patches_seen": 0}, "patches_seen = 0: it must be a whole number"),
        ({"teacher_patches_seen": 2.5}, r"teacher_patches_seen = 2\.5: it must be a whole number"),
        ({"learning_rate": -1}, "learning_rate = -1"),
    ],
)
def test_settings_that_cannot_be_are_refused(setting, message):
    with pytest.raises(PlanError, match=message):
        DistilledCNN(**setting).describe((96, 96))


def test_its_log_names_teacher_and_student_and_it_knows_what_the_teacher_knows():
    rng = stream(1, "distilled")
    y = np.array(["normal", "tumour"] * 12)
    X = rng.integers(120, 200, (24, 32, 32, 3)).astype(np.uint8)
    X[1::2, 8:24, 8:24] //= 2
    heard = []
    fitted = DistilledCNN(epochs=4, batch_size=8, teacher_patches_seen=120).fit(X, y, on_epoch=heard.append)
    assert [record.stage for record in heard] == ["teacher"] * 5 + ["student"] * 4
    assert fitted.log_ == tuple(heard)
    assert fitted.network_ is not fitted.teacher_.network_
    assert fitted.log_[-1].loss < fitted.log_[5].loss
