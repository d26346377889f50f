"""The benchmark runs, compares like with like and says what it left out. Not what it shows: that is no test's."""

import json
import runpy
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from sentinode.cli import app
from sentinode.errors import PlanError, SlideError
from sentinode.workflows import bench
from sentinode.workflows.bench import PARTS, BenchWish, Comparison, run_bench

SVS = "CMU-1-Small-Region.svs"


@pytest.fixture
def quickest() -> BenchWish:
    return BenchWish(repeats=1, tiles=8)


@pytest.mark.slow
def test_every_part_is_measured_on_a_real_slide(shared_slides, quickest):
    pytest.importorskip("torch")
    told = []
    found = run_bench(shared_slides / SVS, quickest, lambda done, of: told.append((done, of)))
    assert [one.part for one in found.comparisons] == [
        "reading",
        "between levels",
        "between levels",
        "runtime",
        *(["runtime"] if find_spec("nncf") else []),  # in int8
        "end to end",
        "training",
        "memory",
    ]
    assert {one.part for one in found.comparisons} == set(PARTS)
    for one in found.comparisons:
        assert one.plain > 0
        assert one.quick > 0
        assert one.ratio == pytest.approx(one.quick / one.plain if one.part != "memory" else one.plain / one.quick)
    assert told[-1] == (len(PARTS), len(PARTS))
    assert json.loads(json.dumps(found.to_json()))["machine"]["cores"] >= 1


@pytest.mark.slow
def test_without_a_slide_a_synthetic_one_is_drawn():
    found = run_bench(None, BenchWish(("reading",), repeats=1, tiles=4))
    assert found.slide.startswith("synthetic")
    assert len(found.comparisons) == 1


def test_without_torch_the_parts_of_the_slide_are_left(shared_slides, quickest, monkeypatch):
    monkeypatch.setattr(bench, "find_spec", lambda _name: None)
    found = run_bench(shared_slides / SVS, quickest)
    assert {one.part for one in found.comparisons} == {"reading", "between levels"}
    assert len(found.notes) == 4, "and none of int8"
    assert "training was left out: it needs torch" in " ".join(found.notes)


def test_both_ways_of_reading_read_the_same(shared_slides):
    # Like is compared with like: the plain way gives the pixels that ours gives.
    import openslide  # noqa: PLC0415

    with bench.open_slide(shared_slides / SVS) as slide, openslide.OpenSlide(shared_slides / SVS) as plain:
        boxes = bench._Stage(shared_slides / SVS, slide, BenchWish(tiles=12), None).tissue(4 * 0.499)
        for box in boxes.tolist():
            ours = slide.read_pixels(bench.Box(*box), bench.Size(96, 96)).astype(int)
            assert np.abs(ours - bench._tile_plainly(plain, box)).mean() < 3


def test_ways_are_run_in_turn():
    ran = []
    found = bench._compared("reading", "", "", 6, (lambda: ran.append("plain"), lambda: ran.append("quick")), repeats=4)
    assert ran == ["plain", "quick", "quick", "plain"] * 2
    assert len(found.ratios) == 4


def test_the_ratio_is_the_median_of_the_ratios():
    found = Comparison("reading", "", "Mpx/s", 2, 8, (1.0, 9.0, 4.0))
    assert found.ratio == 4
    assert (found.to_json()["least"], found.to_json()["greatest"]) == (1, 9)


@pytest.mark.parametrize(
    ("wish", "what"),
    [({"parts": ("speed",)}, "no part 'speed'"), ({"repeats": 0}, "at least 1"), ({"tiles": 0}, "at least 1")],
)
def test_what_cannot_be_measured_is_refused(wish, what):
    with pytest.raises(PlanError, match=what):
        BenchWish(**wish)


def test_a_slide_that_the_plain_way_does_not_read_is_refused(tmp_path, quickest):
    (tmp_path / "a.png").write_bytes(b"\x89PNG no slide")
    with pytest.raises(PlanError, match=r"a\.png: OpenSlide"):
        run_bench(tmp_path / "a.png", quickest)
    with pytest.raises(SlideError, match="is not there"):
        run_bench(tmp_path / "b.svs", quickest)


@pytest.mark.slow
def test_the_benchmark_writes_its_page(tmp_path):
    pytest.importorskip("torch")
    script = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "speed.py"))
    script["main"](repeats=1, tiles=4, out=tmp_path / "speed.md")
    page = (tmp_path / "speed.md").read_text(encoding="utf-8")
    assert "| end to end |" in page
    assert "cores, no GPU" in page


def test_the_command_prints_ratios(shared_slides):
    arguments = ["bench", str(shared_slides / SVS), "--part", "between levels", "--repeats", "1", "--tiles", "4"]
    printed = CliRunner().invoke(app, arguments)
    assert printed.exit_code == 0, printed.output
    assert "between levels" in printed.output
    as_json = CliRunner().invoke(app, [*arguments, "--json"])
    assert json.loads(as_json.stdout)["comparisons"][0]["ratio"] > 0
