"""The doctor names what is missing and what to do."""

import importlib
from importlib import metadata
from pathlib import Path

import psutil

from sentinode.workflows import doctor


def found(findings, what):
    return next(finding for finding in findings if finding.what == what)


def test_without_torch_the_doctor_says_what_to_install(monkeypatch):
    def absent(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(doctor.metadata, "version", absent)
    finding = found(doctor.examine(Path.cwd()), "Extra 'train'")
    assert finding.state == "missing"
    assert 'pip install "sentinode[train]"' in finding.advice


def test_the_salt_is_told_by_its_place_and_mark_and_never_read_out(monkeypatch, tmp_path):
    monkeypatch.setenv("SENTINODE_CONFIG", str(tmp_path))
    assert found(doctor.examine(Path.cwd()), "Salt of the laboratory").found.startswith("none yet")
    secret = "a secret of the laboratory"  # noqa: S105 - of a test
    monkeypatch.setenv("SENTINODE_SALT", secret)
    told = found(doctor.examine(Path.cwd()), "Salt of the laboratory")
    assert told.state == "ok"
    assert "SENTINODE_SALT" in told.found
    assert secret not in told.found
    monkeypatch.setenv("SENTINODE_SALT", "short")
    assert found(doctor.examine(Path.cwd()), "Salt of the laboratory").state == "missing"


def test_a_broken_openslide_is_told_and_does_not_stop_the_rest(monkeypatch):
    real = importlib.import_module

    def broken(name, *rest):
        if name == "openslide":
            raise OSError("libopenslide.so.1: cannot open shared object file")
        return real(name, *rest)

    monkeypatch.setattr(doctor, "import_module", broken)
    findings = doctor.examine(Path.cwd())
    assert found(findings, "OpenSlide").state == "missing"
    assert "libopenslide" in found(findings, "OpenSlide").found
    assert findings[-1].what == "Extra 'train'"


def test_little_memory_is_a_note_with_advice(monkeypatch):
    memory = psutil.virtual_memory()._replace(available=doctor.GIB)
    monkeypatch.setattr(doctor.psutil, "virtual_memory", lambda: memory)
    finding = found(doctor.examine(Path.cwd()), "Memory")
    assert finding.state == "note"
    assert "1.0 GiB free" in finding.found


def test_the_disk_of_a_folder_that_is_still_to_be_made_is_looked_at(tmp_path):
    assert str(tmp_path) in found(doctor.examine(tmp_path / "new" / "study"), "Disk").found


def test_a_torch_that_is_there_and_cannot_be_loaded_is_missing(monkeypatch, tmp_path):
    (tmp_path / "torch.py").write_text("raise ImportError('libc10.so: cannot open shared object file')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    finding = found(doctor.examine(Path.cwd()), "Extra 'train'")
    assert finding.state == "missing"
    assert "libc10.so" in finding.found
