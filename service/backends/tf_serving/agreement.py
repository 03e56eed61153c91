"""What the replicas say of the versions, made into one: who may answer for which version.

Pure: no clock, no network.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final, NamedTuple, TypeAlias

from model_export.contract import Manifest
from service.backend import ModelVersion, VersionState

Key: TypeAlias = tuple[str, int]
"""Name and version of a model."""

DIFFERS: Final = "its manifest or tokenizer differs from that of a replica that serves"


@dataclass(frozen=True, slots=True)
class Artifact:
    """What an artifact said of itself when it had kept its certificate."""

    manifest: Manifest
    tokenizer: bytes

    def is_same_model(self, other: Artifact) -> bool:
        """Whether they promise the same answers; how fast they were somewhere may differ."""
        unmeasured = (replace(each.manifest, profile=None) for each in (self, other))
        return self.tokenizer == other.tokenizer and operator.eq(*unmeasured)


@dataclass(frozen=True, slots=True)
class Word:
    """What one replica says of one version. READY: its certificate was kept there; LOADING may still have it, to be
    compared with."""

    state: VersionState
    reason: str | None = None
    artifact: Artifact | None = None


class Agreement(NamedTuple):
    """What all replicas together make of it."""

    versions: tuple[ModelVersion, ...] = ()  # by name, newest first
    ready: Mapping[Key, tuple[str, ...]] = {}  # addresses of the replicas that may answer
    artifacts: Mapping[Key, Artifact] = {}  # equal on all of these


def agree(said: Mapping[str, Mapping[Key, Word]], before: Agreement) -> Agreement:
    """Put together what each replica says, by address.

    One version is one artifact: where replicas have unlike ones, that which has served until now goes on, and else that
    of the first.
    """
    versions, ready, artifacts = [], {}, {}
    for key in sorted({key for words in said.values() for key in words}, key=lambda key: (key[0], -key[1])):
        words = {address: of_replica[key] for address, of_replica in said.items() if key in of_replica}
        certified = [word.artifact for word in words.values() if word.state is VersionState.READY and word.artifact]
        if certified:
            known = before.artifacts.get(key)
            artifacts[key] = known if known is not None and known in certified else certified[0]
            words = {address: _held_to(word, artifacts[key]) for address, word in words.items()}
            ready[key] = tuple(address for address, word in words.items() if word.state is VersionState.READY)
        versions.append(_version(key, words, artifacts.get(key)))
    return Agreement(tuple(versions), ready, artifacts)


def _held_to(word: Word, artifact: Artifact) -> Word:
    if word.state is VersionState.READY and word.artifact and not word.artifact.is_same_model(artifact):
        return replace(word, state=VersionState.REFUSED, reason=DIFFERS)
    return word


def _version(key: Key, words: Mapping[str, Word], artifact: Artifact | None) -> ModelVersion:
    replicas = {
        address: f"{word.state.value}: {word.reason}" if word.reason else word.state.value
        for address, word in words.items()
    }
    if artifact is not None:
        return ModelVersion(*key, VersionState.READY, None, artifact.manifest, artifact.tokenizer, replicas)
    states = {word.state for word in words.values()}
    state = VersionState.LOADING if VersionState.LOADING in states else VersionState.REFUSED
    reasons = dict.fromkeys(word.reason for word in words.values() if word.state is state and word.reason)
    return ModelVersion(*key, state, "; ".join(reasons) or None, replicas=replicas)
