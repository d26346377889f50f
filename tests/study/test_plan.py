import subprocess
import sys

import pytest

from sentinode.errors import PlanError
from sentinode.study.plan import parse_plan, read_plan

SHORTEST = """
manifest = "manifest.csv"
repeats = 10
seed = 1
algorithms = ["paper-cnn", "dbn", "naive-bayes"]
"""


def _faults(path) -> list[str]:
    with pytest.raises(PlanError) as refused:
        read_plan(path)
    return str(refused.value).splitlines()


def test_the_shortest_plan_has_the_defaults_of_the_field(write_plan, cohort):
    path = write_plan('manifest = "manifest.csv"\nalgorithms = ["naive-bayes", "majority"]\n')
    plan = read_plan(path)
    assert plan.manifest == cohort / "manifest.csv"
    assert (plan.repeats, plan.seed, plan.protocol, plan.test, plan.stop) == (10, 1, "patients", 0.25, 0.15)
    assert (plan.unknown, plan.search.candidates, plan.alpha, plan.rope) == ("leave-out", 1, 0.05, 0.01)
    assert plan.reference == "naive-bayes"


def test_the_reference_is_the_network_of_the_paper_where_it_takes_part(write_plan):
    text = 'manifest = "manifest.csv"\nalgorithms = ["majority", "paper-cnn"]\n'
    assert read_plan(write_plan(text)).reference == "paper-cnn"


def test_every_fault_has_a_line_of_its_own(write_plan):
    path = write_plan("""
        manifest = "manifset.csv"
        repeat = 3
        seed = "one"
        algorithms = ["paper-cnn", "dbm", "naive-bayes", "naive-bayes"]
        reference = "kernel-svm"
        test = 0.9
        stop = 0.2
        [search]
        candidate = 3
        [algorithm.naive-bayes]
        smothing = 0.1
        [algorithm.majority]
    """)
    faults = _faults(path)
    expected = [
        "unknown key 'repeat'; did you mean 'repeats'?",
        'seed = "one"',
        "unknown key 'search.candidate'; did you mean 'candidates'?",
        "manifset.csv",
        "'naive-bayes' is listed twice",
        "there is no 'dbm'; did you mean 'dbn'?",
        "[algorithm.majority] is not listed",
        "reference: 'kernel-svm' is not listed",
        "leave nobody to train on",
        "[algorithm.naive-bayes] has no setting 'smothing'; did you mean 'smoothing'?",
    ]
    assert len(faults) == 1 + len(expected)
    for part in expected:
        assert sum(part in line for line in faults) == 1, part


def test_an_impossible_layer_is_named(write_plan):
    text = (
        'manifest = "manifest.csv"\nalgorithms = ["paper-cnn"]\n'
        '[algorithm.paper-cnn]\nlayers = [{conv = 8, kernel = 5}, {pool = "max", size = 64}]\n'
    )
    [fault] = _faults(write_plan(text))
    assert "[algorithm.paper-cnn]" in fault
    assert "layer 2" in fault


def test_splits_that_eight_patients_cannot_give_are_refused(write_plan):
    text = 'manifest = "manifest.csv"\nalgorithms = ["majority"]\ntest = 0.5\nstop = 0.49\n'
    assert "patients" in " ".join(_faults(write_plan(text)))


def test_one_algorithm_may_take_part_twice_under_two_names(write_plan):
    text = (
        'manifest = "manifest.csv"\nalgorithms = ["naive-bayes", "bayes-on-stain"]\n'
        '[algorithm.bayes-on-stain]\nalgorithm = "naive-bayes"\ndescriptors = ["stain"]\n'
    )
    plain, stain = read_plan(write_plan(text)).entries
    assert (plain.spec.name, dict(plain.spec.settings)) == ("naive-bayes", {})
    assert (stain.name, stain.spec.name) == ("bayes-on-stain", "naive-bayes")
    assert dict(stain.spec.settings) == {"descriptors": ["stain"]}


