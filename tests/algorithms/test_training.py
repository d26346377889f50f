"""The training loop: what it learns, when it stops, and that an interruption changes nothing."""

import json
import math
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from sentinode.errors import ExportError, ModelError, PlanError
from sentinode.seeds import stream

torch = pytest.importorskip("torch", reason="the extra 'train' is not installed")

from sentinode.algorithms.layers import BatchNorm, Conv, Dense, Dropout, Pool, build_network  # noqa: E402
from sentinode.algorithms.training import (  # noqa: E402 - after the check for torch
    Standardiser,
    Teacher,
    TrainingPlan,
    fit_network,
    predict_network,
    random_orientations,
    use_bf16,
    use_device,
)

SIDE = 16
LAYERS = (Conv(6, activation="linear"), BatchNorm(), Pool(), Dense(12), Dropout(0.3))


class Interruption(Exception):  # noqa: N818 - a test's own, no error of the package
    pass


@pytest.fixture(scope="module")
def patches():
    """Return 60 patches of noise whose class is a brighter square in the middle, and their codes."""
    rng = stream(1, "test patches")
    codes = rng.integers(2, size=60)
    pixels = rng.integers(60, 140, size=(60, SIDE, SIDE, 3)).astype(np.uint8)
    pixels[codes == 1, 5:11, 5:11] += 60
    return pixels, codes


def network(seed=1):
    return build_network(LAYERS, (SIDE, SIDE), n_classes=2, seed=seed)


def penalty(net):
    return 0.001 * net.get_submodule("softmax").weight.square().sum()


def fit(net, patches, **changes):
    pixels, codes = patches
    plan = TrainingPlan(**{"epochs": 5, "batch_size": 8, "learning_rate": 3e-3} | changes.pop("plan", {}))
    arguments = {
        "prepare": Standardiser.of(pixels[:40]),
        "plan": plan,
        "seed": 1,
        "stop": (pixels[40:], codes[40:]),
        "penalty": penalty,
        "augment": random_orientations,
    }
    return fit_network(net, pixels[:40], codes[:40], **(arguments | changes))


def stop_after(epoch, error=Interruption):
    def on_epoch(record):
        if record.epoch == epoch:
            raise error

    return on_epoch


def same_weights(first, second):
    states = first.state_dict(), second.state_dict()
    return all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def without_seconds(log):
    return [(r.epoch, r.loss, r.stop_loss, r.stop_auc, dict(r.values)) for r in log.records]


@pytest.fixture(scope="module")
def teacher(patches):
    net = network(seed=7)
    fit(net, patches, plan={"epochs": 12}, penalty=None)
    return Teacher(net, Standardiser.of(patches[0][:40]), 2.0)


def test_a_student_learns_what_its_teacher_says_and_not_the_labels(patches, teacher):
    pixels, codes = patches
    student = network(seed=2)
    wrong = pixels, 1 - codes
    log = fit(student, wrong, plan={"epochs": 25}, teacher=teacher, stop=None, penalty=None)
    assert log.records[-1].loss < 0.5 * log.records[0].loss
    found = predict_network(student, pixels[40:], prepare=Standardiser.of(pixels[:40]))[:, 1]
    told = predict_network(teacher.network, pixels[40:], prepare=teacher.prepare)[:, 1]
    assert np.corrcoef(found, told)[0, 1] > 0.9
    assert np.corrcoef(found, codes[40:])[0, 1] > 0.7, "and not -0.7, as the labels would have it"


def test_the_loss_of_a_student_is_the_divergence_from_its_teacher():
    logits = torch.tensor([[2.0, -1.0], [0.5, 0.0]])
    teacher = Teacher(torch.nn.Identity(), lambda batch: batch, 2.0)
    answers = teacher.answers(logits, bf16=False)
    assert answers.numpy() == pytest.approx(torch.softmax(logits / 2, dim=1).numpy())
    assert float(teacher.loss(logits, answers)) == pytest.approx(0, abs=1e-6)
    other = torch.tensor([[0.0, 0.0], [0.0, 0.0]])
    expected = 4 * (answers * (answers * 2).log()).sum(dim=1).mean()
    assert float(teacher.loss(other, answers)) == pytest.approx(float(expected), rel=1e-5)


