"""Ids under a laboratory's salt: told by those who have it, by nobody else; contents are told everywhere."""

import stat

import pytest

from sentinode.errors import ExportError, ModelError
from sentinode.models.identities import (
    NO_SALT,
    Salt,
    Seen,
    content_digest,
    find_salt,
    laboratory_salt,
    salt_file,
)

HERE, THERE = Salt("the salt of this laboratory"), Salt("the salt of another one")


@pytest.fixture
def config(tmp_path, monkeypatch):
    """An empty folder of settings."""
    monkeypatch.setenv("SENTINODE_CONFIG", str(tmp_path / "config"))
    monkeypatch.delenv("SENTINODE_SALT", raising=False)
    return tmp_path / "config"


def seen(salt, patients=("P1", "P2", ""), slides=("S1",), contents=("fingerprint",)):
    return Seen.under(salt, patients, slides, contents, ["pixels"])


def test_a_salt_is_made_once_and_only_its_owner_reads_it(config):
    assert find_salt() is None
    made = laboratory_salt()
    assert salt_file() == config / "salt"
    assert stat.S_IMODE(salt_file().stat().st_mode) == 0o600
    assert len(made.secret) == 64
    assert laboratory_salt().secret == find_salt().secret == made.secret
    assert made.secret not in repr(made)


def test_a_link_that_leads_nowhere_is_named_and_nothing_is_left_half_made(config):
    config.mkdir()
    (config / "salt").symlink_to(config / "gone")
    with pytest.raises(ModelError, match="is a link that leads nowhere"):
        laboratory_salt()
    assert [path.name for path in config.iterdir()] == ["salt"]


@pytest.mark.usefixtures("config")
def test_a_line_end_of_the_variable_is_no_part_of_the_salt(monkeypatch):
    monkeypatch.setenv("SENTINODE_SALT", "0123456789abcdef\n")
    assert find_salt() == Salt("0123456789abcdef")


@pytest.mark.usefixtures("config")
def test_the_variable_goes_before_the_file(monkeypatch):
    laboratory_salt()
    monkeypatch.setenv("SENTINODE_SALT", "0123456789abcdef")
    assert laboratory_salt().secret == "0123456789abcdef"  # noqa: S105 - of a test


def test_an_account_without_a_home_has_none_and_is_told_what_to_set(monkeypatch):
    def homeless():
        raise RuntimeError("Could not determine home directory.")

    for name in ("SENTINODE_SALT", "SENTINODE_CONFIG", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pathlib.Path.home", homeless)
    assert find_salt() is None
    with pytest.raises(ModelError, match=r"no home to keep the salt .* set SENTINODE_SALT or SENTINODE_CONFIG"):
        laboratory_salt()


def test_a_salt_that_can_be_tried_or_not_be_read_is_refused(config, monkeypatch):
    monkeypatch.setenv("SENTINODE_SALT", "short")
    with pytest.raises(ModelError, match="SENTINODE_SALT: a salt has 16 characters or more"):
        laboratory_salt()
    monkeypatch.delenv("SENTINODE_SALT")
    config.mkdir()
    (config / "salt").write_bytes(b"\xff\xfe\xff" * 20)
    with pytest.raises(ModelError, match="salt of the laboratory cannot be read"):
        find_salt()
    (config / "salt").unlink()
    config.rmdir()
    config.write_text("a file where the folder should be")
    with pytest.raises((ExportError, ModelError), match=r"set SENTINODE_SALT|cannot be read"):
        laboratory_salt()


@pytest.mark.usefixtures("config")
def test_ids_are_told_under_their_salt_and_contents_everywhere(monkeypatch):
    written = seen(HERE).to_json()
    assert "P1" not in str(written)
    assert HERE.secret not in str(written)
    monkeypatch.setenv("SENTINODE_SALT", HERE.secret)
    read = Seen.from_json(written)
    assert (read.has_patient("P1"), read.has_patient("P3"), read.has_patient("")) == (True, False, False)
    assert (read.has_slide("S1"), read.has_slide("P1"), read.has_content("fingerprint")) == (True, False, True)
    assert read.knows_ids
    monkeypatch.setenv("SENTINODE_SALT", THERE.secret)
    read = Seen.from_json(written)
    assert (read.has_patient("P1"), read.has_slide("S1"), read.has_content("fingerprint")) == (False, False, True)
    assert not read.knows_ids
    monkeypatch.delenv("SENTINODE_SALT")
    assert not Seen.from_json(written).knows_ids


@pytest.mark.usefixtures("config")
def test_two_laboratories_may_have_seen_something_for_one_model(monkeypatch):
    both = Seen.from_json(seen(HERE).and_also(seen(THERE, ["P9"], [], ["other"])).to_json())
    assert sorted(len(one.patients) for one in both.ids.values()) == [1, 2]
    assert both.has_content("fingerprint")
    assert both.has_content("other")
    monkeypatch.setenv("SENTINODE_SALT", THERE.secret)
    here = Seen.from_json(both.to_json())
    assert here.has_patient("P9")
    assert not here.has_patient("P1")
    assert not here.knows_ids


@pytest.mark.usefixtures("config")
def test_what_an_older_sentinode_wrote_is_still_told():
    old = {
        "patients": [NO_SALT.of_patient("P1")],
        "slides": [NO_SALT.of_slide("S1"), content_digest("fingerprint")],
        "images": [],
    }
    read = Seen.from_json(old)
    assert read.has_patient("P1")
    assert read.has_slide("S1")
    assert read.has_content("fingerprint")
    assert read.knows_ids
