"""Whatever is changed in a trail is found: a line, a missing one, a new one, the end."""

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from sentinode.errors import ExportError, ManifestError
from sentinode.workflows.trail import require_unchanged, trail_file, verify_trail, who_is_it, write_trail


@pytest.fixture
def trail(tmp_path):
    """Six lines, written in three goes."""
    file = tmp_path / "out" / "trail.jsonl"
    for go in range(3):
        write_trail(
            file, "predict", [{"model": "abc", "slide": {"id": f"s{go}-{n}"}, "verdict": "clear"} for n in (0, 1)]
        )
    return file


def rewrite(file, change):
    lines = file.read_text(encoding="utf-8").splitlines()
    file.write_text("".join(f"{line}\n" for line in change(lines)), encoding="utf-8")


def faults(file, head=None):
    return [one.line for one in verify_trail(file, head).faults]


def test_a_salt_that_cannot_be_used_stops_no_run(monkeypatch, tmp_path):
    monkeypatch.delenv("SENTINODE_USER", raising=False)
    monkeypatch.setenv("SENTINODE_CONFIG", str(tmp_path))
    plain = who_is_it()
    monkeypatch.setenv("SENTINODE_SALT", "short")
    assert who_is_it() == plain
    monkeypatch.setenv("SENTINODE_SALT", "a salt that is long enough")
    assert who_is_it() != plain


def test_an_untouched_trail_has_no_fault(trail):
    report = verify_trail(trail)
    assert (report.n_lines, report.faults, report.note) == (6, (), "")
    assert faults(trail, head=report.head) == []
    first, second = (json.loads(line) for line in trail.read_text().splitlines()[:2])
    assert second["before"] == hashlib.sha256(trail.read_text().splitlines()[0].encode()).hexdigest()
    assert (first["n"], first["action"], first["slide"], first["verdict"]) == (1, "predict", {"id": "s0-0"}, "clear")
    assert first["who"] == who_is_it()
    assert first["time"].endswith("+00:00")


@pytest.mark.parametrize("line", range(6))
def test_a_changed_line_is_found(trail, line):
    rewrite(trail, lambda lines: [one.replace("clear", "clean") if n == line else one for n, one in enumerate(lines)])
    assert faults(trail) == [line + 2 if line < 5 else 6]


@pytest.mark.parametrize("line", range(6))
def test_a_removed_line_is_found(trail, line):
    rewrite(trail, lambda lines: lines[:line] + lines[line + 1 :])
    assert 0 in faults(trail), "the end is missing"
    assert line == 5 or line + 1 in faults(trail)


@pytest.mark.parametrize("place", range(6))
def test_an_inserted_line_is_found(trail, place):
    rewrite(trail, lambda lines: [*lines[:place], lines[2], *lines[place:]])
    assert faults(trail) != []


def test_exchanged_lines_are_found(trail):
    rewrite(trail, lambda lines: [lines[0], lines[2], lines[1], *lines[3:]])
    assert {2, 3} <= set(faults(trail))


def test_a_removed_end_is_found_though_the_chain_holds(trail):
    rewrite(trail, lambda lines: lines[:4])
    (fault,) = verify_trail(trail).faults
    assert (fault.line, fault.message) == (0, "has 4 lines, and 6 were written: the end was removed")


def test_a_history_that_was_written_anew_is_found_by_the_head_that_was_kept(trail):
    kept = verify_trail(trail).head
    for file in trail.parent.iterdir():
        file.unlink()
    write_trail(trail, "predict", [{"verdict": "suspicious"}])
    assert faults(trail) == []
    assert faults(trail, head=kept) == [0]


def test_a_head_that_was_kept_earlier_still_fits(trail):
    kept = verify_trail(trail).head
    write_trail(trail, "evaluate", [{"verdict": "x"}])
    assert faults(trail, head=kept) == []


def test_a_trail_without_its_head_or_cut_in_a_line_is_no_whole_one(trail):
    text = trail.read_text()
    trail.write_text(text[:-20])
    assert 6 in faults(trail)
    trail.write_text(text)
    trail.with_name("trail.jsonl.head").unlink()
    assert faults(trail) == [0]


def test_an_interruption_between_line_and_head_is_told_and_no_fault(trail):
    head = trail.with_name("trail.jsonl.head")
    before = head.read_text()
    write_trail(trail, "predict", [{"verdict": "clear"}])
    head.write_text(before)
    report = verify_trail(trail)
    assert report.faults == ()
    assert "1 lines are newer than the head" in report.note
    write_trail(trail, "predict", [{"verdict": "clear"}])
    assert (verify_trail(trail).n_lines, verify_trail(trail).note) == (8, "")


def test_nothing_is_added_to_a_trail_that_was_changed(trail):
    rewrite(trail, lambda lines: lines[1:])
    before = trail.read_bytes()
    with pytest.raises(ExportError, match="was changed since it was written"):
        write_trail(trail, "predict", [{"verdict": "clear"}])
    with pytest.raises(ExportError, match="move it away"):
        require_unchanged(trail)
    assert trail.read_bytes() == before


def test_a_line_of_another_kind_is_told(trail):
    rewrite(trail, lambda lines: [*lines[:2], "[1, 2]", *lines[2:]])
    assert any(one.message == "is no line of a trail" for one in verify_trail(trail).faults)


def test_what_is_no_file_is_refused(tmp_path):
    with pytest.raises(ManifestError, match=r"give the trail\.jsonl"):
        verify_trail(tmp_path / "absent.jsonl")


def test_the_user_may_be_named_and_is_not_named_otherwise(monkeypatch):
    monkeypatch.delenv("SENTINODE_USER", raising=False)
    monkeypatch.setenv("LOGNAME", "ann")
    hidden = who_is_it()
    assert len(hidden) == 16
    assert "ann" not in hidden
    monkeypatch.setenv("LOGNAME", "bo")
    assert who_is_it() != hidden
    monkeypatch.setenv("SENTINODE_USER", "Dr. Ann")
    assert who_is_it() == "Dr. Ann"


def test_what_is_given_goes_before_the_variable_and_that_before_the_folder(monkeypatch, tmp_path):
    monkeypatch.delenv("SENTINODE_TRAIL", raising=False)
    assert trail_file(None, None) is None
    assert trail_file(None, tmp_path) == tmp_path / "trail.jsonl"
    monkeypatch.setenv("SENTINODE_TRAIL", str(tmp_path / "all.jsonl"))
    assert trail_file(None, tmp_path) == tmp_path / "all.jsonl"
    assert trail_file(tmp_path / "mine.jsonl", tmp_path) == tmp_path / "mine.jsonl"


def test_many_that_write_at_once_do_not_break_the_chain(tmp_path):
    file = tmp_path / "trail.jsonl"
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda n: write_trail(file, "predict", [{"verdict": f"{n}"}]), range(20)))
    report = verify_trail(file)
    assert (report.n_lines, report.faults) == (20, ())
