"""What a pixel measures: what goes before what, what is not believed, and the table of many slides."""

from pathlib import Path

import pytest

from sentinode.errors import SlideError
from sentinode.slides.resolution import MppWish, choose_mpp, read_mpp_table

SLIDE = Path("somewhere/case_17.svs")


def test_what_is_given_for_the_slide_goes_before_the_file_before_all_slides_before_the_objective():
    wish = MppWish(mpp=0.3, by_slide={"case_17": 0.4}, from_objective=True)
    assert choose_mpp(SLIDE, wish, (0.25, 0.25), 40).mpp == 0.4
    other = choose_mpp(Path("case_18.svs"), wish, (0.25, 0.25), 40)
    assert (other.mpp, other.source) == (0.25, "file")
    assert "not 0.3 as given" in other.note
    assert choose_mpp(Path("case_18.svs"), wish, None, 40).mpp == 0.3
    assert choose_mpp(Path("case_18.svs"), wish, (352.8, 352.8), 40).mpp == 0.3
    from_file = choose_mpp(SLIDE, MppWish(from_objective=True), (0.25, 0.252), 40)
    assert (from_file.mpp, from_file.source) == (pytest.approx(0.251), "file")
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
    assert "the file says 0.25" in choose_mpp(SLIDE, MppWish(by_slide={"case_17": 0.5}), (0.25, 0.25), None).note
    assert not choose_mpp(SLIDE, MppWish(by_slide={"case_17": 0.255}), (0.25, 0.25), None).note
    assert not choose_mpp(SLIDE, MppWish(mpp=0.255), (0.25, 0.25), None).note


def test_pixels_that_are_no_squares_are_no_resolution():
    found = choose_mpp(SLIDE, MppWish(), (0.25, 0.5), None)
    assert found.mpp is None
    assert "0.25 um across and 0.5 down" in found.note


def test_names_with_dots_keep_them(tmp_path: Path):
    (tmp_path / "mpp.csv").write_text("slide,mpp\nTCGA-A1.8F2C,0.25\nS12.1,0.5\nS12.2.svs,0.6\n")
    table = read_mpp_table(tmp_path / "mpp.csv")
    assert table == {"TCGA-A1.8F2C": 0.25, "S12.1": 0.5, "S12.2": 0.6}
    assert choose_mpp(Path("TCGA-A1.8F2C.svs"), MppWish(by_slide=table), (0.5, 0.5), None).mpp == 0.25


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
