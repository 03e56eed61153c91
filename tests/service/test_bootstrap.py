"""Stopping a server, on the scripted backend; ``tests/e2e`` does it with models and under load."""

import asyncio
import json
import signal
import socket
import time

import httpx
import pytest

from service.backends.scripted import ScriptedBackend
from service.bootstrap import _unless_hurried, make_backend
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
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with server_process("--models", str(artifact_root), "--port", str(port)) as server:
        address = f"http://127.0.0.1:{port}"
        _wait_until_it_lives(address)
        response = httpx.get(f"{address}/readyz")
        assert (response.status_code, response.json()["error_type"]) == (503, "unavailable")
        server.process.send_signal(signal.SIGTERM)
        assert server.wait(120) == 0
        assert _events(server)[-2:] == ["draining", "stopped"]
        assert server.output == []


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
