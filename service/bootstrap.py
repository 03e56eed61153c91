"""Puts a server together from its settings and runs it until it is told to stop; alone in naming concrete classes."""

from __future__ import annotations

import asyncio
import functools
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any

from service.backend import Backend, ModelVersion
from service.backends.embedded import EmbeddedBackend
from service.backends.scripted import ScriptedBackend
from service.backends.tf_serving import TfServingBackend
from service.batching.profiles import most_rows
from service.engine import Engine
from service.settings import Settings
from service.telemetry import LOGGER_NAME, Telemetry, configure_logging, log_event
from service.transport.http_server import LAST_WRITES_S, HttpServer
from service.transport.rest import create_app, create_metrics_app
from service.transport.rpc import RpcServer

Started = Callable[[str, str | None, Sequence[ModelVersion]], None]
"""Is told the addresses of REST and, unless it is off, of gRPC, and the models once they are loaded."""

_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_BACKLOG = 2048


class StartError(OSError):
    """The server cannot start; the message says what the user can do."""


def run(settings: Settings, started: Started) -> None:
    """Serve until SIGTERM or SIGINT, then finish what was accepted; a second signal cuts that short.

    Raises:
        StartError: an address is taken.
        BackendUnavailable: there are no models to serve.
    """
    # Logs have a descriptor of their own: that of standard error is muted while TensorFlow is imported.
    with os.fdopen(os.dup(sys.stderr.fileno()), "w", buffering=1) as stream:
        configure_logging(settings.log_level, stream, (LOGGER_NAME, "asyncio"))
        configure_logging("warning", stream, ("uvicorn.error", "grpc"))
        asyncio.run(_serve(settings, started))


@asynccontextmanager
async def running_engine(settings: Settings, telemetry: Telemetry | None = None) -> AsyncIterator[Engine]:
    """An engine with its models loaded, closed at the end: what there is without a server.

    Raises:
        BackendUnavailable: there are no models.
    """
    engine = Engine(make_backend(settings), settings, telemetry or Telemetry())
    try:
        await engine.start()
        yield engine
    finally:
        await engine.close()


def make_backend(settings: Settings) -> Backend:
    """The backend that the settings name. Raises BackendUnavailable if they say nothing that it could work with."""
    if settings.backend == "scripted":
        return ScriptedBackend(slots=settings.concurrent_runs)
    if settings.backend == "tf-serving":
        return TfServingBackend(settings, functools.partial(most_rows, settings))
    return EmbeddedBackend(
        settings.models_folder,
        slots=settings.concurrent_runs,
        intra_op_threads=settings.intra_op_threads,
        most_rows=functools.partial(most_rows, settings),
        versions_served=settings.versions_served,
        version_poll_s=settings.version_poll_s,
        graph_tokenizes=settings.tokenize == "graph",
    )


async def _serve(settings: Settings, started: Started) -> None:
    telemetry = Telemetry()
    async with _metrics_server(settings, telemetry):
        await _serve_requests(settings, telemetry, started)
    log_event("stopped")


@asynccontextmanager
async def _metrics_server(settings: Settings, telemetry: Telemetry) -> AsyncIterator[None]:
    """``/metrics`` on a port of its own, where it is to have one; to the end, so that draining is seen."""
    if settings.metrics_port is None:
        yield
        return
    server = HttpServer(create_metrics_app(telemetry), settings)
    with _listen(settings.host, settings.metrics_port, "--metrics-port") as listener:
        serving = asyncio.create_task(server.serve([listener]))
        try:
            yield
        finally:
            server.should_exit = True
            await serving


async def _serve_requests(settings: Settings, telemetry: Telemetry, started: Started) -> None:
    engine = Engine(make_backend(settings), settings, telemetry)
    telemetry.show_versions(lambda: [(each.name, each.version, each.state.value) for each in engine.models()])
    server = HttpServer(create_app(engine, settings, telemetry), settings)
    signals: asyncio.Queue[signal.Signals] = asyncio.Queue()
    for number in _STOP_SIGNALS:
        asyncio.get_running_loop().add_signal_handler(number, signals.put_nowait, number)
    with _listen(settings.host, settings.port, "--port") as listener:
        # Probes are answered while models load, so all go on side by side.
        rpc, rpc_address = await _start_rpc(engine, settings, telemetry)
        address = f"http://{_address(settings.host, listener.getsockname()[1])}"
        starting = asyncio.create_task(_start(engine, address, rpc_address, started))
        serving = asyncio.create_task(server.serve([listener]))
        stopping = asyncio.create_task(signals.get())
        try:
            await asyncio.wait((starting, stopping), return_when=asyncio.FIRST_COMPLETED)
            if not stopping.done():
                starting.result()  # raises what kept the models from loading
                await asyncio.wait((serving, stopping), return_when=asyncio.FIRST_COMPLETED)
            log_event("draining")
            await _unless_hurried(engine.drain(settings.drain_timeout_s), signals)
        finally:
            starting.cancel()
            stopping.cancel()
            await engine.close()
            server.should_exit = True
            await asyncio.gather(serving, *([rpc.stop(LAST_WRITES_S)] if rpc else []))


async def _start(engine: Engine, address: str, rpc_address: str | None, started: Started) -> None:
    await engine.start()
    started(address, rpc_address, engine.models())


async def _start_rpc(engine: Engine, settings: Settings, telemetry: Telemetry) -> tuple[RpcServer | None, str | None]:
    """The gRPC side, listening, and its address; neither where it is turned off."""
    if settings.grpc_port < 0:
        return None, None
    # gRPC tells only its own log why it cannot listen, so that is tried before.
    with _listen(settings.host, settings.grpc_port, "--grpc-port") as free:
        host: str = free.getsockname()[0]
    server = RpcServer(engine, settings, telemetry)
    try:
        port = await server.start(_address(host, settings.grpc_port))
    except OSError as error:
        raise StartError(f"{error}; see --host and --grpc-port") from error
    return server, _address(settings.host, port)


async def _unless_hurried(drain: Coroutine[Any, Any, bool], signals: asyncio.Queue[signal.Signals]) -> None:
    """Drain, until another signal says not to wait."""
    draining = asyncio.create_task(drain)
    hurry = asyncio.create_task(signals.get())
    await asyncio.wait((draining, hurry), return_when=asyncio.FIRST_COMPLETED)
    draining.cancel()
    hurry.cancel()


def _listen(host: str, port: int, flag: str) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # The protocol is named, because asyncio turns Nagle's algorithm off (40 ms a call) only on sockets that name it.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        reason = error.strerror or str(error)
        raise StartError(f"cannot listen on {_address(host, port)}: {reason}; see --host and {flag}") from error
    return listener


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