def test_a_student_goes_on_from_its_checkpoint_and_not_with_another_teacher(patches, teacher, tmp_path):
    whole = network()
    expected = fit(whole, patches, teacher=teacher)
    with pytest.raises(Interruption):
        fit(network(), patches, teacher=teacher, checkpoint=tmp_path, on_epoch=stop_after(3))
    other, epochs = network(), []
    fit(other, patches, teacher=replace(teacher, temperature=1.0), checkpoint=tmp_path / "x", on_epoch=epochs.append)
    assert not same_weights(other, whole)
    again, epochs = network(), []
    log = fit(again, patches, teacher=teacher, checkpoint=tmp_path, on_epoch=epochs.append)
    assert [record.epoch for record in epochs] == [4, 5]
    assert same_weights(again, whole)
    assert without_seconds(log) == without_seconds(expected)
    begun, epochs = network(), []
    fit(begun, patches, teacher=replace(teacher, temperature=1.0), checkpoint=tmp_path, on_epoch=epochs.append)
    assert [record.epoch for record in epochs] == [1, 2, 3, 4, 5], "the checkpoint is of another teacher"


def test_an_easy_task_is_learned(patches):
    net = network()
    log = fit(net, patches, plan={"epochs": 12})
    assert log.records[-1].loss < 0.7 * log.records[0].loss
    assert log.records[log.best_epoch - 1].stop_auc > 0.95
    assert all(record.seconds > 0 for record in log.records)


@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize("keep", ["best", "last"])
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_a_training_that_was_interrupted_reaches_the_same_bits(patches, tmp_path, precision, optimizer, keep):
    plan = {"precision": precision, "optimizer": optimizer, "keep": keep}
    whole = network()
    whole_log = fit(whole, patches, plan=plan)
    for epoch in (1, 3):  # killed twice
        with pytest.raises(Interruption):
            fit(network(), patches, plan=plan, checkpoint=tmp_path, on_epoch=stop_after(epoch))
    resumed, seen = network(), []
    log = fit(resumed, patches, plan=plan, checkpoint=tmp_path, on_epoch=lambda record: seen.append(record.epoch))
    assert seen == [4, 5]
    assert same_weights(whole, resumed)
    assert without_seconds(log) == without_seconds(whole_log)
    assert log.best_epoch == whole_log.best_epoch


def test_ctrl_c_in_the_middle_of_an_epoch_loses_that_epoch_only(patches, tmp_path):
    calls = []

    def augment(batch, generator):
        calls.append(1)
        if len(calls) == 1 + 2 * 5 + 3:  # one for the digest, two epochs of five batches, the third batch
            raise KeyboardInterrupt
        return random_orientations(batch, generator)

    whole = network()
    fit(whole, patches)
    with pytest.raises(KeyboardInterrupt):
        fit(network(), patches, checkpoint=tmp_path, augment=augment)
    resumed, seen = network(), []
    fit(resumed, patches, checkpoint=tmp_path, on_epoch=lambda record: seen.append(record.epoch))
    assert seen == [3, 4, 5]
    assert same_weights(whole, resumed)


def test_a_finished_training_is_not_repeated(patches, tmp_path):
    first, second = network(), network()
    log = fit(first, patches, checkpoint=tmp_path)
    assert fit(second, patches, checkpoint=tmp_path, on_epoch=stop_after(1)) == log
    assert same_weights(first, second)
    assert [path.name for path in tmp_path.iterdir()] == ["train.safetensors"]


def other_pixels(patches):
    pixels = patches[0].copy()
    pixels[0, 0, 0] ^= 1
    return pixels, patches[1]


