"""Which version of a model answers a request: the number, the label or nothing that it names."""

from __future__ import annotations

import logging
import random
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Final

from service.backend import Backend, ModelVersion, VersionState
from service.engine.labels import Labels, Split
from service.errors import BackendUnavailable, InvalidRequest, ModelNotFound, ServiceError
from service.generation import VersionChoice
from service.telemetry import log_event

DEFAULT: Final = "default"
"""The label that a request has in mind which names no version; without it, the newest READY one answers."""


@dataclass(frozen=True, slots=True)
class LabelStatus:
    """What a label stands for now; one whose file says something that cannot be is ``refused`` and keeps what it had.

    The versions in force are READY; there are none where no version that the label ever stood for is.
    """

    label: str
    in_force: Split
    wanted: Split
    refused: str | None  # why ``wanted`` is not in force


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """One model: ``default`` answers requests that name no version, the heaviest where several may."""

    name: str
    default: int | None
    versions: tuple[ModelVersion, ...]  # newest first
    labels: tuple[LabelStatus, ...]


class Versions:
    """The versions of a backend, with labels. A label moves when all that it is to stand for is READY, and not before.

    Otherwise it keeps what it stood for, as far as that is READY; a label that never stood for anything since the start
    takes of its new versions those that are.

    Once every model has answered, one that comes and never did is nobody's concern: it changes nothing for the others.
    """

    def __init__(self, backend: Backend, chance: random.Random) -> None:
        self._backend = backend
        self._chance = chance
        self._seen: Sequence[ModelVersion] = ()  # the snapshot that ``_by_name`` is of
        self._by_name: dict[str, dict[int, ModelVersion]] = {}
        self._wanted: Labels = {}
        self._applied: dict[tuple[str, str], Split] = {}  # what a model's label stood for last, all of it READY then
        self._told: dict[tuple[str, str], LabelStatus] = {}
        self._on_newest: set[str] = set()  # models whose newest version was what requests that name none got last
        self._answered: set[str] = set()  # models that ever had a version for those requests
        self._all_answered = False  # every model, once

    def set_labels(self, labels: Labels) -> None:
        """Let these be what is wanted from now on, once ``refresh`` is called."""
        self._wanted = labels
        named = {(model, label) for model, of_model in labels.items() for label in of_model}
        self._applied = {key: split for key, split in self._applied.items() if key in named}

    def refresh(self) -> None:
        """Let labels move where they can; to be called when versions or labels have changed."""
        found = self._found()
        for model, labels in self._wanted.items():
            versions = found.get(model, {})
            for label, wanted in labels.items():
                if _why_not(wanted, versions) is None:
                    self._applied[model, label] = wanted
        self._remember(found)
        told = {
            (model, each.label): each for model in self._wanted for each in self._labels(model, found.get(model, {}))
        }
        for (model, label), status in told.items():
            if status != self._told.get((model, label)):
                _log(model, status)
        self._told = told

    def named(self) -> dict[str, frozenset[int]]:
        """The versions of each model that labels stand for or are to stand for."""
        named: dict[str, frozenset[int]] = {}
        for model, labels in self._wanted.items():
            splits = [*labels.values(), *(self._applied.get((model, label), {}) for label in labels)]
            named[model] = frozenset(version for split in splits for version in split)
        return named

    def status(self) -> tuple[ModelStatus, ...]:
        """Every model, by name."""
        return tuple(
            ModelStatus(
                name,
                max(choices, key=choices.__getitem__) if (choices := self._choices(name, None, versions)) else None,
                tuple(versions.values()),
                self._labels(name, versions),
            )
            for name, versions in self._found().items()
        )

    def all_answer(self) -> bool:
        """Whether there are models, and each has a version for requests that name none.

        Once that was so, a new model counts only from when it has one: while it loads, or if it is refused, the others
        answer as before.
        """
        return bool(self._counted(self._found())) and not self.waiting()

    def waiting(self) -> tuple[str, ...]:
        """The models that keep ``all_answer`` from being true."""
        found = self._found()
        return tuple(name for name in self._counted(found) if not self._choices(name, None, found[name]))

    def ready(self, model: str, version: int) -> ModelVersion | None:
        """That version, if it is READY."""
        found = self._found().get(model, {}).get(version)
        return found if found is not None and found.state is VersionState.READY else None

    def resolve(self, model: str | None, version: VersionChoice, gone: Collection[int] = ()) -> ModelVersion:
        """The READY version that answers a request; where a label stands for several, each has its chance.

        Args:
            model: a name. None: the only one, as ``all_answer`` counts them.
            version: what the request names.
            gone: versions that are there no more, whatever the backend says, unless named by number.

        Raises:
            InvalidRequest: no model is named and several are served.
            ModelNotFound: there is no such model, version or label, or the version was refused.
            BackendUnavailable: it is still loading; nothing that the label stands for is ready.
        """
        found = self._found()
        if not found:
            raise BackendUnavailable("no model is served yet")
        if model is None:
            counted = self._counted(found) or list(found)
            if len(counted) > 1:
                raise InvalidRequest(f"'model' is missing: name one of {', '.join(found)}")
            (model,) = counted
        if model not in found:
            raise ModelNotFound(f"there is no model {model!r}: name one of {', '.join(found)}")
        versions: Mapping[int, ModelVersion] = found[model]
        if gone:
            versions = {number: each for number, each in versions.items() if version == number or number not in gone}
        if isinstance(version, int):
            if version not in versions:
                there_are = ", ".join(map(str, versions))
                raise ModelNotFound(f"model {model!r} has no version {version}, but {there_are}")
            choices: Split = {version: 1} if _is(VersionState.READY, version, versions) else {}
        else:
            choices = self._choices(model, version, versions)
        if not choices:
            raise self._nothing_ready(model, version, versions)
        (number,) = choices if len(choices) == 1 else self._chance.choices(list(choices), list(choices.values()))
        return versions[number]

    def _found(self) -> dict[str, dict[int, ModelVersion]]:
        """By name and number, newest first."""
        versions = self._backend.versions()
        if versions is not self._seen:
            self._seen = versions
            self._by_name = {
                name: {each.version: each for each in of_name} for name, of_name in groupby(versions, key=_name)
            }
        return self._by_name

    def _choices(self, model: str, label: str | None, versions: Mapping[int, ModelVersion]) -> Split:
        """The READY versions that may answer, with their weights."""
        labels = self._wanted.get(model, {})
        if label is not None and label not in labels:
            there_are = f"but {', '.join(labels)}" if labels else "and no other: name a version by its number"
            raise ModelNotFound(f"model {model!r} has no label {label!r}, {there_are}")
        in_force = self._in_force(model, label or DEFAULT, versions) if labels else {}
        if in_force or label not in (None, DEFAULT):
            return in_force
        wanted = [number for number, weight in labels.get(DEFAULT, {}).items() if weight]
        # What the newest one answers it goes on to answer; else one that nobody chose could take all requests at once.
        if model not in self._on_newest and any(_is(VersionState.LOADING, number, versions) for number in wanted):
            return {}
        newest = next((number for number in versions if _is(VersionState.READY, number, versions)), None)
        return {} if newest is None else {newest: 1}

    def _in_force(self, model: str, label: str, versions: Mapping[int, ModelVersion]) -> Split:
        """What is READY of what the label stood for last, or else of what it is to stand for."""
        for split in (self._applied.get((model, label), {}), self._wanted.get(model, {}).get(label, {})):
            ready = {
                number: weight
                for number, weight in split.items()
                if weight and _is(VersionState.READY, number, versions)
            }
            if ready:
                return ready
        return {}

    def _counted(self, found: Mapping[str, Mapping[int, ModelVersion]]) -> list[str]:
        """The models that the server as a whole is judged by."""
        return [name for name in found if name in self._answered or not self._all_answered]

    def _remember(self, found: Mapping[str, Mapping[int, ModelVersion]]) -> None:
        self._on_newest &= found.keys()
        self._answered &= found.keys()
        for name, versions in found.items():
            if self._choices(name, None, versions):
                self._answered.add(name)
                if self._in_force(name, DEFAULT, versions):
                    self._on_newest.discard(name)
                else:
                    self._on_newest.add(name)
        self._all_answered = self._all_answered or (bool(found) and self._answered == found.keys())

    def _labels(self, model: str, versions: Mapping[int, ModelVersion]) -> tuple[LabelStatus, ...]:
        return tuple(
            LabelStatus(label, self._choices(model, label, versions), wanted, _why_not(wanted, versions))
            for label, wanted in self._wanted.get(model, {}).items()
        )

    def _nothing_ready(self, model: str, version: VersionChoice, versions: Mapping[int, ModelVersion]) -> ServiceError:
        if isinstance(version, str):
            reason = _why_not(self._wanted[model][version], versions)
            return BackendUnavailable(f"label {version!r} of model {model!r} has no version that is ready: {reason}")
        candidates = list(versions.values()) if version is None else [versions[version]]
        states = "; ".join(map(_state, candidates))
        if candidates and all(each.state is VersionState.REFUSED for each in candidates):
            ready = [str(number) for number in versions if _is(VersionState.READY, number, versions)]
            if ready:
                return ModelNotFound(f"model {model!r}: {states}; ask for version {' or '.join(ready)}")
            return ModelNotFound(f"model {model!r} has no version that could answer: {states}")
        return BackendUnavailable(f"model {model!r} is not ready: {states or 'its version is gone'}")


def _why_not(wanted: Split, versions: Mapping[int, ModelVersion]) -> str | None:
    """Why a label cannot stand for all of ``wanted``, None if it can."""
    for number, weight in wanted.items():
        if weight and not _is(VersionState.READY, number, versions):
            return _state(versions[number]) if number in versions else f"there is no version {number}"
    return None


def _state(version: ModelVersion) -> str:
    """Why a version does not answer."""
    reason = f" ({version.reason})" if version.reason else ""
    return f"version {version.version} is {version.state.value}{reason}"


def _log(model: str, status: LabelStatus) -> None:
    in_force = dict(status.in_force)
    if status.refused is None:
        log_event("label in force", model_name=model, label=status.label, versions=in_force)
    else:
        log_event(
            "label refused",
            logging.WARNING,
            model_name=model,
            label=status.label,
            versions=in_force,
            wanted=dict(status.wanted),
            reason=status.refused,
        )


def _name(version: ModelVersion) -> str:
    return version.name


def _is(state: VersionState, number: int, versions: Mapping[int, ModelVersion]) -> bool:
    return number in versions and versions[number].state is state
