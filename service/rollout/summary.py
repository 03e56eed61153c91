"""How things stand at all gateways together, for people and programs to read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from service.engine.labels import Labels
from service.rollout.gateways import Gateway
from service.rollout.moving import missing
from service.rollout.steps import RolloutError, told


def summary(
    gateways: Sequence[Gateway], written: Labels | None, only: str | None = None, unreachable: Sequence[str] = ()
) -> dict[str, Any]:
    """The versions and labels of each model, what has not moved, and what nothing is answered by, for JSON.

    ``written``: what labels are to stand for; without it, what the gateways read.

    Raises:
        RolloutError: there is no model ``only``.
    """
    names = sorted({name for each in gateways for name in each.models})
    if only is not None:
        if only not in names:
            raise RolloutError(f"there is no model {only}, but {', '.join(names) or 'none at all'}")
        names = [only]
    return {
        "gateways": [each.address for each in gateways],
        "models": {name: _model(name, gateways, written) for name in names},
        "errors": [
            *unreachable,
            *(f"{each.address}: {each.labels_error}" for each in gateways if each.labels_error is not None),
        ],
    }


def _model(name: str, gateways: Sequence[Gateway], written: Labels | None) -> dict[str, Any]:
    versions: dict[int, dict[str, list[str]]] = {}
    labels: dict[str, dict[str, list[str]]] = {}
    used: set[int] = set()
    not_yet: list[str] = []
    for gateway in gateways:
        model = gateway.models.get(name)
        if model is None:
            not_yet.append(f"{gateway.address} has no model {name}")
            continue
        _note(versions, model.versions, gateway.address)
        in_force = {label: told(each.in_force) if each.in_force else "nothing" for label, each in model.labels.items()}
        _note(labels, in_force, gateway.address)
        wanted = {label: each.wanted for label, each in model.labels.items()}
        used |= {version for each in model.labels.values() for version in (*each.in_force, *each.wanted)}
        used |= {model.default} if model.default is not None else set()
        if written is not None:
            not_yet += [
                f"{gateway.address}: {label} is {in_force[label]}, and not written"
                for label in sorted(wanted.keys() - written.get(name, {}).keys())
            ]
            wanted = dict(written.get(name, {}))
            used |= {version for split in wanted.values() for version in split}
        not_yet += missing(gateway, wanted, name)
    return {
        "versions": {version: versions[version] for version in sorted(versions, reverse=True)},
        "labels": labels,
        "missing": not_yet,
        "unused": sorted(versions.keys() - used),
    }


def _note(notes: dict[Any, dict[str, list[str]]], said: Mapping[Any, str], address: str) -> None:
    for name, what in said.items():
        notes.setdefault(name, {}).setdefault(what, []).append(address)
