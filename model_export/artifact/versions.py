"""The folders ``<root>/<model>/<version>/``: versions are numbered, appear whole, and are never overwritten."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from model_export.config import UserError

_STAGING = ".exporting-"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class VersionError(UserError):
    """A model name or version number that cannot be written."""


def model_folder(root: Path, name: str, version: int | None = None) -> Path:
    """The folder of a model's versions, which is not there before the first.

    Raises:
        VersionError: the name cannot be a folder's, or ``version`` is below 1 or there already.
    """
    if not _NAME.fullmatch(name):
        raise VersionError(f"{name!r} cannot be a model's name: use letters, digits, '.', '_' and '-'")
    folder = root / name
    if version is not None and version < 1:
        raise VersionError(f"version {version} cannot be written: versions begin at 1")
    if version is not None and (folder / str(version)).exists():
        raise VersionError(f"{folder / str(version)} exists: versions are never overwritten")
    return folder


def next_version(folder: Path) -> int:
    """One after the highest integer; TF Serving takes every integer for a version, leading zeros too."""
    return 1 + max((int(path.name) for path in folder.iterdir() if path.name.isdecimal()), default=0)


@contextmanager
def staging_folder(folder: Path) -> Iterator[Path]:
    """A folder in ``folder`` that no server takes for a version; gone afterwards unless published.

    ``folder`` is made when missing, and gone as well if nothing comes of it. What exports that were killed have left
    there is removed: who writes a staging folder holds its lock, which the system frees when the process ends.
    """
    is_new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with ExitStack() as stack:
            with _lock(folder, fcntl.LOCK_EX):  # so that nobody finds a staging folder that is not locked yet
                _remove_abandoned(folder)
                staging = Path(tempfile.mkdtemp(prefix=_STAGING, dir=folder))
                stack.enter_context(_lock(staging, fcntl.LOCK_EX))
            staging.chmod(0o755)  # servers run as other users, and mkdtemp makes it private
            try:
                yield staging
            finally:
                shutil.rmtree(staging, ignore_errors=True)
    finally:
        if is_new:
            with suppress(OSError):  # it is not empty: something was published
                folder.rmdir()


@contextmanager
def _lock(folder: Path, operation: int) -> Iterator[bool]:
    """While entered, hold the lock of ``folder``; false where another holds it, or the file system has no locks."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, operation)
        except OSError:
            yield False
        else:
            yield True
    finally:
        os.close(descriptor)


def _remove_abandoned(folder: Path) -> None:
    for staging in folder.glob(f"{_STAGING}*"):
        with suppress(OSError), _lock(staging, fcntl.LOCK_EX | fcntl.LOCK_NB) as is_free:  # it may be another user's
            if is_free:
                shutil.rmtree(staging, ignore_errors=True)


def publish(staging: Path, folder: Path, version: int | None = None) -> Path:
    """Rename into place, durably. Whoever comes second to a free version takes the next one.

    Raises:
        VersionError: another process has written ``version`` meanwhile.
    """
    _flush_tree(staging)
    while True:
        target = folder / str(next_version(folder) if version is None else version)
        try:
            staging.rename(target)  # fails on a folder that is not empty
        except OSError as error:
            if not target.exists():
                raise
            if version is not None:
                raise VersionError(f"{target} was written by another export meanwhile") from error
            continue
        _flush(folder)
        return target


def _flush_tree(folder: Path) -> None:
    """Every file and folder below, to the disk."""
    for path, _, files in os.walk(folder):
        for name in files:
            _flush(Path(path) / name)
        _flush(Path(path))


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
