"""A whole gateway in front of TF Serving: what clients see while servers and versions come and go; what it needs."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import httpx
import pytest

from service.backends.tf_serving import TfServingBackend
from service.bootstrap import make_backend
from tests.service.backends.tf_serving.fake_server import (
    FakeTfServing,
    FakeVersion,
    State,
    certified_manifest,
    echo,
    in_a_thread,
    settings_for,
    states,
    uncertified,
    until,
)
from tests.support.rest_client import rest_server
from tests.support.server_process import server_process

MEMORY_LIMIT_KB = 150 * 1024
REPOSITORY = Path(__file__).parents[3]

certified_manifest()  # it runs a loop of its own


class Load:
    """Clients that send one request after the other; ``seen`` counts what they were answered."""

    def __init__(self, client: httpx.AsyncClient, clients: int = 6) -> None:
        self._client = client
        self._clients = [asyncio.create_task(self._send()) for _ in range(clients)]
        self._over = False
        self.seen: Counter[int] = Counter()
        self.versions: list[int] = []

    async def stop(self) -> None:
        self._over = True
        await asyncio.gather(*self._clients)

    async def _send(self) -> None:
        while not self._over:
            answer = await self._client.post("/v1/generate", json={"inputs": ["the word", "it is"]})
            self.seen[answer.status_code] += 1
            if answer.status_code == 200:
                body = answer.json()
                assert [output["generated_text"] for output in body["outputs"]] == ["the word", "it is"]
                self.versions.append(body["model_version"])
            else:
                assert answer.status_code == 503, answer.text
                assert answer.headers["retry-after"] == "1"
                await asyncio.sleep(0.02)

    async def more(self, answers: int = 20) -> None:
        """Until there are so many more good answers."""
        enough = self.seen[200] + answers
        await until(lambda: self.seen[200] >= enough or any(client.done() for client in self._clients))
        for client in self._clients:
            if client.done():
                client.result()


def under_load(
    servers: list[FakeTfServing], test: Callable[[Load, TfServingBackend], Awaitable[None]], **settings: object
) -> Load:
    """Run ``test`` while clients send requests to a gateway in front of ``servers``."""

    async def scenario() -> Load:
        async with AsyncExitStack() as stack:
            for server in servers:
                await server.start()
                stack.push_async_callback(server.stop)
            chosen = settings_for(*servers, **settings)
            backend = make_backend(chosen)
            assert isinstance(backend, TfServingBackend)
            gateway = await stack.enter_async_context(rest_server(backend, max_batch_rows=4))
            load = Load(gateway.client)
            await load.more()
            await test(load, backend)
            await load.more()
            await load.stop()
        return load

    return asyncio.run(asyncio.wait_for(scenario(), 60))


def test_versions_come_and_go_without_one_failed_request() -> None:
    server = FakeTfServing(delay_s=0.01)

    async def test(load: Load, backend: TfServingBackend) -> None:
        server.versions |= echo(2)
        await until(lambda: load.versions[-1] == 2)
        await load.more()
        server.versions["echo", 1].state = State.UNLOADING
        await load.more()
        server.versions["echo", 3] = FakeVersion(uncertified(certified_manifest()))
        server.versions["echo", 4] = FakeVersion(certified_manifest(), State.END, "no such op")
        await until(lambda: len(states(backend)) == 3)
        await load.more()
        assert load.versions[-1] == 2
        server.versions |= echo(5)
        await until(lambda: load.versions[-1] == 5)
        del server.versions["echo", 5]
        await until(lambda: load.versions[-1] == 2)

    load = under_load([server], test, version_poll_s=0.2)  # what a request waits for is not to be shorter than a stall

    assert set(load.seen) == {200}
    assert set(load.versions) == {1, 2, 5}


def test_one_of_two_replicas_is_killed_and_comes_back_without_one_failed_request() -> None:
    servers = [FakeTfServing(delay_s=0.01), FakeTfServing(delay_s=0.01)]

    async def test(load: Load, backend: TfServingBackend) -> None:
        for server in servers:
            await until(lambda server=server: server.running > 0)
            await server.stop()
            await until(lambda: backend.slots == 2)
            await load.more()
            await server.start()
            await until(lambda: backend.slots == 4, 3.0)

    load = under_load(servers, test)

    assert set(load.seen) == {200}


def test_a_stopped_server_means_clean_503s_and_recovery_within_three_seconds() -> None:
    server = FakeTfServing(delay_s=0.01)

    async def test(load: Load, backend: TfServingBackend) -> None:
        await server.stop()
        await until(lambda: load.seen[503] > 0)
        await asyncio.sleep(5.0)
        good = load.seen[200]
        await server.start()
        await until(lambda: load.seen[200] > good, 3.0)

    load = under_load([server], test, version_poll_s=1.0)

    assert set(load.seen) == {200, 503}


def test_it_needs_no_tensorflow_and_little_memory() -> None:
    with in_a_thread(FakeTfServing()) as server:
        flags = ("--tf-serving-addresses", server.address, "--tf-serving-models", "echo", "--grpc-port", "0")
        with server_process("--backend", "tf-serving", *flags) as gateway:
            with httpx.Client(base_url=gateway.address()) as client:
                for _ in range(50):
                    answer = client.post("/v1/generate", json={"inputs": ["the word"] * 32})
                    assert answer.status_code == 200, answer.text
            process = Path("/proc", str(gateway.process.pid))
            peak = re.search(r"VmHWM:\s+(\d+) kB", process.joinpath("status").read_text())
            assert peak is not None
            assert 10_000 < int(peak[1]) < MEMORY_LIMIT_KB
            libraries = process.joinpath("maps").read_text()
            assert "grpc" in libraries
            assert "tensorflow" not in libraries


def test_no_module_of_tensorflow_is_loaded() -> None:
    code = """
import asyncio, json, sys
from service.bootstrap import running_engine
from service.settings import Settings

async def main():
    settings = Settings(backend="tf-serving", tf_serving_addresses=sys.argv[1], tf_serving_models="echo")
    async with running_engine(settings) as engine:
        print(json.dumps([[each.name, each.state.value] for each in engine.models()]))

asyncio.run(main())
print(json.dumps(sorted(sys.modules)))
"""
    with in_a_thread(FakeTfServing()) as server:
        ran = subprocess.run(
            [sys.executable, "-c", code, server.address], cwd=REPOSITORY, capture_output=True, text=True, check=True
        )
    models, modules = map(json.loads, ran.stdout.splitlines())
    assert models == [["echo", "ready"]]
    assert "service.backends.tf_serving.replica" in modules
    assert [name for name in modules if re.match(r"tensorflow|keras", name)] == []


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ((), "name them in --tf-serving-models"),
        (("--tf-serving-models", "echo", "--tf-serving-addresses", "models"), "write host:port"),
        (("--tf-serving-models", "echo", "--tf-serving-tls", "true", "--tf-serving-ca-file", "no.pem"), "no.pem"),
    ],
)
def test_settings_that_cannot_work_are_one_clear_line(flags: tuple[str, ...], message: str) -> None:
    with server_process("--backend", "tf-serving", *flags) as gateway:
        assert gateway.wait() == 1
    (line,) = gateway.log
    assert line.startswith("error: ")
    assert message in line
