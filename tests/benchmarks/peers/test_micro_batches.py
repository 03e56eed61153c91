from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Hashable, Sequence

import pytest

from benchmarks.peers.micro_batches import MicroBatcher


class Engine:
    """Doubles numbers, in batches that it remembers, once it is let."""

    def __init__(self) -> None:
        self.batches: list[tuple[Hashable, list[int]]] = []
        self.may_run = threading.Semaphore(0)

    def __call__(self, key: Hashable, items: Sequence[int]) -> list[int]:
        self.batches.append((key, list(items)))
        assert self.may_run.acquire(timeout=30.0)
        if 13 in items:
            raise ValueError("13")
        return [2 * item for item in items]


async def submit(batcher: MicroBatcher[int, int], key: str, *items: int) -> list[int]:
    return await asyncio.gather(*(batcher.submit(key, item, tokens=1) for item in items))


async def until(engine: Engine, batches: int) -> None:
    end = time.monotonic() + 30.0
    while len(engine.batches) < batches:
        assert time.monotonic() < end
        await asyncio.sleep(0.001)


def test_what_waits_for_a_worker_runs_together_by_key() -> None:
    engine = Engine()

    async def drive() -> list[list[int]]:
        batcher = MicroBatcher(engine, workers=1, max_tokens=3, window_s=0.0)
        first = asyncio.create_task(submit(batcher, "a", 1))
        await until(engine, batches=1)
        others = [asyncio.create_task(submit(batcher, key, *items)) for key, items in (("b", [2, 3]), ("a", [4] * 4))]
        await asyncio.sleep(0)
        for _ in range(4):
            engine.may_run.release()
        return [await first, *[await other for other in others]]

    assert asyncio.run(drive()) == [[2], [4, 6], [8] * 4]
    assert engine.batches == [("a", [1]), ("b", [2, 3]), ("a", [4] * 3), ("a", [4])]


def test_free_workers_share_what_waits() -> None:
    engine = Engine()

    async def drive() -> list[int]:
        batcher = MicroBatcher(engine, workers=2, max_tokens=100, window_s=0.0)
        submitted = asyncio.create_task(submit(batcher, "a", 1, 2, 3))
        await until(engine, batches=2)
        engine.may_run.release(2)
        return await submitted

    assert asyncio.run(drive()) == [2, 4, 6]
    assert sorted(batch for _, batch in engine.batches) == [[1, 2], [3]]


def test_a_free_worker_waits_as_long_as_the_window() -> None:
    engine = Engine()
    engine.may_run.release()

    async def drive() -> tuple[list[int], float]:
        batcher = MicroBatcher(engine, workers=1, max_tokens=100, window_s=0.2)
        started = time.monotonic()
        first = asyncio.create_task(submit(batcher, "a", 1))
        await asyncio.sleep(0.05)
        return [*await submit(batcher, "a", 2), *await first], time.monotonic() - started

    results, seconds = asyncio.run(drive())
    assert results == [4, 2]
    assert engine.batches == [("a", [1, 2])]
    assert seconds >= 0.2


def test_padding_counts_as_tokens() -> None:
    engine = Engine()

    async def drive() -> None:
        batcher = MicroBatcher(engine, workers=1, max_tokens=6, window_s=3600.0)
        engine.may_run.release()
        submitted = []
        for item, tokens in ((1, 1), (2, 3), (3, 3)):
            submitted.append(asyncio.create_task(batcher.submit("a", item, tokens)))
            await asyncio.sleep(0.01)
        assert await submitted[0] == 2
        submitted[2].cancel()

    asyncio.run(drive())
    assert engine.batches == [("a", [1, 2])]  # full, as three would take nine tokens


def test_an_error_answers_its_batch_alone() -> None:
    engine = Engine()

    async def drive() -> list[int]:
        batcher = MicroBatcher(engine, workers=1, max_tokens=100, window_s=0.0)
        engine.may_run.release(2)
        with pytest.raises(ValueError, match="13"):
            await submit(batcher, "a", 13)
        return await submit(batcher, "a", 1)

    assert asyncio.run(drive()) == [2]
