"""Another laboratory's stain and scanner, drawn at random: what a network must learn to overlook.

Tellez et al. 2019, "Quantifying the effects of data augmentation and stain color normalization in convolutional
neural networks for computational pathology", Medical Image Analysis 58:101544, found perturbed stain densities
better than any normalisation of the stain; Shen et al. 2022, "RandStainNA", MICCAI, the statistics of a random
laboratory. Ours does both in optical density, then what a camera does.
"""

import numpy as np
from numpy.typing import NDArray

from sentinode.errors import MissingExtra

try:
    import torch
except ModuleNotFoundError as missing:
    raise MissingExtra("train", "perturbing the stain of images") from missing
from torch import Tensor

__all__ = ["perturb_stain"]

# Ruifrok and Johnston 2001, Anal Quant Cytol Histol 23:291: optical density of haematoxylin, eosin, DAB (here: the
# rest) in red, green, blue.
_RUIFROK = np.array([[0.650, 0.704, 0.286], [0.072, 0.990, 0.105], [0.268, 0.570, 0.776]])
_STAINS = _RUIFROK / np.linalg.norm(_RUIFROK, axis=1, keepdims=True)
_TO_STAINS = np.linalg.inv(_STAINS)


def perturb_stain(batch: Tensor, generator: np.random.Generator, strength: float = 1.0) -> Tensor:
    """Draw, for every image, the stain and the camera of another laboratory.

    Densities of haematoxylin, eosin and the rest are scaled (by up to 30 %) and shifted, the stain vectors
    turned a little, mean and spread of each channel's optical density moved; then brightness, contrast, gamma,
    white balance and saturation are changed.

    Parameters
    ----------
    batch : (b, 3, h, w) uint8
        Red, green, blue.
    generator : numpy.random.Generator
        Where the draws come from.
    strength : float
        Of all changes alike; 0 changes nothing but the last bit.

    Returns
    -------
    (b, 3, h, w) uint8
        The same tissue.

    Examples
    --------
    >>> grey = torch.full((2, 3, 4, 4), 128, dtype=torch.uint8)
    >>> changed = perturb_stain(grey, np.random.default_rng(1))
    >>> changed.shape, changed.dtype, bool((changed[0] != changed[1]).any())
    (torch.Size([2, 3, 4, 4]), torch.uint8, True)
    """
    b = len(batch)
    density = -torch.log((batch.float() + 1) / 256).flatten(2)  # (b, 3, h * w)
    density = _other_laboratory(density, generator, strength)
    light = (256 * torch.exp(-density) - 1).clamp(0, 255)
    light = _other_camera(light, generator, strength)
    return light.round().clamp(0, 255).to(torch.uint8).reshape(b, *batch.shape[1:])


def _other_laboratory(density: Tensor, generator: np.random.Generator, strength: float) -> Tensor:
    b = len(density)
    scale = 1 + generator.uniform(-0.3, 0.3, (b, 3)) * strength
    shift = generator.uniform(-0.05, 0.05, (b, 1, 3)) * strength
    turn = np.eye(3) + generator.normal(0, 0.08, (b, 3, 3)) * strength
    # Row vectors: to stains, scaled, back to colours, turned; one matrix an image.
    matrix = _TO_STAINS @ (scale[:, :, None] * _STAINS) @ turn
    moved = shift @ _STAINS @ turn
    density = _like(matrix.transpose(0, 2, 1), density) @ density + _like(moved.transpose(0, 2, 1), density)
    spread = _like(np.exp(generator.normal(0, 0.2, (b, 3, 1)) * strength), density)
    offset = _like(generator.normal(0, 0.08, (b, 3, 1)) * strength, density)
    mean = density.mean(2, keepdim=True)
    return (density - mean) * spread + mean + offset


def _other_camera(light: Tensor, generator: np.random.Generator, strength: float) -> Tensor:
    def draw(span: float, channels: int = 1) -> Tensor:
        return _like(generator.uniform(-span, span, (len(light), channels, 1)) * strength, light)

    light = light * (1 + draw(0.15))  # brightness
    mean = light.mean((1, 2), keepdim=True)
    light = ((light - mean) * (1 + draw(0.2)) + mean).clamp(0, 255)  # contrast
    light = 255 * (light / 255) ** torch.exp(draw(0.25))  # gamma
    light = light * (1 + draw(0.08, 3))  # white balance
    grey = light.mean(1, keepdim=True)
    return grey + (light - grey) * (1 + draw(0.3))  # saturation


def _like(values: NDArray[np.float64], other: Tensor) -> Tensor:
    return torch.from_numpy(values.astype(np.float32)).to(other.device)
