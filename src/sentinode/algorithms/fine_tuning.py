"""What the fine-tuned networks share: an ImageNet body, a new last layer, one network or several that are averaged."""

from collections.abc import Sequence

from sentinode.algorithms.efficientnet_lite import N_FEATURES, Stage, imagenet_weights
from sentinode.algorithms.efficientnet_lite_network import build_body
from sentinode.errors import MissingExtra
from sentinode.seeds import torch_seed

try:
    import torch
except ModuleNotFoundError as missing:
    raise MissingExtra("train", "fine-tuning a network") from missing
import numpy as np
from torch import Tensor, nn
from torch.nn import functional

from sentinode.algorithms.stain_augmentation import perturb_stain
from sentinode.algorithms.training import Standardiser, n_orientations, random_orientations, turn

__all__ = [
    "IMAGENET_STANDARDISER",
    "AveragedNetworks",
    "fine_tunable",
    "mixed_laboratories",
    "other_laboratory",
    "small_student",
]

IMAGENET_STANDARDISER = Standardiser(np.full(3, 127, np.float32), np.full(3, 128, np.float32))
"""As TensorFlow's EfficientNet-lite was trained."""


def fine_tunable(side: int, n_classes: int, dropout: float, seed: int, *, pretrained: bool = True) -> nn.Sequential:
    """Build a network that knows ImageNet and does not yet know the classes.

    Parameters
    ----------
    side : int
        From `network_side`.
    n_classes : int
        Of the last layer.
    dropout : float
        Share of the features that are dropped before it, in training.
    seed : int
        Where the weights of the last layer come from.
    pretrained : bool
        False starts from random weights (for comparison).

    Returns
    -------
    nn.Sequential
        (b, 3, h, w) standardised -> (b, n_classes) logits.

    Raises
    ------
    MissingExtra
        If the weights are not installed.
    """
    body, head = _body_and_head(N_FEATURES, n_classes, seed, pretrained=pretrained)
    return nn.Sequential(_Enlarge(side), *body, _MeanOverImage(), nn.Dropout(dropout), head)


def small_student(stages: Sequence[Stage], n_classes: int, seed: int) -> nn.Sequential:
    """Build the first stages of the same network, which see an image as it is.

    Parameters
    ----------
    stages : sequence of Stage
        The first ones of `efficientnet_lite.STAGES`; the last may have fewer blocks.
    n_classes : int
        Of the last layer.
    seed : int
        Where the weights of the last layer come from.

    Returns
    -------
    nn.Sequential
        (b, 3, h, w) standardised -> (b, n_classes) logits.

    Raises
    ------
    MissingExtra
        If the weights are not installed.
    """
    body, head = _body_and_head(stages[-1].filters, n_classes, seed, pretrained=True)
    return nn.Sequential(*body[: 1 + sum(stage.blocks for stage in stages)], _MeanOverImage(), head)


def _body_and_head(
    n_features: int, n_classes: int, seed: int, *, pretrained: bool
) -> tuple[list[nn.Module], nn.Linear]:
    with torch.random.fork_rng([]):
        torch.manual_seed(torch_seed(seed, "weights"))
        body = build_body(imagenet_weights() if pretrained else None)
        head = nn.Linear(n_features, n_classes)
        nn.init.normal_(head.weight, 0.0, 0.01)
        nn.init.zeros_(head.bias)
    return body, head


def other_laboratory(batch: Tensor, generator: np.random.Generator) -> Tensor:
    """Turn every image at random and give it another laboratory's stain: the augmentation of `fit_network`.

    Parameters
    ----------
    batch : (b, 3, h, w) uint8
    generator : numpy.random.Generator

    Returns
    -------
    (b, 3, h, w) uint8
    """
    return perturb_stain(random_orientations(batch, generator), generator)


def mixed_laboratories(batch: Tensor, generator: np.random.Generator) -> Tensor:
    """As `other_laboratory`, then blend every second image with another one: for a student, who asks its teacher.

    Zhang et al. 2018, "mixup", ICLR, of images alone: what the blend shows is the teacher's to say (Beyer et al. 2022,
    section 3). A few thousand patches become many more questions.

    Parameters
    ----------
    batch : (b, 3, h, w) uint8
    generator : numpy.random.Generator

    Returns
    -------
    (b, 3, h, w) uint8
    """
    images = other_laboratory(batch, generator)
    share = np.where(generator.random(len(images)) < 0.5, generator.uniform(0, 0.5, len(images)), 0.0)
    other = torch.from_numpy(generator.permutation(len(images))).to(images.device)
    weight = torch.from_numpy(share.astype(np.float32)).to(images.device)[:, None, None, None]
    return torch.lerp(images.float(), images[other].float(), weight).round().to(torch.uint8)


class _Enlarge(nn.Module):
    def __init__(self, side: int) -> None:
        super().__init__()
        self.side = side

    def forward(self, images: Tensor) -> Tensor:
        if images.shape[2] == self.side and images.shape[3] == self.side:
            return images
        return functional.interpolate(images, (self.side, self.side), mode="bilinear", align_corners=False)

    def extra_repr(self) -> str:
        return str(self.side)


class _MeanOverImage(nn.Module):
    def forward(self, features: Tensor) -> Tensor:
        return features.mean((2, 3))


class AveragedNetworks(nn.Module):
    """Several networks, each asked about several orientations of an image; their probabilities are averaged.

    Parameters
    ----------
    members : list of nn.Sequential
        Logits each, a dense layer last.
    n_views : int
        1 or 8: orientations of a square image; other rectangles have four.
    """

    def __init__(self, members: list[nn.Sequential], n_views: int) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.n_views = n_views

    def forward(self, images: Tensor) -> Tensor:
        """Recognise.

        Parameters
        ----------
        images : (b, 3, h, w) float
            Standardised.

        Returns
        -------
        (b, k) float32
            Logarithm of the mean probability.
        """
        views = range(min(self.n_views, n_orientations(int(images.shape[2]), int(images.shape[3]))))
        proba = [_proba(member, turn(images, view)) for member in self.members for view in views]
        return torch.stack(proba).mean(0).clamp_min(1e-12).log()


def _proba(member: nn.Module, images: Tensor) -> Tensor:
    assert isinstance(member, nn.Sequential)  # noqa: S101 - for the type checker
    features = member[:-1](images)
    with torch.autocast(images.device.type, enabled=False):  # as in training: the last layer in float32
        return functional.softmax(member[-1](features.float()), dim=1)
