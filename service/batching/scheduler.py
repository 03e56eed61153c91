"""The pure part of batching: who is admitted, what runs together, and when. Time is an argument, nothing is random.

*Who is next.* Of several models the one that has had the fewest slot-seconds (start-time fair queueing, Goyal et al.
1996), so that a flood for one delays another no more than if each had its part of the slots. Of its rows the one that
is due first. A row is due when ``URGENCY`` of its time has passed: the earlier of two deadlines goes first, but what
comes after that overtakes it no more. It is joined by rows of its group and of similar cost, because every row of a
batch waits for its longest; and by rows of other beam sizes, which are of similar cost among themselves, where no slot
is free for them (``drafts``).

*Who is admitted.* A job is refused at once if, with it, some row would not be answered by its deadline: one of its own,
or one admitted before that would now run after it (the test of earliest deadline first, on predicted times). What finds
the server idle is tried in any case, as the prediction may be wrong; but then it is due last, and nobody is refused for
it: it would be in everybody's way until its deadline, and in vain.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from service.batching.costs import Costs
from service.batching.drafts import Draft, fill, join
from service.batching.jobs import Batch, Entry, Job, Start, deadline_exceeded
from service.batching.rows import TimedResult
from service.batching.waiting import Waiting, cost_class
from service.errors import Overloaded

URGENCY: Final = 1 / 8
"""Part of its time after which a row is due. More of it favours tight deadlines, and lets the others wait longer."""
PATIENCE_S: Final = 10.0
"""No row is due later than this after it came."""
MARGIN: Final = 0.1
"""Predicted waits are taken to be longer by this part: what is admitted should be answered."""
RETRY_AFTER_BOUNDS_S: Final = (1, 60)


class Scheduler:
    """A bounded queue of rows, and the batches that run."""

    def __init__(self, capacity: int, max_batch_rows: int | None = None, max_batch_tokens: int | None = None) -> None:
        """``capacity``: rows that may wait; the bounds of every batch as of ``Costs``."""
        self.costs = Costs(max_batch_rows, max_batch_tokens)
        self._capacity = capacity
        self._models: dict[str, Waiting] = {}
        self._jobs: dict[Job, dict[Entry, None]] = {}  # the same entries; a dict keeps their order
        self._length = 0
        self._running: set[Batch] = set()
        self._clock = 0.0  # service of the model that was chosen last, before it was
        self._sequences = itertools.count()

    def __len__(self) -> int:
        """Rows that wait."""
        return self._length

    def offer(self, job: Job, now: float, slots: int) -> None:
        """Take all rows of the job; they are of one model.

        Raises:
            Overloaded: there is no room for all of them, or not the time. None was taken.
        """
        entries = [self._entry(job, index, now) for index in range(len(job.rows))]
        if self._length + len(entries) > self._capacity:
            wait_s = self._wait_s(sum(waiting.backlog.seconds for waiting in self._models.values()), now, slots)
            raise Overloaded(f"too many requests wait already: try again in {wait_s} s", retry_after_s=wait_s)
        idle = not self._length and len(self._running) < slots
        for entry in entries:
            self._put(entry)
        if not self._in_time(entries[0], now, slots):
            for entry in entries:
                self._remove(entry)
            if idle:
                for entry in entries:
                    self._put(replace(entry, due=job.deadline, best_effort=True))
                return
            wait_s = self._wait_s(self._work_before(entries[0]), now, slots)
            raise Overloaded(
                "too much work waits already to answer within the request's time: "
                f"allow more of it, or try again in {wait_s} s",
                retry_after_s=wait_s,
            )

    def put_back_alone(self, batch: Batch) -> None:
        """Rows that were taken and must run again, each by itself. They keep their urgency, and their admission."""
        for entry in batch.entries:
            if not entry.job.closed:
                self._put(replace(entry, group=(entry.group, entry.sequence), alone=True))

    def discard(self, job: Job) -> None:
        """Free the places of the job's waiting rows."""
        for entry in list(self._jobs.get(job, ())):
            self._remove(entry)

    def next_batch(self, now: float, free_slots: int = 1) -> Batch | None:
        """Take the rows that run next; None if none waits. ``ended`` must follow.

        Free slots share what waits. Jobs whose deadline has passed are failed and dropped on the way.
        """
        while self._length:
            waiting = min(filter(None, self._models.values()), key=_service)
            first = waiting.most_urgent()
            if not self._drop_if_late(first, now):
                draft = self._draft(first, waiting, now, free_slots)
                if free_slots == 1:
                    kin = [other for other in list(waiting.kin(first)) if not self._drop_if_late(other, now)]
                    draft = join(draft, [self._draft(other, waiting, now) for other in kin], self.costs)
                for entry in draft.entries:
                    self._remove(entry)
                many_waited = self._length >= self.costs.bounds(draft.group).rows
                batch = Batch(draft.entries, draft.group, draft.shape, draft.seconds, now, many_waited)
                self._clock = waiting.service
                waiting.service += batch.seconds
                self._running.add(batch)
                return batch
        return None

    def ended(self, batch: Batch, now: float, results: Sequence[TimedResult] | None) -> None:
        """A batch no longer runs; without ``results`` it failed or was given up, and took at least so long."""
        self._running.remove(batch)
        model, seconds = batch.entries[0].row.model, now - batch.started_at
        self._models[model].service += seconds - batch.seconds
        if seconds > (batch.seconds if results is None else 0.0):
            costs = [entry.cost for entry in batch.entries]
            is_joined = any(entry.row.group != batch.group for entry in batch.entries)  # it is like no full batch
            self.costs.learn(batch.group, costs, batch.shape, seconds, batch.many_waited and not is_joined)
        if results is not None:
            self.costs.learn_targets([entry.row for entry in batch.entries], results)

    def _draft(self, first: Entry, waiting: Waiting, now: float, free_slots: int = 1) -> Draft:
        """``first`` and rows like it; those that are too late are dropped on the way."""
        most = min(self.costs.bounds(first.row.group).rows, -(-self._length // free_slots))
        draft, late = fill(first, waiting.like(first), self.costs, now, most)
        for entry in late:
            self._drop_if_late(entry, now)
        return draft

    def _in_time(self, entry: Entry, now: float, slots: int) -> bool:
        """Whether the rows of its job, which wait already, leave everybody the time to be answered."""
        if not self.costs.trusted(entry.row.group):
            return True
        others = self._other_backlogs(entry.row.model)
        running = self._running_seconds(now)
        for seconds, start in self._models[entry.row.model].backlog.after(entry.due):
            work = seconds + sum(min(other, seconds) for other in others)
            wait = (1.0 + MARGIN) * (running + work) / slots
            if now + wait + min(start.filling, seconds) > start.latest:
                return False
        return True

    def _work_before(self, entry: Entry) -> float:
        """Slot-seconds until it would run: those due before, and of each other model as many at most."""
        own = self._models[entry.row.model].backlog.seconds_before(entry.due)
        return own + sum(min(other, own) for other in self._other_backlogs(entry.row.model))

    def _other_backlogs(self, model: str) -> list[float]:
        return [waiting.backlog.seconds for name, waiting in self._models.items() if waiting and name != model]

    def _running_seconds(self, now: float) -> float:
        return sum(max(0.0, batch.started_at + batch.seconds - now) for batch in self._running)

    def _wait_s(self, work: float, now: float, slots: int) -> int:
        low, high = RETRY_AFTER_BOUNDS_S
        return min(high, max(low, math.ceil((self._running_seconds(now) + work) / slots)))

    def _entry(self, job: Job, index: int, now: float) -> Entry:
        row = job.rows[index]
        group, cost = row.group, self.costs.row(row)
        seconds = self.costs.row_seconds(group, cost)
        return Entry(
            due=now + min(PATIENCE_S, URGENCY * (job.deadline - now)),
            sequence=next(self._sequences),
            job=job,
            index=index,
            row=row,
            group=group,
            cost=cost,
            lane=cost_class(cost),
            share=seconds.share,
            start=Start(job.deadline - seconds.alone, seconds.full - seconds.alone),
            enqueued_at=now,
        )

    def _drop_if_late(self, entry: Entry, now: float) -> bool:
        if not entry.job.closed and entry.job.deadline > now:
            return False
        entry.job.fail(deadline_exceeded())
        self.discard(entry.job)
        return True

    def _put(self, entry: Entry) -> None:
        waiting = self._models.setdefault(entry.row.model, Waiting())
        if not waiting:
            waiting.service = max(waiting.service, self._clock)  # who had no work has no claim to what others had
        waiting.add(entry)
        self._jobs.setdefault(entry.job, {})[entry] = None
        self._length += 1

    def _remove(self, entry: Entry) -> None:
        self._models[entry.row.model].remove(entry)
        entries = self._jobs[entry.job]
        del entries[entry]
        if not entries:
            del self._jobs[entry.job]
        self._length -= 1


def _service(waiting: Waiting) -> float:
    return waiting.service
