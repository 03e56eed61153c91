"""Version folders: numbered, whole or absent, never overwritten."""

from __future__ import annotations

import errno
import fcntl
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from model_export.artifact.versions import VersionError, model_folder, next_version, publish, staging_folder


def integers(folder: Path) -> list[str]:
    """What TF Serving takes for versions."""
    return sorted(path.name for path in folder.iterdir() if path.name.isdecimal())


def test_the_first_version_is_1(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "models", "en-fr")
    assert folder == tmp_path / "models" / "en-fr"
    with staging_folder(folder):
        assert next_version(folder) == 1


def test_the_next_version_follows_the_highest_integer(tmp_path: Path) -> None:
    for name in ("2", "007", "latest", ".exporting-9"):
        (tmp_path / name).mkdir()
    assert next_version(tmp_path) == 8


@pytest.mark.parametrize("name", ["", ".hidden", "a/b", "..", "has space", "-x"])
def test_a_name_that_is_no_folder_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(VersionError, match="cannot be a model's name: use letters, digits"):
        model_folder(tmp_path, name)


def test_versions_begin_at_1(tmp_path: Path) -> None:
    with pytest.raises(VersionError, match="version 0 cannot be written: versions begin at 1"):
        model_folder(tmp_path, "m", 0)


def test_an_existing_version_is_refused(tmp_path: Path) -> None:
    (tmp_path / "m" / "3").mkdir(parents=True)
    with pytest.raises(VersionError, match="exists: versions are never overwritten"):
        model_folder(tmp_path, "m", 3)
    assert model_folder(tmp_path, "m", 4) == tmp_path / "m"


def test_a_staging_folder_is_no_version_and_is_published_whole(tmp_path: Path) -> None:
    with staging_folder(tmp_path) as staging:
        assert staging.parent == tmp_path
        assert integers(tmp_path) == []
        (staging / "saved_model.pb").write_bytes(b"graph")
        assert publish(staging, tmp_path) == tmp_path / "1"
    assert [path.name for path in tmp_path.iterdir()] == ["1"]
    assert (tmp_path / "1" / "saved_model.pb").read_bytes() == b"graph"
    assert (tmp_path / "1").stat().st_mode & 0o777 == 0o755


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    def interrupted() -> None:
        with staging_folder(tmp_path) as staging:
            (staging / "half").write_text("written")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []


def test_a_failed_first_export_leaves_no_folder_of_the_model(tmp_path: Path) -> None:
    def failing() -> None:
        with staging_folder(tmp_path / "m"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        failing()
    assert list(tmp_path.iterdir()) == []


ABANDON = """
import sys, time
from pathlib import Path
from model_export.artifact.versions import staging_folder

with staging_folder(Path(sys.argv[1])) as staging:
    (staging / "half").write_text("written")
    print(staging.name, flush=True)
    time.sleep(600)
"""


def test_only_what_a_killed_export_left_is_removed(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", ABANDON, str(tmp_path)], stdout=subprocess.PIPE, text=True) as export:
        assert export.stdout is not None
        theirs = tmp_path / export.stdout.readline().strip()

        with staging_folder(tmp_path):
            assert (theirs / "half").read_text() == "written"  # its process lives
        export.kill()
        export.wait()
        assert theirs.is_dir()

        with staging_folder(tmp_path) as mine:
            assert list(tmp_path.iterdir()) == [mine]
            with staging_folder(tmp_path) as another:
                assert sorted(tmp_path.iterdir()) == sorted([mine, another])


def test_nothing_is_removed_where_folders_cannot_be_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    (tmp_path / ".exporting-theirs").mkdir()
    monkeypatch.setattr(fcntl, "flock", unsupported)

    with staging_folder(tmp_path) as mine:
        assert sorted(path.name for path in tmp_path.iterdir()) == sorted([".exporting-theirs", mine.name])


def test_a_version_that_appears_meanwhile_is_kept(tmp_path: Path) -> None:
    with staging_folder(tmp_path) as mine:
        (tmp_path / "5").mkdir()
        (tmp_path / "5" / "theirs").write_text("kept")
        with pytest.raises(VersionError, match="was written by another export meanwhile"):
            publish(mine, tmp_path, 5)
    assert [path.name for path in tmp_path.iterdir()] == ["5"]
    assert (tmp_path / "5" / "theirs").read_text() == "kept"


def test_exports_at_once_get_versions_of_their_own(tmp_path: Path) -> None:
    together = Barrier(8)

    def export(number: int) -> Path:
        with staging_folder(tmp_path) as staging:
            (staging / "who").write_text(str(number))
            together.wait()
            return publish(staging, tmp_path)

    with ThreadPoolExecutor(8) as pool:
        published = list(pool.map(export, range(8)))

    assert integers(tmp_path) == [str(version) for version in range(1, 9)]
    assert [(path / "who").read_text() for path in published] == [str(number) for number in range(8)]
