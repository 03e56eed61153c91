"""What lies in a folder of models, ``<root>/<model>/<version>/``, as far as it can be told without loading anything."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from model_export.contract import ASSETS_FOLDER
from service.errors import BackendUnavailable
from service.generation import VERSIONS
from service.telemetry import log_event

Fingerprint = frozenset[tuple[str, int, int]]
"""Name, size and time of the last change (ns) of every file that makes up a version. Not the inode: network volumes
make them up anew."""
Folders = Mapping[str, Mapping[int, Fingerprint]]
"""The versions of every model that has one."""

_SUBFOLDERS: Final = ("variables", ASSETS_FOLDER)
_OF_THE_VOLUME: Final = "lost+found"
"""A file system's own folder at its root, which none but root may read."""


class ModelFolders:
    """Looks at one root, again and again."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._warned: set[Path] = set()

    def look(self) -> Folders:
        """What there is now. Folders of other names than a number are ignored, those of a number that no version has
        with a warning, once; so are models whose names no request can hold.

        Raises:
            BackendUnavailable: it, or the folder of a model, cannot be read.
        """
        try:
            found = {model.name: self._versions_in(model) for model in self._models()}
        except OSError as error:
            where = error.filename or self._root
            raise BackendUnavailable(f"the models folder {where} cannot be read: {error.strerror}") from error
        return {name: versions for name, versions in sorted(found.items()) if versions}

    def _models(self) -> Iterator[Path]:
        for folder in _folders_in(self._root):
            try:
                folder.name.encode()
            except UnicodeEncodeError:
                self._warn(folder, ascii(folder.name), None, "names of models are in UTF-8")
                continue
            if folder.name != _OF_THE_VOLUME:
                yield folder

    def _versions_in(self, model: Path) -> dict[int, Fingerprint]:
        versions = {}
        try:
            folders = list(_folders_in(model))
        except FileNotFoundError:  # removed just now
            return {}
        for folder in folders:
            name = folder.name
            if not (name.isascii() and name.isdigit() and str(int(name)) == name):
                continue
            if int(name) in VERSIONS:
                versions[int(name)] = fingerprint(folder)
            else:
                self._warn(folder, name, model.name, f"versions are numbered from {VERSIONS[0]} to {VERSIONS[-1]}")
        return versions

    def _warn(self, path: Path, folder: str, model: str | None, reason: str) -> None:
        if path not in self._warned:
            self._warned.add(path)
            log_event("folder ignored", logging.WARNING, model_name=model, folder=folder, reason=reason)


def fingerprint(version: Path) -> Fingerprint:
    """What tells the content of a version's folder from any other that was there before or will be.

    Raises:
        OSError: it cannot be read.
    """
    return frozenset(_files_of(version))


def _files_of(version: Path) -> Iterator[tuple[str, int, int]]:
    for folder in (version, *(version / name for name in _SUBFOLDERS)):
        try:
            for entry in os.scandir(folder):
                if not entry.is_dir():
                    found = entry.stat()
                    yield os.path.relpath(entry.path, version), found.st_size, found.st_mtime_ns
        except (FileNotFoundError, NotADirectoryError):  # of a half-copied or half-removed version
            continue


def _folders_in(folder: Path) -> Iterator[Path]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir():
                yield folder / entry.name
