"""``grpc.health.v1``: the server as a whole, its service, and each model by name.

The answers are the engine's of this very moment. The servicer of grpcio-health-checking keeps a copy of them, which a
single client that watches and does not read can hold up.
"""

from __future__ import annotations

import asyncio
from typing import Final

from grpc_health.v1 import health_pb2

from service.engine import Engine
from service.errors import Draining, ModelNotFound
from service.transport.rpc_call import Call
from service.transport.rpc_convert import parse

SERVICE: Final[str] = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name

_SERVING: Final[int] = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING: Final[int] = health_pb2.HealthCheckResponse.NOT_SERVING
_SERVICE_UNKNOWN: Final[int] = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


class Health:
    """The methods of the service; what serves is ready, as ``/readyz`` has it."""

    def __init__(self, engine: Engine, service: str) -> None:
        """``service``: a name of the server as a whole, beside the empty one."""
        self._engine = engine
        self._whole = ("", service)
        self._closed = False
        self._change = asyncio.Event()  # the next
        engine.subscribe(self._changed)

    async def check(self, data: bytes, call: Call) -> bytes:
        """How one is now."""
        statuses = self._statuses()
        status = statuses.get(parse(data, health_pb2.HealthCheckRequest).service)
        if status is None:
            raise ModelNotFound(f"there is no such service: name one of {', '.join(filter(None, statuses))}, or none")
        return _response(status)

    async def watch(self, data: bytes, call: Call) -> None:
        """How one is, now and whenever that changes. Raises Draining once the server has stopped."""
        service = parse(data, health_pb2.HealthCheckRequest).service
        told: int | None = None
        while True:
            # Read before the status: the last one is told even if the server stops at the same moment.
            closed, change = self._closed, self._change
            status = self._statuses().get(service, _SERVICE_UNKNOWN)
            if status != told:
                told = status
                await call.write(_response(status))
            if closed:
                raise Draining("the server has stopped")
            await change.wait()

    def close(self) -> None:
        """End what is watched."""
        self._closed = True
        self._changed()

    def _changed(self) -> None:
        self._change.set()
        self._change = asyncio.Event()

    def _statuses(self) -> dict[str, int]:
        models = {status.name: status.default is not None for status in self._engine.status()}
        serving = models | dict.fromkeys(self._whole, self._engine.ready)
        return {
            name: _SERVING if serves and not self._engine.draining else _NOT_SERVING for name, serves in serving.items()
        }


def _response(status: int) -> bytes:
    return bytes(health_pb2.HealthCheckResponse(status=status).SerializeToString())
