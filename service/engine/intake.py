"""What is accepted: a request is counted in until it is answered, and has its time; who stops takes none."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import NamedTuple

from prometheus_client import Histogram

from service.errors import Draining, outcome
from service.settings import Settings
from service.telemetry import Family


class Call(NamedTuple):
    """One accepted request; times are on the loop's clock. The id is for the logs."""

    request_id: str
    started: float
    deadline: float


class Intake:
    """Counts the requests of one engine; belongs to one event loop."""

    def __init__(self, settings: Settings) -> None:
        self._default_s = settings.default_timeout_ms / 1000
        self._longest_s = settings.max_timeout_ms / 1000
        self.active = 0
        self.idle = asyncio.Event()
        self.draining = False  # no more are taken

    def accepted(
        self,
        request_id: str = "",
        timeout_s: float | None = None,
        model: str = "",
        latency: Family[Histogram] | None = None,
    ) -> Accepted:
        """A request from now until it is answered; entering it raises Draining where no more are taken.

        Args:
            timeout_s: None: the server's default; more than its maximum: the maximum.
            latency: observes, by model and outcome, how long it took, whatever becomes of it.
        """
        started = asyncio.get_running_loop().time()
        deadline = started + min(self._default_s if timeout_s is None else timeout_s, self._longest_s)
        return Accepted(self, Call(request_id, started, deadline), model, latency)

    async def drain(self, timeout_s: float) -> bool:
        """Wait for what was accepted; whether all of it has been answered within ``timeout_s``."""
        if self.active:
            try:
                await asyncio.wait_for(self.idle.wait(), timeout_s)
            except asyncio.TimeoutError:
                return False
        return True


class Accepted:
    """The context of one request; a generator for each would take three times as long."""

    __slots__ = ("_call", "_intake", "_latency", "_model")

    def __init__(self, intake: Intake, call: Call, model: str, latency: Family[Histogram] | None) -> None:
        self._intake = intake
        self._call = call
        self._model = model
        self._latency = latency

    def __enter__(self) -> Call:
        if self._intake.draining:
            error = Draining("the server is stopping: send the request to another one, or again later")
            self._observe(error)
            raise error
        self._intake.active += 1
        return self._call

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._observe(error)
        intake = self._intake
        intake.active -= 1
        if intake.draining and not intake.active:
            intake.idle.set()

    def _observe(self, error: BaseException | None) -> None:
        if self._latency is not None:
            took_s = asyncio.get_running_loop().time() - self._call.started
            self._latency.labels(self._model, outcome(error)).observe(took_s)
