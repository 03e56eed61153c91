"""What a folder of models is seen to hold."""

import logging
import os
import shutil

import pytest

from service.backends.model_folders import ModelFolders, fingerprint
from service.errors import BackendUnavailable


def _versions(root):
    return {name: sorted(versions) for name, versions in ModelFolders(root).look().items()}


def test_folders_that_are_no_versions_are_ignored(tmp_path):
    for folder in ("tiny/1", "tiny/12", "tiny/.8.tmp", "tiny/08", "tiny/٣", "notes/today", ".cache/1x", "empty"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "tiny" / "7").touch()
    (tmp_path / "3").touch()
    (tmp_path / "linked").symlink_to(tmp_path / "tiny")
    assert _versions(tmp_path) == {"linked": [1, 12], "tiny": [1, 12]}


def test_numbers_that_no_request_can_name_are_no_versions_and_warned_of_once(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("malgil"), "propagate", True)
    for number in (0, 1, 2**63 - 1, 2**63):
        (tmp_path / "tiny" / str(number)).mkdir(parents=True)
    folders = ModelFolders(tmp_path)
    assert set(folders.look()["tiny"]) == {2**63 - 1, 1}
    folders.look()
    assert {record.levelname for record in caplog.records} == {"WARNING"}
    assert sorted(record.fields["folder"] for record in caplog.records) == ["0", str(2**63)]


@pytest.mark.parametrize("root", ["missing", "file"])
def test_a_root_that_cannot_be_read_is_told(tmp_path, root):
    (tmp_path / "file").touch()
    with pytest.raises(BackendUnavailable, match=f"{root} cannot be read"):
        ModelFolders(tmp_path / root).look()


def test_what_a_file_system_has_at_its_root_is_no_model(tmp_path):
    (tmp_path / "tiny" / "1").mkdir(parents=True)
    (tmp_path / "lost+found" / "1").mkdir(parents=True)  # the number stands for that it may not be read
    assert _versions(tmp_path) == {"tiny": [1]}


def test_a_name_that_is_no_text_is_no_model_and_warned_of_once(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("malgil"), "propagate", True)
    os.makedirs(os.fsencode(tmp_path) + b"/\xff/1")
    folders = ModelFolders(tmp_path)
    assert folders.look() == folders.look() == {}
    (record,) = caplog.records
    assert record.fields["folder"] == ascii("\udcff")


def test_the_folder_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    (tmp_path / "tiny" / "1").mkdir(parents=True)
    scandir = os.scandir

    def locked(path):
        if os.fspath(path) == os.fspath(tmp_path / "tiny"):
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", locked)
    with pytest.raises(BackendUnavailable, match="/tiny cannot be read: Permission denied"):
        ModelFolders(tmp_path).look()


@pytest.fixture
def version(tmp_path):
    for name in ("saved_model.pb", "variables/variables.index", "assets/manifest.json", "assets.extra/warmup"):
        path = tmp_path / "1" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("content")
    return tmp_path / "1"


@pytest.mark.parametrize("name", ["saved_model.pb", "variables/variables.index", "assets/manifest.json"])
def test_every_file_of_a_version_counts(version, name):
    before, path = fingerprint(version), version / name
    assert fingerprint(version) == before
    path.write_text("contents")
    longer = fingerprint(version)
    path.write_text("CONTENTS")
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))
    touched = fingerprint(version)
    path.unlink()
    assert len({before, longer, touched, fingerprint(version)}) == 4


def test_what_does_not_make_the_model_does_not_count(version):
    before = fingerprint(version)
    (version / "assets.extra" / "warmup").write_text("other requests")
    shutil.copytree(version, version.parent / "2")
    assert fingerprint(version) == before == fingerprint(version.parent / "2")


def test_a_folder_half_removed_has_a_fingerprint_too(version):
    shutil.rmtree(version / "variables")
    (version / "variables").touch()
    fingerprint(version)
    shutil.rmtree(version)
    assert fingerprint(version) == frozenset()
