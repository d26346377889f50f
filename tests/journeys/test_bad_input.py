"""What cannot be used is refused in a line or two that say where and what to do, and leaves nothing half-written."""

import contextlib
import ctypes
import hashlib
import json
import os
import re
import signal
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from sentinode.cli import main
from sentinode.errors import ModelError
from sentinode.seeds import stream
from sentinode.study import runner
from sentinode.workflows import checking

PLAN = 'manifest = "manifest.csv"\nrepeats = 2\nalgorithms = ["majority"]\non = "serial"\n'
TO_CHECK = ("data", "check", "manifest.csv")
TO_RUN = ("study", "run", "study.toml", "--out", "out")

# A process of root's that is bound by permissions like anybody else's: without the two capabilities that
# overrule them (linux/capability.h; PR_CAPBSET_DROP is 24 in linux/prctl.h).
DROP_FROM_BOUNDS, OVERRULE_WRITING, OVERRULE_READING = 24, 1, 2

# An interpreter in which torch is not installed, although it lies on the path.
WITHOUT_TORCH = """
import sys
from importlib.machinery import PathFinder

class NoTorch(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] == "torch" else super().find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = NoTorch
"""

WITH_A_FAULT = """
from sentinode.cli import main
from sentinode.workflows import describing

def describe_all(size):
    raise ZeroDivisionError("division by zero")

describing.describe_all = describe_all
main()
"""


@dataclass(frozen=True)
class Answer:
    """What a command answered."""

    code: int
    out: str
    err: str

    @property
    def refusal(self) -> str:
        """What was said at the end; progress may stand before it."""
        before, error, after = self.err.partition("error: ")
        assert error, self.err
        assert not before or before.endswith("\n")
        return after


Sentinode = Callable[..., Answer]


