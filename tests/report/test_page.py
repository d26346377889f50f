"""The page is one file that nothing can be smuggled into."""

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image

from sentinode.errors import ExportError
from sentinode.report.page import Drawing, Gallery, Page, Section, TextTable, picture, render_page, write_page


def page(**changes):
    section = Section(
        "Accuracy and time",
        "As the founding experiment had it.",
        figures=(Drawing("<svg id='ours'></svg>", "a figure"),),
        tables=(TextTable(("algorithm", "accuracy"), (("dbn", "80.0 %"),), strong=frozenset({0})),),
        galleries=(Gallery("most wrong", (picture(np.full((4, 4, 3), 7, np.uint8), "img-1"),)),),
    )
    whole = {
        "title": "A study", "lead": "In short.", "badges": ("synthetic",), "notes": (),
        "sections": (section,), "footer": (("plan", "abc"),),
    }  # fmt: skip
    return Page(**(whole | changes))


def test_nothing_is_fetched_from_anywhere():
    html = render_page(page())
    assert not re.findall(r"(?:src|href)=[\"'](?!data:)", html)
    assert "default-src 'none'" in html


def test_a_name_that_is_markup_stays_text():
    html = render_page(page(title="<script>alert(1)</script>", notes=("<img src=x>",)))
    assert "<script>" not in html
    assert "<img src=x>" not in html
    assert "&lt;script&gt;" in html


def test_a_drawing_of_ours_stays_markup():
    assert "<svg id='ours'></svg>" in render_page(page())


def test_the_picture_is_the_pixels():
    pixels = np.random.default_rng(0).integers(0, 256, (8, 6, 3)).astype(np.uint8)
    data = picture(pixels, "x").data.removeprefix("data:image/png;base64,")
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))), pixels)


def test_research_use_only_is_always_said():
    assert "Research use only" in render_page(page(sections=()))


def test_a_page_is_written_whole(tmp_path):
    write_page(page(), tmp_path / "report.html")
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == render_page(page())


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "nowhere").write_text("a file")
    with pytest.raises(ExportError, match="nowhere"):
        write_page(page(), tmp_path / "nowhere" / "report.html")
