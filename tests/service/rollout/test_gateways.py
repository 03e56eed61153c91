"""Every gateway that a name stands for is asked."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from service.errors import BackendFailed, InvalidRequest
from service.rollout import look
from service.rollout.steps import RolloutError
from tests.support.gateway import MODEL, gateway


def test_a_name_stands_for_as_many_gateways_as_it_has_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def resolve(host, port, *, type):
        at = {"gateways": ["10.0.0.2", "10.0.0.1"], "10.0.0.1": ["10.0.0.1"], "six": ["fd00::1"]}[host]
        family = socket.AF_INET6 if host == "six" else socket.AF_INET
        sixes = [(socket.AF_INET6, type, 6, "", ("fd00::9", port, 0, 0))] if host == "gateways" else []
        return [*sixes, *((family, type, 6, "", (address, port)) for address in at for _ in range(2))]

    def models(address, timeout_s, host):
        asked.append((address, host))
        return {"models": [], "labels_error": "none" if "10.0.0.2" in address else None}

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    monkeypatch.setattr("service.rollout.gateways.models_over_http", models)
    found = look(["http://gateways:8000/", "http://10.0.0.1:8000", "http://six", "https://outside/malgil/"])

    addresses = ["http://10.0.0.1:8000", "http://10.0.0.2:8000", "http://[fd00::1]:80", "https://outside/malgil"]
    assert [each.address for each in found] == addresses
    assert [each.labels_error for each in found] == [None, "none", None, None]
    assert (addresses[1], "gateways:8000") in asked
    assert (addresses[3], "outside") in asked
    assert len(asked) == 4


def test_a_gateway_is_asked_by_its_name_at_its_address(tmp_path: Path) -> None:
    with gateway(None, 1, 2) as one:
        (found,) = look([f"http://localhost:{one.port}"])

    assert found.address == one.url
    assert list(found.models[MODEL].versions) == [2, 1]


@pytest.mark.parametrize(
    ("url", "error", "message"),
    [
        ("gateways:8000", InvalidRequest, "'gateways:8000' is no address of a server"),
        ("http://", InvalidRequest, "is no address of a server"),
        ("http://gateways:http", InvalidRequest, "'http://gateways:http' is no address of a server: Port could not"),
        ("https://[::1", InvalidRequest, "is no address of a server: Invalid IPv6"),
        ("http://nowhere.invalid:1", RolloutError, r"nowhere\.invalid leads nowhere \(.*\): is no gateway behind it"),
        ("http://a..b", RolloutError, r"a\.\.b leads nowhere"),
    ],
)
def test_what_is_no_address(url: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        look([url])


def test_an_answer_that_is_not_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.rollout.gateways.models_over_http", lambda *_: {"models": [{"name": "a"}]})
    with pytest.raises(BackendFailed, match="not as Malgil does"):
        look(["http://127.0.0.1:1"])
