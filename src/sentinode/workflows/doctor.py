"""Look at this machine and installation, and say what to do about what is missing."""

import os
import platform
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib import import_module, metadata
from pathlib import Path
from typing import Literal

import psutil

from sentinode._version import __version__
from sentinode.errors import MissingExtra, ModelError

__all__ = ["Finding", "examine"]

GIB = 1024**3
#: Instruction sets that decide the speed on a CPU: flag as Linux and py-cpuinfo spell it -> name and use.
CPU_FEATURES = {
    "avx2": "AVX2 (vector arithmetic)",
    "avx512f": "AVX-512 (wider vectors)",
    "avx512_bf16": "AVX-512 bf16 (faster training and recognising)",
    "amx_bf16": "AMX bf16 (matrix units)",
    "avx512_vnni": "AVX-512 VNNI (int8)",
    "avx_vnni": "AVX VNNI (int8)",
}


@dataclass(frozen=True)
class Finding:
    """What was looked at, what was found, and what to do about it (empty: nothing)."""

    what: str
    state: Literal["ok", "note", "missing"]
    found: str
    advice: str = ""

    def to_json(self) -> dict[str, str]:
        """Hand the finding over as plain strings.

        Returns
        -------
        dict of str to str
            ``what``, ``state``, ``found`` and ``advice``.
        """
        return asdict(self)


def examine(folder: Path) -> tuple[Finding, ...]:
    """Examine Python, CPU, memory, disk, the salt of the laboratory and the optional parts of the installation.

    Parameters
    ----------
    folder : Path
        Where results would be written: its disk is looked at.

    Returns
    -------
    tuple of Finding
        One per thing looked at; ``"missing"`` where something has to be done before all of it works.

    Examples
    --------
    >>> [finding.what for finding in examine(Path("."))][:2]
    ['Sentinode', 'Python']
    """
    return (
        Finding("Sentinode", "ok", __version__),
        _python(),
        *_cpu(),
        _memory(),
        _disk(folder),
        _openslide(),
        _runtime(),
        _salt(),
        _training(),
    )


def _python() -> Finding:
    # No check of the version: the installation refuses a Python that is too old.
    return Finding("Python", "ok", f"{platform.python_version()} on {platform.system()} {platform.machine()}")


def _cpu() -> tuple[Finding, ...]:
    from cpuinfo import get_cpu_info  # noqa: PLC0415 - starts subprocesses: only when somebody asks

    info = get_cpu_info()
    brand = info.get("brand_raw") or platform.processor() or "unknown"
    flags = set(info.get("flags", ()))
    present = [name for flag, name in CPU_FEATURES.items() if flag in flags]
    found = ", ".join(present) or "none of AVX2, AVX-512, bf16, VNNI"
    fast = bool({"avx512_bf16", "amx_bf16"} & flags)
    advice = "" if fast else "works in float32; with AVX-512 bf16 or AMX, training is faster"
    return (
        Finding("CPU", "ok", f"{brand}, {_usable_cores()} usable cores"),
        Finding("CPU features", "ok" if fast else "note", found, advice),
    )


def _usable_cores() -> int:
    # A container or a scheduler may allow fewer than the machine has.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


def _memory() -> Finding:
    memory = psutil.virtual_memory()
    found = f"{memory.available / GIB:.1f} GiB free of {memory.total / GIB:.1f} GiB"
    if memory.available < 2 * GIB:
        return Finding("Memory", "note", found, "training wants about 2 GiB: close other programs")
    return Finding("Memory", "ok", found)


def _disk(folder: Path) -> Finding:
    place = folder.resolve()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    found = f"{free / GIB:.1f} GiB free at {place}"
    if free < 2 * GIB:
        return Finding("Disk", "note", found, "a study keeps its patches decoded, 27 KiB each: make room")
    return Finding("Disk", "ok", found)


def _openslide() -> Finding:
    return _probe(
        "OpenSlide",
        _openslide_version,
        "run: pip install --force-reinstall openslide-bin openslide-python",
    )


def _openslide_version() -> str:
    return str(import_module("openslide").__library_version__)


def _runtime() -> Finding:
    from sentinode.models.runtime import this_machine  # noqa: PLC0415 - loads OpenVINO: only when somebody asks
    from sentinode.models.tuning import cache_folder, stored_choices  # noqa: PLC0415

    try:
        machine = this_machine()
    except ModelError as fault:
        return Finding("Runtime", "missing", "not usable", str(fault))
    choices = stored_choices(machine, cache_folder())
    precision = "bf16 where it stays close" if machine.bf16 else "float32"
    if not choices:
        return Finding("Runtime", "ok", f"{machine.engine}, {precision}; not measured yet: the first predict does that")
    latest = choices[-1]
    way = f"{latest.streams} x {latest.batch} tiles at a time, {latest.rate or 0:,.0f} tiles a second when measured"
    each = ", ".join(f"{n} in {name}" for name, n in Counter(one.precision for one in choices).items())
    return Finding(
        "Runtime", "ok", f"{machine.engine}, {precision}; measured: {each}; the latest: {latest.precision}, {way}"
    )


def _salt() -> Finding:
    from sentinode.models.identities import SALT_VARIABLE, find_salt, salt_file  # noqa: PLC0415 - as the others

    try:
        salt = find_salt()
        where = f"the variable {SALT_VARIABLE}" if os.environ.get(SALT_VARIABLE) else str(salt_file())
    except ModelError as fault:
        return Finding("Salt of the laboratory", "missing", "not usable", str(fault))
    if salt is None:
        return Finding("Salt of the laboratory", "ok", f"none yet: the first train makes one, in {where}")
    return Finding(
        "Salt of the laboratory", "ok", f"{where}; its mark is {salt.mark[:8]}, the same on all your machines"
    )


def _training() -> Finding:
    return _probe("Extra 'train'", _torch_version, str(MissingExtra("train", "training a network")))


def _torch_version() -> str:
    version = metadata.version("torch")
    # It is imported where it can do no harm: a broken library may kill the process that loads it.
    tried = subprocess.run([sys.executable, "-c", "import torch"], capture_output=True, text=True, check=False)
    if tried.returncode:
        raise ImportError((tried.stderr.strip().splitlines() or [f"exit code {tried.returncode}"])[-1])
    return f"torch {version}"


def _probe(what: str, look: Callable[[], str], advice: str) -> Finding:
    try:
        return Finding(what, "ok", look())
    except (ImportError, OSError, metadata.PackageNotFoundError) as fault:
        return Finding(what, "missing", f"not usable: {fault}", advice)
