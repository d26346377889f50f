"""Pairs that the search for overlaps finds where there are none: synthetic tiles at 0.25 um a pixel.

    python benchmarks/overlaps_at_40x.py FOLDER      # some minutes; what is drawn is kept there

Tiles of a slide lie side by side and share nothing, and no two slides are of the same tissue: every pair is false.
Counted with the spots that two areas must share, and without.
"""

import sys
from pathlib import Path
from unittest import mock

from forty_x import MPP, NODES
from sentinode.data import overlaps
from sentinode.data.manifest import read_manifest
from sentinode.data.overlaps import _NEAR_SPOTS as NEAR_SPOTS
from sentinode.data.patches import cache_patches
from sentinode.workflows.phantom_slides import write_phantom_slides
from sentinode.workflows.tiling import TilesWish, make_tiles

COHORTS = ((4, 1, 96), (4, 1, 128), (8, 7, 96))  # patients, seed, side of a tile; the first two set the limit


def main(folder: Path) -> None:
    """Print a Markdown table."""
    print("| patients, seed | px a side | tiles | pairs without spots | of two patients | pairs | of two patients |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for patients, seed, side in COHORTS:
        drawn = folder / f"cohort-{patients}-{seed}"
        table = write_phantom_slides(drawn, patients=patients, sites=2, preset=NODES, seed=seed)
        tiles = folder / f"tiles-{patients}-{seed}-{side}.csv"
        make_tiles([drawn / "slides"], tiles, TilesWish(MPP, side, drawn / "annotations", table))
        manifest = read_manifest(tiles)
        pixels, row = (
            cache_patches(manifest, folder / "cache"),
            [f"{patients}, {seed}", f"{side}", f"{len(manifest):,}"],
        )
        for spots in (0, NEAR_SPOTS):
            with mock.patch.object(overlaps, "_NEAR_SPOTS", spots):
                found = overlaps.find_overlaps(pixels).frame
            apart = manifest.groups[found["first"]] != manifest.groups[found["second"]]
            row += [f"{len(found)}", f"{int(apart.sum())}"]
        print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
