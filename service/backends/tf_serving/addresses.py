"""Where the replicas are: configured addresses, and what their names resolve to now."""

from __future__ import annotations

import asyncio
import socket
from typing import NamedTuple

from service.errors import BackendUnavailable


class Address(NamedTuple):
    """A host (name, IPv4 or IPv6 address) and a port."""

    host: str
    port: int

    def __str__(self) -> str:
        """As it is written in settings."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Endpoint(NamedTuple):
    """One replica: an IP address and a port, and the name under which it was found."""

    address: Address
    name: str

    @property
    def target(self) -> str:
        """As gRPC is told to connect to exactly this one."""
        return f"{'ipv6' if ':' in self.address.host else 'ipv4'}:{self.address}"


def parse_addresses(text: str) -> list[Address]:
    """``host:port`` or ``[IPv6 address]:port``, separated by commas.

    Raises:
        BackendUnavailable: one is written otherwise, or there is none.
    """
    written = [each.strip() for each in text.split(",") if each.strip()]
    if not written:
        raise BackendUnavailable("there is no address of TF Serving: write host:port")
    return [_parse(each) for each in dict.fromkeys(written)]


def _parse(text: str) -> Address:
    host, _, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    is_valid = bool(host) and "/" not in host and (bracketed or ":" not in host)
    if not (is_valid and port.isascii() and port.isdigit() and 0 < int(port) < 65_536):
        raise BackendUnavailable(f"{text!r} is no address of TF Serving: write host:port, or [IPv6 address]:port")
    return Address(host[1:-1] if bracketed else host, int(port))


async def resolve(address: Address) -> list[Endpoint]:
    """The endpoints that ``address`` stands for now.

    Of a name's addresses the IPv4 ones, or the IPv6 ones where there are no others: a server that has both is one
    replica.

    Raises:
        OSError, UnicodeError: the name cannot be resolved.
    """
    loop = asyncio.get_running_loop()
    infos = await loop.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    hosts = {family: {str(info[4][0]) for info in infos if info[0] == family} for family, *_ in infos}
    found = hosts.get(socket.AF_INET) or hosts.get(socket.AF_INET6) or set()
    return [Endpoint(Address(host, address.port), address.host) for host in sorted(found)]
