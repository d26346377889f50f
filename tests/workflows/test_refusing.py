"""Nonsense is refused, tissue is not, and what lies between is said; on phantom tissue, and on real patches."""

import json

import numpy as np
import pandas as pd
import pytest
import tifffile
from PIL import Image
from scipy import ndimage
from typer.testing import CliRunner

from sentinode.cli import app
from sentinode.data.manifest import Manifest, Provenance, write_manifest
from sentinode.errors import ModelError
from sentinode.inference.predictions import read_predictions
from sentinode.models.bundle import KNOWN_TILES_FILE, read_bundle, write_bundle
from sentinode.phantom.cohort import CohortPlan, draw_patch
from sentinode.seeds import stream
from sentinode.slides.appearance import appearance
from sentinode.slides.bright_field import RULES
from sentinode.workflows.predicting import PredictionWish, SlideDone, predict_slides
from sentinode.workflows.predicting_patches import predict_patches
from sentinode.workflows.refusing import Gate, fit_known_tiles, gate_of, patch_refusals
from sentinode.workflows.training import TrainingWish, train_model

PATIENTS, PATCHES, SIDE = 12, 12, 48
NOBODYS = 3  # the last patients are kept from the training


@pytest.fixture(scope="module")
def drawn() -> np.ndarray:
    """(patients, patches, h, w, 3): phantom tissue, a quarter of a drawn patch each."""
    plan = CohortPlan(patients=PATIENTS, patches=PATCHES // 4, sites=1, seed=5)
    large = np.stack([[draw_patch(plan, who, i).pixels for i in range(PATCHES // 4)] for who in range(PATIENTS)])
    quarters = large.reshape(PATIENTS, -1, 2, SIDE, 2, SIDE, 3).swapaxes(3, 4)
    return quarters.reshape(PATIENTS, PATCHES, SIDE, SIDE, 3)


@pytest.fixture(scope="module")
def model(drawn, tmp_path_factory):
    """Naive Bayes of all patients but the last three."""
    folder, rows = tmp_path_factory.mktemp("refusing"), []
    for who, number in np.ndindex(PATIENTS - NOBODYS, PATCHES):
        name = f"p{who}-{number}.png"
        Image.fromarray(drawn[who, number]).save(folder / name)
        rows.append((name, f"p{who}", f"p{who}", ("normal", "tumour")[number % 2], name))
    frame = pd.DataFrame(rows, columns=["image_id", "patient_id", "slide_id", "label", "path"])
    write_manifest(Manifest(frame, ("normal", "tumour"), Provenance("drawn", synthetic=True), folder), folder / "m.csv")
    return train_model(folder / "m.csv", folder / "model", TrainingWish("naive-bayes", mpp=1.0))


@pytest.fixture
def new(drawn) -> np.ndarray:
    """(n, h, w, 3): of patients whom the model has not seen."""
    return drawn[-NOBODYS:].reshape(-1, SIDE, SIDE, 3)


def as_slide(path, tiles, across=6) -> None:
    """A slide that is a mosaic of tiles, with glass around it."""
    rows = [np.concatenate(list(tiles[begin : begin + across]), axis=1) for begin in range(0, len(tiles), across)]
    framed = np.pad(np.concatenate(rows), ((SIDE, SIDE), (SIDE, SIDE), (0, 0)), constant_values=243)
    tifffile.imwrite(path, framed, tile=(96, 96), resolution=(10_000, 10_000), resolutionunit="CENTIMETER")


def finer(tiles) -> np.ndarray:
    quarter = tiles[:, SIDE // 4 : -SIDE // 4, SIDE // 4 : -SIDE // 4]
    return np.stack([
        np.asarray(Image.fromarray(one).resize((SIDE, SIDE), Image.Resampling.BICUBIC)) for one in quarter
    ])


def refused(model, tiles, *, allow=False) -> np.ndarray:
    gate = gate_of(model)
    flag, distance = gate.judge(None)(tiles), gate.measure(tiles)
    return patch_refusals(flag, gate.p_values(distance), allow=allow) != ""


class TestTiles:
    def test_new_patients_are_hardly_ever_refused(self, model, new):
        assert refused(model, new).mean() <= 0.1

    def test_real_patches_of_left_out_slides_are_hardly_ever_refused(self, pcam_root):
        table = pd.read_csv(pcam_root / "patch_id_wsi.csv").groupby("wsi").head(15)
        read = lambda name: np.asarray(Image.open(pcam_root / "train" / f"{name}.tif").convert("RGB"))  # noqa: E731
        tiles, slide = np.stack([read(name) for name in table["id"]]), table["wsi"].to_numpy()
        shares = []
        for name in np.unique(slide)[::3]:
            known = fit_known_tiles([tiles[slide != name]], slide[slide != name])
            gate = Gate(known.rules, known.everything, known.structure)
            assert known.rules == RULES
            one = tiles[slide == name]
            shares.append(
                (patch_refusals(gate.judge(None)(one), gate.p_values(gate.measure(one)), allow=False) != "").mean()
            )
        assert np.mean(shares) <= 0.05

    @pytest.mark.parametrize("allow", [False, True])
    @pytest.mark.parametrize(
        "made",
        [
            lambda _new, rng: np.full((20, SIDE, SIDE, 3), 238) + rng.normal(0, 1.5, (20, SIDE, SIDE, 3)),
            lambda _new, rng: np.broadcast_to(rng.integers(0, 256, (20, 1, 1, 3)), (20, SIDE, SIDE, 3)),
            lambda _new, rng: rng.integers(0, 256, (20, SIDE, SIDE, 3)),
            lambda new, rng: new.mean(axis=(1, 2), keepdims=True) + rng.normal(0, 30, new.shape),
            lambda new, _rng: 255 - new,
            lambda new, _rng: new.mean(axis=3, keepdims=True).repeat(3, axis=3),
            lambda new, _rng: new[..., [0, 2, 1]],
            lambda new, _rng: (255 - new[..., [1, 0, 2]]) * [0.1, 0.2, 1.0],
        ],
        ids=["glass", "flat", "noise", "stained noise", "inverted", "grey", "brown", "fluorescence"],
    )
    def test_nonsense_is_refused_whatever_is_allowed(self, model, new, made, allow):
        tiles = np.clip(made(new, stream(1, "nonsense")), 0, 255).astype(np.uint8)
        assert refused(model, tiles, allow=allow).mean() >= 0.99

    @pytest.mark.parametrize("made", [finer, lambda new: ndimage.gaussian_filter(new, (0, 3, 3, 0))])
    def test_another_resolution_and_blur_are_refused_unless_allowed(self, model, new, made):
        assert refused(model, made(new)).mean() > 0.9
        assert refused(model, made(new), allow=True).mean() < 0.2

    @pytest.mark.parametrize("mpp", [None, 1.0])
    def test_to_inspect_tiles_is_to_judge_and_to_measure_them(self, model, new, mpp):
        tiles = np.concatenate([new, 255 - new[:5], np.full((3, SIDE, SIDE, 3), 240, np.uint8)])
        gate = gate_of(model)
        flag, measured, spared = gate.inspect(mpp)(tiles)
        assert spared is None, "nobody asked for a first look"
        assert flag.tolist() == gate.judge(mpp)(tiles).tolist()
        assert 8 <= (flag != "").sum() < len(new)
        assert np.allclose(measured[flag == ""], gate.measure(tiles)[flag == ""], rtol=1e-5)
        assert np.isnan(measured[flag != ""]).all()
        assert gate.inspect(mpp)(tiles[:0]).measured.shape == (0, 2)
        more = gate.inspect(mpp, numbers=True)(tiles)
        assert np.array_equal(more.measured[:, :2], measured, equal_nan=True)
        assert np.array_equal(more.measured[:, 2:], appearance(tiles))

    def test_a_distance_without_patients_is_not_told(self, new):
        known = fit_known_tiles([new[:8]], ["a"] * 4 + ["b"] * 4)
        assert (known.everything, known.structure) == (None, None)
        gate = Gate(known.rules, None, None)
        assert np.isnan(gate.p_values(gate.measure(new))).all()
        assert gate.look(np.array([""] * len(new)), gate.measure(new), allow=False, what="tiles").level == "unknown"

    @pytest.mark.parametrize("columns", [0, 2])
    def test_a_slide_of_which_nothing_could_be_measured_is_unknown(self, model, columns):
        gate, flag = gate_of(model), np.array(["blur"] * 4 + ["air"] * 2)
        look = gate.look(flag, np.full((6, columns), np.nan, np.float32), allow=False, what="tissue tiles")
        assert (look.level, look.refusal) == ("unknown", "")

    def test_what_a_model_was_trained_on_is_no_nonsense_for_it(self, new):
        brown = new[..., [0, 2, 1]]
        known = fit_known_tiles([brown], [f"p{row % 6}" for row in range(len(brown))])
        assert "stain" not in known.rules
        assert {"blank", "noise"} <= set(known.rules)
        gate = Gate(known.rules, known.everything, known.structure)
        assert (gate.judge(None)(brown) == "").all()

    def test_training_images_that_are_nonsense_are_no_neighbours(self, drawn):
        glass = np.full((10, SIDE, SIDE, 3), 240, np.uint8)
        tiles = np.concatenate([drawn[:6].reshape(-1, SIDE, SIDE, 3), glass])
        known = fit_known_tiles([tiles], np.repeat([f"p{i}" for i in range(6)] + ["p0"], [PATCHES] * 6 + [10]))
        assert len(known.everything.known) == 6 * PATCHES


class TestSlides:
    def test_tissue_of_a_new_patient_is_recognised_and_its_tiles_are_told(self, model, drawn, tmp_path):
        as_slide(tmp_path / "same.tif", np.repeat(drawn[-1], 3, axis=0))
        (one,) = predict_slides([tmp_path / "same.tif"], model.folder, tmp_path / "out").results
        assert "refused" not in one["verdict"]
        assert one["typicality"]["verdict"] in {"typical", "unusual"}
        assert one["typicality"]["patients"] == PATIENTS - NOBODYS - _kept(model)
        tiles = read_predictions(tmp_path / "out" / "same" / "tiles.parquet")
        there = np.isfinite(tiles.typicality).all(axis=1)
        assert (there == tiles.recognised).all()
        assert one["typicality"]["atypical"] == pytest.approx((tiles.typicality[there, 0] <= 0.02).mean(), abs=1e-4)
        page = (tmp_path / "out" / "same" / "report.html").read_text()
        assert "Like the training images?" in page
        assert "Like them is not the same as right" in page

    def test_another_scanner_of_the_same_stain_is_warned_of(self, model, new, tmp_path):
        light = (new / 255.0) ** (0.7, 1.1, 0.9)
        as_slide(tmp_path / "other.tif", (255 * light).round().astype(np.uint8))
        (one,) = predict_slides([tmp_path / "other.tif"], model.folder, tmp_path / "out").results
        assert "refused" not in one["verdict"]
        assert one["typicality"]["verdict"] == "unusual"
        assert one["typicality"]["atypical"] > 0.8
        assert one["typicality"]["atypical_structure"] < 0.4
        assert one["warnings"][0].startswith("Unlike what the model was trained on: ")
        assert "do not rely on the verdict" in (tmp_path / "out" / "other" / "report.html").read_text()

    def test_another_stain_is_refused_whatever_is_allowed(self, model, new, tmp_path):
        as_slide(tmp_path / "brown.tif", new[..., [0, 2, 1]])
        for allow in (False, True):
            wish = PredictionWish(allow_atypical=allow, exports=(), overlay=False)
            (one,) = predict_slides([tmp_path / "brown.tif"], model.folder, tmp_path / "out", wish).results
            assert one["verdict"].startswith("refused: ")
            assert "brown, as of an immunostain (DAB)" in one["verdict"]
            assert (one["score"], one["regions"], one["typicality"]["verdict"]) == (None, 0, "nonsense")
        assert "brown, as of an immunostain" in (tmp_path / "out" / "brown" / "report.html").read_text()

    def test_another_resolution_is_refused_unless_taken_at_ones_own_risk_and_asked_anew_done_anew(
        self, model, new, tmp_path
    ):
        as_slide(tmp_path / "finer.tif", finer(new))
        told = []
        for allow in (False, True, True):
            wish = PredictionWish(allow_atypical=allow, check_quality=False, exports=(), overlay=False)
            (one,) = predict_slides([tmp_path / "finer.tif"], model.folder, tmp_path / "out", wish, told.append).results
            assert one["typicality"]["verdict"] == "atypical"
            if allow:
                assert "refused" not in one["verdict"]
                assert "and recognised all the same" in one["warnings"][0]
            else:
                assert "tissue tiles are unlike the training images in structure" in one["verdict"]
                assert one["verdict"].startswith("refused: ")
                assert "--allow-atypical" in one["verdict"]
        assert [event.stored for event in told if isinstance(event, SlideDone)] == [False, False, True]
        assert [one["options"]["allow_atypical"] for one in _trail(tmp_path / "out")] == [False, True, True]

    def test_evaluate_measures_a_slide_of_another_structure_only_where_it_is_allowed(self, model, drawn, new, tmp_path):
        for name in ("slides", "truth"):
            (tmp_path / name).mkdir()
        coarse = new[:, ::4, ::4].repeat(4, axis=1).repeat(4, axis=2)  # sharp edges: no blur
        as_slide(tmp_path / "slides" / "blocks.tif", coarse)
        as_slide(tmp_path / "slides" / "same.tif", np.repeat(drawn[-1], 3, axis=0))
        (tmp_path / "slides.csv").write_text("slide_id,patient_id,label\nblocks,x,normal\nsame,y,normal\n")
        known = ["--model", str(model.folder), "--froc", "--truth", str(tmp_path / "truth")]
        known += ["--slides", str(tmp_path / "slides.csv"), "--out", str(tmp_path / "out"), "--json"]
        counts = {}
        for more in ([], ["--allow-atypical"]):
            done = CliRunner().invoke(app, ["evaluate", str(tmp_path / "slides"), *known, *more])
            told = json.loads(done.stdout)
            assert "in structure" in str(told["failures"]) or more
            counts[bool(more)] = len(told["slides"]), len(told["failures"])
        assert counts == {False: (1, 1), True: (2, 0)}

    def test_a_model_of_an_older_sentinode_is_read_and_keeps_the_rules(self, model, new, tmp_path):
        older = {name: (model.folder / name).read_bytes() for name in model.files if name in OLDER}
        bundle = write_bundle(tmp_path / "older", model.facts, older, model.seen())
        assert bundle.known_tiles() is None
        as_slide(tmp_path / "finer.tif", finer(new))
        as_slide(tmp_path / "brown.tif", new[..., [0, 2, 1]])
        wish = PredictionWish(check_quality=False)
        run = predict_slides([tmp_path / "finer.tif", tmp_path / "brown.tif"], bundle, tmp_path / "out", wish)
        by_name = {one["slide_id"]: one for one in run.results}
        assert by_name["finer"]["typicality"]["verdict"] == "unknown"
        assert "refused" not in by_name["finer"]["verdict"]
        assert by_name["brown"]["verdict"].startswith("refused: ")
        assert "Not told" in (tmp_path / "out" / "finer" / "report.html").read_text()


OLDER = frozenset({"estimator.skops", "training.csv", "typicality.json"})


def _kept(model) -> int:
    """Patients of the model that are in no training part."""
    return sum(n for role, n in model.facts.data.n_patients.items() if role not in {"train", "all"})


def _trail(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "trail.jsonl").read_text().splitlines()]


class TestPatches:
    def test_a_folder_says_of_each_patch_whether_and_why_it_is_refused(self, model, new, tmp_path):
        (tmp_path / "patches").mkdir()
        odd = {"glass": np.full((SIDE, SIDE, 3), 240, np.uint8), "brown": new[0][..., [0, 2, 1]], "fine": finer(new)[1]}
        for name, pixels in {**{f"t{row}": one for row, one in enumerate(new[:20])}, **odd}.items():
            Image.fromarray(pixels).save(tmp_path / "patches" / f"{name}.png")
        for allow, fine in ((False, "unlike the training images in structure"), (True, "")):
            run = predict_patches([tmp_path / "patches"], model, tmp_path / "out", allow_atypical=allow)
            table = run.frame.set_index(run.frame["path"].str.rsplit("/", n=1).str[-1])
            assert table.loc["glass.png", "refused"] == "glass, or one flat colour"
            assert "brown" in table.loc["brown.png", "refused"]
            assert table.loc["fine.png", "refused"] == fine
            assert np.isnan(table.loc["glass.png", "prob_tumour"])
            assert np.isnan(table.loc["fine.png", "prob_tumour"]) != allow
            assert table.loc["fine.png", "typicality"] <= 0.02
            assert (table["refused"] == "").sum() >= 18
        assert f"{run.n_refused} of 23 patches are refused" in run.warnings[0]


class TestBundle:
    def test_what_is_known_of_tiles_comes_back_as_it_was(self, model, new):
        gate = gate_of(read_bundle(model.folder))
        known = model.known_tiles()
        assert known.rules == RULES
        distance = gate.measure(new)
        assert np.isfinite(distance).all()
        assert (model.folder / KNOWN_TILES_FILE).stat().st_size < 1_000_000

    def test_one_of_a_newer_sentinode_is_refused(self, model, tmp_path):
        files = {name: (model.folder / name).read_bytes() for name in ("estimator.skops", "training.csv")}
        newer = b'{"version": 2, "rules": []}'
        bundle = write_bundle(tmp_path / "newer", model.facts, {**files, KNOWN_TILES_FILE: newer}, model.seen())
        with pytest.raises(ModelError, match=r"known-tiles\.json: has format 2, and this Sentinode reads 1; update"):
            bundle.known_tiles()
