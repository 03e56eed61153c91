"""The pure part of batching: jobs, the bounded queue of their rows, the choice of a batch. Time is an argument.

A batch starts from the oldest row, so that no row starves, and takes rows of the same group that are of similar cost,
because every row of a batch pays for its longest.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from service.batching.rows import Row, TimedResult
from service.errors import DeadlineExceeded, ServiceError

SIMILAR_SHARE: Final = 0.5
"""Rows whose cost differs from the oldest row's by at most this share of it may run with it ..."""
SIMILAR_POSITIONS: Final = 32
"""... or by so many positions for each beam: padding a short row costs less than another run."""


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


@dataclass(frozen=True, slots=True, eq=False)
class Entry:
    """A row in the queue; ``sequence`` is its age, ``alone`` that it must not share a batch."""

    sequence: int
    job: Job
    index: int
    row: Row
    cost: int
    enqueued_at: float
    alone: bool = False

    @property
    def group(self) -> Hashable:
        """Entries of one batch agree in it."""
        return (self.row.group, self.sequence) if self.alone else self.row.group


class RowQueue:
    """A bounded queue of rows."""

    def __init__(self, capacity: int, max_batch_rows: int, max_batch_tokens: int) -> None:
        self._capacity = capacity
        self._max_batch_rows = max_batch_rows
        self._max_batch_tokens = max_batch_tokens
        self._groups: dict[Hashable, dict[int, Entry]] = {}  # by sequence
        self._jobs: dict[Job, dict[int, Entry]] = {}  # the same entries, by sequence
        self._length = 0
        self._sequences = itertools.count()

    def __len__(self) -> int:
        """Rows that wait."""
        return self._length

    def offer(self, job: Job, now: float) -> bool:
        """Take all rows of the job, or none (False) if there is no room for all."""
        if self._length + len(job.rows) > self._capacity:
            return False
        for index, row in enumerate(job.rows):
            self._put(Entry(next(self._sequences), job, index, row, row.cost, now))
        return True

    def put_back_alone(self, entries: Sequence[Entry]) -> None:
        """Rows that were taken and must run again, each by itself. They keep their age, and their admission."""
        for entry in entries:
            if not entry.job.closed:
                self._put(replace(entry, alone=True))

    def discard(self, job: Job) -> None:
        """Free the places of the job's waiting rows."""
        for entry in list(self._jobs.get(job, {}).values()):
            self._remove(entry)

    def next_batch(self, now: float, free_slots: int = 1) -> list[Entry]:
        """Take the rows that run next; empty if none waits.

        Free slots share what waits. Jobs whose deadline has passed are failed and dropped on the way.
        """
        while self._length:
            oldest = min((next(iter(group.values())) for group in self._groups.values()), key=_sequence)
            if not self._drop_if_late(oldest, now):
                batch = self._choose(oldest, now, -(-self._length // free_slots))
                for entry in batch:
                    self._remove(entry)
                return batch
        return []

    def _choose(self, oldest: Entry, now: float, share: int) -> list[Entry]:
        """The oldest row and those of its group that are nearest to it in cost, within rows and padded tokens."""
        spread = max(SIMILAR_SHARE * oldest.cost, SIMILAR_POSITIONS * oldest.row.width)
        similar = [
            entry
            for entry in self._groups[oldest.group].values()
            if entry is not oldest and abs(entry.cost - oldest.cost) <= spread
        ]
        similar.sort(key=lambda entry: abs(entry.cost - oldest.cost))  # stable: of two as near the older first
        batch, widest = [oldest], oldest.cost
        for entry in similar:
            if len(batch) >= min(self._max_batch_rows, share):
                break
            width = max(widest, entry.cost)
            if width * (len(batch) + 1) <= self._max_batch_tokens and not self._drop_if_late(entry, now):
                batch.append(entry)
                widest = width
        return batch

    def _drop_if_late(self, entry: Entry, now: float) -> bool:
        if not entry.job.closed and entry.job.deadline > now:
            return False
        entry.job.fail(deadline_exceeded())
        self.discard(entry.job)
        return True

    def _put(self, entry: Entry) -> None:
        self._groups.setdefault(entry.group, {})[entry.sequence] = entry
        self._jobs.setdefault(entry.job, {})[entry.sequence] = entry
        self._length += 1

    def _remove(self, entry: Entry) -> None:
        group, job = self._groups[entry.group], self._jobs[entry.job]
        del group[entry.sequence], job[entry.sequence]
        if not group:
            del self._groups[entry.group]
        if not job:
            del self._jobs[entry.job]
        self._length -= 1


def deadline_exceeded() -> DeadlineExceeded:
    """The error of a job whose deadline has passed."""
    return DeadlineExceeded("no answer within the request's time: allow more of it, or send fewer or shorter texts")


def _sequence(entry: Entry) -> int:
    return entry.sequence
