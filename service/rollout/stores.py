"""Where labels are written: a YAML file, or a Kubernetes ConfigMap through ``kubectl``."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Protocol

import yaml

from service.engine.labels import Labels, LabelsError, Split, parse_labels
from service.rollout.steps import RolloutError, for_canaries

KEY: Final = "labels.yaml"
CANARY_KEY: Final = "labels-canary.yaml"
"""Beside the other, where there are gateways that try canaries on all their requests."""
KUBECTL_S: Final = 60.0


class LabelsStore(Protocol):
    """Labels that can be read, and written if nobody else has since."""

    def read(self) -> Labels:
        """Raises LabelsError if they make no sense, OSError if they cannot be read."""

    def write(self, labels: Labels) -> None:
        """Raises RolloutError if others have changed them since ``read``, OSError if they cannot be written."""


class YamlFile:
    """A file that gateways watch, or that becomes a ConfigMap when applied. Replaced whole, never half written."""

    def __init__(self, path: Path) -> None:
        self._path = path.resolve()  # what a link leads to is replaced, not the link
        self._text = ""

    def __str__(self) -> str:
        return str(self._path)

    def read(self) -> Labels:
        """As in ``LabelsStore``."""
        self._text = self._path.read_text("utf-8")
        return _parsed(self._text, str(self._path))

    def write(self, labels: Labels) -> None:
        """As in ``LabelsStore``."""
        folder = os.open(self._path.parent, os.O_RDONLY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            if self._path.read_text("utf-8") != self._text:
                raise RolloutError(f"{self._path} was changed by others meanwhile: look at it, and try again")
            beside = self._path.with_name(CANARY_KEY)
            if self._path.name == KEY and beside.exists():
                _replace(beside, _written(for_canaries(labels), beside.read_text("utf-8")))
            _replace(self._path, _written(labels, self._text))
            os.fsync(folder)
        finally:
            os.close(folder)


class ConfigMap:
    """The key ``labels.yaml`` of a ConfigMap."""

    def __init__(self, name: str, namespace: str | None = None, context: str | None = None) -> None:
        self._name = name
        self._where = [
            f"--{option}={value}" for option, value in (("namespace", namespace), ("context", context)) if value
        ]
        self._object: dict[str, Any] = {}

    def __str__(self) -> str:
        return f"ConfigMap {self._name}"

    def read(self) -> Labels:
        """As in ``LabelsStore``."""
        said = _kubectl([*self._where, "get", "configmap", self._name, "--output=json"])
        try:
            self._object = json.loads(said)
            text = self._object["data"][KEY]
        except (ValueError, KeyError, TypeError) as error:
            raise RolloutError(f"{self} has no key {KEY}") from error
        return _parsed(text, str(self))

    def write(self, labels: Labels) -> None:
        """As in ``LabelsStore``: the version of the object that was read goes with it, so that Kubernetes refuses an
        older one."""
        data = self._object["data"]
        data[KEY] = _written(labels, data[KEY])
        if CANARY_KEY in data:
            data[CANARY_KEY] = _written(for_canaries(labels), data[CANARY_KEY])
        _kubectl([*self._where, "replace", "--filename=-"], json.dumps(self._object))


def _parsed(text: str, where: str) -> Labels:
    try:
        return parse_labels(text)
    except LabelsError as error:
        raise LabelsError(f"labels in {where}: {error}") from error


def _written(labels: Labels, before: str) -> str:
    """The text of a file that says so, below the comment that the one before began with."""
    comment = ""
    for line in before.splitlines(keepends=True):
        if not line.startswith("#"):
            break
        comment += line
    raw = {model: {label: _raw(split) for label, split in of_model.items()} for model, of_model in labels.items()}
    text = comment + yaml.safe_dump(raw, default_flow_style=None, allow_unicode=True, sort_keys=False, width=120)
    assert parse_labels(text) == _normal(labels), "what is written is read the same"
    return text


def _raw(split: Split) -> int | dict[int, float]:
    return next(iter(split)) if len(split) == 1 else dict(split)


def _normal(labels: Labels) -> Labels:
    """A version alone has whatever weight."""
    return {
        model: {label: {next(iter(split)): 1} if len(split) == 1 else split for label, split in of_model.items()}
        for model, of_model in labels.items()
    }


def _replace(path: Path, text: str) -> None:
    new = path.with_name(f".{path.name}.new")
    try:
        with new.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        with suppress(OSError):  # who may read it stays so where we may say that
            shutil.copymode(path, new)
        new.replace(path)
    except OSError:
        new.unlink(missing_ok=True)
        raise


def _kubectl(arguments: Sequence[str], given: str | None = None) -> str:
    command = shutil.which("kubectl")
    if command is None:
        raise RolloutError("a ConfigMap is changed through kubectl, and there is none on the PATH")
    try:
        ran = subprocess.run(
            [command, *arguments],
            input=given,
            capture_output=True,
            text=True,
            check=False,
            timeout=KUBECTL_S,
        )
    except subprocess.TimeoutExpired as error:
        raise RolloutError(f"kubectl {arguments[0]} did not end within {KUBECTL_S:.0f} s") from error
    if ran.returncode:
        raise RolloutError(f"kubectl: {' '.join(ran.stderr.split()) or f'ended with {ran.returncode}'}")
    return ran.stdout
