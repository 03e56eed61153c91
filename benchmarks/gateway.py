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
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from itertools import repeat
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.http_load import exchange, post
from benchmarks.servers import Server, cpu_s, started
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


def measure(contender: Contender, fields: Mapping[str, Any], clients: int, requests: int) -> None:
    """One round."""
    cpu, wall = cpu_s(contender.pid), time.perf_counter()
    asyncio.run(exchange(contender.port, repeat(post(contender.path, fields), requests), clients))
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


def gateway(log: Path) -> AbstractContextManager[Server]:
    """``log``: the file that a line for each call goes to."""
    arguments = ["--backend", "scripted", "--port", "0", "--grpc-port", "-1", "--concurrent-runs", "2"]
    return started("service", "serve", *arguments, cores={SERVER_CORE}, log=log)


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
        server = servers.enter_context(gateway(log))
        asked = asyncio.run(
            exchange(server.port, [post("/v1/generate", fields) for fields in KINDS.values()], clients=1)
        )
        answers = [json.loads(each.answer) for each in asked]
        echo_pid, echo_port = servers.enter_context(echo_server(answers))
        for place, (kind, fields) in enumerate(KINDS.items()):
            ours = Contender("gateway", server.pid, server.port, "/v1/generate")
            echo = Contender("echo", echo_pid, echo_port, f"/{place}")
            for contender in (ours, echo):
                measure(contender, fields, clients, requests)  # to warm up
                del contender.cpu_us[:], contender.per_second[:]
            before = batches(server.port)
            for _ in range(rounds):
                for contender in (ours, echo):
                    measure(contender, fields, clients, requests)
            count, rows = np.subtract(batches(server.port), before)
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
