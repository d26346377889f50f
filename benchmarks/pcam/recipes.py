"""What `ideas.py` tries: each recipe is trained on the patches of some slides.

A recipe takes an `Inner`, and returns the trained recogniser and the held-out patches as it wants to see them. None
looks at the labels of what is held out or unlabelled.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
from numpy.typing import NDArray

from sentinode.algorithms.registry import Algorithm, AlgorithmSpec, build_algorithm
from sentinode.seeds import stream, torch_seed
from sentinode.slides.stain_vectors import stain_vectors

SEED = 1
Pixels = NDArray[np.uint8]


class Inner(NamedTuple):
    """An inner split: slides to train on and slides that are held out."""

    pixels: Pixels  # (n, h, w, 3) of the training slides
    labels: NDArray[np.str_]
    slides: NDArray[np.str_]
    positive: str
    held_out: Pixels  # (m, h, w, 3)
    held_out_slides: NDArray[np.str_]
    unlabelled: Pixels  # (u, h, w, 3) of slides that nobody knows, perhaps of those; none overlaps a patch of those


Recipe = Callable[[Inner], tuple[Algorithm, Pixels]]


def plain(name: str, **settings: Any) -> Recipe:  # noqa: ANN401 - whatever the algorithm takes
    """Take a registered algorithm as it is."""

    def recipe(inner: Inner) -> tuple[Algorithm, Pixels]:
        return _fitted(name, inner.pixels, inner.labels, **settings), inner.held_out

    return recipe


def _fitted(name: str, pixels: Pixels, labels: NDArray[np.str_], **settings: Any) -> Algorithm:  # noqa: ANN401 - as above
    return build_algorithm(AlgorithmSpec(name, settings), SEED).fit(pixels, labels)


def _patched(name: str, changed: Callable[..., Any]) -> Recipe:
    """Take the default with one function of `fine_tuning` changed."""

    def recipe(inner: Inner) -> tuple[Algorithm, Pixels]:
        from sentinode.algorithms import fine_tuning  # noqa: PLC0415 - it imports torch

        with mock.patch.object(fine_tuning, name, changed):
            return plain("imagenet-cnn")(inner)

    return recipe


# --- batch norm and augmentation -----------------------------------------------------------------------------------


def trained_norm(inner: Inner) -> tuple[Algorithm, Pixels]:
    """Let the batch norms take mean and deviation from the training slides, as usual."""
    import torch  # noqa: PLC0415 - in the worker
    from torch.nn import functional  # noqa: PLC0415

    from sentinode.algorithms import efficientnet_lite_network as network  # noqa: PLC0415

    class TrainedNormConv(network.FrozenNormConv):
        """A convolution, then a batch norm that learns its statistics."""

        variance: torch.Tensor

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            """Convolve and normalise."""
            kernel, padding = self.weight.shape[-1], self.weight.shape[-1] // 2
            if self.stride > 1:
                # As TensorFlow pads: at an even size and a stride of 2 the odd row lies below and to the right.
                short = [max((-(-n // self.stride) - 1) * self.stride + kernel - n, 0) for n in images.shape[:1:-1]]
                sides = [part for total in short for part in (total // 2, total - total // 2)]
                images, padding = functional.pad(images, sides), 0
            found = functional.conv2d(images, self.weight, None, self.stride, padding, groups=self.groups)
            return functional.batch_norm(
                found, self.mean, self.variance, self.gain, self.offset, training=self.training, eps=1e-3
            )

        def load(self, tensors: list[torch.Tensor]) -> None:
            """Take over the statistics of ImageNet to begin with."""
            with torch.no_grad():
                for mine, given in zip(
                    (self.weight, self.gain, self.offset, self.mean, self.variance), tensors, strict=False
                ):
                    mine.copy_(given)

        def __init__(self, n_in: int, n_out: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
            super().__init__(n_in, n_out, kernel, stride, groups)
            self.register_buffer("variance", torch.ones_like(self.mean))

    with mock.patch.object(network, "FrozenNormConv", TrainedNormConv):
        return plain("imagenet-cnn")(inner)


def stains_as_they_are(inner: Inner) -> tuple[Algorithm, Pixels]:
    """Turn patches at random and do nothing else to them."""
    from sentinode.algorithms import training  # noqa: PLC0415 - it imports torch

    return _patched("other_laboratory", training.random_orientations)(inner)


def elastic(inner: Inner) -> tuple[Algorithm, Pixels]:
    """Bend the patches as well: shifts at 5 x 5 nodes, of two pixels (one deviation), and smoothly between them.

    Ronneberger et al. 2015, "U-Net", MICCAI, section 3.1. Interpolation also makes the training patches a little less
    sharp than the others.
    """
    import torch  # noqa: PLC0415 - in the worker
    from torch.nn import functional  # noqa: PLC0415

    from sentinode.algorithms import fine_tuning  # noqa: PLC0415

    whole = fine_tuning.other_laboratory

    def bent(batch: torch.Tensor, generator: np.random.Generator) -> torch.Tensor:
        images = whole(batch, generator).float()
        n, _, high, wide = images.shape
        coarse = torch.from_numpy(generator.normal(0, 0.04, (n, 2, 5, 5)).astype(np.float32))
        shift = functional.interpolate(coarse, (high, wide), mode="bicubic", align_corners=True).permute(0, 2, 3, 1)
        straight = functional.affine_grid(torch.eye(2, 3).expand(n, 2, 3), [n, 3, high, wide], align_corners=False)
        moved = functional.grid_sample(images, straight + shift, padding_mode="reflection", align_corners=False)
        return moved.round().clamp(0, 255).to(torch.uint8)

    return _patched("other_laboratory", bent)(inner)


# --- which patches, and how often ----------------------------------------------------------------------------------


def balanced(inner: Inner) -> tuple[Algorithm, Pixels]:
    """Show patches of the rarer class as often as those of the other, as class weights would.

    Which are shown again is drawn with replacement. An epoch has more steps for it.
    """
    draw = stream(SEED, "ideas", "balanced")
    classes = [np.flatnonzero(inner.labels == one) for one in np.unique(inner.labels)]
    most = max(len(rows) for rows in classes)
    again = [draw.choice(rows, most - len(rows)) for rows in classes if len(rows) < most]
    return _shown(inner, np.concatenate([*classes, *again]))


def hard_negatives(inner: Inner) -> tuple[Algorithm, Pixels]:
    """Show the negatives that look most like a tumour three times as often.

    After Wang et al. 2016, "Deep learning for identifying metastatic breast cancer", arXiv:1606.05718, who cut such
    patches anew from the slides; here there are no others than those of the set. An epoch has more steps. A network
    knows the patches that it has learned, so each half of the slides is judged by a network of the other half: its
    false positives are the hard ones, and where they are few, the tenth that it suspects most.
    """
    names = stream(SEED, "ideas", "halves").permutation(np.unique(inner.slides))
    first = np.isin(inner.slides, names[::2])
    hard = []
    for judged in (first, ~first):
        judge = _fitted("imagenet-cnn", inner.pixels[~judged], inner.labels[~judged])
        negative = np.flatnonzero(judged & (inner.labels != inner.positive))
        proba = judge.predict_proba(inner.pixels[negative])[:, list(judge.classes_).index(inner.positive)]
        most = max(int((proba > 0.5).sum()), math.ceil(len(negative) / 10))
        hard.append(negative[np.argsort(-proba, kind="stable")[:most]])
    return _shown(inner, np.concatenate([np.arange(len(inner.labels)), *hard, *hard]))


def _shown(inner: Inner, rows: NDArray[np.int64]) -> tuple[Algorithm, Pixels]:
    return _fitted("imagenet-cnn", inner.pixels[rows], inner.labels[rows]), inner.held_out


# --- one stain for all ---------------------------------------------------------------------------------------------


def one_stain(recipe: Recipe) -> Recipe:
    """Bring every slide to the stain of one training slide before anything else (Macenko et al. 2009, ISBI).

    A slide's stains are measured from all of its patches, those of a held-out slide too: a slide that is recognised
    brings its own. Where a slide of this set holds patches of two looks, they are measured of the mixture. The template
    is the training slide whose vectors are nearest to the mean of all.
    """

    def normalised(inner: Inner) -> tuple[Algorithm, Pixels]:
        stains = {one: _stains(inner.pixels[inner.slides == one]) for one in np.unique(inner.slides)}
        mean = np.mean([vectors for vectors, _ in stains.values()], axis=0)
        template = stains[min(stains, key=lambda one: float(np.abs(stains[one][0] - mean).sum()))]
        pixels, held_out = (
            _as_template(*each, template)
            for each in ((inner.pixels, inner.slides), (inner.held_out, inner.held_out_slides))
        )
        return recipe(inner._replace(pixels=pixels, held_out=held_out))

    return normalised


Stains = tuple[NDArray[np.float64], NDArray[np.float64]]
"""Vectors (2, 3), and the amount of each that one pixel in a hundred exceeds."""


def _stains(pixels: Pixels) -> Stains:
    vectors = stain_vectors(pixels)
    return vectors, np.percentile(_amounts(pixels, vectors), 99, axis=0)


def _amounts(pixels: Pixels, vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    density = -np.log(np.maximum(pixels.reshape(-1, 3), 1) / 255.0)
    return np.asarray(np.maximum(density @ np.linalg.pinv(vectors), 0), np.float64)


def _as_template(pixels: Pixels, slides: NDArray[np.str_], template: Stains) -> Pixels:
    found = np.empty_like(pixels)
    for one in np.unique(slides):
        mine = np.asarray(pixels[slides == one])
        vectors, most = _stains(mine)
        amounts = _amounts(mine, vectors) * (template[1] / most)
        light = 255 * np.exp(-amounts @ template[0])
        found[slides == one] = light.round().clip(0, 255).astype(np.uint8).reshape(mine.shape)
    return found


# --- without labels ------------------------------------------------------------------------------------------------

SELF_EPOCHS, SELF_BATCH, SELF_RATE = 6, 64, 1e-4


def taught_by_itself(inner: Inner) -> tuple[Algorithm, Pixels]:
    """Train the ImageNet body without labels first, on the training patches; then as the default.

    After Chen and He 2021, "Exploring simple Siamese representation learning", CVPR, section 3: of two views of a patch
    (cut out, turned, in the stain of another laboratory) each is predicted from the other, and nothing flows back
    through what is predicted. Other than there: Adam, at a rate that falls for all parts, a head of two layers, one
    size and place of the cut for all patches of a batch, and a body that begins with ImageNet's weights and holds its
    norms fast.
    """
    from torch import nn  # noqa: PLC0415 - in the worker

    from sentinode.algorithms import fine_tuning  # noqa: PLC0415

    whole, patches = fine_tuning.fine_tunable, np.concatenate([inner.pixels, inner.unlabelled])

    def prepared(*arguments: Any, **settings: Any) -> nn.Sequential:  # noqa: ANN401 - those of fine_tunable
        network = whole(*arguments, **settings)
        head = network[-1]
        assert isinstance(head, nn.Linear)
        _siamese(network[:-2], head.in_features, patches)  # without dropout and last layer
        return network

    return _patched("fine_tunable", prepared)(inner)


def without_unknown_slides(recipe: Recipe) -> Recipe:
    """Leave out the patches without a slide: they may be of slides that are held out."""

    def known(inner: Inner) -> tuple[Algorithm, Pixels]:
        return recipe(inner._replace(unlabelled=inner.unlabelled[:0]))

    return known


def _siamese(body: Any, n_features: int, patches: Pixels) -> None:  # noqa: ANN401 - torch is imported below
    import torch  # noqa: PLC0415 - in the worker
    from torch import nn  # noqa: PLC0415
    from torch.nn import functional  # noqa: PLC0415

    from sentinode.algorithms import fine_tuning, training  # noqa: PLC0415

    torch.manual_seed(torch_seed(SEED, "ideas", "siamese"))
    width = 512
    projector = nn.Sequential(
        nn.Linear(n_features, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, width), nn.BatchNorm1d(width)
    )
    predictor = nn.Sequential(
        nn.Linear(width, width // 4), nn.BatchNorm1d(width // 4), nn.ReLU(), nn.Linear(width // 4, width)
    )
    body.to(memory_format=torch.channels_last).train()
    parts = nn.ModuleList([body, projector, predictor])
    steps = SELF_EPOCHS * (len(patches) // SELF_BATCH)
    descent = torch.optim.Adam([
        {"params": body.parameters(), "lr": SELF_RATE},
        {"params": parts[1:].parameters(), "lr": 10 * SELF_RATE},
    ])
    slower = torch.optim.lr_scheduler.CosineAnnealingLR(descent, steps)
    bf16 = training.use_bf16("auto", torch.device("cpu"))
    generator = stream(SEED, "ideas", "views")
    for _ in range(SELF_EPOCHS):
        order = generator.permutation(len(patches))
        agreed, spread = [], []
        for begin in range(0, len(order) - SELF_BATCH + 1, SELF_BATCH):
            batch = torch.from_numpy(patches[np.sort(order[begin : begin + SELF_BATCH])]).permute(0, 3, 1, 2)
            seen = []
            for _view in range(2):
                images = _cut_out(fine_tuning.other_laboratory(batch, generator), generator)
                images = fine_tuning.IMAGENET_STANDARDISER(images).contiguous(memory_format=torch.channels_last)
                with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                    features = body(images)
                seen.append(projector(features.float()))
            loss = -torch.stack([
                functional.cosine_similarity(predictor(mine), other.detach()).mean()
                for mine, other in (seen, seen[::-1])
            ]).mean()
            descent.zero_grad()
            torch.autograd.backward(loss)
            descent.step()
            slower.step()
            agreed.append(-loss.item())
            # Of unit vectors that fill the space: 1. At 0 all patches are told the same, and nothing is learned.
            spread.append(float(functional.normalize(seen[0].detach(), dim=1).std(0).mean()) * math.sqrt(width))
        print(f"without labels: agreement {np.mean(agreed):.3f}, spread {np.mean(spread):.2f}", flush=True)
    body.eval()


def _cut_out(images: Any, generator: np.random.Generator) -> Any:  # noqa: ANN401 - tensors; torch is imported late
    side = int(images.shape[-1])
    size = int(generator.integers(side // 2, side + 1))
    top, left = generator.integers(0, side - size + 1, 2)
    return images[:, :, top : top + size, left : left + size]
