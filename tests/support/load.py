"""Clients that ask a server again and again while a test does something to it."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx


@dataclass(frozen=True)
class Exchange:
    """A request and what came back; times of ``time.monotonic``."""

    body: Mapping[str, Any]
    status: int  # 0: no answer at all
    answer: Mapping[str, Any]
    headers: Mapping[str, str]
    began: float
    ended: float


class Load:
    """``clients`` threads that send ``bodies`` in turn to ``/v1/generate`` for as long as the block is entered.

    Each request has ``deadline_s``.
    """

    def __init__(
        self, address: str, bodies: Sequence[Mapping[str, Any]], clients: int = 16, deadline_s: float = 20.0
    ) -> None:
        self.exchanges: list[Exchange] = []
        self._address = address
        self._bodies = bodies
        self._deadline_s = deadline_s
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(first,)) for first in range(clients)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, first: int) -> None:
        headers = {"x-request-timeout-ms": str(round(self._deadline_s * 1000))}
        with httpx.Client(base_url=self._address, timeout=self._deadline_s + 40.0, headers=headers) as client:
            for turn in itertools.count(first):
                if self._stop.is_set():
                    return
                body = self._bodies[turn % len(self._bodies)]
                began = time.monotonic()
                try:
                    response = client.post("/v1/generate", json=body)
                    found = response.status_code, response.json(), response.headers
                except httpx.HTTPError as error:
                    found = 0, {"error": repr(error)}, {}
                self.exchanges.append(Exchange(body, *found, began, time.monotonic()))
                if found[0] != 200:
                    time.sleep(0.05)


def wait_until(holds: Callable[[], bool], what: str, timeout_s: float = 120.0) -> float:
    """The time at which it was first seen to hold."""
    end = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < end, f"in {timeout_s} s it did not come about that {what}"
        time.sleep(0.05)
    return time.monotonic()
