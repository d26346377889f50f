"""How a graph is run: precision by what the CPU can and how close it stays, the rest by the clock, once."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sentinode.models.tuning import CLOSE, SAMPLE, Machine, RuntimeChoice, choose, drawn_tiles, stored_choices

MACHINE = Machine("a CPU", 4, "an engine 1.0", bf16=True)
TILE = (32, 32)


class Engine:
    """Gives 0.5, and more by so much in bf16; counts what is built, and takes its time with some ways."""

    def __init__(self, off: float = 0.0, slow_streams: int = 0) -> None:
        self.off, self.slow_streams, self.built = off, slow_streams, []

    def build(self, choice: RuntimeChoice):
        self.built.append(choice)

        def recognise(tiles):
            if choice.streams == self.slow_streams:
                for _ in range(60):
                    np.sort(np.arange(50_000)[::-1])
            proba = np.full(len(tiles), 0.5 + (self.off if choice.precision == "bf16" else 0), np.float32)
            return np.stack([1 - proba, proba], axis=1)

        return recognise


def test_bf16_is_taken_where_it_stays_close(tmp_path: Path):
    choice = choose(MACHINE, "m", TILE, Engine(off=CLOSE / 2).build, tmp_path)
    assert choice.precision == "bf16"
    assert choice.apart == pytest.approx(CLOSE / 2, abs=1e-5)


def test_it_is_not_where_probabilities_move(tmp_path: Path):
    choice = choose(MACHINE, "m", TILE, Engine(off=CLOSE * 1.1).build, tmp_path)
    assert (choice.precision, choice.apart) == ("float32", 0)


def test_a_cpu_without_it_is_not_asked(tmp_path: Path):
    engine = Engine()
    choice = choose(replace(MACHINE, bf16=False), "m", TILE, engine.build, tmp_path)
    assert choice.precision == "float32"
    assert {one.precision for one in engine.built} == {"float32"}


@pytest.mark.parametrize("slow", [1, 4])
def test_the_quicker_cut_is_chosen(tmp_path: Path, slow: int):
    choice = choose(MACHINE, "m", TILE, Engine(slow_streams=slow).build, tmp_path)
    assert choice.streams == {1: 4, 4: 1}[slow]
    assert choice.rate > 0


def test_a_choice_is_made_once_a_model_and_machine(tmp_path: Path):
    first = choose(MACHINE, "m", TILE, Engine().build, tmp_path)
    again = Engine()
    assert choose(MACHINE, "m", TILE, again.build, tmp_path) == first
    assert again.built == []
    choose(MACHINE, "other", TILE, again.build, tmp_path)
    choose(replace(MACHINE, cores=2), "m", TILE, again.build, tmp_path)
    assert len(stored_choices(MACHINE, tmp_path)) == 2
    assert len(list(tmp_path.glob("runtime-*.json"))) == 2


@pytest.mark.parametrize("content", ["", "{", "[]", '{"format": "other"}', '{"format": "sentinode-runtime-1"}'])
def test_a_damaged_cache_is_measured_again(tmp_path: Path, content: str):
    choose(MACHINE, "m", TILE, Engine().build, tmp_path)
    (file,) = tmp_path.glob("runtime-*.json")
    file.write_text(content)
    assert stored_choices(MACHINE, tmp_path) == ()
    choose(MACHINE, "m", TILE, Engine().build, tmp_path)
    assert json.loads(file.read_text())["choices"].keys() == {"m"}


def test_a_cache_that_cannot_be_written_stops_nothing(tmp_path: Path):
    (tmp_path / "file").write_text("no folder")
    assert choose(MACHINE, "m", TILE, Engine().build, tmp_path / "file" / "cache").streams in {1, 4}


def test_drawn_tiles_are_the_same_each_time_and_of_many_colours():
    tiles = drawn_tiles(SAMPLE, (40, 56))
    assert tiles.shape == (SAMPLE, 40, 56, 3)
    assert (tiles == drawn_tiles(SAMPLE, (40, 56))).all()
    means = tiles.mean(axis=(1, 2))
    assert means[:, 1].min() < 100
    assert means[:, 1].max() > 170
    assert (means[:, 1] < means[:, 0]).mean() > 0.7, "stains absorb green most"
