"""The command line as a person or a script meets it: in a process of its own."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import click
import pytest
import typer

from sentinode import __version__, cli
from sentinode.cli import app
from sentinode.errors import PlanError
from sentinode.models import bundle
from sentinode.slides import tile_loops
from sentinode.workflows import predicting, predicting_patches

DOCS = Path(__file__).parents[1] / "docs" / "commands"


def sentinode(*arguments, cwd=None, **environment):
    return subprocess.run(
        [sys.executable, "-m", "sentinode.cli", *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        env={**os.environ, **environment},
    )


NAMED = {"ids": lambda value: " ".join(value) if isinstance(value, tuple) else ""}


def commands(group=None, before=()):
    group = group or typer.main.get_command(app)
    for name, command in group.commands.items():
        path = (*before, name)
        if hasattr(command, "commands"):
            yield from commands(command, path)
        else:
            yield path, command


@pytest.mark.parametrize("path", [path for path, _ in commands()], ids=" ".join)
def test_every_command_has_a_page(path):
    page = DOCS / f"{'-'.join(path)}.md"
    assert page.is_file(), f"write docs/commands/{page.name}"
    assert f"sentinode {' '.join(path)}" in page.read_text(encoding="utf-8")


@pytest.mark.parametrize(("path", "command"), list(commands()), **NAMED)
def test_every_command_says_what_it_does_and_gives_an_example(path, command):
    assert command.help
    assert "sentinode " + " ".join(path) in (command.epilog or "")


@pytest.mark.parametrize("command", [command for _, command in commands()], ids=lambda command: command.name)
def test_every_option_is_explained(command):
    unexplained = [
        parameter.name for parameter in command.params if isinstance(parameter, click.Option) and not parameter.help
    ]
    assert unexplained == []


def test_help_answers_within_half_a_second():
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        assert sentinode("--help").returncode == 0
        seconds.append(time.perf_counter() - start)
    # The best of five: this measures the program, not what else the machine is doing.
    assert min(seconds) < 0.5


def test_the_version_is_told():
    assert sentinode("--version").stdout == f"sentinode {__version__}\n"


def test_the_doctor_finds_what_the_suite_runs_with():
    report = sentinode("doctor", "--json")
    found = {finding["what"]: finding for finding in json.loads(report.stdout)}
    assert found["Extra 'train'"]["found"].startswith("torch ")
    assert found["OpenSlide"]["state"] == "ok"
    assert report.returncode == 0


def test_no_colour_codes_in_a_pipe():
    assert "\x1b[" not in sentinode("doctor", NO_COLOR="1").stdout


def test_an_unknown_command_is_refused_with_a_code():
    answer = sentinode("trian")
    assert answer.returncode == 2
    assert "Traceback" not in answer.stderr


@pytest.fixture
def patch_and_slide(monkeypatch):
    monkeypatch.setattr(bundle, "read_bundle", lambda _path: None)
    monkeypatch.setattr(
        predicting_patches, "find_patches", lambda inputs, _bundle: [one for one in inputs if one.suffix == ".png"]
    )
    return Path("patch.png"), Path("slide.svs")


@pytest.mark.parametrize(
    ("wish", "why"),
    [
        ({"site": "north"}, "--site is of slides"),
        ({"maps": True}, "--maps is of slides"),
        ({"heatmap": "dense"}, "--heatmap is of slides"),
        ({"first_look": True}, "--first-look is of slides"),
    ],
)
def test_what_is_of_slides_is_refused_for_patches(patch_and_slide, wish, why):
    patch, _ = patch_and_slide
    with pytest.raises(PlanError, match=rf"^patch\.png is of patches, and {why}"):
        cli.predict([patch], model=Path("model"), out=Path("out"), **wish)


def test_patches_and_slides_are_recognised_in_two_calls(patch_and_slide):
    with pytest.raises(PlanError, match=r"^patch\.png is of patches, and slide\.svs is not: recognise them in two"):
        cli.predict(list(patch_and_slide), model=Path("model"), out=Path("out"))


@pytest.mark.parametrize("before", [True, False])
def test_who_predicts_first_on_a_machine_is_told_what_is_waited_for(patch_and_slide, monkeypatch, capsys, before):
    class ReachedError(Exception):
        pass

    def reached(*_arguments):
        raise ReachedError

    _, slide = patch_and_slide
    monkeypatch.setattr(tile_loops, "compiled_before", lambda: before)
    monkeypatch.setattr(predicting, "predict_slides", reached)
    monkeypatch.setattr(predicting, "int8_is_left_out", lambda *_: False)
    with pytest.raises(ReachedError):
        cli.predict([slide], model=Path("model"), out=Path("out"))
    assert ("once on this machine" in capsys.readouterr().err) is not before
