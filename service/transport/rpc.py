"""gRPC: ``malgil.v1.GenerationService``, health and reflection."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

import grpc
import grpc.aio
from google.protobuf.message import Message

from service.engine import Engine
from service.engine.off_loop import off_loop_if_long
from service.errors import ModelNotFound
from service.settings import Settings
from service.telemetry import Telemetry
from service.transport import rpc_convert, rpc_health, rpc_reflection
from service.transport.proto import malgil_v1_pb2 as messages
from service.transport.rpc_call import Call, Calls
from service.transport.rpc_health import Health
from service.transport.rpc_reflection import Reflection
from service.validation import parse_detokenize, parse_generate, parse_score, parse_tokenize

SERVICE: Final[str] = messages.DESCRIPTOR.services_by_name["GenerationService"].full_name

MIN_PING_INTERVAL_S: Final = 10
"""Clients that ask for a sign of life more often are sent away; no client library does so by itself."""
ANSWER_SHARE: Final = 0.05
ANSWER_MAX_S: Final = 0.25
"""Of the time until a call's deadline so much is kept, so that it ends with our own answer and not by being cut off.
Clients round the time that they tell up, by up to 1 %."""


class RpcServer:
    """The whole gRPC side of ``engine``, which its owner starts and closes; belongs to one event loop."""

    def __init__(self, engine: Engine, settings: Settings, telemetry: Telemetry) -> None:
        self._server = grpc.aio.server(options=_options(settings))
        self._health = Health(engine, SERVICE)
        reflection = Reflection((SERVICE, rpc_health.SERVICE, rpc_reflection.SERVICE))
        rpc = _Rpc(engine, settings)
        behaviour = Calls(telemetry).behaviour
        # Messages stay bytes until the methods parse them: what grpc.aio cannot parse it would answer UNKNOWN.
        unary, watch, stream = (
            grpc.unary_unary_rpc_method_handler,
            grpc.unary_stream_rpc_method_handler,
            grpc.stream_stream_rpc_method_handler,
        )
        services = {
            SERVICE: {
                "Generate": unary(behaviour("generate", rpc.generate)),
                "Score": unary(behaviour("score", rpc.score)),
                "Tokenize": unary(behaviour("tokenize", rpc.tokenize)),
                "Detokenize": unary(behaviour("detokenize", rpc.detokenize)),
                "ListModels": unary(behaviour("models", rpc.list_models)),
                "GetModel": unary(behaviour("model", rpc.get_model)),
            },
            rpc_health.SERVICE: {
                "Check": unary(behaviour("health", self._health.check, quiet=True)),
                "Watch": watch(behaviour("health", self._health.watch, quiet=True)),
            },
            rpc_reflection.SERVICE: {
                "ServerReflectionInfo": stream(behaviour("reflection", reflection.info, quiet=True)),
            },
        }
        handlers = [grpc.method_handlers_generic_handler(name, methods) for name, methods in services.items()]
        self._server.add_generic_rpc_handlers(handlers)

    async def start(self, address: str) -> int:
        """Listen on ``address``, ``host:port``; returns the port, a free one if 0 was given.

        Raises:
            OSError: it is taken.
        """
        try:
            port: int = self._server.add_insecure_port(address)
        except RuntimeError as error:
            raise OSError(str(error)) from error
        await self._server.start()
        return port

    async def stop(self, grace_s: float) -> None:
        """Take no more calls, and end those that are left after ``grace_s``."""
        self._health.close()
        await self._server.stop(grace_s)


class _Rpc:
    """The methods."""

    def __init__(self, engine: Engine, settings: Settings) -> None:
        self._engine = engine
        self._settings = settings

    async def generate(self, data: bytes, call: Call) -> bytes:
        parsed = parse_generate(await _fields(data, messages.GenerateRequest), self._engine.resolve, self._settings)
        return await self._run(call, self._engine.generate, parsed, rpc_convert.generation)

    async def score(self, data: bytes, call: Call) -> bytes:
        parsed = parse_score(await _fields(data, messages.ScoreRequest), self._engine.resolve, self._settings)
        return await self._run(call, self._engine.score, parsed, rpc_convert.scoring)

    async def _run(
        self, call: Call, run: Callable[..., Awaitable[Any]], parsed: Any, convert: Callable[[Any, str], bytes]
    ) -> bytes:
        answer = await run(parsed, request_id=call.request_id, timeout_s=_timeout_s(call))
        call.timings = answer.timings
        return await off_loop_if_long(answer.size, lambda: convert(answer, call.request_id))

    async def tokenize(self, data: bytes, call: Call) -> bytes:
        fields = await _fields(data, messages.TokenizeRequest)
        parsed = parse_tokenize(fields, self._engine.resolve, self._settings)
        return rpc_convert.tokenization(await self._engine.tokenize(parsed))

    async def detokenize(self, data: bytes, call: Call) -> bytes:
        fields = await _fields(data, messages.DetokenizeRequest)
        parsed = parse_detokenize(fields, self._engine.resolve, self._settings)
        return rpc_convert.detokenization(await self._engine.detokenize(parsed))

    async def list_models(self, data: bytes, call: Call) -> bytes:
        await _fields(data, messages.ListModelsRequest)
        return rpc_convert.model_list(self._engine.status(), self._engine.labels_error)

    async def get_model(self, data: bytes, call: Call) -> bytes:
        name = (await _fields(data, messages.GetModelRequest)).get("name")
        for status in self._engine.status():
            if status.name == name:
                return rpc_convert.model(status)
        raise ModelNotFound("there is no such model: ListModels lists those there are")


def _timeout_s(call: Call) -> float | None:
    """The time that the engine has."""
    left_s = call.remaining_s
    return None if left_s is None else left_s - min(left_s * ANSWER_SHARE, ANSWER_MAX_S)


async def _fields(data: bytes, kind: type[Message]) -> dict[str, Any]:
    """``rpc_convert.fields``, in a thread where it would hold up others: half a million empty lists fit in 1 MB."""
    return await off_loop_if_long(len(data), lambda: rpc_convert.fields(data, kind))


def _options(settings: Settings) -> list[tuple[str, int]]:
    """Those of grpc's core; times are in milliseconds."""
    return [
        ("grpc.so_reuseport", 0),  # else a second server would take the port too, and half of the calls
        ("grpc.max_receive_message_length", settings.max_body_bytes),
        ("grpc.max_send_message_length", -1),  # what an answer can be is bounded by what a request can ask for
        ("grpc.keepalive_time_ms", round(settings.grpc_keepalive_s * 1000)),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.http2.min_ping_interval_without_data_ms", round(MIN_PING_INTERVAL_S * 1000)),
        ("grpc.max_connection_age_ms", round(settings.grpc_max_connection_age_s * 1000)),
        ("grpc.max_connection_age_grace_ms", settings.max_timeout_ms),
    ]
