"""What is true of a slide: lesions that were drawn or masked, as pixels of the scale at which lesions are counted."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import shapely
import tifffile
from numpy.typing import NDArray
from PIL import Image

from sentinode.errors import ManifestError, PlanError
from sentinode.evaluation.froc import GROWTH_UM, LesionTruth, lesion_truth
from sentinode.geometry import Box, Raster, Scale, Size
from sentinode.slides.annotation_files import annotation_for, read_annotations
from sentinode.slides.annotations import CAMELYON, Annotations
from sentinode.slides.image_reader import FAULTS
from sentinode.slides.naming import slide_id_of
from sentinode.slides.rasterising import pixels_inside
from sentinode.slides.shapes import Shape

__all__ = ["LEVEL_5_UM", "SlideTruth", "TruthWish", "find_truth", "lesions_on"]

LEVEL_5_UM = 0.243 * 32
"""Micrometres a pixel at which CAMELYON16 counts lesions: level 5 of its slides."""

MASK_ENDINGS = ("", "_mask", "-mask", "_evaluation_mask")
MASK_SUFFIXES = (".tif", ".tiff", ".png")
"""A mask is called as its slide, with one of these endings, in capitals or not."""

MOST_PIXELS = 2**27
"""Of a mask, at the level that is read."""

ON = 255
"""Value of a tumour where a mask has nothing else beside 0."""


@dataclass(frozen=True)
class TruthWish:
    """Where the truth lies, and how it is to be read.

    Parameters
    ----------
    folder : Path
        Of drawings and masks, each called as its slide.
    classes : mapping of str to str, optional
        Name in the drawings -> class, or ``exclude``; without one, CAMELYON's names mean what is looked for.
    mask_value : int, optional
        Value of tumour in the masks; needed where they have others than 0 and 255.
    labels : mapping of str to str
        Slide -> class, as a table says.
    no_truth_is_normal : bool
        Whether a slide without a drawing, a mask and a label has no lesion.
    """

    folder: Path
    classes: Mapping[str, str] | None = None
    mask_value: int | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    no_truth_is_normal: bool = False

    def named(self, positive: str) -> Mapping[str, str]:
        """Say what the names in drawings mean.

        Parameters
        ----------
        positive : str
            The class that the model looks for.

        Returns
        -------
        mapping of str to str
            Name -> class.

        Raises
        ------
        PlanError
            If no name means the class that is looked for.
        """
        if self.classes is None:
            return {name: positive if label == "tumour" else label for name, label in CAMELYON.items()}
        if positive not in self.classes.values():
            raise PlanError(f"no --class is {positive}, which the model looks for; e.g. --class Tumor={positive}")
        return self.classes


@dataclass(frozen=True, eq=False)
class SlideTruth:
    """What is known of a slide before its pixels are.

    Parameters
    ----------
    source : Path or None
        The file that says it; None where a table, or the command, says that there is no lesion.
    drawn : Annotations or None
        With names mapped to classes; None where the source is a mask.
    label : str
        What a table says of the slide; may be empty.
    positive : str
        The class that is looked for.
    mask_value : int or None
        As in `TruthWish`.
    """

    source: Path | None
    drawn: Annotations | None
    label: str
    positive: str
    mask_value: int | None = None


def find_truth(slide: Path, wish: TruthWish, positive: str) -> SlideTruth:
    """Find what is true of a slide.

    Parameters
    ----------
    slide : Path
        Its file.
    wish : TruthWish
        Where to look.
    positive : str
        The class that the model looks for.

    Returns
    -------
    SlideTruth
        A slide without truth counts as normal only where that was said.

    Raises
    ------
    ManifestError
        If there is none, more than one, or it cannot be read.
    PlanError
        If no name in the drawings means the class that is looked for.
    """
    # PlanError is that of named.
    label = wish.labels.get(slide_id_of(slide), "")
    found = [one for one in (annotation_for(slide, wish.folder), _mask_for(slide, wish.folder)) if one is not None]
    if len(found) > 1:
        raise ManifestError(f"{slide}: has a drawing and a mask, {found[0]} and {found[1]}; leave one of them there")
    if not found:
        if (label and label != positive) or (not label and wish.no_truth_is_normal):
            return SlideTruth(None, None, label, positive)
        said = f"is a {label} by the table, and" if label else "may or may not have lesions:"
        raise ManifestError(
            f"{slide}: {said} neither a drawing nor a mask of it lies in {wish.folder}; give one, or, if slides "
            f"without one have no lesion, say --no-truth-is-normal"
        )
    (source,) = found
    if source.suffix.lower() in MASK_SUFFIXES:
        return SlideTruth(source, None, label, positive, wish.mask_value)
    drawn = read_annotations(source).mapped(wish.named(positive))
    if drawn.dropped and not drawn.classes:
        names = ", ".join(map(repr, sorted(drawn.dropped)))
        raise ManifestError(
            f"{source}: has {names} drawn, which have no class; say what they are, e.g. "
            f"--class {min(drawn.dropped)!r}={positive}, or =exclude"
        )
    return SlideTruth(source, drawn, label, positive)


def lesions_on(truth: SlideTruth, size: Size, scale: Scale, bounds: Box | None = None) -> LesionTruth:
    """Make the lesions of a slide, as CAMELYON16 counts them.

    Parameters
    ----------
    truth : SlideTruth
        Of the slide.
    size : Size
        Level 0 of the slide.
    scale : Scale
        Of level 0.
    bounds : Box, optional
        The scanned part, where the slide's file says so.

    Returns
    -------
    LesionTruth
        On a grid of about `LEVEL_5_UM`.

    Raises
    ------
    ManifestError
        If a mask does not fit the slide or has values whose meaning is not known, what was drawn lies beyond the
        slide, or the table says otherwise.
    """
    # ManifestError is also that of the mask.
    raster = Raster(size, scale.pixels(size, LEVEL_5_UM))
    if truth.source is None:
        pixels = np.zeros(raster.pixels.shape, dtype=bool)
    elif truth.drawn is None:
        pixels = _masked(truth.source, raster, scale, truth.mask_value)
    else:
        pixels = _drawn(truth.source, truth.drawn.placed(bounds).shape_of(truth.positive), raster)
    if truth.label and pixels.any() != (truth.label == truth.positive):
        has = "has" if pixels.any() else "has no"
        raise ManifestError(
            f"{truth.source}: {has} {truth.positive}, and the table says {truth.label}; mend one of them"
        )
    return lesion_truth(pixels, scale.um(float(np.mean(raster.downsample))), raster.downsample)


def _drawn(source: Path, shape: Shape, raster: Raster) -> NDArray[np.bool_]:
    moved = shapely.transform(shape, raster.to_pixels)
    pixels = pixels_inside(moved, raster.pixels)
    # A cell is smaller than a pixel, and must not be lost between the centres.
    seats = np.floor([one.representative_point().coords[0] for one in shapely.get_parts(moved)]).astype(np.int64)
    column, row = seats.reshape(-1, 2).T
    inside = (column >= 0) & (column < raster.pixels.width) & (row >= 0) & (row < raster.pixels.height)
    pixels[row[inside], column[inside]] = True
    if not (shape.is_empty or pixels.any()):
        raise ManifestError(
            f"{source}: was drawn beyond the slide of {raster.slide.width} x {raster.slide.height} px; "
            "coordinates must be pixels of level 0"
        )
    return pixels


def _mask_for(slide: Path, folder: Path) -> Path | None:
    stem = slide_id_of(slide)
    names = {stem + ending + suffix for ending in MASK_ENDINGS for suffix in MASK_SUFFIXES}
    found = [
        file
        for file in sorted(folder.iterdir())
        if file.name.startswith(stem)
        and stem + file.name[len(stem) :].lower() in names
        and file.is_file()
        and not file.samefile(slide)
    ]
    if len(found) > 1:
        raise ManifestError(f"{slide}: has more than one mask, {found[0]} and {found[1]}; leave one of them there")
    return found[0] if found else None


def _masked(path: Path, raster: Raster, scale: Scale, value: int | None) -> NDArray[np.bool_]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd metadata, which does not matter here
            whole, mask = (_read_picture if path.suffix.lower() == ".png" else _read_tiff)(path, raster.pixels)
    except FAULTS as error:
        why = " ".join(str(error).split()) or type(error).__name__
        raise ManifestError(f"{path}: cannot be read as a mask ({why}); give a TIFF or PNG of 8 bits") from error
    # A pixel more or less, where sides were rounded.
    slide = raster.slide
    if abs(whole.width * slide.height - whole.height * slide.width) > 1.5 * max(slide.width, slide.height):
        raise ManifestError(
            f"{path}: has {whole.width} x {whole.height} px, which is no reduced picture of a slide of "
            f"{slide.width} x {slide.height}; a mask covers the whole slide"
        )
    height, width = mask.shape
    um = scale.um(slide.width / width)
    if um > GROWTH_UM:
        raise ManifestError(f"{path}: has pixels of {um:.0f} um, too coarse for lesions; give one of 16 um or less")
    tumour = _tumour(path, mask, value)
    # The pixel of the mask that the centre of a pixel of the grid lies in.
    row, column = (
        ((np.arange(n) + 0.5) * m / n).astype(np.int64)
        for n, m in ((raster.pixels.height, height), (raster.pixels.width, width))
    )
    return tumour[np.ix_(row, column)]


def _tumour(path: Path, mask: NDArray[np.integer], value: int | None) -> NDArray[np.bool_]:
    if value is not None:
        return np.asarray(mask == value)
    values = np.unique(mask).tolist()
    if not set(values) <= {0, ON}:
        some = ", ".join(map(str, values[:8])) + (" ..." if len(values) > 8 else "")
        raise ManifestError(
            f"{path}: has the values {some}, and only of a mask of 0 and {ON} it is clear what is tumour; say which "
            "value is, e.g. --mask-value 2"
        )
    return np.asarray(mask == ON)


def _read_picture(path: Path, _wanted: Size) -> tuple[Size, NDArray[np.integer]]:
    with Image.open(path, formats=("PNG",)) as picture:
        _require_room(picture.width, picture.height)
        plain = picture.convert("L") if picture.mode == "1" else picture
        pixels = _one_channel(np.asarray(plain))
    return Size(pixels.shape[1], pixels.shape[0]), pixels


def _read_tiff(path: Path, wanted: Size) -> tuple[Size, NDArray[np.integer]]:
    with tifffile.TiffFile(path) as file:
        levels = [one for one in file.series[0].levels if one.axes.startswith("YX")]
        if not levels:
            raise ValueError(f"its first image has the axes {file.series[0].axes}")
        # The coarsest level that is fine enough.
        chosen = next((one for one in reversed(levels) if one.shape[1] >= wanted.width), levels[0])
        _require_room(chosen.shape[1], chosen.shape[0])
        pixels = _one_channel(chosen.asarray())
        if pixels.dtype == np.bool_:
            pixels = pixels.astype(np.uint8) * ON
    return Size(levels[0].shape[1], levels[0].shape[0]), pixels


def _require_room(width: int, height: int) -> None:
    if width * height > MOST_PIXELS:
        raise ValueError(f"{width} x {height} px are too many without levels: make it a pyramid, or reduce it")


def _one_channel(pixels: NDArray[np.integer]) -> NDArray[np.integer]:
    # Grey stored as colours; a fourth channel is transparency.
    return pixels if pixels.ndim == 2 else pixels[..., :3].max(axis=-1)
