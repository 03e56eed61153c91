"""What the gateway itself costs a request: ``malgil serve`` on the scripted backend beside a bare FastAPI echo.

Both are server processes of their own on one core, with uvicorn's settings and parser alike; this process is 8 clients
that keep their connections, on another core. The echo is what one writes first,

    @app.post("/...")
    async def echo(body: dict[str, Any]) -> dict[str, Any]: ...

It takes the very bytes that the gateway takes, and answers the same values, encoded anew for each request. Both take
turns; what counts is the processor time of the server process for each request. The fake model runs in that process;
what it takes, measured by itself with batches as large as the server's were, is told, and "own" is without it:

    python -m benchmarks.gateway [--clients 8] [--requests 1000] [--rounds 9] [--json FILE]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import re
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import numpy as np
from rich.console import Console
from rich.table import Table

from service.backends.scripted import ScriptedBackend, tiny_tokenizer
from service.batching.rows import batch_inputs
from service.engine.admission import admit
from service.generation import GenerationOptions, GenerationRequest
from service.tokenization import SentencePieceTokenizer

TEXT = "so that the one who said yes is it"  # 20 tokens, the end of the sentence included
KINDS: Mapping[str, Mapping[str, Any]] = {
    "a text": {"inputs": TEXT},
    "a text, with details": {"inputs": TEXT, "parameters": {"details": True}},
    "8 texts": {"inputs": [TEXT] * 8},
}
SERVER_CORE, CLIENT_CORE = 0, 1
START_S = 60.0


@dataclass
class Contender:
    """A server, and what was measured: a figure for each round."""

    name: str
    pid: int
    port: int
    path: str
    cpu_us: list[float] = field(default_factory=list)  # of the server process, by request
    per_second: list[float] = field(default_factory=list)  # requests answered


class Client(asyncio.Protocol):
    """One connection that asks again as soon as it is answered, as long as any of ``left`` requests are."""

    def __init__(self, request: bytes, left: list[int]) -> None:
        self._request = request
        self._left = left
        self._received = b""
        self._transport: asyncio.Transport | None = None
        self.answer = b""
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._ask()

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, _, body = self._received.partition(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", head)
        if length is not None and len(body) == int(length[1]):
            if not head.startswith(b"HTTP/1.1 200 "):
                self.done.set_exception(RuntimeError(f"refused: {body[:200]!r}"))
                return
            self.answer, self._received = body, b""
            self._ask()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(exc or ConnectionError("the server hung up"))

    def _ask(self) -> None:
        assert self._transport is not None
        if self._left[0]:
            self._left[0] -= 1
            self._transport.write(self._request)
        else:
            self.done.set_result(None)
            self._transport.close()


async def ask(port: int, path: str, fields: Mapping[str, Any], clients: int, requests: int) -> Any:
    """Send so many requests; the last answer."""
    body = json.dumps(fields).encode()
    head = f"POST {path} HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    left = [requests]
    made = [
        await asyncio.get_running_loop().create_connection(
            lambda: Client(head.encode() + body, left), "127.0.0.1", port
        )
        for _ in range(clients)
    ]
    await asyncio.gather(*(client.done for _, client in made))
    return json.loads(max((client.answer for _, client in made), key=len))


def cpu_s(pid: int) -> float:
    """Processor time of a process so far, all its threads together: the clock that clock_getcpuclockid(3) names."""
    return time.clock_gettime((~pid << 3) | 2)


def measure(contender: Contender, fields: Mapping[str, Any], clients: int, requests: int) -> None:
    """One round."""
    cpu, wall = cpu_s(contender.pid), time.perf_counter()
    asyncio.run(ask(contender.port, contender.path, fields, clients, requests))
    contender.per_second.append(requests / (time.perf_counter() - wall))
    contender.cpu_us.append((cpu_s(contender.pid) - cpu) / requests * 1e6)


# --- servers ----------------------------------------------------------------------------------------------------------


def serve_echo(listener: socket.socket, answers: Sequence[Any]) -> None:
    """A bare FastAPI application, ``/0``, ``/1`` ... for each of ``answers``."""
    os.sched_setaffinity(0, {SERVER_CORE})
    import uvicorn  # noqa: PLC0415  only this process needs them
    from fastapi import FastAPI  # noqa: PLC0415

    app = FastAPI()

    @app.post("/{kind}")
    async def echo(kind: int, body: dict[str, Any]) -> dict[str, Any]:
        return answers[kind]

    config = uvicorn.Config(
        app, http="httptools", ws="none", lifespan="off", log_config=None, access_log=False, server_header=False
    )
    asyncio.run(uvicorn.Server(config).serve([listener]))


@contextmanager
def echo_server(answers: Sequence[Any]) -> Iterator[tuple[int, int]]:
    """Process id and port."""
    # The protocol is named, as the gateway does: else asyncio leaves Nagle's algorithm on.
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        process = multiprocessing.get_context("spawn").Process(target=serve_echo, args=(listener, answers), daemon=True)
        process.start()
        assert process.pid is not None
        try:
            yield process.pid, listener.getsockname()[1]
        finally:
            process.terminate()
            process.join()


@contextmanager
def gateway(log: Path) -> Iterator[tuple[int, int]]:
    """Process id and port; ``log``: the file that a line for each call goes to."""
    arguments = ["--backend", "scripted", "--port", "0", "--grpc-port", "-1", "--concurrent-runs", "2"]
    with log.open("wb") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", "service", "serve", *arguments], stdout=subprocess.PIPE, stderr=stderr, text=True
        )
    try:
        os.sched_setaffinity(process.pid, {SERVER_CORE})
        assert process.stdout is not None
        told = re.search(r"on http://\S+:(\d+),", process.stdout.readline())
        if told is None:
            raise RuntimeError(f"the gateway did not start: {log.read_text()}")
        yield process.pid, int(told[1])
    finally:
        process.terminate()
        process.communicate()


# --- the fake's part --------------------------------------------------------------------------------------------------


def batches(port: int) -> tuple[float, float]:
    """Batches that were run, and their rows."""
    with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        metrics = answer.read().decode()
    found = [re.search(rf"^malgil_batch_size_{what}{{.*}} (\S+)$", metrics, re.M) for what in ("count", "sum")]
    count, rows = (0.0 if each is None else float(each[1]) for each in found)
    return count, rows


async def fake_us(rows: int, rounds: int) -> float:
    """Median processor time of a call of the fake with so many rows, as the gateway calls it."""
    backend = ScriptedBackend()
    await backend.start()
    (served,) = backend.versions()
    assert served.manifest is not None
    request = GenerationRequest(served.name, served.version, (TEXT,) * rows, GenerationOptions())
    admissions = admit(request, served.manifest, SentencePieceTokenizer(tiny_tokenizer()))
    inputs = batch_inputs([each.row for each in admissions])
    calls = []
    for _ in range(rounds):
        started = time.process_time()
        for _ in range(100):
            await backend.predict(served.name, served.version, "generate_ids", inputs, 30.0)
        calls.append((time.process_time() - started) / 100 * 1e6)
    return statistics.median(calls)


# --- the comparison ---------------------------------------------------------------------------------------------------


def compare(clients: int, requests: int, rounds: int, log: Path) -> list[dict[str, Any]]:
    """Medians for each kind of request."""
    os.sched_setaffinity(0, {CLIENT_CORE})
    found = []
    with ExitStack() as servers:
        pid, port = servers.enter_context(gateway(log))
        answers = [asyncio.run(ask(port, "/v1/generate", fields, 1, 1)) for fields in KINDS.values()]
        echo_pid, echo_port = servers.enter_context(echo_server(answers))
        for place, (kind, fields) in enumerate(KINDS.items()):
            ours = Contender("gateway", pid, port, "/v1/generate")
            echo = Contender("echo", echo_pid, echo_port, f"/{place}")
            for contender in (ours, echo):
                measure(contender, fields, clients, requests)  # to warm up
                del contender.cpu_us[:], contender.per_second[:]
            before = batches(port)
            for _ in range(rounds):
                for contender in (ours, echo):
                    measure(contender, fields, clients, requests)
            count, rows = np.subtract(batches(port), before)
            fake = asyncio.run(fake_us(round(rows / count), rounds)) * count / (requests * rounds)
            bytes_in, bytes_out = len(json.dumps(fields)), len(json.dumps(answers[place], ensure_ascii=False))
            found.append(figures(kind, ours, echo, float(fake)) | {"bytes_in": bytes_in, "bytes_out": bytes_out})
            found[-1] |= {"rows_in_a_batch": float(rows / count), "rounds": [asdict(ours), asdict(echo)]}
    return found


def figures(kind: str, ours: Contender, echo: Contender, fake: float) -> dict[str, Any]:
    """Medians and their ratios."""
    cpu, echo_cpu = statistics.median(ours.cpu_us), statistics.median(echo.cpu_us)
    return {
        "request": kind,
        "echo_us": echo_cpu,
        "gateway_us": cpu,
        "fake_us": fake,
        "ratio": cpu / echo_cpu,
        "own_ratio": (cpu - fake) / echo_cpu,
        "echo_per_second": statistics.median(echo.per_second),
        "gateway_per_second": statistics.median(ours.per_second),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--requests", type=int, default=1000, help="in a round, of each server")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--log", type=Path, default=Path(os.devnull), help="where the gateway's log goes")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()

    found = compare(arguments.clients, arguments.requests, arguments.rounds, arguments.log)
    columns = ("request", "echo µs", "gateway µs", "of it the fake µs", "ratio", "own ratio", "echo /s", "gateway /s")
    table = Table(*columns, title=f"processor time for each request, {arguments.clients} clients; wall throughput")
    for each in found:
        times = (f"{each[name]:.0f}" for name in ("echo_us", "gateway_us", "fake_us"))
        ratios = (f"{each[name]:.2f}" for name in ("ratio", "own_ratio"))
        rates = (f"{each[name]:.0f}" for name in ("echo_per_second", "gateway_per_second"))
        table.add_row(each["request"], *times, *ratios, *rates)
    Console(width=120).print(table)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps({"clients": arguments.clients, "medians": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
