"""The gRPC side of a server in this process, on the scripted backend, over a real connection."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import grpc
import grpc.aio
from google.protobuf.message import Message

from service.backend import Backend
from service.backends.scripted import ScriptedBackend
from service.engine import Engine
from service.settings import Settings
from service.telemetry import Telemetry
from service.transport.proto import malgil_v1_pb2 as messages
from service.transport.rpc import SERVICE, RpcServer

RESPONSES = {
    "Generate": messages.GenerateResponse,
    "Score": messages.ScoreResponse,
    "Tokenize": messages.TokenizeResponse,
    "Detokenize": messages.DetokenizeResponse,
    "ListModels": messages.ListModelsResponse,
    "GetModel": messages.ModelInfo,
}
"""By method."""


class Server(NamedTuple):
    """What a test may want to look at or turn."""

    address: str
    channel: grpc.aio.Channel
    engine: Engine
    telemetry: Telemetry
    rpc: RpcServer

    def call(self, method: str, message: Message | bytes, **options: Any) -> grpc.aio.UnaryUnaryCall:
        """A call of our service, of a message or of what is none; ``options``: those of grpc."""
        data = message if isinstance(message, bytes) else message.SerializeToString()
        multicallable = self.channel.unary_unary(
            f"/{SERVICE}/{method}", response_deserializer=RESPONSES[method].FromString
        )
        return multicallable(data, **options)


@asynccontextmanager
async def rpc_server(
    backend: Backend | None = None,
    *,
    start: bool = True,
    channel_options: Sequence[tuple[str, Any]] = (),
    **settings: Any,
) -> AsyncIterator[Server]:
    """A started engine behind gRPC and a client's channel; without ``start``, its models are still to be loaded."""
    telemetry = Telemetry()
    typed = Settings(**settings)
    engine = Engine(backend or ScriptedBackend(), typed, telemetry)
    rpc = RpcServer(engine, typed, telemetry)
    address = f"127.0.0.1:{await rpc.start('127.0.0.1:0')}"
    async with grpc.aio.insecure_channel(address, channel_options) as channel:
        if start:
            await engine.start()
        try:
            yield Server(address, channel, engine, telemetry, rpc)
        finally:
            await engine.close()
            await rpc.stop(1.0)
