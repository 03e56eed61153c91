"""What waits: jobs, which are requests, and their rows."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from service.batching.costs import BatchShape, RowCost
from service.batching.rows import Row, TimedResult
from service.errors import DeadlineExceeded, ServiceError


class Job:
    """The rows of one request: taken together, answered together, exactly once.

    It is closed by its last result, by an error, or because nobody waits for it any more; what comes later is dropped.
    ``on_close`` is called once, in all three cases.
    """

    def __init__(
        self,
        rows: Sequence[Row],
        deadline: float,
        on_close: Callable[[Job], None],
        request_id: str = "",
    ) -> None:
        self.rows = rows
        self.deadline = deadline
        self.request_id = request_id
        self.closed = False
        self.error: ServiceError | None = None
        self.results: dict[int, TimedResult] = {}  # by index into rows; complete when closed without error
        self._on_close = on_close

    def deliver(self, index: int, result: TimedResult) -> None:
        """The result of one row."""
        if self.closed:
            return
        self.results[index] = result
        if len(self.results) == len(self.rows):
            self.abandon()

    def fail(self, error: ServiceError) -> None:
        """One error answers the whole request."""
        if not self.closed:
            self.error = error
            self.abandon()

    def abandon(self) -> None:
        """Close it as it is: nothing more is wanted."""
        if not self.closed:
            self.closed = True
            self._on_close(self)


class Start(NamedTuple):
    """When a row must start, to be answered by its deadline."""

    latest: float  # if it runs alone
    filling: float  # how much longer a full batch of its like runs


@dataclass(slots=True, eq=False)  # frozen, each would take four times as long to make
class Entry:
    """A row that waits or runs."""

    due: float  # its urgency: the least runs first
    sequence: int  # its age
    job: Job
    index: int  # into the job's rows
    row: Row
    group: Hashable  # entries of one batch agree in it, or their rows in their ``kin``
    cost: RowCost
    lane: int  # entries of a batch that agree in their group are in neighbouring ones: the octave of their cost
    share: float  # slot-seconds that it takes of the batches that run while many rows wait, as predicted
    start: Start
    enqueued_at: float
    alone: bool = False  # it must not share a batch
    best_effort: bool = False  # it is taken to be late whatever is done: nobody is refused for it


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Entries that run together."""

    entries: Sequence[Entry]
    group: Hashable  # of rows, whose calls are like this one
    shape: BatchShape
    seconds: float  # predicted
    started_at: float
    many_waited: bool  # when it was taken, another full one was left waiting


def deadline_exceeded() -> DeadlineExceeded:
    """The error of a job whose deadline has passed."""
    return DeadlineExceeded("no answer within the request's time: allow more of it, or send fewer or shorter texts")
