"""A call on a connection whose packets no longer arrive. To be run in a network namespace of its own:

unshare --map-root-user --net python -m tests.service.backends.tf_serving.swallowed_call
"""

from __future__ import annotations

import asyncio
import fcntl
import socket
import struct
import time

import grpc
import grpc.aio

from service.backends.tf_serving import channels, wire
from service.backends.tf_serving.addresses import Address, Endpoint
from tests.service.backends.tf_serving.fake_server import FakeTfServing, settings_for

UNACKNOWLEDGED_S = 1.0
DEADLINE_S = 30.0
_SIOCGIFFLAGS, _SIOCSIFFLAGS = 0x8913, 0x8914
_IFF_UP = 1


def set_loopback(*, is_up: bool) -> None:
    """Let packets of this namespace arrive, or vanish."""
    with socket.socket() as any_socket:
        said = fcntl.ioctl(any_socket, _SIOCGIFFLAGS, struct.pack("16sH14x", b"lo", 0))
        (flags,) = struct.unpack("16xH14x", said)
        wanted = flags | _IFF_UP if is_up else flags & ~_IFF_UP
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", wanted))


async def main(server: FakeTfServing) -> None:
    """Print what comes of the call, and after how many seconds."""
    channels.UNACKNOWLEDGED_S = UNACKNOWLEDGED_S  # type: ignore[misc]
    set_loopback(is_up=True)
    await server.start()
    endpoint = Endpoint(Address("127.0.0.1", server.port), "127.0.0.1")
    channel = channels.connector(settings_for(server))(endpoint)
    call = channel.unary_unary(wire.GET_MODEL_STATUS)
    await call(wire.status_request("echo"), timeout=DEADLINE_S)
    set_loopback(is_up=False)
    began = time.monotonic()
    try:
        await call(wire.status_request("echo"), timeout=DEADLINE_S)
    except grpc.aio.AioRpcError as error:
        print(error.code().name, time.monotonic() - began)
    await channel.close()
    await server.stop()


if __name__ == "__main__":
    asyncio.run(main(FakeTfServing()))
