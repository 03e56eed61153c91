"""Taking a step: checked against what gateways have ready, written, and seen to hold."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from service.engine.labels import Labels, Split
from service.errors import ServiceError
from service.rollout.gateways import Gateway, Model, look, wanted_labels
from service.rollout.steps import ModelLabels, RolloutError, told
from service.rollout.stores import LabelsStore

POLL_S: Final = 1.0

Step = Callable[[ModelLabels, int | None], Mapping[str, Split]]
"""From a model's labels, and the version that answers requests which name none, to its labels after the step."""
Watched = Callable[[Sequence[str]], object]
"""Is told, at each look, what has not moved yet."""


def move(store: LabelsStore, urls: Sequence[str], model: str, step: Step, doubts: list[str] | None = None) -> Labels:
    """Take a step: the labels as they are written now.

    ``doubts`` is for a step that cannot wait. It takes what any other is refused for: gateways that do not answer, have
    not read the labels yet, or do not have a version ready, as long as one has. None of them moves a label to what is
    not ready there.

    Raises:
        RolloutError: the step breaks something, the gateways read other labels, or others write at the same time.
        ServiceError: a gateway does not answer.
        OSError: labels cannot be read or written.
    """

    def doubt(reasons: Iterable[str]) -> None:
        for reason in reasons:
            if doubts is None:
                raise RolloutError(reason)
            doubts.append(reason)

    labels, gateways = store.read(), look(urls, doubts)
    of_model = labels.get(model, {})
    doubt(_unread(str(store), of_model, gateways, model))
    found = {each.address: each.models[model] for each in gateways if model in each.models}
    if not found:
        raise RolloutError(_absent(gateways[0], model))
    after = step(of_model, next(iter(found.values())).default)
    for reasons in _unready(of_model, after, found):
        if len(reasons) == len(found):
            raise RolloutError(reasons[0])
        doubt(reasons)
    labels = {**labels, model: after}
    store.write(labels)
    return labels


def waiting_for(urls: Sequence[str], labels: Labels, model: str, timeout_s: float, watched: Watched) -> int:
    """Wait until every gateway has moved the model's labels: how many gateways that are.

    Gateways may come and go meanwhile.

    Raises:
        RolloutError: some have not in time; the message says which, and why.
    """
    end = time.monotonic() + timeout_s
    while True:
        gateways: list[Gateway] = []
        try:
            gateways = look(urls)
            left = [why for each in gateways for why in missing(each, labels[model], model)]
        except (ServiceError, RolloutError) as error:
            left = [str(error)]
        if not left:
            return len(gateways)
        watched(left)
        if time.monotonic() >= end:
            raise RolloutError(
                f"the labels are written, but after {timeout_s:.0f} s they do not hold everywhere: {'; '.join(left)}"
            )
        time.sleep(min(POLL_S, max(0.0, end - time.monotonic())))


def remove(store: LabelsStore, urls: Sequence[str], model: str, version: int, folder: Path) -> None:
    """Delete a version's folder, ``<folder>/<model>/<version>``, which nothing is answered by.

    Raises:
        RolloutError: it is in use, or not there.
        ServiceError: a gateway does not answer.
    """
    uses = _uses(str(store), (label for label, split in store.read().get(model, {}).items() if version in split))
    for gateway in look(urls):
        if model not in gateway.models:  # it cannot say what it needs
            raise RolloutError(_absent(gateway, model))
        at = gateway.models[model]
        labels = (name for name, each in at.labels.items() if version in each.in_force or version in each.wanted)
        uses += _uses(gateway.address, labels)
        if at.default == version:
            uses.append(f"it answers requests that name no version at {gateway.address}")
    if uses:
        raise RolloutError(f"version {version} of {model} is in use: {'; '.join(uses)}")
    path = folder / model / str(version)
    if not path.is_dir():
        raise RolloutError(f"there is no version {version} of {model} in {folder}")
    # Gone at once for who looks for versions, instead of file by file.
    leaving = path.with_name(f".removed-{version}")
    path.rename(leaving)
    shutil.rmtree(leaving)


def _uses(where: str, labels: Iterable[str]) -> list[str]:
    named = ", ".join(labels)
    return [f"{named} in {where}"] if named else []


def _absent(gateway: Gateway, model: str) -> str:
    has = f"it has {', '.join(gateway.models)}" if gateway.models else "it has none yet"
    return f"{gateway.address} has no model {model}: {has}"


def _unread(store: str, labels: ModelLabels, gateways: Sequence[Gateway], model: str) -> Iterator[str]:
    """Who moves labels that nobody reads, or that have not arrived, does not know what the step leads to."""
    for each in gateways:
        if each.labels_error is not None:
            yield f"{each.address} cannot read its labels: {each.labels_error}"
        if model not in each.models:
            yield _absent(each, model)
            continue
        theirs = wanted_labels(each)[model]
        for label in sorted({*labels, *theirs}):
            ours, there = labels.get(label), theirs.get(label)
            if ours is None or there is None or _shares(ours) != _shares(there):
                yield (
                    f"{each.address} reads other labels than those in {store}: {label} is "
                    f"{told(there) if there else 'none'} there, and {told(ours) if ours else 'none'} here; "
                    "wait until it has read them, or name the labels that it reads (MALGIL_LABELS_FILE)"
                )


def _unready(before: ModelLabels, after: ModelLabels, found: Mapping[str, Model]) -> Iterator[list[str]]:
    """Of each version that a label is moved to: why gateways cannot do that."""
    moved = {label: split for label, split in after.items() if split != before.get(label)}
    versions = {version: label for label, split in reversed(moved.items()) for version in split if split[version]}
    for version, label in versions.items():
        reasons = []
        for address, model in found.items():
            state = model.versions.get(version)
            if state != "ready":
                why = "is not there: publish it, and wait until it is ready" if state is None else f"is {state}"
                reasons.append(f"{label} cannot be {told(moved[label])}: version {version} {why} ({address})")
        yield reasons


def missing(gateway: Gateway, labels: ModelLabels, model: str) -> list[str]:
    """Why a gateway does not have these labels in force."""
    if gateway.labels_error is not None:
        return [f"{gateway.address}: {gateway.labels_error}"]
    if model not in gateway.models:
        return [f"{gateway.address} has no model {model}"]
    found = []
    for label, split in labels.items():
        there = gateway.models[model].labels.get(label)
        if there is None:
            found.append(f"{gateway.address} has no label {label}: does its MALGIL_LABELS_FILE name these?")
        elif there.reason is not None and _shares(there.wanted) == _shares(split):
            found.append(f"{gateway.address}: {label} is not {told(split)}: {there.reason}")
        elif _shares(there.in_force) != _shares(split):
            is_now = told(there.in_force) if there.in_force else "nothing"
            found.append(f"{gateway.address}: {label} is {is_now}, not {told(split)}")
    return found


def _shares(split: Split) -> dict[int, float]:
    total = sum(split.values()) or 1
    return {version: round(weight / total, 9) for version, weight in split.items()}
