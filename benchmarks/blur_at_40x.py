"""At which resolution must blur be judged, where a pixel is finer than the optics? On drawn tiles at 0.25 um a pixel.

    python benchmarks/forty_x.py FOLDER         # draws the slides and lays the tiles
    python benchmarks/blur_at_40x.py FOLDER

Three hundred tiles as they are (some are drawn blurred), and blurred by a Gaussian of so many micrometres; the share
that is flagged, by the size of the pixel that tiles are averaged to before they are judged.
"""

import sys
from pathlib import Path
from unittest import mock

import numpy as np
from scipy import ndimage

from sentinode.data.manifest import read_manifest
from sentinode.data.patches import PatchSource
from sentinode.seeds import stream
from sentinode.slides import quality

MPP = 0.25
TILES = 300
BLUR_UM = (0.0, 0.5, 0.75, 1.0, 1.5, 2.0)
FINEST_MPP = (0.5, 0.75, 1.0)


def main(folder: Path) -> None:
    """Print a Markdown table."""
    manifest = read_manifest(folder / "tiles.csv")
    rows = np.sort(stream(1, "blur at 40x").choice(len(manifest), min(TILES, len(manifest)), replace=False))
    pixels, site = PatchSource(manifest)[rows], manifest.frame["site"].to_numpy()[rows]
    sites = sorted(set(site.tolist()))
    print("| judged at, um a pixel | site | " + " | ".join(f"{um:g} um" if um else "as it is" for um in BLUR_UM) + " |")
    print("|---:|---|" + "---:|" * len(BLUR_UM))
    for finest in FINEST_MPP:
        with mock.patch.object(quality, "FINEST_MPP", finest):
            flagged = {um: np.array(["blur" in one for one in _flags(pixels, um)]) for um in BLUR_UM}
        for name in sites:
            shares = " | ".join(f"{flagged[um][site == name].mean():.1%}" for um in BLUR_UM)
            print(f"| {finest:g} | {name} | {shares} |")


def _flags(pixels: np.ndarray, um: float) -> tuple[frozenset[str], ...]:
    sigma = um / MPP
    blurred = ndimage.gaussian_filter(pixels.astype(np.float32), (0, sigma, sigma, 0)) if um else pixels
    return quality.tile_quality(np.asarray(blurred).round().astype(np.uint8), MPP).flags


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    main(Path(sys.argv[1]))
