"""A gateway on an address of this machine, in a thread; its models echo, and come and go as a test says."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final

from service.backend import VersionState
from service.backends.scripted import ScriptedBackend
from service.engine import Engine
from service.settings import Settings
from service.telemetry import Telemetry
from service.transport.http_server import HttpServer
from service.transport.rest import create_app

MODEL: Final = "en-fr"
POLL_S: Final = 0.02


class TestGateway:
    """Where it listens, and its versions."""

    __test__ = False

    def __init__(self, labels: Path | None, versions: Sequence[int], host: str = "127.0.0.1", port: int = 0) -> None:
        self._listener = socket.create_server((host, port))
        self.host, self.port = self._listener.getsockname()[:2]
        self.url = f"http://{self.host}:{self.port}"
        self._backend = ScriptedBackend({MODEL: versions})
        self._settings = Settings(labels_file=labels, version_poll_s=POLL_S)
        self._started = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))

    def start(self) -> None:
        self._thread.start()
        assert self._started.wait(30)

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join(30)
        self._listener.close()

    def set_state(self, version: int, state: VersionState, reason: str | None = None) -> None:
        """Let a version be in this state from now on."""
        versions = [
            replace(each, state=state, reason=reason) if each.version == version else each
            for each in self._backend.versions()
        ]
        done = threading.Event()
        self._loop.call_soon_threadsafe(lambda: (self._backend.set_versions(versions), done.set()))
        assert done.wait(10)

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        telemetry = Telemetry()
        engine = Engine(self._backend, self._settings, telemetry)
        self._server = HttpServer(create_app(engine, self._settings, telemetry), self._settings)
        await engine.start()
        self._started.set()
        await self._server.serve([self._listener])
        await engine.close()


@contextmanager
def gateway(labels: Path | None, *versions: int, host: str = "127.0.0.1", port: int = 0) -> Iterator[TestGateway]:
    """A gateway that is gone afterwards."""
    running = TestGateway(labels, versions, host, port)
    running.start()
    try:
        yield running
    finally:
        running.stop()
