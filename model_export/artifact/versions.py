"""The folders ``<root>/<model>/<version>/``: versions are numbered, appear whole, and are never overwritten."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from model_export.config import UserError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class VersionError(UserError):
    """A model name or version number that cannot be written."""


def model_folder(root: Path, name: str, version: int | None = None) -> Path:
    """The folder of a model's versions, made when missing.

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
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def next_version(folder: Path) -> int:
    """One after the highest integer; TF Serving takes every integer for a version, leading zeros too."""
    return 1 + max((int(path.name) for path in folder.iterdir() if path.name.isdecimal()), default=0)


@contextmanager
def staging_folder(folder: Path) -> Iterator[Path]:
    """A folder on the same file system that no server takes for a version; gone afterwards unless published."""
    staging = Path(tempfile.mkdtemp(prefix=".exporting-", dir=folder))
    staging.chmod(0o755)  # servers run as other users, and mkdtemp makes it private
    try:
        yield staging
    finally:
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
