"""What a person or a pipe gets to see."""

import io
import json
import logging
import math
import re

import pytest
from rich.console import Console

from sentinode import terminal
from sentinode.data.leakage import LeakageFinding
from sentinode.execution import Failure
from sentinode.study.events import Preparing, StudyStarted, TrialFailed, TrialFinished
from sentinode.workflows.checking import check_data
from sentinode.workflows.describing import describe


def test_json_has_null_where_a_number_does_not_exist(capsys):
    terminal.print_json({"auc": math.nan, "values": [1.5, math.nan]})
    assert json.loads(capsys.readouterr().out) == {"auc": None, "values": [1.5, None]}


def test_columns_of_numbers_are_set_to_the_right(capsys):
    terminal.print_rows(("name", "n"), [("ann", "7"), ("bo", "1,234")])
    lines = capsys.readouterr().out.splitlines()
    assert [line.rstrip() for line in lines] == ["name      n", "ann       7", "bo    1,234"]


def test_markup_in_a_name_is_shown_as_it_is(capsys):
    terminal.print_rows(("name",), [("[red]ann[/red]",)])
    assert "[red]ann[/red]" in capsys.readouterr().out


def test_a_pipe_gets_lines_with_the_time_left(monkeypatch, capsys):
    clock = iter([0.0, 6.0, 7.0, 12.0])
    monkeypatch.setattr(terminal.time, "monotonic", lambda: next(clock))
    with terminal.progress("reading patches") as advance:
        for done in (30, 40, 60):
            advance(done, 120)
    assert capsys.readouterr().err.splitlines() == [
        "reading patches: 30 of 120, about 0:18 left",
        "reading patches: 60 of 120, about 0:12 left",
    ]


def test_a_study_tells_each_trial_and_the_time_left(capsys):
    with terminal.study_progress() as listen:
        listen(Preparing("reading patches", 1, 10))
        listen(StudyStarted(4, 1))
        listen(TrialFinished("dbn", 0, 61.0, 2, 4, 3700.0))
        listen(TrialFailed("dbn", 1, Failure("ModelError", "it diverged", ""), 3, 4, 30.0))
    assert capsys.readouterr().err.splitlines() == [
        "1 of 4 trials are stored already and are not done again",
        "2/4  dbn, repeat 1: 61.0 s; about 1:01:40 left",
        "3/4  dbn, repeat 2: failed: it diverged",
    ]


def test_what_is_said_while_a_bar_is_shown_stands_on_a_line_of_its_own(monkeypatch):
    screen = io.StringIO()
    monkeypatch.setenv("TERM", "xterm")  # on a dumb one there is no bar
    monkeypatch.setattr(terminal, "message_console", lambda: Console(file=screen, force_terminal=True, width=100))
    log = terminal._BesideBars()
    with terminal.progress("reading") as advance:
        advance(3, 9)
        terminal.say("1/2  a: no tumour found")
        log.handle(logging.makeLogRecord({"msg": "the trail cannot be written"}))
        terminal.say("1/2  \r\x1b[2Jname: no tumour found")
        advance(9, 9)
    # Of each line what was written since it was last erased, without the codes that move and colour.
    written = (re.split(r"\r|\x1b\[2K", line)[-1] for line in screen.getvalue().split("\n"))
    lines = [re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", line) for line in written]
    assert "1/2  a: no tumour found" in lines
    assert "the trail cannot be written" in lines
    assert "1/2  ??[2Jname: no tumour found" in lines
    assert "9/9" in screen.getvalue(), "there was no bar"


def test_many_notes_of_a_kind_are_shortened_and_errors_never():
    notes = [LeakageFinding("shifted-overlap", "note", (str(n),), f"pair {n}") for n in range(9)]
    errors = [LeakageFinding("unreadable", "error", (str(n),), f"file {n}") for n in range(9)]
    shown = list(terminal._shortened([*errors, *notes]))
    assert sum(kind == "unreadable" and severity == "error" for severity, kind, _ in shown) == 9
    assert [message for _, kind, message in shown if kind == "shifted-overlap"] == [
        "pair 0",
        "pair 1",
        "pair 2",
        "... and 6 more of this kind; --json lists all",
    ]


@pytest.mark.usefixtures("capsys")
def test_a_check_is_shown_patient_by_patient(tmp_path, draw_cohort, capsys):
    from sentinode.data.manifest import write_manifest  # noqa: PLC0415 - only here

    write_manifest(draw_cohort(n_patients=3, n_patches=4), tmp_path / "manifest.csv")
    terminal.print_check(check_data(tmp_path / "manifest.csv"))
    out = capsys.readouterr().out
    assert [line.split() for line in out.splitlines()[1:4]] == [[f"p{n}", "4", "2", "2"] for n in range(3)]
    assert "nothing must be mended" in out


def test_a_description_ends_with_all_parameters(capsys):
    terminal.print_description(describe("paper-cnn", 96)[0])
    out = capsys.readouterr().out
    assert "5,520,578" in out
    assert "learning_rate" in out
