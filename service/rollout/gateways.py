"""What gateways say of a model: which versions are ready, and what labels stand for."""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit

from service.client import models_over_http
from service.engine.labels import Labels, Split
from service.errors import BackendFailed, InvalidRequest, ServiceError
from service.rollout.steps import RolloutError

ANSWER_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class Label:
    """What a label stands for at one gateway, and what it is to stand for where that cannot be yet."""

    in_force: Split
    wanted: Split
    reason: str | None = None
    """Why ``wanted`` is not in force."""


@dataclass(frozen=True, slots=True)
class Model:
    """One model at one gateway."""

    default: int | None
    """Answers most requests that name no version."""
    versions: Mapping[int, str]
    """``ready``, or what else, with the reason."""
    labels: Mapping[str, Label]


@dataclass(frozen=True, slots=True)
class Gateway:
    """What one gateway says."""

    address: str
    models: Mapping[str, Model]
    labels_error: str | None


def look(urls: Sequence[str], unreachable: list[str] | None = None) -> list[Gateway]:
    """Every gateway that the addresses lead to, asked at the same time.

    ``unreachable`` takes the errors of those that do not answer, as long as one does; without it the first is raised.

    A name with several IP addresses, as a headless Service has, is as many gateways; over https it is one, since
    certificates are for names.

    Raises:
        InvalidRequest: one is no address.
        BackendUnavailable, BackendFailed: one does not answer, or not as Malgil does.
        RolloutError: a name leads nowhere.
    """
    found = {address: host for url in urls for address, host in _resolved(url)}
    with ThreadPoolExecutor(max_workers=16) as threads:
        asked = [threads.submit(_gateway, address, host) for address, host in found.items()]
    errors = [error for each in asked if (error := each.exception()) is not None]
    if errors and (unreachable is None or len(errors) == len(asked) or not isinstance(errors[0], ServiceError)):
        raise errors[0]
    if unreachable is not None:
        unreachable += map(str, errors)
    return [each.result() for each in asked if each.exception() is None]


def wanted_labels(gateway: Gateway) -> Labels:
    """What the file that the gateway reads says, as far as models are served."""
    return {
        name: {label: each.wanted for label, each in model.labels.items()} for name, model in gateway.models.items()
    }


def _resolved(url: str) -> list[tuple[str, str]]:
    """An address for each place that ``url`` leads to, with the name that is asked for there."""
    try:
        parts = urlsplit(url)
        port = parts.port or 80
    except ValueError as error:
        raise InvalidRequest(f"{url!r} is no address of a server: {error}") from error
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InvalidRequest(f"{url!r} is no address of a server: it begins with http:// or https://")
    if parts.scheme == "https":
        return [(url.rstrip("/"), parts.netloc)]
    try:
        infos = socket.getaddrinfo(parts.hostname, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise RolloutError(f"{parts.hostname} leads nowhere ({reason}): is no gateway behind it ready?") from error
    family = socket.AF_INET if any(info[0] == socket.AF_INET for info in infos) else socket.AF_INET6
    hosts = sorted({str(info[4][0]) for info in infos if info[0] == family})
    places = [f"[{host}]" if ":" in host else host for host in hosts]
    return [(urlunsplit(("http", f"{place}:{port}", parts.path.rstrip("/"), "", "")), parts.netloc) for place in places]


def _gateway(address: str, host: str) -> Gateway:
    said = models_over_http(address, ANSWER_S, host)
    try:
        models = {each["name"]: _model(each) for each in said["models"]}
        return Gateway(address, models, said.get("labels_error"))
    except (KeyError, TypeError, AttributeError) as error:
        raise BackendFailed(f"{address} answered, but not as Malgil does") from error


def _model(said: Mapping[str, Any]) -> Model:
    versions = {
        each["version"]: each["state"] + (f": {each['reason']}" if each.get("reason") else "")
        for each in said["versions"]
    }
    return Model(said["version"], versions, {each["label"]: _label(each) for each in said["labels"]})


def _label(said: Mapping[str, Any]) -> Label:
    in_force = _split(said["versions"])
    refused = said.get("refused")
    return (
        Label(in_force, in_force)
        if refused is None
        else Label(in_force, _split(refused["versions"]), refused["reason"])
    )


def _split(said: Sequence[Mapping[str, Any]]) -> Split:
    return {each["version"]: each["weight"] for each in said}