def other_label(patches):
    codes = patches[1].copy()
    codes[0] = 1 - codes[0]
    return patches[0], codes


@pytest.mark.parametrize(
    ("start", "change", "data"),
    [
        (1, {"plan": {"epochs": 6}}, None),
        (1, {"plan": {"batch_size": 10}}, None),
        (1, {"seed": 2}, None),
        (1, {"augment": None}, None),
        (1, {"penalty": None}, None),
        (1, {"stop": None}, None),
        (2, {}, None),
        (1, {}, other_pixels),
        (1, {}, other_label),
    ],
)
def test_a_checkpoint_of_another_training_is_not_continued(patches, tmp_path, start, change, data):
    with pytest.raises(Interruption):
        fit(network(), patches, checkpoint=tmp_path, on_epoch=stop_after(1))
    changed = patches if data is None else data(patches)
    seen = []
    net, fresh = network(start), network(start)
    fit(net, changed, checkpoint=tmp_path, on_epoch=lambda record: seen.append(record.epoch), **change)
    fit(fresh, changed, **change)
    assert seen[0] == 1
    assert same_weights(net, fresh)


def test_a_damaged_checkpoint_is_replaced(patches, tmp_path):
    whole, resumed = network(), network()
    fit(whole, patches, plan={"epochs": 2}, checkpoint=tmp_path)
    file = tmp_path / "train.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    fit(resumed, patches, plan={"epochs": 2}, checkpoint=tmp_path)
    assert same_weights(whole, resumed)


def test_a_checkpoint_is_readable_without_this_package(patches, tmp_path):
    fit(network(), patches, plan={"epochs": 2}, checkpoint=tmp_path, stage="fine tune")
    stored = (tmp_path / "fine-tune.safetensors").read_bytes()
    header = json.loads(stored[8 : 8 + int.from_bytes(stored[:8], "little")])
    state = json.loads(header["__metadata__"]["state"])
    assert [record["epoch"] for record in state["records"]] == [1, 2]
    assert header["network/1-conv.weight"]["shape"] == [6, 3, 3, 3]


def test_a_checkpoint_that_cannot_be_written_is_an_error_that_names_it(patches, tmp_path):
    occupied = tmp_path / "occupied"
    occupied.write_text("not a folder")
    with pytest.raises(ExportError, match=r"occupied.train\.safetensors cannot be written"):
        fit(network(), patches, checkpoint=occupied)


def test_the_weights_of_the_best_epoch_are_kept(patches):
    net = network()
    plan = {"epochs": 8, "learning_rate": 0.1, "schedule": "constant", "precision": "float32"}
    log = fit(net, patches, plan=plan)
    pixels, codes = patches
    proba = predict_network(net, pixels[40:], prepare=Standardiser.of(pixels[:40]), precision="float32")
    kept = -np.log(proba[np.arange(20), codes[40:]].astype(np.float64)).mean()
    losses = [record.stop_loss for record in log.records]
    assert log.best_epoch < 8  # else the test shows nothing
    assert losses[log.best_epoch - 1] == min(losses)
    assert kept == pytest.approx(min(losses), rel=1e-4)


def test_training_stops_when_patience_runs_out(patches):
    log = fit(network(), patches, plan={"epochs": 40, "learning_rate": 0.03, "patience": 2})
    assert log.stopped_early
    assert len(log.records) == log.best_epoch + 2 < 40
    endless = fit(network(), patches, plan={"epochs": 12, "learning_rate": 0.03, "patience": 0})
    assert (endless.stopped_early, len(endless.records)) == (False, 12)


@pytest.mark.parametrize("stop", [None, (np.zeros((0, SIDE, SIDE, 3), np.uint8), np.zeros(0, np.int64))])
def test_without_a_stop_part_the_last_epoch_counts(patches, stop):
    log = fit(network(), patches, plan={"epochs": 3, "patience": 1}, stop=stop)
    assert (log.best_epoch, len(log.records), log.stopped_early) == (3, 3, False)
    assert all(math.isnan(record.stop_loss) and math.isnan(record.stop_auc) for record in log.records)


