"""What the package shows to the outside, and what it must not drag in."""

import importlib
import pkgutil
import subprocess
import sys

import pytest

import sentinode

LIGHT = [
    "sentinode",
    "sentinode.cli",
    "sentinode.data.manifest",
    "sentinode.data.splits",
    "sentinode.data.leakage",
    "sentinode.study.plan",
    "sentinode.study.store",
    "sentinode.study.table",
    "sentinode.evaluation.metrics",
    "sentinode.evaluation.statistics",
    "sentinode.algorithms.registry",
    "sentinode.report.page",
    "sentinode.geometry",
    "sentinode.slides.slide",
    "sentinode.models.bundle",
    "sentinode.models.runtime",
    "sentinode.workflows.evaluating",
]


def test_public_names_are_sorted_and_there():
    assert sorted(sentinode.__all__) == sentinode.__all__
    assert all(hasattr(sentinode, name) for name in sentinode.__all__)


def test_every_module_imports_and_says_what_it_is():
    names = [module.name for module in pkgutil.walk_packages(sentinode.__path__, "sentinode.")]
    assert [name for name in names if not (importlib.import_module(name).__doc__ or "").strip()] == []


def test_all_names_of_every_module_are_there_once():
    # Their order is kept by ruff (RUF022).
    wrong = []
    for module in pkgutil.walk_packages(sentinode.__path__, "sentinode."):
        loaded = importlib.import_module(module.name)
        names = list(getattr(loaded, "__all__", []))
        if len(set(names)) != len(names) or not all(hasattr(loaded, name) for name in names):
            wrong.append(module.name)
    assert wrong == []


@pytest.mark.parametrize("module", LIGHT)
def test_light_modules_do_not_import_torch(module):
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_recognising_starts_without_what_it_does_not_need():
    heavy = ("sklearn", "scipy.stats", "torch", "onnx")  # the first two take more than a second
    code = f"import sys, sentinode.workflows.predicting; sys.exit(any(name in sys.modules for name in {heavy!r}))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_package_itself_imports_nothing_heavy():
    heavy = ("numpy", "pandas", "sklearn", "matplotlib", "torch", "scipy")
    code = f"import sys, sentinode; sys.exit(any(name in sys.modules for name in {heavy!r}))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