@pytest.fixture
def sentinode(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Sentinode:
    """A function that runs a command in a folder, in this process: it saves seconds a command."""

    def run(folder: Path, *arguments: object) -> Answer:
        monkeypatch.chdir(folder)
        monkeypatch.setattr(sys, "argv", ["sentinode", *map(str, arguments)])
        monkeypatch.setattr(sys, "excepthook", sys.excepthook)
        capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            main()
        return Answer(int(left.value.code or 0), *capsys.readouterr())

    return run


@pytest.fixture
def cohort(tmp_path: Path) -> Path:
    """A folder with 24 images of six patients, a manifest and a plan in it."""
    folder = tmp_path / "cohort"
    folder.mkdir()
    for row, (name, _, _) in enumerate(rows_of(6)):
        pixels = stream(1, "cohort", row).integers(60, 220, size=(24, 24, 3))
        Image.fromarray(pixels.astype(np.uint8)).save(folder / name)
    write_manifest(folder, rows_of(6))
    write_plan(folder, PLAN)
    return folder


def rows_of(n_patients: int) -> list[tuple[str, ...]]:
    return [
        (f"p{patient}-{image}.png", ("normal", "tumour")[image % 2], f"p{patient}")
        for patient in range(n_patients)
        for image in range(4)
    ]


def write_manifest(folder: Path, rows: list[tuple[str, ...]], header: str = "path,label,patient_id") -> None:
    lines = [header, *(",".join(row) for row in rows)]
    (folder / "manifest.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_plan(folder: Path, text: str) -> None:
    (folder / "study.toml").write_text(text, encoding="utf-8")


def make_class_folders(folder: Path) -> None:
    for label in ("normal", "tumour"):
        (folder / "images" / label).mkdir(parents=True)
        Image.new("RGB", (24, 24)).save(folder / "images" / label / "p.png")


def files(folder: Path) -> dict[str, str]:
    """Everything in a folder, and what is in it."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and os.access(path, os.R_OK)
    }


def require_refused(answer: Answer, *words: str) -> None:
    assert answer.code == 2, answer
    assert answer.out == ""
    assert 1 <= len(answer.refusal.splitlines()) <= 2
    assert "Traceback" not in answer.err
    missing = [word for word in words if word not in answer.refusal]
    assert missing == [], answer.refusal


def in_a_process(
    folder: Path, *arguments: str, preexec: Callable[[], None] | None = None, **environment: str
) -> Answer:
    done = subprocess.run(
        [sys.executable, "-m", "sentinode.cli", *arguments],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        preexec_fn=preexec,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    return Answer(done.returncode, done.stdout, done.stderr)


# --- folders and tables -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("data", "import", "folder", "empty"), "there is no folder in it; make one for each class"),
        (("data", "import", "kaggle-pcam", "empty"), "train_labels.csv"),
        (("data", "import", "pcam-h5", "empty"), "expected camelyonpatch_level_2_split_train_x.h5"),
        (("data", "import", "folder", "absent"), "is not a folder; name the one that holds the data set"),
        (("data", "check", "empty"), "give the path of a table"),
        (("data", "check", "absent.csv"), "give the path of a table"),
        (("study", "run", "empty", "--out", "out"), "give the path of a study.toml"),
        (("study", "run", "absent.toml", "--out", "out"), "give the path of a study.toml"),
        (("study", "table", "empty"), "holds no study"),
    ],
    ids=" ".join,
)
def test_an_empty_folder_or_none_at_all_is_named(sentinode, tmp_path, arguments, said):
    (tmp_path / "empty").mkdir()
    answer = sentinode(tmp_path, *arguments)
    require_refused(answer, next(word for word in arguments if word.startswith(("empty", "absent"))), said)
    assert files(tmp_path) == {}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"label": "tumour"}, ("one class only ('tumour')", "two or more")),
        ({"label": "", "row": 4}, ("row 4 (image_id 'p0-3.png')", "label", "every image needs one")),
        ({"label": "tumor", "row": 4}, ("row 4", "'tumor' is not among the classes", "'normal', 'tumour'")),
        ({"path": "../secret.png", "row": 4}, ("row 4", "'../secret.png'", "relative to the root")),
        ({"path": "/etc/passwd", "row": 4}, ("row 4", "'/etc/passwd'", "relative to the root")),
        ({"image_id": "p1-0.png", "row": 4}, ("rows 4 and 5", "'p1-0.png'", "each needs its own")),
        ({"mpp": "nan", "row": 4}, ("row 4", "mpp is 'nan'", "or leave it empty")),
        ({"mpp": "0", "row": 4}, ("row 4", "mpp is '0'", "write micrometres per pixel")),
        ({"width": "inf", "row": 4}, ("row 4", "width is 'inf'", "a whole number of pixels")),
        ({"patientid": "p0"}, ("'patientid'", "did you mean 'patient_id'?")),
    ],
    ids=str,
)
@pytest.mark.parametrize("arguments", [TO_CHECK, TO_RUN], ids=["check", "run"])
def test_a_table_that_cannot_be_is_refused_by_its_row(sentinode, cohort, arguments, change, said):
    columns = ["path", "label", "patient_id", "image_id", *(set(change) & {"mpp", "width", "patientid"})]
    table = [dict(zip(columns, (*row, row[0], ""), strict=False)) for row in rows_of(6)]
    for number, row in enumerate(table, start=1):
        if number == change.get("row", number):
            row.update({name: value for name, value in change.items() if name != "row"})
    write_manifest(cohort, [tuple(row.values()) for row in table], ",".join(columns))
    if change.get("label") == "tumor":  # without the file, it is one class more
        (cohort / "manifest.csv.json").write_text('{"classes": ["normal", "tumour"]}')
    before = files(cohort)
    require_refused(sentinode(cohort, *arguments), "manifest.csv", *said)
    assert files(cohort) == before
    assert not (cohort / "out").exists()


@pytest.mark.parametrize(
    ("rows", "shown", "said"),
    [
        (rows_of(1), "class 'normal' has images of 1 patient", "1 patient cannot fill train and each part"),
        (rows_of(2), "there are 2 patients", "2 patients cannot fill train and each part"),
        ([row for row in rows_of(6) if row[1] == "tumour"], "class 'normal' has images of 0 patients", "'normal'"),
        ([(*row[:2], "") for row in rows_of(6)], "no image has a patient", "add patient_id to the manifest"),
    ],
    ids=["one patient", "fewer patients than parts", "one of the classes only", "nobody is known"],
)
def test_too_few_patients_are_shown_by_the_check_and_refused_by_the_study(sentinode, cohort, rows, shown, said):
    write_manifest(cohort, rows)
    (cohort / "manifest.csv.json").write_text('{"classes": ["normal", "tumour"]}')
    checked = sentinode(cohort, *TO_CHECK)
    assert shown in checked.out
    assert checked.code == int("there are 2 patients" not in shown)  # two can be split, though not into three
    require_refused(sentinode(cohort, *TO_RUN), "study.toml", said)
    assert not (cohort / "out").exists()


@pytest.mark.parametrize(
    ("separator", "encoding", "line_end"),
    [(",", "utf-8-sig", "\n"), (";", "utf-8-sig", "\r\n"), (";", "utf-8", "\n"), ("\t", "utf-16", "\r\n")],
)
def test_a_table_from_a_spreadsheet_is_the_same_table(sentinode, cohort, separator, encoding, line_end):
    write_manifest(cohort, [(*row, "0.25") for row in rows_of(6)], "path,label,patient_id,mpp")
    plain = sentinode(cohort, *TO_CHECK, "--json")
    number = "0.25" if separator == "," else "0,25"
    table = [("path", "label", "patient_id", "mpp"), *((*row, number) for row in rows_of(6))]
    text = line_end.join(separator.join(row) for row in table) + line_end
    (cohort / "manifest.csv").write_bytes(text.encode(encoding))
    assert sentinode(cohort, *TO_CHECK, "--json") == plain
    assert plain.code == 0
    assert len(json.loads(plain.out)["patients"]) == 6


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--mpp", "nan"), ("mpp = nan", "or leave it out")),
        (("--mpp", "-1"), ("mpp = -1.0", "or leave it out")),
        (("--positive", "tumor"), ("'tumor'", "'normal', 'tumour'")),
        (("--patient-pattern", "(p"), ("patient_pattern '(p'", "is not a regular expression")),
        (("--patients", "whose.csv"), ("whose.csv", "row 1", "'absent.png'", "write the path")),
        (("--out", "whose.csv/manifest.csv"), ("whose.csv/manifest.csv", "in a folder of yours")),
        (("--out", "manifest.xlsx"), ("manifest.xlsx", ".csv or .parquet")),
    ],
    ids=" ".join,
)
def test_an_import_that_cannot_be_writes_nothing(sentinode, cohort, options, said):
    make_class_folders(cohort)
    (cohort / "whose.csv").write_text("file,patient_id\nabsent.png,p1\n")
    before = files(cohort)
    require_refused(sentinode(cohort, "data", "import", "folder", "images", *options), *said)
    assert files(cohort) == before


def test_an_import_makes_the_folder_that_it_writes_to(sentinode, cohort):
    make_class_folders(cohort)
    assert sentinode(cohort, "data", "import", "folder", "images", "--out", "new/deep/manifest.csv").code == 0
    assert (cohort / "new" / "deep" / "manifest.csv").is_file()


# --- images -------------------------------------------------------------------------------------------------


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:300])


def deepen(file: Path) -> None:
    Image.fromarray(np.full((24, 24), 40000, np.uint16)).save(file)


def widen(file: Path) -> None:
    Image.open(file).resize((30, 24)).save(file)


def swell(file: Path) -> None:
    """A PNG of 65 kB that is 67 million pixels."""
    side = 8192
    body = zlib.compress((b"\0" + bytes(side)) * side)
    head = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    file.write_bytes(b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", head) + _chunk(b"IDAT", body) + _chunk(b"IEND", b""))


def gossip(file: Path) -> None:
    """A PNG whose comment is 64 MB long once it is unpacked."""
    content = file.read_bytes()
    place = content.index(b"IDAT") - 4
    comment = _chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(PngImagePlugin.MAX_TEXT_MEMORY)))
    file.write_bytes(content[:place] + comment + content[place:])


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def lead_out(file: Path) -> None:
    elsewhere = file.parent.parent / "secret.png"
    file.rename(elsewhere)
    file.symlink_to(elsewhere)


BROKEN = {
    truncate: ("truncated", "copy the image again"),
    deepen: ("16 bits a channel", "save it with 8"),
    widen: ("30 x 24 px", "cut all to one size"),
    swell: ("8192 x 8192 px", "a patch has at most 16777216 pixels"),
    gossip: ("is damaged", "copy the image again"),
    lead_out: ("leads out of the root folder", "copy the image into it"),
    Path.unlink: ("there is no such file", "mend the path"),
    lambda file: file.write_bytes(b""): ("is empty (0 bytes)", "copy the image again"),
    lambda file: file.write_text("an image"): ("is not a PNG, JPEG, TIFF or BMP image", "save it as one"),
}
CONVERTED = {
    "L": "grey, copied into three channels",
    "CMYK": "CMYK, converted without colour profile",
    "RGBA": "alpha, laid over white",
}


@pytest.mark.parametrize(("damage", "said"), BROKEN.items(), ids=lambda value: getattr(value, "__name__", ""))
def test_a_study_stops_at_an_image_that_cannot_be_used_and_names_its_row(sentinode, cohort, damage, said):
    damage(cohort / "p1-1.png")
    require_refused(sentinode(cohort, *TO_RUN), "row 6 (image_id 'p1-1.png')", "p1-1.png: ", *said)
    assert files(cohort / "out") == {}


def test_the_check_lists_every_image_that_cannot_be_used(sentinode, cohort):
    names = [row[0] for row in rows_of(6)]
    for damage, name in zip(BROKEN, names, strict=False):
        damage(cohort / name)
    as_table, as_json = sentinode(cohort, *TO_CHECK), sentinode(cohort, *TO_CHECK, "--json")
    assert (as_table.code, as_json.code) == (1, 1)
    assert (as_table.err, as_json.err) == ("", "")
    found = json.loads(as_json.out)
    errors = {finding["ids"][0]: finding["message"] for finding in found["findings"] if finding["severity"] == "error"}
    assert list(errors) == names[: len(BROKEN)]
    assert found["must_be_mended"] is True
    for name, (what, _) in zip(names, BROKEN.values(), strict=False):
        assert what in errors[name]
        assert f"{name}: " in as_table.out
    assert "must be mended" in as_table.out


def test_a_manifest_without_one_sound_image_is_still_checked(sentinode, cohort):
    for name, _, _ in rows_of(6):
        truncate(cohort / name)
    answer = sentinode(cohort, *TO_CHECK, "--json")
    assert answer.code == 1
    assert [finding["ids"] for finding in json.loads(answer.out)["findings"]] == [[row[0]] for row in rows_of(6)]


def test_grey_cmyk_and_alpha_are_read_and_told(sentinode, cohort):
    rows = rows_of(6)
    for row, mode in enumerate(CONVERTED):
        name = f"{mode}.tif"
        Image.open(cohort / rows[row][0]).convert(mode).save(cohort / name)
        rows[row] = (name, *rows[row][1:])
    write_manifest(cohort, rows)
    checked = sentinode(cohort, *TO_CHECK, "--json")
    notes = {
        finding["ids"][0]: finding["message"]
        for finding in json.loads(checked.out)["findings"]
        if finding["kind"] == "converted"
    }
    assert notes == {f"{mode}.tif": f"{mode}.tif: {note}" for mode, note in CONVERTED.items()}
    assert checked.code == 0
    assert sentinode(cohort, *TO_RUN, "--json").code == 0


# --- plans --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("repeats", "repeat"), "unknown key 'repeat'; did you mean 'repeats'?"),
        (("repeats = 2", "repeats = nan"), "repeats = NaN: input should be a valid integer"),
        (("repeats = 2", "test = nan"), "test = NaN: input should be a finite number"),
        (('"majority"', '"majorty"'), "there is no 'majorty'; did you mean 'majority'?"),
        (('["majority"]', '"majority"'), 'algorithms = "majority": input should be a valid list'),
        (('"manifest.csv"', '"absent.csv"'), "absent.csv"),
        (("repeats = 2", 'splits = "manifest.csv"'), "splits: "),
        (('"manifest.csv"', '"manifest.csv'), "is not TOML: Illegal character '\\n' (at line 1"),
        (('"serial"', '"dask"'), "on = \"dask\": input should be 'processes' or 'serial'"),
    ],
    ids=lambda value: value[1] if isinstance(value, tuple) else "",
)
def test_a_plan_that_cannot_be_is_refused_by_its_key(sentinode, cohort, change, said):
    write_plan(cohort, PLAN.replace(*change))
    require_refused(sentinode(cohort, *TO_RUN), said)
    assert not (cohort / "out").exists()


@pytest.mark.parametrize(
    ("algorithm", "setting", "said"),
    [
        ("paper-cnn", "layers = [{conf = 8}]", "layer 1 {conf = 8}: it names no layer; did you mean 'conv'?"),
        ("paper-cnn", "layers = [{conv = 8, kernel = 3}, {pool = 'max', size = 40}]", "layer 2 (pool max 40)"),
        ("paper-cnn", "layers = [{dense = 9}, {conv = 8, kernel = 3}]", "its input is 9 numbers, not an image"),
        ("paper-cnn", "layers = [{conv = nan, kernel = 3}]", "layer 1 {conv = nan, kernel = 3}: filters = nan"),
        ("paper-cnn", "learning_rate = nan", "learning_rate = nan: it must be a positive number"),
        ("paper-cnn", "epochs = 0", "epochs = 0: it must be a whole number, 1 or more"),
        ("paper-cnn", "epochs = '9'", "epochs = '9': Input should be a valid integer"),
        ("dbn", "learning_rate = inf", "learning_rate = inf: it must be a positive number"),
        ("dbn", "dropout = nan", "dropout = nan: it must be a number from 0 to less than 1"),
        ("naive-bayes", "smoothing = nan", "smoothing = nan: must be a finite number above 0"),
        ("naive-bayes", "smothing = 1.0", "has no setting 'smothing'; did you mean 'smoothing'?"),
        ("template-matching", "template_px = 300", "must fit in the patches, which are 24 x 24 px"),
    ],
)
def test_a_setting_or_layer_that_cannot_be_is_refused_before_anything_is_trained(
    sentinode, cohort, algorithm, setting, said
):
    write_plan(cohort, PLAN.replace("majority", algorithm) + f"[algorithm.{algorithm}]\n{setting}\n")
    answer = sentinode(cohort, *TO_RUN)
    require_refused(answer, f"study.toml: [algorithm.{algorithm}] ", said)
    assert answer.refusal.count("[algorithm.") == 1
    assert not (cohort / "out").exists()


def test_each_fault_of_a_plan_has_a_line_and_only_one(sentinode, cohort):
    write_plan(cohort, PLAN.replace("repeats = 2", 'repeats = "2"\ntest = inf\nseeds = 1'))
    answer = sentinode(cohort, *TO_RUN)
    assert answer.code == 2
    assert answer.refusal.splitlines() == [
        "study.toml has 3 faults:",
        '  repeats = "2": input should be a valid integer',
        "  test = Infinity: input should be a finite number",
        "  unknown key 'seeds'; did you mean 'seed'?",
    ]


def test_images_too_small_for_an_algorithm_name_it(sentinode, tmp_path):
    require_refused(sentinode(tmp_path, "algorithm", "list", "--size", "8"), "paper-cnn at 8 x 8 px: layer 8 ")


# --- disks and permissions ----------------------------------------------------------------------------------


@pytest.fixture
def resize_disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """A function that gives a disk of its own, ``tmp_path / "disk"``, another size."""
    disk = tmp_path / "disk"
    disk.mkdir()

    def mount(options: str) -> bool:
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(disk)]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    if not sys.platform.startswith("linux") or not mount("size=40k"):
        pytest.skip("a disk that is full needs one of its own, and none may be mounted here (it takes root on Linux)")

    def resize(size: str) -> Path:
        assert mount(f"remount,size={size}")
        return disk

    yield resize
    # Lazily: this process may still stand on it, or have its patches mapped.
    subprocess.run(["umount", "--lazy", str(disk)], check=True)  # noqa: S607 - found as mount was


def test_a_full_disk_leaves_only_what_is_whole_and_the_study_goes_on_when_there_is_room(sentinode, cohort, resize_disk):
    """40 kB is too small for the patches; then it ends in the splits, in a trial, in the report."""
    ends = set()
    for size in (40, 52, 60, 72, 84, 100, 120):
        disk = resize_disk(f"{size}k")
        answer = sentinode(disk, *TO_RUN[:2], cohort / "study.toml", "--out", "out")
        require_refused(answer, "out", "room" if size == 40 else "")
        ends.add(answer.refusal.partition(":")[0])
        assert [path for path in disk.rglob("*") if "part" in path.name] == []
        for trial in disk.glob("out/trials/*"):
            assert len(list(trial.iterdir())) == 3
    assert len(ends) >= 3  # it met the end of the disk in different files
    disk = resize_disk("20m")
    answer = sentinode(disk, *TO_RUN[:2], cohort / "study.toml", "--out", "out", "--json")
    assert answer.code == 0
    assert json.loads(answer.out)["complete"] is True
    assert "trials are stored already" in answer.err


def test_a_full_disk_leaves_the_manifest_that_was_there(sentinode, cohort, resize_disk):
    disk = resize_disk("40k")
    (disk / "manifest.csv").write_text("as it was\n")
    with (disk / "ballast").open("wb", buffering=0) as ballast:
        while ballast.write(bytes(4096)) == 4096:
            if os.statvfs(disk).f_bavail == 0:
                break
    make_class_folders(cohort)
    answer = sentinode(cohort, "data", "import", "folder", "images", "--out", disk / "manifest.csv")
    require_refused(answer, "manifest.csv", "No space left on device", "make room")
    assert (disk / "manifest.csv").read_text() == "as it was\n"
    assert sorted(path.name for path in disk.iterdir()) == ["ballast", "manifest.csv"]


@pytest.fixture
def bound_by_permissions() -> Callable[[], None] | None:
    """What a process of root's does first, so that permissions hold for it, too."""
    if not hasattr(os, "geteuid"):
        pytest.skip("there are no permissions to take away")
    if os.geteuid() != 0:
        return None
    if not sys.platform.startswith("linux"):
        pytest.skip("root may write everywhere")
    system = ctypes.CDLL(None)

    def drop() -> None:
        for capability in (OVERRULE_WRITING, OVERRULE_READING):
            system.prctl(DROP_FROM_BOUNDS, capability, 0, 0, 0)

    return drop


@pytest.mark.parametrize(
    ("closed", "mode", "arguments", "said"),
    [
        (".", 0o500, TO_RUN, ("out", "Permission denied", "give a folder of yours")),
        (
            ".",
            0o500,
            ("data", "import", "folder", "images"),
            ("manifest.csv", "Permission denied", "a folder of yours"),
        ),
        ("manifest.csv", 0o000, TO_CHECK, ("manifest.csv", "Permission denied")),
        ("study.toml", 0o000, TO_RUN, ("study.toml", "Permission denied")),
        ("images", 0o000, ("data", "import", "folder", "images"), ("images", "Permission denied")),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else str(value),
)
def test_a_file_or_folder_that_is_closed_to_us_is_named(cohort, bound_by_permissions, closed, mode, arguments, said):
    make_class_folders(cohort)
    before = files(cohort)
    usual = (cohort / closed).stat().st_mode
    (cohort / closed).chmod(mode)
    try:
        answer = in_a_process(cohort, *arguments, preexec=bound_by_permissions)
    finally:
        (cohort / closed).chmod(usual)
    require_refused(answer, *said)
    assert files(cohort) == before
    assert not (cohort / "out").exists()


def test_a_reader_who_leaves_and_a_full_standard_output_are_no_tracebacks():
    def write_to(target: int) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "sentinode.cli", "doctor", "--json"]
        return subprocess.run(command, stdout=target, stderr=subprocess.PIPE, text=True, check=False)

    read, write = os.pipe()
    os.close(read)
    gone = write_to(write)
    os.close(write)
    assert (gone.returncode, gone.stderr) == (1, "")
    if Path("/dev/full").exists():
        with Path("/dev/full").open("w") as device:
            full = write_to(device.fileno())
        assert full.returncode == 2
        assert "No space left on device" in full.stderr
        assert len(full.stderr.splitlines()) == 1


# --- interruptions and faults -------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform == "win32", reason="signals of process groups are POSIX")
@pytest.mark.parametrize("on", ["serial", "processes"])
def test_ctrl_c_in_the_middle_of_a_study_ends_it_with_130_and_it_goes_on_later(sentinode, cohort, on):
    write_plan(cohort, PLAN.replace("repeats = 2", "repeats = 200").replace("serial", on))
    command = [sys.executable, "-m", "sentinode.cli", *TO_RUN]
    study = subprocess.Popen(
        command, cwd=cohort, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    assert study.stderr.readline().startswith("1/200  majority, repeat 1: ")
    os.killpg(study.pid, signal.SIGINT)  # as the terminal does: to the study and to its trials
    out, err = study.communicate(timeout=60)
    assert study.returncode == 130
    assert out == ""
    [said] = [line for line in err.splitlines() if "majority, repeat" not in line]
    assert said.startswith("interrupted: ")
    assert [path for path in cohort.rglob("*") if "part" in path.name] == []
    trials = list((cohort / "out" / "trials").iterdir())
    assert all(len(list(trial.iterdir())) == 3 for trial in trials)
    write_plan(cohort, PLAN.replace("repeats = 2", f"repeats = {len(trials) + 1}"))
    later = sentinode(cohort, *TO_RUN, "--json")
    assert later.code == 0
    assert f"{len(trials)} of {len(trials) + 1} trials are stored already" in later.err
    assert set(trials) <= set((cohort / "out" / "trials").iterdir())


def test_ctrl_c_ends_any_command_with_130_and_one_line(sentinode, cohort, monkeypatch):
    def interrupt(*_arguments: object) -> None:
        raise KeyboardInterrupt

    before = files(cohort)
    monkeypatch.setattr(checking, "find_faults", interrupt)
    answer = sentinode(cohort, *TO_CHECK)
    assert (answer.code, answer.out) == (130, "")
    assert answer.err.startswith("interrupted: ")
    assert len(answer.err.splitlines()) == 1
    monkeypatch.undo()
    make_class_folders(cohort)
    monkeypatch.setattr(os, "fsync", interrupt)  # in the middle of writing the manifest
    assert sentinode(cohort, "data", "import", "folder", "images").code == 130
    assert {name: digest for name, digest in files(cohort).items() if "images" not in name} == before


def test_a_trial_that_fails_is_told_beside_a_table_that_a_script_can_read(sentinode, cohort, monkeypatch):
    real = runner.run_trial

    def fail(job) -> None:
        if job.trial.repeat == 1:
            raise ModelError("the loss is NaN in epoch 3; lower the learning rate")
        real(job)

    monkeypatch.setattr(runner, "run_trial", fail)
    answer = sentinode(cohort, *TO_RUN, "--json")
    assert answer.code == 1
    assert json.loads(answer.out)["complete"] is False
    assert "2/2  majority, repeat 2: failed: the loss is NaN in epoch 3; lower the learning rate" in answer.err
    assert "Traceback" not in answer.err


def test_the_traceback_is_shown_to_who_asks_for_it(sentinode, tmp_path):
    answer = sentinode(tmp_path, "--verbose", "data", "check", "absent.csv")
    assert answer.code == 2
    assert answer.err.startswith("Traceback")
    assert answer.err.splitlines()[-1].startswith("error: absent.csv: ")


def test_a_fault_of_our_own_is_admitted_in_two_lines_with_a_code_of_its_own(tmp_path):
    (tmp_path / "faulty.py").write_text(WITH_A_FAULT)

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(tmp_path / "faulty.py"), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    quiet, verbose = run("algorithm", "list"), run("--verbose", "algorithm", "list")
    assert (quiet.returncode, verbose.returncode) == (70, 70)
    first, second = quiet.stderr.splitlines()
    assert first.startswith("internal error (cli.py, line ")
    assert first.endswith("ZeroDivisionError: division by zero")
    assert "report it" in second
    assert verbose.stderr.startswith("Traceback")


# --- what is not installed, and how it looks ----------------------------------------------------------------


def test_without_torch_everything_light_works_and_what_needs_it_says_so(cohort):
    hidden = cohort / "hidden"
    hidden.mkdir()
    (hidden / "sitecustomize.py").write_text(WITHOUT_TORCH)
    environment = {"PYTHONPATH": str(hidden)}
    listed = in_a_process(cohort, "algorithm", "list", "--json", **environment)
    assert listed.code == 0
    assert "paper-cnn" in [one["name"] for one in json.loads(listed.out)]
    assert in_a_process(cohort, *TO_RUN, "--json", **environment).code == 0
    write_plan(cohort, PLAN.replace('"majority"', '"majority", "paper-cnn"'))
    before = files(cohort)
    refused = in_a_process(cohort, *TO_RUN, **environment)
    require_refused(refused, "the algorithm 'paper-cnn' needs the extra 'train'", 'pip install "sentinode[train]"')
    assert len(refused.err.splitlines()) == 1
    assert files(cohort) == before


@pytest.mark.skipif(sys.platform == "win32", reason="pseudo-terminals are POSIX")
def test_a_terminal_has_colour_unless_it_wants_none(cohort):
    truncate(cohort / "p0-0.png")
    colour = re.compile(rb"\x1b\[(?:\d+;)*[349]\d(?:;\d+)*m")
    for wish, expected in (({}, True), ({"NO_COLOR": "1"}, False)):
        code, seen = _in_a_terminal(cohort, **wish)
        assert code == 1
        assert b"p0-0.png" in seen
        assert (colour.search(seen) is not None) == expected


def _in_a_terminal(folder: Path, **environment: str) -> tuple[int, bytes]:
    import pty  # noqa: PLC0415 - POSIX only

    ours, theirs = pty.openpty()
    usual = {name: value for name, value in os.environ.items() if name not in {"NO_COLOR", "FORCE_COLOR"}}
    checked = subprocess.Popen(
        [sys.executable, "-m", "sentinode.cli", *TO_CHECK],
        cwd=folder,
        env={**usual, "TERM": "xterm-256color", **environment},
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    seen = b""
    with contextlib.suppress(OSError):  # how Linux says that the other end is closed
        while chunk := os.read(ours, 4096):
            seen += chunk
    os.close(ours)
    return checked.wait(timeout=60), seen
