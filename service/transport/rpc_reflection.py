"""``grpc.reflection.v1alpha``: tools such as grpcurl ask the server what it serves."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Final

from grpc_reflection.v1alpha import reflection, reflection_pb2

from service.transport.rpc_call import Call
from service.transport.rpc_convert import parse

SERVICE: Final[str] = reflection.SERVICE_NAME


class Reflection:
    """The method of the service, that of grpcio-reflection behind a parser of ours: its own would answer UNKNOWN."""

    def __init__(self, services: Sequence[str]) -> None:
        self._servicer = reflection.aio.ReflectionServicer(services)

    async def info(self, requests: AsyncIterator[bytes], call: Call) -> None:
        """An answer to each request."""

        async def parsed() -> AsyncIterator[reflection_pb2.ServerReflectionRequest]:
            async for data in requests:
                yield parse(data, reflection_pb2.ServerReflectionRequest)

        async for answer in self._servicer.ServerReflectionInfo(parsed(), None):
            await call.write(answer.SerializeToString())
