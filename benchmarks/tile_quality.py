"""What the quality of tiles flags on real patches, as they are and blurred; and what smoothing on halves changes.

    python benchmarks/tile_quality.py ../shared/data/pcam

The folder has the layout ``kaggle-pcam``. *On all pixels* is the definition of blur: what `tile_quality` smooths on
pixels of twice the side is smoothed on the pixels themselves.
"""

import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from sentinode.data.adapters import import_manifest
from sentinode.data.patches import PatchSource
from sentinode.slides import quality
from sentinode.slides.quality import tile_quality
from sentinode.slides.tissue import optical_density

MPP = 1.0  # about; nothing is averaged between 0.5 and 1.1 um
SIGMAS = (0.0, 1.5, 2.0, 3.0, 5.0)  # pixels


def main(root: Path) -> None:
    """Print a Markdown table."""
    every = np.asarray(PatchSource(import_manifest("kaggle-pcam", root))[:])
    found = tile_quality(every, MPP)
    flagged = np.mean([bool(flags) for flags in found.flags])
    print(f"{len(every):,} patches, flagged in any way: {flagged:.2%}")
    tissue = every[found.empty < 0.5]
    flagged = np.mean([bool(flags) for flags in tile_quality(tissue, MPP).flags])
    print(f"{len(tissue):,} of them with tissue, flagged in any way: {flagged:.2%}\n")
    print("| blur, sigma in px | patches with tissue | flagged blurred | on all pixels | flagged otherwise |")
    print("|---|---:|---:|---:|---:|")
    for sigma in SIGMAS:
        tiles = ndimage.gaussian_filter(tissue, (0, sigma, sigma, 0))
        here = tile_quality(tiles, MPP).blur >= quality.LIMITS["blur"]
        exact = np.array([blur_on_all_pixels(tile) for tile in tiles]) >= quality.LIMITS["blur"]
        row = (f"{here.mean():.1%}", f"{exact.mean():.1%}", f"{np.mean(here != exact):.2%}")
        print(f"| {sigma:g} | {len(tiles):,} | {' | '.join(row)} |")


def blur_on_all_pixels(tile: NDArray[np.uint8]) -> float:
    """Take the share of the tissue of a tile that is out of focus as it is defined."""
    mean = optical_density(tile, quality.GLASS).clip(0).mean(axis=2)
    tissue = ndimage.gaussian_filter(mean, 2.0) > 0.08
    details = [(mean - ndimage.gaussian_filter(mean, sigma)) ** 2 for sigma in (1.0, 4.0)]
    fine, coarse = (ndimage.gaussian_filter(detail, quality.WINDOW_PX) for detail in details)
    blurred = tissue & (coarse > quality.CONTRAST) & (fine < quality.SHARP * coarse)
    return float(blurred.sum() / max(tissue.sum(), 1))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
