"""Slides in, answer out: tiles, a model, predictions; what lies at (x, y) must be found at (x, y)."""

import gzip
import json
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import shapely
import tifffile
from PIL import Image
from scipy import ndimage

from sentinode.cli import main
from sentinode.data.manifest import read_manifest, write_manifest
from sentinode.data.patches import PatchSource
from sentinode.errors import ExportError, LeakageError, ManifestError, ModelError, PlanError, SlideError
from sentinode.evaluation.froc import froc_of_hits, slide_hits
from sentinode.export.formats import export_writer
from sentinode.geometry import Raster, Scale, Size
from sentinode.inference import aggregation
from sentinode.inference.aggregation import scorer_of
from sentinode.inference.detections import read_detections
from sentinode.inference.engine import Recognised, Spent, recognise_tiles
from sentinode.inference.first_look import FirstLook, LookedAt
from sentinode.inference.maps import probability_map
from sentinode.inference.predictions import TilePredictions, read_predictions
from sentinode.models.bundle import read_bundle, write_bundle
from sentinode.models.runtime import open_recogniser
from sentinode.seeds import stream
from sentinode.slides.annotation_files import write_asap
from sentinode.slides.annotations import Annotations, Region
from sentinode.slides.resolution import MppWish
from sentinode.slides.slide import Slide, open_slide
from sentinode.slides.tiling import tile_grid
from sentinode.workflows import first_looking, predicting
from sentinode.workflows.evaluating import evaluate_model, the_manifest
from sentinode.workflows.first_looking import fit_first_look_on
from sentinode.workflows.predicting import PredictionWish, SlideDone, TilesDone, predict_slides
from sentinode.workflows.refusing import Gate
from sentinode.workflows.slide_evaluation import SlideEvaluationWish, evaluate_slides, slide_evaluation_wish
from sentinode.workflows.slide_scoring import fit_slide_score
from sentinode.workflows.slide_truth import TruthWish, find_truth, lesions_on
from sentinode.workflows.tiling import TilesWish, make_tiles, parse_classes
from sentinode.workflows.trail import verify_trail
from sentinode.workflows.training import TrainingWish, train_model
from sentinode.workflows.triaging import TriageWish, triage_manifest

WIDTH, HEIGHT, MPP = 2003, 1501, 2.0
TILE, TILE_MPP = 24, 4.0
LESION = (1300, 800, 260)  # x, y, radius in level-0 pixels


def draw(path, lesion=LESION, *, mpp=MPP, tissue=True, seed=1, bubble=None):
    """Pink, speckled tissue in an ellipse, a darker lesion, a rim of air. Levels: half, sixth, rounded down."""
    rng = stream(seed, "drawn slide", path.name)
    y, x = np.indices((HEIGHT, WIDTH))
    picture = np.full((HEIGHT, WIDTH, 3), 241.0)
    if tissue:
        inside = ((x - 1000) / 850) ** 2 + ((y - 750) / 600) ** 2 < 1
        picture[inside] = (214, 150, 190)
    if lesion:
        picture[np.hypot(x - lesion[0], y - lesion[1]) < lesion[2]] = (150, 95, 160)
    if bubble:
        picture[np.abs(np.hypot(x - bubble[0], y - bubble[1]) - bubble[2]) < 8] *= 0.3
    picture += rng.normal(0, 14 if tissue else 1, (HEIGHT, WIDTH, 1))
    pixels = picture.clip(0, 255).astype(np.uint8)
    per_cm = None if mpp is None else 1e4 / mpp
    with tifffile.TiffWriter(path) as tiff:
        for number, divisor in enumerate((1, 2, 6)):
            size = (WIDTH // divisor, HEIGHT // divisor)
            level = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BOX))
            resolution = None if per_cm is None else (per_cm * size[0] / WIDTH, per_cm * size[1] / HEIGHT)
            tiff.write(
                level,
                tile=(128, 128),
                photometric="rgb",
                compression="zlib",
                subfiletype=1 if number else 0,
                resolution=resolution,
                resolutionunit="CENTIMETER" if resolution else "NONE",
            )


def names(folder):
    """What lies in a folder."""
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    """Eight slides, every other one with a lesion, their drawings and a table."""
    folder = tmp_path_factory.mktemp("cohort")
    for name in ("slides", "drawings"):
        (folder / name).mkdir()
    rows = []
    for number in range(8):
        lesion = (700 + 80 * number, 600 + 40 * number, 220) if number % 2 else None
        draw(folder / "slides" / f"s{number}.tif", lesion)
        if lesion:
            disc = shapely.Point(lesion[:2]).buffer(lesion[2])
            write_asap(Annotations((Region("Tumor", disc),)), folder / "drawings" / f"s{number}.xml")
        rows.append((f"s{number}", f"p{number}", "site-1", "tumour" if lesion else "normal"))
    pd.DataFrame(rows, columns=["slide_id", "patient_id", "site", "label"]).to_csv(folder / "slides.csv", index=False)
    return folder


@pytest.fixture(scope="module")
def tiles(cohort):
    """Their tiles."""
    wish = TilesWish(TILE_MPP, TILE, cohort / "drawings", cohort / "slides.csv")
    return make_tiles([cohort / "slides"], cohort / "tiles.csv", wish)


@pytest.fixture(scope="module")
def model(cohort, tiles):
    """A recogniser of these tiles."""
    assert tiles.manifest.tile_px == TILE
    return train_model(cohort / "tiles.csv", cohort / "model", TrainingWish("naive-bayes"))


@pytest.fixture(scope="module")
def answers(model, tmp_path_factory):
    """A new slide with a lesion, a normal one, bare glass, a broken file: all in one run."""
    folder = tmp_path_factory.mktemp("new")
    draw(folder / "lesion.tif", seed=7)
    draw(folder / "normal.tif", None, seed=8)
    draw(folder / "glass.tif", None, tissue=False)
    (folder / "broken.svs").write_bytes(b"no slide at all")
    run = predict_slides([folder], model.folder, folder / "out")
    return folder, run


# --- tiles ----------------------------------------------------------------------------------------------------


def test_tiles_are_labelled_by_what_was_drawn(cohort, tiles):
    frame = read_manifest(cohort / "tiles.csv").frame
    centre = frame[["x", "y"]].to_numpy(float) + frame[["width", "height"]].to_numpy(float) / 2
    number = frame["slide_id"].str[1:].astype(int).to_numpy()
    from_lesion = np.hypot(centre[:, 0] - 700 - 80 * number, centre[:, 1] - 600 - 40 * number)
    tumour = (frame["label"] == "tumour").to_numpy()
    assert set(number[tumour]) == {1, 3, 5, 7}
    assert from_lesion[tumour].max() < 220 + 24  # the centre third of a tile of 48 px touches it
    assert not (tumour ^ (from_lesion < 215))[number % 2 == 1][np.abs(from_lesion[number % 2 == 1] - 220) > 30].any()
    assert set(frame["patient_id"]) == {f"p{i}" for i in range(8)}
    assert sum(row["tiles"] for row in tiles.slides) == len(frame)


