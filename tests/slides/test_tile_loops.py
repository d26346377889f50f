"""The compiled loops: what they measure is tested where it is used; here, that they run wherever they are put."""

import os
from pathlib import Path
from types import SimpleNamespace

import numba
import numpy as np

from sentinode.slides import tile_loops
from sentinode.slides.densities import OVER_WHITE, block_densities, spread


def test_where_nothing_can_be_kept_a_loop_is_compiled_all_the_same(monkeypatch):
    compiled = numba.njit

    def nowhere_to_keep(loop, *, cache=False, **how):
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return compiled(loop, **how)

    monkeypatch.setattr(numba, "njit", nowhere_to_keep)

    @tile_loops._compiled
    def doubled(values, found):
        for i in range(len(values)):
            found[i] = 2 * values[i]

    found = np.empty(3)
    doubled(np.arange(3.0), found)
    assert found.tolist() == [0, 2, 4]


def test_blocks_and_spread_are_those_of_double_precision():
    tiles = np.random.default_rng(1).integers(0, 256, (3, 21, 34, 3), dtype=np.uint8)
    whole = tiles[:, :20, :32].reshape(3, 5, 4, 8, 4, 3).mean(axis=(2, 4)).reshape(3, -1, 3)
    expected = np.moveaxis(np.log(255 / np.maximum(whole, 1)), 2, 0)
    np.testing.assert_allclose(block_densities(tiles), expected, atol=1e-6)
    density = np.log(255 / np.maximum(tiles.astype(float), 1)).mean(axis=3)
    np.testing.assert_allclose(spread(tiles), density.var(axis=(1, 2)), rtol=1e-5)
    assert spread(tiles[:0]).shape == (0,)
    # Views, as of a part of a field, are measured as what they show.
    assert np.array_equal(spread(tiles[:, ::2, ::-1]), spread(tiles[:, ::2, ::-1].copy()))


def test_only_what_was_compiled_from_this_very_file_counts_as_kept(tmp_path, monkeypatch):
    def kept_in(folder):
        monkeypatch.setattr(tile_loops, "averaged", SimpleNamespace(stats=SimpleNamespace(cache_path=folder)))
        return tile_loops.compiled_before()

    assert not kept_in(None)
    assert not kept_in(str(tmp_path))
    (tmp_path / "other.averaged-1.py311.nbi").touch()
    assert not kept_in(str(tmp_path))
    loop = tmp_path / "tile_loops.averaged-1.py311.nbi"
    loop.touch()
    assert kept_in(str(tmp_path))
    written = Path(tile_loops.__file__).stat().st_mtime
    os.utime(loop, (written - 1, written - 1))
    assert not kept_in(str(tmp_path))


def test_the_table_of_densities_cannot_be_changed():
    assert not OVER_WHITE.flags.writeable