def test_a_stop_part_of_one_class_has_a_loss_and_no_auc(patches):
    pixels, codes = patches
    only = np.flatnonzero(codes == 1)
    log = fit(network(), patches, plan={"epochs": 1}, stop=(pixels[only], codes[only]))
    assert math.isfinite(log.records[0].stop_loss)
    assert math.isnan(log.records[0].stop_auc)


def test_a_training_that_diverges_says_in_which_epoch_and_what_to_do(patches):
    def explode_later(net):
        return penalty(net) * (float("inf") if calls.append(1) or len(calls) > 5 else 1.0)

    calls = []
    with pytest.raises(ModelError, match=r"diverged in epoch 2: .*\nLower learning_rate, e\.g\. to 0\.0003"):
        fit(network(), patches, penalty=explode_later)


def test_the_seed_decides_the_weights_and_torch_is_left_as_it_was(patches):
    torch.manual_seed(7)
    settings = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    expected = torch.rand(3)
    nets = [network(), network(), network()]
    torch.manual_seed(7)
    for net, seed in zip(nets, (1, 1, 2), strict=True):
        fit(net, patches, seed=seed, plan={"epochs": 2, "threads": 1})
    assert torch.equal(torch.rand(3), expected)
    assert (torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()) == settings
    assert same_weights(nets[0], nets[1])
    assert not same_weights(nets[0], nets[2])


def test_lazy_patches_and_a_read_only_memmap_train_as_an_array_does(patches, tmp_path):
    pixels, codes = patches

    class Lazy:
        def __len__(self) -> int:
            return 40

        def __getitem__(self, key) -> np.ndarray:
            return pixels[:40][key]

    np.save(tmp_path / "patches.npy", pixels[:40])
    nets = []
    for images in (pixels[:40], Lazy(), np.load(tmp_path / "patches.npy", mmap_mode="r")):
        nets.append(network())
        plan = TrainingPlan(epochs=2, batch_size=16)
        fit_network(nets[-1], images, codes[:40], prepare=Standardiser.of(images), plan=plan, seed=1)
    assert same_weights(nets[0], nets[1])
    assert same_weights(nets[0], nets[2])


def test_probabilities_are_those_of_the_plain_network(patches):
    net, pixels = network().eval(), patches[0]
    standardiser = Standardiser.of(pixels)
    with torch.no_grad():
        inputs = torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)))
        plain = torch.softmax(net(standardiser(inputs)), dim=1).numpy()
    fast = {
        precision: predict_network(net, pixels, prepare=standardiser, batch_size=7, precision=precision)
        for precision in ("float32", "bf16")
    }
    assert fast["float32"].dtype == np.float32
    np.testing.assert_allclose(fast["float32"], plain, atol=1e-6)
    np.testing.assert_allclose(fast["bf16"], plain, atol=5e-3)
    np.testing.assert_allclose(fast["bf16"].sum(axis=1), 1, atol=1e-6)
    assert len(np.unique(fast["bf16"][:, 1])) == len(pixels)  # the last layer is float32: no ties


def test_no_patch_at_all_is_refused(patches):
    with pytest.raises(ModelError, match="no image to recognise"):
        predict_network(network(), patches[0][:0], prepare=Standardiser.of(patches[0]))


@pytest.mark.parametrize("per", ["channel", "pixel"])
def test_standardised_training_pixels_have_mean_zero_and_sd_one(patches, per):
    pixels = patches[0].copy()
    pixels[..., 2] = 255  # a channel that never varies
    values = Standardiser.of(pixels, per=per)(torch.from_numpy(pixels).permute(0, 3, 1, 2)).numpy()
    axes = (0, 2, 3) if per == "channel" else (0,)
    np.testing.assert_allclose(values.mean(axis=axes), 0, atol=1e-4)
    np.testing.assert_allclose(values[:, :2].std(axis=axes), 1, atol=1e-4)
    assert not values[:, 2].any()


