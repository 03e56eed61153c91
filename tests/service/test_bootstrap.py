"""Stopping a server, on the scripted backend; ``tests/e2e`` does it with models and under load."""

import asyncio
import json
import signal
import socket
import sys
import time
from pathlib import Path

import grpc
import httpx
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub

from service.backends.scripted import ScriptedBackend
from service.bootstrap import _unless_hurried, make_backend
from service.cli.memory_allocator import environment_for_models
from service.settings import Settings
from tests.support.server_process import server_process


def _events(server):
    return [json.loads(line)["event"] for line in server.log]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_an_idle_server_with_exit_code_0(number):
    with server_process("--backend", "scripted") as server:
        address = server.address()
        with httpx.Client(base_url=address) as client:  # a connection that stays open
            assert client.get("/readyz").status_code == 200
            started = time.monotonic()
            server.process.send_signal(number)
            assert server.wait() == 0
        assert time.monotonic() - started < 3
        assert _events(server)[-2:] == ["draining", "stopped"]


def test_a_signal_stops_a_server_that_still_loads(artifact_root):
    with socket.create_server(("127.0.0.1", 0)) as free, socket.create_server(("127.0.0.1", 0)) as another:
        port, rpc_port = free.getsockname()[1], another.getsockname()[1]
    arguments = ["--models", str(artifact_root), "--port", str(port), "--grpc-port", str(rpc_port)]
    with server_process(*arguments) as server:
        address = f"http://127.0.0.1:{port}"
        _wait_until_it_lives(address)
        response = httpx.get(f"{address}/readyz")
        assert (response.status_code, response.json()["error_type"]) == (503, "unavailable")
        if sys.platform == "linux":
            environment = Path(f"/proc/{server.process.pid}/environ").read_text(encoding="utf-8").split("\0")
            assert environment_for_models(dict(each.split("=", 1) for each in environment if each)) == {}
        with grpc.insecure_channel(f"127.0.0.1:{rpc_port}") as channel:
            health = HealthStub(channel).Check(HealthCheckRequest(), wait_for_ready=True, timeout=10)
            assert health.status == HealthCheckResponse.NOT_SERVING
        server.process.send_signal(signal.SIGTERM)
        assert server.wait(120) == 0
        assert _events(server)[-2:] == ["draining", "stopped"]
        assert server.output == []


def test_who_watches_health_is_told_of_the_end():
    with server_process("--backend", "scripted") as server, grpc.insecure_channel(server.rpc_address()) as channel:
        watched = HealthStub(channel).Watch(HealthCheckRequest())
        assert next(watched).status == HealthCheckResponse.SERVING
        started = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        assert next(watched).status == HealthCheckResponse.NOT_SERVING
        with pytest.raises(grpc.RpcError):
            next(watched)
        assert watched.code() is grpc.StatusCode.UNAVAILABLE
        assert server.wait() == 0
        assert time.monotonic() - started < 3
        assert _events(server)[-2:] == ["draining", "stopped"]  # and no other line


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
def test_both_transports_listen_on_the_host(host):
    with server_process("--backend", "scripted", "--host", host) as server:
        assert httpx.get(f"{server.address()}/readyz").status_code == 200
        assert server.address().startswith("http://[::1]:" if host == "::1" else f"http://{host}:")
        with grpc.insecure_channel(server.rpc_address()) as channel:
            assert HealthStub(channel).Check(HealthCheckRequest()).status == HealthCheckResponse.SERVING


def test_metrics_may_have_a_port_of_their_own():
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with server_process("--backend", "scripted", "--metrics-port", str(port)) as server, httpx.Client() as client:
        address, metrics = server.address(), f"http://127.0.0.1:{port}"
        assert client.post(f"{address}/v1/generate", json={"inputs": "a"}).status_code == 200
        told = client.get(f"{metrics}/metrics")
        assert told.headers["content-type"].startswith("text/plain; version=")
        assert 'malgil_e2e_request_latency_seconds_count{model_name="echo",outcome="answered"} 1.0' in told.text
        elsewhere = client.get(f"{address}/metrics")
        assert (elsewhere.status_code, elsewhere.json()["error"]) == (
            404,
            f"metrics are on port {port} (MALGIL_METRICS_PORT)",
        )
        for refused in (client.get(f"{metrics}/v1/models"), client.post(f"{metrics}/metrics")):
            assert (refused.status_code, refused.json()["error_type"]) == (404, "not_found")
            assert refused.json()["error"] == "this port has GET /metrics and nothing else"
        server.process.send_signal(signal.SIGTERM)
        assert server.wait() == 0
        assert _events(server)[-2:] == ["draining", "stopped"]


def test_a_port_for_metrics_that_is_taken_is_told():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        with server_process("--backend", "scripted", "--metrics-port", port) as server:
            assert server.wait() == 1
            assert f"cannot listen on 127.0.0.1:{port}" in "".join(server.log)
            assert "see --host and --metrics-port" in "".join(server.log)


def test_grpc_can_be_turned_off():
    with server_process("--backend", "scripted", "--grpc-port", "-1") as server:
        assert httpx.get(f"{server.address()}/readyz").status_code == 200
        assert "gRPC" not in "".join(server.output)


def _wait_until_it_lives(address):
    end = time.monotonic() + 60
    while time.monotonic() < end:
        try:
            assert httpx.get(f"{address}/livez").status_code == 200
        except httpx.TransportError:
            time.sleep(0.05)
        else:
            return
    raise AssertionError("it does not answer")


def test_silent_connections_do_not_hold_up_the_end():
    with server_process("--backend", "scripted") as server:
        host, port = server.address().removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(b"POST /v1/generate HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\n\r\n{")
            time.sleep(0.2)
            server.process.send_signal(signal.SIGTERM)
            assert server.wait(10) == 0


def test_models_are_put_together_as_the_settings_say(tmp_path):
    assert isinstance(make_backend(Settings(backend="scripted", concurrent_runs=3)), ScriptedBackend)
    assert make_backend(Settings(models_folder=tmp_path, concurrent_runs=5)).slots == 5


def test_answers_do_not_wait_for_acknowledgements():
    """Nagle's algorithm and delayed acknowledgements together would add 40 ms to every call."""
    seconds = []
    with server_process("--backend", "scripted") as server, httpx.Client(base_url=server.address()) as client:
        for _ in range(20):
            started = time.perf_counter()
            assert client.post("/v1/generate", json={"inputs": "a"}).status_code == 200
            seconds.append(time.perf_counter() - started)
    assert sorted(seconds)[10] < 0.03


def test_a_second_signal_does_not_wait_for_what_was_accepted():
    async def scenario():
        signals = asyncio.Queue()
        signals.put_nowait(signal.SIGINT)
        cut_short = asyncio.Event()

        async def endless_drain():
            try:
                await asyncio.sleep(60)
            finally:
                cut_short.set()

        await asyncio.wait_for(_unless_hurried(endless_drain(), signals), 5)
        await asyncio.wait_for(cut_short.wait(), 5)

    asyncio.run(scenario())
