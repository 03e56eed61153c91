"""The steps of a rollout, each from the labels of a model to others.

Four labels tell where a rollout is: ``stable`` is what everybody trusts, ``canary`` what is being tried (where nothing
is, the same), ``default`` what answers requests that name no version (``stable``, or a split with ``canary``), and
``previous`` what was stable before and is kept loaded to go back to. None ever goes, so that no request that names
one fails. Labels of other names stay as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, TypeAlias

from service.engine.labels import Labels, Split
from service.engine.versions import DEFAULT

ModelLabels: TypeAlias = Mapping[str, Split]

STABLE: Final = "stable"
CANARY: Final = "canary"
PREVIOUS: Final = "previous"


class RolloutError(OSError):
    """A step that is not taken, or did not come to hold; the message says why, and what would help."""


def to_canary(labels: ModelLabels, version: int, share: float = 0) -> dict[str, Split]:
    """Try a version: it answers to ``canary``, and ``share`` percent of the requests that name none.

    Raises:
        RolloutError: there is nothing stable beside it, or the share is none.
    """
    if not 0 <= share < 100:
        raise RolloutError(f"a canary's share is 0 to 99 percent, not {share:g}: for all of it promote it to stable")
    stable = _only(labels, STABLE)
    if stable is None:
        raise RolloutError(f"no version is stable yet: promote {version} to stable, nothing is there to fall back on")
    if version == stable:
        raise RolloutError(f"version {version} is stable already")
    default = {stable: 100 - share, version: share} if share else {stable: 1}
    return _ordered({PREVIOUS: {stable: 1}, **labels, STABLE: {stable: 1}, CANARY: {version: 1}, DEFAULT: default})


def to_stable(labels: ModelLabels, version: int | None, answering: int | None) -> dict[str, Split]:
    """Let a version, by default the canary, answer everybody; what was stable becomes ``previous``.

    ``answering``: the version that answers requests that name none, which is stable where no label says so.

    Raises:
        RolloutError: nothing is tried that could become stable, or the version is stable already.
    """
    stable, canary = _only(labels, STABLE), _only(labels, CANARY)
    if version is None:
        if canary is None or canary == stable:
            raise RolloutError("no canary is being tried: name the version that is to be stable")
        version = canary
    if version == stable and _is_settled(labels, version):
        raise RolloutError(f"version {version} is stable already")
    before = stable if stable is not None else answering if answering is not None else version
    if version == stable:
        before = _only(labels, PREVIOUS) or version
    return _ordered({**labels, **_all_to(version), PREVIOUS: {before: 1}})


def back(labels: ModelLabels) -> dict[str, Split]:
    """Give the canary up where one is tried; else let what was stable before be so again.

    Raises:
        RolloutError: there is nothing to go back to.
    """
    stable, previous = _only(labels, STABLE), _only(labels, PREVIOUS)
    if stable is None:
        raise RolloutError("no version is stable: there is nothing to go back to")
    if not _is_settled(labels, stable):
        return _ordered({PREVIOUS: {stable: 1}, **labels, **_all_to(stable)})
    if previous is None or previous == stable:
        raise RolloutError(
            f"before version {stable} nothing was stable that is kept: promote the version that you want to stable"
        )
    return _ordered({**labels, **_all_to(previous), PREVIOUS: {previous: 1}})


def for_canaries(labels: Labels) -> dict[str, ModelLabels]:
    """The labels of gateways that try canaries on all their requests: ``default`` is what ``canary`` is."""
    return {
        model: {**of_model, DEFAULT: of_model[CANARY]} if CANARY in of_model else of_model
        for model, of_model in labels.items()
    }


def told(split: Split) -> str:
    """A split in words: ``3``, or ``3 (90 %), 4 (10 %)``."""
    if len(split) == 1:
        return str(next(iter(split)))
    total = sum(split.values())
    return ", ".join(f"{version} ({100 * weight / total:.3g} %)" for version, weight in split.items())


def _ordered(labels: ModelLabels) -> dict[str, Split]:
    """Ours first, as one reads them."""
    ours = STABLE, CANARY, DEFAULT, PREVIOUS
    return {label: labels[label] for label in (*(each for each in ours if each in labels), *labels)}


def _all_to(version: int) -> dict[str, Split]:
    return {label: {version: 1} for label in (STABLE, CANARY, DEFAULT)}


def _is_settled(labels: ModelLabels, stable: int) -> bool:
    """Whether nothing but what is stable answers, whoever asks."""
    return all(set(labels.get(label, ())) == {stable} for label in (STABLE, CANARY, DEFAULT))


def _only(labels: ModelLabels, label: str) -> int | None:
    """The version of a label that must stand for one."""
    split = labels.get(label)
    if split is None:
        return None
    if len(split) > 1:
        raise RolloutError(
            f"{label} stands for several versions, {told(split)}: write it as one; shares belong to {DEFAULT}"
        )
    return next(iter(split))
