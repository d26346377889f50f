"""Running jobs: one after another in this process, or each in a fresh process of its own.

A job that fails does not stop the others: its exception is caught here, the only place of the house that
catches all of them, and comes back as a `Failure`. So does a process that was killed.
"""

import contextlib
import ctypes
import itertools
import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Literal, NamedTuple, TypeVar, cast

from sentinode.errors import PlanError

__all__ = ["Failure", "keep_memory", "run_jobs"]

Key = TypeVar("Key")
Job = TypeVar("Job")
Result = TypeVar("Result")

PATIENCE_SECONDS = 5.0  # between asking a process to end and ending it

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of mallopt(3)
_KEPT, _LARGEST = 256 << 20, 32 << 20  # bytes; the second is the most that mallopt takes


def keep_memory() -> bool:
    """Let this process use memory again that it has freed, where glibc would give it back and ask for it anew.

    Arrays of some hundred kilobytes come and go with each few tiles. Each time the system hands out clean pages, which
    takes a fifth of the time that tiles are judged in. At the end of each thread's memory 256 MiB are kept at most.

    Returns
    -------
    bool
        Whether it was done: other libraries than glibc have no such settings, and go on as they are.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is None:
        return False
    return bool(mallopt(_MMAP_THRESHOLD, _LARGEST)) and bool(mallopt(_TRIM_THRESHOLD, _KEPT))


@dataclass(frozen=True)
class Failure:
    """Why a job has no result.

    Parameters
    ----------
    kind : str
        The class of the exception, e.g. ``"ModelError"``; ``"Killed"`` if a signal ended the process,
        ``"Exited"`` if it ended by itself without handing anything back.
    message : str
        What was wrong, for a person.
    traceback : str
        Where, for a programmer; empty where there was no exception.
    """

    kind: str
    message: str
    traceback: str = ""


class _Running(NamedTuple):
    key: object
    process: SpawnProcess
    answers: Connection


def run_jobs(
    function: Callable[[Job], Result],
    jobs: Iterable[tuple[Key, Job]],
    on: Literal["serial", "processes"] = "serial",
    workers: int = 1,
) -> Generator[tuple[Key, Result | Failure], None, None]:
    """Run a function on every job, and hand back each result as it comes.

    Parameters
    ----------
    function : callable
        Takes a job, returns its result. For ``"processes"`` it must be importable (the function of a
        module), and jobs and results must survive the way between two processes.
    jobs : iterable of (key, job)
        Drawn from as places become free, so that the drawing of a job is the moment before it starts.
    on : {"serial", "processes"}, default "serial"
        ``"serial"`` runs the jobs here, in order. ``"processes"`` gives every job a fresh process (spawned,
        never reused), so that its memory, threads and imports are its own; results come in the order of
        completion. These processes end with this one, however it ends.
    workers : int, default 1
        How many processes may live at once.

    Returns
    -------
    iterator of (key, result or Failure)
        An exception or the death of a process is a `Failure`; it does not stop the rest. Close it (or use it
        up) to end the processes that still run.

    Raises
    ------
    PlanError
        If ``on`` is unknown, or ``workers`` is below one.

    Examples
    --------
    >>> dict(run_jobs(len, [("ann", "abc"), ("bo", "de")]))
    {'ann': 3, 'bo': 2}
    >>> [(key, failure)] = run_jobs(int, [("cy", "three")])
    >>> failure.kind, failure.message
    ('ValueError', "invalid literal for int() with base 10: 'three'")
    """
    if workers < 1:
        raise PlanError(f"workers = {workers}: give at least one")
    if on == "serial":
        return _run_here(function, jobs)
    if on == "processes":
        return _run_in_processes(function, jobs, workers)
    seam = " (a distributed engine has its place in run_jobs, and is not built yet)" if on == "dask" else ""
    raise PlanError(f'on = "{on}" is not known{seam}; use "serial" or "processes"')


def _run_here(
    function: Callable[[Job], Result], jobs: Iterable[tuple[Key, Job]]
) -> Generator[tuple[Key, Result | Failure], None, None]:
    for key, job in jobs:
        yield key, _attempt(function, job)


def _run_in_processes(
    function: Callable[[Job], Result], jobs: Iterable[tuple[Key, Job]], workers: int
) -> Generator[tuple[Key, Result | Failure], None, None]:
    running: dict[Connection, _Running] = {}
    waiting = iter(jobs)
    try:
        while True:
            for key, job in itertools.islice(waiting, workers - len(running)):
                started = _start(function, key, job)
                running[started.answers] = started
            if not running:
                return
            for answers in wait(list(running)):
                done = running.pop(cast("Connection", answers))
                yield cast("Key", done.key), cast("Result | Failure", _collect(done))
    finally:
        # Also reached by Ctrl-C and by a caller who stops listening.
        _end(list(running.values()))


def _start(function: Callable[[Job], Result], key: object, job: Job) -> _Running:
    context = multiprocessing.get_context("spawn")
    answers, hand_back = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(function, job, hand_back), daemon=False)
    with _interrupts_held():
        process.start()
    # Ours must be closed: the pipe then ends when the child does, and `wait` sees it.
    hand_back.close()
    return _Running(key, process, answers)


@contextlib.contextmanager
def _interrupts_held() -> Iterator[None]:
    """Hold Ctrl-C back while a process starts.

    The child inherits the mask, so a Ctrl-C typed at the terminal (which goes to parent and children alike)
    is answered by the parent alone, even while the child is still importing.

    Yields
    ------
    None
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    # It unblocks the signals itself when it first starts, so it has to be there before.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _work(function: Callable[[Job], Result], job: Job, hand_back: Connection) -> None:
    """Be the child: run the job, hand back its result, and end with the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    result = _attempt(function, job)
    failure = _attempt(hand_back.send, result)
    if isinstance(failure, Failure) and failure.kind != "BrokenPipeError":
        hand_back.send(failure)  # the result could not be pickled
    hand_back.close()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        # Nobody is left to clean up for: a killed parent must not leave a child that trains on for hours.
        os._exit(1)


def _attempt(function: Callable[[Job], Result], job: Job) -> Result | Failure:
    try:
        return function(job)
    except Exception as error:  # noqa: BLE001 - the one place that records whatever a job dies of
        message = str(error).strip() or type(error).__name__
        return Failure(type(error).__name__, message, traceback.format_exc())


def _collect(done: _Running) -> object:
    try:
        return done.answers.recv()
    except EOFError:
        done.process.join()
        return _death(done.process.exitcode)
    finally:
        done.answers.close()
        done.process.join()


def _death(exitcode: int | None) -> Failure:
    if exitcode is None or exitcode >= 0:
        return Failure(
            "Exited",
            f"the process ended with exit code {exitcode} before it handed back a result; a script that "
            'starts a study needs the line: if __name__ == "__main__":',
        )
    name = signal.Signals(-exitcode).name
    hint = "; the system does so when memory runs out: use fewer workers" if name == "SIGKILL" else ""
    return Failure("Killed", f"the process was killed by {name}{hint}")


def _end(running: list[_Running]) -> None:
    for one in running:
        one.process.terminate()
    for one in running:
        one.process.join(PATIENCE_SECONDS)
        if one.process.is_alive():
            one.process.kill()
            one.process.join()
        one.answers.close()
