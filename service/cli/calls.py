"""Many inputs as calls of some, several at the same time, and their answers in order."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, Final, Generic, TypeVar

from service.errors import InvalidRequest

Row = TypeVar("Row")
Answer = TypeVar("Answer")

CALL_BYTES: Final = 1 << 18
"""Most bytes of lines in a call, unless one line has more: a server takes 1 MiB by default."""


@dataclass(frozen=True, slots=True)
class Call(Generic[Row]):
    """Consecutive lines that are asked about together."""

    lines: tuple[str, ...]
    rows: tuple[Row | None, ...]
    """What they say; None: the line is empty, and nothing is asked."""
    place: int
    """Of the first line among all, counted from 1."""
    asked_before: int
    """Rows of all earlier calls that were not empty."""

    @property
    def asked(self) -> list[tuple[int, Row]]:
        """The rows that are not empty, each with the place of its line."""
        return [(place, row) for place, row in enumerate(self.rows, self.place) if row is not None]


def cut(
    lines: Iterable[str], parse: Callable[[int, str], Row | None], size: int, place: int = 1, asked_before: int = 0
) -> Iterator[Call[Row]]:
    """Calls of at most ``size`` lines; ``parse`` makes the row of a place and its line.

    An InvalidRequest of either comes after the call with the lines before it.
    """
    taken: list[tuple[str, Row | None]] = []
    taken_bytes = 0

    def call() -> Call[Row]:
        nonlocal place, asked_before, taken_bytes
        made = Call(tuple(line for line, _ in taken), tuple(row for _, row in taken), place, asked_before)
        place, asked_before, taken_bytes = place + len(taken), asked_before + len(made.asked), 0
        taken.clear()
        return made

    try:
        for line in lines:
            line_bytes = len(line.encode())
            if taken and taken_bytes + line_bytes > CALL_BYTES:
                yield call()
            taken.append((line, parse(place + len(taken), line)))
            taken_bytes += line_bytes
            if len(taken) == size:
                yield call()
    except InvalidRequest:
        if taken:
            yield call()
        raise
    if taken:
        yield call()


def in_order(
    calls: Iterable[Call[Row]], answer: Callable[[Call[Row]], Answer], parallel: int
) -> Generator[tuple[Call[Row], Answer], None, None]:
    """Each call with its answer, in the order of ``calls``, as soon as all before it are there.

    At most ``parallel`` calls are being answered, and at most twice as many are held, answered or not. An error of
    ``calls`` or of ``answer`` comes in its place, after what was answered before it. Threads are daemons: they keep
    nobody waiting who wants to leave.
    """
    started: SimpleQueue[tuple[Call[Row] | None, Future[Answer]]] = SimpleQueue()
    held, running = threading.Semaphore(2 * parallel), threading.Semaphore(parallel)
    stopped = threading.Event()

    def run(call: Call[Row], future: Future[Answer]) -> None:
        _settle(future, lambda: answer(call))
        running.release()

    def read() -> None:
        end: Future[Answer] = Future()
        _settle(end, start_all)
        started.put((None, end))

    def start_all() -> Any:
        held.acquire()  # before the call is read
        for call in calls:
            future: Future[Answer] = Future()
            started.put((call, future))
            running.acquire()
            if stopped.is_set():
                return
            threading.Thread(target=run, args=(call, future), daemon=True).start()
            held.acquire()

    threading.Thread(target=read, daemon=True).start()
    try:
        while True:
            call, future = started.get()
            result = future.result()
            if call is None:
                return
            yield call, result
            held.release()
    finally:
        stopped.set()
        held.release()
        running.release()


def _settle(future: Future[Answer], work: Callable[[], Answer]) -> None:
    try:
        future.set_result(work())
    except BaseException as error:  # noqa: BLE001  raised where the result is asked for
        future.set_exception(error)
