"""What every gRPC call has: the error table, faults of ours, counts and lines in the log."""

import asyncio
import json

import grpc
import pytest

from service.errors import ERROR_TABLE
from service.transport.proto import malgil_v1_pb2 as messages
from service.transport.rpc_call import LONGEST_MESSAGE
from service.transport.shared import FAULT
from tests.support.rpc_client import rpc_server

REQUEST = messages.GenerateRequest(inputs=["my secret"])


def ask(monkeypatch, error, **options):
    """What a client gets where the engine raises ``error``, and the server's metrics."""

    async def fail(*arguments, **keywords):
        raise error

    async def scenario():
        async with rpc_server() as server:
            monkeypatch.setattr(server.engine, "generate", fail)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await server.call("Generate", REQUEST, **options)
            return caught.value, server.telemetry.render().decode()

    return asyncio.run(scenario())


@pytest.mark.parametrize("kind", ERROR_TABLE)
@pytest.mark.parametrize("retry_after_s", [None, 2])
def test_every_error_of_the_table_has_its_code(monkeypatch, kind, retry_after_s):
    error, metrics = ask(monkeypatch, kind("why: 왜", retry_after_s=retry_after_s))
    row = ERROR_TABLE[kind]
    assert error.code().name == row.grpc_code
    assert error.details() == "why: 왜"
    told = dict(error.trailing_metadata())
    assert told["error-type"] == row.error_type
    assert told.get("retry-after") == (retry_after_s and str(retry_after_s))
    assert f'malgil_request_failure_total{{error_type="{row.error_type}"}} 1.0' in metrics


def test_a_fault_of_ours_is_internal_and_logged(monkeypatch, caplog):
    monkeypatch.setattr("service.telemetry._LOGGER.propagate", True)
    error, metrics = ask(monkeypatch, ZeroDivisionError("my secret"))
    assert (error.code(), error.details()) == (grpc.StatusCode.INTERNAL, FAULT)
    assert dict(error.trailing_metadata())["error-type"] == "internal"
    assert 'malgil_request_failure_total{error_type="internal"} 1.0' in metrics
    (record,) = (record for record in caplog.records if record.message == "unexpected error")
    assert record.exc_info
    assert record.fields["request_id"] == dict(error.trailing_metadata())["x-request-id"]


def test_a_long_message_is_cut_so_that_clients_take_it(monkeypatch):
    from service.errors import BackendFailed

    error, _ = ask(monkeypatch, BackendFailed("길" * 50_000))
    assert (error.code(), error.details()) == (grpc.StatusCode.INTERNAL, "길" * (LONGEST_MESSAGE // 3))


@pytest.mark.parametrize(
    ("after_s", "error_type"), [(None, "timeout"), (0.2, "client_closed")], ids=["deadline", "cancelled"]
)
def test_who_gave_up_is_told_by_the_clock(monkeypatch, after_s, error_type):
    """Where the engine itself does not end a call in time."""

    async def hang(*arguments, **keywords):
        await asyncio.sleep(30)

    async def scenario():
        async with rpc_server() as server:
            monkeypatch.setattr(server.engine, "generate", hang)
            call = server.call("Generate", REQUEST, timeout=1.5)
            if after_s is not None:
                asyncio.get_running_loop().call_later(after_s, call.cancel)
            with pytest.raises((grpc.aio.AioRpcError, asyncio.CancelledError)):
                await call
            while b"malgil_request_failure_total{" not in server.telemetry.render():
                await asyncio.sleep(0.01)
            return server.telemetry.render().decode()

    metrics = asyncio.run(asyncio.wait_for(scenario(), 10.0))
    assert f'malgil_request_failure_total{{error_type="{error_type}"}} 1.0' in metrics


def test_calls_are_logged_without_their_texts(monkeypatch, caplog):
    monkeypatch.setattr("service.telemetry._LOGGER.propagate", True)
    caplog.set_level("INFO", "malgil")

    async def scenario():
        async with rpc_server() as server:
            await server.call("Generate", REQUEST, metadata=(("x-request-id", "r1"),))
            with pytest.raises(grpc.aio.AioRpcError):
                await server.call("GetModel", messages.GetModelRequest(name="my secret"))
            await server.channel.unary_unary("/grpc.health.v1.Health/Check")(b"")

    asyncio.run(scenario())
    calls = [record.fields for record in caplog.records if record.message == "call"]
    assert [(call["method"], call["operation"], call["status"]) for call in calls] == [
        ("gRPC", "generate", "OK"),
        ("gRPC", "model", "NOT_FOUND"),
    ]
    assert calls[0]["request_id"] == "r1"
    assert "secret" not in json.dumps([record.fields for record in caplog.records])
