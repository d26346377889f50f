"""What spoils a slide, with its place known: strokes of a pen, a part out of focus, a fold, a bubble of air.

They act on pixels that are painted already; where and how strongly depends on the place alone.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from sentinode.phantom.lattice import Floats, SmoothField, Window
from sentinode.phantom.outlines import Blob, Stroke

__all__ = ["ARTEFACTS", "COMMON", "PEN_COLOURS", "Artefact", "Repaint", "spoil"]

Repaint: TypeAlias = Callable[[Window], NDArray[np.uint8]]
"""Paints any window as it would be without artefacts."""

PEN_COLOURS: Mapping[str, tuple[float, float, float]] = MappingProxyType({
    "pen-blue": (0.16, 0.27, 0.70),
    "pen-green": (0.13, 0.50, 0.34),
    "pen-black": (0.13, 0.13, 0.15),
    "pen-red": (0.80, 0.13, 0.17),
})
"""Kind of artefact -> what part of red, green and blue its ink lets through."""

COMMON = (*PEN_COLOURS, "blur", "fold")
"""The kinds that a cohort has without being asked."""

ARTEFACTS = (*COMMON, "bubble")
"""All kinds."""

_INK_EDGE_UM = np.float32(12.0)
_BLUR_UM = 5.0  # standard deviation where it is worst
_BLUR_EDGE_UM = np.float32(140.0)
_FOLD_EDGE_UM = np.float32(4.0)
_FOLD_SHIFT_UM = 90.0  # from how far the tissue comes that lies double
_RIM_UM = (16.0, 11.0)  # of a bubble: how far inside the outline its dark rim lies, and its standard deviation
_RIM_DENSITY = np.float32(1.3)
_HALO_UM = (48.0, 9.0)  # the light that the rim bends away
_HALO = np.float32(0.12)
_DRY_BLUR_UM = 2.0  # in air, the focus lies elsewhere
_DRY = np.float32(1.25)  # and tissue scatters: densities are higher


@dataclass(frozen=True)
class Artefact:
    """One of them.

    Parameters
    ----------
    kind : str
        One of `ARTEFACTS`.
    shape : Blob or Stroke
        Where.
    """

    kind: str
    shape: Blob | Stroke

    @property
    def is_pen(self) -> bool:
        """Whether it is ink."""
        return self.kind in PEN_COLOURS

    @property
    def on_glass(self) -> bool:
        """Whether it is seen on bare glass as well."""
        return self.is_pen or self.kind == "bubble"

    def meets(self, window: Window) -> Window | None:
        """Cut a window down to where the artefact may be.

        Parameters
        ----------
        window : Window
            Any.

        Returns
        -------
        Window or None
            None where it is not.
        """
        left, top, right, bottom = (at / window.mpp for at in self.shape.bounds)
        x, y = max(window.x, int(np.floor(left))), max(window.y, int(np.floor(top)))
        width = min(window.x + window.width, int(np.ceil(right))) - x
        height = min(window.y + window.height, int(np.ceil(bottom))) - y
        return Window(x, y, width, height, window.mpp) if width > 0 and height > 0 else None


def spoil(
    pixels: NDArray[np.uint8], artefact: Artefact, window: Window, repaint: Repaint, white: Floats, seed: int
) -> None:
    """Lay an artefact over pixels, in place.

    Parameters
    ----------
    pixels : (h, w, 3) uint8
        The window's; changed.
    artefact : Artefact
        What.
    window : Window
        Where the pixels lie.
    repaint : callable
        Paints a window without artefacts: a blur and a fold need tissue from beyond the window.
    white : (3,) float32
        Colour of bare glass.
    seed : int
        The seed of the tissue plane.
    """
    part = artefact.meets(window)
    if part is None:
        return
    x, y = np.meshgrid(part.x_um.astype(np.float32), part.y_um.astype(np.float32))
    depth = artefact.shape.depth_um(x, y)
    if not (depth > 0).any():
        return
    view = pixels[part.y - window.y :, part.x - window.x :][: part.height, : part.width]
    if artefact.is_pen:
        spoilt = _inked(view, artefact, part, depth, seed)
    elif artefact.kind == "blur":
        spoilt = _blurred(view, part, depth, repaint)
    elif artefact.kind == "bubble":
        spoilt = _dried(view, part, depth, repaint, white)
    else:
        spoilt = _folded(view, part, depth, repaint, white)
    view[:] = np.clip(np.rint(spoilt), 0, 255).astype(np.uint8)


def _inked(view: NDArray[np.uint8], artefact: Artefact, part: Window, depth: Floats, seed: int) -> Floats:
    # Ink absorbs; it is thinner in streaks, and gathers at the rim.
    streak = SmoothField(seed, ("ink", artefact.kind), 60.0).over(part)
    cover = np.clip(depth / _INK_EDGE_UM, 0, 1)
    amount = cover * (np.float32(0.92) + np.float32(0.12) * streak + np.float32(0.15) * np.exp(-depth / 25))
    through = np.array(PEN_COLOURS[artefact.kind], np.float32)
    inked: Floats = view * through ** np.clip(amount, 0, 1.4)[..., None]
    return inked


def _blurred(view: NDArray[np.uint8], part: Window, depth: Floats, repaint: Repaint) -> Floats:
    sigma = _BLUR_UM / part.mpp
    margin = int(np.ceil(3 * sigma))
    around = repaint(part.grown(margin)).astype(np.float32)
    soft = gaussian_filter(around, (sigma, sigma, 0), truncate=3)[margin:-margin, margin:-margin]
    share = np.clip(depth / _BLUR_EDGE_UM, 0, 1)[..., None]
    blurred: Floats = view * (1 - share) + soft * share
    return blurred


def _dried(view: NDArray[np.uint8], part: Window, depth: Floats, repaint: Repaint, white: Floats) -> Floats:
    # Air bends light at its rim: a dark line without a colour, a bright one inside it. Within, tissue is dry: dull,
    # darker, out of focus.
    sigma = _DRY_BLUR_UM / part.mpp
    margin = int(np.ceil(3 * sigma))
    around = repaint(part.grown(margin)).astype(np.float32)
    soft = gaussian_filter(around, (sigma, sigma, 0), truncate=3)[margin:-margin, margin:-margin]
    dry = white * np.clip(soft / white, 1e-3, 1) ** _DRY
    rim, halo = (np.exp(-(((depth - at) / width) ** 2) / 2) for at, width in (_RIM_UM, _HALO_UM))
    light = np.exp(-_RIM_DENSITY * rim) * (1 + _HALO * halo)
    share = np.clip(depth / 4, 0, 1)[..., None]
    dried: Floats = view * (1 - share) + dry * light[..., None] * share
    return dried


def _folded(view: NDArray[np.uint8], part: Window, depth: Floats, repaint: Repaint, white: Floats) -> Floats:
    shift = round(_FOLD_SHIFT_UM / part.mpp)
    beyond = repaint(Window(part.x + shift, part.y + shift // 2, part.width, part.height, part.mpp))
    second = np.minimum(beyond / white, 1) * np.float32(0.9)  # light goes through twice, and the fold stands up
    share = np.clip(depth / _FOLD_EDGE_UM, 0, 1)[..., None]
    folded: Floats = view * (1 - share + share * second)
    return folded
