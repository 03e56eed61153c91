"""What a test makes go wrong in the test model server, and what it is told of the calls; needs no TensorFlow."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

import grpc

CONTROL_SERVICE = "malgil.test.Control"


@dataclass(frozen=True)
class Fault:
    """What happens to the calls that match; ``delay_s`` comes before the rest, at most one of which is set.

    Empty and zero match everything. ``version`` and ``signature`` are compared with what a request says.
    """

    methods: tuple[str, ...] = ("Predict",)
    model: str = ""
    version: int = 0
    signature: str = ""
    times: int = 0  # how many calls it happens to; 0: to all
    delay_s: float = 0.0
    hang: bool = False  # no answer, until the client has given up
    drop: bool = False  # as if the server had died: UNAVAILABLE, Stream removed (Socket closed)
    garbage: bool = False  # bytes that are no message
    exhausted: bool = False  # RESOURCE_EXHAUSTED, Server Threadpool Exhausted
    wrong: bool = False  # every float of the answer is off by one


@dataclass(frozen=True)
class Call:
    """A call that the server began to answer; of a request without a version, the version is 0."""

    method: str
    model: str
    version: int
    signature: str


class NeverAnswered(Exception):
    """The call ends with its deadline and not before."""


class StatusError(Exception):
    """A call that ends with a status other than OK."""

    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


def exhausted() -> StatusError:
    return StatusError(grpc.StatusCode.RESOURCE_EXHAUSTED, "Server Threadpool Exhausted")


def happen(fault: Fault) -> None:
    """What comes before an answer, or in place of it."""
    time.sleep(fault.delay_s)
    if fault.hang:
        raise NeverAnswered
    if fault.drop:
        raise StatusError(grpc.StatusCode.UNAVAILABLE, "Stream removed (Socket closed)")
    if fault.exhausted:
        raise exhausted()


class Control:
    """The faults that are set, and the calls that were begun; the handlers are those of ``CONTROL_SERVICE``."""

    def __init__(self) -> None:
        self._faults: list[Fault] = []
        self._calls: list[Call] = []
        self._running = self._most_at_once = 0
        self._lock = threading.Lock()
        self.handlers = {
            "SetFaults": self._set_faults,
            "TakeCalls": self._take_calls,
            "TakeMostAtOnce": self._take_most_at_once,
        }

    @contextmanager
    def running(self, method: str, spec: Any) -> Iterator[Fault]:
        """Note a call with its ModelSpec, and give the fault that is to happen to it."""
        call = Call(method, spec.name, spec.version.value, spec.signature_name)
        with self._lock:
            self._calls.append(call)
            self._running += 1
            self._most_at_once = max(self._most_at_once, self._running)
            fault = self._fault(call)
        try:
            yield fault
        finally:
            with self._lock:
                self._running -= 1

    def _fault(self, call: Call) -> Fault:
        for index, fault in enumerate(self._faults):
            if _matches(fault, call):
                if fault.times == 1:
                    del self._faults[index]
                elif fault.times:
                    self._faults[index] = replace(fault, times=fault.times - 1)
                return fault
        return Fault()

    def _set_faults(self, data: bytes, context: grpc.ServicerContext) -> bytes:
        with self._lock:
            self._faults = [Fault(**fault) for fault in json.loads(data)]
        return b""

    def _take_calls(self, data: bytes, context: grpc.ServicerContext) -> bytes:
        with self._lock:
            calls, self._calls = self._calls, []
        return json.dumps([asdict(call) for call in calls]).encode()

    def _take_most_at_once(self, data: bytes, context: grpc.ServicerContext) -> bytes:
        with self._lock:
            most, self._most_at_once = self._most_at_once, self._running
        return json.dumps(most).encode()


def _matches(fault: Fault, call: Call) -> bool:
    return (
        call.method in fault.methods
        and fault.model in ("", call.model)
        and fault.version in (0, call.version)
        and fault.signature in ("", call.signature)
    )