def test_a_seed_of_one_algorithm_is_refused(write_plan):
    text = 'manifest = "manifest.csv"\nalgorithms = ["majority"]\n[algorithm.majority]\nseed = 3\n'
    assert "whole study" in _faults(write_plan(text))[0]


def test_shares_that_leave_nobody_are_refused_with_all_of_them(write_plan):
    with pytest.raises(PlanError, match=r"test = 0.4, stop = 0.3, calibrate = 0.4 leave nobody to train on"):
        read_plan(write_plan(**{"repeats = 2": "repeats = 2\ntest = 0.4\nstop = 0.3\ncalibrate = 0.4"}))


def test_candidates_need_a_part_to_choose_them_on(write_plan):
    text = 'manifest = "manifest.csv"\nalgorithms = ["majority"]\nstop = 0\n[search]\ncandidates = 3\n'
    assert "stop part" in " ".join(_faults(write_plan(text)))


def test_frozen_splits_have_settled_what_would_be_drawn(write_plan, cohort):
    (cohort / "splits.json").write_text("{}")
    text = 'manifest = "manifest.csv"\nalgorithms = ["majority"]\nsplits = "splits.json"\nstop = 0.1\n'
    first, second = _faults(write_plan(text))[-2:]
    assert first.endswith("leave out 'stop' or 'splits'")
    assert "is not a file of splits" in second


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"manifest = manifest.csv", "is not TOML"),
        (b'manifest = "\xff"', "UTF-8"),
        (b"", "'manifest' is missing"),
        (b'manifest = "manifest.csv"\nalgorithms = []', "algorithms = []"),
        (b'manifest = "manifest.csv"\nalgorithms = "majority"', "algorithms ="),
        (b'manifest = "manifest.csv"\nalgorithms = ["majority"]\nalpha = nan', "alpha"),
        (b'manifest = "manifest.csv"\nalgorithms = ["majority"]\nrepeats = true', "repeats = true"),
        (b'manifest = "manifest.csv"\nalgorithms = ["majority"]\nrepeats = 0', "repeats = 0"),
        (b'manifest = "manifest.csv"\nalgorithms = ["majority"]\non = "dask"', "on ="),
        (b'manifest = "manifest.csv"\nalgorithms = ["majority"]\nalgorithm = 3', "algorithm = 3"),
        (b'manifest = "."\nalgorithms = ["majority"]', "there is no file"),
    ],
)
def test_a_broken_file_is_refused_with_its_name(cohort, content, part):
    path = cohort / "study.toml"
    path.write_bytes(content)
    faults = _faults(path)
    assert str(path) in faults[0]
    assert part in " ".join(faults)


def test_a_plan_that_is_not_there_is_named(tmp_path):
    assert "none.toml" in _faults(tmp_path / "none.toml")[0]


def test_a_byte_order_mark_is_no_fault(cohort):
    path = cohort / "study.toml"
    path.write_bytes(b'\xef\xbb\xbfmanifest = "manifest.csv"\nalgorithms = ["majority"]\n')
    assert read_plan(path).algorithms == ("majority",)


def test_the_digest_follows_what_the_numbers_depend_on(cohort):
    values = {"manifest": "manifest.csv", "algorithms": ["majority", "naive-bayes"]}
    plan = parse_plan(values, cohort)
    assert plan.digest == parse_plan({**values, "workers": 2, "on": "serial"}, cohort).digest
    changed = [{"seed": 2}, {"algorithm": {"naive-bayes": {"components": 4}}}, {"search": {"candidates": 2}}]
    assert len({plan.digest, *(parse_plan({**values, **change}, cohort).digest for change in changed)}) == 4


@pytest.mark.parametrize("module", ["plan", "store", "table", "runner", "printing"])
def test_nothing_of_a_study_imports_torch(module):
    code = f"import sys, sentinode.study.{module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_reading_a_plan_with_networks_does_not_import_torch(write_plan):
    path = write_plan(SHORTEST)
    code = (
        "import sys; from sentinode.study.plan import read_plan; "
        f"plan = read_plan({str(path)!r}); sys.exit('torch' in sys.modules or len(plan.entries) != 3)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
