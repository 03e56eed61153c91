"""What the clients of ``service`` ask, and what one server makes of it."""

from __future__ import annotations

import asyncio
import json
import random
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any, Final, NamedTuple

from benchmarks.http_load import Exchange, exchange, post
from benchmarks.peers.served import Running
from benchmarks.servers import cpu_s, peak_bytes

PLAIN: Final[Mapping[str, Any]] = {"max_new_tokens": 64}
MIXES: Final[Mapping[str, Sequence[tuple[int, Mapping[str, Any]]]]] = {
    "greedy": ((100, PLAIN),),
    "mixed": (
        (50, PLAIN),
        (20, {**PLAIN, "beam_size": 4}),
        (10, {**PLAIN, "beam_size": 2}),
        (10, {**PLAIN, "do_sample": True, "top_k": 20, "temperature": 0.8}),
        (5, {"max_new_tokens": 8}),
        (5, {"max_new_tokens": 48, "min_new_tokens": 24}),
    ),
}
"""Parameters, each with how many of a hundred requests have them."""
REQUESTS: Final = 4096
"""Then they begin anew."""
SETTLING_S: Final = 1.0
"""From the start of so many clients until what they get is counted."""


class Asked(NamedTuple):
    """A request, and by what its answers can be compared; None where chance decides them."""

    data: bytes
    key: str | None


@dataclass(frozen=True)
class Measured:
    """One contender with so many clients, in one round. ``peak_mb`` is since the servers were started."""

    contender: str
    clients: int
    sentences: int
    sentences_per_s: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    cpu_ms: float  # of all processes of the server, by sentence
    client_cpu_ms: float
    peak_mb: float  # the most memory that was resident, all processes of the server together
    same: float  # share of the answers that are the first contender's, where chance has no part in them


def sentences(data: Path) -> list[str]:
    """Of the first column, each once."""
    lines = data.read_text(encoding="utf-8").splitlines()
    return list(dict.fromkeys(line.partition("\t")[0] for line in lines))


def requests(texts: Sequence[str], mix: Sequence[tuple[int, Mapping[str, Any]]], count: int = REQUESTS) -> list[Asked]:
    """So many, with all texts before one comes again; the same for the same arguments."""
    chance = random.Random(0)
    shuffled: list[str] = []
    while len(shuffled) < count:
        shuffled += chance.sample(texts, len(texts))
    drawn = chance.choices([parameters for _, parameters in mix], [share for share, _ in mix], k=count)
    found = []
    for text, parameters in zip(shuffled, drawn, strict=False):
        fields = {"inputs": text, "parameters": parameters}
        key = None if parameters.get("do_sample") else json.dumps(fields)
        found.append(Asked(post("/v1/generate", fields), key))
    return found


class FirstAnswers:
    """What was answered first to each request; the others are compared with it."""

    def __init__(self) -> None:
        self._texts: dict[str, str] = {}

    def same(self, asked: Sequence[Asked], exchanges: Sequence[Exchange]) -> float:
        """Share of these that say what was answered first; 1 where none can be compared."""
        found = []
        for each in exchanges:
            key = asked[each.index % len(asked)].key
            if key is not None:
                text = json.loads(each.answer)["outputs"][0]["generated_text"]
                found.append(self._texts.setdefault(key, text) == text)
        return statistics.mean(found) if found else 1.0


class _Clocks(NamedTuple):
    wall: float
    servers: float
    clients: float

    @classmethod
    def read(cls, running: Running) -> _Clocks:
        return cls(time.perf_counter(), sum(map(cpu_s, running.pids)), time.process_time())


async def warm_up(running: Running, asked: Sequence[Asked], clients: int) -> None:
    """Answer all of it once."""
    await exchange(running.port, (each.data for each in asked), clients)


async def measure(
    contender: str, running: Running, asked: Sequence[Asked], clients: int, seconds: float, first: FirstAnswers
) -> Measured:
    """Keep so many clients busy for so long; what began before or ended after does not count."""
    end = time.perf_counter() + SETTLING_S + seconds

    def until_the_end() -> Iterator[bytes]:
        for each in cycle(asked):
            if time.perf_counter() > end:
                return
            yield each.data

    asking = asyncio.create_task(exchange(running.port, until_the_end(), clients))
    await asyncio.sleep(SETTLING_S)
    begun = _Clocks.read(running)
    await asyncio.sleep(end - begun.wall)
    ended = _Clocks.read(running)
    counted = [each for each in await asking if begun.wall <= each.answered < ended.wall]
    if not counted:
        raise SystemExit(f"{contender} answered nothing in {seconds} s")
    p50, p95, p99 = percentiles([each.answered - each.sent for each in counted])
    wall, servers, own = (1e3 * (after - before) / len(counted) for before, after in zip(begun, ended, strict=True))
    return Measured(
        contender,
        clients,
        sentences=len(counted),
        sentences_per_s=1e3 / wall,
        p50_ms=1e3 * p50,
        p95_ms=1e3 * p95,
        p99_ms=1e3 * p99,
        cpu_ms=servers,
        client_cpu_ms=own,
        peak_mb=sum(map(peak_bytes, running.pids)) / 1e6,
        same=first.same(asked, counted),
    )


def percentiles(values: Sequence[float]) -> tuple[float, float, float]:
    """The smallest value that at least 50, 95 and 99 % are no larger than (nearest rank)."""
    ordered = sorted(values)
    p50, p95, p99 = (ordered[-(-len(ordered) * percent // 100) - 1] for percent in (50, 95, 99))
    return p50, p95, p99
