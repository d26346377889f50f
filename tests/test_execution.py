import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from operator import call
from pathlib import Path

import psutil
import pytest

from sentinode.errors import PlanError, SentinodeError
from sentinode.execution import Failure, run_jobs

JOBS_MODULE = '''
import os
import time
from pathlib import Path


def nap(folder):
    """Leave the times of start and end, so that a reader can count who lived at once."""
    began = time.monotonic()
    time.sleep(0.3)
    return began, time.monotonic()


def sleep_for_long(folder):
    (Path(folder) / str(os.getpid())).touch()
    time.sleep(600)
'''

SLEEPERS = """
import sys
import {module} as jobs
from sentinode.execution import run_jobs

if __name__ == "__main__":
    for _ in run_jobs(jobs.sleep_for_long, [(i, sys.argv[1]) for i in range(2)], on="processes", workers=2):
        pass
"""


@pytest.fixture
def jobs(tmp_path, monkeypatch):
    # The children of a spawn import by name; a module beside the tests would not be found by them.
    (tmp_path / "jobs_of_test_execution.py").write_text(JOBS_MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    import jobs_of_test_execution  # noqa: PLC0415 - it exists only now

    yield jobs_of_test_execution
    del sys.modules["jobs_of_test_execution"]


def _until(condition, seconds=20.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.05)
    return False


def _start_sleepers(tmp_path) -> tuple[subprocess.Popen, list[int]]:
    script = tmp_path / "sleepers.py"
    script.write_text(SLEEPERS.format(module="jobs_of_test_execution"))
    pids = tmp_path / "pids"
    pids.mkdir()
    parent = subprocess.Popen(
        [sys.executable, str(script), str(pids)],
        stderr=subprocess.PIPE,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )
    assert _until(lambda: len(list(pids.iterdir())) == 2), "the two children never started"
    return parent, [int(path.name) for path in pids.iterdir()]


def _alive(pid) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


@pytest.mark.parametrize("on", ["serial", "processes"])
def test_every_job_comes_back_under_its_key(on):
    assert dict(run_jobs(len, [("ann", "abc"), ("bo", ""), ("cy", "de")], on=on, workers=2)) == {
        "ann": 3,
        "bo": 0,
        "cy": 2,
    }


@pytest.mark.parametrize("on", ["serial", "processes"])
def test_an_exception_is_recorded_and_does_not_stop_the_rest(on):
    results = dict(run_jobs(int, [("good", "7"), ("bad", "seven"), ("late", "8")], on=on))
    assert (results["good"], results["late"]) == (7, 8)
    failure = results["bad"]
    assert isinstance(failure, Failure)
    assert failure.kind == "ValueError"
    assert "seven" in failure.message
    assert "Traceback" in failure.traceback


def test_each_job_has_a_process_of_its_own():
    pids = [pid for _, pid in run_jobs(call, [(i, os.getpid) for i in range(3)], on="processes", workers=1)]
    assert len({*pids, os.getpid()}) == 4


def test_serial_jobs_stay_in_this_process():
    assert dict(run_jobs(call, [("here", os.getpid)])) == {"here": os.getpid()}


def test_no_more_than_the_workers_live_at_once(jobs, tmp_path):
    naps = [nap for _, nap in run_jobs(jobs.nap, [(i, str(tmp_path)) for i in range(5)], "processes", 2)]
    together = [sum(began <= start < end for began, end in naps) for start, _ in naps]
    assert max(together) == 2


@pytest.mark.parametrize("on", ["serial", "processes"])
def test_jobs_are_drawn_only_when_a_place_is_free(on):
    drawn = []

    def drawing() -> Iterator[tuple]:
        for i in range(4):
            drawn.append(i)
            yield i, "x"

    results = run_jobs(len, drawing(), on=on, workers=1)
    next(results)
    assert drawn == [0]
    results.close()


def test_a_killed_process_is_a_failure_that_says_so():
    [(_, failure)] = run_jobs(signal.raise_signal, [("oom", signal.SIGKILL)], on="processes")
    assert failure.kind == "Killed"
    assert "SIGKILL" in failure.message
    assert "memory" in failure.message


def test_a_process_that_leaves_without_a_word_is_a_failure():
    results = dict(run_jobs(os._exit, [("quit", 3), ("quit again", 0)], on="processes"))
    assert {failure.kind for failure in results.values()} == {"Exited"}
    assert "exit code 3" in results["quit"].message


def test_a_result_that_cannot_travel_is_a_failure():
    [(_, failure)] = run_jobs(call, [("lock", threading.Lock)], on="processes")
    assert failure.kind == "TypeError"
    assert "pickle" in failure.message


def test_a_caller_who_stops_listening_leaves_no_process(jobs, tmp_path):
    pids = tmp_path / "pids"
    pids.mkdir()

    def drawing() -> Iterator[tuple]:
        yield "sleeper", str(pids)
        assert _until(lambda: list(pids.iterdir())), "the sleeper never started"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(run_jobs(jobs.sleep_for_long, drawing(), on="processes", workers=2))
    [pid] = [int(path.name) for path in pids.iterdir()]
    assert not _alive(pid)


@pytest.mark.usefixtures("jobs")
@pytest.mark.skipif(sys.platform == "win32", reason="signals of process groups are POSIX")
def test_ctrl_c_ends_the_children_and_only_the_parent_speaks(tmp_path):
    parent, children = _start_sleepers(tmp_path)
    os.killpg(parent.pid, signal.SIGINT)  # what a terminal does: to the whole group
    _, words = parent.communicate(timeout=30)
    assert parent.returncode != 0
    assert words.count(b"KeyboardInterrupt") == 1
    assert not any(map(_alive, children))


@pytest.mark.usefixtures("jobs")
@pytest.mark.skipif(sys.platform == "win32", reason="kill -9 is POSIX")
def test_children_end_when_the_parent_is_killed(tmp_path):
    parent, children = _start_sleepers(tmp_path)
    parent.kill()
    parent.communicate(timeout=30)
    assert _until(lambda: not any(map(_alive, children)))


@pytest.mark.parametrize(
    ("on", "workers", "message"),
    [
        ("dask", 1, "distributed"),
        ("threads", 1, '"serial" or "processes"'),
        ("processes", 0, "at least one"),
    ],
)
def test_an_impossible_way_to_run_is_refused_before_anything_starts(on, workers, message):
    with pytest.raises(PlanError, match=message) as refused:
        run_jobs(len, [("a", "b")], on=on, workers=workers)
    assert isinstance(refused.value, SentinodeError)


def test_the_script_of_a_user_without_the_main_guard_is_told_what_is_missing(tmp_path):
    script = tmp_path / "unguarded.py"
    script.write_text(
        "from sentinode.execution import run_jobs\n"
        "print([f.message for _, f in run_jobs(len, [(0, 'abc')], on='processes')])\n"
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False)
    assert "__main__" in done.stdout


def test_the_names_of_paths_travel_too(tmp_path):
    assert dict(run_jobs(Path.exists, [("here", tmp_path)], on="processes")) == {"here": True}


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's")
def test_memory_that_is_kept_is_not_asked_for_anew(tmp_path):
    script = tmp_path / "arrays.py"
    script.write_text(
        "import resource, sys\n"
        "import numpy as np\n"
        "from sentinode.execution import keep_memory\n"
        "if 'keep' in sys.argv:\n"
        "    assert keep_memory()\n"
        "for turn in range(60):\n"
        "    if turn == 10:\n"
        "        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "    some = [np.ones(300_000, dtype=np.float32) for _ in range(8)]\n"
        "    del some\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)\n"
    )
    plainly, kept = (
        int(subprocess.run([sys.executable, script, how], capture_output=True, text=True, check=True).stdout)
        for how in ("plain", "keep")
    )
    assert kept < plainly / 10
