"""Labels of versions: a YAML file that is read at the start and watched.

en-fr:
  stable: 3
  canary: {3: 90, 4: 10}  # a split by weight
  default: 3  # of requests that name no version
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, TypeAlias

import yaml

from service.generation import LABEL, VERSIONS
from service.telemetry import log_event

Split: TypeAlias = Mapping[int, float]
"""The weight of each version."""
Labels: TypeAlias = Mapping[str, Mapping[str, Split]]
"""By model and label."""

LARGEST_WEIGHT: Final = 1_000_000


class LabelsError(OSError):
    """The file cannot be read, or what is in it makes no sense; the message says where."""


class LabelsFile:
    """The file as it was last read without an error."""

    def __init__(self, path: Path, poll_s: float) -> None:
        self._path = path
        self._poll_s = poll_s
        self._read_stamp: object = None
        self.labels: Labels = {}
        self.error: str | None = None
        """What is wrong with the file as it is now; ``labels`` are those before."""

    async def read(self) -> None:
        """Read it. Raises LabelsError."""
        self._read_stamp, self.labels = await asyncio.to_thread(self._read)

    async def watch(self, changed: Callable[[], None]) -> None:
        """Read it whenever it has changed, until cancelled; ``changed`` is called when labels or ``error`` have.

        A file that is written in place is read once it stands still from one look to the next.
        """
        seen = self._read_stamp
        while True:
            await asyncio.sleep(self._poll_s)
            stamp = await asyncio.to_thread(self._stamp)
            if stamp == seen != self._read_stamp:
                await self._read_again(stamp, changed)
            seen = stamp

    async def _read_again(self, stamp: object, changed: Callable[[], None]) -> None:
        before = self.labels, self.error
        try:
            await self.read()
            self.error = None
        except LabelsError as error:
            self._read_stamp = stamp
            self.error = str(error)
        if (self.labels, self.error) != before:
            if self.error is None:
                log_event("labels read")
            else:
                log_event("labels not read, the old ones stay", logging.ERROR, reason=self.error)
            try:
                changed()
            except Exception as error:  # noqa: BLE001  whatever a listener does, the file is watched on
                log_event("labels not heeded everywhere", logging.ERROR, error=error)

    def _read(self) -> tuple[object, Labels]:
        stamp = self._stamp()
        try:
            return stamp, parse_labels(self._path.read_text("utf-8"))
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            raise LabelsError(f"labels in {self._path}: {reason}") from error

    def _stamp(self) -> object:
        """Differs when the file does: written in place, replaced, or another behind a symbolic link."""
        try:
            status = self._path.stat()
        except OSError as error:
            return error.errno
        return status.st_mtime_ns, status.st_size, status.st_ino, status.st_dev


class _Loader(yaml.SafeLoader):
    """Refuses a key that is there twice, of which YAML itself keeps the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        mapping = super().construct_mapping(node, deep)
        if len(mapping) < len(node.value):
            raise yaml.MarkedYAMLError(problem="a key is there twice", problem_mark=node.start_mark)
        return mapping


def parse_labels(text: str) -> Labels:
    """The labels in the text of a file.

    Raises:
        LabelsError: it is no YAML, or an entry is wrong.
    """
    try:
        raw = yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise LabelsError(f"{line}{error.problem}") from error
    except Exception as error:  # the loader lets errors of every kind out: of '!!int ""' an IndexError
        raise LabelsError(f"this is no YAML: {' '.join(str(error).split())}") from error
    # An empty document is what a file looks like that is about to be written.
    models = _mapping(raw, "the file", "models, each with its labels, or {} for none")
    for model in models:
        if not isinstance(model, str):
            raise LabelsError(f"{model!r} must be the name of a model: write it in quotes")
    return {model: _labels(model, labels) for model, labels in models.items()}


def _labels(model: str, raw: Any) -> dict[str, Split]:
    labels = _mapping(raw, model, "labels, each with a version")
    for label in labels:
        if not isinstance(label, str) or not LABEL.fullmatch(label):
            raise LabelsError(
                f"{model}: {label!r} must be a label: a letter or '_', then at most 63 letters, digits, '_', '.' or "
                "'-' (in quotes where YAML takes it for something else)"
            )
    return {label: _split(f"{model}: {label}", split) for label, split in labels.items()}


def _split(where: str, raw: Any) -> Split:
    split = {raw: 1} if type(raw) is int else _mapping(raw, where, "a version such as 3, or {3: 90, 4: 10}")
    for version, weight in split.items():
        if type(version) is not int or version not in VERSIONS:
            raise LabelsError(f"{where}: {version!r} must be the number of a version")
        if type(weight) not in (int, float) or not 0 <= weight <= LARGEST_WEIGHT:
            raise LabelsError(f"{where}: the weight of {version} must be a number from 0 to {LARGEST_WEIGHT}")
    if not any(split.values()):
        raise LabelsError(f"{where}: a version must have a weight above 0")
    return split


def _mapping(value: Any, where: str, what: str) -> dict[Any, Any]:
    if not isinstance(value, dict):
        raise LabelsError(f"{where} must have {what}")
    return value
