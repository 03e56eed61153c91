"""Requests that wait together run together: what one writes in front of an engine that runs batches."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(slots=True)
class _Waiting(Generic[Item, Result]):
    item: Item
    tokens: int
    since: float  # on the loop's clock
    result: asyncio.Future[Result]


class MicroBatcher(Generic[Item, Result]):
    """Runs batches on threads, as many at once as there are workers; belongs to one event loop.

    A free worker takes the items that the one that has waited longest may share a batch with, oldest first. It waits
    for more of them until that one is ``window_s`` old, or the batch is full; while all workers are busy, batches grow
    anyway. Free workers share what waits.
    """

    def __init__(
        self,
        run: Callable[[Hashable, Sequence[Item]], Sequence[Result]],
        *,
        workers: int,
        max_tokens: float,
        window_s: float,
    ) -> None:
        """``run`` gets items of one key, and gives a result for each; ``max_tokens``: of a batch, padding included."""
        self._run = run
        self._free = workers
        self._pool = ThreadPoolExecutor(workers)
        self._max_tokens = max_tokens
        self._window_s = window_s
        self._queues: dict[Hashable, deque[_Waiting[Item, Result]]] = {}  # none is empty
        self._timer: asyncio.Handle | None = None
        self._serving: set[asyncio.Task[None]] = set()  # asyncio itself keeps no task

    async def submit(self, key: Hashable, item: Item, tokens: int) -> Result:
        """The item's result; items of other keys do not share its batch."""
        loop = asyncio.get_running_loop()
        waiting: _Waiting[Item, Result] = _Waiting(item, tokens, loop.time(), loop.create_future())
        self._queues.setdefault(key, deque()).append(waiting)
        if self._free:
            self._dispatch_at(None)  # what arrives in one go may share a batch
        return await waiting.result

    def _dispatch(self) -> None:
        loop = asyncio.get_running_loop()
        while self._free and self._queues:
            due = {key: self._due(key) for key in self._queues}
            key = min(due, key=due.__getitem__)
            if due[key] > loop.time():
                self._dispatch_at(due[key])
                return
            serving = loop.create_task(self._serve(key, self._take(key)))
            self._serving.add(serving)
            serving.add_done_callback(self._serving.discard)
            self._free -= 1

    def _dispatch_at(self, when: float | None) -> None:
        """Then, or at the loop's next turn; and not as it was planned before."""
        loop = asyncio.get_running_loop()
        if self._timer is not None:
            self._timer.cancel()
        self._timer = loop.call_soon(self._dispatch) if when is None else loop.call_at(when, self._dispatch)

    def _due(self, key: Hashable) -> float:
        """When the oldest of these runs at the latest, if a worker is free."""
        queue = self._queues[key]
        is_full = len(self._fitting(queue)) < len(queue)
        return queue[0].since + (0.0 if is_full else self._window_s)

    def _fitting(self, queue: Sequence[_Waiting[Item, Result]]) -> list[_Waiting[Item, Result]]:
        """The first, and those after it that there is room for."""
        batch, longest = [queue[0]], queue[0].tokens
        for waiting in list(queue)[1:]:
            longest = max(longest, waiting.tokens)
            if longest * (len(batch) + 1) > self._max_tokens:
                break
            batch.append(waiting)
        return batch

    def _take(self, key: Hashable) -> list[_Waiting[Item, Result]]:
        queue = self._queues[key]
        batch = self._fitting(queue)[: -(-len(queue) // self._free)]
        for _ in batch:
            queue.popleft()
        if not queue:
            del self._queues[key]
        return batch

    async def _serve(self, key: Hashable, batch: Sequence[_Waiting[Item, Result]]) -> None:
        items = [waiting.item for waiting in batch]
        try:
            results = await asyncio.get_running_loop().run_in_executor(self._pool, self._run, key, items)
        except Exception as error:  # noqa: BLE001  it is each request's answer
            for waiting in batch:
                if not waiting.result.done():  # else its request was cancelled
                    waiting.result.set_exception(error)
        else:
            for waiting, result in zip(batch, results, strict=True):
                if not waiting.result.done():
                    waiting.result.set_result(result)
        finally:
            self._free += 1
            self._dispatch()
