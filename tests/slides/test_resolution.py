"""What a pixel measures: what goes before what, what is not believed, and the table of many slides."""

from pathlib import Path

import pytest

from sentinode.errors import SlideError
from sentinode.slides.resolution import MppWish, choose_mpp, read_mpp_table

SLIDE = Path("somewhere/case_17.svs")


def test_what_is_given_for_the_slide_goes_before_all_slides_before_the_file_before_the_objective():
    wish = MppWish(mpp=0.3, by_slide={"case_17": 0.4}, from_objective=True)
    assert choose_mpp(SLIDE, wish, (0.25, 0.25), 40).mpp == 0.4
    assert choose_mpp(Path("case_18.svs"), wish, (0.25, 0.25), 40).mpp == 0.3
    from_file = choose_mpp(SLIDE, MppWish(from_objective=True), (0.25, 0.27), 40)
    assert (from_file.mpp, from_file.source) == (pytest.approx(0.26), "file")
    assert "differs" in from_file.note
    guess = choose_mpp(SLIDE, MppWish(from_objective=True), None, 40)
    assert (guess.mpp, guess.source) == (0.25, "objective")


def test_nothing_is_guessed_unless_it_is_asked_for():
    assert choose_mpp(SLIDE, MppWish(), None, 40).mpp is None
    assert choose_mpp(SLIDE, MppWish(), None, 40).source == "unknown"
    assert choose_mpp(SLIDE, MppWish(from_objective=True), None, 0).mpp is None


@pytest.mark.parametrize("dpi", [72, 96, 300, 600, 1200])
def test_dots_for_a_printer_are_no_resolution_and_the_note_says_so(dpi: int):
    found = choose_mpp(SLIDE, MppWish(), (25_400 / dpi, 25_400 / dpi), None)
    assert found.mpp is None
    assert "taken as unknown" in found.note


def test_a_contradiction_between_file_and_user_is_noted():
    assert "the file says 0.25" in choose_mpp(SLIDE, MppWish(mpp=0.5), (0.25, 0.25), None).note
    assert not choose_mpp(SLIDE, MppWish(mpp=0.255), (0.25, 0.25), None).note


@pytest.mark.parametrize("mpp", [0, -1, 1e9, float("nan")])
def test_what_cannot_be_is_refused(mpp: float):
    with pytest.raises(SlideError, match=r"case_17.svs: mpp = .* cannot be"):
        choose_mpp(SLIDE, MppWish(mpp=mpp), None, None)


def test_a_table_names_slides_by_stem_or_by_file(tmp_path: Path):
    table = tmp_path / "mpp.csv"
    table.write_text("slide,mpp\ncase_17,0.25\ncase_18.svs, 0.5\n", encoding="utf-8-sig")
    assert read_mpp_table(table) == {"case_17": 0.25, "case_18": 0.5}


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "columns slide,mpp"),
        ("name,mpp\na,1\n", "columns slide,mpp"),
        ("slide,mpp\na,much\n", "row 2: mpp 'much' of slide 'a'"),
        ("slide,mpp\na,0.25\na.svs,0.3\n", "row 3: the slide 'a' is there twice"),
        ("slide,mpp\na\n", "row 2"),
    ],
)
def test_a_bad_table_is_refused_with_its_row(tmp_path: Path, text: str, what: str):
    table = tmp_path / "mpp.csv"
    table.write_text(text)
    with pytest.raises(SlideError, match=what):
        read_mpp_table(table)


def test_an_absent_table_is_refused(tmp_path: Path):
    with pytest.raises(SlideError, match=r"none.csv: cannot be read"):
        read_mpp_table(tmp_path / "none.csv")
