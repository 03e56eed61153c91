"""A TF Serving whose machine takes no more bytes: unlike packets that vanish, that needs no rights to bring about."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any

import grpc

from tests.service.backends.tf_serving.fake_server import FakeTfServing


@dataclass
class FullBuffer(FakeTfServing):
    """Reached through a relay with the smallest receive buffer there is, which nobody empties once ``is_stuck``.

    What does not fit stays with the sender, whose TCP_USER_TIMEOUT goes for it as for what is not acknowledged: tcp(7).
    """

    is_stuck: bool = False
    _relay: socket.socket | None = None
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def address(self) -> str:
        """The relay's, once there is one."""
        return "{}:{}".format(*self._relay.getsockname()) if self._relay else super().address

    async def start(self, credentials: grpc.ServerCredentials | None = None) -> None:
        """As every server, and the relay with it."""
        await super().start(credentials)
        self._relay = socket.socket()
        self._relay.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)  # of its connections too; the kernel rounds up
        self._relay.setblocking(False)
        self._relay.bind(("127.0.0.1", 0))
        self._relay.listen()
        self._begin(self._accept(self._relay))

    async def stop(self) -> None:
        """Both are gone."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._relay.close()
        await super().stop()

    async def _accept(self, relay: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            client, _ = await loop.sock_accept(relay)
            server = socket.create_connection(("127.0.0.1", self.port))
            server.setblocking(False)
            self._begin(self._pass_on(client, server))
            self._begin(self._pass_on(server, client))

    async def _pass_on(self, one: socket.socket, other: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        with one, other:
            while not self.is_stuck and (data := await loop.sock_recv(one, 65536)):
                await loop.sock_sendall(other, data)
            await asyncio.Event().wait()  # open to the end of the test

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
