"""The REST side of a server in this process, on the scripted backend."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import httpx

from service.backend import Backend
from service.backends.scripted import ScriptedBackend
from service.engine import Engine
from service.settings import Settings
from service.telemetry import Telemetry
from service.transport.rest import create_app


class Server(NamedTuple):
    """What a test may want to look at or turn."""

    client: httpx.AsyncClient
    engine: Engine
    telemetry: Telemetry


@asynccontextmanager
async def rest_server(backend: Backend | None = None, *, start: bool = True, **settings: Any) -> AsyncIterator[Server]:
    """A started engine behind REST, called through ASGI; without ``start``, its models are still to be loaded."""
    telemetry = Telemetry()
    typed = Settings(**settings)
    engine = Engine(backend or ScriptedBackend(), typed, telemetry)
    transport = httpx.ASGITransport(create_app(engine, typed, telemetry))
    async with httpx.AsyncClient(transport=transport, base_url="http://malgil") as client:
        if start:
            await engine.start()
        try:
            yield Server(client, engine, telemetry)
        finally:
            await engine.close()