def test_a_tile_of_the_manifest_is_what_the_slide_shows_there(cohort):
    manifest = read_manifest(cohort / "tiles.csv")
    rows = [0, len(manifest) // 2, len(manifest) - 1]
    pixels = PatchSource(manifest)[rows]
    for row, tile in zip(rows, pixels, strict=True):
        box = manifest.frame.iloc[row]
        with open_slide(cohort / "slides" / str(box["path"])) as slide:
            level0 = slide.reader.read_level(0, int(box["x"]), int(box["y"]), int(box["width"]), int(box["height"]))
        # Speckles lie elsewhere in a level whose sides were rounded down; what is four pixels wide does not.
        plain, found = (np.asarray(Image.fromarray(one).resize((6, 6), Image.Resampling.BOX)) for one in (level0, tile))
        assert np.abs(plain.astype(int) - found).max() < 12


def test_a_slide_without_drawing_and_label_is_refused_by_name(cohort, tmp_path):
    wish = TilesWish(TILE_MPP, TILE, cohort / "drawings")
    with pytest.raises(SlideError, match=r"s0\.tif: has no drawing in .*--unannotated background"):
        make_tiles([cohort / "slides"], tmp_path / "m.csv", wish)
    assert names(tmp_path) == []


def test_slides_without_drawing_may_be_left_out(cohort, tmp_path):
    wish = TilesWish(TILE_MPP, TILE, cohort / "drawings", unannotated="leave-out")
    report = make_tiles([cohort / "slides"], tmp_path / "m.csv", wish)
    assert set(report.manifest.frame["slide_id"]) == {"s1", "s3", "s5", "s7"}
    assert report.left_out["unannotated"] > 0
    assert report.notes[0] == "s0.tif: has no drawing, left out"


def test_names_that_have_no_class_are_told(cohort, tmp_path):
    wish = TilesWish(
        TILE_MPP, TILE, cohort / "drawings", unannotated="background", classes=parse_classes(["Krebs=tumour"])
    )
    with pytest.raises(ManifestError, match=r"the drawings have 'Tumor'.*--class 'Tumor'=tumour"):
        make_tiles([cohort / "slides"], tmp_path / "m.csv", wish)


# --- predictions ----------------------------------------------------------------------------------------------


def test_the_lesion_is_found_and_nothing_else(answers):
    _, run = answers
    assert [one["slide_id"] for one in run.results] == ["lesion", "normal"]
    lesion, normal = run.results
    assert (lesion["verdict"], normal["verdict"]) == ("suspicious of tumour", "no tumour found")
    assert pd.read_csv(answers[0] / "out" / "slides.csv")["slide_id"].tolist() == [
        "lesion",
        "normal",
        "broken",
        "glass",
    ]
    assert lesion["score"] > 0.9
    assert normal["score"] < 0.5
    across_mm = 2 * LESION[2] * MPP / 1000
    assert lesion["largest_mm"][0] <= across_mm <= lesion["largest_mm"][1]


def test_what_failed_is_named_with_its_reason(answers):
    folder, run = answers
    assert set(run.failures) == {str(folder / "broken.svs"), str(folder / "glass.tif")}
    assert "no tissue was found" in run.failures[str(folder / "glass.tif")]
    assert "broken.svs" in run.failures[str(folder / "broken.svs")]
    page = (folder / "out" / "index.html").read_text()
    assert page.index('href="lesion/report.html"') < page.index('href="normal/report.html"')
    assert "no tissue was found" in page


def test_the_folder_of_a_slide_is_whole(answers):
    folder, _ = answers
    assert names(folder / "out") == [
        "index.html", "lesion", "normal", "slides.csv", "trail.jsonl", "trail.jsonl.head",
    ]  # fmt: skip
    assert names(folder / "out" / "lesion") == [
        "heatmap.png",
        "lesion-regions.geojson",
        "lesion-tiles.geojson.gz",
        "lesion.csv",
        "overlay.tif",
        "report.html",
        "result.json",
        "tiles.parquet",
    ]
    page = (folder / "out" / "lesion" / "report.html").read_text()
    assert page.count("data:image/") >= 13, "slide, heatmap, scale, ten fields"
    assert "Research use only" in page


def test_everything_that_shows_the_lesion_shows_it_in_its_place(answers):
    folder, _ = answers
    half_a_tile = TILE * TILE_MPP / MPP / 2
    table = pd.read_csv(folder / "out" / "lesion" / "lesion.csv")
    hot = table[table["prob_tumour"] > 0.5]
    assert abs((hot["minx"] + hot["width"] / 2).mean() - LESION[0]) < half_a_tile
    assert abs((hot["miny"] + hot["height"] / 2).mean() - LESION[1]) < half_a_tile
    features = json.loads((folder / "out" / "lesion" / "lesion-regions.geojson").read_text())["features"]
    centroid = shapely.geometry.shape(features[0]["geometry"]).centroid
    assert np.hypot(centroid.x - LESION[0], centroid.y - LESION[1]) < half_a_tile
    with Image.open(folder / "out" / "lesion" / "heatmap.png") as image:
        pixels = np.asarray(image).astype(int)
    raster = Raster(Size(WIDTH, HEIGHT), Size(pixels.shape[1], pixels.shape[0]))
    yellow = (pixels[..., 0] - pixels[..., 2] > 60) & (pixels[..., 1] - pixels[..., 2] > 40)
    row, column = ndimage.center_of_mass(yellow)
    x, y = raster.to_level0([column + 0.5, row + 0.5])
    assert np.hypot(x - LESION[0], y - LESION[1]) < half_a_tile


@pytest.mark.parametrize("mpp", [2.0, 3.3, 8.0])
def test_places_are_kept_at_every_resolution(tmp_path, mpp):
    draw(tmp_path / "slide.tif")
    with open_slide(tmp_path / "slide.tif") as slide:
        assert [level.width for level in slide.info.levels] == [2003, 1001, 333], "no round downsamples"
        grid = tile_grid(slide.info, None, tile_px=16, mpp=mpp)
        found = recognise_tiles(slide, grid.boxes, Size(16, 16), _Darkness(), n_classes=2)
        predictions = TilePredictions(
            grid.boxes, found.proba, ("normal", "tumour"), 16, mpp, "slide", slide.info.size, slide.info.mpp,
            slide.info.fingerprint, "m", grid.tissue, found.flag,
        )  # fmt: skip
    half_a_tile = 16 * mpp / MPP / 2
    heat = probability_map(predictions, 700)
    row, column = ndimage.center_of_mass(heat.pixels > 0.5)
    x, y = heat.raster.to_level0([column + 0.5, row + 0.5])
    assert np.hypot(x - LESION[0], y - LESION[1]) < half_a_tile
    export_writer("geojson-regions")(predictions, tmp_path / "r.geojson")
    outline = shapely.geometry.shape(json.loads((tmp_path / "r.geojson").read_text())["features"][0]["geometry"])
    assert outline.centroid.distance(shapely.Point(LESION[:2])) < half_a_tile


class _Darkness:
    """Dark tiles are a tumour."""

    def predict_proba(self, tiles):
        dark = (tiles[..., 1].mean(axis=(1, 2)) < 122).astype(np.float32)
        return np.stack([1 - dark, dark], axis=1)


def test_a_finished_slide_is_not_done_again_but_a_changed_one_is(answers, model):
    folder, run = answers
    told = []
    again = predict_slides([folder], model.folder, folder / "out", on_event=told.append)
    assert [one["key"] for one in again.results] == [one["key"] for one in run.results]
    assert not [event for event in told if isinstance(event, TilesDone)]
    assert [event.stored for event in told if isinstance(event, SlideDone) and "failed" not in event.verdict] == [
        True
    ] * 2
    draw(folder / "normal.tif", (600, 700, 200), seed=9)  # the same name, another content
    changed = predict_slides([folder / "normal.tif"], model.folder, folder / "out", on_event=told.append)
    assert changed.results[0]["verdict"] == "suspicious of tumour"
    other = predict_slides([folder / "normal.tif"], model.folder, folder / "out", PredictionWish(overlap=0.5))
    assert other.results[0]["tiles"] > 3 * changed.results[0]["tiles"]
    draw(folder / "normal.tif", None, seed=8)  # as others found it


def test_a_slide_of_another_stain_is_refused(model, tmp_path):
    draw(tmp_path / "same.tif", seed=21)
    draw(tmp_path / "blue.tif", seed=22)
    with open_slide(tmp_path / "blue.tif") as slide:
        pixels = np.array(slide.reader.read_level(0, 0, 0, WIDTH, HEIGHT))
    tissue = pixels.mean(axis=2) < 230
    pixels[tissue] = pixels[tissue][:, [2, 0, 1]]  # another dye
    tifffile.imwrite(
        tmp_path / "blue.tif", pixels, tile=(128, 128), resolution=(5000, 5000), resolutionunit="CENTIMETER"
    )
    run = predict_slides([tmp_path], model.folder, tmp_path / "out")
    by_name = {one["slide_id"]: one for one in run.results}
    assert by_name["blue"]["verdict"].startswith("refused: 100 % of its tissue tiles cannot be haematoxylin and eosin")
    assert by_name["blue"]["score"] is None
    assert by_name["same"]["verdict"] == "suspicious of tumour"
    assert by_name["same"]["warnings"] == []
    assert by_name["same"]["typicality"]["verdict"] == "typical"


def test_half_a_slide_is_not_taken_for_a_whole_one(answers, model):
    folder, _ = answers
    (folder / "out" / "lesion" / "tiles.parquet").unlink()
    told = []
    run = predict_slides([folder / "lesion.tif"], model.folder, folder / "out", on_event=told.append)
    assert not run.failures
    assert [event.stored for event in told if isinstance(event, SlideDone)] == [False]
    assert read_predictions(folder / "out" / "lesion" / "tiles.parquet").slide_id == "lesion"


def test_a_slide_without_mpp_fails_with_the_way_to_give_one(model, tmp_path):
    draw(tmp_path / "bare.tif", mpp=None)
    run = predict_slides([tmp_path / "bare.tif"], model.folder, tmp_path / "out")
    assert "--mpp" in run.failures[str(tmp_path / "bare.tif")]
    wish = PredictionWish(MppWish(mpp=MPP))
    (result,) = predict_slides([tmp_path / "bare.tif"], model.folder, tmp_path / "out", wish).results
    assert (result["mpp"], result["mpp_source"]) == (MPP, "given")
    assert result["verdict"] == "suspicious of tumour"


def test_a_slide_that_is_far_too_coarse_is_refused(model, tmp_path):
    draw(tmp_path / "coarse.tif", mpp=29.0)
    run = predict_slides([tmp_path / "coarse.tif"], model.folder, tmp_path / "out")
    assert "29 um a pixel, and the tiles need 4" in run.failures[str(tmp_path / "coarse.tif")]


def test_a_model_without_mpp_recognises_no_slide(cohort, draw_cohort, tmp_path):
    write_manifest(draw_cohort(n_patients=8, n_patches=8, seed=11), tmp_path / "m.csv")
    bundle = train_model(tmp_path / "m.csv", tmp_path / "model", TrainingWish("majority"))
    with pytest.raises(ModelError, match="train it again with --mpp"):
        predict_slides([cohort / "slides"], bundle.folder, tmp_path / "out")


def test_a_folder_that_is_not_ours_is_never_touched(model, tmp_path):
    draw(tmp_path / "slide.tif")
    (tmp_path / "slide").mkdir()
    (tmp_path / "slide" / "Data0001.dat").write_bytes(b"the pixels of a scan")
    run = predict_slides([tmp_path / "slide.tif"], model.folder, tmp_path)
    assert "is no result of Sentinode; choose another --out" in run.failures[str(tmp_path / "slide.tif")]
    assert names(tmp_path / "slide") == ["Data0001.dat"]


def test_a_folder_that_lost_a_file_is_made_anew(answers, model):
    folder, _ = answers
    (folder / "out" / "lesion" / "report.html").write_text("cut short")
    told = []
    predict_slides([folder / "lesion.tif"], model.folder, folder / "out", on_event=told.append)
    assert [event.stored for event in told if isinstance(event, SlideDone)] == [False]
    assert (folder / "out" / "lesion" / "report.html").stat().st_size > 100_000


def test_a_slide_that_is_out_of_focus_is_refused_and_nothing_is_said_of_it(model, tmp_path, monkeypatch):
    monkeypatch.setattr(predicting, "usable", lambda _findings: (False, "80 % of its tissue is out of focus"))
    draw(tmp_path / "blurred.tif")
    (result,) = predict_slides([tmp_path / "blurred.tif"], model.folder, tmp_path / "out").results
    assert result["verdict"] == "refused: 80 % of its tissue is out of focus"
    assert (result["score"], result["regions"], result["suspicious_mm2"]) == (None, 0, 0)
    assert names(tmp_path / "out" / "blurred") == ["heatmap.png", "report.html", "result.json", "tiles.parquet"]
    assert "Not judged: the slide was refused" in (tmp_path / "out" / "blurred" / "report.html").read_text()


def test_tiles_under_a_bubble_of_air_are_left_out_and_said_so(model, tmp_path):
    bubble = (500, 750, 250)
    draw(tmp_path / "bubble.tif", bubble=bubble)
    (result,) = predict_slides([tmp_path / "bubble.tif"], model.folder, tmp_path / "out").results
    found = read_predictions(tmp_path / "out" / "bubble" / "tiles.parquet")
    centre = found.boxes[:, :2] + found.boxes[:, 2:] / 2
    inside = np.hypot(*(centre - bubble[:2]).T) < bubble[2] - 20
    far = np.hypot(*(centre - bubble[:2]).T) > bubble[2] + 80
    assert (found.flag[inside] == "air").all()
    assert (found.flag[far] != "air").all()
    assert result["left_out"]["air"] == (found.flag == "air").sum() > 50
    assert "air" in (tmp_path / "out" / "bubble" / "report.html").read_text(encoding="utf-8")
    wish = TilesWish(TILE_MPP, TILE, unannotated="background")
    assert make_tiles([tmp_path / "bubble.tif"], tmp_path / "m.csv", wish).left_out["air"] == result["left_out"]["air"]
    loose = PredictionWish(check_quality=False, exports=(), overlay=False)
    (result,) = predict_slides([tmp_path / "bubble.tif"], model.folder, tmp_path / "loose", loose).results
    assert "air" not in result["left_out"]


def test_the_gallery_shows_what_the_answers_rest_on_where_that_is_asked_for(answers, model, tmp_path):
    folder, _ = answers
    wish = PredictionWish(maps=True, exports=(), overlay=False)
    predict_slides([folder / "lesion.tif"], model.folder, tmp_path / "out", wish)
    page = (tmp_path / "out" / "lesion" / "report.html").read_text(encoding="utf-8")
    plain = (folder / "out" / "lesion" / "report.html").read_text(encoding="utf-8")
    assert "each place was covered" in page
    assert "each place was covered" not in plain
    assert page.count("<img") == plain.count("<img") + 10
    told = []
    predict_slides([folder / "lesion.tif"], model.folder, tmp_path / "out", replace(wish, maps=False), told.append)
    assert [event.stored for event in told if isinstance(event, SlideDone)] == [False]


def test_what_no_grid_can_do_is_told_before_a_slide_is_opened():
    with pytest.raises(PlanError, match="overlap = 1"):
        PredictionWish(overlap=1)
    with pytest.raises(PlanError, match="tile = 0"):
        TilesWish(mpp=1.0, tile_px=0)


def test_slides_of_the_training_are_not_tested_on_whoever_they_are_said_to_be_of(cohort, model, tmp_path):
    """Other tiles of the same slides, under other names: no patient, id or pixel is the same, the content is."""
    for path in (cohort / "slides").iterdir():
        (tmp_path / f"renamed-{path.name}").write_bytes(path.read_bytes())
    wish = TilesWish(TILE_MPP, TILE, unannotated="background", overlap=0.3)
    make_tiles([tmp_path], tmp_path / "m.csv", wish)
    with pytest.raises(LeakageError, match="the same files under other names"):
        evaluate_model(tmp_path / "m.csv", model.folder)


def test_another_laboratory_tells_slides_by_their_content_and_says_what_it_cannot_tell(
    cohort, model, tmp_path, monkeypatch
):
    seen = next(f"s{number}" for number in range(8) if model.seen().has_slide(f"s{number}"))
    monkeypatch.setenv("SENTINODE_SALT", "of quite another laboratory")
    with pytest.raises(LeakageError, match="the same files under other names"):
        evaluate_model(cohort / "tiles.csv", model.folder)
    draw(tmp_path / f"{seen}.tif", seed=77)
    wish = TilesWish(TILE_MPP, TILE, unannotated="background")
    make_tiles([tmp_path], tmp_path / "m.csv", wish)
    (note,) = evaluate_model(tmp_path / "m.csv", model.folder).notes
    assert "could not be asked of the ids of patients" in note
    monkeypatch.delenv("SENTINODE_SALT")
    with pytest.raises(LeakageError, match=rf"trained on slides of it \({seen}\)"):
        evaluate_model(tmp_path / "m.csv", model.folder)


def test_two_slides_of_one_name_are_refused(model, tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        draw(tmp_path / folder / "s.tif")
    with pytest.raises(SlideError, match="have one name"):
        predict_slides([tmp_path / "a", tmp_path / "b"], model.folder, tmp_path / "out")
    with pytest.raises(SlideError, match="has no slide in it"):
        predict_slides([tmp_path], model.folder, tmp_path / "out")


# --- trail ----------------------------------------------------------------------------------------------------


def test_every_slide_has_a_line_in_the_trail(answers, model):
    folder, run = answers
    lines = [json.loads(line) for line in (folder / "out" / "trail.jsonl").read_text().splitlines()]
    assert verify_trail(folder / "out" / "trail.jsonl").faults == ()
    first = {one["slide"]["id"]: one for one in lines[:4]}
    assert set(first) == {"lesion", "normal", "glass", "broken"}
    assert {one["model"] for one in lines} == {model.digest}
    assert first["lesion"]["verdict"] == "suspicious of tumour"
    assert first["lesion"]["slide"]["content"] == run.results[0]["slide"]
    assert first["glass"]["verdict"].startswith("failed: ")
    assert first["normal"]["options"]["overlap"] == 0.0


def test_a_changed_trail_stops_a_run_before_it_begins(answers, model, tmp_path):
    folder, _ = answers
    bad = tmp_path / "trail.jsonl"
    bad.write_text("no line of a trail\n")
    with pytest.raises(ExportError, match="was changed since it was written"):
        predict_slides([folder / "normal.tif"], model.folder, tmp_path / "out", trail=bad)
    assert not (tmp_path / "out").exists()


def test_a_slide_that_cannot_be_written_stops_no_other_and_is_closed(answers, model, tmp_path, monkeypatch):
    folder, _ = answers
    write, closed, close = predicting._write, [], Slide.close

    def full(work, slide, read, result, folder):
        if result["slide_id"] == "lesion":
            raise ExportError("lesion: cannot be written (no space left); make room, or choose another --out")
        write(work, slide, read, result, folder)

    monkeypatch.setattr(predicting, "_write", full)
    monkeypatch.setattr(Slide, "close", lambda slide: (closed.append(slide.info.slide_id), close(slide)))
    slides = [folder / "lesion.tif", folder / "normal.tif"]
    run = predict_slides(slides, model.folder, tmp_path / "out")
    assert [one["slide_id"] for one in run.results] == ["normal"]
    assert "no space left" in run.failures[str(slides[0])]
    assert closed == ["lesion", "normal"]
    lines = (tmp_path / "out" / "trail.jsonl").read_text().splitlines()
    assert [json.loads(line)["slide"]["id"] for line in lines] == ["lesion", "normal"]


# --- triage ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certified(cohort, tiles):
    """A model that was certified on whole slides: two with and two without a lesion, and half may be missed."""
    # An eighth of the tiles to train on; the slides that certify are recognised whole all the same.
    write_manifest(tiles.manifest.select(np.arange(0, len(tiles.manifest), 8)), cohort / "some-tiles.csv")
    wish = TrainingWish("naive-bayes", test=0.25, stop=0.0, certify=0.5, alpha=0.5)
    return train_model(cohort / "some-tiles.csv", cohort / "certified", wish)


def test_a_promise_of_slides_is_certified_on_whole_slides(certified, cohort):
    confident, average = certified.facts.promises
    assert (average.unit, average.n_patients, average.misses) == ("slides", 2, 0)
    assert confident.threshold is None, "five would be needed"
    assert "a tumour slide called clear" in average.promise.in_words()
    # The threshold is a score that predict gives to a slide of the certify part, or the line of the suspicious.
    tumour_slides = [cohort / "slides" / f"s{number}.tif" for number in (1, 3, 5, 7)]
    recogniser = open_recogniser(certified)
    assert average.threshold == 0.5 or average.threshold in {
        predicting.score_slide(path, certified, recogniser) for path in tumour_slides
    }


def test_slides_are_sorted_by_the_promise_of_the_model(certified, tmp_path):
    folder = tmp_path / "slides"
    folder.mkdir()
    draw(folder / "lesion.tif", seed=7)
    draw(folder / "normal.tif", None, seed=8)
    wish = PredictionWish(exports=(), overlay=False)
    run = predict_slides([folder], certified.folder, tmp_path / "out", wish)
    lesion, normal = run.results
    assert (lesion["triage"]["verdict"], normal["triage"]["verdict"]) == ("suspicious", "clear")
    assert normal["triage"]["kind"] == "average"
    assert "at most 50 % of the patients with a tumour have a tumour slide called clear" in normal["triage"]["words"]
    assert "Triage: clear" in (tmp_path / "out" / "normal" / "report.html").read_text()
    assert "at most 50 % of the patients" in (tmp_path / "out" / "index.html").read_text()
    assert pd.read_csv(tmp_path / "out" / "slides.csv")["triage"].tolist() == ["suspicious", "clear"]
    assert lesion["runtime"].get("precision", "float32") == "float32"
    # What certifies and what predicts is one score, and it holds for no other options and no slide that is unfit.
    recogniser = open_recogniser(certified)
    scored = predicting.score_slide(folder / "normal.tif", certified, recogniser)
    assert scored == pytest.approx(normal["score"], abs=1e-6)
    predictions = read_predictions(tmp_path / "out" / "normal" / "tiles.parquet")
    for options, fit, verdict, words in (
        ({}, True, "clear", "at most 50 %"),
        ({}, False, "review", "at most 50 %"),
        ({"overlap": 0.5}, True, "review", "certified with other options"),
    ):
        work = predicting._Work(
            certified, TILE_MPP, recogniser, tmp_path, PredictionWish(**options), print, 1, None, None, None
        )
        found = predicting._triage(work, predictions, fit=fit)
        assert found["verdict"] == verdict
        assert words in found["words"]


def test_a_site_of_which_nothing_is_promised_is_refused_before_a_slide_is_read(certified, tmp_path):
    with pytest.raises(PlanError, match="promises nothing of the site 'oslo'; train it with --certify and --by-site"):
        predict_slides([tmp_path], certified.folder, tmp_path / "out", PredictionWish(site="oslo"))


def test_slides_of_a_site_are_sorted_by_the_promise_for_it(certified, tmp_path):
    (tmp_path / "slides").mkdir()
    draw(tmp_path / "slides" / "normal.tif", None, seed=33)
    everyone = certified.facts.promises[1]
    here = everyone.model_copy(update={"site": "oslo", "threshold": 0.0})
    content = {
        name: (certified.folder / name).read_bytes()
        for name in certified.files
        if name not in ("seen.json", "README.md")
    }
    facts = certified.facts.model_copy(update={"promises": (*certified.facts.promises, here)})
    model = write_bundle(tmp_path / "model", facts, content, certified.seen())
    plain = PredictionWish(exports=(), overlay=False)
    (found,) = predict_slides([tmp_path / "slides"], model, tmp_path / "out", plain).results
    assert found["triage"]["verdict"] == "clear"
    (found,) = predict_slides([tmp_path / "slides"], model, tmp_path / "out", replace(plain, site="oslo")).results
    assert found["triage"]["verdict"] == "review"
    assert "of oslo" in found["triage"]["words"]


def test_a_model_without_a_promise_sorts_nothing(answers):
    folder, run = answers
    assert [one["triage"] for one in run.results] == [None, None]
    assert "Triage" not in (folder / "out" / "normal" / "report.html").read_text()


def test_a_triage_of_tiles_is_one_of_their_slides(model, tmp_path):
    for name in ("slides", "drawings"):
        (tmp_path / name).mkdir()
    lesions = {"t0": (900, 700, 220), "t1": None}
    for number, (name, lesion) in enumerate(lesions.items()):
        draw(tmp_path / "slides" / f"{name}.tif", lesion, seed=40 + number)
        if lesion:
            disc = shapely.Point(lesion[:2]).buffer(lesion[2])
            write_asap(Annotations((Region("Tumor", disc),)), tmp_path / "drawings" / f"{name}.xml")
    rows = [(name, f"q{name}", "tumour" if lesion else "normal") for name, lesion in lesions.items()]
    pd.DataFrame(rows, columns=["slide_id", "patient_id", "label"]).to_csv(tmp_path / "slides.csv", index=False)
    wish = TilesWish(TILE_MPP, TILE, tmp_path / "drawings", tmp_path / "slides.csv")
    make_tiles([tmp_path / "slides"], tmp_path / "tiles.csv", wish)
    found = triage_manifest(tmp_path / "tiles.csv", model.folder, TriageWish(0.5, alpha=0.5))
    assert (len(found.cases), found.cases.unit) == (2, "slides")
    assert found.cases.positive.tolist() == [True, False]
    assert found.cases.patient.tolist() == ["qt0", "qt1"]
    assert found.cases.score[0] > found.cases.score[1] or np.isinf(found.cases.score).any()
    average = found.points[1]
    assert (average.promise.n_patients, average.n_missed) == (1, 0)


# --- measured on slides ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def unseen(tmp_path_factory):
    """Slides with lesions, and without, a broken one, and one of which nothing is known."""
    folder = tmp_path_factory.mktemp("unseen")
    for name in ("slides", "truth"):
        (folder / name).mkdir()
    places = {"u1": (700, 700, 200), "u2": (1250, 800, 260), "u3": None, "u4": None, "u5": None}
    rows = [("u6", "q5", "normal", "drawn for a test")]
    for number, (name, lesion) in enumerate(places.items()):
        draw(folder / "slides" / f"{name}.tif", lesion, seed=40 + number)
        rows.append((name, f"q{number}", "" if name == "u5" else "tumour" if lesion else "normal", "synthetic"))
    (folder / "slides" / "u6.svs").write_bytes(b"no slide at all")
    pd.DataFrame(rows, columns=["slide_id", "patient_id", "label", "provenance"]).to_csv(
        folder / "slides.csv", index=False
    )
    write_asap(Annotations((Region("Tumor", shapely.Point(700, 700).buffer(200)),)), folder / "truth" / "u1.xml")
    # As a mask; and below it cells that count neither way, on which nothing was drawn.
    y, x = np.indices((HEIGHT // 2 + 1, WIDTH // 2 + 1)) * 2 + 1
    inside = (np.hypot(x - 1250, y - 800) < 260) | (np.hypot(x - 500, y - 1100) < 20)
    Image.fromarray((inside * 255).astype(np.uint8)).save(folder / "truth" / "u2_mask.png")
    write_asap(Annotations(()), folder / "truth" / "u3.xml")
    return folder


@pytest.fixture(scope="module")
def measured(model, unseen):
    """What came out, in a folder."""
    wish = SlideEvaluationWish(TruthWish(unseen / "truth"), unseen / "slides.csv")
    return evaluate_slides([unseen / "slides"], model.folder, wish, unseen / "out")


def test_lesions_are_found_before_the_first_false_alarm(measured):
    assert [(one.slide_id, one.patient_id, one.label, one.lesions, one.isolated) for one in measured.slides] == [
        ("u1", "q0", "tumour", 1, 0),
        ("u2", "q1", "tumour", 1, 1),
        ("u3", "q2", "normal", 0, 0),
        ("u4", "q3", "normal", 0, 0),
    ]
    assert measured.score.value == 1.0
    assert (measured.auc.value, measured.auc.low) == (1.0, 1.0)
    assert measured.sensitivity["0.25"].model_dump() == {"value": 1.0, "low": 1.0, "high": 1.0}
    assert measured.found.false_alarms.max() > 8, "the map of a slide has more than eight peaks"
    assert "synthetic slides: this says nothing about tissue" in measured.notes


def test_what_cannot_be_measured_is_in_no_number_and_told(measured, unseen):
    assert set(measured.failures) == {str(unseen / "slides" / name) for name in ("u5.tif", "u6.svs")}
    assert "neither a drawing nor a mask" in measured.failures[str(unseen / "slides" / "u5.tif")]
    assert measured.found.n_slides == 4
    assert not (unseen / "out" / "u5").exists(), "nothing was done in vain"


def test_the_files_are_those_of_the_challenge_and_say_the_same(measured, unseen):
    out = unseen / "out"
    assert names(out / "detections") == ["u1.csv", "u2.csv", "u3.csv", "u4.csv"]
    confidence, x, y = map(float, (out / "detections" / "u2.csv").read_text().splitlines()[0].split(","))
    assert confidence > 0.9
    assert np.hypot(x - 1250, y - 800) < 260 + 37.5 / MPP
    stored = json.loads((out / "froc.json").read_text())
    assert stored == json.loads(json.dumps(measured.to_json()))
    assert (stored["froc"]["value"], stored["n_lesions"], stored["n_isolated"]) == (1.0, 2, 1)
    # The same from the files alone.
    truth = TruthWish(unseen / "truth", no_truth_is_normal=True)
    hits = []
    for name in ("u1", "u2", "u3", "u4"):
        lesions = lesions_on(
            find_truth(unseen / "slides" / f"{name}.tif", truth, "tumour"), Size(WIDTH, HEIGHT), Scale(MPP)
        )
        hits.append(slide_hits(lesions, read_detections(out / "detections" / f"{name}.csv")))
    assert froc_of_hits(hits).at_rates == measured.found.at_rates
    with Image.open(out / "froc.png") as picture:
        assert picture.size[0] > 500
    assert "lesions: 2, slides: 4" in (out / "froc.svg").read_text()


def test_slides_that_were_recognised_are_not_recognised_again(measured, model, unseen):
    assert measured.n_unknown == 0
    told = []
    wish = SlideEvaluationWish(TruthWish(unseen / "truth", no_truth_is_normal=True))
    again = evaluate_slides([unseen / "slides"], model.folder, wish, unseen / "out", told.append)
    assert {event.slide_id for event in told if isinstance(event, TilesDone)} == {"u5"}
    assert len(again.slides) == 5
    assert again.n_unknown == 5, "each slide stands for a patient where no table says whose it is"
    assert set(again.failures) == {str(unseen / "slides" / "u6.svs")}


def test_slides_of_one_kind_have_no_area_and_without_lesions_there_is_no_score(measured, model, unseen, tmp_path):
    healthy = [one.slide_id for one in measured.slides if one.label == "normal"]
    for name in healthy:
        shutil.copytree(unseen / "out" / name, tmp_path / name)  # as sentinode predict left them
    wish, told = SlideEvaluationWish(TruthWish(unseen / "truth"), unseen / "slides.csv"), []
    slides = [unseen / "slides" / f"{name}.tif" for name in healthy]
    found = evaluate_slides(slides, model.folder, wish, tmp_path, told.append)
    assert [event.stored for event in told] == [True, True]
    assert names(tmp_path / "detections") == [f"{name}.csv" for name in healthy]
    assert (tmp_path / "froc.json").exists()
    assert not (tmp_path / "froc.png").exists(), "there is no curve to draw"
    assert (found.score.value, found.auc.value, found.sensitivity["8"].low) == (None, None, None)
    assert len(found.notes) == 3


def test_slides_of_the_training_are_not_measured_whatever_they_are_called(cohort, model, tmp_path):
    for number in range(8):
        (tmp_path / f"other{number}.tif").write_bytes((cohort / "slides" / f"s{number}.tif").read_bytes())
    wish = SlideEvaluationWish(TruthWish(cohort / "drawings", no_truth_is_normal=True))
    with pytest.raises(LeakageError, match=r"trained on \d of these slides or their patients \(other\d"):
        evaluate_slides([tmp_path], model.folder, wish, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_command_tells_it_as_a_table_and_as_json(measured, model, unseen, capsys, monkeypatch):
    given = ["sentinode", "evaluate", unseen / "slides", "--model", model.folder, "--froc", "--truth", unseen / "truth"]
    given += ["--slides", unseen / "slides.csv", "--out", unseen / "out"]

    def run(*more):
        monkeypatch.setattr("sys.argv", list(map(str, [*given, *more])))
        with pytest.raises(SystemExit) as left:
            main()
        return left.value.code, *capsys.readouterr()

    code, out, err = run("--json")
    assert code == 1, "two slides failed"
    assert json.loads(out) == json.loads(json.dumps(measured.to_json()))
    code, out, err = run()
    assert "FROC score" in out
    assert "lesions found at 0.25 false alarms a slide" in out
    assert "4 slides of 4 patients, 2 with tumour; 2 lesions, 1 smaller ones that count neither way" in err
    assert err.count("failed, and in no number") == 2


@pytest.mark.parametrize(
    ("change", "error", "why"),
    [
        ({"truth": "absent"}, ManifestError, "is no folder; name the one with the drawings"),
        ({"slides": "u5.tif"}, SlideError, "no slide can be measured: .*u5.tif: may or may not"),
        ({"slides": "u6.svs"}, SlideError, "no slide can be measured: .*u6.svs"),
        ({"table": "slide_id,label\nu1,Tumor\n"}, ManifestError, "labelled Tumor, and the model knows normal, tumour"),
        ({"classes": {"Tumor": "cancer"}}, PlanError, "no --class is tumour"),
        ({"radius_um": -1.0}, PlanError, "radius = -1"),
    ],
    ids=["no truth", "nothing known", "broken", "label", "class", "radius"],
)
def test_what_cannot_be_measured_at_all_is_refused(model, unseen, tmp_path, change, error, why):
    table = unseen / "slides.csv"
    if "table" in change:
        table = tmp_path / "table.csv"
        table.write_text(change["table"])
    wish = SlideEvaluationWish(
        TruthWish(unseen / change.get("truth", "truth"), change.get("classes")),
        table,
        change.get("radius_um", 187.0),
    )
    with pytest.raises(error, match=why):
        evaluate_slides([unseen / "slides" / change.get("slides", "u1.tif")], model.folder, wish, tmp_path / "out")


def test_a_wrong_model_and_an_empty_folder_are_refused(model, unseen, tmp_path):
    wish = SlideEvaluationWish(TruthWish(unseen / "truth"))
    with pytest.raises(ModelError, match="is no model"):
        evaluate_slides([unseen / "slides"], unseen, wish, tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(SlideError, match="has no slide in it"):
        evaluate_slides([tmp_path / "empty"], model.folder, wish, tmp_path / "out")
    with pytest.raises(PlanError, match="--froc needs --truth DIR"):
        slide_evaluation_wish(None, None, [], (None, None))
    with pytest.raises(PlanError, match=r"give one manifest.*--froc"):
        the_manifest([unseen / "slides"])


# --- the score of a slide, fitted -----------------------------------------------------------------------------


def test_a_fitted_slide_score_is_part_of_a_model_and_predict_says_so(measured, model, unseen, tmp_path, monkeypatch):
    assert len(measured.slides) == 4
    slides = [unseen / "slides" / f"u{number}.tif" for number in range(1, 6)]
    given = (slides, model.folder, unseen / "slides.csv")
    with pytest.raises(ModelError, match="2 slides with lesions and 2 without"):
        fit_slide_score(*given, tmp_path / "new", unseen / "out")
    assert not (tmp_path / "new").exists()
    monkeypatch.setattr(aggregation, "FEWEST", 1)  # drawing ten slides takes its time
    told = []
    found = fit_slide_score(*given, tmp_path / "new", unseen / "out", told.append)
    assert not [event for event in told if isinstance(event, TilesDone)], "nothing was recognised again"
    assert set(found.failures) == {str(unseen / "slides" / "u5.tif")}, "it has no label"
    assert (found.measures["fitted"].value, found.measures["plain"].value) == (1.0, 1.0)
    assert max(found.scorer.weights) > 0

    made = read_bundle(tmp_path / "new")
    assert made.digest != model.digest
    assert scorer_of(made) == found.scorer
    assert {name: made.files[name] for name in ("estimator.skops", "typicality.json")} == {
        name: model.files[name] for name in ("estimator.skops", "typicality.json")
    }
    with pytest.raises(LeakageError, match=r"u1, u2, u3 and more"):
        evaluate_slides(
            slides[:4], made.folder, SlideEvaluationWish(TruthWish(unseen / "truth", no_truth_is_normal=True))
        )
    with pytest.raises(ModelError, match="has a fitted slide score already"):
        fit_slide_score(slides, made.folder, unseen / "slides.csv", tmp_path / "newer")
    with pytest.raises(LeakageError, match="the model was trained on"):
        fit_slide_score([slides[0], slides[4]], _grown(made, tmp_path), unseen / "slides.csv", tmp_path / "newer")

    (result,) = predict_slides(
        [slides[4]], made.folder, tmp_path / "out", PredictionWish(exports=(), overlay=False)
    ).results
    assert result["score"] == found.scorer.score(read_predictions(tmp_path / "out" / "u5" / "tiles.parquet"))
    assert result["score_by"] == "fitted on the maps of 2 slides with lesions and 2 without"
    assert result["score_by"] in (tmp_path / "out" / "u5" / "report.html").read_text()

    changed = json.loads((made.folder / "slide-score.json").read_text())
    changed["intercept"] += 9
    (made.folder / "slide-score.json").write_text(json.dumps(changed))
    with pytest.raises(ModelError, match=r"slide-score\.json: was changed after it was written"):
        read_bundle(made.folder)


def _grown(made, folder):
    """The same model without what was fitted: its slides stay seen."""
    content = {name: (made.folder / name).read_bytes() for name in ("estimator.skops", "training.csv")}
    return write_bundle(folder / "grown", made.facts, content, made.seen()).folder


@pytest.mark.parametrize(
    ("table", "error", "why"),
    [
        ("slide_id,label\nu1,Tumor\n", ManifestError, r"u1\.tif: is a Tumor in the table"),
        ("slide_id,label\nu2,tumour\n", SlideError, r"no slide can be fitted on: .*u1\.tif: has no label"),
        ("path,label\nslides/u1.tif,tumour\n", ModelError, "1 slides with lesions and 0 without"),
    ],
    ids=["label", "no label", "one kind"],
)
def test_slides_that_cannot_be_fitted_on_are_told(measured, model, unseen, tmp_path, table, error, why):
    assert measured.failures
    (tmp_path / "t.csv").write_text(table)
    with pytest.raises(error, match=why):
        fit_slide_score(
            [unseen / "slides" / "u1.tif"], model.folder, tmp_path / "t.csv", tmp_path / "m", unseen / "out"
        )


def test_the_command_tells_the_weights_and_whether_they_are_worth_it(
    measured, model, unseen, tmp_path, capsys, monkeypatch
):
    assert measured.bundle.digest == model.digest
    monkeypatch.setattr(aggregation, "FEWEST", 1)
    given = ["sentinode", "slide-score", *(unseen / "slides" / f"u{number}.tif" for number in range(1, 5))]
    given += ["--model", model.folder, "--slides", unseen / "slides.csv", "--answers", unseen / "out"]
    for place, more in (("a", []), ("b", ["--json"])):
        monkeypatch.setattr("sys.argv", list(map(str, [*given, "--out", tmp_path / place, *more])))
        with pytest.raises(SystemExit) as left:
            main()
        assert left.value.code == 0
    out, err = capsys.readouterr()
    table, brace, document = out.partition("{")
    assert "top_5" in table
    assert json.loads(brace + document)["auc"]["difference"]["value"] == 0
    assert "AUC of slides that were left out of the fit: 1.000, of the plain score 1.000" in err
    assert "these slides do not show that it is better than the plain score" in err


# --- a first look ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """Slides with lesions, of which nobody says anything but whose they are: one patient has two."""
    folder = tmp_path_factory.mktemp("archive")
    for number, seed in enumerate((60, 61, 62, 63, 65, 66)):
        draw(folder / f"a{number}.tif", (700 + 70 * number, 650 + 50 * number, 220), seed=seed)
    owners = [(f"a{number}", f"r{max(number, 1)}") for number in range(6)]
    pd.DataFrame(owners, columns=["slide_id", "patient_id"]).to_csv(folder / "slides.csv", index=False)
    return folder


@pytest.fixture(scope="module")
def quicker(model, archive, tmp_path_factory):
    """The model with a first look, half of the suspicious tiles of which may be lost, on average."""
    out = tmp_path_factory.mktemp("quicker") / "m"
    return fit_first_look_on([archive], model.folder, out, table=archive / "slides.csv", alpha=0.5, delta=None)


def test_a_first_look_spares_the_model_tiles_and_the_answer_stays(quicker, model, tmp_path):
    assert not quicker.failures
    assert (quicker.look.n_fitted, quicker.look.n_patients, quicker.missing) == (2, 3, 0)
    draw(tmp_path / "new.tif", seed=7)
    plain, spared = (
        predict_slides([tmp_path / "new.tif"], folder, tmp_path / f"{place}", PredictionWish(first_look=place == "b"))
        for place, folder in (("a", model.folder), ("b", quicker.bundle.folder))
    )
    (before,), (after,) = plain.results, spared.results
    assert before["first_look"] is None
    n = after["first_look"]["spared"]
    assert n > 0.3 * after["recognised"]
    assert after["recognised"] == before["recognised"], "what is spared is answered, and not left out"
    table, whole = (read_predictions(tmp_path / place / "new" / "tiles.parquet") for place in "ba")
    assert whole.spared is None
    assert table.spared.sum() == n
    assert np.array_equal(table.proba[~table.spared], whole.proba[~table.spared])
    assert len(np.unique(table.positive[table.spared])) == 1
    assert table.positive[table.spared].max() <= table.positive[~table.spared].min(), "nothing seen ranks behind it"
    assert after["verdict"] == before["verdict"]
    assert after["score"] == before["score"]
    out = tmp_path / "b" / "new"
    page = (out / "report.html").read_text()
    assert f"spared the model {n:,} of" in page
    assert "on average at most 50 % of the tiles" in page
    assert f"{n:,} tiles were called unsuspicious by a first look" in page
    assert f"recognised, {n:,} of them by a first look alone" in page
    assert pd.read_csv(next(out.glob("*.csv")))["spared"].sum() == n
    features = json.loads(gzip.decompress((out / "new-tiles.geojson.gz").read_bytes()))["features"]
    assert sum(one["properties"]["measurements"]["spared"] for one in features) == n


def test_results_with_and_without_a_first_look_are_told_apart(quicker, tmp_path):
    draw(tmp_path / "new.tif", seed=8)
    run = [
        predict_slides(
            [tmp_path / "new.tif"],
            quicker.bundle.folder,
            tmp_path / "out",
            PredictionWish(first_look=wish, overlay=False),
        ).results[0]
        for wish in (False, True, True)
    ]
    assert run[0]["key"] != run[1]["key"]
    assert run[1] == run[2], "stored"


@pytest.mark.parametrize("otherwise", ["not typical", "far from the archive"])
def test_on_tissue_of_another_kind_the_model_sees_every_tile(quicker, model, tmp_path, monkeypatch, otherwise):
    draw(tmp_path / "new.tif", seed=7)
    looked = Gate.look
    if otherwise == "not typical":
        monkeypatch.setattr(Gate, "look", lambda self, *a, **how: looked(self, *a, **how)._replace(level="unusual"))
    else:
        monkeypatch.setattr(FirstLook, "distance", lambda _self, _numbers: np.inf)
    wish = PredictionWish(first_look=True, overlay=False)
    (result,) = predict_slides([tmp_path / "new.tif"], quicker.bundle.folder, tmp_path / "out", wish).results
    assert result["first_look"] == {"spared": 0, "stepped_back": True, "promise": ""}
    assert "stepped back: the tissue looks otherwise" in (tmp_path / "out" / "new" / "report.html").read_text()
    monkeypatch.undo()
    predict_slides([tmp_path / "new.tif"], model.folder, tmp_path / "whole", PredictionWish(overlay=False))
    found, whole = (read_predictions(tmp_path / name / "new" / "tiles.parquet") for name in ("out", "whole"))
    assert np.array_equal(found.proba, whole.proba)


def test_where_nothing_scores_low_enough_nobody_says_that_the_tissue_is_of_another_kind(quicker, tmp_path, monkeypatch):
    draw(tmp_path / "new.tif", seed=7)
    monkeypatch.setattr(FirstLook, "spares", lambda _self, numbers: np.zeros(len(numbers), dtype=bool))
    wish = PredictionWish(first_look=True, overlay=False)
    (result,) = predict_slides([tmp_path / "new.tif"], quicker.bundle.folder, tmp_path / "out", wish).results
    assert (result["first_look"]["spared"], result["first_look"]["stepped_back"]) == (0, False)
    assert "spared the model 0 of" in (tmp_path / "out" / "new" / "report.html").read_text()


def test_a_first_look_is_refused_where_it_cannot_be(quicker, model, archive, tmp_path, cohort):
    with pytest.raises(ModelError, match=r"has no first look; fit one on more slides \(sentinode first-look\)"):
        predict_slides([archive], model.folder, tmp_path / "out", PredictionWish(first_look=True))
    wish = PredictionWish(first_look=True, overlap=0.5, check_quality=False)
    with pytest.raises(ModelError, match=r"in another way \(overlap 0\.5, not 0\.0; check_quality False, not True\)"):
        predict_slides([archive], quicker.bundle.folder, tmp_path / "out", wish)
    with pytest.raises(PlanError, match="--heatmap dense runs the network over all tissue"):
        PredictionWish(first_look=True, heatmap="dense")
    with pytest.raises(ModelError, match="has a first look already"):
        fit_first_look_on([archive], quicker.bundle.folder, tmp_path / "m")
    with pytest.raises(LeakageError, match="the model was trained on"):
        fit_first_look_on([cohort / "slides"], model.folder, tmp_path / "m")
    with pytest.raises(LeakageError, match="a0"):
        evaluate_slides([archive / "a0.tif"], quicker.bundle.folder, SlideEvaluationWish(TruthWish(archive)))
    with pytest.raises(PlanError, match=r"alpha = 1\.5"):
        fit_first_look_on([archive], model.folder, tmp_path / "m", alpha=1.5)
    assert not (tmp_path / "m").exists()


def test_after_an_interruption_no_slide_is_looked_at_again_and_a_broken_one_stops_no_other(
    model, archive, tmp_path, monkeypatch
):
    (tmp_path / "slides").mkdir()
    for name in ("a1", "a2", "a3"):
        shutil.copy(archive / f"{name}.tif", tmp_path / "slides")
    (tmp_path / "slides" / "b.svs").write_bytes(b"no slide at all")
    given = ([tmp_path / "slides"], model.folder, tmp_path / "m")
    looked = []
    real = first_looking.look_twice

    def broken_at_the_third(path, *rest):
        looked.append(path.stem)
        if len(looked) == 3:
            raise KeyboardInterrupt
        return real(path, *rest)

    monkeypatch.setattr(first_looking, "look_twice", broken_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        fit_first_look_on(*given, alpha=0.5, delta=None)
    found = fit_first_look_on(*given, alpha=0.5, delta=None)
    assert looked == ["a1", "a2", "a3", "a3", "b"]
    assert set(found.failures) == {str(tmp_path / "slides" / "b.svs")}
    assert sorted(one.name for one in tmp_path.iterdir()) == ["m", "slides"], "nothing is left beside it"


def test_a_table_that_names_no_patient_is_refused_and_slides_without_one_are_told(model, archive, tmp_path):
    (tmp_path / "t.csv").write_text("slide_id,patient\na0,r1\na1,r1\n")
    with pytest.raises(ManifestError, match="names the patient of none of these slides"):
        fit_first_look_on([archive], model.folder, tmp_path / "m", table=tmp_path / "t.csv")
    found = fit_first_look_on([archive], model.folder, tmp_path / "m", alpha=0.5, delta=None)
    assert found.look.n_unnamed == 6
    assert "of 6 slides nobody said whose they are" in found.look.in_words


def test_what_the_model_has_not_seen_ranks_behind_all_that_it_has():
    proba = np.array([[0.5, 0.3, 0.2], [np.nan] * 3, [0.9, 0.09, 0.01], [0.2, 0.2, 0.6], [0.5, 0.3, 0.2]], np.float32)
    flag, spared = np.array(["", "blur", "", "", ""]), np.array([True, False, False, False, True])
    found = Recognised(proba, flag, Spent(), np.empty((5, 0), np.float32), spared)
    ranked = predicting._ranked(found).proba
    assert np.array_equal(ranked[spared], proba[[2, 2]])
    assert np.array_equal(ranked[~spared], proba[~spared], equal_nan=True)
    unseen = replace(found, flag=np.array(["", "blur", "blur", "blur", ""]))
    assert np.array_equal(predicting._ranked(unseen).proba, proba, equal_nan=True)


def test_of_many_tiles_some_of_either_kind_are_kept_and_stand_for_all():
    random = stream(1, "many tiles")
    positive = (random.uniform(size=60_000) < 0.2).astype(np.float32)
    numbers = random.normal(size=(60_000, 3)).astype(np.float32)
    kept = first_looking._some(LookedAt(numbers, np.stack([1 - positive, positive], 1), np.ones(60_000, np.float32)))
    suspicious = kept.proba[:, 1] >= 0.5
    assert (suspicious.sum(), (~suspicious).sum()) == (first_looking.MOST_TILES, first_looking.MOST_TILES)
    assert kept.weight[suspicious].sum() == pytest.approx(positive.sum(), rel=1e-4)
    assert kept.weight.sum() == pytest.approx(60_000, rel=1e-4)


def test_the_command_says_what_is_spared_or_how_many_patients_are_missing(
    model, archive, tmp_path, capsys, monkeypatch
):
    for place, more, code in (("a", ["--alpha=0.5", "--average"], 0), ("b", ["--json"], 1)):
        given = ["sentinode", "first-look", archive, "--model", model.folder, "--out", tmp_path / place, *more]
        given += ["--slides", archive / "slides.csv"]
        monkeypatch.setattr("sys.argv", list(map(str, given)))
        with pytest.raises(SystemExit) as left:
            main()
        assert left.value.code == code
    out, err = capsys.readouterr()
    told = " ".join(err.split())
    assert "fitted on 2 patients; the threshold rests on 3 others with suspicious tiles" in told
    assert "spares the network" in told
    assert json.loads(out)["patients_missing"] == -(-(299 - 3) * 4 // 3)
    given = ["sentinode", "predict", archive, "--model", tmp_path / "b", "--out", tmp_path / "x", "--first-look"]
    monkeypatch.setattr("sys.argv", list(map(str, given)))
    with pytest.raises(SystemExit):
        main()
    assert "3 patients with suspicious tiles are too few to promise 0.01" in " ".join(capsys.readouterr().err.split())
