"""Files that are whole or not there."""

import socket
import subprocess
import sys

import pytest

from sentinode.storage import abandoned, temporary_name, whole_file, whole_files, whole_folder, write_whole


def names(folder):
    """What lies in a folder."""
    return [path.name for path in folder.iterdir()]


def fail_while(writing, content="half"):
    """Write something and fail before the end."""
    with writing as part:
        target = part if part.suffix or not part.is_dir() else part / "result.json"
        target.write_text(content)
        raise KeyError("in the middle")


def test_a_file_keeps_its_old_content_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "new" / "table.csv"
    write_whole(path, "old")
    with whole_file(path) as part:
        part.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert names(path.parent) == ["table.csv"]


def test_line_ends_and_signs_are_written_as_they_are(tmp_path):
    write_whole(tmp_path / "a.csv", "é\r\n1\n")
    assert (tmp_path / "a.csv").read_bytes() == "é\r\n1\n".encode()


def test_after_an_error_nothing_is_changed_and_nothing_left(tmp_path):
    path = tmp_path / "table.csv"
    write_whole(path, "old")
    with pytest.raises(KeyError, match="in the middle"):
        fail_while(whole_file(path))
    assert path.read_text() == "old"
    assert names(tmp_path) == ["table.csv"]


def test_files_that_belong_together_come_together(tmp_path):
    one, other = tmp_path / "a.csv", tmp_path / "b.csv"
    with pytest.raises(FileNotFoundError), whole_files([one, other]) as (first, _):
        first.write_text("whole")  # and the other one never
    assert names(tmp_path) == []
    with whole_files([one, other]) as (first, second):
        first.write_text("1")
        second.write_text("2")
    assert (one.read_text(), other.read_text()) == ("1", "2")


def test_a_file_that_the_block_did_not_write_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError), whole_file(tmp_path / "a"):
        pass
    assert names(tmp_path) == []


def test_the_first_folder_of_a_name_stands(tmp_path):
    def fill(content):
        with whole_folder(tmp_path / "trial") as part:
            (part / "result.json").write_text(content)

    fill("first")
    fill("second")
    assert (tmp_path / "trial" / "result.json").read_text() == "first"
    assert names(tmp_path) == ["trial"]


def test_a_folder_that_was_not_filled_to_the_end_is_not_there(tmp_path):
    with pytest.raises(KeyError, match="in the middle"):
        fail_while(whole_folder(tmp_path / "trial"))
    assert names(tmp_path) == []


def test_a_folder_may_be_put_in_the_place_of_another(tmp_path):
    for content in ("first", "second"):
        with whole_folder(tmp_path / "slide", replace=True) as part:
            (part / "result.json").write_text(content)
            if content == "second":
                assert (tmp_path / "slide" / "result.json").read_text() == "first"
    assert (tmp_path / "slide" / "result.json").read_text() == "second"
    with pytest.raises(KeyError, match="in the middle"):
        fail_while(whole_folder(tmp_path / "slide", replace=True))
    assert (tmp_path / "slide" / "result.json").read_text() == "second"
    assert names(tmp_path) == ["slide"]


def test_only_what_a_dead_process_of_this_machine_left_is_abandoned(tmp_path):
    ours = temporary_name(tmp_path / "a.csv")
    code = "import os, sys; open(sys.argv[1].replace('PID', str(os.getpid())), 'w')"
    deep = tmp_path / "deep"
    deep.mkdir()
    subprocess.run(
        [sys.executable, "-c", code, str(deep / f".part-b.csv-{socket.gethostname()}-PID")], check=True, timeout=60
    )
    elsewhere = tmp_path / ".part-c.csv-another-machine-1"
    for path in (ours, elsewhere):
        path.write_text("half")
    assert abandoned(tmp_path) == tuple(deep.iterdir())
