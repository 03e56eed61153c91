"""What is accepted: a request is counted in until it is answered, and has its time; who stops takes none."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from prometheus_client import Histogram

from service.errors import Draining, outcome
from service.settings import Settings


@dataclass(frozen=True, slots=True)
class Call:
    """One accepted request; times are on the loop's clock. The id is for the logs."""

    request_id: str
    started: float
    deadline: float


class Intake:
    """Counts the requests of one engine; belongs to one event loop."""

    def __init__(self, settings: Settings) -> None:
        self._default_s = settings.default_timeout_ms / 1000
        self._longest_s = settings.max_timeout_ms / 1000
        self._active = 0
        self._idle = asyncio.Event()
        self.draining = False  # no more are taken

    @contextmanager
    def accepted(self, request_id: str = "", timeout_s: float | None = None) -> Iterator[Call]:
        """A request from now until it is answered.

        Args:
            timeout_s: None: the server's default; more than its maximum: the maximum.

        Raises:
            Draining: no more are taken.
        """
        if self.draining:
            raise Draining("the server is stopping: send the request to another one, or again later")
        started = asyncio.get_running_loop().time()
        self._active += 1
        try:
            deadline = started + min(self._default_s if timeout_s is None else timeout_s, self._longest_s)
            yield Call(request_id, started, deadline)
        finally:
            self._active -= 1
            if self.draining and not self._active:
                self._idle.set()

    async def drain(self, timeout_s: float) -> bool:
        """Wait for what was accepted; whether all of it has been answered within ``timeout_s``."""
        if self._active:
            try:
                await asyncio.wait_for(self._idle.wait(), timeout_s)
            except asyncio.TimeoutError:
                return False
        return True


@contextmanager
def timed(latency: Histogram, model: str) -> Iterator[None]:
    """Observe how long a call took, whatever becomes of it."""
    loop = asyncio.get_running_loop()
    started = loop.time()
    error: BaseException | None = None
    try:
        yield
    except BaseException as caught:
        error = caught
        raise
    finally:
        latency.labels(model, outcome(error)).observe(loop.time() - started)
