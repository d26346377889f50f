import csv
import json

import numpy as np
import openslide
import pytest
import shapely
from PIL import Image

from sentinode.errors import ExportError, PlanError
from sentinode.phantom.plans import lesion_class
from sentinode.slides.annotation_files import read_annotations
from sentinode.workflows import phantom_slides
from sentinode.workflows.phantom_slides import SLIDE_PRESETS, SlidePreset, plan_slides, write_phantom_slides

TINY = SlidePreset(4.0, (800.0, 900.0), 1.35, (1, 2), ((((250.0, 300.0), 1),),))


@pytest.fixture
def tiny(monkeypatch):
    # Slides of a few hundred pixels, so that a test writes several.
    monkeypatch.setattr(phantom_slides, "SLIDE_PRESETS", {"tiny": TINY})
    return {"patients": 4, "sites": 2, "preset": "tiny", "seed": 3}


def rows_of(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_cohort_is_written_with_its_truth(tiny, tmp_path):
    seen = []
    table = write_phantom_slides(tmp_path, **tiny, on_progress=lambda done, total: seen.append((done, total)))
    slides, lesions = rows_of(table), rows_of(tmp_path / "lesions.csv")
    assert seen == [(n, 4) for n in (1, 2, 3, 4)]
    assert [row["label"] for row in slides] == ["tumour", "tumour", "normal", "normal"]
    assert [row["site"] for row in slides] == ["site-1", "site-2", "site-1", "site-2"]
    assert {row["mpp"] for row in slides} == {"4.0", "3.8848"}
    assert all(row["provenance"].startswith("synthetic") for row in slides + lesions)
    assert [row["slide_id"] for row in lesions] == [row["slide_id"] for row in slides if row["label"] == "tumour"]
    for row in slides:
        with openslide.OpenSlide(tmp_path / row["path"]) as slide:
            assert slide.dimensions == (int(row["width"]), int(row["height"]))
            assert float(slide.properties["openslide.mpp-x"]) == pytest.approx(float(row["mpp"]), rel=1e-4)
    for lesion in lesions:
        assert_truth_agrees(tmp_path / "truth", lesion)
    assert not [path for path in tmp_path.rglob("*") if path.name.startswith(".")]


def assert_truth_agrees(truth, lesion):
    name = lesion["slide_id"]
    drawn, asap = map(read_annotations, (truth / f"{name}.geojson", truth.parent / "annotations" / f"{name}.xml"))
    assert asap.classes == ("Tumor",)
    assert drawn.classes == ("Tissue", "Tumor")
    assert asap.area_of("Tumor") == pytest.approx(drawn.area_of("Tumor"), rel=1e-3)
    mpp = {"phantom-p001-s1": 4.0, "phantom-p002-s1": 3.8848}[name]
    assert float(lesion["area_mm2"]) == pytest.approx(drawn.area_of("Tumor") * mpp**2 / 1e6, rel=1e-3)
    assert drawn.shape_of("Tumor").contains(shapely.Point(float(lesion["x"]), float(lesion["y"])))
    geometry = json.loads((truth / f"{name}.json").read_text())["mask"]
    with Image.open(truth / geometry["file"]) as image:
        mask = np.asarray(image)
    assert mask.shape == (geometry["height"], geometry["width"])
    at = tuple(int(float(lesion[axis]) // geometry["downsample"]) for axis in ("y", "x"))
    assert mask[at] in {geometry["values"][value] for value in ("tumour", "ink", "out of focus", "fold")}


def test_what_is_there_is_not_drawn_again_but_another_seed_is(tiny, tmp_path):
    write_phantom_slides(tmp_path, **tiny)
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "slides").iterdir()}
    tables = [(tmp_path / name).read_bytes() for name in ("slides.csv", "lesions.csv")]
    (tmp_path / "annotations" / "phantom-p002-s1.xml").unlink()
    write_phantom_slides(tmp_path, **tiny)
    after = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "slides").iterdir()}
    assert [name for name in before if before[name] != after[name]] == ["phantom-p002-s1.tif"]
    assert tables == [(tmp_path / name).read_bytes() for name in ("slides.csv", "lesions.csv")]
    write_phantom_slides(tmp_path, **{**tiny, "patients": 2, "seed": 4})
    assert (tmp_path / "slides.csv").read_bytes() != tables[0]


def test_an_interrupted_cohort_leaves_whole_slides_and_goes_on(tiny, tmp_path):
    def stop_at_two(done, _total):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_phantom_slides(tmp_path, **tiny, on_progress=stop_at_two)
    assert not (tmp_path / "slides.csv").exists()
    assert len(list((tmp_path / "slides").iterdir())) == 2
    seen = []
    write_phantom_slides(tmp_path, **tiny, on_progress=lambda done, _total: seen.append(done))
    assert seen == [2, 3, 4]


def test_an_interrupt_while_a_slide_is_written_leaves_nothing_of_it(tiny, tmp_path, monkeypatch):
    def interrupted(_phantom, path):
        path.write_bytes(b"half a slide")
        raise KeyboardInterrupt

    monkeypatch.setattr(phantom_slides, "write_slide", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_phantom_slides(tmp_path, **tiny)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_table_of_real_slides_is_not_written_over(tiny, tmp_path):
    (tmp_path / "slides.csv").write_text("slide_id,label\ncase_17,tumour\n")
    with pytest.raises(ExportError, match="not the table of synthetic slides"):
        write_phantom_slides(tmp_path, **tiny)


def test_the_site_says_nothing_about_the_label_and_all_classes_of_lesions_come_up():
    plans = plan_slides(patients=12, sites=2)
    for site in (0, 1):
        assert sum(bool(plan.lesions) for plan in plans if plan.site == site) == 3
    sizes = [wish.major_axis_um for plan in plans for wish in plan.lesions]
    assert {lesion_class(um) for um in sizes} == {"itc", "micro", "macro"}
    assert {plan.mpp for plan in plans} == {1.0, 0.9712}
    assert all(plan.size.width % 64 == 0 and plan.size.height % 64 == 0 for plan in plans)


def test_the_tissue_stays_as_large_on_a_larger_canvas():
    small, large = (plan_slides(patients=2, preset="40x", size=size) for size in (None, 100_000))
    assert [plan.section_um for plan in small] == [plan.section_um for plan in large]
    assert {(plan.size.width, plan.size.height) for plan in large} == {(100_000, 100_000)}
    assert set(SLIDE_PRESETS) == {"10x", "40x"}


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"preset": "20x"}, "10x, 40x"),
        ({"patients": 0}, "at least one"),
        ({"patients": 2, "sites": 3}, "fewer sites"),
        ({"size": 100}, "1024 to 100000"),
        ({"workers": 0}, "workers = 0"),
    ],
)
def test_a_cohort_that_cannot_be_is_refused_before_anything_is_written(setting, message, tmp_path):
    with pytest.raises(PlanError, match=message):
        write_phantom_slides(tmp_path / "out", **setting)
    assert not (tmp_path / "out").exists()