def test_statistics_do_not_depend_on_how_the_patches_are_read():
    pixels = stream(3, "test").integers(256, size=(300, 4, 4, 3)).astype(np.uint8)  # two chunks
    standardiser = Standardiser.of(pixels)
    np.testing.assert_allclose(standardiser.mean, pixels.mean(axis=(0, 1, 2)), rtol=1e-6)
    np.testing.assert_allclose(standardiser.sd, pixels.std(axis=(0, 1, 2)), rtol=1e-6)


@pytest.mark.parametrize(("shape", "n_orientations"), [((5, 5), 8), ((4, 6), 4)])
def test_orientations_keep_every_pixel_and_all_occur(shape, n_orientations):
    image = torch.arange(3 * math.prod(shape), dtype=torch.uint8).reshape(1, 3, *shape)
    turned = random_orientations(image.expand(200, -1, -1, -1), stream(1, "augment", 1))
    kinds = {one.numpy().tobytes() for one in turned}
    assert len(kinds) == n_orientations
    assert all(torch.equal(one.flatten(1).sort()[0], image[0].flatten(1)) for one in turned)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"epochs": 0}, "epochs = 0: it must be a whole number, 1 or more"),
        ({"batch_size": 2.5}, r"batch_size = 2\.5"),
        ({"patience": -1}, "patience = -1: it must be a whole number, 0 or more"),
        ({"learning_rate": float("nan")}, "learning_rate = nan: it must be a positive number"),
        ({"learning_rate": "fast"}, "learning_rate = 'fast'"),
        ({"precision": "int8"}, "precision = 'int8': it must be one of auto, bf16, float32"),
        ({"device": "tpu"}, "device = 'tpu'"),
        ({"optimizer": "lion"}, "optimizer = 'lion'"),
        ({"threads": 0}, "threads = 0"),
    ],
)
def test_a_plan_that_cannot_be_is_refused(setting, message):
    with pytest.raises(PlanError, match=message):
        TrainingPlan(**setting)


def test_what_cannot_be_trained_on_is_refused(patches):
    pixels, codes = patches
    arguments = {"prepare": Standardiser.of(pixels), "plan": TrainingPlan(batch_size=1), "seed": 1}
    with pytest.raises(ModelError, match="no image to train on"):
        fit_network(network(), pixels[:0], codes[:0], **arguments)
    with pytest.raises(ModelError, match="60 images but 59 labels"):
        fit_network(network(), pixels, codes[:59], **arguments)
    with pytest.raises(ModelError, match="60 images but 3 labels"):
        fit_network(network(), pixels, codes, stop=(pixels, codes[:3]), **arguments | {"plan": TrainingPlan()})
    with pytest.raises(ModelError, match="batch norm needs two images a batch"):
        fit_network(network(), pixels, codes, **arguments)


def test_a_device_that_is_absent_is_an_error_and_auto_is_not(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert use_device("auto").type == "cpu"
    with pytest.raises(ModelError, match="device = 'cuda': torch finds none"):
        use_device("cuda")


@pytest.mark.parametrize(("capabilities", "expected"), [({"avx512_bf16": True}, True), ({"avx512_f": True}, False)])
def test_bf16_is_taken_only_where_the_cpu_has_instructions_for_it(monkeypatch, capabilities, expected):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert use_bf16("auto", torch.device("cpu")) is expected
    assert use_bf16("bf16", torch.device("cpu")) is True
    assert use_bf16("float32", torch.device("cpu")) is False


def test_without_torch_the_missing_extra_is_named():
    script = (
        "import sys; sys.modules['torch'] = None\n"
        "from sentinode.errors import MissingExtra\n"
        "try:\n    import sentinode.algorithms.training\n"
        "except MissingExtra as error:\n    print(error)\n"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ran.stdout.startswith("training a network needs the extra 'train'; install it with: pip install")
