"""Thousands of calls of the batcher on a virtual clock, with the scripted backend behind it."""

from __future__ import annotations

import asyncio
import random
from collections import Counter

import pytest

from service.backend import Arrays
from service.backends.scripted import ScriptedBackend
from service.batching import Batcher
from service.errors import BackendFailed, DeadlineExceeded, Draining, Overloaded, ServiceError
from service.settings import Settings
from service.telemetry import Telemetry
from tests.support.rows import make_row
from tests.support.virtual_loop import run_virtually

POISON = 290
CALLS = 1500


@pytest.mark.parametrize(("seed", "calls_per_s"), [(1, 50.0), (2, 400.0)])
def test_every_call_is_answered_once_in_order_and_by_its_deadline(seed: int, calls_per_s: float) -> None:
    chance = random.Random(seed)
    running, most_running = 0, 0

    class Slow(ScriptedBackend):
        """A call takes as long as its longest source."""

        async def predict(
            self, name: str, version: int, signature: str, inputs: Arrays, timeout_s: float | None = None
        ):
            nonlocal running, most_running
            running += 1
            most_running = max(most_running, running)
            try:
                await asyncio.sleep(0.02 + 0.001 * inputs["source_lengths"].max().item())
                return await super().predict(name, version, signature, inputs, timeout_s)
            finally:
                running -= 1

    def interrupt(inputs: Arrays) -> ServiceError | None:
        return BackendFailed("a row that the graph cannot take") if (inputs["source_ids"] == POISON).any() else None

    async def call(batcher: Batcher, at: float) -> str:
        loop = asyncio.get_running_loop()
        await asyncio.sleep(at)
        model = chance.choice("ab")
        rows = [make_row(chance.randint(2, 30), model=model) for _ in range(chance.choice((1, 1, 1, 5)))]
        poisoned = chance.random() < 0.02
        if poisoned:
            rows.append(make_row(3, first_id=POISON, model=model))
        timeout_s = chance.choice((0.05, 1.0, 5.0))
        task = asyncio.create_task(batcher.run(rows, loop.time() + timeout_s, "test"))
        if chance.random() < 0.1:
            loop.call_later(chance.random() * 0.1, task.cancel)
        try:
            results = await task
        except asyncio.CancelledError:
            return "hung up"
        except Overloaded:
            assert loop.time() == at, "refused at once"
            return "refused"
        except DeadlineExceeded:
            return "late"
        except BackendFailed:
            return "failed" if poisoned else "failed for no reason"
        finally:
            assert loop.time() <= at + timeout_s + 1e-9
        assert not poisoned
        for row, result in zip(rows, results, strict=True):
            assert result.row.ids[0][: result.row.lengths[0]] == row.source_ids
        return "answered"

    async def main() -> Counter[str]:
        backend = Slow({"a": (1,), "b": (1,)}, slots=2, interrupt=interrupt)
        await backend.start()
        batcher = Batcher(backend, Settings(queue_rows=200, max_inputs=10), Telemetry())
        at, calls = 0.0, []
        for _ in range(CALLS):
            at += chance.expovariate(calls_per_s)
            calls.append(call(batcher, at))
        outcomes = Counter(await asyncio.gather(*calls))
        assert len(batcher._scheduler) == 0
        assert not batcher._jobs
        batcher.stop(Draining("the test is over"))
        await batcher.close()
        return outcomes

    outcomes = run_virtually(main())
    assert outcomes.total() == CALLS
    assert most_running == 2, "as many as there are slots"
    assert outcomes["answered"] > CALLS / 4
    assert outcomes["hung up"] > 0
    assert outcomes["failed"] > 0
    assert outcomes["failed for no reason"] == 0
    assert (outcomes["refused"] > CALLS / 3) == (calls_per_s > 100)
