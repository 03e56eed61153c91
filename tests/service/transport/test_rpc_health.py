"""Health follows readiness: of the whole, and of each model."""

import asyncio
import socket
import struct
from dataclasses import replace

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from service.backend import VersionState
from service.backends.scripted import ScriptedBackend
from service.transport.rpc import SERVICE
from service.transport.rpc_health import Health
from tests.support.rpc_client import rpc_server

SERVING, NOT_SERVING, SERVICE_UNKNOWN = (
    health_pb2.HealthCheckResponse.SERVING,
    health_pb2.HealthCheckResponse.NOT_SERVING,
    health_pb2.HealthCheckResponse.SERVICE_UNKNOWN,
)


def _asked(service):
    return health_pb2.HealthCheckRequest(service=service)


async def _checked(server, *services):
    stub = health_pb2_grpc.HealthStub(server.channel)
    return [(await stub.Check(_asked(service))).status for service in services]


def test_what_answers_serves():
    async def scenario():
        backend = ScriptedBackend({"a": [1], "b": [1, 2]})
        async with rpc_server(backend, start=False) as server:
            states = [await _checked(server, "", SERVICE)]
            await server.engine.start()
            states.append(await _checked(server, "", SERVICE, "a", "b"))
            first, *others = backend.versions()
            backend.set_versions([replace(first, state=VersionState.REFUSED), *others])
            states.append(await _checked(server, "", SERVICE, "a", "b"))
            backend.set_versions([first, *others[1:]])  # b is left with its older version
            states.append(await _checked(server, "", SERVICE, "a", "b"))
            await server.engine.drain(1.0)
            states.append(await _checked(server, "", SERVICE, "a", "b"))
            return states

    assert asyncio.run(scenario()) == [
        [NOT_SERVING] * 2,
        [SERVING] * 4,
        [NOT_SERVING, NOT_SERVING, NOT_SERVING, SERVING],
        [SERVING] * 4,
        [NOT_SERVING] * 4,
    ]


def test_a_service_that_is_none_is_not_found():
    async def scenario():
        async with rpc_server() as server:
            await _checked(server, "none")

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        asyncio.run(scenario())
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    assert caught.value.details() == f"there is no such service: name one of echo, {SERVICE}, or none"


@pytest.mark.parametrize("method", ["Check", "Watch"])
def test_what_is_no_message_is_invalid(method):
    async def scenario():
        async with rpc_server() as server:
            await server.channel.unary_unary(f"/grpc.health.v1.Health/{method}")(b"\xff\xff")

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        asyncio.run(scenario())
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "grpc.health.v1.Health" in caught.value.details()


def test_who_watches_is_told_of_changes_alone_until_the_server_stops():
    async def scenario():
        async with rpc_server(start=False) as server:
            watched = {name: health_pb2_grpc.HealthStub(server.channel).Watch(_asked(name)) for name in ("", "echo")}
            told = {name: [(await call.read()).status] for name, call in watched.items()}
            await server.engine.start()
            for name, call in watched.items():
                told[name].append((await call.read()).status)
            server.engine._tell()  # nothing has changed
            await _checked(server, "")
            await server.engine.drain(1.0)
            for name, call in watched.items():
                told[name].append((await call.read()).status)
            await server.rpc.stop(5.0)
            codes = [await call.code() for call in watched.values()]
        return told, codes

    told, codes = asyncio.run(asyncio.wait_for(scenario(), 4.0))  # it does not take the grace
    assert told == {"": [NOT_SERVING, SERVING, NOT_SERVING], "echo": [SERVICE_UNKNOWN, SERVING, NOT_SERVING]}
    assert codes == [grpc.StatusCode.UNAVAILABLE] * 2


def test_who_watches_is_told_of_the_end_even_if_it_comes_at_once():
    async def scenario():
        async with rpc_server() as server:
            call = health_pb2_grpc.HealthStub(server.channel).Watch(_asked(""))
            told = [(await call.read()).status]
            await server.engine.drain(1.0)  # nothing runs, so this does not give the watch its turn
            server.rpc._health.close()
            told.append((await call.read()).status)
            return told, await call.code()

    assert asyncio.run(scenario()) == ([SERVING, NOT_SERVING], grpc.StatusCode.UNAVAILABLE)


def test_a_watch_that_is_cancelled_is_no_failure():
    async def scenario():
        async with rpc_server() as server:
            call = health_pb2_grpc.HealthStub(server.channel).Watch(_asked(""))
            await call.read()
            call.cancel()
            await _checked(server, "")
            await asyncio.sleep(0.1)
            return server.telemetry.render()

    assert b"malgil_request_failure_total{" not in asyncio.run(scenario())


def _frame(kind, flags, stream, payload):
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def _header(name, value):
    return b"\0" + bytes([len(name)]) + name + bytes([len(value)]) + value


def _watch_that_takes_nothing(address):
    """Over HTTP/2 by hand: a connection that watches the whole, and whose streams may be sent 0 bytes."""
    settings = _frame(4, 0, 0, struct.pack(">HI", 4, 0))  # INITIAL_WINDOW_SIZE
    headers = {
        b":method": b"POST",
        b":scheme": b"http",
        b":path": b"/grpc.health.v1.Health/Watch",
        b":authority": b"malgil",
        b"content-type": b"application/grpc",
        b"te": b"trailers",
    }
    block = b"".join(_header(name, value) for name, value in headers.items())
    message = b"\0\0\0\0\0"
    host, port = address.split(":")
    connection = socket.create_connection((host, int(port)))
    opening = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + settings
    connection.sendall(opening + _frame(1, 4, 1, block) + _frame(0, 1, 1, message))
    return connection


def test_one_who_watches_and_does_not_read_holds_nobody_up(monkeypatch):
    asked = []
    watch = Health.watch

    async def spy(self, data, call):
        asked.append(data)
        await watch(self, data, call)

    monkeypatch.setattr(Health, "watch", spy)

    async def scenario():
        async with rpc_server(start=False) as server:
            with _watch_that_takes_nothing(server.address):
                while not asked:
                    await asyncio.sleep(0.01)
                call = health_pb2_grpc.HealthStub(server.channel).Watch(_asked(""))
                told = [(await call.read()).status]
                await server.engine.start()
                told.append((await call.read()).status)
                return told + await _checked(server, "")

    assert asyncio.run(asyncio.wait_for(scenario(), 10.0)) == [NOT_SERVING, SERVING, SERVING]
