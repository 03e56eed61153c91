import asyncio
import socket

import pytest

from service.backends.tf_serving.addresses import Address, Endpoint, parse_addresses, resolve
from service.errors import BackendUnavailable


def test_addresses_are_parsed_and_each_is_taken_once():
    assert parse_addresses(" models:8500, 10.0.0.7:8501,[::1]:8500,models:8500,") == [
        Address("models", 8500),
        Address("10.0.0.7", 8501),
        Address("::1", 8500),
    ]


@pytest.mark.parametrize(
    "text",
    [
        "models",
        "models:",
        ":8500",
        "models:0",
        "models:65536",
        "models:x",
        "::1:8500",
        "http://models:8500",
        "m:８",
        ",",
    ],
)
def test_what_is_no_address_is_named(text):
    with pytest.raises(BackendUnavailable, match="write host:port"):
        parse_addresses(text)


def _resolve(monkeypatch, *infos):
    async def getaddrinfo(loop, host, port, *, type):
        assert (host, port, type) == ("models", 8500, socket.SOCK_STREAM)
        return [(family, type, 6, "", (ip, port)) for family, ip in infos]

    monkeypatch.setattr("asyncio.base_events.BaseEventLoop.getaddrinfo", getaddrinfo)
    return [str(each.address) for each in asyncio.run(resolve(Address("models", 8500)))]


def test_a_name_stands_for_all_its_addresses(monkeypatch):
    infos = [(socket.AF_INET, "10.0.0.9"), (socket.AF_INET, "10.0.0.7"), (socket.AF_INET, "10.0.0.9")]
    assert _resolve(monkeypatch, *infos) == ["10.0.0.7:8500", "10.0.0.9:8500"]


def test_a_server_with_both_kinds_of_address_is_one_replica(monkeypatch):
    both = [(socket.AF_INET6, "fd00::7"), (socket.AF_INET, "10.0.0.7")]
    assert _resolve(monkeypatch, *both) == ["10.0.0.7:8500"]
    assert _resolve(monkeypatch, both[0]) == ["[fd00::7]:8500"]


def test_an_endpoint_is_one_address_and_knows_its_name():
    (found,) = asyncio.run(resolve(Address("127.0.0.1", 8500)))
    assert found == Endpoint(Address("127.0.0.1", 8500), "127.0.0.1")
    assert found.target == "ipv4:127.0.0.1:8500"
    assert Endpoint(Address("::1", 8500), "models").target == "ipv6:[::1]:8500"
